"""Time from 300 readings to four coefficients with error bars.

A bump of unknown width spreads, decays, and leaks through a wall: D, decay rate, wall rate and width from six sensors
at fifty times with known noise. Everyone fits the logarithms of the four, on the same cells, from the same start.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.benchmarks.conduction import error
from jaxdiff.benchmarks.fitters import (
    MOST,
    NAMES,
    SIGMA,
    START,
    TRUTH,
    Bump,
    Diffrax,
    Estimate,
    adam_steps,
    by_jaxdiff,
    by_scipy,
    scipy_predict,
)
from jaxdiff.benchmarks.harness import (
    Entries,
    Options,
    bars,
    bold,
    clock,
    figure,
    markdown,
    missing,
    publish,
    seconds,
    statistics,
)

AGREE = 0.01  # standard errors by which the optima, relatively by which the error bars, may differ


def measure(bump: Bump, smoke: bool) -> dict[str, Any]:
    data, clean = bump.measured(3 if smoke else 42), bump.predict(TRUTH)
    runs, predictions = {"jaxdiff": by_jaxdiff(bump)}, {"jaxdiff": bump.predict(TRUTH, 1e-9)}
    for tolerance in (1e-8, 1e-6):
        name = f"SciPy least_squares, LSODA at {tolerance:.0e}".replace("e-0", "e-")
        runs[name], predictions[name] = by_scipy(bump, tolerance), scipy_predict(bump, tolerance)(np.log(TRUTH))
    entries: Entries = []
    found: dict[str, list[Estimate]] = {}
    for name, run in runs.items():  # every fit new data; the first warms up and compiles
        (first, _), *later = [clock(partial(run, values)) for values in data]
        times, found[name] = [taken for taken, _ in later], [result for _, result in later]
        evaluations = int(np.median([one.evaluations for one in found[name]]))
        entry = {"fit": name, "first": first, **statistics(times), "evaluations": evaluations}
        entries.append(entry | {"error": error(predictions[name], clean)})
        print(f"{name}: {seconds(first)}, then {', '.join(map(seconds, times))}", flush=True)
    ours, skipped = found["jaxdiff"][0], {}
    if reason := missing("diffrax"):
        skipped["diffrax + optax"] = reason
    else:
        entries += _diffrax(bump, data[1], ours, found, smoke)
    return {
        "entries": entries,
        "skipped": skipped,
        "agreement": _agreement(found),
        "estimate": dict(zip(NAMES, ours.values.tolist())),
        "standard errors": dict(zip(NAMES, (ours.errors * ours.values).tolist())),
    }


def _diffrax(bump: Bump, data: np.ndarray, ours: Estimate, found: dict[str, list[Estimate]], smoke: bool) -> Entries:
    model = Diffrax(bump)
    logs = jnp.log(START)
    once, *later = [clock(lambda: model.slope(logs, data))[0] for _ in range(6)]
    each = statistics(later)
    print(f"diffrax: value and gradient {seconds(each['median'])}, the first {seconds(once)}", flush=True)
    if smoke:  # its line search alone takes half a minute to compile
        return [{"fit": "diffrax, one value and gradient", "first": once, **each, "evaluations": 1}]
    compilation, run = clock(lambda: model.lbfgs(data))
    taken, result = clock(lambda: run(data))
    print(f"diffrax + optax.lbfgs: {seconds(taken)} in {result.evaluations} steps", flush=True)
    found[name := "diffrax + optax.lbfgs"] = [result]
    lbfgs = {"fit": name, "first": compilation + taken, **statistics([taken]), "evaluations": result.evaluations}
    rate, steps = adam_steps(bump, data, ours)
    uncertainty = min(clock(lambda: model.jacobian(jnp.log(ours.values)))[0] for _ in range(2))
    adam = {"fit": f"diffrax + optax.adam({rate})", "median": (steps or MOST) * each["median"] + uncertainty, "runs": 0}
    adam |= {"evaluations": steps, "bound": steps is None}
    return [one | {"value and gradient": each["median"]} for one in (lbfgs, adam)]


def _agreement(found: dict[str, list[Estimate]]) -> dict[str, float]:
    """Largest distance to jaxdiff's optimum in standard errors, asserted to be small, and so for the error bars."""
    out = {}
    for name, results in found.items():
        pairs = list(zip(results, found["jaxdiff"]))
        place = max(float(np.max(np.abs(np.log(a.values / b.values)) / b.errors)) for a, b in pairs)
        widths = max(float(np.max(np.abs(a.errors / b.errors - 1))) for a, b in pairs)
        assert place < AGREE, f"{name} ends {place:.2g} standard errors from jaxdiff"
        assert widths < AGREE, f"error bars of {name} differ from jaxdiff's by {widths:.2g}"
        out[name] = place
    return out


def table(bump: Bump, data: dict[str, Any]) -> str:
    ours = data["entries"][0]["median"]
    rows = []
    for e in data["entries"]:
        bound = f" (more than; {MOST} steps do not suffice)" if e.get("bound") else " (extrapolated)"
        away = data["agreement"].get(e["fit"])
        rows.append(
            [
                bold(e["fit"]) if e["fit"] == "jaxdiff" else e["fit"],
                seconds(e["median"]) + ("" if e["runs"] else bound),
                f"{e['median'] / ours:.3g}",
                "–" if "first" not in e or "SciPy" in e["fit"] else seconds(e["first"] - e["median"]),
                str(e["evaluations"] or f"> {MOST}"),
                str(e["runs"] or "–"),
                f"{e['error']:.0e}" if "error" in e else "–",
                "–" if away is None else f"{away:.0e}",
            ]
        )
    rows += [[name, *["–"] * 6, reason] for name, reason in data["skipped"].items()]
    header = ["float64, CPU", "fit with error bars", "× jaxdiff", "compilation, once", "evaluations", "fits"]
    header += ["error of a solve", "from jaxdiff [s.e.]"]
    pairs = zip(NAMES, data["estimate"].values(), data["standard errors"].values(), TRUTH)
    estimates = ", ".join(f"{name} = {value:.4g} ± {error:.2g} ({true:g})" for name, value, error, true in pairs)
    return f"""{len(bump.rows[0])} readings at {len(bump.times)} times, {bump.cells} cells, four parameters, σ = {SIGMA}: {estimates} (truth in brackets).
Each fit has new data and new noise. All end at the same optimum (asserted: within {AGREE} standard errors, error bars within {AGREE:.0%}).
SciPy: `least_squares(method="lm", diff_step=3e-4)` over one banded LSODA run for all times. diffrax: Tsit5 with its default adjoint, error bars by
forward mode. Compilation is stated apart. The row of adam is extrapolated: its steps until it stays within 0.1 standard errors, counted on the same loss
by jaxdiff at the best of three learning rates, times diffrax's measured value and gradient. Error of a solve: largest, over the peak, at the true values.

{markdown(header, rows)}"""


def picture(entries: Entries) -> Any:
    made, axes = figure(1, 1)
    made.set_size_inches(7.5, 2.6)
    times = [e["median"] for e in entries]
    bars(axes[0, 0], [e["fit"] for e in entries], times, [not e["runs"] for e in entries])
    axes[0, 0].set(xlim=(min(times) / 4, max(times) * 12), xlabel="time to four coefficients with error bars [s]")
    return made


def main(options: Options) -> Entries:
    """Measure and publish; the entries."""
    bump = Bump(20 if options.smoke else 200)
    data = measure(bump, options.smoke)
    publish(options, "fit", data, table(bump, data), picture(data["entries"]))
    return data["entries"]
