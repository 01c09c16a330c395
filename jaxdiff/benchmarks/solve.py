"""One solve on a line, and one with its gradient in every cell of D: accuracy against time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxdiff.benchmarks import solvers
from jaxdiff.benchmarks.conduction import Line, error
from jaxdiff.benchmarks.harness import (
    COLOURS,
    MARKERS,
    Entries,
    Options,
    bold,
    compare,
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

ENOUGH = 1e-7  # of the peak: the error at which times are compared
DEAR, TOO_DEAR = 3.0, 25.0  # seconds estimated: try one tolerance only; do not run
TASKS = ("solve", "gradient")
STEPS = (1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
ours = partial(Contestant, needs="jaxdiff", make=solvers.jaxdiff, differentiable=True)
scipy = partial(Contestant, needs="scipy", power=1.1)
diffrax = partial(Contestant, needs="diffrax", differentiable=True)
py_pde = partial(Contestant, needs="pde")
radau = partial(solvers.implicit, method="Radau")
kvaerno5 = partial(solvers.diffrax, name="Kvaerno5", most=4096)
tsit5 = partial(solvers.diffrax, name="Tsit5")
banded = partial(solvers.py_pde, limit=0.4, solver="ScipySolver", method="LSODA", lband=1, uband=1)
runge_kutta = partial(solvers.py_pde, limit=0.4)
own_matrix = "expm_multiply; D at faces by geometric mean, so held against its own matrix"
OURS = (
    ours("jaxdiff", note="inside a user's jit"),
    ours("jaxdiff, tolerance=1e-7", tolerances=(1e-7,), note="the same with fewer poles"),
    Contestant("jaxdiff, plain call", "jaxdiff", solvers.jaxdiff_plain, "jd.solve as it stands"),
)
PEERS = (
    scipy("SciPy LSODA", make=solvers.lsoda, tolerances=STEPS, note="odeint, banded Jacobian"),
    scipy("SciPy BDF", make=solvers.implicit, tolerances=STEPS[:-1], note="solve_ivp, sparse Jacobian"),
    scipy("SciPy Radau", make=radau, tolerances=STEPS[:-1], note="solve_ivp, sparse Jacobian"),
    scipy("SciPy eigh_tridiagonal", make=solvers.eigh, power=2.5),
    diffrax(
        "diffrax Kvaerno5", make=kvaerno5, tolerances=(1e-7, 1e-8), power=2.8, slow=True, note="its Jacobian is dense"
    ),
    diffrax(
        "diffrax Tsit5", make=tsit5, tolerances=(None, 1e-8), power=2.5, note="explicit; equal steps, and adaptive"
    ),
    py_pde("py-pde LSODA", make=banded, tolerances=STEPS[1:-1], power=1.1, note="its SciPy solver, banded"),
    py_pde("py-pde Runge–Kutta", make=runge_kutta, tolerances=(3e-8,), power=3.0, slow=True, note="explicit, adaptive"),
    Contestant("fplanck", "fplanck", solvers.fplanck, own_matrix, power=3.0, geometric=True),
)


def measure(sizes: tuple[int, ...], smoke: bool) -> Entries:
    """An entry per size, solver, tolerance and task."""
    entries: Entries = []
    for n in sizes:
        for task in TASKS:
            calls: dict[str, Callable[[], Any]] = {}
            owners: dict[str, Any] = {}
            gradient = task == "gradient"
            for peer in (p for p in OURS + PEERS if not (smoke and p.slow) and (p.differentiable or not gradient)):
                chosen, reason = _affordable(peer, n, task, entries)
                entry = {"cells": n, "task": task, "solver": peer.name}
                entries += [{**entry, **reason}] if reason else []
                problem = Line(n, peer.geometric)
                for tolerance in chosen[-1:] if smoke else chosen:
                    settings = ({"tolerance": tolerance} if tolerance else {}) | (
                        {"gradient": True} if gradient else {}
                    )
                    calls[key := f"{peer.name} {tolerance}"] = peer.make(problem, **settings)
                    owners[key] = {**entry, "tolerance": tolerance}, problem
            print(f"n = {n}, {task}: {', '.join(dict.fromkeys(e['solver'] for e, _ in owners.values()))}", flush=True)
            for key, (record, found) in compare(calls, patience=6.0, smoke=smoke).items():
                entry, problem = owners[key]
                exact = problem.gradient if gradient else problem.exact
                entries.append(entry | ({} if found is None else {"error": error(found, exact)}) | record)
    return entries


def _affordable(peer: Contestant, n: int, task: str, entries: Entries) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The tolerances to run at this size, and why there are none."""
    if reason := missing(peer.needs):
        return (), {"skipped": reason} if task == "solve" else {}
    done = [e for e in select(entries, solver=peer.name, task=task) if e["cells"] < n and _time(e)]
    chosen = peer.tolerances
    if task == "gradient" and peer in PEERS:  # asked for where the solve was accurate enough, at its fastest
        here = best(entries, n, peer.name)
        chosen = (here["tolerance"],) if here else peer.tolerances[:1]
        if not done and not here:
            return (), {}
    if not done:
        return chosen, {}
    last = max(e["cells"] for e in done)
    estimate = min(_time(e) for e in select(done, cells=last)) * (n / last) ** peer.power
    if estimate > TOO_DEAR:
        return (), {"skipped": f"it would take about {seconds(estimate)}", "estimated": estimate}
    if estimate > DEAR and task == "solve" and (good := best(done, last, peer.name)):
        return (good["tolerance"],), {}
    return chosen, {}


