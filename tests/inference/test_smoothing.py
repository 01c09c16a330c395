"""Smooth fields: the strength that REML finds, error bars and bands, against exact formulas of linear problems with normal noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize

import jaxdiff as jd
from jaxdiff.inference.loss import Expansion
from jaxdiff.inference.smoothing import restricted_likelihood
from jaxdiff.reports import figures as reports
from jaxdiff.reports.views import FitView

GRID = jd.Grid.uniform((0.0, 1.0, 40))
KNOTS = np.linspace(0.0, 1.0, 12)
PLACES = np.tile(np.linspace(0.02, 0.98, 25), 4)
TIMES = np.repeat([0.001, 0.002, 0.003, 0.004], 25)
SIGMA = 0.1


def curve(x):
    return jnp.sin(6 * x) + x


def readings(seed):
    values = np.asarray(curve(PLACES)) + SIGMA * np.random.default_rng(seed).normal(size=100)
    return values, SIGMA


def fitted(smooth, values, sigma, **how):
    start = jd.Spline(KNOTS, np.zeros(12), smooth=smooth)
    data = jd.Readings(GRID, start, TIMES, PLACES, values, sigma=sigma)
    return jd.fit(jd.Diffusion(1e-3), data, errors="iid", progress=False, **how)


def omega():
    """∫ c″ᵢ c″ⱼ dx of cardinal natural splines, whose second derivatives are linear between knots."""
    second = np.stack([CubicSpline(KNOTS, e, bc_type="natural")(KNOTS, 2) for e in np.eye(12)])
    h = np.diff(KNOTS)
    left, right = second[:, :-1], second[:, 1:]
    return sum(
        h[k] / 6 * (2 * np.outer(left[:, k], left[:, k]) + 2 * np.outer(right[:, k], right[:, k])
                    + np.outer(left[:, k], right[:, k]) + np.outer(right[:, k], left[:, k]))
        for k in range(11)
    )  # fmt: skip


def design(fit):
    """The Jacobian of the readings by the values at the knots."""
    slope = np.asarray(fit.problem.parameters.transform.scale)
    return np.asarray(fit.predictions[0][1], float)[:100] / slope


def restricted(A, y, S, ln_strength, ln_sigma):
    """Minus the restricted log likelihood of y = A(Nα + Ru) + e by Patterson & Thompson's formula, in the space of the data."""
    values, vectors = np.linalg.eigh(S)
    bent = values > 1e-9 * values.max()
    X, Z = A @ vectors[:, ~bent], A @ vectors[:, bent] / np.sqrt(values[bent])
    V = np.exp(2 * ln_sigma) * np.eye(len(y)) + np.exp(-ln_strength) * Z @ Z.T
    W = np.linalg.inv(V)
    M = X.T @ W @ X
    residual = y - X @ np.linalg.solve(M, X.T @ W @ y)
    return 0.5 * (np.linalg.slogdet(V)[1] + np.linalg.slogdet(M)[1] + residual @ W @ residual)


@pytest.mark.slow
def test_strength_of_known_noise_is_that_of_the_restricted_likelihood():
    values, sigma = readings(0)
    fit = fitted(True, values, sigma)
    A, S = design(fit), omega()
    best = minimize(lambda q: restricted(A, values, S, q[0], np.log(SIGMA)), [0.0], method="BFGS")
    (smooth,) = fit.smooths
    assert np.log(smooth.strength) == pytest.approx(best.x[0], abs=1e-3)
    precision = A.T @ A / SIGMA**2 + smooth.strength * S
    np.testing.assert_allclose(fit.covariance, np.linalg.inv(precision), rtol=1e-5, atol=1e-9)
    edf = np.trace(np.linalg.solve(precision, A.T @ A / SIGMA**2))
    assert smooth.freedom == pytest.approx(edf, abs=1e-4) and fit.degrees_of_freedom == pytest.approx(edf, abs=1e-4)
    assert smooth.name == "initial" and f"{edf:.3g} effective degrees of freedom of 12" in fit.summary()
    np.testing.assert_allclose(
        fit.parameters["initial.values"], np.linalg.solve(precision, A.T @ values / SIGMA**2), atol=1e-7
    )


