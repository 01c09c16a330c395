"""Tracks with localisation noise, motion blur and several states, against dense covariances, closed forms and measured ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxdiff as jd
from jaxdiff.benchmarks.tracks import Free, moved, study
from jaxdiff.transition.free import FreeTracks
from jaxdiff.transition.kalman import FilteredTracks, packed

GRID = jd.Grid.uniform((-50.0, 50.0, 100))


def dense(t, y, exposure, k, v, D, s):
    """log p(y₁ … | y₀) for dX = (v − k X) dt + √(2D) dW by the whole covariance, double integrals by Gauss and Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(24)
    nodes, weights = (nodes + 1) / 2, weights / 2
    begin = t - exposure - (t[0] - exposure)
    covariance = lambda a, b: D / k * (np.exp(-k * abs(a - b)) - np.exp(-k * (a + b)))
    at = begin[:, None] + exposure * nodes
    each = covariance(at[:, None, :, None], at[None, :, None, :])
    C = np.einsum("ijab,a,b->ij", each, weights, weights)
    for i, a in enumerate(begin):  # the kink where both times meet
        late = a + exposure * nodes
        within = covariance(late[:, None], a + exposure * nodes[:, None] * nodes)
        C[i, i] = 2 * np.einsum("ab,a,b->", within, weights * nodes, weights)
    C += s**2 * np.eye(len(t))
    slope, shift = np.exp(-k * at) @ weights, v / k * (1 - np.exp(-k * at)) @ weights

    def flat(n):  # ∫ p(y₀ … yₙ₋₁ | start) d start
        inverse, a, r = np.linalg.inv(C[:n, :n]), slope[:n], (y - shift)[:n]
        left = r @ inverse @ r - (a @ inverse @ r) ** 2 / (a @ inverse @ a)
        return -0.5 * (left + np.linalg.slogdet(2 * np.pi * C[:n, :n])[1] + np.log(a @ inverse @ a / (2 * np.pi)))

    return flat(len(t)) - flat(1)


@pytest.fixture(scope="module")
def seen():
    rng = np.random.default_rng(0)
    t = 5.0 + np.cumsum(np.r_[0.0, 0.3 + rng.exponential(0.5, 8)])
    return t, np.cumsum(rng.normal(size=9))


@pytest.mark.parametrize("exposure", [1e-9, 0.1, 0.3])
def test_the_filter_is_the_dense_covariance(seen, exposure):
    t, y = seen
    tracks = FilteredTracks.of((t, t[:4]), (y + 100.0, y[:4] + 100.0))
    force = lambda k: 0.4 - k * (jnp.asarray(tracks.centres) - 100.0)
    value = jax.jit(lambda k: tracks.log_densities(force(k), k, 0.7, 0.2**2, exposure))
    for k in (0.01, 0.49, 0.51, 3.0, -0.4):
        found = np.asarray(value(k))
        expected = [dense(t[:n], y[:n], exposure, k, 0.4, 0.7, 0.2) for n in (9, 4)]
        np.testing.assert_allclose(found, expected, atol=2e-9)


@pytest.mark.parametrize("exposure", [0.0, 0.1, 0.3])
def test_the_sine_transform_is_the_filter_of_a_free_track(exposure):
    t, y = 7.0 + 0.3 * np.arange(12), np.cumsum(np.random.default_rng(1).normal(size=12))
    by_sines = FreeTracks.of((t, t[:5]), (y, y[:5])).log_densities(0.4, 0.7, 0.04, exposure)
    filtered = FilteredTracks.of((t, t[:5]), (y, y[:5])).log_densities(jnp.full(2, 0.4), 0.0, 0.7, 0.04, exposure)
    np.testing.assert_allclose(by_sines, filtered, rtol=1e-12)


def test_exact_positions_are_those_of_free_steps():
    t, y = np.arange(6.0), np.array([0.0, 0.3, -0.1, 0.5, 0.4, 0.2])
    found = FreeTracks.of((t,), (y,)).log_densities(0.1, 0.7, 0.0, 0.0)
    steps = np.diff(y) - 0.1
    np.testing.assert_allclose(found, -0.5 * np.sum(np.log(2 * np.pi * 1.4) + steps**2 / 1.4), rtol=1e-12)


def test_lanes_hold_all_tracks_and_are_full():
    lengths = list(np.random.default_rng(2).integers(2, 60, 300))
    lanes = packed(lengths)
    assert sorted(i for lane in lanes for i in lane) == list(range(300))
    used = [sum(lengths[i] for i in lane) for lane in lanes]
    assert max(used) == max(lengths) and len(lanes) <= 1.05 * sum(lengths) / max(lengths) + 1


