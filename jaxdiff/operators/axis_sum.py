"""Generators of nearest-neighbour motion along several axes: a sum of tridiagonals, one per axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp

from jaxdiff.operators.iterative import Modes, resolvent
from jaxdiff.operators.tridiagonal import Tridiagonal


class Spectrum(NamedTuple):
    """Bounds: real parts in [−lower, upper], imaginary parts within ±turn; all traced [1/time]."""

    lower: Any
    upper: Any
    turn: Any


class AxisSum(eqx.Module):
    """A of dN/dt = A N for contents N of the cells of a lattice, `(*cells,)`.

    Along axis k, `up[k]` and `down[k]` [1/time] are the rates of hopping to the next and the last cell. They, and the
    `loss`, have length one along the axes that they do not depend on: shapes tell what is separable.
    On an open axis the outermost rates leave the domain; on a ring they join its ends. `weights` are the contents of a
    unit density; `balanced` tells that some scaling of the cells makes A symmetric.
    """

    up: tuple[Any, ...]
    down: tuple[Any, ...]
    loss: Any
    weights: Any
    rings: tuple[bool, ...] = eqx.field(static=True)
    balanced: bool = eqx.field(static=True)
    modes: Modes | None = None  # of its resolvents, where they are formed once for several

    @property
    def ndim(self) -> int:
        return len(self.up)

    def __matmul__(self, content: Any) -> Any:
        """A N over the last axes, as differences of fluxes so that mass is kept to roundoff."""
        out = -self.loss * content
        for k, (up, down, ring) in enumerate(zip(self.up, self.down, self.rings, strict=True)):
            axis = k - self.ndim
            rise, fall = up * content, down * content
            if ring:
                flux = rise - jnp.roll(fall, -1, axis)
                out = out + jnp.roll(flux, 1, axis) - flux
                continue
            inner = _part(rise, axis, 0, -1) - _part(fall, axis, 1, None)
            flux = jnp.concatenate([-_part(fall, axis, 0, 1), inner, _part(rise, axis, -1, None)], axis)
            out = out - jnp.diff(flux, axis=axis)
        return out

    def resolvent(self, a: Any, b: Any) -> Callable[[Any], Any]:
        """u ↦ (aI + bA)⁻¹ u for contents u `(*cells,)` and real a, b, by iteration; NaN where it does not converge."""
        return resolvent(self, a, b)

    @property
    def nearest(self) -> AxisSum:
        """The sum over axes that is close to it, for iterations: itself."""
        return self

    def steps(self, k: int) -> Any:
        """ln(up/down) across the face above each cell, what detailed balance would have ln N rise by along axis k."""
        tiny = jnp.finfo(self.weights.dtype).tiny
        log = lambda rate: jnp.log(jnp.maximum(rate, tiny))
        return log(self.up[k]) - log(jnp.roll(self.down[k], -1, k))

    @property
    def log_equilibrium(self) -> Any:
        """ln N `(*cells,)`, up to a constant, of the contents between which nothing flows, for a `balanced` operator."""
        total: Any = jnp.zeros(self.weights.shape, self.weights.dtype)
        for k, n in enumerate(self.weights.shape):
            rise = self.steps(k)
            for j in range(k + 1, self.ndim):  # along one path to every cell: axis 0 first, where the others are at 0
                rise = _part(rise, j - self.ndim, 0, 1)
            rise = jnp.cumsum(_part(rise, k - self.ndim, 0, n - 1), k)
            total = total + jnp.pad(rise, [(int(j == k), 0) for j in range(self.ndim)])
        return total

    @property
    def exit(self) -> Any:
        """Total rate out of each cell, the negative diagonal."""
        return sum(self.up) + sum(self.down) + self.loss

    @property
    def separable(self) -> bool:
        """Whether A acts along each axis by itself, so that its exponential is a product."""
        alone = lambda rate, k: all(n == 1 for j, n in enumerate(rate.shape) if j != k)
        lost = sum(n > 1 for n in self.loss.shape)
        return lost <= 1 and all(alone(r, k) for rates in (self.up, self.down) for k, r in enumerate(rates))

    def lines(self) -> list[Tridiagonal]:
        """The operator of each axis, where they are separable; the loss goes with the axis that it depends on."""
        losing = next((k for k, n in enumerate(self.loss.shape) if n > 1), 0)
        found = []
        for k, (up, down, ring) in enumerate(zip(self.up, self.down, self.rings, strict=True)):
            up, down = up.ravel(), down.ravel()
            loss = jnp.broadcast_to(self.loss.ravel(), up.shape) if k == losing else jnp.zeros_like(up)
            found.append(Tridiagonal(up, down, loss, ring))
        return found

    def spectrum(self) -> Spectrum:
        """By Gershgorin's circles, of the matrix scaled to be symmetric if it can be, else of its symmetric and
        antisymmetric parts where the density has equal weights."""
        near: Any = 0.0
        turn: Any = 0.0
        for k, (up, down, ring) in enumerate(zip(self.up, self.down, self.rings, strict=True)):
            back = jnp.roll(down, -1, k)
            if self.balanced:
                hop, twist = jnp.sqrt(jnp.abs(up * back)), jnp.zeros(())
            else:
                m = jnp.sqrt(self.weights)
                ratio = m / jnp.roll(m, -1, k)
                hop, twist = jnp.abs(up * ratio + back / ratio) / 2, jnp.abs(up * ratio - back / ratio) / 2
            both = lambda rate, k=k, ring=ring: _neighbours(rate, k, ring) if jnp.ndim(rate) else rate
            near, turn = near + both(hop), turn + both(twist)
        upper = jnp.maximum(jnp.max(near - self.exit), 0.0)
        if self.balanced:
            upper = jnp.minimum(upper, self.growth())
        return Spectrum(jnp.max(jnp.abs(self.exit) + near), upper, jnp.max(turn))

    def bound(self) -> Any:
        """On |λ|."""
        lower, upper, turn = self.spectrum()
        return jnp.maximum(lower, upper) + turn

    def turn(self) -> Any:
        """On the imaginary part of λ."""
        return self.spectrum().turn

    @property
    def leak(self) -> Any:
        """Rate at which each cell loses content for good, the negative column sum."""
        lost = jnp.broadcast_to(self.loss, jnp.broadcast_shapes(*(rate.shape for rate in (*self.up, self.loss))))
        for k, (up, down, ring) in enumerate(zip(self.up, self.down, self.rings, strict=True)):
            if not ring:
                first, last = _at(k, 0, self.ndim), _at(k, -1, self.ndim)
                lost = lost.at[first].add(_drop(down, k, 0)).at[last].add(_drop(up, k, -1))
        return lost

    def growth(self) -> Any:
        """Upper bound on the growth rate: max(0, min(largest column sum, largest row sum))."""
        rows: Any = -self.exit
        for k, (up, down, ring) in enumerate(zip(self.up, self.down, self.rings, strict=True)):
            from_below, from_above = jnp.roll(up, 1, k), jnp.roll(down, -1, k)
            if not ring:
                from_below = from_below.at[_at(k, 0, self.ndim)].set(0.0)
                from_above = from_above.at[_at(k, -1, self.ndim)].set(0.0)
            rows = rows + from_below + from_above
        return jnp.maximum(0.0, jnp.minimum(jnp.max(-self.leak), jnp.max(rows)))


def _part(a: Any, axis: int, start: int | None, stop: int | None) -> Any:
    return a[(..., slice(start, stop), *(slice(None),) * (-axis - 1))]


def _at(axis: int, i: int, ndim: int) -> tuple[Any, ...]:
    return (*(slice(None),) * axis, i, *(slice(None),) * (ndim - axis - 1))


def _drop(rate: Any, axis: int, i: int) -> Any:
    return rate[_at(axis, i, rate.ndim)]


def _neighbours(rate: Any, axis: int, ring: bool) -> Any:
    """What belongs to the face above each cell, plus that of the face below it; an open end has none."""
    if not ring:
        rate = rate.at[_at(axis, -1, rate.ndim)].set(0.0)
    return rate + jnp.roll(rate, 1, axis)
