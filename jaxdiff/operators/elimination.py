"""(aI + bA)⁻¹ on two axes by elimination, a line of cells after the other: for what no iteration gets hold of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.operators.axis_sum import AxisSum
from jaxdiff.operators.halo import cuts
from jaxdiff.operators.recurrence import recurrence

_MOST = 2**32  # lines × cells³ of a line: a few seconds' work


def eliminable(operator: Any) -> bool:
    """Whether `eliminated` holds: motion along two axes, one of them open, and no more cells than take a few seconds."""
    if not isinstance(operator, AxisSum) or operator.ndim != 2 or all(operator.periodic) or any(cuts(operator.names)):
        return False
    lines, cells = (operator.weights.shape[k] for k in _order(operator))
    return lines * cells**3 <= _MOST


def eliminated(operator: AxisSum, a: Any, b: Any) -> Callable[[Any], Any]:
    """u ↦ (aI + bA)⁻¹ u for contents u `(*cells,)` and real a, b.

        Sᵢ = Mᵢᵢ − Mᵢ,ᵢ₋₁ Sᵢ₋₁⁻¹ Mᵢ₋₁,ᵢ,   M = aI + bA in blocks of one line of cells each

    Stable without exchanging rows where M or −M is that of a generator with losses, as all its diagonals dominate. A
    derivative costs one more substitution, with the blocks already inverted.
    """
    order = _order(operator)
    shape = operator.weights.shape
    lined = lambda x: jnp.transpose(jnp.broadcast_to(x, shape), order)
    fixed = jax.lax.stop_gradient(operator)
    ups, downs = ([lined(rates[k]) for k in order] for rates in (fixed.up, fixed.down))
    a, b = jax.lax.stop_gradient((a, b))
    cells = ups[0].shape[1]
    here = jnp.arange(cells)
    above = (here + 1) % cells
    ends = slice(None) if operator.periodic[order[1]] else slice(0, -1)
    below_line = b * jnp.concatenate([jnp.zeros_like(ups[0][:1]), ups[0][:-1]])  # what comes from the line below
    above_line = b * jnp.concatenate([downs[0][1:], jnp.zeros_like(downs[0][:1])])

    def invert(last: Any, row: Any) -> Any:
        exit, up, down, lower, before = row
        own = jnp.diag(a - b * exit).at[above[ends], here[ends]].add(b * up[ends])
        own = own.at[here[ends], above[ends]].add(b * down[above][ends])
        return jnp.linalg.inv(own - lower[:, None] * last * before)

    before = jnp.concatenate([jnp.zeros_like(above_line[:1]), above_line[:-1]])  # of the line below, from this one
    rows = (lined(fixed.exit), ups[1], downs[1], below_line, before)
    inverses = recurrence(invert, jnp.zeros((cells, cells), ups[0].dtype), rows)

    def sweep(rhs: Any, inverses: Any, lower: Any, upper: Any) -> Any:
        dot = lambda m, v: jnp.matmul(m, v, precision="highest")
        blank = jnp.zeros_like(rhs[0])
        forth = recurrence(lambda y, row: dot(row[0], row[1] - row[2] * y), blank, (inverses, rhs, lower))
        back = recurrence(
            lambda x, row: row[0] - dot(row[1], row[2] * x), blank, (forth[::-1], inverses[::-1], upper[::-1])
        )
        return back[::-1]

    ahead = jnp.concatenate([below_line[1:], jnp.zeros_like(below_line[:1])])

    def solve(_: Any, rhs: Any) -> Any:
        return jnp.transpose(sweep(lined(rhs), inverses, below_line, above_line), order)

    def transposed(_: Any, rhs: Any) -> Any:
        return jnp.transpose(sweep(lined(rhs), jnp.swapaxes(inverses, 1, 2), before, ahead), order)

    def matvec(x: Any) -> Any:
        return a * x + b * (operator @ x)

    def apply(u: Any) -> Any:
        rhs = jnp.broadcast_to(u, shape).astype(operator.weights.dtype)
        return jax.lax.custom_linear_solve(matvec, rhs, solve, transposed)

    return apply


def _order(operator: AxisSum) -> tuple[int, int]:
    """The axis along which lines are eliminated, an open one and the longer one if it can be, and that of the lines."""
    shape, periodic = operator.weights.shape, operator.periodic
    first = 0 if (not periodic[0], shape[0]) >= (not periodic[1], shape[1]) else 1
    return first, 1 - first
