"""Parameters recovered, by every road; published numbers; scaling; honest words."""

import os
import subprocess
import sys
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

import jaxdiff as jd
from jaxdiff.inference.run import Run
from jaxdiff.measurements import trajectory as paths
from jaxdiff.parameters import numeric

GRID = jd.Grid.uniform((0.0, 1.0, 64))
TRUTH = {"diffusivity": 0.3, "decay": 0.5}


def bump(x):
    return jnp.exp(-(((x - 0.4) / 0.1) ** 2))


class Bump(eqx.Module):
    width: object = eqx.field(converter=numeric)
    center: object = eqx.field(converter=numeric, default=0.4)

    def __call__(self, x):
        return jnp.exp(-(((x - self.center) / self.width) ** 2))


def heat_data(noise=0.01, seed=0, sigma=None):
    times, places = np.repeat(np.linspace(0.02, 0.4, 12), 4), np.tile([0.1, 0.3, 0.55, 0.8], 12)
    solution = jd.solve(jd.Diffusion(0.3, decay=0.5), GRID, bump, np.append(0.0, np.unique(times)))
    values = np.asarray(GRID.interpolate(solution.values[1:], places[:4])).ravel()
    return jd.Readings(GRID, bump, times, places, values + noise * np.random.default_rng(seed).normal(size=48), sigma)


@pytest.fixture(scope="module")
def readings():
    return heat_data()


@pytest.fixture(scope="module")
def best(readings):
    return jd.fit(marked(), readings, progress=False)


def marked(D=1.0, k=0.1):
    return jd.Diffusion(jd.Positive(D), decay=jd.Free(k))


def near(fit, other, rtol=1e-6):
    for name, value in other.items():
        np.testing.assert_allclose(fit.parameters[name], value, rtol=rtol)


@pytest.mark.slow
def test_the_truth_is_within_its_error_bars(best):
    assert best.converged and best.notes == ()
    for name, value in TRUTH.items():
        assert abs(best.parameters[name] - value) < 3 * best.standard_errors[name]
        assert best.intervals[name][0] < best.parameters[name] < best.intervals[name][1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer", [optax.adam(0.05), optax.chain(optax.clip(1.0), optax.sgd(0.3, 0.9)), optax.lbfgs()]
)
def test_optax_finds_the_same(optimizer, readings, best):
    result = jd.fit(marked(), readings, loss=jd.mse, optimizer=optimizer, steps=600, progress=False)
    assert result.converged
    near(result, best.parameters, 1e-3)
    np.testing.assert_allclose(result.standard_errors["decay"], best.standard_errors["decay"], rtol=1e-2)


@pytest.mark.slow
def test_a_function_of_named_parameters_finds_the_same(readings, best):
    model = lambda D, k: jd.Diffusion(D, decay=k)
    result = jd.fit(model, readings, parameters={"k": 0.1, "D": jd.Positive(1.0)}, progress=False)
    assert list(result.parameters) == ["k", "D"]
    near(result, {"k": best.parameters["decay"], "D": best.parameters["diffusivity"]})


@pytest.mark.slow
def test_your_own_loss_has_no_error_bars_and_says_why(readings, best):
    half = lambda prediction, observation: 0.5 * jnp.sum((prediction - observation) ** 2)
    result = jd.fit(marked(), readings, loss=half, progress=False)
    near(result, best.parameters)
    assert np.isnan(result.standard_errors["decay"]) and "your own loss" in result.summary()


def decaying():
    times = np.linspace(0.1, 2, 20)
    grid = jd.Grid.uniform((0.0, 1.0, 50))
    values = np.cos(np.pi * 0.1) * np.exp(-0.1 * np.pi**2 * times)
    return jd.Readings(grid, lambda x: jnp.cos(jnp.pi * x), times, np.full(20, 0.1), values)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "converges"),
    [
        (lambda p, o: jnp.mean(jnp.abs(p - o)), True),
        (lambda p, o: jnp.mean(jnp.sqrt((p - o) ** 2 + 1e-12)), True),
        (lambda p, o: jnp.max(jnp.abs(p - o)), None),
        (lambda p, o: jnp.abs(jnp.mean(p - o)) + 0.01, None),  # no curvature, and none that could stand in for it
    ],
)
def test_a_loss_without_curvature_is_followed_down(loss, converges):
    result = jd.fit(jd.Diffusion(jd.Positive(1.0)), decaying(), loss=loss, progress=False)
    np.testing.assert_allclose(result.parameters["diffusivity"], 0.1, rtol=5e-3)
    assert converges is None or result.converged


