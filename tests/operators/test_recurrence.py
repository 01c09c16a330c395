"""Elimination along a line: all rows at once, as on an accelerator, is as exact as row after row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.operators import recurrence
from jaxdiff.operators.tridiagonal import Tridiagonal

KILLED = jax.jit(recurrence._killed_rows), jax.jit(recurrence._killed_at_once)
AFFINE = jax.jit(recurrence._affine_at_once), jax.jit(recurrence._affine_rows)
RATES = {
    "mild": lambda rng, n: rng.uniform(0.1, 1.0, n),
    "stiff": lambda rng, n: 10 ** rng.uniform(-8, 8, n),
    "carried": lambda rng, n: np.full(n, 1e4),
}


@pytest.mark.parametrize("kind", RATES)
@pytest.mark.parametrize("shift, tolerance", [(1e-9, 1e-14), (-1 + 2j, 1e-13), (np.float32(1e-3), 1e-5)])
def test_all_rows_at_once(kind, shift, tolerance):
    """Each digit of what is left of every cell, the smallest too: nothing is subtracted."""
    rng, n, dtype = np.random.default_rng(1), 257, np.abs(shift).dtype
    inward, outward = RATES[kind](rng, n)[:, None], rng.uniform(0.1, 1.0, n)[:, None]
    inward[0] = 0.0
    loss = shift + rng.uniform(0.0, 0.1, n)[:, None].astype(dtype)
    rows = [loss, *(x.astype(dtype) for x in (outward, inward))]
    expected, at_once = (np.asarray(f(*rows)) for f in KILLED)
    np.testing.assert_allclose(at_once, expected, rtol=20 * tolerance)
    factors = (rows[1] / (expected + rows[1])).astype(expected.dtype)
    np.testing.assert_allclose(*(f(rows[1], factors) for f in AFFINE), rtol=20 * tolerance)


def test_pivots_whose_squares_single_precision_does_not_hold():
    rates = np.full(40, 1e25, np.float32)
    line = Tridiagonal(rates, rates, np.zeros(40, np.float32))
    one = jax.jit(lambda u: line.resolvent(np.complex64(1 + 2j), np.float32(-1.0))(u))(np.eye(40, dtype=np.float32)[0])
    np.testing.assert_allclose(one, np.arange(40, 0, -1) / 41e25, rtol=1e-4)


@pytest.mark.parametrize("batch, loops", [(1, 0), (10**6, 3)])
def test_an_accelerator_joins_narrow_rows_and_walks_along_wide_ones(batch, loops):
    n = 64
    resolve = jax.vmap(lambda rates, u: Tridiagonal(*rates).resolvent(1.0, -1.0)(u))
    shapes = jax.ShapeDtypeStruct((batch, 3, n), jnp.float64), jax.ShapeDtypeStruct((batch, n), jnp.float64)
    lowered = jax.jit(resolve).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()
    assert lowered.count("stablehlo.while") == loops
