"""How a plan is carried out: each method takes a system and contents and returns those at the output times."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.discretisation.line import System
from jaxdiff.integration.adaptive import adaptive
from jaxdiff.integration.frozen import Frozen
from jaxdiff.integration.segments import SINGLE, segments, squared
from jaxdiff.integration.steppers import Exponential, march, not_below_zero, several
from jaxdiff.operators import CUTS, Pade, chebyshev, most_of_batch, parts_needed, propagate, terms_needed
from jaxdiff.operators.propagators import propagate_window
from jaxdiff.runtime.conditions import Condition

LANE_CELLS = 2_000_000  # cells × resolvents, or cells × times, held at once
_ROOM = 8  # substeps that an unbalanced operator on a lattice may take, if it needs them


def _needed_substeps(operator: Any, span: Any) -> Any:
    return jnp.stack([parts_needed(operator, span), jnp.zeros(())])


def _direct(system: System, plan: Any, t0: Any, u: Any) -> Any:
    operator, forcing = system.operator(t0), system.forcing(t0)
    after = jnp.asarray(plan.times[1:], u.dtype) - t0
    weights = system.weights.astype(u.dtype)
    run = lambda t: propagate(operator, t, u, forcing, tolerance=plan.tolerance, weights=weights)
    out = _in_parts(run, after, 7 * len(u))
    return out, _needed_substeps(operator, after[-1]), _balance(operator, forcing, after[-1], out)


def _balance(operator: Any, forcing: Any, span: Any, out: Any) -> list[Condition]:
    """Whether what a closed domain is fed and loses by the end leaves digits to what stays."""
    single = jnp.finfo(out.dtype).bits < 64
    passed = span * jnp.max(jnp.abs(forcing)) / jnp.maximum(jnp.max(jnp.abs(out)), jnp.finfo(out.dtype).tiny)
    lost = jnp.finfo(out.dtype).eps * passed
    message = "sources and walls pass so much through the closed domain by then that roundoff is {value} of what stays; jd.steady_state tells the limit, shorter times the way"
    closed = (jnp.abs(operator.leak) <= 0).all()
    return [(message, closed & (lost > (SINGLE if single else 1e-9)), jnp.zeros(()), lost)]


def _in_parts(run: Any, times: Any, cells: int) -> Any:
    """`run` of times (T,), as many at once as memory allows where each takes so many cells."""
    chunk = max(1, LANE_CELLS // cells)
    if len(times) <= chunk:
        return run(times)
    padded = jnp.concatenate([times, jnp.full(-len(times) % chunk, times[-1])])
    out = jax.lax.map(jax.checkpoint(run), padded.reshape(-1, chunk))
    return out.reshape(-1, *out.shape[2:])


def _window(system: System, plan: Any, t0: Any, u: Any, observe: Any = None) -> Any:
    operator, forcing = system.operator(t0), system.forcing(t0)
    after = jnp.asarray(plan.times[1:], u.dtype) - t0
    out = propagate_window(
        operator, plan.nodes, plan.weights, after, u, forcing, system.weights.astype(u.dtype), observe
    )
    return out, _needed_substeps(operator, after[-1]), []


def _steps(system: System, plan: Any, t0: Any, u: Any) -> Any:
    problem = Frozen(system, t0, plan.forced)
    times = jnp.asarray(plan.times, u.dtype)
    dts = jnp.diff(times) / plan.substeps
    longest = jnp.max(dts)
    # What depends on the operator, at every output time if it varies.
    over = lambda quantity: (
        jax.lax.map(lambda t: quantity(system.operator(t)), times)
        if system.operator_varies
        else quantity(problem.operator(t0))
    )
    found: list[Condition] = []
    if plan.stepper.reach is not None:
        limits = over(plan.stepper.limits)
        limits = jnp.min(limits.reshape(-1, limits.shape[-1]), axis=0)
        told = zip(plan.stepper.refusals(longest, limits), limits, strict=True)
        found = [(message, longest > limit * (1 + 1e-9), longest, value) for (message, value), limit in told]
    parts = jnp.max(over(lambda operator: plan.stepper.parts(operator, longest)))
    needed = jnp.stack([parts * plan.substeps, jnp.zeros(())])

    run = march if plan.stepper.reach is not None else several

    @jax.checkpoint
    def interval(v: Any, row: Any) -> Any:
        start, dt = row
        take = lambda i, w: plan.stepper.step(problem, start + i * dt, dt, w).astype(w.dtype)
        v = _in_blocks(run, take, v, plan.substeps)
        return v, v

    return jax.lax.scan(interval, u, (times[:-1], dts))[1], needed, found


def _in_blocks(run: Any, take: Any, v: Any, count: int) -> Any:
    """v after `count` steps take(i, v). A gradient of many keeps about twice the root of their number, in states."""
    size = count
    if count > 64:
        root = math.isqrt(count)
        size = min(range(root // 4, 4 * root), key=lambda n: n + count // n + count % n)
    if size == count:
        return run(take, v, count)

    @jax.checkpoint
    def block(w: Any, first: Any) -> Any:
        return run(lambda i, x: take(first + i, x), w, size), None

    v, _ = jax.lax.scan(block, v, size * jnp.arange(count // size))
    rest = count % size
    return run(lambda i, x: take(count - rest + i, x), v, rest) if rest else v


def _lattice(system: Any, plan: Any, t0: Any, u: Any, observe: Any = None) -> Any:
    """Several axes: a product of exponentials if the axes are separable and nothing is fed in, else Chebyshev."""
    operator = system.operator(t0)
    if operator.separable and not plan.forced:
        return _product(operator.lines(), plan, u, system.weights, observe)
    room = plan.substeps * (1 if operator.diffusive else _ROOM)
    durations = jnp.asarray(plan.durations, u.dtype)
    once = observe is not None and room == 1 and len(plan.starts) == plan.outputs and not system.knots
    span = jnp.sum(durations) if once else jnp.max(durations)
    substeps, terms = terms_needed(operator, span, plan.tolerance)
    needed = jnp.stack([jnp.ceil(substeps / room * plan.substeps), terms])
    durations = jnp.where(substeps <= room, durations, 0.0)  # else it may overflow before it is asked anew
    kernel = isinstance(plan.stepper, Exponential) and plan.stepper.kernel
    options: dict[str, Any] = {"terms": plan.capacity, "needed": terms, "kernel": kernel}
    forcing = system.forcing(t0) if plan.forced else None
    if once:
        fed = None if forcing is None else (forcing, jnp.zeros_like(u))
        return chebyshev(operator, jnp.cumsum(durations), u, fed, observe=observe, **options), needed, []
    seen = (lambda v: v) if observe is None else observe
    changes, parts = bool(system.knots), jnp.minimum(substeps, room)
    most = most_of_batch(parts)

    def segment(v: Any, row: Any) -> Any:
        start, whole = row
        dt = whole / parts
        b, slope = forcing, jnp.zeros_like(u)
        if changes:
            b = system.forcing(start)
            slope = jnp.where(whole > 0, (system.forcing(start + whole) - b) / jnp.where(whole > 0, whole, 1.0), 0.0)

        def go(w: Any, i: Any) -> Any:
            fed = None if b is None else (b + i * dt * slope, slope)
            return chebyshev(operator, dt[None], w, fed, **options)[0]

        def substep(w: Any, i: Any) -> Any:
            taken = lambda w: jnp.where(i < parts, go(w, i), w)
            return jax.lax.cond(i < most, taken, lambda w: w, w), None

        step = substep if room == 1 else jax.checkpoint(substep)
        w = jax.lax.scan(step, v, jnp.arange(room, dtype=u.dtype))[0]
        fed = jnp.zeros(()) if b is None else jnp.minimum(b, b + whole * slope)
        v = not_below_zero(w, jnp.all(v >= 0) & jnp.all(fed >= 0))
        return v, seen(v)

    # A gradient keeps a state for every segment, and those of the terms for one segment at a time.
    segment = segment if len(plan.starts) == 1 else jax.checkpoint(segment)
    _, out = jax.lax.scan(segment, u, (jnp.asarray(plan.starts, u.dtype), durations))
    return out[jnp.asarray(plan.ends)], needed, []


def _product(lines: list[Any], plan: Any, u: Any, weights: Any, observe: Any) -> Any:
    """e^{tA} = e^{tA₁} ⊗ e^{tA₂} ⊗ …, a dense matrix per axis and distinct duration; with a drift squared up from substeps,
    whose errors are looked at as on one axis."""
    parts, few = plan.substeps, len(plan.distinct) <= 4
    drift = not all(line.diffusive for line in lines)
    rational = Pade(u.dtype, plan.tolerance)
    count = 4 * CUTS * rational.substeps * parts  # squaring makes them cheap

    def matrices(dt: Any) -> Any:
        if drift:
            step = lambda line: rational.step(line, dt / count)
            return tuple(squared(step(line), len(line.up), u.dtype, count) for line in lines)
        eye = lambda line: jnp.eye(len(line.up), dtype=u.dtype)
        column = lambda line: lambda e: propagate(line, dt / parts, e, tolerance=plan.tolerance)
        return tuple((jax.vmap(column(line), out_axes=1)(eye(line)), None) for line in lines)

    def along(k: int, matrix: Any, v: Any) -> Any:
        return jnp.moveaxis(jnp.tensordot(matrix, v, axes=(1, k), precision="highest"), 0, k)

    def apply(v: Any, each: Any) -> Any:
        for k, (matrix, _) in enumerate(each):
            v = along(k, matrix, v)
        return v

    known = jax.lax.map(matrices, jnp.asarray(plan.distinct, u.dtype)) if few else None
    seen = (lambda v: v) if observe is None else observe
    size = lambda v: jnp.max(jnp.abs(v / weights))

    def segment(v: Any, row: Any) -> Any:
        i, dt = row
        each = matrices(dt) if known is None else jax.tree.map(lambda x: x[i], known)
        w = jax.lax.scan(lambda w, _: (apply(w, each), None), v, None, length=1 if drift else parts)[0]
        error = jnp.zeros((), u.dtype)
        if drift:
            missed = [size(along(k, again, w)) for k, (_, again) in enumerate(each)]
            noise = 2.0 * rational.noise * size(w)
            error = jax.lax.stop_gradient(2.0 * count * sum(jnp.maximum(m - noise, 0.0) for m in missed))
        v = not_below_zero(w, jnp.all(v >= 0))
        return v, (seen(v), error, size(v))

    durations = jnp.asarray(plan.durations, u.dtype)
    _, (out, errors, sizes) = jax.lax.scan(segment, u, (jnp.asarray(plan.which), durations))
    if drift:
        peaks = jnp.maximum(jax.lax.stop_gradient(sizes), 1e-3 * size(jax.lax.stop_gradient(u)))
        worst = jnp.max(jnp.cumsum(errors) / jnp.maximum(peaks, jnp.finfo(u.dtype).tiny)) / plan.tolerance
        factor = jnp.where(worst > 1.0, jnp.ceil(worst ** (1.0 / rational.power)), 1.0)
        needed = jnp.stack([parts * jnp.minimum(jnp.where(jnp.isnan(factor), 8.0, factor), 8.0), jnp.zeros(())])
    else:
        needed = jnp.max(jnp.stack([_needed_substeps(line, jnp.max(durations)) for line in lines]), axis=0)
    return out[jnp.asarray(plan.ends)], needed, []


def _spectral(system: Any, plan: Any, t0: Any, u: Any, observe: Any = None) -> Any:
    """Modes of the values themselves, as all cells are equal."""
    forcing = (system.forcing(t0) / system.weights).astype(u.dtype) if plan.forced else None
    course = system.modes(t0, plan.basis).course(u, forcing)
    known = jnp.all(u >= 0) & (forcing is None or jnp.all(forcing >= 0)) & system.monotone
    states = lambda t: not_below_zero(course(t), known, tuple(range(1, u.ndim + 1)))
    run = states if observe is None else lambda t: observe(states(t))
    return _in_parts(run, jnp.asarray(plan.times[1:], u.dtype) - t0, u.size), jnp.zeros(2), []


METHODS: dict[str, Any] = {
    "direct": _direct,
    "window": _window,
    "lattice": _lattice,
    "spectral": _spectral,
    "segments": segments,
    "steps": _steps,
    "adaptive": adaptive,
}
