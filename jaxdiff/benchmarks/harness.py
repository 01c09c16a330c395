"""What the benchmarks share: facts of the device, timing, and writing JSON, tables and pictures."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff.runtime.staging import replacing, write_whole

PEERS = (
    "jaxdiff",
    "jax",
    "jaxlib",
    "numpy",
    "scipy",
    "diffrax",
    "optax",
    "equinox",
    "py-pde",
    "fplanck",
    "exponax",
    "numba",
    "fipy",
    "findiff",
)

# Okabe & Ito: told apart by colour-blind readers; every series has its own marker as well.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999", "#A6761D", "#332288")
MARKERS = "osD^vX<>dp"


@dataclass(frozen=True)
class Options:
    """Where results go, tiny sizes or not, on which devices and in which precisions."""

    folder: Path
    smoke: bool
    devices: tuple[Any, ...]
    dtypes: tuple[str, ...]


def devices(kind: str | None = None) -> tuple[Any, ...]:
    """The first device of a kind; without one, the CPU and the first accelerator that JAX sees."""
    if kind is None:
        return (jax.devices("cpu")[0], *(() if jax.devices()[0].platform == "cpu" else jax.devices()[:1]))
    try:
        return (jax.devices(kind)[0],)
    except RuntimeError:
        seen = ", ".join(dict.fromkeys(["cpu", *(d.platform for d in jax.devices())]))
        raise ValueError(f"JAX sees no {kind} here, only {seen}; for an NVIDIA GPU install jaxdiff[cuda]") from None


def facts() -> dict[str, Any]:
    """Device, versions, date and commit."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": load,
        "gpu": [d.device_kind for d in jax.devices() if d.platform != "cpu"] or None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version for name in PEERS if (version := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # else the repository is that of whoever installed the package
        dirty = git("status", "--porcelain", "--untracked-files=no", "..")
        return git("rev-parse", "--short", "HEAD") + ("+changes" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


@dataclass
class Timing:
    """Seconds: the first call (compilation included), median and quartiles of `runs` later ones; and what was returned."""

    first: float
    median: float
    lower: float
    upper: float
    runs: int
    result: Any

    def record(self) -> dict[str, Any]:
        return {"first": self.first, "median": self.median, "quartiles": [self.lower, self.upper], "runs": self.runs}


def clock(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one call, its result ready; and the result."""
    start = time.perf_counter()
    result = jax.block_until_ready(call())
    return time.perf_counter() - start, result


def compare(
    calls: dict[str, Callable[[], Any]], *, patience: float = 8.0, most: int = 101, smoke: bool = False
) -> dict[str, Timing | str]:
    """Time competitors in turns, so that a disturbance meets them all; one that raises has its error as its result.

    The median is of at least five runs after warm-up, of more where a call is quick, and of fewer only where five
    would take longer than `patience` seconds; `Timing.runs` tells.
    """
    first: dict[str, tuple[float, Any]] = {}
    failed: dict[str, str] = {}
    runs: dict[str, int] = {}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        try:
            first[name] = clock(call)
        except Exception as error:  # a peer's failure is a finding, not the end of the run
            failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            continue
        estimate = clock(call)[0]
        if estimate > patience / 2:
            samples[name].append(estimate)
        runs[name] = (
            int(np.clip(1.0 / estimate, 5, most)) if 5 * estimate <= patience else max(1, int(patience / estimate))
        )
        runs[name] = min(runs[name], 5) if smoke else runs[name]
    turns = max(runs.values(), default=0)
    for turn in range(turns):
        for name in runs:
            if len(samples[name]) < runs[name] and len(samples[name]) * turns <= turn * runs[name]:
                if runs[name] > 20:  # quick: its data had left the caches in the others' turns
                    clock(calls[name])
                samples[name].append(clock(calls[name])[0])
    timed = {
        name: Timing(first[name][0], *_quartiles(samples[name]), len(samples[name]), first[name][1]) for name in runs
    }
    return {name: timed.get(name) or failed[name] for name in calls}


def _quartiles(samples: list[float]) -> tuple[float, float, float]:
    lower, median, upper = np.percentile(samples, [25, 50, 75])
    return float(median), float(lower), float(upper)


def seconds(value: float | None) -> str:
    """A duration to two or three digits, in seconds or milliseconds."""
    if value is None or not np.isfinite(value):
        return "–"
    size, unit = (1.0, "s") if value >= 1 else (1e-3, "ms")
    return f"{value / size:.0f} {unit}" if value >= 99.5 * size else f"{value / size:.2g} {unit}"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table; the first column to the left, the others to the right."""
    lines = [header, [":--"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def footer(device: dict[str, Any]) -> str:
    """The facts under a table."""
    versions = ", ".join(f"{name} {version}" for name, version in device["versions"].items())
    gpu = ", ".join(device["gpu"]) if device["gpu"] else "no GPU"
    return (
        f"{device['cpu']}, {device['cores']} cores, {gpu}; {device['system']}, Python {device['python']}; {versions}; "
        f"{device['date'][:10]}, commit {device['commit']}, load at the start {device['load'] or 0:.1f}."
    )


def publish(options: Options, name: str, data: dict[str, Any], table: str, picture: Any) -> None:
    """Write NAME.json, NAME.md and, of a picture, NAME.png, and show the table."""
    if picture is not None:
        with replacing(options.folder / f"{name}.png") as part:
            picture.savefig(part, dpi=150, format="png", bbox_inches="tight")
    write(options, name, data, table)
    print(table + "\n", flush=True)


def write(options: Options, name: str, data: dict[str, Any], table: str) -> None:
    """Write NAME.json and NAME.md."""
    content = json.dumps({"smoke": options.smoke, **data}, indent=1, default=float)
    for kind, text in (("json", content), ("md", table)):
        write_whole(options.folder / f"{name}.{kind}", text + "\n")  # a run may be interrupted here


def figure(rows: int, columns: int, **options: Any) -> tuple[Any, Any]:
    """Axes `(rows, columns)`, without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(3.9 * columns + 0.4, 3.1 * rows + 0.9), layout="constrained")
    FigureCanvasAgg(made)
    return made, made.subplots(rows, columns, squeeze=False, **options)
