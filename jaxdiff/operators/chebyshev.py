"""e^{tA}u and its forced companions by Chebyshev polynomials: products with A alone, on a lattice of any shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.operators.axis_sum import AxisSum
from jaxdiff.operators.basis import phi
from jaxdiff.operators.linear import linear

BLOCK = 16  # terms between two questions whether all are summed, each of which stops an accelerator
PARTS = 8  # in which terms that grow are formed again, so that roundoff grows by the square of a part's growth alone
_TURN, _RISE = 3.0, 3.0  # exponents by which an unbalanced or growing operator may amplify roundoff in one go


def terms_needed(operator: Any, t: Any, tolerance: Any) -> tuple[Any, Any]:
    """(equal substeps, terms of each) that hold `tolerance` of the peak over a time t; traced.

    The coefficients fall as exp(−k²/2z), z = t·half the spectrum, and imaginary parts make polynomials grow as
    exp(k·imaginary/half).
    """
    half, imaginary, most, digits = _limits(operator, tolerance)
    substeps = jnp.ceil(jnp.maximum(1.0, t / most))
    z, bend = t / substeps * half, imaginary / half
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
    half, imaginary, most, digits = _limits(operator, tolerance)
    z = ((terms - 3) ** 2 - (0.4 * digits) ** 2) / (2 * (digits + (terms - 3) * imaginary / half))
    return jnp.minimum(most, z / half)


def _limits(operator: Any, tolerance: Any) -> tuple[Any, Any, Any, Any]:
    """Half the spectrum, its imaginary parts, the longest time of one substep, and −ln of the error."""
    lower, upper, imaginary = jax.lax.stop_gradient(operator.spectrum())
    tiny = jnp.finfo(lower.dtype).tiny
    half = jnp.maximum((lower + upper) / 2, tiny)
    most = 1.0 / jnp.maximum(jnp.maximum(imaginary**2 / (2 * half) / _TURN, upper / _RISE), tiny)
    return half, imaginary, most, jnp.log(1.0 / jnp.maximum(tolerance, 2 * jnp.finfo(lower.dtype).eps))


def chebyshev(
    operator: Any,
    t: Any,
    u: Any,
    forcing: tuple[Any, Any] | None = None,
    *,
    terms: int,
    needed: Any,
    observe: Callable[[Any], Any] | None = None,
    kernel: bool = False,
) -> Any:
    """u(t) `(T, *cells)` of du/dt = A u + b₀ + b₁ s at times `(T,)` from the same start.

        e^{tA}u + tφ₁(tA) b₀ + t²φ₂(tA) b₁,   each Σ cₖ(t) Tₖ(X),   X = (A − c)/w with spectrum in [−1, 1]

    One recurrence serves all times, two terms at a time: with the signs turned, as they are here, of two states each
    is changed in place by a product with the other. Of `terms`, a multiple of `BLOCK`, only `needed` are summed. With `observe`, a
    linear map of states, its values `(T, …)` alone are. Reverse mode keeps no term; its own derivatives are those of forward
    mode, as in `jax.hessian`.
    A `kernel` may take two products in one pass, see `AxisSum.leap`.
    Source: Tal-Ezer & Kosloff 1984, doi:10.1063/1.448136.
    """
    dtype = u.dtype
    lower, upper, imaginary = jax.lax.stop_gradient(operator.spectrum())
    half, centre = (lower + upper) / 2, (upper - lower) / 2
    half = jnp.maximum(half, jnp.finfo(dtype).tiny).astype(dtype)
    bend = (imaginary / half).astype(dtype)
    coefficients = _coefficients(jnp.asarray(t, dtype), half, centre, bend, terms, 1 if forcing is None else 3)
    states = u[None] if forcing is None else jnp.stack([u, *forcing])
    scaling = (2 / half, centre.astype(dtype))
    leap = jax.lax.stop_gradient(operator).leap(*scaling) if kernel and isinstance(operator, AxisSum) else None
    return _summed(operator, scaling, coefficients, states, needed, observe, leap)


def _summed(
    operator: Any, scaling: Any, coefficients: Any, states: Any, needed: Any, observe: Any, leap: Any = None
) -> Any:
    """Σ cₖ Tₖ(X) of states `(count, *cells)`, 2X the action at that scaling, with c `(terms, count, T)` of which so many are needed."""
    terms = len(coefficients)
    signs = jnp.asarray(np.resize([1.0, -1.0, -1.0, 1.0], terms), states.real.dtype)[:, None, None]  # of T₁, T₂, …
    later = signs * jnp.concatenate([coefficients[1:], jnp.zeros_like(coefficients[:1])])
    blocks = jnp.clip(jnp.ceil(most_of_batch(needed) / BLOCK).astype(int), 0, terms // BLOCK)
    return _sum(
        _Series(
            twice=eqx.filter_closure_convert(operator.action(*scaling), states),
            seen=eqx.filter_closure_convert(observe or (lambda v: v), states),
            first=coefficients[0],
            later=later.reshape(terms // BLOCK, BLOCK // 2, 2, *coefficients.shape[1:]),
            states=states,
            parts=1 if operator.diffusive else PARTS,
            leap=leap and eqx.filter_closure_convert(leap, states, states),
        ),
        blocks,
    )


def turns_needed(operator: Any, t: Any, tolerance: Any) -> Any:
    """Terms of e^{itA}, A symmetric with the `spread` of its eigenvalues, that hold `tolerance`; traced.

    Bessel functions Jₖ(z) fall from k = z on as exp(−k (2 (k − z)/k)^{3/2}/3).
    """
    z, digits = jax.lax.stop_gradient(t * operator.spread() / 2), jnp.log(1.0 / tolerance)
    return jnp.ceil(z + (3 * digits) ** (2 / 3) * jnp.cbrt(z) / 2 + digits / 2 + 4)


def turned(
    operator: Any, t: Any, u: Any, *, terms: int, needed: Any, observe: Callable[[Any], Any] | None = None
) -> Any:
    """e^{itA}u `(T, *cells)` of a symmetric A at times `(T,)` from the same start, as `chebyshev`.

    Σ (2 − δₖ₀) iᵏ Jₖ(w t) e^{ict} Tₖ(X),   X = (A − c)/w with spectrum in [−1, 1]
    """
    t = jnp.asarray(t, u.real.dtype)
    lower, upper, _ = jax.lax.stop_gradient(operator.spectrum())
    half, centre = jnp.maximum((lower + upper) / 2, jnp.finfo(t.dtype).tiny), (upper - lower) / 2
    theta = jnp.arange(2 * terms, dtype=t.dtype) * jnp.asarray(np.pi / terms, t.dtype)
    angle = t[:, None] * (centre + half * jnp.cos(theta))
    waves = jnp.fft.fft(jax.lax.complex(jnp.cos(angle), jnp.sin(angle)), axis=-1)[:, :terms] / (2 * terms)
    c = (waves * jnp.where(jnp.arange(terms) == 0, 1.0, 2.0).astype(t.dtype)).T[:, None]
    return _summed(operator, (2 / half, centre), c, u[None], needed, observe)


class _Series(eqx.Module):
    """Σ cₖ Tₖ(X) of states `(count, *cells)`: 2X, what is seen of a state, c₀ `(count, T)`, the others two at a time."""

    twice: Callable[[Any], Any]
    seen: Callable[[Any], Any]
    first: Any
    later: Any
    states: Any
    parts: int = eqx.field(static=True)
    leap: Callable[[Any, Any], Any] | None = None  # two products in one go; the derivatives are those of `twice`

    def share(self, c: Any, states: Any) -> Any:
        return jnp.einsum("pt,p...->t...", c, self.seen(states), precision="highest")

    def part(self, i: Any, blocks: Any) -> tuple[Any, Any]:
        """Where a part of the blocks starts and stops."""
        each = -(-blocks // self.parts)
        return jnp.minimum(i * each, blocks), jnp.minimum((i + 1) * each, blocks)

    def run(self, blocks: Any) -> tuple[Any, Any]:
        """The sum, and the last two terms of every part."""

        def add(carry: Any, c: Any) -> Any:
            odd, even, total = carry
            if self.leap is None:
                odd = odd + self.twice(even)
                even = even - self.twice(odd)
            else:
                odd, even = self.leap(odd, even)
            return (odd, even, total + self.share(c[0], odd) + self.share(c[1], even)), None

        start = (-self.twice(self.states) / 2, self.states, self.share(self.first, self.states))  # T₋₁ = T₁

        def run_part(carry: Any, i: Any) -> Any:
            # A kernel writes beside what it reads: two in turn leave a loop's state where it was, without a copy.
            one = lambda k, carry: jax.lax.scan(add, carry, self.later[k], unroll=1 if self.leap is None else 2)[0]
            carry = jax.lax.fori_loop(*self.part(i, blocks), one, carry)
            return carry, carry[:2]

        (_, _, total), ends = jax.lax.scan(run_part, start, jnp.arange(self.parts))
        return total, ends


@eqx.filter_custom_jvp
def _sum(series: Any, blocks: Any) -> Any:
    return series.run(blocks)[0]


@_sum.def_jvp
def _sum_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    (series, blocks), (moves, _) = primals, tangents
    total, ends = series.run(blocks)
    series = eqx.tree_at(lambda s: s.leap, series, None, is_leaf=lambda x: x is None)
    moves = eqx.tree_at(lambda s: s.leap, moves, None, is_leaf=lambda x: x is None)
    moved = jax.tree.map(lambda x: x is not None, moves, is_leaf=lambda x: x is None)
    arrays, static = eqx.partition(series, eqx.is_array)

    def forward(known: Any, moves: Any) -> Any:
        arrays, blocks, _ = known
        free, fixed = eqx.partition(eqx.combine(arrays, static), moved)
        return jax.jvp(lambda free: eqx.combine(free, fixed).run(blocks)[0], (free,), (moves,))[1]

    def backward(known: Any, weight: Any) -> Any:
        arrays, blocks, ends = known
        return _pull(eqx.combine(arrays, static), moved, blocks, ends, weight)

    return total, linear(forward, backward, (arrays, blocks, ends), moves, like=total)


def _pull(series: _Series, moved: Any, blocks: Any, ends: Any, weight: Any) -> _Series:
    """The gradient of Σ weight · sum in those parts of a series that are moved.

    The recurrence Tₖ₋₁ = 2X Tₖ − Tₖ₊₁ is as stable backwards as forwards: from the last two terms it forms the others
    again, beside the cotangents, which follow the same one. So none is kept, but a few where terms grow on the way.
    """
    free, fixed = eqx.partition(series, moved)
    asked = bool(jax.tree.leaves((free.twice, free.seen, free.later)))  # for terms

    def product(rates: Any, v: Any) -> Any:
        return eqx.combine(rates, series.twice)(v)

    def shares(seen: Any, c: Any, odd: Any, even: Any) -> Any:
        share = eqx.tree_at(lambda s: s.seen, series, eqx.combine(seen, series.seen)).share
        return share(c[0], odd) + share(c[1], even)

    def back(carry: Any, c: Any) -> Any:
        odd, even, to_odd, to_even, rates, seen = carry
        by_seen, by_c, by_odd, by_even = jax.vjp(shares, free.seen, c, odd, even)[1](weight)
        to_odd, to_even = to_odd + by_odd, to_even + by_even

        change, pull = jax.vjp(product, free.twice, odd)
        even = even + change if asked else even
        by_rates, by_odd = pull(-to_even)
        to_odd = to_odd + by_odd

        change, pull = jax.vjp(product, free.twice, even)
        odd = odd - change if asked else odd
        more, by_even = pull(to_odd)
        to_even = to_even + by_even

        rates = jax.tree.map(lambda total, *each: total + sum(each), rates, by_rates, more)
        return (odd, even, to_odd, to_even, rates, jax.tree.map(jnp.add, seen, by_seen)), by_c

    def back_part(carry: Any, row: Any) -> Any:
        i, end = row
        start, stop = series.part(i, blocks)

        def back_block(i: Any, carry: Any) -> Any:
            later, *carry = carry
            k = stop - 1 - i
            carry, by_c = jax.lax.scan(back, tuple(carry), series.later[k], reverse=True)
            return (later if later is None else later.at[k].set(by_c), *carry)

        later, *carry = carry
        later, _, _, *carry = jax.lax.fori_loop(0, stop - start, back_block, (later, *end, *carry))
        return (later, *carry), None

    def start(free: Any) -> Any:
        s = eqx.combine(free, fixed)
        return -s.twice(s.states) / 2, s.states, s.share(s.first, s.states)

    parts = lambda s: (s.later, s.twice, s.seen)
    none = jax.tree.map(jnp.zeros_like, parts(free))
    zero = jnp.zeros_like(series.states)
    (later, to_odd, to_even, *found), _ = jax.lax.scan(
        back_part, (none[0], zero, zero, *none[1:]), (jnp.arange(series.parts), ends), reverse=True
    )
    (by_start,) = jax.vjp(start, free)[1]((to_odd, to_even, weight))
    added = jax.tree.map(jnp.add, parts(by_start), (later, *found))
    return eqx.tree_at(parts, by_start, added, is_leaf=lambda x: x is None)


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
