"""Noise that remembers: found, whitened, and in the error bars; noise of what was given as measured."""

import jax
import numpy as np
import optax
import pytest
from scipy import stats

import jaxdiff as jd
from jaxdiff.benchmarks.coverage import ar1_noise
from jaxdiff.inference.input_noise import roughness
from jaxdiff.measurements.autocorrelation import coloured, effective, estimate, previous, whiten
from jaxdiff.shell import config

INF = np.inf
TIMES = {
    "regular": ([0, 1, 2, 3, 4, 5], [0] * 6),
    "irregular, unsorted": ([3.0, 0.1, 7.5, 0.4, 2.0, 9.0], [0] * 6),
    "sensors of one to three rows": ([0, 1, 2, 0, 1, 0], [0, 0, 0, 1, 1, 2]),
    "steady state": ([0, 1, INF, 2, INF, 0], [0, 0, 0, 1, 1, 1]),
    "one row a sensor": ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]),
}


def covariance(times, sensors, tau):
    t, s = np.asarray(times, float), np.asarray(sensors)
    with np.errstate(invalid="ignore"):
        gap = np.where(np.eye(len(t), dtype=bool), 0.0, np.abs(t[:, None] - t))
    return np.where(s[:, None] == s, np.exp(-np.where(np.isnan(gap), INF, gap) / tau), 0.0)


@pytest.mark.parametrize("case", TIMES)
def test_whitening_is_the_inverse_root_of_the_covariance(case):
    times, sensors = TIMES[case]
    rows = np.random.default_rng(0).normal(size=(6, 2))
    white = whiten(rows, times, sensors, 2.0)
    np.testing.assert_allclose(
        white.T @ white, rows.T @ np.linalg.solve(covariance(times, sensors, 2.0), rows), rtol=1e-12
    )
    np.testing.assert_allclose(coloured(white, times, sensors, 2.0), rows, rtol=1e-12)
    noise = jd.Readings(GRID, None, times, np.asarray(sensors) / 8, rows[:, 0], sigma=0.5).noise(2.0)
    np.testing.assert_allclose(
        2 * noise["constant"], np.linalg.slogdet(covariance(times, sensors, 2.0) / 4)[1], atol=1e-12
    )


def test_of_rows_at_one_time_one_is_followed_and_none_follows_the_other():
    last = previous([0.0, 0.0, 1.0, 1.0], [0, 0, 0, 0])
    assert sorted(last) in ([-1, -1, -1, 0], [-1, -1, -1, 1])


@pytest.mark.parametrize(
    ("sensors", "rows", "rho", "least", "most"),
    [(1, 400, 0.0, 0.0, 0.03), (5, 6, 0.0, 0.0, 0.03), (5, 6, 0.9, 0.9, 1.0), (1, 60, 0.7, 0.9, 1.0), (3, 60, -0.6, 0.0, 0.0)],
)  # fmt: skip
def test_correlation_is_found_where_it_is(sensors, rows, rho, least, most):
    rng, t = np.random.default_rng(1), np.repeat(np.arange(rows), sensors)
    which, found = np.tile(np.arange(sensors), rows), []
    for _ in range(100):
        r = ar1_noise(rng, rows, sensors, rho).ravel()
        found.append(estimate(r - r.mean(), t, which))
    found = [tau for tau in found if tau is not None]
    assert least <= len(found) / 100 <= most
    if found:
        assert abs(np.median([np.exp(-1 / tau.max()) for tau in found]) - rho) < 0.08


@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_few_rows_tell_no_correlation(rows):
    assert estimate(np.ones(rows + 1), np.arange(rows + 1.0), np.zeros(rows + 1, int)) is None
    assert estimate(np.zeros(50), np.arange(50.0), np.zeros(50, int)) is None


def test_a_sensor_that_drifts_alone_has_a_correlation_time_of_its_own():
    rng = np.random.default_rng(2)
    r = rng.normal(size=(200, 6))
    r[:, 3] = ar1_noise(rng, 200, 1, 0.95)[:, 0]
    tau = estimate(r.ravel(), np.repeat(np.arange(200), 6), np.tile(np.arange(6), 200)).reshape(200, 6)[0]
    assert tau[3] > 8 and tau.max() == tau[3] and np.median(tau) < 2
    assert effective(np.full(100, 0.9)) == pytest.approx(100 / 19)


GRID = jd.Grid.uniform((0.0, 1.0, 40))
T, X = np.tile(np.linspace(0.005, 0.3, 60), 2), np.repeat([0.1, 0.3], 60)
CLEAN = 1 + np.cos(np.pi * X) * np.exp(-0.5 * np.pi**2 * T)
MODEL = jd.Diffusion(jd.Positive(0.4))


def start(x):
    return 1 + jax.numpy.cos(np.pi * x)


