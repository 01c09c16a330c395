"""The forward problem against closed forms: error, order in space, mass, equilibrium, spectrum."""

from functools import cache
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from oracles import dense, exponential

import jaxdiff as jd
from jaxdiff import exact


class Drift(eqx.Module):
    """a + b x + c tanh x + d sin x: problems that differ by numbers alone share a program."""

    numbers: Any = eqx.field(converter=np.array)

    def __call__(self, x):
        return self.numbers @ jnp.stack([jnp.ones_like(x), x, jnp.tanh(x), jnp.sin(x)])


class Levels(jd.FiniteVolume):
    """Orders two and four on n and on n/2 cells, one after the other, in one program."""

    def systems(self, equation, grid):
        fine, coarse = super().systems(equation, grid)
        return [fine, *super().systems(equation, coarse.grid)]

    def holds(self, systems):
        return len(systems) == 3

    def restrict(self, u):
        fine, coarse = super().restrict(u)
        return [fine, *super().restrict(coarse)]

    def combine(self, values, ring):
        fine, coarse, coarsest = values
        fourth = super().combine([fine, coarse], ring), super().combine([coarse, coarsest], ring)
        return jnp.concatenate([fine, fourth[0], coarse, fourth[1]], axis=-1)


def average(grid, function):
    """Cell averages on a line: Gauss–Legendre of five points in each."""
    nodes, weights = np.polynomial.legendre.leggauss(5)
    return function(grid.centers[0][:, None] + grid.widths[0][:, None] / 2 * nodes) @ (weights / 2)


def paired(u):
    return u.reshape(-1, 2).mean(1)


