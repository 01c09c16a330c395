"""The competitors of one solve, each from its own documentation; all get the same matrix, none is imported before it is asked for.

`solver(problem, …)` does what needs doing once (build a matrix, make a stepper) and returns the call to time: u(end), or
with `gradient` ∂loss/∂D. A function is compiled in its first call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks import loops
from jaxdiff.benchmarks.conduction import Line, Plane


@dataclass(frozen=True)
class Contestant:
    """A competitor: its name, its package, its solver, and how it was set.

    slow: left out of a smoke run
    tolerances: tried in turn, None where there is nothing to choose
    power: its time grows like cells^power, from which it is estimated whether a run is affordable
    differentiable, geometric: whether it takes `gradient`; whether its faces are geometric means
    steps: it is solver(problem, taken, steps): the first few of so many equal steps are timed, and the others estimated
    """

    name: str
    needs: str
    make: Callable[..., Callable[[], Any]]
    note: str = ""
    slow: bool = False
    tolerances: tuple[float | None, ...] = (None,)
    power: float = 1.0
    differentiable: bool = False
    geometric: bool = False
    steps: int = 0


def notes(contestants: tuple[Contestant, ...]) -> str:
    return "; ".join(f"{one.name}: {one.note}" for one in contestants if one.note)


def compiled(problem: Any, final: Callable[[Any, Any], Any], d: Any, u: Any, gradient: bool) -> Callable[[], Any]:
    """`final(D, u₀)` inside a user's jit, or the gradient of its loss."""
    d, u = jax.device_put((d, u))
    if not gradient:
        run = jax.jit(final)
        return lambda: run(d, u)
    slope = jax.jit(jax.value_and_grad(lambda d, u: 0.5 * problem.grid.integrate(final(d, u) ** 2)))
    return lambda: slope(d, u)[1]


def jaxdiff(
    problem: Any,
    tolerance: float | None = None,
    gradient: bool = False,
    constant: bool = False,
    scheme: Any = None,
    **walls: Any,
) -> Callable[[], Any]:
    """`jd.solve` with D and the initial state as arguments of the jit; constant: D = 1."""
    grid, times = problem.grid, [0.0, problem.end]

    def final(d: Any, u: Any) -> Any:
        return jd.solve(jd.Diffusion(d, **walls), grid, u, times, scheme=scheme, tolerance=tolerance).values[-1]

    start = problem.periodic(0.0) if walls else problem.initial
    return compiled(problem, final, 1.0 if constant else problem.diffusivity, start, gradient)


def jaxdiff_plain(problem: Line) -> Callable[[], Any]:
    grid, times = problem.grid, [0.0, problem.end]
    # Indexing a JAX array is a call of its own.
    return lambda: np.asarray(jd.solve(jd.Diffusion(problem.diffusivity), grid, problem.initial, times).values)[-1]


def change(u: Any, rates: tuple[Any, ...], xp: Any) -> Any:
    """A u from the rates on the inner faces of each axis, in NumPy or JAX."""
    walls = lambda axis: [(int(k == axis),) * 2 for k in range(u.ndim)]
    fluxes = [xp.pad(rate * xp.diff(u, axis=axis), walls(axis)) for axis, rate in enumerate(rates)]
    return sum(xp.diff(flux, axis=axis) for axis, flux in enumerate(fluxes))


def diffrax(
    problem: Line | Plane,
    name: str,
    limit: float = 2.8,
    tolerance: float | None = None,
    gradient: bool = False,
    most: int = 0,
) -> Callable[[], Any]:
    """Without a tolerance equal steps of `limit` over the largest rate, where an explicit solver is stable; else at most `most`."""
    import diffrax

    steps = problem.steps(limit)

    def final(d: Any, u: Any) -> Any:
        options: dict[str, Any] = {"dt0": problem.end / steps, "max_steps": steps + 1}
        if tolerance:
            controller = diffrax.PIDController(rtol=tolerance, atol=tolerance)
            options = {"dt0": None, "stepsize_controller": controller, "max_steps": most or 2 * steps + 1000}
        term, solver = diffrax.ODETerm(lambda _, u, rates: change(u, rates, jnp)), getattr(diffrax, name)()
        return diffrax.diffeqsolve(term, solver, 0.0, problem.end, y0=u, args=problem.faces(d), **options).ys[-1]

    return compiled(problem, final, problem.diffusivity, problem.initial, gradient)


