"""Readings beside the model that was fitted to them: in numbers, pictures and a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.figures import heatmaps, style
from jaxdiff.figures.states import draw_profiles
from jaxdiff.measurements.view import Numbers, Picture, View, draw_agreement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from jaxdiff.measurements.readings import Readings

FEW = 8  # sensors drawn over time


@dataclass(frozen=True)
class Profiles:
    """Values of the model on times × positions, shape (times, positions)."""

    times: np.ndarray
    positions: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Readings and what the model says of them.

    parts: the readings that were fitted and those held out, if any, each with its prediction
    curve: the model between the data, along x or t ("profiles", "series") as `kind` says; over_time: over all of both,
    on several axes all cells at a few times
    """

    parts: list[tuple[Readings, np.ndarray]]
    kind: str = ""
    curve: Profiles | None = None
    over_time: Profiles | None = None


def view(readings: Readings, fit: Any, held_out: Readings | None) -> View:
    """What the page, the pictures and the tables of a fit say of readings; held_out: those that were held out."""
    grid = readings.grid
    if held_out is not None and (held_out.grid is not grid or held_out.start != readings.start):
        held_out = None
    comparison = _comparison(readings, fit, held_out)
    pictures = {
        "fit": Picture(partial(draw, comparison=comparison)),
        "residuals": Picture(partial(draw_residuals, comparison=comparison)),
    }
    if (over := comparison.over_time) is not None:

        def draw_course(figure: Any, names: Mapping[str, str]) -> None:
            if grid.ndim == 1:
                return draw_profiles(figure, over.times, over.positions, over.values, names)
            states = np.full((len(over.values), len(grid.points)), np.nan)
            states[:, grid.holds(grid.points)] = over.values
            several = {"": states.reshape(-1, *grid.shape)}
            return heatmaps.draw_states(figure, grid, grid.edges, over.times, several, names, names["value"])

        pictures["course"] = Picture(draw_course, wide=True)
    return View(_numbers(*comparison.parts[0], len(fit.labels)), pictures, _table(comparison))


def _comparison(m: Readings, fit: Any, held_out: Readings | None) -> Comparison:
    """The data and the model between them in one prediction: what compiles is the solver, and it compiles once."""
    parts = [m] if held_out is None else [m, held_out]
    kind, wanted = (_course if m.probe else _states if m.grid.ndim > 1 else _curves)(parts)
    places = lambda part: np.zeros(len(part.times)) if m.probe else part.positions
    rows = [(part.times, places(part)) for part in parts]
    rows += [(np.repeat(t, len(x)), np.concatenate([x] * len(t))) for t, x in wanted.values()]
    t, x = (np.concatenate(column) for column in zip(*rows, strict=True))
    values = fit.predict(m.at(t, x))
    predictions = np.split(values, np.cumsum([len(t) for t, _ in rows])[:-1])
    profiles = {
        name: Profiles(t, x, part.reshape(len(t), len(x)))
        for (name, (t, x)), part in zip(wanted.items(), predictions[len(parts) :], strict=True)
    }
    return Comparison(list(zip(parts, predictions, strict=False)), kind, **profiles)


