"""Generators of nearest-neighbour motion: rates up, rates down and loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Tridiagonal(eqx.Module):
    """A of dN/dt = A N for contents N that hop between neighbouring cells.

    dNᵢ/dt = upᵢ₋₁ Nᵢ₋₁ + downᵢ₊₁ Nᵢ₊₁ − (upᵢ + downᵢ + lossᵢ) Nᵢ, all rates [1/time], shape `(n,)`.
    On a chain the outermost rates `up[-1]` and `down[0]` leave the domain; on a ring they join its ends.
    The diagonal is never stored: formed from the rates it keeps mass to roundoff at any stiffness.
    """

    up: Float[Array, " n"]
    down: Float[Array, " n"]
    loss: Float[Array, " n"]
    ring: bool = eqx.field(static=True, default=False)

    @property
    def exit(self) -> Float[Array, " n"]:
        """Total rate out of each cell, the negative diagonal."""
        return self.up + self.down + self.loss

    @property
    def leak(self) -> Float[Array, " n"]:
        """Rate at which each cell loses content for good, the negative column sum."""
        if self.ring:
            return self.loss
        return self.loss.at[0].add(self.down[0]).at[-1].add(self.up[-1])

    def __matmul__(self, content: Any) -> Any:
        """A N along the first axis."""
        return _inflow(self.up, self.down, content, self.ring) - _column(self.exit, content) * content

    def backward(self, values: Any) -> Any:
        """Aᵀ f, the backward (Kolmogorov) operator, with f = 0 outside an open chain."""
        above, below = _shifted(values, -1, self.ring), _shifted(values, 1, self.ring)
        up, down = _column(self.up, values), _column(self.down, values)
        return up * above + down * below - _column(self.exit, values) * values

    def resolvent(self, a: Any, b: Any) -> Callable[[Any], Any]:
        """u ↦ (aI + bA)⁻¹ u; `a`, `b` may be arrays `(k,)`, then u is `(n,)` or `(n, k)` and the result `(n, k)`."""
        a, b = jnp.asarray(a), jnp.asarray(b)
        lanes = jnp.broadcast_shapes(a.shape, b.shape)
        up, down, loss = (rate[:, None] * -b for rate in (self.up, self.down, self.loss))
        solve = _solver(up, down, loss, jnp.broadcast_to(a, lanes or (1,)), self.ring)

        def apply(u: Any) -> Any:
            x = solve(u if jnp.ndim(u) == 2 else jnp.asarray(u)[:, None])
            return x if lanes else x[:, 0]

        return apply

    def bound(self) -> Any:
        """Gershgorin bound on |λ| of the symmetrised operator."""
        hop = jnp.sqrt(jnp.abs(self.up * _shifted(self.down, -1, self.ring)))
        hop = hop if self.ring else hop.at[-1].set(0.0)
        return jnp.max(jnp.abs(self.exit) + hop + _shifted(hop, 1, self.ring))

    def growth(self) -> Any:
        """Upper bound on the growth rate: max(0, min(largest column sum, largest row sum))."""
        columns = jnp.max(-self.leak)
        rows = jnp.max(_inflow(self.up, self.down, jnp.ones_like(self.up), self.ring) - self.exit)
        return jnp.maximum(0.0, jnp.minimum(columns, rows))

    def circulation(self) -> Any:
        """Rate 2·max s·sinh²-bounded at which a driven ring turns; 0 on a chain. Its spectrum is complex by this much."""
        if not self.ring:
            return jnp.zeros((), self.up.dtype)
        hop, force = self._forces()
        sinh = jnp.abs(jnp.sinh(jnp.mean(force)))
        return jnp.minimum(4.0 * hop * sinh**2, 2.0 * hop * sinh)

    def turn(self) -> Any:
        """How far a drift draws the field of values off the real axis, for forces of mean size [1/time]."""
        hop, force = self._forces()
        return 2.0 * hop * jnp.sinh(jnp.mean(jnp.abs(force)))

    def _forces(self) -> tuple[Any, Any]:
        """The largest rate between two cells, both ways, and ln(up/down)/2 across the faces."""
        tiny = jnp.finfo(self.up.dtype).tiny
        up, back = self.up, _shifted(self.down, -1, self.ring)
        up, back = (up, back) if self.ring else (up[:-1], back[:-1])
        force = (jnp.log(jnp.maximum(up, tiny)) - jnp.log(jnp.maximum(back, tiny))) / 2.0
        return jnp.max(jnp.sqrt(jnp.maximum(up * back, 0.0)), initial=0.0), force


def _column(rate: Any, like: Any) -> Any:
    return rate if jnp.ndim(like) == 1 else rate.reshape(-1, *(1,) * (jnp.ndim(like) - 1))


def _shifted(a: Any, by: int, ring: bool) -> Any:
    """The neighbour's value: by = 1 from below, by = −1 from above; nothing enters an open end."""
    if ring:
        return jnp.roll(a, by, axis=0)
    zero = jnp.zeros_like(a[:1])
    return jnp.concatenate([zero, a[:-1]] if by == 1 else [a[1:], zero])


def _inflow(up: Any, down: Any, content: Any, ring: bool) -> Any:
    up, down = (_column(rate, content) if rate.ndim == 1 else rate for rate in (up, down))
    return _shifted(up * content, 1, ring) + _shifted(down * content, -1, ring)


