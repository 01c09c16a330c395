"""Configuration files on two and three axes: what each way of writing a problem builds, without fitting it."""

from functools import partial

import configurations
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxdiff as jd

PLANE = {"lower": [0.0, 0.0], "upper": [1.0, 2.0], "cells": [5, 4]}
problem = partial(configurations.problem, grid=PLANE)


def test_grids(tmp_path):
    assert problem(tmp_path).grid.shape == (5, 4)
    edges = problem(tmp_path, grid={"edges": [[0.0, 0.1, 1.0], [0.0, 0.5, 2.0, 3.0]]}).grid
    assert edges.shape == (2, 3) and edges.geometry == "cartesian"
    cylinder = problem(tmp_path, grid={**PLANE, "geometry": "cylindrical"}).grid
    assert cylinder.names == ("r", "z") and float(cylinder.volumes.sum()) == pytest.approx(2 * np.pi)
    box = problem(tmp_path, grid={"lower": [0.0] * 3, "upper": [1.0] * 3, "cells": [2, 3, 4]}).grid
    assert box.shape == (2, 3, 4)


SERIES = pd.DataFrame({"t": [0.0, 1.0, 4.0], "bath": [1.0, 2.0, 8.0], "s1": [3.0, 4.0, 5.0]})
WRITTEN = {
    "place": (
        {"diffusivity": "D*(1 + x*y)", "decay": "a*y", "source": "x - y", "capacity": "1 + y"},
        {"x-": {"kind": "dirichlet", "value": "D*y**2"}, "y": {"kind": "robin", "rate": "1 + x", "ambient": "bath"}},
        lambda bath: jd.Diffusion(
            lambda x, y: 3.0 * (1 + x * y),
            decay=lambda x, y: 0.5 * y,
            source=lambda x, y: x - y,
            capacity=lambda x, y: 1 + y,
            boundaries={"x-": jd.Dirichlet(lambda y: 3.0 * y**2), "y": jd.Robin(lambda x: 1 + x, bath)},
        ),
    ),
    "per axis": (
        {"diffusivity": ["D", "a*x"], "decay": "0*D"},
        {"x": "periodic", "y+": {"kind": "flux", "value": "sin(pi*x)"}},
        lambda bath: jd.Diffusion(
            jd.PerAxis(3.0, lambda x, y: 0.5 * x),
            boundaries={"x": jd.Periodic(), "y+": jd.Flux(lambda x: jnp.sin(np.pi * x))},
        ),
    ),
    "drift": (
        {"kind": "fokker_planck", "drift": ["-D*(x - y)", 0.2], "diffusivity": "a", "interpretation": "isothermal"},
        {"all": "absorbing"},
        lambda bath: jd.FokkerPlanck(
            (lambda x, y: -3.0 * (x - y), 0.2), 0.5, interpretation="isothermal", boundaries=jd.absorbing
        ),
    ),
    "constant drift": (
        {"kind": "fokker_planck", "drift": ["D", "-a"], "diffusivity": 1.0},
        {},
        lambda bath: jd.FokkerPlanck((3.0, -0.5), 1.0),
    ),
    "no drift": ({"kind": "fokker_planck", "diffusivity": "D"}, {}, lambda bath: jd.FokkerPlanck((0.0, 0.0), 3.0)),
    "potential": (
        {"kind": "fokker_planck", "potential": "D*(x - y)**2", "diffusivity": "a"},
        {},
        lambda bath: jd.FokkerPlanck(jd.Potential(lambda x, y: 3.0 * (x - y) ** 2), 0.5),
    ),
}


@pytest.mark.parametrize("equation, sides, by_hand", WRITTEN.values(), ids=WRITTEN)
def test_a_file_means_what_the_same_words_mean_in_python(tmp_path, equation, sides, by_hand):
    data = {"time": "t", "sensors": {"s1": [0.1, 0.2]}}
    equation = {"kind": "diffusion", **equation}
    built = problem(tmp_path, SERIES, equation=equation, boundaries=sides, constants={"a": 0.5}, data=data)
    x, y = np.meshgrid(*built.grid.centers, indexing="ij")

    @jax.jit
    def rates():
        made = built.model(D=3.0), by_hand(jd.Series(SERIES["t"], SERIES["bath"]))
        systems = [jd.FiniteVolume().systems(one, built.grid)[0] for one in made]
        return [system.operator(0.5) @ (np.cos(3 * x) + y) + system.forcing(0.5) for system in systems]

    one, other = rates()
    assert np.abs(one).max() > 1e-3
    np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_time_and_place_in_a_text(tmp_path):
    made = problem(tmp_path, equation={"kind": "diffusion", "diffusivity": ["D + t*y", "D"]}).model(D=3.0)
    assert isinstance(made.diffusivity.x, jd.TimeDependent)
    assert float(made.diffusivity.x(2.0, 0.1, 0.5)) == 4.0 and float(made.diffusivity.y) == 3.0
    wall = {"x-": {"kind": "dirichlet", "value": "D*y*t"}, "y+": {"kind": "flux", "value": "t"}}
    made = problem(tmp_path, boundaries=wall).model(D=3.0).boundaries
    assert float(made["x-"].value(2.0, 0.5)) == 3.0 and float(made["y+"].value(2.0, 0.5)) == 2.0
    cylinder = {"grid": {**PLANE, "geometry": "cylindrical"}, "initial": "r + 2*z"}
    assert float(problem(tmp_path, **cylinder).experiments[0].initial(0.5, 1.0)) == 2.5


