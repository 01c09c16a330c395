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

from abc import abstractmethod
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxdiff.integration.frozen import Constant
from jaxdiff.operators import AxisSum, Tridiagonal, parts_needed, propagate


class Stepper(eqx.Module):
    """One step of dN/dt = A(t) N + b(t): the base of all steppers, and of one of your own, which needs `step` alone.

    | name                    | what                                                                   | default           |
    |-------------------------|------------------------------------------------------------------------|-------------------|
    | `step(system, t, dt, u)`| the contents at t + dt from those at t, `(*cells,)`; traceable             |                   |
    | `reach`                 | of an explicit stepper the largest stable Δt·|λ|, beyond which it is refused | None, implicit    |
    | `exact`                 | whether steps of any length are exact where coefficients are constant   | False             |
    | `limits`, `refusals`    | other limits of stability, and what to say of them                     | `reach` over |λ|max |
    | `iterates`              | whether it asks for resolvents on several axes, found by iterations     | implicit and not exact |
    | `parts(operator, dt)`   | into how many a step must be cut to be what it claims                  | 1                 |

    The system has `at(t, u)`, which is (A, b), formed no more often than they change. A has its action `A @ u`, the
    resolvent `A.resolvent(a, b)`, u ↦ (a I + b A)⁻¹ u, and `A.bound()`, |λ|max. Fields are parameters of the stepper.

    Heun's method, of second order:

    >>> from jaxdiff import Stepper
    >>> from jaxdiff import Diffusion, Grid, solve
    >>> class Heun(Stepper):
    ...     reach = 2.0
    ...     def step(self, system, t, dt, u):
    ...         (A, b), (A_end, b_end) = system.at(t, u), system.at(t + dt, u)
    ...         start = A @ u + b
    ...         return u + dt / 2 * (start + A_end @ (u + dt * start) + b_end)
    >>> u = solve(Diffusion(0.1), Grid.uniform((0.0, 1.0, 4)), [1.0, 0.0, 0.0, 0.0], [0.0, 0.1], stepper=Heun()).values[-1]
    >>> [round(float(value), 4) for value in u]
    [0.8656, 0.1216, 0.0128, 0.0]

    Raises:
        ValueError: when solving, by a step beyond `reach`.
    """

    exact: ClassVar[bool] = False

    @abstractmethod
    def step(self, system: Any, t: Any, dt: Any, u: Any) -> Any:
        """Contents at t + dt, `(*cells,)`, from those at t."""

    @property
    def reach(self) -> float | None:
        """Largest stable Δt·|λ| of an explicit stepper."""
        return None

    @property
    def iterates(self) -> bool:
        """Whether it asks for resolvents on several axes, which are found by iterations."""
        return self.reach is None and not self.exact

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


class ErrorControlled(Stepper):
    """A stepper that estimates its error, for steps of a length that the error allows."""

    order: ClassVar[int]  # of the error of a step
    description: ClassVar[str]
    block: ClassVar[int] = 8  # steps between checkpoints

    @abstractmethod
    def step_with_error(self, system: Any, t: Any, dt: Any, u: Any) -> tuple[Any, Any, Any]:
        """The step, its error as far as it adds up over steps, and as far as it fades."""

    def longest(self, system: Any, t: Any) -> Any:
        """The longest step from t that may be tried [time]."""
        return jnp.inf


class ForwardEuler(Stepper):
    """Euler's explicit method, of first order.

        u₊ = u + Δt (A u + b)

    Positive where Δt times the rate out of a cell is at most one.

    Raises:
        ValueError: when solving, by Δt > 2/|λ|max.

    >>> import jaxdiff as jd
    >>> jd.ForwardEuler().reach
    2.0

    Hundsdorfer & Verwer 2003, Numerical Solution of Time-Dependent Advection-Diffusion-Reaction Equations, I.1,
    doi:10.1007/978-3-662-09017-6.
    """

    reach = 2.0

    def step(self, system: Any, t: Any, dt: Any, u: Any) -> Any:
        A, b = system.at(t, u)
        return u + dt * (A @ u + b)


