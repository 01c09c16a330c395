"""Passage times, splitting and survival against published values, closed forms and the matrix itself."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from oracles import central, dense, each_way

import jaxdiff as jd

END, BOTH = {"x+": jd.absorbing}, jd.absorbing
LINE, PLANE = jd.Grid.uniform((0.0, 1.0, 20)), jd.Grid.uniform((0.0, 1.0, 8), (0.0, 2.0, 9))
MASK = np.ones((8, 9), bool)
MASK[:3, :3] = False
HOLED = jd.Grid.uniform((0.0, 1.0, 8), (0.0, 2.0, 9), mask=MASK)
BALL = jd.Grid.radial((0.0, 1.0, 20), geometry="spherical")
turning = (lambda x, y: jnp.sin(3 * y), lambda x, y: 1.0 - x)
tensor = jd.Tensor(np.array([[2.0, 0.7], [0.7, 1.0]]))


def extrapolated(time, cells):
    coarse, fine = time(cells // 2), time(cells)
    return (4 * fine - coarse) / 3


@pytest.mark.slow
def test_an_ornstein_uhlenbeck_process_takes_its_time_to_a_level():
    def time(cells, diffusivity=0.5):
        grid = jd.Grid.uniform((-6.0, 1.5, cells))
        return grid.interpolate(
            jd.mean_first_passage_time(jd.FokkerPlanck(lambda x: -x, diffusivity, boundaries=END), grid), 0.0
        )

    assert float(extrapolated(time, 400)) == pytest.approx(12.928165517638, rel=1e-6)
    every = jax.jit(partial(each_way, partial(time, 100)))
    np.testing.assert_allclose(every(0.5)[1:], central(lambda d: float(every(d)[0]), 0.5), rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    "diffusivity, across, top",
    [
        (0.1, 66.2686263649, 30.8213024727),
        (0.025, 102108.365457, 51050.7025086),
        (0.0125, 2198644401.41, 1099322196.69),
    ],
)
def test_the_true_rate_over_a_barrier_comes_near_that_of_kramers_from_below(diffusivity, across, top):
    well = jd.FokkerPlanck(jd.Potential(lambda x: x**4 / 4 - x**2 / 2), diffusivity, boundaries=END)

    def time(cells, end):
        grid = jd.Grid.uniform((-2.5, end, cells))
        return float(grid.interpolate(jd.mean_first_passage_time(well, grid), -1.0))

    found = extrapolated(lambda n: time(n, 1.0), 1000)
    assert found == pytest.approx(across, rel=1e-6)
    assert extrapolated(lambda n: time(n, 0.0), 1000) == pytest.approx(top, rel=1e-6)
    kramers = np.sqrt(2) / (2 * np.pi) * np.exp(-0.25 / diffusivity)
    assert 1 < found * kramers < 1.25


@pytest.mark.slow
def test_a_walk_between_two_walls():
    """Splitting with a drift, first-passage densities and survival without, at two sizes of cells."""
    grids = [jd.Grid.uniform((0.0, 1.0, cells)) for cells in (200, 400)]

    def numbers(grid):
        walk = jd.FokkerPlanck(1.0, 0.5, boundaries=BOTH)
        split = grid.interpolate(jd.splitting_probability(walk, grid, "x+"), 0.3)
        still = jd.Diffusion(0.5, boundaries=BOTH), grid, grid.delta(0.3), [0.1]
        density = jd.first_passage_density(*still)
        return np.array([float(split), *(float(x[0]) for x in (*density.values(), jd.survival(*still)))])

    coarse, fine = map(numbers, grids)
    exact = [0.521807303061, 2.41321911843, 0.758547496770, 0.630401071140]
    np.testing.assert_allclose((4 * fine - coarse) / 3, exact, rtol=1e-6)


CASES = {
    "robin": (jd.FokkerPlanck(2.0, 0.5, boundaries={"x+": jd.Robin(3.0)}), LINE),
    "ball": (jd.Diffusion(0.5, boundaries={"r+": BOTH}), BALL),
    "capacity": (jd.Diffusion(0.5, decay=0.3, capacity=lambda x: 1 + x, boundaries=BOTH), LINE),
    "ring": (jd.FokkerPlanck(2.0, 0.5, killing=lambda x: x, boundaries=jd.Periodic()), LINE),
    "carried out": (jd.FokkerPlanck(2.0, 0.5, boundaries={"x+": jd.Neumann()}), LINE),
    "plane": (jd.Diffusion(1.0, boundaries={"x-": BOTH, "y+": jd.Robin(2.0)}), PLANE),
    "turning, masked": (jd.FokkerPlanck(turning, 0.3, boundaries={"x-": BOTH}), HOLED),
    "tensor": (jd.Diffusion(tensor, boundaries={"x-": BOTH}), PLANE),
}
WAYS = {
    "robin": ("x+",),
    "ball": ("r+",),
    "capacity": ("x-", "x+", "killing"),
    "ring": ("killing",),
    "carried out": ("x+",),
    "turning, masked": ("x-",),
}
TIMES = [0.3, 0.1, 0.0, 2.0]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_against_the_matrix(name):
    equation, grid = CASES[name]
    matrix, _, weights = dense(equation, grid)(0.0)
    n, line = len(matrix), grid.ndim == 1
    inside = np.ones(n, bool) if grid.mask is None else grid.mask.ravel()
    target, start = np.zeros(n, bool), np.where(inside, np.random.default_rng(0).random(n), 0.0)
    target[[n // 2, n // 3 + 1]] = True

    def mean(keep, load):
        out = np.zeros(n)
        out[keep] = np.linalg.solve(-matrix[np.ix_(keep, keep)].T, load[keep])
        return out

    @jax.jit
    def found(start):
        split = [jd.splitting_probability(equation, grid, way) for way in WAYS.get(name, [])]
        times = jd.mean_first_passage_time(equation, grid, moment=2 if line else 1) if name != "tensor" else None
        stops = name in ("robin", "ring", "tensor")
        until = jd.mean_first_passage_time(equation, grid, to=target.reshape(grid.shape)) if stops else None
        course = (jd.survival, jd.first_passage_density) if line else ()
        return times, until, sum(split), [ask(equation, grid, start, np.array(TIMES)) for ask in course]

    times, until, total, course = found(start.reshape(grid.shape))
    first, near = mean(inside, np.ones(n)), {"rtol": 1e-10, "atol": 1e-12}
    if times is not None:
        np.testing.assert_allclose(times.ravel(), 2 * mean(inside, first) if line else first, **near)
    if until is not None:
        np.testing.assert_allclose(until.ravel(), mean(inside & ~target, np.ones(n)), **near)
    if name in WAYS:
        np.testing.assert_allclose(total.ravel(), inside, atol=1e-10)
    if line:
        exact = np.stack([scipy.linalg.expm(t * matrix) @ (start * weights) for t in TIMES])
        np.testing.assert_allclose(course[0], exact.sum(1), atol=1e-8)
        assert set(course[1]) == set(WAYS[name])
        np.testing.assert_allclose(sum(course[1].values()), -(exact @ matrix.T).sum(1), rtol=1e-6)


@pytest.mark.slow
def test_decision_times_with_a_drift_and_their_derivatives():
    """Times that crowd, a drift that carries, and what is left of the content: inside jit and out of it."""
    grid = jd.Grid.uniform((-1.0, 1.0, 40))
    times = np.random.default_rng(0).gamma(3.0, 0.2, 8)

    def densities(k, solve=jd.first_passage_density):
        walk = jd.FokkerPlanck(k, 0.5, boundaries=BOTH)
        return jnp.stack(list(solve(walk, grid, grid.delta(0.0), times).values()))

    plain, (values, slopes) = densities(1.5), jax.jit(lambda k: jax.jvp(densities, (k,), (1.0,)))(1.5)
    np.testing.assert_allclose(values, plain, atol=1e-8)
    # The ratio of hits and misses is the same at all times, in the limit of fine cells.
    np.testing.assert_allclose(plain[1] / plain[0], np.exp(1.5 / 0.5), rtol=3e-2)
    np.testing.assert_allclose(slopes, central(densities, 1.5), atol=1e-7 * float(jnp.abs(slopes).max()))


@pytest.mark.slow
def test_phases_hold_content_back():
    """A trap multiplies the mean time by what a cell holds in all of that in what moves."""
    free = jd.mean_first_passage_time(jd.Diffusion(0.5, boundaries=END), LINE)
    trapped = jd.Diffusion(0.5, boundaries=END, exchange=[jd.Exchange(3.0, 2.0)])
    found = jd.mean_first_passage_time(trapped, LINE)
    np.testing.assert_allclose(found, np.stack([2.5 * free, 2.5 * free + 0.5]), rtol=1e-12)
    np.testing.assert_allclose(jd.survival(trapped, LINE, 1.0, [0.0, 500.0]), [1.0, 0.0], atol=1e-8)


def test_states_of_ones_own():
    class Hops(jd.discretisation.System):
        def operator(self, t):
            return jd.operators.Dense(self.equation.rates, self.equation.loss)

    class Master(jd.Equation):
        rates: list
        loss: list
        discrete = True

        def semidiscretise(self, grid, scheme):
            return [Hops(self, grid)]

    rates, grid = np.random.default_rng(1).random((4, 4)), jd.Grid.uniform((-0.5, 3.5, 4))
    np.fill_diagonal(rates, 0.0)
    lost = [0.5, 0.0, 0.0, 0.0]
    matrix = rates - np.diag(rates.sum(0) + lost)
    found = jd.mean_first_passage_time(Master(rates, lost), grid)
    np.testing.assert_allclose(found, np.linalg.solve(-matrix.T, np.ones(4)), rtol=1e-12)
    found = jd.mean_first_passage_time(Master(rates, [0.0] * 4), grid, to=2)
    kept, matrix = [0, 1, 3], rates - np.diag(rates.sum(0))
    expected = np.linalg.solve(-matrix[np.ix_(kept, kept)].T, np.ones(3))
    np.testing.assert_allclose(found, np.insert(expected, 2, 0.0), rtol=1e-12)
    with pytest.raises(ValueError, match="nothing ever leaves"):
        jd.mean_first_passage_time(Master(rates, [0.0] * 4), grid)


@pytest.mark.slow
def test_molecules_that_decay_one_by_one_are_gone_after_a_harmonic_number():
    """As births and deaths, as a reaction in a box, and as a matrix whose states have no grid."""
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1.0, 9.0))])
    chain = jd.MasterEquation(lambda n: 0.0 * n, lambda n: 1.0 * n)
    found = jd.mean_first_passage_time(chain, jd.States({"n": 8}), to=0)
    np.testing.assert_allclose(found, harmonic, rtol=1e-12)
    box = jd.MasterEquation.from_reactions([jd.Reaction({"A": 1}, {}, 1.0), jd.Reaction({"B": 1}, {"A": 1}, 2.0)])
    found = jd.mean_first_passage_time(box, jd.States({"A": 8, "B": 1}), to=np.arange(18).reshape(9, 2) == 0)
    np.testing.assert_allclose(found[:, 0], harmonic, rtol=1e-12)
    one = jd.mean_first_passage_time(box, jd.States({"A": 8, "B": 1}), to={"A": 0, "B": 0})
    np.testing.assert_allclose(one, found, rtol=1e-12)
    matrix = jd.MasterEquation(np.diag(np.arange(1.0, 9.0), 1))
    np.testing.assert_allclose(jd.mean_first_passage_time(matrix, None, to=0), harmonic, rtol=1e-12)
    fed = jd.MasterEquation(lambda n: 3.0 + 0.0 * n, lambda n: 1.0 * n)
    left = jd.first_passage_density(fed, jd.States({"n": 8}), {"n": 2}, [0.5, 2.0])
    assert not np.any(left["killing"]) and (left["beyond"] > 0).all()


@pytest.mark.slow
def test_a_passage_time_is_a_number_in_a_fit():
    """A decay at the rate at which the same diffusion would have left through one wall."""
    grid = jd.Grid.uniform((0.0, 1.0, 10))

    def model(diffusivity):
        leaves = jd.Diffusion(diffusivity, boundaries=END)
        return jd.Diffusion(diffusivity, decay=1 / jd.mean_first_passage_time(leaves, grid)[0])

    times = np.linspace(0.1, 2.0, 20)
    values = jd.solve(model(0.4), grid, 1.0, [0.0, *times]).values[1:, 4]
    readings = jd.Readings(grid, 1.0, times, np.full(20, grid.centers[0][4]), values, sigma=1e-3)
    fit = jd.fit(model, readings, parameters={"diffusivity": jd.Positive(0.2)}, progress=False)
    assert fit.parameters["diffusivity"] == pytest.approx(0.4, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("diffusivity", "fine", "beyond"), [(1e-4, 8, 11), (1e5, 6, 8)])
def test_moments_beyond_single_precision_are_refused(diffusivity, fine, beyond):
    slab = jd.FokkerPlanck(0.0, diffusivity, boundaries=BOTH)
    exact = jd.mean_first_passage_time(slab, LINE, moment=fine)
    with jax.enable_x64(False):
        np.testing.assert_allclose(jd.mean_first_passage_time(slab, LINE, moment=fine), exact, rtol=1e-4)
        with pytest.raises(ValueError, match=r"moment \d+ of the passage time is beyond the range of float32"):
            jd.mean_first_passage_time(slab, LINE, moment=beyond)


PARTED = np.ones((8, 9), bool)
PARTED[:, 4] = False
walk = lambda **more: jd.FokkerPlanck(0.0, 1.0, **more)
REFUSED = {
    "shut": (lambda: jd.mean_first_passage_time(walk(), LINE), "nothing ever leaves"),
    "grows": (lambda: jd.mean_first_passage_time(walk(killing=-1.0), LINE), "content is made at a rate of -1"),
    "faces": (
        lambda: jd.splitting_probability(jd.Diffusion(tensor, boundaries=BOTH), PLANE, "x-"),
        "no flux is that of a face",
    ),
    "fed": (lambda: jd.survival(jd.Diffusion(1.0, source=1.0, boundaries=BOTH), LINE, 1.0, [1.0]), "content enters"),
    "grows in time": (lambda: jd.survival(walk(killing=-1.0), LINE, 1.0, [1.0]), "content is made"),
    "in time": (lambda: jd.survival(walk(killing=jd.TimeDependent(lambda t: t)), LINE, 1.0, [1.0]), "constant in time"),
    "one way": (
        lambda: jd.mean_first_passage_time(jd.FokkerPlanck(lambda x: x - 0.5, 0.0, boundaries=END), LINE),
        "from some cells nothing ever leaves",
    ),
    "side": (lambda: jd.splitting_probability(walk(boundaries=END), LINE, "x-"), r"one of x\+, got 'x-'"),
    "moment": (lambda: jd.mean_first_passage_time(walk(boundaries=END), LINE, moment=0), "moment must be"),
    "point": (lambda: jd.mean_first_passage_time(walk(), LINE, to=3.0), "outside the grid"),
    "mask": (lambda: jd.mean_first_passage_time(walk(), LINE, to=np.ones(3, bool)), "one entry for each"),
    "states apart": (
        lambda: jd.mean_first_passage_time(
            jd.MasterEquation(np.array([[0, 0, 0], [1.0, 0, 0], [1.0, 0, 0]])), None, to=1
        ),
        "from some states no jumps lead out, nor to where the passage ends",
    ),
    "chain apart": (
        lambda: jd.mean_first_passage_time(
            jd.MasterEquation(lambda n: 0.0 * n, lambda n: 1.0 * n), jd.States({"n": 4}), to=3
        ),
        "from some states no jumps lead out",
    ),
    "parts": (
        lambda: jd.mean_first_passage_time(
            jd.Diffusion(1.0), jd.Grid.uniform((0.0, 1.0, 8), (0.0, 2.0, 9), mask=PARTED), to=(0.1, 0.1)
        ),
        "from some cells no way leads out",
    ),
    "past": (lambda: jd.survival(walk(boundaries=BOTH), LINE, 1.0, [-1.0]), "count from the start"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_answer_is_refused_in_one_line(name):
    call, words = REFUSED[name]
    with pytest.raises(ValueError, match=words) as raised:
        call()
    assert "\n" not in str(raised.value)
