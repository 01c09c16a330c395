"""Pictures of a choice between models or settings: comparisons, cross-validations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.figures.style import COLORS, canvas, legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def comparison(one: Any) -> Figure:
    """By how much each fit exceeds the best by each criterion, a row a fit."""
    frame = one.to_frame()
    shown = [name for name in frame.columns if name.startswith("Δ") and np.isfinite(frame[name]).any()]
    with canvas(6.4, 1.6 + 0.35 * len(frame)) as figure:
        axes, place = figure.subplots(), np.arange(len(frame))
        if "held out" in frame:
            held_out = frame["held out"] - frame["held out"].min()
            if not shown:
                best = one.fits[int(np.nanargmin(one.held_out))]
                errors = [best.difference(other)[1] for other in one.fits]
                axes.errorbar(held_out, place, xerr=errors, fmt="o", color=COLORS[0], label="held out, ± s.e. of the difference")
            else:
                axes.plot(2 * held_out, place, "D", color="#444444", label="2 Δ held out")
        for name, color in zip(shown, COLORS, strict=False):
            axes.plot(frame[name], place, "o", color=color, label=name)
        axes.set_yticks(place, list(frame.index))
        axes.invert_yaxis()
        axes.set_xscale("symlog", linthresh=2.0)
        axes.axvspan(0.0, 2.0 if shown else 0.0, color="#EEEEEE", zorder=0)
        axes.set(xlabel="above the best", title="Comparison" + (" (a tie within the grey band)" if shown else ""))
        legend(axes)
        return figure


def cross_validation(one: Any) -> Figure:
    """The score per datum of each block, beside that of what was fitted."""
    with canvas() as figure:
        axes, fold = figure.subplots(), np.arange(1, len(one) + 1)
        axes.plot(fold, one.scores / one.counts, "o", color=COLORS[1], label="held out")
        axes.plot(fold, one.seen / one.counts, "o", color=COLORS[0], label="fitted")
        axes.axhline(one.total / one.counts.sum(), color=COLORS[1], linewidth=1.0)
        axes.set(xlabel="fold", ylabel=f"{one.score_name} per datum", title="Cross-validation")
        axes.xaxis.get_major_locator().set_params(integer=True)
        legend(axes)
        return figure
