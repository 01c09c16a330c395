"""The [data] of a configuration file: which table, how it is laid out, and the measurement it holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.measurements import tables
from jaxdiff.measurements.histograms import Histograms
from jaxdiff.measurements.readings import Readings
from jaxdiff.measurements.samples import Samples
from jaxdiff.model.exchange import checked_phase
from jaxdiff.model.expression import names
from jaxdiff.model.grid import Grid
from jaxdiff.model.series import INTERPOLATIONS
from jaxdiff.parameters import Bounded
from jaxdiff.quantities import checked_unit, times_as_numbers
from jaxdiff.shell.config import passages, tracks
from jaxdiff.shell.config.keys import (
    check_keys,
    checked_names,
    choose,
    edges,
    listed,
    mapping,
    number,
    per_axis,
    text,
    text_or_number,
)
from jaxdiff.shell.config.observe import read_probe

if TYPE_CHECKING:
    import pandas as pd

COMMON = """kind table dataset names skip rows every separator decimal comment scale time time_unit interpolation experiment
conditions""".split()
KINDS = {
    "readings": ("position", "probe", "value", "sigma", "sensors", "phase"),
    "trajectory": tracks.KEYS,
    "histograms": ("position", "value", "counts", "edges", "total", "phase"),
    "samples": ("position", "background", "phase"),
    "passage_times": passages.KEYS,
}
TIME = "name the column, or give one number (inf is the steady state)"


@dataclass(frozen=True)
class Data:
    """A table, what [data] says of it, and those of its columns that a text names, as functions of time."""

    frame: pd.DataFrame
    settings: dict[str, Any]
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    conditions: dict[str, float] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return self.settings["kind"]

    @property
    def scale(self) -> dict[str, float]:
        return self.settings.get("scale", {})

    def column(self, name: str, missing: bool | str = False) -> np.ndarray:
        """A column in the unit of the model."""
        return tables.column(self.frame, name, missing=missing, scale=self.scale.get(name, 1.0))

    def required(self, key: str, advice: str) -> Any:
        """A setting that must be there."""
        if key not in self.settings:
            raise ValueError(f"[data] has no {key}; {advice}")
        return self.settings[key]

    def interpolation(self, column: str) -> str:
        """What a column is between its rows, where it is a function of time."""
        given = self.settings.get("interpolation", "linear")
        return given if isinstance(given, str) else given.get(column, "linear")

    @property
    def has_readings(self) -> bool:
        """False where the table only drives a boundary or a source, as it may in a solve."""
        return self.kind != "readings" or "sensors" in self.settings or "value" in self.settings

    def readings(self) -> tables.Arrays:
        s = self.settings
        options = {"time": self.required("time", TIME), "sigma": s.get("sigma"), "scale": self.scale}
        if "sensors" not in s:
            advice = "name the column, or list sensors = { column = position }"
            if "probe" in s and "position" in s:
                raise ValueError("[data] has a probe, which reads of all positions, and a position; leave one out")
            position = 0.0 if "probe" in s else self.required("position", advice)
            value = self.required("value", advice)
            return tables.long(self.frame, position=position, value=value, **options)
        both = [key for key in ("position", "probe", "value") if key in s]
        if both:
            raise ValueError(f"[data] has sensors (a column each) and {both[0]} (a reading a row); leave one out")
        return tables.wide(self.frame, positions=s["sensors"], **options)

    def histograms(self, grid: Grid) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...] | None]:
        """(times, counts of shape (times, *bins), edges along every axis or None)."""
        s, time = self.settings, self.required("time", TIME)
        edges = tuple(map(np.asarray, s["edges"])) if "edges" in s else None
        times = self.column(time) if isinstance(time, str) else np.full(len(self.frame), float(time))
        if "value" in s:
            position = self.required("position", "name the column with the middle of each bin")
            if edges is not None and len(edges) != grid.ndim:
                raise ValueError(f"[data] edges must be {grid.ndim} lists, one per axis, got {len(edges)}")
            instants, row = np.unique(times, return_inverse=True)
            places = [
                _bins(self.column(name), ends, axis, edges is not None)
                for axis, name, ends in zip(grid.names, position, edges or grid.edges, strict=True)
            ]
            counts = np.zeros((len(instants), *(len(ends) - 1 for ends in edges or grid.edges)))
            np.add.at(counts, (row, *places), self.column(s["value"]))
            return instants, counts, edges
        if grid.ndim > 1:
            raise ValueError(
                f"[data] histograms on {grid.ndim} axes are a row per bin: name position, a column per axis, and value"
            )
        others = {time, s.get("experiment"), *s.get("conditions", {}).values()}
        columns = s.get("counts") or [name for name in self.frame.columns if name not in others]
        return times, np.stack([self.column(name) for name in columns], axis=1), edges

    def samples(self) -> tuple[np.ndarray, np.ndarray]:
        """(times (m,), positions (m, ndim)) of individuals, one a row."""
        time = self.required("time", TIME)
        times = self.column(time) if isinstance(time, str) else np.full(len(self.frame), float(time))
        names = self.required("position", "name the column of positions, on several axes one for each")
        return times, np.stack([self.column(name, missing=True) for name in names], axis=1)

    def measurement(
        self, grid: Grid, initial: Any, start: float, after: bool, noise: Any = None, conditions: Any = None
    ) -> Any:
        """What was measured; only what came after the start, where the first row is the initial state."""
        if "probe" in self.settings:
            self.settings["probe"].check(grid)
        with tables.named(self.frame):
            if self.kind == "passage_times":
                if initial is not None:
                    raise ValueError("passages start from [data] origin; leave [initial] out")
                return passages.measurement(self, grid, conditions)
            if self.kind == "trajectory":
                return tracks.measurement(self, grid, conditions)
            of_experiment = {"conditions": conditions, "phase": self.settings.get("phase", "total")}
            if self.kind == "histograms":
                times, counts, edges = self.histograms(grid)
                used = (times > start) | (not after)
                bins = times[used], counts[used], edges, self.settings.get("total"), start
                return Histograms(grid, _state(initial, times), *bins, **of_experiment)
            if self.kind == "samples":
                times, places = self.samples()
                used = (times > start) | (not after)
                cloud = times[used], places[used], start, self.settings.get("background", 0.0)
                return Samples(grid, _state(initial, times), *cloud, **of_experiment)
            times, positions, values, sigma = self.readings()
            used = (times > start) | (not after)
            places = self.settings.get("probe", positions[used])
            rows = times[used], places, values[used], None if sigma is None else sigma[used]
            return Readings(grid, _state(initial, times), *rows, start, initial_sigma=noise, **of_experiment)

    def times(self, start: float) -> np.ndarray | None:
        """Instants of the table, for a solve."""
        time = self.settings.get("time")
        if self.kind in ("trajectory", "passage_times") or time is None:
            return None
        if not isinstance(time, str):
            return np.asarray([float(time)])
        times = np.unique(self.column(time))
        return np.concatenate([[start], times[times > start]])

    def driving(self, texts: Sequence[str], reserved: set[str]) -> Data:
        """The same with those of its columns that `texts` name, as functions of time; `reserved` names are no columns there."""
        frame, settings = self.frame, self.settings
        kinds = settings.get("interpolation", {})
        used = dict.fromkeys(name for text in texts for name in _names(text))
        series = [name for name in used if name in frame.columns and name not in reserved]
        if not series:
            return self
        if not isinstance(settings.get("time"), str):
            raise ValueError(
                f"the column {series[0]!r} is used as a course in time; name the column of time in [data] time"
            )
        instants, first = np.unique(self.column(settings["time"]), return_index=True)
        columns = {"t": instants}
        for name in series:
            stated = isinstance(kinds, str) or name in kinds  # what it is between its rows
            missing = (
                stated or f'fill it in, or say how it goes on there, [data] interpolation = {{ {name} = "linear" }}'
            )
            values = self.column(name, missing)[first]
            good = np.isfinite(values)
            if self.interpolation(name) == "linear":
                columns[name] = np.interp(instants, instants[good], values[good])
            else:
                last = np.searchsorted(instants[good], instants, side="right") - 1
                columns[name] = values[good][np.maximum(last, 0)]
        return replace(self, columns=columns)


def read_data(
    settings: dict[str, Any],
    folder: Path,
    table: str | os.PathLike[str] | None,
    axes: Sequence[str],
    more: Sequence[str] = (),
) -> list[tuple[str, Data]]:
    """The table of [data], and where a column tells experiments apart that of each, by its name.

    axes: of the grid; more: keys that are known beside those of [data], for the message
    """
    kind = choose(settings.get("kind", "readings"), "[data] kind", tuple(KINDS))
    check_keys(settings, f"[data] of kind {kind}", (*COMMON, *KINDS[kind], *more))
    if kind == "passage_times" and len(axes) > 1:
        raise ValueError(f"[data] of kind {kind} holds on a grid of one axis, got {len(axes)}")
    settings = _checked({**settings, "kind": kind}, axes)
    frame = _frame(settings, folder, table)
    kinds = settings.get("interpolation", {})
    for name in (*settings.get("scale", {}), *(kinds if isinstance(kinds, dict) else ())):
        if name != settings.get("time"):  # which may hold dates
            tables.column(frame, name)
    found = []
    for rows in tables.groups(frame, column := settings.get("experiment")):
        each = 1 if kind == "trajectory" else settings.get("every", 1)  # of a trajectory, frames of each track
        part = _with_numeric_times(frame[rows].iloc[::each], settings)
        label = "" if column is None else part[column].iloc[0]
        name = f"{label:g}" if isinstance(label, float) else str(label)
        found.append((name, _under_conditions(Data(part, settings), name)))
    return found


def _under_conditions(data: Data, experiment: str) -> Data:
    """With what is known of the experiment: numbers, and columns that are one number in it."""
    known = {}
    for name, given in data.settings.get("conditions", {}).items():
        if isinstance(given, str):
            values = data.column(given)
            if (values != values[0]).any():
                with tables.named(data.frame):
                    of = f"experiment {experiment!r}" if experiment else "one experiment"
                    both = f"{values[0]:g} and {values[values != values[0]][0]:g}"
                    advice = (
                        "a condition is one number in each"
                        if experiment
                        else "name the column that tells experiments apart, [data] experiment"
                    )
                    raise ValueError(f"the column {given!r} varies within {of}, {both}; {advice}")
            given = float(values[0])
        known[name] = given
    return replace(data, conditions=known)


def _with_numeric_times(frame: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """The table with its dates or durations as numbers, in the unit that is stated: dates from the earliest of them."""
    name, unit = settings.get("time"), settings.get("time_unit")
    if not isinstance(name, str):
        return frame
    times = tables.moments(frame, name, unit)
    if times.dtype.kind == "f":
        return frame
    if name in settings.get("scale", {}):
        raise ValueError(f"[data] has a time_unit and a scale for the dates in {name!r}; leave the scale out")
    return frame.assign(**{name: times_as_numbers(times, 0.0, unit)[0]})


def _checked(settings: Mapping[str, Any], axes: Sequence[str]) -> dict[str, Any]:
    """The settings; positions and edges, of which every axis has its own, as lists."""
    checks: dict[str, Callable[[Any, str], Any]] = {
        "skip": partial(_at_least, 0),
        "every": partial(_at_least, 1),
        "names": partial(listed, check=text),
        "counts": partial(listed, check=text),
        "rows": partial(listed, check=number, count=2, whole=True),
        "edges": edges,
        "position": partial(per_axis, axes=axes, check=text_or_number),
        "probe": read_probe,
        "value": lambda value, where: (partial(listed, check=text) if isinstance(value, list) else text)(value, where),
        "interval": number,
        "total": number,
        "background": _share,
        "noise": tracks.noise,
        "exposure": number,
        "density": partial(choose, allowed=tracks.DENSITIES),
        "time": partial(text_or_number, finite=False),
        "time_unit": _unit,
        "sigma": text_or_number,
        "interpolation": partial(choose, allowed=INTERPOLATIONS),
        "conditions": _conditions,
        "phase": lambda value, where: checked_phase(value),
        **dict.fromkeys(("origin", "nondecision", "lapse", "spread"), text_or_number),
        "window": passages.window,
        "sides": passages.walls,
    }
    of_a_column: dict[str, Callable[[Any, str], Any]] = {
        **checks,
        "scale": number,
        "sensors": partial(per_axis, axes=axes, check=number),
    }

    if settings["kind"] == "trajectory":
        checks["value"] = partial(tracks.columns, axes=axes)

    def checked(key: str, value: Any) -> Any:
        where = f"[data] {key}"
        if key in ("scale", "sensors") or (key in ("sigma", "interpolation") and isinstance(value, Mapping)):
            table = mapping(value, where, "{ column = 0.1 }")
            return {name: of_a_column[key](entry, f"{where} {name}") for name, entry in table.items()}
        return checks.get(key, text)(value, where)

    return {key: checked(key, value) for key, value in settings.items()}


def _conditions(value: Any, where: str) -> dict[str, Any]:
    """{name: number or column}; a list names columns."""
    table = {text(name, where): name for name in value} if isinstance(value, list) else value
    table = mapping(table, where, "{ coherence = 0.5 }, or a list of columns")
    if "experiment" in table:
        raise ValueError(f"{where} 'experiment' is the number of the experiment; choose another name")
    return {name: text_or_number(one, f"{where} {name}") for name, one in checked_names(table, where).items()}


def _share(value: Any, where: str) -> Any:
    """A number, or {start, lower, upper} of one that is fitted."""
    if not isinstance(value, Mapping):
        return number(value, where)
    known = {"lower": 0.0, "upper": 1.0}
    check_keys(value, where, ("start", *known))
    if "start" not in value:
        raise ValueError(f"{where} has no start; write {{ start = 0.02, upper = 0.5 }}")
    given = {**known, **{name: number(one, f"{where} {name}") for name, one in value.items()}}
    return Bounded(given["start"], given["lower"], given["upper"])


def _at_least(least: int, value: Any, where: str) -> int:
    if number(value, where, whole=True) < least:
        raise ValueError(f"{where} must be {least} or more, got {value}")
    return value


def _unit(value: Any, where: str) -> str:
    checked_unit(value)
    return value


def _bins(middles: np.ndarray, ends: np.ndarray, axis: str, own: bool) -> np.ndarray:
    """The bin in which each middle lies, along one axis; `own` edges may belong to bins that no row fills."""
    bins = np.clip(np.searchsorted(ends, middles) - 1, 0, len(ends) - 2)
    filled, first, which = np.unique(bins, return_index=True, return_inverse=True)
    off = np.abs(middles - (ends[bins] + ends[bins + 1]) / 2) / np.diff(ends)[bins]
    beside = np.abs(middles - middles[first][which]) / np.diff(ends)[bins]  # two bins of the table in one
    wrong = (off > 0.45) | (beside > 1e-3)
    name = "[data] edges" if own else "the cells of the grid"
    if wrong.any():
        raise ValueError(
            f"[data] position: {axis} = {middles[np.argmax(wrong)]:g} is not the middle of a bin, as {name} have them; mend scale or edges"
        )
    if not own and len(filled) < len(ends) - 1:
        raise ValueError(
            f"[data] position: along {axis} only {len(filled)} of {len(ends) - 1} cells have a row; give edges, those of the bins"
        )
    return bins


def _frame(settings: Mapping[str, Any], folder: Path, table: str | os.PathLike[str] | None) -> pd.DataFrame:
    if table is None and "dataset" in settings:
        from jaxdiff import datasets

        return tables.read(datasets.load(settings["dataset"]), rows=settings.get("rows"))
    if table is None and "table" not in settings:
        raise ValueError("[data] names no table; add table = 'readings.csv' or pass --data TABLE")
    path = Path(table) if table is not None else folder / os.path.expanduser(settings["table"])
    layout = ("names", "skip", "rows", "separator", "comment", "decimal")
    return tables.read(path, **{key: settings[key] for key in layout if key in settings})


def _names(text: str) -> tuple[str, ...]:
    try:
        return names(text)
    except ValueError:
        return ()  # said with its place when the model is built


def _state(initial: Any, times: np.ndarray) -> Any:
    if initial is not None:
        return initial
    if np.all(np.isinf(times)):
        return None  # the steady state forgets it
    raise ValueError("the file has no [initial] state; add initial = 20.0, an expression of x, or 'first row'")