def _curves(parts: list[Readings]) -> tuple[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """("profiles", "series" or neither, {field of `Comparison`: times and positions}) on one axis."""
    m = parts[0]
    times = np.unique(np.concatenate([part.times for part in parts]))
    sensors = np.unique(np.concatenate([part.positions for part in parts]))
    finite = times[np.isfinite(times)]
    line = lambda count: _line(m.grid, count)
    kind, wanted = "", {}
    if len(times) <= 6 and len(sensors) > len(times) or len(times) == 1:
        kind, wanted["curve"] = "profiles", (times, line(301))
    elif len(sensors) <= FEW and len(finite) == len(times):
        kind, wanted["curve"] = "series", (_between(m.start, finite), sensors)
    if len(finite) > 1 and not m.grid.discrete:
        among = wanted["curve"][0] if kind == "series" else finite
        some = among[np.unique(np.linspace(0, len(among) - 1, 61).astype(int))]
        wanted["over_time"] = some, line(81)
    return kind, wanted


def _line(grid: Any, count: int) -> np.ndarray:
    """So many places along the axis, of states the states themselves."""
    lower, upper = np.asarray(grid.edges[0])[[0, -1]]
    x = np.linspace(lower, upper, count)
    return np.unique(np.round(np.clip(x, 0, grid.shape[0] - 1))) if grid.discrete else x[grid.holds(x)]


def _course(parts: list[Readings]) -> tuple[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """As `_curves`, of what one probe reads."""
    times = np.unique(np.concatenate([part.times for part in parts]))
    several = len(times) > 1 and np.isfinite(times).all()
    return "series", {"curve": (_between(parts[0].start, times), np.zeros(1))} if several else {}


def _states(parts: list[Readings]) -> tuple[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """As `_curves`, on several axes: all cells at a few times."""
    times = np.unique(parts[0].times)
    points = parts[0].grid.points
    return "", {"over_time": (times[heatmaps.chosen(times)], points[parts[0].grid.holds(points)])}


def _between(start: float, times: np.ndarray) -> np.ndarray:
    """Times at which a curve looks smooth: many data times as they are, else more of them."""
    if len(times) > 60:
        return times[:: -(-len(times) // 600)]
    return np.unique(np.concatenate([np.linspace(start, times[-1], 121), times]))


def draw(figure: Any, names: Mapping[str, str], comparison: Comparison) -> None:
    """Readings and the model through them: along x at few times, along t at few sensors, else one against the other."""
    axes = figure.subplots()
    if (curve := comparison.curve) is not None:
        (_draw_profiles if comparison.kind == "profiles" else _draw_series)(axes, comparison, curve, names)
    else:
        (m, prediction), *_ = comparison.parts
        draw_agreement(axes, prediction, m.values, names["value"])
    axes.set_title("Data and fit")


def _draw_profiles(axes: Axes, comparison: Comparison, profiles: Profiles, names: Mapping[str, str]) -> None:
    single = len(profiles.times) == 1
    for color, t, line in zip(style.ramp(len(profiles.times)), profiles.times, profiles.values, strict=True):
        look = {"color": style.MODEL, "label": "fit"} if single else {"color": color, "label": style.time_label(t)}
        axes.plot(profiles.positions, line, **look)
        _points(axes, comparison, ("times", t), "positions", style.DATA if single else color, named=single)
    axes.set(xlabel=names["x"], ylabel=names["value"])
    style.legend(axes, title=None if single else names["t"], outside=not single)


def _draw_series(axes: Axes, comparison: Comparison, series: Profiles, names: Mapping[str, str]) -> None:
    times, *held_out = (m.times for m, _ in comparison.parts)
    every, probe = -(-len(times) // (style.SHOWN * len(series.positions))), comparison.parts[0][0].probe
    for color, x, line in zip(style.COLORS, series.positions, series.values.T, strict=False):
        _points(axes, comparison, None if probe else ("positions", x), "times", color, every)
        label = probe.label if probe else f"{x:.4g}"
        axes.plot(series.times, line, color=color, linewidth=1.3, label=label, zorder=5)
    for later in held_out:
        if later.min() > times.max():
            axes.axvspan(later.min(), later.max(), color="#EEEEEE", zorder=0, label="held out")
    if every > 1:
        axes.plot([], [], color=style.DATA, markersize=3, label=f"1 in {every} readings", **style.POINT)
    axes.set(xlabel=names["t"], ylabel=names["value"])
    axes.margins(x=0.01)
    style.legend(axes, title=None if probe else names["x"], outside=True)


def _points(
    axes: Axes,
    shown: Comparison,
    at: tuple[str, float] | None,
    along: str,
    color: Any,
    every: int = 1,
    named: bool = False,
) -> None:
    """The readings at one time or place, filled; those held out, hollow."""
    for (m, _), label, face in zip(shown.parts, ("data", "held out"), (color, "white"), strict=False):
        among = np.arange(len(m.times)) if at is None else np.flatnonzero(getattr(m, at[0]) == at[1])
        if not len(here := among[::every]):
            continue
        bars = m.sigma[here] if m.sigma is not None and len(here) < 2 * style.SHOWN else None
        look: dict[str, Any] = {"markersize": 4 if len(here) < 60 else 3, "markerfacecolor": face}
        places = getattr(m, along)[here]
        axes.errorbar(places, m.values[here], bars, color=color, label=label if named else None, **style.POINT, **look)


def draw_residuals(figure: Any, names: Mapping[str, str], comparison: Comparison) -> None:
    """Residuals over time, or over x at the steady state, and how they are distributed."""
    (m, prediction), *_ = comparison.parts
    residual, what = m.values - prediction, f"residual of {names['value']}"
    if m.sigma is not None:
        residual, what = residual / m.sigma, "residual / sigma"
    steady = len(np.unique(m.times)) == 1 and m.grid.ndim == 1 and m.probe is None
    across = m.positions if steady else m.times
    sensors = np.unique(m.positions)
    one = steady or len(sensors) > len(style.COLORS) or m.grid.ndim > 1 or m.probe is not None
    axes, side = style.with_side(figure) if len(residual) >= 30 else (figure.subplots(), None)
    for color, x in [(style.DATA, None)] if one else zip(style.COLORS, sensors, strict=False):
        here = slice(None) if x is None else m.positions == x
        label = None if x is None else f"{x:.4g}"
        size = 4 if len(residual) < 200 else 1.8
        axes.plot(across[here], residual[here], color=color, markersize=size, alpha=0.8, label=label, **style.POINT)
    style.zero_line(axes)
    rms = float(np.sqrt(np.mean(residual**2)))
    axes.set(xlabel=names["x"] if steady else names["t"], ylabel=what, title=f"Residuals, root mean square {rms:.3g}")
    if not one:
        style.legend(side or axes, title=names["x"], outside=True, source=axes)
    if side is not None:
        side.hist(residual, bins=style.bins(residual), orientation="horizontal", color="#9DB8CC")
        side.set_xlabel("count")


def _numbers(m: Readings, prediction: np.ndarray, count: int) -> Numbers:
    residual = m.values - prediction
    n, rms = len(residual), float(np.sqrt(np.mean(residual**2)))
    rows = [("readings", f"{n}"), ("residual, root mean square", f"{rms:.5g}")]
    if np.var(m.values) > 0:
        rows.append(("R²", f"{1 - rms**2 / np.var(m.values):.6f}"))
    if m.sigma is not None:
        chi = float(np.sum((residual / m.sigma) ** 2))
        if n > count:
            rows.append(("reduced χ²", f"{chi / (n - count):.4g}"))
        rows.append(("log-likelihood", f"{-0.5 * chi - np.sum(np.log(m.sigma)) - 0.5 * n * math.log(2 * math.pi):.6g}"))
    elif rms > 0:
        rows.append(("log-likelihood", f"{-0.5 * n * (math.log(2 * math.pi * rms**2) + 1):.6g}"))
    return rows


def _table(comparison: Comparison) -> dict[str, np.ndarray]:
    """Each reading beside its prediction, those held out last."""
    parts = []
    for held_out, (m, fitted) in enumerate(comparison.parts):
        names = ("position",) if m.grid.ndim == 1 else m.grid.names
        places = {} if m.probe else dict(zip(names, np.atleast_2d(m.positions.T), strict=True))
        columns = {"time": m.times, **places, "measured": m.values}
        residual = m.values - fitted
        parts.append({**columns, "fitted": fitted, "residual": residual, "held_out": np.full(len(fitted), held_out)})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
