"""Resolvents, implicit steps, splitting, super-time-stepping and steady states on two and three axes."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from oracles import dense, exponential
from problems import BOX, PLANE, PROBLEMS, RNG

import jaxdiff as jd
from jaxdiff.discretisation.lattice import LatticeSystem
from jaxdiff.operators.iterative import solver
from jaxdiff.runtime.compilation import quick_jit


def solutions(equation, grid, cases, u):
    """From one program: operator, its matrix, what is fed in, and (aI + bA)⁻¹u with the iterations for every (a, b)."""

    def run(cases, u):
        system = LatticeSystem(equation, grid)
        operator, units = system.operator(0.0), jnp.eye(u.size).reshape(-1, *grid.shape)
        matrix = jax.vmap(lambda e: (operator @ e).ravel(), out_axes=1)(units)
        return operator, matrix, system.forcing(0.0), *jax.lax.map(lambda pair: solver(operator, *pair)(u), cases)

    return jax.tree.map(np.asarray, quick_jit(run)(np.array(cases), u))


@cache
def problem(name):
    """(a, b) and u, and the solutions."""
    equation, grid, _, kept = PROBLEMS[name]
    cases, u = [(1.0, -1e-3), (1.0, -10.0)] + ([] if kept else [(0.0, -1.0)]), RNG.random(grid.shape)
    return cases, u, *solutions(equation, grid, cases, u)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["array", "mixed walls", "vortex", "landscape", "torus", "cylinder", "box"])
def test_resolvents_against_the_whole_matrix(name):
    """Every kind of wall, drift with and without a potential, rings, (r, z), uneven cells, three axes; mass to roundoff."""
    _, grid, separable, kept = PROBLEMS[name]
    cases, u, operator, matrix, _, found, counts = problem(name)
    for (a, b), x, count in zip(cases, found, counts, strict=True):
        expected = np.linalg.solve(a * np.eye(u.size) + b * matrix, u.ravel()).reshape(grid.shape)
        assert np.abs(x - expected).max() < 1e-11 * np.abs(expected).max()
        assert count <= (2 if separable and operator.detailed_balance else 80)
        assert not kept or x.sum() == pytest.approx(u.sum(), rel=1e-13)


@pytest.mark.slow
def test_iterations_do_not_grow_with_the_cells():
    """A diffusivity of contrast ten: thirty products at any size, where plain conjugate gradients take thousands."""
    counts = []
    d = lambda x, y: 10 ** (0.5 + 0.5 * jnp.sin(2 * jnp.pi * x) * jnp.cos(3 * y))
    for n in (16, 48):
        grid = jd.Grid.uniform((0.0, 1.0, n), (0.0, 1.0, n))
        equation = jd.Diffusion(d, boundaries={"x-": jd.absorbing})
        counts += [*solutions(equation, grid, [(1.0, -1e-3), (0.0, -1.0)], np.ones(grid.shape))[-1]]
    assert max(counts) < 35


@pytest.mark.slow
@pytest.mark.parametrize("name", ["array", "vortex"])
def test_derivatives_of_a_resolvent(name):
    """Forward, reverse and by differences, in the rates and in what it acts on; mapped; in float32."""
    equation, grid, *_ = PROBLEMS[name]
    u, weight = RNG.random(grid.shape), RNG.normal(size=grid.shape)
    scales = np.array([0.0, 0.1, 1e-3, -1e-3, 2e-3, -2e-3])

    @jax.jit
    def everything(u, scales):
        operator = LatticeSystem(equation, grid).operator(0.0)

        def solved(scale, v):
            up = tuple(rate * (1 + scale * k) for k, rate in enumerate(operator.up, 1))
            return eqx.tree_at(lambda o: o.up, operator, up).resolvent(1.0, -0.1)(v)

        loss = lambda scale, v: jnp.sum(weight * solved(scale, v))
        one_by_one, mapped = jax.lax.map(lambda s: solved(s, u), scales), jax.vmap(lambda s: loss(s, u))(scales[:2])
        forward = jax.jvp(lambda s: loss(s, u), (0.0,), (1.0,))[1]
        return operator, one_by_one, mapped, forward, jax.grad(loss, argnums=(0, 1))(0.0, u)

    operator, states, mapped, forward, (reverse, back) = jax.tree.map(np.asarray, everything(u, scales))
    still, _, *near = losses = np.sum(weight * states, axis=(1, 2))
    assert float(forward) == pytest.approx(float(reverse), rel=1e-10)
    central = (near[0] - near[1]) / 2e-3, (near[2] - near[3]) / 4e-3
    assert float(reverse) == pytest.approx((4 * central[0] - central[1]) / 3, rel=1e-7)
    assert np.sum(back * u) == pytest.approx(still, rel=1e-10)
    np.testing.assert_allclose(mapped, losses[:2], rtol=1e-10)
    if name == "array":
        narrow = jax.tree.map(lambda x: x.astype(np.float32), operator)
        x = quick_jit(lambda operator, u: solver(operator, 1.0, -0.1)(u)[0])(narrow, u)
        assert x.dtype == jnp.float32 and np.abs(x - states[0]).max() < 1e-4 * np.abs(states[0]).max()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["array", "torus", "box, one wall"])
def test_steady_states_against_the_whole_matrix(name):
    equation, grid, _, kept = PROBLEMS[name]
    _, _, operator, matrix, forcing, *_ = problem(name)
    weights, start = operator.weights.ravel(), RNG.random(grid.shape)
    if kept:
        null = scipy.linalg.null_space(matrix, rcond=1e-11)[:, 0]
        expected = null / null.sum() * (start.ravel() @ weights) / weights
    else:
        expected = -np.linalg.solve(matrix, forcing.ravel()) / weights
    found = np.asarray(jd.steady_state(equation, grid, start)).ravel()
    assert np.abs(found - expected).max() <= 1e-12 * max(1.0, np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("ring", [None, "x", "y"])
def test_steady_states_without_detailed_balance(ring):
    """Turning drifts from none to many cells wide, and diffusivities that vary by a hundred from cell to cell."""
    grid = jd.Grid.uniform((0.0, 1.0, 12), (0.0, 1.0, 9))
    rough = 10 ** np.random.default_rng(1).uniform(-2, 0, grid.shape)

    @jax.jit
    def everything(pull, s):
        turning = (lambda x, y: pull * jnp.sin(6 * y), lambda x, y: -pull * (x - 0.5))
        walls = {} if ring is None else {ring: jd.Periodic()}
        model = lambda s: jd.FokkerPlanck(turning, rough * (1 + s * grid.centers[0][:, None]), boundaries=walls)

        def loss(s):
            state = jd.steady_state(model(s), grid)
            return jnp.sum(state**3), state

        operator, units = LatticeSystem(model(s), grid).operator(0.0), jnp.eye(rough.size).reshape(-1, *grid.shape)
        matrix = jax.vmap(lambda e: (operator @ e).ravel(), out_axes=1)(units)
        return jax.value_and_grad(loss, has_aux=True)(s), matrix, operator.weights

    for pull in (0.0, 1.0, 4.0):
        ((_, found), reverse), matrix, weights = everything(pull, 0.0)
        null = scipy.linalg.null_space(matrix, rcond=1e-11)[:, 0].reshape(grid.shape)
        expected = null / null.sum() / np.asarray(weights)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12, err_msg=f"pull {pull}")
        if pull == 1.0:
            above, below = (float(everything(pull, s)[0][0][0]) for s in (1e-4, -1e-4))
            assert float(reverse) == pytest.approx((above - below) / 2e-4, rel=1e-6)


@pytest.mark.slow
def test_a_plate_with_convection():
    """NAFEMS T4: 18.2538 °C at (0.6, 0.2), on the wall (The Standard NAFEMS Benchmarks, TNSB rev. 3, 1990)."""
    grid = jd.Grid.uniform((0.0, 0.6, 120), (0.0, 1.0, 200))
    walls = {"y-": jd.Dirichlet(100.0), "x+": jd.Robin(750.0), "y+": jd.Robin(750.0)}
    plate = jd.steady_state(jd.Diffusion(52.0, boundaries=walls), grid)
    assert float(grid.interpolate(plate, [[0.6, 0.2]])[0]) == pytest.approx(18.2538, abs=0.02)


@pytest.mark.slow
def test_a_plate_is_fitted_from_steady_readings():
    grid = jd.Grid.uniform((0.0, 0.6, 12), (0.0, 1.0, 20))
    model = lambda h, k: jd.Diffusion(
        jd.PerAxis(52.0, k), boundaries={"y-": jd.Dirichlet(100.0), "x+": jd.Robin(h), "y+": jd.Robin(h)}
    )
    places = np.random.default_rng(0).random((20, 2)) * [0.6, 1.0]
    clean = np.asarray(grid.interpolate(jd.steady_state(model(750.0, 40.0), grid), places))
    values = clean + np.random.default_rng(1).normal(0.0, 0.2, 20)
    readings = jd.Readings(grid, None, np.inf, places, values, sigma=0.2)
    fit = jd.fit(model, readings, parameters={"h": jd.Positive(500.0), "k": jd.Positive(50.0)}, progress=False)
    assert fit.converged
    for name, true in {"h": 750.0, "k": 40.0}.items():
        assert abs(fit.parameters[name] - true) < 4 * fit.standard_errors[name] < 0.2 * true


TIMED = jd.FokkerPlanck(
    jd.TimeDependent(lambda t, x, y: (jnp.cos(4 * t) - x, jnp.sin(3 * t) * x)),
    jd.TimeDependent(lambda t, x, y: 0.1 + 0.03 * x * y * jnp.cos(t)),
    boundaries={"x+": jd.Robin(0.5, jd.TimeDependent(lambda t: 1 + t))},
)
SMOOTH = jnp.asarray(PLANE.average(lambda x, y: 1 + jnp.cos(jnp.pi * x) * jnp.cos(jnp.pi * y / 2)))
ORDERS = {jd.BackwardEuler(): 1, jd.CrankNicolson(): 2, jd.TRBDF2(): 2, jd.RKL2(): 2, jd.Strang(): 2}


@pytest.mark.slow
@pytest.mark.parametrize("stepper", ORDERS, ids=repr)
def test_order_in_time(stepper):
    """Drift, diffusivity and walls that change."""

    def run(steps):
        u, times = SMOOTH, np.linspace(0.0, 1.0, steps + 1)
        for first in range(0, steps, 20):  # in parts of as many steps, so that it compiles once
            u = jd.solve(TIMED, PLANE, u, times[first : first + 21], stepper=stepper).values[-1]
        return np.asarray(u)

    a, b, c = run(40), run(80), run(160)
    assert np.log2(np.abs(a - b).max() / np.abs(b - c).max()) == pytest.approx(ORDERS[stepper], abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("stepper", [jd.BackwardEuler(), jd.TRBDF2(), jd.Strang()], ids=repr)
def test_a_point_mass_in_a_steep_well(stepper):
    """Mass to 1e-12; no density below zero with the positive ones; the Gibbs state stays where axes are split."""
    well, spike = (lambda x, y: 40 * ((x - 0.3) ** 2 + (y - 0.9) ** 2 + x * y)), np.zeros(PLANE.shape)
    equation = jd.FokkerPlanck(jd.Potential(well), 0.5)
    spike[9, 1] = 1.0
    run = lambda start: jd.solve(equation, PLANE, start, [0.0, 1e-3, 0.1], stepper=stepper, substeps=10)
    solution = run(spike)
    values = np.asarray(solution.values)
    np.testing.assert_allclose(values.sum((1, 2)), 1.0, rtol=1e-12)
    if not isinstance(stepper, jd.TRBDF2):
        assert values.min() >= 0
    if isinstance(stepper, jd.Strang):
        assert solution.method == "Strang, 10 steps per interval"
        x, y = PLANE.centers
        gibbs = np.exp(-well(x[:, None], y) / 0.5)
        gibbs /= gibbs.max()
        assert np.abs(run(gibbs).values[-1] - gibbs).max() < 1e-12
        assert np.abs(jd.steady_state(equation, PLANE, gibbs) - gibbs).max() < 1e-12


@pytest.mark.slow
def test_splitting_keeps_what_walls_feed_in():
    """A profile between two held walls is at rest on every line, and stays; so is a temperature below zero."""
    equation = jd.Diffusion(lambda x, y: 0.5 + y, boundaries={"x-": jd.Dirichlet(-30.0), "x+": jd.Dirichlet(10.0)})
    u = jd.solve(equation, PLANE, lambda x, y: 40 * x - 30, [0.0, 0.3], stepper=jd.Strang()).values[-1]
    assert np.abs(u - (40 * PLANE.centers[0][:, None] - 30)).max() < 1e-11


@pytest.mark.slow
def test_rings_are_cut_as_they_need():
    """Wind around a ring: a whole step in one would be wrong by half the peak."""
    equation = jd.FokkerPlanck((lambda x, y: 20.0 + y, 0.0), 0.05, boundaries={"x": jd.Periodic()})
    start = np.broadcast_to(1 + np.cos(2 * np.pi * PLANE.centers[0])[:, None], PLANE.shape)
    u = jd.solve(equation, PLANE, start, [0.0, 0.2], stepper=jd.Strang(), substeps=1)
    assert "Strang" in u.method
    assert np.abs(u.values[-1] - exponential(equation, PLANE, [0.0, 0.2])(start)[-1]).max() < 5e-3


@pytest.mark.slow
def test_on_one_axis_splitting_is_its_inner_stepper():
    line = jd.Grid.uniform((0.0, 1.0, 20))
    equation = jd.Diffusion(0.1, boundaries={"x-": jd.Dirichlet(jd.Series([0.0, 1.0], [0.0, 1.0]))})
    run = lambda stepper: jd.solve(equation, line, 0.0, [0.0, 0.4, 1.0], stepper=stepper, substeps=3).values
    np.testing.assert_array_equal(run(jd.Strang(jd.TRBDF2())), run(jd.TRBDF2()))


@pytest.mark.slow
def test_super_time_stepping():
    """Steps a hundred times those of Euler's method against the exact exponential, in value and gradient."""

    def final(d, **how):
        values = jd.solve(equation(d), PLANE, SMOOTH, [0.0, 0.2], **how).values[-1]
        return jnp.sum(values**2), values

    equation = lambda d: jd.Diffusion(lambda x, y: d * (0.5 + x * y), boundaries={"y-": jd.Dirichlet(1.0)})
    exact = exponential(equation(1.0), PLANE, [0.0, 0.2])(SMOOTH)[-1]
    matrix, forcing, weights = dense(equation(1.0), PLANE)(0.0)  # all of it as D is: a derivative by D is one by time
    slope = 2 * exact.ravel() @ (0.2 * (matrix @ (exact.ravel() * weights) + forcing) / weights)
    run = lambda d: final(d, stepper=jd.RKL2(), substeps=16)
    (_, found), other = jax.jit(jax.value_and_grad(run, has_aux=True))(1.0)
    assert np.abs(found - exact).max() < 1e-3
    assert float(other) == pytest.approx(slope, rel=3e-3)
    assert np.abs(final(1.0, stepper=jd.RKL2(stages=25), substeps=16)[1] - exact).max() < 1e-3


