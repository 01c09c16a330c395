"""Fitted densities of passages over time, and times drawn from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxdiff.integration.passage_times import EITHER, LATER, LOWER, UPPER
from jaxdiff.runtime.compilation import bucket

if TYPE_CHECKING:
    from jaxdiff.measurements.passage_times import PassageTimes
    from jaxdiff.measurements.stacks import Redraw

POINTS = 400  # of a curve
FAR = 2.0  # times the longest one, to where times are drawn by the curves


class Curves(NamedTuple):
    """Times `(T,)` from zero on, densities through the lower and the upper wall, and the chance of what is later."""

    times: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    later: np.ndarray

    @property
    def gone(self) -> np.ndarray:
        """(2, T): the chances to have left by each wall."""
        return np.stack([_integrated(self.times, density) for density in (self.lower, self.upper)])


def rows(end: float) -> tuple[np.ndarray, np.ndarray]:
    """Times and kinds of the rows by which curves are predicted; zero itself is no time of a passage."""
    times = np.linspace(0.0, end, POINTS + 1)[1:]
    return np.tile(times, 3), np.repeat([LOWER, UPPER, LATER], POINTS)


def curves(predicted: Any, end: float) -> Curves:
    """From what is predicted for `rows`, log densities; before the first of them, none."""
    values = np.exp(np.asarray(predicted)).reshape(3, POINTS)
    at_zero = (0.0, 0.0, 1.0)
    return Curves(
        np.linspace(0.0, end, POINTS + 1), *(np.insert(one, 0, y) for one, y in zip(values, at_zero, strict=True))
    )


def fitted(m: PassageTimes, fit: Any, end: float) -> Curves:
    """Those of a fit, for one measurement."""
    return curves(fit.predict(m.at(*rows(end))), end)


def log_densities(m: PassageTimes, fit: Any) -> np.ndarray:
    """Those of a fit for all rows; in numbers of rows that several measurements share, and one program."""
    more = bucket(len(m.values)) - len(m.values)
    values = np.concatenate([m.values, m.values[[0] * more]])
    return np.asarray(fit.predict(m.at(*values.T)))[: len(m.values)]


def drawn(m: PassageTimes, fit: Any, repeats: int, rng: np.random.Generator, how: Redraw) -> np.ndarray:
    """Times and kinds `(repeats, m, 2)` drawn anew: by the inverse of the chance to have left, or from those that were seen.

    Rows that were censored are so at the same time, if nothing is drawn before it.
    """
    count = len(m.values)
    if how.kind == "residual":
        return m.values[rng.integers(count, size=(repeats, count))]
    course = fitted(m, fit, FAR * float(m.times.max()))
    later = np.minimum.accumulate(course.later)
    chance = rng.uniform(size=(repeats, count))
    times = np.interp(-chance, -later, course.times)
    last, density = later[-1], course.lower[-1] + course.upper[-1]
    if last > 0 and density > 0:  # what is left fades at one rate
        times = np.where(
            chance < last, course.times[-1] + np.log(last / np.maximum(chance, 1e-300)) * last / density, times
        )
    through = [np.interp(times, course.times, one) for one in (course.lower, course.upper)]
    share = through[1] / np.maximum(through[0] + through[1], 1e-300)
    kinds = np.where(rng.uniform(size=share.shape) < share, UPPER, LOWER)
    unknown = not np.isin(m.kinds, (LOWER, UPPER)).any()  # nobody looked through which wall
    kinds = np.where((m.kinds == EITHER) | unknown, EITHER, kinds)
    late = (m.kinds == LATER) & (times > m.times)
    return np.stack(
        [np.where(late, m.times, np.maximum(times, course.times[1] * 1e-3)), np.where(late, LATER, kinds)], axis=-1
    )


def _integrated(times: np.ndarray, density: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(np.diff(times) * (density[1:] + density[:-1]) / 2)])
