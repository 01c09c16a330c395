"""What many fits found: arrays over the fits, a table of them, pictures, and each one as a `Fit`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxdiff.inference.batch import CONVERGED, FAILED, STATUS, UNRESOLVED, WAITING, Batch, Results, joined, pick
from jaxdiff.inference.fit import as_fit
from jaxdiff.inference.gradient_descent import finite
from jaxdiff.inference.result import Fit
from jaxdiff.inference.run import Run
from jaxdiff.inference.sequential import Sequential
from jaxdiff.inference.uncertainty import Uncertainty, diagnostics, error_bars, listed
from jaxdiff.inference.verdict import Verdict
from jaxdiff.measurements.stacks import Stack
from jaxdiff.reports.text import short, table
from jaxdiff.runtime.compilation import as_written

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SPOKEN = 100  # fits that are judged when they are printed
NO_ESTIMATE = (UNRESOLVED, FAILED, WAITING)  # how a fit ends that has none


@dataclass(frozen=True)
class Fits:
    """The results of B fits of one model, in NumPy float64; fits[i] is one of them as a `Fit`, with its data.

        θ̂_b ± s_b,  b = 1 … B

    Attributes:
        z: `(B, p)`, where each ended in the optimiser's coordinates, NaN where it ended nowhere.
        uncertainty: error bars: errors `(B, p)`, covariance `(B, p, p)`, intervals `(B, p, 2)`, and what is not identified.
        loss: `(B,)` where each ended.
        curvature: `(B, p, p)` of the loss there.
        iterations: `(B,)`.
        status: `(B,)`, how each ended, a number of `jaxdiff.inference.batch.STATUS`.
        history: `(B, …)`, the loss at every step.
        run, batch, stacks: the problem, its division into chunks, and the data.
        reason: why there are no error bars, or None.
        loss_name: what was minimised.
        notes: what a reader must know, in words.

    >>> import jaxdiff as jd, numpy as np
    >>> grid, times = jd.Grid.uniform((0.0, 1.0, 8)), np.array([1.0, 2.0, 3.0])
    >>> readings = jd.Readings(grid, 1.0, times, np.full(3, 0.5), np.ones(3), sigma=0.01)
    >>> values = np.exp(-np.array([[0.5], [0.7]]) * times)
    >>> fits = jd.fit_many(jd.Diffusion(1.0, decay=jd.Positive(1.0)), readings, values, progress=False)
    >>> len(fits), fits.parameters["decay"].round(3), round(fits[1].parameters["decay"], 3)
    (2, array([0.5, 0.7]), 0.7)
    """

    z: np.ndarray
    uncertainty: Uncertainty
    loss: np.ndarray
    curvature: np.ndarray
    iterations: np.ndarray
    status: np.ndarray
    history: np.ndarray
    run: Run = field(repr=False)
    batch: Batch | Sequential = field(repr=False)
    stacks: tuple[Stack, ...] = field(repr=False)
    reason: str | None = None
    loss_name: str = "loss"
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def x(self) -> np.ndarray:
        """(B, p) all estimates, in the order of `labels`."""
        return np.asarray(self.run.parameters.transform(self.z), float)

    @property
    def labels(self) -> tuple[str, ...]:
        """`p` names, one for every single number."""
        return self.run.parameters.labels

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """{name: (B, …)}."""
        return self.run.parameters.split(self.x)

    @property
    def standard_errors(self) -> dict[str, np.ndarray]:
        """{name: (B, …)}, by the theory of `fit`; NaN where a fit has none."""
        return self.run.parameters.split(self.uncertainty.errors)

    @property
    def intervals(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """{name: (lower (B, …), upper (B, …))}, 95 %."""
        return self.run.parameters.intervals(self.uncertainty.intervals)

    @property
    def converged(self) -> np.ndarray:
        """(B,) whether each reached its optimum."""
        return self.status == CONVERGED

    def __getitem__(self, i: int) -> Fit:
        if not isinstance(i, (int, np.integer)):
            raise TypeError(f"fits are taken one at a time, by number, got {i!r}")
        if not -len(self) <= i < len(self):
            raise IndexError(f"there are {len(self)} fits, got number {i}")
        i = range(len(self))[i]
        if self.status[i] in NO_ESTIMATE:
            raise ValueError(f"fit {i} has no result: {STATUS[self.status[i]]}")
        found = Uncertainty(*(part[i] for part in self.uncertainty[:-1]))
        with jax.enable_x64(True):
            measured = tuple(stack[i] for stack in self.stacks)
            run = Run(self.run.objective, self.batch.own(i), measured, self.run.options, self.run.progress)
            none = () if self.reason is None else (f"no error bars: {self.reason}",)
            late = () if self.converged[i] else (f"not converged: {STATUS[self.status[i]]}",)
            return as_fit(
                run,
                self.x[i],
                found,
                loss=float(self.loss[i]),
                loss_name=self.loss_name,
                history=finite(self.history[i]),
                converged=bool(self.converged[i]),
                notes=(*late, *diagnostics(run.parameters, self.z[i], *found[3:6]), *none),
                predictions=lambda: next(self._predictions(np.array([i]))),
            )

    def _predictions(self, which: np.ndarray) -> Iterator[tuple[Any, ...]]:
        """Of some of the fits: each measurement's prediction and Jacobian, at the rows that its data set has."""
        for at in range(0, len(which), self.batch.size):
            index = which[at : at + self.batch.size]
            with jax.enable_x64(self.z.dtype == np.float64):
                found = self.batch.predictions(index, self.z[index])
            for k, i in enumerate(index):
                yield tuple(
                    tuple(part[k][stack.rows(i)] if len(part[k]) else part[k] for part in parts)
                    for stack, parts in zip(self.stacks, found, strict=True)
                )

    @cached_property
    @as_written
    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether the model describes each data set, as `fit.verdict` of a single fit, with noise taken as independent.

        Asked for, since it compiles once more and takes some milliseconds a fit; up to 100 fits say it when printed.
        """
        fitted = np.flatnonzero(self.converged)
        none = Verdict(None, ("the search did not end at an optimum",))
        found = {int(i): parts for i, parts in zip(fitted, self._predictions(fitted), strict=True)}
        judge = lambda i: replace(self[i], predictions=found[i]).verdict if i in found else none
        return tuple(map(judge, range(len(self))))

    def __iter__(self) -> Iterator[Fit]:
        return (self[i] for i in range(len(self)))

    def to_frame(self) -> pd.DataFrame:
        """One row a fit: estimates, standard errors as "… s.e.", loss, whether converged, and how it ended."""
        import pandas as pd

        columns = {}
        for k, label in enumerate(self.labels):
            columns[label], columns[f"{label} s.e."] = self.x[:, k], self.uncertainty.errors[:, k]
        ends = [STATUS[i].split(";")[0] for i in self.status]
        return pd.DataFrame({**columns, "loss": self.loss, "converged": self.converged, "end": ends})

    def summary(self) -> str:
        """Medians and quantiles of the converged fits, their scatter beside the standard errors, and what there is to say."""
        good = self.converged
        rows: list[tuple[str, ...]] = [("parameter", "median", "5 %", "95 %", "scatter", "median s.e.")]
        for k, label in enumerate(self.labels):
            x, errors = self.x[good, k], self.uncertainty.errors[good, k]
            errors = errors[np.isfinite(errors)]
            quantiles = np.quantile(x, (0.5, 0.05, 0.95)) if len(x) else (np.nan,) * 3
            scatter = np.std(x, ddof=1) if len(x) > 1 else np.nan
            typical = np.median(errors) if len(errors) else np.nan
            rows.append((label, *(f"{v:.6g}" for v in quantiles), short(scatter), short(typical)))
        most = f", {int(np.max(self.iterations, initial=0))} steps at most" if len(self) else ""
        ends = f"{len(self)} fits, {int(good.sum())} converged{most}"
        return "\n".join([table(rows, header=True), "", ends, *(f"note: {note}" for note in self.remarks)])

    @property
    def ends(self) -> tuple[str, ...]:
        """Which fits did not converge and why, and what is not identified."""
        notes, found = list(self.notes), self.uncertainty
        for status, text in enumerate(STATUS):
            which = np.flatnonzero(self.status == status)
            if status != CONVERGED and len(which):
                notes.append(f"{len(which)} not converged, {text}: number {listed(which)}")
        ran, unknown = "ran to the end of its range", "is not identified"
        for mask, text in ((found.at_bound, ran), (found.unidentified, unknown)):
            for k, label in enumerate(self.labels):
                if count := int((mask[:, k] & self.converged).sum()):
                    notes.append(f"{label} {text} in {count} of {len(self)}")
        no_noise = self.converged & np.isnan(found.errors).all(1) & ~(found.at_bound | found.unidentified).any(1)
        if self.reason is None and no_noise.any():
            why = "too few readings without sigma, or a loss that tells no noise"
            notes.append(f"no error bars in {int(no_noise.sum())} of {len(self)}: {why}")
        notes += [] if self.reason is None else [f"no error bars: {self.reason}"]
        return tuple(notes)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader must know: how fits ended, and which data sets the model does not describe."""
        notes = list(self.ends)
        if len(self) > SPOKEN and "verdicts" not in vars(self):
            return (*notes, "whether the model describes each data set is asked of fits.verdicts")
        wrong = [i for i, one in enumerate(self.verdicts) if one.describes is False]
        if wrong:
            where = f"{len(wrong)} of {len(self)}: number {listed(wrong)}"
            why = f"{self.verdicts[wrong[0]].reasons[0]} in number {wrong[0]}"
            notes.insert(
                0, f"the model does not describe the data, and error bars are not to be trusted, in {where}; {why}"
            )
        return tuple(notes)

    __str__ = summary
    __repr__ = summary

    def plot(self) -> Figure:
        """Draw how the converged estimates scatter, a picture a parameter, beside what their standard errors say.

        Returns:
            A matplotlib figure.
        """
        from jaxdiff.reports import figures

        return figures.fits(self)


