"""Blocks in a row: against dense matrices, to every digit at any stiffness."""

from fractions import Fraction
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxdiff.operators import BlockTridiagonal, Pade, Tridiagonal, propagate

SHIFTS, SCALES = np.array([1 + 2j, 3 - 1j, 0.1]), np.array([-1.0, -0.5, -2.0])
STIFF = {
    "even": lambda rng, shape: rng.uniform(0, 1e10, shape),
    "any": lambda rng, shape: 10 ** rng.uniform(-8, 10, shape),
}


def drawn(n, states, rates=lambda rng, shape: rng.uniform(0, 1, shape), loss=0.1):
    rng = np.random.default_rng(10 * n + states)
    return BlockTridiagonal(*rates(rng, (3, n, states, states)), loss * rng.uniform(0, 1, (n, states)))


def matrix(line):
    """The rates between all states."""
    up, down, within = (np.asarray(rates) for rates in (line.up, line.down, line.within))
    n, states = line.loss.shape
    whole = np.zeros((n, states, n, states))
    for i in range(n):
        whole[i, :, i] = within[i]
        if i + 1 < n:
            whole[i + 1, :, i], whole[i, :, i + 1] = up[i], down[i + 1]
    return whole.reshape(n * states, n * states)


def dense(line):
    """A; what the ends carry leaves."""
    rates = matrix(line)
    leaves = np.array(line.loss)
    leaves[0] += np.asarray(line.down)[0].sum(0)
    leaves[-1] += np.asarray(line.up)[-1].sum(0)
    return rates - np.diag(rates.sum(0) + leaves.ravel())


@jax.jit
def all_faces(line, a, b, u):
    solve = lambda u: line.resolvent(a, b)(u)
    there = jax.linear_transpose(solve, u)(jnp.conj(u))[0]
    return line @ u, line @ u[:, 0].real, solve(u), there, line.resolvent(0.7, -2.0)(u[:, 0].real)


@pytest.mark.slow
@pytest.mark.parametrize("n, states", [(1, 3), (20, 1), (19, 2), (12, 3), (6, 7), (3, 9)])
def test_against_dense_matrices(n, states):
    line = drawn(n, states)
    A, eye = dense(line), np.eye(n * states)
    rng = np.random.default_rng(0)
    u = rng.normal(size=(n * states, 3)) + 1j * rng.normal(size=(n * states, 3))
    moved, one, solved, transposed, real = all_faces(line, SHIFTS, SCALES, u)
    systems = SHIFTS[:, None, None] * eye + SCALES[:, None, None] * A
    each = lambda systems, u: np.linalg.solve(systems, u.T[..., None])[..., 0].T
    np.testing.assert_allclose(moved, A @ u, atol=1e-13)
    np.testing.assert_allclose(one, A @ u[:, 0].real, atol=1e-13)
    np.testing.assert_allclose(solved, each(systems, u), atol=1e-13 * np.abs(solved).max())
    np.testing.assert_allclose(transposed, each(systems.swapaxes(1, 2), u.conj()), atol=1e-13 * np.abs(solved).max())
    np.testing.assert_allclose(real, np.linalg.solve(0.7 * eye - 2 * A, u[:, 0].real), atol=1e-13)
    np.testing.assert_allclose(line.leak, -A.sum(0), atol=1e-14)
    values = np.linalg.eigvals(A)
    assert np.abs(values).max() <= line.bound() and np.abs(values.imag).max() <= line.imaginary_bound()
    assert values.real.max() <= line.growth() + 1e-14 and line.growth() == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("states", [2, 5])
