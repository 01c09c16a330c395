"""Updates, solves, gradients and fits per second by device, precision, size and batch, beside what a copy moves."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxdiff.benchmarks.batches import FITS, check, solves
from jaxdiff.benchmarks.fitters import Bump
from jaxdiff.benchmarks.harness import (
    COLOURS,
    MARKERS,
    Entries,
    Options,
    compare,
    failure,
    figure,
    markdown,
    missing,
    publish,
    select,
    skipped,
    write,
)
from jaxdiff.benchmarks.kernels import FUSED, KERNELS, LOOPS, Work, copy

LARGEST = {"cpu": 2**24, "other": 2**28}  # cells that are updated at once
ROOM = {"cpu": 2**20, "other": 2**26}  # cells × batch of small problems
COPIED = {"cpu": 2**27, "other": 2**31}  # bytes, several times the largest cache
LONG = 0.7  # seconds of a call after which nothing larger is tried
SOLVED, BATCHES = (256, 1024), (1, 256, 4096, 100_000)


def measure(options: Options) -> Entries:
    """An entry for every device, precision, kernel and size."""
    entries: Entries = []
    runs = [
        _Run(device, dtype, options, entries)
        for device in reversed(options.devices)  # the accelerator first: a run may be cut short
        for dtype in options.dtypes
        if not (device.platform == "tpu" and dtype == "float64")
    ]
    for kind in dict.fromkeys(run.kind for run in runs):
        for part in (_Run.copy, _Run.fits, _Run.solves, _Run.kernels):  # what is asked for most comes early
            for run in (run for run in runs if run.kind == kind):
                with jax.enable_x64(run.dtype == "float64"), jax.default_device(run.device):
                    part(run)
    return entries


class _Run:
    """The measurements on one device in one precision."""

    def __init__(self, device: Any, dtype: str, options: Options, entries: Entries):
        self.device, self.dtype, self.options, self.entries = device, dtype, options, entries
        self.smoke = options.smoke
        self.kind = "cpu" if device.platform == "cpu" else "other"
        self.bandwidth = np.nan
        limits = device.memory_stats() or {}
        self.memory = limits.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def record(self, name: str, size: int, label: str, unit: str, make: Callable[[], Work]) -> Any:
        """Time what `make()` returns, work in some unit; what the call returned."""
        entry: dict[str, Any] = {"device": self.device.platform, "kernel": name, "size": size, "label": label}
        entry |= {"dtype": self.dtype, "unit": unit}
        try:
            work = make()
            record, result = compare({"": work.call}, patience=1.5, most=7, smoke=self.smoke)[""]
        except Exception as error:  # out of memory, say
            record, result = {"skipped": failure(error)}, None
        if "median" in record:
            rate, bandwidth = work.updates / record["median"], work.bytes / record["median"]
            entry |= {"per second": rate, "bytes per second": bandwidth, "share": bandwidth / self.bandwidth}
        self._add(entry | record)
        outcome = record["skipped"] if "skipped" in record else f"{rate:.4g} /s"
        print(f"{self.device.platform} {self.dtype} {name} {label}: {outcome}", flush=True)
        return result

    def _add(self, entry: dict[str, Any]) -> None:
        """Keep an entry, and write all so far: a run that is cut short has what it measured."""
        self.entries.append(entry)
        data, text = summary(self.entries)
        write(self.options, "throughput", {"complete": False, **data}, f"{text}\n\nNot complete.")

    def copy(self) -> None:
        dtype = np.dtype(self.dtype)
        size = (2**16 if self.smoke else COPIED[self.kind]) // dtype.itemsize
        self.record("copy", size, f"{size * dtype.itemsize / 2**20:.3g} MiB", "cells", partial(copy, size, dtype))
        self.bandwidth = self.entries[-1].get("bytes per second", np.nan)

    def kernels(self) -> None:
        dtype = np.dtype(self.dtype)
        for kernel in KERNELS + (LOOPS if self.kind == "cpu" else FUSED):
            if kernel.needs and (reason := missing(kernel.needs)):
                self.entries.append({"kernel": kernel.name, "skipped": reason})
                continue
            for n in kernel.sizes[:1] if self.smoke else kernel.sizes:
                cells = kernel.cells(n)
                if cells > LARGEST[self.kind] or cells * dtype.itemsize * kernel.arrays > 0.6 * self.memory:
                    break
                self.record(kernel.name, cells, kernel.label.format(n=n), "cells", partial(kernel.make, n, dtype))
                if self.entries[-1].get("median", np.inf) > LONG:
                    break

    def solves(self) -> None:
        for gradient in (False, True):
            for n in (32,) if self.smoke else (256,) if gradient else SOLVED:
                name = f"{'gradients' if gradient else 'solves'}, {n} cells"
                for batch in (4,) if self.smoke else BATCHES:
                    if n * batch <= ROOM[self.kind]:
                        of_all = partial(solves, n, batch, self.dtype, gradient)
                        self.record(name, batch, f"{batch:,}", "problems", partial(_problems, of_all, batch))

    def fits(self) -> None:
        bump = Bump(20 if self.smoke else 200)
        for name, (how, batches) in FITS.items():
            for batch in batches[:1] if self.smoke else batches:
                if 2 * batch * bump.cells <= ROOM[self.kind]:
                    make = partial(_problems, partial(how, bump, batch, self.dtype), batch)
                    found = self.record(f"fits: {name}", batch, f"{batch:,}", "problems", make)
                    if isinstance(found, tuple):
                        check(bump, found, self.dtype)


def _problems(make: Callable[[], Callable[[], Any]], batch: int) -> Work:
    """So many whole problems, whose bytes nobody counts."""
    return Work(make(), batch, np.nan)


def breakeven(entries: Entries) -> dict[str, str]:
    """The smallest size at which an accelerator does more in a second than the CPU, by kernel and precision."""
    found: dict[str, str] = {}
    timed = [e for e in select(entries, "per second") if e["kernel"] != "copy"]
    for name, dtype in dict.fromkeys((e["kernel"], e["dtype"]) for e in timed):
        of_one = select(timed, kernel=name, dtype=dtype)
        others = {e["size"]: e["per second"] for e in of_one if e["device"] != "cpu"}
        both = [e for e in select(of_one, device="cpu") if e["size"] in others]
        if both:
            better = [e["label"] for e in both if others[e["size"]] > e["per second"]]
            found[f"{name}, {dtype}"] = better[0] if better else f"above {both[-1]['label']}"
    return found


def table(entries: Entries) -> str:
    measured = dict.fromkeys(e["device"] for e in select(entries, "device"))
    columns = [(kind, dtype) for kind in {"cpu": 0, **measured, "gpu": 0} for dtype in ("float64", "float32")]

    def cell(kind: str, dtype: str, name: str, label: str) -> str:
        found = select(entries, device=kind, dtype=dtype, kernel=name, label=label)
        if not found:
            return "–" if kind in measured else "not measured"
        entry = found[-1]
        if "skipped" in entry:
            return "failed"
        if entry["unit"] == "problems":
            return f"{entry['per second']:,.0f}"
        if name == "copy":
            return f"{entry['bytes per second'] / 1e9:.1f} GB/s"
        return f"{entry['per second'] / 1e6:,.0f} M ({entry['share']:.0%})"

    parts = []
    for unit, first in (("cells", ["kernel", "cells"]), ("problems", ["per second", "batch"])):
        sizes = dict.fromkeys((e["kernel"], e["label"]) for e in select(entries, unit=unit))
        rows = [[*size, *(cell(*column, *size) for column in columns)] for size in sizes]
        parts.append(markdown([*first, *(f"{kind.upper()}, {dtype}" for kind, dtype in columns)], rows))
    even = [[name, size] for name, size in breakeven(entries).items()]
    ahead = markdown(["from this size on the accelerator is ahead of the CPU", ""], even)
    return f"""Cell updates per second, and in brackets the bytes that must move for them (state read and written, coefficients read, as the
library holds them) as a share of what a copy (s x into the memory of x) moves on the same device in the same run. Above 100 %: the state stayed in a cache.

