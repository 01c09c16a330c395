"""A boundary of one's own: a wall of traps that absorb what reaches them, and are themselves few.

Berg & Purcell 1977, doi:10.1016/S0006-3495(77)85544-6: N disks of radius a on a sphere of radius R absorb as if the whole
sphere did so at the rate 4 D N a/(4 π R²), beside what diffusion brings to it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd


class Traps(jd.Boundary):
    """J·n = κ (u − released),  κ = D·disks·radius/(π·sphere²)"""

    disks: float
    radius: float = 0.02
    sphere: float = 1.0
    released: float = 0.0

    levels = ("released",)

    def eliminate(self, cell, disks, radius, sphere, released):
        kappa = cell.diffusivity * disks * radius / (jnp.pi * sphere**2)
        share = kappa / (kappa + cell.back)  # of the way from the centre to the traps, behind the half cell
        return share * cell.out, share * cell.back * released


D, KAPPA = 0.5, 0.5 * 30 * 0.02 / np.pi
LINE = jd.Grid.uniform((0.0, 1.0, 60))
PLANE = jd.Grid.uniform((0.0, 1.0, 6), (0.0, 1.0, 5))


def held(wall):
    return jd.Diffusion(D, boundaries={"x-": jd.Dirichlet(1.0), "x+": wall})


def refused(words, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except (TypeError, ValueError) as error:
        return words in str(error) and "\n" not in str(error)
    return False


@pytest.mark.slow
def test_a_boundary_from_outside_is_treated_as_one_from_inside():
    own, robin = Traps(disks=30.0, released=0.2), jd.Robin(KAPPA, 0.2)
    tensor = lambda wall: jd.FokkerPlanck(
        lambda x, y: (y, x), jd.Tensor(np.array([[D, 0.1], [0.1, 0.3]])), boundaries={"x+": wall}
    )
    moving = lambda size: jd.TimeDependent(lambda t: size * (1 + jnp.sin(40.0 * t)))
    cases = [(held, LINE, 800, own, robin), (tensor, PLANE, 20, own, robin)]
    cases += [(held, LINE, 800, Traps(disks=moving(30.0), released=0.2), jd.Robin(moving(KAPPA), 0.2))]
    for make, grid, substeps, *walls in cases:
        euler = {"stepper": jd.ForwardEuler(), "substeps": substeps}
        one, two = (jd.solve(make(wall), grid, 1.0, [0.0, 0.1], **euler).values for wall in walls)
        np.testing.assert_allclose(one, two, rtol=1e-5)

    with jax.enable_x64(True):
        rest = np.asarray(jd.steady_state(held(Traps(disks=30.0)), LINE), float)
    places = np.array([0.2, 0.5, 0.9])
    readings = jd.Readings(LINE, None, np.full(3, np.inf), places, np.interp(places, LINE.centers[0], rest), sigma=0.01)
    fit = jd.fit(held(Traps(disks=jd.Positive(10.0))), readings, progress=False)
    assert abs(fit.parameters["boundaries.x+.disks"] - 30.0) < 1e-3
    assert 0 < fit.standard_errors["boundaries.x+.disks"] < 10

    assert refused("got Traps", jd.solve, held(own), LINE, 1.0, [0.0, 1.0], scheme=jd.Spectral())
    path = jd.Trajectory(LINE, [0.0, 0.1], [0.5, 0.6])
    assert refused("got Traps", jd.fit, jd.Diffusion(jd.Positive(D), boundaries=own), path, progress=False)


class Closed(Traps):
    """Traps that say they keep everything in."""

    open = False


class Held(Traps):
    """Traps that say they hold the value."""

    fixes_value = True


class Half(jd.Boundary):
    """A law that forgets its inflow."""

    def eliminate(self, cell):
        return cell.out


def test_what_a_boundary_says_of_itself_is_held_against_its_law():
    for wall, words in ((Closed(30.0), "says open = False"), (Held(30.0), "says fixes_value = True")):
        assert refused(words, jd.solve, jd.Diffusion(D, boundaries={"x+": wall}), PLANE, 1.0, [0.0, 0.1])
    assert refused("must return (outflow, inflow)", jd.solve, held(Half()), LINE, 1.0, [0.0, 0.1])
