"""What an instrument reads of a whole state: totals, means, moments, fluxes, values at walls."""

from __future__ import annotations

from abc import abstractmethod
from types import SimpleNamespace
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxdiff.model.grid import Grid
from jaxdiff.quantities import numbers


class Probe(eqx.Module):
    """What an instrument reads of a state; in place of the positions of `Readings`. A base for your own.

        yᵢ = w(tᵢ)·u(tᵢ) + b(tᵢ) + noise

    A probe has `value(system, t, u)`: what it reads of cell averages u `(*cells,)` at time t, linear in u but for a constant,
    where `system.grid` is the grid and `system` the equation on it; and `of_rates = True` if coefficients or walls enter. One
    that is not linear, as a maximum, is read too.

    >>> import jaxdiff as jd, numpy as np
    >>> class Difference(jd.Probe):
    ...     def value(self, system, t, u):
    ...         return u[-1] - u[0]
    >>> grid = jd.Grid.uniform((0.0, 1.0, 20))
    >>> jd.Readings(grid, lambda x: x, [0.1, 0.2], Difference(), [0.5, 0.3]).positions
    array([0., 0.])
    """

    of_rates: ClassVar[bool] = False
    cumulative: ClassVar[bool] = False  # from the start to the time of the reading
    of_shape: ClassVar[bool] = False  # whether twice the state reads alike

    @abstractmethod
    def value(self, system: Any, t: Any, u: Any) -> Any:
        """What is read of the state u `(*cells,)` at time t; traceable."""

    def check(self, grid: Grid) -> None:
        """Raise ValueError if it does not suit a grid."""

    @property
    def linear(self) -> bool:
        """Whether it is known to weigh the state alike at all times, where coefficients are constant."""
        return type(self).value in _LINEAR

    @property
    def label(self) -> str:
        """What it reads, in words."""
        return type(self).__name__


class Total(Probe):
    """All that the domain holds.

        y = ∫ u dV  [unit of u · length^d]

    >>> import jaxdiff as jd, numpy as np
    >>> grid, times = jd.Grid.uniform((0.0, 1.0, 40)), np.array([0.5, 1.0, 2.0])
    >>> model = jd.Diffusion(1.0, decay=jd.Positive(1.0))
    >>> fit = jd.fit(model, jd.Readings(grid, 2.0, times, jd.Total(), 2.0 * np.exp(-0.7 * times)), progress=False)
    >>> round(fit.parameters["decay"], 4)
    0.7
    """

    def value(self, system: Any, t: Any, u: Any) -> Any:
        return jnp.sum(u * system.grid.volumes)


class Weighted(Probe):
    """A weighted sum over cells, as of a camera with a profile or an electrode with a reach.

        y = Σᵢ wᵢ uᵢ

    Args:
        weights: w `(*cells,)`.

    Raises:
        ValueError: weights that are not finite.

    >>> import jaxdiff as jd
    >>> grid, lens = jd.Grid.uniform((0.0, 1.0, 4)), jd.Weighted([0.1, 0.4, 0.4, 0.1])
    >>> jd.Readings(grid, lambda x: x, [0.1, 0.2], lens, [0.5, 0.5]).probe.weights
    array([0.1, 0.4, 0.4, 0.1])
    """

    weights: np.ndarray

    def __init__(self, weights: Any):
        self.weights = numbers(weights, "weights")
        if not np.isfinite(self.weights).all():
            raise ValueError("weights must be finite, got NaN or infinity; set those to zero")

    def value(self, system: Any, t: Any, u: Any) -> Any:
        return jnp.sum(u * self.weights)

    def check(self, grid: Grid) -> None:
        if np.shape(self.weights) != grid.shape:
            raise ValueError(
                f"weights must have one number for each cell, {grid.shape}, got shape {self.weights.shape}"
            )


