"""The competitors of one solve on a plane; all get the same matrix, none is imported before it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks import loops

T = 0.02
ACCURATE = 800  # equal steps: fewer would be stable on few cells, but not accurate


@dataclass(frozen=True)
class Plane:
    """∂u/∂t = ∇·(D ∇u) on the unit square: a bump in the middle spreads; loss(D) = ½ ∫ u(T)²."""

    cells: int

    @cached_property
    def x(self) -> np.ndarray:
        return (np.arange(self.cells) + 0.5) / self.cells

    @cached_property
    def diffusivity(self) -> np.ndarray:
        return 1.0 + 0.5 * np.outer(np.sin(2 * np.pi * self.x), np.cos(2 * np.pi * self.x))

    @cached_property
    def initial(self) -> np.ndarray:
        return np.exp(-50 * ((self.x[:, None] - 0.5) ** 2 + (self.x - 0.5) ** 2))

    @property
    def grid(self) -> jd.Grid:
        return jd.Grid.uniform((0.0, 1.0, self.cells), (0.0, 1.0, self.cells))

    def steps(self, limit: float) -> int:
        """Equal steps of an explicit method that is stable up to `limit` over the largest eigenvalue (Gershgorin)."""
        return max(int(np.ceil(-2 * T / limit * self.matrix().diagonal().min())), ACCURATE)

    def matrix(self, constant: bool = False) -> Any:
        """A, as a sparse matrix."""
        from scipy.sparse import coo_array, diags_array

        number = np.arange(self.cells**2).reshape(self.cells, self.cells)
        here = np.concatenate([number[:-1].ravel(), number[:, :-1].ravel()])
        there = np.concatenate([number[1:].ravel(), number[:, 1:].ravel()])
        rates = np.concatenate([f.ravel() for f in faces(self.diffusivity, self.cells)])
        rates = np.full_like(rates, self.cells**2) if constant else rates
        half = coo_array((rates, (here, there)), shape=(number.size, number.size))
        hops = (half + half.T).tocsc()
        return (hops - diags_array(hops.sum(axis=0))).tocsc()

    def wrapped(self, t: float) -> np.ndarray:
        """The bump and its images on the ring, spread by the differential equation with D = 1."""
        width = 1 + 200 * t
        one = sum(np.exp(-50 * (self.x - 0.5 + image) ** 2 / width) for image in range(-6, 7)) / np.sqrt(width)
        return np.outer(one, one)

    @cached_property
    def ring(self) -> np.ndarray:
        """The same by the three-point matrix, by Fourier."""
        rate = 4 * self.cells**2 * np.sin(np.pi * np.arange(self.cells) / self.cells) ** 2
        decay = np.exp(-T * rate)
        return np.fft.ifft2(np.fft.fft2(self.wrapped(0.0)) * np.outer(decay, decay)).real


def faces(d: Any, n: int) -> tuple[Any, Any]:
    """Harmonic means over h²; works on NumPy and JAX arrays."""
    mean = lambda a, b: 2 * n**2 * a * b / (a + b)
    return mean(d[1:], d[:-1]), mean(d[:, 1:], d[:, :-1])


@dataclass(frozen=True)
class Contestant:
    """`make(plane)` does what needs doing once and returns the call to time; slow: left out of a smoke run.

    With `steps`, it is `make(plane, taken, steps)`: the first few of so many equal steps are timed, and the others foreseen.
    """

    name: str
    needs: str
    make: Callable[..., Callable[[], Any]]
    note: str = ""
    slow: bool = False
    steps: int = 0


def jaxdiff(
    plane: Plane,
    tolerance: float | None = None,
    gradient: bool = False,
    constant: bool = False,
    scheme: Any = None,
    **walls: Any,
) -> Callable[[], Any]:
    """`jd.solve` inside a user's jit, D and the initial state its arguments."""
    grid = plane.grid

    def final(d: Any, u: Any) -> Any:
        return jd.solve(jd.Diffusion(d, **walls), grid, u, [0.0, T], scheme=scheme, tolerance=tolerance).values[-1]

    def loss(d: Any, u: Any) -> Any:
        return 0.5 * grid.integrate(final(d, u) ** 2)

    d, u = jax.device_put((1.0 if constant else plane.diffusivity, plane.wrapped(0.0) if walls else plane.initial))
    run = jax.jit(jax.value_and_grad(loss) if gradient else final)
    return (lambda: run(d, u)[1]) if gradient else (lambda: run(d, u))


