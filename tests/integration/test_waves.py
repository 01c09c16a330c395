"""Waves in real and imaginary time against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.discretisation.schemes import FiniteVolume, semidiscrete
from jaxdiff.integration.waves import Turning

RING = jd.Grid.uniform((-10.0, 10.0, 256))
X = RING.centers[0]
GROUND = lambda x: jnp.pi**-0.25 * jnp.exp(-(x**2) / 2)
SHIFTED = lambda x: jnp.pi**-0.25 * jnp.exp(-((x - 3.0) ** 2) / 2)
WELL = jd.Schrodinger(lambda x: x**2 / 2)
PERIODIC = jd.Schrodinger(lambda x: x**2 / 2, boundaries=jd.Periodic())


def free(x, t, k=2.0, s=1.0):
    """A Gaussian packet of width s and wavenumber k without forces, from x = 0 on (ħ = m = 1)."""
    spread = 1 + 1j * t / s**2
    return (
        (np.pi * s**2) ** -0.25
        / np.sqrt(spread)
        * np.exp(-((x - k * t) ** 2) / (2 * s**2 * spread) + 1j * k * (x - k * t / 2))
    )


def norms(grid, waves):
    return np.sqrt(
        np.sum(np.abs(np.asarray(waves)) ** 2, axis=tuple(range(1, np.ndim(waves)))) * grid.volumes.ravel()[0]
    )


@pytest.mark.slow
@pytest.mark.parametrize("equation", [WELL, PERIODIC], ids=["walls", "ring"])
def test_a_coherent_state_comes_back_with_its_sign_turned(equation):
    solution = jd.solve(equation, RING, SHIFTED, [0.0, 2 * np.pi])
    assert np.abs(solution.values[1] + solution.values[0]).max() < 1e-9
    assert solution.method.startswith("split steps of sixth order, ")
    assert abs(norms(RING, solution.values)[1] - 1) < 1e-12


@pytest.mark.slow
def test_polynomials_take_over_where_they_are_cheaper_and_agree():
    few = jd.Grid.uniform((-10.0, 10.0, 80))
    solution = jd.solve(WELL, few, SHIFTED, [0.0, np.pi, 2 * np.pi], tolerance=1e-12)
    assert solution.method.startswith("Chebyshev, ")
    assert np.abs(solution.values[2] + solution.values[0]).max() < 2e-11  # of the wave at the walls
    assert np.abs(solution.values[1] + 1j * solution.values[0][::-1]).max() < 2e-11
    known = jd.solve(WELL, few, SHIFTED, [0.0, 1.0, 2.0], stepper=Turning(1e-12, 4096))
    stepped = jd.solve(WELL, few, SHIFTED, [0.0, 1.0, 2.0], tolerance=1e-9)
    assert np.abs(known.values - stepped.values).max() < 1e-9


@pytest.mark.slow
def test_a_free_packet_and_one_over_a_well_without_reflection():
    grid, times = jd.Grid.uniform((-24.0, 24.0, 512)), np.array([0.0, 1.0, 4.0])
    x = grid.centers[0]
    packet = lambda t: free(x + 8.0, t, s=2.0)
    solution = jd.solve(jd.Schrodinger(0.0), grid, packet(0.0), times)
    assert max(np.abs(psi - packet(t)).max() for psi, t in zip(solution.values, times)) < 1e-9
    # −∂ + tanh takes free waves to those of −sech², whose energies lie the same: all passes.
    slope = lambda t: packet(t) * (-(x + 8.0 - 2.0 * t) / (4 + 1j * t) + 2j)
    over = lambda t: -slope(t) + np.tanh(x) * packet(t)
    well = jd.Schrodinger(lambda x: -1 / jnp.cosh(x) ** 2)
    solution = jd.solve(well, grid, over(0.0), times, tolerance=1e-10)
    assert max(np.abs(psi - over(t)).max() for psi, t in zip(solution.values, times)) < 1e-9


@pytest.mark.slow
def test_a_wave_in_a_box_revives():
    grid = jd.Grid.uniform((0.0, 1.0, 64))
    wave = lambda x: jnp.exp(-((x - 0.3) ** 2) / 2 / 0.07**2 + 20j * x)
    solution = jd.solve(jd.Schrodinger(0.0), grid, wave, [0.0, 2 / np.pi, 4 / np.pi])  # 4 m L²/πħ
    assert np.abs(solution.values[2] - solution.values[0]).max() < 1e-9
    assert np.abs(solution.values[1] + solution.values[0][::-1]).max() < 1e-9  # halfway, mirrored
    solution = jd.solve(jd.Schrodinger(0.0), grid, wave, [0.0, 0.02])
    assert "meets the wall at x+" in solution.method


def driven(A):
    return jd.Schrodinger(jd.TimeDependent(lambda t, x: x**2 / 2 - A * x * jnp.sin(2 * t)))


@pytest.mark.slow
def test_a_driven_oscillator_and_its_derivative():
    grid = jd.Grid.uniform((-10.0, 10.0, 128))

    def mean(A):
        psi = jd.solve(driven(A), grid, GROUND, [0.0, 10.0], tolerance=1e-9).values[-1]
        return jnp.sum(jnp.abs(psi) ** 2 * grid.centers[0]) * grid.volumes[0]

    value, slope = jax.jit(jax.value_and_grad(mean))(1.0)
    assert abs(value + 0.666995824168789) < 1e-8 and abs(slope + 0.666995824168789) < 1e-8
    assert abs(jax.jit(lambda A: jax.jvp(mean, (A,), (1.0,))[1])(1.0) - slope) < 1e-10


@pytest.mark.slow
def test_steps_are_of_sixth_order_and_keep_the_norm():
    system = semidiscrete(PERIODIC, RING, FiniteVolume())[0]
    from jaxdiff.operators.split_step import Parts, split

    operator = system.operator(0.0)
    parts = Parts(operator.kinetic, lambda t: operator.potential, None, operator.basis, True)
    start = jnp.asarray(SHIFTED(X), complex)

    @jax.jit
    def after(duration, steps):
        step = parts.stepper(duration / steps)
        return jax.lax.fori_loop(0, steps, lambda i, psi: step(0.0, psi), start)

    errors = [float(jnp.abs(after(2 * np.pi, n) + start).max()) for n in (12, 24)]
    assert abs(np.log2(errors[0] / errors[1]) - 6.0) < 0.1
    long, nothing = jnp.array([2 * np.pi * 50]), lambda psi: jnp.zeros(1)
    psi, counts, *_ = jax.jit(lambda: split(parts, 0 * long, long, start, 1e-9, 2**17, 10_000 / long[0], nothing))()
    assert counts[0] == 10_000 and abs(norms(RING, psi)[0] - 1) < 1e-12


@pytest.mark.slow
def test_derivatives_follow_waves_backwards():
    grid, start = jd.Grid.uniform((-8.0, 8.0, 64)), lambda x: SHIFTED(x + 1.5)

    def numbers(theta):
        k, m, hbar, length, t, a = theta
        potential = jd.TimeDependent(lambda t, x: k * x**2 / 2 + 0.1 * x**3 * jnp.exp(-(x**2)) * jnp.cos(t))
        layer = lambda x: a * jnp.where(jnp.abs(x) > 5, 1.0, 0.0)
        out = []
        for absorption in (None, layer):
            equation = jd.Schrodinger(potential, mass=m, hbar=hbar, absorption=absorption)
            psi = jd.solve(equation, grid, start, jnp.stack([0.0 * t, t / 2, t]), tolerance=1e-11).values
            out.append(jnp.sum(jnp.abs(psi[1:]) ** 2 * jnp.cos(grid.centers[0] + length)))
        return jnp.stack(out)

    theta = jnp.array([1.1, 0.9, 1.05, 0.3, 1.5, 0.8])
    backward, forward = jax.jit(jax.jacrev(numbers))(theta), jax.jit(jax.jacfwd(numbers))(theta)
    value, h = jax.jit(numbers), 1e-4
    differences = np.stack([(8 * (value(theta + e) - value(theta - e)) - (value(theta + 2 * e) - value(theta - 2 * e))) / 12 / h for e in h * np.eye(6)], axis=1)  # fmt: skip
    assert np.abs(backward - forward).max() < 1e-9
    assert np.abs(backward - differences).max() < 1e-7


@pytest.mark.slow
def test_a_narrow_barrier_far_ahead_is_not_stepped_over():
    grid = jd.Grid.uniform((-30.0, 30.0, 512))
    packet, barrier = (
        lambda x: jnp.exp(-((x + 15) ** 2) / 8 + 4j * x),
        lambda x: 30 * jnp.exp(-(((x - 10) / 0.15) ** 2)),
    )
    terms = jd.solve(jd.Schrodinger(barrier), grid, packet, [0.0, 6.0])
    steps = jd.solve(jd.Schrodinger(barrier, absorption=1e-30), grid, packet, [0.0, 6.0])
    assert terms.method.startswith("Chebyshev") and steps.method.startswith("split steps")
    assert np.abs(steps.values[1] - terms.values[1]).max() < 1e-9


@pytest.mark.slow
def test_layers_absorb_what_comes():
    grid, wide = jd.Grid.uniform((-20.0, 20.0, 256)), jd.Grid.uniform((-40.0, 40.0, 512))
    start = lambda x: GROUND(x + 5.0) * jnp.exp(3j * x)
    layer = lambda x: 3.0 * jnp.clip((jnp.abs(x) - 10) / 10, 0.0, 1.0) ** 3
    times = [0.0, 5.0, 10.0]
    absorbed = jd.solve(jd.Schrodinger(0.0, absorption=layer), grid, start, times)
    passed = jd.solve(jd.Schrodinger(0.0), wide, start, times)
    inside = np.abs(grid.centers[0]) < 9
    assert np.abs(np.abs(absorbed.values) - np.abs(passed.values[:, 128:384]))[:, inside].max() < 5e-3
    left = norms(grid, absorbed.values)
    assert left[0] > left[1] > left[2] and left[2] < 0.5


@pytest.mark.slow
def test_ground_states_in_imaginary_time():
    def fades(equation, grid, start, times):
        solution = jd.solve(equation, grid, start, times)
        size = norms(grid, solution.values)
        return -np.log(size[2] / size[1]) / (times[2] - times[1]), np.asarray(solution.values[2]) / size[2]

    plane = jd.Grid.uniform((-6.0, 6.0, 32), (-6.0, 6.0, 32))
    oscillator = jd.Schrodinger(lambda x, y: (x**2 + 2 * y**2) / 2, imaginary_time=True)
    energy, psi = fades(oscillator, plane, lambda x, y: jnp.exp(-((x - 1) ** 2) - y**2), [0.0, 16.0, 17.0])
    assert abs(energy - (1 + np.sqrt(2)) / 2) < 1e-6
    x, y = np.meshgrid(*plane.centers, indexing="ij")
    exact = 2**0.125 / np.sqrt(np.pi) * np.exp(-(x**2 + np.sqrt(2) * y**2) / 2)
    assert np.abs(psi - exact).max() < 1e-6
    # r ψ of hydrogen, where the pole of the potential at the wall leaves errors of the second and third power of the width of cells
    found = []
    for n in (100, 200, 400):
        line = jd.Grid.uniform((0.0, 20.0, n))
        atom = jd.Schrodinger(lambda r: -1 / r, imaginary_time=True)
        found.append(fades(atom, line, lambda r: r * jnp.exp(-0.8 * r), [0.0, 30.0, 31.0])[0])
    once = (4 * np.array(found[1:]) - found[:-1]) / 3
    assert abs((8 * once[1] - once[0]) / 7 + 0.5) < 1e-6


@pytest.mark.slow
def test_energies_and_modes():
    well = lambda c: jd.Schrodinger(lambda x: x**2 / 2 + c * x**4 / 4)
    grid = jd.Grid.uniform((-8.0, 8.0, 128))
    of = jax.jit(lambda c: jd.spectrum(well(c), grid, 4))
    energies, modes = of(1.0)
    assert np.abs(energies - np.array([0.62092703, 2.02596616, 3.69845032, 5.55757714])).max() < 1e-8
    assert np.abs(np.sum(modes**2, 1) * grid.volumes[0] - 1).max() < 1e-12
    slopes = jax.jit(jax.jacrev(lambda c: of(c)[0]))(1.0)
    assert np.abs(slopes - np.sum(modes**2 * grid.centers[0] ** 4 / 4, 1) * grid.volumes[0]).max() < 1e-10
    width = lambda c: jnp.sum(of(c)[1][1] ** 2 * grid.centers[0] ** 2) * grid.volumes[0]
    assert abs(jax.grad(width)(1.0) - (width(1.0 + 1e-4) - width(1.0 - 1e-4)) / 2e-4) < 1e-6
    plane = jd.Grid.uniform((-6.0, 6.0, 40), (-6.0, 6.0, 40))  # too large for a matrix
    found, _ = jd.spectrum(jd.Schrodinger(lambda x, y: (x**2 + 2 * y**2) / 2), plane, 5)
    exact = np.sort([i + 0.5 + np.sqrt(2) * (j + 0.5) for i in range(6) for j in range(6)])[:5]
    assert np.abs(found - exact).max() < 1e-8


@pytest.mark.slow
def test_energies_on_a_ring():
    """(2πm/L)²/2, and by first order of a weak potential ε cos(4πx/L), which parts the two of m = 1 by ε."""
    ring, L = jd.Grid.uniform((0.0, 3.0, 32)), 3.0
    of = jax.jit(lambda c: jd.spectrum(jd.Schrodinger(lambda x: c * jnp.cos(4 * jnp.pi * x / L), boundaries=jd.Periodic()), ring, 3)[0])  # fmt: skip
    np.testing.assert_allclose(of(0.0), (2 * np.pi / L) ** 2 / 2 * np.array([0.0, 1.0, 1.0]), atol=1e-12)
    np.testing.assert_allclose(jax.jacfwd(of)(1e-6), [0.0, -0.5, 0.5], atol=1e-5)


@pytest.mark.slow
def test_several_axes():
    space = jd.Grid.uniform(*[(-5.0, 5.0, 24)] * 3)
    wave = lambda x, y, z: GROUND(x - 0.5) * GROUND(y) * GROUND(z + 0.5)
    ring = {"x": jd.Periodic(), "y": jd.Dirichlet(), "z": jd.Neumann()}
    solution = jd.solve(
        jd.Schrodinger(lambda x, y, z: (x**2 + y**2 + z**2) / 2, boundaries=ring),
        space,
        wave,
        [0.0, np.pi],
        tolerance=1e-7,
    )
    x, y, z = np.meshgrid(*space.centers, indexing="ij")
    mirrored = np.exp(-1.5j * np.pi) * wave(x + 1.0, y, z - 1.0)  # at half a period
    assert np.abs(solution.values[1] - mirrored).max() < 1e-5


@pytest.mark.slow
def test_currents_energy_and_momentum():
    system = semidiscrete(WELL, RING, FiniteVolume())[0]
    psi = jnp.asarray(free(X, 0.5))
    assert abs(system.momentum(psi, 0) - 2.0) < 1e-10
    mean_square = float(jnp.sum(jnp.abs(psi) ** 2 * X**2) * RING.volumes[0])
    assert abs(system.energy(0.0, psi) - (2.0 + 0.25 + mean_square / 2)) < 1e-10
    exact = lambda x: np.imag(np.conj(free(x, 0.5)) * free(x, 0.5) * (-(x - 1.0) / (1 + 0.5j) + 2j))
    assert np.abs(system.fluxes(0.0, psi) - exact(RING.edges[0])).max() < 1e-10


@pytest.mark.slow
def test_the_schrodinger_form_of_a_fokker_planck_equation():
    two_wells, grid = jd.Potential(lambda x: x**4 / 4 - x**2 / 2), jd.Grid.uniform((-3.0, 3.0, 128))
    random = jd.FokkerPlanck(two_wells, 0.1, killing=0.3)
    wave, weight = jd.schrodinger_form(random, boundaries=jd.Dirichlet())
    energies, modes = jd.spectrum(wave, grid, 3)
    coarse, fine = (jd.spectrum(random, jd.Grid.uniform((-3.0, 3.0, n)), 3)[0] for n in (250, 500))
    assert np.abs(energies + (4 * fine - coarse) / 3).max() < 1e-6
    x, weights = grid.centers[0], jax.vmap(weight)(grid.centers[0])
    rest = np.asarray(modes[0]) * weights
    assert np.abs(rest / rest.max() - np.exp(-(x**4 / 4 - x**2 / 2 - (x**4 / 4 - x**2 / 2).min()) / 0.1)).max() < 1e-9
    start = lambda x: jnp.exp(-40 * (x - 1) ** 2)
    p = jd.solve(random, grid, start, [0.0, 2.0], scheme=jd.FiniteVolume(order=4)).values[1]
    psi = jd.solve(wave, grid, lambda x: start(x) / weight(x), [0.0, 2.0]).values[1]
    assert np.abs(psi * weights - p).max() < 5e-3 * p.max()


@pytest.mark.parametrize(
    "equation, grid, start, words",
    [
        (WELL, RING, lambda x: 0.0 * x, "norm 0"),
        (WELL, RING, lambda x: 1.0 / (x - X[3]), "finite"),
        (WELL, RING, lambda x: jnp.exp(39j * x), "hardly longer than two cells"),
        (jd.Schrodinger(lambda x: 1e4 * x), RING, SHIFTED, "hardly longer than two cells"),
        (jd.Schrodinger(0.0, mass=-1.0), RING, SHIFTED, "mass is -1"),
        (jd.Schrodinger(0.0, absorption=-1.0), RING, SHIFTED, "absorption"),
        (jd.Schrodinger(0.0, boundaries=jd.Dirichlet(1.0)), RING, SHIFTED, "walls at zero"),
        (jd.Schrodinger(0.0, boundaries=jd.Robin(1.0)), RING, SHIFTED, "Robin"),
        (WELL, jd.Grid((np.array([0.0, 1.0, 3.0]),)), SHIFTED, "equal cells"),
        (WELL, jd.States(3), np.ones(3), "got states"),
        (jd.Schrodinger(lambda x: 1 / (x - X[3])), RING, SHIFTED, "potential"),
        (WELL, RING, np.ones(3), "shape"),
        (jd.Schrodinger(0.0, hbar=0.0), RING, SHIFTED, "hbar is 0"),
        (jd.Schrodinger(-1j * np.ones(256)), RING, SHIFTED, "absorption"),
        (jd.Diffusion(1.0), RING, 1j * np.ones(256), "complex"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(equation, grid, start, words):
    with pytest.raises((ValueError, TypeError), match=words) as found:
        jd.solve(equation, grid, start, [0.0, 1.0])
    assert "\n" not in str(found.value)


def test_questions_that_waves_do_not_answer():
    for ask in (jd.steady_state, jd.mean_first_passage_time, jd.probability_current):
        with pytest.raises(ValueError, match="spectrum"):
            ask(WELL, RING)
    with pytest.raises(ValueError, match="tolerance"):
        jd.solve(WELL, RING, SHIFTED, [0.0, 1.0], stepper=jd.TRBDF2())
    with pytest.raises(ValueError, match="imaginary"):
        jd.Schrodinger(jd.TimeDependent(lambda t, x: t * x), imaginary_time=True)


@pytest.mark.slow
def test_single_precision():
    with jax.enable_x64(False):
        solution = jd.solve(WELL, RING, lambda x: SHIFTED(x), [0.0, 2 * np.pi], tolerance=1e-4)
        assert solution.values.dtype == jnp.complex64
        assert np.abs(solution.values[1] + solution.values[0]).max() < 3e-4
