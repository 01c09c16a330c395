"""Accuracy against time for one solve, and for one solve with its gradient in every cell of D."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from jaxdiff.benchmarks.conduction import Conduction
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
from jaxdiff.benchmarks.solvers import OURS, PEERS, Peer

ENOUGH = 1e-7  # of the peak: the error at which times are compared
DEAR, TOO_DEAR = 3.0, 25.0  # seconds foreseen: try one tolerance only; do not run
BOTH = ((False, "solve"), (True, "gradient"))


def measure(sizes: tuple[int, ...], smoke: bool) -> list[dict[str, Any]]:
    """An entry per size, solver, tolerance and task."""
    entries: list[dict[str, Any]] = []
    for n in sizes:
        for gradient, task in BOTH:
            calls: dict[str, Callable[[], Any]] = {}
            owners: dict[str, Any] = {}
            for peer in (p for p in OURS + PEERS if not (smoke and p.slow)):
                chosen, reason = _affordable(peer, n, gradient, entries)
                if reason:
                    entries.append({"cells": n, "task": task, "solver": peer.name, **reason})
                if not chosen:
                    continue
                problem = Conduction(n, peer.geometric)
                solve, slope = peer.make(problem)
                run = slope if gradient else solve
                for tolerance in chosen[-1:] if smoke else chosen:
                    if run is None:
                        break
                    calls[key := f"{peer.name} {tolerance}"] = partial(run, tolerance)
                    owners[key] = (peer, tolerance, problem.gradient_error if gradient else problem.error)
            print(f"n = {n}, {task}: {', '.join(dict.fromkeys(p.name for p, *_ in owners.values()))}", flush=True)
            for key, timing in compare(calls, patience=6.0, smoke=smoke).items():
                peer, tolerance, error = owners[key]
                entry = {"cells": n, "task": task, "solver": peer.name, "tolerance": tolerance}
                if isinstance(timing, Timing):
                    entries.append(entry | {"error": error(timing.result), **timing.record()})
                else:
                    entries.append(entry | {"skipped": timing})
    return entries


def _affordable(
    peer: Peer, n: int, gradient: bool, entries: list[dict[str, Any]]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The tolerances to run at this size, and why there are none."""
    if peer.missing:
        return (), {} if gradient else {"skipped": peer.missing}
    task = "gradient" if gradient else "solve"
    same = [e for e in entries if e["solver"] == peer.name]
    smaller = [e for e in same if e["task"] == task and e["cells"] < n and ("median" in e or "foreseen" in e)]
    here = best([e for e in same if e["task"] == "solve"], n, peer.name) if gradient else None
    chosen = peer.tolerances
    if gradient and peer in PEERS:  # a gradient is asked for where the solve was accurate enough, at its fastest
        chosen = (here["tolerance"],) if here else peer.tolerances[:1]
        if not smaller and not here:
            return (), {}
    if not smaller:
        return chosen, {}
    last = max(e["cells"] for e in smaller)
    past = [e for e in smaller if e["cells"] == last]
    foreseen = min(_time(e) for e in past) * (n / last) ** peer.power
    if foreseen > TOO_DEAR:
        return (), {"skipped": f"it would take about {seconds(foreseen)}", "foreseen": foreseen}
    if foreseen > DEAR and not gradient and (good := best(past, last, peer.name)):
        return (good["tolerance"],), {}
    return chosen, {}


def _time(entry: dict[str, Any]) -> float:
    return entry["median"] if "median" in entry else entry["foreseen"]


def best(entries: list[dict[str, Any]], n: int, solver: str, task: str = "solve") -> dict[str, Any] | None:
    """The fastest run of a solver that is accurate enough."""
    found = [e for e in entries if e["cells"] == n and e["solver"] == solver and e["task"] == task]
    good = [e for e in found if e.get("error", np.inf) <= ENOUGH or (task == "gradient" and "error" in e)]
    return min(good, key=lambda e: e["median"], default=None)


def ratios(entries: list[dict[str, Any]], n: int) -> dict[str, Any]:
    """What the measurement was made for."""
    at = [e for e in entries if e["cells"] == n and "median" in e]
    ours = {(e["solver"], e["task"]): e for e in at if e["solver"].startswith("jaxdiff")}
    solve, quick, plain = (ours[peer.name, "solve"] for peer in OURS)
    slope = ours["jaxdiff", "gradient"]
    rivals = [found for peer in PEERS if (found := best(entries, n, peer.name))]
    rival = min(rivals, key=lambda e: e["median"], default=None)
    others = [e for e in entries if e["cells"] == n and e["task"] == "gradient" and e["solver"].startswith("diffrax")]
    measured = [e for e in others if "median" in e]
    other = min(
        measured or [e for e in others if "foreseen" in e],
        key=_time,
        default=None,
    )
    return {
        "cells": n,
        "fastest peer": rival and rival["solver"],
        "solve: peer / jaxdiff": rival and rival["median"] / solve["median"],
        "solve: peer / jaxdiff at tolerance 1e-7": rival and rival["median"] / quick["median"],
        "solve: peer / plain call": rival and rival["median"] / plain["median"],
        "gradient: diffrax / jaxdiff": other and _time(other) / slope["median"],
        "gradient of diffrax": other and f"{other['solver'].split()[-1]}{'' if measured else ', foreseen'}",
        "jaxdiff: gradient / solve": slope["median"] / solve["median"],
        "plain call costs more by": plain["median"] - solve["median"],
        "first solve, compilation included": solve["first"],
        "first gradient, compilation included": slope["first"],
    }


