"""A case, or all one after another in fresh processes, without what the shell needs: python -m jaxdiff.benchmarks [CASE] [--smoke] [--output DIR]."""

import argparse
import subprocess
import sys
from pathlib import Path

from jaxdiff.benchmarks import CASES, run

parser = argparse.ArgumentParser(prog="python -m jaxdiff.benchmarks", description=__doc__)
parser.add_argument("case", nargs="?", choices=CASES)
parser.add_argument("--output", type=Path)
parser.add_argument("--smoke", action="store_true")
parser.add_argument("--device", choices=("cpu", "gpu", "tpu"))
parser.add_argument("--dtype", choices=("float64", "float32"))
options = vars(parser.parse_args())
case, output = options.pop("case"), options.pop("output")
if case:
    run(case, output or Path(f"benchmark-{case}"), **options)
for each in () if case else CASES:
    subprocess.run([sys.executable, "-m", "jaxdiff.benchmarks", each, *sys.argv[1:]], check=True)
