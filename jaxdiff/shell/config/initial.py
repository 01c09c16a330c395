"""The [initial] state of a configuration file, where it is no text: a point, a profile of a table, the first row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.measurements import tables
from jaxdiff.measurements.histograms import Histograms
from jaxdiff.measurements.states_at_times import StartNoise
from jaxdiff.model.grid import Grid
from jaxdiff.shell.config import schrodinger
from jaxdiff.shell.config.data import Data
from jaxdiff.shell.config.keys import check_keys, choose, number, per_axis, text, text_or_number

KEYS = ("value", "profile", "delta", "table", "position", "column", "start")
TEXTS = ("value", "expression", "phase")
FEW = 256  # sensors of a first row; more are an image, whose noise is that of its cells


def read_initial(table: Any, grid: Grid, wave: bool = False) -> dict[str, Any]:
    if table is None:
        return {}
    if wave:
        return schrodinger.read_start(table)
    if not isinstance(table, Mapping):
        table = {"profile": table} if table == "first row" else {"value": table}
    check_keys(table, "[initial]", KEYS)
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
    for key in ("table", "column"):
        if key in table:
            text(table[key], f"[initial] {key}")
    for key, check in (("position", text), ("delta", text_or_number if grid.discrete else number)):
        if key in table:
            table[key] = per_axis(table[key], f"[initial] {key}", grid.names, check)
    return table


def texts_of(table: Mapping[str, Any]) -> dict[str, str]:
    """What of it is arithmetic."""
    return {key: table[key] for key in TEXTS if key in table}


def state_of(
    table: Mapping[str, Any], grid: Grid, sides: Mapping[str, Mapping[str, Any]], folder: Path, data: Data | None
) -> tuple[float, np.ndarray | None]:
    """(time, cell averages), None where a text gives them or nothing does."""
    start = float(table.get("start", 0.0))
    if "delta" in table:
        return start, np.asarray(grid.delta(table["delta"]))
    if "column" in table:
        return start, _profile(table, grid, folder, data)
    if "profile" not in table:
        return start, None
    if data is None:
        raise ValueError('[initial] profile = "first row" needs [data]')
    if data.kind == "histograms":
        return _first_histogram(grid, data)
    if data.kind != "readings":
        raise ValueError('[initial] profile = "first row" needs readings or histograms')
    first, places, values, _ = _first_row(grid, sides, data)
    return first, _on_cells(grid, places, values, '[initial] profile = "first row"')


def _profile(table: Mapping[str, Any], grid: Grid, folder: Path, data: Data | None) -> np.ndarray:
    if "position" not in table:
        raise ValueError("[initial] column needs position = the name of the column of positions")
    if "table" in table:
        frame = tables.read(folder / table["table"])
    elif data is not None:
        frame = data.frame
    else:
        raise ValueError("[initial] column needs table = the path of a CSV file, or [data]")
    places = np.stack([tables.column(frame, name, missing=False) for name in table["position"]], axis=1)
    return _on_cells(grid, places, tables.column(frame, table["column"]), "[initial] column")


def noise_of(
    table: Mapping[str, Any], grid: Grid, sides: Mapping[str, Mapping[str, Any]], data: Data | None
) -> StartNoise | None:
    """What the noise of each sensor in the first row does to the cells, where the start is the profile of few of them."""
    if "profile" not in table or data is None or data.kind != "readings":
        return None
    _, places, values, sigma = _first_row(grid, sides, data)
    if len(values) > FEW:
        return None
    return StartNoise(np.stack([_on_cells(grid, places, row, "") for row in np.diag(sigma)]))


def _first_row(
    grid: Grid, sides: Mapping[str, Mapping[str, Any]], data: Data
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """(time, places, values, their sigma or 1) of the sensors at the first instant and, on one axis, of columns that are the
    value at a wall: sensors too, here."""
    times, positions, values, deviations = data.readings()
    first = np.min(times)
    here = (times == first) & np.isfinite(values)
    places, values = positions[here].reshape(-1, grid.ndim), values[here]
    sigma = np.ones(len(values)) if deviations is None else np.asarray(deviations)[here]
    for name, place in zip(grid.sides, grid.edges[0][[0, -1]]) if grid.ndim == 1 else ():
        side = sides.get(name, sides.get(name[0], sides.get("all", {})))
        if side.get("kind") == "dirichlet" and side.get("value") in data.columns:
            places = np.append(places, [[place]], axis=0)
            values = np.append(values, np.interp(first, data.columns["t"], data.columns[side["value"]]))
            sigma = np.append(sigma, np.median(sigma) if len(sigma) else 1.0)
    if not len(places) or not np.isfinite(first):
        raise ValueError('[initial] profile = "first row": the first row holds no reading at a finite time')
    return float(first), places, values, sigma


def _first_histogram(grid: Grid, data: Data) -> tuple[float, np.ndarray]:
    """The density of the first histogram, the same over each bin; beyond the bins that of the last one."""
    times, counts, edges = data.histograms(grid)
    first = int(np.argmin(times))
    bins = Grid(grid.edges if edges is None else edges, grid.geometry)
    mass = Histograms(grid, None, [times[first]], counts[first][None], edges, start=times[first]).mass
    density = mass.reshape(bins.shape) / bins.volumes / mass.sum()
    within = [np.clip(np.searchsorted(e, x) - 1, 0, len(e) - 2) for e, x in zip(bins.edges, grid.centers, strict=True)]
    return float(times[first]), density[np.ix_(*within)]


def _on_cells(grid: Grid, places: np.ndarray, values: np.ndarray, what: str) -> np.ndarray:
    """Values `(m,)` at `places` (m, ndim), the points of a lattice, taken to the cells: linear along every axis between
    the places, constant beyond them; several values at one place are averaged."""
    good = np.isfinite(values)
    places, values = places[good], values[good]
    axes, index = zip(*(np.unique(column, return_inverse=True) for column in places.T), strict=True)
    counts = np.zeros([len(axis) for axis in axes])
    found = np.zeros_like(counts)
    np.add.at(counts, index, 1.0)
    np.add.at(found, index, values)
    if (counts == 0).any():
        shape = " × ".join(map(str, counts.shape))
        raise ValueError(
            f"{what}: the rows must fill a lattice of positions, got {len(values)} values for {shape} places; give a value at each, or a text"
        )
    found = found / counts
    for k, (axis, x) in enumerate(zip(axes, grid.centers, strict=True)):
        found = np.apply_along_axis(lambda line, x, axis: np.interp(x, axis, line), k, found, x, axis)
    return found
