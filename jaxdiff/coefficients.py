"""Ready-made coefficients, and how a coefficient is evaluated at points."""

from __future__ import annotations

import inspect
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.checks import at_place
from jaxdiff.expression import Expression
from jaxdiff.parameters import Free, Mark, Positive, numeric, plain

__all__ = ["MLP", "Expression", "PerAxis", "Polynomial", "Potential", "Series", "Spline", "Tensor", "TimeDependent"]


class TimeDependent(eqx.Module):
    """A coefficient c(t, x) of time and position; in a boundary c(t), or on several axes c(t, y) of the place on it too.

    >>> TimeDependent(lambda t: 100.0 * t)(0.5)
    50.0
    """

    coefficient: Any = eqx.field(converter=numeric)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.coefficient)

    def __call__(self, *arguments: Any) -> Any:
        return self.coefficient(*arguments)

    def __check_init__(self) -> None:
        if not callable(self.coefficient) and not isinstance(self.coefficient, Mark):
            raise TypeError(
                f"TimeDependent takes a function of (t, x), got {self.coefficient!r}; leave it out for a constant"
            )


class Series(eqx.Module):
    """A measured course: `values` (m,) at increasing `times` (m,), linear between, constant beyond the ends.

    >>> float(Series([0.0, 1.0, 3.0], [0.0, 10.0, 20.0])(2.0))
    15.0

    Raises `ValueError` if times are not finite and increasing, or values are missing or of another length.
    """

    times: Any
    values: Any

    def __init__(self, times: Any, values: Any):
        self.times, self.values = numeric(times), numeric(values)
        if not isinstance(self.times, jax.core.Tracer):
            known = np.asarray(self.times)
            if known.ndim != 1 or len(known) < 2 or not np.isfinite(known).all() or (np.diff(known) <= 0).any():
                raise ValueError("a Series needs at least two finite, increasing times; sort them and drop repeats")
        if isinstance(self.values, (np.ndarray, jax.Array)):
            if self.values.shape != self.times.shape:
                raise ValueError(
                    f"a Series needs a value per time, got {len(self.times)} times, values {self.values.shape}"
                )
            if not isinstance(self.values, jax.core.Tracer) and not np.isfinite(np.asarray(self.values)).all():
                bad = int(np.argmax(~np.isfinite(np.asarray(self.values))))
                raise ValueError(
                    f"value {bad} of a Series is {self.values[bad]}; drop missing times, it is linear between"
                )

    def __call__(self, t: Any) -> Any:
        return jnp.interp(t, jnp.asarray(self.times), jnp.asarray(self.values))


class Potential(eqx.Module):
    """The drift −∇U of an energy U(x), taken as differences of U between cells, also across a period.

    The stationary density is then exp(−U/D) on the grid to roundoff, whatever the barriers.
    """

    energy: Any = eqx.field(converter=numeric)

    def __check_init__(self) -> None:
        if not callable(self.energy) and not isinstance(self.energy, Mark):
            raise TypeError(f"Potential takes an energy as a function of position, got {_told(self.energy)}")

    def __call__(self, x: Any) -> Any:
        x = jnp.asarray(x, jnp.result_type(float))
        return -jax.grad(lambda y: jnp.asarray(self.energy(y), y.dtype).reshape(()))(x)


def _told(value: Any) -> str:
    return f"an array of shape {np.shape(value)}" if np.ndim(value) else repr(value)


class PerAxis(eqx.Module):
    """A diffusivity of its own along every axis: D = diag(Dx, Dy, …), each a coefficient of all coordinates.

    >>> PerAxis(1.0, 0.1).y
    array(0.1)
    """

    x: Any = eqx.field(converter=numeric)
    y: Any = eqx.field(converter=numeric)
    z: Any = eqx.field(converter=numeric, default=None)

    def __check_init__(self) -> None:
        if any(isinstance(c, (PerAxis, Tensor)) for c in self.coefficients):
            raise TypeError(
                "PerAxis takes one diffusivity for each axis, got a Tensor or PerAxis; pass the Tensor alone"
            )

    @property
    def coefficients(self) -> tuple[Any, ...]:
        return tuple(c for c in (self.x, self.y, self.z) if c is not None)


def _entries(matrix: Any) -> Any:
    if any(isinstance(leaf, Mark) for leaf in jax.tree.leaves(matrix, is_leaf=lambda x: isinstance(x, Mark))[1:]):
        raise TypeError(
            "a Tensor is marked as a whole, got marks among its entries; let a function of named parameters build the matrix, see help(jd.Tensor)"
        )
    return numeric(matrix)


