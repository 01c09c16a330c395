"""Cells that are alternately wider and narrower: as many as before, about the same centres, and with larger errors.

An error of h² of equal cells is 1 + 3a² times as large where their widths are (1 ± a) h. Beside that the values alternate about
those of equal cells; what the two alternations hold of a cell, each by its share in both widths, adds up to what it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import numpy as np


def alternated(edges: np.ndarray, a: float, first: int) -> np.ndarray:
    """Edges (n + 1,), each second one moved up and the others down; `first` says which."""
    widths = np.diff(edges)
    most = np.concatenate([[0.0], np.minimum(widths[1:], widths[:-1]), [0.0]])
    return edges + 0.5 * a * most * np.where((np.arange(len(edges)) + first) % 2, -1.0, 1.0)


def combined(edges: np.ndarray, x: np.ndarray, a: float, first: int) -> tuple[np.ndarray, np.ndarray]:
    """(places, shares): where one alternation is read and what its reading counts, for one of equal cells at x."""
    nodes, part = (edges[1:] + edges[:-1]) / 2, np.diff(alternated(edges, a, first)) / (2 * np.diff(edges))
    i = np.clip(np.searchsorted(nodes, x) - 1, 0, len(nodes) - 2)
    share = (x - nodes[i]) / (nodes[i + 1] - nodes[i])
    upper = share * part[i + 1]
    whole = (1 - share) * part[i] + upper
    return nodes[i] + (nodes[i + 1] - nodes[i]) * upper / whole, whole


def interpolation_error(nodes: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The error of linear interpolation between nodes at x, over the second derivative."""
    i = np.clip(np.searchsorted(nodes, x) - 1, 0, len(nodes) - 2)
    return (x - nodes[i]) * (nodes[i + 1] - x) / 2


def binning_error(line: Any, bins: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """The error of the masses of bins (…, b) that are summed from the cells of one axis: where a bin cuts a cell, of the slope
    within it; and of the curvature within cells, on which the values at their centres say nothing."""
    volumes, middle = np.diff(_volume(line, bins)), (bins[1:] + bins[:-1]) / 2
    edges, inner = np.asarray(line.edges[0]), bins[1:-1]
    slope = np.diff(mass / volumes) / np.diff(middle) * inner**line.exponent
    i = np.clip(np.searchsorted(edges, inner) - 1, 0, len(edges) - 2)
    moved = slope * (interpolation_error(edges, inner) - np.diff(edges)[i] ** 2 / 24)
    none = np.zeros((*mass.shape[:-1], 1))
    return np.diff(np.concatenate([none, moved, none], -1))


def refilled(line: Any, u: np.ndarray, k: int, a: float, first: int) -> np.ndarray:
    """Cell averages along axis k on alternate cells, taken as constant within a cell."""
    edges = np.asarray(line.edges[0])
    changed = alternated(edges, a, first)
    old, new, u = _volume(line, edges), _volume(line, changed), np.moveaxis(np.asarray(u, float), k, -1)
    below = np.concatenate([np.zeros((*u.shape[:-1], 1)), np.cumsum(u * np.diff(old), -1)], -1)
    content = np.apply_along_axis(lambda one: np.diff(np.interp(new, old, one)), -1, below)
    return np.moveaxis(content / np.diff(new), -1, k)


def regathered(edges: np.ndarray, mass: np.ndarray, k: int, a: float, first: int) -> np.ndarray:
    """The mass of cells along axis k, from that of alternate cells, by a cubic spline of what lies below each edge."""
    from scipy.interpolate import CubicSpline

    mass = np.moveaxis(np.asarray(mass, float), k, -1)
    below = np.concatenate([np.zeros((*mass.shape[:-1], 1)), np.cumsum(mass, -1)], -1)
    return np.moveaxis(np.diff(CubicSpline(alternated(edges, a, first), below, axis=-1)(edges), axis=-1), -1, k)


def on_own(predictor: Any, part: Any, k: int, a: float, first: int) -> Any:
    """The shares of cells from those of alternate ones along axis k; other predictions as they are."""
    if not predictor.of_cells or k >= predictor.states_at_times.grid.ndim:
        return part
    grid = predictor.states_at_times.grid
    own = regathered(np.asarray(grid.edges[k]), part.reshape(len(part), *grid.shape), k + 1, a, first)
    return own.reshape(np.shape(part))


def errors_of_bins(predictor: Any, m: Any, k: int, mass: np.ndarray) -> np.ndarray:
    """What bins that cut cells along one axis add to the errors of their masses (times, bins and rest)."""
    inside = mass[:, : mass.shape[1] - predictor.rest].reshape(-1, *(len(one) - 1 for one in m.bins))
    wrong = binning_error(predictor.states_at_times.grid.axis(k), m.bins[k], np.moveaxis(inside, k + 1, -1))
    return np.pad(np.moveaxis(wrong, -1, k + 1).reshape(len(mass), -1), ((0, 0), (0, int(predictor.rest))))


class Sensors(NamedTuple):
    """Along one axis: edges, places of sensors, the same off the walls, the widths of cells there, and the sensor of each row."""

    edges: np.ndarray
    x: np.ndarray
    inner: np.ndarray
    step: np.ndarray
    sensor: Any

    def by_row(self, each: np.ndarray) -> np.ndarray:
        return each if self.sensor is None else each[np.asarray(self.sensor)]


def sensors_along(predictor: Any, k: int) -> Sensors | None:
    if not predictor.on_cells or predictor.places is None or k >= predictor.states_at_times.grid.ndim:
        return None
    edges, x = np.asarray(predictor.states_at_times.grid.edges[k]), predictor.places[:, k]
    step = np.diff(edges)[np.clip(np.searchsorted(edges, x) - 1, 0, len(edges) - 2)]
    return Sensors(edges, x, np.clip(x, edges[0] + 1.5 * step, edges[-1] - 1.5 * step), step, predictor.sensor)


def read_at(predictor: Any, k: int, x: np.ndarray) -> Any:
    """The predictor with other places along one axis."""
    place = np.array(predictor.place)
    place.reshape(len(place), -1)[:, k] = x
    return eqx.tree_at(lambda p: p.place, predictor, place)


def _volume(line: Any, x: np.ndarray) -> np.ndarray:
    return x ** (line.exponent + 1) / (line.exponent + 1)
