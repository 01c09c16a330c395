"""What is missing in the data is left out, counted, and told with the fit; in a configuration as in Python."""

import numpy as np
import pandas as pd
import pytest

import jaxdiff as jd
from jaxdiff.shell.config import parse

GRID = jd.Grid.uniform((0.0, 1.0, 20))
EQUATION = jd.Diffusion(jd.Positive(0.1), boundaries={"x-": jd.Dirichlet(1.0)})


def measured(times, gaps=()):
    u = jd.solve(jd.Diffusion(0.2, boundaries={"x-": jd.Dirichlet(1.0)}), GRID, 0.0, np.append(0.0, times)).values[
        1:, 9
    ]
    values = np.asarray(u) + np.random.default_rng(0).normal(0, 1e-3, len(times))
    values[list(gaps)] = np.nan
    return values


TIMES = np.linspace(0.1, 1.0, 12)


@pytest.mark.slow
def test_dropped_readings_are_told_by_the_fit():
    readings = jd.Readings(GRID, 0.0, TIMES, GRID.centers[0][9], measured(TIMES, (2, 5)))
    note = "10 of 12 rows used; 2 missing"
    for options in ({}, {"validation": 0.2}):
        fit = jd.fit(EQUATION, readings, progress=False, **options)
        assert note in fit.notes and f"note: {note}" in fit.summary()
    whole = jd.Readings(GRID, 0.0, TIMES, GRID.centers[0][9], measured(TIMES))
    assert whole.notes == () and not [
        note for note in jd.fit(EQUATION, whole, progress=False).notes if "missing" in note
    ]


@pytest.mark.slow
def test_many_fits_tell_what_is_missing_in_all():
    readings = jd.Readings(GRID, 0.0, TIMES, GRID.centers[0][9], measured(TIMES, (2,)))
    fits = jd.fit_many(EQUATION, [readings, readings], progress=False)
    assert "22 of 24 rows of 2 data sets used; 2 missing" in fits.notes
    whole = jd.Readings(GRID, 0.0, TIMES, GRID.centers[0][9], measured(TIMES))
    fits = jd.fit_many(EQUATION, whole, np.stack([measured(TIMES, (1, 2, 3)), measured(TIMES)]), progress=False)
    assert "21 of 24 rows of 2 data sets used; 3 missing" in fits.notes


def test_frames_that_are_missing_are_left_out_of_a_path():
    path = jd.Trajectory(GRID, [0.0, 1.0, 2.0, 4.0], [0.1, np.nan, 0.3, 0.4])
    assert (path.durations.tolist(), path.missing) == ([2.0, 2.0], 1)
    assert path.notes == ("3 of 4 frames used; 1 missing",)
    paths = jd.Trajectory(GRID, [[0.0, 1.0, 2.0]] * 2, [[0.1, 0.2, np.nan], [np.nan, 0.2, 0.3]])
    assert paths.notes == ("4 of 6 frames used; 2 missing",)
    with pytest.raises(ValueError, match="must be finite, got inf at time 1.0 in row 1"):
        jd.Trajectory(GRID, [0.0, 1.0, 2.0], [0.1, np.inf, 0.2])
    short = jd.Trajectory(GRID, [[0.0, 1.0]] * 2, [[0.1, 0.2], [np.nan, 0.3]])
    assert short.notes == ("1 of 2 paths used; 1 with fewer than two points",)
    with pytest.raises(ValueError, match="none of 2 with as many"):
        jd.Trajectory(GRID, [[0.0, 1.0]] * 2, [[0.1, np.nan], [np.nan, 0.3]])
    with pytest.raises(ValueError, match="must be as many paths, got 2 and 1"):
        jd.Trajectory(GRID, [[0.0, 1.0]] * 2, [0.1, 0.2])


def test_paths_by_the_names_of_their_tracks():
    table = {"t": [0, 1, 2, 0, 1], "x": [0.1, None, 0.3, 0.4, 0.5], "bead": ["b", "b", "b", "a", "a"]}
    paths = jd.Trajectory.from_table(table, GRID, time="t", position="x", track="bead")
    assert (paths.durations.tolist(), paths.stops.tolist(), paths.missing) == ([2.0, 1.0], [0.3, 0.5], 1)
    one = jd.Trajectory.from_table({"t": [0, 1], "x": [0.1, 0.2]}, GRID, time="t", position="x")
    assert one.stops.tolist() == [0.2]
    with pytest.raises(ValueError, match="row 1 of column 'bead' in the table is empty"):
        jd.Trajectory.from_table({**table, "bead": [None, 1, 1, 2, 2]}, GRID, time="t", position="x", track="bead")
    with pytest.raises(ValueError, match="times of path 0 must increase"):
        jd.Trajectory.from_table({**table, "t": [0, 1, 1, 0, 1], "x": 0.5}, GRID, time="t", position="x", track="bead")


def test_a_configuration_counts_as_python_does(tmp_path):
    pd.DataFrame({"t": [0.0, 1.0, 2.0, 3.0], "x": [0.1, None, 0.3, 0.4]}).to_csv(tmp_path / "walk.csv", index=False)
    walk = {
        "equation": {"kind": "fokker_planck", "diffusivity": "D"},
        "parameters": {"D": {"start": 1.0, "positive": True}},
        "grid": {"lower": 0.0, "upper": 1.0, "cells": 10},
        "data": {"table": "walk.csv", "kind": "trajectory", "value": "x", "interval": 0.5},
    }
    path = parse(walk, tmp_path).measurement
    assert path.durations.tolist() == [1.0, 0.5] and path.notes == ("3 of 4 frames used; 1 missing",)


def test_angles_that_were_counted_on_are_refused_with_the_way_to_wrap_them():
    ring = jd.Grid.uniform((-np.pi, np.pi, 60))
    t, angle = np.arange(40.0), np.cumsum(np.full(40, 0.4))
    for make in (
        lambda x: jd.Trajectory(ring, t, x),
        lambda x: jd.Readings(ring, 0.0, t, x, np.ones(40)),
        lambda x: jd.Histograms(ring, 1.0, [1.0], [np.ones(39)], edges=x),
    ):
        with pytest.raises(ValueError, match=r"on a periodic axis wrap it: lower \+ \(x - lower\) % period"):
            make(angle)
    wrapped = -np.pi + (angle + np.pi) % (2 * np.pi)
    assert len(jd.Trajectory(ring, t, wrapped).durations) == 39


@pytest.mark.parametrize("positions", [np.full((3, 2), 0.5), np.full((3, 1, 1), 0.5), np.full((1, 3), 0.5)])
def test_positions_of_two_coordinates_on_one_axis(positions):
    with pytest.raises(ValueError, match="positions must match the 3 values, got shape"):
        jd.Readings(GRID, 0.0, [1.0, 2.0, 3.0], positions, [1.0, 2.0, 3.0])
    table = {"t": [1.0], "x": [0.5], "y": [0.5], "T": [1.0]}
    with pytest.raises(ValueError, match="positions must match the 1 values"):
        jd.Readings.from_table(table, GRID, 0.0, time="t", position=("x", "y"), value="T")


def test_a_total_for_other_times():
    with pytest.raises(ValueError, match=r"total must be a number or one for each of 2 times, got shape \(3,\)"):
        jd.Histograms(GRID, 1.0, [1.0, 2.0], np.ones((2, 20)), total=[50, 50, 50])
