"""Two and three axes against dense exponentials and closed forms; fits of plates, landscapes and snapshots."""

from functools import cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from oracles import dense
from problems import ARRAY, PLANE, PROBLEMS, RNG, Whirl
from scipy.linalg import expm
from scipy.special import erf

import jaxdiff as jd
from jaxdiff import exact
from jaxdiff.discretisation.lattice import LatticeSystem
from jaxdiff.parameters import numeric


def gaussian(grid, x, y, variance):
    """Cell averages of the density of a point that is known to within a variance."""
    shares = [np.diff(erf((e - c) / np.sqrt(2 * variance))) / 2 for e, c in zip(grid.edges, (x, y))]
    return np.outer(*shares) / grid.volumes


def at_places(grid, states, places):
    return np.asarray(jax.jit(jax.vmap(lambda u: grid.interpolate(u, places)))(states)).ravel()


SCALED = ["constant", "varying", "mixed walls", "vortex", "uneven"]  # whose gradients are looked at


def scaled(equation, factor):
    inner = equation.diffusivity
    d = numeric(lambda *x: factor * inner(*x)) if callable(inner) else factor * jnp.asarray(inner)
    return eqx.tree_at(lambda e: e.diffusivity, equation, d, is_leaf=lambda x: x is inner)


@cache
def parts(name, factor=1.0):
    """Of a problem, its D times a factor: whether it is separable, the bounds of the spectrum, and as flat arrays the
    matrix, what is fed in and what a cell weighs."""
    return tuple(map(np.asarray, _parts(name)(factor)))


@cache
def _parts(name):
    equation, grid, *_ = PROBLEMS[name]

    @jax.jit
    def found(factor):
        system = LatticeSystem(scaled(equation, factor) if name in SCALED else equation, grid)
        operator, units = system.operator(0.0), jnp.eye(int(np.prod(grid.shape))).reshape(-1, *grid.shape)
        matrix = jax.vmap(lambda e: (operator @ e).ravel())(units).T
        return operator.separable, operator.spectrum(), matrix, system.forcing(0.0).ravel(), system.weights.ravel()

    return found


def two_ways(loss, at, direction):
    """The derivative of a loss along a direction by forward mode, and its gradient by reverse mode, from one trace."""
    forward = jax.linearize(loss, *at)[1]
    return forward(*direction), jax.linear_transpose(forward, *at)(1.0)


def exponential(name, u, t, factor=1.0):
    """The state after a time t by the exponential of the whole matrix."""
    *_, matrix, forcing, weights = parts(name, factor)
    augmented = np.pad(np.column_stack([matrix, forcing]), ((0, 1), (0, 0)))  # the forcing as one more content
    return ((expm(t * augmented) @ np.append(u.ravel() * weights, 1.0))[:-1] / weights).reshape(u.shape)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_exponential_of_the_whole_matrix(name):
    equation, grid, separable, kept = PROBLEMS[name]
    assert parts(name)[0] == separable
    u, t = RNG.random(grid.shape), 0.3
    expected = exponential(name, u, t)
    values = np.asarray(jd.solve(equation, grid, u, [0.0, t / 3, t]).values)
    assert np.abs(values[-1] - expected).max() < 1e-11 * max(1.0, np.abs(expected).max())
    if kept:
        content = values.reshape(len(values), -1) @ parts(name)[-1]
        np.testing.assert_allclose(content, content[0], rtol=2e-12)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_spectrum_lies_within_its_bounds(name):
    _, (lower, upper, turn), matrix, *_ = parts(name)
    found, slack = np.linalg.eigvals(matrix), 1e-9 * lower
    assert -found.real.min() <= lower + slack and found.real.max() <= upper + slack
    assert np.abs(found.imag).max() <= turn + slack


@cache
def kernel_states(n):
    """A heat kernel between absorbing and reflecting walls of a plate, at two times."""
    grid = jd.Grid.uniform((0.0, 1.0, n), (0.0, 1.0, n))
    x = lambda t: lambda z: exact.reflected_interval_density(z, 0.4, t, 1.0, 0.5)
    y = lambda t: lambda z: exact.absorbed_interval_density(z, 0.6, t, 1.0, 0.5)
    average = lambda t: grid.axis(0).average(x(t))[:, None] * grid.axis(0).average(y(t))
    return grid, *map(np.asarray, jax.jit(lambda: (average(0.02), average(0.05)))())


