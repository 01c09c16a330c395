"""`descend`: a fit by gradient descent, whose predictors follow the parameters."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.inference import gradient_descent
from jaxdiff.inference.gradient_descent import Descent, OptaxState, Saved, Trained, finite, searches_lines, train
from jaxdiff.inference.levenberg_marquardt import LevenbergMarquardt
from jaxdiff.inference.levenberg_marquardt_steps import quadratic
from jaxdiff.inference.objective import Problem, draw
from jaxdiff.inference.quasi_newton import Search
from jaxdiff.inference.run import FEW, MANY, STEPS, Run, SearchResult, ended, value
from jaxdiff.measurements.states_at_times import Unplannable
from jaxdiff.runtime.checkpoints import digest
from jaxdiff.runtime.compilation import quick_jit

SEARCHES, WALKS = 500, 2000  # steps of a quasi-Newton method, and of others


def descend(
    run: Run,
    method: Descent,
    steps: int | None = None,
    batch_size: int | None = None,
    key: Any = None,
    validation: Run | None = None,
    callback: Callable[..., Any] | None = None,
    save: Any = None,
) -> SearchResult:
    """Minimise the loss of a run by gradient descent.

    validation: a run of the same model whose loss is that of the data held out; others as of `jd.fit`
    """
    optimizer, steps = method.transformation, steps or (SEARCHES if method.searches else WALKS)
    key = jax.random.key(0) if key is None else key
    file = None if save is None else _file(save, run, method, batch_size, key, validation)
    z = _start(run)
    if validation is not None:
        validation.parameters = run.parameters  # which have a scale of their own by now
    if file is not None and run.paths:
        run.prepare(z)  # anew, as what a session has not met before is planned by other roundings than what it has
    units = zip(run.measurements, run.objective.losses, strict=True)
    unit = sum(loss.unit(m) for m, loss in units)  # so that learning rates mean the same everywhere
    state = gradient_descent.init(optimizer, np.asarray(z), steps, key)

    def advance(state: OptaxState, until: int) -> OptaxState:
        return _portion((optimizer, batch_size, method.average), run.problem, unit, state, until)

    def renew(state: OptaxState) -> OptaxState | str:
        try:
            return _renewed(run, state, batch_size)
        except Unplannable as error:
            return f"not converged: {error}; take a smaller learning rate"

    def held_out(z: Any) -> float:
        assert validation is not None
        if not validation.predictors:
            validation.prepare(z)
        try:
            return validation.refresh(z)
        except Unplannable:
            return np.nan

    def own() -> dict[str, np.ndarray]:
        plans = {"": run.planned} | ({"held_out_": validation.planned} if validation is not None else {})
        each = {f"{name}planned": np.stack([z for z, _ in planned]) for name, planned in plans.items() if planned}
        each |= {f"{name}resolved": np.stack([one for _, one in planned]) for name, planned in plans.items() if planned}
        return each

    def restored(arrays: dict[str, np.ndarray]) -> None:
        run.replan(zip(arrays["planned"], arrays["resolved"], strict=True))
        if validation is not None and "held_out_planned" in arrays:
            validation.replan(zip(arrays["held_out_planned"], arrays["held_out_resolved"], strict=True))

    if file is not None:
        file.own, file.restored = own, restored
    told = None
    if callback is not None:

        def told(step: int, loss: float, held_out: float | None, z: Any) -> Any:
            return callback(step, loss, held_out, numbers(run, z))

    found = train(
        advance, state, steps, method, progress=run.progress, unit=unit, renew=renew, callback=told, save=file,
        validation=None if validation is None else held_out,
    )  # fmt: skip
    return _settle(run, found, method, unit, batch_size)


def numbers(run: Run, z: Any) -> dict[str, Any]:
    """The parameters at z, by name."""
    return run.parameters.split(np.asarray(run.parameters.transform(np.asarray(z)), float))


def _file(save: Any, run: Run, method: Descent, batch_size: Any, key: Any, validation: Run | None) -> Saved:
    problem = run.parameters, run.objective.model, run.objective.losses, run.measurements, run.options
    held_out = () if validation is None else validation.measurements
    how = method.transformation, method.patience, method.average, method.every, batch_size, jax.random.key_data(key)
    return Saved(save, digest(*problem, held_out, how))


def _start(run: Run) -> np.ndarray:
    """Where to start; few parameters, and those without a scale of their own, have the loss expanded there."""
    count = run.parameters.count
    if count <= FEW or (count <= MANY and not np.all(run.parameters.start)):
        first = run.first(LevenbergMarquardt(), STEPS)
        return run.start if run.rescale(first.here) else np.asarray(first.z)
    run.prepare(run.start)
    if not np.isfinite(value(run.problem, run.start)[0]):
        run.complain(run.start)
    return np.asarray(run.start)


def _renewed(run: Run, state: OptaxState, batch_size: int | None) -> OptaxState:
    """A run between two portions, its predictors such as the next one needs: those of paths anew where a search along lines, which
    keeps to what they resolve, may be held up."""
    z, search = np.asarray(state.z), state.optimizer
    if isinstance(search, Search):
        if not (search.held or state.needs_replan):
            return state
        if run.paths:
            run.prepare(z)
        if state.needs_replan or not run.paths:
            run.refresh(z)
        return state._replace(optimizer=search.anew())
    if run.paths and batch_size is None and searches_lines(state):
        with suppress(Unplannable):
            run.prepare(z)
        run.refresh(z)
    elif state.needs_replan:
        run.refresh(z)
    return state


def _settle(run: Run, found: Trained, method: Descent, unit: float, batch_size: int | None) -> SearchResult:
    """The result of a training: its best place by held-out data where that was asked for, else by whole data, else its average or its
    last one."""
    state, failure = found.state, found.ended if found.ended.startswith("not converged") else None
    sound, z = np.isfinite(state.z).all(), state.z
    if found.best is not None:
        z = found.best
    elif method.average is not None and sound:
        z = state.average
    elif batch_size is None or not sound:
        z = state.best
    z, notes = np.asarray(z), list(found.notes)
    here, history = None, unit * finite(state.history)
    if run.parameters.count <= MANY:
        here = run.follow(LevenbergMarquardt(), run.begin(z, LevenbergMarquardt(), STEPS), 0).here
    else:
        last = run.refresh(z)
        history = history if len(history) else np.array([last])
    cut = bool(found.ended) and failure is None
    note = f"not converged after {int(state.iteration)} steps; allow more with steps=, or change the optimiser"
    if cut:
        note = f"not converged: {found.ended}"
    if failure is None and not (sound and np.isfinite(history).all()):
        failure = "not converged: the loss left the finite numbers; take a smaller learning rate"
    if found.best is not None and np.isfinite(found.looks[:, 1]).any():
        notes.append(f"these are the parameters of step {found.best_step}, where the loss on held-out data was lowest")
    if failure is not None:
        converged, note = False, failure
    elif here is None:
        tail = history[-max(len(history) // 10, 2) :]
        still = float(np.ptp(tail))
        settled = len(tail) > 1 and still <= min(1e-5 * abs(float(tail[-1])), 1e-2 * float(np.ptp(history)))
        converged = not cut and (bool(state.done) or settled)
    else:
        kind, limit = run.parameters.transform.kind, run.parameters.transform.limit
        there, size = quadratic(here, z, limit), np.where(kind == 0, np.abs(z), 1.0)
        flat, small = not np.any(here.curvature), np.all(np.abs(there.step(0.0)) <= 1e-4 * size)
        converged = not flat and bool(small or there.decrement <= 1e-6 * jnp.abs(here.value))
    result = ended(z, here, history, converged, note)
    return result._replace(notes=(*result.notes, *notes), looks=found.looks, cut=cut)


@partial(quick_jit, static=0)
def _portion(how: tuple[Any, ...], problem: Problem, unit: Any, state: OptaxState, until: Any) -> OptaxState:
    """how: the transformation, the rows of a batch, and the decay of the moving average"""
    optimizer, size, average = how

    def loss(z: Any, key: Any) -> Any:
        total, resolved = problem.value(z, None if size is None else draw(problem.predictors, size, key))
        return total / unit, jnp.all(resolved)

    limit = problem.parameters.transform.limit
    return gradient_descent.run(loss, optimizer, limit, state, until, size is not None, average)
