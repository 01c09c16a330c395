"""Paths drawn at random, held against closed forms and the solver: within four standard errors, by keys that are fixed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

MANY = 20_000
HALF = jd.Grid.uniform((0.0, 12.0, 600))
BOX = jd.Grid.uniform((-1.0, 1.0, 100))


def drawn(*args, **more):
    return np.asarray(jd.simulate(*args, **more))


def mean_is(values, wanted):
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - wanted) < 4 * error + 1e-6, (values.mean(), wanted, error)


@pytest.mark.slow
def test_moments_of_a_trap():
    k, m, d, times = 1.5, 0.4, 0.7, [0.0, 0.5, 1.3]
    x = drawn(jd.FokkerPlanck(lambda x: k * (m - x), d), -1.0, times, MANY, 1, 32)
    for i, t in enumerate(times[1:], 1):
        mean, variance = m + (-1.0 - m) * np.exp(-k * t), d / k * (1 - np.exp(-2 * k * t))
        mean_is(x[:, i], mean)
        mean_is((x[:, i] - mean) ** 2, variance)
    fading = d / k * (1 - np.exp(-2 * k * 0.5)) * np.exp(-k * 0.8)
    mean_is((x[:, 1] - x[:, 1].mean()) * (x[:, 2] - x[:, 2].mean()), fading)


@pytest.mark.slow
def test_steps_of_constant_diffusivity_are_of_second_order_in_law():
    """Of one linear step after the other mean and variance are known: x ↦ (1 − kΔ + k²Δ²/2) x + (1 − kΔ/2) √(2DΔ) ξ."""
    k, d, t = 1.0, 1.0, 2.0
    trap, errors = jd.FokkerPlanck(lambda x: -k * x, d), []
    for n in (6, 12, 24):
        shrink, noise = 1 - k * t / n + (k * t / n) ** 2 / 2, (1 - k * t / n / 2) ** 2 * 2 * d * t / n
        variance = noise * (1 - shrink ** (2 * n)) / (1 - shrink**2)
        x = drawn(trap, 1.0, [0.0, t], MANY, n, n)[:, 1]
        mean_is(x, shrink**n)
        mean_is((x - shrink**n) ** 2, variance)
        errors.append(abs(variance - d / k * (1 - np.exp(-2 * k * t))))
    assert errors[0] / errors[1] > 3.4 and errors[1] / errors[2] > 3.7


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ito", "stratonovich", "isothermal"])
def test_interpretations(name):
    """A noise that depends on position, against the solver."""
    motion = jd.FokkerPlanck(lambda x: -x, lambda x: 0.3 + 0.2 * jnp.tanh(x), interpretation=name)
    grid = jd.Grid.uniform((-8.0, 8.0, 800))
    p = jd.solve(motion, grid, grid.delta(0.5), [0.0, 1.0]).values[-1]
    x = drawn(motion, 0.5, [0.0, 1.0], MANY, 3, 30)[:, 1]
    mean_is(x, float(grid.integrate(p * grid.centers[0])))
    mean_is(x**2, float(grid.integrate(p * grid.centers[0] ** 2)))


@pytest.mark.slow
def test_diffusion_goes_where_it_is_fast_in_flux_alone():
    """Diffusion(D(x)) is isothermal: what is even between two walls stays so."""
    x = drawn(jd.Diffusion(lambda x: 0.2 + 0.1 * x), lambda x: 0.5, [0.0, 1.0], MANY, 4, 40, grid=BOX)[:, 1]
    mean_is(x, 0.0)
    mean_is(x**2, 1 / 3)


@pytest.mark.slow
@pytest.mark.parametrize("drift", [0.0, -0.5])
def test_one_wall_is_exact_in_one_step(drift):
    start, t, d = 0.8, 1.0, 0.6
    for wall, law in ((jd.absorbing, jd.exact.absorbed_density), (jd.reflecting, jd.exact.reflected_density)):
        x = drawn(jd.FokkerPlanck(drift, d, boundaries={"x-": wall}), start, [0.0, t], MANY, 5, grid=HALF)[:, 1]
        places = np.linspace(0, 12, 4001)
        p = law(places, start, t, d, drift)
        mean_is(1.0 * np.isfinite(x), np.trapezoid(p, places))
        mean_is(np.nan_to_num(x), np.trapezoid(p * places, places))
    sticky = jd.FokkerPlanck(drift, d, boundaries={"x-": jd.Robin(0.9)})
    x = drawn(sticky, start, [0.0, t], MANY, 6, grid=HALF)[:, 1]
    p = jd.solve(sticky, HALF, HALF.delta(start), [0.0, t]).values[-1]
    mean_is(1.0 * np.isfinite(x), float(HALF.integrate(p)))
    mean_is(np.nan_to_num(x), float(HALF.integrate(p * HALF.centers[0])))


@pytest.mark.slow
def test_absorption_is_of_first_order_in_the_step():
    """Down a hill between two walls, with a drift that no step knows exactly. Order ½ would halve the error of five steps in
    twenty."""
    hill = jd.FokkerPlanck(lambda x: 2.0 * x, 0.2, boundaries=jd.absorbing)
    fine = jd.Grid.uniform((-1.0, 1.0, 800))
    exact = float(jd.survival(hill, fine, fine.delta(0.3), [0.0, 1.0])[-1])
    few, more = (np.isfinite(drawn(hill, 0.3, [0.0, 1.0], 200_000, 7, n, grid=BOX)[:, 1]).mean() for n in (5, 20))
    noise = np.sqrt(exact * (1 - exact) / 2e5)
    assert 0.004 < abs(few - exact) and abs(more - exact) < abs(few - exact) / 4 + 2 * noise


@pytest.mark.slow
def test_equilibrium_of_a_double_well_in_the_plane():
    energy, d = (lambda x, y: (x**2 - 1) ** 2 + (y - 0.5 * x) ** 2), 0.4
    grid = jd.Grid.uniform((-2.2, 2.2, 66), (-2.5, 2.5, 66))
    wells = jd.FokkerPlanck(jd.Potential(energy), d)
    p = jd.steady_state(wells, grid)
    x = drawn(wells, lambda x, y: jnp.exp(-energy(x, y) / d), [0.0, 1.0, 2.0], 5_000, 8, 30, grid=grid)
    assert x.shape == (5_000, 3, 2)
    average = lambda f: float(grid.integrate(p * grid.average(f)))
    for f in (lambda x, y: x, lambda x, y: x**2, lambda x, y: x * y, lambda x, y: y**2, lambda x, y: x**4):
        mean_is(f(x[:, 2, 0], x[:, 2, 1]), average(f))


@pytest.mark.slow
def test_a_tensor_is_pushed_back_along_itself():
    """Oblique diffusion between walls, one of which absorbs, against finite volumes."""
    oblique = jd.Diffusion(jd.Tensor([[0.3, 0.15], [0.15, 0.2]]), decay=0.3, boundaries={"x+": jd.absorbing})
    grid = jd.Grid.uniform((0.0, 1.0, 64), (0.0, 1.0, 64))
    p = jd.solve(oblique, grid, grid.delta((0.4, 0.3)), [0.0, 0.4]).values[-1]
    x = drawn(oblique, (0.4, 0.3), [0.0, 0.4], MANY, 9, 16, grid=grid)[:, 1]
    alive = np.isfinite(x[:, 0])
    mean_is(1.0 * alive, float(grid.integrate(p)))
    for k in range(2):
        place = grid.centers[k].reshape((-1, 1) if k == 0 else (1, -1))
        mean_is(np.where(alive, x[:, k], 0.0), float(grid.integrate(p * place)))


@pytest.mark.slow
def test_coefficients_of_time_and_a_ring():
    """A ring that turns at a speed of its own at each time: the first Fourier mode; NumPy's unwrap winds it."""
    ring = jd.Grid.uniform((0.0, 1.0, 50))
    turning = jd.FokkerPlanck(jd.TimeDependent(lambda t: 2.0 * t), 0.05, boundaries=jd.Periodic())
    times = np.linspace(0.0, 1.5, 31)
    x = drawn(turning, 0.25, times, MANY // 4, 10, grid=ring)
    assert x.min() >= 0 and x.max() <= 1
    wave = np.exp(-4 * np.pi**2 * 0.05 * 1.5)
    mean_is(np.cos(2 * np.pi * x[:, -1]), wave * np.cos(2 * np.pi * (0.25 + 2.25)))
    mean_is(np.unwrap(x, period=1.0)[:, -1], 0.25 + 2.25)
    fading = jd.Diffusion(
        jd.PerAxis(1.0, jd.TimeDependent(lambda t: jnp.exp(-t))), decay=jd.Series([0.0, 1.0], [0.0, 1.0])
    )
    y = drawn(fading, np.zeros(2), [0.0, 1.0], MANY, 11, 8)[:, 1]
    mean_is(1.0 * np.isfinite(y[:, 0]), np.exp(-0.5))
    mean_is(y[np.isfinite(y[:, 0]), 1] ** 2, 2 * (1 - np.exp(-1)))


@pytest.mark.slow
def test_a_pulse_shorter_than_a_step():
    """Steps end where a series jumps or bends, of a drift and of a diffusivity."""
    jump = lambda rest: jd.Series([0.0, 0.4, 0.41, 1.0], [rest, 100.0, rest, rest], "previous")
    bend = jd.Series([0.0, 0.4, 0.41, 0.42, 1.0], [0.0, 0.0, 100.0, 0.0, 0.0])
    for push in (jump(0.0), bend):
        x = drawn(jd.FokkerPlanck(push, 0.01), 0.0, [0.0, 0.5, 1.0], MANY, 19)
        mean_is(x[:, 1], 1.0)
        mean_is((x[:, 2] - 1.0) ** 2, 0.02)
    mean_is(drawn(jd.FokkerPlanck(0.0, jump(0.01)), 0.0, [0.0, 1.0], MANY, 20, 3)[:, 1] ** 2, 2 * (1 + 0.0099))


@pytest.mark.slow
def test_births_and_deaths():
    births, t = jd.MasterEquation(lambda n: 6.0, lambda n: 1.5 * n), 0.7
    n = drawn(births, 3, [0.0, 0.3, t], MANY, 12)
    stay = np.exp(-1.5 * t)
    mean_is(n[:, 2], 4 + (3 - 4) * stay)
    mean_is((n[:, 2] - 3 * stay - 4 * (1 - stay)) ** 2, 3 * stay * (1 - stay) + 4 * (1 - stay))
    lost = drawn(births, [3], [0.0, t], MANY, 13, grid=jd.States({"n": 5}))[:, 1]
    p = jd.solve(births, jd.States({"n": 5}), {"n": 3}, [0.0, t]).values[-1]
    for k in range(6):
        mean_is(1.0 * (lost == k), float(p[k]))


@pytest.mark.slow
def test_matrices_and_reactions():
    rates = np.array([[0.0, 2.0, 0.5], [1.0, 0.0, 0.0], [0.3, 1.0, 0.0]])
    from scipy.sparse import csr_matrix

    p = jd.solve(jd.MasterEquation(rates), None, np.array([0.0, 1.0, 0.0]), [0.0, 0.6]).values[-1]
    for given in (rates, csr_matrix(rates)):
        x = drawn(jd.MasterEquation(given), 1, [0.0, 0.6], MANY, 14)[:, 1]
        for k in range(3):
            mean_is(1.0 * (x == k), float(p[k]))
    leaky = rates - np.diag(rates.sum(0) + [0.0, 0.7, 0.0])
    x = drawn(jd.MasterEquation(leaky), lambda n: 1.0 * (n == 1), [0.0, 0.6], MANY, 15, grid=jd.States(3))[:, 1]
    p = jd.solve(jd.MasterEquation(leaky), None, np.array([0.0, 1.0, 0.0]), [0.0, 0.6]).values[-1]
    mean_is(1.0 * np.isfinite(x), float(p.sum()))
    pairs = jd.MasterEquation.from_reactions(
        [
            jd.Reaction({"A": 2}, {"B": 1}, 0.4),
            jd.Reaction({"B": 1}, {"A": 2}, jd.Positive(1.0)),
            jd.Reaction({"A": 1}, {}, lambda A: 0.2 * A),
        ]
    )
    states = jd.States({"A": 6, "B": 3})
    p = jd.solve(pairs, states, {"A": 6}, [0.0, 0.8]).values[-1]
    x = drawn(pairs, {"A": 6}, [0.0, 0.8], MANY, 16)[:, 1]
    a, b = np.arange(7)[:, None], np.arange(4)[None]
    mean_is(x[:, 0], float((p * a).sum()))
    mean_is(x[:, 0] * x[:, 1], float((p * a * b).sum()))


@pytest.mark.slow
def test_a_fit_of_drawn_paths_finds_what_they_were_drawn_from():
    k, d, times = 1.2, 0.5, np.linspace(0.0, 10.0, 101)
    trap, grid = (lambda k, D: jd.FokkerPlanck(lambda x: -k * x, D)), jd.Grid.uniform((-6.0, 6.0, 50))
    x = drawn(trap(k, d), 0.0, times, 8, 17, 10)
    paths = jd.Trajectory(grid, [times] * 8, list(x))
    fit = jd.fit(trap, paths, parameters={"k": jd.Positive(2.0), "D": jd.Positive(1.0)}, progress=False)
    for name, truth in (("k", k), ("D", d)):
        assert abs(fit.parameters[name] - truth) < 3 * fit.standard_errors[name]


@pytest.mark.slow
def test_it_is_traceable_and_repeats_itself():
    pull = lambda k: jd.simulate(jd.FokkerPlanck(lambda x: -k * x, 1.0), 0.5, [0.0, 1.0], 200, 18, 20).mean(0)[1]
    both = jax.vmap(pull)(jnp.array([1.0, 2.0]))
    assert float(jax.jit(pull)(1.0)) == pytest.approx(float(both[0]), abs=1e-12)
    assert both[0] == pytest.approx(float(pull(1.0)), abs=1e-12)
    slope = float(jax.grad(pull)(1.0))
    assert slope == pytest.approx(float(pull(1.0 + 1e-5) - pull(1.0 - 1e-5)) / 2e-5, rel=1e-5)


brownian = jd.FokkerPlanck(0.0, 1.0)
ages = jd.MasterEquation([1.0, 1.0], [0.0, 1.0])
REFUSED = {
    "no grid for walls": (lambda: jd.simulate(jd.FokkerPlanck(0.0, 1.0, boundaries=jd.absorbing), 0.0, [0, 1], 5, 0), "pass grid="),
    "a wall that lets in": (lambda: jd.simulate(jd.Diffusion(1.0, boundaries=jd.Dirichlet(1.0)), 0.0, [0, 1], 5, 0, grid=BOX), "got Dirichlet"),
    "surroundings": (lambda: jd.simulate(jd.Diffusion(1.0, boundaries=jd.Robin(1.0, 2.0)), 0.0, [0, 1], 5, 0, grid=BOX), "got Robin"),
    "a slope": (lambda: jd.simulate(jd.Diffusion(1.0, boundaries=jd.Neumann()), 0.0, [0, 1], 5, 0, grid=BOX), "write jd.reflecting"),
    "a source": (lambda: jd.simulate(jd.Diffusion(1.0, source=1.0), 0.0, [0, 1], 5, 0), "got a source"),
    "phases": (lambda: jd.simulate(jd.Diffusion(1.0, exchange=[jd.Exchange(1.0, 1.0)]), 0.0, [0, 1], 5, 0), "leave exchange out"),
    "growth": (lambda: jd.simulate(jd.Diffusion(1.0, decay=-1.0), 0.0, [0, 1], 5, 0), "killing, or the rate of a wall, is -1"),
    "a negative diffusivity": (lambda: jd.simulate(jd.FokkerPlanck(0.0, lambda x: -1.0), 0.0, [0, 1], 5, 0), "the diffusivity is -1"),
    "a step beyond the walls": (lambda: jd.simulate(brownian, 0.0, [0, 1], 5, 0, grid=BOX), "a step wanders 0.707.* take more substeps"),
    "a step too steep": (lambda: jd.simulate(jd.FokkerPlanck(lambda x: -(x**5), 1.0), 9.0, np.arange(9.0), 5, 0), "no number after time"),
    "a stiff drift": (lambda: jd.simulate(jd.FokkerPlanck(lambda x: -10.0 * x, 1.0), 0.0, np.arange(4.0), 50, 0), "too long for the drift, which turns"),
    "no key": (lambda: jd.simulate(brownian, 0.0, [0, 1], 5, None), "key must be one of jax.random.key"),
    "a jump of D": (lambda: jd.simulate(jd.Diffusion(lambda x: jnp.where(x < 0.3, 1.0, 2.0)), 0.0, [0, 1], 5, 0, 99, grid=BOX), "jumps near x = 0.3"),
    "a mask": (lambda: jd.simulate(brownian, 0.0, [0, 1], 5, 0, grid=jd.Grid.uniform((0, 1, 4), mask=np.arange(4) < 3)), "narrow the grid"),
    "a radius": (lambda: jd.simulate(brownian, 0.5, [0, 1], 5, 0, grid=jd.Grid.radial((0, 1, 4), geometry="spherical")), "Cartesian"),
    "states": (lambda: jd.simulate(brownian, 0, [0, 1], 5, 0, grid=jd.States(3)), "take a jd.Grid"),
    "a wave": (lambda: jd.simulate(jd.Schrodinger(0.0), 0.0, [0, 1], 5, 0), "takes jd.Diffusion or jd.FokkerPlanck"),
    "outside": (lambda: jd.simulate(brownian, 3.0, [0, 1], 5, 0, grid=BOX), "outside the grid"),
    "two points or one": (lambda: jd.simulate(brownian, [0.0, 1.0], [0, 1], 2, 0), "2 points of one; pass grid="),
    "points of other paths": (lambda: jd.simulate(brownian, np.zeros((4, 2)), [0, 1], 5, 0), r"got shape \(4, 2\)"),
    "a density nowhere": (lambda: jd.simulate(brownian, lambda x: 1.0, [0, 1], 5, 0), "wants the cells"),
    "times": (lambda: jd.simulate(brownian, 0.0, [1, 0], 5, 0), "increasing numbers"),
    "paths": (lambda: jd.simulate(brownian, 0.0, [0, 1], 0, 0), "paths must be a whole number"),
    "substeps of jumps": (lambda: jd.simulate(ages, 0, [0, 1], 5, 0, 3), "jumps are drawn one by one"),
    "rates of time": (lambda: jd.simulate(jd.MasterEquation(jd.TimeDependent(lambda t: t), lambda n: n), 0, [0, 1], 5, 0), "constant in time"),
    "beyond the rates": (lambda: jd.simulate(ages, 0, [0, 50], 9, 0), "beyond the last count that rates are given for, 1"),
    "half a count": (lambda: jd.simulate(ages, 0.5, [0, 1], 5, 0), "whole numbers from zero up"),
    "a negative rate": (lambda: jd.simulate(jd.MasterEquation(lambda n: -1.0, lambda n: n), 0, [0, 1], 5, 0), "sum to -1"),
    "a species": (lambda: jd.simulate(ages, {"m": 1}, [0, 1], 5, 0), "no species 'm'"),
    "an array without cells": (lambda: jd.simulate(jd.FokkerPlanck(np.zeros(4), np.ones(4)), 0.0, [0, 1], 5, 0), "pass grid="),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_paths_is_refused_in_one_line(case):
    call, words = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=words) as raised:
        call()
    assert "\n" not in str(raised.value)
