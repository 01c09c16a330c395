"""Coefficients that depend on time on several axes: exponentials under error control, against SciPy's ODE solver."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import central, each_way
from scipy.integrate import solve_ivp

import jaxdiff as jd
from jaxdiff.discretisation.schemes import FiniteVolume
from jaxdiff.integration.frozen import Frozen
from jaxdiff.integration.magnus import Magnus

COARSE = jd.Grid.uniform((-1.0, 1.0, 7), (-1.5, 1.5, 6))
PLANE = jd.Grid.uniform((-1.0, 1.0, 14), (-1.5, 1.5, 12))
TIMES = [0.0, 0.3, 1.0]
T = jd.TimeDependent
WAVE = T(lambda t: jnp.sin(4 * t))


def bump(x, y):
    return jnp.exp(-4 * ((x - 0.3) ** 2 + y**2))


def matrix(t, x, y):
    c, s = jnp.cos(2 * t + x), jnp.sin(2 * t + x)
    turn = jnp.array([[c, -s], [s, c]])
    return turn @ jnp.diag(jnp.array([0.5, 0.05])) @ turn.T


EQUATIONS = {
    "turning drift that grows": jd.FokkerPlanck(T(lambda t, x, y: (-(1 + t) * y - x, (1 + t) * x - y)), 0.2),
    "moving potential": jd.FokkerPlanck(jd.Potential(T(lambda t, x, y: 2 * (x - jnp.sin(3 * t)) ** 2 + y**2)), 0.3),
    "D(t, x, y)": jd.Diffusion(T(lambda t, x, y: 0.2 * (1 + 0.7 * jnp.sin(5 * t + x) * jnp.cos(y)))),
    "walls and sources": jd.Diffusion(
        T(lambda t, x, y: 0.2 + 0.1 * jnp.sin(3 * t + x * y)),
        source=T(lambda t, x, y: jnp.cos(t) * x),
        decay=T(lambda t, x, y: 0.5 * t * y**2),
        boundaries={"x-": jd.Dirichlet(WAVE), "x+": jd.Robin(T(lambda t: 1 + t), WAVE), "y-": jd.Flux(WAVE)},
    ),
    "a wall alone": jd.Diffusion(lambda x, y: 0.3 + 0.1 * x * y, boundaries={"y+": jd.Dirichlet(WAVE)}),
    "growth": jd.Diffusion(0.1, decay=T(lambda t, x, y: -2 * t * x)),
    "a switch": jd.Diffusion(T(lambda t, x, y: jnp.where(t < 0.37, 0.1, 0.4))),
    "a pulse at a wall": jd.Diffusion(
        0.3, boundaries={"x+": jd.Dirichlet(T(lambda t: jnp.where(t > 0.637, 1.0, 0.0)))}
    ),
    "tensor": jd.Diffusion(jd.Tensor(T(matrix))),
}


def reference(equation, initial, grid, rtol=1e-11, times=TIMES):
    """The same semi-discrete system by an eighth-order Runge–Kutta method, between jumps."""
    system = FiniteVolume().systems(equation, grid)[0]
    rate = jax.jit(lambda t, v: (system.operator(t) @ v.reshape(grid.shape) + system.forcing(t)).ravel())
    weights = np.asarray(system.weights).ravel()
    u, found, now = np.asarray(grid.average(initial)).ravel() * weights, [], times[0]
    for end in sorted({*times, *(t for t in (0.37, 0.637) if t < times[-1])}):
        if end > now:
            just = lambda t, v, now=now, end=end: rate(np.clip(t, now + 1e-12, end - 1e-12), v)
            u = solve_ivp(just, (now, end), u, method="DOP853", rtol=rtol, atol=0.01 * rtol).y[:, -1]
        found += [u / weights] * (end in times)
        now = end
    return np.reshape(found, (-1, *grid.shape))


@cache
def followed(name):
    """The grid and times of an equation, and its states at them."""
    grid, times, rtol = (COARSE, TIMES[:2], 1e-9) if name == "tensor" else (PLANE, TIMES, 1e-11)
    return grid, times, reference(EQUATIONS[name], bump, grid, rtol, times)


@pytest.mark.slow
@pytest.mark.parametrize("name", EQUATIONS)
def test_the_error_stays_below_the_tolerance_in_few_steps(name):
    grid, times, exact = followed(name)
    found = jd.solve(EQUATIONS[name], grid, bump, times)
    assert np.abs(found.values - exact).max() < 1e-6 * np.abs(exact).max()
    words = found.method.split()
    assert words[:2] == ["adaptive", "exponentials,"] and int(words[2]) < (300 if name == "tensor" else 150)


@pytest.mark.slow
def test_a_step_is_of_sixth_order():
    equation = jd.FokkerPlanck(T(lambda t, x, y: (-(1 + t) * y, (1 + t) * x)), 0.02)
    system = FiniteVolume().systems(equation, COARSE)[0]
    stepper = Magnus(1e-11, False)
    take = jax.jit(lambda t, dt, u: stepper.step(Frozen(system, jnp.asarray(0.0), False), t, dt, u))
    exact, errors = reference(equation, bump, COARSE)[-1], []
    weights = np.asarray(system.weights)
    start = np.asarray(COARSE.average(bump)) * weights
    for count in (8, 16):
        u = start
        for i in range(count):
            u = take(i / count, 1 / count, u)
        errors.append(np.abs(np.asarray(u) / weights - exact).max())
    assert abs(np.log2(errors[0] / errors[1]) - 6.0) < 0.2


@pytest.mark.slow
def test_mass_stays_and_no_density_falls_below_zero():
    start = np.zeros(PLANE.shape)
    start[3, 4] = 1.0
    for name in ("turning drift that grows", "moving potential", "D(t, x, y)"):
        values = jd.solve(EQUATIONS[name], PLANE, start, TIMES).values
        mass = np.asarray(PLANE.integrate(start))
        assert abs(float(PLANE.integrate(values[-1])) / mass - 1) < 1e-12
        assert values.min() >= 0.0


@pytest.mark.slow
def test_a_profile_at_rest_between_walls_stays_at_rest_whatever_the_diffusivity_does():
    walls = {"x-": jd.Dirichlet(1.0), "x+": jd.Dirichlet(3.0)}
    equation = jd.Diffusion(T(lambda t, x, y: 0.2 + 0.15 * jnp.sin(20 * t)), boundaries=walls)
    found = jd.solve(equation, PLANE, lambda x, y: 2 + x, TIMES)
    assert np.abs(found.values - found.values[0]).max() < 1e-11
    assert int(found.method.split()[2]) < 20


def test_nothing_stays_nothing():
    assert not jd.solve(EQUATIONS["D(t, x, y)"], PLANE, 0.0, TIMES).values.any()


@pytest.mark.slow
def test_a_drift_that_turns_fast_is_followed():
    """What iterations of implicit steps do not converge for: content carried over many cells between two steps."""
    grid = jd.Grid.uniform((-1.0, 1.0, 24), (-1.0, 1.0, 24))
    spin = lambda t: 60 * (1 + 0.2 * jnp.sin(5 * t))
    equation = jd.FokkerPlanck(T(lambda t, x, y: (-spin(t) * y, spin(t) * x)), 0.05)
    found = jd.solve(equation, grid, bump, [0.0, 0.5], tolerance=1e-5).values
    exact = reference(equation, bump, grid, 1e-8, [0.0, 0.5])
    assert np.abs(found - exact).max() < 1e-5 * exact.max()


@pytest.mark.slow
def test_derivatives_by_reverse_forward_and_difference_agree():
    def end(w):
        equation = jd.FokkerPlanck(T(lambda t, x, y: (-w * x - t * y, w * t * x)), 0.2 + 0.1 * w)
        return jnp.sum(jd.solve(equation, COARSE, bump, [0.0, 0.5], tolerance=1e-8).values[-1] ** 2)

    each = jax.jit(partial(each_way, end))
    slope = central(lambda w: each(w)[0], 0.7)
    for found in each(0.7)[1:]:
        assert abs(found / slope - 1) < 1e-6


@pytest.mark.slow
def test_a_batch_holds_what_each_would_give():
    @jax.jit
    def f(w):
        equation = jd.Diffusion(T(lambda t, x, y: 0.1 + w * jnp.sin(t + x) ** 2))
        return jd.solve(equation, PLANE, bump, [0.0, 0.5]).values[-1]

    ws = np.array([0.1, 0.4])
    np.testing.assert_allclose(jax.jit(jax.vmap(f))(ws), [f(w) for w in ws], atol=1e-12)


@pytest.mark.slow
def test_in_float32_it_holds_what_float32_can():
    equation, (*_, exact) = EQUATIONS["D(t, x, y)"], followed("D(t, x, y)")
    grid = jd.Grid(
        tuple(map(np.array, PLANE.edges))
    )  # JAX 0.10 mixes up precisions of a constant that two programs share
    with jax.enable_x64(False):
        start = np.asarray(grid.average(bump), np.float32)
        values = jd.solve(equation, grid, start, TIMES).values
        assert values.dtype == jnp.float32
    assert np.abs(values - exact).max() < 1e-5 * exact.max()
    stiff = jd.Diffusion(T(lambda t, x, y: 30 * (1 + 0.5 * jnp.sin(t) * x)))
    with jax.enable_x64(False):
        values = jd.solve(stiff, grid, start, [0.0, 20.0]).values[-1]
    assert np.abs(values - start.mean()).max() < 1e-5 * start.mean()


@pytest.mark.slow
@pytest.mark.parametrize("lean", [None, 0.3], ids=["lattice", "tensor"])
def test_walls_of_time_and_place(lean):
    """u = x² − y² + t x y solves it, and the error falls as h²."""
    c = lean or 0.0
    sides = {"x-": jd.Dirichlet(lambda y: -(y**2)), "x+": jd.Dirichlet(T(lambda t, y: 1 - y**2 + t * y))}
    sides["y-"] = jd.Dirichlet(lambda x: x**2)
    sides["y+"] = jd.Flux(T(lambda t, x: 2 - t * x)) if lean is None else jd.Dirichlet(T(lambda t, x: x**2 - 1 + t * x))
    D = 1.0 if lean is None else jd.Tensor(np.array([[1.0, c], [c, 1.0]]))
    equation = jd.Diffusion(D, source=T(lambda t, x, y: x * y - 2 * c * t), boundaries=sides)
    errors = []
    for n in (8, 16)[lean is not None :]:  # the order of tensors is held elsewhere
        grid = jd.Grid.uniform((0.0, 1.0, n), (0.0, 1.0, n))
        x, y = np.meshgrid(*grid.centers, indexing="ij")
        u = jd.solve(equation, grid, lambda x, y: x**2 - y**2, [0.0, 0.7]).values[-1]
        errors.append(np.abs(u - (x**2 - y**2 + 0.7 * x * y)).max())
    assert errors[-1] < 1.2e-3 and (lean or 3.0 < errors[0] / errors[1] < 5.0)
