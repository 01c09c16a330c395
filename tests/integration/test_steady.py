"""Steady states against the limit of the matrix itself, and what has none."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from oracles import central, dense, each_way

import jaxdiff as jd

LINE, PLANE = jd.Grid.uniform((0.0, 1.0, 7)), jd.Grid.uniform((0.0, 1.0, 5), (0.0, 2.0, 6))
GRADED = jd.Grid(edges=(np.cumsum(1.5 ** np.arange(9.0)),))
RADIAL = jd.Grid.radial((0.5, 2.0, 8), geometry="cylindrical")
BALL = jd.Grid.radial((0.0, 2.0, 8), geometry="spherical")
MATRIX = np.array([[2.0, 0.7], [0.7, 1.0]])
through = {"x-": jd.Flux(-1.0), "x+": jd.Flux(1.0)}
waves = lambda x, *_: jnp.cos(2 * jnp.pi * x)
turning = (lambda x, y: jnp.sin(3 * y), lambda x, y: 1.0 - x)


def balanced(grid):
    """A source of no content."""
    source = np.random.default_rng(3).normal(size=grid.shape)
    return source - (source * np.asarray(grid.volumes)).sum() / np.asarray(grid.volumes).sum()


CLOSED = {
    "flux through": (LINE, jd.Diffusion(1.0, boundaries=through)),
    "gradients": (LINE, jd.Diffusion(lambda x: 1 + x, boundaries={"x-": jd.Neumann(-2.0), "x+": jd.Neumann(1.0)})),
    "source and sink": (LINE, jd.Diffusion(0.3, source=waves, capacity=2.0)),
    "source and wall": (LINE, jd.Diffusion(0.3, source=2.0, boundaries={"x+": jd.Flux(2.0)})),
    "ring": (LINE, jd.Diffusion(2.0, source=waves, boundaries=jd.Periodic())),
    "graded": (GRADED, jd.Diffusion(2.0, source=balanced(GRADED))),
    "radial": (RADIAL, jd.Diffusion(2.0, boundaries={"r-": jd.Flux(-4.0), "r+": jd.Flux(1.0)})),
    "ball": (BALL, jd.Diffusion(2.0, source=balanced(BALL))),
    "drift": (LINE, jd.FokkerPlanck(3.0, 1.0, boundaries=through)),
    "well": (LINE, jd.FokkerPlanck(jd.Potential(lambda x: 30 * (x - 0.6) ** 2), 0.5, boundaries=through)),
    "plane": (PLANE, jd.Diffusion(1.0, boundaries=through)),
    "rough plane": (PLANE, jd.Diffusion(lambda x, y: 1 + x * y, source=balanced(PLANE))),
    "torus": (PLANE, jd.Diffusion(jd.PerAxis(1.0, 2.0), source=balanced(PLANE), boundaries=jd.Periodic())),
    "turning": (PLANE, jd.FokkerPlanck(turning, 0.3, boundaries=through)),
    "valley": (PLANE, jd.FokkerPlanck(jd.Potential(lambda x, y: 9 * (x - y) ** 2), 0.5, boundaries=through)),
    "tensor": (PLANE, jd.Diffusion(jd.Tensor(MATRIX), boundaries=through)),
    "tensor, turning": (PLANE, jd.FokkerPlanck(turning, jd.Tensor(MATRIX), boundaries=through)),
    "box": (
        BOX := jd.Grid.uniform((0.0, 1.0, 3), (0.0, 1.0, 4), (0.0, 1.0, 5)),
        jd.Diffusion(1.0, source=balanced(BOX)),
    ),
}


LATE = {"flux through": 100.0, "graded": 1e5, "radial": 1e3, "drift": 100.0, "turning": 100.0, "tensor": 30.0}


def limit(equation, grid, start):
    """The limit of long times, from the matrix: least squares, and what of the start is kept."""
    matrix, forcing, weights = dense(equation, grid)(0.0)
    at_rest = scipy.linalg.null_space(matrix, rcond=1e-12)
    assert at_rest.shape[1] == 1
    at_rest = at_rest[:, 0] / at_rest.sum()
    moved = scipy.linalg.lstsq(matrix, -forcing)[0]
    total = np.sum(start.ravel() * weights)
    return ((moved + (total - moved.sum()) * at_rest) / weights).reshape(grid.shape)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLOSED)
def test_what_is_fed_into_a_closed_domain_and_out_of_it_moves_its_content(name):
    grid, equation = CLOSED[name]
    start = np.random.default_rng(0).random(grid.shape)
    expected = limit(equation, grid, start)
    peak = np.abs(expected).max()
    assert np.abs(jd.steady_state(equation, grid, start) - expected).max() < 1e-11 * peak
    assert np.ptp(expected) > 0.01  # it does something
    if name in LATE:
        late = jd.solve(equation, grid, start, [0.0, LATE[name]]).values[-1]
        assert np.abs(late - expected).max() < 1e-9 * peak


def test_the_same_in_the_modes_of_the_domain():
    grid = jd.Grid.uniform((0.0, 1.0, 64))
    equation = jd.Diffusion(2.0, source=waves, boundaries=jd.Periodic())
    late = jd.solve(equation, grid, 1.0, [0.0, 30.0], scheme=jd.Spectral()).values[-1]
    np.testing.assert_allclose(late, 1 + grid.average(waves) / (8 * np.pi**2), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flux through", "ring", "well", "turning"])
def test_its_derivatives(name):
    grid, equation = CLOSED[name]
    weights = np.random.default_rng(1).random(grid.shape)

    def f(p):
        if name == "flux through":  # D and the fluxes double together: make D alone depend
            varied, start = jd.Diffusion(p, boundaries=through), weights
        else:
            varied, start = jax.tree.map(lambda x: x * p, equation), weights * (2 - p)
        return jnp.sum(jd.steady_state(varied, grid, start) ** 2 * weights)

    every = jax.jit(partial(each_way, f))
    expected = float(central(lambda p: every(p)[0], 1.0))
    assert abs(expected) > 1e-3
    for derivative in every(1.0)[1:]:
        assert float(derivative) == pytest.approx(expected, rel=1e-7)


@pytest.mark.slow
def test_readings_at_the_end_of_time_tell_a_diffusivity():
    """A rod that is heated at one end and cooled as much at the other: the slope is 1/D."""
    grid = jd.Grid.uniform((0.0, 1.0, 10))
    places = np.tile(grid.centers[0], 2)
    values = (0.5 - places) / 2.0 + np.random.default_rng(0).normal(0.0, 1e-3, 20)
    readings = jd.Readings(grid, 0.0, np.inf, places, values, sigma=1e-3)
    fit = jd.fit(jd.Diffusion(jd.Positive(1.0), boundaries=through), readings, progress=False)
    error = fit.standard_errors["diffusivity"]
    assert abs(fit.parameters["diffusivity"] - 2.0) < 4 * error < 0.02


NONE = {
    "grows": jd.Diffusion(1.0, decay=-50.0, boundaries=jd.absorbing),
    "keeps": jd.FokkerPlanck(1.0, 1.0, boundaries=jd.Neumann()),
    "grows, fed with both signs": jd.Diffusion(1.0, decay=-50.0, source=waves, boundaries=jd.absorbing),
}


@pytest.mark.parametrize("name", NONE)
def test_what_grows_has_no_steady_state(name):
    with pytest.raises(ValueError, match="^there is no steady state: the solution grows, or keeps what it starts with"):
        jd.steady_state(NONE[name], LINE)


@pytest.mark.slow
def test_what_grows_in_places_and_decays_as_a_whole_has_one():
    """Also where it lies below zero."""
    equation = jd.Diffusion(1.0, decay=lambda x: -5 * (1 - x), source=-1.0, boundaries=jd.absorbing)
    late = jd.solve(equation, LINE, 1.0, [0.0, 100.0]).values[-1]
    np.testing.assert_allclose(jd.steady_state(equation, LINE), late, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_does_not_balance_is_refused(dtype):
    with jax.enable_x64(dtype == np.float64):
        flow = lambda out: jd.Diffusion(1.0, boundaries={"x-": jd.Flux(-0.1), "x+": jd.Flux(out)})
        state = jd.steady_state(flow(0.1), LINE, 0.0)
        np.testing.assert_allclose(state, 0.1 * (0.5 - LINE.centers[0]), atol=1e-7)
        with pytest.raises(ValueError, match="^there is no steady state: the domain is closed and gains"):
            jd.steady_state(flow(0.10001), LINE, 0.0)


@pytest.mark.slow
def test_what_leaves_and_is_not_replaced_ends_at_zero():
    assert not np.any(jd.steady_state(jd.Diffusion(1.0, boundaries={"x-": jd.absorbing}), LINE, 1.0))
