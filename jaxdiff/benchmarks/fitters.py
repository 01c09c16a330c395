"""The competitors of one fit: jaxdiff, SciPy and diffrax, on the same cells, parameters and start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd

NAMES = ("D", "decay", "rate", "width")
TRUTH, START = np.array([0.1, 0.5, 0.3, 0.08]), np.array([0.2, 0.2, 0.6, 0.05])
SIGMA = 0.01
SENSORS = np.array([0.1, 0.25, 0.4, 0.6, 0.8, 0.95])
MOST = 500  # steps of adam


@dataclass(eq=False)
class Bump:
    """The model on `cells`, as everyone discretises it."""

    cells: int
    times: np.ndarray
    grid: Any = field(init=False)

    def __post_init__(self) -> None:
        self.grid = jd.Grid.uniform((0.0, 1.0, self.cells))
        x = self.grid.centers[0]
        self.left = np.searchsorted(x, SENSORS) - 1
        self.share = (SENSORS - x[self.left]) * self.cells
        self.rows = np.repeat(self.times, len(SENSORS)), np.tile(SENSORS, len(self.times))

    def model(self, D: Any, decay: Any, rate: Any, width: Any) -> Any:
        equation = jd.Diffusion(D, decay=decay, boundaries={"x+": jd.Robin(rate)})
        return equation, self.initial(jnp, width)

    def initial(self, np_: Any, width: Any) -> Any:
        return np_.exp(-0.5 * ((self.grid.centers[0] - 0.6) / width) ** 2)

    def rates(self, theta: Any) -> tuple[Any, Any, Any]:
        """Between cells, through the wall, and by decay [1/time]."""
        d, decay, rate, _ = theta
        conductance = 2.0 * d * self.cells
        return d * self.cells**2, rate * conductance / (rate + conductance) * self.cells, decay

    def readings(self, values: np.ndarray) -> Any:
        return jd.Readings(self.grid, None, *self.rows, values, sigma=SIGMA)

    def sensed(self, u: Any) -> Any:
        return ((1 - self.share) * u[:, self.left] + self.share * u[:, self.left + 1]).ravel()


@dataclass
class Found:
    """An estimate, its standard errors (in logarithms), and how many evaluations it took."""

    estimate: np.ndarray
    errors: np.ndarray
    evaluations: int


def by_jaxdiff(bump: Bump, dtype: Any = None) -> Callable[[np.ndarray], Found]:
    starts = {name: jd.Positive(value) for name, value in zip(NAMES, START, strict=True)}

    def run(values: np.ndarray) -> Found:
        fit = jd.fit(bump.model, bump.readings(values), parameters=starts, dtype=dtype, progress=False)
        assert fit.converged, fit.notes
        estimate, errors = (
            np.array([table[name] for name in NAMES]) for table in (fit.parameters, fit.standard_errors)
        )
        return Found(estimate, errors / estimate, len(fit.history))

    return run


def scipy_predict(bump: Bump, tolerance: float) -> Callable[[np.ndarray], np.ndarray]:
    """The readings at the logarithms of the parameters, by one run of LSODA."""
    from scipy.integrate import odeint

    times = np.concatenate([[0.0], bump.times])

    def predict(logs: np.ndarray) -> np.ndarray:
        theta = np.exp(logs)
        g, wall, decay = bump.rates(theta)
        outward = np.full(bump.cells + 1, g)
        outward[0], outward[-1] = 0.0, wall
        jacobian = np.full((3, bump.cells), g)
        jacobian[1] = -outward[1:] - outward[:-1] - decay

        def rate(u: np.ndarray, _: float) -> np.ndarray:
            flux = np.zeros(len(u) + 1)
            flux[1:-1] = g * (u[1:] - u[:-1])
            flux[-1] = -wall * u[-1]
            return flux[1:] - flux[:-1] - decay * u

        u = odeint(
            rate,
            bump.initial(np, theta[3]),
            times,
            Dfun=lambda *_: jacobian,
            ml=1,
            mu=1,
            rtol=tolerance,
            atol=tolerance,
        )
        return bump.sensed(u[1:])

    return predict


def by_scipy(bump: Bump, tolerance: float) -> Callable[[np.ndarray], Found]:
    from scipy.optimize import least_squares

    predict = scipy_predict(bump, tolerance)

    def run(values: np.ndarray) -> Found:
        # Differences of 3e-4, not the default 1e-8: LSODA's own error would drown them.
        fit = least_squares(lambda logs: (predict(logs) - values) / SIGMA, np.log(START), method="lm", diff_step=3e-4)
        assert fit.success, fit.message
        return Found(np.exp(fit.x), np.sqrt(np.diag(np.linalg.inv(fit.jac.T @ fit.jac))), fit.nfev)

    return run


class Diffrax:
    """The same model in diffrax, explicit (its implicit solvers factorise dense matrices and take longer here)."""

    def __init__(self, bump: Bump):
        import diffrax

        def rate(_: Any, u: Any, theta: Any) -> Any:
            g, wall, decay = bump.rates(theta)
            flux = jnp.concatenate([jnp.zeros(1), g * jnp.diff(u), -wall * u[-1:]])
            return jnp.diff(flux) - decay * u

        def predict(logs: Any, forward: bool = False) -> Any:
            theta = jnp.exp(logs)
            adjoint = {"adjoint": diffrax.ForwardMode()} if forward else {}
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(rate),
                diffrax.Tsit5(),
                0.0,
                bump.times[-1],
                None,
                bump.initial(jnp, theta[3]),
                theta,
                saveat=diffrax.SaveAt(ts=jnp.asarray(bump.times)),
                stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-8),
                max_steps=2**16,
                **adjoint,
            )
            return bump.sensed(solution.ys)

        def loss(logs: Any, values: Any) -> Any:
            return 0.5 * jnp.mean(((predict(logs) - values) / SIGMA) ** 2)

        self.loss = jax.jit(loss)
        self.slope = jax.jit(jax.value_and_grad(loss))
        self.jacobian = jax.jit(jax.jacfwd(lambda logs: predict(logs, forward=True) / SIGMA))

    def lbfgs(self, values: np.ndarray) -> Callable[[np.ndarray], Found]:
        """optax.lbfgs with its own line search, until no step changes the loss by 1e-9 of itself; compiled here."""
        import optax

        optimizer = optax.lbfgs()

        @jax.jit
        def step(logs: Any, state: Any, values: Any) -> Any:
            function = lambda x: self.loss(x, values)
            value, gradient = optax.value_and_grad_from_state(function)(logs, state=state)
            updates, state = optimizer.update(gradient, state, logs, value=value, grad=gradient, value_fn=function)
            return optax.apply_updates(logs, updates), state, value

        start = jnp.log(START)
        compiled = step.lower(start, optimizer.init(start), values).compile()
        jacobian = self.jacobian.lower(start).compile()

        def run(values: np.ndarray) -> Found:
            logs, state, last, still, count = start, optimizer.init(start), np.inf, 0, 0
            while still < 2 and count < 200:
                logs, state, value = compiled(logs, state, values)
                still = still + 1 if abs(last - float(value)) <= 1e-9 * float(value) else 0
                last, count = float(value), count + 1
            assert still == 2, "lbfgs did not converge in 200 steps"
            slopes = jacobian(logs)
            return Found(np.exp(logs), np.sqrt(np.diag(np.linalg.inv(slopes.T @ slopes))), count)

        return run


def adam_steps(bump: Bump, values: np.ndarray, optimum: np.ndarray, errors: np.ndarray) -> tuple[float, int | None]:
    """The best of a few learning rates of adam, and its steps until all logarithms are within 0.1 standard errors for good.

    The loss is the same function of the same logarithms; it is evaluated by jaxdiff, which can afford to.
    """
    import optax

    sensed = bump.times

    def loss(logs: Any) -> Any:
        equation, initial = bump.model(*jnp.exp(logs))
        u = jd.solve(equation, bump.grid, initial, np.concatenate([[0.0], sensed]), tolerance=1e-9).values[1:]
        return 0.5 * jnp.mean(((bump.sensed(u) - values) / SIGMA) ** 2)

    @jax.jit
    def path(speed: Any) -> Any:
        optimizer = optax.adam(speed)

        def step(carry: Any, _: Any) -> Any:
            logs, state = carry
            updates, state = optimizer.update(jax.grad(loss)(logs), state)
            logs = optax.apply_updates(logs, updates)
            return (logs, state), logs

        logs = jnp.log(START)
        return jax.lax.scan(step, (logs, optimizer.init(logs)), None, length=MOST)[1]

    found = []
    for speed in (0.03, 0.1, 0.2):
        far = (np.abs(np.asarray(path(speed)) - np.log(optimum)) > 0.1 * errors).any(axis=1)
        found.append((int(np.flatnonzero(far)[-1]) + 2 if far.any() else 1, speed))
    steps, speed = min(found)
    return speed, steps if steps <= MOST else None
