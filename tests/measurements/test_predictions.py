"""What a fit predicts afterwards is what it was fitted with, whatever plan that took: predict, plot, report, load."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

LINE, PLANE = jd.Grid.uniform((0.0, 1.0, 40)), jd.Grid.uniform((0.0, 1.0, 12), (0.0, 1.0, 10))
BUMP, HILL = lambda x: jnp.exp(-40 * (x - 0.4) ** 2), lambda x, y: jnp.exp(-20 * ((x - 0.4) ** 2 + (y - 0.5) ** 2))
TIMES, FINE = np.array([0.05, 0.2, 0.5, 2.0]), np.linspace(0.01, 2.0, 30)
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
    "a wall that swings": (lambda a: jd.Diffusion(a, boundaries=WALL(30.0)), LINE, 0.02, 0.3),
    "the rate of a wall": (lambda a: jd.Diffusion(0.05, boundaries=WALL(20 * a)), LINE, 0.97, 1.0),
    "D of time": (lambda a: jd.Diffusion(jd.TimeDependent(Wave(a, 0.9 * a, 20.0))), LINE, 0.01, 0.2),
    "a strong drift": (lambda a: jd.FokkerPlanck(jd.Expression("k*(0.5-x)", k=a), 0.02), LINE, 0.5, 9.0),
    "rough plane": (lambda a: jd.Diffusion(lambda x, y: a * (1 + x * y)), PLANE, 0.005, 0.2),
    "swept plane": (lambda a: jd.FokkerPlanck(lambda x, y: (a * (y - 0.5), a * (0.5 - x)), 0.02), PLANE, 0.5, 4.0),
}


@pytest.mark.parametrize("name, given", [(name, "function") for name in MODELS] + [("a wall that swings", "array")])
def test_a_prediction_is_that_of_the_fit(name, given, tmp_path):
    build, grid, start, truth = MODELS[name]
    one, place = (BUMP, (0.3, 0.6)) if grid is LINE else (HILL, ((0.3, 0.4), (0.7, 0.6)))
    initial = one if given == "function" else np.asarray(grid.average(one))
    model = lambda a: (build(a), initial)
    times, places = np.repeat(TIMES, 2), [place[i % 2] for i in range(8)]
    clean = jd.Readings(grid, None, times, places, np.zeros(8))
    equation = build(truth)
    states = np.asarray(jd.solve(equation, grid, initial, ALL).values)[np.isin(ALL, TIMES)]
    values = np.array(
        [
            float(grid.interpolate(u, np.atleast_2d(p) if grid is PLANE else np.atleast_1d(p))[0])
            for u in states
            for p in place
        ]
    )
    values = values + np.random.default_rng(0).normal(0, 1e-3, 8) * np.ptp(values)
    readings = jd.Readings(grid, None, times, places, values)
    fit = jd.fit(model, readings, parameters={"a": jd.Positive(start)}, progress=False)
    assert fit.converged and abs(fit.parameters["a"] - truth) < 5 * fit.standard_errors["a"]
    assert np.mean((values - fit.predict()) ** 2) == pytest.approx(fit.loss, rel=1e-5)
    np.testing.assert_allclose(fit.predict(clean), fit.predict(), atol=1e-12)
    if given == "function":
        page = fit.report(tmp_path / "fit.html").read_text(encoding="utf-8")
        assert f"{1 - fit.loss / np.var(values):.6f}" in page  # R²
        fit.save(tmp_path / "fit.json")
        again = jd.load(tmp_path / "fit.json", model)
        np.testing.assert_allclose(again.predict(readings), fit.predict(), atol=1e-7)
        finer = jd.Readings(grid, None, FINE, [place[0]] * 30, np.zeros(30))
        rest = np.asarray(jd.solve(fit.model, grid, fit.initial, ALL).values)[np.isin(ALL, FINE)]
        at = np.atleast_2d(place[0]) if grid is PLANE else np.atleast_1d(place[0])
        expected = [float(grid.interpolate(u, at)[0]) for u in rest]
        np.testing.assert_allclose(fit.predict(finer), expected, atol=2e-5)


def test_a_fitted_model_is_solved_in_a_session_of_single_precision():
    """Its closures hold numbers in float64, which JAX 0.10 confuses with those of the program that fitted them."""

    def model(D, a):
        drift = jd.TimeDependent(lambda x, y, t: (jnp.asarray([D, a])[0] * x, t * a * y))
        return jd.FokkerPlanck(drift, D), lambda x, y: jnp.exp(-x / jnp.asarray(a))

    times, places = np.repeat([0.02, 0.05, 0.1], 3), [(x, 0.5) for x in (0.2, 0.5, 0.8)] * 3
    parameters = {"D": jd.Positive(0.5), "a": jd.Positive(0.1)}
    with jax.enable_x64(False):
        readings = jd.Readings(PLANE, None, times, places, np.linspace(1.0, 0.3, 9))
        fit = jd.fit(model, readings, parameters=parameters, progress=False, steps=3)
        values = jd.solve(fit.model, PLANE, fit.initial, [0.0, 0.05]).values
        assert values.dtype == np.float32
    exact = jd.solve(fit.model, PLANE, fit.initial, [0.0, 0.05]).values
    np.testing.assert_allclose(values, exact, atol=1e-4 * float(exact.max()))


@pytest.mark.parametrize("dense", [True, False])
def test_order_four_is_read_at_its_order(dense):
    """cos(πx) e^{−π²Dt} at sensors anywhere, beside the walls too, on 8, 16 and 32 cells."""
    times, places = np.array([0.1, 0.3]), np.array([0.003, 0.2137, 0.5, 0.871, 0.999])
    rows = (np.repeat(times, 5), np.tile(places, 2))
    if not dense:
        rows = (np.linspace(0.1, 0.3, 11), np.linspace(0.003, 0.999, 11))
    exact, missed = np.cos(np.pi * rows[1]) * np.exp(-(np.pi**2) * 0.4 * rows[0]), []
    for n in (8, 16, 32):
        grid = jd.Grid.uniform((0.0, 1.0, n))
        readings = jd.Readings(grid, lambda x: jnp.cos(jnp.pi * x), *rows, exact)
        fit = jd.fit(jd.Diffusion(jd.Positive(0.4)), readings, scheme=jd.FiniteVolume(order=4), steps=1, progress=False)
        missed.append(np.abs(fit.predict() - exact).max())
    assert missed[2] < 2e-5 and np.log2(missed[1] / missed[2]) > 3.5


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


def test_a_loaded_fit_is_told_and_wants_its_own_model(tmp_path):
    readings = jd.Readings(LINE, BUMP, [0.02, 0.1, 0.2], [0.2] * 3, [0.3, 0.35, 0.3])
    build = lambda D: jd.Diffusion(D)
    fit = jd.fit(build, readings, parameters={"D": jd.Positive(1.0)}, progress=False)
    path = fit.save(tmp_path / "fit.json")
    assert "0.357" in jd.load(path, build).report(tmp_path / "loaded.html").read_text()
    with pytest.raises(ValueError, match="cannot be called with the parameters D: missing a required argument: 'b'"):
        jd.load(path, lambda D, b: jd.Diffusion(D + b))


def test_the_start_of_a_model_is_that_of_its_predictions():
    read = lambda level: jd.Readings(
        LINE, level and (lambda x: level + 0 * x), [0.02, 0.1, 0.2], [0.2] * 3, [1.2, 1.1, 1.0]
    )
    model = lambda D: (jd.Diffusion(D), BUMP)
    fit = jd.fit(model, read(5.0), parameters={"D": jd.Positive(1.0)}, progress=False)
    for level in (None, 7.0):
        np.testing.assert_array_equal(fit.predict(read(level)), fit.predict())
