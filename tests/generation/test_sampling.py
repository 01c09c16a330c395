"""Samples and likelihoods from exact scores, against the library's own Fokker–Planck solutions and closed forms."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.generation import GaussianMixture, Process, log_likelihood, sample, solved_score

PROCESS = Process()
LINE = GaussianMixture([0.3, 0.7], [-0.8, 1.0], [0.04, 0.15])
PLANE = GaussianMixture([0.4, 0.6], [[-1.0, 0.0], [1.0, 0.5]], [[[0.3, 0.2], [0.2, 0.3]], [[0.1, -0.05], [-0.05, 0.1]]])
SHARP = GaussianMixture([0.3, 0.7], [-0.5, 1.0], [1e-4, 1e-4])
MANY = 20_000


class Solved:
    """A mixture and what `solve` makes of it on a grid."""

    def __init__(self, mixture, grid, **how):
        self.mixture, self.grid, self.times = mixture, grid, np.linspace(0.0, 1.0, 41)
        clean = mixture.noised(PROCESS, 0.0)
        of = lambda *x: jnp.exp(clean.log_density(jnp.stack(x).reshape(1, *mixture.shape))[0])
        self.solution = jd.solve(PROCESS.equation(grid.ndim), grid, of, self.times, **how)
        self.score = solved_score(self.solution)

    def density(self, t):
        return np.asarray(self.solution.values[int(np.abs(self.times - t).argmin())])


@pytest.fixture(scope="module")
def solved():
    return {
        1: Solved(LINE, jd.Grid.uniform((-6.0, 6.0, 300))),
        2: Solved(
            PLANE, jd.Grid.uniform((-5.0, 5.0, 80), (-5.0, 5.0, 80)), stepper=jd.Strang(jd.CrankNicolson()), substeps=4
        ),
    }


def divergence(x, grid, density, together=5):
    """KL of a histogram of samples from a density in bins of `together` cells an axis, over that which sampling makes."""
    edges = [e[::together] for e in grid.edges]
    shape = [n for e in edges for n in (len(e) - 1, together)]
    wanted = np.ravel((density * grid.volumes).reshape(shape).sum(tuple(range(1, 2 * grid.ndim, 2))))
    found = np.ravel(np.histogramdd(np.asarray(x).reshape(len(x), -1), edges)[0]) / len(x)
    rare = wanted * len(x) < 10
    wanted, found = (np.append(p[~rare], p[rare].sum()) for p in (wanted / wanted.sum(), found))
    full = found > 0
    return np.sum(found[full] * np.log(found[full] / wanted[full])) / ((len(wanted) - 1) / (2 * len(x)))


@pytest.mark.slow
@pytest.mark.parametrize("axes", [1, 2])
def test_paths_forwards_follow_the_solved_density(axes, solved):
    there = solved[axes]
    start = np.asarray(there.mixture.noised(PROCESS, 0.0).draw(MANY, jax.random.key(1)))
    paths = jd.simulate(PROCESS.equation(axes), start, [0.0, 0.3, 0.6, 1.0], MANY, 2, substeps=30)
    for k, t in enumerate((0.3, 0.6, 1.0), 1):
        assert divergence(paths[:, k], there.grid, there.density(t)) < 2


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["mixture", "solution"])
@pytest.mark.parametrize("method", ["ode", "sde"])
@pytest.mark.parametrize("axes", [1, 2])
def test_samples_backwards_have_the_solved_density(axes, method, whose, solved):
    there = solved[axes]
    score = there.mixture.score(PROCESS) if whose == "mixture" else there.score
    start = there.mixture.noised(PROCESS, 1.0).draw(MANY, jax.random.key(3))
    half = sample(score, PROCESS, start=start, key=4, steps=50, method=method, times=(1.0, 0.5))
    x = sample(score, PROCESS, start=half, key=5, steps=50, method=method, times=(0.5, 0.0))
    assert divergence(half, there.grid, there.density(0.5)) < 2
    assert divergence(x, there.grid, there.density(0.0)) < 2


@jax.jit
def exact_flow(mixture, x):
    """The flow from t = 1 to 0 by 1,000 steps of Runge and Kutta's fourth order."""
    velocity = lambda x, t: -PROCESS.rate(t) / 2 * (x + mixture.score(PROCESS)(x, t))

    def step(x, i):
        t, dt = 1 - i / 1000, -1 / 1000
        v1 = velocity(x, t)
        v2 = velocity(x + dt / 2 * v1, t + dt / 2)
        v3 = velocity(x + dt / 2 * v2, t + dt / 2)
        v4 = velocity(x + dt * v3, t + dt)
        return x + dt / 6 * (v1 + 2 * v2 + 2 * v3 + v4), None

    return jax.lax.scan(step, x, jnp.arange(1000))[0]


