"""jaxdiff beside other libraries: one solve, one gradient and one fit on one axis, and solves on two, at matched error."""

from __future__ import annotations

from typing import Any

import jax

from jaxdiff.benchmarks import fit, plane, solve
from jaxdiff.benchmarks.harness import COLOURS, Options, facts, figure, footer, markdown, publish, seconds


def gathered(
    axis: list[dict[str, Any]], fits: list[dict[str, Any]], planes: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """A row per problem and method: the fastest run of each that is accurate enough."""
    rows: list[dict[str, Any]] = []

    def add(problem: str, found: list[tuple[str, dict[str, Any]]]) -> None:
        times = [e.get("median", e.get("foreseen")) for _, e in found]
        base = next((t for (name, _), t in zip(found, times, strict=True) if name == "jaxdiff"), None)
        for (name, entry), time in zip(found, times, strict=True):
            row = {"problem": problem, "method": name, "seconds": time, "error": entry.get("error")}
            row |= {"ratio": time and base and time / base, "foreseen": entry.get("runs", 0) == 0}
            rows.append(row | ({"skipped": entry["skipped"]} if time is None else {}))

    for n, task in dict.fromkeys((e["cells"], e["task"]) for e in axis):
        here = [e for e in axis if (e["cells"], e["task"]) == (n, task)]
        chosen = []
        for name in dict.fromkeys(e["solver"] for e in here):
            of_one = [e for e in here if e["solver"] == name]
            found = solve.best(axis, n, name, task) or next((e for e in of_one if "skipped" in e), None)
            chosen += [(name, found)] if found else []
        add(f"1-D, {n} cells" + (", with gradient" if task == "gradient" else ""), chosen)
    add("1-D, a fit", [(e["fit"], {"median": e["seconds"], **e}) for e in fits])
    for task, (title, _) in plane.TASKS.items():
        add(f"2-D, {title}", [(e["solver"], e) for e in planes if e["task"] == task])
    return rows


def table(rows: list[dict[str, Any]], device: dict[str, Any]) -> str:
    lines = []
    for row in rows:
        name = f"**{row['method']}**" if row["method"].startswith("jaxdiff") else row["method"]
        if row["seconds"] is None:
            lines.append([row["problem"], name, row["skipped"], "–", "–"])
            continue
        error = "–" if row["error"] is None else f"{row['error']:.0e}"
        ratio = "–" if row["ratio"] is None else f"{row['ratio']:.3g}"
        lines.append([row["problem"], name, seconds(row["seconds"]) + (" ‡" if row["foreseen"] else ""), error, ratio])
    return f"""Time of each method at its fastest setting with an error of at most {solve.ENOUGH:g} (1-D) or {plane.ENOUGH:g} (2-D) of the peak, float64, one CPU.
Ratio: over the time of jaxdiff, at its default, on the same problem; above 1 jaxdiff is faster. ‡ foreseen, from fewer steps or fewer cells. What each
problem is, and how each peer was set: [one axis](solve.md), [the fit](fit.md), [two axes](plane.md).

{markdown(["problem", "method", "time", "error", "ratio"], lines)}

{footer(device)}"""


def picture(rows: list[dict[str, Any]]) -> Any:
    """The ratios of every problem, a row of points each."""
    made, axes = figure(1, 1)
    ax, problems = axes[0, 0], list(dict.fromkeys(row["problem"] for row in rows))[::-1]
    shown = [row for row in rows if row["ratio"] and row["method"] != "jaxdiff"]
    for row in shown:
        ours = row["method"].startswith("jaxdiff")
        ax.plot(row["ratio"], problems.index(row["problem"]), "D" if ours else "o", color=COLOURS[0 if ours else 1])
        ax.annotate(row["method"], (row["ratio"], problems.index(row["problem"])), rotation=35, fontsize=6,
                    xytext=(2, 3), textcoords="offset points")  # fmt: skip
    ax.axvline(1.0, color=COLOURS[0], linewidth=1)
    ax.set_xscale("log")
    ax.set_yticks(range(len(problems)), problems)
    ax.set_ylim(-0.5, len(problems))
    ax.set_xlabel("time over that of jaxdiff")
    ax.grid(axis="x", alpha=0.25)
    made.set_size_inches(11.0, 0.75 * len(problems) + 1)
    return made


def main(options: Options) -> None:
    """Measure, and publish each comparison and the table of all."""
    if options.devices[0].platform != "cpu" or "float64" not in options.dtypes:
        raise ValueError("peers are compared on the CPU in float64; leave --device and --dtype out")
    device = facts()
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        rows = gathered(*(case.main(options) for case in (solve, fit, plane)))
    publish(options, "peers", {"device": device, "rows": rows}, table(rows, device), picture(rows))
