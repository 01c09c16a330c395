"""The noising process: its schedule, its exact transition, and the equation that it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.generation import Process

PROCESS = Process()
TIMES = jnp.linspace(0.0, 1.0, 9)


def test_the_schedule_is_linear_in_log_signal_to_noise():
    signal, noise = PROCESS.signal(TIMES), PROCESS.noise(TIMES)
    np.testing.assert_allclose(signal**2 + noise**2, 1.0, rtol=1e-14)
    np.testing.assert_allclose(jnp.log(signal**2 / noise**2), 8.0 - 14.0 * TIMES, atol=1e-12)
    falls = jax.vmap(jax.grad(lambda t: -jnp.log(PROCESS.signal(t) ** 2)))(TIMES)
    np.testing.assert_allclose(PROCESS.rate(TIMES), falls, rtol=1e-12)


@pytest.mark.parametrize("s, t", [(0.0, 1.0), (0.2, 0.20001), (0.4, 0.4), (0.0, 1e-6)])
def test_transitions_compose(s, t):
    one, none = jnp.ones(1), jnp.zeros(1)
    carried = PROCESS.moved(one, s, t, none)[0]
    added = PROCESS.moved(none, s, t, one)[0]
    np.testing.assert_allclose(carried * PROCESS.signal(s), PROCESS.signal(t), rtol=1e-13)
    np.testing.assert_allclose(carried**2 * PROCESS.noise(s) ** 2 + added**2, PROCESS.noise(t) ** 2, rtol=1e-12)
    np.testing.assert_allclose(
        added**2, -jnp.expm1(-jnp.log(PROCESS.signal(s) ** 2 / PROCESS.signal(t) ** 2)), rtol=1e-8
    )


def test_moments_by_the_equation_are_those_of_the_transition():
    grid, times = jd.Grid.uniform((-6.0, 6.0, 240)), [0.0, 0.3, 0.8]
    equation = PROCESS.equation()
    p = jd.solve(equation, grid, grid.delta(1.5), times, stepper=jd.TRBDF2(), substeps=100).values
    for u, t in zip(p[1:], times[1:], strict=True):
        mean = grid.integrate(u * grid.centers[0])
        np.testing.assert_allclose(mean, PROCESS.moved(jnp.array(1.5), 0.0, t, 0.0), rtol=1e-3)
        variance = grid.integrate(u * (grid.centers[0] - mean) ** 2)
        parts = PROCESS.moved(jnp.array([0.025, 0.0]), 0.0, t, jnp.array([0.0, 1.0]))  # half a cell apart at the start
        np.testing.assert_allclose(variance, jnp.sum(parts**2), rtol=1e-4)


def test_axes_are_independent():
    force = PROCESS.equation(3).drift
    for k, name in enumerate("xyz"):
        np.testing.assert_allclose(force[k](**{"t": 0.4, name: 2.0}), -PROCESS.rate(0.4), rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_precision_is_that_of_the_data(dtype):
    x = jnp.ones((2, 3), dtype)
    assert PROCESS.noised(x, 0.3, x).dtype == PROCESS.moved(x, 0.1, 0.3, x).dtype == dtype
    each = PROCESS.noised(x, jnp.array([[0.1], [0.9]]), 0 * x)
    np.testing.assert_allclose(each[:, 0], PROCESS.signal(jnp.array([0.1, 0.9])), rtol=1e-6)


@pytest.mark.parametrize("ends", [(-6.0, 8.0), (8.0,), (8.0, np.nan), (np.inf, -6.0), "8, -6", (8.0, 8.0)])
def test_schedules_that_are_none_are_refused(ends):
    with pytest.raises((ValueError, TypeError), match="log_snr") as raised:
        Process(ends)
    assert "\n" not in str(raised.value)


def test_an_equation_has_one_to_three_axes():
    with pytest.raises(ValueError, match="1 to 3 axes, got ndim=4"):
        PROCESS.equation(4)


def test_a_process_does_not_move_backwards_by_noise():
    with pytest.raises(ValueError, match="moves from start to a later end, got 0.6 and 0.4"):
        Process().moved(np.zeros(3), 0.6, 0.4, np.zeros(3))