@pytest.mark.parametrize("mixture", [LINE, SHARP], ids=["line", "sharp"])
def test_the_flow_is_of_second_order(mixture):
    start = mixture.noised(PROCESS, 1.0).draw(500, jax.random.key(3))
    wanted = exact_flow(mixture, start)
    errors = [
        jnp.sqrt(jnp.mean((sample(mixture.score(PROCESS), PROCESS, start=start, steps=n) - wanted) ** 2))
        for n in (160, 320)
    ]
    assert 1.85 < np.log2(errors[0] / errors[1]) < 2.25
    assert errors[1] < 1e-3


@pytest.mark.slow
def test_the_reverse_diffusion_is_of_second_order_in_distribution():
    """Of a Gaussian the variance: 250,000 samples tell it to 0.3 %, steps leave out ten times that."""
    gaussian = GaussianMixture([1.0], [0.5], [0.3])
    clean = gaussian.noised(PROCESS, 0.0)
    start = gaussian.noised(PROCESS, 1.0).draw(250_000, jax.random.key(3))
    errors = []
    for n in (10, 20):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x = sample(gaussian.score(PROCESS), PROCESS, start=start, key=4, steps=n, method="sde")
        assert abs(x.mean() - clean.means[0, 0]) < 0.003
        errors.append(x.var() / clean.variances[0, 0] - 1)
    assert 1.8 < np.log2(errors[0] / errors[1]) < 2.3


def likelihoods(mixture, process=PROCESS, kind=float, known=True, **more):
    """Log densities of 200 samples by the flow, with p₁ known or taken as standard normal, and in closed form."""
    x = mixture.noised(process, 0.0).draw(200, jax.random.key(1)).astype(kind)
    base = mixture.noised(process, 1.0).log_density if known else None
    found = log_likelihood(mixture.score(process), process, x, base=base, **{"steps": 200, **more})
    return found, mixture.noised(process, 0.0).log_density(x)


@pytest.mark.parametrize("mixture", [LINE, PLANE, SHARP], ids=["line", "plane", "sharp"])
def test_likelihoods_are_those_of_the_mixture(mixture):
    found, wanted = likelihoods(mixture)
    assert abs(found - wanted).max() < 1e-3 * max(1, sum(mixture.shape))


def test_a_schedule_that_ends_low_needs_no_density_to_end_at():
    found, wanted = likelihoods(LINE, Process((8.0, -16.0)), known=False)
    assert abs(found - wanted).max() < 1e-3


@pytest.mark.slow
def test_the_slope_of_the_likelihood_is_the_score():
    x = jnp.linspace(-1.5, 1.8, 12)
    base = LINE.noised(PROCESS, 1.0).log_density
    total = lambda x: log_likelihood(LINE.score(PROCESS), PROCESS, x, base=base).sum()
    np.testing.assert_allclose(jax.grad(total)(x), LINE.score(PROCESS)(x, 0.0), rtol=2e-2, atol=2e-2)


def test_random_directions_estimate_the_divergence_without_bias():
    found, wanted = likelihoods(PLANE, probes=4, key=0)
    away = found - wanted
    assert abs(away.mean()) < 4 * away.std() / len(away) ** 0.5
    assert 0 < away.std() < 0.5


