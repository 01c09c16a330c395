"""A measurement of one's own: where individuals were, at several times."""

import re
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd


class Individuals(jd.Measurement):
    """Positions of individuals, each seen once: log p(tᵢ, xᵢ), interpolated between the cells of one axis.

    times, values: (m,) when and where each was seen; initial: the density at `start`
    """

    family: ClassVar[str] = "density"
    grid: jd.Grid
    initial: Any
    times: np.ndarray = eqx.field(converter=np.asarray)
    values: np.ndarray = eqx.field(converter=np.asarray)
    start: float = 0.0

    def read(self, states):
        density = jax.vmap(lambda u, x: self.grid.interpolate(u, x[None])[0])(states, jnp.asarray(self.values))
        return jnp.log(jnp.maximum(density, 1e-300))

    def draw(self, fit, repeats, rng, kind="parametric", inflation=1.0, tau=None):
        (edges,), (cells,) = self.grid.edges, self.grid.centers
        drawn = np.empty((repeats, len(self.values)))
        for t in np.unique(self.times):
            at = self.times == t
            if kind == "residual":  # those that were seen, with replacement
                drawn[:, at] = rng.choice(self.values[at], (repeats, at.sum()))
                continue
            everywhere = Individuals(self.grid, self.initial, np.full(len(cells), t), cells, self.start)
            mass = np.exp(fit.predict(everywhere)) * np.diff(edges)
            cell = rng.choice(len(cells), (repeats, at.sum()), p=mass / mass.sum())
            drawn[:, at] = edges[cell] + rng.uniform(size=cell.shape) * np.diff(edges)[cell]
        return drawn


def test_samples_of_individuals_are_fitted_told_and_drawn_like_any_other_measurement(tmp_path):
    grid, rng = jd.Grid.uniform((-4.0, 4.0, 80)), np.random.default_rng(0)
    times = np.repeat([0.2, 0.5, 1.0], 100)
    spread = np.sqrt(
        0.5 + (0.09 - 0.5) * np.exp(-2 * times)
    )  # of dX = −X dt + √(2·0.5) dW, begun with s.d. 0.3 about 1
    seen = Individuals(
        grid,
        lambda x: jnp.exp(-0.5 * ((x - 1) / 0.3) ** 2) / (0.3 * np.sqrt(2 * np.pi)),
        times,
        np.exp(-times) + spread * rng.normal(size=times.size),
    )
    model = jd.FokkerPlanck(jd.Expression("-k*x", k=jd.Positive(2.0)), jd.Positive(1.0))
    fit = jd.fit(model, seen, validation=0.2, progress=False)
    assert fit.converged and fit.validation_loss is not None

    fit = jd.fit(model, seen, progress=False)
    for name, truth in {"drift.k": 1.0, "diffusivity": 0.5}.items():
        assert abs(fit.parameters[name] - truth) < 3 * fit.standard_errors[name] < 0.5
    assert fit.verdict.describes is None and "Individuals" in fit.verdict.reasons[0]
    assert fit.plot().subfigs
    page = fit.report(tmp_path / "fit.html").read_text(encoding="utf-8")
    assert re.search(r"log-likelihood per datum.*AIC", page, re.S)

    for kind in ("parametric", "residual"):
        again = jd.bootstrap(fit, 40, kind=kind, progress=False)
        assert again.converged.mean() > 0.9
        for name, error in again.standard_errors.items():
            assert 0.6 < error / fit.standard_errors[name] < 1.6

    best = jd.multistart(model, seen, starts=4, progress=False)
    assert best.optima[0]["count"] >= 3 and np.isclose(best.loss, fit.loss)

    many = jd.fit_many(model, seen, np.stack([seen.values, seen.values]), progress=False)
    np.testing.assert_allclose(many.x, [fit.columns()[0]] * 2, rtol=1e-4)
