"""What waves do between outputs, where potentials jump, and what roundoff makes of them: right, or said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm
from scipy.optimize import brentq

import jaxdiff as jd
from jaxdiff.discretisation.schemes import FiniteVolume, semidiscrete
from jaxdiff.integration.waves import SplitSteps
from jaxdiff.operators.split_step import Parts, split

GRID = jd.Grid.uniform((-8.0, 8.0, 48))
X = np.asarray(GRID.centers[0])
SHIFTED = lambda x: jnp.pi**-0.25 * jnp.exp(-((x - 1.0) ** 2) / 2)
PSI = np.asarray(SHIFTED(X))
HARMONIC = lambda x: x**2 / 2


def hamiltonian(potential):
    """A matrix in the sines of the box, by sums."""
    n = len(X)
    q = np.arange(1, n + 1) * np.pi / 16.0
    sines = np.sin(np.outer(X + 8.0, q))
    sines = sines / np.linalg.norm(sines, axis=0)
    return (sines * q**2 / 2) @ sines.T + np.diag(potential)


@pytest.mark.slow
def test_a_potential_that_jumps_in_time():
    """By a product of two exponentials; the derivative by the time of the jump is that of the product."""
    after = lambda on: expm(-1j * (4 - on) * hamiltonian(X**2 / 2 + X)) @ expm(-1j * on * hamiltonian(X**2 / 2)) @ PSI
    switched = lambda on: jd.Schrodinger(jd.TimeDependent(jd.Expression("x**2/2 + x*where(t < on, 0, 1)", on=on)))
    run = lambda on: jd.solve(switched(on), GRID, SHIFTED, [0.0, 4.0], tolerance=1e-9).values[1]
    mean = lambda on: jnp.sum(jnp.abs(run(on)) ** 2 * X) * GRID.volumes[0]
    assert np.abs(jax.jit(run)(1.2345) - after(1.2345)).max() < 1e-8
    exact = lambda on: np.sum(np.abs(after(on)) ** 2 * X) * GRID.volumes[0]
    assert abs(jax.grad(mean)(1.2345) - (exact(1.2346) - exact(1.2344)) / 2e-4) < 1e-6
    hidden = jd.Schrodinger(jd.TimeDependent(lambda t, x: x**2 / 2 + x * jnp.where(t < 1.2345, 0.0, 1.0)))
    with pytest.raises(ValueError, match="say when the potential jumps"):
        jd.solve(hidden, GRID, SHIFTED, [0.0, 4.0])


@pytest.mark.slow
def test_waves_over_noise_are_within_the_tolerance():
    """Where errors fall slower with the length of steps than in smooth wells; many stretches, each of two steps, too."""
    operator = semidiscrete(jd.Schrodinger(0.0), GRID, FiniteVolume())[0].operator(0.0)

    @jax.jit
    def run(potential, times):
        parts = Parts(operator.kinetic, lambda t: potential, None, operator.basis, True)
        psi, nothing = jnp.asarray(PSI, complex), lambda psi: jnp.zeros(1)
        waves, _, error, _ = split(parts, times[:-1], jnp.diff(times), psi, 1e-6, 2.0**14, 0.0, nothing)
        return waves[-1], error

    for seed in range(8):
        rng = np.random.default_rng(seed)
        noise, end = 10 ** rng.uniform(-1, 1.5) * rng.normal(size=48), 10 ** rng.uniform(-1, 1)
        exact = expm(-1j * end * hamiltonian(noise)) @ PSI
        for outputs in (1, 9):
            wave, error = run(noise, np.linspace(0.0, end, outputs + 1))
            assert error <= 1e-6 and np.linalg.norm(wave - exact) < 1e-6 * np.linalg.norm(PSI)


def test_a_smooth_well_takes_few_steps():
    solution = jd.solve(jd.Schrodinger(HARMONIC), GRID, SHIFTED, [0.0, 2 * np.pi], stepper=SplitSteps(1e-6, False))
    assert np.linalg.norm(solution.values[1] + PSI) < 1e-6 * np.linalg.norm(PSI)
    assert int(solution.method.split(", ")[1].split()[0]) <= 18


@pytest.mark.slow
def test_a_short_kick_after_a_long_rest_is_seen():
    """A free packet takes up the momentum 2 in a time of 1/5000 of all."""
    kick = lambda t, x: -x * 2e3 / np.sqrt(np.pi) * jnp.exp(-(((t - 3.1234) / 1e-3) ** 2))
    solution = jd.solve(jd.Schrodinger(jd.TimeDependent(kick), mass=4.0), GRID, SHIFTED, [0.0, 4.0], tolerance=1e-6)
    mean = np.sum(np.abs(solution.values[1]) ** 2 * X) * GRID.volumes[0]
    assert abs(mean - 1.0 - 2 / 4 * (4.0 - 3.1234)) < 1e-5


@pytest.mark.slow
def test_a_wall_that_is_met_between_outputs_is_said():
    box, away = jd.Grid.uniform((0.0, 1.0, 64)), lambda x: jnp.exp(-((x - 0.3) ** 2) / 2 / 0.05**2)
    solution = jd.solve(jd.Schrodinger(0.0), box, away, [0.0, 4 / np.pi])  # it revives
    assert "meets the wall at x-, meets the wall at x+" in solution.method
    assert np.abs(solution.values[1] - solution.values[0]).max() < 1e-9
    sums = jd.solve(jd.Schrodinger(lambda x: 1e3 * x), box, away, [0.0, 0.9])
    assert sums.method.startswith("Chebyshev") and "meets the wall at x-" in sums.method


@pytest.mark.slow
def test_a_well_with_its_edges_within_cells():
    """Energies fall as the cube of the width of cells wherever the edges are, and have a derivative by their place."""

    def exact(a, depth=5.0):
        return brentq(lambda e: np.sqrt(2 * e) * np.tan(np.sqrt(2 * e) * a) - np.sqrt(2 * (depth - e)), 1e-9, 1.0)

    well = lambda a: jd.Schrodinger(lambda x: jnp.where(jnp.abs(x) < a, 0.0, 5.0))
    energy = lambda n: jax.jit(jax.value_and_grad(lambda a: jd.spectrum(well(a), jd.Grid.uniform((-8.0, 8.0, n)), 1)[0][0]))  # fmt: skip
    coarse, fine = energy(192), energy(384)
    for a in (1.0, 1.01, 1.03, 1.0625, 1.07):
        assert abs(coarse(a)[0] - exact(a)) < 6e-4 and abs(fine(a)[0] - exact(a)) < 8e-5
        assert abs(fine(a)[1] - (exact(a + 1e-4) - exact(a - 1e-4)) / 2e-4) < 2e-2
    smooth = jax.jit(lambda a: jd.spectrum(jd.Schrodinger(lambda x: a * x**2 / 2), GRID, 1)[0][0])
    assert abs(smooth(1.0) - 0.5) < 1e-12


@pytest.mark.slow
def test_roundoff_that_grows_in_imaginary_time_is_said():
    grid = jd.Grid.uniform((-8.0, 8.7, 48))
    fading = jd.Schrodinger(HARMONIC, imaginary_time=True)
    first = jd.spectrum(fading, grid, 2)[1][1]
    early = jd.solve(fading, grid, first, [0.0, 5.0]).values[1]
    assert np.abs(early * np.exp(7.5) - first).max() < 1e-10
    with pytest.raises(ValueError, match="roundoff may have grown"):
        jd.solve(fading, grid, first, [0.0, 5.0, 40.0])
    jd.solve(fading, grid, lambda x: jnp.exp(-((x - 4.0) ** 2)), [0.0, 5.0, 40.0])


@pytest.mark.parametrize("depth, words", [(-1e3, "grows beyond all numbers"), (-600.0, "hardly longer than two cells")])
def test_a_ground_state_that_no_number_or_no_cells_hold_is_said(depth, words):
    well = jd.Schrodinger(lambda x: depth * jnp.exp(-(x**2) / 2), imaginary_time=True)
    with pytest.raises(ValueError, match=words):
        jd.solve(well, GRID, lambda x: jnp.exp(-(x**2)), [0.0, 0.5 if depth > -1e3 else 1.0])


def test_energies_that_fall_together_share_their_derivative():
    ring = jd.Grid.uniform((0.0, 3.0, 32))
    field = lambda c: jd.Schrodinger(lambda x: c * (1 + jnp.cos(4 * jnp.pi * x / 3)), boundaries=jd.Periodic())
    slopes = jax.jit(jax.jacfwd(lambda c: jd.spectrum(field(c), ring, 3)[0]))
    np.testing.assert_allclose(slopes(0.0), [1.0, 1.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(slopes(1e-6), [1.0, 0.5, 1.5], atol=1e-5)


@pytest.mark.parametrize(
    "equation, start, words",
    [
        (jd.Schrodinger(0.0, mass=np.ones(48)), SHIFTED, "mass is one real number, got shape"),
        (jd.Schrodinger(0.0, hbar=1 + 1j), SHIFTED, "hbar is one real number, got a complex one"),
        (jd.Schrodinger(lambda x: -1j * x**2), SHIFTED, "potential is real, got complex numbers"),
        (jd.Schrodinger(0.0, absorption=1j * np.ones(48)), SHIFTED, "absorption is real"),
        (jd.Schrodinger(HARMONIC), SHIFTED, "more than are taken"),
    ],
)
def test_what_cannot_be_is_said_of_its_cause(equation, start, words):
    with pytest.raises(ValueError, match=words):
        jd.solve(equation, GRID, start, [0.0, 1e6])


@pytest.mark.slow
def test_states_of_other_numbers():
    """In single precision within a session of double, whole numbers, and where nothing moves."""
    well, times = jd.Schrodinger(jd.TimeDependent(lambda t, x: x**2 / 2 + 0 * t)), [0.0, 2 * np.pi]
    single = jd.solve(well, GRID, PSI.astype(np.float32), times, tolerance=1e-5).values
    assert single.dtype == np.complex64 and np.abs(single[1] + PSI).max() < 1e-4
    heavy = jd.Schrodinger(2.0, mass=1e300)
    whole = np.round(100 * PSI).astype(int)
    assert np.abs(jd.solve(heavy, GRID, whole, [0.0, 1.0]).values[1] - whole * np.exp(-2j)).max() < 1e-10


@pytest.mark.slow
def test_readings_of_waves_are_of_the_norm_one():
    """But an energy is expected of waves of any norm."""
    twice = lambda x: 2 * SHIFTED(x)
    model, starts = lambda k: jd.Schrodinger(lambda x: k * x**2 / 2), {"k": jd.Positive(1.0)}
    system = semidiscrete(model(1.0), GRID, FiniteVolume())[0]
    assert abs(jd.Energy().value(system, 0.0, jnp.asarray(2 * PSI)) - 1.0) < 1e-9
    assert abs(jd.Momentum().value(system, 0.0, jnp.asarray(2 * PSI * np.exp(0.5j * X))) - 0.5) < 1e-9
    with pytest.raises(ValueError, match="has the norm 2"):
        jd.fit(model, jd.Readings(GRID, twice, [0.5, 1.0], [0.0, 0.5], [0.1, 0.2], sigma=0.01), parameters=starts)
