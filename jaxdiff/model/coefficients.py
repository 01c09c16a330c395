"""What a coefficient may be, and how it is evaluated at points."""

from __future__ import annotations

import inspect
import operator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.model.arguments import at_place, one_number, takes
from jaxdiff.model.expression import Expression
from jaxdiff.parameters import Mark, marked, numeric, plain

__all__ = ["Expression", "PerAxis", "Potential", "Series", "Tensor", "TimeDependent"]


class TimeDependent(eqx.Module):
    """A coefficient of time, or of time and position.

        c = c(t), c(t, x), c(t, x, y), …

    Args:
        coefficient: a callable of one point, scalars in. Arguments named t, x, y, z or r are bound by name; one with none of
            these names takes t and the coordinates in order. In a boundary it is c(t), or c(t, y) of the place on the side.

    Raises:
        TypeError: a coefficient that is not callable.

    >>> import jaxdiff as jd
    >>> float(jd.TimeDependent(lambda t: 100.0 * t)(0.5))
    50.0
    >>> melt = jd.Diffusion(jd.TimeDependent(lambda t, x: 1.0 + 0.1 * t * x), source=jd.TimeDependent(lambda t: jnp.sin(t)))
    """

    coefficient: Any = eqx.field(converter=numeric)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.coefficient)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.coefficient(*arguments, **named)

    def __check_init__(self) -> None:
        if not callable(self.coefficient) and not isinstance(self.coefficient, Mark):
            raise TypeError(
                f"TimeDependent takes a function of (t, x), got {self.coefficient!r}; leave it out for a constant"
            )


INTERPOLATIONS = ("linear", "previous")


class Series(eqx.Module):
    """A measured course in time, constant beyond its ends.

        c(t) = vᵢ + (vᵢ₊₁ − vᵢ) (t − tᵢ)/(tᵢ₊₁ − tᵢ)   or, of "previous", vᵢ,   for tᵢ ≤ t < tᵢ₊₁

    Args:
        times: `(m,)` increasing [time], at least two; they may be marked for fitting.
        values: `(m,)` in the unit of what they stand for; they may be marked.
        interpolation: "linear" between times, or "previous": a value holds from its time until the next, as steps and pulses do.
        sigma: standard deviation of values that were measured, a number or `(m,)`, zero where they are exact; None: at a wall
            that of the readings, if the values are as rough. It enters the error bars of a fit, and numbers scale it.

    Raises:
        ValueError: times that are not finite and increasing, values that are missing or of another length.
        TypeError: arithmetic with a mark, or of which the result is neither linear nor constant between times.

    >>> import jaxdiff as jd
    >>> float(jd.Series([0.0, 1.0, 3.0], [0.0, 10.0, 20.0])(2.0))
    15.0
    >>> float(jd.Series([0.0, 1.0, 3.0], [0.0, 10.0, 0.0], "previous")(2.0))  # a pulse from 1 to 3
    10.0

    Series of one kind are added, and any is scaled and shifted by a number:

    >>> ramp, later = jd.Series([0.0, 1.0], [0.0, 10.0]), jd.Series([1.0, 2.0], [0.0, 1.0])
    >>> float((3 * ramp + later / 2 - 1)(1.5))
    29.25
    """

    times: Any
    values: Any
    interpolation: str = eqx.field(static=True)
    sigma: Any

    __array_ufunc__ = None  # a NumPy number on the left leaves the arithmetic to the Series

    def __init__(self, times: Any, values: Any, interpolation: str = "linear", sigma: Any = None):
        if interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"a Series is {' or '.join(map(repr, INTERPOLATIONS))} between times, got {interpolation!r}"
            )
        self.times, self.values, self.interpolation = _row(times), _row(values), interpolation
        start, numbers = plain(self.times), plain(self.values)
        if sigma is not None and not _traced(sigma):
            fine = not np.iscomplexobj(sigma) and ((np.asarray(sigma) >= 0) & np.isfinite(sigma)).all()
            if not fine or np.shape(sigma) not in ((), np.shape(start)):
                raise ValueError(f"sigma of a Series is a number, or one a value, from zero up, got {sigma}")
        self.sigma = None if sigma is None else numeric(sigma)
        if not _traced(start):
            known = np.asarray(start)
            if known.ndim != 1 or len(known) < 2 or not np.isfinite(known).all() or (np.diff(known) <= 0).any():
                raise ValueError("a Series needs at least two finite, increasing times; sort them and drop repeats")
        if np.shape(numbers) != np.shape(start):
            raise ValueError(f"a Series needs a value per time, got {len(start)} times, values {np.shape(numbers)}")
        if not _traced(numbers) and not np.isfinite(known := np.asarray(numbers)).all():
            bad = int(np.argmax(~np.isfinite(known)))
            raise ValueError(f"value {bad} of a Series is {known[bad]}; drop the times at which it is missing")

    def __call__(self, t: Any) -> Any:
        return self._at(t, jnp)

    def _at(self, t: Any, xp: Any) -> Any:
        times, values = xp.asarray(self.times), xp.asarray(self.values)
        if self.interpolation == "linear":
            return xp.interp(t, times, values)
        return values[xp.maximum(xp.searchsorted(times, t, side="right") - 1, 0)]

    __neg__ = lambda self: _join("*", -1.0, self)
    __add__ = lambda self, other: _join("+", self, other)
    __radd__ = lambda self, other: _join("+", other, self)
    __sub__ = lambda self, other: _join("-", self, other)
    __rsub__ = lambda self, other: _join("-", other, self)
    __mul__ = lambda self, other: _join("*", self, other)
    __rmul__ = lambda self, other: _join("*", other, self)
    __truediv__ = lambda self, other: _join("/", self, other)
    __rtruediv__ = lambda self, other: _join("/", other, self)