class Tensor(eqx.Module):
    """A diffusivity D that is a symmetric positive definite matrix, on two or three Cartesian axes of equal cells.

        J = b p − D ∇p,   b = f − (1 − α) ∇·D,   (∇·D)ᵢ = Σⱼ ∂ⱼDᵢⱼ

    matrix [length²/time]: `(d, d)`, an array over cells `(*cells, d, d)`, a function of d coordinates that returns such
    a matrix, or a `TimeDependent` of one. Its symmetric part is used, so what is fitted in `Tensor(Free(matrix))` is
    D_xy = (M_xy + M_yx)/2: the two entries by themselves are not identified. Principal values and an angle are, and
    stay positive definite:

    >>> import jaxdiff as jd
    >>> def model(along, across, angle):
    ...     c, s = jnp.cos(angle), jnp.sin(angle)
    ...     turn = jnp.array([[c, -s], [s, c]])
    ...     return jd.Diffusion(jd.Tensor(turn @ jnp.diag(jnp.array([along, across])) @ turn.T))
    >>> starts = {"along": jd.Positive(1.0), "across": jd.Positive(0.1), "angle": jd.Free(0.5)}
    >>> grid = jd.Grid.uniform((-4.0, 4.0, 32), (-4.0, 4.0, 32))
    >>> u = jd.solve(model(1.0, 0.1, 0.5), grid, grid.delta((0.0, 0.0)), [0.0, 1.0]).values[-1]
    >>> bool(u.min() >= 0)
    True

    Raises `ValueError` if the matrix is not square; when solving if it is not finite, symmetric and positive definite.
    The decomposition: Fehrenbach & Mirebeau 2014, doi:10.1007/s10851-013-0446-3.
    """

    matrix: Any = eqx.field(converter=_entries)

    def __check_init__(self) -> None:
        shape = np.shape(plain(self.matrix)) if not callable(self.matrix) else (2, 2)
        if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] not in (2, 3):
            raise ValueError(
                f"a Tensor takes a matrix (2, 2) or (3, 3), one for each cell, or a function that returns one, got shape {shape}; use jd.PerAxis for a diagonal"
            )

    def require_shape(self, cells: tuple[int, ...]) -> None:
        """Raise unless it holds on so many cells along each axis."""
        matrix, ndim = self.matrix, len(cells)
        if not callable(matrix):
            one, each = (ndim, ndim), (*cells, ndim, ndim)
            if np.shape(matrix) not in (one, each):
                raise ValueError(f"a Tensor here has shape {one}, or {each} over cells, got {np.shape(matrix)}")
            return
        point = [jnp.zeros(())] * (ndim + isinstance(matrix, TimeDependent))
        try:
            found = jax.eval_shape(lambda *x: jnp.asarray(matrix(*x)), *point)
        except (TypeError, ValueError, IndexError) as error:
            told = " ".join(str(error).split())[:200]
            raise ValueError(f"the function of a Tensor here takes {len(point)} numbers, and fails: {told}") from None
        if found.shape != (ndim, ndim) or not jnp.issubdtype(found.dtype, jnp.floating):
            raise ValueError(
                f"the function of a Tensor here returns a real matrix {(ndim, ndim)}, got shape {found.shape}, {found.dtype}"
            )

    def entry(self, k: int) -> Any:
        """D_kk as a coefficient."""
        matrix = self.matrix
        if isinstance(matrix, TimeDependent):
            return TimeDependent(lambda t, *x: matrix(t, *x)[k][k])
        return (lambda *x: matrix(*x)[k][k]) if callable(matrix) else matrix[..., k, k]


class Polynomial(eqx.Module):
    """Σ cᵢ xⁱ, coefficients from the constant up; with `positive`, its exponential.

    >>> float(Polynomial([1.0, 0.0, 2.0])(3.0))
    19.0
    """

    coefficients: Any = eqx.field(converter=numeric)
    positive: bool = eqx.field(static=True, default=False, kw_only=True)

    def __call__(self, x: Any) -> Any:
        value = jnp.polyval(jnp.atleast_1d(jnp.asarray(self.coefficients))[::-1], x)
        return jnp.exp(value) if self.positive else value


