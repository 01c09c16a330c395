"""What crosses a floor has the shape that the signature says: jaxtyping's annotations against what is returned."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import jaxtyped

import jaxdiff as jd
from jaxdiff.integration.evolve import evolve
from jaxdiff.integration.plan import prepare
from jaxdiff.integration.solve import Solution
from jaxdiff.integration.steady import steady_state
from jaxdiff.measurements.predictor import Prediction
from jaxdiff.model.grid import Grid
from jaxdiff.transition import density

LINE, PLANE = jd.Grid.uniform((0.0, 1.0, 6)), jd.Grid.uniform((0.0, 1.0, 4), (0.0, 2.0, 5))
HEAT, TIMES = jd.Diffusion(1.0), np.array([0.0, 0.1, 0.3])


def holds(value, hint):
    """A union of jaxtyping is asked one by one: isinstance would look at classes alone."""
    return any(isinstance(value, one) for one in (typing.get_args(hint) or (hint,)))


@pytest.mark.slow
@pytest.mark.parametrize("grid", [LINE, PLANE])
def test_states(grid):
    solution, hints = jd.solve(HEAT, grid, 1.0, TIMES), typing.get_type_hints(Solution)
    with jaxtyped("context"):  # one T, and one number of cells along every axis, for all of these
        assert holds(solution.times, hints["times"]) and holds(solution.values, hints["values"])
        assert not holds(solution.values[:2], hints["values"])
        average = typing.get_type_hints(Grid.average)["return"]
        assert holds(grid.average(lambda *x: x[0]), average) and holds(grid.average(2.0), average)
        assert holds(grid.delta([0.3] * grid.ndim), typing.get_type_hints(Grid.delta)["return"])
        at_rest = jd.steady_state(jd.Diffusion(1.0, decay=1.0), grid)
        assert holds(at_rest, typing.get_type_hints(steady_state)["return"])
        plan = prepare(HEAT, grid, TIMES)
        values, _ = jax.jit(lambda u: evolve(HEAT, grid, u, plan))(grid.average(1.0))
        assert holds(values, typing.get_args(typing.get_type_hints(evolve)["return"])[0])


@pytest.mark.parametrize(
    "measurement",
    [
        jd.Readings(LINE, 1.0, [0.1, 0.1, 0.2], [0.2, 0.7, 0.2], [1.0, 1.0, 1.0]),
        jd.Histograms(LINE, 1.0, [0.1, 0.2], np.ones((2, 6))),
        jd.Trajectory(LINE, [0.0, 0.1, 0.2], [0.2, 0.3, 0.25]),
    ],
    ids=lambda one: type(one).__name__,
)
def test_predictions(measurement):
    model = jd.FokkerPlanck(0.0, 1.0) if isinstance(measurement, jd.Trajectory) else HEAT
    plan = measurement.prepare(model, jnp.ones(6))
    prediction = jax.jit(lambda u: plan.predict(model, u))(jnp.ones(6))
    assert holds(prediction.values, typing.get_type_hints(Prediction)["values"])


def test_transition_densities():
    terms = lambda x: -x, lambda x: 0.5 + 0.0 * x, lambda x: 0.0 * x
    plan = density.prepare(*terms, np.zeros(4), np.full(4, 0.1), np.full(4, 0.1), -5.0, 5.0)
    values, fine = typing.get_args(typing.get_type_hints(density.log_density)["return"])
    found = jax.jit(lambda: density.log_density(*terms, plan))()
    assert holds(found[0], values) and holds(found[1], fine) and len(found[0]) == 4