class Moment(Probe):
    """A moment of the content, about zero and not divided by the content.

        y = ∫ xᵏ u dV  [unit of u · length^(d + k)]

    Args:
        k: the power along the first axis, or a power for each axis.

    Raises:
        ValueError: a power that is no whole number from 0 up, or not one for each axis.

    Powers are averaged over cells, so that a moment errs by what the cells do not resolve of u alone.

    The second moment of a cloud that spreads from a point is 2 D t:

    >>> import jaxdiff as jd, numpy as np
    >>> grid, times = jd.Grid.uniform((-4.0, 4.0, 101)), np.array([0.1, 0.2, 0.3])
    >>> readings = jd.Readings(grid, grid.delta(0.0), times, jd.Moment(2), 2 * 0.5 * times)
    >>> fit = jd.fit(jd.Diffusion(jd.Positive(1.0)), readings, progress=False)
    >>> bool(abs(fit.parameters["diffusivity"] - 0.5) < 0.01)
    True
    """

    powers: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, k: int | tuple[int, ...]):
        self.powers = k if isinstance(k, tuple) else (k,)
        if not all(isinstance(one, (int, np.integer)) and one >= 0 for one in self.powers):
            raise ValueError(f"a moment has a whole number from 0 up, or a tuple of one for each axis, got {k!r}")

    def value(self, system: Any, t: Any, u: Any) -> Any:
        found = u
        for k, power in reversed(list(enumerate(self._all(system.grid)))):
            found = jnp.sum(found * _powers(system, k, power), axis=-1)
        return found

    def _all(self, grid: Grid) -> tuple[int, ...]:
        return self.powers if len(self.powers) > 1 else self.powers + (0,) * (grid.ndim - 1)

    def check(self, grid: Grid) -> None:
        if len(self._all(grid)) != grid.ndim:
            raise ValueError(f"a moment needs a power for each of {grid.ndim} axes, got {len(self.powers)}")


class Interval(Probe):
    """What an interval, a rectangle or a box holds; cells that it cuts count by their share, of `States` both ends too.

        y = ∫ u dV over lower ≤ x ≤ upper

    Args:
        lower, upper: [length], on several axes a tuple of one for each.

    Raises:
        ValueError: ends that are not increasing, or beyond the grid.

    >>> import jaxdiff as jd
    >>> grid = jd.Grid.uniform((0.0, 1.0, 40), (0.0, 1.0, 30))
    >>> jd.Readings(grid, 1.0, [0.1], jd.Interval((0.0, 0.5), (0.5, 1.0)), [0.25]).probe.upper
    (0.5, 1.0)
    """

    lower: tuple[float, ...] = eqx.field(static=True)
    upper: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, lower: Any, upper: Any):
        self.lower, self.upper = (tuple(np.atleast_1d(numbers(end, "an end")).tolist()) for end in (lower, upper))
        if len(self.lower) != len(self.upper) or not all(a < b for a, b in zip(self.lower, self.upper, strict=True)):
            raise ValueError(f"an interval has lower < upper, got {lower} and {upper}")

    def value(self, system: Any, t: Any, u: Any) -> Any:
        for k in reversed(range(system.grid.ndim)):
            u = jnp.sum(u * _inside(system.grid, k, self.lower[k], self.upper[k]), axis=-1)
        return u

    def check(self, grid: Grid) -> None:
        if len(self.lower) != grid.ndim:
            raise ValueError(f"an interval needs {grid.ndim} lower ends here, got {len(self.lower)}")
        for ends in (self.lower, self.upper):
            grid.box.require_inside(np.array([ends]), "the end of an interval")


