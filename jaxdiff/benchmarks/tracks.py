"""Tracks with localisation noise and motion blur, over many repeats: scatter beside the Cramér–Rao bound, bias, coverage, false alarms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks.harness import Entries, Options, markdown, publish

PARTS = 30  # of an interval, of which tracks are made
WIDE = jd.Grid.uniform((-1e4, 1e4, 10))  # free space
REPEATS = {"free": 100, "trap": 10, "mixture": 40}
SHORT = {"free": 3, "trap": 2, "mixture": 2}


def moved(
    rng: Any,
    count: int,
    frames: int,
    *,
    k: float = 0.0,
    D: float = 1.0,
    dt: float = 0.1,
    exposure: float = 0.0,
    noise: float = 0.0,
) -> np.ndarray:
    """Tracks (count, frames), free or in a trap of rate k at rest: means over the end of each interval, and noise."""
    from scipy.signal import lfilter

    decay = np.exp(-k * dt / PARTS)
    spread = np.sqrt(D / k * (1 - decay**2)) if k else np.sqrt(2 * D * dt / PARTS)
    start = rng.normal(size=(count, 1)) * (np.sqrt(D / k) * decay if k else 0.0)
    x = lfilter([1.0], [1.0, -decay], rng.normal(0, spread, (count, frames * PARTS + 1)), zi=start)[0]
    if not exposure:
        return x[:, PARTS::PARTS] + noise * rng.normal(size=(count, frames))
    between = ((x[:, 1:] + x[:, :-1]) / 2).reshape(count, frames, PARTS)
    return between[:, :, -round(PARTS * exposure / dt) :].mean(2) + noise * rng.normal(size=(count, frames))


@dataclass(frozen=True)
class Free:
    """One free track: D = 1, Δ = 0.1, noise √(DΔ)/ratio."""

    ratio: float
    steps: int
    exposure: float = 0.0

    @property
    def name(self) -> str:
        return f"free, √(DΔ)/s = {self.ratio:g}, {self.steps} steps" + (", exposed all along" if self.exposure else "")

    @property
    def noise(self) -> float:
        return float(np.sqrt(0.1) / self.ratio)

    @property
    def bound(self) -> float:
        """Cramér and Rao's, of D over D where the noise is fitted too."""
        bend = 1 - np.cos(np.arange(1, self.steps + 1) * np.pi / (self.steps + 1))
        variance = 0.2 - 2 * self.exposure / 3 * bend + 2 * self.noise**2 * bend
        slopes = np.stack([0.2 - 2 * self.exposure / 3 * bend, 2 * bend]) / variance
        return float(np.sqrt(np.linalg.inv(slopes @ slopes.T / 2)[0, 0]))

    @property
    def vestergaard(self) -> float:
        """The deviation of the covariance estimator of D over D, Vestergaard, Blainey & Flyvbjerg 2014, doi:10.1103/PhysRevE.89.022726."""
        e, n = self.noise**2 / 0.1 - self.exposure / 0.3, self.steps
        return float(np.sqrt((6 + 4 * e + 2 * e**2) / n + 4 * (1 + e) ** 2 / n**2))

    def draw(self, rng: Any) -> dict[str, Any]:
        x = moved(rng, 1, self.steps + 1, exposure=self.exposure, noise=self.noise)[0]
        track = jd.Trajectory(WIDE, 0.1 * np.arange(self.steps + 1), x, jd.Positive(0.2), self.exposure or None)
        step = np.diff(x)
        covariance = np.mean(step**2) / 0.2 + np.mean(step[1:] * step[:-1]) / 0.1
        truth = {"diffusivity": 1.0, "initial.noise": self.noise}
        return _fitted(jd.Diffusion(jd.Positive(0.5)), track, truth, msd=np.mean(step**2) / 0.2, covariance=covariance)


@dataclass(frozen=True)
class Trap:
    """Ten tracks of a thousand steps in a trap of k = D = 1."""

    dt: float
    exposure: float
    noise: float
    steps: int = 1000

    @property
    def name(self) -> str:
        return f"trap, Δ = {self.dt:g}, τ = {self.exposure:g}, s = {self.noise:g}"

    def draw(self, rng: Any) -> dict[str, Any]:
        x = moved(rng, 10, self.steps + 1, k=1.0, dt=self.dt, exposure=self.exposure, noise=self.noise)
        times = [self.dt * np.arange(self.steps + 1)] * 10
        noise = jd.Positive(0.2) if self.noise else None
        track = jd.Trajectory(jd.Grid.uniform((-50.0, 50.0, 10)), times, list(x), noise, self.exposure)
        before, after = x[:, :-1].ravel(), x[:, 1:].ravel()
        slope = np.cov(before, after)[0, 1] / np.var(before, ddof=1)
        left = np.mean((after - after.mean() - slope * (before - before.mean())) ** 2)
        rate = -np.log(slope) / self.dt
        model = jd.FokkerPlanck(jd.Expression("-k*x", k=jd.Positive(0.5)), jd.Positive(0.5))
        truth = {"drift.k": 1.0, "diffusivity": 1.0} | ({"initial.noise": self.noise} if self.noise else {})
        return _fitted(model, track, truth, k=rate, D=left * rate / (1 - slope**2))


