"""What there is to say and to draw of a measurement beside a fitted model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.figures.style import DATA, MODEL, POINT, bins, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = list[tuple[str, str]]


@dataclass(frozen=True)
class Picture:
    """How a picture is drawn, draw(figure, {"x": label of an axis, …}), and whether it wants to be wide."""

    draw: Callable[[Any, Mapping[str, str]], None]
    wide: bool = False


@dataclass(frozen=True)
class View:
    """A measurement beside the model that was fitted to it.

    numbers: (what, value) pairs on how well it is described; pictures: by name, "fit" and "residuals" first
    table: {column: (rows,)}, the data beside what is predicted; None where they are no list
    """

    numbers: Numbers = field(default_factory=list)
    pictures: dict[str, Picture] = field(default_factory=dict)
    table: dict[str, np.ndarray] | None = None


def compared(measurement: Any, fit: Any) -> View:
    """Any data beside what is predicted for them; of the masses of bins, the shares."""
    scaled = shares if measurement.family == "multinomial" else np.asarray
    values, prediction = (np.ravel(scaled(part)) for part in (measurement.values, fit.predict(measurement)))
    rms = float(np.sqrt(np.mean((values - prediction) ** 2)))

    def draw(figure: Any, names: Mapping[str, str]) -> None:
        axes = figure.subplots()
        draw_agreement(axes, prediction, values, names["value"])
        axes.set_title("Data and fit")

    numbers = [("values", f"{len(values)}"), ("residual, root mean square", f"{rms:.5g}")]
    return View(numbers, {"fit": Picture(draw)}, {"measured": values, "fitted": prediction})


def log_densities(measurement: Any, fit: Any) -> View:
    """Data that are predicted by their log densities: the sum of them, and how they are distributed."""
    values = np.ravel(fit.predict(measurement))

    def draw(figure: Any, names: Mapping[str, str]) -> None:
        axes = figure.subplots()
        axes.hist(values, bins=bins(values), color="#9DB8CC")
        axes.set(xlabel="log density of a datum", ylabel="count", title="Densities of the data")

    return View(likelihood("data", float(values.sum()), len(values), len(fit.labels)), {"fit": Picture(draw)})


def likelihood(what: str, total: float, count: int, fitted: int) -> Numbers:
    """The log-likelihood of `count` data, called `what`."""
    rows = [(what, f"{count}"), ("log-likelihood", f"{total:.6f}")]
    one = what.removesuffix("s") if what != "data" else "datum"
    return [*rows, (f"log-likelihood per {one}", f"{total / count:.6f}"), ("AIC", f"{2 * fitted - 2 * total:.6g}")]


def shares(mass: Any) -> np.ndarray:
    """(times, bins) of all that the bins of a time hold."""
    mass = np.asarray(mass, float)
    return mass / mass.sum(-1, keepdims=True)


def draw_agreement(axes: Axes, prediction: np.ndarray, values: np.ndarray, name: str) -> None:
    """What was measured over what is fitted."""
    ends = [min(prediction.min(), values.min()), max(prediction.max(), values.max())]
    axes.plot(ends, ends, color=MODEL, label="perfect agreement")
    axes.plot(prediction, values, color=DATA, alpha=0.6, markersize=3, **POINT)
    axes.set(xlabel=f"fitted {name}", ylabel=f"measured {name}")
    legend(axes)
