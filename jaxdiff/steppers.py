"""When: one step of dN/dt = A(t) N + b(t).

| stepper       | order | stable      | positive | face used |
|---------------|-------|-------------|----------|-----------|
| ForwardEuler  | 1     | Δt < 2/|λ|  | if Δt·max exit ≤ 1 | action |
| RungeKutta4   | 4     | Δt < 2.78/|λ| | no     | action    |
| BackwardEuler | 1     | always, L   | yes      | resolvent |
| CrankNicolson | 2     | always      | no       | resolvent |
| TRBDF2        | 2     | always, L   | no       | resolvent |
| Exponential   | exact | always      | to 1e-13 of the peak | propagator |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxdiff.operators import propagate


class Stepper(eqx.Module):
    """One step `(problem, t, dt, content) -> content`; `problem` has `operator(t)` and `forcing(t)`."""

    def step(self, problem: Any, t: Any, dt: Any, u: Any) -> Any:
        raise NotImplementedError

    @property
    def reach(self) -> float | None:
        """Largest stable Δt·|λ| of an explicit stepper."""
        return None


class ForwardEuler(Stepper):
    """u + Δt (A u + b), first order; refuses Δt > 2/|λ|max."""

    @property
    def reach(self) -> float:
        return 2.0

    def step(self, problem: Any, t: Any, dt: Any, u: Any) -> Any:
        return u + dt * (problem.operator(t) @ u + problem.forcing(t))


class RungeKutta4(Stepper):
    """The classical Runge–Kutta method, fourth order; refuses Δt > 2.785/|λ|max."""

    @property
    def reach(self) -> float:
        return 2.785293563405282

    def step(self, problem: Any, t: Any, dt: Any, u: Any) -> Any:
        # A loop over the stages: written out, XLA fuses them and computes the first once for every cell the others reach.
        def stage(carry: Any, row: Any) -> Any:
            v, total = carry
            s, ahead, share = row
            k = (problem.operator(t + s * dt) @ v + problem.forcing(t + s * dt)).astype(u.dtype)
            return (u + ahead * dt * k, total + share * dt * k), None

        rows = jnp.array([[0.0, 0.5, 1 / 6], [0.5, 0.5, 1 / 3], [0.5, 1.0, 1 / 3], [1.0, 0.0, 1 / 6]], u.dtype)
        return jax.lax.scan(stage, (u, u), rows)[0][1]


class BackwardEuler(Stepper):
    """(I − ΔtA) u₊ = u + Δt b₊, first order, positive at any step."""

    def step(self, problem: Any, t: Any, dt: Any, u: Any) -> Any:
        return problem.operator(t + dt).resolvent(1.0, -dt)(u + dt * problem.forcing(t + dt))


class CrankNicolson(Stepper):
    """The trapezoidal rule, second order; rings at rough data, where `TRBDF2` or `Exponential` serve better."""

    def step(self, problem: Any, t: Any, dt: Any, u: Any) -> Any:
        half = dt / 2
        explicit = u + half * (problem.operator(t) @ u + problem.forcing(t) + problem.forcing(t + dt))
        return problem.operator(t + dt).resolvent(1.0, -half)(explicit)


_GAMMA = 2.0 - 2.0**0.5
_WEIGHT = (1.0 - _GAMMA) / (2.0 - _GAMMA)
_ERROR = (-3.0 * _GAMMA**2 + 4.0 * _GAMMA - 2.0) / (12.0 * (2.0 - _GAMMA))


class TRBDF2(Stepper):
    """Trapezoid to t + γΔt, then BDF2, γ = 2 − √2: second order, L-stable. doi:10.1016/0168-9274(95)00115-8

    The default where coefficients depend on time; then with error control.
    """

    def step(self, problem: Any, t: Any, dt: Any, u: Any) -> Any:
        return self.step_with_error(problem, t, dt, u)[0]

    def step_with_error(self, problem: Any, t: Any, dt: Any, u: Any) -> tuple[Any, Any]:
        """The step and its local error, damped so that stiff decay does not ask for small steps."""
        middle, end = t + _GAMMA * dt, t + dt
        start_rate = problem.operator(t) @ u + problem.forcing(t)
        half = _GAMMA * dt / 2
        b_middle = problem.forcing(middle)
        a_middle = problem.operator(middle)
        solve = a_middle.resolvent(1.0, -half)
        v = solve(u + half * (start_rate + b_middle))
        a_end, b_end = problem.operator(end), problem.forcing(end)
        if a_end is not a_middle:  # else the same matrix: γ/2 = (1 − γ)/(2 − γ)
            solve = a_end.resolvent(1.0, -_WEIGHT * dt)
        known = (v / _GAMMA - (1.0 - _GAMMA) ** 2 / _GAMMA * u) / (2.0 - _GAMMA)
        w = solve(known + _WEIGHT * dt * b_end)
        middle_rate, end_rate = a_middle @ v + b_middle, a_end @ w + b_end
        spread = start_rate / _GAMMA - middle_rate / (_GAMMA * (1.0 - _GAMMA)) + end_rate / (1.0 - _GAMMA)
        return w, solve(2.0 * _ERROR * dt * spread)


class Exponential(Stepper):
    """e^{ΔtA} exactly, with forcing constant or linear over the step; for coefficients constant in time."""

    def step(self, problem: Any, t: Any, dt: Any, u: Any) -> Any:
        b = problem.forcing(t)
        return propagate(problem.operator(t), dt, u, b, (problem.forcing(t + dt) - b) / dt)


STEPPERS = {s.__name__: s for s in (ForwardEuler, RungeKutta4, BackwardEuler, CrankNicolson, TRBDF2, Exponential)}


class Frozen(eqx.Module):
    """A system whose operator, and where it may its forcing, are formed once."""

    system: Any
    fixed_operator: Any
    fixed_forcing: Any

    def __init__(self, system: Any, t: Any):
        self.system = system
        self.fixed_operator = None if system.operator_varies else system.operator(t)
        steady = not (system.operator_varies or system.forcing_varies or system.knots)
        self.fixed_forcing = system.forcing(t) if steady else None

    def operator(self, t: Any) -> Any:
        return self.system.operator(t) if self.fixed_operator is None else self.fixed_operator

    def forcing(self, t: Any) -> Any:
        return self.system.forcing(t) if self.fixed_forcing is None else self.fixed_forcing


def stable_step(stepper: Stepper, operator: Any) -> Any:
    """Largest stable step of an explicit stepper, from a bound on |λ| [time]."""
    return jnp.asarray(stepper.reach) / operator.bound()


def march(step: Callable[[Any, Any], Any], u: Any, count: int) -> Any:
    """u after `count` steps `step(i, u)`, by turns between two states.

    No step can be taken in place, as cells need their neighbours; a loop of single steps would copy each back.
    """

    def pair(carry: Any, i: Any) -> Any:
        between = step(i, carry[0])
        return (step(i + 1, between), between), None

    even = count - count % 2
    (u, between), _ = jax.lax.scan(pair, (u, u), jnp.arange(0, even, 2))
    # A glance at the other state keeps it: without, XLA fuses both steps, and takes the first anew for each neighbour.
    corner = (0,) * u.ndim
    u = u.at[corner].set(jnp.where(jnp.isnan(between[corner]), between[corner], u[corner]))
    return step(even, u) if count % 2 else u
