"""jaxdiff beside other libraries: one solve, one gradient and one fit on one axis, and solves on two, at matched error."""

from __future__ import annotations

from typing import Any

import jax

from jaxdiff.benchmarks import fit, plane, solve
from jaxdiff.benchmarks.harness import COLOURS, Entries, Options, bold, figure, markdown, publish, seconds, select


def gathered(line: Entries, fits: Entries, planes: Entries) -> Entries:
    """A row per problem and method: the fastest run of each that is accurate enough."""
    rows: Entries = []

    def add(problem: str, found: list[tuple[str, dict[str, Any]]]) -> None:
        times = {name: entry.get("median", entry.get("estimated")) for name, entry in found}
        base = times.get("jaxdiff")
        for name, entry in found:
            row = {"problem": problem, "method": name, "seconds": times[name], "error": entry.get("error")}
            row |= {"ratio": times[name] and base and times[name] / base, "estimated": entry.get("runs", 0) == 0}
            rows.append(row | ({"skipped": entry["skipped"]} if times[name] is None else {}))

    for n, task in dict.fromkeys((e["cells"], e["task"]) for e in line):
        chosen = []
        for name in dict.fromkeys(e["solver"] for e in select(line, cells=n, task=task)):
            skipped = select(line, "skipped", cells=n, task=task, solver=name)
            found = solve.best(line, n, name, task) or next(iter(skipped), None)
            chosen += [(name, found)] if found else []
        add(f"1-D, {n} cells" + ", with gradient" * (task == "gradient"), chosen)
    add("1-D, a fit", [(e["fit"], e) for e in fits])
    for task, (title, _) in plane.TASKS.items():
        add(f"2-D, {title}", [(e["solver"], e) for e in select(planes, task=task)])
    return rows


def table(rows: Entries) -> str:
    lines = []
    for row in rows:
        name = [row["problem"], bold(row["method"])]
        if row["seconds"] is None:
            lines.append([*name, row["skipped"], "–", "–"])
            continue
        error = "–" if row["error"] is None else f"{row['error']:.0e}"
        ratio = "–" if row["ratio"] is None else f"{row['ratio']:.3g}"
        lines.append([*name, seconds(row["seconds"]) + " ‡" * row["estimated"], error, ratio])
    return f"""Time of each method at its fastest setting with an error of at most {solve.ENOUGH:g} (1-D) or {plane.ENOUGH:g} (2-D) of the peak, float64, one CPU.
Ratio: over the time of jaxdiff, at its default, on the same problem; above 1 jaxdiff is faster. ‡ estimated, from fewer steps or fewer cells. What each
problem is, and how each peer was set: [one axis](solve.md), [the fit](fit.md), [two axes](plane.md).

{markdown(["problem", "method", "time", "error", "ratio"], lines)}"""


def picture(rows: Entries) -> Any:
    """The ratios of every problem, a row of points each."""
    made, axes = figure(1, 1)
    ax, problems = axes[0, 0], list(dict.fromkeys(row["problem"] for row in rows))[::-1]
    for row in (row for row in rows if row["ratio"] and row["method"] != "jaxdiff"):
        marker, colour = ("D", COLOURS[0]) if row["method"].startswith("jaxdiff") else ("o", COLOURS[1])
        place = row["ratio"], problems.index(row["problem"])
        ax.plot(*place, marker, color=colour)
        ax.annotate(row["method"], place, rotation=35, fontsize=6, xytext=(2, 3), textcoords="offset points")
    ax.axvline(1.0, color=COLOURS[0], linewidth=1)
    ax.set_yticks(range(len(problems)), problems)
    ax.set(xscale="log", ylim=(-0.5, len(problems)), xlabel="time over that of jaxdiff")
    ax.grid(False, axis="y")
    made.set_size_inches(11.0, 0.75 * len(problems) + 1)
    return made


def main(options: Options) -> None:
    """Measure, and publish each comparison and the table of all."""
    if options.devices[0].platform != "cpu" or "float64" not in options.dtypes:
        raise ValueError("peers are compared on the CPU in float64; leave --device and --dtype out")
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        rows = gathered(*(case.main(options) for case in (solve, fit, plane)))
    publish(options, "peers", {"rows": rows}, table(rows), picture(rows))
