"""The initial-value problem in two halves: a plan made on the host, and its traceable execution.

| method   | when                                                      | cost                                       |
|----------|-----------------------------------------------------------|--------------------------------------------|
| direct   | diffusion, coefficients and forcing constant in time      | seven resolvents per output time, together |
| window   | the same, many times and a tolerance of at least 4e-11    | 20–38 resolvents per factor 60 of time     |
| segments | the same with a drift, growth or forcing by measured series | a few substeps per stretch between knots |
| adaptive | coefficients or forcing any function of time              | steps of high order, with error control    |
| steps    | a stepper named by the user                               | `substeps` per output interval             |
| lattice  | several axes                                              | matrices per axis, or products with A      |
| spectral | `jd.Spectral()`, or constant coefficients on several axes | a transform per output time                |
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.modes import Spectral
from jaxdiff.discretisation.schemes import FiniteVolume
from jaxdiff.integration import memory
from jaxdiff.integration.adaptive import first_failure
from jaxdiff.integration.magnus import Magnus
from jaxdiff.integration.methods import METHODS
from jaxdiff.integration.plan import Plan, segmented
from jaxdiff.integration.quadrature import Quadrature
from jaxdiff.integration.rosenbrock import Rosenbrock
from jaxdiff.integration.segments import FINEST
from jaxdiff.integration.steppers import STEPPERS, TRBDF2, Exponential, Stepper
from jaxdiff.model.equations import Diffusion
from jaxdiff.operators import Contour
from jaxdiff.operators.halo import gathered, spread
from jaxdiff.parameters import plain
from jaxdiff.quantities import SINCE, numbers
from jaxdiff.runtime.conditions import Checks, Condition, cell, check
from jaxdiff.runtime.sharding import require_whole_blocks

_FEW_STEPS = 256  # room for adaptive steps before any are counted
_FEW_EXPONENTIALS = 512  # the same on several axes
_VARYING = 1e-6  # of the peak, where coefficients depend on time
_SECOND_ORDER = FiniteVolume()
_STEADY: set[Any] = set()  # structures of models that no time enters: found once, as looking costs as much as solving
_FEW_TERMS = 1024  # of Chebyshev before any are counted; a gradient keeps a state for every 32 of them
_LATTICE_TOLERANCE = 1e-11


def prepare(
    equation: Any,
    grid: Any,
    times: Any,
    *,
    scheme: Any = None,
    stepper: Any = None,
    substeps: int | None = None,
    tolerance: float | None = None,
    initial: Any = None,
) -> Plan:
    """Choose the method and lay out the times, on the host; `initial` holds at `times[0]`.

    Raises:
        ValueError: times that do not increase, an unknown stepper, a scheme or stepper that does not hold here, a size that
            does not fit in memory.
    """
    plan = lay_out(equation, grid, times, scheme=scheme, stepper=stepper, substeps=substeps, tolerance=tolerance)
    memory.require(plan, grid, observed=grid.ndim == 1)
    return plan


def lay_out(
    equation: Any, grid: Any, times: Any, *, scheme: Any, stepper: Any, substeps: int | None, tolerance: float | None
) -> Plan:
    """`prepare`, whether or not there is memory for it."""
    equation = plain(equation)
    scheme = _SECOND_ORDER if scheme is None else scheme
    if not isinstance(scheme, (FiniteVolume, Spectral)):
        raise TypeError(f"scheme must be jd.FiniteVolume(order=2 or 4) or jd.Spectral(), got {scheme!r}")
    stepper = _checked_stepper(stepper)
    if substeps is not None and (int(substeps) != substeps or substeps < 1):
        raise ValueError(f"substeps must be a positive whole number, got {substeps!r}")
    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie between 0 and 1, as a share of the peak, got {tolerance!r}")
    if tolerance is not None and tolerance < FINEST:
        raise ValueError(f"tolerance {tolerance:g} of the peak is below what roundoff leaves; take {FINEST:g} or more")
    times = _checked_times(times)
    plan = Plan(scheme, stepper, "direct", tolerance, 1, _FEW_STEPS, len(times) - 1, times)
    key = (jax.tree.structure(equation), jax.tree.structure(grid)) if scheme is _SECOND_ORDER else None
    steady = key in _STEADY
    diffusive = isinstance(equation, Diffusion)
    if steady and grid.ndim == 1 and stepper is None and substeps is None:
        return _windowed(plan) if diffusive else segmented(plan, ())
    system = scheme.systems(equation, grid)[0]
    if isinstance(scheme, Spectral):
        return _in_modes(plan, system, stepper)
    course = (False, False, ()) if steady else system.course()
    operator_varies, forcing_varies, knots = course
    smooth = not operator_varies and not forcing_varies
    if smooth and not knots and key is not None and (grid.geometry == "cartesian" or grid.ndim > 1):
        if len(_STEADY) >= 1024:  # fresh lambdas are fresh structures
            _STEADY.clear()
        _STEADY.add(key)
    if grid.ndim > 1:
        return _on_lattice(plan, system, course, stepper, substeps)
    if isinstance(stepper, Exponential) and operator_varies:
        raise ValueError(
            "Exponential needs coefficients that are constant in time; leave stepper out or use jd.TRBDF2()"
        )
    if (stepper is None or isinstance(stepper, Exponential)) and smooth and substeps is None:
        return segmented(plan, knots) if knots or not diffusive else _windowed(plan)
    if stepper is None and substeps is None:
        tolerance = _VARYING if plan.tolerance is None else plan.tolerance
        method = Rosenbrock() if operator_varies else Quadrature()
        return _adaptive(replace(plan, tolerance=tolerance), method, _FEW_STEPS)
    default = Exponential() if smooth else TRBDF2()
    return replace(plan, method="steps", substeps=int(substeps or 1), stepper=default if stepper is None else stepper)


def _adaptive(plan: Plan, stepper: Any, capacity: int, forced: bool = True) -> Plan:
    """The plan where time enters by any function."""
    return replace(plan, method="adaptive", stepper=stepper, capacity=capacity, forced=forced)


def _in_modes(plan: Plan, system: Any, stepper: Any) -> Plan:
    """The plan in the basis of the walls, exact at any time."""
    if stepper is not None and not isinstance(stepper, Exponential):
        raise ValueError(
            f"Spectral is exact in time and takes no {type(stepper).__name__}; leave stepper out, or use jd.FiniteVolume()"
        )
    return replace(plan, method="spectral", forced=system.forced, basis=system.basis)


def _on_lattice(plan: Plan, system: Any, course: Any, stepper: Any, substeps: int | None) -> Plan:
    """The plan on several axes."""
    require_whole_blocks(system.grid)
    operator_varies, forcing_varies, knots = course
    exact = stepper is None or isinstance(stepper, Exponential)
    if exact and stepper is not None and (operator_varies or forcing_varies):
        raise ValueError(
            "Exponential needs coefficients and walls on several axes that are constant in time, or a jd.Series at a wall; leave stepper out or use jd.Strang()"
        )
    if not exact or ((operator_varies or forcing_varies) and substeps is not None):
        return replace(
            plan, method="steps", substeps=int(substeps or 1), stepper=stepper or TRBDF2(), forced=system.forced
        )
    if operator_varies or forcing_varies:
        tolerance = _VARYING if plan.tolerance is None else plan.tolerance
        found = replace(plan, tolerance=tolerance)
        return _adaptive(found, Magnus(tolerance, system.forced), _FEW_EXPONENTIALS, system.forced)
    if not knots and substeps is None and (basis := system.basis) is not None:
        return replace(plan, method="spectral", forced=system.forced, basis=basis)
    tolerance = _LATTICE_TOLERANCE if plan.tolerance is None else plan.tolerance
    return replace(
        segmented(plan, knots, 1),
        method="lattice",
        tolerance=tolerance,
        forced=system.forced,
        capacity=_FEW_TERMS,
        substeps=1 << (int(substeps or 1) - 1).bit_length(),
    )


def _checked_stepper(stepper: Any) -> Any:
    names = ", ".join(STEPPERS)
    if isinstance(stepper, str):
        raise ValueError(f"unknown stepper {stepper!r}; pass an object, one of {names}, such as jd.TRBDF2()")
    if isinstance(stepper, type) and issubclass(stepper, Stepper):
        return stepper()
    if stepper is not None and not isinstance(stepper, Stepper):
        raise TypeError(f"stepper must be one of {names}, got {stepper!r}")
    return stepper


def _checked_times(times: Any) -> Any:
    if isinstance(times, jax.core.Tracer):
        return times
    try:
        times = numbers(times, "times", SINCE)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{error}; the first is that of the initial state") from None
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times must be a sequence of at least two, the first that of the initial state, got {times}")
    if not np.isfinite(times).all():
        raise ValueError("times must be finite; use jd.steady_state for the limit of long times")
    wrong = np.flatnonzero(np.diff(times) <= 0)
    if len(wrong):
        i = int(wrong[0])
        raise ValueError(
            f"times must increase, got {times[i + 1]:g} after {times[i]:g} at index {i + 1}; sort them and drop repeats"
        )
    return times


def _windowed(plan: Plan) -> Plan:
    """Cover many times by contours, where that takes fewer resolvents than poles for each."""
    if plan.tolerance is None or not Contour.holds(plan.tolerance) or isinstance(plan.times, jax.core.Tracer):
        return plan
    after = plan.times[1:] - plan.times[0]
    # Times are padded so that compilation depends on the bucket alone.
    extra = (1 << (len(after) - 1).bit_length()) - len(after)
    nodes, weights = Contour(plan.tolerance).cover(np.pad(after, (0, extra), mode="edge"))
    if len(nodes) >= 7 * len(after):
        return plan
    return replace(
        plan, method="window", times=np.pad(plan.times, (0, extra), mode="edge"), nodes=nodes, weights=weights
    )


def evolve(equation: Any, grid: Any, initial: Any, plan: Plan, observe: Any = None) -> tuple[Any, Checks]:
    """States `(len(times), n)` and the checks on the numbers; traceable. See `prepare`.

    With `observe`, a linear map of states `(…, n)` to `(…, m)`, its values at the times, `(len(times), m)`: contours
    apply it to their few resolvents instead of to every state.
    """
    u = jnp.asarray(initial)
    real = u.dtype if jnp.issubdtype(u.dtype, jnp.floating) else float
    u = spread(u.astype(jax.dtypes.canonicalize_dtype(real)), grid.names)  # JAX may take it from a float64 program
    narrow = lambda x: jnp.asarray(x, u.dtype) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x
    equation, grid = jax.tree.map(lambda x: narrow(x) if eqx.is_array_like(x) else x, (equation, grid))
    t0 = jnp.asarray(plan.times[0], u.dtype)
    run = METHODS[plan.method]
    levels, finite, needed = [], [], jnp.zeros(2, u.dtype)
    systems = plan.scheme.systems(equation, grid)
    place = cell(u.ndim)
    found: list[Condition] = [(f"initial state is {{value}} in cell {place}; it must be finite", None, None, u)]
    early = observe if plan.method in ("window", "lattice", "spectral") and len(systems) == 1 else None
    looked, options = t0, {}
    if plan.method in ("steps", "adaptive") and systems[0].operator_varies:
        refused, looked = first_failure(systems[0], t0, jnp.asarray(plan.times[plan.outputs], u.dtype))
        options = {"sound": ~refused} if plan.method == "adaptive" else {}
    for system, start in zip(systems, plan.scheme.restrict(u), strict=True):
        weights = jnp.ones((), u.dtype) if plan.method == "spectral" else system.weights.astype(u.dtype)
        if early is not None:
            seen, asked, more = run(system, plan, t0, start * weights, lambda contents: early(contents / weights))  # noqa: B023
            states, first = seen[: plan.outputs], early(start)
        else:
            contents, asked, more = run(system, plan, t0, start * weights, **options)
            states, first = contents[: plan.outputs] / weights, start
        levels.append(jnp.concatenate([first[None], states]))
        finite.append(jnp.isfinite(states).all())
        found, needed = found + more, jnp.maximum(needed, asked)
    values = levels[0] if early is not None else plan.scheme.combine(levels, systems[0].ring)
    if observe is not None and early is None:
        values = observe(values)
    iterated = grid.ndim > 1 and plan.method in ("steps", "adaptive") and plan.stepper.reach is None
    doubt = ", or the iterations of a step did not converge" if iterated else ""
    infinite = (
        f"the solution is not finite{doubt}; check the coefficients and the size of the step",
        ~jnp.stack(finite).all(),
        0.0,
        0.0,
    )
    found = [*found, *systems[0].conditions(looked), *plan.scheme.conditions(systems[0], t0, u), infinite]
    values = spread(values, grid.names) if observe is None else gathered(values, grid.names)
    return values, gathered(check(found, needed), grid.names)
