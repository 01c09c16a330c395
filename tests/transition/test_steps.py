"""Densities of steps on several axes, or with coefficients of time, against closed forms and matrices; what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm
from scipy.stats import multivariate_normal, norm

import jaxdiff as jd
from jaxdiff.measurements.paths_predictor import _knots, dynamics_of
from jaxdiff.transition import steps

WIDE = jd.Grid.uniform((-40.0, 40.0, 4), (-40.0, 40.0, 4))
LINE = jd.Grid.uniform((-200.0, 200.0, 4))


def planned(equation, grid, times, positions):
    """Log densities in NumPy, which compile little; and the blocks of the plan."""
    path = jd.Trajectory(grid, times, positions)
    plan, (dynamics, _) = path.prepare(equation).plan, dynamics_of(path, equation)
    knots = np.append(np.asarray(_knots(equation)), np.inf)
    values = [steps._of_block(np, dynamics, block, plan, knots) for block in plan.blocks]
    return np.concatenate(values)[plan.order], plan.blocks


def evaluated(model, path):
    """A compiled function of the parameters, to (log densities, whether they are resolved)."""

    @jax.jit
    def call(z, predictor):
        found = predictor.predict(model(*z), None)
        return found.values, found.resolved

    return call


class Chain:
    """p(x₁, t | x₀) of dX = f dt + √(2D) dW on one axis, of a fine walk between cells, by the exponential of its rates."""

    def __init__(self, drift, diffusivity, t, width=3.2, cells=480):
        self.x, self.h = (np.arange(cells) + 0.5) * 2 * width / cells - width, 2 * width / cells
        up, down = (diffusivity(self.x) / self.h**2 + sign * drift(self.x) / (2 * self.h) for sign in (1, -1))
        assert up.min() >= 0 and down.min() >= 0
        rates = np.diag(up[:-1], -1) + np.diag(down[1:], 1)
        self.p = expm(t * (rates - np.diag(rates.sum(0)))) / self.h

    def path(self, count, rng, start=0.0):
        cells = [int(np.argmin(abs(self.x - start)))]
        for _ in range(count):
            cells.append(int(rng.choice(len(self.x), p=self.p[:, cells[-1]] * self.h)))
        return np.array(cells)


def log_p(chain, cells):
    return np.log(chain.p[cells[1:], cells[:-1]])


def turning(k, omega, D1, D2):
    return jd.FokkerPlanck(lambda x, y: (-k * x + omega * y, -omega * x - k * y), jd.PerAxis(D1, D2))


@pytest.mark.slow
def test_a_turning_trap_is_exact():
    """At irregular times; its gradient; and the plan knows where it ends."""
    rng, z = np.random.default_rng(0), np.array([1.0, 2.0, 0.5, 0.3])
    A, times = -np.array([[1.0, -2.0], [2.0, 1.0]]), np.cumsum(rng.choice([0.05, 0.2, 0.3], 80))
    rest = np.linalg.solve(np.kron(A, np.eye(2)) + np.kron(np.eye(2), A), -2 * np.diag(z[2:]).ravel()).reshape(2, 2)
    x, exact = np.zeros((80, 2)), []
    for i, h in enumerate(np.diff(times)):
        G = expm(A * h)
        law = multivariate_normal(G @ x[i], rest - G @ rest @ G.T)
        x[i + 1] = law.rvs(random_state=rng)
        exact.append(law.logpdf(x[i + 1]))
    path = jd.Trajectory(WIDE, times, x)
    predictor, call = path.prepare(turning(*z)), evaluated(turning, path)
    assert {block.pieces for block in predictor.plan.blocks} == {1}
    values, resolved = call(z, predictor)
    assert resolved
    np.testing.assert_allclose(values, exact, rtol=0, atol=1e-10)
    assert not call(z * [1, 1, 3, 1], predictor)[1]
    assert not call(z * [3, 1, 1, 1], predictor)[1]
    slope = jax.jit(jax.grad(lambda z: call(z, predictor)[0].sum()))(z)
    for k in range(4):
        e = 1e-5 * np.eye(4)[k]
        difference = (call(z + e, predictor)[0].sum() - call(z - e, predictor)[0].sum()) / 2e-5
        assert abs(difference - slope[k]) < 1e-7 * max(1.0, abs(slope[k]))


WELL, TURN = (lambda x: 2 * (x - x**3)), np.array([[np.cos(0.6), -np.sin(0.6)], [np.sin(0.6), np.cos(0.6)]])


def turned_wells(x, y):
    """Two independent coordinates in axes that are turned, so that these know of each other."""
    u, v = TURN.T[0, 0] * x + TURN.T[0, 1] * y, TURN.T[1, 0] * x + TURN.T[1, 1] * y
    f, g = 2 * (u - u**3), -1.5 * v
    return TURN[0, 0] * f + TURN[0, 1] * g, TURN[1, 0] * f + TURN[1, 1] * g


@pytest.mark.slow
@pytest.mark.parametrize(
    ("h", "pieces", "mean", "most"), [(0.02, 1, 0.01, 0.1), (0.1, 2, 0.006, 0.06), (0.3, 2, 0.06, 0.6)]
)
def test_wells_that_are_turned(h, pieces, mean, most):
    rng, chains = np.random.default_rng(1), [Chain(f, lambda x: 0.4 + 0 * x, h) for f in (WELL, lambda x: -1.5 * x)]
    cells = [chain.path(150, rng) for chain in chains]
    u = np.stack([chain.x[i] for chain, i in zip(chains, cells, strict=True)], 1)
    found, (block,) = planned(jd.FokkerPlanck(turned_wells, 0.4), WIDE, h * np.arange(151), u @ TURN.T)
    error = found - sum(map(log_p, chains, cells))
    assert block.pieces == pieces
    assert np.mean(abs(error)) < mean and np.max(abs(error)) < most


@pytest.mark.slow
def test_a_step_beyond_all_pieces_is_refused():
    rng = np.random.default_rng(2)
    x = np.stack([rng.choice([-1.0, 1.0], 60) + 0.4 * rng.normal(size=60), rng.normal(size=60)], 1)
    with pytest.raises(ValueError, match=r"steps as long as that from time .* are not resolved by .* shorter steps"):
        jd.Trajectory(WIDE, 2.0 * np.arange(60), x).prepare(jd.FokkerPlanck(turned_wells, 0.4))


@pytest.mark.slow
def test_bridges_compiled_are_those_of_the_host_with_an_exact_gradient():
    z, h = np.array([2.0, 0.4]), 0.25
    model = lambda a, D: jd.FokkerPlanck(lambda x, y: (a * (x - x**3) - 0.7 * y, -1.5 * y - 0.7 * x), D)
    x = np.asarray(jd.simulate(model(*z), np.array([0.9, -0.4]), h * np.arange(61), 1, 1, substeps=50))[0]
    path = jd.Trajectory(WIDE, h * np.arange(61), x)
    predictor, call = path.prepare(model(*z)), evaluated(model, path)
    (block,) = predictor.plan.blocks
    assert block.pieces == 2 and block.share is not None
    values, resolved = call(z, predictor)
    assert resolved
    np.testing.assert_allclose(values, planned(model(*z), WIDE, path.times[0], x)[0], rtol=0, atol=1e-9)
    slope = jax.jit(jax.jacfwd(lambda z: call(z, predictor)[0].sum()))(z)
    for k in range(2):
        e = 1e-5 * np.eye(2)[k]
        difference = (call(z + e, predictor)[0].sum() - call(z - e, predictor)[0].sum()) / 2e-5
        assert abs(difference - slope[k]) < 1e-7 * max(1.0, abs(slope[k]))


@pytest.mark.parametrize(("h", "curve", "mean"), [(0.05, 1.0, 0.05), (0.2, 1.0, 0.05), (0.02, 4.0, 0.1)])
def test_a_diffusivity_of_place(h, curve, mean):
    rng, D = np.random.default_rng(4), lambda x: 0.1 * (1 + curve * x**2)
    chain = Chain(lambda x: -x, D, h)
    cells = chain.path(150, rng, 0.5), chain.path(150, rng, -0.5)
    equation = jd.FokkerPlanck(lambda x, y: (-x, -y), jd.PerAxis(lambda x, y: D(x), lambda x, y: D(y)))
    found, _ = planned(equation, WIDE, h * np.arange(151), np.stack([chain.x[i] for i in cells], 1))
    error = found - sum(log_p(chain, i) for i in cells)
    assert np.mean(abs(error)) < mean and np.max(abs(error)) < 0.6


def in_box(kinds, a, b, s, width=1.0):
    """p of free diffusion between walls at 0 and `width`, s² = 2Dt, by images."""
    if kinds[0] == "periodic":
        return sum(norm.pdf(b, a + n * width, s) for n in range(-40, 41))
    sign = [{"reflecting": 1, "absorbing": -1}[kind] for kind in kinds]
    total = 0.0
    for n in range(-40, 41):
        other = sign[0] if n <= 0 else sign[1] * sign[0] * sign[1]
        both = (sign[0] * sign[1]) ** abs(n)
        total = total + both * (norm.pdf(b, a + 2 * n * width, s) + other * norm.pdf(b, -a + 2 * n * width, s))
    return total


@pytest.mark.slow
@pytest.mark.parametrize("h", [1e-4, 0.01, 0.1, 0.5])
def test_walls(h):
    """Three axes, each with walls of its own, from clear of them to steps as long as the box is wide."""
    rng, n = np.random.default_rng(5), 80
    x = rng.uniform(0.02, 0.98, (n + 1, 3))
    if h < 1e-3:
        x = 0.5 + 0.45 * np.sin(np.cumsum(rng.normal(0, 0.02, (n + 1, 3)), 0))
    sides = {
        "x-": jd.reflecting,
        "x+": jd.absorbing,
        "y-": jd.Periodic(),
        "y+": jd.Periodic(),
        "z-": jd.absorbing,
        "z+": jd.absorbing,
    }
    kinds = ("reflecting", "absorbing"), ("periodic",) * 2, ("absorbing",) * 2
    D = (0.5, 0.2, 0.3)
    grid = jd.Grid.uniform(*[(0.0, 1.0, 4)] * 3)
    found, _ = planned(jd.Diffusion(jd.PerAxis(*D), boundaries=sides), grid, h * np.arange(n + 1), x)
    exact = sum(np.log(in_box(kinds[k], x[:-1, k], x[1:, k], np.sqrt(2 * D[k] * h))) for k in range(3))
    np.testing.assert_allclose(found, exact, rtol=0, atol=2e-6)


def test_a_drift_into_a_reflecting_wall():
    """A number is exact (Smoluchowski)."""
    rng, v, D, h, n = np.random.default_rng(6), -1.5, 0.5, 0.05, 100
    x = np.abs(rng.exponential(0.3, (n + 1, 2))) + 0.01
    grid = jd.Grid.uniform((0.0, 60.0, 4), (-60.0, 60.0, 4))
    found, _ = planned(jd.FokkerPlanck((v, 0.0), D), grid, h * np.arange(n + 1), x)
    a, b, s = x[:-1, 0], x[1:, 0], np.sqrt(2 * D * h)
    law = norm.pdf(b, a + v * h, s) + np.exp(-v * a / D) * norm.pdf(b + a - v * h, 0, s)
    law = law - v / D * np.exp(v * b / D) * norm.sf((a + b + v * h) / s)
    exact = np.log(law) + norm.logpdf(x[1:, 1], x[:-1, 1], s)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_killing_that_is_quadratic_is_exact():
    """Of k = x² c the propagator is that of a quantum oscillator (Mehler)."""
    rng, h, c, n = np.random.default_rng(7), 0.4, 1.5, 50
    x = rng.normal(0, 0.5, (n + 1, 2))
    found, _ = planned(jd.Diffusion(0.5, decay=lambda x, y: c * x**2 + 0.3), WIDE, h * np.arange(n + 1), x)
    w, (a, b) = np.sqrt(2 * c), (x[:-1, 0], x[1:, 0])  # H = −½∂² + ½w²x²
    sinh, cosh = np.sinh(w * h), np.cosh(w * h)
    exact = 0.5 * np.log(w / (2 * np.pi * sinh)) - w / (2 * sinh) * ((a**2 + b**2) * cosh - 2 * a * b) - 0.3 * h
    np.testing.assert_allclose(found, exact + norm.logpdf(x[1:, 1], x[:-1, 1], np.sqrt(h)), rtol=0, atol=1e-8)


@pytest.mark.slow
def test_a_trap_that_moves():
    rng, h, n = np.random.default_rng(8), 0.3, 120
    t, x = h * np.arange(n + 1), rng.normal(0, 0.5, n + 1)
    moving = jd.FokkerPlanck(jd.TimeDependent(lambda t, x: 2 * (jnp.sin(t) - x)), 0.5)
    found, (block,) = planned(moving, LINE, t, x)
    at = lambda t: 2 * (2 * np.sin(t) - np.cos(t)) / 5
    mean, deviation = (x[:-1] - at(t[:-1])) * np.exp(-2 * h) + at(t[1:]), np.sqrt(0.25 * (1 - np.exp(-4 * h)))
    np.testing.assert_allclose(found, norm.logpdf(x[1:], mean, deviation), rtol=0, atol=1e-7)
    assert block.pieces == 1


@pytest.mark.parametrize("how", ["series", "expression", "hidden"])
def test_a_volatility_that_jumps_within_a_step(how):
    """Known jumps cut steps; those inside a Python function are met by short parts, or refused."""
    rng, h, n = np.random.default_rng(9), 0.3, 120
    t, x = h * np.arange(n + 1), np.cumsum(rng.normal(0, 0.4, n + 1))
    D = {
        "series": jd.Series([0.0, 10.0, 1000.0], [0.5, 0.1, 0.1], "previous"),
        "expression": jd.TimeDependent(jd.Expression("where(t < 10, 0.5, 0.1)")),
        "hidden": jd.TimeDependent(lambda t: jnp.where(t < 10, 0.5, 0.1)),
    }[how]
    twice = 2 * np.diff(np.where(t < 10, 0.5 * t, 5 + 0.1 * (t - 10)))
    found, _ = planned(jd.FokkerPlanck(0.0, D), LINE, t, x)
    error = abs(found - norm.logpdf(np.diff(x), 0, np.sqrt(twice)))
    assert np.max(error) < (0.05 if how == "hidden" else 1e-7)


NOTHING = {
    "zero": (lambda: jd.FokkerPlanck((0.0, 0.0), jd.PerAxis(1.0, 0.0)), "a diffusivity above zero along all axes, got"),
    "no number": (lambda: jd.FokkerPlanck(lambda x, y: (jnp.log(-1 - x**2), y), 1.0), "a finite drift"),
    "walls": (
        lambda: jd.Diffusion(1.0, boundaries=jd.Robin(1.0)),
        "walls that reflect, absorb or are periodic, got Robin",
    ),
    "source": (lambda: jd.Diffusion(1.0, source=1.0), "got a source"),
    "components": (lambda: jd.FokkerPlanck((1.0, 2.0, 3.0), 1.0), "a drift on 2 axes has 2 components, got 3"),
    "huge": (lambda: jd.FokkerPlanck(lambda x, y: (1e308 * x, y), 1.0), "times faster than steps of the path"),
}


@pytest.mark.parametrize(("equation", "message"), NOTHING.values(), ids=NOTHING)
def test_what_has_no_paths_is_refused(equation, message):
    path = jd.Trajectory(WIDE, np.arange(4.0), [[0.0, 1.0], [1.0, 1.5], [0.5, 1.0], [0.0, 0.2]])
    with pytest.raises(ValueError, match=message) as caught:
        path.prepare(equation())
    assert "\n" not in str(caught.value)


def test_ways_round_that_cannot_be_told_apart_are_refused():
    ring = jd.Grid.uniform((0.0, 1.0, 4), (0.0, 1.0, 4))
    path = jd.Trajectory(ring, [0.0, 9.0], [[0.2, 0.2], [0.3, 0.4]])
    with pytest.raises(ValueError, match="may go round a periodic axis more than"):
        path.prepare(jd.Diffusion(1.0, boundaries=jd.Periodic()))
