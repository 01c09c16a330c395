"""Gaussian mixtures against their definitions, noised and not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdiff.generation import GaussianMixture, Process

PROCESS = Process()
OBLIQUE = [[[0.3, 0.2], [0.2, 0.3]], [[0.1, -0.05], [-0.05, 0.1]]]
MIXTURES = {
    "numbers": GaussianMixture([0.3, 0.7], [-0.8, 1.0], [0.04, 0.15]),
    "plane": GaussianMixture([0.4, 0.6], [[-1.0, 0.0], [1.0, 0.5]], OBLIQUE),
    "images": GaussianMixture([0.5, 0.5], np.arange(8.0).reshape(2, 2, 2) / 8, [0.1, 0.2]),
    "points": GaussianMixture([0.5, 0.5], [-1.0, 1.0], [0.0, 0.0]),
}


@jax.jit
def exactly(mixture, x, t):
    """Log densities, their slopes and the score."""
    there = mixture.noised(PROCESS, t)
    slopes = jax.grad(lambda x: there.log_density(x).sum())(x)
    return there.log_density(x), slopes, mixture.score(PROCESS)(x, t)


@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", MIXTURES)
def test_densities_and_scores_are_those_of_their_definition(name, t):
    mixture = MIXTURES[name]
    x = jax.random.normal(jax.random.key(0), (50, *mixture.shape))
    a, s = float(PROCESS.signal(t)), float(PROCESS.noise(t))
    d = mixture.means.shape[1]
    given = OBLIQUE if name == "plane" else [v * np.eye(d) for v in np.asarray(mixture.variances)[:, 0]]
    wanted = sum(
        w * stats.multivariate_normal(a * m, a**2 * np.asarray(c) + s**2 * np.eye(d)).pdf(np.reshape(x, (50, d)))
        for w, m, c in zip(mixture.weights, mixture.means, given, strict=True)
    )
    logs, slopes, found = exactly(mixture, x, t)
    seen = wanted > 1e-300
    np.testing.assert_allclose(logs[seen], np.log(wanted[seen]), rtol=1e-10, atol=1e-10)
    assert found.shape == x.shape
    np.testing.assert_allclose(found, slopes, rtol=1e-9, atol=1e-9)


def test_draws_have_the_moments_of_the_mixture():
    x = MIXTURES["plane"].draw(200_000, jax.random.key(1))
    mean = 0.4 * np.array([-1.0, 0.0]) + 0.6 * np.array([1.0, 0.5])
    away = np.array([[-1.0, 0.0], [1.0, 0.5]]) - mean
    covariance = sum(w * (np.array(c) + np.outer(m, m)) for w, c, m in zip([0.4, 0.6], OBLIQUE, away, strict=True))
    np.testing.assert_allclose(x.mean(0), mean, atol=0.01)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.015)


@pytest.mark.parametrize("distance", [1e3, 1e6])
def test_far_from_every_mean_a_score_is_finite_and_right(distance):
    x = jnp.array([-distance, distance])
    found = MIXTURES["numbers"].score(PROCESS)(x, 0.5)
    a2, s2 = PROCESS.signal(0.5) ** 2, PROCESS.noise(0.5) ** 2
    variance = a2 * 0.15 + s2  # the widest wins
    np.testing.assert_allclose(found, -(x - PROCESS.signal(0.5)) / variance, rtol=1e-9)


def test_float32_stays_float32():
    x = jnp.linspace(-2.0, 2.0, 9, dtype=jnp.float32)
    found = MIXTURES["numbers"].score(PROCESS)(x, jnp.float32(0.3))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, MIXTURES["numbers"].score(PROCESS)(x.astype(float), 0.3), rtol=2e-5, atol=2e-5)


REFUSED = {
    "weights": (([0.5, 0.6], [0.0, 1.0], [1.0, 1.0]), "sum is one"),
    "negative weight": (([1.5, -0.5], [0.0, 1.0], [1.0, 1.0]), "positive"),
    "missing mean": (([0.5, 0.5], [0.0], [1.0, 1.0]), "means must be 2"),
    "mean": (([1.0], [np.nan], [1.0]), "finite"),
    "shape of covariances": (([1.0], [[0.0, 0.0]], [[1.0, 1.0]]), r"\(1, 2, 2\)"),
    "negative variance": (([1.0], [0.0], [-1.0]), "must not be negative"),
    "indefinite": (([1.0], [[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]]), "eigenvalue of -1"),
    "asymmetric": (([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.0, 1.0]]]), "symmetric"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mixtures_that_are_none_are_refused(case):
    given, words = REFUSED[case]
    with pytest.raises(ValueError, match=words) as raised:
        GaussianMixture(*given)
    assert "\n" not in str(raised.value)


def test_samples_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"samples of this mixture are \(n, 2\), got shape \(5, 3\)"):
        MIXTURES["plane"].log_density(jnp.ones((5, 3)))


def test_whole_numbers_are_places_too():
    mixture = GaussianMixture([0.5, 0.5], [-0.5, 0.5], [0.25, 0.25])
    np.testing.assert_allclose(
        mixture.log_density(jnp.array([0, 1])), mixture.log_density(jnp.array([0.0, 1.0])), rtol=1e-6
    )
