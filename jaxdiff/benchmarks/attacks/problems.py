"""Random problems through `jd.solve` and `jd.steady_state`, each right, refused in one line, or found out.

Numbers are drawn anew for every problem and structures, which compile, for a batch of them.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks.attacks import exponentials
from jaxdiff.benchmarks.harness import Entries
from jaxdiff.discretisation.schemes import FiniteVolume
from jaxdiff.parameters import plain
from jaxdiff.runtime.compilation import solver_jit

BATCH = 25  # problems of one structure
DOUBLE, SINGLE = 1e-9, 1e-4  # of the peak, what `solve` promises
CARRIED = 1e-3  # with a drift in float32, where the differences of a steep potential are themselves rounded
WALLS = ("Dirichlet", "Neumann", "Robin", "Flux", "closed")


def attack(family: Callable[..., Any], count: int, seed: int = 0) -> Entries:
    """Records {"seed", "problem", "error", "verdict", "detail"} of `count` random problems of a family, `line` or `plane`.

    Against exact exponentials of the same matrix. A verdict is "right" (error, a share of the peak, below what is
    promised), "refused" (in one line of the library), "WRONG" or "TRACEBACK".
    """
    records = []
    for i in range(count):
        number = i // BATCH
        if i % (4 * BATCH) == 0:
            jax.clear_caches()  # thousands of programs use up the memory maps of a process
        if i % BATCH == 0:
            draw = family(np.random.default_rng([seed, number]), number)
        rng, found = np.random.default_rng([seed, number, i]), None
        while found is None:
            found = judged(*draw(rng))
        records.append({"seed": (seed, i), **found})
    return records


def judged(
    problem: str, equation: Any, grid: Any, start: Any, times: Any, dtype: Any, options: Any
) -> dict[str, Any] | None:
    """The verdict on one problem, None where the exact solution is not to be believed; `times` None asks for the steady state."""
    record = {"problem": f"{problem}, start {start!r}, times {times!r}", "error": np.nan, "detail": ""}
    with jax.enable_x64(dtype == np.float64):
        try:
            if times is None:
                values = np.asarray(jd.steady_state(equation, grid, start))[None]
            else:
                values = np.asarray(jd.solve(equation, grid, start, times, **options).values)[1:]
        except Exception as raised:
            ours = isinstance(raised, (ValueError, TypeError, RuntimeError)) and "\n" not in str(raised).strip()
            ours = ours and "jaxdiff" in traceback.extract_tb(raised.__traceback__)[-1].filename
            detail = f"{type(raised).__name__}: {raised}"
            return {**record, "verdict": "refused" if ours else "TRACEBACK", "detail": detail}
    with jax.enable_x64(True):
        expected, doubt = _expected(equation, grid, np.asarray(start, float), times, float(np.finfo(dtype).eps))
    floor = 1e10 * float(np.finfo(dtype).tiny)  # below it numbers lose their digits
    if times is not None:
        floor = max(floor, (1e-3 if dtype == np.float64 else 0.1) * np.abs(start).max())
    peaks = [max(np.abs(e).max(), floor) for e in expected]
    missed = [np.abs(v - e).max() / p for v, e, p in zip(values, expected, peaks, strict=True)]
    error = float(max(missed)) if np.isfinite(values).all() else np.inf
    single = CARRIED if isinstance(equation, jd.FokkerPlanck) else SINGLE
    allowed = options.get("tolerance", DOUBLE) if dtype == np.float64 else single
    if not doubt < 0.1 * allowed:
        return None
    return {**record, "error": error, "verdict": "right" if error <= allowed else "WRONG"}


@solver_jit
def _parts(equation: Any, grid: Any) -> Any:
    """What the matrix makes of each cell, what each loses for good, what is fed in, and what a cell weighs."""
    system, n = FiniteVolume().systems(equation, grid)[0], int(np.prod(grid.shape))
    operator, unit = system.operator(0.0), jnp.eye(n).reshape(n, *grid.shape)
    columns = jax.vmap(lambda e: operator @ e)(unit).reshape(n, n).T
    rows = (jnp.broadcast_to(x, grid.shape).ravel() for x in (operator.leak, system.forcing(0.0), system.weights))
    return columns, *rows


def _expected(equation: Any, grid: Any, start: np.ndarray, times: Any, eps: float) -> tuple[list[np.ndarray], float]:
    """States after the first time, and what they may be wrong by, as a share of the largest."""
    columns, lost, forcing, weights = (np.asarray(x, float) for x in _parts(plain(equation), grid))
    rates = columns.astype(exponentials.WIDE)
    np.fill_diagonal(rates, lost)
    contents = np.broadcast_to(start, grid.shape).ravel() * weights
    if times is None:
        killing = np.abs(np.diag(rates)).max()
        if 0 < killing < np.finfo(np.float32 if eps > 1e-10 else float).tiny:
            return [np.full(grid.shape, np.nan)], np.inf  # to the library the domain is closed
        found = exponentials.steady(rates, forcing, np.sum(contents.astype(exponentials.WIDE)))
        if found is None:
            return [np.full(grid.shape, np.nan)], np.inf  # with growth nothing is known
        return [(found / weights).astype(float).reshape(grid.shape)], 1e-16 if np.isfinite(found).all() else np.inf
    states, doubts = [], [0.0]
    for t in times[1:]:
        with np.errstate(over="ignore", invalid="ignore"):  # then the doubt is not a number
            state, doubt = exponentials.solution(rates, forcing, contents, t, weights, eps)
        states.append(state.astype(float).reshape(grid.shape))
        doubts.append(doubt)
    return states, float(np.max(doubts))


def _powers(rng: Any, low: float, high: float, size: Any = None) -> Any:
    return 10 ** rng.uniform(low, high, size)


def _wall(rng: Any, kind: str, speed: float, scale: float) -> Any:
    """Numbers for a wall where contents move at a `speed` [length/time] over a `scale` [length]."""
    value = float(rng.normal() * (rng.random() < 0.7))
    if kind == "Dirichlet":
        return jd.Dirichlet(value)
    if kind == "Neumann":
        return jd.Neumann(value / scale)
    if kind == "Robin":
        return jd.Robin(float(speed * _powers(rng, -3, 3)), value)
    return jd.Flux(0.0 if kind == "closed" else value * speed)


def _sides(rng: Any, names: tuple[str, ...], kinds: list[str], speed: float, scale: float) -> dict[str, Any]:
    return {side: _wall(rng, kind, speed, scale) for side, kind in zip(names, kinds, strict=True)}


def _source(rng: Any, grid: Any, speed: float, scale: float) -> Any:
    """A source of each sign, in half of all cases with no content in total."""
    source, volumes = rng.normal(size=grid.shape) * speed / scale, np.asarray(grid.volumes)
    return source - np.vdot(source, volumes) / volumes.sum() * (rng.random() < 0.5)


def _rate(rng: Any, t: float, kind: str) -> float:
    """A decay, or growth that does not overflow by t."""
    if kind == "none":
        return 0.0
    size = _powers(rng, -4, 1.3) / min(t, 1e12)
    return float(-min(size, 30.0 / t) if kind == "growth" else size)


def _start(rng: Any, shape: tuple[int, ...]) -> np.ndarray:
    kind = rng.choice(["random", "one", "point", "signs", "zero"], p=[0.4, 0.2, 0.25, 0.1, 0.05])
    if kind == "point":
        state = np.zeros(shape)
        state[tuple(rng.integers(0, n) for n in shape)] = 1.0
        return state
    states = {"random": rng.random(shape), "one": np.ones(shape), "signs": rng.normal(size=shape)}
    return states.get(str(kind), np.zeros(shape)) * float(_powers(rng, -3, 3))


def _narrow(tree: Any, dtype: Any) -> Any:
    """Numbers that single precision holds, so that both are asked about the same problem."""
    if dtype == np.float64:
        return tree
    return jax.tree.map(lambda x: np.asarray(x, np.float32).astype(float) if np.ndim(x) < 9 else x, tree)


def line(rng: Any, number: int) -> Callable[[Any], Any]:
    """A structure on one axis, as a function that draws its numbers."""
    geometry = str(rng.choice(["uniform", "periodic", "graded", "radial"], p=[0.45, 0.15, 0.2, 0.2]))
    cells, outputs = int(rng.choice([5, 12, 24])), int(rng.choice([1, 4]))
    dtype = np.float64 if number % 3 else np.float32
    walls, drifting = [str(rng.choice(WALLS)) for _ in range(2)], bool(rng.random() < 0.5)
    form, forced = str(rng.choice(["number", "array", "function"])), bool(rng.random() < 0.5)
    pull = str(rng.choice(["number", "array", "function", "potential"]))
    interpretation = str(rng.choice(["ito", "stratonovich", "isothermal"]))
    loss = str(rng.choice(["none", "decay", "growth"], p=[0.5, 0.3, 0.2]))
    options = {"tolerance": float(rng.choice([1e-4, 1e-8]))} if rng.random() < 0.15 else {}

    def draw(rng: Any) -> Any:
        length, diffusivity = float(_powers(rng, -3, 3)), float(_powers(rng, -6, 6))
        lower = float(rng.choice([0.0, 1.0, 100.0])) * length
        grid: Any = jd.Grid.uniform((lower, lower + length, cells))
        if geometry == "graded":
            ratio = _powers(rng, -0.5, 0.5)
            edges = np.cumsum(np.r_[0.0, ratio ** np.arange(cells)])
            grid = jd.Grid(edges=(lower + length * edges / edges[-1],))
        if geometry == "radial":
            inner = float(rng.choice([0.0, 0.5])) * length
            grid = jd.Grid.radial((inner, inner + length, cells), geometry=["cylindrical", "spherical"][number % 2])
        x = np.asarray(grid.centers[0])
        peclet = float(_powers(rng, -3, 6) * rng.choice([-1, 1]))
        speed = abs(peclet) * diffusivity / length if drifting else diffusivity / length
        # From far before the first cell has felt anything to long after the last one has.
        t = float(_powers(rng, -12, 12)) if rng.random() < 0.3 else float(_powers(rng, -4, 3) * length / speed)
        times = np.r_[0.0, t * np.sort(rng.random(outputs - 1)), t] if outputs > 1 else np.r_[0.0, t]
        shape = lambda mean, decades: {
            "number": mean,
            "array": mean * _powers(rng, -decades, decades, cells),
            "function": jd.Expression("a*exp(b*(x-m))", a=mean, b=decades * rng.normal() / length, m=x.mean()),
        }
        rate = _rate(rng, t, loss)
        ends = f"{grid.names[0]}-", f"{grid.names[0]}+"
        sides = _sides(rng, ends, walls, speed, length)
        if geometry == "periodic":
            sides = dict.fromkeys(ends, jd.Periodic())
        elif grid.edges[0][0] == 0.0 and geometry == "radial":
            sides.pop(ends[0])
        if drifting:
            mean = peclet * diffusivity / length
            potential = jd.Potential(jd.Expression("a*(x-m)**2", a=mean / length, m=x.mean()))
            drift = (shape(mean, 0.5) | {"potential": potential})[pull]
            settings: dict[str, Any] = {"killing": rate, "interpretation": interpretation, "boundaries": sides}
            equation: Any = jd.FokkerPlanck(drift, shape(diffusivity, 1.0)[form], **settings)
        else:
            source = _source(rng, grid, speed, length) if forced else 0.0
            conductor, capacity = shape(diffusivity, 2.0)[form], float(_powers(rng, -2, 2))
            equation = jd.Diffusion(conductor, decay=rate, source=source, capacity=capacity, boundaries=sides)
        equation, grid, start, times = _narrow((equation, grid, _start(rng, (cells,)), times), dtype)
        text = f"{geometry}, {cells} cells on {length:.3g} from {lower:.3g}, {np.dtype(dtype).name}, {options}, {_text(equation)}"
        return text, equation, grid, start, None if rng.random() < 0.12 else times, dtype, options

    return draw


def _text(equation: Any) -> str:
    return " ".join(repr(jax.tree.map(lambda x: np.asarray(x).tolist(), equation)).split())


def plane(rng: Any, number: int) -> Callable[[Any], Any]:
    """A structure on two axes, as a function that draws its numbers."""
    kind = ["numbers", "lines", "rough", "turning", "drift", "tensor", "potential", "tensor, turning"][number % 8]
    dtype = np.float32 if rng.random() < 0.25 else np.float64
    walls, outputs = [str(rng.choice(WALLS)) for _ in range(4)], int(rng.choice([1, 3]))
    if "tensor" in kind:
        walls = ["Dirichlet" if wall in ("Neumann", "Robin") else wall for wall in walls]
    periodic, graded, forced = (bool(b) for b in rng.random(3) < [0.3, 0.4, 0.5])
    periodic, graded = periodic and kind != "potential", graded and "tensor" not in kind
    loss = str(rng.choice(["none", "decay", "growth"], p=[0.6, 0.25, 0.15]))
    cells = (5, 6)

    def draw(rng: Any) -> Any:
        length, diffusivity = float(_powers(rng, -3, 3)), float(_powers(rng, -6, 6))
        sizes = length, length * _powers(rng, -1, 1)
        edges = [np.linspace(0.0, size, n + 1) for size, n in zip(sizes, cells, strict=True)]
        if graded:
            edges[0] = length * np.linspace(0.0, 1.0, cells[0] + 1) ** 2
        uniform = jd.Grid.uniform(*((0.0, e[-1], n) for e, n in zip(edges, cells, strict=True)))
        grid = jd.Grid(edges=tuple(edges)) if graded else uniform
        peclet, drifting = float(_powers(rng, -2, 3)), kind in ("turning", "drift", "potential", "tensor, turning")
        speed = (peclet if drifting else 1.0) * diffusivity / length
        t = float(_powers(rng, -12, 12)) if rng.random() < 0.2 else float(_powers(rng, -4, 2) * length / speed)
        times = np.r_[0.0, t * np.sort(rng.random(outputs - 1)), t]
        sides = _sides(rng, ("x-", "x+", "y-", "y+"), walls, speed, length)
        if periodic:
            sides |= {"y-": jd.Periodic(), "y+": jd.Periodic()}
        root = rng.normal(size=(2, 2))
        matrix = diffusivity * (root @ root.T + 0.03 * np.eye(2))
        conductor: Any = {
            "lines": jd.PerAxis(diffusivity, jd.Expression("a*(1+y*y)", a=diffusivity)),
            "rough": diffusivity * _powers(rng, -1, 1, cells),
            "tensor": jd.Tensor(matrix),
            "tensor, turning": jd.Tensor(matrix),
        }.get(kind, diffusivity)
        rate, v = _rate(rng, t, loss), peclet * diffusivity / length
        if drifting:
            fields: Any = {
                "drift": (jd.Expression("a*cos(b*x)", a=v, b=2 / length), jd.Expression("a", a=-v)),
                "potential": jd.Potential(jd.Expression("a*(x-y)**2", a=v / length)),
            }
            turning = (jd.Expression("a*y", a=v / length), jd.Expression("a*x", a=-v / length))
            equation: Any = jd.FokkerPlanck(fields.get(kind, turning), conductor, killing=rate, boundaries=sides)
        else:
            source = _source(rng, grid, speed, length) if forced else np.zeros(())
            equation = jd.Diffusion(conductor, decay=rate, source=source, boundaries=sides)
        equation, grid, start, times = _narrow((equation, grid, _start(rng, cells), times), dtype)
        text = f"{kind}, {length:.3g}, {'graded, ' * graded}{np.dtype(dtype).name}, {_text(equation)}"
        return text, equation, grid, start, None if rng.random() < 0.15 else times, dtype, {}

    return draw
