"""Log densities at points, from the averages of a density over cells."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

CLOSEST = 1e-9  # to an absorbing wall, of the way between two walls


class Axis(NamedTuple):
    """What reading along an axis depends on beside its cells: whether it is closed, and which of its walls absorb."""

    periodic: bool
    absorbing: tuple[bool, bool]

    def weight(self, x: Any, ends: tuple[Any, Any]) -> Any:
        """What a density vanishes as at the walls: the product of the ways to those that absorb, in lengths of the axis."""
        lower, upper = ends
        ways = (x - lower) / (upper - lower), (upper - x) / (upper - lower)
        return prod((way for way, absorbs in zip(ways, self.absorbing, strict=True) if absorbs), start=jnp.ones_like(x))


def by_cubics(grid: Any) -> bool:
    """Whether log densities are interpolated by cubics: on one Cartesian axis of equal cells."""
    return bool(
        grid.ndim == 1
        and not grid.discrete
        and grid.mask is None
        and not grid.exponent
        and grid.equal[0]
        and grid.shape[0] >= 4
    )


def neighbours(grid: Any, points: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nodes (m, k) that a log density is interpolated between at points (m, ndim) in cells (m, ndim), and their weights."""
    own = np.ravel_multi_index(tuple(cell.T), grid.shape)
    if grid.discrete:
        return own[:, None], np.ones((len(own), 1))
    if by_cubics(grid):
        edges, n = np.asarray(grid.edges[0]), grid.shape[0]
        place = np.clip((points[:, 0] - edges[0]) / (edges[-1] - edges[0]) * n, 0, n) - 0.5
        first = np.minimum(np.floor(place).astype(int) - 1, n - 2)
        weights = [_lagrange(place - first, j) for j in range(4)]
        return first[:, None] + 2 + np.arange(4), np.stack(weights, axis=1)
    sides = []
    for centres, x in zip(grid.centers, points.T, strict=True):
        centres = np.asarray(centres)
        if len(centres) == 1:
            sides.append([(np.zeros(len(x), int), np.ones(len(x)))])
            continue
        low = np.clip(np.searchsorted(centres, x) - 1, 0, len(centres) - 2)
        xi = (x - centres[low]) / (centres[low + 1] - centres[low])
        sides.append([(low, 1 - xi), (low + 1, xi)])
    corners = list(product(*sides))
    near = np.stack([np.ravel_multi_index(tuple(i for i, _ in corner), grid.shape) for corner in corners], axis=1)
    share = np.stack([np.prod([weight for _, weight in corner], axis=0) for corner in corners], axis=1)
    if grid.mask is not None:
        share = np.clip(share, 0.0, 1.0) * np.ravel(grid.mask)[near]
        lost = share.sum(1) <= 1e-9
        near = np.where(lost[:, None], own[:, None], near)
        share = np.where(lost[:, None], 1.0 / near.shape[1], share / np.where(lost, 1.0, share.sum(1))[:, None])
    return near, share


def nodes(logs: Any, grid: Any, axes: tuple[Axis, ...]) -> Any:
    """Values (T, nodes) for `neighbours` from the logarithms of averages over cells (T, cells), both less that of the weights.

    Along each axis q = p/w is taken for an exponential in a cell, whose average is that at its centre but for sinh(sh/2)/(sh/2),
    a second difference, and the slopes of w and of a shell. Linear interpolation lies above what is convex: by a twelfth
    of a second difference on average, which is taken off; by cubics there are two more nodes at each end.
    """
    logs = logs.reshape(len(logs), *grid.shape)
    steep = []
    for k, axis in enumerate(axes):
        line = grid.axis(k)
        edges, x, width = (jnp.asarray(each) for each in (line.edges[0], line.centers[0], line.widths[0]))
        ends = edges[0], edges[-1]
        mean = axis.weight(x, ends) - (all(axis.absorbing) * width**2 / 12) / (ends[1] - ends[0]) ** 2
        logs = logs - jnp.log(mean).reshape(-1, *(1,) * (grid.ndim - 1 - k))
        lower, upper = axis.absorbing
        steep.append(lower / (x - ends[0]) - upper / (ends[1] - x) + line.exponent / x)
    cubic = by_cubics(grid)
    excess = sum(_excess(logs, grid, k, axis, steep[k], cubic) for k, axis in enumerate(axes))
    found = (logs - excess).reshape(len(logs), -1)
    return _beyond(found, axes[0].periodic) if cubic else found


