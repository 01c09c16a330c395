"""`fit`: from a model and measurements to parameters with error bars."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxdiff.inference import approximations, grid_check, restarts, smooth_search
from jaxdiff.inference.descend import descend, numbers
from jaxdiff.inference.gradient_descent import Descent, checked_count, is_transformation
from jaxdiff.inference.input_noise import InputNoise, input_noise
from jaxdiff.inference.levenberg_marquardt import LevenbergMarquardt
from jaxdiff.inference.losses import choose, negative_log_likelihood
from jaxdiff.inference.noise_models import ERRORS, estimates, widening
from jaxdiff.inference.objective import Objective, assemble, one_or_all
from jaxdiff.inference.result import Fit
from jaxdiff.inference.run import FEW, MANY, STEPS, Run, SearchResult, on_host
from jaxdiff.inference.stored import load
from jaxdiff.inference.verdict import Verdict
from jaxdiff.integration.options import SolverOptions
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.model.equations import Equation
from jaxdiff.runtime.progress import Progress

__all__ = ["Fit", "LevenbergMarquardt", "fit", "load"]

OUTWEIGHED = 2.0  # times that noise of inputs widens error bars, from which on residuals are theirs


@on_host
def fit(
    model: Equation | Callable[..., Any],
    measurements: Measurement | list[Measurement] | tuple[Measurement, ...],
    *,
    parameters: Mapping[str, Any] | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    optimizer: Any = None,
    steps: int | None = None,
    batch_size: int | None = None,
    key: Any = None,
    validation: float | Measurement | list[Measurement] | None = None,
    scheme: Any = None,
    stepper: Any = None,
    substeps: int | None = None,
    tolerance: float | None = None,
    dtype: Any = None,
    errors: str = "auto",
    progress: bool = True,
    save: str | os.PathLike[str] | None = None,
    callback: Callable[[int, float, float | None, dict[str, Any]], Any] | None = None,
) -> Fit:
    """Fit what is marked in a model to measurements, with error bars.

        θ̂ = argmin Σ loss(prediction(θ), observation)

    Args:
        model: an equation, whose marked numbers are fitted; or a function of named parameters that returns one, or
            (equation, initial), so that one number may serve in several places.
        measurements: one, or several experiments.
        parameters: for a function, {name: start}; a start is a mark, or a bare number, which is Free.
        loss: None (mean square, Kullback–Leibler or likelihood, by the kind of measurement; the summed likelihood of
            several), `mse`, `kl_divergence`, `negative_log_likelihood`, a `Loss`, or your own loss(prediction, observation)
            → scalar.
        optimizer: None (Levenberg–Marquardt up to 64 parameters, else "lbfgs", "adam" with batches), `LevenbergMarquardt`, the name of an
            optimiser of optax like "adam", any optax transformation, or `Descent`, which adds early stopping and averages. It
            works on numbers of order one: start-relative, logarithms, logits; optax sees the loss per datum, mean squares
            relative to the spread of the data, your own loss as it is.
        steps: at most so many; None: 100 for Levenberg–Marquardt, 500 for lbfgs, 2000 for other transformations.
        batch_size: rows drawn anew for every step of an optax transformation. A model is solved for all rows together, so a
            step costs as much as without; it helps where noise of the gradient is wanted.
        key: of jax.random, by which these are drawn; None: jax.random.key(0).
        validation: a fraction to hold out (the last part in time), or measurements; its loss is reported, and decides where
            `Descent` has `patience`.
        scheme, stepper, substeps, tolerance: as in `solve`.
        dtype: float64 unless jnp.float32 is asked for, whatever the session's default.
        errors: "auto" fits readings again with AR(1) noise, e^(−Δt/τ) at each position, where their residuals are found
            correlated in time, and says so; "autocorrelated" does it in any case; "iid" takes noise as independent;
            "sandwich" takes the square of each residual for its variance (HC3), where noise is unequal and sigma unknown.
        progress: show a bar if it takes longer than a second, with the loss and the time left.
        save: a file for the state of gradient descent, from which the same call goes on after a kill, to the same numbers; one
            with more steps goes on too. At most a twentieth of the time goes into writing it.
        callback: called as callback(step, loss, loss on held-out data or None, {name: value}) between portions of steps; it
            ends the search by returning True.

    Ctrl-C ends the search, and what is best so far is returned with a note. For paths the start is improved by the densities of Euler steps, if these lead to a higher likelihood.

    Returns:
        `Fit`.

    Raises:
        ValueError: nothing is marked, a start is out of bounds, the model fails at the start, or data do not suit.
        TypeError: arguments of the wrong kind.

    >>> import jax, jaxdiff as jd, numpy as np
    >>> grid = jd.Grid.uniform((0.0, 1.0, 40))
    >>> times, places = np.linspace(0.01, 0.1, 10), np.full(10, 0.25)
    >>> values = 1 + np.cos(np.pi * places) * np.exp(-0.5 * np.pi**2 * times)
    >>> readings = jd.Readings(grid, lambda x: 1 + jax.numpy.cos(np.pi * x), times, places, values, sigma=0.01)
    >>> result = jd.fit(jd.Diffusion(jd.Positive(2.0)), readings, progress=False)
    >>> round(result.parameters["diffusivity"], 2), result.converged
    (0.5, True)

    HC3: MacKinnon & White 1985, doi:10.1016/0304-4076(85)90158-7.
    """
    if errors not in ERRORS:
        raise ValueError(f"errors must be {', '.join(map(repr, ERRORS[:-1]))} or {ERRORS[-1]!r}, got {errors!r}")
    optimizer, steps = checked_optimizer(optimizer), checked_count(steps, "steps")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function of (step, loss, held-out loss, parameters), got {callback!r}")
    batch_size = checked_count(batch_size, "batch_size")
    measured = as_tuple(measurements, "measurements")
    with precision(dtype):
        trained, held_out = hold_out(measured, validation)
        fitted, function, sources, held_out_sources = assemble(model, parameters, trained, held_out)
        objective = Objective(function, choose(loss, trained), *sources)
        default = optimizer is None and batch_size is None and save is None
        if optimizer is None:
            few = fitted.count <= FEW and batch_size is None and save is None
            optimizer = LevenbergMarquardt() if few else Descent("lbfgs" if batch_size is None else "adam")
        _check_training(optimizer, batch_size, save, trained, held_out)
        run = Run(objective, fitted, trained, SolverOptions(scheme, stepper, substeps, tolerance), Progress(progress))

        smooth = smooth_search.begin_smooth(run)
        if smooth and loss is None:  # by whose scale roughness counts
            run.objective = objective = replace(objective, losses=choose(negative_log_likelihood, trained))
        optimizer = smooth_search.checked(run, optimizer, default) if smooth else optimizer
        if smooth and callback is not None and isinstance(optimizer, LevenbergMarquardt):
            raise ValueError("callback is not called while strengths of smoothing are found; leave it out")
        held_out = seen_as_fitted(run, held_out)
        validated = _of_held_out(run, loss, held_out, held_out_sources)

        def minimise(run: Run, save: Any = None, callback: Any = None) -> SearchResult:
            if smooth and isinstance(optimizer, LevenbergMarquardt):
                return smooth_search.SmoothSearch(run).search(optimizer, steps or STEPS)
            if isinstance(optimizer, LevenbergMarquardt):
                told = None if callback is None else lambda *found: callback(*found[:3], numbers(run, found[3]))
                return run.levenberg_marquardt(optimizer, steps or STEPS, told, alone=True)
            return descend(run, optimizer, steps, batch_size, key, validated, callback, save)

        try:
            outcome = minimise(run, save, callback)
            found, z = finished(run, outcome, loss, measured, optimizer, errors)
            undetermined = restarts.undetermined(run, outcome, *found.columns()[:2])
            if not smooth and undetermined.any() and not outcome.cut and not outcome.looks.size:
                notes = restarts.unit_warning(run, run.start)
                if (better := restarts.better_fit(run, outcome, undetermined, minimise)) is not None:
                    notes += (restarts.describe(run, better[0], undetermined),)
                    run, outcome = better
                    found, z = finished(run, outcome, loss, measured, optimizer, errors)
                found = replace(found, notes=(*notes, *found.notes))
        finally:
            run.progress.close()
        if validated is None:
            return found
        validated.parameters = run.parameters
        last = validated.refresh(z) if validated.predictors else validated.value(z)
        return replace(found, held_out=held_out, validation_loss=last, validation_history=outcome.looks)


def _of_held_out(run: Run, loss: Any, held_out: tuple[Measurement, ...], sources: tuple[Any, Any]) -> Run | None:
    """The run whose loss is that of the data held out."""
    if not held_out:
        return None
    alone = loss is not None or len(run.measurements) == 1
    losses = choose(loss if alone else run.objective.losses[0], held_out)
    objective = Objective(run.objective.model, losses, *sources)
    return Run(objective, run.parameters, held_out, run.options, run.progress)


def _check_training(
    optimizer: Any, batch_size: int | None, save: Any, trained: tuple[Measurement, ...], held_out: Any
) -> None:
    """Refuse what does not go together."""
    for name, given in (("batch_size", batch_size), ("save", save)):
        if given is not None and isinstance(optimizer, LevenbergMarquardt):
            raise ValueError(f"{name} needs an optax transformation, got Levenberg–Marquardt; pass optimizer='adam'")
    if save is not None and not isinstance(save, (str, os.PathLike)):
        raise TypeError(f"save must be the path of a file, got {save!r}")
    if batch_size is not None and optimizer.searches:
        raise ValueError(
            "batch_size draws other rows for every step, and lbfgs compares the loss of its steps; pass optimizer='adam'"
        )
    if isinstance(optimizer, Descent) and optimizer.patience is not None and not held_out:
        raise ValueError("patience stops by the loss on held-out data, and there are none; pass validation=0.2")
    if batch_size is not None and batch_size > (most := max(one.count for one in trained)):
        raise ValueError(
            f"batch_size is larger than the data, got {batch_size} of {most} rows; take fewer, or leave it out"
        )


def finished(
    run: Run, outcome: SearchResult, loss: Any, measured: tuple[Measurement, ...], optimizer: Any, errors: str
) -> tuple[Fit, np.ndarray]:
    """(the fit that a search ended with, with error bars and notes; its z)."""
    outcome = outcome._replace(here=run.observed(outcome.z, outcome.here))
    many = f"more than {MANY} parameters are fitted"
    reason = many if outcome.here is None else no_noise(run.objective, run.measurements)
    inputs = input_noise(run, outcome.z, outcome.here) if reason is None else InputNoise()
    if errors == "auto" and np.any(inputs.covariance):
        errors = "iid"  # what inputs err by is alike in many readings, and no correlation of their noise
    found = estimates(run, outcome, optimizer, errors, reason)
    if found.z is not outcome.z and reason is None:
        inputs = input_noise(run, found.z, found.here)
    bare = found.uncertainty
    found, uncertainty = found.with_inputs(inputs, run)
    z, here = found.z, found.here
    smoothed = None if run.smoothing is None or here is None else smooth_search.prior(run, z, here)
    notes = (
        *outcome.notes,
        *(smoothed.notes if smoothed else ()),
        *grid_check.warning(run, z, here, uncertainty.errors),
        *uncertainty.notes,
        *found.notes,
    )
    verdict = None
    if np.any(inputs.covariance) and widening(uncertainty, bare()) > OUTWEIGHED:
        verdict = Verdict(None, (f"the noise of {inputs.source} outweighs that of the readings",))
    fit = as_fit(
        run,
        np.asarray(run.parameters.transform(z), float),
        uncertainty,
        loss=smoothed.loss if smoothed else float(outcome.history[-1]) if here is None else float(here.value),
        loss_name=loss_name(run.objective, loss, len(measured)),
        history=outcome.history,
        converged=outcome.converged,
        search=f"{optimizer}, in {'double' if jax.dtypes.canonicalize_dtype(float) == np.float64 else 'single'} precision{', with errors of the sandwich form' if errors == 'sandwich' else ''}",
        notes=(
            *notes,
            *approximations.upwind(run, z),
            *approximations.beyond(run, z),
            *approximations.of_predictors(run, z),
            *(note for one in measured for note in one.notes),
        ),
        correlation_times=found.correlation_times,
        predictions=inputs.predictions or (() if here is None else here.predictions),
        judged=verdict,
        smooths=smoothed.smooths if smoothed else (),
        degrees_of_freedom=smoothed.freedom if smoothed else float(run.parameters.count),
    )
    return fit, z


def loss_name(objective: Objective, loss: Any, experiments: int) -> str:
    return "likelihood" if loss is None and experiments > 1 else objective.losses[0].name


def as_fit(run: Run, x: np.ndarray, uncertainty: Any, **results: Any) -> Fit:
    """The fit whose parameters are x, with the covariance, errors and intervals of `uncertainty`."""
    fitted = run.parameters
    tree = jax.tree.map(np.asarray, fitted.rebuild(x))
    models = run.objective.unpack(tree)
    initials = tuple(model.initial for model in models)
    equations = tuple(model.equation for model in models)
    states = tree["initial"].values() if isinstance(tree["initial"], dict) else [tree["initial"]]
    from_model = not all(any(initial is state for state in states) for initial in initials)  # for any measurement
    any_known = any(one.conditions for one in run.measurements)
    own = (None if from_model else getattr(m, "initial", None) for m in run.measurements)
    return Fit(
        model=one_or_all(equations),
        initial=one_or_all(initials),
        parameters=fitted.split(x),
        start=fitted.split(np.asarray(fitted.start)),
        standard_errors=fitted.split(uncertainty.errors),
        intervals=fitted.intervals(uncertainty.intervals),
        labels=fitted.labels,
        covariance=uncertainty.covariance,
        measurements=run.measurements,
        initials=tuple(zip(own, initials, strict=True)),
        models=models,
        function=run.objective.model,
        arguments={} if run.objective.model is None else dict(tree[""]),
        options=run.options,
        problem=run.problem,
        conditions=tuple(one.conditions or {} for one in run.measurements) if any_known else (),
        **results,
    )


def seen_as_fitted(run: Run, held_out: tuple[Measurement, ...]) -> tuple[Measurement, ...]:
    """Measurements held out, their sensors and experiments counted as in the fit."""
    models = run.at(run.start) if held_out and run.objective.model is not None else ()
    needs = lambda name: any(model.needs(name) for model in models)
    alike = len(held_out) == len(run.measurements)
    if needs("experiment") and not alike:
        raise ValueError(
            "what is observed differs between experiments; hold out a measurement of each, in their order, or a fraction"
        )
    if not needs("sensor"):
        return held_out
    fitted = [(one,) for one in run.measurements] if alike else [run.measurements] * len(held_out)
    return tuple(
        one if any(one.belongs_to(m) for m in others) else one.with_sensors_of(others)
        for one, others in zip(held_out, fitted, strict=True)
    )


def hold_out(
    measured: tuple[Measurement, ...], validation: Any
) -> tuple[tuple[Measurement, ...], tuple[Measurement, ...]]:
    """(measurements to fit, measurements held out)."""
    if validation is None:
        return measured, ()
    if isinstance(validation, (int, float)) and not isinstance(validation, bool):
        if not 0 < validation < 1:
            raise ValueError(
                f"validation must be a fraction between 0 and 1, or measurements, got {validation}; use 0.2 for a fifth"
            )
        parts = [measurement.split(float(validation)) for measurement in measured]
        return tuple(first for first, _ in parts), tuple(last for _, last in parts)
    return measured, as_tuple(validation, "validation")


def as_tuple(measurements: Any, name: str) -> tuple[Measurement, ...]:
    several = tuple(measurements) if isinstance(measurements, (list, tuple)) else (measurements,)
    if not several:
        raise ValueError(
            f"{name} must hold at least one measurement, got none; pass jd.Readings, jd.Histograms or jd.Trajectory"
        )
    for one in several:
        if not isinstance(one, Measurement):
            raise TypeError(
                f"{name} must be jd.Readings, jd.Histograms or jd.Trajectory, got {type(one).__name__}; wrap the data in one"
            )
    return several


def precision(dtype: Any) -> Any:
    """The context in which a fit computes: float64, or float32 if that is asked for."""
    wanted = np.dtype(np.float64 if dtype is None else dtype)
    if wanted not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"dtype must be float64 or float32, got {wanted}; leave it away for float64")
    return jax.enable_x64(wanted == np.dtype(np.float64))


def checked_optimizer(optimizer: Any) -> Any:
    if optimizer is LevenbergMarquardt or (isinstance(optimizer, str) and optimizer == "levenberg_marquardt"):
        return LevenbergMarquardt()
    if isinstance(optimizer, str) or is_transformation(optimizer):
        return Descent(optimizer)
    if not (optimizer is None or isinstance(optimizer, (LevenbergMarquardt, Descent))):
        raise TypeError(
            f"optimizer must be a name like 'adam', jd.Descent(…), jd.LevenbergMarquardt() or an optax transformation like optax.adam(0.01), got {optimizer!r}"
        )
    return optimizer


def no_noise(objective: Objective, measurements: tuple[Measurement, ...]) -> str | None:
    """Why the noise of the data is not known, or None."""
    reasons = map(lambda loss, measurement: loss.no_noise(measurement), objective.losses, measurements)
    return next((reason for reason in reasons if reason is not None), None)
