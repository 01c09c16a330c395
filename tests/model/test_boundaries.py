"""Walls that a drift comes in through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

import jaxdiff as jd
from jaxdiff.discretisation.line import LineSystem

PECLET = [1e-9, 0.3, 4.0, 40.0, 60.0, 70.0, 76.0, 2000.0]  # of a cell
N = 12


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


def column(peclet, gradient=0.0, mirrored=False, velocity=1.0):
    grid = jd.Grid.uniform((0.0, 1.0, N))
    sides = ("x+", "x-") if mirrored else ("x-", "x+")
    walls = dict(zip(sides, (jd.Neumann(gradient), jd.Dirichlet(0.0))))
    drift = -velocity if mirrored else velocity
    return LineSystem(jd.FokkerPlanck(drift, velocity / (N * peclet), boundaries=walls), grid)


def matrix(operator):
    up, down, loss = (np.asarray(rate) for rate in (operator.up, operator.down, operator.loss))
    return np.diag(-up - down - loss) + np.diag(up[:-1], -1) + np.diag(down[1:], 1)


def by_hand(peclet):
    """Exact rates: v u enters on the left; Scharfetter–Gummel inside; to the wall on the right half a cell."""
    forth = lambda z: z / -np.expm1(-z) if z > -700 else 0.0
    d = 1.0 / (N * peclet)
    up = np.full(N, d * N**2 * forth(peclet))
    up[-1] = 2 * d * N**2 * forth(peclet / 2)
    down = np.full(N, d * N**2 * forth(-peclet))
    down[0] = -1.0 * N
    return np.diag(-up - down) + np.diag(up[:-1], -1) + np.diag(down[1:], 1)


@pytest.mark.parametrize("peclet", PECLET)
@pytest.mark.parametrize("mirrored", [False, True])
def test_no_slope_where_a_drift_enters_lets_in_what_is_there(peclet, mirrored):
    system = column(peclet, mirrored=mirrored)
    found, wanted = matrix(system.operator(0.0)), by_hand(peclet)
    found = found[::-1, ::-1] if mirrored else found
    np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-13 * np.abs(wanted).max())
    np.testing.assert_array_equal(system.forcing(0.0), 0.0)


@pytest.mark.parametrize("peclet", [40.0, 60.0, 70.0, 76.0])
def test_a_constant_stays_until_the_other_wall_is_felt(peclet):
    found, wanted = (expm(0.5 * a) @ np.ones(N) for a in (matrix(column(peclet).operator(0.0)), by_hand(peclet)))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    np.testing.assert_allclose(found[: N // 2], 1.0, rtol=1e-12)


@pytest.mark.slow
def test_a_constant_stays_end_to_end():
    """At vL/D = 12, where time is easy; u is 1 but near the right wall."""
    system = column(1.0)
    u = jd.solve(system.equation, system.grid, 1.0, [0.0, 0.02]).values[-1]
    np.testing.assert_allclose(u, expm(0.02 * by_hand(1.0)) @ np.ones(N), rtol=1e-8)
    np.testing.assert_allclose(u[:3], 1.0, rtol=1e-6)


@pytest.mark.parametrize("z", [-2.5, -1e-3, 0.0, 1e-3, 0.7, 30.0, 2000.0])
def test_a_slope_is_fed_in_by_the_exponential(z):
    """At the upper wall, z outwards over half a cell."""
    d, gradient = 0.3, 0.7
    walls = {"x+": jd.Neumann(gradient), "x-": jd.Flux(0.0)}
    system = LineSystem(jd.FokkerPlanck(2 * N * d * z, d, boundaries=walls), jd.Grid.uniform((0.0, 1.0, N)))
    exact = gradient * d * np.exp(np.longdouble(-z))
    np.testing.assert_allclose(system.forcing(0.0)[-1], float(exact), rtol=1e-15 * (10 + 2 * abs(z)), atol=1e-300)


@pytest.mark.parametrize("velocity", [-50.0, -1.0, 0.0, 1.0, 50.0])
def test_rates_at_a_wall_without_slope_have_exact_derivatives(velocity):
    grid = jd.Grid.uniform((0.0, 1.0, N))

    def rate(v, d, g):
        system = LineSystem(jd.FokkerPlanck(v, d, boundaries=jd.Neumann(g)), grid)
        return system.operator(0.0).down[0] + jnp.sum(system.forcing(0.0))

    slopes = jax.jit(jax.grad(rate, argnums=(0, 1, 2)))(velocity, 0.01, 0.0)
    assert np.isfinite(slopes).all()
    np.testing.assert_allclose(slopes[:2], [-N, 0.0], atol=1e-10)


@pytest.mark.parametrize("speed", [-1.0, 1.0])
def test_no_slope_where_the_diffusivity_vanishes_is_the_limit(speed):
    """D = x in the isothermal reading: what is next to the wall crosses it, either way."""
    grid, walls = jd.Grid.uniform((0.0, 1.0, N)), {"x-": jd.Neumann(0.0)}
    out = lambda least: (
        LineSystem(jd.FokkerPlanck(speed, lambda x: least + x, interpretation="isothermal", boundaries=walls), grid)
        .operator(0.0)
        .down[0]
    )
    np.testing.assert_allclose([out(0.0), out(1e-12)], -speed * N, rtol=1e-12)


def test_a_slope_where_a_drift_enters_steeply_is_refused():
    refused = r"Neumann gradient is 0.5 at x = 0, where the drift enters .* take smaller cells"
    solve = lambda equation, grid: jd.solve(equation, grid, 1.0, [0.0, 0.01])
    steep, flat = column(8.0, 0.5), column(4.0, 0.5)
    with pytest.raises(ValueError, match=refused):
        solve(steep.equation, steep.grid)
    solve(flat.equation, flat.grid)
    leaving = column(8.0, 0.5, velocity=-1.0)  # out through the same wall
    solve(jd.FokkerPlanck(-1.0, 0.01, boundaries=leaving.equation.boundaries), leaving.grid)


@pytest.mark.slow
def test_a_slope_is_refused_on_several_axes():
    grid = jd.Grid.uniform((0.0, 1.0, 6), (0.0, 2.0, 5))
    equation = jd.FokkerPlanck(lambda x, y: (1.0 + y, 0.0 * x), 0.02, boundaries={"x-": jd.Neumann(0.5)})
    with pytest.raises(ValueError, match=r"Neumann gradient is 0.5 at x = 0, y = 0.2, where the drift enters"):
        jd.solve(equation, grid, 1.0, [0.0, 0.01])
