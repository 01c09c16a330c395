"""The initial-value problem in two halves: a plan made on the host, and its traceable execution.

| method   | when                                                    | cost                                       |
|----------|---------------------------------------------------------|--------------------------------------------|
| direct   | coefficients and forcing constant in time               | a few resolvents per output time, together |
| window   | the same, many times and a tolerance of at least 1e-10  | 20–32 resolvents per factor 60 of time     |
| segments | forcing by measured series; growth; driven rings        | a propagator per stretch between knots     |
| adaptive | coefficients or forcing any function of time            | TR-BDF2 with error control                 |
| steps    | a stepper named by the user                             | `substeps` per output interval             |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.checks import Checks, check
from jaxdiff.operators import Contour, propagate
from jaxdiff.operators.propagators import propagate_window
from jaxdiff.parameters import plain
from jaxdiff.schemes import FiniteVolume, System
from jaxdiff.steppers import STEPPERS, TRBDF2, Exponential, Frozen, Stepper, stable_step

_LANE_CELLS = 2_000_000  # cells × resolvents held at once by the direct method
_BLOCK = 32  # adaptive steps skipped or taken together
_GLANCES = 64  # coarse steps that find the peak
_FEW_STEPS = 4096  # room for adaptive steps before any are counted
_MOST_STEPS = 2**16
_MOST_SUBSTEPS = 2**20


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["scheme", "stepper", "times", "first", "window", "starts", "durations", "distinct", "which", "ends"],
    meta_fields=["method", "tolerance", "substeps", "capacity", "outputs"],
)
@dataclass(frozen=True)
class Plan:
    """How a problem is stepped through its output times: static choices, and arrays that may change without retracing."""

    scheme: FiniteVolume
    stepper: Any
    method: str
    tolerance: float | None
    substeps: int
    capacity: int
    outputs: int
    times: Any
    first: Any = None  # start of each contour's window
    window: Any = None  # the window of each time
    starts: Any = None  # of the segments between knots and outputs
    durations: Any = None
    distinct: Any = None  # durations that differ
    which: Any = None
    ends: Any = None  # the segment that ends at each output time

    def refined(self, needed: Any) -> Plan:
        """A plan that meets what a run reported in `needed`, (substeps, steps); itself if it already does."""
        substeps, steps = (int(np.max(x)) for x in np.moveaxis(np.asarray(needed), -1, 0))
        if substeps > _MOST_SUBSTEPS:
            raise ValueError(f"the coefficients need {substeps} substeps per interval; shorten the intervals or check drift, decay and rates")
        if steps > _MOST_STEPS:
            raise ValueError(f"tolerance {self.tolerance:g} was not reached in {_MOST_STEPS} steps; loosen tolerance or name a stepper")
        if substeps > self.substeps:
            segmented = self if self.method == "segments" else _segmented(self, ())
            return replace(segmented, times=self.times, substeps=1 << (substeps - 1).bit_length())
        if steps > self.capacity:
            return replace(self, capacity=1 << (steps - 1).bit_length())
        return self


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
        ValueError: times that do not increase, an unknown stepper, a scheme or stepper that does not hold here.
    """
    equation = plain(equation)
    scheme = FiniteVolume() if scheme is None else scheme
    if not isinstance(scheme, FiniteVolume):
        raise TypeError(f"scheme must be jd.FiniteVolume(order=2 or 4), got {scheme!r}")
    stepper = _checked_stepper(stepper)
    if substeps is not None and (int(substeps) != substeps or substeps < 1):
        raise ValueError(f"substeps must be a positive whole number, got {substeps!r}")
    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie between 0 and 1, as a share of the peak, got {tolerance!r}")
    times = _checked_times(times)
    system = scheme.systems(equation, grid)[0]
    operator_varies, forcing_varies, knots = system.course()
    smooth = not operator_varies and not forcing_varies
    plan = Plan(scheme, stepper, "direct", tolerance, 1, _FEW_STEPS, len(times) - 1, times)
    if isinstance(stepper, Exponential) and operator_varies:
        raise ValueError("Exponential needs coefficients that are constant in time; leave stepper out or use jd.TRBDF2()")
    if (stepper is None or isinstance(stepper, Exponential)) and smooth and substeps is None:
        return _segmented(plan, knots) if knots else _windowed(plan)
    if stepper is None and substeps is None:
        segmented = _segmented(plan, knots)
        tolerance = 1e-6 if tolerance is None else tolerance
        return replace(segmented, method="adaptive", tolerance=tolerance, stepper=TRBDF2())
    default = Exponential() if smooth else TRBDF2()
    return replace(plan, method="steps", substeps=int(substeps or 1), stepper=default if stepper is None else stepper)


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
    times = np.asarray(times, np.float64)
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times must be a sequence of at least two, the first that of the initial state, got {times}")
    if not np.isfinite(times).all():
        raise ValueError("times must be finite; use jd.steady_state for the limit of long times")
    wrong = np.flatnonzero(np.diff(times) <= 0)
    if len(wrong):
        i = int(wrong[0])
        raise ValueError(f"times must increase, got {times[i + 1]:g} after {times[i]:g} at index {i + 1}; sort them and drop repeats")
    return times