@pytest.mark.slow
def test_other_numbers_do_not_compile_again():
    traced = []

    def diffusivity(x):
        traced.append(1)
        return 1.0 + 0.0 * x

    def once(count, start):
        times = np.linspace(0.02, 0.4, count)
        data = jd.Readings(GRID, bump, times, np.full(count, 0.3), np.exp(-times))
        equation = jd.Diffusion(diffusivity, decay=jd.Free(start))
        return jd.fit(equation, data, progress=False)

    once(33, 1.0)
    first = len(traced)
    for count, start in ((40, 2.0), (48, 0.5)):
        once(count, start)
    assert len(traced) == first


@pytest.mark.slow
def test_the_rod_gives_the_published_numbers():
    rod = jd.datasets.load("rod")
    k, ambient, side = (rod.attrs[name] for name in ("k", "ambient", "a"))
    c = 4 / side

    def model(h, flux):
        walls = {"x-": jd.Flux(-flux), "x+": jd.Robin(h, ambient)}
        return jd.Diffusion(k, decay=c * h, source=c * h * ambient, boundaries=walls)

    data = jd.Readings(jd.Grid.uniform((0.0, 70.0, 350)), None, np.inf, rod["x"], rod["T"])
    result = jd.fit(model, data, parameters={"h": jd.Positive(1e-2), "flux": 0.0}, progress=False)
    assert result.converged
    np.testing.assert_allclose(result.parameters["flux"], 18.4149, atol=0.01)
    np.testing.assert_allclose(result.parameters["h"], 0.0019143, atol=1e-6)
    np.testing.assert_allclose(result.standard_errors["flux"], 0.139, rtol=0.01)
    np.testing.assert_allclose(result.standard_errors["h"], 1.39e-5, rtol=0.01)
    np.testing.assert_allclose(result.correlation[0, 1], 0.97, atol=0.005)
    assert np.isclose(
        jd.fit(
            model, data, parameters={"h": jd.Positive(2e-3), "flux": 18.0}, validation=0.2, progress=False
        ).validation_loss,
        0.07,
        atol=0.02,
    )


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-15, 1e6])
def test_a_diffusivity_of_any_size_fits(scale, best):
    # lengths of 1e-6 m and times of 300 s, or whatever the scale asks for; the numbers of the fit stay the same
    length, unit = 1e-6, 0.3 * 1e-12 / (0.3 * scale)
    data = heat_data()
    grid = jd.Grid.uniform((0.0, length, 64))
    there = jd.Readings(grid, Bump(0.1 * length, 0.4 * length), data.times * unit, data.positions * length, data.values)
    result = jd.fit(marked(scale, 0.1 / unit), there, progress=False)
    assert result.converged
    near(
        result, {"diffusivity": best.parameters["diffusivity"] * scale, "decay": best.parameters["decay"] / unit}, 1e-5
    )
    result = jd.fit(marked(10 * scale, 0.0), there, progress=False)
    near(
        result, {"diffusivity": best.parameters["diffusivity"] * scale, "decay": best.parameters["decay"] / unit}, 1e-5
    )


WELL = jd.Grid.uniform((-3.0, 3.0, 60))


def well(a, b, D):
    return jd.FokkerPlanck(jd.Expression("a*x-b*x**3", a=a, b=b), D)


@pytest.fixture(scope="module")
def population():
    solution = jd.solve(well(2.0, 1.5, 0.5), WELL, WELL.delta(0.5), [0.0, 0.2, 0.6, 1.5])
    mass = np.maximum(np.asarray(solution.values[1:] * WELL.volumes), 0)
    rng = np.random.default_rng(1)
    return np.array([rng.multinomial(2000, m / m.sum()) for m in mass])


@pytest.mark.slow
@pytest.mark.parametrize("loss", [None, jd.negative_log_likelihood])
def test_drift_and_diffusivity_from_histograms(population, loss):
    data = jd.Histograms(WELL, WELL.delta(0.5), [0.2, 0.6, 1.5], population)
    result = jd.fit(well(jd.Free(1.0), jd.Free(1.0), jd.Positive(1.0)), data, loss=loss, progress=False)
    assert result.converged and len(result.history) <= 8
    for name, value in {"drift.a": 2.0, "drift.b": 1.5, "diffusivity": 0.5}.items():
        assert abs(result.parameters[name] - value) < 3 * result.standard_errors[name]
    densities = jd.Histograms(WELL, WELL.delta(0.5), [0.2, 0.6, 1.5], population / 2000 / 0.1, total=2000)
    with_total = jd.fit(well(jd.Free(1.0), jd.Free(1.0), jd.Positive(1.0)), densities, loss=loss, progress=False)
    near(with_total, result.parameters, 1e-4)
    np.testing.assert_allclose(with_total.covariance, result.covariance, rtol=1e-2)