class RungeKutta4(Stepper):
    """The classical Runge–Kutta method, of fourth order.

        u₊ = u + Δt/6 (k₁ + 2k₂ + 2k₃ + k₄),   kᵢ = A u + b at t, twice at t + Δt/2 and at t + Δt, ahead by k₁, k₂ and k₃

    Raises:
        ValueError: when solving, by Δt > 2.785/|λ|max.

    >>> import jaxdiff as jd
    >>> round(jd.RungeKutta4().reach, 3)
    2.785

    Kutta 1901, Zeitschrift für Mathematik und Physik 46, 435; Hairer, Nørsett & Wanner 1993, II.1,
    doi:10.1007/978-3-540-78862-1.
    """

    reach = 2.785293563405282

    def step(self, system: Any, t: Any, dt: Any, u: Any) -> Any:
        # A loop over the stages: written out, XLA fuses them and computes the first once for every cell the others reach.
        def stage(carry: Any, row: Any) -> Any:
            v, total = carry
            s, ahead, share = row
            A, b = system.at(t + s * dt, v)
            k = (A @ v + b).astype(u.dtype)
            return (u + ahead * dt * k, total + share * dt * k), None

        rows = jnp.array([[0.0, 0.5, 1 / 6], [0.5, 0.5, 1 / 3], [0.5, 1.0, 1 / 3], [1.0, 0.0, 1 / 6]], u.dtype)
        return jax.lax.scan(stage, (u, u), rows)[0][1]


class BackwardEuler(Stepper):
    """Euler's implicit method, of first order, L-stable; no contents fall below zero at any step.

        (I − Δt A₊) u₊ = u + Δt b₊

    >>> import jaxdiff as jd
    >>> grid = jd.Grid.uniform((0.0, 1.0, 4))
    >>> u = jd.solve(jd.Diffusion(1.0), grid, grid.delta(0.1), [0.0, 1.0], stepper=jd.BackwardEuler()).values[-1]
    >>> round(float(grid.integrate(u)), 6), bool(u.min() > 0)
    (1.0, True)

    Hundsdorfer & Verwer 2003, Numerical Solution of Time-Dependent Advection-Diffusion-Reaction Equations, I.1,
    doi:10.1007/978-3-662-09017-6.
    """

    def step(self, system: Any, t: Any, dt: Any, u: Any) -> Any:
        A, b = system.at(t + dt, u)
        return A.resolvent(1.0, -dt)(u + dt * b)


class CrankNicolson(Stepper):
    """The trapezoidal rule, of second order; it oscillates at rough data, where `TRBDF2` or `Exponential` serve better.

        (I − Δt/2 A₊) u₊ = (I + Δt/2 A) u + Δt/2 (b + b₊)

    >>> import jax.numpy as jnp, jaxdiff as jd
    >>> grid, mode = jd.Grid.uniform((0.0, 1.0, 50)), lambda x: jnp.cos(jnp.pi * x)
    >>> ten = dict(stepper=jd.CrankNicolson(), substeps=10)
    >>> u = jd.solve(jd.Diffusion(1.0), grid, mode, [0.0, 0.1], **ten).values
    >>> round(float(u[1, 0] / u[0, 0]), 3)  # exp(−0.1 π²) = 0.373
    0.373

    Crank & Nicolson 1947, doi:10.1017/S0305004100023197.
    """

    def step(self, system: Any, t: Any, dt: Any, u: Any) -> Any:
        half = dt / 2
        (A, b), (A_end, b_end) = system.at_each(t, t + dt)
        return A_end.resolvent(1.0, -half)(u + half * (A @ u + b + b_end))


_GAMMA = 2.0 - 2.0**0.5
_WEIGHT = (1.0 - _GAMMA) / (2.0 - _GAMMA)


