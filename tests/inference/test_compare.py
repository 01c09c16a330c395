"""Fits compared: criteria and tests by their closed forms, across equations, ties, and what cannot be compared."""

import numpy as np
import pytest
from scipy import stats

import jaxdiff as jd

GRID, TIMES = jd.Grid.uniform((0.0, 1.0, 4)), np.linspace(0.1, 3.0, 30)
PLACES, NOISE = np.full(30, 0.5), 0.05 * np.random.default_rng(3).normal(size=30)  # the seed was chosen before looking
VALUES = 1.0 + 0.02 * TIMES + NOISE


def line(a, b):
    """u = a + b t, everywhere."""
    return jd.Diffusion(1.0, source=b), a


def readings(values=VALUES, sigma=None):
    return jd.Readings(GRID, None, TIMES, PLACES, values, sigma)


def fit(slope, data=None, **options):
    starts = {"a": jd.Free(0.5), "b": slope}
    return jd.fit(line, data or readings(), parameters=starts, errors="iid", progress=False, **options)


@pytest.fixture(scope="module")
def both():
    return fit(jd.Fixed(0.0)), fit(jd.Free(0.1))


def residuals(degree, times=TIMES, values=VALUES):
    return np.sum((values - np.polyval(np.polyfit(times, values, degree), times)) ** 2)


@pytest.mark.slow
def test_criteria_are_those_of_a_gaussian_regression(both):
    found, n, k = jd.compare(*both, names=["constant", "line"]), 30, np.array([2, 3])  # a variance counts as one
    squares = np.array([residuals(0), residuals(1)])
    likelihood = -0.5 * n * (np.log(2 * np.pi * squares / n) + 1)
    np.testing.assert_allclose(found.log_likelihood, likelihood, rtol=1e-7)
    np.testing.assert_allclose(found.aic, 2 * k - 2 * likelihood, rtol=1e-7)
    np.testing.assert_allclose(found.aicc, found.aic + 2 * k * (k + 1) / (n - k - 1), rtol=1e-12)
    np.testing.assert_allclose(found.bic, k * np.log(n) - 2 * likelihood, rtol=1e-7)
    relative = np.exp(-0.5 * (found.aic - found.aic.min()))
    np.testing.assert_allclose(found.weights, relative / relative.sum(), rtol=1e-12)
    assert found.k.tolist() == [2, 3] and found.n == n


def test_the_likelihood_ratio_of_nested_fits(both):
    (test,) = jd.compare(*both, names=["constant", "line"]).tests
    statistic = 30 * np.log(residuals(0) / residuals(1))
    assert (test.small, test.large, test.freedom) == ("constant", "line", 1)
    assert test.statistic == pytest.approx(statistic, rel=1e-6) and test.p == pytest.approx(stats.chi2.sf(statistic, 1))
    assert "b = 0" in test.known
    assert jd.compare(*both, nested=False).tests == ()
    assert jd.compare(*both, nested=True).tests[0].known == "nested as you say"


def test_where_sigma_is_known_in_one_it_is_said(both):
    known = fit(jd.Free(0.1), readings(sigma=0.05))
    found = jd.compare(both[1], known)
    squares = residuals(1)
    expected = -0.5 * squares / 0.05**2 - 30 * np.log(0.05 * np.sqrt(2 * np.pi))
    assert found.log_likelihood[1] == pytest.approx(expected, rel=1e-7)
    assert found.k.tolist() == [3, 2] and "sigma is known in 2 alone" in str(found) and found.tests == ()


def test_a_tie_is_named_and_the_table_is_whole(both):
    found = jd.compare({"constant": both[0], "line": both[1], "again": both[1]})
    assert {"line", "again"} <= set(found.ties) if found.choose() == "line" else found.choose() == "constant"
    frame = found.to_frame()
    assert list(frame.index) == ["constant", "line", "again"] and frame["ΔAIC"].min() == 0
    np.testing.assert_allclose(frame["weight"].sum(), 1.0)
    assert "tie by AIC/2" in str(found) and found.best in both
    assert found.plot().axes


@pytest.mark.slow
def test_a_diffusion_and_the_jumps_that_it_is_cut_into_have_one_likelihood():
    cells = jd.Grid.uniform((0.0, 1.0, 5))
    start = np.array([1.0, 0, 0, 0, 0])
    counts = np.array([[60, 25, 10, 4, 1], [35, 28, 17, 12, 8]])
    continuous = jd.fit(
        jd.FokkerPlanck(0.0, jd.Positive(0.1)),
        jd.Histograms(cells, start / 0.2, [0.1, 0.3], counts),
        loss=jd.negative_log_likelihood,
        progress=False,
    )

    def jumps(r):
        import jax.numpy as jnp

        return jd.MasterEquation(r * jnp.array(np.eye(5, k=1) + np.eye(5, k=-1)))

    states = jd.States(list("abcde"))
    discrete = jd.fit(
        jumps,
        jd.Histograms(states, start, [0.1, 0.3], counts),
        loss=jd.negative_log_likelihood,
        parameters={"r": jd.Positive(3.0)},
        progress=False,
    )
    assert discrete.parameters["r"] * 0.2**2 == pytest.approx(continuous.parameters["diffusivity"], rel=1e-4)
    found = jd.compare(continuous, discrete, names=["Fokker–Planck", "master equation"])
    assert found.n == 200 and abs(np.diff(found.log_likelihood)[0]) < 1e-6
    assert found.ties == ("Fokker–Planck", "master equation") and found.tests == ()
    seen = continuous.predict()
    expected = np.sum(counts * np.log(seen / seen.sum(1, keepdims=True)))
    assert found.log_likelihood[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_data_held_out_are_compared_where_they_are_the_same(both):
    first, second = (fit(slope, validation=0.2) for slope in (jd.Fixed(0.0), jd.Free(0.1)))
    found = jd.compare(first, second, by="held_out")
    np.testing.assert_allclose(found.held_out, [first.validation_loss, second.validation_loss])
    assert found.choose() == ("1" if first.validation_loss < second.validation_loss else "2")
    # both see the data of the fits with a part held out as other data
    with pytest.raises(ValueError, match=r"different data .* 30 and 24 times"):
        jd.compare(both[0], first)


def test_what_cannot_be_compared_is_refused_in_one_line(both, tmp_path):
    own = fit(jd.Free(0.1), loss=lambda a, b: ((a - b) ** 4).sum())
    other = fit(jd.Free(0.1), readings(VALUES + 0.1))
    loaded = jd.load(both[0].save(tmp_path / "fit.json"))
    for call, error, words in [
        (lambda: jd.compare(both[0]), ValueError, "two fits at least, got 1"),
        (lambda: jd.compare(*both, by="loo"), ValueError, "by must be one of 'aic'"),
        (lambda: jd.compare(*both, names=["a", "a"]), ValueError, "names must be 2 different ones"),
        (lambda: jd.compare(both[0], 3.0), TypeError, "got float"),
        (lambda: jd.compare(both[0], other), ValueError, "1 and 2 have other values"),
        (lambda: jd.compare(both[0], loaded), ValueError, "fit 2 was loaded"),
        (lambda: jd.compare(own, own), ValueError, "none of the fits has AIC"),
        (lambda: jd.compare(*both, by="held_out"), ValueError, "none of the fits has held out"),
    ]:
        with pytest.raises(error, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    found = jd.compare(both[1], own)
    assert np.isnan(found.log_likelihood[1]) and "2 has no likelihood" in str(found) and found.choose() == "1"
