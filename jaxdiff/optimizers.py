"""Minimising: Levenberg–Marquardt and any optax transformation, as compiled loops that can be stopped and resumed.

Both know nothing of models: they take functions of one vector z, whose coordinates are of order one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.losses import Expansion

CAP = 2.0  # the furthest a logarithm or logit moves in one step


class LevenbergMarquardt(eqx.Module):
    """Damped Newton steps with the Gauss–Newton, Fisher or observed information as curvature.

        (H + λ diag H) s = −g

    tolerance: it has converged when an undamped step would change the loss by less than this fraction, or no
    parameter by more than a hundredth of it in relative terms; damping: λ at the start.
    Source: Marquardt 1963, doi:10.1137/0111030; the update of λ is Nielsen's (1999, IMM-REP-1999-05).

    >>> import jaxdiff as jd
    >>> jd.LevenbergMarquardt(damping=1.0).damping
    1.0
    """

    tolerance: float = eqx.field(static=True, default=1e-10)
    damping: float = eqx.field(static=True, default=1e-3)


class State(NamedTuple):
    """Where a Levenberg–Marquardt run stands."""

    z: Any
    here: Expansion
    damping: Any
    growth: Any
    iteration: Any  # evaluations after the first
    history: Any
    converged: Any
    stalled: Any


def begin(z: Any, measurements: int, steps: int, damping: float) -> State:
    """A run that has not evaluated anything yet."""
    count = z.shape[0]
    zero = jnp.zeros((), z.dtype)
    square = jnp.zeros((count, count), z.dtype)
    here = Expansion(zero + jnp.inf, jnp.zeros_like(z), square, jnp.zeros((measurements, count, count), z.dtype), jnp.zeros(measurements, z.dtype), jnp.array(True))
    no = jnp.array(False)
    return State(z, here, zero + damping, zero + 2.0, jnp.array(-1), jnp.full(steps + 1, jnp.nan, z.dtype), no, no)


def direction(here: Expansion, damping: Any, free: Any) -> tuple[Any, Any, Any]:
    """(damped step, undamped step, the fall of the loss that the undamped one promises).

    In coordinates where every curvature is one; directions of negative curvature are turned around, those of none left out.
    """
    gradient = jnp.where(free, here.gradient, 0.0)
    curvature = jnp.where(free[:, None] & free[None, :], here.curvature, 0.0)
    tiny = jnp.finfo(gradient.dtype).tiny
    scale = jnp.sqrt(jnp.abs(jnp.diagonal(curvature)))
    scale = jnp.where(scale > jnp.sqrt(tiny), scale, 1.0)
    values, vectors = jnp.linalg.eigh(curvature / scale / scale[:, None])
    along = vectors.T @ (gradient / scale)
    bend = jnp.abs(values)
    floor = 100 * jnp.finfo(gradient.dtype).eps * jnp.maximum(bend.max(), tiny)
    seen = bend > floor
    newton = jnp.where(seen, along / jnp.where(seen, bend, 1.0), 0.0)
    damped = jnp.where(seen, along / jnp.where(seen, bend + damping, 1.0), 0.0)
    return -(vectors @ damped) / scale, -(vectors @ newton) / scale, 0.5 * jnp.sum(along * newton)


def advance(
    expand: Callable[[Any], tuple[Expansion, Any]], kind: Any, limit: Any, state: State, until: Any, tolerance: float
) -> State:
    """Continue a run to iteration `until`, or to its end; traceable.

    expand: z → Expansion; kind, limit: of the transform of each coordinate
    """
    tolerance = max(tolerance, 1e3 * float(jnp.finfo(state.z.dtype).eps))

    def inside(z: Any, gradient: Any) -> Any:
        return ~(((z >= limit) & (gradient < 0)) | ((z <= -limit) & (gradient > 0)))

    def on(state: State) -> Any:
        return (state.iteration < until) & ~state.converged & ~state.stalled & state.here.resolved

    def body(state: State) -> State:
        free = inside(state.z, state.here.gradient)
        step, _, _ = direction(state.here, state.damping, free)
        step = step / jnp.maximum(1.0, jnp.max(jnp.where(kind == 0, 0.0, jnp.abs(step))) / CAP)
        trial = jnp.clip(state.z + step, -limit, limit)
        step = trial - state.z
        there = expand(trial)
        first = state.iteration < 0
        bend = jnp.abs(step @ state.here.curvature @ step)
        promised = -(state.here.gradient @ step) - 0.5 * bend
        gained = state.here.value - there.value
        ratio = jnp.where(first, 1.0, gained / jnp.where(promised > 0, promised, jnp.inf))
        sound = jnp.isfinite(there.value) & jnp.all(jnp.isfinite(there.gradient)) & jnp.all(jnp.isfinite(there.curvature))
        taken = sound & (first | (ratio > 1e-4))
        here = jax.tree.map(lambda new, old: jnp.where(taken, new, old), there, state.here)
        z = jnp.where(taken, trial, state.z)
        better = jnp.maximum(1 / 3, 1 - (2 * jnp.clip(ratio, 0.0, 1.0) - 1) ** 3)
        damping = jnp.where(first, state.damping, jnp.where(taken, jnp.maximum(state.damping * better, 1e-12), state.damping * state.growth))
        growth = jnp.where(taken, 2.0, 2 * state.growth)
        _, newton, fall = direction(here, damping, inside(z, here.gradient))
        small = jnp.max(jnp.abs(newton) / jnp.where(kind == 0, jnp.abs(z) + 1e-6, 1.0)) <= 0.01 * tolerance
        flat = fall <= tolerance * jnp.abs(here.value)
        converged = jnp.isfinite(here.value) & (small | flat)
        history = state.history.at[state.iteration + 1].set(here.value)
        stalled = (first & ~sound) | (damping > 1e12)
        return State(z, here, damping, growth, state.iteration + 1, history, converged, stalled & ~converged)

    return jax.lax.while_loop(on, body, state)


class Walk(NamedTuple):
    """Where a run of an optax transformation stands."""

    z: Any
    optimizer: Any
    best: Any  # the lowest loss met, and where
    place: Any
    iteration: Any
    history: Any
    key: Any
    done: Any


def set_out(optimizer: Any, z: Any, steps: int, key: Any) -> Walk:
    infinite = jnp.full((), jnp.inf, z.dtype)
    return Walk(z, optimizer.init(z), infinite, z, jnp.array(0), jnp.full(steps, jnp.nan, z.dtype), key, jnp.array(False))


def wander(loss: Callable[[Any, Any], Any], optimizer: Any, limit: Any, walk: Walk, until: Any, batched: bool) -> Walk:
    """Continue a run of an optax transformation to step `until`; traceable. `loss` takes z and a key."""
    import optax

    optimizer = optax.with_extra_args_support(optimizer)

    def body(walk: Walk) -> Walk:
        key, now = jax.random.split(walk.key)
        function = lambda z: loss(z, now)  # noqa: E731
        stored = None if batched else optax.tree_utils.tree_get(walk.optimizer, "value")
        evaluate = jax.value_and_grad(function) if stored is None else optax.value_and_grad_from_state(function)
        total, gradient = evaluate(walk.z) if stored is None else evaluate(walk.z, state=walk.optimizer)
        updates, state = optimizer.update(gradient, walk.optimizer, walk.z, value=total, grad=gradient, value_fn=function)
        z = jnp.clip(optax.apply_updates(walk.z, updates), -limit, limit)
        lower = total < walk.best
        still = jnp.max(jnp.abs(gradient) * (1 + jnp.abs(walk.z))) <= 1e-12
        lost = ~jnp.isfinite(total) | ~jnp.all(jnp.isfinite(z))
        return Walk(
            z,
            state,
            jnp.where(lower, total, walk.best),
            jnp.where(lower, walk.z, walk.place),
            walk.iteration + 1,
            walk.history.at[walk.iteration].set(total),
            key,
            (still & (not batched)) | lost,
        )

    return jax.lax.while_loop(lambda walk: (walk.iteration < until) & ~walk.done, body, walk)


@cache
def default_descent() -> Any:
    """The quasi-Newton method for many parameters; one object, so that repeated fits do not compile again."""
    import optax

    return optax.lbfgs()


def is_optax(optimizer: Any) -> bool:
    return isinstance(optimizer, tuple) and hasattr(optimizer, "init") and hasattr(optimizer, "update")


def finite(array: Any) -> np.ndarray:
    """The written part of a history."""
    array = np.asarray(array, float)
    return array[~np.isnan(array)]
