"""Many small problems at once, each of its own numbers, under one `jax.vmap`: solves, gradients, fits."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks.conduction import Conduction, T
from jaxdiff.benchmarks.fitters import NAMES, SIGMA, START, TRUTH, Bump, by_jaxdiff


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
    """(estimates, standard errors) `(batch, 4)` of as many data sets in one call of jd.fit_many."""
    values, starts = data(bump, batch), {name: jd.Positive(value) for name, value in zip(NAMES, START, strict=True)}
    readings = bump.readings(values[0])

    def run() -> tuple[np.ndarray, np.ndarray]:
        fits = jd.fit_many(bump.model, readings, values, parameters=starts, dtype=dtype, progress=False)
        found, errors = (np.stack([of[name] for name in NAMES], -1) for of in (fits.parameters, fits.standard_errors))
        return found, errors

    return run


def plain_fits(bump: Bump, batch: int, dtype: str) -> Callable[[], Any]:
    """jd.fit as it stands, new data every call."""
    run, values, calls = by_jaxdiff(bump, dtype), data(bump, 64), iter(range(10**9))

    return lambda: run(values[next(calls) % 64]).estimate


@cache
def _alone(bump: Bump) -> Any:
    return by_jaxdiff(bump)(data(bump, 1)[0])


def check(bump: Bump, found: Any, dtype: str) -> None:
    """The batch's first fit ends where jd.fit does."""
    estimate, expected = found[0][0], _alone(bump)
    away = np.max(np.abs(np.log(estimate / expected.estimate)) / expected.errors)
    limit = 0.01 if dtype == "float64" else 0.1
    assert away < limit, (
        f"the batched fit in {dtype} ends {away:.2g} standard errors from jd.fit, {dict(zip(NAMES, estimate))}"
    )


# How fits are made: what makes the call, and in which batches.
FITS = {
    "jd.fit, one after another": (plain_fits, (1,)),
    "jd.fit_many": (batched_fits, (256, 4096, 100_000)),
}