@pytest.mark.slow
def test_a_diffusivity_that_grows_in_time():
    """A mode of the plate decays by ∫D dt, times the eigenvalue of the cells; so does its derivative."""
    grid = jd.Grid.uniform((0.0, 1.0, 8), (0.0, 1.0, 6))
    mode = np.cos(np.pi * grid.centers[0])[:, None] * np.cos(np.pi * grid.centers[1])
    rate = sum(4 * n**2 * np.sin(np.pi / (2 * n)) ** 2 for n in grid.shape)

    @jax.jit
    @jax.value_and_grad
    def final(d):
        growing = jd.TimeDependent(lambda t, x, y: d * (1 + 3 * t**2))
        return (
            jd.solve(jd.Diffusion(growing), grid, mode, [0.0, 0.1, 0.5], tolerance=1e-4).values[-1][0, 0] / mode[0, 0]
        )

    exact = np.exp(-0.1 * rate * (0.5 + 0.5**3))
    value, slope = final(0.1)
    assert float(value) == pytest.approx(exact, abs=1e-4)
    assert float(slope) == pytest.approx(np.log(exact) / 0.1 * exact, rel=1e-3)


@pytest.mark.slow
def test_a_wall_that_moves():
    """Any function of time at a wall, against the same course as a measured series, which is exact between its knots."""
    course, knots = (lambda t: jnp.sin(6 * t)), np.linspace(0.0, 0.5, 101)
    equation = lambda value: jd.Diffusion(lambda x, y: 0.5 + 0.1 * x * y, boundaries={"x-": jd.Dirichlet(value)})
    how = {"stepper": jd.TRBDF2(), "substeps": 40}
    values = jd.solve(equation(jd.TimeDependent(course)), PLANE, 0.0, [0.0, 0.2, 0.5], **how).values
    series = jd.solve(equation(jd.Series(knots, np.sin(6 * knots))), PLANE, 0.0, [0.0, 0.2, 0.5])
    assert series.method.startswith("lattice: Chebyshev, ")
    assert np.abs(values - series.values).max() < 2e-4


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
        jd.solve(equation, PLANE, 1.0, [0.0, 0.01 * scale], stepper=jd.BackwardEuler())
        jd.steady_state(equation, PLANE)

    run(1.0)
    traced = len(seen)
    run(2.0)
    assert len(seen) == traced > 0