def table(
    entries: list[dict[str, Any]], sizes: tuple[int, ...], summary: list[dict[str, Any]], device: dict[str, Any]
) -> str:
    """Times at an error of at most 1e-7, and the ratios."""

    def cell(peer: Peer, n: int, task: str) -> str:
        found = [e for e in entries if (e["solver"], e["cells"], e["task"]) == (peer.name, n, task)]
        if entry := best(entries, n, peer.name, task):
            return f"{seconds(entry['median'])}{'' if entry['runs'] >= 5 else '†'} ({entry['error']:.0e})"
        if reason := next((e for e in found if "skipped" in e), None):
            return f"≈ {seconds(reason['foreseen'])} ‡" if "foreseen" in reason else "not run"
        if found:
            least = min(found, key=lambda e: e["error"])
            return f"error {least['error']:.0e}"
        return "–"

    tasks = [(n, task) for task in ("solve", "gradient") for n in sizes]
    header = ["float64, CPU", *(f"{'solve' if task == 'solve' else 'with gradient'}, n = {n}" for n, task in tasks)]
    rows = [[f"**{p.name}**" if p in OURS else p.name, *(cell(p, n, task) for n, task in tasks)] for p in OURS + PEERS]
    names = [key for key in summary[0] if key != "cells"]
    show = lambda key, v: (
        "–"
        if v is None
        else v
        if isinstance(v, str)
        else seconds(v)
        if "first" in key or "costs" in key
        else f"{v:.3g}"
    )
    ratio = markdown(
        ["", *(f"n = {n}" for n in sizes)], [[key, *(show(key, line[key]) for line in summary)] for key in names]
    )
    notes = "; ".join(f"{p.name}: {p.note}" for p in OURS + PEERS if p.note)
    why = dict.fromkeys(f"{e['solver']}: {e['skipped']}" for e in entries if "skipped" in e and "foreseen" not in e)
    left = f"\nNot run: {'; '.join(why)}." if why else ""
    return f"""Time (largest error over the peak) of each solver's fastest run with an error of at most 1e-7 against the exact exponential
of its matrix: ∂u/∂t = ∂ₓ(D ∂ₓu), no flux, D an array that varies threefold, T = 0.2. With gradient: ½∫u² and its derivative in every
cell of D (largest error over the largest component), by the solver settings of the solve; SciPy, py-pde and fplanck have no gradient.

{markdown(header, rows)}

† fewer than five runs. ‡ not run: foreseen from the next smaller n. {notes}.{left}

{ratio}

{footer(device)}"""


def picture(entries: list[dict[str, Any]], sizes: tuple[int, ...]) -> Any:
    """Error against time, a panel per size; below, the same with gradient."""
    made, axes = figure(2, len(sizes), sharey="row", sharex="col")
    styles = {p.name: (COLOURS[0], marker) for p, marker in zip(OURS, "*Ph", strict=True)}
    styles |= {p.name: (colour, marker) for p, colour, marker in zip(PEERS, COLOURS[1:], MARKERS[1:], strict=True)}
    for row, (_, task) in zip(axes, BOTH, strict=True):
        for ax, n in zip(row, sizes, strict=True):
            for name, (colour, marker) in styles.items():
                points = [
                    e for e in entries if (e["cells"], e["task"], e["solver"]) == (n, task, name) and "error" in e
                ]
                points.sort(key=lambda e: e["median"])
                size = 11 if name.startswith("jaxdiff") else 6
                fill = "white" if "plain" in name else colour
                x, y = [1e3 * e["median"] for e in points], [max(e["error"], 1e-16) for e in points]
                ax.loglog(
                    x, y, marker=marker, color=colour, label=name, markersize=size, linewidth=1, markerfacecolor=fill
                )
            ax.axhline(ENOUGH, color="0.6", linewidth=0.8, linestyle=":")
            ax.grid(alpha=0.25)
            ax.set_title(f"{'solve' if task == 'solve' else 'solve with gradient'}, n = {n}", fontsize=10)
        row[0].set_ylabel("largest error / peak" if task == "solve" else "gradient's error / largest")
    for ax in axes[-1]:
        ax.set_xlabel("time [ms]")
    made.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return made


def main(options: Options) -> list[dict[str, Any]]:
    """Measure and publish; the entries."""
    device, sizes = facts(), (16,) if options.smoke else (256, 1024, 4096)
    entries = measure(sizes, options.smoke)
    summary = [ratios(entries, n) for n in sizes]
    data = {"device": device, "ratios": summary, "entries": entries}
    publish(options, "solve", data, table(entries, sizes, summary, device), picture(entries, sizes))
    return entries
