"""One solve on 256 × 256 cells: the heat equation with D an array, and with D = 1.

python -m benchmarks.plane [--smoke] [--output DIR]
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from benchmarks.harness import COLOURS, Options, Timing, compare, facts, figure, footer, markdown, publish, seconds

T = 0.02
ACCURATE = 800  # equal steps: fewer would be stable on few cells, but not accurate
ENOUGH = 1e-6  # of the peak: a solver's error up to which it takes part in the ratios


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
    """`make(plane)` does what needs doing once and returns the call to time; slow: left out of a smoke run."""

    name: str
    needs: str
    make: Callable[[Plane], Callable[[], Any]]
    note: str = ""
    slow: bool = False


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
            options = {"adaptive": True, "tolerance": tolerance} if tolerance else {}
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
)
TASKS = {
    "solve": ("D an array, no flux", VARIABLE),
    "gradient": ("D an array, with gradient", GRADIENT),
    "closed": ("D = 1, no flux", CLOSED),
    "ring": ("D = 1, periodic", RING),
}


def measure(plane: Plane, smoke: bool) -> list[dict[str, Any]]:
    """An entry per task and contestant."""
    entries: list[dict[str, Any]] = []
    for task, (title, contestants) in TASKS.items():
        calls = {}
        for one in (c for c in contestants if not (smoke and c.slow)):
            if importlib.util.find_spec(one.needs):
                calls[one.name] = one.make(plane)
            else:
                entries.append({"task": task, "solver": one.name, "skipped": f"{one.needs} is not installed"})
        print(f"{title}: {', '.join(calls)}", flush=True)
        timed = compare(calls, patience=10.0, most=51, smoke=smoke)
        found = {name: np.asarray(t.result) for name, t in timed.items() if isinstance(t, Timing)}
        for name, timing in timed.items():
            measured = isinstance(timing, Timing)
            more = {"error": _error(plane, task, name, found), **timing.record()} if measured else {"skipped": timing}
            entries.append({"task": task, "solver": name, **more})
            if task == "ring" and name in found:
                entries[-1]["from continuous"] = _away(found[name], plane.wrapped(T))
    return entries


def _error(plane: Plane, task: str, name: str, found: dict[str, np.ndarray]) -> float | None:
    """Largest deviation over the peak, from a solver of another kind; None for that solver itself."""
    if task == "ring":
        return _away(found[name], plane.ring if name == "jaxdiff" else plane.wrapped(T))
    other = {"solve": EXPM, "gradient": "diffrax Heun", "closed": "SciPy dctn"}[task]
    return None if name == other else _away(found[name], found[other]) if other in found else np.nan


def _away(u: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(u - exact).max() / np.abs(exact).max())


def best(entries: list[dict[str, Any]], task: str, start: str = "") -> dict[str, Any] | None:
    """The fastest accurate peer whose name starts so."""
    peers = [e for e in entries if e["task"] == task and "median" in e and not e["solver"].startswith("jaxdiff")]
    good = [e for e in peers if e["solver"].startswith(start) and (e["error"] or 0.0) <= ENOUGH]
    return min(good, key=lambda e: e["median"], default=None)


def ratios(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """What the measurement was made for."""
    ours = {(e["task"], e["solver"]): e for e in entries if e["solver"].startswith("jaxdiff")}
    solve, slope = (ours[task, "jaxdiff"] for task in ("solve", "gradient"))
    quick = ours.get(("solve", "jaxdiff, tolerance=1e-6"))
    over = lambda peer, own: peer and own and peer["median"] / own["median"]
    first = best(entries, "solve")
    return {
        "D an array: fastest peer": first and first["solver"],
        "fastest peer / jaxdiff": over(first, solve),
        "fastest peer / jaxdiff at tolerance 1e-6": over(first, quick),
        "diffrax's best / jaxdiff": over(best(entries, "solve", "diffrax"), solve),
        "py-pde's best / jaxdiff": over(best(entries, "solve", "py-pde"), solve),
        "gradient: diffrax / jaxdiff": over(best(entries, "gradient", "diffrax"), slope),
        "jaxdiff: gradient / solve": over(slope, solve),
        "jaxdiff: first solve, compilation included": solve["first"],
        "jaxdiff: first gradient, compilation included": slope["first"],
        "D = 1, no flux: dctn / jaxdiff": over(best(entries, "closed", "SciPy dctn"), ours["closed", "jaxdiff"]),
        "D = 1, no flux: expm_multiply / jaxdiff": over(best(entries, "closed", EXPM), ours["closed", "jaxdiff"]),
        "D = 1, periodic: exponax's best / jaxdiff": over(best(entries, "ring", "exponax"), ours["ring", "jaxdiff"]),
        "the same / jaxdiff, Spectral": over(best(entries, "ring", "exponax"), ours["ring", "jaxdiff, Spectral"]),
    }


def table(plane: Plane, entries: list[dict[str, Any]], summary: dict[str, Any], device: dict[str, Any]) -> str:
    """Times and errors by task, and the ratios."""
    own = {e["task"]: e["median"] for e in entries if e["solver"] == "jaxdiff" and "median" in e}
    rows = []
    for e in (e for task in TASKS for e in entries if e["task"] == task):
        name = f"**{e['solver']}**" if e["solver"].startswith("jaxdiff") else e["solver"]
        if "skipped" in e:
            rows.append([TASKS[e["task"]][0], name, "not run", "–", "–", "–"])
            continue
        mark = "" if e["runs"] >= 5 else "†"
        error = "reference" if e["error"] is None else f"{e['error']:.0e}{'' if e['error'] <= ENOUGH else ' ‡'}"
        times = [seconds(e["median"]) + mark, f"{e['median'] / own[e['task']]:.3g}", seconds(e["first"])]
        rows.append([TASKS[e["task"]][0], name, *times, error])
    header = ["float64, CPU", "solver", "time", "× jaxdiff", "first call", "error"]
    digits = lambda key, v: seconds(v) if "first " in key else f"{v:.3g}"
    show = lambda key, v: "–" if v is None else v if isinstance(v, str) else digits(key, v)
    ratio = markdown(["", f"{plane.cells} × {plane.cells}"], [[key, show(key, v)] for key, v in summary.items()])
    notes = "; ".join(f"{c.name}: {c.note}" for _, group in TASKS.values() for c in group if c.note)
    why = dict.fromkeys(f"{e['solver']}: {e['skipped']}" for e in entries if "skipped" in e)
    left = f"\nNot run: {'; '.join(why)}." if why else ""
    off = [f"{e['from continuous']:.0e} ({e['solver']})" for e in entries if "from continuous" in e]
    return f"""Solve of ∂u/∂t = ∇·(D ∇u) on {plane.cells} × {plane.cells} cells, T = {T}, u₀ = exp(−50 r²). D an array: 1 + ½ sin 2πx cos 2πy, faces by harmonic mean,
