"""A measurement of one's own: where individuals were, at several times."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

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
