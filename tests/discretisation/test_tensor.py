"""Full diffusivities against Gaussians, manufactured solutions, dense exponentials and diagonal ones; a fit of all entries."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
import scipy.special

import jaxdiff as jd
from jaxdiff.discretisation.lattice import LatticeSystem
from jaxdiff.discretisation.tensor import TensorSystem
from jaxdiff.operators.tensor_decomposition import offsets, superbase, weights
from jaxdiff.parameters import plain
from jaxdiff.runtime.compilation import quick_jit

RNG = np.random.default_rng(5)
PLANE = jd.Grid.uniform((0.0, 1.0, 9), (0.0, 2.0, 11))
BOX = jd.Grid.uniform((0.0, 1.0, 5), (0.0, 1.5, 4), (0.0, 1.0, 6))
FULL = np.array([[1.0, 0.45], [0.45, 0.4]])
FULL3 = np.array([[1.0, 0.4, -0.3], [0.4, 0.6, 0.1], [-0.3, 0.1, 0.5]])


def turned(angle, along=1.0, across=0.1):
    xp = jnp if isinstance(angle, jax.core.Tracer) else np
    c, s = xp.cos(angle), xp.sin(angle)
    turn = xp.array([[c, -s], [s, c]])
    return turn @ xp.diag(xp.array([along, across])) @ turn.T


def cells(grid, function):
    return np.array([[function(x, y) for y in grid.centers[1]] for x in grid.centers[0]])


def rates(equation, grid):
    """The matrix of an equation from its action on unit contents."""
    units = np.eye(int(np.prod(grid.shape))).reshape(-1, *grid.shape)
    moved = quick_jit(lambda: TensorSystem(equation, grid).operator(0.0) @ units)()
    return np.asarray(moved).reshape(len(units), -1).T


def turning(x, y):
    return turned(x + 2 * y)


def box(x, y, z):
    return jnp.asarray(FULL3) * (1 + x * y) + jnp.diag(jnp.array([z, 0.0, x]))


WALLS = {"x-": jd.Dirichlet(lambda y: 1 + y), "x+": jd.Robin(2.0, 0.5), "y-": jd.Flux(-0.3), "y+": jd.absorbing}
SWIRL = lambda x, y: (1 - 3 * y, 4 * x + y)

# equation, grid, whether its content is kept
PROBLEMS = {
    "constant": (jd.Diffusion(jd.Tensor(FULL)), PLANE, True),
    "array": (jd.Diffusion(jd.Tensor(cells(PLANE, turning)), boundaries={"y": jd.Periodic()}), PLANE, True),
    "walls": (
        jd.Diffusion(
            jd.Tensor(turning), decay=0.3, source=lambda x, y: x * y, capacity=lambda x, y: 1 + x, boundaries=WALLS
        ),
        PLANE,
        False,
    ),
    "drift, walls": (
        jd.FokkerPlanck(SWIRL, jd.Tensor(turning), killing=0.2, interpretation="stratonovich", boundaries=WALLS),
        PLANE,
        False,
    ),
    "drift of arrays": (
        jd.FokkerPlanck((RNG.normal(size=PLANE.shape), lambda x, y: 1 - x), jd.Tensor(cells(PLANE, turning)), boundaries={"y+": jd.absorbing}),
        PLANE,
        False,
    ),
    "landscape": (jd.FokkerPlanck(jd.Potential(lambda x, y: 3 * x * y), jd.Tensor(turning)), PLANE, True),
    "box": (jd.FokkerPlanck((1.0, -2.0, 0.5), jd.Tensor(box), boundaries={"z+": jd.absorbing}), BOX, False),
}  # fmt: skip


@cache
def operators(name):
    """Operator, its bounds, leak, exit and growth, forcing and weights of a problem, and the operator as a matrix from its
    action on unit contents."""
    equation, grid, _ = PROBLEMS[name]
    units = np.eye(int(np.prod(grid.shape))).reshape(-1, *grid.shape)

    def build():
        system = TensorSystem(equation, grid)
        operator = system.operator(0.0)
        found = operator.spectrum(), operator.bound(), operator.leak, operator.exit, operator.growth()
        return *found, system.forcing(0.0), system.weights, (operator @ units).reshape(len(units), -1).T

    return jax.tree.map(np.asarray, quick_jit(build)())


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_matrix_is_one_of_rates(name):
    """Nothing negative off the diagonal, columns that sum to what is lost, bounds that hold; symmetric for diffusion."""
    equation, _, kept = PROBLEMS[name]
    bounds, most, leak, leave, growth, _, held, matrix = operators(name)
    off = matrix - np.diag(np.diag(matrix))
    size = np.abs(matrix).max()
    assert off.min() >= 0.0
    np.testing.assert_allclose(-np.diag(matrix), np.ravel(leave), rtol=1e-12)
    np.testing.assert_allclose(matrix.sum(0), -np.ravel(leak), atol=1e-12 * size)
    assert kept == (not np.any(leak))
    if isinstance(equation, jd.Diffusion):
        scale = matrix * np.broadcast_to(held, leak.shape).ravel()
        np.testing.assert_allclose(scale, scale.T, atol=1e-13 * np.abs(scale).max())
    found, slack = np.linalg.eigvals(matrix), 1e-9 * size
    assert -found.real.min() <= bounds.lower + slack and found.real.max() <= min(bounds.upper, growth + slack) + slack
    assert np.abs(found.imag).max() <= bounds.imaginary_bound + slack
    assert np.abs(found).max() <= most + slack


@pytest.mark.slow
def test_the_exponential_of_the_whole_matrix():
    equation, grid, _ = PROBLEMS["drift, walls"]
    *_, forcing, held, matrix = operators("drift, walls")
    held = np.broadcast_to(held, grid.shape).ravel()
    u, t = RNG.random(grid.shape), 0.2
    augmented = np.zeros((u.size + 1, u.size + 1))  # the forcing as one more content, that of a reservoir
    augmented[:-1, :-1], augmented[:-1, -1] = matrix, np.ravel(forcing)
    expected = (scipy.linalg.expm(t * augmented) @ np.append(u.ravel() * held, 1.0))[:-1] / held
    values = np.asarray(jd.solve(equation, grid, u, [0.0, t / 2, t]).values)
    assert np.abs(values[-1].ravel() - expected).max() < 1e-11 * expected.max()


DIAGONAL = {
    "numbers": (lambda d: jd.Diffusion(d, boundaries=WALLS), lambda x, y: 0.5, lambda x, y: 0.2),
    "functions": (lambda d: jd.Diffusion(d, boundaries=WALLS), lambda x, y: 0.5 + x * y, lambda x, y: 1 + y * y),
    "drift": (
        lambda d: jd.FokkerPlanck(SWIRL, d, interpretation="isothermal", boundaries=WALLS),
        lambda x, y: 0.5 + x,
        lambda x, y: 1 + y * x,
    ),
    "potential": (
        lambda d: jd.FokkerPlanck(jd.Potential(lambda x, y: x * x * y), d, interpretation="isothermal"),
        lambda x, y: 0.5 + x,
        lambda x, y: 1 + y * x,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DIAGONAL)
def test_a_diagonal_tensor_is_a_diffusivity_per_axis(name):
    make, dx, dy = DIAGONAL[name]
    u = RNG.random(PLANE.shape)
    whole = jd.Tensor(lambda x, y: jnp.diag(jnp.array([dx(x, y), dy(x, y)])))
    both = lambda: (TensorSystem(make(whole), PLANE), LatticeSystem(make(jd.PerAxis(dx, dy)), PLANE))
    moved, expected = quick_jit(lambda: [s.operator(0.0) @ u + s.forcing(0.0) for s in both()])()
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_the_offsets_of_strong_anisotropy():
    """The decomposition is exact; its longest offset grows as the square root of the ratio, by which walls lose edges."""
    parts = jax.jit(lambda d: (offsets(base := superbase(d)), weights(base, d)))
    for ratio, longest in ((10, 2), (100, 5), (1000, 16)):
        d = np.array([turned(a, ratio, 1.0) for a in np.linspace(0.0, np.pi, 500)])
        every, weight = parts(d)
        np.testing.assert_allclose(np.einsum("nk,nki,nkj->nij", weight, every, every), d, atol=1e-11 * ratio)
        assert np.abs(every).max() <= longest


def gaussian(grid):
    """(mean, covariance) -> cell averages."""
    density = jax.scipy.stats.multivariate_normal.pdf
    return quick_jit(lambda mean, c: grid.average(lambda *x: density(jnp.stack(x), mean, c)))


@pytest.mark.slow
@pytest.mark.parametrize("full, n", [(FULL, 40), (FULL3, 20)])
def test_a_heat_kernel(full, n):
    """Second moments grow by exactly 2Dt on the grid, and the shape is a Gaussian."""
    ndim, t = len(full), 0.15
    grid = jd.Grid.uniform(*[(-3.0, 3.0, n)] * ndim)
    before = 0.3 * np.eye(ndim)
    density = gaussian(grid)
    start, end = (np.asarray(density(np.zeros(ndim), c)) for c in (before, before + 2 * t * full))
    values = jd.solve(jd.Diffusion(jd.Tensor(full), boundaries=jd.Periodic()), grid, start, [0.0, t]).values
    values = np.asarray(values)
    points = np.stack(np.meshgrid(*grid.centers, indexing="ij"), -1)
    points, shares = points.reshape(-1, ndim), (values * grid.volumes).reshape(2, -1)
    moments = np.einsum("ni,nj,tn->tij", points, points, shares / shares.sum(1, keepdims=True))
    assert np.abs(moments[1] - moments[0] - 2 * t * full).max() < 0.01
    assert np.sum(np.abs(values[-1] - end) * grid.volumes) < 0.04


def manufactured_error(n, walls):
    """A steady state of ∇·(D∇u) + s = 0 with a tensor that turns in space."""
    grid = jd.Grid.uniform((0.0, 1.0, n), (0.0, 1.0, n))
    if walls == "periodic":
        angle = lambda x, y: 0.4 + 0.3 * jnp.sin(2 * jnp.pi * x) * jnp.cos(2 * jnp.pi * y)
        u = lambda x, y: jnp.sin(2 * jnp.pi * x) * jnp.cos(2 * jnp.pi * y)
        sides = jd.Periodic()
    else:
        angle = lambda x, y: 0.3 + 1.2 * x + 0.8 * y
        u = lambda x, y: jnp.sin(2 * x + 1) * jnp.cos(3 * y) + x * y
        ends = {
            "x-": lambda y: u(0.0, y),
            "x+": lambda y: u(1.0, y),
            "y-": lambda x: u(x, 0.0),
            "y+": lambda x: u(x, 1.0),
        }
        sides = {name: jd.Dirichlet(value) for name, value in ends.items()}
    d = lambda x, y: turned(angle(x, y))
    flux = lambda z: -d(*z) @ jax.grad(lambda w: u(*w))(z)
    source = lambda x, y: jnp.trace(jax.jacfwd(flux)(jnp.stack([x, y])))
    units = np.eye(n * n).reshape(-1, n, n)

    def build():
        system = TensorSystem(jd.Diffusion(jd.Tensor(d), source=source, boundaries=sides), grid)
        operator = system.operator(0.0)
        return operator @ units, operator @ (grid.average(u) * system.weights) + system.forcing(0.0)

    matrix, residual = map(np.asarray, quick_jit(build)())
    matrix = matrix.reshape(n * n, -1).T + (1.0 if walls == "periodic" else 0.0)  # fixes the mean
    residual = residual - (residual.mean() if walls == "periodic" else 0.0)
    return float(np.sqrt(np.mean(np.linalg.solve(matrix, np.ravel(residual)) ** 2))) * n * n


@pytest.mark.slow
@pytest.mark.parametrize("walls", ["periodic", "absorbing"])
def test_order_two_in_space(walls):
    coarse, fine = manufactured_error(20, walls), manufactured_error(40, walls)
    assert np.log2(coarse / fine) == pytest.approx(2.0, abs=0.1)


@pytest.mark.slow
def test_reflecting_walls_oblique_to_the_tensor_are_of_second_order():
    """By what changes from 12 to 24 to 48 cells; edges along the walls stand for the half cells that others miss."""
    mean = lambda a, n: np.diff(scipy.special.erf((np.linspace(0.0, 1.0, n + 1) - a) / np.sqrt(0.05))) * n
    states = []
    for n in (12, 24, 48):
        matrix = rates(jd.Diffusion(jd.Tensor(FULL)), jd.Grid.uniform((0.0, 1.0, n), (0.0, 1.0, n)))
        start = 0.0125 * np.pi * np.outer(mean(0.3, n), mean(0.2, n))  # of exp(−((x − 0.3)² + (y − 0.2)²)/0.05)
        values = scipy.sparse.linalg.expm_multiply(0.1 * scipy.sparse.csr_matrix(matrix), start.ravel())
        states.append(values.reshape(12, n // 12, 12, n // 12).mean((1, 3)))
    coarse, fine = (np.linalg.norm(a - b) for a, b in zip(states, states[1:]))
    assert np.log2(coarse / fine) == pytest.approx(2.0, abs=0.1)


def test_no_corner_comes_apart():
    """At 100:1 all edges of a corner cell may leave the domain; what is in it still gets out, slowly."""
    grid = jd.Grid.uniform((0.0, 1.0, 10), (0.0, 1.0, 10))
    found = np.sort(-np.linalg.eigvalsh(rates(jd.Diffusion(jd.Tensor(turned(np.pi / 6, 1.0, 0.01))), grid)))
    assert found[0] == pytest.approx(0.0, abs=1e-11)
    assert found[1] == pytest.approx(0.01 * np.pi**2, rel=1.0)  # one way across, about


class Linear(eqx.Module):
    """A drift of numbers: equations with it share their compiled program."""

    slope: jax.Array
    shift: jax.Array

    def __call__(self, x, y):
        f = self.shift + self.slope @ jnp.stack([x, y])
        return f[0], f[1]


@pytest.mark.slow
def test_a_rotating_ornstein_uhlenbeck_process():
    """Mean and covariance of dX = −M X dt + √(2D) dW, the covariance by Lyapunov's equation."""
    m, t = np.array([[1.0, -2.0], [2.0, 1.5]]), 0.6
    grid = jd.Grid.uniform((-4.0, 4.0, 72), (-4.0, 4.0, 72))
    first, spread, density = np.array([1.0, 0.0]), 0.15 * np.eye(2), gaussian(grid)
    rest, decay = scipy.linalg.solve_continuous_lyapunov(m, 2 * FULL), scipy.linalg.expm(-m * t)
    end = density(decay @ first, rest + decay @ (spread - rest) @ decay.T)
    equation = jd.FokkerPlanck(Linear(-m, np.zeros(2)), jd.Tensor(FULL))
    values = np.asarray(jd.solve(equation, grid, density(first, spread), [0.0, 0.15, 0.36, t]).values)
    assert np.sum(np.abs(values[-1] - end) * grid.volumes) < 0.02
    np.testing.assert_allclose(np.sum(values * grid.volumes, (1, 2)), np.sum(values[0] * grid.volumes), rtol=1e-12)
    assert values.min() >= 0.0


