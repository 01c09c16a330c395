"""Elimination along a line: all rows at once, as on an accelerator, is as exact as row after row."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.operators import recurrence
from jaxdiff.operators.tridiagonal import Tridiagonal

PIVOTS = jax.jit(recurrence._pivot_rows), jax.jit(recurrence._pivots_at_once)
AFFINE = [
    [jax.jit(partial(f, reverse)) for f in (recurrence._in_place, recurrence._joined)] for reverse in (False, True)
]
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
    loss = rng.uniform(0.0, 0.1, n)[:, None]
    rows = [np.full((1, 1), shift), *(x.astype(dtype) for x in (loss, outward, inward))]
    expected, at_once = (f(*rows) for f in PIVOTS)
    for one, other in zip(at_once, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=20 * tolerance)
    for forms in AFFINE:
        by_rows, joined = (f(rows[1], expected[0], rows[3][1:])[0] for f in forms)
        np.testing.assert_allclose(joined, by_rows, rtol=20 * tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("periodic", [False, True])
def test_few_cells_and_their_derivatives(n, periodic):
    """Beside a dense matrix, in lanes of their own rates, backwards, and forwards of that."""
    rng = np.random.default_rng(n)
    rates, u = rng.uniform(0.5, 2.0, (3, n)), rng.normal(size=n)
    a, b = np.array([1.0 + 2.0j, 0.5 - 1.0j, 2.0]), np.array([-1.0, -0.3, -2.0])

    def found(rates):
        x = Tridiagonal(*rates, periodic).resolvent(a, b)(u)
        return jnp.sum(jnp.abs(x) ** 2 * jnp.arange(1.0, n + 1)[:, None])

    def exact(rates):
        up, down, loss = rates
        there, hop = jnp.arange(n), jnp.zeros((n, n))
        last = n if periodic else n - 1
        hop = hop.at[(there[:last] + 1) % n, there[:last]].add(up[:last])
        hop = hop.at[there[:last], (there[:last] + 1) % n].add(down[(there[:last] + 1) % n])
        matrix = hop - jnp.diag(up + down + loss)
        x = jnp.stack(
            [jnp.linalg.solve(a * jnp.eye(n) + b * matrix, u + 0j) for a, b in zip(a, b, strict=True)], axis=1
        )
        return jnp.sum(jnp.abs(x) ** 2 * jnp.arange(1.0, n + 1)[:, None])

    every = lambda f: jax.jit(lambda r: (f(r), jax.grad(f)(r), jax.hessian(f)(r)))(rates)
    for one, other in zip(every(found), every(exact), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


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
