"""Random problems through the public names, against exact exponentials of the same matrix: none may be wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import jaxdiff as jd
from jaxdiff.benchmarks.attacks import exponentials, problems


@pytest.mark.slow
@pytest.mark.parametrize(("family", "count"), [(problems.line, 75), (problems.plane, 12)])
def test_a_random_problem_is_right_or_refused(family, count):
    records = problems.attack(family, count, seed=7)
    assert len(records) == count
    assert [r for r in records if r["verdict"] not in ("right", "refused")] == []
    assert sum(r["verdict"] == "right" for r in records) > count / 2


@pytest.mark.parametrize(("leak", "t"), [(0.0, 3.0), (0.2, 1.0), (-0.5, 2.0)])
def test_the_reference_is_the_exponential(leak, t):
    rng = np.random.default_rng(0)
    rates = rng.random((6, 6)) * (rng.random((6, 6)) < 0.5)
    np.fill_diagonal(rates, leak * rng.random(6))
    matrix = rates.copy()
    np.fill_diagonal(matrix, 0.0)
    matrix -= np.diag(matrix.sum(0) + np.diag(rates))
    start, forcing = rng.random(6), rng.normal(size=6)
    whole = scipy.linalg.expm(t * np.block([[matrix, forcing[:, None]], [np.zeros((1, 7))]]))
    found, doubt = exponentials.solution(rates.astype(exponentials.WIDE), forcing, start, t, 1.0, 1e-16)
    np.testing.assert_allclose(found.astype(float), whole[:6, :6] @ start + whole[:6, 6], rtol=1e-12)
    assert doubt < 1e-12


@pytest.mark.slow
def test_growth_that_is_slow_beside_diffusion_is_kept_in_single_precision():
    with jax.enable_x64(False):
        grid = jd.Grid.uniform((0.0, 6.181812286376953, 12))
        equation = jd.Diffusion(8325.1396484375, decay=-1.274512214877177e-05)
        u = jd.solve(equation, grid, np.ones(12, np.float32), [0.0, 2257697.25]).values[-1]
    np.testing.assert_allclose(u, np.exp(1.274512214877177e-05 * 2257697.25), rtol=1e-4)


CLOSED = jd.Grid.uniform((0.0, 1.0, 12))
HALVES = lambda x: jnp.where(x < 0.5, 1.0, -1.0)


SOURCE = jd.Diffusion(1.0, source=np.where(CLOSED.centers[0] < 0.5, np.pi, -np.pi))


@pytest.mark.parametrize("scheme", [jd.FiniteVolume(), jd.Spectral()], ids=["volumes", "modes"])
def test_balance_is_kept(scheme):
    """In a long time the roundoff of a sum would be content."""
    u = jd.solve(SOURCE, CLOSED, 1.0, np.r_[0.0, np.geomspace(1e3, 1e5, 9)], scheme=scheme).values
    assert np.abs(u.mean(1) - 1).max() < 1e-12
    assert np.abs(u[1:] - u[1]).max() < 1e-9


def test_where_roundoff_is_what_stays_of_a_balance_it_is_said():
    with pytest.raises(
        ValueError, match="^sources and walls pass so much through the closed domain .* jd.steady_state"
    ):
        jd.solve(SOURCE, CLOSED, 1.0, [0.0, 1e10])


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
def test_contours_keep_their_tolerance_for_a_forcing(tolerance):
    """A closed domain is warmed: its mean rises as time does, exactly."""
    equation = jd.Diffusion(0.1, source=lambda x: 1 + x, boundaries={"x+": jd.Flux(0.5)})
    times = np.r_[0.0, np.geomspace(1e-3, 0.1, 60)]
    found = jd.solve(equation, CLOSED, 0.0, times, tolerance=tolerance)
    assert found.method.startswith("contours")
    assert np.abs(found.values[1:].mean(1) / times[1:] - 1.0).max() < tolerance
    exact = jd.solve(equation, CLOSED, 0.0, times).values
    assert (np.abs(found.values - exact).max(1)[1:] < tolerance * np.abs(exact).max(1)[1:]).all()


def test_cells_that_single_precision_does_not_tell_apart_are_refused():
    with jax.enable_x64(False):
        grid = jd.Grid.uniform((100.0, 101.0, 50))
        with pytest.raises(ValueError, match="^cells along x are 0.02 wide at 101, which float32 does not tell apart"):
            jd.solve(jd.Diffusion(1.0), grid, 1.0, [0.0, 1.0])


@pytest.mark.slow
def test_a_bad_element_of_a_batch_is_nan_and_warned_of():
    run = lambda d: jd.solve(jd.Diffusion(d, boundaries=jd.absorbing), CLOSED, 1.0, [0.0, 0.1]).values[-1]
    many = jnp.array([0.1, -1.0, 2.0])
    for batch in (jax.vmap(run), jax.jit(jax.vmap(run)), jax.vmap(jax.grad(lambda d: run(d).sum()))):
        with pytest.warns(
            UserWarning, match="^1 of 3 in this batch are NaN, the first at 1: diffusivity is out of range"
        ):
            found = np.asarray(batch(many))
            jax.effects_barrier()
        assert np.isnan(found).reshape(3, -1).all(1).tolist() == [False, True, False]
    fine = np.array([0.1, 1.0, 2.0])
    np.testing.assert_allclose(jax.vmap(run)(fine), np.stack([run(d) for d in fine]), rtol=1e-11)
    with pytest.raises(Exception, match="diffusivity is out of range"):
        jax.jit(run)(-1.0)


def test_a_fit_under_a_transformation_is_refused_in_one_line():
    readings = jd.Readings(CLOSED, 1.0, [0.1, 0.2], [0.5, 0.5], [1.0, 1.0], sigma=0.1)
    walls = {"x-": jd.absorbing}
    for run in (
        lambda d: jd.fit(jd.Diffusion(jd.Positive(1.0), boundaries=walls), readings, progress=False),
        lambda d: jd.fit(jd.Diffusion(jd.Positive(d), boundaries=walls), readings, progress=False),
        lambda d: jd.fit_many(jd.Diffusion(d, decay=jd.Free(1.0), boundaries=walls), [readings], progress=False),
    ):
        with pytest.raises(
            TypeError, match="^fit(_many)? decides by numbers and got tracers, as inside jax.jit"
        ) as caught:
            jax.jit(run)(1.0)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [None, 1e-4])
def test_an_open_domain_is_at_rest_after_any_time(tolerance):
    equation = jd.Diffusion(1.0, source=SOURCE.source, boundaries={"x-": jd.Robin(2.0, 1.0)})
    late = jd.solve(equation, CLOSED, 0.0, [0.0, 1e12], tolerance=tolerance).values[-1]
    np.testing.assert_allclose(late, jd.steady_state(equation, CLOSED), rtol=tolerance or 1e-9)


@pytest.mark.slow
def test_cells_too_small_for_products_are_named():
    edges = np.r_[0.0, 3.0 ** np.arange(-13, 1)]
    grid = jd.Grid(edges=(edges, edges[-6:]))
    with pytest.raises(ValueError, match="wide along x, ask for so many$") as caught:
        jd.solve(jd.Diffusion(1.0, source=np.ones(grid.shape)), grid, 1.0, [0.0, 1.0])
    assert "jd.TRBDF2() or jd.BackwardEuler()" in str(caught.value)


@pytest.mark.slow
def test_growth_that_leaves_single_precision_is_refused():
    """e⁹⁰ came out 1e-10 where growth enters through a wall; here by itself."""
    with jax.enable_x64(False):
        start = np.ones(12, np.float32)
        with pytest.raises(ValueError, match="growth of up to exp\\(90\\) leaves float32"):
            jd.solve(jd.FokkerPlanck(0.1, 0.01, killing=-9.0), CLOSED, start, [0.0, 10.0])
        u = jd.solve(jd.FokkerPlanck(0.1, 0.01, killing=-2.0), CLOSED, start, [0.0, 10.0]).values[-1]
        assert float(CLOSED.integrate(u)) == pytest.approx(np.exp(20.0), rel=1e-3)
