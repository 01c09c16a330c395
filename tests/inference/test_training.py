"""Gradient descent: schedules, held-out data, averages, files and interruptions."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff.inference.gradient_descent import METHODS, Descent, Saved, init, run, train
from jaxdiff.runtime.checkpoints import digest
from jaxdiff.runtime.progress import Progress

GRID, TIMES = jd.Grid.uniform((0.0, 1.0, 12)), np.linspace(0.05, 2.0, 40)
VALUES = 1.3 * np.exp(-0.5 * TIMES) + np.random.default_rng(0).normal(0, 0.02, 40)
READINGS = jd.Readings(GRID, lambda x: 1 + x, TIMES, np.full(40, 0.3), VALUES, sigma=0.02)
METHOD = Descent("adam", learning_rate=0.02, patience=900, average=0.9, every=5)


def trained(**options):
    model = jd.Diffusion(jd.Positive(0.2), decay=jd.Positive(1.0))
    options = {"steps": 600, "progress": False, "validation": 0.25, "batch_size": 12, "optimizer": METHOD, **options}
    return jd.fit(model, READINGS, key=jax.random.key(3), **options)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
import test_training
test_training.trained(save=sys.argv[1], callback=lambda step, *_: step >= 300 and os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.fixture(scope="module")
def whole():
    return trained()


def same(one, other):
    assert one.parameters == other.parameters and one.validation_loss == other.validation_loss
    np.testing.assert_array_equal(one.history, other.history)
    np.testing.assert_array_equal(one.validation_history, other.validation_history)


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_numbers(whole, tmp_path):
    path = tmp_path / "training.npz"
    died = subprocess.run(
        [sys.executable, "-c", KILLED, path, os.path.dirname(__file__)], capture_output=True, text=True
    )
    assert died.returncode == -signal.SIGKILL, died.stderr[-500:]
    with np.load(path) as stored:
        assert 0 < len(stored["history"]) <= 300
    assert [file.name for file in tmp_path.iterdir()] == ["training.npz"]
    steps = []
    same(trained(save=path, callback=lambda step, *_: steps.append(step)), whole)
    assert steps[0] > 5 and steps[-1] == 600
    same(trained(save=path, callback=steps.clear), whole)  # done: nothing is left to do


@pytest.mark.slow
def test_held_out_data_and_averages_decide(whole):
    steps, losses = whole.validation_history.T
    np.testing.assert_array_equal(steps, np.arange(0, 601, 5))
    assert whole.validation_loss == pytest.approx(losses.min(), rel=1e-9)
    assert f"step {int(steps[losses.argmin()])}, where" in " ".join(whole.notes)
    assert 0.4 < whole.parameters["decay"] < 0.6


@pytest.mark.slow
def test_a_full_disk_costs_no_training(whole, tmp_path, monkeypatch):
    path, write, full = tmp_path / "training.npz", np.savez, []

    def savez(file, **arrays):
        if full:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, **arrays)
        full.append(len(arrays["history"]))

    monkeypatch.setattr(np, "savez", savez)
    with pytest.warns(UserWarning, match="cannot be written: No space left on device.*; the training goes on") as told:
        found = trained(save=path)
    assert len(told) == 1 and "No space left" in " ".join(found.notes)
    same(found, whole)
    monkeypatch.setattr(np, "savez", write)
    with np.load(path) as stored:
        assert len(stored["history"]) == full[0] < 600
    assert [file.name for file in tmp_path.iterdir()] == ["training.npz"]
    same(trained(save=path), whole)
    more = trained(save=path, steps=700)
    assert len(more.history) == 700
    np.testing.assert_array_equal(more.history[:600], whole.history)


@pytest.mark.slow
def test_ctrl_c_and_callbacks_end_it_with_the_best_so_far(whole):
    def interrupt(step, loss, held_out, parameters):
        assert held_out > 0 and set(parameters) == {"diffusivity", "decay"}
        if step == 200:
            raise KeyboardInterrupt
        return step == 400

    found = trained(callback=interrupt)
    assert "interrupted at step 200 of 600" in found.notes[0] and not found.converged
    looks = whole.validation_history
    np.testing.assert_array_equal(found.validation_history, looks[: len(found.validation_history)])
    assert found.validation_loss == pytest.approx(found.validation_history[:, 1].min(), rel=1e-9)
    stopped = trained(callback=lambda step, *_: step >= 100)
    assert "stopped by the callback at step 100 of 600" in stopped.notes[0] and len(stopped.history) == 100
    stopped = trained(optimizer=None, batch_size=None, callback=lambda *_: True)
    assert "stopped by the callback" in stopped.notes[0] or stopped.converged


@pytest.mark.slow
def test_patience_ends_it():
    found = trained(optimizer=Descent("adam", learning_rate=0.5, patience=20, every=5))
    steps, losses = found.validation_history.T
    assert steps[-1] == len(found.history) < 600 and steps[-1] - steps[losses.argmin()] >= 20
    assert f"stopped early at step {int(steps[-1])} of 600" in found.notes[0]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"batch_size": 41}, ValueError, "batch_size is larger than the data, got 41 of 30 rows"),
        ({"validation": None}, ValueError, "patience stops by the loss on held-out data, and there are none"),
        ({"save": "nowhere/training.npz"}, ValueError, "in a folder that does not exist"),
        ({"save": "."}, ValueError, "cannot be read as saved results"),
        (
            {"save": "x.npz", "optimizer": jd.LevenbergMarquardt(), "batch_size": None},
            ValueError,
            "save needs an optax",
        ),
        ({"save": 3}, TypeError, "save must be the path of a file, got 3"),
        ({"optimizer": "lbfgs"}, ValueError, "lbfgs compares the loss of its steps; pass optimizer='adam'"),
        ({"callback": 3}, TypeError, "callback must be a function"),
        ({"optimizer": "adm"}, ValueError, "unknown optimiser 'adm'; did you mean 'adam'"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(options, error, words):
    with pytest.raises(error, match=words) as caught:
        trained(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patience": 0}, "patience must be a positive whole number"),
        ({"every": 0}, "every must be a positive whole number"),
        ({"average": 1.0}, "average must be a decay above 0 and below 1"),
        ({"average": 0}, "average must be"),
        ({"learning_rate": -1.0}, "learning_rate must be a number above zero"),
        ({"learning_rate": "fast"}, "learning_rate must be"),
        ({"method": optax.adam(0.1), "learning_rate": 0.1}, "which has its own"),
        ({"method": "LBFGS"}, "unknown optimiser 'LBFGS'"),
    ],
)
def test_a_descent_out_of_range_is_refused(options, words):
    with pytest.raises(ValueError, match=words) as caught:
        Descent(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_file_of_another_training_is_refused(tmp_path):
    few = {"steps": 10, "save": tmp_path / "training.npz"}
    trained(**few)
    for other in (
        Descent("adam", learning_rate=0.01, patience=900, average=0.9, every=5),
        Descent("sgd", patience=900),
    ):
        with pytest.raises(ValueError, match="of another model, other data or options"):
            trained(optimizer=other, **few)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_by_name_falls(method):
    optimizer = Descent(method).transformation
    assert optimizer is Descent(method).transformation
    assert digest(optimizer) != digest(Descent(method, 0.03).transformation)


@pytest.mark.slow
def test_one_evaluation_a_step_finds_the_optimum_in_either_precision():
    plain = {"batch_size": None, "validation": None}
    best = trained(optimizer=None, **plain)
    for dtype in (jnp.float64, jnp.float32):
        found = trained(optimizer="lbfgs", dtype=dtype, **plain)
        assert found.converged and len(found.history) < 60
        for name, error in best.standard_errors.items():
            assert abs(found.parameters[name] - best.parameters[name]) < 0.03 * error


def test_one_evaluation_a_step_goes_down_a_bent_valley():
    """Rosenbrock's function in ten coordinates, from its usual start."""
    loss = lambda z, key: (jnp.sum(100 * (z[1:] - z[:-1] ** 2) ** 2 + (1 - z[:-1]) ** 2), True)
    method = Descent("lbfgs").transformation
    found = run(loss, method, jnp.inf, init(method, np.tile([-1.2, 1.0], 5), 300, jax.random.key(0)), 300, False)
    assert found.done and int(found.iteration) < 150
    np.testing.assert_allclose(found.z, 1.0, rtol=1e-8)


