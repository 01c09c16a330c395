"""The slowest rates of two wells beside LAPACK, and first passages of two walls beside SciPy's expm_multiply and BDF."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks.harness import Entries, Options, bold, compare, markdown, publish, seconds

COUNT, BARRIER = 6, 0.01  # rates; D, a barrier of 25 kT
TOLERANCES = (1e-6, 1e-9)  # of BDF


def generator(equation: Any, grid: Any) -> tuple[np.ndarray, ...]:
    """Rates up, down and out of the cells `(n,)`."""
    operator = jax.jit(lambda: equation.semidiscretise(grid, jd.FiniteVolume())[0].operator(0.0))()
    up, down, exit = (np.array(x) for x in (operator.up, operator.down, operator.exit))
    up[-1] = down[0] = 0.0
    return up, down, exit


def gap(up: np.ndarray, down: np.ndarray) -> float:
    """The second slowest rate of a closed chain, by bisection in 60 digits."""
    with localcontext() as context:
        context.prec = 60
        ups, downs = ([Decimal(float(x)) for x in rates] for rates in (up, down))

        def below(x: Decimal) -> int:
            pivot, found = ups[0] - x, int(ups[0] < x)
            for i in range(1, len(ups)):
                pivot = ups[i] + downs[i] - x - ups[i - 1] * downs[i] / (pivot or Decimal("1e-50"))
                found += pivot < 0
            return found

        lower, upper = Decimal("1e-40"), max(ups)
        while upper > lower * (1 + Decimal("1e-17")):
            middle = (lower * upper).sqrt()
            lower, upper = (middle, upper) if below(middle) < 2 else (lower, middle)
        return -float(lower)


def slowest(cells: int) -> Entries:
    """The time of each contestant, and how far the exchange between the wells is off, of itself."""
    import scipy.linalg

    grid = jd.Grid.uniform((-2.0, 2.0, cells))
    well = lambda D: jd.FokkerPlanck(jd.Potential(lambda x: x**4 / 4 - x**2 / 2), D)
    up, down, exit = generator(well(BARRIER), grid)
    beside = np.sqrt(up[:-1] * down[1:])
    found = jax.jit(lambda D: jd.spectrum(well(D), grid, COUNT))
    slopes = jax.jit(jax.value_and_grad(lambda D: jnp.sum(jd.spectrum(well(D), grid, COUNT)[0])))
    chosen = {"select": "i", "select_range": (cells - COUNT, cells - 1)}
    calls: dict[str, Callable[[], Any]] = {
        "jaxdiff, rates and modes": lambda: found(BARRIER)[0],
        "jaxdiff, rates with gradient": lambda: slopes(BARRIER),
        "scipy eigh_tridiagonal": lambda: scipy.linalg.eigh_tridiagonal(-exit, beside, **chosen)[0][::-1],
    }
    exact = gap(up, down)
    error = lambda values: abs(float(values[1]) / exact - 1)
    return _rows(f"{COUNT} slowest rates of two wells, {cells} cells", compare(calls), error)


def passages(cells: int, times: int) -> Entries:
    """Densities of first passage at both walls, of a walk without drift, and the largest error of each, of the largest."""
    import scipy.integrate
    import scipy.linalg
    import scipy.sparse
    import scipy.sparse.linalg

    grid, t = jd.Grid.uniform((0.0, 1.0, cells)), np.linspace(0.02, 1.0, times)
    walk, start = lambda D: jd.Diffusion(D, boundaries=jd.absorbing), grid.delta(0.3)
    up, down, exit = generator(walk(0.5), grid)
    out, content = np.zeros((2, cells)), start / cells
    out[[0, 1], [0, -1]] = (exit - up - down)[[0, -1]]
    matrix = scipy.sparse.diags([down[1:], -exit, up[:-1]], [1, 0, -1]).tocsr()

    def densities(D: Any) -> Any:
        return jnp.stack(list(jd.first_passage_density(walk(D), grid, start, t).values()))

    found, slopes = jax.jit(densities), jax.jit(jax.value_and_grad(lambda D: jnp.sum(densities(D)[:, ::2])))

    def by_bdf(tolerance: float) -> np.ndarray:
        settings = {"rtol": tolerance, "atol": tolerance * 1e-3, "jac": matrix}
        return out @ scipy.integrate.solve_ivp(lambda _, p: matrix @ p, (0, 1), content, "BDF", t, **settings).y

    def by_products() -> np.ndarray:
        return out @ scipy.sparse.linalg.expm_multiply(matrix, content, t[0], t[-1], times, True).T

    calls: dict[str, Callable[[], Any]] = {
        "jaxdiff": lambda: found(0.5),
        "jaxdiff, with gradient": lambda: slopes(0.5),
        "scipy expm_multiply": by_products,
        **{f"scipy BDF, {tolerance:g}": partial(by_bdf, tolerance) for tolerance in TOLERANCES},
    }
    values, vectors = scipy.linalg.eigh_tridiagonal(-exit, np.sqrt(up[:-1] * down[1:]))
    exact = out @ (vectors * (vectors.T @ content)) @ np.exp(np.outer(values, t))
    error = lambda values: float(np.max(np.abs(np.asarray(values) - exact)) / exact.max())
    return _rows(f"first passages at two walls, {cells} cells, {times} times", compare(calls), error)


def _rows(case: str, found: dict[str, Any], error: Callable[[Any], float]) -> Entries:
    rows = []
    for name, (record, result) in found.items():
        row = {"case": case, "who": name, **record}
        rows.append(row if result is None or "gradient" in name else row | {"error": error(result)})
    return rows


def main(options: Options) -> None:
    """Write spectrum.json and spectrum.md."""
    with jax.enable_x64(True):
        sizes, walk = ((20,), (20, 5)) if options.smoke else ((200, 1000), (200, 50))
        rows = [row for cells in sizes for row in slowest(cells)] + passages(*walk)
    text = []
    for case in dict.fromkeys(row["case"] for row in rows):
        table = [
            [
                bold(row["who"]),
                f"{row['error']:.1e}" if "error" in row else "",
                seconds(row.get("median")),
                seconds(row.get("first")),
            ]
            for row in rows
            if row["case"] == case
        ]
        text.append(f"{case}\n\n" + markdown(["", "error", "a call", "the first"], table))
    publish(options, "spectrum", {"rows": rows}, "\n\n".join(text))
