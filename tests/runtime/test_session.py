"""A session's own rules for ranks and dtypes change nothing: solves, steady states, fits and what follows hold under the strictest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

LINE, PLANE = jd.Grid.uniform((0.0, 1.0, 20)), jd.Grid.uniform((0.0, 1.0, 10), (0.0, 1.0, 8))
BUMP, HILL = lambda x: jnp.exp(-x), lambda x, y: jnp.exp(-x - y)
T, X = np.repeat([0.02, 0.05, 0.1], 3), np.tile([0.2, 0.5, 0.8], 3)
READINGS = jd.Readings(LINE, BUMP, T, X, np.linspace(1.0, 0.5, 9), sigma=0.1)
SWING = {"x-": jd.Dirichlet(jd.TimeDependent(lambda t: t))}

CASES = {
    "poles": lambda: jd.solve(jd.Diffusion(lambda x: 1.0 + 0.3 * x, source=lambda x: 1.0 * x), LINE, BUMP, [0.0, 0.1]).values,
    "carried": lambda: jd.solve(jd.FokkerPlanck(jd.Expression("1-x"), 0.1), LINE, BUMP, [0.0, 0.1]).values,
    "time": lambda: jd.solve(jd.Diffusion(0.3, boundaries=SWING), LINE, BUMP, [0.0, 0.1]).values,
    "plane": lambda: jd.solve(jd.Diffusion(lambda x, y: 1.0 + x * y), PLANE, HILL, [0.0, 0.1]).values,
    "swept": lambda: jd.solve(jd.FokkerPlanck(lambda x, y: (y, -x), 0.1), PLANE, HILL, [0.0, 0.1]).values,
    "rest": lambda: jd.steady_state(jd.Diffusion(0.3, source=1.0, boundaries=jd.absorbing), LINE),
    "gradient": lambda: jax.grad(lambda d: LINE.integrate(jd.solve(jd.Diffusion(d), LINE, BUMP, [0.0, 0.1]).values[-1] ** 2))(0.3),
    "fit": lambda: jd.fit(jd.Diffusion(jd.Positive(0.3)), READINGS, progress=False).predict(),
    "many": lambda: jd.fit_many(jd.Diffusion(jd.Positive(0.3)), READINGS, np.linspace(1, 2, 18).reshape(2, 9), progress=False).parameters["diffusivity"],
    "reading": lambda: LINE.interpolate(np.arange(20.0), 0.3),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_strict_session_gives_the_same_numbers(case):
    plain = CASES[case]()
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        strict = CASES[case]()
    np.testing.assert_array_equal(np.asarray(strict), np.asarray(plain))
