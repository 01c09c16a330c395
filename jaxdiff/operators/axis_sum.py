"""Generators of nearest-neighbour motion along several axes: a sum of tridiagonals, one per axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxdiff.operators.basis import Basis, Diagonal
from jaxdiff.operators.halo import act, cuts
from jaxdiff.operators.iterative import Modes, resolvent
from jaxdiff.operators.kernel import TILE, leapfrog
from jaxdiff.operators.tridiagonal import Tridiagonal


class Spectrum(NamedTuple):
    """Bounds: real parts in [−lower, upper], imaginary parts within ±imaginary_bound; all traced [1/time]."""

    lower: Any
    upper: Any
    imaginary_bound: Any


class AxisSum(eqx.Module):
    """A of dN/dt = A N for contents N of the cells of a lattice, `(*cells,)`.

    Along axis k, `up[k]` and `down[k]` [1/time] are the rates of hopping to the next and the last cell. They, and the
    `loss`, have length one along the axes that they do not depend on: shapes tell what is separable.
    On an open axis the outermost rates leave the domain; on a periodic one they join its ends. `weights` are the contents of a
    unit density; `detailed_balance` tells that some scaling of the cells makes A symmetric, `symmetric` that A itself is: rates
    across a face are the same both ways, and `level` that they are so across all faces of an axis. `diffusive` tells that no drift carries anything, `closed` that
    no wall lets anything out. `resting` is ln N at rest, where rates do not tell it along one path to every cell. `names` are those of the axes: a
    mesh with one of them cuts the lattice there.
    """

    up: tuple[Any, ...]
    down: tuple[Any, ...]
    loss: Any
    weights: Any
    periodic: tuple[bool, ...] = eqx.field(static=True)
    detailed_balance: bool = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    symmetric: bool = eqx.field(static=True, default=False)
    closed: bool = eqx.field(static=True, default=False)
    level: bool = eqx.field(static=True, default=False)
    diffusive: bool = eqx.field(static=True, default=False)
    resting: Any = None
    modes: Modes | None = None  # of its resolvents, where they are formed once for several

    @property
    def ndim(self) -> int:
        return len(self.up)

    def __matmul__(self, content: Any) -> Any:
        """A N over the last axes, as differences of fluxes so that mass is kept to roundoff.

        Shifts stand outermost, where XLA fuses all of it into one pass over memory: of products, or of both factors
        where a rate is so small that shifting it costs nothing.
        """
        if any(cuts(self.names)):
            return act(self, content)
        if self.symmetric and self.closed:
            return _diffuse(self._faces, self.periodic, self.loss, content)
        out = -self.loss * content
        for k, (up, down, wraps) in enumerate(zip(self.up, self.down, self.periodic, strict=True)):
            axis = k - self.ndim
            thin = any(n == 1 < m for n, m in zip(up.shape, content.shape[-self.ndim :], strict=True))

            def from_side(rate: Any, by: int, axis: int = axis, wraps: bool = wraps, thin: bool = thin) -> Any:
                if thin:
                    return _shifted(rate, by, axis, wraps) * _shifted(content, by, axis, wraps)
                return _shifted(rate * content, by, axis, wraps)

            above, below = up * content - from_side(down, -1), from_side(up, 1) - down * content
            out = out - (above - below)
        return out

    def action(self, scale: Any = 1.0, shift: Any = 0.0) -> Any:
        """N ↦ scale (A − shift) N for use in a loop, with what does not change formed before it."""
        times = lambda rates: tuple(scale * rate for rate in rates)
        scaled = replace(self, up=times(self.up), down=times(self.down), loss=scale * (self.loss + shift))
        if not self.symmetric or any(cuts(self.names)):
            return scaled.__matmul__
        leak = scaled.loss if self.closed else scaled.leak
        return partial(_diffuse, scaled._faces, self.periodic, leak)

    def leap(self, scale: Any, shift: Any) -> Callable[[Any, Any], Any] | None:
        """(a, b) ↦ (a + X b, b − X(a + X b)), X = scale (A − shift): on a CUDA device by a kernel, in one pass over memory.

        None where rates are not symmetric or the lattice is cut. The kernel has no derivative.
        """
        if not self.symmetric or self.ndim not in TILE or any(cuts(self.names)):
            return None
        faces, periodic, leak = self.action(scale, shift).args

        def reference(a: Any, b: Any) -> Any:
            a = a + _diffuse(faces, periodic, leak, b)
            return a, b - _diffuse(faces, periodic, leak, a)

        return lambda a, b: jax.lax.platform_dependent(a, b, cuda=leapfrog(faces, periodic, leak), default=reference)

    @property
    def _faces(self) -> tuple[Any, ...]:
        """Transition rates across the faces between cells, where they are symmetric."""
        ends = [
            1 if self.level else n if wraps else n - 1
            for n, wraps in zip(self.weights.shape, self.periodic, strict=True)
        ]
        return tuple(_part(up, k - self.ndim, 0, end) for k, (up, end) in enumerate(zip(self.up, ends, strict=True)))

    def resolvent(self, a: Any, b: Any) -> Callable[[Any], Any]:
        """u ↦ (aI + bA)⁻¹ u for contents u `(*cells,)` and real a, b, by iteration; NaN where it does not converge."""
        return resolvent(self, a, b)

    @property
    def nearest(self) -> AxisSum:
        """The sum over axes that is close to it, for iterations: itself."""
        return self

    @property
    def reflecting(self) -> AxisSum:
        """The same between walls that let nothing out."""
        shut = lambda rates, i: tuple(
            rate if wraps else rate.at[_at(k, i, self.ndim)].set(0.0)
            for k, (rate, wraps) in enumerate(zip(rates, self.periodic, strict=True))
        )
        return replace(self, up=shut(self.up, -1), down=shut(self.down, 0), closed=True)

    def flows(self, content: Any) -> list[tuple[Any, Any]]:
        """Content per time that hops up across each face between cells, and down, of each axis."""
        found = []
        for k, (up, down, wraps) in enumerate(zip(self.up, self.down, self.periodic, strict=True)):
            both = up * content, _shifted(down * content, -1, k - self.ndim, wraps)
            forth, back = both if wraps else (_part(each, k - self.ndim, 0, -1) for each in both)
            found.append((forth, back))
        return found

    def stopped(self, target: Any) -> AxisSum:
        """The same until content comes to cells of `target` `(*cells,)`: what hops there is lost, and what is there stays apart."""
        loss, up, down = self.loss, list(self.up), list(self.down)
        for k, wraps in enumerate(self.periodic):
            for rates, by in ((up, -1), (down, 1)):
                there = _shifted(target, by, k - self.ndim, wraps)
                loss = loss + jnp.where(there, rates[k], 0.0)
                rates[k] = jnp.where(target | there, 0.0, rates[k])
        loss = jnp.where(target, jnp.max(self.exit), loss)
        resting = self.log_equilibrium if self.detailed_balance else None
        return replace(self, up=tuple(up), down=tuple(down), loss=loss, level=False, resting=resting)

    def steps(self, k: int) -> Any:
        """ln(up/down) across the face above each cell, what detailed balance would have ln N rise by along axis k."""
        tiny = jnp.finfo(self.weights.dtype).tiny
        log = lambda rate: jnp.log(jnp.maximum(rate, tiny))
        return log(self.up[k]) - log(jnp.roll(self.down[k], -1, k))

    @property
    def log_equilibrium(self) -> Any:
        """ln N `(*cells,)`, up to a constant, of the contents between which nothing flows, for an operator in detailed balance."""
        if self.resting is not None:
            return self.resting
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
        if any(cuts(self.names)):  # dense matrices along an axis would undo the cut
            return False
        alone = lambda rate, k: all(n == 1 for j, n in enumerate(rate.shape) if j != k)
        lost = sum(n > 1 for n in self.loss.shape)
        return lost <= 1 and all(alone(r, k) for rates in (self.up, self.down) for k, r in enumerate(rates))

    def lines(self) -> list[Tridiagonal]:
        """The operator of each axis, where they are separable; the loss goes with the axis that it depends on."""
        losing = next((k for k, n in enumerate(self.loss.shape) if n > 1), 0)
        found = []
        for k, (up, down, wraps) in enumerate(zip(self.up, self.down, self.periodic, strict=True)):
            up, down = up.ravel(), down.ravel()
            loss = jnp.broadcast_to(self.loss.ravel(), up.shape) if k == losing else jnp.zeros_like(up)
            found.append(Tridiagonal(up, down, loss, wraps, self.diffusive))
        return found

    def diagonal(self, basis: Basis) -> Diagonal:
        """The same in the basis of constant rates: λ = up (e^{−iθ} − 1) + down (e^{iθ} − 1) along a periodic axis, else
        −4 up sin²(θ/2), θ the phase between neighbours."""
        parts = [-self.loss.ravel()[:1].reshape((1,) * self.ndim)]
        for k, (up, down, wraps) in enumerate(zip(self.up, self.down, self.periodic, strict=True)):
            phase = jnp.asarray(basis.wavenumbers(k) / basis.shape[k], up.dtype)
            up, down = up.ravel()[0], down.ravel()[-1]
            each = -2 * (up + down) * jnp.sin(phase / 2) ** 2
            if wraps and not self.symmetric:
                each = jax.lax.complex(each, (down - up) * jnp.sin(phase))
            parts.append(each.reshape(-1, *(1,) * (self.ndim - 1 - k)))
        return Diagonal(tuple(parts), basis)

    def spectrum(self) -> Spectrum:
        """By Gershgorin's circles, of the matrix scaled by the weights to be symmetric without a drift, else of its symmetric
        and antisymmetric parts where the density has equal weights. With a drift the spectrum may be real and tells little:
        what a polynomial does to a state is bounded on the field of values."""
        near: Any = 0.0
        imaginary: Any = 0.0
        for k, (up, down, wraps) in enumerate(zip(self.up, self.down, self.periodic, strict=True)):
            back = jnp.roll(down, -1, k)
            if self.diffusive:
                hop, twist = jnp.sqrt(jnp.abs(up * back)), jnp.zeros(())
            else:
                m = jnp.sqrt(self.weights)
                ratio = m / jnp.roll(m, -1, k)
                hop, twist = jnp.abs(up * ratio + back / ratio) / 2, jnp.abs(up * ratio - back / ratio) / 2
            both = lambda rate, k=k, wraps=wraps: _neighbours(rate, k, wraps) if jnp.ndim(rate) else rate
            near, imaginary = near + both(hop), imaginary + both(twist)
        upper = jnp.maximum(jnp.max(near - self.exit), 0.0)
        if self.diffusive:
            upper = jnp.minimum(upper, self.growth())
        return Spectrum(jnp.max(jnp.abs(self.exit) + near), upper, jnp.max(imaginary))

    def bound(self) -> Any:
        """On |λ|."""
        lower, upper, imaginary = self.spectrum()
        return jnp.maximum(lower, upper) + imaginary

    def imaginary_bound(self) -> Any:
        """On the imaginary part of λ."""
        return self.spectrum().imaginary_bound

    @property
    def leak(self) -> Any:
        """Rate at which each cell loses content for good, the negative column sum."""
        lost = jnp.broadcast_to(self.loss, jnp.broadcast_shapes(*(rate.shape for rate in (*self.up, self.loss))))
        for k, (up, down, wraps) in enumerate(zip(self.up, self.down, self.periodic, strict=True)):
            if not wraps:
                first, last = _at(k, 0, self.ndim), _at(k, -1, self.ndim)
                lost = lost.at[first].add(_drop(down, k, 0)).at[last].add(_drop(up, k, -1))
        return lost

    def growth(self) -> Any:
        """Upper bound on the growth rate: max(0, min(largest column sum, largest row sum))."""
        rows: Any = -self.exit
        for k, (up, down, wraps) in enumerate(zip(self.up, self.down, self.periodic, strict=True)):
            from_below, from_above = jnp.roll(up, 1, k), jnp.roll(down, -1, k)
            if not wraps:
                from_below = from_below.at[_at(k, 0, self.ndim)].set(0.0)
                from_above = from_above.at[_at(k, -1, self.ndim)].set(0.0)
            rows = rows + from_below + from_above
        return jnp.maximum(0.0, jnp.minimum(jnp.max(-self.leak), jnp.max(rows)))


def _diffuse(faces: tuple[Any, ...], periodic: tuple[bool, ...], leak: Any, content: Any) -> Any:
    """A N where rates are symmetric: half of them, and the least traffic with memory."""
    out = -leak * content
    for k, (hop, wraps) in enumerate(zip(faces, periodic, strict=True)):
        axis = k - len(faces)
        if wraps:
            flux = hop * (content - _shifted(content, -1, axis, True))
            out = out - (flux - _shifted(flux, 1, axis, True))
            continue
        flux = hop * (_part(content, axis, 0, -1) - _part(content, axis, 1, None))
        out = out - (_padded(flux, axis, 0, 1) - _padded(flux, axis, 1, 0))
    return out


def _shifted(a: Any, by: int, axis: int, wraps: bool) -> Any:
    """The neighbour's value along an axis counted from the end: by = 1 from below, by = −1 from above.

    Nothing enters an open end.
    """
    n = a.shape[axis]
    moved = _padded(a, axis, by, -by)
    if not wraps:
        return moved
    end, other = (0, n - 1) if by == 1 else (n - 1, 0)
    around = jax.lax.slice_in_dim(a, other, other + 1, axis=axis)
    return jnp.where(jax.lax.broadcasted_iota(jnp.int32, a.shape, a.ndim + axis) == end, around, moved)


def _padded(a: Any, axis: int, before: int, behind: int) -> Any:
    padding = [(0, 0, 0)] * a.ndim
    padding[axis] = (before, behind, 0)
    return jax.lax.pad(a, jnp.zeros((), a.dtype), padding)


def _part(a: Any, axis: int, start: int | None, stop: int | None) -> Any:
    return a[(..., slice(start, stop), *(slice(None),) * (-axis - 1))]


def _at(axis: int, i: int, ndim: int) -> tuple[Any, ...]:
    return (*(slice(None),) * axis, i, *(slice(None),) * (ndim - axis - 1))


def _drop(rate: Any, axis: int, i: int) -> Any:
    return rate[_at(axis, i, rate.ndim)]


def _neighbours(rate: Any, axis: int, wraps: bool) -> Any:
    """What belongs to the face above each cell, plus that of the face below it; an open end has none."""
    if not wraps:
        rate = rate.at[_at(axis, -1, rate.ndim)].set(0.0)
    return rate + jnp.roll(rate, 1, axis)