def diffrax(
    plane: Plane, name: str, limit: float, tolerance: float | None = None, gradient: bool = False
) -> Callable[[], Any]:
    """An explicit solver that is stable for steps up to `limit` over the largest rate; these without a tolerance."""
    import diffrax

    steps = plane.steps(limit)

    def rate(_: Any, u: Any, pair: Any) -> Any:
        x, y = pair[0] * jnp.diff(u, axis=0), pair[1] * jnp.diff(u, axis=1)
        return jnp.diff(jnp.pad(x, ((1, 1), (0, 0))), axis=0) + jnp.diff(jnp.pad(y, ((0, 0), (1, 1))), axis=1)

    def final(d: Any, u: Any) -> Any:
        options: dict[str, Any] = {"max_steps": steps + 1}
        if tolerance:
            controller = diffrax.PIDController(rtol=tolerance, atol=tolerance)
            options = {"stepsize_controller": controller, "max_steps": 2 * steps + 1000}
        step, term, solver = None if tolerance else T / steps, diffrax.ODETerm(rate), getattr(diffrax, name)()
        return diffrax.diffeqsolve(term, solver, 0.0, T, step, u, faces(d, plane.cells), **options).ys[-1]

    def loss(d: Any, u: Any) -> Any:
        return 0.5 * jnp.sum(final(d, u) ** 2) / plane.cells**2

    d, u = jax.device_put((plane.diffusivity, plane.initial))
    run = jax.jit(jax.value_and_grad(loss) if gradient else final)
    return (lambda: run(d, u)[1]) if gradient else (lambda: run(d, u))


def expm_multiply(plane: Plane, constant: bool = False) -> Callable[[], Any]:
    from scipy.sparse.linalg import expm_multiply

    matrix = T * plane.matrix(constant).tocsr()
    return lambda: expm_multiply(matrix, plane.initial.ravel()).reshape(plane.initial.shape)


def bdf(plane: Plane, tolerance: float = 3e-8) -> Callable[[], Any]:
    from scipy.integrate import solve_ivp

    matrix = plane.matrix()
    options = {"method": "BDF", "jac": matrix, "rtol": tolerance, "atol": tolerance, "t_eval": [T]}
    solve = lambda: solve_ivp(lambda _, u: matrix @ u, (0.0, T), plane.initial.ravel(), **options).y
    return lambda: solve().reshape(plane.initial.shape)


def py_pde(plane: Plane, limit: float = 2.78, tolerance: float | None = None) -> Callable[[], Any]:
    """Its Runge–Kutta solver; equal steps of `limit` over the largest rate, or adaptive ones."""
    import pde

    matrix, (x, y) = plane.matrix(), faces(plane.diffusivity, plane.cells)
    x, y = np.pad(x, ((1, 1), (0, 0))), np.pad(y, ((0, 0), (1, 1)))

    class Spread(pde.PDEBase):
        """A class of its own: as an expression, py-pde would discretise D∇²c + ∇D·∇c, which does not conserve c."""

        def evolution_rate(self, state: Any, t: float = 0) -> Any:
            return pde.ScalarField(state.grid, (matrix @ state.data.ravel()).reshape(state.data.shape))

        def make_evolution_rate(self, state: Any, backend: Any) -> Any:
            def rhs(u: Any, t: float = 0) -> Any:
                out = np.empty_like(u)
                m, n = u.shape
                for i in range(m):
                    above, below = max(i - 1, 0), min(i + 1, m - 1)
                    for j in range(n):
                        left, right, c = max(j - 1, 0), min(j + 1, n - 1), u[i, j]
                        rise = x[i + 1, j] * (u[below, j] - c) + x[i, j] * (u[above, j] - c)
                        out[i, j] = rise + y[i, j + 1] * (u[i, right] - c) + y[i, j] * (u[i, left] - c)
                return out

            return rhs

    state = pde.ScalarField(pde.CartesianGrid([(0.0, 1.0)] * 2, plane.cells, periodic=False), plane.initial)
    dt = T / plane.steps(0.1) if tolerance else T / plane.steps(limit)
    kept: list[Any] = []

    def solve() -> np.ndarray:
        if not kept:  # compiles: part of the first call
            options: dict[str, Any] = {"adaptive": True, "tolerance": tolerance} if tolerance else {}
            solver = pde.solvers.RungeKuttaSolver(Spread(), backend="numba", **options)
            kept.append(solver.make_stepper(state, dt=dt))
        u = state.copy()
        kept[0](u, 0.0, T)
        return u.data

    return solve


def cosines(plane: Plane) -> Callable[[], Any]:
    from scipy.fft import dctn, idctn

    n = plane.cells
    decay = np.exp(-4 * T * n**2 * np.sin(np.pi * np.arange(n) / (2 * n)) ** 2)
    return lambda: idctn(dctn(plane.initial) * np.outer(decay, decay))


def exponax(plane: Plane, once: bool = False) -> Callable[[], Any]:
    """Spectral: on band-limited data its matrix is the differential equation's."""
    from exponax.stepper import Diffusion

    stepper = lambda d: Diffusion(2, 1.0, plane.cells, T, diffusivity=d * jnp.eye(2))
    made = stepper(1.0)
    run = jax.jit(lambda d, u: (made if once else stepper(d))(u[None])[0])
    d, u = jax.device_put((1.0, plane.wrapped(0.0)))
    return lambda: run(d, u)


