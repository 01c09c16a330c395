"""Waves in harmonic wells, at rest and driven, whose closed forms are known, beside QuTiP, dynamiqs, SciPy and split steps in NumPy."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks.harness import Entries, Options, compare, missing

ENOUGH = 1e-6  # error that contestants are set to, of the norm
TOLERANCES = (ENOUGH, 1e-9)  # of jaxdiff
QUTIP = {  # what gives about as much
    "adams": {"rtol": 1e-9, "atol": 1e-11},
    "vern7": {"rtol": 1e-5, "atol": 1e-7},
    "diag": {},
}
TSIT5 = 3e-11  # rtol and atol of dynamiqs
MOST = 10_000_000  # steps of a peer

Contestants = dict[str, tuple[Callable[[], Any], Callable[[Any], float]]]  # a call, and the error of what it returns


@dataclass(frozen=True, eq=False)
class Oscillator:
    """p²/2 + V(x) − A x sin 2t from a Gaussian at a place; V or A is told by a number, here 1.

    wave: the exact one at the time; mean: a weight of x, a time, and then its exact mean and the slope of that by the number
    """

    name: str
    cells: int
    well: Callable[[Any], Callable[[Any], Any]]
    driven: bool
    place: float
    time: float
    wave: Callable[[Any], Any]
    mean: tuple[Callable[[Any], Any], float, float, float]

    @property
    def grid(self) -> Any:
        return jd.Grid.uniform((-10.0, 10.0, self.cells))

    @property
    def start(self) -> np.ndarray:
        wave = np.exp(-((np.asarray(self.grid.centers[0]) - self.place) ** 2) / 2)
        return wave / np.linalg.norm(wave)

    def equation(self, number: Any) -> Any:
        still = self.well(number)
        moving = jd.TimeDependent(lambda t, x: still(x) - number * x * jnp.sin(2 * t))
        return jd.Schrodinger(moving if self.driven else still, boundaries=jd.Periodic())

    def error(self, wave: Any) -> float:
        exact = self.wave(np.asarray(self.grid.centers[0]))
        return float(np.linalg.norm(np.ravel(wave) - exact / np.linalg.norm(exact)))


def coherent(cells: int) -> Oscillator:
    """From x = 3 through a period; the frequency squeezes the wave as well, which the mean square sees."""
    t = 6.0  # after a period the slope is zero
    squared = 9.5 * math.cos(t) ** 2 + 0.5 * math.sin(t) ** 2
    slope = -9 * t * math.sin(2 * t) - math.sin(t) ** 2
    well, wave = lambda frequency: lambda x: (frequency * x) ** 2 / 2, lambda x: -np.exp(-((x - 3.0) ** 2) / 2)
    name, mean = f"coherent state, one period, {cells} cells", (np.square, t, squared, slope)
    return Oscillator(name, cells, well, False, 3.0, 2 * math.pi, wave, mean)


def driven(cells: int) -> Oscillator:
    """From rest; a classical path carries the Gaussian, with the phase of its action."""
    t = 10.0
    place, speed = (2 * math.sin(t) - math.sin(2 * t)) / 3, 2 * (math.cos(t) - math.cos(2 * t)) / 3
    squares = 2 * math.sin(t) + 2 * math.sin(3 * t) - 2 * math.sin(2 * t) - 1.5 * t - 0.625 * math.sin(4 * t)
    phase = place * speed + squares / 18 - t / 2  # ∫L dt = xẋ + ∫(x² − ẋ²)/2 dt
    wave = lambda x: np.exp(-((x - place) ** 2) / 2 + 1j * (speed * (x - place) + phase))
    well = lambda force: lambda x: x**2 / 2
    return Oscillator(
        f"driven oscillator, {cells} cells", cells, well, True, 0.0, t, wave, (np.asarray, t, place, place)
    )


def kinetic(grid: Any) -> Any:
    """k²/2 of the discrete Fourier transform `(*cells,)`."""
    waves = [2 * np.pi * np.fft.fftfreq(n, (e[-1] - e[0]) / n) for n, e in zip(grid.shape, grid.edges, strict=True)]
    return sum(k**2 / 2 for k in np.meshgrid(*waves, indexing="ij"))


def strang(grid: Any, potential: Any, start: Any, time: float, steps: int, force: Any = None) -> Any:
    """Split steps of second order by scipy.fft, on all cores, which serve several axes."""
    import scipy.fft

    h, energy, x = time / steps, kinetic(grid), np.asarray(grid.centers[0])
    transforms = {"workers": os.cpu_count(), "overwrite_x": True}
    drift, half, kick = np.exp(-1j * h * energy), np.exp(-0.5j * h * energy), np.exp(-1j * h * potential)
    modes = half * scipy.fft.fftn(start.astype(complex))
    for i in range(steps):
        wave = scipy.fft.ifftn(modes, **transforms)
        wave *= kick if force is None else kick * np.exp(1j * h * force((i + 0.5) * h) * x)
        modes = scipy.fft.fftn(wave, **transforms)
        modes *= drift
    return scipy.fft.ifftn(modes / half)


def by_strang(error: Callable[[Any], float], first: int, *rest: Any, force: Any = None) -> Contestants:
    """As many of them as are enough."""
    grid, potential, start, time = rest
    call = lambda steps: strang(grid, potential, start, time, steps, force)
    steps = math.ceil(first * math.sqrt(error(call(first)) / ENOUGH))
    return {f"NumPy, {steps} steps of Strang": (partial(call, steps), error)}


def by_jaxdiff(case: Oscillator, tolerance: float) -> Contestants:
    weight, until, value, slope = case.mean
    weights = weight(np.asarray(case.grid.centers[0]))

    def end(number: Any, time: float) -> Any:
        return jd.solve(case.equation(number), case.grid, case.start, [0.0, time], tolerance=tolerance).values[-1]

    wave = jax.jit(partial(end, time=case.time))
    mean = lambda number: jnp.sum(weights * jnp.abs(end(number, until)) ** 2)
    alone, both, name = jax.jit(mean), jax.jit(jax.value_and_grad(mean)), f"jaxdiff, {tolerance:g}"
    return {
        name: (lambda: wave(1.0), case.error),
        f"{name}, a mean": (lambda: alone(1.0), lambda found: abs(float(found) / value - 1)),
        f"{name}, a mean with gradient": (lambda: both(1.0), lambda found: abs(float(found[1]) / slope - 1)),
    }


def by_qutip(case: Oscillator, matrix: Any, x: Any) -> Contestants:
    import qutip

    energy, start = qutip.Qobj(matrix).to("Dense"), qutip.Qobj(case.start)
    if case.driven:
        energy = qutip.QobjEvo([energy, [qutip.qdiags(-x), lambda t: np.sin(2 * t)]])

    def solved(method: str, settings: Any) -> Any:
        options = {"method": method, "progress_bar": "", **settings} | ({"nsteps": MOST} if settings else {})
        return qutip.sesolve(energy, start, [0.0, case.time], options=options).final_state.full()

    usable = {method: settings for method, settings in QUTIP.items() if settings or not case.driven}
    return {f"QuTiP, {name}": (partial(solved, name, settings), case.error) for name, settings in usable.items()}


def by_dynamiqs(case: Oscillator, matrix: Any, x: Any) -> Contestants:
    import dynamiqs

    dynamiqs.set_progress_meter(False)
    still = dynamiqs.asqarray(matrix.astype(complex), layout=dynamiqs.dense)
    pulled = dynamiqs.asqarray(np.diag(-x).astype(complex), layout=dynamiqs.dia)
    start, (weight, *_, slope) = case.start[:, None].astype(complex), case.mean
    tsit5 = dynamiqs.method.Tsit5(rtol=TSIT5, atol=TSIT5, max_steps=MOST)

    def end(number: Any, method: Any) -> Any:
        energy = still + dynamiqs.modulated(lambda t: number * jnp.sin(2 * t), pulled) if case.driven else still
        times = jnp.asarray([0.0, case.time])
        return dynamiqs.sesolve(energy, start, times, method=method, save_states=False).final_state.to_jax()

    solved = jax.jit(end, static_argnames="method")
    found: Contestants = {"dynamiqs, Tsit5": (lambda: solved(1.0, tsit5), case.error)}
    if not case.driven:
        return found | {"dynamiqs, Expm": (lambda: solved(1.0, dynamiqs.method.Expm()), case.error)}
    both = jax.jit(jax.value_and_grad(lambda A: jnp.sum(weight(x) * jnp.abs(end(A, tsit5).ravel()) ** 2)))
    gradient = lambda: both(1.0), lambda value: abs(float(value[1]) / slope - 1)
    return found | {"dynamiqs, Tsit5, a mean with gradient": gradient}


def oscillator(case: Oscillator, options: Options) -> Entries:
    """Every contestant's time, and its error against the closed form."""
    import scipy.fft
    import scipy.sparse.linalg

    x, start = np.asarray(case.grid.centers[0]), case.start
    potential = case.well(1.0)(x)
    waves = scipy.fft.fft(np.eye(case.cells), axis=0)
    matrix = scipy.fft.ifft(kinetic(case.grid)[:, None] * waves, axis=0).real + np.diag(potential)
    every: Contestants = {}
    tolerances = TOLERANCES[: 1 if options.smoke else None]
    for tolerance in tolerances:
        every |= by_jaxdiff(case, tolerance)
    force = (lambda t: math.sin(2 * t)) if case.driven else None
    every |= by_strang(case.error, 400, case.grid, potential, start, case.time, force=force)
    if not case.driven:
        product = lambda: scipy.sparse.linalg.expm_multiply(-1j * case.time * matrix, start.astype(complex))
        every["SciPy, expm_multiply"] = product, case.error
    rows: Entries = []
    for package, contestants in (("qutip", by_qutip), ("dynamiqs", by_dynamiqs)):
        if why := missing(package):
            rows.append({"case": case.name, "who": package, "skipped": why})
        else:
            every |= contestants(case, matrix, x)
    how = {f"jaxdiff, {each:g}": told(case.equation(1.0), case.grid, start, case.time, each) for each in tolerances}
    return measured(case.name, every, how, options) + rows


def told(*problem: Any) -> str:
    """How jaxdiff solves it, which is not known inside jit."""
    equation, grid, start, time, tolerance = problem
    return jd.solve(equation, grid, start, [0.0, time], tolerance=tolerance).method


def measured(case: str, every: Contestants, how: dict[str, str], options: Options) -> Entries:
    found = compare({name: call for name, (call, _) in every.items()}, smoke=options.smoke)
    rows = [{"case": case, "who": name, "method": how.get(name, ""), **record} for name, (record, _) in found.items()]
    for row, (_, result) in zip(rows, found.values(), strict=True):
        if result is not None:
            row["error"] = every[row["who"]][1](result)
    return rows
