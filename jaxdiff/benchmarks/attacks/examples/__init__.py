"""Small configurations that run, of every kind that docs/config.md knows, and their tables."""

from __future__ import annotations

from importlib import resources

import numpy as np

NAMES = ("wall", "bar", "rates", "cloud", "plate", "ball")
EXAMPLES = {name: (resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8") for name in NAMES}


def _tables() -> dict[str, str]:
    """What each configuration measures, by rough formulas and a fixed noise."""
    rng = np.random.default_rng(7)
    noise = lambda: 0.02 * rng.normal()
    heat = [
        f"{t},{x},{np.exp(-x / np.sqrt(t + 0.05)) + noise():.5g}"
        for t in (0.05, 0.1, 0.2, 0.4)
        for x in (0.2, 0.5, 0.9)
    ]
    bar = [
        f"{t:.2f},{1 + t:.3f},{0.2:.1f},{0.6 * t + noise():.5g},{0.3 * t + noise():.5g}" for t in np.linspace(0, 1, 9)
    ]
    places = [0.5]
    for _ in range(60):
        places.append(places[-1] + 0.05 * (0.5 - places[-1]) + 0.05 * rng.normal())
    counts = [
        f"{t},{','.join(map(str, rng.multinomial(500, [0.05, 0.1, 0.2, 0.3, 0.25, 0.1])))}" for t in (0.2, 0.5, 1.0)
    ]
    return {
        "heat.csv": "\n".join(["t,x,T", *heat]) + "\n",
        "bar.csv": "\n".join(["t,heater,air,near,far", *bar]) + "\n",
        "path.csv": "\n".join(["x", *(f"{x:.5g}" for x in places)]) + "\n",
        "counts.csv": "\n".join(["t,a,b,c,d,e,f", *counts]) + "\n",
    }


FILES = _tables()
