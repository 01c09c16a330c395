"""Any optax transformation, as a compiled loop that can be stopped and resumed.

It knows nothing of models: it takes functions of one vector z, whose coordinates are of order one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


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
