"""A fit says when its cells, not the data, set the diffusivity."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erfc

import jaxdiff as jd
from jaxdiff.coarseness import spread
from jaxdiff.measurements import course_of
from jaxdiff.objective import Objective, assemble
from jaxdiff.parameters import Free

V, D = 1.0, 0.05  # on (0, 1): vL/D = 20
NOTE = "cells are large for this drift"


def front(t, x):
    """Resident concentration in a half-infinite column fed by the flux v (Lindstrom et al. 1967)."""
    root = np.sqrt(4 * D * t)
    leading, trailing = (x - V * t) / root, (x + V * t) / root
    last = 0.5 * (1 + V * x / D + V**2 * t / D) * np.exp(V * x / D) * erfc(trailing)
    return 0.5 * erfc(leading) + np.sqrt(V**2 * t / (np.pi * D)) * np.exp(-(leading**2)) - last


def breakthrough(n, sigma, known=False, **options):
    """A fit to readings in the middle of a column with cells of v h/D = 20/n."""
    times = np.linspace(0.05, 0.8, 25)
    noise = sigma * np.random.default_rng(3).normal(size=25)
    grid = jd.Grid.uniform((0.0, 1.0, n))
    readings = jd.Readings(grid, 0.0, times, 0.4, front(times, 0.4) + noise, sigma=sigma)
    inlet = {"x-": jd.Flux(-V), "x+": jd.Neumann(0.0)}
    model = lambda v, d: jd.FokkerPlanck(v, d, boundaries=inlet)
    start = {"v": jd.Positive(0.9), "d": jd.Fixed(D) if known else jd.Positive(0.06)}
    return jd.fit(model, readings, parameters=start, progress=False, **options)


def remarks(found):
    return [note for note in found.notes if NOTE in note]


def test_a_breakthrough_in_large_cells():
    """z²/12 of D is 7 % in 22 cells and 0.5 % in 80; the note asks for as many as make it half an error bar."""
    coarse = breakthrough(22, 0.005)
    (note,) = remarks(coarse)
    assert "times as many along x" in note and "\n" not in note
    cells = int(note.rsplit(" ", 1)[1])
    assert 30 < cells <= 80 and not remarks(breakthrough(cells, 0.005))
    assert coarse.parameters["d"] < D - 2 * coarse.standard_errors["d"]
    assert not remarks(breakthrough(22, 0.1))


def parts(equation, grid, times, initial=0.0, measurement=None):
    """What `spread` takes, for one fitted diffusivity."""
    measured = measurement or jd.Readings(grid, initial, times, np.full(len(times), 0.4), np.zeros(len(times)), 1.0)
    parameters, function, which, _ = assemble(equation, None, (measured,), ())
    objective = Objective(function, (jd.mse,), which)
    plain, (start,) = objective.unpack(parameters.rebuild(np.asarray(parameters.start)))
    course, row = course_of(measured, plain, start, {})
    z = parameters.transform.inverse(np.asarray(parameters.start))
    return objective, parameters, SimpleNamespace(course=course, row=row), z, measured


def added(equation, grid, times, initial=0.0, measurement=None, error=1e-9):
    with jax.enable_x64(True):
        bars = SimpleNamespace(errors=np.array([error]), covariance=np.array([[error**2]]))
        found = spread(*parts(equation, grid, times, initial, measurement), 0, bars)
    return sum(one.added for one in found)


INLET = {"x-": jd.Flux(-V), "x+": jd.Neumann(0.0)}


@pytest.mark.parametrize("n", [10, 20, 40, 80])
def test_a_front_is_spread_by_what_is_between_its_fluxes(n):
    """The modified equation: z/2 coth z/2 − 1."""
    half = V / n / D / 2
    grid = jd.Grid.uniform((0.0, 1.0, n))
    found = added(jd.FokkerPlanck(V, Free(D), boundaries=INLET), grid, [0.3, 0.5])
    assert found == pytest.approx(half / np.tanh(half) - 1, rel=0.25)


STILL = {
    "without drift": lambda n: (jd.Diffusion(Free(D)), [0.1], lambda x: jnp.exp(-50 * (x - 0.5) ** 2)),
    "no force": lambda n: (jd.FokkerPlanck(0.0, Free(D)), [0.1], lambda x: jnp.exp(-50 * (x - 0.5) ** 2)),
    "at rest for good": lambda n: (jd.FokkerPlanck(V, Free(D)), [np.inf], 1.0),
    "come to rest": lambda n: (jd.FokkerPlanck(V, Free(D)), [30.0], 1.0),
    "as it began": lambda n: (jd.FokkerPlanck(V, Free(D), boundaries=INLET), [0.0], 0.0),
}


@pytest.mark.parametrize("case", STILL)
def test_what_does_not_move_is_not_spread(case):
    equation, times, initial = STILL[case](12)
    assert added(equation, jd.Grid.uniform((0.0, 1.0, 12)), times, initial) < 1e-6


def test_on_a_ring_and_with_killing():
    """A wave is carried round; what dies on the way leaves a profile that large cells do widen."""
    n, ring = 40, {"x": jd.Periodic()}
    grid = jd.Grid.uniform((0.0, 1.0, n))
    half = V / n / D / 2
    found = added(jd.FokkerPlanck(V, Free(D), boundaries=ring), grid, [0.05], lambda x: 1 + jnp.cos(2 * np.pi * x))
    assert found == pytest.approx(half / np.tanh(half) - 1, rel=0.1)
    assert added(jd.FokkerPlanck(V, Free(D), killing=3.0, boundaries=INLET), grid, [20.0]) > 0.3 * found


def test_histograms_on_one_axis_and_the_error_bar_they_are_held_against():
    """Particles that fall into a trap: spread while they fall; silent where the error bar is wide."""
    grid = jd.Grid.uniform((-3.0, 3.0, 30))
    start = lambda x: jnp.exp(-((x - 2.0) ** 2) / 0.18)
    trap = jd.FokkerPlanck(lambda x: -x, jd.Positive(0.4))
    counts = lambda times: jd.Histograms(grid, start, times, np.ones((len(times), 30)))
    falling, fallen = (added(trap, grid, None, measurement=counts(times)) for times in ([0.2], [12.0]))
    assert 0.02 < falling < 0.06 and fallen < 1e-5
    wide = added(trap, grid, None, measurement=counts([0.2]), error=0.4 * 1.1 * falling)
    close = added(trap, grid, None, measurement=counts([0.2]), error=0.4 * 0.9 * falling)
    assert wide == 0.0 and close == falling


def test_order_four_is_not_suspected():
    assert not remarks(breakthrough(22, 0.005, scheme=jd.FiniteVolume(order=4)))


def test_where_the_diffusivity_is_given_the_smallest_error_bar_counts():
    assert remarks(breakthrough(22, 0.005, known=True))
