"""Several experiments in one configuration: by a column of one table, by a list [[data]], and in Python."""

import json

import numpy as np
import pandas as pd
import pytest
from configurations import problem

import jaxdiff as jd
from jaxdiff.shell.config import load

GRID, TIMES, PLACES = jd.Grid.uniform((0.0, 1.0, 8)), np.linspace(0.05, 0.6, 6), np.array([0.3125, 0.6875])  # centres
WALLS, RATES, NOISE = {"A": (0.0, 1.0), "B": (2.0, 0.5)}, (0.5, 2.0), 0.002
HEAD = """
[equation]
kind = "diffusion"
diffusivity = "D"
decay = "k"
[parameters]
D = { start = 1.0, positive = true }
k = { start = 1.0, positive = true, per = "experiment" }
[grid]
lower = 0.0
upper = 1.0
cells = 8
[boundaries]
"x-" = { kind = "dirichlet", value = "left" }
"x+" = { kind = "dirichlet", value = "right" }
"""
COLUMNS = 'time = "t"\nposition = "x"\nvalue = "T"\nsigma = 0.002\n'
ONE_TABLE = f"""initial = 0.25
{HEAD}
[data]
table = "all.csv"
experiment = "run"
conditions = ["left", "right"]
{COLUMNS}"""
A_LIST = HEAD + "".join(
    f"""[[data]]
table = "{name}.csv"
name = "{name}"
initial = 0.25
conditions = {{ left = {left}, right = {right} }}
{COLUMNS}"""
    for name, (left, right) in WALLS.items()
)


def model(D, k, i, left, right):
    return jd.Diffusion(D, decay=k[i], boundaries={"x-": jd.Dirichlet(left), "x+": jd.Dirichlet(right)})


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng, parts = np.random.default_rng(0), []
    for i, (name, (left, right)) in enumerate(WALLS.items()):
        states = jd.solve(model(0.3, np.array(RATES), i, left, right), GRID, 0.25, np.append(0.0, TIMES)).values[1:]
        values = np.asarray(states)[:, [2, 5]].ravel() + NOISE * rng.normal(size=12)
        columns = {"t": np.repeat(TIMES, 2), "x": np.tile(PLACES, 6), "T": values}
        pd.DataFrame(columns).to_csv(f"{name}.csv", index=False)
        parts.append(pd.DataFrame({"run": name, **columns, "left": left, "right": right}))
    pd.concat(parts).to_csv("all.csv", index=False)
    (tmp_path / "table.toml").write_text(ONE_TABLE)
    (tmp_path / "list.toml").write_text(A_LIST)
    return tmp_path


