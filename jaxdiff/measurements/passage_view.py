"""Passages beside the model that was fitted to them: in numbers and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.figures.style import COLORS, DATA, MODEL, POINT, bins, legend
from jaxdiff.integration.passage_times import EITHER, LATER
from jaxdiff.measurements.passage_curves import Curves, fitted, log_densities
from jaxdiff.measurements.view import Picture, View, likelihood

if TYPE_CHECKING:
    from jaxdiff.measurements.passage_times import PassageTimes

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)


class Beside:
    """A measurement, and the curves of a fit for it, predicted when they are wanted."""

    def __init__(self, m: PassageTimes, fit: Any):
        self.m, self.fit = m, fit

    @cached_property
    def curves(self) -> Curves:
        return fitted(self.m, self.fit, 1.1 * float(self.m.times.max()))

    def draw(self, figure: Any, names: Mapping[str, str]) -> None:
        """Densities through each wall over the histogram of the times; of the lower one downwards."""
        axes, m, course = figure.subplots(), self.m, self.curves
        seen = m.kinds != LATER
        edges = bins(m.times[seen]) if seen.any() else np.linspace(0.0, m.times.max(), 9)
        known = bool(np.isin(m.kinds, (0, 1)).any())
        both = course.lower + course.upper
        parts = (
            [(1, 1.0, course.upper, COLORS[0]), (0, -1.0, course.lower, COLORS[1])]
            if known
            else [(EITHER, 1.0, both, MODEL)]
        )
        for kind, sign, density, color in parts:
            counts = np.histogram(m.times[m.kinds == kind], edges)[0]
            if kind != EITHER and not (counts.any() or density.max() > 0):
                continue
            label = "passages" if kind == EITHER else f"through {m.grid.sides[kind]}"
            height = sign * counts / len(m.values) / np.diff(edges)
            axes.bar(edges[:-1], height, np.diff(edges), align="edge", color=color, alpha=0.35, label=label)
            axes.plot(course.times, sign * density, color=color)
        axes.axhline(0.0, color="#888888", linewidth=0.9)
        axes.set(xlabel=names["t"], ylabel="density", title="Times of passage, and the fit")
        legend(axes)

    def draw_quantiles(self, figure: Any, names: Mapping[str, str]) -> None:
        """Quantiles of the times against those of the model."""
        axes, m, course = figure.subplots(), self.m, self.curves
        seen, later = np.sort(m.times[m.kinds != LATER]), np.minimum.accumulate(course.later)
        span = 1 - float(np.interp(m.times.max(), course.times, later))
        chance = (np.arange(len(seen)) + 0.5) / len(m.values) * (span if not m.censored.any() else 1.0)
        model = np.interp(chance, 1 - later, course.times)
        ends = [0.0, float(max(model.max(initial=0.0), m.times.max()))]
        axes.plot(ends, ends, color=MODEL, label="perfect agreement")
        axes.plot(model, seen, color=DATA, markersize=3, alpha=0.6, **POINT)
        axes.set(xlabel=f"quantiles of the model, {names['t']}", ylabel=names["t"], title="Quantiles of the times")
        legend(axes)


def view(m: PassageTimes, fit: Any) -> View:
    """What the page and the pictures of a fit say of passages; with the first measurement, how they depend on conditions."""
    values, beside = log_densities(m, fit), Beside(m, fit)
    pictures = {"fit": Picture(beside.draw), "residuals": Picture(beside.draw_quantiles)}
    alike = [one for one in fit.measurements if type(one) is type(m) and one.conditions]
    if len(alike) > 1 and alike[0] is m and (name := _varied(alike)) is not None:
        several = [Beside(one, fit) for one in alike]
        pictures["course"] = Picture(lambda figure, names: _draw_conditions(figure, names, several, name), wide=True)
    table = {"time": m.times, "side": m.sides, "censored": m.censored.astype(int), "log density": values}
    return View(likelihood("passages", float(values.sum()), len(values), len(fit.labels)), pictures, table)


def _varied(several: list[PassageTimes]) -> str | None:
    """The condition that is a number and differs most between measurements."""
    number = lambda x: isinstance(x, np.ndarray) and not x.ndim
    names = [name for name in several[0].conditions if all(number(one.conditions.get(name)) for one in several)]
    counts = {name: len({float(one.conditions[name]) for one in several}) for name in names}
    return max(counts, key=lambda name: counts[name]) if counts and max(counts.values()) > 1 else None


def _draw_conditions(figure: Any, names: Mapping[str, str], several: list[Beside], name: str) -> None:
    """The psychometric and the chronometric curve: the share of passages through the upper wall, and quantiles of times."""
    order = np.argsort([float(one.m.conditions[name]) for one in several])
    several = [several[i] for i in order]
    x = np.array([float(one.m.conditions[name]) for one in several])
    left, right = figure.subplots(1, 2)
    known = [np.isin(one.m.kinds, (0, 1)) for one in several]
    shares = [np.mean(one.m.kinds[k] == 1) if k.any() else np.nan for one, k in zip(several, known, strict=True)]
    errors = [np.sqrt(p * (1 - p) / max(k.sum(), 1)) for p, k in zip(shares, known, strict=True)]
    gone = [one.curves.gone[:, -1] for one in several]
    left.errorbar(x, shares, errors, color=DATA, label="measured", **POINT)
    left.plot(x, [upper / (lower + upper) for lower, upper in gone], color=MODEL, label="fit")
    left.set(xlabel=name, ylabel=f"share through {several[0].m.grid.sides[1]}", title="Psychometric curve")
    legend(left)
    for q, color in zip(QUANTILES, COLORS, strict=False):
        seen = [np.quantile(one.m.times[one.m.kinds != LATER], q) for one in several]
        right.plot(x, seen, color=color, label=f"{100 * q:.0f} %", **POINT)
        model = [
            np.interp(q * (1 - c.later[-1]), 1 - np.minimum.accumulate(c.later), c.times)
            for c in (one.curves for one in several)
        ]
        right.plot(x, model, color=color)
    right.set(xlabel=name, ylabel=names["t"], title="Chronometric curve: quantiles of the times")
    legend(right)