def errors(equation, grid, start, times, right):
    """{order: (largest error on n/2 cells, that on n)}."""
    n = grid.shape[0]
    u = np.asarray(jd.solve(equation, grid, start, times, scheme=Levels(4)).values[-1])
    fine, fine4, coarse, coarse4 = np.split(u, [n, 2 * n, n * 5 // 2])
    off = lambda u, right: np.abs(u - right).max()
    return {2: (off(coarse, paired(right)), off(fine, right)), 4: (off(coarse4, paired(right)), off(fine4, right))}


KERNEL = lambda x, t: exact.heat_kernel(x, 0.1, t, 0.5)
OU = lambda x, t: exact.ornstein_uhlenbeck_density(x, 0.5, t, 2.0, -0.3, 0.7)
BENES = lambda x, t: exact.benes_density(x, 0.3, t)
TOWARDS = Drift([-0.6, -2.0, 0.0, 0.0])
LINE = {
    "heat": (jd.Diffusion(0.5), KERNEL),
    "Ornstein-Uhlenbeck": (jd.FokkerPlanck(TOWARDS, 0.7), OU),
    "Benes": (jd.FokkerPlanck(Drift([0.0, 0.0, 1.0, 0.0]), 0.5), BENES),
    "tanh as a potential": (jd.FokkerPlanck(jd.Potential(lambda x: -jnp.log(jnp.cosh(x))), 0.5), BENES),
    "reflected": (
        jd.FokkerPlanck(Drift([-1.0, 0.0, 0.0, 0.0]), 0.5),
        lambda x, t: exact.reflected_interval_density(x + 4.0, 3.6, t, 8.0, 0.5, -1.0),
    ),
    "absorbed": (
        jd.FokkerPlanck(1.5, 0.5, boundaries=jd.absorbing),
        lambda x, t: exact.absorbed_interval_density(x + 4.0, 3.6, t, 8.0, 0.5, 1.5),
    ),
    "growing": (jd.Diffusion(0.5, decay=-0.7), lambda x, t: np.exp(0.7 * t) * KERNEL(x, t)),
    "killed": (jd.FokkerPlanck(TOWARDS, 0.7, killing=3.0), lambda x, t: np.exp(-3.0 * t) * OU(x, t)),
}


@cache
def on_the_line(problem):
    """From a bell that cell averages resolve; errors of the peak."""
    grid, (equation, density) = jd.Grid.uniform((-4.0, 4.0, 256)), LINE[problem]
    start, end = (average(grid, lambda x: density(x, t)) for t in (0.1, 0.22))  # noqa: B023
    found = errors(equation, grid, start, [0.0, 0.12], end)
    return {order: (a / paired(end).max(), b / end.max()) for order, (a, b) in found.items()}


@pytest.mark.parametrize("problem", LINE)
@pytest.mark.parametrize(("order", "largest", "band"), [(2, 3e-3, 0.1), (4, 2e-5, 0.3)])
def test_order(problem, order, largest, band):
    coarse, fine = on_the_line(problem)[order]
    assert fine < largest
    assert abs(np.log2(coarse / fine) - order) < band


@pytest.mark.slow
def test_levels_are_what_solve_gives():
    grid, (equation, density) = jd.Grid.uniform((-4.0, 4.0, 256)), LINE["heat"]
    start = average(grid, lambda x: density(x, 0.1))
    run = lambda grid, start, scheme: np.asarray(jd.solve(equation, grid, start, [0.0, 0.12], scheme=scheme).values[-1])
    fine, fourth, coarse, _ = np.split(run(grid, start, Levels(4)), [256, 512, 640])
    half = jd.Grid.uniform((-4.0, 4.0, 128))
    np.testing.assert_allclose(run(half, paired(start), None), coarse, atol=1e-13)
    np.testing.assert_allclose(run(grid, start, jd.FiniteVolume(order=4)), fourth, atol=1e-13)


# Walls of each kind, and (a, b) of a u + b D ∂u/∂n = 0 at the lower and the upper one.
WALLS = {
    "no flux": (jd.reflecting, (0.0, 1.0), (0.0, 1.0)),
    "absorbing": (jd.absorbing, (1.0, 0.0), (1.0, 0.0)),
    "robin": (jd.Robin(2.0, 0.0), (2.0, 1.0), (2.0, 1.0)),
    "mixed": ({"x-": jd.Dirichlet(0.0), "x+": jd.Robin(1.5)}, (1.0, 0.0), (1.5, 1.0)),
}


def collocated(diffusivity, start, lower, upper, time, edges, n=48):
    """Cell averages of the solution on [0, 1] by collocation at Chebyshev's points."""
    k = np.arange(n + 1)
    x, d = (1 - np.cos(np.pi * k / n)) / 2, diffusivity((1 - np.cos(np.pi * k / n)) / 2)
    c = np.where((k == 0) | (k == n), 2.0, 1.0) * (-1.0) ** k
    slope = np.outer(c, 1 / c) / (x[:, None] - x + np.eye(n + 1))
    slope -= np.diag(slope.sum(1))
    matrix, ends, inside = slope * d @ slope, [0, n], slice(1, n)
    walls = np.stack([-lower[1] * d[0] * slope[0], upper[1] * d[n] * slope[n]])
    walls[[0, 1], ends] += lower[0], upper[0]
    to_ends = -np.linalg.solve(walls[:, ends], walls[:, inside])
    u = scipy.linalg.expm(time * (matrix[inside, inside] + matrix[inside, ends] @ to_ends)) @ start(x)[inside]
    whole = np.concatenate([to_ends[:1] @ u, u, to_ends[1:] @ u])
    return np.diff(np.polynomial.Chebyshev.fit(x, whole, n, domain=[0, 1]).integ()(edges)) / np.diff(edges)


@pytest.mark.slow
@pytest.mark.parametrize("walls", WALLS)
def test_order_at_walls_with_variable_diffusivity(walls):
    """D(x) = 1 + ½ sin 3x against a collocation of 49 points."""
    boundaries, *ends = WALLS[walls]
    grid, equation = (
        jd.Grid.uniform((0.0, 1.0, 128)),
        jd.Diffusion(lambda x: 1.0 + 0.5 * jnp.sin(3.0 * x), boundaries=boundaries),
    )
    warm = lambda x: np.exp(-20.0 * (x - 0.4) ** 2) * (x * (1.0 - x)) ** 4 * 300.0
    right = collocated(lambda x: 1.0 + 0.5 * np.sin(3.0 * x), warm, *ends, 0.05, grid.edges[0])
    found = errors(equation, grid, average(grid, warm), [0.0, 0.05], right)
    for order, band in ((2, 0.1), (4, 0.3)):
        assert abs(np.log2(found[order][0] / found[order][1]) - order) < band, order


@pytest.mark.parametrize("interpretation", ["ito", "stratonovich", "isothermal"])
def test_interpretations_reach_their_equilibrium(interpretation):
    """p ∝ D^{α−1} exp ∫ f/D with α = 0, ½, 1."""
    grid = jd.Grid.uniform((0.0, 1.0, 400))
    x = grid.centers[0]
    p = jd.steady_state(jd.FokkerPlanck(lambda x: x * 0.0, lambda x: 1.0 + x, interpretation=interpretation), grid)
    alpha = {"ito": 0.0, "stratonovich": 0.5, "isothermal": 1.0}[interpretation]
    expected = (1.0 + x) ** (alpha - 1.0)
    np.testing.assert_allclose(p, expected / (expected @ grid.volumes), rtol=1e-12)


@pytest.mark.slow
def test_cir_density():
    """Square-root diffusion, D vanishing at the wall, against the noncentral χ²."""
    kappa, theta, sigma = 1.0, 1.0, 0.8
    density = lambda t: lambda x: np.exp(exact.cir_log_density(x, 1.2, t, kappa, theta, sigma))
    equation = jd.FokkerPlanck(lambda x: kappa * (theta - x), lambda x: sigma**2 * x / 2)
    errors = []
    for n in (200, 400):
        grid = jd.Grid.uniform((0.0, 5.0, n))
        u = jd.solve(equation, grid, average(grid, density(0.2)), [0.0, 0.8]).values[-1]
        target = average(grid, density(1.0))
        errors.append(np.abs(u - target).max() / target.max())
    assert errors[1] < 1e-4
    assert abs(np.log2(errors[0] / errors[1]) - 2.0) < 0.1


@pytest.mark.parametrize("mode", [1, 5, 150])
@pytest.mark.parametrize("time", [1e-6, 0.1, 30.0])
def test_discrete_modes_are_exact_in_time(mode, time):
    n, d = 200, 0.3
    grid = jd.Grid.uniform((0.0, 2.0, n))
    start = np.cos(mode * np.pi * grid.centers[0] / 2.0)
    u = jd.solve(jd.Diffusion(d), grid, start, [0.0, time]).values[-1]
    assert np.abs(u - start * np.exp(exact.cosine_mode_rate(mode, n, 2.0, d) * time)).max() < 1e-12


def test_two_media_interface():
    grid = jd.Grid.uniform((-10.0, 10.0, 2000))
    x = grid.centers[0]
    left = x < 0
    k, c = np.where(left, 3.0, 0.5), np.where(left, 2.0, 1.0)
    u = jd.solve(jd.Diffusion(k, capacity=c), grid, np.where(left, 1.0, 5.0), [0.0, 0.5]).values[-1]
    expected = exact.two_media_step(x, 0.5, (3.0, 0.5), (2.0, 1.0), (1.0, 5.0))
    assert np.abs(u - expected).max() < 1e-3 * 4.0


@pytest.mark.parametrize(
    ("wall", "expected"),
    [
        (jd.Robin(2.0, 3.0), lambda x: exact.robin_half_space(x, 0.5, 0.7, 2.0, 3.0, 1.0)),
        (jd.Flux(-2.0), lambda x: exact.flux_half_space(x, 0.5, 0.7, 2.0, 1.0)),
        (jd.Neumann(2.0 / 0.7), lambda x: exact.flux_half_space(x, 0.5, 0.7, 2.0, 1.0)),
    ],
    ids=["robin", "flux", "neumann"],
)
def test_half_spaces(wall, expected):
    grid = jd.Grid.uniform((0.0, 10.0, 1000))
    u = jd.solve(jd.Diffusion(0.7, boundaries={"x-": wall}), grid, 1.0, [0.0, 0.5]).values[-1]
    assert np.abs(u - average(grid, expected)).max() < 1e-4


# Half-uptake times D t½, published to ten digits.
UPTAKE = {"slab": 0.0491826849, "cylinder": 0.0630581942, "sphere": 0.0305465243}


@pytest.mark.parametrize("body", UPTAKE)
def test_half_uptake(body):
    wall, half = jd.Dirichlet(1.0), UPTAKE[body]
    if body == "slab":
        grid, walls = jd.Grid.uniform((0.0, 1.0, 800)), wall
    else:
        geometry = {"cylinder": "cylindrical", "sphere": "spherical"}[body]
        grid, walls = jd.Grid.radial((0.0, 1.0, 800), geometry=geometry), {"r+": wall}
    u = jd.solve(jd.Diffusion(1.0, boundaries=walls), grid, 0.0, [0.0, half]).values[-1]
    assert abs(np.average(u, weights=grid.volumes) - 0.5) < 2e-6


def test_hollow_cylinder_conducts_logarithmically():
    grid = jd.Grid.radial((1.0, 3.0, 400), geometry="cylindrical")
    u = jd.steady_state(jd.Diffusion(2.0, boundaries={"r-": jd.Dirichlet(5.0), "r+": jd.Dirichlet(1.0)}), grid)
    expected = 5.0 - 4.0 * np.log(grid.centers[0]) / np.log(3.0)
    assert np.abs(u - expected).max() < 2e-5


def test_flash_half_rise():
    """Parker, Jenkins, Butler & Abbott 1961: α t½ / L² = 0.138785297."""
    grid = jd.Grid.uniform((0.0, 1.0, 400))
    start = np.zeros(400)
    start[0] = 400.0
    u = jd.solve(jd.Diffusion(1.0), grid, start, [0.0, 0.138785297]).values[-1]
    assert abs(float(grid.interpolate(u, np.array([1.0]))[0]) - 0.5) < 2e-5


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e6, 1e8, 1e11])
def test_stiffness_costs_neither_accuracy_nor_mass(scale):
    """t‖A‖ up to 1e8 and beyond: error below 1e-9 of the peak, mass to 1e-12 (1e-10 at any t)."""
    n = 256
    grid = jd.Grid.uniform((0.0, 1.0, n))
    time = scale / (4 * n * n)
    start = np.exp(-300.0 * (grid.centers[0] - 0.37) ** 2)
    u = np.asarray(jd.solve(jd.Diffusion(1.0), grid, start, [0.0, time]).values[-1])
    k = np.arange(n)
    modes = np.cos(np.outer(np.arange(n) + 0.5, k) * np.pi / n)
    amplitude = modes.T @ start * np.where(k == 0, 1.0, 2.0) / n
    expected = modes @ (amplitude * np.exp(exact.cosine_mode_rate(k, n, 1.0, 1.0) * time))
    assert np.abs(u - expected).max() < 1e-9
    assert abs(u.sum() / start.sum() - 1.0) < (1e-12 if scale <= 1e8 else 1e-10)


