"""First-order recurrences along the first axis: row after row, or on an accelerator all rows at once.

A loop over rows costs an accelerator some launches for each, however little it holds: 8 ms for 256 rows. Products of
neighbours, of neighbours' products, … take as many launches as the number of rows has binary digits, and about four times
the memory traffic: the loop is better where rows are wide. Blelloch 1990, CMU-CS-90-190.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from jaxdiff.runtime.compilation import as_written

WIDE = 2**21  # bytes of a row from which on the loop is faster, on an H200


def recurrence(step: Callable[[Any, Any], Any], start: Any, rows: Any) -> Any:
    """All yᵢ = step(yᵢ₋₁, rowᵢ), from y₋₁ = start."""

    def both(y: Any, row: Any) -> Any:
        y = step(y, row)
        return y, y

    return jax.lax.scan(both, start, rows)[1]


def affine(terms: Any, factors: Any, weights: Any, reverse: bool = False) -> Any:
    """All yᵢ = termᵢ + factorᵢ weightᵢ₋₁ yᵢ₋₁ from y₀ = term₀ on, the last row apart, which stays; or in `reverse`
    yᵢ = termᵢ + factorᵢ weightᵢ yᵢ₊₁ from the last row on, down to the first; without derivatives of its own.

    Factors and weights have a row less than the terms, whose place the result takes on a CPU: each pass over rows counts.
    """
    return (_backward if reverse else _forward).bind(terms, factors, weights)[0]


def pivots(shift: Any, loss: Any, outward: Any, inward: Any) -> tuple[Any, Any]:
    """All 1/(eᵢ + inwardᵢ) but the last, and the last e, of eᵢ = shift + lossᵢ + outwardᵢ eᵢ₋₁/(eᵢ₋₁ + inwardᵢ₋₁), e₀ as if
    all came from before; `shift` of one row; without derivatives of its own.

    At once: the fractions are products of matrices without a negative entry where nothing grows, as exact as the loop.
    """
    inverse, last = _pivots.bind(shift, loss, outward, inward)
    return inverse, last[0]


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


def _in_place(reverse: bool, terms: Any, factors: Any, weights: Any) -> list[Any]:
    count, row = len(factors), partial(jax.lax.dynamic_index_in_dim, keepdims=False)

    def one(k: Any, y: Any) -> Any:
        i, before, weight = (count - 1 - k, count - k, count - 1 - k) if reverse else (k, k - 1, k - 1)
        new = row(y, i) + row(factors, i) * row(weights, weight) * row(y, before)
        return jax.lax.dynamic_update_index_in_dim(y, new, i, 0)

    full = jnp.broadcast_to(terms, (len(terms), *_width(terms, factors, weights)))
    full = full.astype(jnp.result_type(terms, factors, weights))
    first = 0 if reverse else 1
    return [jax.lax.fori_loop(first, count, one, full) if count > first else full]


def _joined(reverse: bool, terms: Any, factors: Any, weights: Any) -> list[Any]:
    join = lambda one, two: (two[0] + two[1] * one[0], one[1] * two[1])
    none = jnp.zeros_like(factors[:1] * weights[:1])
    if reverse:
        steps = jnp.concatenate([factors * weights, none])
        return [jax.lax.associative_scan(join, _alike(terms, steps), reverse=True)[0]]
    rows = _alike(terms[:-1], jnp.concatenate([none, factors[1:] * weights[:-1]]))
    found = jax.lax.associative_scan(join, rows)[0]
    return [jnp.concatenate([found, jnp.broadcast_to(terms[-1:], found[:1].shape).astype(found.dtype)])]


def _pivot_rows(shift: Any, loss: Any, outward: Any, inward: Any) -> list[Any]:
    def eliminate(e: Any, row: Any) -> Any:
        inward, loss, outward = row
        inverse = reciprocal(e + inward)
        return shift[0] + loss + outward * (e * inverse), inverse

    rows = shift, loss, outward, inward
    first = jnp.broadcast_to(shift[0] + loss[0] + outward[0], _width(*rows)).astype(jnp.result_type(*rows))
    last, inverse = jax.lax.scan(eliminate, first, (inward[:-1], loss[1:], outward[1:]))
    return [inverse, last[None]]


def _pivots_at_once(shift: Any, *rows: Any) -> list[Any]:
    loss, outward, inward = _alike(shift + rows[0], *rows[1:])
    before = jnp.concatenate([jnp.zeros_like(inward[:1]), inward[:-1]])

    def join(first: Any, then: Any) -> Any:
        (a, b, c, d), (p, q, r, s) = first, then
        return _scaled(p * a + q * c, p * b + q * d, r * a + s * c, r * b + s * d)

    steps = _scaled(loss + outward, loss * before, jnp.ones_like(loss), before)
    above, _, below, _ = jax.lax.associative_scan(join, steps)  # what comes before the first row does not count
    e = above * reciprocal(below)
    return [reciprocal(e + inward)[:-1], e[-1:]]


def _scaled(*entries: Any) -> tuple[Any, ...]:
    """The entries of a matrix over the largest of them: fractions stay, products do not overflow."""
    size = jnp.max(jnp.stack([jnp.abs(entry) for entry in entries]), axis=0)
    return tuple(entry / size for entry in entries)


def _width(*rows: Any) -> tuple[int, ...]:
    return jnp.broadcast_shapes(*(row.shape[1:] for row in rows))


def _alike(*rows: Any) -> tuple[Any, ...]:
    width, dtype = _width(*rows), jnp.result_type(*rows)
    return tuple(jnp.broadcast_to(row, (len(row), *width)).astype(dtype) for row in rows)


def _primitive(name: str, by_rows: Callable[..., Any], at_once: Callable[..., Any]) -> Primitive:
    """A function of rows that broadcast, by the loop on a CPU and where rows are wide."""
    made = Primitive(name)
    made.multiple_results = True
    by_rows, at_once = as_written(by_rows), as_written(at_once)  # lowered late, by the rules of the session

    def narrow(*rows: Any) -> Any:
        count, width, dtype = max(map(len, rows)), _width(*rows), np.result_type(*(row.dtype for row in rows))
        few = dtype.itemsize * math.prod(width) <= WIDE
        return (at_once if few and count > 1 else by_rows)(*rows)

    def batched(rows: Any, dims: Any) -> tuple[Any, list[int]]:
        lead = lambda row, d: jnp.expand_dims(row, 1) if d is None else jnp.moveaxis(row, d, 1)
        found = made.bind(*map(lead, rows, dims))
        return found, [1] * len(found)

    def shapes(*rows: Any) -> Any:
        return [jax.core.ShapedArray(x.shape, x.dtype) for x in jax.eval_shape(by_rows, *rows)]

    made.def_abstract_eval(shapes)
    made.def_impl(jax.jit(made.bind))
    batching.primitive_batchers[made] = batched
    mlir.register_lowering(made, mlir.lower_fun(narrow, multiple_results=True))
    mlir.register_lowering(made, mlir.lower_fun(by_rows, multiple_results=True), platform="cpu")
    return made


_forward, _backward = (
    _primitive(f"affine_{name}", partial(_in_place, reverse), partial(_joined, reverse))
    for name, reverse in (("forward", False), ("backward", True))
)
_pivots = _primitive("pivots", _pivot_rows, _pivots_at_once)
