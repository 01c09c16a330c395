"""Tracks seen with localisation noise and motion blur: how they are predicted."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.schemes import semidiscrete
from jaxdiff.integration.jumps import distinct_lengths
from jaxdiff.integration.options import SECOND_ORDER, SolverOptions
from jaxdiff.integration.passage_times import FOURTH_ORDER
from jaxdiff.measurements.predictor import Prediction, Predictor
from jaxdiff.measurements.states_at_times import Unplannable
from jaxdiff.measurements.track_dynamics import FREE, OTHER, TRAP, Terms, terms
from jaxdiff.parameters import Named, is_named, marked, plain
from jaxdiff.quantities import numbers, refuse
from jaxdiff.runtime.compilation import quick_jit
from jaxdiff.runtime.conditions import Checks, Condition, check
from jaxdiff.transition.cell_filter import CellTracks, squarings_for
from jaxdiff.transition.free import FreeTracks, even
from jaxdiff.transition.kalman import FilteredTracks

if TYPE_CHECKING:
    from jaxdiff.measurements.measurement import Measurement
    from jaxdiff.measurements.trajectory import Trajectory

FAR = 5.0  # typical steps from what was seen to a wall, from which on it is as if there were none
_DISTINCT = 16  # intervals, of which the filter on the cells holds a matrix each
_MOST_CELLS = 1200
_NOTHING = 1e-6  # of one variance beside the other, from which on it is at its limit of zero
WAYS = {
    FREE: "free diffusion, by the sine transform where times are even, by a Kalman filter elsewhere",
    TRAP: "a drift linear in position, by a Kalman filter",
    OTHER: "any drift, by a filter on the cells",
}
_TOLD = 0.1  # nat that the size of cells may move a log likelihood, before it is said


class Localisation(eqx.Module):
    """How a position is seen: y = x + noise · η, η standard normal."""

    noise: Any


class Along(eqx.Module):
    """Tracks along one axis, as they are predicted there.

    even, uneven: those at even times, of free diffusion, and all others; members: the numbers of either
    """

    even: FreeTracks | None
    uneven: Any
    members: tuple[Any, Any]
    elapsed: Any  # (tracks,)
    kind: str = eqx.field(static=True)
    scheme: Any = None
    grid: Any = None

    def log_densities(self, equation: Any, terms: Terms, noise: Any, exposure: Any) -> tuple[Any, Any, list[Condition]]:
        """(tracks,), whether they are resolved, and conditions."""
        if self.kind == OTHER:
            return self._by_cells(equation, noise)
        force, rate, D = self.numbers(terms)
        killing = terms.killing(jnp.zeros(()))
        found = -killing * self.elapsed
        if self.even is not None:
            free = self.even.log_densities(force[0], D, noise**2, exposure)
            found = found.at[self.members[0]].add(free)
        if self.uneven is not None:
            filtered = self.uneven.log_densities(force, rate, D, noise**2, exposure)
            found = found.at[self.members[1]].add(filtered)
        wrong = "the diffusivity is {value}; it must not be negative, mark it jd.Positive"
        return found, jnp.array(True), [(wrong, D < 0, 0.0, D)]

    def numbers(self, terms: Terms) -> tuple[Any, Any, Any]:
        """The drift at the centres of what is filtered, −f′, and D."""
        x = jnp.zeros(())
        centres = jnp.zeros(1) if self.uneven is None else self.uneven.centres
        slope = jax.grad(lambda x: jnp.reshape(terms.drift(x), ()))(x) if self.kind == TRAP else x
        force = jax.vmap(lambda x: jnp.reshape(terms.drift(x), ()))(jnp.asarray(centres))
        return force, -slope, jnp.reshape(terms.diffusivity(x), ())

    def _by_cells(self, equation: Any, noise: Any) -> tuple[Any, Any, list[Condition]]:
        systems = semidiscrete(equation, self.grid, self.scheme)
        noise = jnp.abs(noise)
        each = [self.uneven.log_densities(system, noise) for system in systems]
        found = each[0][0] if len(each) == 1 else (4 * each[0][0] - each[1][0]) / 3
        return found, each[0][1], systems[0].conditions(0.0)

    def innovations(self, equation: Any, terms: Terms, noise: Any, exposure: Any) -> Any:
        """(m,) standard normal where the model is right, of all frames but first ones, track by track."""
        if self.kind == OTHER:
            system = semidiscrete(equation, self.grid, SECOND_ORDER)[0]
            below = self.uneven.filtered(system, jnp.abs(noise))[1].ravel()[self.uneven.lanes.frames]
            return jax.scipy.special.ndtri(jnp.clip(below, 1e-13, 1 - 1e-13))
        force, rate, D = self.numbers(terms)
        return self.uneven.innovations(force, rate, D, noise**2, exposure)


class TracksPredictor(Predictor):
    """The log density of each track, of all that was seen of it given its first position.

    axes: how each is predicted, for each of the states of a mixture; interval: a typical one between frames; fitted: whether
    the noise is not known
    """

    family: ClassVar[str] = "density"
    on_cells: ClassVar[bool] = False
    observation: Any
    weight: Any
    size: Any
    axes: tuple[tuple[Along, ...], ...]
    exposure: Any
    interval: Any
    grid: Any
    known: bool = eqx.field(static=True)
    fitted: bool = eqx.field(static=True)

    def predict(self, equation: Any, initial: Any) -> Prediction:
        noise = noise_of(initial)
        parts: list[Any] = []
        conditions: list[Condition] = []
        resolved = jnp.array(True)
        for state, axes in zip(states_of(equation), self.axes, strict=True):
            total = jnp.zeros(len(self.observation))
            for along, each in zip(axes, terms(state, self.grid), strict=True):
                found, fine, more = along.log_densities(state, each, noise, self.exposure)
                total, resolved, conditions = total + found, resolved & fine, conditions + more
            parts.append(total)
        if len(parts) > 1:
            conditions += self._of_mixture(equation)
            shares = equation.all_shares
            present = shares > 0
            logs = jnp.where(present, jnp.log(jnp.where(present, shares, 1.0)), -jnp.inf)
            parts = [jax.nn.logsumexp(jnp.stack(parts) + logs[:, None], axis=0)]
        return Prediction(parts[0], check(conditions), resolved)

    def _of_mixture(self, equation: Any) -> list[Condition]:
        """Shares that leave some for the last state, and states in order of their diffusivity, since none bears another name."""
        last, found = equation.all_shares[-1], []
        found.append(
            (
                "the last share of the mixture is {value}, what the others leave; start with smaller ones",
                last < 0,
                0.0,
                last,
            )
        )
        middle = jnp.asarray((self.grid.edges[0][0] + self.grid.edges[0][-1]) / 2)
        speeds = [jnp.reshape(terms(state, self.grid)[0].diffusivity(middle), ()) for state in equation.states]
        order = (
            "state {where} of the mixture diffuses faster than the next one, {value} times; put the slower one first"
        )
        for i, j in equation.alike:
            found.append((order, speeds[i] > speeds[j], float(i), speeds[i] / speeds[j]))
        return found

    def renewed(self, measurement: Measurement, equation: Any, checks: Checks) -> Predictor:
        return measurement.prepare(equation)

    def left_out(self, equation: Any, initial: Any) -> tuple[str, ...]:
        kinds = list(dict.fromkeys(along.kind for axes in self.axes for along in axes))
        notes = [f"tracks are predicted as of {'; '.join(WAYS[kind] for kind in kinds)}"]
        notes += self._limits(equation, float(noise_of(initial))) if self.fitted else []
        if OTHER in kinds:
            moved = float(_by_size_of_cells()(self, equation, initial))
            if np.isinf(moved):
                notes.append("by how much cells move the log likelihood is not known; take equal ones, an even number")
            elif moved > _TOLD:
                notes.append(f"cells move the log likelihood by up to {moved:.2g}; take half as wide ones")
        return tuple(notes)

    def _limits(self, equation: Any, noise: float) -> list[str]:
        """What is told of noise that is lost beside diffusion, or of diffusion beside noise."""
        notes, pool = [], "pool tracks, or take it as known"
        for number, (state, axes) in enumerate(zip(states_of(equation), self.axes, strict=True)):
            which = f" of state {number}" if len(self.axes) > 1 else ""
            for along, each in zip(axes, terms(state, self.grid), strict=True):
                if along.kind == OTHER:
                    continue
                step = 2 * float(along.numbers(each)[2]) * self.interval
                if noise**2 < _NOTHING * step:
                    notes.append(f"these tracks do not tell the noise of positions from none; {pool}")
                elif step < _NOTHING * noise**2:
                    notes.append(f"these tracks do not tell the diffusion{which} from none beside the noise; {pool}")
        return list(dict.fromkeys(notes))

    def moved_by_cells(self, equation: Any, initial: Any) -> Any:
        """What extrapolation changes in the log likelihood: it is left at most, as far as cells resolve the noise."""
        whole: Any = 0.0
        for state, axes in zip(states_of(equation), self.axes, strict=True):
            for along in axes:
                if along.kind == OTHER:
                    systems = semidiscrete(state, self.grid, along.scheme)
                    each = [along.uneven.log_densities(system, jnp.abs(noise_of(initial)))[0] for system in systems]
                    apart = jnp.sum(jnp.abs(each[0] - each[-1])) / 3 if len(each) > 1 else jnp.inf
                    whole = whole + apart
        return whole


@cache
def _by_size_of_cells() -> Any:
    return quick_jit(TracksPredictor.moved_by_cells)


def states_of(equation: Any) -> tuple[Any, ...]:
    """The equations of a mixture, or the one."""
    return getattr(equation, "states", None) or (equation,)


def noise_of(initial: Any) -> Any:
    """The standard deviation of what is seen."""
    if initial is not None and not isinstance(initial, Localisation):
        raise ValueError("tracks start where they were seen; let the model return the equation alone")
    return jnp.asarray(0.0 if initial is None else initial.noise)


def prepared(m: Trajectory, equation: Any, options: SolverOptions) -> TracksPredictor:
    """The predictor of tracks by these equations."""
    if options.scheme.in_modes or options.stepper is not None or options.substeps is not None:
        raise ValueError("tracks take no steps and no modes; leave stepper, substeps and jd.Spectral() out")
    count = len(m.times)
    axes = tuple(_axes_of(m, state, options) for state in states_of(equation))
    return TracksPredictor(
        observation=np.zeros(count),
        weight=np.ones(count),
        size=np.float64(count),
        axes=axes,
        exposure=np.float64(m.exposure or 0.0),
        interval=np.median(m.durations),
        grid=m.grid,
        known=True,
        fitted=marked(m.initial) or is_named(m.initial.noise),
    )


def _axes_of(m: Trajectory, equation: Any, options: SolverOptions) -> tuple[Along, ...]:
    return tuple(along(m, equation, each, axis, options) for axis, each in enumerate(terms(equation, m.grid)))


def along(m: Trajectory, equation: Any, each: Terms, axis: int, options: SolverOptions, whole: bool = False) -> Along:
    """How tracks are predicted along one axis; whole: by one filter for all, that tells innovations."""
    columns = tuple(x if x.ndim == 1 else x[:, axis] for x in m.positions)
    kind, near = each.kind, near_wall(m.grid, axis, m.times, columns)
    if near is not None or kind == OTHER:
        linear = "free diffusion and of drifts linear in position, such as k*(m - x), far from walls"
        got = f"positions near the wall {near}" if near else "a drift or a diffusivity whose program is not such"
        mend = "widen the grid" if near else "simplify it"
        reason = None
        if m.exposure:
            reason = f"motion blur is that of {linear}, got {got}; leave exposure out, or {mend}"
        elif m.grid.ndim > 1:
            alone = mend if near else "give each axis as a jd.Trajectory of its own"
            reason = f"tracks with noise on several axes are those of {linear}, got {got}; {alone}"
        elif isinstance(m.initial.noise, np.ndarray) and m.initial.noise == 0:
            reason = f"tracks with noise 0 are those of {linear}, got {got}; leave noise out, or give what there is, or {mend}"
        if reason is not None:
            raise Unplannable(reason)
        kind = OTHER
    elapsed = np.array([t[-1] - t[0] for t in m.times])
    if kind == OTHER:
        return _cells(m, equation, columns, elapsed, options)
    regular = np.array([kind == FREE and not whole and even(t) for t in m.times])
    some = lambda kept, make: (
        make(*([c[i] for i in np.flatnonzero(kept)] for c in (m.times, columns))) if kept.any() else None
    )
    parts = some(regular, FreeTracks.of), some(~regular, FilteredTracks.of)
    return Along(*parts, (np.flatnonzero(regular), np.flatnonzero(~regular)), elapsed, kind)


def _cells(m: Trajectory, equation: Any, columns: Any, elapsed: np.ndarray, options: SolverOptions) -> Along:
    if m.grid.shape[0] > _MOST_CELLS:
        raise Unplannable(
            f"the filter on the cells takes at most {_MOST_CELLS} of them, got {m.grid.shape[0]}; take fewer"
        )
    m.dynamics(equation)  # which refuses walls that no path knows
    scheme, exit = _scheme(equation, m.grid, options.scheme)
    lanes = FilteredTracks.of(m.times, columns)
    lengths, which = distinct_lengths(np.concatenate([np.diff(t) for t in m.times]))
    if len(lengths) > _DISTINCT:
        raise Unplannable(
            f"the filter on the cells takes up to {_DISTINCT} different intervals between frames, got {len(lengths)}; round the times, or fit a drift linear in position"
        )
    number = np.zeros(lanes.first.size, int)
    number[lanes.frames] = which
    if not np.isfinite(exit):
        raise Unplannable("the rates between cells are not finite; check drift and diffusivity")
    tracks = CellTracks(lanes, lengths, number.reshape(lanes.first.shape), squarings_for(exit, lengths.max()))
    everything = np.arange(len(m.times))
    return Along(None, tracks, (everything[:0], everything), elapsed, OTHER, scheme, m.grid)


def _scheme(equation: Any, grid: Any, asked: Any) -> tuple[Any, float]:
    """The fourth order where it holds and nobody asked for another, and the largest rate at which a cell is left."""
    if asked is SECOND_ORDER:
        try:
            exit, rough = _looked_at(FOURTH_ORDER)(equation, grid)
            if not rough:
                return FOURTH_ORDER, float(exit)
        except ValueError:
            pass  # cells that do not pair, or coefficients over them
    return asked, float(_looked_at(asked)(equation, grid)[0])


@cache
def _looked_at(scheme: Any) -> Any:
    def look(equation: Any, grid: Any) -> tuple[Any, Any]:
        systems = semidiscrete(equation, grid, scheme)
        rough = scheme.conditions(systems[0], 0.0, jnp.ones(grid.shape))
        return jnp.max(systems[0].operator(0.0).exit), jnp.any(
            jnp.array([jnp.any(failed) for _, failed, _, _ in rough])
        )

    return quick_jit(look)


def near_wall(grid: Any, axis: int, times: Any, columns: Any) -> str | None:
    """The name of a wall that lies within a few typical steps of what was seen."""
    step = np.concatenate([np.diff(x) / np.sqrt(np.diff(t)) for t, x in zip(times, columns, strict=True)])
    longest = max(np.diff(t).max() for t in times)
    reach = FAR * np.sqrt(np.mean((step - np.median(step)) ** 2) * longest)
    seen, ends = np.concatenate(columns), grid.edges[axis]
    gaps = seen.min() - ends[0], ends[-1] - seen.max()
    k = int(np.argmin(gaps))
    return grid.sides[2 * axis + k] if gaps[k] < reach else None


def localisation(noise: Any, exposure: Any, times: Any, positions: Any) -> tuple[Localisation, float | None]:
    """How positions are seen, and the exposure, which no interval may undercut."""
    if not any(np.diff(x, axis=0).any() for x in positions):
        raise ValueError(
            "no position differs from the one before, which tells neither noise nor diffusion; drop this measurement"
        )
    if exposure is not None:
        duration = float(numbers(exposure, "exposure"))
        shortest = min(np.diff(t).min() for t in times)
        if not 0 <= duration <= shortest * (1 + 1e-9):
            raise ValueError(
                f"exposure is a time from zero to the shortest interval between frames, {shortest:g}, got {duration:g}; is it of the unit of the times?"
            )
        exposure = float(min(duration, shortest)) or None
    if noise is None:
        return Localisation(np.zeros(())), exposure
    if isinstance(noise, str):
        return Localisation(Named(noise)), exposure
    found = noise if marked(noise) else numbers(noise, "noise")
    value = plain(found)
    if np.shape(value) != () or not (value >= 0 and np.isfinite(value)):
        raise ValueError(f"noise is the standard deviation of positions, one number of zero or more, got {value}")
    return Localisation(found), exposure


def require_near(grid: Any, positions: np.ndarray, which: str) -> None:
    """Refuse positions farther outside the grid than noise brings them."""
    columns = positions.reshape(len(positions), grid.ndim)
    for k, (name, edges) in enumerate(zip(grid.names, grid.edges, strict=True)):
        slack = 0.1 * (edges[-1] - edges[0])
        refuse(
            ~((columns[:, k] >= edges[0] - slack) & (columns[:, k] <= edges[-1] + slack)),
            lambda i, k=k, name=name, edges=edges: (
                f"position{which} {i} at {name} = {columns[i, k]:g} lies far outside the grid [{edges[0]:g}, {edges[-1]:g}]; widen the grid, or drop it"
            ),
        )
