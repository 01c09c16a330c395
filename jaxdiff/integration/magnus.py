"""Coefficients that depend on time, on several axes: exponentials of A at the middle of a step, extrapolated."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.integration.frozen import inside
from jaxdiff.integration.steppers import ErrorControlled, not_below_zero
from jaxdiff.operators import chebyshev, longest_time, terms_needed

TERMS = 512  # of Chebyshev in one exponential, at most
_LEVELS = (1, 2, 4)
# Of S(Δt), S(Δt/2)² and S(Δt/4)⁴: the result, of sixth order, and what the last two of fourth order differ by.
_SHARES = np.array([[1.0, -20.0, 64.0], [5.0, -25.0, 20.0]]) / [[45.0], [225.0]]
# Fifth differences over a step, of weights that sum to one: a jump in its first or last eighth would else go unseen.
_NODES = np.array([0.0, 0.125, 0.375, 0.625, 0.875, 1.0])
_DIFFERENCE = np.array([1 / np.prod([x - y for y in _NODES if y != x]) for x in _NODES])
_DIFFERENCE /= np.abs(_DIFFERENCE).sum()
AHEAD = 8.0  # steps after which an error that is left counts for good
_ROUGH = 1e-3  # of an error, to see what is left of it
_DIGITS = 1e-3  # of the tolerance, that an exponential errs by
_FROM_START, _ON, _OF_ERROR = range(3)
_ROWS = [
    (i / n, 1 / n, _ON if i else _FROM_START, _SHARES[:, k] * (i == n - 1))
    for k, n in enumerate(_LEVELS)
    for i in range(n)
] + [(0.5 - AHEAD / 2, AHEAD, _OF_ERROR, np.zeros(2))]


class Magnus(ErrorControlled):
    """Magnus' midpoint rule, extrapolated to sixth order, for one step under error control.

        S(Δt) u = e^{ΔtA} u + ∫ e^{(Δt−s)A} b(t + s) ds,   A at t + Δt/2, b linear between t and t + Δt
        u₊ = (64 S(Δt/4)⁴ − 20 S(Δt/2)² + S(Δt)) u / 45

    S is symmetric in time, so that its error is a series in Δt². Each exponential is a sum of Chebyshev polynomials: no
    equation is solved. Magnus 1954, doi:10.1002/cpa.3160070404; Blanes et al. 2009, doi:10.1016/j.physrep.2008.11.001.
    """

    tolerance: float = eqx.field(static=True)
    forced: bool = eqx.field(static=True)
    order = 4  # of the result whose error is estimated
    description = "exponentials"
    iterates = False

    def step(self, system: Any, t: Any, dt: Any, u: Any) -> Any:
        return self._extrapolate(system, t, dt, u, _ROWS[:-1])[0]

    def step_with_error(self, system: Any, t: Any, dt: Any, u: Any) -> tuple[Any, Any, Any]:
        """The step, the error of its fourth order that is left some steps later, and all of it that may add up until then;
        infinite where an exponential would not be one sum."""
        w, error, left, fits = self._extrapolate(system, t, dt, u, _ROWS)
        return w, jnp.where(fits, left, jnp.inf), AHEAD * (jnp.abs(error) + dt * self._jump(system, t, dt, u))

    def _jump(self, system: Any, t: Any, dt: Any, u: Any) -> Any:
        """What A u + b, a smooth function of time, does not do within a step, where exponentials may not look."""

        def differ(total: Any, row: Any) -> Any:
            at, share = row
            when = inside(t, dt, at)
            rate = system.operator(when) @ u
            rate = rate + system.forcing(when) if self.forced else rate
            return total + share * rate.astype(u.dtype), None

        rows = (jnp.asarray(_NODES, u.dtype), jnp.asarray(_DIFFERENCE, u.dtype))
        total, _ = jax.lax.scan(differ, jnp.zeros_like(u), rows)
        noise = 8 * jnp.finfo(u.dtype).eps * system.operator(t).bound() * jnp.max(jnp.abs(u))
        return 2 * jnp.maximum(jnp.abs(total) - noise, 0.0)

    def _extrapolate(self, system: Any, t: Any, dt: Any, u: Any, rows: Any) -> tuple[Any, Any, Any, Any]:
        @jax.checkpoint
        def exponential(carry: Any, row: Any) -> Any:
            v, total, fits = carry
            start, share, source, shares = row
            v = jnp.where(source == _FROM_START, u, jnp.where(source == _OF_ERROR, total[1], v))
            v, fits = self._midpoint(system, t + start * dt, share * dt, v, source != _OF_ERROR, fits)
            return (v, total + shares.reshape(2, *(1,) * u.ndim) * v, fits), None

        columns = [jnp.asarray(np.array(column), None if i == 2 else u.dtype) for i, column in enumerate(zip(*rows))]
        (v, total, fits), _ = jax.lax.scan(
            exponential, (u, jnp.zeros((2, *u.shape), u.dtype), jnp.array(True)), columns
        )
        known = jnp.all(u >= 0) & (not self.forced)
        w = not_below_zero(total[0], known)
        # Thousands of products lose in float32 what none of them lets out.
        kept = known & jnp.all(system.operator(t).leak == 0) & (jnp.sum(w) > 0)
        scale = jnp.where(kept, jnp.sum(u) / jnp.where(kept, jnp.sum(w), 1.0), 1.0)
        return w * jax.lax.stop_gradient(scale), total[1], v, fits

    def longest(self, system: Any, t: Any) -> Any:
        """The longest step of one sum [time]."""
        return longest_time(system.operator(t), TERMS, _DIGITS * self.tolerance)

    def _midpoint(self, system: Any, t: Any, dt: Any, u: Any, of_state: Any, fits: Any) -> tuple[Any, Any]:
        operator, forcing = system.operator(t + dt / 2), None
        digits = jnp.where(of_state, _DIGITS * self.tolerance, _ROUGH)
        dt = jnp.where(of_state, dt, jnp.minimum(dt, longest_time(operator, TERMS, _ROUGH)))
        substeps, terms = terms_needed(operator, dt, digits)
        if self.forced:
            # Forcing by walls has the rates through them as factors: at those of A, a profile at rest stays at rest.
            b, end = (
                jnp.where(of_state, system.forcing(at, t + dt / 2), 0.0).astype(u.dtype)
                for at in (inside(t, dt, 0.0), inside(t, dt, 1.0))
            )
            forcing = (b, (end - b) / dt)
        v = chebyshev(operator, dt[None], u, forcing, terms=TERMS, needed=terms)[0]
        return v, fits & (substeps <= 1) & (terms <= TERMS)
