"""Random mistakes in configuration files, each through the whole shell: it runs with honest numbers, or it is refused in one line."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import re
import signal
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import numpy as np

from jaxdiff.benchmarks.attacks.examples import EXAMPLES, FILES
from jaxdiff.benchmarks.harness import Entries, failure

LIMIT = 120.0  # seconds of all cores for one case, most of them the compiler's
FREE = ("title", "labels", "comment")  # any text may stand here
ENDLESS = ("times", "time", "lower", "upper")  # infinity may stand here
INTERNAL = re.compile(r"'\w+' object|NoneType|unhashable|Tracer|0x[0-9a-f]{6}|jaxlib|XlaRuntime|Unplannable|\w+Error\b")
ILL = (
    "",
    "D +",
    "1/0",
    "x^2",
    "0,5",
    "D*(",
    "__import__('os')",
    "5 cm",
    "D if x else 1",
    "nan",
    "D D",
    "foo(x)",
    "'a'",
    "9**9**9",
    "x[0]",
)
HOLLOW = (
    "log(-1 - x**2)",
    "sqrt(-1 - x**2)",
    "(x - x)/(x - x)",
    "exp(1e3 + x)",
    "1/(x - x)",
    "asin(2 + x**2)",
    "-1 - x**2",
)
LETTERS = (
    "$\\frac{1$ cost",
    "温度 🔥",
    "<script>alert(1)</script>",
    "x" * 3000,
    "a\0b",
    "tab\tand\nline",
    "T / °C",
    "{{ 7*7 }}",
)
SIZES = (0, -1, 1, 1e-300, -1e-300, 1e300, 1e18, 1e-18, -0.0, 1e9, -3.5, 10**30, 2**63)


class TooLong(BaseException):
    """The alarm; not an error that somebody catches."""


class Case:
    """A configuration that is being damaged, and whether it must be refused."""

    def __init__(self, name: str, rng: np.random.Generator):
        self.name, self.rng, self.must, self.changes, self.extra = name, rng, False, "", ""
        self.content = tomllib.loads(EXAMPLES[name])
        self.files: dict[str, Any] = dict(FILES)
        self.command = "fit" if "data" in self.content else "solve"

    def pick(self, options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def leaves(self, kinds: Any = object) -> list[tuple[Any, ...]]:
        """Places of values of these kinds that are no tables."""
        return [path for path, value in _walk(self.content) if not isinstance(value, dict) and isinstance(value, kinds)]

    def keys(self) -> list[tuple[Any, ...]]:
        """Places of everything that has a name."""
        return [path for path, _ in _walk(self.content) if isinstance(path[-1], str)]

    def formulas(self, kinds: Any = str, sections: tuple[str, ...] = ("equation",)) -> list[tuple[Any, ...]]:
        """Places where arithmetic stands, or a number in its place."""
        words = ("kind", "interpretation")
        return [path for path in self.leaves(kinds) if path[0] in sections and path[-1] not in words]

    def at(self, path: tuple[Any, ...]) -> Any:
        found = self.content
        for key in path:
            found = found[key]
        return found

    def put(self, path: tuple[Any, ...], value: Any, must: bool) -> None:
        self.at(path[:-1])[path[-1]] = value
        self.note(f"{_dotted(path)} = {str(value)[:60]}", must)

    def note(self, change: str, must: bool) -> None:
        self.changes, self.must = f"{self.changes}; {change}".removeprefix("; "), must

    # What may be done to it.

    def remove(self) -> None:
        path = self.pick(self.keys())
        del self.at(path[:-1])[path[-1]]
        self.note(f"without {_dotted(path)}", False)

    def misspell(self) -> None:
        path = self.pick(self.keys())
        table = self.at(path[:-1])
        table[path[-1] + "q"] = table.pop(path[-1])
        self.note(f"{_dotted(path)} misspelt", True)

    def double(self) -> None:
        path = self.pick([path for path in self.keys() if len(path) == 2])
        self.extra = f"\n[{path[0]}]\n{_key(path[1])} = 1\n"
        self.note(f"{_dotted(path)} twice", True)

    def retype(self) -> None:
        path = self.pick(self.leaves())
        old = self.at(path)
        odd: list[Any] = [{"a": 1}, [[1.0], [2.0]], Date("1979-05-27"), Date("07:32:00")]
        odd += [] if isinstance(old, bool) else [True, False]
        odd += ["false", 1, 0] if isinstance(old, bool) else []
        odd += ["5 cm"] if isinstance(old, (int, float)) else []
        value = self.pick(odd)
        self.put(path, value, not (path[0] in FREE and isinstance(value, str)))

    def resize(self) -> None:
        self.put(self.pick(self.leaves((int, float))), self.pick(SIZES), False)

    def not_a_number(self) -> None:
        self.put(self.pick(self.leaves((int, float))), float("nan"), True)

    def endless(self) -> None:
        path = self.pick(self.leaves((int, float)))
        value = self.pick([float("inf"), float("-inf")])
        fine = set(ENDLESS) & set(path) and "grid" not in path and (value > 0 or "lower" in path)
        self.put(path, value, not fine)

    def garble(self) -> None:
        if places := self.formulas(sections=("equation", "boundaries")):
            self.put(self.pick(places), self.pick(ILL), True)

    def hollow(self) -> None:
        self.put(self.pick(self.formulas((str, float))), self.pick(HOLLOW), False)

    def letter(self) -> None:
        labels, value = self.content.setdefault("labels", {}), self.pick(LETTERS)
        if self.rng.random() < 0.3:
            self.content["title"] = value
        else:
            labels[self.pick(["t", "value"])] = value
        self.note(f"a label {value[:20]!r}", False)

    def flatten(self) -> None:
        path = self.pick([path for path, value in _walk(self.content) if isinstance(value, dict)])
        value = self.pick([5, "text", [], [1, 2], True])
        start = path[0] == "parameters" and len(path) == 2 and value == 5  # as good as a table
        self.put(path, value, path[0] not in ("initial", "boundaries", "solve") and not start)

    def nest(self) -> None:
        depth = self.pick([50, 300, 5000])
        path = self.pick(self.leaves())
        self.put(path, Raw("[" * depth + "]" * depth), True)

    def deep(self) -> None:
        if places := self.formulas():
            n = self.pick([150, 3000])
            path = self.pick(places)
            self.put(
                path, self.pick(["(" * n + "1 + x" + ")" * n, "+".join(["0.001"] * n), "-" * 2 * n + "0.5"]), False
            )

    def cells(self) -> None:
        several = isinstance(self.content["grid"].get("cells"), list)
        n = self.pick([0, 1, 2, 3, -4, 10**9, 2**70, 3.0])
        self.content["grid"]["cells"] = [n, 4] if several else n
        self.note(f"cells = {n}", not (isinstance(n, int) and 0 < n < 10))

    def shrink(self) -> None:
        path = self.pick([("grid", "lower"), ("grid", "upper")])
        several = isinstance(self.content["grid"]["lower"], list)
        value = self.pick([1e-200, 1e200, -1e200, 1e-9, 1e9, 0.0])
        self.put(path, [value, 1.0] if several else value, False)

    def data(self) -> None:
        name = self.content.get("data", {}).get("table")
        if name is None:
            self.letter()
            return
        what = self.pick(["missing", "empty", "header", "binary", "folder", "words"])
        lines = self.files[name].splitlines()
        self.files[name] = {
            "missing": None,
            "empty": "",
            "header": lines[0] + "\n",
            "binary": "\0\1\2\xff" * 40,
            "folder": Path(),
            "words": "\n".join([lines[0], *(re.sub(r"[0-9.]+", "warm", line) for line in lines[1:])]),
        }[what]
        self.note(f"data {what}", True)

    def text(self) -> str:
        return _toml(self.content) + self.extra


MUTATIONS = (
    Case.remove, Case.misspell, Case.double, Case.retype, Case.retype, Case.resize, Case.resize, Case.not_a_number, Case.endless,
    Case.garble, Case.hollow, Case.letter, Case.flatten, Case.nest, Case.deep, Case.cells, Case.shrink, Case.data,
)  # fmt: skip


def run(count: int, seed: int = 0) -> Entries:
    """Records {"seed", "mutation", "verdict", "detail"} of `count` damaged configurations.

    A verdict is "ran" (exit code 0, and every number finite or said not to be known), "refused" (in one line, nothing
    written), "WRONG", "TRACEBACK", or "HANG" (longer than two minutes of work).
    """
    records = []
    for number in range(count):
        if number % 25 == 0:
            jax.clear_caches()  # thousands of programs use up the memory maps of a process
        case = damaged(seed, number)
        verdict, detail = judged(case)
        mutation = f"{case.command} {case.name}: {case.changes}"
        records.append({"seed": (seed, number), "mutation": mutation, "verdict": verdict, "detail": detail})
    return records


def example(name: str) -> Case:
    """An example as it is."""
    return Case(name, np.random.default_rng(0))


def damaged(seed: int, number: int) -> Case:
    rng = np.random.default_rng([seed, number])
    case = Case(str(rng.choice(list(EXAMPLES))), rng)
    if "solve" in case.content and rng.random() < 0.5:
        case.command = "solve"
    for _ in range(1 + (rng.random() < 0.25)):
        before = copy.deepcopy(case.__dict__)
        try:
            case.pick(MUTATIONS)(case)
        except (KeyError, IndexError, AttributeError, TypeError):  # the first mistake took the place of the second
            case.__dict__ = before
    return case


def judged(case: Case) -> tuple[str, str]:
    """(verdict, detail)"""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, content in case.files.items():
            if isinstance(content, Path):
                (folder / name).mkdir()
            elif content is not None:
                (folder / name).write_bytes(content.encode("latin-1"))
        (folder / "case.toml").write_text(case.text(), encoding="utf-8")
        before, began = sorted(folder.rglob("*")), time.process_time()
        try:
            code, err = _shell(case.command, str(folder / "case.toml"), "--output", str(folder / "out"))
        except TooLong:
            return "HANG", f"more than {LIMIT:g} s"
        except Exception as error:  # that is what is looked for
            return "TRACEBACK", failure(error)
        if code == 130:
            raise KeyboardInterrupt
        if time.process_time() - began > LIMIT:
            return "HANG", f"{time.process_time() - began:.0f} s"
        if code == 0:
            return _of_results(case, folder / "out")
        line = err.strip()
        one = line.startswith("error: ") and "\n" not in line and len(line) < 800
        if not one or "Traceback" in line or INTERNAL.search(line.replace(str(folder), "")):
            return "WRONG", f"not one line of ours: {line[-400:]}"
        if sorted(folder.rglob("*")) != before:
            return "WRONG", "refused, but something was written"
        return "refused", line.replace(str(folder), "")


def _of_results(case: Case, folder: Path) -> tuple[str, str]:
    if case.must:
        return "WRONG", "it must be refused, and ran"
    if case.command == "solve":
        lines = (folder / "solution.csv").read_text().splitlines()[1:]
        values = np.array([[float(entry or "nan") for entry in line.split(",")] for line in lines])
        finite = np.isfinite(values[:, 1:]).all() and len(values)
        return ("ran", "") if finite else ("WRONG", "the solution is not finite")
    found = json.loads((folder / "parameters.json").read_text())
    warned = bool(found["notes"]) or not found["converged"]
    for name, numbers in found["parameters"].items():
        if numbers["estimate"] is None or (numbers["standard_error"] is None and not warned):
            return "WRONG", f"{name} is {numbers}, and nothing is said"
    if found["loss"] is None:
        return "WRONG", "the loss is not finite"
    return "ran", "; ".join(found["notes"])


def _shell(*arguments: str) -> tuple[int, str]:
    """Exit code and stderr of the command line, in this process and in its own settings."""
    # Like a user, who knows it by its name alone.
    shell = next(iter(entry_points(group="console_scripts", name="jaxdiff")))
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err), jax.enable_x64(True):
        try:
            with patch("jaxdiff.shell.cli.prepare_jax", lambda: "off"), _alarm():
                shell.load()(list(arguments))
        except SystemExit as stop:
            return int(stop.code or 0), err.getvalue()
    raise RuntimeError("the shell came back without an exit code")


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


class Raw(str):
    """TOML as it is."""


class Date(Raw):
    """A date or an hour, of which TOML has its own kind."""


def _walk(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in entries:
        yield (*path, key), below
        yield from _walk(below, (*path, key))


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml_value(name)


def _toml(content: dict[str, Any]) -> str:
    """A file of one table a section."""
    top = [f"{_key(key)} = {_toml_value(value)}" for key, value in content.items() if not isinstance(value, dict)]
    for section, table in content.items():
        if isinstance(table, dict):
            top += [f"[{_key(section)}]", *(f"{_key(key)} = {_toml_value(value)}" for key, value in table.items())]
    return "\n".join(top) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_toml_value(entry)}" for key, entry in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
