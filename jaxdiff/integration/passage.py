"""When content leaves for good, and through which way: times, probabilities, densities of first passage."""

from __future__ import annotations

import operator as operators
from functools import cache, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.discretisation.schemes import semidiscrete
from jaxdiff.integration import memory
from jaxdiff.integration.boxes import states_of
from jaxdiff.integration.evolve import evolve
from jaxdiff.integration.options import SECOND_ORDER, SolverOptions
from jaxdiff.integration.plan import Plan, lay_out, prepare
from jaxdiff.integration.solve import attended, state_of
from jaxdiff.integration.steady import resolvent
from jaxdiff.operators import leading_to, reaching
from jaxdiff.parameters import plain
from jaxdiff.quantities import SINCE, numbers
from jaxdiff.runtime.compilation import as_written, solver_jit
from jaxdiff.runtime.conditions import Checks, Condition, check, enforce, raise_failed

TOLERANCE = 1e-8  # of the content at the start: far below any noise
_GROWS = "content is made at a rate of {value}, so nothing is a passage; killing, decay and rates of Robin must not be negative, nor a drift enter through Neumann"
_LOST = 1e-4  # relative error of a mean time that roundoff may make


def stopped(equation: Any, grid: Any, target: Any = None) -> tuple[Any, Any, list[Condition]]:
    """The system, its operator with what comes to the cells of `target` lost, and what must not be of it; traceable."""
    system = semidiscrete(equation, grid, SECOND_ORDER)[0]
    operator, _, conditions = system.formed(0.0)
    if system.among_states:
        operator = operator.closed
    if target is not None:
        if not hasattr(operator, "stopped"):
            raise ValueError("to= is not known here: the operator has no stopped(target); let walls or states absorb")
        operator = operator.stopped(target)
    mask = getattr(grid, "mask", None)
    leak = operator.leak
    inside = jnp.ones(leak.shape, bool) if mask is None else jnp.broadcast_to(mask, leak.shape)
    shut = "nothing ever leaves, so there is no passage time; let a wall absorb (jd.absorbing), or name cells to=, of a passage time"
    found = [
        *_growing(system),
        (_GROWS, inside & (leak < 0), None, leak),
        (shut, ~jnp.any(inside & (leak > 0)), 0.0, 0.0),
    ]
    if mask is not None:  # what is outside must not be singular
        operator = eqx.tree_at(lambda a: a.loss, operator, jnp.where(inside, operator.loss, jnp.max(operator.exit)))
    if system.may_vanish:
        stuck = "from some cells nothing ever leaves, so the mean passage time is infinite there; D = 0 lets content go one way only"
        found.append((stuck, inside & ~reaching(operator, operator.leak > 0), None, leak))
    elif mask is not None and hasattr(operator, "up"):
        stuck = "from some cells no way leads out, nor to where the passage ends, so the mean passage time is infinite there; mask them"
        found.append((stuck, inside & ~reaching(operator, inside & (operator.leak > 0)), None, leak))
    elif hasattr(operator, "rates") or hasattr(operator, "jumps") and system.among_states:
        stuck = "from some states no jumps lead out, nor to where the passage ends, so the mean passage time is infinite there; leave them out"
        found.append((stuck, ~leading_to(operator, operator.leak > 0), None, leak))
    return system, operator, [*conditions, *found]


def _growing(system: Any) -> list[Condition]:
    """That nothing is made on any of the ways out, also where more is lost on another."""
    try:
        rates = [jnp.ravel(rate) for rate in system.exits(0.0).values()]
    except ValueError:  # of oblique edges no way out is that of a wall
        return []
    return [(_GROWS, jnp.min(rate) < 0, 0.0, jnp.min(rate)) for rate in rates]


def backward(operator: Any) -> Any:
    """f ↦ (−Aᵀ)⁻¹ f, of a function of cells: its expected sum over the time until all has left, from each cell."""
    exit = operator.exit
    transposed = jax.linear_transpose(resolvent(operator, 0.0), jnp.zeros_like(exit))
    return lambda f: transposed(jnp.broadcast_to(f, exit.shape).astype(exit.dtype))[0]


def _states(system: Any, grid: Any, found: Any, conditions: list[Condition], target: Any = None) -> tuple[Any, Checks]:
    """What was found of contents as states are shaped, and the checks."""
    out = found.reshape(system.state_shape)
    out = out if getattr(grid, "mask", None) is None else grid.within(out)
    doubt = "" if len(system.state_shape) == 1 else ", or the iterations for it did not converge"
    never = f"the passage time from some cells is not finite: nothing ever leaves them{doubt}"
    failed = ~jnp.isfinite(out).all() | jnp.any(out < -1e-6 * jnp.max(jnp.abs(out)))
    return out if target is None else jnp.where(target.reshape(out.shape), 0.0, out), check(
        [*conditions, (never, failed, 0.0, 0.0)]
    )