@pytest.mark.slow
def test_nothing_is_negative_at_a_hundred_to_one():
    """On as many cells and times as above."""
    grid = jd.Grid.uniform((-1.0, 1.0, 72), (-1.0, 1.0, 72))
    drift = Linear(np.array([[0.0, 5.0], [-1.0, 0.0]]), np.array([0.0, 1.0]))
    equation = jd.FokkerPlanck(drift, jd.Tensor(turned(np.pi / 6, 1.0, 0.01)))
    values = np.asarray(jd.solve(equation, grid, grid.delta((0.1, 0.0)), [0.0, 0.001, 0.02, 0.05]).values)
    assert values.min() >= 0.0
    np.testing.assert_allclose(np.sum(values * grid.volumes, (1, 2)), 1.0, rtol=1e-12)


@pytest.mark.slow
def test_what_starts_below_zero_is_left_there_and_derivatives_are_those_of_the_solution():
    """A mode of a plate keeps its sign; the response to a change where all is zero is the column of the exponential."""
    grid = jd.Grid.uniform((0.0, 1.0, 12), (0.0, 1.0, 12))
    x, y = grid.centers
    mode = np.cos(np.pi * x)[:, None] + 0 * y
    final = lambda u: jd.solve(jd.Diffusion(0.1), grid, u, [0.0, 0.3]).values[-1]
    rate = 0.4 / (1 / 12) ** 2 * np.sin(np.pi / 24) ** 2
    np.testing.assert_allclose(final(mode), np.exp(-0.3 * rate) * mode, atol=1e-12)
    point = jnp.zeros(grid.shape).at[2, 3].set(1.0)
    _, response = jax.jvp(final, (0 * point,), (point,))
    np.testing.assert_allclose(response, final(point), atol=1e-12)