def kernel_error(n, separable):
    """By products or by Chebyshev."""
    grid, start, end = kernel_states(n)
    equation = jd.Diffusion(0.5 if separable else lambda a, b: 0.5 + 0 * a * b, boundaries={"y": jd.absorbing})
    values = np.asarray(jd.solve(equation, grid, start, [0.02, 0.05]).values)[-1]
    return np.abs(values - end).max() / end.max()


@pytest.mark.slow
@pytest.mark.parametrize("separable", [True, False])
def test_order_two_in_space(separable):
    coarse, fine = kernel_error(24, separable), kernel_error(48, separable)
    assert np.log2(coarse / fine) == pytest.approx(2.0, abs=0.1)


@pytest.mark.slow
def test_a_rotating_ornstein_uhlenbeck_process():
    """Mean and covariance of dX = −M X dt + √(2D) dW with M = [[1, −2], [2, 1]]; they converge with h²."""
    grid = jd.Grid.uniform((-4.0, 4.0, 96), (-4.0, 4.0, 96))
    equation, start = jd.FokkerPlanck(Whirl(1.0, -2.0), 0.5), gaussian(grid, 1.0, 0.0, 0.09)
    values = np.asarray(jd.solve(equation, grid, start, [0.0, 0.7]).values)
    assert values.min() > -1e-11 * values.max()
    (x, y), held = grid.centers, values * grid.volumes
    np.testing.assert_allclose(held.sum((1, 2)), held[0].sum(), rtol=1e-12)
    mean = np.array([x @ held[-1].sum(1), held[-1].sum(0) @ y])
    np.testing.assert_allclose(mean, np.exp(-0.7) * np.array([np.cos(1.4), -np.sin(1.4)]), atol=2e-3)
    spread = x**2 @ held[-1].sum(1) - mean[0] ** 2
    assert spread == pytest.approx(0.5 + np.exp(-1.4) * (0.09 - 0.5), rel=0.02)  # numerical diffusion is second order


@pytest.mark.slow
@pytest.mark.parametrize("diffusivity", [0.4, 0.02])
def test_a_drift_that_turns_fast(diffusivity):
    """Far from symmetric: polynomials that grow by e^39 on the way must not amplify what is rounded."""
    grid = jd.Grid.uniform((-3.0, 3.0, 40), (-3.0, 3.0, 40))
    equation, start = jd.FokkerPlanck(Whirl(1.0, 20.0), diffusivity), gaussian(grid, 1.0, 0.0, 0.1)
    end = lambda u, **options: np.asarray(jd.solve(equation, grid, u, [0.0, 0.4], **options).values)[-1]
    values, stepped = end(start), end(start, stepper=jd.RungeKutta4(), substeps=4000)
    assert np.abs(values - stepped).max() < 1e-9 * stepped.max()
    assert values.sum() / start.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.abs(end(start.astype(np.float32)) - stepped).max() < 2e-4 * stepped.max()


@pytest.mark.slow
def test_the_gibbs_state_of_a_landscape_does_not_move():
    energy = lambda x, y: 3 * (x * x - 1) ** 2 + 2 * (y - x) ** 2
    grid = jd.Grid.uniform((-2.0, 2.0, 32), (-2.0, 2.0, 24))
    x, y = grid.centers
    state = np.exp(-energy(x[:, None], y) / 0.4)
    moved = np.asarray(jd.solve(jd.FokkerPlanck(jd.Potential(energy), 0.4), grid, state, [0.0, 5.0]).values)[-1]
    assert np.abs(moved - state).max() < 1e-11 * state.max()