@pytest.mark.slow
def test_free_tracks_are_fitted_at_the_bound_and_intervals_hold():
    problem, repeats = Free(0.5, 100, 0.1), 60
    found = study(problem, repeats)
    part = found["parameters"]["diffusivity"]
    three = 3 / np.sqrt(2 * repeats)
    assert abs(part["rmse"] / problem.bound - 1) < three
    assert abs(found["covariance"]["rmse"] / problem.vestergaard - 1) < 1.5 * three  # whose tails are longer
    assert found["covariance"]["rmse"] > 1.4 * part["rmse"]
    assert part["coverage"] > 0.95 - 3 * np.sqrt(0.05 * 0.95 / repeats) and found["called wrong"] <= 0.05


TRAP = jd.FokkerPlanck(jd.Expression("k*(m - x)", k=jd.Positive(0.5), m=jd.Free(0.3)), jd.Positive(0.5))


@pytest.mark.slow
def test_a_trap_with_noise_and_blur_is_recovered_where_exact_positions_mislead():
    rng = np.random.default_rng(3)
    x = moved(rng, 10, 601, k=1.0, exposure=0.1, noise=0.3)
    tracks = jd.Trajectory(GRID, [0.1 * np.arange(601)] * 10, list(x), jd.Positive(0.1), 0.1)
    fit = jd.fit(TRAP, tracks, progress=False)
    truth = {"drift.k": 1.0, "drift.m": 0.0, "diffusivity": 1.0, "initial.noise": 0.3}
    for name, value in truth.items():
        assert abs(fit.parameters[name] - value) < 3 * fit.standard_errors[name], name
        assert fit.standard_errors[name] < 0.1
    assert fit.verdict.describes is True
    assert any("Kalman" in note for note in fit.notes)
    before, after = x[:, :-1].ravel(), x[:, 1:].ravel()  # the closed form of exact positions
    assert -np.log(np.cov(before, after)[0, 1] / np.var(before)) / 0.1 > 1.4


@pytest.mark.slow
def test_gradients_are_those_of_differences():
    x = moved(np.random.default_rng(4), 2, 30, k=1.0, exposure=0.05, noise=0.3)
    times = [0.1 * np.arange(30), 0.1 * np.arange(30) ** 1.01]
    filtered, free = FilteredTracks.of(times, list(x)), FreeTracks.of(times[:1], list(x[:1]))

    def value(z):
        k, v, D, s = z
        slow = filtered.log_densities(v - k * jnp.asarray(filtered.centres), k, D, s**2, 0.05)
        return jnp.sum(slow) + jnp.sum(free.log_densities(v, D, s**2, 0.05))

    value, slope = jax.jit(value), jax.jit(jax.grad(value))
    for z in ([1.0, 0.2, 0.8, 0.3], [0.0, 0.2, 0.8, 0.3], [1.0, 0.0, 0.8, 1e-3]):
        z = np.array(z)
        ends = lambda step, z=z: np.array([(value(z + e) - value(z - e)) / (2 * step) for e in step * np.eye(4)])
        np.testing.assert_allclose(slope(z), (4 * ends(5e-5) - ends(1e-4)) / 3, rtol=2e-6, atol=2e-6)


@pytest.mark.slow
def test_the_filter_on_the_cells_is_that_of_kalman_as_far_as_it_says():
    x = moved(np.random.default_rng(5), 2, 200, k=1.0, noise=0.3)
    wide = jd.Grid.uniform((-12.0, 12.0, 240))
    tracks = jd.Trajectory(wide, [0.1 * np.arange(200)] * 2, list(x), 0.3)
    linear, cubic = (jd.FokkerPlanck(jd.Expression(text, k=1.0), 1.0) for text in ("-k*x", "-k*x - 0*k*x**3"))
    exact = tracks.prepare(linear).predict(linear, tracks.initial).values
    plan = tracks.prepare(cubic)
    compiled = jax.jit(
        lambda plan, equation, seen: (plan.predict(equation, seen).values, plan.moved_by_cells(equation, seen))
    )
    found, told = compiled(plan, cubic, tracks.initial)
    away = np.abs(found - exact).sum()
    assert away < 4e-5 * 398 and away < told < 30 * away


