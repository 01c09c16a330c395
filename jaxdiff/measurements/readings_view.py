"""Readings beside the model that was fitted to them: in numbers, pictures and a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.figures import heatmaps
from jaxdiff.figures.states import draw_profiles
from jaxdiff.figures.style import (
    COLORS,
    DATA,
    MODEL,
    POINT,
    SHOWN,
    bins,
    legend,
    ramp,
    time_label,
    with_side,
    zero_line,
)
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
class Beside:
    """Readings and what the model says of them.

    prediction, held_out_prediction: at the data, and at the part held out, if any
    curve: the model between the data, along x or t ("profiles", "series") as `kind` says; over_time: over all of both
    states: on several axes instead, the model on all cells at a few times, values (times, *cells)
    """

    measurement: Readings
    prediction: np.ndarray
    held_out: Readings | None = None
    held_out_prediction: np.ndarray | None = None
    kind: str = ""
    curve: Profiles | None = None
    over_time: Profiles | None = None
    states: Profiles | None = None


def view(readings: Readings, fit: Any, held_out: Readings | None) -> View:
    """What the page, the pictures and the tables of a fit say of readings; held_out: those that were held out."""
    held_out = (
        held_out
        if held_out is not None and held_out.grid is readings.grid and held_out.start == readings.start
        else None
    )
    beside = (_on_axes if readings.grid.ndim > 1 else _on_a_line)(readings, fit, held_out)
    pictures = {
        "fit": Picture(partial(draw, beside=beside)),
        "residuals": Picture(partial(draw_residuals, beside=beside)),
    }
    if (profiles := beside.states) is not None:
        grid = readings.grid
        pictures["course"] = Picture(
            lambda figure, names: heatmaps.draw_states(
                figure, grid, grid.edges, profiles.times, {"": profiles.values}, names, names["value"]
            ),
            wide=True,
        )
    if (over := beside.over_time) is not None:
        course = {"times": over.times, "x": over.positions, "values": over.values}
        pictures["course"] = Picture(lambda figure, names: draw_profiles(figure, **course, names=names), wide=True)
    return View(_numbers(beside, len(fit.labels)), pictures, _table(beside))


def _on_a_line(m: Readings, fit: Any, held_out: Readings | None) -> Beside:
    """The data, the curves and all of x and t in one prediction: what compiles is the solver, and it compiles once."""
    seen = [m] if held_out is None else [m, held_out]
    times = np.unique(np.concatenate([part.times for part in seen]))
    sensors = np.unique(np.concatenate([part.positions for part in seen]))
    finite = times[np.isfinite(times)]
    lower, upper = np.asarray(m.grid.edges[0])[[0, -1]]
    kind = "profiles" if len(times) <= 6 and len(sensors) > len(times) or len(times) == 1 else ""
    kind = kind or ("series" if len(sensors) <= FEW and len(finite) == len(times) else "")
    wanted = []
    if kind == "profiles":
        wanted.append((times, np.linspace(lower, upper, 301)))
    elif kind == "series":
        wanted.append((_between(m.start, finite), sensors))
    if len(finite) > 1:
        among = wanted[0][0] if kind == "series" else finite
        some = among[np.unique(np.linspace(0, len(among) - 1, 61).astype(int))]
        wanted.append((some, np.linspace(lower, upper, 81)))
    columns = [(part.times, part.positions) for part in seen]
    columns += [(np.repeat(t, len(x)), np.tile(x, len(t))) for t, x in wanted]
    t, x = (np.concatenate(part) for part in zip(*columns, strict=True))
    values = fit.predict(type(m)(m.grid, m.initial, t, x, np.zeros(len(t)), start=m.start))
    parts = np.split(values, np.cumsum([len(t) for t, _ in columns])[:-1])
    profiles = [Profiles(t, x, v.reshape(len(t), len(x))) for (t, x), v in zip(wanted, parts[len(seen) :], strict=True)]
    return Beside(
        m,
        parts[0],
        held_out,
        None if held_out is None else parts[1],
        kind,
        profiles[0] if kind else None,
        profiles[-1] if len(finite) > 1 else None,
    )


def _on_axes(m: Readings, fit: Any, held_out: Readings | None) -> Beside:
    """The data, and the state of the field at a few times."""
    times = np.unique(m.times)
    times = times[heatmaps.chosen(times)]
    mesh = np.stack(np.meshgrid(*m.grid.centers, indexing="ij"), -1).reshape(-1, m.grid.ndim)
    columns = [(part.times, part.positions) for part in ([m] if held_out is None else [m, held_out])]
    t = np.concatenate([*(t for t, _ in columns), np.repeat(times, len(mesh))])
    x = np.concatenate([*(x for _, x in columns), np.tile(mesh, (len(times), 1))])
    values = fit.predict(type(m)(m.grid, m.initial, t, x, np.zeros(len(t)), start=m.start))
    *parts, states = np.split(values, np.cumsum([len(t) for t, _ in columns]))
    profiles = Profiles(times, mesh, states.reshape(len(times), *m.grid.shape))
    return Beside(m, parts[0], held_out, None if held_out is None else parts[1], states=profiles)


def _between(start: float, times: np.ndarray) -> np.ndarray:
    """Times at which a curve looks smooth: many data times as they are, else more of them."""
    if len(times) > 60:
        return times[:: -(-len(times) // 600)]
    return np.unique(np.concatenate([np.linspace(start, times[-1], 121), times]))


def draw(figure: Any, names: Mapping[str, str], beside: Beside) -> None:
    """Readings and the model through them: along x at few times, along t at few sensors, else one against the other."""
    axes = figure.subplots()
    if beside.kind == "profiles":
        _draw_profiles(axes, beside, names)
    elif beside.kind == "series":
        _draw_series(axes, beside, names)
    else:
        draw_agreement(axes, beside.prediction, beside.measurement.values, names["value"])
    axes.set_title("Data and fit")


def _draw_profiles(axes: Axes, beside: Beside, names: Mapping[str, str]) -> None:
    profiles = beside.curve
    assert profiles is not None
    single = len(profiles.times) == 1
    for color, t, line in zip(ramp(len(profiles.times)), profiles.times, profiles.values, strict=True):
        axes.plot(profiles.positions, line, color=MODEL if single else color, label="fit" if single else time_label(t))
        _points(axes, beside, ("times", t), "positions", DATA if single else color, named=single)
    axes.set(xlabel=names["x"], ylabel=names["value"])
    legend(axes, title=None if single else names["t"], outside=not single)


def _draw_series(axes: Axes, beside: Beside, names: Mapping[str, str]) -> None:
    profiles = beside.curve
    assert profiles is not None
    every = -(-len(beside.measurement.values) // (SHOWN * len(profiles.positions)))
    for color, x, line in zip(COLORS, profiles.positions, profiles.values.T, strict=False):
        _points(axes, beside, ("positions", x), "times", color, every)
        axes.plot(profiles.times, line, color=color, linewidth=1.3, label=f"{x:.4g}", zorder=5)
    if beside.held_out is not None and beside.held_out.times.min() > beside.measurement.times.max():
        axes.axvspan(
            beside.held_out.times.min(), beside.held_out.times.max(), color="#EEEEEE", zorder=0, label="held out"
        )
    if every > 1:
        axes.plot([], [], color=DATA, markersize=3, label=f"1 in {every} readings", **POINT)
    axes.set(xlabel=names["t"], ylabel=names["value"])
    axes.margins(x=0.01)
    legend(axes, title=names["x"], outside=True)


def _points(
    axes: Axes, beside: Beside, at: tuple[str, float], along: str, color: Any, every: int = 1, named: bool = False
) -> None:
    """The readings at one time or place, filled; those held out, hollow."""
    for m, label, face in ((beside.measurement, "data", color), (beside.held_out, "held out", "white")):
        if m is None or not len(here := np.flatnonzero(getattr(m, at[0]) == at[1])[::every]):
            continue
        bars = m.sigma[here] if m.sigma is not None and len(here) < 2 * SHOWN else None
        style: dict[str, Any] = {"markersize": 4 if len(here) < 60 else 3, "markerfacecolor": face}
        places = getattr(m, along)[here]
        axes.errorbar(places, m.values[here], bars, color=color, label=label if named else None, **POINT, **style)


def draw_residuals(figure: Any, names: Mapping[str, str], beside: Beside) -> None:
    """Residuals over time, or over x at the steady state, and how they are distributed."""
    m = beside.measurement
    residual, what = m.values - beside.prediction, f"residual of {names['value']}"
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


def _numbers(beside: Beside, count: int) -> Numbers:
    m, residual = beside.measurement, beside.measurement.values - beside.prediction
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


def _table(beside: Beside) -> dict[str, np.ndarray]:
    """Each reading beside its prediction, those held out last."""
    parts = []
    for m, fitted in ((beside.measurement, beside.prediction), (beside.held_out, beside.held_out_prediction)):
        if m is not None:
            places = (
                {"position": m.positions} if m.grid.ndim == 1 else dict(zip(m.grid.names, m.positions.T, strict=True))
            )
            columns = {"time": m.times, **places, "measured": m.values, "fitted": fitted}
            held_out = np.full(len(m.values), int(m is beside.held_out))
            parts.append({**columns, "residual": m.values - fitted, "held_out": held_out})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