def readings(rng, rho, **more):
    return jd.Readings(GRID, start, T, X, CLEAN + 0.02 * ar1_noise(rng, 60, 2, rho).T.ravel(), **more)


def fit(*measurements, **more):
    return jd.fit(MODEL, list(measurements) if len(measurements) > 1 else measurements[0], progress=False, **more)


def words(found):
    return " ".join(found.notes)


@pytest.mark.slow
def test_intervals_hold_under_correlated_noise():
    """Of independent noise they would hold a third of the time."""
    rng, held, alone = np.random.default_rng(3), 0, 0
    for _ in range(40):
        measured = readings(rng, 0.9)
        for errors in ("auto", "iid"):
            low, high = fit(measured, errors=errors).intervals["diffusivity"]
            held, alone = held + (errors == "auto") * (low < 0.5 < high), alone + (errors == "iid") * (low < 0.5 < high)
    assert held >= 33 and alone <= 26


def test_uncorrelated_data_are_left_alone():
    rng = np.random.default_rng(4)
    for rho in (0.0, -0.5):
        measured = readings(rng, rho)
        one, two = fit(measured), fit(measured, errors="iid")
        assert (
            one.parameters == two.parameters and one.standard_errors == two.standard_errors and one.notes == two.notes
        )
        assert one.correlation_times == (None,)


@pytest.mark.slow
def test_what_is_said_of_correlated_data(tmp_path):
    measured = readings(np.random.default_rng(5), 0.8)
    found = fit(measured)
    assert "lag-1 0." in words(found) and "fitted with AR(1) noise" in words(found) and "count as" in words(found)
    assert found.verdict.describes and np.shape(found.correlation_times[0]) == (120,)
    assert jd.load(found.save(tmp_path / "fit.json"), MODEL).notes == found.notes
    widened = fit(measured, optimizer=optax.adam(0.05), steps=200)
    for kind in ("parametric", "residual"):
        repeats = jd.bootstrap(found, 200, kind=kind, progress=False)
        ratio = repeats.standard_errors["diffusivity"] / found.standard_errors["diffusivity"]
        assert 0.75 < ratio < 1.4
    assert "error bars are" in words(widened) and "AR(1)" not in words(widened)
    iid = fit(measured, errors="iid")
    np.testing.assert_allclose(widened.parameters["diffusivity"], iid.parameters["diffusivity"], rtol=1e-3)
    assert 1.5 * iid.standard_errors["diffusivity"] < widened.standard_errors["diffusivity"]
    assert "AR(1)" not in words(fit(measured, loss=lambda p, y: ((p - y) ** 2).sum()))
    split = fit(measured, validation=0.2)
    assert "AR(1)" in words(split) and np.isfinite(split.validation_loss)
    narrow = fit(measured, dtype=jax.numpy.float32)
    np.testing.assert_allclose(narrow.standard_errors["diffusivity"], found.standard_errors["diffusivity"], rtol=0.05)


@pytest.mark.slow
def test_the_likelihood_is_that_of_correlated_noise():
    measured = readings(np.random.default_rng(6), 0.8, sigma=0.02)
    found = fit(measured, loss=jd.negative_log_likelihood)
    residual, expected = measured.values - found.predict(), 0.0
    for s in (slice(60), slice(60, 120)):
        noise = 4e-4 * covariance(T[s], X[s], found.correlation_times[0][s][0])
        expected -= stats.multivariate_normal(cov=noise).logpdf(residual[s])
    np.testing.assert_allclose(found.loss, expected, rtol=1e-9)


@pytest.mark.slow
def test_of_several_measurements_the_correlated_one_is_whitened():
    rng = np.random.default_rng(7)
    found = fit(readings(rng, 0.9), readings(rng, 0.0))
    assert found.correlation_times[0] is not None and found.correlation_times[1] is None
    assert "residuals of measurement 1 are correlated" in words(found)


def test_a_model_that_misses_something_is_not_fitted_to_it():
    trend = CLEAN + 0.3 * np.sin(10 * T) + 0.002 * np.random.default_rng(8).normal(size=len(T))
    measured = jd.Readings(GRID, start, T, X, trend)
    found, iid = fit(measured), fit(measured, errors="iid")
    assert found.parameters == iid.parameters and "misses something" in words(found)
    assert 3 * iid.standard_errors["diffusivity"] < found.standard_errors["diffusivity"]


def test_squares_of_residuals_are_their_variances():
    """Noise that is ten times as large at late times, and what HC3 says of it; against the scatter."""
    rng, errors, estimates = np.random.default_rng(9), [], []
    size = np.where(T < 0.1, 0.05, 0.005)
    for _ in range(40):
        found = fit(jd.Readings(GRID, start, T, X, CLEAN + size * rng.normal(size=len(T))), errors="sandwich")
        errors.append(found.standard_errors["diffusivity"])
        estimates.append(found.parameters["diffusivity"])
    assert 0.75 < np.median(errors) / np.std(estimates) < 1.35


