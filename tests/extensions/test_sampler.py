"""A sampler of one's own over the log density of a fit: a random walk (Metropolis et al. 1953, doi:10.1063/1.1699114)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd


def metropolis(log_density, start, step, draws, key):
    def move(state, key):
        place, uniform = jax.random.split(key)
        trial = state[0] + step @ jax.random.normal(place, start.shape)
        new = trial, log_density(trial)
        taken = jnp.log(jax.random.uniform(uniform)) < new[1] - state[1]
        state = jax.tree.map(lambda one, other: jnp.where(taken, one, other), new, state)
        return state, state[0]

    return jax.lax.scan(move, (start, log_density(start)), jax.random.split(key, draws))[1]


@pytest.mark.slow
def test_a_sampler_finds_the_standard_errors(tmp_path):
    grid, rng = jd.Grid.uniform((0.0, 1.0, 20)), np.random.default_rng(0)
    times = np.tile(np.linspace(0.02, 0.3, 20), 2)
    places = np.repeat([0.1, 0.6], 20)
    clean = np.exp(-0.5 * times) * (2 + np.cos(np.pi * places) * np.exp(-(np.pi**2) * times))
    readings = jd.Readings(
        grid, lambda x: 2 + jnp.cos(jnp.pi * x), times, places, clean + 0.01 * rng.normal(size=40), sigma=0.01
    )
    fit = jd.fit(jd.Diffusion(jd.Positive(2.0), decay=jd.Positive(1.0)), readings, progress=False)
    log_density = fit.objective

    values, errors, _ = fit.columns()
    step = 1.7 * np.linalg.cholesky(fit.covariance) / values[:, None]  # of logarithms
    walk = jax.vmap(lambda key: metropolis(log_density, jnp.asarray(log_density.optimum), step, 400, key))
    with jax.enable_x64(True):
        drawn = jax.jit(walk)(jax.random.split(jax.random.key(0), 32))[:, 50:]
        slope = jax.grad(log_density)(jnp.asarray(log_density.optimum))
    x = np.asarray(log_density.parameters(drawn)).reshape(-1, 2)
    np.testing.assert_allclose(x.std(0), errors, rtol=0.06)  # three times what is left to chance
    np.testing.assert_allclose(x.mean(0), values, atol=0.1 * errors.max())
    assert np.abs(slope * errors / values).max() < 1e-3

    with jax.enable_x64(False):  # a plain call is in double precision in any session
        assert log_density(log_density.optimum).dtype == np.float64
        assert np.isfinite(log_density(log_density.optimum + 1.0))
        with pytest.raises(ValueError, match="enable_x64"):  # derivatives in single precision would pass for right
            jax.grad(log_density)(jnp.asarray(log_density.optimum))
        with pytest.raises(ValueError, match=r"shape \(2,\) of its optimum"):
            log_density(np.zeros(3))
    with pytest.raises(ValueError, match="loaded without its data"):
        jd.load(fit.save(tmp_path / "fit.json")).objective  # noqa: B018


@pytest.mark.slow
def test_where_the_log_density_of_a_path_ends_its_slope_ends_too():
    path = np.cumsum(0.1 * np.random.default_rng(0).normal(size=40))
    seen = jd.Trajectory(jd.Grid.uniform((-3.0, 3.0, 60)), 0.1 * np.arange(40), path)
    density = jd.fit(jd.FokkerPlanck(0.0, jd.Positive(0.1)), seen, progress=False).objective
    with jax.enable_x64(True), pytest.warns(UserWarning, match="NaN where its plan ends"):
        z = jnp.asarray(density.optimum)
        value, slope = jax.jit(jax.vmap(jax.value_and_grad(density)))(jnp.stack([z, z - 9.0]))
    assert np.isfinite([value[0], slope[0, 0]]).all() and np.isnan([value[1], slope[1, 0]]).all()
