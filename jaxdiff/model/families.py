"""Families of functions of position whose numbers are fitted: polynomials, splines, networks."""

from __future__ import annotations

import inspect
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.parameters import Free, Mark, Positive, numeric, plain

__all__ = ["MLP", "Polynomial", "Spline"]


class Polynomial(eqx.Module):
    """Σ cᵢ xⁱ, coefficients from the constant up; with `positive`, its exponential.

    With as many axes as there are coordinates, Σ cᵢⱼ xⁱ yʲ. All coefficients may be marked at once, or some of them:

    >>> float(Polynomial([1.0, 0.0, 2.0])(3.0)), float(Polynomial([[1.0, 2.0], [0.0, 3.0]])(2.0, 5.0))
    (19.0, 41.0)
    >>> trap = Polynomial([[0.0, 0.0, Positive(1.0)], [0.0, Free(0.0), 0.0], [Positive(1.0), 0.0, 0.0]])

    Raises `ValueError` if rows differ in length.
    """

    coefficients: Any = eqx.field(converter=numeric)
    positive: bool = eqx.field(static=True, default=False, kw_only=True)

    def __check_init__(self) -> None:
        if not 1 <= len(_shape(plain(self.coefficients))) <= 4:
            raise ValueError(
                "coefficients of a Polynomial are a row of numbers, or as many in each row for several coordinates; fill up with zeros"
            )

    @property
    def __signature__(self) -> inspect.Signature:
        return _of_coordinates(len(_shape(plain(self.coefficients))))

    def __call__(self, *x: Any) -> Any:
        value = _whole(self.coefficients)
        for one in x:
            value = jnp.polyval(value[::-1], one)
        return jnp.exp(value) if self.positive else value


class Spline(eqx.Module):
    """Natural cubic spline through `values` at increasing `knots`, linear beyond them; the values are marked for fitting.

    With `positive` the logarithm is interpolated, so the curve and its values stay positive. In several coordinates
    knots are a tuple, values an array with an axis for each, and the surface is a spline along every line:

    >>> from jaxdiff.parameters import plain
    >>> float(plain(Spline([0.0, 1.0, 2.0], [0.0, 1.0, 2.0]))(1.5))
    1.5
    >>> float(plain(Spline(([0.0, 1.0], [0.0, 2.0]), [[0.0, 2.0], [1.0, 3.0]]))(0.5, 1.0))
    1.5

    In a model function its values are `Fixed`. So one value of an energy is held, of which the differences alone count:

    >>> import jaxdiff as jd
    >>> def model(others, D):
    ...     energy = jd.Spline([-1.0, 0.0, 1.0, 2.0], jd.Fixed(jnp.append(0.0, others)))
    ...     return jd.FokkerPlanck(jd.Potential(energy), D)

    Raises `ValueError` if knots do not increase, or are not as many as the values.
    """

    knots: Any
    values: Any
    positive: bool = eqx.field(static=True)

    def __init__(self, knots: Any, values: Any, *, positive: bool = False):
        several = isinstance(knots, tuple) and len(knots) > 0 and np.ndim(knots[0]) == 1
        each = tuple(np.asarray(one, np.float64) for one in (knots if several else (knots,)))
        for one in each:
            if one.ndim != 1 or len(one) < 2 or not (np.diff(one) > 0).all():
                raise ValueError(f"knots must be at least two increasing positions, got {one}")
        self.knots = each if several else each[0]
        self.positive = positive
        values = values if isinstance(values, Mark) else (Positive if positive else Free)(values)
        shape, counts = np.shape(values.value), tuple(map(len, each))
        if shape != counts:
            raise ValueError(
                f"a Spline needs a value per knot, got {' × '.join(map(str, counts))} knots and values of shape {shape}"
            )
        self.values = values

    @property
    def __signature__(self) -> inspect.Signature:
        return _of_coordinates(len(self.knots) if isinstance(self.knots, tuple) else 1)

    def __call__(self, *x: Any) -> Any:
        value = jnp.log(jnp.asarray(self.values)) if self.positive else jnp.asarray(self.values)
        for knots, one in zip(self.knots if isinstance(self.knots, tuple) else (self.knots,), x, strict=True):
            value = _natural_spline(jnp.asarray(knots), value, one)
        return jnp.exp(value) if self.positive else value


