"""Measured courses: their values between times, their arithmetic, and when a coefficient jumps."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxdiff as jd
from jaxdiff.model.coefficients import jumps
from jaxdiff.parameters import collect, plain
from jaxdiff.shell.config import parse

RAMP = jd.Series([0.0, 1.0, 3.0], [0.0, 10.0, 20.0])
BEND = jd.Series([0.5, 2.0], [1.0, 4.0])
PULSE = jd.Series([1.0, 2.0, 4.0], [5.0, 7.0, 2.0], "previous")
STEP = jd.Series([0.0, 3.0], [1.0, 3.0], interpolation="previous")
TIMES = np.array([-1.0, 0.0, 0.3, 0.5, 1.0, 1.7, 2.0, 2.5, 3.0, 3.5, 4.0, 9.0])


def test_a_value_holds_from_its_time_until_the_next():
    expected = [5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 7.0, 7.0, 7.0, 7.0, 2.0, 2.0]
    np.testing.assert_array_equal(jax.vmap(PULSE)(TIMES), expected)
    np.testing.assert_array_equal(jax.jit(lambda t: PULSE(t))(TIMES), expected)


SUMS = {
    "2*s": lambda s, o: 2 * s,
    "s*2": lambda s, o: s * 2.5,
    "numpy*s": lambda s, o: np.float64(2.0) * s,
    "0-d*s": lambda s, o: np.array(2.0) * s,
    "jax*s": lambda s, o: jnp.asarray(2.0) * s,
    "-s": lambda s, o: -s,
    "s/2": lambda s, o: s / 2,
    "s+3": lambda s, o: s + 3,
    "3-s": lambda s, o: 3 - s,
    "numpy-s": lambda s, o: np.array(3.0) - s,
    "s-o": lambda s, o: s - o,
    "s+s": lambda s, o: s + s,
    "all": lambda s, o: 2 * s + o / 4 - 1,
}


@pytest.mark.parametrize("combine", SUMS.values(), ids=SUMS)
@pytest.mark.parametrize("one, other", [(RAMP, BEND), (PULSE, STEP)], ids=["linear", "previous"])
def test_arithmetic_is_exact_at_every_time(one, other, combine):
    made = combine(one, other)
    assert isinstance(made, jd.Series) and made.interpolation == one.interpolation
    np.testing.assert_allclose(made(TIMES), combine(one(TIMES), other(TIMES)), rtol=1e-14, atol=1e-14)


def test_numbers_that_are_known_stay_known():
    assert isinstance((2 * RAMP + BEND).values, np.ndarray)
    np.testing.assert_array_equal((RAMP + BEND).times, [0.0, 0.5, 1.0, 2.0, 3.0])
    np.testing.assert_array_equal(sum([PULSE, PULSE]).times, PULSE.times)


@pytest.mark.parametrize("combine", [lambda a, b: a * b, lambda a, b: a / b, lambda a, b: 6 / a + b])
def test_whatever_is_done_to_steps_makes_steps(combine):
    made = combine(PULSE, STEP)
    np.testing.assert_allclose(made(TIMES), combine(PULSE(TIMES), STEP(TIMES)), rtol=1e-14)


def test_arithmetic_with_traced_numbers_and_times():
    def value(v, end):
        pulse = jd.Series([1.0, end], [1.0, 0.0], "previous")
        return ((v * pulse - STEP) * v + v)(TIMES), (v - RAMP / v + jd.Series(jnp.stack([1.0, end]), BEND.values))(
            TIMES
        )

    steps, lines = jax.jit(value)(2.0, 2.5)
    pulse = np.where(TIMES < 2.5, 1.0, 0.0)
    np.testing.assert_allclose(steps, (2 * pulse - STEP(TIMES)) * 2 + 2)
    np.testing.assert_allclose(lines, 2 - RAMP(TIMES) / 2 + np.interp(TIMES, [1.0, 2.5], BEND.values))
    slopes = jax.jit(jax.jacfwd(value, argnums=(0, 1)))(2.0, 2.5)
    np.testing.assert_allclose(slopes[0][0], 4 * pulse - STEP(TIMES) + 1)
    assert all(np.isfinite(slope).all() for slope in jax.tree.leaves(slopes))


FREE = jd.Series([0.0, 1.0], jd.Free([1.0, 2.0]))
REFUSED = {
    "product": (lambda: RAMP * BEND, TypeError, r"Series\('linear'\) \* Series\('linear'\) .*: a\(t\) \* b\(t\)"),
    "quotient": (lambda: 1 / RAMP, TypeError, r"int / Series\('linear'\) is neither .*lambda t: a / b\(t\)\)"),
    "kinds": (lambda: RAMP + PULSE, TypeError, r"neither linear nor constant .*lambda t: a\(t\) \+ b\(t\)"),
    "function": (lambda: jd.TimeDependent(lambda t: t) * PULSE, TypeError, r"TimeDependent \* Se.* a\(t\) \* b\(t\)"),
    "array": (lambda: np.ones(3) * RAMP, TypeError, r"takes a number, got an array of shape \(3,\)"),
    "jax array": (lambda: jnp.ones(3) - RAMP, TypeError, r"takes a number, got an array of shape \(3,\)"),
    "list": (lambda: RAMP + [1.0], TypeError, r"takes a number, got an array of shape \(1,\)"),
    "mark": (lambda: jd.Free(2.0) * RAMP, TypeError, "takes no marks, got one; write the model as a function"),
    "marked": (lambda: FREE + RAMP, TypeError, "takes no marks, got one; write the model as a function"),
    "zero": (lambda: RAMP + np.inf, ValueError, "value 0 of a Series is inf; drop the times"),
    "name": (lambda: jd.Series([0, 1], [0, 1], "nearest"), ValueError, "'linear' or 'previous' .*, got 'nearest'"),
    "marked times": (lambda: jd.Series(jd.Free([1.0, 0.0]), [0, 1]), ValueError, "finite, increasing times"),
    "marked values": (lambda: jd.Series([0.0, 1.0], jd.Free([1.0, 2.0, 3.0])), ValueError, "2 times, values"),
}  # fmt: skip


@pytest.mark.parametrize("make, kind, words", REFUSED.values(), ids=REFUSED)
def test_what_is_refused(make, kind, words):
    with pytest.raises(kind, match=words) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("times", [jd.Positive([1.0, 2.0]), [1.0, jd.Positive(2.0)]], ids=["all", "one"])
def test_times_are_fitted(times):
    series = jd.Series(times, [3.0, 5.0], "previous")
    assert jax.tree.leaves(collect(series).labels)[-1] in ("times[1]", "times.1")
    np.testing.assert_array_equal(plain(series)(np.array([1.9, 2.0])), [3.0, 5.0])
    np.testing.assert_array_equal(np.ravel(jumps(series)), [1.0, 2.0])


def test_other_numbers_share_one_program():
    traces = []

    @eqx.filter_jit
    def value(series, t):
        traces.append(t)
        return series(t)

    assert float(value(2 * STEP, 3.0)) == 6.0 and float(value(STEP + 1, 3.0)) == 4.0 and len(traces) == 1
    assert jax.tree.structure(STEP) != jax.tree.structure(BEND) and len(jax.tree.leaves(STEP)) == 2


TABLE = pd.DataFrame({"t": [0.0, 1.0, 2.0, 3.0], "heater": [0.0, 5.0, None, 0.0], "air": [1.0, 2.0, 4.0, 8.0]})


def configured(tmp_path, interpolation=None, **equation):
    TABLE.to_csv(tmp_path / "table.csv", index=False)
    return parse(
        {
            "equation": {"kind": "diffusion", "diffusivity": "D", **equation},
            "boundaries": {"x-": {"kind": "dirichlet", "value": "air"}},
            "parameters": {"D": 1.0},
            "grid": {"lower": 0.0, "upper": 1.0, "cells": 4},
            "initial": 0.0,
            "data": {"table": "table.csv", "time": "t"} | ({"interpolation": interpolation} if interpolation else {}),
        },
        tmp_path,
    ).model


@pytest.mark.parametrize(
    "interpolation, source, wall",
    [
        ({"heater": "linear"}, 5.0, 3.0),
        ("linear", 5.0, 3.0),
        ("previous", 10.0, 2.0),
        ({"heater": "previous"}, 10.0, 3.0),
        ({"air": "previous", "heater": "linear"}, 5.0, 2.0),
    ],
)
def test_columns_of_a_configuration(tmp_path, interpolation, source, wall):
    made = configured(tmp_path, interpolation, source="2*D*heater")(D=1.0)
    assert float(made.source(2.5 if source == 10.0 else 2.0)) == pytest.approx(source)  # the row at 2 is missing
    assert float(made.boundaries["x-"].value(1.5)) == wall


def test_models_of_other_interpolation_are_others(tmp_path):
    assert configured(tmp_path) == configured(tmp_path, "linear") != configured(tmp_path, "previous")


@pytest.mark.parametrize(
    "interpolation, words",
    [
        ("previuos", r"\[data\] interpolation is 'previuos'; did you mean 'previous'"),
        (3, r"\[data\] interpolation is 3; choose one of linear, previous"),
        (None, r"row 3 \(line 4\) of column 'heater' .* is empty; fill it in, or say how it goes on there"),
        ({"heater": "next"}, r"\[data\] interpolation heater is 'next'; choose one of linear, previous"),
        ({"heeter": "previous"}, "no column 'heeter'"),
        ({"heater": "previous"}, r"source: 'heater \+ air' mixes 'heater', held between rows, with 'air', linear"),
    ],
)
def test_a_configuration_that_is_refused(tmp_path, interpolation, words):
    with pytest.raises(ValueError, match=words) as error:
        configured(tmp_path, interpolation, source="heater + air")
    assert "\n" not in str(error.value)


JUMPS = [
    ("where(t < T, 1, 0)", [2.0]),
    ("where(2*(t - k) >= -T/4 + 1, x, 0)", [3.25]),
    ("where(T > t/k, 1, 0)*sin(t)", [6.0]),
    ("heaviside(t - T) + sign(k - t)", [2.0, 3.0]),
    ("exp(-k*max(t - T, 0)) + abs(t*sqrt(4) - 1)", [2.0, 0.5]),
    ("min(t, T, 2*t - 2)", [2.0, 2.0, 2.0]),
    ("where(t < k + where(T < 1, 5, 6), 1, 0)", [9.0]),
    ("where(t - t < T, 1, 0)", [np.inf]),
    ("where(-t < +T*pi, 1, 0)", [-2.0 * np.pi]),
    ("where(x < t, 1, 0) + where(t**2 < T, 1, 0) + heaviside(sin(t)) + where(t*t < T, 1, 0)", []),
    ("where(T/t < k, 1, 0) + heaviside(x)*t + abs(T)", []),
    ("k*t", []),
    ("where(x < T, k, 1)", []),
]


@pytest.mark.parametrize("text, times", JUMPS, ids=[text for text, _ in JUMPS])
def test_jumps_of_a_text(text, times):
    constants = {name: value for name, value in {"T": 2.0, "k": 3.0}.items() if name in text.replace("sqrt", "")}
    expression = jd.Expression(text, **constants)
    late = jd.TimeDependent(expression)
    for coefficient in (expression, late, jd.PerAxis(1.0, late), {"x-": jd.Dirichlet(late)}, (0.5, late)):
        found = sorted(float(time) for time in jumps(coefficient))
        assert found == pytest.approx(sorted(times))


def test_jumps_without_kinks_and_of_what_is_unknown():
    text = jd.Expression("max(t, T) + abs(t) + where(t < 2*T, 1, 0)", T=jd.Positive(1.0))
    assert [float(t) for t in jumps(text, kinks=False)] == [2.0] and len(jumps(text)) == 3
    assert jumps(RAMP, kinks=False) == [] and jumps(PULSE, kinks=False) == [PULSE.times]
    assert jumps(RAMP) == [RAMP.times]
    some = (1.0, np.ones(3), None, jd.TimeDependent(lambda t: t), lambda x: x, jd.Polynomial([1.0, 2.0]))
    for coefficient in (*some, jd.Spline([0.0, 1.0], [0.0, 1.0]), jd.MLP(2, 1, key=jax.random.key(0))):
        assert jumps(coefficient) == []


def test_a_jump_is_differentiable_by_what_it_comes_from():
    def root(T, k):
        return jumps(jd.TimeDependent(jd.Expression("where(k*t < T + 1, 1, 0)", T=T, k=k)))[0]

    root_and_slopes = jax.jit(jax.value_and_grad(root, argnums=(0, 1)))
    np.testing.assert_allclose(jax.tree.leaves(root_and_slopes(3.0, 2.0)), [2.0, 0.5, -1.0])
    np.testing.assert_array_equal(jax.tree.leaves(root_and_slopes(3.0, 0.0)), [np.inf, 0.0, 0.0])
    assert float(jumps(jd.Expression("heaviside(T - t)", T=np.inf))[0]) == np.inf
    end = jax.grad(lambda T: jnp.sum(jumps(jd.Series([0.0, T], [1.0, 0.0], "previous"))[0]))
    assert float(end(2.0)) == 1.0


@pytest.mark.slow
def test_a_rate_follows_a_measured_temperature_between_its_readings():
    """A mode decays by ∫D(T(t)) dt, T linear between three readings, where D is far from linear; and so does its slope by E."""
    from scipy.integrate import quad

    grid, mode = jd.Grid.uniform((0.0, 1.0, 10)), np.cos(np.pi * (np.arange(10) + 0.5) / 10)
    T = jd.Series([0.0, 3.0, 5.0], [300.0, 500.0, 350.0])
    decay = 4 * 10**2 * np.sin(np.pi / 20) ** 2

    def amplitude(E):
        D = T.map(lambda T: 1e3 * jnp.exp(-E / T))
        return jd.solve(jd.Diffusion(D), grid, mode, [0.0, 5.0]).values[-1, 0] / mode[0]

    rate = lambda t: 1e3 * np.exp(-5000.0 / np.interp(t, T.times, T.values))
    by_E = lambda t: -rate(t) / np.interp(t, T.times, T.values)
    integral, slope = (quad(f, 0, 5, points=[3.0], epsabs=1e-12)[0] for f in (rate, by_E))
    value, gradient = jax.jit(jax.value_and_grad(amplitude))(5000.0)
    np.testing.assert_allclose(value, np.exp(-decay * integral), rtol=1e-6)
    np.testing.assert_allclose(gradient, -decay * slope * value, rtol=1e-5)
    assert float(jd.Series([0.0, 1.0], [2.0, 3.0], "previous").map(lambda c: c**2)(0.9)) == 4.0