def free_tracks(rng, lengths, D=1.0, noise=0.2, exposure=0.1):
    x = [moved(rng, 1, n, D=D, exposure=exposure, noise=noise)[0] for n in lengths]
    return [0.1 * np.arange(n) for n in lengths], x


@pytest.mark.slow
def test_measurements_share_a_noise_by_name_and_gaps_and_lengths_mix():
    rng = np.random.default_rng(6)
    times, x = free_tracks(rng, [80, 30, 200, 1, 120])
    x[2][[5, 6, 90]] = np.nan
    one = jd.Trajectory(GRID, times, x, "s", 0.1)
    other = jd.Trajectory(GRID, *free_tracks(rng, [150, 40]), "s", 0.1)
    assert one.notes == ("427 of 430 frames used; 3 missing", "4 of 5 paths used; 1 with fewer than two points")
    starts = {"D": jd.Positive(0.3), "s": jd.Positive(0.5)}
    fit = jd.fit(lambda D: jd.Diffusion(D), [one, other], parameters=starts, progress=False)
    assert abs(fit.parameters["D"] - 1.0) < 3 * fit.standard_errors["D"] < 0.4
    assert abs(fit.parameters["s"] - 0.2) < 3 * fit.standard_errors["s"] < 0.3
    assert fit.verdict.describes is True
    assert fit.predict(one).shape == (4,)
    exact = jd.Trajectory(GRID, *free_tracks(rng, [100] * 4, noise=0.4), 0.0)
    assert jd.fit(jd.Diffusion(jd.Positive(0.5)), exact, progress=False).verdict.describes is False


@pytest.mark.slow
def test_axes_add_up():
    rng = np.random.default_rng(7)
    x = moved(rng, 2, 20, noise=0.1).T
    t = 0.1 * np.arange(20)
    plane = jd.Grid.uniform((-50.0, 50.0, 10), (-50.0, 50.0, 10))
    both = jd.Trajectory(plane, t, x, 0.1, 0.05)
    equation = jd.FokkerPlanck((lambda x, y: 0.5 - x, lambda x, y: -0.1), jd.PerAxis(0.7, 1.2))
    each = jd.FokkerPlanck(lambda x: 0.5 - x, 0.7), jd.FokkerPlanck(-0.1, 1.2)
    alone = [jd.Trajectory(GRID, t, column, 0.1, 0.05) for column in x.T]
    sum_of = sum(float(m.prepare(e).predict(e, m.initial).values[0]) for m, e in zip(alone, each, strict=True))
    np.testing.assert_allclose(both.prepare(equation).predict(equation, both.initial).values[0], sum_of, rtol=1e-12)
    assert both.count == 38


@pytest.mark.slow
def test_the_grains_of_perrin(measured):
    parts = [pd.read_csv(measured(f"perrin_{i}.txt"), comment="#", names=["t", "x", "y"]) for i in (1, 2, 3)]
    table = pd.concat([part.assign(grain=i) for i, part in enumerate(parts)])
    table[["x", "y"]] *= 1e6
    plane = jd.Grid.uniform((-300.0, 300.0, 10), (-300.0, 300.0, 10))
    grains = jd.Trajectory.from_table(
        table, plane, time="t", position=("x", "y"), track="grain", noise=jd.Positive(0.5)
    )
    fit = jd.fit(jd.Diffusion(jd.Positive(0.3)), grains, progress=False)
    assert fit.parameters["diffusivity"] == pytest.approx(0.449, abs=5e-4)
    assert fit.standard_errors["diffusivity"] == pytest.approx(0.041, abs=5e-4)
    assert fit.verdict.describes is True
    assert any("do not tell the noise of positions from none; pool tracks" in note for note in fit.notes)


def population(rng, count, shares, speeds):
    slow = rng.uniform(size=count) < shares[0]
    return [moved(rng, 1, 21, D=speeds[0] if one else speeds[1], exposure=0.05, noise=0.1)[0] for one in slow]


