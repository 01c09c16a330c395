"""Tests of fitted rates by the jumps of paths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.schemes import FiniteVolume, semidiscrete
from jaxdiff.measurements.jumps import numbers_of
from jaxdiff.measurements.residuals import Examination, Finding
from jaxdiff.operators import dense, doubled, doublings_needed

if TYPE_CHECKING:
    from jaxdiff.measurements.trajectory import Trajectory

_STATES = 64  # of which all pairs are compared
_LENGTHS = 2048
_EXPECTED = 5.0  # of a pair, below which it is counted together with others


def examined(path: Trajectory, equation: Any) -> Examination:
    """Tests of how often each state follows each, and of how long states last where every jump was seen.

    What the fit adapts to is not subtracted from the degrees of freedom, so that they err on the side of the model.
    """
    tests = Examination("too many states, or lengths of time, are there to judge by")
    if equation is None or int(np.prod(path.grid.shape)) > _STATES:
        return tests
    rates = dense(semidiscrete(equation, path.grid, FiniteVolume())[0].operator(0.0))
    starts, stops = numbers_of(path)
    count, exit = len(rates.loss), np.asarray(rates.exit)
    if path.continuous:
        stays, moved = starts == stops, starts != stops
        tests.add(_lasting(path, starts, stays, exit))
        starts, stops = starts[moved], stops[moved]
        chances = np.asarray(rates.rates) / np.where(exit > 0, exit, 1.0)
        expected = np.bincount(starts, minlength=count) * chances
    else:
        lengths, which = np.unique(np.round(path.durations, 12), return_inverse=True)
        if len(lengths) > _LENGTHS:
            return tests
        expected, squarings = np.zeros((count, count)), int(doublings_needed(exit.max(), lengths.max()))
        for i, t in enumerate(lengths):
            moves, left = doubled(rates, jnp.asarray(t), squarings)
            expected += np.bincount(starts[which == i], minlength=count) * np.asarray(moves + jnp.diag(left))
    found = np.bincount(stops * count + starts, minlength=count**2).reshape(count, count)
    tests.add(_followed(path, found, expected))
    return tests


def _followed(path: Trajectory, found: np.ndarray, expected: np.ndarray) -> Finding | None:
    """Pearson's test of how often each state (row) follows each (column); rare ones of a column count together."""
    from scipy import special

    states: Any = path.grid
    total, degrees, worst = 0.0, 0, (0.0, "")
    name = lambda i: states.labels[i] if states.labels else ", ".join(map(str, states.counts[i]))
    for j in range(len(found)):
        often = expected[:, j] >= _EXPECTED
        cells = [(int(i), found[i, j], expected[i, j]) for i in np.flatnonzero(often)]
        rare = expected[~often, j].sum()
        if rare >= _EXPECTED:
            cells.append((-1, found[~often, j].sum(), rare))
        for i, seen, mean in cells:
            off = (seen - mean) ** 2 / mean
            total += off
            if off > worst[0]:
                to = name(i) if i >= 0 else "rare states"
                worst = off, f"{to} follows {name(j)} {seen} times, where the model says {mean:.3g}"
        degrees += max(len(cells) - 1, 0)
    if not degrees:
        return None
    share = np.abs(found - expected).sum() / found.sum() / 2
    return Finding(float(special.chdtrc(degrees, total)), float(share), f"{worst[1]} (χ² {total:.3g} of {degrees})")


def _lasting(path: Trajectory, starts: np.ndarray, stays: np.ndarray, exit: np.ndarray) -> Finding | None:
    """Kolmogorov and Smirnov's test of how long states last, over the mean; those cut off count for nothing."""
    from scipy import special

    lasted, k = [], 0
    for times in path.times:
        passed = 0.0
        for t in np.diff(times):
            passed += exit[starts[k]] * t
            if not stays[k]:
                lasted.append(passed)
                passed = 0.0
            k += 1
    n = len(lasted)
    if n < 8:
        return None
    order, steps = np.sort(-np.expm1(-np.array(lasted))), np.arange(n + 1) / n
    far = max(float(np.max(steps[1:] - order)), float(np.max(order - steps[:-1])))
    p = float(special.kolmogorov((np.sqrt(n) + 0.12 + 0.11 / np.sqrt(n)) * far))
    return Finding(p, far, f"how long states last is not exponential, by {far:.2g} of all (Kolmogorov–Smirnov)")
