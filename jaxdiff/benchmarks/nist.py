"""NIST's 27 problems of nonlinear regression: jd.LevenbergMarquardt().minimize beside SciPy's least_squares."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks.harness import Entries, Options, clock, markdown, publish, seconds

FOLDER = Path(__file__).resolve().parents[2] / "data" / "nist"
DIGITS = 11.0  # to which values are certified
SOLVED = 4.0


def _waves(b: Any, x: Any) -> Any:
    turns = lambda period, cosine, sine: (
        cosine * jnp.cos(2 * np.pi * x / period) + sine * jnp.sin(2 * np.pi * x / period)
    )
    return b[0] + turns(12.0, b[1], b[2]) + turns(b[3], b[4], b[5]) + turns(b[6], b[7], b[8])


def _peaks(b: Any, x: Any) -> Any:
    peak = lambda height, centre, width: height * jnp.exp(-(((x - centre) / width) ** 2))
    return b[0] * jnp.exp(-b[1] * x) + peak(b[2], b[3], b[4]) + peak(b[5], b[6], b[7])


def _cubics(b: Any, x: Any) -> Any:
    return (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3)


def _decays(b: Any, x: Any) -> Any:
    return b[0] * jnp.exp(-b[1] * x) + b[2] * jnp.exp(-b[3] * x) + b[4] * jnp.exp(-b[5] * x)


def _ultrasonic(b: Any, x: Any) -> Any:
    return jnp.exp(-b[0] * x) / (b[1] + b[2] * x)


def _rise(b: Any, x: Any) -> Any:
    return b[0] * (1 - jnp.exp(-b[1] * x))


MODELS: dict[str, Callable[[Any, Any], Any]] = {
    "Bennett5": lambda b, x: b[0] * (b[1] + x) ** (-1 / b[2]),
    "BoxBOD": _rise,
    "Chwirut1": _ultrasonic,
    "Chwirut2": _ultrasonic,
    "DanWood": lambda b, x: b[0] * x ** b[1],
    "ENSO": _waves,
    "Eckerle4": lambda b, x: b[0] / b[1] * jnp.exp(-0.5 * ((x - b[2]) / b[1]) ** 2),
    "Gauss1": _peaks,
    "Gauss2": _peaks,
    "Gauss3": _peaks,
    "Hahn1": _cubics,
    "Kirby2": lambda b, x: (b[0] + b[1] * x + b[2] * x**2) / (1 + b[3] * x + b[4] * x**2),
    "Lanczos1": _decays,
    "Lanczos2": _decays,
    "Lanczos3": _decays,
    "MGH09": lambda b, x: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "MGH10": lambda b, x: b[0] * jnp.exp(b[1] / (x + b[2])),
    "MGH17": lambda b, x: b[0] + b[1] * jnp.exp(-x * b[3]) + b[2] * jnp.exp(-x * b[4]),
    "Misra1a": _rise,
    "Misra1b": lambda b, x: b[0] * (1 - (1 + b[1] * x / 2) ** -2),
    "Misra1c": lambda b, x: b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5),
    "Misra1d": lambda b, x: b[0] * b[1] * x / (1 + b[1] * x),
    "Nelson": lambda b, x: b[0] - b[1] * x[:, 0] * jnp.exp(-b[2] * x[:, 1]),
    "Rat42": lambda b, x: b[0] / (1 + jnp.exp(b[1] - b[2] * x)),
    "Rat43": lambda b, x: b[0] / (1 + jnp.exp(b[1] - b[2] * x)) ** (1 / b[3]),
    "Roszman1": lambda b, x: b[0] - b[1] * x - jnp.arctan(b[2] / (x - b[3])) / np.pi,
    "Thurber": _cubics,
}


@dataclass(frozen=True, eq=False)
class Problem:
    """One problem: y `(n,)` and x, two starts `(2, p)`, certified parameters, their standard deviations, and Σ r²."""

    name: str
    x: np.ndarray
    y: np.ndarray
    starts: np.ndarray
    certified: np.ndarray
    deviations: np.ndarray
    squares: float

    def residuals(self, b: Any) -> Any:
        return MODELS[self.name](b, self.x) - self.y


@cache
def problem(name: str) -> Problem:
    """Read a problem. Raises FileNotFoundError without a checkout, where the data lie."""
    if not (file := FOLDER / f"{name}.dat").exists():
        raise FileNotFoundError(
            f"{file} is missing: the NIST data lie in a checkout of the repository, not in the package"
        )
    lines = file.read_text(encoding="utf-8").splitlines()
    rows = [line.split("=")[1].split() for line in lines[40:58] if re.match(r"\s*b\d+\s*=", line)]
    table, data = np.array(rows, float), np.array([line.split() for line in lines[60:] if line.strip()], float)
    squares = next(float(line.split(":")[1]) for line in lines if line.startswith("Residual Sum"))
    y, x = data[:, 0], data[:, 1:].squeeze()
    return Problem(name, x, np.log(y) if name == "Nelson" else y, table[:, :2].T, table[:, 2], table[:, 3], squares)


def digits(found: Any, certified: Any) -> float:
    """−log₁₀ of the largest relative error, between 0 and what the certificate has."""
    error = np.max(np.abs(np.asarray(found) / certified - 1))
    return float(np.clip(-np.log10(max(error, 10**-DIGITS)), 0.0, DIGITS)) if np.isfinite(error) else 0.0


def by_jaxdiff(one: Problem) -> Callable[[Any], tuple[Any, Any, int, bool]]:
    """start → (parameters, standard deviations, Jacobians, converged)."""

    def run(start: Any) -> tuple[Any, Any, int, bool]:
        found = jd.LevenbergMarquardt().minimize(one.residuals, start)
        return found.x, np.sqrt(np.diag(found.covariance)), found.iterations, found.converged

    return run


def by_scipy(one: Problem, scale: Any) -> Callable[[Any], tuple[Any, Any, int, bool]]:
    """The same by least_squares(method="trf") with the same residuals, their exact Jacobian and the tightest tolerances."""
    from scipy.optimize import least_squares

    with jax.enable_x64(True):
        values, slopes = jax.jit(one.residuals), jax.jit(jax.jacfwd(one.residuals))

    def run(start: Any) -> tuple[Any, Any, int, bool]:
        tight = dict.fromkeys(("xtol", "ftol", "gtol"), 1e-15)
        with jax.enable_x64(True), np.errstate(all="ignore"):
            host = lambda function: lambda b: np.asarray(function(b))
            found = least_squares(
                host(values), start, host(slopes), method="trf", x_scale=scale, max_nfev=5000, **tight
            )
        n, p = found.jac.shape
        covariance = 2 * found.cost / (n - p) * np.linalg.inv(found.jac.T @ found.jac)
        return found.x, np.sqrt(np.diag(covariance)), found.njev, found.status > 0

    return run


SOLVERS: dict[str, Callable[[Problem], Any]] = {
    "jaxdiff": by_jaxdiff,
    "scipy trf": lambda one: by_scipy(one, 1.0),
    "scipy trf, x_scale=jac": lambda one: by_scipy(one, "jac"),
}


def measure(solver: str, name: str) -> Entries:
    """What a solver makes of a problem from both starts."""
    one, rows = problem(name), []
    run = SOLVERS[solver](one)
    for start in (0, 1):
        call = partial(run, one.starts[start])
        first, _ = clock(call)
        again, (x, deviations, jacobians, converged) = clock(call)
        row = {"problem": name, "start": start + 1, "jacobians": jacobians, "converged": converged}
        row |= {"digits": digits(x, one.certified), "deviations": digits(deviations, one.deviations)}
        rows.append(row | {"first": first, "seconds": again})
    return rows


def summary(rows: Entries) -> dict[str, float]:
    column = lambda name: np.array([row[name] for row in rows])
    solved = column("digits") >= SOLVED
    return {
        "solved": int(solved.sum()),
        "digits": float(column("digits").mean()),
        "deviations": float(column("deviations").mean()),
        "jacobians": float(np.median(column("jacobians"))),
        "most": int(column("jacobians").max()),
        "false": int((column("converged") & ~solved).sum()),
        "seconds": float(np.median(column("seconds"))),
    }


def main(options: Options) -> None:
    """Write nist.json and nist.md."""
    names = list(MODELS)[: 3 if options.smoke else None]
    rows = {solver: [row for name in names for row in measure(solver, name)] for solver in SOLVERS}
    totals = {solver: summary(found) for solver, found in rows.items()}
    header = ["", "solved to 4 digits", "digits", "of the s.d.", "Jacobians, median", "most", "falsely converged"]
    table = [
        [solver, f"{total['solved']} of {len(rows[solver])}", f"{total['digits']:.1f}", f"{total['deviations']:.1f}"]
        + [f"{total[name]:g}" for name in ("jacobians", "most", "false")]
        + [seconds(total["seconds"])]
        for solver, total in totals.items()
    ]
    text = markdown([*header, "a later call"], table)
    text += "\n\nNIST StRD, 27 problems from two starts; digits are means, of at most 11."
    publish(options, "nist", {"summary": totals, "problems": rows}, text)
