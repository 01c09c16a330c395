"""A probe of one's own: two electrodes whose contrast decays with the slowest mode."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd


class Contrast(jd.Probe):
    """The mean of the right half less that of the left."""

    def value(self, system, t, u):
        left, right = jnp.split(u * system.grid.volumes, 2)
        return 2 * (right.sum() - left.sum()) / system.grid.volumes.sum()


@pytest.mark.slow
def test_a_contrast_is_fitted(tmp_path):
    """Of cos(πx) e^{−π²Dt} it is −4/π e^{−π²Dt}; reported and drawn as readings are."""
    grid, times = jd.Grid.uniform((0.0, 1.0, 40)), np.linspace(0.02, 0.3, 12)
    values = -4 / np.pi * np.exp(-(np.pi**2) * 0.5 * times) + np.random.default_rng(0).normal(0, 0.003, 12)
    readings = jd.Readings(grid, lambda x: jnp.cos(jnp.pi * x), times, Contrast(), values, sigma=0.003)
    fit = jd.fit(jd.Diffusion(jd.Positive(1.0)), readings, progress=False)
    assert abs(fit.parameters["diffusivity"] - 0.5) < 3 * fit.standard_errors["diffusivity"] < 0.05
    assert "Contrast" in [text.get_text() for axes in fit.plot().axes for text in (axes.get_legend() or axes).texts]
    assert fit.report(tmp_path / "fit.html").exists()