def _traced(numbers: Any) -> bool:
    return any(isinstance(one, jax.core.Tracer) for one in jax.tree.leaves(numbers))


def _row(numbers: Any) -> Any:
    """As `numeric`; a list in which numbers are traced becomes an array."""
    return jnp.stack(numbers) if isinstance(numbers, (list, tuple)) and _traced(numbers) else numeric(numbers)


_ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def _join(symbol: str, a: Any, b: Any) -> Series:
    """a + b, a - b, a * b or a / b, of which one is a Series and the other a Series or a number."""
    if marked((a, b)):
        raise TypeError(
            "arithmetic with a Series takes no marks, got one; write the model as a function of named parameters, jd.fit(lambda k: ..., ..., parameters={'k': jd.Free(1.0)})"
        )
    courses = [one for one in (a, b) if isinstance(one, Series)]
    kinds = {one.interpolation for one in courses}
    bent = isinstance(b, Series) and (symbol == "/" or (symbol == "*" and len(courses) == 2))
    unknown = any(callable(one) and not isinstance(one, Series) for one in (a, b))
    if unknown or len(kinds) > 1 or (bent and "linear" in kinds):
        name = lambda one: f"Series({one.interpolation!r})" if isinstance(one, Series) else type(one).__name__
        told = f"{name(a)} {symbol} {name(b)}"
        calls = f"{'a(t)' if callable(a) else 'a'} {symbol} {'b(t)' if callable(b) else 'b'}"
        raise TypeError(
            f"{told} is neither linear nor constant between times; write jd.TimeDependent(lambda t: {calls})"
        )
    times = courses[0].times
    if courses[-1].times is not times:
        both = [one.times for one in courses]
        times = jnp.sort(jnp.concatenate(both)) if _traced(both) else np.union1d(*both)

    def value(one: Any) -> Any:
        if isinstance(one, Series):
            return one.values if one.times is times else one._at(times, jnp if _traced((times, one)) else np)
        if np.shape(one):
            raise TypeError(f"arithmetic with a Series takes a number, got {_told(one)}; take its numbers one by one")
        return numeric(one)

    sigma = courses[0].sigma
    if len(courses) > 1 and any(one.sigma is not None for one in courses):
        raise TypeError("a Series with sigma takes numbers alone, got a Series; join their values, and give a sigma")
    if sigma is not None and symbol in "*/":
        sigma = abs(_ARITHMETIC[symbol](sigma, numeric(b)) if courses[0] is a else sigma * numeric(a))
    return Series(times, _ARITHMETIC[symbol](value(a), value(b)), courses[0].interpolation, sigma)


