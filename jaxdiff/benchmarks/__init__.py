"""What `jaxdiff benchmark` measures: devices against each other, methods against their peers, cost against size."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

CASES = {
    "throughput": "cell updates, solves, gradients and fits per second on every device, as a share of its copy bandwidth",
    "peers": "time and error beside other libraries on the CPU, in float64 (they come with jaxdiff[bench])",
    "scaling": "cost against cells, output times, steps and batch",
    "attacks": "random problems, tables and configurations: right, refused in one line, or found out",
}


def run(case: str, folder: Path, *, smoke: bool = False, device: str | None = None, dtype: str | None = None) -> None:
    """Measure a case and write its JSON, tables and plots into a folder.

    Raises:
        ValueError: an unknown case; a device that JAX does not see; a choice that the case does not leave.
    """
    if case not in CASES:
        raise ValueError(f"no benchmark is called {case!r}; choose one of {', '.join(CASES)}")
    from jaxdiff.benchmarks.harness import Options, devices

    dtypes = (dtype,) if dtype else ("float64", "float32")
    options = Options(folder, smoke, devices(device), dtypes)
    importlib.import_module(f"jaxdiff.benchmarks.{case}").main(options)


def published(folder: Path) -> bool:
    """Whether a folder holds results of full runs, which a short one must not replace."""
    return any(not json.loads(file.read_text()).get("smoke", True) for file in folder.glob("*.json"))
