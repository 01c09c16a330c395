"""The ways through time, gradients and fits on whatever device JAX computes on, in both precisions (`make device`)."""

import contextlib
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from oracles import dense, exponential

import jaxdiff as jd
from jaxdiff.discretisation.schemes import FiniteVolume
from jaxdiff.operators import chebyshev

LIMITS = {"float64": 1e-9, "float32": 2e-5}
TIMES = (0.0, 0.05, 0.2)
WALLS = {"x-": jd.Dirichlet(0.3), "x+": jd.Robin(0.7, 0.2)}


@pytest.fixture(scope="module", params=["float64", "float32"])
def precision(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param
    jax.clear_caches()


@contextlib.contextmanager
def reference():
    """What is right comes from the CPU in float64, and once for both precisions."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        yield


@cache
def exact(name):
    """Values by SciPy's exponential of the same matrix."""
    equation, grid, initial = PROBLEMS[name]
    with reference():
        return exponential(equation, grid, TIMES)(initial)


LINE, PLANE = jd.Grid.uniform((0.0, 1.0, 64)), jd.Grid.uniform((0.0, 1.0, 16), (0.0, 1.0, 12))
BUMP = np.exp(-50 * (LINE.centers[0] - 0.4) ** 2)
HILL = np.exp(-20 * ((PLANE.centers[0][:, None] - 0.4) ** 2 + (PLANE.centers[1] - 0.5) ** 2))
WAVY = 1.0 + 0.5 * np.sin(6 * LINE.centers[0])
ROUGH = np.random.default_rng(0).random(PLANE.shape) + 0.5
PROBLEMS = {
    "poles": (jd.Diffusion(WAVY, source=0.5, boundaries=WALLS), LINE, BUMP),
    "cosines": (jd.Diffusion(0.5), LINE, BUMP),
    "carried": (jd.FokkerPlanck(5.0, 0.02), LINE, BUMP),
    "a ring": (jd.FokkerPlanck(3.0, WAVY * 0.05, boundaries=jd.Periodic()), LINE, BUMP),
    "a well": (jd.FokkerPlanck(jd.Potential(jd.Polynomial([0.0, 0.0, 20.0])), 0.1), LINE, BUMP),
    "products": (jd.Diffusion(1.0, boundaries=WALLS), PLANE, HILL),
    "rough": (jd.Diffusion(ROUGH), PLANE, HILL),
    "swept": (jd.FokkerPlanck(lambda x, y: (y - 0.5, 0.5 - x), 0.05), PLANE, HILL),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_solve_is_the_exponential(name, precision):
    values = jd.solve(*PROBLEMS[name], list(TIMES)).values
    assert values.dtype == precision
    right = exact(name)
    assert np.abs(np.asarray(values, float) - right).max() < LIMITS[precision] * np.abs(right).max()


WALL = jd.TimeDependent(lambda t: jnp.sin(3 * t))
VARIED = {
    "forcing": jd.Diffusion(0.1, boundaries={"x-": jd.Dirichlet(WALL)}),
    "coefficients": jd.Diffusion(jd.TimeDependent(lambda x, t: 1.0 + x * jnp.sin(5 * t))),
}


@cache
def integrated(name):
    """Values by SciPy's BDF."""
    with reference():
        parts, weights = dense(VARIED[name], LINE), np.asarray(LINE.volumes)
        slope = lambda t, u: parts(t)[0] @ u + parts(t)[1] / weights
        options = {"jac": lambda t, _: parts(t)[0], "rtol": 1e-9, "atol": 1e-11}
        return scipy.integrate.solve_ivp(slope, (0.0, TIMES[-1]), BUMP, "BDF", TIMES, **options).y.T


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIED)
def test_what_depends_on_time(name, precision):
    values = jd.solve(VARIED[name], LINE, BUMP, list(TIMES)).values
    assert np.abs(np.asarray(values, float) - integrated(name)).max() < (1e-7 if precision == "float64" else 2e-5)


def slope(d):
    energy = lambda d: 0.5 * LINE.integrate(jd.solve(jd.Diffusion(d), LINE, BUMP, [0.0, 0.1]).values[-1] ** 2)
    return np.asarray(jax.jit(jax.grad(energy))(jnp.asarray(d)), float)


@cache
def exact_slope():
    with reference():
        return slope(WAVY)


@pytest.mark.slow
def test_gradients(precision):
    expected = exact_slope()
    assert np.abs(slope(WAVY) - expected).max() < 40 * LIMITS[precision] * np.abs(expected).max()


T, X = np.repeat([0.02, 0.05, 0.1, 0.2], 5), np.tile([0.1, 0.3, 0.5, 0.7, 0.9], 4)


@cache
def clean():
    """Readings without noise."""
    with reference():
        times, rows = np.unique(T, return_inverse=True)
        states = np.asarray(jd.solve(jd.Diffusion(0.3, decay=0.5), LINE, BUMP, [0.0, *times]).values)[1:]
    return np.array([np.interp(x, LINE.centers[0], states[row]) for row, x in zip(rows, X, strict=True)])


@pytest.mark.slow
@pytest.mark.filterwarnings("error:Explicitly requested dtype")
def test_fits_one_and_many(precision):
    model = lambda D, k: (jd.Diffusion(D, decay=k), BUMP)
    many = clean() + np.random.default_rng(0).normal(0.0, 0.01, (8, len(T)))
    readings = jd.Readings(LINE, None, T, X, many[0], sigma=0.01)
    starts = {"D": jd.Positive(0.6), "k": jd.Positive(0.2)}
    one = jd.fit(model, readings, parameters=starts, progress=False)
    fits = jd.fit_many(model, readings, many, parameters=starts, dtype=precision, progress=False)
    assert one.converged and fits.converged.all()
    for name, truth in (("D", 0.3), ("k", 0.5)):
        assert abs(one.parameters[name] - truth) < 4 * one.standard_errors[name]
        near = 1e-6 if precision == "float64" else 0.05
        assert abs(fits.parameters[name][0] - one.parameters[name]) < near * one.standard_errors[name]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(48, 150), (5, 24, 140)])
def test_the_kernel_of_two_products(shape, precision):
    grid = jd.Grid.uniform(*[(0.0, 1.0, n) for n in shape])
    d = np.random.default_rng(0).random(shape) + 0.5
    equation = jd.Diffusion(d, boundaries={"x-": jd.Dirichlet(1.0)})

    @jax.jit
    def formed():
        operator = FiniteVolume().systems(equation, grid)[0].operator(0.0)
        return jax.tree.map(lambda x: x.astype(precision), operator), operator.bound()

    operator, bound = formed()
    end, u = np.asarray([40.0 / float(bound)], precision), np.asarray(d, precision)
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


@pytest.mark.slow
def test_no_product_is_rounded_to_ten_bits():
    net = jd.MLP(4, 1, key=jax.random.key(0))
    programs = [
        lambda u: jd.solve(jd.Diffusion(1.0, boundaries=WALLS), PLANE, jnp.outer(u[:16], u[:12]), list(TIMES)).values,
        lambda u: jd.solve(VARIED["forcing"], LINE, u, list(TIMES)).values,
        jax.grad(lambda u: jd.solve(jd.FokkerPlanck(net, 0.1), LINE, u, list(TIMES)).values.sum()),
    ]
    for program in programs:
        found = list(products(jax.make_jaxpr(program)(jnp.asarray(BUMP)).jaxpr))
        assert found and all(precision.count("HIGHEST") == 2 for precision in found), program
