"""Boundary conditions: the law of the flux J at a wall, n its outward normal, eliminates the value there."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any, ClassVar, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.parameters import numeric
from jaxdiff.runtime.conditions import Condition

STEEP = 3.0  # |z| over half a cell: beyond, e^|z| is more than five times the 1 + |z| of a smooth slope


class HalfCell(Protocol):
    """From the last centre to a wall, where J·n = out·u − back·w: u at the centre, w at the wall, both traced numbers.

    | name          | what                                                                          | dimension     |
    |---------------|-------------------------------------------------------------------------------|---------------|
    | `out`, `back` | conductances out of the cell and back from the wall, never negative            | length/time   |
    | `net`         | out − back, without cancellation: the drift outwards                           | length/time   |
    | `diffusivity` | D at the wall                                                                  | length²/time  |
    | `distance`    | h, from the centre to the wall                                                 | length        |
    | `peclet`      | z = ∫b/D dx outwards, so that back/out = e^−z; None in an equation without drift | 1           |
    | `axis`        | name of the axis, for messages                                                 |               |
    | `place`       | coordinate of the wall, for messages                                           | length        |
    """

    out: Any
    back: Any
    net: Any
    diffusivity: Any
    distance: Any
    peclet: Any
    axis: str
    place: Any


@cache
def _fields(kind: type) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the numbers of a kind of boundary, and of its static fields."""
    static = {field.name: bool(field.metadata.get("static")) for field in fields(kind)}
    return tuple(name for name in static if not static[name]), tuple(name for name in static if static[name])


class Boundary(eqx.Module):
    """The law at one side of the domain: the base of `Dirichlet`, `Neumann`, `Robin`, `Flux`, `Periodic`, and of your own.

        J·n = outflow·u − inflow,  u the average of the cell at the wall

    A law of one's own has fields, its numbers, and `eliminate`, which solves the law for the value at the wall. Numbers may
    be marked for fitting, `TimeDependent` or a `Series`, and on several axes functions of the place on the side; `eliminate`
    gets what they are at one instant and place. The class says what a solver must know beforehand:

    | name          | what                                                                                       | default |
    |---------------|--------------------------------------------------------------------------------------------|---------|
    | `levels`      | names of the numbers in the unit of u, which share the noise of readings where measured    | ()      |
    | `open`        | whether the outflow may differ from zero where nothing drifts                              | True    |
    | `fixes_value` | whether it sets u at the wall to its number `value`                                        | False   |
    | `periodic`    | whether the two ends of the axis are one point                                             | False   |
    | `with_tensor` | whether it fixes the flux where a diffusivity `Tensor` adds flux along the wall            | True    |
    | `path`        | what a path meets there: "reflecting", "absorbing", "periodic"; None: paths are refused    | None    |

    `Spectral` has cosines where both walls are not open, sines where both fix the value, waves where the axis is periodic,
    and needs all numbers of a wall to be zero.

    A membrane that lets through p (u − K w) for an outer concentration w and a partition coefficient K:

    >>> import jaxdiff as jd
    >>> class Membrane(jd.Boundary):
    ...     permeability: float
    ...     partition: float
    ...     outside: float = 0.0
    ...     def eliminate(self, cell, permeability, partition, outside):
    ...         share = permeability / (permeability + cell.back)
    ...         return share * cell.out, share * cell.back * partition * outside
    >>> wall = Membrane(permeability=2.0, partition=0.5, outside=1.0)
    >>> grid = jd.Grid.uniform((0.0, 1.0, 50))
    >>> u = jd.steady_state(jd.Diffusion(1.0, boundaries={"x-": jd.Dirichlet(0.0), "x+": wall}), grid)
    >>> round(float(grid.interpolate(u, 1.0)), 6)  # D u' = p (K w − u) at x = 1
    0.333333
    """

    levels: ClassVar[tuple[str, ...]] = ()
    open: ClassVar[bool] = True
    fixes_value: ClassVar[bool] = False
    periodic: ClassVar[bool] = False
    with_tensor: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, number in self.numbers.items():
            setattr(self, name, numeric(number))

    @property
    def numbers(self) -> dict[str, Any]:
        """The numbers of the law by name, as given."""
        return {name: getattr(self, name) for name in _fields(type(self))[0]}

    @property
    def settings(self) -> tuple[str, ...]:
        """The names of what is no number: static fields."""
        return _fields(type(self))[1]

    def map(self, function: Callable[[Any], Any]) -> Boundary:
        """The same law with every number replaced by function(number)."""
        names = tuple(self.numbers)
        new = [function(number) for number in self.numbers.values()]
        return eqx.tree_at(lambda side: [getattr(side, name) for name in names], self, new) if names else self

    @property
    def path(self) -> str | None:
        """What a path meets at the wall: "reflecting", "absorbing" or "periodic"; None where paths are refused."""
        return None

    @property
    def absorption(self) -> Any:
        """κ of J·n = κ u, by which paths end where they touch the wall: 0 where it reflects, inf where it absorbs; None where
        they do not follow it."""
        return {"reflecting": 0.0, "absorbing": np.inf}.get(self.path or "")

    @abstractmethod
    def eliminate(self, cell: HalfCell, *numbers: Any, **named: Any) -> tuple[Any, Any]:
        """(outflow, inflow) per area in J·n = outflow·u − inflow [length/time], [u·length/time]; traceable.

        Args:
            cell: the `HalfCell` at the wall, where J·n = cell.out·u − cell.back·w for the value w at the wall.
            named: the `numbers` of the law, by name, at one instant and place.
        """

    def conditions(self, cell: HalfCell, *numbers: Any, **named: Any) -> list[Condition]:
        """What must not be, as (message with {value} and {where}, failed, place, value); called as `eliminate`."""
        return []


