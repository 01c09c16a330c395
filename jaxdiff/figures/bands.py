"""Pictures of functions along positions, with bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.figures.style import LABELS, MODEL, canvas, legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sheet(bands: Sequence[Any]) -> Figure:
    """Each function by itself, side by side."""
    with canvas(5.2 * len(bands) + 1.0, 3.9) as figure:
        draw(figure, LABELS, bands)
        return figure


def draw(figure: Any, names: Mapping[str, str], bands: Sequence[Any]) -> None:
    panels = figure.subplots(1, len(bands), squeeze=False)[0]
    for axes, band in zip(panels, bands, strict=True):
        if band.positions.ndim > 1 and band.positions.shape[1] > 1:
            x, y = band.positions.T[:2]
            found = axes.scatter(x, y, c=band.value, s=40, cmap="viridis")
            figure.colorbar(found, ax=axes, label=band.name)
            axes.set(xlabel=names["x"], ylabel=names["y"], title=f"standard error {np.median(band.errors):.2g}")
            continue
        x, order = np.ravel(band.positions), np.argsort(np.ravel(band.positions))
        x, share = x[order], f"{100 * band.level:.3g} %"
        ends = (
            ("lower", "upper", 0.35, f"{share} at each position"),
            ("simultaneous_lower", "simultaneous_upper", 0.18, f"{share} everywhere"),
        )
        for low, high, alpha, label in ends:
            lower, upper = getattr(band, low)[order], getattr(band, high)[order]
            if np.isfinite(lower).all():
                axes.fill_between(x, lower, upper, color=MODEL, alpha=alpha, linewidth=0, label=label)
        axes.plot(x, band.value[order], color=MODEL, label="fit")
        axes.set(xlabel=names["x"], ylabel=band.name, title=f"{band.name.capitalize()}, with bands")
        legend(axes)
