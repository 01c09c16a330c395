"""Equal steps between the output times, by a stepper that the user names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.integration.frozen import Frozen
from jaxdiff.integration.method import Method, counted, only_substeps, room_for
from jaxdiff.integration.steppers import Stepper
from jaxdiff.runtime.conditions import Condition


class Steps(Method):
    """As many equal steps of a stepper in every interval between output times."""

    stepper: Stepper
    substeps: int = eqx.field(static=True)
    forced: bool = eqx.field(static=True, default=True)

    @property
    def iterates(self) -> bool:
        return self.stepper.iterates

    def run(self, system: Any, times: Any, start: Any, *, observe: Any = None, sound: Any = True) -> Any:
        stepper, frozen = self.stepper, Frozen(system, times[0], self.forced, self.iterates)
        lengths = jnp.diff(times) / self.substeps
        longest = jnp.max(lengths)
        # What depends on the operator, at every output time if it varies.
        over = lambda quantity: (
            jax.lax.map(lambda t: quantity(system.operator(t)), times)
            if frozen.varies
            else quantity(frozen.operator(times[0]))
        )
        found: list[Condition] = []
        if stepper.reach is not None:
            limits = over(stepper.limits)
            limits = jnp.min(limits.reshape(-1, limits.shape[-1]), axis=0)
            refusals = zip(stepper.refusals(longest, limits), limits, strict=True)
            found = [(words, longest > limit * (1 + 1e-9), longest, value) for (words, value), limit in refusals]
        parts = jnp.max(over(lambda operator: stepper.parts(operator, longest)))
        repeat = march if stepper.reach is not None else several

        @jax.checkpoint
        def interval(u: Any, row: Any) -> Any:
            t, dt = row
            step = lambda i, v: _alike(stepper, stepper.step(frozen, t + i * dt, dt, v), v)
            u = _in_blocks(repeat, step, u, self.substeps)
            return u, u

        states = jax.lax.scan(interval, start, (times[:-1], lengths))[1]
        return states, only_substeps(parts * self.substeps), found

    def describe(self, needed: Any = None) -> str:
        return f"{type(self.stepper).__name__}, {self.substeps} step{'s' * (self.substeps != 1)} per interval"

    def states_held(self, grid: Any, outputs: int, *, drift: bool = False, observed: bool = False) -> Any:
        implicit = 24.0 if grid.ndim == 1 else 14.0 * grid.ndim + 12
        states = (implicit if self.stepper.reach is None else 4.0 * grid.ndim + 2) + 2 * outputs
        return states, 12.0 + outputs + 8 * math.sqrt(self.substeps)

    @property
    def allowed(self) -> Any:
        return self.substeps, np.inf

    def refined(self, needed: Any, times: Any, grid: Any = None) -> Steps:
        substeps, _ = counted(needed)
        return self if substeps <= self.substeps else replace(self, substeps=room_for(substeps))


def _alike(stepper: Any, after: Any, before: Any) -> Any:
    """What a step returned, if that is a state."""
    if np.shape(after) != before.shape:
        raise ValueError(
            f"{type(stepper).__name__} must return contents of shape {before.shape}, got {np.shape(after)}"
        )
    return jnp.asarray(after, before.dtype)


def _in_blocks(repeat: Any, step: Any, u: Any, count: int) -> Any:
    """u after `count` steps step(i, u). A gradient of many keeps about twice the root of their number, in states."""
    size = count
    if count > 64:
        root = math.isqrt(count)
        size = min(range(root // 4, 4 * root), key=lambda n: n + count // n + count % n)
    if size == count:
        return repeat(step, u, count)

    @jax.checkpoint
    def block(v: Any, first: Any) -> Any:
        return repeat(lambda i, w: step(first + i, w), v, size), None

    u, _ = jax.lax.scan(block, u, size * jnp.arange(count // size))
    rest = count % size
    return repeat(lambda i, w: step(count - rest + i, w), u, rest) if rest else u


def several(step: Callable[[Any, Any], Any], u: Any, count: int) -> Any:
    """u after `count` steps `step(i, u)`."""
    return jax.lax.scan(lambda v, i: (step(i, v), None), u, jnp.arange(count))[0]


def march(step: Callable[[Any, Any], Any], u: Any, count: int) -> Any:
    """u after `count` steps `step(i, u)`, by turns between two states.

    No step can be taken in place, as cells need their neighbours; a loop of single steps would copy each back.
    """

    def pair(carry: Any, i: Any) -> Any:
        between = step(i, carry[0])
        return (step(i + 1, between), between), None

    if count == 1:
        return step(0, u)
    even = count - count % 2
    (u, between), _ = jax.lax.scan(pair, (u, u), jnp.arange(0, even, 2))
    # A glance at the other state keeps it: without, XLA fuses both steps, and takes the first anew for each neighbour.
    corner = (0,) * u.ndim
    u = u.at[corner].set(jnp.where(jnp.isnan(between[corner]), between[corner], u[corner]))
    return step(even, u) if count % 2 else u
