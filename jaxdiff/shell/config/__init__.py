"""The TOML files of the shell: a fit or a solve described in words and numbers (docs/config.md is the reference)."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxdiff.model.expression import names as expression_names
from jaxdiff.model.grid import Grid
from jaxdiff.parameters import Bounded, Free, Mark, Positive
from jaxdiff.shell.config import initial as initials
from jaxdiff.shell.config import passages, tuning
from jaxdiff.shell.config.domain import read_grid
from jaxdiff.shell.config.experiments import (
    Experiment,
    Number,
    SharedModel,
    check_names,
    each_of,
    read_own,
    read_settings,
    with_common_sensors,
)
from jaxdiff.shell.config.keys import check_keys, checked_names, flag, mapping, number, text
from jaxdiff.shell.config.master import read_states
from jaxdiff.shell.config.methods import METHOD, fit_options, method, solve_times
from jaxdiff.shell.config.model import TextModel, arithmetic, position_names, read_equation
from jaxdiff.shell.config.observe import read_observe

KEYS = "title labels equation parameters constants boundaries grid states initial observe data fit solve validation sweep".split()
SECTIONS = {
    "grid": ("lower", "upper", "cells", "edges", "geometry", "mask"),
    "fit": ("loss", "optimizer", "steps", "batch_size", "seed", "validation", "errors", "save", *METHOD),
    "solve": ("times", *METHOD),
}
ENDS = ("lower", -math.inf), ("upper", math.inf)


@dataclass(frozen=True)
class Problem:
    """What a configuration file describes, built and checked."""

    title: str
    labels: dict[str, str]
    grid: Grid
    model: Callable[..., Any]
    parameters: dict[str, Mark]
    starts: dict[str, Any]  # where an experiment or a sensor has a number of its own, that of any
    measurement: Any  # one for each experiment, where there are several
    experiments: tuple[Experiment, ...]
    fit_options: dict[str, Any] = field(default_factory=dict)
    solve_options: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)
    sweep: dict[str, Any] = field(default_factory=dict)


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
        if name not in ("title", "initial", "boundaries", "states", "observe", "data"):
            mapping(content.get(name, {}), name, f"[{name}]")
    sections = {name: dict(content.get(name, {})) for name in SECTIONS}
    for name, section in sections.items():
        check_keys(section, f"[{name}]", SECTIONS[name])
    grid = _domain(content, sections["grid"], folder)
    axes = grid.names
    labels = {key: text(value, f"[labels] {key}") for key, value in content.get("labels", {}).items()}
    check_keys(labels, "[labels]", (*(axes if grid.ndim > 1 or grid.discrete else ("x",)), "t", "value"))
    equation = read_equation(content.get("equation"), axes)
    constants = {k: number(v, f"[constants] {k}") for k, v in _named(content, "constants").items()}
    section, own = read_own(_named(content, "parameters"))
    parameters, frozen = _parameters(section)
    if twice := sorted({*parameters, *frozen} & set(constants)):
        raise ValueError(f"{twice[0]!r} is in [parameters] and in [constants]; leave one out")
    constants |= frozen
    starts = {name: mark.value for name, mark in parameters.items()}
    apart, settings = read_settings(content, folder, table, grid, equation["kind"] == "schrodinger")
    coefficients = [part for one in settings for part in (*one.sides.values(), initials.texts_of(one.initial))]
    elsewhere = {name for one in arithmetic([equation, *coefficients]) for name in expression_names(one)}
    observe, seen_apart = read_observe(content.get("observe"), parameters, elsewhere)
    own |= set(seen_apart)
    apart = apart or bool(own)
    everywhere = {name for one in settings for name in one.conditions}
    experiments: list[Experiment] = []
    for i, one in enumerate(settings):
        with one.named():
            if twice := sorted({*parameters, *constants} & set(one.conditions)):
                raise ValueError(
                    f"{twice[0]!r} is a condition of the data, and in [parameters] or [constants]; leave one out"
                )
            known = {**constants, **one.conditions}
            initial, data = one.initial, one.data
            if data is not None:
                texts = arithmetic([equation, *one.sides.values()])
                data = data.driving(texts, {*parameters, *known, "t", *position_names(axes)})
                data = passages.resolved(data, parameters, own, known, i)
            written = initials.texts_of(initial)
            spec = {"equation": equation, "boundaries": one.sides, "initial": written, "observe": observe}
            model = TextModel(spec, known, axes, data)
            if lacking := (model.names & everywhere) - set(known):
                raise ValueError(f"{sorted(lacking)[0]!r} is a condition of other experiments; give it here too")
            start, state = initials.state_of(initial, grid, one.sides, folder, data)
            state = model.initial(starts) if written else state
            model(**starts)  # every mistake of a text shows here
            measurement = None
            if data and data.has_readings:
                if observe and data.kind != "readings":
                    raise ValueError(f"[observe] is of readings, got {data.kind}; leave it out")
                noise = initials.noise_of(initial, grid, one.sides, data)
                conditions = {**one.conditions, "experiment": Number(i)} if apart else None
                measurement = data.measurement(grid, state, start, "profile" in initial, noise, conditions)
            elif apart:
                raise ValueError("[data] has no value; name the column of readings of each experiment")
            times = solve_times(sections["solve"].get("times"), start)
            times = data.times(start) if times is None and data is not None else times
            experiments.append(Experiment(one.name, model, measurement, state, start, times))
    check_names(settings, [one.model for one in experiments], parameters, own)
    measurements = [one.measurement for one in experiments]
    per_sensor = set(observe["own"]) if observe and measurements[0] is not None else set()
    sensors = 0
    if per_sensor:
        sensors, measurements = with_common_sensors(measurements)
    for name in own | per_sensor:
        shape = (len(experiments),) * (name in own) + (sensors,) * (name in per_sensor)
        parameters[name] = each_of(parameters[name], *shape)
    shared = SharedModel(tuple(one.model for one in experiments), frozenset(own))
    return Problem(
        title=text(content.get("title", ""), "title"),
        labels=labels,
        grid=grid,
        model=shared if apart else experiments[0].model,
        parameters=parameters,
        starts=starts,
        measurement=tuple(measurements) if apart else measurements[0],
        experiments=tuple(experiments),
        fit_options=fit_options(sections["fit"], folder),
        solve_options=method(sections["solve"], "[solve]"),
        validation=tuning.validation(content.get("validation")),
        sweep=tuning.sweep(content.get("sweep"), sections["fit"]),
    )


def _domain(content: Mapping[str, Any], grid: dict[str, Any], folder: Path) -> Grid:
    """The grid, or the states of a master equation."""
    if content.get("equation", {}).get("kind") != "master":
        if "states" in content:
            raise ValueError("[states] are those of an equation of kind 'master'; give a [grid]")
        return read_grid(grid, folder)
    for name in ("grid", "boundaries"):
        if content.get(name):
            raise ValueError(f"[{name}] is none of a master equation, which has [states]; leave it out")
    return read_states(content.get("states"), content["equation"])


def _named(content: Mapping[str, Any], section: str) -> dict[str, Any]:
    return checked_names(content.get(section, {}), f"[{section}]")


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
