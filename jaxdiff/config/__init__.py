"""The TOML files of the shell: a fit or a solve described in words and numbers (docs/config.md is the reference)."""

from __future__ import annotations

import inspect
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff import losses, schemes, steppers
from jaxdiff.config.data import Data, read_data
from jaxdiff.config.keys import check_keys, choose, listed, number, text
from jaxdiff.config.model import BOUNDARIES, EQUATIONS, WORDS, TextModel
from jaxdiff.expression import FUNCTIONS, NUMBERS, VARIABLES
from jaxdiff.grid import Grid
from jaxdiff.optimizers import LevenbergMarquardt
from jaxdiff.parameters import Bounded, Free, Mark, Positive

SECTIONS = {
    "labels": ("x", "t", "value"),
    "grid": ("lower", "upper", "cells", "edges", "geometry"),
    "initial": ("value", "profile", "delta", "table", "position", "column", "start"),
    "fit": (
        *("loss", "optimizer", "steps", "batch_size", "seed", "validation"),
        *("scheme", "stepper", "substeps", "tolerance"),
    ),
    "solve": ("times", "scheme", "stepper", "substeps", "tolerance"),
}
LOSSES = ("mse", "kl_divergence", "negative_log_likelihood")
OPTIMIZERS = ("levenberg_marquardt", "adam", "adamw", "sgd", "rmsprop", "lbfgs")
STEPPERS = {
    "forward_euler": "ForwardEuler",
    "runge_kutta4": "RungeKutta4",
    "backward_euler": "BackwardEuler",
    "crank_nicolson": "CrankNicolson",
    "trbdf2": "TRBDF2",
    "exponential": "Exponential",
    "strang": "Strang",
    "rkl2": "RKL2",
}


@dataclass(frozen=True)
class Problem:
    """What a configuration file describes, built and checked."""

    title: str
    labels: dict[str, str]
    grid: Grid
    model: TextModel
    parameters: dict[str, Mark]
    measurement: Any = None
    initial: Any = None  # array or callable of position
    start: float = 0.0
    times: np.ndarray | None = None
    fit_options: dict[str, Any] = field(default_factory=dict)
    solve_options: dict[str, Any] = field(default_factory=dict)

    @property
    def starts(self) -> dict[str, Any]:
        return {name: mark.value for name, mark in self.parameters.items()}


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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    try:
        return parse(content, path.parent, table)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def parse(content: Mapping[str, Any], folder: Path = Path(), table: str | os.PathLike[str] | None = None) -> Problem:
    """The problem that the content of a configuration file describes; tables of data are looked for in `folder`."""
    known = (
        "title",
        "labels",
        "equation",
        "parameters",
        "constants",
        "boundaries",
        "grid",
        "initial",
        "data",
        "fit",
        "solve",
    )
    check_keys(content, "the file", known)
    for name in known[1:]:
        if not (isinstance(content.get(name, {}), Mapping) or name in ("initial", "boundaries")):
            raise ValueError(f"{name} must be a table, as in [{name}], got {content[name]!r}")
    sections = {name: dict(content.get(name, {})) for name in SECTIONS if name != "initial"}
    for name, section in sections.items():
        check_keys(section, f"[{name}]", SECTIONS[name])
    equation = _equation(content.get("equation"))
    constants = {k: number(v, f"[constants] {k}") for k, v in _named(content, "constants").items()}
    parameters, frozen = _parameters(_named(content, "parameters"))
    twice = sorted({*parameters, *frozen} & set(constants))
    if twice:
        raise ValueError(f"{twice[0]!r} is in [parameters] and in [constants]; leave one out")
    constants |= frozen
    grid = _grid(sections["grid"])
    sides = _boundaries(content.get("boundaries", {}), grid)
    initial = _initial(content.get("initial"))
    texts = [
        v for part in (equation, *sides.values()) for k, v in part.items() if isinstance(v, str) and k not in WORDS
    ]
    data = None
    if "data" in content or table is not None:
        reserved = {*parameters, *constants}
        data = read_data(dict(content.get("data", {})), folder, table, texts, reserved)
    profile = initial.get("value")
    spec = {"equation": equation, "boundaries": sides, "initial": profile}
    model = TextModel(spec, constants, data.columns if data else {}, list(data.frame.columns) if data else ())
    idle = set(parameters) - model.names
    if idle:
        raise ValueError(f"the parameter {sorted(idle)[0]!r} stands in no coefficient; use it or leave it out")
    start = float(initial.get("start", 0.0))
    state: Any = None
    if initial.get("profile") == "first row":
        if data is None:
            raise ValueError('[initial] profile = "first row" needs [data]')
        walls = _wall_columns(sides, grid, data)
        start, state = data.first_profile(grid, walls)
    elif "delta" in initial:
        state = np.asarray(grid.delta(number(initial["delta"], "[initial] delta")))
    elif "column" in initial:
        state = _profile(initial, grid, folder, data)
    starts = {name: mark.value for name, mark in parameters.items()}
    if profile is not None:
        state = model.initial(starts)
    model(**starts)  # every mistake of a text shows here
    measurement = data.measurement(grid, state, start) if data and data.has_readings else None
    times = _times(sections["solve"].get("times"), start)
    if times is None and data is not None:
        times = data.times(start)
    return Problem(
        title=str(content.get("title", "")),
        labels={key: str(value) for key, value in sections["labels"].items()},
        grid=grid,
        model=model,
        parameters=parameters,
        measurement=measurement,
        initial=state,
        start=start,
        times=times,
        fit_options=_fit_options(sections["fit"]),
        solve_options=_method(sections["solve"], "[solve]"),
    )


