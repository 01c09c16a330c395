"""Masked domains against matrices of their own, and against the smaller grids that they are."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

import jaxdiff as jd
from jaxdiff.shell.config.domain import read_grid

N = 12
X, Y = np.meshgrid(*[(np.arange(N) + 0.5) / N] * 2, indexing="ij")
L_SHAPE, DISC = ~((X > 0.5) & (Y > 0.4)), (X - 0.5) ** 2 + (Y - 0.5) ** 2 < 0.22
START = np.random.default_rng(0).random((N, N))
FIELD, HILL = (lambda x, y: 0.1 + 0.2 * x * y), (lambda x, y: 3 * (x - 0.5) ** 2 + y)


def unit(mask):
    return jd.Grid.uniform((0.0, 1.0, N), (0.0, 1.0, N), mask=mask)


def matrix(mask, diffusivity, energy=lambda x, y: 0.0 * x):
    """Scharfetter and Gummel's fluxes between neighbours that are both inside, cell by cell."""
    index = {tuple(cell): i for i, cell in enumerate(np.argwhere(mask))}
    found = np.zeros((len(index),) * 2)
    for (i, j), here in index.items():
        for other in ((i + 1, j), (i, j + 1)):
            if (there := index.get(other)) is not None:
                d = N**2 * diffusivity((X[i, j] + X[other]) / 2, (Y[i, j] + Y[other]) / 2)
                z = N**2 * (energy(X[i, j], Y[i, j]) - energy(X[other], Y[other])) / d
                forth, back = (d * (1.0 if z == 0 else s / np.expm1(s)) for s in (-z, z))
                found[[there, here, here, there], [here, here, there, there]] += [forth, -forth, back, -back]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("mask", [L_SHAPE, DISC], ids=["L", "disc"])
def test_within_an_outline_content_moves_as_a_matrix_of_its_own_says(mask):
    grid, times = unit(mask), [0.0, 0.02, 1.0]
    hill = jd.FokkerPlanck(jd.Potential(HILL), 0.1)
    own = matrix(mask, lambda x, y: 0.1, HILL)
    values = np.asarray(jd.solve(hill, grid, np.where(mask, START, np.nan), times).values)
    for t, u in zip(times, values, strict=True):
        expected = expm(t * own) @ START[mask]
        assert np.abs(u[mask] - expected).max() < 1e-11 * expected.max()
    assert not values[:, ~mask].any()
    assert np.abs(grid.integrate(values) / grid.integrate(START) - 1).max() < 1e-12
    gibbs = np.where(mask, np.exp(-HILL(X, Y) / 0.1), 0.0)
    at_rest = jd.steady_state(hill, grid)
    assert np.abs(at_rest * gibbs.sum() / N**2 - gibbs).max() < 1e-12


@pytest.mark.slow
def test_a_mask_that_is_a_rectangle_is_the_smaller_grid():
    mask, cut = np.zeros((N, N), bool), np.s_[2:9, 3:12]
    mask[cut] = True
    grid = unit(mask)
    small = jd.Grid(edges=(grid.edges[0][2:10], grid.edges[1][3:]))
    heated = jd.Diffusion(FIELD, source=lambda x, y: x - y, decay=0.3, boundaries={"y+": jd.Dirichlet(lambda x: 1 + x)})
    points = np.random.default_rng(1).random((20, 2)) * [7 / N, 9 / N] + [2 / N, 3 / N]
    points = np.concatenate([points, [[2 / N, 3 / N], [9 / N, 1.0]]])  # and corners
    wide, narrow = (jd.solve(heated, g, u, [0.0, 0.5]).values[-1] for g, u in ((grid, START), (small, START[cut])))
    assert np.abs(wide[cut] - narrow).max() < 1e-11
    assert np.abs(grid.interpolate(wide, points) - small.interpolate(narrow, points)).max() < 1e-11
    turning = jd.FokkerPlanck((lambda x, y: jnp.sin(3 * y), lambda x, y: 1 - x), 0.1)
    assert np.abs(jd.steady_state(turning, grid)[cut] - jd.steady_state(turning, small)).max() < 1e-9
    means = [
        jd.Total(),
        jd.Mean((0.2, 0.3), (0.6, 0.7)),
        jd.Moment((1, 1)),
        jd.FluxThrough("y+"),
        jd.BoundaryValue("y+"),
    ]

    def read(g, u):
        system = jd.FiniteVolume().systems(heated, g)[0]
        return jnp.stack([probe.value(system, 0.0, g.within(u)) for probe in means])

    one, other = (jax.jit(partial(read, g))(u) for g, u in ((grid, START), (small, START[cut])))
    np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.slow
