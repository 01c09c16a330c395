"""What an instrument makes of the state, and experiments with conditions of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

LINE = jd.Grid.uniform((0.0, 1.0, 40))
TIMES, PLACES = np.repeat(np.linspace(0.02, 0.3, 15), 2), np.tile([0.2, 0.6], 15)
COSINE = lambda x: jnp.cos(jnp.pi * x)
TRUE = np.cos(np.pi * PLACES) * np.exp(-0.5 * np.pi**2 * TIMES)
NOISE = 0.005 * np.random.default_rng(3).normal(size=30)


def offsets(D, offset):
    return jd.Observed(jd.Diffusion(D), observe=lambda u, sensor: u + offset[sensor])


def mixed(D, share, gain):
    """A share of what was there at first does not move, and a reading is a gain times the rest, less a square."""
    return jd.Observed(
        jd.Diffusion(D), COSINE, lambda u, x: gain * ((1 - share) * u + share * jnp.cos(jnp.pi * x)) ** 2
    )


@pytest.fixture(scope="module")
def fitted():
    readings = jd.Readings(LINE, COSINE, TIMES, PLACES, TRUE + np.tile([0.1, -0.05], 15) + NOISE, sigma=0.005)
    starts = {"D": jd.Positive(1.0), "offset": jd.Free(np.zeros(2))}
    return jd.fit(offsets, readings, parameters=starts, progress=False)


@pytest.mark.slow
def test_an_offset_for_each_sensor(fitted, tmp_path):
    """Found within error bars; each prediction knows which sensor it is, and nothing is said between sensors."""
    errors = fitted.standard_errors
    assert fitted.verdict.describes and abs(fitted.parameters["D"] - 0.5) < 3 * errors["D"]
    assert (np.abs(fitted.parameters["offset"] - [0.1, -0.05]) < 3 * errors["offset"]).all()
    (readings,) = fitted.measurements
    second = jd.Readings(LINE, readings.initial, [0.1, 0.2], [0.6, 0.6], [0.0, 0.0])
    exact = np.cos(0.6 * np.pi) * np.exp(-0.5 * np.pi**2 * np.array([0.1, 0.2])) - 0.05
    np.testing.assert_allclose(fitted.predict(second), exact, atol=0.01)
    with pytest.raises(ValueError, match="what is observed differs between sensors; predict at some of those"):
        fitted.predict(jd.Readings(LINE, readings.initial, [0.1], [0.5], [0.0]))
    assert "offset" in fitted.report(tmp_path / "fit.html").read_text(encoding="utf-8")
    again = jd.load(fitted.save(tmp_path / "fit.json"), offsets)
    with pytest.raises(ValueError, match="a loaded fit knows none; fit anew"):
        again.predict(readings)


@pytest.mark.slow
def test_a_part_held_out_counts_sensors_as_the_whole():
    values = TRUE + np.tile([0.1, -0.05], 15) + NOISE
    values[16::2] = np.nan  # the first sensor fails half way, so that the part held out has the second alone
    readings = jd.Readings(LINE, COSINE, TIMES, PLACES, values, sigma=0.005)
    starts = {"D": jd.Positive(1.0), "offset": jd.Free(np.zeros(2))}
    fit = jd.fit(offsets, readings, parameters=starts, progress=False, validation=0.2)
    assert fit.validation_loss < 4


@pytest.mark.slow
def test_a_mixture_seen_through_a_square():
    readings = jd.Readings(
        LINE, None, TIMES, PLACES, 3.0 * (0.7 * TRUE + 0.3 * np.cos(np.pi * PLACES)) ** 2 + NOISE, 0.005
    )
    starts = {"D": jd.Positive(1.0), "share": jd.Bounded(0.5, 0.0, 1.0), "gain": jd.Positive(1.0)}
    fit = jd.fit(mixed, readings, parameters=starts, progress=False)
    for name, true in (("D", 0.5), ("share", 0.3), ("gain", 3.0)):
        assert abs(fit.parameters[name] - true) < 3 * fit.standard_errors[name] < 0.2 * true


@pytest.mark.slow
def test_experiments_share_a_model_under_conditions_of_their_own(tmp_path):
    """D and h from three surroundings at once, each better known than from one; other conditions are predicted."""
    model = lambda D, h, ambient: jd.Diffusion(D, boundaries=jd.Robin(h, ambient))
    t, rng, data = np.linspace(0.05, 1.0, 12), np.random.default_rng(0), []
    for ambient in (0.0, 1.5, 3.0):
        states = jd.solve(model(0.4, 2.0, ambient), LINE, 1.0, np.append(0.0, t)).values[1:]
        values = jax.vmap(lambda u: LINE.interpolate(u, 0.5))(states) + 0.01 * rng.normal(size=12)
        data.append(jd.Readings(LINE, 1.0, t, np.full(12, 0.5), values, 0.01, conditions={"ambient": ambient}))
    starts = {"D": jd.Positive(1.0), "h": jd.Positive(1.0)}
    fit = jd.fit(model, data, parameters=starts, progress=False)
    assert fit.verdict.describes and len(fit.model) == 3
    for name, true in (("D", 0.4), ("h", 2.0)):
        assert abs(fit.parameters[name] - true) < 3 * fit.standard_errors[name]
    np.testing.assert_allclose(fit.predict(data[2]), data[2].values, atol=0.04)
    one = jd.Readings(LINE, 1.0, [0.5], [0.5], [0.0], conditions={"ambient": 1.5})
    np.testing.assert_allclose(fit.predict(one), np.interp(0.5, t, fit.predict(data[1])), atol=0.01)
    assert fit.report(tmp_path / "fit.html").exists()
    with pytest.raises(ValueError, match="the model differs between experiments; predict one of fit.measurements"):
        fit.predict(jd.Readings(LINE, 1.0, [0.5], [0.5], [0.0]))
    with pytest.raises(TypeError, match="missing a required argument: 'h'"):
        jd.fit(model, data[0], parameters={"D": 1.0}, progress=False)
    with pytest.raises(TypeError, match="conditions= belong to a model that is a function of them"):
        jd.fit(jd.Diffusion(jd.Free(1.0)), data[0], progress=False)
    with pytest.raises(ValueError, match="ambient is a parameter and a condition"):
        jd.fit(model, data[0], parameters={**starts, "ambient": 1.0}, progress=False)
    with pytest.raises(ValueError, match="the condition ambient must be finite"):
        jd.Readings(LINE, 1.0, [0.5], [0.5], [0.0], conditions={"ambient": np.nan})


def test_an_observation_is_refused_in_words():
    readings = jd.Readings(LINE, COSINE, TIMES, PLACES, TRUE)
    counts = jd.Histograms(LINE, 1.0, [1.0], np.ones((1, 40)))
    twice = lambda D: jd.Observed(jd.Diffusion(D), observe=lambda u: 2 * u)
    cases = [
        (lambda D: jd.Observed(jd.Diffusion(D), observe=lambda v, w: v), readings, "observe takes arguments of these names: u, t"),
        (lambda D: jd.Observed(D), readings, "jd.Observed takes an equation"),
        (twice, counts, "observe is of jd.Readings, got HistogramsPredictor"),
        (lambda D: jd.Observed(jd.Diffusion(D), observe=lambda u, y: u * y), readings, "observe takes arguments of these names"),
        (lambda D: jd.Observed(jd.Diffusion(D), observe=lambda u: (u, u)), readings, "observe: expected one number at each point"),
    ]  # fmt: skip
    for model, data, message in cases:
        with pytest.raises((TypeError, ValueError), match=message):
            jd.fit(model, data, parameters={"D": jd.Positive(1.0)}, progress=False)


SMALL, WHEN = jd.Grid.uniform((0.0, 1.0, 8)), np.repeat(np.linspace(0.1, 1.0, 6), 2)
HERE, THERE = np.tile([0.25, 0.75], 6), np.tile([0.75, 0.9], 6)
ONE = lambda x: 1.0 + 0.0 * x
STARTS = {"k": jd.Positive(0.5), "offset": jd.Free(np.zeros(2))}


def lossy(k, offset):
    return jd.Observed(jd.Diffusion(1.0, decay=k), observe=lambda u, sensor: u + offset[sensor])


def surrounded(k, ambient):
    return jd.Diffusion(1.0, decay=k, source=k * ambient)


def flat(k, places, conditions=None):
    values = np.exp(-k * WHEN) + np.tile([0.1, -0.2], 6)
    return jd.Readings(SMALL, ONE, WHEN, places, values, sigma=0.01, conditions=conditions)


def test_no_number_is_taken_for_that_of_another_sensor():
    """JAX takes the last entry where an index is beyond the end."""
    readings, short = flat(0.7, HERE), {**STARTS, "offset": jd.Free(np.zeros(1))}
    for run in (jd.fit, lambda model, one, **more: jd.fit_many(model, one, one.values[None], **more)):
        with pytest.raises(ValueError, match=r"observe reads an array of shape \(1,\) at 1, beyond its end"):
            run(lossy, readings, parameters=short, progress=False)
    known = np.array([0.1, -0.2])
    model = lambda k: jd.Observed(jd.Diffusion(1.0, decay=k), observe=lambda u, sensor: u + known[sensor])
    with pytest.raises(TypeError, match=r"use jnp.array\(…\)\[sensor\] in place of np.array"):
        jd.fit(model, readings, parameters={"k": 0.5}, progress=False)
    with pytest.raises(ValueError, match="sensors stand elsewhere in other measurements"):
        jd.fit(lossy, [readings, flat(0.7, THERE)], parameters=STARTS, progress=False)


@pytest.mark.slow
def test_sensors_keep_their_numbers():
    """Where one of them never reads, in what is held out, and in each of many data sets, whose sensors are others."""
    readings, other = flat(0.7, HERE), flat(0.4, THERE)
    dead = jd.Readings(SMALL, ONE, WHEN, HERE, np.where(HERE < 0.5, np.nan, readings.values), sigma=0.01)
    second = jd.Readings(SMALL, ONE, [0.3], [0.75], [np.exp(-0.21) - 0.2], sigma=0.01)
    found = jd.fit(lossy, dead, parameters=STARTS, progress=False)
    assert np.isnan(found.standard_errors["offset"][0]) and found.parameters["offset"][1] == pytest.approx(
        -0.2, abs=1e-6
    )
    held_out = jd.fit(lossy, readings, parameters=STARTS, progress=False, validation=second)
    assert held_out.validation_loss < 1e-3
    many = jd.fit_many(lossy, [readings, other], parameters=STARTS, progress=False)
    np.testing.assert_allclose(many.parameters["k"], [0.7, 0.4], rtol=1e-6)
    np.testing.assert_allclose(many.parameters["offset"], [[0.1, -0.2]] * 2, atol=1e-6)
    np.testing.assert_allclose(many.standard_errors["offset"][0], held_out.standard_errors["offset"], rtol=1e-6)
    np.testing.assert_allclose(many[1].predict(), other.values, atol=1e-6)
    more = {**STARTS, "offset": jd.Free(np.zeros(3))}  # of the same function, with one number too many
    assert "offset[2]" in str(jd.fit(lossy, readings, parameters=more, progress=False).notes)


@pytest.mark.slow
def test_each_of_many_data_sets_has_its_own_conditions():
    def under(ambient, k):
        values = ambient + (1 - ambient) * np.exp(-k * WHEN)
        return jd.Readings(SMALL, ONE, WHEN, HERE, values, sigma=0.01, conditions={"ambient": ambient})

    sets = [(under(0.0, 0.7), under(2.0, 0.7)), (under(3.0, 0.4), under(0.5, 0.4))]
    many = jd.fit_many(surrounded, sets, parameters={"k": jd.Positive(0.5)}, progress=False)
    np.testing.assert_allclose(many.parameters["k"], [0.7, 0.4], rtol=1e-6)
    np.testing.assert_allclose(many[1].predict(many[1].measurements[0]), sets[1][0].values, atol=1e-6)
    course = lambda *times: flat(0.7, HERE, conditions={"ambient": jd.Series(times, [0.0, 1.0])})
    with pytest.raises(ValueError, match="the Series of data set 1 have other times than those of the first"):
        jd.fit_many(surrounded, [course(0.0, 1.0), course(0.2, 0.5)], parameters={"k": 0.5}, progress=False)
    fit = jd.fit(surrounded, sets[0][0], parameters={"k": jd.Positive(0.5)}, progress=False)
    with pytest.raises(TypeError, match="missing a required argument: 'ambient'"):
        fit.predict(flat(0.7, HERE))


@pytest.mark.slow
def test_counts_and_paths_have_conditions_too():
    """Traps of two strengths, whose ratio is known: k and D from counts at rest in one, from a path in the other."""
    grid, rng = jd.Grid.uniform((-3.0, 3.0, 60)), np.random.default_rng(0)
    model = lambda D, k, pull: jd.FokkerPlanck(lambda x: -k * pull * x, D)
    counts, _ = np.histogram(rng.normal(0, np.sqrt(0.5), 20_000), grid.edges[0])
    rest = jd.Histograms(grid, None, [np.inf], counts[None], conditions={"pull": 1.0})
    path, a = [0.0], np.exp(-3 * 0.1)
    for _ in range(1000):
        path.append(a * path[-1] + np.sqrt(0.5 / 3 * (1 - a**2)) * rng.normal())
    moving = jd.Trajectory(grid, 0.1 * np.arange(1001), path, conditions={"pull": 3.0})
    starts = {"D": jd.Positive(1.0), "k": jd.Positive(2.0)}
    fit = jd.fit(model, [rest, moving], parameters=starts, progress=False)
    for name, true in (("D", 0.5), ("k", 1.0)):
        assert abs(fit.parameters[name] - true) < 3 * fit.standard_errors[name] < 0.3
    assert fit.equation_of(moving) is not fit.equation_of(rest)


@pytest.mark.slow
def test_experiments_alike_are_one_program_with_the_numbers_of_each():
    """The program does not grow with their number, and each is predicted as by itself, under its own condition and start."""
    from jaxdiff.inference.predictions import predictions
    from jaxdiff.model.observed import Observed

    def several(count):
        readings = [jd.Readings(LINE, k + 1.0, TIMES, PLACES, TRUE, sigma=0.005) for k in range(count)]
        models = [Observed(jd.Diffusion(0.5, decay=1.0 * k), k + 1.0, lambda u: 2.0 * u) for k in range(count)]
        models = [Observed(model.equation, model.initial, models[0].observe) for model in models]
        return [
            (one.prepare(model.equation, model.initial), model, k)
            for k, (one, model) in enumerate(zip(readings, models, strict=True))
        ]

    values = lambda count: [prediction.values for prediction in predictions(several(count))]
    programs = [jax.make_jaxpr(values, static_argnums=0)(count) for count in (3, 9)]
    largest = lambda program: max(len(str(equation)) for equation in program.eqns)
    assert largest(programs[0]) == pytest.approx(largest(programs[1]), rel=0.02)
    alone = jax.jit(lambda: [predictor.observed(model, k).values for predictor, model, k in several(3)])()
    for k, found in enumerate(jax.jit(values, static_argnums=0)(3)):
        np.testing.assert_allclose(found, alone[k], rtol=1e-12)
        np.testing.assert_allclose(found[:30], 2 * (k + 1) * np.exp(-k * TIMES), rtol=1e-6)


@pytest.mark.slow
def test_experiments_whose_start_the_model_makes_are_fitted_together():
    t, y = np.array([0.05, 0.1, 0.2]), 1 + np.cos(0.2 * np.pi) * np.exp(-0.4 * np.pi**2 * np.array([0.05, 0.1, 0.2]))
    model = lambda D, gain, i: jd.Observed(
        jd.Diffusion(D), lambda x: gain[0] + jnp.cos(jnp.pi * x), lambda u: gain[i] * u
    )
    several = lambda *which: [jd.Readings(LINE, None, t, [0.2] * 3, y, conditions={"i": i}) for i in which]
    starts = {"D": jd.Positive(0.5), "gain": jd.Fixed(np.ones(3))}
    fit = jd.fit(model, several(1, 2), parameters=starts, progress=False)
    assert abs(fit.parameters["D"] - 0.4) < 2e-3
    with pytest.raises(ValueError, match="at 5, beyond its end"):
        jd.fit(model, several(1, 5), parameters=starts, progress=False)
    large = lambda D, n: (jd.Diffusion(D * 1e-20 * n**2), lambda x: 1 + jnp.cos(jnp.pi * x))
    numbers = [jd.Readings(LINE, None, t, [0.2] * 3, y, conditions={"n": 10**10}) for _ in range(2)]
    fit = jd.fit(large, numbers, parameters={"D": jd.Positive(0.5)}, progress=False)
    assert abs(fit.parameters["D"] - 0.4) < 2e-3