class Well(eqx.Module):
    barrier: Any = eqx.field(converter=np.array)

    def __call__(self, x):
        return 0.5 * self.barrier * (x * x - 1.0) ** 2


@pytest.mark.parametrize("barrier", [1.0, 10.0, 40.0])
def test_gibbs_state_and_mass_over_barriers(barrier):
    grid = jd.Grid.uniform((-2.0, 2.0, 300))
    equation = jd.FokkerPlanck(jd.Potential(Well(barrier)), 0.5)
    gibbs = exact.gibbs_density(Well(barrier)(grid.centers[0]), 0.5, grid.volumes)
    p = np.asarray(jd.steady_state(equation, grid))
    np.testing.assert_allclose(p, gibbs, rtol=1e-12)
    stayed = np.asarray(jd.solve(equation, grid, gibbs, [0.0, 1.0, 1e3]).values[-1])
    assert np.abs(stayed - gibbs).max() < 1e-12 * gibbs.max()
    moved = np.asarray(jd.solve(equation, grid, grid.delta(-1.0), [0.0, 10.0, 20.0]).values[1])
    assert abs(moved @ grid.volumes - 1.0) < 1e-12
    assert moved.min() > -1e-12 * moved.max()


RINGS = {
    "driven": jd.FokkerPlanck(Drift([1.5, 0.0, 0.0, 1.0]), 0.2, boundaries=jd.Periodic()),
    "fast": jd.FokkerPlanck(Drift([40.0, 0.0, 0.0, 1.0]), 0.02, boundaries=jd.Periodic()),
    "tilted potential": jd.FokkerPlanck(jd.Potential(lambda x: jnp.cos(x) - 0.8 * x), 0.3, boundaries=jd.Periodic()),
    "still": jd.Diffusion(0.3, boundaries=jd.Periodic()),
}