@pytest.mark.slow
def test_densities_have_no_error_bars(population):
    data = jd.Histograms(WELL, WELL.delta(0.5), [0.2, 0.6, 1.5], population / 2000 / 0.1)
    result = jd.fit(well(2.0, jd.Free(1.0), 0.5), data, progress=False)
    assert np.isnan(result.standard_errors["drift.b"]) and "give counts, or total=N" in result.notes[0]


def ou_path(n=300, dt=0.1, seed=1):
    rng = np.random.default_rng(seed)
    x = [0.5]
    for _ in range(n):
        x.append(0.5 + (x[-1] - 0.5) * np.exp(-dt) + np.sqrt(0.4 * (1 - np.exp(-2 * dt))) * rng.normal())
    return np.arange(n + 1) * dt, np.array(x)


def ou(k, m, D):
    return jd.FokkerPlanck(jd.Expression("k*(m-x)", k=k, m=m), D)


def closed_form(p, t, x):
    k, m, D = p
    dt = np.diff(t)
    variance = D * -np.expm1(-2 * k * dt) / k
    return 0.5 * np.sum((x[1:] - m - (x[:-1] - m) * np.exp(-k * dt)) ** 2 / variance + np.log(2 * np.pi * variance))


@cache
def of_closed_form():
    """The minimum, and the information there."""
    t, x = ou_path()
    options = {"xatol": 1e-9, "fatol": 1e-11, "maxiter": 9000}
    exact = minimize(closed_form, [1.0, 0.5, 0.4], (t, x), method="Nelder-Mead", options=options)
    return exact, jax.jit(jax.hessian(lambda p: _closed(p, t, x)))(exact.x)


@pytest.mark.slow
@pytest.mark.parametrize("start", [1e-3, 1.0, 1e4])
def test_a_path_is_fitted_as_by_its_closed_form_from_any_start(start):
    t, x = ou_path()
    data = jd.Trajectory(jd.Grid.uniform((-6.0, 7.0, 50)), t, x)
    result = jd.fit(ou(jd.Positive(0.5), jd.Free(0.0), jd.Positive(start)), data, progress=False)
    exact, information = of_closed_form()
    assert result.converged
    np.testing.assert_allclose(result.loss, exact.fun, atol=1e-4)
    np.testing.assert_allclose(list(result.columns()[0]), exact.x, rtol=2e-4)
    np.testing.assert_allclose(result.covariance, np.linalg.inv(information), rtol=2e-3)


def _closed(p, t, x):
    k, m, D = p
    dt = np.diff(t)
    variance = D * -jnp.expm1(-2 * k * dt) / k
    return 0.5 * jnp.sum((x[1:] - m - (x[:-1] - m) * jnp.exp(-k * dt)) ** 2 / variance + jnp.log(variance))


@pytest.mark.slow
def test_a_trial_that_cannot_be_planned_only_shortens_the_step(monkeypatch):
    t, x = ou_path()
    data, model = jd.Trajectory(jd.Grid.uniform((-6.0, 7.0, 50)), t, x), ou(jd.Positive(0.5), 0.5, jd.Positive(0.3))
    monkeypatch.setattr(paths.trajectory_counts, "prepared", lambda *rest: None)  # by the plan of each step
    free = jd.fit(model, data, progress=False)
    plan, asked = paths.prepare, []

    def within(top, error):
        def prepare(drift, diffusivity, *rest):
            asked.append(float(diffusivity(0.0)))
            if asked[-1] > top:
                raise error
            return plan(drift, diffusivity, *rest)

        monkeypatch.setattr(paths, "prepare", prepare)
        return prepare

    best = free.parameters["diffusivity"]
    monkeypatch.setattr(Run, "rough", lambda self, start: None)
    within(1.01 * best, ValueError("too wild"))
    near(jd.fit(ou(jd.Positive(0.5), 0.5, jd.Positive(0.03)), data, progress=False), free.parameters, 1e-5)
    within(0.5 * best, MemoryError())
    held = jd.fit(ou(jd.Positive(0.5), 0.5, jd.Positive(0.03)), data, progress=False)
    assert not held.converged and "need more memory than there is" in str(held) and np.isfinite(held.loss)
    assert max(asked) > 0.5 * best > held.parameters["diffusivity"] * 0.7
    within(0.0, ValueError("too wild"))
    with pytest.raises(ValueError, match="^too wild; this was at drift.k = 0.5, diffusivity = 0.3$"):
        jd.fit(model, data, progress=False)


