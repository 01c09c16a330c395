"""`Fit`, the result of a fit: it prints itself, predicts, draws and stores itself; `load` reads it again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.inference.objective import check_function, check_indices
from jaxdiff.inference.verdict import Verdict, verdict
from jaxdiff.integration.options import AUTOMATIC, SolverOptions
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.model.equations import Equation
from jaxdiff.model.observed import Observed
from jaxdiff.parameters import numeric, unmarked, with_parameters
from jaxdiff.reports.text import DOUBT, MISFIT, few, finite, short, table
from jaxdiff.runtime.compilation import as_written, quick_jit
from jaxdiff.runtime.conditions import raise_failed
from jaxdiff.runtime.staging import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxdiff.inference.band import Band
    from jaxdiff.inference.grid_check import GridCheck
    from jaxdiff.inference.log_density import LogDensity
    from jaxdiff.inference.smoothing import Smooth

FORMAT = "jaxdiff fit 1"


@dataclass(frozen=True)
class Fit:
    """The result of `fit`, in NumPy float64; it prints itself as a table.

        θ̂ ± s,   s² = diag(covariance),   95 % in intervals

    Attributes:
        model: the fitted equation, with plain numbers; None if the fit was loaded without it.
        parameters: {name: number or array}, the estimates.
        standard_errors: {name: number or array}; NaN where there is none, as `notes` say.
        intervals: {name: (lower, upper)}, 95 %.
        covariance: `(p, p)` of the single numbers, in the order of `labels`.
        labels: `p` names, one for every single number.
        loss: at the optimum.
        loss_name: what was minimised.
        history: `(steps + 1,)`, the loss at every step.
        converged: True if the optimum was reached.
        notes: what a reader must know, in words.
        validation_loss: the loss on what was held out; None if nothing was.
        validation_history: `(looks, 2)`, steps of gradient descent and the loss on what was held out.
        initial: the fitted initial state, one of each measurement where they differ.
        start: {name: number or array}, where the search began.
        measurements: what was fitted.
        held_out: what was not.
        initials: the initial state of each measurement, as given and as fitted.
        models: the equation, initial state and observation of each measurement.
        function: the model as a function of named arguments, None where it is an equation.
        arguments: of the function, as fitted, {name: value}.
        options: scheme, stepper, substeps and tolerance.
        problem: what was minimised; None if the fit was loaded.
        correlation_times: [time] of the noise of each measurement, None where it is independent.
        optima: of several starts: parameters, loss, and the count of starts that ended there, best first.
        predictions: the prediction of each measurement, and its Jacobian.
        judged: the verdict that was stored, of a loaded fit.
        conditions: of each measurement, {argument of the model: what is known}; empty where none has any.
        search: how the optimum was looked for, in words.
        smooths: how each smooth field was smoothed: name, strength λ, freedom, knots, chosen.
        degrees_of_freedom: that the fit takes, the number of parameters, or fewer where fields are smooth; NaN of a loaded fit.

    >>> import jaxdiff as jd, numpy as np
    >>> grid, times = jd.Grid.uniform((0.0, 1.0, 40)), np.linspace(0.01, 0.1, 10)
    >>> values = 1 + np.cos(np.pi * 0.25) * np.exp(-0.5 * np.pi**2 * times)
    >>> start = 1 + np.cos(np.pi * grid.centers[0])
    >>> readings = jd.Readings(grid, start, times, np.full(10, 0.25), values, sigma=0.01)
    >>> fit = jd.fit(jd.Diffusion(jd.Positive(2.0)), readings, progress=False)
    >>> low, high = fit.intervals["diffusivity"]
    >>> bool(low < 0.5 < high), fit.verdict.describes
    (True, True)
    """

    model: Any
    parameters: dict[str, Any]
    standard_errors: dict[str, Any]
    intervals: dict[str, Any]
    covariance: np.ndarray
    labels: tuple[str, ...]
    loss: float
    loss_name: str
    history: np.ndarray
    converged: bool
    notes: tuple[str, ...] = ()
    validation_loss: float | None = None
    initial: Any = None
    start: dict[str, Any] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    held_out: tuple[Measurement, ...] = ()
    initials: tuple[tuple[Any, Any], ...] = ()  # as given to a measurement, and as fitted
    models: tuple[Observed, ...] = field(default=(), repr=False)
    function: Callable[..., Any] | None = field(default=None, repr=False)
    arguments: dict[str, Any] = field(default_factory=dict, repr=False)
    options: SolverOptions = AUTOMATIC
    problem: Any = field(default=None, repr=False)  # what was minimised, and in which parameters; None if it was loaded
    correlation_times: tuple[Any, ...] = ()  # of the noise at each row of a measurement, None where it is independent
    optima: tuple[dict[str, Any], ...] = ()  # of several starts: parameters, loss and how many ended there, best first
    predictions: Any = field(default=(), repr=False)  # of each measurement, and its Jacobian in z; or what makes them
    judged: Verdict | None = field(default=None, repr=False)  # the verdict that was stored with a loaded fit
    conditions: tuple[dict[str, Any], ...] = ()
    validation_history: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)), repr=False)
    search: str = ""
    smooths: tuple[Smooth, ...] = ()
    degrees_of_freedom: float = np.nan

    @property
    def correlation(self) -> np.ndarray:
        """Of the single numbers, (p, p), in the order of `labels`."""
        deviation = np.sqrt(np.diag(self.covariance))
        return self.covariance / deviation / deviation[:, None]

    def required_problem(self) -> Any:
        """What was minimised; raises ValueError if the fit was loaded."""
        if self.problem is None:
            raise ValueError("this fit was loaded without its data and model, got no problem to solve again; fit anew")
        return self.problem

    @cached_property
    @as_written
    def verdict(self) -> Verdict:
        """Whether the model describes the data: `describes`, and `reasons` if it does not, the most telling first.

        All tests together call 2 % of right models wrong. Where the model does not describe the data, its error bars, which
        take it as right, are not to be trusted. `describes` is None where that cannot be judged, as `reasons` says.
        """
        if self.judged is not None:
            return self.judged
        if not self.converged:
            return Verdict(None, ("the search did not end at an optimum",))
        predictions = self.predictions() if callable(self.predictions) else self.predictions
        if not predictions:
            return Verdict(None, ("what is left of the data was not kept; fit this data set by itself with jd.fit",))
        times = self.correlation_times or (None,) * len(self.measurements)
        with jax.enable_x64(True):
            equations = [model.equation for model in self.models]
            measured = [m.with_start(model.initial) for m, model in zip(self.measurements, self.models, strict=True)]
            return verdict(measured, self.problem.objective.losses, predictions, times, equations)

    @cached_property
    @as_written
    def objective(self) -> LogDensity:
        """z ↦ log p(data | θ(z)): the log likelihood as a function of one vector (p,), differentiable by JAX, in float64.

        `objective.optimum` is z of this fit, `objective.parameters(z)` are the numbers in the order of `labels`; see
        `help(fit.objective)`. Raises ValueError if the fit was loaded, or its loss has no likelihood.

        >>> import jaxdiff as jd, numpy as np
        >>> grid, times = jd.Grid.uniform((0.0, 1.0, 8)), np.array([1.0, 2.0, 3.0])
        >>> readings = jd.Readings(grid, 1.0, times, np.full(3, 0.5), np.exp(-0.7 * times), sigma=0.01)
        >>> density = jd.fit(jd.Diffusion(1.0, decay=jd.Positive(1.0)), readings, progress=False).objective
        >>> round(float(density.parameters(density.optimum)[0]), 3), bool(density(density.optimum + 0.1) < density(density.optimum))
        (0.7, True)
        """
        from jaxdiff.inference.log_density import LogDensity

        return LogDensity(self)

    @as_written
    def predict(self, measurement: Measurement | None = None) -> np.ndarray:
        """Predict a measurement by the fitted model.

        Args:
            measurement: of any kind; None: the one that was fitted.

        Returns:
            An array in the shape of its data.

        Raises:
            ValueError: the model is not at hand (a fit that was loaded without it), or fails there.
        """
        if self.model is None:
            raise ValueError("this fit was loaded without its model, got None; pass it as jd.load(path, model)")
        if measurement is None:
            if len(self.measurements) != 1:
                raise ValueError(
                    f"predict needs a measurement, as {len(self.measurements)} are known; pass one of fit.measurements"
                )
            measurement = self.measurements[0]
        with jax.enable_x64(True):
            measurement, model, experiment = self._seen_by(measurement)
            own = getattr(measurement, "initial", None)
            fitted = [state for initial, state in self.initials if initial is own or initial is None]
            initial = with_parameters(numeric(fitted[0] if fitted else unmarked(own)), self.arguments)
            predictor = measurement.prepare(model.equation, initial, False, self.options)
            if self.function is not None and model.observe is not None:
                arguments, conditions = jax.tree.map(jnp.asarray, (self.arguments, measurement.conditions or {}))
                predictor.check_observed(Observed.of(self.function(**arguments, **conditions)), experiment)
            start = Observed(model.equation, initial, model.observe)
            given: Any = (start,) if self.function is None else (initial, self.arguments, measurement.conditions or {})
            for _ in range(_RENEWALS):
                prediction = _forward(self.function, given, predictor, experiment)
                if np.all(prediction.resolved):
                    break
                predictor = predictor.renewed(measurement, model.equation, prediction.checks)
            else:
                raise ValueError(
                    "the fitted coefficients outrun every predictor of this measurement; predict fewer times"
                )
            raise_failed(prediction.checks)
            return np.asarray(predictor.shown(prediction.values))

    def equation_of(self, measurement: Measurement) -> Equation:
        """The fitted equation under the conditions of a measurement."""
        return self._seen_by(measurement)[1].equation if self.models else self.model

    def _seen_by(self, measurement: Measurement) -> tuple[Measurement, Observed, int]:
        """A measurement, its sensors counted as in the fit, the model for it, and the number of its experiment."""
        parts = [*enumerate(self.measurements), *enumerate(self.held_out)]
        found = next((i for i, one in parts if measurement.belongs_to(one)), None)
        one = len({id(model.equation) for model in self.models}) == 1
        if self.function is not None and (one or measurement.conditions):
            check_function(self.function, self.arguments, measurement.conditions or {})
        if measurement.conditions and found is None:
            if self.function is None:
                raise ValueError("conditions= belong to a model that is a function of them, got an equation")
            check_indices(self.function, self.arguments, measurement.conditions, getattr(measurement, "grid", None))
            model = Observed.of(self.function(**self.arguments, **measurement.conditions))
        elif found is None and not one:
            raise ValueError(
                "the model differs between experiments; predict one of fit.measurements, or give conditions="
            )
        else:
            model = self.models[found or 0]
        if found is None and len(self.measurements) != 1 and model.needs("experiment"):
            raise ValueError("what is observed differs between experiments; predict one of fit.measurements")
        if found is None and model.needs("sensor"):
            measurement = measurement.with_sensors_of(self.measurements)
        return measurement, model, found or 0

    def summary(self) -> str:
        """A table of names, estimates, standard errors and 95 % intervals, and what there is to say."""
        doubtful = self.verdict.describes is False
        rows = [("parameter", "estimate", "standard error" + DOUBT * doubtful, "95 % interval")]
        for label, value, error, (low, high) in zip(self.labels, *self.columns(), strict=True):
            interval = f"{low:.6g} … {high:.6g}" if np.isfinite(low) else "–"
            rows.append((label, f"{value:.6g}", short(error), interval))
        lines = [table(rows, header=True), ""]
        steps = max(len(self.history) - 1, 0)
        state = "converged" if self.converged else "NOT CONVERGED"
        lines.append(f"{self.loss_name} {self.loss:.6g}, {state} after {steps} step{'' if steps == 1 else 's'}")
        if doubtful:
            lines += [MISFIT, *(f"  {reason}" for reason in few(self.verdict.reasons))]
        if self.validation_loss is not None:
            lines.append(f"on data held out {self.validation_loss:.6g}")
        return "\n".join(lines + [f"note: {note}" for note in (*self.notes, *self.verdict.remarks)])

    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Estimates (p,), standard errors (p,) and intervals (p, 2), in the order of `labels`."""
        flat = lambda values: np.concatenate([np.ravel(v) for v in values.values()])
        ends = np.concatenate([np.stack([np.ravel(end) for end in pair], axis=1) for pair in self.intervals.values()])
        return flat(self.parameters), flat(self.standard_errors), ends

    __str__ = summary
    __repr__ = summary

    def plot(self) -> Figure:
        """Draw data against fit, residuals and the history of the loss.

        Returns:
            A matplotlib figure.
        """
        from jaxdiff.reports import figures

        return figures.fit(self)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write one self-contained HTML page.

        Args:
            path: of the file.

        Returns:
            The path.
        """
        from jaxdiff.reports import page

        return page.write(self, path)

    @as_written
    def check_grid(self) -> GridCheck:
        """By how much cells half as wide would move each estimate, in error bars, and how many cells would do.

        The fit goes on from its optimum on a grid with every cell cut in two along every axis: this compiles anew, and takes
        two to eight times as long an evaluation. On one axis `fit` says by itself where it is more than a third.

        Raises ValueError if the fit was loaded, a number is fitted for each cell, or the model holds on these cells alone.

        >>> import jax, jaxdiff as jd, numpy as np
        >>> grid, times = jd.Grid.uniform((0.0, 1.0, 8)), np.linspace(0.1, 0.5, 9)
        >>> values = np.cos(0.25 * np.pi) * np.exp(-0.5 * np.pi**2 * times)
        >>> start = lambda x: jax.numpy.cos(np.pi * x)
        >>> readings = jd.Readings(grid, start, times, np.full(9, 0.25), values, sigma=0.001)
        >>> check = jd.fit(jd.Diffusion(jd.Positive(0.4)), readings, progress=False).check_grid()
        >>> bool(abs(check.error_bars["diffusivity"]) > 1 / 3), check.cells[0][0] > 16
        (True, True)
        """
        from jaxdiff.inference.grid_check import check_grid

        return check_grid(self)

    @as_written
    def band(
        self,
        function: Callable[..., Any] | str,
        at: Any = None,
        *,
        level: float = 0.95,
        simultaneous: bool = True,
        draws: int = 2000,
        key: Any = None,
    ) -> Band:
        """A function of the fitted model along positions, with a band that holds it at each of them, and one that holds all of it.

            se² = J cov Jᵀ,   value ± q se at each position,   value ± c se at all,  c the quantile of max |J L n| / se, L Lᵀ = cov

        Where the function is positive as far as error bars reach both are taken of its logarithm. Where the variance is that of residuals
        quantiles are of Student's t. Of smooth splines the covariance is Bayesian, and
        includes the bias of smoothing.

        Args:
            function: function(model, x), or (model, x, y), of the fitted equation at one point; or the name of one of its
                coefficients: "drift", "diffusivity".
            at: positions, `(n,)` or `(n, ndim)`; None: 200 from the 1 % to the 99 % quantile of paths and samples, else across the grid.
            level: of both bands.
            simultaneous: whether to draw the one that holds everywhere.
            draws: for that.
            key: of jax.random, for these; None: jax.random.key(0).

        Returns:
            `Band`, in NumPy float64, with `plot()`.

        Raises:
            ValueError: a parameter that the function depends on has no error bar, the fit was loaded, or the function is no number or
                not finite somewhere.

        >>> import jax.numpy as jnp, jaxdiff as jd, numpy as np
        >>> grid, times = jd.Grid.uniform((0.0, 1.0, 8)), np.array([1.0, 2.0, 3.0])
        >>> readings = jd.Readings(grid, 1.0, times, np.full(3, 0.5), np.exp(-0.7 * times), sigma=0.01)
        >>> fit = jd.fit(jd.Diffusion(1.0, decay=jd.Positive(1.0)), readings, progress=False)
        >>> band = fit.band(lambda model, x: model.decay * (1 + x), [0.0, 1.0])
        >>> band.value.round(3), bool((band.lower < band.value).all()), round(band.critical, 1)
        (array([0.7, 1.4]), True, 2.0)

        Ruppert, Wand & Carroll 2003, Semiparametric Regression, sect. 6.5, doi:10.1017/CBO9780511755453.
        """
        from jaxdiff.inference.band import band

        return band(self, function, at, level, simultaneous, draws, key)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Store parameters, errors, intervals, covariance, loss, history and notes as JSON; neither the data nor the model.

        Args:
            path: of the file, which is there whole or not at all.

        Returns:
            The path.
        """
        text = json.dumps(self.record(), indent=1, allow_nan=False, ensure_ascii=False)
        return write_whole(path, text + "\n")

    def record(self) -> dict[str, Any]:
        """What `save` stores: numbers, lists and text; NaN and infinity as None."""
        names = "parameters standard_errors intervals start labels covariance loss loss_name validation_loss history".split()
        stored = {name: getattr(self, name) for name in (*names, "converged", "notes", "search")}
        numbers = lambda one: one if isinstance(one, (np.ndarray, np.generic)) else None
        known = [{name: numbers(one) for name, one in each.items()} for each in self.conditions]
        more: dict[str, Any] = {"conditions": known} if known else {}
        more |= {"validation_history": self.validation_history} if len(self.validation_history) else {}
        return finite({"format": FORMAT, **stored, "verdict": self.verdict.record(), **more})


_RENEWALS = 20  # of a predictor


@partial(quick_jit, static=0)
def _forward(function: Callable[..., Any] | None, given: Any, predictor: Any, experiment: Any) -> Any:
    """given: (model,), or what a function makes it of, (initial state, arguments, conditions)."""
    if function is None:
        return predictor.observed(*given, experiment)
    initial, arguments, conditions = given
    model = Observed.of(function(**arguments, **conditions))
    start = initial if model.initial is None else model.initial
    return predictor.observed(Observed(model.equation, start, model.observe), experiment)
