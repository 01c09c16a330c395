"""Configuration files: what each way of writing a problem builds, without fitting it."""

import numpy as np
import optax
import pandas as pd
import pytest
from configurations import problem

import jaxdiff as jd
from jaxdiff.parameters import plain

WIDE = pd.DataFrame(
    {
        "time": [0.0, 60.0, 120.0, 180.0],
        "air": [20.0, 21.0, None, 23.0],
        "left": [50.0, 51.0, 52.0, 53.0],
        "mid": [40.0, 41.0, None, 43.0],
        "right": [30.0, 31.0, 32.0, 33.0],
    }
)


SENSORS = {"time": "time", "sensors": {"left": 0.2, "mid": 0.5, "right": 0.8}}


def test_a_wide_table(tmp_path):
    m = problem(tmp_path, WIDE, data=SENSORS).measurement
    assert len(m.values) == 11  # one is missing
    np.testing.assert_array_equal(m.times[:4], [0.0, 0.0, 0.0, 60.0])
    assert m.sigma is None and float(m.initial(0.3)) == 20.0


def test_a_long_table_with_scales_and_chosen_rows(tmp_path):
    table = pd.DataFrame({"t": np.arange(6.0), "x": np.arange(6) * 10.0, "T": np.arange(6) + 20.0, "dT": 0.1})
    columns = {"time": "t", "position": "x", "value": "T", "sigma": "dT"}
    data = {**columns, "scale": {"x": 0.01, "t": 60.0}, "rows": [2, 6], "every": 2}
    m = problem(tmp_path, table, data=data).measurement
    np.testing.assert_allclose(m.times, [60.0, 180.0, 300.0])
    np.testing.assert_allclose(m.positions, [0.1, 0.3, 0.5])
    np.testing.assert_allclose(m.sigma, 0.1)


def test_the_first_row_as_profile_with_the_walls(tmp_path):
    data = {"time": "time", "sensors": {"mid": 0.5}}
    sides = {"x-": {"kind": "dirichlet", "value": "left"}, "x+": {"kind": "dirichlet", "value": "right"}}
    done = problem(tmp_path, WIDE, data=data, boundaries=sides, initial="first row")
    np.testing.assert_allclose(
        done.experiments[0].initial, np.interp(done.grid.centers[0], [0.0, 0.5, 1.0], [50.0, 40.0, 30.0])
    )
    np.testing.assert_array_equal(done.measurement.times, [60.0, 180.0])
    wall = done.model(D=1.0).boundaries["x-"].value
    assert isinstance(wall, jd.Series)
    np.testing.assert_array_equal(wall.values, WIDE["left"])


def test_a_column_in_a_source_is_linear_over_what_is_missing_where_that_is_stated(tmp_path):
    equation = {"kind": "diffusion", "diffusivity": "D", "decay": "k", "source": "k*air"}
    parameters = {"D": 1.0, "k": {"start": 0.5, "positive": True}}
    with pytest.raises(ValueError, match=r"row 3 \(line 4\) of column 'air' .* is empty; .* interpolation = { air = "):
        problem(tmp_path, WIDE, data=SENSORS, equation=equation, parameters=parameters)
    data = {**SENSORS, "interpolation": {"air": "linear"}}
    done = problem(tmp_path, WIDE, data=data, equation=equation, parameters=parameters)
    source = done.model(D=1.0, k=2.0).source
    np.testing.assert_allclose(source.values, [40.0, 42.0, 44.0, 46.0])
    assert float(source(90.0)) == 43.0


TEXTS = [
    (3.0, lambda D: float(D) == 3.0),
    ("2*D + a", lambda D: float(D) == 9.0),
    ("D*(1 + x**2)", lambda D: float(D(0.5)) == 5.0),
    ("D + t", lambda D: isinstance(D, jd.TimeDependent) and float(D(1.0, 0.5)) == 5.0),
    ("D*x + t", lambda D: isinstance(D, jd.TimeDependent) and float(D(1.0, 0.5)) == 3.0),
]


@pytest.mark.parametrize("text, holds", TEXTS, ids=[str(text) for text, _ in TEXTS])
def test_what_a_text_becomes(tmp_path, text, holds):
    equation = {"kind": "diffusion", "diffusivity": text, "decay": "D"}
    done = problem(tmp_path, equation=equation, constants={"a": 1.0})
    assert holds(done.model(D=4.0).diffusivity)


def test_a_radius_is_called_r(tmp_path):
    grid = {"lower": 0.0, "upper": 1.0, "cells": 10, "geometry": "spherical"}
    equation = {"kind": "diffusion", "diffusivity": "D*r"}
    sides = {"r+": "absorbing"}
    done = problem(tmp_path, grid=grid, equation=equation, boundaries=sides, initial="1 - r")
    assert float(done.model(D=2.0).diffusivity(0.5)) == 1.0
    assert done.grid.geometry == "spherical" and float(done.experiments[0].initial(0.25)) == 0.75


