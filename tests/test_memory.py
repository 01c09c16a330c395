"""What a run needs, foretold and compared with what the compiler allocates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.solve import evolve, prepare

PLANE = jd.Grid.uniform((0.0, 1.0, 64), (0.0, 1.0, 64))
BOX = jd.Grid.uniform((0.0, 1.0, 16), (0.0, 1.0, 16), (0.0, 1.0, 16))
RUNS = {
    "chebyshev": (jd.Diffusion(np.ones((64, 64))), PLANE, 1, {}, True),
    "chebyshev, four times": (jd.Diffusion(np.ones((64, 64))), PLANE, 4, {}, True),
    "fed": (jd.Diffusion(np.ones((64, 64)), source=np.ones((64, 64))), PLANE, 1, {}, True),
    "of time": (jd.Diffusion(lambda x, y: 1 + x * y, source=jd.TimeDependent(lambda t, x, y: x)), PLANE, 1, {}, False),
    "drift": (jd.FokkerPlanck((np.ones((64, 64)), -np.ones((64, 64))), np.ones((64, 64))), PLANE, 1, {}, True),
    "modes": (jd.Diffusion(1.0), PLANE, 4, {}, True),
    "explicit": (jd.Diffusion(np.ones((64, 64))), PLANE, 2, {"stepper": jd.RungeKutta4(), "substeps": 2}, True),
    "box": (jd.Diffusion(lambda x, y, z: 1 + x * y * z), BOX, 1, {}, False),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_estimate_is_what_the_compiler_allocates(name):
    equation, grid, outputs, options, differentiate = RUNS[name]
    with jax.enable_x64(True):
        times = np.linspace(0.0, 1e-3, outputs + 1)
        plan = prepare(equation, grid, times, **options)
        u = np.ones(grid.shape)
        run = lambda e: evolve(e, grid, u, plan)[0]
        for gradient in (False, True)[: 1 + differentiate]:
            program = jax.jit(jax.grad(lambda e: jnp.sum(run(e)[-1] ** 2)) if gradient else run)
            found = program.lower(equation).compile().memory_analysis()
            allocated = found.temp_size_in_bytes + found.output_size_in_bytes
            estimate = jd.memory_needed(equation, grid, times, gradient=gradient, **options)
            assert 0.5 < estimate / allocated < 2.0, (gradient, estimate, allocated)


def test_what_does_not_fit_is_refused_before_it_is_tried():
    grid = jd.Grid.uniform((0.0, 1.0, 10**6), (0.0, 1.0, 10**6))
    with pytest.raises(ValueError, match="1000000 × 1000000 cells and 1 output time need about .* GiB") as caught:
        jd.solve(jd.Diffusion(lambda x, y: 1.0 + x), grid, 0.0, [0.0, 1.0])
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="1000000 × 1000000 cells at rest need about .* GiB"):
        jd.steady_state(jd.Diffusion(1.0, boundaries=jd.absorbing), grid)
