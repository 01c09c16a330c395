"""e^{tA}u of a generator by products of positive numbers alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.operators.chebyshev import most_of_batch
from jaxdiff.operators.linear import linear

_KEPT = 2**20  # numbers: 8 MiB

_STIRLING = np.array([0.0, *(  # ln k! − (k + ½) ln k + k − ½ ln 2π, by its series from 16 on
    0.08106146679532726, 0.04134069595540929, 0.02767792568499834, 0.02079067210376509, 0.01664469118982119,
    0.01387612882307075, 0.01189670994589177, 0.01041126526197209, 0.009255462182712733, 0.008330563433362871,
    0.007573675487951841, 0.006942840107209530, 0.006408994188004207, 0.005951370112758848, 0.005554733551962801,
)])  # fmt: skip


def products_needed(qt: Any) -> Any:
    """Products after which what is left out of a sum with mean qt is below 1e-17 of it (Chernoff's bound); traced."""
    digits = 39.2
    return jnp.ceil(qt + digits / 3 + jnp.sqrt(digits**2 / 9 + 2 * digits * qt)) + 1


def poisson(mean: Any, counts: Any) -> Any:
    """The probabilities of some counts, 0 to n − 1 where it is a number n, each to relative roundoff.

    By the saddle point: e^{−m} m^k/k! = exp(−δ(k) − k f((k − m)/k))/√(2πk), without large numbers that cancel (Loader 2000,
    Fast and accurate computation of binomial probabilities).
    """
    counts = np.arange(counts) if np.ndim(counts) == 0 else counts
    k = jnp.asarray(counts, mean.dtype)
    safe = jnp.maximum(k, 1.0)
    series = (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * safe**2)) / safe**2) / safe**2) / safe
    small = jnp.asarray(_STIRLING[np.minimum(counts, len(_STIRLING) - 1)], mean.dtype)
    stirling = jnp.where(k < len(_STIRLING), small, series)
    positive = jnp.maximum(mean, jnp.finfo(mean.dtype).tiny)
    v = (safe - positive) / (safe + positive)
    near = jnp.abs(v) < 0.1
    w = jnp.where(near, v, 0.0)
    powers = [w ** (2 * j + 1) / (2 * j + 1) for j in range(1, 9)]
    deviance = jnp.where(
        near,
        (safe - positive) * w + 2 * safe * sum(powers),
        safe * jnp.log(safe / positive) + positive - safe,
    )
    found = jnp.exp(-stirling - deviance) / jnp.sqrt(2 * np.pi * safe)
    return jnp.where(k == 0, jnp.exp(-mean), jnp.where(mean > 0, found, 0.0))


def uniformised(operator: Any, t: Any, u: Any, products: int) -> Any:
    """e^{tA}u of contents u `(n,)` for rates that are not negative, by up to `products` of them, a square.

        Σₖ e^{−qt}(qt)ᵏ/k! Xᵏ u,   X = I + A/q,   q the largest exit

    Every term is positive, so that every probability, however small, has all its digits, and what is left out is less than
    the weights that are. Those sum to one, as they are scaled to. Reverse mode keeps √products states and forms the others
    again (Grassmann 1977, doi:10.1016/0305-0548(77)90007-7).
    """
    rate = jax.lax.stop_gradient(jnp.max(operator.exit))
    q = jnp.where(rate > 0, rate, 1.0)
    weights = poisson(q * t, products)
    weights = weights / jax.lax.stop_gradient(jnp.sum(weights))
    each = round(products**0.5)
    needed = jnp.minimum(products_needed(q * t), products)
    blocks = jnp.ceil(most_of_batch(needed) / each).astype(int)
    action = eqx.filter_closure_convert(operator.action(1 / q, -q), u)
    return _sum(_Series(action, weights.reshape(-1, each), u), blocks)