@dataclass(frozen=True)
class Population:
    """Three hundred tracks of twenty steps in two states."""

    tracks: int = 300
    name: str = "mixture, D = 0.05 and 1, 30 % slow"

    def draw(self, rng: Any) -> dict[str, Any]:
        slow = rng.uniform(size=self.tracks) < 0.3
        x = [moved(rng, 1, 21, D=0.05 if one else 1.0, exposure=0.05, noise=0.1)[0] for one in slow]
        seen = jd.Trajectory(WIDE, [0.1 * np.arange(21)] * self.tracks, x, jd.Positive(0.2), 0.05)
        states = [jd.Diffusion(jd.Positive(0.1)), jd.Diffusion(jd.Positive(0.5))]
        truth = dict(
            zip(
                ("equations.0.diffusivity", "equations.1.diffusivity", "shares.0", "initial.noise"),
                (0.05, 1.0, 0.3, 0.1),
                strict=True,
            )
        )
        return _fitted(jd.Mixture(states, jd.Bounded(0.5, 0, 1)), seen, truth)


def _fitted(model: Any, track: Any, truth: dict[str, float], **others: Any) -> dict[str, Any]:
    fit = jd.fit(model, track, progress=False)
    inside = {name: bool(low <= truth[name] <= high) for name, (low, high) in fit.intervals.items() if np.isfinite(low)}
    return {
        "estimates": {name: float(fit.parameters[name]) for name in truth},
        "inside": inside,  # of those with an error bar
        "wrong": fit.verdict.describes is False,
        "converged": fit.converged,
        **{name: float(value) for name, value in others.items()},
        "truth": truth,
    }


def study(problem: Any, repeats: int, seed: int = 0) -> dict[str, Any]:
    """Of so many repeats: medians and scatter of each estimate over the truth, coverage of 95 % intervals, false alarms."""
    found = [problem.draw(np.random.default_rng([seed, i])) for i in range(repeats)]
    entry: dict[str, Any] = {"problem": problem.name, "repeats": repeats, "parameters": {}}
    for name, value in found[0]["truth"].items():
        x = np.array([one["estimates"][name] for one in found]) / value
        inside = [one["inside"][name] for one in found if name in one["inside"]]
        entry["parameters"][name] = {
            "median": float(np.median(x)),
            "rmse": float(np.sqrt(np.mean((x - 1) ** 2))),
            "coverage": float(np.mean(inside)) if inside else None,
            "at zero": repeats - len(inside),
        }
    for name in ("msd", "covariance", "k", "D"):
        if name in found[0]:
            x = np.array([one[name] for one in found])
            entry[name] = {"median": float(np.median(x)), "rmse": float(np.sqrt(np.mean((x - 1) ** 2)))}
    for name in ("bound", "vestergaard"):
        if hasattr(problem, name):
            entry[name] = getattr(problem, name)
    entry["called wrong"] = float(np.mean([one["wrong"] for one in found]))
    entry["converged"] = float(np.mean([one["converged"] for one in found]))
    return entry


FREE = [Free(ratio, steps, exposure) for steps in (100, 1000) for ratio in (3.0, 1.0, 0.5) for exposure in (0.0, 0.1)]
TRAPS = [Trap(0.3, 0.3, 0.0), Trap(0.3, 0.2, 0.3), Trap(0.1, 0.1, 0.3)]


def measure(repeats: dict[str, int], smoke: bool = False) -> Entries:
    found: Entries = []
    for kind, problems in (
        ("free", FREE[:2] if smoke else FREE),
        ("trap", [Trap(0.1, 0.1, 0.3, 100)] if smoke else TRAPS),
        ("mixture", [Population(60 if smoke else 300)]),
    ):
        for problem in problems:
            found.append({"kind": kind, **study(problem, repeats[kind])})
            print(found[-1], flush=True)
    return found


def table(found: Entries) -> str:
    share = lambda x: "–" if x is None else f"{100 * x:.1f} %"
    free = [
        [
            one["problem"],
            f"{one['msd']['rmse']:.3g}",
            f"{one['covariance']['rmse']:.3g} ({one['vestergaard']:.3g})",
            f"{one['parameters']['diffusivity']['rmse']:.3g}",
            f"{one['bound']:.3g}",
            share(one["parameters"]["diffusivity"]["coverage"]),
            str(one["parameters"]["diffusivity"]["at zero"]),
            share(one["called wrong"]),
        ]
        for one in found
        if one["kind"] == "free"
    ]
    others = [
        [
            one["problem"] if i == 0 else "",
            name,
            f"{part['median']:.3f} ± {part['rmse']:.3f}",
            f"{one[short]['median']:.3f}" if (short := {"drift.k": "k", "diffusivity": "D"}.get(name)) in one else "–",
            share(part["coverage"]),
            share(one["called wrong"]),
        ]
        for one in found
        if one["kind"] != "free"
        for i, (name, part) in enumerate(one["parameters"].items())
    ]
    return f"""Relative error (root mean square) of D of one free track, noise fitted too; of mean squares, of the covariance estimator (what its
published formula says), and of `jd.fit` beside the Cramér–Rao bound. Coverage is of those with an error bar; in the others D ran to zero.

{markdown(["", "mean squares", "covariance", "fit", "bound", "95 % intervals that hold", "D at zero", "called wrong"], free)}

Estimates over the truth, median ± root mean square error; of a trap also by the AR(1) of exact positions.

{markdown(["", "", "fit", "AR(1)", "95 % intervals that hold", "called wrong"], others)}"""


def main(options: Options) -> None:
    """Repeat and publish."""
    found = measure(SHORT if options.smoke else REPEATS, options.smoke)
    publish(options, "tracks", {"rows": found}, table(found))
