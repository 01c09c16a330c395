"""Phases that do not move, by name in a configuration."""

import numpy as np
import pandas as pd
import pytest

import jaxdiff as jd

TEXT = """
initial = "exp(-30*(x - 0.5)**2)"
[equation]
kind = "diffusion"
diffusivity = 0.05
exchange = [{ rate_in = "a", rate_out = "2*b", start = "equilibrium" }]
[parameters]
a = { start = 1.0, positive = true }
b = { start = 1.0, positive = true }
[grid]
lower = 0.0
upper = 1.0
cells = 20
[solve]
times = [0.0, 1.0]
[data]
table = "bound.csv"
time = "t"
position = "x"
value = "w"
sigma = 0.001
phase = 1
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = jd.Grid.uniform((0.0, 1.0, 20))
    times, start = np.linspace(0.0, 3.0, 16), np.exp(-30 * (grid.centers[0] - 0.5) ** 2)
    exchange = [jd.Exchange(2.0, 1.0, start="equilibrium")]
    states = np.asarray(jd.solve(jd.Diffusion(0.05, exchange=exchange), grid, start, times).values)
    x = grid.centers[0][[2, 9, 17]]
    rows = {"t": np.repeat(times[1:], 3), "x": np.tile(x, 15), "w": states[1:, 1, [2, 9, 17]].ravel()}
    pd.DataFrame(rows).to_csv("bound.csv", index=False)
    (tmp_path / "c.toml").write_text(TEXT)
    return tmp_path


@pytest.mark.slow
def test_rates_by_name_are_fitted_to_the_bound_phase_and_solved(workplace, run, undrawn):
    code, out, err = run("fit", "c.toml", "--output", "o")
    assert code == 0, err
    found = {line.split()[0]: float(line.split()[1]) for line in out.splitlines() if line[:2] in ("a ", "b ")}
    assert found == pytest.approx({"a": 2.0, "b": 0.5}, rel=0.01)
    code, out, err = run("solve", "c.toml", "--output", "s")
    assert code == 0, err
    table = pd.read_csv(workplace / "s" / "solution.csv")
    start = table[table["phase"] == 0]["t=0"].to_numpy(), table[table["phase"] == 1]["t=0"].to_numpy()
    np.testing.assert_allclose(start[1], start[0] / 2, rtol=1e-9)  # a and b stand at their starts


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('rate_out = "2*b"', 'rate = "b"', "unknown key"),
        ('rate_in = "a", ', "", "has no rate_in"),
        ('"equilibrium"', '"full"', "start"),
        ("phase = 1", "phase = 2", "phase"),
        ("phase = 1", 'phase = "bound"', "phase"),
    ],
)
def test_mistakes_are_refused(workplace, refused, old, new, message):
    (workplace / "c.toml").write_text(TEXT.replace(old, new))
    refused(message, "fit", "c.toml", "--output", "o")