@pytest.mark.slow
def test_a_measured_series_at_a_wall_is_exact_between_its_knots():
    series = jd.Series([0.0, 0.1, 0.25], [0.0, 1.0, 0.5])
    equation = jd.Diffusion(lambda x, y: 0.5 + 0.1 * x * y, boundaries={"x-": jd.Dirichlet(series)})
    values = np.asarray(jd.solve(equation, PLANE, 0.0, [0.0, 0.25]).values)[-1]
    at, contents, states = dense(equation, PLANE), np.zeros(PLANE.shape).ravel(), []
    for start, stop in zip(
        series.times, series.times[1:]
    ):  # what is fed in changes by a straight line, a content as well
        (matrix, fed, weights), then = at(start), at(stop)[1]
        augmented = np.pad(np.column_stack([matrix, (then - fed) / (stop - start), fed]), ((0, 2), (0, 0)))
        augmented[-2, -1] = 1.0
        contents = (expm((stop - start) * augmented) @ np.append(contents, [0.0, 1.0]))[:-2]
        states.append((contents / weights).reshape(PLANE.shape))
    assert np.abs(values - states[-1]).max() < 1e-9
    readings = jd.Readings(PLANE, 0.0, [0.1, 0.25], (0.1, 0.4), [0.0, 0.0])  # at the knots, as in a table
    plan = readings.prepare(equation, pad=False)
    read = jax.jit(lambda: plan.predict(equation, 0.0).values)()
    np.testing.assert_allclose(read, at_places(PLANE, np.stack(states), np.array([[0.1, 0.4]])), rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCALED)
def test_gradients_three_ways(name):
    equation, grid, *_ = PROBLEMS[name]
    u, weight, direction = RNG.random(grid.shape), *RNG.normal(size=(2, *grid.shape))

    def loss(factor, state):
        return jnp.sum(weight * jd.solve(scaled(equation, factor), grid, state, [0.0, 0.05, 0.2]).values[-1])

    forward, (reverse, back) = jax.jit(partial(two_ways, loss))((1.0, u), (1.0, np.zeros_like(u)))
    assert float(forward) == pytest.approx(float(reverse), rel=1e-9)
    of_matrix = lambda factor, state: np.sum(weight * exponential(name, state, 0.2, factor))
    central = lambda h: (of_matrix(1 + h, u) - of_matrix(1 - h, u)) / (2 * h)
    assert float(reverse) == pytest.approx((4 * central(1e-3) - central(2e-3)) / 3, rel=1e-7)
    along = (of_matrix(1.0, u + direction) - of_matrix(1.0, u - direction)) / 2  # linear in the initial state
    assert np.sum(back * direction) == pytest.approx(along, rel=1e-9)


@pytest.mark.slow
def test_the_gradient_of_a_source_at_zero():
    """What is zero now may be fitted: inside a transformation nothing is taken for absent."""
    final = lambda s: jnp.sum(jd.solve(jd.Diffusion(ARRAY, source=s), PLANE, 1.0, [0.0, 0.1]).values[-1])
    (none, slope), (one, _) = map(jax.value_and_grad(final), (0.0, 1.0))
    assert float(slope) == pytest.approx(float(one) - float(none), rel=1e-9)


@pytest.mark.slow
def test_a_drift_of_many_turns_in_single_precision():
    """The first guess of the substeps is too few for it, and must not overflow before it is asked anew."""
    grid = jd.Grid.uniform((-2.0, 2.0, 40), (-2.0, 2.0, 40))
    equation, u = jd.FokkerPlanck(Whirl(0.0, 10.0), 0.1), gaussian(grid, 1.0, 0.0, 0.125)
    wide, narrow = (
        np.asarray(jd.solve(equation, grid, u.astype(dtype), [0.0, 1.0]).values)[-1] for dtype in (float, np.float32)
    )
    assert np.abs(narrow - wide).max() < 5e-4 * wide.max()


@pytest.mark.slow
def test_vmap_and_float32():
    d = np.array([0.2, 0.5, 1.0])
    one = lambda k: jd.solve(jd.Diffusion(k, boundaries={"x+": jd.absorbing}), PLANE, 1.0, [0.0, 0.2]).values[-1]
    np.testing.assert_allclose(jax.jit(jax.vmap(one))(d), np.stack([np.asarray(one(k)) for k in d]), rtol=1e-11)
    narrow = RNG.random(PLANE.shape).astype(np.float32)
    for name in ("constant", "array"):
        values = jd.solve(PROBLEMS[name][0], PLANE, narrow, [0.0, 0.1]).values
        assert values.dtype == jnp.float32
        assert np.abs(np.asarray(values)[-1] - exponential(name, narrow, 0.1)).max() < 1e-5


