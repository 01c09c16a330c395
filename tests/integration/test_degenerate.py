"""A diffusivity of zero along an axis: upwind fluxes against matrices, moments and the Gibbs state of phase space."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

import jaxdiff as jd

GAMMA, D = 1.0, 0.5
LINE = jd.Grid.uniform((0.0, 1.0, 20))
PLANE = jd.Grid.uniform((0.0, 1.0, 5), (0.0, 1.0, 4))
turning = lambda x: 0.3 + np.sin(7 * x)


def upwind(f, edges):
    """Rates |f|/h to the next cell downstream, between closed walls."""
    n, h = len(edges) - 1, np.diff(edges)[0]
    found = np.zeros((n, n))
    for i in range(n - 1):
        up, down = max(f(edges[i + 1]), 0.0) / h, max(-f(edges[i + 1]), 0.0) / h
        found[[i + 1, i, i, i + 1], [i, i, i + 1, i + 1]] += [up, -up, down, -down]
    return found


@pytest.mark.slow
def test_without_diffusion_content_goes_upwind():
    start, times = np.random.default_rng(0).random(20), [0.0, 0.05, 2.0]
    solution = jd.solve(jd.FokkerPlanck(lambda x: 0.3 + jnp.sin(7 * x), 0.0), LINE, start, times)
    for t, u in zip(times, solution.values, strict=True):
        assert np.abs(u - expm(t * upwind(turning, LINE.edges[0])) @ start).max() < 1e-11 * u.max()
        assert u.min() >= 0 and abs(u.sum() / start.sum() - 1) < 1e-13
    faces = np.abs(turning(LINE.edges[0][1:-1])).max()
    assert f"numerical diffusion |f| h/2 of up to {faces / 40:.3g} along x" in solution.method
    through = jd.FokkerPlanck(1.5, 0.0, boundaries={"x-": jd.Flux(-3.0), "x+": jd.absorbing})
    assert np.allclose(jd.steady_state(through, LINE), 2.0)  # J = f u
    sloped = lambda a: jd.solve(jd.FokkerPlanck(a, 0.0), LINE, start, [0.0, 0.05]).values[-1][7]
    ends = [(expm(0.05 * upwind(lambda x, a=a: a, LINE.edges[0])) @ start)[7] for a in (1.0 - 1e-5, 1.0 + 1e-5)]
    assert np.isclose(jax.grad(sloped)(1.0), (ends[1] - ends[0]) / 2e-5, rtol=1e-7)


def kicked(gamma, diffusivity, spring):
    """dx = v dt, dv = −(γ v + spring x) dt + √(2D) dW."""
    return jd.FokkerPlanck((lambda q, v: v, lambda q, v: -gamma * v - spring * q), jd.PerAxis(0.0, diffusivity))


def phase_space(reach, n, m):
    return jd.Grid.uniform((-reach, reach, n), (-4.0, 4.0, m))


@pytest.mark.slow
def test_moments_of_a_free_particle():
    t, width, errors = 0.8, 0.3, []
    decay = np.exp(-GAMMA * t)
    gone = (1 - decay) / GAMMA
    var_v = width * decay**2 + D / GAMMA * (1 - decay**2)
    var_x = width + width * gone**2 + D / GAMMA**3 * (2 * GAMMA * t - 3 + 4 * decay - decay**2)
    start = lambda q, v: jnp.exp(-((q + 0.5) ** 2 + (v - 0.7) ** 2) / (2 * width)) / (2 * jnp.pi * width)
    for reach in (6.0, 3.0):  # as many cells, half as wide: the same program
        grid = phase_space(reach, 30, 24)
        u = np.asarray(jd.solve(kicked(GAMMA, D, 0.0), grid, start, [0.0, t]).values[-1])
        x, v = np.meshgrid(*grid.centers, indexing="ij")
        mean = lambda values, grid=grid, u=u: float(grid.integrate(u * values))
        assert u.min() >= 0 and abs(mean(1.0) - 1) < 1e-4  # what the walls cut off the start
        assert abs(mean(x) - (-0.5 + 0.7 * gone)) < 0.01 and abs(mean(v) - 0.7 * decay) < 0.01
        assert abs(mean(v**2) - mean(v) ** 2 - (2 / 6) ** 2 / 12 - var_v) < 0.01
        errors.append(mean(x**2) - mean(x) ** 2 - var_x)
    assert 1.85 < errors[0] / errors[1] < 2.2
    assert 0 < errors[1] < 2 * t * 4.0 * 0.2 / 2  # less than the largest numerical diffusion does


@pytest.mark.slow
def test_at_rest_in_a_well_and_what_a_fit_of_it_says():
    errors = []
    for reach in (6.0, 3.0):
        grid = phase_space(reach, 24, 16)
        x, v = np.meshgrid(*grid.centers, indexing="ij")
        gibbs = np.exp(-(x**2 + v**2) / (2 * D / GAMMA))
        at_rest = jd.steady_state(kicked(GAMMA, D, 1.0), grid)
        errors.append(np.abs(at_rest - gibbs / grid.integrate(gibbs)).max())
    assert errors[1] < 0.7 * errors[0] < 0.1
    grid, times = phase_space(4.0, 12, 12), [0.3, 0.6, 1.2]
    start = grid.delta((0.5, 0.5))
    made = np.asarray(jd.solve(kicked(GAMMA, D, 1.0), grid, start, [0.0, *times]).values[1:])
    counts = np.random.default_rng(1).poisson(3e4 * made * grid.volumes)
    starts = {"gamma": jd.Positive(0.5), "D": jd.Positive(0.2)}
    fit = jd.fit(
        lambda gamma, D: kicked(gamma, D, 1.0),
        jd.Histograms(grid, start, times, counts),
        parameters=starts,
        progress=False,
    )
    for name, value in (("gamma", GAMMA), ("D", D)):
        assert abs(fit.parameters[name] - value) < 4 * fit.standard_errors[name] < 0.1 * value
    assert any("numerical diffusion |f| h/2 of up to 1.22 along x" in note for note in fit.notes)


REFUSED = {
    "negative": (jd.FokkerPlanck(1.0, -1.0), LINE, "diffusivity is -1 .*; it must not be negative"),
    "nothing moves": (jd.Diffusion(0.0), LINE, "diffusivity is 0 .*; it must be positive inside"),
    "one number on several axes": (jd.FokkerPlanck((1.0, 0.0), 0.0), PLANE, "diffusivity is 0 .*; it must be positive"),
    "zero at one place": (jd.FokkerPlanck(1.0, lambda x: jnp.abs(x - 0.5)), LINE, "diffusivity is 0 at x = 0.5"),
}
AMBIGUOUS = {
    "two sinks": (jd.FokkerPlanck(lambda x: jnp.sin(12 * x), 0.0), LINE, None),
    "lines apart": (jd.Diffusion(jd.PerAxis(0.0, 1.0)), PLANE, 1.0),
    "lines with a drift": (jd.FokkerPlanck((0.0, 0.5), jd.PerAxis(0.0, 1.0)), PLANE, None),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_other_diffusivities_of_zero_are_refused(name):
    equation, grid, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        jd.solve(equation, grid, 1.0, [0.0, 1.0])


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_a_state_at_rest_that_depends_on_the_start_is_refused(name):
    equation, grid, initial = AMBIGUOUS[name]
    with pytest.raises(ValueError, match="depends on where the content starts"):
        jd.steady_state(equation, grid, initial)
