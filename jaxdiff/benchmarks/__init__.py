"""What `jaxdiff benchmark` measures: devices against each other, methods against their peers, cost against size."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from jaxdiff.runtime.staging import growing

MEASURED = ("*.json", "*.md", "*.png")
CASES = {
    "throughput": "cell updates, solves, gradients and fits per second on every device, as a share of its copy bandwidth",
    "peers": "time and error beside other libraries on the CPU, in float64 (they come with jaxdiff[bench])",
    "jumps": "master equations beside SciPy's expm_multiply and BDF",
    "spectrum": "slowest rates beside LAPACK, first passages beside SciPy's expm_multiply and BDF",
    "waves": "the Schrödinger equation beside QuTiP, dynamiqs, SciPy and split steps in NumPy",
    "scaling": "cost against cells, output times, steps and batch",
    "attacks": "random problems, tables and configurations: right, refused in one line, or found out",
    "nist": "27 certified problems of nonlinear regression, beside SciPy",
    "receptor": "fourteen rates of a receptor from random starts: how many fits end at the optimum",
    "tracks": "tracks with localisation noise and motion blur: scatter beside the Cramér–Rao bound, bias, intervals that hold",
    "paths_in_space": "paths in the plane: bias, intervals and times over repeats on known truth",
    "paths": "paths whose truth is known beside pymle, KramersMoyal and SFI: bias, spread, seconds to the estimate and to error bars",
    "decisions": "drift-diffusion models of decisions beside PyDDM and hddm_wfpt: measured trials, and repeats on known truth",
    "fields": "drift and diffusivity as smooth curves, from paths, histograms and readings: errors, bands that hold, seconds",
    "generation": "images from text: read by a stranger, beside handwriting and a plain decoder (needs jaxdiff[generate])",
    "coverage": "false alarms of the verdict on the model, misfits that it finds, intervals that hold, over many repeats",
}


def run(case: str, output: Path, *, smoke: bool = False, device: str | None = None, dtype: str | None = None) -> None:
    """Measure a case and write its JSON, tables and plots into a folder, where they grow with every measurement.

    Raises:
        ValueError: an unknown case; a device that JAX does not see; a choice that the case does not leave; a short run where
            the results of a full one are.
    """
    if case not in CASES:
        raise ValueError(f"no benchmark is called {case!r}; choose one of {', '.join(CASES)}")
    if smoke and output.is_dir() and _published(output):
        raise ValueError(
            f"{output} holds the results of a full run, which --smoke would replace; choose another --output"
        )
    from jaxdiff.benchmarks.harness import Options, devices

    dtypes = (dtype,) if dtype else ("float64", "float32")
    with growing(output, MEASURED) as folder:
        importlib.import_module(f"jaxdiff.benchmarks.{case}").main(Options(folder, smoke, devices(device), dtypes))


def _published(folder: Path) -> bool:
    """Whether a folder holds results of full runs, which a short one must not replace."""
    return any(not json.loads(file.read_text()).get("smoke", True) for file in folder.glob("*.json"))