class Potential(eqx.Module):
    """The drift −∇U of an energy, taken as differences of U between cells, also across a period.

        f = −∇U,   at rest p ∝ exp(−U/D) to roundoff, whatever the barriers

    Args:
        energy: U(x), U(x, y), … [length²/time], that is energy times mobility: a callable of one point, such as a function,
            `Polynomial`, `Spline`, `MLP` or `Expression`, whose numbers may be marked.

    Raises:
        TypeError: an energy that is not callable.

    Two wells apart by a barrier of ten times D hold a half each:

    >>> import jaxdiff as jd
    >>> grid = jd.Grid.uniform((-2.0, 2.0, 40))
    >>> p = jd.steady_state(jd.FokkerPlanck(jd.Potential(lambda x: (x**2 - 1) ** 2), 0.1), grid)
    >>> round(float(grid.integrate(p * (grid.centers[0] < 0))), 4)
    0.5

    Chang & Cooper 1970, doi:10.1016/0021-9991(70)90001-X.
    """

    energy: Any = eqx.field(converter=numeric)

    def __check_init__(self) -> None:
        if not callable(self.energy) and not isinstance(self.energy, Mark):
            raise TypeError(f"Potential takes an energy as a function of position, got {_told(self.energy)}")

    def __call__(self, x: Any) -> Any:
        x = jnp.asarray(x, jnp.result_type(float))
        return -jax.grad(lambda y: as_number(self.energy, y, "potential"))(x)


def _told(value: Any) -> str:
    return f"an array of shape {np.shape(value)}" if np.ndim(value) else repr(value)


