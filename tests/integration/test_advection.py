"""Drift that carries: exponentials of matrices that are far from normal, against SciPy's of the same matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
from oracles import dense, each_way, exponential

import jaxdiff as jd

N = 160
BUMP = lambda x: jnp.exp(-((x - 2.0) ** 2) / 0.08)
COLUMN = jd.Grid.uniform((0.0, 10.0, N))
TIMES = np.array([0.0, 0.4, 1.1, 3.0])


def away(equation, grid, initial, times, exact=None, **options):
    """The largest error of a solve over the peak at its time, or a thousandth of the start's."""
    solution = jd.solve(equation, grid, initial, times, **options)
    found = np.asarray(solution.values, float)
    right = (exact or exponential(equation, grid, times))(found[0])
    peak = np.maximum(np.abs(right).max(1), 1e-3 * np.abs(right[0]).max())
    return float((np.abs(found - right).max(1) / peak).max()), found, solution


@pytest.mark.slow
def test_the_column_that_ended_at_minus_two_hundred():
    grid = jd.Grid.uniform((0.0, 10.0, 400))
    values = jd.solve(jd.FokkerPlanck(1.0, 0.03), grid, BUMP, [0.0, 3.0]).values
    assert abs(float(values[-1].max()) - 0.41675432) < 1e-8 and float(values[-1].min()) > -1e-12
    shown = jd.solve(jd.FokkerPlanck(1.0, 0.03), grid, BUMP, [0.0, 1.0, 3.0], progress=True).values
    np.testing.assert_allclose(shown[-1], values[-1], atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("peclet", [0.0, 20.0, 60.0, 100.0, 333.0, 1000.0, 1e4])
def test_a_column_keeps_its_promise_at_any_peclet_number(peclet):
    equation = jd.FokkerPlanck(1.0, 10.0 / peclet) if peclet else jd.FokkerPlanck(0.0, 0.03)
    exact = exponential(equation, COLUMN, TIMES)
    for tolerance, promise in ((None, 1e-9), (1e-3, 1e-3), (1e-6, 1e-6), (1e-12, 1.5e-12)):
        error, found, _ = away(equation, COLUMN, BUMP, TIMES, exact, tolerance=tolerance)
        assert error < promise
        assert found.min() > -promise * found.max()
        np.testing.assert_allclose(found.sum(1), found[0].sum(), rtol=2e-12)


WALLS = {
    "closed": {},
    "absorbing": {"boundaries": jd.absorbing},
    "inlet": {"boundaries": {"x-": jd.Flux(-1.0), "x+": jd.Neumann(0.0)}},
    "exchange": {"boundaries": {"x-": jd.Dirichlet(1.0), "x+": jd.Robin(0.7, 0.2)}},
    "ring": {"boundaries": jd.Periodic()},
    "loss": {"boundaries": jd.absorbing, "killing": 0.8},
    "growth": {"killing": -1.5},
}


@pytest.mark.slow
@pytest.mark.parametrize("walls", WALLS)
def test_every_wall(walls):
    for speed, diffusivity in ((1.0, 0.01), (-3.0, 0.002)):
        assert away(jd.FokkerPlanck(speed, diffusivity, **WALLS[walls]), COLUMN, BUMP, TIMES)[0] < 1e-9


@pytest.mark.parametrize("sigmas", [3.0, 8.0, 14.0, 20.0])
def test_a_trap_entered_from_far_out(sigmas):
    grid = jd.Grid.uniform((-25.0, 25.0, 200))
    equation = jd.FokkerPlanck(jd.Expression("-k*x", k=1.0), 1.0)
    start = np.exp(-((grid.centers[0] + sigmas) ** 2) / 0.5)
    assert away(equation, grid, start, [0.0, 0.3, 1.0, 20.0])[0] < 1e-9


@pytest.mark.parametrize("height", [1.0, 10.0, 40.0])
def test_a_double_well_from_anywhere(height):
    grid = jd.Grid.uniform((-2.0, 2.0, 120))
    equation = jd.FokkerPlanck(jd.Potential(jd.Polynomial(height * np.array([1.0, 0.0, -2.0, 0.0, 1.0]))), 1.0)
    times = [0.0, 1e-3, 0.1, 10.0]
    exact = exponential(equation, grid, times)
    for place in (-1.95, -1.0, 0.0, 0.6):
        assert away(equation, grid, grid.delta(place), times, exact)[0] < 1e-9


@pytest.mark.slow
def test_other_grids_and_coefficients():
    x = np.linspace(0.0, 1.0, 101)
    graded = jd.Grid(edges=(10.0 * x**2 + 0.01 * x,))
    cells = 10.0 ** np.linspace(-4.0, 0.0, 100)
    assert away(jd.FokkerPlanck(1.0, cells), graded, np.exp(-((graded.centers[0] - 2.0) ** 2)), TIMES)[0] < 1e-9
    for geometry in ("spherical", "cylindrical"):
        ball = jd.Grid.radial((0.0, 1.0, 100), geometry=geometry)
        start = np.exp(-((ball.centers[0] - 0.5) ** 2) / 0.01)
        assert away(jd.FokkerPlanck(-2.0, 0.01), ball, start, [0.0, 0.1, 1.0])[0] < 1e-9


@pytest.mark.slow
def test_fifty_times_and_a_thousand_cells():
    grid = jd.Grid.uniform((0.0, 1.0, 1000))
    start = np.exp(-(((grid.centers[0] - 0.2) / 0.03) ** 2))
    times = np.linspace(0.0, 0.5, 51)
    found = np.asarray(jd.solve(jd.FokkerPlanck(1.0, 1e-3), grid, start, times).values)
    right = exponential(jd.FokkerPlanck(1.0, 1e-3), grid, times[[0, 1, 50]])(start)
    np.testing.assert_allclose(found[[1, 50]], right[1:], atol=1e-9)


@pytest.mark.slow
def test_the_same_under_jit_vmap_and_with_derivatives():
    x = COLUMN.centers[0]
    start = np.exp(-((x - 2.0) ** 2) / 0.08)
    run = lambda p: jd.solve(jd.FokkerPlanck(p[0], p[1]), COLUMN, start, TIMES).values[-1]
    pairs, p = np.array([[1.0, 0.5], [1.0, 0.01], [2.0, 0.002]]), np.array([1.0, 0.01])
    near = [p + share * h for h in np.diag([1e-3, 1e-4]) for share in (0.5, -0.5, 1.0, -1.0)]
    seen = lambda p: jnp.sum(run(p) * np.cos(x))
    every = jax.jit(lambda pairs, p: (jax.vmap(run)(pairs), *each_way(seen, p)[1:]))
    batch, reverse, forward = map(np.asarray, every(np.stack([*pairs, *near]), p))
    for pair, found in zip(pairs, batch[:3], strict=True):
        right = exponential(jd.FokkerPlanck(*pair), COLUMN, TIMES[[0, -1]])(start)[-1]
        assert np.abs(found - right).max() < 1e-9 * np.abs(right).max()
    np.testing.assert_allclose(reverse, forward, rtol=1e-10)
    values = (batch[3:] @ np.cos(x)).reshape(2, 4)
    for slope, step, (half, half_below, whole, whole_below) in zip(reverse, (1e-3, 1e-4), values, strict=True):
        expected = (4 * (half - half_below) / step - (whole - whole_below) / (2 * step)) / 3
        assert abs(slope - expected) < 1e-6 * abs(expected)


@pytest.mark.slow
def test_axes_that_carry():
    """Products of exponentials per axis, and Chebyshev polynomials where the axes are not separable."""
    plane = jd.Grid.uniform((0.0, 1.0, 40), (0.0, 1.0, 30))
    x, y = plane.centers
    start = np.exp(-((x[:, None] - 0.2) ** 2 + (y - 0.3) ** 2) / 0.01)
    swirl = (lambda x, y: 1.0 - 0.5 * y, lambda x, y: 0.5 + 0.3 * x)
    for drift in ((1.0, 0.5), swirl):
        equation = jd.FokkerPlanck(drift, 0.002)
        matrix = dense(equation, plane)(0.0)[0]
        right = scipy.sparse.linalg.expm_multiply(scipy.sparse.csr_array(0.4 * matrix), start.ravel())
        found = np.asarray(jd.solve(equation, plane, start, [0.0, 0.4]).values[-1]).ravel()
        assert np.abs(found - right).max() < 1e-9 * right.max()


@pytest.mark.slow
def test_series_at_the_inlet_and_fourth_order():
    times = np.linspace(0.0, 6.0, 61)
    inlet = jd.Flux(jd.Series(times, -1.0 - np.sin(times)))
    equation = jd.FokkerPlanck(1.0, 0.01, boundaries={"x-": inlet, "x+": jd.Neumann(0.0)})
    found = np.asarray(jd.solve(equation, COLUMN, 0.0, [0.0, 2.0, 6.0]).values)
    fine = np.asarray(jd.solve(equation, COLUMN, 0.0, [0.0, *times[1:]], tolerance=1e-12).values)
    np.testing.assert_allclose(found[1:], fine[[20, 60]], atol=2e-9)
    smooth = jd.solve(jd.FokkerPlanck(1.0, 0.05), COLUMN, BUMP, TIMES, scheme=jd.FiniteVolume(order=4)).values
    np.testing.assert_allclose(smooth.sum(1), smooth[0].sum(), rtol=1e-11)


def test_what_cannot_be_held_is_said(monkeypatch):
    with pytest.raises(
        ValueError, match="tolerance 1e-14 of the peak is below what roundoff leaves; take 1e-12 or more"
    ):
        jd.solve(jd.FokkerPlanck(1.0, 0.01), COLUMN, BUMP, TIMES, tolerance=1e-14)
    monkeypatch.setattr("jaxdiff.integration.segments.MOST_PARTS", 1)
    with pytest.raises(ValueError, match="of the peak was not reached in 1 exponentials an interval; loosen it"):
        jd.solve(jd.FokkerPlanck(1.0, 1e-4), COLUMN, BUMP, TIMES)


def test_other_numbers_compile_nothing(monkeypatch):
    from jaxdiff.integration import segments

    equation, traced = lambda d: jd.FokkerPlanck(1.0, d), []
    assert "in 2 parts" in jd.solve(equation(2e-4), COLUMN, BUMP, TIMES).method
    original = segments._Run.__call__
    monkeypatch.setattr(segments._Run, "__call__", lambda *a: traced.append(1) or original(*a))
    jd.solve(equation(3e-4), COLUMN, BUMP, TIMES)
    jd.solve(equation(0.05), COLUMN, BUMP, TIMES)
    assert not traced