def _windowed(plan: Plan) -> Plan:
    """Cover many times by contours, where that takes fewer resolvents than poles for each."""
    if plan.tolerance is None or plan.tolerance < 1e-10 or isinstance(plan.times, jax.core.Tracer):
        return plan
    after = plan.times[1:] - plan.times[0]
    contour = Contour(60.0, max(plan.tolerance / 10, 1e-10))
    first, window = [], np.zeros(len(after), int)
    for i, t in enumerate(after):
        if not first or t > first[-1] * contour.span * (1 - 1e-9):
            first.append(t)
        window[i] = len(first) - 1
    if contour.nodes * len(first) >= 7 * len(after):
        return plan
    # Times are padded so that compilation depends on the bucket alone.
    extra = (1 << (len(after) - 1).bit_length()) - len(after)
    times = np.concatenate([plan.times, np.full(extra, plan.times[-1])])
    return replace(plan, method="window", times=times, first=np.array(first), window=np.pad(window, (0, extra), mode="edge"))


def _segmented(plan: Plan, knots: Any) -> Plan:
    times = plan.times[: plan.outputs + 1]
    if isinstance(times, jax.core.Tracer):
        if len(knots):
            raise ValueError("output times inside jit cannot be merged with those of a Series; pass them as numbers")
        starts, durations = times[:-1], jnp.diff(times)
        index = np.arange(plan.outputs)
        return replace(plan, method="segments", starts=starts, durations=durations, distinct=durations, which=index, ends=index)
    inner = [k[(k > times[0]) & (k < times[-1])] for k in map(np.asarray, knots)]
    nodes = np.unique(np.concatenate([times, *inner]))
    ends = np.searchsorted(nodes, times[1:]) - 1
    durations = np.diff(nodes)
    # Equal to roundoff counts as equal: 0.1 s apart, however the sums were rounded.
    scale = 10.0 ** (12 - np.ceil(np.log10(np.max(durations))))
    distinct, which = np.unique(np.round(durations * scale) / scale, return_inverse=True)
    if len(distinct) > 4:
        distinct, which = np.unique(durations, return_inverse=True)
    return replace(
        plan, method="segments", starts=nodes[:-1], durations=durations, distinct=distinct, which=which, ends=ends, times=times
    )


def evolve(equation: Any, grid: Any, initial: Any, plan: Plan) -> tuple[Any, Checks]:
    """States `(len(times), n)` and the checks on the numbers; traceable. See `prepare`."""
    u = jnp.asarray(initial)
    u = u if jnp.issubdtype(u.dtype, jnp.floating) else u.astype(jnp.result_type(float))
    t0 = jnp.asarray(plan.times[0], u.dtype)
    run = _METHODS[plan.method]
    levels, needed = [], jnp.zeros(2)
    systems = plan.scheme.systems(equation, grid)
    found = check("initial state is {value} in cell {where}; it must be finite", ~jnp.isfinite(u), jnp.arange(len(u)), u)
    for system, start in zip(systems, plan.scheme.restrict(u), strict=True):
        weights = system.weights.astype(u.dtype)
        contents, asked, more = run(system, plan, t0, start * weights)
        found, needed = found + more, jnp.maximum(needed, asked)
        levels.append(jnp.concatenate([start[None], contents[: plan.outputs] / weights]))
    values = plan.scheme.combine(levels, systems[0].ring)
    found = found + systems[0].checks(t0)
    finite = jnp.isfinite(values).all() | (found.table[:, 0] > 0).any()
    found += check("the solution is not finite; check the coefficients and the size of the step", ~finite)
    return values, eqx.tree_at(lambda c: c.needed, found, jax.lax.stop_gradient(needed), is_leaf=lambda x: x is None)


def _needed_substeps(operator: Any, span: Any, limit: float = 10.0) -> Any:
    """Equal substeps that keep the rational approximation accurate under growth or on a driven ring."""
    operator = jax.lax.stop_gradient(operator)
    growth = operator.growth()
    excess = jnp.minimum(growth, growth + jnp.max(operator.leak))
    return jnp.stack([jnp.ceil(jnp.maximum(span * jnp.maximum(excess / limit, operator.circulation()), 1.0)), 0.0])