def test_the_precision_may_be_asked_for():
    x = sample(lambda x, t: -x, PROCESS, (3, 2), key=0, dtype=jnp.float32)
    assert x.dtype == jnp.float32 and x.shape == (3, 2)


def test_one_key_one_picture_and_seeds_differ():
    of = lambda **more: sample(LINE.score(PROCESS), PROCESS, (500,), **more)
    for method in ("ode", "sde"):
        np.testing.assert_array_equal(of(key=1, method=method), of(key=jax.random.key(1), method=method))
        assert abs(of(key=1, method=method) - of(key=2, method=method)).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ode", "sde"])
def test_under_transformations(method):
    keys = jax.random.split(jax.random.key(0), 3)
    of = lambda key, mean: sample(
        eqx.tree_at(lambda m: m.means, LINE, jnp.stack([mean, 1.0 + 0 * mean])[:, None]).score(PROCESS),
        PROCESS, (500,), key=key, method=method,
    )  # fmt: skip
    plain = of(keys[0], -0.8)
    np.testing.assert_allclose(jax.jit(of)(keys[0], -0.8), plain, rtol=1e-10)
    np.testing.assert_allclose(jax.vmap(of, (0, None))(keys, -0.8)[0], plain, rtol=1e-10)
    slope = jax.grad(lambda mean: of(keys[0], mean).mean())(-0.8)
    step = 1e-5
    central = (of(keys[0], -0.8 + step).mean() - of(keys[0], -0.8 - step).mean()) / (2 * step)
    np.testing.assert_allclose(slope, central, rtol=1e-5)


@pytest.mark.slow
def test_float32_is_told_apart_from_float64_by_rounding_alone():
    start = PLANE.noised(PROCESS, 1.0).draw(100, jax.random.key(0))
    score = PLANE.score(PROCESS)
    single, double = (sample(score, PROCESS, start=start.astype(d), steps=100) for d in (jnp.float32, jnp.float64))
    assert single.dtype == jnp.float32 and double.dtype == jnp.float64
    assert jnp.sqrt(jnp.mean((single - double) ** 2)) < 1e-4
    found, wanted = likelihoods(PLANE, kind=jnp.float32)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_guidance_sharpens_as_its_density_does():
    """Scores of one Gaussian among two: s + w (s − s′) with w = 1 is that of p²/p′ at t = 0, near the chosen mean."""
    chosen = GaussianMixture([1.0], [1.0], [0.1]).score(PROCESS)
    every = GaussianMixture([0.5, 0.5], [-1.0, 1.0], [0.1, 0.1]).score(PROCESS)
    guided = lambda x, t: every(x, t) + 2.0 * (chosen(x, t) - every(x, t))
    plain, sharp = (sample(s, PROCESS, (4000,), key=0, steps=80) for s in (chosen, guided))
    assert (sharp > 0).all() and sharp.mean() > plain.mean() and sharp.std() <= plain.std() + 0.01


