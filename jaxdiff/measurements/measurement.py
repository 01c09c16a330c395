"""The base of measurements: what was measured, and how a model predicts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax
import numpy as np

from jaxdiff.integration.options import AUTOMATIC, SolverOptions
from jaxdiff.measurements import blocks
from jaxdiff.measurements.predictor import Predictor, ReadPredictor, filled, require_whole
from jaxdiff.measurements.residuals import Examination
from jaxdiff.measurements.stacks import Alone, Redraw, Stack, apart, with_noise
from jaxdiff.measurements.states_at_times import check_initial, check_times, states_at_times
from jaxdiff.model.exchange import checked_phase
from jaxdiff.parameters import marked, numeric

if TYPE_CHECKING:
    from jaxdiff.measurements.view import View

FAMILIES = ("gaussian", "multinomial", "density", "samples")


class Measurement(eqx.Module):
    """What was measured: data, and how a model predicts them. A base to write kinds of your own.

        states uᵢ at the times tᵢ  →  read(u)  →  the loss of `family`

    A kind that sees the states of a model at certain times is a subclass with the fields

    - grid, initial, start: where the model is solved, and the state (a number, an array over cells, a callable of position,
      or None) at the time `start`;
    - times: (m,) [time] of each row, inf is the steady state; values: (m, …) the data;

    with a `family`, and with `read`. It is then fitted, drawn, reported, split for validation, and fitted from many starts;
    with `draw` it is bootstrapped too. All other methods have defaults. A kind that is predicted otherwise writes `prepare`.

    family: "gaussian", `read` gives what `values` (m,) are of, with normal noise: of standard deviation `sigma`, if it has
    such a field, else unknown and estimated from the residuals; "multinomial", masses of bins (m, bins), of which `values`
    are the shares, without error bars unless `known` and `noise` say how many were counted;
    "density", the log density (m,) of the values.
    conditions: a keyword of every kind, {argument of the model function: what is known of it in this experiment}.
    phase: a keyword of every kind that sees states of an equation with `Exchange`: "total", 0 for what moves, 1, 2, … for the
    phases.

    Raises:
        TypeError: a kind without one of these families.
        ValueError: a value is missing for a time, or an initial state that is not finite or of another shape.

    >>> import jax.numpy as jnp, jaxdiff as jd, numpy as np
    >>> class Total(jd.Measurement):
    ...     family = "gaussian"
    ...     grid: jd.Grid
    ...     initial: object
    ...     times: np.ndarray
    ...     values: np.ndarray
    ...     sigma: np.ndarray
    ...     start: float = 0.0
    ...
    ...     def read(self, states):
    ...         return states @ self.grid.volumes
    >>> times = np.linspace(0.1, 1.0, 9)
    >>> total = Total(jd.Grid.uniform((0.0, 1.0, 20)), np.ones(20), times, np.exp(-0.7 * times), np.full(9, 0.01))
    >>> found = jd.fit(jd.Diffusion(1.0, decay=jd.Positive(2.0)), total, progress=False)
    >>> round(found.parameters["decay"], 3), found.standard_errors["decay"] < 0.02
    (0.7, True)
    """

    family: ClassVar[str]
    on_cells: ClassVar[bool] = True  # a prediction is read off the states on a grid
    discretised: ClassVar[bool] = (
        True  # the model is solved on the cells of `grid`; all but paths, which are no batch either
    )
    has_residuals: ClassVar[bool] = False  # rows with normal noise at `times` and `positions`, as of readings
    conditions: Any = eqx.field(default=None, kw_only=True)  # {argument of the model: what is known of it}
    phase: Any = eqx.field(default="total", static=True, kw_only=True)  # of an equation with exchange
    if TYPE_CHECKING:
        grid: Any
        initial: Any
        times: Any
        start: float

        @property
        def values(self) -> Any: ...

    def __check_init__(self) -> None:
        if getattr(self, "family", None) not in FAMILIES:
            kinds = " or ".join(map(repr, FAMILIES[:3]))
            raise TypeError(f"a measurement needs family = {kinds}, got {type(self).__name__} without one of them")
        object.__setattr__(self, "conditions", checked_conditions(self.conditions))
        object.__setattr__(self, "phase", checked_phase(self.phase))
        if not self.on_cells:
            return
        if missing := [name for name in ("grid", "initial", "times", "values", "start") if not hasattr(self, name)]:
            raise TypeError(f"{type(self).__name__} needs the field {missing[0]}")
        object.__setattr__(self, "initial", numeric(self.initial))
        check_initial(self.initial, self.grid)
        if np.ndim(self.times) != 1 or np.shape(self.values)[:1] != np.shape(self.times):
            shapes = f"{np.shape(self.values)} and {np.shape(self.times)}"
            raise ValueError(f"values must have a row for each of the times, got shapes {shapes}")
        check_times(np.asarray(self.times), self.start)

    # Which experiment it is

    def belongs_to(self, other: Measurement) -> bool:
        """Whether this is that measurement, or a part of it."""
        return self is other

    def with_sensors_of(self, others: Sequence[Any]) -> Measurement:
        """The same with sensors counted as in what was fitted."""
        return self

    def with_start(self, initial: Any) -> Measurement:
        """The same from another initial state, such as what a fit has made of it, where tests need that; the default, itself."""
        return self

    # What a fit needs

    def prepare(
        self, equation: Any, initial: Any = None, pad: bool = True, options: SolverOptions = AUTOMATIC
    ) -> Predictor:
        """A predictor by plans that suit this equation, whose coefficients are numbers; on the host.

        initial: the state at the start, None for that of the model; pad: whether rows may be added that count for nothing
        """
        require_whole(self, self.values)
        states, row = states_at_times(self, equation, initial, options)
        return ReadPredictor(
            known=self.known,
            observation=np.asarray(self.values, float),
            size=np.float64(len(self.values)),
            states_at_times=states,
            row=row,
            measurement=filled(self, None, None, None),
            **self.noise(),
        )

    def read(self, states: Any) -> Any:
        """What is predicted for each row (m, …) from the state at its time, states (m, *cells); traceable."""
        raise TypeError(f"{type(self).__name__} needs read(states), or prepare")

    def rough(self) -> Predictor | None:
        """A crude predictor that knows where to start, by means and variances `euler` of steps; None: there is none."""
        return None

    def noise(self) -> dict[str, Any]:
        """The weight of each row, 1/sigma² or how many were counted, and what a likelihood needs besides: the constant
        Σ log sigma, and no correlation with the row before."""
        count, sigma = len(self.values), getattr(self, "sigma", None)
        scale = np.asarray(1.0 if sigma is None else sigma, float)
        if scale.shape not in ((), (count,)) or not np.all((scale > 0) & np.isfinite(scale)):
            got = np.min(scale, initial=np.inf) if scale.shape in ((), (count,)) else f"shape {scale.shape}"
            raise ValueError(f"sigma must be positive, one number or {count}, one a row, got {got}")
        weight = np.broadcast_to(scale**-2.0, count)
        independent = {"last": np.full(count, -1), "carry": np.zeros(count)}
        return {"weight": weight, "constant": np.float64(-0.5 * np.log(weight).sum()), **independent}

    @property
    def known(self) -> bool:
        """Whether the data carry their noise: numbers by `sigma`, log densities by themselves; masses of bins only where a
        kind says how many were counted, here and in `noise`."""
        return self.family == "density" or (self.family == "gaussian" and getattr(self, "sigma", None) is not None)

    @property
    def unknown(self) -> int:
        """How many values have a variance that is to be estimated from the residuals."""
        return 0 if self.known else len(self.values)

    @property
    def count(self) -> int:
        """How many independent data there are."""
        return len(self.values)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of a fit must know of the data, in words."""
        return ()

    # What is held out

    def split(self, fraction: float) -> tuple[Measurement, Measurement]:
        """(first, last) part in time; rows of one single time are held out evenly instead."""
        distinct = np.unique(self.times)
        if len(distinct) > 1:
            held_out = self.times > np.quantile(self.times, 1 - fraction, method="lower")
            held_out = held_out if held_out.any() else self.times == distinct[-1]
        else:
            count = max(1, round(fraction * len(self.times)))
            held_out = np.zeros(len(self.times), bool)
            held_out[np.linspace(0, len(held_out) - 1, count + 2).astype(int)[1:-1]] = True
        if held_out.all():
            raise ValueError(
                f"validation={fraction:g} leaves no reading to fit, got {len(held_out)} in all; hold out less"
            )
        return self.rows(~held_out), self.rows(held_out)

    def blocks(self, folds: int, forward: bool) -> np.ndarray:
        """Which of so many blocks each of the rows that `rows` takes belongs to, 0 … folds − 1: what is held out together.

        Neighbours in time; of one single time neighbours in place. forward: earlier blocks are earlier in time
        """
        if len(np.unique(self.times)) > 1 or forward:
            return blocks.by_time(self.times, folds)
        places = np.reshape(getattr(self, "positions", np.arange(len(self.times))), (len(self.times), -1))
        block = np.empty(len(places), int)
        block[np.lexsort(places.T[::-1])] = blocks.in_order(len(places), folds, "readings")
        return block

    def parts(self, kept: Sequence[np.ndarray]) -> Stack:
        """The rows of each mask (m,) as a data set of its own."""
        sets = [self.rows(one) for one in kept]
        try:
            return apart(sets, self.alone) if self.alone is not None else sets[0].joined(sets, None)
        except Alone as error:
            return apart(sets, str(error))

    def rows(self, kept: np.ndarray) -> Measurement:
        """Only these rows, of each field that has one for each time."""
        parts = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("grid", "initial")}
        names = [name for name, part in parts.items() if np.shape(part)[:1] == np.shape(self.times)]
        return eqx.tree_at(lambda m: [getattr(m, name) for name in names], self, [parts[name][kept] for name in names])

    # Many data sets of one kind

    def stacked(self, values: np.ndarray) -> Stack:
        """Many data sets (B, *values.shape) that differ from this one in their values alone."""
        require_whole(self, values)
        return Stack(self, None, values)

    def with_values(self, values: np.ndarray) -> Measurement:
        """One of this design with other values; what is marked stays one and the same."""
        return self.stacked(np.asarray(values)[None])[0]

    def joined(self, several: Sequence[Any], initials: Any) -> Stack:
        """Many measurements of this kind, this one the first; initials: the initial state of each, None if all share one. Raises
        `Alone` where they make no batch."""
        bare = [filled(one, None, None, np.shape(one.values)) for one in several]
        for i, one in enumerate(bare):
            if not eqx.tree_equal(one, bare[0]):
                raise Alone(f"data sets that differ in more than values, as number {i} from the first,")
        return Stack(self, initials, np.stack([one.values for one in several]))

    def repeated(self, count: int) -> Stack:
        """This data set many times."""
        return self.stacked(np.broadcast_to(self.values, (count, *self.values.shape)))

    def redrawn(self, values: Any) -> Stack:
        """Data sets of the values (B, …) that `draw` gave, or of whatever it gave."""
        return replace(self.stacked(self.values[None]), values=values)

    @property
    def alone(self) -> str | None:
        """What of this kind is fitted one after the other, not as one batch, in words; None: nothing."""
        return None

    def draw(self, fit: Any, repeats: int, rng: np.random.Generator, how: Redraw) -> np.ndarray:
        """Values drawn anew, (repeats, *values.shape), for the bootstrap; the default, with normal noise about a prediction.

        fit: which predicts, fit.predict(measurement); how.kind: "parametric" from the model, "residual" from the data;
        how.inflation, how.tau: of noise, see `Redraw`
        """
        if self.family != "gaussian":
            raise TypeError(f"{type(self).__name__} has no draw(fit, repeats, rng, how), by which data are drawn anew")
        return with_noise(self, fit.predict(self), repeats, rng, how)

    # What is said of it

    def residuals(self, prediction: Any) -> np.ndarray:
        """What a prediction leaves of the values, over sigma where there is one."""
        sigma = getattr(self, "sigma", None)
        return (self.values - prediction) / (1.0 if sigma is None else sigma)

    def examine(self, prediction: Any, jacobian: Any, tau: Any, equation: Any) -> Examination:
        """Tests of what a fit leaves, which tell whether the model describes the data; the default has none.

        prediction, jacobian: at the optimum, (m, …) and (m, …, p), None where the prediction is a log density; tau:
        correlation time of the noise at each row, None for none; equation: the fitted one
        """
        return Examination(f"there are no tests of {type(self).__name__}")

    def view(self, fit: Any, held_out: Any = None) -> View:
        """What the page, the pictures and the tables of a fit say; held_out: the part held out, None for none.

        The default: data against prediction; of log densities their sum, and how they are distributed.
        """
        from jaxdiff.measurements.view import compared, log_densities

        return (log_densities if self.family == "density" else compared)(self, fit)


