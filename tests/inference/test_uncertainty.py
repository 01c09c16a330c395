"""Error bars: coverage, what is not identified, bounds, and where there is no noise scale."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxdiff as jd
from jaxdiff.inference.uncertainty import quantile

GRID = jd.Grid.uniform((0.0, 1.0, 40))
REPEATS = 100  # seeds chosen before looking; `jaxdiff benchmark coverage` takes many more


def cosine(x):
    return 1 + jnp.cos(jnp.pi * x)


def covered(fit, truth):
    return [fit.intervals[name][0] <= value <= fit.intervals[name][1] for name, value in truth.items()]


def assert_covers(hits):
    share = np.mean(hits, axis=0)
    assert np.all(np.abs(share - 0.95) < 3 * np.sqrt(0.95 * 0.05 / len(hits))), share


def heat(sigma, n=12):
    times, places = np.tile(np.linspace(0.02, 0.4, n // 2), 2), np.repeat([0.2, 0.7], n // 2)
    equation = jd.Diffusion(0.3, decay=0.5)
    solution = jd.solve(equation, GRID, cosine, np.append(0.0, times[: n // 2]))
    values = np.asarray(GRID.interpolate(solution.values[1:], np.array([0.2, 0.7]))).T.ravel()
    return lambda rng: jd.Readings(GRID, cosine, times, places, values + 0.02 * rng.normal(size=n), sigma)


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [None, 0.02])
def test_intervals_of_readings_cover(sigma):
    rng, data = np.random.default_rng(7), heat(sigma)
    truth = {"diffusivity": 0.3, "decay": 0.5}
    model = jd.Diffusion(jd.Positive(0.2), decay=jd.Free(0.3))
    assert_covers([covered(jd.fit(model, data(rng), progress=False), truth) for _ in range(REPEATS)])


@pytest.mark.slow
def test_intervals_of_histograms_cover():
    grid = jd.Grid.uniform((-3.0, 3.0, 40))
    well = lambda a, D: jd.FokkerPlanck(jd.Expression("a*x-x**3", a=a), D)
    solution = jd.solve(well(1.5, 0.5), grid, grid.delta(0.5), [0.0, 0.3, 1.0])
    mass = np.maximum(np.asarray(solution.values[1:] * grid.volumes), 0)
    rng, truth, sizes = np.random.default_rng(8), {"drift.a": 1.5, "diffusivity": 0.5}, (300, 900)
    hits = []
    for _ in range(REPEATS):
        counts = [rng.multinomial(size, m / m.sum()) for size, m in zip(sizes, mass)]
        data = jd.Histograms(grid, grid.delta(0.5), [0.3, 1.0], counts)
        hits.append(
            covered(jd.fit(well(jd.Free(1.0), jd.Positive(1.0)), data, loss=jd.kl_divergence, progress=False), truth)
        )
    assert_covers(hits)


@pytest.mark.slow
def test_intervals_of_paths_cover():
    rng, truth, dt, count = np.random.default_rng(9), {"drift.k": 1.5, "diffusivity": 0.4}, 0.2, 150
    model = jd.FokkerPlanck(jd.Expression("-k*x", k=jd.Positive(1.0)), jd.Positive(0.5))
    grid = jd.Grid.uniform((-9.0, 9.0, 50))
    shrink, spread = np.exp(-1.5 * dt), np.sqrt(0.4 / 1.5)
    hits = []
    for _ in range(REPEATS):
        x = [spread * rng.normal()]
        for _ in range(count):
            x.append(x[-1] * shrink + spread * np.sqrt(1 - shrink**2) * rng.normal())
        data = jd.Trajectory(grid, np.arange(count + 1) * dt, x)
        hits.append(covered(jd.fit(model, data, progress=False), truth))
    assert_covers(hits)


@pytest.mark.slow
def test_what_the_data_do_not_tell_apart_is_named():
    data = heat(None)(np.random.default_rng(0))
    model = lambda D, a, b: jd.Diffusion(D, decay=a + b)
    result = jd.fit(model, data, parameters={"D": jd.Positive(0.2), "a": 0.1, "b": 0.2}, progress=False)
    assert np.isnan([result.standard_errors["a"], result.standard_errors["b"]]).all()
    assert np.isfinite(result.standard_errors["D"]) and "not identified by these data: a, b" in str(result)
    alone = jd.fit(
        lambda D, k: jd.Diffusion(D, decay=k), data, parameters={"D": jd.Positive(0.2), "k": 0.1}, progress=False
    )
    np.testing.assert_allclose(result.parameters["a"] + result.parameters["b"], alone.parameters["k"], rtol=1e-4)
    np.testing.assert_allclose(result.parameters["D"], alone.parameters["D"], rtol=1e-4)


@pytest.mark.slow
def test_estimates_that_nearly_compensate_each_other_are_named():
    """A loss a + b c, seen at c = 1 and 1.2: of equal weights the correlation is −Σc/√(2 Σc²) = −0.996; at ±1 there is none."""
    grid, times = jd.Grid.uniform((0.0, 1.0, 8)), np.linspace(0.1, 1.0, 10)

    def fitted(*several):
        readings = [
            jd.Readings(
                grid,
                1.0,
                times,
                0.5,
                np.exp(-(1 + c) * times),
                sigma=0.01 * np.exp(-(1 + c) * times),
                conditions={"c": c},
            )
            for c in several
        ]
        model = lambda a, b, c: jd.Diffusion(1.0, decay=a + b * c)
        return jd.fit(model, readings, parameters={"a": jd.Free(0.9), "b": jd.Free(1.1)}, progress=False)

    near, far = fitted(1.0, 1.2), fitted(-0.9, 0.9)
    assert any("trade off against each other: a and b (correlation -0.996)" in note for note in near.notes)
    assert abs(near.correlation[0, 1] + 0.99590) < 1e-4
    assert not any("trade off" in note for note in far.notes)


@pytest.mark.slow
def test_a_parameter_without_effect_is_named():
    data = heat(None)(np.random.default_rng(0))
    model = lambda D, idle: jd.Diffusion(D, decay=0.5 + 0 * idle)
    result = jd.fit(model, data, parameters={"D": jd.Positive(0.2), "idle": 1.0}, progress=False)
    assert result.converged and np.isnan(result.standard_errors["idle"]) and result.parameters["idle"] == 1.0
    assert result.standard_errors["D"] > 0 and "not identified by these data: idle" in str(result)


def test_a_parameter_at_its_bound_is_named():
    data = heat(None)(np.random.default_rng(0))
    model = jd.Diffusion(jd.Bounded(0.1, 0.05, 0.2), decay=jd.Free(0.3))
    result = jd.fit(model, data, progress=False)
    np.testing.assert_allclose(result.parameters["diffusivity"], 0.2, rtol=1e-6)
    assert np.isnan(result.standard_errors["diffusivity"]) and "diffusivity has run to its upper bound" in str(result)
    assert result.converged and result.standard_errors["decay"] > 0


@pytest.mark.slow
def test_residuals_that_remember_are_named():
    data = heat(None, 60)(np.random.default_rng(0))
    slow = data.values + 0.05 * np.sin(8 * data.times)
    model = jd.Diffusion(jd.Positive(0.2), decay=jd.Free(0.3))
    for values, remembered in ((data.values, False), (slow, True)):
        result = jd.fit(model, jd.Readings(GRID, cosine, data.times, data.positions, values), progress=False)
        assert ("the residuals are correlated in time (lag-1 0." in str(result)) is remembered


@pytest.mark.slow
def test_what_is_hardly_identified_is_named():
    data = heat(None)(np.random.default_rng(0))
    model = lambda D, a, b, w: jd.Diffusion(D, decay=0.5 + 1e-3 * jnp.log(a) + w * b)
    cases: tuple = (
        ({"a": jd.Positive(1.0)}, "a"),
        ({"b": 1.0, "w": jd.Fixed(1e-5)}, "b"),
        ({"b": jd.Bounded(0.5, 0.0, 1.0)}, "b"),
    )
    for starts, name in cases:
        starts = {"D": jd.Positive(0.2), "a": jd.Fixed(1.0), "b": jd.Fixed(0.0), "w": jd.Fixed(1e-3)} | starts
        text = str(jd.fit(model, data, parameters=starts, progress=False))
        assert f"{name} is hardly identified" in text or f"{name} has run to" in text
        assert "D is hardly" not in text


@pytest.mark.slow
def test_no_residual_variance_without_spare_readings():
    data = heat(None)(np.random.default_rng(0))
    result = jd.fit(jd.Diffusion(jd.Positive(0.2), decay=jd.Free(0.3)), data.rows(np.array([2, 9])), progress=False)
    assert np.isnan(result.standard_errors["decay"]) and "give sigma" in str(result)


def test_known_noise_scales_the_errors_as_it_must():
    data = heat(None)(np.random.default_rng(0))
    model = jd.Diffusion(jd.Positive(0.2), decay=jd.Free(0.3))
    one, ten = (
        jd.fit(model, jd.Readings(GRID, cosine, data.times, data.positions, data.values, sigma), progress=False)
        for sigma in (0.02, 0.2)
    )
    np.testing.assert_allclose(ten.covariance, 100 * one.covariance, rtol=1e-6)
    free = jd.fit(model, data, progress=False)
    spread = np.sqrt(free.loss * 12 / 10) / 0.02
    np.testing.assert_allclose(free.covariance, spread**2 * one.covariance, rtol=1e-5)
    low, high = free.intervals["decay"]
    np.testing.assert_allclose(high - low, 2 * stats.t.ppf(0.975, 10) * free.standard_errors["decay"], rtol=1e-6)
    low, high = one.intervals["diffusivity"]  # symmetric in the logarithm
    np.testing.assert_allclose(low * high, one.parameters["diffusivity"] ** 2, rtol=1e-9)
    assert quantile(0.95, None) == pytest.approx(1.959964, abs=1e-6)
