"""The same on several axes: fluxes along every line of cells are those of a problem on one axis."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.fluxes import exits_of, rates_of, ways_of
from jaxdiff.discretisation.line import LineSystem
from jaxdiff.discretisation.separability import over_axis
from jaxdiff.discretisation.system import TimeDependence, TransportSystem
from jaxdiff.model.arguments import at_place
from jaxdiff.model.boundaries import reflecting
from jaxdiff.model.coefficients import (
    PerAxis,
    Potential,
    Tensor,
    absent,
    at_points,
    at_time,
    is_cells,
    is_number,
    on_wall,
    varies,
)
from jaxdiff.model.equations import Transport
from jaxdiff.model.grid import Grid
from jaxdiff.model.masks import kept_inside
from jaxdiff.model.series import Series
from jaxdiff.model.time_dependent import TimeDependent
from jaxdiff.operators import KINDS, AxisSum, Basis
from jaxdiff.operators.halo import cuts, spread
from jaxdiff.runtime.conditions import Condition, cell


class LatticeSystem(TransportSystem):
    """The equation on several axes, with contents `(*cells,)`."""

    def time_dependence(self) -> TimeDependence:
        found = [LineSystem(self._along(k), self.grid.axis(k)).time_dependence() for k in range(self.grid.ndim)]
        operator, forcing, knots = zip(*found, strict=True)
        return TimeDependence(any(operator), any(forcing), [knot for each in knots for knot in each])

    @property
    def may_vanish(self) -> bool:
        diffusivity = self.transport.diffusivity
        return isinstance(diffusivity, PerAxis) and any(map(is_number, diffusivity.coefficients))

    def numerical_diffusion(self, t: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for k in range(self.grid.ndim) if self.may_vanish else ():
            lines = self._lines(k, lambda system: [each[None] for each in system.numerical_diffusion(t).values()])
            if lines:
                found[self.grid.names[k]] = jnp.max(lines[0])
        return found

    @property
    def forced(self) -> bool:
        """Whether anything may enter but by motion between cells: numbers that are known to be zero do not."""
        numbers = [value for side in self.sides for name, value in side.numbers.items() if name not in rates_of(side)]
        return not all(map(absent, (self.transport.source, *numbers)))

    @property
    def basis(self) -> Basis | None:
        """The modes in which A is diagonal, if structure tells: equal cells, coefficients that are numbers, no exchange at a
        wall, and no drift but along periodic axes."""
        if (
            self.grid.mask is not None
            or self.grid.geometry != "cartesian"
            or not all(self.grid.equal)
            or min(self.grid.shape) < 3
            or any(cuts(self.grid.names))
        ):
            return None
        kinds = []
        for k, walls in enumerate(zip(self.sides[::2], self.sides[1::2], strict=True)):
            drift, diffusivity, loss, _, capacity = self._coefficients(k)  # a source may be of any form
            if not all(map(is_number, (drift, diffusivity, loss, capacity))):
                return None
            if not (walls[0].periodic or absent(drift)) or any(wall.open and not wall.fixes_value for wall in walls):
                return None
            kinds.append(kind_of(*walls))
        return Basis(tuple(kinds), self.grid.shape)

    @property
    def weights(self) -> Any:
        """Contents per unit of u, `(*cells,)`."""
        along = self._lines(0, lambda system: system.weights)
        return along * self._across(0)

    def operator(self, t: Any) -> Any:
        """A at time t, as rates between neighbouring cells."""
        return self._operator(
            [self._lines(k, lambda system: _rates(system.operator(t))) for k in range(self.grid.ndim)], t
        )

    def at(self, t: Any, u: Any = None) -> tuple[Any, Any]:
        return self.formed(t)[:2]

    def conditions(self, t: Any) -> list[Condition]:
        return self.formed(t)[2]

    def formed(self, t: Any) -> tuple[Any, Any, list[Condition]]:
        rates, forcings, found = [], [], []
        for k in range(self.grid.ndim):
            messages: list[str] = []

            def of_line(system: LineSystem, messages: list[str] = messages) -> Any:
                operator, forcing, conditions = system.formed(t)
                messages[:] = [condition[0] for condition in conditions]
                rows = [tuple(jnp.atleast_1d(jnp.asarray(x)) for x in condition[1:]) for condition in conditions]
                return _rates(operator), forcing, rows

            of_axis = self._lines(k, of_line)
            rates.append(of_axis[0])
            forcings.append(of_axis[1])
            here = f"at {self.grid.axis(k).names[0]} = {{where}}"
            for message, (failed, where, value) in zip(messages, of_axis[2], strict=True):
                places = [where if j == k else x for j, x in enumerate(self.grid.centers)]
                found.append((message.replace(here, self._place), *first_failure(failed, places, value)))
        return self._operator(rates, t), self._total(self._entering(t, forcings)), [*self._source_conditions(t), *found]

    def _operator(self, rates: Any, t: Any) -> AxisSum:
        names = self.grid.names
        up, down, loss = zip(*jax.tree.map(lambda rate: spread(rate, names), rates), strict=True)
        periodic = tuple(side.periodic for side in self.sides[::2])
        closed = not any(side.open for side in self.sides)
        level = (
            self._symmetric
            and self.grid.mask is None
            and all(is_number(self._coefficients(k)[1]) for k in range(self.grid.ndim))
        )
        return AxisSum(
            up,
            down,
            loss[0],
            self.weights,
            periodic,
            self._detailed_balance,
            names,
            self._symmetric,
            closed,
            level,
            self.driftless,
            resting=self._resting(t),
        )

    def _resting(self, t: Any) -> Any:
        """ln N, up to a constant, of contents in detailed balance, where no path from cell to cell tells it."""
        if self.grid.mask is None or not self._detailed_balance:
            return None
        logs = jnp.log(jnp.broadcast_to(self.weights, self.grid.shape))
        if self.driftless:
            return logs
        energy = lambda system: at_points(system.transport.drift.energy, system.grid.centers[0], t)
        return logs - self._lines(0, energy) / self.transport.diffusivity

    @property
    def _symmetric(self) -> bool:
        """Whether all cells hold as much, and nothing but diffusion moves it."""
        if not self.driftless or not is_number(self.transport.capacity):
            return False
        return self.grid.geometry == "cartesian" and all(self.grid.equal)

    @property
    def _detailed_balance(self) -> bool:
        """Whether detailed balance holds around every loop of cells."""
        if self.driftless:
            return True
        drift, diffusivity, *_ = self.transport
        even = (
            not callable(diffusivity) and not isinstance(diffusivity, (PerAxis, Tensor)) and np.ndim(diffusivity) == 0
        )
        wraps = any(side.periodic for side in self.sides)
        return isinstance(drift, Potential) and even and not varies(diffusivity) and not wraps

    def forcing(self, t: Any, rates: Any = None) -> Any:
        """b at time t, `(*cells,)`; at the rates of another time, if one is given."""
        return self._total(self.forcings(t, rates))

    def _total(self, forcings: Any) -> Any:
        return jnp.broadcast_to(sum(forcings), self.grid.shape)

    def forcings(self, t: Any, rates: Any = None) -> tuple[Any, ...]:
        """What enters the lines along each axis, `(*cells,)` or of length one: by walls, and sources along the first."""
        return self._entering(
            t, [self._lines(k, lambda system: system.forcing(t, rates)) for k in range(self.grid.ndim)]
        )

    def _entering(self, t: Any, of_lines: Any) -> tuple[Any, ...]:
        found = [each * self._across(k) for k, each in enumerate(of_lines)]
        if self._heated:
            source = at_time(self.transport.source, t, self.grid.names)
            found[0] = found[0] + self.grid.average(source) * jnp.asarray(self.grid.volumes)
        return tuple(each.astype(jnp.result_type(self.grid.edges[0])) for each in found)

    @property
    def _heated(self) -> bool:
        """Whether the source is a function of position."""
        return callable(self.transport.source) and not isinstance(self.transport.source, Series)

    def _source_conditions(self, t: Any) -> list[Condition]:
        if not self._heated:
            return []
        source = at_time(self.transport.source, t, self.grid.names)
        finite = f"source is {{value}} in cell {cell(self.grid.ndim)}; it must be finite"
        return [(finite, None, None, self.grid.average(source)), self.grid.unresolved(source, "source")]

    @property
    def _place(self) -> str:
        """The words for a place in a message."""
        return "at " + ", ".join(f"{name} = {{where{k or ''}}}" for k, name in enumerate(self.grid.names))

    def faces(self, t: Any, k: int = 0) -> tuple[Any, Any, Any]:
        across = self._across(k)
        return jax.tree.map(lambda rate: rate * across, self._lines(k, lambda system: system.faces(t)))

    @property
    def ways(self) -> tuple[str, ...]:
        return ways_of(self)

    def exits(self, t: Any) -> dict[str, Any]:
        return exits_of(self, t)

    def walls(self, t: Any, k: int = 0) -> tuple[Any, Any]:
        return self._lines(k, lambda system: system.walls(t))

    def _across(self, k: int) -> Any:
        """Volumes of the cells without their extent along axis k."""
        out: Any = 1.0
        for j in range(self.grid.ndim):
            if j != k:
                volumes = jnp.asarray(self.grid.axis(j).volumes)
                out = out * volumes.reshape([-1 if i == j else 1 for i in range(self.grid.ndim)])
        return out

    def _lines(self, k: int, quantity: Callable[[LineSystem], Any]) -> Any:
        """A quantity `(m,)` of the lines along axis k, for all of them: m at place k of the grid's shape.

        Where it does not depend on another axis that one has length one.
        """
        others = [j for j in range(self.grid.ndim) if j != k]
        arrays = [c for c in self._coefficients(k) if is_cells(c)]
        for array in arrays:
            if array.shape != self.grid.shape:
                raise ValueError(
                    f"a coefficient over cells must have the grid's shape {self.grid.shape}, got {array.shape}"
                )
        line, masked = self.grid.axis(k), self.grid.mask is not None
        arrays += [self.grid.mask] * masked

        def mapped(coordinates: Any, slices: Any) -> Any:
            cells = Grid(line.edges, line.geometry, slices[-1]) if masked else line
            return quantity(LineSystem(self._along(k, coordinates, slices), cells))

        for place, j in reversed(list(enumerate(others))):
            axes = ([0 if i == place else None for i in range(len(others))], [j - place] * len(arrays))
            mapped = over_axis(mapped, axes)
        coordinates = [jnp.asarray(self.grid.centers[j]) for j in others]
        return jax.tree.map(lambda x: jnp.moveaxis(x, -1, k), mapped(coordinates, list(map(jnp.asarray, arrays))))

    def _coefficients(self, k: int) -> list[Any]:
        """Drift, diffusivity, and what acts in every cell: loss and source (once, along the first axis), and capacity."""
        drift, diffusivity, loss, source, capacity, *_ = self.transport
        ndim = self.grid.ndim
        if isinstance(drift, tuple) or (is_cells(drift) and jnp.shape(drift)[1:] in ((), self.grid.shape)):
            if len(drift) != ndim:
                raise ValueError(f"a drift has {ndim} components on this grid, got {len(drift)}")
            drift = drift[k]
        elif not callable(drift) and not absent(drift):
            raise ValueError(
                f"a drift on {ndim} axes is a tuple of {ndim} coefficients, a function that returns {ndim} components, or jd.Potential; got one array or number"
            )
        if isinstance(diffusivity, PerAxis):
            if len(diffusivity.coefficients) != ndim:
                raise ValueError(f"PerAxis needs {ndim} coefficients here, got {len(diffusivity.coefficients)}")
            diffusivity = diffusivity.coefficients[k]
        if isinstance(diffusivity, Tensor):
            diffusivity = diffusivity.entry(k, self.grid.names)
        zero = np.zeros(())
        return [drift, diffusivity, loss if k == 0 else zero, source if k == 0 else zero, capacity]

    def _along(self, k: int, coordinates: Any = None, slices: Any = ()) -> Transport:
        """The equation on one line along axis k, at these coordinates on the other axes."""
        slices = list(slices)
        found: list[Any] = []
        vector = callable(self.transport.drift)
        for i, c in enumerate(self._coefficients(k)):
            if is_cells(c):
                found.append(slices.pop(0) if slices else c)
            elif i == 3 and coordinates is not None and self._heated:  # over whole cells, see `forcings`
                found.append(np.zeros(()))
            else:
                found.append(_on_line(c, self.grid.names, k, coordinates, k if i == 0 and vector else None))
        ends = [self._wall_on_line(k, end, coordinates) for end in (0, -1)]
        boundaries = dict(zip(self.grid.axis(k).sides, ends, strict=True))
        if k == 0 and self.grid.geometry != "cartesian" and self._axis_closed:
            del boundaries["r-"]
        drift, diffusivity, loss, source, capacity = found
        alone = isinstance(self.transport.diffusivity, PerAxis)
        return Transport(drift, diffusivity, loss, source, capacity, self.transport.alpha, boundaries, degenerate=alone)

    def _wall_on_line(self, k: int, end: int, coordinates: Any) -> Any:
        """A wall whose numbers may be functions of the place on it, at one place; of those beside a mask, at one beside the domain."""
        side, names = self.sides[2 * k + end % 2], self.grid.names
        if coordinates is None:
            return side
        if self.grid.mask is not None:
            beside, edges = self.grid.mask.take(end, axis=k), (*self.grid.edges[:k], *self.grid.edges[k + 1 :])
            if not (isinstance(beside, jax.core.Tracer) or side.periodic or beside.any()):
                return reflecting
            coordinates = kept_inside(edges, beside)(*coordinates)
        return side.map(lambda number: on_wall(number, (*names[:k], *names[k + 1 :]), coordinates, names[k : k + 1]))

    @property
    def _axis_closed(self) -> bool:
        edges = self.grid.edges[0]
        return not isinstance(edges, jax.core.Tracer) and bool(edges[0] == 0.0)


def kind_of(lower: Any, upper: Any) -> str:
    """The modes of an axis between two walls, where they have modes."""
    return "waves" if lower.periodic else KINDS[lower.fixes_value, upper.fixes_value]


@jax.jit
def first_failure(failed: Any, places: list[Any], value: Any) -> tuple[Any, tuple[Any, ...], Any]:
    """Whether a condition fails anywhere, the first place where it does, and the value there."""
    ndim, rest = failed.ndim, jnp.argmax(failed)
    index: list[Any] = []
    for n in reversed(failed.shape):  # never negative, of which % and // make five times as much code
        index, rest = [jax.lax.rem(rest, n), *index], jax.lax.div(rest, n)

    def pick(x: Any, k: int | None = None) -> Any:
        x = x if x.ndim == ndim else x.reshape([-1 if j == k else 1 for j in range(ndim)])
        at = [i if n > 1 else 0 for i, n in zip(index, x.shape, strict=True)]
        return jax.lax.dynamic_slice(x, at, (1,) * ndim, allow_negative_indices=False).reshape(())

    return failed.any(), tuple(pick(x, k) for k, x in enumerate(places)), pick(value)


def _rates(operator: Any) -> Any:
    return operator.up, operator.down, operator.loss


def _on_line(coefficient: Any, names: tuple[str, ...], k: int, coordinates: Any, component: int | None) -> Any:
    """A coefficient of position as one of the position along axis k alone."""
    if isinstance(coefficient, Potential):
        return Potential(_on_line(coefficient.energy, names, k, coordinates, None))
    if isinstance(coefficient, Series) or not callable(coefficient):
        return coefficient
    if coordinates is None:
        return coefficient
    pick = (lambda value: value) if component is None else partial(_component, component, len(coordinates) + 1)
    around = lambda x: (*coordinates[:k], x, *coordinates[k:])
    if isinstance(coefficient, TimeDependent):
        return TimeDependent(lambda t, x: pick(at_place(coefficient, ("t", *names), t, *around(x))))
    return lambda x: pick(at_place(coefficient, names, *around(x)))


def _component(k: int, ndim: int, drift: Any) -> Any:
    found = len(drift) if isinstance(drift, (tuple, list)) else jnp.shape(drift)[:1]
    if found not in (ndim, (ndim,)):
        got = "one number" if found == () else f"{found if isinstance(found, int) else found[0]}"
        raise ValueError(f"a drift on {ndim} axes returns {ndim} components, got {got}")
    return drift[k]