# -------------------------------------------------------------- without models: a net that learns a curve from batches


X = np.linspace(-1.0, 1.0, 256)


def taught(steps, method, **options):
    """A net of one layer for sin 3x: what a loss of batches of rows needs, and nothing of this package's models."""
    weights, rebuild = jax.flatten_util.ravel_pytree(
        {"in": jax.random.normal(jax.random.key(0), (2, 12)), "out": jnp.zeros(12)}
    )
    curve = lambda net, x: jnp.tanh(x[:, None] * net["in"][0] + net["in"][1]) @ net["out"]
    traces = []

    def loss(z, key):
        traces.append(None)
        x = jnp.asarray(X)[jax.random.randint(key, (32,), 0, len(X))]
        return jnp.mean((curve(rebuild(z), x) - jnp.sin(3 * x)) ** 2), True

    portion = jax.jit(
        lambda state, until: run(loss, method.transformation, jnp.inf, state, until, True, method.average)
    )
    held_out = jax.jit(lambda z: jnp.mean((curve(rebuild(z), jnp.asarray(X)) - jnp.sin(3 * jnp.asarray(X))) ** 2))
    state = init(method.transformation, np.asarray(weights), steps, jax.random.key(1))
    found = train(portion, state, steps, method, progress=Progress(False), validation=held_out, **options)
    return found, held_out, len(traces)