class TRBDF2(Stepper):
    """The trapezoidal rule to t + γΔt, then the second backward differentiation formula; second order, L-stable.

        (I − γΔt/2 A_γ) v = u + γΔt/2 (A u + b + b_γ),   γ = 2 − √2
        (I − wΔt A₊) u₊ = (v/γ − (1 − γ)²/γ u)/(2 − γ) + wΔt b₊,   w = (1 − γ)/(2 − γ) = γ/2

    Where coefficients are constant one matrix serves both stages.

    >>> import jax.numpy as jnp, jaxdiff as jd
    >>> grid, mode = jd.Grid.uniform((0.0, 1.0, 50)), lambda x: jnp.cos(jnp.pi * x)
    >>> u = jd.solve(jd.Diffusion(1.0), grid, mode, [0.0, 0.1], stepper=jd.TRBDF2(), substeps=10).values
    >>> round(float(u[1, 0] / u[0, 0]), 3)  # exp(−0.1 π²) = 0.373
    0.373

    Bank et al. 1985, doi:10.1109/TCAD.1985.1270142; this γ: Hosea & Shampine 1996, doi:10.1016/0168-9274(95)00115-8.
    """

    def step(self, system: Any, t: Any, dt: Any, u: Any) -> Any:
        (A, b), (A_middle, b_middle), (A_end, b_end) = system.at_each(t, t + _GAMMA * dt, t + dt)
        half = _GAMMA * dt / 2
        solve = A_middle.resolvent(1.0, -half)
        v = solve(u + half * (A @ u + b + b_middle))
        if A_end is not A_middle:  # else the same matrix
            solve = A_end.resolvent(1.0, -_WEIGHT * dt)
        known = (v / _GAMMA - (1.0 - _GAMMA) ** 2 / _GAMMA * u) / (2.0 - _GAMMA)
        return solve(known + _WEIGHT * dt * b_end)


class Exponential(Stepper):
    """The exact step of coefficients that are constant in time, of any length, with forcing linear over it.

        u₊ = e^{ΔtA} u + Δt φ₁(ΔtA) b + Δt φ₂(ΔtA) (b₊ − b),   φ₁(z) = (eᶻ − 1)/z,   φ₂(z) = (eᶻ − 1 − z)/z²

    Args:
        kernel: on two and three axes take two products with A in one pass over memory, by a kernel of this library, where
            jumps are as frequent both ways (diffusion on equal cells) and a CUDA device runs them; elsewhere, and for
            derivatives, the compiler's.

    >>> import jax.numpy as jnp, jaxdiff as jd
    >>> grid, mode = jd.Grid.uniform((0.0, 1.0, 50)), lambda x: jnp.cos(jnp.pi * x)
    >>> u = jd.solve(jd.Diffusion(1.0), grid, mode, [0.0, 0.1], stepper=jd.Exponential()).values
    >>> round(float(u[1, 0] / u[0, 0]), 3)  # exp(−0.1 π²) = 0.373
    0.373

    By rational approximation on one axis: Trefethen, Weideman & Schmelzer 2006, doi:10.1007/s10543-006-0077-9; by Chebyshev
    series on several: Tal-Ezer & Kosloff 1984, doi:10.1063/1.448136.
    """

    kernel: bool = eqx.field(static=True, default=False, kw_only=True)
    exact = True

    def step(self, system: Any, t: Any, dt: Any, u: Any) -> Any:
        (A, b), (_, b_end) = system.at(t, u), system.at(t + dt, u)
        return propagate(A, dt, u, b, (b_end - b) / dt)

    def parts(self, operator: Any, dt: Any) -> Any:
        return parts_needed(operator, dt)


