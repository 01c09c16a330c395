"""Constant coefficients and a forcing that is any function of time: exact in the stiff part, of high order in the forcing."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.integration.frozen import inside
from jaxdiff.integration.steppers import ErrorControlled
from jaxdiff.operators import Pade

_SUBSTEPS = 4
_NODES = (1.0 - np.cos(np.pi * np.arange(6) / 5)) / 2  # Chebyshev and Lobatto's, of a substep
_MIDDLE = 0.5  # where the forcing is compared with its interpolant

# Of Lagrange's polynomials of the nodes, the powers `(nodes, powers)` and the values at the check point `(nodes,)`.
_POWERS = np.linalg.inv(np.vander(_NODES, increasing=True)).T
_SHARES = _POWERS @ _MIDDLE ** np.arange(len(_NODES))


class Quadrature(ErrorControlled):
    """u(t + Δt) of du/dt = A u + b(t), b the polynomial through its values at the nodes xᵢ of each of several substeps h.

        u(t + h) = −2 Re Σ cₖ (zₖ − hA)⁻¹ (u + h Σᵢ Wₖᵢ b(t + h xᵢ)),   Wₖᵢ = Σⱼ j! ℓᵢⱼ/zₖʲ⁺¹

    cₖ and zₖ are those of `Pade`, ℓᵢⱼ the powers of Lagrange's polynomials: a polynomial forcing rides on the same poles.
    The error is that of `Pade`, and what the forcing leaves of its interpolant between the nodes, run through φ₁(hA).
    """

    order = 7  # of the error of a step
    description = "exponentials, the forcing interpolated"

    def step(self, system: Any, t: Any, dt: Any, u: Any) -> Any:
        return self._substeps(system, t, dt, u)[0]

    def step_with_error(self, system: Any, t: Any, dt: Any, u: Any) -> tuple[Any, Any, Any]:
        """The step, nothing that lasts per unit of time, and the error of the step."""
        v, q, step, forcing, h = self._substeps(system, t, dt, u)
        middles = inside(t, dt, jnp.asarray((np.arange(_SUBSTEPS) + _MIDDLE) / _SUBSTEPS, u.dtype))
        residual = jax.vmap(system.forcing)(middles) - jnp.einsum("i,kin->kn", jnp.asarray(_SHARES, u.dtype), forcing)
        missed = step(jnp.zeros_like(u), jnp.sum(jnp.abs(residual), 0))[0]
        return v, jnp.zeros_like(u), 2.0 * _SUBSTEPS * jnp.abs(step(q)[1]) + jnp.abs(missed)

    def _substeps(self, system: Any, t: Any, dt: Any, u: Any) -> Any:
        h = dt / _SUBSTEPS
        rational, operator = Pade(u.dtype, 1e-9), system.operator(t)
        step = rational.step(operator, h, rational.factors(operator, h))
        nodes = (np.arange(_SUBSTEPS)[:, None] + _NODES) / _SUBSTEPS
        forcing = jax.vmap(jax.vmap(system.forcing))(inside(t, dt, jnp.asarray(nodes, u.dtype))).astype(u.dtype)
        powers = _POWERS * [math.factorial(j) for j in range(len(_NODES))]

        def substep(state: Any, b: Any) -> Any:
            return step(state[0], *jnp.einsum("ij,in->jn", jnp.asarray(powers, u.dtype), b)), None

        v, q = jax.lax.scan(substep, (u, jnp.zeros_like(u)), forcing)[0]
        return v, q, step, forcing, h
