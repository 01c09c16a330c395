"""Master equations: a switch of two genes and a gene that is on and off, beside SciPy's expm_multiply and BDF."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks.harness import Entries, Options, bold, compare, markdown, publish, seconds

TOLERANCES = (1e-6, 1e-9)  # of BDF
DEAR = 2_000  # states from which BDF is run at the first of them alone


@dataclass(frozen=True, eq=False)
class Case:
    """A network of one rate that is differentiated, in a box, from a start to a time."""

    name: str
    network: Callable[[Any], Any]
    rate: float
    states: Any
    start: dict[str, int]
    time: float

    def matrix(self) -> Any:
        """The generator as SciPy has it."""
        import scipy.sparse

        operator = self.network(self.rate).jumps.operator(self.states, 0.0)
        source, target, rates = operator.jumps
        n = len(operator.loss)
        hops = scipy.sparse.csr_matrix((np.asarray(rates), (target, source)), shape=(n, n))
        return (hops - scipy.sparse.diags(np.asarray(operator.exit))).tocsr()


def toggle(counts: int) -> Case:
    """Two genes, each of which holds the other down."""

    def network(rate: Any) -> Any:
        held = lambda n: rate / (1 + (n / 10.0) ** 2)
        made = [jd.Reaction({}, {"A": 1}, lambda B: held(B)), jd.Reaction({}, {"B": 1}, lambda A: held(A))]
        return jd.MasterEquation.from_reactions([*made, *(jd.Reaction({name: 1}, {}, 1.0) for name in "AB")])

    states = jd.States({"A": counts - 1, "B": counts - 1})
    return Case(f"toggle switch, {counts} × {counts}", network, counts / 2.0, states, {"A": 5, "B": 5}, 2.0)


def telegraph(counts: int) -> Case:
    """A gene that turns on and off, and makes molecules while it is on."""

    def network(rate: Any) -> Any:
        gene = [jd.Reaction({}, {"on": 1}, lambda on: 0.5 * (1 - on)), jd.Reaction({"on": 1}, {}, 1.5)]
        made = jd.Reaction({"on": 1}, {"on": 1, "m": 1}, rate)
        return jd.MasterEquation.from_reactions([*gene, made, jd.Reaction({"m": 1}, {}, 1.0)])

    states = jd.States({"on": 1, "m": counts - 1})
    return Case(f"telegraph gene, 2 × {counts}", network, counts / 10.0, states, {"on": 0}, 2.0)


def measure(case: Case) -> Entries:
    """Every contestant's time and its largest error, of the peak."""
    import scipy.integrate
    import scipy.sparse.linalg

    start, matrix = case.states.delta(case.start), case.matrix()
    flat = start.ravel()

    def final(rate: Any) -> Any:
        return jd.solve(case.network(rate), case.states, start, [0.0, case.time]).values[-1].ravel()

    solved, method = jax.jit(final), jd.solve(case.network(case.rate), case.states, start, [0.0, case.time]).method
    mean = jax.jit(jax.value_and_grad(lambda rate: jnp.vdot(final(rate), jnp.arange(1.0, flat.size + 1))))

    def by_bdf(tolerance: float) -> np.ndarray:
        found = scipy.integrate.solve_ivp(
            lambda t, p: matrix @ p,
            (0, case.time),
            flat,
            "BDF",
            [case.time],
            rtol=tolerance,
            atol=tolerance * 1e-3,
            jac=matrix,
        )
        return found.y[:, -1]

    calls: dict[str, Callable[[], Any]] = {
        "jaxdiff": lambda: solved(case.rate),
        "jaxdiff, with gradient": lambda: mean(case.rate),
        "scipy expm_multiply": lambda: scipy.sparse.linalg.expm_multiply(matrix * case.time, flat),
    }
    for tolerance in TOLERANCES if flat.size < DEAR else TOLERANCES[:1]:
        calls[f"scipy BDF, {tolerance:g}"] = partial(by_bdf, tolerance)
    found = compare(calls)
    reference = flat
    for _ in range(8):
        reference = scipy.sparse.linalg.expm_multiply(matrix * (case.time / 8), reference)
    rows = []
    for name, (record, result) in found.items():
        row = {
            "case": case.name,
            "states": flat.size,
            "who": name,
            "method": method if "jaxdiff" in name else "",
            **record,
        }
        if result is not None and "gradient" not in name:
            row["error"] = float(np.max(np.abs(np.asarray(result) - reference)) / reference.max())
        rows.append(row)
    return rows


def main(options: Options) -> None:
    """Write jumps.json and jumps.md."""
    cases = [toggle(20), telegraph(40)] if options.smoke else [toggle(100), telegraph(200), telegraph(5000)]
    rows: Entries = []
    with jax.enable_x64(True):
        for case in cases:
            rows += measure(case)
    text = []
    for case in cases:
        mine = [row for row in rows if row["case"] == case.name]
        table = [
            [
                bold(row["who"]),
                f"{row['error']:.1e}" if "error" in row else "",
                seconds(row.get("median")),
                seconds(row.get("first")),
            ]
            for row in mine
        ]
        text.append(f"{case.name}, {mine[0]['method']}\n\n" + markdown(["", "error", "a call", "the first"], table))
    publish(options, "jumps", {"rows": rows}, "\n\n".join(text))
