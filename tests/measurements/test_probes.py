"""Readings of a whole state: totals, means, moments, what passes a wall or a place, and the value at a wall."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.discretisation import System
from jaxdiff.discretisation.schemes import FiniteVolume, semidiscrete
from jaxdiff.operators import Dense
from jaxdiff.parameters import numeric

ZEROS = np.zeros
N = np.arange(1, 400)
LINE, DISC = jd.Grid.uniform((0.0, 1.0, 30)), jd.Grid.radial((0.0, 1.0, 10), (0.0, 2.0, 7), geometry="cylindrical")
PLANE = jd.Grid.uniform((0.0, 1.0, 10), (0.0, 2.0, 7))
BALL = jd.Grid.radial((0.0, 1.0, 100), geometry="spherical")
SLAB = jd.Diffusion(1.0, boundaries={"x-": jd.Dirichlet(1.0), "x+": jd.Dirichlet(0.0)})


def read(model, *readings):
    """What a model predicts of readings, all of one compiled program each."""
    found = []
    with jax.enable_x64(True):
        for one in readings:
            plan, initial = one.prepare(model, one.initial, False), numeric(one.initial)
            go = jax.jit(lambda m, u, p: p.predict(m, u))
            while not np.all((out := go(model, initial, plan)).resolved):
                plan = plan.renewed(one, model, out.checks)
            assert not (np.asarray(out.checks.table)[:, 0] > 0).any()
            found.append(np.asarray(out.values))
    return found


@pytest.mark.parametrize(
    "equation, grid",
    [
        (jd.Diffusion(lambda x: 1 + x, decay=0.3, source=2.0, boundaries={"x-": jd.Dirichlet(1.0), "x+": jd.Robin(2.0, 0.5)}), LINE),
        (jd.FokkerPlanck(lambda x: 1 - x, 0.3, boundaries={"x-": jd.Dirichlet(1.0), "x+": jd.Flux(0.5)}), LINE),
        (jd.FokkerPlanck(1.0, 0.3, boundaries=jd.Periodic()), LINE),
        (jd.Diffusion(1.0, boundaries={"r+": jd.Robin(2.0, 0.5)}), BALL),
        (jd.Diffusion(lambda x, y: 1 + x * y, boundaries={"x-": jd.Dirichlet(1.0), "y+": jd.Robin(lambda x: 1 + x, 0.5)}), PLANE),
        (jd.Diffusion(1.0, boundaries={"r+": jd.Dirichlet(1.0), "z+": jd.Robin(1.0, 0.5)}), DISC),
    ],
)  # fmt: skip
def test_what_changes_is_what_passes_the_sides(equation, grid):
    system, u = semidiscrete(equation, grid, FiniteVolume())[0], np.random.default_rng(0).random(grid.shape)
    held = [side for side, wall in zip(grid.sides, system.sides, strict=True) if isinstance(wall, jd.Dirichlet)]

    @jax.jit
    def each(u):
        operator, forcing = system.at(0.0)
        fluxes = [system.fluxes(0.0, u, k) for k in range(grid.ndim)]
        walls = [jd.BoundaryValue(side).value(system, 0.0, u) for side in held]
        return jnp.sum(operator @ (u * system.weights) + forcing), sum(f[0] - f[-1] for f in fluxes), walls

    change, passed, walls = each(u)
    loss, source = float(getattr(equation, "decay", 0.0)), float(getattr(equation, "source", 0.0))
    inside = source * grid.volumes.sum() - loss * np.vdot(grid.volumes, u)
    np.testing.assert_allclose(change, passed + inside, rtol=1e-12, atol=1e-12)
    for value in walls:
        np.testing.assert_allclose(value, 1.0, rtol=1e-13)


def test_weights_of_whole_states():
    """Of u = 1 and of u linear along z, whose integrals are known."""
    system = semidiscrete(jd.Diffusion(1.0), DISC, FiniteVolume())[0]
    one, along = np.ones(DISC.shape), np.broadcast_to(DISC.centers[1], DISC.shape)
    value = lambda probe, u: float(probe.value(system, 0.0, u))
    area = np.pi * (0.75**2 - 0.25**2)
    cases = [
        (jd.Total(), one, 2 * np.pi),
        (jd.Moment(2), one, np.pi),  # ∫ r² dV
        (jd.Moment((0, 1)), one, 2 * np.pi),  # ∫ z dV
        (jd.Interval((0.25, 0.3), (0.75, 1.0)), one, 0.7 * area),
        (jd.Mean((0.0, 2 / 7), (1.0, 6 / 7)), along, 4 / 7),
        (jd.Mean(DISC.centers[1] > 1.0 + 0 * one), along, 11 / 7),
        (jd.Weighted(DISC.volumes), along, 2 * np.pi),
    ]
    for probe, u, exact in cases:
        probe.check(DISC)
        assert value(probe, u) == pytest.approx(exact, rel=1e-12), probe


@pytest.mark.slow
def test_permeation_through_a_slab():
    """From empty, u = 1 on one side: Crank 1975, eqs. 4.22 to 4.24; the time lag is 1/6, and what entered is still there or gone."""
    t, grid = np.linspace(0.02, 1.5, 12), jd.Grid.uniform((0.0, 1.0, 200))
    decays, sign = np.exp(-((N * np.pi) ** 2) * t[:, None]), (-1.0) ** N
    passed = t - 1 / 6 - 2 / np.pi**2 * (sign / N**2 * decays).sum(1)
    probes = [jd.CumulativeFlux("x+"), jd.CumulativeFlux("x-"), jd.Total(), jd.FluxThrough("x+"), jd.FluxThrough(0.3)]
    readings = [jd.Readings(grid, 0.0, t, probe, ZEROS(12)) for probe in probes]
    out, into, held, flux, inside = read(SLAB, *readings)
    np.testing.assert_allclose(out, passed, atol=3e-6)
    assert t[-1] - out[-1] == pytest.approx(1 / 6, abs=1e-5)
    np.testing.assert_allclose(out + into + held, 0.0, atol=1e-9)
    np.testing.assert_allclose(flux, 1 + 2 * (sign * decays).sum(1), atol=2e-5)
    np.testing.assert_allclose(inside, 1 + 2 * (np.cos(0.3 * N * np.pi) * decays).sum(1), atol=2.5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("geometry, half", [("spherical", 0.0305465243), ("cylindrical", 0.0630581942)])
def test_half_of_an_uptake(geometry, half):
    """The time at which half of what a sphere or a cylinder can hold has entered, from totals and from what has passed."""
    grid = jd.Grid.radial((0.0, 1.0, 100), geometry=geometry)
    model, whole = jd.Diffusion(1.0, boundaries={"r+": jd.Dirichlet(1.0)}), grid.volumes.sum()
    readings = [jd.Readings(grid, 0.0, [half], probe, [0.0]) for probe in (jd.Total(), jd.CumulativeFlux("r+"))]
    held, passed = read(model, *readings)
    assert held[0] / whole == pytest.approx(0.5, abs=1e-4)
    assert -passed[0] == pytest.approx(held[0], abs=1e-7 * whole)


@pytest.mark.slow
def test_what_passes_balances_while_walls_move():
    walls = {"x-": jd.Dirichlet(jd.TimeDependent(lambda t: jnp.sin(5 * t))), "x+": jd.Robin(2.0, 0.1)}
    model, t = jd.Diffusion(0.7, boundaries=walls), np.array([0.02, 0.3, 1.2])
    probes = jd.CumulativeFlux("x-"), jd.CumulativeFlux("x+"), jd.Total()
    one, two, held = read(model, *(jd.Readings(LINE, 0.0, t, probe, ZEROS(3)) for probe in probes))
    np.testing.assert_allclose(one + two + held, 0.0, atol=1e-8)
    assert np.ptp(one) > 0.3


@pytest.mark.slow
def test_gradients_of_what_passes():
    t = np.linspace(0.05, 0.8, 6)
    model = lambda D: jd.Diffusion(D, boundaries={"x-": jd.Dirichlet(1.0), "x+": jd.Robin(2.0 * D, 0.1)})
    reading = jd.Readings(LINE, 0.0, t, jd.CumulativeFlux("x+"), ZEROS(6))
    plan = reading.prepare(model(0.7), 0.0, False)
    predict = jax.jit(lambda D: plan.predict(model(D), numeric(0.0)).values)
    forward, h = jax.jit(jax.jacfwd(predict))(0.7), 1e-3
    central = lambda h: (predict(0.7 + h) - predict(0.7 - h)) / (2 * h)
    np.testing.assert_allclose(forward, (4 * central(h / 2) - central(h)) / 3, atol=1e-7 * np.abs(forward).max())
    np.testing.assert_allclose(jax.jit(jax.jacrev(predict))(0.7), forward, rtol=1e-11)


@pytest.mark.slow
def test_fits_by_probes(tmp_path):
    """D within its error bar from a total, with a mean beside it, missing values, a table, a report and a bootstrap."""
    rng, t = np.random.default_rng(1), np.linspace(0.02, 0.5, 20)
    model = lambda D: jd.Diffusion(D, boundaries={"x-": jd.Dirichlet(0.0)})
    rates = ((N - 0.5) * np.pi) ** 2
    total = (2 / rates * np.exp(-0.5 * rates * t[:, None])).sum(1)
    table = {"time": t, "content": total + 0.003 * rng.normal(size=20)}
    table["content"][4] = np.nan
    one = jd.Readings.from_table(table, LINE, 1.0, time="time", position=jd.Total(), value="content", sigma=0.003)
    fit = jd.fit(model, one, parameters={"D": jd.Positive(2.0)}, progress=False)
    assert fit.converged and fit.verdict.describes and abs(fit.parameters["D"] - 0.5) < 3 * fit.standard_errors["D"]
    assert "19 of 20 rows used" in str(fit)
    assert "readings" in fit.report(tmp_path / "fit.html").read_text(encoding="utf-8")
    mean = jd.Readings(
        LINE, 1.0, t, jd.Mean(0.5, 1.0), fit.predict(jd.Readings(LINE, 1.0, t, jd.Mean(0.5, 1.0), t)), 0.003
    )
    both = jd.fit(model, [one, mean], parameters={"D": jd.Positive(2.0)}, progress=False)
    assert 0 < both.standard_errors["D"] < fit.standard_errors["D"]
    drawn = jd.bootstrap(fit, 40, progress=False)
    assert drawn.standard_errors["D"] == pytest.approx(fit.standard_errors["D"], rel=0.4)


def test_probes_are_refused_in_words():
    cases = [
        (lambda: jd.Interval(0.5, 0.2), "an interval has lower < upper, got 0.5 and 0.2"),
        (lambda: jd.Readings(LINE, 0.0, [1.0], jd.FluxThrough("y+"), [0.0]), "a side here is one of x-, x\\+, got 'y\\+'"),
        (lambda: jd.Readings(LINE, 0.0, [1.0], jd.FluxThrough(2.0), [0.0]), "the place of a flux must lie within 0 … 1, got 2"),
        (lambda: jd.Readings(LINE, 0.0, [1.0], jd.Mean(np.ones(3)), [0.0]), "a mask must have the shape of the cells"),
        (lambda: jd.Readings(PLANE, 0.0, [1.0], jd.Interval(0.1, 0.2), [0.0]), "an interval needs 2 lower ends here"),
        (lambda: jd.Weighted([np.nan]), "weights must be finite"),
        (lambda: jd.Moment(-1), "a moment has a whole number from 0 up"),
        (lambda: jd.CumulativeFlux("x+", stretches=0), "stretches must be a whole number from 1 up, got 0"),
    ]  # fmt: skip
    for make, message in cases:
        with pytest.raises(ValueError, match=message):
            make()
    tensor = jd.Diffusion(jd.Tensor([[1.0, 0.2], [0.2, 0.5]]))
    with pytest.raises(ValueError, match="a Tensor moves content along oblique edges"):
        read(tensor, jd.Readings(PLANE, 0.0, [1.0], jd.FluxThrough("x+"), [0.0]))
    with pytest.raises(ValueError, match="known from the start; drop those rows"):
        read(SLAB, jd.Readings(LINE, 0.0, [np.inf], jd.CumulativeFlux("x+"), [0.0]))


class Largest(jd.Probe):
    def value(self, system, t, u):
        return jnp.max(u) * jnp.exp(-t) + 5.0


class Each(jd.Probe):
    def value(self, system, t, u):
        return u


@pytest.mark.slow
def test_a_probe_of_ones_own_is_taken_by_its_word():
    """Neither linear nor alike at all times, and with a constant."""
    t = np.array([0.0, 0.5, 1.0])
    (found,) = read(jd.Diffusion(1.0, decay=0.7), jd.Readings(LINE, 2.0, t, Largest(), ZEROS(3)))
    np.testing.assert_allclose(found, 2.0 * np.exp(-1.7 * t) + 5.0, rtol=1e-10)
    with pytest.raises(ValueError, match="axis is that of a number"):
        jd.FluxThrough("x+", axis="y")
    with pytest.raises(ValueError, match="a periodic axis has no wall"):
        read(jd.Diffusion(1.0, boundaries=jd.Periodic()), jd.Readings(LINE, 2.0, t, jd.BoundaryValue("x-"), ZEROS(3)))
    with pytest.raises(ValueError, match="Each: expected one number at each point, got shape"):
        read(SLAB, jd.Readings(LINE, 2.0, t, Each(), ZEROS(3)))


@pytest.mark.parametrize("scheme", [jd.FiniteVolume(order=4), jd.Spectral()])
def test_fluxes_are_those_of_the_scheme_or_none(scheme):
    reading = jd.Readings(LINE, 0.0, [0.5], jd.FluxThrough("x+"), [0.0])
    with pytest.raises(ValueError, match="reads fluxes and walls as finite volumes of order 2 have them"):
        jd.fit(jd.Diffusion(jd.Positive(1.0)), reading, scheme=scheme, progress=False)


class Swap(System):
    def operator(self, t):
        return Dense(jnp.array([[0.0, 1.0], [1.0, 0.0]]))


class Exchange(jd.Equation):
    def semidiscretise(self, grid, scheme):
        return [Swap(self, grid)]


@pytest.mark.parametrize("probe, missing", [(jd.FluxThrough("x+"), "fluxes"), (jd.BoundaryValue("x-"), "at_wall")])
def test_a_system_of_ones_own_says_what_a_probe_misses(probe, missing):
    with pytest.raises(ValueError, match=rf"Swap has no {missing}\(t, u, k"):
        read(Exchange(), jd.Readings(jd.Grid.uniform((0.0, 1.0, 2)), 1.0, [0.1], probe, [1.0]))
