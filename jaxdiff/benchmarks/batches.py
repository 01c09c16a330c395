"""Many small problems at once, each of its own numbers, under one `jax.vmap`: solves, gradients, fits."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import cycle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks.conduction import Line
from jaxdiff.benchmarks.fitters import NAMES, Bump, by_jaxdiff, starts


def solves(n: int, batch: int, dtype: str, gradient: bool = False) -> Callable[[], Any]:
    """Exact exponentials to t = 0.2, an array D for each; with gradient: of ½∫u² in every cell of D."""
    problem = Line(n)
    grid = problem.grid
    scale = np.linspace(0.5, 1.5, batch)[:, None]
    d, u = jnp.asarray(scale * problem.diffusivity, dtype), jnp.asarray(problem.initial, dtype)
    one = lambda d: jd.solve(jd.Diffusion(d), grid, u, [0.0, problem.end]).values[-1]
    run = jax.jit(jax.vmap(jax.value_and_grad(lambda d: 0.5 * grid.integrate(one(d) ** 2)) if gradient else one))
    return lambda: run(d)


def batched_fits(bump: Bump, batch: int, dtype: str) -> Callable[[], Any]:
    """(estimates, standard errors) `(batch, 4)` of as many data sets in one call of jd.fit_many."""
    data, marks = bump.measured(batch), starts()
    readings = bump.readings(data[0])

    def run() -> tuple[np.ndarray, ...]:
        fits = jd.fit_many(bump.model, readings, data, parameters=marks, dtype=dtype, progress=False)
        return tuple(np.stack([of[name] for name in NAMES], -1) for of in (fits.parameters, fits.standard_errors))

    return run


def plain_fits(bump: Bump, batch: int, dtype: str) -> Callable[[], Any]:
    """jd.fit as it stands, new data every call."""
    run, data = by_jaxdiff(bump, dtype), cycle(bump.measured(64))
    return lambda: run(next(data)).values


@cache
def _alone(bump: Bump) -> Any:
    return by_jaxdiff(bump)(bump.measured(1)[0])


def check(bump: Bump, found: Any, dtype: str) -> None:
    """The batch's first fit ends where jd.fit does."""
    values, expected = found[0][0], _alone(bump)
    away = np.max(np.abs(np.log(values / expected.values)) / expected.errors)
    assert away < (0.01 if dtype == "float64" else 0.1), (
        f"the batched fit in {dtype} ends {away:.2g} standard errors from jd.fit, {dict(zip(NAMES, values))}"
    )


# How fits are made: what makes the call, and in which batches.
FITS = {
    "jd.fit, one after another": (plain_fits, (1,)),
    "jd.fit_many": (batched_fits, (256, 4096, 100_000)),
}