class Dirichlet(Boundary):
    """A wall that holds the value of the field.

        u = value,  so that J·n = out·u − back·value

    Args:
        value: u at the wall [u]: a number, a mark, a `Series`, `TimeDependent`, or a function of the place on the side.

    A rod between a bath at 100 and one at 0 comes to rest at a straight line:

    >>> from jaxdiff import Dirichlet
    >>> from jaxdiff import Diffusion, Grid, steady_state
    >>> ends = {"x-": Dirichlet(100.0), "x+": Dirichlet(0.0)}
    >>> [round(float(u), 3) for u in steady_state(Diffusion(1.0, boundaries=ends), Grid.uniform((0.0, 1.0, 4)))]
    [87.5, 62.5, 37.5, 12.5]
    """

    value: Any = 0.0
    levels = ("value",)
    fixes_value = True

    @property
    def path(self) -> str | None:
        return "absorbing" if _zero(self.value) else None

    def eliminate(self, cell: HalfCell, value: Any) -> tuple[Any, Any]:
        return cell.out, cell.back * value


class Neumann(Boundary):
    """A wall that holds the slope of the field.

        ∂u/∂n = gradient,  so that J·n = b·n u − D·gradient for a drift b

    Args:
        gradient: outward derivative of u at the wall [u/length]: a number, a mark, a `Series`, `TimeDependent`, or a
            function of the place on the side.

    Without a drift `Neumann(g)` is `Flux(-D*g)`; with one, content passes through. A `Tensor` is refused: there the flux
    depends on the slope along the wall too.

    Raises:
        ValueError: a gradient that is not zero where the drift enters over a large cell.

    >>> from jaxdiff import Dirichlet, Neumann
    >>> from jaxdiff import Diffusion, Grid, steady_state
    >>> ends = {"x-": Dirichlet(0.0), "x+": Neumann(2.0)}
    >>> [round(float(u), 3) for u in steady_state(Diffusion(1.0, boundaries=ends), Grid.uniform((0.0, 1.0, 4)))]
    [0.25, 0.75, 1.25, 1.75]
    """

    gradient: Any = 0.0
    open = False
    with_tensor = False

    def eliminate(self, cell: HalfCell, gradient: Any) -> tuple[Any, Any]:
        inflow = cell.diffusivity * gradient
        if cell.peclet is None:
            return cell.net, inflow
        # back + net is out, and back/out is e^−z: their sum cancels where the drift enters.
        return cell.net, inflow * jnp.exp(jnp.minimum(-cell.peclet, STEEP))

    def conditions(self, cell: HalfCell, gradient: Any) -> list[Condition]:
        """No slope where the drift comes in over a large cell: constant flux would bring e^|z| times as much."""
        if cell.peclet is None:
            return []
        steep = jnp.where(cell.diffusivity > 0, cell.peclet < -STEEP, cell.net < 0)
        message = (
            f"Neumann gradient is {{value}} at {cell.axis} = {{where}}, where the drift enters and half a cell times it exceeds "
            f"{STEEP:g} diffusivities; it must be 0 there: take smaller cells, or jd.Flux or jd.Dirichlet"
        )
        return [(message, (gradient != 0) & steep, cell.place, gradient)]


