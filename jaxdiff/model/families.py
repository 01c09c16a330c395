"""Parametric families of functions of position: polynomials, splines, networks, whose numbers are fitted."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import FunctionType
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.model.coefficients import Potential
from jaxdiff.parameters import Fixed, Free, Function, Mark, Positive, numeric, plain


class Polynomial(eqx.Module):
    """A polynomial of position, or its exponential.

        c(x) = Σ cᵢ xⁱ,   c(x, y) = Σ cᵢⱼ xⁱ yʲ,   with `positive` exp of that

    Args:
        coefficients: `(n,)` from the constant up, [unit of c / lengthⁱ]; of several coordinates an axis for each. They may be
            marked all at once, or some of them.
        positive: take the exponential.

    Raises:
        ValueError: rows that differ in length.

    >>> import jaxdiff as jd
    >>> float(jd.Polynomial([1.0, 0.0, 2.0])(3.0)), float(jd.Polynomial([[1.0, 2.0], [0.0, 3.0]])(2.0, 5.0))
    (19.0, 41.0)
    >>> trap = jd.Polynomial([[0.0, 0.0, jd.Positive(1.0)], [0.0, jd.Free(0.0), 0.0], [jd.Positive(1.0), 0.0, 0.0]])
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
        value = _whole(plain(self.coefficients))
        for one in x:
            value = jnp.polyval(value[::-1], one)
        return jnp.exp(value) if self.positive else value


class Spline(eqx.Module):
    """A natural cubic spline through values at knots, linear beyond them.

        c(kᵢ) = vᵢ,   c″ = 0 at the first and the last knot,   with `positive` log c in place of c

    Args:
        knots: `(n,)` increasing positions [length]; for a surface in several coordinates a tuple of such arrays.
        values: `(n,)`, or an array with an axis for each coordinate, in the unit of the coefficient. They are marked for
            fitting, `Free` or with `positive` `Positive`, unless they bear a mark already.
        positive: interpolate the logarithm, so that the curve and its values stay positive.
        smooth: True adds ½ λ ∫ (c″)² dx, of log c where positive, to minus the log likelihood of a fit, and finds λ by REML; a
            number above zero is λ itself. Of a surface it is ∫ c_xx² + c_yy² dx dy. Knots may then be many, since λ decides how
            much the curve bends, towards a straight line where data say little.

    Raises:
        ValueError: knots that do not increase, or are not as many as the values; a strength that is not above zero.

    >>> import jax.numpy as jnp, jaxdiff as jd, numpy as np
    >>> from jaxdiff.parameters import plain
    >>> float(plain(jd.Spline([0.0, 1.0, 2.0], [0.0, 1.0, 2.0]))(1.5))
    1.5
    >>> float(plain(jd.Spline(([0.0, 1.0], [0.0, 2.0]), [[0.0, 2.0], [1.0, 3.0]]))(0.5, 1.0))
    1.5

    In a model function values are given as `Fixed`. So one value of an energy is kept, of which differences alone count:

    >>> def model(others, D):
    ...     energy = jd.Spline([-1.0, 0.0, 1.0, 2.0], jd.Fixed(jnp.append(0.0, others)))
    ...     return jd.FokkerPlanck(jd.Potential(energy), D)

    A curve of unknown shape, with as much detail as the data support:

    >>> field = jd.Spline(np.linspace(-2.0, 2.0, 18), np.zeros(18), smooth=True)
    >>> field.smooth, field.strength is None
    (True, True)

    de Boor 2001, A Practical Guide to Splines, IV, ISBN 978-0-387-95366-3; smoothing: Green & Silverman 1994, ISBN 978-0-412-30040-0;
    REML: Wood & Fasiolo 2017, doi:10.1111/biom.12666.
    """

    knots: Any
    values: Any
    matrices: Any  # Fixed, of each axis: from ordinates to second derivatives at the inner knots, and to those whose squares add up to ∫ (c″)²
    strength: Any  # Fixed λ, None where there is none or the data are to tell
    positive: bool = eqx.field(static=True)
    smooth: bool = eqx.field(static=True)
    continuous: ClassVar[bool] = True  # whatever it compares

    def __init__(self, knots: Any, values: Any, *, positive: bool = False, smooth: bool | float = False):
        if not isinstance(smooth, (bool, np.bool_)):
            if np.ndim(smooth) or isinstance(smooth, str) or not 0 < float(smooth) < np.inf:
                raise ValueError(f"smooth must be True, False or a strength above zero, got {smooth!r}")
        self.smooth = smooth is not False and bool(smooth)
        self.strength = None if isinstance(smooth, (bool, np.bool_)) else Fixed(float(smooth))
        several = isinstance(knots, tuple) and len(knots) > 0 and np.ndim(knots[0]) == 1
        each = tuple(np.asarray(one, np.float64) for one in (knots if several else (knots,)))
        for one in each:
            if one.ndim != 1 or len(one) < 2 or not (np.diff(one) > 0).all():
                raise ValueError(f"knots must be at least two increasing positions, got {one}")
        self.knots = each if several else each[0]
        self.matrices = tuple(tuple(map(Fixed, _bending(one))) for one in each)
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
        return _of_coordinates(len(self._axes))

    @property
    def _axes(self) -> tuple[Any, ...]:
        return self.knots if isinstance(self.knots, tuple) else (self.knots,)

    @property
    def ordinates(self) -> Any:
        """What is interpolated: the values at the knots, or their logarithms."""
        value = jnp.asarray(plain(self.values))
        return jnp.log(value) if self.positive else value

    def __call__(self, *x: Any) -> Any:
        value = self.ordinates
        for knots, (bends, _), one in zip(self._axes, plain(self.matrices), x, strict=True):
            value = _natural_spline(jnp.asarray(knots), bends, value, one)
        return jnp.exp(value) if self.positive else value

    def roughness(self) -> Any:
        """r, `(q,)`, whose square |r|² is ∫ (c″)² dx, exactly on one axis; of a surface its sum over the axes, with the trapezoidal
        rule across them. It is linear in the values, or in their logarithms. Green & Silverman 1994, sect. 2.1."""
        value, found = self.ordinates, []
        widths = [jnp.diff(jnp.asarray(knots)) for knots in self._axes]
        shares = [(jnp.pad(h, (0, 1)) + jnp.pad(h, (1, 0))) / 2 for h in widths]
        for k, (_, rough) in enumerate(plain(self.matrices)):
            parts = jnp.moveaxis(jnp.tensordot(rough, jnp.moveaxis(value, k, 0), 1), 0, k)
            for j, share in enumerate(shares):
                if j != k:
                    parts = parts * jnp.sqrt(share).reshape(-1, *(1,) * (value.ndim - 1 - j))
            found.append(parts.ravel())
        return jnp.concatenate(found)


