"""Histograms beside the model that was fitted to them: in numbers and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.figures import heatmaps
from jaxdiff.figures.states import draw_profiles
from jaxdiff.figures.style import MANY, MODEL, POINT, legend, ramp, time_label, zero_line
from jaxdiff.measurements.view import Numbers, Picture, View, shares

if TYPE_CHECKING:
    from jaxdiff.measurements.histograms import Histograms


def view(data: Histograms, fit: Any) -> View:
    """What the page, the pictures and the tables of a fit say of histograms."""
    prediction = np.asarray(fit.predict(data))
    pictures = {
        "fit": Picture(partial(draw, data=data, prediction=prediction)),
        "residuals": Picture(partial(draw_residuals, data=data, prediction=prediction)),
    }
    if len(data.times) > 1 and data.grid.ndim == 1:
        centres, values = data.centres[0], densities(data, prediction)
        draw_course = lambda figure, names: draw_profiles(
            figure, data.times, centres, values, {**names, "value": "fitted density"}
        )
        pictures["course"] = Picture(draw_course, wide=True)
    return View(_numbers(data, prediction, len(fit.labels)), pictures)


def densities(data: Histograms, mass: np.ndarray) -> np.ndarray:
    """Probability per length, area or volume in each bin, (times, *bins), of the mass that lies in the bins."""
    shape = tuple(len(edges) - 1 for edges in data.bins)
    out = shares(mass[:, : int(np.prod(shape))]).reshape(-1, *shape)
    for k, edges in enumerate(data.bins):
        out = out / np.diff(edges).reshape(-1, *(1,) * (len(shape) - 1 - k))
    return out


def draw(figure: Any, names: Mapping[str, str], data: Histograms, prediction: np.ndarray) -> None:
    """The measured histograms, as densities, and the fitted ones."""
    observed, fitted = densities(data, data.mass), densities(data, prediction)
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


def draw_residuals(figure: Any, names: Mapping[str, str], data: Histograms, prediction: np.ndarray) -> None:
    """Residuals of the bins, over their standard deviation where individuals are counted."""
    q, p = shares(data.mass), shares(prediction[:, : data.mass.shape[1]])
    residual, what = q - p, "share of the data − share of the fit"
    if data.size is not None:
        size = np.asarray(data.size)[:, None]
        deviation = np.sqrt(np.where(size * p >= 1, p / size, np.nan))  # nothing to see where none is expected
        residual, what = (q - p) / deviation, "residual / standard deviation"
    if data.grid.ndim > 1:
        return heatmaps.draw_residuals(figure, data, residual, names, what)
    axes = figure.subplots()
    for color, t, row in zip(ramp(len(residual)), data.times, residual, strict=True):
        axes.plot(data.centres[0], row, color=color, markersize=3, alpha=0.8, label=time_label(t), **POINT)
    zero_line(axes)
    axes.set(xlabel=names["x"], ylabel=what, title="Residuals of the bins")
    if 1 < len(data.times) <= MANY:
        legend(axes, title=names["t"], outside=True)


def _numbers(m: Histograms, prediction: np.ndarray, count: int) -> Numbers:
    q, p = shares(m.mass), shares(np.maximum(prediction[:, : m.mass.shape[1]], 1e-300))
    kl = float(np.mean(np.sum(np.where(q > 0, q * np.log(np.where(q > 0, q, 1.0) / p), 0.0), axis=1)))
    rows = [("histograms", f"{len(q)} of {q.shape[1]} bins"), ("KL(data‖model), mean over times", f"{kl:.5g}")]
    if m.size is not None:
        expected = np.asarray(m.size)[:, None] * p
        filled = expected >= 5  # where counts are near enough to normal
        freedom = int(filled.sum()) - len(q) - count
        if freedom > 0:
            chi = float(np.sum((np.asarray(m.size)[:, None] * q - expected)[filled] ** 2 / expected[filled]))
            rows.append(("reduced χ², bins with 5 or more", f"{chi / freedom:.4g}"))
    return rows
