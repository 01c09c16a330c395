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
                axes.errorbar(
                    held_out, place, xerr=errors, fmt="o", color=COLORS[0], label="held out, ± s.e. of the difference"
                )
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
        held_out, fitted = one.per_datum
        axes.plot(fold, held_out, "o", color=COLORS[1], label="held out")
        axes.plot(fold, fitted, "o", color=COLORS[0], label="fitted")
        axes.axhline(np.mean(held_out), color=COLORS[1], linewidth=1.0)
        axes.set(xlabel="fold", ylabel=f"{one.score_name} per datum", title="Cross-validation")
        axes.set_xticks(fold)
        legend(axes)
        return figure


def sweep(one: Any) -> Figure:
    """The loss on data held out over each option, a panel an option; those left behind early are pale."""
    names, last = list(one.settings[0]), one.steps == one.steps.max()
    with canvas(max(6.4, 3.4 * len(names)), 3.6) as figure:
        panels = figure.subplots(1, len(names), squeeze=False, sharey=True).ravel()
        for axes, name in zip(panels, names, strict=True):
            values = [setting[name] for setting in one.settings]
            numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
            distinct = sorted(set(values)) if numbers else list(dict.fromkeys(map(str, values)))
            places = np.array(values, float) if numbers else np.array([distinct.index(str(v)) for v in values], float)
            axes.plot(places[~last], one.validation_loss[~last], "o", color="#B8C4CE", label="left behind")
            axes.plot(places[last], one.validation_loss[last], "o", color=COLORS[0], label="all steps")
            best = one.order[0]
            axes.plot(places[best], one.validation_loss[best], "o", color=COLORS[1], markersize=9, label="best")
            if numbers and min(places) > 0 and max(places) > 20 * min(places):
                axes.set_xscale("log")
            elif not numbers:
                axes.set_xticks(range(len(distinct)), ["all" if text == "None" else text for text in distinct])
            axes.set(xlabel=name)
        finite = one.validation_loss[np.isfinite(one.validation_loss)]
        if len(finite) and finite.min() > 0 and finite.max() > 20 * finite.min():
            panels[0].set_yscale("log")
        panels[0].set(ylabel="loss on data held out")
        legend(panels[-1])
        return figure
