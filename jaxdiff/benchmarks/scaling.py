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
    Entries,
    Options,
    compare,
    figure,
    markdown,
    publish,
    seconds,
    select,
)

END = 0.02  # time to which planes and boxes are solved
DEAR = 4.0  # seconds estimated for a call: the larger sizes are left out

Maker = Callable[[int, str], Callable[[], Any]]


def plain(axes: int, varies: bool, **options: Any) -> Maker:
    """`jd.solve` to one time, in cells on each axis."""
    return lambda n, dtype: _solve(axes, n, varies, dtype, [0.0, END], **options)


def outputs(axes: int, n: int, varies: bool) -> Maker:
    """`jd.solve` to the same end by way of so many output times."""
    times = lambda count: np.linspace(0.0, END, count + 1)
    return lambda count, dtype: _solve(axes, n, varies, dtype, times(count), tolerance=1e-6)


def steps(stepper: Any, axes: int, n: int) -> Maker:
    """So many equal steps, each as short as the explicit ones must be."""
    times = lambda count: [0.0, count * 0.1 / (axes * n**2)]
    return lambda count, dtype: _solve(axes, n, True, dtype, times(count), stepper=stepper, substeps=count)


def _solve(axes: int, n: int, varies: bool, dtype: str, times: Any, **options: Any) -> Callable[[], Any]:
    grid = jd.Grid.uniform(*[(0.0, 1.0, n)] * axes)
    x = jnp.meshgrid(*(jnp.asarray(c, dtype) for c in grid.centers), indexing="ij")
    bump = jnp.exp(-50 * sum((a - 0.5) ** 2 for a in x))
    d = 1 + 0.5 * jnp.sin(2 * np.pi * x[0]) * jnp.cos(2 * np.pi * x[-1]) if varies else jnp.ones((), dtype)
    run = jax.jit(lambda d, u: jd.solve(jd.Diffusion(d), grid, u, times, **options).values[-1])
    return lambda: run(d, bump)


# What grows, the name of a line, its maker, and the sizes.
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


def measure(options: Options) -> Entries:
    """An entry per device, line and size, in the first precision, each line as far as it stays affordable."""
    entries: Entries = []
    dtype = options.dtypes[0]
    for device in options.devices:
        with jax.enable_x64(dtype == "float64"), jax.default_device(device):
            for axis, lines in LINES.items():
                for name, make, sizes in lines:
                    print(f"{device.platform} {dtype}: {axis}, {name}", flush=True)
                    facts = {"device": device.platform, "dtype": dtype, "grows": axis, "line": name}
                    entries += [facts | e for e in _line(make, sizes[: 2 if options.smoke else None], dtype, options)]
    return entries


def _line(make: Maker, sizes: tuple[int, ...], dtype: str, options: Options) -> Entries:
    found: Entries = []
    for n in sizes:
        past = select(found, "median")
        if len(past) > 1:
            slope = max(_slope(past[-2:]), 1.0)
            if past[-1]["median"] * (n / past[-1]["size"]) ** slope > DEAR:
                break
        record, _ = compare({"": make(n, dtype)}, patience=2.0, most=11, smoke=options.smoke)[""]
        found.append({"size": n, **record})
    return found


def _slope(entries: Entries) -> float:
    """The power with which time grows between the first and the last."""
    first, last = entries[0], entries[-1]
    return float(np.log(last["median"] / first["median"]) / np.log(last["size"] / first["size"]))


def table(entries: Entries) -> str:
    parts = []
    for axis, lines in LINES.items():
        sizes = sorted({e["size"] for e in select(entries, grows=axis)})
        rows = []
        for kind, dtype in dict.fromkeys((e["device"], e["dtype"]) for e in entries):
            for name, *_ in lines:
                timed = select(entries, "median", device=kind, dtype=dtype, line=name, grows=axis)
                found = {e["size"]: e["median"] for e in timed}
                times = [seconds(found.get(n)) for n in sizes]
                power = f"{_slope(timed[-2:]):.2f}" if len(timed) > 1 else "–"
                rows.append([f"{kind.upper()}, {dtype}: {name}", *times, power])
        parts.append(markdown([axis, *(f"{n:,}" for n in sizes), "power at the end"], rows))
    tables = "\n\n".join(parts)
    return f"""Time of one call of `jd.solve` inside a user's jit (of the whole batch, in the last table). The last column is p in time ∝ sizeᵖ between
the two largest sizes; larger ones would have taken more than {DEAR:.0f} s. Planes and boxes: t = {END}, tolerance 1e-6 where D is an array. Devices that share
one solve: {"one device in this run, nothing to share" if len(jax.devices()) == 1 else f"{len(jax.devices())} are present, sharing is not measured yet"}.

{tables}"""


def picture(entries: Entries) -> Any:
    made, axes = figure(1, len(LINES))
    kinds = list(dict.fromkeys(e["device"] for e in entries))
    for ax, (axis, lines) in zip(axes[0], LINES.items(), strict=True):
        for i, (name, *_) in enumerate(lines):
            for kind in kinds:
                line = select(entries, "median", grows=axis, line=name, device=kind)
                label = name if len(kinds) == 1 else f"{kind.upper()}: {name}"
                style = {"color": COLOURS[i], "marker": MARKERS[kinds.index(kind)], "label": label}
                ax.loglog([e["size"] for e in line], [e["median"] for e in line], linewidth=1, markersize=4, **style)
        ax.set(xlabel=axis, ylabel="time [s]")
        ax.legend(fontsize=7, frameon=False)
    return made


def main(options: Options) -> None:
    """Measure and publish."""
    entries = measure(options)
    publish(options, "scaling", {"entries": entries}, table(entries), picture(entries))
