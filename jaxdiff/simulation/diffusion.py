"""Paths of what drifts and diffuses: steps of Heun for the drift, with the local time that a wall takes within each step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.model.coefficients import number, on_wall
from jaxdiff.runtime.compilation import solver_jit
from jaxdiff.runtime.conditions import Checks, check
from jaxdiff.simulation.ito import Ito

STIFF = 1 / 2  # of the drift may change within a step: at rest in a trap that is 8 % of the variance
BEFORE = 1 - 1e-6  # of a step, where coefficients have not yet jumped that jump at its end
WANDER = 1 / 3  # of the way between two walls, in one standard deviation of a step: both are met once in 500 steps


def kinds_of(walls: Any) -> tuple[str, ...]:
    """What each wall does to a path: "periodic", "reflecting", "absorbing", or "partial", which absorbs now and then."""
    found = []
    for wall in walls:
        absorption = wall.absorption
        if wall.periodic or wall.path is not None:
            found.append(wall.path or "periodic")
        elif absorption is not None:
            found.append("partial")
        else:
            raise ValueError(
                f"paths want walls that reflect, absorb, are periodic, or jd.Robin(rate) without ambient, got {type(wall).__name__}; of jd.Neumann(0) without a drift write jd.reflecting"
            )
    return tuple(found)


class Walls:
    """The ends of the axes: lower and upper of one after the other."""

    def __init__(self, grid: Any, names: tuple[str, ...], kinds: tuple[str, ...], absorptions: Any):
        self.kinds, self.names, self.absorptions = kinds, names, absorptions
        self.active = [i for i, kind in enumerate(kinds) if kind != "periodic"]
        self.ends = None if grid is None else [(e[0], e[-1]) for e in grid.edges]

    def inside(self, x: Any) -> Any:
        """Points (ndim,) beyond an end, on the other one of a periodic axis, else folded back."""
        if self.ends is None:
            return x
        found = []
        for k, (lower, upper) in enumerate(self.ends):
            width = upper - lower
            if self.kinds[2 * k] == "periodic":
                found.append(lower + jnp.mod(x[k] - lower, width))
            else:
                beyond = lower + width - jnp.abs(jnp.mod(x[k] - lower, 2 * width) - width)
                found.append(jnp.where((x[k] >= lower) & (x[k] <= upper), x[k], beyond))
        return jnp.stack(found)

    def met(self, x: Any, move: Any, diffusivity: Any, dt: Any, chances: Any) -> tuple[Any, dict[int, Any]]:
        """Where a step from x leads, and the local time at each wall that it takes [length].

        The least of a Brownian path between two points has a closed form; what it is beyond the wall is the local time, by
        which the path is pushed back along D n. chances: exponentially distributed, one for each active wall
        """
        pushes: dict[int, Any] = {}
        along = diffusivity if diffusivity.ndim == 1 else jnp.diagonal(diffusivity)
        end = x + move
        for draw, i in zip(chances, self.active, strict=True):
            k, upper = divmod(i, 2)
            inwards = 1.0 - 2.0 * upper
            assert self.ends is not None
            gap, step = inwards * (x[k] - self.ends[k][upper]), inwards * move[k]
            least = gap + 0.5 * (step - jnp.sqrt(step**2 + 4 * along[k] * dt * draw))
            pushes[i] = push = jnp.maximum(-least, 0.0)
            way = jnp.zeros_like(x).at[k].set(1.0)
            if diffusivity.ndim > 1:
                way = diffusivity[:, k] / along[k]
            end = end + inwards * push * way
        return self.inside(end), pushes

    def absorption(self, i: int, t: Any, x: Any) -> Any:
        """κ of a wall at one place on it."""
        k, kept = i // 2, [j for j in range(len(self.names)) if j != i // 2]
        place = on_wall(
            self.absorptions[i], tuple(self.names[j] for j in kept), tuple(x[j] for j in kept), self.names[k : k + 1]
        )
        return number(place, t).astype(x.dtype)


@solver_jit
def paths(
    equation: Any,
    grid: Any,
    start: Any,
    steps: Any,
    keys: Any,
    absorptions: Any,
    kinds: tuple[str, ...],
    mortal: bool,
) -> tuple[Any, Checks]:
    """Positions (paths, times, ndim), NaN of those that are no more, and what must not be.

    start: (paths, ndim); steps: (times, n + 1) the ends of the steps up to each time but the first; keys: (paths,); absorptions, kinds: of the walls, see `kinds_of`; mortal: whether
    paths may end by chance
    """
    ndim = start.shape[1]
    ito = Ito(equation, grid, ndim)
    walls = Walls(grid, ito.names, kinds, absorptions)

    def step(t: Any, dt: Any, x: Any, key: Any) -> tuple[Any, Any, Any, Any]:
        uniform = jax.random.uniform(key, (ndim + len(walls.active) + mortal,), x.dtype)  # at once, as hashes are dear
        chances = -jnp.log1p(-uniform[ndim:])
        signed = jnp.maximum(2 * uniform[:ndim] - 1, jnp.nextafter(-jnp.ones((), x.dtype), 0.0))
        drawn = 2 * jnp.sqrt(dt) * jax.scipy.special.erfinv(signed)
        drift, diffusivity = ito.drift(t, x), ito.diffusivity(t + dt / 2, x)
        along = jnp.diagonal(diffusivity) if ito.oblique else diffusivity
        shaken = jnp.linalg.cholesky(diffusivity) @ drawn if ito.oblique else jnp.sqrt(along) * drawn
        ahead = ito.drift(t + BEFORE * dt, walls.inside(x + (move := drift * dt + shaken)))
        beside = ito.drift(t + BEFORE * dt, x) if ito.drift_varies else drift
        changed = jnp.stack([jnp.sum(((ahead - beside) * dt) ** 2), jnp.sum(move**2)])
        end, pushes = walls.met(x, (drift + ahead) / 2 * dt + shaken, diffusivity, dt, chances[: len(walls.active)])
        gone, fate, least = jnp.array(False), jnp.zeros((), x.dtype), jnp.zeros((), x.dtype)
        for i, push in pushes.items():
            if kinds[i] == "absorbing":
                gone = gone | (push > 0)
            elif kinds[i] == "partial":
                rate = walls.absorption(i, t + dt / 2, x)
                least = jnp.minimum(least, rate)
                fate = fate + jnp.where(push > 0, rate * push / along[i // 2], 0.0)
        if mortal:
            before, after = ito.killing(t, x), ito.killing(t + BEFORE * dt, end)
            fate, least = fate + (before + after) / 2 * dt, jnp.minimum(least, jnp.minimum(before, after))
            gone = gone | (fate > chances[-1])
        wander = jnp.zeros((), x.dtype)
        for k, (lower, upper) in enumerate(walls.ends or ()):
            if kinds[2 * k] != "periodic":
                wander = jnp.maximum(wander, jnp.sqrt(2 * jnp.maximum(along[k], 0.0) * dt) / (upper - lower))
        return end, gone, (jnp.min(along), least, wander, changed), jnp.isfinite(end).all()

    def path(x: Any, key: Any) -> Any:
        def interval(carry: Any, row: Any) -> Any:
            number, ends = row
            own = jax.random.fold_in(key, number)

            def substep(carry: Any, row: Any) -> Any:
                j, t, dt = row
                x, alive, extremes, lost = carry
                end, gone, found, finite = step(t, dt, x, jax.random.fold_in(own, j))
                lost = jnp.where(alive & ~finite, jnp.minimum(lost, t), lost)
                keep = lambda worse, seen, new: jnp.where(alive, worse(seen, new), seen)
                worse = (jnp.fmin, jnp.fmin, jnp.fmax, jnp.add)  # what is no number is told apart
                extremes = tuple(map(keep, worse, extremes, found))
                return (end, alive & ~gone, extremes, lost), None

            carry, _ = jax.lax.scan(substep, carry, (jnp.arange(len(ends) - 1), ends[:-1], jnp.diff(ends)))
            return carry, jnp.where(carry[1], carry[0], jnp.nan)

        none = jnp.zeros((), x.dtype)
        begin = (x, jnp.array(True), (none + jnp.inf, none, none, jnp.zeros(2, x.dtype)), none + jnp.inf)
        rows = jnp.arange(len(steps)), steps
        (_, _, extremes, lost), out = jax.lax.scan(interval, begin, rows)
        return jnp.concatenate([x[None], out]), extremes, lost

    found, (spread, growth, wander, changed), lost = jax.vmap(path)(start, keys)
    changes, moves = jnp.sum(changed, 0)
    stiff = jnp.sqrt(changes / jnp.where(moves > 0, moves, 1.0))
    spread, growth, wander, lost = jnp.nanmin(spread), jnp.nanmin(growth), jnp.nanmax(wander), jnp.min(lost)
    finer = "take more substeps, or wider walls"
    return found, check(
        [
            ("the diffusivity is {value} on a path; it must not be negative", spread < 0, 0.0, spread),
            ("killing, or the rate of a wall, is {value} on a path; what grows has no paths", growth < 0, 0.0, growth),
            (f"a step wanders {{value}} of the way between two walls; {finer}", wander > WANDER, 0.0, wander),
            (
                "steps are too long for the drift, which turns {value} of their way around within each; take more substeps",
                (stiff > STIFF) & jnp.isfinite(stiff),
                0.0,
                stiff,
            ),
            (
                "a path is no number after time {where}: coefficients are not finite there, or too steep for the step; take more substeps, or check them",
                jnp.isfinite(lost),
                lost,
                lost,
            ),
        ]
    )


def starts_within(grid: Any, points: np.ndarray) -> None:
    """Raise where a start lies outside the grid."""
    grid.require_inside(points if grid.ndim > 1 else points[:, 0], "start")
