"""Cells that are alternately wider and narrower: as many as before, about the same centres, and with larger errors.

An error of h² of equal cells is 1 + 3a² times as large where their widths are (1 ± a) h. Beside that the values alternate about
those of equal cells; what the two alternations hold of a cell, each by its share in both widths, adds up to what it is.
"""

from __future__ import annotations

from typing import Any

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


def _volume(line: Any, x: np.ndarray) -> np.ndarray:
    return x ** (line.exponent + 1) / (line.exponent + 1)
