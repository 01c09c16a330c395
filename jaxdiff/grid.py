"""Where: cells, faces, volumes, averages, integrals and interpolation on one axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

# Surface of the unit sphere in 1, 2, 3 dimensions over 2: faces have area SURFACE·r^(d−1).
_EXPONENT = {"cartesian": 0, "cylindrical": 1, "spherical": 2}
_SURFACE = {"cartesian": 1.0, "cylindrical": 2 * np.pi, "spherical": 4 * np.pi}


class Grid(eqx.Module):
    """Finite-volume cells on an interval or a radius.

    Cells lie between neighbouring `edges` [length]; a cell of a radial grid is a shell of volume 2πr dr
    (cylindrical, per unit height) or 4πr² dr (spherical). States are arrays of cell averages, shape `(n,)`.

    >>> grid = Grid.uniform((0.0, 1.0, 4))
    >>> grid.centers[0]
    array([0.125, 0.375, 0.625, 0.875])
    >>> Grid.radial((0.0, 1.0, 50), geometry="spherical").volumes.sum().round(12) == round(4 * np.pi / 3, 12)
    np.True_

    Raises `ValueError` if edges are not finite and increasing, or a radius is negative.
    """

    edges: tuple[Float[np.ndarray, " n+1"], ...]
    geometry: str = eqx.field(static=True)

    def __init__(self, edges: Any, geometry: str = "cartesian"):
        if geometry not in _EXPONENT:
            raise ValueError(f"geometry must be one of {', '.join(_EXPONENT)}, got {geometry!r}")
        if not isinstance(edges, (tuple, list)) or np.ndim(edges[0]) == 0:
            edges = (edges,)
        if len(edges) != 1:
            raise ValueError(f"grids have one axis, got {len(edges)} arrays of edges; pass edges=(array,)")
        self.edges = tuple(_checked_edges(e, geometry) for e in edges)
        self.geometry = geometry

    @classmethod
    def uniform(cls, *axes: tuple[float, float, int]) -> Grid:
        """Equal cells: one triple (lower, upper, cells) per axis."""
        return cls(tuple(_linspace(axis) for axis in axes))

    @classmethod
    def radial(cls, radius: tuple[float, float, int], *axes: tuple[float, float, int], geometry: str) -> Grid:
        """Equal shells (inner, outer, cells) of a "cylindrical" or "spherical" body; r = 0 is allowed."""
        if geometry not in ("cylindrical", "spherical"):
            raise ValueError(f"geometry must be 'cylindrical' or 'spherical', got {geometry!r}")
        if axes:
            raise ValueError("radial grids have one axis; leave out the further ones")
        return cls((_linspace(radius),), geometry)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(e) - 1 for e in self.edges)

    @property
    def ndim(self) -> int:
        return len(self.edges)

    @property
    def centers(self) -> tuple[Any, ...]:
        return tuple(0.5 * (e[1:] + e[:-1]) for e in self.edges)

    @property
    def widths(self) -> tuple[Any, ...]:
        return tuple(e[1:] - e[:-1] for e in self.edges)

    @property
    def volumes(self) -> Any:
        """Cell volumes [length^d], shape `(n,)`."""
        d = _EXPONENT[self.geometry] + 1
        power = self.edges[0] ** d
        return _SURFACE[self.geometry] / d * (power[1:] - power[:-1])

    @property
    def areas(self) -> Any:
        """Face areas, shape `(n + 1,)`: 1, 2πr or 4πr²."""
        return _SURFACE[self.geometry] * self.edges[0] ** _EXPONENT[self.geometry]

    @property
    def distances(self) -> Any:
        """From centre to centre across each face, and from the end centres to the walls, shape `(n + 1,)`."""
        x, e = self.centers[0], self.edges[0]
        return (jnp if isinstance(e, jax.Array) else np).concatenate([x[:1] - e[:1], x[1:] - x[:-1], e[-1:] - x[-1:]])

    @property
    def sides(self) -> tuple[str, str]:
        axis = "x" if self.geometry == "cartesian" else "r"
        return f"{axis}-", f"{axis}+"

    def average(self, function: Callable[[Any], Any] | Any) -> Any:
        """Cell averages of a function of position (five-point Gauss–Legendre per cell), or a number on every cell."""
        if not callable(function):
            value = jnp.asarray(function)
            if value.ndim and value.shape != self.shape:
                raise ValueError(f"expected a number or {self.shape[0]} cell averages, got shape {value.shape}")
            return jnp.broadcast_to(value, self.shape)
        nodes, weights = np.polynomial.legendre.leggauss(5)
        points = self.centers[0][:, None] + 0.5 * self.widths[0][:, None] * nodes
        weights = 0.5 * weights * points ** _EXPONENT[self.geometry]
        values = jax.vmap(lambda x: jnp.asarray(function(x), dtype=jnp.result_type(float)))(points.ravel())
        return (values.reshape(points.shape) * weights).sum(1) / weights.sum(1)

    def delta(self, point: Any) -> Any:
        """Unit mass at a point: shared by the two nearest cells so that mass and mean position are exact."""
        if isinstance(point, jax.core.Tracer) or isinstance(self.edges[0], jax.core.Tracer):
            return self._split(jnp.asarray(point), jnp)
        self.require_inside(np.atleast_1d(np.asarray(point, float)), "point")
        return self._split(np.float64(point), np)  # in float64 whatever the session's precision

    def _split(self, point: Any, xp: Any) -> Any:
        x = xp.asarray(self.centers[0])
        reach = xp.concatenate([xp.diff(x), xp.ones(1)])
        below = xp.clip((point - x) / reach, 0.0, 1.0)  # share of the way from each centre to the next
        above = xp.concatenate([xp.ones(1), below[:-1]])
        return xp.where(xp.arange(len(x)) == len(x) - 1, above, above - below) / self.volumes

    def integrate(self, u: Any) -> Any:
        """∫u dV over the last axis."""
        return jnp.sum(jnp.asarray(u) * self.volumes, axis=-1)

    def interpolate(self, u: Any, points: Any) -> Any:
        """Values at `points` (m,): linear between cell centres, extrapolated linearly to the walls."""
        points = jnp.asarray(points)
        points = points[..., 0] if points.ndim == 2 else points
        u = jnp.asarray(u)
        if self.shape[0] == 1:
            return jnp.broadcast_to(u[..., :1], (*u.shape[:-1], *points.shape))
        left, share = self._bracket(points)
        return (1.0 - share) * u[..., left] + share * u[..., left + 1]

    def _bracket(self, points: Any) -> tuple[Any, Any]:
        x = jnp.asarray(self.centers[0])
        left = jnp.clip(jnp.searchsorted(x, points, side="right") - 1, 0, max(len(x) - 2, 0))
        if len(x) == 1:
            return left, jnp.zeros(jnp.shape(points), x.dtype)
        return left, (points - x[left]) / (x[left + 1] - x[left])

    def require_inside(self, points: Any, what: str) -> None:
        """Raise if a point lies outside the grid (by more than roundoff)."""
        lower, upper = self.edges[0][0], self.edges[0][-1]
        slack = 1e-9 * (upper - lower)
        outside = ~((points >= lower - slack) & (points <= upper + slack))
        if outside.any():
            i = int(np.argmax(outside))
            raise ValueError(
                f"{what} {i} at {points[i]:g} lies outside the grid [{lower:g}, {upper:g}]; widen the grid or drop it"
            )


def _linspace(axis: Any) -> np.ndarray:
    try:
        lower, upper, cells = axis
    except (TypeError, ValueError):
        raise ValueError(f"an axis is a triple (lower, upper, cells), got {axis!r}") from None
    if int(cells) != cells or cells < 1:
        raise ValueError(f"cells must be a positive whole number, got {cells!r}")
    return np.linspace(float(lower), float(upper), int(cells) + 1)


def _checked_edges(edges: Any, geometry: str) -> Any:
    if isinstance(edges, jax.core.Tracer):
        return edges
    edges = np.asarray(edges, np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise ValueError(
            f"edges must be at least two finite, increasing numbers, got {np.array2string(edges, threshold=6)}"
        )
    if geometry != "cartesian" and edges[0] < 0:
        raise ValueError(f"the inner radius must not be negative, got {edges[0]:g}")
    return edges