def _named(content: Mapping[str, Any], section: str) -> dict[str, Any]:
    table = content.get(section, {})
    for name in table:
        if not name.isidentifier():
            raise ValueError(f"[{section}] {name!r} is no name for arithmetic; use letters, digits and _")
        if name in FUNCTIONS or name in VARIABLES or name in NUMBERS or name == "r":
            raise ValueError(
                f"[{section}] {name!r} is taken by a variable, a number or a function; choose another name"
            )
    return dict(table)


def _equation(table: Any) -> dict[str, Any]:
    if not table:
        raise ValueError("the file needs a table [equation] with kind = 'diffusion' or 'fokker_planck'")
    kind = choose(table.get("kind"), "[equation] kind", tuple(EQUATIONS)).replace("-", "_")
    check_keys(table, "[equation]", ("kind", *EQUATIONS[kind]))
    if "diffusivity" not in table:
        raise ValueError("[equation] has no diffusivity; give a number or an expression such as 'D' or '1 + x**2'")
    if "potential" in table and "drift" in table:
        raise ValueError("[equation] has a drift and a potential; leave one out")
    for key, value in table.items():
        if key not in WORDS and not isinstance(value, str):
            number(value, f"[equation] {key}")
    if "interpretation" in table:
        choose(table["interpretation"], "[equation] interpretation", ("ito", "stratonovich", "isothermal"))
    given = {"kind": kind, **{k: v for k, v in table.items() if k != "kind"}}
    if "potential" in table:
        given["drift"] = None
    return given


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
        values = {k: number(entry[k], f"{where} {k}") for k in ("start", "lower", "upper") if k in entry}
        start, lower, upper = values["start"], values.get("lower", -math.inf), values.get("upper", math.inf)
        try:
            if entry.get("fixed", False):
                frozen[name] = start
            elif lower > -math.inf and upper < math.inf:
                marks[name] = Bounded(start, lower, upper)
            elif entry.get("positive", False) or (lower == 0 and upper == math.inf):
                marks[name] = Positive(start)
            elif lower == -math.inf and upper == math.inf:
                marks[name] = Free(start)
            else:
                raise ValueError("needs both lower and upper, or positive = true, or none of them")
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return marks, frozen


def _grid(table: Mapping[str, Any]) -> Grid:
    geometry = choose(table.get("geometry", "cartesian"), "[grid] geometry", ("cartesian", "cylindrical", "spherical"))
    try:
        if "edges" in table:
            return Grid(edges=(np.asarray(listed(table["edges"], "[grid] edges", number)),), geometry=geometry)
        for key in ("lower", "upper", "cells"):
            if key not in table:
                raise ValueError(f"[grid] has no {key}; give lower, upper and cells, or edges")
        ends = number(table["lower"], "[grid] lower"), number(table["upper"], "[grid] upper")
        if not ends[0] < ends[1]:
            raise ValueError(f"[grid] needs lower < upper, got {ends[0]:g} and {ends[1]:g}")
        axis = (*ends, number(table["cells"], "[grid] cells", whole=True))
        return Grid.uniform(axis) if geometry == "cartesian" else Grid.radial(axis, geometry=geometry)
    except TypeError as error:
        raise ValueError(f"[grid]: {error}") from None


def _boundaries(table: Any, grid: Grid) -> dict[str, dict[str, Any]]:
    if isinstance(table, str):
        table = {"all": table}
    if not isinstance(table, Mapping):
        raise ValueError(f"boundaries must be a table of sides or one word, got {table!r}")
    if "kind" in table:
        table = {"all": table}
    check_keys(table, "[boundaries]", ("all",) if "all" in table else (*grid.sides, "all"))
    sides: dict[str, dict[str, Any]] = {}
    for side, entry in table.items():
        where = f"[boundaries] {side}"
        entry = {"kind": entry} if isinstance(entry, str) else dict(entry)
        kind = choose(entry.get("kind"), f"{where} kind", tuple(BOUNDARIES))
        check_keys(entry, where, ("kind", *BOUNDARIES[kind][1]))
        if kind == "robin" and "rate" not in entry:
            raise ValueError(f"{where}: robin needs a rate, as in {{ kind = 'robin', rate = 'h', ambient = 20.0 }}")
        for key in BOUNDARIES[kind][1]:
            if key in entry and not isinstance(entry[key], str):
                number(entry[key], f"{where} {key}")
        sides[side] = {**entry, "kind": kind}
    return sides


