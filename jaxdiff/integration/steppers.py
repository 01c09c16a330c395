"""When: one step of dN/dt = A(t) N + b(t).

| stepper       | order | stable                | positive             | face used           |
|---------------|-------|-----------------------|----------------------|---------------------|
| ForwardEuler  | 1     | Δt < 2/|λ|            | if Δt·max exit ≤ 1   | action              |
| RungeKutta4   | 4     | Δt < 2.78/|λ|         | no                   | action              |
| RKL2          | 2     | Δt < (s² + s − 2)/2|λ| | no                   | action, s times     |
| BackwardEuler | 1     | always, L             | yes                  | resolvent           |
| CrankNicolson | 2     | always                | no                   | resolvent           |
| TRBDF2        | 2     | always, L             | no                   | resolvent           |
| Exponential   | exact | always                | to the tolerance     | propagator          |
| Strang        | 2     | as `inner`            | as `inner`           | that of every line  |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.integration.frozen import Held
from jaxdiff.operators import AxisSum, Tridiagonal, most_of_batch, parts_needed, propagate

_MOST_STAGES = 512
_BREADTH = 0.24  # RKL2 is stable on ellipses up to (Δt|Im λ|)² = 0.24 Δt|λ|, found numerically for 3 to 127 stages
_STAGES = 16  # of RKL2 that are taken, or skipped, together


class Stepper(eqx.Module):
    """One step `(problem, t, dt, content) -> content`; `problem` has `operator(t)` and `forcing(t)`."""

    def step(self, problem: Any, t: Any, dt: Any, u: Any) -> Any:
        raise NotImplementedError

    @property
    def reach(self) -> float | None:
        """Largest stable Δt·|λ| of an explicit stepper."""
        return None

    def limits(self, operator: Any) -> Any:
        """The largest stable steps of an explicit stepper [time], one for each reason to be unstable."""
        return jnp.asarray(self.reach) / operator.bound()[None]

    def refusals(self, dt: Any, limits: Any) -> list[tuple[str, Any]]:
        """What to say of a step beyond each of the limits, with {where} for the step, and the {value} to put there."""
        name = type(self).__name__
        message = f"{name} is unstable with a step of {{where}}; the largest stable step is {{value}}: raise substeps or use jd.Exponential()"
        return [(message, limit) for limit in limits]

    def parts(self, operator: Any, dt: Any) -> Any:
        """Into how many a step must be cut to be what it claims, at most; traced."""
        return jnp.ones(())

    def longest(self, problem: Any, t: Any) -> Any:
        """The longest step from t that error control may try [time]."""
        return jnp.inf


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


class RKL2(Stepper):
    """The Runge–Kutta–Legendre method of s stages, second order: as many products with A as stages, for a step s²/4 times
    the longest of ForwardEuler.

    Y₁ = u + μ̃₁Δt F(u),  Yⱼ = μⱼYⱼ₋₁ + νⱼYⱼ₋₂ + (1 − μⱼ − νⱼ)u + μ̃ⱼΔt F(Yⱼ₋₁) + γ̃ⱼΔt F(u),  F = A · + b

    With `stages=None` each step takes the fewest that are stable. Refuses Δt > (s² + s − 2)/2|λ|max, and where a drift
    turns, Δt > 0.24 |λ|max/|Im λ|²max, whatever the stages: there `Exponential` or `TRBDF2` serve better.
    Source: Meyer, Balsara & Aslam 2014, doi:10.1016/j.jcp.2013.08.021.

    >>> RKL2(stages=9).reach
    44.0
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
        bound, turn = operator.bound(), operator.turn()
        slow = _BREADTH * bound / jnp.maximum(turn**2, jnp.finfo(turn.dtype).tiny)
        return jnp.stack([self.reach / bound, slow])

    def refusals(self, dt: Any, limits: Any) -> list[tuple[str, Any]]:
        known = super().refusals(dt, limits)
        if self.stages is None:
            return known
        message = f"RKL2 with {self.stages} stages is unstable with a step of {{where}}; it takes {{value}} stages: raise stages, or substeps"
        return [(message, _fewest(self.reach * dt / limits[0])), known[1]]

    def step(self, problem: Any, t: Any, dt: Any, u: Any) -> Any:
        s: Any = self.stages
        if s is None:
            s = jnp.maximum(*(_fewest(1.001 * dt * problem.operator(when).bound()) for when in (t, t + dt)))
        s = jnp.asarray(s, u.dtype)
        w = 4.0 / (s * s + s - 2.0)
        rate = lambda c, v: problem.operator(t + c * w * dt) @ v + problem.forcing(t + c * w * dt)
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


