"""Generators of jumps between any two of a few states: a matrix of rates and losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Dense(eqx.Module):
    """A of dN/dt = A N for contents N that jump between any two states.

        dNᵢ/dt = Σⱼ ratesᵢⱼ Nⱼ − (Σⱼ ratesⱼᵢ + lossᵢ) Nᵢ

    Args:
        rates: `(n, n)` from column to row [1/time]; the diagonal may be left out, and is never stored: formed from the rates
            it keeps mass to roundoff. Where a negative one is given, what it differs by from that is loss.
        loss: `(n,)` or a number [1/time], negative for growth.
        diffusive: whether A is symmetric in the weights of the cells, m_j ratesᵢⱼ = m_i ratesⱼᵢ.

    A resolvent inverts the matrix, n³ operations for each shift: for some hundred states.

    >>> import jax.numpy as jnp
    >>> from jaxdiff.operators import Dense
    >>> jump = Dense(jnp.array([[0.0, 1.0], [3.0, 0.0]]))
    >>> [float(flow) for flow in jump @ jnp.array([1.0, 2.0])]
    [-1.0, 1.0]
    """

    rates: Float[Array, "n n"]
    loss: Float[Array, " n"]
    diffusive: bool = eqx.field(static=True)

    detailed_balance: ClassVar[bool] = False

    def __init__(self, rates: Any, loss: Any = 0.0, diffusive: bool = False):
        rates = jnp.asarray(rates, jnp.result_type(rates, float))
        if rates.ndim != 2 or rates.shape[0] != rates.shape[1]:
            raise ValueError(f"rates between n states are a matrix (n, n), from column to row, got shape {rates.shape}")
        self.rates = jnp.where(jnp.eye(len(rates), dtype=bool), 0.0, rates)
        diagonal, size = jnp.diagonal(rates), jnp.sum(jnp.abs(rates), axis=0)
        beyond = -diagonal - jnp.sum(self.rates, axis=0)
        given = (diagonal < 0) & (jnp.abs(beyond) > 1e3 * jnp.finfo(beyond.dtype).eps * size)
        self.loss = jnp.broadcast_to(jnp.asarray(loss, rates.dtype), rates.shape[:1]) + jnp.where(given, beyond, 0.0)
        self.diffusive = diffusive

    @property
    def exit(self) -> Float[Array, " n"]:
        """Total rate out of each state, the negative diagonal."""
        return jnp.sum(self.rates, axis=0) + self.loss

    @property
    def leak(self) -> Float[Array, " n"]:
        """Rate at which each state loses content for good, the negative column sum."""
        return self.loss

    @property
    def weights(self) -> Float[Array, " n"]:
        return jnp.ones_like(self.loss)

    def __matmul__(self, content: Any) -> Any:
        """A N along the first axis."""
        return self.rates @ content - _column(self.exit, content) * content

    @property
    def closed(self) -> Dense:
        """Itself: what it loses is no matter of where states end."""
        return self

    def resolvent(self, a: Any, b: Any, factors: Any = None) -> Callable[[Any], Any]:
        """u ↦ (aI + bA)⁻¹ u; `a`, `b` may be arrays `(k,)`, then u is `(n,)` or `(n, k)` and the result `(n, k)`."""
        several = jnp.broadcast_shapes(jnp.shape(a), jnp.shape(b))
        a, b = (jnp.broadcast_to(jnp.asarray(x), several or (1,)) for x in (a, b))
        inverse = self.factors(a, b) if factors is None else factors
        shape, dtype = (len(self.loss), len(a)), jnp.result_type(inverse)

        def apply(u: Any) -> Any:
            u = jnp.asarray(u)
            rhs = jnp.broadcast_to(u if u.ndim == 2 else u[:, None], shape).astype(dtype)
            x = jax.lax.custom_linear_solve(
                lambda x: a * x + b * (self @ x),
                rhs,
                lambda _, r: jnp.einsum("kij,jk->ik", inverse, r, precision="highest"),
                lambda _, r: jnp.einsum("kji,jk->ik", inverse, r, precision="highest"),
            )
            return x if several else x[:, 0]

        return apply

    def factors(self, a: Any, b: Any) -> Any:
        """What `resolvent(a, b)` solves with, `(k, n, n)`, without derivatives."""
        rates, exit, a, b = jax.lax.stop_gradient((self.rates, self.exit, jnp.atleast_1d(a), jnp.atleast_1d(b)))
        eye = jnp.eye(len(exit), dtype=rates.dtype)
        return jnp.linalg.inv(a[:, None, None] * eye + b[:, None, None] * (rates - jnp.diag(exit)))

    def flows(self, content: Any) -> list[tuple[Any, Any]]:
        """Content per time that jumps between each two states, and back."""
        flow = self.rates * content
        return [(jnp.triu(flow), jnp.triu(flow.T))]

    def stopped(self, target: Any) -> Dense:
        """The same until content comes to states of `target` `(n,)`: what jumps there is lost, and what is there stays apart."""
        onto = jnp.sum(jnp.where(target[:, None], self.rates, 0.0), axis=0)
        rates = jnp.where(target[:, None] | target, 0.0, self.rates)
        return Dense(rates, jnp.where(target, jnp.max(self.exit), self.loss + onto), self.diffusive)

    def asymmetry(self, weights: Any) -> Any:
        """By how much m_j ratesᵢⱼ and m_i ratesⱼᵢ differ at most, of the largest."""
        flow = self.rates * weights
        return jnp.max(jnp.abs(flow - flow.T)) / jnp.maximum(jnp.max(jnp.abs(flow)), jnp.finfo(flow.dtype).tiny)

    def bound(self) -> Any:
        """Gershgorin bound on |λ|."""
        return jnp.max(jnp.abs(self.exit)) + self.imaginary_bound()

    def imaginary_bound(self) -> Any:
        """Gershgorin bound on |Im λ|."""
        size = jnp.abs(self.rates)
        return jnp.minimum(jnp.max(jnp.sum(size, axis=0)), jnp.max(jnp.sum(size, axis=1)))

    def growth(self) -> Any:
        """Upper bound on the growth rate: max(0, min(largest column sum, largest row sum))."""
        rows = jnp.max(jnp.sum(self.rates, axis=1) - self.exit)
        rows = rows + 4.0 * jnp.finfo(rows.dtype).eps * jnp.max(jnp.abs(self.exit))
        return jnp.maximum(0.0, jnp.minimum(jnp.max(-self.loss), rows))

    def advection(self) -> Any:
        """The largest Σᵢ 2 (ratesᵢⱼ − ratesⱼᵢ)²/(ratesᵢⱼ + ratesⱼᵢ) of a state: how fast A leaves what is normal [1/time]."""
        both = self.rates + self.rates.T
        each = 2.0 * (self.rates - self.rates.T) ** 2 / jnp.where(both == 0, 1.0, both)
        return jnp.max(jnp.sum(each, axis=0))


def _column(rate: Any, like: Any) -> Any:
    return rate.reshape(-1, *(1,) * (jnp.ndim(like) - 1))