class _Series(eqx.Module):
    """Σ cₖ Xᵏ u, with X and c `(blocks, each)`."""

    product: Callable[[Any], Any]
    weights: Any
    start: Any

    def block(self, x: Any, c: Any) -> tuple[Any, Any]:
        """The state after a block of products, and what the block adds."""

        def add(carry: Any, c: Any) -> Any:
            x, total = carry
            return (self.product(x), total + c * x), None

        return jax.lax.scan(add, (x, jnp.zeros_like(x)), c)[0]

    @property
    def kept(self) -> bool:
        """Whether reverse mode keeps every state, which is quicker, or one of every block."""
        return self.weights.size * self.start.size <= _KEPT

    def run(self, blocks: Any) -> tuple[Any, Any]:
        """The sum, and the state `(blocks, …, n)` before every block, or before every product of it."""

        def one(i: Any, carry: Any) -> Any:
            x, total, starts = carry
            if not self.kept:
                x_next, more = self.block(x, self.weights[i])
                return x_next, total + more, starts.at[i].set(x)

            def add(carry: Any, c: Any) -> Any:
                x, total = carry
                return (self.product(x), total + c * x), x

            (x, total), states = jax.lax.scan(add, (x, total), self.weights[i])
            return x, total, starts.at[i].set(states)

        shape = self.weights.shape if self.kept else self.weights.shape[:1]
        starts = jnp.zeros((*shape, *self.start.shape), self.start.dtype)
        _, total, starts = jax.lax.fori_loop(0, blocks, one, (self.start, jnp.zeros_like(self.start), starts))
        return total, starts

    def states(self, start: Any) -> Any:
        """The states `(each, n)` of a block, of what `run` kept of it."""
        if self.kept:
            return start
        return jax.lax.scan(lambda x, _: (self.product(x), x), start, None, length=self.weights.shape[1])[1]


def _plain(series: Any, blocks: Any) -> Any:
    def one(i: Any, carry: Any) -> Any:
        x, more = series.block(carry[0], series.weights[i])
        return x, carry[1] + more

    return jax.lax.fori_loop(0, blocks, one, (series.start, jnp.zeros_like(series.start)))[1]


_sum = eqx.filter_custom_jvp(_plain)


@_sum.def_jvp
def _sum_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    (series, blocks), (moves, _) = primals, tangents
    total, starts = series.run(blocks)
    moved = jax.tree.map(lambda x: x is not None, moves, is_leaf=lambda x: x is None)
    arrays, static = eqx.partition(series, eqx.is_array)

    def forward(known: Any, moves: Any) -> Any:
        arrays, blocks, _ = known
        free, fixed = eqx.partition(eqx.combine(arrays, static), moved)
        return jax.jvp(lambda free: _plain(eqx.combine(free, fixed), blocks), (free,), (moves,))[1]

    def backward(known: Any, cotangent: Any) -> Any:
        arrays, blocks, starts = known
        return _pull(eqx.combine(arrays, static), moved, blocks, starts, cotangent)

    return total, linear(forward, backward, (arrays, blocks, starts), moves, like=total)


def _pull(series: _Series, moved: Any, blocks: Any, starts: Any, cotangent: Any) -> _Series:
    """The gradient of Σ cotangent · sum in those parts of a series that are moved.

    λₖ = cₖ w + Xᵀλₖ₊₁, and of X the sum of λₖ₊₁ ⊗ Xᵏu: a block of states is formed again from the one before it.
    """
    free, fixed = eqx.partition(series, moved)
    rates_of = lambda s: s.product

    def product(rates: Any, x: Any) -> Any:
        return eqx.combine(rates, series.product)(x)

    def back(carry: Any, row: Any) -> Any:
        adjoint, rates = carry
        c, x = row
        if rates is None:
            (into,) = jax.vjp(lambda x: series.product(x), x)[1](adjoint)
        else:
            more, into = jax.vjp(product, rates_of(free), x)[1](adjoint)
            rates = jax.tree.map(jnp.add, rates, more)
        by_c = jnp.sum(cotangent * x)
        return (c * cotangent + into, rates), by_c

    def back_block(i: Any, carry: Any) -> Any:
        adjoint, rates, weights = carry
        k = blocks - 1 - i
        rows = series.weights[k], series.states(starts[k])
        (adjoint, rates), by_c = jax.lax.scan(back, (adjoint, rates), rows, reverse=True)
        return adjoint, rates, weights if weights is None else weights.at[k].set(by_c)

    none = jax.tree.map(jnp.zeros_like, rates_of(free))
    rates = none if jax.tree.leaves(none) else None
    weights = None if free.weights is None else jnp.zeros_like(series.weights)
    start = (jnp.zeros_like(series.start), rates, weights)
    adjoint, rates, weights = jax.lax.fori_loop(0, blocks, back_block, start)
    found = free
    if weights is not None:
        found = eqx.tree_at(lambda s: s.weights, found, weights)
    if rates is not None:
        found = eqx.tree_at(rates_of, found, rates)
    return found if free.start is None else eqx.tree_at(lambda s: s.start, found, adjoint)
