"""Passages where a drift carries far beside diffusion: transforms along a vertical line, where none is larger than one.

    g(t) = (2/T) e^{at} [h(a)/2 + Σ Re h(a + iωₖ) e^{iωₖt}] − Σ e^{−ajT} g(t + jT),   ωₖ = 2πk/T

The contours of `passage_times` go round all poles, where h is as large as e^{vL/4D}, and sums of such terms cancel. On the line |h| ≤ 1, and
the more a drift carries the sooner h fades along it: a passage from far off is a smooth function of time. Abate & Whitt 1992,
doi:10.1007/BF01158520.
"""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.integration.passage_times import EITHER, LATER, NOISE, ByTransforms, Passages, transformed

SHIFT = 21.0  # aT: what comes a period later counts 8e-10, and roundoff grows to no more than NOISE up to half of one
FADED = 1e-13  # of a transform at the end of the line: times e^{aT/2} it is below NOISE
BLOCK = 2**20  # rows times nodes that are looked at together


class ByLine(ByTransforms):
    """By so many nodes along a line, of a period that is the longest time and as long again."""

    count: int = eqx.field(static=True)
    fewest: ClassVar[int] = 256
    most: ClassVar[int] = 2**14

    def _nodes(self, top: Any) -> Any:
        return (SHIFT + 2j * np.pi * np.arange(self.count)) / top

    def passages(self, equation: Any, grid: Any, scheme: Any, origin: Any, top: Any) -> Passages:
        return transformed(equation, grid, scheme, origin, lambda _: (self._nodes(top), jnp.zeros(())))

    def at(self, found: Any, kinds: Any, times: Any, top: Any, coarse: bool = False) -> tuple[Any, Any]:
        nodes, table = self._nodes(top), found.coarse if coarse else found.transforms
        shares = jnp.asarray(2.0 - (np.arange(self.count) == 0)) / top
        table = shares * table.at[LATER].set(1.0 / nodes - table[LATER])  # what is gone has no jump at the start

        def one(row: Any) -> Any:
            kind, t = row
            return jnp.sum((jnp.exp(t * nodes) * table[kind]).real)

        after = times > 0
        rows = kinds, jnp.where(after, jnp.minimum(times, top), 0.0)
        value = jax.lax.map(jax.checkpoint(one), rows, batch_size=max(1, BLOCK // self.count))
        later = kinds == LATER
        value = jnp.where(after, jnp.where(later, 1.0 - value, value), 1.0 * later)
        return value, jnp.full(jnp.shape(times), NOISE) * jnp.where(later, 1.0, 2.0 / top)

    def resolved(self, found: Any, kinds: Any, times: Any, top: Any, share: Any) -> Any:
        """Whether transforms have faded at the end of the line."""
        return jnp.max(jnp.abs(found.transforms[EITHER, -2:])) < FADED

    def refined(self) -> ByLine | None:
        """With twice as many; None beyond what is held."""
        return ByLine(2 * self.count) if self.count < self.most else None

    @property
    def numbers(self) -> float:
        """How many for each cell are held."""
        return float(self.count)
