"""Draws the picture of the README: python docs/pictures.py"""

from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure

import jaxdiff as jd
from jaxdiff.figures.style import COLORS, DATA, MODEL, STYLE
from jaxdiff.shell import demo

IMAGES = Path(__file__).resolve().parent / "images"
POINTS = {"color": DATA, "linestyle": "none", "marker": "o", "markersize": 4.5}


def fits() -> Figure:
    """The rod with its residuals; the Treasury bills, and the diffusivity of two models over what the steps show."""
    figure = Figure(figsize=(11.5, 4.0), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=(1.15, 1.0, 1.0))
    (story,) = demo.rod()
    draw_rod(left, story)
    draw_rates(middle.subplots(), right.subplots(), list(demo.rates()))
    return figure


def draw_rod(figure: Any, story: Any) -> None:
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1.0))
    fit, (data,) = story.fit, story.fit.measurements
    top.plot(data.grid.centers[0], jd.steady_state(fit.model, data.grid), color=MODEL, label="fit")
    top.plot(data.positions, data.values, label="measured", **POINTS)
    value, error = fit.parameters, fit.standard_errors
    found = (
        f"heat flux {value['flux']:.2f} ± {error['flux']:.2f} W/cm²\n"
        f"heat loss {1e3 * value['h']:.3f} ± {1e3 * error['h']:.3f} mW/(cm² °C)"
    )
    top.text(0.97, 0.60, found, transform=top.transAxes, ha="right", va="top", fontsize=9)
    top.set(ylabel=story.labels["value"], title="A rod, heated at one end")
    top.legend()
    bottom.axhline(0.0, color="#888888", linewidth=0.9)
    bottom.plot(data.positions, data.values - fit.predict(), **POINTS)
    bottom.set(xlabel=story.labels["x"], ylabel="residual", xlim=(0, data.grid.edges[0][-1]), ylim=(-0.6, 0.6))


def draw_rates(course: Any, spread: Any, stories: list[Any]) -> None:
    (path,) = stories[0].fit.measurements
    course.plot(path.times[0], path.positions[0], color=DATA, linewidth=1.0)
    course.set(xlabel="year", ylabel=stories[0].labels["x"], title="Three-month Treasury bill", ylim=(0, None))

    # What each step alone says of D: its square over twice its duration; the mean of those that start near one rate.
    single = (path.stops - path.starts) ** 2 / (2 * path.durations)
    groups = np.array_split(np.argsort(path.starts), 9)
    error = [single[g].std(ddof=1) / np.sqrt(len(g)) for g in groups]
    mean = ([path.starts[g].mean() for g in groups], [single[g].mean() for g in groups])
    spread.errorbar(*mean, error, label="steps, averaged", **POINTS)
    rate = np.linspace(0.5, path.starts.max(), 200)
    for story, color, style in zip(stories, COLORS, ("--", "-"), strict=False):
        diffusivity = jax.vmap(story.fit.model.sde(path.grid)[1])(rate)
        label = f"{story.title.split(' the ')[1].removesuffix(' model')}, ln L = −{story.fit.loss:.1f}"
        spread.plot(rate, diffusivity, color=color, linestyle=style, label=label)
    spread.set(xlabel=stories[0].labels["x"], ylabel="diffusivity / (% a year)² per year", title="How fast it diffuses")
    spread.set(yscale="log", ylim=(0.07, 40))
    spread.legend(loc="upper left", fontsize=8.5)


if __name__ == "__main__":
    with matplotlib.rc_context(STYLE):
        fits().savefig(IMAGES / "fits.png", dpi=130)