class PerAxis(eqx.Module):
    """A diffusivity of its own along every axis.

        D = diag(Dx, Dy, Dz),   J = −(Dx ∂u/∂x, Dy ∂u/∂y, Dz ∂u/∂z)

    Args:
        x: Dx [length²/time], a coefficient of all coordinates: a number, an array over cells, a callable or a mark.
        y: Dy [length²/time].
        z: Dz [length²/time], on three axes.

    Raises:
        TypeError: a `Tensor` or `PerAxis` in place of a coefficient.

    >>> import jaxdiff as jd
    >>> wood = jd.Diffusion(jd.PerAxis(1.0, lambda x, y: 0.1 * (1 + x)))
    >>> jd.PerAxis(1.0, 0.1).y
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


class Tensor(eqx.Module):
    """A diffusivity that is a symmetric positive definite matrix, on two or three Cartesian axes of equal cells.

        J = b p − D ∇p,   b = f − (1 − α) ∇·D,   (∇·D)ᵢ = Σⱼ ∂ⱼDᵢⱼ

    Args:
        matrix: D [length²/time]: `(d, d)`, an array over cells `(*cells, d, d)`, a function of d coordinates that returns such
            a matrix, or a `TimeDependent` of one. Where it is marked, its different entries are fitted: xx, xy, yy, …

    Raises:
        ValueError: a matrix that is not square; when solving one that is not finite, symmetric and positive definite.
        TypeError: marks among the entries of a matrix.

    >>> import jaxdiff as jd
    >>> float(jd.Tensor(jd.Free([[1.0, 0.2], [0.2, 0.5]])).xy.value)
    0.2

    Principal values and an angle serve as well, and stay positive definite:

    >>> def model(along, across, angle):
    ...     c, s = jnp.cos(angle), jnp.sin(angle)
    ...     turn = jnp.array([[c, -s], [s, c]])
    ...     return jd.Diffusion(jd.Tensor(turn @ jnp.diag(jnp.array([along, across])) @ turn.T))
    >>> starts = {"along": jd.Positive(1.0), "across": jd.Positive(0.1), "angle": jd.Free(0.5)}
    >>> grid = jd.Grid.uniform((-4.0, 4.0, 32), (-4.0, 4.0, 32))
    >>> u = jd.solve(model(1.0, 0.1, 0.5), grid, grid.delta((0.0, 0.0)), [0.0, 1.0]).values[-1]
    >>> bool(u.min() >= 0)
    True

    The decomposition: Fehrenbach & Mirebeau 2014, doi:10.1007/s10851-013-0446-3.
    """

    whole: Any  # None where each entry is marked
    xx: Any = None
    xy: Any = None
    xz: Any = None
    yy: Any = None
    yz: Any = None
    zz: Any = None

    def __init__(self, matrix: Any):
        if any(isinstance(leaf, Mark) for leaf in jax.tree.leaves(matrix, is_leaf=lambda x: isinstance(x, Mark))[1:]):
            raise TypeError(
                "a Tensor is marked as a whole, got marks among its entries; let a function of named parameters build the matrix, see help(jd.Tensor)"
            )
        self.whole = matrix = numeric(matrix)
        value = plain(matrix)
        shape = np.shape(value) if not callable(value) else (2, 2)
        if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] not in (2, 3):
            raise ValueError(
                f"a Tensor takes a matrix (2, 2) or (3, 3), one for each cell, or a function that returns one, got shape {shape}; use jd.PerAxis for a diagonal"
            )
        if not isinstance(matrix, Mark) or callable(value) or isinstance(value, jax.core.Tracer):
            return
        for each in map(np.asarray, jax.tree.leaves(matrix)):  # the start, and bounds
            gap = np.max(np.abs(each - np.swapaxes(each, -1, -2))) if each.ndim > 1 else 0.0
            if gap > 1e-6 * np.max(np.abs(each)):
                raise ValueError(
                    f"a Tensor that is fitted starts from a symmetric matrix, got entries that differ by {gap:g}"
                )
        self.whole = None
        for i, j in zip(*np.triu_indices(shape[-1])):
            entry = jax.tree.map(lambda number, i=i, j=j: np.broadcast_to(number, shape)[..., i, j], matrix)
            setattr(self, "xyz"[i] + "xyz"[j], entry)

    @property
    def matrix(self) -> Any:
        """What it was made of; the entries put together where they are fitted."""
        if self.whole is not None:
            return self.whole
        rows = ((self.xx, self.xy, self.xz), (self.xy, self.yy, self.yz), (self.xz, self.yz, self.zz))
        entries = [entry for row in rows for entry in row if entry is not None]
        stack, d = np.stack if all(isinstance(e, np.ndarray) for e in entries) else jnp.stack, int(len(entries) ** 0.5)
        return stack(entries, -1).reshape(*np.shape(self.xx), d, d)

    def require_shape(self, cells: tuple[int, ...], names: tuple[str, ...]) -> None:
        """Raise unless it holds on so many cells along each axis."""
        matrix, ndim = self.matrix, len(cells)
        if not callable(matrix):
            one, each = (ndim, ndim), (*cells, ndim, ndim)
            if np.shape(matrix) not in (one, each):
                raise ValueError(f"a Tensor here has shape {one}, or {each} over cells, got {np.shape(matrix)}")
            return
        names = ("t", *names) if isinstance(matrix, TimeDependent) else names
        point = [jnp.zeros(())] * len(names)
        try:
            found = jax.eval_shape(lambda *x: jnp.asarray(at_place(matrix, names, *x)), *point)
        except (TypeError, ValueError, IndexError) as error:
            told = " ".join(str(error).split())[:200]
            raise ValueError(f"the function of a Tensor here takes {len(point)} numbers, and fails: {told}") from None
        if found.shape != (ndim, ndim) or jnp.issubdtype(found.dtype, jnp.complexfloating):
            raise ValueError(
                f"the function of a Tensor here returns a real matrix {(ndim, ndim)}, got shape {found.shape}, {found.dtype}"
            )

    def entry(self, k: int, names: tuple[str, ...]) -> Any:
        """D_kk as a coefficient."""
        matrix = self.matrix
        if isinstance(matrix, TimeDependent):
            return TimeDependent(lambda t, *x: at_place(matrix, ("t", *names), t, *x)[k][k])
        return (lambda *x: at_place(matrix, names, *x)[k][k]) if callable(matrix) else matrix[..., k, k]


def varies(coefficient: Any) -> bool:
    """Whether a coefficient depends on time."""
    return isinstance(coefficient, (TimeDependent, Series))


def at_time(coefficient: Any, t: Any, names: tuple[str, ...] = ("x",)) -> Any:
    """A boundary's number, or a coefficient of position, at one time; `names` of the coordinates."""
    if isinstance(coefficient, Series):
        return coefficient(t)
    if isinstance(coefficient, TimeDependent):
        return lambda *x: at_place(coefficient, ("t", *names), t, *x)
    return coefficient


