"""The closed forms hold published numbers, their own equations, normalisation, and one another."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq, least_squares

from jaxdiff import datasets, exact

# log(I_ν(x) e^{−x}) by mpmath at 40 digits.
BESSEL = [
    (-0.95, 0.3, -1.0917199047420435),
    (-0.5, 8.0, -1.9586591915094223),
    (0.0, 1e-06, -9.9999974999999995e-7),
    (0.0, 1.0, -0.76408564149282135),
    (0.3, 15.0, -2.2674388999759096),
    (1.0, 0.01, -5.3083048665740782),
    (6.1, 100.0, -3.4071983998032263),
    (6.1, 2000.0, -4.7286320670061137),
    (25.0, 3.0, -50.780577173872492),
    (140.0, 30.0, -204.50635681594313),
    (1000.0, 100000.0, -11.6753833492877),
    (2.5, 100000000.0, -10.129278935180856),
]


@pytest.mark.parametrize("order, x, expected", BESSEL)
def test_log_bessel(order, x, expected):
    assert exact.log_bessel_i(order, x) == pytest.approx(expected, rel=2e-14, abs=2e-13)
    assert jax.jit(exact.log_bessel_i)(np.float64(order), np.float64(x)) == pytest.approx(
        expected, rel=1e-13, abs=1e-12
    )


# ---- Published numbers, with the sources in the docstrings.

PUBLISHED = [
    ("Parker's half rise", lambda t: exact.flash_rear_face(t, 1.0, 1.0), 0.5, 0.138785297),
    ("slab half uptake", lambda t: exact.uptake(t, 1.0, 1.0, "slab"), 0.5, 0.0491826849),
    ("cylinder half uptake", lambda t: exact.uptake(t, 1.0, 1.0, "cylinder"), 0.5, 0.0630581942),
    ("sphere half uptake", lambda t: exact.uptake(t, 1.0, 1.0, "sphere"), 0.5, 0.0305465243),
]


@pytest.mark.parametrize("course, level, expected", [row[1:] for row in PUBLISHED], ids=[row[0] for row in PUBLISHED])
def test_published_times(course, level, expected):
    assert brentq(lambda t: course(t) - level, 0.01, 1.0, xtol=1e-14) == pytest.approx(
        expected, abs=6e-11 if expected < 0.1 else 6e-10
    )


def test_nafems_t3():
    assert exact.nafems_t3() == pytest.approx(36.6031160, abs=5e-8)


def test_the_rod_fits_as_published():
    rod = datasets.load("rod")
    x, T = rod["x"].to_numpy(float), rod["T"].to_numpy()
    scale = np.array([20.0, 2e-3])
    found = least_squares(lambda p: exact.rod_temperature(x, *(p * scale)) - T, [1.0, 1.0], xtol=1e-14, ftol=1e-14)
    variance = np.sum(found.fun**2) / (len(x) - 2)
    covariance = variance * np.linalg.inv(found.jac.T @ found.jac) * np.outer(scale, scale)
    errors = np.sqrt(np.diag(covariance))
    assert found.x * scale == pytest.approx([18.4149, 0.0019143], rel=3e-5)
    assert errors == pytest.approx([0.139, 1.39e-5], rel=4e-3)
    assert covariance[0, 1] / errors.prod() == pytest.approx(0.97, abs=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "density, parameters, per_step",
    [
        (exact.vasicek_log_density, (0.261275, 0.0717048, 0.0223678), 3.634493),
        (exact.cir_log_density, (0.218940, 0.0720674, 0.0666443), 3.918294),
    ],
    ids=["vasicek", "cir"],
)
def test_federal_funds_as_published(density, parameters, per_step, measured):
    """Aït-Sahalia 1999, J. Finance 54, 1361, Table VI, recomputed to six places; and these are the maxima."""
    with open(measured("fedfunds.csv")) as file:
        rows = [(row["Date"], float(row["FEDFUNDS"])) for row in csv.DictReader(file)]
    rates = np.array([rate for date, rate in rows if "1963-01" <= date < "1999"]) / 100
    assert len(rates) == 432
    mean = lambda p: density(rates[1:], rates[:-1], 1 / 12, *p).mean()
    assert mean(parameters) == pytest.approx(per_step, abs=6e-7)
    slope = jax.grad(lambda p: density(jnp.asarray(rates[1:]), rates[:-1], 1 / 12, *p).mean())(jnp.array(parameters))
    assert np.abs(slope * np.array(parameters)).max() < 1e-4


# ---- Each density is normalised (or loses what the exits gain) and solves its equation.


def residual(density, points, drift, diffusivity):
    """∂p/∂t + ∂(f p − D ∂p/∂x)/∂x at points, by automatic differentiation, over the size of ∂p/∂t."""
    p = lambda x, t: jnp.asarray(density(x, t)).reshape(())
    flux = lambda x, t: drift(x) * p(x, t) - diffusivity * jax.grad(p)(x, t)
    slopes = jax.jit(lambda x, t: (jax.grad(p, 1)(x, t), jax.grad(flux)(x, t)))
    return np.array([abs(change + out) / abs(change) for change, out in (map(float, slopes(x, t)) for x, t in points)])


D, MU, X0, A = 0.7, -0.9, 0.4, 1.3
DENSITIES = [
    ("heat kernel", lambda x, t: exact.heat_kernel(x, X0, t, D), lambda x: 0.0, D, (-30, 30)),
    ("drifting", lambda x, t: exact.heat_kernel(x, X0, t, D, MU), lambda x: MU, D, (-30, 30)),
    ("OU", lambda x, t: exact.ornstein_uhlenbeck_density(x, X0, t, 2.0, 0.3, D), lambda x: 2 * (0.3 - x), D, (-9, 9)),
    ("Beneš", lambda x, t: exact.benes_density(x, X0, t), jnp.tanh, 0.5, (-20, 20)),
    ("reflected", lambda x, t: exact.reflected_density(x, X0, t, D, MU), lambda x: MU, D, (0, 30)),
    ("reflected upward", lambda x, t: exact.reflected_density(x, X0, t, D, -MU), lambda x: -MU, D, (0, 30)),
    ("reflected, no drift", lambda x, t: exact.reflected_interval_density(x, X0, t, A, D), lambda x: 0.0, D, (0, A)),
    ("two walls", lambda x, t: exact.reflected_interval_density(x, X0, t, A, D, MU), lambda x: MU, D, (0, A)),
    ("absorbed", lambda x, t: exact.absorbed_density(x, X0, t, D, MU), lambda x: MU, D, None),
    ("two exits", lambda x, t: exact.absorbed_interval_density(x, X0, t, A, D, MU), lambda x: MU, D, None),
]


@pytest.mark.parametrize(
    "density, drift, diffusivity, domain", [d[1:] for d in DENSITIES], ids=[d[0] for d in DENSITIES]
)
def test_densities(density, drift, diffusivity, domain):
    points = [(0.2, 0.05), (0.9, 0.3), (0.5, 1.1)]
    assert residual(density, points, drift, diffusivity).max() < 1e-10
    if domain:
        for _, t in points:
            assert quad(density, *domain, args=(t,), points=[X0], epsabs=1e-12, limit=200)[0] == pytest.approx(
                1, abs=1e-10
            )


@pytest.mark.parametrize("mu", [0.0, MU, 5.0])
def test_what_is_absorbed_is_what_leaves(mu):
    inside = lambda t: quad(lambda x: exact.absorbed_interval_density(x, X0, t, A, D, mu), 0, A, epsabs=1e-12)[0]
    for t in (0.05, 0.4):
        left = quad(
            lambda s: sum(exact.exit_density(s, X0, A, D, mu, side=side) for side in ("lower", "upper")), 1e-3, t
        )[0]
        assert inside(t) + left == pytest.approx(1, abs=1e-8)
        assert exact.exit_survival(t, X0, A, D, mu) == pytest.approx(inside(t), abs=1e-10)
        passed = quad(exact.first_passage_density, 0, t, args=(X0, D, mu), epsabs=1e-12)[0]
        half_line = quad(exact.absorbed_density, 0, 30, args=(X0, t, D, mu), epsabs=1e-12, points=[X0])[0]
        assert (
            exact.survival(t, X0, D, mu) == pytest.approx(half_line, abs=1e-10) == pytest.approx(1 - passed, abs=1e-10)
        )


@pytest.mark.slow
def test_exits_are_what_survival_loses_at_all_times_and_drifts():
    """Either is a sum of its own, of images for short times and of modes for long ones."""
    time, place, push = np.meshgrid(np.geomspace(1e-3, 20.0, 60), [1e-3, 0.2, 0.9], [-300.0, -3.0, 0.0, 1.0, 40.0])
    t, start, mu = (jnp.asarray(x.ravel()) for x in (time * A**2 / D, place * A, push * 2 * D / A))
    lost = jax.jit(jax.vmap(jax.grad(lambda t, x, mu: -exact.exit_survival(t, x, A, D, mu))))(t, start, mu)
    exits = sum(exact.exit_density(t, start, A, D, mu, side=side) for side in ("lower", "upper"))
    real = exits > 1e-6 * D / A**2  # below, survival has lost those digits
    np.testing.assert_allclose(lost[real], exits[real], rtol=2e-9)
    assert exact.exit_density(-1.0, X0, A, D, side="lower") == 0 and exact.exit_survival(-1.0, X0, A, D) == 1
    slopes = jax.grad(lambda t, mu: exact.exit_density(t, X0, A, D, mu, side="lower"), (0, 1))(-1.0, -1e4)
    assert slopes == (0.0, 0.0)


def test_mean_exit_time_is_the_integral_of_survival():
    stays = lambda t: quad(lambda x: exact.absorbed_interval_density(x, X0, t, A, D), 0, A, epsabs=1e-12)[0]
    late = 1e-3  # before it, nothing has left to one part in 1e25
    assert late + quad(stays, late, 12, epsabs=1e-10)[0] == pytest.approx(exact.mean_exit_time(X0, A, D), rel=1e-9)


def test_walls_reflect():
    for density, wall in [
        (lambda x: exact.reflected_density(x, X0, 0.3, D, MU), 0.0),
        (lambda x: exact.reflected_interval_density(x, X0, 0.3, A, D, MU), 0.0),
        (lambda x: exact.reflected_interval_density(x, X0, 0.3, A, D, MU), A),
    ]:
        assert MU * density(wall) - D * jax.jit(jax.grad(density))(wall) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "kappa, theta, sigma, start, t",
    [(0.22, 0.07, 0.067, 0.06, 1 / 12), (0.1, 5.0, 0.6, 0.2, 0.25), (2.0, 1.0, 2.5, 0.5, 3.0)],
)
def test_cir_is_normalised_with_its_mean_and_variance(kappa, theta, sigma, start, t):
    """Cox, Ingersoll & Ross 1985, eq. 19; the last case touches zero (2κθ < σ²)."""
    e = np.exp(-kappa * t)
    mean = theta + (start - theta) * e
    variance = sigma**2 / kappa * (start * (e - e**2) + theta / 2 * (1 - e) ** 2)
    top = mean + 60 * np.sqrt(variance)
    # y = x^¼ makes the integrable singularity at zero smooth.
    moment = lambda n: quad(
        lambda y: 4 * y**3 * (y**4 - mean) ** n * np.exp(exact.cir_log_density(y**4, start, t, kappa, theta, sigma)),
        1e-12, top**0.25, points=[mean**0.25], epsabs=1e-13, limit=400,
    )[0]  # fmt: skip
    assert [moment(0), moment(1) / mean, moment(2) / variance] == pytest.approx([1, 0, 1], abs=2e-8)


def test_gibbs_and_kramers():
    edges = np.linspace(-2, 2, 4001)
    x, h = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    energy, noise = (x**2 - 1) ** 2, 0.05
    p = exact.gibbs_density(energy, noise, h)
    assert p @ h == pytest.approx(1, abs=1e-14)
    # The exact mean time from one well across the top, T = (1/D) ∫ e^{U/D} ∫ e^{−U/D}; half of those at the top return.
    inner = np.cumsum(np.exp(-energy / noise) * h)
    half = x < 0
    time = np.sum(np.exp(energy / noise) * inner * h, where=half & (x > -1)) / noise
    assert 1 / (2 * time) == pytest.approx(exact.kramers_rate(8.0, -4.0, 1.0, noise), rel=2 * noise)


# ---- Conduction: the equation inside, and the condition at the wall.

u_robin = lambda x, t: exact.robin_half_space(x, t, D, 1.7, 3.0, 1.0)
u_flux = lambda x, t: exact.flux_half_space(x, t, D, 2.2, 1.0)
K, C = (2.0, 0.5), (1.5, 3.0)
u_step = lambda x, t: exact.two_media_step(x, t, K, C, (1.0, -2.0))


@pytest.mark.parametrize(
    "u, x, diffusivity", [(u_robin, 0.6, D), (u_flux, 0.6, D), (u_step, -0.4, K[0] / C[0]), (u_step, 0.4, K[1] / C[1])]
)
def test_heat_equation(u, x, diffusivity):
    assert residual(u, [(x, 0.3)], lambda x: 0.0, diffusivity).max() < 1e-10


def test_wall_conditions():
    slope = lambda u, x: float(jax.jit(jax.grad(u))(x, 0.3))
    assert D * slope(u_robin, 0.0) == pytest.approx(1.7 * (u_robin(0.0, 0.3) - 3.0), abs=1e-12)
    assert -D * slope(u_flux, 0.0) == pytest.approx(2.2, abs=1e-12)
    left, right = (K[i] * slope(u_step, x) for i, x in ((0, -1e-12), (1, 1e-12)))
    assert left == pytest.approx(right, abs=1e-10)
    assert u_step(-1e-12, 0.3) == pytest.approx(u_step(1e-12, 0.3), abs=1e-10)
    assert [u_step(-50.0, 0.3), u_step(50.0, 0.3), u_robin(50.0, 0.3), u_flux(50.0, 0.3)] == pytest.approx(
        [1, -2, 1, 1]
    )


def test_early_uptake_is_that_of_a_half_space():
    """All geometries start as 2(S/V)√(Dt/π); S/V is 2/l, 2/a, 3/a (Crank 1975, eqs 4.20, 5.24, 6.21)."""
    t = 1e-4
    for geometry, ratio, curvature in [("slab", 2, 0.0), ("cylinder", 2, -1.0), ("sphere", 3, -3.0)]:
        expected = 2 * ratio * np.sqrt(t / np.pi) + curvature * t
        assert exact.uptake(t, 1.0, 1.0, geometry) == pytest.approx(expected, abs=1e-6)


def test_cosine_modes_are_eigenvectors():
    n, length, k = 12, 3.0, 5
    h = length / n
    mode = np.cos(k * np.pi * (np.arange(n) + 0.5) / n)
    laplacian = np.diff(np.diff(mode, prepend=mode[0], append=mode[-1])) / h**2
    np.testing.assert_allclose(D * laplacian, exact.cosine_mode_rate(k, n, length, D) * mode, atol=1e-12)


# ---- One formula, NumPy and JAX; shapes; errors.

SHAPED = [
    (exact.absorbed_interval_density, (0.2, 0.4, 0.1, 1.3, 0.7, 0.5)),
    (exact.reflected_interval_density, (0.2, 0.4, 0.1, 1.3, 0.7, 0.5)),
    (exact.reflected_density, (0.2, 0.4, 0.1, 0.7, 0.5)),
    (exact.cir_log_density, (0.07, 0.06, 0.1, 0.2, 0.07, 0.06)),
    (exact.ornstein_uhlenbeck_density, (0.2, 0.4, 0.1, 1.3, 0.7, 0.5)),
    (exact.benes_density, (0.2, 0.4, 0.1)),
    (exact.survival, (0.2, 0.4, 0.7, 0.5)),
    (exact.robin_half_space, (0.2, 0.4, 0.7, 0.5)),
    (exact.flux_half_space, (0.2, 0.4, 0.7, 0.5)),
    (exact.uptake, (0.2, 0.4, 0.7)),
    (exact.flash_rear_face, (0.2, 0.4, 0.7)),
    (exact.nafems_t3, (0.08, 32.0)),
    (exact.rod_temperature, (10.0, 18.4, 0.0019)),
    (exact.kramers_rate, (8.0, -4.0, 1.0, 0.05)),
]


@pytest.mark.parametrize("function, arguments", SHAPED, ids=[row[0].__name__ for row in SHAPED])
def test_numpy_and_jax_agree(function, arguments):
    plain = function(*arguments)
    assert plain.dtype == np.float64 and not isinstance(plain, jax.Array)
    traced, tangents = jax.jit(lambda *a: (function(*a), jax.jacfwd(function)(*a)))(*map(np.float64, arguments))
    np.testing.assert_allclose(traced, plain, rtol=1e-10)
    many = function(np.full((2, 3), arguments[0]), *arguments[1:])
    assert many.shape == (2, 3)
    np.testing.assert_allclose(many, plain, rtol=1e-12)
    assert np.isfinite(tangents)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: exact.uptake(1.0, 1.0, 1.0, "cube"), "geometry must be 'slab', 'cylinder' or 'sphere', got 'cube'"),
        (lambda: exact.exit_density(1.0, 0.5, 1.0, 1.0, side="left"), "side must be 'lower' or 'upper', got 'left'"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
