"""Decisions by a drift between two bounds, beside PyDDM and hddm_wfpt: measured trials, and repeats whose truth is known."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks.harness import (
    Entries,
    Found,
    Options,
    bold,
    clock,
    failure,
    markdown,
    missing,
    publish,
    scatter,
    seconds,
    skipped,
)

FILE = Path(__file__).resolve().parents[2] / "data" / "roitman_monkey1.csv"
NAMES = ("k", "B", "t0")
TRUTH, START = np.array([10.3, 0.746, 0.308]), np.array([8.0, 1.0, 0.25])
LOWEST, HIGHEST = np.array([0.0, 0.3, 0.1]), np.array([20.0, 2.0, 0.4])
COHERENCES = (0.0, 0.032, 0.064, 0.128, 0.256, 0.512)
LAPSE = 0.02
GRID = jd.Grid.uniform((-1.0, 1.0, 200))
IMAGES = 4.0 * np.arange(-12, 13)  # of the walls, in bounds
REPEATS, TRIALS = 40, 100  # of each coherence
STEP = 1e-3  # of numerical second derivatives, over each number


class Trials(NamedTuple):
    """Seconds until a decision, whether it was correct, and at which coherence, `(m,)`; up to when lapses are."""

    times: np.ndarray
    correct: np.ndarray
    coherence: np.ndarray
    window: float

    @property
    def lapse(self) -> float:
        """The density of those through one bound."""
        return LAPSE / (2 * self.window)


def monkey() -> Trials | None:
    """Monkey 1 of Roitman & Shadlen 2002, as cut in PyDDM's examples; None where the data do not lie beside the package."""
    if not FILE.exists():
        return None
    times, coherence, correct = np.genfromtxt(FILE, delimiter=",", comments="#", skip_header=0)[1:].T
    kept = (times > 0.1) & (times < 1.65)
    return Trials(times[kept], correct[kept], coherence[kept], 2.0)


def density(t: Any, correct: Any, drift: Any, B: Any) -> Any:
    """Of a passage t after the start through the upper wall, or the lower, by images of the walls."""
    x = 1.0 + IMAGES
    after = np.where(t > 0, t, 1.0)[..., None]
    parts = x * B * np.exp(-((x * B) ** 2) / (2 * after)) / np.sqrt(2 * np.pi * after**3)
    tilt = np.exp(np.where(np.asarray(correct) == 1, 1.0, -1.0) * drift * B - drift**2 * after[..., 0] / 2)
    return np.where(t > 0, np.maximum(parts.sum(-1), 0.0) * tilt, 0.0)


def exact(x: Any, trials: Trials) -> float:
    """−ln L by the closed form."""
    k, B, t0 = x
    g = density(trials.times - t0, trials.correct, k * trials.coherence, B)
    return -float(np.sum(np.log((1 - LAPSE) * g + trials.lapse)))


