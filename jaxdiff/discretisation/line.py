"""From coefficients, grid and boundaries to dN/dt = A(t) N + b(t) for the contents N = c V u of cells on one axis; see `fluxes`."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxdiff.discretisation.fluxes import Fluxes, conditions_at, eliminate, exits_of, numbers_of, rates_of, ways_of
from jaxdiff.discretisation.system import TimeDependence, TransportSystem
from jaxdiff.model.coefficients import Potential, absent, at_points, at_time, is_number, varies
from jaxdiff.model.masks import is_inside
from jaxdiff.model.series import Series
from jaxdiff.operators import Tridiagonal
from jaxdiff.runtime.conditions import Condition


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
    def may_vanish(self) -> bool:
        return self.transport.degenerate and is_number(self.transport.diffusivity)

    @property
    def weights(self) -> Any:
        """Contents per unit of u: capacity times volume, `(n,)`."""
        volumes = jnp.asarray(self.grid.box.volumes)
        if self.transport.capacity is None:
            return volumes
        return volumes * at_points(self.transport.capacity, self.grid.centers[0], 0.0, "capacity")

    def operator(self, t: Any) -> Tridiagonal:
        """A at time t, as rates between neighbouring cells."""
        return self._operator(Fluxes(self, t))

    def forcing(self, t: Any, rates: Any = None) -> Any:
        """b at time t: sources and what enters through the walls, `(n,)`; at the rates of another time, if one is given."""
        return self._forcing(Fluxes(self, t if rates is None else rates), t)

    def at(self, t: Any, u: Any = None) -> tuple[Any, Any]:
        fluxes = Fluxes(self, t)
        return self._operator(fluxes), self._forcing(fluxes, t)

    def conditions(self, t: Any) -> list[Condition]:
        fluxes = Fluxes(self, t)
        return self._conditions(fluxes, self._forcing(fluxes, t))

    def formed(self, t: Any) -> tuple[Any, Any, list[Condition]]:
        fluxes = Fluxes(self, t)
        b = self._forcing(fluxes, t)
        return self._operator(fluxes), b, self._conditions(fluxes, b)

    def faces(self, t: Any, k: int = 0) -> tuple[Any, Any, Any]:
        fluxes = Fluxes(self, t)
        out, back = fluxes.conductances
        if self.periodic:
            seam = lambda rate: jnp.concatenate([rate[-1:], rate])
            return seam(out), seam(back), jnp.zeros(len(out) + 1, out.dtype)
        (leaving, entering), (off, onto) = fluxes.eliminated(t)
        with_ends = lambda lower, inner, upper: jnp.concatenate([jnp.stack([lower]), inner, jnp.stack([upper])])
        still = jnp.zeros((), out.dtype)
        inflow = with_ends(entering, jnp.zeros(len(out), out.dtype), -onto)
        return with_ends(still, out, off), with_ends(leaving, back, still), inflow

    @property
    def ways(self) -> tuple[str, ...]:
        return ways_of(self)

    def exits(self, t: Any) -> dict[str, Any]:
        return exits_of(self, t)

    def walls(self, t: Any, k: int = 0) -> tuple[Any, Any]:
        found = []
        for side, cell in Fluxes(self, t).at_walls:
            outflow, inflow = eliminate(side, cell, numbers_of(side, t, t))
            through = cell.back > 0
            back = jnp.where(through, cell.back, 1.0)
            found.append((jnp.where(through, (cell.out - outflow) / back, 1.0), jnp.where(through, inflow / back, 0.0)))
        shares, offsets = zip(*found, strict=True)
        return jnp.stack(shares), jnp.stack(offsets)

    def numerical_diffusion(self, t: Any) -> dict[str, Any]:
        if self.driftless or not (self.may_vanish and absent(self.transport.diffusivity)):
            return {}
        fluxes = Fluxes(self, t)
        within = slice(None) if self.periodic else slice(1, -1)
        return {self.grid.names[0]: jnp.max(jnp.abs(fluxes.drift[within]), initial=0.0) / 2}

    def _operator(self, fluxes: Fluxes) -> Tridiagonal:
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

    def _forcing(self, fluxes: Fluxes, t: Any) -> Any:
        source = at_time(self.transport.source, t)
        in_cells = self.grid.average(source) if callable(source) else at_points(source, fluxes.x, t, "source")
        b = jnp.asarray(self.grid.volumes) * in_cells
        if self.periodic:
            return b
        lower, upper = fluxes.eliminated(t)
        return b.at[0].add(lower[1]).at[-1].add(upper[1])

    def _conditions(self, fluxes: Fluxes, b: Any) -> list[Condition]:
        """Diffusivity positive inside and not negative at a wall, capacity positive, numbers finite."""
        t, x, e, (cells, faces) = fluxes.t, fluxes.x, fluxes.e, fluxes.diffusivity
        where = f"at {self.grid.sides[0][0]} = {{where}}"
        d, points = jnp.concatenate([cells, faces[1:-1]]), jnp.concatenate([x, e[1:-1]])
        ends, at_walls = e[fluxes.ends], faces[fluxes.ends]
        must = "not be negative" if self.may_vanish else "be positive inside the domain"
        must += "" if self.driftless or self.may_vanish else ", or the number 0.0 along a whole axis"
        found: list[Condition] = [
            (
                f"diffusivity is {{value}} {where}; it must {must}",
                ~(d >= 0) if self.may_vanish else ~(d > 0),
                points,
                d,
            ),
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
        found = [
            *found,
            *([self.grid.unresolved(source, "source")] if callable(source) else []),
            *(each for side, cell in fluxes.at_walls for each in conditions_at(side, cell, numbers_of(side, t, t))),
            (f"source or boundary value gives {{value}} {where}; it must be finite", ~jnp.isfinite(b), x, b),
        ]
        if self.grid.mask is None:
            return found
        inside = lambda place: is_inside((e,), jnp.asarray(self.grid.mask), (jnp.asarray(place, e.dtype),))
        return [(words, failed & inside(place), place, value) for words, failed, place, value in found]
