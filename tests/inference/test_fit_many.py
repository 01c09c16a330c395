"""Many at once: the same numbers as one by one, honest error bars, many starts, repeats, devices, interruptions."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import exponential

import jaxdiff as jd
from jaxdiff.inference import batch as batches

GRID = jd.Grid.uniform((0.0, 1.0, 40))
TRUTH = {"diffusivity": 0.3, "decay": 0.5}
SIGMA, B = 0.02, 200  # the seed was chosen before looking
MODEL = jd.Diffusion(jd.Positive(0.2), decay=jd.Free(0.3))
TIMES, PLACES = np.tile(np.linspace(0.02, 0.4, 6), 2), np.repeat([0.2, 0.7], 6)


def cosine(x):
    return 1 + jnp.cos(jnp.pi * x)


@cache
def clean():
    solution = jd.solve(jd.Diffusion(0.3, decay=0.5), GRID, cosine, np.append(0.0, TIMES[:6]))
    return np.asarray(GRID.interpolate(solution.values[1:], np.array([0.2, 0.7]))).T.ravel()


def noisy(count, seed=7):
    return clean() + SIGMA * np.random.default_rng(seed).normal(size=(count, 12))


def readings(sigma=SIGMA, values=None, initial=cosine):
    return jd.Readings(GRID, initial, TIMES, PLACES, clean() if values is None else values, sigma)


@pytest.fixture(scope="module")
def fits():
    return jd.fit_many(MODEL, readings(), noisy(B), progress=False)


def agree(fits, i, single, rtol=1e-8):
    for name, value in single.parameters.items():
        np.testing.assert_allclose(fits.parameters[name][i], value, rtol=rtol)
        np.testing.assert_allclose(fits.standard_errors[name][i], single.standard_errors[name], rtol=100 * rtol)
        np.testing.assert_allclose([end[i] for end in fits.intervals[name]], single.intervals[name], rtol=100 * rtol)
    np.testing.assert_allclose(fits.loss[i], single.loss, rtol=rtol)


@pytest.mark.slow
def test_parameters_are_unbiased_and_scatter_as_the_error_bars_say(fits):
    assert len(fits) == B and fits.converged.all()
    for name, value in TRUTH.items():
        reduced = (fits.parameters[name] - value) / fits.standard_errors[name]
        assert abs(reduced.mean()) < 3 / np.sqrt(B) and abs(reduced.std() - 1) < 3 / np.sqrt(2 * B)
        lower, upper = fits.intervals[name]
        share = np.mean((lower < value) & (value < upper))
        assert abs(share - 0.95) < 3 * np.sqrt(0.95 * 0.05 / B)


@pytest.mark.slow
def test_each_is_what_fit_finds(fits):
    for i in (0, 57):
        agree(fits, i, jd.fit(MODEL, readings(values=noisy(B)[i]), progress=False))
    one = fits[57]
    assert isinstance(one, jd.Fit) and one.parameters["decay"] == fits.parameters["decay"][57]
    np.testing.assert_array_equal(one.measurements[0].values, noisy(B)[57])
    assert one.predict().shape == (12,) and len(one.history) == fits.iterations[57] + 1
    assert np.all(np.diff(one.history) <= 0) and "converged" in str(one)


@pytest.mark.slow
def test_each_is_judged_as_by_fit(fits):
    """About 2 in 100 right models are called wrong; a wrong one is, and a gap leaves out its row."""
    assert "is asked of fits.verdicts" in str(fits)
    assert sum(one.describes is False for one in fits.verdicts) <= 0.05 * B
    values = noisy(3)
    values[1] += 0.2 * PLACES
    values[2, 4] = np.nan
    few = jd.fit_many(MODEL, readings(), values, progress=False)
    for i in range(3):
        single = jd.fit(MODEL, readings(values=values[i]), progress=False, errors="iid")
        assert few.verdicts[i] == single.verdict == few[i].verdict
    assert [one.describes for one in few.verdicts] == [True, False, True]
    assert "error bars are not to be trusted, in 1 of 3: number 1; residuals" in str(few)


@pytest.mark.slow
def test_it_tells_itself(fits):
    frame = fits.to_frame()
    assert list(frame.columns[:4]) == ["diffusivity", "diffusivity s.e.", "decay", "decay s.e."] and len(frame) == B
    assert "200 fits, 200 converged" in repr(fits) and "diffusivity" in fits.summary()
    assert len(fits.plot().axes) == 2


@pytest.mark.slow
def test_gaps_and_bad_data_leave_the_others_alone(fits):
    values = noisy(B)[:40].copy()
    values[1, [0, 5, 7]], values[2], values[3, 4], values[4, 7] = np.nan, np.nan, np.inf, 1e6
    found = jd.fit_many(MODEL, readings(), values, batch=fits.batch.size, progress=False)
    kept = np.arange(5, 40)
    for name in TRUTH:
        np.testing.assert_allclose(found.parameters[name][kept], fits.parameters[name][kept], rtol=1e-10)
    assert not found.converged[[2, 3]].any() and np.isnan(found.parameters["decay"][[2, 3]]).all()
    assert "number 2, 3" in str(found) and found.converged[kept].all()
    with pytest.raises(ValueError, match="fit 2 has no result: the loss is not finite"):
        found[2]
    agree(found, 1, jd.fit(MODEL, readings(values=values[1]), progress=False))
    assert np.isnan(found[1].measurements[0].values).sum() == 0 and len(found[1].measurements[0].values) == 9


@pytest.mark.slow
def test_a_list_may_differ_in_rows_errors_and_initial_states():
    rng, sets = np.random.default_rng(3), []
    for i, scale in enumerate((1.0, 1.3, 0.8)):
        initial = scale * np.asarray(GRID.average(cosine))
        rows = np.sort(rng.choice(12, 12 - i, replace=False))
        rows = np.append(rows, rows[0])  # read twice
        sigma = np.full(len(rows), SIGMA) * rng.uniform(0.5, 2, len(rows))
        values = scale * clean()[rows] + SIGMA * rng.normal(size=len(rows))
        sets.append(jd.Readings(GRID, initial, TIMES[rows], PLACES[rows], values, sigma))
    found = jd.fit_many(MODEL, sets, progress=False)
    assert [len(found[i].measurements[0].values) for i in range(3)] == [len(one.values) for one in sets]
    agree(found, 2, jd.fit(MODEL, sets[2], progress=False))


@pytest.mark.slow
def test_counts_and_several_experiments():
    grid = jd.Grid.uniform((-3.0, 3.0, 40))
    well = lambda a, D: jd.FokkerPlanck(jd.Expression("a*x-x**3", a=a), D)
    start = grid.delta(0.5)
    states = jd.solve(well(1.5, 0.5), grid, start, [0.0, 0.3, 1.0]).values[1:]
    mass = np.maximum(np.asarray(states * grid.volumes), 0)
    rng, model = np.random.default_rng(8), well(jd.Free(1.0), jd.Positive(1.0))
    counts = np.stack([[rng.multinomial(n, m / m.sum()) for n, m in zip((300, 900), mass)] for _ in range(4)]) * 1.0
    counts[2, 0] = np.nan  # a time that was missed
    template = jd.Histograms(grid, start, [0.3, 1.0], counts[0])
    found = jd.fit_many(model, template, counts, progress=False)
    agree(found, 2, jd.fit(model, jd.Histograms(grid, start, [1.0], counts[2, 1]), progress=False))
    pairs = [
        (
            jd.Histograms(grid, start, [1.0], counts[i, 1:, 16:32], grid.edges[0][16:33], total=[900]),
            jd.Readings(grid, start, [1.0] * 9, np.linspace(-1.5, 1.5, 9), 0.3 + 0.05 * rng.normal(size=9)),
        )
        for i in range(2)
    ]
    both = jd.fit_many(model, pairs, progress=False)
    agree(both, 1, jd.fit(model, list(pairs[1]), progress=False))
    assert both[0].loss_name == "likelihood"


@pytest.mark.slow
def test_fits_that_outrun_their_plan_are_followed():
    model = lambda g: jd.Diffusion(0.1, decay=jd.Expression("-g*x", g=g))
    times = np.linspace(0.1, 1, 6)
    course = lambda g: exponential(model(g), GRID, [0.0, *times])(GRID.average(cosine))[1:, 12]
    late = [jd.Readings(GRID, cosine, times, 0 * times + GRID.centers[0][12], course(g), 1e-3) for g in (1.0, 25.0)]
    found = jd.fit_many(model(jd.Free(0.5)), late, progress=False)
    assert (
        found.run.predictors[0].states_at_times.solve.method.describe().startswith("segments") and found.converged.all()
    )
    np.testing.assert_allclose(found.parameters["decay.g"], [1.0, 25.0], rtol=1e-6)


def sensors(truth, seed=1):
    """A narrow bump somewhere; from far away nothing pulls towards it."""
    model = lambda m, D: (jd.Diffusion(D), lambda x: jnp.exp(-(((x - m) / 0.05) ** 2)))
    times, places = np.repeat([0.1, 0.3], 9), np.tile(np.linspace(0.1, 0.9, 9), 2)
    state = jd.solve(*(lambda e, i: (e, GRID, i))(*model(truth, 0.01)), [0.0, 0.1, 0.3]).values[1:]
    values = np.asarray(GRID.interpolate(state, places[:9])).ravel() + 0.01 * np.random.default_rng(seed).normal(
        size=18
    )
    start = {"m": jd.Bounded(0.9, 0.0, 1.0), "D": jd.Positive(0.02)}
    return model, jd.Readings(GRID, None, times, places, values, 0.01), start


@pytest.mark.slow
def test_many_starts_find_the_optimum_that_a_scan_finds():
    model, data, start = sensors(0.3)
    single = jd.fit(model, data, parameters=start, progress=False)
    best = jd.multistart(model, data, parameters=start, starts=24, key=jax.random.key(2), progress=False)
    assert "the data cannot be seen" in single.notes[0] and abs(single.loss / best.loss - 1) < 1e-6
    assert best.converged and abs(best.parameters["m"] - 0.3) < 3 * best.standard_errors["m"]
    assert len(best.optima) > 1 and best.optima[0]["count"] > 1
    assert best.optima[0]["loss"] == pytest.approx(best.loss, rel=1e-8)
    assert f"{best.optima[0]['count']} of 24 starts ended at this optimum" in str(best) and "other optima" in str(best)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parametric", "residual"])
def test_the_bootstrap_of_a_nearly_linear_fit_is_its_gaussian(kind):
    times = np.tile(np.linspace(0.02, 0.4, 30), 2)
    places = np.repeat([0.2, 0.7], 30)
    solution = jd.solve(jd.Diffusion(0.3, source=0.5), GRID, cosine, np.append(0.0, times[:30]))
    values = np.asarray(GRID.interpolate(solution.values[1:], np.array([0.2, 0.7]))).T.ravel()
    values = values + SIGMA * np.random.default_rng(4).normal(size=60)
    model = jd.Diffusion(0.3, source=jd.Free(0.4), decay=jd.Free(0.1))
    fit = jd.fit(model, jd.Readings(GRID, cosine, times, places, values), progress=False)
    drawn = jd.bootstrap(fit, 600, kind=kind, progress=False)
    assert len(drawn) == 600 and drawn.converged.all()
    for name, error in fit.standard_errors.items():
        np.testing.assert_allclose(drawn.standard_errors[name], error, rtol=0.15)
        np.testing.assert_allclose(np.diff(drawn.intervals[name]), np.diff(fit.intervals[name]), rtol=0.15)
        assert abs(drawn.bias[name]) < 3.5 * error / np.sqrt(600)
    assert f"{kind} bootstrap, 600 repeats" in str(drawn)


@pytest.mark.slow
def test_the_bootstrap_of_counts():
    edges, rng = np.linspace(0, 1, 11), np.random.default_rng(5)
    state = np.asarray(jd.solve(jd.Diffusion(0.05), GRID, GRID.delta(0.3), [0.0, 0.5]).values[-1])
    counts = rng.multinomial(2000, state.reshape(10, 4).sum(1) / state.sum())
    data = jd.Histograms(GRID, GRID.delta(0.3), [0.5], counts, edges)
    fit = jd.fit(jd.Diffusion(jd.Positive(0.1)), data, progress=False)
    for kind in ("parametric", "residual"):
        drawn = jd.bootstrap(fit, 300, kind=kind, progress=False)
        assert drawn[0].measurements[0].counts.sum() == 2000
        error = fit.standard_errors["diffusivity"]
        np.testing.assert_allclose(drawn.standard_errors["diffusivity"], error, rtol=4 / np.sqrt(2 * 300))


@pytest.mark.slow
def test_an_interruption_returns_what_is_done_and_a_file_goes_on(tmp_path, monkeypatch, fits):
    path, values, real, count = tmp_path / "fits.npz", noisy(B)[:60], batches.Batch._advance, [0]

    def stopping(*args):
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(batches.Batch, "_advance", stopping)
    options = {"batch": 16, "save": path, "progress": False}
    half = jd.fit_many(MODEL, readings(), values, **options)
    done = 2 * half.batch.size
    assert half.converged[:done].all() and not half.converged[done:].any() and "interrupted" in str(half)
    count[0] = 10
    whole = jd.fit_many(MODEL, readings(), values, **options)
    assert count[0] == 10 + -(-(60 - done) // half.batch.size) and whole.converged.all()
    np.testing.assert_allclose(whole.parameters["decay"], fits.parameters["decay"][:60], rtol=1e-12)
    np.testing.assert_allclose(whole.standard_errors["decay"], fits.standard_errors["decay"][:60], rtol=1e-9)
    again = jd.fit_many(MODEL, readings(), values, **options)
    assert count[0] == 10 + -(-(60 - done) // half.batch.size) and again.converged.all()
    with pytest.raises(ValueError, match="another model, other data or options"):
        jd.fit_many(MODEL, readings(), values + 1e-6, **options)
    path.write_text("no fits")
    with pytest.raises(ValueError, match="cannot be read"):
        jd.fit_many(MODEL, readings(), values, **options)


DEVICES = """
import jax, numpy as np, sys
sys.path[:0] = {tests!r}
jax.config.update("jax_enable_x64", True)
import jaxdiff as jd
from test_fit_many import MODEL, noisy, readings
assert len(jax.devices()) == 8
many = jd.fit_many(MODEL, readings(), noisy(42), devices="all", progress=False)
assert many.batch.size == 48 and len(many.batch.mesh.devices) == 8 and many.converged.all()
np.savez("many.npz", *many.parameters.values(), *many.standard_errors.values())
"""


@pytest.mark.slow
def test_eight_devices_find_the_same(fits, tmp_path):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    program = [sys.executable, "-c", DEVICES.format(tests=[str(folder) for folder in Path(__file__).parents[:2]])]
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one = [*fits.parameters.values(), *fits.standard_errors.values()]
    many = np.load(tmp_path / "many.npz")
    for here, there, rtol in zip(one, many.values(), (1e-12, 1e-12, 1e-11, 1e-11), strict=True):
        np.testing.assert_allclose(there, here[:42], rtol=rtol)


def path(times=(0.0, 1.0, 2.0, 3.0, 4.0)):
    places = 0.1 * np.sin(np.arange(len(times)))
    return jd.Trajectory(jd.Grid.uniform((-3.0, 3.0, 40)), times, places)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: jd.fit_many(MODEL, readings()), ValueError, "needs many data sets, got one measurement"),
        (lambda: jd.fit_many(MODEL, []), ValueError, "a list with at least one"),
        (lambda: jd.fit_many(MODEL, readings(), np.ones((3, 5))), ValueError, r"shape \(data sets, 12\).*got \(3, 5\)"),
        (lambda: jd.fit_many(MODEL, [readings(), readings(None)]), ValueError, "got both at data set 1"),
        (lambda: jd.fit_many(MODEL, [readings(), path()]), TypeError, "data set 1 is Trajectory"),
        (lambda: jd.fit_many(MODEL, readings(), noisy(2), devices=9999), ValueError, "jax finds .* ask for at most"),
        (
            lambda: jd.fit_many(MODEL, readings(), noisy(2), devices=["gpu"]),
            TypeError,
            "a sequence of jax devices, got 'gpu'",
        ),
        (lambda: jd.fit_many(MODEL, readings(), noisy(2), optimizer=max), TypeError, "is minimised by jd.Leven"),
        (
            lambda: jd.fit_many(MODEL, [readings(), readings(initial=lambda x: 1.0)]),
            ValueError,
            "initial state of data set 1 has another structure",
        ),
        (
            lambda: jd.fit_many(MODEL, readings(), np.full((B, 12), np.inf), progress=False),
            ValueError,
            "not finite at the start",
        ),
        (lambda: jd.multistart(MODEL, readings(), spread=0), ValueError, "spread must be positive"),
        (lambda: jd.multistart(MODEL, readings(), spread=np.inf), ValueError, "positive and finite, got inf"),
        (lambda: jd.multistart(MODEL, readings(), starts="8"), ValueError, "starts must be a positive whole number"),
        (lambda: jd.bootstrap(3), TypeError, "starts from a jd.Fit, got int"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_bootstrap_refuses_what_it_cannot_draw(tmp_path):
    fit = jd.fit(MODEL, readings(), progress=False)
    with pytest.raises(ValueError, match="was loaded without its data"):
        jd.bootstrap(jd.load(fit.save(tmp_path / "fit.json")))
    with pytest.raises(ValueError, match="parametric"):
        jd.bootstrap(fit, kind="wild")
    with pytest.raises(ValueError, match="at least two, got 1"):
        jd.bootstrap(fit, 1)


@pytest.mark.slow
def test_a_single_reading_gives_no_error_bar():
    values = noisy(2)
    values[0, 1:] = np.nan
    fits = jd.fit_many(MODEL, readings(sigma=None), values, progress=False)
    assert np.isnan(fits.standard_errors["diffusivity"][0]) and np.isfinite(fits.standard_errors["diffusivity"][1])
    assert "no error bars in 1 of 2: too few readings without sigma, or a loss that tells no noise" in fits.remarks


def two_optima(a):
    """A loss by the square of a, and a source that tells its sign."""
    return jd.Diffusion(1.0, decay=a**2, source=0.1 * a)


@pytest.mark.slow
@pytest.mark.parametrize("triage", [10, 2, None])
def test_many_starts_of_two_optima_find_both_and_say_how_many_ended_where(triage):
    times = np.linspace(0.2, 2.0, 10)
    course = lambda a: (1 - 0.1 / a) * np.exp(-(a**2) * times) + 0.1 / a
    data = jd.Readings(jd.Grid.uniform((0.0, 1.0, 4)), 1.0, times, np.full(10, 0.5), course(-1.0), 0.05)
    best = jd.multistart(two_optima, data, starts=64, triage=triage, parameters={"a": jd.Free(0.5)}, progress=False)
    a = np.linspace(0.3, 2.0, 17_001)  # by scans of the closed form
    other = a[np.argmin([np.sum((course(one) - course(-1.0)) ** 2) for one in a])]
    np.testing.assert_allclose([one["parameters"]["a"] for one in best.optima], [-1.0, other], atol=2e-4)
    counts, text = [one["count"] for one in best.optima], str(best)
    assert (
        f"{counts[0]} of 64 starts ended at this optimum" in text and f"1 other optimum: {counts[1]} with loss" in text
    )
    assert min(counts) >= 4 and (sum(counts) == 64 or triage is not None)
    left = 64 - sum(counts) if triage is not None else 0
    assert (f"{left} were left behind after {triage} steps" in text) == (left > 0)
