"""A positive definite matrix as a sum over a few lattice offsets, with weights that are not negative."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_MOST_TURNS = 4096  # about the square root of the largest condition number


def superbase(m: Any) -> Any:
    """An obtuse superbase of each matrix `(…, d, d)`, d = 2 or 3: d + 1 integer vectors, `(…, d + 1, d)`.

    They add up to zero, d of them are a basis of the integer lattice, and ⟨vᵢ, m vⱼ⟩ ≤ 0 for i ≠ j. Found by turning
    one acute pair after the other, about √κ times at most for a condition number κ; NaN where that takes too many, beyond
    κ ≈ 1e7. Constant under differentiation.
    Source: Selling 1874, doi:10.1515/crll.1874.77.143; Conway & Sloane 1992, doi:10.1098/rspa.1992.0004.
    """
    m = jax.lax.stop_gradient(m)
    d = m.shape[-1]
    pairs = np.array(list(combinations(range(d + 1), 2)))
    taken, first = np.zeros((2, len(pairs) + 1, d + 1))  # a turn adds a multiple of the first of the pair to each
    for row, (i, j) in enumerate(pairs):
        taken[row], first[row, i] = 2 / (d - 1), 1.0
        taken[row, [i, j]] = -2.0, 0.0
    size = jnp.sqrt(jnp.sum(m * m, axis=(-1, -2)))[..., None]
    slack = 8 * jnp.finfo(m.dtype).eps

    def acute(v: Any) -> Any:
        """How far each pair is from being obtuse, beyond roundoff."""
        lengths = jnp.sqrt(jnp.sum(v * v, axis=-1))
        return _products(v, m, pairs) - slack * size * lengths[..., pairs[:, 0]] * lengths[..., pairs[:, 1]]

    def more(state: Any) -> Any:
        count, _, excess = state
        return (count < _MOST_TURNS) & jnp.any(excess > 0)

    def turn(state: Any) -> Any:
        count, v, excess = state
        which = jnp.where(jnp.max(excess, -1) > 0, jnp.argmax(excess, -1), len(pairs))
        one = jnp.sum(jnp.asarray(first, m.dtype)[which][..., None] * v, -2)
        v = v + jnp.asarray(taken, m.dtype)[which][..., None] * one[..., None, :]
        return count + 1, v, acute(v)

    v = jnp.broadcast_to(jnp.asarray(np.vstack([np.eye(d), -np.ones(d)]), m.dtype), (*m.shape[:-2], d + 1, d))
    _, v, excess = jax.lax.while_loop(more, turn, (jnp.zeros((), jnp.int32), v, acute(v)))
    return jnp.where(jnp.any(excess > 0, -1)[..., None, None], jnp.nan, v)


def offsets(v: Any) -> Any:
    """The offsets e of a superbase, `(…, d(d + 1)/2, d)`: one for each pair, across all other vectors."""
    d = v.shape[-1]
    found = []
    for pair in combinations(range(d + 1), 2):
        others = [v[..., k, :] for k in range(d + 1) if k not in pair]
        found.append(jnp.stack([-others[0][..., 1], others[0][..., 0]], -1) if d == 2 else jnp.cross(*others))
    return jnp.stack(found, -2)


def weights(v: Any, m: Any) -> Any:
    """λ `(…, d(d + 1)/2)` with m = Σ λ e eᵀ, not negative where the superbase v is that of m; else cut off at zero."""
    pairs = np.array(list(combinations(range(v.shape[-2]), 2)))
    return jnp.maximum(-_products(v, m, pairs), 0.0)


def inverse(m: Any) -> Any:
    """The inverse of each symmetric matrix `(…, d, d)`, d = 2 or 3, by cofactors."""
    if m.shape[-1] == 2:
        a, b, c = m[..., 0, 0], m[..., 0, 1], m[..., 1, 1]
        adjugate = jnp.stack([jnp.stack([c, -b], -1), jnp.stack([-b, a], -1)], -2)
    else:
        x, y, z = (m[..., k, :] for k in range(3))
        adjugate = jnp.stack([jnp.cross(y, z), jnp.cross(z, x), jnp.cross(x, y)], -2)
    return adjugate / jnp.sum(m[..., 0, :] * adjugate[..., 0, :], -1)[..., None, None]


def definite(m: Any) -> Any:
    """Whether each symmetric matrix `(…, d, d)` is positive definite: all its leading minors are positive."""
    minor = m[..., 0, 0] * m[..., 1, 1] - m[..., 0, 1] ** 2
    positive = (m[..., 0, 0] > 0) & (minor > 0)
    if m.shape[-1] == 2:
        return positive
    return positive & (jnp.sum(m[..., 0, :] * jnp.cross(m[..., 1, :], m[..., 2, :]), -1) > 0)


def _products(v: Any, m: Any, pairs: np.ndarray) -> Any:
    moved = jnp.sum(m[..., None, :, :] * v[..., None, :], -1)
    return jnp.sum(v[..., pairs[:, 0], :] * moved[..., pairs[:, 1], :], -1)
