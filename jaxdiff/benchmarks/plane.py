"""One solve on 256 × 256 cells: the heat equation with D an array, and with D = 1."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from jaxdiff.benchmarks.harness import (
    COLOURS,
    Options,
    Timing,
    clock,
    compare,
    facts,
    figure,
    footer,
    markdown,
    publish,
    seconds,
)
from jaxdiff.benchmarks.plane_solvers import EXPM, TASKS, Contestant, Plane, T, expm_multiply

ENOUGH = 1e-6  # of the peak: a solver's error up to which it takes part in the ratios
SMALL = 48  # cells on each axis of the plane on which all steps are taken
MORE = 20  # steps from which the cost of one is told apart from that of starting


def measure(plane: Plane, smoke: bool) -> list[dict[str, Any]]:
    """An entry per task and contestant."""
    entries: list[dict[str, Any]] = []
    for task, (title, contestants) in TASKS.items():
        calls = {}
        for one in (c for c in contestants if not (smoke and c.slow)):
            if not importlib.util.find_spec(one.needs):
                entries.append({"task": task, "solver": one.name, "skipped": f"{one.needs} is not installed"})
            elif one.steps:
                entries.append({"task": task, "solver": one.name, **_foreseen(plane, task, one)})
            else:
                calls[one.name] = one.make(plane)
        print(f"{title}: {', '.join(calls)}", flush=True)
        timed = compare(calls, patience=10.0, most=51, smoke=smoke)
        found = {name: np.asarray(t.result) for name, t in timed.items() if isinstance(t, Timing)}
        for name, timing in timed.items():
            entry = {"task": task, "solver": name}
            if isinstance(timing, Timing):
                entries.append(entry | {"error": _error(plane, task, name, found), **timing.record()})
            else:
                entries.append(entry | {"skipped": timing})
            if task == "ring" and name in found:
                entries[-1]["from continuous"] = _away(found[name], plane.wrapped(T))
    return entries


def _foreseen(plane: Plane, task: str, one: Contestant) -> dict[str, Any]:
    """The time of all steps from that of two and of a few more; their error from a small plane, where all are taken."""
    try:
        first = clock(one.make(plane, 2, one.steps))[0]
        few = min(clock(one.make(plane, 2, one.steps))[0] for _ in range(2))
        more = clock(one.make(plane, 2 + MORE, one.steps))[0]
        small = Plane(min(SMALL, plane.cells))
        exact = small.ring if task == "ring" else expm_multiply(small)()
        error = _away(one.make(small, one.steps, one.steps)(), exact)
    except Exception as failure:  # a peer's failure is a finding, not the end of the run
        return {"skipped": f"{type(failure).__name__}: {' '.join(str(failure).split())[:300]}"}
    median = few + max(more - few, 0.0) / MORE * (one.steps - 2)
    return {"error": error, "first": first, "median": median, "runs": 0, "steps": one.steps}


def _error(plane: Plane, task: str, name: str, found: dict[str, np.ndarray]) -> float | None:
    """Largest deviation over the peak, from a solver of another kind; None for that solver itself."""
    if task == "ring":
        return _away(found[name], plane.ring if name == "jaxdiff" else plane.wrapped(T))
    other = {"solve": EXPM, "gradient": "diffrax Heun", "closed": "SciPy dctn"}[task]
    return None if name == other else _away(found[name], found[other]) if other in found else np.nan


def _away(u: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(u - exact).max() / np.abs(exact).max())


def best(entries: list[dict[str, Any]], task: str, start: str = "") -> dict[str, Any] | None:
    """The fastest accurate peer whose name starts so."""
    peers = [e for e in entries if e["task"] == task and "median" in e and not e["solver"].startswith("jaxdiff")]
    good = [e for e in peers if e["solver"].startswith(start) and (e["error"] or 0.0) <= ENOUGH]
    return min(good, key=lambda e: e["median"], default=None)


def ratios(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """What the measurement was made for."""
    ours = {(e["task"], e["solver"]): e for e in entries if e["solver"].startswith("jaxdiff")}
    solve, slope = (ours[task, "jaxdiff"] for task in ("solve", "gradient"))
    quick = ours.get(("solve", "jaxdiff, tolerance=1e-6"))
    over = lambda peer, own: peer and own and peer["median"] / own["median"]
    first = best(entries, "solve")
    return {
        "D an array: fastest peer": first and first["solver"],
        "fastest peer / jaxdiff": over(first, solve),
        "fastest peer / jaxdiff at tolerance 1e-6": over(first, quick),
        "diffrax's best / jaxdiff": over(best(entries, "solve", "diffrax"), solve),
        "py-pde's best / jaxdiff": over(best(entries, "solve", "py-pde"), solve),
        "gradient: diffrax / jaxdiff": over(best(entries, "gradient", "diffrax"), slope),
        "jaxdiff: gradient / solve": over(slope, solve),
        "jaxdiff: first solve, compilation included": solve["first"],
        "jaxdiff: first gradient, compilation included": slope["first"],
        "D = 1, no flux: dctn / jaxdiff": over(best(entries, "closed", "SciPy dctn"), ours["closed", "jaxdiff"]),
        "D = 1, no flux: expm_multiply / jaxdiff": over(best(entries, "closed", EXPM), ours["closed", "jaxdiff"]),
        "D = 1, periodic: exponax's best / jaxdiff": over(best(entries, "ring", "exponax"), ours["ring", "jaxdiff"]),
        "the same / jaxdiff, Spectral": over(best(entries, "ring", "exponax"), ours["ring", "jaxdiff, Spectral"]),
    }


def table(plane: Plane, entries: list[dict[str, Any]], summary: dict[str, Any], device: dict[str, Any]) -> str:
    """Times and errors by task, and the ratios."""
    own = {e["task"]: e["median"] for e in entries if e["solver"] == "jaxdiff" and "median" in e}
    rows = []
    for e in (e for task in TASKS for e in entries if e["task"] == task):
        name = f"**{e['solver']}**" if e["solver"].startswith("jaxdiff") else e["solver"]
        if "skipped" in e:
            rows.append([TASKS[e["task"]][0], name, "not run", "–", "–", "–"])
            continue
        mark = "" if e["runs"] >= 5 else "†" if e["runs"] else f" (foreseen, {e['steps']} steps)"
        error = "reference" if e["error"] is None else f"{e['error']:.0e}{'' if e['error'] <= ENOUGH else ' ‡'}"
        times = [seconds(e["median"]) + mark, f"{e['median'] / own[e['task']]:.3g}", seconds(e["first"])]
        rows.append([TASKS[e["task"]][0], name, *times, error])
    header = ["float64, CPU", "solver", "time", "× jaxdiff", "first call", "error"]
    digits = lambda key, v: seconds(v) if "first " in key else f"{v:.3g}"
    show = lambda key, v: "–" if v is None else v if isinstance(v, str) else digits(key, v)
    ratio = markdown(["", f"{plane.cells} × {plane.cells}"], [[key, show(key, v)] for key, v in summary.items()])
    notes = "; ".join(f"{c.name}: {c.note}" for _, group in TASKS.values() for c in group if c.note)
    why = dict.fromkeys(f"{e['solver']}: {e['skipped']}" for e in entries if "skipped" in e)
    left = f"\nNot run: {'; '.join(why)}." if why else ""
    off = [f"{e['from continuous']:.0e} ({e['solver']})" for e in entries if "from continuous" in e]
    return f"""Solve of ∂u/∂t = ∇·(D ∇u) on {plane.cells} × {plane.cells} cells, T = {T}, u₀ = exp(−50 r²). D an array: 1 + ½ sin 2πx cos 2πy, faces by harmonic mean,