@cache
def _moment(order: int) -> Any:
    def times(equation: Any, grid: Any, target: Any) -> tuple[Any, Checks]:
        system, operator, found = stopped(equation, grid, target)
        solve, out = backward(operator), jnp.ones((), operator.exit.dtype)
        inside = True if target is None else ~target
        for k in range(1, order + 1):
            last, out = out, k * solve(out)
            words = f"moment {k} of the passage time is beyond the range of {out.dtype}; take another unit of time, or float64"
            under = inside & (jnp.abs(out) < jnp.finfo(out.dtype).tiny)
            over = ~jnp.isfinite(out) & (jnp.isfinite(last).all() if k > 1 else jnp.array(False))
            found.append((words, jnp.any((last != 0) & (under | over)), 0.0, 0.0))
            if k == 1 and not getattr(operator, "without_subtraction", False):
                eps = float(jnp.finfo(out.dtype).eps)
                error = eps * jnp.max(jnp.abs(jax.lax.stop_gradient(out))) * jnp.max(operator.exit)
                words = "the passage takes so long that roundoff is {value} of it; take fewer cells, or one axis, where nothing is lost"
                found.append((words, error > _LOST, 0.0, error))
        return _states(system, grid, out, found, target)

    return solver_jit(times)


@cache
def _splitting(side: str) -> Any:
    def probability(equation: Any, grid: Any) -> tuple[Any, Checks]:
        system, operator, found = stopped(equation, grid)
        return _states(system, grid, backward(operator)(system.exits(0.0)[side]), found)

    return solver_jit(probability)


@as_written
def mean_first_passage_time(equation: Any, grid: Any, *, to: Any = None, moment: int = 1) -> Float[Array, "*cells"]:
    """The mean time until what starts in a cell leaves: through an absorbing or Robin wall, or by killing.

        Aᵀ T = −1,   and E[Tᵏ] = k! (−Aᵀ)⁻ᵏ 1 for its moments

    Sources and values at walls, which bring in other content, do not count. On one axis no subtraction is made: times of 10²² hops have
    all their digits.

    Args:
        equation: its coefficients constant in time.
        grid: the cells; `States` of a `MasterEquation`, beyond whose largest counts nothing goes, or None for those of its matrix.
        to: cells where the passage ends, beside what lets out: a mask `(*cells,)`, a point [length], whose cell it is then
            (the grid had better end there with `jd.absorbing`, which is of second order), or of discrete states one of them, as `States.delta` takes it.
        moment: k, for E[Tᵏ] [timeᵏ].

    Returns:
        Times [time] from each cell `(*cells,)`, zero outside a mask; `(1 + phases, *cells)` with an `Exchange`.

    Raises:
        ValueError: coefficients that depend on time, no way out, content that grows.

    From x in a slab of width L between absorbing walls x (L − x)/2D:

    >>> import jaxdiff as jd
    >>> slab, grid = jd.FokkerPlanck(0.0, 0.5, boundaries=jd.absorbing), jd.Grid.uniform((0.0, 1.0, 100))
    >>> times = jd.mean_first_passage_time(slab, grid)
    >>> round(float(grid.interpolate(times, 0.5)), 4)
    0.25

    Gardiner 2009, Stochastic Methods, §5.5; Grassmann, Taksar & Heyman 1985, doi:10.1287/opre.33.5.1107.
    """
    equation, grid, system = steady_system(equation, grid)
    try:
        moment = operators.index(moment)
    except TypeError:
        moment = 0
    if moment < 1:
        raise ValueError("moment must be a whole number of at least 1: 1 is the mean, 2 the mean square")
    target = None if to is None else _cells_of(system, grid, to)
    return told(*_moment(moment)(equation, grid, target))


@as_written
def splitting_probability(equation: Any, grid: Any, side: str) -> Float[Array, "*cells"]:
    """The probability that what starts in a cell leaves through this side, before any other way out.

        Aᵀ h = −r,   r the rates out through the side

    Args:
        equation: its coefficients constant in time.
        grid: the cells.
        side: a wall, "x-", "x+", …, or "killing", which is decay too.

    Returns:
        Probabilities from each cell `(*cells,)`; those of all sides sum up to one.

    Raises:
        ValueError: a side that there is not, or as `mean_first_passage_time`.

    >>> import jaxdiff as jd
    >>> walk, grid = jd.FokkerPlanck(0.0, 1.0, boundaries=jd.absorbing), jd.Grid.uniform((0.0, 1.0, 100))
    >>> round(float(grid.interpolate(jd.splitting_probability(walk, grid, "x+"), 0.3)), 6)
    0.3

    Gardiner 2009, Stochastic Methods, §5.5.
    """
    equation, grid, system = steady_system(equation, grid)
    ways = system.ways
    if side not in ways:
        raise ValueError(f"side must be a way out, one of {', '.join(ways) or 'none here'}, got {side!r}")
    return told(*_splitting(side)(equation, grid))