@pytest.mark.slow
def test_explicit_steppers_and_their_limit():
    equation, grid, *_ = PROBLEMS["varying"]
    u = RNG.random(grid.shape)
    reference = exponential("varying", u, 0.1)
    stepped = lambda u: np.asarray(
        jd.solve(equation, grid, u, [0.0, 0.1], stepper=jd.RungeKutta4(), substeps=200).values
    )
    assert np.abs(stepped(u)[-1] - reference).max() < 1e-9
    narrow = stepped(u.astype(np.float32))
    assert narrow.dtype == np.float32 and np.abs(narrow[-1] - reference).max() < 1e-5
    with pytest.raises(ValueError, match="largest stable step"):
        jd.solve(equation, grid, u, [0.0, 0.1], stepper=jd.ForwardEuler(), substeps=2)


@pytest.mark.slow
def test_other_numbers_of_the_same_shapes_do_not_retrace():
    seen = []

    class Watched(eqx.Module):
        slope: jnp.ndarray

        def __call__(self, x, y):
            seen.append(1)
            return 1.0 + self.slope * x * y

    def run(scale):
        equation = jd.Diffusion(Watched(np.asarray(scale)), decay=scale, boundaries={"x-": jd.Robin(scale, scale)})
        return jd.solve(equation, PLANE, np.full(PLANE.shape, scale), [0.0, 0.01 * scale]).values

    run(1.0)
    traced = len(seen)
    run(2.0)
    run(3.5)
    assert len(seen) == traced > 0


@pytest.mark.slow
def test_a_plate_is_fitted_from_readings():
    """Two conductivities and a loss, from nine sensors with noise: within four standard errors, and those are right."""
    grid = jd.Grid.uniform((0.0, 1.0, 24), (0.0, 1.0, 20))
    start = lambda x, y: jnp.exp(-((x - 0.4) ** 2 + (y - 0.6) ** 2) / 0.02)
    truth = jd.Diffusion(jd.PerAxis(0.10, 0.03), decay=0.5)
    times, places = (
        np.linspace(0.02, 0.5, 15),
        np.stack(np.meshgrid([0.2, 0.5, 0.8], [0.25, 0.5, 0.75]), -1).reshape(-1, 2),
    )
    t, at = np.repeat(times, 9), np.tile(places, (15, 1))
    state = 2 * np.pi * 0.01 * gaussian(grid, 0.4, 0.6, 0.01)
    states = np.asarray(jd.solve(truth, grid, state, [0.0, *times]).values)[1:]
    clean = at_places(grid, states, places)
    readings = jd.Readings(
        grid, start, t, at, clean + np.random.default_rng(0).normal(0, 0.01, clean.shape), sigma=0.01
    )
    model = jd.Diffusion(jd.PerAxis(jd.Positive(0.05), jd.Positive(0.05)), decay=jd.Free(0.1))
    fit = jd.fit(model, readings, progress=False)
    assert fit.converged
    found = np.array([float(v) for v in fit.parameters.values()])
    errors = np.array([float(v) for v in fit.standard_errors.values()])
    assert (np.abs(found - [0.10, 0.03, 0.5]) < 4 * errors).all()
    assert (errors < [0.006, 0.004, 0.1]).all()


@pytest.mark.slow
def test_a_decay_that_starts_at_zero_and_a_source_are_fitted():
    grid = jd.Grid.uniform((0.0, 1.0, 12), (0.0, 1.0, 10))
    states = np.asarray(jd.solve(jd.Diffusion(0.2, decay=0.4, source=0.7), grid, 0.0, [0.0, 0.5, 1.0]).values)[1:]
    places = np.array([[0.3, 0.4], [0.8, 0.2]])
    values = at_places(grid, states, places)
    readings = jd.Readings(grid, 0.0, [0.5, 0.5, 1.0, 1.0], np.tile(places, (2, 1)), values, sigma=1e-3)
    fit = jd.fit(jd.Diffusion(0.2, decay=jd.Free(0.0), source=jd.Free(0.0)), readings, progress=False)
    assert fit.parameters["decay"] == pytest.approx(0.4, abs=1e-6)
    assert fit.parameters["source"] == pytest.approx(0.7, abs=1e-6)