KINDS = [
    ("flux", {"value": "-D"}, jd.Flux),
    ("neumann", {"gradient": 1.0}, jd.Neumann),
    ("robin", {"rate": "D", "ambient": "20 + t"}, jd.Robin),
    ("periodic", {}, jd.Periodic),
]


@pytest.mark.parametrize("kind, numbers, expected", KINDS, ids=[kind for kind, *_ in KINDS])
def test_boundaries(tmp_path, kind, numbers, expected):
    done = problem(tmp_path, boundaries={"all": {"kind": kind, **numbers}})
    assert isinstance(done.model(D=1.0).boundaries, expected)


def test_an_initial_state_with_a_parameter_is_fitted_too(tmp_path):
    done = problem(tmp_path, parameters={"D": 1.0, "height": 3.0}, initial="height*sin(pi*x)")
    equation, initial = done.model(D=1.0, height=2.0)
    assert isinstance(equation, jd.Diffusion) and float(initial(0.5)) == 2.0
    assert float(done.experiments[0].initial(0.5)) == 3.0


def test_marks(tmp_path):
    parameters = {
        "D": {"start": 2.0, "positive": True},
        "b": {"start": 0.5, "lower": 0.0, "upper": 1.0},
        "f": -1.0,
        "g": {"start": 1.0, "lower": 0.0},
        "h": {"start": 7.0, "fixed": True},
    }
    equation = {"kind": "diffusion", "diffusivity": "D + b + f + g + h"}
    done = problem(tmp_path, equation=equation, parameters=parameters)
    kinds = {name: type(mark) for name, mark in done.parameters.items()}
    assert kinds == {"D": jd.Positive, "b": jd.Bounded, "f": jd.Free, "g": jd.Positive}
    assert float(done.model(**done.starts).diffusivity) == 9.5


def test_a_potential_and_an_interpretation(tmp_path):
    equation = {"kind": "fokker_planck", "potential": "D*x**2", "diffusivity": 0.5, "interpretation": "stratonovich"}
    built = problem(tmp_path, equation=equation).model(D=2.0)
    assert isinstance(built.drift, jd.Potential) and float(built.drift(0.5)) == -2.0
    assert built.interpretation == "stratonovich"


WALK = {"kind": "fokker_planck", "drift": "-D*(x - 0.5)", "diffusivity": 0.1}


def test_trajectories(tmp_path):
    table = pd.DataFrame({"t": [0.0, 1.0, 2.0, 0.0, 1.0], "x": [1, 2, 3, 4, 5], "bead": [1, 1, 1, 2, 2]})
    data = {"kind": "trajectory", "time": "t", "value": "x", "track": "bead", "scale": {"x": 0.1}}
    m = problem(tmp_path, table, equation=WALK, data=data).measurement
    np.testing.assert_allclose(m.stops, [0.2, 0.3, 0.5])
    seen = problem(tmp_path, table, equation=WALK, data={**data, "noise": {"start": 0.02}, "exposure": 0.5}).measurement
    assert (float(seen.initial.noise.value), seen.exposure) == (0.02, 0.5)
    named = problem(tmp_path, table, equation=WALK, data={**data, "noise": "D"}).measurement
    assert named.initial.noise.name == "D"
    one = {"kind": "trajectory", "interval": 0.5, "value": "x", "scale": {"x": 0.1}}
    np.testing.assert_allclose(problem(tmp_path, table, equation=WALK, data=one).measurement.durations, 0.5)


def test_histograms_wide_long_and_as_initial_state(tmp_path):
    counts = np.arange(1, 21).reshape(2, 10)
    wide = pd.DataFrame(counts, columns=[f"b{i}" for i in range(10)])
    wide.insert(0, "t", [0.0, 1.0])
    data = {"kind": "histograms", "time": "t"}
    m = problem(tmp_path, wide, equation=WALK, data=data).measurement
    np.testing.assert_array_equal(m.counts, counts)
    middles = np.tile(np.linspace(0.05, 0.95, 10), 2)
    long = pd.DataFrame({"t": np.repeat([0.0, 1.0], 10), "x": middles, "n": counts.ravel()})
    columns = {**data, "position": "x", "value": "n"}
    other = problem(tmp_path, long.sample(frac=1, random_state=0), equation=WALK, data=columns).measurement
    np.testing.assert_array_equal(other.counts, counts)
    started = problem(tmp_path, wide, equation=WALK, data=data, initial="first row")
    np.testing.assert_array_equal(started.measurement.times, [1.0])
    assert started.grid.integrate(started.experiments[0].initial) == pytest.approx(1.0)


