"""Speed and accuracy, measured beside the peers: `python -m benchmarks` runs all, `python -m benchmarks.solve` one."""