def test_a_coefficient_need_not_be_defined_outside():
    grid, over = unit(DISC), np.where(DISC, 0.3, np.nan)
    height = lambda x, y: jnp.sqrt(0.26 - (x - 0.5) ** 2 - (y - 0.5) ** 2)

    @jax.jit
    @jax.value_and_grad
    def centre(scale):
        model = jd.Diffusion(lambda x, y: scale * height(x, y), decay=over)
        return jd.solve(model, grid, lambda x, y: scale * height(x, y), [0.0, 0.5]).values[-1][5, 5]

    value, slope = centre(1.0)
    assert np.isfinite(value) and np.isclose(slope, (centre(1.0001)[0] - centre(0.9999)[0]) / 2e-4, rtol=1e-6)
    with pytest.raises(ValueError, match=r"diffusivity is .* at x = 0.5"):
        jd.solve(jd.Diffusion(lambda x, y: 0.52 - x), grid, 1.0, [0.0, 1.0])


@pytest.mark.slow
def test_every_part_keeps_its_own_content():
    mask = np.ones((N, N), bool)
    mask[5], mask[:5, :3] = False, False
    grid, (one, two) = unit(mask), (np.s_[:5, 3:], np.s_[6:])
    u = np.asarray(jd.steady_state(jd.Diffusion(0.1), grid, START))
    assert np.ptp(u[one]) < 1e-14 and np.ptp(u[two]) < 1e-14
    assert np.isclose(u[0, 5], START[one].mean()) and np.isclose(u[8, 5], START[two].mean())
    open_ = jd.Diffusion(0.1, boundaries={"x-": jd.Dirichlet(3.0)})
    u = np.asarray(jd.steady_state(open_, grid, START))
    assert np.allclose(u[one], 3.0) and np.allclose(u[two], START[two].mean())
    u = np.asarray(jd.steady_state(jd.Diffusion(0.1, boundaries={"x": jd.Periodic()}), grid, START))
    assert np.ptp(u[mask]) < 1e-14 and np.isclose(u[0, 5], START[mask].mean())
    with pytest.raises(ValueError, match="depends on the initial content; pass initial="):
        jd.steady_state(jd.FokkerPlanck((0.0, 0.0), 0.1), grid)


@pytest.mark.slow
def test_a_cell_that_was_bleached_tells_its_diffusivity():
    grid, times = unit(DISC), np.array([0.05, 0.1, 0.2, 0.4])
    bleached = np.where(Y > 0.5, 0.1, 1.0)
    images = np.asarray(jd.solve(jd.Diffusion(0.13), grid, bleached, [0.0, *times]).values[1:])
    images = np.where(DISC, images + 0.01 * np.random.default_rng(2).normal(size=images.shape), np.nan)
    stack = jd.Readings.from_images(grid, bleached, times, images, sigma=0.01, start=0.0)
    assert len(stack.values) == 4 * DISC.sum() and not stack.missing
    fit = jd.fit(jd.Diffusion(jd.Positive(0.5)), stack, progress=False)
    assert abs(fit.parameters["diffusivity"] - 0.13) < 3 * fit.standard_errors["diffusivity"] < 0.01
    assert any("masked grid" in note for note in fit.notes)


