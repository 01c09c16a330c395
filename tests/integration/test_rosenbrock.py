"""The Rosenbrock method for coefficients that depend on time, against SciPy's ODE solver and what is known of its steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import jaxdiff as jd
from jaxdiff.discretisation.schemes import FiniteVolume
from jaxdiff.integration.frozen import Constant, Frozen, inside
from jaxdiff.integration.rosenbrock import Rosenbrock

T = jd.TimeDependent
WAVE = T(lambda t, x: 1 + 0.5 * jnp.sin(2 * jnp.pi * t) + 0 * x)


def bump(x):
    return jnp.exp(-(((x - 0.3) / 0.1) ** 2))


def semi_discrete(equation, cells, initial, end=1.0):
    """The problem that steppers see, and its contents at the start."""
    grid = jd.Grid.uniform((0.0, end, cells))
    system = FiniteVolume().systems(equation, grid)[0]
    return Frozen(system, jnp.asarray(0.0)), jax.jit(lambda: grid.average(initial) * system.weights)()


def marcher(problem, start, end):
    """(contents, number of equal steps) -> contents."""

    @jax.jit
    def march(u, count):
        h = (end - start) / count
        return jax.lax.fori_loop(0, count, lambda i, v: Rosenbrock().step(problem, start + i * h, h, v), u)

    return march


def controlled(problem, u, end, tolerance):
    """Steps under a bound on their error as a share of the peak: the contents at the end, and how many there were."""

    def advance(state):
        t, h, v, count = state
        dt = jnp.minimum(h, end - t)
        w, lasting, fading = Rosenbrock().step_with_error(problem, t, dt, v)
        seen = jnp.maximum(jnp.max(jnp.abs(lasting)) * end / dt, jnp.max(jnp.abs(fading)))
        ratio = seen / (tolerance * jnp.max(jnp.abs(w)))
        accept = ratio <= 1
        h = dt * jnp.clip(0.9 * jnp.maximum(ratio, 1e-12) ** (-1 / Rosenbrock.order), 0.2, 4.0)
        return jnp.where(accept, t + dt, t), h, jnp.where(accept, w, v), count + accept

    run = lambda v: jax.lax.while_loop(lambda s: (s[0] < end) & (s[3] < 5000), advance, (0.0, 1e-4 * end, v, 0))
    _, _, v, count = jax.jit(run)(u)
    return np.asarray(v), int(count)


def reference(problem, u, end, method="Radau"):
    rate = jax.jit(lambda t, v: problem.operator(t) @ v + problem.forcing(t))
    jacobian = jax.jit(lambda t, v: jax.vmap(lambda e: problem.operator(t) @ e, out_axes=1)(jnp.eye(len(v))))
    options = {"jac": jacobian} if method == "Radau" else {}
    found = solve_ivp(rate, (0.0, end), np.asarray(u), method=method, rtol=1e-12, atol=1e-14, **options)
    return found.y[:, -1]


DRIVEN = jd.Diffusion(
    T(lambda t, x: 0.01 * (1 + 0.5 * jnp.sin(3 * t + x))),
    source=T(lambda t, x: jnp.cos(2 * t) * x),
    decay=T(lambda t, x: t * x),
    boundaries={"x-": jd.Robin(T(lambda t: 1 + t), T(lambda t: jnp.sin(4 * t)))},
)


@pytest.mark.slow
def test_a_step_is_of_fifth_order_and_its_error_of_the_same():
    problem, u = semi_discrete(DRIVEN, 20, bump)
    exact = reference(problem, u, 1.0, "DOP853")
    march = marcher(problem, 0.0, 1.0)
    error = [np.abs(march(u, n) - exact).max() for n in (16, 32, 64)]
    slopes = np.log2(np.divide(error[:-1], error[1:]))
    assert np.all(np.abs(slopes - 5) < 0.3), (error, slopes)
    take = jax.jit(lambda h: jnp.abs(Rosenbrock().step_with_error(problem, 0.2, h, u)[2]).max())
    assert float(take(0.01) / take(0.005)) == pytest.approx(2**5, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("cells", [25, 400])
def test_a_fast_first_layer_asks_for_a_few_steps(cells):
    walls = {"x-": jd.Dirichlet(1.0), "x+": jd.Dirichlet(0.0)}
    problem, u = semi_discrete(jd.Diffusion(WAVE, boundaries=walls), cells, lambda x: 0 * x)
    found, steps = controlled(problem, u, 0.3, 1e-6)
    # D(t) only changes the clock
    clock = 0.3 + 0.5 * (1 - np.cos(0.6 * np.pi)) / (2 * np.pi)
    steady, _ = semi_discrete(jd.Diffusion(1.0, boundaries=walls), cells, lambda x: 0 * x)
    parts = lambda: (jax.vmap(lambda e: steady.operator(0.0) @ e, out_axes=1)(np.eye(cells)), steady.forcing(0.0))
    matrix, forcing = map(np.asarray, jax.jit(parts)())
    values, modes = np.linalg.eigh(matrix)
    exact = modes @ (np.expm1(clock * values) / values * (modes.T @ forcing))
    assert np.abs(found - exact).max() < 1e-6 * exact.max()
    assert steps < 400


@pytest.mark.slow
def test_a_moving_wall_keeps_the_promise():
    walls = {"x-": jd.Dirichlet(T(lambda t: jnp.sin(7 * t))), "x+": jd.Neumann(0.0)}
    problem, u = semi_discrete(jd.Diffusion(WAVE, boundaries=walls), 50, lambda x: 0 * x)
    exact = reference(problem, u, 0.5)
    found, steps = controlled(problem, u, 0.5, 1e-6)
    assert np.abs(found - exact).max() < 1e-6 * np.abs(exact).max()
    assert steps < 500


@pytest.mark.slow
def test_mass_stays_in_a_closed_box():
    trap = jd.FokkerPlanck(T(lambda t, x: -20 * (x - 0.5 - 0.2 * jnp.sin(6 * t))), 0.2)
    problem, u = semi_discrete(trap, 400, bump)
    found = marcher(problem, 0.0, 2.0)(u, 200)
    assert abs(float(found.sum() / u.sum()) - 1) < 1e-12


@pytest.mark.slow
def test_the_other_side_of_a_jump_is_not_seen():
    jumps = jd.Diffusion(T(lambda t, x: jnp.where((t > 0.1) & (t < 0.3), 0.4, 7.0) + 0 * x))
    problem, u = semi_discrete(jumps, 40, bump)
    held, _ = semi_discrete(jd.Diffusion(0.4), 40, bump)
    found, right = (marcher(p, 0.1, 0.3)(u, 10) for p in (problem, held))
    assert np.abs(found - right).max() < 1e-13 * float(u.max())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(("t", "dt"), [(0.0, 1.0), (0.0, 1e-9), (1e3, 1e-1), (-2.0, 2.0), (0.1, 0.2)])
def test_times_lie_strictly_inside_the_step(dtype, t, dt):
    t, dt = jnp.asarray(t, dtype), jnp.asarray(dt, dtype)
    times = inside(t, dt, jnp.array([0.0, 0.5, 1.0], dtype))
    assert t < times[0] < times[1] < times[2] < t + dt
    assert inside(t, 0 * dt, jnp.array(1.0, dtype)) == t


@pytest.mark.slow
def test_no_step_is_no_change_and_has_a_derivative():
    problem, u = semi_discrete(DRIVEN, 20, bump)
    take = lambda h, v: Rosenbrock().step_with_error(problem, 0.3, h, v)
    (w, lasting, fading), (by_dt, *_) = jax.jit(lambda v: jax.jvp(lambda h: take(h, v), (0.0,), (1.0,)))(u)
    assert np.all(w == u) and np.all(lasting == 0) and np.all(fading == 0)
    rate = jax.jit(lambda v: problem.operator(0.3) @ v + problem.forcing(0.3))(u)
    np.testing.assert_allclose(by_dt, rate, rtol=1e-9, atol=1e-12)
    assert np.all(jax.jit(jax.grad(lambda v: take(0.0, v)[0].sum()))(u) == 1)


@pytest.mark.slow
def test_a_gradient_in_reverse_is_that_forwards_and_of_differences():
    def end(strength):
        drift = T(lambda t, x: strength * jnp.sin(6 * t) * (1 + x))
        problem, u = semi_discrete(jd.FokkerPlanck(drift, 0.1 * strength), 30, bump)
        take = lambda v, t: (Rosenbrock().step(problem, t, 0.05, v), None)
        v = jax.lax.scan(take, u, 0.05 * jnp.arange(8))[0]
        return jnp.sum(v * jnp.arange(30.0)) / jnp.sum(v)

    @jax.jit
    def each(strength):
        value, forward = jax.linearize(end, strength)  # one trace: of reverse mode this is the transpose
        return value, forward(1.0), jax.linear_transpose(forward, strength)(1.0)[0]

    _, forwards, reverse = map(float, each(1.3))
    assert reverse == pytest.approx(forwards, rel=1e-10)
    assert reverse == pytest.approx(float(each(1.3 + 1e-5)[0] - each(1.3 - 1e-5)[0]) / 2e-5, rel=1e-7)


@pytest.mark.slow
def test_panels_are_taken_together_and_single_precision_stays():
    problem, u = semi_discrete(DRIVEN, 20, bump)
    step = lambda problem, t, h, v: Rosenbrock().step(problem, t, h, v)
    take = jax.jit(lambda v: step(problem, 0.2, 0.05, v))
    both = jax.jit(jax.vmap(take))(np.stack([u, 2 * u]))
    np.testing.assert_allclose(both, [take(u), take(2 * u)], rtol=1e-13)
    held = jax.jit(lambda: Constant(problem.operator(0.2), problem.forcing(0.2)))()
    narrow = jax.tree.map(lambda x: np.asarray(x, np.float32), held)
    wide = jax.jit(step)(held, 0.2, 0.05, u)
    small = jax.jit(step)(narrow, np.float32(0.2), np.float32(0.05), np.asarray(u, np.float32))
    assert small.dtype == jnp.float32
    np.testing.assert_allclose(small, wide, atol=3e-6 * float(u.max()))
