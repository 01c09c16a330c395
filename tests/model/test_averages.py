"""Sources and starts that are narrower than a cell: seen whole, or told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

LINE = jd.Grid.uniform((0.0, 10.0, 10))
PLANE = jd.Grid.uniform((0.0, 8.0, 8), (0.0, 20.0, 4))  # cells of 1 × 5
BALL = jd.Grid.radial((0.0, 2.0, 8), geometry="spherical")
TUBE = jd.Grid.radial((0.0, 2.0, 8), (0.0, 4.0, 6), geometry="cylindrical")
bell = lambda x, m, s: jnp.exp(-((x - m) ** 2) / (2 * s**2)) / (s * np.sqrt(2 * np.pi))

WHOLE = {
    "a width of 0.02": (LINE, lambda x: bell(x, 4.3, 0.02), 1.0),
    "at a face": (LINE, lambda x: bell(x, 4.0, 0.02), 1.0),
    "a box": (LINE, lambda x: jnp.where(jnp.abs(x - 4.03) < 0.01, 50.0, 0.0), 1.0),
    "a box of a count": (LINE, lambda x: jnp.where((x > 4.1) & (x < 4.3), 5, 0), 1.0),
    "two axes": (PLANE, lambda x, y: bell(x, 3.4, 0.2) * bell(y, 8.1, 0.2), 1.0),
    "a disc": (PLANE, lambda x, y: jnp.where(jnp.hypot(x - 3.4, y - 8.1) < 1.3, 1.0, 0.0), np.pi * 1.3**2),
    "a shell": (BALL, lambda r: bell(r, 1.03, 0.005), 4 * np.pi * (1.03**2 + 0.005**2)),
    "a ring": (TUBE, lambda r, z: bell(r, 1.03, 0.02) * bell(z, 2.05, 0.02), 2 * np.pi * 1.03),
    "of both signs": (LINE, lambda x: bell(x, 4.3, 0.02) - 3 * bell(x, 7.7, 0.02), -2.0),
}  # fmt: skip


@pytest.mark.parametrize("case", WHOLE)
def test_an_average_sees_all_of_it(case):
    grid, function, whole = WHOLE[case]
    assert float(grid.integrate(grid.average(function))) == pytest.approx(whole, rel=3e-3 if case == "a disc" else 2e-4)


def test_a_solution_keeps_what_it_starts_with():
    u = jd.solve(jd.Diffusion(1.0), LINE, lambda x: bell(x, 4.3, 0.02), [0.0, 0.1]).values
    np.testing.assert_allclose(jax.vmap(LINE.integrate)(u), 1.0, rtol=1e-6)


def test_a_smooth_function_is_averaged_as_it_was():
    nodes, weights = np.polynomial.legendre.leggauss(5)
    x = LINE.centers[0][:, None] + 0.5 * nodes
    np.testing.assert_allclose(LINE.average(lambda x: jnp.cos(x / 3)), np.cos(x / 3) @ weights / 2, rtol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1, 2])
def test_a_source_is_that_of_its_averages(dim):
    """One as wide as a cell in full; far narrower it is refused, with a mend that works."""
    grid, wide = ((LINE, lambda x: bell(x, 4.3, 1.0)), (PLANE, lambda x, y: bell(x, 3.4, 0.9) * bell(y, 8.1, 3.0)))[
        dim - 1
    ]
    run = lambda source: grid.integrate(jd.solve(jd.Diffusion(1.0, source=source), grid, 0.0, [0.0, 0.1]).values[-1])
    assert float(run(wide)) == pytest.approx(0.1 * float(grid.integrate(grid.average(wide))), rel=1e-3)
    narrow = (lambda x: bell(x, 4.3, 0.02), lambda x, y: bell(x, 3.4, 0.2) * bell(y, 8.1, 0.2))[dim - 1]
    with pytest.raises(ValueError, match=r"source changes too fast within a cell at x = .* pass cell averages"):
        run(narrow)
    with pytest.raises(ValueError, match="source changes too fast within a cell"):
        run(jd.TimeDependent((lambda t, x: narrow(x)) if dim == 1 else (lambda t, x, y: narrow(x, y))))
    assert float(run(grid.average(narrow))) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.slow
def test_a_box_as_source_has_all_its_heat_and_exact_derivatives():
    def heat(a):
        source = lambda x: jnp.where(jnp.abs(x - a) < 0.13, 1.0, 0.0)
        u = jd.solve(jd.Diffusion(1.0, source=source), LINE, 0.0, [0.0, 0.5]).values[-1]
        return LINE.integrate(u), jnp.sum(u * LINE.centers[0])

    places = np.array([4.9, 4.9 + 1e-5, 4.9 - 1e-5])
    value, slope = jax.jit(lambda a: jax.lax.map(lambda a: jax.jvp(heat, (a,), (1.0,)), a))(places)
    assert float(value[0][0]) == pytest.approx(0.5 * 0.26, rel=1e-10)
    central = (value[1][1] - value[1][2]) / 2e-5
    assert abs(float(slope[0][0])) < 1e-10 and float(slope[1][0]) == pytest.approx(float(central), rel=1e-5, abs=1e-9)


@pytest.mark.slow
def test_a_start_that_is_fitted_is_refused_where_cells_do_not_see_it():
    readings = jd.Readings(
        LINE, jd.Expression("exp(-((x-m)/w)**2)", m=4.3, w=jd.Positive(0.02)), [0.1, 0.2], [4.0, 5.0], [0.1, 0.1]
    )
    with pytest.raises(ValueError, match="initial changes too fast within a cell at x = 4.5"):
        jd.fit(jd.Diffusion(1.0), readings, progress=False)


@pytest.mark.parametrize("points, shape", [(0.3, ()), ([0.3], (1,)), ([0.3, 0.4], (2,)), ([[0.3], [0.4]], (2,))])
def test_a_number_is_a_point(points, shape):
    found = LINE.interpolate(2 * LINE.centers[0], points)
    assert found.shape == shape
    np.testing.assert_allclose(found.ravel()[0], 0.6, rtol=1e-12)


def test_values_at_points_are_one_program(caplog):
    for order, u in ((2, np.arange(10.0)), (4, np.ones((3, 10)))):
        points = np.linspace(0.5, 9.5, 7)
        LINE.interpolate(u, np.zeros(2), order)
        caplog.clear()
        with jax.log_compiles():
            LINE.interpolate(u, points, order)
        assert sum("Compiling" in record.getMessage() for record in caplog.records) == 1


def test_a_point_of_too_few_coordinates():
    with pytest.raises(ValueError, match="a point has 2 coordinates here, got points of shape"):
        PLANE.interpolate(np.ones(PLANE.shape), 0.3)
    assert float(PLANE.interpolate(np.ones(PLANE.shape), [0.3, 0.4])) == 1.0


@pytest.mark.slow
def test_a_source_of_particles():
    """∂p/∂t = s − k p in a closed box: s/k (1 − e^{−kt}) of it."""
    equation = jd.FokkerPlanck(lambda x: 5 - x, 0.5, killing=2.0, source=lambda x: bell(x, 4.3, 0.7))
    u = jd.solve(equation, LINE, 0.0, [0.0, 0.6]).values[-1]
    assert float(LINE.integrate(u)) == pytest.approx((1 - np.exp(-1.2)) / 2, rel=1e-5)
    assert float(LINE.integrate(jd.steady_state(equation, LINE))) == pytest.approx(0.5, rel=1e-5)
    drift = (lambda x, y: (4 - x, 10 - y)), 0.5
    plane = jd.FokkerPlanck(*drift, killing=2.0, source=lambda x, y: bell(x, 3.4, 0.9) * bell(y, 8.1, 3.0))
    u = jd.solve(plane, PLANE, 0.0, [0.0, 0.6]).values[-1]
    whole = float(PLANE.integrate(PLANE.average(plane.source)))
    assert float(PLANE.integrate(u)) == pytest.approx(whole * (1 - np.exp(-1.2)) / 2, rel=1e-3)


@pytest.mark.parametrize("start", ["a function", "an expression"])
def test_a_start_that_jumps_compiles_nothing_again(start, caplog):
    box = lambda i: {
        "a function": lambda x: jnp.where(jnp.abs(x - 4.0 - 0.01 * i) < 1.3, 1.0, 0.0),
        "an expression": jd.Expression("where(x < a, 1, 0)", a=4.0 + 0.01 * i),
    }[start]
    LINE.average(box(0))
    with jax.log_compiles():
        for i in (1, 2):
            LINE.average(box(i))
    assert caplog.records and not [record for record in caplog.records if "Compiling" in record.getMessage()]


@pytest.mark.slow
def test_an_average_outside_of_jit_has_derivatives_by_what_the_function_closes_over():
    average = lambda a: LINE.average(lambda x: jnp.where(x < a, 1.0, 0.0))
    np.testing.assert_allclose(jax.jacobian(average)(4.3), np.eye(10)[4], atol=1e-12)
    found = average(jnp.asarray(4.3))
    assert isinstance(found, jax.Array) and found.dtype == jnp.result_type(float)
