"""Master equations: probabilities of states against closed forms, exponentials and each other."""

from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.sparse
from jax.experimental.sparse import BCOO
from oracles import each_way
from scipy.linalg import expm
from scipy.stats import binom, poisson

import jaxdiff as jd
from jaxdiff.operators.uniformisation import poisson as weights
from jaxdiff.operators.uniformisation import products_needed

DECAY = lambda n: 1.0 * n


def made_and_decayed(birth, start, count, t=1.0):
    """The probabilities of counts below so many, b/d = birth, from a count `start`."""
    kept = binom.pmf(np.arange(start + 1), start, np.exp(-t))
    return np.convolve(kept, poisson.pmf(np.arange(count), birth * (1 - np.exp(-t))))[:count]


@pytest.mark.parametrize(("start", "fifth"), [(0, 0.151200638399), (3, 0.112142773154)])
def test_molecules_are_made_and_decay(start, fifth):
    found = jd.solve(jd.MasterEquation(lambda n: 10.0, DECAY), None, {"n": start}, [0.0, 0.4, 1.0])
    p = np.asarray(found.values[-1])
    np.testing.assert_allclose(p[5], fifth, atol=1e-12)
    exact = made_and_decayed(10.0, start, len(p))
    # What is missing is the error in L1, and no state has too much.
    leak = 1 - p.sum()
    assert 0 < leak < 1e-9
    assert "beyond the largest counts" in found.method
    np.testing.assert_allclose(exact.sum() - p.sum() + 1 - exact.sum(), leak, rtol=1e-3)
    assert (p <= exact * (1 + 1e-12)).all()


@pytest.mark.parametrize(("most", "leak"), [(11, 4.7836e-2), (15, 1.65028e-3), (19, 2.20734e-5), (24, 3.436e-8)])
def test_what_leaves_the_box_is_the_error(most, leak):
    states = jd.States({"n": most})
    p = np.asarray(jd.solve(jd.MasterEquation(lambda n: 10.0, DECAY), states, {"n": 0}, [0.0, 1.0]).values[-1])
    exact = made_and_decayed(10.0, 0, 100)
    np.testing.assert_allclose(1 - p.sum(), leak, rtol=2e-4)
    np.testing.assert_allclose(np.abs(np.pad(p, (0, 99 - most)) - exact).sum(), leak, rtol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("most", "start"), [(699, 300), (9999, 100)])
def test_far_from_the_mean(most, start):
    p = jd.solve(jd.MasterEquation(20.0, DECAY), jd.States({"n": most}), {"n": start}, [0.0, 1.0]).values[-1]
    exact = made_and_decayed(20.0, start, most + 1)
    np.testing.assert_allclose(p, exact, atol=1e-9 * exact.max())
    assert p.min() >= 0


@pytest.mark.slow
def test_a_telegraph_gene_and_a_growing_family():
    gene = [
        jd.Reaction({"off": 1}, {"on": 1}, 0.5),
        jd.Reaction({"on": 1}, {"off": 1}, 1.5),
        jd.Reaction({"on": 1}, {"on": 1, "m": 1}, 20.0),
        jd.Reaction({"m": 1}, {}, 1.0),
    ]
    network = jd.MasterEquation.from_reactions(gene, box={"off": 1, "on": 1, "m": 120})
    p = np.asarray(jd.solve(network, None, {"off": 1}, [0.0, 40.0]).values[-1]).sum((0, 1))
    np.testing.assert_allclose(p[[0, 5, 20]], [0.249096018548, 0.0526757704949, 0.00567574369291], atol=1e-12)
    n = np.arange(len(p))
    np.testing.assert_allclose([p @ n, p @ n**2 - (p @ n) ** 2], [5.0, 30.0], rtol=1e-10)
    yule = jd.MasterEquation.from_reactions([jd.Reaction({"A": 1}, {"A": 2}, 1.0)])
    found = jd.solve(yule, None, {"A": 2}, [0.0, 1.0])
    np.testing.assert_allclose(found.values[-1][6], 0.108039036389, atol=1e-12)
    assert found.grid.shape == (64,)


