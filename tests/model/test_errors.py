"""Bad input to the forward problem: one line that says what, what was got, and how to mend it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

GRID = jd.Grid.uniform((0.0, 1.0, 16))
ONES = np.ones(16)
PLANE = jd.Grid.uniform((0.0, 1.0, 4), (0.0, 1.0, 4))
on_plane = lambda equation, initial=1.0: jd.solve(equation, PLANE, initial, [0.0, 1.0])
run = lambda equation, initial=ONES, times=(0.0, 1.0), **options: jd.solve(equation, GRID, initial, times, **options)
hole = np.where(np.arange(16) == 5, 0.0, 1.0)

CASES = {
    "negative D": (lambda: run(jd.Diffusion(-1.0)), "diffusivity is -1 at x = 0.03125; it must be positive"),
    "D negative somewhere": (lambda: run(jd.Diffusion(lambda x: 0.5 - x)), "diffusivity is -0.03125 at x = 0.53125"),
    "D zero inside": (lambda: run(jd.Diffusion(hole)), "diffusivity is 0 at x = 0.34375; it must be positive inside"),
    "negative D at a wall": (lambda: run(jd.Diffusion(lambda x: x - 0.001)), "diffusivity is -0.001 at x = 0; it must not be negative"),
    "NaN start": (lambda: run(jd.Diffusion(1.0), np.where(np.arange(16) == 3, np.nan, 1.0)), "initial state is nan in cell 3"),
    "infinite start": (lambda: run(jd.Diffusion(1.0), ONES * np.inf), "initial state is inf in cell 0"),
    "start of another shape": (lambda: run(jd.Diffusion(1.0), np.ones(7)), r"initial has shape \(7,\), the grid \(16,\)"),
    "times that repeat": (lambda: run(jd.Diffusion(1.0), times=[0, 1, 1]), "times must increase, got 1 after 1 at index 2"),
    "one time": (lambda: run(jd.Diffusion(1.0), times=[0.0]), "at least two"),
    "infinite time": (lambda: run(jd.Diffusion(1.0), times=[0.0, np.inf]), "use jd.steady_state"),
    "D of another shape": (lambda: run(jd.Diffusion(np.ones(7))), "16 cell values or a function of position, got shape"),
    "unknown side": (lambda: run(jd.Diffusion(1.0, boundaries={"y-": jd.absorbing})), "unknown side 'y-'; the sides of this grid are x-, x+"),
    "half a ring": (lambda: run(jd.Diffusion(1.0, boundaries={"x-": jd.Periodic()})), "needs Periodic.. on both sides"),
    "unknown stepper": (lambda: run(jd.Diffusion(1.0), stepper="leapfrog"), "unknown stepper 'leapfrog'"),
    "no substeps": (lambda: run(jd.Diffusion(1.0), stepper=jd.TRBDF2(), substeps=0), "substeps must be a positive whole number"),
    "bad tolerance": (lambda: run(jd.Diffusion(1.0), tolerance=-1.0), "tolerance must lie between 0 and 1"),
    "drift not finite": (lambda: run(jd.FokkerPlanck(lambda x: 1 / (x - 0.5), 1.0)), "drift or potential is inf at x = 0.5"),
    "capacity zero": (lambda: run(jd.Diffusion(1.0, capacity=0.0)), "capacity is 0"),
    "exponential of a moving operator": (
        lambda: run(jd.Diffusion(jd.TimeDependent(lambda t, x: 1 + t)), stepper=jd.Exponential()), "constant in time",
    ),
    "order 4, odd cells": (lambda: jd.solve(jd.Diffusion(1.0), jd.Grid.uniform((0, 1, 15)), 1.0, [0, 1], scheme=jd.FiniteVolume(4)), "even number"),
    "order 4, cell array": (lambda: run(jd.Diffusion(ONES), scheme=jd.FiniteVolume(4)), "smooth coefficients: diffusivity is an array"),
    "order 4, interface": (
        lambda: run(jd.Diffusion(lambda x: jnp.where(x < 0.4, 1.0, 3.0)), scheme=jd.FiniteVolume(4)), "diffusivity jumps by 2 near x = 0.39",
    ),
    "order 4, point mass": (lambda: run(jd.Diffusion(1.0), GRID.delta(0.5), scheme=jd.FiniteVolume(4)), "the cell at x = 0.46875 holds 0.5 of it"),
    "order 3": (lambda: jd.FiniteVolume(3), "order must be 2 or 4"),
    "axis": (lambda: jd.solve(jd.Diffusion(1.0, boundaries={"r-": jd.absorbing}), jd.Grid.radial((0, 1, 5), geometry="spherical"), 1.0, [0, 1]), "axis r = 0"),
    "interpretation": (lambda: jd.FokkerPlanck(0.0, 1.0, interpretation="none"), "interpretation must be one of ito"),
    "edges": (lambda: jd.Grid((np.array([0.0, 1.0, 0.5]),)), "edges must be at least two finite, increasing numbers"),
    "point outside": (lambda: GRID.delta(2.0), "lies outside the grid"),
    "steady closed": (lambda: jd.steady_state(jd.Diffusion(1.0), GRID), "depends on the initial content; pass initial="),
    "steady with a source": (lambda: jd.steady_state(jd.Diffusion(1.0, source=1.0), GRID, ONES), "closed and gains 1 per time"),
    "steady of a moving wall": (
        lambda: jd.steady_state(jd.Diffusion(1.0, boundaries=jd.Dirichlet(jd.TimeDependent(jnp.sin))), GRID), "constant in time",
    ),
    "series of unequal length": (lambda: jd.Series([0.0, 1.0], [1.0, 2.0, 3.0]), "a value per time"),
    "a function of one coordinate on two axes": (lambda: on_plane(jd.Diffusion(lambda x: x)), r"called here with 2 arguments, got lambda\(x\)"),
    "a start of one coordinate on two axes": (lambda: on_plane(jd.Diffusion(1.0), lambda x: x), r"called here with 2 arguments, got lambda\(x\)"),
    "a wall of time and two places": (
        lambda: on_plane(jd.Diffusion(1.0, boundaries=jd.Dirichlet(jd.TimeDependent(lambda t, x, y: t * x)))), r"got TimeDependent\(t, x, y\)",
    ),
    "a drift of one component on two axes": (lambda: on_plane(jd.FokkerPlanck(lambda x, y: x, 1.0)), "returns 2 components, got one number"),
    "a potential over cells": (lambda: jd.Potential(np.zeros((16, 16))), r"as a function of position, got an array of shape \(16, 16\)"),
    "marks within a tensor": (lambda: jd.Tensor([[jd.Free(1.0), 0.0], [0.0, jd.Free(1.0)]]), "a Tensor is marked as a whole"),
    "one coordinate for each of two readings": (lambda: jd.Readings(PLANE, 1.0, [0.1, 0.2], [0.1, 0.9], [1.0, 1.0]), "one row of 2 for each value"),
    "an axis of too many cells": (lambda: jd.Grid.uniform((0, 1, 3 * 10**9)), "at most 134217728 cells"),
    "more states than memory": (
        lambda: jd.solve(jd.Diffusion(1.0), jd.Grid.uniform((0, 1, 10**6)), 1.0, np.linspace(0, 1, 10**6)), "need about .* GiB",
    ),
    "cells finest far from zero": (
        lambda: jd.solve(jd.Diffusion(1.0), jd.Grid(edges=(100.0 - 100 * 0.5 ** np.arange(20.0),)), np.ones(19, np.float32), [0.0, 1.0]),
        "cells along x are 0.00019. wide at 100, which float32 does not tell apart; count x from where they are finest",
    ),
    "a clock far from zero": (lambda: run(jd.Diffusion(1.0), np.float32(ONES), times=[1.7e9, 1.7e9 + 1]), "times near 1.7e.09 that are 1 apart are not told apart in float32"),
    "series with a gap": (lambda: jd.Series([0.0, 1.0], [1.0, np.nan]), "value 1 of a Series is nan"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("d, large", [(1.0, 1e30), (lambda x, y: 1.0 + x, 3e34)], ids=["modes", "products"])
def test_one_number_of_many_that_is_not_finite(bad, d, large):
    """On grids so large that all numbers are summed before each is looked at; the sum of finite ones may overflow."""
    grid = jd.Grid.uniform((0.0, 1.0, 160), (0.0, 1.0, 128))
    u = np.full(grid.shape, large, np.float32)
    assert np.isfinite(jd.solve(jd.Diffusion(d), grid, u, [0.0, 1e-5]).values).all()
    u[17, 101] = bad
    with pytest.raises(ValueError, match=rf"initial state is {bad} in cell \(17, 101\); it must be finite"):
        jd.solve(jd.Diffusion(d), grid, u, [0.0, 1e-5])
    with pytest.raises(Exception, match="initial state is out of range in some cell"):
        jax.block_until_ready(jax.jit(lambda u: jd.solve(jd.Diffusion(d), grid, u, [0.0, 1e-5]).values)(u))


@pytest.mark.parametrize("case", CASES)
def test_one_line_errors(case):
    call, message = CASES[case]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_text_is_no_coefficient():
    with pytest.raises(TypeError, match="jd.Expression for text"):
        jd.Diffusion("1 + x")


def test_text_is_no_time():
    with pytest.raises(TypeError, match="times must be numbers, got 'soon'"):
        run(jd.Diffusion(1.0), times="soon")


def test_errors_reach_the_user_inside_jit():
    with pytest.raises(Exception, match="diffusivity is out of range"):
        jax.block_until_ready(jax.jit(lambda d: run(jd.Diffusion(d)).values)(-1.0))


@pytest.mark.slow
def test_zero_diffusivity_at_a_wall_is_allowed():
    u = run(jd.FokkerPlanck(lambda x: 1.0 - x, lambda x: 0.5 * x)).values[-1]
    assert abs(float(GRID.integrate(u)) - 1.0) < 1e-12


def test_single_precision_follows_the_initial_state():
    u = run(jd.Diffusion(1.0, boundaries=jd.Robin(1.0)), ONES.astype(np.float32)).values
    wide = run(jd.Diffusion(1.0, boundaries=jd.Robin(1.0))).values
    assert u.dtype == jnp.float32
    assert np.abs(u - wide).max() < 1e-5


@pytest.mark.slow
def test_a_diffusivity_that_turns_negative_on_the_way_is_refused():
    grid = jd.Grid.uniform((0.0, 1.0, 24))
    falling = jd.Diffusion(jd.TimeDependent(lambda t, x: 1.0 - 2.0 * t))
    with pytest.raises(ValueError, match="diffusivity is .* it must be positive"):
        jd.solve(falling, grid, lambda x: jnp.cos(jnp.pi * x), [0.0, 1.0])
