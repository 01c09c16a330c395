"""Interpolation of states between the cells of a grid: linear along every axis, or by the cubic of four averages, or within a
mask."""

from __future__ import annotations

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.model.masks import holder
from jaxdiff.runtime.compilation import solver_jit

# Coefficients, by powers, of the cubics with an average of one in one of the cells [0, 1], … [3, 4], of zero in the others.
_CUBIC = np.linalg.inv([[((j + 1) ** (k + 1) - j ** (k + 1)) / (k + 1) for k in range(4)] for j in range(4)])


@solver_jit
def linear(grid: Any, u: Any, points: Any) -> Any:
    """Between centres along every axis."""
    points = _columns(grid, points)
    corners: list[tuple[tuple[Any, ...], Any]] = [((), 1.0)]
    for k in range(grid.ndim):
        x, at = jnp.asarray(grid.centers[k]), points[..., k]
        left = jnp.clip(jnp.searchsorted(x, at, side="right") - 1, 0, max(len(x) - 2, 0))
        here = [(left, 1.0)]
        if len(x) > 1:
            share = (at - x[left]) / (x[left + 1] - x[left])
            here = [(left, 1.0 - share), (left + 1, share)]
        corners = [((*index, i), weight * part) for index, weight in corners for i, part in here]
    return sum(weight * u[(..., *index)] for index, weight in corners)


@solver_jit
def cubic(grid: Any, u: Any, points: Any) -> Any:
    """By the averages of four cells, on one axis of equal ones."""
    lower, upper = grid.edges[0][0], grid.edges[0][-1]
    n = grid.shape[0]
    place = (_columns(grid, points)[..., 0] - lower) / (upper - lower) * n
    first = jnp.clip(jnp.round(jax.lax.stop_gradient(place)).astype(int) - 2, 0, n - 4)
    powers = (place - first)[..., None] ** jnp.arange(4)
    weights = powers @ jnp.asarray(_CUBIC, powers.dtype)
    return sum(weights[..., k] * u[..., first + k] for k in range(4))


def _columns(grid: Any, points: Any) -> Any:
    """Points (…, ndim)."""
    return points[..., None] if grid.ndim == 1 and points.ndim <= 1 else points


@solver_jit
def masked(grid: Any, u: Any, points: Any) -> Any:
    """From cells inside alone: of the cell that holds the point, linear towards its neighbours on that side, or where
    those are outside from the other side; without either it is constant along that axis. NaN outside."""
    points, mask = _columns(grid, points), jnp.asarray(grid.mask)
    u = jnp.where(mask, u, 0.0)
    at, inside = holder(grid.edges, mask, tuple(jnp.moveaxis(points, -1, 0)))
    steps: list[Any] = []
    shares: list[Any] = []
    for k, n in enumerate(grid.shape):
        x, here = jnp.asarray(grid.centers[k], points.dtype), at[k]
        forth = jnp.where(points[..., k] >= x[here], 1, -1)
        beside = lambda step, k=k, here=here, n=n: (
            (here + step >= 0) & (here + step < n) & mask[(*at[:k], jnp.clip(here + step, 0, n - 1), *at[k + 1 :])]
        )
        step = jnp.where(beside(forth), forth, jnp.where(beside(-forth), -forth, 0))
        gap = x[here + step] - x[here]
        steps.append(step)
        shares.append(jnp.where(step == 0, 0.0, (points[..., k] - x[here]) / jnp.where(step == 0, 1.0, gap)))
    total: Any = 0.0
    for axes in product(
        (0, 1), repeat=grid.ndim
    ):  # differences along some of the axes, where all their cells are inside
        change: Any = 0.0
        share, whole = jnp.ones_like(points[..., 0]), inside
        for corner in product(*((0, 1)[: 1 + taken] for taken in axes)):
            index = tuple(i + step * by for i, step, by in zip(at, steps, corner, strict=True))
            change = change + (-1.0) ** (sum(axes) - sum(corner)) * u[(..., *index)]
            whole = whole & mask[index]
        for taken, part in zip(axes, shares, strict=True):
            share = share * part if taken else share
        total = total + jnp.where(whole, share, 0.0) * change
    return jnp.where(inside, total, jnp.nan)
