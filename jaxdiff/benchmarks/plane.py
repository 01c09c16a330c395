"""One solve on 256 × 256 cells: the heat equation with D an array, and with D = 1."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks import solvers
from jaxdiff.benchmarks.conduction import Plane, error
from jaxdiff.benchmarks.harness import (
    Entries,
    Options,
    bars,
    bold,
    clock,
    compare,
    failure,
    figure,
    markdown,
    missing,
    publish,
    ratio_table,
    seconds,
    select,
    skipped,
)
from jaxdiff.benchmarks.solvers import Contestant

ENOUGH = 1e-6  # of the peak: a solver's error up to which it takes part in the ratios
SMALL = 48  # cells on each axis of the plane on which all steps are taken
MORE = 20  # steps from which the cost of one is told apart from that of starting

EXPM, STABLE = "SciPy expm_multiply", "equal steps at the limit of stability"
ADAPTIVE = "PIDController, rtol = atol = 1e-8"
ours = partial(Contestant, needs="jaxdiff")
diffrax = partial(Contestant, needs="diffrax")
quick = partial(solvers.jaxdiff, tolerance=1e-6)
constant = partial(solvers.jaxdiff, constant=True)
heun = partial(solvers.diffrax, name="Heun", limit=2.0)
bosh3 = partial(solvers.diffrax, name="Bosh3", limit=2.51)
tsit5 = partial(solvers.diffrax, name="Tsit5", limit=3.5)
bdf = partial(solvers.implicit, tolerance=3e-8)
py_pde = partial(solvers.py_pde, tolerance=1e-7, limit=0.1)
VARIABLE = (
    ours("jaxdiff", make=solvers.jaxdiff, note="inside a user's jit"),
    ours("jaxdiff, tolerance=1e-6", make=quick, slow=True),
    diffrax("diffrax Heun", make=heun, note=STABLE),
    diffrax("diffrax Bosh3", make=bosh3, note=STABLE, slow=True),
    diffrax("diffrax Tsit5", make=tsit5, note=STABLE, slow=True),
    diffrax("diffrax Tsit5, adaptive", make=partial(tsit5, tolerance=1e-8), note=ADAPTIVE, slow=True),
    Contestant("py-pde Runge–Kutta", "pde", solvers.py_pde, f"numba; {STABLE}"),
    Contestant("py-pde Runge–Kutta, adaptive", "pde", py_pde, "numba; tolerance 1e-7", slow=True),
    Contestant("SciPy BDF", "scipy", bdf, "solve_ivp, sparse Jacobian, rtol = atol = 3e-8"),
    Contestant("numba loop, Heun", "numba", solvers.numba_loop, STABLE),
    Contestant("FiPy", "fipy", solvers.fipy, "Crank–Nicolson, conjugate gradients at 1e-9", slow=True, steps=550),
    Contestant(EXPM, "scipy", solvers.expm_multiply),
)
GRADIENT = (
    ours("jaxdiff", make=partial(solvers.jaxdiff, gradient=True)),
    ours("jaxdiff, tolerance=1e-6", make=partial(quick, gradient=True), slow=True),
    diffrax("diffrax Heun", make=partial(heun, gradient=True), note="gradient by its default adjoint"),
)
CLOSED = (
    ours("jaxdiff", make=constant, note="for D = 1, D an argument of the jit"),
    Contestant("SciPy dctn", "scipy", solvers.cosines, "cosines diagonalise the matrix; three lines by hand"),
    Contestant(EXPM, "scipy", partial(solvers.expm_multiply, constant=True), slow=True),
)
PERIODIC = (
    ours("jaxdiff", make=partial(constant, boundaries=jd.Periodic())),
    ours("jaxdiff, Spectral", make=partial(constant, scheme=jd.Spectral(), boundaries=jd.Periodic())),
    Contestant("exponax", "exponax", solvers.exponax, "D an argument of the jit"),
    Contestant("exponax, stepper made before", "exponax", partial(solvers.exponax, once=True)),
    Contestant("findiff", "findiff", solvers.findiff, "its Crank–Nicolson", slow=True, steps=550),
)
TASKS = {
    "solve": ("D an array, no flux", VARIABLE),
    "gradient": ("D an array, with gradient", GRADIENT),
    "closed": ("D = 1, no flux", CLOSED),
    "periodic": ("D = 1, periodic", PERIODIC),
}
REFERENCES = {"solve": EXPM, "gradient": "diffrax Heun", "closed": "SciPy dctn"}


def measure(plane: Plane, smoke: bool) -> Entries:
    """An entry per task and contestant."""
    entries: Entries = []
    for task, (title, contestants) in TASKS.items():
        calls = {}
        for one in (c for c in contestants if not (smoke and c.slow)):
            if reason := missing(one.needs):
                entries.append({"task": task, "solver": one.name, "skipped": reason})
            elif one.steps:
                entries.append({"task": task, "solver": one.name, **_estimate(plane, task, one)})
            else:
                calls[one.name] = one.make(plane)
        print(f"{title}: {', '.join(calls)}", flush=True)
        timed = compare(calls, patience=10.0, most=51, smoke=smoke)
        found = {name: np.asarray(result) for name, (_, result) in timed.items() if result is not None}
        for name, (record, _) in timed.items():
            errors = {"error": _error(plane, task, name, found)} if name in found else {}
            if errors and task == "periodic":
                record["from continuous"] = error(found[name], plane.periodic(plane.end))
            entries.append({"task": task, "solver": name, **errors, **record})
    return entries


def _estimate(plane: Plane, task: str, one: Contestant) -> dict[str, Any]:
    """The time of all steps from that of two and of a few more; their error from a small plane, where all are taken."""
    try:
        first = clock(one.make(plane, 2, one.steps))[0]
        few = min(clock(one.make(plane, 2, one.steps))[0] for _ in range(2))
        more = clock(one.make(plane, 2 + MORE, one.steps))[0]
        small = Plane(min(SMALL, plane.cells))
        exact = small.periodic_exact if task == "periodic" else solvers.expm_multiply(small)()
        off = error(one.make(small, one.steps, one.steps)(), exact)
    except Exception as raised:  # a peer's failure is a finding, not the end of the run
        return {"skipped": failure(raised)}
    median = few + max(more - few, 0.0) / MORE * (one.steps - 2)
    return {"error": off, "first": first, "median": median, "runs": 0, "steps": one.steps}


def _error(plane: Plane, task: str, name: str, found: dict[str, np.ndarray]) -> float | None:
    """Largest deviation over the peak, from a solver of another kind; None for that solver itself."""
    if task == "periodic":
        return error(found[name], plane.periodic_exact if name == "jaxdiff" else plane.periodic(plane.end))
    other = REFERENCES[task]
    return None if name == other else error(found[name], found[other]) if other in found else np.nan


def best(entries: Entries, task: str, start: str = "") -> dict[str, Any] | None:
    """The fastest accurate peer whose name starts so."""
    peers = [e for e in select(entries, "median", task=task) if not e["solver"].startswith("jaxdiff")]
    good = [e for e in peers if e["solver"].startswith(start) and (e["error"] or 0.0) <= ENOUGH]
    return min(good, key=lambda e: e["median"], default=None)


def ratios(entries: Entries) -> dict[str, Any]:
    """What the measurement was made for."""
    mine: Any = lambda task, solver="jaxdiff": next(iter(select(entries, task=task, solver=solver)), None)
    over = lambda peer, own: peer and own and peer["median"] / own["median"]
    solve, slope, closed = mine("solve"), mine("gradient"), mine("closed")
    first, exponax = best(entries, "solve"), best(entries, "periodic", "exponax")
    return {
        "D an array: fastest peer": first and first["solver"],
        "fastest peer / jaxdiff": over(first, solve),
        "fastest peer / jaxdiff at tolerance 1e-6": over(first, mine("solve", "jaxdiff, tolerance=1e-6")),
        "diffrax's best / jaxdiff": over(best(entries, "solve", "diffrax"), solve),
        "py-pde's best / jaxdiff": over(best(entries, "solve", "py-pde"), solve),
        "gradient: diffrax / jaxdiff": over(best(entries, "gradient", "diffrax"), slope),
        "jaxdiff: gradient / solve": over(slope, solve),
        "jaxdiff: first solve, compilation included": solve["first"],
        "jaxdiff: first gradient, compilation included": slope["first"],
        "D = 1, no flux: dctn / jaxdiff": over(best(entries, "closed", "SciPy dctn"), closed),
        "D = 1, no flux: expm_multiply / jaxdiff": over(best(entries, "closed", EXPM), closed),
        "D = 1, periodic: exponax's best / jaxdiff": over(exponax, mine("periodic")),
        "the same / jaxdiff, Spectral": over(exponax, mine("periodic", "jaxdiff, Spectral")),
    }


def table(plane: Plane, entries: Entries, summary: dict[str, Any]) -> str:
    """Times and errors by task, and the ratios."""
    rows = []
    for e in (e for task in TASKS for e in select(entries, task=task)):
        name = [TASKS[e["task"]][0], bold(e["solver"])]
        if "skipped" in e:
            rows.append([*name, "not run", "–", "–", "–"])
            continue
        mark = "" if e["runs"] >= 5 else "†" if e["runs"] else f" (estimated, {e['steps']} steps)"
        off = "reference" if e["error"] is None else f"{e['error']:.0e}{'' if e['error'] <= ENOUGH else ' ‡'}"
        own = select(entries, "median", task=e["task"], solver="jaxdiff")[0]["median"]
        rows.append([*name, seconds(e["median"]) + mark, f"{e['median'] / own:.3g}", seconds(e["first"]), off])
    header = ["float64, CPU", "solver", "time", "× jaxdiff", "first call", "error"]
    contestants = tuple(c for _, group in TASKS.values() for c in group)
    off = ", ".join(f"{e['from continuous']:.0e} ({e['solver']})" for e in select(entries, "from continuous"))
    size = f"{plane.cells} × {plane.cells}"
    return f"""Solve of ∂u/∂t = ∇·(D ∇u) on {size} cells, T = {plane.end}, u₀ = exp(−50 r²). D an array: 1 + ½ sin 2πx cos 2πy, faces by harmonic mean,
