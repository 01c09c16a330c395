"""What the benchmarks share: facts of the device, timing in turns, selecting entries, and writing JSON, tables and pictures."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdiff.runtime.staging import replacing, write_whole

PACKAGES = "jaxdiff jax jaxlib numpy scipy diffrax optax equinox py-pde fplanck exponax numba fipy findiff qutip dynamiqs pyddm hddm-wfpt pymle-diffusion kramersmoyal StochasticForceInference".split()

# Okabe & Ito: told apart by colour-blind readers; every series has its own marker as well.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999", "#A6761D", "#332288")
MARKERS = "osD^vX<>dp"

Entries = list[dict[str, Any]]


def devices(kind: str | None = None) -> tuple[Any, ...]:
    """The first device of a kind; without one, the CPU and the first accelerator that JAX sees."""
    if kind is None:
        return (jax.devices("cpu")[0], *(() if jax.devices()[0].platform == "cpu" else jax.devices()[:1]))
    try:
        return (jax.devices(kind)[0],)
    except RuntimeError:
        present = ", ".join(dict.fromkeys(["cpu", *(d.platform for d in jax.devices())]))
        raise ValueError(f"JAX sees no {kind} here, only {present}; for an NVIDIA GPU install jaxdiff[cuda]") from None


def facts() -> dict[str, Any]:
    """Device, versions, date and commit."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "gpu": [d.device_kind for d in jax.devices() if d.platform != "cpu"] or None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


@dataclass(frozen=True)
class Options:
    """Where results go, tiny sizes or not, on which devices and in which precisions; the facts when the run began."""

    folder: Path
    smoke: bool
    devices: tuple[Any, ...]
    dtypes: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=facts)


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


