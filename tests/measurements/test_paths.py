"""Paths on several axes, or with coefficients of time: their shapes, their tests, their pictures, and a fit."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.measurements import paths_examination

PLANE = jd.Grid.uniform((-9.0, 9.0, 8), (-9.0, 9.0, 8))
STEP = 0.1


def oscillator(mu, w2, D):
    return jd.FokkerPlanck(lambda x, y: (y, mu * (1 - x**2) * y - w2 * x), D)


def drawn(steps=400, seed=3):
    times = STEP * np.arange(steps + 1)
    x = jd.simulate(oscillator(1.0, 1.0, 0.1), np.array([1.0, 0.0]), times, 1, seed, substeps=50)
    return jd.Trajectory(PLANE, times, np.asarray(x)[0])


def test_shapes_missing_frames_and_tables():
    path = drawn(10)
    assert path.starts.shape == path.stops.shape == (10, 2)
    x = path.positions[0].copy()
    x[3, 1] = np.nan
    short = jd.Trajectory(PLANE, path.times[0], x)
    assert len(short.durations) == 9 and short.missing == 1
    first, last = path.split(0.3)
    assert len(first.durations) + len(last.durations) == 10
    table = {"t": path.times[0], "a": path.positions[0][:, 0], "b": path.positions[0][:, 1]}
    read = jd.Trajectory.from_table(table, PLANE, time="t", position=["a", "b"])
    np.testing.assert_array_equal(read.positions[0], path.positions[0])


@pytest.mark.slow
def test_a_right_model_passes_its_tests_and_wrong_ones_do_not():
    path = drawn()
    judged = lambda equation: path.examine(None, None, None, equation)
    right = judged(oscillator(1.0, 1.0, 0.1))
    assert right.count > 10 and not right.failed(0.02 / right.count)
    narrow = judged(oscillator(1.0, 1.0, 0.05))
    assert "not distributed as the model says" in " ".join(one.text for one in narrow.failed(0.02 / narrow.count))
    pushed = judged(oscillator(0.0, 1.0, 0.1))
    assert "lead" in " ".join(one.text for one in pushed.failed(0.02 / pushed.count))
    scores, rows = paths_examination.scores(path, oscillator(1.0, 1.0, 0.1))
    assert scores.shape == (400, 2) and len(rows) == 400
    assert np.all(abs(scores.mean(0)) < 4 / 20) and np.all(abs(scores.std(0) - 1) < 4 / 28)


@pytest.mark.slow
def test_a_fit_with_its_error_bars_and_pictures(tmp_path):
    """Estimates are within three error bars of the truth, D at that within what 400 steps of two axes give."""
    starts = {"mu": jd.Positive(0.8), "w2": jd.Positive(1.2), "D": jd.Positive(0.12)}
    fit = jd.fit(oscillator, drawn(), parameters=starts, progress=False)
    assert fit.converged
    for name, truth in {"mu": 1.0, "w2": 1.0, "D": 0.1}.items():
        assert abs(fit.parameters[name] - truth) < 3 * fit.standard_errors[name]
    assert 0.7 < fit.standard_errors["D"] / (0.1 / np.sqrt(400)) < 1.4
    assert fit.verdict.describes
    fit.report(tmp_path / "fit.html")
    assert (tmp_path / "fit.html").stat().st_size > 10_000


def test_a_moving_trap_is_tested_on_one_axis():
    rng, times = np.random.default_rng(0), 0.2 * np.arange(301)
    centre = lambda t: 2 * (2 * np.sin(t) - np.cos(t)) / 5
    x = np.zeros(301)
    for i in range(300):
        mean = (x[i] - centre(times[i])) * np.exp(-0.4) + centre(times[i + 1])
        x[i + 1] = mean + np.sqrt(0.25 * (1 - np.exp(-0.8))) * rng.normal()
    path = jd.Trajectory(jd.Grid.uniform((-9.0, 9.0, 8)), times, x)
    moving = lambda f: path.examine(None, None, None, jd.FokkerPlanck(jd.TimeDependent(f), 0.5))
    right, still = moving(lambda t, x: 2 * (jnp.sin(t) - x)), moving(lambda t, x: -2 * x + 0 * t)
    assert right.count > 5 and not right.failed(0.02 / right.count)
    assert still.failed(0.02 / still.count)


def test_what_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"shapes \(n,\) and \(n, 2\), got \(2,\) and \(2,\)"):
        jd.Trajectory(PLANE, [0.0, 1.0], [0.0, 1.0])
    with pytest.raises(ValueError, match="position 1 at y = 10 lies outside"):
        jd.Trajectory(PLANE, [0.0, 1.0], [[0.0, 1.0], [0.0, 10.0]])
    with pytest.raises(ValueError, match="paths run along x, y and z, got a spherical grid"):
        jd.Trajectory(jd.Grid.radial((0.0, 1.0, 5), geometry="spherical"), [0.0, 1.0], [0.1, 0.2])