class Spline(eqx.Module):
    """Natural cubic spline through `values` at increasing `knots`, linear beyond them; the values are marked for fitting.

    With `positive` the logarithm is interpolated, so the curve and its values stay positive.

    >>> from jaxdiff.parameters import plain
    >>> float(plain(Spline([0.0, 1.0, 2.0], [0.0, 1.0, 2.0]))(1.5))
    1.5
    """

    knots: Any
    values: Any
    positive: bool = eqx.field(static=True)

    def __init__(self, knots: Any, values: Any, *, positive: bool = False):
        self.knots = np.asarray(knots, np.float64)
        self.positive = positive
        if self.knots.ndim != 1 or len(self.knots) < 2 or (np.diff(self.knots) <= 0).any():
            raise ValueError(f"knots must be at least two increasing positions, got {self.knots}")
        values = values if isinstance(values, Mark) else (Positive if positive else Free)(values)
        shape = np.shape(values.value)
        if shape != self.knots.shape:
            raise ValueError(
                f"a Spline needs a value per knot, got {len(self.knots)} knots and values of shape {shape}"
            )
        self.values = values

    def __call__(self, x: Any) -> Any:
        knots, y = jnp.asarray(self.knots), jnp.asarray(self.values)
        y = jnp.log(y) if self.positive else y
        h = jnp.diff(knots)
        slope = jnp.diff(y) / h
        if len(self.knots) > 2:
            system = jnp.diag(2 * (h[1:] + h[:-1])) + jnp.diag(h[1:-1], 1) + jnp.diag(h[1:-1], -1)
            inner = jnp.linalg.solve(system, 6 * jnp.diff(slope))
            bend = jnp.concatenate([jnp.zeros(1), inner, jnp.zeros(1)])
        else:
            bend = jnp.zeros_like(y)
        i = jnp.clip(jnp.searchsorted(knots, x, side="right") - 1, 0, len(self.knots) - 2)
        x_in = jnp.clip(x, knots[0], knots[-1])
        left, right = x_in - knots[i], knots[i + 1] - x_in
        curve = (
            y[i] * right / h[i] + y[i + 1] * left / h[i]
            + (bend[i] * (right**3 / h[i] - h[i] * right) + bend[i + 1] * (left**3 / h[i] - h[i] * left)) / 6
        )  # fmt: skip
        end_slope = (
            slope[i]
            + jnp.where(x < knots[0], -h[i] * (2 * bend[i] + bend[i + 1]), h[i] * (bend[i] + 2 * bend[i + 1])) / 6
        )
        value = curve + end_slope * (x - x_in)
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
        names = ("x", "y", "z", "t")[: self.inputs]
        return inspect.Signature([inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in names])

    def __call__(self, *x: Any) -> Any:
        h = jnp.stack([jnp.reshape(jnp.asarray(one), ()) for one in x])
        for layer in self.layers[:-1]:
            h = jnp.tanh(layer(h))
        out = self.layers[-1](h)[0]
        return jax.nn.softplus(out) if self.positive else out


def varies(coefficient: Any) -> bool:
    """Whether a coefficient depends on time."""
    return isinstance(coefficient, (TimeDependent, Series))


def at_time(coefficient: Any, t: Any) -> Any:
    """A boundary's number, or a coefficient of position, at one time."""
    if isinstance(coefficient, Series):
        return coefficient(t)
    if isinstance(coefficient, TimeDependent):
        return lambda *x: at_place(coefficient, t, *x)
    return coefficient


def _array(value: Any) -> Any:
    """As a JAX array; a NumPy one is copied, as JAX 0.10 mixes up precisions of a constant that two programs share."""
    return jnp.asarray(np.array(value) if isinstance(value, np.ndarray) else value)


def on_wall(value: Any, place: Any) -> Any:
    """A boundary's number at one place on it, given by the coordinates that vary along it: of c(y), or of a
    `TimeDependent` c(t, y), what is left is a number or depends on time alone."""
    if isinstance(value, TimeDependent):
        try:
            inspect.signature(value).bind(None, *place)
        except (TypeError, ValueError):
            return value
        return TimeDependent(lambda t: value(t, *place))
    return at_place(value, *place) if callable(value) and not isinstance(value, Series) else value


def number(coefficient: Any, t: Any) -> Any:
    """A boundary's number at time t."""
    value = at_time(coefficient, t)
    return _array(value() if callable(value) else value)


def at_points(coefficient: Any, points: Any, t: Any, what: str = "coefficient") -> Any:
    """Values `(m,)` at `points` (m,); an array coefficient must have one value per point."""
    value = at_time(coefficient, t)
    if callable(value):
        dtype = jnp.result_type(points)
        scalar = lambda x: jnp.asarray(at_place(value, x), dtype).reshape(())
        return jax.vmap(scalar)(jnp.asarray(points))
    value = _array(value)
    if value.ndim and value.shape != jnp.shape(points):
        raise ValueError(
            f"{what}: expected a number, {len(points)} cell values or a function of position, got shape {value.shape}"
        )
    return jnp.broadcast_to(value, jnp.shape(points))


def absent(coefficient: Any) -> bool:
    """Whether a coefficient is known to be zero."""
    known = isinstance(coefficient, (np.ndarray, np.generic, jax.Array)) and not isinstance(
        coefficient, jax.core.Tracer
    )
    return known and not np.any(coefficient)


def is_cells(coefficient: Any) -> bool:
    """Whether a coefficient is an array over cells."""
    return not callable(coefficient) and not varies(coefficient) and jnp.ndim(coefficient) > 0
