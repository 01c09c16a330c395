"""Currents, entropy production, and drift and diffusion over long times, against quadrature, Taylor and Aris, and differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import central, each_way

import jaxdiff as jd

RING, LINE = jd.Periodic(), jd.Grid.uniform((0.0, 1.0, 12))
PLANE = jd.Grid.uniform((0.0, 1.0, 5), (0.0, 2.0, 6))
TILTED = {
    0.5: (0.175593406037, 0.423588797443),
    1.0: (0.626523187421, 0.795241035230),
    1.5: (1.19423409190, 0.768879665774),
}


def along(force, cells):
    """A tilted cosine: velocity, diffusivity, and the work against friction over kT."""
    grid = jd.Grid.uniform((0.0, 2 * np.pi, cells))
    ring = jd.FokkerPlanck(jd.Potential(lambda x: jnp.cos(x) - force * x), 0.5, boundaries=RING)
    (current,) = jd.probability_current(ring, grid)
    return jnp.stack(
        [
            *jd.effective_diffusion(ring, grid),
            jd.entropy_production(ring, grid),
            current[0],
            current[0] - current[cells // 3],
        ]
    )


@pytest.mark.slow
def test_a_tilted_periodic_potential():
    coarse, fine = (jax.jit(jax.vmap(lambda force, n=n: along(force, n)))(np.array(list(TILTED))) for n in (60, 120))
    velocity, diffusivity, entropy, current, uneven = ((4 * fine - coarse) / 3).T
    np.testing.assert_allclose(np.stack([velocity, diffusivity], 1), list(TILTED.values()), rtol=2e-6)
    np.testing.assert_allclose(entropy, [0.175593406, 1.253046375, 3.582702276], rtol=1e-6)
    np.testing.assert_allclose(2 * np.pi * current, velocity, rtol=1e-10)
    assert (np.abs(uneven) < 1e-12).all()


@pytest.mark.slow
def test_its_derivatives():
    f = lambda force: along(force, 20)[:3]
    every = jax.jit(partial(each_way, f))
    expected = central(lambda p: every(p)[0], 0.7)
    for derivative in every(0.7)[1:]:
        np.testing.assert_allclose(derivative, expected, rtol=1e-7)


@pytest.mark.slow
def test_dispersion_in_a_tube_is_that_of_taylor_and_aris():
    """D (1 + U²a²/48D²); cells are short along the tube, where the flow carries over many diffusion lengths."""

    def spread(cells):
        grid = jd.Grid.radial((0.0, 1.0, cells), (0.0, 0.01, 3), geometry="cylindrical")
        tube = jd.FokkerPlanck((0.0, lambda r, z: 2 * (1 - r**2)), 0.1, boundaries={"z": RING})
        return np.array(jd.effective_diffusion(tube, grid))

    np.testing.assert_allclose((4 * spread(24) - spread(12)) / 3, [1.0, 0.1 * (1 + 100 / 48)], rtol=1e-4)


@pytest.mark.slow
def test_a_torus_moves_as_its_drift():
    torus = jd.FokkerPlanck((2.0, -3.0), jd.PerAxis(0.5, 0.2), boundaries=RING)
    velocity, diffusivity = jd.effective_diffusion(torus, jd.Grid.uniform((0.0, 1.0, 12), (0.0, 1.0, 20)))
    np.testing.assert_allclose(velocity, [2.0, -3.0], rtol=1e-10)
    exact = lambda d, f, h: f * h / 2 / np.tanh(f * h / 2 / d)  # of hops in exponentially fitted fluxes
    np.testing.assert_allclose(diffusivity, np.diag([exact(0.5, 2.0, 1 / 12), exact(0.2, 3.0, 1 / 20)]), atol=1e-10)


@pytest.mark.slow
def test_a_current_is_what_changes_the_content():
    turning = (lambda x, y: jnp.sin(3 * y), lambda x, y: 1.0 - x)
    equation = jd.FokkerPlanck(turning, 0.3, boundaries={"x-": jd.absorbing, "y": RING})
    density = 1 + np.random.default_rng(0).random(PLANE.shape)
    along_x, along_y = jd.probability_current(equation, PLANE, density)
    lost = jnp.diff(along_x, axis=0) * PLANE.widths[1] + jnp.diff(along_y, axis=1) * PLANE.widths[0][:, None]
    near = jd.solve(equation, PLANE, density, [0.0, 1e-6]).values
    np.testing.assert_allclose((near[1] - near[0]) / 1e-6, -lost / PLANE.volumes, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(along_y[:, 0], along_y[:, -1], rtol=1e-12)


@pytest.mark.slow
def test_entropy_is_produced_as_free_energy_falls():
    """−dF/dt = ∫ J²/(D p) = σ of a closed domain in detailed balance, with F = ∫ p ln(p/p₀)."""
    well = jd.FokkerPlanck(jd.Potential(lambda x: 3 * x**2), 1.0)
    rest, start = jd.steady_state(well, LINE), LINE.average(lambda x: 2 * x)
    free = lambda p: float(LINE.integrate(p * jnp.log(p / rest)))
    late = jd.solve(well, LINE, start, [0.0, 1e-5, 2e-5]).values
    falling = -(free(late[2]) - free(late[0])) / 2e-5
    assert float(jd.entropy_production(well, LINE, late[1])) == pytest.approx(falling, rel=1e-5)
    assert abs(float(jd.entropy_production(well, LINE))) < 1e-25
    cycle = jd.MasterEquation([[0.0, 1.0, 2.0], [2.0, 0.0, 1.0], [1.0, 2.0, 0.0]])
    assert float(jd.entropy_production(cycle, None)) == pytest.approx(np.log(2), rel=1e-12)
    np.testing.assert_allclose(jd.probability_current(cycle, None)[0][:, 0], [0.0, 1 / 3, -1 / 3], atol=1e-12)
    tensor = jd.Tensor(np.array([[2.0, 0.7], [0.7, 1.0]]))
    assert float(jd.entropy_production(jd.FokkerPlanck((1.0, 2.0), tensor, boundaries=RING), PLANE)) > 1.0


walk = jd.FokkerPlanck(1.0, 0.5)


def masked(*outside):
    mask = np.ones((8, 6), bool)
    for cells in outside:
        mask[cells] = False
    return jd.Grid.uniform((0.0, 1.0, 8), (0.0, 1.2, 6), mask=mask)


ALONG = {"x": RING}
flowing = jd.FokkerPlanck((lambda x, y: y * (0.8 - y), 0.0), 0.1, boundaries=ALONG)


@pytest.mark.slow
def test_a_masked_channel_is_a_narrow_one():
    narrow = jd.Grid.uniform((0.0, 1.0, 8), (0.0, 0.8, 4))
    masked_, plain = (jd.effective_diffusion(flowing, grid) for grid in (masked(np.s_[:, 4:]), narrow))
    np.testing.assert_allclose(masked_, plain, rtol=1e-11)
    assert float(plain.velocity) > 0.1
    winding = jd.effective_diffusion(jd.Diffusion(0.1, boundaries=ALONG), masked(np.s_[3, :5], np.s_[6, 1:]))
    assert 0.0 < float(winding.diffusivity) < 0.05


REFUSED = {
    "blocked": (lambda: jd.effective_diffusion(flowing, masked(np.s_[3])), "nothing gets around"),
    "channels": (lambda: jd.effective_diffusion(flowing, masked(np.s_[:, 2])), "several channels with no way between"),
    "open": (lambda: jd.entropy_production(jd.Diffusion(1.0, boundaries=jd.absorbing), LINE, 1.0), "content leaves"),
    "one way": (lambda: jd.entropy_production(jd.FokkerPlanck(1.0, 0.0, boundaries=RING), LINE), "infinite"),
    "hops alone": (
        lambda: jd.effective_diffusion(jd.FokkerPlanck(1.0, 0.0, boundaries=RING), LINE),
        "made by the cells",
    ),
    "walls": (lambda: jd.effective_diffusion(walk, LINE), "no axis is periodic"),
    "killed": (
        lambda: jd.effective_diffusion(jd.FokkerPlanck(1.0, 0.5, killing=1.0, boundaries=RING), LINE),
        "nothing is left",
    ),
    "in time": (
        lambda: jd.probability_current(jd.Diffusion(jd.TimeDependent(lambda t: 1 + t)), LINE, 1.0),
        "constant in time",
    ),
    "tensor": (
        lambda: jd.probability_current(jd.Diffusion(jd.Tensor(np.eye(2))), PLANE, 1.0),
        "no flux is that of a face",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_answer_is_refused_in_one_line(name):
    call, words = REFUSED[name]
    with pytest.raises(ValueError, match=words) as raised:
        call()
    assert "\n" not in str(raised.value)
