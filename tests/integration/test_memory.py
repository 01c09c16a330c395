"""What a run needs, foretold and compared with what the compiler allocates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.integration.evolve import evolve
from jaxdiff.integration.options import SolverOptions
from jaxdiff.integration.plan import prepare

PLANE = jd.Grid.uniform((0.0, 1.0, 64), (0.0, 1.0, 64))
BOX = jd.Grid.uniform((0.0, 1.0, 16), (0.0, 1.0, 16), (0.0, 1.0, 16))
LINE = jd.Grid.uniform((0.0, 1.0, 20000))
RUNS = {
    "line": (jd.Diffusion(1.0), LINE, 3, {}, False),
    "line, many times": (jd.Diffusion(1.0), LINE, 32, {}, False),
    "contours": (jd.Diffusion(1.0), LINE, 32, {"tolerance": 1e-6}, False),
    "segments": (jd.FokkerPlanck(1.0, 1.0), LINE, 4, {}, False),
    "order 4": (jd.Diffusion(1.0), LINE, 2, {"scheme": jd.FiniteVolume(order=4)}, False),
    "line, implicit": (jd.Diffusion(1.0), LINE, 4, {"stepper": jd.TRBDF2()}, False),
    "chebyshev, four times": (jd.Diffusion(np.ones((64, 64))), PLANE, 4, {}, True),
    "fed": (jd.Diffusion(np.ones((64, 64)), source=np.ones((64, 64))), PLANE, 1, {}, True),
    "of time": (jd.Diffusion(lambda x, y: 1 + x * y, source=jd.TimeDependent(lambda t, x, y: x)), PLANE, 1, {}, False),
    "drift": (jd.FokkerPlanck((np.ones((64, 64)), -np.ones((64, 64))), np.ones((64, 64))), PLANE, 1, {}, False),
    "modes": (jd.Diffusion(1.0), PLANE, 4, {}, True),
    "explicit": (jd.Diffusion(np.ones((64, 64))), PLANE, 2, {"stepper": jd.RungeKutta4(), "substeps": 2}, True),
    "box": (jd.Diffusion(lambda x, y, z: 1 + x * y * z), BOX, 1, {}, False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_the_estimate_is_what_the_compiler_allocates(name):
    equation, grid, outputs, options, differentiate = RUNS[name]
    with jax.enable_x64(True):
        times = np.linspace(0.0, 1e-3, outputs + 1)
        plan = prepare(equation, grid, times, SolverOptions(**options))
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


@pytest.fixture
def small_machine(monkeypatch):
    monkeypatch.setattr("jaxdiff.integration.memory._room", lambda parts: (2.0**30, "this machine"))


@pytest.mark.parametrize("drift", [0.0, 1.0])
def test_one_axis_does_not_fit_either(small_machine, drift):
    grid = jd.Grid.uniform((0.0, 1.0, 3 * 10**6))
    equation = jd.FokkerPlanck(1.0, 1.0) if drift else jd.Diffusion(1.0)
    with pytest.raises(ValueError, match="^3000000 cells and 1 output time need about .* GiB, this machine has 1 free"):
        jd.solve(equation, grid, 0.0, [0.0, 1.0])
    readings = jd.Readings(grid, 0.0, np.linspace(0.0, 1.0, 2000), np.full(2000, 0.5), np.zeros(2000), sigma=1.0)
    marked = jd.FokkerPlanck(jd.Free(1.0), 1.0) if drift else jd.Diffusion(jd.Positive(1.0))
    with pytest.raises(ValueError, match="^3000000 cells and .* output times need about .* GiB"):
        jd.fit(marked, readings, progress=False)
    with pytest.raises(ValueError, match="^4000000 cells at rest need about .* GiB"):
        jd.steady_state(jd.Diffusion(1.0, boundaries=jd.absorbing), jd.Grid.uniform((0.0, 1.0, 4 * 10**6)))
