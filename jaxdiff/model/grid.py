"""Grids: cells, faces, volumes, averages, integrals and interpolation on one to three axes."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.model.arguments import at_place, one_number
from jaxdiff.model.averages import DOUBTFUL, adaptive_quadrature, quadrature
from jaxdiff.model.interpolation import cubic, linear, masked
from jaxdiff.model.masks import checked, holder, kept_inside
from jaxdiff.quantities import numbers
from jaxdiff.runtime.compilation import as_written
from jaxdiff.runtime.conditions import Condition

# Surface of the unit sphere in 1, 2, 3 dimensions over 2: faces have area SURFACE·r^(d−1).
_EXPONENT = {"cartesian": 0, "cylindrical": 1, "spherical": 2}
_MOST_CELLS = 2**27  # along an axis
_SURFACE = {"cartesian": 1.0, "cylindrical": 2 * np.pi, "spherical": 4 * np.pi}


class Grid(eqx.Module):
    """Finite-volume cells on an interval, a rectangle, a box, or a radius.

        uᵢ = (1/Vᵢ) ∫ u dV over cell i

    A state is an array of such averages, of the grid's `shape`. `Grid.uniform` and `Grid.radial` make equal cells.

    Args:
        edges: where cells meet, increasing [length]: an array `(n + 1,)`, or a tuple of one for each axis x, y, z.
        geometry: "cartesian", up to three axes; "cylindrical", whose first axis is the radius r, cells shells of volume
            2πr dr and a second axis z; or "spherical", one axis of shells of volume 4πr² dr.
        mask: True in the cells of the domain, an array `(*cells,)`, its first axis that of x; None: all. Nothing passes its
            outline, what holds at a side of the box holds for cells inside that touch it, and cells outside have no volume:
            states are zero there, coefficients, sources and starts count for nothing.

    Raises:
        ValueError: edges that are not finite and increasing, a negative radius, more axes than the geometry has, or a mask
            of another shape, of numbers, or with nothing inside.

    >>> import numpy as np, jaxdiff as jd
    >>> grid = jd.Grid.uniform((0.0, 1.0, 4))
    >>> grid.centers[0]
    array([0.125, 0.375, 0.625, 0.875])
    >>> jd.Grid.uniform((0.0, 1.0, 4), (0.0, 2.0, 6)).shape
    (4, 6)
    >>> jd.Grid(edges=([0.0, 0.1, 0.3, 1.0],)).volumes
    array([0.1, 0.2, 0.7])
    >>> jd.Grid.radial((0.0, 1.0, 50), geometry="spherical").volumes.sum().round(12) == round(4 * np.pi / 3, 12)
    np.True_

    A round cell in a box of pixels:

    >>> pixels = jd.Grid.uniform((-1.0, 1.0, 40), (-1.0, 1.0, 40)).points
    >>> disc = jd.Grid.uniform((-1.0, 1.0, 40), (-1.0, 1.0, 40), mask=((pixels**2).sum(1) < 1).reshape(40, 40))
    >>> u = jd.solve(jd.Diffusion(0.1), disc, lambda x, y: x > 0, [0.0, 1.0]).values[-1]
    >>> float(u[0, 0]), bool(abs(disc.integrate(u) / np.pi - 0.5) < 0.01)
    (0.0, True)
    """

    discrete: ClassVar[bool] = False  # whether cells are states, with nothing in between
    edges: tuple[Float[np.ndarray, " n+1"], ...]
    geometry: str = eqx.field(static=True)
    equal: tuple[bool, ...] = eqx.field(static=True)  # axes whose cells are known to be of one width
    mask: Any = None

    def __init__(self, edges: Any, geometry: str = "cartesian", mask: Any = None):
        if geometry not in _EXPONENT:
            raise ValueError(f"geometry must be one of {', '.join(_EXPONENT)}, got {geometry!r}")
        if not isinstance(edges, (tuple, list)) or np.ndim(edges[0]) == 0:
            edges = (edges,)
        most = {"cartesian": 3, "cylindrical": 2, "spherical": 1}[geometry]
        if len(edges) > most:
            raise ValueError(f"a {geometry} grid has at most {most} axes, got {len(edges)} arrays of edges")
        kinds = (geometry, "cartesian", "cartesian")
        self.edges = tuple(_checked_edges(e, kind) for e, kind in zip(edges, kinds, strict=False))
        self.geometry = geometry
        self.equal = tuple(map(_are_equal, self.edges))
        self.mask = checked(mask, self.shape)

    @classmethod
    def uniform(cls, *axes: tuple[float, float, int], mask: Any = None) -> Grid:
        """Equal cells along every axis.

        Args:
            axes: a triple (lower [length], upper [length], cells) for each axis x, y, z.
            mask: True in the cells of the domain, as in `Grid`.

        Raises:
            ValueError: a triple that is none, ends that do not increase, cells that are no positive whole number, a wrong mask.
        """
        return cls(tuple(_linspace(axis) for axis in axes), mask=mask)

    @classmethod
    def radial(
        cls, radius: tuple[float, float, int], *axes: tuple[float, float, int], geometry: str, mask: Any = None
    ) -> Grid:
        """Equal shells of a cylinder or a sphere.

        Args:
            radius: (inner [length], outer [length], shells); an inner radius of 0 is the axis or the centre.
            axes: for a cylinder, (lower, upper, cells) of the axis z.
            geometry: "cylindrical" or "spherical".
            mask: True in the cells of the domain, as in `Grid`.

        Raises:
            ValueError: another geometry, a negative radius, or an axis too many.
        """
        if geometry not in ("cylindrical", "spherical"):
            raise ValueError(f"geometry must be 'cylindrical' or 'spherical', got {geometry!r}")
        return cls(tuple(_linspace(axis) for axis in (radius, *axes)), geometry, mask)

    @property
    def shape(self) -> tuple[int, ...]:
        """Cells along every axis."""
        return tuple(len(e) - 1 for e in self.edges)

    @property
    def ndim(self) -> int:
        """How many axes there are: 1, 2 or 3."""
        return len(self.edges)

    @property
    def centers(self) -> tuple[Any, ...]:
        """Cell centres [length], an array `(n,)` for every axis."""
        return tuple(0.5 * (e[1:] + e[:-1]) for e in self.edges)

    @property
    def points(self) -> np.ndarray:
        """The centres of all cells [length], `(cells, ndim)`, the last axis varying fastest."""
        return np.stack(np.meshgrid(*self.centers, indexing="ij"), -1).reshape(-1, self.ndim)

    @property
    def widths(self) -> tuple[Any, ...]:
        """Cell widths [length], an array `(n,)` for every axis."""
        return tuple(e[1:] - e[:-1] for e in self.edges)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the axes: x, y, z, or r, z."""
        return (("x", "y", "z") if self.geometry == "cartesian" else ("r", "z"))[: self.ndim]

    @property
    def sides(self) -> tuple[str, ...]:
        """Names of the walls: x-, x+, y-, …"""
        return tuple(name + end for name in self.names for end in "-+")

    def axis(self, k: int) -> Grid:
        """One axis as a grid of its own, without the mask."""
        return self.box if self.ndim == 1 else Grid((self.edges[k],), self.geometry if k == 0 else "cartesian")

    @property
    def box(self) -> Grid:
        """All cells, without the mask."""
        return self if self.mask is None else Grid(self.edges, self.geometry)

    @property
    def volumes(self) -> Any:
        """Cell volumes, of the grid's shape [length^d], zero outside a mask; of shells the volume of the whole shell."""
        if self.mask is not None:
            return self.mask * self.box.volumes
        if self.ndim > 1:
            each = [self.axis(k).volumes for k in range(self.ndim)]
            return reduce((np if all(isinstance(v, np.ndarray) for v in each) else jnp).multiply.outer, each)
        d = self.exponent + 1
        power = self.edges[0] ** d
        return _SURFACE[self.geometry] / d * (power[1:] - power[:-1])

    @property
    def exponent(self) -> int:
        """The power of the first coordinate in the volume of a shell: 0, 1 or 2."""
        return _EXPONENT[self.geometry]

    @property
    def areas(self) -> Any:
        """Face areas on one axis, shape `(n + 1,)`: 1, 2πr or 4πr²."""
        return _SURFACE[self.geometry] * self.edges[0] ** self.exponent

    @property
    def distances(self) -> Any:
        """On one axis, from centre to centre across each face, and from the end centres to the walls, `(n + 1,)`."""
        x, e = self.centers[0], self.edges[0]
        xp = jnp if isinstance(e, jax.Array) else np
        return xp.diff(xp.concatenate([e[:1], x, e[-1:]]))

    @as_written
    def average(self, function: Callable[..., Any] | Any) -> Float[Array, "*cells"]:
        """Average a function of position over every cell.

        Gauss–Legendre quadrature; cells in which that is not enough are divided until it is, but not inside jit.

        Args:
            function: f(x), f(x, y), …, written for one point [length]; or a number, or an array of the grid's shape.

        Returns:
            Cell averages, of the grid's shape.

        Raises:
            ValueError: a function that varies too fast for that, or an array of another shape.

        >>> import jax.numpy as jnp, numpy as np
        >>> from jaxdiff import Grid
        >>> spike = Grid.uniform((0.0, 10.0, 10)).average(lambda x: jnp.exp(-(((x - 4.3) / 0.01) ** 2)))
        >>> bool(abs(spike[4] / (0.01 * np.sqrt(np.pi)) - 1) < 1e-5)
        True
        """
        if not callable(function):
            value = jnp.asarray(function)
            if value.ndim and value.shape != self.shape:
                raise ValueError(
                    f"expected a number or cell averages of shape {self.shape}, got shape {value.shape}; pass one per cell"
                )
            return self.within(jnp.broadcast_to(value, self.shape))
        found = tuple(map(self.within, self._quadrature(function)))
        if any(isinstance(each, jax.core.Tracer) for each in (*found, *self.edges)):
            return found[0]
        of_point, volumes = self._of_point(function), np.asarray(self.box.volumes)
        return self.within(jnp.asarray(adaptive_quadrature(of_point, self.edges, self.exponent, volumes, found)))

    def start(self, initial: Any) -> Any:
        """An initial state that is no function: itself."""
        return initial

    def within(self, values: Any) -> Any:
        """Values `(…, *cells)`, zero outside a mask."""
        return values if self.mask is None else jnp.where(self.mask, values, 0)

    def unresolved(self, function: Callable[..., Any], what: str) -> Condition:
        """The condition that a function is not so narrow that cells do not see it, where `average` cannot divide them."""
        _, error, size = jax.lax.stop_gradient(self._quadrature(function))
        whole = jnp.sum(jnp.asarray(self.volumes, size.dtype) * size)
        share = jnp.asarray(self.volumes, size.dtype) * error / jnp.where(whole > 0, whole, 1.0)
        first = jnp.unravel_index(jnp.argmax(share), self.shape)
        places = tuple(jnp.asarray(x, size.dtype)[i] for x, i in zip(self.centers, first, strict=True))
        where = ", ".join(f"{name} = {{where{i or ''}}}" for i, name in enumerate(self.names))
        message = f"{what} changes too fast within a cell at {where}: {{value}} of it is doubtful; take smaller cells, or pass cell averages, grid.average(...)"
        return message, share[first] > DOUBTFUL, places if self.ndim > 1 else places[0], share[first]

    def _of_point(self, function: Callable[..., Any]) -> Callable[..., Any]:
        keep = (lambda *x: x) if self.mask is None else kept_inside(self.edges, self.mask)
        return lambda *x: one_number(at_place(function, self.names, *keep(*x)), x[0].dtype, "a function to be averaged")

    def _quadrature(self, function: Callable[..., Any]) -> Any:
        return quadrature(self._of_point(function), self.edges, self.exponent)

    def delta(self, point: Any) -> Float[Array | np.ndarray, "*cells"]:
        """Unit mass at a point, shared by the nearest cells so that mass and, off walls, mean position are exact; beside the
        outline of a mask it is in the cell of the point alone.

        Args:
            point: a position [length]; on several axes `(ndim,)`.

        Returns:
            Cell averages, of the grid's shape [1/volume].

        Raises:
            ValueError: a point outside the grid or its mask, or of another number of coordinates.

        >>> from jaxdiff import Grid
        >>> Grid.uniform((0.0, 1.0, 4)).delta(0.5)
        array([0., 2., 2., 0.])
        """
        if isinstance(point, jax.core.Tracer) or isinstance(self.edges[0], jax.core.Tracer):
            xp: Any = jnp
            point = jnp.atleast_1d(jnp.asarray(point))
        else:
            xp, point = np, np.atleast_1d(np.asarray(point, float))  # in float64 whatever the session's precision
            if point.shape != (self.ndim,):
                raise ValueError(f"a point has {self.ndim} coordinates here, got {point.tolist()}")
            self.require_inside(point if self.ndim == 1 else point[None], "point")
        found = reduce(xp.multiply.outer, [self.axis(k)._split(point[k], xp) for k in range(self.ndim)])
        if self.mask is None:
            return found
        held, _ = holder(self.edges, xp.asarray(self.mask), tuple(point), xp)
        here = reduce(xp.multiply.outer, [1.0 * (xp.arange(n) == i) for n, i in zip(self.shape, held, strict=True)])
        return xp.where(xp.any((found > 0) & ~self.mask), here / self.box.volumes, found)

    def _split(self, point: Any, xp: Any) -> Any:
        x = xp.asarray(self.centers[0])
        gap = xp.concatenate([xp.diff(x), xp.ones(1)])
        below = xp.clip((point - x) / gap, 0.0, 1.0)  # share of the way from each centre to the next
        above = xp.concatenate([xp.ones(1), below[:-1]])
        return xp.where(xp.arange(len(x)) == len(x) - 1, above, above - below) / self.volumes

    @as_written
    def integrate(self, u: Any) -> Float[Array, "*batch"]:
        """Integrate cell averages over the domain, ∫u dV.

        Args:
            u: `(…, *cells)`, with the axes of the grid as its last.

        Returns:
            `(…,)` [unit of u · length^d].

        >>> from jaxdiff import Grid
        >>> float(Grid.uniform((0.0, 2.0, 8)).integrate(3.0))
        6.0
        """
        return jnp.sum(self.within(jnp.asarray(u)) * self.volumes, axis=tuple(range(-self.ndim, 0)))

    @as_written
    def interpolate(self, u: Any, points: Any, order: int = 2) -> Float[Array, "*points"]:
        """Values at points: linear between cell centres along every axis, extrapolated linearly to the walls.

        Within a mask cells outside count for nothing: along an axis the values of the cell that holds the point and of a
        neighbour inside are taken, of second order, and where there is none the cell's own, of first order.

        Args:
            u: cell averages `(…, *cells)`.
            points: `(m, ndim)` [length], or on one axis `(m,)`. On one axis a number is a point, on several a row of coordinates.
            order: 4 on one axis of equal cells takes the value of the cubic that has the averages of four cells for its own.

        Returns:
            `(…, m)`, or `(…,)` for one point.

        Raises:
            ValueError: points of another number of coordinates, or outside a mask.

        >>> from jaxdiff import Grid
        >>> float(Grid.uniform((0.0, 1.0, 2)).interpolate([1.0, 3.0], 0.5))
        2.0
        """
        u, points = jnp.asarray(u), jnp.asarray(points)
        flat = self.ndim == 1 and points.ndim <= 1
        if not flat and points.shape[-1:] != (self.ndim,):
            raise ValueError(f"a point has {self.ndim} coordinates here, got points of shape {points.shape}")
        if self.mask is None:
            return (cubic if order == 4 else linear)(self, u, points)
        if not any(isinstance(each, jax.core.Tracer) for each in (points, self.mask, *self.edges)):
            self.require_inside(np.atleast_1d(np.asarray(points)), "point")
        return masked(self, u, points)

    def holds(self, points: Any) -> np.ndarray:
        """Whether points of the box, (m,) or (m, ndim), lie in cells of the mask, or on its outline."""
        columns = np.reshape(np.asarray(points, float), (-1, self.ndim))
        within = lambda: holder(self.edges, np.asarray(self.mask), tuple(columns.T), np)[1]
        return np.ones(len(columns), bool) if self.mask is None else within()

    def numbered(self, points: Any, what: str) -> np.ndarray:
        """Positions as numbers, NaN where one is missing."""
        return numbers(points, what)

    def require_inside(self, points: Any, what: str) -> None:
        """Raise if a point, (m,) or (m, ndim), lies outside the grid or its mask (by more than roundoff)."""
        columns = np.reshape(points, (-1, self.ndim))
        for k in range(self.ndim):
            lower, upper = self.edges[k][0], self.edges[k][-1]
            slack = 1e-9 * (upper - lower)
            outside = ~((columns[:, k] >= lower - slack) & (columns[:, k] <= upper + slack))
            if outside.any():
                i = int(np.argmax(outside))
                at = f"{columns[i, k]:g}" if self.ndim == 1 else f"{self.names[k]} = {columns[i, k]:g}"
                raise ValueError(
                    f"{what} {i} at {at} lies outside the grid [{lower:g}, {upper:g}]; widen the grid or drop it, or on a periodic axis wrap it: lower + (x - lower) % period"
                )
        if not (held := self.holds(columns)).all():
            i = int(np.argmin(held))
            at = ", ".join(f"{name} = {x:g}" for name, x in zip(self.names, columns[i], strict=True))
            raise ValueError(f"{what} {i} at {at} lies outside the mask of the grid; widen the mask or drop it")


