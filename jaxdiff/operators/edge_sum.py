"""Generators of motion between any two cells of a lattice: a sum of two-point fluxes along edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxdiff.operators.axis_sum import AxisSum, Spectrum
from jaxdiff.operators.iterative import Modes, resolvent


class EdgeSum(eqx.Module):
    """A of dN/dt = A N for contents N of the cells of a lattice, `(*cells,)`.

    An edge has a lower and an upper end, two cells; `up` and `down` [1/time] are the rates of hopping along it, and
    `loss` `(*cells,)` is what leaves the domain. `nearest` is the operator without its oblique
    edges and its losses, `weights` are the contents of a unit density, and `detailed_balance` tells that some scaling of the cells makes A
    symmetric.
    """

    up: eqx.AbstractVar[Any]
    down: eqx.AbstractVar[Any]
    loss: eqx.AbstractVar[Any]
    weights: eqx.AbstractVar[Any]
    nearest: eqx.AbstractVar[AxisSum]
    detailed_balance: eqx.AbstractVar[bool]
    modes: eqx.AbstractVar[Modes | None]  # of its resolvents, where they are formed once for several

    def __matmul__(self, content: Any) -> Any:
        """A N over the last axes, as differences of fluxes so that mass is kept to roundoff."""
        raise NotImplementedError

    def action(self, scale: Any = 1.0, shift: Any = 0.0) -> Callable[[Any], Any]:
        """N ↦ scale (A − shift) N for use in a loop."""
        found = [*(scale * rate for rate in self._rates), scale * (self.loss + shift)]
        return eqx.tree_at(lambda o: [*o._rates, o.loss], self, found).__matmul__

    @property
    def _rates(self) -> list[Any]:
        """All arrays that hold rates of hopping."""
        return [self.up, self.down]

    def _ends(self, x: Any) -> tuple[Any, Any]:
        """A quantity of cells `(*cells,)` at the lower and the upper end of every edge."""
        raise NotImplementedError

    def _with(self, up: Any, down: Any, loss: Any) -> EdgeSum:
        """The same edges and their neighbour with other rates."""
        raise NotImplementedError

    def _onto(self, lower: Any, upper: Any) -> Any:
        """The sum `(*cells,)` of what every edge brings to its lower and to its upper end."""
        raise NotImplementedError

    def resolvent(self, a: Any, b: Any) -> Callable[[Any], Any]:
        """u ↦ (aI + bA)⁻¹ u for contents u `(*cells,)` and real a, b, by iteration; NaN where it does not converge."""
        return resolvent(self, a, b)

    @property
    def log_equilibrium(self) -> Any:
        """ln N `(*cells,)` of the contents between which nothing flows, for an operator in detailed balance: equal densities."""
        return jnp.log(self.weights)

    @property
    def periodic(self) -> tuple[bool, ...]:
        return self.nearest.periodic

    @property
    def ndim(self) -> int:
        return self.nearest.ndim

    @property
    def separable(self) -> bool:
        return False

    @property
    def diffusive(self) -> bool:
        """Whether no drift carries anything."""
        return self.detailed_balance

    @property
    def exit(self) -> Any:
        """Total rate out of each cell, the negative diagonal."""
        return self._onto(self.up, self.down) + self.loss

    @property
    def leak(self) -> Any:
        """Rate at which each cell loses content for good, the negative column sum."""
        return self.loss

    def spectrum(self) -> Spectrum:
        """By Gershgorin's circles, as for `AxisSum`."""
        if self.detailed_balance:
            near, imaginary = self._both(jnp.sqrt(jnp.abs(self.up * self.down))), jnp.zeros(())
        else:
            lower, upper = self._ends(jnp.sqrt(self.weights))
            there, back = self.up * (lower / upper), self.down * (upper / lower)
            near, imaginary = (
                self._both(jnp.abs(there + back) / 2),
                jnp.max(self._both(jnp.abs(there - back) / 2)),
            )
        upper = jnp.maximum(jnp.max(near - self.exit), 0.0)
        if self.detailed_balance:
            upper = jnp.minimum(upper, self.growth())
        return Spectrum(jnp.max(jnp.abs(self.exit) + near), upper, imaginary)

    def bound(self) -> Any:
        """On |λ|."""
        lower, upper, imaginary = self.spectrum()
        return jnp.maximum(lower, upper) + imaginary

    def imaginary_bound(self) -> Any:
        """On the imaginary part of λ."""
        return self.spectrum().imaginary_bound

    def growth(self) -> Any:
        """Upper bound on the growth rate: max(0, min(largest column sum, largest row sum))."""
        rows = self._onto(self.down, self.up) - self.exit
        return jnp.maximum(0.0, jnp.minimum(jnp.max(-self.leak), jnp.max(rows)))

    def flows(self, content: Any) -> list[tuple[Any, Any]]:
        """Content per time that hops along each edge, and back."""
        lower, upper = self._ends(content)
        return [(self.up * lower, self.down * upper)]

    def stopped(self, target: Any) -> EdgeSum:
        """The same until content comes to cells of `target` `(*cells,)`: what hops there is lost, and what is there stays apart."""
        lower, upper = self._ends(target)
        keep = lambda rate: jnp.where(lower | upper, 0.0, rate)
        lost = self._onto(jnp.where(upper, self.up, 0.0), jnp.where(lower, self.down, 0.0))
        loss = jnp.where(target, jnp.max(self.exit), self.loss + lost)
        return self._with(keep(self.up), keep(self.down), loss)

    def _both(self, x: Any) -> Any:
        return self._onto(x, x)


