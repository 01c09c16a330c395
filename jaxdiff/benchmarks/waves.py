"""Waves: a coherent state, a driven oscillator, packets in the plane and in space, beside QuTiP, dynamiqs, SciPy and NumPy."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks.harness import Entries, Options, bold, markdown, publish, seconds, skipped
from jaxdiff.benchmarks.oscillators import (  # fmt: skip
    ENOUGH,
    TOLERANCES,
    Contestants,
    by_strang,
    coherent,
    driven,
    measured,
    oscillator,
    strang,
    told,
)

STRENGTH = 0.02  # g of the anharmonic well


@dataclass(frozen=True, eq=False)
class Packet:
    """A Gaussian beside the middle of r²/2 + g r⁴, and its mean r², which g changes."""

    shape: tuple[int, ...]
    time: float

    @property
    def grid(self) -> Any:
        return jd.Grid.uniform(*((-8.0, 8.0, n) for n in self.shape))

    @property
    def centers(self) -> list[np.ndarray]:
        return list(np.meshgrid(*map(np.asarray, self.grid.centers), indexing="ij"))

    @property
    def start(self) -> np.ndarray:
        wave = np.exp(-sum((x - 1.0) ** 2 for x in self.centers) / 2)
        return wave / np.linalg.norm(wave)

    def potential(self, strength: Any) -> Any:
        squared = sum(x**2 for x in self.centers)
        return squared / 2 + strength * squared**2

    def end(self, strength: Any, tolerance: float) -> Any:
        """⟨r²⟩ and the wave."""
        well = jd.Schrodinger(self.potential(strength), boundaries=jd.Periodic())
        wave = jd.solve(well, self.grid, self.start, [0.0, self.time], tolerance=tolerance).values[-1]
        return jnp.sum(sum(x**2 for x in self.centers) * jnp.abs(wave) ** 2), wave

    def call(self, name: str) -> Callable[[], Any]:
        """What a contestant does: jaxdiff, with gradient or not, or so many steps of NumPy."""
        if "jaxdiff" in name:
            end = partial(self.end, tolerance=ENOUGH)
            found = jax.jit(jax.value_and_grad(end, has_aux=True) if "gradient" in name else end)
            return lambda: found(STRENGTH)
        steps = int(name.split()[1])
        return lambda: strang(self.grid, self.potential(STRENGTH), self.start, self.time, steps)


def packet(case: Packet, options: Options) -> Entries:
    """Every contestant's time, peak of memory, and error against much shorter steps."""
    finer = jax.jit(jax.value_and_grad(partial(case.end, tolerance=TOLERANCES[-1]), has_aux=True))
    (_, reference), slope = finer(STRENGTH)
    error = lambda wave: float(np.linalg.norm(np.asarray(wave) - np.asarray(reference)))
    potential = case.potential(STRENGTH)
    every: Contestants = {
        "jaxdiff": (case.call("jaxdiff"), lambda found: error(found[1])),
        "jaxdiff, with gradient": (case.call("jaxdiff, with gradient"), lambda found: abs(float(found[1] / slope) - 1)),
        **by_strang(error, 200, case.grid, potential, case.start, case.time),
    }
    how = {"jaxdiff": told(jd.Schrodinger(potential, boundaries=jd.Periodic()), case.grid, case.start, case.time, ENOUGH)}  # fmt: skip
    rows = measured(f"packet in an anharmonic well, {' × '.join(map(str, case.shape))} cells", every, how, options)
    for row in rows if not options.smoke else ():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            row["memory"] = fresh.submit(peak, case, row["who"]).result()
    return rows


def peak(case: Packet, name: str) -> int | None:
    """Bytes that this process has held at most, where Linux tells."""
    with jax.enable_x64(True):
        jax.block_until_ready(case.call(name)())
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)


def table(rows: Entries) -> str:
    """Of one case; a gradient is beside what it is of, all else beside the first."""
    ran = {row["who"]: row for row in rows if "median" in row}
    lines = []
    for name, row in ran.items():
        alone = ran.get(name.removesuffix(" with gradient").removesuffix(","), row)
        beside = alone if alone is not row else next(iter(ran.values()))
        held = f"{row['memory'] / 2**20:.0f} MiB" if row.get("memory") else ""
        cells = [f"{row['error']:.1e}", seconds(row["median"]), f"{row['median'] / beside['median']:.3g}"]
        lines.append([bold(name), row["method"], *cells, seconds(row["first"]), held])
    header = ["", "method", "error", "a call", "ratio", "the first", "memory"]
    return f"{rows[0]['case']}\n\n{markdown(header, lines)}\n{skipped(rows, 'who')}"


def main(options: Options) -> None:
    """Write waves.json and waves.md."""
    cells, shapes, time = ((64, 64), ((32, 32),), 1.0) if options.smoke else ((256, 128), ((256, 256), (64, 64, 64)), 5.0)  # fmt: skip
    rows: Entries = []
    with jax.enable_x64(True):
        for make, n in zip((coherent, driven), cells, strict=True):
            rows += oscillator(make(n), options)
        for shape in shapes:
            rows += packet(Packet(shape, time), options)
    parts = [table([row for row in rows if row["case"] == case]) for case in dict.fromkeys(row["case"] for row in rows)]
    text = f"""Error: of the wave, of its norm, against the closed form, or against tolerance {TOLERANCES[-1]:g} for packets; of a mean and of
its slope relative. Peers are set to errors of about {ENOUGH:g}. Ratio: of the time to that of the first line; of a gradient to that of its mean alone.
Memory: all that a fresh process holds at most, the compiler and 300 MiB of imports with it.
"""
    publish(options, "waves", {"rows": rows}, "\n\n".join([text.rstrip(), *parts]))
