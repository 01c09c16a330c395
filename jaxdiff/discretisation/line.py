"""From coefficients, grid and boundaries to dN/dt = A(t) N + b(t) for the contents N = c V u of cells on one axis."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.separability import depends
from jaxdiff.discretisation.system import TimeDependence, TransportSystem
from jaxdiff.model.coefficients import Potential, TimeDependent, as_number, at_points, at_time, is_cells, number, varies
from jaxdiff.model.discontinuities import mean_between
from jaxdiff.model.series import Series
from jaxdiff.operators import Tridiagonal
from jaxdiff.runtime.conditions import Condition


@jax.jit
def bernoulli(z: Any) -> tuple[Any, Any]:
    """B(z) = z/(eᶻ − 1) and B(−z) = B(z) + z, each to full relative precision, smooth through z = 0."""
    small = jnp.abs(z) < 1e-2
    s, a = jnp.where(small, z, 0.0), jnp.where(small, 1.0, jnp.abs(z))
    even = 1.0 + s * s / 12.0 - s**4 / 720.0 + s**6 / 30240.0
    low = -a * jnp.exp(-a) / jnp.expm1(-a)
    forward = jnp.where(small, even - s / 2.0, jnp.where(z > 0, low, low + a))
    backward = jnp.where(small, even + s / 2.0, jnp.where(z > 0, low + a, low))
    return forward, backward


@dataclass(frozen=True)
class HalfCell:
    """From the last centre to a wall, see `jaxdiff.model.boundaries.HalfCell`; `velocity` is b·n where D vanishes."""

    axis: str
    place: Any
    diffusivity: Any
    distance: Any
    peclet: Any
    velocity: Any

    @property
    def out(self) -> Any:
        return self._rates[0]

    @property
    def back(self) -> Any:
        return self._rates[1]

    @property
    def net(self) -> Any:
        d, h, z = self.diffusivity, self.distance, self.peclet
        return 0.0 if z is None else jnp.where(d > 0, z * d / h, self.velocity)

    @cached_property
    def _rates(self) -> tuple[Any, Any]:
        d, h, z = self.diffusivity, self.distance, self.peclet
        if z is None:
            return d / h, d / h
        back, out = bernoulli(z)
        still = jnp.maximum(self.velocity, 0.0), jnp.maximum(-self.velocity, 0.0)
        return jnp.where(d > 0, d / h * out, still[0]), jnp.where(d > 0, d / h * back, still[1])


class LineSystem(TransportSystem):
    """The equation on one axis, with contents `(n,)`."""

    @property
    def periodic(self) -> bool:
        return self.sides[0].periodic

    def time_dependence(self) -> TimeDependence:
        drift, diffusivity, loss, source, *_ = self.transport
        rates, forcings = [drift, diffusivity, loss], [source]
        if isinstance(drift, Potential):
            rates.append(drift.energy)
        for side in self.sides:
            for name, value in side.numbers.items():
                (rates if name in rates_of(side) else forcings).append(value)
        linear = lambda c: isinstance(c, Series) and c.interpolation == "linear"
        knots = [c.times for c in forcings if linear(c)]
        return TimeDependence(any(map(varies, rates)), any(varies(c) and not linear(c) for c in forcings), knots)

    @property
    def weights(self) -> Any:
        """Contents per unit of u: capacity times volume, `(n,)`."""
        volumes = jnp.asarray(self.grid.volumes)
        if self.transport.capacity is None:
            return volumes
        return volumes * at_points(self.transport.capacity, self.grid.centers[0], 0.0, "capacity")

    def operator(self, t: Any) -> Tridiagonal:
        """A at time t, as rates between neighbouring cells."""
        return self._operator(_Fluxes(self, t))

    def forcing(self, t: Any, rates: Any = None) -> Any:
        """b at time t: sources and what enters through the walls, `(n,)`; at the rates of another time, if one is given."""
        return self._forcing(_Fluxes(self, t if rates is None else rates), t)

    def at(self, t: Any, u: Any = None) -> tuple[Any, Any]:
        fluxes = _Fluxes(self, t)
        return self._operator(fluxes), self._forcing(fluxes, t)

    def conditions(self, t: Any) -> list[Condition]:
        fluxes = _Fluxes(self, t)
        return self._conditions(fluxes, self._forcing(fluxes, t))

    def formed(self, t: Any) -> tuple[Any, Any, list[Condition]]:
        fluxes = _Fluxes(self, t)
        b = self._forcing(fluxes, t)
        return self._operator(fluxes), b, self._conditions(fluxes, b)

    def faces(self, t: Any, k: int = 0) -> tuple[Any, Any, Any]:
        fluxes = _Fluxes(self, t)
        out, back = fluxes.conductances
        if self.periodic:
            seam = lambda rate: jnp.concatenate([rate[-1:], rate])
            return seam(out), seam(back), jnp.zeros(len(out) + 1, out.dtype)
        (leaving, entering), (off, onto) = fluxes.eliminated(t)
        with_ends = lambda lower, inner, upper: jnp.concatenate([jnp.stack([lower]), inner, jnp.stack([upper])])
        still = jnp.zeros((), out.dtype)
        inflow = with_ends(entering, jnp.zeros(len(out), out.dtype), -onto)
        return with_ends(still, out, off), with_ends(leaving, back, still), inflow

    def walls(self, t: Any, k: int = 0) -> tuple[Any, Any]:
        found = []
        for side, cell in _Fluxes(self, t).at_walls:
            outflow, inflow = _flux(side, cell, _numbers(side, t, t))
            through = cell.back > 0
            back = jnp.where(through, cell.back, 1.0)
            found.append((jnp.where(through, (cell.out - outflow) / back, 1.0), jnp.where(through, inflow / back, 0.0)))
        shares, offsets = zip(*found, strict=True)
        return jnp.stack(shares), jnp.stack(offsets)

    def _operator(self, fluxes: _Fluxes) -> Tridiagonal:
        out, back = fluxes.conductances
        m = self.weights
        rate = at_points(self.transport.loss, fluxes.x, fluxes.t, "decay or killing")
        loss = rate * jnp.asarray(self.grid.volumes) / m
        diffusive = self.driftless
        if self.periodic:
            return Tridiagonal(out / m, jnp.roll(back, 1) / m, loss, True, diffusive)
        lower, upper = fluxes.eliminated(fluxes.t)
        up = jnp.concatenate([out, upper[0][None]]) / m
        down = jnp.concatenate([lower[0][None], back]) / m
        return Tridiagonal(up, down, loss, False, diffusive)

    def _forcing(self, fluxes: _Fluxes, t: Any) -> Any:
        source = at_time(self.transport.source, t)
        in_cells = self.grid.average(source) if callable(source) else at_points(source, fluxes.x, t, "source")
        b = jnp.asarray(self.grid.volumes) * in_cells
        if self.periodic:
            return b
        lower, upper = fluxes.eliminated(t)
        return b.at[0].add(lower[1]).at[-1].add(upper[1])

    def _conditions(self, fluxes: _Fluxes, b: Any) -> list[Condition]:
        """Diffusivity positive inside and not negative at a wall, capacity positive, numbers finite."""
        t, x, e, (cells, faces) = fluxes.t, fluxes.x, fluxes.e, fluxes.diffusivity
        where = f"at {self.grid.sides[0][0]} = {{where}}"
        d, points = jnp.concatenate([cells, faces[1:-1]]), jnp.concatenate([x, e[1:-1]])
        ends, at_walls = e[fluxes.ends], faces[fluxes.ends]
        found: list[Condition] = [
            (f"diffusivity is {{value}} {where}; it must be positive inside the domain", ~(d > 0), points, d),
            (f"diffusivity is {{value}} {where}; it must not be negative at a wall", ~(at_walls >= 0), ends, at_walls),
        ]
        if self.transport.capacity is not None:
            c = at_points(self.transport.capacity, x, t, "capacity")
            found.append((f"capacity is {{value}} {where}; it must be positive", ~(c > 0), x, c))
        k = at_points(self.transport.loss, x, t)
        found.append((f"decay or killing is {{value}} {where}; it must be finite", ~jnp.isfinite(k), x, k))
        if (f := fluxes.drift) is not None:
            found.append((f"drift or potential is {{value}} {where}; it must be finite", ~jnp.isfinite(f), e, f))
        source = at_time(self.transport.source, t)
        return [
            *found,
            *([self.grid.unresolved(source, "source")] if callable(source) else []),
            *(each for side, cell in fluxes.at_walls for each in _at_wall(side, cell, _numbers(side, t, t))),
            (f"source or boundary value gives {{value}} {where}; it must be finite", ~jnp.isfinite(b), x, b),
        ]


class _Fluxes:
    """What the fluxes of a line of cells are made of at time t; each quantity is formed once."""

    def __init__(self, system: LineSystem, t: Any):
        self.transport, self.grid, self.sides, self.periodic = (
            system.transport, system.grid, system.sides, system.periodic
        )  # fmt: skip
        self.t, self.x, self.e = t, jnp.asarray(self.grid.centers[0]), jnp.asarray(self.grid.edges[0])
        self.ends = np.array([0, -1])  # JAX takes one for all programs for an integer of the first, of 32 or 64 bits

    @cached_property
    def diffusivity(self) -> tuple[Any, Any]:
        """D in cells `(n,)` and on faces `(n + 1,)`; two media meet by harmonic mean, wherever a function jumps."""
        diffusivity, t = self.transport.diffusivity, self.t
        cells = at_points(diffusivity, self.x, t, "diffusivity")
        if not is_cells(diffusivity):
            return cells, self._across(diffusivity, at_points(diffusivity, self.e, t), power=-1)
        w = jnp.asarray(self.grid.widths[0])
        safe = jnp.where(cells > 0, cells, 1.0)
        meet = lambda w1, d1, w2, d2: (w1 + w2) / (w1 / d1 + w2 / d2)
        inner = meet(w[:-1], safe[:-1], w[1:], safe[1:])
        if self.periodic:
            seam = meet(w[-1:], safe[-1:], w[:1], safe[:1])
            return cells, jnp.concatenate([seam, inner, seam])
        return cells, jnp.concatenate([cells[:1], inner, cells[-1:]])

    @cached_property
    def drift(self) -> Any:
        """∫f dx from centre to centre across each face, `(n + 1,)`; at the ends to the walls, or across the period."""
        drift, t, x, e = self.transport.drift, self.t, self.x, self.e
        if drift is None:
            return None
        if isinstance(drift, Potential):
            before = x[-1:] - (e[-1] - e[0]) if self.periodic else e[:1]
            behind = x[:1] + (e[-1] - e[0]) if self.periodic else e[-1:]
            return -jnp.diff(at_points(drift.energy, jnp.concatenate([before, x, behind]), t))
        if is_cells(drift):
            f = at_points(drift, x, t, "drift")
            ends = ((f[0] + f[-1]) / 2,) * 2 if self.periodic else (f[0], f[-1])
            return jnp.concatenate([ends[0][None], jnp.interp(e[1:-1], x, f), ends[1][None]]) * self.spans
        return self._across(drift, at_points(drift, e, t, "drift")) * self.spans

    def _across(self, coefficient: Any, faces: Any, power: int = 1) -> Any:
        """Means across the faces, from centre to centre or to the wall, where a function of position jumps there; else its
        values on `faces` `(n + 1,)`.

        A diffusivity takes the harmonic mean: with the areas A of shells h/(A D) is the resistance of a way h, and ways
        stand in series.
        """
        function = at_time(coefficient, self.t)
        if not callable(function):
            return faces
        lower, upper = jnp.concatenate([self.e[:1], self.x]), jnp.concatenate([self.x, self.e[-1:]])
        exponent = -self.grid.exponent if power == -1 else 0
        value = lambda at: as_number(function, at)
        found, cut = mean_between(value, lower, upper, faces, power, exponent)
        if not self.periodic:
            return found
        # What does not come back to itself jumps at the seam.
        halves = jnp.where(cut[self.ends], found[self.ends], jax.vmap(value)((lower[self.ends] + upper[self.ends]) / 2))
        widths = (upper - lower)[self.ends]
        good = halves if power == 1 else jnp.where(halves > 0, halves, 1.0)
        seam = (jnp.sum(widths * good**power) / jnp.sum(widths)) ** power
        seam = jnp.where(jnp.all(halves > 0), seam, jnp.min(halves)) if power == -1 else seam
        apart = jnp.abs(faces[0] - faces[-1]) > 1e-6 * jnp.maximum(jnp.abs(faces[0]), jnp.abs(faces[-1]))
        return found.at[self.ends].set(jnp.where(cut[self.ends].any() | apart, seam, faces[self.ends]))

    @cached_property
    def spans(self) -> Any:
        """Distances across the faces; across the period at the ends of a periodic axis."""
        h = jnp.asarray(self.grid.distances)
        return h.at[self.ends].set(h[0] + h[-1]) if self.periodic else h

    @cached_property
    def peclet(self) -> Any:
        """z = ∫ b/D dx from centre to centre with b = f − (1 − α) D′, `(n + 1,)`; None in an equation without drift."""
        if self.drift is None:
            return None
        cells, faces = self.diffusivity
        positive = faces > 0
        z = jnp.where(positive, self.drift / jnp.where(positive, faces, 1.0), 0.0)
        d, alpha = self.transport.diffusivity, self.transport.alpha
        if alpha < 1.0 and (callable(d) or is_cells(d) or varies(d)):
            log = jnp.log(jnp.where(cells > 0, cells, 1.0))
            ends = faces[self.ends]
            wall = jnp.log(jnp.where(ends > 0, ends, 1.0))
            nodes = jnp.concatenate([log[-1:], log, log[:1]] if self.periodic else [wall[:1], log, wall[1:]])
            z = z - (1.0 - alpha) * jnp.diff(nodes)
        return z

    @property
    def conductances(self) -> tuple[Any, Any]:
        """Scharfetter and Gummel's, outwards and back over the inner faces; last the seam of a periodic axis."""
        inner = slice(1, None) if self.periodic else slice(1, -1)
        conductance = (self.diffusivity[1] * jnp.asarray(self.grid.areas) / self.spans)[inner]
        if self.peclet is None:
            return conductance, conductance
        back, out = bernoulli(self.peclet[inner])
        return conductance * out, conductance * back

    def eliminated(self, t: Any) -> list[tuple[Any, Any]]:
        """For the lower and upper wall: conductance out of the end cell, and the inflow that it brings, of values at time t."""
        areas, found = jnp.asarray(self.grid.areas), []
        for i, (side, cell) in zip((0, -1), self.at_walls, strict=True):
            outflow, inflow = _flux(side, cell, _numbers(side, t, self.t))
            found.append((areas[i] * outflow, areas[i] * inflow))
        return found

    @cached_property
    def at_walls(self) -> list[tuple[Any, HalfCell]]:
        """The boundary and the half cell at the lower and upper wall."""
        (cells, faces), h, drift, z = self.diffusivity, self.spans, self.drift, self.peclet
        name, found = self.grid.sides[0][0], []
        for i, outward, side in zip((0, -1), (-1.0, 1.0), self.sides, strict=True):
            velocity: Any = 0.0
            if drift is not None:
                velocity = (outward * drift[i] - (1.0 - self.transport.alpha) * (faces[i] - cells[i])) / h[i]
            z_out = None if z is None else outward * z[i]
            found.append((side, HalfCell(name, self.e[i], faces[i], h[i], z_out, velocity)))
        return found