the same matrix for all; error: largest, over the peak, from expm_multiply. Gradient: of ½∫u² in all {plane.cells**2} numbers; error: largest difference from
diffrax's, over the largest component. D = 1: error from the cosine transform without flux; periodic, from the exact exponential of each one's own matrix,
for exponax that of the differential equation. Errors of the periodic solves against the differential equation: {", ".join(off)}.

{markdown(header, rows)}

† fewer than five runs. ‡ above {ENOUGH:g}: takes no part in the ratios. {notes}.{left}

{ratio}

{footer(device)}"""


def picture(entries: list[dict[str, Any]]) -> Any:
    """Bars of time, a panel per task."""
    made, axes = figure(2, 2, sharex="col")
    for ax, (task, (title, _)) in zip(axes.T.ravel(), TASKS.items(), strict=True):
        shown = [e for e in entries if e["task"] == task and "median" in e][::-1]
        colours = [COLOURS[0] if e["solver"].startswith("jaxdiff") else COLOURS[1] for e in shown]
        ax.barh([e["solver"] for e in shown], [e["median"] for e in shown], color=colours)
        for i, e in enumerate(shown):
            ax.text(e["median"] * 1.15, i, seconds(e["median"]), va="center", fontsize=8)
        ax.set_xscale("log")
        ax.tick_params(axis="y", labelsize=8)
        ax.set_title(title, fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    for column in axes.T:
        times = [width for ax in column for bar in ax.patches if (width := bar.get_width()) > 0]
        column[-1].set_xlim(min(times) / 4, max(times) * 6)
        column[-1].set_xlabel("time [s]")
    made.set_size_inches(11.0, 5.2)
    return made


def main() -> None:
    options = Options.parse(__doc__.splitlines()[0])
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_device", jax.devices("cpu")[0])
    device = facts()
    plane = Plane(24 if options.smoke else 256)
    entries = measure(plane, options.smoke)
    summary = ratios(entries)
    data = {"device": device, "smoke": options.smoke, "ratios": summary, "entries": entries}
    publish(options, "plane", data, table(plane, entries, summary, device), picture(entries))


if __name__ == "__main__":
    main()
