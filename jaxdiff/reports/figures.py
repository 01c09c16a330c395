"""Pictures: data against fit, residuals, the course of the loss, profiles and densities over time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.figures import heatmaps
from jaxdiff.figures.states import draw_course
from jaxdiff.figures.style import (
    COLORS,
    DATA,
    MANY,
    MODEL,
    POINT,
    SHOWN,
    SIZE,
    bins,
    canvas,
    legend,
    ramp,
    time_label,
    with_side,
    zero_line,
)
from jaxdiff.measurements.histograms import Histograms
from jaxdiff.measurements.readings import Readings
from jaxdiff.measurements.trajectory import Trajectory
from jaxdiff.reports.views import Outcome, View, densities, shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Labels = Mapping[str, str] | None


def fit(fit: Any, labels: Labels = None) -> Figure:
    """All pictures of a fit on one sheet; `labels` name the axes: {"x": "position / cm", "t": …, "value": …}."""
    drawers = _drawers(Outcome(fit, labels))
    columns = 2 if len(drawers) > 1 else 1
    rows = -(-len(drawers) // columns)
    with canvas(6.4 * columns, 3.9 * rows) as figure:
        for part, draw in zip(figure.subfigures(rows, columns, squeeze=False).ravel(), drawers.values(), strict=False):
            draw(part)
        return figure


def fits(fits: Any) -> Figure:
    """Histograms of the converged estimates, a panel a parameter, with the Gaussian of their median standard error."""
    labels, good = fits.labels, fits.converged
    if not good.any():
        raise ValueError(f"there is nothing to draw, as none of {len(fits)} fits converged; see summary()")
    columns = min(3, len(labels))
    rows = -(-len(labels) // columns)
    with canvas(3.6 * columns, 3.0 * rows) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, label, x, errors in zip(panels, labels, fits.x[good].T, fits.bars.errors[good].T, strict=False):
            axes.hist(x, bins=bins(x), density=True, color="#9DB8CC", label=f"{len(x)} fits")
            error = np.median(errors[np.isfinite(errors)]) if np.isfinite(errors).any() else 0.0
            if error > 0:
                z = np.linspace(-4, 4, 201)
                density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) / error
                axes.plot(np.median(x) + error * z, density, color=MODEL, label="standard error")
            axes.set(xlabel=label, ylabel="density")
        for axes in panels[len(labels) :]:
            axes.set_visible(False)
        legend(panels[0])
        return figure


def sheets(outcome: Outcome) -> dict[str, Figure]:
    """The pictures of a fit, each on its own: "fit", "residuals", "course", "history", where they apply."""
    drawn = {}
    for name, draw in _drawers(outcome).items():
        wide = name.startswith("course") or name != "history" and isinstance(outcome.fit.measurements[0], Trajectory)
        with canvas(9.0 if wide else SIZE[0], SIZE[1]) as figure:
            draw(figure)
            drawn[name] = figure
    return drawn


def draw_history(figure: Any, fit: Any) -> None:
    """The loss at each step of the optimiser."""
    axes = figure.subplots()
    history = np.asarray(fit.history, float)
    steps = np.arange(len(history))
    axes.plot(steps, history, color=COLORS[0], marker="o" if len(history) < 60 else None, markersize=3.5)
    positive = history[np.isfinite(history)]
    if len(positive) and positive.min() > 0 and positive.max() > 5 * positive.min():
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel="loss", title="Loss history")
    axes.xaxis.get_major_locator().set_params(integer=True)


def draw_readings(figure: Any, view: View, names: Mapping[str, str]) -> None:
    """Readings and the model through them: along x at few times, along t at few sensors, else one against the other."""
    axes = figure.subplots()
    if view.kind == "profiles":
        _draw_profiles(axes, view, names)
    elif view.kind == "courses":
        _draw_courses(axes, view, names)
    else:
        m, prediction = view.measurement, np.asarray(view.prediction)
        ends = [min(prediction.min(), m.values.min()), max(prediction.max(), m.values.max())]
        axes.plot(ends, ends, color=MODEL, label="perfect agreement")
        axes.plot(prediction, m.values, color=DATA, alpha=0.6, markersize=3, **POINT)
        axes.set(xlabel=f"fitted {names['value']}", ylabel=f"measured {names['value']}")
        legend(axes)
    axes.set_title("Data and fit")


def _draw_profiles(axes: Axes, view: View, names: Mapping[str, str]) -> None:
    sheet = view.curve
    assert sheet is not None
    single = len(sheet.times) == 1
    for color, t, line in zip(ramp(len(sheet.times)), sheet.times, sheet.values, strict=True):
        axes.plot(sheet.positions, line, color=MODEL if single else color, label="fit" if single else time_label(t))
        _points(axes, view, ("times", t), "positions", DATA if single else color, named=single)
    axes.set(xlabel=names["x"], ylabel=names["value"])
    legend(axes, title=None if single else names["t"], outside=not single)


def _draw_courses(axes: Axes, view: View, names: Mapping[str, str]) -> None:
    sheet = view.curve
    assert sheet is not None
    every = -(-len(view.measurement.values) // (SHOWN * len(sheet.positions)))
    for color, x, line in zip(COLORS, sheet.positions, sheet.values.T, strict=False):
        _points(axes, view, ("positions", x), "times", color, every)
        axes.plot(sheet.times, line, color=color, linewidth=1.3, label=f"{x:.4g}", zorder=5)
    if view.held is not None and view.held.times.min() > view.measurement.times.max():
        axes.axvspan(view.held.times.min(), view.held.times.max(), color="#EEEEEE", zorder=0, label="held out")
    if every > 1:
        axes.plot([], [], color=DATA, markersize=3, label=f"1 in {every} readings", **POINT)
    axes.set(xlabel=names["t"], ylabel=names["value"])
    axes.margins(x=0.01)
    legend(axes, title=names["x"], outside=True)


def _points(
    axes: Axes, view: View, at: tuple[str, float], along: str, color: Any, every: int = 1, named: bool = False
) -> None:
    """The readings at one time or place, filled; those held out, hollow."""
    for m, label, face in ((view.measurement, "data", color), (view.held, "held out", "white")):
        here = np.zeros(0, int) if m is None else np.flatnonzero(getattr(m, at[0]) == at[1])[::every]
        if not len(here):
            continue
        bars = m.sigma[here] if m.sigma is not None and len(here) < 2 * SHOWN else None
        style: dict[str, Any] = {"markersize": 4 if len(here) < 60 else 3, "markerfacecolor": face}
        places = getattr(m, along)[here]
        axes.errorbar(places, m.values[here], bars, color=color, label=label if named else None, **POINT, **style)


def draw_reading_residuals(figure: Any, view: View, names: Mapping[str, str]) -> None:
    m = view.measurement
    residual, what = m.values - np.asarray(view.prediction), f"residual of {names['value']}"
    if m.sigma is not None:
        residual, what = residual / m.sigma, "residual / sigma"
    steady = len(np.unique(m.times)) == 1 and m.grid.ndim == 1
    across = m.positions if steady else m.times
    sensors = np.unique(m.positions)
    one = steady or len(sensors) > len(COLORS) or m.grid.ndim > 1
    axes, side = with_side(figure) if len(residual) >= 30 else (figure.subplots(), None)
    for color, x in [(DATA, None)] if one else zip(COLORS, sensors, strict=False):
        here = slice(None) if x is None else m.positions == x
        label = None if x is None else f"{x:.4g}"
        size = 4 if len(residual) < 200 else 1.8
        axes.plot(across[here], residual[here], color=color, markersize=size, alpha=0.8, label=label, **POINT)
    zero_line(axes)
    rms = float(np.sqrt(np.mean(residual**2)))
    axes.set(xlabel=names["x"] if steady else names["t"], ylabel=what, title=f"Residuals, root mean square {rms:.3g}")
    if not one:
        legend(side or axes, title=names["x"], outside=True, source=axes)
    if side is not None:
        side.hist(residual, bins=bins(residual), orientation="horizontal", color="#9DB8CC")
        side.set_xlabel("count")


def draw_histograms(figure: Any, view: View, names: Mapping[str, str]) -> None:
    """The measured histograms, as densities, and the fitted ones."""
    data = view.measurement
    observed, fitted = densities(data, data.mass), densities(data, np.asarray(view.prediction))
    if data.grid.ndim > 1:
        return heatmaps.draw_histograms(figure, data, {"data": observed, "fit": fitted}, names)
    chosen = np.unique(np.linspace(0, len(data.times) - 1, min(6, len(data.times))).astype(int))
    rows = -(-len(chosen) // 3)
    axes = figure.subplots(rows, -(-len(chosen) // rows), sharex=True, squeeze=False)
    for place, i in zip(axes.ravel(), chosen, strict=False):
        place.stairs(observed[i], data.edges, fill=True, color="#C9D3DB", label="data")
        place.stairs(fitted[i], data.edges, color=MODEL, linewidth=1.4, label="fit")
        place.set_title("steady" if np.isinf(data.times[i]) else f"{names['t']} = {data.times[i]:.4g}", fontsize=9)
    for place in axes.ravel()[len(chosen) :]:
        place.set_visible(False)
    for place in axes[-1]:
        place.set_xlabel(names["x"])
    for place in axes[:, 0]:
        place.set_ylabel("density")
    legend(axes.ravel()[0])


def draw_histogram_residuals(figure: Any, view: View, names: Mapping[str, str]) -> None:
    data = view.measurement
    q, p = shares(data.mass), shares(np.asarray(view.prediction)[:, : data.mass.shape[1]])
    residual, what = q - p, "share of the data − share of the fit"
    if data.size is not None:
        size = np.asarray(data.size)[:, None]
        spread = np.sqrt(np.where(size * p >= 1, p / size, np.nan))  # nothing to see where none is expected
        residual, what = (q - p) / spread, "residual / expected spread"
    if data.grid.ndim > 1:
        return heatmaps.draw_residuals(figure, data, residual, names, what)
    axes = figure.subplots()
    middle = 0.5 * (data.edges[1:] + data.edges[:-1])
    for color, t, row in zip(ramp(len(residual)), data.times, residual, strict=True):
        axes.plot(middle, row, color=color, markersize=3, alpha=0.8, label=time_label(t), **POINT)
    zero_line(axes)
    axes.set(xlabel=names["x"], ylabel=what, title="Residuals of the bins")
    if 1 < len(data.times) <= MANY:
        legend(axes, title=names["t"], outside=True)


def draw_path(figure: Any, path: Trajectory, equation: Any, names: Mapping[str, str]) -> None:
    """Fitted drift and diffusivity over what the increments show without a model, bin by bin (Kramers–Moyal)."""
    drift, diffusivity = _curve_functions(equation, path)
    x = np.linspace(path.starts.min(), path.starts.max(), 201)
    left, right = figure.subplots(1, 2)
    count = max(4, min(20, len(path.starts) // 12))
    edges = np.unique(np.quantile(path.starts, np.linspace(0, 1, count + 1)))
    group = np.clip(np.searchsorted(edges, path.starts, side="right") - 1, 0, len(edges) - 2)
    slope = (path.stops - path.starts) / path.durations
    spread = (path.stops - path.starts - drift(path.starts) * path.durations) ** 2 / (2 * path.durations)
    for axes, sample, curve, name in ((left, slope, drift, "drift"), (right, spread, diffusivity, "diffusivity")):
        bins = [sample[group == g] for g in range(len(edges) - 1)]
        middle = [path.starts[group == g].mean() for g in range(len(edges) - 1)]
        mean = [b.mean() for b in bins]
        error = [b.std(ddof=1) / np.sqrt(len(b)) if len(b) > 1 else np.nan for b in bins]
        axes.errorbar(
            middle, mean, error, linestyle="none", marker="o", markersize=4, color=DATA, label="increments, binned"
        )
        axes.plot(x, curve(x), color=MODEL, label="fit", zorder=4)
        axes.set(xlabel=names["x"], ylabel=name, title=f"{name.capitalize()} along the path")
        legend(axes)


def draw_path_residuals(figure: Any, path: Trajectory, equation: Any, names: Mapping[str, str]) -> None:
    drift, diffusivity = _curve_functions(equation, path)
    spread = np.sqrt(2 * diffusivity(path.starts) * path.durations)
    residual = (path.stops - path.starts - drift(path.starts) * path.durations) / spread
    times = np.concatenate([t[1:] for t in path.times])
    axes, side = with_side(figure)
    axes.plot(times, residual, "o", color=COLORS[0], markersize=2.5 if len(residual) < 1000 else 1, alpha=0.8)
    zero_line(axes)
    axes.set(xlabel=names["t"], ylabel="step / expected spread", title="Residuals of the steps")
    side.hist(residual, bins=bins(residual), density=True, orientation="horizontal", color="#9DB8CC")
    low, high = side.get_ylim()
    z = np.linspace(low, high, 200)
    side.plot(np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), z, color=MODEL, linewidth=1.2)
    side.set_xlabel("density")


def draw_path_density(figure: Any, path: Trajectory, equation: Any, names: Mapping[str, str]) -> None:
    """The path in time, and beside it how often each position is visited against the stationary density."""
    from jaxdiff.integration.steady import steady_state

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


def _drawers(outcome: Outcome) -> dict[str, Callable[[Any], None]]:
    """What draws each picture into a figure."""
    drawers: dict[str, Callable[[Any], None]] = {}
    names, equation = outcome.labels, outcome.fit.model
    for i, view in enumerate(outcome.views):
        m, key = view.measurement, "" if len(outcome.views) == 1 else f"_{i + 1}"
        if isinstance(m, Readings):
            drawers["fit" + key] = partial(draw_readings, view=view, names=names)
            drawers["residuals" + key] = partial(draw_reading_residuals, view=view, names=names)
            if view.states is not None:
                rows = {"": view.states.values}
                states: dict[str, Any] = {
                    "grid": m.grid,
                    "edges": m.grid.edges,
                    "times": view.states.times,
                    "rows": rows,
                }
                drawers["course" + key] = partial(heatmaps.draw_states, **states, names=names, what=names["value"])
            if view.course is not None:
                sheet = view.course
                course = {"times": sheet.times, "x": sheet.positions, "values": sheet.values}
                drawers["course" + key] = partial(draw_course, **course, names=names)
        elif isinstance(m, Histograms):
            drawers["fit" + key] = partial(draw_histograms, view=view, names=names)
            drawers["residuals" + key] = partial(draw_histogram_residuals, view=view, names=names)
            if len(m.times) > 1 and m.grid.ndim == 1:
                values = densities(m, np.asarray(view.prediction))
                course = {"times": m.times, "x": 0.5 * (m.edges[1:] + m.edges[:-1]), "values": values}
                drawers["course" + key] = partial(draw_course, **course, names={**names, "value": "fitted density"})
        elif isinstance(m, Trajectory):
            drawers["fit" + key] = partial(draw_path, path=m, equation=equation, names=names)
            drawers["residuals" + key] = partial(draw_path_residuals, path=m, equation=equation, names=names)
            drawers["course" + key] = partial(draw_path_density, path=m, equation=equation, names=names)
    if len(outcome.fit.history) > 1:
        drawers["history"] = partial(draw_history, fit=outcome.fit)
    return drawers


def _curve_functions(
    equation: Any, path: Trajectory
) -> tuple[Callable[[Any], np.ndarray], Callable[[Any], np.ndarray]]:
    import jax

    drift, diffusivity, _ = equation.sde(path.grid)
    return tuple(lambda x, f=f: np.asarray(jax.vmap(f)(x)) for f in (drift, diffusivity))  # type: ignore[return-value]
