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

BLIND = 1e-14  # share of the loss below which a curvature says nothing
PUSH = 1e-6  # share of the loss from which on a slope without curvature is followed all the same
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
    good: Any  # the last place but one, at which plans resolved the coefficients
    damping: Any
    growth: Any
    iteration: Any  # evaluations after the first
    history: Any
    converged: Any
    stalled: Any


def begin(z: Any, measurements: int, steps: int, damping: float) -> State:
    """A run that has not evaluated anything yet."""
    xp = jnp if isinstance(z, jax.core.Tracer) else np
    count, dtype = len(z), z.dtype
    square, noise = np.zeros((count, count), dtype), np.zeros((measurements, count, count), dtype)
    none, fine = np.zeros(measurements, dtype), np.ones(measurements, bool)
    here = Expansion(np.asarray(np.inf, dtype), np.zeros(count, dtype), square, noise, none, fine, none)
    number = lambda value: np.asarray(value, dtype)
    history = np.full(steps + 1, np.nan, dtype)
    no = np.asarray(False)
    return State(xp.asarray(z), here, xp.asarray(z), number(damping), number(2.0), np.asarray(-1), history, no, no)


class Bowl(NamedTuple):
    """A loss seen as a quadratic, in coordinates where every curvature is one: eigenvalues, slopes, and the way back."""

    bend: Any  # |eigenvalues|: directions of negative curvature are turned around
    slope: Any
    back: Any
    seen: Any  # directions that have any curvature, or a slope that no curvature explains

    def step(self, damping: Any) -> Any:
        return self.back @ jnp.where(self.seen, self.slope / jnp.where(self.seen, self.bend + damping, 1.0), 0.0)

    @property
    def fall(self) -> Any:
        """How much the loss would fall down to the bottom."""
        return 0.5 * jnp.sum(jnp.where(self.seen, self.slope**2 / jnp.where(self.seen, self.bend, 1.0), 0.0))


def bowl(here: Expansion, z: Any, limit: Any) -> Bowl:
    """The quadratic around z, without the coordinates that push against their limit.

    A slope without curvature is no optimum. It gets the curvature that makes its undamped step one, the order of every
    coordinate, and damping shortens the step until it helps.
    """
    size = jnp.where(jnp.isfinite(here.value), jnp.abs(here.value), 0.0)
    free = (z * jnp.sign(here.gradient) > -limit) | (here.gradient == 0)
    curvature = jnp.where(free[:, None] & free, here.curvature, 0.0)
    diagonal = jnp.abs(jnp.diagonal(curvature))
    sighted = diagonal > BLIND * size
    pushed = ~sighted & free & (jnp.abs(here.gradient) > PUSH * size)
    curvature = jnp.where(sighted[:, None] & sighted, curvature, jnp.diag(jnp.where(pushed, jnp.abs(here.gradient), 0)))
    scale = jnp.where(sighted, jnp.sqrt(diagonal), jnp.where(pushed, jnp.sqrt(jnp.abs(here.gradient)), 1.0))
    values, vectors = jax.lax.linalg.eigh(curvature / scale / scale[:, None], symmetrize_input=False)[::-1]
    bend = jnp.abs(values)
    back = vectors / scale[:, None]
    slope = -(jnp.where(free, here.gradient, 0.0) @ back)
    seen = bend > 1e3 * jnp.finfo(bend.dtype).eps * bend.max()
    pushed = ~seen & (slope**2 > PUSH * size)
    return Bowl(jnp.where(pushed, 1.0, bend), slope, back, seen | pushed)


