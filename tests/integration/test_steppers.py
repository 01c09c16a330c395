"""Orders in time, stability limits, positivity, and the two programs that tutorials like to show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.integration.stepping import march

GRID = jd.Grid.uniform((0.0, 1.0, 20))
SMOOTH = 1.0 + np.cos(np.pi * GRID.centers[0])
ORDERS = {jd.ForwardEuler: 1, jd.BackwardEuler: 1, jd.CrankNicolson: 2, jd.TRBDF2: 2, jd.RungeKutta4: 4}
PROBLEMS = {
    "constant": jd.Diffusion(0.1, decay=0.2, boundaries={"x+": jd.Robin(1.0, 0.5)}),
    "driven": jd.Diffusion(0.1, source=jd.TimeDependent(lambda t, x: jnp.sin(5.0 * t) * x)),
    "varying": jd.FokkerPlanck(jd.TimeDependent(lambda t, x: jnp.cos(4.0 * t) - x), 0.1),
}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("stepper", ORDERS, ids=lambda s: s.__name__)
def test_order_in_time(stepper, problem):
    def run(parts):  # one program, once, twice and four times
        u, ends = SMOOTH, np.linspace(0.0, 1.0, parts + 1)
        for span in zip(ends[:-1], ends[1:], strict=True):
            u = np.asarray(jd.solve(PROBLEMS[problem], GRID, u, span, stepper=stepper(), substeps=steps).values[-1])
        return u

    steps = 200 if stepper in (jd.ForwardEuler, jd.RungeKutta4) else 80
    a, b, c = run(1), run(2), run(4)
    slope = np.log2(np.abs(a - b).max() / np.abs(b - c).max())
    assert abs(slope - ORDERS[stepper]) < (0.2 if ORDERS[stepper] == 4 else 0.1)


@pytest.mark.parametrize("stepper", [jd.ForwardEuler(), jd.RungeKutta4()], ids=["euler", "rk4"])
def test_largest_stable_step_is_named_and_holds(stepper):
    equation = jd.Diffusion(1.0, boundaries=jd.absorbing)
    run = lambda dt: jd.solve(equation, GRID, SMOOTH, np.arange(0, 200) * dt, stepper=stepper)
    with pytest.raises(ValueError, match="unstable") as refused:
        run(0.01)
    named = float(str(refused.value).split("largest stable step is ")[1].split(":")[0])
    values = np.asarray(run(named * 0.999).values)
    assert np.abs(values[-1]).max() <= np.abs(SMOOTH).max()
    with pytest.raises(ValueError, match="unstable"):
        run(named * 1.01)
    assert 0.00125 * stepper.reach / 2 * 0.9 < named < 0.00125 * stepper.reach / 2 * 1.1  # h²/2D for Euler


@pytest.mark.parametrize("stepper", [jd.BackwardEuler(), jd.Exponential()], ids=["implicit", "exponential"])
def test_point_mass_stays_positive(stepper):
    spike = np.zeros(20)
    spike[10] = 20.0
    u = np.asarray(jd.solve(jd.Diffusion(1.0), GRID, spike, [0.0, 1e-3, 0.1, 5.0], stepper=stepper).values)
    assert u.min() > -1e-12 * 20.0
    np.testing.assert_allclose(u.mean(1), 1.0, rtol=1e-12)


@pytest.mark.slow
def test_rod_of_ten_points():
    """Length 1, 100 at one end and 0 at the other, step 0.01: explicit Euler refuses, the others reach the line."""
    grid = jd.Grid.uniform((0.0, 1.0, 10))
    rod = jd.Diffusion(1.0, boundaries={"x-": jd.Dirichlet(100.0), "x+": jd.Dirichlet(0.0)})
    times = np.arange(0.0, 3.001, 0.01)
    with pytest.raises(ValueError, match="ForwardEuler is unstable with a step of 0.01"):
        jd.solve(rod, grid, 0.0, times, stepper=jd.ForwardEuler())
    for stepper in (jd.BackwardEuler(), jd.CrankNicolson(), jd.TRBDF2(), jd.Exponential(), None):
        u = jd.solve(rod, grid, 0.0, times, stepper=stepper).values[-1]
        assert np.abs(u - 100.0 * (1.0 - grid.centers[0])).max() < 1e-6


@pytest.mark.slow
def test_reverse_mode_through_steps():
    f = lambda d: jnp.sum(
        jd.solve(jd.Diffusion(d), GRID, SMOOTH, [0.0, 0.5], stepper=jd.TRBDF2(), substeps=50).values[-1] ** 2
    )
    central = lambda h: (f(0.1 + h) - f(0.1 - h)) / (2 * h)
    difference = (4 * central(1e-4) - central(2e-4)) / 3
    assert abs(jax.grad(f)(0.1) / difference - 1) < 1e-7


@pytest.mark.parametrize("count", [1, 2, 7])
def test_steps_by_turns_are_those_of_a_loop(count):
    step = lambda i, u: u + (i + 1.0) * jnp.roll(u, 1)
    u = expected = jnp.array([1.0, 2.0, 0.5])
    for i in range(count):
        expected = step(i, expected)
    np.testing.assert_array_equal(march(step, u, count), expected)
    slope = jax.jacrev(lambda v: march(step, v, count))(u)
    np.testing.assert_allclose(slope @ u, expected, rtol=1e-14)  # linear