def results_of_chunk(
    ended: Results, batch: Batch | Sequential, stacks: tuple[Stack, ...], reason: str | None
) -> dict[str, np.ndarray]:
    """What is kept of fits that have ended, with their error bars."""
    run, none = batch.run, np.isin(ended.status, NO_ESTIMATE)
    pairs = zip(stacks, run.objective.losses, strict=True)
    sizes = np.stack([stack.unknown[ended.which] * loss.squares for stack, loss in pairs], axis=1)
    found = error_bars(run.parameters, np.asarray(ended.z, float), ended.here, sizes)
    missing = np.ones_like(none) if reason is not None else none
    numbers = [np.where(missing.reshape(-1, *(1,) * (part.ndim - 1)), np.nan, part) for part in found[:3]]
    masks = [part & ~none[:, None] for part in found[3:6]]
    return {
        "index": ended.which,
        "z": np.where(none[:, None], np.nan, ended.z),
        "loss": np.where(none, np.nan, ended.here.value),
        "curvature": np.where(none[:, None, None], np.nan, ended.here.curvature),
        "iterations": np.maximum(ended.iterations, 0),
        "status": ended.status,
        "history": ended.history[:, : int(np.max(ended.iterations, initial=0)) + 1],
        **dict(zip(Uncertainty._fields[:-1], numbers + masks, strict=True)),
    }


def gathered(
    batch: Batch | Sequential, stacks: tuple[Stack, ...], chunks: list[dict[str, np.ndarray]], **described: Any
) -> Fits:
    """The results of all chunks in the order of the data."""
    width = max(chunk["history"].shape[1] for chunk in chunks)
    wide = lambda history: np.pad(history, ((0, 0), (0, width - history.shape[1])), constant_values=np.nan)
    whole: Any = joined([chunk | {"history": wide(chunk["history"])} for chunk in chunks])
    whole = pick(whole, np.argsort(whole["index"]))
    del whole["index"]
    found = Uncertainty(*(whole.pop(name) for name in Uncertainty._fields[:-1]))
    return Fits(uncertainty=found, run=batch.run, batch=batch, stacks=stacks, **whole, **described)