def _direct(system: System, plan: Plan, t0: Any, u: Any) -> Any:
    operator, forcing = system.operator(t0), system.forcing(t0)
    after = jnp.asarray(plan.times[1:], u.dtype) - t0
    run = lambda t: propagate(operator, t, u, forcing, tolerance=plan.tolerance)  # noqa: E731
    chunk = max(1, _LANE_CELLS // (7 * len(u)))
    if len(after) > chunk:
        padded = jnp.concatenate([after, jnp.full(-len(after) % chunk, after[-1])])
        out = jax.lax.map(jax.checkpoint(run), padded.reshape(-1, chunk)).reshape(-1, len(u))
    else:
        out = run(after)
    return out, _needed_substeps(operator, after[-1]), Checks()


def _window(system: System, plan: Plan, t0: Any, u: Any) -> Any:
    operator, forcing = system.operator(t0), system.forcing(t0)
    after = jnp.asarray(plan.times[1:], u.dtype) - t0
    contour = Contour(60.0, max(plan.tolerance / 10, 1e-10))
    out = propagate_window(operator, contour, jnp.asarray(plan.first, u.dtype), jnp.asarray(plan.window), after, u, forcing)
    return out, _needed_substeps(operator, after[-1]), Checks()


def _segments(system: System, plan: Plan, t0: Any, u: Any) -> Any:
    operator = system.operator(t0)
    nodes = jnp.concatenate([plan.starts, plan.starts[-1:] + plan.durations[-1:]])
    forcing = jax.vmap(system.forcing)(nodes.astype(u.dtype)).astype(u.dtype)
    durations = jnp.asarray(plan.durations, u.dtype)
    slopes = jnp.diff(forcing, axis=0) / durations[:, None]
    needed = _needed_substeps(operator, jnp.max(durations))
    parts = plan.substeps
    n, few = len(u), len(plan.distinct) <= 4
    if few and n <= 512 and len(durations) * parts > n // 2 or (parts > 64 and n <= 512):
        out = _dense_segments(operator, plan, u, forcing[:-1], slopes)
    else:

        def substep(state: Any, _: Any) -> Any:
            v, b, slope, dt = state
            return (propagate(operator, dt, v, b, slope, tolerance=plan.tolerance), b + dt * slope, slope, dt), None

        def segment(v: Any, row: Any) -> Any:
            b, slope, dt = row
            (v, *_), _ = jax.lax.scan(substep, (v, b, slope, dt / parts), None, length=parts)
            return v, v

        _, out = jax.lax.scan(segment, u, (forcing[:-1], slopes, durations))
    return out[jnp.asarray(plan.ends)], needed, Checks()


def _dense_segments(operator: Any, plan: Plan, u: Any, forcing: Any, slopes: Any) -> Any:
    """A matrix per distinct duration, squared up from its substeps; then one product per segment."""
    zero = jnp.zeros_like(u)
    eye = jnp.eye(len(u), dtype=u.dtype)
    response = lambda dt, *args: jax.vmap(lambda *a: propagate(operator, dt, *a), out_axes=1)(*args)  # noqa: E731
    zeros = jnp.broadcast_to(zero, eye.shape)

    def matrices(dt: Any) -> Any:
        dt = dt / plan.substeps
        step, constant, slope = response(dt, eye, zeros, zeros), response(dt, zeros, eye, zeros), response(dt, zeros, zeros, eye)

        def double(carry: Any, _: Any) -> Any:
            p, f, s, dt = carry
            dot = lambda a, b: jnp.matmul(a, b, precision="highest")  # noqa: E731
            return (dot(p, p), dot(p, f) + f, dot(p, s) + s + dt * f, 2 * dt), None

        (step, constant, slope, _), _ = jax.lax.scan(double, (step, constant, slope, dt), None, length=plan.substeps.bit_length() - 1)
        return step, constant, slope

    steps, constants, ramps = jax.lax.map(matrices, jnp.asarray(plan.distinct, u.dtype))
    which = jnp.asarray(plan.which)
    fed = jnp.einsum("dij,sj->dsi", constants, forcing, precision="highest")
    fed = fed + jnp.einsum("dij,sj->dsi", ramps, slopes, precision="highest")
    fed = fed[which, jnp.arange(len(which))]

    def segment(v: Any, row: Any) -> Any:
        i, b = row
        v = jnp.matmul(steps[i], v, precision="highest") + b
        return v, v

    return jax.lax.scan(segment, u, (which, fed))[1]


def _steps(system: System, plan: Plan, t0: Any, u: Any) -> Any:
    problem = Frozen(system, t0)
    times = jnp.asarray(plan.times, u.dtype)
    dts = jnp.diff(times) / plan.substeps
    found = Checks()
    if plan.stepper.reach is not None:
        limits = jax.lax.map(lambda t: stable_step(plan.stepper, system.operator(t)), times) if system.operator_varies else stable_step(plan.stepper, problem.operator(t0))
        limit, name = jnp.min(limits), type(plan.stepper).__name__
        longest = jnp.max(dts)
        message = f"{name} is unstable with a step of {{where}}; the largest stable step is {{value}}: raise substeps or use jd.Exponential()"
        found = check(message, longest > limit * (1 + 1e-9), longest, limit)

    @jax.checkpoint
    def interval(v: Any, row: Any) -> Any:
        start, dt = row
        take = lambda i, w: plan.stepper.step(problem, start + i * dt, dt, w)  # noqa: E731
        v, _ = jax.lax.scan(lambda w, i: (take(i, w), None), v, jnp.arange(plan.substeps))
        return v, v

    needed = jnp.zeros(2)
    return jax.lax.scan(interval, u, (times[:-1], dts))[1], needed, found


def _adaptive(system: System, plan: Plan, t0: Any, u: Any) -> Any:
    """Pilot: choose the steps under error control. Then take them again, differentiably, in blocks with checkpoints.

    A coarse run first finds the peak that the tolerance is a share of: a state that starts at zero has none.
    """
    ends = jnp.asarray(plan.starts + plan.durations, u.dtype)
    total = ends[-1] - t0
    equation, grid, start = jax.lax.stop_gradient((system.equation, system.grid, u))
    frozen = System(equation, grid)
    problem = Frozen(frozen, t0)
    weights = frozen.weights

    def glance(v: Any, t: Any) -> Any:
        w = plan.stepper.step(problem, t, total / _GLANCES, v)
        return w, jnp.max(jnp.abs(w / weights))

    _, seen = jax.lax.scan(glance, start, t0 + total / _GLANCES * jnp.arange(_GLANCES))
    peak = jnp.maximum(jnp.max(seen), jnp.max(jnp.abs(start / weights)))
    allowed = plan.tolerance * jnp.maximum(peak, jnp.finfo(u.dtype).tiny) / total  # per unit of time, so that errors add up

    def more(state: Any) -> Any:
        return (state[0] < len(ends)) & (state[1] < _MOST_STEPS)

    def advance(state: Any) -> Any:
        segment, count, t, h, v, taken = state
        left = ends[segment] - t
        last = h >= left * (1 - 1e-12)
        dt = jnp.where(last, left, jnp.minimum(h, left / 2))
        w, error = plan.stepper.step_with_error(problem, t, dt, v)
        ratio = jnp.max(jnp.abs(error / weights)) / (allowed * dt)
        accept = ratio <= 1.0
        factor = jnp.clip(0.9 / jnp.sqrt(jnp.maximum(ratio, 1e-12)), 0.2, 4.0)
        taken = taken.at[count].set(dt)  # overwritten if refused
        keep = lambda new, old: jnp.where(accept, new, old)  # noqa: E731
        new_h = jnp.where(accept & last, jnp.maximum(h, dt * factor), dt * factor)
        return (
            segment + (accept & last), count + accept, keep(jnp.where(last, ends[segment], t + dt), t),
            new_h, keep(w, v), taken,
        )  # fmt: skip

    state = (jnp.array(0), jnp.array(0), t0, total * 1e-4, start, jnp.zeros(_MOST_STEPS, u.dtype))
    segment, count, *_, taken = jax.lax.while_loop(more, advance, state)
    asked = jnp.where(segment < len(ends), 2 * _MOST_STEPS, count)
    taken = jnp.where(jnp.arange(plan.capacity) < count, taken[: plan.capacity], 0.0)
    problem = Frozen(system, t0)
    clock = t0 + jnp.cumsum(taken) - taken

    def take(v: Any, row: Any) -> Any:
        t, dt = row
        v = jnp.where(dt > 0, plan.stepper.step(problem, t, jnp.where(dt > 0, dt, total), v), v)
        return v, v

    @jax.checkpoint
    def block(v: Any, rows: Any) -> Any:
        idle = lambda w: (w, jnp.broadcast_to(w, (_BLOCK, *w.shape)))  # noqa: E731
        return jax.lax.cond(rows[1][0] > 0, lambda w: jax.lax.scan(take, w, rows), idle, v)

    rows = tuple(x.reshape(-1, _BLOCK) for x in (clock, taken))
    _, path = jax.lax.scan(block, u, rows)
    outputs = ends[jnp.asarray(plan.ends)]
    middle = clock + taken / 2
    index = jnp.searchsorted(jnp.where(taken > 0, middle, jnp.inf), outputs) - 1
    needed = jnp.stack([jnp.zeros(()), asked.astype(float)])
    return path.reshape(-1, len(u))[index], needed, Checks()


_METHODS = {"direct": _direct, "window": _window, "segments": _segments, "steps": _steps, "adaptive": _adaptive}