@pytest.mark.parametrize("kind", STIFF)
def test_every_digit_at_any_stiffness(kind, states):
    """Rates up to 1e10 beside a shift of one, an end that absorbs: against elimination in fractions."""
    n = 7
    line = drawn(n, states, STIFF[kind], loss=0.0)
    line = BlockTridiagonal(line.up, line.down.at[0].set(0.0), line.within)
    u = np.random.default_rng(3).uniform(0, 1, n * states)
    rates = [[Fraction(float(rate)) for rate in row] for row in matrix(line)]
    end = np.asarray(line.up)[-1].astype(object)
    leaves = [Fraction(0)] * (n - 1) * states + [sum(Fraction(float(r)) for r in column) for column in end.T]
    rows = [[-rate for rate in row] + [Fraction(float(x))] for row, x in zip(rates, u, strict=True)]
    for j in range(len(rows)):
        rows[j][j] = 1 + leaves[j] + sum(row[j] for row in rates)
    for j in range(len(rows)):  # Gauss and Jordan
        rows[j] = [x / rows[j][j] for x in rows[j]]
        for i in range(len(rows)):
            if i != j:
                rows[i] = [x - rows[i][j] * y for x, y in zip(rows[i], rows[j], strict=True)]
    expected = np.array([float(row[-1]) for row in rows])
    np.testing.assert_allclose(line.resolvent(1.0, -1.0)(u), expected, rtol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 1e-5)])
def test_content_is_kept_over_stiff_steps(dtype, tolerance):
    line = jax.tree.map(lambda x: x.astype(dtype), drawn(17, 2, STIFF["even"], loss=0.0))
    line = BlockTridiagonal(line.up.at[-1].set(0), line.down.at[0].set(0), line.within)
    u = jnp.zeros(34, dtype).at[5].set(1.0)
    out = jax.jit(
        lambda line, u: jax.lax.fori_loop(0, 20, lambda _, v: Pade(dtype, 1e-9).step(line, dtype(1.0))(v)[0], u)
    )(line, u)
    assert out.dtype == dtype and abs(float(out.sum()) - 1.0) < tolerance
    a, b = (jnp.asarray(x, dtype) for x in (1.0, -1.0))
    raw = line.resolvent(a, b)(u)
    assert abs(float(raw.sum()) - 1.0) < 10 * np.finfo(dtype).eps


@pytest.mark.slow
def test_one_state_is_a_tridiagonal_and_its_derivatives_are_those():
    rng = np.random.default_rng(2)
    up, down, loss = rng.uniform(0, 1, (3, 17))
    u = rng.uniform(0, 1, 17)

    def end(make, rates):
        up, down, loss = rates
        return propagate(make(up, down, loss), 3.0, u, slope=0.1)

    blocks = lambda up, down, loss: BlockTridiagonal(
        up[:, None, None], down[:, None, None], jnp.zeros((17, 1, 1)), loss[:, None]
    )
    for of in (end, jax.jacrev(end, 1), jax.jacfwd(end, 1)):
        one, other = (jax.jit(partial(of, make))((up, down, loss)) for make in (blocks, Tridiagonal))
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-11), one, other)


@pytest.mark.slow
def test_exponential_and_gradients():
    """An absorbing end, growth, three states; derivatives both ways against differences."""
    line = drawn(9, 3, loss=-0.05)
    u, t = np.random.default_rng(1).uniform(0, 1, 27), 2.5
    expected = scipy.linalg.expm(t * dense(line)) @ u
    np.testing.assert_allclose(propagate(line, t, u), expected, atol=1e-12)
    survives = jax.jit(lambda line: jnp.sum(jnp.cos(jnp.arange(27)) * propagate(line, t, u)))
    gradient = eqx.filter_grad(survives)(line)
    rng, h = np.random.default_rng(4), 1e-5
    way = jax.tree.map(lambda x: rng.normal(size=x.shape), line)
    way = eqx.tree_at(lambda w: w.within, way, jnp.where(jnp.eye(3, dtype=bool), 0.0, way.within))
    along = lambda s: survives(jax.tree.map(lambda x, d: x + s * d, line, way))
    difference = (along(h) - along(-h)) / (2 * h)
    forward = jax.jvp(survives, (line,), (way,))[1]
    backward = sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(way), strict=True))
    np.testing.assert_allclose([forward, backward], difference, rtol=1e-7)


@pytest.mark.slow
def test_what_is_no_row_of_blocks_is_refused():
    with pytest.raises(ValueError, match=r"\(n, S, S\) each, got shapes \(3, 2, 2\), \(2, 2, 2\)"):
        BlockTridiagonal(np.zeros((3, 2, 2)), np.zeros((2, 2, 2)), np.zeros((3, 2, 2)))
