"""A diffusivity tensor on several axes: two-point fluxes along the lattice offsets that decompose it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.fluxes import bernoulli
from jaxdiff.discretisation.lattice import LatticeSystem, first_failure
from jaxdiff.discretisation.separability import over_axis
from jaxdiff.discretisation.system import TransportSystem, uneven_axis
from jaxdiff.model.arguments import at_place
from jaxdiff.model.boundaries import reflecting
from jaxdiff.model.coefficients import Potential, at_time, number, on_wall
from jaxdiff.operators import AxisSum, EdgeSum, ScatteredEdges, SharedEdges, shifts
from jaxdiff.operators.tensor_decomposition import definite, inverse, offsets, superbase, weights
from jaxdiff.runtime.conditions import Condition


class TensorSystem(LatticeSystem):
    """The equation with a full tensor D, with contents `(*cells,)`.

    An edge joins two cells, and its midpoint is a point of the lattice of half cells. Such points are of 2^d − 1 kinds,
    by which of their coordinates are halves. The offsets e in D = Σ λ e eᵀ (in units of cells) have an odd coordinate,
    and no two of them agree modulo two. So at most one edge goes through each midpoint, and D there gives its flux,

        λ (B(−z) u₋ − B(z) u₊),   z = e·D⁻¹(f − (1 − α)∇·D)

    with rates that are not negative whatever D and f. Where D is diagonal, edges and rates are those of `LatticeSystem`.
    """

    basis, faces, walls = None, TransportSystem.faces, TransportSystem.walls

    def require_uniform(self) -> TensorSystem:
        """Itself; raise unless grid, walls and shapes are such that a tensor holds."""
        grid, ndim = self.grid, self.grid.ndim
        if grid.geometry != "cartesian" or ndim == 1:
            raise ValueError(f"a Tensor holds on a Cartesian grid of 2 or 3 axes, got a {grid.geometry} one of {ndim}")
        if name := uneven_axis(grid):
            raise ValueError(f"a Tensor holds on uniform cells, got widths that differ along {name}")
        for name, side in zip(grid.sides, self.sides, strict=True):
            if not side.with_tensor:
                raise ValueError(
                    f"{type(side).__name__} at {name} leaves the flux of a Tensor open, which depends on the slope along the wall too; use jd.Flux"
                )
        self.transport.diffusivity.require_shape(grid.shape, grid.names)
        return self

    def operator(self, t: Any) -> EdgeSum:
        return self._edge_sum(t, super().operator(t), self._absorbed(t)[0])

    def forcing(self, t: Any, rates: Any = None) -> Any:
        return self._beside.forcing(t, rates) + self._absorbed(t, rates)[1]

    def formed(self, t: Any) -> tuple[Any, Any, list[Condition]]:
        out, inflow, absorbed = self._absorbed(t)
        nearest, _, of_lattice = super().formed(t)
        found = [*self._tensor_conditions(t), *absorbed, *of_lattice]
        return self._edge_sum(t, nearest, out), self._beside.forcing(t) + inflow, found

    @property
    def _beside(self) -> LatticeSystem:
        """What enters the cells but along edges that end at a wall."""
        kept = [reflecting if side.fixes_value else side for side in self.sides]
        walls = dict(zip(self.grid.sides, kept, strict=True))
        return LatticeSystem(self.transport._replace(boundaries=walls), self.grid)

    def _edge_sum(self, t: Any, nearest: AxisSum, absorbed: Any) -> EdgeSum:
        """A at time t, from its part along the axes and what each cell loses along edges that end at a wall."""
        kinds, cells, shape, ndim = self._kinds, self._cells, self.grid.shape, self.grid.ndim
        matrix, flow = self._media(t)
        offset, weight, beside = self._edges(matrix)
        closed = self._closed
        if closed.any():  # one more edge for each axis, along the walls
            units = np.flatnonzero(kinds.sum(1) == 1)
            kinds = np.concatenate([kinds, kinds[units]])
            more = jnp.broadcast_to(kinds[units].reshape(-1, *(1,) * ndim, ndim), (ndim, *offset.shape[1:]))
            offset = jnp.concatenate([offset, more])
            weight = _stack([*weight, *beside])
            matrix = jnp.concatenate([matrix, matrix[units]])
            flow = None if flow is None else jnp.concatenate([flow, flow[units]])
        odd = kinds.reshape(-1, *(1,) * ndim, ndim)
        lower, upper = cells + (odd - offset) // 2, cells + (odd + offset) // 2
        conductance = jnp.prod(self._widths) * weight
        if not all(self._periodic):
            inside = self._inside(lower) & self._inside(upper)
            conductance = jnp.where(inside, conductance, 0.0)
        there = back = conductance
        if flow is not None:
            middle = self._places(kinds)
            if not all(self._periodic):
                middle = jnp.where(inside[..., None], middle, self._origin + self._extent / 2)
            b, a = bernoulli(self._tilt(offset * self._widths, matrix, flow, middle, t))
            there, back = conductance * a, conductance * b
        m = nearest.weights
        loss = jnp.broadcast_to(nearest.loss + self._films(nearest) + absorbed / m, shape)
        common = {"loss": loss, "weights": m, "nearest": nearest.reflecting, "detailed_balance": self.driftless}
        if all(n == 1 for n in offset.shape[1:-1]):
            steps = offset.reshape(-1, ndim)
            move = lambda x, p: shifts(x, ndim)((steps[p] - kinds[p]) // 2)  # from the midpoint to the lower end
            up = jnp.stack([move(x, p) / m for p, x in enumerate(there)])
            down = jnp.stack([move(x, p) / shifts(m, ndim)(steps[p]) for p, x in enumerate(back)])
            return SharedEdges(up, down, offsets=steps, **common)
        strides = np.array([int(np.prod(shape[k + 1 :])) for k in range(ndim)], np.int32)
        flat = lambda index: jnp.sum(index % np.array(shape, np.int32) * strides, -1, dtype=jnp.int32)
        wall = closed.any(-1) & np.ones((ndim if closed.any() else 0, *shape), bool)
        used = np.flatnonzero(np.concatenate([np.ones((len(self._kinds), *shape), bool), wall]))
        lower, upper, there, back = (x.ravel()[used] for x in (flat(lower), flat(upper), there, back))
        wide = jnp.broadcast_to(m, shape).ravel()
        return ScatteredEdges(there / wide[lower], back / wide[upper], lower=lower, upper=upper, **common)

    def _tensor_conditions(self, t: Any) -> list[Condition]:
        """The tensor finite, symmetric and positive definite."""
        matrix = at_time(self.transport.diffusivity.matrix, t, self.grid.names)
        kinds = self._kinds if callable(matrix) else np.zeros((1, self.grid.ndim), np.int32)
        inner = self._inner(kinds)
        if callable(matrix):
            matrix = _stack([self._at_midpoints(kind, matrix, 2) for kind in kinds])
        matrix = jnp.broadcast_to(jnp.asarray(matrix), (*inner.shape, *(self.grid.ndim,) * 2))
        matrix = jnp.where(inner[..., None, None], jax.lax.stop_gradient(matrix), self._unit)
        places, size = self._places(kinds), jnp.max(jnp.abs(matrix), axis=(-1, -2))
        skew = jnp.max(jnp.abs(matrix - jnp.swapaxes(matrix, -1, -2)), axis=(-1, -2))
        lopsided = skew > jnp.sqrt(jnp.finfo(matrix.dtype).eps) * size
        return [
            _first(f"an entry of the Tensor is {{value}} {self._place}; it must be finite", ~jnp.isfinite(size), places, size),
            _first(f"the Tensor has entries ij and ji that differ by {{value}} {self._place}; it must be symmetric", lopsided, places, skew),
            self._definite(matrix, ~inner, places),
        ]  # fmt: skip

    def _definite(self, matrix: Any, ignored: Any, places: Any) -> Condition:
        message = f"the Tensor has the eigenvalue {{value}} {self._place}; it must be positive definite"
        failed = ~(definite(matrix) | ignored)
        first = matrix.reshape(-1, *matrix.shape[-2:])[jnp.argmax(failed)]
        least = jnp.linalg.eigvalsh(jax.lax.stop_gradient((first + first.T) / 2))[0]
        return _first(message, failed, places, least)

    @property
    def _periodic(self) -> tuple[bool, ...]:
        return tuple(side.periodic for side in self.sides[::2])

    @property
    def _kinds(self) -> np.ndarray:
        """Which coordinates of a midpoint are halves, `(P, ndim)`."""
        return np.array(list(product((0, 1), repeat=self.grid.ndim)), np.int32)[1:]

    @property
    def _cells(self) -> np.ndarray:
        """The index of every cell, `(*cells, ndim)`."""
        return np.stack(np.meshgrid(*(np.arange(n, dtype=np.int32) for n in self.grid.shape), indexing="ij"), -1)

    @property
    def _origin(self) -> Any:
        return jnp.stack([jnp.asarray(edges)[0] for edges in self.grid.edges])

    @property
    def _extent(self) -> Any:
        return jnp.stack([jnp.asarray(edges)[-1] for edges in self.grid.edges]) - self._origin

    @property
    def _widths(self) -> Any:
        return self._extent / np.array(self.grid.shape, np.int32)

    @property
    def _unit(self) -> Any:
        return jnp.eye(self.grid.ndim, dtype=self._widths.dtype)

    def _places(self, kinds: np.ndarray) -> Any:
        """The midpoints of some kinds, `(P, *cells, ndim)`; those of no halves are the centres."""
        halves = jnp.asarray((1 + kinds.reshape(-1, *(1,) * self.grid.ndim, self.grid.ndim)) / 2, self._widths.dtype)
        return self._origin + (self._cells + halves) * self._widths

    def _inside(self, index: Any) -> Any:
        """Whether a cell of this index `(…, ndim)` exists; along a periodic axis all do."""
        within = (index >= 0) & (index < np.array(self.grid.shape))
        return jnp.all(within | np.array(self._periodic), -1)

    def _inner(self, kinds: np.ndarray) -> np.ndarray:
        """Whether a midpoint does not lie on a wall, `(P, *cells)`."""
        last = (self._cells == np.array(self.grid.shape) - 1) & ~np.array(self._periodic)
        return ~(last & (kinds.reshape(-1, *(1,) * self.grid.ndim, self.grid.ndim) == 1)).any(-1)

    def _at_midpoints(self, kind: Any, coefficient: Any, rank: int) -> Any:
        """A coefficient of this rank at midpoints of one kind, with length one along axes that it does not depend on.

        Arrays over cells meet by their mean, matrices by the harmonic one.
        """
        ndim = self.grid.ndim
        if callable(coefficient):
            mapped: Callable[..., Any] = lambda *x: jnp.asarray(at_place(coefficient, self.grid.names, *x), x[0].dtype)
            for k in reversed(range(ndim)):
                mapped = over_axis(mapped, [0 if i == k else None for i in range(ndim)])
            points = zip(self.grid.edges, self.grid.centers, kind, strict=True)
            return mapped(*(jnp.asarray(edges[1:] if half else centers) for edges, centers, half in points))
        coefficient = jnp.asarray(coefficient)
        if coefficient.ndim == rank:
            return coefficient.reshape((1,) * ndim + coefficient.shape)
        coefficient = inverse(coefficient) if rank == 2 else coefficient
        for axis in map(int, np.flatnonzero(kind)):
            coefficient = (coefficient + jnp.roll(coefficient, -1, axis)) / 2
        return inverse(coefficient) if rank == 2 else coefficient

    def _at_points(self, points: Any, coefficient: Any, rank: int) -> Any:
        """A coefficient at points `(…, *cells, ndim)` that belong to the cells."""
        if callable(coefficient):
            one = lambda x: jnp.asarray(at_place(coefficient, self.grid.names[: len(x)], *x), x.dtype)
            found = jax.vmap(one)(points.reshape(-1, points.shape[-1]))
            return found.reshape(*points.shape[:-1], *found.shape[1:])
        return jnp.asarray(coefficient)

    def _matrix(self, t: Any) -> Any:
        """D at time t, an array or a function of position."""
        matrix = at_time(self.transport.diffusivity.matrix, t, self.grid.names)
        if not callable(matrix):
            return _symmetric(jnp.asarray(matrix))
        return lambda *x: _symmetric(jnp.asarray(at_place(matrix, self.grid.names, *x), self._widths.dtype))

    def _medium(self, look: Callable[..., Any], t: Any) -> tuple[Any, Any]:
        """D and, where there is a drift, b = f − (1 − α)∇·D without the part of a `Potential`."""
        matrix = self._matrix(t)
        if self.driftless:
            return look(matrix, 2), None
        drift = at_time(self.transport.drift, t, self.grid.names)
        if isinstance(drift, Potential):
            flow = look(jnp.zeros(self.grid.ndim, self._widths.dtype), 1)
        elif callable(drift):
            components = lambda *x: [jnp.asarray(f, x[0].dtype) for f in at_place(drift, self.grid.names, *x)]
            flow = look(lambda *x: jnp.stack(components(*x)), 1)
        else:
            each = [look(at_time(self._coefficients(k)[0], t, self.grid.names), 0) for k in range(self.grid.ndim)]
            flow = jnp.stack(jnp.broadcast_arrays(*each), -1)
        if self.transport.alpha < 1.0:
            flow = flow - (1.0 - self.transport.alpha) * look(self._divergence(matrix), 1)
        return look(matrix, 2), flow

    def _media(self, t: Any) -> tuple[Any, Any]:
        """The same at all midpoints, `(P, *cells, …)`; on a wall, where no edge goes through, D = 1."""
        found = [self._medium(partial(self._at_midpoints, kind), t) for kind in self._kinds]
        matrix = _stack([each[0] for each in found])
        if any(n > 1 for n in matrix.shape[1:-2]):
            matrix = jnp.where(self._inner(self._kinds)[..., None, None], matrix, self._unit)
        matrix = jnp.where(definite(matrix)[..., None, None], matrix, self._unit)
        return matrix, None if found[0][1] is None else _stack([each[1] for each in found])

    def _divergence(self, matrix: Any) -> Any:
        """∇·D: a function of position, or an array by central differences."""
        if callable(matrix):
            slopes = jax.jacfwd(lambda x: matrix(*x))
            return lambda *x: jnp.trace(slopes(jnp.stack(x)), axis1=1, axis2=2)
        total = jnp.zeros(matrix.shape[:-1], matrix.dtype)
        for k, wraps in enumerate(self._periodic) if matrix.ndim > 2 else ():
            if matrix.shape[k] > 1:
                column = matrix[..., k]
                around = (jnp.roll(column, -1, k) - jnp.roll(column, 1, k)) / 2
                total = total + (around if wraps else jnp.gradient(column, axis=k)) / self._widths[k]
        return total

    @property
    def _closed(self) -> np.ndarray:
        """Whether a cell lies at a wall across each axis that does not absorb, `(*cells, ndim)`."""
        lower, upper = (np.array([not (s.fixes_value or s.periodic) for s in self.sides[i::2]]) for i in (0, 1))
        return ((self._cells == 0) & lower) | ((self._cells == np.array(self.grid.shape) - 1) & upper)

    def _edges(self, matrix: Any) -> tuple[Any, Any, Any]:
        """The edge through each midpoint: its offset in cells, and λ [1/time], zero where there is none; and λ of one
        more edge along a wall.

        An oblique edge reaches half as far at a wall as elsewhere. In the half cell that is missing there is no flux
        across the wall, n·D∇u = 0; what remains is a flux along it, ½ Σ λ |eₙ| (eₜ − eₙ Dₙₜ/Dₙₙ)² ∂ₜu.
        """
        scaled = matrix / (self._widths[:, None] * self._widths)
        base = superbase(scaled)
        every, weight = offsets(base), weights(base, scaled)
        kinds = self._kinds.reshape(-1, *(1,) * (every.ndim - 2), self.grid.ndim)
        match = jnp.all(every % 2 == kinds, -1)
        offset = jnp.sum(jnp.where(match[..., None], every, 0.0), -2).astype(jnp.int32)
        offset = jnp.where(match.any(-1)[..., None], offset, kinds[..., 0, :])
        beside = []
        for unit in np.flatnonzero(self._kinds.sum(1) == 1):
            t, total, closed = int(np.argmax(self._kinds[unit])), jnp.zeros((), scaled.dtype), self._closed
            for n in range(self.grid.ndim):
                if n != t and closed[..., n].any():
                    lean = scaled[unit, ..., n, t] / scaled[unit, ..., n, n]
                    slide = every[unit, ..., t] - every[unit, ..., n] * lean[..., None]
                    half = jnp.sum(weight[unit] * jnp.abs(every[unit, ..., n]) * slide**2, -1) / 2
                    total = total + jnp.where(closed[..., n], half, 0.0)
            beside.append(total)
        return offset, jnp.sum(jnp.where(match, weight, 0.0), -1), beside

    def _tilt(self, path: Any, matrix: Any, flow: Any, middle: Any, t: Any) -> Any:
        """z = path·D⁻¹b around the middle of a path `(…, ndim)` [length].

        A potential is differenced over as long a way, so that its Gibbs state is kept where a path is a principal axis.
        """
        way = jnp.sum(inverse(matrix) * path[..., None, :], -1)
        z = jnp.sum(way * flow, -1)
        drift = self.transport.drift
        if not isinstance(drift, Potential):
            return z
        length = lambda x: jnp.sqrt(jnp.sum(x * x, -1, keepdims=True))
        across = way * (length(path) / length(way))
        from_wall = jnp.minimum(middle - self._origin, self._origin + self._extent - middle)
        room = jnp.where(np.array(self._periodic), jnp.inf, 2 * from_wall) / jnp.maximum(jnp.abs(across), 1e-30)
        half = across * jnp.minimum(jnp.min(room, -1, keepdims=True), 1.0) / 2
        energy = partial(self._at_points, coefficient=at_time(drift.energy, t, self.grid.names), rank=0)
        return z - (energy(middle + half) - energy(middle - half)) * (length(way) / (2 * length(half)))[..., 0]

    def _films(self, nearest: Any) -> Any:
        """Rates out of the domain through walls that are open but do not fix the value."""
        total = jnp.zeros(self.grid.shape, self._widths.dtype)
        for i, side in enumerate(self.sides):
            if side.open and not side.fixes_value:
                at = (*(slice(None),) * (i // 2), -(i % 2))
                total = total.at[at].add((nearest.up if i % 2 else nearest.down)[i // 2][at])
        return total

    def _edges_to_walls(self, fixed: list[int], t: Any) -> WallEdges:
        """Where offsets that decompose D at each cell, ahead and back, leave the domain: through the nearest wall."""
        ndim, h, closed = self.grid.ndim, self._widths, ~np.array(self._periodic)
        here = np.zeros(ndim, np.int32)
        matrix = self._at_midpoints(here, self._matrix(t), 2)
        base = superbase(jnp.where(definite(matrix)[..., None, None], matrix, self._unit) / (h[:, None] * h))
        offset = jnp.moveaxis(offsets(base), -2, 0)
        offset = jnp.concatenate([offset, -offset])
        ahead = jnp.where(offset > 0, np.array(self.grid.shape) - self._cells, self._cells + 1) - jnp.asarray(
            0.5, h.dtype
        )
        moves = (offset != 0) & closed
        shares = jnp.where(moves, ahead / jnp.where(moves, jnp.abs(offset), 1.0), jnp.inf)
        share, axis = jnp.min(shares, -1), jnp.argmin(shares, -1)
        leaves, share = share < 1, jnp.where(share < 1, share, 1.0)
        upper = jnp.take_along_axis(offset, axis[..., None], -1)[..., 0] > 0
        side = jnp.where(leaves, 2 * axis + upper, -1)
        hit, start = jnp.isin(side, np.array(fixed)), self._places(here[None])
        path = jnp.where(hit[..., None], share[..., None] * offset * h, 0.0)
        end = start + path - self._origin
        end = self._origin + jnp.where(closed, end, end % self._extent)
        return WallEdges(base, side, hit, share, path, start + path / 2, end)

    def _absorbed(self, t: Any, rates: Any = None) -> tuple[Any, Any, list[Condition]]:
        """What edges that end at an absorbing wall carry: conductance out of each cell, inflow, and conditions.

        The flux of an edge that meets the wall after the share s of its length is λ/s (B(−sz) u − B(sz) value), with λ
        and z of D at the wall.
        """
        walls = {i: side for i, side in enumerate(self.sides) if side.fixes_value}
        if not walls:
            return 0.0, 0.0, []
        rates, ndim, h = t if rates is None else rates, self.grid.ndim, self._widths
        edges = self._edges_to_walls(list(walls), rates)
        matrix, flow = self._medium(partial(self._at_points, edges.end), rates)
        matrix = jnp.broadcast_to(matrix, (*edges.hit.shape, ndim, ndim))
        found = [self._definite(matrix, ~edges.hit, edges.end)]
        matrix = jnp.where((edges.hit & definite(matrix))[..., None, None], matrix, self._unit)
        each = weights(edges.base, matrix / (h[:, None] * h))  # λ of all offsets at the end of each edge, which has one
        own = np.tile(np.eye(each.shape[-1], dtype=bool), (2, 1)).reshape(-1, *(1,) * ndim, each.shape[-1])
        weight = jnp.sum(jnp.where(own, each, 0.0), -1)
        out = back = jnp.where(edges.hit, jnp.prod(h) * weight / edges.share, 0.0)
        if flow is not None:
            straight = jnp.where(edges.hit[..., None], edges.path, h)
            b, a = bernoulli(jnp.where(edges.hit, self._tilt(straight, matrix, flow, edges.middle, rates), 0.0))
            out, back = out * a, back * b
        inflow, names = jnp.zeros(self.grid.shape, h.dtype), self.grid.names
        for i, wall in walls.items():
            along, across = (*names[: i // 2], *names[i // 2 + 1 :]), names[i // 2 : i // 2 + 1]
            at_wall = lambda *y, w=wall, along=along, across=across: number(on_wall(w.value, along, y, across), t)
            value = self._at_points(jnp.delete(edges.end, i // 2, axis=-1), at_wall, 0)
            inflow = inflow + jnp.sum(jnp.where(edges.side == i, back * value, 0.0), 0)
        return jnp.sum(out, 0), inflow, found


class WallEdges(NamedTuple):
    """Edges `(edges, *cells)` from cells towards walls, each after one of the offsets that decompose D at its cell."""

    base: Any  # the superbase of the offsets, by which D elsewhere is decomposed too
    side: Any  # the wall through which an edge leaves the domain, −1 where it does not
    hit: Any  # where that wall fixes the value
    share: Any  # of its length up to the wall
    path: Any  # (…, ndim) [length] from the cell to a wall that is hit, else zero
    middle: Any  # (…, ndim) [length] of that path
    end: Any  # (…, ndim) [length] of that path


def _symmetric(matrix: Any) -> Any:
    return (matrix + jnp.swapaxes(matrix, -1, -2)) / 2


def _stack(each: list[Any]) -> Any:
    return jnp.stack(jnp.broadcast_arrays(*each))


def _first(message: str, failed: Any, places: Any, value: Any) -> Condition:
    """The condition at the first place `(…, ndim)` where it fails."""
    places = jnp.moveaxis(jnp.broadcast_to(places, (*failed.shape, places.shape[-1])), -1, 0)
    return message, *first_failure(failed, list(places), value)
