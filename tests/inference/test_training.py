"""Gradient descent: schedules, held-out data, averages, files and interruptions."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff.inference import gradient_descent
from jaxdiff.inference.gradient_descent import METHODS, Descent, Saved, init, run, train
from jaxdiff.runtime.checkpoints import digest
from jaxdiff.runtime.progress import Progress

SETTING = """
import numpy as np, jax, jaxdiff as jd
grid, times = jd.Grid.uniform((0.0, 1.0, 12)), np.linspace(0.05, 2.0, 40)
noise = np.random.default_rng(0).normal(0, 0.02, 40)
readings = jd.Readings(grid, lambda x: 1 + x, times, np.full(40, 0.3), 1.3 * np.exp(-0.5 * times) + noise, sigma=0.02)
model = jd.Diffusion(jd.Positive(0.2), decay=jd.Positive(1.0))
method = jd.Descent("adam", learning_rate=0.02, patience=900, average=0.9, every=5)
def trained(**options):
    return jd.fit(model, readings, optimizer=method, batch_size=12, key=jax.random.key(3), validation=0.25, **{"steps": 600, "progress": False, **options})
"""
exec(SETTING)

KILLED = SETTING + """
import os, sys, signal
trained(save=sys.argv[1], callback=lambda step, *_: step >= 300 and os.kill(os.getpid(), signal.SIGKILL))
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
    died = subprocess.run([sys.executable, "-c", KILLED, path], capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr[-500:]
    with np.load(path) as stored:
        assert 0 < len(stored["history"]) <= 300
    assert [file.name for file in tmp_path.iterdir()] == ["training.npz"]
    steps = []
    same(trained(save=path, callback=lambda step, *_: steps.append(step)), whole)
    assert steps[0] > 5 and steps[-1] == 600
    same(trained(save=path, callback=steps.clear), whole)  # done: nothing is left to do


def test_held_out_data_and_averages_decide(whole):
    steps, losses = whole.validation_history.T
    np.testing.assert_array_equal(steps, np.arange(5, 601, 5))
    assert whole.validation_loss == pytest.approx(losses.min(), rel=1e-9)
    assert f"step {int(steps[losses.argmin()])}, where" in " ".join(whole.notes)
    assert 0.4 < whole.parameters["decay"] < 0.6
