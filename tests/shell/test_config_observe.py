"""Of a configuration file what says how the state is seen: [observe], and the probe of [data]."""

import json

import numpy as np
import pytest

PERMEATION = """
[equation]
kind = "diffusion"
diffusivity = "D"
[parameters]
D = { start = 2.0, positive = true }
gain = { start = 1.0, positive = true }
[observe]
value = "gain*u"
[boundaries]
"x-" = { kind = "dirichlet", value = 1.0 }
"x+" = { kind = "dirichlet", value = 0.0 }
[grid]
lower = 0.0
upper = 1.0
cells = 60
[initial]
value = 0.0
[data]
table = "passed.csv"
time = "t"
value = "q"
probe = { kind = "cumulative_flux", place = "x+" }
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    n, t = np.arange(1, 200), np.linspace(0.05, 1.2, 25)
    sign, decays = (-1.0) ** n, np.exp(-0.5 * (n * np.pi) ** 2 * t[:, None])
    passed = 0.5 * t - 1 / 6 - 2 / np.pi**2 * (sign / n**2 * decays).sum(1)
    values = 3 * passed + 0.002 * np.random.default_rng(0).normal(size=25)
    np.savetxt("passed.csv", np.c_[t, values], delimiter=",", header="t,q", comments="")
    (tmp_path / "run.toml").write_text(PERMEATION, encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_what_has_passed_a_membrane_seen_with_an_unknown_gain(workplace, run, undrawn):
    """Crank 1975, eq. 4.24a, three times: D and the gain are told apart by the lag."""
    assert run("fit", "run.toml", "--output", "out")[0] == 0
    found = json.loads((workplace / "out" / "parameters.json").read_text())["parameters"]
    for name, true in (("D", 0.5), ("gain", 3.0)):
        assert abs(found[name]["estimate"] - true) < 3 * found[name]["standard_error"] < 0.03 * true


REFUSED = [
    ('place = "x+"', 'place = "y+"', "run.toml: a side here is one of x-, x+, got 'y+'"),
    ('kind = "cumulative_flux", ', "", "[data] probe kind is None; choose one of total, mean, interval"),
    (', place = "x+"', "", "[data] probe of kind cumulative_flux has no place"),
    ('place = "x+" }', 'place = "x+" }\nposition = "t"', "[data] has a probe, which reads of all positions, and a position"),
    ('"gain*u"', '"gain"', "[observe] value 'gain' does not hold u"),
    ('"gain*u"', '"gain*u*w"', "[observe] value: 'w' has no value; known are D, gain, u, t, x"),
    ('"gain*u"', '"gain*u*q"', "[observe] value: 'q' is a column of the data"),
    ('"gain*u"', '"gain*u +"', "[observe] value: "),
    ('"gain*u"', '"D*gain*u"\nper = "time"', "[observe] per is 'time'"),
    ('"gain*u"', '"u*D"\nper = "sensor"', "every parameter of 'u*D' stands elsewhere too"),
]  # fmt: skip


@pytest.mark.parametrize("old, new, message", REFUSED)
def test_mistakes_are_told(old, new, message, workplace, refused):
    assert old in PERMEATION
    (workplace / "run.toml").write_text(PERMEATION.replace(old, new), encoding="utf-8")
    refused(message, "fit", "run.toml", "--output", "out")
