"""Times of first passage, and through which wall: decisions, escapes, failures; predicted by resolvents that serve all times."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxdiff.integration.options import AUTOMATIC, SolverOptions
from jaxdiff.integration.options import SECOND_ORDER as CHOSEN_BY_ITSELF
from jaxdiff.integration.passage_times import (
    EITHER,
    LATER,
    SPAN,
    at_times,
    open_walls,
    order_that_holds,
    passages,
)
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.measurements.predictor import Prediction, Predictor, padded
from jaxdiff.measurements.residuals import Examination
from jaxdiff.measurements.stacks import Redraw
from jaxdiff.measurements.states_at_times import Unplannable
from jaxdiff.model.grid import Grid
from jaxdiff.parameters import Named, marked, numeric, plain
from jaxdiff.quantities import numbers, refuse, times_as_numbers
from jaxdiff.runtime.compilation import bucket, quick_jit
from jaxdiff.runtime.conditions import Checks, check

if TYPE_CHECKING:
    from jaxdiff.measurements import tables
    from jaxdiff.measurements.view import View

_SLACK = 2.0  # of the longest time, that data drawn anew may take
_MOST_WINDOWS = 8
LEAST = 1e-8  # of a passage over the longest time, or of what stays: the smallest density that counts
_ROUGH = 0.1  # of the log likelihood, by what cells leave of each density
_LOST = 1e-2  # of the largest density, that cancellation may make


class Onset(eqx.Module):
    """Where passages start, how long before the clock does, and which share is due to something else."""

    origin: Any
    nondecision: Any
    lapse: Any


class PassageTimes(Measurement):
    """Times at which something first leaves through an absorbing wall, and through which: decisions, escapes, failures.

        log L = Σᵢ log[(1 − ε) gₛ(tᵢ − t₀) + ε/(w T)],   gₛ the density of first passage through wall s, from the origin

    of rows that are censored log[(1 − ε) S(tᵢ − t₀) + ε (1 − tᵢ/T)], S the chance not to have left; w walls absorb, T is the window.

    Args:
        grid: one axis, whose ends are the walls; equal cells of an even number are solved to fourth order.
        origin: where all start: a place [length], or a callable density over places, of any mass.
        times: `(m,)` [time], above zero.
        sides: `(m,)` names of walls, "x-" or "x+"; None, for all or for one, is not known, and counts through either.
        censored: `(m,)`, True where nothing had left by that time.
        nondecision: t₀ [time], what passes before the start and after the passage.
        lapse: ε, the share of passages that are due to something else: uniform over the window and the walls.
        window: T [time], or (from, to); None: up to the last of the times.
        time_unit, conditions: as in `Readings`.

    origin, nondecision and lapse may be marked, or be texts that name parameters of `fit`, so that several measurements share
    them. A bound B that is fitted wants the equation in ξ = x/B on (−1, 1): drift v/B, diffusivity D/B².

    Without a lapse a time that no passage takes counts as the smallest density that is resolved, some 1e-8 of the peak; a fit says of
    how many it is so.

    Raises:
        ValueError: times that are not above zero, or not above a known t₀ where nothing lapses; another side; a lapse outside [0, 1); an
            origin outside the grid; in `fit`, no wall that absorbs, coefficients that vary in time.

    Decisions of a drift between bounds that are fitted:

    >>> import jaxdiff as jd
    >>> grid = jd.Grid.uniform((-1.0, 1.0, 100))
    >>> model = lambda v, B, t0: jd.FokkerPlanck(v / B, 0.5 / B**2, boundaries=jd.absorbing)
    >>> seen = [0.71, 0.46, 0.93, 0.55, 1.32, 0.61, 0.52, 0.84], ["x+", "x+", "x-", "x+", "x+", "x-", "x+", "x+"]
    >>> times = jd.PassageTimes(grid, 0.0, *seen, nondecision=0.3, lapse=0.02, window=2.0)
    >>> model = lambda v, B: jd.FokkerPlanck(v / B, 0.5 / B**2, boundaries=jd.absorbing)
    >>> fit = jd.fit(model, times, parameters={"v": jd.Free(1.0), "B": jd.Positive(1.0)}, progress=False)
    >>> {name: round(x, 2) for name, x in fit.parameters.items()}
    {}

    Ratcliff 1978, doi:10.1037/0033-295X.85.2.59; closed forms: Navarro & Fuss 2009, doi:10.1016/j.jmp.2009.02.003.
    """

    family: ClassVar[str] = "density"
    on_cells: ClassVar[bool] = False
    grid: Grid
    initial: Onset
    values: np.ndarray  # (m, 2) times, and of which kind each is: the number of its side, of either, or censored
    window: tuple[float, float] = eqx.field(static=True)

    def __init__(
        self,
        grid: Grid,
        origin: Any,
        times: Any,
        sides: Any = None,
        censored: Any = None,
        nondecision: Any = 0.0,
        lapse: Any = 0.0,
        window: Any = None,
        *,
        time_unit: str | None = None,
        conditions: Mapping[str, Any] | None = None,
    ):
        if grid.ndim > 1 or grid.discrete or grid.mask is not None:
            raise ValueError("passage times are those on one axis, without a mask; give a jd.Grid of one axis")
        times, _ = times_as_numbers(times, 0.0, time_unit)
        if times.ndim != 1 or not len(times):
            raise ValueError(f"times must be one for each passage, (m,), got shape {times.shape}")
        refuse(
            ~(np.isfinite(times) & (times > 0)),
            lambda i: (
                f"times must be above zero and finite, got {times[i]:g} in row {i}; drop that row, or say censored"
            ),
        )
        kinds = _kinds(grid, len(times), sides, censored)
        self.grid, self.conditions = grid, conditions
        self.values = np.stack([times, kinds], axis=1)
        self.initial = Onset(_origin(grid, origin), _number(nondecision, "nondecision"), _number(lapse, "lapse"))
        self.window = _window(window, times)
        delay, share = self.initial.nondecision, self.initial.lapse
        if isinstance(share, np.ndarray) and not 0 <= share < 1:
            raise ValueError(
                f"lapse is the share of passages that are due to something else, within [0, 1), got {share:g}"
            )
        if isinstance(delay, np.ndarray) and not (delay >= 0 and np.isfinite(delay)):
            raise ValueError(f"nondecision must be a time of zero or more, got {delay:g}")
        if isinstance(delay, np.ndarray) and isinstance(share, np.ndarray) and share == 0:
            refuse(
                (times <= delay) & (kinds != LATER),
                lambda i: (
                    f"the time {times[i]:g} in row {i} is not above nondecision, {delay:g}; drop that row, or allow a lapse"
                ),
            )

    @classmethod
    def from_table(
        cls,
        table: tables.Table,
        grid: Grid,
        origin: Any,
        *,
        time: str,
        side: str | None = None,
        sides: Mapping[Any, str] | None = None,
        censored: str | None = None,
        conditions: Any = None,
        nondecision: Any = 0.0,
        lapse: Any = 0.0,
        window: Any = None,
        time_unit: str | None = None,
    ) -> Any:
        """Passages from a table, one a row; where columns hold conditions, a list of measurements, one for each different condition.

        Args:
            table: path of a CSV file, a DataFrame, a dictionary of columns, or an open file.
            time, side, censored: names of columns; a side is left empty where it is not known, censored is 1 or 0.
            sides: which wall each entry of the column `side` stands for, {1: "x+", 0: "x-"}; None: it holds the names of walls.
            conditions: columns of what is known of each trial, a list of them or {argument of the model: column or number}.
            grid, origin, nondecision, lapse, window, time_unit: as in `PassageTimes`.

        >>> import jaxdiff as jd
        >>> trials = {"rt": [0.5, 0.7, 0.6], "correct": [1, 0, 1], "coherence": [0.1, 0.1, 0.4]}
        >>> grid, walls = jd.Grid.uniform((-1.0, 1.0, 100)), {1: "x+", 0: "x-"}
        >>> weak, strong = jd.PassageTimes.from_table(
        ...     trials, grid, 0.0, time="rt", side="correct", sides=walls, conditions=["coherence"])
        >>> weak.times, float(strong.conditions["coherence"])
        (array([0.5, 0.7]), 0.4)
        """
        from jaxdiff.measurements import passage_tables, tables

        frame = tables.read(table)
        with tables.named(frame):
            moments = tables.moments(frame, time, time_unit)
            rest = {"nondecision": nondecision, "lapse": lapse, "window": window, "time_unit": time_unit}
            walls = passage_tables.walls(frame, side, sides)
            late = None if censored is None else passage_tables.flags(frame, censored)
            whole = cls(grid, origin, moments, walls, late, **rest)
            parts = passage_tables.conditions(frame, conditions)
            if parts is None:
                return whole
            found = [whole.under(rows, known) for rows, known in parts]
            return found if len(found) > 1 else found[0]

    def under(self, rows: np.ndarray, conditions: Any) -> PassageTimes:
        """Some of the rows, under conditions of their own; what is marked stays one and the same."""
        part = eqx.tree_at(lambda m: m.values, self, self.values[rows])
        object.__setattr__(part, "initial", self.initial)
        object.__setattr__(part, "conditions", conditions)
        part.__check_init__()
        return part

    @property
    def times(self) -> np.ndarray:
        """`(m,)` [time]."""
        return self.values[:, 0]

    @property
    def kinds(self) -> np.ndarray:
        """`(m,)`: 0 through the lower wall, 1 the upper, 2 either, 3 none yet."""
        return self.values[:, 1].astype(int)

    @property
    def censored(self) -> np.ndarray:
        """`(m,)`, True where nothing had left by that time."""
        return self.kinds == LATER

    @property
    def sides(self) -> np.ndarray:
        """`(m,)` names of walls, empty where they are not known."""
        return np.array([*self.grid.sides, "", ""])[self.kinds]

    def belongs_to(self, other: Measurement) -> bool:
        alike = isinstance(other, PassageTimes) and self.initial is other.initial
        return alike and self.conditions is other.conditions

    def with_start(self, initial: Any) -> PassageTimes:
        return eqx.tree_at(lambda m: m.initial, self, plain(initial))

    def split(self, fraction: float) -> tuple[PassageTimes, PassageTimes]:
        """(first, last): rows held out evenly in the order of their times, as those that took long are no part of their own."""
        m = len(self.values)
        count = max(1, round(fraction * m))
        if count >= m:
            raise ValueError(f"validation={fraction:g} leaves no passage to fit, got {m} in all; hold out less")
        held_out = np.zeros(m, bool)
        held_out[np.argsort(self.times, kind="stable")[np.linspace(0, m, count + 2).astype(int)[1:-1]]] = True
        return self.under(~held_out, self.conditions), self.under(held_out, self.conditions)

    def at(self, times: Any, kinds: Any) -> PassageTimes:
        """The same experiment with other rows, of which a fit predicts log densities, and log survival of kind 3."""
        values = np.stack(np.broadcast_arrays(np.asarray(times, float), kinds), axis=1)
        found = eqx.tree_at(lambda m: m.values, self, values)
        object.__setattr__(found, "initial", self.initial)
        object.__setattr__(found, "conditions", self.conditions)
        return found

    def prepare(
        self, equation: Any, initial: Any = None, pad: bool = True, options: SolverOptions = AUTOMATIC
    ) -> Predictor:
        walls = open_walls(equation, self.grid)
        for kind, name in enumerate(self.grid.sides):
            if name not in walls:
                refuse(
                    self.kinds == kind,
                    lambda i, name=name: (
                        f"row {i} left through {name}, a wall that does not absorb; mend boundaries=, or the sides"
                    ),
                )
        chosen = options.scheme is CHOSEN_BY_ITSELF
        m, kinds = len(self.values), self.kinds
        length = bucket(m) if pad else m
        return PassagePredictor(
            observation=np.concatenate([self.values, np.tile([[self.times.max(), EITHER]], (length - m, 1))]),
            weight=padded(np.ones(m), length),
            size=np.float64(m),
            grid=self.grid,
            top=_SLACK * self.times.max(),
            window=np.array(self.window),
            walls=float(len(walls)),
            scheme=order_that_holds(equation, self.grid) if chosen else options.scheme,
            windows=_windows_for(self.times[kinds != LATER], self.initial.nondecision, _SLACK * self.times.max()),
            known=True,
        )

    def draw(self, fit: Any, repeats: int, rng: np.random.Generator, how: Redraw) -> np.ndarray:
        from jaxdiff.measurements.passage_curves import drawn

        return drawn(self, fit, repeats, rng, how)

    def examine(self, prediction: Any, jacobian: Any, tau: Any, equation: Any) -> Examination:
        from jaxdiff.measurements.passage_examination import examined

        return examined(self, equation)

    def view(self, fit: Any, held_out: Any = None) -> View:
        from jaxdiff.measurements.passage_view import view

        return view(self, fit)


class PassagePredictor(Predictor):
    """The log density of each row, or where it is censored the log chance that it comes later.

    observation: (m, 2) time and kind; top: the longest time; window: from when to when lapses are; walls: how many absorb;
    windows: of contours
    """

    family: ClassVar[str] = "density"
    on_cells: ClassVar[bool] = False
    together: ClassVar[int] = 16  # resolvents are as many short rows, whose loops cost more than what they hold
    observation: Any
    weight: Any
    size: Any
    grid: Grid
    top: Any
    window: Any
    walls: Any
    scheme: Any
    windows: int = eqx.field(static=True)
    known: bool = eqx.field(static=True)

    def predict(self, equation: Any, initial: Any) -> Prediction:
        found, onset = self._passages(equation, initial)
        times, kinds = self.observation[:, 0], self.observation[:, 1].astype(int)
        after = times - onset.nondecision
        value, noise = at_times(found, kinds, after, self.top)
        largest = jnp.argmax(jnp.where(kinds == LATER, -jnp.inf, value))
        lost = jnp.where(jnp.any(kinds != LATER), noise[largest] / jnp.maximum(value[largest], 1e-300), 0.0)
        carried = "the drift carries so far beside diffusion that {value} of the densities is lost in sums that cancel; take a narrower grid, or a larger diffusivity"
        first = self.top / SPAN**self.windows
        early, err = at_times(found, jnp.array([EITHER]), jnp.array([1.0001]) * first, self.top)
        hidden = (after > 0) & (after < first) & (kinds != LATER) & (self.weight > 0)
        resolved = ~jnp.any(hidden) | (early[0] < 100.0 * err[0])
        density = self.mixed(onset.lapse, self._resolved(value, noise))
        inside = "origin is {value}, outside the grid; bound it with jd.Bounded"
        lower, upper = self.grid.edges[0][0], self.grid.edges[0][-1]
        where = 0.0 if callable(onset.origin) else onset.origin
        outside = False if callable(onset.origin) else (where < lower) | (where > upper)
        conditions = [
            *found.conditions,
            (inside, outside, 0.0, where),
            (
                "nondecision is {value}, and must not be negative; take jd.Positive",
                onset.nondecision < 0,
                0.0,
                onset.nondecision,
            ),
            (
                "lapse is {value}, and must lie within [0, 1); take jd.Bounded",
                (onset.lapse < 0) | (onset.lapse >= 1),
                0.0,
                onset.lapse,
            ),
            (carried, lost > _LOST, 0.0, lost),
        ]
        return Prediction(jnp.log(density), check(conditions), resolved)

    def _resolved(self, value: Any, noise: Any) -> Any:
        """Densities and chances, fading smoothly to the least that counts where they are below what they err by."""
        positive = jnp.maximum(value, 0.0)
        least = jnp.where(self.observation[:, 1] == LATER, LEAST, LEAST * _SLACK / self.top)
        return positive * positive**2 / (positive**2 + noise**2) + least

    def mixed(self, lapse: Any, density: Any) -> Any:
        """With a share of what is due to something else."""
        times, kinds = self.observation[:, 0], self.observation[:, 1]
        low, high = self.window[0], self.window[1]
        uniform = jnp.where((times >= low) & (times <= high), 1.0 / (high - low), 0.0)
        uniform = jnp.where(kinds == EITHER, uniform, uniform / self.walls)
        uniform = jnp.where(kinds == LATER, jnp.clip((high - times) / (high - low), 0.0, 1.0), uniform)
        return (1.0 - lapse) * density + lapse * uniform

    def left_out(self, equation: Any, initial: Any) -> tuple[str, ...]:
        early, squares = map(float, _left_out()(self, equation, initial))
        notes, n = [], self.grid.shape[0]
        if early and float(initial.lapse) == 0:
            few = f"{early:.0f} of {float(self.size):.0f} passages are earlier than the model allows"
            notes.append(f"{few}, and count by the least density that is resolved; give a lapse, or look at those rows")
        if squares > _ROUGH:
            wanted = 2 * int(np.ceil(n / 2 * (4 * squares / _ROUGH) ** 0.25))
            notes.append(
                f"cells are too large: they move the log likelihood by about {squares:.2g}; take {wanted} instead of {n}"
            )
        return tuple(notes)

    def lacking(self, equation: Any, initial: Any) -> tuple[Any, Any]:
        """How many passages come before any density is resolved, and Σ e², e the relative error of second order: what is left of
        it in the fourth is about its square."""
        found, onset = self._passages(equation, initial)
        kinds, after = self.observation[:, 1].astype(int), self.observation[:, 0] - onset.nondecision
        value, noise = at_times(found, kinds, after, self.top)
        real = self.weight > 0
        early = jnp.sum(real & (value <= 10.0 * noise))
        if found.coarse is None:
            return early, jnp.zeros(())
        rough, _ = at_times(found, kinds, after, self.top, coarse=True)
        density = self.mixed(onset.lapse, self._resolved(value, noise))
        apart = (1.0 - onset.lapse) * (value - rough) / density / 3.0
        return early, jnp.sum(jnp.where(real & (value > 10.0 * noise), apart**2, 0.0))

    def _passages(self, equation: Any, initial: Any) -> tuple[Any, Onset]:
        if not isinstance(initial, Onset):
            raise ValueError(
                "passages start from the origin= of their jd.PassageTimes; let the model return the equation alone"
            )
        return passages(equation, self.grid, self.scheme, initial.origin, self.top, self.windows), initial

    def renewed(self, measurement: Measurement, equation: Any, checks: Checks) -> Predictor:
        if self.windows >= _MOST_WINDOWS:
            raise Unplannable("passage times span more than 14 decades; are they all of one unit?")
        return eqx.tree_at(lambda p: p.scheme, self._with_windows(self.windows + 1), self.scheme)

    def _with_windows(self, windows: int) -> PassagePredictor:
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return PassagePredictor(**{**parts, "windows": windows})


@cache
def _left_out() -> Any:
    return quick_jit(PassagePredictor.lacking)


def _windows_for(times: np.ndarray, nondecision: Any, top: float) -> int:
    """Contours for times of passages; a start that is fitted is looked at where it comes to matter."""
    after = times - (float(nondecision) if isinstance(nondecision, np.ndarray) else 0.0)
    after = after[after > 0]
    least = after.min() if len(after) else top
    return int(np.clip(np.ceil(np.log(top / least) / np.log(SPAN)), 2, _MOST_WINDOWS))


def _origin(grid: Grid, origin: Any) -> Any:
    if isinstance(origin, str):
        return Named(origin)
    origin = numeric(origin)
    if callable(origin) or isinstance(origin, eqx.Module):
        where = plain(origin)
        if not isinstance(where, np.ndarray):
            return origin
    else:
        where = origin
    if np.shape(where) != ():
        raise ValueError(
            f"origin must be one place, or a density as a callable of position, got shape {np.shape(where)}"
        )
    grid.require_inside(np.reshape(where, 1), "origin")
    return origin


def _number(value: Any, what: str) -> Any:
    """A number, a mark, or the name of a parameter."""
    if isinstance(value, str):
        return Named(value)
    found = value if marked(value) else numbers(value, what)
    if np.shape(plain(found)) != ():
        raise ValueError(f"{what} must be one number, got shape {np.shape(plain(found))}")
    return found


def _kinds(grid: Grid, count: int, sides: Any, censored: Any) -> np.ndarray:
    late = np.zeros(count, bool) if censored is None else np.asarray(censored)
    if late.shape != (count,) or late.dtype.kind not in "biuf" or not np.isin(late, (0, 1)).all():
        raise ValueError(f"censored must be True or False for each of {count} times, got {np.shape(censored)}")
    kinds = np.full(count, EITHER)
    if sides is not None:
        given = [sides] * count if isinstance(sides, str) else list(sides)
        if len(given) != count:
            raise ValueError(f"sides must be one for each of {count} times, got {len(given)}")
        known = {name: kind for kind, name in enumerate(grid.sides)}
        for i, side in enumerate(given):
            if side is None or (isinstance(side, float) and np.isnan(side)) or side == "":
                continue
            if not isinstance(side, str) or side not in known:
                both = " or ".join(map(repr, known))
                raise ValueError(f"a side is {both}, or None where it is not known, got {side!r} in row {i}")
            kinds[i] = known[side]
    return np.where(late == 1, LATER, kinds)


def _window(window: Any, times: np.ndarray) -> tuple[float, float]:
    given = numbers(times.max() if window is None else window, "window")
    ends = (0.0, float(given)) if given.shape == () else tuple(map(float, given.ravel()))
    if len(ends) != 2 or not (np.isfinite(ends).all() and 0 <= ends[0] < ends[1]):
        raise ValueError(f"window must be the longest time of a lapse, or (from, to), got {window!r}")
    return ends
