"""Into how many steps of time a transition is split: found by trial on a sample, on the host, once per plan."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jaxdiff.transition.chart import Chart
from jaxdiff.transition.kernel import Side, log_kernel
from jaxdiff.transition.quadrature import node_count, nodes

FAR = 12.0  # jumps beyond so many √duration have windows of their own


def count_substeps(chart: Chart, tolerance: float) -> tuple[list[int], float]:
    """(substeps of each class, largest δ³V_y² that they are good for).

    M substeps are enough when M and 2M agree on a sample, the extreme transitions included.
    """
    random, chosen, stress, groups = np.random.default_rng(0), [], 0.0, classes(chart)
    for members in groups:
        duration = chart.duration[members]
        share = tolerance / len(groups)
        share = min(share, 1e-6 * len(members)) if chart.jump(members[:1])[0] > FAR else share
        sample, weight = _sample(chart, members, random)
        burden = chart.at(chart.start[sample]).force ** 2 * chart.duration[sample] ** 3  # δ³V_y² at M = 1
        least = max(fewest_steps(chart.length / math.sqrt(t)) for t in (duration.max(), duration.min()))
        steps = max(least, fewest_steps(8 / math.sqrt(2 * max(0.5, float(np.median(burden)) ** (1 / 3)))))
        value, before, stuck = _trial(chart, sample, steps), math.inf, 0
        while True:
            better = _trial(chart, sample, _doubled(steps))
            error = float(np.sum(np.abs(value - better) * weight))
            stuck = stuck + 1 if error > 0.5 * before else 0  # a kink limits what finer time can do
            if error <= share or stuck == 2 or steps > (2**13 if np.isfinite(error) else 2**8):
                break
            steps, value, before = _doubled(steps), better, error
        if not np.isfinite(error):
            raise ValueError(
                "the transition densities are not finite; check drift, diffusivity and killing near the path"
            )
        chosen.append(steps)
        ease = 4 * max(1.0, min(16.0, share / max(error, 1e-300)))
        largest = float(np.max(chart.at(chart.start[members]).force ** 2 * duration**3))
        stress = max(stress, ease * steps**-3.0 * largest, 1e-6)
    return chosen, stress


def _sample(chart: Chart, members: np.ndarray, random: Any) -> tuple[np.ndarray, np.ndarray]:
    """The longest jumps, the outermost starts and some at random; and how many transitions each stands for."""
    y_start, y_stop, duration = chart.y_start[members], chart.y_stop[members], chart.duration[members]
    alike = np.ptp(duration) < 1e-9 * duration[0]
    extremes = (-np.abs(y_stop - y_start) / np.sqrt(duration), y_start, -y_start)
    special = np.unique(np.concatenate([np.argsort(each)[: 3 if alike else 1] for each in extremes]))
    others = np.arange(len(members))
    others = np.setdiff1d(others, special) if len(members) < 100000 else others
    some = random.choice(others, min(16 if alike else 5, len(others)), replace=False) if len(others) else others
    weight = np.concatenate([np.ones(len(special)), np.full(len(some), len(others) / max(1, len(some)))])
    return members[np.concatenate([special, some]).astype(int)], weight


def classes(chart: Chart) -> list[np.ndarray]:
    """Transitions whose durations are within a factor of four share their number of substeps; far jumps have their own."""
    key = 2 * np.floor(np.log(chart.duration / chart.duration.min() * (1 + 1e-9)) / math.log(4.0))
    key = key + (chart.jump(slice(None)) > FAR)
    return [np.flatnonzero(key == k) for k in np.unique(key)]


def fewest_steps(length: float) -> int:
    """Substeps for which one image at each end of a domain `length` √duration long suffices."""
    steps = 1
    while 0.5 / steps > (length / 8) ** 2:
        steps = _doubled(steps)
    return steps


def _doubled(steps: int) -> int:
    return 2 if steps == 1 else 2 * steps - 1


def _trial(chart: Chart, members: np.ndarray, steps: int) -> np.ndarray:
    """Log kernels of a few transitions, in a window of their own or one for all if that is not much wider."""
    y0, y1, duration = chart.y_start[members], chart.y_stop[members], chart.duration[members]
    low, high = chart.range(np.minimum(y0, y1), np.maximum(y0, y1), duration)
    values = np.zeros(len(members))
    alike = np.ptp(duration) < 1e-9 * duration[0] and np.max(np.abs(y1 - y0)) < FAR * math.sqrt(duration[0])
    together = alike and np.max(high) - np.min(low) < 4 * np.max(high - low)
    for group in np.arange(len(members)).reshape(-1, len(members) if together else 1):
        values[group] = _trial_window(
            chart, y0[group], y1[group], low[group].min(), high[group].max(), duration[group[0]], steps
        )
    return values


def _trial_window(chart: Chart, y0: Any, y1: Any, low: float, high: float, duration: float, steps: int) -> np.ndarray:
    root, count, sides = math.sqrt(duration), len(y0), []
    if chart.wraps(duration):
        low, high = chart.y_bounds
        y1 = low + np.mod(y1 - low, chart.period)
        ends: tuple[str, ...] = ("periodic", "periodic")
    else:
        ends = tuple(chart.kind(k) if at else "open" for k, at in enumerate(chart.ends(low, high)))
    z, w = nodes(ends, node_count(ends, (high - low) / root, steps), (high - low) / root)
    half = (high - low) / 2
    y = np.concatenate([(low + high) / 2 + half * z, y0, y1])
    here = chart.at(chart.x(y))
    potential, force = here.potential * duration, here.force * duration * root
    if any(end.startswith("bessel") for end in ends):
        potential = duration * np.interp(y, chart.table, chart.potential)
        force = duration * root * np.interp(y, chart.table, np.gradient(chart.potential, chart.table))
    for k, end in enumerate(ends):
        place, sign = (low, high)[k], (1, -1)[k]
        if end.startswith("bessel"):
            order = chart.ratios[k] - 1
            sides.append(Side("bessel", place / root, abs(order) if end == "bessel absorbing" else order))
        elif end in ("reflecting", "absorbing"):
            mu = float(chart.at(np.array([chart.bounds[k]])).velocity[0])
            sides.append(Side(end, place / root, sign * mu * root))
    if ends[0] == "periodic":
        there = chart.at(np.linspace(*chart.bounds, 513)[:-1])
        gain = np.mean(there.drift / (2 * there.diffusivity)) * (chart.bounds[1] - chart.bounds[0])
        sides.append(Side("periodic", (high - low) / root, gain))
    n = len(z)
    with np.errstate(all="ignore"):
        return log_kernel(
            np, y[None, :n] / root, w[None] * half / root, potential[None, :n], force[None, :n], y0[None] / root, y1[None] / root,
            (potential[n : n + count] + potential[n + count :])[None], steps=steps, sides=sides,
            squaring=steps > 2 and 2 * steps * count > n * steps.bit_length(), tilted=count == 1,
        )[0]  # fmt: skip
