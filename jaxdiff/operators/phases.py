"""What moves, in exchange with phases that do not: bound, trapped, immobile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from jaxdiff.operators.axis_sum import Spectrum
from jaxdiff.operators.basis import Basis, Diagonal
from jaxdiff.operators.propagators import Poles


class Phases(eqx.Module):
    """A of contents N of a mobile phase and w₁, w₂, … of phases that stay where they are.

        dN/dt = M N − Σ inⱼ N + Σ outⱼ wⱼ,   dwⱼ/dt = inⱼ N − outⱼ wⱼ

    Contents are `(1 + phases, *cells)`, and on one axis a row of all cells of the mobile phase, then of the next. `into`,
    `back` are in and out [1/time], `(phases, *cells)`, or of length one along the axes where all cells are alike. In a
    resolvent the phases stand on the diagonal of M:

        (aI + bA)⁻¹:   wⱼ = (rⱼ − b inⱼ N)/(a − b outⱼ),   loss + Σ inⱼ a/(a − b outⱼ) in place of the loss
    """

    mobile: Any
    into: Float[Array, " p *cells"]
    back: Float[Array, " p *others"]
    cells: tuple[int, ...] = eqx.field(static=True)

    @property
    def diffusive(self) -> bool:
        return self.mobile.diffusive

    @property
    def modes(self) -> Any:
        """Of the resolvents of what moves, where they are formed once for several."""
        return getattr(self.mobile, "modes", None)

    @property
    def detailed_balance(self) -> bool:
        return self.mobile.detailed_balance

    @property
    def separable(self) -> bool:
        return False

    @property
    def exit(self) -> Any:
        """Total rate out of each cell of each phase, the negative diagonal."""
        return self._joined(self.mobile.exit + sum(self.into), self.back)

    @property
    def leak(self) -> Any:
        """Rate at which each cell loses content for good, the negative column sum."""
        return self._joined(self.mobile.leak, jnp.zeros((len(self.back), *self.cells), self.back.dtype))

    def __matmul__(self, content: Any) -> Any:
        return self._act(self.mobile.__matmul__, self.into, self.back, 0.0, content)

    def action(self, scale: Any = 1.0, shift: Any = 0.0) -> Callable[[Any], Any]:
        """N ↦ scale (A − shift) N for use in a loop, with what does not change formed before it."""
        of_mobile = self.mobile.action(scale, shift)
        into, back = scale * self.into, scale * self.back
        return eqx.Partial(self._act, of_mobile, into, back, scale * shift)

    def _act(self, of_mobile: Any, into: Any, back: Any, shift: Any, content: Any) -> Any:
        parts = content.reshape(-1, len(self.into) + 1, *self.cells)
        free, bound = parts[:, 0], [parts[:, j + 1] for j in range(len(into))]
        flows = [a * free - b * w for a, b, w in zip(into, back, bound, strict=True)]
        rest = [flow - shift * w for flow, w in zip(flows, bound, strict=True)]
        return jnp.stack([jax.vmap(of_mobile)(free) - sum(flows), *rest], 1).reshape(content.shape)

    def resolvent(self, a: Any, b: Any, factors: Any = None) -> Callable[[Any], Any]:
        """u ↦ (aI + bA)⁻¹ u; on one axis `a`, `b` may be arrays `(k,)`, then u is `(n,)` or `(n, k)` and the result `(n, k)`."""
        if len(self.cells) > 1:
            return self._on_lattice(a, b)
        a, b = jnp.asarray(a), jnp.asarray(b)
        several = jnp.broadcast_shapes(a.shape, b.shape)
        more, released = self._eliminated(a, b)
        of_mobile = self.mobile.resolvent(*jnp.broadcast_arrays(a, b), factors, more)

        def apply(u: Any) -> Any:
            u = jnp.asarray(u)
            if several and u.ndim == 1:
                u = u[:, None]
            rows = u.reshape(len(self.into) + 1, *self.cells, *u.shape[1:])
            back, into = (rate[..., None] if several else rate for rate in (self.back, self.into))
            free = of_mobile(rows[0] - sum(b * back * released * rows[1:]))
            bound = released * (rows[1:] - b * into * free)
            return jnp.concatenate([free[None], bound]).reshape(-1, *free.shape[1:])

        return apply

    def factors(self, a: Any, b: Any) -> Any:
        """What `resolvent(a, b)` eliminates with, a pytree of arrays without derivatives."""
        return self.mobile.factors(a, b, self._eliminated(jnp.asarray(a), jnp.asarray(b))[0])

    def _eliminated(self, a: Any, b: Any) -> tuple[Any, Any]:
        """The loss that stands for the phases, and 1/(a − b out): in lanes the last axis."""
        lanes = jnp.broadcast_shapes(a.shape, b.shape)
        into, back = (rate[..., None] if lanes else rate for rate in (self.into, self.back))
        released = 1.0 / (a - b * back)
        return sum(into * a * released), released  # XLA reduces few rows far more slowly than it adds them

    def _on_lattice(self, a: Any, b: Any) -> Callable[[Any], Any]:
        """For real a and b, by iteration: what the loss that stands for the phases is on average, shifts `a`."""
        more, released = self._eliminated(jnp.asarray(a), jnp.asarray(b))
        mean = jnp.mean(more)
        opened = eqx.tree_at(lambda m: m.loss, self.mobile, self.mobile.loss + (more - mean))
        of_mobile = opened.resolvent(a - b * mean, b)

        def apply(u: Any) -> Any:
            free = of_mobile(u[0] - sum(b * self.back * released * u[1:]))
            return jnp.concatenate([free[None], released * (u[1:] - b * self.into * free)])

        return apply

    def diagonal(self, basis: Basis) -> Modal:
        """The same in the basis of constant rates."""
        of_phase = lambda rates: rates.reshape(len(rates), -1)[:, 0]
        return Modal(self.mobile.diagonal(basis), of_phase(self.into), of_phase(self.back))

    def spectrum(self) -> Spectrum:
        """By Gershgorin's circles, of the matrix scaled to be symmetric between the phases."""
        lower, upper, imaginary = self.mobile.spectrum()
        hop = jnp.sqrt(self.into * self.back)
        least = jnp.maximum(lower + jnp.max(jnp.sum(self.into + hop, 0)), jnp.max(self.back + hop))
        return Spectrum(least, upper, imaginary)

    def bound(self) -> Any:
        """On |λ|."""
        hop = jnp.sqrt(self.into * self.back)
        return jnp.maximum(self.mobile.bound() + jnp.max(jnp.sum(self.into + hop, 0)), jnp.max(self.back + hop))

    def imaginary_bound(self) -> Any:
        """On the imaginary part of λ."""
        return self.mobile.imaginary_bound()

    def growth(self) -> Any:
        """Upper bound on the growth rate: what no phase holds back."""
        return self.mobile.growth()

    def advection(self) -> Any:
        return self.mobile.advection()

    def _joined(self, mobile: Any, phases: Any) -> Any:
        phases = jnp.broadcast_to(phases, (len(phases), *self.cells))
        found = jnp.concatenate([jnp.broadcast_to(mobile, self.cells)[None], phases])
        return found if len(self.cells) > 1 else found.ravel()


