"""How likely a passage is where coefficients or walls vary in time: steps that are the same for all rows, extrapolated.

The densities through both walls and the survival are followed at nodes t = T (i/N)², close together where content has only just
started, and interpolated in their square root. Errors of cells and of steps are of second order each, and taken out by runs on half as many.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.schemes import semidiscrete
from jaxdiff.integration.frozen import Formed
from jaxdiff.integration.passage_times import FED, LATER, NOISE, SHUT, seen_from
from jaxdiff.integration.steppers import TRBDF2
from jaxdiff.runtime.conditions import Condition

POINTS = 6  # of an interpolation


class Followed(NamedTuple):
    """Passages from one start, at the nodes: `(3, N + 1)` each, densities through the lower wall and the upper, and survival.

    cells, steps: what was taken out of the values as the error of cells, None if nothing was, and of steps
    """

    values: Any
    cells: Any
    steps: Any
    conditions: list[Condition]


class _Known(NamedTuple):
    """A system of which A is known at the times that a step of TR-BDF2 asks for."""

    start: Any
    middle: Any
    end: Any

    def at_each(self, *times: Any) -> list[tuple[Any, Any]]:
        return [(self.start, 0.0), (self.middle, 0.0), (self.end, 0.0)]


def followed(equation: Any, grid: Any, scheme: Any, origin: Any, top: Any, count: int) -> Followed:
    """Passages from a place, or from a density of places, at `count` + 1 nodes up to `top`; traceable."""
    top = jnp.asarray(top, jnp.result_type(float))
    nodes = np.arange(count + 1)
    times = top * (nodes / count) ** 2
    systems = [Formed(system, jnp.zeros_like(top)) for system in semidiscrete(equation, grid, scheme)]
    fine = _Operators(systems[0], times)
    best = fine.run(origin, 1)
    steps = (best - between(fine.run(origin, 2))) / 3.0
    cells = (best - _Operators(systems[1], times, every=1).run(origin, 1)) / 3.0 if len(systems) > 1 else None
    best = best + steps if cells is None else best + steps + cells
    return Followed(best, cells, steps, fine.conditions)


class _Operators:
    """A system at all times that steps of TR-BDF2 ask for, between each two nodes and each second two: formed together."""

    def __init__(self, system: Any, times: Any, every: int = 2):
        self.grid, self.times = system.grid, times
        asked = [times]
        for k in range(1, every + 1):
            asked.append(times[:-1:k] + (2.0 - 2.0**0.5) * jnp.diff(times[::k]))
        at, formed = jnp.concatenate(asked), []

        def form(t: Any) -> Any:
            operator, forcing, found = system.formed(t)
            formed.append([words for words, *_ in found])
            return operator, forcing, [numbers for _, *numbers in found]

        self.operators, forcing, numbers = jax.vmap(form)(at)
        wide = lambda x, like: jnp.broadcast_to(x if jnp.ndim(x) == jnp.ndim(like) else x[:, None], like.shape)
        self.conditions: list[Condition] = []
        for words, (failed, where, value) in zip(formed[0], numbers, strict=True):
            failed = ~jnp.isfinite(value) if failed is None else failed
            like = jnp.zeros(
                jnp.broadcast_shapes(*(jnp.shape(x) for x in (failed, value) if jnp.ndim(x) > 1), at[:, None].shape)
            )
            self.conditions.append((words, *(wide(x, like).ravel() for x in (failed, where, value))))
        most, leak = (
            jnp.max(jnp.abs(forcing)),
            jnp.max(jnp.stack([self.operators.down[:, 0], self.operators.up[:, -1]])),
        )
        self.conditions += [(FED, most != 0, 0.0, most), (SHUT, ~(leak > 0), 0.0, leak)]
        self.ends = np.cumsum([len(x) for x in asked])

    def run(self, origin: Any, every: int) -> Any:
        """Densities and survival `(3, k + 1)` at each node, or at each second one, by a step between each two."""
        part = lambda places: jax.tree.map(lambda x: x[places], self.operators)
        nodes = np.arange(self.ends[0])[::every]
        dtype = self.times.dtype
        seen = lambda values: seen_from(self.grid, values, origin)
        start = jax.linear_transpose(seen, jnp.zeros(self.grid.shape, dtype))(jnp.ones((), dtype))[0]
        stepper = TRBDF2()

        def step(u: Any, row: Any) -> Any:
            before, between, after, dt = row
            u = stepper.step(_Known(before, between, after), 0.0, dt, u)
            return u, jnp.stack([after.down[0] * u[0], after.up[-1] * u[-1], jnp.sum(u)])

        between = part(np.arange(self.ends[every - 1], self.ends[every]))
        rows = (part(nodes[:-1]), between, part(nodes[1:]), jnp.diff(self.times[::every]))
        _, values = jax.lax.scan(step, start, rows)
        first = jnp.zeros(3, dtype).at[2].set(jnp.sum(start))
        return jnp.concatenate([first[None], values]).T


def between(values: Any) -> Any:
    """Values `(3, k)` at equal distances, and by the polynomial through `POINTS` of them midway between."""
    k = values.shape[1]
    places = np.arange(2 * k - 1) / 2.0
    first, weights = _weights(places, k)
    return jnp.sum(values[:, first[:, None] + np.arange(POINTS)] * weights, axis=-1)


def _weights(places: Any, count: int) -> tuple[Any, Any]:
    """At places in units of the distance between `count` nodes: the first of `POINTS` nodes, and Lagrange's weights `(m, POINTS)`."""
    first = jnp.clip(
        jnp.floor(jax.lax.stop_gradient(jnp.asarray(places))).astype(int) - POINTS // 2 + 1, 0, count - POINTS
    )
    x = places - first
    factors = [[(x - j) / (i - j) for j in range(POINTS) if j != i] for i in range(POINTS)]
    return first, jnp.stack([jnp.prod(jnp.stack(row), axis=0) for row in factors], axis=-1)


