"""What moves, in exchange with phases that do not: bound, trapped, immobile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.operators.axis_sum import Spectrum
from jaxdiff.operators.basis import Basis, Diagonal
from jaxdiff.operators.propagators import propagate


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
        every mode by the poles of the exponential."""
        basis, rates = self.mobile.basis, self.mobile.rates
        # The poles are moved by what grows: by more, as by what would grow without the phases, the digits of all else are lost.
        growth = jnp.linalg.eigvalsh(self._scaled(jnp.max(rates)))[-1]
        decay = _Decay(-rates.ravel(), jnp.maximum(growth, 0.0))
        operator = Phases(decay, self.into[:, None], self.back[:, None], (rates.size,))
        start = basis.analyse(u)
        flat = start.reshape(-1)
        forcing = jnp.zeros_like(flat) if constant is None else basis.analyse(constant).reshape(-1)

        def states(t: Any) -> Any:
            to_time = lambda v, b: jax.lax.map(lambda one: propagate(operator, one, v, b), t)
            found = to_time(flat.real, forcing.real)
            if jnp.iscomplexobj(flat):
                found = jax.lax.complex(found, to_time(flat.imag, forcing.imag))
            return basis.synthesise(found.reshape(len(t), *start.shape))

        return states

    def _scaled(self, rate: Any) -> Any:
        """The matrix of one mode `(1 + phases, 1 + phases)`, scaled to be symmetric; of the fastest it bounds all others."""
        hop = jnp.sqrt(self.into * self.back)
        matrix = jnp.diag(jnp.concatenate([(rate - sum(self.into))[None], -self.back]))
        return jax.lax.stop_gradient(matrix.at[0, 1:].set(hop).at[1:, 0].set(hop))


class _Decay(eqx.Module):
    """A of modes `(n,)` that each decay at a rate of their own, and how fast anything grows beside the phases."""

    loss: Any
    most: Any
    diffusive = True

    @property
    def exit(self) -> Any:
        return self.loss

    @property
    def leak(self) -> Any:
        return self.loss

    def growth(self) -> Any:
        return self.most

    def resolvent(self, a: Any, b: Any, factors: Any = None, more: Any = 0.0) -> Callable[[Any], Any]:
        return lambda u: u / (a - b * (self.loss[:, None] + more))
