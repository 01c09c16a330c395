"""Steppers of one's own, one that solves and one that multiplies, and a way through time of one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

GAMMA = 1 - 0.5**0.5


class SDIRK2(jd.Stepper):
    """Alexander's method: two stages, second order, L-stable. doi:10.1137/0714068"""

    def step(self, system, t, dt, u):
        (A, b), (A_end, b_end) = system.at(t + GAMMA * dt, u), system.at(t + dt, u)
        first = A.resolvent(1.0, -GAMMA * dt)(A @ u + b)
        v = u + (1 - GAMMA) * dt * first
        return v + GAMMA * dt * A_end.resolvent(1.0, -GAMMA * dt)(A_end @ v + b_end)


class Heun(jd.Stepper):
    """The explicit trapezoidal rule, second order. doi:10.1007/978-3-540-78862-1, II.1"""

    reach = 2.0  # of Δt·|λ|max

    def step(self, system, t, dt, u):
        (A, b), (A_end, b_end) = system.at(t, u), system.at(t + dt, u)
        first = A @ u + b
        return u + dt / 2 * (first + A_end @ (u + dt * first) + b_end)


class DenseExponential(jd.Method):
    """The exponential of the whole matrix, with the forcing as one more column: for few cells on one axis."""

    def run(self, system, times, start, **_):
        A, b = system.at(times[0])
        matrix = jax.vmap(A.__matmul__, in_axes=1, out_axes=1)(jnp.eye(len(start), dtype=start.dtype))
        matrix = jnp.pad(jnp.concatenate([matrix, b[:, None]], axis=1), ((0, 1), (0, 0)))
        at = lambda t: (jax.scipy.linalg.expm(matrix * (t - times[0])) @ jnp.append(start, 1.0))[:-1]
        return jax.vmap(at)(times[1:]), jnp.zeros(2), []


LINE = jd.Grid.uniform((0.0, 1.0, 20))
PLANE = jd.Grid.uniform((0.0, 1.0, 6), (0.0, 1.0, 5))
TIMES = np.array([0.0, 0.02, 0.05])
BUMP = lambda x: jnp.exp(-20 * (x - 0.4) ** 2)
HEATED = {"source": lambda x: x, "boundaries": {"x+": jd.Dirichlet(0.5)}}


@pytest.mark.slow
def test_steppers_and_a_method_from_outside():
    with jax.enable_x64(True):
        steady = jd.Diffusion(0.3, **HEATED)
        exact = jd.solve(steady, LINE, BUMP, TIMES)
        errors = []
        for stepper, substeps in ((SDIRK2(), 16), (SDIRK2(), 32), (Heun(), 32)):
            found = jd.solve(steady, LINE, BUMP, TIMES, stepper=stepper, substeps=substeps)
            errors.append(np.abs(found.values - exact.values).max())
        assert found.method == "Heun, 32 steps per interval" and errors[2] < 1e-4
        assert abs(np.log2(errors[0] / errors[1]) - 2) < 0.1

        try:
            jd.solve(steady, LINE, BUMP, TIMES, stepper=Heun(), substeps=2)
        except ValueError as error:
            assert "Heun is unstable with a step of" in str(error)
        else:
            raise AssertionError("a step beyond its reach was not refused")

        whole = jd.solve(steady, LINE, BUMP, TIMES, stepper=DenseExponential())
        np.testing.assert_allclose(whole.values, exact.values, atol=1e-9)
        assert whole.method == "DenseExponential"
        assert 0 < jd.memory_needed(steady, LINE, TIMES, stepper=DenseExponential(), gradient=True) < 1e6

        # On several axes, with coefficients that depend on time, differentiated inside jit.
        def mean(rate):
            plate = jd.Diffusion(1.0, decay=jd.TimeDependent(lambda t, x, y: rate * t))
            return PLANE.integrate(jd.solve(plate, PLANE, 1.0, [0.0, 1.0], stepper=SDIRK2(), substeps=16).values[-1])

        value, slope = jax.jit(jax.value_and_grad(mean))(0.5)
        np.testing.assert_allclose([value, slope], np.exp(-0.25) * np.array([1.0, -0.5]), rtol=1e-3)

        at = np.tile(np.asarray(LINE.centers[0])[[4, 14]], 2)
        noise = 1e-3 * np.random.default_rng(0).standard_normal(4)
        values = np.asarray(exact.values)[1:, [4, 14]].ravel() + noise
        readings = jd.Readings(LINE, BUMP, np.repeat(TIMES[1:], 2), at, values, sigma=1e-3)
        fit = jd.fit(jd.Diffusion(jd.Positive(0.2), **HEATED), readings, progress=False, stepper=DenseExponential())
        assert abs(fit.parameters["diffusivity"] - 0.3) < 3 * fit.standard_errors["diffusivity"] < 0.05


class Late(jd.Method):
    """A way that returns the start as well."""

    def run(self, system, times, start, **_):
        return jnp.tile(start, (len(times), 1)), jnp.zeros(2), []


class Fewer(jd.Stepper):
    """A step that loses a cell."""

    def step(self, system, t, dt, u):
        return u[1:]


def test_a_method_from_outside_is_held_to_what_it_returns_and_says():
    fading = jd.Diffusion(0.3, decay=jd.TimeDependent(lambda t: 50.0 * t))
    refusals = (
        ("constant in time, or to say varying = True", fading, DenseExponential()),
        ("Late must return states of shape (2, 20)", jd.Diffusion(0.3), Late()),
        ("Fewer must return contents of shape (20,)", jd.Diffusion(0.3), Fewer()),
    )
    for words, equation, way in refusals:
        try:
            jd.solve(equation, LINE, 1.0, TIMES, stepper=way)
        except ValueError as error:
            assert words in str(error) and "\n" not in str(error)
        else:
            raise AssertionError(words)
