"""An equation of one's own: a master equation, random jumps between discrete states."""

import re
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd


class Jumps(jd.discretisation.System):
    """dN/dt = A N for the numbers N in each state; a state is a cell of width one."""

    def operator(self, t):
        return jd.operators.Dense(self.equation.matrix(self.grid.shape[0]))


class BirthDeath(jd.Equation):
    """dpₙ/dt = birth pₙ₋₁ + death (n + 1) pₙ₊₁ − (birth + death n) pₙ,  n = 0 … count − 1"""

    birth: float
    death: float

    probability = True  # of mass one at rest
    discrete = True  # there are no finer cells

    def matrix(self, count):
        """Rates from column to row; the diagonal follows from them."""
        n = jnp.arange(count)
        return jnp.diag(jnp.broadcast_to(self.birth, count - 1), -1) + jnp.diag(self.death * n[1:], 1)

    def semidiscretise(self, grid, scheme):
        return [Jumps(self, grid)]


STATES = jd.Grid.uniform((-0.5, 29.5, 30))
EMPTY = np.eye(30)[0]


class Seasons(Jumps):
    """The same with all rates up and down in time."""

    def operator(self, t):
        return jd.operators.Dense(self.equation.matrix(self.grid.shape[0]) * (1 + jnp.sin(3 * t)))


class Seasonal(BirthDeath):
    """The same in seasons, which are told nowhere but in the program of the operator."""

    def semidiscretise(self, grid, scheme):
        return [Seasons(self, grid)]


def poisson(mean):
    n = np.arange(30)
    return np.exp(n * np.log(mean) - mean - np.cumsum(np.log(np.maximum(n, 1))))


def refused(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except (TypeError, ValueError) as error:
        return "BirthDeath" in str(error) and "\n" not in str(error)
    return False


@pytest.mark.slow
def test_an_equation_from_outside_is_treated_as_one_from_inside():
    equation, times = BirthDeath(birth=4.0, death=0.8), np.array([0.0, 0.5, 2.0])
    exact = np.stack([poisson(5.0 * (1 - np.exp(-0.8 * t))) for t in times[1:]])  # Gardiner 2009, §11.1
    for options in ({}, {"stepper": jd.TRBDF2(), "substeps": 400}):
        states = jd.solve(equation, STATES, EMPTY, times, **options).values
        np.testing.assert_allclose(states[1:], exact, atol=1e-5)
    np.testing.assert_allclose(jd.steady_state(equation, STATES), poisson(5.0), atol=1e-6)

    rng = np.random.default_rng(1)
    counts = np.stack([rng.multinomial(2000, p / p.sum()) for p in exact])
    seen = jd.Histograms(STATES, EMPTY, times[1:], counts)
    start = BirthDeath(birth=jd.Positive(1.0), death=jd.Positive(1.0))
    fit = jd.fit(start, seen, progress=False)
    assert fit.converged and not any("cells" in note for note in fit.notes)
    for name, truth in (("birth", 4.0), ("death", 0.8)):
        assert abs(fit.parameters[name] - truth) < 3.5 * fit.standard_errors[name]

    assert refused(jd.solve, equation, STATES, EMPTY, times, scheme=jd.Spectral())
    square = jd.Grid.uniform((0.0, 1.0, 4), (0.0, 1.0, 4))
    assert refused(jd.solve, equation, square, 1.0, times) and refused(jd.steady_state, equation, square)
    assert refused(jd.fit, start, jd.Trajectory(STATES, [0.0, 1.0], [3.0, 4.0]), progress=False)


def test_rates_in_which_time_enters_are_followed():
    clock = 0.9 + (1 - np.cos(3 * 0.9)) / 3  # all rates alike: only time runs otherwise
    found = jd.solve(Seasonal(birth=4.0, death=0.8), STATES, EMPTY, [0.0, 0.9])
    np.testing.assert_allclose(found.values[-1], poisson(5.0 * (1 - np.exp(-0.8 * clock))), atol=1e-5)
    assert "adaptive" in found.method
    with pytest.raises(ValueError, match="constant in time"):
        jd.steady_state(Seasonal(birth=4.0, death=0.8), STATES)


def test_a_diagonal_that_is_given_counts():
    jumps = np.array([[0.0, 2.0, 0.5], [1.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    generator, killed, content = jumps - np.diag(jumps.sum(0)), np.diag([0.0, 0.4, 0.1]), np.array([1.0, 2.0, 3.0])
    for given, matrix in ((jumps, generator), (generator, generator), (generator - killed, generator - killed)):
        found = jd.operators.Dense(given) @ content
        np.testing.assert_allclose(found, matrix @ content, rtol=1e-5, atol=1e-5)
        assert (jd.operators.Dense(given).leak.sum() > 0) == (matrix is not generator)


class Said(BirthDeath):
    """An equation that says of its operator what it is not, or brings none."""

    driftless = True
    brings: Any = eqx.field(static=True, default=None)

    def semidiscretise(self, grid, scheme):
        return self.brings(self, grid)


class Symmetric(jd.discretisation.System):
    def operator(self, t):
        return jd.operators.Dense(self.equation.matrix(self.grid.shape[0]), diffusive=True)


class Bare(jd.discretisation.System):
    def operator(self, t):
        return self.equation.matrix(self.grid.shape[0])


class Larger(jd.discretisation.System):
    def operator(self, t):
        return jd.operators.Dense(self.equation.matrix(9))


class Drifting(jd.Equation):
    """A drift that says it is none."""

    speed: float
    driftless = True

    def transport(self):
        return jd.discretisation.Transport(self.speed, 1.0, 0.0, 0.0)


def test_what_an_equation_says_of_itself_is_held_against_its_operator():
    listed = lambda kind: lambda equation, grid: [kind(equation, grid)]
    refusals = (
        ("its operator does not say diffusive=True", listed(Jumps)),
        ("rates say diffusive=True", listed(Symmetric)),
        ("must return an operator, such as jaxdiff.operators.Dense", listed(Bare)),
        ("must act on the (30,) cells of the grid, got (9,)", listed(Larger)),
        ("must return a list of systems, got Jumps", Jumps),
    )
    calls = [(words, Said(4.0, 0.8, brings), STATES, EMPTY) for words, brings in refusals]
    calls.append(("says driftless = True and has a drift", Drifting(30.0), jd.Grid.uniform((0.0, 1.0, 30)), 1.0))
    for words, equation, grid, start in calls:
        with pytest.raises((TypeError, ValueError), match=re.escape(words)):
            jd.solve(equation, grid, start, [0.0, 1.0])
