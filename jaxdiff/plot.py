"""Pictures: data against fit, residuals, the course of the loss, profiles and densities over time."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.histograms import Histograms
from jaxdiff.measurements import Readings
from jaxdiff.paths import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito: told apart by colour-blind readers too. https://jfly.uni-koeln.de/color/
DATA, MODEL = "#444444", "#D55E00"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B0A030")
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": True,
    "axes.formatter.limits": (-4, 5),
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.dpi": 110,
    "savefig.dpi": 150,
}
LABELS = {"x": "position x", "t": "time t", "value": "u"}
SIZE = (6.4, 4.0)

Labels = Mapping[str, str] | None


@contextlib.contextmanager
def _canvas(width: float = SIZE[0], height: float = SIZE[1]) -> Iterator[Figure]:
    """A figure without pyplot: no window, no global state, safe in a server and in threads."""
    import matplotlib
    from matplotlib.figure import Figure

    if "IPython" in sys.modules:
        import matplotlib.pyplot  # noqa: F401  notebooks show figures once it is imported
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def fit(fit: Any, labels: Labels = None) -> Figure:
    """All pictures of a fit on one sheet; `labels` name the axes: {"x": "position / cm", "t": …, "value": …}."""
    drawers = _drawers(fit, labels)
    columns = 2 if len(drawers) > 1 else 1
    rows = -(-len(drawers) // columns)
    with _canvas(6.0 * columns, 3.9 * rows) as figure:
        parts = np.atleast_1d(figure.subfigures(rows, columns, squeeze=False)).ravel()
        for part, draw in zip(parts, drawers.values(), strict=False):
            draw(part)
        return figure


def figures(fit: Any, labels: Labels = None) -> dict[str, Figure]:
    """The pictures of a fit, each on its own: "fit", "residuals", "history" and "course" where they apply."""
    sheets = {}
    for name, draw in _drawers(fit, labels).items():
        wide = name.startswith("fit") and isinstance(_first(fit), Trajectory)
        with _canvas(9.0 if wide else SIZE[0], SIZE[1]) as figure:
            draw(figure)
            sheets[name] = figure
    return sheets


def solution(solution: Any, labels: Labels = None) -> Figure:
    """The profiles of a `Solution` over time."""
    return profiles(solution.grid, solution.times, solution.values, labels)


def profiles(grid: Any, times: Any, values: Any, labels: Labels = None) -> Figure:
    """Profiles over time: lines at some times, and a map where there are many; values has shape (times, cells)."""
    times = np.asarray(times)
    with _canvas(SIZE[0] if len(times) <= 8 else 10.0, SIZE[1]) as figure:
        draw_course(figure, grid, times, np.asarray(values), labels)
        return figure


def draw_course(figure: Any, grid: Any, times: np.ndarray, values: np.ndarray, labels: Labels = None) -> None:
    names = {**LABELS, **(labels or {})}
    x = np.asarray(grid.centers[0])
    many = len(times) > 8
    axes = figure.subplots(1, 2 if many else 1, squeeze=False)[0]
    chosen = np.unique(np.linspace(0, len(times) - 1, 7).astype(int)) if many else np.arange(len(times))
    for color, i in zip(_ramp(len(chosen)), chosen, strict=True):
        axes[0].plot(x, values[i], color=color, label=f"{times[i]:.4g}" if np.isfinite(times[i]) else "steady")
    axes[0].set(xlabel=names["x"], ylabel=names["value"])
    axes[0].margins(x=0)
    if len(chosen) > 1:
        _legend(axes[0], title=names["t"])
    if many:
        edges = np.asarray(grid.edges[0])
        middle = 0.5 * (times[1:] + times[:-1])
        mesh = axes[1].pcolormesh(
            np.concatenate([times[:1], middle, times[-1:]]), edges, values.T, cmap="cividis", rasterized=True
        )
        axes[1].set(xlabel=names["t"], ylabel=names["x"])
        axes[1].grid(False)
        figure.colorbar(mesh, ax=axes[1], label=names["value"])


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


def draw_readings(figure: Any, readings: Readings, predict: Callable[[Any], np.ndarray], labels: Labels = None) -> None:
    """Readings and the model through them: along x at few times, else along t at few sensors, else one by one."""
    names = {**LABELS, **(labels or {})}
    axes = figure.subplots()
    times, sensors = np.unique(readings.times), np.unique(readings.positions)
    point = {"linestyle": "none", "marker": "o", "markersize": 4, "zorder": 3}
    bars = None if readings.sigma is None or len(readings.values) > 300 else readings.sigma
    if len(times) == 1 or (len(times) <= 6 and len(sensors) > len(times)):
        x = np.linspace(*np.asarray(readings.grid.edges[0])[[0, -1]], 301)
        dense = _curves(readings, predict, np.repeat(times, len(x)), np.tile(x, len(times))).reshape(len(times), -1)
        for color, t, line in zip(_ramp(len(times)), times, dense, strict=True):
            here = readings.times == t
            single = len(times) == 1
            label = "fit" if single else f"{t:.4g}" if np.isfinite(t) else "steady"
            axes.plot(x, line, color=MODEL if single else color, label=label)
            shade = DATA if single else color
            error = None if bars is None else bars[here]
            label = "data" if single else None
            axes.errorbar(readings.positions[here], readings.values[here], error, color=shade, label=label, **point)
        axes.set(xlabel=names["x"], ylabel=names["value"])
        _legend(axes, title=None if len(times) == 1 else names["t"])
    elif len(sensors) <= 8:
        dense_times = _dense(readings, times)
        dense = _curves(
            readings, predict, np.tile(dense_times, len(sensors)), np.repeat(sensors, len(dense_times))
        ).reshape(len(sensors), -1)
        for color, x, line in zip(COLORS, sensors, dense, strict=False):
            here = readings.positions == x
            small = {**point, "markersize": 4 if here.sum() < 80 else 1.6, "alpha": 1.0 if here.sum() < 80 else 0.55}
            error = None if bars is None else bars[here]
            axes.errorbar(readings.times[here], readings.values[here], error, color=color, **small)
            axes.plot(dense_times, line, color="white", linewidth=2.6, zorder=4)
            axes.plot(dense_times, line, color=color, label=f"{x:.4g}", zorder=5)
        axes.set(xlabel=names["t"], ylabel=names["value"])
        axes.margins(x=0.01)
        _legend(axes, title=names["x"])
    else:
        prediction = np.asarray(predict(readings))
        ends = [min(prediction.min(), readings.values.min()), max(prediction.max(), readings.values.max())]
        axes.plot(ends, ends, color=MODEL, label="perfect agreement")
        axes.plot(prediction, readings.values, color=DATA, alpha=0.6, **{**point, "markersize": 3})
        axes.set(xlabel=f"fitted {names['value']}", ylabel=f"measured {names['value']}")
        _legend(axes)
    axes.set_title("Data and fit")


def draw_reading_residuals(figure: Any, readings: Readings, prediction: np.ndarray, labels: Labels = None) -> None:
    names = {**LABELS, **(labels or {})}
    residual = readings.values - np.asarray(prediction)
    steady = len(np.unique(readings.times)) == 1
    what = f"residual of {names['value']}"
    if readings.sigma is not None:
        residual, what = residual / readings.sigma, "residual / sigma"
    axes, side = figure.subplots(1, 2, sharey=True, width_ratios=(3.2, 1))
    across = readings.positions if steady else readings.times
    sensors = np.unique(readings.positions)
    size = 4 if len(residual) < 200 else 1.8
    for color, x in (
        zip(COLORS, sensors, strict=False) if not steady and len(sensors) <= len(COLORS) else [(DATA, None)]
    ):
        here = slice(None) if x is None else readings.positions == x
        axes.plot(across[here], residual[here], "o", color=color, markersize=size, alpha=0.8)
    _zero(axes)
    rms = float(np.sqrt(np.mean(residual**2)))
    axes.set(xlabel=names["x"] if steady else names["t"], ylabel=what, title=f"Residuals, rms {rms:.3g}")
    side.hist(residual, bins=max(6, min(40, len(residual) // 8)), orientation="horizontal", color="#9DB8CC")
    side.set_xlabel("count")


def draw_histograms(figure: Any, data: Histograms, predict: Callable[[Any], np.ndarray], labels: Labels = None) -> None:
    """The measured histograms, as densities, and the fitted ones."""
    names = {**LABELS, **(labels or {})}
    observed, fitted = _densities(data, data.mass), _densities(data, np.asarray(predict(data)))
    chosen = np.unique(np.linspace(0, len(data.times) - 1, min(6, len(data.times))).astype(int))
    rows = -(-len(chosen) // 3)
    columns = -(-len(chosen) // rows)
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for place, i in zip(axes.ravel(), chosen, strict=False):
        place.stairs(observed[i], data.edges, fill=True, color="#C9D3DB", label="data")
        place.stairs(fitted[i], data.edges, color=MODEL, linewidth=1.4, label="fit")
        time = "steady" if np.isinf(data.times[i]) else f"{names['t']} = {data.times[i]:.4g}"
        place.set_title(time, fontsize=9)
    for place in axes.ravel()[len(chosen) :]:
        place.set_visible(False)
    for place in axes[-1]:
        place.set_xlabel(names["x"])
    for place in axes[:, 0]:
        place.set_ylabel("density")
    axes.ravel()[0].legend()


def draw_histogram_residuals(figure: Any, data: Histograms, prediction: np.ndarray, labels: Labels = None) -> None:
    names = {**LABELS, **(labels or {})}
    axes = figure.subplots()
    q, p = _shares(data.mass), _shares(np.asarray(prediction)[:, : data.mass.shape[1]])
    if data.size is None:
        residual, what = q - p, "share of the data − share of the fit"
    else:
        size = np.asarray(data.size)[:, None]
        residual, what = (q - p) * np.sqrt(size / np.maximum(p, 0.5 / size)), "residual / expected spread"
    middle = 0.5 * (data.edges[1:] + data.edges[:-1])
    for color, row in zip(_ramp(len(residual)), residual, strict=True):
        axes.plot(middle, row, "o", color=color, markersize=3, alpha=0.8)
    _zero(axes)
    axes.set(xlabel=names["x"], ylabel=what, title="Residuals of the bins")


def draw_path(figure: Any, path: Trajectory, equation: Any, labels: Labels = None) -> None:
    """Fitted drift and diffusivity over what the increments show without a model, bin by bin (Kramers–Moyal)."""
    names = {**LABELS, **(labels or {})}
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
        _legend(axes)


def draw_path_residuals(figure: Any, path: Trajectory, equation: Any, labels: Labels = None) -> None:
    names = {**LABELS, **(labels or {})}
    drift, diffusivity = _curve_functions(equation, path)
    spread = np.sqrt(2 * diffusivity(path.starts) * path.durations)
    residual = (path.stops - path.starts - drift(path.starts) * path.durations) / spread
    times = np.concatenate([t[1:] for t in path.times])
    axes, side = figure.subplots(1, 2, sharey=True, width_ratios=(3.2, 1))
    axes.plot(times, residual, "o", color=COLORS[0], markersize=2.5 if len(residual) < 1000 else 1, alpha=0.8)
    _zero(axes)
    axes.set(xlabel=names["t"], ylabel="step / expected spread", title="Residuals of the steps")
    side.hist(
        residual, bins=max(8, min(50, len(residual) // 8)), density=True, orientation="horizontal", color="#9DB8CC"
    )
    z = np.linspace(*side.get_ylim(), 200)
    side.plot(np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), z, color=MODEL, linewidth=1.2)
    side.set_xlabel("density")


def draw_path_density(figure: Any, path: Trajectory, equation: Any, labels: Labels = None) -> None:
    """The path in time, and beside it how often each position is visited against the stationary density."""
    from jaxdiff.analysis import steady_state

    names = {**LABELS, **(labels or {})}
    axes, side = figure.subplots(1, 2, sharey=True, width_ratios=(3.2, 1))
    for color, t, x in zip(COLORS, path.times, path.positions, strict=False):
        axes.plot(t, x, color=color if len(path.times) > 1 else DATA, linewidth=0.9)
    axes.set(xlabel=names["t"], ylabel=names["x"], title="Path and stationary density")
    positions = np.concatenate(path.positions)
    bins = max(8, min(40, len(positions) // 8))
    side.hist(positions, bins=bins, density=True, orientation="horizontal", color="#C9D3DB")
    side.set_xlabel("density")
    with contextlib.suppress(ValueError, TypeError):  # not every drift holds a stationary density
        density = np.asarray(steady_state(equation, path.grid))
        x, low, high = np.asarray(path.grid.centers[0]), positions.min(), positions.max()
        margin = 0.1 * (high - low)
        near = (x > low - margin) & (x < high + margin)
        if np.isfinite(density).all() and density.min() > -1e-9:
            side.plot(density[near], x[near], color=MODEL)


def _first(fit: Any) -> Any:
    return fit.measurements[0]


def _drawers(fit: Any, labels: Labels) -> dict[str, Callable[[Any], None]]:
    drawers: dict[str, Callable[[Any], None]] = {}
    for i, m in enumerate(fit.measurements):
        key = "" if len(fit.measurements) == 1 else f"_{i + 1}"
        if isinstance(m, Readings):
            drawers["fit" + key] = lambda f, m=m: draw_readings(f, m, fit.predict, labels)
            drawers["residuals" + key] = lambda f, m=m: draw_reading_residuals(f, m, fit.predict(m), labels)
            finite = m.times[np.isfinite(m.times)]
            if len(np.unique(finite)) > 1:
                drawers["course" + key] = lambda f, m=m: _draw_fitted_course(f, m, fit, labels)
        elif isinstance(m, Histograms):
            drawers["fit" + key] = lambda f, m=m: draw_histograms(f, m, fit.predict, labels)
            drawers["residuals" + key] = lambda f, m=m: draw_histogram_residuals(f, m, fit.predict(m), labels)
            if len(m.times) > 1 and np.isfinite(m.times).all():
                drawers["course" + key] = lambda f, m=m: _draw_fitted_course(
                    f, m, fit, {"value": "density", **(labels or {})}
                )
        elif isinstance(m, Trajectory):
            drawers["fit" + key] = lambda f, m=m: draw_path(f, m, fit.equation, labels)
            drawers["residuals" + key] = lambda f, m=m: draw_path_residuals(f, m, fit.equation, labels)
            drawers["course" + key] = lambda f, m=m: draw_path_density(f, m, fit.equation, labels)
    if len(np.atleast_1d(fit.history)) > 1:
        drawers["history"] = lambda f: draw_history(f, fit)
    return drawers


def _draw_fitted_course(figure: Any, data: Any, fit: Any, labels: Labels) -> None:
    last = data.times[np.isfinite(data.times)].max()
    times = np.linspace(data.start, last, 61)
    x = np.asarray(data.grid.centers[0])
    wanted = Readings(
        data.grid,
        data.initial,
        np.repeat(times, len(x)),
        np.tile(x, len(times)),
        np.zeros(len(x) * len(times)),
        start=data.start,
    )
    draw_course(figure, data.grid, times, np.asarray(fit.predict(wanted)).reshape(len(times), -1), labels)


def _curves(
    readings: Readings, predict: Callable[[Any], np.ndarray], times: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    wanted = Readings(readings.grid, readings.initial, times, positions, np.zeros(len(times)), start=readings.start)
    return np.asarray(predict(wanted))


def _dense(readings: Readings, times: np.ndarray) -> np.ndarray:
    times = times[np.isfinite(times)]
    if len(times) > 100:
        return times[:: -(-len(times) // 600)]
    return np.linspace(min(readings.start, times[0]), times[-1], 201)


def _curve_functions(
    equation: Any, path: Trajectory
) -> tuple[Callable[[Any], np.ndarray], Callable[[Any], np.ndarray]]:
    import jax

    drift, diffusivity, _ = equation.sde(path.grid)
    return tuple(lambda x, f=f: np.asarray(jax.vmap(f)(x)) for f in (drift, diffusivity))  # type: ignore[return-value]


def _densities(data: Histograms, mass: np.ndarray) -> np.ndarray:
    mass = mass[:, : len(data.edges) - 1]
    return _shares(mass) / np.diff(data.edges)


def _shares(mass: np.ndarray) -> np.ndarray:
    return mass / mass.sum(1, keepdims=True)


def _ramp(count: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["viridis"](v) for v in np.linspace(0.0, 0.85, count)] if count > 1 else [COLORS[0]]


def _zero(axes: Axes) -> None:
    axes.axhline(0.0, color="#888888", linewidth=0.9, zorder=1)


def _legend(axes: Axes, title: str | None = None) -> None:
    handles, texts = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, texts, title=title, title_fontsize=9)
