"""What a fit says of itself, over many repeats with other noise: false alarms, misfits that are found, coverage of intervals.

A problem makes one data set from a generator of random numbers and fits it. Right models must not be called wrong, and their
95 % intervals hold the truth; of wrong models the verdict must say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks.harness import Entries, Options, markdown, publish
from jaxdiff.inference.losses import negative_log_likelihood
from jaxdiff.inference.verdict import Verdict, verdict

REPEATS = {"right": 400, "wrong": 100}
SHORT = {"right": 4, "wrong": 2}
Found = tuple[Verdict, dict[str, bool]]  # the verdict, and whether the interval of each parameter holds the truth


def fitted(model: Any, measurement: Any, truth: dict[str, float], **options: Any) -> Found:
    """One fit, as a user makes it."""
    fit = jd.fit(model, measurement, progress=False, **options)
    return fit.verdict, {name: bool(low <= truth[name] <= high) for name, (low, high) in fit.intervals.items()}


def solved(equation: Any, grid: jd.Grid, start: Any, times: np.ndarray) -> np.ndarray:
    """The states without noise, (times, *cells)."""
    with jax.enable_x64(True):
        return np.asarray(jd.solve(equation, grid, start, times).values)


def ar1_noise(rng: Any, times: int, sensors: int, rho: float) -> np.ndarray:
    """AR(1) noise of unit variance at each sensor, (times, sensors)."""
    noise = rng.normal(size=(times, sensors))
    for i in range(1, times):
        noise[i] = rho * noise[i - 1] + np.sqrt(1 - rho**2) * noise[i]
    return noise


# An insulated bar of 0.6 m with three sensors, D = 1.1e-4 m²/s; in "loss" it loses heat, which the model lacks.
ROD = jd.Grid.uniform((0.0, 0.6, 60))
PLACES = np.array([0.05, 0.20, 0.45])
D_ROD = 1.1e-4
MODEL_ROD = jd.Diffusion(jd.Positive(5e-5))


def warm(x: Any) -> Any:
    return 20 + 30 * jnp.cos(jnp.pi * x / 0.6)


def rod(
    rng: Any, *, times: int = 30, sigma: float | None = None, rho: float = 0.0, loss: float = 0.0, zeros: int = 0
) -> Found:
    t = np.linspace(20.0, 600.0, times)
    wave = 30 * np.cos(np.pi * PLACES / 0.6) * np.exp(-D_ROD * (np.pi / 0.6) ** 2 * t[:, None])
    values = 20 + wave + 0.3 * ar1_noise(rng, times, len(PLACES), rho)
    values = values * np.exp(-loss * t[:, None])
    if zeros:  # a logger that stopped
        row = rng.integers(0, times - zeros)
        values[row : row + zeros, rng.integers(len(PLACES))] = 0.0
    rows = np.repeat(t, len(PLACES)), np.tile(PLACES, times), values.ravel()
    return fitted(MODEL_ROD, jd.Readings(ROD, warm, *rows, sigma=sigma), {"diffusivity": D_ROD})


# A slab between two walls that a thermometer reads, 41 times and as noisy as the two in it, which are read 20 times.
SLAB, CLOCK, INSIDE = jd.Grid.uniform((0.0, 1.0, 50)), np.linspace(0.0, 1.0, 41), np.array([0.2, 0.5])
WALL = 2 * np.sin(3 * CLOCK)


@cache
def driven() -> np.ndarray:
    with jax.enable_x64(True):
        slab = jd.Diffusion(0.5, boundaries=jd.Dirichlet(jd.Series(CLOCK, WALL)))
        return np.asarray(jax.vmap(lambda u: SLAB.interpolate(u, INSIDE))(solved(slab, SLAB, 0.0, CLOCK[::2])[1:]))


def walls(rng: Any) -> Found:
    sigma = 0.1
    read = jd.Series(CLOCK, WALL + sigma * rng.normal(size=WALL.shape))
    inside = driven() + sigma * rng.normal(size=driven().shape)
    rows = np.repeat(CLOCK[2::2], 2), np.tile(INSIDE, 20), inside.ravel()
    model = jd.Diffusion(jd.Positive(0.4), boundaries=jd.Dirichlet(read))
    return fitted(model, jd.Readings(SLAB, 0.0, *rows), {"diffusivity": 0.5})


# A bleached spot in 16 images of 24 × 24 pixels, with the noise of a camera; "immobile" is the share that does not move.
FIELD = jd.Grid.uniform((0.0, 24.0, 24), (0.0, 24.0, 24))
SPOT = {"D": 1.5, "depth": 0.8, "width": 3.0}
FRAMES = np.arange(16) * 0.8
STARTS = {"D": jd.Positive(1.0), "depth": jd.Positive(0.5), "width": jd.Positive(2.0)}


def spotted(D: Any, depth: Any, width: Any, x0: Any = 12.0, y0: Any = 12.0) -> Any:
    return jd.Diffusion(D), lambda x, y: 1 - depth * jnp.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * width**2))


@cache
def recovery() -> np.ndarray:
    equation, spot = spotted(**SPOT)
    return solved(equation, FIELD, spot, FRAMES)


def images(rng: Any, *, immobile: float = 0.0) -> Found:
    clean = recovery()
    values = (1 - immobile) * clean + immobile * clean[0] + rng.normal(0, 0.05, clean.shape)
    return fitted(spotted, jd.Readings.from_images(FIELD, None, FRAMES, values), SPOT, parameters=STARTS)


# Such a spot as a camera of 16 bits sees it, with photon noise and pixels without data, somewhere between the pixels; its light
# bleaches what it shows, over a background.
CAMERA = {**SPOT, "x0": 12.3, "y0": 11.6, "immobile": 0.22, "bleaching": 0.05, "background": 100.0, "light": 400.0}
GUESSES = {**STARTS, "x0": 12.0, "y0": 12.0, "immobile": jd.Bounded(0.1, 0.0, 1.0), "bleaching": 0.0}
GUESSES |= {"background": jd.Positive(80.0), "light": jd.Positive(300.0)}


def photographed(D: Any, depth: Any, width: Any, x0: Any, y0: Any, immobile: Any, bleaching: Any, **counts: Any) -> Any:
    equation, spot = spotted(D, depth, width, x0, y0)
    first = FIELD.average(spot)

    def pixel(u: Any, t: Any, x: Any, y: Any) -> Any:
        still = FIELD.interpolate(first, jnp.stack([x, y]))
        seen = (1 - immobile) * u + immobile * still
        return counts["background"] + counts["light"] * jnp.exp(-bleaching * t) * seen

    return jd.Observed(equation, first, pixel)


@cache
def lit() -> np.ndarray:
    """The counts without noise, solved on cells a third as wide as the pixels."""
    fine = jd.Grid.uniform((0.0, 24.0, 72), (0.0, 24.0, 72))
    names = ("D", "depth", "width", "x0", "y0")
    equation, spot = spotted(*(CAMERA[name] for name in names))
    u = solved(equation, fine, spot, FRAMES)
    u = u.reshape(-1, 24, 3, 24, 3).mean((2, 4))
    seen = (1 - CAMERA["immobile"]) * u + CAMERA["immobile"] * u[0]
    return CAMERA["background"] + CAMERA["light"] * np.exp(-CAMERA["bleaching"] * FRAMES)[:, None, None] * seen


def camera(rng: Any) -> Found:
    counts = np.round(rng.poisson(lit()) + rng.normal(0, 3, lit().shape)).astype(np.uint16)
    values = np.ma.masked_array(counts, np.broadcast_to(rng.uniform(size=(24, 24)) < 0.02, counts.shape))
    series = jd.Readings.from_images(FIELD, None, FRAMES, values)
    return fitted(photographed, series, CAMERA, parameters=GUESSES, errors="sandwich")


# A spot that spreads in 5 images, of which the first is the start, noise and all.
PLANE, MOMENTS = jd.Grid.uniform((0.0, 1.0, 24), (0.0, 1.0, 24)), np.linspace(0.0, 0.04, 5)


@cache
def spreading() -> np.ndarray:
    return solved(jd.Diffusion(0.3), PLANE, lambda x, y: jnp.exp(-((x - 0.5) ** 2 + (y - 0.4) ** 2) / 0.02), MOMENTS)


def from_first(rng: Any) -> Found:
    values = spreading() + 0.1 * rng.normal(size=spreading().shape)
    series = jd.Readings.from_images(PLANE, values[0], MOMENTS[1:], values[1:], start=0.0)
    return fitted(jd.Diffusion(jd.Positive(0.4)), series, {"diffusivity": 0.3})


# Five thousand particles at three times, which drift to the middle: k = 1, m = 0, D = 0.4.
LINE = jd.Grid.uniform((-3.0, 3.0, 240))
EDGES = np.linspace(-3, 3, 31)
AT = np.array([0.2, 0.5, 1.5])
TRAP = jd.FokkerPlanck(jd.Expression("k*(m - x)", k=jd.Positive(0.5), m=jd.Free(0.3)), jd.Positive(0.7))


def pulse(x: Any) -> Any:
    return jnp.exp(-((x - 2) ** 2) / 0.02)


def histograms(rng: Any) -> Found:
    width = np.sqrt(0.01 * np.exp(-2 * AT) + 0.4 * (1 - np.exp(-2 * AT)))
    counts = [np.histogram(rng.normal(2 * np.exp(-t), s, 5000), EDGES)[0] for t, s in zip(AT, width, strict=True)]
    truth = {"drift.k": 1.0, "drift.m": 0.0, "diffusivity": 0.4}
    return fitted(TRAP, jd.Histograms(LINE, pulse, AT, counts, EDGES), truth)


# A bead in a trap, k = D = 1, a position every 0.1; "blur" is the exposure as a share of it. The likelihood of this model has
# its maximum in closed form, where jd.fit ends too.
WELL = jd.Grid.uniform((-8.0, 8.0, 100))


def pull(k: Any, m: Any) -> Any:
    return jd.Expression("k*(m - x)", k=k, m=m)


def bead(rng: Any, *, steps: int = 1000, blur: float = 0.0) -> Found:
    from scipy.signal import lfilter

    dt, fine = 0.1, 20
    decay = np.exp(-dt / fine)
    noise = rng.normal(0, np.sqrt(1 - decay**2), steps * fine + fine)

    x = lfilter([1.0], [1.0, -decay], noise, zi=[decay * rng.normal()])[0]
    share = max(int(round(blur * fine)), 1)
    x = x[: (steps + 1) * fine].reshape(steps + 1, fine)[:, -share:].mean(1)
    before, after = x[:-1], x[1:]
    slope = float(np.clip(np.cov(before, after)[0, 1] / np.var(before, ddof=1), 1e-3, 0.999))
    offset = after.mean() - slope * before.mean()
    variance = float(np.mean((after - offset - slope * before) ** 2))
    k, m = -np.log(slope) / dt, offset / (1 - slope)
    equation = jd.FokkerPlanck(pull(k, m), variance * k / (1 - slope**2))
    path = jd.Trajectory(WELL, dt * np.arange(steps + 1), x)
    with jax.enable_x64(True):
        return verdict((path,), (negative_log_likelihood,), ((),), (None,), (equation,)), {}


RIGHT: dict[str, Callable[[Any], Found]] = {
    "readings, sigma known": lambda rng: rod(rng, sigma=0.3),
    "readings, sigma unknown": rod,
    "readings, AR(1) 0.5": lambda rng: rod(rng, times=200, rho=0.5),
    "readings, AR(1) 0.9": lambda rng: rod(rng, times=200, rho=0.9),
    "images": images,
    "images of a camera, 22 % immobile": camera,
    "images, from the first": from_first,
    "readings between walls that were read": walls,
    "histograms": histograms,
    "paths": bead,
}
WRONG: dict[str, Callable[[Any], Found]] = {
    "images of a recovery, 22 % immobile": lambda rng: images(rng, immobile=0.22),
    "path of a bead, positions averaged over the exposure": lambda rng: bead(rng, steps=4000, blur=1.0),
    "sigma three times too small": lambda rng: rod(rng, sigma=0.1),
    "five readings of zero": lambda rng: rod(rng, zeros=5),
    "a bar that loses heat, by a model without": lambda rng: rod(rng, loss=3e-4),
}


def measure(repeats: dict[str, int]) -> dict[str, Entries]:
    """The tallies of each right and each wrong model."""
    found: dict[str, Entries] = {"right": [], "wrong": []}
    for kind, problems in (("right", RIGHT), ("wrong", WRONG)):
        for name, problem in problems.items():
            found[kind].append({"problem": name, **tally(problem, repeats[kind])})
            print({key: value for key, value in found[kind][-1].items() if key != "reasons"}, flush=True)
    return found


def tally(problem: Callable[[Any], Found], repeats: int, seed: int = 0) -> dict[str, Any]:
    """Of so many repeats: how many the verdict calls wrong, and why first; how often the interval of each parameter holds."""
    reasons, covered = Counter[str](), Counter[str]()
    for i in range(repeats):
        judged, inside = problem(np.random.default_rng([seed, i]))
        reasons.update([" ".join(judged.reasons[0].split()[:3])] if judged.describes is False else [])
        covered.update({name: int(one) for name, one in inside.items()})
    return {
        "repeats": repeats,
        "flagged": reasons.total(),
        "reasons": dict(reasons.most_common()),
        "coverage": {name: count / repeats for name, count in covered.items()},
    }


def table(found: dict[str, Entries]) -> str:
    rows = []
    for one in found["right"]:
        coverage = ", ".join(f"{name} {100 * share:.1f} %" for name, share in one["coverage"].items()) or "–"
        rows.append([one["problem"], str(one["repeats"]), f"{100 * one['flagged'] / one['repeats']:.1f} %", coverage])
    wrong = [[one["problem"], str(one["repeats"]), str(one["flagged"])] for one in found["wrong"]]
    return f"""Right models: how often the verdict, all tests together, calls them wrong (its level is 2 %), and how often their 95 % intervals hold
the truth.

{markdown(["right model", "repeats", "called wrong", "95 % intervals that hold"], rows)}

Wrong models: how often that is said.

{markdown(["wrong model", "repeats", "found out"], wrong)}"""


def main(options: Options) -> None:
    """Repeat and publish."""
    found = measure(SHORT if options.smoke else REPEATS)
    publish(options, "coverage", found, table(found))
