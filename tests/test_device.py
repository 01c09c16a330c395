"""The ways through time, gradients and fits on whatever device JAX computes on, in both precisions (`make device`)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg

import jaxdiff as jd
from jaxdiff.operators import chebyshev
from jaxdiff.schemes import FiniteVolume

LIMITS = {"float64": 1e-9, "float32": 2e-5}
TIMES = (0.0, 0.05, 0.2)
WALLS = {"x-": jd.Dirichlet(0.3), "x+": jd.Robin(0.7, 0.2)}


@pytest.fixture(params=["float64", "float32"])
def precision(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param
    jax.clear_caches()


def exact(equation, grid, initial):
    """Values by SciPy's exponential of the same matrix, formed in float64 on the CPU."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        system = FiniteVolume().systems(equation, grid)[0]
        operator, weights, n = system.operator(0.0), np.asarray(system.weights).ravel(), int(np.prod(grid.shape))
        unit = jnp.eye(n).reshape(n, *grid.shape)
        matrix = np.asarray(jax.vmap(lambda e: operator @ e)(unit)).reshape(n, n).T
        forcing = np.broadcast_to(np.asarray(system.forcing(0.0)), grid.shape).ravel()
        whole = np.zeros((n + 1, n + 1))
        whole[:-1, :-1], whole[:-1, -1] = matrix, forcing
    start = np.append(np.asarray(initial, float).ravel() * weights, 1.0)
    return np.stack([(scipy.linalg.expm(t * whole) @ start)[:-1] / weights for t in TIMES]).reshape(-1, *grid.shape)