def _numbers(side: Any, t: Any, rates: Any) -> dict[str, Any]:
    """The numbers of a boundary at time t, those that are rates at another."""
    return {name: number(value, rates if name in rates_of(side) else t) for name, value in side.numbers.items()}


def _flux(side: Any, cell: Any, numbers: Any) -> tuple[Any, Any]:
    """What a boundary eliminates, (outflow, inflow)."""
    found = side.eliminate(cell, **numbers)
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(f"{type(side).__name__}.eliminate must return (outflow, inflow), got {type(found).__name__}")
    return found


def _at_wall(side: Any, cell: HalfCell, numbers: Any) -> list[Condition]:
    """What a boundary refuses, and whether its outflow is what it says of it, by which modes are chosen."""
    found = side.conditions(cell, **numbers)
    outflow = 0.0 if side.periodic else _flux(side, cell, numbers)[0]
    if cell.peclet is not None or outflow is cell.out or isinstance(outflow, float):
        return found
    who, where = f"{type(side).__name__} lets {{value}} out", f"at {cell.axis} = {{where}}"
    if side.fixes_value:
        message = f"{who} {where}, where one that says fixes_value = True lets cell.out through; leave that out"
        found = [*found, (message, jnp.abs(outflow - cell.out) > 1e-3 * jnp.abs(cell.out), cell.place, outflow)]
    elif not side.open:
        found = [*found, (f"{who} {where} and says open = False; leave that out", outflow != 0, cell.place, outflow)]
    return found


def rates_of(side: Any) -> tuple[str, ...]:
    """The names of the numbers of a boundary on which its outflow depends, with a drift or without, as its program tells."""
    if side.periodic:
        return ()
    law = type(side), *(getattr(side, name) for name in side.settings)
    if law not in _RATES:
        alike, names = side.map(_placeholder), tuple(side.numbers)
        cells = [HalfCell("x", 1.0, 1.0, 1.0, peclet, 0.0) for peclet in (None, 1.0)]
        outflows = lambda *numbers: [_flux(alike, cell, dict(zip(names, numbers)))[0] for cell in cells]
        _RATES[law] = tuple(compress(names, depends(outflows, *alike.numbers.values())))
    return _RATES[law]


_RATES: dict[Any, tuple[str, ...]] = {}  # by the class of a boundary and its settings


def _placeholder(value: Any) -> Any:
    """A number in place of one of a boundary, of its shape where it is an array."""
    return jnp.ones(()) if callable(value) or isinstance(value, (Series, TimeDependent)) else jnp.ones(np.shape(value))