SCORE = LINE.score(PROCESS)
REFUSED = {
    "steps": (lambda: sample(SCORE, PROCESS, (5,), key=0, steps=1), "steps must be a whole number from 2 on, got 1"),
    "steps of a half": (lambda: sample(SCORE, PROCESS, (5,), key=0, steps=2.5), "steps must be a whole number"),
    "steps of a likelihood": (lambda: log_likelihood(SCORE, PROCESS, [0.0], steps=0), "steps must be a whole number"),
    "no key": (lambda: sample(SCORE, PROCESS, (5,)), "key must be one of jax.random.key"),
    "no key for noise": (lambda: sample(SCORE, PROCESS, start=jnp.ones(3), method="sde"), "key must be one of jax.random.key"),
    "no key for directions": (lambda: log_likelihood(SCORE, PROCESS, [0.0], probes=2), "key must be one of jax.random.key"),
    "a key": (lambda: sample(SCORE, PROCESS, (5,), key="seed"), "key must be one of jax.random.key"),
    "process": (lambda: sample(SCORE, (8.0, -6.0), (5,), key=0), "process must be a Process, got tuple"),
    "no shape": (lambda: sample(SCORE, PROCESS, key=0), "shape must be that of all samples, .* got None"),
    "a number as shape": (lambda: sample(SCORE, PROCESS, 5, key=0), "shape must be that of all samples, .* got 5"),
    "shape and start": (lambda: sample(SCORE, PROCESS, (3,), start=jnp.ones(3)), "leave shape out"),
    "method": (lambda: sample(SCORE, PROCESS, (5,), key=0, method="heun"), '"ode" or "sde", got \'heun\''),
    "times upwards": (lambda: sample(SCORE, PROCESS, (5,), key=0, times=(0.0, 1.0)), "decreasing"),
    "times beyond": (lambda: sample(SCORE, PROCESS, (5,), key=0, times=(2.0, 0.0)), "from 1, noise, to 0, the data"),
    "start that is no number": (lambda: sample(SCORE, PROCESS, start=[1.0, np.nan]), "start must be finite, got 1 number"),
    "a point": (lambda: log_likelihood(SCORE, PROCESS, 0.3), r"x must be a batch \(n, \*shape\), got shape \(\)"),
    "no score": (lambda: sample(3.0, PROCESS, (5,), key=0), "score must be a function"),
    "shape of a score": (lambda: sample(lambda x, t: x.sum(), PROCESS, (5,), key=0), r"the shape of x, \(5,\), got shape \(\)"),
    "shape of samples": (lambda: sample(SCORE, PROCESS, (5, 2), key=0), r"samples of this mixture are \(n, ?\), got shape \(5, 2\)"),
    "a score of None": (lambda: sample(lambda x, t: None, PROCESS, (5,), key=0), "got NoneType"),
    "NaN": (lambda: sample(lambda x, t: jnp.where(t < 0.5, jnp.nan, -x), PROCESS, (5,), key=0), r"not finite at t = 0.475"),
    "NaN in a likelihood": (lambda: log_likelihood(lambda x, t: jnp.where(t < 0.5, -x, jnp.nan), PROCESS, [0.1]), "not finite at t = 0.5;"),
    "overflow": (lambda: sample(lambda x, t: 1e300 * x**3, PROCESS, (5,), key=0), "not finite at t = 0.9"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(case):
    call, words = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=words) as raised:
        call()
    assert "\n" not in str(raised.value)


FAR = GaussianMixture([0.5, 0.5], [20.0, 20.0], [1.0, 1.0])
TOLD = {
    "few steps": (lambda: sample(SCORE, PROCESS, (500,), key=0, steps=8), "8 steps leave out about 0"),
    "few steps of the diffusion": (lambda: sample(SCORE, PROCESS, (50,), key=0, steps=10, method="sde"), "10 steps leave out"),
    "few steps of a likelihood": (lambda: log_likelihood(SCORE, PROCESS, jnp.linspace(-1, 1, 9), steps=10, base=lambda x: -(x**2) / 2), "nat in a dimension"),
    "a start elsewhere": (lambda: sample(FAR.score(PROCESS), PROCESS, (500,), key=0), "is not that of standard normal noise, by about"),
    "an end elsewhere": (lambda: log_likelihood(FAR.score(PROCESS), PROCESS, jnp.array([19.0, 21.0])), "is not that of standard normal"),
}  # fmt: skip


@pytest.mark.parametrize("case", TOLD)
def test_what_is_doubtful_is_told(case):
    call, words = TOLD[case]
    with pytest.warns(UserWarning, match=words) as told:
        call()
    assert not any("\n" in str(each.message) for each in told)


def test_what_is_fine_is_not_told():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in ("ode", "sde"):
            sample(SCORE, PROCESS, (500,), key=0, method=method)
        start = FAR.noised(PROCESS, 1.0).draw(500, jax.random.key(0))
        x = sample(FAR.score(PROCESS), PROCESS, start=start)
    clean = FAR.noised(PROCESS, 0.0)
    assert abs(x.mean() - clean.means[0, 0]) < 0.2 and abs(x.std() - 1.0) < 0.12
