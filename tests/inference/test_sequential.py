"""What makes no batch: fits one after the other, by programs that they share; and paths, tracks and states drawn anew."""

from functools import cache, wraps

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.inference.sequential import Sequential

REPEATS = {"plane": 16}  # of others 50
WIDE = jd.Grid.uniform((-40.0, 40.0, 40))
TRACED = [0]


def counted(model):
    @wraps(model)
    def call(**numbers):
        TRACED[0] += any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(numbers))
        return model(**numbers)

    return call


def trap(k, D, **_):
    return jd.FokkerPlanck(jd.Expression("-k*x", k=k), D)


def turning(k, w, D):
    return jd.FokkerPlanck(lambda x, y: (-k * x - w * y, w * x - k * y), D)


def pulled(k, a, D):
    return jd.FokkerPlanck(jd.TimeDependent(lambda t, x: -k * (x - a * jnp.sin(t))), D)


def switching(a, b):
    return jd.MasterEquation([[0.0, a], [b, 0.0]])


def free_tracks(count, seed, D=0.5, noise=0.1):
    rng = np.random.default_rng(seed)
    lengths = 5 + np.arange(count) % 12
    steps = [np.append(0.0, rng.normal(size=n - 1)) * np.sqrt(0.2 * D) for n in lengths]
    seen = [np.cumsum(step) + noise * rng.normal(size=len(step)) for step in steps]
    return jd.Trajectory(WIDE, [0.1 * np.arange(n) for n in lengths], seen, noise=jd.Positive(0.05))


