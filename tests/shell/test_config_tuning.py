"""[validation] and [sweep] of a configuration: read, refused in one line, and told with the fit."""

import numpy as np
import pandas as pd
import pytest
from configurations import problem

from jaxdiff.shell import cli

TEXT = """
[equation]
kind = "diffusion"
diffusivity = 1.0
decay = "k"
[parameters]
k = { start = 1.0, positive = true }
[grid]
lower = 0.0
upper = 1.0
cells = 4
[initial]
value = 1.0
[data]
table = "decay.csv"
time = "t"
position = "x"
value = "u"
sigma = 0.01
"""


@pytest.mark.parametrize(
    "sections, message",
    [
        ({"validation": {"folds": 1}}, "folds must be from 2"),
        ({"validation": {"forwards": True}}, "did you mean 'forward'"),
        ({"sweep": {}}, "names nothing to try"),
        ({"sweep": {"learning_rate": 0.1}}, "must be a list of values, got 0.1"),
        ({"sweep": {"optimizer": ["lbfgs"]}}, "choose one of adam"),
        ({"sweep": {"batch_size": [0]}}, "batch_size must be from 1"),
        ({"sweep": {"learning_rate": [0.1]}, "fit": {"steps": 5}}, r"\[fit\] steps does not go with \[sweep\]"),
    ],
)
def test_what_cannot_stand_there_is_refused(tmp_path, sections, message):
    with pytest.raises(ValueError, match=message) as caught:
        problem(tmp_path, **sections)
    assert "\n" not in str(caught.value)


def test_a_section_is_read(tmp_path):
    found = problem(tmp_path, validation={}, sweep={"batch_size": [4, "all"], "steps": 9, "halving": False})
    assert found.validation == {"folds": 5, "forward": False}
    assert found.sweep == {"grid": {"batch_size": [4, None]}, "steps": 9, "halving": False}


@pytest.mark.slow
def test_tables_come_with_the_fit(tmp_path, monkeypatch, run, undrawn):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "prepare_jax", lambda: None)
    times = np.linspace(0.1, 2.0, 20)
    noise = 0.01 * np.random.default_rng(1).normal(size=20)
    pd.DataFrame({"t": times, "x": 0.5, "u": np.exp(-0.5 * times) + noise}).to_csv("decay.csv", index=False)
    extra = "[validation]\nfolds = 4\n[sweep]\nlearning_rate = [0.001, 0.1]\nsteps = 80\n"
    (tmp_path / "config.toml").write_text(TEXT + extra)
    code, out, err = run("fit", "config.toml", "--output", "out")
    assert code == 0, err
    assert "best: learning_rate = 0.1" in out and "each block by the others" in out
    assert abs(pd.read_csv("out/folds.csv")["k"].mean() - 0.5) < 0.02
    assert len(pd.read_csv("out/sweep.csv")) == 2