def test_a_profile_from_a_table_and_a_point(tmp_path):
    pd.DataFrame({"depth": [1.0, 0.0], "c": [3.0, 1.0]}).to_csv(tmp_path / "profile.csv", index=False)
    initial = {"table": "profile.csv", "position": "depth", "column": "c", "start": 5.0}
    done = problem(tmp_path, initial=initial)
    np.testing.assert_allclose(done.experiments[0].initial, 1 + 2 * done.grid.centers[0])
    assert done.experiments[0].start == 5.0
    point = problem(tmp_path, initial={"delta": 0.42})
    assert point.grid.integrate(point.experiments[0].initial) == pytest.approx(1.0)


def test_methods(tmp_path):
    fit = {
        "loss": "negative_log_likelihood",
        "optimizer": {"name": "levenberg_marquardt", "tolerance": 1e-6},
        "steps": 7,
        "validation": 0.2,
        "stepper": "crank_nicolson",
        "substeps": 3,
        "scheme": {"name": "finite_volume", "order": 4},
        "seed": 1,
    }
    done = problem(tmp_path, fit=fit).fit_options
    assert done["loss"] is jd.negative_log_likelihood and done["optimizer"].tolerance == 1e-6
    assert isinstance(done["stepper"], jd.CrankNicolson) and done["scheme"].order == 4
    assert (done["steps"], done["substeps"], done["validation"]) == (7, 3, 0.2)
    adam = problem(tmp_path, fit={"optimizer": {"name": "adam", "learning_rate": 0.1}}).fit_options["optimizer"]
    assert adam == jd.Descent("adam", 0.1)
    assert problem(tmp_path, fit={"optimizer": "lbfgs"}).fit_options["optimizer"] == jd.Descent("lbfgs")
    many = {"name": "sgd", "momentum": 0.9, "patience": 30, "average": 0.99, "every": 5}
    done = problem(tmp_path, fit={"optimizer": many, "save": "fit.npz"}).fit_options
    assert isinstance(done["optimizer"].method, optax.GradientTransformation)
    assert (done["optimizer"].patience, done["optimizer"].average, done["save"].name) == (30, 0.99, "fit.npz")


def test_models_of_the_same_content_are_equal(tmp_path):
    one, other, third = (problem(tmp_path, constants={"a": a}).model for a in (1.0, 1.0, 2.0))
    assert one == other and hash(one) == hash(other) and one != third


REFUSED = [
    ({"data": {"time": "time", "sensors": {"left": "a"}}}, "[data] sensors left must be a number"),
    ({"data": {"time": "time", "sensors": "left"}}, "[data] sensors must be a table"),
    ({"data": {**SENSORS, "every": 0}}, "[data] every must be 1 or more"),
    ({"data": {**SENSORS, "rows": [1]}}, "[data] rows must be a list of 2"),
    ({"data": {**SENSORS, "names": "time"}}, "[data] names must be a list"),
    ({"data": {**SENSORS, "scale": {"aire": 2.0}}}, "did you mean 'air'"),
    ({"data": {**SENSORS, "time": True}}, "[data] time must be a number"),
    ({"data": {"kind": "trajectory", "value": "left"}}, "give one of them"),
    ({"data": {**SENSORS, "kind": "reading"}}, "did you mean 'readings'"),
    ({"data": SENSORS, "equation": {"kind": "diffusion", "diffusivity": "D*left*x"}}, "mixes a column of the data"),
    ({"data": SENSORS, "equation": {"kind": "diffusion", "diffusivity": "D*aire"}}, "known are D, time, air, left"),
    ({"data": {**SENSORS, "time": 1.0}, "boundaries": {"x-": {"kind": "dirichlet", "value": "air"}}}, "course in time"),
    ({"data": SENSORS, "initial": {"profile": "first row", "start": 1.0}}, "leave it out"),
    ({"data": SENSORS, "initial": {}}, "one of value, profile, delta, column"),
    ({"data": SENSORS, "boundaries": {"x-": {"kind": "robin"}}}, "robin needs a rate"),
    ({"data": SENSORS, "boundaries": 3}, "a table of sides or one word"),
    ({"data": SENSORS, "grid": {"edges": [0.0, "a"]}}, "[grid] edges must be a number"),
    ({"data": SENSORS, "grid": 3}, "grid must be a table"),
    ({"data": SENSORS, "parameters": {"D": 1.0, "a b": 1.0}}, "no name for arithmetic"),
    ({"data": SENSORS, "solve": {"times": {"count": 3}}}, "needs a stop"),
    (
        {"data": SENSORS, "fit": {"scheme": "spectrum"}},
        "did you mean 'spectral'? choose one of finite_volume, spectral",
    ),
    ({"data": SENSORS, "equation": None}, "needs a table [equation]"),
]


@pytest.mark.parametrize("changes, message", REFUSED, ids=[message for _, message in REFUSED])
def test_refused_in_one_line(tmp_path, changes, message):
    with pytest.raises(ValueError) as caught:
        problem(tmp_path, WIDE, **changes)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_starts_are_plain_numbers(tmp_path):
    assert float(plain(problem(tmp_path).starts)["D"]) == 2.0
