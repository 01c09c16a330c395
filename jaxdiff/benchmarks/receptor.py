"""Fourteen rates of the IP₃ receptor of Sneyd & Dufour 2002 from random starts: how many fits end at the optimum."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks.harness import Entries, Options, clock, markdown, publish, seconds
from jaxdiff.inference.batch import STATUS, Batch, BatchData
from jaxdiff.inference.losses import choose
from jaxdiff.inference.objective import Objective, assemble
from jaxdiff.inference.run import Run
from jaxdiff.integration.options import SolverOptions
from jaxdiff.measurements.stacks import repeated
from jaxdiff.runtime.progress import Progress

FOLDER = Path(__file__).resolve().parents[2] / "data" / "sneyd_ip3"
OPTIMUM = -319.79177704  # −ln L, of the collection that the tables are from
NEAR = 0.1
STARTS, SEED, STEPS = 50, 0, 400
STATES = jd.States(["O", "R", "I1", "S", "A", "I2"])


def receptor(Ca, IP3, k1, k2, k3, k4, k_1, k_2, k_3, k_4, l2, l4, l6, l_2, l_4, l_6):
    """The six states, of which O and A are open; rates are not scaled."""
    L1, L3, L5 = (k_1 / k1) / (l_2 / l2), (k_2 / k2) / (l_4 / l4), (k_4 / k4) / (l_6 / l6)
    rates = {
        "O R": (k_2 + l_4 * Ca) / (1 + Ca / L5),
        "R O": (k2 * L3 + l4 * Ca) / (L3 + Ca * (1 + L3 / L1)) * IP3,
        "R I1": (k1 * L1 + l2) * Ca / (L1 + Ca * (1 + L1 / L3)),
        "I1 R": k_1 + l_2,
        "O A": (k4 * L5 + l6) * Ca / (L5 + Ca),
        "A O": L1 * (k_4 + l_6) / (L1 + Ca),
        "A I2": (k1 * L1 + l2) * Ca / (L1 + Ca),
        "I2 A": k_1 + l_2,
        "O S": k3 * L5 / (L5 + Ca),
        "S O": k_3,
    }
    matrix = jnp.zeros((6, 6))
    for jump, rate in rates.items():
        source, target = map(STATES.labels.index, jump.split())
        matrix = matrix.at[target, source].set(rate)
    return jd.Observed(jd.MasterEquation(matrix), observe=lambda u: u**4)


@cache
def problem() -> tuple[Any, list[Any], Callable[..., Any]]:
    """The tables, readings with the published noise, and the model of scaled rates.

    Raises FileNotFoundError without a checkout, where the tables lie.
    """
    tables = jd.read_petab(FOLDER)
    data = tables.readings(STATES, STATES.delta("R"), jd.Weighted([0.1, 0.0, 0.0, 0.0, 0.9, 0.0]))
    return tables, data, lambda Ca, IP3, **scaled: receptor(Ca, IP3, **tables.natural(scaled))


def from_starts(shares: np.ndarray, steps: int) -> tuple[Entries, float]:
    """Fits whose starts lie at these shares `(k, 14)` of the way from the lower to the upper bounds of the logarithms, run
    as `jd.multistart` runs them; and seconds of all together."""
    tables, data, model = problem()
    fitted, function, sources, _ = assemble(model, tables.parameters, tuple(data), ())
    run = Run(Objective(function, choose(None, data), *sources), fitted, tuple(data), SolverOptions(), Progress(False))
    stacks = tuple(repeated(one, len(shares)) for one in data)
    starts = BatchData(np.log(shares) - np.log1p(-shares), ({},) * len(stacks), {})
    many = Batch(run, starts, jd.LevenbergMarquardt(), steps, jax.devices("cpu")[:1], 10)
    taken, ended = clock(lambda: list(many.run_all(np.arange(len(shares)))))
    rows = [
        {
            "start": shares[i].tolist(), "first": float(first), "loss": float(loss), "ended": STATUS[status],
            "steps": int(iterations),
        }
        for part in ended
        for i, first, loss, status, iterations in zip(
            part.which, part.history[:, 0], part.here.value, part.status, part.iterations, strict=True
        )
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row["loss"]), taken


def summary(rows: Entries) -> dict[str, Any]:
    losses = np.array([row["loss"] for row in rows])
    return {
        "starts": len(rows),
        "near": int((losses <= OPTIMUM + NEAR).sum()),
        "within 1": int((losses <= OPTIMUM + 1).sum()),
        "best": float(losses.min()),
        "median": float(np.median(losses)),
        "moved": int(sum(row["loss"] < row["first"] - 1.0 for row in rows)),
    }


def main(options: Options) -> None:
    """Write receptor.json and receptor.md."""
    starts, steps = (2, 5) if options.smoke else (STARTS, STEPS)
    shares = np.random.default_rng(SEED).uniform(size=(starts, 14))
    with jax.enable_x64(True):
        rows, taken = from_starts(shares, steps)
    total = summary(rows)
    header = [
        "starts",
        f"within {NEAR:g} of the optimum",
        "within 1",
        "best",
        "median",
        "gained more than 1",
        "all fits",
    ]
    line = [
        str(starts), f"{total['near']}, {total['near'] / starts:.0%}", f"{total['within 1']}", f"{total['best']:.4f}",
        f"{total['median']:.4f}", str(total["moved"]), seconds(taken),
    ]  # fmt: skip
    text = markdown(header, [line])
    text += f"""

Levenberg–Marquardt on 14 rates, sigma as published, {steps} steps at most, from starts drawn log-uniformly between the bounds (seed {SEED}),
each counted once, without a scan before or after; the optimum is −ln L = {OPTIMUM}."""
    publish(options, "receptor", {"seed": SEED, "steps": steps, "seconds": taken, "summary": total, "fits": rows}, text)
