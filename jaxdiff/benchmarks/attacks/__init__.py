"""Random problems, tables and configurations: each must end right, or refused in one line."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from jaxdiff.benchmarks.attacks import configurations, problems, tables
from jaxdiff.benchmarks.harness import COLOURS, Entries, Options, figure, markdown, publish, select

COUNTS = {"one axis": 2000, "two axes": 300, "tables": 400, "configurations": 250}
SHORT = {"one axis": 25, "two axes": 5, "tables": 10, "configurations": 5}
FINE = ("right", "ran", "refused")  # every other verdict is a fault of the library


KINDS: dict[str, Callable[[int], Entries]] = {
    "one axis": partial(problems.attack, problems.line),
    "two axes": partial(problems.attack, problems.plane),
    "tables": tables.run,
    "configurations": configurations.run,
}


def measure(counts: dict[str, int]) -> dict[str, Entries]:
    """The records of each kind of attack; a problem that was solved right without its text: its seed draws it again."""
    places = re.compile(re.escape(tempfile.gettempdir()) + r"/[^/\s]+/")  # of this run alone
    found: dict[str, Entries] = {}
    for kind, run in KINDS.items():
        found[kind] = [record | {"detail": places.sub("", record["detail"])} for record in run(counts[kind])]
        for record in select(found[kind], verdict="right"):
            record.pop("problem", None)
        print(f"{kind}: {_tally(found[kind])}", flush=True)
    return found


def _tally(records: Entries) -> dict[str, int]:
    return dict(Counter(record["verdict"] for record in records))


def table(found: dict[str, Entries]) -> str:
    rows, faults = [], []
    for kind, records in found.items():
        right, refused = (
            sum(r["verdict"] in verdicts for r in records) for verdicts in (("right", "ran"), ("refused",))
        )
        wrong = [record for record in records if record["verdict"] not in FINE]
        rows.append([kind, *map(str, (len(records), right, refused, len(wrong)))])
        for record in wrong:
            detail = record["detail"] or f"{record['error']:.2g} of the peak off"
            faults.append(f"- {kind}, seed {record['seed']}, {record['verdict']}: {detail}\n")
    header = ["attack", "cases", "right", "refused in one line", "wrong, a traceback or a hang"]
    return f"""Problems are drawn at random over the range that a user may ask for and held against exact exponentials of the same matrix in extended
precision; tables and configurations are made with known numbers and damaged.

{markdown(header, rows)}

{"".join(faults)}"""


def picture(found: dict[str, Entries]) -> Any:
    """Errors of all problems that were solved, over the peak."""
    made, axes = figure(1, 2)
    for ax, kind in zip(axes[0], ("one axis", "two axes"), strict=True):
        errors = np.array([record["error"] for record in select(found[kind], verdict="right")], float)
        errors = np.log10(np.maximum(errors[np.isfinite(errors)], 1e-18))
        ax.hist(errors, bins=np.arange(-18.0, 0.5, 0.5), color=COLOURS[1])
        ax.axvline(-9, color=COLOURS[0], linestyle="--", linewidth=1, label="allowed, float64")
        ax.axvline(-4, color=COLOURS[4], linestyle=":", linewidth=1, label="allowed, float32")
        ax.set(title=kind, xlabel="log₁₀ of the error over the peak", ylabel="problems")
        ax.grid(False)
        ax.legend(fontsize=7, frameon=False)
    return made


def main(options: Options) -> None:
    """Attack and publish."""
    found = measure(SHORT if options.smoke else COUNTS)
    tally = {kind: _tally(records) for kind, records in found.items()}
    publish(options, "attacks", {"tally": tally, "records": found}, table(found), picture(found))