def at_points(points: Any, grid: Any, axes: tuple[Axis, ...]) -> Any:
    """ln of the weights at points (m, ndim), which is to be added."""
    total = jnp.zeros(len(points))
    for k, axis in enumerate(axes):
        if any(axis.absorbing):
            edges = jnp.asarray(grid.edges[k])
            total = total + jnp.log(jnp.maximum(axis.weight(points[:, k], (edges[0], edges[-1])), CLOSEST))
    return total


def _excess(logs: Any, grid: Any, k: int, axis: Axis, steep: Any, cubic: bool) -> Any:
    """By how much the logarithm of averages over cells (T, *cells) lies above nodes, along axis k."""
    if grid.shape[k] < 3:
        return jnp.zeros_like(logs)
    line, f = grid.axis(k), jnp.moveaxis(logs, k + 1, -1)
    x, width = jnp.asarray(line.centers[0]), jnp.asarray(line.widths[0])
    gaps, seam = jnp.diff(x), (width[:1] + width[-1:]) / 2
    before, after = jnp.concatenate([seam, gaps]), jnp.concatenate([gaps, seam])
    left, right = (f - jnp.roll(f, 1, -1)) / before, (jnp.roll(f, -1, -1) - f) / after
    slope, bend = (after * left + before * right) / (before + after), 2 * (right - left) / (before + after)
    if not axis.periodic:
        slope = slope.at[..., 0].set(slope[..., 1] - gaps[0] * bend[..., 1])
        slope = slope.at[..., -1].set(slope[..., -2] + gaps[-1] * bend[..., -2])
        bend = bend.at[..., 0].set(bend[..., 1]).at[..., -1].set(bend[..., -2])
    found = width**2 * (bend / 24 + steep * slope / 12) + _log_sinhc(width * slope / 2)
    if not cubic:
        found = found + bend * (before**2 - before * after + after**2) / 12
    if grid.mask is not None:
        inside = np.moveaxis(np.asarray(grid.mask), k, -1)
        found = jnp.where(inside & np.roll(inside, 1, -1) & np.roll(inside, -1, -1), found, 0.0)
    return jnp.moveaxis(found, -1, k + 1)


def _beyond(logs: Any, periodic: bool) -> Any:
    """Two more at each end (T, n + 4): around a ring, or where the cubic through the last four leads."""
    if periodic:
        return jnp.concatenate([logs[:, -2:], logs, logs[:, :2]], axis=1)
    lead = np.array([[10.0, -20.0, 15.0, -4.0], [4.0, -6.0, 4.0, -1.0]])
    before, after = logs[:, :4] @ lead.T, logs[:, :-5:-1] @ lead[::-1].T
    return jnp.concatenate([before, logs, after], axis=1)


def _log_sinhc(z: Any) -> Any:
    """ln(sinh z/z)."""
    large = jnp.abs(z) > 0.1
    s = jnp.where(large, jnp.abs(z), 1.0)
    far = s + jnp.log1p(-jnp.exp(-2 * s)) - jnp.log(2 * s)
    return jnp.where(large, far, z**2 / 6 - z**4 / 180 + z**6 / 2835)


def _lagrange(xi: np.ndarray, j: int) -> np.ndarray:
    others = [k for k in range(4) if k != j]
    return np.prod([(xi - k) / (j - k) for k in others], axis=0)