@pytest.mark.parametrize("entry", ["b", "b*x", "b*t"])
def test_a_matrix(tmp_path, entry):
    equation = {"kind": "diffusion", "diffusivity": [["D", entry], [entry, 1.0]]}
    matrix = problem(tmp_path, equation=equation, constants={"b": 0.5}).model(D=3.0).diffusivity.matrix
    assert isinstance(matrix, jd.TimeDependent) == (entry == "b*t")
    value = matrix(2.0, 2.0, 0.0) if entry == "b*t" else matrix(2.0, 0.0) if callable(matrix) else matrix
    b = 0.5 if entry == "b" else 1.0
    np.testing.assert_allclose(value, [[3.0, b], [b, 1.0]])


def test_readings_in_rows_and_by_sensor(tmp_path):
    table = pd.DataFrame({"t": [0.0, 1.0], "x": [20.0, 30.0], "y": [1.0, 1.5], "T": [5.0, 6.0], "s2": [7.0, None]})
    rows = {"time": "t", "position": ["x", "y"], "value": "T", "scale": {"x": 0.01}}
    m = problem(tmp_path, table, data=rows).measurement
    np.testing.assert_allclose(m.positions, [[0.2, 1.0], [0.3, 1.5]])
    sensors = {"time": "t", "sensors": {"T": [0.1, 0.2], "s2": [0.3, 0.4]}}
    m = problem(tmp_path, table, data=sensors).measurement
    np.testing.assert_array_equal(m.positions, [[0.1, 0.2], [0.3, 0.4], [0.1, 0.2]])
    np.testing.assert_array_equal(m.values, [5.0, 7.0, 6.0])


def images(counts, x, y, times=(0.0, 1.0)):
    t, x, y = np.meshgrid(times, x, y, indexing="ij")
    return pd.DataFrame({"t": t.ravel(), "x": x.ravel(), "y": y.ravel(), "n": counts.ravel()})


IMAGES = {"kind": "histograms", "time": "t", "position": ["x", "y"], "value": "n"}
COUNTS = np.arange(2 * 5 * 4).reshape(2, 5, 4)
MIDDLES = (np.arange(5) * 0.2 + 0.1, np.arange(4) * 0.5 + 0.25)


def test_a_series_of_images(tmp_path):
    table = images(COUNTS, *MIDDLES)
    m = problem(tmp_path, table.sample(frac=1, random_state=0), data=IMAGES).measurement
    np.testing.assert_array_equal(m.counts, COUNTS)
    pixels = {**IMAGES, "scale": {"x": 0.1, "y": 0.1}, "edges": [[0.0, 0.4, 0.8], [0.0, 0.5, 1.0, 2.0]]}
    few = pd.DataFrame({"t": [1.0, 1.0], "x": [2.0, 6.0], "y": [2.5, 15.0], "n": [3, 4]})  # empty pixels left out
    m = problem(tmp_path, few, data=pixels).measurement
    np.testing.assert_array_equal(m.counts, [[[3, 0, 0], [0, 0, 4]]])


def test_the_first_image_as_initial_state(tmp_path):
    done = problem(tmp_path, images(COUNTS, *MIDDLES, times=(3.0, 4.0)), data=IMAGES, initial="first row")
    assert done.experiments[0].start == 3.0
    np.testing.assert_array_equal(done.measurement.counts, COUNTS[1:])
    np.testing.assert_allclose(done.experiments[0].initial, COUNTS[0] / (0.1 * COUNTS[0].sum()))
    fine = {**PLANE, "cells": [10, 8]}
    edges = {"edges": [np.linspace(0, 1, 6).tolist(), np.linspace(0, 2, 5).tolist()]}
    done = problem(tmp_path, grid=fine, data={**IMAGES, **edges, "table": "table.csv"}, initial="first row")
    np.testing.assert_allclose(
        done.experiments[0].initial, np.kron(COUNTS[0], np.ones((2, 2))) / (0.1 * COUNTS[0].sum())
    )
    assert done.grid.integrate(done.experiments[0].initial) == pytest.approx(1.0)