class Mean(Probe):
    """The mean over an interval, a rectangle, a box or a mask.

        y = ∫ u dV / ∫ dV

    Args:
        lower: [length], on several axes a tuple of one for each; or a mask `(*cells,)`, True or the share of each cell.
        upper: [length], none with a mask.

    Raises:
        ValueError: ends that are not increasing, or a mask of another shape or with nothing in it.

    >>> import numpy as np, jaxdiff as jd
    >>> grid = jd.Grid.uniform((0.0, 1.0, 40), (0.0, 1.0, 30))
    >>> x, y = np.meshgrid(*grid.centers, indexing="ij")
    >>> spot = (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.1
    >>> jd.Readings(grid, 1.0, [0.1, 0.2], jd.Mean(spot), [0.25, 0.3]).values
    array([0.25, 0.3 ])
    """

    interval: Interval | None
    mask: Any

    def __init__(self, lower: Any, upper: Any = None):
        self.interval = None if upper is None else Interval(lower, upper)
        self.mask = None
        if upper is None:
            self.mask = np.asarray(lower, float)
            if not (np.isfinite(self.mask) & (self.mask >= 0)).all() or not self.mask.any():
                raise ValueError(
                    "a mask is True, or a share from 0 to 1, in some cells, got none; or give lower and upper"
                )

    def value(self, system: Any, t: Any, u: Any) -> Any:
        if self.interval is not None:
            whole = self.interval.value(system, t, system.grid.within(jnp.ones(system.grid.shape, u.dtype)))
            return self.interval.value(system, t, u) / whole
        weights = jnp.asarray(self.mask) * system.grid.volumes
        return jnp.sum(u * weights) / jnp.sum(weights)

    def check(self, grid: Grid) -> None:
        if self.interval is not None:
            self.interval.check(grid)
        elif (shape := np.asarray(self.mask).shape) != grid.shape:
            raise ValueError(f"a mask must have the shape of the cells, {grid.shape}, got {shape}")
        if grid.mask is not None and not np.isfinite(self.value(SimpleNamespace(grid=grid), 0.0, jnp.ones(grid.shape))):
            raise ValueError("a mean needs cells within the mask of the grid, got none; take another place")


class BoundaryValue(Probe):
    """The value at a wall, by its boundary condition; on several axes its mean over the side.

        y = u at the wall, where a u − c y = J·n over the half cell beside it

    Args:
        side: "x-", "x+", …, "r+".

    Raises:
        ValueError: no such side, or one of a period.

    The surface of a block that is heated by a flux of 2, after some time (Carslaw & Jaeger 1959, 2.9):

    >>> import jaxdiff as jd, numpy as np
    >>> grid, times = jd.Grid.uniform((0.0, 4.0, 200)), np.array([0.1, 0.2, 0.3])
    >>> model = lambda D: jd.Diffusion(D, boundaries={"x-": jd.Flux(-2.0)})
    >>> surface = jd.Readings(grid, 0.0, times, jd.BoundaryValue("x-"), 4 * np.sqrt(times / 0.5 / np.pi))
    >>> round(jd.fit(model, surface, parameters={"D": jd.Positive(1.0)}, progress=False).parameters["D"], 2)
    0.5
    """

    of_rates = True
    side: str = eqx.field(static=True)

    def value(self, system: Any, t: Any, u: Any) -> Any:
        return system.at_wall(t, u, *_place(system.grid, self.side))

    def check(self, grid: Grid) -> None:
        _require_side(grid, self.side)


class FluxThrough(Probe):
    """The flux through a whole side of the domain, outwards, or through all that lies at one place of an axis, upwards.

        y = ∫ J·n dA,   J = b u − D ∇u  [unit of u · length^d / time]

    Args:
        place: a side, "x-", "x+", …, "r+", or a number on an axis [length], between the faces of cells linearly.
        axis: of a number, "x" by default, or "r".

    Raises:
        ValueError: no such side or axis, a place outside the grid; when predicting, a `Tensor`, whose edges are oblique.

    The flux is the one that the finite volumes move, so that what leaves is what is missing. Divided by a velocity by a
    `jd.Observed` model it is a flux-averaged concentration (Kreft & Zuber 1978, doi:10.1016/0009-2509(78)85196-3).

    >>> import jaxdiff as jd
    >>> grid = jd.Grid.uniform((0.0, 23.0, 100))
    >>> jd.Readings(grid, 0.0, [1.0, 2.0], jd.FluxThrough(11.0), [0.1, 0.4]).probe.place
    11.0
    """

    of_rates = True
    place: Any = eqx.field(static=True)
    axis: str | None = eqx.field(static=True)

    def __init__(self, place: str | float, axis: str | None = None):
        self.place = place if isinstance(place, str) else float(numbers(place, "the place of a flux"))
        self.axis = axis
        if axis is not None and isinstance(place, str):
            raise ValueError(f"axis is that of a number, got it with the side {place!r}; leave it out")

    def value(self, system: Any, t: Any, u: Any) -> Any:
        if isinstance(self.place, str):
            k, i = _place(system.grid, self.place)
            return (1.0 if i else -1.0) * system.fluxes(t, u, k)[i]
        k = 0 if self.axis is None else system.grid.names.index(self.axis)
        return jnp.interp(self.place, jnp.asarray(system.grid.edges[k]), system.fluxes(t, u, k))

    def check(self, grid: Grid) -> None:
        if isinstance(self.place, str):
            return _require_side(grid, self.place)
        if self.axis is not None and self.axis not in grid.names:
            raise ValueError(f"axis must be one of {', '.join(grid.names)}, got {self.axis!r}")
        edges = grid.edges[0 if self.axis is None else grid.names.index(self.axis)]
        if not edges[0] <= self.place <= edges[-1]:
            raise ValueError(f"the place of a flux must lie within {edges[0]:g} … {edges[-1]:g}, got {self.place:g}")


