"""Paths beside the model that was fitted to them: in numbers and pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxdiff.figures.style import COLORS, DATA, MODEL, POINT, bins, legend, with_side, zero_line
from jaxdiff.integration.steady import steady_state
from jaxdiff.measurements.view import Picture, View, likelihood

if TYPE_CHECKING:
    from jaxdiff.measurements.trajectory import Trajectory


def view(path: Trajectory, fit: Any) -> View:
    """What the page and the pictures of a fit say of paths."""
    return of_steps(path, fit, {"fit": draw, "residuals": draw_residuals, "course": draw_density})


def of_steps(path: Trajectory, fit: Any, drawn: Mapping[str, Any]) -> View:
    """The likelihood of the steps of paths, and pictures drawn by functions of a figure, names, the path and the equation."""
    summed = len(fit.measurements) == 1 and "likelihood" in fit.loss_name  # its densities are summed in the loss
    total = -float(fit.loss) if summed else float(np.sum(fit.predict(path)))
    pictures = {
        name: Picture(partial(one, path=path, equation=fit.equation_of(path)), wide=True) for name, one in drawn.items()
    }
    return View(likelihood("steps", total, len(path.durations), len(fit.labels)), pictures)


def draw(figure: Any, names: Mapping[str, str], path: Trajectory, equation: Any) -> None:
    """Fitted drift and diffusivity over what the increments show without a model, bin by bin (Kramers–Moyal)."""
    drift, diffusivity = _curve_functions(equation, path)
    x = np.linspace(path.starts.min(), path.starts.max(), 201)
    left, right = figure.subplots(1, 2)
    count = max(4, min(20, len(path.starts) // 12))
    edges = np.unique(np.quantile(path.starts, np.linspace(0, 1, count + 1)))
    group = np.clip(np.searchsorted(edges, path.starts, side="right") - 1, 0, len(edges) - 2)
    slope = (path.stops - path.starts) / path.durations
    scatter = (path.stops - path.starts - drift(path.starts) * path.durations) ** 2 / (2 * path.durations)
    for axes, sample, curve, name in ((left, slope, drift, "drift"), (right, scatter, diffusivity, "diffusivity")):
        groups = [sample[group == g] for g in range(len(edges) - 1)]
        middle = [path.starts[group == g].mean() for g in range(len(edges) - 1)]
        mean = [b.mean() for b in groups]
        error = [b.std(ddof=1) / np.sqrt(len(b)) if len(b) > 1 else np.nan for b in groups]
        axes.errorbar(middle, mean, error, markersize=4, color=DATA, label="increments, binned", **POINT)
        axes.plot(x, curve(x), color=MODEL, label="fit", zorder=4)
        axes.set(xlabel=names["x"], ylabel=name, title=f"{name.capitalize()} along the path")
        legend(axes)


def draw_residuals(figure: Any, names: Mapping[str, str], path: Trajectory, equation: Any) -> None:
    """Euler residuals of the steps over time, and how they are distributed."""
    drift, diffusivity = _curve_functions(equation, path)
    deviation = np.sqrt(2 * diffusivity(path.starts) * path.durations)
    residual = (path.stops - path.starts - drift(path.starts) * path.durations) / deviation
    times = np.concatenate([t[1:] for t in path.times])
    axes, side = with_side(figure)
    axes.plot(times, residual, "o", color=COLORS[0], markersize=2.5 if len(residual) < 1000 else 1, alpha=0.8)
    zero_line(axes)
    axes.set(xlabel=names["t"], ylabel="step / standard deviation", title="Residuals of the steps")
    side.hist(residual, bins=bins(residual), density=True, orientation="horizontal", color="#9DB8CC")
    low, high = side.get_ylim()
    z = np.linspace(low, high, 200)
    side.plot(np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), z, color=MODEL, linewidth=1.2)
    side.set_xlabel("density")


def draw_density(figure: Any, names: Mapping[str, str], path: Trajectory, equation: Any) -> None:
    """The path in time, and beside it how often each position is visited against the stationary density."""
    axes, side = with_side(figure)
    for color, t, x in zip(COLORS, path.times, path.positions, strict=False):
        axes.plot(t, x, color=color if len(path.times) > 1 else DATA, linewidth=0.9)
    axes.set(xlabel=names["t"], ylabel=names["x"], title="Path and stationary density")
    positions = np.concatenate(path.positions)
    side.hist(positions, bins=bins(positions), density=True, orientation="horizontal", color="#C9D3DB")
    side.set_xlabel("density")
    with contextlib.suppress(ValueError, TypeError):  # not every drift holds a stationary density
        density = np.asarray(steady_state(equation, path.grid))
        x, low, high = np.asarray(path.grid.centers[0]), positions.min(), positions.max()
        margin = 0.1 * (high - low)
        near = (x > low - margin) & (x < high + margin)
        if np.isfinite(density).all() and density.min() > -1e-9:
            side.plot(density[near], x[near], color=MODEL)


def _curve_functions(
    equation: Any, path: Trajectory
) -> tuple[Callable[[Any], np.ndarray], Callable[[Any], np.ndarray]]:
    drift, diffusivity, _ = equation.sde(path.grid)
    return tuple(lambda x, f=f: np.asarray(jax.vmap(f)(x)) for f in (drift, diffusivity))  # type: ignore[return-value]