def test_a_field_on_a_lattice_of_places_as_initial_state(tmp_path):
    x, y = np.array([0.1, 0.5, 0.9]), np.array([0.25, 1.75])
    field = lambda x, y: 1 + 2 * x + 3 * y + x * y
    table = images(field(*np.meshgrid(x, y, indexing="ij")), x, y, times=(7.0,))
    pd.concat([table, table.assign(t=8.0)]).sample(frac=1, random_state=1).to_csv(tmp_path / "f.csv", index=False)
    expected = field(*np.meshgrid(*problem(tmp_path).grid.centers, indexing="ij"))
    rows = {"table": "f.csv", "time": "t", "position": ["x", "y"], "value": "n"}
    first = problem(tmp_path, data=rows, initial="first row")
    np.testing.assert_allclose(first.experiments[0].initial, expected)
    assert first.experiments[0].start == 7.0 and (first.measurement.times == 8.0).all()
    column = problem(tmp_path, initial={"table": "f.csv", "position": ["x", "y"], "column": "n"})
    np.testing.assert_allclose(column.experiments[0].initial, expected)
    point = problem(tmp_path, initial={"delta": [0.3, 1.1]})
    np.testing.assert_allclose(point.grid.integrate(point.experiments[0].initial * point.grid.centers[1]), 1.1)


def test_a_scheme_and_every_stepper(tmp_path):
    done = problem(tmp_path, fit={"scheme": "spectral"}).fit_options
    assert isinstance(done["scheme"], jd.Spectral)
    for name, made in {"runge_kutta4": jd.RungeKutta4, "trbdf2": jd.TRBDF2, "crank_nicolson": jd.CrankNicolson}.items():
        assert isinstance(problem(tmp_path, solve={"stepper": name}).solve_options["stepper"], made)


SHORT = {"table": "short.csv", "time": "t", "position": ["x", "y"], "value": "n"}
REFUSED = [
    ({"grid": {**PLANE, "cells": 5}}, "[grid] needs a lower, an upper and cells for every axis, got 2, 2 and 1"),
    ({"grid": {**PLANE, "geometry": "spherical"}}, "at most 1 axes"),
    ({"grid": {**PLANE, "upper": [1.0, "b"]}}, "[grid] upper must be a number"),
    ({"equation": {"kind": "diffusion", "diffusivity": ["D", 1.0, 1.0]}}, "must be one for each of x, y on this grid"),
    ({"equation": {"kind": "diffusion", "diffusivity": [["D", 1.0], [1.0]]}}, "must be a list of 2, got [1.0]"),
    ({"equation": {"kind": "diffusion", "diffusivity": "D*z"}}, "'z' in 'D*z' has no value; known are D, t, x, y"),
    ({"equation": {"kind": "fokker_planck", "drift": "-D*x", "diffusivity": 1.0}}, "[equation] drift must be one for"),
    ({"boundaries": {"z-": "absorbing"}}, "allowed are x-, x+, y-, y+, x, y, all"),
    ({"boundaries": {"x-": {"kind": "dirichlet", "value": "x"}}}, "only y varies along this wall"),
    ({"boundaries": {"all": {"kind": "dirichlet", "value": "y"}}}, "name the sides one by one"),
    ({"boundaries": {"x": "absorbing", "x-": "absorbing"}}, "side 'x-' is named twice"),
    ({"boundaries": {"x-": "periodic"}}, "needs Periodic() on both sides"),
    ({"initial": {"delta": 0.5}}, "[initial] delta must be one for each of x, y"),
    ({"initial": {**SHORT, "column": "n"}}, "unknown key 'time' in [initial]"),
    ({"initial": {"table": "short.csv", "position": ["x", "y"], "column": "n"}}, "got 2 values for 2 × 2 places"),
    ({"initial": "first row", "data": SHORT}, "the rows must fill a lattice of positions"),
    ({"data": {**SHORT, "position": "x"}}, "[data] position must be one for each of x, y on this grid, got 'x'"),
    ({"data": {"table": "short.csv", "time": "t", "sensors": {"n": 0.5}}}, "[data] sensors n must be one for each"),
    ({"data": {**SHORT, "kind": "histograms"}}, "along x only 2 of 5 cells have a row; give edges"),
    ({"data": {**SHORT, "kind": "histograms", "scale": {"x": 2.0}}}, "x = 0.2 is not the middle of a bin"),
    ({"data": {**SHORT, "kind": "histograms", "edges": [0.0, 1.0]}}, "[data] edges must be 2 lists"),
    ({"data": {"table": "short.csv", "kind": "histograms", "time": "t"}}, "a row per bin: name position"),
    (
        {"data": {"table": "short.csv", "kind": "trajectory", "interval": 1.0, "value": "x"}},
        "value must be one for each of x, y on this grid",
    ),
    ({"labels": {"r": "radius"}}, "allowed are x, y, t, value"),
    ({"fit": {"scheme": {"name": "spectral", "order": 4}}}, "unknown key 'order' in [fit] scheme"),
]


@pytest.mark.parametrize("changes, message", REFUSED, ids=[message for _, message in REFUSED])
def test_refused_in_one_line(tmp_path, changes, message):
    pd.DataFrame({"t": [1.0, 1.0], "x": [0.1, 0.3], "y": [0.25, 0.75], "n": [1, 2]}).to_csv(
        tmp_path / "short.csv", index=False
    )
    with pytest.raises(ValueError) as caught:
        done = problem(tmp_path, **changes)
        done.model(**done.starts).sides(done.grid)
    assert message in str(caught.value) and "\n" not in str(caught.value)
