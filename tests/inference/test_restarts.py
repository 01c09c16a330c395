"""Starts from which the data cannot be seen."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

NOTE = "the data cannot be seen"
TIMES, PLACES = np.tile(np.linspace(0.02, 0.4, 12), 2), np.repeat([0.2, 0.7], 12)
VALUES = 1 + np.cos(np.pi * PLACES) * np.exp(-0.4 * np.pi**2 * TIMES)
NOISE = 0.01 * np.random.default_rng(0).normal(size=24)
START = lambda x: 1 + jnp.cos(jnp.pi * x)  # one function, one program
READINGS = jd.Readings(jd.Grid.uniform((0.0, 1.0, 40)), START, TIMES, PLACES, VALUES + NOISE, sigma=0.01)


@pytest.mark.parametrize("mark", [jd.Positive, jd.Free])
@pytest.mark.parametrize("factor", [170.0, 2600.0, 1e5])
def test_a_start_where_all_is_level(mark, factor):
    found = jd.fit(jd.Diffusion(mark(0.4 * factor)), READINGS, progress=False)
    assert (
        found.converged and abs(found.parameters["diffusivity"] - 0.4) < 4 * found.standard_errors["diffusivity"] < 0.02
    )
    assert sum(NOTE in note for note in found.notes) == (factor > 1e3)


@pytest.mark.parametrize("start", [0.002, 0.4, 4.0])
def test_nothing_is_said_of_a_good_start(start):
    assert not jd.fit(jd.Diffusion(jd.Positive(start)), READINGS, progress=False).notes


@pytest.mark.slow
def test_two_at_once():
    model = lambda D, k: jd.Diffusion(D, decay=k)
    values = VALUES * np.exp(-1.5 * TIMES) + NOISE
    readings = jd.Readings(READINGS.grid, START, TIMES, PLACES, values, sigma=0.01)
    for D, k in ((400.0, 1.0), (400.0, 1500.0)):
        marks = {"D": jd.Positive(D), "k": jd.Positive(k)}
        found = jd.fit(model, readings, parameters=marks, progress=False)
        assert found.converged and abs(found.parameters["D"] - 0.4) < 0.02 and abs(found.parameters["k"] - 1.5) < 0.1


@pytest.mark.slow
def test_units_are_asked_about():
    """Millimetres and seconds, and a diffusivity in m²/s: it spreads a thousandth of a cell."""
    grid = jd.Grid.uniform((0.0, 1000.0, 40))
    readings = jd.Readings(grid, lambda x: 1 + jnp.cos(jnp.pi * x / 1000), TIMES, 1000 * PLACES, VALUES + NOISE)
    found = jd.fit(jd.Diffusion(jd.Positive(1e-5)), readings, progress=False)
    assert any("spreads" in note and "units" in note for note in found.notes) == (NOTE in " ".join(found.notes))
    assert abs(found.parameters["diffusivity"] / 0.4e6 - 1) < 0.1 or any("units" in note for note in found.notes)
