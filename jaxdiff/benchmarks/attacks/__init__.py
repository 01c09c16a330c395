"""Random problems, tables and configurations: each must end right, or refused in one line."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxdiff.benchmarks.harness import Options

COUNTS = {"one axis": 2000, "two axes": 300, "tables": 400, "configurations": 250}
SHORT = {"one axis": 25, "two axes": 5, "tables": 10, "configurations": 5}
FINE = ("right", "ran", "refused")  # every other verdict is a fault of the library


def measure(counts: dict[str, int]) -> dict[str, list[dict[str, Any]]]:
    """The records of each kind of attack."""
    from jaxdiff.benchmarks.attacks import configurations, problems, tables

    kinds = {
        "one axis": problems.one_axis,
        "two axes": problems.two_axes,
        "tables": tables.run,
        "configurations": configurations.run,
    }
    found = {}
    for kind, run in kinds.items():
        places = re.compile(re.escape(tempfile.gettempdir()) + r"/[^/\s]+/")  # of this run alone
        found[kind] = [_kept({**r, "detail": places.sub("", str(r["detail"]))}) for r in run(counts[kind])]
        print(f"{kind}: {dict(Counter(record['verdict'] for record in found[kind]))}", flush=True)
    return found


def _kept(record: dict[str, Any]) -> dict[str, Any]:
    """Without the text of a problem that was solved right: its seed draws it again."""
    return {key: value for key, value in record.items() if key != "problem" or record["verdict"] != "right"}


def table(found: dict[str, list[dict[str, Any]]], device: dict[str, Any]) -> str:
    from jaxdiff.benchmarks.harness import footer, markdown

    rows, faults = [], []
    told = lambda record: record["detail"] or f"{record['error']:.2g} of the peak off"
    for kind, records in found.items():
        verdicts = Counter(record["verdict"] for record in records)
        wrong = [record for record in records if record["verdict"] not in FINE]
        right = verdicts["right"] + verdicts["ran"]
        rows.append([kind, str(len(records)), str(right), str(verdicts["refused"]), str(len(wrong))])
        faults += [f"- {kind}, seed {record['seed']}, {record['verdict']}: {told(record)}" for record in wrong]
    lines = markdown(["attack", "cases", "right", "refused in one line", "wrong, a traceback or a hang"], rows)
    listed = "\n".join(faults)
    return f"""Problems are drawn at random over the range that a user may ask for and held against exact exponentials of the same matrix in extended
precision; tables and configurations are made with known numbers and damaged.

{lines}
{f"{chr(10)}{listed}{chr(10)}" if faults else ""}
{footer(device)}"""


def picture(found: dict[str, list[dict[str, Any]]]) -> Any:
    """Errors of all problems that were solved, over the peak."""
    from jaxdiff.benchmarks.harness import COLOURS, figure

    made, axes = figure(1, 2)
    for ax, kind in zip(axes[0], ("one axis", "two axes"), strict=True):
        errors = np.array([record["error"] for record in found[kind] if record["verdict"] == "right"], float)
        errors = np.log10(np.maximum(errors[np.isfinite(errors)], 1e-18))
        ax.hist(errors, bins=np.arange(-18.0, 0.5, 0.5), color=COLOURS[1])
        ax.axvline(-9, color=COLOURS[0], linestyle="--", linewidth=1, label="promise, float64")
        ax.axvline(-4, color=COLOURS[4], linestyle=":", linewidth=1, label="promise, float32")
        ax.set_xlabel("log₁₀ of the error over the peak")
        ax.set_ylabel("problems")
        ax.set_title(kind, fontsize=10)
        ax.legend(fontsize=7, frameon=False)
    return made


def main(options: Options) -> None:
    """Attack and publish."""
    from jaxdiff.benchmarks.harness import facts, publish

    device, found = facts(), measure(SHORT if options.smoke else COUNTS)
    tally = {kind: dict(Counter(record["verdict"] for record in records)) for kind, records in found.items()}
    data = {"device": device, "tally": tally, "records": found}
    publish(options, "attacks", data, table(found, device), picture(found))
