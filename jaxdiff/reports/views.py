"""What a fitted model says at its data and between them, predicted once for numbers and pictures alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jaxdiff.figures import heatmaps
from jaxdiff.figures.style import LABELS
from jaxdiff.measurements.histograms import Histograms
from jaxdiff.measurements.readings import Readings
from jaxdiff.measurements.trajectory import Trajectory

FEW = 8  # times drawn as profiles, sensors drawn as courses


@dataclass(frozen=True)
class Sheet:
    """Values of the model on times × positions, shape (times, positions)."""

    times: np.ndarray
    positions: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class View:
    """One measurement and what the model says of it.

    prediction, held_prediction: at the data, and at the part held out, if any
    curve: the model between the data, along x or t ("profiles", "courses") as `kind` says; course: over all of both
    states: on several axes instead, the model on all cells at a few times, values (times, *cells)
    """

    measurement: Any
    prediction: np.ndarray | None
    held: Any = None
    held_prediction: np.ndarray | None = None
    kind: str = ""
    curve: Sheet | None = None
    course: Sheet | None = None
    states: Sheet | None = None


class Outcome:
    """A fit made ready to be told and drawn.

    Args:
        fit: what `jaxdiff.fit` returned.
        labels: names of the axes with their units, {"x": "position / cm", "t": …, "value": …}.
    """

    def __init__(self, fit: Any, labels: Mapping[str, str] | None = None):
        self.fit = fit
        self.labels = {**LABELS, **(labels or {})}

    @cached_property
    def views(self) -> tuple[View, ...]:
        measured, held = self.fit.measurements, self.fit.held_out
        pairs = zip(measured, held if len(held) == len(measured) else [None] * len(measured), strict=True)
        return tuple(self._view(m, h if type(h) is type(m) else None) for m, h in pairs)

    def _view(self, m: Any, held: Any) -> View:
        if isinstance(m, Readings):
            return self._readings(m, held)
        if isinstance(m, Trajectory) and len(self.fit.measurements) == 1 and "likelihood" in self.fit.loss_name:
            return View(m, None)  # its densities are summed in the loss
        return View(m, self.fit.predict(m))

    def _readings(self, m: Readings, held: Readings | None) -> View:
        """The data, the curves and the course in one prediction: what compiles is the solver, and it compiles once."""
        held = held if held is not None and held.grid is m.grid and held.start == m.start else None
        if m.grid.ndim > 1:
            return self._on_axes(m, held)
        seen = [m] if held is None else [m, held]
        times = np.unique(np.concatenate([part.times for part in seen]))
        sensors = np.unique(np.concatenate([part.positions for part in seen]))
        finite = times[np.isfinite(times)]
        lower, upper = np.asarray(m.grid.edges[0])[[0, -1]]
        kind = "profiles" if len(times) <= 6 and len(sensors) > len(times) or len(times) == 1 else ""
        kind = kind or ("courses" if len(sensors) <= FEW and len(finite) == len(times) else "")
        wanted = []
        if kind == "profiles":
            wanted.append((times, np.linspace(lower, upper, 301)))
        elif kind == "courses":
            wanted.append((_between(m.start, finite), sensors))
        if len(finite) > 1:
            among = wanted[0][0] if kind == "courses" else finite
            some = among[np.unique(np.linspace(0, len(among) - 1, 61).astype(int))]
            wanted.append((some, np.linspace(lower, upper, 81)))
        columns = [(part.times, part.positions) for part in seen]
        columns += [(np.repeat(t, len(x)), np.tile(x, len(t))) for t, x in wanted]
        t, x = (np.concatenate(part) for part in zip(*columns, strict=True))
        values = self.fit.predict(Readings(m.grid, m.initial, t, x, np.zeros(len(t)), start=m.start))
        parts = np.split(values, np.cumsum([len(t) for t, _ in columns])[:-1])
        sheets = [Sheet(t, x, v.reshape(len(t), len(x))) for (t, x), v in zip(wanted, parts[len(seen) :], strict=True)]
        return View(
            m,
            parts[0],
            held,
            None if held is None else parts[1],
            kind,
            sheets[0] if kind else None,
            sheets[-1] if len(finite) > 1 else None,
        )

    def _on_axes(self, m: Readings, held: Readings | None) -> View:
        """The data, and the state of the field at a few times."""
        times = np.unique(m.times)
        times = times[heatmaps.chosen(times)]
        mesh = np.stack(np.meshgrid(*m.grid.centers, indexing="ij"), -1).reshape(-1, m.grid.ndim)
        columns = [(part.times, part.positions) for part in ([m] if held is None else [m, held])]
        t = np.concatenate([*(t for t, _ in columns), np.repeat(times, len(mesh))])
        x = np.concatenate([*(x for _, x in columns), np.tile(mesh, (len(times), 1))])
        values = self.fit.predict(Readings(m.grid, m.initial, t, x, np.zeros(len(t)), start=m.start))
        *parts, states = np.split(values, np.cumsum([len(t) for t, _ in columns]))
        sheet = Sheet(times, mesh, states.reshape(len(times), *m.grid.shape))
        return View(m, parts[0], held, None if held is None else parts[1], states=sheet)

    def likelihood(self, view: View) -> float:
        """Log-likelihood of a path."""
        return -float(self.fit.loss) if view.prediction is None else float(np.sum(view.prediction))


def _between(start: float, times: np.ndarray) -> np.ndarray:
    """Times at which a curve looks smooth: many data times as they are, else more of them."""
    if len(times) > 60:
        return times[:: -(-len(times) // 600)]
    return np.unique(np.concatenate([np.linspace(start, times[-1], 121), times]))


def densities(data: Histograms, mass: np.ndarray) -> np.ndarray:
    """Probability per length, area or volume in each bin, (times, *bins), of the mass that lies in the bins."""
    shape = tuple(len(edges) - 1 for edges in data.bins)
    out = shares(mass[:, : int(np.prod(shape))]).reshape(-1, *shape)
    for k, edges in enumerate(data.bins):
        out = out / np.diff(edges).reshape(-1, *(1,) * (len(shape) - 1 - k))
    return out


def shares(mass: np.ndarray) -> np.ndarray:
    return mass / mass.sum(1, keepdims=True)
