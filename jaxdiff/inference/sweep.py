"""`sweep`: settings of an optimiser and of a model tried side by side, of which data held out choose the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.inference.fit import as_tuple, checked_count, fit, hold_out, precision, seen_as_fitted
from jaxdiff.inference.lanes import WHOLE, Group, Trainings, differing, grouped
from jaxdiff.inference.levenberg_marquardt import LevenbergMarquardt
from jaxdiff.inference.losses import choose
from jaxdiff.inference.objective import Objective, assemble
from jaxdiff.inference.result import Fit
from jaxdiff.inference.run import MANY, STEPS, Run, on_host
from jaxdiff.inference.settings import arguments_of, check_setting, combinations, options_of, transformation
from jaxdiff.inference.smoothing import splines
from jaxdiff.integration.options import SolverOptions
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.model.equations import Equation
from jaxdiff.reports.text import short, table
from jaxdiff.runtime.progress import Progress
from jaxdiff.simulation.simulate import as_key

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SHARE, LEAST = 4, 3  # one in so many goes on, down to so many
EARLY, FEWEST = 2 / 15, 10  # share of all steps, and steps at least, after which the first settings are left behind


@dataclass(frozen=True)
class Sweep:
    """Settings tried side by side, and what each left of the data held out; it prints itself as a table, the best first.

        best = argmin loss(prediction(θ̂_setting), data held out)

    Attributes:
        settings: of each, {name: value}.
        validation_loss: `(n,)`, on the data held out, where each was left; NaN where the loss left the finite numbers.
        loss: `(n,)`, on the data fitted, at the last step, of a minibatch where these were drawn.
        steps: `(n,)`, how many each was given.
        refit: what fits a setting to all data, or has what was made by it.
        seconds: how long the steps took.
        notes: what a reader must know, in words.

    As `sweep` makes it, where the first of three settings was left behind:

    >>> import jaxdiff as jd, numpy as np
    >>> rates = [{"learning_rate": rate} for rate in (0.001, 0.1, 1.0)]
    >>> left, steps = np.array([9.0, 1.1, 1.4]), np.array([20, 150, 150])
    >>> found = jd.Sweep(tuple(rates), left, 0.9 * left, steps, refit=None)
    >>> found.best, found.order
    ({'learning_rate': 0.1}, array([1, 2, 0]))

    Li et al. 2018, Journal of Machine Learning Research 18(185), 1.
    """

    settings: tuple[dict[str, Any], ...]
    validation_loss: np.ndarray
    loss: np.ndarray
    steps: np.ndarray
    refit: Callable[[dict[str, Any]], Any] = field(repr=False)
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.settings)

    @property
    def order(self) -> np.ndarray:
        """The numbers of the settings, the best first: those that were given most steps before the others."""
        lost = ~np.isfinite(self.validation_loss)
        return np.lexsort((np.where(lost, np.inf, self.validation_loss), -self.steps, lost))

    @property
    def best(self) -> dict[str, Any]:
        """The setting of the least loss on the data held out, of those that were given all steps."""
        return self.settings[self.order[0]]

    @cached_property
    def fit(self) -> Any:
        """The best setting fitted to all data, by as many steps, a `Fit`, computed when first asked for; of trainings, what the
        best one made."""
        return self.refit(self.best)

    def to_frame(self) -> pd.DataFrame:
        """One row a setting, in the order of the grid: values, steps, losses on the data fitted and held out."""
        import pandas as pd

        columns = {name: [one[name] for one in self.settings] for name in self.settings[0]}
        return pd.DataFrame(
            {**columns, "steps": self.steps, "loss": self.loss, "validation loss": self.validation_loss}
        )

    def summary(self) -> str:
        """The best settings, how many were left behind when, and what there is to say."""
        names = list(self.settings[0])
        told = {"loss": self.loss, "validation loss": self.validation_loss}
        told = {name: losses for name, losses in told.items() if np.isfinite(losses).any()}
        rows = [(*names, "steps", *told)]
        for i in self.order[:12]:
            values = (_told(self.settings[i][name]) for name in names)
            rows.append((*values, str(self.steps[i]), *(f"{losses[i]:.6g}" for losses in told.values())))
        distinct, counts = np.unique(self.steps, return_counts=True)
        ends = ", ".join(f"{count} after {step} steps" for step, count in zip(distinct, counts, strict=True))
        lines = [table(rows, header=True), "", f"{len(self)} settings in {short(self.seconds)} s; ended {ends}"]
        best = ", ".join(f"{name} = {_told(value)}" for name, value in self.best.items())
        return "\n".join([*lines, f"best: {best}", *(f"note: {note}" for note in self.notes)])

    __str__ = summary
    __repr__ = summary

    def plot(self) -> Figure:
        """Draw the loss on the data held out over each of the options.

        Returns:
            A matplotlib figure.
        """
        from jaxdiff.reports import selection

        return selection.sweep(self)


@on_host
def sweep(
    model: Equation | Callable[..., Any],
    measurements: Measurement | Sequence[Measurement] | None,
    grid: Mapping[str, Sequence[Any]],
    *,
    validation: float | Measurement | list[Measurement] = 0.2,
    halving: bool = True,
    parameters: Mapping[str, Any] | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    optimizer: str = "adam",
    learning_rate: float = 0.01,
    steps: int = 150,
    batch_size: int | None = None,
    key: Any = None,
    scheme: Any = None,
    stepper: Any = None,
    substeps: int | None = None,
    tolerance: float | None = None,
    dtype: Any = None,
    progress: bool = True,
) -> Sweep:
    """Try all combinations of settings side by side, and refit the best to all data.

        best = argmin loss(prediction(θ̂_setting), data held out)

    Args:
        model: as in `fit`; or, where `parameters` is None, a function of options of the grid that returns a marked equation, such
            as `lambda width, depth: jd.FokkerPlanck(jd.MLP(width, depth, key=key), jd.Positive(1.0))`. A function of
            parameters may take options of the grid besides. Where `measurements` is None, a training of its own:
            `train(steps=, **options) → (loss on data held out, what it made)`, called anew for each number of steps.
        measurements, parameters, loss, key, scheme, stepper, substeps, tolerance, dtype, progress: as in `fit`.
        grid: {option: values}: "learning_rate", "batch_size" (None: all rows), "optimizer" (names), other options of the
            optimiser, such as "weight_decay", and arguments of the model function, such as "width" and "depth".
        validation: what is held out, as in `fit`; its loss is the judge.
        halving: leave settings behind early: of 48 all take 20 of 150 steps, the best 12 take 55, the best 3 all. False: all take all.
        optimizer: a name of optax, "adam", "adamw", "sgd", …, that takes a learning rate.
        learning_rate, batch_size: where the grid does not say.
        steps: of each setting that goes on to the end.

    Settings whose problems have the same shapes are one batch and one compiled program; others, such as networks of another
    width, are compiled each by itself.

    Returns:
        `Sweep`: `.best`, `.fit`, a table and a picture.

    Raises:
        ValueError: an option that nothing takes, no values, all settings diverged, or as `fit`.
        TypeError: arguments of the wrong kind.

    >>> import jax, jaxdiff as jd, numpy as np
    >>> cells, times = jd.Grid.uniform((0.0, 1.0, 8)), np.linspace(0.1, 2.0, 20)
    >>> readings = jd.Readings(cells, 1.0, times, np.full(20, 0.5), np.exp(-0.5 * times), sigma=0.01)
    >>> grid = {"learning_rate": [1e-3, 0.1], "batch_size": [5, None]}
    >>> found = jd.sweep(jd.Diffusion(1.0, decay=jd.Positive(1.0)), readings, grid, steps=60, progress=False)
    >>> round(found.fit.parameters["decay"], 2)
    0.5

    Successive halving: Jamieson & Talwalkar 2016, https://proceedings.mlr.press/v51/jamieson16.html.
    """
    values, settings = combinations(grid)
    if measurements is None:
        return _trained(model, settings, checked_count(steps, "steps") or 0, halving, progress)
    steps, batch_size = checked_count(steps, "steps") or 0, checked_count(batch_size, "batch_size")
    fixed = {"optimizer": optimizer, "learning_rate": learning_rate, "batch_size": batch_size}
    known = options_of([*values.get("optimizer", []), *([] if "optimizer" in values else [optimizer])], values)
    of_model = arguments_of(model, parameters, values, known)
    for one in settings:
        check_setting(one)
    check_setting(fixed)
    measured = as_tuple(measurements, "measurements")
    again = {"scheme": scheme, "stepper": stepper, "substeps": substeps, "tolerance": tolerance}
    with precision(dtype):
        trained, held_out = hold_out(measured, validation)
        if not held_out:
            raise ValueError("the judge of a sweep is data held out, got none; pass validation=0.2 or measurements")
        made: dict[Any, tuple[Run, Run]] = {}
        each = [tuple(one[name] for name in of_model) for one in settings]
        batched = "batch_size" in values or batch_size is not None
        for own in each:
            if (where := _hashed(own)) not in made:
                of = partial(_prepared, trained, held_out, loss, SolverOptions(**again), batched)
                made[where] = of(*_built(model, parameters, dict(zip(of_model, own, strict=True))))
        groups = _groups(settings, [made[_hashed(own)] for own in each], fixed, known, steps, batched, key)
        found = _raced(groups, len(settings), steps, halving, progress)
    validation_loss, losses, given, seconds, notes = found
    if not np.isfinite(validation_loss).any():
        raise ValueError(
            f"the loss of all {len(settings)} settings left the finite numbers; take smaller learning rates, or start elsewhere"
        )

    def refit(setting: dict[str, Any]) -> Fit:
        """A setting fitted to all data."""
        chosen = {**fixed, **setting}
        made, starts = _built(model, parameters, {name: setting[name] for name in of_model})
        return fit(
            made, list(measured), parameters=starts, loss=loss, optimizer=transformation(chosen, known), steps=steps,
            batch_size=chosen["batch_size"], key=key, dtype=dtype, progress=progress, **again,
        )  # fmt: skip

    return Sweep(tuple(settings), validation_loss, losses, given, refit, seconds, notes)


def _trained(train: Any, settings: list[dict[str, Any]], steps: int, halving: bool, progress: bool) -> Sweep:
    if isinstance(train, Equation) or not callable(train):
        raise TypeError(f"without measurements the model must be a training of its own, got {type(train).__name__}")
    group = Trainings(train, settings)
    validation_loss, loss, given, seconds, notes = _raced([group], len(settings), steps, halving, progress)
    if not np.isfinite(validation_loss).any():
        raise ValueError(
            f"none of {len(settings)} settings could be trained: {group.refused or 'their losses are NaN'}"
        )
    notes += (f"the first that failed: {group.refused}",) if group.refused else ()
    made = lambda setting: group.made[settings.index(setting)]
    return Sweep(tuple(settings), validation_loss, loss, given, made, seconds, notes)


def _built(model: Any, parameters: Any, own: dict[str, Any]) -> tuple[Any, Any]:
    """(the model for these options, the starts of its parameters), as `fit` takes them."""
    if isinstance(model, Equation) or not own:
        return model, parameters
    if parameters is not None:
        return partial(model, **own), parameters
    built = model(**own)
    if not isinstance(built, Equation):
        raise TypeError(
            f"a model function without parameters= must return an equation with marks, got {type(built).__name__}"
        )
    return built, None


def _prepared(
    trained: Any, held_out: Any, loss: Any, options: SolverOptions, batched: bool, model: Any, starts: Any
) -> tuple[Run, Run]:
    """The problems of the data fitted and of those held out, prepared at the start."""
    fitted, function, sources, held_out_sources = assemble(model, starts, trained, held_out)
    losses = choose(loss, trained)
    if batched and not all(one.weighted for one in losses):
        raise ValueError(
            "minibatches of a sweep leave out rows by their weight, and your own loss counts all; leave out batch_size"
        )
    run = Run(Objective(function, losses, *sources), fitted, trained, options, Progress(False))
    if any(splines(run.at(run.start))):
        raise ValueError("a sweep does not weigh the roughness of smooth splines; leave smooth away, or call jd.fit")
    kind, scale = np.asarray(fitted.transform.kind), np.asarray(fitted.transform.scale)
    if ((np.asarray(fitted.start) == 0) & (kind == 0) & (scale == 1.0)).any() and fitted.count <= MANY:
        run.rescale(run.first(LevenbergMarquardt(), STEPS).here)
    rough = run.rough(run.start)
    run.start = run.start if rough is None else rough
    run.prepare(run.start)
    held_out = seen_as_fitted(run, held_out)
    others = choose(loss if loss is not None or len(trained) == 1 else losses[0], held_out)
    judge = Run(Objective(function, others, *held_out_sources), run.parameters, held_out, options, Progress(False))
    judge.prepare(run.start)
    if batched:
        run.predictors = tuple(one.by_rows() for one in run.predictors)
    return run, judge


def _groups(
    settings: list[dict[str, Any]], runs: list[tuple[Run, Run]], fixed: dict[str, Any], known: tuple[str, ...],
    steps: int, batched: bool, key: Any,
) -> list[Group]:  # fmt: skip
    """Settings by the programs that serve them."""
    import jax.numpy

    key = as_key(0 if key is None else key)
    chosen = [{**fixed, **one} for one in settings]
    found = []
    for name in dict.fromkeys(one["optimizer"] for one in chosen):
        mine = [i for i, one in enumerate(chosen) if one["optimizer"] == name]
        pairs = [(runs[i][0].problem, runs[i][1].problem) for i in mine]
        for places in grouped(pairs).values():
            which, first = np.array([mine[i] for i in places]), runs[mine[places[0]]]
            options = {o: np.array([chosen[i][o] for i in which], float) for o in known if o in chosen[which[0]]}
            sizes = np.array([chosen[i]["batch_size"] or WHOLE for i in which])
            run = first[0]
            unit = sum(loss.unit(m) for m, loss in zip(run.measurements, run.objective.losses, strict=True))
            start = np.stack([np.asarray(runs[i][0].start, float) for i in which])
            start = start.astype(jax.numpy.result_type(float))
            leaves = differing([pairs[i] for i in places])
            found.append(Group(name, first, leaves, which, options, sizes, start, unit, key, steps, batched))
    return found


def _raced(
    groups: Sequence[Group | Trainings], count: int, steps: int, halving: bool, progress: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, tuple[str, ...]]:
    """(validation losses, losses, steps, seconds, notes), with settings left behind on the way where `halving`."""
    import time

    rungs = _rungs(count, steps) if halving else [(count, steps)]
    validation, losses, given = np.full(count, np.nan), np.full(count, np.nan), np.zeros(count, int)
    notes: tuple[str, ...] = ()
    left, bar, began = np.arange(count), Progress(progress, "rung", "sweep"), time.perf_counter()
    try:
        for k, (most, until) in enumerate(rungs):
            if len(left) > most:
                left = left[np.argsort(np.nan_to_num(validation[left], nan=np.inf), kind="stable")[:most]]
            for group in groups:
                going = np.flatnonzero(np.isin(group.which, left))
                if len(going):
                    group.advance(going, until)
                    mine = group.which[going]
                    validation[mine], losses[mine] = group.lanes.validation[going], group.unit * group.lanes.loss[going]
                    validation[mine[group.lanes.stopped[going]]] = np.nan
                    given[mine] = until
            bar.show(k + 1, len(rungs))
    except KeyboardInterrupt:
        if not np.isfinite(validation).any():
            raise
        notes = (f"interrupted: {int((given < steps).sum())} of {count} settings have not taken all steps",)
    finally:
        bar.close()
    if lost := int((np.isnan(validation) & (given > 0)).sum()):
        notes += (f"{lost} of {count} settings left the finite numbers, or what the solver follows",)
    return validation, losses, given, time.perf_counter() - began, notes


def _rungs(count: int, steps: int) -> list[tuple[int, int]]:
    """[(settings, steps), …]: 48 at 20, 12 at 55, 3 at 150."""
    sizes = [count]
    while sizes[-1] > LEAST:
        sizes.append(max(-(-sizes[-1] // SHARE), LEAST))
    if len(sizes) == 1:
        return [(count, steps)]
    early = min(max(EARLY, FEWEST / steps), 1.0)
    ends = np.round(steps * early ** np.linspace(1, 0, len(sizes))).astype(int)
    return [(size, int(end)) for size, end in zip(sizes, ends, strict=True)]


def _hashed(values: tuple[Any, ...]) -> Any:
    def key(one: Any) -> Any:
        if isinstance(one, (int, float, str, bool, type(None))):
            return type(one).__name__, one
        return (one.shape, str(one.dtype), one.tobytes()) if isinstance(one, np.ndarray) else id(one)

    return tuple(map(key, values))


def _told(value: Any) -> str:
    return "all" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
