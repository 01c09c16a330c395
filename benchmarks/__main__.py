"""All benchmarks one after another, each in a fresh process: python -m benchmarks [--smoke] [--output DIR]."""

import subprocess
import sys

for name in ("solve", "fit", "throughput", "plane"):
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=True)
