"""Tests of a fitted model by the steps of paths on several axes, or with coefficients of time.

The law of a step is a mixture of Gaussians, those of the second half from nodes of the first. Given the axes before it, each axis has
then a distribution function in closed form, F, and a normal score Φ⁻¹(F): independent and standard normal where the model is right
(Rosenblatt 1952, doi:10.1214/aoms/1177729394).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxdiff.measurements.paths_predictor import dynamics_of, steps_of
from jaxdiff.measurements.residuals import Axis, Examination, Finding, Whitened, groups, neighbours
from jaxdiff.transition.closure import cholesky, moments
from jaxdiff.transition.near_walls import CLEAR, clearance

if TYPE_CHECKING:
    from jaxdiff.measurements.trajectory import Trajectory

ORDER = 5  # nodes along each axis
PARTS = 8
MOST = 20000  # steps that are looked at
TAIL = 1e-13


def scores(path: Trajectory, equation: Any) -> tuple[np.ndarray, np.ndarray]:
    """(normal scores (m, d), which of the steps (m,) they are of): those that feel no wall, and at most `MOST` of them."""
    from scipy import special

    dynamics, kinds = dynamics_of(path, equation)
    walls = np.array([(edges[0], edges[-1]) for edges in path.grid.edges], float)
    time, start, stop = steps_of(path)
    rows = np.arange(len(time))[:MOST]
    time, start, stop = time[rows], start[rows], stop[rows]
    n, d = start.shape
    with jax.enable_x64(True), np.errstate(all="ignore"):
        twice = dynamics.on_host(time[:, 0], start, np.zeros((n, d, d)))[2]
        along = np.diagonal(twice, axis1=1, axis2=2) / 2
        free = clearance(start, stop, along, time[:, 1] - time[:, 0], kinds, walls) > CLEAR / 2
        rows, time, start, stop = rows[free], time[free], start[free], stop[free]
        if not len(rows):
            return np.zeros((0, d)), rows
        middle = time.mean(1)
        halves = np.stack([time[:, 0], middle], 1), np.stack([middle, time[:, 1]], 1)
        _, mean, covariance = moments(np, dynamics, halves[0], start, PARTS)
        nodes, chances = np.polynomial.hermite_e.hermegauss(ORDER)
        z = np.array(list(itertools.product(nodes, repeat=d)))
        log_chance = np.log(np.prod(list(itertools.product(chances / chances.sum(), repeat=d)), 1))
        root = cholesky(np, covariance)
        y = mean[:, None] + np.stack([sum(a[:, None] * z[:, j] for j, a in enumerate(row)) for row in root], 2)
        each = lambda a: np.repeat(a, len(z), 0)
        mass, mean, covariance = moments(np, dynamics, each(halves[1]), y.reshape(-1, d), PARTS)
        rows_of = [[part.reshape(len(rows), -1) for part in row] for row in cholesky(np, covariance)]
        mean, weight = mean.reshape(len(rows), -1, d), log_chance + mass.reshape(len(rows), -1)
        for k, kind in enumerate(kinds[::2]):
            if kind == "periodic":
                period = walls[k, 1] - walls[k, 0]
                about = mean[:, mean.shape[1] // 2, k]
                stop[:, k] += np.round((about - stop[:, k]) / period) * period
        found: list[Any] = []
        before: list[Any] = []
        for k, row in enumerate(rows_of):
            here = mean[:, :, k] + sum(a * b for a, b in zip(row, before, strict=False))
            away = (stop[:, k, None] - here) / row[k]
            share = np.exp(weight - weight.max(1, keepdims=True))
            found.append(np.sum(share * special.ndtr(away), 1) / share.sum(1))
            weight = weight - 0.5 * away**2 - np.log(row[k])
            before.append(away)
        s = special.ndtri(np.clip(np.stack(found, 1), TAIL, 1 - TAIL))
    fine = np.isfinite(s).all(1)
    return s[fine], rows[fine]


def examined(path: Trajectory, equation: Any) -> Examination:
    """Tests of the scores of all axes: how they are distributed, what they remember, and their means along the path."""
    tests = Examination()
    if equation is None:
        return tests
    s, rows = scores(path, equation)
    if len(s) < 8:
        return tests
    which = np.concatenate([np.arange(1, len(t)) for t in path.times])[rows]
    number = np.concatenate([np.full(len(t) - 1, k) for k, t in enumerate(path.times)])[rows]
    where = [Axis.of(name, x) for name, x in zip(path.grid.names, path.starts.reshape(len(path.starts), -1)[rows].T)]
    when = Axis.of("t", np.concatenate([t[:-1] for t in path.times])[rows])
    pair = np.flatnonzero((np.diff(rows) == 1) & (np.diff(number) == 0))
    for name, one in zip(path.grid.names, s.T, strict=True):
        _along(tests, name, one, which, number, pair, [*where, when])
    for i, j in itertools.combinations(range(s.shape[1]), 2):
        both = _plain(s[:, i] * s[:, j])
        names = path.grid.names[i], path.grid.names[j]
        text = lambda _, mean, away, names=names: (
            f"steps along {names[0]} and {names[1]} go together, correlation {mean:+.2g}, {away}"
        )
        tests.add(groups(both, np.zeros(len(s), int), text))
    return tests


def _plain(r: np.ndarray) -> Whitened:
    n = len(r)
    return Whitened(r, np.zeros((n, 0)), np.ones(n), np.zeros(n), np.full(n, -1))


def _along(
    tests: Examination, name: str, s: np.ndarray, which: Any, number: Any, pair: np.ndarray, places: list[Axis]
) -> None:
    """Tests of the scores (n,) of one axis."""
    from scipy import special

    n, u = len(s), special.ndtr(s)
    root, order, steps = np.sqrt(n), np.sort(u), np.arange(n + 1) / n
    far = max(float(np.max(steps[1:] - order)), float(np.max(order - steps[:-1])))
    p = float(special.kolmogorov((root + 0.12 + 0.11 / root) * far))
    text = f"the steps along {name} are not distributed as the model says, by {far:.2g} of all (Kolmogorov–Smirnov)"
    tests.add(Finding(p, far, text))
    i = int(np.argmax(np.abs(s)))
    row = f"row {which[i]}" + (f" of path {number[i]}" if number.max() else "")
    off = f"the step along {name} to {row} is {abs(s[i]):.2g} σ off"
    tests.add(Finding(2 * n * float(special.ndtr(-abs(s[i]))), 1 / root, off))
    plain, size = _plain(s), 2 * np.abs(u - 0.5) - 0.5
    sizes = _plain(size - size.mean())._replace(basis=np.full((n, 1), 1 / root))
    if n >= 20 and len(pair) >= 10:
        lag_one = lambda r: f"the steps along {name} remember the one before, lag-1 {r:.2g} of their innovations"
        tests.add(neighbours(plain, pair, pair + 1, lag_one, both=True))
        large = lambda r: f"large steps along {name} follow large ones, correlation {r:.2g}"
        tests.add(neighbours(sizes, pair, pair + 1, large))
    for place in places:
        labels, texts = place.cut(min(12, n // 10))
        if len(texts) > 1:
            lead = lambda worst, mean, away, texts=texts: (
                f"steps along {name} from {texts[worst]} lead {mean:+.2g} σ elsewhere on average, {away}"
            )
            wide = lambda worst, mean, away, texts=texts: (
                f"steps along {name} from {texts[worst]} scatter {'wider' if mean > 0 else 'narrower'} than the model says, {away}"
            )
            tests.add(groups(plain, labels, lead), groups(sizes, labels, wide))