@pytest.mark.slow
def test_a_walk_and_a_ring():
    walk = jd.MasterEquation(1.0, 1.0)
    p = jd.solve(walk, jd.States(161), np.eye(161)[80], [0.0, 2.0]).values[-1]
    np.testing.assert_allclose([p[80], p[83]], [0.207001921224, 0.0611243380297], atol=1e-12)
    ring = np.roll(2.0 * np.eye(12), 1, 0) + np.roll(0.5 * np.eye(12), -1, 0)
    found = jd.solve(jd.MasterEquation(ring), None, np.eye(12)[0], [0.0, 1.0, 3.0]).values
    for t, p in zip((1.0, 3.0), found[1:], strict=True):
        np.testing.assert_allclose(p, expm(t * (ring - 2.5 * np.eye(12)))[:, 0], atol=1e-14)


def test_rates_over_twenty_decades_keep_all_digits():
    rates = [1.55e-10, 10.5, 5.3e4, 2.8e-6, 9.2e-6, 4.3e-4, 66.2, 1.17e5, 1.3e11, 0.031, 50.5, 0.0]
    n, t = len(rates), 1e6
    chain = np.zeros((n, n))
    chain[np.arange(1, n), np.arange(n - 1)] = rates[:-1]
    p = jd.solve(jd.MasterEquation(chain), None, np.eye(n)[0], [0.0, t]).values[-1]
    with mpmath.workdps(120):
        slow = [mpmath.mpf(rate) for rate in rates]
        for k in range(n):  # Bateman
            terms = [
                mpmath.exp(-slow[j] * t) / mpmath.fprod(slow[m] - slow[j] for m in range(k + 1) if m != j)
                for j in range(k + 1)
            ]
            exact = mpmath.fsum(terms) * mpmath.fprod(slow[:k])
            assert abs(float(p[k]) / exact - 1) < 1e-13, k


@pytest.mark.slow
def test_a_box_of_two_species_against_a_matrix():
    def network(k):
        hill = lambda A, B: k[0] / (1.0 + (B / 3.0) ** 2)
        return jd.MasterEquation.from_reactions(
            [
                jd.Reaction({}, {"A": 1}, hill),
                jd.Reaction({}, {"B": 1}, k[1]),
                jd.Reaction({"A": 2}, {"B": 1}, 0.3),
                jd.Reaction({"A": 1}, {}, 1.0),
                jd.Reaction({"B": 1}, {}, 0.7),
            ]
        )

    states, k = jd.States({"A": 9, "B": 7}), jnp.array([4.0, 2.0])
    A, B = states.counts.T
    matrix = np.zeros((80, 80))
    for s, (a, b) in enumerate(states.counts):
        moves = [(1, 0, 4 / (1 + (b / 3) ** 2)), (0, 1, 2.0), (-2, 1, 0.15 * a * (a - 1)), (-1, 0, a), (0, -1, 0.7 * b)]
        for da, db, rate in moves:
            matrix[s, s] -= rate
            if 0 <= a + da < 10 and 0 <= b + db < 8:
                matrix[(a + da) * 8 + b + db, s] += rate
    start = states.delta({"A": 3}).ravel()
    seen = lambda k: jd.solve(network(k), states, {"A": 3}, [0.0, 0.5, 0.8]).values
    found = seen(k)
    for t, p in zip((0.5, 0.8), found[1:], strict=True):
        np.testing.assert_allclose(p.ravel(), expm(t * matrix) @ start, atol=1e-14)
    # Gradients: forward, reverse and differences.
    every = jax.jit(partial(each_way, lambda k: jnp.vdot(seen(k)[-1].ravel(), A * B)))
    _, reverse, forward = every(k)
    differences = [(every(k + h)[0] - every(k - h)[0]) / 2e-5 for h in 1e-5 * np.eye(2)]
    np.testing.assert_allclose(forward, reverse, rtol=1e-11)
    np.testing.assert_allclose(reverse, differences, rtol=1e-7)


@pytest.mark.slow
def test_a_gradient_of_squared_matrices_and_batches():
    def final(k):
        return jd.solve(jd.MasterEquation([[0.0, k[0]], [k[1], 0.0]]), None, [1.0, 0.0], [0.0, 0.7]).values[-1, 1]

    def exact(k):
        return k[1] / (k[0] + k[1]) * (1 - jnp.exp(-0.7 * (k[0] + k[1])))

    found = jax.jit(jax.value_and_grad(final))
    for k in (jnp.array([1.0, 2.0]), jnp.array([1e-8, 3.0]), jnp.array([1e7, 1e3])):
        value, slope = found(k)
        np.testing.assert_allclose(value, exact(k), rtol=1e-13)
        np.testing.assert_allclose(slope, jax.grad(exact)(k), rtol=1e-6)
    many = jnp.array([[1.0, 2.0], [3.0, 0.5]])
    np.testing.assert_allclose(jax.jit(jax.vmap(final))(many), jax.vmap(exact)(many), rtol=1e-13)