class BackwardEuler(Stepper):
    """(I − ΔtA) u₊ = u + Δt b₊, first order, positive at any step."""

    def step(self, problem: Any, t: Any, dt: Any, u: Any) -> Any:
        return problem.operator(t + dt).resolvent(1.0, -dt)(u + dt * problem.forcing(t + dt))


class CrankNicolson(Stepper):
    """The trapezoidal rule, second order; rings at rough data, where `TRBDF2` or `Exponential` serve better."""

    def step(self, problem: Any, t: Any, dt: Any, u: Any) -> Any:
        half = dt / 2
        (a_start, b_start), (a_end, b_end) = problem.at(t, t + dt)
        return a_end.resolvent(1.0, -half)(u + half * (a_start @ u + b_start + b_end))


_GAMMA = 2.0 - 2.0**0.5
_WEIGHT = (1.0 - _GAMMA) / (2.0 - _GAMMA)


class TRBDF2(Stepper):
    """Trapezoid to t + γΔt, then BDF2, γ = 2 − √2: second order, L-stable. doi:10.1016/0168-9274(95)00115-8"""

    def step(self, problem: Any, t: Any, dt: Any, u: Any) -> Any:
        (a_start, b_start), (a_middle, b_middle), (a_end, b_end) = problem.at(t, t + _GAMMA * dt, t + dt)
        half = _GAMMA * dt / 2
        solve = a_middle.resolvent(1.0, -half)
        v = solve(u + half * (a_start @ u + b_start + b_middle))
        if a_end is not a_middle:  # else the same matrix: γ/2 = (1 − γ)/(2 − γ)
            solve = a_end.resolvent(1.0, -_WEIGHT * dt)
        known = (v / _GAMMA - (1.0 - _GAMMA) ** 2 / _GAMMA * u) / (2.0 - _GAMMA)
        return solve(known + _WEIGHT * dt * b_end)


class Exponential(Stepper):
    """e^{ΔtA} exactly, with forcing constant or linear over the step; for coefficients constant in time.

    With `kernel`, products with A on two and three axes are taken two in one pass over memory by a kernel of this library,
    where hops are as frequent both ways (diffusion on equal cells) and a CUDA device runs them; elsewhere, and for
    derivatives, the compiler's.

    >>> Exponential(kernel=True)
    Exponential(kernel=True)
    """

    kernel: bool = eqx.field(static=True, default=False, kw_only=True)

    def step(self, problem: Any, t: Any, dt: Any, u: Any) -> Any:
        b = problem.forcing(t)
        return propagate(problem.operator(t), dt, u, b, (problem.forcing(t + dt) - b) / dt)

    def parts(self, operator: Any, dt: Any) -> Any:
        return parts_needed(operator, dt)


