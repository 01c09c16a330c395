"""Pictures of fits: all of one on a sheet or each by itself, and how many of them scatter."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.figures.bands import draw as draw_bands
from jaxdiff.figures.style import COLORS, MODEL, SIZE, bins, canvas, legend
from jaxdiff.measurements.view import Picture
from jaxdiff.reports.views import FitView

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Labels = Mapping[str, str] | None


def fit(fit: Any, labels: Labels = None) -> Figure:
    """All pictures of a fit on one sheet; `labels` name the axes: {"x": "position / cm", "t": …, "value": …}."""
    shown = FitView(fit, labels)
    pictures = _pictures(shown)
    columns = 2 if len(pictures) > 1 else 1
    rows = -(-len(pictures) // columns)
    with canvas(6.4 * columns, 3.9 * rows) as figure:
        parts = figure.subfigures(rows, columns, squeeze=False).ravel()
        for part, picture in zip(parts, pictures.values(), strict=False):
            picture.draw(part, shown.labels)
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
        for axes, label, x, errors in zip(
            panels, labels, fits.x[good].T, fits.uncertainty.errors[good].T, strict=False
        ):
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


def figures(shown: FitView) -> dict[str, Figure]:
    """The pictures of a fit, each on its own: "fit", "residuals", "course", "fields", "history", where they apply."""
    drawn = {}
    for name, picture in _pictures(shown).items():
        with canvas(9.0 if picture.wide else SIZE[0], SIZE[1]) as figure:
            picture.draw(figure, shown.labels)
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
    looks = np.asarray(fit.validation_history, float)
    if len(looks):
        other = axes.twinx()  # of fewer data, whose sum is another
        other.plot(*looks.T, color=COLORS[1], marker="o" if len(looks) < 60 else None, markersize=3.5)
        other.set_ylabel("loss on held-out data", color=COLORS[1])
        axes.set_ylabel("loss", color=COLORS[0])


def _bands(fit: Any) -> list[Any]:
    """Drift and diffusivity with their bands, of those that are functions of one position and known."""
    found = []
    for name in ("drift", "diffusivity"):
        if callable(getattr(fit.models[0].equation, name, None)) or hasattr(
            getattr(fit.models[0].equation, name, None), "energy"
        ):
            with suppress(ValueError):  # no error bar, or several axes
                found.append(fit.band(name))
    return found


def _pictures(shown: FitView) -> dict[str, Picture]:
    """All pictures of a fit, by name."""
    found: dict[str, Picture] = {}
    for i, view in enumerate(shown.views):
        key = "" if len(shown.views) == 1 else f"_{i + 1}"
        found |= {name + key: picture for name, picture in view.pictures.items()}
    if shown.fit.smooths and (bands := _bands(shown.fit)):
        found["fields"] = Picture(lambda figure, names: draw_bands(figure, names, bands), wide=True)
    if len(shown.fit.history) > 1:
        found["history"] = Picture(lambda figure, names: draw_history(figure, shown.fit))
    return found