def _time(entry: dict[str, Any]) -> Any:
    return entry.get("median", entry.get("estimated"))


def best(entries: Entries, n: int, solver: str, task: str = "solve") -> dict[str, Any] | None:
    """The fastest run of a solver that is accurate enough."""
    found = select(entries, "error", cells=n, solver=solver, task=task)
    return min((e for e in found if e["error"] <= ENOUGH or task == "gradient"), key=_time, default=None)


def ratios(entries: Entries, n: int) -> dict[str, Any]:
    """What the measurement was made for."""
    solve, quick, plain = (select(entries, "median", cells=n, solver=p.name, task="solve")[0] for p in OURS)
    slope = select(entries, "median", cells=n, solver="jaxdiff", task="gradient")[0]
    rival = min((found for peer in PEERS if (found := best(entries, n, peer.name))), key=_time, default=None)
    others = [e for e in select(entries, cells=n, task="gradient") if e["solver"].startswith("diffrax") and _time(e)]
    other = min(select(others, "median") or others, key=_time, default=None)
    return {
        "fastest peer": rival and rival["solver"],
        "solve: peer / jaxdiff": rival and rival["median"] / solve["median"],
        "solve: peer / jaxdiff at tolerance 1e-7": rival and rival["median"] / quick["median"],
        "solve: peer / plain call": rival and rival["median"] / plain["median"],
        "gradient: diffrax / jaxdiff": other and _time(other) / slope["median"],
        "gradient of diffrax": other and other["solver"].split()[-1] + ", estimated" * ("estimated" in other),
        "jaxdiff: gradient / solve": slope["median"] / solve["median"],
        "plain call costs more by": plain["median"] - solve["median"],
        "first solve, compilation included": solve["first"],
        "first gradient, compilation included": slope["first"],
    }


def table(entries: Entries, summary: dict[int, dict[str, Any]]) -> str:
    """Times at an error of at most 1e-7, and the ratios."""

    def cell(solver: str, task: str, n: int) -> str:
        found = select(entries, cells=n, solver=solver, task=task)
        if entry := best(found, n, solver, task):
            return f"{seconds(entry['median'])}{'' if entry['runs'] >= 5 else '†'} ({entry['error']:.0e})"
        if reason := select(found, "skipped"):
            return f"≈ {seconds(reason[0]['estimated'])} ‡" if "estimated" in reason[0] else "not run"
        return f"error {min(e['error'] for e in found):.0e}" if found else "–"

    tasks = [(task, n) for task in TASKS for n in summary]
    header = ["float64, CPU", *(f"{'solve' if task == 'solve' else 'with gradient'}, n = {n}" for task, n in tasks)]
    rows = [[bold(peer.name), *(cell(peer.name, *at) for at in tasks)] for peer in OURS + PEERS]
    return f"""Time (largest error over the peak) of each solver's fastest run with an error of at most 1e-7 against the exact exponential
of its matrix: ∂u/∂t = ∂ₓ(D ∂ₓu), no flux, D an array that varies threefold, T = 0.2. With gradient: ½∫u² and its derivative in every
cell of D (largest error over the largest component), by the solver settings of the solve; SciPy, py-pde and fplanck have no gradient.

{markdown(header, rows)}

† fewer than five runs. ‡ not run: estimated from the next smaller n. {solvers.notes(OURS + PEERS)}.{skipped(entries, "solver")}

{ratio_table({f"n = {n}": one for n, one in summary.items()})}"""


def picture(entries: Entries, sizes: tuple[int, ...]) -> Any:
    """Error against time, a panel per size; below, the same with gradient."""
    made, axes = figure(2, len(sizes), sharey="row", sharex="col")
    styles = {p.name: (COLOURS[0], marker, 11) for p, marker in zip(OURS, "*Ph", strict=True)}
    styles |= {p.name: (colour, marker, 6) for p, colour, marker in zip(PEERS, COLOURS[1:], MARKERS[1:], strict=True)}
    for row, task in zip(axes, TASKS, strict=True):
        for ax, n in zip(row, sizes, strict=True):
            for name, (colour, marker, size) in styles.items():
                points = sorted(select(entries, "error", cells=n, task=task, solver=name), key=_time)
                x, y = [1e3 * e["median"] for e in points], [max(e["error"], 1e-16) for e in points]
                style = {"color": colour, "marker": marker, "markersize": size, "linewidth": 1}
                ax.loglog(x, y, label=name, markerfacecolor="white" if "plain" in name else colour, **style)
            ax.axhline(ENOUGH, color="0.6", linewidth=0.8, linestyle=":")
            ax.set(title=f"{'solve' if task == 'solve' else 'solve with gradient'}, n = {n}")
        row[0].set(ylabel="largest error / peak" if task == "solve" else "gradient's error / largest")
    for ax in axes[-1]:
        ax.set(xlabel="time [ms]")
    made.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return made


def main(options: Options) -> Entries:
    """Measure and publish; the entries."""
    sizes = (16,) if options.smoke else (256, 1024, 4096)
    entries = measure(sizes, options.smoke)
    summary = {n: ratios(entries, n) for n in sizes}
    data = {"ratios": [{"cells": n, **one} for n, one in summary.items()], "entries": entries}
    publish(options, "solve", data, table(entries, summary), picture(entries, sizes))
    return entries