@pytest.mark.slow
def test_strength_of_unknown_noise_is_that_of_the_restricted_likelihood():
    values, _ = readings(1)
    fit = fitted(True, values, None)
    A, S = design(fit), omega()
    best = minimize(lambda q: restricted(A, values, S, *q), [0.0, np.log(SIGMA)], method="BFGS")
    (smooth,) = fit.smooths
    residual = values - A @ fit.parameters["initial.values"]
    edf = fit.degrees_of_freedom
    variance = residual @ residual / (100 - edf)
    ratio = smooth.strength * residual @ residual / 100  # λσ², with the variance that is in the loss
    assert np.log(ratio) == pytest.approx(best.x[0] + 2 * best.x[1], abs=1e-2)
    assert np.log(variance) == pytest.approx(2 * best.x[1], abs=1e-2)
    expected = variance * np.linalg.inv(A.T @ A + ratio * S)
    np.testing.assert_allclose(fit.covariance, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_a_strength_that_is_given_stays_and_bands_are_those_of_the_posterior():
    values, sigma = readings(2)
    fit = fitted(0.03, values, sigma)
    A, S = design(fit), omega()
    assert fit.smooths[0].strength == 0.03 and not fit.smooths[0].chosen and "as given" in fit.notes[0]
    V = np.linalg.inv(A.T @ A / SIGMA**2 + 0.03 * S)
    np.testing.assert_allclose(fit.covariance, V, rtol=1e-6, atol=1e-10)


@pytest.mark.slow
def test_a_straight_line_is_told():
    fit = fitted(True, 2.0 - PLACES, SIGMA)
    assert fit.converged and "straight, as nothing in these data tells that it bends" in fit.notes[0]
    assert fit.degrees_of_freedom == pytest.approx(2.0, abs=0.1)


def test_fellner_schall_sees_the_same_wherever_it_starts():
    A = np.random.default_rng(4).normal(size=(30, 12))
    y = A @ (3 * np.sin(6 * KNOTS)) + np.random.default_rng(5).normal(size=30)
    H, g, S = A.T @ A, A.T @ y, omega()
    values, vectors = np.linalg.eigh(S)
    root = np.sqrt(values[2:, None]) * vectors[:, 2:].T
    data = Expansion(0.0, -g, H, H)
    given = lambda start: restricted_likelihood(
        data, [np.zeros(10)], [root], np.array([start]), np.ones(1, bool), np.zeros(1)
    )[0]
    lam = given(1.0)
    assert given(1e-4) == pytest.approx(lam, rel=1e-5) == given(1e4)
    V = np.linalg.inv(H + lam * S)
    b = V @ g
    assert (10 / lam - np.trace(V @ S)) / (b @ S @ b) == pytest.approx(1.0, rel=1e-3)  # its fixed point


@pytest.mark.slow
def test_bands_of_what_is_no_spline():
    """The delta method is exact for what is linear in a number, and its interval that of the logarithm for the number itself."""
    data = jd.Readings(
        GRID, jd.Polynomial(jd.Free([2.0, 1.0])), TIMES, PLACES, (3 + PLACES) * np.exp(-50 * TIMES), sigma=0.1
    )
    fit = jd.fit(jd.Diffusion(1e-3, decay=jd.Positive(20.0)), data, errors="iid", progress=False)
    band = fit.band(lambda model, x: model.decay * (x - 0.5), [0.0, 0.5, 1.0])
    error = fit.standard_errors["decay"]
    np.testing.assert_allclose(band.errors, [error / 2, 0.0, error / 2], rtol=1e-9)
    assert not band.logarithmic and band.critical == pytest.approx(1.96, abs=0.1)
    np.testing.assert_allclose(band.lower, band.value - 1.959964 * band.errors)
    positive = fit.band("decay", [0.0])
    assert positive.logarithmic and positive.lower[0] == pytest.approx(fit.intervals["decay"][0], rel=1e-6)
    with pytest.raises(ValueError, match="has no 'friction'; pass function"):
        fit.band("friction")
    with pytest.raises(ValueError, match="level must lie between 0 and 1, got 2"):
        fit.band("decay", level=2)
    with pytest.raises(ValueError, match=r"must have 1 coordinates at each position, got the shape \(2, 2\)"):
        fit.band("decay", np.ones((2, 2)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jd.Spline(KNOTS, KNOTS, smooth=-1.0), "smooth must be True, False or a strength above zero, got -1.0"),
        (lambda: jd.Spline(KNOTS, KNOTS, smooth="yes"), "a strength above zero, got 'yes'"),
        (lambda: jd.Spline(KNOTS, KNOTS, smooth=np.nan), "a strength above zero, got nan"),
        (lambda: fitted(True, curve(PLACES), 0.1, optimizer=optax.adam(0.1)), "smooth=True asks for curvature"),
        (lambda: fitted(True, curve(PLACES), 0.1, loss=jd.mse), "smooth=True asks for a likelihood, got mse"),
        pytest.param(
            lambda: at_rest(jd.Spline([-1.0, 0.0, 1.0], np.ones(3), positive=True)),
            "states at rest tell drift/D alone",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def at_rest(diffusivity):
    grid = jd.Grid.uniform((-1.0, 1.0, 20))
    counts = np.random.default_rng(0).multinomial(1000, np.full(20, 0.05))
    drift = jd.Spline(np.linspace(-1, 1, 6), np.zeros(6), smooth=True)
    data = jd.Histograms(grid, np.ones(20), [np.inf], counts[None])
    return jd.fit(jd.FokkerPlanck(drift, diffusivity), data, progress=False)


def test_many_at_once_are_refused():
    start = jd.Spline(KNOTS, np.zeros(12), smooth=True)
    data = jd.Readings(GRID, start, TIMES, PLACES, np.ones(100), sigma=0.1)
    with pytest.raises(ValueError, match="smooth splines have a strength for each data set"):
        jd.fit_many(jd.Diffusion(1e-3), data, np.ones((2, 100)), progress=False)


def drift(x):
    return 2 * (x - x**3) + 0.3


def diffusivity(x):
    return 0.4 * jnp.exp(0.5 * jnp.sin(1.5 * x))


def landscape(knots, **drift):
    pull = drift or {"drift": jd.Spline(knots, -knots, smooth=True)}
    return jd.FokkerPlanck(pull["drift"], jd.Spline(knots, np.full(len(knots), 0.5), positive=True, smooth=True))


def held(fit, places):
    """Which of the two fields their simultaneous bands hold, and errors of the drift and of ln D (rms)."""
    found = [fit.band(name, places) for name in ("drift", "diffusivity")]
    pull, spread = (np.asarray(truth(places)) for truth in (drift, diffusivity))
    errors = found[0].value - pull, np.log(found[1].value / spread)
    holds = found[0].holds(drift), found[1].holds(diffusivity)
    return holds, [np.sqrt(np.mean(one**2)) for one in errors]


def walked(rng, walkers, steps, dt=0.1, parts=40):
    """Milstein's scheme."""
    h, x, path = dt / parts, rng.normal(size=walkers), []
    for k in range(30 + steps + 1):
        path += [x] if k >= 30 else []
        for _ in range(parts):
            noise = np.sqrt(h) * rng.normal(size=walkers)
            D = 0.4 * np.exp(0.5 * np.sin(1.5 * x))
            x = x + drift(x) * h + np.sqrt(2 * D) * noise + 0.375 * np.cos(1.5 * x) * D * (noise**2 - h)
    return np.array(path).T


@pytest.mark.slow
def test_fields_of_paths():
    """Errors as in benchmarks of 10⁵ transitions, a fifth of which are here; bands hold the truth."""
    rng, times, knots = np.random.default_rng(7), np.arange(101) * 0.1, np.linspace(-1.9, 2.1, 14)
    grid, every = jd.Grid.uniform((-3.0, 3.0, 60)), []
    for _ in range(2):
        paths = walked(rng, 200, 100)
        fit = jd.fit(landscape(knots), jd.Trajectory(grid, [times] * 200, list(paths)), progress=False)
        assert fit.converged
        holds, errors = held(fit, np.linspace(*np.quantile(paths, [0.01, 0.99]), 50))
        assert errors[0] < 0.17 and errors[1] < 0.06
        every.append(holds)
    assert np.sum(every) >= 3 and "fields" in reports.figures(FitView(fit))


@pytest.mark.slow
def test_fields_of_histograms():
    """Twelve histograms of a cloud that spreads; the energy of a potential is that of the drift."""
    grid, rng, knots = jd.Grid.uniform((-2.5, 2.5, 60)), np.random.default_rng(8), np.linspace(-2.0, 2.2, 14)
    times, start = np.linspace(0.05, 2.0, 12), grid.average(lambda x: jnp.exp(-(((x + 0.5) / 0.3) ** 2)))
    with jax.enable_x64(True):
        states = jd.solve(jd.FokkerPlanck(drift, diffusivity), grid, start, np.append(0.0, times)).values[1:]
    shares = np.maximum(np.asarray(states), 0) / np.sum(states, axis=1, keepdims=True)
    places, every = np.linspace(-1.2, 1.4, 40), []
    for _ in range(5):
        counts = rng.multinomial(10_000, shares)
        data = jd.Histograms(grid, np.asarray(start), times, counts)
        fit = jd.fit(landscape(knots), data, progress=False)
        assert fit.converged
        every.append(held(fit, places)[0])
    assert np.sum(every) >= 8
    energy = jd.Potential(jd.Spline(knots, knots**2 / 2, smooth=True))
    fit = jd.fit(landscape(knots, drift=energy), data, progress=False)
    depth = fit.band(lambda model, x: model.drift.energy(x) - model.drift.energy(0.0), np.linspace(-1.1, 1.3, 30))
    assert depth.holds(lambda x: 0.5 * x**4 - x**2 - 0.3 * x)


def test_bands_of_numbers_that_may_be_zero_and_of_few_readings():
    """A free number that came out above zero has no logarithm; few residuals tell their variance badly."""
    grid, times = jd.Grid.uniform((0.0, 1.0, 8)), np.linspace(0.5, 2.0, 4)
    noise = np.array([0.02, -0.03, 0.01, 0.02])
    readings = jd.Readings(grid, 1.0, times, np.full(4, 0.5), 1.0 - 0.01 * times + noise)
    fit = jd.fit(jd.Diffusion(1.0, decay=jd.Free(0.05)), readings, progress=False)
    low, high = fit.intervals["decay"]
    band = fit.band(lambda model, x: model.decay + 0.0 * x, [0.5])
    assert low < 0 < high and not band.logarithmic
    assert (band.lower[0], band.upper[0]) == pytest.approx((low, high), rel=1e-3)
    assert band.critical > 2.5
    with pytest.raises(ValueError, match="draws or more, got 2000"):
        fit.band(lambda model, x: model.decay + 0.0 * x, [0.5], level=0.9999)
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        fit.band(lambda model, x: model.decay + 0.0 * x, [0.5], level="0.9")


@pytest.mark.parametrize("choose", [jd.sweep, jd.cross_validate])
def test_roughness_that_would_not_count_is_refused(choose):
    grid, times = jd.Grid.uniform((0.0, 1.0, 8)), np.linspace(0.1, 2.0, 20)
    readings = jd.Readings(grid, 1.0, times, np.full(20, 0.5), np.exp(-0.5 * times), sigma=0.01)
    decay = jd.Spline([0.0, 0.5, 1.0], np.full(3, 0.5), positive=True, smooth=1.0)
    settings = [{"learning_rate": [0.1, 0.01]}] if choose is jd.sweep else []
    options = {} if choose is jd.sweep else {"optimizer": "adam"}
    with pytest.raises(ValueError, match="not weigh the roughness of smooth splines"):
        choose(jd.Diffusion(1.0, decay=decay), readings, *settings, progress=False, **options)