@pytest.mark.slow
def test_one_table_a_list_and_python_give_the_same_digits(workplace, run, undrawn):
    """D is shared, k each one's own, between walls of their own."""
    data = []
    for i, (name, (left, right)) in enumerate(WALLS.items()):
        frame, known = pd.read_csv(f"{name}.csv"), {"i": i, "left": left, "right": right}
        columns = (frame[one].to_numpy() for one in "txT")
        data.append(jd.Readings(GRID, lambda x: 0.25 + 0 * x, *columns, NOISE, conditions=known))
    starts = {"D": jd.Positive(1.0), "k": jd.Positive(np.ones(2))}
    here = jd.fit(model, data, parameters=starts, progress=False)
    assert abs(here.parameters["D"] - 0.3) < 2 * here.standard_errors["D"] < 0.01
    assert (np.abs(here.parameters["k"] - RATES) < 2 * here.standard_errors["k"]).all()
    described = load("list.toml")
    listed = jd.fit(described.model, described.measurement, parameters=described.parameters, progress=False)
    for one, other in zip((*listed.columns()[:2], listed.loss), (*here.columns()[:2], here.loss), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    code, out, _ = run("fit", "table.toml", "--output", "out")
    assert code == 0 and "A           left = 0, right = 1" in out and "readings (B)" in out
    found = json.loads((workplace / "out" / "parameters.json").read_text())
    assert found["experiments"][1] == {"name": "B", "conditions": {"left": 2.0, "right": 0.5}}
    of = lambda what: [one[what] for one in found["parameters"].values()]
    np.testing.assert_allclose(of("estimate"), here.columns()[0], rtol=1e-12)
    np.testing.assert_allclose(of("standard_error"), here.columns()[1], rtol=1e-12)
    assert found["loss"] == pytest.approx(here.loss, rel=1e-12)
    assert "<td>left = 2, right = 0.5</td>" in (workplace / "out" / "report.html").read_text()


def test_a_solve_of_each(workplace, run, monkeypatch):
    monkeypatch.setattr("jaxdiff.figures.states.profiles", lambda *_: Blank())
    assert run("solve", "list.toml", "--output", "out")[0] == 0
    for number, (left, right) in enumerate(WALLS.values(), 1):
        last = pd.read_csv(workplace / "out" / f"solution_{number}.csv").iloc[:, -1]
        assert (last.iloc[0] - last.iloc[-1]) * (left - right) > 0


class Blank:
    def savefig(self, path):
        path.write_bytes(b"PNG")


TABLE = pd.DataFrame(
    {
        "run": [1, 1, 1, 2, 2, 2],
        "t": [0.0, 1.0, 2.0] * 2,
        "T": np.arange(6.0) + 20,
        "U": np.arange(6.0),
        "w": [1.0] * 3 + [2.0] * 3,
        "v": np.arange(6.0),
    }
)
DATA = {"experiment": "run", "conditions": ["w"], "time": "t", "sensors": {"T": 0.25, "U": 0.75}}
EQUATION = {"kind": "diffusion", "diffusivity": "D", "decay": "k*w"}
OWN = {"D": 1.0, "k": {"start": 1.0, "per": "experiment"}}


def build(tmp_path, data=None, **changes):
    TABLE.to_csv(tmp_path / "table.csv", index=False)
    given = [{"table": "table.csv", **one} for one in data] if isinstance(data, list) else {**DATA, **(data or {})}
    given = given if isinstance(given, list) else {"table": "table.csv", **given}
    return problem(tmp_path, data=given, **{"equation": EQUATION, "parameters": OWN, **changes})


def test_what_each_experiment_has(tmp_path):
    """Its start, its walls, its conditions; sensors and experiments with numbers of their own."""
    first = build(tmp_path, initial="first row")
    assert [float(np.mean(one.initial)) for one in first.experiments] == [10.0, 13.0]
    assert [one.name for one in first.experiments] == ["1", "2"]
    assert [float(one.conditions["w"]) for one in first.measurement] == [1.0, 2.0]
    plain = {"time": "t", "sensors": {"T": 0.25}, "conditions": {"w": 1.0}}
    wall = {"kind": "dirichlet", "value": "v"}
    both = [{**plain, "rows": [1, 3], "boundaries": {"x-": wall}}, {**plain, "rows": [4, 6], "name": "last"}]
    made = build(tmp_path, both, boundaries={"x": "absorbing"})
    assert [one.name for one in made.experiments] == ["1", "last"] and made.parameters["k"].value.shape == (2,)
    sides = [one.model(D=1.0, k=1.0).boundaries for one in made.experiments]
    np.testing.assert_array_equal(sides[0]["x-"].value.values, [0.0, 1.0, 2.0])
    assert float(sides[0]["x+"].value) == 0.0 and set(sides[1]) == {"x"}
    seen = build(
        tmp_path,
        [{**plain, "rows": [1, 3]}, {**plain, "rows": [4, 6], "sensors": {"T": 0.5}}],
        observe={"value": "g*u + o", "per": "sensor"},
        parameters={"D": 1.0, "k": 1.0, "g": {"start": 1.0, "per": "experiment"}, "o": 0.0},
    )
    assert seen.parameters["g"].value.shape == (2, 2) and seen.parameters["o"].value.shape == (2,)
    assert [one.sensors.tolist() for one in seen.measurement] == [[0.25, 0.5]] * 2
    own = build(tmp_path, observe={"value": "u + o", "per": "experiment"}, parameters={"D": 1.0, "k": 1.0, "o": 0.0})
    assert own.parameters["o"].value.shape == (2,) and own.parameters["k"].value.shape == ()


ENTRY = {"time": "t", "sensors": {"T": 0.5}}
REFUSED = [
    ({"data": {"conditions": ["w", "v"]}}, "table.csv: the column 'v' varies within experiment '1', 0 and 1"),
    ({"data": {"conditions": {"x": 1.0}}}, "[data] conditions 'x' is taken by a variable"),
    ({"data": {"conditions": {"w": 1.0, "D": 1.0}}}, "experiment '1': 'D' is a condition of the data, and in [parameters]"),
    ({"data": {"conditions": ["w", "U"]}}, "the column 'U' varies"),
    ({"data": {"conditions": {"w": 1.0, "c": 1.0}}}, "the condition 'c' stands in no text"),
    ({"parameters": {"D": 1.0, "k": {"start": 1.0, "per": "sensor"}}}, "[parameters] k per is 'sensor'; choose 'experiment'"),
    ({"parameters": {"D": 1.0, "k": {"start": 1.0, "per": "experiment", "fixed": True}}}, "k is fixed, one number for all"),
    ({"observe": {"value": "u + v"}}, "[observe] value: 'v' is a column of the data, a course in time"),
    ({"data": []}, "data is an empty list"),
    ({"data": [{**ENTRY, "conditions": {"w": 1.0}}, ENTRY]}, "[[data]] 2: 'w' is a condition of other experiments"),
    ({"data": [{**ENTRY, "boundaries": {"y-": "absorbing"}}]}, "[[data]] 1: unknown key 'y-' in [boundaries]"),
    ({"data": [{"time": "t", "conditions": {"w": 1.0}}]}, "[[data]] 1: [data] has no value"),
]  # fmt: skip


@pytest.mark.parametrize("changes, message", REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_mistakes_are_told(changes, message, tmp_path):
    with pytest.raises(ValueError) as told:
        build(tmp_path, **changes)
    assert message in str(told.value) and "\n" not in str(told.value)
