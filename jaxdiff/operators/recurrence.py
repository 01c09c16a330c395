"""First-order recurrences along the first axis: row after row, or on an accelerator all rows at once.

A loop over rows costs an accelerator some launches for each, however little it holds: 8 ms for 256 rows. Products of
neighbours, of neighbours' products, … take as many launches as the number of rows has binary digits, and about four times
the memory traffic: the loop is better where rows are wide. Blelloch 1990, CMU-CS-90-190.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

WIDE = 2**21  # bytes of a row from which on the loop is faster, on an H200


def recurrence(step: Callable[[Any, Any], Any], start: Any, rows: Any) -> Any:
    """All yᵢ = step(yᵢ₋₁, rowᵢ), from y₋₁ = start."""

    def both(y: Any, row: Any) -> Any:
        y = step(y, row)
        return y, y

    return jax.lax.scan(both, start, rows)[1]


def affine(terms: Any, factors: Any, start: Any) -> Any:
    """All yᵢ = termᵢ + factorᵢ yᵢ₋₁, from y₋₁ = start; without derivatives of its own."""
    return _affine.bind(terms.at[0].add(factors[0] * start) if len(terms) else terms, factors)


def killed(loss: Any, outward: Any, inward: Any) -> Any:
    """All eᵢ = lossᵢ + outwardᵢ eᵢ₋₁/(eᵢ₋₁ + inwardᵢ₋₁), from e₋₁ = 1 and inward₋₁ = 0; without derivatives of its own.

    At once: the fractions are products of matrices without a negative entry where nothing grows, as exact as the loop.
    """
    return _killed.bind(loss, outward, jnp.concatenate([jnp.zeros_like(inward[:1]), inward[:-1]]))


def reciprocal(d: Any) -> Any:
    """1/d."""
    if not jnp.iscomplexobj(d):
        return 1.0 / d
    size = unit(jnp.maximum(jnp.abs(d.real), jnp.abs(d.imag)), d.dtype)
    d = d / size
    return jnp.conj(d) * (1.0 / (d.real**2 + d.imag**2) / size)


def unit(size: Any, dtype: Any) -> Any:
    """What pivots are divided by before they are multiplied: their size in single precision, which does not hold the
    squares of all rates, and one in double."""
    return size if jnp.finfo(dtype).bits == 32 else 1.0


def _affine_rows(terms: Any, factors: Any) -> Any:
    zero = jnp.zeros(_shape(terms, factors)[1:], jnp.result_type(terms, factors))
    return recurrence(lambda y, row: row[0] + row[1] * y, zero, (terms, factors))


def _affine_at_once(*rows: Any) -> Any:
    join = lambda one, two: (two[0] + two[1] * one[0], one[1] * two[1])
    return jax.lax.associative_scan(join, _alike(*rows))[0]


def _killed_rows(loss: Any, outward: Any, inward: Any) -> Any:
    eliminate = lambda e, row: row[0] + row[1] * (e * reciprocal(e + row[2]))
    one = jnp.ones(_shape(loss, outward, inward)[1:], jnp.result_type(loss, outward, inward))
    return recurrence(eliminate, one, (loss, outward, inward))


def _killed_at_once(*rows: Any) -> Any:
    loss, outward, inward = _alike(*rows)

    def join(first: Any, then: Any) -> Any:
        (a, b, c, d), (p, q, r, s) = first, then
        return _scaled(p * a + q * c, p * b + q * d, r * a + s * c, r * b + s * d)

    steps = _scaled(loss + outward, loss * inward, jnp.ones_like(loss), inward)
    above, _, below, _ = jax.lax.associative_scan(join, steps)  # what comes before the first row does not count
    return above * reciprocal(below)


def _scaled(*entries: Any) -> tuple[Any, ...]:
    """The entries of a matrix over the largest of them: fractions stay, products do not overflow."""
    size = jnp.max(jnp.stack([jnp.abs(entry) for entry in entries]), axis=0)
    return tuple(entry / size for entry in entries)


def _shape(*rows: Any) -> tuple[int, ...]:
    return jnp.broadcast_shapes(*(row.shape for row in rows))


def _alike(*rows: Any) -> tuple[Any, ...]:
    shape, dtype = _shape(*rows), jnp.result_type(*rows)
    return tuple(jnp.broadcast_to(row, shape).astype(dtype) for row in rows)


def _primitive(name: str, by_rows: Callable[..., Any], at_once: Callable[..., Any]) -> Primitive:
    """A function of rows that broadcast, by the loop on a CPU and where rows are wide."""
    made = Primitive(name)
    result = lambda *rows: (_shape(*rows), jnp.result_type(*rows))

    def narrow(*rows: Any) -> Any:
        (count, *width), dtype = result(*rows)
        few = jnp.dtype(dtype).itemsize * math.prod(width) <= WIDE
        return (at_once if few and count else by_rows)(*rows)

    def batched(rows: Any, dims: Any) -> tuple[Any, int]:
        lead = lambda row, d: jnp.expand_dims(row, 1) if d is None else jnp.moveaxis(row, d, 1)
        return made.bind(*map(lead, rows, dims)), 1

    made.def_abstract_eval(lambda *rows: jax.core.ShapedArray(*result(*rows)))
    made.def_impl(jax.jit(made.bind))
    batching.primitive_batchers[made] = batched
    mlir.register_lowering(made, mlir.lower_fun(narrow, multiple_results=False))
    mlir.register_lowering(made, mlir.lower_fun(by_rows, multiple_results=False), platform="cpu")
    return made


_affine = _primitive("affine_recurrence", _affine_rows, _affine_at_once)
_killed = _primitive("killed_recurrence", _killed_rows, _killed_at_once)
