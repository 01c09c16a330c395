"""Pictures of states on several axes: maps of two axes, of a box its middle slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdiff.figures.style import time_label

SHOWN = 4  # times drawn


def chosen(times: np.ndarray) -> np.ndarray:
    """Indices of a few times, the first and the last among them."""
    return np.unique(np.linspace(0, len(times) - 1, min(SHOWN, len(times))).astype(int))


def draw_states(
    figure: Any,
    grid: Any,
    edges: Any,
    times: Any,
    rows: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    what: str,
    signed: bool = False,
) -> None:
    """One map per time; `rows` {name: values (times, *cells)} share a colour scale, that of `what`, and are drawn under
    each other; signed: zero is in the middle of the scale."""
    times = np.asarray(times)
    rows = {name: _plane(inside_alone(grid, values)) for name, values in rows.items()}
    low, high = min(float(np.nanmin(v)) for v in rows.values()), max(float(np.nanmax(v)) for v in rows.values())
    if signed:
        high = max(-low, high) or 1.0
        low = -high
    style = {"vmin": low, "vmax": high, "cmap": "RdBu_r" if signed else "cividis"}
    panels = figure.subplots(len(rows), len(times), squeeze=False, sharex=True, sharey=True)
    for line, (name, values) in zip(panels, rows.items(), strict=True):
        for place, t, value in zip(line, times, values, strict=True):
            mesh = _map(place, edges, value, [names[axis] for axis in grid.names], **style)
            at = f"t = {time_label(t)}" if np.isfinite(t) else time_label(t)
            place.set_title(", ".join(filter(None, (name, at))), fontsize=9)
    for place in panels.ravel():
        place.label_outer()
    figure.colorbar(mesh, ax=panels, label=what, shrink=0.8)


def inside_alone(grid: Any, values: Any) -> np.ndarray:
    """Values over cells, (times, *cells), blank outside the mask of their grid."""
    values = np.asarray(values)
    return values if grid.mask is None or values.shape[1:] != grid.shape else np.where(grid.mask, values, np.nan)


def draw_histograms(figure: Any, data: Any, rows: Mapping[str, np.ndarray], names: Mapping[str, str]) -> None:
    """Densities (times, *bins) of a few of the times."""
    some = chosen(data.times)
    few = {name: values[some] for name, values in rows.items()}
    draw_states(figure, data.grid, data.bins, data.times[some], few, names, "density")


def draw_residuals(figure: Any, data: Any, residual: np.ndarray, names: Mapping[str, str], what: str) -> None:
    """Residuals (times, bins) of a histogram, one map per time, zero in the middle of the scale."""
    some = chosen(data.times)
    values = residual.reshape(-1, *(len(edges) - 1 for edges in data.bins))[some]
    draw_states(figure, data.grid, data.bins, data.times[some], {"": values}, names, what, signed=True)


def _plane(values: np.ndarray) -> np.ndarray:
    """(times, x, y); of a box its middle slice."""
    return values if values.ndim == 3 else values[..., values.shape[-1] // 2]


def _map(place: Any, edges: tuple[Any, ...], value: np.ndarray, names: Sequence[str], **style: Any) -> Any:
    x, y = (np.asarray(edge) for edge in edges[:2])
    mesh = place.pcolormesh(x, y, value.T, rasterized=True, **style)
    if 0.2 < np.ptp(x) / np.ptp(y) < 5:
        place.set_aspect("equal")
    place.grid(False)
    place.set(xlabel=names[0], ylabel=names[1])
    return mesh
