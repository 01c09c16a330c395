"""Scores of solved densities against those of the mixtures that they are."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.generation import GaussianMixture, Process, sample, solved_score

PROCESS = Process()
MIXTURES = {
    "numbers": GaussianMixture([0.3, 0.7], [-0.8, 1.0], [0.04, 0.15]),
    "plane": GaussianMixture(
        [0.4, 0.6], [[-1.0, 0.0], [1.0, 0.5]], [[[0.3, 0.2], [0.2, 0.3]], [[0.1, -0.05], [-0.05, 0.1]]]
    ),
}


def densities(mixture, grid, times):
    """A solution as `solve` has it, by the closed form."""
    points = jnp.asarray(grid.points if grid.ndim > 1 else grid.centers[0])
    at = jax.jit(lambda t: jnp.exp(mixture.noised(PROCESS, t).log_density(points)).reshape(grid.shape))
    return SimpleNamespace(grid=grid, times=np.asarray(times), values=np.stack([at(t) for t in times]))


PLACES = {
    "numbers": (jd.Grid.uniform((-6.0, 6.0, 600)), 0.02),
    "plane": (jd.Grid.uniform((-6.0, 6.0, 200), (-6.0, 6.0, 200)), 0.05),
}


@pytest.mark.parametrize("name", PLACES)
def test_the_score_of_a_solved_density_is_that_of_the_mixture_it_is(name):
    mixture, (grid, tolerance) = MIXTURES[name], PLACES[name]
    found = solved_score(densities(mixture, grid, np.linspace(0.0, 1.0, 81)))

    @jax.jit
    def error(t):
        x = mixture.noised(PROCESS, t).draw(500, jax.random.key(2))
        wanted = mixture.score(PROCESS)(x, t)
        return jnp.sqrt(jnp.mean((found(x, t) - wanted) ** 2) / jnp.mean(wanted**2))

    for t in (0.003, 0.3, 0.71, 1.0):
        assert error(t) < tolerance
    far = found(5.9 * jnp.ones((1, *mixture.shape)), 0.0)
    assert jnp.isfinite(far).all() and (far < 0).all(), "tails that roundoff fills lead back"


LINE = PLACES["numbers"][0]
SOLVED_REFUSED = {
    "at a wall": (densities(MIXTURES["numbers"], jd.Grid.uniform((-6.0, 1.2, 100)), [0.0, 1.0]), r"wall x\+ is 0\.\d+ of its peak at t = 0"),
    "too narrow for noise": (densities(MIXTURES["numbers"], jd.Grid.uniform((-3.0, 6.0, 100)), [0.0, 1.0]), "wall x- .* at t = 1, .* widen the grid"),
    "negative": (SimpleNamespace(grid=LINE, times=[0.0, 1.0], values=-np.ones((2, 600))), "not negative"),
    "not finite": (SimpleNamespace(grid=LINE, times=[0.0, 1.0], values=np.full((2, 600), np.nan)), "finite"),
    "species": (SimpleNamespace(grid=LINE, times=[0.0, 1.0], values=np.ones((2, 2, 600))), r"got \(2, 2, 600\)"),
    "radius": (SimpleNamespace(grid=jd.Grid.radial((0.0, 1.0, 5), geometry="spherical"), times=[0.0, 1.0], values=np.ones((2, 5))), "Cartesian"),
    "two cells": (SimpleNamespace(grid=jd.Grid.uniform((-6.0, 6.0, 2)), times=[0.0, 1.0], values=np.ones((2, 2))), "three cells an axis"),
    "states": (SimpleNamespace(grid=jd.States(3), times=[0.0, 1.0], values=np.ones((2, 3))), "Cartesian"),
}  # fmt: skip


@pytest.mark.parametrize("case", SOLVED_REFUSED)
def test_densities_without_a_score_are_refused(case):
    solution, words = SOLVED_REFUSED[case]
    with pytest.raises(ValueError, match=words) as raised:
        solved_score(solution)
    assert "\n" not in str(raised.value)


COARSE = {
    "cells": (jd.Grid.uniform((-6.0, 6.0, 40)), 81, "changes by a factor of .* from one cell to the next"),
    "times": (LINE, 9, "the score changes by .* take more times there"),
}


@pytest.mark.parametrize("case", COARSE)
def test_a_density_that_is_not_resolved_is_told(case):
    grid, count, words = COARSE[case]
    with pytest.warns(UserWarning, match=words):
        solved_score(densities(MIXTURES["numbers"], grid, np.linspace(0.0, 1.0, count)))


def test_outside_its_times_a_solved_density_has_no_score():
    half = solved_score(densities(MIXTURES["numbers"], LINE, np.linspace(0.0, 0.5, 21)))
    with pytest.raises(ValueError, match="not finite at t = 1; .* none outside its times"):
        sample(half, PROCESS, (10,), key=0)
    start = MIXTURES["numbers"].noised(PROCESS, 0.5).draw(10, jax.random.key(0))
    assert jnp.isfinite(sample(half, PROCESS, start=start, times=(0.5, 0.0))).all()


def test_densities_of_any_mass_and_times_that_are_none():
    grid, times = jd.Grid.uniform((-6.0, 6.0, 120)), np.array([0.0, 0.5, 1.0])
    normal = np.exp(-(grid.centers[0] ** 2) / 2) / np.sqrt(2 * np.pi)
    of = lambda values, times: solved_score(SimpleNamespace(grid=grid, values=values, times=times))
    x = jnp.array([-1.0, 0.3, 4.0])
    faint = of(np.tile(1e-9 * normal, (3, 1)), times)
    np.testing.assert_allclose(faint(x, 0.2), of(np.tile(normal, (3, 1)), times)(x, 0.2), rtol=1e-6)
    for values, wrong in ((normal[None], times[:1]), (np.tile(normal, (3, 1)), times[::-1])):
        with pytest.raises(ValueError, match="increasing times"):
            of(values, wrong)
    with pytest.raises(ValueError, match="positive somewhere"):
        of(np.stack([normal, 0 * normal, normal]), times)
