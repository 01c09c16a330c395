"""`cross_validate`: fits of parts of the data, scored on the parts that they have not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxdiff.inference.batch import CONVERGED, FAILED, STATUS, Batch, BatchData
from jaxdiff.inference.descend import SEARCHES, WALKS, descend
from jaxdiff.inference.fit import as_tuple, checked_optimizer, precision
from jaxdiff.inference.gradient_descent import Descent, checked_count
from jaxdiff.inference.levenberg_marquardt import LevenbergMarquardt
from jaxdiff.inference.loss import Loss
from jaxdiff.inference.losses import choose, mse, negative_log_likelihood
from jaxdiff.inference.objective import Objective, assemble, start_vector
from jaxdiff.inference.run import FEW, STEPS, Run, SearchResult, on_host
from jaxdiff.inference.sequential import Sequential, together
from jaxdiff.inference.smoothing import splines
from jaxdiff.integration.options import SolverOptions
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.measurements.stacks import Stack
from jaxdiff.model.equations import Equation
from jaxdiff.parameters import Parameters
from jaxdiff.reports.text import short, table
from jaxdiff.runtime.checkpoints import digest
from jaxdiff.runtime.devices import choose as chosen
from jaxdiff.runtime.progress import Progress

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LIKELIHOOD = "−ln L"  # the score where there is one


@dataclass(frozen=True)
class CrossValidation:
    """What fits of parts of the data say of the parts that they have not seen; it prints itself as a table.

        score_f = −ln p(block f | θ̂ of the others),  mean ± s/√folds

    Attributes:
        scores: `(folds,)`, of each block held out; NaN where its fit failed.
        seen: `(folds,)`, the same of the data that were fitted, for as many data.
        counts: `(folds,)`, how many independent data each block holds; of densities, how many times.
        score_name: what the score is, "−ln L" or the name of the loss.
        x: `(folds, p)`, the estimates of each fold.
        fitted: names and transforms of what was fitted.
        converged: `(folds,)`, whether each fit reached its optimum.
        forward: whether each block is scored by fits of earlier ones alone.
        data: by which results of the same data and blocks are known.
        notes: what a reader must know, in words.

    >>> import jaxdiff as jd, numpy as np
    >>> grid, times = jd.Grid.uniform((0.0, 1.0, 8)), np.linspace(0.1, 2.0, 20)
    >>> noise = 0.01 * np.random.default_rng(1).normal(size=20)
    >>> readings = jd.Readings(grid, 1.0, times, np.full(20, 0.5), np.exp(-0.5 * times) + noise, sigma=0.01)
    >>> found = jd.cross_validate(jd.Diffusion(1.0, decay=jd.Positive(1.0)), readings, folds=4, progress=False)
    >>> found.counts.tolist(), found.parameters["decay"].round(1).tolist()
    ([5, 5, 5, 5], [0.5, 0.5, 0.5, 0.5])

    Stone 1974, doi:10.1111/j.2517-6161.1974.tb00994.x.
    """

    scores: np.ndarray
    seen: np.ndarray
    counts: np.ndarray
    score_name: str
    x: np.ndarray = field(repr=False)
    fitted: Parameters = field(repr=False)
    converged: np.ndarray
    forward: bool
    data: str = field(repr=False)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """{name: (folds, …)}, the estimates of each fold."""
        return self.fitted.split(self.x)

    @property
    def per_datum(self) -> tuple[np.ndarray, np.ndarray]:
        """(scores, the same of the data fitted), (folds,), over the number of data where the score is a sum over them."""
        each = self.counts if self.score_name == LIKELIHOOD else 1
        return self.scores / each, self.seen / each

    @property
    def total(self) -> float:
        """The sum of the scores: of −ln L, to be held against half of AIC."""
        return float(np.sum(self.scores))

    @property
    def mean(self) -> float:
        """Of the scores."""
        return float(np.mean(self.scores))

    @property
    def standard_error(self) -> float:
        """Of the mean, from the scatter of the scores."""
        return float(np.std(self.scores, ddof=1) / np.sqrt(len(self.scores))) if len(self.scores) > 1 else np.nan

    def difference(self, other: CrossValidation) -> tuple[float, float]:
        """(mean of this score less the other's, its standard error), block by block; negative where this one is better.

        Raises ValueError where data, blocks or scores are not the same.
        """
        if not isinstance(other, CrossValidation):
            raise TypeError(f"a cross-validation is compared with another, got {type(other).__name__}")
        if self.data != other.data or self.score_name != other.score_name:
            what = "data or folds" if self.data != other.data else f"scores, {self.score_name} and {other.score_name}"
            raise ValueError(f"cross-validations of other {what} cannot be compared; take the same for both")
        apart = self.scores - other.scores
        error = np.std(apart, ddof=1) / np.sqrt(len(apart)) if len(apart) > 1 else np.nan
        return float(np.mean(apart)), float(error)

    def to_frame(self) -> pd.DataFrame:
        """One row a fold: the score, how many data it is of, the score per datum of what was fitted, and the estimates."""
        import pandas as pd

        columns: dict[str, Any] = {"score": self.scores, "count": self.counts, "seen": self.seen}
        columns |= {label: self.x[:, k] for k, label in enumerate(self.fitted.labels)}
        index = pd.RangeIndex(1, len(self) + 1, name="fold")
        return pd.DataFrame({**columns, "converged": self.converged}, index=index)

    def summary(self) -> str:
        """The score of each fold, their mean with its error, and what there is to say."""
        rows = [("fold", self.score_name, "data", "per datum", "of those fitted", *self.fitted.labels[:4])]
        for i, (score, count) in enumerate(zip(self.scores, self.counts, strict=True)):
            numbers = (self.per_datum[0][i], self.per_datum[1][i], *self.x[i, :4])
            rows.append((str(i + 1), f"{score:.6g}", str(count), *(f"{one:.4g}" for one in numbers)))
        how = "each block by the earlier ones" if self.forward else "each block by the others"
        ends = (
            f"{self.score_name} {self.mean:.6g} ± {short(self.standard_error)} a fold, {self.total:.6g} in all; {how}"
        )
        return "\n".join([table(rows, header=True), "", ends, *(f"note: {note}" for note in self.notes)])

    __str__ = summary
    __repr__ = summary

    def plot(self) -> Figure:
        """Draw the score per datum of each fold, beside that of what was fitted.

        Returns:
            A matplotlib figure.
        """
        from jaxdiff.reports import selection

        return selection.cross_validation(self)


@on_host
def cross_validate(
    model: Equation | Callable[..., Any],
    measurements: Measurement | Sequence[Measurement],
    *,
    folds: int = 5,
    forward: bool = False,
    parameters: Mapping[str, Any] | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    optimizer: Any = None,
    steps: int | None = None,
    batch_size: int | None = None,
    key: Any = None,
    scheme: Any = None,
    stepper: Any = None,
    substeps: int | None = None,
    tolerance: float | None = None,
    dtype: Any = None,
    progress: bool = True,
) -> CrossValidation:
    """Fit parts of the data, and score each fit on a block that it has not seen.

        score_f = −ln p(block f | θ̂ of the others),  f = 1 … folds

    Blocks are neighbours in time, never single rows among their neighbours: readings and histograms by their times, paths by
    their steps (what is left on both sides of a block are paths of their own), tracks with noise as wholes. Individuals and
    passages, each a trial of its own, are dealt out. Of several experiments each is cut so. Without sigma the variance is that of
    the residuals of the data fitted.

    Args:
        model, parameters, loss, optimizer, steps, batch_size, key, scheme, stepper, substeps, tolerance, dtype, progress: as in
            `fit`.
        measurements: one, or several experiments.
        folds: into how many blocks the data are cut.
        forward: fit the blocks before, and score the next one; folds − 1 scores.

    All folds are one batch, by one compiled program, where `fit_many` takes such measurements, else one after the other. The score is
    minus the log likelihood, or the loss where there is none.

    Returns:
        `CrossValidation`.

    Raises:
        ValueError: more folds than there are times, steps, tracks or trials; fits that all fail; or as `fit`.
        TypeError: arguments of the wrong kind.

    >>> import jaxdiff as jd, numpy as np
    >>> grid, times = jd.Grid.uniform((0.0, 1.0, 8)), np.linspace(0.1, 2.0, 20)
    >>> noise = 0.01 * np.random.default_rng(1).normal(size=20)
    >>> readings = jd.Readings(grid, 1.0, times, np.full(20, 0.5), np.exp(-0.5 * times) + noise, sigma=0.01)
    >>> right = jd.cross_validate(jd.Diffusion(1.0, decay=jd.Positive(1.0)), readings, progress=False)
    >>> wrong = jd.cross_validate(jd.Diffusion(1.0, source=jd.Free(-0.1)), readings, progress=False)
    >>> right.difference(wrong)[0] < 0
    True

    Blocks: Roberts et al. 2017, doi:10.1111/ecog.02881; forward in time: Tashman 2000, doi:10.1016/S0169-2070(00)00065-0.
    """
    optimizer, steps = checked_optimizer(optimizer), checked_count(steps, "steps")
    if isinstance(optimizer, Descent) and optimizer.patience is not None:
        raise ValueError("patience would stop a fold by the data that it is scored on; leave it out, and give steps=")
    batch_size, count = checked_count(batch_size, "batch_size"), checked_count(folds, "folds") or 0
    if count < 2:
        raise ValueError(f"folds must be at least two, got {folds}; five are usual")
    measured = as_tuple(measurements, "measurements")
    kept = [_masks(one.blocks(count, bool(forward)), count, bool(forward)) for one in measured]
    scored = len(kept[0]) // 2
    with precision(dtype):
        losses = choose(loss, measured)
        fitted, function, sources, _ = assemble(model, parameters, measured, ())
        few = fitted.count <= FEW and batch_size is None
        batched = (optimizer is None and few) or (isinstance(optimizer, LevenbergMarquardt) and batch_size is None)
        if batched and losses == (mse,):
            losses = (negative_log_likelihood,)  # of the same optimum
        scoring = _scoring(losses, measured)
        stacks = tuple(one.parts(masks) for one, masks in zip(measured, kept, strict=True))
        templates = tuple(one.template for one in stacks)
        options = SolverOptions(scheme, stepper, substeps, tolerance)
        run = Run(Objective(function, losses, *sources), fitted, templates, options, Progress(False))
        if any(splines(run.at(run.start))):
            raise ValueError(
                "cross-validation does not weigh the roughness of smooth splines; leave smooth away, or compare their fits by jd.compare"
            )
        start = np.tile(start_vector(fitted), (2 * scored, 1))
        data = BatchData(start, tuple(one.data() for one in stacks), {})
        if batched:
            method = optimizer or LevenbergMarquardt()
            many, stacks = together(run, data, stacks, method, steps or STEPS, chosen(None), None)
        else:
            many, stacks = _descents(
                run,
                data,
                stacks,
                optimizer or Descent("lbfgs" if batch_size is None else "adam"),
                steps,
                batch_size,
                key,
            )
        many.informed = False
        z, status, fitted = _fitted(many, scored, progress)
        z, every = np.tile(z, (2, 1)), np.arange(2 * scored)
        judge = many
        if scoring != losses:
            run = Run(Objective(function, scoring, *sources), fitted, templates, options, Progress(False))
            again = data._replace(start=z)
            judge, stacks = together(
                run,
                again,
                tuple(one.parts(m) for one, m in zip(measured, kept, strict=True)),
                LevenbergMarquardt(),
                1,
                chosen(None),
                None,
            )
        here, failed = judge.around(every, z)
    values = np.where(
        failed | np.tile(status == FAILED, 2),
        np.nan,
        _by_training(np.asarray(here.value, float), np.asarray(here.squares, float), stacks),
    )
    counts = np.array([sum(_count(stack[i]) for stack in stacks) for i in range(2 * scored)])
    likelihood = all(one.likelihood for one in scoring)
    share = counts[scored:] / counts[:scored] if likelihood else np.ones(scored)
    bad = np.flatnonzero(status != CONVERGED)
    notes = [f"the fit of fold {i + 1} did not converge: {STATUS[status[i]].split(';')[0]}" for i in bad]
    notes += list(many.notes)
    if not np.isfinite(values[scored:]).any():
        many.complain()
        raise ValueError(f"no fold could be scored, got NaN everywhere; {'; '.join(notes) or 'check the data'}")
    name = LIKELIHOOD if likelihood else losses[0].name
    return CrossValidation(
        values[scored:], values[:scored] * share, counts[scored:], name, np.asarray(fitted.transform(z[:scored]), float), fitted,
        status == CONVERGED, bool(forward), _identity(measured, kept), tuple(notes),
    )  # fmt: skip


def _count(one: Measurement) -> int:
    return one.count if one.known or one.family == "gaussian" else len(one.times)


def _masks(block: np.ndarray, folds: int, forward: bool) -> list[np.ndarray]:
    """What each fit sees, then what each is scored on."""
    scored = range(1, folds) if forward else range(folds)
    return [block < i if forward else block != i for i in scored] + [block == i for i in scored]


def _scoring(losses: tuple[Loss, ...], measured: tuple[Measurement, ...]) -> tuple[Loss, ...]:
    """The likelihoods of the same noise, or the losses themselves where one has none."""
    found = tuple(one.as_likelihood for one in losses)
    if any(loss is None or one.no_noise(m) for loss, one, m in zip(found, losses, measured, strict=True)):
        return losses
    return tuple(one for one in found if one is not None)


def _fitted(many: Batch | Sequential, scored: int, progress: bool) -> tuple[np.ndarray, np.ndarray, Parameters]:
    """Where each fold has ended, how, and the parameters with the scale that was found for them."""
    z, status = np.array(many.data.start[:scored]), np.zeros(scored, int)
    bar, done = Progress(progress, "fold"), 0
    try:
        for ended in many.run_all(np.arange(scored)):
            z[ended.which], status[ended.which] = ended.z, ended.status
            bar.show(done := done + len(ended.which), scored)
    finally:
        bar.close()
    return z, status, many.run.parameters


def _by_training(values: np.ndarray, squares: np.ndarray, stacks: tuple[Stack, ...]) -> np.ndarray:
    """Minus log likelihoods by the variance of the data fitted, where they hold that of the residuals themselves."""
    scored, out = len(values) // 2, values.copy()
    for k, stack in enumerate(stacks):
        size = np.asarray(stack.unknown, float)
        if not size.any():
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            own = squares[:, k] / size
            variance, n = own[:scored], size[scored:]
            out[scored:] += 0.5 * n * (np.log(variance / own[scored:]) + own[scored:] / variance - 1)
    return out


class _Descents(Sequential):
    """Fits by an optax transformation."""

    how: tuple[Any, int | None, Any]

    def search(self, each: Run) -> SearchResult:
        optimizer, batch_size, key = self.how
        return descend(each, optimizer, self.steps, batch_size, key)


def _descents(
    run: Run, data: BatchData, stacks: tuple[Stack, ...], optimizer: Any, steps: int | None, batch_size: Any, key: Any
) -> tuple[Sequential, tuple[Stack, ...]]:
    if isinstance(optimizer, LevenbergMarquardt):
        raise ValueError(
            "batch_size needs an optax transformation, got Levenberg–Marquardt; pass optimizer=optax.adam(0.01)"
        )
    apart = tuple(one.taken_apart("optax transformations,") for one in stacks)
    run.measurements = tuple(one.template for one in apart)
    steps = steps or (SEARCHES if optimizer.searches else WALKS)
    many = _Descents(
        run, data._replace(observed=tuple(one.data() for one in apart)), apart, LevenbergMarquardt(), steps
    )
    many.how = optimizer, batch_size, key
    return many, apart


def _identity(measured: tuple[Measurement, ...], kept: list[list[np.ndarray]]) -> str:
    values = [
        (np.asarray(one.values, float), np.concatenate([np.ravel(t) for t in _several(one.times)])) for one in measured
    ]
    return str(digest(jax.tree.leaves(values), kept))


def _several(times: Any) -> tuple[Any, ...]:
    return times if isinstance(times, tuple) else (times,)