LINE, PLANE = jd.Grid.uniform((0.0, 1.0, 64)), jd.Grid.uniform((0.0, 1.0, 16), (0.0, 1.0, 12))
BUMP = np.exp(-50 * (LINE.centers[0] - 0.4) ** 2)
HILL = np.exp(-20 * ((PLANE.centers[0][:, None] - 0.4) ** 2 + (PLANE.centers[1] - 0.5) ** 2))
WAVY = 1.0 + 0.5 * np.sin(6 * LINE.centers[0])
ROUGH = np.random.default_rng(0).random(PLANE.shape) + 0.5
PROBLEMS = {
    "poles": (jd.Diffusion(WAVY, source=0.5, boundaries=WALLS), LINE, BUMP, None),
    "cosines": (jd.Diffusion(0.5), LINE, BUMP, None),
    "carried": (jd.FokkerPlanck(5.0, 0.02), LINE, BUMP, None),
    "a ring": (jd.FokkerPlanck(3.0, WAVY * 0.05, boundaries=jd.Periodic()), LINE, BUMP, None),
    "a well": (jd.FokkerPlanck(jd.Potential(jd.Polynomial([0.0, 0.0, 20.0])), 0.1), LINE, BUMP, None),
    "products": (jd.Diffusion(1.0, boundaries=WALLS), PLANE, HILL, None),
    "rough": (jd.Diffusion(ROUGH), PLANE, HILL, None),
    "swept": (jd.FokkerPlanck(lambda x, y: (y - 0.5, 0.5 - x), 0.05), PLANE, HILL, None),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_solve_is_the_exponential(name, precision):
    equation, grid, initial, stepper = PROBLEMS[name]
    values = jd.solve(equation, grid, initial, list(TIMES), stepper=stepper).values
    assert values.dtype == precision
    right = exact(equation, grid, initial)
    assert np.abs(np.asarray(values, float) - right).max() < LIMITS[precision] * np.abs(right).max()


@pytest.mark.parametrize("name, t, x", [("forcing", 0.5, 0.0), ("coefficients", 0.0, 0.5)])
def test_what_depends_on_time(name, t, x, precision):
    wall = jd.TimeDependent(lambda t: jnp.sin(3 * t)) if t else 0.0
    d = jd.TimeDependent(lambda x, t: 1.0 + x * jnp.sin(5 * t) + 0 * x) if x else 1.0
    equation = jd.Diffusion(0.1, boundaries={"x-": jd.Dirichlet(wall)}) if t else jd.Diffusion(d)
    values = jd.solve(equation, LINE, BUMP, list(TIMES)).values
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        system = FiniteVolume().systems(equation, LINE)[0]
        matrix = jax.jit(lambda t: jax.vmap(lambda e: system.operator(t) @ e)(jnp.eye(64)).T)
        fed = jax.jit(lambda t: jnp.broadcast_to(system.forcing(t), 64) / jnp.asarray(system.weights))
        slope = lambda t, u: np.asarray(matrix(t)) @ u + np.asarray(fed(t))
        right = scipy.integrate.solve_ivp(
            slope, (0.0, TIMES[-1]), BUMP, "BDF", TIMES, jac=lambda t, _: np.asarray(matrix(t)), rtol=1e-9, atol=1e-11
        )
    assert np.abs(np.asarray(values, float) - right.y.T).max() < (1e-7 if precision == "float64" else 2e-5)


def test_gradients(precision):
    def energy(d):
        return 0.5 * LINE.integrate(jd.solve(jd.Diffusion(d), LINE, BUMP, [0.0, 0.1]).values[-1] ** 2)

    slope = jax.jit(jax.grad(energy))(jnp.asarray(WAVY))
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        expected = jax.grad(energy)(jnp.asarray(WAVY))
    assert np.abs(np.asarray(slope) - np.asarray(expected)).max() < 40 * LIMITS[precision] * np.abs(expected).max()


def test_fits_one_and_many(precision):
    times, places = np.repeat([0.02, 0.05, 0.1, 0.2], 5), np.tile([0.1, 0.3, 0.5, 0.7, 0.9], 4)
    model = lambda D, k: (jd.Diffusion(D, decay=k), BUMP)
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        clean = np.asarray(jd.solve(*model(0.3, 0.5)[:1], LINE, BUMP, np.unique(np.append(0.0, times))).values)
    rows = np.searchsorted(np.unique(np.append(0.0, times)), times)
    exact = np.array([np.interp(x, LINE.centers[0], clean[r]) for r, x in zip(rows, places, strict=True)])
    many = exact + np.random.default_rng(0).normal(0.0, 0.01, (8, len(exact)))
    readings = jd.Readings(LINE, None, times, places, many[0], sigma=0.01)
    starts = {"D": jd.Positive(0.6), "k": jd.Positive(0.2)}
    one = jd.fit(model, readings, parameters=starts, progress=False)
    fits = jd.fit_many(model, readings, many, parameters=starts, dtype=precision, progress=False)
    assert one.converged and fits.converged.all()
    for name, truth in (("D", 0.3), ("k", 0.5)):
        assert abs(one.parameters[name] - truth) < 4 * one.standard_errors[name]
        near = 1e-6 if precision == "float64" else 0.05
        assert abs(fits.parameters[name][0] - one.parameters[name]) < near * one.standard_errors[name]


@pytest.mark.parametrize("shape", [(48, 150), (5, 24, 140)])
def test_the_kernel_of_two_products(shape, precision):
    grid = jd.Grid.uniform(*[(0.0, 1.0, n) for n in shape])
    d = np.random.default_rng(0).random(shape) + 0.5
    operator = jd.FiniteVolume().systems(jd.Diffusion(d, boundaries={"x-": jd.Dirichlet(1.0)}), grid)[0].operator(0.0)
    operator = jax.tree.map(lambda x: x.astype(precision), operator)
    end, u = jnp.asarray([40.0 / float(operator.bound())], precision), jnp.asarray(d, precision)
    run = jax.jit(
        lambda u, kernel: chebyshev(operator, end, u, terms=64, needed=64.0, kernel=kernel)[0], static_argnums=1
    )
    plain, by_kernel = np.asarray(run(u, False)), np.asarray(run(u, True))
    assert np.abs(plain - by_kernel).max() < LIMITS[precision] * 1e-3 + 1e-6 * (precision == "float32")


def products(jaxpr):
    """The precisions of all matrix products of a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield str(equation.params["precision"])
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from products(getattr(inner, "jaxpr", inner))


def test_no_product_is_rounded_to_ten_bits():
    wall = jd.Dirichlet(jd.TimeDependent(lambda t: jnp.sin(3 * t)))
    net = jd.MLP(4, 1, key=jax.random.key(0))
    programs = [
        lambda u: jd.solve(jd.Diffusion(1.0, boundaries=WALLS), PLANE, jnp.outer(u[:16], u[:12]), list(TIMES)).values,
        lambda u: jd.solve(jd.Diffusion(0.1, boundaries={"x-": wall}), LINE, u, list(TIMES)).values,
        jax.grad(lambda u: jd.solve(jd.FokkerPlanck(net, 0.1), LINE, u, list(TIMES)).values.sum()),
    ]
    for program in programs:
        found = list(products(jax.make_jaxpr(program)(jnp.asarray(BUMP)).jaxpr))
        assert found and all(precision.count("HIGHEST") == 2 for precision in found), program