@pytest.mark.slow
def test_weights_keep_their_digits():
    for mean in (1e-3, 30.0, 9000.0):
        count = int(products_needed(jnp.asarray(mean)))
        found = weights(jnp.asarray(mean), count)
        for k in {0, 1, 16, int(mean), count - 1}:
            with mpmath.workdps(40):
                exact = mpmath.exp(-mpmath.mpf(mean)) * mpmath.mpf(mean) ** k / mpmath.factorial(k)
            assert abs(float(found[k]) - exact) <= 3e-13 * exact + 1e-300
        np.testing.assert_allclose(found.sum(), 1.0, rtol=1e-14)


@pytest.mark.slow
def test_at_rest():
    p = jd.steady_state(jd.MasterEquation(10.0, DECAY), jd.States({"n": 60}))
    np.testing.assert_allclose(p, poisson.pmf(np.arange(61), 10.0), rtol=1e-12)
    with pytest.raises(
        ValueError, match=r"of the jumps of a kind lead beyond the largest counts at rest; allow larger"
    ):
        jd.steady_state(jd.MasterEquation(10.0, DECAY), jd.States({"n": 20}))


@pytest.mark.slow
def test_rates_that_vary_in_time():
    driven = jd.MasterEquation(jd.TimeDependent(lambda t: 10.0 * (1.0 + jnp.sin(t))), DECAY)
    p = jd.solve(driven, jd.States({"n": 80}), {"n": 0}, [0.0, 2.0], tolerance=1e-8).values[-1]
    mean = 10.0 * (
        (1 - np.exp(-2.0)) + (np.sin(2.0) - np.cos(2.0) + np.exp(-2.0)) / 2
    )  # Poisson with the mean of the rate
    np.testing.assert_allclose(p, poisson.pmf(np.arange(81), mean), atol=1e-8)


def test_single_precision():
    with jax.enable_x64(False):
        p = jd.solve(jd.MasterEquation(20.0, DECAY), jd.States({"n": 99}), {"n": 60}, [0.0, 1.0]).values[-1]
        assert p.dtype == jnp.float32
        np.testing.assert_allclose(p, made_and_decayed(20.0, 60, 100), atol=2e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: jd.MasterEquation([[-1.0, 1.0], [2.0, -2.0]]), "sum to zero along rows, got [from, to]"),
        (lambda: jd.MasterEquation([[0.0, 1.0, 2.0]]), "are a matrix (n, n), from column to row"),
        (lambda: jd.MasterEquation([[1.0, 1.0], [2.0, -1.0]]), "the negative sum of its column"),
        (
            lambda: jd.solve(jd.MasterEquation([[0.0, -1.0], [2.0, 0.0]]), None, [1.0, 0.0], [0.0, 1.0]),
            "a rate is -1; rates must be finite and not negative",
        ),
        (
            lambda: jd.solve(jd.MasterEquation(1.0, DECAY), jd.Grid.uniform((0.0, 1.0, 5)), 0.0, [0.0, 1.0]),
            "takes jd.States",
        ),
        (lambda: jd.solve(jd.Diffusion(1.0), None, 0.0, [0.0, 1.0]), "needs a grid"),
        (lambda: jd.States({"A": -1}), "counted by whole numbers"),
        (lambda: jd.States(["a", "a"]), "a name of its own"),
        (lambda: jd.States(3).delta(3), "none of the states, n from 0 to 2"),
        (lambda: jd.States(["a", "b"]).delta("c"), "there is no state 'c' here; there are a, b"),
        (lambda: jd.MasterEquation.from_reactions([]), "a network is a list of jd.Reaction"),
        (lambda: jd.Reaction({"A": 0.5}, {}, 1.0), "whole numbers of a species"),
        (
            lambda: jd.solve(jd.MasterEquation(np.ones((3, 3)) - 3 * np.eye(3)), jd.States(2), [1.0, 0.0], [0.0, 1.0]),
            "rates between 3 states do not hold for (2,)",
        ),
    ],
)
def test_what_cannot_be_is_said(call, words):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert words in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_rates_are_fitted_to_counts_and_to_means():
    states = jd.States({"n": 60})
    model = jd.MasterEquation(jd.Positive(5.0), DECAY)
    counts = np.random.default_rng(1).multinomial(2000, made_and_decayed(10.0, 3, 61))
    found = jd.fit(model, jd.Histograms(states, states.delta(3), [1.0], [counts]), progress=False)
    mean = counts @ np.arange(61) / 2000
    np.testing.assert_allclose(found.parameters["rates"], (mean - 3 / np.e) / (1 - 1 / np.e), rtol=1e-2)
    assert abs(found.parameters["rates"] - 10.0) < 3 * found.standard_errors["rates"]
    times = np.array([0.25, 0.5, 1.0, 2.0])
    means = 3 * np.exp(-times) + 10 * (1 - np.exp(-times))
    readings = jd.Readings(states, states.delta(3), times, jd.Moment(1), means, sigma=0.1)
    np.testing.assert_allclose(jd.fit(model, readings, progress=False).parameters["rates"], 10.0, rtol=1e-7)


