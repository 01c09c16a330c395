"""Time from 300 readings to four coefficients with error bars.

A bump of unknown width spreads, decays, and leaks through a wall: D, decay rate, wall rate and width from six sensors
at fifty times with known noise. Everyone fits the logarithms of the four, on the same cells, from the same start.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks.fitters import (
    MOST,
    NAMES,
    SIGMA,
    START,
    TRUTH,
    Bump,
    Diffrax,
    Found,
    adam_steps,
    by_jaxdiff,
    by_scipy,
    scipy_predict,
)
from jaxdiff.benchmarks.harness import COLOURS, Options, clock, facts, figure, footer, markdown, publish, seconds

AGREE = 0.01  # standard errors by which the optima, relatively by which the error bars, may differ


def measure(bump: Bump, smoke: bool) -> dict[str, Any]:
    repeats = 2 if smoke else 41
    clean = _predicted(bump, None)
    data = clean + np.random.default_rng(0).normal(0.0, SIGMA, (repeats + 1, len(clean)))
    peak = np.abs(clean).max()
    runs, skipped = {"jaxdiff": by_jaxdiff(bump)}, {}
    errors = {"jaxdiff": float(np.abs(_predicted(bump, 1e-9) - clean).max() / peak)}
    for tolerance in (1e-8, 1e-6):
        name = f"SciPy least_squares, LSODA at {tolerance:.0e}".replace("e-0", "e-")
        if importlib.util.find_spec("scipy"):
            runs[name] = by_scipy(bump, tolerance)
            errors[name] = float(np.abs(scipy_predict(bump, tolerance)(np.log(TRUTH)) - clean).max() / peak)
        else:
            skipped[name] = "scipy is not installed"
    first: dict[str, float] = {}
    times: dict[str, list[float]] = {name: [] for name in runs}
    found: dict[str, list[Found]] = {name: [] for name in runs}
    for name, run in runs.items():  # every fit new data; the first warms up and compiles
        for turn, values in enumerate(data):
            took, result = clock(partial(run, values))
            if turn:
                times[name].append(took)
                found[name].append(result)
            else:
                first[name] = took
        print(f"{name}: {seconds(first[name])}, then {', '.join(map(seconds, times[name]))}", flush=True)
    entries = [
        {
            "fit": name,
            "seconds": float(np.median(times[name])),
            "quartiles": np.percentile(times[name], [25, 75]).tolist(),
            "runs": repeats,
            "first": first[name],
            "evaluations": int(np.median([f.evaluations for f in found[name]])),
            "error": errors[name],
        }
        for name in runs
    ]
    ours = found["jaxdiff"][0]
    if importlib.util.find_spec("diffrax"):
        entries += _diffrax(bump, data[1], ours, found, smoke)
    else:
        skipped["diffrax + optax"] = "diffrax is not installed"
    return {
        "entries": entries,
        "skipped": skipped,
        "agreement": _agreement(found),
        "estimate": dict(zip(NAMES, ours.estimate.tolist())),
        "standard errors": dict(zip(NAMES, (ours.errors * ours.estimate).tolist())),
    }


def _diffrax(
    bump: Bump, values: np.ndarray, ours: Found, found: dict[str, list[Found]], smoke: bool
) -> list[dict[str, Any]]:
    model = Diffrax(bump)
    logs = jnp.log(START)
    once = clock(lambda: model.slope(logs, values))[0]
    each = float(np.median([clock(lambda: model.slope(logs, values))[0] for _ in range(5)]))
    print(f"diffrax: value and gradient {seconds(each)}, the first {seconds(once)}", flush=True)
    if smoke:  # its line search alone takes half a minute to compile
        return [{"fit": "diffrax, one value and gradient", "seconds": each, "runs": 5, "first": once, "evaluations": 1}]
    compilation, run = clock(lambda: model.lbfgs(values))
    took, result = clock(lambda: run(values))
    print(f"diffrax + optax.lbfgs: {seconds(took)} in {result.evaluations} steps", flush=True)
    name = "diffrax + optax.lbfgs"
    found[name] = [result]
    lbfgs = {
        "fit": name,
        "seconds": took,
        "runs": 1,
        "first": compilation + took,
        "evaluations": result.evaluations,
        "value and gradient": each,
    }
    speed, steps = adam_steps(bump, values, ours.estimate, ours.errors)
    bars = min(clock(lambda: model.jacobian(jnp.log(ours.estimate)))[0] for _ in range(2))
    adam = {"fit": f"diffrax + optax.adam({speed})", "runs": 0, "evaluations": steps, "bound": steps is None}
    return [lbfgs, adam | {"seconds": (steps or MOST) * each + bars, "value and gradient": each}]


def _predicted(bump: Bump, tolerance: float | None) -> np.ndarray:
    """The readings without noise."""
    equation, initial = bump.model(*TRUTH)
    times = np.concatenate([[0.0], bump.times])
    return bump.sensed(np.asarray(jd.solve(equation, bump.grid, initial, times, tolerance=tolerance).values)[1:])


def _agreement(found: dict[str, list[Found]]) -> dict[str, float]:
    """Largest distance to jaxdiff's optimum in standard errors, asserted to be small, and so for the error bars."""
    out = {}
    for name, results in found.items():
        pairs = list(zip(results, found["jaxdiff"]))
        place = max(float(np.max(np.abs(np.log(a.estimate / b.estimate)) / b.errors)) for a, b in pairs)
        bars = max(float(np.max(np.abs(a.errors / b.errors - 1))) for a, b in pairs)
        assert place < AGREE, f"{name} ends {place:.2g} standard errors from jaxdiff"
        assert bars < AGREE, f"error bars of {name} differ from jaxdiff's by {bars:.2g}"
        out[name] = place
    return out


