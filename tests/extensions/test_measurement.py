"""A measurement of one's own: where individuals were, at several times."""

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd


class Individuals(jd.Measurement):
    """Positions of individuals, each seen once: log p(tᵢ, xᵢ), interpolated between the cells of one axis.

    times, values: (m,) when and where each was seen; initial: the density at `start`
    """

    family = "density"
    grid: jd.Grid
    initial: Any
    times: np.ndarray = eqx.field(converter=np.asarray)
    values: np.ndarray = eqx.field(converter=np.asarray)
    start: float = 0.0

    def read(self, states):
        density = jax.vmap(lambda u, x: self.grid.interpolate(u, x[None])[0])(states, jnp.asarray(self.values))
        return jnp.log(jnp.maximum(density, 1e-300))

    def draw(self, fit, repeats, rng, how):
        (edges,), (cells,) = self.grid.edges, self.grid.centers
        drawn = np.empty((repeats, len(self.values)))
        for t in np.unique(self.times):
            at = self.times == t
            if how.kind == "residual":  # those that were seen, with replacement
                drawn[:, at] = rng.choice(self.values[at], (repeats, at.sum()))
                continue
            everywhere = Individuals(self.grid, self.initial, np.full(len(cells), t), cells, self.start)
            mass = np.exp(fit.predict(everywhere)) * np.diff(edges)
            cell = rng.choice(len(cells), (repeats, at.sum()), p=mass / mass.sum())
            drawn[:, at] = edges[cell] + rng.uniform(size=cell.shape) * np.diff(edges)[cell]
        return drawn


@pytest.mark.slow
def test_samples_of_individuals_are_fitted_told_and_drawn_like_any_other_measurement(tmp_path):
    rng, times = np.random.default_rng(0), np.repeat([0.2, 0.5, 1.0], 100)
    start = lambda x: jnp.exp(-0.5 * (x / 0.3) ** 2) / (0.3 * np.sqrt(2 * np.pi))
    places = np.sqrt(0.3**2 + 2 * 0.5 * times) * rng.normal(size=times.size)
    seen = Individuals(jd.Grid.uniform((-5.0, 5.0, 60)), start, times, places)
    model = jd.Diffusion(jd.Positive(2.0))

    fit = jd.fit(model, seen, progress=False)
    assert fit.converged and abs(fit.parameters["diffusivity"] - 0.5) < 3 * fit.standard_errors["diffusivity"] < 0.2
    assert fit.verdict == (None, ("there are no tests of Individuals",), ())
    assert len(fit.plot().subfigs) == 2
    page = fit.report(tmp_path / "fit.html").read_text(encoding="utf-8")
    assert "log-likelihood per datum" in page and page.count("data:image/png") == 2

    again = jd.bootstrap(fit, 40, progress=False)
    assert again.converged.all()
    assert 0.6 < again.standard_errors["diffusivity"] / fit.standard_errors["diffusivity"] < 1.5
    best = jd.multistart(model, seen, starts=4, progress=False)
    assert best.optima[0]["count"] == 4 and np.isclose(best.loss, fit.loss, rtol=1e-8)

    first, last = seen.split(0.3)
    assert set(last.times) == {1.0} and len(first.values) + len(last.values) == len(seen.values)


class Amounts(jd.Measurement):
    """The content of the domain at several times, read with noise that nobody knows."""

    family = "gaussian"
    grid: jd.Grid
    initial: Any
    times: np.ndarray
    values: np.ndarray
    start: float = 0.0

    def read(self, states):
        return states @ self.grid.volumes


class Shares(Amounts):
    """Shares of bins, of nobody knows how many."""

    family = "multinomial"

    def read(self, states):
        return states * self.grid.volumes


@pytest.mark.slow
def test_noise_that_is_not_told_is_estimated_or_missing():
    grid, times, rng = jd.Grid.uniform((0.0, 1.0, 20)), np.linspace(0.1, 1.0, 20), np.random.default_rng(0)
    values, model = np.exp(-0.7 * times) + 1e-3 * rng.normal(size=20), jd.Diffusion(1.0, decay=jd.Positive(2.0))
    like = jd.fit(model, jd.Readings(grid, np.ones(20), times, np.full(20, 0.5), values), progress=False)
    own = jd.fit(model, Amounts(grid, np.ones(20), times, values), progress=False)
    np.testing.assert_allclose(own.standard_errors["decay"], like.standard_errors["decay"], rtol=1e-9)

    shares = np.asarray(jd.solve(jd.Diffusion(0.05), grid, grid.delta(0.3), [0.0, 0.1, 0.2]).values)[1:] / 20
    shared = Shares(grid, np.asarray(grid.delta(0.3)), np.array([0.1, 0.2]), shares)
    fit = jd.fit(jd.Diffusion(jd.Positive(0.2)), shared, progress=False)
    assert np.isnan(fit.standard_errors["diffusivity"]) and "no error bars" in fit.notes[0]


class Scaled(Amounts):
    """The same with noise that is told."""

    sigma: Any = None


class Crooked(Amounts):
    """A kind that reads more than its rows."""

    def read(self, states):
        return states


@pytest.mark.slow
def test_sandwich_takes_the_residuals_of_any_kind_with_normal_noise():
    grid, times, rng = jd.Grid.uniform((0.0, 1.0, 20)), np.linspace(0.1, 1.0, 20), np.random.default_rng(0)
    values = np.exp(-0.7 * times) + 1e-3 * times * rng.normal(size=20)
    fit = jd.fit(
        jd.Diffusion(1.0, decay=jd.Positive(2.0)), Amounts(grid, 1.0, times, values), errors="sandwich", progress=False
    )
    slope, residual = -times * np.exp(-fit.parameters["decay"] * times), values - fit.predict()
    inverse = 1 / (slope @ slope)
    hc3 = inverse * np.sqrt(np.sum((slope * residual / (1 - slope**2 * inverse)) ** 2))
    np.testing.assert_allclose(fit.standard_errors["decay"], hc3, rtol=1e-6)
    assert fit.notes == ()


def test_a_measurement_is_refused_in_words_where_its_numbers_do_not_hold():
    grid, times, model = jd.Grid.uniform((0.0, 1.0, 4)), np.array([0.1, 0.2]), jd.Diffusion(1.0, decay=jd.Positive(1.0))
    values, gap = np.array([0.9, 0.8]), np.array([0.9, np.nan])
    whole = Amounts(grid, 1.0, times, values)
    refusals = (
        ("must be finite, got nan", lambda: jd.fit(model, Amounts(grid, 1.0, times, gap), progress=False)),
        ("must be finite, got nan", lambda: jd.fit_many(model, whole, np.stack([values, gap]), progress=False)),
        ("got shape (2, 2)", lambda: jd.fit(model, Amounts(grid, 1.0, times, np.ones((2, 2))), progress=False)),
        ("got -1.0", lambda: jd.fit(model, Scaled(grid, 1.0, times, values, sigma=[1.0, -1.0]), progress=False)),
        ("got shape (3,)", lambda: jd.fit(model, Scaled(grid, 1.0, times, values, sigma=np.ones(3)), progress=False)),
        ("must return shape (2,)", lambda: jd.fit(model, Crooked(grid, 1.0, times, values), progress=False)),
    )
    for words, call in refusals:
        with pytest.raises(ValueError, match=re.escape(words)):
            call()
