"""The shell under bad luck: wrong types, odd sizes, folders in the way, interrupts; one line, and nothing half-written."""

import importlib
import json
import os
import pickle
import signal
import stat
import time
import traceback

import jax
import numpy as np
import pytest
from configurations import WALL, changed, sections

from jaxdiff.benchmarks import throughput
from jaxdiff.measurements.states_at_times import Unplannable
from jaxdiff.runtime import compilation, interrupts
from jaxdiff.shell import cli

CONFIG = changed(
    WALL,
    ('title = "Cooling wall"\n', ""),
    ('decay = "k*(1 + 0*x)"\n', ""),
    ("[constants]\nk = 0.5\n", ""),
    ("cells = 12", "cells = 16"),
    ("\nsteps = 20", ""),
    ("[0.0, 0.1, 0.3]", "[0.0, 0.1]"),
)
CLOSED = sections(CONFIG, "equation", "parameters", "grid", "initial", "solve")


@pytest.fixture(autouse=True)
def attentive():
    """Ctrl-C is heard, also where the tests were started in the background and so deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    (tmp_path / "heat.csv").write_text("t,x,T\n0.05,0.25,0.43\n0.1,0.25,0.58\n0.2,0.25,0.70\n0.3,0.25,0.77\n")
    (tmp_path / "config.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "prepare_jax", lambda: None)
    return tmp_path


START = "start = 0.1, positive = true"
BAD = [
    (START, 'start = 0.1, positive = "false"', "[parameters] D positive must be true or false, without quotes"),
    (START, "start = 0.1, positive = { a = 1 }", "positive must be true or false"),
    (START, "start = 0.1, fixed = 1", "fixed must be true or false"),
    (START, "start = 0.1, positive = true, lower = 0.01", "needs both lower and upper"),
    (START, "start = 0.1, positive = true, upper = 0.05", "strictly between 0.0 and 0.05"),
    (START, "start = inf", "[parameters] D start must be finite, got inf"),
    (START, f"start = 1{'0' * 400}", "must be finite, got 1000"),
    (START, f"start = {'9' * 5000}", "is not TOML"),
    (START, f"start = 0x{'f' * 5000}", "must be finite, got a value beyond all bounds"),
    ("cells = 16", "cells = 100000000", "[grid] cells must be from 1 to 1000000, got 100000000"),
    ("cells = 16", "cells = -1", "[grid] cells must be from 1"),
    ("cells = 16", f"cells = {'[' * 20_000}{']' * 20_000}", "is nested too deep"),
    ("cells = 16", f"cells = {'[' * 300}{']' * 300}", "got"),
    ("upper = 1.0", "upper = inf", "[grid] upper must be finite, got inf"),
    ("value = 1.0 }", "value = inf }", "[boundaries] x- value must be finite"),
    ('"x-" = {', '"x+" = 5\n"x-" = {', "[boundaries] x+ must be a table such as { kind = 'dirichlet'"),
    ("times = [0.0, 0.1]", "times = []", "[solve] times is empty"),
    ("times = [0.0, 0.1]", "times = -inf", "[solve] times must be numbers, or inf for the steady state, got -inf"),
    ("times = [0.0, 0.1]", "times = [-1.0, 0.1]", "must not come before the initial state, at 0, got -1"),
    ("times = [0.0, 0.1]", "times = { stop = 1.0, count = 1 }", "count must be from 2"),
    ("times = [0.0, 0.1]", "times = { stop = 1.0, count = 999999999999 }", "count must be from 2 to 10000000"),
    ("times = [0.0, 0.1]", "times = [0.0, 0.1]\nsubsteps = 0", "substeps must be from 1"),
    ("[solve]", "[labels]\nx = 5\n[solve]", "[labels] x must be a text, got 5"),
    ("[equation]", "title = 5\n[equation]", "title must be a text, got 5"),
    ('"levenberg_marquardt"', '{ name = "adam", learning_rate = "0.1" }', "adam learning_rate must be a number"),
    ('"levenberg_marquardt"', '{ name = "adam", learning_rate = -0.1 }', "learning_rate must be a number above zero"),
    ('"levenberg_marquardt"', '{ name = "sgd", learning_rate = 0.1, nesterov = "false" }', "nesterov must be true or"),
    ('"levenberg_marquardt"', '"levenberg_marquardt"\nseed = -1', "[fit] seed must be from 0"),
    ('diffusivity = "D"', f'diffusivity = "{"(" * 5000}D"', "too long, or nested too deep"),
    ('diffusivity = "D"', 'diffusivity = "D\\u0000"', "is not arithmetic"),
]


@pytest.mark.parametrize("old, new, message", BAD, ids=[new[:40] for _, new, _ in BAD])
def test_a_value_of_the_wrong_type_or_size_is_one_line(workplace, refused, old, new, message):
    (workplace / "config.toml").write_text(changed(CONFIG, (old, new)))
    refused(message, "solve", "config.toml")


def test_a_message_names_the_path_as_it_was_given(workplace, refused):
    (workplace / "deep").mkdir()
    (workplace / "deep" / "one.toml").write_text(changed(CONFIG, ("cells = 16", "cell = 16")))
    refused("deep/one.toml: unknown key 'cell'", "fit", "deep/one.toml")
    (workplace / "deep" / "two.toml").write_text(CONFIG)
    refused("deep/heat.csv", "fit", "deep/two.toml")


def test_a_solve_starts_where_the_initial_state_holds(workplace, run):
    """du/dt = −u from 1 at t = 0.5: at the times e^{−(t − 0.5)}, also where the first of them is later."""
    state = ("value = 0.0", "value = 1.0\nstart = 0.5")
    text = changed(CLOSED, ('"D"', '"D"\ndecay = 1.0'), state, ("[0.0, 0.1]", "[1.0, 2.0]"))
    (workplace / "config.toml").write_text(text)
    assert run("solve", "config.toml")[0] == 0
    found = np.genfromtxt(workplace / "config-solve" / "solution.csv", delimiter=",", skip_header=1)
    assert found[:, 1:] == pytest.approx(np.tile(np.exp([-0.5, -1.5]), (16, 1)), rel=1e-8)


@pytest.mark.slow
def test_the_steady_state_of_a_closed_domain_keeps_the_initial_content(workplace, run, refused):
    text = changed(CLOSED, ("[0.0, 0.1]", "inf"))
    (workplace / "config.toml").write_text(changed(text, ("value = 0.0", 'value = "2*x"')))
    assert run("solve", "config.toml")[0] == 0
    found = np.genfromtxt(workplace / "config-solve" / "solution.csv", delimiter=",", skip_header=1)
    assert found[:, 1] == pytest.approx(np.ones(16), rel=1e-9)
    (workplace / "other.toml").write_text(changed(text, ("[initial]\nvalue = 0.0", "")))
    refused("depends on the initial content; add [initial]", "solve", "other.toml")


@pytest.mark.parametrize("name", ["fit.png", "report.html", "predictions.csv"])
def test_a_folder_in_the_place_of_a_result_is_refused_before_the_work(workplace, refused, monkeypatch, name):
    (workplace / "out" / name).mkdir(parents=True)
    monkeypatch.setattr("jaxdiff.shell.config.load", lambda *_: pytest.fail("the work began"))
    refused(f"{name} in it is no file; move it away", "fit", "config.toml", "--output", "out")


@pytest.mark.parametrize("place", ["link", "heat.csv", "heat.csv/deep"])
def test_what_is_no_folder_cannot_hold_results(workplace, refused, place):
    (workplace / "link").symlink_to("nowhere")
    refused("cannot be written", "solve", "config.toml", "--output", place)


def test_results_go_into_a_folder_of_which_the_parent_cannot_be_written(workplace, run):
    if not os.getuid():
        pytest.skip("root writes everywhere")
    (workplace / "closed" / "out").mkdir(parents=True)
    (workplace / "closed").chmod(0o500)
    assert run("solve", "config.toml", "--output", "closed/out")[0] == 0


def interrupt(*_, **__):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5.0)


def swallowed(*_, **__):
    """An interrupt in a place that swallows it, as the import of an extension may."""
    try:
        interrupt()
    except KeyboardInterrupt:
        pass


@pytest.mark.parametrize("how", [interrupt, swallowed], ids=["heard", "swallowed"])
@pytest.mark.parametrize("where", ["jaxdiff.figures.states.profiles", "jaxdiff.shell.config.load"])
def test_an_interrupt_leaves_nothing(workplace, run, monkeypatch, how, where):
    package, _, name = where.rpartition(".")
    real = getattr(importlib.import_module(package), name)
    monkeypatch.setattr(where, lambda *given: (how(), real(*given))[1])
    before, handler = sorted(workplace.rglob("*")), signal.getsignal(signal.SIGINT)
    code, out, err = run("solve", "config.toml")
    assert code == 130 and err.endswith("error: interrupted; nothing was written\n") and not out
    assert sorted(workplace.rglob("*")) == before and signal.getsignal(signal.SIGINT) is handler
    interrupts.check()  # what comes later in the process was not interrupted


def test_an_interrupt_after_the_results_says_that_they_are_there(workplace, run, monkeypatch):
    monkeypatch.setattr("builtins.print", interrupt)
    monkeypatch.setattr(cli, "_fail", lambda message, code: (_ for _ in ()).throw(SystemExit(message)))
    code, _, _ = run("solve", "config.toml")
    assert code == f"interrupted; what there is lies in {workplace / 'config-solve'}"
    assert (workplace / "config-solve" / "solution.csv").exists()


@pytest.mark.slow
def test_an_interrupt_in_a_callback_of_the_garbage_collector_is_heard():
    import gc

    def callback(*_):
        if armed.pop():
            os.kill(os.getpid(), signal.SIGINT)

    armed = [False] * 100 + [True]
    gc.callbacks.append(callback)
    try:
        with pytest.raises(KeyboardInterrupt), interrupts.noted():
            gc.collect()
            time.sleep(5.0)
    finally:
        gc.callbacks.remove(callback)


def test_an_interrupted_benchmark_keeps_what_was_measured(workplace, run, monkeypatch):
    entries = []

    def record(self, name, *_):
        entries.append(name)
        if len(entries) == 3:
            assert any(len(json.loads(f.read_text())["entries"]) == 2 for f in workplace.rglob("throughput.json"))
            interrupt()
        self._add({"device": "cpu", "kernel": name, "size": 1, "label": "1", "dtype": "float32", "skipped": "a test"})

    monkeypatch.setattr(throughput._Run, "record", record)
    arguments = ("benchmark", "throughput", "--smoke", "--device", "cpu", "--output", "out")
    for folder in (
        workplace / "out",
        workplace / "out" / "unfinished",
        workplace / "out" / "unfinished-2",
    ):  # older stay
        entries.clear()
        code, _, err = run(*arguments)
        assert code == 130 and err.endswith(f"error: interrupted; what there is lies in {folder}\n")
        found = json.loads((folder / "throughput.json").read_text())
        assert len(found["entries"]) == 2 and found["complete"] is False
        assert (folder / "throughput.md").exists()
    assert not list(workplace.rglob(".*"))


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and modes are those of POSIX")
@pytest.mark.parametrize("case", ["new", "of another", "open to all", "parent open", "a file"])
def test_compiled_code_is_kept_in_a_folder_of_this_user_alone(tmp_path, monkeypatch, case):
    folder = tmp_path / "jaxdiff" / "compiled"
    settings = []
    monkeypatch.setattr(jax.config, "update", lambda *setting: settings.append(setting))
    if case != "new":
        folder.mkdir(parents=True, mode=0o700)
        folder.parent.chmod(0o700)
    if case == "of another":
        monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    if case in ("open to all", "parent open"):
        (folder if case == "open to all" else folder.parent).chmod(0o777)
    if case == "a file":
        folder.rmdir()
        folder.write_text("")
    before = os.umask(0)
    try:
        kept = compilation.keep(folder)
    finally:
        os.umask(before)
    assert (kept == str(folder), bool(settings)) == (case == "new",) * 2
    assert kept.startswith("off: ") or stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_compiled_code_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "KEPT", 25)
    for number in range(4):
        (tmp_path / str(number)).write_bytes(b"0" * 10)
        os.utime(tmp_path / str(number), (0, 1e9 + number))
    (tmp_path / "young").write_bytes(b"0" * 100)
    compilation._trim(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"young"}
    (tmp_path / "young").unlink()
    for number in range(4):
        (tmp_path / str(number)).write_bytes(b"0" * 10)
        os.utime(tmp_path / str(number), (0, 1e9 + number))
    compilation._trim(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"2", "3"}


def test_no_name_of_an_error_of_the_library_is_seen():
    with pytest.raises(ValueError, match="too far") as caught:
        raise Unplannable("too far")
    assert repr(caught.value) == "ValueError('too far')"
    assert traceback.format_exception_only(caught.value) == ["ValueError: too far\n"]
    assert type(pickle.loads(pickle.dumps(caught.value))) is ValueError
