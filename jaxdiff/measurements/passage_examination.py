"""Tests of a fitted model by times of first passage, and the walls they lead through."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.integration.passage_times import LATER
from jaxdiff.measurements.passage_curves import curves, rows
from jaxdiff.measurements.residuals import Examination, Finding
from jaxdiff.runtime.compilation import quick_jit

if TYPE_CHECKING:
    from jaxdiff.measurements.passage_times import PassageTimes

LEAST = 8  # passages that a distribution is tested by


@cache
def _predict() -> Any:
    return quick_jit(lambda predictor, equation, initial: predictor.predict(equation, initial))


def _predicted(m: PassageTimes, equation: Any) -> Any:
    """By a predictor that resolves the equation."""
    predictor: Any = m.prepare(equation, pad=False)
    while not (prediction := _predict()(predictor, equation, m.initial)).resolved:
        predictor = predictor.renewed(m, equation, prediction.checks)
    return prediction.values


def examined(m: PassageTimes, equation: Any) -> Examination:
    """Tests of how times are distributed, all and those through each wall, and of how many lead through which."""
    from scipy import special

    tests = Examination()
    if equation is None or len(m.values) < LEAST:
        return tests
    end = float(m.times.max())
    chart = m.at(*rows(end))
    course = curves(_predicted(chart, equation), end)
    late, rng = m.kinds == LATER, np.random.default_rng(0)
    left = np.interp(m.times, course.times, 1 - course.later)
    left = np.where(late, 1 - (1 - left) * rng.uniform(size=len(left)), left)  # somewhere later
    tests.add(_distributed(left, "the times"))
    gone, known = course.gone, np.isin(m.kinds, (0, 1))
    if late.any() or not known.any() or (gone[:, -1] <= 0).any():
        return tests
    counts = [int(np.sum(m.kinds == kind)) for kind in (0, 1)]
    share, total = gone[1, -1] / gone[:, -1].sum(), sum(counts)
    p = 2 * min(special.bdtr(counts[1], total, share), special.bdtrc(counts[1] - 1, total, share) if counts[1] else 1.0)
    off = counts[1] / total - share
    name = m.grid.sides[1]
    tests.add(
        Finding(
            min(float(p), 1.0),
            abs(off),
            f"{counts[1] / total:.3g} of all lead through {name}, where the model says {share:.3g}",
        )
    )
    for kind, wall in enumerate(m.grid.sides):
        times = m.times[m.kinds == kind]
        if len(times) >= LEAST:
            tests.add(
                _distributed(np.interp(times, course.times, gone[kind] / gone[kind, -1]), f"the times through {wall}")
            )
    return tests


def _distributed(u: np.ndarray, what: str) -> Finding:
    """Kolmogorov and Smirnov's test that values are uniform."""
    from scipy import special

    n, order = len(u), np.sort(u)
    steps, root = np.arange(n + 1) / n, np.sqrt(n)
    far = max(float(np.max(steps[1:] - order)), float(np.max(order - steps[:-1])))
    p = float(special.kolmogorov((root + 0.12 + 0.11 / root) * far))
    return Finding(p, far, f"{what} are not distributed as the model says, by {far:.2g} of all (Kolmogorov–Smirnov)")