def table(bump: Bump, data: dict[str, Any], device: dict[str, Any]) -> str:
    ours = data["entries"][0]["seconds"]
    rows = []
    for e in data["entries"]:
        mark = (
            "" if e["runs"] else (f" (more than; {MOST} steps do not suffice)" if e.get("bound") else " (extrapolated)")
        )
        first = "–" if "first" not in e or "SciPy" in e["fit"] else seconds(e["first"] - e["seconds"])
        away = data["agreement"].get(e["fit"])
        rows.append(
            [
                f"**{e['fit']}**" if e["fit"] == "jaxdiff" else e["fit"],
                seconds(e["seconds"]) + mark,
                f"{e['seconds'] / ours:.3g}",
                first,
                str(e["evaluations"] or f"> {MOST}"),
                str(e["runs"] or "–"),
                f"{e['error']:.0e}" if "error" in e else "–",
                "–" if away is None else f"{away:.0e}",
            ]
        )
    rows += [[name, "–", "–", "–", "–", "–", "–", reason] for name, reason in data["skipped"].items()]
    header = [
        "float64, CPU",
        "fit with error bars",
        "× jaxdiff",
        "compilation, once",
        "evaluations",
        "fits",
        "error of a solve",
        "from jaxdiff [s.e.]",
    ]
    pairs = zip(NAMES, data["estimate"].values(), data["standard errors"].values(), TRUTH)
    estimates = ", ".join(f"{name} = {value:.4g} ± {error:.2g} ({true:g})" for name, value, error, true in pairs)
    return f"""{len(bump.rows[0])} readings at {len(bump.times)} times, {bump.cells} cells, four parameters, σ = {SIGMA}: {estimates} (truth in brackets).
Each fit has new data and new noise. All end at the same optimum (asserted: within {AGREE} standard errors, error bars within {AGREE:.0%}).
SciPy: `least_squares(method="lm", diff_step=3e-4)` over one banded LSODA run for all times. diffrax: Tsit5 with its default adjoint, error bars by
forward mode. Compilation is stated apart. The row of adam is extrapolated: its steps until it stays within 0.1 standard errors, counted on the same loss
by jaxdiff at the best of three learning rates, times diffrax's measured value and gradient. Error of a solve: largest, over the peak, at the true values.

{markdown(header, rows)}

{footer(device)}"""


def picture(data: dict[str, Any]) -> Any:
    made, axes = figure(1, 1)
    made.set_size_inches(7.5, 2.6)
    ax = axes[0, 0]
    entries = data["entries"][::-1]
    ax.barh(
        [e["fit"] for e in entries],
        [e["seconds"] for e in entries],
        color=[COLOURS[0] if e["fit"] == "jaxdiff" else COLOURS[1] for e in entries],
        hatch=["" if e["runs"] else "//" for e in entries],
        edgecolor="white",
    )
    for i, e in enumerate(entries):
        ax.text(
            e["seconds"] * 1.1,
            i,
            seconds(e["seconds"]) + ("" if e["runs"] else ", extrapolated"),
            va="center",
            fontsize=9,
        )
    ax.set_xscale("log")
    ax.set_xlim(min(e["seconds"] for e in entries) / 4, max(e["seconds"] for e in entries) * 12)
    ax.set_xlabel("time to four coefficients with error bars [s]")
    ax.spines[["top", "right"]].set_visible(False)
    return made


def main(options: Options) -> list[dict[str, Any]]:
    """Measure and publish; the entries."""
    device, times = facts(), np.linspace(0.01, 0.6, 50)
    bump = Bump(20 if options.smoke else 200, times)
    data = {"device": device, **measure(bump, options.smoke)}
    publish(options, "fit", data, table(bump, data, device), picture(data))
    return data["entries"]
