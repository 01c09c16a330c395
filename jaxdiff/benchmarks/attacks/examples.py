"""Small configurations that run, of every kind that docs/config.md knows, and their tables."""

from __future__ import annotations

import numpy as np

EXAMPLES = {
    "wall": """
title = "Cooling wall"
[labels]
x = "x / m"
[equation]
kind = "diffusion"
diffusivity = "D"
decay = "k*(1 + 0*x)"
[parameters]
D = { start = 0.2, positive = true }
[constants]
k = 0.5
[boundaries]
"x-" = { kind = "dirichlet", value = 1.0 }
[grid]
lower = 0.0
upper = 1.0
cells = 12
[initial]
value = 0.0
[data]
table = "heat.csv"
time = "t"
position = "x"
value = "T"
sigma = 0.05
[fit]
optimizer = "levenberg_marquardt"
steps = 20
[solve]
times = [0.0, 0.1, 0.3]
""",
    "bar": """
[equation]
kind = "diffusion"
diffusivity = "D"
decay = "k"
source = "k*air"
[parameters]
D = { start = 0.4, lower = 0.01, upper = 5.0 }
k = { start = 0.3, positive = true }
[boundaries]
"x-" = { kind = "dirichlet", value = "heater" }
"x+" = { kind = "robin", rate = 0.5, ambient = "air" }
[grid]
lower = 0.0
upper = 1.0
cells = 12
[initial]
profile = "first row"
[data]
table = "bar.csv"
time = "t"
sensors = { near = 0.3, far = 0.8 }
scale = { far = 1.0 }
interpolation = "linear"
every = 1
[fit]
validation = 0.25
""",
    "rates": """
[equation]
kind = "fokker_planck"
drift = "k*(m - x)"
diffusivity = "D"
interpretation = "ito"
[parameters]
k = { start = 1.0, positive = true }
m = 0.5
D = { start = 0.02, positive = true }
[grid]
lower = -0.5
upper = 1.5
cells = 24
[data]
kind = "trajectory"
table = "path.csv"
interval = 0.05
value = "x"
[fit]
loss = "negative_log_likelihood"
""",
    "cloud": """
[equation]
kind = "fokker_planck"
potential = "0.5*k*x**2"
diffusivity = "D"
[parameters]
D = { start = 0.3, positive = true }
[constants]
k = 1.0
[grid]
lower = -2.0
upper = 2.0
cells = 16
[initial]
delta = 0.3
start = 0.0
[data]
kind = "histograms"
table = "counts.csv"
time = "t"
edges = [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]
counts = ["a", "b", "c", "d", "e", "f"]
[fit]
loss = "kl_divergence"
optimizer = { name = "adam", learning_rate = 0.05, nesterov = true }
steps = 5
seed = 3
""",
    "plate": """
[labels]
value = "T / K"
[equation]
kind = "diffusion"
diffusivity = ["D*(1 + y)", "D"]
source = 0.5
[constants]
D = 0.3
[boundaries]
"x-" = { kind = "dirichlet", value = "1 + y" }
y = { kind = "robin", rate = 0.5, ambient = 0.2 }
[grid]
lower = [0.0, 0.0]
upper = [1.0, 1.0]
cells = [6, 8]
[initial]
value = "x*y"
[solve]
times = { stop = 0.2, count = 3 }
""",
    "ball": """
[equation]
kind = "diffusion"
diffusivity = 0.2
capacity = "1 + r"
[boundaries]
"r+" = { kind = "flux", value = -1.0 }
[grid]
geometry = "spherical"
lower = 0.0
upper = 1.0
cells = 10
[initial]
value = 1.0
[solve]
times = [0.0, 0.5]
scheme = { name = "finite_volume", order = 2 }
stepper = "crank_nicolson"
substeps = 20
""",
}


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
