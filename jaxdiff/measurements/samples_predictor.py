"""The predictor of samples: shares of all cells, and what samples among them are worth: log densities and distances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.schemes import FiniteVolume, semidiscrete
from jaxdiff.measurements.log_densities import Axis, at_points, neighbours, nodes
from jaxdiff.measurements.predictor import Prediction, StatesPredictor
from jaxdiff.model.boundaries import reflecting
from jaxdiff.runtime.conditions import check

if TYPE_CHECKING:
    from jaxdiff.measurements.samples import Samples

FLOOR = 1e-9, 1e2  # of the largest density, and of roundoff, below which a solver does not resolve it
SPHERE = {"cartesian": 0.0, "cylindrical": 2 * np.pi, "spherical": 4 * np.pi}


class Contaminated(eqx.Module):
    """An initial state, and the share of samples that come from elsewhere, which is fitted."""

    state: Any
    background: Any

    def __call__(self, *place: Any) -> Any:
        if not callable(self.state):
            raise TypeError("an initial state beside a background that is fitted is no function of position")
        return self.state(*place)


class SamplesPredictor(StatesPredictor):
    """The predictor of samples: the shares of all cells at each of the different times, background included.

    observation: (T, n) shares of the samples in each cell; weight: (T,) individuals
    when: (m,) the time of each sample; near, share: (m, k) the cells around it, and their weights in its log density; area: (m,)
    ln of the volume per length there; points: (m, ndim); axes: what reading along each depends on
    cell, within: (m,) the cell of each sample along the first axis, and at which share of it
    background: the share of another origin, None where it is fitted
    """

    family: ClassVar[str] = "samples"
    of_cells: ClassVar[bool] = True
    when: Any
    near: Any
    share: Any
    area: Any
    cell: Any
    within: Any
    background: Any
    points: Any
    axes: tuple[Axis, ...] = eqx.field(static=True)
    as_cells: bool = eqx.field(static=True)

    def predict(self, equation: Any, initial: Any) -> Prediction:
        background = self.background
        if isinstance(initial, Contaminated):
            initial, background = initial.state, initial.background
        if background is None:
            raise ValueError(
                "the background is fitted beside the initial state of the jd.Samples, and the model brings another; give it to one of them, or background= a number"
            )
        states, checks, fine = self.states_at_times(equation, initial)
        volumes = jnp.asarray(self.states_at_times.grid.volumes)
        mass = (states * volumes)[self.row].reshape(len(self.row), -1)
        own = mass / mass.sum(1, keepdims=True)
        anywhere = jnp.ravel(volumes) / jnp.sum(volumes)
        words = "background is {value}, and must lie within [0, 1); take jd.Bounded"
        checks = checks + check(
            [(words, (background < 0) | (background >= 1), 0.0, jnp.asarray(background))], checks.needed
        )
        return Prediction((1 - background) * own + background * anywhere, checks, fine)

    def shown(self, prediction: Any) -> Any:
        return prediction if self.as_cells else self.log_densities(prediction)

    def log_densities(self, shares: Any) -> Any:
        """ln p (m,) at each sample [1/length, 1/area, …]."""
        grid = self.states_at_times.grid
        volumes = jnp.ravel(jnp.asarray(grid.volumes))
        density = shares / jnp.where(volumes > 0, volumes, jnp.inf)
        # the derivative of a maximum is 0/0 where XLA rounds what it compares anew
        floor = max(FLOOR[0], FLOOR[1] * float(jnp.finfo(density.dtype).eps))
        least = floor * jnp.max(jax.lax.stop_gradient(density), axis=1, keepdims=True)
        logs = jnp.log(jnp.maximum(density, least))
        if not grid.discrete:
            logs = nodes(logs, grid, self.axes)
        read = jnp.sum(logs[self.when[:, None], self.near] * self.share, axis=1)
        return read + self.area + at_points(self.points, grid, self.axes)


def cumulated(shares: Any) -> Any:
    """(T, n + 1) from the shares of cells (T, n): what lies below each edge."""
    xp = np if isinstance(shares, np.ndarray) else jnp
    return xp.concatenate([xp.zeros_like(shares[:, :1]), xp.cumsum(shares, axis=1)], axis=1)


def between(shares: Any, widths: Any) -> Any:
    """(T, n + 1) of a distribution function that is linear between edges, and by least squares the one whose density is smooth.

    What lies below each edge, less what a straight line adds to a curve on average: a twelfth of a second difference.
    """
    density, left, right = shares / widths, widths[:-1], widths[1:]
    bend = 2 * (density[:, 1:] - density[:, :-1]) / (left + right) * (left**2 - left * right + right**2) / 12
    return cumulated(shares) - jnp.pad(bend, ((0, 0), (1, 1)))


def placed(m: Samples, values: np.ndarray) -> dict[str, Any]:
    """What a predictor holds of samples `values` at the times of a measurement."""
    grid, (times, when) = m.grid, m.distinct
    points = values.reshape(len(when), -1)
    cell = np.stack([_cell(np.asarray(edges), x, k) for k, (edges, x) in enumerate(zip(grid.edges, points.T))], axis=1)
    flat = np.ravel_multi_index(tuple(cell.T), grid.shape)
    count = int(np.prod(grid.shape))
    counts = np.bincount(when * count + flat, minlength=len(times) * count).reshape(len(times), count)
    size = counts.sum(1)
    near, share = neighbours(grid, points, cell)
    edges = np.asarray(grid.edges[0])
    within = (points[:, 0] - edges[cell[:, 0]]) / np.diff(edges)[cell[:, 0]]
    # of a coordinate r the density per length is that per volume times the area of the shell
    radius = np.maximum(points[:, 0], 1e-300)
    area = np.zeros(len(when)) if not grid.exponent else np.log(SPHERE[grid.geometry]) + grid.exponent * np.log(radius)
    return {
        "observation": counts / np.maximum(size, 1)[:, None],
        "weight": size.astype(float),
        "when": when,
        "near": near,
        "share": share,
        "area": area,
        "points": points,
        "cell": cell[:, 0],
        "within": np.clip(within, 0.0, 1.0),
    }


def _cell(edges: np.ndarray, x: np.ndarray, k: int) -> np.ndarray:
    """The cells of an axis that points (m,) count in: of those on an edge, as rounded ones are, every other in the lower one."""
    cell = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    nearest = cell + (x - edges[cell] > edges[cell + 1] - x)
    inner = (nearest > 0) & (nearest < len(edges) - 1)
    tied = np.flatnonzero(inner & (np.abs(x - edges[nearest]) < 1e-9 * (edges[cell + 1] - edges[cell])))
    tied = tied[np.argsort(x[tied], kind="stable")]
    cell[tied] = nearest[tied] - (np.arange(len(tied)) >> k) % 2
    return cell


def axes_of(grid: Any, equation: Any, pure: bool) -> tuple[Axis, ...]:
    """What reading along each axis depends on; of states, nothing. pure: whether there is no background, which no wall absorbs."""
    if grid.discrete:
        return ()
    sides = getattr(semidiscrete(equation, grid, FiniteVolume())[0], "sides", ()) or (reflecting,) * (2 * grid.ndim)
    absorbs = [pure and side.path == "absorbing" for side in sides]
    return tuple(Axis(sides[i].periodic, (absorbs[i], absorbs[i + 1])) for i in range(0, len(sides), 2))
