"""Generators of jumps between states of a sparse graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.operators.block_tridiagonal import Reduction, by_factors
from jaxdiff.operators.blocking import Blocking, blocking
from jaxdiff.operators.linear import linear


class Sparse(eqx.Module):
    """A of dN/dt = A N for contents N that jump between states, few from each.

        dNᵢ/dt = Σⱼ rⱼ→ᵢ Nⱼ − (Σⱼ rᵢ→ⱼ + lossᵢ) Nᵢ

    Args:
        rates: of the jumps `(m,)` [1/time]; several between two states add up, and one from a state to itself is none.
        loss: `(n,)` [1/time], negative for growth.
        sources, targets: numbers of the states that each jump leaves and enters `(m,)`, NumPy arrays; or in place of both the
            `Blocking` of them.

    Raises:
        ValueError: numbers that are none of states, or not one for each rate.

    Products gather, forwards and back. A resolvent is that of a `BlockTridiagonal`, n s² operations for each shift, where
    jumps reach no further than s states in the best order found: few along chains, the short side of a lattice.

    >>> import jax.numpy as jnp
    >>> from jaxdiff.operators import Sparse
    >>> ring = Sparse(jnp.array([1.0, 2.0, 3.0]), jnp.zeros(3), [0, 1, 2], [1, 2, 0])
    >>> [float(flow) for flow in ring @ jnp.array([1.0, 1.0, 0.0])]
    [-1.0, -1.0, 2.0]
    """

    rates: Float[Array, " m"]
    loss: Float[Array, " n"]
    blocking: Blocking = eqx.field(static=True)

    diffusive: ClassVar[bool] = False
    detailed_balance: ClassVar[bool] = False
    without_subtraction: ClassVar[bool] = True

    def __init__(self, rates: Any, loss: Any, sources: Any, targets: Any = None):
        rates, loss = jnp.asarray(rates, jnp.result_type(rates, float)), jnp.asarray(loss)
        self.blocking = sources if targets is None else blocking(sources, targets, len(loss))
        if rates.shape != self.blocking.sources.shape:
            raise ValueError(f"expected a rate for each of {len(self.blocking.sources)} jumps, got shape {rates.shape}")
        away = self.blocking.sources != self.blocking.targets
        self.rates = rates if away.all() else jnp.where(away, rates, 0.0)
        self.loss = loss.astype(rates.dtype)

    @property
    def exit(self) -> Float[Array, " n"]:
        """Total rate out of each state, the negative diagonal."""
        return _summed(self.rates, self.blocking.leaving, self.blocking.sources, len(self.loss)) + self.loss

    @property
    def leak(self) -> Float[Array, " n"]:
        """Rate at which each state loses content for good, the negative column sum."""
        return self.loss

    @property
    def weights(self) -> Float[Array, " n"]:
        return jnp.ones_like(self.loss)

    @property
    def closed(self) -> Sparse:
        """Itself: what it loses is no matter of where states end."""
        return self

    @property
    def jumps(self) -> tuple[np.ndarray, np.ndarray, Any]:
        """From which state `(m,)` to which `(m,)`, and at which rate `(m,)`."""
        return self.blocking.sources, self.blocking.targets, self.rates

    def __matmul__(self, content: Any) -> Any:
        """A N along the first axis."""
        return self.action()(content)

    def action(self, scale: Any = 1.0, shift: Any = 0.0) -> Callable[[Any], Any]:
        """N ↦ scale (A − shift) N for use in a loop; of −shift above all exits it adds and multiplies positive numbers alone."""
        return _Action(self.blocking, scale * self.rates, -scale * (self.exit + shift))

    def resolvent(self, a: Any, b: Any, factors: Any = None) -> Callable[[Any], Any]:
        """u ↦ (aI + bA)⁻¹ u; `a`, `b` may be arrays `(k,)`, then u is `(n,)` or `(n, k)` and the result `(n, k)`."""
        return by_factors(self, a, b, factors)

    def factors(self, a: Any, b: Any) -> Ordered:
        """What `resolvent(a, b)` eliminates with, a pytree of arrays without derivatives."""
        blocks = self.blocking.blocked(*jax.lax.stop_gradient((self.rates, self.loss)))
        return Ordered(blocks.factors(a, b), self.blocking)

    def stopped(self, target: Any) -> Sparse:
        """The same until content comes to states of `target` `(n,)`: what jumps there is lost, and what is there stays apart."""
        source, onto, rates = self.jumps
        lost = jnp.where(target[onto], rates, 0.0)
        lost = _summed(lost, self.blocking.leaving, source, len(self.loss))
        rates = jnp.where(target[source] | target[onto], 0.0, rates)
        return Sparse(rates, jnp.where(target, jnp.max(self.exit), self.loss + lost), self.blocking)

    def bound(self) -> Any:
        """Gershgorin bound on |λ|."""
        return jnp.max(jnp.abs(self.exit)) + self.imaginary_bound()

    def imaginary_bound(self) -> Any:
        """Gershgorin bound on |Im λ|."""
        columns, rows = (_summed(jnp.abs(self.rates), *way, len(self.loss)) for way in self._ways)
        return jnp.minimum(jnp.max(columns), jnp.max(rows))

    def growth(self) -> Any:
        """Upper bound on the growth rate: max(0, min(largest column sum, largest row sum))."""
        rows = jnp.max(_summed(self.rates, *self._ways[1], len(self.loss)) - self.exit)
        rows = rows + 4.0 * jnp.finfo(rows.dtype).eps * jnp.max(jnp.abs(self.exit))
        return jnp.maximum(0.0, jnp.minimum(jnp.max(-self.loss), rows))

    def advection(self) -> Any:
        """The largest Σᵢ 2 (rⱼ→ᵢ − rᵢ→ⱼ)²/(rⱼ→ᵢ + rᵢ→ⱼ) of a state: how fast A leaves what is normal [1/time]."""
        (source, target, rates), n = self.jumps, len(self.loss)
        low, high = np.minimum(source, target), np.maximum(source, target)
        pairs, which = np.unique(low * n + high, return_inverse=True)
        both, net = (
            jax.ops.segment_sum(x, which, len(pairs)) for x in (rates, jnp.where(source == low, rates, -rates))
        )
        each = 2.0 * net**2 / jnp.where(both == 0, 1.0, both)
        return jnp.max(jax.ops.segment_sum(jnp.tile(each, 2), np.r_[pairs // n, pairs % n], n))

    @property
    def _ways(self) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        return (self.blocking.leaving, self.blocking.sources), (self.blocking.entering, self.blocking.targets)


class Ordered(eqx.Module):
    """The factors of a generator whose states are put in order."""

    factors: Reduction
    blocking: Blocking = eqx.field(static=True)

    def solve(self, rhs: Any) -> Any:
        return self.blocking.scatter(self.factors.solve(self.blocking.gather(rhs)))

    def transposed(self, rhs: Any) -> Any:
        return self.blocking.scatter(self.factors.transposed(self.blocking.gather(rhs)))


class _Action(eqx.Module):
    """N ↦ what enters at `rates`, and `stay` N."""

    blocking: Blocking = eqx.field(static=True)
    entering: Any
    stay: Any

    def __init__(self, blocking: Blocking, rates: Any, stay: Any):
        self.blocking, self.stay = blocking, stay
        table = blocking.entering
        self.entering = rates if table is None else _picked(rates, table, _places(table, len(rates)))

    def __call__(self, content: Any) -> Any:
        column = lambda x: x.reshape(*x.shape, *(1,) * (content.ndim - 1))
        source, target, table = self.blocking.sources, self.blocking.targets, self.blocking.entering
        if table is None:
            entered = jax.ops.segment_sum(column(self.entering) * content[source], target, len(content))
        else:
            n = len(content)
            sources = np.append(source, n)[table]
            leaving = self.blocking.leaving
            back = None if leaving is None else np.append(_places(table, len(source)), table.size)[leaving]
            entered = jnp.sum(column(self.entering) * _picked(content, sources, back), axis=0)
        return entered + column(self.stay) * content


def _places(table: np.ndarray, count: int) -> np.ndarray:
    """Where in the flat table each of so many jumps stands."""
    flat = table.ravel()
    there = np.flatnonzero(flat < count)
    places = np.empty(count, np.int64)
    places[flat[there]] = there
    return places


def _picked(x: Any, table: np.ndarray, back: np.ndarray | None) -> Any:
    """x `(n, …)` at the entries of a table, zero beyond; its transpose gathers too, by the places `back` `(…, n)` of each in the
    flat table, as scatters take many times as long on a CPU."""
    get = lambda x, at: jnp.asarray(x).at[at].get(mode="fill", fill_value=0)
    if back is None:
        return get(x, table)
    like = jax.ShapeDtypeStruct((*table.shape, *x.shape[1:]), x.dtype)

    def transposed(_: Any, y: Any) -> Any:
        found = get(y.reshape(-1, *x.shape[1:]), back)
        return found if back.ndim == 1 else jnp.sum(found, axis=0)

    return linear(lambda _, x: get(x, table), transposed, (), x, like=like)


def _summed(rates: Any, table: Any, ends: np.ndarray, states: int) -> Any:
    """The sum of the rates of all jumps of each state."""
    if table is None:
        return jax.ops.segment_sum(rates, ends, states)
    return jnp.sum(_picked(rates, table, _places(table, len(rates))), axis=0)
