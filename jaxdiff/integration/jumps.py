"""Probabilities of states through time, by sums and products of positive numbers alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.integration.method import Method, counted
from jaxdiff.integration.segments import Segments
from jaxdiff.operators import dense, doubled, doublings_needed, products_needed, uniformised

MATRIX_STATES = 192  # of which a matrix is squared
_FEW = 8  # lengths of intervals of which matrices are kept together
_MOST_PRODUCTS = 2**22
_AS_DEAR = 2**11  # products that take as long as the resolvents of blocks of one state
_MANY_STATES, _FEW_IN_BLOCK = 2**11, 4  # of which more products are needed than capacity for them costs
_MOST_ELIMINATED = 2**27  # operations of an elimination: some seconds for all of them


class Doubling(Method):
    """The matrix of every interval, squared up from a tiny step: for few states, whatever their rates.

    distinct: lengths of intervals `(d,)`, and `which` of them each has; squarings: a multiple of eight
    """

    distinct: Any
    which: Any
    squarings: int = eqx.field(static=True, default=48)

    all_or_none = True

    def run(self, system: Any, times: Any, start: Any, *, observe: Any = None, sound: Any = True) -> Any:
        operator = dense(system.operator(times[0]))
        distinct = jnp.asarray(self.distinct, start.dtype)
        needed = doublings_needed(jnp.max(operator.exit), jnp.max(distinct))
        distinct = jnp.where(needed <= self.squarings, distinct, 0.0)
        matrices = jax.lax.map(lambda t: doubled(operator, t, self.squarings), distinct)

        def interval(p: Any, i: Any) -> Any:
            moves, stays = (each[i] for each in matrices)
            p = stays * p + jnp.matmul(moves, p, precision="highest")
            return p, p

        out = jax.lax.scan(interval, start, jnp.asarray(self.which))[1]
        return out, jnp.stack([jnp.ones(()), needed]), []

    def describe(self, needed: Any = None) -> str:
        return f"squared matrices: {self.squarings} squarings of each of {len(self.distinct)}"

    def states_held(self, grid: Any, outputs: int, *, drift: bool = False, observed: bool = False) -> Any:
        n = float(np.prod(grid.shape))
        return 3 * n * len(self.distinct) + 2 * outputs, 2 * n * len(self.distinct) * self.squarings

    @property
    def allowed(self) -> Any:
        return 1, self.squarings

    def refined(self, needed: Any, times: Any, grid: Any = None) -> Doubling:
        squarings = counted(needed)[1]
        return self if squarings <= self.squarings else replace(self, squarings=-(-squarings // 8) * 8)

    def unattended(self) -> Doubling:
        return replace(self, squarings=max(self.squarings, 112))


class Uniformisation(Method):
    """Products with I + A/q, as many as jumps may come in an interval.

    products: for each interval at most, a square; otherwise: what takes over where they are more than `most`
    """

    products: int = eqx.field(static=True, default=1024)
    otherwise: Any = None
    most: int = eqx.field(static=True, default=2**14)
    alone: Any = None  # what is taken where no host looks after it, None: products

    all_or_none = True

    def run(self, system: Any, times: Any, start: Any, *, observe: Any = None, sound: Any = True) -> Any:
        operator, lengths = system.operator(times[0]), jnp.diff(times)
        needed = products_needed(jnp.max(operator.exit) * jnp.max(lengths))
        lengths = jnp.where(needed <= self.products, lengths, 0.0)

        def interval(p: Any, t: Any) -> Any:
            p = uniformised(operator, t, p, self.products)
            return p, p

        return jax.lax.scan(interval, start, lengths)[1], jnp.stack([jnp.ones(()), needed]), []

    def describe(self, needed: Any = None) -> str:
        count = "" if needed is None else f", {int(needed[1])} products per interval"
        return f"uniformisation{count}"

    def states_held(self, grid: Any, outputs: int, *, drift: bool = False, observed: bool = False) -> Any:
        return 20.0 + 2 * outputs, outputs * (4.0 + 2 * self.products**0.5)

    @property
    def allowed(self) -> Any:
        return 1, self.products

    def refined(self, needed: Any, times: Any, grid: Any = None) -> Method:
        products = counted(needed)[1]
        if products <= self.products:
            return self
        if products > self.most and self.otherwise is not None:
            return self.otherwise
        if products > _MOST_PRODUCTS:
            raise ValueError(
                f"the longest interval may see {products} jumps, more than are followed; shorten it, jd.steady_state gives what has come to rest, or check the rates and their unit"
            )
        return replace(self, products=4 ** _power_of_four(products))

    def unattended(self) -> Method:
        return replace(self, products=max(self.products, 4**6)) if self.alone is None else self.alone


def _power_of_four(count: int) -> int:
    """The exponent of the next one."""
    return -(-(count - 1).bit_length() // 2)


def among_states(operator: Any, times: Any, tolerance: float | None) -> Method:
    """How probabilities are carried between states whose rates do not depend on time.

    operator: what its shapes tell. A matrix of few states is squared; along chains and in boxes products are few, or resolvents.
    """
    by_products = hasattr(operator, "action")
    if len(operator.loss) <= MATRIX_STATES and not isinstance(times, jax.core.Tracer):
        distinct, which = distinct_lengths(np.diff(np.asarray(times, float)))
        if len(distinct) <= _FEW:
            squared = Doubling(distinct, which)
            return Uniformisation(otherwise=squared) if by_products else squared
    by_resolvents = Segments.over(times, (), tolerance)
    if not by_products:
        return by_resolvents
    size = getattr(operator, "block_size", 1)
    if len(operator.loss) * size**2 > _MOST_ELIMINATED:
        return Uniformisation()
    alone = by_resolvents.unattended() if len(operator.loss) > _MANY_STATES and size <= _FEW_IN_BLOCK else None
    return Uniformisation(otherwise=by_resolvents, most=_AS_DEAR * size**2, alone=alone)


def distinct_lengths(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different lengths of intervals, equal to roundoff, and which each has."""
    distinct, which = np.unique(lengths, return_inverse=True)
    if len(distinct) <= _FEW:
        return distinct, which
    scale = 10.0 ** np.minimum(12 - np.ceil(np.log10(lengths)), 300)
    _, first, which = np.unique(np.round(lengths * scale) / scale, return_index=True, return_inverse=True)
    return lengths[first], which
