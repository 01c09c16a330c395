"""The traceable half of a solution: the states at the output times, by a plan that was made on the host."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.integration.adaptive import first_failure
from jaxdiff.integration.frozen import Formed
from jaxdiff.integration.plan import Plan
from jaxdiff.operators.halo import gathered, spread
from jaxdiff.runtime.conditions import Checks, Condition, cell, check


def evolve(
    equation: Any, grid: Any, initial: Any, plan: Plan, observe: Any = None, phase: Any = "total"
) -> tuple[Float[Array, "T ..."], Checks]:
    """States `(len(times), *cells)` and the checks on the numbers; traceable. See `prepare`.

    With `observe`, a linear map of states `(…, *cells)` to `(…, m)`, its values at the times, `(len(times), m)`: contours
    apply it to their few resolvents instead of to every state. It sees one `phase` of them; None: states `(…, *state_shape)`.
    """
    u, equation, grid = _of_one_precision(equation, grid, initial)
    u = grid.within(u)
    times = jnp.asarray(plan.times, u.real.dtype)
    systems = [Formed(system, times[0]) for system in equation.semidiscretise(grid, plan.scheme)]
    if observe is not None and phase is not None:
        of_states, of_phase = observe, systems[0].of_phase(phase)
        observe = lambda states: of_states(of_phase(states))
    sound, looked_at = first_failure(systems[0], times) if systems[0].time_dependence().operator else (True, times[0])
    alone = plan.method.observes and len(systems) == 1  # else states are combined before anything is read off
    starts, begun = zip(
        *(system.begin(u, times[0]) for system, u in zip(systems, plan.scheme.restrict(u), strict=True)), strict=True
    )
    runs = [
        _through(system, plan, times, start, observe if alone else None, sound)
        for system, start in zip(systems, starts, strict=True)
    ]
    states, needed, found = zip(*runs, strict=True)
    values = states[0] if len(runs) == 1 else plan.scheme.combine(list(states), systems[0].periodic)
    if observe is not None and not alone:
        values = observe(values)
    finite = jnp.stack([jnp.isfinite(values[1:]).all() for values in states]).all()
    doubt = ", or the iterations of a step did not converge" if plan.method.iterates and grid.ndim > 1 else ""
    conditions = [
        (
            f"initial state is {{value}} in cell {cell(u.ndim)}; it must be finite",
            None,
            None,
            jnp.abs(u) if equation.wave else u,
        ),
        *(condition for more in (*begun, *found) for condition in more),
        *systems[0].conditions(looked_at),
        *plan.scheme.conditions(systems[0], times[0], u),
        (f"the solution is not finite{doubt}; check the coefficients and the size of the step", ~finite, 0.0, 0.0),
    ]
    most = jnp.max(jnp.stack([jnp.zeros_like(needed[0]), *needed]), axis=0)
    values = spread(grid.within(values), grid.names) if observe is None else gathered(values, grid.names)
    return values, gathered(replace(check(conditions, most[:2]), watched=jax.lax.stop_gradient(most[2:])), grid.names)


def _of_one_precision(equation: Any, grid: Any, initial: Any) -> tuple[Any, Any, Any]:
    """Initial state, equation and grid, all in the floating-point numbers of the first."""
    u = jnp.asarray(initial)
    if jnp.iscomplexobj(u) and not equation.wave:
        raise ValueError(f"initial is complex, and states of {type(equation).__name__} are real; pass its real part")
    kept = jnp.issubdtype(u.dtype, jnp.floating) or (equation.wave and jnp.iscomplexobj(u))
    dtype = jax.dtypes.canonicalize_dtype(u.dtype if kept else float)
    u = spread(u.astype(dtype), grid.names)  # JAX may take it from a float64 program
    narrow = lambda x: jnp.asarray(x, u.real.dtype) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x
    return u, *jax.tree.map(lambda x: narrow(x) if eqx.is_array_like(x) else x, (equation, grid))


def _through(
    system: Any, plan: Plan, times: Any, start: Any, observe: Any, sound: Any
) -> tuple[Any, Any, list[Condition]]:
    """States of one system, or what `observe` makes of them, from the first time on; what the method needed, and conditions."""
    method = plan.method
    weights = jnp.ones(start.shape, start.dtype) if method.in_densities else system.weights.astype(start.dtype)
    row = weights.shape if weights.size == start.size else start.shape  # several phases on one axis stand in a row
    lead = lambda contents: contents.shape[: contents.ndim - len(row)]
    states_of = lambda contents: (contents / weights).reshape(*lead(contents), *start.shape)
    asked: Any = {} if observe is None else {"observe": lambda contents: observe(states_of(contents))}
    contents, needed, found = method.run(system, times, start.reshape(row) * weights, sound=sound, **asked)
    expected = jax.eval_shape(lambda u: u.reshape(row) if observe is None else observe(u), start).shape
    if contents.shape != (len(times) - 1, *expected):
        raise ValueError(
            f"{type(method).__name__} must return states of shape {(len(times) - 1, *expected)}, one for each time after the first, got {contents.shape}"
        )
    if observe is None:
        return jnp.concatenate([start[None], states_of(contents)]), needed, found
    return jnp.concatenate([observe(start)[None], contents]), needed, found
