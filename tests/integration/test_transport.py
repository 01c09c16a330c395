"""Fits where a drift carries: real and made columns, and populations that start far out."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd


def column(V, D):
    return jd.FokkerPlanck(V, D, boundaries={"x-": jd.Flux(-V), "x+": jd.Neumann(0.0)})


def effluent(measured, cells):
    names = {"time": "time_min", "position": 11.0, "value": "relative_concentration"}
    grid = jd.Grid.uniform((0.0, 23.0, cells))
    return jd.Readings.from_table(measured("sand_column.csv"), grid, 0.0, **names)


@pytest.mark.slow
@pytest.mark.parametrize("start", [(3.0, 1.0), (2.0, 0.1), (2.5, 0.01)])
def test_a_sand_column_from_any_start(measured, start):
    """Shiozawa's effluent, read as resident concentration: V = 2.45148 ± 0.00148 cm/min, D = 0.15400 ± 0.00252 cm²/min."""
    parameters = {"V": jd.Positive(start[0]), "D": jd.Positive(start[1])}
    fit = jd.fit(column, effluent(measured, 1200), parameters=parameters, progress=False)
    assert fit.converged and not any("cells" in note for note in fit.notes)
    assert abs(fit.parameters["V"] - 2.45148) < 0.0015 and abs(fit.parameters["D"] - 0.154) < 0.0025
    if start == (3.0, 1.0):
        independent = jd.fit(column, effluent(measured, 1200), parameters=parameters, progress=False, errors="iid")
        assert abs(independent.standard_errors["D"] - 0.00252) < 3e-4 < fit.standard_errors["D"] - 0.00252


@pytest.mark.slow
def test_too_few_cells_for_the_column_are_said(measured):
    parameters = {"V": jd.Positive(2.5), "D": jd.Positive(0.1)}
    fit = jd.fit(column, effluent(measured, 600), parameters=parameters, progress=False, errors="iid")
    assert abs(fit.parameters["D"] - 0.149) < 0.001
    assert any("cells are too large" in note for note in fit.notes)


@pytest.mark.slow
def test_a_breakthrough_at_a_hundred(seed=0):
    grid, times, true = jd.Grid.uniform((0.0, 1.0, 400)), np.linspace(0.02, 1.6, 60), 0.01
    values = [
        grid.interpolate(u, np.array([0.8]))[0]
        for u in jd.solve(column(1.0, true), grid, 0.0, [0.0, *times]).values[1:]
    ]
    values = np.array(values) + np.random.default_rng(seed).normal(0, 0.01, 60)
    readings = jd.Readings(grid, 0.0, times, np.full(60, 0.8), values, sigma=0.01)
    model = lambda D: column(1.0, D)
    for start in (0.1, 0.002):
        fit = jd.fit(model, readings, parameters={"D": jd.Positive(start)}, progress=False)
        assert fit.converged and abs(fit.parameters["D"] - true) < 3 * fit.standard_errors["D"] < 0.001


@pytest.mark.slow
@pytest.mark.parametrize(("away", "D", "rate"), [(2.0, 0.05, 0.3), (8.0, 1.0, 0.5), (12.0, 1.0, 0.5)])
def test_populations_that_start_far_out(away, D, rate):
    rng, wide = np.random.default_rng(3), away > 4
    grid = jd.Grid.uniform((-15.0, 15.0, 600) if wide else (-3.0, 3.0, 400))
    edges, times = np.linspace(*grid.edges[0][[0, -1]], 61), np.linspace(0.3, 2.4, 6)
    width = 0.25 if wide else 0.01
    spread = lambda t: np.sqrt(width * np.exp(-2 * t) + D * (1 - np.exp(-2 * t)))
    counts = [np.histogram(rng.normal(away * np.exp(-t), spread(t), 10_000), edges)[0] for t in times]
    histograms = jd.Histograms(grid, lambda x: jnp.exp(-((x - away) ** 2) / (2 * width)), times, counts, edges)
    model = jd.FokkerPlanck(jd.Expression("-k*x", k=jd.Positive(rate)), jd.Positive(2 * D))
    fit = jd.fit(model, histograms, progress=False)
    for name, true in (("drift.k", 1.0), ("diffusivity", D)):
        assert abs(fit.parameters[name] - true) < 4 * fit.standard_errors[name] < 0.06 * true
