"""Paths on several axes, or with coefficients of time, beside the model that was fitted to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxdiff.figures.style import COLORS, DATA, MODEL, bins, legend, with_side, zero_line
from jaxdiff.measurements.paths_examination import scores
from jaxdiff.measurements.paths_predictor import depends_on_time, dynamics_of
from jaxdiff.measurements.trajectory_view import of_steps
from jaxdiff.measurements.view import View

if TYPE_CHECKING:
    from jaxdiff.measurements.trajectory import Trajectory

ARROWS = 15  # along each axis
BREAKS = 0.5  # of a period, from which a step is not drawn across the picture


def view(path: Trajectory, fit: Any) -> View:
    """What the page and the pictures of a fit say of paths."""
    return of_steps(path, fit, {"fit": draw, "residuals": draw_residuals, "course": draw_course})


def draw(figure: Any, names: Mapping[str, str], path: Trajectory, equation: Any) -> None:
    """The path in the plane of each two axes with the fitted drift, others at their mean; on one axis both over time."""
    dynamics, _ = dynamics_of(path, equation)
    middle = float(np.median(np.concatenate(path.times)))
    every = np.concatenate([x.reshape(len(x), -1) for x in path.positions])
    axes_names, ndim = path.grid.names, path.grid.ndim
    if ndim == 1:
        upper, lower = figure.subplots(2, 1, sharex=True)
        with jax.enable_x64(True):
            for t, x in zip(path.times, path.positions, strict=True):
                _, drift, twice, _ = dynamics.on_host(t, x.reshape(-1, 1), np.zeros((len(t), 1, 1)))
                upper.plot(t, drift[:, 0], color=MODEL, linewidth=0.8)
                lower.plot(t, twice[:, 0, 0] / 2, color=MODEL, linewidth=0.8)
        upper.set(ylabel="drift", title="Fitted drift and diffusivity along the path")
        lower.set(ylabel="diffusivity", xlabel=names["t"])
        return
    pairs = [(i, j) for i in range(ndim) for j in range(i + 1, ndim)]
    for axes, (i, j) in zip(np.ravel(figure.subplots(1, len(pairs), squeeze=False)), pairs, strict=True):
        for x in path.positions:
            line = x.copy()
            for k in (i, j):
                period = path.grid.edges[k][-1] - path.grid.edges[k][0]
                line[1:][np.abs(np.diff(x[:, k])) > BREAKS * period] = np.nan
            axes.plot(line[:, i], line[:, j], color=DATA, linewidth=0.6, alpha=0.6)
        lines = [np.linspace(every[:, k].min(), every[:, k].max(), ARROWS) for k in (i, j)]
        places = np.tile(every.mean(0), (ARROWS**2, 1))
        places[:, i], places[:, j] = (part.ravel() for part in np.meshgrid(*lines, indexing="ij"))
        with jax.enable_x64(True):
            drift = dynamics.on_host(np.full(len(places), middle), places, np.zeros((len(places), ndim, ndim)))[1]
        label = "fitted drift" + (f" at t = {middle:.3g}" if depends_on_time(equation) else "")
        axes.quiver(
            places[:, i],
            places[:, j],
            drift[:, i],
            drift[:, j],
            color=MODEL,
            angles="xy",
            width=4e-3,
            label=label,
            zorder=4,
        )
        axes.set(
            xlabel=names.get(axes_names[i], axes_names[i]),
            ylabel=names.get(axes_names[j], axes_names[j]),
            title="Path and fitted drift",
        )
        legend(axes)


def draw_residuals(figure: Any, names: Mapping[str, str], path: Trajectory, equation: Any) -> None:
    """Normal scores of the steps over time, of all axes, and how they are distributed."""
    s, rows = scores(path, equation)
    times = np.concatenate([t[1:] for t in path.times])[rows]
    axes, side = with_side(figure)
    for color, name, one in zip(COLORS, path.grid.names, s.T, strict=False):
        axes.plot(
            times, one, "o", color=color, markersize=2.5 if len(s) < 1000 else 1, alpha=0.8, label=names.get(name, name)
        )
    zero_line(axes)
    if s.shape[1] > 1:
        legend(axes)
    axes.set(xlabel=names["t"], ylabel="normal score of the step", title="Residuals of the steps")
    if len(s):
        side.hist(s.ravel(), bins=bins(s.ravel()), density=True, orientation="horizontal", color="#9DB8CC")
        low, high = side.get_ylim()
        z = np.linspace(low, high, 200)
        side.plot(np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), z, color=MODEL, linewidth=1.2)
    side.set_xlabel("density")


def draw_course(figure: Any, names: Mapping[str, str], path: Trajectory, equation: Any) -> None:
    """Each coordinate in time."""
    every = np.ravel(figure.subplots(path.grid.ndim, 1, sharex=True, squeeze=False))
    for k, (axes, name) in enumerate(zip(every, path.grid.names, strict=True)):
        for color, t, x in zip(COLORS, path.times, path.positions, strict=False):
            axes.plot(t, x.reshape(len(x), -1)[:, k], color=color if len(path.times) > 1 else DATA, linewidth=0.9)
        axes.set(ylabel=names.get(name, name))
    every[0].set(title="Path")
    every[-1].set(xlabel=names["t"])
