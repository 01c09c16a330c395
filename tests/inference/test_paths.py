"""Paths on one axis: published estimates, many at once, drawn anew, by Euler steps, and what is refused."""

import numpy as np
import pytest

import jaxdiff as jd

GRID = jd.Grid.uniform((-4.0, 4.0, 40))
TIMES = 0.2 * np.arange(301)
WELL = jd.FokkerPlanck(jd.Expression("a*x - b*x**3", a=jd.Free(1.0), b=jd.Free(1.0)), jd.Positive(1.0))
TRUE = jd.FokkerPlanck(jd.Expression("a*x - b*x**3", a=2.0, b=2.0), 0.4)


@pytest.fixture(scope="module")
def paths():
    return np.asarray(jd.simulate(TRUE, 0.9, TIMES, 4, key=2, substeps=40, grid=GRID))


@pytest.fixture(scope="module")
def one(paths):
    return jd.fit(WELL, jd.Trajectory(GRID, TIMES, paths[0]), progress=False)


def numbers(fit):
    return np.stack([*fit.parameters.values(), *fit.standard_errors.values()])


@pytest.mark.slow
def test_the_double_well_has_its_published_estimates(measured):
    x = np.load(measured("double_well_path.npy"))
    fit = jd.fit(WELL, jd.Trajectory(GRID, 0.2 * np.arange(len(x)), x), progress=False)
    found, errors = np.split(numbers(fit), 2)
    np.testing.assert_allclose(found, [2.10307, 2.13333, 0.40879], atol=1e-4)
    np.testing.assert_allclose(errors, [0.1016, 0.0867, 0.0101], rtol=0.01)
    assert fit.loss == pytest.approx(1338.4998, abs=1e-3)
    assert fit.converged and fit.verdict.describes


@pytest.mark.slow
@pytest.mark.parametrize("every, D, cycle", [(1, 3.46, 2.08), (2, 2.45, 2.99), (5, 1.85, 3.90)])
def test_the_ice_core_is_bistable_at_each_interval_and_no_diffusion(measured, every, D, cycle):
    """Lohmann et al. and others: -ln Ca of NGRIP, 60 to 20 kyr; Euler's steps lose one of the states at 50 years."""
    age, _, ca, *_ = np.genfromtxt(measured("ngrip_10yr.csv"), delimiter=",", names=None, skip_header=18, unpack=True)
    kept = (age >= 20000) & (age <= 60000)
    age, x = age[kept][::-1], -np.log(ca[kept][::-1])
    grid, x = jd.Grid.uniform((-5.0, 5.0, 100)), (x - np.nanmean(x)) / np.nanstd(x)
    model = jd.FokkerPlanck(jd.Polynomial(jd.Free(np.array([0.0, 1.0, 0.0, -1.0]))), jd.Positive(2.0))
    fit = jd.fit(model, jd.Trajectory(grid, (age[0] - age) / 1000, x).every(every), progress=False)
    roots = np.sort(np.roots(fit.parameters["drift.coefficients"][::-1]))
    assert np.isreal(roots).all()
    assert fit.parameters["diffusivity"] == pytest.approx(D, rel=0.01)
    waits = []
    for start, end, wall in ((roots[0], roots[2], "x+"), (roots[2], roots[0], "x-")):
        ends = (-5.0, end) if wall == "x+" else (end, 5.0)
        part = jd.Grid.uniform((*ends, 400))
        found = jd.FokkerPlanck(fit.model.drift, fit.model.diffusivity, boundaries={wall: jd.absorbing})
        waits.append(np.interp(start, part.centers[0], jd.mean_first_passage_time(found, part)))
    assert sum(waits) == pytest.approx(cycle, rel=0.01)
    assert any("no diffusion at this resolution" in reason for reason in fit.verdict.reasons) == (every < 5)