@pytest.mark.slow
def test_several_experiments_share_their_parameters(readings, best):
    half = [readings.rows(np.arange(48) % 2 == i) for i in (0, 1)]
    result = jd.fit(marked(), half, progress=False)
    assert result.loss_name == "likelihood" and result.converged
    near(result, best.parameters, 0.05)
    np.testing.assert_allclose(result.standard_errors["decay"], best.standard_errors["decay"], rtol=0.2)
    assert len(result.predict(half[1])) == 24


@pytest.mark.slow
def test_the_initial_state_may_be_fitted_too(readings):
    data = jd.Readings(GRID, Bump(jd.Positive(0.2)), readings.times, readings.positions, readings.values)
    result = jd.fit(marked(), data, progress=False)
    assert abs(result.parameters["initial.width"] - 0.1) < 3 * result.standard_errors["initial.width"]
    np.testing.assert_allclose(result.initial(0.4 + 0.1), np.exp(-((0.1 / result.parameters["initial.width"]) ** 2)))

    def model(D, k, width):
        return jd.Diffusion(D, decay=k), Bump(width)

    named = jd.fit(
        model, readings, parameters={"D": jd.Positive(1.0), "k": 0.1, "width": jd.Positive(0.2)}, progress=False
    )
    near(named, {"D": result.parameters["diffusivity"], "width": result.parameters["initial.width"]}, 1e-5)
    np.testing.assert_allclose(named.predict(), result.predict(), atol=1e-6)


@pytest.mark.slow
def test_minibatches_come_near_and_validation_is_reported(readings, best):
    result = jd.fit(
        marked(),
        readings,
        optimizer=optax.adam(0.02),
        steps=300,
        batch_size=16,
        key=jax.random.key(1),
        validation=0.25,
        progress=False,
    )
    near(result, best.parameters, 0.25)
    assert 2e-5 < result.validation_loss < 4e-4
    assert max(m.times.max() for m in result.measurements) < min(m.times.min() for m in result.held_out)


@pytest.mark.slow
def test_float32_when_asked_for(readings, best):
    result = jd.fit(marked(), readings, dtype=jnp.float32, progress=False)
    near(result, best.parameters, 1e-2)
    assert result.covariance.dtype == np.float64


SESSION = """
import jax, numpy as np, jaxdiff as jd
jax.config.update("jax_enable_x64", {wide})
grid = jd.Grid.uniform((0.0, 1.0, 64))
peak = grid.delta(grid.centers[0][19])  # exact in either precision
truth = jd.solve(jd.Diffusion(0.1, decay=0.2), grid, peak, [0.0, 0.1, 0.2, 0.4])
rows = np.repeat([0.1, 0.2, 0.4], 20), np.tile(grid.centers[0][::3][:20], 3)
with jax.enable_x64(True):
    values = np.asarray(grid.average(lambda x: x))[::3][:20]
noise = np.random.default_rng(0).normal(size=60)
values = np.tile(1 + np.cos(np.pi * values), 3) * np.exp(-rows[0]) + 0.01 * noise
model = jd.Diffusion(jd.Positive(0.3), decay=jd.Free(0.1))
first = jd.fit(model, jd.Readings(grid, peak, *rows, values), progress=False)
again = jd.solve(first.model, grid, peak, [0.0, 0.4])
second = jd.fit(model, jd.Readings(grid, again.values[-1], *rows, values), progress=False)
third = jd.fit(model, jd.Readings(grid, peak, *rows, values), progress=False)
assert third.parameters == first.parameters and second.covariance.dtype == np.float64
assert str(truth.values.dtype) == ("float64" if {wide} else "float32"), truth.values.dtype
assert jax.config.jax_enable_x64 is {wide}
print(*first.columns()[0], *first.columns()[1], first.loss)
"""


