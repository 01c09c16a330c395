"""Singular values of bidiagonal matrices, the smallest first, each to its own digits however small: by counting signs."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

EQUAL = 1e-9  # difference, of themselves, below which squares share their derivatives
_POINTS = 16  # at which each interval is looked at in one pass


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def smallest(squares: Any, count: int) -> tuple[Any, Any]:
    """The squares of the smallest singular values `(count,)`, and their vectors u₀, v₀, u₁, v₁, … `(count, 2n)`, of norm one.

        σ u = B v,  σ v = Bᵀ u,   B lower bidiagonal, Bᵢᵢ² = squares₂ᵢ, Bᵢ₊₁,ᵢ² = squares₂ᵢ₊₁ with a minus, `squares` `(2n − 1,)`

    The eigenvalues of G, symmetric and tridiagonal with these entries beside a diagonal of zeros, are ±σ, and small relative changes
    of its entries make small relative changes of each (Demmel & Kahan 1990, doi:10.1137/0911052). How many are below x tells the
    number of negative pivots of G − x. Vectors are those of its twisted factorisation (Dhillon & Parlett 2004,
    doi:10.1016/j.laa.2003.12.028); where σ are so near to each other that these are not orthogonal, of inverse iteration. They
    have no derivatives.
    """
    scale = jnp.max(squares)
    scale = jnp.where(scale > 0, scale, 1.0)
    off = jnp.sqrt(squares / scale)
    off = off.at[1::2].multiply(-1.0)
    sigma, vectors = _found(off, count)
    overlap = jnp.abs(jnp.matmul(vectors, vectors.T, precision="highest") - jnp.eye(count, dtype=off.dtype))
    apart = jnp.max(overlap) < jnp.sqrt(jnp.finfo(off.dtype).eps)
    vectors = jax.lax.cond(apart, lambda: vectors, lambda: _iterated(off, sigma))
    return sigma**2 * scale, vectors


@smallest.defjvp
def _smallest_jvp(count: int, primals: Any, tangents: Any) -> tuple[Any, Any]:
    """dσ² = 2 Σ (σ wⱼ wⱼ₊₁/Gⱼ) dGⱼ²: each term is at most σ² times the relative change of a square, so that nothing cancels."""
    (squares,), (changes,) = primals, tangents
    found, w = smallest(squares, count)
    there = squares > 0
    off = jnp.where(there, jnp.sqrt(jnp.where(there, squares, 1.0)), 1.0).at[1::2].multiply(-1.0)
    shares = jnp.sqrt(found)[:, None] * w[:, :-1] * w[:, 1:] / off
    cells = w[:, ::2] ** 2
    cells = cells / (2.0 * jnp.sum(cells, axis=1, keepdims=True))  # of σ = 0 there is no v
    alone = jnp.zeros_like(shares).at[:, ::2].set(cells)  # v = G u/σ
    shares = jnp.where(there, shares, alone)
    # Of values that are equal vectors are any that span the same, and the sum of derivatives alone is right.
    moved, equal = 2.0 * jnp.sum(shares * changes, axis=1), jnp.abs(found[:, None] - found) <= EQUAL * found[:, None]
    return (found, w), (jnp.matmul(equal.astype(w.dtype), moved) / jnp.sum(equal, axis=1), jnp.zeros_like(w))


def _floor(dtype: Any) -> Any:
    """Below it, of the largest entry, a singular value is zero."""
    return float(jnp.finfo(dtype).tiny) ** 0.48


def _pivots(x: Any, q: Any, square: Any) -> Any:
    """The next pivot of G − x."""
    q, tiny = -x - square / q, float(jnp.finfo(x.dtype).tiny) ** 0.97
    return jnp.where(jnp.abs(q) < tiny, -tiny, q)


def _below(off: Any, x: Any) -> Any:
    """How many singular values are below x `(k, m)`: by pivots from both ends to the middle."""
    n, lanes = (len(off) + 1) // 2, x.ravel()
    squares = jnp.stack([off[: n - 1], off[n:][::-1]], axis=1)[..., None] ** 2

    def count(state: Any, square: Any) -> tuple[Any, None]:
        q, found = state
        return (_pivots(lanes, q, square), found + (q < 0)), None

    first = jnp.broadcast_to(-lanes, (2, lanes.size))
    (q, found), _ = jax.lax.scan(count, (first, jnp.zeros(first.shape, x.dtype)), squares, unroll=2)
    lower, upper = q  # the two that meet
    found = jnp.sum(found, axis=0) + (upper < 0) + (lower - off[n - 1] ** 2 / upper < 0) - n
    return found.reshape(x.shape)


def _found(off: Any, count: int) -> tuple[Any, Any]:
    """Singular values and vectors: intervals are cut until they tell values apart, Rayleigh quotients go on from there; where
    those are not confirmed by counting, intervals are cut further."""
    dtype = off.dtype
    eps, least = float(jnp.finfo(dtype).eps), _floor(dtype)
    share = jnp.arange(1, _POINTS + 1, dtype=dtype) / (_POINTS + 1)
    index = jnp.arange(1, count + 1)[:, None]

    def cut(state: Any) -> Any:
        lower, upper, passes = state
        low, high = lower[:, None], upper[:, None]
        x = jnp.where(high > 2 * low, low * jnp.exp(jnp.log(high / low) * share), low + (high - low) * share)
        return *_narrowed(off, lower, upper, x, index), passes + 1

    def until(width: float, lower: Any, upper: Any) -> Any:
        def wide(state: Any) -> Any:
            lower, upper, passes = state
            gap = jnp.append(lower[1:] - upper[:-1], jnp.inf)
            apart = 8 * (upper - lower) < jnp.minimum(gap, jnp.append(jnp.inf, gap[:-1]))
            least = jnp.where(apart, width, 64 * eps) * lower
            return jnp.any(upper - lower > least) & (passes < 200)

        return jax.lax.while_loop(wide, cut, (lower, upper, 0))[:2]

    lower, upper = until(1e-3, jnp.full(count, least, dtype), jnp.full(count, 2.0, dtype))

    def closer(state: Any) -> Any:
        x, _, passes = state
        new = _twisted(off, x)[1]
        return new, jnp.max(jnp.where(lower > least, jnp.abs(new - x) / x, 0.0)), passes + 1

    moving = lambda state: (state[1] > 1e-11) & (state[2] < 6)
    x = jax.lax.while_loop(moving, closer, ((lower + upper) / 2, jnp.array(1.0, dtype), 0))[0]
    near = jnp.clip(x[:, None] * (1 + 24 * eps * jnp.array([-1.0, 1.0], dtype)), lower[:, None], upper[:, None])
    near = jnp.where(jnp.isfinite(near), near, ((lower + upper) / 2)[:, None])
    lower, upper = until(64 * eps, *_narrowed(off, lower, upper, near, index))
    x = jnp.where((x > lower) & (x < upper), x, (lower + upper) / 2)
    sigma = jnp.where(lower <= least, 0.0, x)
    return sigma, _twisted(off, jnp.maximum(sigma, least))[0]


def _narrowed(off: Any, lower: Any, upper: Any, x: Any, index: Any) -> tuple[Any, Any]:
    """The intervals `(k,)` after looking at points x `(k, m)` in them."""
    beyond = _below(off, x) >= index
    upper = jnp.min(jnp.where(beyond, x, upper[:, None]), axis=1)
    return jnp.max(jnp.where(beyond, lower[:, None], x), axis=1), upper


def _twisted(off: Any, x: Any) -> tuple[Any, Any]:
    """Vectors `(k, 2n)` of values near x `(k,)`, each from where it is largest to both sides; and their Rayleigh quotients."""
    squares = jnp.stack([off, off[::-1]], axis=1)[..., None] ** 2

    def pivot(q: Any, square: Any) -> tuple[Any, Any]:
        q = _pivots(x, q, square)
        return q, q

    first, rows = jnp.broadcast_to(-x, (2, len(x))), jnp.arange(len(off) + 1)
    q = jnp.concatenate([first[None], jax.lax.scan(pivot, first, squares)[1]])
    down, up = q[:, 0], q[::-1, 1]  # from the first and from the last row
    middle = down + up + x
    at = jnp.argmin(jnp.where(rows[:, None] % 2 == 0, jnp.abs(middle), jnp.inf), axis=0)
    ratios = jnp.stack([(-off[:, None] / down[:-1])[::-1], -off[:, None] / up[1:]], axis=1)
    starts = jnp.stack([rows[-1] - at, at])  # upwards, counted from the last row; downwards

    def away(z: Any, row: Any) -> tuple[Any, Any]:
        i, ratio = row
        z = jnp.where(i == starts, 1.0, jnp.where(i > starts, z * ratio, 0.0))
        return z, z

    begin = jnp.where(starts == 0, 1.0, 0.0).astype(off.dtype)
    z = jnp.concatenate([begin[None], jax.lax.scan(away, begin, (rows[1:], ratios))[1]])
    z = jnp.where(rows[:, None] < at, z[::-1, 0], z[:, 1]).T
    size = jnp.linalg.norm(z, axis=1, keepdims=True)
    return z / size, x + jnp.take_along_axis(middle, at[None], 0)[0] / size[:, 0] ** 2


def _beside(sigma: Any, off: Any) -> Any:
    """A shift that leaves G − σ regular."""
    eps = float(jnp.finfo(off.dtype).eps)
    return sigma * (1 + 4 * eps) + eps**2 * jnp.max(jnp.abs(off))


def _solved(off: Any, shift: Any, rhs: Any) -> Any:
    one = jnp.zeros((1,), off.dtype)
    lower, upper = jnp.concatenate([one, off]), jnp.concatenate([off, one])

    def solve(shift: Any, rhs: Any) -> Any:
        return jax.lax.linalg.tridiagonal_solve(lower, jnp.full_like(lower, -shift), upper, rhs[:, None])[:, 0]

    return jax.vmap(solve)(shift, rhs)


def _iterated(off: Any, sigma: Any) -> Any:
    """Vectors by inverse iteration from random ones, kept orthogonal."""
    shift, start = _beside(sigma, off), jax.random.normal(jax.random.key(0), (len(sigma), len(off) + 1), off.dtype)

    def again(w: Any, _: Any) -> tuple[Any, None]:
        w = _solved(off, shift, w)
        w = w / jnp.linalg.norm(w, axis=1, keepdims=True)
        return jnp.linalg.qr(w.T)[0].T, None

    return jax.lax.scan(again, start / jnp.linalg.norm(start, axis=1, keepdims=True), None, length=2)[0]
