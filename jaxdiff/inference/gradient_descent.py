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


class OptaxState(NamedTuple):
    """Where a run of an optax transformation stands."""

    z: Any
    optimizer: Any
    best_value: Any  # the lowest loss met
    best: Any  # and where
    iteration: Any
    history: Any
    key: Any
    done: Any
    needs_replan: Any  # whether predictors must be renewed before the next step


def init(optimizer: Any, z: Any, steps: int, key: Any) -> OptaxState:
    """A run that has not taken a step yet."""
    inner = jax.tree.map(np.asarray, optimizer.init(jnp.asarray(z)))  # strongly typed, as the loop will return it
    history, no = np.full(steps, np.nan, z.dtype), np.asarray(False)
    return OptaxState(z, inner, np.asarray(np.inf, z.dtype), z, np.asarray(0), history, key, no, no)


def searches_lines(state: OptaxState) -> bool:
    """Whether the transformation searches along lines, and keeps the value it found."""
    import optax

    return optax.tree_utils.tree_get(state.optimizer, "value") is not None


def run(
    loss: Callable[[Any, Any], Any], optimizer: Any, limit: Any, state: OptaxState, until: Any, batched: bool
) -> OptaxState:
    """Continue a run of an optax transformation to step `until`; traceable.

    loss: (z, key) → its value, and whether the predictors resolve the coefficients there; without that a value is worth nothing
    """
    import optax

    optimizer = optax.with_extra_args_support(optimizer)

    def body(state: OptaxState) -> OptaxState:
        key, now = jax.random.split(state.key)

        def function(z: Any) -> Any:  # a line search shortens its step where this is NaN
            total, resolved = loss(z, now)
            return jnp.where(resolved, total, jnp.nan)

        stored = not batched and searches_lines(state)
        resolved: Any = True
        if not stored:
            (total, resolved), gradient = jax.value_and_grad(loss, has_aux=True)(state.z, now)
        else:
            total, gradient = optax.value_and_grad_from_state(function)(state.z, state=state.optimizer)
        updates, inner = optimizer.update(
            gradient, state.optimizer, state.z, value=total, grad=gradient, value_fn=function
        )
        z = jnp.clip(optax.apply_updates(state.z, updates), -limit, limit)
        lower = total < state.best_value
        still = jnp.max(jnp.abs(gradient) * (1 + jnp.abs(state.z))) <= 1e-12
        diverged = ~jnp.isfinite(total) | ~jnp.all(jnp.isfinite(z))
        new = OptaxState(
            z,
            inner,
            jnp.where(lower, total, state.best_value),
            jnp.where(lower, state.z, state.best),
            state.iteration + 1,
            state.history.at[state.iteration].set(total),
            key,
            (still & (not batched)) | diverged,
            state.needs_replan,
        )
        old = state._replace(needs_replan=jnp.array(True))
        return new if resolved is True else jax.lax.cond(resolved, lambda: new, lambda: old)

    goes_on = lambda state: (state.iteration < until) & ~state.done & ~state.needs_replan
    return jax.lax.while_loop(goes_on, body, state)


@cache
def default_descent() -> Any:
    """The quasi-Newton method for many parameters; one object, so that repeated fits do not compile again."""
    import optax

    return optax.lbfgs()


def finite(array: Any) -> np.ndarray:
    """The written part of a history."""
    array = np.asarray(array, float)
    return array[~np.isnan(array)]