REFUSED = {
    "a mask of another shape": (lambda: unit(np.ones((3, 3), bool)), r"shape of the cells, \(12, 12\), got \(3, 3\)"),
    "nothing inside": (lambda: unit(np.zeros((N, N), bool)), "got none"),
    "numbers": (lambda: unit(1.0 * DISC), "True and False, got float64"),
    "a point outside": (lambda: unit(DISC).interpolate(START, [[0.05, 0.05]]), "x = 0.05, y = 0.05 lies outside the mask"),
    "a sensor outside": (lambda: jd.Readings(unit(DISC), 1.0, 1.0, [[0.05, 0.05]], [1.0]), "position 0 at .* the mask"),
    "counts outside": (lambda: jd.Histograms(unit(DISC), 1.0, 1.0, np.ones((1, N, N))), "counts must lie within the mask"),
    "modes": (lambda: jd.solve(jd.Diffusion(1.0), unit(DISC), 1.0, [0.0, 1.0], scheme=jd.Spectral()), "takes no mask"),
    "a tensor": (lambda: jd.solve(jd.Diffusion(jd.Tensor(np.eye(2))), unit(DISC), 1.0, [0.0, 1.0]), "takes no mask"),
    "a side apart": (lambda: jd.Readings(unit(DISC[::-1] & (X > 0.3)), 1.0, [1.0], jd.BoundaryValue("x-"), [1.0]), "touches x-"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_mask_does_not_hold_is_refused_in_one_line(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_configuration_names_the_file_of_a_mask(tmp_path):
    np.save(tmp_path / "cell.npy", DISC)
    box = {"lower": [0.0, 0.0], "upper": [1.0, 1.0], "cells": [N, N]}
    assert (read_grid({**box, "mask": "cell.npy"}, tmp_path).mask == DISC).all()
    with pytest.raises(ValueError, match="none.npy is no array as np.save"):
        read_grid({**box, "mask": "none.npy"}, tmp_path)


@pytest.mark.slow
def test_beside_an_outline_nothing_undefined_enters():
    """A wall's function, what is integrated and a point mass, where cells beside them are no part of the domain."""
    inside = np.ones((4, 5), bool)
    inside[:, 3:] = False
    grid = jd.Grid.uniform((0.0, 1.0, 4), (0.0, 1.0, 5), mask=inside)
    heated = lambda a: jd.Diffusion(1.0, boundaries={"x-": jd.Dirichlet(lambda y: a * jnp.sqrt(0.61 - y))})
    total = lambda a: jd.solve(heated(a), grid, 1.0, np.array([0.0, 0.1])).values[-1].sum()
    both = jax.jit(jax.value_and_grad(total))
    np.testing.assert_allclose(both(1.0)[1], (both(1.1)[0] - both(0.9)[0]) / 0.2, rtol=1e-8)  # it is linear in a
    wall = jd.Readings(grid, 1.0, [0.1], jd.BoundaryValue("x-"), [0.0])
    value = jax.jit(lambda a: wall.prepare(heated(1.0), 1.0).predict(heated(a), 1.0).values[0])(1.0)
    np.testing.assert_allclose(value, np.mean(np.sqrt(0.61 - np.array([0.1, 0.3, 0.5]))), rtol=1e-12)
    np.testing.assert_allclose(grid.integrate(np.where(inside, 1.0, np.nan)), 0.6, rtol=1e-12)
    corner = jd.Grid.uniform((0.0, 1.0, 2), (0.0, 1.0, 2), mask=np.eye(2, dtype=bool))
    np.testing.assert_allclose(corner.delta([0.45, 0.45]), [[4.0, 0.0], [0.0, 0.0]])


@pytest.mark.slow
def test_the_diffusion_of_upwind_fluxes_is_told_of_all_times():
    grid = jd.Grid.uniform((0.0, 1.0, 40))
    swinging = jd.FokkerPlanck(jd.TimeDependent(lambda t, x: jnp.sin(t)), 0.0)
    assert "up to 0.0125 along x" in jd.solve(swinging, grid, 1.0, [0.0, np.pi, 2 * np.pi]).method