def test_the_loop_trains_a_net_from_batches_and_traces_once():
    method = Descent("adam", optax.cosine_decay_schedule(0.03, 1000), patience=1000, average=0.98, every=50)
    found, held_out, traces = taught(1000, method)
    assert traces <= 2 and len(found.looks) == 21
    assert float(held_out(found.best)) == found.looks[:, 1].min() < 2e-3


def test_an_average_is_that_of_the_steps_and_forgets_the_first_sooner():
    """z = 0.9ᵗ by steps of 0.1 down ½ z², and its average by hand."""
    method = Descent("sgd", 0.1, average=0.8)
    loss = lambda z, key: (0.5 * jnp.sum(z**2), True)
    found = run(
        loss,
        method.transformation,
        jnp.inf,
        init(method.transformation, np.ones(1), 40, jax.random.key(0)),
        40,
        False,
        0.8,
    )
    average = 1.0
    for t in range(40):
        a = min(0.8, (1 + t) / (10 + t))
        average = a * average + (1 - a) * 0.9 ** (t + 1)
    assert float(found.average[0]) == pytest.approx(average, rel=1e-12)


def test_a_file_of_the_loop_goes_on_from_any_step(tmp_path):
    method = Descent("adamw", 0.02, average=0.9, every=7)
    whole = taught(100, method)[0]
    path = tmp_path / "net.npz"
    first = taught(100, method, save=Saved(path, "net"), callback=lambda step, *_: step >= 42)[0]
    assert first.ended == "stopped by the callback at step 42 of 100"
    again = taught(100, method, save=Saved(path, "net"))[0]
    for one, other in zip(
        jax.tree.leaves(again.state._replace(key=None)), jax.tree.leaves(whole.state._replace(key=None)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="damaged or of another version"):
        taught(100, Descent("sgd", 0.02, every=7), save=Saved(path, "net"))


@pytest.mark.slow
def test_a_net_learns_a_drift_from_a_path_and_goes_on_from_its_file(tmp_path):
    """The drift 2(x − x³) + 0.3 from 20,000 steps of 0.1, by their transition densities: with splines it is 0.07 off, by Euler's 0.37."""
    drift, diffusivity = lambda x: 2 * (x - x**3) + 0.3, lambda x: 0.4 * jnp.exp(0.5 * jnp.sin(1.5 * x))
    times = 0.1 * np.arange(20_001)
    x = np.asarray(jd.simulate(jd.FokkerPlanck(drift, diffusivity), 1.0, times, 1, key=0, substeps=30))[0]
    data = jd.Trajectory(jd.Grid.uniform((-2.5, 2.5, 50)), times, x)
    nets = jd.MLP(16, 2, key=jax.random.key(0)), jd.MLP(8, 1, key=jax.random.key(99), positive=True)
    model, options = jd.FokkerPlanck(*nets), {"steps": 200, "save": tmp_path / "net.npz", "progress": False}
    half = jd.fit(model, data, callback=lambda step, *_: step >= 60, **options)
    assert "stopped by the callback at step 60 of 200" in half.notes[0]
    found = jd.fit(model, data, **options)
    assert len(found.history) == 200 and found.history[-1] < half.history[-1]
    np.testing.assert_array_equal(found.history[:60], half.history)
    places = np.linspace(*np.quantile(x, [0.01, 0.99]), 200)
    off = jax.vmap(found.model.drift)(places) - drift(places)
    assert np.sqrt(np.mean(np.square(off))) < 0.12


@pytest.mark.slow
def test_a_loss_that_never_fell_is_no_optimum():
    """Above 300 parameters nothing but the loss is looked at; at a rate of 1e-9 it stays where it is."""
    grid, knots = jd.Grid.uniform((0.0, 1.0, 8)), np.linspace(0.0, 1.0, 320)
    times = np.linspace(0.1, 2.0, 20)
    readings = jd.Readings(grid, 1.0, times, np.full(20, 0.5), np.exp(-0.7 * times), sigma=0.01)
    equation = jd.Diffusion(1.0, decay=jd.Spline(knots, np.full(320, 0.2), positive=True))
    fit = jd.fit(equation, readings, optimizer=jd.Descent("sgd", learning_rate=1e-9), steps=30, progress=False)
    assert not fit.converged and any("not converged" in note for note in fit.notes)