{parts[0]}

Exact solves to t = 0.2 with an array D for each, their gradients (½∫u² in every cell of D), and fits of four coefficients with
standard errors to 300 readings at 50 times on 200 cells, per second.

{parts[1]}

{ahead if even else "Break-even between CPU and GPU: no GPU in this run."}
{skipped(entries, "kernel")}"""


def picture(entries: Entries) -> Any:
    """A panel per kernel: rate against size by device and precision; dashed, what the copy bandwidth allows."""
    timed = [e for e in select(entries, "per second") if e["kernel"] != "copy"]
    groups = list(dict.fromkeys(_group(e["kernel"]) for e in timed))
    rows = -(-len(groups) // 4)
    made, axes = figure(rows, 4)
    kinds = list(dict.fromkeys((e["device"], e["dtype"]) for e in timed))
    for ax, group in zip(axes.ravel(), groups):
        inside = [e for e in timed if _group(e["kernel"]) == group]
        for name, device, dtype in dict.fromkeys((e["kernel"], e["device"], e["dtype"]) for e in inside):
            line = select(inside, kernel=name, device=device, dtype=dtype)
            place, colour = list(dict.fromkeys(e["kernel"] for e in inside)).index(name), kinds.index((device, dtype))
            label = f"{device} {dtype}" + ("" if name == group else f" {name.removeprefix(group).strip(' ,:')}")
            x, y = [e["size"] for e in line], [e["per second"] for e in line]
            ax.loglog(x, y, marker=MARKERS[place], color=COLOURS[colour], label=label, markersize=4, linewidth=1)
            if place == 0 and np.isfinite(line[-1]["share"]):
                ax.axhline(y[-1] / line[-1]["share"], color=COLOURS[colour], linestyle="--", linewidth=0.8)
        labels = ("cells", "updates / s") if inside[0]["unit"] == "cells" else ("batch", "per second")
        ax.set(title=group, xlabel=labels[0], ylabel=labels[1])
        ax.legend(fontsize=6, frameon=False)
    for ax in axes.ravel()[len(groups) :]:
        ax.set_visible(False)
    return made


def _group(name: str) -> str:
    """Kernels that share a panel."""
    if name.startswith("numba"):
        return "explicit, 2-D"
    return name.split(":")[0] if name.startswith("fits") else name.removesuffix(", kernel")


def summary(entries: Entries) -> tuple[dict[str, Any], str]:
    """The data and the table of what was measured so far."""
    return {"break-even": breakeven(entries), "entries": entries}, table(entries)


def main(options: Options) -> None:
    """Measure and publish; without matplotlib, as on a device that has JAX alone, no picture."""
    entries = measure(options)
    publish(options, "throughput", *summary(entries), None if missing("matplotlib") else picture(entries))
