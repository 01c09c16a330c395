"""Solves and fits per second by device, precision, batch and number of cells.

python -m benchmarks.throughput [--smoke] [--output DIR]

A solve is one exact exponential to t = 0.2 with its own array D, `batch` of them under one `jax.vmap`. A fit is four
coefficients from 300 readings: `jd.fit` one after another, and Gauss–Newton steps through `jd.solve` under `jax.vmap`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from benchmarks.conduction import Conduction, T
from benchmarks.fitters import NAMES, SIGMA, START, TRUTH, Bump, by_jaxdiff
from benchmarks.harness import (
    COLOURS,
    MARKERS,
    Options,
    Timing,
    compare,
    facts,
    figure,
    footer,
    gpus,
    markdown,
    publish,
)

STEPS = 8  # of Gauss–Newton, from which the start converges
ROOM = {"cpu": 2**20, "gpu": 2**26}  # cells × batch that a device is given at once


def solves(n: int, batch: int, dtype: str, device: Any) -> Any:
    problem = Conduction(n)
    grid = jd.Grid.uniform((0.0, 1.0, n))
    scale = np.linspace(0.5, 1.5, batch)[:, None]
    d = jax.device_put((scale * problem.diffusivity).astype(dtype), device)
    u = jax.device_put(problem.initial.astype(dtype), device)
    one = lambda d: jd.solve(jd.Diffusion(d), grid, u, [0.0, T]).values[-1]
    run = jax.jit(jax.vmap(one))
    return lambda: run(d)


def data(bump: Bump, batch: int) -> np.ndarray:
    equation, initial = bump.model(*TRUTH)
    clean = bump.sensed(
        np.asarray(jd.solve(equation, bump.grid, initial, np.concatenate([[0.0], bump.times])).values)[1:]
    )
    return clean + np.random.default_rng(0).normal(0.0, SIGMA, (batch, len(clean)))


def batched_fits(bump: Bump, batch: int, dtype: str, device: Any) -> Any:
    """(logarithms of the coefficients, their standard errors) for `batch` data sets at once."""
    values = jax.device_put(data(bump, batch).astype(dtype), device)
    times = np.concatenate([[0.0], bump.times])
    # Single precision resolves the coefficients to 1e-3 standard errors; half of its eight digits are the solver's.
    tolerance = 1e-9 if dtype == "float64" else 1e-5

    def residuals(logs: Any, row: Any) -> Any:
        equation, initial = bump.model(*jnp.exp(logs))
        u = jd.solve(equation, bump.grid, initial.astype(dtype), times, tolerance=tolerance).values[1:]
        return (bump.sensed(u) - row).astype(dtype) / SIGMA

    def fit(row: Any) -> Any:
        def step(logs: Any, _: Any) -> Any:
            difference, slopes = residuals(logs, row), jax.jacfwd(residuals)(logs, row)
            curvature = slopes.T @ slopes
            move = jnp.linalg.solve(curvature, slopes.T @ difference)
            return logs - jnp.clip(move, -0.7, 0.7).astype(dtype), curvature

        logs, curvature = jax.lax.scan(step, jnp.asarray(np.log(START), dtype), None, length=STEPS)
        return logs, jnp.sqrt(jnp.diagonal(jnp.linalg.inv(curvature[-1])))

    run = jax.jit(jax.vmap(fit))
    return lambda: run(values)


def plain_fits(bump: Bump, dtype: str, device: Any) -> Any:
    """jd.fit as it stands, new data every call."""
    run, values, calls = by_jaxdiff(bump, dtype), data(bump, 64), iter(range(10**9))

    def call() -> Any:
        with jax.default_device(device):
            return run(values[next(calls) % 64]).estimate

    return call


def measure(device: Any, smoke: bool) -> list[dict[str, Any]]:
    entries = []
    sizes, batches = ((32,), (4,)) if smoke else ((64, 256, 1024, 4096), (1, 16, 256, 4096))
    kind = "cpu" if device.platform == "cpu" else "gpu"

    def record(task: str, n: int, dtype: str, batch: int, call: Any) -> Any:
        timing = compare({"": call}, patience=4.0, most=31, smoke=smoke)[""]
        entry = {"device": kind, "task": task, "cells": n, "dtype": dtype, "batch": batch}
        if isinstance(timing, Timing):
            entries.append(entry | {"per second": batch / timing.median, **timing.record()})
            print(f"{kind} {task}, n = {n}, {dtype}, batch {batch}: {batch / timing.median:.4g} /s", flush=True)
            return timing.result
        entries.append(entry | {"skipped": timing})
        return None

    for dtype in ("float64", "float32"):
        with jax.enable_x64(dtype == "float64"), jax.default_device(device):
            for n in sizes:
                for batch in batches:
                    if n * batch <= ROOM[kind]:
                        record("solve", n, dtype, batch, solves(n, batch, dtype, device))
            bump = Bump(20 if smoke else 200, np.linspace(0.01, 0.6, 50))
            record("fit, jd.fit", bump.cells, dtype, 1, plain_fits(bump, dtype, device))
            for batch in (2,) if smoke else (1, 16, 256) if kind == "cpu" else (1, 16, 256, 4096):
                found = record("fit, vmap", bump.cells, dtype, batch, batched_fits(bump, batch, dtype, device))
                if found is not None:
                    _check(bump, found, dtype)
    return entries


def _check(bump: Bump, found: Any, dtype: str) -> None:
    """The batch's first fit ends where jd.fit does."""
    logs, errors = (np.asarray(x)[0] for x in found)
    expected = by_jaxdiff(bump)(data(bump, 1)[0])
    away = np.max(np.abs(logs - np.log(expected.estimate)) / expected.errors)
    limit = 0.01 if dtype == "float64" else 0.1
    assert away < limit, (
        f"the batched fit in {dtype} ends {away:.2g} standard errors from jd.fit, {dict(zip(NAMES, np.exp(logs)))}, {errors}"
    )


