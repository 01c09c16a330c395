"""The verdict on a model: right ones are let pass, wrong ones found out, and what it says is shown and kept."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy import special, stats

import jaxdiff as jd
from jaxdiff.benchmarks import coverage
from jaxdiff.inference.losses import kl_divergence, mse
from jaxdiff.inference.result import MISFIT
from jaxdiff.inference.verdict import verdict
from jaxdiff.measurements.innovations import innovations
from jaxdiff.measurements.residuals import standard_errors
from jaxdiff.reports import page as report
from jaxdiff.reports.views import FitView

GRID = jd.Grid.uniform((0.0, 1.0, 10))
LAYOUTS = {  # times, places, parameters, repeats
    "one sensor": (np.linspace(0.1, 2, 40), [0.3], 2, 120),
    "sensors": (np.linspace(0.1, 2, 20), [0.1, 0.4, 0.7], 3, 120),
    "a profile": ([np.inf], np.linspace(0, 1, 15), 2, 120),
    "few rows": ([0.5, 1.0, 1.5, 2.0], [0.2, 0.6], 2, 120),
    "scattered": (None, 80, 2, 60),
    "repeated": (np.repeat([0.5, 1.0, 1.5, 2.0], 6), [0.5], 2, 60),
}


def linear(layout, rng, sigma=None, wrong=None, tau=None, noise=None):
    """The verdict on a linear model fitted to its own readings, plus what is wrong(t, x) of them."""
    times, places, count, _ = LAYOUTS[layout]
    if times is None:
        t, x = rng.uniform(0, 2, places), rng.uniform(0, 1, places)
    else:
        t, x = (part.ravel() for part in np.meshgrid(times, places, indexing="ij"))
    slopes = np.stack([np.cos(2 * x) * np.exp(-t), np.ones_like(x), x][:count], axis=1)
    e = rng.normal(size=len(t)) if noise is None else noise.ravel()
    e = 0.1 * e + (0.0 if wrong is None else wrong(t, x))
    e -= slopes @ np.linalg.lstsq(slopes, e, rcond=None)[0]
    m = jd.Readings(GRID, 0.0, t, x, slopes.sum(1) + e, sigma=sigma)
    times = None if tau is None else np.full(len(t), tau)
    return verdict((m,), (mse,), ((slopes.sum(1), slopes),), (times,))


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [None, 0.1])
def test_right_models_are_let_pass_whatever_the_layout(sigma):
    rng = np.random.default_rng(1)
    alarms = {
        name: sum(linear(name, rng, sigma).describes is False for _ in range(repeats))
        for name, (*_, repeats) in LAYOUTS.items()
    }
    assert sum(alarms.values()) <= 0.04 * sum(repeats for *_, repeats in LAYOUTS.values()), alarms
    assert max(alarms.values()) <= 9, alarms


WRONG = {  # layout, what the model lacks or the noise, sigma, words of the first reason
    "a sensor": ("sensors", lambda t, x: 0.3 * (x == 0.4), None, "residuals at x = 0.4"),
    "a late course": ("one sensor", lambda t, x: 0.5 * (t > 1.5), None, "residuals at t = 1."),
    "a slow wave": ("a profile", lambda t, x: 0.5 * np.sin(9 * x), None, "neighbouring places are alike"),
    "repeats agree": ("repeated", lambda t, x: 0.5 * np.sin(3 * t), None, "residuals at t"),
    "sigma": ("sensors", None, 1 / 30, "residuals are"),
    "a row": ("scattered", lambda t, x: 1.5 * (np.arange(len(t)) == 17), None, "row 17 (t = "),
    "rows that hide each other": ("sensors", lambda t, x: -3.0 * (np.arange(60) > 54), None, "row "),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_first(case):
    layout, wrong, sigma, words = WRONG[case]
    judged = linear(layout, np.random.default_rng(2), sigma, wrong)
    assert judged.describes is False and words in judged.reasons[0], judged


def test_outliers_are_all_named():
    judged = linear("sensors", np.random.default_rng(3), wrong=lambda t, x: -3.0 * np.isin(np.arange(60), [5, 20, 41]))
    assert all(f"row {i} (t = " in judged.reasons[0] for i in (5, 20, 41)) and "more" not in judged.reasons[0]


def test_noise_that_remembers_is_no_misfit_once_it_is_whitened():
    rng, rho = np.random.default_rng(4), 0.8
    tau = -np.diff(LAYOUTS["sensors"][0])[0] / np.log(rho)
    judged = [
        [linear("sensors", rng, tau=whitened, noise=coverage.ar1_noise(rng, 20, 3, rho)) for _ in range(60)]
        for whitened in (tau, None)
    ]
    white, plain = (sum(one.describes is False for one in some) for some in judged)
    assert white <= 5 and plain >= 45


def test_sigma_too_large_is_told_and_no_misfit():
    judged = linear("sensors", np.random.default_rng(5), sigma=0.3)
    assert judged.describes and "sigma is" in judged.remarks[0] and "error bars are too wide" in judged.remarks[0]


@pytest.mark.parametrize(("rows", "noise"), [(40, 0.0), (3, 1.0), (1, 1.0)])
def test_next_to_nothing_is_not_judged(rows, noise):
    t, slopes = np.linspace(0, 1, rows), np.ones((rows, 1))
    m = jd.Readings(GRID, 0.0, t, np.full(rows, 0.5), 2 + noise * t)
    judged = verdict((m,), (mse,), ((np.full(rows, 2 + noise * t.mean()), slopes),), (None,))
    assert judged.describes is None and judged.reasons


def counted(rng, shift=0.0, total=2000, spare=0):
    edges = np.linspace(-3, 3, 31)
    grid, share = jd.Grid(edges=(edges,)), np.diff(special.ndtr(edges))
    moved = np.diff(special.ndtr(edges - shift))
    counts = np.array([rng.multinomial(total, moved / moved.sum()) for _ in range(3)])
    counts[1, 20] += spare
    m = jd.Histograms(grid, 1.0, [1.0, 2.0, 3.0], counts)
    prediction = np.tile(share, (3, 1))
    return verdict((m,), (kl_divergence,), ((prediction, np.zeros((3, 30, 0))),), (None,))


def test_histograms_are_judged_by_bin_by_time_and_by_neighbours():
    rng = np.random.default_rng(6)
    assert sum(counted(rng, total=total).describes is False for total in (20, 200, 2000) for _ in range(40)) <= 6
    assert "than the model says" in counted(rng, shift=0.15).reasons[0]
    assert "at t = 2, x = 1.1 are" in " ".join(counted(rng, spare=150).reasons)
    densities = jd.Histograms(GRID, 1.0, [1.0], np.linspace(0.5, 1.5, 10)[None])
    judged = verdict((densities,), (kl_divergence,), ((np.ones((1, 10)), np.zeros((1, 10, 0))),), (None,))
    assert judged.describes is None and "densities" in judged.reasons[0]


def cir(rng, steps, k=1.0, s=0.3, dt=0.25):
    """Positions of dX = k(1 − X)dt + √(2sX)dW, and the normal scores of its steps."""
    c, degrees, x, scores = s * (1 - np.exp(-k * dt)) / (2 * k), 2 * k / s, [1.0], []
    for _ in range(steps):
        centre = x[-1] * np.exp(-k * dt) / c
        x.append(c * rng.noncentral_chisquare(degrees, centre))
        scores.append(special.ndtri(stats.ncx2.cdf(x[-1] / c, degrees, centre)))
    return dt * np.arange(steps + 1), np.array(x), np.array(scores)


def ornstein(rng, durations, start=0.0):
    noise, x = rng.normal(size=len(durations)), [start]
    for dt, z in zip(durations, noise, strict=True):
        x.append(x[-1] * np.exp(-dt) + np.sqrt(1 - np.exp(-2 * dt)) * z)
    return np.concatenate([[0.0], np.cumsum(durations)]), np.array(x), noise


def test_innovations_of_paths_are_the_normal_scores_of_their_densities():
    rng = np.random.default_rng(7)
    wide, trap = jd.Grid.uniform((-40.0, 40.0, 10)), jd.FokkerPlanck(coverage.pull(1.0, 0.0), 1.0)
    root = jd.FokkerPlanck(coverage.pull(1.0, 1.0), jd.Expression("s*x", s=0.3))
    paths = {
        "short steps": (wide, trap, ornstein(rng, np.full(300, 0.002))),
        "steps": (wide, trap, ornstein(rng, np.full(300, 0.1))),
        "long steps": (wide, trap, ornstein(rng, np.full(300, 8.0))),
        "any times": (wide, trap, ornstein(rng, rng.exponential(0.2, 300) + 0.01)),
        "from far": (wide, trap, ornstein(rng, np.full(300, 0.1), 25.0)),
        "a wall where D vanishes": (jd.Grid.uniform((0.0, 20.0, 10)), root, cir(rng, 300)),
    }
    with jax.enable_x64(True):
        for name, (grid, equation, (t, x, scores)) in paths.items():
            found = innovations(jd.Trajectory(grid, t, x), equation)
            assert np.sqrt(np.mean((found - scores) ** 2)) < 0.01 and np.abs(found - scores).max() < 0.1, name


# A tenth of what `jaxdiff benchmark coverage` repeats, but for the camera's images: nine parameters, and a notebook of their own.
@pytest.mark.slow
@pytest.mark.parametrize("problem", [name for name in coverage.RIGHT if "camera" not in name])
def test_right_models_pass_and_their_intervals_hold(problem):
    found = coverage.tally(coverage.RIGHT[problem], 40, seed=1)
    assert found["flagged"] <= 4, found
    assert min(found["coverage"].values(), default=1.0) >= 0.8, found


@pytest.mark.parametrize("problem", coverage.WRONG)
def test_wrong_models_are_found_out(problem):
    found = coverage.tally(coverage.WRONG[problem], 10, seed=1)
    assert found["flagged"] == 10, found


def rods(monkeypatch, **how):
    """A fit of the bar that loses no heat."""
    kept = []
    monkeypatch.setattr(
        coverage,
        "fitted",
        lambda model, m, truth, **more: kept.append(jd.fit(model, m, progress=False, **how, **more)) or (None, {}),
    )
    return kept


@pytest.mark.slow
def test_a_misfit_is_shown_everywhere_and_kept(monkeypatch, tmp_path):
    kept = rods(monkeypatch)
    coverage.rod(np.random.default_rng(0), loss=3e-4)
    coverage.rod(np.random.default_rng(0))
    bad, good = kept
    assert bad.converged and bad.verdict.describes is False and good.verdict.describes
    assert MISFIT in str(bad) and f"  {bad.verdict.reasons[0]}" in str(bad) and "not to be trusted" in str(bad)
    assert MISFIT not in str(good) and "trusted" not in str(good)
    page = bad.report(tmp_path / "bad.html").read_text()
    assert 'class="note doubt"' in page and "does not describe these data" in page and "not to be trusted" in page
    page = good.report(tmp_path / "good.html").read_text()
    assert 'class="note fine"' in page and "looks like noise" in page and "not to be trusted" not in page
    told = json.loads(report.to_json(FitView(bad)))["verdict"]
    assert told == bad.verdict.record() and told["describes"] is False
    again = jd.load(bad.save(tmp_path / "bad.json"))
    assert again.verdict == bad.verdict and str(again) == str(bad)
    stored = json.loads((tmp_path / "bad.json").read_text())
    for damaged in ({"describes": 3, "reasons": [], "remarks": []}, "yes", {"describes": True, "reasons": [1]}):
        (tmp_path / "damaged.json").write_text(json.dumps(stored | {"verdict": damaged}))
        with pytest.raises(ValueError, match="damaged stored fit"):
            jd.load(tmp_path / "damaged.json")
    del stored["verdict"]
    (tmp_path / "old.json").write_text(json.dumps(stored))
    assert jd.load(tmp_path / "old.json").verdict.describes is None


@pytest.mark.slow
def test_where_nothing_can_be_judged_it_says_why(monkeypatch):
    kept = rods(monkeypatch, steps=1)
    coverage.rod(np.random.default_rng(0))
    assert kept[0].verdict.describes is None and "did not end at an optimum" in kept[0].verdict.reasons[0]
    batch = replace(kept[0], converged=True, predictions=())
    assert batch.verdict.describes is None and "jd.fit" in batch.verdict.reasons[0]


def test_several_measurements_are_judged_together_and_named():
    rng, t = np.random.default_rng(8), np.linspace(0, 1, 40)
    slopes, ones = np.ones((40, 1)), np.full(40, 2.0)
    noise = [0.1 * rng.normal(size=40) for _ in range(3)]
    wrong = [ones + part for part in noise]
    wrong[1][7] += 2.0
    several = tuple(jd.Readings(GRID, 0.0, t, np.full(40, 0.5), one) for one in wrong)
    losses = (mse, mse, lambda prediction, observation: 0.0)
    judged = verdict(several, losses, ((ones, slopes),) * 3, (None,) * 3)
    assert judged.describes is False and judged.reasons[0].startswith("measurement 2: row 7 ")
    assert verdict(several[:1], losses[2:], ((ones, slopes),), (None,)).reasons[0].startswith("your own loss")


def test_one_standard_error_is_singular():
    assert [standard_errors(away) for away in (-1.0, 0.98, 3.21)] == [
        "1 standard error",
        "0.98 standard errors",
        "3.2 standard errors",
    ]