def states(seed, jumps=200):
    rng = np.random.default_rng(seed)
    times = np.cumsum(np.append(0.0, rng.exponential(size=jumps) / np.tile([2.0, 1.0], jumps // 2)))
    return jd.Trajectory(jd.States(2), times, np.append(np.arange(jumps) % 2, 1), continuous=True)


def simulated(equation, start, times, **more):
    return np.asarray(jd.simulate(equation, start, times, 1, key=3, **more))[0]


@cache
def problem(name):
    """(model, starts, data)."""
    rng, positive = np.random.default_rng(1), jd.Positive
    k_and_D = {"k": positive(0.5), "D": positive(1.0)}
    times = 0.1 * np.arange(400)
    if name == "euler":
        return trap, k_and_D, jd.Trajectory(WIDE, times, simulated(trap(1.0, 0.5), 0.0, times), density="euler")
    if name == "free tracks":
        return (lambda D: jd.Diffusion(D)), {"D": positive(1.0)}, free_tracks(60, 2)
    if name == "states":
        return switching, {"a": positive(0.5), "b": positive(0.5)}, states(4)
    if name == "panel":
        seen = [np.cumsum(rng.uniform(0.05, 0.2, n)) for n in (400, 600)]
        path = [simulated(switching(1.0, 2.0), 0, t) for t in seen]
        return switching, {"a": positive(0.5), "b": positive(0.5)}, jd.Trajectory(jd.States(2), seen, path)
    if name == "trap with blur":
        seen = [0.1 * np.arange(n) for n in rng.integers(40, 80, 20)]
        paths = [simulated(trap(1.0, 0.5), 0.0, t, substeps=10) + 0.2 * rng.normal(size=len(t)) for t in seen]
        starts = {**k_and_D, "s": positive(0.2)}
        return trap, starts, jd.Trajectory(WIDE, seen, paths, noise="s", exposure=0.02)
    if name == "irregular":
        seen = np.cumsum(rng.uniform(0.05, 0.3, 200))
        return trap, k_and_D, jd.Trajectory(WIDE, seen, simulated(trap(1.0, 0.5), 0.0, seen, substeps=10))
    if name == "time":
        path = simulated(pulled(1.0, 2.0, 0.5), 0.0, times, substeps=10)
        return pulled, {**k_and_D, "a": jd.Free(1.0)}, jd.Trajectory(WIDE, times, path)
    plane, seen = jd.Grid.uniform((-9.0, 9.0, 9), (-9.0, 9.0, 9)), 0.2 * np.arange(150)
    path = simulated(turning(1.0, 1.0, 0.5), np.zeros(2), seen, substeps=20)
    return turning, {**k_and_D, "w": jd.Free(1.0)}, jd.Trajectory(plane, seen, path)


SLOW = ("panel", "trap with blur", "irregular", "time", "plane")
EVERY = ["euler", "free tracks", "states", *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)]


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_repeats_scatter_as_error_bars_say_by_programs_that_they_share(name):
    model, starts, data = problem(name)
    fit = jd.fit(counted(model), data, parameters=starts, progress=False)
    TRACED[0] = 0
    repeats = REPEATS.get(name, 50)
    found = jd.bootstrap(fit, repeats, progress=False, key=5)
    assert isinstance(found.fits.batch, Sequential) and found.converged.all()
    assert TRACED[0] <= (12 if name == "irregular" else 4)  # sizes that are rounded up, not one for each repeat
    for label, error in fit.standard_errors.items():
        assert found.standard_errors[label] / error == pytest.approx(1.0, abs=3.5 / np.sqrt(2 * repeats))
        assert abs(found.bias[label]) < (0.2 + 3.0 / np.sqrt(repeats)) * error
    assert found.fits[3].measurements[0].count == data.count or name == "states"
    assert any("one after the other" in note for note in found.fits.notes)


@pytest.mark.slow
def test_each_is_what_fit_finds_and_files_go_on(tmp_path, monkeypatch):
    sets = [free_tracks(n, seed) for seed, n in enumerate((20, 30, 20))]
    model = jd.Diffusion(jd.Positive(1.0))
    file = tmp_path / "fits.npz"
    many = jd.fit_many(model, sets, save=file, progress=False)
    for i, one in enumerate(sets):
        single = jd.fit(model, one, progress=False)
        for name, value in single.parameters.items():
            np.testing.assert_allclose(many.parameters[name][i], value, rtol=1e-6)
            np.testing.assert_allclose(many.standard_errors[name][i], single.standard_errors[name], rtol=1e-4)
        assert many[i].measurements[0] is one and many.verdicts[i].describes == single.verdict.describes
    assert many.converged.all() and "tracks with noise make no batch" in str(many)
    monkeypatch.setattr(Sequential, "_of", None)  # nothing is left to do
    again = jd.fit_many(model, sets, save=file, progress=False)
    np.testing.assert_array_equal(again.z, many.z)


def test_an_interruption_returns_what_is_done(monkeypatch):
    data = free_tracks(20, 0)
    values = np.stack([data.with_values(data.values + shift).values for shift in (0.0, 1.0, 2.0)])
    own = Sequential._of

    def interrupted(self, i):
        if i == 2:
            raise KeyboardInterrupt
        return own(self, i)

    monkeypatch.setattr(Sequential, "_of", interrupted)
    many = jd.fit_many(jd.Diffusion(jd.Positive(1.0)), data, values, progress=False)
    assert list(many.converged) == [True, True, False]
    assert "interrupted: 1 of 3 fits were not finished" in str(many)
    np.testing.assert_allclose(many.parameters["diffusivity"][0], many.parameters["diffusivity"][1], rtol=1e-8)


@pytest.mark.slow
def test_fits_that_fail_are_counted_and_say_why():
    near = jd.Trajectory(WIDE, 0.1 * np.arange(6), 39.0 + np.array([0.0, 0.9, 0.1, 0.8, 0.0, 0.7]), 0.1, 0.05)
    good = jd.Trajectory(WIDE, 0.1 * np.arange(6), np.array([0.0, 0.9, 0.1, 0.8, 0.0, 0.7]), 0.1, 0.05)
    model = jd.Diffusion(jd.Positive(1.0))
    many = jd.fit_many(model, [good, near], progress=False)
    assert list(many.converged) == [True, False] and np.isnan(many.parameters["diffusivity"][1])
    assert "1 could not be fitted; number 1: motion blur is that of free diffusion" in str(many)
    with pytest.raises(ValueError, match="motion blur is that of free diffusion"):
        jd.fit_many(model, [near, near], progress=False)


def test_bad_data_sets_are_named():
    data = free_tracks(1, 0)
    values = np.stack([data.values, np.full(len(data.values), np.nan)])
    with pytest.raises(ValueError, match="data set 1: a path needs at least two points"):
        jd.fit_many(jd.Diffusion(jd.Positive(1.0)), data, values, progress=False)
    with pytest.raises(ValueError, match="repeats must be a positive whole number, got 0"):
        jd.bootstrap(jd.fit(jd.Diffusion(jd.Positive(1.0)), free_tracks(5, 0), progress=False), 0)


@pytest.mark.slow
def test_states_that_are_seen_once_jump_at_random_over_the_same_time():
    """One jump in 1 s: the repeats jump n times, Poisson where both rates are one."""
    one = jd.Trajectory(jd.States(2), [0.0, 0.5, 1.0], [0, 1, 1], continuous=True)
    fit = jd.fit(counted(switching), one, parameters={"a": jd.Positive(1.0), "b": jd.Positive(1.0)}, progress=False)
    drawn = one.draw(fit, 2000, np.random.default_rng(0), jd.measurements.stacks.Redraw()).sets
    b = fit.parameters["b"]
    stayed = np.mean([len(path.times[0]) == 2 for path in drawn])
    assert stayed == pytest.approx(np.exp(-b), abs=4 * np.sqrt(np.exp(-b) / 2000))
    assert all(path.times[0][0] == 0.0 and path.times[0][-1] == 1.0 for path in drawn)