class Strang(Stepper):
    """Splitting by axes: half a step along x, y, …, a whole one along the last axis, and the halves backwards.

    Second order; every line of cells is advanced by `inner`, with what its walls and sources feed in. Mass, the
    equilibrium of each line and so the Gibbs state stay; with `Exponential`, the default, and `BackwardEuler` no density
    falls below zero. Coefficients that depend on time are taken at the middle of the step. On one axis it is `inner`.
    Its steps are yours to choose: where walls or sources feed small cells, halve them until nothing changes any more.
    Source: Strang 1968, doi:10.1137/0705041.

    >>> Strang(BackwardEuler()).inner
    BackwardEuler()
    """

    inner: Stepper = eqx.field(default_factory=Exponential)

    def __check_init__(self) -> None:
        if not isinstance(self.inner, Stepper) or self.inner.reach is not None or isinstance(self.inner, Strang):
            raise TypeError(
                f"Strang advances lines by jd.Exponential(), BackwardEuler(), CrankNicolson() or TRBDF2(), got {self.inner!r}"
            )

    def step(self, problem: Any, t: Any, dt: Any, u: Any) -> Any:
        middle = t + dt / 2
        operator = problem.operator(middle)
        if isinstance(operator, Tridiagonal):
            held = Held(operator, problem.forcing(middle)) if problem.varies else problem
            return self.inner.step(held, t, dt, u)
        fed, last = problem.forcings(middle), u.ndim - 1
        for k in [*range(last + 1), *reversed(range(last))]:
            u = self._advance(_lines(operator, k), fed[k], k, dt if k == last else dt / 2, u)
        return u

    def _advance(self, lines: Tridiagonal, fed: Any, k: int, dt: Any, u: Any) -> Any:
        shape = jnp.moveaxis(u, k, 0).shape
        flat = lambda x: jnp.moveaxis(jnp.broadcast_to(x, u.shape), k, 0).reshape(shape[0], -1)

        def one(line: Any, b: Any, before: Any) -> Any:
            after = self.inner.step(Held(line, b), 0.0, dt, before)
            return _without_noise(after, before, b)

        after = jax.vmap(one, in_axes=1, out_axes=1)(lines, flat(fed), flat(u))
        return jnp.moveaxis(after.reshape(shape), 0, k)

    def parts(self, operator: Any, dt: Any) -> Any:
        if isinstance(operator, Tridiagonal):
            return self.inner.parts(operator, dt)
        of_line = jax.vmap(lambda line: self.inner.parts(line, dt), in_axes=1)
        return jnp.max(jnp.stack([jnp.max(of_line(_lines(operator, k))) for k in range(len(operator.up))]))


def _lines(operator: AxisSum, k: int) -> Tridiagonal:
    """The operators of all lines along axis k, `(n, lines)`; losses go with the first axis."""
    if not isinstance(operator, AxisSum):
        raise ValueError(
            "Strang splits a motion along the axes, and a tensor also moves across them; leave stepper out"
        )
    shape = operator.weights.shape
    flat = lambda rate: jnp.moveaxis(jnp.broadcast_to(rate, shape), k, 0).reshape(shape[k], -1)
    loss = operator.loss if k == 0 else jnp.zeros_like(operator.loss)
    return Tridiagonal(flat(operator.up[k]), flat(operator.down[k]), flat(loss), operator.rings[k])


def _without_noise(after: Any, before: Any, fed: Any) -> Any:
    """No contents below zero by roundoff where none went in; more than roundoff is the inner stepper's own and stays."""
    peak = jnp.maximum(jnp.max(jnp.abs(before)), jnp.max(jnp.abs(after)))
    small = (after >= -(float(jnp.finfo(after.dtype).eps) ** 0.5) * peak).all()
    return not_below_zero(after, (before >= 0).all() & (fed >= 0).all() & small)


def not_below_zero(v: Any, known: Any, axes: Any = None) -> Any:
    """Contents that are known not to be negative, without errors below zero and with the same sum over `axes`, of which
    those left out hold other states; derivatives are those of v."""
    seen = jax.lax.stop_gradient(v)
    total = lambda contents: jnp.sum(contents, axes, keepdims=True)

    def raised() -> Any:
        above = total(jnp.maximum(seen, 0.0))
        return jnp.zeros((), v.dtype), jnp.maximum(total(seen), 0.0) / jnp.where(above > 0, above, 1.0)

    unchanged = lambda: (jnp.array(-jnp.inf, v.dtype), jnp.ones_like(total(seen)))
    least, factor = jax.lax.cond(known & jnp.any(seen < 0), raised, unchanged)
    return v + (jnp.maximum(seen, least) * factor - seen)


STEPPERS = {
    s.__name__: s for s in (ForwardEuler, RungeKutta4, RKL2, BackwardEuler, CrankNicolson, TRBDF2, Exponential, Strang)
}


def several(step: Callable[[Any, Any], Any], u: Any, count: int) -> Any:
    """u after `count` steps `step(i, u)`."""
    return jax.lax.scan(lambda v, i: (step(i, v), None), u, jnp.arange(count))[0]


def march(step: Callable[[Any, Any], Any], u: Any, count: int) -> Any:
    """The same, by turns between two states.

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
