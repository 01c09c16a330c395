"""Clouds of individuals: likelihood and distances against closed forms, quadrature and SciPy; strangers among them."""

from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import interpolate, optimize, stats

import jaxdiff as jd

K, M, D, X0, WIDTH = 1.0, 0.5, 0.4, -1.5, 0.3
TIMES = np.array([0.3, 1.0, 2.5])
GRID = jd.Grid.uniform((-5.0, 5.0, 200))
TRUTH = {"k": K, "m": M, "D": D}
STARTS = {"k": jd.Positive(0.6), "m": jd.Free(0.2), "D": jd.Positive(0.8)}


def begin(x):
    return jnp.exp(-((x - X0) ** 2) / (2 * WIDTH**2)) / (WIDTH * jnp.sqrt(2 * jnp.pi))


def model(k, m, D):
    return jd.FokkerPlanck(lambda x: k * (m - x), D)


def normal(t, k=K, m=M, D=D):
    stay = np.exp(-k * t)
    return stats.norm(m + (X0 - m) * stay, np.sqrt(WIDTH**2 * stay**2 + D / k * (1 - stay**2)))


@cache
def clouds(seed=0, strangers=0):
    rng = np.random.default_rng(seed)
    found = [normal(t).rvs(300, rng) for t in TIMES]
    for cloud in found:
        cloud[:strangers] = rng.uniform(-5, 5, strangers)
    return jd.Samples(GRID, begin, TIMES, found)


@cache
def fitted(loss=None, seed=0, strangers=0):
    return jd.fit(model, clouds(seed, strangers), parameters=STARTS, loss=loss, progress=False)


def distances(fit):
    return np.array([(fit.parameters[name] - x) / fit.standard_errors[name] for name, x in TRUTH.items()])


@pytest.mark.slow
def test_likelihood_is_that_of_the_closed_form():
    fit, data = fitted(), clouds()
    logs = np.concatenate([normal(t, **fit.parameters).logpdf(x) for t, x in zip(TIMES, data.values.reshape(3, -1))])
    assert abs(fit.loss + logs.sum()) < 1e-4 * len(logs)
    np.testing.assert_allclose(fit.predict(), logs, atol=0.03)
    assert np.abs(distances(fit)).max() < 3
    minus = lambda x: -sum(normal(t, *x).logpdf(one).sum() for t, one in zip(TIMES, data.values.reshape(3, -1)))
    best = optimize.minimize(
        minus, list(TRUTH.values()), method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-7}
    ).x
    for name, x in zip(TRUTH, best, strict=True):
        assert abs(fit.parameters[name] - x) < 0.05 * fit.standard_errors[name]
    assert fit.verdict.describes


@pytest.mark.slow
def test_error_bars_are_the_observed_information():
    """Second differences of the closed form at the optimum; Fisher's information is that on average over samples."""
    fit, data = fitted(), clouds().values.reshape(3, -1)
    names = list(TRUTH)
    x = np.array([fit.parameters[name] for name in names])
    value = lambda x: -sum(normal(t, *x).logpdf(one).sum() for t, one in zip(TIMES, data))
    h, unit = 1e-3, np.eye(3)
    bend = lambda i, j: (
        value(x + h * (unit[i] + unit[j])) - value(x + h * (unit[i] - unit[j]))
        - value(x - h * (unit[i] - unit[j])) + value(x - h * (unit[i] + unit[j]))
    ) / (4 * h**2)  # fmt: skip
    covariance = np.linalg.inv([[bend(i, j) for j in range(3)] for i in range(3)])
    np.testing.assert_allclose(np.sqrt(np.diag(fit.covariance)), np.sqrt(np.diag(covariance)), rtol=0.08)


