"""Innovations of a path, what its steps bring beyond the prediction: the normal scores of the transition density.

    s = Φ⁻¹(F(x₁ | x₀)),  F = ∫ p dx

They are independent and standard normal where the model is right. F is that of the generator on cells even in the Lamperti
coordinate, by its eigenvectors: a few hundred cells serve all steps, at any durations. Plain NumPy, but for the coefficients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.measurements import trajectory_euler
from jaxdiff.model.coefficients import absent
from jaxdiff.transition.lamperti import BATCH, Coefficients, at_points, wrap
from jaxdiff.transition.quadrature import cumulative

if TYPE_CHECKING:
    from jaxdiff.measurements.trajectory import Trajectory

FINE = 8.0  # cells in the standard deviation of a step
CELLS = (128, 512)  # least and most, powers of two
COARSE = 2.5  # cells in it below which a step is taken as normal, with moments of second order
DEEP = 36.0  # logarithm of a density, over the largest, from which eigenvectors are lost in roundoff
CURVED = 0.15  # bend of the drift over a step up to which such moments serve
TAIL = 1e-13
CHUNK = 4096


def innovations(measurement: Trajectory, equation: Any) -> np.ndarray | None:
    """Normal scores (m,) of the steps of all paths, by the fitted equation; None where they cannot be had at this effort.

    Rosenblatt 1952, doi:10.1214/aoms/1177729394; Hong & Li 2005, doi:10.1093/rfs/hhh006.
    """
    from scipy import special

    start, stop, duration = measurement.starts, measurement.stops, measurement.durations
    if measurement.density == "euler":
        return trajectory_euler.innovations(measurement, equation)
    terms: Any
    terms, walls = measurement.dynamics(equation)
    lower, upper = (float(measurement.grid.edges[0][i]) for i in (0, -1))
    if walls[0] == "periodic":
        terms, start, stop = wrap(terms, start, stop, lower, upper)
        bounds = lower - (upper - lower), upper + (upper - lower)
    else:
        bounds = lower, upper
    killed = not absent(equation.transport().loss)
    with np.errstate(all="ignore"):
        table = _Table.of(terms, start, stop, duration, bounds, killed)
        if table is None:
            return None
        ends = [side if at else "open" for side, at in zip(walls, table.at_walls, strict=True)]
        share, rough = _shares(table, start, stop, duration, ends)
        if rough.any():
            moments, bend = _moments(table, start[rough], stop[rough], duration[rough])
            if np.mean(bend > CURVED) * np.mean(rough) > 0.02:
                return None
            share[rough] = moments
        if walls[0] == "periodic" and np.sqrt(2 * table.d.max() * duration.max()) > (upper - lower) / 6:
            return None
        scores = special.ndtri(np.clip(share, TAIL, 1 - TAIL))
    return scores if np.isfinite(scores).all() else None


class _Table:
    """Coefficients on points even in y, of whose spacing y is measured: x, D, the drift of y, ∫f/D dx and killing."""

    def __init__(self, x: np.ndarray, step: float, here: Any, killed: bool, at_walls: tuple[bool, bool]):
        self.x, self.step, self.d, self.at_walls = x, step, here.diffusivity, at_walls
        self.velocity = here.velocity
        self.push = cumulative(here.drift / here.diffusivity, x)
        bend = np.gradient(self.velocity, step)
        self.killing = np.maximum(here.potential - (self.velocity**2 + bend) / 2, 0.0) if killed else 0.0 * x

    @classmethod
    def of(cls, terms: Any, start: Any, stop: Any, duration: Any, bounds: Any, killed: bool) -> _Table | None:
        terms = tuple(terms[:3])
        look = lambda x: Coefficients._make(map(np.asarray, at_points(terms, x)))
        low, high = min(start.min(), stop.min()), max(start.max(), stop.max())
        widest = np.nanmax(look(np.linspace(low, high, BATCH)).diffusivity)
        pad = 9 * np.sqrt(2 * widest * duration.max())
        ends = max(low - pad, bounds[0]), min(high + pad, bounds[1])
        share = (np.arange(BATCH) + 0.5) / BATCH
        x = ends[0] + share * (ends[1] - ends[0])
        for _ in range(2):  # cut off what no step reaches, and lay the points evenly in y
            here = look(x)
            fine = np.isfinite(here.velocity)
            pace, push = 1 / np.sqrt(2 * here.diffusivity), here.drift / here.diffusivity
            y, deep = (cumulative(np.where(fine, part, 0.0), x) for part in (pace, push))
            kept = fine & ((deep > deep[fine].max(initial=-np.inf) - 80) | (x >= low) & (x <= high))
            if not kept.any():
                return None
            i, j = np.flatnonzero(kept)[[0, -1]]
            if not fine[i : j + 1].all():
                return None
            half = [(y[i + 1] - y[i]) / 2, (y[j] - y[j - 1]) / 2]
            first, last = y[i] - half[0], y[j] + half[1]
            ends = ends[0] if i == 0 else x[i], ends[1] if j == BATCH - 1 else x[j]
            even = first + share * (last - first)
            x = np.interp(even, [first, *y[i : j + 1], last], [ends[0], *x[i : j + 1], ends[1]])
        here = look(x)
        if not np.isfinite(here.velocity).all():
            return None
        step = float(cumulative(1 / np.sqrt(2 * here.diffusivity), x)[-1]) / (BATCH - 1)
        return cls(x, step, here, killed, (ends[0] == bounds[0], ends[1] == bounds[1]))

    def y(self, x: np.ndarray) -> np.ndarray:
        return np.interp(x, self.x, self.step * np.arange(len(self.x)))


def _shares(table: _Table, start: Any, stop: Any, duration: Any, ends: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(F of each step, which of them the cells are too coarse for)."""
    from scipy.linalg import eigh_tridiagonal

    root, length = np.sqrt(duration), table.step * BATCH
    wanted = FINE * length / np.quantile(root, 0.1)
    n = 2 ** int(np.ceil(np.log2(np.clip(wanted, *CELLS))))
    each = BATCH // n  # points in a cell
    push, x, d = table.push, table.x, table.d
    width = np.gradient(x)
    level = push.reshape(n, each).mean(1)  # of each cell: products of neighbours stay in range
    inside = np.exp(push.reshape(n, each) - level[:, None])
    mass = (inside / d.reshape(n, each) * width.reshape(n, each)).sum(1)
    half = each // 2
    across = push[half:-half].reshape(n - 1, each)
    between = (level[1:] + level[:-1]) / 2
    resist = (np.exp(between[:, None] - across) * width[half:-half].reshape(n - 1, each)).sum(1)
    rise = np.diff(level) / 2
    link = 1 / (resist * np.sqrt(mass[1:] * mass[:-1]))
    out, back = np.exp(rise) / (resist * mass[:-1]), np.exp(-rise) / (resist * mass[1:])
    leave = np.concatenate([out, [0.0]]) + np.concatenate([[0.0], back]) + table.killing[half::each]
    for k, cut in ((0, slice(0, half)), (-1, slice(-half, None))):
        if ends[k] == "absorbing":
            leave[k] += 1 / (mass[k] * (np.exp(level[k] - push[cut]) * width[cut]).sum())
    weight = level + np.log(mass)
    deep = weight - weight.max()
    cell = table.step * each
    slow = -min(60.0 / duration.min(), 2.1 * float(leave.max()) + 1.0)
    values, vectors = eigh_tridiagonal(-leave, link, select="v", select_range=(slow, 1.0))
    scaled = np.exp(deep / 2)[:, None]
    before = vectors / np.maximum(scaled, 1e-30)
    after = np.concatenate([0 * vectors[:1], np.cumsum(vectors * scaled, 0)])
    time = duration + cell**2 / 12  # numerical diffusion of the cells
    places = [table.y(part) / cell + 0.5 * table.step / cell for part in (start, stop)]
    share = np.empty(len(start))
    for at in range(0, len(start), CHUNK):
        some = slice(at, at + CHUNK)
        left = _between(before, places[0][some] - 0.5) * np.exp(values * time[some, None])
        share[some] = np.einsum("ij,ij->i", left, _between(after, places[1][some])) / (left @ after[-1])
    hidden = np.interp(places[0] - 0.5, np.arange(n), deep) < -DEEP
    return np.clip(share, 0.0, 1.0), (root < COARSE * cell) | hidden


