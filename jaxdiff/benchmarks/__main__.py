"""All cases one after another, each in a fresh process: python -m jaxdiff.benchmarks [--smoke] [--output DIR]."""

import subprocess
import sys

from jaxdiff.benchmarks import CASES

for case in CASES:
    subprocess.run([sys.executable, "-m", "jaxdiff", "benchmark", case, *sys.argv[1:]], check=True)
