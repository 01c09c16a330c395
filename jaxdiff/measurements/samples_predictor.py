"""The predictor of samples: shares of all cells, and what samples among them are worth: log densities and distances."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.schemes import FiniteVolume, semidiscrete
from jaxdiff.measurements.predictor import Prediction, StatesPredictor
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
    ln of the volume per length there; axis: "open" or "ring" of equal cells, where near counts two cells beyond each end and weights
    are of cubics; else ""
    cell, within: (m,) the cell of each sample along the first axis, and at which share of it
    background: the share of another origin, None where it is fitted
    """

    family: ClassVar[str] = "samples"
    when: Any
    near: Any
    share: Any
    area: Any
    cell: Any
    within: Any
    background: Any
    axis: str = eqx.field(static=True)
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
        volumes = jnp.ravel(jnp.asarray(self.states_at_times.grid.volumes))
        density = shares / jnp.where(volumes > 0, volumes, jnp.inf)
        # the derivative of a maximum is 0/0 where XLA rounds what it compares anew
        floor = max(FLOOR[0], FLOOR[1] * float(jnp.finfo(density.dtype).eps))
        least = floor * jnp.max(jax.lax.stop_gradient(density), axis=1, keepdims=True)
        logs = jnp.log(jnp.maximum(density, least))
        if self.axis:
            logs = _beyond(_centred(logs, self.axis), self.axis)
        return jnp.sum(logs[self.when[:, None], self.near] * self.share, axis=1) + self.area


def _centred(logs: Any, axis: str) -> Any:
    """ln of values at centres (T, n) from ln of averages over equal cells: e^{sx} has its average sinh(sh/2)/(sh/2) there, and a
    second difference adds a 24th of it."""
    before, after = jnp.roll(logs, 1, axis=1), jnp.roll(logs, -1, axis=1)
    excess = (after - 2 * logs + before) / 24 + _log_sinhc((after - before) / 4)
    if axis == "open":
        excess = jnp.concatenate([excess[:, 1:2], excess[:, 1:-1], excess[:, -2:-1]], axis=1)
    return logs - excess


def _beyond(logs: Any, axis: str) -> Any:
    """Two more at each end (T, n + 4): around a ring, or where the cubic through the last four leads."""
    if axis == "ring":
        return jnp.concatenate([logs[:, -2:], logs, logs[:, :2]], axis=1)
    lead = np.array([[10.0, -20.0, 15.0, -4.0], [4.0, -6.0, 4.0, -1.0]])
    before, after = logs[:, :4] @ lead.T, logs[:, :-5:-1] @ lead[::-1].T
    return jnp.concatenate([before, logs, after], axis=1)


def _log_sinhc(z: Any) -> Any:
    """ln(sinh z/z)."""
    large = jnp.abs(z) > 0.1
    s = jnp.where(large, jnp.abs(z), 1.0)
    far = s + jnp.log1p(-jnp.exp(-2 * s)) - jnp.log(2 * s)
    return jnp.where(large, far, z**2 / 6 - z**4 / 180 + z**6 / 2835)


def cumulated(shares: Any) -> Any:
    """(T, n + 1) from the shares of cells (T, n): what lies below each edge."""
    xp = np if isinstance(shares, np.ndarray) else jnp
    return xp.concatenate([xp.zeros_like(shares[:, :1]), xp.cumsum(shares, axis=1)], axis=1)


def placed(m: Samples, values: np.ndarray) -> dict[str, Any]:
    """What a predictor holds of samples `values` at the times of a measurement."""
    grid, (times, when) = m.grid, m.distinct
    points = values.reshape(len(when), -1)
    cell = np.stack([_cell(edges, x) for edges, x in zip(grid.edges, points.T, strict=True)], axis=1)
    flat = np.ravel_multi_index(tuple(cell.T), grid.shape)
    count = int(np.prod(grid.shape))
    counts = np.bincount(when * count + flat, minlength=len(times) * count).reshape(len(times), count)
    size = counts.sum(1)
    near, share = _neighbours(grid, points, cell)
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
        "cell": cell[:, 0],
        "within": np.clip(within, 0.0, 1.0),
    }


def _cell(edges: Any, x: np.ndarray) -> np.ndarray:
    edges = np.asarray(edges)
    return np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)


def by_cubics(grid: Any) -> bool:
    """Whether log densities are interpolated by cubics: on one Cartesian axis of equal cells."""
    return bool(
        grid.ndim == 1
        and not grid.discrete
        and grid.mask is None
        and not grid.exponent
        and grid.equal[0]
        and grid.shape[0] >= 4
    )


def axis_of(grid: Any, equation: Any) -> str:
    """What cubics see of the axis."""
    if not by_cubics(grid):
        return ""
    return "ring" if semidiscrete(equation, grid, FiniteVolume())[0].periodic else "open"


def _neighbours(grid: Any, points: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cells (m, k) that a log density is interpolated between, and their weights."""
    own = np.ravel_multi_index(tuple(cell.T), grid.shape)
    if grid.discrete:
        return own[:, None], np.ones((len(own), 1))
    if by_cubics(grid):
        edges, n = np.asarray(grid.edges[0]), grid.shape[0]
        place = np.clip((points[:, 0] - edges[0]) / (edges[-1] - edges[0]) * n, 0, n) - 0.5
        first = np.minimum(np.floor(place).astype(int) - 1, n - 2)
        weights = [_lagrange(place - first, j) for j in range(4)]
        return first[:, None] + 2 + np.arange(4), np.stack(weights, axis=1)
    sides = []
    for centres, x in zip(grid.centers, points.T, strict=True):
        centres = np.asarray(centres)
        if len(centres) == 1:
            sides.append([(np.zeros(len(x), int), np.ones(len(x)))])
            continue
        low = np.clip(np.searchsorted(centres, x) - 1, 0, len(centres) - 2)
        xi = (x - centres[low]) / (centres[low + 1] - centres[low])
        sides.append([(low, 1 - xi), (low + 1, xi)])
    corners = list(product(*sides))
    near = np.stack([np.ravel_multi_index(tuple(i for i, _ in corner), grid.shape) for corner in corners], axis=1)
    share = np.stack([np.prod([weight for _, weight in corner], axis=0) for corner in corners], axis=1)
    if grid.mask is not None:
        share = np.clip(share, 0.0, 1.0) * np.ravel(grid.mask)[near]
        lost = share.sum(1) <= 1e-9
        near = np.where(lost[:, None], own[:, None], near)
        share = np.where(lost[:, None], 1.0 / near.shape[1], share / np.where(lost, 1.0, share.sum(1))[:, None])
    return near, share


def _lagrange(xi: np.ndarray, j: int) -> np.ndarray:
    others = [k for k in range(4) if k != j]
    return np.prod([(xi - k) / (j - k) for k in others], axis=0)