@pytest.mark.slow
def test_a_mixture_of_two_states_is_told_apart():
    rng = np.random.default_rng(8)
    x = population(rng, 300, (0.3, 0.7), (0.05, 1.0))
    tracks = jd.Trajectory(GRID, [0.1 * np.arange(21)] * 300, x, jd.Positive(0.2), 0.05)
    states = lambda a, b: [jd.Diffusion(jd.Positive(a)), jd.Diffusion(jd.Positive(b))]
    fit = jd.fit(jd.Mixture(states(0.1, 0.5), jd.Bounded(0.5, 0, 1)), tracks, progress=False)
    truth = dict(zip(fit.labels, (0.05, 1.0, 0.3, 0.1), strict=True))
    assert fit.labels == ("equations.0.diffusivity", "equations.1.diffusivity", "shares.0", "initial.noise")
    for name, value in truth.items():
        assert abs(fit.parameters[name] - value) < 4 * fit.standard_errors[name], name
    assert fit.verdict.describes is True
    single = jd.fit(jd.Diffusion(jd.Positive(0.5)), tracks, progress=False)
    assert single.verdict.describes is False
    assert single.loss - fit.loss > 100
    with pytest.raises(ValueError, match="put the slower one first"):
        jd.fit(jd.Mixture(states(0.5, 0.1), jd.Bounded(0.5, 0, 1)), tracks, progress=False)


T, Y = np.arange(5.0), np.array([0.0, 0.1, 0.2, 0.1, 0.0])
PLANE = jd.Grid.uniform((-50.0, 50.0, 10), (-50.0, 50.0, 10))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: jd.Trajectory(GRID, T, Y, -1.0), "standard deviation of positions, one number of zero or more"),
        (lambda: jd.Trajectory(GRID, T, Y, [0.1, 0.2]), "one number of zero or more"),
        (lambda: jd.Trajectory(GRID, T, Y, np.nan), "one number of zero or more"),
        (lambda: jd.Trajectory(GRID, T, Y, 0.1, 2.0), "to the shortest interval between frames, 1, got 2"),
        (lambda: jd.Trajectory(GRID, T, Y, 0.1, -1.0), "exposure is a time from zero"),
        (lambda: jd.Trajectory(GRID, T, Y + 300, 0.1), "lies far outside the grid"),
        (lambda: jd.Trajectory(GRID, [T[:1]] * 2, [Y[:1]] * 2, 0.1), "none of 2 with as many"),
        (lambda: jd.Trajectory(GRID, T, 0 * Y, 0.1), "no position differs from the one before"),
        (lambda: jd.Trajectory(jd.States(2), T, [0, 1, 0, 1, 0], 0.1), "those of positions, got states"),
        (lambda: jd.Trajectory(PLANE, T, Y, 0.1), "shapes"),
        (lambda: jd.Mixture([jd.Diffusion(1.0)], []), "two equations or more"),
        (lambda: jd.Mixture([jd.Diffusion(1.0)] * 2, [0.5, 0.5]), "all states but the last, 1 here, got 2"),
        (lambda: jd.Mixture([jd.Diffusion(1.0)] * 2, 1.5), "one number within"),
        (lambda: jd.Mixture([jd.Diffusion(1.0), 3.0], 0.5), "such as jd.Diffusion"),
    ],
)
def test_what_is_no_track_is_refused(given, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        given()
    assert "\n" not in str(error.value)


D = jd.Positive(1.0)


@pytest.mark.parametrize(
    ("model", "tracks", "message"),
    [
        (
            jd.FokkerPlanck(lambda x: -(x**3), D),
            jd.Trajectory(GRID, T, Y, 0.1, 0.5),
            "motion blur .* leave exposure out",
        ),
        (
            jd.Diffusion(D),
            jd.Trajectory(jd.Grid.uniform((-0.2, 0.4, 20)), T, Y, 0.1, 0.5),
            "near the wall x-; leave exposure out, or widen",
        ),
        (jd.Mixture([jd.Diffusion(0.1), jd.Diffusion(D)], 0.5), jd.Trajectory(GRID, T, Y), "noise=, 0.0 where"),
        (jd.Diffusion(D), jd.Trajectory(GRID, T, Y, "s"), "an equation has none by name"),
        (
            jd.FokkerPlanck((lambda x, y: -y, 0.0), D),
            jd.Trajectory(PLANE, T, np.stack([Y, Y], 1), 0.1),
            "reads another coordinate",
        ),
        (
            jd.FokkerPlanck(lambda x, y: (-x, -y), D),
            jd.Trajectory(PLANE, T, np.stack([Y, Y], 1), 0.1),
            "tuple of components",
        ),
        (
            jd.FokkerPlanck((lambda x, y: -(x**3), 0.0), D),
            jd.Trajectory(PLANE, T, np.stack([Y, Y], 1), 0.1),
            "on several axes are those of",
        ),
    ],
)
def test_what_cannot_be_predicted_is_refused(model, tracks, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        jd.fit(model, tracks, progress=False)
    assert "\n" not in str(error.value)
