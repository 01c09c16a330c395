"""L-BFGS with one evaluation of the loss a step, accepted or not, so that its program holds the loss once: line searches hold
it several times, and compile as many times longer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

FALL = 1e-4  # share of the predicted fall that a step must bring (Armijo)
ROUNDOFF = 100.0  # units of it in the loss, within which slopes decide in its place (Hager & Zhang 2005, doi:10.1137/030601880)


@dataclass(frozen=True)
class QuasiNewton:
    """z ← z − t H ∇loss, H from the last `memory` steps. Liu & Nocedal 1989, doi:10.1007/BF01589116."""

    memory: int = 10

    def init(self, z: Any) -> Search:
        zeros, no = jnp.zeros((self.memory, len(z)), z.dtype), jnp.zeros((), z.dtype)
        return Search(zeros, zeros, jnp.zeros(self.memory, z.dtype), no + jnp.inf, z * 0, z * 0, no, jnp.array(False))


class Search(NamedTuple):
    """Where a search stands beside z: its memory, the loss and its slope at z, and what is tried next, z + length · direction."""

    steps: Any  # (memory, p), the newest last
    slopes: Any  # changes of the gradient over them
    inverse: Any  # 1/(step · slope), zero where there is none
    value: Any
    gradient: Any
    direction: Any
    length: Any
    held: Any  # whether predictors did not resolve what was tried

    def anew(self) -> Search:
        """The same with other predictors, by which the loss at z is asked first."""
        no, zero = np.zeros_like(self.direction), np.zeros_like(self.length)
        return self._replace(value=zero + np.inf, direction=no, length=zero, held=np.asarray(False))


def run(
    method: QuasiNewton,
    loss: Callable[[Any, Any], Any],
    limit: Any,
    state: Any,
    until: Any,
    average: float | None,
    decay: Callable[[float, Any], Any],
) -> Any:
    """Continue a search to step `until`; traceable. Others as of `gradient_descent.run`."""

    def body(state: Any) -> Any:
        search, key = state.optimizer, jax.random.split(state.key)[0]
        trial = jnp.clip(state.z + search.length * search.direction, -limit, limit)
        (total, resolved), gradient = jax.value_and_grad(loss, has_aux=True)(trial, key)
        resolved = jnp.asarray(resolved)
        roundoff = ROUNDOFF * jnp.finfo(total.dtype).eps
        finite = jnp.isfinite(total) & jnp.all(jnp.isfinite(gradient))
        first, step = jnp.isinf(search.value), trial - state.z
        slope, there = search.gradient @ search.direction, gradient @ search.direction
        falls = total <= search.value + FALL * search.length * slope
        level = (total <= search.value + roundoff * jnp.abs(search.value)) & (there <= -0.8 * slope)
        taken = resolved & finite & (first | falls | level)

        pair = (step, gradient - search.gradient)
        good = taken & (pair[0] @ pair[1] > 1e-10 * jnp.linalg.norm(pair[0]) * jnp.linalg.norm(pair[1]))
        push = lambda held, new: jnp.where(good, jnp.roll(held, -1, 0).at[-1].set(new), held)
        steps, slopes = push(search.steps, pair[0]), push(search.slopes, pair[1])
        inverse = push(search.inverse, 1 / jnp.where(good, pair[0] @ pair[1], 1.0))
        descent = -_times_inverse(gradient, steps, slopes, inverse)
        downhill = descent @ gradient < 0
        descent = jnp.where(downhill, descent, -gradient)
        known = downhill & jnp.any(inverse > 0)
        begin = jnp.where(known, 1.0, jnp.minimum(1.0, 1 / jnp.maximum(jnp.linalg.norm(gradient), 1e-300)))

        bend = total - search.value - search.length * slope
        parabola = -slope * search.length**2 / (2 * jnp.where(bend > 0, bend, jnp.inf))
        shorter = jnp.where(
            resolved & finite, jnp.clip(parabola, 0.1 * search.length, 0.5 * search.length), 0.3 * search.length
        )
        choose = lambda new, old: jnp.where(taken, new, old)
        z, value, slope_at = choose(trial, state.z), choose(total, search.value), choose(gradient, search.gradient)
        following = Search(
            steps, slopes, inverse, value, slope_at, choose(descent, search.direction), choose(begin, shorter),
            search.held | ~resolved,
        )  # fmt: skip
        still = jnp.max(jnp.abs(slope_at) * (1 + jnp.abs(z))) <= 1e-12
        stuck = ~taken & (jnp.max(jnp.abs(following.length * following.direction) / (1 + jnp.abs(z))) <= roundoff / 2)
        lost = first & ~finite & resolved
        new = state._replace(
            z=z,
            optimizer=following,
            best_value=jnp.where(value < state.best_value, value, state.best_value),
            best=z,
            average=z
            if average is None
            else state.average + (1 - decay(average, state.iteration)) * (z - state.average),
            iteration=state.iteration + 1,
            history=state.history.at[state.iteration].set(jnp.where(lost, total, value)),
            key=key,
            done=still | stuck | lost,
        )
        unseen = first & ~resolved  # predictors do not even resolve z
        return jax.lax.cond(unseen, lambda: state._replace(needs_replan=jnp.array(True)), lambda: new)

    goes_on = lambda state: (state.iteration < until) & ~state.done & ~state.needs_replan
    return jax.lax.while_loop(goes_on, body, state)


def _times_inverse(gradient: Any, steps: Any, slopes: Any, inverse: Any) -> Any:
    """H ∇loss by the recursion in two loops."""

    def back(rest: Any, pair: Any) -> Any:
        step, slope, weight = pair
        share = weight * (step @ rest)
        return rest - share * slope, share

    def forth(found: Any, pair: Any) -> Any:
        step, slope, weight, share = pair
        return found + (share - weight * (slope @ found)) * step, None

    rest, shares = jax.lax.scan(back, gradient, (steps, slopes, inverse), reverse=True)
    newest = slopes[-1] @ slopes[-1]
    scale = jnp.where(inverse[-1] > 0, 1 / jnp.where(inverse[-1] > 0, inverse[-1] * newest, 1.0), 1.0)
    return jax.lax.scan(forth, scale * rest, (steps, slopes, inverse, shares))[0]
