"""Generators of nearest-neighbour motion: rates up, rates down and loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.operators.linear import linear
from jaxdiff.operators.recurrence import affine, pivots, unit


class Tridiagonal(eqx.Module):
    """A of dN/dt = A N for contents N that hop between neighbouring cells.

    dNᵢ/dt = upᵢ₋₁ Nᵢ₋₁ + downᵢ₊₁ Nᵢ₊₁ − (upᵢ + downᵢ + lossᵢ) Nᵢ, all rates [1/time], shape `(n,)`.
    On an open axis the outermost rates `up[-1]` and `down[0]` leave the domain; on a periodic one they join its ends.
    The diagonal is never stored: formed from the rates it keeps mass to roundoff at any stiffness. `diffusive` tells that
    no drift carries anything: A is then symmetric in the weights of its cells, and normal.
    """

    up: Float[Array, " n"]
    down: Float[Array, " n"]
    loss: Float[Array, " n"]
    periodic: bool = eqx.field(static=True, default=False)
    diffusive: bool = eqx.field(static=True, default=False)

    without_subtraction: ClassVar[bool] = True  # so that what takes ever so long keeps its digits

    @property
    def exit(self) -> Float[Array, " n"]:
        """Total rate out of each cell, the negative diagonal."""
        return self.up + self.down + self.loss

    @property
    def leak(self) -> Float[Array, " n"]:
        """Rate at which each cell loses content for good, the negative column sum."""
        if self.periodic:
            return self.loss
        return self.loss.at[0].add(self.down[0]).at[-1].add(self.up[-1])

    def __matmul__(self, content: Any) -> Any:
        """A N along the first axis."""
        return _inflow(self.up, self.down, content, self.periodic) - _column(self.exit, content) * content

    @property
    def closed(self) -> Tridiagonal:
        """The same without what leaves at the ends."""
        if self.periodic:
            return self
        up, down = self.up.at[-1].set(0.0), self.down.at[0].set(0.0)
        return Tridiagonal(up, down, self.loss, False, self.diffusive)

    def cut_off(self, content: Any) -> tuple[Any, Any]:
        """Of the rates up what leads beyond the last cell, as a share, and the content there."""
        out, all_ = self.up[-1] * content[-1], jnp.sum(self.up * content)
        return out / jnp.where(all_ > 0, all_, 1.0), jnp.where(self.up[-1] > 0, content[-1], 0.0)

    @property
    def jumps(self) -> tuple[Any, Any, Any]:
        """From which state `(m,)` to which `(m,)`, and at which rate `(m,)`, on an open axis."""
        n = np.arange(len(self.up))
        return np.r_[n[:-1], n[1:]], np.r_[n[1:], n[:-1]], jnp.concatenate([self.up[:-1], self.down[1:]])

    def action(self, scale: Any = 1.0, shift: Any = 0.0) -> Callable[[Any], Any]:
        """N ↦ scale (A − shift) N for use in a loop; of −shift above all exits it adds and multiplies positive numbers alone."""
        up, down, stay = scale * self.up, scale * self.down, -scale * (self.exit + shift)
        return eqx.Partial(_hop, up, down, stay, self.periodic)

    def resolvent(self, a: Any, b: Any, factors: Any = None, more: Any = None) -> Callable[[Any], Any]:
        """u ↦ (aI + bA)⁻¹ u; `a`, `b` may be arrays `(k,)`, then u is `(n,)` or `(n, k)` and the result `(n, k)`.

        `factors` are those of `self.factors(a, b, more)`, where they are at hand; `more` is a loss beside that of A, `(n,)` or
        one for each lane `(n, k)`, complex where these are; of length one, the same in all cells.
        """
        a, lanes, rates = self._scaled(a, b, more)
        solve = _solver(rates, a, self.periodic, factors)

        def apply(u: Any) -> Any:
            x = solve(u if jnp.ndim(u) == 2 else jnp.asarray(u)[:, None])
            return x if lanes else x[:, 0]

        return apply

    def factors(self, a: Any, b: Any, more: Any = None) -> Any:
        """What `resolvent(a, b)` eliminates with, a pytree of arrays without derivatives."""
        a, _, rates = self._scaled(a, b, more)
        return _factors(rates, a, self.periodic)

    def _scaled(self, a: Any, b: Any, more: Any) -> tuple[Any, Any, tuple[Any, Any, Any]]:
        """`a` in lanes, their shape, and the rates of −bA."""
        a, b = jnp.asarray(a), jnp.asarray(b)
        lanes = jnp.broadcast_shapes(a.shape, b.shape)
        scaled = lambda rate: rate[:, None] * -b
        loss = scaled(self.loss)
        if more is not None and len(more) == 1:
            a = a - b * more[0]
        elif more is not None:
            loss = loss - b * (more if jnp.ndim(more) == 2 else more[:, None])
        return jnp.broadcast_to(a, lanes or (1,)), lanes, (scaled(self.up), scaled(self.down), loss)

    def bound(self) -> Any:
        """Gershgorin bound on |λ| of the symmetrised operator."""
        hop = jnp.sqrt(jnp.abs(self.up * _shifted(self.down, -1, self.periodic)))
        hop = hop if self.periodic else hop.at[-1].set(0.0)
        return jnp.max(jnp.abs(self.exit) + hop + _shifted(hop, 1, self.periodic))

    def flows(self, content: Any) -> list[tuple[Any, Any]]:
        """Content per time that hops up across each face between cells, and down."""
        up, down = self.up * content, _shifted(self.down * content, -1, self.periodic)
        return [(up, down) if self.periodic else (up[:-1], down[:-1])]

    def stopped(self, target: Any) -> Tridiagonal:
        """The same until content comes to cells of `target` `(n,)`: what hops there is lost, and what is there stays apart."""
        below, above = (_shifted(target, by, self.periodic) for by in (1, -1))
        onto = self.up * above + self.down * below
        keep = lambda rate, there: jnp.where(target | there, 0.0, rate)
        loss = jnp.where(target, jnp.max(self.exit), self.loss + onto)
        return type(self)(keep(self.up, above), keep(self.down, below), loss, self.periodic, self.diffusive)

    def growth(self) -> Any:
        """Upper bound on the growth rate: max(0, min(largest column sum, largest row sum))."""
        columns = jnp.max(-self.leak)
        rows = jnp.max(_inflow(self.up, self.down, jnp.ones_like(self.up), self.periodic) - self.exit)
        rows = rows + 4.0 * jnp.finfo(self.up.dtype).eps * jnp.max(
            jnp.abs(self.exit)
        )  # they cancel, column sums do not
        return jnp.maximum(0.0, jnp.minimum(columns, rows))

    def advection(self) -> Any:
        """The largest 2 (up − down)²/(up + down) at a face, v²/D of the drift [1/time]: how fast A leaves what is normal."""
        back = _shifted(self.down, -1, self.periodic)
        up, back = (self.up, back) if self.periodic else (self.up[:-1], back[:-1])
        both = up + back
        return jnp.max(2.0 * (up - back) ** 2 / jnp.where(both == 0, 1.0, both), initial=0.0)

    def imaginary_bound(self) -> Any:
        """How far a drift draws the field of values off the real axis, for forces of mean size [1/time]."""
        hop, force = self._forces()
        return 2.0 * hop * jnp.sinh(jnp.mean(jnp.abs(force)))

    def _forces(self) -> tuple[Any, Any]:
        """The largest rate between two cells, both ways, and ln(up/down)/2 across the faces."""
        tiny = jnp.finfo(self.up.dtype).tiny
        up, back = self.up, _shifted(self.down, -1, self.periodic)
        up, back = (up, back) if self.periodic else (up[:-1], back[:-1])
        force = (jnp.log(jnp.maximum(up, tiny)) - jnp.log(jnp.maximum(back, tiny))) / 2.0
        return jnp.max(jnp.sqrt(jnp.maximum(up * back, 0.0)), initial=0.0), force


def _column(rate: Any, like: Any) -> Any:
    return rate if jnp.ndim(like) == 1 else rate.reshape(-1, *(1,) * (jnp.ndim(like) - 1))


def _shifted(a: Any, by: int, periodic: bool) -> Any:
    """The neighbour's value: by = 1 from below, by = −1 from above; nothing enters an open end."""
    if periodic:
        return jnp.roll(a, by, axis=0)
    zero = jnp.zeros_like(a[:1])
    return jnp.concatenate([zero, a[:-1]] if by == 1 else [a[1:], zero])


