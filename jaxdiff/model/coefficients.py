"""What a coefficient may be, and how it is evaluated at points."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.model.arguments import at_place, one_number, takes
from jaxdiff.model.expression import Expression
from jaxdiff.model.masks import kept_inside
from jaxdiff.model.series import Series
from jaxdiff.model.time_dependent import TimeDependent
from jaxdiff.parameters import Mark, numeric, plain


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
            got = f"an array of shape {np.shape(self.energy)}" if np.ndim(self.energy) else repr(self.energy)
            raise TypeError(f"Potential takes an energy as a function of position, got {got}")

    def __call__(self, x: Any) -> Any:
        x = jnp.asarray(x, jnp.result_type(float))
        return -jax.grad(lambda y: as_number(self.energy, y, "potential"))(x)


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
        """Dx, Dy and, on three axes, Dz."""
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

    >>> import jax.numpy as jnp, jaxdiff as jd
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
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"the function of a Tensor here takes {len(point)} numbers, and fails: {reason}") from None
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
    return one_number(found, jnp.result_type(float), "a wall")


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


def restricted(coefficient: Any, grid: Any) -> Any:
    """A coefficient that a mask's outside does not ask: there it is what it is in one of the cells inside."""
    if isinstance(coefficient, (tuple, list)):
        return tuple(restricted(each, grid) for each in coefficient)
    if isinstance(coefficient, PerAxis):
        return PerAxis(*(restricted(each, grid) for each in coefficient.coefficients))
    if isinstance(coefficient, Potential):
        return Potential(restricted(coefficient.energy, grid))
    keep = kept_inside(grid.edges, grid.mask)
    if isinstance(coefficient, TimeDependent):
        return TimeDependent(lambda t, *x: at_place(coefficient, ("t", *grid.names), t, *keep(*x)))
    if isinstance(coefficient, Series) or coefficient is None:
        return coefficient
    if callable(coefficient):
        return lambda *x: at_place(coefficient, grid.names, *keep(*x))
    if np.shape(coefficient)[-grid.ndim :] != grid.shape:
        return coefficient
    first = jnp.unravel_index(jnp.argmax(jnp.asarray(grid.mask)), grid.shape)
    one = _array(coefficient)[(..., *first, *(None,) * grid.ndim)]
    return jnp.where(grid.mask, _array(coefficient), one)


def absent(coefficient: Any) -> bool:
    """Whether a coefficient is known to be zero."""
    known = isinstance(coefficient, (np.ndarray, np.generic, jax.Array)) and not isinstance(
        coefficient, jax.core.Tracer
    )
    return coefficient is None or (known and not np.any(coefficient))


def is_cells(coefficient: Any) -> bool:
    """Whether a coefficient is an array over cells."""
    return not (coefficient is None or callable(coefficient) or varies(coefficient)) and jnp.ndim(coefficient) > 0


def is_number(coefficient: Any) -> bool:
    """Whether a coefficient is one number, the same everywhere and at all times."""
    plain = not callable(coefficient) and not varies(coefficient) and not isinstance(coefficient, PerAxis)
    return plain and np.ndim(coefficient) == 0


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
