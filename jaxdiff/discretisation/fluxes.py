"""Fluxes of drift and diffusion between the cells of a line, Scharfetter and Gummel's, and through the walls at its ends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.separability import depends
from jaxdiff.discretisation.system import TransportSystem
from jaxdiff.model.coefficients import Potential, absent, as_number, at_points, at_time, is_cells, number, varies
from jaxdiff.model.discontinuities import mean_between
from jaxdiff.model.series import Series
from jaxdiff.model.time_dependent import TimeDependent
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


class Fluxes:
    """What the fluxes of a line of cells are made of at time t; each quantity is formed once."""

    def __init__(self, system: TransportSystem, t: Any):
        self.transport, self.grid, self.sides, self.periodic, self.may_vanish = (
            system.transport, system.grid, system.sides, system.periodic, system.may_vanish
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
        areas = jnp.asarray(self.grid.areas)
        if (mask := self.grid.mask) is not None:  # the outline is no face
            areas = areas * jnp.concatenate([jnp.zeros(1, bool), mask & jnp.roll(mask, -1)])
        conductance = (self.diffusivity[1] * areas / self.spans)[inner]
        if self.peclet is None:
            return conductance, conductance
        back, out = bernoulli(self.peclet[inner])
        out, back = conductance * out, conductance * back
        if not self.may_vanish:
            return out, back
        flow, spreads = (self.drift * areas / self.spans)[inner], self.diffusivity[1][inner] > 0
        return jnp.where(spreads, out, jnp.maximum(flow, 0.0)), jnp.where(spreads, back, jnp.maximum(-flow, 0.0))

    def eliminated(self, t: Any) -> list[tuple[Any, Any]]:
        """For the lower and upper wall: conductance out of the end cell, and the inflow that it brings, of values at time t."""
        areas, found = jnp.asarray(self.grid.areas), []
        for i, (side, cell) in zip((0, -1), self.at_walls, strict=True):
            outflow, inflow = eliminate(side, cell, numbers_of(side, t, self.t))
            if self.grid.mask is not None:
                outflow, inflow = (jnp.where(self.grid.mask[i], each, 0.0) for each in (outflow, inflow))
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


def numbers_of(side: Any, t: Any, rates: Any) -> dict[str, Any]:
    """The numbers of a boundary at time t, those that are rates at another."""
    return {name: number(value, rates if name in rates_of(side) else t) for name, value in side.numbers.items()}


def eliminate(side: Any, cell: Any, numbers: Any) -> tuple[Any, Any]:
    """What a boundary eliminates, (outflow, inflow)."""
    found = side.eliminate(cell, **numbers)
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(f"{type(side).__name__}.eliminate must return (outflow, inflow), got {type(found).__name__}")
    return found


def ways_of(system: TransportSystem) -> tuple[str, ...]:
    """The walls that may let content out, and killing or decay: last, as where it is traced nobody knows that there is none."""
    walls = [
        name for name, side in zip(system.grid.sides, system.sides, strict=True) if lets_out(side, system.driftless)
    ]
    return (*walls, *["killing"] * (not absent(system.transport.loss)))


def exits_of(system: TransportSystem, t: Any) -> dict[str, Any]:
    """Rates `(*cells,)` at which contents leave by each of these ways."""
    weights, found = system.weights, {}
    for name in system.ways:
        if name == "killing":
            found[name] = jnp.broadcast_to(system.operator(t).loss, weights.shape)
            continue
        k, upper = divmod(system.grid.sides.index(name), 2)
        at_wall = lambda x, k=k, end=-upper: jnp.moveaxis(x, k, 0)[end]
        rate, held = at_wall(system.faces(t, k)[1 - upper]), at_wall(weights)
        rate = jnp.where(held > 0, rate / jnp.where(held > 0, held, 1.0), 0.0)
        found[name] = jnp.moveaxis(jnp.zeros_like(jnp.moveaxis(weights, k, 0)).at[-upper].set(rate), 0, k)
    return found


def lets_out(side: Any, driftless: bool) -> bool:
    """Whether the outflow through a wall is more than the number zero."""
    law = type(side), driftless, *(getattr(side, name) for name in side.settings)
    if law not in _OPEN and side.periodic:
        _OPEN[law] = False
    if law not in _OPEN:
        alike, cell = side.map(_placeholder), HalfCell("x", 1.0, 1.0, 1.0, None if driftless else 1.0, 0.0)
        outflow = eliminate(alike, cell, alike.numbers)[0]
        _OPEN[law] = not (isinstance(outflow, float) and outflow == 0.0)
    return _OPEN[law]


_OPEN: dict[Any, bool] = {}  # by the class of a boundary and its settings, with a drift or without


def conditions_at(side: Any, cell: HalfCell, numbers: Any) -> list[Condition]:
    """What a boundary refuses, and whether its outflow is what it says of it, by which modes are chosen."""
    found = side.conditions(cell, **numbers)
    outflow = 0.0 if side.periodic else eliminate(side, cell, numbers)[0]
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
        outflows = lambda *numbers: [eliminate(alike, cell, dict(zip(names, numbers)))[0] for cell in cells]
        _RATES[law] = tuple(compress(names, depends(outflows, *alike.numbers.values())))
    return _RATES[law]


_RATES: dict[Any, tuple[str, ...]] = {}  # by the class of a boundary and its settings


def _placeholder(value: Any) -> Any:
    """A number in place of one of a boundary, of its shape where it is an array."""
    return jnp.ones(()) if callable(value) or isinstance(value, (Series, TimeDependent)) else jnp.ones(np.shape(value))