@pytest.mark.slow
def test_constant_elasticity_of_variance_has_its_published_estimates(measured):
    rate = np.genfromtxt(measured("fedfunds.csv"), delimiter=",", skip_header=1, usecols=1)[102:534] / 100
    drift = jd.Expression("kappa*(theta - x)", kappa=jd.Positive(0.2), theta=jd.Positive(0.07))
    noise = jd.Expression("sigma**2*x**(2*rho)/2", sigma=jd.Positive(0.5), rho=jd.Positive(1.0))
    path = jd.Trajectory(jd.Grid.uniform((0.0, 1.0, 100)), np.arange(432) / 12, rate)
    fit = jd.fit(jd.FokkerPlanck(drift, noise), path, progress=False)
    found = [fit.parameters["diffusivity.sigma"], fit.parameters["diffusivity.rho"], -fit.loss / 431]
    np.testing.assert_allclose(found, [0.784, 1.484, 4.159], atol=6e-4)


@pytest.mark.slow
def test_many_paths_are_fitted_as_one_by_one(paths, one):
    many = jd.fit_many(WELL, jd.Trajectory(GRID, TIMES, paths[0]), paths, progress=False)
    assert many.converged.all()
    np.testing.assert_allclose(numbers(many)[:, 0], numbers(one), rtol=2e-4)
    np.testing.assert_allclose(numbers(many[0]), numbers(one), rtol=2e-4)
    lists = jd.fit_many(WELL, [jd.Trajectory(GRID, TIMES, x) for x in paths], progress=False)
    np.testing.assert_allclose(numbers(lists), numbers(many), rtol=1e-9)


@pytest.mark.slow
def test_many_starts_end_where_one_does(one):
    fit = jd.multistart(WELL, one.measurements[0], starts=4, progress=False)
    assert fit.optima[0]["count"] == 4
    np.testing.assert_allclose(numbers(fit), numbers(one), rtol=1e-3)


@pytest.mark.slow
def test_the_bootstrap_scatters_as_error_bars_say(one):
    found = jd.bootstrap(one, 40, progress=False)
    assert found.converged.sum() >= 39
    ratio = np.array([found.standard_errors[name] / one.standard_errors[name] for name in one.parameters])
    assert np.all((ratio > 0.7) & (ratio < 1.4))
    with pytest.raises(ValueError, match="paths have no residuals to draw from"):
        jd.bootstrap(one, 10, kind="residual", progress=False)


def test_euler_steps_by_name_are_biased_and_say_so(one):
    path = one.measurements[0]
    euler = jd.fit(WELL, jd.Trajectory(GRID, path.times[0], path.positions[0], density="euler"), progress=False)
    x, y = path.starts, path.stops - path.starts
    basis = 0.2 * np.stack([x, -(x**3)], axis=1)
    (a, b), *_ = np.linalg.lstsq(basis, y)
    D = np.mean((y - basis @ [a, b]) ** 2) / 0.4
    np.testing.assert_allclose(numbers(euler)[:3], [a, b, D], rtol=1e-5)
    assert any("Euler steps are an approximation" in note for note in euler.notes)
    assert not any("Euler" in note for note in one.notes)
    many = jd.multistart(WELL, euler.measurements[0], starts=3, progress=False)  # one after the other
    np.testing.assert_allclose(numbers(many), numbers(euler), rtol=1e-4)
    assert many.optima[0]["count"] == 3
    with pytest.raises(
        ValueError, match="density must be 'exact', or on one axis and without noise 'euler', got 'milstein'"
    ):
        jd.Trajectory(GRID, [0.0, 1.0], [0.0, 0.1], density="milstein")


@pytest.mark.slow
def test_starts_one_after_the_other_share_the_scale_of_a_number_that_starts_at_zero():
    t, rng = 0.01 * np.arange(201), np.random.default_rng(3)
    x = np.cumsum(np.append(0.0, 30.0 * 0.01 + 0.02 * rng.normal(size=200)))
    path = jd.Trajectory(jd.Grid.uniform((-5.0, 80.0, 10)), t, x, density="euler")
    fit = jd.multistart(jd.FokkerPlanck(jd.Free(0.0), jd.Positive(0.1)), path, starts=4, progress=False)
    step = np.diff(x)
    exact = [step.mean() / 0.01, np.mean((step - step.mean()) ** 2) / 0.02]
    assert [one["count"] for one in fit.optima] == [4]
    np.testing.assert_allclose(list(fit.optima[0]["parameters"].values()), exact, rtol=1e-4)
    np.testing.assert_allclose(list(fit.parameters.values()), exact, rtol=1e-4)
