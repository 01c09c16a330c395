"""Times of first passage: densities against closed forms, fits against published data, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxdiff as jd
from jaxdiff import exact
from jaxdiff.integration.passage_closed_forms import ByClosedForms
from jaxdiff.integration.passage_lines import ByLine
from jaxdiff.integration.passage_times import ByContours
from jaxdiff.measurements.passage_curves import drawn, fitted
from jaxdiff.measurements.passage_predictor import Onset
from jaxdiff.measurements.stacks import Redraw

WIDTH, NOISE = 2.0, 0.5  # a and D = σ²/2
FINE = jd.Grid.uniform((0.0, WIDTH, 400))
TIMES = np.linspace(0.0, 12.0, 2401)[1:]
COARSE = jd.Grid.uniform((-1.0, 1.0, 60))


def decision(drift, bound=1.0):
    """In x/B, so that the bound may be fitted on one grid."""
    pushed = (lambda x: drift(x) / bound) if callable(drift) else drift / bound
    return jd.FokkerPlanck(pushed, NOISE / bound**2, boundaries=jd.absorbing)


@pytest.fixture(scope="module", params=["numbers", "functions"])
def densities(request):
    """(drift, origin) ↦ densities through the lower and the upper wall and through either, and survival, `(4, T)`: one program."""
    measured = jd.PassageTimes(FINE, 1.0, TIMES).at(np.tile(TIMES, 4), np.repeat(np.arange(4), len(TIMES)))
    told = (lambda v: v) if request.param == "numbers" else (lambda v: lambda x: v)
    of_drift = lambda v: jd.FokkerPlanck(told(v), NOISE, boundaries=jd.absorbing)
    predictor = measured.prepare(of_drift(0.0), pad=False)
    assert type(predictor.way) is (ByClosedForms if request.param == "numbers" else ByContours)
    predict = jax.jit(lambda v, x: predictor.predict(of_drift(v), Onset(x, jnp.zeros(()), jnp.zeros(()))).values)
    return lambda v, x: np.exp(np.asarray(predict(jnp.asarray(v), jnp.asarray(x)))).reshape(4, -1)


@pytest.mark.parametrize("drift, start", [(1.3, 1.0), (1.3, 0.74), (-3.0, 1.5), (0.0, 1.0)])
def test_densities_are_those_of_the_closed_forms(densities, drift, start):
    lower, upper, either, later = densities(drift, start)
    images = np.arange(-60, 61) * WIDTH  # the series for short times beside the one for long ones
    early = TIMES < 0.5
    for density, side in ((lower, "lower"), (upper, "upper")):
        x, v = (start, drift) if side == "lower" else (WIDTH - start, -drift)
        closed = exact.exit_density(TIMES, start, WIDTH, NOISE, drift, side=side)
        t, away = TIMES[early, None], x + 2 * images
        spread = away * np.exp(-(away**2) / (4 * NOISE * t)) / np.sqrt(4 * np.pi * NOISE * t**3)
        closed[early] = np.sum(spread, axis=1) * np.exp(-v * x / (2 * NOISE) - v**2 * TIMES[early] / (4 * NOISE))
        assert np.abs(density - closed).max() < 1e-6 * max(lower.max(), upper.max())
    assert np.abs(lower + upper - either).max() < 1e-6


def test_moments_are_those_of_the_closed_forms(densities):
    drift = 1.3
    lower, upper, either, later = densities(drift, WIDTH / 2)
    h = TIMES[0]
    middle, end, begin = either[::2], either[1::2], np.append(0.0, either[1:-1:2])
    gone = np.cumsum(begin + 4 * middle + end) * h / 3  # Simpson's rule
    assert np.abs(gone + later[1::2] - 1).max() < 1e-6
    chance = 1 / (1 + np.exp(-drift * WIDTH / (2 * NOISE)))
    assert abs(upper.sum() * h / chance - 1) < 1e-5
    mean = WIDTH / (2 * drift) * np.tanh(drift * WIDTH / (4 * NOISE))
    assert abs((h / 2 + later.sum() * h) / mean - 1) < 1e-4


@pytest.mark.slow
def test_one_wall_and_a_density_of_origins():
    """Over a barrier to the one wall that absorbs, in times of which the mean is known from the backward equation."""
    grid, times = jd.Grid.uniform((-1.5, 1.0, 200)), np.geomspace(1e-4, 400.0, 6001)
    escape = jd.FokkerPlanck(jd.Polynomial([0.0, 2.0, 0.0, -2.0]), 0.25, boundaries={"x+": jd.absorbing})
    start = lambda x: jnp.exp(-50 * (x + 1) ** 2)
    data = jd.PassageTimes(grid, start, times, censored=np.ones(len(times)))
    predictor = data.prepare(escape, pad=False)
    later = np.exp(np.asarray(jax.jit(lambda onset: predictor.predict(escape, onset).values)(data.initial)))
    mean = float(
        grid.integrate(grid.average(start) * jd.mean_first_passage_time(escape, grid))
        / grid.integrate(grid.average(start))
    )
    assert abs((times[0] + np.trapezoid(later, times)) / mean - 1) < 1e-3 and mean > 10


@pytest.mark.slow
def test_a_drift_that_carries_far():
    """Against the inverse Gaussian law, whose likelihood is largest at v = x/mean(t): from where contours do to where they do not."""
    u = (np.arange(40) + 0.5) / 40
    t = np.linspace(1e-4, 0.06, 60001)
    g = np.exp(-((1 - 60 * t) ** 2) / (2 * t)) / np.sqrt(2 * np.pi * t**3)
    times = np.interp(u, np.cumsum(g) / g.sum(), t)
    data = jd.PassageTimes(jd.Grid.uniform((-1.0, 1.0, 400)), 0.0, times, "x+")
    pushed = lambda drift: decision(lambda x: drift)
    fit = jd.fit(pushed, data, parameters={"drift": jd.Positive(20.0)}, progress=False)
    assert fit.converged and isinstance(fit.problem.predictors[0].way, ByLine) and fit.verdict.describes
    assert abs(fit.parameters["drift"] * times.mean() - 1) < 1e-4
    assert abs(fit.standard_errors["drift"] * np.sqrt(times.sum()) - 1) < 0.01
    density = np.exp(fit.predict())
    closed = np.exp(-((1 - fit.parameters["drift"] * times) ** 2) / (2 * times)) / np.sqrt(2 * np.pi * times**3)
    assert np.abs(density - closed).max() < 2e-3 * closed.max()  # what 400 cells leave, and 800 a fourteenth of


@pytest.mark.slow
def test_decisions_of_roitman_and_shadlen(measured):
    """The published trials of monkey 1, against the optimum of the exact likelihood, 205.486559."""
    trials = pd.read_csv(measured("roitman_monkey1.csv"))
    trials = trials[(trials.reaction_time_s > 0.1) & (trials.reaction_time_s < 1.65)]
    experiments = jd.PassageTimes.from_table(
        trials, jd.Grid.uniform((-1.0, 1.0, 200)), 0.0,
        time="reaction_time_s", side="correct", sides={1: "x+", 0: "x-"}, conditions={"coherence": "motion_coherence"},
        nondecision="t0", lapse=0.02, window=2.0,
    )  # fmt: skip
    assert len(experiments) == 6 and sum(one.count for one in experiments) == 2611
    model = lambda k, B, coherence: decision(k * coherence, B)
    starts = {"k": jd.Positive(8.0), "B": jd.Positive(1.0), "t0": jd.Positive(0.2)}
    fit = jd.fit(model, experiments, parameters=starts, progress=False)
    assert fit.converged and not fit.notes
    assert abs(fit.loss - 205.486559) < 1e-4
    exactly = {"k": (10.3079, 0.220), "B": (0.74602, 0.0091), "t0": (0.30790, 0.0020)}
    for name, (value, error) in exactly.items():
        assert abs(fit.parameters[name] - value) < 0.005 * error
        assert abs(fit.standard_errors[name] / error - 1) < 0.03
    assert fit.verdict.describes is False  # errors are slower than a constant bound lets them be


@pytest.fixture(scope="module")
def simulated():
    """Trials drawn by the closed form, and the fit of drift, bound, nondecision time and bias."""
    rng, drift, bound, delay = np.random.default_rng(3), 1.2, 0.9, 0.25
    t = np.linspace(1e-3, 12.0, 6000)
    ends = [exact.exit_density(t, bound, 2 * bound, NOISE, drift, side=side) for side in ("lower", "upper")]
    chance = np.clip(np.stack(ends), 0.0, None)
    which = rng.choice(chance.size, 600, p=chance.ravel() / chance.sum())
    times, sides = delay + t[which % len(t)], np.where(which >= len(t), "x+", "x-")
    late = times > 2.0
    data = jd.PassageTimes(COARSE, jd.Free(0.05), np.minimum(times, 2.0), sides, late, nondecision=jd.Positive(0.2))
    starts = {"v": jd.Free(0.5), "B": jd.Positive(1.1)}
    return data, jd.fit(lambda v, B: decision(v, B), data, parameters=starts, validation=0.1, progress=False)


@pytest.mark.slow
def test_a_fit_finds_what_was_drawn(simulated):
    data, fit = simulated
    truth = {"v": 1.2, "B": 0.9, "initial.nondecision": 0.25, "initial.origin": 0.0}
    assert fit.converged and set(fit.parameters) == set(truth) and fit.verdict.describes
    for name, value in truth.items():
        assert abs(fit.parameters[name] - value) < 3 * fit.standard_errors[name] < 0.4
    assert data.censored.sum() == 9
    per_row = fit.loss / fit.measurements[0].count, fit.validation_loss / fit.held_out[0].count
    assert abs(per_row[0] - per_row[1]) < 0.4


@pytest.mark.slow
def test_a_fit_is_drawn_and_told(simulated, tmp_path):
    _, fit = simulated
    page = fit.report(tmp_path / "fit.html").read_text("utf-8")
    assert "passages" in page and "log-likelihood" in page
    table = fit.measurements[0].view(fit).table
    assert abs(np.sum(table["log density"]) + fit.loss) < 1e-6
    again = drawn(fit.measurements[0], fit, 40, np.random.default_rng(0), Redraw())
    course = fitted(fit.measurements[0], fit, 2.0)
    early = again[..., 0] < 1.0
    assert abs(early.mean() - (1 - np.interp(1.0, course.times, course.later))) < 4 * np.sqrt(0.25 / early.size)
    seen = again[..., 1] == 1
    assert abs(seen[early].mean() - course.upper.sum() / (course.upper + course.lower).sum()) < 0.02


@pytest.mark.slow
def test_data_are_drawn_anew_and_fitted(simulated):
    _, fit = simulated
    again = jd.bootstrap(fit, 16, progress=False)
    assert again.converged.mean() > 0.9
    for name, error in fit.standard_errors.items():
        assert 0.5 < again.standard_errors[name] / error < 2.0


@pytest.mark.slow
def test_what_is_earlier_than_the_model_allows_is_told():
    times = [0.05, *np.linspace(0.5, 2.0, 30)]
    data = jd.PassageTimes(COARSE, 0.0, times, "x+", nondecision="t0")
    fit = jd.fit(
        lambda v: decision(v), data, parameters={"v": jd.Free(1.0), "t0": jd.Bounded(0.3, 0.2, 0.5)}, progress=False
    )
    assert any("1 of 31 passages are earlier than the model allows" in note for note in fit.notes)


def test_conditions_of_a_table():
    trials = {
        "rt": [0.5, 0.7, 0.6, 0.9],
        "end": ["x+", None, "x-", "x+"],
        "c": [0.4, 0.1, 0.4, 0.1],
        "late": [0, 0, 0, 1],
    }
    weak, strong = jd.PassageTimes.from_table(
        trials, COARSE, 0.0, time="rt", side="end", censored="late", conditions=["c"], nondecision=jd.Positive(0.1)
    )
    assert weak.initial is strong.initial and weak.conditions == {"c": 0.1}
    assert list(weak.sides) == ["", ""] and list(weak.censored) == [False, True] and list(strong.sides) == ["x+", "x-"]
    with pytest.raises(ValueError, match="holds 1, and no names of walls"):
        jd.PassageTimes.from_table({"rt": [0.5], "correct": [1]}, COARSE, 0.0, time="rt", side="correct")


@pytest.mark.parametrize(
    "message, given",
    [
        ("above zero and finite, got -0.1 in row 1", {"times": [0.5, -0.1]}),
        ("a side is 'x-' or 'x\\+', or None where it is not known, got 'left' in row 0", {"sides": ["left", "x+"]}),
        ("within \\[0, 1\\), got 1", {"lapse": 1.0}),
        ("origin 0 at 3 lies outside the grid", {"origin": 3.0}),
        ("nondecision must be a time of zero or more", {"nondecision": -0.1}),
        ("the time 0.5 in row 0 is not above nondecision, 0.6", {"nondecision": 0.6}),
        ("censored must be True or False for each of 2 times", {"censored": [True]}),
        ("window must be", {"window": (2.0, 1.0)}),
        ("sides must be one for each of 2 times, got 1", {"sides": ["x+"]}),
    ],
)
def test_data_that_cannot_be_are_refused(message, given):
    with pytest.raises(ValueError, match=message) as error:
        jd.PassageTimes(**{"grid": COARSE, "origin": 0.0, "times": [0.5, 0.7], **given})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "message, equation",
    [
        ("no wall absorbs", jd.FokkerPlanck(1.0, 1.0)),
        (
            "row 0 left through x-, a wall that does not absorb",
            jd.FokkerPlanck(1.0, 1.0, boundaries={"x+": jd.absorbing}),
        ),
        ("leave killing, decay and sources out", jd.FokkerPlanck(0.0, 1.0, killing=0.1, boundaries=jd.absorbing)),
    ],
)
def test_models_without_passages_are_refused(message, equation):
    data = jd.PassageTimes(COARSE, 0.0, [0.5, 0.7], ["x-", "x+"])
    with pytest.raises(ValueError, match=message):
        data.prepare(equation)


@pytest.mark.slow
def test_a_text_names_a_parameter():
    data = jd.PassageTimes(COARSE, 0.0, [0.5, 0.7], nondecision="t1")
    with pytest.raises(ValueError, match="'t1' names no parameter; parameters= has v"):
        jd.fit(lambda v: decision(v), data, parameters={"v": 1.0}, progress=False)
    with pytest.raises(TypeError, match="an equation has none by name"):
        jd.fit(jd.FokkerPlanck(jd.Free(1.0), 0.5, boundaries=jd.absorbing), data, progress=False)