def _inflow(up: Any, down: Any, content: Any, periodic: bool) -> Any:
    up, down = (_column(rate, content) if rate.ndim == 1 else rate for rate in (up, down))
    return _shifted(up * content, 1, periodic) + _shifted(down * content, -1, periodic)


def _hop(up: Any, down: Any, stay: Any, periodic: bool, content: Any) -> Any:
    return stay * content + _inflow(up, down, content, periodic)


def _solver(rates: tuple[Any, Any, Any], a: Any, periodic: bool, factors: Any = None) -> Callable[[Any], Any]:
    """b ↦ x with (a + loss + up + down)·x − inflow(x) = b, lanes in the trailing axis."""
    up, down, loss = rates
    factors = _factors(rates, a, periodic) if factors is None else factors
    if periodic and len(up) == 1:  # what leaves its only cell comes back to it
        up, down, periodic = jnp.zeros_like(up), jnp.zeros_like(down), False
    return lambda rhs: _solved((up, down, loss), a, rhs, factors=factors, periodic=periodic, transposed=False)


@eqx.filter_custom_jvp
def _solved(rates: Any, a: Any, rhs: Any, *, factors: Any, periodic: bool, transposed: bool) -> Any:
    """x `(n, k)` of rates, lanes `(k,)` and a right-hand side `(n, k)` or, the same in all lanes, `(n, 1)`.

    Derivatives stand on the factors already computed: a tangent or cotangent costs one substitution, and no intermediate is kept.
    """

    def solve(known: Any, rhs: Any) -> Any:
        factors = known[-1]
        return factors.transposed(rhs) if transposed else factors.substitute(rhs)

    def back(known: Any, cotangent: Any) -> Any:
        rates, a, factors = known
        factors = jax.lax.stop_gradient(factors)
        return _within(rhs, _solved(rates, a, cotangent, factors=factors, periodic=periodic, transposed=not transposed))

    with jax.numpy_dtype_promotion("standard"):  # whatever the rules of the session: a number that is weak stays so
        dtype = jnp.result_type(*rates, a, rhs)
    like = jax.ShapeDtypeStruct((len(rhs), len(a)), dtype)
    return linear(solve, back, (rates, a, factors), rhs, like=like)