def drawn(each: int, seed: int, coherences: Any = COHERENCES) -> Trials:
    """Trials of the truth, by the inverse of the closed form's chances up to a time that one in 10⁴ outlasts; a few are lapses."""
    rng, (k, B, t0) = np.random.default_rng([18, seed]), TRUTH
    window = 4.5
    t = np.linspace(0.0, window - t0, 20001)[1:]
    times, correct = [], []
    for coherence in coherences:
        g = np.concatenate([density(t, side, k * coherence, B) for side in (0, 1)])
        which = np.searchsorted(np.cumsum(g) / g.sum(), rng.uniform(size=each))
        lapses = rng.uniform(size=each) < LAPSE
        times.append(np.where(lapses, rng.uniform(0, window, each), t[which % len(t)] + t0))
        correct.append(np.where(lapses, rng.integers(0, 2, each), which // len(t)))
    return Trials(np.concatenate(times), np.concatenate(correct), np.repeat(coherences, each), window)


def model(k: Any, B: Any, coherence: Any) -> Any:
    return jd.FokkerPlanck(k * coherence / B, 0.5 / B**2, boundaries=jd.absorbing)


def by_jaxdiff(trials: Trials) -> Found:
    columns = dict(zip(("time", "correct", "coherence"), trials[:3], strict=True))
    seen = jd.PassageTimes.from_table(
        columns, GRID, 0.0, time="time", side="correct", sides={1: "x+", 0: "x-"}, conditions=["coherence"],
        nondecision="t0", lapse=LAPSE, window=trials.window,
    )  # fmt: skip
    marks = {"k": jd.Free(START[0]), "B": jd.Positive(START[1]), "t0": jd.Bounded(START[2], LOWEST[2], HIGHEST[2])}
    taken, fit = clock(lambda: jd.fit(model, seen, parameters=marks, progress=False))
    each = lambda values: np.array([float(values[name]) for name in NAMES])
    return Found(each(fit.parameters), each(fit.standard_errors), (taken, taken))


def curved(loss: Callable[[Any], float], x: np.ndarray) -> np.ndarray:
    """Standard errors by second differences of −ln L."""
    steps = STEP * np.diag(x)
    both = lambda i, j: sum(a * b * loss(x + a * steps[i] + b * steps[j]) for a in (1, -1) for b in (1, -1))
    second = [[both(i, j) / (4 * steps[i, i] * steps[j, j]) for j in range(len(x))] for i in range(len(x))]
    return np.sqrt(np.diag(np.linalg.inv(np.array(second))))


def by_hddm(trials: Trials) -> Found:
    """hddm_wfpt has likelihoods; Nelder and Mead's simplex searches, and second differences tell errors."""
    from scipy.optimize import minimize
    from wfpt import wiener_like  # of hddm_wfpt

    signed = np.where(trials.correct == 1, trials.times, -trials.times)
    parts = [(c, np.ascontiguousarray(signed[trials.coherence == c])) for c in np.unique(trials.coherence)]

    def loss(x: Any) -> float:
        k, B, t0 = x
        if B <= 0 or t0 <= 0:
            return np.inf
        more = {"p_outlier": LAPSE, "w_outlier": 0.5 / trials.window}
        return -sum(wiener_like(rows, k * c, 0.0, 2 * B, 0.5, 0.0, t0, 0.0, 1e-10, **more) for c, rows in parts)

    first, best = clock(lambda: minimize(loss, START, method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-6}))
    second, errors = clock(lambda: curved(loss, best.x))
    return Found(best.x, errors, (first, first + second))


@cache
def _pyddm(window: float) -> Any:
    import pyddm

    bounds = {name: tuple(map(float, ends)) for name, *ends in zip(NAMES, LOWEST, HIGHEST, strict=True)}
    options = {"noise": 1.0, "bound": "B", "nondecision": "t0", "mixture_coef": LAPSE, "T_dur": window}
    return pyddm.gddm(
        drift=lambda k, coherence: k * coherence,
        parameters=bounds,
        conditions=["coherence"],
        dx=0.005,
        dt=0.005,
        **options,
    )


def by_pyddm(trials: Trials) -> Found:
    """As its documentation has it: differential evolution, densities of the closed form on a grid of times."""
    import pandas as pd
    import pyddm

    frame = pd.DataFrame({"time": trials.times, "correct": trials.correct.astype(int), "coherence": trials.coherence})
    sample = pyddm.Sample.from_pandas_dataframe(frame, rt_column_name="time", choice_column_name="correct")
    ddm = _pyddm(trials.window)
    np.random.seed(0)  # noqa: NPY002  # its search draws from this one
    with contextlib.redirect_stdout(io.StringIO()):
        taken, _ = clock(lambda: ddm.fit(sample, lossfunction=pyddm.LossLikelihood, verbose=False))
    return Found(np.array([float(one) for one in ddm.get_model_parameters()]), None, (taken, None))


WAYS: dict[str, tuple[str, Callable[[Trials], Found]]] = {
    "jaxdiff": ("jaxdiff", by_jaxdiff),
    "hddm_wfpt, simplex": ("hddm_wfpt", by_hddm),
    "PyDDM": ("pyddm", by_pyddm),
}


def compared(trials: Trials, smoke: bool) -> Entries:
    """What each finds of the same trials, and the exact −ln L there; in a short run by one call, which compiles."""
    rows: Entries = []
    for name, (package, fitted) in WAYS.items():
        if why := missing(package):
            rows.append({"who": name, "skipped": why})
            continue
        try:
            began = time.perf_counter()
            found = fitted(trials)
            first = time.perf_counter() - began
            found = found if smoke else fitted(trials)
        except Exception as error:  # a peer's failure is a finding, not the end of the run
            rows.append({"who": name, "skipped": failure(error)})
            continue
        errors = None if found.errors is None else found.errors.tolist()
        row = {
            "who": name,
            "estimate": found.estimate.tolist(),
            "errors": errors,
            "exact": exact(found.estimate, trials),
        }
        rows.append(row | {"seconds": found.seconds, "first": first})
    return rows


def repeated(repeats: int, each: int, coherences: Any, ways: Any = tuple(WAYS)) -> Entries:
    """Bias, spread and coverage of each, of so many draws of the same truth."""
    rows: Entries = []
    for name, (package, fitted) in WAYS.items():
        if missing(package) or name not in ways:
            continue
        found = [fitted(drawn(each, seed, coherences)) for seed in range(repeats)]
        row = {"who": name, "trials": each * len(coherences)} | scatter(found, TRUTH)
        rows.append(row)
        print(row, flush=True)
    return rows


def table(of: str, rows: Entries, repeats: Entries) -> str:
    lines, least = [], min(row["exact"] for row in rows if "exact" in row)
    for row in rows:
        if "exact" in row:
            errors = row["errors"] or [np.nan] * len(NAMES)
            told = [
                f"{x:.5g}" + f" ± {e:.2g}" * bool(np.isfinite(e)) for x, e in zip(row["estimate"], errors, strict=True)
            ]
            times = [seconds(one) for one in (row["first"], *row["seconds"])]
            lines.append([bold(row["who"]), *told, f"{row['exact'] - least:.3f}", *times])
    header = ["", *NAMES, "above the least", "the first", "to the estimate", "to error bars"]
    more = []
    for row in repeats:
        several = [
            f"{100 * b:+.2f} ± {100 * s / row['repeats'] ** 0.5:.2f}, {100 * s:.2f}"
            for b, s in zip(row["bias"], row["spread"], strict=True)
        ]
        held = ", ".join(f"{100 * x:.0f}" for x in row.get("coverage", ())) or "–"
        more.append([bold(row["who"]), *several, held, *map(seconds, row["seconds"])])
    known = [
        "",
        *(f"{name}: bias, spread in %" for name in NAMES),
        "intervals that hold in %",
        "to the estimate",
        "to error bars",
    ]
    return f"""{of}: drift k times the coherence, bounds ±B, a delay t₀, {100 * LAPSE:g} % lapses. Above the least: by how much −ln L, by
the closed form, is larger at each estimate. The first call compiles; PyDDM tells no error bars.

{markdown(header, lines)}
{skipped(rows, "who")}

{repeats[0]["repeats"]} draws of {repeats[0]["trials"]} trials of the closed form at {", ".join(f"{n} = {x:g}" for n, x in zip(NAMES, TRUTH, strict=True))}: estimates over the truth.

{markdown(known, more)}"""


def main(options: Options) -> None:
    """Write decisions.json and decisions.md."""
    coherences = (0.0, 0.256) if options.smoke else COHERENCES
    each, repeats = (30, 2) if options.smoke else (TRIALS, REPEATS)
    seen = None if options.smoke else monkey()
    of = "Monkey 1 of Roitman & Shadlen" if seen else "Trials of a known truth"
    rows = compared(seen or drawn(each, 10**6, coherences), options.smoke)
    known = repeated(repeats, each, coherences, ("jaxdiff", "hddm_wfpt, simplex") if options.smoke else tuple(WAYS))
    publish(options, "decisions", {"rows": rows, "repeats": known}, table(of, rows, known))