def at_nodes(table: Any, kinds: Any, times: Any, top: Any, power: float) -> Any:
    """What a table `(3, N + 1)` says at times `(m,)` after the start: a density through a wall or either, or what is not out yet."""
    count = table.shape[1]
    both = jnp.concatenate([table[:2], table[:1] + table[1:2], table[2:]])
    after = times > 0
    share = (jnp.where(after, jnp.minimum(times, top), top) / top) ** (1.0 / power)
    first, weights = _weights(share * (count - 1), count)
    found = jnp.sum(both[kinds[:, None], first[:, None] + jnp.arange(POINTS)] * weights, axis=-1)
    return jnp.where(after, found, 1.0 * (kinds == LATER))


class BySteps(eqx.Module):
    """Passages where coefficients or walls vary in time, by so many steps, an even number."""

    count: int = eqx.field(static=True)
    of_grid: ClassVar[bool] = True
    fewest: ClassVar[int] = 128
    most: ClassVar[int] = 2048
    left: ClassVar[float] = 0.1  # of what was taken out as errors of second order, what values err by
    moved: ClassVar[float] = 0.1  # of the log likelihood, by what was taken out as the error of steps
    power: ClassVar[float] = 2.0  # of the nodes, as shares of the longest time: closer together at first

    def passages(self, equation: Any, grid: Any, scheme: Any, origin: Any, top: Any) -> Followed:
        return followed(equation, grid, scheme, origin, top, self.count)

    def at(self, found: Followed, kinds: Any, times: Any, top: Any) -> tuple[Any, Any]:
        """Densities or chances, and what they err by, roughly."""
        parts = [found.steps] if found.cells is None else [found.steps, found.cells]
        sizes = sum(jnp.abs(at_nodes(part, kinds, times, top, self.power)) for part in parts)
        sizes = jnp.where(times > 0, sizes, 0.0)
        noise = self.left * sizes + NOISE * jnp.where(kinds == LATER, 1.0, 1.0 / top)
        return at_nodes(found.values, kinds, times, top, self.power), jax.lax.stop_gradient(noise)

    def of_cells(self, found: Followed, kinds: Any, times: Any, top: Any) -> Any:
        """What was taken out as the error of cells; None: nothing was."""
        return (
            None
            if found.cells is None
            else jnp.where(times > 0, at_nodes(found.cells, kinds, times, top, self.power), 0.0)
        )

    def by_steps(self, found: Followed, kinds: Any, times: Any, top: Any, share: Any) -> Any:
        """How far what was taken out as the error of steps moves the log likelihood, or the standard errors of what is fitted; share: of
        what a row is of a density there, over it."""
        moves = jnp.where(times > 0, at_nodes(found.steps, kinds, times, top, self.power) * share, 0.0)
        return jnp.maximum(jnp.abs(jnp.sum(moves)), jnp.sum(moves**2))

    def resolved(self, found: Followed, kinds: Any, times: Any, top: Any, share: Any) -> Any:
        """Whether that is no more than is allowed, or as little as the most steps make it, which is told."""
        return (self.by_steps(found, kinds, times, top, share) < self.moved) | (self.count >= self.most)

    def lost(self, equation: Any, grid: Any, scheme: Any, origin: Any, top: Any, kinds: Any, times: Any) -> Any:
        """No sums cancel."""
        return jnp.zeros(jnp.shape(times))

    def refined(self) -> Any:
        """With twice as many; None where there are enough for anything."""
        return type(self)(2 * self.count) if self.count < self.most else None

    @property
    def numbers(self) -> float:
        """How many for each cell are held."""
        return 12.0 * self.count