def test_counts_are_not_spread_over_cells():
    """A moment of counts, and an interval of them, are sums over states."""
    states = jd.States({"n": 60})
    model = jd.MasterEquation(10.0, DECAY)
    p = made_and_decayed(10.0, 3, 61)
    n = np.arange(61)
    for probe, exact in ((jd.Moment(2), p @ n**2), (jd.Interval(4, 9), p[4:10].sum()), (jd.Mean(4, 9), p[4:10].mean())):
        system = model.semidiscretise(states, jd.FiniteVolume())[0]
        np.testing.assert_allclose(probe.value(system, 0.0, jnp.asarray(p)), exact, rtol=1e-13)
    with pytest.raises(ValueError, match="bins of states end between two of them"):
        jd.Histograms(states, states.delta(3), [1.0], [[5, 5]], edges=[0.0, 10.0, 20.0])


def pairs(fast, made=3.0):
    """A makes B in pairs, both are lost; A and B turn into each other as fast as is wanted."""
    made = [jd.Reaction({}, {"A": 1}, made), jd.Reaction({"A": 2}, {"B": 1}, 0.3), jd.Reaction({"A": 1}, {}, 1.0)]
    turned = [jd.Reaction({"A": 1}, {"B": 1}, fast), jd.Reaction({"B": 1}, {"A": 1}, 2 * fast)] if fast else []
    return jd.MasterEquation.from_reactions([*made, *turned, jd.Reaction({"B": 1}, {}, 0.7)])


@pytest.mark.slow
def test_a_network_at_rest_by_elimination_and_after_a_long_time():
    network, states = pairs(0.0), jd.States({"A": 19, "B": 15})
    found = jd.steady_state(network, states)
    operator = network.jumps.operator(states, 0.0).closed
    np.testing.assert_allclose(operator @ found.ravel(), 0.0, atol=1e-15)
    np.testing.assert_allclose(found.sum(), 1.0, rtol=1e-14)
    np.testing.assert_allclose(jd.solve(network, states, {"A": 0}, [0.0, 40.0]).values[-1], found, atol=1e-9)
    # The same by a sparse matrix of its jumps.
    source, target, rates = operator.jumps
    sparse = scipy.sparse.csr_matrix((rates, (target, source)), shape=(320, 320))
    for form in (sparse, BCOO.from_scipy_sparse(sparse)):
        assert form.shape == (320, 320)
        p = jd.solve(jd.MasterEquation(form), None, np.eye(320)[0], [0.0, 0.7]).values[-1]
        leak = jd.solve(network, states, {"A": 0}, [0.0, 0.7]).values[-1].ravel()
        np.testing.assert_allclose(p, leak, atol=1e-8)


@pytest.mark.slow
def test_a_stiff_network_takes_resolvents():
    """What turns into each other a million times a second stays in balance, and nothing but its sum moves."""
    made = [jd.Reaction({}, {"A": 1}, 3.0), jd.Reaction({"A": 1}, {"B": 1}, 1e6), jd.Reaction({"B": 1}, {"A": 1}, 2e6)]
    stiff = jd.MasterEquation.from_reactions([*made, jd.Reaction({"B": 1}, {}, 0.5)])
    found = jd.solve(stiff, jd.States({"A": 22, "B": 22}), {"A": 2}, [0.0, 1.0])
    assert "exponentials" in found.method
    A, B = found.grid.counts.T
    slow = 0.5 / 3
    mean = 2 * np.exp(-slow) + 3 / slow * (1 - np.exp(-slow))
    np.testing.assert_allclose(found.values[-1].ravel() @ (A + B), mean, atol=1e-6)