class Strang(Stepper):
    """Splitting by axes: half a step along x, y, …, a whole one along the last axis, and the halves backwards.

        u₊ = e^{ΔtAx/2} e^{ΔtAy} e^{ΔtAx/2} u + O(Δt³),   A = Ax + Ay

    Args:
        inner: the stepper of a line of cells: `Exponential()` unless given, `BackwardEuler()`, `CrankNicolson()` or `TRBDF2()`.

    Every line is advanced with what enters through its walls and from sources. Mass, the equilibrium of each line and so the
    Gibbs state stay; with `Exponential` and `BackwardEuler` no density falls below zero. Coefficients that depend on time are
    taken at the middle of the step. On one axis it is `inner`. Its steps are yours to choose: where walls or sources act on
    small cells, halve them until nothing changes any more.

    Raises:
        TypeError: an explicit `inner`, or one that is no stepper.

    >>> import jaxdiff as jd
    >>> jd.Strang(jd.BackwardEuler()).inner
    BackwardEuler()

    Strang 1968, doi:10.1137/0705041.
    """

    inner: Stepper = eqx.field(default_factory=Exponential)

    iterates = False  # resolvents are those of lines

    def __check_init__(self) -> None:
        if not isinstance(self.inner, Stepper) or self.inner.reach is not None or isinstance(self.inner, Strang):
            raise TypeError(
                f"Strang advances lines by jd.Exponential(), BackwardEuler(), CrankNicolson() or TRBDF2(), got {self.inner!r}"
            )

    def step(self, system: Any, t: Any, dt: Any, u: Any) -> Any:
        middle = t + dt / 2
        operator = system.operator(middle)
        if u.ndim == 1:
            frozen = Constant(operator, system.forcing(middle)) if system.varies else system
            return self.inner.step(frozen, t, dt, u)
        forcings, last = system.forcings(middle), u.ndim - 1
        for k in [*range(last + 1), *reversed(range(last))]:
            u = self._advance(_lines(operator, k), forcings[k], k, dt if k == last else dt / 2, u)
        return u

    def _advance(self, lines: Tridiagonal, forcing: Any, k: int, dt: Any, u: Any) -> Any:
        """u with every line along axis k advanced by `inner`."""
        shape = jnp.moveaxis(u, k, 0).shape
        flat = lambda x: jnp.moveaxis(jnp.broadcast_to(x, u.shape), k, 0).reshape(shape[0], -1)
        after = _advanced(self.inner, lines, flat(forcing), dt, flat(u))
        return jnp.moveaxis(after.reshape(shape), 0, k)

    def parts(self, operator: Any, dt: Any) -> Any:
        if operator.leak.ndim == 1:
            return self.inner.parts(operator, dt)
        of_line = jax.vmap(lambda line: self.inner.parts(line, dt), in_axes=1)
        return jnp.max(jnp.stack([jnp.max(of_line(_lines(operator, k))) for k in range(operator.leak.ndim)]))


@eqx.filter_jit  # traced once for the two halves of a step
def _advanced(inner: Stepper, lines: Tridiagonal, forcing: Any, dt: Any, u: Any) -> Any:
    """Every line `(n, lines)` after a step of the inner stepper."""

    def one(line: Any, b: Any, before: Any) -> Any:
        after = inner.step(Constant(line, b), 0.0, dt, before)
        # Below zero by roundoff where nothing was: that is mended. More than roundoff is the inner stepper's own, and stays.
        peak = jnp.maximum(jnp.max(jnp.abs(before)), jnp.max(jnp.abs(after)))
        small = (after >= -(float(jnp.finfo(after.dtype).eps) ** 0.5) * peak).all()
        return not_below_zero(after, (before >= 0).all() & (b >= 0).all() & small)

    return jax.vmap(one, in_axes=1, out_axes=1)(lines, forcing, u)


def _lines(operator: AxisSum, k: int) -> Tridiagonal:
    """The operators of all lines along axis k, `(n, lines)`; losses go with the first axis."""
    if not isinstance(operator, AxisSum):
        raise ValueError(
            "Strang splits a motion along the axes, which a tensor or an exchange with other phases is not; leave stepper out"
        )
    shape = operator.weights.shape
    flat = lambda rate: jnp.moveaxis(jnp.broadcast_to(rate, shape), k, 0).reshape(shape[k], -1)
    loss = operator.loss if k == 0 else jnp.zeros_like(operator.loss)
    return Tridiagonal(flat(operator.up[k]), flat(operator.down[k]), flat(loss), operator.periodic[k])


def not_below_zero(v: Any, known: Any, axes: Any = None) -> Any:
    """Contents that are known not to be negative, without errors below zero and with the same sum over `axes`, of which
    those left out hold other states; derivatives are those of v."""
    value = jax.lax.stop_gradient(v)
    total = lambda contents: jnp.sum(contents, axes, keepdims=True)

    def raised() -> Any:
        above = total(jnp.maximum(value, 0.0))
        return jnp.zeros((), v.dtype), jnp.maximum(total(value), 0.0) / jnp.where(above > 0, above, 1.0)

    unchanged = lambda: (jnp.array(-jnp.inf, v.dtype), jnp.ones_like(total(value)))
    least, factor = jax.lax.cond(known & jnp.any(value < 0), raised, unchanged)
    return v + (jnp.maximum(value, least) * factor - value)


CLASSIC = (ForwardEuler, RungeKutta4, BackwardEuler, CrankNicolson, TRBDF2, Exponential, Strang)