@_solved.def_jvp
def _solved_jvp(primals: Any, tangents: Any, *, factors: Any, periodic: bool, transposed: bool) -> tuple[Any, Any]:
    rates, a, rhs = primals
    x = _solved(rates, a, rhs, factors=factors, periodic=periodic, transposed=transposed)

    def solve(known: Any, rhs: Any, transposed: bool) -> Any:
        rates, a, factors, _ = known
        return _solved(rates, a, rhs, factors=jax.lax.stop_gradient(factors), periodic=periodic, transposed=transposed)

    def forward(known: Any, changes: Any) -> Any:
        (up, down, loss), a, rhs = changes
        x = known[-1]
        moved = sum((change * x for change in (up, down, loss, a) if change is not None), start=jnp.zeros_like(x))
        for rate, by in ((up, 1), (down, -1)):
            if rate is not None:
                moved = moved - (rate * _shifted(x, -by, periodic) if transposed else _shifted(rate * x, by, periodic))
        return solve(known, -moved if rhs is None else rhs - moved, transposed)

    def backward(known: Any, cotangent: Any) -> Any:
        y, x = solve(known, cotangent, not transposed), known[-1]
        (up, down, loss), a, rhs = tangents
        one, other = (y, x) if transposed else (x, y)
        above, below = (_shifted(other, by, periodic) for by in (-1, 1))
        in_rates = (
            None if up is None else _within(up, one * (above - other)),
            None if down is None else _within(down, one * (below - other)),
            None if loss is None else _within(loss, -one * other),
        )
        in_a = None if a is None else jnp.sum(_within(a, -one * other), axis=0)
        return in_rates, in_a, None if rhs is None else _within(rhs, y)

    return x, linear(forward, backward, (rates, a, factors, x), tangents, like=x)


def _within(like: Any, cotangent: Any) -> Any:
    """A cotangent in each lane as one of what is real, or the same in all lanes, or both."""
    cotangent = cotangent if jnp.iscomplexobj(like) else cotangent.real
    return jnp.sum(cotangent, axis=1, keepdims=True) if jnp.shape(like)[1:] == (1,) else cotangent


def _factors(rates: tuple[Any, Any, Any], a: Any, periodic: bool) -> OpenElimination | PeriodicElimination:
    (up, down, loss), a = jax.lax.stop_gradient((rates, a))
    if periodic and len(up) == 1:
        return OpenElimination(jnp.zeros_like(up), jnp.zeros_like(down), loss, a)
    return (PeriodicElimination if periodic else OpenElimination)(up, down, loss, a)