class CumulativeFlux(FluxThrough):
    """What has passed since the start of the measurement: uptake, release, permeation.

        y = ∫ ∫ J·n dA dt from `start` to the time of the reading

    Args:
        place: a side, "x-", "x+", …, "r+", outwards, or a number on an axis [length], upwards.
        axis: of a number, "x" by default, or "r".
        stretches: into how many each stretch of time is cut, where the rule says that it is too coarse.

    Raises:
        ValueError: as `FluxThrough`, and a time of inf.

    Gauss and Kronrod's rule of 15 nodes on stretches of time that double after the start and after every jump.

    What has passed through a membrane lags behind by 1/(6 D):

    >>> import jaxdiff as jd, numpy as np
    >>> grid, times = jd.Grid.uniform((0.0, 1.0, 40)), np.array([2.0, 3.0, 4.0])
    >>> model = lambda D: jd.Diffusion(D, boundaries={"x-": jd.Dirichlet(1.0), "x+": jd.Dirichlet(0.0)})
    >>> passed = jd.Readings(grid, 0.0, times, jd.CumulativeFlux("x+"), 0.5 * times - 1 / 6)
    >>> round(jd.fit(model, passed, parameters={"D": jd.Positive(1.0)}, progress=False).parameters["D"], 3)
    0.5
    """

    cumulative = True
    stretches: int = eqx.field(static=True)

    def __init__(self, place: str | float, axis: str | None = None, stretches: int = 1):
        super().__init__(place, axis)
        if int(stretches) != stretches or stretches < 1:
            raise ValueError(f"stretches must be a whole number from 1 up, got {stretches!r}")
        self.stretches = int(stretches)


_LINEAR = {one.value for one in (Total, Weighted, Moment, Interval, Mean, BoundaryValue, FluxThrough)}


def _place(grid: Grid, side: str) -> tuple[int, int]:
    """The axis of a side, and which of its ends."""
    return grid.names.index(side[0]), -1 if side[1] == "+" else 0


def _require_side(grid: Grid, side: str) -> None:
    if side not in grid.sides:
        raise ValueError(f"a side here is one of {', '.join(grid.sides)}, got {side!r}")
    if grid.mask is not None and not np.take(grid.mask, _place(grid, side)[1], _place(grid, side)[0]).any():
        raise ValueError(f"no cell within the mask of the grid touches {side}; read otherwise")


def _powers(system: Any, k: int, power: int) -> Any:
    """∫ xᵖ dx over each cell along an axis, at its centre where states are values there, or the power of each count."""
    grid = system.grid
    if grid.discrete:
        return jnp.asarray(grid.centers[k]) ** power
    line = grid.axis(k)
    if getattr(system, "at_centers", False):
        return jnp.asarray(line.centers[0]) ** power * jnp.asarray(line.volumes)
    e, d = jnp.asarray(line.edges[0]), 1 + line.exponent
    return jnp.diff(e ** (power + d)) / jnp.diff(e**d) * d / (power + d) * jnp.asarray(line.volumes)


def _inside(grid: Grid, k: int, lower: float, upper: float) -> Any:
    """Which volume of each cell along an axis lies between two places, or which counts do."""
    if grid.discrete:
        counts = jnp.asarray(grid.centers[k])
        return 1.0 * ((counts >= lower) & (counts <= upper))
    line = grid.axis(k)
    e, d = jnp.asarray(line.edges[0]), 1 + line.exponent
    within = jnp.clip(e, lower, upper) ** d
    return jnp.asarray(line.volumes) * jnp.diff(within) / jnp.diff(e**d)
