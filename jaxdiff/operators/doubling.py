"""e^{tA} of a generator as a matrix, every entry of it to its own digits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.operators.dense import Dense

_FIRST = 26  # halvings after which the second order is exact to roundoff


def doublings_needed(rate: Any, t: Any) -> Any:
    """Halvings of t after which what follows the second order is roundoff, for a largest exit rate; traced."""
    return jnp.ceil(jnp.log2(jnp.maximum(rate * t, 1.0))) + _FIRST


def doubled(operator: Any, t: Any, doublings: int) -> tuple[Any, Any]:
    """e^{tA} as its entries off the diagonal `(n, n)` and those on it `(n,)`, for rates and losses that are not negative.

        P(2h) = P(h)²,   P(h) = I + hA + h²A²/2,   h = t/2^doublings

    All is sums and products of positive numbers, and where a state is hardly left its stay is one less what leaves, so that no
    entry loses digits to another: rates may lie 30 decades apart (the elimination of Grassmann, Taksar & Heyman 1985,
    doi:10.1287/opre.33.5.1107, for a square in place of a solve).
    """
    count = jnp.minimum(doublings_needed(jnp.max(operator.exit), t), doublings)
    h = t * 0.5**count
    dot = lambda a, b: jnp.matmul(a, b, precision="highest")
    eye = jnp.eye(len(operator.loss), dtype=bool)
    rates, exit, loss = h * operator.rates, h * operator.exit, h * operator.loss
    moves = rates * (1 - (exit[:, None] + exit) / 2) + jnp.where(eye, 0.0, dot(rates, rates)) / 2
    lost = loss * (1 - exit / 2) + dot(loss, rates) / 2

    def double(carry: Any, i: Any) -> tuple[Any, None]:
        moves, lost, stays = carry
        twice = dot(moves, moves)
        more = moves * (stays[:, None] + stays) + jnp.where(eye, 0.0, twice)
        gone = lost * (1 + stays) + dot(lost, moves)
        left, back = jnp.sum(more, axis=0) + gone, stays**2 + jnp.diagonal(twice)
        few = left < 0.5
        whole = jnp.where(few, 1.0, left + back)  # but for roundoff one, which every square would double
        new = more / whole, gone / whole, jnp.where(few, 1 - left, back / whole)
        return jax.tree.map(lambda new, old: jnp.where(i < count, new, old), new, carry), None

    start = moves, lost, 1 - jnp.sum(moves, axis=0) - lost
    (moves, _, stays), _ = jax.lax.scan(double, start, jnp.arange(doublings))
    return moves, stays


def dense(operator: Any) -> Dense:
    """A generator given by its jumps, as a matrix."""
    if isinstance(operator, Dense):
        return operator
    source, target, rates = operator.jumps
    n = len(operator.loss)
    return Dense(jnp.zeros((n, n), rates.dtype).at[target, source].add(rates), operator.leak)
