"""Paths of few distinct intervals: ln p from nodes against closed forms and the split kernel, and what is not for nodes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.stats import norm

import jaxdiff as jd
from jaxdiff.parameters import plain
from jaxdiff.transition import counts, density
from jaxdiff.transition.collocation import symmetric

REFLECTING, ABSORBING = ("reflecting",) * 2, ("absorbing",) * 2
table = jax.jit(counts.table)


def drift(p, x):
    return p[0] + p[1] * x + p[2] * x**3


def diffusivity(p, x):
    return p[3] + p[4] * x**2


def killing(p, x):
    return p[5] * x**2


def terms(*numbers):
    p = np.zeros(6)
    p[: len(numbers)] = numbers
    return tuple(Partial(function, p) for function in (drift, diffusivity, killing))


def reverting(rate, steps, start=0.0, seed=0):
    """A path of dX = −X dt + dW at the intervals of steps."""
    rng, x = np.random.default_rng(seed), [start]
    for t in steps:
        x.append(x[-1] * np.exp(-rate * t) + np.sqrt(-np.expm1(-2 * rate * t) / 2 / rate) * rng.normal())
    return np.array(x)


def of_reverting(x, steps):
    return norm.logpdf(x[1:], x[:-1] * np.exp(-steps), np.sqrt(-np.expm1(-2 * steps) / 2))


def logs(some, start, stop, steps, lower, upper, walls=REFLECTING):
    with jax.enable_x64(True):
        plan = counts.prepare(*some, start, stop, steps, lower, upper, walls)
        weights, begun = counts.counted(plan)
        values, resolved = table(*some, plan, weights)
        each = np.asarray(counts.of_steps(plan, values))
    assert resolved
    np.testing.assert_allclose(weights @ np.asarray(values), each.sum(), rtol=1e-11)
    assert begun.sum() == len(steps) - len(plan.far)
    return each


def split(some, start, stop, steps, lower, upper, walls=REFLECTING):
    plan = density.prepare(*some, start, stop, steps, lower, upper, walls)
    with jax.enable_x64(True):
        return np.asarray(jax.jit(density.log_density)(*some, plan)[0])


@pytest.mark.parametrize(
    "steps, start",
    [
        (np.full(2000, 0.02), 0.0),
        (np.full(2000, 1.0), 0.0),
        (0.1 * np.random.default_rng(1).choice([1, 1, 1, 2, 5], 2000), 0.0),  # frames are missing
        (np.full(200, 0.1), 8.0),  # begins eleven standard deviations out
    ],
    ids=["fine", "coarse", "missing frames", "from far"],
)
def test_reverting_paths_have_their_closed_form(steps, start):
    x = reverting(1.0, steps, start)
    found = logs(terms(0.0, -1.0, 0.0, 0.5), x[:-1], x[1:], steps, -20.0, 20.0)
    np.testing.assert_allclose(found, of_reverting(x, steps), atol=1e-6)


@pytest.mark.slow
def test_a_far_step_is_left_to_the_split_kernel():
    x, steps = reverting(1.0, np.full(500, 0.1)), np.full(500, 0.1)
    x[300:] += 2.5  # a jump of eight standard deviations
    some = terms(0.0, -1.0, 0.0, 0.5)
    found = logs(some, x[:-1], x[1:], steps, -20.0, 20.0)
    assert of_reverting(x, steps).min() < -25
    np.testing.assert_allclose(found, of_reverting(x, steps), atol=1e-5)


@pytest.mark.parametrize(
    "numbers, walls",
    [
        ((0.0, 2.0, -2.0, 0.4), REFLECTING),  # a double well
        ((0.3, -1.0, 0.0, 0.4, 0.3), REFLECTING),  # noise that grows outwards
        ((0.0, -1.0, 0.0, 0.5, 0.0, 0.3), ABSORBING),  # killing
    ],
    ids=["double well", "multiplicative", "killed"],
)
def test_steps_far_from_walls_agree_with_the_split_kernel(numbers, walls):
    rng = np.random.default_rng(3)
    start = rng.uniform(-1.3, 1.3, 60)
    stop, steps = start + rng.normal(size=60) * np.sqrt(0.8 * 0.1) * 1.5, np.full(60, 0.1)
    some, where = terms(*numbers), (start, stop, steps, -9.0, 9.0, walls)
    np.testing.assert_allclose(logs(some, *where), split(some, *where), atol=2e-5)


@pytest.mark.parametrize("push", [-1.0, 2.0])
def test_reflecting_walls_agree_with_the_split_kernel(push):
    rng = np.random.default_rng(4)
    start, steps = rng.uniform(0, 1, 200), np.full(200, 0.05)
    stop = np.abs((start + 0.22 * rng.normal(size=200) + 1) % 2 - 1)
    start[0], stop[1] = 0.0, 1.0  # on the walls themselves
    some, where = terms(push, 0.0, 0.0, 0.5), (start, stop, steps, 0.0, 1.0)
    np.testing.assert_allclose(logs(some, *where), split(some, *where), atol=2e-5)


def test_what_is_not_for_nodes_is_left():
    x, steps = reverting(1.0, np.full(50, 0.1)), np.full(50, 0.1)
    some, where = terms(0.0, -1.0, 0.0, 0.5), (x[:-1], x[1:])
    plan = lambda steps, lower=-9.0, upper=9.0, walls=REFLECTING, some=some, where=where: counts.prepare(
        *some, *where, steps, lower, upper, walls
    )
    assert plan(steps) is not None
    assert plan(steps * np.linspace(1, 2, 50)) is None  # as many durations as steps
    assert plan(steps, walls=("periodic",) * 2) is None
    assert plan(steps, x.min() - 0.1, 9.0, ABSORBING) is None
    assert plan(steps, some=terms(0.0, -1.0, 0.0, 0.0, 0.5), where=(x[:-1] + 4, x[1:] + 4), lower=0.0) is not None
    assert plan(steps, some=terms(0.0, -1.0, 0.0, 0.0, 0.5)) is None  # D = 0 inside
    assert plan(1e-6 * steps) is None  # steps of thousands of standard deviations


def test_a_plan_says_where_it_ends():
    x, steps = reverting(1.0, np.full(500, 0.1)), np.full(500, 0.1)
    plan = counts.prepare(*terms(0.0, -1.0, 0.0, 0.5), x[:-1], x[1:], steps, -20.0, 20.0)
    weights, _ = counts.counted(plan)
    with jax.enable_x64(True):
        resolved = lambda D: bool(table(*terms(0.0, -1.0, 0.0, D), plan, weights)[1])
    assert [resolved(D) for D in (0.5, 0.6, 0.4)] == [True] * 3
    assert [resolved(D) for D in (0.05, 5.0)] == [False] * 2
    for D in (0.6, 0.4):
        with jax.enable_x64(True):
            value = weights @ np.asarray(table(*terms(0.0, -1.0, 0.0, D), plan, weights)[0])
        exact = norm.logpdf(x[1:], x[:-1] * np.exp(-0.1), np.sqrt(-D * np.expm1(-0.2))).sum()
        assert value == pytest.approx(exact, abs=1e-3)


@pytest.mark.slow
def test_densities_are_differentiated_where_eigenvalues_meet():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        Q, _ = np.linalg.qr(rng.normal(size=(6, 6)))
        root = np.sqrt([0.0, 0.0, 1.0, 1.0, 2.0, 40.0])[:, None] * Q.T  # whose square has equal eigenvalues
        psi, back, durations = rng.normal(size=(6, 6)), rng.normal(size=(4, 6)), jnp.array([0.3, 1.0])
        here = jnp.ones(6), jnp.full(6, 0.3), jnp.zeros(6)  # rate, bias, loss
        found = lambda *here: symmetric(*here, psi, root + 0.3 * psi, back, durations)

        def exact(rate, bias, lost):
            across = rate[:, None] * (root + (0.3 - bias[:, None]) * psi)
            A = across.T @ across + (psi.T * lost) @ psi
            return jnp.stack([back @ jax.scipy.linalg.expm(-t * A) @ back.T for t in durations])

        change = tuple(map(jnp.asarray, rng.normal(size=(3, 6))))
        for one, other in zip(jax.jvp(found, here, change), jax.jvp(exact, here, change), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-11)
        weights = rng.normal(size=(2, 4, 4))
        summed = lambda function: jax.grad(lambda here: jnp.sum(weights * function(*here)))(here)
        for one, other in zip(summed(found), summed(exact), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-10)


@pytest.mark.slow
def test_nodes_move_no_value_of_a_spline_by_a_tenth_of_its_error_bar():
    knots = np.linspace(-1.6, 1.8, 12)
    spline = plain(jd.Spline(knots, jd.Fixed(knots)))
    rng = np.random.default_rng(3)
    values = np.concatenate([2 * (knots - knots**3) + 0.3, np.log(0.4) + 0.5 * np.sin(1.5 * knots)])
    values = values + np.repeat([0.3, 0.1], 12) * rng.normal(size=24)  # it bends at each knot
    of = lambda v, x: eqx.tree_at(lambda one: one.values, spline, v)(x)
    with jax.enable_x64(True):
        drift, diffusivity = (lambda v, x: of(v[:12], x)), (lambda v, x: jnp.exp(of(v[12:], x)))
        terms = lambda v: (Partial(drift, v), Partial(diffusivity, v), Partial(lambda v, x: 0.0 * x, v))
        x, h, path = np.zeros(100), 0.01, []
        pace = jax.jit(jax.vmap(lambda x: (drift(values, x), diffusivity(values, x))))
        for i in range(1001):
            if i % 10 == 0:
                path.append(x)
            f, D = map(np.asarray, pace(x))
            x = np.clip(x + f * h + np.sqrt(2 * D * h) * rng.normal(size=100), -1.6, 1.8)
        start, stop = np.ravel(path[:-1]), np.ravel(path[1:])
        scores = jax.jit(
            jax.jacfwd(lambda v, plan, weights: counts.of_steps(plan, counts.table(*terms(v), plan, weights)[0]))
        )
        found = []
        for slack in (1.0, 1.6):
            plan = counts.prepare(*terms(values), start, stop, np.full(10_000, 0.1), -2.6, 2.8, REFLECTING, slack=slack)
            found.append(np.asarray(scores(jnp.asarray(values), plan, counts.counted(plan)[0])))
    information = np.linalg.inv(found[1].T @ found[1])
    shift = information @ (found[0] - found[1]).sum(0) / np.sqrt(np.diag(information))
    assert np.abs(shift).max() < 0.1