class OpenElimination(eqx.Module):
    """Elimination from both ends towards the middle, without subtraction (Grassmann, Taksar, Heyman 1985).

    With U the rate inwards and D the rate outwards of a row, e = a + loss + D·e₋/d₋ and d = e + U.
    Two ends at once halve the length of the loop. doi:10.1287/opre.33.5.1107
    """

    inverse: Any  # 1/d of all rows but the two that meet in the middle
    forth: Any  # the rate from a row to the next one inwards,
    back: Any  # and from that one to it
    end: Any  # e + U of the two rows that meet, in units of the largest,
    last: Any  # their rates towards each other,
    middle: Any  # and the reciprocal of their determinant, in the same units but for one
    cells: int = eqx.field(static=True)

    def __init__(self, up: Any, down: Any, loss: Any, a: Any):
        self.cells = len(up)
        dtype = jnp.result_type(up, down, loss, a)
        regular = 1.0 + 2.0 * jnp.max(jnp.abs(a))
        inward, outward, loss = self._fold(up, down, 0.0), self._fold(down, up, 0.0), self._fold(loss, loss, regular)
        self.inverse, e = pivots(a.astype(dtype)[None, None], loss, outward, inward)
        self.forth, self.back = inward[:-1], outward[1:]
        last = jnp.broadcast_to(inward[-1], e.shape)
        size = unit(jnp.maximum(jnp.max(jnp.abs(e), 0), jnp.max(jnp.abs(last), 0)), dtype)
        e, self.last = e / size, last / size
        self.end = e + self.last
        self.middle = 1.0 / (e[0] * e[1] + e[0] * self.last[1] + self.last[0] * e[1]) / size

    def substitute(self, rhs: Any) -> Any:
        return self._sweep(rhs, self.forth, self.back, self.last[::-1])

    def transposed(self, rhs: Any) -> Any:
        return self._sweep(rhs, self.back, self.forth, self.last)

    def _sweep(self, rhs: Any, forth: Any, back: Any, across: Any) -> Any:
        rhs = self._fold(rhs, rhs, 0.0)
        last = jnp.broadcast_to(rhs[-1:], (1, *self.end.shape))
        y = affine(jnp.concatenate([rhs[:-1] * self.inverse, last]), self.inverse, forth)
        last = y[-1] if len(y) == 1 else y[-1] + forth[-1] * y[-2]
        end = (last * self.end[::-1] + across * last[::-1]) * self.middle
        x = affine(y.at[-1].set(end), self.inverse, back, reverse=True)
        return jnp.concatenate([x[:, 0], x[::-1, 1][: self.cells // 2]])

    def _fold(self, lower: Any, upper: Any, fill: Any) -> Any:
        """The rows of both halves side by side, from the ends to the middle."""
        m = (self.cells + 1) // 2
        upper = upper[::-1][: self.cells - m]
        if self.cells % 2:  # a cell of its own before the upper end makes the halves equal
            upper = jnp.concatenate([jnp.full((1, *upper.shape[1:]), fill, upper.dtype), upper])
        return jnp.stack([lower[:m], upper], axis=1)


class PeriodicElimination(eqx.Module):
    """The open axis that is left where a periodic one is cut at its last cell, the hub: what leaves it returns or dies on the way."""

    open: OpenElimination
    visit: Any  # contents of the rest while the hub holds one
    escape: Any
    entry: Any  # from the ends of the rest to the hub

    def __init__(self, up: Any, down: Any, loss: Any, a: Any):
        self.open = OpenElimination(up[:-1], down[:-1], loss[:-1], a)
        dtype = jnp.result_type(up, down, loss, a)
        self.visit = self.open.substitute(
            jnp.zeros((len(up) - 1, len(a)), dtype).at[0].add(up[-1]).at[-1].add(down[-1])
        )
        kill = a + loss
        self.escape = kill[-1] + jnp.sum(kill[:-1] * self.visit, axis=0)
        self.entry = jnp.stack([down[0], up[-2]])

    def substitute(self, rhs: Any) -> Any:
        x = self.open.substitute(rhs[:-1])
        hub = (rhs[-1] + self.entry[0] * x[0] + self.entry[1] * x[-1]) / self.escape
        return jnp.concatenate([x + self.visit * hub, hub[None]])

    def transposed(self, rhs: Any) -> Any:
        hub = (rhs[-1] + jnp.sum(self.visit * rhs[:-1], axis=0)) / self.escape
        x = self.open.transposed(rhs[:-1].at[0].add(self.entry[0] * hub).at[-1].add(self.entry[1] * hub))
        return jnp.concatenate([x, hub[None]])
