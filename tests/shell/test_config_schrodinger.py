"""Waves in configuration files."""

import numpy as np
import pandas as pd
import pytest

import jaxdiff as jd
from jaxdiff.shell.cli import run_solve
from jaxdiff.shell.config import parse

WELL = {"kind": "schrodinger", "potential": "k*x**2/2"}
CONTENT = {
    "equation": WELL,
    "constants": {"k": 1.0},
    "grid": {"lower": -8.0, "upper": 8.0, "cells": 48},
    "initial": {"expression": "pi**-0.25*exp(-(x - 1)**2/2)", "phase": "x/2"},
}


def gaussian(x, middle):
    """The density of a coherent state of ħ = m = ω = 1."""
    return np.exp(-((x - middle) ** 2)) / np.sqrt(np.pi)


def test_the_energies_are_those_of_python():
    energies = {"mass": "2*m", "hbar": 0.5, "absorption": "m*heaviside(abs(x) - 5)"}
    content = {**CONTENT, "equation": {**WELL, **energies}, "parameters": {"m": 3.0}, "boundaries": {"x-": "neumann"}}
    problem = parse(content)
    found = problem.model(m=3.0)
    assert (float(found.mass), float(found.hbar), float(found.potential(2.0))) == (6.0, 0.5, 2.0)
    assert (float(found.absorption(4.0)), float(found.absorption(6.0))) == (0.0, 3.0)
    assert not found.imaginary_time
    mirror, wall = found.sides(problem.grid)
    assert isinstance(mirror, jd.Neumann) and isinstance(wall, jd.Dirichlet)
    start = found.on_cells(problem.grid, problem.experiments[0].initial)
    x = problem.grid.centers[0]
    np.testing.assert_allclose(start, np.sqrt(gaussian(x, 1.0)) * np.exp(0.5j * x), atol=1e-15)
    ground = parse({**CONTENT, "equation": {**WELL, "imaginary_time": True}, "initial": "exp(-abs(x))"})
    assert ground.model().imaginary_time and np.isrealobj(ground.experiments[0].initial(1.0))


@pytest.mark.slow
def test_a_wave_from_a_file_follows_the_path_of_a_driven_oscillator(tmp_path):
    (tmp_path / "driven.toml").write_text("""
        boundaries = "periodic"
        [equation]
        kind = "schrodinger"
        potential = "x**2/2 - F*x*cos(2*t)"
        [constants]
        F = 1.5
        [grid]
        lower = -8.0
        upper = 8.0
        cells = 48
        [initial]
        expression = "pi**-0.25*exp(-(x - 1)**2/2)"
        phase = "x/2"
        [solve]
        times = [0.0, 1.0, 3.0]
    """)
    run_solve(tmp_path / "driven.toml", None, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "solution.csv")
    assert list(table) == ["t", "x", "density", "real", "imaginary"] and len(table) == 3 * 48
    path = np.cos(table.t) + 0.5 * np.sin(table.t) + 1.5 / (1 - 4) * (np.cos(2 * table.t) - np.cos(table.t))
    np.testing.assert_allclose(table.density, gaussian(table.x, path), atol=1e-5)
    np.testing.assert_allclose(table.real**2 + table.imaginary**2, table.density, atol=1e-9)
    first = table[table.t == 0]
    np.testing.assert_allclose(first.imaginary, np.sqrt(gaussian(first.x, 1.0)) * np.sin(first.x / 2), atol=1e-9)
    assert (tmp_path / "out" / "solution.png").exists()


@pytest.mark.slow
def test_a_fit_of_a_well_and_of_the_push_at_the_start(tmp_path):
    t, x = (column.ravel() for column in np.meshgrid([0.5, 1.0, 2.0], np.arange(-3.0, 3.5, 1 / 3), indexing="ij"))
    density = gaussian(x, np.cos(t) + 0.5 * np.sin(t))
    pd.DataFrame({"t": t, "x": x, "density": density}).to_csv(tmp_path / "densities.csv", index=False)
    content = {
        **CONTENT,
        "constants": {},
        "boundaries": "periodic",
        "parameters": {"k": {"start": 1.5, "positive": True}, "p": 0.0},
        "grid": {"lower": -8 - 1 / 6, "upper": 8 - 1 / 6, "cells": 48},  # readings lie on centres
        "initial": {**CONTENT["initial"], "phase": "p*x"},
        "data": {"table": "densities.csv", "time": "t", "position": "x", "value": "density"},
    }
    problem = parse(content, tmp_path)
    fit = jd.fit(problem.model, problem.measurement, parameters=problem.parameters, progress=False)
    np.testing.assert_allclose([fit.parameters["k"], fit.parameters["p"]], [1.0, 0.5], rtol=1e-5)
    momenta = {"table": "densities.csv", "time": "t", "value": "density", "probe": {"kind": "momentum", "axis": "x"}}
    assert parse({**content, "data": momenta}, tmp_path).measurement.probe == jd.Momentum("x")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"equation": {"kind": "schrodinger"}}, "has no potential"),
        ({"equation": {**WELL, "decay": 1.0}}, "unknown key 'decay' in [equation]; allowed are kind, potential"),
        ({"equation": {**WELL, "mass": "1 + x"}}, "mass is one number, got a function"),
        ({"equation": {**WELL, "imaginary_time": "yes"}}, "must be true or false"),
        ({"equation": {**WELL, "potential": "t*x", "imaginary_time": True}}, "must not depend on time"),
        ({"boundaries": "absorbing"}, "is 'absorbing'; a wave takes dirichlet, neumann, periodic"),
        ({"initial": {"value": 1.0}}, "allowed are expression, phase, start"),
        ({"initial": {"phase": "x"}}, "[initial] of a wave has no expression"),
        ({"initial": {"expression": 1.0, "phase": "t*x"}}, "[initial] phase: it holds at one time"),
        ({"initial": {"expression": 1.0, "phase": "p*x"}}, "[initial] phase: 'p' in 'p*x' has no value"),
        ({"equation": {"kind": "diffusion", "diffusivity": 1.0}}, "unknown key 'expression' in [initial]"),
    ],
)
def test_what_cannot_be_is_said(change, words):
    with pytest.raises(ValueError) as caught:
        parse({**CONTENT, **change})
    assert words in str(caught.value), str(caught.value)