the same matrix for all; error: largest, over the peak, from expm_multiply. Gradient: of ½∫u² in all {plane.cells**2} numbers; error: largest difference from
diffrax's, over the largest component. D = 1: error from the cosine transform without flux; periodic, from the exact exponential of each one's own matrix,
for exponax that of the differential equation. Errors of the periodic solves against the differential equation: {", ".join(off)}.

{markdown(header, rows)}

† fewer than five runs. Foreseen: from {2 + MORE} of so many equal steps; its error from {SMALL} × {SMALL} cells. ‡ above {ENOUGH:g}: takes no part in the ratios. {notes}.{left}

{ratio}

{footer(device)}"""


def picture(entries: list[dict[str, Any]]) -> Any:
    """Bars of time, a panel per task."""
    made, axes = figure(2, 2, sharex="col")
    for ax, (task, (title, _)) in zip(axes.T.ravel(), TASKS.items(), strict=True):
        shown = [e for e in entries if e["task"] == task and "median" in e][::-1]
        colours = [COLOURS[0] if e["solver"].startswith("jaxdiff") else COLOURS[1] for e in shown]
        ax.barh([e["solver"] for e in shown], [e["median"] for e in shown], color=colours)
        for i, e in enumerate(shown):
            ax.text(e["median"] * 1.15, i, seconds(e["median"]), va="center", fontsize=8)
        ax.set_xscale("log")
        ax.tick_params(axis="y", labelsize=8)
        ax.set_title(title, fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    for column in axes.T:
        times = [width for ax in column for bar in ax.patches if (width := bar.get_width()) > 0]
        column[-1].set_xlim(min(times) / 4, max(times) * 6)
        column[-1].set_xlabel("time [s]")
    made.set_size_inches(11.0, 5.2)
    return made


def main(options: Options) -> list[dict[str, Any]]:
    """Measure and publish; the entries."""
    device, plane = facts(), Plane(24 if options.smoke else 256)
    entries = measure(plane, options.smoke)
    summary = ratios(entries)
    data = {"device": device, "ratios": summary, "entries": entries}
    publish(options, "plane", data, table(plane, entries, summary, device), picture(entries))
    return entries