class MLP(eqx.Module):
    """A small neural network of position with tanh layers, whose weights are marked for fitting.

        c(x) = W_d tanh(… tanh(W₀ x + b₀) …) + b_d,   with `positive` softplus of that

    Args:
        width: units in a hidden layer.
        depth: hidden layers.
        key: of jax.random, for the weights at the start.
        inputs: number of coordinates, time among them, 1 to 4.
        positive: pass the output through softplus, log(1 + eᶜ).

    Give it positions of order one, or wrap it in a model function: `lambda x: network(x / length)`.

    Raises:
        ValueError: inputs that are not a whole number from 1 to 4.

    >>> import jax, jaxdiff as jd
    >>> from jaxdiff.parameters import plain
    >>> landscape = jd.MLP(8, 2, key=jax.random.key(0), inputs=2)
    >>> plain(landscape)(0.1, 0.2).shape
    ()
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


def smooth_splines(tree: Any, energy: bool = False, seen: set[int] | None = None) -> Iterator[tuple[Spline, bool]]:
    """The smooth splines in a tree, and whether each is an energy; those that functions close over too, but for functions seen."""
    seen = set() if seen is None else seen
    for node in jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, (Spline, Potential, Function))):
        if isinstance(node, Spline):
            if node.smooth:
                yield node, energy
        elif isinstance(node, Potential):
            yield from smooth_splines(node.energy, True, seen)
        else:
            function = node.function if isinstance(node, Function) else node
            if isinstance(function, FunctionType) and id(function) not in seen:
                seen.add(id(function))
                for held in (*_cells(function), *(function.__defaults__ or ())):
                    yield from smooth_splines(held, energy, seen)


def _cells(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue


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


def _natural_spline(knots: Any, bends: Any, y: Any, x: Any) -> Any:
    """Through y `(n, …)` at the knots, at one x; bends: from y to second derivatives at the inner knots."""
    h = jnp.diff(knots)
    slope = jnp.diff(y, axis=0) / h.reshape(-1, *(1,) * (y.ndim - 1))
    bend = jnp.zeros_like(y).at[1:-1].set(jnp.tensordot(bends, y, 1, precision="highest"))
    i = jnp.clip(jnp.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2)
    x_in = jnp.clip(x, knots[0], knots[-1])
    left, right = x_in - knots[i], knots[i + 1] - x_in
    curve = (
        y[i] * right / h[i] + y[i + 1] * left / h[i]
        + (bend[i] * (right**3 / h[i] - h[i] * right) + bend[i + 1] * (left**3 / h[i] - h[i] * left)) / 6
    )  # fmt: skip
    bends = jnp.where(x < knots[0], -h[i] * (2 * bend[i] + bend[i + 1]), h[i] * (bend[i] + 2 * bend[i + 1]))
    return curve + (slope[i] + bends / 6) * (x - x_in)


def _bending(knots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a natural cubic spline `(n − 2, n)` from its ordinates: its second derivatives c″ at the inner knots, and numbers whose squares
    add up to ∫ (c″)² dx."""
    h, n = np.diff(knots), len(knots)
    second = np.zeros((n - 2, n))
    rows = np.arange(n - 2)
    second[rows, rows], second[rows, rows + 2] = 1 / h[:-1], 1 / h[1:]
    second[rows, rows + 1] = -1 / h[:-1] - 1 / h[1:]
    mass = (np.diag(2 * (h[1:] + h[:-1])) + np.diag(h[1:-1], 1) + np.diag(h[1:-1], -1)) / 6
    bends = np.linalg.solve(mass, second) if n > 2 else second
    return bends, np.linalg.cholesky(mass).T @ bends if n > 2 else second
