"""Sweeps: each setting is the descent that `fit` takes, halving finds the same best, settings of other shapes go by groups."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff.inference import lanes
from jaxdiff.inference.sweep import _rungs

GRID, TIMES = jd.Grid.uniform((0.0, 1.0, 10)), np.repeat(np.linspace(0.02, 0.5, 25), 4)
PLACES = np.tile([0.1, 0.3, 0.6, 0.9], 25)
TRUTH = 1 + np.cos(np.pi * PLACES) * np.exp(-0.3 * np.pi**2 * TIMES)
VALUES = TRUTH + 0.02 * np.random.default_rng(2).normal(size=100)
MODEL = jd.Diffusion(jd.Positive(1.0), decay=jd.Free(0.2))


def readings():
    return jd.Readings(GRID, lambda x: 1 + jnp.cos(jnp.pi * x), TIMES, PLACES, VALUES, 0.02)


@pytest.fixture(scope="module")
def halved():
    grid = {"learning_rate": np.geomspace(1e-3, 1.0, 12), "batch_size": [20, None]}
    return jd.sweep(MODEL, readings(), grid, steps=100, progress=False)


@pytest.mark.slow
def test_each_setting_is_the_descent_of_a_fit():
    data = readings()
    grid = {"learning_rate": [0.02, 0.3], "optimizer": ["adam", "sgd"]}
    found = jd.sweep(MODEL, data, grid, steps=40, halving=False, progress=False)
    assert [one["optimizer"] for one in found.settings] == ["adam", "sgd"] * 2 and set(found.steps) == {40}
    for i in (0, 3):
        how = getattr(optax, found.settings[i]["optimizer"])(found.settings[i]["learning_rate"])
        fit = jd.fit(MODEL, data, optimizer=how, steps=40, validation=0.2, progress=False)
        assert found.validation_loss[i] == pytest.approx(fit.validation_loss, rel=1e-6)
        assert found.loss[i] == pytest.approx(fit.history[-1], rel=1e-6)


@pytest.mark.slow
def test_halving_finds_the_best_of_48_settings():
    """The heat equation with loss, 300 readings: 12 rates, 4 sizes of batches."""
    grid, times = jd.Grid.uniform((0.0, 1.0, 100)), np.linspace(0.01, 0.5, 50)
    start, places = lambda x: 1 + jnp.cos(jnp.pi * x), np.linspace(0.1, 0.9, 6)
    states = jd.solve(jd.Diffusion(0.3, decay=0.5), grid, start, np.append(0.0, times)).values[1:]
    values = np.array([np.interp(places, grid.centers[0], u) for u in np.asarray(states)]).ravel()
    values = values + 0.05 * np.random.default_rng(0).normal(size=300)
    data = jd.Readings(grid, start, np.repeat(times, 6), np.tile(places, 50), values, 0.05)
    model = jd.Diffusion(jd.Positive(1.0), decay=jd.Positive(2.0))
    settings = {"learning_rate": np.geomspace(1e-3, 1.0, 12), "batch_size": [16, 64, 128, None]}
    halved, whole = (jd.sweep(model, data, settings, halving=h, progress=False) for h in (True, False))
    assert halved.best == whole.best
    going = halved.steps == 150
    np.testing.assert_allclose(halved.validation_loss[going], whole.validation_loss[going], rtol=1e-9)
    assert sorted(np.unique(halved.steps, return_counts=True)[1]) == [3, 9, 36]
    assert halved.validation_loss[halved.order[0]] == pytest.approx(np.min(whole.validation_loss), rel=1e-9)


@pytest.mark.slow
def test_the_best_is_refitted_to_all_data(halved):
    fit, optimum = halved.fit, jd.fit(MODEL, readings(), progress=False)
    assert len(fit.measurements[0].values) == 100 and halved.fit is fit
    for name, error in optimum.standard_errors.items():
        assert abs(fit.parameters[name] - optimum.parameters[name]) < error
    frame = halved.to_frame()
    assert (
        list(frame.columns) == ["learning_rate", "batch_size", "steps", "loss", "validation loss"] and len(frame) == 24
    )
    assert "best: learning_rate" in str(halved) and "18 after" in str(halved) and halved.plot().axes


def test_minibatches_are_drawn_without_replacement_and_are_fair():
    from types import SimpleNamespace

    class Rows(SimpleNamespace):
        def holding(self, data):
            return Rows(**data)

    weight = jnp.array([1.0, 2.0, 3.0, 4.0, 0.0])  # the last row is padding
    problem = lanes.Problem(None, (Rows(weight=weight),), None)
    drawn = np.array([lanes.minibatch(problem, 2, jax.random.key(i)).predictors[0].weight for i in range(400)])
    assert ((drawn > 0).sum(1) == 2).all() and (drawn[:, 4] == 0).all()
    assert np.abs((drawn > 0).mean(0)[:4] - 0.5).max() < 4 * np.sqrt(0.25 / 400)
    np.testing.assert_array_equal(lanes.minibatch(problem, lanes.WHOLE, jax.random.key(0)).predictors[0].weight, weight)


@pytest.mark.slow
def test_networks_of_other_widths_and_numbers_of_the_model():
    data = readings()

    def model(width, start):
        network = jd.MLP(width, 1, key=jax.random.key(1), positive=True)
        return jd.Diffusion(network, decay=jd.Free(start))

    grid = {"width": [2, 3], "start": [0.1, 0.2], "learning_rate": [0.01, 0.05]}
    found = jd.sweep(model, data, grid, steps=30, halving=False, progress=False)
    assert len(found) == 8 and np.isfinite(found.validation_loss).all()
    assert len(set(np.round(found.validation_loss, 12))) == 8
    assert found.settings[5] == {"width": 3, "start": 0.1, "learning_rate": 0.05}
    alone = {name: [value] for name, value in found.settings[5].items()}
    one = jd.sweep(model, data, alone, steps=30, progress=False)
    assert one.validation_loss[0] == pytest.approx(found.validation_loss[5], rel=1e-9)


def test_the_ladder():
    assert _rungs(48, 150) == [(48, 20), (12, 55), (3, 150)]
    assert _rungs(3, 150) == [(3, 150)] and _rungs(4, 10) == [(4, 10), (3, 10)]
    assert _rungs(10_000, 3)[-1] == (3, 3)


def test_what_cannot_be_swept_is_refused_in_one_line():
    data, rates = readings(), {"learning_rate": [0.1]}
    own = lambda a, b: ((a - b) ** 4).sum()
    for grid, options, error, words in [
        ({}, {}, TypeError, "grid must be"),
        ({"learning_rate": 0.1}, {}, ValueError, "must be a list of values, got 0.1"),
        ({"learning_rate": [0.0]}, {}, ValueError, "positive number, got 0.0"),
        ({"rate": [0.1]}, {}, ValueError, "no option of the optimizer"),
        ({"optimizer": ["adams"]}, {}, ValueError, "got 'adams'"),
        ({"optimizer": ["adam", "sgd"], "b1": [0.9]}, {}, ValueError, "b1 is no option of every optimizer"),
        ({"batch_size": [0]}, {}, ValueError, "batch_size must be a positive whole number"),
        ({"batch_size": [4]}, {"loss": own}, ValueError, "leave out batch_size"),
        ({"learning_rate": list(range(1, 20_000))}, {}, ValueError, "up to 10000 settings"),
        (rates, {"validation": None}, ValueError, "data held out, got none"),
        (rates, {"steps": 0}, ValueError, "steps must be a positive whole number"),
    ]:
        with pytest.raises(error, match=words) as caught:
            jd.sweep(MODEL, data, grid, progress=False, **options)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"grid\['D'\] is a parameter too"):
        jd.sweep(lambda D: jd.Diffusion(D), data, {"D": [1.0]}, parameters={"D": 1.0}, progress=False)


def test_trainings_of_their_own_are_left_behind_too():
    taken = []

    def train(steps, rate):
        taken.append((rate, steps))
        if rate == 0.0:
            raise ValueError("a rate of nothing")
        return (rate - 3.0) ** 2 + 1.0 / steps, f"made at {rate}"

    rates = [0.0, *np.linspace(1.0, 6.0, 15)]
    found = jd.sweep(train, None, {"rate": rates}, steps=90, progress=False)
    assert found.best["rate"] == pytest.approx(3.0, abs=0.2) and found.fit == f"made at {found.best['rate']}"
    assert sorted({steps for _, steps in taken}) == [12, 33, 90] and sum(steps == 90 for _, steps in taken) == 3
    assert "the first that failed: a rate of nothing" in str(found) and "validation loss" in str(found)
    for model, grid, error, words in [
        (train, {"rate": [0.0]}, ValueError, "none of 1 settings could be trained: a rate of nothing"),
        (lambda steps, a: 1.0, {"a": [1]}, TypeError, "must return .loss on data held out, what it made."),
        (jd.Diffusion(1.0), {"a": [1]}, TypeError, "must be a training of its own, got Diffusion"),
    ]:
        with pytest.raises(error, match=words):
            jd.sweep(model, None, grid, progress=False)