def _are_equal(edges: Any) -> bool:
    return not isinstance(edges, jax.core.Tracer) and bool(np.ptp(np.diff(edges)) <= 1e-9 * np.ptp(edges))


def _linspace(axis: Any) -> np.ndarray:
    try:
        lower, upper, cells = axis
    except (TypeError, ValueError):
        raise ValueError(f"an axis is a triple (lower, upper, cells), got {axis!r}") from None
    if int(cells) != cells or cells < 1:
        raise ValueError(f"cells must be a positive whole number, got {cells!r}")
    if cells > _MOST_CELLS:
        raise ValueError(f"an axis has at most {_MOST_CELLS} cells, got {cells}; take fewer, or a shorter axis")
    ends = numbers((lower, upper), "the ends of an axis")
    return np.linspace(ends[0], ends[1], int(cells) + 1)


def increasing(edges: np.ndarray, what: str) -> np.ndarray:
    """The edges, which are refused where they do not increase."""
    if edges.ndim != 1 or len(edges) < 2 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        got = np.array2string(edges, threshold=6)
        raise ValueError(f"{what} must be at least two finite, increasing numbers, got {got}")
    return edges


def _checked_edges(edges: Any, geometry: str) -> Any:
    if isinstance(edges, jax.core.Tracer):
        return edges
    edges = increasing(numbers(edges, "edges"), "edges")
    if geometry != "cartesian" and edges[0] < 0:
        raise ValueError(f"the inner radius must not be negative, got {edges[0]:g}")
    return edges
