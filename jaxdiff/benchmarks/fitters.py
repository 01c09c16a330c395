"""The competitors of one fit: jaxdiff, SciPy and diffrax, on the same cells, parameters and start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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

    def __post_init__(self) -> None:
        self.grid = jd.Grid.uniform((0.0, 1.0, self.cells))
        self.times = np.linspace(0.01, 0.6, 50)
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

    def predict(self, theta: Any, tolerance: float | None = None) -> Any:
        """The readings without noise."""
        equation, initial = self.model(*theta)
        times = np.concatenate([[0.0], self.times])
        return self.sensed(jd.solve(equation, self.grid, initial, times, tolerance=tolerance).values[1:])

    def measured(self, count: int) -> np.ndarray:
        """So many data sets, (count, readings), each with its own noise."""
        clean = np.asarray(self.predict(TRUTH))
        return clean + np.random.default_rng(0).normal(0.0, SIGMA, (count, len(clean)))


@dataclass
class Estimate:
    """Parameters, their standard errors (in logarithms), and how many evaluations they took."""

    values: np.ndarray
    errors: np.ndarray
    evaluations: int


def starts() -> dict[str, Any]:
    return {name: jd.Positive(value) for name, value in zip(NAMES, START, strict=True)}


def of_residuals(logs: Any, jacobian: Any, evaluations: int) -> Estimate:
    """The estimate where residuals with unit variance have this Jacobian by the logarithms."""
    return Estimate(np.exp(logs), np.sqrt(np.diag(np.linalg.inv(jacobian.T @ jacobian))), evaluations)


def by_jaxdiff(bump: Bump, dtype: Any = None) -> Callable[[np.ndarray], Estimate]:
    marks = starts()

    def run(data: np.ndarray) -> Estimate:
        fit = jd.fit(bump.model, bump.readings(data), parameters=marks, dtype=dtype, progress=False)
        assert fit.converged, fit.notes
        values, errors = (np.array([table[name] for name in NAMES]) for table in (fit.parameters, fit.standard_errors))
        return Estimate(values, errors / values, len(fit.history))

    return run


def scipy_predict(bump: Bump, tolerance: float) -> Callable[[np.ndarray], np.ndarray]:
    """The readings at the logarithms of the parameters, by one run of LSODA."""
    from scipy.integrate import odeint

    times, options = np.concatenate([[0.0], bump.times]), {"ml": 1, "mu": 1, "rtol": tolerance, "atol": tolerance}

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

        return bump.sensed(odeint(rate, bump.initial(np, theta[3]), times, Dfun=lambda *_: jacobian, **options)[1:])

    return predict


def by_scipy(bump: Bump, tolerance: float) -> Callable[[np.ndarray], Estimate]:
    from scipy.optimize import least_squares

    predict = scipy_predict(bump, tolerance)

    def run(data: np.ndarray) -> Estimate:
        # Differences of 3e-4, not the default 1e-8: LSODA's own error would drown them.
        fit = least_squares(lambda logs: (predict(logs) - data) / SIGMA, np.log(START), method="lm", diff_step=3e-4)
        assert fit.success, fit.message
        return of_residuals(fit.x, fit.jac, fit.nfev)

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

        def loss(logs: Any, data: Any) -> Any:
            return 0.5 * jnp.mean(((predict(logs) - data) / SIGMA) ** 2)

        self.loss = jax.jit(loss)
        self.slope = jax.jit(jax.value_and_grad(loss))
        self.jacobian = jax.jit(jax.jacfwd(lambda logs: predict(logs, forward=True) / SIGMA))

    def lbfgs(self, data: np.ndarray) -> Callable[[np.ndarray], Estimate]:
        """optax.lbfgs with its own line search, until no step changes the loss by 1e-9 of itself; compiled here."""
        import optax

        optimizer = optax.lbfgs()

        @jax.jit
        def step(logs: Any, state: Any, data: Any) -> Any:
            function = lambda x: self.loss(x, data)
            value, gradient = optax.value_and_grad_from_state(function)(logs, state=state)
            updates, state = optimizer.update(gradient, state, logs, value=value, grad=gradient, value_fn=function)
            return optax.apply_updates(logs, updates), state, value

        start = jnp.log(START)
        compiled = step.lower(start, optimizer.init(start), data).compile()
        jacobian = self.jacobian.lower(start).compile()

        def run(data: np.ndarray) -> Estimate:
            logs, state, last, still, count = start, optimizer.init(start), np.inf, 0, 0
            while still < 2 and count < 200:
                logs, state, value = compiled(logs, state, data)
                still = still + 1 if abs(last - float(value)) <= 1e-9 * float(value) else 0
                last, count = float(value), count + 1
            assert still == 2, "lbfgs did not converge in 200 steps"
            return of_residuals(logs, jacobian(logs), count)

        return run


def adam_steps(bump: Bump, data: np.ndarray, optimum: Estimate) -> tuple[float, int | None]:
    """The best of a few learning rates of adam, and its steps until all logarithms are within 0.1 standard errors for good.

    The loss is the same function of the same logarithms; it is evaluated by jaxdiff, which can afford to.
    """
    import optax

    gradient = jax.grad(lambda logs: 0.5 * jnp.mean(((bump.predict(jnp.exp(logs), 1e-9) - data) / SIGMA) ** 2))

    @jax.jit
    def path(rate: Any) -> Any:
        optimizer = optax.adam(rate)

        def step(carry: Any, _: Any) -> Any:
            logs, state = carry
            updates, state = optimizer.update(gradient(logs), state)
            logs = optax.apply_updates(logs, updates)
            return (logs, state), logs

        logs = jnp.log(START)
        return jax.lax.scan(step, (logs, optimizer.init(logs)), None, length=MOST)[1]

    found = []
    for rate in (0.03, 0.1, 0.2):
        far = (np.abs(np.asarray(path(rate)) - np.log(optimum.values)) > 0.1 * optimum.errors).any(axis=1)
        found.append((int(np.flatnonzero(far)[-1]) + 2 if far.any() else 1, rate))
    steps, rate = min(found)
    return rate, steps if steps <= MOST else None
