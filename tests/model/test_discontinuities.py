"""Two media as a function: seen where they meet, wherever in a cell, and joined in series."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import jaxdiff as jd
from jaxdiff.model.discontinuities import breakpoints

ENDS = {"x-": jd.Dirichlet(1.0), "x+": jd.Dirichlet(0.0)}
PLACES = (0.5, 0.3, 0.512, 0.3337, 0.9951)  # at a face, at another, in cells; the last between a centre and a wall
LAYERS = {
    "function": lambda a, b, c: lambda x: jnp.where(x < a, b, c),
    "text": lambda a, b, c: jd.Expression("where(x < a, b, c)", a=a, b=b, c=c),
    "heaviside": lambda a, b, c: jd.Expression("b + (c - b)*heaviside(x - a)", a=a, b=b, c=c),
    "nonlinear": lambda a, b, c: lambda x: jnp.where(x**2 < a * a, b, c),
    "looked up": lambda a, b, c: lambda x: jnp.stack([b, c])[jnp.searchsorted(jnp.array([a]), x)],
    "time": lambda a, b, c: jd.TimeDependent(lambda t, x: jnp.where(x < a, b, c) + 0 * t),
}


def line(n):
    return jd.Grid.uniform((0.0, 1.0, n))


def flux(diffusivity, grid=None):
    """Through the lower wall, at rest."""
    grid = line(20) if grid is None else grid
    u = jd.steady_state(jd.Diffusion(diffusivity, boundaries=ENDS), grid)
    return diffusivity(0.0) * (1 - u[0]) / (grid.centers[0][0] - grid.edges[0][0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYERS)
def test_layers_in_series_wherever_they_meet(kind):
    """The steady profile and flux are exact at every centre: J = 1/(a/D₁ + (1 − a)/D₂)."""
    grid = line(20)
    x = grid.centers[0]

    @jax.jit
    def rest(a, contrast):
        equation = jd.Diffusion(LAYERS[kind](a, 1.0, contrast), boundaries=ENDS)
        if kind != "time":
            return jd.steady_state(equation, grid)
        start, long = lambda x: 1 - x, [0.0, 50.0 / 1e-3]
        return jd.solve(equation, grid, start, long, stepper=jd.BackwardEuler(), substeps=60).values[-1]

    for a in PLACES:
        for contrast in (10.0, 1e-3):
            resistance = lambda y, a=a, contrast=contrast: np.minimum(y, a) + np.maximum(y - a, 0) / contrast
            expected, name = 1 - resistance(x) / resistance(1.0), f"{a}, {contrast}"
            np.testing.assert_allclose(rest(a, contrast), expected, atol=1e-9, err_msg=name)
            if kind == "function" and (a, contrast) == (PLACES[2], 10.0):  # numbers that are known when it is compiled
                known = jd.steady_state(jd.Diffusion(LAYERS[kind](a, 1.0, contrast), boundaries=ENDS), grid)
                np.testing.assert_allclose(known, expected, atol=1e-9, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("geometry", ["cylindrical", "spherical"])
def test_shells_in_series(geometry):
    """∫ dr/(A D) between the shells; the rest is of second order."""
    a, inner, outer = 1.513, 1.0, 2.0
    place = (lambda r: np.log(r)) if geometry == "cylindrical" else (lambda r: -1 / r)
    exact = 1 / ((place(a) - place(inner)) / 1.0 + (place(outer) - place(a)) / 0.1)
    off = []
    for n in (20, 40):
        grid = jd.Grid.radial((inner, outer, n), geometry=geometry)
        walls = {"r-": jd.Dirichlet(1.0), "r+": jd.Dirichlet(0.0)}
        u = jd.steady_state(jd.Diffusion(lambda r: jnp.where(r < a, 1.0, 0.1), boundaries=walls), grid)
        power = 1 if geometry == "cylindrical" else 2
        off.append(abs(float(0.1 * u[-1] / (0.5 / n)) * outer**power / exact - 1))
    assert off[0] < 2e-3 and off[1] < off[0] / 3


@pytest.mark.slow
def test_the_transient_converges_to_that_of_fine_cells():
    """To first order in the cell, as the place of a jump within one counts in the content of the cell alone."""
    a = 1 / 3 + 0.004
    layers = lambda contrast, x: jnp.where(x < a, 1.0, contrast)

    def last(n, contrast):
        equation = jd.Diffusion(Partial(layers, contrast), boundaries=ENDS)  # one program for both
        return np.asarray(jd.solve(equation, line(n), 0.0, [0.0, 0.05]).values[-1])

    for contrast in np.array([10.0, 1e3]):
        fine = last(2000, contrast)
        for n in (20, 100):
            assert np.abs(last(n, contrast) - fine.reshape(n, -1).mean(1)).max() < 0.2 / n, (contrast, n)


@pytest.mark.slow
def test_layers_on_two_axes_and_around_a_ring():
    a, plane = 0.512, jd.Grid.uniform((0.0, 1.0, 20), (0.0, 1.0, 3))
    u = jd.steady_state(jd.Diffusion(lambda x, y: jnp.where(x < a, 1.0, 10.0), boundaries=ENDS), plane)
    resistance = lambda y: np.minimum(y, a) + np.maximum(y - a, 0) / 10
    np.testing.assert_allclose(u, np.tile((1 - resistance(plane.centers[0]) / resistance(1.0))[:, None], 3), atol=1e-9)
    # around a ring media meet at the seam too: as an array over cells
    ring, circle = jd.Grid.uniform((0.0, 1.0, 20)), jd.Periodic()
    last = lambda d: jd.solve(jd.Diffusion(d, boundaries=circle), ring, lambda x: jnp.cos(2 * jnp.pi * x), [0.0, 0.02])
    function, array = last(lambda x: jnp.where(x < 0.5, 1.0, 10.0)), last(np.where(ring.centers[0] < 0.5, 1.0, 10.0))
    np.testing.assert_allclose(function.values[-1], array.values[-1], rtol=1e-10)


def test_a_thin_layer_within_a_cell():
    barrier = lambda a, x: jnp.where(jnp.abs(x - a) < 0.004, 1e-3, 1.0)
    for a in np.array([0.5123, 0.5006]):
        assert float(flux(Partial(barrier, a))) == pytest.approx(1 / (0.992 + 8.0), rel=1e-9)


@pytest.mark.slow
def test_the_derivative_by_the_place_of_a_jump():
    """J = 1/(a/D₁ + (1 − a)/D₂) has dJ/da = −J² (1/D₁ − 1/D₂), of a Python function too, in both modes."""
    for kind in ("function", "text", "nonlinear"):
        through = lambda a, kind=kind: flux(LAYERS[kind](a, 1.0, 10.0))

        @jax.jit
        def both(a):  # of reverse mode the transpose is, which wants no trace of its own
            value, forward = jax.linearize(through, a)  # noqa: B023
            return value, forward(1.0), jax.linear_transpose(forward, a)(1.0)[0] if kind == "nonlinear" else None  # noqa: B023

        value, slope, reverse = both(0.512)
        assert float(slope) == pytest.approx(-(float(value) ** 2) * 0.9, rel=1e-8)
    assert float(reverse) == pytest.approx(float(slope), rel=1e-8)


@pytest.mark.slow
def test_a_diffusivity_and_the_place_where_it_jumps_are_fitted():
    grid, a = line(20), 0.513
    truth = jd.Diffusion(lambda x: jnp.where(x < a, 1.0, 0.1), boundaries=ENDS)
    times = np.repeat([0.1, 0.3, 1.0], 5)
    places = np.tile([0.225, 0.475, 0.525, 0.625, 0.825], 3)
    fine = jd.Grid.uniform((0.0, 1.0, 1000))
    states = jd.solve(truth, fine, 0.0, [0.0, 0.1, 0.3, 1.0]).values[1:]
    values = np.concatenate([fine.interpolate(u, places[:5]) for u in states])
    model = lambda d, a: jd.Diffusion(lambda x: jnp.where(x < a, 1.0, d), boundaries=ENDS)
    readings = jd.Readings(grid, 0.0, times, places, values, sigma=2e-3)
    fit = jd.fit(model, readings, parameters={"d": jd.Positive(0.3), "a": jd.Bounded(0.4, 0.2, 0.8)}, progress=False)
    assert fit.converged
    assert fit.parameters["d"] == pytest.approx(0.1, abs=4 * fit.standard_errors["d"])
    assert fit.parameters["a"] == pytest.approx(a, abs=4 * fit.standard_errors["a"])
    assert fit.standard_errors["a"] < 0.02


@pytest.mark.parametrize(
    "function",
    [lambda x: 1 + x**2, lambda x: jnp.exp(-x), lambda x: jnp.maximum(x, 0.3) + 1.0, jd.Polynomial([1.0, 2.0])],
)
def test_where_nothing_is_compared_nothing_is_looked_for(function):
    edges = jnp.linspace(0.0, 1.0, 6)
    assert breakpoints(function, edges[:-1], edges[1:]) is None


@pytest.mark.parametrize(
    "function, jumps",
    [
        (lambda x: jnp.where(x < 0.33, 1.0, 2.0), [0.33]),
        (lambda x: jnp.where((x > 0.31) & (x <= 0.37), 1.0, 2.0), [0.31, 0.37]),
        (lambda x: jnp.where((x - 0.5) ** 2 < 0.01**2, 1.0, 2.0), [0.49, 0.51]),
        (lambda x: jnp.floor(3 * x), [1 / 3, 2 / 3]),
        (lambda x: jnp.round(3 * x), [1 / 6, 1 / 2, 5 / 6]),
        (lambda x: jnp.array([1.0, 5.0, 2.0])[(3 * x).astype(int)], [1 / 3, 2 / 3]),
        (jax.checkpoint(lambda x: jnp.where(x < 0.33, 1.0, 2.0)), [0.33]),
        (lambda x: jnp.mod(x, 0.31), [0.31, 0.62, 0.93]),
        (lambda x: jnp.sign(x - 0.77), [0.77]),
        (lambda x: jnp.array([1.0, 2.0, 3.0])[jnp.searchsorted(jnp.array([0.22, 0.54]), x)], [0.22, 0.54]),
        (lambda x: jnp.piecewise(x, [x < 0.21, x >= 0.21], [1.0, 2.0]), [0.21]),
        (lambda x: jax.lax.cond(x < 0.21, lambda: 1.0, lambda: 2.0), [0.21]),
        (lambda x: jnp.where(jnp.exp(-9 * x) > 0.03, 1.0, 2.0), [np.log(1 / 0.03) / 9]),
    ],
)
def test_where_a_function_jumps(function, jumps):
    edges = jnp.linspace(0.0, 1.0, 6)
    found = np.asarray(jax.jit(lambda edges: breakpoints(function, edges[:-1], edges[1:]))(edges)).ravel()
    inner = found[np.abs(found[:, None] - np.asarray(edges)).min(1) > 1e-9]
    np.testing.assert_allclose(np.unique(np.round(inner, 9)), np.round(jumps, 9), atol=1e-9)


@pytest.mark.slow
def test_jumps_outside_jit_are_those_within():
    edges = np.linspace(0.0, 1.0, 6)
    look = lambda edges: breakpoints(lambda x: jnp.where((x - 0.5) ** 2 < 0.01**2, 1.0, 2.0), edges[:-1], edges[1:])
    np.testing.assert_allclose(look(edges), jax.jit(look)(edges), atol=1e-12)
