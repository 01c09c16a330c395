"""Paths of states against exponentials, closed forms and what is counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm
from scipy.stats import binom, poisson

import jaxdiff as jd

CHANNEL = jd.States(["closed", "open"])
DECAY = lambda n: 1.0 * n


def channel():
    return jd.MasterEquation([[0.0, jd.Positive(2.0)], [jd.Positive(2.0), 0.0]])


def log_densities(path, equation):
    predictor = path.prepare(equation, pad=False)
    values, resolved = jax.jit(lambda a: predictor.log_densities(a))(equation.jumps.operator(path.grid, 0.0))
    assert resolved
    return type(predictor).__name__, np.asarray(values)


@pytest.mark.slow
def test_a_panel_of_two_states():
    rng, dt, opens, closes = np.random.default_rng(1), 0.5, 1.3, 0.4
    each = np.array([opens, closes]) / (opens + closes) * -np.expm1(-(opens + closes) * dt)
    x = [0]
    for u in rng.uniform(size=400):
        x.append(1 - x[-1] if u < each[x[-1]] else x[-1])
    x = np.array(x)
    fit = jd.fit(channel(), jd.Trajectory(CHANNEL, dt * np.arange(401), np.array(CHANNEL.labels)[x]), progress=False)
    left = np.array([np.sum((x[:-1] == k) & (x[1:] != k)) for k in (0, 1)])
    share = left / [np.sum(x[:-1] == k) for k in (0, 1)]
    rates = lambda p: -jnp.log(1 - p.sum()) / dt * p / p.sum()
    slope = np.asarray(jax.jacfwd(rates)(jnp.asarray(share)))
    covariance = slope @ np.diag(share**2 * (1 - share) / left) @ slope.T
    np.testing.assert_allclose(list(fit.parameters.values())[::-1], rates(share), rtol=1e-6)
    np.testing.assert_allclose(list(fit.standard_errors.values())[::-1], np.sqrt(np.diag(covariance)), rtol=1e-5)
    assert fit.verdict.describes


@pytest.mark.slow
def test_a_channel_that_is_watched():
    rng, rates = np.random.default_rng(2), np.array([1.3, 0.4])
    lasted = rng.exponential(1 / rates[np.arange(200) % 2])
    times, states = np.r_[0.0, np.cumsum(lasted)], np.arange(201) % 2
    times, states = [times[:121], times[120:]], [states[:121], np.r_[states[120:-1], np.nan]]
    fit = jd.fit(channel(), jd.Trajectory(CHANNEL, times, states, continuous=True), progress=False)
    jumps = np.array([100, 99])
    spent = np.array([lasted[k::2].sum() for k in (0, 1)])
    np.testing.assert_allclose(list(fit.parameters.values())[::-1], jumps / spent, rtol=1e-6)
    np.testing.assert_allclose(list(fit.standard_errors.values())[::-1], np.sqrt(jumps) / spent, rtol=1e-5)
    assert fit.verdict.describes
    path = jd.Trajectory(CHANNEL, 1.0 * np.arange(200), np.arange(200) % 2, continuous=True)
    assert "how long states last" in path.examine(None, None, None, fit.model).failed(0.02)[0].text
    first, last = path.split(0.25)
    assert (first.count, last.count, last.continuous) == (149, 50, True)
    assert last.starts[0] == first.stops[-1]


@pytest.mark.slow
def test_many_lengths_of_time():
    rng = np.random.default_rng(3)
    rates = np.exp(rng.normal(size=(5, 5))) * (1 - np.eye(5))
    generator, equation = rates - np.diag(rates.sum(0)), jd.MasterEquation(rates)
    for lengths, kind in ((rng.choice([0.1, 3.0], 50), "Squared"), (rng.exponential(0.5, 100), "Powers")):
        x = rng.integers(0, 5, len(lengths) + 1)
        path = jd.Trajectory(jd.States(5), np.r_[0, np.cumsum(lengths)], x)
        exact = [expm(generator * t)[b, a] for t, a, b in zip(path.durations, x[:-1], x[1:], strict=True)]
        name, found = log_densities(path, equation)
        np.testing.assert_allclose(found, np.log(exact), atol=1e-12)
        assert name == kind
    predictor = path.prepare(equation, pad=False)
    total = jax.jit(lambda r: predictor.predict(jd.MasterEquation(r), None).values.sum())
    move = np.exp(rng.normal(size=(5, 5))) * (1 - np.eye(5))
    slope = (total(rates + 1e-5 * move) - total(rates - 1e-5 * move)) / 2e-5
    np.testing.assert_allclose(np.vdot(jax.grad(total)(rates), move), slope, rtol=1e-7)


def test_counts():
    rng = np.random.default_rng(4)
    n, lengths = rng.poisson(20, 40), rng.exponential(0.3, 39)
    path = jd.Trajectory(jd.States({"n": 299}), np.r_[0, np.cumsum(lengths)], n)

    def chance(t, a, b):
        kept, made = binom.pmf(np.arange(a + 1), a, np.exp(-t)), poisson.pmf(np.arange(b + 1), 20 * -np.expm1(-t))
        return np.convolve(kept, made)[b]

    name, found = log_densities(path, jd.MasterEquation(20.0, DECAY))
    assert name == "Powers"
    np.testing.assert_allclose(
        found, [np.log(chance(*row)) for row in zip(lengths, n[:-1], n[1:], strict=True)], atol=1e-12
    )
    gene = jd.MasterEquation.from_reactions(
        [
            jd.Reaction({"off": 1}, {"on": 1}, 0.5),
            jd.Reaction({"on": 1}, {"on": 1, "m": 1}, 3.0),
            jd.Reaction({"on": 1}, {"on": 1, "m": 1}, 4.0),
            jd.Reaction({"m": 1}, {}, 1.0),
        ]
    )
    seen = jd.Trajectory(
        jd.States({"off": 1, "on": 1, "m": 9}),
        [0.0, 2.0, 2.5, 3.0, 4.0],
        [[1, 0, 0], [0, 1, 0], [0, 1, 1], [0, 1, 2], [0, 1, 1]],
        continuous=True,
    )
    exact = [np.log(0.5) - 1.0, np.log(7.0) - 3.5, np.log(7.0) - 4.0, np.log(2.0) - 9.0]
    np.testing.assert_allclose(log_densities(seen, gene)[1], exact, rtol=1e-13)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: jd.Trajectory(CHANNEL, [0, 1, 2], ["open", "", "open"], continuous=True), "got none in row 1; leave"),
        (lambda: jd.Trajectory(CHANNEL, [0, 1], ["open", "shut"]), "no state 'shut' here; there are closed, open"),
        (lambda: jd.Trajectory(jd.States(3), [0, 1, 2], [0, 1.5, 2]), "position 1 at 1.5 is none of the states"),
        (lambda: jd.Trajectory(jd.States({"A": 3, "B": 2}), [0, 1], [0, 1]), "shapes (n,) and (n, 2), got (2,) and"),
        (lambda: jd.Trajectory(jd.Grid.uniform((0, 1, 3)), [0, 1], [0, 1], continuous=True), "takes jd.States"),
        (
            lambda: jd.fit(
                jd.MasterEquation([[0.0, 0.0], [jd.Positive(1.0), 0.0]]),
                jd.Trajectory(CHANNEL, [[0, 1], [0, 2]], [["open", "open"], ["open", "closed"]]),
                progress=False,
            ),
            "row 1 of path 1 leads from state 1 to 0, which has no chance at these rates (from 0: closed, open)",
        ),
        (
            lambda: jd.Trajectory(jd.States(2), [0, 1], [0, 1]).prepare(
                jd.MasterEquation(jd.TimeDependent(lambda t: 1.0 + t), 1.0)
            ),
            "rates that do not depend on time",
        ),
        (lambda: jd.Trajectory(jd.States(2), [0, 1], [0, 1]).prepare(jd.Diffusion(1.0)), "is that of a jd.Master"),
        (
            lambda: jd.Trajectory(jd.States({"n": 299}), [0, 1], [0, 1]).prepare(jd.MasterEquation(1e9, DECAY)),
            "jumps may come, more than are followed",
        ),
    ],
)
def test_what_is_no_path_is_said(call, words):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert words in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)


def test_frames_without_a_state():
    path = jd.Trajectory(CHANNEL, [0.0, 1.0, 2.0, 4.0], ["open", None, "closed", "open"])
    assert path.notes == ("3 of 4 frames used; 1 missing",)
    np.testing.assert_array_equal(path.durations, [2.0, 2.0])