def leaving(
    equation: Any, grid: Any, initial: Any, plan: Plan, ways: bool = True
) -> tuple[Float[Array, "T k"], Checks]:
    """The rates at which the initial content leaves by each of the ways, or what is left of it, at the times of the plan; traceable.

    The plan is one of `prepare`; errors are of its tolerance, of the content at the start.
    """
    system = semidiscrete(equation, grid, plan.scheme)[0]
    operator, forcing, _ = system.formed(0.0)
    weights, axes = system.weights, len(system.state_shape)
    rows = {way: weights * rate for way, rate in system.exits(0.0).items()} if ways else {"": weights}
    ends = dict(zip(grid.sides, (0, -1), strict=True)) if axes == 1 and not grid.discrete else {}

    def observe(states: Any) -> Any:
        flat = states.reshape(*states.shape[: states.ndim - axes], -1)
        read = lambda way, row: (
            flat[..., ends[way]] * row[ends[way]]
            if way in ends
            else jnp.matmul(flat, row.ravel().astype(flat.dtype), precision="highest")
        )
        return jnp.stack([read(way, row) for way, row in rows.items()], axis=-1)

    values, checks = evolve(equation, grid, initial, plan, observe, None)
    most, least = jnp.max(jnp.abs(forcing)), jnp.min(operator.leak)
    fed = "content enters at {value} per time, and survival is that of what was there; drop sources, and values of walls but zero"
    found = check([(fed, most != 0, 0.0, most), (_GROWS, least < 0, 0.0, least), *_growing(system)])
    nonnegative = jax.lax.stop_gradient(jnp.all(jnp.asarray(initial) >= 0))
    below = jax.lax.stop_gradient(jnp.where(nonnegative & (values < 0), values, 0.0))  # by roundoff
    return values - below, checks + found


_left, _by_ways = (solver_jit(partial(leaving, ways=ways)) for ways in (False, True))


def _course(
    run: Any, equation: Any, grid: Any, initial: Any, times: Any, tolerance: Any
) -> tuple[Any, tuple[str, ...]]:
    """`leaving` at the times `(T, k)`, and the names of the ways out."""
    equation, grid, system = steady_system(equation, grid)
    plan, which = _planned(equation, grid, times, SolverOptions(tolerance=tolerance))
    initial = state_of(grid, plain(initial))
    _, values, _ = attended(run, equation, grid, jnp.asarray(initial), plan)
    return values[which], system.ways


def _planned(equation: Any, grid: Any, times: Any, options: SolverOptions) -> tuple[Plan, Any]:
    """A plan for times since the start, in any order, and which of its own each of them is."""
    if isinstance(times, jax.core.Tracer):
        order = jnp.argsort(times)
        after = jnp.concatenate([jnp.zeros(1, times.dtype), times[order]])
        return lay_out(equation, grid, after, options), 1 + jnp.argsort(order)
    since = np.atleast_1d(np.asarray(numbers(times, "times", SINCE)))
    if since.ndim != 1 or not (np.isfinite(since) & (since >= 0)).all():
        raise ValueError(f"times must be finite and count from the start, 0 or more each, got {since}")
    later = np.unique(np.append(since[since > 0], [] if (since > 0).any() else 1.0))
    plan = prepare(equation, grid, np.append(0.0, later), options, observed=True)
    return plan, np.searchsorted(np.append(0.0, later), since)


@as_written
def survival(equation: Any, grid: Any, initial: Any, times: Any, *, tolerance: float = TOLERANCE) -> Float[Array, " T"]:
    """What is left of the initial content at times after the start; of a density of mass one, the probability not to have left.

        S(t) = ∫c u(t) dV,   −dS/dt = Σ of `first_passage_density`

    Where a drift f carries, times scatter by what hops between cells of width h spread beside D, |f| h/2 where that is larger: halve the
    cells and see.

    Args:
        equation: its coefficients constant in time; nothing enters.
        grid: the cells.
        initial: the state at the start: cell averages `(*cells,)`, such as `grid.delta(x)`, a number, or a callable of position;
            of `States` {species: count}.
        times: `(T,)` since the start [time], in any order.
        tolerance: largest error, of the content at the start.

    Returns:
        `(T,)` [unit of u · length^d].

    Raises:
        ValueError: coefficients that depend on time, sources, content that grows, negative times.

    A particle midway between absorbing walls, and the first mode of what is left:

    >>> import jaxdiff as jd, numpy as np
    >>> walk, grid = jd.FokkerPlanck(0.0, 1.0, boundaries=jd.absorbing), jd.Grid.uniform((0.0, 1.0, 200))
    >>> left = jd.survival(walk, grid, grid.delta(0.5), [0.0, 1.0])
    >>> round(float(left[0]), 5), bool(abs(left[1] / (4 / np.pi * np.exp(-np.pi**2)) - 1) < 1e-3)
    (1.0, True)

    Redner 2001, A Guide to First-Passage Processes, doi:10.1017/CBO9780511606014.
    """
    return _course(_left, equation, grid, initial, times, tolerance)[0][:, 0]