class Modal(eqx.Module):
    """The same where what moves is diagonal, and the rates `(phases,)` are those of all cells."""

    mobile: Diagonal
    into: Any
    back: Any

    def solution(self, u: Any, constant: Any = None) -> Callable[[Any], Any]:
        """The solution from u `(1 + phases, *cells)` as a function of times `(T,)`, with values `(T, 1 + phases, *cells)`: in
        every mode by the poles of the exponential. Of a constant forcing nothing enters the phases."""
        basis, rates = self.mobile.basis, self.mobile.rates
        start = basis.analyse(u)
        content = start if constant is None else jnp.concatenate([start, basis.analyse(constant[:1])])
        parts = [content.real, content.imag] if jnp.iscomplexobj(content) else [content]
        lanes = jnp.stack(parts, 1)
        growth = self._growth(jnp.max(rates))

        def states(t: Any) -> Any:
            found = _by_poles(t, rates, self.into, self.back, growth, lanes)
            return basis.synthesise(
                found[:, :, 0] if len(parts) == 1 else jax.lax.complex(found[:, :, 0], found[:, :, 1])
            )

        return states

    def _growth(self, rate: Any) -> Any:
        """Of the fastest mode, which bounds that of all others. More, as what it would be without the phases, would cost the
        digits of all else."""
        hop = jnp.sqrt(self.into * self.back)
        matrix = (
            jnp.diag(jnp.concatenate([(rate - sum(self.into))[None], -self.back])).at[0, 1:].set(hop).at[1:, 0].set(hop)
        )
        matrix = jax.lax.stop_gradient(matrix)
        of_matrix = lambda: jnp.maximum(jnp.linalg.eigvalsh(matrix)[-1], 0.0)
        return jax.lax.cond(jax.lax.stop_gradient(rate) > 0, of_matrix, lambda: jnp.zeros((), matrix.dtype))


