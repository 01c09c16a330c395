"""Passages of a drift and a diffusivity that are numbers, out of an interval both of whose walls absorb: their closed forms."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp

from jaxdiff.discretisation.schemes import semidiscrete
from jaxdiff.exact.processes import exit_density, exit_survival
from jaxdiff.integration.passage_times import FED, LATER, LOWER, SECOND_ORDER, UPPER, ByTransforms
from jaxdiff.model.coefficients import absent, is_number
from jaxdiff.runtime.conditions import Condition


class Motion(NamedTuple):
    """From a place, in an interval of a width, by a diffusivity and a drift; numbers."""

    start: Any
    width: Any
    diffusivity: Any
    drift: Any
    conditions: list[Condition]


def uniform(equation: Any, grid: Any, origin: Any) -> bool:
    """Whether passages from an origin are those of a motion that is the same everywhere, to walls whose value is fixed."""
    system = semidiscrete(equation, grid, SECOND_ORDER)[0]
    moved = system.transport
    numbers = [c for c in (moved.drift, moved.diffusivity, moved.capacity) if c is not None]
    walls = [side.fixes_value and all(map(is_number, side.numbers.values())) for side in system.sides]
    interval = grid.geometry == "cartesian" and all(walls) and not absent(moved.diffusivity)
    return not callable(origin) and interval and all(map(is_number, numbers))


class ByClosedForms(ByTransforms):
    """By images of the walls for short times and modes for long ones, whatever the cells: to roundoff.

    censors: whether survival is asked for, a long program
    """

    censors: bool = eqx.field(static=True)
    of_grid: ClassVar[bool] = False

    def passages(self, equation: Any, grid: Any, scheme: Any, origin: Any, top: Any) -> Motion:
        system = semidiscrete(equation, grid, SECOND_ORDER)[0]
        moved, (lower, *_, upper) = system.transport, grid.edges[0]
        diffusivity = moved.diffusivity if moved.capacity is None else moved.diffusivity / moved.capacity
        drift = 0.0 if absent(moved.drift) else moved.drift
        _, forcing, conditions = system.formed(0.0)
        most = jnp.max(jnp.abs(forcing))
        start, width = origin - lower, upper - lower
        start, width, diffusivity, drift = (
            jnp.asarray(one, forcing.dtype) for one in (start, width, diffusivity, drift)
        )
        return Motion(start, width, diffusivity, drift, [*conditions, (FED, most != 0, 0.0, most)])

    def at(self, found: Any, kinds: Any, times: Any, top: Any, coarse: bool = False) -> tuple[Any, Any]:
        motion = found[:4]
        lower, upper = (exit_density(times, *motion, side=side) for side in ("lower", "upper"))
        densities = jnp.where(kinds == LOWER, lower, jnp.where(kinds == UPPER, upper, lower + upper))
        later = kinds == LATER
        survival = exit_survival(times, *motion) if self.censors else jnp.nan
        value = jnp.where(later, survival, densities)
        return value, jnp.finfo(value.dtype).eps * jnp.where(later, 1.0, 1.0 / top)

    def of_cells(self, found: Any, kinds: Any, times: Any, top: Any) -> Any:
        """No cell takes part."""

    def lost(self, equation: Any, grid: Any, scheme: Any, origin: Any, top: Any, kinds: Any, times: Any) -> Any:
        """No sums cancel."""
        return jnp.zeros(jnp.shape(times))

    def resolved(self, found: Any, kinds: Any, times: Any, top: Any, share: Any) -> Any:
        return jnp.asarray(True)

    def refined(self) -> None:
        """Nothing is finer."""

    @property
    def numbers(self) -> float:
        return 0.0