@pytest.mark.slow
def test_a_default_session_fits_in_double_precision(capsys):
    session = [sys.executable, "-c", SESSION.format(wide=False)]
    found = subprocess.run(session, capture_output=True, text=True, env={**os.environ})
    assert not found.returncode, found.stderr[-600:]
    exec(SESSION.format(wide=True), {})  # this session is a wide one
    wide, default = (np.array(text.split(), float) for text in (capsys.readouterr().out, found.stdout))
    np.testing.assert_allclose(default, wide, rtol=1e-9)


@pytest.mark.slow
def test_results_print_predict_and_store_themselves(best, readings, tmp_path):
    text = str(best)
    assert "diffusivity" in text and "95 % interval" in text and "converged" in text
    np.testing.assert_allclose(np.mean((best.predict() - readings.values) ** 2), best.loss, rtol=1e-6)
    path = best.save(tmp_path / "fit.json")
    assert [file.name for file in tmp_path.iterdir()] == ["fit.json"]
    again = jd.load(path, marked())
    assert str(again) == text
    np.testing.assert_allclose(again.predict(readings), best.predict(), rtol=1e-12)
    with pytest.raises(ValueError, match="loaded without its model"):
        jd.load(path).predict(readings)
    with pytest.raises(ValueError, match="cannot be written"):
        best.save(tmp_path / "nowhere" / "fit.json")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="is not a stored fit"):
        jd.load(tmp_path / "other.json")


@pytest.mark.slow
def test_convergence_is_reported_truthfully(readings):
    result = jd.fit(marked(50.0, 3.0), readings, steps=1, progress=False)
    assert not result.converged and "NOT CONVERGED" in str(result)
    result = jd.fit(marked(), readings, optimizer=optax.adam(1e-4), steps=20, progress=False)
    assert not result.converged


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda data: jd.fit(jd.Diffusion(1.0), data), ValueError, "nothing is marked for fitting"),
        (lambda data: jd.fit(lambda D: jd.Diffusion(D), data), TypeError, "needs parameters="),
        (
            lambda data: jd.fit(lambda D: jd.Diffusion(D), data, parameters={"E": 1.0}),
            TypeError,
            "cannot be called with the parameters E",
        ),
        (lambda data: jd.fit(lambda D: D, data, parameters={"D": 1.0}), TypeError, "must return an equation"),
        (lambda data: jd.fit(marked(), data, parameters={"D": 1.0}), TypeError, "parameters= belongs to"),
        (lambda data: jd.fit(3.0, data), TypeError, "model must be an equation or a function"),
        (lambda data: jd.fit(marked(), [1, 2]), TypeError, "measurements must be jd.Readings"),
        (lambda data: jd.fit(marked(), []), ValueError, "at least one measurement"),
        (lambda data: jd.fit(marked(), data, validation=1.5), ValueError, "a fraction between 0 and 1"),
        (
            lambda data: jd.fit(marked(), data, optimizer="adm"),
            ValueError,
            "unknown optimiser .adm.; did you mean .adam.?",
        ),
        (lambda data: jd.fit(marked(), data, steps=0), ValueError, "steps must be a positive whole number"),
        (
            lambda data: jd.fit(marked(), data, batch_size=4, optimizer=jd.LevenbergMarquardt()),
            ValueError,
            "batch_size needs an optax",
        ),
        (lambda data: jd.fit(marked(), data, dtype=np.int32), ValueError, "dtype must be float64 or float32"),
        (lambda data: jd.fit(jd.Diffusion(jd.Free(-1.0)), data, progress=False), ValueError, "diffusivity|D "),
        (lambda data: jd.fit(marked(), data, stepper="Euler"), ValueError, "unknown stepper"),
    ],
)
def test_errors_are_one_line(call, error, words, readings):
    with pytest.raises(error, match=words) as caught:
        call(readings)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [None, optax.adam(0.1)])
def test_where_no_number_changes_the_loss_no_fit_has_converged(optimizer):
    """A drift that carries all to one wall: neither slope nor curvature is left."""
    grid, times = jd.Grid.uniform((0.0, 1.0, 12)), np.linspace(0.1, 1.0, 8)
    readings = jd.Readings(grid, 1.0, times, np.full(8, 0.3), np.exp(-times), sigma=0.01)
    model = jd.FokkerPlanck(jd.Free(1e200), 1.0)
    found = jd.fit(model, readings, optimizer=optimizer, steps=20, progress=False)
    assert not found.converged and found.notes[0].startswith("not converged") and found.verdict.describes is None
    many = jd.fit_many(model, readings, np.exp(-times)[None], progress=False)
    assert optimizer or not many.converged.any()