class _Poles(NamedTuple):
    """The exponential in any mode as a sum of weights/(bare − t rate) over poles, real parts, for times `(T,)`."""

    bare: Any  # (poles, T)
    weights: Any  # (1 + phases, rows of content, poles, T)
    alone: Any  # (1 + phases, T), of what never moves
    scale: Any  # (T,), of all, by how much anything grows

    @staticmethod
    def of(t: Any, into: Any, back: Any, growth: Any, rows: int) -> _Poles:
        rational = Poles(t.dtype)
        column = lambda x: jnp.asarray(x, jnp.result_type(t, jnp.complex64))[:, None]
        poles, shares, scale = (
            column(rational.poles) + t * growth,
            column(-2.0 * rational.residues),
            jnp.exp(t * growth),
        )
        released = 1.0 / (poles + t * back[:, None, None])
        taken, given = t * into[:, None, None] * released, t * back[:, None, None] * released
        # With its slope at zero, which the rational function has only to 2e-12, a closed domain holds what entered.
        slope = float(-2.0 * np.sum(rational.residues / rational.poles**2).real)
        entered = t / poles - t * (slope - 1.0) / scale
        one = jnp.ones_like(poles)[None]
        gathered, spread = jnp.concatenate([one, given, entered[None]])[:rows], jnp.concatenate([one, taken])
        alone = jnp.sum((shares * released).real, 1)
        return _Poles(
            poles * (1.0 + sum(taken)),
            shares * spread[:, None] * gathered,
            rational.constant + jnp.concatenate([jnp.zeros_like(t)[None], alone]),
            scale,
        )


@jax.custom_jvp
def _by_poles(t: Any, rates: Any, into: Any, back: Any, growth: Any, content: Any) -> Any:
    """Content `(T, 1 + phases, lanes, *modes)` at times `(T,)` from that at first, `(1 + phases, lanes, *modes)`, or one row
    more, of what enters in time. In real numbers, as complex ones divide slowly: Re w/(d + ie) = (w′d + w″e)/(d² + e²)."""
    at = jax.tree.map(
        lambda x: x.reshape(*x.shape, *[1] * (content.ndim - 1)), _Poles.of(t, into, back, growth, len(content))
    )
    along, across = at.weights.real, at.weights.imag * at.bare.imag
    moved = t.reshape(at.scale.shape) * rates
    found = [share * c for share, c in zip(at.alone, content, strict=False)]
    for q, bare in enumerate(at.bare):
        real, imaginary = bare.real - moved, bare.imag
        inverse = 1.0 / (real * real + imaginary * imaginary)
        for row in range(len(found)):
            first = sum(w[q] * c for w, c in zip(along[row], content, strict=True))
            second = sum(w[q] * c for w, c in zip(across[row], content, strict=True))
            found[row] = found[row] + (first * real + second) * inverse
    return jnp.stack([at.scale * row for row in found], 1)


@partial(_by_poles.defjvp, symbolic_zeros=True)
def _by_poles_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    found = _by_poles(*primals)
    change = jnp.zeros_like(found)
    *of_rates, _, of_content = [None if isinstance(x, SymbolicZero) else x for x in tangents]
    if of_content is not None:
        change = change + _by_poles(*primals[:-1], of_content)
    if any(x is not None for x in of_rates):
        filled = tuple(jnp.zeros_like(x) if y is None else y for x, y in zip(primals, of_rates, strict=False))
        change = change + jax.jvp(lambda *rates: _in_products(*rates, *primals[4:]), primals[:4], filled)[1]
    return found, change


def _in_products(t: Any, rates: Any, into: Any, back: Any, growth: Any, content: Any) -> Any:
    """`_by_poles` by products of matrices, whose derivatives are products too: those of its sums would add up over all modes
    once for each weight."""
    at = _Poles.of(t, into, back, growth, len(content))
    bare, flat = at.bare.T[..., None], content.reshape(*content.shape[:2], -1)
    real, imaginary = bare.real - t[:, None, None] * rates.ravel(), bare.imag
    inverse = 1.0 / (real * real + imaginary * imaginary)
    modes = jnp.concatenate([real * inverse, imaginary * inverse], 1)
    found = []
    for share, start, weights in zip(at.alone, flat, at.weights, strict=False):
        parts = jnp.concatenate([weights.real, weights.imag], 1)
        entries = jnp.einsum("kqt,tqn->tkn", parts, modes, precision="highest")
        found.append(share[:, None, None] * start + sum(entries[:, k, None] * c for k, c in enumerate(flat)))
    states = at.scale[:, None, None, None] * jnp.stack(found, 1)
    return states.reshape(*states.shape[:3], *content.shape[2:])
