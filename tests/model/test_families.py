"""Families of functions of position: what they are, what they refuse, and a landscape found by them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import exponential
from scipy.interpolate import CubicSpline

import jaxdiff as jd
from jaxdiff.inference.uncertainty import _invert
from jaxdiff.parameters import plain

RNG = np.random.default_rng(0)
PLANE = jd.Grid.uniform((0.0, 1.0, 9), (0.0, 1.0, 11))


def test_a_polynomial_of_several_coordinates():
    c, points = RNG.normal(size=(3, 4, 2)), RNG.normal(size=(3, 20))
    found = jax.vmap(jd.Polynomial(c))(*points)
    np.testing.assert_allclose(found, np.polynomial.polynomial.polyval3d(*points, c), rtol=1e-12)
    found = jax.vmap(jd.Polynomial(c[..., 0], positive=True))(*points[:2])
    np.testing.assert_allclose(found, np.exp(np.polynomial.polynomial.polyval2d(*points[:2], c[..., 0])), rtol=1e-12)


@pytest.mark.slow
def test_a_spline_of_two_coordinates():
    """A natural spline along every line of one direction, then along the other, and linear beyond the knots."""
    x, y, values = np.array([0.0, 0.3, 0.5, 1.0]), np.array([-1.0, 0.0, 2.0]), RNG.uniform(0.5, 2.0, (4, 3))
    a, b = RNG.uniform(0, 1, 30), RNG.uniform(-1, 2, 30)

    def expected(values):
        rows = CubicSpline(x, values, bc_type="natural")(a)  # (30, 3)
        return np.array([CubicSpline(y, row, bc_type="natural")(at) for row, at in zip(rows, b)])

    at = jax.jit(lambda a, b, spline: jax.vmap(spline)(a, b))
    np.testing.assert_allclose(at(a, b, plain(jd.Spline((x, y), values))), expected(values), rtol=1e-12)
    found = at(a, b, plain(jd.Spline((x, y), values, positive=True)))
    np.testing.assert_allclose(found, np.exp(expected(np.log(values))), rtol=1e-12)
    a[:3], b[:3] = (1.0, 2.0, 3.0), 0.5
    assert float(jd.Spline((x, y), jd.Fixed(values))(a[0], b[0])) == pytest.approx(expected(values)[0], rel=1e-12)
    beyond = at(a, b, plain(jd.Spline((x, y), values)))
    assert float(beyond[2] - beyond[1]) == pytest.approx(float(beyond[1] - beyond[0]))


@pytest.mark.slow
def test_a_network_of_two_coordinates():
    network = jd.MLP(5, 1, key=jax.random.key(1), inputs=2, positive=True)
    values = lambda network: jd.solve(jd.Diffusion(network), PLANE, lambda x, y: x * y, [0.0, 0.1]).values[-1]
    other = plain(network)
    by_hand = lambda x, y: jax.nn.softplus(
        other.layers[1].weight[0] @ jnp.tanh(other.layers[0].weight @ jnp.array([x, y]) + other.layers[0].bias)
        + other.layers[1].bias[0]
    )
    np.testing.assert_allclose(values(network), values(by_hand), atol=1e-13)
    with pytest.raises(ValueError, match="number of coordinates, time among them, from 1 to 4, got 0"):
        jd.MLP(5, 1, key=jax.random.key(1), inputs=0)


@pytest.mark.parametrize(
    "curve",
    [jd.MLP(5, 1, key=jax.random.key(1)), jd.Polynomial([1.0]), jd.Spline([0.0, 1.0], [1.0, 1.0])],
    ids=lambda curve: type(curve).__name__,
)
def test_one_coordinate_where_there_are_two(curve):
    name = rf"called here with 2 arguments, got {type(curve).__name__}\(x\); write one that takes so many"
    with pytest.raises(TypeError, match=name):
        jd.solve(jd.Diffusion(curve), PLANE, 1.0, [0.0, 0.1])


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: jd.Spline(([0.0, 1.0], [0.0, 1.0, 2.0]), np.ones((3, 2))), r"got 2 × 3 knots and values of shape \(3, 2\)"),
        (lambda: jd.Spline(([0.0, 1.0], [0.0, 0.0]), np.ones((2, 2))), r"two increasing positions, got \[0. 0.\]"),
        (lambda: jd.Spline([0.0, np.nan], [1.0, 2.0]), "two increasing positions, got .* nan"),
    ],
)  # fmt: skip
def test_knots_that_are_none(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_coefficients_that_are_marked_by_themselves():
    trap = jd.Polynomial([[0.0, 0.0, jd.Positive(2.0)], [0.0, jd.Free(0.5), 0.0], [jd.Positive(1.0), 0.0, 0.0]])
    assert float(plain(trap)(3.0, 2.0)) == pytest.approx(9.0 + 3.0 + 8.0)
    row = jd.Polynomial([0.0, jd.Free(0.5), 2.0])
    assert float(plain(row)(3.0)) == pytest.approx(19.5)
    with pytest.raises(ValueError, match="as many in each row for several coordinates; fill up with zeros"):
        jd.Polynomial([[0.0, jd.Free(1.0)], [1.0]])


@pytest.mark.slow
def test_a_landscape_by_a_spline_of_which_one_value_is_held():
    """Each value within four standard errors of U = x²/2; where none is held, none can be told, and the note says why."""
    grid, knots = jd.Grid.uniform((-2.0, 2.0, 40)), np.array([-1.0, 0.0, 1.0])
    start, times = lambda x: jnp.exp(-2 * (x - 0.5) ** 2), np.array([0.2, 0.5, 1.5])
    truth = jd.FokkerPlanck(jd.Potential(jd.Spline(knots, knots**2 / 2)), 0.5)
    states = exponential(plain(truth), grid, np.append(0.0, times))(grid.average(start))[1:]
    counts = [np.random.default_rng(0).multinomial(5000, u / u.sum()) for u in states]
    histograms = jd.Histograms(grid, start, times, counts)

    def model(others):
        energy = jd.Spline(knots, jd.Fixed(jnp.append(0.5, others)))
        return jd.FokkerPlanck(jd.Potential(energy), 0.5)

    fit = jd.fit(model, histograms, parameters={"others": jd.Free(np.zeros(2))}, progress=False)
    away = np.abs(fit.parameters["others"] - np.array([0.0, 0.5]))
    assert (away < 4 * fit.standard_errors["others"]).all() and (fit.standard_errors["others"] < 0.1).all()
    free = jd.FokkerPlanck(jd.Potential(jd.Spline(knots, np.zeros(3))), 0.5)
    assert "of a potential the differences alone count" in str(jd.fit(free, histograms, progress=False))


@pytest.mark.slow
def test_a_landscape_of_two_wells_is_found():
    """U = (x² − 1)² + y² + 0.3 x y from counts of 10,000 particles at three times, within four standard errors."""
    grid = jd.Grid.uniform((-2.0, 2.0, 24), (-1.8, 1.8, 20))
    truth = np.zeros((5, 3))
    truth[[0, 2, 4, 0, 1], [0, 0, 0, 2, 1]] = 1.0, -2.0, 1.0, 1.0, 0.3
    model = lambda c: jd.FokkerPlanck(jd.Potential(jd.Polynomial(c)), 0.5)
    start = lambda x, y: jnp.exp(-((x - 1) ** 2 + y**2) / 0.18)
    states = exponential(model(truth), grid, [0.0, 0.2, 0.6, 2.0])(grid.average(start))[1:]
    rng = np.random.default_rng(2)
    counts = [rng.multinomial(10_000, u.ravel() / u.sum()).reshape(u.shape) for u in states]
    wanted = {"a": (2, 0), "b": (4, 0), "c": (0, 2), "d": (1, 1)}

    def landscape(**numbers):
        c = jnp.zeros((5, 3))
        for name, place in wanted.items():
            c = c.at[place].set(numbers[name])
        return model(c)

    starts = {"a": jd.Free(-1.0), "b": jd.Free(0.5), "c": jd.Free(0.5), "d": jd.Free(0.0)}
    fit = jd.fit(landscape, jd.Histograms(grid, start, [0.2, 0.6, 2.0], counts), parameters=starts, progress=False)
    assert fit.converged
    for name, place in wanted.items():
        assert abs(fit.parameters[name] - truth[place]) < 4 * fit.standard_errors[name] < 0.2


def test_no_value_of_a_potential_is_told_apart_from_a_constant():
    """Also one that the data hardly see: information on differences alone, a thousand times less at the last knot."""
    differences = np.diff(np.eye(9), axis=0) * np.append(np.full(7, 30.0), 0.9)[:, None]
    curvature = np.pad(differences.T @ differences, (0, 1))
    curvature[9, 9] = 5.0  # of another parameter
    lost, _ = _invert(curvature[None], np.zeros((1, 10), bool))
    np.testing.assert_array_equal(lost[0], [True] * 9 + [False])


def test_the_roughness_of_a_spline_is_the_integral_of_its_squared_bend():
    knots = np.array([0.0, 0.3, 1.0, 1.4, 2.5])
    values = np.array([1.0, 2.0, 0.5, 3.0, 1.5])
    second = CubicSpline(knots, np.log(values), bc_type="natural").derivative(2)
    nodes, weights = np.polynomial.legendre.leggauss(3)
    middle, half = (knots[1:] + knots[:-1]) / 2, np.diff(knots) / 2
    exact = np.sum(second(middle[:, None] + half[:, None] * nodes) ** 2 * weights * half[:, None])
    with jax.enable_x64(True):
        r = plain(jd.Spline(knots, values, positive=True, smooth=True)).roughness()
        assert float(r @ r) == pytest.approx(exact, rel=1e-12)
        bent = plain(jd.Spline((knots, np.array([0.0, 1.0, 3.0])), np.outer(np.log(values), np.ones(3)), smooth=True))
        assert float(jnp.sum(bent.roughness() ** 2)) == pytest.approx(3 * exact, rel=1e-12)
        assert np.allclose(plain(jd.Spline(knots, 2 - knots, smooth=2.0)).roughness(), 0.0, atol=1e-12)
