"""From coefficients, grid and boundaries to dN/dt = A(t) N + b(t) for the contents N = c V u of cells on one axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.model.boundaries import Dirichlet, Flux, Neumann, Periodic, Robin
from jaxdiff.model.coefficients import Potential, Series, as_number, at_points, at_time, is_cells, jumps, number, varies
from jaxdiff.model.equations import Diffusion, Equation
from jaxdiff.model.grid import Grid
from jaxdiff.model.interfaces import mean_between
from jaxdiff.operators import Tridiagonal
from jaxdiff.runtime.conditions import Condition

STEEP = 3.0  # |z| over half a cell: beyond, e^|z| is more than five times the 1 + |z| of a smooth slope


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
class SemiDiscrete:
    """The semi-discrete equation; `operator` and `forcing` at a time, and static facts on how they depend on it."""

    equation: Equation
    grid: Grid

    def course(self) -> tuple[bool, bool, list[Any]]:
        """How time enters: whether the operator varies, whether the forcing is any function of time, and the knots of
        measured series in it."""
        raise NotImplementedError

    @property
    def jumps(self) -> list[Any]:
        """The times at which a coefficient says that it jumps or bends."""
        return jumps(self.equation)

    @property
    def operator_varies(self) -> bool:
        return self.course()[0]

    @property
    def forcing_varies(self) -> bool:
        return self.course()[1]

    @property
    def knots(self) -> list[Any]:
        return self.course()[2]


class System(SemiDiscrete):
    """The equation on one axis, with contents `(n,)`."""

    @property
    def sides(self) -> tuple[Any, Any]:
        lower, upper = self.equation.sides(self.grid)
        return lower, upper

    @property
    def ring(self) -> bool:
        return isinstance(self.sides[0], Periodic)

    def course(self) -> tuple[bool, bool, list[Any]]:
        drift, diffusivity, loss = self.equation._transport()
        rates, forcings = [drift, diffusivity, loss], [self._source]
        if isinstance(drift, Potential):
            rates.append(drift.energy)
        for side in self.sides:
            if isinstance(side, Robin):
                rates.append(side.rate)
                forcings.append(side.ambient)
            elif isinstance(side, Neumann):
                forcings.append(side.gradient)
            elif isinstance(side, (Dirichlet, Flux)):
                forcings.append(side.value)
        linear = lambda c: isinstance(c, Series) and c.interpolation == "linear"
        knots = [c.times for c in forcings if linear(c)]
        return any(map(varies, rates)), any(varies(c) and not linear(c) for c in forcings), knots

    @property
    def _source(self) -> Any:
        return self.equation.source

    @property
    def weights(self) -> Any:
        """Contents per unit of u: capacity times volume, `(n,)`."""
        volumes = jnp.asarray(self.grid.volumes)
        if isinstance(self.equation, Diffusion):
            return volumes * at_points(self.equation.capacity, self.grid.centers[0], 0.0, "capacity")
        return volumes

    def operator(self, t: Any) -> Tridiagonal:
        """A at time t, as rates between neighbouring cells."""
        out, back = self._hops(t)
        m = self.weights
        rate = at_points(self.equation._transport()[2], self.grid.centers[0], t, "decay or killing")
        loss = rate * jnp.asarray(self.grid.volumes) / m
        diffusive = isinstance(self.equation, Diffusion)
        if self.ring:
            return Tridiagonal(out / m, jnp.roll(back, 1) / m, loss, True, diffusive)
        lower, upper = self._walls(t)
        up = jnp.concatenate([out, upper[0][None]]) / m
        down = jnp.concatenate([lower[0][None], back]) / m
        return Tridiagonal(up, down, loss, False, diffusive)

    def forcing(self, t: Any, rates: Any = None) -> Any:
        """b at time t: sources and what the walls feed in, `(n,)`; at the rates of another time, if one is given."""
        b = jnp.asarray(self.grid.volumes) * self._heating(t)
        if self.ring:
            return b
        lower, upper = self._walls(t, rates)
        return b.at[0].add(lower[1]).at[-1].add(upper[1])

    def _heating(self, t: Any) -> Any:
        """The source in cells `(n,)`; of a function its averages."""
        source = at_time(self._source, t)
        if callable(source):
            return self.grid.average(source)
        return at_points(source, self.grid.centers[0], t, "source")

    def conditions(self, t: Any) -> list[Condition]:
        """Diffusivity positive inside and not negative at a wall, capacity positive, numbers finite."""
        x, e = jnp.asarray(self.grid.centers[0]), jnp.asarray(self.grid.edges[0])
        ends = np.array([0, -1])
        cells, faces = self._diffusivity(t)
        where = f"at {self.grid.sides[0][0]} = {{where}}"
        d, points = jnp.concatenate([cells, faces[1:-1]]), jnp.concatenate([x, e[1:-1]])
        found: list[Condition] = [
            (f"diffusivity is {{value}} {where}; it must be positive inside the domain", ~(d > 0), points, d),
            (
                f"diffusivity is {{value}} {where}; it must not be negative at a wall",
                ~(faces[ends] >= 0),
                e[ends],
                faces[ends],
            ),
        ]
        if isinstance(self.equation, Diffusion):
            c = at_points(self.equation.capacity, x, t, "capacity")
            found.append((f"capacity is {{value}} {where}; it must be positive", ~(c > 0), x, c))
        k = at_points(self.equation._transport()[2], x, t)
        found.append((f"decay or killing is {{value}} {where}; it must be finite", ~jnp.isfinite(k), x, k))
        f = self._drift(t)
        if f is not None:
            found.append((f"drift or potential is {{value}} {where}; it must be finite", ~jnp.isfinite(f), e, f))
        b = self.forcing(t)
        source = at_time(self._source, t)
        return [
            *found,
            *([self.grid.unresolved(source, "source")] if callable(source) else []),
            *self._entering(t),
            (f"source or boundary value gives {{value}} {where}; it must be finite", ~jnp.isfinite(b), x, b),
        ]

    def _entering(self, t: Any) -> list[Condition]:
        """No slope at a wall where the drift comes in over a large cell: constant flux feeds in e^|z| times as much."""
        name, ends = self.grid.sides[0][0], jnp.asarray(self.grid.edges[0])
        found: list[Condition] = []
        for i, side, (d, _, z, velocity) in zip((0, -1), self.sides, self._at_walls(t), strict=True):
            if isinstance(side, Neumann) and z is not None:
                gradient = number(side.gradient, t)
                steep = jnp.where(d > 0, z < -STEEP, velocity < 0)
                message = (
                    f"Neumann gradient is {{value}} at {name} = {{where}}, where the drift enters and half a cell times it exceeds "
                    f"{STEEP:g} diffusivities; it must be 0 there: take smaller cells, or jd.Flux or jd.Dirichlet"
                )
                found.append((message, (gradient != 0) & steep, ends[i], gradient))
        return found

    def _diffusivity(self, t: Any) -> tuple[Any, Any]:
        """D in cells `(n,)` and on faces `(n + 1,)`; two media meet by harmonic mean, wherever a function jumps."""
        diffusivity = self.equation._transport()[1]
        x, e = jnp.asarray(self.grid.centers[0]), jnp.asarray(self.grid.edges[0])
        cells = at_points(diffusivity, x, t, "diffusivity")
        if not is_cells(diffusivity):
            return cells, self._across(diffusivity, at_points(diffusivity, e, t), t, power=-1)
        w = jnp.asarray(self.grid.widths[0])
        safe = jnp.where(cells > 0, cells, 1.0)
        meet = lambda w1, d1, w2, d2: (w1 + w2) / (w1 / d1 + w2 / d2)
        inner = meet(w[:-1], safe[:-1], w[1:], safe[1:])
        if self.ring:
            seam = meet(w[-1:], safe[-1:], w[:1], safe[:1])
            return cells, jnp.concatenate([seam, inner, seam])
        return cells, jnp.concatenate([cells[:1], inner, cells[-1:]])

    def _drift(self, t: Any) -> Any:
        """∫f dx from centre to centre across each face, `(n + 1,)`; at the ends to the walls, or across the period."""
        drift = self.equation._transport()[0]
        if not isinstance(drift, Potential) and not callable(drift) and not varies(drift) and np.ndim(drift) == 0:
            if isinstance(self.equation, Diffusion):
                return None
        x, e = jnp.asarray(self.grid.centers[0]), jnp.asarray(self.grid.edges[0])
        h = jnp.asarray(self._spans())
        if isinstance(drift, Potential):
            nodes = jnp.concatenate(
                [x[-1:] - (e[-1] - e[0]) if self.ring else e[:1], x, x[:1] + (e[-1] - e[0]) if self.ring else e[-1:]]
            )
            return -jnp.diff(at_points(drift.energy, nodes, t))
        if is_cells(drift):
            f = at_points(drift, x, t, "drift")
            inner = jnp.interp(e[1:-1], x, f)
            ends = ((f[0] + f[-1]) / 2, (f[0] + f[-1]) / 2) if self.ring else (f[0], f[-1])
            return jnp.concatenate([ends[0][None], inner, ends[1][None]]) * h
        return self._across(drift, at_points(drift, e, t, "drift"), t) * h

    def _across(self, coefficient: Any, faces: Any, t: Any, power: int = 1) -> Any:
        """Means across the faces, from centre to centre or to the wall, where a function of position jumps there; else its
        values on `faces` `(n + 1,)`.

        A diffusivity takes the harmonic mean: with the areas A of shells h/(A D) is the resistance of a way h, and ways
        stand in series.
        """
        function = at_time(coefficient, t)
        if not callable(function):
            return faces
        x, e = jnp.asarray(self.grid.centers[0]), jnp.asarray(self.grid.edges[0])
        lower, upper = jnp.concatenate([e[:1], x]), jnp.concatenate([x, e[-1:]])
        exponent = -self.grid.exponent if power == -1 else 0
        value = lambda at: as_number(function, at)
        found, cut = mean_between(value, lower, upper, faces, power, exponent)
        if not self.ring:
            return found
        ends = np.array([0, -1])  # what does not come back to itself jumps at the seam
        halves = jnp.where(cut[ends], found[ends], jax.vmap(value)((lower[ends] + upper[ends]) / 2))
        widths = (upper - lower)[ends]
        good = halves if power == 1 else jnp.where(halves > 0, halves, 1.0)
        seam = (jnp.sum(widths * good**power) / jnp.sum(widths)) ** power
        seam = jnp.where(jnp.all(halves > 0), seam, jnp.min(halves)) if power == -1 else seam
        apart = jnp.abs(faces[0] - faces[-1]) > 1e-6 * jnp.maximum(jnp.abs(faces[0]), jnp.abs(faces[-1]))
        return found.at[ends].set(jnp.where(cut[ends].any() | apart, seam, faces[ends]))

    def _spans(self) -> Any:
        """Distances across the faces; across the period at the ends of a ring."""
        h = jnp.asarray(self.grid.distances)
        return h.at[np.array([0, -1])].set(h[0] + h[-1]) if self.ring else h

    def _peclet(self, t: Any) -> tuple[Any, Any, Any]:
        """D on faces, distances, and z: ∫ b/D dx from centre to centre with b = f − (1 − α) D′."""
        cells, faces = self._diffusivity(t)
        h = self._spans()
        drop = self._drift(t)
        if drop is None:
            return faces, h, None
        positive = faces > 0
        z = jnp.where(positive, drop / jnp.where(positive, faces, 1.0), 0.0)
        d = self.equation._transport()[1]
        if self.equation.alpha < 1.0 and (callable(d) or is_cells(d) or varies(d)):
            log = jnp.log(jnp.where(cells > 0, cells, 1.0))
            ends = faces[np.array([0, -1])]
            wall = jnp.log(jnp.where(ends > 0, ends, 1.0))
            nodes = jnp.concatenate([log[-1:], log, log[:1]] if self.ring else [wall[:1], log, wall[1:]])
            z = z - (1.0 - self.equation.alpha) * jnp.diff(nodes)
        return faces, h, z

    def _hops(self, t: Any) -> tuple[Any, Any]:
        """Scharfetter–Gummel conductances outwards and back over the inner faces; last the seam on a ring."""
        faces, h, z = self._peclet(t)
        conductance = faces * jnp.asarray(self.grid.areas) / h
        inner = slice(1, None) if self.ring else slice(1, -1)
        if z is None:
            return conductance[inner], conductance[inner]
        back, out = bernoulli(z[inner])
        return conductance[inner] * out, conductance[inner] * back

    def _walls(self, t: Any, rates: Any = None) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """For the lower and upper wall: conductance out of the end cell, and the inflow it feeds."""
        rates = t if rates is None else rates
        areas = jnp.asarray(self.grid.areas)
        found = []
        for i, side, wall in zip((0, -1), self.sides, self._at_walls(rates), strict=True):
            out, inflow = _wall(side, t, rates, *wall)
            found.append((areas[i] * out, areas[i] * inflow))
        return found[0], found[1]

    def _at_walls(self, t: Any) -> list[tuple[Any, Any, Any, Any]]:
        """At the lower and upper wall: D, half a cell, and outwards z, and b·n where D vanishes."""
        faces, h, z = self._peclet(t)
        cells, drop = self._diffusivity(t)[0], self._drift(t)
        found = []
        for i, outward in ((0, -1.0), (-1, 1.0)):
            z_out = None if z is None else outward * z[i]
            velocity: Any = 0.0
            if drop is not None:
                velocity = (outward * drop[i] - (1.0 - self.equation.alpha) * (faces[i] - cells[i])) / h[i]
            found.append((faces[i], h[i], z_out, velocity))
        return found


def _wall(side: Any, t: Any, rates: Any, d: Any, h: Any, z: Any, velocity: Any) -> tuple[Any, Any]:
    """J·n = out·u − inflow at a wall half a cell away, per area.

    Between centre and wall J·n = a u − c w for the wall value w, which the boundary condition eliminates.
    """
    zero = jnp.zeros((), jnp.result_type(d))
    if isinstance(side, Flux):
        return zero, -number(side.value, t)
    if z is None:
        a = c = d / h
        b: Any = 0.0
    else:
        back, out = bernoulli(z)
        a = jnp.where(d > 0, d / h * out, jnp.maximum(velocity, 0.0))
        c = jnp.where(d > 0, d / h * back, jnp.maximum(-velocity, 0.0))
        b = jnp.where(d > 0, z * d / h, velocity)
    if isinstance(side, Dirichlet):
        return a, c * number(side.value, t)
    if isinstance(side, Robin):
        rate = number(side.rate, rates)
        total = c + rate
        share = jnp.where(total == 0, 0.0, rate / jnp.where(total == 0, 1.0, total))
        return share * a, share * c * number(side.ambient, t)
    assert isinstance(side, Neumann)
    gradient = d * number(side.gradient, t)
    if z is None:
        return zero, gradient
    # c + b is a, and c/a is e^−z: their sum cancels where the drift enters.
    return b, gradient * jnp.exp(jnp.minimum(-z, STEEP))
