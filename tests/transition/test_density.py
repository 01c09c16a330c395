"""Transition densities against closed forms, their gradients, and the plans that must not degrade in silence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.special import ive
from scipy.stats import norm

from jaxdiff import datasets
from jaxdiff.transition.density import log_density, prepare

REFLECTING, ABSORBING, PERIODIC = (("reflecting",) * 2, ("absorbing",) * 2, ("periodic",) * 2)


def nothing(x):
    return 0.0


@jax.jit
def evaluate(drift, diffusivity, plan):
    return log_density(drift, diffusivity, nothing, plan)


def densities(drift, diffusivity, p, start, stop, duration, lower, upper, walls=REFLECTING, **options):
    functions = Partial(drift, np.array(p)), Partial(diffusivity, np.array(p))
    duration = np.broadcast_to(duration, np.shape(start))
    plan = prepare(*functions, nothing, start, stop, duration, lower, upper, walls, **options)
    values, fine = evaluate(*functions, plan)
    assert fine
    return np.array(values)


def reverting(p, x):
    return p[0] * (p[1] - x)


def constant(p, x):
    return 0.5 * p[2] ** 2


def tanh(p, x):
    return jnp.tanh(x)


def linear(p, x):
    return p[0] * x


def square(p, x):
    return (p[1] * x) ** 2 / 2


def moving(p, x):
    return p


def half(p, x):
    return 0.5


def square_root(p, x):
    return 0.5 * p[2] ** 2 * x


def vasicek(p, x0, x1, t):
    return norm.logpdf(x1, p[1] + (x0 - p[1]) * np.exp(-p[0] * t), p[2] * np.sqrt(-np.expm1(-2 * p[0] * t) / 2 / p[0]))


def cir(p, x0, x1, t):
    k, mean, s = p
    c, q = 2 * k / (s**2 * -np.expm1(-k * t)), 2 * k * mean / s**2 - 1
    u, v = c * x0 * np.exp(-k * t), c * x1
    return np.log(c) - u - v + q / 2 * np.log(v / u) + np.log(ive(q, 2 * np.sqrt(u * v))) + 2 * np.sqrt(u * v)


def bills():
    return datasets.load("rates")["rate"].to_numpy() / 100, 0.25


def funds(measured):
    import csv

    with open(measured("fedfunds.csv")) as file:
        rows = list(csv.reader(file))
    return np.array([float(rate) for date, rate in rows[1:] if "1963-01" <= date < "1999"]) / 100, 1 / 12


# parameters: published, the optimum of the closed form, and far from it
RATES = [
    ("bills", reverting, constant, vasicek, -1.0, [(0.2, 0.055, 0.022), (0.186, 0.0509, 0.0177), (2.0, 0.1, 0.05)]),
    ("bills", reverting, square_root, cir, 0.0, [(0.2, 0.055, 0.07), (0.113, 0.0517, 0.0797), (1.0, 0.03, 0.15)]),
    ("funds", reverting, constant, vasicek, -1.0, [(0.261275, 0.0717048, 0.0223678), (2.0, 0.05, 0.05)]),
    ("funds", reverting, square_root, cir, 0.0, [(0.21894, 0.0720674, 0.0666443), (2.0, 0.1, 0.2)]),
]


@pytest.mark.slow
@pytest.mark.parametrize("name, drift, diffusivity, exact, lower, parameters", RATES)
def test_interest_rates(name, drift, diffusivity, exact, lower, parameters, measured):
    x, dt = bills() if name == "bills" else funds(measured)
    for p in parameters:
        values = densities(drift, diffusivity, p, x[:-1], x[1:], dt, lower, 1.0)
        assert abs(np.sum(values - exact(p, x[:-1], x[1:], dt))) < 1e-3, p
    if name == "funds" and exact is vasicek:
        assert abs(np.mean(exact(parameters[0], x[:-1], x[1:], dt)) - 3.634493) < 1e-6


@pytest.mark.parametrize("t", [1e-6, 1e-3, 0.3, 5.0, 100.0])
def test_ornstein_uhlenbeck_at_every_duration(t):
    rng = np.random.default_rng(1)
    p, x0 = (1.0, 0.0, 1.0), rng.normal(size=40) * 0.7
    x1 = x0 * np.exp(-t) + rng.normal(size=40) * np.sqrt(-np.expm1(-2 * t) / 2)
    error = densities(reverting, constant, p, x0, x1, t, -100.0, 100.0) - vasicek(p, x0, x1, t)
    assert np.max(np.abs(error)) < 1e-5


@pytest.mark.slow
def test_jumps_of_36_standard_deviations():
    p, x0 = (1.0, 0.0, 1.0), np.linspace(-1, 1, 9)
    x1 = x0 + np.linspace(-36, 36, 9) * np.sqrt(0.1)
    values = densities(reverting, constant, p, x0, x1, 0.1, -100.0, 100.0, tolerance=1e-6)
    assert np.max(np.abs(values - vasicek(p, x0, x1, 0.1))) < 1e-6
    assert np.min(values) < -500
    far = densities(reverting, constant, p, [0.0], [30.0], 0.1, -100.0, 100.0)  # exp(−5500) is no float
    assert abs(far / vasicek(p, 0.0, 30.0, 0.1) - 1) < 1e-5


def test_metres_and_seconds():
    rng = np.random.default_rng(2)
    p, x0 = (0.3, 2e-6, 1e-7), 2e-6 + rng.normal(size=50) * 1e-7
    x1 = x0 + 2e-8 * rng.normal(size=50)
    assert np.max(np.abs(densities(reverting, constant, p, x0, x1, 0.1, -1.0, 1.0) - vasicek(p, x0, x1, 0.1))) < 1e-7


def test_irregular_times():
    rng = np.random.default_rng(3)
    p, t, x = (1.0, 0.0, 1.0), 10 ** rng.uniform(-3, 0, 300), np.zeros(301)
    for i in range(300):
        x[i + 1] = x[i] * np.exp(-t[i]) + np.sqrt(-np.expm1(-2 * t[i]) / 2) * rng.normal()
    error = densities(reverting, constant, p, x[:-1], x[1:], t, -100.0, 100.0) - vasicek(p, x[:-1], x[1:], t)
    assert np.max(np.abs(error)) < 1e-4
    assert abs(np.sum(error)) < 1e-3


@pytest.mark.slow
def test_many_steps_in_pieces():
    rng = np.random.default_rng(4)
    p, t, x0 = (1.0, 0.0, 1.0), 0.01, rng.normal(size=100000) * 0.7
    x1 = x0 * np.exp(-t) + np.sqrt(-np.expm1(-2 * t) / 2) * rng.normal(size=100000)
    assert abs(np.sum(densities(reverting, constant, p, x0, x1, t, -100.0, 100.0) - vasicek(p, x0, x1, t))) < 1e-2


@pytest.mark.parametrize("t", [1e-4, 0.1, 2.0])
def test_benes(t):
    rng = np.random.default_rng(5)
    x0 = rng.normal(size=40) * 3
    x1 = x0 + 3 * np.sqrt(t) * rng.normal(size=40)
    exact = np.log(np.cosh(x1) / np.cosh(x0)) - t / 2 + norm.logpdf(x1, x0, np.sqrt(t))
    assert np.max(np.abs(densities(tanh, half, 0.0, x0, x1, t, -100.0, 100.0) - exact)) < 1e-8


@pytest.mark.parametrize("t", [1e-3, 0.25, 10.0])
def test_geometric(t):
    rng = np.random.default_rng(6)
    p, x0 = (0.1, 0.4), np.exp(2 * rng.normal(size=40))
    x1 = x0 * np.exp(p[1] * np.sqrt(t) * rng.normal(size=40))
    exact = norm.logpdf(np.log(x1 / x0), (p[0] - p[1] ** 2 / 2) * t, p[1] * np.sqrt(t)) - np.log(x1)
    values = densities(linear, square, p, x0, x1, t, 0.0, 1e6)
    assert np.max(np.abs(values - exact)) < 1e-9


@pytest.mark.parametrize("speed, t", [(0.0, 1e-3), (1.0, 1e-2), (-3.0, 0.1), (-3.0, 5.0)])
def test_reflected_brownian_motion_with_drift(speed, t):
    """On [0, 1] with D = ½, to and from the walls themselves, against the cosine series."""
    rng = np.random.default_rng(7)
    x0 = np.concatenate([rng.uniform(0, 1, 30), [0.0, 1e-6, 0.999, 1.0]])
    x1 = np.clip(1 - np.abs(1 - np.abs(x0 + rng.normal(size=34) * np.sqrt(min(t, 0.3)))), 0, 1)
    k = np.arange(1, 2000)[:, None] * np.pi
    mode = lambda x: k * np.cos(k * x) + speed * np.sin(k * x)
    rest = 2 * speed * np.exp(2 * speed * x1) / np.expm1(2 * speed) if speed else np.ones(34)
    decay = np.exp(-0.5 * (k**2 + speed**2) * t) / (k**2 + speed**2)
    exact = np.log(rest + 2 * np.sum(decay * mode(x0) * mode(x1), 0) * np.exp(speed * (x1 - x0)))
    values = densities(moving, half, speed, x0, x1, t, 0.0, 1.0)
    assert np.max(np.abs(values - exact)) < 1e-10


@pytest.mark.parametrize("speed, t", [(0.0, 1e-3), (-1.0, 0.1), (-1.0, 1.0)])
def test_absorbed_brownian_motion(speed, t):
    rng = np.random.default_rng(8)
    x0 = rng.uniform(0, 2, 40) + 1e-4
    x1 = np.abs(x0 + rng.normal(size=40) * np.sqrt(t)) + 1e-4
    exact = norm.logpdf(x1, x0 + speed * t, np.sqrt(t)) + np.log(-np.expm1(-2 * x0 * x1 / t))
    values = densities(moving, half, speed, x0, x1, t, 0.0, 50.0, ABSORBING)
    assert np.max(np.abs(values - exact)) < 1e-9


@pytest.mark.parametrize("walls, sign", [(REFLECTING, 1), (ABSORBING, -1)])
def test_ornstein_uhlenbeck_at_a_wall(walls, sign):
    rng = np.random.default_rng(9)
    p, t, x0 = (1.0, 0.0, 1.0), 0.1, np.abs(rng.normal(size=40)) * 0.5
    x1 = np.abs(x0 + np.sqrt(t) * rng.normal(size=40))
    exact = np.log(np.exp(vasicek(p, x0, x1, t)) + sign * np.exp(vasicek(p, x0, -x1, t)))
    assert np.max(np.abs(densities(reverting, constant, p, x0, x1, t, 0.0, 50.0, walls) - exact)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("order", [-0.6, -0.3, 0.3, 2.5, 12.0])
def test_square_root_process_at_its_wall(order):
    """ν = 2κθ/σ² − 1; below zero the wall is reached."""
    rng = np.random.default_rng(10)
    p = (1.0, (order + 1) * 0.125, 0.5)
    x = p[1] * np.concatenate([rng.gamma(order + 1, 1 / (order + 1), size=30), [1e-4, 1e-2, 0.1]])
    x = np.maximum(rng.permutation(x), 1e-5 * p[1])
    error = densities(reverting, square_root, p, x[:-1], x[1:], 0.1, 0.0, 100.0) - cir(p, x[:-1], x[1:], 0.1)
    assert np.max(np.abs(error)) < 1e-5


@pytest.mark.parametrize("speed, t", [(0.0, 3.0), (2.0, 0.3), (40.0, 0.3), (2.0, 1e-2)])
def test_circle(speed, t):
    rng, turns = np.random.default_rng(11), 2 * np.pi * np.arange(-40, 41)[:, None]
    x0 = rng.uniform(0, 2 * np.pi, 40)
    x1 = np.mod(x0 + speed * t + np.sqrt(t) * rng.normal(size=40), 2 * np.pi)
    exact = np.log(np.sum(norm.pdf(x1 + turns, x0 + speed * t, np.sqrt(t)), 0))
    values = densities(moving, half, speed, x0, x1, t, 0.0, 2 * np.pi, PERIODIC)
    assert np.max(np.abs(values - exact)) < 1e-10


@pytest.mark.slow
def test_the_density_integrates_to_one_between_walls():
    x1 = np.linspace(0, 1, 2001)
    drift, diffusivity = (lambda p, x: p[0] * jnp.sin(5 * x)), (lambda p, x: p[1] * (1 + 0.5 * x))
    values = np.exp(densities(drift, diffusivity, (2.0, 0.3), np.full(2001, 0.2), x1, 0.2, 0.0, 1.0))
    assert abs(np.trapezoid(values, x1) - 1) < 1e-4


Y = np.random.default_rng(12).normal(size=41) * 0.3
CASES = {
    "zero drift": (lambda p, x: p[0] * x + p[1] * x**3, lambda p, x: p[2] + p[3] * x**2, (0.0, 0.0, 0.5, 0.0), Y, 0.1, -9.0, 9.0, REFLECTING),
    "double well": (lambda p, x: p[0] * x - p[1] * x**3, lambda p, x: p[2] + p[3] * x**2, (1.0, 1.0, 0.5, 0.1), Y, 0.5, -9.0, 9.0, REFLECTING),
    "reflecting": (lambda p, x: p[0] * x + p[1], lambda p, x: p[2] + p[3] * x, (0.0, 0.0, 0.5, 0.0), abs(Y), 0.1, 0.0, 9.0, REFLECTING),
    "absorbing": (lambda p, x: p[0] * x + p[1], lambda p, x: p[2] + p[3] * x, (0.0, 0.0, 0.5, 0.1), abs(Y), 0.1, 0.0, 9.0, ABSORBING),
    "vanishing": (reverting, lambda p, x: p[2] * x + p[3] * x**2, (1.0, 0.3, 0.2, 0.05), abs(Y), 0.1, 0.0, 9.0, REFLECTING),
    "circle": (lambda p, x: p[0] + p[1] * jnp.sin(x), lambda p, x: p[2] + p[3] * jnp.cos(x), (0.0, 0.0, 0.5, 0.1), abs(Y), 0.3, 0.0, 2 * np.pi, PERIODIC),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_derivatives(case):
    drift, diffusivity, p, x, t, lower, upper, walls = CASES[case]
    p = np.array(p)
    killing = lambda p, x: 0.1 * p[2] * x**2
    functions = lambda p: (Partial(drift, p), Partial(diffusivity, p), Partial(killing, p))
    plan = prepare(*functions(p), x[:-1], x[1:], np.full(len(x) - 1, t), lower, upper, walls)
    total = lambda p: jnp.sum(log_density(*functions(p), plan)[0])
    value, reverse = jax.jit(total), jax.jit(jax.grad(total))
    gradient, hessian = np.array(reverse(p)), None
    if case in ("double well", "vanishing"):
        hessian = np.array(jax.jit(jax.hessian(total))(p))
    for i, direction in enumerate(np.eye(len(p))):
        slope = lambda f, h: (np.array(f(p + h * direction)) - np.array(f(p - h * direction))) / (2 * h)  # noqa: B023, E731
        extrapolated = lambda f, h: (64 * slope(f, h / 4) - 20 * slope(f, h / 2) + slope(f, h)) / 45  # noqa: B023, E731
        h = 1e-3 * max(abs(p[i]), 0.05)
        scale = abs(gradient[i]) + 1e-2 * np.max(np.abs(gradient))
        assert abs(gradient[i] - extrapolated(value, h)) < 1e-7 * scale
        if hessian is not None:
            assert np.max(np.abs(hessian[i] - extrapolated(reverse, h))) < 1e-7 * np.max(np.abs(hessian))
    if case in ("zero drift", "circle"):
        np.testing.assert_allclose(
            jax.jit(jax.jacfwd(total))(p), gradient, rtol=1e-9, atol=1e-9 * np.max(np.abs(gradient))
        )
        np.testing.assert_allclose(jax.jit(jax.vmap(total))(np.stack([p, 1.01 * p]))[0], value(p), rtol=1e-12)


@pytest.mark.slow
def test_a_plan_knows_when_it_no_longer_resolves():
    rng = np.random.default_rng(13)
    x = rng.normal(size=101) * 0.7
    at = lambda p: (Partial(reverting, np.array(p)), Partial(constant, np.array(p)))
    plan = prepare(*at((1.0, 0.0, 1.0)), nothing, x[:-1], x[1:], np.full(100, 0.3), -50.0, 50.0)
    for p in ((1.0, 0.0, 1.0), (1.1, 0.05, 0.85), (0.0, 0.0, 1.15)):
        values, fine = evaluate(*at(p), plan)
        assert fine
        error = values - vasicek((p[0] + 1e-12, *p[1:]), x[:-1], x[1:], 0.3)
        assert abs(np.sum(error)) < 5e-3
    for p in ((1.0, 0.0, 0.5), (1.0, 0.0, 2.0), (9.0, 0.0, 1.0)):
        assert not evaluate(*at(p), plan)[1]
        values = densities(reverting, constant, p, x[:-1], x[1:], 0.3, -50.0, 50.0)
        assert abs(np.sum(values - vasicek(p, x[:-1], x[1:], 0.3))) < 1e-3


@pytest.mark.slow
def test_refusals():
    with pytest.raises(ValueError, match="diffusivity is not positive at x = -1"):
        densities(lambda p, x: 0.0, lambda p, x: p * (x + 1), 0.5, [0.0], [0.1], 1.0, -20.0, 20.0)
    with pytest.raises(ValueError, match="on the wall 0, where the diffusivity vanishes"):
        densities(reverting, square_root, (1.0, 1.0, 1.0), [0.0], [0.1], 1.0, 0.0, 20.0)
    plan = prepare(nothing, lambda x: 1.0, nothing, [0.0], [0.1], [1.0], -20.0, 20.0)
    at = jax.jit(lambda D: log_density(nothing, lambda x: D, nothing, plan))
    assert at(1.0)[1] and np.isnan(at(-1.0)[0])[0]
