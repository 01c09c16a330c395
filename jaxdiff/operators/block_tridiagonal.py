"""Generators of jumps between blocks of a few states in a row, each block to its neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.operators.recurrence import reciprocal

_AT_ONCE = 16  # states that are left in the end
_WRITTEN_OUT = 8  # states of a block up to which products of blocks are written out; XLA calls a library for each block


class BlockTridiagonal(eqx.Module):
    """A of dN/dt = A N for contents N of n blocks of S states, with jumps within a block and between neighbours.

        dNᵢ/dt = upᵢ₋₁ Nᵢ₋₁ + withinᵢ Nᵢ + downᵢ₊₁ Nᵢ₊₁ − (exitᵢ + lossᵢ) Nᵢ

    Args:
        up, down, within: `(n, S, S)` from column to row [1/time], from block i to i + 1, to i − 1, and in block i, whose diagonal
            is not read: formed from the rates it keeps mass to roundoff. What `up[-1]` and `down[0]` carry leaves for good.
        loss: `(n, S)` or a number [1/time], negative for growth.

    Contents are `(n S,)`, block after block. The factors of a resolvent take some 8 n S³ operations for each shift, and a column
    5 n S². Contents come out with every digit at any stiffness where nothing grows and the shift is real.

    >>> import jax.numpy as jnp
    >>> from jaxdiff.operators import BlockTridiagonal
    >>> birth, switch = jnp.eye(2) * jnp.array([0.0, 3.0]), jnp.array([[0.0, 1.0], [2.0, 0.0]])
    >>> gene = BlockTridiagonal(jnp.stack([birth] * 3), jnp.zeros((3, 2, 2)), jnp.stack([switch] * 3))
    >>> [float(flow) for flow in gene @ jnp.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])]
    [1.0, -4.0, 0.0, 3.0, 0.0, 0.0]
    """

    up: Float[Array, "n s s"]
    down: Float[Array, "n s s"]
    within: Float[Array, "n s s"]
    loss: Float[Array, "n s"]

    diffusive: ClassVar[bool] = False
    detailed_balance: ClassVar[bool] = False
    without_subtraction: ClassVar[bool] = True

    def __init__(self, up: Any, down: Any, within: Any, loss: Any = 0.0):
        up, down, within = (jnp.asarray(rates, jnp.result_type(rates, float)) for rates in (up, down, within))
        if not (up.ndim == 3 and up.shape == down.shape == within.shape and up.shape[1] == up.shape[2] and len(up)):
            raise ValueError(
                f"rates up, down and within n blocks of S states are (n, S, S) each, got shapes {up.shape}, {down.shape}, {within.shape}"
            )
        self.up, self.down = up, down
        self.within = jnp.where(jnp.eye(up.shape[1], dtype=bool), 0.0, within)
        self.loss = jnp.broadcast_to(jnp.asarray(loss, up.dtype), up.shape[:2])

    @property
    def exit(self) -> Float[Array, " n_s"]:
        """Total rate out of each state, the negative diagonal."""
        return (jnp.sum(self.up + self.down + self.within, axis=1) + self.loss).ravel()

    @property
    def leak(self) -> Float[Array, " n_s"]:
        """Rate at which each state loses content for good, the negative column sum."""
        return self._leak.ravel()

    @property
    def _leak(self) -> Any:
        return self.loss.at[0].add(jnp.sum(self.down[0], axis=0)).at[-1].add(jnp.sum(self.up[-1], axis=0))

    @property
    def weights(self) -> Float[Array, " n_s"]:
        return jnp.ones(self.loss.size, self.loss.dtype)

    def __matmul__(self, content: Any) -> Any:
        """A N along the first axis."""
        content = jnp.asarray(content)
        n, states = self.loss.shape
        blocks = content.reshape(n, states, *content.shape[1:])
        flow = lambda rates, of: jnp.swapaxes(_times(rates, jnp.swapaxes(of, 1, -1)), 1, -1)
        if content.ndim > 1:
            up, down, within = (rates[:, None] for rates in (self.up, self.down, self.within))
        else:
            up, down, within = self.up, self.down, self.within
        entered = flow(within, blocks) + _beside(flow(up[:-1], blocks[:-1]), flow(down[1:], blocks[1:]))
        return entered.reshape(content.shape) - self.exit.reshape(-1, *(1,) * (content.ndim - 1)) * content

    def resolvent(self, a: Any, b: Any, factors: Any = None) -> Callable[[Any], Any]:
        """u ↦ (aI + bA)⁻¹ u; `a`, `b` may be arrays `(k,)`, then u is `(N,)` or `(N, k)` and the result `(N, k)`.

        `factors` are those of `self.factors(a, b)`, where they are at hand.
        """
        return by_factors(self, a, b, factors)

    def factors(self, a: Any, b: Any) -> Reduction:
        """What `resolvent(a, b)` eliminates with, a pytree of arrays without derivatives."""
        fixed, a, b = jax.lax.stop_gradient((self, a, b))
        return Reduction(fixed, *jnp.broadcast_arrays(jnp.atleast_1d(a), b))

    def bound(self) -> Any:
        """Gershgorin bound on |λ|."""
        return jnp.max(jnp.abs(self.exit)) + self.imaginary_bound()

    def imaginary_bound(self) -> Any:
        """Gershgorin bound on |Im λ|."""
        up, down = jnp.abs(self.up).at[-1].set(0.0), jnp.abs(self.down).at[0].set(0.0)
        columns = jnp.sum(up + down + jnp.abs(self.within), axis=1)
        return jnp.minimum(jnp.max(columns), jnp.max(self._entering(jnp.abs)))

    def growth(self) -> Any:
        """Upper bound on the growth rate: max(0, min(largest column sum, largest row sum))."""
        rows = jnp.max(self._entering(lambda rates: rates).ravel() - self.exit)
        rows = rows + 4.0 * jnp.finfo(rows.dtype).eps * jnp.max(jnp.abs(self.exit))
        return jnp.maximum(0.0, jnp.minimum(jnp.max(-self.leak), rows))

    def advection(self) -> Any:
        """The largest Σᵢ 2 (ratesᵢⱼ − ratesⱼᵢ)²/(ratesᵢⱼ + ratesⱼᵢ) of a state: how fast A leaves what is normal [1/time]."""

        def net(rates: Any, back: Any) -> Any:
            both, back = rates + jnp.swapaxes(back, 1, 2), jnp.swapaxes(back, 1, 2)
            return jnp.sum(2.0 * (rates - back) ** 2 / jnp.where(both == 0, 1.0, both), axis=1)

        up, down = net(self.up[:-1], self.down[1:]), net(self.down[1:], self.up[:-1])
        return jnp.max(net(self.within, self.within).at[:-1].add(up).at[1:].add(down))

    def _entering(self, of: Callable[[Any], Any]) -> Any:
        """Sums of rates into each state `(n, S)`."""
        up, down, within = (jnp.sum(of(rates), axis=2) for rates in (self.up, self.down, self.within))
        return within.at[1:].add(up[:-1]).at[:-1].add(down[1:])


def by_factors(operator: Any, a: Any, b: Any, factors: Any = None) -> Callable[[Any], Any]:
    """The resolvent of an operator by its factors, with their derivatives."""
    several = jnp.broadcast_shapes(jnp.shape(a), jnp.shape(b))
    a, b = (jnp.broadcast_to(jnp.asarray(x), several or (1,)) for x in (a, b))
    factors = operator.factors(a, b) if factors is None else factors
    shape, dtype = (operator.loss.size, len(a)), jnp.result_type(a, b, operator.loss)

    def apply(u: Any) -> Any:
        u = jnp.asarray(u)
        rhs = jnp.broadcast_to(u if u.ndim == 2 else u[:, None], shape).astype(jnp.result_type(dtype, u))
        matvec = lambda x: a * x + b * (operator @ x)
        forward, backward = lambda _, r: factors.solve(r), lambda _, r: factors.transposed(r)
        x = jax.lax.custom_linear_solve(matvec, rhs, forward, backward)
        return x if several else x[:, 0]

    return apply


class Reduction(eqx.Module):
    """Cyclic reduction without subtraction: every other block is eliminated, and again of what is left, until nothing is.

    A state that is eliminated leaves to those that it jumps to, at once, the rates of those that jump to it (Grassmann, Taksar,
    Heyman 1985, doi:10.1287/opre.33.5.1107): all flows are sums of products of rates, and pivots are formed from what leaves.
    Half of the blocks at a time makes log₂ n steps of n (Heller 1976, doi:10.1137/0713042).
    """

    levels: list[
        Any
    ]  # of each: the inverses of those that go, rates from them up and down, and their contents for one in those
    # that stay, from below and above: `(blocks, k, s, s)`
    rest: Any  # the inverse of what is left in the end `(k, blocks s, blocks s)`
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, operator: BlockTridiagonal, a: Any, b: Any):
        self.shape, states = operator.loss.shape, operator.loss.shape[1]
        up, down = operator.up.at[-1].set(0.0), operator.down.at[0].set(0.0)
        up, down, within = (rates[:, None] * -b[:, None, None] for rates in (up, down, operator.within))
        kill = a[:, None] - b[:, None] * operator._leak[:, None]
        self.levels = []
        while len(kill) > max(_AT_ONCE // states, 1):
            up, down, within, kill = _odd(up), _odd(down), _odd(within), _odd(kill, 1.0)
            up_go, down_go, go, kill_go = (x[::2] for x in (up, down, within, kill))
            inverse = _inverse(go, kill_go + jnp.sum(up_go, -2) + jnp.sum(down_go, -2))
            up_stay, down_stay, stay, kill_stay = (x[1::2] for x in (up, down, within, kill))
            above, below = _times(inverse[1:], up_stay), _times(inverse[:-1], down_stay)
            self.levels.append((inverse, up_go[:-1], down_go[1:], above, below))
            within = stay + _times(down_go[1:], above) + _times(up_go[:-1], below)
            kill = kill_stay + jnp.sum(kill_go[1:, ..., None] * above + kill_go[:-1, ..., None] * below, -2)
            up, down = _times(up_go[1:], above), _times(down_go[:-1], below)
        self.rest = _inverse(_whole(up, down, within), _flat(kill))

    def solve(self, rhs: Any) -> Any:
        rest, gone = self._blocks(rhs), []
        for inverse, up, down, _, _ in self.levels:
            rest = _odd(rest)
            gone.append(_times(inverse, rest[::2]))
            rest = rest[1::2] + _times(up, gone[-1][:-1]) + _times(down, gone[-1][1:])
        x = self._last(self.rest, rest)
        for (_, _, _, above, below), own in zip(self.levels[::-1], gone[::-1], strict=True):
            x = x[: len(above)]
            x = _joined(own + _beside(_times(above, x), _times(below, x)), x)
        return self._contents(x)

    def transposed(self, rhs: Any) -> Any:
        rest, gone = self._blocks(rhs), []
        for _, _, _, above, below in self.levels:
            rest = _odd(rest)
            gone.append(rest[::2])
            rest = rest[1::2] + _times(_turned(above), gone[-1][1:]) + _times(_turned(below), gone[-1][:-1])
        x = self._last(_turned(self.rest), rest)
        for (inverse, up, down, _, _), own in zip(self.levels[::-1], gone[::-1], strict=True):
            x = x[: len(up)]
            beside = _beside(_times(_turned(down), x), _times(_turned(up), x))
            x = _joined(_times(_turned(inverse), own + beside), x)
        return self._contents(x)

    def _last(self, inverse: Any, rest: Any) -> Any:
        x = jnp.einsum("kij,kj->ki", inverse, _flat(rest), precision="highest")
        return x.reshape(len(x), -1, self.shape[1]).swapaxes(0, 1)

    def _blocks(self, rhs: Any) -> Any:
        return rhs.reshape(*self.shape, -1).swapaxes(1, 2)

    def _contents(self, x: Any) -> Any:
        return x[: self.shape[0]].swapaxes(1, 2).reshape(self.shape[0] * self.shape[1], -1)


def _flat(x: Any) -> Any:
    """`(n, k, s)` as `(k, n s)`."""
    return x.swapaxes(0, 1).reshape(x.shape[1], -1)


def _whole(up: Any, down: Any, within: Any) -> Any:
    """The rates between all states of all blocks `(k, n s, n s)`."""
    n, lanes, states, _ = within.shape
    blocks = jnp.arange(n)
    to = blocks[:, None] - blocks  # from each of the blocks, in the last axis
    place = lambda rates, by: jnp.where((to == by)[..., None, None, None], rates, 0.0)  # (to, from, k, s, s)
    return (place(within, 0) + place(up, 1) + place(down, -1)).transpose(2, 0, 3, 1, 4).reshape(lanes, n * states, -1)


def _odd(x: Any, fill: float = 0.0) -> Any:
    """With a block to itself after the last one where their number is even, so that each that stays is between two that go."""
    return x if len(x) % 2 else jnp.concatenate([x, jnp.full_like(x[:1], fill)])


def _beside(up: Any, down: Any) -> Any:
    """What enters blocks from those below and above them."""
    none = jnp.zeros_like(up, shape=(1, *up.shape[1:]))
    return jnp.concatenate([none, up]) + jnp.concatenate([down, none])


def _joined(gone: Any, stayed: Any) -> Any:
    both = jnp.stack([gone[:-1], stayed], 1).reshape(-1, *gone.shape[1:])
    return jnp.concatenate([both, gone[-1:]])


def _turned(m: Any) -> Any:
    return jnp.swapaxes(m, -1, -2)


def _times(m: Any, other: Any) -> Any:
    """m `(…, s, s)` on a vector `(…, s)` or a matrix `(…, s, s)` for each of what comes before."""
    states = m.shape[-1]
    if other.ndim < m.ndim:
        if states <= 4 * _WRITTEN_OUT:
            return jnp.sum(m * other[..., None, :], -1)
        return jnp.einsum("...ij,...j->...i", m, other, precision="highest")
    if states <= _WRITTEN_OUT:
        return sum(m[..., j, None] * other[..., j, None, :] for j in range(states))
    return jnp.matmul(m, other, precision="highest")


def _inverse(rates: Any, kill: Any) -> Any:
    """(diag(kill + Σᵢ ratesᵢⱼ) − rates)⁻¹ `(…, s, s)` for kill `(…, s)`, state after state, without subtraction.

    Of what is swept: contents where a unit enters, of the rest: rates, and kill; between them: contents of the one for a unit
    in the other.
    """
    states = jnp.arange(kill.shape[-1])
    z = jnp.broadcast_to(rates, (*kill.shape, len(states))).astype(kill.dtype)

    def sweep(s: Any, state: Any) -> Any:
        z, kill = state
        here, ahead = states == s, states > s
        share = reciprocal(kill[..., s] + jnp.sum(jnp.where(ahead, z[..., s], 0.0), -1))[..., None]
        column, row = jnp.where(here, 1.0, z[..., s]), jnp.where(here, 1.0, z[..., s, :]) * share
        kill = kill + jnp.where(ahead, kill[..., s, None] * row, 0.0)
        return jnp.where(here[:, None] | here, 0.0, z) + column[..., None] * row[..., None, :], kill

    return jax.lax.fori_loop(0, len(states), sweep, (z, kill))[0]
