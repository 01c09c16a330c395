"""Many small problems at once, each of its own numbers, under one `jax.vmap`: solves, gradients, fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks.conduction import Conduction, T
from jaxdiff.benchmarks.fitters import NAMES, SIGMA, START, TRUTH, Bump, by_jaxdiff

STEPS = 8  # of Gauss–Newton, from which the start converges


def solves(n: int, batch: int, dtype: str, gradient: bool = False) -> Callable[[], Any]:
    """Exact exponentials to t = 0.2, an array D for each; with gradient: of ½∫u² in every cell of D."""
    problem, grid = Conduction(n), jd.Grid.uniform((0.0, 1.0, n))
    scale = np.linspace(0.5, 1.5, batch)[:, None]
    d, u = jnp.asarray(scale * problem.diffusivity, dtype), jnp.asarray(problem.initial, dtype)
    one = lambda d: jd.solve(jd.Diffusion(d), grid, u, [0.0, T]).values[-1]
    run = jax.jit(jax.vmap(jax.value_and_grad(lambda d: 0.5 * grid.integrate(one(d) ** 2)) if gradient else one))
    return lambda: run(d)


def data(bump: Bump, batch: int) -> np.ndarray:
    equation, initial = bump.model(*TRUTH)
    clean = bump.sensed(
        np.asarray(jd.solve(equation, bump.grid, initial, np.concatenate([[0.0], bump.times])).values)[1:]
    )
    return clean + np.random.default_rng(0).normal(0.0, SIGMA, (batch, len(clean)))


def batched_fits(bump: Bump, batch: int, dtype: str) -> Callable[[], Any]:
    """(logarithms of the coefficients, their standard errors) for `batch` data sets at once."""
    values = jnp.asarray(data(bump, batch), dtype)
    times = np.concatenate([[0.0], bump.times])
    # Single precision resolves the coefficients to 1e-3 standard errors; half of its eight digits are the solver's.
    tolerance = 1e-9 if dtype == "float64" else 1e-5

    def residuals(logs: Any, row: Any) -> Any:
        equation, initial = bump.model(*jnp.exp(logs))
        u = jd.solve(equation, bump.grid, initial.astype(dtype), times, tolerance=tolerance).values[1:]
        return (bump.sensed(u) - row).astype(dtype) / SIGMA

    def fit(row: Any) -> Any:
        def step(logs: Any, _: Any) -> Any:
            difference, slopes = residuals(logs, row), jax.jacfwd(residuals)(logs, row)
            curvature = slopes.T @ slopes
            move = jnp.linalg.solve(curvature, slopes.T @ difference)
            return logs - jnp.clip(move, -0.7, 0.7).astype(dtype), curvature

        logs, curvature = jax.lax.scan(step, jnp.asarray(np.log(START), dtype), None, length=STEPS)
        return logs, jnp.sqrt(jnp.diagonal(jnp.linalg.inv(curvature[-1])))

    run = jax.jit(jax.vmap(fit))
    return lambda: run(values)


def plain_fits(bump: Bump, batch: int, dtype: str) -> Callable[[], Any]:
    """jd.fit as it stands, new data every call."""
    run, values, calls = by_jaxdiff(bump, dtype), data(bump, 64), iter(range(10**9))

    return lambda: run(values[next(calls) % 64]).estimate


def check(bump: Bump, found: Any, dtype: str) -> None:
    """The batch's first fit ends where jd.fit does."""
    logs, errors = (np.asarray(x)[0] for x in found)
    expected = by_jaxdiff(bump)(data(bump, 1)[0])
    away = np.max(np.abs(logs - np.log(expected.estimate)) / expected.errors)
    limit = 0.01 if dtype == "float64" else 0.1
    assert away < limit, (
        f"the batched fit in {dtype} ends {away:.2g} standard errors from jd.fit, {dict(zip(NAMES, np.exp(logs)))}, {errors}"
    )


# How fits are made at once: what makes the call, and in which batches. A fit of the library's own in one batch goes here.
FITS = {
    "jd.fit, one after another": (plain_fits, (1,)),
    "Gauss–Newton under vmap": (batched_fits, (1, 16, 256, 4096, 100_000)),
}
