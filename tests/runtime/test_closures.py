"""Functions known by what they say and read: made again with other numbers they compile nothing, and nothing stale is taken for them."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.parameters import Function
from jaxdiff.runtime.closures import jit_by_meaning, opened

SCALE = 1.0


class Kept:
    """What a function may read, and change."""

    def __init__(self, rate):
        self.rate = rate


@pytest.fixture
def program():
    def run(model, x):
        run.traced += 1
        return model(x)

    run.traced = 0
    call = jit_by_meaning(run)
    return lambda model, x=2.0: (float(call(model, np.asarray(x))), run.traced)


def scaled(a, power=1):
    return lambda x: a * SCALE * x**power


def test_other_numbers_trace_nothing(program):
    assert program(scaled(np.float64(3.0))) == (6.0, 1)
    assert program(scaled(np.asarray(4.0))) == (8.0, 1)
    assert program(Function(scaled(jnp.asarray(5.0)))) == (10.0, 1)
    inner = lambda a: (lambda f: lambda x: f(x) + a)(scaled(np.float64(1.0)))
    assert program(inner(np.float64(1.0))) == (3.0, 2)
    assert program(inner(np.float64(2.0))) == (4.0, 2)


def test_another_meaning_is_another_program(program, monkeypatch):
    a = np.float64(3.0)
    assert program(scaled(a))[0] == 6.0
    assert program(scaled(a, power=2))[0] == 12.0
    assert program(scaled(3))[0] == 6.0 and program(scaled(4))[0] == 8.0
    monkeypatch.setitem(globals(), "SCALE", 10.0)
    assert program(scaled(a))[0] == 60.0
    assert program(lambda x: x + a)[0] == 5.0 and program(lambda x: x - a)[0] == -1.0
    assert program(lambda x, a=a: x + a)[0] == 5.0 and program(lambda x, a=a + 1: x + a)[0] == 6.0
    by = lambda kept: lambda x: kept.rate * x
    assert program(by(Kept(2.0)))[0] == 4.0 and program(by(Kept(5.0)))[0] == 10.0


def test_a_number_that_is_asked_for_its_value_stays_one(program):
    def chosen(a):
        return lambda x: x if a > 2 else -x

    assert program(chosen(np.float64(3.0)))[0] == 2.0
    assert program(chosen(np.float64(1.0)))[0] == -2.0


def test_what_cannot_be_seen_is_left_as_it_is():
    handle = open(__file__)
    unseen = lambda x: x if handle else 0.0
    try:
        assert opened(unseen) is unseen
        assert opened(np.sin) is np.sin
    finally:
        handle.close()
