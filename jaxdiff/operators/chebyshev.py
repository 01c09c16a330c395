"""e^{tA}u and its forced companions by Chebyshev polynomials: products with A alone, on a lattice of any shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.operators.basis import phi

BLOCK = 32  # terms that are summed, or skipped, and kept for the gradient, together
_TURN, _RISE = 3.0, 3.0  # exponents by which an unbalanced or growing operator may amplify roundoff in one go


def terms_needed(operator: Any, t: Any, tolerance: Any) -> tuple[Any, Any]:
    """(equal substeps, terms of each) that hold `tolerance` of the peak over a time t; traced.

    The coefficients fall as exp(−k²/2z), z = t·half the spectrum, and imaginary parts make polynomials grow as
    exp(k·turn/half).
    """
    half, turn, most, digits = _limits(operator, tolerance)
    substeps = jnp.ceil(jnp.maximum(1.0, t / most))
    z, bend = t / substeps * half, turn / half
    return substeps, jnp.ceil(z * bend + jnp.sqrt((z * bend) ** 2 + 2 * z * digits + (0.4 * digits) ** 2)) + 2


def most_of_batch(x: Any) -> Any:
    """x, or under `vmap` the largest of all, of which there is one: with it `cond` skips in a batch too."""
    return _most(jax.lax.stop_gradient(x))


@jax.custom_batching.custom_vmap
def _most(x: Any) -> Any:
    return x


@_most.def_vmap
def _most_of_lanes(size: int, batched: Any, x: Any) -> Any:
    return _most(jnp.max(x, axis=0)), False


def longest_time(operator: Any, terms: int, tolerance: Any) -> Any:
    """The longest time that takes one substep of no more than so many terms; traced."""
    half, turn, most, digits = _limits(operator, tolerance)
    z = ((terms - 3) ** 2 - (0.4 * digits) ** 2) / (2 * (digits + (terms - 3) * turn / half))
    return jnp.minimum(most, z / half)


def _limits(operator: Any, tolerance: Any) -> tuple[Any, Any, Any, Any]:
    """Half the spectrum, its imaginary parts, the longest time of one substep, and −ln of the error."""
    lower, upper, turn = jax.lax.stop_gradient(operator.spectrum())
    tiny = jnp.finfo(lower.dtype).tiny
    half = jnp.maximum((lower + upper) / 2, tiny)
    most = 1.0 / jnp.maximum(jnp.maximum(turn**2 / (2 * half) / _TURN, upper / _RISE), tiny)
    return half, turn, most, jnp.log(1.0 / jnp.maximum(tolerance, 2 * jnp.finfo(lower.dtype).eps))


def chebyshev(
    operator: Any,
    t: Any,
    u: Any,
    forcing: tuple[Any, Any] | None = None,
    *,
    terms: int,
    needed: Any,
    observe: Callable[[Any], Any] | None = None,
) -> Any:
    """u(t) `(T, *cells)` of du/dt = A u + b₀ + b₁ s at times `(T,)` from the same start.

        e^{tA}u + tφ₁(tA) b₀ + t²φ₂(tA) b₁,   each Σ cₖ(t) Tₖ(X),   X = (A − c)/w with spectrum in [−1, 1]

    One recurrence serves all times, two terms at a time: with the signs turned, as they are here, of two states each
    is changed in place by a product with the other. Of `terms`, a multiple of `BLOCK`, only `needed` are summed. Reverse
    mode keeps one state per block. With `observe`, a linear map of states, its values `(T, …)` alone are summed.
    Source: Tal-Ezer & Kosloff 1984, doi:10.1063/1.448136.
    """
    dtype = u.dtype
    lower, upper, turn = jax.lax.stop_gradient(operator.spectrum())
    half, centre = (lower + upper) / 2, (upper - lower) / 2
    half = jnp.maximum(half, jnp.finfo(dtype).tiny).astype(dtype)
    bend = (turn / half).astype(dtype)
    coefficients = _coefficients(jnp.asarray(t, dtype), half, centre, bend, terms, 1 if forcing is None else 3)
    states = u[None] if forcing is None else jnp.stack([u, *forcing])
    seen = (lambda v: v) if observe is None else observe
    # Reverse mode keeps what A acts on, and not the differences that A forms of it.
    twice = jax.checkpoint(operator.action(2 / half, centre.astype(dtype)), prevent_cse=False)  # 2X

    def share(c: Any, states: Any) -> Any:
        return jnp.einsum("pt,p...->t...", c, seen(states), precision="highest")

    def add(carry: Any, c: Any) -> Any:
        odd, even, total = carry
        odd = odd + twice(even)
        even = even - twice(odd)
        return (odd, even, total + share(c[0], odd) + share(c[1], even)), None

    @jax.checkpoint
    def block(carry: Any, rows: Any) -> Any:
        first, c = rows
        return jax.lax.cond(first < needed, lambda x: jax.lax.scan(add, x, c)[0], lambda x: x, carry), None

    turned = jnp.asarray(np.resize([1.0, -1.0, -1.0, 1.0], terms), dtype)[:, None, None]  # signs of T₁, T₂, …
    later = turned * jnp.concatenate([coefficients[1:], jnp.zeros_like(coefficients[:1])])
    blocks = later.reshape(-1, BLOCK // 2, 2, *coefficients.shape[1:])
    start = (-twice(states) / 2, states, share(coefficients[0], states))  # T₋₁ = T₁
    starts, needed = BLOCK * jnp.arange(terms // BLOCK), most_of_batch(needed)
    return jax.lax.scan(block, start, (starts, blocks))[0][2]


def _coefficients(t: Any, half: Any, centre: Any, bend: Any, terms: int, count: int) -> Any:
    """cₖ of exp(x), tφ₁(x) and t²φ₂(x), x = t(centre + half·X), `(terms, count, T)`.

    By a Fourier transform around the ellipse that holds the spectrum: the error of cₖ then falls as fast as Tₖ grows.
    """
    dtype = t.dtype
    theta = jnp.arange(2 * terms, dtype=dtype) * jnp.asarray(np.pi / terms, dtype)
    radius = bend + jnp.sqrt(1 + bend**2)
    # X − 1 without cancellation where θ is small.
    real = (radius + 1 / radius) / 2 * -2 * jnp.sin(theta / 2) ** 2 + ((radius + 1 / radius) / 2 - 1)
    point = jax.lax.complex(real, (radius - 1 / radius) / 2 * jnp.sin(theta))
    t = t[:, None]
    x = t * (centre + half + half * point)
    values = jnp.stack([jnp.exp(x), *((t * phi(1, x), t * t * phi(2, x)) if count > 1 else ())])
    order = jnp.arange(terms, dtype=dtype)
    waves = jnp.fft.fft(values, axis=-1)[..., :terms].real.astype(dtype) / (2 * terms)
    c = waves * radius**-order * jnp.where(order == 0, 1.0, 2.0).astype(dtype)
    return jnp.moveaxis(c, -1, 0)
