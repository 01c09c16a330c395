"""Times of first passage, and through which wall: decisions, escapes, failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import numpy as np

from jaxdiff.integration.options import AUTOMATIC, SECOND_ORDER, SolverOptions
from jaxdiff.integration.passage_closed_forms import ByClosedForms, uniform
from jaxdiff.integration.passage_integrals import ByIntegrals, linear
from jaxdiff.integration.passage_steps import BySteps
from jaxdiff.integration.passage_times import EITHER, LATER, ByContours, open_walls, order_that_holds
from jaxdiff.measurements import blocks
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.measurements.passage_predictor import SLACK, Onset, PassagePredictor
from jaxdiff.measurements.predictor import Predictor, padded, require_whole
from jaxdiff.measurements.residuals import Examination
from jaxdiff.measurements.stacks import Redraw, Stack
from jaxdiff.model.grid import Grid
from jaxdiff.parameters import Named, marked, numeric, plain
from jaxdiff.quantities import numbers, refuse, times_as_numbers
from jaxdiff.runtime.compilation import bucket

if TYPE_CHECKING:
    from jaxdiff.measurements import tables
    from jaxdiff.measurements.view import View


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
        spread: the width [time] over which t₀ is spread evenly, g then a mean; at most 2 t₀.
        time_unit, conditions: as in `Readings`.

    origin, nondecision, lapse and spread may be marked, or be texts that name parameters of `fit`, so that several measurements share
    them. Bounds that are fitted, or collapse, are those of `Moving`, whose origin is a place ξ of the grid.

    Without a lapse a time that no passage takes counts as the smallest density that is resolved, some 1e-8 of the peak; a fit says of
    how many it is so.

    Raises:
        ValueError: times that are not above zero, or not above a known t₀ where nothing lapses; another side; a lapse outside [0, 1); an
            origin outside the grid; in `fit`, no wall that absorbs.

    Decisions of a drift v between bounds at ±B, both fitted, of which one in fifty is a guess:

    >>> import jaxdiff as jd
    >>> grid = jd.Grid.uniform((-1.0, 1.0, 100))
    >>> walls = ["x+", "x+", "x-", "x+", "x+", "x-", "x+", "x+"]
    >>> seen = jd.PassageTimes(grid, 0.0, [0.71, 0.46, 0.93, 0.55, 1.32, 0.61, 0.52, 0.84], walls,
    ...                        nondecision=0.3, lapse=0.02, window=2.0)
    >>> model = lambda v, B: jd.FokkerPlanck(v / B, 0.5 / B**2, boundaries=jd.absorbing)
    >>> fit = jd.fit(model, seen, parameters={"v": jd.Free(1.0), "B": jd.Positive(1.0)}, progress=False)
    >>> {name: round(x, 2) for name, x in fit.parameters.items()}
    {'v': 0.86, 'B': 0.75}

    Ratcliff 1978, doi:10.1037/0033-295X.85.2.59; closed forms: Navarro & Fuss 2009, doi:10.1016/j.jmp.2009.02.003.
    """

    family: ClassVar[str] = "density"
    on_cells: ClassVar[bool] = False
    grid: Grid
    initial: Onset
    values: np.ndarray  # (m, 2) times, and of which kind each is: the number of its side, of either, or censored
    window: tuple[float, float] = eqx.field(static=True)
    start: float = eqx.field(static=True)
    longest: float = eqx.field(static=True, default=0.0)  # of the times of other data sets that one predictor serves
    censors: bool = eqx.field(static=True, default=False)  # whether any of them holds censored rows

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
        spread: Any = 0.0,
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
        self.grid, self.conditions, self.start, self.longest = grid, conditions, 0.0, 0.0
        self.values, self.censors = np.stack([times, kinds], axis=1), bool((kinds == LATER).any())
        named = (("nondecision", nondecision), ("lapse", lapse), ("spread", spread))
        self.initial = Onset(_origin(grid, origin), *(_number(value, name) for name, value in named))
        self.window = _window(window, times)
        delay, share, width = self.initial.nondecision, self.initial.lapse, self.initial.spread
        if isinstance(share, np.ndarray) and not 0 <= share < 1:
            raise ValueError(
                f"lapse is the share of passages that are due to something else, within [0, 1), got {share:g}"
            )
        if isinstance(delay, np.ndarray) and not (delay >= 0 and np.isfinite(delay)):
            raise ValueError(f"nondecision must be a time of zero or more, got {delay:g}")
        if isinstance(width, np.ndarray) and not (width >= 0 and np.isfinite(width)):
            raise ValueError(f"spread is the width over which nondecision is spread, zero or more, got {width:g}")
        if isinstance(width, np.ndarray) and isinstance(delay, np.ndarray) and width > 2 * delay:
            raise ValueError(
                f"spread must not exceed twice nondecision, {delay:g}, as no time is negative, got {width:g}"
            )
        if all(isinstance(one, np.ndarray) for one in (delay, share, width)) and share == 0:
            first = float(delay - width / 2)
            refuse(
                (times <= first) & (kinds != LATER),
                lambda i: (
                    f"the time {times[i]:g} in row {i} is not above nondecision, {first:g}; drop that row, or allow a lapse"
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
        spread: Any = 0.0,
        time_unit: str | None = None,
    ) -> Any:
        """Passages from a table, one a row; where columns hold conditions, a list of measurements, one for each different condition.

        Args:
            table: path of a CSV file, a DataFrame, a dictionary of columns, or an open file.
            time, side, censored: names of columns; a side is left empty where it is not known, censored is 1 or 0.
            sides: which wall each entry of the column `side` stands for, {1: "x+", 0: "x-"}; None: it holds the names of walls.
            conditions: columns of what is known of each trial, a list of them or {argument of the model: column or number}.
            grid, origin, nondecision, lapse, window, spread, time_unit: as in `PassageTimes`.

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
            rest = {"nondecision": nondecision, "lapse": lapse, "window": window, "spread": spread}
            walls = passage_tables.walls(frame, side, sides)
            late = None if censored is None else passage_tables.flags(frame, censored)
            whole = cls(grid, origin, moments, walls, late, time_unit=time_unit, **rest)
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

    @property  # type: ignore[misc]  # where others keep a field, a column of values, so that rows are cut in one place
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

    def blocks(self, folds: int, forward: bool) -> np.ndarray:
        if forward:
            return blocks.in_order(len(self.values), folds, "trials")
        return blocks.dealt(np.lexsort((self.times, self.kinds)), folds, "trials")

    def rows(self, kept: np.ndarray) -> PassageTimes:
        return self.under(kept, self.conditions)

    def at(self, times: Any, kinds: Any) -> PassageTimes:
        """The same experiment with other rows, of which a fit predicts log densities, and log survival of kind 3."""
        values = np.stack(np.broadcast_arrays(np.asarray(times, float), kinds), axis=1)
        found = eqx.tree_at(lambda m: m.values, self, values)
        object.__setattr__(found, "initial", self.initial)
        object.__setattr__(found, "conditions", self.conditions)
        object.__setattr__(found, "censors", bool((found.kinds == LATER).any()))
        return found

    def prepare(
        self, equation: Any, initial: Any = None, pad: bool = True, options: SolverOptions = AUTOMATIC
    ) -> Predictor:
        walls, varies = open_walls(equation, self.grid)
        for kind, name in enumerate(self.grid.sides):
            if name not in walls:
                refuse(
                    self.kinds == kind,
                    lambda i, name=name: (
                        f"row {i} left through {name}, a wall that does not absorb; mend boundaries=, or the sides"
                    ),
                )
        if options.scheme.in_modes or options.stepper is not None or options.substeps is not None:
            raise ValueError("passage times take no steps and no modes; leave stepper, substeps and jd.Spectral() out")
        chosen = options.scheme is SECOND_ORDER  # which nobody asked for
        m, kinds = len(self.values), self.kinds
        length = bucket(m) if pad else m
        delay, spread = self.initial.nondecision, self.initial.spread
        after = self.times[kinds != LATER] - (float(delay) if isinstance(delay, np.ndarray) else 0.0)
        longest = float(max(self.times.max(), self.longest))
        top = longest if varies else SLACK * longest
        least = after[after > 0].min(initial=top)
        return PassagePredictor(
            observation=np.concatenate([self.values, np.tile([[self.times.max(), EITHER]], (length - m, 1))]),
            weight=padded(np.ones(m), length),
            size=np.float64(m),
            grid=self.grid,
            top=np.float64(top),
            window=np.array(self.window),
            walls=float(len(walls)),
            scheme=order_that_holds(equation, self.grid) if chosen else options.scheme,
            way=self._way(equation, varies, chosen, least, top),
            spreads=not (isinstance(spread, np.ndarray) and spread == 0),
            known=True,
        )

    def _way(self, equation: Any, varies: bool, chosen: bool, least: float, top: float) -> Any:
        """How passages are found: by closed forms of motion that is the same everywhere, by contours where nothing varies in time, by
        integral equations where they hold, else by steps."""
        origin = plain(self.initial.origin)
        if not varies:
            closed = chosen and uniform(equation, self.grid, origin)
            return ByClosedForms(self.censors) if closed else ByContours.reaching(least, top)
        solvable = not callable(origin) and linear(equation, self.grid)
        return ByIntegrals(ByIntegrals.fewest) if solvable else BySteps(BySteps.fewest)

    def stacked(self, values: np.ndarray) -> Stack:
        require_whole(self, values)
        return Stack(self._serving(values[..., 0].max(), (values[..., 1] == LATER).any()), None, values)

    def joined(self, several: Sequence[Any], initials: Any) -> Stack:
        longest, censors = max(one.times.max() for one in several), any(one.censors for one in several)
        return super().joined([one._serving(longest, censors) for one in several], initials)

    def _serving(self, longest: float, censors: bool) -> PassageTimes:
        """The same, whose predictor serves passages up to then, and censored ones."""
        found = self.at(*self.values.T)
        object.__setattr__(found, "longest", float(longest))
        object.__setattr__(found, "censors", bool(censors))
        return found

    def draw(self, fit: Any, repeats: int, rng: np.random.Generator, how: Redraw) -> np.ndarray:
        from jaxdiff.measurements.passage_curves import drawn

        return drawn(self, fit, repeats, rng, how)

    def examine(self, prediction: Any, jacobian: Any, tau: Any, equation: Any) -> Examination:
        from jaxdiff.measurements.passage_examination import examined

        return examined(self, equation)

    def view(self, fit: Any, held_out: Any = None) -> View:
        from jaxdiff.measurements.passage_view import view

        return view(self, fit)


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
