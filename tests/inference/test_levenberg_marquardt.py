"""Levenberg–Marquardt on residuals of one's own: NIST's certified problems, scales, odd shapes, honest ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.benchmarks.nist import MODELS, measure, summary

LM = jd.LevenbergMarquardt()
T = np.linspace(0.0, 2.0, 9)


@pytest.mark.slow
def test_the_certified_values_of_nist():
    rows = [row for name in MODELS for row in measure("jaxdiff", name)]
    found = summary(rows)
    assert found["solved"] >= 53 and found["digits"] >= 9 and found["deviations"] >= 8, found
    assert found["false"] == 0 and found["jacobians"] <= 11, (
        found
    )  # 11 and 11.5 of SciPy's trf: benchmarks/results/nist.md


def decay(b):
    return b[0] * jnp.exp(-b[1] * T) - (3.0 * np.exp(-0.7 * T) + 0.01 * np.cos(40 * T))


BOX = np.array([1.0, 2, 3, 5, 7, 10]), np.array([109.0, 149, 149, 191, 213, 224])
MEYER = (
    50.0 + 5 * np.arange(1, 17),
    np.array([34780.0, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872]),
)
# residuals, start, the optimum, Σ r² there
KNOWN = {
    "rosenbrock": (lambda x: jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]]), [-1.2, 1.0], [1, 1], 0.0),
    "powell, singular": (
        lambda x: jnp.stack([x[0] + 10 * x[1], 5**0.5 * (x[2] - x[3]), (x[1] - 2 * x[2]) ** 2, 10**0.5 * (x[0] - x[3]) ** 2]),
        [3.0, -1, 0, 1], [0, 0, 0, 0], 0.0,
    ),
    "brown, badly scaled": (lambda x: jnp.stack([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2]), [1.0, 1.0], [1e6, 2e-6], 0.0),
    "meyer": (
        lambda x: x[0] * jnp.exp(x[1] / (MEYER[0] - 5 + x[2])) - MEYER[1], [0.02, 4000.0, 250.0],
        [5.6096364710e-3, 6.1813463463e3, 3.4522363462e2], 87.945855171,
    ),
    "a plain number": (lambda x: x**2 - 2.0, 1.0, 2**0.5, 0.0),
    "from zero": (lambda x: 1e-9 * T * x - 3e-9 * T, 0.0, 3.0, 0.0),
    "positive": (lambda x: x - np.array([0.5, 1.5]), jd.Positive(100.0), 1.0, 0.5),
    "bounded": (lambda x: x - np.array([0.5, 1.5]), jd.Bounded(2.9, 0.0, 3.0), 1.0, 0.5),
    "at the optimum": (lambda x: x - np.array([0.5, 1.5]), 1.0, 1.0, 0.5),
    "a start out of sight": (lambda x: x[0] * (1 - jnp.exp(-x[1] * BOX[0])) - BOX[1], [1.0, 1.0], [213.80940889, 0.54723748542], 1168.0088766),
}  # fmt: skip


@pytest.mark.parametrize("case", KNOWN)
def test_known_optima(case):
    residuals, start, expected, value = KNOWN[case]
    found = LM.minimize(residuals, start)
    assert found.converged, found
    flat = case == "powell, singular"  # the Jacobian there has half its rank
    np.testing.assert_allclose(found.x, expected, rtol=1e-8, atol=1e-4 if flat else 1e-14)
    np.testing.assert_allclose(found.value, value, rtol=1e-8, atol=1e-14 if flat else 1e-24)


def test_units_do_not_matter():
    """Parameters and residuals in units that differ by twenty-four decades: the same steps, the same digits."""
    plain = LM.minimize(decay, [1.0, 0.1])
    assert plain.converged and plain.iterations < 10
    for unit, of in (([1e12, 1e-12], 1.0), ([1e-12, 1e12], 1.0), ([1.0, 1.0], 1e-9), ([1.0, 1.0], 1e12)):
        unit = np.array(unit)
        found = LM.minimize(lambda b, unit=unit, of=of: of * decay(b / unit), unit * [1.0, 0.1])
        assert found.converged and found.iterations == plain.iterations
        np.testing.assert_allclose(found.x, plain.x * unit, rtol=1e-10)
        np.testing.assert_allclose(found.covariance, plain.covariance * np.outer(unit, unit), rtol=1e-7)


def test_a_start_may_be_a_tree_and_its_marks_keep_what_they_say():
    residuals = lambda p: decay([p["height"], p["rate"][0]]) + 0.0 * p["idle"]
    start = {"height": 1.0, "rate": [jd.Positive(0.1)], "idle": jd.Fixed(4.0)}
    found, plain = LM.minimize(residuals, start), LM.minimize(decay, [1.0, 0.1])
    np.testing.assert_allclose([found.x["height"], found.x["rate"][0], found.x["idle"]], [*plain.x, 4.0], rtol=1e-9)
    np.testing.assert_allclose(found.covariance, plain.covariance, rtol=1e-6)


def test_whole_numbers_are_a_start_too():
    assert LM.minimize(decay, jnp.array([1, 1])).converged


def test_a_default_session_minimises_in_double_precision():
    with jax.enable_x64(False):
        assert LM.minimize(decay, [1.0, 0.1]).x.tolist() == LM.minimize(decay, np.array([1.0, 0.1])).x.tolist()
        found = LM.minimize(decay, [1.0, 0.1])
        assert jnp.zeros(1).dtype == jnp.float32
    np.testing.assert_allclose(found.x, LM.minimize(decay, [1.0, 0.1]).x, rtol=1e-13)


def test_what_leaves_its_range_has_not_converged():
    """A plateau without a slope, from where the optimum cannot be seen; and a valley that never ends."""
    rise = lambda b: b[0] * (1 - jnp.exp(-b[1] * BOX[0])) - BOX[1]
    assert not LM.minimize(rise, [170.0, 130.0]).converged
    assert "not identified by these residuals: x[1]" in LM.minimize(rise, [1.0, 2000.0]).notes[0]  # it never was
    assert not LM.minimize(lambda x: jnp.exp(-x * (1 + T)), 1.0).converged
    late = LM.minimize(decay, [1.0, 0.1], steps=2)
    assert not late.converged and late.iterations == 2 and "2 Jacobians were not enough" in late.notes[0]


def test_what_is_not_identified_is_said():
    twice = LM.minimize(lambda b: (b[0] + b[1]) * T - 1.0, [1.0, 2.0])
    assert twice.converged and np.isnan(twice.covariance).all() and "x[0], x[1]" in twice.notes[0]
    idle = LM.minimize(lambda b: b[0] * T - 1.0 + 0.0 * b[1], [1.0, 2.0])
    assert (
        idle.converged and idle.x[1] == 2.0 and np.isfinite(idle.covariance[0, 0]) and np.isnan(idle.covariance[1, 1])
    )
    flat = LM.minimize(lambda b: 0.0 * b + 1.0, [1.0, 2.0])
    assert flat.x.tolist() == [1.0, 2.0] and np.isnan(flat.covariance).all()
    few = LM.minimize(lambda b: b[:2] - 1.0, [3.0, 4.0, 5.0])
    assert few.converged and few.value < 1e-28 and np.isnan(few.covariance).all()
    assert any("2 residuals leave no variance for 3 numbers" in note for note in few.notes)


def test_a_trial_without_a_value_shortens_the_step():
    found = LM.minimize(lambda x: jnp.log(x) * (1 + T) - 0.01, 3.0)  # the undamped step goes below zero
    assert found.converged
    hole = LM.minimize(lambda x: jnp.where(jnp.abs(x - 2.0) < 0.5, jnp.nan, x - 1.0 + 0.0 * T), 3.0)
    assert np.isfinite(hole.value)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: LM.minimize(lambda x: jnp.nan * x, 1.0), ValueError, "not finite at the start"),
        (lambda: LM.minimize(lambda x: jnp.sqrt(x), 0.0), ValueError, "not finite at the start"),
        (lambda: LM.minimize(lambda x: (x, x), 1.0), TypeError, "an array of real numbers"),
        (lambda: LM.minimize(lambda x: x + 1j, 1.0), TypeError, "an array of real numbers"),
        (lambda: LM.minimize(lambda x: x, jd.Positive(-1.0)), ValueError, "above zero"),
        (
            lambda: LM.minimize(lambda p: jnp.ravel(p["a"]), {"a": jd.Positive(-np.ones((9, 9)))}),
            ValueError,
            "got -1.0",
        ),
        (lambda: LM.minimize(lambda p: jnp.ravel(p["a"]), {"a": np.full((9, 9), np.nan)}), ValueError, "'x.a' is not"),
        (lambda: LM.minimize(lambda p: jnp.nan * jnp.ravel(p["a"]), {"a": np.ones((9, 9))}), ValueError, "81 in all"),
        (lambda: LM.minimize(lambda x: x, [1.0 + 1j, 2.0]), TypeError, "real numbers, got complex"),
        (lambda: LM.minimize(lambda x: x["a"], {"a": jnp.array([1j])}), TypeError, "real numbers, got complex"),
        (lambda: LM.minimize(lambda x: x, {}), TypeError, "at least one number"),
        (lambda: LM.minimize(lambda x: x, np.nan), ValueError, "is not finite"),
        (lambda: LM.minimize(lambda x: x, "1"), TypeError, "expected a number"),
        (lambda: LM.minimize(lambda x: x, 1.0, steps=0), ValueError, "steps must be a positive whole number"),
        (lambda: jax.jit(lambda s: LM.minimize(lambda x: x, s).x)(1.0), TypeError, "got tracers"),
    ],
)
def test_errors_are_one_line(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
