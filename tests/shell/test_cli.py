"""The shell: results of a fit and a solve, and one line with nothing written for every mistake."""

import itertools
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from configurations import WALL, changed, sections

import jaxdiff as jd
from jaxdiff.benchmarks import CASES, throughput
from jaxdiff.reports import page as report
from jaxdiff.shell import cli
from jaxdiff.shell.config import load

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

CONFIG = changed(
    WALL,
    ("cells = 12", "cells = 40"),
    ('optimizer = "levenberg_marquardt"\nsteps = 20', 'loss = "mse"'),
    ("[solve]\ntimes = [0.0, 0.1, 0.3]\n", ""),
)


def exact(t, x):
    """D u'' = k u - u_t on (0, 1), u(0) = 1, u'(1) = 0, D = 0.3, k = 0.5, by its modes."""
    mu = (np.arange(200) + 0.5) * np.pi
    rate = 0.3 * mu**2 + 0.5
    steady = np.cosh(np.sqrt(0.5 / 0.3) * (1 - x)) / np.cosh(np.sqrt(0.5 / 0.3))
    return steady - np.sum(2 * 0.3 * mu / rate * np.exp(-rate * t) * np.sin(mu * x))


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    rows = [(t, x, exact(t, x) + 1e-3 * rng.normal()) for t in np.linspace(0.05, 0.6, 12) for x in (0.2, 0.5, 0.9)]
    table = "t,x,T\n" + "".join(f"{t},{x},{u}\n" for t, x, u in rows)
    (tmp_path / "heat.csv").write_text(table)
    (tmp_path / "config.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "prepare_jax", lambda: None)  # the tests have their own settings
    return tmp_path


@pytest.mark.slow
def test_a_fit_writes_everything_into_its_folder(workplace, run):
    code, out, _ = run("fit", "config.toml", "--output", "deep/result")
    assert code == 0
    assert "95 % interval" in out and "root mean square" in out
    folder = workplace / "deep" / "result"
    names = {
        "report.html",
        "parameters.json",
        "predictions.csv",
        "fit.png",
        "residuals.png",
        "course.png",
        "history.png",
    }
    assert {path.name for path in folder.iterdir()} == names
    found = json.loads((folder / "parameters.json").read_text())
    D = found["parameters"]["D"]
    assert abs(D["estimate"] - 0.3) < 4 * D["standard_error"] < 0.01
    assert D["interval_95"][0] < D["estimate"] < D["interval_95"][1]
    assert found["converged"] is True and found["validation_loss"] is None
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4 and "Cooling wall" in page and "http" not in page
    assert len((folder / "predictions.csv").read_text().splitlines()) == 37
    assert not list(workplace.rglob(".*"))


@pytest.mark.slow
def test_data_takes_the_place_of_the_table_and_other_files_stay(workplace, run, undrawn):
    (workplace / "heat.csv").rename(workplace / "other.csv")
    (workplace / "out").mkdir()
    (workplace / "out" / "mine.txt").write_text("keep")
    code, _, _ = run("fit", "config.toml", "--data", "other.csv", "--output", "out")
    assert code == 0
    assert (workplace / "out" / "mine.txt").read_text() == "keep"
    assert (workplace / "out" / "report.html").exists()


@pytest.mark.slow
def test_the_table_is_looked_for_beside_the_configuration(workplace, run, undrawn, monkeypatch):
    (workplace / "elsewhere").mkdir()
    monkeypatch.chdir(workplace / "elsewhere")
    config = workplace / "config.toml"
    config.write_text(changed(CONFIG, ('loss = "mse"', "steps = 2\nvalidation = 0.25")))
    code, out, _ = run("fit", config)
    assert code == 0
    assert "held out" in out
    assert (workplace / "elsewhere" / "config-fit" / "report.html").exists()


SOLVE = sections(CONFIG, "equation", "parameters", "constants", "boundaries", "grid", "initial")


@pytest.mark.parametrize(
    "times, expected",
    [
        ("times = [0.0, 0.3]", (0.3, 0.5)),
        ("times = { stop = 0.3, count = 20 }", (0.3, 0.5)),
        ("times = inf", (np.inf, 0.5)),
    ],
)
def test_a_solve(workplace, run, times, expected):
    text = changed(SOLVE, ("start = 0.1", "start = 0.3"), ("cells = 40", "cells = 201"))
    (workplace / "config.toml").write_text(text + f"[solve]\n{times}\n")
    code, _, _ = run("solve", "config.toml")
    assert code == 0
    table = np.genfromtxt(workplace / "config-solve" / "solution.csv", delimiter=",", skip_header=1)
    t, x = expected
    assert np.interp(x, table[:, 0], table[:, -1]) == pytest.approx(exact(min(t, 1e3), x), abs=2e-5)
    assert (workplace / "config-solve" / "solution.png").exists()


BAD = [
    ("[grid]", "[grids]", "unknown key 'grids' in the file; did you mean 'grid'"),
    ("cells = 40", "cell = 40", "unknown key 'cell' in [grid]; did you mean 'cells'? allowed are lower, upper, cells"),
    ("cells = 40", "cells = 4.5", "[grid] cells must be a whole number"),
    ("cells = 40", "", "[grid] has no cells"),
    ("upper = 1.0", "upper = -1.0", "[grid] needs lower < upper, got 0 and -1"),
    ('kind = "diffusion"', 'kind = "difusion"', "did you mean 'diffusion'"),
    ('diffusivity = "D"', "", "[equation] has no diffusivity"),
    ('diffusivity = "D"', 'diffusivity = "D + q"', "'q' in 'D + q' has no value"),
    ('diffusivity = "D"', "diffusivity = \"D*__import__('os').getpid()\"", "is not arithmetic"),
    ('diffusivity = "D"', 'diffusivity = "D if x else 1"', "is not arithmetic"),
    ('diffusivity = "D"', 'diffusivity = "1/0"', "is not arithmetic"),
    ('diffusivity = "D"', "diffusivity = 0.3", "the parameter 'D' stands in no coefficient"),
    (
        "start = 0.1, positive = true",
        "start = -0.1, positive = true",
        "[parameters] D: Positive needs a start above zero",
    ),
    ("start = 0.1, positive = true", "start = 3.0, lower = 0.0, upper = 1.0", "[parameters] D: Bounded"),
    ("start = 0.1, positive = true", "positive = true", "[parameters] D has no start"),
    ("start = 0.1, positive = true", "start = 0.1, upper = 1.0", "both lower and upper"),
    ("start = 0.1, positive = true", "start = 0.1, fixed = true", "nothing to fit"),
    ("k = 0.5", "x = 0.5", "'x' is taken"),
    ("k = 0.5", "D = 0.5", "'D' is in [parameters] and in [constants]"),
    ('kind = "dirichlet", value', 'kind = "dirichlet", valu', "allowed are kind, value"),
    ('kind = "dirichlet"', 'kind = "dirchlet"', "did you mean 'dirichlet'"),
    ('"x-" =', '"y-" =', "unknown key 'y-' in [boundaries]"),
    ("value = 1.0 }", 'value = "x" }', "a wall stands at one place"),
    ("value = 0.0", 'value = "t"', "it holds at one time"),
    ("value = 0.0", "value = nan", "must be a number"),
    ("[initial]\nvalue = 0.0", "", "no [initial] state"),
    ('table = "heat.csv"', 'table = "cold.csv"', "there is no file"),
    ('table = "heat.csv"', 'dataset = "rood"', "no data set is called 'rood'"),
    ('table = "heat.csv"', "", "[data] names no table"),
    ('value = "T"', 'value = "temperature"', "no column 'temperature'; its columns are t, x, T"),
    ('position = "x"', "", "[data] has no position"),
    ('time = "t"', "", "[data] has no time"),
    ('position = "x"', "sensors = { T = 0.5 }", "leave one out"),
    ('loss = "mse"', 'loss = "mean"', "choose one of mse, kl_divergence"),
    ('loss = "mse"', 'loss = "kl_divergence"', "kl_divergence"),
    ('loss = "mse"', 'stepper = "euler"', "[fit] stepper is 'euler'"),
    ('loss = "mse"', 'optimizer = { name = "adam", patience = 0 }', "patience must be a positive whole number"),
    ('loss = "mse"', 'optimizer = { name = "adam", patience = 9 }', "there are none; pass validation=0.2"),
    ('loss = "mse"', 'optimizer = "adm"', "did you mean 'adam'"),
    ('loss = "mse"', 'optimizer = { name = "adam", rate = 1.0 }', "unknown key 'rate'"),
    ('loss = "mse"', "validation = 1.5", "validation"),
    ("[fit]", "[fit", "is not TOML"),
]


@pytest.mark.parametrize("old, new, message", BAD, ids=[new or f"no {old}" for old, new, _ in BAD])
def test_a_mistake_in_the_configuration_is_one_line(workplace, refused, old, new, message):
    (workplace / "config.toml").write_text(changed(CONFIG, (old, new)))
    refused(message, "fit", "config.toml")


@pytest.mark.slow
def test_a_diffusivity_below_zero_is_one_line(workplace, refused):
    """At given steps, where nothing is planned, and compiled, anew before it is refused."""
    stepped = ('loss = "mse"', 'stepper = "crank_nicolson"')
    (workplace / "config.toml").write_text(changed(CONFIG, stepped, ('diffusivity = "D"', 'diffusivity = "-D"')))
    refused("diffusivity is -0.1 at x = 0.0125; it must be positive", "fit", "config.toml")


DATA = [
    ("", "is empty"),
    ("t,x,T\n", "is empty"),
    ("t,x,T\n0.1,0.5,\n0.2,0.5,\n", "all 2 entries are missing"),
    ("t,x,T\n0.1,0.5,0.3\n0.2,0.5,warm\n", "row 2 (line 3) of column 'T'"),
    ("t,x,T\n0.1,0.5,0.3\n0.2,,0.4\n", "row 2 (line 3) of column 'x'"),
    ("t,x,T\n0.1,1.5,0.3\n0.2,0.5,0.4\n", "position"),
    ("t,x,T\n-0.1,0.5,0.3\n0.2,0.5,0.4\n", "before the start"),
    ("t,x\n0.1,0.5\n", "no column 'T'"),
]


@pytest.mark.parametrize("content, message", DATA, ids=[message for _, message in DATA])
def test_a_mistake_in_the_data_is_one_line(workplace, refused, content, message):
    (workplace / "heat.csv").write_text(content)
    refused(message, "fit", "config.toml")


ARGUMENTS = [
    (("fit", "nowhere.toml"), "there is no configuration file nowhere.toml"),
    (("fit",), "Missing argument 'CONFIG'"),
    (("fit", "config.toml", "--outptu", "x"), "No such option"),
    (("fit", "config.toml", "--output", "heat.csv"), "cannot be written"),
    (("fit", "config.toml", "--output", "heat.csv/deep"), "cannot be written"),
    (("solve", "config.toml", "--output", "/proc/jaxdiff/out"), "cannot be written"),
    (("demo", "rods"), "no demo is called 'rods'"),
    (("frobnicate",), "No such command 'frobnicate'"),
]


@pytest.mark.parametrize("arguments, message", ARGUMENTS, ids=[" ".join(a) for a, _ in ARGUMENTS])
def test_a_mistake_on_the_command_line_is_one_line(refused, arguments, message):
    refused(message, *arguments)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_half_written(workplace, run, undrawn, monkeypatch, error):
    def stop(*_, **__):
        raise error

    monkeypatch.setattr("jaxdiff.reports.page.write", stop)  # the last thing that is done
    before = sorted(workplace.rglob("*"))
    if error is KeyboardInterrupt:
        assert run("fit", "config.toml")[0] == 130
    else:
        with pytest.raises(error):
            cli.main(["fit", "config.toml"])
    assert sorted(workplace.rglob("*")) == before


def test_a_full_disk_names_the_folder_of_the_results(refused, undrawn, monkeypatch):
    def write(path, *_):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("pathlib.Path.write_bytes", write)
    refused("out cannot be written: No space left on device", "fit", "config.toml", "--output", "out")


@pytest.mark.parametrize("name", ["rod", "rates", "copper_bar"])
def test_the_examples_are_read(name, measured):
    problem = load(EXAMPLES / f"{name}.toml", measured("copper_bar_1mHz.csv") if name == "copper_bar" else None)
    assert problem.measurement is not None and problem.parameters


OFFSETS = [("offset = 0.0", "# offset = 0.0"), ('[observe]\nvalue = "u + offset"\nper = "sensor"\n', "")]


@pytest.mark.slow
@pytest.mark.parametrize("left_out, D, k, rms", [([], 1.084e-4, 1.16e-3, 0.124), (OFFSETS, 1.08e-4, 1.03e-3, 0.25)])
def test_the_copper_bar(left_out, D, k, rms, workplace, run, undrawn, measured):
    """Diffusivity [m²/s], loss [1/s] and residual [°C] of independent least squares, with an offset for each thermometer and
    without. A row in four tells as much.
    """
    text = (EXAMPLES / "copper_bar.toml").read_text(encoding="utf-8")
    text = changed(text, ("[data]\n", "[data]\nevery = 4\n"), *left_out)
    (workplace / "bar.toml").write_text(text, encoding="utf-8")
    code, _, _ = run("fit", "bar.toml", "--data", measured("copper_bar_1mHz.csv"), "--output", "out")
    assert code == 0
    found = json.loads((workplace / "out" / "parameters.json").read_text())
    assert found["parameters"]["D"]["estimate"] == pytest.approx(D, rel=0.01 if not left_out else 0.02)
    assert found["parameters"]["k"]["estimate"] == pytest.approx(k, rel=0.05)
    assert found["loss"] ** 0.5 == pytest.approx(rms, rel=0.05)


SPOT = """
title = "Spot"
[equation]
kind = "fokker_planck"
diffusivity = ["Dx", "Dy"]
[parameters]
Dx = { start = 0.3, positive = true }
Dy = { start = 0.3, positive = true }
[grid]
lower = [-4.0, -2.5]
upper = [4.0, 2.5]
cells = [32, 20]
[initial]
value = "exp(-2*(x**2 + y**2))*2/pi"
[data]
kind = "histograms"
table = "images.csv"
time = "t"
position = ["x", "y"]
value = "count"
"""


@pytest.mark.slow
def test_a_spot_in_a_series_of_images_spreads_by_axis(workplace, run):
    """20,000 counts a frame from a Gaussian of variance 1/4 + 2Dt along each axis, D = 0.5 and 0.1."""
    rng, rows = np.random.default_rng(3), ["t,x,y,count"]
    edges = np.linspace(-4, 4, 33), np.linspace(-2.5, 2.5, 21)
    middles = list(itertools.product(*((line[1:] + line[:-1]) / 2 for line in edges)))
    for t in (0.2, 0.4, 0.6):
        width = [math.sqrt(2 * (0.25 + 2 * D * t)) for D in (0.5, 0.1)]
        shares = np.outer(*(np.diff([math.erf(e / w) for e in line]) for line, w in zip(edges, width, strict=True)))
        counts = rng.multinomial(20_000, shares.ravel() / shares.sum())
        rows += [f"{t},{x:.6g},{y:.6g},{n}" for (x, y), n in zip(middles, counts, strict=True)]
    (workplace / "images.csv").write_text("\n".join(rows))
    (workplace / "spot.toml").write_text(SPOT)
    code, _, _ = run("fit", "spot.toml")
    assert code == 0
    found = json.loads((workplace / "spot-fit" / "parameters.json").read_text())["parameters"]
    for name, value in (("Dx", 0.5), ("Dy", 0.1)):
        error = found[name]["standard_error"]
        assert abs(found[name]["estimate"] - value) < 3 * error < 0.1 * value
    assert {"fit.png", "residuals.png", "report.html"} <= {path.name for path in (workplace / "spot-fit").iterdir()}


@pytest.mark.slow
def test_the_plate(workplace, run):
    """NAFEMS T4, published: T(0.6, 0.2) = 18.25 °C."""
    code, out, _ = run("solve", EXAMPLES / "plate.toml", "--output", "out")
    assert code == 0 and "60 × 100 cells" in out
    table = pd.read_csv(workplace / "out" / "solution.csv")
    assert list(table.columns) == ["t", "x", "y", "u"] and len(table) == 6000
    grid = load(EXAMPLES / "plate.toml").grid
    values = table.set_index(["x", "y"])["u"].unstack().to_numpy()
    assert float(grid.interpolate(values, np.array([[0.6, 0.2]]))[0]) == pytest.approx(18.25, abs=0.05)
    assert (workplace / "out" / "solution.png").exists()


@pytest.mark.slow
def test_particles_that_arrive_in_a_well(workplace, run):
    """Their number is the source's over the killing, s L/k (1 − e^{−kt}), wherever the well takes them."""
    (workplace / "config.toml").write_text("""
[equation]
kind = "fokker_planck"
potential = "3*x**2"
diffusivity = 0.5
killing = 2.0
source = "1.5 + x"
[grid]
lower = -1.0
upper = 1.0
cells = 50
[initial]
value = 0.0
[solve]
times = [0.0, 0.7]
""")
    code, _, err = run("solve", "config.toml")
    assert code == 0, err
    last = np.genfromtxt(workplace / "config-solve" / "solution.csv", delimiter=",", skip_header=1)[:, -1]
    assert last.sum() * 0.04 == pytest.approx(1.5 * 2 / 2 * (1 - math.exp(-1.4)), rel=1e-9)
    assert last[25] > 1.3 * last[-1]


def test_predictions_on_several_axes_name_the_coordinates():
    m = jd.Readings(jd.Grid.uniform((0, 1, 4), (0, 1, 4)), None, np.inf, [[0.1, 0.2], [0.3, 0.4]], [1.0, 2.0])
    fit = SimpleNamespace(predict=lambda readings: np.resize([1.5, 2.0], len(readings.values)), labels=("D",))
    lines = report.to_csv(m.view(fit)).splitlines()
    assert lines == ["time,x,y,measured,fitted,residual,held_out", "inf,0.1,0.2,1,1.5,-0.5,0", "inf,0.3,0.4,2,2,0,0"]


@pytest.mark.slow
def test_the_rod_beside_its_published_answer(workplace, run):
    code, out, _ = run("demo", "rod")
    assert code == 0 and "published" in out
    found = json.loads((workplace / "demo" / "rod" / "parameters.json").read_text())["parameters"]
    assert found["flux"]["estimate"] == pytest.approx(18.41, abs=0.5 * 0.145)
    assert found["h"]["estimate"] == pytest.approx(0.00191, abs=0.5 * 1.45e-5)


@pytest.mark.slow
def test_the_rates_beside_their_closed_forms(workplace, run, undrawn, monkeypatch):
    """Of the first fifteen years."""
    rates = jd.datasets.load("rates")
    monkeypatch.setattr(jd.datasets, "load", lambda name: rates.head(60))
    code, out, _ = run("demo", "rates")
    assert code == 0
    for line in out.splitlines():
        if line.startswith("log-likelihood at"):
            here, closed = map(float, line.split()[-2:])
            assert here == pytest.approx(closed, abs=0.01)
        if line.startswith("its maximum"):
            assert closed > float(line.split()[-1]) - 0.02


@pytest.mark.slow
def test_a_benchmark_writes_numbers_table_and_plot(workplace, run, refused, monkeypatch):
    """Two of its kernels at their smallest; what they count is what the operator holds."""
    monkeypatch.setattr(throughput, "KERNELS", throughput.KERNELS[2:3])
    monkeypatch.setattr(throughput, "LOOPS", tuple(replace(k, needs="no_such_package") for k in throughput.LOOPS[:1]))
    monkeypatch.setattr(throughput, "FITS", {})
    arguments = ("throughput", "--smoke", "--device", "cpu", "--dtype", "float32", "--output", "fast")
    code, out, _ = run("benchmark", *arguments)
    assert code == 0 and "no_such_package is not installed" in out and "Break-even" in out
    assert {file.name for file in (workplace / "fast").iterdir()} == {f"throughput.{x}" for x in ("json", "md", "png")}
    found = json.loads((workplace / "fast" / "throughput.json").read_text())
    step = next(e for e in found["entries"] if e["kernel"] == "explicit, 2-D, D an array")
    assert step["dtype"] == "float32" and step["device"] == "cpu" and step["share"] > 0
    per_cell = step["bytes per second"] / step["per second"]  # state twice, a conductance per axis, and a few per line
    assert per_cell == pytest.approx(4 * 4, rel=0.01)
    (workplace / "fast" / "throughput.json").write_text(json.dumps({**found, "smoke": False}))
    refused("holds the results of a full run", "benchmark", *arguments)


BENCHMARKS = [
    (("speed",), "no benchmark is called 'speed'; choose one of throughput, peers, jumps"),
    (("throughput", "--device", "tpu"), "JAX sees no tpu here, only cpu"),
    (("throughput", "--dtype", "float16"), "is not one of 'float64', 'float32'"),
    (("peers", "--dtype", "float32"), "peers are compared on the CPU in float64"),
]


@pytest.mark.parametrize("arguments, message", BENCHMARKS, ids=[" ".join(a) for a, _ in BENCHMARKS])
def test_a_benchmark_that_cannot_be_is_refused(refused, arguments, message):
    refused(message, "benchmark", *arguments)


def test_the_benchmarks_are_listed(workplace, run):
    code, out, _ = run("benchmark")
    listed = [line.split()[0] for line in out.splitlines()]
    assert code == 0 and listed == list(CASES) and {"throughput", "peers", "coverage"} <= set(listed)


@pytest.mark.slow
def test_info_in_a_process_of_its_own(tmp_path):
    """The shell computes in float64, keeps compiled code, and writes errors without a traceback."""
    settings = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    settings.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-m", "jaxdiff", "info"], env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "float64" in done.stdout and "jaxdiff" in done.stdout
    wrong = subprocess.run(
        [sys.executable, "-m", "jaxdiff", "fit", "no.toml"], env=settings, capture_output=True, text=True
    )
    assert wrong.returncode == 2
    assert wrong.stderr == "error: there is no configuration file no.toml; check the path\n"
