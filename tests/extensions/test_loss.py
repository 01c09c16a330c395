"""A loss of one's own with error bars: readings that are counts, with the noise of counts."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd


class PoissonDeviance(jd.Loss):
    """Twice what the log likelihood of whole numbers k misses of its largest: Σ 2(λ − k + k ln(k/λ)), noise 2 × curvature."""

    def value(self, predictor, prediction, rows=None):
        seen = predictor.observation if rows is None else predictor.observation[rows]
        mean = prediction if rows is None else prediction[rows]
        return 2 * jnp.sum(mean - seen - seen * jnp.log(mean / jnp.maximum(seen, 1e-300))) * predictor.size / len(mean)

    def expand(self, predictor, prediction, jacobian):
        around = super().expand(predictor, prediction, jacobian)
        return around._replace(noise=2 * around.curvature)

    def no_noise(self, measurement):
        return None


@dataclass(frozen=True)
class Poisson(jd.Loss):
    """Minus the log likelihood of counts over a background; the curvature tells the noise."""

    background: float = 0.0
    likelihood = True

    def value(self, predictor, prediction, rows=None):
        seen = predictor.observation if rows is None else predictor.observation[rows]
        mean = self.background + (prediction if rows is None else prediction[rows])
        return jnp.sum(mean - seen * jnp.log(mean)) * predictor.size / len(mean)


class Quartic(jd.Loss):
    """A loss that promises noise and does not tell any."""

    def value(self, predictor, prediction, rows=None):
        return jnp.mean((prediction - predictor.observation) ** 4)

    def no_noise(self, measurement):
        return None


class Negative(PoissonDeviance):
    """A loss with a sign that is wrong."""

    def expand(self, predictor, prediction, jacobian):
        around = super().expand(predictor, prediction, jacobian)
        return around._replace(noise=-around.noise)


@pytest.mark.slow
def test_a_loss_that_tells_no_noise_has_no_error_bars():
    grid, times = jd.Grid.uniform((0.0, 1.0, 20)), np.linspace(0.2, 2.0, 12)
    values = np.exp(-0.5 * times) + 0.01 * np.random.default_rng(0).normal(size=12)
    readings = jd.Readings(grid, 1.0, times, np.full(12, 0.5), values)
    fit = jd.fit(jd.Diffusion(1.0, decay=jd.Positive(1.0)), readings, loss=Quartic, progress=False)
    assert np.isnan(fit.standard_errors["decay"])
    assert "no error bars: the loss does not tell the noise of the data" in fit.notes
    fit = jd.fit(jd.Diffusion(1.0, decay=jd.Positive(1.0)), readings, loss=Negative(), progress=False)
    assert np.isnan(fit.standard_errors["decay"]) and "variance came out negative" in fit.notes[0]


@pytest.mark.slow
def test_a_loss_gives_the_error_bars_of_its_noise():
    grid, times = jd.Grid.uniform((0.0, 1.0, 20)), np.linspace(0.2, 4.0, 24)
    expected, rng = 40.0 * np.exp(-0.5 * times), np.random.default_rng(1)
    model, data = jd.Diffusion(1.0, decay=jd.Positive(1.0)), rng.poisson(expected, (200, 24))
    counts = jd.Readings(grid, 40.0, times, np.full(24, 0.5), data[0])
    for loss in (PoissonDeviance(), Poisson()):
        fit = jd.fit(model, counts, loss=loss, progress=False)
        # ∂λ/∂k = −t λ, so that the information on k is Σ t² λ² · counts/λ²
        np.testing.assert_allclose(fit.standard_errors["decay"], (data[0] * times**2).sum() ** -0.5, rtol=1e-6)
        assert fit.converged and fit.loss_name == type(loss).__name__ and fit.loss_name in fit.verdict.reasons[0]
    told = jd.fit(model, counts, loss=Poisson(), errors="sandwich", progress=False)
    assert "'sandwich' is for squares of residuals" in told.notes[-1]
    assert Poisson() == Poisson() and Poisson(1.0) != Poisson()  # equal losses share compiled code

    with pytest.raises(
        ValueError, match="Poisson has noise of its own"
    ):  # of counts, where normal noise would be drawn
        jd.bootstrap(fit, 10, progress=False)

    many = jd.fit_many(model, counts, data, loss=Poisson(), progress=False)
    scatter, bars = np.std(many.parameters["decay"]), np.median(many.standard_errors["decay"])
    assert many.converged.all() and abs(scatter / bars - 1) < 0.2


class Rows(Poisson):
    """A loss for each row, where one number is asked for."""

    def value(self, predictor, prediction, rows=None):
        return (prediction - predictor.observation) ** 2


class Heedless(Poisson):
    """A loss that says it leaves out what has no weight, and counts it."""

    weighted = True


def test_a_loss_is_held_to_what_it_says():
    times = np.linspace(0.2, 2.0, 6)
    counts = jd.Readings(jd.Grid.uniform((0.0, 1.0, 4)), 40.0, times, np.full(6, 0.5), np.round(40 * np.exp(-times)))
    for loss, words in ((Rows(), "one real number, got float64 of shape"), (Heedless(), "says weighted = True")):
        with pytest.raises(ValueError, match=words):
            jd.fit(jd.Diffusion(1.0, decay=jd.Positive(1.0)), counts, loss=loss, progress=False)