def _initial(table: Any) -> dict[str, Any]:
    if table is None:
        return {}
    if not isinstance(table, Mapping):
        table = {"profile": table} if table == "first row" else {"value": table}
    check_keys(table, "[initial]", SECTIONS["initial"])
    ways = [key for key in ("value", "profile", "delta", "column") if key in table]
    if len(ways) != 1:
        raise ValueError(f"[initial] needs one of value, profile, delta, column; got {' and '.join(ways) or 'none'}")
    table = dict(table)
    if "value" in table and not isinstance(table["value"], str):
        table["value"] = repr(number(table["value"], "[initial] value"))
    if "profile" in table:
        choose(table["profile"], "[initial] profile", ("first row",))
    if "start" in table:
        number(table["start"], "[initial] start")
        if "profile" in table:
            raise ValueError("[initial] start is the time of the first row where that is the profile; leave it out")
    for key in ("table", "position", "column"):
        if key in table:
            text(table[key], f"[initial] {key}")
    return table


def _wall_columns(sides: Mapping[str, Mapping[str, Any]], grid: Grid, data: Data) -> dict[str, float]:
    """Columns that are the value at a wall: sensors too, as far as the first row goes."""
    edges = grid.edges[0]
    places = dict(zip(grid.sides, (float(edges[0]), float(edges[-1]))))
    return {
        side["value"]: places[name]
        for name, side in sides.items()
        if name in places and side["kind"] == "dirichlet" and side.get("value") in data.columns
    }


def _profile(table: Mapping[str, Any], grid: Grid, folder: Path, data: Data | None) -> np.ndarray:
    from jaxdiff import tables

    if "position" not in table:
        raise ValueError("[initial] column needs position = the name of the column of positions")
    if "table" in table:
        frame = tables.read(folder / table["table"])
    elif data is not None:
        frame = data.frame
    else:
        raise ValueError("[initial] column needs table = the path of a CSV file, or [data]")
    x = tables.column(frame, table["position"], missing=False)
    values = tables.column(frame, table["column"])
    good = np.isfinite(values)
    order = np.argsort(x[good])
    return np.interp(grid.centers[0], x[good][order], values[good][order])


def _times(setting: Any, start: float) -> np.ndarray | None:
    if setting is None:
        return None
    if isinstance(setting, Mapping):
        check_keys(setting, "[solve] times", ("start", "stop", "count"))
        if "stop" not in setting:
            raise ValueError("[solve] times needs a stop, as in { stop = 10.0, count = 51 }")
        first, last = (number(setting.get(k, start), f"[solve] times {k}") for k in ("start", "stop"))
        return np.linspace(first, last, number(setting.get("count", 51), "[solve] times count", whole=True))
    values = setting if isinstance(setting, list) else [setting]
    return np.asarray([number(value, "[solve] times") for value in values])


def _method(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if "scheme" in table:
        setting = table["scheme"] if isinstance(table["scheme"], Mapping) else {"name": table["scheme"]}
        check_keys(setting, f"{where} scheme", ("name", "order"))
        choose(setting.get("name"), f"{where} scheme", ("finite_volume",))
        options["scheme"] = schemes.FiniteVolume(order=number(setting.get("order", 2), f"{where} order", whole=True))
    if "stepper" in table:
        options["stepper"] = getattr(
            steppers, STEPPERS[choose(table["stepper"], f"{where} stepper", tuple(STEPPERS))]
        )()
    if "substeps" in table:
        options["substeps"] = number(table["substeps"], f"{where} substeps", whole=True)
    if "tolerance" in table:
        options["tolerance"] = number(table["tolerance"], f"{where} tolerance")
    return options


def _fit_options(table: Mapping[str, Any]) -> dict[str, Any]:
    options = _method(table, "[fit]")
    if "loss" in table:
        options["loss"] = getattr(losses, choose(table["loss"], "[fit] loss", LOSSES))
    if "optimizer" in table:
        options["optimizer"] = _optimizer(table["optimizer"])
    for key in ("steps", "batch_size"):
        if key in table:
            options[key] = number(table[key], f"[fit] {key}", whole=True)
    if "validation" in table:
        options["validation"] = number(table["validation"], "[fit] validation")
    if "seed" in table:
        import jax

        options["key"] = jax.random.key(number(table["seed"], "[fit] seed", whole=True))
    return options


def _optimizer(setting: Any) -> Any:
    settings = dict(setting) if isinstance(setting, Mapping) else {"name": setting}
    name = choose(settings.pop("name", None), "[fit] optimizer", OPTIMIZERS)
    if name == "levenberg_marquardt":
        make: Any = LevenbergMarquardt
    else:
        import optax

        make = getattr(optax, name)
    signature = inspect.signature(make).parameters
    check_keys(settings, f"[fit] optimizer {name}", tuple(signature))
    if "learning_rate" not in settings and "learning_rate" in signature and name != "lbfgs":
        raise ValueError(
            f"[fit] optimizer {name} needs a learning rate, as in {{ name = '{name}', learning_rate = 0.01 }}"
        )
    return make(**settings)
