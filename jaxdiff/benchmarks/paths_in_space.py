"""Paths in the plane whose truth is known: how far estimates are off over repeats, by how much they scatter, and how long they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks.harness import Entries, Options, clock, markdown, publish, seconds

WIDE = jd.Grid.uniform((-12.0, 12.0, 10), (-12.0, 12.0, 10))  # walls that no path meets
REPEATS, STEPS = 12, 1000
ROUNDS = 3  # of scoring
FINE = 200  # substeps of the paths that are drawn


@dataclass(frozen=True)
class Process:
    """Drift and D of a path in the plane, its truth, and the time between two frames."""

    name: str
    model: Callable[..., Any]
    truth: dict[str, float]
    interval: float
    start: tuple[float, float]

    def path(self, steps: int, seed: int) -> jd.Trajectory:
        times = self.interval * np.arange(steps + 1)
        x = jd.simulate(self.model(**self.truth), np.array(self.start), times, 1, seed, substeps=FINE)
        return jd.Trajectory(WIDE, times, np.asarray(x)[0])


def turning(k: Any, omega: Any, D1: Any, D2: Any) -> Any:
    return jd.FokkerPlanck(lambda x, y: (-k * x + omega * y, -omega * x - k * y), jd.PerAxis(D1, D2))


def van_der_pol(mu: Any, w2: Any, D1: Any, D2: Any) -> Any:
    return jd.FokkerPlanck(lambda x, y: (y, mu * (1 - x**2) * y - w2 * x), jd.PerAxis(D1, D2))


def fitzhugh_nagumo(eps: Any, gamma: Any, beta: Any, D1: Any, D2: Any) -> Any:
    return jd.FokkerPlanck(lambda x, y: ((x - x**3 - y) / eps, gamma * x - y + beta), jd.PerAxis(D1, D2))


def double_well(a: Any, c: Any, k: Any, D1: Any, D2: Any) -> Any:
    return jd.FokkerPlanck(lambda x, y: (a * (x - x**3) - c * y, -k * y - c * x), jd.PerAxis(D1, D2))


PROCESSES = (
    Process("turning", turning, {"k": 1.0, "omega": 2.0, "D1": 0.5, "D2": 0.5}, 0.2, (0.0, 0.0)),
    Process("Van der Pol", van_der_pol, {"mu": 1.0, "w2": 1.0, "D1": 0.1, "D2": 0.1}, 0.4, (1.0, 0.0)),
    Process(
        "FitzHugh–Nagumo",
        fitzhugh_nagumo,
        {"eps": 0.25, "gamma": 1.5, "beta": 0.8, "D1": 0.15, "D2": 0.1},
        0.2,
        (0.0, 0.0),
    ),
    Process("double well", double_well, {"a": 2.0, "c": 0.7, "k": 1.5, "D1": 0.4, "D2": 0.4}, 0.4, (0.9, -0.4)),
)


def by_scoring(process: Process, path: jd.Trajectory) -> tuple[np.ndarray, np.ndarray, float, list[int]]:
    """Where the likelihood of a path is largest, by steps of scoring from the truth with the information Σ s sᵀ; its standard
    errors; the seconds of a value with gradient, compiled; and the Gaussian pieces of the steps."""
    with jax.enable_x64(True):
        z = np.array(list(process.truth.values()))
        predictor: Any = path.prepare(process.model(**process.truth))
        for _ in range(ROUNDS):
            scores = np.asarray(_scores(process.model, z, predictor))
            information = scores.T @ scores
            z = z + np.linalg.solve(information, scores.sum(0))
        call = lambda: jax.block_until_ready(_both(process.model, jnp.asarray(z), predictor))
        call()
        fastest = min(clock(call)[0] for _ in range(3))
    return z, np.sqrt(np.diag(np.linalg.inv(information))), fastest, [block.pieces for block in predictor.plan.blocks]


@partial(jax.jit, static_argnums=0)
def _scores(model: Callable[..., Any], z: Any, predictor: Any) -> Any:
    return jax.jacfwd(lambda z: predictor.predict(model(*z), None).values)(z)


@partial(jax.jit, static_argnums=0)
def _both(model: Callable[..., Any], z: Any, predictor: Any) -> Any:
    return jax.value_and_grad(lambda z: jnp.sum(predictor.predict(model(*z), None).values))(z)


def tally(process: Process, repeats: int, steps: int) -> dict[str, Any]:
    """Median bias [%], its standard error, coverage of 95 % intervals, and times of so many repeats."""
    found, errors = [], []
    for seed in range(repeats):
        estimate, error, gradient, pieces = by_scoring(process, process.path(steps, seed))
        found.append(estimate)
        errors.append(error)
    truth = np.array(list(process.truth.values()))
    relative = 100 * (np.array(found) / truth - 1)
    inside = abs(np.array(found) - truth) < 1.96 * np.array(errors)
    named = lambda values: dict(zip(process.truth, map(float, values), strict=True))
    return {
        "process": process.name,
        "interval": process.interval,
        "steps": steps,
        "repeats": repeats,
        "pieces": pieces,
        "bias %": named(np.median(relative, 0)),
        "standard error of the bias %": named(1.25 * relative.std(0) / np.sqrt(repeats)),
        "standard error of one estimate %": named(100 * np.mean(errors, 0) / truth),
        "coverage": named(np.mean(inside, 0)),
        "seconds a value with gradient": gradient,
    }


def table(rows: Entries) -> str:
    lines = []
    for row in rows:
        bias, error = row["bias %"], row["standard error of the bias %"]
        told = ", ".join(f"{name} {bias[name]:+.1f} ± {error[name]:.1f}" for name in bias)
        coverage = ", ".join(f"{100 * share:.0f} %" for share in row["coverage"].values())
        pieces = ", ".join(map(str, row["pieces"]))
        time = seconds(row["seconds a value with gradient"])
        lines.append([row["process"], f"{row['interval']:g}", pieces, told, coverage, time])
    header = ["process", "interval", "pieces", "median bias in %", "intervals that hold", "value with gradient"]
    return f"""{markdown(header, lines)}

{rows[0]["repeats"]} paths of {rows[0]["steps"]} steps each, drawn with {FINE} substeps."""


def main(options: Options) -> None:
    """Repeat and publish."""
    repeats, steps = (1, 100) if options.smoke else (REPEATS, STEPS)
    rows = []
    for process in PROCESSES[: 1 if options.smoke else None]:
        rows.append(tally(process, repeats, steps))
        print(rows[-1], flush=True)
    publish(options, "paths_in_space", {"rows": rows}, table(rows))