class Robin(Boundary):
    """A wall that exchanges with its surroundings: convection, a surface reaction, partial absorption.

        J·n = rate·(u − ambient)

    Args:
        rate: exchange coefficient [length/time]; for a temperature in units of the conductivity, [k/length].
        ambient: u of the surroundings [u]. Both may be a number, a mark, a `Series`, `TimeDependent`, or a function of the
            place on the side.

    Carslaw & Jaeger 1959, Conduction of Heat in Solids, §1.9.

    >>> from jaxdiff import Dirichlet, Robin
    >>> from jaxdiff import Diffusion, Grid, steady_state
    >>> ends = {"x-": Dirichlet(0.0), "x+": Robin(1.0, ambient=8.0)}  # half the drop in the rod, half at its end
    >>> [round(float(u), 3) for u in steady_state(Diffusion(1.0, boundaries=ends), Grid.uniform((0.0, 1.0, 4)))]
    [0.5, 1.5, 2.5, 3.5]
    """

    rate: Any
    ambient: Any = 0.0
    levels = ("ambient",)

    @property
    def absorption(self) -> Any:
        return self.rate if _zero(self.ambient) else None

    def eliminate(self, cell: HalfCell, rate: Any, ambient: Any) -> tuple[Any, Any]:
        total = cell.back + rate
        share = jnp.where(total == 0, 0.0, rate / jnp.where(total == 0, 1.0, total))
        return share * cell.out, share * cell.back * ambient


class Flux(Boundary):
    """A wall through which a given amount flows.

        J·n = value

    Args:
        value: flux out of the domain [u·length/time]; heating is negative. A number, a mark, a `Series`, `TimeDependent`,
            or a function of the place on the side. `Flux(0)` is `jd.reflecting`, what a side not named is.

    >>> from jaxdiff import Dirichlet, Flux
    >>> from jaxdiff import Diffusion, Grid, steady_state
    >>> ends = {"x-": Flux(-2.0), "x+": Dirichlet(0.0)}
    >>> [round(float(u), 3) for u in steady_state(Diffusion(1.0, boundaries=ends), Grid.uniform((0.0, 1.0, 4)))]
    [1.75, 1.25, 0.75, 0.25]
    """

    value: Any = 0.0
    open = False

    @property
    def path(self) -> str | None:
        return "reflecting" if _zero(self.value) else None

    def eliminate(self, cell: HalfCell, value: Any) -> tuple[Any, Any]:
        return 0.0, -value


class Periodic(Boundary):
    """The two ends of an axis are one point; it stands at both sides or at none.

        u(lower) = u(upper),  J(lower) = J(upper)

    >>> from jaxdiff import Periodic
    >>> from jaxdiff import FokkerPlanck, Grid, solve
    >>> grid = Grid.uniform((0.0, 1.0, 100))
    >>> p = solve(FokkerPlanck(1.0, 1e-3, boundaries=Periodic()), grid, grid.delta(0.9), [0.0, 0.3]).values[-1]
    >>> round(float(grid.centers[0][p.argmax()]), 1)  # past the end
    0.2
    """

    open = False
    periodic = True
    path = "periodic"

    def eliminate(self, cell: HalfCell) -> tuple[Any, Any]:
        raise ValueError("a periodic axis has no wall, and no value there; read at a position")


reflecting = Flux(0.0)
absorbing = Dirichlet(0.0)


def _zero(value: Any) -> bool:
    return not callable(value) and np.ndim(value) == 0 and bool(value == 0)


def sides(boundaries: Any, grid: Any, unnamed: Boundary | None = None) -> tuple[Boundary, ...]:
    """The boundary of every side, lower and upper of one axis after the other; a side not named is reflecting, or `unnamed`.

    A dictionary names sides, "x-", or both of an axis, "x". The axis r = 0 of a radial grid has no wall.
    """
    names: tuple[str, ...] = grid.sides
    if isinstance(boundaries, Boundary):
        found = [boundaries] * len(names)
    else:
        if not isinstance(boundaries, dict):
            raise TypeError(f"boundaries must be a boundary or a dictionary of sides, got {boundaries!r}")
        unknown = set(boundaries) - set(names) - {name[:-1] for name in names}
        if unknown:
            raise ValueError(f"unknown side {sorted(unknown)[0]!r}; the sides of this grid are {', '.join(names)}")
        twice = [side for side in names if side in boundaries and side[:-1] in boundaries]
        if twice:
            raise ValueError(f"side {twice[0]!r} is named twice, also by {twice[0][:-1]!r}; leave one out")
        given: dict[str, Boundary] = boundaries
        found = [given.get(name, given.get(name[:-1], unnamed or reflecting)) for name in names]
    for side in found:
        if not isinstance(side, Boundary):
            raise TypeError(
                f"a side must be Dirichlet, Neumann, Robin, Flux, Periodic or a jd.Boundary of yours, got {side!r}"
            )
    edges = grid.edges[0]
    if grid.geometry != "cartesian" and not isinstance(edges, jax.core.Tracer) and edges[0] == 0.0:
        if isinstance(boundaries, dict) and names[0] in boundaries:
            raise ValueError(f"side {names[0]!r} is the axis r = 0, which has no wall; leave it out")
        found[0] = reflecting
    for name, lower, upper in zip(names[::2], found[::2], found[1::2], strict=True):
        if lower.periodic != upper.periodic:
            raise ValueError(f"a periodic axis needs Periodic() on both sides; axis {name[:-1]} got it on one only")
    return tuple(found)