@as_written
def first_passage_density(
    equation: Any, grid: Any, initial: Any, times: Any, *, tolerance: float = TOLERANCE
) -> dict[str, Float[Array, " T"]]:
    """The rates at which content leaves for the first time, by each way out; of a density of mass one, probabilities per time.

        fₛ(t) = Σᵢ rₛᵢ Nᵢ(t),   rₛ the rates out of the cells by way s

    Args:
        equation: its coefficients constant in time; nothing enters.
        grid: the cells.
        initial: the state at the start: cell averages `(*cells,)`, such as `grid.delta(x)`, a number, or a callable of position;
            of `States` {species: count}.
        times: `(T,)` since the start [time], in any order.
        tolerance: largest error of contents, of that at the start.

    Returns:
        {"x-": `(T,)`, …, "killing": `(T,)`} [content/time]: each wall that may let content out, and killing or decay.

    Raises:
        ValueError: coefficients that depend on time, sources, content that grows, negative times.

    >>> import jaxdiff as jd
    >>> walk, grid = jd.FokkerPlanck(0.0, 0.5, boundaries=jd.absorbing), jd.Grid.uniform((0.0, 1.0, 400))
    >>> density = jd.first_passage_density(walk, grid, grid.delta(0.3), [0.1])
    >>> {side: round(float(density[side][0]), 3) for side in ("x-", "x+")}
    {'x-': 2.413, 'x+': 0.759}

    Redner 2001, A Guide to First-Passage Processes, doi:10.1017/CBO9780511606014.
    """
    values, ways = _course(_by_ways, equation, grid, initial, times, tolerance)
    return {way: values[:, i] for i, way in enumerate(ways)}


def steady_system(equation: Any, grid: Any, waves: bool = False) -> tuple[Any, Any, Any]:
    """The equation with its marks read, its grid or states, and its system, if nothing of it varies in time."""
    equation = plain(equation)
    if equation.wave and not waves:
        raise ValueError(
            "this is asked of probabilities and contents, and waves have none of their own; solve, or ask jd.spectrum"
        )
    grid = states_of(equation) if grid is None else grid
    system = semidiscrete(equation, grid, SECOND_ORDER)[0]
    if not system.time_dependence().steady:
        raise ValueError(
            "this needs coefficients and boundary values that are constant in time; jd.solve follows others"
        )
    memory.require_at_rest(grid, system.eliminated)
    return equation, grid, system


def _cells_of(system: Any, grid: Any, to: Any) -> Any:
    """The mask of what `to` names."""
    shape = system.weights.shape
    if system.equation.discrete and isinstance(to, dict):
        return (np.asarray(grid.delta(to)) > 0).reshape(shape)
    if not isinstance(to, jax.core.Tracer):
        to = np.asarray(to)
    if to.dtype == bool:
        if to.shape != grid.shape:
            raise ValueError(f"to= as a mask has one entry for each of the cells {grid.shape}, got shape {to.shape}")
        return to.reshape(shape)
    if system.equation.discrete:
        return (np.asarray(grid.delta(to)) > 0).reshape(shape)
    point = np.atleast_1d(to)
    if point.shape != (grid.ndim,):
        raise ValueError(f"to= is a mask of cells or a point of {grid.ndim} coordinates, got {to}")
    grid.require_inside(point if grid.ndim == 1 else point[None], "to=")
    found = np.ones(shape, bool)
    for k, (edges, n) in enumerate(zip(grid.edges, shape, strict=True)):
        at = np.clip(np.searchsorted(edges, point[k], "right") - 1, 0, n - 1)
        found &= (np.arange(n) == at).reshape([-1 if j == k else 1 for j in range(grid.ndim)])
    return found


def told(value: Any, checks: Checks) -> Any:
    if isinstance(checks.table, jax.core.Tracer):
        return enforce(value, checks)
    raise_failed(checks)
    return value