@pytest.mark.slow
def test_the_gibbs_state_does_not_move_where_the_tensor_is_isotropic():
    energy = lambda x, y: 3 * (x * x - 1) ** 2 + 2 * (y - x) ** 2
    grid = jd.Grid.uniform((-2.0, 2.0, 24), (-2.0, 2.0, 20))
    x, y = grid.centers
    state = np.exp(-energy(x[:, None], y) / 0.4)
    equation = jd.FokkerPlanck(jd.Potential(energy), jd.Tensor(0.4 * np.eye(2)))
    operator = lambda: TensorSystem(equation, grid).operator(0.0)
    moved, leave = quick_jit(lambda: ((o := operator()) @ state, o.exit))()
    assert np.abs(moved).max() < 1e-11 * np.max(leave) * state.max()


def test_modes_of_a_torus():
    grid = jd.Grid.uniform((0.0, 1.0, 8), (0.0, 2.0, 9))
    k = np.array([2 * np.pi, -2 * np.pi])
    wave = lambda x, y: jnp.cos(k[0] * x + k[1] * y + 0.3)
    start, full = grid.average(wave), jd.Diffusion(jd.Tensor(FULL), boundaries=jd.Periodic())
    values = jd.solve(full, grid, start, [0.0, 0.02], scheme=jd.Spectral()).values[-1]
    np.testing.assert_allclose(values, np.exp(-0.02 * k @ FULL @ k) * start, atol=1e-13)