def findiff(plane: Plane, taken: int, steps: int) -> Callable[[], Any]:
    """Its method of lines: Crank–Nicolson on the three-point matrix."""
    from findiff import BoundaryConditions, Diff, TimeDependentPDE

    laplace = Diff(0, 1 / plane.cells, periodic=True) ** 2 + Diff(1, 1 / plane.cells, periodic=True) ** 2
    times = np.linspace(0.0, T * taken / steps, taken + 1)
    walls = BoundaryConditions((plane.cells, plane.cells))
    return lambda: TimeDependentPDE(laplace, plane.wrapped(0.0), walls, times).solve()


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
            equation.solve(var=u, dt=T / steps, solver=solver)
        return np.array(u.value).reshape(n, n).T

    return solve


def numba_loop(plane: Plane) -> Callable[[], Any]:
    """Two nested loops: what a programmer writes who knows that Heun's method is enough."""
    x, y = faces(plane.diffusivity, plane.cells)
    x, y = np.pad(x, ((1, 1), (0, 0))), np.pad(y, ((0, 0), (1, 1)))
    steps = plane.steps(2.0)
    return lambda: loops.heun()(plane.initial, x, y, T / steps, steps)


EXPM, STABLE = "SciPy expm_multiply", "equal steps at the limit of stability"
ADAPTIVE = "PIDController, rtol = atol = 1e-8"
quick = partial(jaxdiff, tolerance=1e-6)
heun = partial(diffrax, name="Heun", limit=2.0)
bosh3 = partial(diffrax, name="Bosh3", limit=2.51)
tsit5 = partial(diffrax, name="Tsit5", limit=3.5)
VARIABLE = (
    Contestant("jaxdiff", "jaxdiff", jaxdiff, "inside a user's jit"),
    Contestant("jaxdiff, tolerance=1e-6", "jaxdiff", quick, slow=True),
    Contestant("diffrax Heun", "diffrax", heun, STABLE),
    Contestant("diffrax Bosh3", "diffrax", bosh3, STABLE, slow=True),
    Contestant("diffrax Tsit5", "diffrax", tsit5, STABLE, slow=True),
    Contestant("diffrax Tsit5, adaptive", "diffrax", partial(tsit5, tolerance=1e-8), ADAPTIVE, slow=True),
    Contestant("py-pde Runge–Kutta", "pde", py_pde, f"numba; {STABLE}"),
    Contestant(
        "py-pde Runge–Kutta, adaptive", "pde", partial(py_pde, tolerance=1e-7), "numba; tolerance 1e-7", slow=True
    ),
    Contestant("SciPy BDF", "scipy", bdf, "solve_ivp, sparse Jacobian, rtol = atol = 3e-8"),
    Contestant("numba loop, Heun", "numba", numba_loop, STABLE),
    Contestant("FiPy", "fipy", fipy, "Crank–Nicolson, conjugate gradients at 1e-9", slow=True, steps=550),
    Contestant(EXPM, "scipy", expm_multiply),
)
GRADIENT = (
    Contestant("jaxdiff", "jaxdiff", partial(jaxdiff, gradient=True)),
    Contestant("jaxdiff, tolerance=1e-6", "jaxdiff", partial(quick, gradient=True), slow=True),
    Contestant("diffrax Heun", "diffrax", partial(heun, gradient=True), "gradient by its default adjoint"),
)
CLOSED = (
    Contestant("jaxdiff", "jaxdiff", partial(jaxdiff, constant=True), "for D = 1, D an argument of the jit"),
    Contestant("SciPy dctn", "scipy", cosines, "cosines diagonalise the matrix; three lines by hand"),
    Contestant(EXPM, "scipy", partial(expm_multiply, constant=True), slow=True),
)
RING = (
    Contestant("jaxdiff", "jaxdiff", partial(jaxdiff, constant=True, boundaries=jd.Periodic())),
    Contestant(
        "jaxdiff, Spectral",
        "jaxdiff",
        partial(jaxdiff, constant=True, scheme=jd.Spectral(), boundaries=jd.Periodic()),
    ),
    Contestant("exponax", "exponax", exponax, "D an argument of the jit"),
    Contestant("exponax, stepper made before", "exponax", partial(exponax, once=True)),
    Contestant("findiff", "findiff", findiff, "its Crank–Nicolson", slow=True, steps=550),
)
TASKS = {
    "solve": ("D an array, no flux", VARIABLE),
    "gradient": ("D an array, with gradient", GRADIENT),
    "closed": ("D = 1, no flux", CLOSED),
    "ring": ("D = 1, periodic", RING),
}
