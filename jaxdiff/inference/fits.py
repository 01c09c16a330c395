"""What many fits found: arrays over the fits, a table of them, pictures, and each one as a `Fit`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxdiff.inference.batch import CONVERGED, FAILED, LOST, WAITING, WORDS, Batch, Rows
from jaxdiff.inference.fit import as_fit
from jaxdiff.inference.gradient_descent import finite
from jaxdiff.inference.result import Fit
from jaxdiff.inference.run import Run
from jaxdiff.inference.uncertainty import Uncertainty, error_bars, remarks
from jaxdiff.measurements.stacks import Stack
from jaxdiff.parameters import Parameters
from jaxdiff.reports.text import table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

NOWHERE = (LOST, FAILED, WAITING)  # how a fit ends that has no estimate


@dataclass(frozen=True)
class Fits:
    """The results of B fits of one model, in NumPy float64; fits[i] is one of them as a `Fit`, with its data.

        θ̂_b ± s_b,  b = 1 … B

    Attributes:
        z: `(B, p)`, where each ended in the optimiser's coordinates, NaN where it ended nowhere.
        bars: error bars: errors `(B, p)`, covariance `(B, p, p)`, intervals `(B, p, 2)`, and what is not identified.
        loss: `(B,)` where each ended.
        curvature: `(B, p, p)` of the loss there.
        iterations: `(B,)`.
        status: `(B,)`, how each ended, a number of `jaxdiff.inference.batch.WORDS`.
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
    bars: Uncertainty
    loss: np.ndarray
    curvature: np.ndarray
    iterations: np.ndarray
    status: np.ndarray
    history: np.ndarray
    run: Run = field(repr=False)
    batch: Batch = field(repr=False)
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
        return split(self.run.parameters, self.x)

    @property
    def standard_errors(self) -> dict[str, np.ndarray]:
        """{name: (B, …)}, by the theory of `fit`; NaN where a fit has none."""
        return split(self.run.parameters, self.bars.errors)

    @property
    def intervals(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """{name: (lower (B, …), upper (B, …))}, 95 %."""
        lower, upper = (split(self.run.parameters, self.bars.intervals[..., k]) for k in (0, 1))
        return {name: (lower[name], upper[name]) for name in lower}

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
        if self.status[i] in NOWHERE:
            raise ValueError(f"fit {i} has no result: {WORDS[self.status[i]]}")
        bars = Uncertainty(*(part[i] for part in self.bars[:-1]))
        with jax.enable_x64(True):
            measured = tuple(stack[i] for stack in self.stacks)
            run = Run(self.run.objective, self.batch.own(i), measured, self.run.options, self.run.progress)
            none = () if self.reason is None else (f"no error bars: {self.reason}",)
            late = () if self.converged[i] else (f"not converged: {WORDS[self.status[i]]}",)
            return as_fit(
                run,
                self.x[i],
                bars,
                loss=float(self.loss[i]),
                loss_name=self.loss_name,
                history=finite(self.history[i]),
                converged=bool(self.converged[i]),
                notes=(*late, *remarks(run.parameters, self.z[i], *bars[3:6]), *none),
            )

    def __iter__(self) -> Iterator[Fit]:
        return (self[i] for i in range(len(self)))

    def to_frame(self) -> pd.DataFrame:
        """One row a fit: estimates, standard errors as "… s.e.", loss, whether converged, and how it ended."""
        import pandas as pd

        columns = {}
        for k, label in enumerate(self.labels):
            columns[label], columns[f"{label} s.e."] = self.x[:, k], self.bars.errors[:, k]
        ends = [WORDS[i].split(";")[0] for i in self.status]
        return pd.DataFrame({**columns, "loss": self.loss, "converged": self.converged, "end": ends})

    def summary(self) -> str:
        """Medians and quantiles of the converged fits, their scatter beside the standard errors, and what there is to say."""
        good = self.converged
        rows: list[tuple[str, ...]] = [("parameter", "median", "5 %", "95 %", "scatter", "median s.e.")]
        for k, label in enumerate(self.labels):
            x, errors = self.x[good, k], self.bars.errors[good, k]
            errors = errors[np.isfinite(errors)]
            low, middle, high = np.quantile(x, (0.05, 0.5, 0.95)) if len(x) else (np.nan,) * 3
            scatter = np.std(x, ddof=1) if len(x) > 1 else np.nan
            numbers = [f"{v:.6g}" for v in (middle, low, high)]
            typical = np.median(errors) if len(errors) else np.nan
            rows.append((label, *numbers, *(f"{v:.2g}" if np.isfinite(v) else "–" for v in (scatter, typical))))
        most = f", {int(np.max(self.iterations, initial=0))} steps at most" if len(self) else ""
        ends = f"{len(self)} fits, {int(good.sum())} converged{most}"
        return "\n".join([table(rows, header=True), "", ends, *(f"note: {note}" for note in self.remarks)])

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader must know: which fits did not converge and why, and what their data do not tell."""
        found = list(self.notes)
        for status, word in enumerate(WORDS):
            which = np.flatnonzero(self.status == status)
            if status != CONVERGED and len(which):
                some = ", ".join(map(str, which[:5])) + (", …" if len(which) > 5 else "")
                found.append(f"{len(which)} not converged, {word}: number {some}")
        for mask, word in (
            (self.bars.at_bound, "ran to the end of its range"),
            (self.bars.unidentified, "is not identified"),
        ):
            for k, label in enumerate(self.labels):
                if count := int((mask[:, k] & self.converged).sum()):
                    found.append(f"{label} {word} in {count} of {len(self)}")
        silent = (
            self.converged & np.isnan(self.bars.errors).all(1) & ~(self.bars.at_bound | self.bars.unidentified).any(1)
        )
        if self.reason is None and silent.any():
            found.append(
                f"no error bars in {int(silent.sum())} of {len(self)}: too few readings without sigma, or a loss that tells no noise"
            )
        return (*found, *(() if self.reason is None else (f"no error bars: {self.reason}",)))

    __str__ = summary
    __repr__ = summary

    def plot(self) -> Figure:
        """Draw how the converged estimates scatter, a picture a parameter, beside what their standard errors say.

        Returns:
            A matplotlib figure.
        """
        from jaxdiff.reports import figures

        return figures.fits(self)


def split(parameters: Parameters, x: np.ndarray) -> dict[str, np.ndarray]:
    """(B, p) as {name: (B, …)}."""
    one = parameters.split(x[0] if len(x) else np.full(parameters.count, np.nan))
    ends = np.cumsum([np.size(value) for value in one.values()])[:-1]
    parts = np.split(x, ends, axis=1)
    return {
        name: part.reshape(len(x), *np.shape(value)) for (name, value), part in zip(one.items(), parts, strict=True)
    }


def piece(rows: Rows, batch: Batch, stacks: tuple[Stack, ...], reason: str | None) -> dict[str, np.ndarray]:
    """What is kept of fits that have ended."""
    run, nowhere = batch.run, np.isin(rows.status, NOWHERE)
    pairs = zip(stacks, run.objective.losses, strict=True)
    sizes = np.stack([stack.unknown[rows.lanes] * loss.squares for stack, loss in pairs], axis=1)
    bars = error_bars(run.parameters, np.asarray(rows.z, float), rows.here, sizes)
    dark = np.broadcast_to(nowhere | (reason is not None), nowhere.shape)
    dark = dark.reshape(-1, 1, 1)
    told = [np.where(dark if part.ndim == 3 else dark[..., 0], np.nan, part) for part in bars[:3]]
    told += [part & ~nowhere[:, None] for part in bars[3:6]]
    last = int(np.max(rows.iterations, initial=0)) + 1
    return {
        "index": rows.lanes,
        "z": np.where(nowhere[:, None], np.nan, rows.z),
        "loss": np.where(nowhere, np.nan, rows.here.value),
        "curvature": rows.here.curvature,
        "iterations": rows.iterations,
        "status": rows.status,
        "history": rows.history[:, :last],
        **dict(zip(Uncertainty._fields[:-1], told, strict=True)),
    }


def gathered(batch: Batch, stacks: tuple[Stack, ...], pieces: list[dict[str, np.ndarray]], **told: Any) -> Fits:
    """All pieces in the order of the data; what is missing was not reached."""
    count, p = batch.lanes.start.shape
    width = max((len(part["history"][0]) for part in pieces if len(part["index"])), default=1)
    shapes: dict[str, tuple[int, ...]] = {"z": (p,), "loss": (), "curvature": (p, p), "history": (width,)}
    shapes |= {"errors": (p,), "covariance": (p, p), "intervals": (p, 2)}
    whole: dict[str, Any] = {name: np.full((count, *shape), np.nan) for name, shape in shapes.items()}
    whole |= {name: np.zeros((count, p), bool) for name in Uncertainty._fields[3:6]}
    whole |= {"iterations": np.zeros(count, int), "status": np.full(count, WAITING)}
    for part in pieces:
        for name, array in whole.items():
            if name == "history":
                array[part["index"], : part[name].shape[1]] = part[name]
            else:
                array[part["index"]] = part[name]
    bars = Uncertainty(*(whole.pop(name) for name in Uncertainty._fields[:-1]))
    return Fits(bars=bars, run=batch.run, batch=batch, stacks=stacks, **whole, **told)
