"""Passages between walls that move: against closed forms, contours, integral equations beside steps, and published data."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.interpolate import CubicSpline

import jaxdiff as jd
from jaxdiff.inference.predictions import predictions
from jaxdiff.integration.passage_integrals import ByIntegrals, linear
from jaxdiff.integration.passage_steps import BySteps
from jaxdiff.integration.passage_times import ByContours
from jaxdiff.measurements.passage_predictor import Onset
from jaxdiff.model.observed import Observed
from jaxdiff.runtime.compilation import quick_jit
from jaxdiff.runtime.conditions import raise_failed

GRID = jd.Grid.uniform((-1.0, 1.0, 200))
TIMES = np.linspace(0.0, 2.0, 81)[1:]


def model(k, leak, b, rate, coherence=1.0):
    """Leaky evidence between bounds that collapse."""
    bound = lambda t: b * jnp.exp(-rate * t)
    evidence = jd.FokkerPlanck(lambda x: k * coherence - leak * x, 0.5, boundaries=jd.absorbing)
    return jd.Moving(evidence, lower=lambda t: -bound(t), upper=bound)


def densities(make, *numbers, origin=0.0, grid=GRID, way=None, times=TIMES):
    """Through the lower and the upper wall and through either, and survival, `(4, T)`."""
    data = jd.PassageTimes(grid, origin, times).at(np.tile(times, 4), np.repeat(np.arange(4), len(times)))
    with jax.enable_x64(True):
        predictor = data.prepare(make(*numbers), pad=False)
        if way is not None:
            predictor = replace(predictor, way=way)
        onset = Onset(jnp.asarray(origin), jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))
        run = quick_jit(lambda numbers, onset: predictor.predict(make(*numbers), onset).values)
        values = run(tuple(jnp.asarray(float(x)) for x in numbers), onset)
    return np.exp(np.asarray(values)).reshape(4, -1), predictor


@pytest.mark.slow
def test_steps_agree_with_integral_equations():
    by_integrals, predictor = densities(model, 4.9, 0.25, 2.27, 2.12)
    assert isinstance(predictor.way, ByIntegrals)
    by_steps, _ = densities(model, 4.9, 0.25, 2.27, 2.12, way=BySteps(128))
    assert np.abs(by_steps - by_integrals).max() < 5e-4 * by_integrals[:3].max()
    lower, upper, either, later = by_integrals
    assert np.abs(lower + upper - either).max() < 1e-6
    gone = CubicSpline(np.append(0.0, TIMES), np.append(0.0, either)).antiderivative()(TIMES)
    assert np.abs(gone + later - 1).max() < 1e-3


@pytest.mark.slow
def test_walls_that_stand_still_are_those_of_contours():
    """A leak between constant bounds, by contours; and a wall that moves by nothing, by integral equations."""
    still = lambda k, leak, b: jd.Moving(
        jd.FokkerPlanck(lambda x: k - leak * x, 0.5, boundaries=jd.absorbing), lower=-b, upper=b
    )
    slow = lambda k, leak, b: model(k, leak, b, 0.0)
    by_contours, predictor = densities(still, 1.3, 1.5, 1.2, origin=0.3)
    assert isinstance(predictor.way, ByContours)
    by_integrals, _ = densities(slow, 1.3, 1.5, 1.2, origin=0.3, way=ByIntegrals(512))
    assert np.abs(by_integrals - by_contours).max() < 1e-5


@pytest.mark.slow
def test_one_wall_that_falls_is_the_inverse_gaussian():
    """b − ct is met as b is by a drift of v + c; the other wall is far off."""
    v, c, b = 0.7, 0.5, 1.3
    falling = lambda v, c, b: jd.Moving(
        jd.FokkerPlanck(v, 0.5, boundaries=jd.absorbing), lower=-12.0, upper=lambda t: b - c * t
    )
    grid = jd.Grid.uniform((0.0, 1.0, 100))
    found, _ = densities(falling, v, c, b, origin=12.0 / (12.0 + b), grid=grid, way=ByIntegrals(512))
    closed = b / np.sqrt(2 * np.pi * TIMES**3) * np.exp(-((b - (v + c) * TIMES) ** 2) / (2 * TIMES))
    assert np.abs(found[1] - closed).max() < 1e-6


def test_walls_that_meet_let_all_out():
    meeting = lambda b, c: jd.Moving(
        jd.FokkerPlanck(0.4, 0.5, boundaries=jd.absorbing), lower=lambda t: c * t - b, upper=lambda t: b - c * t
    )
    (lower, upper, either, later), _ = densities(meeting, 1.0, 0.8)
    after = TIMES > 1.27
    assert np.isfinite(either).all() and later[after].max() < 1e-4 and either[after].max() < 1e-2
    assert abs((lower + upper).sum() * (TIMES[1] - TIMES[0]) - 1) < 2e-3


def test_which_way_is_taken():
    def way(equation, origin=0.0):
        return type(jd.PassageTimes(GRID, origin, [0.5, 0.7]).prepare(equation).way)

    evidence = lambda drift, D=0.5: jd.FokkerPlanck(drift, D, boundaries=jd.absorbing)
    fall = {"lower": -1.0, "upper": lambda t: 1.0 - 0.1 * t}
    assert way(jd.Moving(evidence(lambda x: 0.3 - 0.2 * x), **fall)) is ByIntegrals
    assert way(jd.Moving(evidence(0.3), **fall)) is ByIntegrals
    assert way(jd.Moving(evidence(lambda x: -(x**3)), **fall)) is BySteps
    assert way(jd.Moving(evidence(lambda x: -x, lambda x: 0.5 + 0.1 * x**2), **fall)) is BySteps
    assert way(evidence(jd.TimeDependent(lambda t: t))) is BySteps
    assert way(jd.Moving(evidence(0.3), lower=-1.0, upper=1.0)) is ByContours
    assert not linear(evidence(0.3), GRID)


@pytest.mark.slow
def test_leak_and_collapse_of_roitman_and_shadlen(measured):
    """−ln L of the published optimum, −313.795 by integral equations with 1,600 nodes; and of the optimum, where it is flat."""
    trials = pd.read_csv(measured("roitman_monkey1.csv"))
    trials = trials[(trials.reaction_time_s > 0.1) & (trials.reaction_time_s < 1.65)]
    experiments = jd.PassageTimes.from_table(
        trials, GRID, 0.0, time="reaction_time_s", side="correct", sides={1: "x+", 0: "x-"},
        conditions={"coherence": "motion_coherence"}, nondecision=0.2, lapse=0.02, window=2.0,
    )  # fmt: skip
    published = np.array([9.649262, 0.253203, 2.27, 2.124669, 0.170556])
    best, errors = np.array([10.071, 2.048, 1.5209, 1.8786, 0.21456]), np.array([0.41, 0.92, 0.25, 0.12, 0.019])
    with jax.enable_x64(True):
        predictors = [one.prepare(model(*best[:4])) for one in experiments]

        def loss(x, predictors):
            total = 0.0
            onset = Onset(jnp.zeros(()), x[4], jnp.asarray(0.02), jnp.zeros(()))
            made = [Observed(model(*x[:4], one.conditions["coherence"]), onset) for one in experiments]
            for found, one in zip(predictions(list(zip(predictors, made, range(6)))), predictors):
                total -= jnp.sum(found.values * one.weight)
            return total

        run = quick_jit(jax.value_and_grad(loss))
        assert abs(run(jnp.asarray(published), predictors)[0] + 313.795) < 0.05
        value, slope = run(jnp.asarray(best), predictors)
    assert abs(value + 321.875) < 0.05 and np.abs(slope * errors).max() < 0.5


@pytest.mark.parametrize(
    "message, given",
    [
        ("takes a jd.FokkerPlanck", {"equation": jd.Diffusion(1.0)}),
        ("one place or a function of time", {"upper": [1.0, 2.0]}),
        ("a wall does not jump", {"upper": jd.Series([0.0, 1.0], [1.0, 0.5], "previous")}),
    ],
)
def test_walls_that_cannot_be_are_refused(message, given):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        jd.Moving(**{"equation": jd.FokkerPlanck(0.0, 0.5, boundaries=jd.absorbing), **given})
    assert "\n" not in str(error.value)


def test_what_moves_must_absorb_or_reflect():
    leaky = jd.Moving(jd.FokkerPlanck(0.0, 0.5, boundaries=jd.Robin(1.0)), upper=lambda t: 1.0 - 0.1 * t)
    with pytest.raises(ValueError, match="absorbs or reflects"):
        jd.solve(leaky, GRID, GRID.delta(0.0), [0.0, 1.0])
    crossed = jd.Moving(jd.FokkerPlanck(0.0, 0.5, boundaries=jd.absorbing), lower=lambda t: 1.0 + t, upper=-1.0)
    data = jd.PassageTimes(GRID, 0.0, [0.5, 0.7])
    with jax.enable_x64(True), pytest.raises(ValueError, match="start at one place"):
        predictor = data.prepare(crossed, pad=False)
        raise_failed(quick_jit(lambda onset: predictor.predict(crossed, onset).checks)(data.initial))