class ScatteredEdges(EdgeSum):
    """Edges anywhere, in a list `(m,)`: `lower` and `upper` are the flat indices of their cells."""

    up: Any
    down: Any
    loss: Any
    weights: Any
    nearest: AxisSum
    detailed_balance: bool = eqx.field(static=True)
    lower: Any
    upper: Any
    modes: Modes | None = eqx.field(default=None, kw_only=True)

    @jax.jit
    def __matmul__(self, content: Any) -> Any:
        def one(x: Any) -> Any:
            lower, upper = self._ends(x)
            flux = self.up * lower - self.down * upper
            return self._onto(-flux, flux) - self.loss * x

        lead = content.ndim - self.ndim
        for _ in range(lead):
            one = jax.vmap(one)
        return one(content)

    def _with(self, up: Any, down: Any, loss: Any) -> EdgeSum:
        return eqx.tree_at(lambda o: (o.up, o.down, o.loss), self, (up, down, loss))

    def _ends(self, x: Any) -> tuple[Any, Any]:
        x = jnp.broadcast_to(x, self.loss.shape).ravel()
        return x[self.lower], x[self.upper]

    def _onto(self, lower: Any, upper: Any) -> Any:
        total = jnp.zeros(self.loss.size, jnp.result_type(lower))
        return total.at[self.lower].add(lower).at[self.upper].add(upper).reshape(self.loss.shape)


class SharedEdges(EdgeSum):
    """The same edges at every cell: from cell i to i + offset, around the lattice, `offsets` `(P, ndim)`.

    Rates stand at the lower end, `(P, *cells)`, with length one along axes where all are alike; `up_behind` and `down_behind` are those of the edge that ends at a cell. Edges that
    do not exist have rates of zero.
    """

    up: Any
    down: Any
    loss: Any
    weights: Any
    nearest: AxisSum
    detailed_balance: bool = eqx.field(static=True)
    offsets: Any
    up_behind: Any
    down_behind: Any
    modes: Modes | None

    def __init__(
        self, up: Any, down: Any, loss: Any, weights: Any, nearest: AxisSum, detailed_balance: bool, offsets: Any
    ):
        self.up, self.down, self.loss, self.weights = up, down, loss, weights
        self.nearest, self.detailed_balance, self.offsets, self.modes = nearest, detailed_balance, offsets, None
        self.up_behind, self.down_behind = self._back(up), self._back(down)

    @property
    def _rates(self) -> list[Any]:
        return [self.up, self.down, self.up_behind, self.down_behind]

    def _with(self, up: Any, down: Any, loss: Any) -> EdgeSum:
        return SharedEdges(up, down, loss, self.weights, self.nearest, self.detailed_balance, self.offsets)

    @jax.jit
    def __matmul__(self, content: Any) -> Any:
        # Each flux is formed at both of its ends: all edges are then one pass over memory.
        take = shifts(content, self.ndim)
        out = -self.loss * content
        for p, offset in enumerate(self.offsets):
            out = out - (self.up[p] * content - self.down[p] * take(offset))
            out = out + (self.up_behind[p] * take(-offset) - self.down_behind[p] * content)
        return out

    def _ends(self, x: Any) -> tuple[Any, Any]:
        take = shifts(x, self.ndim)
        return x[None], jnp.stack([take(offset) for offset in self.offsets])

    def _onto(self, lower: Any, upper: Any) -> Any:
        return jnp.sum(lower + self._back(upper), axis=0)

    def _back(self, x: Any) -> Any:
        return jnp.stack([shifts(each, self.ndim)(-offset) for each, offset in zip(x, self.offsets, strict=True)])


def shifts(x: Any, ndim: int) -> Any:
    """A function of an offset `(ndim,)`, which may be traced: x at cell i + offset, around the lattice."""
    shape = x.shape[-ndim:]
    twice = x
    for k in range(-ndim, 0):  # XLA takes several times as long over jnp.tile
        twice = twice if x.shape[k] == 1 else jnp.concatenate([twice, twice], k)

    def take(offset: Any) -> Any:
        start = jnp.concatenate([jnp.zeros(x.ndim - ndim, offset.dtype), offset % jnp.asarray(shape, offset.dtype)])
        return jax.lax.dynamic_slice(twice, list(start), x.shape)

    return take
