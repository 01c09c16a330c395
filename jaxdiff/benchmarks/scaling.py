"""What a solve costs as its cells, output times, steps or batch grow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks.batches import solves
from jaxdiff.benchmarks.harness import (
    COLOURS,
    MARKERS,
    Options,
    Timing,
    compare,
    facts,
    figure,
    footer,
    markdown,
    publish,
    seconds,
)

END = 0.02  # time to which planes and boxes are solved
DEAR = 4.0  # seconds foreseen for a call: the larger sizes are left out

Maker = Callable[[int, str], Callable[[], Any]]


def plain(axes: int, varies: bool, **options: Any) -> Maker:
    """`jd.solve` to one time, in cells on each axis."""

    def make(n: int, dtype: str) -> Callable[[], Any]:
        return _solve(jd.Grid.uniform(*[(0.0, 1.0, n)] * axes), varies, dtype, [0.0, END], **options)

    return make


def outputs(axes: int, n: int, varies: bool) -> Maker:
    """`jd.solve` to the same end by way of so many output times."""

    def make(count: int, dtype: str) -> Callable[[], Any]:
        grid = jd.Grid.uniform(*[(0.0, 1.0, n)] * axes)
        return _solve(grid, varies, dtype, np.linspace(0.0, END, count + 1), tolerance=1e-6)

    return make


def steps(stepper: Any, axes: int, n: int) -> Maker:
    """So many equal steps, each as short as the explicit ones must be."""

    def make(count: int, dtype: str) -> Callable[[], Any]:
        end = count * 0.1 / (axes * n**2)
        return _solve(
            jd.Grid.uniform(*[(0.0, 1.0, n)] * axes), True, dtype, [0.0, end], stepper=stepper, substeps=count
        )

    return make


def _solve(grid: jd.Grid, varies: bool, dtype: str, times: Any, **options: Any) -> Callable[[], Any]:
    x = jnp.meshgrid(*(jnp.asarray(c, dtype) for c in grid.centers), indexing="ij")
    bump = jnp.exp(-50 * sum((a - 0.5) ** 2 for a in x))
    d = 1 + 0.5 * jnp.sin(2 * np.pi * x[0]) * jnp.cos(2 * np.pi * x[-1]) if varies else jnp.ones((), dtype)
    run = jax.jit(lambda d, u: jd.solve(jd.Diffusion(d), grid, u, times, **options).values[-1])
    return lambda: run(d, bump)


# What grows, the name of a line, its maker, and the sizes; `cells` tells how many cells a size has, to foresee its cost.
CELLS = (
    ("1-D, D an array", plain(1, True), (64, 256, 1024, 4096, 16384)),
    ("2-D, D an array", plain(2, True, tolerance=1e-6), (32, 64, 128, 256, 512)),
    ("2-D, D = 1", plain(2, False), (32, 64, 128, 256, 512, 1024)),
    ("2-D, D = 1, Spectral", plain(2, False, scheme=jd.Spectral()), (32, 64, 128, 256, 512, 1024)),
    ("3-D, D an array", plain(3, True, tolerance=1e-6), (8, 16, 32, 64)),
    ("3-D, D = 1", plain(3, False), (8, 16, 32, 64, 128)),
)
COUNT = (1, 4, 16, 64, 256)
LINES = {
    "cells on each axis": CELLS,
    "output times": (
        ("1-D, 256 cells", outputs(1, 256, True), COUNT),
        ("2-D, 64², D an array", outputs(2, 64, True), COUNT),
        ("2-D, 64², D = 1", outputs(2, 64, False), COUNT),
    ),
    "steps": (
        ("ForwardEuler, 2-D, 128²", steps(jd.ForwardEuler(), 2, 128), (16, 64, 256, 1024, 4096)),
        ("RungeKutta4, 2-D, 128²", steps(jd.RungeKutta4(), 2, 128), (16, 64, 256, 1024)),
        ("TRBDF2, 1-D, 256 cells", steps(jd.TRBDF2(), 1, 256), (16, 64, 256, 1024, 4096)),
    ),
    "batch": (
        ("1-D, 64 cells", lambda k, dtype: solves(64, k, dtype), (1, 4, 16, 64, 256, 1024, 4096)),
        ("1-D, 256 cells", lambda k, dtype: solves(256, k, dtype), (1, 4, 16, 64, 256, 1024, 4096)),
        ("gradients, 256 cells", lambda k, dtype: solves(256, k, dtype, True), (1, 4, 16, 64, 256, 1024)),
    ),
}  # devices: a line over how many share a solve goes here once a solve can be shared


def measure(options: Options) -> list[dict[str, Any]]:
    """An entry per device, precision, line and size, each line as far as it stays affordable."""
    entries: list[dict[str, Any]] = []
    for device in options.devices:
        for dtype in options.dtypes[:1]:
            with jax.enable_x64(dtype == "float64"), jax.default_device(device):
                for axis, lines in LINES.items():
                    for name, make, sizes in lines:
                        print(f"{device.platform} {dtype}: {axis}, {name}", flush=True)
                        entries += _line(
                            device.platform,
                            dtype,
                            axis,
                            name,
                            make,
                            sizes[:2] if options.smoke else sizes,
                            options.smoke,
                        )
    return entries


def _line(
    device: str, dtype: str, axis: str, name: str, make: Maker, sizes: tuple[int, ...], smoke: bool
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for n in sizes:
        past = [e for e in found if "median" in e]
        if len(past) > 1:
            slope = max(_slope(past[-2:]), 1.0)
            if past[-1]["median"] * (n / past[-1]["size"]) ** slope > DEAR:
                break
        timing = compare({"": make(n, dtype)}, patience=2.0, most=11, smoke=smoke)[""]
        entry = {"device": device, "dtype": dtype, "grows": axis, "line": name, "size": n}
        found.append(entry | (timing.record() if isinstance(timing, Timing) else {"skipped": timing}))
    return found


def _slope(entries: list[dict[str, Any]]) -> float:
    """The power with which time grows between the first and the last."""
    first, last = entries[0], entries[-1]
    return float(np.log(last["median"] / first["median"]) / np.log(last["size"] / first["size"]))


def table(entries: list[dict[str, Any]], device: dict[str, Any]) -> str:
    parts = []
    for axis, lines in LINES.items():
        sizes = sorted({e["size"] for e in entries if e["grows"] == axis})
        rows = []
        for kind, dtype in dict.fromkeys((e["device"], e["dtype"]) for e in entries):
            for name, *_ in lines:
                found = {
                    e["size"]: e
                    for e in entries
                    if (e["device"], e["dtype"], e["line"]) == (kind, dtype, name) and e["grows"] == axis
                }
                timed = [e for e in found.values() if "median" in e]
                times = ["–" if n not in found else seconds(found[n].get("median")) for n in sizes]
                power = f"{_slope(timed[-2:]):.2f}" if len(timed) > 1 else "–"
                rows.append([f"{kind.upper()}, {dtype}: {name}", *times, power])
        parts.append(markdown([axis, *(f"{n:,}" for n in sizes), "power at the end"], rows))
    tables = "\n\n".join(parts)
    return f"""Time of one call of `jd.solve` inside a user's jit (of the whole batch, in the last table). The last column is p in time ∝ sizeᵖ between