def implicit(problem: Line | Plane, tolerance: float, method: str = "BDF") -> Callable[[], Any]:
    from scipy.integrate import solve_ivp

    matrix, end = problem.matrix(problem.rates), problem.end
    options = {"method": method, "jac": matrix, "rtol": tolerance, "atol": tolerance, "t_eval": [end]}
    solve = lambda: solve_ivp(lambda _, u: matrix @ u, (0.0, end), problem.initial.ravel(), **options).y
    return lambda: solve().reshape(problem.initial.shape)


def lsoda(problem: Line, tolerance: float) -> Callable[[], Any]:
    from scipy.integrate import odeint

    (g,), bands, times = problem.rates, problem.bands, [0.0, problem.end]
    # Rows of the Jacobian as odeint wants them: upper, main, lower diagonal.
    jacobian = np.stack([np.pad(bands[2][:-1], (1, 0)), bands[1], np.pad(bands[0][1:], (0, 1))])
    options = {"Dfun": lambda *_: jacobian, "ml": 1, "mu": 1, "rtol": tolerance, "atol": tolerance, "mxstep": 100_000}

    def rate(u: np.ndarray, _: float) -> np.ndarray:
        flux = np.zeros(len(u) + 1)
        flux[1:-1] = g * (u[1:] - u[:-1])
        return flux[1:] - flux[:-1]

    return lambda: odeint(rate, problem.initial, times, **options)[-1]


def eigh(problem: Line) -> Callable[[], Any]:
    from scipy.linalg import eigh_tridiagonal

    def solve() -> np.ndarray:
        values, vectors = eigh_tridiagonal(problem.bands[1], problem.rates[0])
        return vectors @ (np.exp(values * problem.end) * (vectors.T @ problem.initial))

    return solve


def expm_multiply(plane: Plane, constant: bool = False) -> Callable[[], Any]:
    from scipy.sparse.linalg import expm_multiply

    rates = plane.faces(np.ones_like(plane.diffusivity)) if constant else plane.rates
    matrix = plane.end * plane.matrix(rates).tocsr()
    return lambda: expm_multiply(matrix, plane.initial.ravel()).reshape(plane.initial.shape)


def cosines(plane: Plane) -> Callable[[], Any]:
    from scipy.fft import dctn, idctn

    n = plane.cells
    decay = np.exp(-4 * plane.end * n**2 * np.sin(np.pi * np.arange(n) / (2 * n)) ** 2)
    return lambda: idctn(dctn(plane.initial) * np.outer(decay, decay))


def py_pde(
    problem: Line | Plane,
    limit: float = 2.78,
    tolerance: float | None = None,
    solver: str = "RungeKuttaSolver",
    **options: Any,
) -> Callable[[], Any]:
    """Equal steps of `limit` over the largest rate, or with a tolerance steps that begin so."""
    import pde

    class Heat(pde.PDEBase):
        """A class of its own: as an expression, py-pde would discretise D∇²c + ∇D·∇c, which does not conserve c."""

        def evolution_rate(self, state: Any, t: float = 0) -> Any:
            return pde.ScalarField(state.grid, change(state.data, problem.rates, np))

        def make_evolution_rate(self, state: Any, backend: Any) -> Any:
            return loops.changes(problem.rates)

    grid = pde.CartesianGrid([(0.0, 1.0)] * problem.axes, problem.cells, periodic=False)
    state = pde.ScalarField(grid, problem.initial)
    if tolerance and solver == "ScipySolver":
        options |= {"rtol": tolerance, "atol": tolerance}
    elif tolerance:
        options |= {"adaptive": True, "tolerance": tolerance}
    stepper: list[Any] = []

    def solve() -> np.ndarray:
        if not stepper:  # compiles: part of the first call
            made = getattr(pde.solvers, solver)(Heat(), backend="numba", **options)
            stepper.append(made.make_stepper(state, dt=problem.end / problem.steps(limit)))
        u = state.copy()
        stepper[0](u, 0.0, problem.end)
        return u.data

    return solve


