"""From a model and measurements to parameters with error bars."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxdiff.inference import grid_check, restarts
from jaxdiff.inference.gradient_descent import default_descent, is_optax
from jaxdiff.inference.input_noise import InputNoise, input_noise
from jaxdiff.inference.levenberg_marquardt import LevenbergMarquardt
from jaxdiff.inference.losses import choose
from jaxdiff.inference.noise_models import ERRORS, repaired, widened
from jaxdiff.inference.objective import Objective, assemble
from jaxdiff.inference.result import Fit, load
from jaxdiff.inference.run import MANY, STEPS, Run, SearchResult, on_host
from jaxdiff.inference.verdict import Verdict
from jaxdiff.integration.options import SolverOptions
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.model.equations import Equation
from jaxdiff.parameters import Parameters
from jaxdiff.runtime.progress import Progress

__all__ = ["Fit", "LevenbergMarquardt", "fit", "load"]

OUTWEIGHED = 2.0  # times that noise of inputs widens error bars, from which on residuals are theirs
FEW = 64  # parameters for which a dense Jacobian is the better bargain


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
        optimizer: None (Levenberg–Marquardt up to 64 parameters, else optax.lbfgs), `LevenbergMarquardt`, or any optax
            transformation. It works on numbers of order one: start-relative, logarithms, logits; optax sees the loss per
            datum, mean squares relative to the spread of the data, your own loss as it is.
        steps: at most so many; None: 100 for Levenberg–Marquardt, 500 for lbfgs, 2000 for other transformations.
        batch_size: rows drawn anew for every step of an optax transformation.
        key: of jax.random, by which these are drawn; None: jax.random.key(0).
        validation: a fraction to hold out (the last part in time), or measurements; its loss is reported.
        scheme, stepper, substeps, tolerance: as in `solve`.
        dtype: float64 unless jnp.float32 is asked for, whatever the session's default.
        errors: "auto" fits readings again with AR(1) noise, e^(−Δt/τ) at each position, where their residuals are found
            correlated in time, and says so; "autocorrelated" does it in any case; "iid" takes noise as independent;
            "sandwich" takes the square of each residual for its variance (HC3), where noise is unequal and sigma unknown.
        progress: show a bar if it takes longer than a second.

    For paths the start is improved by the densities of Euler steps, if these lead to a higher likelihood.

    Returns:
        `Fit`.

    Raises:
        ValueError: nothing is marked, a start is out of bounds, the model fails at the start, or data do not suit.
        TypeError: arguments of the wrong kind.

    >>> import jaxdiff as jd, numpy as np
    >>> grid = jd.Grid.uniform((0.0, 1.0, 40))
    >>> times, places = np.linspace(0.01, 0.1, 10), np.full(10, 0.25)
    >>> values = 1 + np.cos(np.pi * places) * np.exp(-0.5 * np.pi**2 * times)
    >>> readings = jd.Readings(grid, lambda x: 1 + jax.numpy.cos(np.pi * x), times, places, values, sigma=0.01)
    >>> result = jd.fit(jd.Diffusion(jd.Positive(2.0)), readings, progress=False)
    >>> round(result.parameters["diffusivity"], 2), result.converged
    (0.5, True)

    HC3: MacKinnon & White 1985, doi:10.1016/0304-4076(85)90158-7.
    """
    narrow = is_narrow(dtype)
    if errors not in ERRORS:
        raise ValueError(f"errors must be {', '.join(map(repr, ERRORS[:-1]))} or {ERRORS[-1]!r}, got {errors!r}")
    optimizer, steps = _checked_optimizer(optimizer), checked_count(steps, "steps")
    batch_size = checked_count(batch_size, "batch_size")
    measured = as_tuple(measurements, "measurements")
    with jax.enable_x64(not narrow):
        trained, held = _hold_out(measured, validation)
        fitted, function, which, beside = assemble(model, parameters, trained, held)
        objective = Objective(function, choose(loss, trained), which)
        few = fitted.count <= FEW
        if optimizer is None:
            optimizer = LevenbergMarquardt() if few and batch_size is None else default_descent()
        if batch_size is not None and isinstance(optimizer, LevenbergMarquardt):
            raise ValueError(
                "batch_size needs an optax transformation, got Levenberg–Marquardt; pass optimizer=optax.adam(0.01)"
            )
        run = Run(objective, fitted, trained, SolverOptions(scheme, stepper, substeps, tolerance), Progress(progress))
        some = steps or (
            STEPS if isinstance(optimizer, LevenbergMarquardt) else 500 if optimizer is default_descent() else 2000
        )

        def go(run: Run) -> SearchResult:
            if isinstance(optimizer, LevenbergMarquardt):
                return run.levenberg_marquardt(optimizer, some)
            return run.descend(optimizer, some, batch_size, key)

        try:
            outcome = go(run)
            found, z = settled(run, outcome, loss, measured, optimizer, errors)
            seen = ~restarts.blind(run, outcome, *found.columns()[:2])
            if not seen.all():
                ask = restarts.units(run, run.start)
                if (better := restarts.elsewhere(run, outcome, seen, go)) is not None:
                    note, (run, outcome) = restarts.told(run, better[0], seen), better
                    found, z = settled(run, outcome, loss, measured, optimizer, errors)
                    found = replace(found, notes=(note, *found.notes))
                if ask is not None:
                    found = replace(found, notes=(ask, *found.notes))
        finally:
            run.progress.close()
        if not held:
            return found
        losses = choose(loss if loss is not None or len(trained) == 1 else objective.losses[0], held)
        apart = Run(Objective(function, losses, beside), run.parameters, held, run.options, run.progress)
        return replace(found, held_out=held, validation_loss=apart.value(z))