SQUARE = lambda n: jd.Grid.uniform((-3.0, 3.0, n), (-3.0, 3.0, n))
CAMERA = np.linspace(-3.0, 3.0, 13)
SEEN = [0.1, 0.3, 0.6, 1.0]


def whirling(k, w, d):
    return jd.FokkerPlanck(lambda x, y: (-k * x - w * y, w * x - k * y), d)


def fit_of_counts(n, start, counts):
    """Stiffness, rotation and diffusivity of a trap with a vortex, from counts on a coarse camera, over n × n cells."""
    data = jd.Histograms(SQUARE(n), start, SEEN, counts, (CAMERA, CAMERA))
    marks = {"k": jd.Positive(0.5), "w": 0.5, "d": jd.Positive(0.8)}
    return jd.fit(whirling, data, parameters=marks, progress=False)


@pytest.mark.slow
def test_a_drift_field_is_fitted_from_snapshots():
    start = gaussian(SQUARE(24), 1.0, 0.0, 0.1)
    states = np.asarray(jd.solve(whirling(1.0, 1.5, 0.4), SQUARE(24), start, [0.0, *SEEN]).values)[1:]
    bins = states.reshape(4, 12, 2, 12, 2).sum((2, 4))
    counts = [
        np.random.default_rng(i).multinomial(20000, b.ravel() / b.sum()).reshape(b.shape) for i, b in enumerate(bins)
    ]
    fit = fit_of_counts(24, start, np.stack(counts))
    assert fit.converged
    for name, true in {"k": 1.0, "w": 1.5, "d": 0.4}.items():
        assert abs(fit.parameters[name] - true) < 4 * fit.standard_errors[name] < 0.2 * true


