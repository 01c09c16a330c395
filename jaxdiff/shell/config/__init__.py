"""The TOML files of the shell: a fit or a solve described in words and numbers (docs/config.md is the reference)."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff.model.expression import FUNCTIONS, NUMBERS, VARIABLES
from jaxdiff.model.expression import names as expression_names
from jaxdiff.model.grid import Grid
from jaxdiff.parameters import Bounded, Free, Mark, Positive
from jaxdiff.shell.config import initial as initials
from jaxdiff.shell.config.data import read_data
from jaxdiff.shell.config.domain import read_boundaries, read_grid
from jaxdiff.shell.config.keys import check_keys, flag, mapping, number, shown, text
from jaxdiff.shell.config.methods import METHOD, fit_options, method, solve_times
from jaxdiff.shell.config.model import TextModel, arithmetic, position_names, read_equation
from jaxdiff.shell.config.observe import read_observe

KEYS = "title labels equation parameters constants boundaries grid initial observe data fit solve".split()
SECTIONS = {
    "grid": ("lower", "upper", "cells", "edges", "geometry"),
    "fit": ("loss", "optimizer", "steps", "batch_size", "seed", "validation", "errors", *METHOD),
    "solve": ("times", *METHOD),
}
ENDS = ("lower", -math.inf), ("upper", math.inf)


@dataclass(frozen=True)
class Problem:
    """What a configuration file describes, built and checked."""

    title: str
    labels: dict[str, str]
    grid: Grid
    model: TextModel
    parameters: dict[str, Mark]
    starts: dict[str, Any]
    measurement: Any = None
    initial: Any = None  # array or callable of position
    start: float = 0.0
    times: np.ndarray | None = None
    fit_options: dict[str, Any] = field(default_factory=dict)
    solve_options: dict[str, Any] = field(default_factory=dict)


def load(path: str | os.PathLike[str], table: str | os.PathLike[str] | None = None) -> Problem:
    """Read a configuration file; `table` takes the place of the data file it names.

    Raises:
        ValueError: a key or a name that is not known (the known ones are listed), or a value that cannot stand there.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no configuration file {path}; check the path")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise ValueError(f"{path} is nested too deep; no key takes lists of lists of lists") from None
    except ValueError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    try:
        return parse(content, path.parent, table)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    except RecursionError:
        raise ValueError(f"{path} holds a text that is nested too deep; name parts of it in [constants]") from None


def parse(content: Mapping[str, Any], folder: Path = Path(), table: str | os.PathLike[str] | None = None) -> Problem:
    """The problem that the content of a configuration file describes; tables of data are looked for in `folder`."""
    check_keys(content, "the file", KEYS)
    for name in KEYS:
        if name not in ("title", "initial", "boundaries", "observe"):
            mapping(content.get(name, {}), name, f"[{name}]")
    sections = {name: dict(content.get(name, {})) for name in SECTIONS}
    for name, section in sections.items():
        check_keys(section, f"[{name}]", SECTIONS[name])
    grid = read_grid(sections["grid"])
    axes = grid.names
    labels = {key: text(value, f"[labels] {key}") for key, value in content.get("labels", {}).items()}
    check_keys(labels, "[labels]", (*(axes if grid.ndim > 1 else ("x",)), "t", "value"))
    equation = read_equation(content.get("equation"), axes)
    constants = {k: number(v, f"[constants] {k}") for k, v in _named(content, "constants").items()}
    parameters, frozen = _parameters(_named(content, "parameters"))
    if twice := sorted({*parameters, *frozen} & set(constants)):
        raise ValueError(f"{twice[0]!r} is in [parameters] and in [constants]; leave one out")
    constants |= frozen
    sides = read_boundaries(content.get("boundaries", {}), grid)
    initial = initials.read_initial(content.get("initial"), grid)
    data = None
    if "data" in content or table is not None:
        reserved = {*parameters, *constants, "t", *position_names(axes)}
        texts = arithmetic([equation, *sides.values()])
        data = read_data(dict(content.get("data", {})), folder, table, texts, reserved, axes)
    coefficients = [equation, *sides.values(), {"initial": initial.get("value")}]
    elsewhere = {name for one in arithmetic(coefficients) for name in expression_names(one)}
    observe = read_observe(content.get("observe"), parameters, elsewhere)
    spec = {"equation": equation, "boundaries": sides, "initial": initial.get("value"), "observe": observe}
    model = TextModel(spec, constants, axes, data)
    if idle := set(parameters) - model.names:
        raise ValueError(f"the parameter {sorted(idle)[0]!r} stands in no coefficient; use it or leave it out")
    starts = {name: mark.value for name, mark in parameters.items()}
    start, state = initials.state_of(initial, grid, sides, folder, data)
    if "value" in initial:
        state = model.initial(starts)
    model(**starts)  # every mistake of a text shows here
    measurement = None
    if data and data.has_readings:
        noise = initials.noise_of(initial, grid, sides, data)
        measurement = data.measurement(grid, state, start, after="profile" in initial, noise=noise)
        if observe and observe["own"]:
            count = len(measurement.sensors)
            for name in observe["own"]:
                parameters[name] = each_of(parameters[name], count)
                starts[name] = parameters[name].value
    times = solve_times(sections["solve"].get("times"), start)
    if times is None and data is not None:
        times = data.times(start)
    return Problem(
        title=text(content.get("title", ""), "title"),
        labels=labels,
        grid=grid,
        model=model,
        parameters=parameters,
        starts=starts,
        measurement=measurement,
        initial=state,
        start=start,
        times=times,
        fit_options=fit_options(sections["fit"]),
        solve_options=method(sections["solve"], "[solve]"),
    )


def each_of(mark: Mark, count: int) -> Mark:
    """A mark of as many numbers, all with the start and the bounds of one."""
    return jax.tree.map(lambda number: np.full(count, number), mark)


def _named(content: Mapping[str, Any], section: str) -> dict[str, Any]:
    table = content.get(section, {})
    for name in table:
        if not name.isidentifier():
            raise ValueError(f"[{section}] {shown(name)} is no name for arithmetic; use letters, digits and _")
        if name in FUNCTIONS or name in VARIABLES or name in NUMBERS or name == "r":
            raise ValueError(
                f"[{section}] {name!r} is taken by a variable, a number or a function; choose another name"
            )
    return dict(table)


def _parameters(table: Mapping[str, Any]) -> tuple[dict[str, Mark], dict[str, float]]:
    marks: dict[str, Mark] = {}
    frozen: dict[str, float] = {}
    for name, entry in table.items():
        where = f"[parameters] {name}"
        if not isinstance(entry, Mapping):
            marks[name] = Free(number(entry, where))
            continue
        check_keys(entry, where, ("start", "lower", "upper", "positive", "fixed"))
        if "start" not in entry:
            raise ValueError(f"{where} has no start; write {name} = {{ start = 1.0 }}")
        start = number(entry["start"], f"{where} start")
        lower, upper = (number(entry.get(k, end), f"{where} {k}", finite=False) for k, end in ENDS)
        positive, fixed = (flag(entry.get(k, False), f"{where} {k}") for k in ("positive", "fixed"))
        lower = max(lower, 0.0) if positive else lower
        try:
            if fixed:
                frozen[name] = start
            elif lower > -math.inf and upper < math.inf:
                marks[name] = Bounded(start, lower, upper)
            elif lower == 0 and upper == math.inf:
                marks[name] = Positive(start)
            elif lower == -math.inf and upper == math.inf:
                marks[name] = Free(start)
            else:
                raise ValueError("needs both lower and upper, or positive = true, or none of them")
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return marks, frozen