class MLP(eqx.Module):
    """A small neural network (x, y, …) ↦ scalar with tanh layers; its weights are marked for fitting.

    `inputs` is the number of coordinates. Give positions of order one, or wrap it: `lambda x: mlp(x / length)` inside a
    model function. With `positive` the output passes through softplus.

    >>> landscape = MLP(8, 2, key=jax.random.key(0), inputs=2)
    >>> plain(landscape)(0.1, 0.2).shape
    ()

    Raises `ValueError` if `inputs` is not a whole number from 1 to 4.
    """

    layers: Any
    inputs: int = eqx.field(static=True)
    positive: bool = eqx.field(static=True)

    def __init__(self, width: int, depth: int, *, key: Any, inputs: int = 1, positive: bool = False):
        if isinstance(inputs, bool) or inputs not in (1, 2, 3, 4):
            raise ValueError(f"inputs is the number of coordinates, time among them, from 1 to 4, got {inputs!r}")
        self.inputs = int(inputs)
        sizes = [self.inputs, *[width] * depth, 1]
        keys = jax.random.split(key, depth + 1)
        layers = tuple(eqx.nn.Linear(a, b, key=k) for a, b, k in zip(sizes[:-1], sizes[1:], keys, strict=True))
        self.layers = Free(jax.tree.map(lambda w: np.asarray(w, np.float64), layers))
        self.positive = positive

    @property
    def __signature__(self) -> inspect.Signature:
        return _of_coordinates(self.inputs)

    def __call__(self, *x: Any) -> Any:
        h = jnp.stack([jnp.reshape(jnp.asarray(one), ()) for one in x])
        for layer in self.layers[:-1]:
            h = jnp.tanh(layer(h))
        out = self.layers[-1](h)[0]
        return jax.nn.softplus(out) if self.positive else out


def _shape(coefficients: Any) -> tuple[int, ...]:
    """That of the one array which they make; none if rows differ."""
    if not isinstance(coefficients, (list, tuple)):
        return np.shape(coefficients)
    rows = {_shape(one) for one in coefficients}
    return (len(coefficients), *rows.pop()) if len(rows) == 1 else ()


def _whole(coefficients: Any) -> Any:
    """One array of coefficients, of which some may be marked by themselves."""
    if isinstance(coefficients, (list, tuple)):
        return jnp.stack([_whole(one) for one in coefficients])
    return jnp.asarray(coefficients)


def _of_coordinates(count: int) -> inspect.Signature:
    """That of a function of so many."""
    names = ("x", "y", "z", "t")[:count]
    return inspect.Signature([inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in names])


def _natural_spline(knots: Any, y: Any, x: Any) -> Any:
    """Through y `(n, …)` at the knots, at one x."""
    h = jnp.diff(knots)
    wide = h.reshape(-1, *(1,) * (y.ndim - 1))
    slope = jnp.diff(y, axis=0) / wide
    bend = jnp.zeros_like(y)
    if len(knots) > 2:
        system = jnp.diag(2 * (h[1:] + h[:-1])) + jnp.diag(h[1:-1], 1) + jnp.diag(h[1:-1], -1)
        jumps = 6 * jnp.diff(slope, axis=0)
        inner = jnp.linalg.solve(system, jumps.reshape(len(jumps), -1)).reshape(jumps.shape)
        bend = bend.at[1:-1].set(inner)
    i = jnp.clip(jnp.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2)
    x_in = jnp.clip(x, knots[0], knots[-1])
    left, right = x_in - knots[i], knots[i + 1] - x_in
    curve = (
        y[i] * right / h[i] + y[i + 1] * left / h[i]
        + (bend[i] * (right**3 / h[i] - h[i] * right) + bend[i + 1] * (left**3 / h[i] - h[i] * left)) / 6
    )  # fmt: skip
    end_slope = (
        slope[i] + jnp.where(x < knots[0], -h[i] * (2 * bend[i] + bend[i + 1]), h[i] * (bend[i] + 2 * bend[i + 1])) / 6
    )
    return curve + end_slope * (x - x_in)
