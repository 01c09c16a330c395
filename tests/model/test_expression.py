"""Coefficients as text: what is arithmetic and what is refused, values, gradients and names."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.model.expression import names

VALUES = [
    ("1 + 2*3", 7.0),
    ("(1 + 2)*3", 9.0),
    ("-x**2", -4.0),
    ("2**-1", 0.5),
    ("2**3**2", 512.0),
    ("x/4 - 1e-3", 0.499),
    ("+x", 2.0),
    ("exp(x) - e**x", 0.0),
    ("log(x) + log1p(x) + expm1(x)", math.log(2) + math.log(3) + math.exp(2) - 1),
    ("sin(pi*x/4) + cos(pi*x) + tan(0)", 2.0),
    ("tanh(x) + sinh(x) - cosh(x)", math.tanh(2) - math.exp(-2)),
    ("sqrt(x)*sqrt(2)", 2.0),
    ("abs(-x) + sign(-x)", 1.0),
    ("erf(x) + erfc(x)", 1.0),
    ("min(x, 1, 3) + max(x, 5)", 6.0),
    ("where(x < 1, 10, 20) + where(x >= 2, 1, 2)", 21.0),
    ("heaviside(x - 2) + heaviside(x)", 1.5),
    ("atan2(x, x) - pi/4 + hypot(3, 4)", 5.0),
    ("  x\n + 1 ", 3.0),
]


@pytest.mark.parametrize("text, value", VALUES, ids=[text for text, _ in VALUES])
def test_value(text, value):
    expression = jd.Expression(text)
    assert float(expression(2.0)) == pytest.approx(value, abs=1e-14)
    assert float(jax.jit(lambda x: expression(x))(2.0)) == pytest.approx(value, abs=1e-14)


REFUSED = [
    ("__import__('os').system('true')", "__import__"),
    ("x.real", "x.real"),
    ("x[0]", "x[0]"),
    ("[x]", "[x]"),
    ("lambda: 1", "lambda"),
    ("x < 1", "x < 1"),
    ("where(x, 1, 2)", "where(x, 1, 2)"),
    ("where(0 < x < 1, 1, 2)", "where"),
    ("x^2", "**"),
    ("0,5", "decimal point"),
    ("foo(x)", "foo is no known function"),
    ("exp", "exp(x)"),
    ("exp()", "1 argument"),
    ("exp(x, 2)", "1 argument"),
    ("exp(*x)", "exp"),
    ("exp(x=1)", "exp(x=1)"),
    ("1/0", "1/0"),
    ("9**9**9", "9**9**9"),
    ("(-1)**0.5", "finite"),
    ("1e999", "1e999"),
    ("1j", "1j"),
    ("x if 1 else 2", "x if 1 else 2"),
    ("'a'", "'a'"),
    ("True", "True"),
    ("x and 1", "x and 1"),
    ("x % 2", "x % 2"),
    ("x := 1", "x := 1"),
    ("f'{x}'", "f'{x}'"),
    ("import os", "import os"),
    ("", "cannot be read"),
    ("x +", "cannot be read"),
    ("x\0", "cannot be read"),
    ("(" * 400 + "x" + ")" * 400, "too long, or nested too deep"),
    ("-" * 4000 + "x", "too long, or nested too deep"),
    ("**".join(["x"] * 2000), "too long, or nested too deep"),
    ("+".join(["x"] * 50_000), "too long, or nested too deep"),
    ("q*x", "'q'"),
]


@pytest.mark.parametrize("term, value", [("x", 2000 * 0.5), ("1.5", 3000.0), ("t", 2000 * 0.25), ("k*x", 2000.0)])
def test_a_sum_of_two_thousand_terms_is_a_sum(term, value):
    expression = jd.Expression("+".join([term] * 2000), variables=("t", "x"), **({"k": 2.0} if "k" in term else {}))
    assert float(expression(0.25, 0.5)) == pytest.approx(value, rel=1e-12)


def test_a_long_line_in_t_has_its_root():
    text = f"where({'+'.join(['t'] * 900)} - k*450 < 0, 1, 2)"
    assert [float(root) for root in jd.Expression(text, k=3.0).jumps()] == pytest.approx([1.5])
    assert [float(root) for root in jd.Expression("where(6 - 2*(k - t)/4 < 0, 1, 2)", k=3.0).jumps()] == [-9.0]
    assert jd.Expression("where(t*t < 2, 1, 2)").jumps() == [] == jd.Expression("where(1/t < 2, 1, 2)").jumps()


@pytest.mark.parametrize("text, named", REFUSED, ids=[text[:20] for text, _ in REFUSED])
def test_what_is_not_arithmetic_is_refused_in_one_line(text, named):
    with pytest.raises(ValueError, match="is not arithmetic") as caught:
        jd.Expression(text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "constants, message",
    [
        ({"k": 1.0, "m": 2.0, "n": 3.0}, "'n' does not occur"),
        ({"k": 1.0}, "'m' .* no value"),
        ({"k": 1.0, "m": 1.0, "sin": 1.0}, "'sin'"),
    ],
)
def test_constants_must_fit_the_text(constants, message):
    with pytest.raises(ValueError, match=message):
        jd.Expression("k*(m-x)", **constants)


POWERS = [
    ("x**2", 0.0, 0.0),
    ("x**2.0", 0.0, 0.0),
    ("x**1", 0.0, 1.0),
    ("x**0", 0.0, 0.0),
    ("x**3", -2.0, 12.0),
    ("x**-1", 2.0, -0.25),
]


@pytest.mark.parametrize("text, at, slope", POWERS, ids=[p[0] for p in POWERS])
def test_integer_powers_have_a_gradient_everywhere(text, at, slope):
    assert float(jax.grad(jd.Expression(text))(at)) == slope
    assert float(jax.jvp(jd.Expression(text), (at,), (1.0,))[1]) == slope


def test_a_power_that_is_a_constant_has_gradients_at_zero():
    slopes = jax.grad(lambda n, x: jd.Expression("x**n", n=n)(x), argnums=(0, 1))(2.0, 0.0)
    assert np.isfinite(slopes).all()


def test_constants_are_the_leaves_and_the_text_is_structure():
    one, other = (jd.Expression("k*(m-x)", k=k, m=0.5) for k in (1.0, 2.0))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert jax.tree.leaves(other) == [2.0, 0.5]
    traces = []
    call = jax.jit(lambda f, x: traces.append(1) or f(x))
    assert [float(call(f, 0.0)) for f in (one, other)] == [0.5, 1.0]
    assert len(traces) == 1


@pytest.mark.parametrize(
    "text, variables, arguments, value",
    [
        ("100*sin(pi*t/40)", None, (20.0,), 100.0),
        ("t*x", None, (2.0, 3.0), 6.0),
        ("u*x + t", None, (1.0, 2.0, 3.0), 7.0),
        ("x", ("t", "x"), (1.0, 2.0), 2.0),
        ("x*y", None, (2.0, 3.0), 6.0),
        ("r**2", ("r",), (3.0,), 9.0),
        ("7", None, (3.0,), 7.0),
    ],
)
def test_variables_come_in_the_order_of_the_call(text, variables, arguments, value):
    assert float(jd.Expression(text, variables=variables)(*arguments)) == pytest.approx(value)


def test_too_few_arguments_are_named():
    with pytest.raises(TypeError, match=r"function of \(t, x\), got 1"):
        jd.Expression("t*x")(1.0)


def test_names_of_a_text():
    assert names("k*(m - x) + exp(-k*pi)*e") == ("k", "m", "x")


def test_marked_constants_are_fitted_under_their_own_names():
    from jaxdiff.parameters import collect

    model = jd.FokkerPlanck(jd.Expression("k*(m-x)", k=jd.Positive(2.0), m=jd.Free(0.5)), jd.Free(1.0))
    assert set(collect(model).names) == {"drift.k", "drift.m", "diffusivity"}


@pytest.mark.slow
def test_an_expression_solves_as_the_function_does():
    grid = jd.Grid.uniform((-3.0, 3.0, 60))
    initial = grid.average(lambda x: jnp.exp(-(x**2)))
    written = jd.FokkerPlanck(jd.Expression("k*(m-x)", k=2.0, m=0.5), jd.Expression("1 + 0.1*x**2"))
    coded = jd.FokkerPlanck(lambda x: 2.0 * (0.5 - x), lambda x: 1 + 0.1 * x**2)
    one, other = (jd.solve(model, grid, initial, [0.0, 0.3]).values[-1] for model in (written, coded))
    np.testing.assert_allclose(one, other, rtol=1e-12)
