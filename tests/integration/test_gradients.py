"""Gradients of every coefficient, boundary value and initial value against extrapolated central differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import central, each_way

import jaxdiff as jd

N = 12
GRID = jd.Grid.uniform((0.0, 1.0, N))
WEIGHTS = np.cos(3.0 * GRID.centers[0]) + 0.3
START = 1.0 + np.sin(2.0 * GRID.centers[0])
CELLS = 1.0 + 0.3 * np.cos(5.0 * GRID.centers[0])
KNOTS = np.array([0.0, 0.05, 0.11, 0.2])


def diffusion(p):
    walls = {"x-": jd.Robin(1.5 * p[3], 0.4 * p[4]), "x+": jd.Dirichlet(0.7 * p[5])}
    cells = CELLS * jnp.where(jnp.arange(N) == 4, p[0], 1.0)
    return jd.Diffusion(
        cells, decay=0.8 * p[1], source=lambda x: p[2] * jnp.exp(x), capacity=1.0 + p[6], boundaries=walls
    ), START * p[7]


def fokker_planck(p):
    walls = {"x-": jd.Flux(0.3 * p[3]), "x+": jd.Neumann(0.2 * p[4])}
    return jd.FokkerPlanck(
        lambda x: p[0] - 1.0 + p[1] * x, lambda x: 0.3 * p[2] * (1.0 + x**2), killing=p[5], boundaries=walls
    ), START * p[7]


def zero_drift(p):
    """At p = 1 the drift vanishes everywhere, where the Bernoulli function is 0/0."""
    return jd.FokkerPlanck(
        lambda x: (p[0] - 1.0) * x, 0.5 * p[1], interpretation="stratonovich", boundaries=jd.Robin(p[2])
    ), START * p[7]


def ring(p):
    return jd.FokkerPlanck(
        lambda x: 2.0 * p[0] + jnp.sin(2 * jnp.pi * x), 0.3 * p[1], boundaries=jd.Periodic()
    ), START * p[7]


def potential(p):
    return jd.FokkerPlanck(
        jd.Potential(lambda x: p[0] * x**4 - p[1] * x), 0.3 * p[2], boundaries=jd.absorbing
    ), START * p[7]


def series(p):
    """Driven by measured courses, and growing."""
    walls = {"x-": jd.Robin(-0.2 * p[3]), "x+": jd.Dirichlet(jd.Series(KNOTS, jnp.array([0.0, 1.0, -1.0, 2.0]) * p[0]))}
    return jd.Diffusion(
        0.4 * p[1], decay=-2.0 * p[2], source=jd.Series(KNOTS, np.array([1.0, 2.0, 0.0, 1.0])), boundaries=walls
    ), START * p[7]


def driven(p):
    wall = jd.Dirichlet(jd.TimeDependent(lambda t: jnp.sin(9.0 * t * p[0])))
    return jd.FokkerPlanck(
        jd.TimeDependent(lambda t, x: p[1] * (t - x)), 0.4 * p[2], boundaries={"x+": wall}
    ), START * p[7]


STEPPERS = {
    None: [diffusion, fokker_planck, ring, series],
    jd.TRBDF2(): [driven],
    jd.CrankNicolson(): [zero_drift],
    jd.RungeKutta4(): [potential],
}
CASES = [(problem, stepper) for stepper, problems in STEPPERS.items() for problem in problems]


def differences(f, p):
    """Central differences, extrapolated twice."""

    def halved(h):
        return np.array([(f(p.at[i].add(h)) - f(p.at[i].add(-h))) / (2 * h) for i in range(len(p))])

    a, b, c = halved(8e-3), halved(4e-3), halved(2e-3)
    ab, bc = (4 * b - a) / 3, (4 * c - b) / 3
    return (16 * bc - ab) / 15


@pytest.mark.slow
@pytest.mark.parametrize(("problem", "stepper"), CASES, ids=lambda c: getattr(c, "__name__", type(c).__name__))
def test_gradients_three_ways(problem, stepper):
    def f(p):
        equation, start = problem(p)
        options = {} if stepper is None else {"stepper": stepper, "substeps": 40}
        u = jd.solve(equation, GRID, start, [0.0, 0.06, 0.2], **options).values
        return jnp.sum(u[1:] * WEIGHTS) + jnp.sum(u[-1] ** 2)

    p, every = jnp.ones(8), jax.jit(partial(each_way, f))
    _, reverse, forward = every(p)
    expected = differences(lambda p: every(p)[0], p)
    scale = np.abs(expected).max()
    assert np.abs(np.asarray(reverse) - expected).max() < 1e-7 * scale
    assert np.abs(np.asarray(forward) - expected).max() < 1e-7 * scale


@pytest.mark.slow
@pytest.mark.parametrize("equation", [
    lambda p: jd.Diffusion(1.0 + p, decay=p, source=1.0, boundaries=jd.Robin(p, 2.0)),
    lambda p: jd.FokkerPlanck(lambda x: p - x, 0.3),
    lambda p: jd.FokkerPlanck(lambda x: p + jnp.sin(2 * jnp.pi * x), 0.3 * p, boundaries=jd.Periodic()),
], ids=["open", "closed", "ring"])  # fmt: skip
def test_gradient_of_the_steady_state(equation):
    every = jax.jit(partial(each_way, lambda p: jnp.sum(jd.steady_state(equation(p), GRID) * WEIGHTS)))
    expected = central(lambda p: every(p)[0], 0.8)
    for derivative in every(0.8)[1:]:
        assert abs(derivative / expected - 1) < 1e-7


@pytest.mark.slow
def test_batches_and_gradients_of_batches():
    f = lambda d: jd.solve(jd.Diffusion(d, decay=0.1), GRID, START, [0.0, 0.3]).values[-1]
    squares = lambda d: (lambda u: (jnp.sum(u**2), u))(f(d))
    one, ds = jax.value_and_grad(squares, has_aux=True), jnp.array([0.1, 0.5, 2.0])
    (_, many), slopes = jax.jit(jax.vmap(one))(ds)
    alone = [jax.jit(one)(d) for d in ds]
    np.testing.assert_allclose(many, np.stack([u for (_, u), _ in alone]), rtol=1e-12)
    np.testing.assert_allclose(slopes, np.stack([slope for _, slope in alone]), rtol=1e-10, atol=1e-11)


@pytest.mark.slow
def test_adaptive_runs_under_every_transformation():
    f = lambda w: (
        jd.solve(driven(jnp.ones(8).at[0].set(w))[0], GRID, START, [0.0, 0.2], tolerance=1e-4).values[-1].sum()
    )
    _, reverse, forward = jax.jit(jax.vmap(partial(each_way, f)))(jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(forward, reverse, rtol=1e-9)


@pytest.mark.slow
def test_other_numbers_of_the_same_shapes_do_not_retrace():
    seen = []

    class Watched(jd.Polynomial):
        def __call__(self, x):
            seen.append(1)
            return super().__call__(x)

    def run(scale):
        grid = jd.Grid.uniform((0.0, scale, N))
        equation = jd.Diffusion(Watched([1.0, scale]), decay=0.1 * scale, boundaries={"x-": jd.Robin(scale, scale)})
        return jd.solve(equation, grid, scale, [0.0, 0.1 * scale, scale]).values

    run(1.0)
    traced = len(seen)
    run(2.0)
    run(3.5)
    assert len(seen) == traced > 0
