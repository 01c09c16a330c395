"""`simulate`: paths drawn at random from an equation."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.model.coefficients import PerAxis, Tensor, absent
from jaxdiff.model.coefficients import jumps as jumps_of
from jaxdiff.parameters import plain
from jaxdiff.quantities import numbers, refuse
from jaxdiff.runtime.compilation import as_written
from jaxdiff.runtime.conditions import enforce, raise_failed
from jaxdiff.simulation import diffusion, jumps
from jaxdiff.simulation.ito import Ito


@as_written
def simulate(
    equation: Any, start: Any, times: Any, paths: int, key: Any, substeps: int = 1, *, grid: Any = None
) -> Float[Array, "paths T *ndim"]:
    """Draw paths of single particles, or of a system that jumps between states.

        dX = a dt + √(2D) dW + dL,   a = f + α ∇·D,   L the push of the walls;   of states one jump after the other

    Args:
        equation: `Diffusion` or `FokkerPlanck` on one to three axes, of any interpretation, with coefficients of place and time;
            or a `MasterEquation`. Marks for fitting are read as their values.
        start: where paths are at `times[0]` [length]: a point, `(paths,)` or on several axes `(paths, ndim)` of them, or with a
            `grid` a density, a callable of position. Of states a number, a name, {species: count}, or an array of these.
        times: `(T,)` increasing [time], at least two.
        paths: how many.
        key: of jax.random, or a whole number.
        substeps: equal steps between two times, and between these and the instants where a `Series` or an `Expression` in a
            coefficient jumps or bends; what a Python function of t does within a step is not seen. Of jumps there are none.
        grid: at its ends stand the walls of the equation, and its cells are those of coefficients that are arrays. None: there
            is no wall. Of a `MasterEquation` the `States`, beyond which a path is lost; None: counts have no end.

    A step is one of Heun for the drift, with the noise of its beginning: of second order in law where D is constant in space, of first
    where it is not: at rest in a trap −k x steps of Δ err by (kΔ)²/4 or so in the variance. The local time at a wall is drawn exactly for a step of constant drift and D, so that reflecting, absorbing
    and partly absorbing walls (`Robin`) are of first order too, and exact where coefficients are numbers and one wall is near.
    Killing and absorbing walls end a path: it is NaN from then on. A periodic axis wraps, as `Trajectory` takes it; `numpy.unwrap`
    undoes that where steps are short. Jumps are Gillespie's, exact at any times.

    Returns:
        `(paths, T)`, on several axes or with several species `(paths, T, ndim)`. To fit them,
        `Trajectory(grid, [times] * paths, list(x))` takes them, less their frames of NaN.

    Raises:
        ValueError: sources, exchange, walls that let in, coefficients that grow, negative diffusivities, steps too long for
            the walls, or so long that the drift changes by half within one, masks and radial grids, rates that depend on time, starts outside the grid.

    A bead in a trap, and its mean square when it has come to rest, D/k:

    >>> import jaxdiff as jd
    >>> trap = jd.FokkerPlanck(lambda x: -2.0 * x, 1.0)
    >>> x = jd.simulate(trap, 0.0, [0.0, 3.0], 20_000, key=1, substeps=50)
    >>> x.shape, bool(abs((x[:, -1] ** 2).mean() - 0.5) < 0.02)
    ((20000, 2), True)

    Molecules that are made at a rate of 10 and decay at one of 1:

    >>> made = jd.MasterEquation(lambda n: 10.0, lambda n: 1.0 * n)
    >>> n = jd.simulate(made, 0, [0.0, 8.0], 2_000, key=1)
    >>> bool(abs(n[:, -1].mean() - 10.0) < 0.4)
    True

    Kloeden & Platen 1992, doi:10.1007/978-3-662-12616-5; walls: Lépingle 1995, doi:10.1016/0378-4754(93)E0083-F, Gobet 2000,
    doi:10.1016/S0304-4149(99)00109-X; jumps: Gillespie 1977, doi:10.1021/j100540a008.
    """
    equation = plain(equation)
    paths, substeps = whole_number(paths, "paths"), whole_number(substeps, "substeps")
    times = _checked_times(times)
    chosen, drawn = jax.random.split(as_key(key))
    keys = jax.random.split(drawn, paths)
    if (rates := getattr(equation, "jumps", None)) is not None:
        if substeps != 1:
            raise ValueError(f"jumps are drawn one by one, got substeps={substeps}; leave it out")
        if rates.varies:
            raise ValueError("jumps are drawn at rates that are constant in time, got some that vary; cut the times")
        states, bounded = _states(rates, grid)
        begin = _first_states(states, bounded, start, paths, chosen)
        found, checks = jumps.paths(rates, states, begin, times, keys, bounded)
        if not bounded or grid is not None or not getattr(rates, "given", 0):
            return _checked(found, checks, begin.shape[1])
        lost = f"a path went beyond the last count that rates are given for, {rates.given - 1}; give more of them, functions of the count, or grid=jd.States(…) to lose it there"
        if not isinstance(found, jax.core.Tracer) and np.isnan(np.asarray(found)).any():
            raise ValueError(lost)
        return _checked(found, checks, begin.shape[1])
    transport = equation.transport()  # raises where there is none
    _check_grid(grid, transport.boundaries)
    ndim = _axes(transport, grid, start, paths)
    Ito(equation, grid, ndim).require()
    walls = () if grid is None else equation.sides(grid)
    kinds, absorptions = diffusion.kinds_of(walls), tuple(wall.absorption for wall in walls)
    mortal = "partial" in kinds or not absent(transport.loss)
    begin = _first_points(grid, start, paths, ndim, chosen)
    steps = _steps(equation, times, substeps)
    found, checks = diffusion.paths(equation, grid, begin, steps, keys, absorptions, kinds, mortal)
    return _checked(found, checks, ndim)


def _checked(found: Any, checks: Any, ndim: int) -> Any:
    if isinstance(checks.table, jax.core.Tracer):
        found = enforce(found, checks)
    else:
        raise_failed(checks)
    return found[..., 0] if ndim == 1 else found


def whole_number(number: Any, name: str, least: int = 1) -> int:
    """A whole number from `least` on."""
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < least:
        raise ValueError(f"{name} must be a whole number from {least} on, got {number!r}")
    return int(number)


def as_key(key: Any) -> Any:
    """A key of jax.random, of itself or of a whole number."""
    if isinstance(key, bool) or not isinstance(key, (int, np.integer, jax.Array)):
        raise TypeError(f"key must be one of jax.random.key(…), or a whole number, got {key!r}")
    return jax.random.key(key) if isinstance(key, (int, np.integer)) else key


def _checked_times(times: Any) -> Any:
    if isinstance(times, jax.core.Tracer):
        return times
    times = numbers(times, "times")
    if times.ndim != 1 or len(times) < 2 or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        got = np.array2string(times, threshold=6)
        raise ValueError(f"times must be at least two finite, increasing numbers, got {got}; the first is the start")
    return times


def _steps(equation: Any, times: Any, substeps: int) -> Any:
    """The ends of steps (times less one, n + 1): equal ones, but that some end where a coefficient jumps or bends in time."""
    knots = [np.ravel(one) for one in jumps_of(equation) if not isinstance(one, jax.core.Tracer)]
    inner = np.unique(np.concatenate([np.zeros(0), *knots]))
    if isinstance(times, jax.core.Tracer) or not (inside := (inner > times[0]) & (inner < times[-1])).any():
        ends = times[:-1, None] + jnp.diff(times)[:, None] * (jnp.arange(substeps) / substeps)
        return jnp.concatenate([ends, times[1:, None]], axis=1)
    cuts = [inner[inside & (inner > a) & (inner < b)] for a, b in pairwise(times)]
    most = max(map(len, cuts)) + 1
    rows = []
    for a, b, own in zip(times[:-1], times[1:], cuts, strict=True):
        ends = np.concatenate([[a], own, [b]])
        parts = np.ones(len(ends) - 1, int)
        for _ in range(most - len(parts)):  # as many in each interval
            parts[np.argmax(np.diff(ends) / parts)] += 1
        at = np.concatenate([i + np.arange(n * substeps) / (n * substeps) for i, n in enumerate(parts)])
        rows.append(np.append(np.interp(at, np.arange(len(ends)), ends), b))
    return np.stack(rows)


def _check_grid(grid: Any, boundaries: Any) -> None:
    """Raise where the ends of a grid are no walls of paths, or walls have no place."""
    if grid is None:
        given = boundaries.values() if isinstance(boundaries, dict) else [boundaries]
        if other := [one for one in given if one.absorption is None or np.any(one.absorption != 0)]:
            raise ValueError(
                f"walls stand at the ends of a grid, got {type(other[0]).__name__} and no grid; pass grid=jd.Grid.uniform(…)"
            )
        return
    if grid.discrete:
        raise ValueError("States are of a jd.MasterEquation; paths of position take a jd.Grid, or none")
    if grid.geometry != "cartesian":
        raise ValueError(f"paths are drawn along x, y and z, got a {grid.geometry} grid; take a Cartesian one")
    if grid.mask is not None:
        raise ValueError("paths do not see the outline of a mask; narrow the grid to its part")


def _axes(transport: Any, grid: Any, start: Any, paths: int) -> int:
    """How many axes there are: of the grid, else of the coefficients, else of the start."""
    if grid is not None:
        return int(grid.ndim)
    drift, diffusivity = transport.drift, transport.diffusivity
    if isinstance(diffusivity, PerAxis):
        return len(diffusivity.coefficients)
    if isinstance(diffusivity, Tensor) and not callable(diffusivity.matrix):
        return int(np.shape(diffusivity.matrix)[-1])
    if isinstance(drift, (tuple, list)) or (np.ndim(drift) == 1 and len(drift) <= 3):
        return len(drift)
    shape: tuple[int, ...] = () if callable(start) else np.shape(start)
    if shape in ((), (paths,)):
        if shape in ((2,), (3,)):
            raise ValueError(
                f"a start of {shape[0]} numbers is a point of {shape[0]} axes or {shape[0]} points of one; pass grid=, or one more path"
            )
        return 1
    if shape[-1] not in (1, 2, 3) or shape[:-1] not in ((), (paths,)):
        raise ValueError(f"start must be a point, or one for each of {paths} paths, got shape {shape}")
    return int(shape[-1])


def _first_points(grid: Any, start: Any, paths: int, ndim: int, key: Any) -> Any:
    """Where paths begin, (paths, ndim)."""
    dtype = jnp.result_type(float)
    if callable(start):
        if grid is None:
            raise ValueError("a start that is a density wants the cells it is drawn from, got no grid; pass grid=")
        place, within = jax.random.split(key)
        mass = jnp.ravel(grid.average(start) * grid.volumes)
        if not isinstance(mass, jax.core.Tracer):
            refuse(
                np.asarray(mass) < 0,
                lambda i: f"start is a density, got {mass[i]:.3g} in cell {i}; it must be from zero up",
            )
        cells = jnp.unravel_index(jax.random.choice(place, len(mass), (paths,), p=mass / mass.sum()), grid.shape)
        shares = jax.random.uniform(within, (paths, ndim), dtype)
        edges = [jnp.asarray(e, dtype) for e in grid.edges]
        return jnp.stack(
            [e[i] + share * (e[i + 1] - e[i]) for e, i, share in zip(edges, cells, shares.T, strict=True)], 1
        )
    points: Any = start if isinstance(start, jax.core.Tracer) else numbers(start, "start")
    shape = np.shape(points)
    fine = {(): ndim == 1, (ndim,): True, (paths,): ndim == 1, (paths, ndim): True}
    if not fine.get(shape, False):
        each = f"({paths},)" if ndim == 1 else f"({ndim},) or ({paths}, {ndim})"
        raise ValueError(f"start must be a point or one for each path, of shape {each} here, got {shape}")
    points = points[:, None] if ndim == 1 and shape == (paths,) else points
    if not isinstance(points, jax.core.Tracer):
        points = np.array(np.broadcast_to(points, (paths, ndim)))
        refuse(~np.isfinite(points).all(1), lambda i: f"start must be finite, got {points[i]} for path {i}")
        if grid is not None:
            diffusion.starts_within(grid, points)
    return jnp.broadcast_to(jnp.asarray(points, dtype), (paths, ndim))


def _states(rates: Any, grid: Any) -> tuple[Any, bool]:
    """The states, and whether there are no others."""
    if grid is None:
        return rates.states(1), not rates.truncated or bool(rates.given)
    if not grid.discrete:
        raise ValueError(f"a jd.MasterEquation takes jd.States in place of a grid, got {type(grid).__name__}")
    return grid, True


def _first_states(states: Any, bounded: bool, start: Any, paths: int, key: Any) -> Any:
    """In which states paths begin, whole numbers (paths, species)."""
    if callable(start):
        if not bounded:
            raise ValueError("a start that is a distribution wants the states it is drawn from; pass grid=jd.States(…)")
        chance = jnp.ravel(states.average(start))
        which = jax.random.choice(key, len(chance), (paths,), p=chance / chance.sum())
        return jnp.stack(jnp.unravel_index(which, states.shape), 1)
    if isinstance(start, Mapping):
        if unknown := [name for name in start if name not in states.names]:
            raise ValueError(f"there is no species {unknown[0]!r} here; there are {', '.join(states.names)}")
        start = [start.get(name, 0) for name in states.names]
    points, ndim = states.numbered(start, "start"), states.ndim
    if points.shape == (paths,) and ndim == 1:
        points = points[:, None]
    if points.shape not in ((), (ndim,), (paths, ndim)) or (points.shape == () and ndim > 1):
        raise ValueError(
            f"start must be a state or one for each of {paths} paths, of {ndim} counts, got {points.shape}"
        )
    points = np.broadcast_to(points, (paths, ndim))
    refuse(
        ~((points >= 0) & (points == np.round(points))).all(1),
        lambda i: f"start must be whole numbers from zero up, got {points[i]} for path {i}",
    )
    if bounded:
        states.require_inside(points, "start")
    return jnp.asarray(points, int)
