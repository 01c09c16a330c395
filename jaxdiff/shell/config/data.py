"""The [data] of a configuration file: which table, how it is laid out, and the measurement it holds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.measurements import tables
from jaxdiff.measurements.histograms import Histograms
from jaxdiff.measurements.readings import Readings
from jaxdiff.measurements.trajectory import Trajectory
from jaxdiff.model.expression import names
from jaxdiff.model.grid import Grid
from jaxdiff.model.series import INTERPOLATIONS
from jaxdiff.quantities import checked_unit, times_as_numbers
from jaxdiff.shell.config.keys import check_keys, choose, edges, listed, number, per_axis, text, text_or_number

if TYPE_CHECKING:
    import pandas as pd

SOURCE = (
    "kind",
    "table",
    "dataset",
    "names",
    "skip",
    "rows",
    "every",
    "separator",
    "decimal",
    "comment",
    "scale",
    "time",
    "time_unit",
    "interpolation",
)
KINDS = {
    "readings": ("position", "value", "sigma", "sensors"),
    "trajectory": ("interval", "value", "paths"),
    "histograms": ("position", "value", "counts", "edges", "total"),
}


@dataclass(frozen=True)
class Data:
    frame: pd.DataFrame
    settings: dict[str, Any]
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return self.settings.get("kind", "readings")

    @property
    def scale(self) -> dict[str, float]:
        return self.settings.get("scale", {})

    def interpolation(self, column: str) -> str:
        """What a column is between its rows, where it is a course in time."""
        given = self.settings.get("interpolation", "linear")
        return given if isinstance(given, str) else given.get(column, "linear")

    @property
    def has_readings(self) -> bool:
        """False where the table only drives a boundary or a source, as it may in a solve."""
        return self.kind != "readings" or "sensors" in self.settings or "value" in self.settings

    def readings(self) -> tables.Arrays:
        s = self.settings
        if "time" not in s:
            raise ValueError("[data] has no time; name the column, or give one number (inf is the steady state)")
        if "sensors" in s:
            both = [key for key in ("position", "value") if key in s]
            if both:
                raise ValueError(f"[data] has sensors (a column each) and {both[0]} (a reading a row); leave one out")
            return tables.wide(
                self.frame, time=s["time"], positions=s["sensors"], sigma=s.get("sigma"), scale=self.scale
            )
        for key in ("position", "value"):
            if key not in s:
                raise ValueError(f"[data] has no {key}; name the column, or list sensors = {{ column = position }}")
        return tables.long(
            self.frame,
            time=s["time"],
            position=s["position"],
            value=s["value"],
            sigma=s.get("sigma"),
            scale=self.scale,
        )

    def histograms(self, grid: Grid) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...] | None]:
        """(times, counts of shape (times, *bins), edges along every axis or None)."""
        s = self.settings
        if "time" not in s:
            raise ValueError("[data] has no time; name the column, or give one number (inf is the steady state)")
        edges = tuple(map(np.asarray, s["edges"])) if "edges" in s else None
        pick = lambda name: tables.column(self.frame, name, missing=False, scale=self.scale.get(name, 1.0))
        times = pick(s["time"]) if isinstance(s["time"], str) else np.full(len(self.frame), float(s["time"]))
        if "value" in s:
            if "position" not in s:
                raise ValueError("[data] has no position; name the column with the middle of each bin")
            if edges is not None and len(edges) != grid.ndim:
                raise ValueError(f"[data] edges must be {grid.ndim} lists, one per axis, got {len(edges)}")
            instants, row = np.unique(times, return_inverse=True)
            places = [
                _bins(pick(name), ends, axis, edges is not None)
                for axis, name, ends in zip(grid.names, s["position"], edges or grid.edges, strict=True)
            ]
            counts = np.zeros((len(instants), *(len(ends) - 1 for ends in edges or grid.edges)))
            np.add.at(counts, (row, *places), pick(s["value"]))
            return instants, counts, edges
        if grid.ndim > 1:
            raise ValueError(
                f"[data] histograms on {grid.ndim} axes are a row per bin: name position, a column per axis, and value"
            )
        columns = s.get("counts") or [name for name in self.frame.columns if name != s["time"]]
        return times, np.stack([pick(name) for name in columns], axis=1), edges

    def trajectory(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        s = self.settings
        if "value" not in s:
            raise ValueError("[data] has no value; name the column of positions")
        if ("time" in s) == ("interval" in s):
            raise ValueError(
                "[data] of a trajectory needs time = a column or interval = the constant step; give one of them"
            )
        values = tables.column(self.frame, s["value"], scale=self.scale.get(s["value"], 1.0))
        if "time" in s:
            times = tables.column(self.frame, s["time"], missing=False, scale=self.scale.get(s["time"], 1.0))
        else:
            times = float(s["interval"]) * np.arange(len(values))
        parts = tables.groups(self.frame, s.get("paths"))
        return [times[part] for part in parts], [values[part] for part in parts]

    def measurement(self, grid: Grid, initial: Any, start: float, after: bool, noise: Any = None) -> Any:
        """What was measured; only what came after the start, where the first row is the initial state."""
        with tables.named(self.frame):
            return self._measurement(grid, initial, start, after, noise)

    def _measurement(self, grid: Grid, initial: Any, start: float, after: bool, noise: Any) -> Any:
        if self.kind == "trajectory":
            paths = self.trajectory()
            return Trajectory(grid, *paths) if len(paths[0]) > 1 else Trajectory(grid, paths[0][0], paths[1][0])
        if self.kind == "histograms":
            times, counts, edges = self.histograms(grid)
            kept = (times > start) | (not after)
            total = self.settings.get("total")
            return Histograms(grid, _state(initial, times), times[kept], counts[kept], edges, total, start)
        times, positions, values, sigma = self.readings()
        kept = (times > start) | (not after)
        sigma = None if sigma is None else sigma[kept]
        rows = (times[kept], positions[kept], values[kept], sigma)
        return Readings(grid, _state(initial, times), *rows, start, initial_sigma=noise)

    def times(self, start: float) -> np.ndarray | None:
        """Instants of the table, for a solve."""
        if self.kind == "trajectory" or not isinstance(self.settings.get("time"), str):
            return (
                None
                if self.kind == "trajectory" or "time" not in self.settings
                else np.asarray([float(self.settings["time"])])
            )
        times = tables.column(
            self.frame, self.settings["time"], missing=False, scale=self.scale.get(self.settings["time"], 1.0)
        )
        times = np.unique(times)
        return np.concatenate([[start], times[times > start]])


def read_data(
    settings: dict[str, Any],
    folder: Path,
    table: str | os.PathLike[str] | None,
    texts: Sequence[str],
    reserved: set[str],
    axes: Sequence[str],
) -> Data:
    """Read the table of [data], and as courses in time those of its columns that `texts` name.

    `reserved` are the names that are no columns in a text; `axes` are those of the grid.
    """
    kind = choose(settings.get("kind", "readings"), "[data] kind", tuple(KINDS))
    check_keys(settings, f"[data] of kind {kind}", (*SOURCE, *KINDS[kind]))
    if kind == "trajectory" and len(axes) > 1:
        raise ValueError(f"[data] of kind trajectory holds on a grid of one axis, got {len(axes)}")
    settings = _checked({**settings, "kind": kind}, axes)
    frame = _frame(settings, folder, table)
    frame = _on_clock(frame.iloc[:: int(settings.get("every", 1))], settings)
    kinds = settings.get("interpolation", {})
    for name in (*settings.get("scale", {}), *(kinds if isinstance(kinds, dict) else ())):
        tables.column(frame, name)
    data = Data(frame, settings)
    used = dict.fromkeys(name for text in texts for name in _names(text))
    courses = [name for name in used if name in frame.columns and name not in reserved]
    if not courses:
        return data
    if not isinstance(settings.get("time"), str):
        raise ValueError(
            f"the column {courses[0]!r} is used as a course in time; name the column of time in [data] time"
        )
    times = tables.column(frame, settings["time"], missing=False, scale=data.scale.get(settings["time"], 1.0))
    instants, first = np.unique(times, return_index=True)
    columns = {"t": instants}
    for name in courses:
        stated = isinstance(kinds, str) or name in kinds  # what it is between its rows
        missing = stated or f'fill it in, or say how it goes on there, [data] interpolation = {{ {name} = "linear" }}'
        values = tables.column(frame, name, missing=missing, scale=data.scale.get(name, 1.0))[first]
        good = np.isfinite(values)
        if data.interpolation(name) == "linear":
            columns[name] = np.interp(instants, instants[good], values[good])
        else:
            last = np.searchsorted(instants[good], instants, side="right") - 1
            columns[name] = values[good][np.maximum(last, 0)]
    return Data(frame, settings, columns)


def _on_clock(frame: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
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


def _checked(settings: dict[str, Any], axes: Sequence[str]) -> dict[str, Any]:
    """The settings; positions and edges, of which every axis has its own, as lists."""
    for key, value in settings.items():
        where = f"[data] {key}"
        if key in ("skip", "every"):
            number(value, where, whole=True)
            if value < (key == "every"):
                raise ValueError(f"{where} must be {'1 or more' if key == 'every' else '0 or more'}, got {value}")
        elif key in ("interval", "total"):
            number(value, where)
        elif key in ("names", "counts"):
            listed(value, where, text)
        elif key == "rows":
            listed(value, where, number, 2, whole=True)
        elif key == "edges":
            settings[key] = edges(value, where)
        elif key == "position":
            settings[key] = per_axis(value, where, axes, text_or_number)
        elif key in ("scale", "sensors") or (key == "sigma" and isinstance(value, Mapping)):
            if not isinstance(value, Mapping):
                raise ValueError(f"{where} must be a table such as {{ column = 0.1 }}, got {value!r}")
            if key == "sensors":
                settings[key] = {
                    name: per_axis(place, f"{where} {name}", axes, number) for name, place in value.items()
                }
            else:
                for name, entry in value.items():
                    (text_or_number if key == "sigma" else number)(entry, f"{where} {name}")
        elif key == "time_unit":
            checked_unit(value)
        elif key == "interpolation":
            settings[key] = (
                {name: choose(kind, f"{where} {name}", INTERPOLATIONS) for name, kind in value.items()}
                if isinstance(value, Mapping)
                else choose(value, where, INTERPOLATIONS)
            )
        elif key in ("time", "sigma"):
            text_or_number(value, where, finite=key != "time")
        else:
            text(value, where)
    return settings


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
    rows = settings.get("rows")
    if table is None and "dataset" in settings:
        from jaxdiff import datasets

        return tables.read(datasets.load(settings["dataset"]), rows=rows)
    if table is None and "table" not in settings:
        raise ValueError("[data] names no table; add table = 'readings.csv' or pass --data TABLE")
    path = Path(table) if table is not None else folder / os.path.expanduser(settings["table"])
    return tables.read(
        path,
        names=settings.get("names"),
        skip=settings.get("skip", 0),
        rows=rows,
        separator=settings.get("separator"),
        comment=settings.get("comment", "#"),
        decimal=settings.get("decimal", "."),
    )


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
