"""Profiles of states over position and time; on several axes, maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.figures import heatmaps
from jaxdiff.figures.style import LABELS, MANY, SIZE, canvas, legend, ramp, time_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEW_STATES = 12
Labels = Mapping[str, str] | None


def solution(solution: Any, labels: Labels = None) -> Figure:
    """The profiles of a `Solution`, or its heatmaps."""
    return profiles(solution.grid, solution.times, solution.values, labels)


def profiles(grid: Any, times: Any, values: Any, labels: Labels = None) -> Figure:
    """Profiles over time: lines at some times, and a map where there are many; values has shape (times, *cells), and with phases
    (times, phases, *cells), of which that is drawn which moves."""
    times, names = np.asarray(times), {**LABELS, **(labels or {})}
    if np.iscomplexobj(values):
        values, names = np.abs(values) ** 2, {**LABELS, "value": "|ψ|²", **(labels or {})}
    if np.ndim(values) > grid.ndim + 1:
        values, names["value"] = values[:, 0], f"{names['value']}, of what moves"
    if grid.discrete and grid.ndim > 1:
        with canvas(1.2 + 3.2 * grid.ndim, 3.6) as figure:
            draw_marginals(figure, grid, times, np.asarray(values), names)
            return figure
    if grid.ndim > 1:
        some = heatmaps.chosen(times)
        with canvas(1.2 + 3.2 * len(some), 3.6) as figure:
            heatmaps.draw_states(
                figure, grid, grid.edges, times[some], {"": np.asarray(values)[some]}, names, names["value"]
            )
            return figure
    if grid.discrete and grid.shape[0] <= _FEW_STATES and len(times) > 2:
        with canvas(*SIZE) as figure:
            draw_courses(figure, grid, times, np.asarray(values), names)
            return figure
    with canvas(SIZE[0] if len(times) <= MANY else 10.0, SIZE[1]) as figure:
        x = np.asarray(grid.centers[0])
        if grid.discrete:
            names = {
                **names,
                "x": names.get(grid.names[0], "state"),
                "value": (labels or {}).get("value", "probability"),
            }
        draw_profiles(figure, times, x, heatmaps.inside_alone(grid, values), names)
        return figure


def draw_courses(figure: Any, grid: Any, times: np.ndarray, values: np.ndarray, names: Mapping[str, str]) -> None:
    """The probability of each of few states over time."""
    axes = figure.subplots()
    for color, name, course in zip(ramp(values.shape[1]), grid.labels or range(values.shape[1]), values.T, strict=True):
        axes.plot(times, course, color=color, label=str(name))
    axes.set(xlabel=names["t"], ylabel="probability")
    axes.margins(x=0)
    legend(axes, title="state", outside=True)


def draw_marginals(figure: Any, grid: Any, times: np.ndarray, values: np.ndarray, names: Mapping[str, str]) -> None:
    """The probabilities of the counts of each species by itself, at a few times."""
    chosen = np.unique(np.linspace(0, len(times) - 1, 7).astype(int))
    for k, axes in enumerate(figure.subplots(1, grid.ndim, squeeze=False)[0]):
        others = tuple(1 + j for j in range(grid.ndim) if j != k)
        for color, i in zip(ramp(len(chosen)), chosen, strict=True):
            line = values[i : i + 1].sum(axis=others)[0]
            axes.step(np.arange(len(line)), line, where="mid", color=color, label=time_label(times[i]))
        axes.set(xlabel=names.get(grid.names[k], grid.names[k]), ylabel="probability" if k == 0 else "")
    if len(chosen) > 1:
        legend(axes, title=names["t"], outside=True)


def draw_profiles(figure: Any, times: np.ndarray, x: np.ndarray, values: np.ndarray, names: Mapping[str, str]) -> None:
    many = len(times) > MANY
    axes = figure.subplots(1, 2 if many else 1, squeeze=False)[0]
    chosen = np.unique(np.linspace(0, len(times) - 1, 7).astype(int)) if many else np.arange(len(times))
    for color, i in zip(ramp(len(chosen)), chosen, strict=True):
        axes[0].plot(x, values[i], color=color, label=time_label(times[i]))
    axes[0].set(xlabel=names["x"], ylabel=names["value"])
    axes[0].margins(x=0)
    if len(chosen) > 1:
        legend(axes[0], title=names["t"], outside=True)
    if many:
        mesh = axes[1].pcolormesh(times, x, values.T, cmap="cividis", shading="gouraud", rasterized=True)
        axes[1].set(xlabel=names["t"], ylabel=names["x"])
        axes[1].grid(False)
        figure.colorbar(mesh, ax=axes[1], label=names["value"])
