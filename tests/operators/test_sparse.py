"""Jumps on sparse graphs: products and resolvents against dense matrices, forwards and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxdiff.operators import Blocking, Sparse, blocking, propagate

RNG = np.random.default_rng(5)


def box(*shape, shifts):
    """The jumps by some shifts within a box."""
    counts = np.stack([c.ravel() for c in np.indices(shape)])
    found = []
    for shift in shifts:
        after = counts + np.array(shift)[:, None]
        inside = ((after >= 0) & (after.T < shape).T).all(0)
        found.append((np.flatnonzero(inside), np.ravel_multi_index(after[:, inside], shape)))
    return [np.concatenate(ends) for ends in zip(*found, strict=True)]


SWITCH = [(1, 0), (-1, 0), (0, 1), (0, -1)]
GRAPHS = {  # sources and targets, states, and the size of blocks that is asked for at most
    "box on its side": (*box(4, 7, shifts=[*SWITCH, (1, -2)]), 28, 7),
    "star": (np.r_[np.arange(1, 60), np.zeros(59, int)], np.r_[np.zeros(59, int), np.arange(1, 60)], 60, 59),
    "at random, some twice, some to itself": (*RNG.integers(0, 23, (2, 60)), 23, 22),
    "shuffled chain": ((p := RNG.permutation(40))[:-1], p[1:], 40, 1),
    "no jumps": (np.zeros(0, int), np.zeros(0, int), 3, 1),
}


@jax.jit
def faces(jump, u):
    a, b = np.array([1 + 2j, 0.5]), np.array([-1.0, -2.0])
    solve, act = (lambda u: jump.resolvent(a, b)(u)), (lambda u: jump @ u)
    back = lambda f: jax.linear_transpose(f, u)(jnp.conj(u))[0]
    return act(u), act(u[:, 0].real), solve(u), back(act), back(solve), jump.exit, jump.stopped(jnp.arange(len(u)) == 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
def test_against_dense_matrices(name):
    sources, targets, n, widest = GRAPHS[name]
    rates, loss = RNG.uniform(0, 1, len(sources)), RNG.uniform(0, 0.1, n)
    A = np.zeros((n, n))
    np.add.at(A, (targets, sources), rates)
    np.fill_diagonal(A, 0.0)
    A -= np.diag(A.sum(0) + loss)
    jump = Sparse(rates, loss, sources, targets)
    u = RNG.normal(size=(n, 2)) + 1j * RNG.normal(size=(n, 2))
    moved, one, solved, moved_back, solved_back, exit, stopped = faces(jump, u)
    systems = np.array([1 + 2j, 0.5])[:, None, None] * np.eye(n) + np.array([-1.0, -2.0])[:, None, None] * A
    each = lambda systems, u: np.linalg.solve(systems, u.T[..., None])[..., 0].T
    close = lambda found, expected: np.testing.assert_allclose(found, expected, atol=1e-13)
    close(moved, A @ u), close(one, A @ u[:, 0].real), close(moved_back, A.T @ u.conj())
    (
        close(solved, each(systems, u)),
        close(solved_back, each(systems.swapaxes(1, 2), u.conj())),
        close(exit, -np.diag(A)),
    )
    values = np.linalg.eigvals(A)
    assert np.abs(values).max() <= jump.bound() + 1e-13 and values.real.max() <= jump.growth() + 1e-13
    assert np.abs(values.imag).max() <= jump.imaginary_bound() + 1e-13
    both = np.where(A + A.T == 0, 1, A + A.T) * (1 - np.eye(n)) + np.eye(n)
    close(jump.advection(), (2 * (A - A.T) ** 2 / both).sum(0).max())
    other = np.arange(n) != 1
    close((stopped @ (other * 1.0))[other], (A @ (other * 1.0))[other])  # what is there never comes back
    assert jump.blocking.size <= widest and jump.blocking is blocking(sources, targets, n)


def test_a_box_goes_along_its_longest_axis():
    ends = box(3, 20, 4, shifts=[*np.eye(3, dtype=int), (1, 1, 1), (-1, 1, 1)])
    along = blocking(*ends, 240, (3, 20, 4))
    assert (along.blocks, along.size) == (20, 12)
    assert isinstance(along, Blocking) and sorted(along.order) == list(range(240))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["star", "box on its side"])
def test_exponential_gradients_and_content(name):
    """A hub, so that sums are by segments, and a box; derivatives of a smooth answer against differences."""
    sources, targets, n, _ = GRAPHS[name]
    rates, u = 1e3 * RNG.uniform(0, 1, len(sources)), np.eye(n)[3]
    A = np.zeros((n, n))
    A[targets, sources] = rates
    A -= np.diag(A.sum(0))

    @jax.jit
    def answer(rates):
        jump = Sparse(rates, jnp.zeros(n), sources, targets)
        out = propagate(jump, 2e-3, u)
        return jnp.cos(jnp.arange(n)) @ (out + jump @ out / 1e3), out

    out = answer(rates)[1]
    np.testing.assert_allclose(out, scipy.linalg.expm(2e-3 * A) @ u, atol=1e-11)
    assert abs(out.sum() - 1) < 1e-14
    way = RNG.normal(size=len(rates))
    gradient = jax.grad(lambda rates: answer(rates)[0])(rates)
    along = lambda s: answer(rates + s * way)[0]
    np.testing.assert_allclose(gradient @ way, (along(1e-2) - along(-1e-2)) / 2e-2, rtol=1e-6)


@pytest.mark.parametrize(
    "ends, words",
    [
        (([0, 1], [1, 3]), "between states 0 to 2, got 1 to 3"),
        (([0.5], [1.0]), "whole numbers of states"),
        (([0, 1], [1]), "one of each for a jump"),
        (([0, 1, 2], [1, 2, 0]), "a rate for each of 3 jumps, got shape \\(2,\\)"),
    ],
)
def test_what_is_no_graph_is_refused(ends, words):
    with pytest.raises(ValueError, match=words):
        Sparse(np.ones(2), np.zeros(3), *ends)
