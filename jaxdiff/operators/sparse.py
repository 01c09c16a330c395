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
    def block_size(self) -> int:
        """How many states a block of a resolvent has."""
        return self.blocking.size

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
        rates, stay, table = scale * self.rates, -scale * (self.exit + shift), self.blocking
        if table.entering is None or table.leaving is None:
            return eqx.Partial(_by_segments, table, rates, stay)
        entering, leaving = (_arranged(rates, rows) for rows in (table.entering, table.leaving))
        return eqx.Partial(_product, table, entering, leaving, stay)

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


def _by_segments(table: Blocking, rates: Any, stay: Any, content: Any) -> Any:
    """Where one state has most of the jumps."""
    entered = jax.ops.segment_sum(_column(rates, content) * content[table.sources], table.targets, len(content))
    return entered + _column(stay, content) * content


@eqx.filter_custom_jvp
def _product(table: Blocking, entering: Any, leaving: Any, stay: Any, content: Any) -> Any:
    """What enters and what stays; leaving serves the transpose alone, as scatters take many times as long on a CPU."""
    return _flow(table.origins, entering, content) + _column(stay, content) * content


@_product.def_jvp
def _product_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    table, entering, leaving, stay, content = primals
    _, d_entering, _, d_stay, d_content = tangents

    def forwards(known: Any, x: Any) -> Any:
        return _product(table, *known, x)

    def back(known: Any, y: Any) -> Any:
        return _flow(table.destinations, known[1], y) + _column(known[2], y) * y

    out = forwards((entering, leaving, stay), content)
    moved = jnp.zeros_like(out)
    if d_content is not None:
        moved = moved + linear(forwards, back, (entering, leaving, stay), d_content, like=out)
    if d_entering is not None:
        moved = moved + _flow(table.origins, d_entering, content)
    if d_stay is not None:
        moved = moved + _column(d_stay, content) * content
    return out, moved


def _flow(others: np.ndarray, rates: Any, content: Any) -> Any:
    """The sum of rates `(d, n)` times the contents of other states `(d, n)`; row by row, which XLA gathers ten times as fast."""
    content = jnp.asarray(content)
    found = [
        _column(rate, content) * content.at[row].get(mode="promise_in_bounds")
        for rate, row in zip(rates, others, strict=True)
    ]
    return sum(found, jnp.zeros_like(content))


def _arranged(rates: Any, rows: np.ndarray) -> Any:
    """The rates `(m,)` of the jumps in rows `(d, n)`, zero where there is none."""
    m, flat = len(rates), rows.ravel()
    there = np.flatnonzero(flat < m)
    places = np.empty(m, np.int64)
    places[flat[there]] = there
    get = lambda x, at: jnp.asarray(x).at[at].get(mode="fill", fill_value=0)
    pick = lambda _, x: jnp.stack([get(x, row) for row in rows]) if len(rows) else jnp.zeros(rows.shape, x.dtype)
    like = jax.ShapeDtypeStruct(rows.shape, rates.dtype)
    return linear(pick, lambda _, y: y.ravel()[places], (), rates, like=like)


def _summed(rates: Any, rows: Any, ends: np.ndarray, states: int) -> Any:
    """The sum of the rates of all jumps of each state."""
    return jax.ops.segment_sum(rates, ends, states) if rows is None else jnp.sum(_arranged(rates, rows), axis=0)


def _column(rate: Any, like: Any) -> Any:
    return rate.reshape(*rate.shape, *(1,) * (like.ndim - 1))
