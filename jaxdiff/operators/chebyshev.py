"""e^{tA}u and its forced companions by Chebyshev polynomials: products with A alone, on a lattice of any shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

BLOCK = 32  # terms that are summed, or skipped, and kept for the gradient, together
_TURN, _RISE = 6.0, 6.0  # exponents by which an unbalanced or growing operator may amplify roundoff in one go


def terms_needed(operator: Any, t: Any, tolerance: float) -> tuple[Any, Any]:
    """(equal substeps, terms of each) that hold `tolerance` of the peak over a time t; traced.

    The coefficients fall as exp(−k²/2z), z = t·half the spectrum, and imaginary parts make polynomials grow as
    exp(k·turn/half).
    """
    lower, upper, turn = jax.lax.stop_gradient(operator.spectrum())
    half = jnp.maximum((lower + upper) / 2, jnp.finfo(lower.dtype).tiny)
    substeps = jnp.ceil(jnp.maximum(1.0, t * jnp.maximum(turn**2 / (2 * half) / _TURN, upper / _RISE)))
    z, bend = t / substeps * half, turn / half
    digits = jnp.log(1.0 / tolerance)
    return substeps, jnp.ceil(z * bend + jnp.sqrt((z * bend) ** 2 + 2 * z * digits + (0.4 * digits) ** 2)) + 2


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

    One recurrence serves all times. Of `terms`, a multiple of `BLOCK`, only `needed` are summed. Reverse mode keeps one
    state per block. With `observe`, a linear map of states, its values `(T, …)` alone are summed.
    Source: Tal-Ezer & Kosloff 1984, doi:10.1063/1.448136.
    """
    dtype = u.dtype
    lower, upper, _ = jax.lax.stop_gradient(operator.spectrum())
    half, centre = (lower + upper) / 2, (upper - lower) / 2
    half = jnp.maximum(half, jnp.finfo(dtype).tiny).astype(dtype)
    coefficients = _coefficients(jnp.asarray(t, dtype), half, upper, terms, 1 if forcing is None else 3)
    states = u[None] if forcing is None else jnp.stack([u, *forcing])
    seen = (lambda v: v) if observe is None else observe
    centre = centre.astype(dtype)

    def product(v: Any) -> Any:
        return (operator @ v - centre * v) / half

    def add(carry: Any, c: Any) -> Any:
        last, now, total = carry
        total = total + jnp.einsum("pt,p...->t...", c, seen(now), precision="highest")
        return (now, 2 * product(now) - last, total), None

    @jax.checkpoint
    def block(carry: Any, rows: Any) -> Any:
        first, c = rows
        return jax.lax.cond(first < needed, lambda x: jax.lax.scan(add, x, c)[0], lambda x: x, carry), None

    total = jnp.zeros((coefficients.shape[-1], *jax.eval_shape(seen, states).shape[1:]), dtype)
    blocks = coefficients.reshape(-1, BLOCK, *coefficients.shape[1:])
    start = (product(states), states, total)  # T₋₁ = T₁
    starts = BLOCK * jnp.arange(terms // BLOCK)
    return jax.lax.scan(block, start, (starts, blocks))[0][2]


def _coefficients(t: Any, half: Any, upper: Any, terms: int, count: int) -> Any:
    """cₖ of exp(x), tφ₁(x) and t²φ₂(x), x = t(upper − half(1 − cos θ)), by a cosine transform: `(terms, count, T)`."""
    theta = (jnp.arange(terms) + 0.5) * (jnp.pi / terms)
    t = t[:, None]
    x = t * (upper - 2 * half * jnp.sin(theta / 2).astype(t.dtype) ** 2)
    functions = [jnp.exp(x)]
    if count > 1:
        small = jnp.abs(x) < 0.5
        s, r = jnp.where(small, x, 0.0), jnp.where(small, 1.0, x)
        series: Any = 0.0
        for k in range(15, 1, -1):  # φ₂ = Σ sᵏ⁻²/k!
            series = (series * s + 1.0) / (k + 1) if k < 15 else 1.0 / (k + 1)
        phi2 = jnp.where(small, (series * s + 1.0) / 2, (jnp.expm1(r) / r - 1.0) / r)
        functions += [t * (1.0 + x * phi2), t * t * phi2]
    values = jnp.stack(functions)
    mirrored = jnp.concatenate([values, values[..., ::-1]], axis=-1)
    order = jnp.arange(terms)
    waves = jnp.fft.rfft(mirrored, axis=-1)[..., :terms] * jnp.exp(-0.5j * jnp.pi * order / terms)
    c = (waves.real / terms).astype(t.dtype) * jnp.where(order == 0, 0.5, 1.0).astype(t.dtype)
    return jnp.moveaxis(c, -1, 0)
