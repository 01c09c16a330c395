"""The Runge–Kutta–Legendre method: explicit, and stable over steps that grow with the square of its stages."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.integration.steppers import Stepper
from jaxdiff.operators import most_of_batch

_MOST_STAGES = 512
_BREADTH = 0.24  # stable on ellipses up to (Δt|Im λ|)² = 0.24 Δt|λ|, found numerically for 3 to 127 stages
_STAGES = 16  # that are taken, or skipped, together


class RKL2(Stepper):
    """The Runge–Kutta–Legendre method of s stages, second order: s products with A for a step s²/4 times that of ForwardEuler.

        Y₁ = u + μ̃₁Δt F(u),  Yⱼ = μⱼYⱼ₋₁ + νⱼYⱼ₋₂ + (1 − μⱼ − νⱼ)u + μ̃ⱼΔt F(Yⱼ₋₁) + γ̃ⱼΔt F(u),  F = A · + b

    Args:
        stages: s, 2 to 512; None: the fewest by which each step is stable.

    Raises:
        ValueError: other stages; when solving, by Δt > (s² + s − 2)/2|λ|max and, where a drift makes spectra complex, by
            Δt > 0.24 |λ|max/|Im λ|²max, whatever the stages: there `Exponential` or `TRBDF2` serve better.

    >>> import jaxdiff as jd
    >>> jd.RKL2(stages=9).reach
    44.0

    Meyer, Balsara & Aslam 2014, doi:10.1016/j.jcp.2013.08.021.
    """

    stages: int | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        s = self.stages
        if s is not None and not (isinstance(s, int) and 2 <= s <= _MOST_STAGES):
            raise ValueError(
                f"stages must be a whole number from 2 to {_MOST_STAGES}, or None for what is stable, got {s!r}"
            )

    @property
    def reach(self) -> float:
        s = _MOST_STAGES if self.stages is None else self.stages
        return (s * s + s - 2) / 2

    def limits(self, operator: Any) -> Any:
        bound, imaginary = operator.bound(), operator.imaginary_bound()
        slow = _BREADTH * bound / jnp.maximum(imaginary**2, jnp.finfo(imaginary.dtype).tiny)
        return jnp.stack([self.reach / bound, slow])

    def refusals(self, dt: Any, limits: Any) -> list[tuple[str, Any]]:
        known = super().refusals(dt, limits)
        if self.stages is None:
            return known
        message = f"RKL2 with {self.stages} stages is unstable with a step of {{where}}; it takes {{value}} stages: raise stages, or substeps"
        return [(message, _fewest(self.reach * dt / limits[0])), known[1]]

    def step(self, system: Any, t: Any, dt: Any, u: Any) -> Any:
        s: Any = self.stages
        if s is None:
            s = jnp.maximum(*(_fewest(1.001 * dt * system.operator(when).bound()) for when in (t, t + dt)))
        s = jnp.asarray(s, u.dtype)
        w = 4.0 / (s * s + s - 2.0)

        def rate(c: Any, v: Any) -> Any:
            A, b = system.at(t + c * w * dt, v)
            return A @ v + b

        first = dt * rate(0.0, u)
        table = _legendre(_MOST_STAGES if self.stages is None else self.stages, u.dtype)

        def stage(carry: Any, row: Any) -> Any:
            last, now = carry
            j, mu, nu, gamma, c = row
            new = mu * now + nu * last + (1 - mu - nu) * u + w * mu * (dt * rate(c, now) - gamma * first)
            return (jnp.where(j <= s, now, last), jnp.where(j <= s, new, now)), None

        start = (u, u + w / 3 * first)
        if self.stages is not None:
            return jax.lax.scan(stage, start, table)[0][1]

        @jax.checkpoint
        def block(carry: Any, rows: Any) -> Any:
            take = lambda x: jax.lax.scan(stage, x, rows)[0]
            return jax.lax.cond(rows[0][0] <= most, take, lambda x: x, carry), None

        most = most_of_batch(s)
        rows = tuple(jnp.pad(x, (0, 1), constant_values=2 * _MOST_STAGES).reshape(-1, _STAGES) for x in table)
        return jax.lax.scan(block, start, rows)[0][1]


def _fewest(z: Any) -> Any:
    """Stages of RKL2, an odd number, that are stable for Δt·|λ| = z."""
    s = (jnp.sqrt(9.0 + 8.0 * jax.lax.stop_gradient(z)) - 1.0) / 2.0
    return jnp.maximum(3.0, 2.0 * jnp.ceil((s - 1.0) / 2.0) + 1.0)


def _legendre(stages: int, dtype: Any) -> tuple[Any, ...]:
    """j, μⱼ, νⱼ, 1 − bⱼ₋₁ and the time before stage j in units of wΔt, for j = 2 … stages."""
    j = np.arange(stages + 1.0)
    b = np.where(j < 2, 1 / 3, (j * j + j - 2) / (2 * np.maximum(j, 1) * (j + 1)))
    mu, nu = np.zeros_like(j), np.zeros_like(j)
    mu[2:], nu[2:] = (2 * j[2:] - 1) / j[2:] * b[2:] / b[1:-1], -(j[2:] - 1) / j[2:] * b[2:] / b[:-2]
    c = np.zeros_like(j)
    c[1] = 1 / 3
    for i in range(2, stages + 1):
        c[i] = mu[i] * (c[i - 1] + b[i - 1]) + nu[i] * c[i - 2]
    return tuple(jnp.asarray(x, dtype) for x in (j[2:], mu[2:], nu[2:], 1 - b[1:-1], c[1:-1]))
