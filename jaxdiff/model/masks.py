"""Masks: which cells of a grid are the domain, and functions of position that are asked of nothing outside."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def checked(mask: Any, shape: tuple[int, ...]) -> Any:
    """A mask of this shape; None where all cells are inside."""
    if mask is None or isinstance(mask, jax.core.Tracer):
        return mask
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise ValueError(f"a mask is an array of True and False, got {mask.dtype}; compare, as in image > 0")
    if mask.shape != shape:
        raise ValueError(f"a mask has the shape of the cells, {shape}, got {mask.shape}; give one for each cell")
    if not mask.any():
        raise ValueError("a mask is True in the cells of the domain, got none; is it inverted?")
    return None if mask.all() else mask.copy()


def holder(edges: Any, mask: Any, point: tuple[Any, ...], xp: Any = jnp) -> tuple[tuple[Any, ...], Any]:
    """The index of the cell that holds a point, one inside the mask where it lies on the outline; and whether it is inside."""
    eps = 4.0 * float(jnp.finfo(jnp.result_type(point[0])).eps)
    found: Any = None
    for signs in product((1, -1), repeat=len(edges)):
        index = []
        for e, x, sign in zip(edges, point, signs, strict=True):
            e = xp.asarray(e, x.dtype)
            slack = max(1e-9, eps) * (e[-1] - e[0])
            index.append(xp.clip(xp.searchsorted(e, x + sign * slack, side="right") - 1, 0, len(e) - 2))
        inside = mask[tuple(index)]
        if found is None:
            found, known = index, inside
        else:
            found = [xp.where(known, old, new) for old, new in zip(found, index, strict=True)]
            known = known | inside
    return tuple(found), known


def kept_inside(edges: Any, mask: Any) -> Callable[..., tuple[Any, ...]]:
    """(x, y, …) ↦ itself in cells inside, elsewhere the centre of one that is: what a function is not defined for must not
    enter its derivatives either, and comparisons for it are no jumps of the function."""
    mask = jnp.asarray(mask)
    first = jnp.unravel_index(jnp.argmax(mask), mask.shape)
    edges = tuple(map(jnp.asarray, edges))
    spare = tuple((e[i] + e[i + 1]) / 2 for e, i in zip(edges, first, strict=True))

    return lambda *point: _kept(edges, mask, spare, point)


@jax.custom_jvp
def _kept(edges: Any, mask: Any, spare: Any, point: Any) -> Any:
    inside = is_inside(edges, mask, point)
    return tuple(jnp.where(inside, x, other.astype(x.dtype)) for x, other in zip(point, spare, strict=True))


@_kept.defjvp
def _slope(primals: Any, tangents: Any) -> Any:
    edges, mask, _, point = primals
    inside = is_inside(edges, mask, point)
    return _kept(*primals), tuple(jnp.where(inside, slope, 0.0) for slope in tangents[3])


def is_inside(edges: Any, mask: Any, point: Any) -> Any:
    """Whether the cell that holds a point `(x, y, …)` is inside, of two cells the upper one."""
    at = (jnp.searchsorted(e.astype(x.dtype), x, side="right") - 1 for e, x in zip(edges, point, strict=True))
    return mask[tuple(jnp.clip(i, 0, n - 1) for i, n in zip(at, mask.shape, strict=True))]