def clock(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one call, its result ready; and the result."""
    start = time.perf_counter()
    result = jax.block_until_ready(call())
    return time.perf_counter() - start, result


def statistics(samples: list[float]) -> dict[str, Any]:
    """Median and quartiles of seconds."""
    lower, median, upper = np.percentile(samples, [25, 50, 75]).tolist()
    return {"median": median, "quartiles": [lower, upper], "runs": len(samples)}


def compare(
    calls: dict[str, Callable[[], Any]], *, patience: float = 8.0, most: int = 101, smoke: bool = False
) -> dict[str, tuple[dict[str, Any], Any]]:
    """Time competitors in turns, so that a disturbance meets them all.

    Each gets a record of seconds, {"first" (compilation included), "median", "quartiles", "runs"}, and what its first call
    returned; one that raises {"skipped": why} and None. The median is of at least five runs after warm-up, of more where a
    call is quick, and of fewer only where five would take longer than `patience` seconds.
    """
    found: dict[str, tuple[dict[str, Any], Any]] = {}
    runs: dict[str, int] = {}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        try:
            first, result = clock(call)
        except Exception as error:  # a peer's failure is a finding, not the end of the run
            found[name] = {"skipped": failure(error)}, None
            continue
        found[name] = {"first": first}, result
        estimate = clock(call)[0]
        if estimate > patience / 2:
            samples[name].append(estimate)
        wanted = np.clip(1.0 / estimate, 5, most) if 5 * estimate <= patience else max(1, patience / estimate)
        runs[name] = min(int(wanted), 5) if smoke else int(wanted)
    turns = max(runs.values(), default=0)
    for turn in range(turns):
        for name in runs:
            if len(samples[name]) < runs[name] and len(samples[name]) * turns <= turn * runs[name]:
                if runs[name] > 20:  # quick: its data had left the caches in the others' turns
                    clock(calls[name])
                samples[name].append(clock(calls[name])[0])
    for name in runs:
        found[name][0].update(statistics(samples[name]))
    return found


def failure(error: BaseException) -> str:
    """An error of somebody else's in one line."""
    words = re.sub(
        r"/\S*/site-packages/", "", " ".join(str(error).split())
    )  # where it lies on this machine is no matter
    return f"{type(error).__name__}: {words[:300]}"


def missing(package: str) -> str | None:
    """Why a package cannot be run here."""
    return None if importlib.util.find_spec(package) else f"{package} is not installed"


class Found(NamedTuple):
    """Estimates of a fit; their standard errors, if any; the seconds to the one and to both."""

    estimate: np.ndarray
    errors: np.ndarray | None
    seconds: tuple[float, float | None]


def scatter(found: list[Found], truth: np.ndarray) -> dict[str, Any]:
    """Bias and spread of repeats over the truth, the share of 95 % intervals that hold it, and median seconds."""
    off = np.array([one.estimate for one in found]) / truth - 1
    spread = off.std(0, ddof=1).tolist() if len(found) > 1 else None
    median = lambda i: float(np.median([one.seconds[i] for one in found])) if found[0].seconds[i] else None
    row = {"repeats": len(found), "bias": off.mean(0).tolist(), "spread": spread, "seconds": [median(0), median(1)]}
    if found[0].errors is not None:
        inside = [np.abs(one.estimate - truth) < 1.96 * np.asarray(one.errors) for one in found]
        row["coverage"] = np.mean(inside, 0).tolist()
    return row


def select(entries: Entries, key: str | None = None, **facts: Any) -> Entries:
    """The entries of which these facts hold, and which have a key."""
    return [e for e in entries if key in (None, *e) and all(e.get(name) == fact for name, fact in facts.items())]


def seconds(value: float | None) -> str:
    """A duration to two or three digits, in seconds or milliseconds."""
    if value is None or not np.isfinite(value):
        return "–"
    size, unit = (1.0, "s") if value >= 1 else (1e-3, "ms")
    return f"{value / size:.0f} {unit}" if value >= 99.5 * size else f"{value / size:.2g} {unit}"


def bold(name: str) -> str:
    """A competitor's name in a table."""
    return f"**{name}**" if name.startswith("jaxdiff") else name


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table; the first column to the left, the others to the right."""
    lines = [header, [":--"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ratio_table(columns: dict[str, dict[str, Any]]) -> str:
    """A table of ratios, of seconds and of names, a column for each {what: value}."""

    def shown(what: str, value: Any) -> str:
        if value is None or isinstance(value, str):
            return value or "–"
        return seconds(value) if "first " in what or "costs" in what else f"{value:.3g}"

    rows = [[what, *(shown(what, one[what]) for one in columns.values())] for what in next(iter(columns.values()))]
    return markdown(["", *columns], rows)


def skipped(entries: Entries, who: str) -> str:
    """What was not run, by the name under `who`, and why; what was estimated in its place is no part of it."""
    why = dict.fromkeys(f"{e[who]}: {e['skipped']}" for e in select(entries, "skipped") if "estimated" not in e)
    return f"\nNot run: {'; '.join(why)}." if why else ""


def publish(options: Options, name: str, data: dict[str, Any], table: str, picture: Any = None) -> None:
    """Write NAME.json, NAME.md and, of a picture, NAME.png, and show the table."""
    if picture is not None:
        with replacing(options.folder / f"{name}.png") as part:
            picture.savefig(part, dpi=150, format="png", bbox_inches="tight")
    print(write(options, name, data, table), flush=True)


def write(options: Options, name: str, data: dict[str, Any], table: str) -> str:
    """Write NAME.json and NAME.md, both with the facts of the run; the text of the latter."""
    device = options.facts
    versions = ", ".join(f"{package} {version}" for package, version in device["versions"].items())
    gpu = ", ".join(device["gpu"]) if device["gpu"] else "no GPU"
    text = f"""{table.rstrip()}

{device["cpu"]}, {device["cores"]} cores, {gpu}; {device["system"]}, Python {device["python"]}; {versions}; \
{device["date"][:10]}, commit {device["commit"]}, load at the start {device["load"] or 0:.1f}.
"""
    content = json.dumps({"smoke": options.smoke, "device": device, **data}, indent=1, default=float)
    write_whole(options.folder / f"{name}.json", content + "\n")  # a run may be interrupted here
    write_whole(options.folder / f"{name}.md", text)
    return text


def figure(rows: int, columns: int, **options: Any) -> tuple[Any, Any]:
    """Axes `(rows, columns)`, without a display."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(3.9 * columns + 0.4, 3.1 * rows + 0.9), layout="constrained")
    FigureCanvasAgg(made)
    with matplotlib.rc_context({"axes.titlesize": 10, "axes.grid": True, "grid.alpha": 0.25}):
        return made, made.subplots(rows, columns, squeeze=False, **options)


def bars(ax: Any, names: list[str], times: list[float], estimated: list[bool]) -> None:
    """Times as bars from the top down, jaxdiff's in its own colour, estimates hatched."""
    colours = [COLOURS[not name.startswith("jaxdiff")] for name in names]
    ax.barh(names, times, color=colours, hatch=["//" if one else "" for one in estimated], edgecolor="white")
    for i, (taken, guess) in enumerate(zip(times, estimated, strict=True)):
        ax.text(taken * 1.1, i, seconds(taken) + ", estimated" * guess, va="center", fontsize=8)
    ax.set(xscale="log")
    ax.grid(False)
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
