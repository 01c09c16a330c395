"""Losses by hand, and their expansions against differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxdiff as jd
from jaxdiff.inference.losses import as_loss, choose
from jaxdiff.measurements.histograms import HistogramsPredictor
from jaxdiff.measurements.readings import ReadingsPredictor

RNG = np.random.default_rng(3)
GRID = jd.Grid.uniform((0.0, 1.0, 4))


def readings(known, remembered=0.0):
    sigma = RNG.uniform(0.5, 2.0, 5) if known else None
    observation, weight = np.pad(RNG.normal(size=5), (0, 1)), np.pad(np.ones(5) if sigma is None else sigma**-2, (0, 1))
    constant = 0.0 if sigma is None else np.log(sigma).sum()
    return ReadingsPredictor(
        observation=observation,
        weight=weight,
        size=np.float64(5),
        known=known,
        constant=constant,
        states_at_times=None,
        row=None,
        place=None,
        sensor=None,
        last=np.array([-1, 0, 1, -1, 3, -1]),
        carry=remembered * np.array([0.0, 0.5, 0.3, 0.0, 0.8, 0.0]),
        instant=None,
        number=None,
        by_modes=False,
    )


def histograms():
    counts = RNG.integers(0, 9, (2, 4)) + np.array([[1, 0, 0, 0], [0, 0, 0, 1]])
    total = counts.sum(1, keepdims=True)
    return HistogramsPredictor(
        observation=counts / total,
        weight=total[:, 0].astype(float),
        size=np.float64(2),
        known=True,
        states_at_times=None,
        row=None,
        overlap=None,
        mesh=None,
        rest=False,
    )


def test_by_hand():
    assert jd.mse([1.0, 2.0], [0.0, 4.0]) == 2.5
    assert jd.negative_log_likelihood([-1.0, -2.0]) == 3.0
    q, p = np.array([[3, 0, 1], [2, 2, 0]]), np.array([[0.5, 0.2, 0.3], [2.0, 1.0, 1.0]])
    expected = np.mean([stats.entropy(a, b) for a, b in zip(q, p)])
    np.testing.assert_allclose(jd.kl_divergence(p, q), expected, rtol=1e-14)


def test_zeros_of_the_model_are_floored_but_nan_is_not_hidden():
    assert np.isfinite(jd.kl_divergence([1.0, 0.0], [1, 1]))
    assert np.isfinite(jd.kl_divergence([1.0, -1e-15], [1, 1]))
    assert np.isnan(jd.kl_divergence([1.0, np.nan], [1, 0]))
    plan = readings(False)
    assert np.isnan(jd.mse.value(plan, jnp.full(6, jnp.nan)))
    assert np.isfinite(jd.mse.value(plan, jnp.zeros(6).at[5].set(jnp.nan)))  # padding


def test_gaussian_likelihood_is_that_of_scipy():
    plan = readings(True)
    prediction = RNG.normal(size=6)
    expected = -stats.norm.logpdf(plan.observation, prediction, plan.weight**-0.5)[:5].sum()
    np.testing.assert_allclose(jd.negative_log_likelihood.value(plan, prediction), expected, rtol=1e-12)
    plan = readings(False)
    deviation = np.sqrt(np.mean((plan.observation - prediction)[:5] ** 2))
    expected = -stats.norm.logpdf(plan.observation, prediction, deviation)[:5].sum()
    np.testing.assert_allclose(jd.negative_log_likelihood.value(plan, prediction), expected, rtol=1e-12)


def quartic(prediction, observation):
    return jnp.sum((prediction - observation) ** 4)


@pytest.mark.parametrize(
    ("loss", "plan"),
    [
        (jd.mse, readings(False)),
        (jd.mse, readings(True)),
        (jd.negative_log_likelihood, readings(False)),
        (jd.negative_log_likelihood, readings(True)),
        (jd.negative_log_likelihood, readings(True, remembered=1.0)),
        (jd.negative_log_likelihood, readings(False, remembered=1.0)),
        (jd.kl_divergence, histograms()),
        (jd.negative_log_likelihood, histograms()),
        (quartic, readings(False)),
    ],
)
def test_expansions_agree_with_differentiation(loss, plan):
    matrix = RNG.normal(size=(plan.observation.size, 3)) * 0.1
    predict = lambda z: 0.3 + (matrix @ z).reshape(plan.observation.shape) ** 2
    z = jnp.array([1.0, -2.0, 0.5])
    loss = as_loss(loss)
    found = loss.expand(plan, predict(z), jax.jacfwd(predict)(z))
    total, gradient = jax.value_and_grad(lambda z: loss.value(plan, predict(z)))(z)
    np.testing.assert_allclose(found.value, total, rtol=1e-12)
    np.testing.assert_allclose(found.gradient, gradient, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [jd.kl_divergence, jd.negative_log_likelihood])
def test_fisher_information_is_the_curvature_where_model_and_data_agree(loss):
    plan = histograms()
    shift = RNG.normal(size=(8, 2))
    predict = lambda z: plan.observation * jnp.exp((shift @ z).reshape(2, 4))
    z = jnp.zeros(2)
    loss = as_loss(loss)
    found = loss.expand(plan, predict(z), jax.jacfwd(predict)(z))
    exact = jax.hessian(lambda z: loss.value(plan, predict(z)))(z)
    np.testing.assert_allclose(found.curvature, exact, rtol=1e-9, atol=1e-12)
    if loss is jd.negative_log_likelihood:
        np.testing.assert_allclose(found.noise, exact, rtol=1e-9, atol=1e-12)


def test_a_minibatch_of_everything_is_everything():
    for loss, plan in ((jd.mse, readings(True)), (jd.negative_log_likelihood, histograms())):
        prediction = RNG.uniform(0.1, 1.0, plan.observation.shape)
        rows = jnp.arange(len(prediction))
        np.testing.assert_allclose(loss.value(plan, prediction, rows), loss.value(plan, prediction), rtol=1e-14)


@pytest.mark.parametrize(
    ("loss", "measurement", "words"),
    [
        (
            jd.kl_divergence,
            jd.Readings(GRID, 0.0, 1.0, 0.5, [1.0]),
            "Readings cannot be compared by jd.kl_divergence; use jd.mse",
        ),
        (jd.mse, jd.Trajectory(GRID, [0.0, 1.0], [0.1, 0.2]), "use jd.negative_log_likelihood or your own"),
        (
            jd.negative_log_likelihood,
            jd.Histograms(GRID, 1.0, 1.0, [[0.1, 0.2, 0.3, 0.4]]),
            "pass total=N or use jd.kl_divergence",
        ),
    ],
)
def test_a_loss_that_does_not_fit_is_refused(loss, measurement, words):
    with pytest.raises(ValueError, match=words):
        choose(loss, (measurement,))
    with pytest.raises(TypeError, match="or a callable"):
        choose("mse", (measurement,))