@pytest.mark.slow
def test_gradients_three_ways_in_every_entry():
    equation, grid, _ = PROBLEMS["drift, walls"]
    u, weight = RNG.random(grid.shape), RNG.normal(size=grid.shape)

    def loss(entries):
        a, b, c = entries
        d = jd.Tensor(lambda x, y: jnp.array([[a, b], [b, c]]) * (1 + 0.3 * x * y))
        scaled = eqx.tree_at(lambda e: e.diffusivity, equation, d, is_leaf=lambda x: x is equation.diffusivity)
        system = TensorSystem(scaled, grid)
        return jnp.sum(weight * (system.operator(0.0) @ u + system.forcing(0.0)))

    @quick_jit
    def each(at):
        value, forward = jax.linearize(loss, at)  # one trace: of reverse mode this is the transpose
        return value, jax.linear_transpose(forward, at)(1.0)[0], jax.vmap(forward)(jnp.eye(3))

    at = np.array([1.0, 0.45, 0.4])
    central = lambda h: np.array([(each(at + h * e)[0] - each(at - h * e)[0]) / (2 * h) for e in np.eye(3)])
    expected = (4 * central(1e-3) - central(2e-3)) / 3
    _, reverse, forward = each(at)
    np.testing.assert_allclose(reverse, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(forward, reverse, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_jit_vmap_and_other_numbers_without_a_new_trace():
    traces = []
    u = RNG.random(PLANE.shape)

    def final(matrix):
        traces.append(1)
        return jd.solve(jd.Diffusion(jd.Tensor(matrix)), PLANE, u, [0.0, 0.1]).values[-1]

    angles = np.array([0.1, 0.9, 2.5])  # other offsets at each
    one = quick_jit(final)
    matrices = np.stack([turned(a) for a in angles])
    each = [one(matrix) for matrix in matrices]
    assert len(traces) == 1
    np.testing.assert_allclose(quick_jit(jax.vmap(final))(matrices), each, rtol=1e-11)


@pytest.mark.slow
def test_float32():
    equation, grid, _ = PROBLEMS["drift, walls"]
    u = RNG.random(grid.shape).astype(np.float32)
    narrow, wide = (
        jd.solve(equation, grid, jnp.asarray(u, d), [0.0, 0.1, 0.2]).values for d in (jnp.float32, jnp.float64)
    )
    assert narrow.dtype == jnp.float32
    assert float(jnp.abs(narrow - wide).max()) < 2e-5


@pytest.mark.slow
def test_a_tensor_that_depends_on_time_is_stepped():
    """As much spreading in all as by its mean over time."""
    u = RNG.random(PLANE.shape)
    ramp = jd.Diffusion(jd.Tensor(jd.TimeDependent(lambda t, x, y: (1 + 10 * t) * turning(x, y))))
    values = jd.solve(ramp, PLANE, u, [0.0, 0.1], stepper=jd.RungeKutta4(), substeps=100).values[-1]
    expected = scipy.linalg.expm(0.15 * rates(jd.Diffusion(jd.Tensor(turning)), PLANE)) @ u.ravel()
    np.testing.assert_allclose(values.ravel(), expected, atol=1e-6)


@pytest.mark.slow
def test_all_entries_are_fitted_from_readings():
    """Entries that are fitted as one matrix, by what is fitted of it: within four standard errors of the truth."""
    grid = jd.Grid.uniform((-1.0, 1.0, 20), (-1.0, 1.0, 20))
    start = lambda x, y: jnp.exp(-(x**2 + y**2) / 0.05)
    model = lambda xx, xy, yy: jd.Diffusion(jd.Tensor(jnp.array([[xx, xy], [xy, yy]])))
    truth = {"xx": 0.10, "xy": 0.04, "yy": 0.05}
    times = np.linspace(0.1, 0.6, 6)
    places = np.stack(np.meshgrid([-0.4, 0.0, 0.4], [-0.4, 0.0, 0.4]), -1).reshape(-1, 2)
    states = jd.solve(model(**truth), grid, start, np.concatenate([[0.0], times])).values[1:]
    clean = np.concatenate([np.asarray(grid.interpolate(u, places)) for u in states])
    noisy = clean + np.random.default_rng(1).normal(0, 0.005, clean.shape)
    readings = jd.Readings(grid, start, np.repeat(times, 9), np.tile(places, (6, 1)), noisy, sigma=0.005)
    starts = {"xx": jd.Positive(0.05), "xy": jd.Free(0.0), "yy": jd.Positive(0.1)}
    fit = jd.fit(model, readings, parameters=starts, progress=False)
    assert fit.converged
    for name, true in truth.items():
        assert abs(fit.parameters[name] - true) < 4 * fit.standard_errors[name] < 0.02
    marked = jd.fit(jd.Diffusion(jd.Tensor(jd.Free(np.diag([0.05, 0.1])))), readings, progress=False)
    for name, value in fit.parameters.items():
        assert marked.parameters[f"diffusivity.{name}"] == pytest.approx(value, abs=1e-6)
        assert marked.standard_errors[f"diffusivity.{name}"] == pytest.approx(fit.standard_errors[name], rel=1e-3)
    found = marked.model.diffusivity.matrix
    np.testing.assert_array_equal(found, np.swapaxes(found, 0, 1))


@pytest.mark.slow
def test_a_matrix_that_is_marked_over_cells():
    """Every entry of every cell, once; the numbers are those of the whole."""
    matrix = cells(PLANE, turning)
    marked = jd.Tensor(jd.Bounded(matrix, -100.0, 100.0))
    assert marked.xy.value.shape == PLANE.shape and marked.xz is None
    assert float(jd.Tensor(jd.Free(jnp.eye(2))).yy.value) == 1.0
    u = RNG.random(PLANE.shape)
    systems = lambda: [TensorSystem(plain(jd.Diffusion(d)), PLANE) for d in (marked, jd.Tensor(matrix))]
    np.testing.assert_allclose(*quick_jit(lambda: [s.operator(0.0) @ u for s in systems()])(), atol=1e-14)


UNEVEN = jd.Grid(edges=(np.array([0.0, 0.1, 0.3, 1.0]), np.linspace(0.0, 1.0, 4)))
ROUND = jd.Grid.radial((0.0, 1.0, 8), (0.0, 2.0, 9), geometry="cylindrical")
LINE = jd.Grid.uniform((0.0, 1.0, 8))
tensor = lambda matrix, grid=PLANE, **more: jd.solve(jd.Diffusion(jd.Tensor(matrix), **more), grid, 1.0, [0, 1])

BAD = {
    "not positive": (lambda: tensor([[1.0, 2.0], [2.0, 1.0]]), r"eigenvalue -1 at x = 0\.0555556, y = 0\.0909091; it must be positive definite"),
    "not positive there": (lambda: tensor(lambda x, y: jnp.diag(jnp.stack([1.0 + 0 * x, 1.05 - y]))), r"eigenvalue -0\.0409091 at x = .*, y = 1\.09091; it must be positive definite"),
    "not symmetric": (lambda: tensor([[1.0, 0.2], [0.1, 1.0]]), "differ by 0.1 at x = .* it must be symmetric"),
    "not finite": (lambda: tensor([[1.0, np.nan], [np.nan, 1.0]]), "is nan at .* it must be finite"),
    "not symmetric to start from": (lambda: jd.Tensor(jd.Free([[1.0, 0.2], [0.1, 1.0]])), "starts from a symmetric matrix, got entries that differ by 0.1"),
    "bounds that are not symmetric": (lambda: jd.Tensor(jd.Bounded(np.eye(2), [[-1.0, -0.5], [-0.1, -1.0]], 9.0)), "symmetric matrix, got entries that differ by 0.4"),
    "not square": (lambda: jd.Tensor([1.0, 2.0]), r"got shape \(2,\); use jd.PerAxis"),
    "of another size": (lambda: tensor(np.eye(3)), r"has shape \(2, 2\), or \(9, 11, 2, 2\) over cells, got \(3, 3\)"),
    "a number": (lambda: tensor(lambda x, y: 1.0 + x), r"returns a real matrix \(2, 2\), got shape \(\)"),
    "arguments": (lambda: tensor(lambda x: jnp.eye(2)), "takes 2 numbers, and fails: .* 2 arguments, got lambda\\(x\\)"),
    "per axis": (lambda: jd.PerAxis(jd.Tensor(np.eye(2)), 1.0), "PerAxis takes one diffusivity for each axis, got a Tensor"),
    "one axis": (lambda: tensor(np.eye(2), LINE), "2 or 3 axes, got a cartesian one of 1"),
    "radial": (lambda: tensor(np.eye(2), ROUND), "got a cylindrical one"),
    "uneven": (lambda: tensor(np.eye(2), UNEVEN), "uniform cells, got widths that differ along x"),
    "Neumann": (lambda: tensor(np.eye(2), boundaries={"x+": jd.Neumann(1.0)}), r"Neumann at x\+ .* use jd.Flux"),
    "order": (lambda: jd.solve(jd.Diffusion(jd.Tensor(np.eye(2))), PLANE, 1.0, [0, 1], scheme=jd.FiniteVolume(order=4)), "order=4 takes no Tensor"),
    "modes": (lambda: jd.solve(jd.Diffusion(jd.Tensor(np.eye(2))), PLANE, 1.0, [0, 1], scheme=jd.Spectral()), "where all axes are periodic"),
    "paths": (lambda: jd.FokkerPlanck(0.0, jd.Tensor(np.eye(2))).sde(LINE), "got a Tensor"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_errors_in_one_line(name):
    call, words = BAD[name]
    with pytest.raises((ValueError, TypeError), match=words) as raised:
        call()
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_a_lattice_too_slanted_to_be_reduced_is_no_number():
    slant = np.array([[1.0, 0.0], [9000.5, 1.0]])
    assert np.isnan(jax.jit(superbase)(slant @ np.diag([1.0, 1e-3]) @ slant.T)).all()
