"""Cross-validation against computation by hand: regressions, random walks, counts, individuals, passages."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.measurements import blocks

GRID, TIMES = jd.Grid.uniform((0.0, 1.0, 4)), np.linspace(0.1, 3.0, 30)
VALUES = 1.0 + 0.3 * TIMES + 0.05 * np.random.default_rng(3).normal(size=30)
STARTS = {"a": jd.Free(0.5), "b": jd.Free(0.1)}


def line(a, b):
    """u = a + b t, everywhere."""
    return jd.Diffusion(1.0, source=b), a


def by_hand(train, test, sigma):
    slope = np.polyfit(TIMES[train], VALUES[train], 1)
    left = lambda rows: VALUES[rows] - np.polyval(slope, TIMES[rows])
    variance = np.mean(left(train) ** 2) if sigma is None else sigma**2
    return np.sum(0.5 * np.log(2 * np.pi * variance) + left(test) ** 2 / (2 * variance))


@pytest.mark.parametrize("sigma", [None, 0.05])
@pytest.mark.parametrize("forward", [False, True])
def test_a_regression(sigma, forward):
    data = jd.Readings(GRID, None, TIMES, np.full(30, 0.5), VALUES, sigma)
    found = jd.cross_validate(line, data, folds=5, forward=forward, parameters=STARTS, progress=False)
    block = np.arange(30) // 6
    rounds = range(1, 5) if forward else range(5)
    expected = [by_hand(block < i if forward else block != i, block == i, sigma) for i in rounds]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-6)
    assert found.counts.tolist() == [6] * len(rounds) and found.converged.all()
    assert found.total == pytest.approx(np.sum(expected), rel=1e-6)
    error = np.std(expected, ddof=1) / np.sqrt(len(expected))
    assert (found.mean, found.standard_error) == pytest.approx((np.mean(expected), error), rel=1e-5)


@pytest.mark.slow
def test_an_optax_transformation_ends_at_the_same_scores():
    import optax

    data = jd.Readings(GRID, None, TIMES, np.full(30, 0.5), VALUES, 0.05)
    found = jd.cross_validate(line, data, folds=2, parameters=STARTS, optimizer=optax.lbfgs(), progress=False)
    block = np.arange(30) // 15
    expected = [by_hand(block != i, block == i, 0.05) for i in range(2)]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("forward", [False, True])
def test_a_random_walk_whose_pieces_are_paths_of_their_own(forward):
    walk = np.cumsum(np.append(0.0, 0.1 * np.random.default_rng(5).normal(size=60)))
    path = jd.Trajectory(jd.Grid.uniform((-6.0, 6.0, 60)), 0.5 * np.arange(61), walk)
    found = jd.cross_validate(jd.FokkerPlanck(0.0, jd.Positive(0.05)), path, folds=4, forward=forward, progress=False)
    squares, block = np.diff(walk) ** 2, np.arange(60) // 15
    expected = []
    for i in range(1, 4) if forward else range(4):
        train = block < i if forward else block != i
        D = squares[train].mean()  # ⟨Δx²⟩/2Δt
        expected.append(np.sum(0.5 * np.log(2 * np.pi * D) + squares[block == i] / (2 * D)))
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4)


def two_states(rates):
    return jd.MasterEquation(jnp.array([[0.0, rates[0]], [rates[1], 0.0]]))


def test_counts_at_times():
    times, rng = np.linspace(0.2, 2.0, 10), np.random.default_rng(7)
    share = 0.4 + 0.6 * np.exp(-1.0 * times)  # rates 0.4 to the first state, 0.6 from it
    counts = np.array([[k, n - k] for n, k in ((n, rng.binomial(n, p)) for n, p in zip(range(40, 90, 5), share))])
    data = jd.Histograms(jd.States(["on", "off"]), np.array([1.0, 0.0]), times, counts)
    found = jd.cross_validate(
        two_states, data, parameters={"rates": jd.Positive([1.0, 1.0])}, loss=jd.negative_log_likelihood, progress=False
    )
    block = blocks.by_time(times, 5)
    for i, (back, out) in enumerate(found.parameters["rates"]):
        p = (back + out * np.exp(-(back + out) * times)) / (back + out)
        seen = counts * np.log(np.stack([p, 1 - p], 1))
        assert found.scores[i] == pytest.approx(-seen[block == i].sum(), rel=1e-6)
        q = p[block != i]
        slope = (counts[block != i] * np.stack([1 / q, -1 / (1 - q)], 1)).sum(1)
        for step in ((1e-6, 0.0), (0.0, 1e-6)):  # the others' likelihood is at its top
            b, o = back + step[0], out + step[1]
            moved = (b + o * np.exp(-(b + o) * times)) / (b + o)
            assert abs(np.sum(slope * (moved[block != i] - q)) / 1e-6) < 0.05
    assert found.counts.tolist() == [int(counts[block == i].sum()) for i in range(5)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["samples", "passages", "tracks"])
def test_each_block_is_scored_as_by_a_fit_of_the_others(kind):
    rng, grid = np.random.default_rng(11), jd.Grid.uniform((-4.0, 4.0, 80))
    model = jd.FokkerPlanck(0.0, jd.Positive(0.3))
    if kind == "samples":
        start = lambda x: jnp.exp(-(x**2) / 0.18)
        data = jd.Samples(grid, start, np.repeat([0.2, 0.6], 20), 0.7 * rng.normal(size=40))
    elif kind == "passages":
        data = jd.PassageTimes(jd.Grid.uniform((-1.0, 1.0, 60)), 0.0, rng.gamma(3.0, 0.3, 24))
        model = jd.FokkerPlanck(0.0, jd.Positive(0.3), boundaries=jd.absorbing)
    else:
        tracks = [np.cumsum(0.3 * rng.normal(size=12)) for _ in range(6)]
        data = jd.Trajectory(grid, [0.1 * np.arange(12)] * 6, tracks, noise=0.1)
    found = jd.cross_validate(model, data, folds=2, progress=False)
    block = data.blocks(2, False)
    fit = jd.fit(model, data.rows(block != 0), loss=jd.negative_log_likelihood, progress=False)
    assert found.parameters["diffusivity"][0] == pytest.approx(fit.parameters["diffusivity"], rel=1e-4)
    assert found.scores[0] == pytest.approx(-np.sum(fit.predict(data.rows(block == 0))), rel=1e-4)


@pytest.mark.slow
def test_densities_are_scored_by_the_loss_as_nobody_counted():
    times = np.linspace(0.2, 2.0, 4)
    share = 0.4 + 0.6 * np.exp(-times) + 0.01 * np.random.default_rng(7).normal(size=4)
    data = jd.Histograms(jd.States(["on", "off"]), np.array([1.0, 0.0]), times, np.stack([share, 1 - share], 1))
    starts = {"rates": jd.Positive([1.0, 1.0])}
    found = jd.cross_validate(two_states, data, folds=2, parameters=starts, progress=False)
    for i, (back, out) in enumerate(found.parameters["rates"]):
        p = ((back + out * np.exp(-(back + out) * times)) / (back + out))[2 * i : 2 * i + 2]
        q = share[2 * i : 2 * i + 2]
        expected = np.mean(q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p)))
        assert found.scores[i] == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert found.score_name == "kl_divergence" and found.counts.tolist() == [2, 2]


def test_blocks_are_neighbours_and_trials_are_dealt_out():
    assert blocks.by_time(np.array([3.0, 1.0, 1.0, 2.0, 4.0, 4.0]), 2).tolist() == [1, 0, 0, 0, 1, 1]
    assert blocks.by_time(np.array([1.0] * 90 + [2.0, 3.0]), 3).tolist() == [0] * 90 + [1, 2]
    assert blocks.dealt(np.array([2, 0, 3, 1]), 2, "trials").tolist() == [1, 1, 0, 0]
    t, x = np.arange(6.0), np.arange(6.0) ** 2
    kept = np.array([True, True, False, False, True])
    assert [list(x) for _, x in blocks.pieces([(t, x)], kept)] == [[0.0, 1.0, 4.0], [16.0, 25.0]]
    path = jd.Trajectory(jd.Grid.uniform((-1.0, 30.0, 10)), t, x)
    parts = [path.rows(path.blocks(5, False) == i) for i in range(5)]
    np.testing.assert_array_equal(np.concatenate([one.stops for one in parts]), path.stops)
    assert path.rows(kept).durations.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.slow
def test_paired_differences_and_their_table():
    data = jd.Readings(GRID, None, TIMES, np.full(30, 0.5), VALUES, 0.05)
    whole = jd.cross_validate(line, data, parameters=STARTS, progress=False)
    constant = jd.cross_validate(line, data, parameters=STARTS | {"b": jd.Fixed(0.0)}, progress=False)
    apart = whole.scores - constant.scores
    assert whole.difference(constant) == pytest.approx((apart.mean(), apart.std(ddof=1) / np.sqrt(5)))
    found = jd.compare({"line": whole, "constant": constant})
    assert found.choose() == "line" and found.best is whole and "held out: line" in str(found)
    assert list(whole.to_frame().index) == [1, 2, 3, 4, 5] and "−ln L" in str(whole)
    assert whole.plot().axes and found.plot().axes
    with pytest.raises(ValueError, match="other data or folds"):
        whole.difference(jd.cross_validate(line, data, parameters=STARTS, folds=3, progress=False))


def test_what_cannot_be_cut_is_refused_in_one_line():
    data = jd.Readings(GRID, None, TIMES, np.full(30, 0.5), VALUES, 0.05)
    for options, words in [
        ({"folds": 1}, "at least two"),
        ({"folds": 31}, "needs as many different times, got 30"),
        ({"folds": "5"}, "positive whole number"),
    ]:
        with pytest.raises(ValueError, match=words):
            jd.cross_validate(line, data, parameters=STARTS, progress=False, **options)


@pytest.mark.slow
def test_the_cubic_drift_of_a_double_well_is_chosen(measured):
    x = np.load(measured("double_well_path.npy"))
    path = jd.Trajectory(jd.Grid.uniform((-3.0, 3.0, 120)), 0.2 * np.arange(len(x)), x)
    drift = lambda degree: jd.Polynomial(jd.Free(np.append([0.1, -1.0], np.zeros(degree - 1))))
    fits, blocked, chained = {}, {}, {}
    for degree in (2, 3, 4):
        model = jd.FokkerPlanck(drift(degree), jd.Positive(0.3))
        fits[degree] = jd.fit(model, path, progress=False)
        blocked[degree] = jd.cross_validate(model, path, progress=False)
        chained[degree] = jd.cross_validate(model, path, forward=True, progress=False)
    found = jd.compare(fits)
    # an independent computation, on cells, has AIC/2 17939.3, 17411.80, 17411.76, and 17412.5, 13972.5 by blocks and in time
    worse, tied = np.diff(found.aic / 2)
    assert worse == pytest.approx(17411.80 - 17939.3, rel=0.01) and tied == pytest.approx(17411.76 - 17411.80, abs=0.03)
    assert blocked[3].total - found.aic[1] / 2 == pytest.approx(17412.5 - 17411.8, abs=0.15)
    assert set(found.ties) == {"3", "4"} and found.choose("bic") == "3" and found.tests[-1].p > 0.05
    assert jd.compare(blocked).choose() == "3" and jd.compare(chained).choose() == "3"
