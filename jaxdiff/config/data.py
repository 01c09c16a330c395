"""The [data] of a configuration file: which table, how it is laid out, and the measurement it holds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff import tables
from jaxdiff.config.keys import check_keys, choose, listed, number, text
from jaxdiff.expression import names
from jaxdiff.grid import Grid
from jaxdiff.histograms import Histograms
from jaxdiff.measurements import Readings
from jaxdiff.paths import Trajectory

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

    def histograms(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """(times, counts of shape (times, bins), edges or None)."""
        s = self.settings
        if "time" not in s:
            raise ValueError("[data] has no time; name the column, or give one number (inf is the steady state)")
        edges = None if "edges" not in s else np.asarray(s["edges"], float)
        pick = lambda name, missing=False: tables.column(
            self.frame, name, missing=missing, scale=self.scale.get(name, 1.0)
        )
        times = pick(s["time"]) if isinstance(s["time"], str) else np.full(len(self.frame), float(s["time"]))
        if "value" in s:
            if "position" not in s:
                raise ValueError("[data] has no position; name the column with the middle of each bin")
            instants, row = np.unique(times, return_inverse=True)
            middles, place = np.unique(pick(s["position"]), return_inverse=True)
            counts = np.zeros((len(instants), len(middles)))
            np.add.at(counts, (row, place), pick(s["value"]))
            return instants, counts, edges
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
        groups = np.zeros(len(values), int)
        if "paths" in s:
            groups = np.unique(tables.column(self.frame, s["paths"], missing=False), return_inverse=True)[1]
        if "time" in s:
            times = tables.column(self.frame, s["time"], missing=False, scale=self.scale.get(s["time"], 1.0))
        else:
            times = float(s["interval"]) * np.arange(len(values))
        good = np.isfinite(values)
        parts = [good & (groups == group) for group in range(groups.max() + 1)]
        return [times[part] for part in parts], [values[part] for part in parts]

    def measurement(self, grid: Grid, initial: Any, start: float) -> Any:
        """What was measured; where its first row is the initial state, the rest."""
        if self.kind == "trajectory":
            paths = self.trajectory()
            return Trajectory(grid, *paths) if len(paths[0]) > 1 else Trajectory(grid, paths[0][0], paths[1][0])
        used = self.settings.get("first_row_used", False)
        if self.kind == "histograms":
            times, counts, edges = self.histograms()
            kept = (times > start) | (not used)
            total = self.settings.get("total")
            return Histograms(grid, _state(initial, times), times[kept], counts[kept], edges, total, start)
        times, positions, values, sigma = self.readings()
        kept = (times > start) | (not used)
        sigma = None if sigma is None else sigma[kept]
        return Readings(grid, _state(initial, times), times[kept], positions[kept], values[kept], sigma, start)

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

    def first_profile(self, grid: Grid, walls: Mapping[str, float]) -> tuple[float, np.ndarray]:
        """(time, state): the first row, linear between the sensors and constant beyond them."""
        x = grid.centers[0]
        if self.kind == "histograms":
            times, counts, edges = self.histograms()
            edges = grid.edges[0] if edges is None else edges
            first = int(np.argmin(times))
            self.settings["first_row_used"] = True
            density = counts[first] / np.diff(edges) / counts[first].sum()
            return float(times[first]), density[np.clip(np.searchsorted(edges, x) - 1, 0, len(density) - 1)]
        if self.kind != "readings":
            raise ValueError('[initial] profile = "first row" needs readings or histograms')
        times, positions, values, _ = self.readings()
        first = np.min(times)
        here = (times == first) & np.isfinite(values)
        places, heights = list(positions[here]), list(values[here])
        for name, place in walls.items():
            places.append(place)
            heights.append(np.interp(first, self.columns["t"], self.columns[name]))
        if not places or not np.isfinite(first):
            raise ValueError('[initial] profile = "first row": the first row holds no reading at a finite time')
        self.settings["first_row_used"] = True
        order = np.argsort(places)
        return float(first), np.interp(x, np.asarray(places)[order], np.asarray(heights)[order])


def read_data(
    settings: dict[str, Any],
    folder: Path,
    table: str | os.PathLike[str] | None,
    texts: Sequence[str],
    reserved: set[str],
) -> Data:
    """Read the table of [data], and as courses in time those of its columns that `texts` name."""
    kind = choose(settings.get("kind", "readings"), "[data] kind", tuple(KINDS))
    check_keys(settings, f"[data] of kind {kind}", (*SOURCE, *KINDS[kind]))
    settings = {**settings, "kind": kind}
    _check_values(settings)
    frame = _frame(settings, folder, table)
    for name in settings.get("scale", {}):
        tables.column(frame, name)
    frame = frame.iloc[:: int(settings.get("every", 1))]
    data = Data(frame, settings)
    used = dict.fromkeys(name for text in texts for name in _names(text))
    courses = [name for name in used if name in frame.columns and name not in reserved and name not in ("t", "x", "r")]
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
        values = tables.column(frame, name, scale=data.scale.get(name, 1.0))[first]
        good = np.isfinite(values)
        columns[name] = np.interp(instants, instants[good], values[good])
    return Data(frame, settings, columns)


def _check_values(settings: Mapping[str, Any]) -> None:
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
            listed(value, where, number)
        elif key in ("scale", "sensors") or (key == "sigma" and isinstance(value, Mapping)):
            if not isinstance(value, Mapping):
                raise ValueError(f"{where} must be a table such as {{ column = 0.1 }}, got {value!r}")
            for name, entry in value.items():
                if not (key == "sigma" and isinstance(entry, str)):
                    number(entry, f"{where} {name}")
        elif not isinstance(value, str) and key in ("time", "position", "sigma"):
            number(value, where)
        else:
            text(value, where)


def _frame(settings: Mapping[str, Any], folder: Path, table: str | os.PathLike[str] | None) -> pd.DataFrame:
    rows = settings.get("rows")
    if table is None and "dataset" in settings:
        from jaxdiff import datasets

        return tables.read(datasets.load(settings["dataset"]), rows=rows)
    if table is None and "table" not in settings:
        raise ValueError("[data] names no table; add table = 'readings.csv' or pass --data TABLE")
    path = Path(table) if table is not None else folder / Path(settings["table"]).expanduser()
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
