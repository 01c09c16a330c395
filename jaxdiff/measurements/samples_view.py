"""Samples beside the model that was fitted to them: in numbers and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.figures.states import draw_profiles
from jaxdiff.figures.style import MODEL, bins, legend
from jaxdiff.measurements import histograms_view
from jaxdiff.measurements.samples_examination import counted, pooled, probabilities
from jaxdiff.measurements.view import Picture, View, likelihood

if TYPE_CHECKING:
    from jaxdiff.measurements.samples import Samples

PANELS = 6
FILLED = 5  # samples in a bin, where they are shown as counts


def view(m: Samples, fit: Any) -> View:
    """What the page and the pictures of a fit say of samples."""
    logs, shares = np.asarray(fit.predict(m)), np.asarray(fit.predict(m.in_cells))
    numbers = likelihood("samples", float(logs.sum()), len(logs), len(fit.labels))
    columns = m.values.reshape(len(logs), -1).T
    table = {"time": m.times, **dict(zip(m.grid.names, columns, strict=True)), "log density": logs}
    if m.grid.ndim > 1 or m.grid.discrete:
        times, _ = m.distinct
        few = FILLED * len(times) * np.prod(m.grid.shape) / len(logs)  # cells for so many samples on average
        together = int(np.clip(np.ceil(few ** (1 / m.grid.ndim)), 1, min(m.grid.shape)))
        counts, binned = counted(m, together), pooled(m, shares, together)
        draw = lambda figure, names: histograms_view.draw(figure, names, counts, binned)
        rest = lambda figure, names: histograms_view.draw_residuals(figure, names, counts, binned)
        return View(numbers, {"fit": Picture(draw), "residuals": Picture(rest)}, table)

    def of_clouds(figure: Any, names: Mapping[str, str]) -> None:
        draw_clouds(figure, names, m, shares)

    def of_probabilities(figure: Any, names: Mapping[str, str]) -> None:
        axes = figure.subplots()
        u = probabilities(m, shares)
        axes.hist(u, bins=np.linspace(0, 1, min(40, max(5, len(u) // 20)) + 1), density=True, color="#9DB8CC")
        axes.axhline(1.0, color=MODEL)
        axes.set(
            xlabel="probability of the model below a sample", ylabel="density", title="Uniform where the model is right"
        )

    pictures = {"fit": Picture(of_clouds), "residuals": Picture(of_probabilities)}
    times, _ = m.distinct
    if len(times) > 1:
        centres, density = np.asarray(m.grid.centers[0]), shares / np.asarray(m.grid.widths[0])
        course = lambda figure, names: draw_profiles(
            figure, times, centres, density, {**names, "value": "fitted density"}
        )
        pictures["course"] = Picture(course, wide=True)
    return View(numbers, pictures, table)


def draw_clouds(figure: Any, names: Mapping[str, str], m: Samples, shares: np.ndarray) -> None:
    """The histogram of each cloud, and the fitted density."""
    times, when = m.distinct
    chosen = np.unique(np.linspace(0, len(times) - 1, min(PANELS, len(times))).astype(int))
    rows = -(-len(chosen) // 3)
    axes = figure.subplots(rows, -(-len(chosen) // rows), sharex=True, squeeze=False)
    centres, density = np.asarray(m.grid.centers[0]), shares / np.asarray(m.grid.widths[0])
    for place, i in zip(axes.ravel(), chosen, strict=False):
        cloud = m.values[when == i]
        place.hist(cloud, bins=bins(cloud), density=True, color="#C9D3DB", label="samples")
        place.plot(centres, density[i], color=MODEL, linewidth=1.4, label="fit")
        place.set_title("steady" if np.isinf(times[i]) else f"{names['t']} = {times[i]:.4g}", fontsize=9)
    for place in axes.ravel()[len(chosen) :]:
        place.set_visible(False)
    for place in axes[-1]:
        place.set_xlabel(names[m.grid.names[0]] if m.grid.names[0] in names else names["x"])
    for place in axes[:, 0]:
        place.set_ylabel("density")
    legend(axes.ravel()[0])