def fplanck(problem: Line) -> Callable[[], Any]:
    """fplanck jumps with rates D(x)/h² out of a cell, which is ∇²(Dp); the potential −kT ln D turns it into ∇·(D∇p)."""
    for name, now in (("product", np.prod), ("in1d", np.isin)):  # NumPy 2 dropped the names that fplanck 0.2 calls
        if not hasattr(np, name):
            setattr(np, name, now)
    from fplanck import boundary, fokker_planck
    from scipy import constants

    diffusivity = lambda x: 0.1 * (1.0 + 0.5 * np.sin(2 * np.pi * (x + 0.5)))  # its grid is centred at 0
    model = fokker_planck(
        temperature=1 / constants.k,
        drag=lambda x: 1.0 / diffusivity(x),
        extent=1.0,
        resolution=1.0 / problem.cells,
        potential=lambda x: -np.log(diffusivity(x)),
        boundary=boundary.reflecting,
    )
    return lambda: model.propagate(lambda x: problem.initial, problem.end, normalize=False)


def exponax(plane: Plane, once: bool = False) -> Callable[[], Any]:
    """Spectral: on band-limited data its matrix is the differential equation's."""
    from exponax.stepper import Diffusion

    stepper = lambda d: Diffusion(2, 1.0, plane.cells, plane.end, diffusivity=d * jnp.eye(2))
    made = stepper(1.0)
    final = lambda d, u: (made if once else stepper(d))(u[None])[0]
    return compiled(plane, final, 1.0, plane.periodic(0.0), gradient=False)


def findiff(plane: Plane, taken: int, steps: int) -> Callable[[], Any]:
    """Its method of lines: Crank–Nicolson on the three-point matrix."""
    from findiff import BoundaryConditions, Diff, TimeDependentPDE

    laplace = Diff(0, 1 / plane.cells, periodic=True) ** 2 + Diff(1, 1 / plane.cells, periodic=True) ** 2
    times = np.linspace(0.0, plane.end * taken / steps, taken + 1)
    walls = BoundaryConditions((plane.cells, plane.cells))
    return lambda: TimeDependentPDE(laplace, plane.periodic(0.0), walls, times).solve()


def fipy(plane: Plane, taken: int, steps: int) -> Callable[[], Any]:
    """Crank–Nicolson as half an implicit and half an explicit term, by conjugate gradients."""
    from fipy import CellVariable, DiffusionTerm, ExplicitDiffusionTerm, Grid2D, TransientTerm
    from fipy.solvers.scipy import LinearCGSolver

    n = plane.cells
    mesh = Grid2D(nx=n, ny=n, dx=1 / n, dy=1 / n)  # numbers its cells along x first
    half = CellVariable(mesh=mesh, value=plane.diffusivity.T.ravel()).harmonicFaceValue / 2
    equation = TransientTerm() == DiffusionTerm(coeff=half) + ExplicitDiffusionTerm(coeff=half)
    solver = LinearCGSolver(tolerance=1e-9, iterations=500)

    def solve() -> np.ndarray:
        u = CellVariable(mesh=mesh, value=plane.initial.T.ravel())
        for _ in range(taken):
            equation.solve(var=u, dt=plane.end / steps, solver=solver)
        return np.array(u.value).reshape(n, n).T

    return solve


def numba_loop(plane: Plane) -> Callable[[], Any]:
    """Two nested loops: what a programmer writes who knows that Heun's method is enough."""
    steps = plane.steps(2.0)
    x, y = loops.with_walls(plane.rates)
    return lambda: loops.heun()(plane.initial, x, y, plane.end / steps, steps)