the two largest sizes; larger ones would have taken more than {DEAR:.0f} s. Planes and boxes: t = {END}, tolerance 1e-6 where D is an array. Devices that share
one solve: {"one device in this run, nothing to share" if len(jax.devices()) == 1 else f"{len(jax.devices())} are present, sharing is not measured yet"}.

{tables}

{footer(device)}"""


def picture(entries: list[dict[str, Any]]) -> Any:
    made, axes = figure(1, len(LINES))
    kinds = list(dict.fromkeys(e["device"] for e in entries))
    for ax, (axis, lines) in zip(axes[0], LINES.items(), strict=True):
        for i, (name, *_) in enumerate(lines):
            for kind in kinds:
                line = [
                    e for e in entries if (e["grows"], e["line"], e["device"]) == (axis, name, kind) and "median" in e
                ]
                label = name if len(kinds) == 1 else f"{kind.upper()}: {name}"
                style = {"color": COLOURS[i], "marker": MARKERS[kinds.index(kind)], "label": label}
                ax.loglog([e["size"] for e in line], [e["median"] for e in line], linewidth=1, markersize=4, **style)
        ax.set_xlabel(axis)
        ax.set_ylabel("time [s]")
        ax.grid(alpha=0.25)
        ax.legend(fontsize=7, frameon=False)
    return made


def main(options: Options) -> None:
    """Measure and publish."""
    device, entries = facts(), measure(options)
    publish(options, "scaling", {"device": device, "entries": entries}, table(entries, device), picture(entries))
