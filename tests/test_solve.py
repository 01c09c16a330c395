"""The forward problem against closed forms: error, order in space, mass, equilibrium, spectrum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import jaxdiff as jd
from jaxdiff import exact
from jaxdiff.discretisation.line import LineSystem

T0, T1 = 0.02, 0.12  # the kernels start as narrow bells, which cell averages resolve


def heat(grid):
    f = lambda t: lambda x: exact.heat_kernel(x, 0.1, t, 0.5)
    return jd.Diffusion(0.5), f


def ornstein_uhlenbeck(grid):
    f = lambda t: lambda x: exact.ornstein_uhlenbeck_density(x, 0.5, t, 2.0, -0.3, 0.7)
    return jd.FokkerPlanck(lambda x: 2.0 * (-0.3 - x), 0.7), f


def benes(grid):
    return jd.FokkerPlanck(jnp.tanh, 0.5), lambda t: lambda x: exact.benes_density(x, 0.3, t)


def tanh_potential(grid):
    return jd.FokkerPlanck(jd.Potential(lambda x: -jnp.log(jnp.cosh(x))), 0.5), benes(grid)[1]


def reflected(grid):
    f = lambda t: lambda x: exact.reflected_interval_density(x + 4.0, 3.6, t, 8.0, 0.5, -1.0)
    return jd.FokkerPlanck(-1.0, 0.5), f


def absorbed(grid):
    f = lambda t: lambda x: exact.absorbed_interval_density(x + 4.0, 3.6, t, 8.0, 0.5, 1.5)
    return jd.FokkerPlanck(1.5, 0.5, boundaries=jd.absorbing), f


def decaying_growth(grid):
    f = lambda t: lambda x: jnp.exp(0.7 * t) * exact.heat_kernel(x, 0.1, t, 0.5)
    return jd.Diffusion(0.5, decay=-0.7), f


def killed(grid):
    f = lambda t: lambda x: jnp.exp(-3.0 * t) * exact.ornstein_uhlenbeck_density(x, 0.5, t, 2.0, -0.3, 0.7)
    return jd.FokkerPlanck(lambda x: 2.0 * (-0.3 - x), 0.7, killing=3.0), f


LINE = [heat, ornstein_uhlenbeck, benes, tanh_potential, reflected, absorbed, decaying_growth, killed]


def line_error(problem, n, scheme):
    grid = jd.Grid.uniform((-4.0, 4.0, n))
    equation, density = problem(grid)
    start, end = grid.average(density(T0 * 5)), grid.average(density(T0 * 5 + T1))
    u = jd.solve(equation, grid, start, [0.0, T1], scheme=scheme).values[-1]
    return float(jnp.max(jnp.abs(u - end)) / jnp.max(end))


@pytest.mark.parametrize("problem", LINE, ids=lambda p: p.__name__)
def test_order_two(problem):
    errors = [line_error(problem, n, None) for n in (128, 256)]
    assert errors[1] < 3e-3
    assert abs(np.log2(errors[0] / errors[1]) - 2.0) < 0.1


@pytest.mark.parametrize("problem", LINE, ids=lambda p: p.__name__)
def test_order_four(problem):
    errors = [line_error(problem, n, jd.FiniteVolume(order=4)) for n in (128, 256)]
    assert errors[1] < 2e-5
    assert abs(np.log2(errors[0] / errors[1]) - 4.0) < 0.3


# A smooth mode between walls of each kind, with D(x) made so that u = e^{-t} φ(x) + steady part solves the equation.
WALLS = {
    "no flux": jd.reflecting,
    "absorbing": jd.absorbing,
    "robin": jd.Robin(2.0, 0.0),
    "mixed": {"x-": jd.Dirichlet(0.0), "x+": jd.Robin(1.5)},
}


@pytest.mark.parametrize(("order", "band"), [(2, 0.1), (4, 0.3)])
@pytest.mark.parametrize("walls", WALLS)
def test_order_at_walls_with_variable_diffusivity(walls, order, band):
    """Self-convergence on D(x) = 1 + ½ sin 3x against 2048 cells of fourth order."""
    equation = jd.Diffusion(lambda x: 1.0 + 0.5 * jnp.sin(3.0 * x), boundaries=WALLS[walls])

    def run(n, order):
        grid = jd.Grid.uniform((0.0, 1.0, n))
        warm = grid.average(lambda x: jnp.exp(-20.0 * (x - 0.4) ** 2) * (x * (1.0 - x)) ** 4 * 300.0)
        return jd.solve(equation, grid, warm, [0.0, 0.05], scheme=jd.FiniteVolume(order=order)).values[-1]

    reference = run(1024, 4)
    errors = []
    for n in (32, 64, 128):
        errors.append(np.abs(run(n, order) - reference.reshape(n, -1).mean(1)).max())
    assert abs(np.log2(errors[1] / errors[2]) - order) < band


@pytest.mark.parametrize("interpretation", ["ito", "stratonovich", "isothermal"])
def test_interpretations_reach_their_equilibrium(interpretation):
    """p ∝ D^{α−1} exp ∫ f/D with α = 0, ½, 1."""
    grid = jd.Grid.uniform((0.0, 1.0, 400))
    x = grid.centers[0]
    p = jd.steady_state(jd.FokkerPlanck(lambda x: x * 0.0, lambda x: 1.0 + x, interpretation=interpretation), grid)
    alpha = {"ito": 0.0, "stratonovich": 0.5, "isothermal": 1.0}[interpretation]
    expected = (1.0 + x) ** (alpha - 1.0)
    np.testing.assert_allclose(p, expected / grid.integrate(expected), rtol=1e-12)


def test_cir_density():
    """Square-root diffusion, D vanishing at the wall, against the noncentral χ²."""
    kappa, theta, sigma = 1.0, 1.0, 0.8
    errors = []
    for n in (200, 400):
        grid = jd.Grid.uniform((0.0, 5.0, n))
        density = lambda t: lambda x: jnp.exp(exact.cir_log_density(x, 1.2, t, kappa, theta, sigma))
        equation = jd.FokkerPlanck(lambda x: kappa * (theta - x), lambda x: sigma**2 * x / 2)
        u = jd.solve(equation, grid, grid.average(density(0.2)), [0.0, 0.8]).values[-1]
        target = grid.average(density(1.0))
        errors.append(float(jnp.max(jnp.abs(u - target)) / jnp.max(target)))
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
    assert np.abs(u - grid.average(expected)).max() < 1e-4


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
    assert abs(float(grid.integrate(u) / np.sum(grid.volumes)) - 0.5) < 2e-6


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


@pytest.mark.parametrize("barrier", [1.0, 10.0, 40.0])
def test_gibbs_state_and_mass_over_barriers(barrier):
    grid = jd.Grid.uniform((-2.0, 2.0, 300))
    energy = lambda x: 0.5 * barrier * (x * x - 1.0) ** 2
    equation = jd.FokkerPlanck(jd.Potential(energy), 0.5)
    gibbs = exact.gibbs_density(energy(grid.centers[0]), 0.5, grid.volumes)
    p = np.asarray(jd.steady_state(equation, grid))
    np.testing.assert_allclose(p, gibbs, rtol=1e-12)
    stayed = np.asarray(jd.solve(equation, grid, gibbs, [0.0, 1.0, 1e3]).values[-1])
    assert np.abs(stayed - gibbs).max() < 1e-12 * gibbs.max()
    moved = np.asarray(jd.solve(equation, grid, grid.delta(-1.0), [0.0, 10.0]).values[-1])
    assert abs(grid.integrate(moved) - 1.0) < 1e-12
    assert moved.min() > -1e-12 * moved.max()


def dense(equation, grid):
    return np.asarray(LineSystem(equation, grid).operator(0.0) @ jnp.eye(grid.shape[0]))


RINGS = {
    "driven": jd.FokkerPlanck(lambda x: 1.5 + jnp.sin(x), 0.2, boundaries=jd.Periodic()),
    "fast": jd.FokkerPlanck(lambda x: 40.0 + jnp.sin(x), 0.02, boundaries=jd.Periodic()),
    "tilted potential": jd.FokkerPlanck(jd.Potential(lambda x: jnp.cos(x) - 0.8 * x), 0.3, boundaries=jd.Periodic()),
    "still": jd.Diffusion(0.3, boundaries=jd.Periodic()),
}


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("time", [0.05, 2.0])
def test_rings_against_expm(ring, time):
    grid = jd.Grid.uniform((0.0, 2 * np.pi, 63))
    start = np.exp(5.0 * np.cos(grid.centers[0] - 1.0))
    u = np.asarray(jd.solve(RINGS[ring], grid, start, [0.0, time]).values[-1])
    expected = scipy.linalg.expm(dense(RINGS[ring], grid) * time) @ start
    assert np.abs(u - expected).max() < 1e-9 * np.abs(expected).max()


GROWTH = {
    "uniform": jd.Diffusion(0.1, decay=-3.0),
    "local": jd.Diffusion(0.1, decay=lambda x: -8.0 * jnp.exp(-((x - 0.3) ** 2) / 0.01)),
    "at a wall": jd.Diffusion(0.1, boundaries={"x+": jd.Robin(-0.4)}),
    "killing": jd.FokkerPlanck(lambda x: -x, 0.1, killing=-2.0),
}


@pytest.mark.parametrize("growth", GROWTH)
@pytest.mark.parametrize("time", [0.3, 12.0])
def test_growth_against_expm(growth, time):
    grid = jd.Grid.uniform((0.0, 1.0, 60))
    start = 1.0 + grid.centers[0]
    u = np.asarray(jd.solve(GROWTH[growth], grid, start, [0.0, time]).values[-1])
    expected = scipy.linalg.expm(dense(GROWTH[growth], grid) * time) @ start
    assert np.abs(u / expected - 1.0).max() < 1e-9


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


def test_series_forcing_is_exact():
    """A ramped wall: linear forcing between knots, against a stiff integrator at tight tolerance."""
    import scipy.integrate

    grid = jd.Grid.uniform((0.0, 1.0, 40))
    times, values = [0.0, 0.13, 0.4, 1.0], [0.0, 2.0, -1.0, 4.0]
    equation = jd.Diffusion(
        0.3,
        decay=0.5,
        source=jd.Series([0.0, 0.5, 1.0], [1.0, 0.0, 3.0]),
        boundaries={"x+": jd.Dirichlet(jd.Series(times, values))},
    )
    u = np.asarray(jd.solve(equation, grid, 0.0, [0.0, 0.25, 1.0]).values)
    system = LineSystem(equation, grid)
    a = dense(equation, grid)
    forcing = jax.jit(system.forcing)
    v, spots = np.zeros(40), [0.0, 0.13, 0.25, 0.4, 0.5, 1.0]
    kept = {}
    for left, right in zip(spots[:-1], spots[1:], strict=True):
        v = scipy.integrate.solve_ivp(
            lambda t, y: a @ y + np.asarray(forcing(t)), (left, right), v, "Radau", rtol=1e-11, atol=1e-13
        ).y[:, -1]
        kept[right] = v / np.asarray(system.weights)
    assert np.abs(u[1] - kept[0.25]).max() < 1e-9
    assert np.abs(u[2] - kept[1.0]).max() < 1e-9


def test_time_dependent_drift_holds_its_tolerance():
    """OU dragged by m(t) = sin 3t: the mean obeys ṁ = k(m(t) − m), exactly so on the grid's first moment."""
    grid = jd.Grid.uniform((-4.0, 4.0, 200))
    k, w, d = 2.0, 3.0, 0.2
    equation = jd.FokkerPlanck(jd.TimeDependent(lambda t, x: k * (jnp.sin(w * t) - x)), d)
    start = grid.average(lambda x: jnp.exp(-(x**2) / (2 * d / k)))
    start = start / grid.integrate(start)
    times = np.linspace(0.0, 2.0, 5)
    p = jd.solve(equation, grid, start, times, tolerance=1e-6).values
    mean = np.asarray(grid.integrate(p * grid.centers[0]))
    expected = k * (k * np.sin(w * times) - w * np.cos(w * times) + w * np.exp(-k * times)) / (k**2 + w**2)
    assert np.abs(mean - expected).max() < 2e-3
    finer = jd.solve(equation, grid, start, times, tolerance=1e-7).values
    assert np.abs(p - finer).max() < 1.1e-6 * np.abs(finer).max()


def test_steady_diffusion_and_closed_domains():
    grid = jd.Grid.uniform((0.0, 1.0, 10))
    ends = {"x-": jd.Dirichlet(100.0), "x+": jd.Dirichlet(0.0)}
    np.testing.assert_allclose(
        jd.steady_state(jd.Diffusion(3.0, boundaries=ends), grid), 100.0 * (1 - grid.centers[0]), rtol=1e-12
    )
    kept = jd.steady_state(jd.Diffusion(3.0), grid, initial=grid.centers[0])
    np.testing.assert_allclose(kept, 0.5, rtol=1e-12)


def test_many_times_through_contours_agree_with_poles():
    grid = jd.Grid.uniform((0.0, 1.0, 100))
    equation = jd.Diffusion(0.4, decay=0.3, source=1.0, boundaries={"x+": jd.Robin(2.0, 1.0)})
    times = np.concatenate([[0.0], np.geomspace(1e-4, 3.0, 60)])
    poles = jd.solve(equation, grid, 0.5, times).values
    contours = jd.solve(equation, grid, 0.5, times, tolerance=1e-9).values
    assert np.abs(poles - contours).max() < 1e-8
