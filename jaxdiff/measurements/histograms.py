"""Histograms: populations counted in bins, of which the missing mass is one more where a total is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.schemes import FiniteVolume, semidiscrete
from jaxdiff.integration.options import AUTOMATIC, SolverOptions
from jaxdiff.measurements import blocks, histograms_stack
from jaxdiff.measurements.histograms_examination import examined
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.measurements.predictor import Prediction, StatesPredictor
from jaxdiff.measurements.residuals import Examination
from jaxdiff.measurements.stacks import Redraw
from jaxdiff.measurements.states_at_times import start_inside, states_at_times
from jaxdiff.model.grid import Grid, increasing
from jaxdiff.quantities import numbers, refuse, times_as_numbers
from jaxdiff.runtime.conditions import check

if TYPE_CHECKING:
    from jaxdiff.measurements.view import View


class Histograms(Measurement):
    """Counts or densities of a population per bin, at one or several times.

        mass of a bin = ∫ u dV over it; data and model are both normalised over the bins

    Args:
        grid, initial, start, time_unit, conditions, phase: as in `Readings`.
        times: `(m,)` [time].
        counts: `(m, *bins)`, or `(*bins,)` for one time: whole numbers are counts, others are densities [1/length].
        edges: `(bins + 1,)` [length], a tuple of them on several axes; None: the grid's cells.
        total: individuals at each time, a number or `(m,)`: what is in no bin becomes one more bin, and densities count. Of
            the model it is what the start held and the bins do not, wherever it went.

    Raises:
        ValueError: shapes that differ, a count that is negative or not finite, a time that holds nothing, edges that do not
            increase or leave the grid (on a periodic axis, one period), bins that hold more than the total, or what is no
            real number.

    >>> import jaxdiff as jd
    >>> grid = jd.Grid.uniform((0.0, 1.0, 4))
    >>> jd.Histograms(grid, 1.0, [0.5], [[10, 0, 3, 7]]).size
    array([20.])
    """

    family: ClassVar[str] = "multinomial"
    grid: Grid
    initial: Any
    times: np.ndarray
    counts: np.ndarray
    edges: Any
    total: np.ndarray | None
    start: float = eqx.field(static=True)

    def __init__(
        self,
        grid: Grid,
        initial: Any,
        times: Any,
        counts: Any,
        edges: Any = None,
        total: Any = None,
        start: Any = 0.0,
        *,
        time_unit: str | None = None,
        conditions: Mapping[str, Any] | None = None,
        phase: Any = "total",
    ):
        self.conditions, self.phase = conditions, phase
        times, self.start = times_as_numbers(times, start, time_unit)
        times, counts = np.atleast_1d(times), numbers(counts, "counts")
        counts = counts[None] if counts.ndim == 1 and len(times) == 1 else counts
        edges = grid.edges if edges is None else edges if isinstance(edges, tuple) else (edges,)
        if len(edges) != grid.ndim:
            raise ValueError(f"edges must be a tuple of {grid.ndim} arrays, one per axis, got {len(edges)}")
        edges = tuple(_checked_edges(numbers(one, "edges"), grid, k) for k, one in enumerate(edges))
        bins = tuple(len(one) - 1 for one in edges)
        if times.ndim != 1 or counts.shape != (len(times), *bins):
            raise ValueError(
                f"counts must have shape (times, *bins) = {(times.size, *bins)}, got {counts.shape}; pass edges= for other bins"
            )
        if not len(times):
            raise ValueError("no histogram given, got empty times")
        refuse(
            ~(np.isfinite(counts) & (counts >= 0)),
            lambda i, *at: (
                f"counts must be finite and not negative, got {counts[(i, *at)]:g} at time {times[i]:g} in bin {at if len(at) > 1 else at[0]}; drop or mend it"
            ),
        )
        empty = lambda i: f"every histogram must hold something, got zeros only at time {times[i]:g}; drop that time"
        refuse(counts.reshape(len(times), -1).sum(1) == 0, empty)
        self.grid, self.initial, self.times, self.counts = grid, start_inside(initial, grid), times, counts
        self.edges = edges if grid.ndim > 1 else edges[0]
        if grid.mask is not None:
            room = np.asarray(grid.volumes)
            for k, one in enumerate(edges):
                room = np.moveaxis(np.tensordot(room, _overlap(grid.axis(k), one), (k, 1)), -1, k)
            if (lost := counts[:, room == 0].sum()) > 0:
                raise ValueError(
                    f"counts must lie within the mask of the grid, got {lost:g} of {counts.sum():g} in bins outside it; set those to zero or widen the mask"
                )
        self.total = None if total is None else _checked_total(total, times)
        if self.total is not None:
            inside = self.inside
            if not (inside <= self.total * (1 + 1e-6)).all():
                i = int(np.argmax(inside - self.total))
                raise ValueError(
                    f"total must not be less than what the bins hold, got {self.total[i]:g} for {inside[i]:g} at time {times[i]:g}"
                )

    @property
    def whole(self) -> bool:
        """Whether the numbers are counts."""
        return bool((self.counts == np.round(self.counts)).all())

    @property
    def mass(self) -> np.ndarray:
        """What each bin holds, counts, or density times volume: (times, bins), the bins of all axes in one row."""
        counted = self.counts if self.whole else self.counts * self.volumes
        return counted.reshape(len(counted), -1)

    @property
    def inside(self) -> np.ndarray:
        """Individuals in the bins at each time, of a `total`."""
        counted = self.mass.sum(1)
        return counted if self.whole else counted * self.total

    def shares(self, mass: np.ndarray, total: Any) -> np.ndarray:
        """Of the bins (…, times, bins), with the missing mass last where a total (…, times) says how many there are."""
        if total is not None:
            inside = mass if self.whole else mass * total[..., None]
            mass = np.concatenate([inside, np.maximum(total - inside.sum(-1), 0.0)[..., None]], axis=-1)
        return mass / mass.sum(-1)[..., None]

    @property
    def volumes(self) -> np.ndarray:
        """Of the bins, in their shape."""
        each = [np.diff(_volume(self.grid.axis(k), edges)) for k, edges in enumerate(self.bins)]
        return reduce(np.multiply.outer, each)

    @property
    def bins(self) -> tuple[np.ndarray, ...]:
        """Edges along every axis."""
        return self.edges if isinstance(self.edges, tuple) else (self.edges,)

    @property
    def centres(self) -> tuple[np.ndarray, ...]:
        """Of the bins along every axis."""
        return tuple(0.5 * (edges[1:] + edges[:-1]) for edges in self.bins)

    @property
    def size(self) -> np.ndarray | None:
        """Individuals at each time; None for densities without a total."""
        return self.total if self.total is not None else self.mass.sum(1) if self.whole else None

    def split(self, fraction: float) -> tuple[Histograms, Histograms]:
        """(first, last) part in time."""
        order = np.argsort(self.times, kind="stable")
        held_out = order[len(order) - max(1, round(fraction * len(order))) :]
        if len(held_out) == len(order):
            raise ValueError(
                f"validation={fraction:g} leaves no histogram to fit, got {len(order)} in all; hold out less"
            )
        return self.rows(np.setdiff1d(order, held_out)), self.rows(np.sort(held_out))

    def blocks(self, folds: int, forward: bool) -> np.ndarray:
        return blocks.by_time(self.times, folds)

    def parts(self, kept: Sequence[np.ndarray]) -> histograms_stack.HistogramsStack:
        shape = (-1, *(1,) * (self.counts.ndim - 1))
        return self.stacked(np.stack([np.where(one.reshape(shape), self.counts, np.nan) for one in kept]))

    def rows(self, kept: np.ndarray) -> Histograms:
        """Only these times."""
        total = None if self.total is None else self.total[kept]
        columns = self.times[kept], self.counts[kept], self.edges, total, self.start
        return Histograms(self.grid, self.initial, *columns, conditions=self.conditions, phase=self.phase)

    @property
    def known(self) -> bool:
        return self.size is not None

    @property
    def unknown(self) -> int:
        return 0

    @property
    def count(self) -> int:
        return int(np.sum(np.asarray(self.size)))

    @property
    def values(self) -> np.ndarray:
        """The counts, by the name that data have in every measurement."""
        return self.counts

    def prepare(
        self, equation: Any, initial: Any = None, pad: bool = True, options: SolverOptions = AUTOMATIC
    ) -> HistogramsPredictor:
        states, row = states_at_times(self, equation, initial, options, 0 if equation.wave else self.phase)
        shares, size = self.shares(self.mass, self.total), self.size
        own = not equation.wave and all(map(np.array_equal, self.bins, self.grid.edges))
        mesh, overlap = None, tuple(_overlap(self.grid.axis(k), edges) for k, edges in enumerate(self.bins))
        if equation.wave:
            mesh, overlap = zip(*map(_quadrature, map(np.asarray, self.grid.edges), self.bins), strict=True)
        self._check_rest(equation)
        return HistogramsPredictor(
            observation=shares,
            weight=np.ones(len(shares)) if size is None else size,
            size=np.float64(len(shares)),
            states_at_times=states,
            row=row,
            overlap=None if own else overlap,
            mesh=mesh,
            rest=self.total is not None,
            known=self.known,
        )

    def _check_rest(self, equation: Any) -> None:
        """Refuse individuals outside of the bins where the model can put none."""
        if self.total is None:
            return
        missing = self.total - self.inside
        ends = zip(self.bins, self.grid.edges, strict=True)
        if (missing <= 1e-6 * self.total).all() or not all(np.allclose(b[[0, -1]], e[[0, -1]]) for b, e in ends):
            return
        system = semidiscrete(equation, self.grid, FiniteVolume())[0]
        if not system.operator_varies and not np.any(np.asarray(system.operator(0.0).leak)):
            i = int(np.argmax(missing))
            raise ValueError(
                f"total says that {missing[i]:g} of {self.total[i]:g} are in no bin at time {self.times[i]:g}, but the bins cover a domain that nothing leaves; drop total=, open a wall, or take a wider grid"
            )

    def stacked(self, values: np.ndarray) -> histograms_stack.HistogramsStack:
        finite = values[np.isfinite(values)]
        if self.whole != bool((finite == np.round(finite)).all()):
            raise ValueError(
                "either all histograms are counts or none is, got both; round them, or fit them on their own"
            )
        return histograms_stack.HistogramsStack(self, None, values)

    def joined(self, several: Sequence[Any], initials: Any) -> histograms_stack.HistogramsStack:
        return histograms_stack.joined(several, initials)

    def draw(self, fit: Any, repeats: int, rng: np.random.Generator, how: Redraw) -> np.ndarray:
        return histograms_stack.drawn(self, fit.predict(self), repeats, rng, how.kind)

    def examine(self, prediction: Any, jacobian: Any, tau: Any, equation: Any) -> Examination:
        if not self.known:
            return Examination("densities do not tell how many were counted; give counts, or total=N")
        return examined(self, prediction, jacobian)

    def view(self, fit: Any, held_out: Any = None) -> View:
        from jaxdiff.measurements.histograms_view import view

        return view(self, fit)


class HistogramsPredictor(StatesPredictor):
    """The predictor of histograms: the mass of each bin.

    observation: (m, bins), normalised, with the missing mass last where `rest`; weight: (m,) individuals, 1 if unknown
    """

    family: ClassVar[str] = "multinomial"
    overlap: Any  # per axis (bins, n), the share of each cell in each bin; None: the cells are the bins
    mesh: Any  # per axis where densities of waves are taken, to add up by `overlap`; None: states are averages of cells
    rest: bool = eqx.field(static=True)

    def predict(self, equation: Any, initial: Any) -> Prediction:
        states, checks, fine = self.states_at_times(equation, initial)
        grid = self.states_at_times.grid
        if self.mesh is None:
            mass = (states * grid.volumes)[self.row]
        else:
            on_mesh = semidiscrete(equation, grid, FiniteVolume())[0].on_mesh
            mass = jax.vmap(lambda wave: on_mesh(wave, self.mesh))(states)[self.row]
        for k, share in enumerate(self.overlap or ()):
            mass = jnp.moveaxis(jnp.tensordot(mass, share, axes=(k + 1, 1), precision="highest"), -1, k + 1)
        mass = mass.reshape(len(mass), -1)
        if self.rest:  # of what there was at the start, which need not be normalised
            whole = 1.0 if initial is None else grid.integrate(_at_start(equation, grid, initial))
            rest = whole - mass.sum(1, keepdims=True)
            born = "the model leaves {value} of its start outside the bins: total= counts what leaves, and here something is born; drop it"
            checks = checks + check([(born, rest < -1e-6 * whole, None, rest)], checks.needed)
            mass = jnp.concatenate([mass, rest], axis=1)
        return Prediction(mass, checks, fine)

    def noiseless(self, prediction: np.ndarray) -> np.ndarray:
        return prediction / prediction.sum(1, keepdims=True)


def _at_start(equation: Any, grid: Grid, initial: Any) -> Any:
    if equation.wave:
        return jnp.abs(equation.on_cells(grid, initial) if callable(initial) else initial) ** 2
    return jnp.broadcast_to(grid.average(initial), grid.shape)


def _checked_edges(edges: np.ndarray, grid: Grid, k: int) -> np.ndarray:
    grid.axis(k).require_inside(increasing(edges, "edges of bins"), "edge")
    if grid.discrete and np.any((edges - 0.5) % 1):
        raise ValueError(
            f"bins of states end between two of them, at -0.5, 9.5, …, got {edges[(edges - 0.5) % 1 != 0][0]:g}"
        )
    return edges


def _checked_total(total: Any, times: np.ndarray) -> np.ndarray:
    total = numbers(total, "total")
    if total.shape not in ((), times.shape):
        raise ValueError(f"total must be a number or one for each of {len(times)} times, got shape {total.shape}")
    return np.array(np.broadcast_to(total, times.shape))


def _volume(grid: Grid, edges: np.ndarray) -> np.ndarray:
    """Volume between the lower wall and each edge."""
    own, volumes = np.asarray(grid.edges[0]), np.asarray(grid.volumes)
    power = grid.exponent + 1
    scale = volumes.sum() / (own[-1] ** power - own[0] ** power)
    return scale * (np.clip(edges, own[0], own[-1]) ** power - own[0] ** power)


def _overlap(grid: Grid, edges: np.ndarray) -> np.ndarray:
    """Which share of each cell lies in each bin, (bins, n)."""
    cells, bins = _volume(grid, np.asarray(grid.edges[0])), _volume(grid, edges)
    upper = np.minimum(bins[1:, None], cells[None, 1:])
    lower = np.maximum(bins[:-1, None], cells[None, :-1])
    return np.maximum(upper - lower, 0.0) / np.diff(cells)


def _quadrature(cells: np.ndarray, bins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gauss points within each cell of each bin along an axis, and what they count for in the bins, (bins, points)."""
    cuts = np.unique(np.clip(np.concatenate([cells, bins]), bins[0], bins[-1]))
    points, weights = np.polynomial.legendre.leggauss(4)
    middle, half = (cuts[1:] + cuts[:-1]) / 2, np.diff(cuts) / 2
    within = np.repeat(np.searchsorted(bins, middle) - 1, 4) == np.arange(len(bins) - 1)[:, None]
    return (middle[:, None] + half[:, None] * points).ravel(), np.where(within, np.outer(half, weights).ravel(), 0.0)