def checked_conditions(conditions: Any) -> Any:
    """Known numbers and courses of one experiment as arrays and modules; whole numbers, which may be indices, stay whole."""
    if conditions is None:
        return None
    if not isinstance(conditions, Mapping) or not all(isinstance(name, str) for name in conditions):
        raise TypeError(f"conditions must be {{argument of the model: number}}, got {type(conditions).__name__}")
    found = {name: _condition(name, one) for name, one in conditions.items()}
    kept = isinstance(conditions, dict) and all(found[name] is one for name, one in conditions.items())
    return conditions if kept else found  # the same object wherever it goes: by that experiments are told apart


def _condition(name: str, given: Any) -> Any:
    if marked(given):
        raise ValueError(f"the condition {name} is marked, and conditions are known; put it into parameters=")
    array = (
        np.asarray(given) if isinstance(given, (int, float, list, tuple, np.ndarray, np.generic, jax.Array)) else None
    )
    if array is None or array.dtype.kind not in "iuf":
        return numeric(given)
    if not np.isfinite(array).all():
        raise ValueError(f"the condition {name} must be finite, got {array}; leave that experiment out")
    index = array.dtype.kind != "f" and (np.abs(array.astype(float)) < 2**15).all()  # powers of larger ones overflow
    return array.astype(np.int64 if index else np.float64, copy=False)
