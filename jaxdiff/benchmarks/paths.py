"""Paths on one axis and in the plane whose truth is known, beside pymle, KramersMoyal and SFI: bias and spread over repeats, seconds."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks.decisions import curved
from jaxdiff.benchmarks.harness import (
    Entries,
    Found,
    Options,
    bold,
    failure,
    markdown,
    missing,
    publish,
    scatter,
    seconds,
    skipped,
)

REPEATS, FINE = 20, 200  # substeps of the paths that are drawn
POWERS = 3  # of the polynomials that peers without a model take


@dataclass(frozen=True, eq=False)
class Process:
    """dX = f(x; θ) dt + σ(x; θ) dW, the truth θ, the last of which is that of the noise, and how it is seen.

    of_moments: coefficients of f, from the constant up, and σ² over `shape(x)` → θ; None: no peer without a model
    """

    name: str
    truth: dict[str, float]
    drift: Callable[..., Any]
    variance: Callable[..., Any]
    interval: float
    steps: int
    start: float
    grid: Any
    guess: tuple[float, ...]
    of_moments: Callable[..., Any]
    shape: Callable[[Any], Any] = staticmethod(lambda x: 1.0 + 0 * x)
    degree: int = 1
    positive: bool = False

    def model(self, *numbers: Any) -> Any:
        f, variance = (lambda x: self.drift(x, *numbers)), self.variance(*numbers)
        spread = (lambda x: 0.5 * variance * x) if self.positive else 0.5 * variance
        return jd.FokkerPlanck(f, spread)

    def path(self, seed: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
        times = self.interval * np.arange(steps + 1)
        model = self.model(*self.truth.values())
        with jax.enable_x64(True):  # pymle takes differences over 1e-5
            x = jd.simulate(model, self.start, times, 1, seed, substeps=FINE)
        return times, np.asarray(x, float).ravel()


PROCESSES = (
    Process(
        "Ornstein–Uhlenbeck",
        {"k": 1.0, "m": 0.5, "sigma2": 1.0},
        lambda x, k, m, s: k * (m - x),
        lambda k, m, s: s,
        0.5,
        1000,
        0.5,
        jd.Grid.uniform((-6.0, 7.0, 130)),
        (0.5, 0.0, 0.5),
        lambda c, s: (-c[1], -c[0] / c[1], s),
    ),
    Process(
        "double well",
        {"a": 2.0, "b": 2.0, "sigma2": 0.8},
        lambda x, a, b, s: a * x - b * x**3,
        lambda a, b, s: s,
        0.2,
        5000,
        1.0,
        jd.Grid.uniform((-2.6, 2.6, 160)),
        (1.0, 1.0, 0.5),
        lambda c, s: (c[1], -c[3], s),
        degree=3,
    ),
    Process(
        "Cox–Ingersoll–Ross",
        {"k": 1.0, "m": 1.0, "sigma2": 0.5},
        lambda x, k, m, s: k * (m - x),
        lambda k, m, s: s,
        0.5,
        1000,
        1.0,
        jd.Grid.uniform((0.0, 6.0, 160)),
        (0.5, 0.8, 0.3),
        lambda c, s: (-c[1], -c[0] / c[1], s),
        shape=staticmethod(lambda x: x),
        positive=True,
    ),
)


@cache
def _function(process: Process) -> Callable[..., Any]:
    return lambda **numbers: process.model(*numbers.values())  # one and the same for all paths, compiled once


def by_jaxdiff(process: Process, times: np.ndarray, x: np.ndarray) -> Found:
    marks = {
        name: jd.Positive(guess) if guess else jd.Free(guess)
        for name, guess in zip(process.truth, process.guess, strict=True)
    }
    began = time.perf_counter()
    fit = jd.fit(_function(process), jd.Trajectory(process.grid, times, x), parameters=marks, progress=False)
    taken = time.perf_counter() - began
    each = lambda values: np.array([float(values[name]) for name in marks])
    return Found(each(fit.parameters), each(fit.standard_errors), (taken, taken))


def by_pymle(density: str) -> Callable[..., Found]:
    def fitted(process: Process, times: np.ndarray, x: np.ndarray) -> Found:
        """By a simplex, as its default search ends early; second differences of its likelihood tell errors, as it tells none."""
        from pymle.core import TransitionDensity
        from pymle.core.Model import Model1D
        from pymle.fit.AnalyticalMLE import AnalyticalMLE
        from pymle.fit.Minimizer import ScipyMinimizer
        from pymle.models import CIR, OrnsteinUhlenbeck

        class Given(Model1D):
            def drift(self, x: Any, t: Any) -> Any:
                return process.drift(x, *self._params)

            def diffusion(self, x: Any, t: Any) -> Any:
                return np.sqrt(process.variance(*self._params) * process.shape(x))

            def _set_is_positive(self, params: Any) -> bool:
                return process.positive

        model: Any = Given(has_constant_diffusion=not process.positive)
        guess, exact = np.array(process.guess), density == "Exact"
        if exact:  # of the models that it has, by σ
            model = {"Ornstein–Uhlenbeck": OrnsteinUhlenbeck, "Cox–Ingersoll–Ross": CIR}[process.name]()
            guess[-1] **= 0.5
        search_by = ScipyMinimizer("Nelder-Mead", 1e-6, {"maxiter": 2000, "xatol": 1e-4, "fatol": 1e-4})
        bounds = [(0.0 if name == "m" and not process.positive else 1e-3, 20.0) for name in process.truth]
        with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
            way = getattr(TransitionDensity, density + "Density")(model)
            search = AnalyticalMLE(x, bounds, process.interval, way, search_by)
            began = time.perf_counter()
            best = np.array(search.estimate_params(guess).params)
            first = time.perf_counter() - began
            errors = curved(search.log_likelihood_negative, best)
            taken = time.perf_counter() - began
        if exact:
            errors[-1], best[-1] = 2 * best[-1] * errors[-1], best[-1] ** 2
        return Found(best, errors, (first, taken))

    return fitted


def by_kramers_moyal(process: Process, times: np.ndarray, x: np.ndarray) -> Found:
    """Its coefficients, and the polynomial and the shape through them by least squares with the counts as weights."""
    from kramersmoyal import km

    began = time.perf_counter()
    moments, edges = km(x[:, None], bins=[100], powers=2, bw=0.05 * np.ptp(x))
    places = edges[0]
    weight = np.maximum(moments[0], 0.0)
    design = np.vander(places, process.degree + 1, increasing=True)
    root = np.sqrt(weight)[:, None]
    c = np.linalg.lstsq(design * root, moments[1] / process.interval * root[:, 0], rcond=None)[0]
    shape = process.shape(places)
    variance = np.sum(weight * shape * 2 * moments[2] / process.interval) / np.sum(weight * shape**2)
    taken = time.perf_counter() - began
    return Found(np.array(process.of_moments(c, variance)), None, (taken, None))


def by_sfi(process: Process, times: np.ndarray, x: np.ndarray) -> Found:
    """Its linear estimator of the force over monomials, and of a constant diffusion; its errors are those of the force."""
    from SFI import OverdampedLangevinInference, TrajectoryCollection
    from SFI.bases import monomials_up_to

    began = time.perf_counter()
    found = OverdampedLangevinInference(TrajectoryCollection.from_arrays(X=x[:, None], dt=process.interval))
    with contextlib.redirect_stdout(io.StringIO()):
        found.compute_diffusion_constant()
        found.infer_force_linear(monomials_up_to(order=process.degree, dim=1, rank="vector"))
        c = np.asarray(jax.block_until_ready(found.force_coefficients_full), float).ravel()
        first = time.perf_counter() - began
        found.compute_force_error()
        taken = time.perf_counter() - began
    D = float(np.asarray(found.diffusion_average).ravel()[0])
    return Found(np.array(process.of_moments(c, 2 * D)), None, (first, taken))


WAYS: dict[str, tuple[str, Callable[..., Found]]] = {
    "jaxdiff": ("jaxdiff", by_jaxdiff),
    "pymle, exact": ("pymle", by_pymle("Exact")),
    "pymle, Euler": ("pymle", by_pymle("Euler")),
    "pymle, Kessler": ("pymle", by_pymle("Kessler")),
    "pymle, Shoji–Ozaki": ("pymle", by_pymle("ShojiOzaki")),
    "KramersMoyal": ("kramersmoyal", by_kramers_moyal),
    "SFI": ("SFI", by_sfi),
}


SHORT = ("jaxdiff", "pymle, Kessler", "KramersMoyal")  # SFI compiles for a minute


def has(process: Process, name: str) -> bool:
    """Whether a peer has anything to say of a process: a closed form, a constant noise."""
    if name == "pymle, exact":
        return process.degree == 1
    return not process.positive or name not in ("pymle, Shoji–Ozaki", "SFI")


def tally(process: Process, repeats: int, steps: int, ways: Any = tuple(WAYS)) -> Entries:
    """Bias and spread of every estimate over the truth, coverage and seconds, of so many paths."""
    paths = [process.path(seed, steps) for seed in range(repeats)]
    truth, rows = np.array(list(process.truth.values())), []
    for name, (package, fitted) in WAYS.items():
        if not has(process, name) or name not in ways:
            continue
        row: dict[str, Any] = {"process": process.name, "interval": process.interval, "steps": steps, "who": name}
        try:
            if why := missing(package):
                raise ModuleNotFoundError(why)
            began = time.perf_counter()
            fitted(process, *paths[0])
            first = time.perf_counter() - began
            found = [fitted(process, *path) for path in paths]
        except Exception as error:  # a peer's failure is a finding, not the end of the run
            rows.append(row | {"skipped": failure(error)})
            print(rows[-1], flush=True)
            continue
        row |= {"names": list(process.truth), "first": first} | scatter(found, truth)
        rows.append(row)
        print(row, flush=True)
    return rows


def table(rows: Entries) -> str:
    lines, said = [], ""
    for row in rows:
        if "skipped" in row:
            continue
        spread = row["spread"] or [np.nan] * len(row["bias"])
        told = [
            f"{name} {100 * b:+.1f}, {100 * s:.1f}"
            for name, b, s in zip(row["names"], row["bias"], spread, strict=True)
        ]
        held = ", ".join(f"{100 * share:.0f}" for share in row.get("coverage", ())) or "–"
        of = f"{row['process']}, Δ = {row['interval']:g}, {row['steps']} steps"
        lines.append(
            [
                "" if of == said else of,
                bold(row["who"]),
                "; ".join(told),
                held,
                *map(seconds, (row["first"], *row["seconds"])),
            ]
        )
        said = of
    header = ["", "", "bias, spread in %", "intervals that hold in %", "the first", "to the estimate", "to error bars"]
    several = max(row.get("repeats", 0) for row in rows)
    return f"""{several} paths of each process, drawn with {FINE} substeps. Errors of pymle's estimates are second differences of its likelihood; those of
SFI are of the force alone, and KramersMoyal tells none. The first call compiles.

{markdown(header, lines)}
{skipped(rows, "who")}"""


def main(options: Options) -> None:
    """Write paths.json and paths.md."""
    rows: Entries = []
    for process in PROCESSES[: 1 if options.smoke else None]:
        rows += tally(process, 2, 200, SHORT) if options.smoke else tally(process, REPEATS, process.steps)
    publish(options, "paths", {"rows": rows}, table(rows))
