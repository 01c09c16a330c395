"""What a fit predicts afterwards is what it was fitted with, whatever plan that took: predict, plot, report, load."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.integration.options import SolverOptions

LINE, PLANE = jd.Grid.uniform((0.0, 1.0, 40)), jd.Grid.uniform((0.0, 1.0, 12), (0.0, 1.0, 10))
BUMP, HILL = lambda x: jnp.exp(-40 * (x - 0.4) ** 2), lambda x, y: jnp.exp(-20 * ((x - 0.4) ** 2 + (y - 0.5) ** 2))
TIMES, FINE = np.array([0.05, 0.2, 0.5, 2.0]), np.array([0.01, 0.11, 0.7, 1.9])
ALL = np.unique(np.concatenate([[0.0], TIMES, FINE]))


class Wave(eqx.Module):
    """m + a sin(w t): of other numbers, it is not compiled again."""

    m: Any = eqx.field(converter=lambda x: jnp.asarray(x, float))
    a: Any = eqx.field(converter=lambda x: jnp.asarray(x, float))
    w: Any = eqx.field(converter=lambda x: jnp.asarray(x, float))

    def __call__(self, t):
        return self.m + self.a * jnp.sin(self.w * t)


WALL = lambda rate: {"x-": jd.Dirichlet(jd.TimeDependent(Wave(0.0, 1.0, rate)))}

# What is fitted, from where the search starts, and the truth; plans at the start are too short for what it ends at.
MODELS = {
    "the rate of a wall": (lambda a: jd.Diffusion(0.05, boundaries=WALL(20 * a)), LINE, 0.97, 1.0),
    "a strong drift": (lambda a: jd.FokkerPlanck(jd.Expression("k*(0.5-x)", k=a), 0.02), LINE, 0.5, 9.0),
    "swept plane": (lambda a: jd.FokkerPlanck(lambda x, y: (a * (y - 0.5), a * (0.5 - x)), 0.02), PLANE, 0.5, 4.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_prediction_is_that_of_the_fit(name, tmp_path):
    build, grid, start, truth = MODELS[name]
    initial, place = (BUMP, (0.3, 0.6)) if grid is LINE else (HILL, ((0.3, 0.4), (0.7, 0.6)))
    initial = np.asarray(grid.average(initial)) if name == "a strong drift" else initial
    model = lambda a: (build(a), initial)
    read = lambda times, values: jd.Readings(grid, None, np.repeat(times, 2), [*place] * 4, values)

    def solved(equation, times):
        states = np.asarray(jd.solve(equation, grid, initial, ALL).values)[np.isin(ALL, times)]
        return np.concatenate([grid.interpolate(u, np.reshape(place, (2, -1))) for u in states])

    values = solved(build(truth), TIMES)
    values = values + np.random.default_rng(0).normal(0, 1e-3, 8) * np.ptp(values)
    readings = read(TIMES, values)
    fit = jd.fit(model, readings, parameters={"a": jd.Positive(start)}, progress=False)
    assert fit.converged and abs(fit.parameters["a"] - truth) < 5 * fit.standard_errors["a"]
    assert np.mean((values - fit.predict()) ** 2) == pytest.approx(fit.loss, rel=1e-5)
    np.testing.assert_allclose(fit.predict(read(TIMES, np.zeros(8))), fit.predict(), atol=1e-12)
    np.testing.assert_allclose(fit.predict(read(FINE, np.zeros(8))), solved(fit.model, FINE), atol=2e-5)
    fit.save(tmp_path / "fit.json")
    np.testing.assert_allclose(jd.load(tmp_path / "fit.json", model).predict(readings), fit.predict(), atol=1e-7)
    if name == "a strong drift":
        page = fit.report(tmp_path / "fit.html").read_text(encoding="utf-8")
        assert f"{1 - fit.loss / np.var(values):.6f}" in page  # R²


@pytest.mark.slow
def test_a_fitted_model_is_solved_in_a_session_of_single_precision():
    """Its closures hold numbers in float64, which JAX 0.10 confuses with those of the program that fitted them."""

    def model(D, a):
        drift = lambda x: jnp.asarray([D, a])[0] * x * (1 + a)
        return jd.FokkerPlanck(drift, D), lambda x: jnp.exp(-x / jnp.asarray(a))

    places = np.array([0.2, 0.5, 0.8])
    parameters = {"D": jd.Positive(0.5), "a": jd.Positive(0.1)}
    with jax.enable_x64(False):
        readings = jd.Readings(LINE, None, np.repeat([0.02, 0.05], 3), np.tile(places, 2), np.linspace(1.0, 0.3, 6))
        fit = jd.fit(model, readings, parameters=parameters, progress=False, steps=3)
        values = jd.solve(fit.model, LINE, fit.initial, [0.0, 0.05]).values
        assert values.dtype == np.float32
    exact = fit.predict()
    np.testing.assert_allclose(LINE.interpolate(values[-1], places), exact[3:], atol=1e-4 * exact.max())


@pytest.mark.slow
@pytest.mark.parametrize("dense", [True, False])
def test_order_four_is_read_at_its_order(dense):
    """cos(πx) e^{−π²Dt} at sensors anywhere, beside the walls too, on 16 and 32 cells."""
    times, places = np.array([0.1, 0.3]), np.array([0.003, 0.2137, 0.5, 0.871, 0.999])
    rows = (np.repeat(times, 5), np.tile(places, 2))
    if not dense:
        rows = (np.linspace(0.1, 0.3, 11), np.linspace(0.003, 0.999, 11))
    exact, missed = np.cos(np.pi * rows[1]) * np.exp(-(np.pi**2) * 0.4 * rows[0]), []
    model, wave, options = jd.Diffusion(0.4), lambda x: jnp.cos(jnp.pi * x), SolverOptions(jd.FiniteVolume(order=4))
    for n in (16, 32):
        readings = jd.Readings(jd.Grid.uniform((0.0, 1.0, n)), wave, *rows, exact)
        predictor = readings.prepare(model, wave, pad=False, options=options)
        found = jax.jit(lambda model, read=predictor: read.predict(model, wave).values)(model)
        missed.append(np.abs(found - exact).max())
    assert missed[1] < 2e-5 and np.log2(missed[0] / missed[1]) > 3.5


@pytest.mark.slow
def test_a_start_that_no_fit_has_filled_is_no_number(tmp_path):
    bump = lambda: jd.Expression("1 + a*cos(pi*x)", a=jd.Free(0.2))
    times, places = [0.02, 0.1, 0.02, 0.1], [0.2, 0.2, 0.7, 0.7]
    read = lambda initial: jd.Readings(LINE, initial, times, places, 1 + 0.3 * np.cos(np.pi * np.array(places)))
    model = jd.Diffusion(jd.Positive(1.0))
    fitted, other = read(bump()), read(bump())
    fit = jd.fit(model, fitted, progress=False)
    np.testing.assert_array_equal(fit.predict(read(fitted.initial)), fit.predict())
    loaded = jd.load(fit.save(tmp_path / "fit.json"), model)
    for ask in (
        lambda: fit.predict(other),
        lambda: loaded.predict(fitted),
        lambda: jd.fit(model, fitted, validation=other),
    ):
        with pytest.raises(ValueError, match="marks that no fit has filled; give it numbers"):
            ask()
    np.testing.assert_allclose(loaded.predict(read(fit.initial)), fit.predict(), atol=1e-12)
    assert fit.predict(read(jd.Expression("1 + a*cos(pi*x)", a=jd.Fixed(0.3)))).shape == (4,)


@pytest.mark.slow
def test_a_fit_of_a_model_with_its_start_predicts_by_it_and_is_loaded_by_its_own_model(tmp_path):
    read = lambda level: jd.Readings(
        LINE, level and (lambda x: level + 0 * x), [0.02, 0.1, 0.2], [0.2] * 3, [0.3, 0.35, 0.3]
    )
    model = lambda D: (jd.Diffusion(D), BUMP)
    fit = jd.fit(model, read(5.0), parameters={"D": jd.Positive(1.0)}, progress=False)
    for level in (None, 7.0):
        np.testing.assert_array_equal(fit.predict(read(level)), fit.predict())
    path = fit.save(tmp_path / "fit.json")
    assert "0.357" in jd.load(path, model).report(tmp_path / "loaded.html").read_text()
    with pytest.raises(ValueError, match="cannot be called with the parameters D: missing a required argument: 'b'"):
        jd.load(path, lambda D, b: jd.Diffusion(D + b))