@pytest.mark.slow
def test_a_solution_says_how_it_was_found():
    line, said = jd.Grid.uniform((0.0, 1.0, 10)), lambda *args, **how: jd.solve(*args, 1.0, [0.0, 0.1], **how).method
    assert said(jd.Diffusion(1.0), line) == "direct: 7 resolvents per time"
    assert said(jd.Diffusion(jd.TimeDependent(lambda t, x: 1 + t)), line).startswith("adaptive Rodas5P, ")
    assert said(jd.Diffusion(1.0), BOX) == "spectral: exact in the modes of the domain"
    line_by_line = jd.Diffusion(jd.PerAxis(1.0, lambda x, y: 1 + y))
    assert said(line_by_line, PLANE) == "lattice: product of exponentials per axis"
    traced = jax.eval_shape(lambda d: jd.solve(jd.Diffusion(d), line, 1.0, [0.0, 0.1]), 1.0)
    assert traced.method == "direct: 7 resolvents per time"


VORTEX = jd.FokkerPlanck(lambda x, y: (-400 * (y - 1), 400 * (x - 0.5)), 0.01)
TURNING = jd.Diffusion(jd.TimeDependent(lambda t, x, y: 1 + t * x))
FED = lambda source: jd.Diffusion(1.0, source=source)
BAD = {
    "exponential": (
        lambda: jd.solve(TURNING, PLANE, 1.0, [0, 1], stepper=jd.Exponential()),
        "Exponential needs coefficients",
    ),
    "inner": (lambda: jd.Strang(jd.ForwardEuler()), r"Strang advances lines by .* got ForwardEuler"),
    "stages": (lambda: jd.RKL2(stages=1), "stages must be a whole number from 2 to 512"),
    "too long": (
        lambda: jd.solve(jd.Diffusion(1.0), PLANE, 1.0, [0, 1], stepper=jd.RKL2(stages=9)),
        r"RKL2 with 9 stages is unstable with a step of 1; it takes \d+ stages",
    ),
    "drift": (lambda: jd.solve(VORTEX, PLANE, 1.0, [0, 0.01], stepper=jd.RKL2()), "largest stable step is"),
    "closed": (lambda: jd.steady_state(FED(0.0), PLANE), "depends on the initial content; pass initial="),
    "gains": (lambda: jd.steady_state(FED(1.0), PLANE), "the domain is closed and gains"),
    "time": (lambda: jd.steady_state(TURNING, PLANE, 1.0), "constant in time"),
}


@pytest.mark.slow
def test_iterations_that_do_not_converge_are_said(monkeypatch):
    monkeypatch.setattr("jaxdiff.operators.iterative._STEPS", 1)
    monkeypatch.setattr("jaxdiff.operators.iterative._PASSES", 1)
    grid = jd.Grid.uniform((0.0, 1.0, 7), (0.0, 1.0, 9))  # a shape that nothing has compiled yet
    with pytest.raises(ValueError, match="the iterations of a step did not converge"):
        jd.solve(VORTEX, grid, 1.0, [0, 1], stepper=jd.BackwardEuler())
    with pytest.raises(ValueError, match="the iterations for it did not converge"):
        ring = jd.FokkerPlanck((lambda x, y: jnp.sin(6 * y), lambda x, y: 1.0 + x), 0.1, boundaries=jd.Periodic())
        jd.steady_state(ring, grid)


@pytest.mark.parametrize("name", BAD)
def test_errors_in_one_line(name):
    call, words = BAD[name]
    with pytest.raises((ValueError, TypeError), match=words) as raised:
        call()
    assert "\n" not in str(raised.value)
