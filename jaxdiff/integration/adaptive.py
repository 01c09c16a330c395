"""Coefficients or forcing that are any function of time: steps under error control, and again, differentiably."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.integration.frozen import Frozen
from jaxdiff.integration.method import Method, counted, room_for
from jaxdiff.integration.steppers import ErrorControlled
from jaxdiff.operators import most_of_batch

MOST_STEPS = 2**16
_UNATTENDED = 4096  # room for steps where no host can make more
_ROUNDOFF = 32  # in units of the last digit
_FIRST, _SHRINK, _GROW = 1e-4, 0.2, 4.0  # the first step, of all the time; factors from one step to the next


class Adaptive(Method):
    """Steps of a method that estimates its error, as long as the tolerance allows."""

    stepper: ErrorControlled
    tolerance: float = eqx.field(static=True)
    capacity: int = eqx.field(static=True)
    forced: bool = eqx.field(static=True, default=True)

    @property
    def iterates(self) -> bool:
        return self.stepper.iterates

    def run(self, system: Any, times: Any, start: Any, *, observe: Any = None, sound: Any = True) -> Any:
        """A pilot chooses the steps, then they are taken again in blocks with checkpoints.

        Time is cut at the outputs and wherever the coefficients say that they jump; steps are shares of these stretches, so
        that derivatives by the time of a jump are those of the numbers returned. Coefficients that are not `sound` are not
        followed.
        """
        t0, u, outputs = times[0], start, times[1:]
        jumps = [jnp.clip(jnp.ravel(j).astype(u.dtype), t0, outputs[-1]) for j in system.jumps]
        ends = jnp.sort(jnp.concatenate([outputs, *jumps])) if jumps else outputs
        starts = jnp.concatenate([t0[None], ends[:-1]])
        # Numbers that the user's functions close over must not be differentiated through the choice of steps either.
        choose, closed_over = jax.closure_convert(
            lambda v, ends: _choose_steps(self, system, t0, ends, v, sound), u, ends
        )
        reached, count, taken, where = choose(*jax.lax.stop_gradient((u, ends, *closed_over)))
        asked = jnp.where(reached < len(ends), 2 * MOST_STEPS, count)
        live = jnp.arange(self.capacity) < count
        shares, where = jax.lax.stop_gradient((taken[: self.capacity], where[: self.capacity]))
        shares = jnp.where(live[:, None], shares, 0.0)
        problem, size = Frozen(system, t0, self.forced, self.iterates), self.stepper.block

        total = jax.lax.stop_gradient(ends[-1] - t0)
        least = _ROUNDOFF * jnp.finfo(u.dtype).eps * total

        def take(v: Any, row: Any) -> Any:
            (before, share), segment, _ = row
            start, whole = starts[segment], ends[segment] - starts[segment]
            t, dt = start + before * whole, share * whole

            def still(v: Any) -> Any:
                """Where a jump meets an output: no time, but its derivative, by the coefficients before the jump."""
                when = t - least
                return v + dt * (problem.operator(when) @ v + problem.forcing(when)).astype(v.dtype)

            v = jax.lax.cond(dt > least, lambda v: self.stepper.step(problem, t, dt, v).astype(v.dtype), still, v)
            return v, v

        # The last step that ends at each output; beyond all steps: none.
        final = (
            jnp.where(live, where, len(ends))[None, :] <= jnp.searchsorted(ends, outputs, side="right")[:, None] - 1
        ).sum(1)
        place = jnp.full(self.capacity, len(outputs)).at[final - 1].set(jnp.arange(len(outputs)))

        @jax.checkpoint
        def block(v: Any, rows: Any) -> Any:
            idle = lambda w: (w, jnp.broadcast_to(w, (size, *w.shape)))
            return jax.lax.cond(most_of_batch(rows[2][0]) > 0, lambda w: jax.lax.scan(take, w, rows), idle, v)

        def keep(carry: Any, row: Any) -> Any:
            rows, at = row
            v, path = block(carry[0], rows)
            return (v, carry[1].at[at].set(path, mode="drop")), None

        blocks = lambda x: x.reshape(-1, size, *x.shape[1:])
        kept = jnp.zeros((len(outputs), *u.shape), u.dtype)
        (_, kept), _ = jax.lax.scan(
            keep, (u, kept), ((blocks(shares), blocks(where), blocks(1.0 * live)), blocks(place))
        )
        return kept, jnp.stack([jnp.zeros(()), asked.astype(float)]), []

    def describe(self, needed: Any = None) -> str:
        taken = 0 if needed is None else int(np.asarray(needed)[1])
        steps = f", {taken} steps" if taken else ""
        return f"adaptive {self.stepper.description}{steps}"

    def states_held(self, grid: Any, outputs: int, *, drift: bool = False, observed: bool = False) -> Any:
        states = (150.0 if grid.ndim == 1 else 18.0 * grid.ndim + 14) + 2 * outputs
        return states, 280.0 + outputs + self.capacity / self.stepper.block

    def states_in_batch(self, outputs: int) -> float:
        return 0.5 * self.capacity

    @property
    def allowed(self) -> Any:
        return np.inf, self.capacity

    def refined(self, needed: Any, times: Any, grid: Any = None) -> Adaptive:
        _, steps = counted(needed)
        if steps > MOST_STEPS:
            raise ValueError(
                f"tolerance {self.tolerance:g} was not reached in {MOST_STEPS} steps; loosen tolerance or name a stepper"
            )
        return self if steps <= self.capacity else replace(self, capacity=room_for(steps))

    def unattended(self) -> Adaptive:
        return replace(self, capacity=max(self.capacity, _UNATTENDED))


def first_failure(system: Any, times: Any) -> tuple[Any, Any]:
    """Whether coefficients that vary in time are sound at all times looked at, and the first where not, or the start."""
    start, end = times[0], times[-1]
    times = start + (end - start) * jnp.linspace(0.0, 1.0, 17, dtype=start.dtype)
    bad = lambda failed, value: jnp.any(~jnp.isfinite(value) if failed is None else failed)
    failed = jax.lax.map(lambda t: jnp.array([bad(c[1], c[3]) for c in system.conditions(t)], bool).any(), times)
    return ~failed.any(), times[jnp.argmax(failed)]


def _choose_steps(method: Adaptive, system: Any, t0: Any, ends: Any, u: Any, sound: Any) -> tuple[Any, Any, Any, Any]:
    """(segments reached, number of steps, (start, length) of each as shares of its segment, and that) under an error of
    tolerance × peak, of each step where it fades and of all so far where it lasts."""
    total = ends[-1] - t0
    problem, weights, tiny = Frozen(system, t0, method.forced, method.iterates), system.weights, jnp.finfo(u.dtype).tiny
    height = lambda v: jnp.max(jnp.abs(v / weights))
    eps = jnp.finfo(u.dtype).eps
    roundoff = _ROUNDOFF * eps  # of the peak in an error estimate; of the time in a step
    starts = jnp.concatenate([t0[None], ends[:-1]])

    def more(state: Any) -> Any:
        return sound & (state[0] < len(ends)) & (state[1] < MOST_STEPS) & jnp.isfinite(state[3])

    def advance(state: Any) -> Any:
        segment, count, share, h, v, peak, taken, where = state
        start, whole = starts[segment], ends[segment] - starts[segment]
        t, left = start + share * whole, (1.0 - share) * whole
        h = jnp.minimum(h, method.stepper.longest(problem, t))
        empty = left <= roundoff * total
        last = (h >= left * (1 - 1e-12)) | empty
        dt = jnp.where(last, left, jnp.minimum(h, left / 2))
        safe = jnp.where(empty, total, dt)
        w, error, fading = method.stepper.step_with_error(problem, t, safe, v)
        w = jnp.where(empty, v, w)
        higher = jnp.maximum(peak, height(w))
        # What lasts is charged for all the steps that this pace would have taken so far, so that errors add up.
        excess = lambda e: jnp.maximum(jnp.max(jnp.abs(e / weights)) - roundoff * higher, 0.0)
        worst = jnp.maximum(excess(error) * (t + safe - t0) / safe, excess(fading))
        ratio = jnp.where(worst > 0, worst / jnp.maximum(method.tolerance * higher, tiny), 0.0)  # a state may stay zero
        accept = (ratio <= 1.0) | (dt <= roundoff * total)
        factor = jnp.clip(0.9 * jnp.maximum(ratio, 1e-12) ** (-1 / method.stepper.order), _SHRINK, _GROW)
        part = jnp.where(whole > 0, dt / jnp.where(whole > 0, whole, 1.0), 1.0)
        part = jnp.where(last, 1.0 - share, part)
        taken = taken.at[count].set(jnp.stack([share, part]))  # overwritten if refused
        where = where.at[count].set(segment)
        keep = lambda new, old: jnp.where(accept, new, old)
        new_h = jnp.where(empty, h, jnp.where(accept & last, jnp.maximum(h, dt * factor), dt * factor))
        return (
            segment + (accept & last), count + accept, keep(jnp.where(last, 0.0, share + part), share),
            new_h, keep(w, v), keep(higher, peak), taken, where,
        )  # fmt: skip

    peak = jnp.maximum(height(u), tiny)
    room = (jnp.zeros((MOST_STEPS, 2), u.dtype), jnp.zeros(MOST_STEPS, int))
    state = (jnp.array(0), jnp.array(0), jnp.zeros((), u.dtype), total * _FIRST, u, peak, *room)
    segment, count, *_, taken, where = jax.lax.while_loop(more, advance, state)
    return segment, count, taken, where