def advance(
    expand: Callable[[Any], Expansion], kind: Any, limit: Any, state: State, until: Any, tolerance: float
) -> State:
    """Continue a run to iteration `until`, or to its end; traceable.

    expand: z → Expansion; kind, limit: of the transform of each coordinate
    """
    tolerance = max(tolerance, 1e3 * float(jnp.finfo(state.z.dtype).eps))
    shown = float(jnp.finfo(state.z.dtype).eps) ** 0.5
    logarithm = kind > 0

    def on(state: State) -> Any:
        return (state.iteration < until) & ~state.converged & ~state.stalled & jnp.all(state.here.resolved)

    def body(state: State) -> State:
        first, old = state.iteration < 0, state.here
        step = bowl(old, state.z, limit).step(state.damping)
        step = step / jnp.maximum(1.0, jnp.max(jnp.abs(step) * logarithm) / CAP)
        trial = jnp.clip(state.z + step, -limit, limit)
        step = trial - state.z
        new = expand(trial)
        promised = -(old.gradient @ step) - 0.5 * jnp.abs(step @ old.curvature @ step)
        ratio = jnp.where(first, 1.0, (old.value - new.value) / jnp.where(promised > 0, promised, jnp.inf))
        sound = jnp.isfinite(new.value + new.gradient.sum() + new.curvature.sum())
        # Where the plan tells nothing at all, stop and ask.
        unknown = ~jnp.all(new.resolved) & ~jnp.isfinite(new.value)
        ratio = jnp.where(unknown, 0.5, ratio)
        taken = (sound | unknown) & (ratio > 1e-4)
        z, here = jax.tree.map(lambda a, b: jnp.where(taken, a, b), (trial, new), (state.z, old))
        good = jnp.where(taken & ~first, state.z, state.good)
        better = jnp.maximum(1 / 3, 1 - (2 * jnp.minimum(ratio, 1.0) - 1) ** 3)
        damping = state.damping * jnp.where(first, 1.0, jnp.where(taken, better, state.growth))
        there = bowl(here, z, limit)
        newton = jnp.abs(there.step(0.0))
        small = jnp.all(newton <= 0.01 * tolerance * jnp.where(logarithm, 1.0, jnp.abs(z) + 1e-6))
        # Where values and gradients agree no better than the solver does, a step may promise more than the loss can show.
        least = jnp.where(taken, tolerance, jnp.maximum(tolerance, shown))
        converged = jnp.isfinite(here.value) & (small | (there.fall <= least * jnp.abs(here.value)))
        stalled = ((first & ~sound & ~unknown) | (damping > 1e12)) & ~converged
        history = state.history.at[state.iteration + 1].set(here.value)
        growth = jnp.where(taken, 2.0, 2 * state.growth)
        damping = jnp.maximum(damping, 1e-12)
        return State(z, here, good, damping, growth, state.iteration + 1, history, converged, stalled)

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
    stale: Any  # whether the plans must be renewed before the next step


def set_out(optimizer: Any, z: Any, steps: int, key: Any) -> Walk:
    """A run that has not taken a step yet."""
    state = jax.tree.map(np.asarray, optimizer.init(jnp.asarray(z)))  # strongly typed, as the loop will return it
    history = np.full(steps, np.nan, z.dtype)
    return Walk(
        z, state, np.asarray(np.inf, z.dtype), z, np.asarray(0), history, key, np.asarray(False), np.asarray(False)
    )


def searches(walk: Walk) -> bool:
    """Whether the transformation searches along lines, and keeps the value it found."""
    import optax

    return optax.tree_utils.tree_get(walk.optimizer, "value") is not None


def wander(loss: Callable[[Any, Any], Any], optimizer: Any, limit: Any, walk: Walk, until: Any, batched: bool) -> Walk:
    """Continue a run of an optax transformation to step `until`; traceable.

    loss: (z, key) → its value, and whether the plans resolve the coefficients there; without that a value is worth nothing
    """
    import optax

    optimizer = optax.with_extra_args_support(optimizer)

    def body(walk: Walk) -> Walk:
        key, now = jax.random.split(walk.key)

        def function(z: Any) -> Any:  # a line search shortens its step where this is NaN
            total, fine = loss(z, now)
            return jnp.where(fine, total, jnp.nan)

        stored = not batched and searches(walk)
        fine: Any = True
        if not stored:
            (total, fine), gradient = jax.value_and_grad(loss, has_aux=True)(walk.z, now)
        else:
            total, gradient = optax.value_and_grad_from_state(function)(walk.z, state=walk.optimizer)
        updates, state = optimizer.update(
            gradient, walk.optimizer, walk.z, value=total, grad=gradient, value_fn=function
        )
        z = jnp.clip(optax.apply_updates(walk.z, updates), -limit, limit)
        lower = total < walk.best
        still = jnp.max(jnp.abs(gradient) * (1 + jnp.abs(walk.z))) <= 1e-12
        lost = ~jnp.isfinite(total) | ~jnp.all(jnp.isfinite(z))
        new = Walk(
            z,
            state,
            jnp.where(lower, total, walk.best),
            jnp.where(lower, walk.z, walk.place),
            walk.iteration + 1,
            walk.history.at[walk.iteration].set(total),
            key,
            (still & (not batched)) | lost,
            walk.stale,
        )
        old = walk._replace(stale=jnp.array(True))
        return new if fine is True else jax.lax.cond(fine, lambda: new, lambda: old)

    return jax.lax.while_loop(lambda walk: (walk.iteration < until) & ~walk.done & ~walk.stale, body, walk)


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