def settled(
    run: Run, outcome: SearchResult, loss: Any, measured: tuple[Measurement, ...], optimizer: Any, errors: str
) -> tuple[Fit, np.ndarray]:
    """(what a run found in what was measured, with error bars; where that is)."""
    fitted, trained = run.parameters, run.measurements
    reason = no_noise(run.objective, trained) if outcome.here is not None else f"more than {MANY} parameters are fitted"
    inputs = input_noise(run, outcome.z, outcome.here) if reason is None else InputNoise()
    if errors == "auto" and np.any(inputs.covariance):
        errors = "iid"  # what inputs err by is alike in many readings, and no memory of theirs
    mended = repaired(run, outcome, optimizer, errors, reason)
    if mended.z is not outcome.z and reason is None:
        inputs = input_noise(run, mended.z, mended.here)
    (z, here, _, notes, times), bars = mended.beside(inputs, run)
    remarks = (*outcome.notes, *grid_check.remark(run, z, here, bars), *bars.notes, *notes)
    remarks += tuple(note for one in measured for note in one.notes)
    judged = None
    if np.any(inputs.covariance) and widened(bars, mended.bars()) > OUTWEIGHED:
        judged = Verdict(None, (f"the noise of {inputs.notes[0]} outweighs that of the readings",))
    found = as_fit(
        run,
        np.asarray(fitted.transform(z), float),
        bars,
        loss=float(outcome.history[-1]) if here is None else float(here.value),
        loss_name=loss_name(run.objective, loss, len(measured)),
        history=outcome.history,
        converged=outcome.converged,
        notes=remarks,
        correlation_times=times,
        seen=inputs.seen or (() if here is None else here.seen),
        judged=judged,
    )
    return found, z


def loss_name(objective: Objective, loss: Any, experiments: int) -> str:
    return "likelihood" if loss is None and experiments > 1 else objective.losses[0].name


def as_fit(run: Run, x: np.ndarray, bars: Any, **told: Any) -> Fit:
    """The fit whose parameters are x, with covariance, errors and intervals as in `bars`."""
    fitted = run.parameters
    tree = jax.tree.map(np.asarray, fitted.rebuild(x))
    equation, initials = run.objective.unpack(tree)
    states = tree["initial"].values() if isinstance(tree["initial"], dict) else [tree["initial"]]
    made = not all(
        any(initial is state for state in states) for initial in initials
    )  # by the model, for any measurement
    own = (None if made else getattr(m, "initial", None) for m in run.measurements)
    return Fit(
        model=equation,
        initial=initials[0] if all(initial is initials[0] for initial in initials) else initials,
        parameters=fitted.split(x),
        start=fitted.split(np.asarray(fitted.start)),
        standard_errors=fitted.split(bars.errors),
        intervals=_intervals(fitted, bars.intervals),
        labels=fitted.labels,
        covariance=bars.covariance,
        measurements=run.measurements,
        initials=tuple(zip(own, initials, strict=True)),
        options=run.options,
        problem=run.problem,
        **told,
    )


def _hold_out(
    measured: tuple[Measurement, ...], validation: Any
) -> tuple[tuple[Measurement, ...], tuple[Measurement, ...]]:
    """(fitted, held out)."""
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


def is_narrow(dtype: Any) -> bool:
    wanted = np.dtype(np.float64 if dtype is None else dtype)
    if wanted not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"dtype must be float64 or float32, got {wanted}; leave it away for float64")
    return wanted == np.dtype(np.float32)


_MOST = 10_000_000  # of anything that is counted


def checked_count(value: int | None, name: str) -> int | None:
    if value is not None and (
        isinstance(value, (bool, str)) or not np.isfinite(value) or int(value) != value or value < 1
    ):
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    if value is not None and value > _MOST:
        raise ValueError(f"{name} must be at most {_MOST}, got {value}; take fewer")
    return None if value is None else int(value)


def _checked_optimizer(optimizer: Any) -> Any:
    if optimizer is LevenbergMarquardt:
        return LevenbergMarquardt()
    if optimizer is not None and not isinstance(optimizer, LevenbergMarquardt) and not is_optax(optimizer):
        raise TypeError(
            f"optimizer must be jd.LevenbergMarquardt() or an optax transformation like optax.adam(0.01), got {optimizer!r}"
        )
    return optimizer


def no_noise(objective: Objective, measurements: tuple[Measurement, ...]) -> str | None:
    """Why the data tell nothing about their noise, or None."""
    pairs = zip(objective.losses, measurements, strict=True)
    return next((reason for loss, measurement in pairs if (reason := loss.no_noise(measurement)) is not None), None)


def _intervals(parameters: Parameters, ends: np.ndarray) -> dict[str, tuple[Any, Any]]:
    lower, upper = parameters.split(ends[:, 0]), parameters.split(ends[:, 1])
    return {name: (lower[name], upper[name]) for name in lower}
