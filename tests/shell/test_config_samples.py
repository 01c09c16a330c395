"""Of a configuration file the samples of [data]: individuals, a row each."""

import json

import numpy as np
import pytest

CLOUD = """
[equation]
kind = "fokker_planck"
drift = "-k*x"
diffusivity = "D"
[parameters]
k = { start = 2.0, positive = true }
D = { start = 1.0, positive = true }
[grid]
lower = -4.0
upper = 4.0
cells = 100
[initial]
delta = 1.5
[data]
kind = "samples"
table = "cloud.csv"
time = "t"
position = "x"
background = { start = 0.1, upper = 0.5 }
[fit]
validation = 0.1
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng, t = np.random.default_rng(2), np.repeat([0.3, 1.5], 400)
    x = 1.5 * np.exp(-t) + np.sqrt(0.4 * (1 - np.exp(-2 * t))) * rng.normal(size=800)
    x[::20] = rng.uniform(-4, 4, 40)
    np.savetxt("cloud.csv", np.c_[t, x], delimiter=",", header="t,x", comments="")
    (tmp_path / "cloud.toml").write_text(CLOUD, encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_a_cloud_with_strangers(workplace, run, undrawn):
    assert run("fit", "cloud.toml", "--output", "out")[0] == 0
    found = json.loads((workplace / "out" / "parameters.json").read_text())["parameters"]
    for name, true in (("k", 1.0), ("D", 0.4), ("initial.background", 0.05)):
        assert abs(found[name]["estimate"] - true) < 3 * found[name]["standard_error"]


@pytest.mark.slow
def test_by_a_distance(workplace, run, undrawn):
    text = CLOUD.replace("background = { start = 0.1, upper = 0.5 }\n", "") + 'loss = "energy_distance"\n'
    (workplace / "cloud.toml").write_text(text, encoding="utf-8")
    assert run("fit", "cloud.toml", "--output", "out")[0] == 0
    found = json.loads((workplace / "out" / "parameters.json").read_text())
    found = found["parameters"]["D"]
    assert abs(found["estimate"] - 0.4) < 0.15 and 0.02 < found["standard_error"] < 0.06


REFUSED = [
    ("upper = 0.5", "most = 0.5", "[data] background"),
    ("start = 0.1, upper", "upper", "[data] background has no start"),
    ("{ start = 0.1, upper = 0.5 }", "1.5", "background is one share of the samples"),
    ('position = "x"', 'value = "x"', "[data] of kind samples"),
    ('position = "x"\n', "", "[data] has no position"),
    ("validation = 0.1", 'loss = "mse"', "Samples cannot be compared by jd.mse"),
]


@pytest.mark.parametrize("old, new, message", REFUSED)
def test_mistakes_are_told(old, new, message, workplace, refused):
    assert old in CLOUD
    (workplace / "cloud.toml").write_text(CLOUD.replace(old, new), encoding="utf-8")
    refused(message, "fit", "cloud.toml", "--output", "out")
