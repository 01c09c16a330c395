"""Passages of a linear drift and a constant diffusivity to walls that move anyhow: the integral equations of their densities.

    g±(t) = ±2 {∫₀ᵗ [g₋(τ) Ψ±(t; l(τ), τ) + g₊(τ) Ψ±(t; u(τ), τ)] dτ − Ψ±(t; x₀, 0)}
    Ψ(t; y, τ) = φ [(S′ − μ + λ S)/2 − D (S − m)/V],   S the place of the wall, φ the normal density there of mean m and variance V

whose kernels are smooth but for √(t − τ) at their end, where sums err by h^{3/2}, h^{5/2}, …, the first three of which halvings take out. Buonocore, Giorno,
Nobile & Ricciardi 1990, doi:10.2307/3214598.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.separability import depends
from jaxdiff.integration.passage_steps import POINTS, BySteps, Followed, between
from jaxdiff.model.coefficients import Potential, absent, varies
from jaxdiff.model.moving import at_one
from jaxdiff.runtime.conditions import Condition

POWERS = (1.5, 2.5, 3.5)  # of the distance of nodes, of errors that are taken out
NEAR = 0.5  # of what spreads in a step: walls that are closer have met, and nothing is left between them


def linear(equation: Any, grid: Any) -> bool:
    """Whether the walls of a `Moving` absorb, the drift is linear in the place, as its derivative does not depend on that, and D is
    constant."""
    if not hasattr(equation, "between"):
        return False
    inner, sides = equation.equation.transport(), equation.sides(grid)
    f, D = inner.drift, inner.diffusivity
    varied = varies(f) or varies(D) or (isinstance(f, Potential) and varies(f.energy))
    if varied or callable(D) or not all(side.fixes_value for side in sides) or not absent(inner.loss):
        return False
    return not depends(jax.grad(lambda x: at_one(f, 0.0, x, "drift")), jnp.zeros(()))[0]


def process(equation: Any, grid: Any) -> Any:
    """(μ, λ, D, t ↦ (l, l′, u, u′)) of a drift μ − λ x."""
    inner, between = equation.equation.transport(), equation.between(grid)
    drift = lambda x: at_one(inner.drift, 0.0, x, "drift")

    def walls(t: Any) -> tuple[Any, Any, Any, Any]:
        place, pace, width, widening = between.walls(t)
        span = between.last - between.first
        return place, pace, place + span * width, pace + span * widening

    push, slope = jax.value_and_grad(drift)(jnp.zeros((), jnp.result_type(float)))
    return push, -slope, inner.diffusivity, walls


def solved(of: Any, start: Any, top: Any, count: int) -> Followed:
    """Passages from a share of the way between the walls, at `count` + 1 nodes up to `top`, a multiple of eight; traceable.

    of: (μ, λ, D, t ↦ (l, l′, u, u′)), of the drift μ − λ x
    """
    drift, pull, spreads, walls = of
    top = jnp.asarray(top, jnp.result_type(float))
    times, pace = top * jnp.arange(1, count + 1, dtype=top.dtype) / count, top / count
    (lower, down, upper, up), at_start = jax.vmap(walls)(times), walls(jnp.zeros_like(top))
    places, velocities = jnp.stack([lower, upper]), jnp.stack([down, up])
    origin = at_start[0] + start * (at_start[2] - at_start[0])
    pushes = (velocities - drift + pull * places) / 2.0

    def psi(y: Any, since: Any) -> Any:
        """±2 Ψ `(2, …, N, …)` at all times of each wall, from places y at times `since` before, where those are positive."""
        before = since > 0
        d = jnp.where(before, since, 1.0)
        mean = y + (drift - pull * y) * d * _faded(pull * d)
        variance = 2.0 * spreads * d * _faded(2.0 * pull * d)
        of_wall = lambda x: x.reshape(2, *(1,) * (mean.ndim - 2), count, 1)
        off = of_wall(places) - mean
        density = jnp.exp(-(off**2) / (2.0 * variance)) / jnp.sqrt(2.0 * np.pi * variance)
        found = density * (of_wall(pushes) - spreads * off / variance)
        return of_wall(jnp.array([[-2.0], [2.0]]) * jnp.ones(count)) * jnp.where(before, found, 0.0)

    first = -psi(jnp.full((1, 1), origin), times[:, None])[..., 0]
    kernel = -psi(places[:, None, :], times[:, None] - times)

    def on_each(every: int) -> Any:
        """Densities `(2, N/every + 1)` by sums over each so-many-th node."""
        cut = slice(every - 1, None, every)
        apart = (upper - lower)[cut] > NEAR * jnp.sqrt(2.0 * spreads * every * pace)
        live = jnp.cumprod(apart) > 0
        k = len(live)
        matrix = kernel[:, :, cut, cut] * jnp.where(live, every * pace, 0.0)
        matrix = jnp.where(live[:, None], matrix, 0.0).transpose(2, 0, 3, 1).reshape(2 * k, 2 * k)
        given = jnp.where(live, first[:, cut], 0.0).T.ravel()
        solution = jax.scipy.linalg.solve_triangular(matrix, given, lower=True, unit_diagonal=True)
        return jnp.pad(solution.reshape(k, 2).T, ((0, 0), (1, 0)))

    tables = [on_each(2**k) for k in range(len(POWERS) + 1)]
    for power in POWERS:
        pairs = zip(tables[:-1], tables[1:], strict=True)
        changes = [between((fine[:, ::2] - rough) / (2.0**power - 1.0)) for fine, rough in pairs]
        tables = [table + change for table, change in zip(tables[:-1], changes, strict=True)]
    density, change = tables[0], changes[0]
    gone = jnp.sum(jnp.stack([density, change]), axis=1) * pace
    left = _summed(gone)
    values = jnp.concatenate([density, 1.0 - left[:1]])
    shut = "the walls start at one place, or the lower above the upper; let them start apart"
    gap = at_start[2] - at_start[0]
    none = "diffusivity is {value}; it must be positive"
    far = "a wall or the drift is not finite"
    sound = jnp.isfinite(places).all() & jnp.isfinite(pushes).all()
    conditions: list[Condition] = [
        (shut, ~(gap > 0), 0.0, gap), (none, ~(spreads > 0), 0.0, spreads), (far, ~sound, 0.0, 0.0)
    ]  # fmt: skip
    return Followed(values, None, jnp.concatenate([change, -left[1:]]), conditions)


def _faded(z: Any) -> Any:
    """(1 − e^{−z})/z."""
    small = jnp.abs(z) < 1e-4
    safe = jnp.where(small, 1.0, z)
    return jnp.where(small, 1.0 - z / 2.0 + z * z / 6.0, -jnp.expm1(-safe) / safe)


def _summed(rates: Any) -> Any:
    """Integrals `(k, n)` up to each node, of rates per step at the nodes, by the polynomial through `POINTS` of them."""
    n = rates.shape[1]
    first = np.clip(np.arange(n - 1) - POINTS // 2 + 1, 0, n - POINTS)
    powers = np.arange(POINTS)
    inverse = np.linalg.inv(np.vander(powers, increasing=True))  # of values at 0, 1, … to coefficients
    at = (np.arange(n - 1) - first)[:, None]
    weights = ((at + 1.0) ** (powers + 1) - at ** (powers + 1.0)) / (powers + 1) @ inverse
    parts = jnp.sum(rates[:, first[:, None] + powers] * weights, axis=-1)
    return jnp.pad(jnp.cumsum(parts, axis=1), ((0, 0), (1, 0)))


class ByIntegrals(BySteps):
    """Passages of a linear drift between walls that move, by sums over so many nodes, a multiple of eight."""

    fewest: ClassVar[int] = 192
    most: ClassVar[int] = 1536
    left: ClassVar[float] = 1.0  # of the last that was taken out, where nodes are few
    moved: ClassVar[float] = 0.03
    power: ClassVar[float] = 1.0

    def passages(self, equation: Any, grid: Any, scheme: Any, origin: Any, top: Any) -> Followed:
        ends = grid.edges[0][0], grid.edges[0][-1]
        return solved(process(equation, grid), (origin - ends[0]) / (ends[1] - ends[0]), top, self.count)
