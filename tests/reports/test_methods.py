"""The paragraph on methods names what a fit's numbers depend on."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.reports.methods import methods

GRID, TIMES = jd.Grid.uniform((0.0, 1.0, 20)), np.linspace(0.1, 1.0, 10)


@pytest.fixture(scope="module")
def fit():
    readings = jd.Readings(GRID, 1.0, TIMES, np.full(10, 0.5), np.exp(-0.7 * TIMES), sigma=0.01)
    model = lambda k: jd.Diffusion(1.0, decay=k, boundaries={"x-": jd.Robin(jnp.zeros(()))})
    return jd.fit(model, readings, parameters={"k": jd.Bounded(1.5, 0.1, 3.0)}, tolerance=1e-8, progress=False)


def test_every_setting_is_named(fit):
    text = methods(fit)
    for part in (
        "10 values (Readings)", "jaxdiff.Diffusion on 20 cells of x from 0 to 1, with x-: Robin, x+: reflecting",
        "finite volumes of order 2", "tolerance 1e-08", "k (bounded, from 1.5)", "mean square", "by Levenberg–Marquardt",
        f"ended at an optimum after {len(fit.history) - 1} steps", "Gauss–Newton", "the model describes these data", "jaxdiff 0.",
    ):  # fmt: skip
        assert part in text


def test_a_stored_fit_says_what_it_still_knows(fit, tmp_path):
    text = methods(jd.load(fit.save(tmp_path / "fit.json")))
    assert "k (from 1.5)" in text and "by Levenberg–Marquardt" in text and "Readings" not in text


def test_it_is_in_the_report(fit, tmp_path):
    assert "Gauss–Newton curvature" in fit.report(tmp_path / "fit.html").read_text()
