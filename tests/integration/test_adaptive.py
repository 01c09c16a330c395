"""What depends on time on one axis: a forcing that varies, coefficients that vary, jumps and the derivatives by their times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from oracles import dense

import jaxdiff as jd
from jaxdiff.integration.quadrature import _NODES, _POWERS, _SHARES

COLUMN = jd.Grid.uniform((0.0, 10.0, 100))
TIMES = np.linspace(0.0, 8.0, 17)


def swung(equation, grid, times):
    """Cell averages from zero, for a constant A and a forcing as sin 2πt: the exponential with sine and cosine as two more rows."""
    matrix, forcing, weights = dense(equation, grid)(0.25)
    n, turn = len(weights), 2 * np.pi * np.array([[0.0, 1.0], [-1.0, 0.0]])
    whole = np.block([[matrix, forcing[:, None], np.zeros((n, 1))], [np.zeros((2, n)), turn]])
    return np.stack([scipy.linalg.expm(t * whole)[:n, -1] / weights for t in times])


def steps(solution):
    return int(solution.method.rsplit(",", 1)[1].split()[0])


@pytest.fixture(scope="module")
def sphere():
    grid = jd.Grid.radial((0.0, 1.0, 100), geometry="spherical")
    wall = jd.Flux(jd.TimeDependent(lambda t: jnp.sin(2 * jnp.pi * t)))
    return jd.Diffusion(1.0, boundaries={"r+": wall}), grid


@pytest.mark.slow
def test_a_flux_that_swings_is_followed_by_its_own_smoothness(sphere):
    times = np.array([0.0, 1.0, 2.3, 3.0])
    right = swung(*sphere, times)
    for tolerance in (1e-4, 1e-9):
        found = jd.solve(*sphere, 0.0, times, tolerance=tolerance)
        assert np.abs(found.values - right).max() < tolerance * np.abs(right).max()
        assert steps(found) < 60
    assert steps(jd.solve(*sphere, 0.0, np.linspace(0.0, 20.0, 21))) < 200


def test_the_interpolated_forcing_is_exact_for_polynomials():
    for power in range(len(_NODES)):
        np.testing.assert_allclose(_SHARES @ _NODES**power, 0.5**power, atol=1e-14)
        np.testing.assert_allclose(_NODES**power @ _POWERS, np.eye(len(_NODES))[power], atol=1e-10)


@pytest.mark.slow
def test_constants_as_functions_and_what_fades():
    grid = jd.Grid.uniform((0.0, 1.0, 50))
    constant = jd.Diffusion(0.1, source=1.0, boundaries=jd.absorbing)
    function = jd.Diffusion(0.1, source=jd.TimeDependent(lambda t, x: 1.0 + 0 * t), boundaries=jd.absorbing)
    found = jd.solve(function, grid, 0.0, [0.0, 1.0, 2.0])
    np.testing.assert_allclose(found.values, jd.solve(constant, grid, 0.0, [0.0, 1.0, 2.0]).values, atol=1e-9)
    assert steps(found) < 30
    mode = np.sin(np.pi * grid.centers[0])
    rate = 4 * 0.1 * 50**2 * np.sin(np.pi / 100) ** 2  # that of the mode on these cells
    averaged = (np.pi / 100) / np.sin(np.pi / 100)  # a cell is fed the average of its source
    source = jd.TimeDependent(lambda t, x: (rate - 1.0) * averaged * jnp.exp(-t) * jnp.sin(jnp.pi * x))
    fading = jd.solve(jd.Diffusion(0.1, source=source, boundaries=jd.absorbing), grid, mode, [0.0, 2.0], tolerance=1e-8)
    np.testing.assert_allclose(fading.values[-1], np.exp(-2.0) * mode, atol=1e-8)


def pulse(end, kind="expression"):
    value = {
        "expression": lambda: jd.TimeDependent(jd.Expression("-where(t < end, 1, 0)", end=end)),
        "python": lambda: jd.TimeDependent(lambda t: -jnp.where(t < end, 1.0, 0.0)),
        "series": lambda: jd.Series([0.0, end], [-1.0, 0.0], "previous"),
    }[kind]()
    return jd.FokkerPlanck(1.0, 0.1, boundaries={"x-": jd.Flux(value), "x+": jd.absorbing})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["expression", "series", "python"])
def test_a_pulse_at_the_inlet(kind):
    end = 0.7
    walls = lambda flux: {"x-": jd.Flux(flux), "x+": jd.absorbing}
    during = jd.solve(jd.FokkerPlanck(1.0, 0.1, boundaries=walls(-1.0)), COLUMN, 0.0, [0.0, end]).values[-1]
    after = jd.solve(jd.FokkerPlanck(1.0, 0.1, boundaries=walls(0.0)), COLUMN, during, [end, *TIMES[2:]]).values[1:]
    found = jd.solve(pulse(end, kind), COLUMN, 0.0, TIMES)
    assert np.abs(found.values[2:] - after).max() < (1e-6 if kind == "python" else 1e-9) * np.abs(after).max()
    assert steps(found) < 120


@pytest.mark.slow
def test_the_derivative_by_the_time_of_a_jump():
    f = lambda t: jd.solve(pulse(t), COLUMN, 0.0, TIMES, tolerance=1e-9).values[10, 30]

    @jax.jit
    def each(t):
        value, push = jax.linearize(f, t)  # one trace: of reverse mode this is the transpose
        return value, jax.linear_transpose(push, t)(1.0)[0], push(1.0)

    for end in (0.7, 0.5):  # at 0.5 there is an output too
        expected = (each(end + 1e-3)[0] - each(end - 1e-3)[0]) / 2e-3
        _, reverse, forward = each(end)
        assert abs(reverse - expected) < 1e-5 * abs(expected)
        assert abs(forward - reverse) < 1e-9 * abs(expected)


@pytest.mark.slow
def test_a_pulse_of_unknown_duration_is_fitted():
    times, true = np.linspace(0.5, 6.0, 23), 0.83
    values = np.asarray(jd.solve(pulse(true), COLUMN, 0.0, [0.0, *times]).values)[1:, 30]
    values = values + np.random.default_rng(0).normal(0, 1e-3, len(times))
    readings = jd.Readings(COLUMN, 0.0, times, np.full(len(times), COLUMN.centers[0][30]), values, sigma=1e-3)
    series = lambda end: pulse(end, "series")
    fit = jd.fit(series, readings, parameters={"end": jd.Positive(0.5)}, progress=False)
    assert fit.converged and abs(fit.parameters["end"] - true) < 4 * fit.standard_errors["end"] < 0.02


@pytest.mark.slow
def test_a_series_may_be_scaled_in_a_model():
    knots = np.linspace(0.0, 8.0, 9)
    inlet = jd.Series(knots, 1.0 + np.sin(knots))
    model = lambda v: jd.FokkerPlanck(v, 0.1, boundaries={"x-": jd.Flux(-v * inlet), "x+": jd.absorbing})
    values = np.asarray(jd.solve(model(1.2), COLUMN, 0.0, TIMES).values)[1:, 50]
    readings = jd.Readings(COLUMN, 0.0, TIMES[1:], np.full(16, COLUMN.centers[0][50]), values, sigma=1e-3)
    fit = jd.fit(model, readings, parameters={"v": jd.Positive(1.0)}, progress=False)
    assert abs(fit.parameters["v"] - 1.2) < 1e-6


@pytest.mark.slow
def test_moving_walls_and_coefficients_take_steps_of_their_own_smoothness():
    """CASES where steps once grew like the number of cells over the root of the tolerance."""
    swing, grid = (lambda t, x: 1 + 0.5 * jnp.sin(2 * jnp.pi * t)), jd.Grid.uniform((0.0, 1.0, 400))
    moving = jd.Diffusion(jd.TimeDependent(swing), boundaries={"x+": jd.Dirichlet(1.0)})
    assert steps(jd.solve(moving, grid, 0.0, [0.0, 1.0, 2.0])) < 200
    wall = jd.Dirichlet(jd.TimeDependent(lambda t: 100 + jnp.sin(2 * jnp.pi * t)))
    assert steps(jd.solve(jd.Diffusion(1.0, boundaries={"x+": wall}), grid, 20.0, [0.0, 1.0, 2.0])) < 60


@pytest.mark.slow
def test_errors_of_many_steps_do_not_add_up():
    """On a ring the matrices of all times share their modes, each of which has a closed form."""
    n, D = 60, 1e-3
    grid, speed = jd.Grid.uniform((0.0, 1.0, n)), lambda t: 1 + 0.5 * jnp.sin(7 * t)
    ring = jd.FokkerPlanck(jd.TimeDependent(lambda t, x: speed(t)), D, boundaries=jd.Periodic())
    found = jd.solve(ring, grid, lambda x: 1 + jnp.cos(2 * jnp.pi * x), [0.0, 10.0]).values
    t = (np.arange(20000) + 0.5) / 2000
    z = np.asarray(speed(t)) / (n * D)
    up, down = n**2 * D * z / -np.expm1(-z), n**2 * D * z / np.expm1(z)
    gain = np.exp(10 * np.mean(up * np.expm1(-2j * np.pi / n) + down * np.expm1(2j * np.pi / n)))
    exact = 1 + np.real(gain * (np.fft.fft(np.asarray(found[0]))[1] * 2 / n) * np.exp(2j * np.pi * np.arange(n) / n))
    assert np.abs(found[1] - exact).max() < 1e-6