@pytest.mark.slow
@pytest.mark.parametrize("ring", RINGS)
def test_rings_against_expm(ring):
    grid, times = jd.Grid.uniform((0.0, 2 * np.pi, 63)), [0.0, 0.05, 2.0]
    start = np.exp(5.0 * np.cos(grid.centers[0] - 1.0))
    u = jd.solve(RINGS[ring], grid, start, times).values
    for found, expected in zip(u[1:], exponential(RINGS[ring], grid, times)(start)[1:], strict=True):
        assert np.abs(found - expected).max() < 1e-9 * np.abs(expected).max()


GROWTH = {
    "uniform": jd.Diffusion(0.1, decay=-3.0),
    "local": jd.Diffusion(0.1, decay=lambda x: -8.0 * jnp.exp(-((x - 0.3) ** 2) / 0.01)),
    "at a wall": jd.Diffusion(0.1, boundaries={"x+": jd.Robin(-0.4)}),
    "killing": jd.FokkerPlanck(lambda x: -x, 0.1, killing=-2.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("growth", GROWTH)
def test_growth_against_expm(growth):
    grid, times = jd.Grid.uniform((0.0, 1.0, 60)), [0.0, 0.3, 12.0]
    start = 1.0 + grid.centers[0]
    u = jd.solve(GROWTH[growth], grid, start, times).values
    assert np.abs(u / exponential(GROWTH[growth], grid, times)(start) - 1.0).max() < 1e-9


@pytest.mark.slow
def test_nafems_t3():
    """NAFEMS benchmark T3, 36.6031160 °C at x = 0.08 m after 32 s, with the wall as a function and as a series."""
    grid = jd.Grid.uniform((0.0, 0.1, 200))
    wall = lambda value: jd.Diffusion(
        35.0, capacity=7200 * 440.5, boundaries={"x-": jd.Dirichlet(0.0), "x+": jd.Dirichlet(value)}
    )
    knots = np.linspace(0.0, 32.0, 1601)
    for value in (
        jd.TimeDependent(lambda t: 100.0 * jnp.sin(jnp.pi * t / 40)),
        jd.Series(knots, 100.0 * np.sin(np.pi * knots / 40)),
    ):
        u = jd.solve(wall(value), grid, 0.0, [0.0, 32.0]).values[-1]
        assert abs(float(grid.interpolate(u, np.array([0.08]))[0]) - exact.nafems_t3()) < 0.01


@pytest.mark.slow
def test_series_forcing_is_exact():
    """A ramped wall: forcing that is linear between knots, against the exponential with a ramp and a one as two more rows."""
    grid = jd.Grid.uniform((0.0, 1.0, 40))
    times, values = [0.0, 0.13, 0.4, 1.0], [0.0, 2.0, -1.0, 4.0]
    equation = jd.Diffusion(
        0.3,
        decay=0.5,
        source=jd.Series([0.0, 0.5, 1.0], [1.0, 0.0, 3.0]),
        boundaries={"x+": jd.Dirichlet(jd.Series(times, values))},
    )
    u = np.asarray(jd.solve(equation, grid, 0.0, [0.0, 0.25, 1.0]).values)
    parts, v = dense(equation, grid), np.zeros(40)
    spots, kept = [0.0, 0.13, 0.25, 0.4, 0.5, 1.0], {}
    for left, right in zip(spots[:-1], spots[1:], strict=True):
        (matrix, before, weights), after = parts(left), parts(right)[1]
        whole = np.pad(np.column_stack([matrix, after - before, before]), ((0, 2), (0, 0)))
        whole[40, 41] = 1 / (right - left)
        v = (scipy.linalg.expm((right - left) * whole) @ [*v, 0.0, 1.0])[:40]
        kept[right] = v / weights
    assert np.abs(u[1] - kept[0.25]).max() < 1e-9
    assert np.abs(u[2] - kept[1.0]).max() < 1e-9


@pytest.mark.slow
def test_time_dependent_drift_holds_its_tolerance():
    """OU dragged by m(t) = sin 3t: the mean obeys ṁ = k(m(t) − m), exactly so on the grid's first moment."""
    grid = jd.Grid.uniform((-4.0, 4.0, 200))
    k, w, d = 2.0, 3.0, 0.2
    equation = jd.FokkerPlanck(jd.TimeDependent(lambda t, x: k * (jnp.sin(w * t) - x)), d)
    start = average(grid, lambda x: np.exp(-(x**2) / (2 * d / k)))
    start = start / (start @ grid.volumes)
    times = np.linspace(0.0, 2.0, 5)
    p = jd.solve(equation, grid, start, times, tolerance=1e-6).values
    mean = np.asarray(p) @ (grid.volumes * grid.centers[0])
    expected = k * (k * np.sin(w * times) - w * np.cos(w * times) + w * np.exp(-k * times)) / (k**2 + w**2)
    assert np.abs(mean - expected).max() < 2e-3
    finer = jd.solve(equation, grid, start, times, tolerance=1e-7).values
    assert np.abs(p - finer).max() < 1.1e-6 * np.abs(finer).max()


@pytest.mark.slow
def test_steady_diffusion_and_closed_domains():
    grid = jd.Grid.uniform((0.0, 1.0, 10))
    ends = {"x-": jd.Dirichlet(100.0), "x+": jd.Dirichlet(0.0)}
    np.testing.assert_allclose(
        jd.steady_state(jd.Diffusion(3.0, boundaries=ends), grid), 100.0 * (1 - grid.centers[0]), rtol=1e-12
    )
    kept = jd.steady_state(jd.Diffusion(3.0), grid, initial=grid.centers[0])
    np.testing.assert_allclose(kept, 0.5, rtol=1e-12)


@pytest.mark.slow
def test_many_times_through_contours_agree_with_poles():
    grid = jd.Grid.uniform((0.0, 1.0, 100))
    equation = jd.Diffusion(0.4, decay=0.3, source=1.0, boundaries={"x+": jd.Robin(2.0, 1.0)})
    times = np.concatenate([[0.0], np.geomspace(1e-4, 3.0, 60)])
    poles = jd.solve(equation, grid, 0.5, times).values
    contours = jd.solve(equation, grid, 0.5, times, tolerance=1e-9).values
    assert np.abs(poles - contours).max() < 1e-8
