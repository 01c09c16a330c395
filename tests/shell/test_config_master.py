"""Master equations in configuration files."""

import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.shell.cli import run_solve
from jaxdiff.shell.config import parse

DECAY = {"kind": "master", "birth": "b", "death": "d*n"}
STATES = {"largest": {"n": 40}}
NUMBERS = {"b": {"start": 5.0, "positive": True}, "d": {"start": 0.7, "positive": True}}


def solved(content):
    problem = parse(content)
    equation = problem.model(**problem.starts)
    return jd.solve(equation, problem.grid, problem.experiments[0].initial, [0.0, 0.7]).values[-1]


@pytest.mark.slow
def test_births_a_matrix_and_reactions_are_those_of_python():
    found = solved({"equation": DECAY, "states": STATES, "constants": {"b": 5.0, "d": 0.7}, "initial": {"delta": 3}})
    states = jd.States({"n": 40})
    same = jd.solve(jd.MasterEquation(5.0, lambda n: 0.7 * n), states, {"n": 3}, [0.0, 0.7]).values[-1]
    np.testing.assert_array_equal(found, same)
    reactions = [{"products": {"n": 1}, "rate": "b"}, {"reactants": {"n": 1}, "rate": "d"}]
    network = {"kind": "master", "reactions": reactions}
    again = solved({"equation": network, "states": STATES, "constants": {"b": 5.0, "d": 0.7}, "initial": {"delta": 3}})
    np.testing.assert_allclose(again, same, atol=1e-15)
    matrix = {"kind": "master", "rates": [[0, "k"], ["2*k", 0]]}
    open_ = solved(
        {
            "equation": matrix,
            "states": {"names": ["shut", "open"]},
            "constants": {"k": 1.0},
            "initial": {"delta": "shut"},
        }
    )
    np.testing.assert_allclose(open_[1], 2 / 3 * (1 - np.exp(-3 * 0.7)), rtol=1e-13)


@pytest.mark.slow
def test_a_fit_and_a_solution_from_files(tmp_path):
    times = np.linspace(0.2, 3.0, 15)
    means = 3 * np.exp(-times) + 10 * (1 - np.exp(-times))
    table = "t,mean\n" + "\n".join(f"{t},{mean}" for t, mean in zip(times, means, strict=True))
    (tmp_path / "means.csv").write_text(table)
    data = {"table": "means.csv", "time": "t", "value": "mean", "probe": {"kind": "moment", "power": 1}}
    content = {"equation": DECAY, "states": STATES, "parameters": NUMBERS, "initial": {"delta": 3}, "data": data}
    problem = parse(content, tmp_path)
    fit = jd.fit(problem.model, problem.measurement, parameters=problem.parameters, progress=False)
    np.testing.assert_allclose([fit.parameters["b"], fit.parameters["d"]], [10.0, 1.0], rtol=1e-6)
    (tmp_path / "gene.toml").write_text("""
        [equation]
        kind = "master"
        reactions = [
          { reactants = { off = 1 }, products = { on = 1 }, rate = 0.5 },
          { reactants = { on = 1 }, products = { off = 1 }, rate = 1.5 },
          { reactants = { on = 1 }, products = { on = 1, m = 1 }, rate = "k" },
          { reactants = { m = 1 }, rate = "m" },
        ]
        [constants]
        k = 4.0
        [states]
        largest = { off = 1, on = 1, m = 30 }
        [initial]
        delta = [1, 0, 0]
        [solve]
        times = [0.0, 2.0]
    """)
    run_solve(tmp_path / "gene.toml", None, tmp_path / "out")
    assert (tmp_path / "out" / "solution.csv").read_text().startswith("t,off,on,m,u\n")
    assert (tmp_path / "out" / "solution.png").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"states": {}}, "needs [states] with one of names, count, largest"),
        ({"grid": {"lower": 0, "upper": 1, "cells": 5}}, "[grid] is none of a master equation"),
        ({"equation": {"kind": "master", "birth": 1.0}}, "give one of them"),
        ({"equation": {**DECAY, "death": "d*x"}}, "'x' in 'd*x' has no value; known are b, d, t, n"),
        ({"states": {"largest": {"n": 40}, "count": 3}}, "one of names, count"),
        ({"initial": {"delta": 41}}, "none of the states, n from 0 to 40"),
        ({"equation": {"kind": "master", "reactions": [{"reactants": {"n": 1}}]}}, "has no rate"),
        (
            {"equation": {"kind": "master", "reactions": [{"reactants": {"m": 1}, "rate": "d"}]}},
            "the states do not count 'm'",
        ),
        ({"equation": {"kind": "diffusion", "diffusivity": 1.0}}, "[states] are those of an equation of kind 'master'"),
    ],
)
def test_what_cannot_be_is_said(change, words):
    content = {
        "equation": DECAY,
        "states": STATES,
        "constants": {"b": 5.0, "d": 0.7},
        "initial": {"delta": 3},
        **change,
    }
    with pytest.raises(ValueError) as caught:
        solved(content)
    assert words in str(caught.value), str(caught.value)
