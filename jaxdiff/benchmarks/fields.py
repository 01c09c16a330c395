"""Drift and diffusivity as curves: errors, bands that hold and seconds over repeats on known truth, of each kind of measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks.harness import Entries, Options, clock, markdown, publish, seconds

REPEATS, STRONGER = 50, 3  # repeats, and of how many the best strengths are looked for
SHORT = {"paths": 2_000, "histograms": 2_000, "readings": 300}
FACTORS = 3.0 ** np.array([-3, -2, -1, 0, 1, 2, 3])
STEP, WALKERS, SUBSTEPS = 0.1, 200, 50
GRID, CELLS = jd.Grid.uniform((-2.8, 3.0, 200)), jd.Grid.uniform((-2.5, 2.5, 100))
KNOTS, INNER = 18, np.linspace(-2.0, 2.2, 14)
TIMES = np.linspace(0.05, 2.0, 12)
PLACES = {True: np.linspace(-1.1, 1.4, 60), False: np.linspace(-1.0, 1.3, 60)}  # of paths, of states
Sample = tuple[Any, np.ndarray]  # a measurement, and the knots that suit it


def drift(x: Any) -> Any:
    return 2 * (x - x**3) + 0.3


def diffusivity(x: Any) -> Any:
    return 0.4 * jnp.exp(0.5 * jnp.sin(1.5 * x))


def paths(rng: Any, steps: int) -> Sample:
    """Walkers at rest, one position every 0.1, between which fifty Euler steps are taken."""
    h, D = STEP / SUBSTEPS, lambda x: 0.4 * np.exp(0.5 * np.sin(1.5 * x))
    x, rows = rng.normal(0.3, 0.8, WALKERS), []
    for i in range(-20, steps // WALKERS + 1):
        rows += [x] if i >= 0 else []
        for _ in range(SUBSTEPS):
            x = x + drift(x) * h + np.sqrt(2 * D(x) * h) * rng.normal(size=WALKERS)
    walks = np.stack(rows)
    times = STEP * np.arange(len(walks))
    return jd.Trajectory(GRID, [times] * WALKERS, list(walks.T)), np.linspace(walks.min(), walks.max(), KNOTS)


@cache
def states() -> tuple[np.ndarray, np.ndarray]:
    """Of a cloud that spreads from one side: at the start, and at the times, (times, cells)."""
    with jax.enable_x64(True):
        start = CELLS.average(lambda x: jnp.exp(-(((x + 0.5) / 0.3) ** 2)) / (0.3 * jnp.sqrt(jnp.pi)))
        found = jd.solve(jd.FokkerPlanck(drift, diffusivity), CELLS, start, np.append(0.0, TIMES))
        return np.asarray(start), np.asarray(found.values)[1:]


def histograms(rng: Any, count: int) -> Sample:
    """Twelve, of so many particles each."""
    start, found = states()
    shares = np.maximum(found, 0) / found.sum(1, keepdims=True)
    return jd.Histograms(CELLS, start, TIMES, rng.multinomial(count, shares)), INNER


def readings(rng: Any, count: int) -> Sample:
    """So many of the density, at places and times of the cloud, with an error of 0.005."""
    start, found = states()
    which, places = rng.integers(len(TIMES), size=count), rng.uniform(-1.8, 2.0, count)
    with jax.enable_x64(True):
        all_times = np.asarray(jax.vmap(lambda u: CELLS.interpolate(u, places))(jnp.asarray(found)))
    values = all_times[which, np.arange(count)] + 0.005 * rng.normal(size=count)
    return jd.Readings(CELLS, start, TIMES[which], places, values), INNER


KINDS: dict[str, tuple[Callable[..., Sample], int, str]] = {
    "paths": (paths, 20_000, "20,000 transitions"),
    "many paths": (paths, 100_000, "100,000 transitions"),
    "histograms": (histograms, 10_000, "12 histograms of 10,000"),
    "readings": (readings, 2_000, "2,000 readings"),
}


def equation(knots: np.ndarray, smooth: tuple[Any, Any] = (True, True)) -> jd.FokkerPlanck:
    flat = np.full(len(knots), 0.4)
    return jd.FokkerPlanck(
        jd.Spline(knots, -knots, smooth=smooth[0]), jd.Spline(knots, flat, positive=True, smooth=smooth[1])
    )


def errors(fit: Any, places: np.ndarray) -> np.ndarray:
    """Root mean square of drift and of ln D."""
    model = fit.model
    off = [[float(model.drift(x) - drift(x)) for x in places]]
    off += [[float(np.log(model.diffusivity(x) / diffusivity(x))) for x in places]]
    return np.sqrt(np.mean(np.square(off), axis=1))


def once(sample: Sample, places: np.ndarray) -> dict[str, Any]:
    """One fit as a user makes it, and its bands."""
    measurement, knots = sample
    taken, fit = clock(lambda: jd.fit(equation(knots), measurement, progress=False))
    bands = [fit.band(name, at=places) for name in ("drift", "diffusivity")]
    inside = []
    for band, truth in zip(bands, (drift, diffusivity), strict=True):
        values = np.asarray(truth(places))
        inside.append((bool(band.holds(truth)), float(np.mean((values >= band.lower) & (values <= band.upper)))))
    return {
        "seconds": taken,
        "converged": bool(fit.converged),
        "rms": errors(fit, places).tolist(),
        "held": [one for one, _ in inside],
        "pointwise": [one for _, one in inside],
        "strengths": [one.strength for one in fit.smooths],
        "freedom": [one.freedom for one in fit.smooths],
    }


def best(sample: Sample, places: np.ndarray, strengths: list[float]) -> list[float]:
    """The factors on both strengths that REML chose at which drift and ln D err least, one after the other."""
    measurement, knots = sample
    found = []
    for i in range(2):
        off = []
        for factor in FACTORS:
            drifts, others = (one * (factor if k == i else 1.0) for k, one in enumerate(strengths))
            off.append(errors(jd.fit(equation(knots, (drifts, others)), measurement, progress=False), places)[i])
        found.append(float(FACTORS[int(np.argmin(off))]))
    return found


def measure(options: Options) -> Entries:
    found: Entries = []
    for kind, (make, size, name) in KINDS.items():
        if options.smoke and kind == "many paths":
            continue  # which are then as many
        repeats = 2 if options.smoke else (REPEATS // 5 if kind == "many paths" else REPEATS)
        places, size = PLACES["paths" in kind], SHORT[kind] if options.smoke else size
        began = time.perf_counter()
        runs = [once(make(np.random.default_rng([19, i]), size), places) for i in range(repeats)]
        column = lambda key, runs=runs: np.array([one[key] for one in runs], float)
        row: dict[str, Any] = {"kind": name, "size": size, "repeats": repeats, "runs": runs}
        row |= {"first": runs[0]["seconds"], "seconds": float(np.median(column("seconds")[1:]))}
        row |= {key: np.mean(column(key), axis=0).tolist() for key in ("converged", "held", "pointwise", "freedom")}
        row["rms"] = np.sqrt(np.mean(column("rms") ** 2, axis=0)).tolist()
        if not options.smoke and kind != "many paths":
            row["best"] = [
                best(make(np.random.default_rng([19, i]), size), places, runs[i]["strengths"]) for i in range(STRONGER)
            ]
        found.append(row)
        print(
            {key: value for key, value in row.items() if key != "runs"}, round(time.perf_counter() - began), flush=True
        )
    return found


def table(found: Entries) -> str:
    header = [
        "",
        "repeats",
        "drift: rms",
        "ln D: rms",
        "bands that hold in %",
        "at each place in %",
        "the first",
        "a fit",
    ]
    rows, strengths = [], []
    for one in found:
        percent = lambda key, one=one: ", ".join(f"{100 * share:.0f}" for share in one[key])
        rms = [f"{value:.3f}" for value in one["rms"]]
        times = [seconds(one["first"]), seconds(one["seconds"])]
        rows.append([one["kind"], str(one["repeats"]), *rms, percent("held"), percent("pointwise"), *times])
        if "best" in one:
            within = np.mean(np.abs(np.log(one["best"])) < 1.01 * np.log(3), axis=0)
            strengths.append(f"{one['kind']}: {100 * within[0]:.0f} and {100 * within[1]:.0f} %")
    text = f"""Drift 2 (x − x³) + 0.3 and D = 0.4 exp(½ sin 1.5 x) as splines whose smoothness REML chooses. Bands that hold: simultaneous 95 %
bands, of drift and of D, with the truth inside at all places; a fit: median, with error bars, after the first.

{markdown(header, rows)}"""
    if strengths:
        text += f"\n\nStrengths within a factor of 3 of those with the least error, of {STRONGER} repeats, of drift and of ln D: {'; '.join(strengths)}."
    return text


def main(options: Options) -> None:
    """Repeat and publish."""
    found = measure(options)
    publish(options, "fields", {"fields": found}, table(found))