BAD = {
    "sides": (lambda: jd.solve(jd.Diffusion(1.0, boundaries={"y-": jd.Periodic()}), PLANE, 1.0, [0, 1]), "axis y got it on one only"),
    "unknown side": (lambda: jd.solve(jd.Diffusion(1.0, boundaries={"z-": jd.absorbing}), PLANE, 1.0, [0, 1]), "unknown side 'z-'"),
    "twice": (lambda: jd.solve(jd.Diffusion(1.0, boundaries={"x": jd.absorbing, "x-": jd.absorbing}), PLANE, 1.0, [0, 1]), "named twice"),
    "negative D": (
        lambda: jd.solve(jd.Diffusion(lambda x, y: x - 0.5 + y), PLANE, 1.0, [0, 1]),
        r"diffusivity is -0\.\d+ at x = 0\.\d+, y = 0\.1; it must be positive",
    ),
    "array": (lambda: jd.solve(jd.Diffusion(np.ones((3, 3))), PLANE, 1.0, [0, 1]), r"must have the grid's shape \(12, 10\), got \(3, 3\)"),
    "drift": (lambda: jd.solve(jd.FokkerPlanck(1.0, 1.0), PLANE, 1.0, [0, 1]), "a drift on 2 axes is a tuple"),
    "components": (lambda: jd.solve(jd.FokkerPlanck((1.0, 1.0, 1.0), 1.0), PLANE, 1.0, [0, 1]), "2 components on this grid, got 3"),
    "axes": (lambda: jd.solve(jd.Diffusion(jd.PerAxis(1.0, 1.0, 1.0)), PLANE, 1.0, [0, 1]), "PerAxis needs 2"),
    "initial": (lambda: jd.solve(jd.Diffusion(1.0), PLANE, np.ones(12), [0, 1]), r"initial has shape \(12,\), the grid \(12, 10\)"),
    "nan": (lambda: jd.solve(jd.Diffusion(1.0), PLANE, np.full(PLANE.shape, np.nan), [0, 1]), "must be finite"),
    "order": (lambda: jd.solve(jd.Diffusion(1.0), PLANE, 1.0, [0, 1], scheme=jd.FiniteVolume(order=4)), "order=4 holds on one axis"),
    "outside": (lambda: jd.Readings(PLANE, 0.0, [1.0], [[0.5, 2.5]], [1.0]), "position 0 at y = 2.5 lies outside"),
    "places": (lambda: jd.Readings(PLANE, 0.0, [1.0], [0.5], [1.0]), "1 rows of 2 coordinates"),
    "path": (lambda: jd.Trajectory(PLANE, [0.0, 1.0], [0.1, 0.2]), r"shapes \(n,\) and \(n, 2\), got"),
    "counts": (lambda: jd.Histograms(PLANE, 1.0, [1.0], np.ones((1, 12))), r"\(1, 12, 10\), got \(1, 12\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_errors_in_one_line(name):
    call, words = BAD[name]
    with pytest.raises((ValueError, TypeError), match=words) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_a_drift_over_cells_is_that_of_functions_where_it_is_linear():
    x, y = np.meshgrid(*PLANE.centers, indexing="ij")
    functions = jd.FokkerPlanck((lambda x, y: y - 1, lambda x, y: 0.5 - x), 0.3)
    arrays = jd.FokkerPlanck((y - 1, 0.5 - x), 0.3)
    u = RNG.random(PLANE.shape)
    one, two = jax.jit(lambda: [LatticeSystem(e, PLANE).operator(0.0) @ u for e in (functions, arrays)])()
    np.testing.assert_allclose(one, two, atol=1e-12 * np.abs(one).max())


@pytest.mark.slow
def test_a_short_interval_beside_a_very_long_one():
    """Intervals that are equal but for roundoff count as equal; nothing else does."""
    grid = jd.Grid((np.array([0, 0.1, 0.3, 0.6, 1.0]), np.array([0, 0.2, 0.5, 1.0])))
    solve = lambda *times: np.asarray(jd.solve(jd.Diffusion(1.0), grid, start, [0.0, *times]).values)
    start, t = RNG.random(grid.shape), 1.23456e-3
    _, one, two = solve(t, 1e10)
    np.testing.assert_allclose(one, solve(t, 3 * t)[1], rtol=0, atol=1e-13)
    np.testing.assert_allclose(two, two.mean(), rtol=1e-9)


@pytest.mark.slow
def test_a_turning_drift_for_ever_is_refused():
    with pytest.raises(ValueError, match="products with the operator; what has come to rest by then jd.steady_state"):
        jd.solve(PROBLEMS["vortex"][0], PLANE, 1.0, [0.0, 5e4, 1e5])


@pytest.mark.slow
def test_a_single_cell_around_a_ring():
    drift = (lambda x, y: 3 + y * x, lambda x, y: x - 2)
    one = jd.FokkerPlanck(drift, 0.1, killing=0.5, boundaries={"x": jd.Periodic()})
    values = jd.solve(one, jd.Grid.uniform((0.0, 1.0, 1), (0.0, 1.0, 1)), 1.0, [0.0, 0.4]).values
    assert np.asarray(values)[-1, 0, 0] == pytest.approx(np.exp(-0.2), rel=1e-12)


@pytest.mark.slow
def test_a_batch_skips_the_terms_and_substeps_that_none_of_it_needs():
    """Predicates that differ between lanes would make `vmap` compute both branches, and select after every term."""
    f = lambda k: jd.solve(jd.FokkerPlanck(Whirl(0.0, k), 0.1), PLANE, 1.0, [0.0, 0.05, 0.1]).values
    traced = jax.jit(jax.vmap(f)).trace(jnp.ones(2))
    program = traced.jaxpr
    assert str(program).count("cond[") >= 1  # of substeps

    def loops(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "while":
                yield equation.params["cond_jaxpr"].jaxpr
            for inner in jaxprs_in_params(equation.params):
                yield from loops(inner)

    found = list(loops(program.jaxpr))
    assert found and not any("reduce_or" in str(test) for test in found)  # of loops over terms
    ks = np.array([0.1, 4.0])
    np.testing.assert_allclose(traced.lower().compile()(ks), np.stack([np.asarray(f(k)) for k in ks]), atol=1e-11)


@pytest.mark.slow
def test_a_fit_tells_when_cells_are_large_for_a_drift():
    """Two-point fluxes add z²/12 to the diffusivity; a fit takes it off, and its error bar knows nothing of it."""
    truth = {"k": 1.0, "w": 2.0, "d": 0.3}
    rng = np.random.default_rng(5)

    def draw(t):
        turn, shrink = truth["w"] * t, np.exp(-truth["k"] * t)
        mean = 1.5 * shrink * np.array([np.cos(turn), np.sin(turn)])
        spread = 0.04 * shrink**2 + truth["d"] / truth["k"] * (1 - shrink**2)
        return mean + np.sqrt(spread) * rng.normal(size=(5000, 2))

    counts = [np.histogram2d(*draw(t).T, [CAMERA, CAMERA])[0] for t in SEEN]
    coarse, fine = (fit_of_counts(n, gaussian(SQUARE(n), 1.5, 0.0, 0.04), counts) for n in (24, 48))
    assert coarse.parameters["d"] < truth["d"] - 3 * coarse.standard_errors["d"]
    assert any("cells are too large" in note for note in coarse.notes)
    assert abs(fine.parameters["d"] - truth["d"]) < abs(coarse.parameters["d"] - truth["d"]) / 2


@pytest.mark.slow
def test_densities_on_two_axes_are_masses_over_volumes():
    grid = jd.Grid(edges=(np.array([0.0, 0.2, 0.5, 1.0]), np.array([0.0, 0.4, 1.0])))
    start = lambda x, y: 1 + jnp.cos(np.pi * x)
    averages = 1 + np.diff(np.sin(np.pi * grid.edges[0])) / (np.pi * np.diff(grid.edges[0]))
    state = np.broadcast_to(averages[:, None], grid.shape)
    density = np.asarray(jd.solve(jd.Diffusion(0.3), grid, state, [0.0, 0.1]).values)[1:]
    found = jd.fit(jd.Diffusion(jd.Positive(0.1)), jd.Histograms(grid, start, [0.1], density), progress=False)
    assert (
        abs(found.parameters["diffusivity"] / 0.3 - 1) < 5e-5
    )  # inside a fit starts are averaged by one rule, whatever they are


@pytest.mark.slow
def test_a_coefficient_may_be_any_module_whatever_its_fields_are_called():
    class Scaled(eqx.Module):
        coefficient: jnp.ndarray
        function: jnp.ndarray

        def __call__(self, x, y):
            return self.coefficient + self.function * x * y

    equations = jd.Diffusion(Scaled(jnp.array(0.5), jnp.array(1.0))), PROBLEMS["varying"][0]
    mine, plain = (jd.solve(equation, PLANE, ARRAY, [0.0, 0.05, 0.1]).values for equation in equations)
    np.testing.assert_allclose(mine, plain, rtol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("narrow", [False, True], ids=["float64", "float32"])
def test_a_gradient_where_terms_grow_on_the_way(narrow):
    """They are formed again from the last two, whose roundoff must not grow by as much once more."""
    with jax.enable_x64(not narrow):
        grid = jd.Grid.uniform((-2.0, 2.0, 48), (-2.0, 2.0, 40))
        start = gaussian(grid, 1.0, 0.0, 0.125)

        def loss(d):
            turning = jd.FokkerPlanck(lambda x, y: (-x - 3 * y, 3 * x - y), d)
            return jnp.sum(jd.solve(turning, grid, start, [0.0, 0.1]).values[-1] ** 2)

        d, direction = jnp.full(grid.shape, 0.1), jnp.asarray(np.random.default_rng(0).normal(size=grid.shape))
        forward, (back,) = jax.jit(partial(two_ways, loss))((d,), (direction,))
        assert np.sum(back * direction) == pytest.approx(float(forward), rel=1e-3 if narrow else 1e-11)
