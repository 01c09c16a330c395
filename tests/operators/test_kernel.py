"""Two products in one pass by a kernel of our own: interpreted here against the compiler's, and lowered for CUDA."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.operators import axis_sum, chebyshev
from jaxdiff.operators.kernel import leapfrog

PLANE = jd.Grid.uniform((0.0, 1.0, 21), (0.0, 2.0, 150))  # more than one tile each way, and not a whole number of them
BOX = jd.Grid.uniform((0.0, 1.0, 3), (0.0, 1.0, 7), (0.0, 1.0, 140))
WALLS = {
    "open": {"x-": jd.Dirichlet(1.0), "y+": jd.Robin(2.0, 0.1)},
    "a ring": {"x": jd.Periodic()},
    "rings": jd.Periodic(),
}


def varying(grid):
    return np.random.default_rng(0).random(grid.shape) + 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "grid, walls, level",
    [
        (PLANE, "open", True),
        (PLANE, "a ring", False),
        (PLANE, "rings", False),
        (BOX, "open", False),
        (BOX, "rings", True),
    ],
    ids=["open plane", "cylinder", "torus", "open box", "torus of three axes"],
)
def test_it_does_what_two_products_do(grid, walls, level):
    equation = jd.Diffusion(1.0 if level else varying(grid), decay=0.3, boundaries=WALLS[walls])

    @jax.jit
    def each(a, b):
        operator = jd.FiniteVolume().systems(equation, grid)[0].operator(0.0)
        once = operator.action(1 / operator.bound(), 0.2)
        return leapfrog(*once.args, interpret=True)(a, b), (a + once(b), b - once(a + once(b)))

    a, b = np.random.default_rng(1).normal(size=(2, 2, *grid.shape))  # two states at once
    for found, expected in zip(*each(a, b), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-14)


def run(d, kernel, grid=PLANE):
    equation = jd.Diffusion(d, source=lambda x, y: x, boundaries={"x-": jd.Dirichlet(1.0)})
    start = lambda x, y: x * y
    return jd.solve(equation, grid, start, [0.0, 1e-3], stepper=jd.Exponential(kernel=kernel)).values


@pytest.mark.slow
def test_a_solve_by_it_and_its_derivatives(monkeypatch):
    d = varying(PLANE)

    def squares(d, kernel):
        values = run(d, kernel)
        return jnp.sum(values[-1] ** 2), values

    derivative = lambda kernel: jax.jit(jax.grad(partial(squares, kernel=kernel), has_aux=True))(d)
    slope, plain = derivative(False)
    monkeypatch.setattr(axis_sum, "leapfrog", partial(leapfrog, interpret=True))
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *x, cuda, default: cuda(*x))
    jax.clear_caches()
    by_kernel, values = derivative(True)
    np.testing.assert_allclose(values, plain, atol=1e-12)
    np.testing.assert_allclose(by_kernel, slope, atol=1e-12 * np.abs(slope).max())
    jax.clear_caches()


@pytest.mark.slow
def test_it_is_compiled_for_cuda_alone():
    operator = jax.jit(lambda: jd.FiniteVolume().systems(jd.Diffusion(varying(BOX)), BOX)[0].operator(0.0))()
    end, u = jnp.array([1e-4]), varying(BOX)

    def lowered(kernel, platform):
        program = jax.jit(lambda u: chebyshev(operator, end, u, terms=32, needed=32.0, kernel=kernel))
        return program.trace(u).lower(lowering_platforms=(platform,)).as_text()

    assert "triton" in lowered(True, "cuda")
    assert "triton" not in lowered(False, "cuda") and "triton" not in lowered(True, "cpu")


@pytest.mark.slow
def test_where_it_does_not_hold_the_compiler_serves():
    drifting = jd.FokkerPlanck((0.1, lambda x, y: x * y), lambda x, y: 0.1 + x)
    one, two = (
        jd.solve(drifting, PLANE, 1.0, [0.0, 1e-3], stepper=jd.Exponential(kernel=kernel)).values
        for kernel in (False, True)
    )
    np.testing.assert_array_equal(one, two)