@pytest.mark.slow
def test_distances_are_those_of_distribution_functions():
    shares = fitted(jd.energy_distance).predict(clouds().in_cells)
    far = np.linspace(-5, 5, 400_001)
    squares, absolute = [], []  # of a smooth density, which cells hold the averages of
    for share, cloud in zip(shares, clouds().values.reshape(3, -1)):
        below = interpolate.CubicSpline(GRID.edges[0], np.append(0.0, np.cumsum(share)))(far)
        gap = np.searchsorted(np.sort(cloud), far, side="right") / 300 - below
        squares.append(2 * np.trapezoid(gap**2, far))
        absolute.append(np.trapezoid(np.abs(gap), far))
    assert fitted(jd.energy_distance).loss == pytest.approx(np.mean(squares), rel=3e-4)
    predictor = clouds().prepare(model(K, M, D), begin)
    assert float(jd.wasserstein.value(predictor, jnp.asarray(shares))) == pytest.approx(np.mean(absolute), rel=3e-4)
    one, other = np.random.default_rng(1).normal(size=(2, 50))
    assert float(jd.energy_distance(one, other)) == pytest.approx(stats.energy_distance(one, other) ** 2, rel=1e-12)
    assert float(jd.wasserstein(one, other[:20])) == pytest.approx(
        stats.wasserstein_distance(one, other[:20]), rel=1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize("loss", [jd.energy_distance, jd.kl_divergence])
def test_estimates_by_other_losses(loss):
    fit = fitted(loss)
    assert np.abs(distances(fit)).max() < 3
    ratio = [fit.standard_errors[name] / fitted().standard_errors[name] for name in TRUTH]
    assert 0.9 < min(ratio) and max(ratio) < 1.35


@pytest.mark.slow
def test_errors_of_the_energy_distance_are_those_of_repeats():
    """The sandwich against clouds drawn anew, all fitted as one batch; and the bootstrap against itself."""
    fit = fitted(jd.energy_distance)
    repeats = jd.bootstrap(fit, 200, progress=False, key=3)
    assert repeats.converged.all()
    for name in TRUTH:
        assert repeats.standard_errors[name] == pytest.approx(fit.standard_errors[name], rel=0.2)
    again = jd.bootstrap(fit, 30, kind="residual", progress=False)
    assert 0.5 < again.standard_errors["D"] / fit.standard_errors["D"] < 1.6


@pytest.mark.slow
def test_wasserstein_is_minimised_and_says_why_it_has_no_errors():
    fit = fitted(jd.wasserstein)
    assert fit.converged
    for name in TRUTH:
        assert abs(fit.parameters[name] - fitted().parameters[name]) < 2 * fitted().standard_errors[name]
    assert any("jd.bootstrap draws them" in note for note in fit.notes)


@pytest.mark.slow
def test_two_per_cent_of_strangers(tmp_path):
    """They throw the likelihood off, are told by its verdict, and hardly move the energy distance, or a background that is fitted."""
    moved = lambda loss: [
        (fitted(loss, strangers=6).parameters[name] - fitted(loss).parameters[name]) / fitted().standard_errors[name]
        for name in TRUTH
    ]
    assert np.abs(moved(None)).max() > 3 and fitted(strangers=6).verdict.describes is False
    assert np.abs(moved(jd.energy_distance)).max() < 1.5
    assert np.abs(distances(fitted(jd.energy_distance, strangers=6))).max() < 3
    plain = clouds(strangers=6)
    share = jd.Bounded(0.1, 0.0, 0.5)
    mixed = jd.Samples(GRID, begin, plain.times, plain.values, background=share)
    fit = jd.fit(model, mixed, parameters=STARTS, progress=False)
    assert np.abs(distances(fit)).max() < 3
    found, error = fit.parameters["initial.background"], fit.standard_errors["initial.background"]
    assert abs(found - 0.02) < 3 * error and error < 0.02
    assert fit.verdict.describes
    halves = [jd.Samples(GRID, begin, plain.times[i::2], plain.values[i::2], background="share") for i in (0, 1)]
    shared = jd.fit(model, halves, parameters={**STARTS, "share": share}, progress=False)
    assert abs(shared.parameters["share"] - found) < 1e-3 * error
    fit.save(tmp_path / "mixed.json")
    assert jd.load(tmp_path / "mixed.json", model).arguments.keys() == TRUTH.keys()
    known = jd.Samples(GRID, begin, plain.times, plain.values, background=0.02)
    assert np.abs(distances(jd.fit(model, known, parameters=STARTS, progress=False))).max() < 3


@pytest.mark.slow
@pytest.mark.parametrize("wall", [jd.absorbing, jd.reflecting], ids=["absorbing", "reflecting"])
def test_densities_up_to_a_wall(wall):
    """Images, of what is not absorbed; in 50 cells, within the first of which a density that vanishes has every logarithm."""
    grid, sign = jd.Grid.uniform((0.0, 6.0, 50)), -1 if wall is jd.absorbing else 1
    begin = lambda x: jnp.exp(-((x - 1.5) ** 2) / 0.18)
    x = np.array([1e-4, 0.01, 0.05, 0.12, 0.5, 1.0, 3.0])
    seen = jd.Samples(grid, begin, np.ones(len(x)), x)
    equation = jd.FokkerPlanck(0.0, 0.5, boundaries={"x-": wall})
    predictor = seen.prepare(equation, begin)
    logs = predictor.log_densities(predictor.predict(equation, begin).values)
    there, image = (stats.norm(at, np.sqrt(0.09 + 1.0)) for at in (1.5, -1.5))
    exact = np.log((there.pdf(x) + sign * image.pdf(x)) / (there.sf(0) + sign * image.sf(0)))
    np.testing.assert_allclose(logs, exact, atol=0.004)


@pytest.mark.slow
def test_cells_that_move_an_estimate_are_told():
    """Cells as wide as clouds, by three losses; those of `GRID` are small."""
    coarse = jd.Grid.uniform((-5.0, 5.0, 22))
    for loss in (None, jd.energy_distance):
        fit = jd.fit(
            model,
            jd.Samples(coarse, begin, TIMES, list(clouds().values.reshape(3, -1))),
            parameters=STARTS,
            loss=loss,
            progress=False,
        )
        assert any("cells are too large" in note for note in fit.notes)
        assert not fitted(loss).notes


def test_rounded_samples():
    """Of those on the edges of cells every other counts below; tests spread them; what rounding adds to their variance is told."""
    grid = jd.Grid.uniform((-5.0, 5.0, 50))
    x = np.round(stats.norm(0.33, 0.6).rvs(4000, 1), 1)
    predictor = jd.Samples(grid, begin, [1.0], [x]).prepare(model(K, M, D), begin)
    assert float(predictor.observation[0] @ grid.centers[0]) == pytest.approx(x.mean(), abs=0.003)
    rounded = lambda r: jd.Samples(GRID, begin, TIMES, r * np.round(clouds().values.reshape(3, -1) / r))
    assert rounded(0.1).notes == clouds().notes == ()
    fit = jd.fit(model, rounded(0.1), parameters=STARTS, progress=False)
    assert fit.verdict.describes and np.abs(distances(fit)).max() < 3
    assert "rounded to 0.5 along x" in rounded(0.5).notes[0]


@pytest.mark.slow
def test_noise_of_the_energy_distance_is_what_the_model_expects():
    """Of as few samples as parameters there is no other: of one sample the score vanishes where the loss is least."""
    predictor = clouds().prepare(model(K, M, D), begin)
    shares = predictor.predict(model(K, M, D), begin).values
    slopes = shares[..., None] * jnp.stack([GRID.centers[0], GRID.centers[0] ** 2], -1)
    slopes = slopes - shares[..., None] * slopes.sum(1, keepdims=True)
    seen, each = jd.energy_distance.expand(predictor, shares, slopes).noise, []
    for i, t in enumerate(TIMES):
        alone = jd.Samples(GRID, begin, [t], [[0.3]]).prepare(model(K, M, D), begin)
        each.append(jd.energy_distance.expand(alone, shares[i : i + 1], slopes[i : i + 1]).noise)
    np.testing.assert_allclose(np.diag(seen), 300 / 900**2 * np.diag(sum(each)), rtol=0.25)


@pytest.mark.slow
def test_a_plane_a_ring_and_a_ball():
    rng = np.random.default_rng(4)
    plane = jd.Grid.uniform((-4.0, 4.0, 40), (-4.0, 4.0, 40))
    x = rng.normal(size=(500, 2)) * np.sqrt([2 * 0.5, 2 * 0.2])
    start = plane.delta((0.0, 0.0))
    flat = jd.Samples(plane, start, [1.0], [x])
    fit = jd.fit(jd.Diffusion(jd.PerAxis(jd.Positive(1.0), jd.Positive(1.0))), flat, progress=False)
    for axis, truth in (("x", 0.5), ("y", 0.2)):
        assert abs(fit.parameters[f"diffusivity.{axis}"] - truth) < 3 * fit.standard_errors[f"diffusivity.{axis}"]
    ring = jd.Grid.uniform((0.0, 1.0, 60))
    angles = (0.95 + np.sqrt(2 * 0.02) * rng.normal(size=400)) % 1
    around = jd.Samples(ring, ring.delta(0.95), [1.0], angles)
    fit = jd.fit(jd.FokkerPlanck(0.0, jd.Positive(0.1), boundaries=jd.Periodic()), around, progress=False)
    wrapped = sum(stats.norm(0.95 + n, np.sqrt(2 * fit.parameters["diffusivity"])).pdf(angles) for n in range(-3, 4))
    assert abs(fit.loss + np.log(wrapped).sum()) < 1e-3 * 400
    ball = jd.Grid.radial((0.0, 5.0, 150), geometry="spherical")
    r = np.linalg.norm(rng.normal(size=(400, 3)) * np.sqrt(2 * 0.4), axis=1)
    shells = jd.Samples(ball, lambda r: jnp.exp(-(r**2) / 0.04), [1.0], r)
    fit = jd.fit(jd.Diffusion(jd.Positive(1.0)), shells, progress=False)
    scale = np.sqrt(2 * fit.parameters["diffusivity"] + 0.02)
    assert abs(fit.loss + stats.maxwell(scale=scale).logpdf(r).sum()) < 2e-3 * 400


@pytest.mark.slow
def test_at_rest_and_as_a_function():
    """The density at rest at a time of inf; `fit.objective` is the log likelihood; half cells move nothing."""
    x = np.random.default_rng(6).normal(M, np.sqrt(D / K), 500)
    rest = jd.Samples(GRID, None, [np.inf], [x])
    fit = jd.fit(jd.FokkerPlanck(lambda x: K * (M - x), jd.Positive(1.0)), rest, progress=False)
    assert fit.parameters["diffusivity"] == pytest.approx(np.mean((x - M) ** 2), rel=1e-3)
    assert float(fit.objective(fit.objective.optimum)) == pytest.approx(-fit.loss)
    assert np.abs(fit.check_grid().error_bars["diffusivity"]) < 0.1


@pytest.mark.slow
def test_snapshots_of_counts():
    births = lambda birth, death: jd.MasterEquation(lambda n: birth, lambda n: death * n)
    n = np.asarray(jd.simulate(births(8.0, 1.0), 0, [0.0, 0.7, 2.0], 400, 5))
    seen = jd.Samples(jd.States({"n": 40}), {"n": 0}, [0.7, 2.0], list(n[:, 1:].T))
    fit = jd.fit(births, seen, parameters={"birth": jd.Positive(3.0), "death": jd.Positive(2.0)}, progress=False)
    for name, truth in (("birth", 8.0), ("death", 1.0)):
        assert abs(fit.parameters[name] - truth) < 3 * fit.standard_errors[name]
    mean = lambda t: fit.parameters["birth"] / fit.parameters["death"] * (1 - np.exp(-fit.parameters["death"] * t))
    logs = sum(stats.poisson(mean(t)).logpmf(column).sum() for t, column in zip((0.7, 2.0), n[:, 1:].T))
    assert fit.loss == pytest.approx(-logs, abs=1e-6)


@pytest.mark.slow
def test_rows_tables_gaps_and_what_is_held_out():
    data = clouds()
    rows = jd.Samples(GRID, begin, np.repeat(TIMES, 300), data.values[:, None])
    table = {"t": np.repeat(TIMES, 300), "x": np.append(data.values[:-1], np.nan)}
    assert len(jd.Samples(GRID, begin, TIMES[:2], [data.values[:5], []]).values) == 5
    read = jd.Samples.from_table(table, GRID, begin, time="t", position="x")
    square = jd.Samples(GRID, begin, TIMES, data.values.reshape(3, -1))
    for one in (rows, square):
        np.testing.assert_array_equal(one.values, data.values)
        np.testing.assert_array_equal(one.times, data.times)
    assert read.missing == 1 and len(read.values) == 899 and "899 of 900 samples used" in read.notes[0]
    first, last = data.split(0.2)
    assert len(last.values) == 180 and len(first.values) == 720 and set(last.times) == set(TIMES)
    fit = jd.fit(model, data, parameters=STARTS, validation=0.2, progress=False)
    exact = sum(normal(t, **fit.parameters).logpdf(x) for t, x in zip(last.times, last.values))
    assert fit.validation_loss == pytest.approx(-exact, abs=180 * 1e-4)
    several = jd.fit_many(model, [clouds(), clouds(1)], parameters=STARTS, progress=False)
    assert several[0].parameters["k"] == pytest.approx(fitted().parameters["k"], rel=1e-4)


@pytest.mark.slow
def test_pictures_and_files(tmp_path):
    fit = fitted()
    fit.report(tmp_path / "fit.html")
    fit.save(tmp_path / "fit.json")
    loaded = jd.load(tmp_path / "fit.json")
    assert loaded.parameters == pytest.approx(fit.parameters)
    assert fit.plot() is not None
    plane = jd.Grid.uniform((0.0, 1.0, 8), (0.0, 1.0, 8))
    flat = jd.Samples(plane, plane.delta((0.5, 0.5)), [0.1], [np.random.default_rng(0).uniform(size=(60, 2))])
    assert jd.fit(jd.Diffusion(jd.Positive(1.0)), flat, progress=False).plot() is not None


LINE = jd.Grid.uniform((0.0, 1.0, 10))
PLANE = jd.Grid.uniform((0.0, 1.0, 4), (0.0, 1.0, 4))
REFUSED = {
    "outside": (lambda: jd.Samples(LINE, 1.0, [1.0], [[0.5, 1.5]]), "sample 1 at 1.5 lies outside the grid"),
    "clouds": (lambda: jd.Samples(LINE, 1.0, [1.0, 2.0], [[0.5]]), "a list of a cloud for each of 2 times"),
    "coordinates": (lambda: jd.Samples(PLANE, 1.0, [1.0], [[0.5, 0.5, 0.5]]), "has 2 coordinates on this grid, got 3"),
    "nothing": (lambda: jd.Samples(LINE, 1.0, [1.0], [[]]), "no sample given"),
    "none": (lambda: jd.Samples(LINE, 1.0, [1.0], [[np.nan]]), "no sample given"),
    "background": (lambda: jd.Samples(LINE, 1.0, [1.0], [[0.5]], background=1.0), r"within \[0, 1\), got 1"),
    "early": (lambda: jd.Samples(LINE, 1.0, [-1.0], [[0.5]]), "must not come before the start"),
    "squares": (lambda: jd.fit(jd.Diffusion(jd.Positive(1.0)), jd.Samples(LINE, 1.0, [1.0], [[0.5]]), loss=jd.mse), "Samples cannot be compared by jd.mse"),
    "a plane": (lambda: jd.fit(jd.Diffusion(jd.Positive(1.0)), jd.Samples(PLANE, 1.0, [1.0], [[[0.5, 0.5]]]), loss=jd.energy_distance), "along one axis, got 2 axes"),
    "readings": (lambda: jd.fit(jd.Diffusion(jd.Positive(1.0)), jd.Readings(LINE, 1.0, [1.0], [0.5], [1.0]), loss=jd.wasserstein), "Readings cannot be compared by jd.wasserstein"),
    "waves": (lambda: jd.fit(jd.Schrodinger(jd.Free(1.0)), jd.Samples(LINE, 1.0, [1.0], [[0.5]])), "not of waves"),
    "two starts": (
        lambda: jd.fit(lambda D: (jd.Diffusion(D), 1.0), jd.Samples(LINE, None, [1.0], [[0.5]], background=jd.Bounded(0.1, 0.0, 0.5)), parameters={"D": jd.Positive(1.0)}),
        "the model brings another",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_in_one_line(case):
    call, words = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=words) as raised:
        call()
    assert "\n" not in str(raised.value)