def test_errors_are_words():
    with pytest.raises(ValueError, match="errors must be 'auto', 'iid', 'autocorrelated' or 'sandwich', got 'hac'"):
        fit(readings(np.random.default_rng(0), 0.0), errors="hac")


# Noise of what was given as measured; coverage of walls and images is among the problems of `jaxdiff benchmark coverage`.
@pytest.mark.parametrize(
    ("values", "least", "most"),
    [
        (np.random.default_rng(0).normal(size=400), 0.8, 1.1),
        (np.random.default_rng(0).normal(size=(30, 30)), 0.8, 1.1),
        (np.sin(np.linspace(0, 9, 60)), 0.0, 1e-3),
        (np.where(np.arange(60) < 20, 0.0, 1.0), 0.0, 0.0),
        (np.eye(1, 60, 30)[0], 0.0, 0.0),
        (np.array([0.0, 10.0, 0.0]), 0.0, 0.0),
    ],
)
def test_roughness_is_the_noise_of_an_array(values, least, most):
    assert least <= roughness(values) <= most


@pytest.mark.slow
def test_a_measured_start_widens_error_bars_by_as_much_as_it_scatters():
    rng, t = np.random.default_rng(10), np.linspace(0.01, 0.1, 5)
    exact = np.asarray(GRID.average(start))
    clean = 1 + np.cos(np.pi * GRID.centers[0]) * np.exp(-0.5 * np.pi**2 * t[:, None])
    estimates, errors, without = [], [], []
    for _ in range(40):
        images, first = clean + 0.1 * rng.normal(size=clean.shape), exact + 0.1 * rng.normal(size=exact.shape)
        series = [jd.Readings.from_images(GRID, first, t, images, start=0.0, initial_sigma=s) for s in (None, 0.0)]
        found, bare = map(fit, series)
        estimates.append(found.parameters["diffusivity"])
        errors.append(found.standard_errors["diffusivity"])
        without.append(bare.standard_errors["diffusivity"])
    assert "noise of the start is in the error bars" in words(found) and "start" not in words(bare)
    assert 0.8 < np.median(errors) / np.std(estimates) < 1.3 and np.median(errors) > 1.2 * np.median(without)
    smooth = fit(jd.Readings.from_images(GRID, exact, t, images, start=0.0))
    assert "start" not in words(smooth)
    given = fit(jd.Readings.from_images(GRID, exact, t, images, start=0.0, initial_sigma=0.2))
    assert given.standard_errors["diffusivity"] > 1.5 * smooth.standard_errors["diffusivity"]


def test_sigma_of_a_series_is_scaled_by_numbers():
    course = jd.Series([0.0, 1.0, 2.0], [0.0, 1.0, 3.0], sigma=0.1)
    assert (-2 * course + 1).sigma == pytest.approx(0.2) and (course / 4).sigma == pytest.approx(0.025)
    for wrong, message in (
        (lambda: course + course, "takes numbers alone"),
        (lambda: jd.Series([0.0, 1.0], [0.0, 1.0], sigma=-1.0), "from zero up"),
        (lambda: jd.Series([0.0, 1.0], [0.0, 1.0], sigma=[1.0, 1.0, 1.0]), "one a value"),
        (lambda: jd.Readings(GRID, 0.0, [1.0], [0.5], [1.0], initial_sigma=0.1), "an array over cells"),
        (lambda: jd.Readings(GRID, 0.0, [1.0], [0.5], [1.0], initial_sigma=[0.1, 0.2]), "initial_sigma must be"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            wrong()


def test_a_configuration_says_how_and_a_first_row_is_measured(tmp_path):
    rows = [f"{t},{1 + t},{2 + t},{1 - t}" for t in (0.0, 0.1, 0.2, 0.3)]
    (tmp_path / "data.csv").write_text("\n".join(["t,a,b,c", *rows]))
    (tmp_path / "fit.toml").write_text(
        '[grid]\nlower = 0.0\nupper = 1.0\ncells = 10\n[equation]\nkind = "diffusion"\ndiffusivity = "D"\n'
        "[parameters]\nD = 1.0\n[initial]\nprofile = 'first row'\n[fit]\nerrors = 'iid'\n"
        "[data]\ntable = 'data.csv'\ntime = 't'\nsensors = { a = 0.1, b = 0.5, c = 0.9 }\n"
    )
    problem = config.load(tmp_path / "fit.toml")
    assert problem.fit_options["errors"] == "iid"
    profiles = problem.measurement.initial_sigma.profiles
    assert profiles.shape == (3, 10)
    np.testing.assert_allclose(profiles.sum(0), 1.0)  # linear between sensors