def table(entries: list[dict[str, Any]], device: dict[str, Any]) -> str:
    columns = [(kind, dtype) for kind in ("cpu", "gpu") for dtype in ("float64", "float32")]
    rates = {(e["device"], e["dtype"], e["task"], e["cells"], e["batch"]): e for e in entries}
    rows = []
    for task, n, batch in dict.fromkeys((e["task"], e["cells"], e["batch"]) for e in entries):
        cells = []
        for kind, dtype in columns:
            entry = rates.get((kind, dtype, task, n, batch))
            absent = "not measured" if kind == "gpu" and not device["gpu"] else "–"
            cells.append(
                absent
                if entry is None
                else "failed"
                if "skipped" in entry
                else f"{entry['per second']:,.0f}"
                if entry["per second"] >= 99.5
                else f"{entry['per second']:.2g}"
            )
        rows.append([task, str(n), str(batch), *cells])
    header = ["task", "cells", "batch", *(f"{kind.upper()}, {dtype}" for kind, dtype in columns)]
    return f"""Solves and fits per second. Solve: the exact exponential to t = 0.2, an array D for each, `batch` of them under one `jax.vmap` and `jit`. Fit: four
coefficients with standard errors from 300 readings at 50 times; `jd.fit` one after another (everything included), and {STEPS} Gauss–Newton steps through
`jd.solve` under `jax.vmap`, which end where `jd.fit` does (asserted).

{markdown(header, rows)}

{footer(device)}"""


def picture(entries: list[dict[str, Any]]) -> Any:
    made, axes = figure(1, 2)
    good = [e for e in entries if "per second" in e]
    for ax, task in zip(axes[0], ("solve", "fit"), strict=True):
        chosen = [e for e in good if e["task"].startswith(task)]
        lines = dict.fromkeys((e["device"], e["dtype"], e["task"], e["cells"]) for e in chosen)
        sizes = list(dict.fromkeys(key[3] for key in lines))
        for kind, dtype, name, n in lines:
            points = [e for e in chosen if (e["device"], e["dtype"], e["task"], e["cells"]) == (kind, dtype, name, n)]
            colour = COLOURS[sizes.index(n) + (4 if name == "fit, jd.fit" else 0)]
            label = f"{kind.upper()}, {dtype}, {f'n = {n}' if task == 'solve' else name.split(', ')[1]}"
            ax.loglog(
                [e["batch"] for e in points],
                [e["per second"] for e in points],
                color=colour,
                marker=MARKERS[sizes.index(n) if task == "solve" else 4 * (name == "fit, jd.fit")],
                linestyle="-" if dtype == "float64" else "--",
                linewidth=1 if kind == "cpu" else 2,
                markersize=5 if kind == "cpu" else 8,
                label=label,
            )
        ax.set_xlabel("batch")
        ax.set_ylabel(f"{task}s per second")
        ax.grid(alpha=0.25)
        ax.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    made.set_size_inches(11.5, 3.8)
    return made


def main() -> None:
    options = Options.parse(__doc__.splitlines()[0])
    device = facts()
    entries = []
    for processor in (jax.devices("cpu")[0], *gpus()[:1]):
        entries += measure(processor, options.smoke)
    content = {"device": device, "smoke": options.smoke, "entries": entries}
    publish(options, "throughput", content, table(entries, device), picture(entries))


if __name__ == "__main__":
    main()