the same matrix for all; error: largest, over the peak, from expm_multiply. Gradient: of ½∫u² in all {plane.cells**2} numbers; error: largest difference from
diffrax's, over the largest component. D = 1: error from the cosine transform without flux; periodic, from the exact exponential of each one's own matrix,
for exponax that of the differential equation. Errors of the periodic solves against the differential equation: {off}.

{markdown(header, rows)}

† fewer than five runs. Estimated: from {2 + MORE} of so many equal steps; its error from {SMALL} × {SMALL} cells. ‡ above {ENOUGH:g}: takes no part in the \
ratios. {solvers.notes(contestants)}.{skipped(entries, "solver")}

{ratio_table({size: summary})}"""


def picture(entries: Entries) -> Any:
    """Bars of time, a panel per task."""
    made, axes = figure(2, 2, sharex="col")
    for ax, (task, (title, _)) in zip(axes.T.ravel(), TASKS.items(), strict=True):
        shown = select(entries, "median", task=task)
        bars(ax, [e["solver"] for e in shown], [e["median"] for e in shown], [not e["runs"] for e in shown])
        ax.tick_params(axis="y", labelsize=8)
        ax.set_title(title)
    for column in axes.T:
        times = [width for ax in column for bar in ax.patches if (width := bar.get_width()) > 0]
        column[-1].set(xlim=(min(times) / 4, max(times) * 6), xlabel="time [s]")
    made.set_size_inches(11.0, 5.2)
    return made


def main(options: Options) -> Entries:
    """Measure and publish; the entries."""
    plane = Plane(24 if options.smoke else 256)
    entries = measure(plane, options.smoke)
    summary = ratios(entries)
    publish(options, "plane", {"ratios": summary, "entries": entries}, table(plane, entries, summary), picture(entries))
    return entries