@pytest.mark.slow
def test_a_fit_says_what_its_states_lack():
    states = jd.States({"n": 16})
    counts = np.random.default_rng(1).multinomial(2000, made_and_decayed(10.0, 3, 61))[:17]
    found = jd.fit(
        jd.MasterEquation(jd.Positive(5.0), DECAY),
        jd.Histograms(states, states.delta(3), [1.0], [counts]),
        progress=False,
    )
    assert any(
        "of the probability is beyond the largest counts, which predictions lack" in note for note in found.notes
    )


@pytest.mark.slow
@pytest.mark.parametrize("born", [lambda n, k: k * (1.0 + n), lambda n, k: jnp.where(n == 2, k, 0.3)])
def test_a_birth_rate_of_zero_has_a_derivative(born):
    """Beyond it is content in proportion to it; to first order that is all."""

    def rest(k):
        return jd.steady_state(jd.MasterEquation(lambda n: born(n, k), lambda n: 2.0 * n), jd.States({"n": 12}))

    above, less = (np.asarray(rest(h)) for h in (1e-5, 2e-5))
    values = np.asarray(rest(0.0))
    reach = np.flatnonzero(values)[-1]
    assert not values[reach + 1 :].any()
    for derivative in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(derivative(rest)(0.0), (4 * above - less - 3 * values) / 2e-5, atol=1e-8)


@pytest.mark.slow
def test_what_is_never_left_depends_on_the_start():
    two = np.zeros((7, 7))
    two[:3, :3] = [[0, 1, 0.7], [0.3, 0, 0.2], [0.5, 0.4, 0]]
    two[3:6, 3:6] = [[0, 1.2, 0.3], [0.8, 0, 0.1], [0.25, 0.6, 0]]
    two[[0, 4], 6] = 1.0, 2.0  # a state that leads to both
    chain, start = jd.MasterEquation(two), np.eye(7)
    for initial in (None, start[6]):
        with pytest.raises(ValueError, match="several sets of states that are never left"):
            jd.steady_state(chain, None, initial)
    found = jd.steady_state(chain, None, start[4])
    np.testing.assert_allclose(found, jd.solve(chain, None, start[4], [0.0, 1e12]).values[-1], atol=1e-13)
    np.testing.assert_allclose(np.asarray(found).sum(), 1.0, rtol=1e-14)
    # A reaction that is as fast as may be does not hide what leads out of the box.
    fast = jd.Reaction({"A": 1}, {"A": 1}, 1e12), jd.Reaction({}, {"A": 1}, 0.01), jd.Reaction({"A": 1}, {}, 0.001)
    with pytest.raises(ValueError, match="of the jumps of a kind lead beyond"):
        jd.steady_state(jd.MasterEquation.from_reactions(fast), jd.States({"A": 5}))
    with pytest.raises(ValueError, match="counts that grow have none"):
        jd.steady_state(jd.MasterEquation(1.0, lambda n: 0.0 * n), None)


def test_a_sparse_diagonal_tells_what_is_left_for_good():
    leaky = np.array([[-3.0, 0.0], [1.0, -1.0]])
    found = [
        jd.solve(jd.MasterEquation(m), None, [1.0, 0.0], [0.0, 1.0]).values[-1]
        for m in (leaky, scipy.sparse.csc_matrix(leaky))
    ]
    np.testing.assert_allclose(found, [expm(leaky)[:, 0]] * 2, rtol=1e-13)


@pytest.mark.slow
def test_a_start_that_is_a_function_asks_for_as_many_states_as_it_fills():
    from_hundred = lambda n: jnp.exp(n * jnp.log(100.0) - 100.0 - jax.scipy.special.gammaln(n + 1))
    p = jd.solve(jd.MasterEquation(10.0, DECAY), None, from_hundred, [0.0, 1.0]).values[-1]
    np.testing.assert_allclose(p @ np.arange(len(p)), 100 / np.e + 10 * (1 - 1 / np.e), rtol=1e-8)
    with pytest.raises(ValueError, match="initial is a number, which no state is"):
        jd.solve(jd.MasterEquation(10.0, DECAY), jd.States({"n": 9}), 1, [0.0, 1.0])


@pytest.mark.slow
def test_rates_have_real_gradients_where_contents_are_complex():
    """As in the resolvents by which a long or stiff network is followed."""
    states, z = jd.States({"A": 3, "B": 2}), jnp.exp(1j * jnp.arange(12.0))
    value = lambda fast: jnp.sum(pairs(fast).jumps.operator(states, 0.0) @ z * z).imag
    np.testing.assert_allclose(jax.grad(value)(2.0), (value(2.5) - value(1.5)), rtol=1e-13)