def _solver(up: Any, down: Any, loss: Any, a: Any, ring: bool) -> Callable[[Any], Any]:
    """b ↦ x with (a + loss + up + down)·x − inflow(x) = b, lanes in the trailing axis.

    The derivative rules come from the linear solve, on the factors already computed: a tangent or cotangent costs
    one substitution, and no intermediate is kept.
    """
    if ring and len(up) == 1:  # what leaves its only cell comes back to it
        up, down, ring = jnp.zeros_like(up), jnp.zeros_like(down), False
    dtype, shape = jnp.result_type(up, down, loss, a), (len(up), len(a))
    substitute, transposed = (_ring_factors if ring else _chain_factors)(*jax.lax.stop_gradient((up, down, loss, a)))

    def matvec(x: Any) -> Any:
        return (a + loss + up + down) * x - _inflow(up, down, x, ring)

    def solve(rhs: Any) -> Any:
        rhs = jnp.broadcast_to(rhs, shape).astype(jnp.result_type(dtype, rhs))
        return jax.lax.custom_linear_solve(matvec, rhs, lambda _, b: substitute(b), lambda _, b: transposed(b))

    return solve


def _reciprocal(d: Any) -> Any:
    """1/d; pivots are far from overflow, so a complex one needs no scaling."""
    return jnp.conj(d) * (1.0 / (d.real**2 + d.imag**2)) if jnp.iscomplexobj(d) else 1.0 / d


def _chain_factors(up: Any, down: Any, loss: Any, a: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Eliminate from both ends towards the middle, without subtraction (Grassmann, Taksar, Heyman 1985).

    With U the rate inwards and D the rate outwards of a row, e = a + loss + D·e₋/d₋ and d = e + U.
    Two ends at once halve the length of the loop. Returns b ↦ x and the transposed map. doi:10.1287/opre.33.5.1107
    """
    n = len(up)
    m = (n + 1) // 2
    dtype, lanes = jnp.result_type(up, down, loss, a), (2, len(a))

    def fold(lower: Any, upper: Any, fill: float) -> Any:
        upper = upper[::-1][: n - m]
        if n % 2:  # a cell of its own before the upper end makes the halves equal
            upper = jnp.concatenate([jnp.full((1, *upper.shape[1:]), fill, upper.dtype), upper])
        return jnp.stack([lower[:m], upper], axis=1)

    inward, outward, loss = fold(up, down, 0.0), fold(down, up, 0.0), fold(loss, loss, 1.0)

    def eliminate(e: Any, row: Any) -> Any:
        loss, outwards, inwards = row
        return (a + loss) + outwards * (e * _reciprocal(e + inwards))

    zero = jnp.zeros_like(inward[:1])
    killed = recurrence(eliminate, jnp.ones(lanes, dtype), (loss, outward, jnp.concatenate([zero, inward[:-1]])))
    inverse, e = _reciprocal(killed + inward), killed[-1]
    last = jnp.broadcast_to(inward[-1], e.shape)
    middle = 1.0 / (e[0] * e[1] + e[0] * last[1] + last[0] * e[1])
    # What a row gives to the next one inwards, and takes from it on the way back.
    forth, back = inward[:-1] * inverse[:-1], outward[1:] * inverse[:-1]

    def sweep(rhs: Any, forth: Any, back: Any, across: Any) -> Any:
        none = jnp.zeros_like(inverse[0])
        step = lambda y, row: row[0] + row[1] * y
        y = recurrence(step, none, (fold(rhs, rhs, 0.0), jnp.concatenate([none[None], forth])))
        end = (y[-1] * (e + last)[::-1] + across * y[-1][::-1]) * middle
        x = recurrence(step, end, ((y * inverse)[:-1][::-1], back[::-1]))
        x = jnp.concatenate([x[::-1], end[None]])
        return jnp.concatenate([x[:, 0], x[::-1, 1][: n - m]])

    return lambda b: sweep(b, forth, back, last[::-1]), lambda b: sweep(b, back, forth, last)


def recurrence(step: Callable[[Any, Any], Any], start: Any, rows: Any) -> Any:
    """All yᵢ = step(yᵢ₋₁, rowᵢ), from y₋₁ = start."""

    def both(y: Any, row: Any) -> Any:
        y = step(y, row)
        return y, y

    return jax.lax.scan(both, start, rows)[1]


def _ring_factors(up: Any, down: Any, loss: Any, a: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Cut the ring at its last cell, the hub: what leaves the hub returns to it or dies on the chain."""
    solve, solve_transposed = _chain_factors(up[:-1], down[:-1], loss[:-1], a)
    dtype = jnp.result_type(up, down, loss, a)
    entry = jnp.zeros((len(up) - 1, len(a)), dtype).at[0].add(up[-1]).at[-1].add(down[-1])
    visit = solve(entry)
    kill = a + loss
    escape = kill[-1] + jnp.sum(kill[:-1] * visit, axis=0)
    to_hub_low, to_hub_high = down[0], up[-2]

    def substitute(rhs: Any) -> Any:
        x = solve(rhs[:-1])
        hub = (rhs[-1] + to_hub_low * x[0] + to_hub_high * x[-1]) / escape
        return jnp.concatenate([x + visit * hub, hub[None]])

    def transposed(rhs: Any) -> Any:
        hub = (rhs[-1] + jnp.sum(visit * rhs[:-1], axis=0)) / escape
        x = solve_transposed(rhs[:-1].at[0].add(to_hub_low * hub).at[-1].add(to_hub_high * hub))
        return jnp.concatenate([x, hub[None]])

    return substitute, transposed
