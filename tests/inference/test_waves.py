"""Potentials, masses and drives from what is seen of waves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxdiff as jd
from jaxdiff.parameters import plain

GRID = jd.Grid.uniform((-6.0, 6.0, 64))
X = GRID.centers[0]
START = lambda x: jnp.pi**-0.25 * jnp.exp(-((x + 2.0) ** 2) / 2)
HARMONIC = lambda k: jd.Schrodinger(lambda x: k * x**2 / 2)
TIMES = np.array([0.5, 1.0, 1.5, 2.0])


@pytest.mark.slow
def test_a_potential_of_12_knots_from_densities_at_5_times():
    knots, times = np.linspace(-4.0, 4.0, 12), np.linspace(0.6, 3.0, 5)
    truth = 0.5 * knots**2 + 0.4 * np.sin(2 * knots)
    whole = lambda v: jnp.concatenate([v[:5], jnp.zeros(1), v[5:]])  # only differences are seen
    spline = lambda v: jd.Spline(knots, jd.Fixed(whole(v)))
    model = lambda v: jd.Schrodinger(spline(v), boundaries=jd.Periodic())
    truth = np.delete(truth - truth[5], 5)
    exact = np.abs(jd.solve(model(truth), GRID, START, np.append(0.0, times)).values[1:]) ** 2
    sigma = 0.01 * exact.max()
    seen = exact + sigma * np.random.default_rng(3).normal(size=exact.shape)
    readings = jd.Readings(GRID, START, np.repeat(times, 64), np.tile(X, 5), seen.ravel(), sigma=sigma)
    guess = np.delete(0.5 * knots**2 - 0.5 * knots[5] ** 2, 5)
    fit = jd.fit(model, readings, parameters={"v": jd.Free(guess)}, progress=False)
    assert fit.converged and fit.verdict.describes
    places = jnp.linspace(-3.0, 3.0, 25)
    curve = lambda v: jax.vmap(plain(spline(v)))(places)
    found = jnp.asarray(fit.parameters["v"])
    slopes = jax.jacfwd(curve)(found)
    band = np.sqrt(np.einsum("ij,jk,ik->i", slopes, fit.covariance, slopes))
    off = np.abs(curve(found) - curve(jnp.asarray(truth)))
    assert (off < 3.5 * band).all() and np.mean(off < 2 * band) > 0.7
    assert np.median(band) < 0.05


def mean(w, t):
    """Of a Gaussian in a harmonic well (ħ = m = 1) that begins at rest, as narrow as it would stay for w = 1."""
    return -2 * np.cos(w * t)


def variance(w, t):
    return np.cos(w * t) ** 2 / 2 + np.sin(w * t) ** 2 / 2 / w**2


@pytest.mark.slow
def test_expectations_and_densities_between_centres():
    wide = jd.Grid.uniform((-8.5, 8.5, 96))
    w, places = np.sqrt(1.2), np.array([-1.9, -0.77, 0.123, 1.5])
    probes = {jd.Moment(1): mean(w, TIMES), jd.Momentum(): 2 * w * np.sin(w * TIMES)}
    probes[jd.Moment(2)] = mean(w, TIMES) ** 2 + variance(w, TIMES)
    seen = [jd.Readings(wide, START, TIMES, probe, values, sigma=0.01) for probe, values in probes.items()]
    x, t = np.tile(places, 4), np.repeat(TIMES, 4)
    values = np.exp(-((x - mean(w, t)) ** 2) / 2 / variance(w, t)) / np.sqrt(2 * np.pi * variance(w, t))
    seen.append(jd.Readings(wide, START, t, x, values, sigma=0.01))
    fit = jd.fit(HARMONIC, seen, parameters={"k": jd.Positive(1.0)}, progress=False)
    assert abs(fit.parameters["k"] - 1.2) < 1e-5 and fit.converged
    assert np.abs(fit.predict(seen[-1]) - values).max() < 1e-5


@pytest.mark.slow
def test_a_gap_of_energies_and_a_histogram():
    gap = jd.Quantity(lambda equation, grid: jnp.diff(jd.spectrum(equation, grid, 2)[0])[0])
    readings = jd.Readings(GRID, START, [1.0], gap, [np.sqrt(1.2)], sigma=0.01)
    fit = jd.fit(HARMONIC, readings, parameters={"k": jd.Positive(1.0)}, progress=False)
    assert abs(fit.parameters["k"] - 1.2) < 1e-6
    assert abs(fit.standard_errors["k"] - 2 * np.sqrt(1.2) * 0.01) < 1e-6
    edges, w = (
        np.linspace(-6.0, 6.0, 17),
        np.sqrt(1.2),
    )  # wide bins across coarse cells: no density at one place is their mean
    below = stats.norm.cdf(edges, mean(w, TIMES)[:, None], np.sqrt(variance(w, TIMES))[:, None])
    grid, counts = jd.Grid.uniform((-6.0, 6.0, 24)), np.round(1e6 * np.diff(below, axis=1))
    histograms = jd.Histograms(grid, START, TIMES, counts, edges=edges)
    fit = jd.fit(HARMONIC, histograms, parameters={"k": jd.Positive(1.0)}, progress=False)
    assert abs(fit.parameters["k"] - 1.2) < 2e-5 and fit.standard_errors["k"] < 2e-3


@pytest.mark.slow
def test_what_is_absorbed_is_in_no_bin():
    grid, start = jd.Grid.uniform((-12.0, 12.0, 96)), lambda x: jnp.pi**-0.25 * jnp.exp(-(x**2) / 2)
    losing = lambda rate: jd.Schrodinger(0.0, absorption=lambda x: rate * jnp.where(jnp.abs(x) > 4, 1.0, 0.0))
    waves = jd.solve(losing(0.5), grid, start, [0.0, 2.0, 3.0]).values[1:]
    counts = np.round(1e5 * np.abs(waves) ** 2 * grid.volumes)
    histograms = jd.Histograms(grid, start, [2.0, 3.0], counts, total=1e5)
    fit = jd.fit(losing, histograms, parameters={"rate": jd.Positive(0.8)}, progress=False)
    assert abs(fit.parameters["rate"] - 0.5) < 0.01
    with pytest.raises(ValueError, match="in no bin"):
        jd.fit(HARMONIC, histograms, parameters={"k": jd.Positive(1.0)}, progress=False)