def _array(value: Any) -> Any:
    """As a JAX array; a NumPy one is copied, as JAX 0.10 mixes up precisions of a constant that two programs share."""
    return jnp.asarray(np.array(value) if isinstance(value, np.ndarray) else value)


def on_wall(value: Any, names: tuple[str, ...], place: Any, elsewhere: tuple[str, ...]) -> Any:
    """A boundary's number at one place on it, given by the coordinates `names` that vary along it: of c(y), or of a
    `TimeDependent` c(t, y), what is left is a number or depends on time alone."""
    if isinstance(value, Series) or not callable(value):
        return value
    if not isinstance(value, TimeDependent):
        return at_place(value, names, *place, elsewhere=elsewhere)
    if takes(value, ("t",)) and not takes(value, ("t", *names)):
        return value
    return TimeDependent(lambda t: at_place(value, ("t", *names), t, *place, elsewhere=elsewhere))


def number(coefficient: Any, t: Any) -> Any:
    """A boundary's number at time t."""
    if isinstance(coefficient, Series) or not callable(coefficient):
        return _array(at_time(coefficient, t))
    names, values = (("t",), (t,)) if isinstance(coefficient, TimeDependent) else ((), ())
    found = at_place(coefficient, names, *values, elsewhere=("x", "y", "z", "r"))
    return _array(one_number(found, jnp.result_type(float), "a wall"))


def as_number(function: Any, x: Any, what: str = "coefficient") -> Any:
    """A function of one position at x."""
    return one_number(at_place(function, ("x",), x), x.dtype, what)


def at_points(coefficient: Any, points: Any, t: Any, what: str = "coefficient") -> Any:
    """Values `(m,)` at `points` (m,); an array coefficient must have one value per point."""
    value = at_time(coefficient, t)
    if callable(value):
        return jax.vmap(lambda x: as_number(value, x, what))(jnp.asarray(points))
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
    return coefficient is None or (known and not np.any(coefficient))


def is_cells(coefficient: Any) -> bool:
    """Whether a coefficient is an array over cells."""
    return coefficient is not None and not callable(coefficient) and not varies(coefficient) and jnp.ndim(coefficient) > 0


def jumps(coefficient: Any, kinks: bool = True) -> list[Any]:
    """Times, numbers or arrays of them, at which a coefficient may jump, and with `kinks` bend, in time; inf is never.

    They are read off every `Series` and `Expression` in it, and are differentiable by the numbers they come from. What
    happens inside a Python function is not known.

    >>> switched = TimeDependent(Expression("where(t < on, 0, k)", on=2.0, k=1.0))
    >>> [float(time) for time in jumps(switched)]
    [2.0]
    >>> jumps(Series([0.0, 1.0, 3.0], [0.0, 10.0, 0.0], "previous"))
    [array([0., 1., 3.])]
    """
    found: list[Any] = []
    for part in jax.tree.leaves(plain(coefficient), is_leaf=lambda node: isinstance(node, (Expression, Series))):
        if isinstance(part, Expression):
            found += part.jumps(kinks)
        elif isinstance(part, Series) and (kinks or part.interpolation == "previous"):
            found.append(jnp.stack(part.times) if isinstance(part.times, (list, tuple)) else part.times)
    return found
