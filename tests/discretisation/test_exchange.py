"""Phases that do not move, against matrices written out, Laplace transforms and what is conserved."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import each_way
from scipy.linalg import expm

import jaxdiff as jd
from jaxdiff.discretisation.schemes import FiniteVolume, semidiscrete

TIMES = np.array([0.0, 0.1, 1.0, 10.0])
LINE = jd.Grid.uniform((0.0, 1.0, 30))
HUMP = np.exp(-50 * (LINE.centers[0] - 0.3) ** 2)


def with_phases(motion, rates):
    """The matrix of a mobile one (n, n) beside phases of rates (in, out)."""
    n, one = len(motion), np.eye(len(motion))
    whole = np.zeros(((len(rates) + 1) * n,) * 2)
    whole[:n, :n] = motion - sum(a for a, _ in rates) * one
    for j, (a, b) in enumerate(rates, 1):
        own = slice(j * n, (j + 1) * n)
        whole[own, :n], whole[:n, own], whole[own, own] = a * one, b * one, -b * one
    return whole


@pytest.mark.slow
def test_rates_from_nothing_to_stiff_hold_what_a_matrix_gives_and_their_gradients_differences():
    n, hop = 30, 0.01 * 30**2
    motion = np.diag(np.full(n - 1, hop), 1) + np.diag(np.full(n - 1, hop), -1)
    motion -= np.diag(motion.sum(0)) + np.diag(2 * hop * (np.arange(n) == n - 1))  # open at the upper end
    start = np.concatenate([HUMP, np.zeros(2 * n)])
    rates = np.array([(0.8, 0.4), (1e3, 1.0), (1e-6, 1e3), (5.0, 0.0), (0.0, 3.0), (1e6, 1e6)])

    def states(a, b, D=0.01):
        exchange = [jd.Exchange(a, b), jd.Exchange(0.3, 0.1)]
        equation = jd.Diffusion(D, exchange=exchange, boundaries={"x+": jd.absorbing})
        return jd.solve(equation, LINE, HUMP, TIMES).values

    found = jax.jit(jax.vmap(states))(*rates.T)
    for (a, b), values in zip(rates, found, strict=True):
        exact = [expm(t * with_phases(motion, [(a, b), (0.3, 0.1)])) @ start for t in TIMES]
        roundoff = 3e-16 * max(a, b)  # of the matrix, mostly
        np.testing.assert_allclose(values.reshape(4, -1), exact, rtol=0, atol=1e-11 + roundoff)

    every, at = jax.jit(partial(each_way, lambda x: states(*x)[2, [0, 1], [5, 9]].sum())), np.array([0.8, 0.4, 0.01])
    _, backwards, forwards = every(at)
    np.testing.assert_allclose(backwards, forwards, rtol=1e-10)
    steps = 1e-3 * np.diag(at)
    both = np.array([every(x)[0] for x in (*(at + steps), *(at - steps), *(at + 2 * steps), *(at - 2 * steps))])
    one, two = ((both[6 * k : 6 * k + 3] - both[6 * k + 3 : 6 * k + 6]) / (2 * (k + 1) * 1e-3 * at) for k in range(2))
    np.testing.assert_allclose(backwards, (4 * one - two) / 3, rtol=1e-7)


@pytest.mark.slow
def test_in_modes_rates_from_nothing_to_stiff_hold_what_a_matrix_gives_and_their_gradients_differences():
    grid, hop, n = jd.Grid.uniform((0.0, 1.0, 4), (0.0, 1.0, 4)), 0.1 * 4**2, 16
    line = hop * (np.roll(np.eye(4), 1, 0) + np.roll(np.eye(4), -1, 0) - 2 * np.eye(4))
    closed = line + hop * np.diag([1, 0, 0, 1])
    closed[0, 3] = closed[3, 0] = 0.0
    motion, u = np.kron(line, np.eye(4)) + np.kron(np.eye(4), closed), np.add.outer(HUMP[5:9], np.arange(4.0))
    rates = np.array([(0.8, 0.4), (1e-6, 1e3), (5.0, 0.0), (0.0, 3.0), (0.3, 0.1), (0.0, 0.0), (1e6, 1e6)])

    def states(a, b, D=0.1):
        exchange = [jd.Exchange(a, b), jd.Exchange(0.3, 0.1)]
        equation = jd.Diffusion(D, source=0.5, boundaries={"x": jd.Periodic()}, exchange=exchange)
        return jd.solve(equation, grid, u, TIMES).values

    def total(values):
        return values[..., 2, 0, 1, 2] + values[..., 2, 1, 3, 1]

    at, step = np.array([0.8, 0.4, 0.1]), 1e-4
    each = np.concatenate([np.column_stack([rates, np.full(7, 0.1)]), at + step * np.eye(3), at - step * np.eye(3)])
    *found, up, down = np.split(jax.jit(jax.vmap(states))(*each.T), [1, 2, 3, 4, 5, 6, 7, 10])
    for (a, b), values in zip(rates, found, strict=True):
        whole = np.zeros((3 * n + 1,) * 2)
        whole[:-1, :-1], whole[:n, -1] = with_phases(motion, [(a, b), (0.3, 0.1)]), 0.5
        exact = [(expm(t * whole) @ np.concatenate([u.ravel(), np.zeros(2 * n), [1.0]]))[:-1] for t in TIMES]
        peak = np.abs(exact).max() * (1 + 1e-3 * max(a, b))  # by roundoff of the matrix, mostly
        np.testing.assert_allclose(values.reshape(4, -1), exact, rtol=0, atol=1e-12 * peak)

    slope = jax.jit(jax.grad(lambda x: total(states(*x))))(at)
    np.testing.assert_allclose(slope, (total(up) - total(down)) / (2 * step), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "motion",
    [
        jd.Diffusion(0.1, capacity=0.4, boundaries={"x-": jd.Robin(1.0, 2.0)}),
        jd.FokkerPlanck((1.0, -0.5), 0.1),
    ],
    ids=["at walls", "drift"],
)
def test_on_two_axes_they_hold_what_a_matrix_gives(motion):
    grid, rates = jd.Grid.uniform((0.0, 1.0, 6), (0.0, 2.0, 5)), [(0.8, 0.4), (3.0, 0.0)]
    system = semidiscrete(motion, grid, FiniteVolume())[0]
    operator, n = system.operator(0.0), 30
    matrix = np.stack([(operator @ jnp.asarray(e.reshape(6, 5))).ravel() for e in np.eye(n)], 1)
    capacity = float(getattr(motion, "capacity", 1.0))
    whole = np.zeros((3 * n + 1,) * 2)
    whole[:-1, :-1] = with_phases(matrix, rates)
    whole[n:-1, :n] /= capacity
    whole[:n, :n] += sum(a for a, _ in rates) * (1 - 1 / capacity) * np.eye(n)
    whole[:n, -1] = system.forcing(0.0).ravel()
    weights = np.concatenate([np.ravel(system.weights), *[np.ravel(grid.volumes)] * 2])
    u = np.add.outer(HUMP[:6], np.arange(5.0))
    start = np.concatenate([u.ravel() * weights[:n], np.zeros(2 * n), [1.0]])
    exchanged = exchanging(motion, [jd.Exchange(*pair) for pair in rates])
    values = jd.solve(exchanged, grid, u, TIMES).values
    for t, state in zip(TIMES, values, strict=True):
        exact = (expm(t * whole) @ start)[:-1] / weights
        np.testing.assert_allclose(state.ravel(), exact, rtol=0, atol=3e-10 * np.abs(exact).max())


@pytest.mark.slow
def test_growth_that_the_phases_hold_back_costs_no_digits():
    """Alone it would grow by e¹⁰⁰; what binds it leaves e^1.1. In modes and at walls, beside a matrix of one cell."""
    grid = jd.Grid.uniform((0.0, 1.0, 6), (0.0, 1.0, 5))
    exact = expm(10.0 * np.array([[10.0 - 100.0, 1.0], [100.0, -1.0]]))[:, 0]
    for where in (grid, LINE):
        growing = jd.Diffusion(0.1, decay=-10.0, exchange=[jd.Exchange(100.0, 1.0)])
        values = jd.solve(growing, where, 1.0, [0.0, 10.0]).values[-1]
        np.testing.assert_allclose(values.reshape(2, -1), np.tile(exact[:, None], where.volumes.size), rtol=1e-8)


def exchanging(equation, exchange):
    names = ("diffusivity", "drift", "source", "capacity", "boundaries")
    given = {name: getattr(equation, name) for name in names if hasattr(equation, name)}
    return type(equation)(**given, exchange=exchange)


def extrapolated(values):
    coarse, fine = (np.asarray(values(n)) for n in (1, 2))
    return (4 * fine - coarse) / 3


@pytest.mark.slow
def test_recovery_after_bleaching_with_binding():
    """Sprague et al. 2004, doi:10.1529/biophysj.103.026765, by their Laplace transform; D = w = 1."""
    into, back, times = 0.8, 0.4, np.array([0.1, 0.5, 2.0, 5.0])
    free = back / (into + back)

    def recovery(n):
        edges = np.concatenate([np.linspace(0, 4, 64 * n + 1), np.geomspace(4, 40, 50 * n + 1)[1:]])
        grid = jd.Grid(edges=(edges,), geometry="cylindrical")
        equation = jd.Diffusion(1.0, exchange=[jd.Exchange(into, back, start="equilibrium")])
        spot = jd.Readings(grid, lambda r: jnp.where(r < 1.0, 0.0, free), times, jd.Mean(0.0, 1.0), np.zeros(4))
        return spot.prepare(equation, spot.initial).predict(equation, spot.initial).values[:4]

    exact = [0.11898558, 0.25948600, 0.50099176, 0.74196503]
    np.testing.assert_allclose(extrapolated(recovery), exact, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_two_regions_behind_an_inlet():
    """van Genuchten & Wierenga 1976: v = 1, D = 0.05, in 0.5, out 0.3; resident in the mobile region at 1."""

    def resident(n):
        grid = jd.Grid.uniform((0.0, 12.0, 600 * n))
        exchange, inlet = [jd.Exchange(0.5, 0.3)], {"x-": jd.Flux(-1.0)}
        column = jd.FokkerPlanck(1.0, 0.05, exchange=exchange, boundaries=inlet)
        values = jd.solve(column, grid, 0.0, [0.0, 0.5, 1.0, 2.0, 4.0]).values
        return [float(grid.interpolate(u, 1.0)) for u in values[1:, 0]]

    exact = [0.00875135, 0.34199572, 0.66826559, 0.79064786]
    np.testing.assert_allclose(extrapolated(resident), exact, rtol=0, atol=5e-6)


@pytest.mark.slow
def test_at_rest_phases_are_in_balance_and_hold_what_there_was():
    exchange = [jd.Exchange(0.8, 0.4), jd.Exchange(lambda x: 1.0 + x, 2.0)]
    rest = jd.steady_state(jd.Diffusion(0.1, exchange=exchange), LINE, HUMP)
    np.testing.assert_allclose(LINE.integrate(rest.sum(0)), LINE.integrate(HUMP), rtol=1e-12)
    np.testing.assert_allclose(rest[1] / rest[0], 2.0, rtol=1e-12)
    np.testing.assert_allclose(rest[2] / rest[0], (1 + LINE.centers[0]) / 2, rtol=1e-12)
    late = jd.solve(jd.Diffusion(0.1, exchange=exchange), LINE, HUMP, [0.0, 1e3]).values[-1]
    np.testing.assert_allclose(late, rest, rtol=1e-9)
    apart = jnp.where(LINE.centers[0] < 0.5, 1.0, 0.0)
    equation = jd.Diffusion(0.1, exchange=[jd.Exchange(apart, apart)])
    whole = np.stack([HUMP, np.ones(30)])
    rest = jd.steady_state(equation, LINE, whole)
    np.testing.assert_allclose(rest, jd.solve(equation, LINE, whole, [0.0, 1e3]).values[-1], rtol=1e-9)
    np.testing.assert_array_equal(rest[1, 15:], 1.0)  # what neither takes nor lets go
    uneven = jd.Diffusion(0.1, capacity=1 + LINE.centers[0], exchange=[jd.Exchange(1.0, 0.5), jd.Exchange(2.0, 0.5)])
    rest = jd.steady_state(uneven, LINE, 1.0)
    np.testing.assert_allclose(rest, np.tile(np.array([[1.0], [2.0], [4.0]]) * 1.5 / 7.5, 30), rtol=1e-9)
    with pytest.raises(ValueError, match="phase 1 keeps what it catches"):
        jd.steady_state(jd.Diffusion(0.1, exchange=[jd.Exchange(1.0, 0.0)]), LINE, HUMP)


@pytest.mark.slow
def test_rates_are_fitted_to_what_is_seen_of_one_phase():
    times, places = np.repeat(np.linspace(0.05, 3.0, 12), 3), np.tile([0.1, 0.5, 0.9], 12)
    start = lambda x: jnp.exp(-30 * (x - 0.5) ** 2)
    model = lambda D, a, b: jd.Diffusion(D, exchange=[jd.Exchange(a, b)])
    truth = {"D": 0.05, "a": 2.0, "b": 1.0}
    empty = jd.Readings(LINE, start, times, places, np.zeros(36), sigma=1e-3, phase=1)
    bound = empty.prepare(model(**truth), start).predict(model(**truth), start).values[:36]
    readings = jd.Readings(LINE, start, times, places, bound, sigma=1e-3, phase=1)
    starts = {name: jd.Positive(2 * value) for name, value in truth.items()}
    fit = jd.fit(model, readings, parameters=starts, progress=False)
    for name, value in truth.items():
        assert abs(fit.parameters[name] - value) < 0.05 * fit.standard_errors[name]
    total = fit.predict(jd.Readings(LINE, start, times, jd.Total(), np.zeros(36)))
    np.testing.assert_allclose(total, LINE.integrate(LINE.average(start)), rtol=1e-8)


@pytest.mark.slow
def test_intervals_one_by_one_and_a_start_of_all_phases(tmp_path):
    trap = jd.Diffusion(0.1, exchange=[jd.Exchange(1.0, 0.0, start="equilibrium")])
    whole = np.stack([HUMP, HUMP])  # given as it is: nothing is asked of an equilibrium
    values = jd.solve(trap, LINE, whole, TIMES).values
    np.testing.assert_allclose(jd.solve(trap, LINE, whole, TIMES, save=tmp_path / "a").values, values, atol=1e-11)
    empty = jd.Diffusion(0.1, exchange=[jd.Exchange(1.0, 0.0)])
    once = jd.solve(empty, LINE, HUMP, TIMES).values
    np.testing.assert_allclose(jd.solve(empty, LINE, HUMP, TIMES, save=tmp_path / "b").values, once, atol=1e-11)


@pytest.mark.slow
def test_what_cannot_be_is_refused_in_words():
    rates = lambda a, b, **how: jd.Diffusion(0.1, exchange=[jd.Exchange(a, b, **how)])
    solve = lambda equation, u=HUMP, **how: jd.solve(equation, LINE, u, TIMES, **how)
    for message, call in {
        "rate_in of phase 1 is -1 in cell 0": lambda: solve(rates(-1.0, 1.0)),
        "rate_out of phase 1 is nan": lambda: solve(rates(1.0, np.nan)),
        "no equilibrium to start in": lambda: solve(rates(1.0, 0.0, start="equilibrium")),
        "states here have \\(2, 30\\)": lambda: solve(rates(1.0, 1.0), np.ones((3, 30))),
        "states here have \\(30,\\)": lambda: solve(jd.Diffusion(0.1), np.ones((2, 30))),
        "Spectral\\(\\) takes no exchange": lambda: solve(rates(1.0, 1.0), scheme=jd.Spectral()),
        "order=4 takes no exchange": lambda: solve(rates(1.0, 1.0), scheme=jd.FiniteVolume(4)),
        "'empty' or 'equilibrium', got 'full'": lambda: jd.Exchange(1.0, 1.0, start="full"),
        "phase is .* got 'bound'": lambda: jd.Readings(LINE, 0.0, [1.0], [0.5], [1.0], phase="bound"),
        "phase is .* got 1.5": lambda: jd.Readings(LINE, 0.0, [1.0], [0.5], [1.0], phase=1.5),
        "phase is .* got -1": lambda: jd.Readings(LINE, 0.0, [1.0], [0.5], [1.0], phase=-1),
        "sees phase 1, the first 0": lambda: jd.fit_many(
            rates(1.0, jd.Positive(1.0)),
            [jd.Readings(LINE, 0.0, [1.0], [0.5], [1.0], phase=phase) for phase in (0, 1)],
        ),
        "those of what moves": lambda: jd.Readings(LINE, 0.0, [1.0], jd.FluxThrough(0.5), [1.0], phase=1),
        "exchange=, got phase=1": lambda: jd.fit(
            lambda D: jd.Diffusion(D),
            jd.Readings(LINE, 0.0, [1.0], [0.5], [1.0], phase=1),
            parameters={"D": jd.Positive(1.0)},
            progress=False,
        ),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="real number"):
        jd.Exchange(1j, 1.0)
    with pytest.raises(TypeError, match="exchange takes a list"):
        jd.Diffusion(0.1, exchange=3.0)
    with pytest.raises(ValueError, match="bound now and then"):
        jd.FokkerPlanck(1.0, 0.1, exchange=[jd.Exchange(1.0, 1.0)]).sde(LINE)
