"""Passage times in configuration files: columns, walls, and texts that name parameters."""

import numpy as np
import pandas as pd
import pytest
from configurations import problem

import jaxdiff as jd
from jaxdiff.parameters import Named

TRIALS = pd.DataFrame(
    {"ms": [500.0, 700.0, 600.0, 900.0], "hit": [1, 0, 1, None], "c": [0.1, 0.1, 0.4, 0.4], "late": [0, 0, 0, 1]}
)
EVIDENCE = {
    "equation": {"kind": "fokker_planck", "drift": "k*coherence/B", "diffusivity": "1/(2*B**2)"},
    "boundaries": {"all": {"kind": "absorbing"}},
    "parameters": {"k": 5.0, "B": {"start": 1.0, "positive": True}, "t0": {"start": 0.2, "lower": 0.1, "upper": 0.4}},
    "constants": {"guesses": 0.02},
    "grid": {"lower": -1.0, "upper": 1.0, "cells": 20},
    "initial": None,
}
DATA = {
    "kind": "passage_times", "time": "ms", "scale": {"ms": 1e-3}, "side": "hit", "sides": {"1": "x+", "0": "x-"},
    "censored": "late", "experiment": "c", "conditions": {"coherence": "c"},
    "origin": "exp(-x**2/guesses)", "nondecision": "t0", "lapse": "guesses", "window": 2.0,
}  # fmt: skip


def test_trials_in_a_table(tmp_path):
    done = problem(tmp_path, TRIALS, data=DATA, **EVIDENCE)
    weak, strong = done.measurement
    np.testing.assert_allclose(weak.times, [0.5, 0.7])
    assert list(weak.sides) == ["x+", "x-"] and list(strong.censored) == [False, True]
    assert weak.initial.nondecision == Named("t0") and float(weak.initial.lapse) == 0.02 and weak.window == (0.0, 2.0)
    assert abs(float(weak.initial.origin(0.1)) - np.exp(-0.5)) < 1e-12
    assert float(done.model(k=5.0, B=2.0, t0=0.2, **strong.conditions).drift) == 1.0


@pytest.mark.parametrize(
    "message, changes",
    [
        ("\\[data\\] lapse: 'share' in 'share' has no value", {"lapse": "share"}),
        (
            "\\[data\\] nondecision: 't0' in '2\\*t0' has no value; a parameter stands there by itself",
            {"nondecision": "2*t0"},
        ),
        ("the parameter 't0' stands in no coefficient", {"nondecision": 0.1}),
        ("\\[data\\] has no origin; give the place", {"origin": None}),
        ("holds 1.0, and no names of walls", {"sides": None}),
        ("unknown key 'position' in \\[data\\] of kind passage_times", {"position": "ms"}),
    ],
)
def test_what_a_file_gets_wrong(tmp_path, message, changes):
    data = {key: value for key, value in {**DATA, **changes}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        problem(tmp_path, TRIALS, data=data, **EVIDENCE)


def test_an_initial_state_is_refused(tmp_path):
    with pytest.raises(ValueError, match="passages start from \\[data\\] origin"):
        problem(tmp_path, TRIALS, data=DATA, **{**EVIDENCE, "initial": 1.0})


def test_the_example_is_a_problem(measured):
    from pathlib import Path

    from jaxdiff.shell.config import load

    examples = Path(__file__).resolve().parents[2] / "examples"
    done = load(examples / "decisions.toml", measured("roitman_monkey1.csv"))
    assert len(done.measurement) == 6 and all(isinstance(one, jd.PassageTimes) for one in done.measurement)


def test_each_experiment_may_have_a_nondecision_time(tmp_path):
    own = {**EVIDENCE["parameters"], "t0": {"start": 0.2, "positive": True, "per": "experiment"}}
    done = problem(tmp_path, TRIALS, data={**DATA, "spread": 0.1}, **{**EVIDENCE, "parameters": own})
    assert [one.initial.nondecision for one in done.measurement] == [Named("t0[0]"), Named("t0[1]")]
    assert done.parameters["t0"].value.shape == (2,) and float(done.measurement[0].initial.spread) == 0.1
    with pytest.raises(ValueError, match="'t0', entry=1\\) names no parameter, nor an entry; there are t0"):
        Named("t0[1]").of({"t0": np.zeros(1)})


def test_bounds_that_collapse(tmp_path):
    moving = {**EVIDENCE, "equation": {"kind": "fokker_planck", "drift": "k*coherence", "diffusivity": 0.5}}
    moving["equation"] |= {"lower": "-B*exp(-t/tau)", "upper": "B*exp(-t/tau)"}
    moving["constants"] = {"guesses": 0.02, "tau": 2.0}
    found = problem(tmp_path, TRIALS, data=DATA, **moving).experiments[0].model(k=5.0, B=1.5, t0=0.2)
    assert isinstance(found, jd.Moving)
    assert float(found.upper(1.0)) == pytest.approx(1.5 * np.exp(-0.5)) == -float(found.lower(1.0))
    for message, changes in [
        ("lower: a wall stands at one place; leave 'x' out", {"lower": "-B*x"}),
        ("upper: 'q' in 'q\\*t' has no value", {"upper": "q*t"}),
        ("upper must be a number, got \\[1.0\\]", {"upper": [1.0]}),
    ]:
        wrong = {**moving, "equation": {**moving["equation"], **changes}}
        with pytest.raises(ValueError, match="\\[equation\\] " + message):
            problem(tmp_path, TRIALS, data=DATA, **wrong)


PATHS = pd.DataFrame({"t": np.tile(0.1 * np.arange(10), 2), "x": 0.01 * np.arange(20), "bead": np.repeat([0, 1], 10)})
FREE = {
    "equation": {"kind": "fokker_planck", "drift": "v", "diffusivity": "D"},
    "parameters": {"v": 1.0, "D": {"start": 1.0, "positive": True}},
    "grid": {"lower": -3.0, "upper": 3.0, "cells": 20},
    "initial": None,
    "boundaries": None,
}


@pytest.mark.parametrize("clock, second", [({"time": "t"}, 0.0), ({"interval": 0.1}, 1.0)])
def test_every_third_frame_of_each_track_by_euler(tmp_path, clock, second):
    data = {"kind": "trajectory", "value": "x", "track": "bead", "every": 3, "density": "euler", **clock}
    path = problem(tmp_path, PATHS, data=data, **FREE).measurement
    assert path.density == "euler"
    np.testing.assert_allclose(path.times, [[0.0, 0.3, 0.6, 0.9], second + np.array([0.0, 0.3, 0.6, 0.9])])
    np.testing.assert_allclose(path.positions, [[0.0, 0.03, 0.06, 0.09], [0.10, 0.13, 0.16, 0.19]])


@pytest.mark.parametrize(
    "message, changes",
    [
        ("\\[data\\] density is 'milstein'; choose one of exact, euler", {"density": "milstein"}),
        ("without noise 'euler', got 'euler'", {"density": "euler", "noise": 0.1}),
        ("every 20-th frame leaves no path of two points", {"every": 20}),
    ],
)
def test_what_a_file_of_tracks_gets_wrong(tmp_path, message, changes):
    data = {"kind": "trajectory", "value": "x", "track": "bead", "time": "t", **changes}
    with pytest.raises(ValueError, match=message):
        problem(tmp_path, PATHS, data=data, **FREE)
