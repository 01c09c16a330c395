"""The competitors of one solve, each from its own documentation; all get the same matrix, none is imported before it is asked for.

A solver is a `Peer`: `make(problem)` does what needs doing once (compile, build a matrix) and returns
`solve(tolerance) → u(T)`, and `grad(tolerance) → ∂loss/∂D` or None.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxdiff.benchmarks.conduction import Conduction, T, faces

Solver = Callable[[float | None], Any]


@dataclass(frozen=True)
class Peer:
    """A competitor.

    needs: the package; tolerances: tried in turn, None where there is nothing to choose; power: its time grows like
    cells^power, from which it is foreseen whether a run is affordable; slow: compiles for long, so that a smoke run leaves it out
    """

    name: str
    needs: str
    make: Callable[[Conduction], tuple[Solver, Solver | None]]
    tolerances: tuple[float | None, ...]
    power: float
    geometric: bool = False
    slow: bool = False
    note: str = ""

    @property
    def missing(self) -> str | None:
        """Why it cannot run here."""
        return None if importlib.util.find_spec(self.needs) else f"{self.needs} is not installed"


def jaxdiff_plain(problem: Conduction) -> tuple[Solver, Solver | None]:
    import jaxdiff as jd

    grid = jd.Grid.uniform((0.0, 1.0, problem.cells))
    d, u = problem.diffusivity, problem.initial

    def solve(tolerance: float | None) -> Any:
        solution = jd.solve(jd.Diffusion(d), grid, u, [0.0, T], tolerance=tolerance)
        return np.asarray(solution.values)[-1]  # indexing a JAX array is a call of its own

    return solve, None


def jaxdiff_compiled(problem: Conduction) -> tuple[Solver, Solver | None]:
    import jax

    import jaxdiff as jd

    grid = jd.Grid.uniform((0.0, 1.0, problem.cells))
    d, u = jax.device_put((problem.diffusivity, problem.initial))

    def final(d: Any, u: Any, tolerance: float | None) -> Any:
        return jd.solve(jd.Diffusion(d), grid, u, [0.0, T], tolerance=tolerance).values[-1]

    def loss(d: Any, u: Any, tolerance: float | None) -> Any:
        return 0.5 * grid.integrate(final(d, u, tolerance) ** 2)

    solve, slope = jax.jit(final, static_argnums=2), jax.jit(jax.value_and_grad(loss), static_argnums=2)
    return lambda tolerance: solve(d, u, tolerance), lambda tolerance: slope(d, u, tolerance)[1]


def lsoda(problem: Conduction) -> tuple[Solver, Solver | None]:
    from scipy.integrate import odeint

    g, bands, u = problem.rates, problem.bands, problem.initial
    # Rows of the Jacobian as odeint wants them: upper, main, lower diagonal.
    jacobian = np.stack([np.pad(bands[2][:-1], (1, 0)), bands[1], np.pad(bands[0][1:], (0, 1))])

    def rate(u: np.ndarray, _: float) -> np.ndarray:
        flux = np.zeros(len(u) + 1)
        flux[1:-1] = g * (u[1:] - u[:-1])
        return flux[1:] - flux[:-1]

    def solve(tolerance: float | None) -> np.ndarray:
        return odeint(
            rate, u, [0.0, T], Dfun=lambda *_: jacobian, ml=1, mu=1, rtol=tolerance, atol=tolerance, mxstep=100_000
        )[-1]

    return solve, None


def implicit(method: str) -> Callable[[Conduction], tuple[Solver, Solver | None]]:
    def make(problem: Conduction) -> tuple[Solver, Solver | None]:
        from scipy.integrate import solve_ivp
        from scipy.sparse import diags

        _, main, lower = problem.bands
        matrix = diags([problem.rates, main, lower[:-1]], [1, 0, -1], format="csc")

        def solve(tolerance: float | None) -> np.ndarray:
            options = {"method": method, "jac": matrix, "rtol": tolerance, "atol": tolerance, "t_eval": [T]}
            return solve_ivp(lambda _, u: matrix @ u, (0.0, T), problem.initial, **options).y[:, -1]

        return solve, None

    return make


def eigh(problem: Conduction) -> tuple[Solver, Solver | None]:
    from scipy.linalg import eigh_tridiagonal

    def solve(_: float | None) -> np.ndarray:
        values, vectors = eigh_tridiagonal(problem.bands[1], problem.rates)
        return vectors @ (np.exp(values * T) * (vectors.T @ problem.initial))

    return solve, None


def diffrax_solver(name: str) -> Callable[[Conduction], tuple[Solver, Solver | None]]:
    def make(problem: Conduction) -> tuple[Solver, Solver | None]:
        import diffrax
        import jax
        import jax.numpy as jnp

        def rate(_: Any, u: Any, g: Any) -> Any:
            return jnp.diff(jnp.pad(g * jnp.diff(u), 1))

        # Steps of an explicit method are bound by stability, T‖A‖/3 or so; without a tolerance they are equal.
        most = int(T * 4 * problem.rates.max()) + 4096 if name == "Tsit5" else 4096

        steps = int(np.ceil(T * 4 * problem.rates.max() / 2.8))

        def final(d: Any, u: Any, tolerance: Any) -> Any:
            g = faces(d) * problem.cells**2
            adaptive = tolerance is not None
            controller = (
                diffrax.PIDController(rtol=tolerance, atol=tolerance) if adaptive else diffrax.ConstantStepSize()
            )
            options = {"stepsize_controller": controller, "max_steps": most if adaptive else steps + 1}
            step = None if adaptive else T / steps
            return diffrax.diffeqsolve(
                diffrax.ODETerm(rate), getattr(diffrax, name)(), 0.0, T, step, u, g, **options
            ).ys[-1]

        def loss(d: Any, u: Any, tolerance: Any) -> Any:
            return 0.5 * jnp.sum(final(d, u, tolerance) ** 2) / problem.cells

        d, u = jax.device_put((problem.diffusivity, problem.initial))
        solve, slope = jax.jit(final), jax.jit(jax.value_and_grad(loss))
        return lambda tolerance: solve(d, u, tolerance), lambda tolerance: slope(d, u, tolerance)[1]

    return make


def py_pde(name: str, **options: Any) -> Callable[[Conduction], tuple[Solver, Solver | None]]:
    def make(problem: Conduction) -> tuple[Solver, Solver | None]:
        import pde

        rates = problem.rates

        class Spread(pde.PDEBase):
            """A class of its own: as an expression, py-pde would discretise D∇²c + ∇D·∇c, which does not conserve c."""

            def evolution_rate(self, state: Any, t: float = 0) -> Any:
                flux = np.pad(rates * np.diff(state.data), 1)
                return pde.ScalarField(state.grid, np.diff(flux))

            def make_evolution_rate(self, state: Any, backend: Any) -> Any:
                def rhs(u: Any, t: float = 0) -> Any:
                    out = np.zeros_like(u)
                    for i in range(len(rates)):
                        flux = rates[i] * (u[i + 1] - u[i])
                        out[i] += flux
                        out[i + 1] -= flux
                    return out

                return rhs

        grid = pde.CartesianGrid([(0.0, 1.0)], problem.cells, periodic=False)
        state = pde.ScalarField(grid, problem.initial)
        compiled: dict[float | None, Any] = {}

        def solve(tolerance: float | None) -> np.ndarray:
            if tolerance not in compiled:
                kind = getattr(pde.solvers, name)
                limits = (
                    {"rtol": tolerance, "atol": tolerance}
                    if name == "ScipySolver"
                    else {"adaptive": True, "tolerance": tolerance}
                )
                compiled[tolerance] = kind(Spread(), backend="numba", **limits, **options).make_stepper(
                    state, dt=0.1 / rates.max()
                )
            u = state.copy()
            compiled[tolerance](u, 0.0, T)
            return u.data

        return solve, None

    return make


def fplanck(problem: Conduction) -> tuple[Solver, Solver | None]:
    """fplanck hops with rates D(x)/h² out of a cell, which is ∇²(Dp); the potential −kT ln D turns it into ∇·(D∇p)."""
    for name, now in (("product", np.prod), ("in1d", np.isin)):  # NumPy 2 dropped the names that fplanck 0.2 calls
        if not hasattr(np, name):
            setattr(np, name, now)
    from fplanck import boundary, fokker_planck
    from scipy import constants

    n = problem.cells
    diffusivity = lambda x: 0.1 * (1.0 + 0.5 * np.sin(2 * np.pi * (x + 0.5)))  # its grid is centred at 0
    model = fokker_planck(
        temperature=1 / constants.k,
        drag=lambda x: 1.0 / diffusivity(x),
        extent=1.0,
        resolution=1.0 / n,
        potential=lambda x: -np.log(diffusivity(x)),
        boundary=boundary.reflecting,
    )

    def solve(_: float | None) -> np.ndarray:
        return model.propagate(lambda x: problem.initial, T, normalize=False)

    return solve, None


STEPS = (1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
OURS = (
    Peer("jaxdiff", "jaxdiff", jaxdiff_compiled, (None,), 1.0, note="inside a user's jit"),
    Peer("jaxdiff, tolerance=1e-7", "jaxdiff", jaxdiff_compiled, (1e-7,), 1.0, note="the same with fewer poles"),
    Peer("jaxdiff, plain call", "jaxdiff", jaxdiff_plain, (None,), 1.0, note="jd.solve as it stands"),
)
PEERS = (
    Peer("SciPy LSODA", "scipy", lsoda, STEPS, 1.1, note="odeint, banded Jacobian"),
    Peer("SciPy BDF", "scipy", implicit("BDF"), STEPS[:-1], 1.1, note="solve_ivp, sparse Jacobian"),
    Peer("SciPy Radau", "scipy", implicit("Radau"), STEPS[:-1], 1.1, note="solve_ivp, sparse Jacobian"),
    Peer("SciPy eigh_tridiagonal", "scipy", eigh, (None,), 2.5),
    Peer(
        "diffrax Kvaerno5",
        "diffrax",
        diffrax_solver("Kvaerno5"),
        (1e-7, 1e-8),
        2.8,
        slow=True,
        note="its Jacobian is dense",
    ),
    Peer(
        "diffrax Tsit5",
        "diffrax",
        diffrax_solver("Tsit5"),
        (None, 1e-8),
        2.5,
        note="explicit; equal steps, and adaptive",
    ),
    Peer(
        "py-pde LSODA",
        "pde",
        py_pde("ScipySolver", method="LSODA", lband=1, uband=1),
        STEPS[1:-1],
        1.1,
        note="its SciPy solver, banded",
    ),
    Peer("py-pde Runge–Kutta", "pde", py_pde("RungeKuttaSolver"), (3e-8,), 3.0, slow=True, note="explicit, adaptive"),
    Peer(
        "fplanck",
        "fplanck",
        fplanck,
        (None,),
        3.0,
        geometric=True,
        note="expm_multiply; D at faces by geometric mean, so held against its own matrix",
    ),
)