def _between(rows: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Rows at places between them, by cubics through four."""
    n = len(rows)
    first = np.clip(np.floor(place).astype(int) - 1, 0, n - 4)
    t = np.clip(place, 0, n - 1) - first
    weights = (
        -(t - 1) * (t - 2) * (t - 3) / 6,
        t * (t - 2) * (t - 3) / 2,
        -t * (t - 1) * (t - 3) / 2,
        t * (t - 1) * (t - 2) / 6,
    )
    return sum(weight[:, None] * rows[first + k] for k, weight in enumerate(weights))


def _moments(table: _Table, start: Any, stop: Any, duration: Any) -> tuple[np.ndarray, np.ndarray]:
    """(F by a normal density in y, mean and variance of second order; how much the drift bends over a step)."""
    from scipy import special

    places = table.step * np.arange(len(table.x))
    drift = [table.velocity]
    for _ in range(2):
        drift.append(np.gradient(drift[-1], table.step))
    at = lambda order, y: np.interp(y, places, drift[order])
    mean, variance, parts = table.y(start), np.zeros(len(start)), 8
    bend = np.abs(at(2, mean)) * duration**1.5
    for _ in range(parts):
        h = duration / parts
        slope = lambda m, v: (at(0, m) + at(2, m) * v / 2, 1 + 2 * at(1, m) * v)
        one = slope(mean, variance)
        two = slope(mean + h / 2 * one[0], variance + h / 2 * one[1])
        mean, variance = mean + h * two[0], variance + h * two[1]
    return special.ndtr((table.y(stop) - mean) / np.sqrt(variance)), bend
