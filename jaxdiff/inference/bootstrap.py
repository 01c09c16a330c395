"""The bootstrap: data are drawn anew (by `Measurement.draw`) and fitted as by `fit_many`, and their scatter is the error."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.inference.batch import BatchData
from jaxdiff.inference.fit import checked_count, precision
from jaxdiff.inference.fit_many import fit_batch, generator
from jaxdiff.inference.fits import Fits
from jaxdiff.inference.levenberg_marquardt import LevenbergMarquardt
from jaxdiff.inference.objective import start_vector
from jaxdiff.inference.result import Fit
from jaxdiff.inference.run import STEPS, Run, on_host
from jaxdiff.inference.sequential import together
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.measurements.stacks import Redraw, Stack
from jaxdiff.reports.text import table
from jaxdiff.runtime.devices import choose
from jaxdiff.runtime.progress import Progress

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

KINDS = ("parametric", "residual")


@dataclass(frozen=True)
class Bootstrap:
    """How the estimates of a fit scatter when its data are drawn anew; it prints itself as a table.

        s² = Σ (θ̂*_b − θ̄*)²/(B − 1),  b = 1 … B

    Repeats that did not converge do not count. Errors are in `standard_errors`, `bias`, `covariance` and `intervals`.

    Attributes:
        fit: the original `Fit`.
        fits: those of the repeats, `Fits`.
        kind: "parametric" or "residual".
        level: of the intervals.

    >>> import jaxdiff as jd, numpy as np
    >>> grid, times = jd.Grid.uniform((0.0, 1.0, 8)), np.array([1.0, 2.0, 3.0])
    >>> readings = jd.Readings(grid, 1.0, times, np.full(3, 0.5), np.exp(-0.5 * times), sigma=0.01)
    >>> fit = jd.fit(jd.Diffusion(1.0, decay=jd.Positive(1.0)), readings, progress=False)
    >>> repeats = jd.bootstrap(fit, 50, progress=False)
    >>> len(repeats), sorted(repeats.standard_errors)
    (50, ['decay'])

    Efron 1979, doi:10.1214/aos/1176344552.
    """

    fit: Fit
    fits: Fits = field(repr=False)
    kind: str
    level: float = 0.95

    def __len__(self) -> int:
        return len(self.fits)

    def __getitem__(self, i: int) -> Fit:
        return self.fits[i]

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """{name: (repeats, …)}."""
        return self.fits.parameters

    @property
    def converged(self) -> np.ndarray:
        """`(repeats,)`, True where the optimum was reached."""
        return self.fits.converged

    @cached_property
    def _x(self) -> np.ndarray:
        return self.fits.x[self.fits.converged]

    @property
    def standard_errors(self) -> dict[str, Any]:
        """{name: standard deviation over the repeats}; NaN where fewer than two converged."""
        return self.fits.run.parameters.split(np.sqrt(np.diag(self.covariance)))

    @property
    def bias(self) -> dict[str, Any]:
        """{name: mean over the repeats − the estimate}."""
        return self.fits.run.parameters.split(self._bias)

    @property
    def _bias(self) -> np.ndarray:
        estimate = self.fit.columns()[0]
        return self._x.mean(0) - estimate if len(self._x) else np.full_like(estimate, np.nan)

    @property
    def covariance(self) -> np.ndarray:
        """(p, p) over the repeats, in the order of `labels`."""
        p = self.fits.x.shape[1]
        return np.atleast_2d(np.cov(self._x, rowvar=False)) if len(self._x) > 1 else np.full((p, p), np.nan)

    @property
    def intervals(self) -> dict[str, tuple[Any, Any]]:
        """{name: (lower, upper)}, percentiles of the repeats."""
        return self.fits.run.parameters.intervals(self._ends)

    @property
    def _ends(self) -> np.ndarray:
        if len(self._x) < 2:
            return np.full((self.fits.x.shape[1], 2), np.nan)
        return np.quantile(self._x, (0.5 - self.level / 2, 0.5 + self.level / 2), axis=0).T

    def to_frame(self) -> pd.DataFrame:
        """One row a repeat."""
        return self.fits.to_frame()

    def summary(self) -> str:
        """Estimates with the errors and intervals of the repeats, beside the standard errors of the fit."""
        share = f"{100 * self.level:g} %"
        rows: list[tuple[str, ...]] = [
            ("parameter", "estimate", "standard error", f"{share} interval", "of the fit", "bias")
        ]
        x, errors, _ = self.fit.columns()
        scatter, bias = np.sqrt(np.diag(self.covariance)), self._bias
        for label, *numbers, (low, high) in zip(self.fit.labels, x, scatter, errors, bias, self._ends, strict=True):
            estimate, deviation, error, off = (
                f"{v:.{digits}g}" for v, digits in zip(numbers, (6, 2, 2, 2), strict=True)
            )
            rows.append((label, estimate, deviation, f"{low:.6g} … {high:.6g}", error, off))
        ends = f"{self.kind} bootstrap, {len(self)} repeats, {int(self.converged.sum())} converged"
        few = ("fewer than two repeats converged, which tells no scatter",) if len(self._x) < 2 else ()
        return "\n".join([table(rows, header=True), "", ends, *(f"note: {note}" for note in (*few, *self.fits.ends))])

    __str__ = summary
    __repr__ = summary

    def plot(self) -> Figure:
        """Draw how the estimates of the repeats scatter.

        Returns:
            A matplotlib figure.
        """
        return self.fits.plot()


@on_host
def bootstrap(
    fit: Fit,
    repeats: int = 400,
    *,
    kind: str = "parametric",
    level: float = 0.95,
    key: Any = None,
    steps: int | None = None,
    dtype: Any = None,
    devices: Any = None,
    batch: int | None = None,
    progress: bool = True,
) -> Bootstrap:
    """Errors and percentile intervals of a fit from data drawn anew, refitted as one batch, or else one after the other.

        y* ~ p(y | θ̂),  θ̂* = argmin loss(prediction(θ), y*)

    Args:
        fit: what `fit` returned; each experiment is drawn anew.
        repeats: how many.
        kind: "parametric" draws from the fitted model: readings Gaussian, with their sigma or the variance of the
            residuals over n − p; counts multinomial; individuals within the cells; passages by their densities, censored when those
            measured were; paths, tracks and paths of states from where they begin, at the same times, seen with the same noise and
            exposure. "residual" asks less of the noise: residuals in units of sigma are
            drawn with replacement, centred and widened by √(n/(n − p)); individuals are drawn from the measured
            histograms. Where the fit found readings correlated in time, both draw correlated noise.
        level: of the intervals.
        key: of jax.random, by which data are drawn; None: jax.random.key(0).
        steps, dtype, devices, batch, progress: as in `fit_many`.

    The refits start from the estimate. Those that fail are counted, and do not count. An interruption (Ctrl-C) returns what is done, and
    says so. Paths are drawn by `simulate` in steps whose bias is a tenth of an error bar, or a note says by how much they err; those that
    end, killed or absorbed, where the measured ones did not are drawn again, as a note says.

    Returns:
        `Bootstrap`.

    Raises:
        ValueError: the fit has no data or model at hand (it was loaded), or its data carry no noise.
        TypeError: no `Fit`.

    >>> import jaxdiff as jd, numpy as np
    >>> grid, times = jd.Grid.uniform((0.0, 1.0, 40)), np.linspace(0.01, 0.1, 10)
    >>> values = 1 + np.cos(np.pi * 0.25) * np.exp(-0.5 * np.pi**2 * times)
    >>> start = 1 + np.cos(np.pi * grid.centers[0])
    >>> readings = jd.Readings(grid, start, times, np.full(10, 0.25), values, sigma=0.01)
    >>> fit = jd.fit(jd.Diffusion(jd.Positive(2.0)), readings, progress=False)
    >>> low, high = jd.bootstrap(fit, 100, progress=False).intervals["diffusivity"]
    >>> bool(low < 0.5 < high)
    True

    Efron 1979, doi:10.1214/aos/1176344552.
    """
    if not isinstance(fit, Fit):
        raise TypeError(f"the bootstrap starts from a jd.Fit, got {type(fit).__name__}; call jd.fit first")
    repeats, steps = checked_count(repeats, "repeats") or 0, checked_count(steps, "steps") or STEPS
    if repeats < 2:
        raise ValueError(f"repeats must be at least two, got {repeats}; a few hundred give intervals")
    if kind not in KINDS:
        raise ValueError(f"kind must be {' or '.join(map(repr, KINDS))}, got {kind!r}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level!r}; 0.95 is usual")
    problem = fit.required_problem()
    objective, fitted = problem.objective, problem.parameters
    stacks = draw_data(fit, repeats, kind, generator(key))
    with precision(dtype):
        fitted = replace(fitted, start=fit.columns()[0])
        templates = tuple(one.template for one in stacks)
        run = Run(objective, fitted, templates, fit.options, Progress(False), redrawn=True)
        start = np.tile(start_vector(fitted), (repeats, 1))
        data = BatchData(start, tuple(one.data() for one in stacks), {})
        size = checked_count(batch, "batch")
        many, stacks = together(
            run, data, stacks, LevenbergMarquardt(), steps, choose(devices), size, problem.predictors
        )
        return Bootstrap(fit, fit_batch(many, stacks, fit.loss_name, progress), kind, level)


def draw_data(fit: Fit, repeats: int, kind: str, rng: Any) -> tuple[Stack, ...]:
    """Draw new data for every experiment, each by `Measurement.draw`, with the variance that error bars assume."""
    measured, count = fit.measurements, len(fit.labels)
    estimated = sum(m.unknown for m in measured)
    resampled = sum(len(m.values) for m in measured if m.has_residuals) if kind == "residual" else 0
    if 0 < (scaled := estimated or resampled) <= count:
        mend = "give sigma" if estimated else "take kind='parametric'"
        raise ValueError(
            f"{scaled} readings do not leave a residual variance for {count} parameters; {mend}, or measure more"
        )
    for m, loss in zip(measured, fit.required_problem().objective.losses, strict=True):
        if kind == "parametric" and type(m).draw is Measurement.draw and not (loss.squares or loss.no_noise(m)):
            raise ValueError(
                f"data are drawn with normal noise, and {loss.name} has noise of its own; take kind='residual', or give {type(m).__name__} a draw of its own"
            )
    stacks, times = [], fit.correlation_times or (None,) * len(measured)
    for m, tau in zip(measured, times, strict=True):
        rows = estimated if m.unknown else resampled
        values = m.draw(fit, repeats, rng, Redraw(kind, rows / (rows - count) if rows else 1.0, tau))
        stacks.append(m.redrawn(values))
    return tuple(stacks)
