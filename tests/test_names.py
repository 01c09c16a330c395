"""What the arguments of a function mean: by name, whatever their order; what is not clear is refused in one line."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

LINE, PLANE = jd.Grid.uniform((0.0, 1.0, 16)), jd.Grid.uniform((0.0, 1.0, 5), (0.0, 2.0, 6))
TUBE = jd.Grid.radial((0.0, 1.0, 5), (0.0, 2.0, 6), geometry="cylindrical")
BALL = jd.Grid.radial((0.0, 1.0, 16), geometry="spherical")
T, E = jd.TimeDependent, jd.Expression


class Slope(eqx.Module):
    k: float

    def __call__(self, x, t=2.0):
        return 1 + self.k * x * t


class OfTime(eqx.Module):
    """a + b x + c t + d x t, its arguments in order: what functions of time are held against, in one program."""

    numbers: Any = eqx.field(converter=np.array)

    def __call__(self, t, x):
        return self.numbers @ jnp.stack([jnp.ones_like(x), x, t, x * t])


SMALL = {"stepper": jd.RungeKutta4(), "substeps": 128}  # in a smaller program than adaptive steps


def ends(diffusivity, grid=LINE, initial=None, how=None, **more):
    start = (lambda *x: jnp.cos(3 * x[0]) + (x[-1] if len(x) > 1 else 0.0)) if initial is None else initial
    equation = jd.Diffusion(diffusivity, **more)
    moves = any(isinstance(c, T) for c in jax.tree.leaves(equation, is_leaf=lambda c: isinstance(c, T)))
    return jd.solve(equation, grid, start, [0.0, 0.05], **(SMALL if moves and how is None else how or {})).values[-1]


of_time = lambda *numbers: ends(T(OfTime(numbers)))
of_place = lambda numbers, grid=LINE: ends(jd.Polynomial(numbers), grid)


SAME = {
    "time first": lambda: (ends(T(lambda t, x: 1 + 2 * x + 9 * t)), of_time(1, 2, 9, 0)),
    "time last": lambda: (ends(T(lambda x, t: 1 + 2 * x + 9 * t)), of_time(1, 2, 9, 0)),
    "in adaptive steps": lambda: (ends(T(lambda x, t: 1 + 2 * x + 9 * t), how={}), ends(T(OfTime([1, 2, 9, 0])), how={})),
    "time alone": lambda: (ends(T(lambda t: 1 + 9 * t)), of_time(1, 0, 9, 0)),
    "other names are in order": lambda: (ends(T(lambda a, b: 1 + 2 * b + 9 * a)), of_time(1, 2, 9, 0)),
    "time and another name": lambda: (ends(T(lambda s, t: 1 + 2 * s + 9 * t)), of_time(1, 2, 9, 0)),
    "depth": lambda: (ends(lambda z: 1 + z), of_place([1, 1])),
    "depth as text": lambda: (ends(E("1 + z")), of_place([1, 1])),
    "text of time": lambda: (ends(T(E("1 + 9*t"))), of_time(1, 0, 9, 0)),
    "radius": lambda: (ends(E("1 + r**2"), BALL), of_place([1, 0, 1], BALL)),
    "captured by a default": lambda: (ends(lambda x, r=2.0: 1 + r * x), of_place([1, 2])),
    "default, radial": lambda: (ends(lambda x, r=2.0: 1 + r * x, BALL), of_place([1, 2, 0], BALL)),
    "default of time": lambda: (ends(Slope(0.5)), of_place([1, 1])),
    "module of time": lambda: (ends(T(Slope(0.5))), of_time(1, 0, 0, 0.5)),
    "partial": lambda: (ends(functools.partial(lambda c, x: 1 + c * x, 2.0)), of_place([1, 2])),
    "partial by name": lambda: (ends(functools.partial(lambda x, c: 1 + c * x, c=2.0)), of_place([1, 2])),
    "jit": lambda: (ends(jax.jit(lambda x: 1 + x)), of_place([1, 1])),
    "builtin": lambda: (ends(jnp.exp), ends(lambda x: jnp.exp(x))),
    "all arguments": lambda: (ends(T(lambda *a: 1 + 2 * a[1] + 9 * a[0])), of_time(1, 2, 9, 0)),
    "turned": lambda: (ends(lambda y, x: 1 + x + 3 * y, PLANE), of_place([[1, 3], [1, 0]], PLANE)),
    "text of one": lambda: (ends(E("1 + y"), PLANE), of_place([[1, 1], [0, 0]], PLANE)),
    "turned by position": lambda: (ends(eval("lambda y, x, /: 1 + x + 3 * y"), PLANE), of_place([[1, 3], [1, 0]], PLANE)),
    "time second by position": lambda: (ends(T(eval("lambda x, t, /: 1 + x + 9 * t"))), of_time(1, 1, 9, 0)),
    "turned with time": lambda: (
        ends(T(lambda y, t, x: 1 + x + 3 * y + 9 * t), PLANE), ends(T(lambda t, x, y: 1 + x + 3 * y + 9 * t), PLANE),
    ),
    "turned source": lambda: (ends(1.0, PLANE, source=lambda y, x: x + 9 * y), ends(1.0, PLANE, source=lambda x, y: x + 9 * y)),
    "turned start": lambda: (ends(1.0, PLANE, lambda y, x: x + 9 * y), ends(1.0, PLANE, lambda x, y: x + 9 * y)),
    "tube": lambda: (ends(lambda z, r: 1 + r + 3 * z, TUBE), ends(lambda a, b: 1 + a + 3 * b, TUBE)),
    "wall of a place": lambda: (
        ends(1.0, PLANE, boundaries={"x-": jd.Dirichlet(E("100*y"))}), ends(1.0, PLANE, boundaries={"x-": jd.Dirichlet(lambda y: 100 * y)}),
    ),
    "wall of time": lambda: (
        ends(1.0, PLANE, boundaries={"x-": jd.Dirichlet(T(lambda y, t: y + t))}), ends(1.0, PLANE, boundaries={"x-": jd.Dirichlet(T(lambda t, y: y + t))}),
    ),
    "tensor": lambda: (
        ends(jd.Tensor(lambda y, x: jnp.diag(jnp.stack([1 + x, 1 + 3 * y]))), PLANE),
        ends(jd.Tensor(lambda x, y: jnp.diag(jnp.stack([1 + x, 1 + 3 * y]))), PLANE),
    ),
    "whole numbers": lambda: (ends(lambda x: 2), ends(2.0)),
    "tensor of whole numbers": lambda: (ends(jd.Tensor(lambda x, y: jnp.array([[2, 1], [1, 2]])), PLANE), ends(jd.Tensor([[2.0, 1.0], [1.0, 2.0]]), PLANE)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", SAME)
def test_arguments_mean_what_they_are_called(case):
    found, wanted = SAME[case]()
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.slow
def test_a_drift_and_a_potential_by_name():
    start = lambda x, y: 1 + x
    last = lambda drift: jd.solve(jd.FokkerPlanck(drift, 0.5), PLANE, start, [0.0, 0.1], **SMALL).values[-1]
    np.testing.assert_allclose(last(lambda y, x: (y, 0 * x)), last(lambda x, y: (y, 0 * x)), rtol=1e-12)
    np.testing.assert_allclose(
        last(jd.Potential(lambda y, x: x + 3 * y)), last(jd.Potential(lambda x, y: x + 3 * y)), rtol=1e-12
    )


def choose(x):
    return 1.0 if x < 0.5 else 2.0


wall = lambda value, grid=LINE: ends(1.0, grid, boundaries=jd.Dirichlet(value))
REFUSED = {
    "state": (lambda: ends(lambda u: u), "u is the state, .* got lambda.u.; call the position x"),
    "state in a text": (lambda: ends(E("D0*exp(b*u)", D0=1.0, b=0.1)), "u is the state"),
    "state as source": (lambda: ends(1.0, source=E("k*u", k=1.0)), "u is the state"),
    "state as start": (lambda: ends(1.0, LINE, lambda u: u), "u is the state"),
    "state as drift": (lambda: jd.solve(jd.FokkerPlanck(lambda u: u, 1.0), LINE, 1.0, [0, 1]), "u is the state"),
    "state in a potential": (lambda: jd.solve(jd.FokkerPlanck(jd.Potential(lambda u: u), 1.0), LINE, 1.0, [0, 1]), "u is the state"),
    "state at a wall": (lambda: wall(lambda u: u), "u is the state"),
    "state in time": (lambda: ends(T(lambda t, u: u)), "u is the state"),
    "time": (lambda: ends(lambda t: 1 + t), "t is the time, .* wrap a coefficient in jd.TimeDependent"),
    "time in a text": (lambda: ends(E("1 + t*x")), "t is the time"),
    "time in a start": (lambda: ends(1.0, LINE, lambda x, t: x), "leave t out of an initial state"),
    "time at a wall": (lambda: wall(lambda t: t), "wrap a coefficient in jd.TimeDependent"),
    "place at a wall": (lambda: wall(lambda x: x), "x does not vary on this wall"),
    "place of time at a wall": (lambda: wall(T(lambda t, x: x)), "x does not vary on this wall"),
    "place across a wall": (lambda: wall(lambda x: x, PLANE), "x does not vary on this wall"),
    "a mixture": (lambda: ends(lambda x, c: x * c), r"called here with 1 argument, got lambda\(x, c\)"),
    "a mixture with time": (lambda: ends(T(lambda x, c: x * c)), r"called here with 2 arguments, got TimeDependent\(x, c\)"),
    "a mixture on two axes": (lambda: ends(lambda x, s: x * s, PLANE), r"got lambda\(x, s\); write one that takes so many: x, y"),
    "another axis": (lambda: ends(lambda x, z: x * z, TUBE), r"got lambda\(x, z\); write one that takes so many: r, z"),
    "NumPy": (lambda: ends(lambda x: 2 + np.sin(x)), r"lambda\(x\) asks for the value of an argument, .* jnp.sin"),
    "a choice": (lambda: ends(choose), r"choose\(x\) asks for the value of an argument, .* jnp.where in place of if"),
    "NumPy in a start": (lambda: ends(1.0, LINE, lambda x: np.sin(x)), "use jnp.sin in place of np.sin"),
    "NumPy in a source": (lambda: ends(1.0, PLANE, source=lambda x, y: np.sin(x)), "use jnp.sin in place of np.sin"),
    "NumPy at a wall": (lambda: wall(T(lambda t: np.sin(t))), "use jnp.sin in place of np.sin"),
    "NumPy in a tensor": (lambda: ends(jd.Tensor(lambda x, y: np.eye(2) * float(x)), PLANE), "use jnp.sin in place of np.sin"),
    "shape": (lambda: ends(lambda x: jnp.ones(3) * x), r"diffusivity: expected one number at each point, got shape \(3,\)"),
    "shape of a start": (lambda: ends(1.0, LINE, lambda x: jnp.ones(3) * x), r"expected one number at each point, got shape \(3,\)"),
    "nothing": (lambda: ends(lambda x: None), "diffusivity: expected one number at each point, got None"),
    "complex": (lambda: ends(lambda x: 1j * x), "expected one number at each point, got complex128"),
    "shape at a wall": (lambda: wall(T(lambda t: jnp.ones(2))), r"expected one number at each point, got shape \(2,\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_clear_is_refused(case):
    call, words = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=words) as raised:
        call()
    assert "\n" not in str(raised.value)
