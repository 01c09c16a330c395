"""Spectra against published values and closed forms, the matrix itself, and finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import central, dense, each_way

import jaxdiff as jd

LINE = jd.Grid.uniform((0.0, 1.0, 10))
PLANE, MASK = jd.Grid.uniform((0.0, 1.0, 6), (0.0, 2.0, 5)), np.ones((6, 5), bool)
MASK[:2, :2] = False
HOLED = jd.Grid.uniform((0.0, 1.0, 6), (0.0, 2.0, 5), mask=MASK)
END, RING = {"x+": jd.absorbing}, jd.Periodic()
turning = (lambda x, y: jnp.sin(3 * y), lambda x, y: 1.0 - x)
wells = lambda diffusivity: jd.FokkerPlanck(jd.Potential(lambda x: x**4 / 4 - x**2 / 2), diffusivity)


@pytest.mark.slow
def test_the_rate_between_two_wells_has_all_its_digits():
    """200 cells on (−2, 2), from 60-digit arithmetic; LAPACK has 0.2 per cent of the fourth, and the wrong sign of the last."""
    grid = jd.Grid.uniform((-2.0, 2.0, 200))

    def gap(diffusivity):
        return jd.spectrum(wells(diffusivity), grid, 2)[0][1]

    every = jax.jit(jax.vmap(lambda d: (gap(d), jax.jvp(lambda d: jnp.log(-gap(d)), (d,), (d,))[1])))
    exact = [3.355235429766e-2, 2.777653558859e-3, 1.625747553643e-6, 6.174554018189e-12, 8.672910935698e-23]
    sizes = np.array([0.1, 0.05, 0.02, 0.01, 0.005])
    values, slopes = every(sizes)
    np.testing.assert_allclose(values, np.negative(exact), rtol=1e-12)
    above, below, two, less = (np.log(-every(sizes * (1 + h))[0]) for h in (1e-3, -1e-3, 2e-3, -2e-3))
    np.testing.assert_allclose(slopes, (8 * (above - below) - (two - less)) / 12e-3, rtol=1e-7)
    kramers = np.sqrt(2) / (2 * np.pi) * np.exp(-0.25 / sizes)
    assert (np.diff(exact / (2 * kramers)) > 0).all() and exact[-1] < 2 * kramers[-1]


CASES = {
    "killed": (jd.FokkerPlanck(3.0, 0.5, killing=lambda x: x, boundaries=END), LINE),
    "growing": (jd.FokkerPlanck(1.0, 0.5, killing=-2.0), LINE),
    "ring": (jd.FokkerPlanck(3.0, 0.5, boundaries=RING), LINE),
    "ring at rest": (jd.Diffusion(lambda x: 1 + x * (1 - x), boundaries=RING), LINE),
    "plane": (jd.Diffusion(lambda x, y: 1 + x * y), PLANE),
    "turning, masked": (jd.FokkerPlanck(turning, 0.3), HOLED),
    "box, turning, open": (
        jd.FokkerPlanck((lambda x, y, z: y, 1.0, 0.0), 0.4, boundaries={"z-": jd.absorbing}),
        jd.Grid.uniform((0.0, 1.0, 3), (0.0, 1.0, 4), (0.0, 1.0, 3)),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_rates_modes_and_derivatives_against_the_matrix(name):
    equation, grid = CASES[name]
    matrix, _, weights = dense(equation, grid)(0.0)
    inside = np.ones(len(matrix), bool) if grid.mask is None else grid.mask.ravel()
    exact = np.linalg.eigvals(matrix[np.ix_(inside, inside)])
    exact = exact[np.lexsort((exact.imag, -exact.real.round(9)))][:4]

    @jax.jit
    def every(p):
        def weighed(p):
            found = jd.spectrum(jax.tree.map(lambda x: x * p, equation), grid, 4)
            return jnp.sum(found[0].real * jnp.arange(1.0, 5.0)), found

        (value, found), push = jax.linearize(weighed, p)
        return value, found, jax.linear_transpose(lambda p: push(p)[0], p)(1.0)[0], push(1.0)[0]

    _, (rates, modes), reverse, forward = every(1.0)
    for part in ("real", "imag"):
        np.testing.assert_allclose(np.sort(getattr(rates, part)), np.sort(getattr(exact, part)), atol=1e-10)
    contents = np.asarray(modes).reshape(4, -1) * weights
    np.testing.assert_allclose(contents @ matrix.T, np.asarray(rates)[:, None] * contents, atol=1e-8)
    np.testing.assert_allclose(np.abs(contents).sum(1), 1.0, rtol=1e-12)
    np.testing.assert_allclose([reverse, forward], central(lambda p: float(every(p)[0]), 1.0), rtol=1e-7)


@pytest.mark.slow
def test_modes_of_an_open_axis_have_derivatives():
    def f(s):
        modes = jd.spectrum(jd.FokkerPlanck(lambda x: -s * x, 0.5, killing=0.1 * s), LINE, 3)[1]
        return jnp.sum(modes**2 * jnp.arange(30.0).reshape(3, 10))

    every = jax.jit(partial(each_way, f))
    np.testing.assert_allclose(every(1.0)[1:], float(central(lambda s: every(s)[0], 1.0)), rtol=1e-7)
    with pytest.raises(ValueError, match="modes have derivatives on an open axis alone"):
        jax.grad(lambda d: jnp.sum(jd.spectrum(jd.Diffusion(d, boundaries=RING), LINE, 2)[1] ** 2))(1.0)


@pytest.mark.slow
def test_killing_moves_the_rate_of_rest_from_zero():
    rate = lambda k: jd.spectrum(jd.FokkerPlanck(lambda x: -x, 0.5, killing=lambda x: k * x), LINE, 2)[0][0]
    rest = jd.steady_state(jd.FokkerPlanck(lambda x: -x, 0.5), LINE)
    assert float(jax.grad(rate)(0.0)) == pytest.approx(-float(LINE.integrate(rest * LINE.centers[0])), rel=1e-12)


@pytest.mark.slow
def test_a_ring_of_states_with_a_current():
    n = 12
    ring = 2.0 * np.roll(np.eye(n), 1, 0) + 0.5 * np.roll(np.eye(n), -1, 0)
    rates, modes = jd.spectrum(jd.MasterEquation(ring), None, 4)
    turn = 2 * np.pi / n
    exact = lambda k: -2.5 * (1 - np.cos(k * turn)) - 1.5j * np.sin(k * turn)
    np.testing.assert_allclose(rates, [0.0, exact(1), exact(-1), exact(2)], atol=1e-13)
    assert exact(1) == pytest.approx(-0.334936490539 - 0.75j, rel=1e-11)
    np.testing.assert_allclose(np.abs(modes), 1 / n, rtol=1e-10)


@pytest.mark.slow
def test_births_and_deaths_fade_at_whole_rates():
    made = jd.MasterEquation(lambda n: 5.0, lambda n: 1.0 * n)
    rates, _ = jd.spectrum(made, jd.States({"n": 60}), 4)
    np.testing.assert_allclose(rates, [0.0, -1.0, -2.0, -3.0], atol=1e-12)


@pytest.mark.slow
def test_equal_rates_share_the_derivative_of_their_sum():
    """Of a square, whose two slowest rates split to first order along directions that no vectors of the whole square know."""
    square = jd.Grid.uniform((0.0, 1.0, 6), (0.0, 1.0, 6))
    cosine = lambda x: jnp.cos(np.pi * x)
    lost = lambda a: lambda x, y: 0.5 + a * (cosine(2 * x) + cosine(x) * cosine(y))
    rates = jax.jit(lambda a: jd.spectrum(jd.Diffusion(1.0, decay=lost(a)), square, 3)[0][1:])
    slopes = jax.jacfwd(rates)(0.0)
    above, below, two, less = map(rates, (1e-3, -1e-3, 2e-3, -2e-3))
    # The two are in order of size, before and after they meet.
    each = (8 * (above - below[::-1]) - (two - less[::-1])) / 12e-3
    assert abs(each[0] - each[1]) > 0.1
    np.testing.assert_allclose(slopes, each.mean(), rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1.0, 1e-12, 1e-24, 1e-30])
def test_slow_chains_in_single_precision(rate):
    with jax.enable_x64(False):
        chain = jd.MasterEquation(lambda n: 2 * rate + 0 * n, lambda n: rate * n)
        rates, modes = jd.spectrum(chain, jd.States({"n": 20}), 4)
        assert rates.dtype == np.float32
        np.testing.assert_allclose(np.asarray(rates, float) / rate, [0, -1, -2, -3], atol=1e-5)
        first = np.asarray(modes[1] / jnp.abs(modes[1]).max(), float)
        n = np.arange(21)
        poisson = np.cumprod(np.r_[1.0, 2.0 / n[1:]])
        exact = poisson * (n - 2.0)
        np.testing.assert_allclose(np.abs(first), np.abs(exact) / np.abs(exact).max(), atol=2e-4)


BLOCKS = np.kron(np.eye(2), [[0.0, 1.0], [2.0, 0.0]])
WALL = np.ones((6, 5), bool)
WALL[2] = False
plane_wells = lambda d: jd.FokkerPlanck(jd.Potential(lambda x, y: x**4 / 4 - x**2 / 2 + y**2 / 2), d)
COARSE = jd.Grid.uniform((-1.6, 1.6, 12), (-1.2, 1.2, 8))
REFUSED = {
    "several sets": (lambda: jd.spectrum(jd.MasterEquation(BLOCKS), None, 2), "several sets of states or cells"),
    "several parts": (
        lambda: jd.spectrum(jd.Diffusion(1.0), jd.Grid.uniform((0.0, 1.0, 6), (0.0, 2.0, 5), mask=WALL), 2),
        "several sets of states or cells",
    ),
    "fall together": (
        lambda: jd.spectrum(jd.MasterEquation(np.diag([1.0, 1.0, 1.0], -1)), None, 4),
        "modes fall together",
    ),
    "roundoff": (lambda: jd.spectrum(plane_wells(0.007), COARSE, 2), "of the slowest rate roundoff may be"),
    "hidden": (lambda: jd.spectrum(plane_wells(0.0095), COARSE, 3), "hidden by roundoff beside the slowest"),
    "count": (lambda: jd.spectrum(jd.Diffusion(1.0), LINE, 11), "from 1 to the 10 of all cells"),
    "one way": (lambda: jd.spectrum(jd.FokkerPlanck(1.0, 0.0), LINE, 2), "hops one way only"),
    "in time": (lambda: jd.spectrum(jd.Diffusion(jd.TimeDependent(lambda t: 1 + t)), LINE, 2), "constant in time"),
    "phases": (lambda: jd.spectrum(jd.Diffusion(1.0, exchange=[jd.Exchange(1.0, 1.0)]), LINE, 2), "leave exchange out"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_answer_is_refused_in_one_line(name):
    call, words = REFUSED[name]
    with pytest.raises(ValueError, match=words) as raised:
        call()
    assert "\n" not in str(raised.value)
