"""Spectral solutions against exact modes and kernels, their gradients, fits, and what is refused."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import exact
from jaxdiff.discretisation.modes import SpectralSystem
from jaxdiff.integration import direct
from jaxdiff.integration.evolve import evolve
from jaxdiff.integration.options import SolverOptions
from jaxdiff.integration.plan import prepare
from jaxdiff.operators.basis import phi

SPECTRAL = jd.Spectral()
RNG = np.random.default_rng(5)
WALLS = {"reflecting": jd.reflecting, "insulated": jd.Neumann(0.0), "absorbing": jd.absorbing}
LENGTH, D, DECAY, CAPACITY = 2.5, 0.3, 0.2, 1.7


def last(equation, grid, initial, t, **options):
    values = jd.solve(equation, grid, initial, [0.0, t], scheme=SPECTRAL, **options).values
    return values[-1] if isinstance(values, jax.core.Tracer) else np.asarray(values)[-1]


def mode(lower, upper, m, y, length):
    """The m-th mode between two walls at distances y from the lower, and its wavenumber."""
    fixed = lower == "absorbing", upper == "absorbing"
    k = np.pi / length * (m + (0.5 if fixed[0] != fixed[1] else float(all(fixed))))
    return (np.sin if fixed[0] else np.cos)(k * y), k


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 7, 8])
def test_every_mode_between_every_pair_of_walls(n):
    grid, times = jd.Grid.uniform((-1.0, LENGTH - 1.0, n)), np.array([0.0, 0.01, 0.02, 0.3])
    modes, expected, solves = {}, {}, {}
    for pair in itertools.product(WALLS, WALLS):
        walls = dict(zip(("x-", "x+"), map(WALLS.get, pair)))
        equation = jd.Diffusion(D, decay=DECAY, capacity=CAPACITY, boundaries=walls)
        solves[pair] = jax.vmap(lambda u, e=equation: jd.solve(e, grid, u, times, scheme=SPECTRAL).values)
        each, k = map(np.array, zip(*(mode(*pair, m, grid.centers[0] + 1.0, LENGTH) for m in range(n))))
        modes[pair] = each
        expected[pair] = np.exp(-(D * k[:, None] ** 2 + DECAY) / CAPACITY * times)[..., None] * each[:, None]
    found = jax.jit(lambda modes: {pair: solve(modes[pair]) for pair, solve in solves.items()})(modes)
    assert {pair: error for pair in modes if not (error := np.abs(found[pair] - expected[pair]).max()) < 1e-13} == {}


@pytest.mark.parametrize("n", [1, 7, 8])
def test_waves_on_a_ring_drift_and_decay(n):
    grid, drift, t = jd.Grid.uniform((-1.0, LENGTH - 1.0, n)), 1.3, 0.2
    equation = jd.FokkerPlanck(drift, D, killing=DECAY, boundaries=jd.Periodic())
    for m in range((n + 1) // 2):
        wave = lambda x, k=2 * np.pi * m / LENGTH: np.cos(k * x + 0.3)
        rate = D * (2 * np.pi * m / LENGTH) ** 2 + DECAY
        x = grid.centers[0]
        assert np.abs(last(equation, grid, wave(x), t) - np.exp(-rate * t) * wave(x - drift * t)).max() < 1e-13


ROOM = jd.Grid.uniform((0.0, 1.0, 10), (-1.0, 1.0, 7), (0.0, 2.0, 8))
MIXED = {
    "plate": (("x", "reflecting", "absorbing"), ("y", "absorbing", "absorbing")),
    "strip": (("x", "absorbing", "insulated"), ("y", "ring", "ring")),
    "band": (("x", "ring", "ring"), ("y", "reflecting", "reflecting")),
    "torus": (("x", "ring", "ring"), ("y", "ring", "ring")),
    "room": (("x", "reflecting", "insulated"), ("y", "absorbing", "reflecting"), ("z", "absorbing", "absorbing")),
    "duct": (("x", "ring", "ring"), ("y", "reflecting", "absorbing"), ("z", "ring", "ring")),
    "crystal": (("x", "ring", "ring"), ("y", "ring", "ring"), ("z", "ring", "ring")),
}


@pytest.mark.parametrize("name", MIXED)
def test_products_of_modes_on_several_axes(name):
    axes, t = MIXED[name], 0.05
    grid = jd.Grid(ROOM.edges[: len(axes)])
    walls, start, end = {}, 1.0, 1.0
    diffusivities, drift = (0.3, 0.1, 0.2)[: len(axes)], [0.0] * len(axes)
    for i, (axis, lower, upper) in enumerate(axes):
        edges, shape = grid.edges[i], [-1 if j == i else 1 for j in range(grid.ndim)]
        y, length = grid.centers[i] - edges[0], edges[-1] - edges[0]
        if lower == "ring":
            walls[axis], drift[i] = jd.Periodic(), (1.0, -2.0, 0.7)[i]
            k = 2 * np.pi * 2 / length
            first, then = np.cos(k * y + 1.0), np.cos(k * (y - drift[i] * t) + 1.0)
        else:
            walls |= {f"{axis}-": WALLS[lower], f"{axis}+": WALLS[upper]}
            first, k = mode(lower, upper, 2, y, length)
            then = first
        start = start * first.reshape(shape)
        end = end * (then * np.exp(-diffusivities[i] * k**2 * t)).reshape(shape)
    equation = jd.FokkerPlanck(drift, jd.PerAxis(*diffusivities), boundaries=walls)
    assert np.abs(last(equation, grid, start, t) - end).max() < 1e-13


KERNELS = {
    "ring": (jd.Periodic(), lambda x, t: sum(exact.heat_kernel(x, 0.4 + i, t, 0.5) for i in range(-3, 4))),
    "drifting ring": (
        jd.Periodic(),
        lambda x, t: sum(exact.heat_kernel(x, 0.4 + i, t, 0.5, 30.0) for i in range(-8, 4)),
    ),
    "reflected": (jd.reflecting, lambda x, t: exact.reflected_interval_density(x, 0.4, t, 1.0, 0.5)),
    "absorbed": (jd.absorbing, lambda x, t: exact.absorbed_interval_density(x, 0.4, t, 1.0, 0.5)),
}


@pytest.mark.parametrize("averages", [True, False])
@pytest.mark.parametrize("name", KERNELS)
def test_a_narrow_kernel_widens(name, averages):
    """Width 0.02 to 0.32 on 160 cells: for cell averages as for values at the centres."""
    grid, (walls, kernel) = jd.Grid.uniform((0.0, 1.0, 160)), KERNELS[name]
    times = np.array([4e-4, 1e-3, 0.01, 0.1])
    averaged = jax.vmap(lambda t: grid.average(lambda x: kernel(x, t)))
    expected = np.asarray(jax.jit(averaged)(times) if averages else [kernel(grid.centers[0], t) for t in times])
    drift = 30.0 if "drifting" in name else 0.0
    equation = jd.FokkerPlanck(drift, 0.5, boundaries=walls)
    values = np.asarray(jd.solve(equation, grid, expected[0], times, scheme=SPECTRAL).values)
    assert np.abs(values - expected).max() < 1e-10 * expected[0].max()
    if name != "absorbed":
        np.testing.assert_allclose(values.sum(1), values[0].sum(), rtol=1e-13)


def test_a_rod_heated_as_a_sine():
    """c u_t = D u″ + sin πx between ends at zero: (1 − e^{−Dπ²t/c}) sin(πx)/Dπ², steady at long times."""
    grid = jd.Grid.uniform((0.0, 1.0, 30))
    for source, shape in (
        (np.sin(np.pi * grid.centers[0]), np.sin(np.pi * grid.centers[0])),
        (lambda x: jnp.sin(jnp.pi * x), -np.diff(np.cos(np.pi * grid.edges[0])) / (np.pi / 30)),
    ):
        equation = jd.Diffusion(D, source=source, capacity=CAPACITY, boundaries=jd.absorbing)
        values = jd.solve(equation, grid, 0.0, [0.0, 1e-9, 0.1, 1e3], scheme=SPECTRAL).values
        rate = D * np.pi**2
        expected = -np.expm1(-rate / CAPACITY * np.array([0.0, 1e-9, 0.1, 1e3]))[:, None] * shape / rate
        np.testing.assert_allclose(values[1:], expected[1:], rtol=1e-11)


def test_a_source_where_nothing_decays_and_growth():
    grid = jd.Grid.uniform((0.0, 1.0, 9), (0.0, 2.0, 6))
    np.testing.assert_allclose(last(jd.Diffusion(1.0, source=3.0), grid, 1.0, 2.0), 7.0, rtol=1e-14)
    grown = last(jd.Diffusion(1.0, decay=-3.0, source=0.5), grid, 1.0, 2.0)
    np.testing.assert_allclose(grown, np.exp(6.0) + 0.5 * np.expm1(6.0) / 3.0, rtol=1e-13)


REAL = [0.0, 1e-12, -1e-3, 0.3, 0.4999999, 0.5000001, -0.7, -50.0, -1e4, 3.0]


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("zs", [REAL, [0.2j, -1 + 3j]], ids=["real", "complex"])
def test_phi_and_its_derivative(zs, n):
    slope = jax.grad(partial(phi, n), holomorphic=isinstance(zs[0], complex))
    for z, *pair in zip(zs, *jax.jit(lambda z: (phi(n, z), jax.vmap(slope)(z)))(np.array(zs))):
        if abs(z) < 4.0:
            terms = [z**i / math.factorial(i + n) for i in range(60)]
            expected = sum(terms), sum(i * z ** (i - 1) / math.factorial(i + n) for i in range(1, 60))
        else:
            expected = (-1 / z, 1 / z**2) if n == 1 else (-1 / z - 1 / z**2, 1 / z**2 + 2 / z**3)
        for found, value in zip(map(np.asarray, pair), expected):
            assert abs(found - value) < 3e-15 * max(1.0, abs(value)) * (1 if n == 1 else 4), z


def test_many_times_are_taken_in_parts(monkeypatch):
    grid, times = jd.Grid.uniform((0.0, 1.0, 12), (0.0, 1.0, 8)), np.linspace(0.0, 0.3, 12)
    equation, u = jd.Diffusion(0.2, decay=0.1, source=1.0, boundaries={"y": jd.absorbing}), RNG.random(grid.shape)
    whole = np.asarray(jd.solve(equation, grid, u, times, scheme=SPECTRAL).values)
    monkeypatch.setattr(direct, "LANE_CELLS", 4 * u.size)
    plan = prepare(equation, grid, times, SolverOptions(SPECTRAL))
    observe = lambda states: states[..., 3, 2:4]
    parts, seen = jax.jit(lambda u: [evolve(equation, grid, u, plan, look)[0] for look in (None, observe)])(u)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-15)
    np.testing.assert_allclose(seen, whole[:, 3, 2:4], rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", MIXED)
def test_the_operator_is_the_rate_of_change(name):
    grid = jd.Grid(ROOM.edges[: len(MIXED[name])])
    walls = {}
    for axis, lower, upper in MIXED[name]:
        walls |= {axis: jd.Periodic()} if lower == "ring" else {f"{axis}-": WALLS[lower], f"{axis}+": WALLS[upper]}
    equation = jd.Diffusion(0.1, decay=0.3, boundaries=walls)
    u = RNG.random(grid.shape)
    system = SpectralSystem(equation, grid)

    @jax.jit
    def found(u, t):
        operator = system.operator(0.0).diagonal(system.basis)
        state, rate = jax.jvp(lambda t: operator.solution(u)(t[None])[0], (t,), (1.0,))
        return operator @ state, rate, operator.basis.synthesise(operator.basis.analyse(u))

    product, rate, again = found(u, 0.02)
    np.testing.assert_allclose(product, rate, rtol=0, atol=1e-10)
    np.testing.assert_allclose(again, u, rtol=0, atol=1e-14)


LINE = jd.Grid.uniform((0.0, 1.0, 9))
PLANE = jd.Grid.uniform((0.0, 1.0, 6), (0.0, 1.0, 5))
MODELS = {
    "cosines": (LINE, lambda p: jd.Diffusion(0.3 * p[0], decay=0.2 * p[1], source=p[2], capacity=1 + p[3])),
    "nothing decays": (LINE, lambda p: jd.Diffusion(0.3, decay=p[0] - 1.0, source=p[2] * np.arange(9.0))),
    "sines": (LINE, lambda p: jd.Diffusion(0.3 * p[0], decay=-p[1], source=lambda x: p[2] * x, boundaries=jd.absorbing)),
    "quarter": (LINE, lambda p: jd.Diffusion(0.3 * p[0], source=p[2], boundaries={"x-": jd.absorbing})),
    "ring": (LINE, lambda p: jd.FokkerPlanck(p[0] - 1.0, 0.1 * p[1], killing=p[2], boundaries=jd.Periodic())),
    "plane": (PLANE, lambda p: jd.Diffusion(jd.PerAxis(0.2 * p[0], 0.1 * p[1]), decay=p[2], boundaries={"x": jd.absorbing})),
    "torus": (PLANE, lambda p: jd.FokkerPlanck(jnp.stack([2 * p[0], -p[1]]), 0.1 * p[2], boundaries=jd.Periodic())),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_gradients_three_ways(name):
    grid, model = MODELS[name]
    weights, start = RNG.random(grid.shape), RNG.random(grid.shape)

    @jax.jit
    def f(p):
        states = jd.solve(model(p), grid, start * p[3], [0.0, 0.1, 0.3], scheme=SPECTRAL).values
        return jnp.sum(weights * states[1:] ** 2)

    @jax.jit
    def slopes(p):
        forward = jax.linearize(f, p)[1]
        many = jax.vmap(jax.grad(f))(jnp.stack([p, 1.1 * p]))
        return *jax.linear_transpose(forward, p)(1.0), jax.vmap(forward)(jnp.eye(4)), many[0]

    p = np.ones(4)
    reverse, forward, first_of_many = map(np.asarray, slopes(p))
    central = lambda h: np.array([(float(f(p + h * e)) - float(f(p - h * e))) / (2 * h) for e in np.eye(4)])
    differences = (4 * central(1e-3) - central(2e-3)) / 3
    scale = np.abs(reverse).max()
    np.testing.assert_allclose(reverse, forward, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(reverse, differences, rtol=0, atol=1e-7 * scale)
    np.testing.assert_allclose(first_of_many, reverse, rtol=0, atol=1e-13 * scale)


@pytest.mark.parametrize("name", MODELS)
def test_single_precision_follows_the_initial_state(name):
    grid, model = MODELS[name]
    start, equation = RNG.random(grid.shape), model(np.ones(4))
    wide, narrow = last(equation, grid, start, 0.1), last(equation, grid, start.astype(np.float32), 0.1)
    assert narrow.dtype == jnp.float32
    assert np.abs(wide - narrow).max() < 2e-6 * max(1.0, np.abs(wide).max())


def test_vmap_over_coefficients_and_states():
    starts, ds = RNG.random((3, 9)), np.array([0.1, 0.2, 0.3])
    one = lambda d, u: last(jd.Diffusion(d, boundaries=jd.absorbing), LINE, u, 0.1)
    np.testing.assert_allclose(jax.jit(jax.vmap(one))(ds, starts), list(map(one, ds, starts)), rtol=0, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("walls", [jd.reflecting, jd.absorbing, jd.Periodic(), {"x-": jd.absorbing}])
def test_a_fit_of_diffusivity_and_decay(walls):
    grid = jd.Grid.uniform((0.0, 1.0, 40))
    times, places = np.tile(np.linspace(0.05, 0.5, 8), 3), np.repeat([0.21, 0.5, 0.83], 8)
    start = lambda x: jnp.exp(-((x - 0.4) ** 2) / 0.02)
    truth = jd.Diffusion(0.13, decay=0.4, boundaries=walls)
    states = jd.solve(truth, grid, start, np.concatenate([[0.0], times[:8]]), scheme=SPECTRAL).values[1:]
    clean = np.asarray(grid.interpolate(states, np.array([0.21, 0.5, 0.83]))).T.ravel()
    readings = jd.Readings(grid, start, times, places, clean + RNG.normal(0, 1e-3, clean.shape), sigma=1e-3)
    model = jd.Diffusion(jd.Positive(0.05), decay=jd.Free(0.0), boundaries=walls)
    fit = jd.fit(model, readings, scheme=SPECTRAL, progress=False)
    assert fit.converged
    for name, true in {"diffusivity": 0.13, "decay": 0.4}.items():
        assert abs(fit.parameters[name] - true) < 4 * fit.standard_errors[name] < 0.1 * true


def test_one_compilation_for_other_numbers():
    traces = []

    @jax.jit
    def f(equation, u):
        traces.append(1)
        return last(equation, LINE, u, 0.1)

    for d in (0.1, 0.2, 0.3):
        f(jd.Diffusion(d, source=1.0), np.full(9, d))
    assert len(traces) == 1


RADIAL = jd.Grid.radial((0.0, 1.0, 9), geometry="spherical")
UNEVEN = jd.Grid((np.array([0.0, 0.1, 0.3, 1.0]),))
run = lambda equation, grid=LINE, **options: last(equation, grid, np.ones(grid.shape), 1.0, **options)
walled = lambda wall: run(jd.Diffusion(1.0, boundaries={"x+": wall}))
REFUSED = {
    "varying D": (lambda: run(jd.Diffusion(lambda x: 1 + x)), "a diffusivity that is one number, got a function"),
    "D over cells": (lambda: run(jd.Diffusion(np.ones(9))), r"a diffusivity that is one number, got an array of shape \(9,\)"),
    "D of time": (lambda: run(jd.Diffusion(jd.TimeDependent(lambda t, x: 1 + t))), "one number, got TimeDependent"),
    "axes of D": (lambda: run(jd.Diffusion(jd.PerAxis(1.0, 1.0))), "one number, got PerAxis"),
    "decay": (lambda: run(jd.Diffusion(1.0, decay=jd.Series([0, 1], [0, 1]))), "a decay or killing that is one number, got Series"),
    "capacity": (lambda: run(jd.Diffusion(1.0, capacity=np.ones(9))), "a capacity that is one number, got an array"),
    "source of time": (lambda: run(jd.Diffusion(1.0, source=jd.Series([0, 1], [0, 1]))), "a source that is constant in time, got Series"),
    "shape of a source": (lambda: run(jd.Diffusion(1.0, source=np.ones(4))), r"cell averages of shape \(9,\), got shape \(4,\)"),
    "drift": (lambda: run(jd.FokkerPlanck(lambda x: -x, 1.0, boundaries=jd.Periodic())), "a drift that is one number, got a function"),
    "potential": (lambda: run(jd.FokkerPlanck(jd.Potential(lambda x: x), 1.0)), "a drift that is one number, got Potential"),
    "drift to a wall": (lambda: run(jd.FokkerPlanck(1.5, 1.0)), "a drift along periodic axes alone, got 1.5 along x"),
    "drift along y": (
        lambda: run(jd.FokkerPlanck((1.0, 2.0), 1.0, boundaries={"x": jd.Periodic()}), PLANE), "periodic axes alone, got 2 along y",
    ),
    "components": (lambda: run(jd.FokkerPlanck((1.0, 2.0, 3.0), 1.0, boundaries=jd.Periodic()), PLANE), "2 components on this grid, got 3"),
    "Dirichlet": (lambda: walled(jd.Dirichlet(2.0)), r"walls at zero, got Dirichlet of 2 at x\+; use jd.FiniteVolume"),
    "Flux": (lambda: walled(jd.Flux(-1.0)), r"walls at zero, got Flux of -1 at x\+"),
    "Neumann": (lambda: walled(jd.Neumann(0.5)), r"walls at zero, got Neumann of 0.5 at x\+"),
    "Robin": (lambda: walled(jd.Robin(1.0)), r"takes Periodic, Dirichlet\(0\), Flux\(0\) or Neumann\(0\), got Robin at x\+"),
    "wall of time": (lambda: walled(jd.Dirichlet(jd.TimeDependent(jnp.sin))), r"a value at x\+ that is one number, got TimeDependent"),
    "wall measured": (lambda: walled(jd.Flux(jd.Series([0, 1], [0, 1]))), r"a value at x\+ that is one number, got Series"),
    "radial": (lambda: run(jd.Diffusion(1.0), RADIAL), "holds on Cartesian grids, got a spherical one"),
    "uneven": (lambda: run(jd.Diffusion(1.0), UNEVEN), "holds on uniform cells, got widths that differ along x"),
    "stepper": (lambda: run(jd.Diffusion(1.0), stepper=jd.TRBDF2()), "exact in time and takes no TRBDF2; leave stepper out"),
    "fitted wall": (
        lambda: jax.grad(lambda a: run(jd.Diffusion(1.0, boundaries=jd.Dirichlet(a))).sum())(0.0), "no derivative in the value of a wall",
    ),
    "wall in a fit": (
        lambda: jd.fit(
            jd.Diffusion(1.0, boundaries=jd.Dirichlet(jd.Free(0.0))),
            jd.Readings(LINE, 1.0, [0.1, 0.2], [0.2, 0.4], [1.0, 0.5]), scheme=SPECTRAL, progress=False,
        ), "no derivative in the value of a wall",
    ),
    "negative D": (lambda: run(jd.Diffusion(jd.PerAxis(1.0, -1.0)), PLANE), "diffusivity is -1 along y; it must be positive"),
    "no capacity": (lambda: run(jd.Diffusion(1.0, capacity=0.0)), "capacity is 0; it must be positive"),
    "endless decay": (lambda: run(jd.Diffusion(1.0, decay=np.inf)), "decay or killing is inf; it must be finite"),
    "NaN in a source": (lambda: run(jd.Diffusion(1.0, source=np.where(np.arange(9) == 4, np.nan, 1.0))), "is nan in cell 4"),
    "endless growth": (lambda: run(jd.Diffusion(1.0, decay=-1e4)), "the solution is not finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_sum_of_modes_is_refused_in_one_line(name):
    call, words = REFUSED[name]
    with pytest.raises(ValueError, match=words) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_walls_known_only_inside_jit_are_flagged():
    value = jax.jit(lambda a: run(jd.Diffusion(1.0, boundaries=jd.Dirichlet(a))))
    assert jnp.isfinite(value(0.0)).all()
    with pytest.raises(Exception, match="walls at zero, got Dirichlet"):
        jax.block_until_ready(value(1.0))


def test_the_exponential_may_be_named():
    values = [run(jd.Diffusion(1.0), stepper=stepper) for stepper in (None, jd.Exponential())]
    np.testing.assert_array_equal(*values)


def test_another_scheme_is_refused():
    with pytest.raises(TypeError, match=r"jd.FiniteVolume\(order=2 or 4\) or jd.Spectral\(\), got 'fft'"):
        jd.solve(jd.Diffusion(1.0), LINE, 1.0, [0, 1], scheme="fft")


@pytest.mark.slow
def test_growth_that_faster_decay_outweighs_does_not_overflow():
    """e^{3·400} alone is infinite, and so is what a tensor mixes; the modes themselves fade."""
    grid, mode = jd.Grid.uniform((0.0, 1.0, 8), (0.0, 1.0, 8)), lambda x, y: np.sin(np.pi * y)
    growing = jd.Diffusion(0.32, decay=-3.0, boundaries={"y": jd.absorbing})
    start, rate = mode(*np.meshgrid(*grid.centers, indexing="ij")), 3.0 - 0.32 * np.pi**2
    np.testing.assert_allclose(last(growing, grid, start, 400.0), start * np.exp(400.0 * rate), rtol=1e-10)
    wide = jd.Grid.uniform((0.0, 1.0, 64), (0.0, 1.0, 64))
    tensor = jd.Diffusion(jd.Tensor(np.array([[1.0, -0.9], [-0.9, 1.0]])), boundaries=jd.Periodic())
    np.testing.assert_allclose(np.ptp(last(tensor, wide, RNG.random(wide.shape), 1.0)), 0.0, atol=1e-3)
