"""One fit under way: plans that follow the parameters where they must, and loops over compiled code."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.inference.gradient_descent import Walk, finite, searches, set_out, wander
from jaxdiff.inference.levenberg_marquardt import LevenbergMarquardt
from jaxdiff.inference.losses import BUILT_IN, Expansion, mse, negative_log_likelihood
from jaxdiff.inference.objective import Objective, draw, start_vector, unseen
from jaxdiff.inference.trust_region import State, advance, begin, quadratic, rescaled
from jaxdiff.integration.options import SolverOptions
from jaxdiff.measurements.states_at_times import Unplannable
from jaxdiff.model.equations import Equation
from jaxdiff.parameters import Parameters, marked
from jaxdiff.runtime.compilation import as_written, quick_jit
from jaxdiff.runtime.conditions import raise_failed
from jaxdiff.runtime.progress import Progress

MANY = 300  # parameters beyond which no curvature is computed
STEPS = 100  # of Levenberg–Marquardt, unless told otherwise
RENEWALS = 50  # of plans within one fit
RETREATS = 30  # in a row, from coefficients that no plan resolves
PLAN_STEPS = 10  # of an optax transformation between two looks at the plans
_PACES: dict[Objective, float] = {}  # seconds an evaluation last took: tells a repeated fit how far it may run at once


_P = ParamSpec("_P")
_T = TypeVar("_T")


def on_host(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Refuse to look at numbers under a transformation of JAX, where there are none; tell what no plan can follow as a
    plain `ValueError`."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        found = (jnp.zeros(()), *jax.tree.leaves((args, list(kwargs.values()))))
        if any(isinstance(leaf, jax.core.Tracer) for leaf in found):
            raise TypeError(
                f"{function.__name__} decides by numbers and got tracers, as inside jax.jit, vmap or grad; call it outside, and jd.fit_many for many data sets"
            )
        try:
            return as_written(function)(*args, **kwargs)
        except Unplannable as error:
            raise ValueError(str(error)) from None

    return call


class Outcome:
    """Where a run ended: z, the loss around it (None for very many parameters), history, convergence, remarks."""

    def __init__(self, z: Any, here: Expansion | None, history: Any, converged: bool, note: str):
        self.z, self.here, self.history = np.asarray(z, float), here, finite(history)
        self.converged, self.notes = converged, () if converged else (note,)


class Run:
    """The changing half of a fit: parameters, plans and options."""

    def __init__(
        self,
        objective: Objective,
        parameters: Parameters,
        measurements: Any,
        options: SolverOptions,
        progress: Progress,
    ):
        self.objective, self.parameters, self.measurements = objective, parameters, measurements
        self.options, self.progress = options, progress
        self.start = start_vector(parameters)
        self.plans: Any = ()
        self.renewals = self.retreats = 0
        self.pace = _PACES.get(objective, 0.0)  # seconds an evaluation
        self.compiled = LevenbergMarquardt(), STEPS
        self.refused = ""  # why a trial had to be given up last

    @property
    def paths(self) -> bool:
        return any(not m.on_cells for m in self.measurements)

    def prepare(self, z: Any) -> None:
        """Plans for the coefficients at z, where nothing that is fitted counts as zero and so as absent."""
        free = np.asarray(self.parameters.transform.kind) == 0
        equation, initials = self._at(np.where(free & (np.asarray(z) == 0), 1.0, z) if not self.paths else z)
        parts = zip(self.measurements, initials, self.objective.losses, strict=True)
        try:
            plans = [m.prepare(equation, initial, loss in BUILT_IN, self.options) for m, initial, loss in parts]
        except Unplannable as error:
            raise Unplannable(f"{error}; this was at {self._named(z)}") from None
        self.plans = tuple(plans)

    def renew(self, z: Any, resolved: Any) -> None:
        """Plans that resolve the coefficients at z, where those at hand do not."""
        self.renewals += 1
        if self.renewals > RENEWALS:
            raise Unplannable(
                f"the fit runs into coefficients that cannot be resolved, {self._named(z)}; bound them with jd.Bounded"
            )
        equation, _ = self._at(z)
        checks: Any = (None,) * len(self.plans)
        if any(m.on_cells and not fine for m, fine in zip(self.measurements, resolved, strict=True)):
            checks = [p.checks for p in _predict(self.objective, self.parameters, self.plans, np.asarray(z))]
        parts = zip(self.plans, self.measurements, resolved, checks, strict=True)
        self.plans = tuple(plan if fine else plan.renewed(m, equation, found) for plan, m, fine, found in parts)

    def _at(self, z: Any) -> Any:
        x = np.asarray(self.parameters.transform(np.asarray(z)))
        equation, initials = self.objective.unpack(self.parameters.rebuild(x))
        if not isinstance(equation, Equation):
            raise TypeError(f"the model must return an equation or (equation, initial), got {type(equation).__name__}")
        if marked(equation):
            raise ValueError(
                "the equation that the model returns holds marks; mark the starts in parameters= instead, and give a Spline jd.Fixed(values)"
            )
        return equation, initials

    def _named(self, z: Any) -> str:
        x = np.asarray(self.parameters.transform(np.asarray(z)))
        return ", ".join(f"{label} = {value:.4g}" for label, value in zip(self.parameters.labels, x, strict=True))

    def levenberg_marquardt(self, method: LevenbergMarquardt, steps: int) -> Outcome:
        state = self._first(method, steps, go_on=True)
        if self.rescale(state.here):
            state = self._resolved(method, begin(self.start, len(self.plans), steps, method.damping), 0)
        lost = None
        while not (state.converged or state.stalled or state.iteration >= steps):
            try:
                state = self._resolved(
                    method, state, min(steps, int(state.iteration) + self.progress.portion(self.pace))
                )
            except Unplannable as error:
                lost = str(error)
                break
            self.progress.show(int(state.iteration), steps, float(state.here.value))
        reason = "no step improves the loss any more; check the model, or start elsewhere"
        if lost is not None:
            reason = lost
        elif self.refused:
            reason = f"the loss falls towards coefficients that cannot be followed: {self.refused}"
        elif not state.stalled:
            reason = f"{int(state.iteration)} steps were not enough; allow more with steps=, or start closer"
        return Outcome(state.z, state.here, state.history, bool(state.converged), f"not converged: {reason}")

    def _resolved(self, method: LevenbergMarquardt, state: State, until: int) -> State:
        """Go on to `until`, with new plans wherever the parameters have outrun them."""
        while True:
            state = self._advance(method, state, until)
            if state.here.resolved.all():
                return state
            z, damping, retreat = state.z, state.damping, False
            try:
                self.renew(z, state.here.resolved)
                self.retreats = 0
            except Unplannable as error:
                self.retreats, self.refused = self.retreats + 1, str(error)
                if np.array_equal(z, state.good) or self.retreats > RETREATS:
                    raise Unplannable(f"{error}; this was at {self._named(z)}") from None
                # as after any trial that did not help, but that the plan at hand had let it pass
                z, damping, retreat = state.good, np.maximum(3 * damping, 1e-2) * 2.0**self.retreats, True
            fresh = self._at_place(method, state, z)
            before = state.history[max(int(state.iteration) - 1, 0)]
            if not retreat and state.iteration > 0 and fresh.here.resolved.all() and not fresh.here.value <= before:
                # seen by a plan that resolves it, the step did not help
                damping, retreat = np.maximum(3 * damping, 1e-2), True
                fresh = self._at_place(method, state, state.good)
            history = state.history.copy()
            history[int(state.iteration)] = fresh.here.value
            state = fresh._replace(damping=damping, iteration=state.iteration, history=history)

    def _at_place(self, method: LevenbergMarquardt, state: State, z: Any) -> State:
        """A run that starts anew at z, by the plans at hand."""
        fresh = begin(z, len(self.plans), len(state.history) - 1, method.damping)
        return self._advance(method, fresh._replace(good=state.good), 0)

    def _advance(self, method: LevenbergMarquardt, state: State, until: int) -> State:
        """Compiled iterations, and the state in NumPy: what looks at it next is not worth compiling."""
        before, began = int(state.iteration), time.perf_counter()
        self.compiled = method, len(state.history) - 1
        state = state._replace(here=state.here._replace(seen=state.here.seen or unseen(self.plans, state.z)))
        state = _advance(self.objective, method.tolerance, self.parameters, self.plans, state, until)
        state = jax.tree.map(np.asarray, state)
        self.pace = (time.perf_counter() - began) / max(int(state.iteration) - before, 1)
        if len(_PACES) >= 256:  # fresh lambdas are fresh objectives
            _PACES.clear()
        _PACES[self.objective] = self.pace
        return state

    def around(self, z: Any) -> Expansion:
        """The loss around z by the plans at hand, from the program that was compiled last."""
        method, steps = self.compiled
        return self._advance(method, begin(z, len(self.plans), steps, method.damping), 0).here

    def _first(self, method: LevenbergMarquardt, steps: int, go_on: bool = False) -> State:
        """The loss at the start; for paths, at the optimum of their Euler densities unless the start is better.

        go_on: take the first steps at once, where they are quick and no scale depends on the start
        """
        start, rough = self.start, self._rough()
        if rough is not None:
            try:
                self.prepare(rough)
                state = self._resolved(method, begin(rough, len(self.plans), steps, method.damping), 0)
                given = self._advance(method, begin(start, len(self.plans), steps, method.damping), 0)
                if np.isfinite(state.here.value):
                    better = np.all(given.here.resolved) and given.here.value < state.here.value
                    return given if better else state
            except ValueError:
                pass  # Euler steps may lead astray; the start says what is wrong
        self.prepare(self.start)
        ahead = self.progress.portion(self.pace) - 1 if go_on and np.all(self.parameters.start) else 0
        state = self._resolved(method, begin(start, len(self.plans), steps, method.damping), min(ahead, steps))
        if not np.isfinite(state.here.value):
            self.complain(self.start)
        return state

    def _rough(self) -> np.ndarray | None:
        """Where the Euler densities of all paths are largest."""
        if not self.paths:
            return None
        self._at(self.start)
        plans = tuple(m.rough() for m in self.measurements if not m.on_cells)
        z, here = _euler(self.objective, self.parameters, plans, self.start)
        if self.rescale(here):
            z, _ = _euler(self.objective, self.parameters, plans, self.start)
        return np.asarray(z) if np.isfinite(z).all() else None

    def rescale(self, here: Expansion) -> bool:
        """Whether a Free number that starts at zero has taken a scale from the loss there."""
        scaled = rescaled(self.parameters, here)
        self.parameters = scaled or self.parameters
        return scaled is not None

    def descend(self, optimizer: Any, steps: int, batch_size: int | None, key: Any) -> Outcome:
        key = jax.random.key(0) if key is None else key
        if self.parameters.count <= MANY:
            state = self._first(LevenbergMarquardt(), STEPS)
            z = self.start if self.rescale(state.here) else np.asarray(state.z)
        else:
            self.prepare(self.start)
            z = self.start
            if not np.isfinite(_values(self.objective, self.parameters, self.plans, z)[0]).all():
                self.complain(z)
        unit = self._unit()
        walk = set_out(optimizer, np.asarray(z), steps, key)
        self._centre(walk, batch_size)
        pace, lost = 0.0, None
        while int(walk.iteration) < steps and not walk.done:
            before, began = int(walk.iteration), time.perf_counter()
            until = before + PLAN_STEPS * (1 if self.paths else self.progress.portion(pace))
            walk = _wander(
                self.objective, optimizer, batch_size, self.parameters, self.plans, unit, walk, min(steps, until)
            )
            walk = jax.block_until_ready(walk)
            pace = PLAN_STEPS * (time.perf_counter() - began) / max(int(walk.iteration) - before, 1)
            self.progress.show(int(walk.iteration), steps, unit * float(walk.history[max(int(walk.iteration) - 1, 0)]))
            try:
                if np.isfinite(walk.z).all():
                    self._centre(walk, batch_size)
            except Unplannable as error:
                lost = f"not converged: {error}; take a smaller learning rate"
                walk = walk._replace(z=z, place=z)
                break
            walk = walk._replace(stale=np.asarray(False))
            z = np.asarray(walk.z if np.isfinite(walk.z).all() else z)
        return self._settle(walk, unit, batch_size, lost)

    def _around(self, z: np.ndarray) -> Expansion | None:
        """The loss around z, by plans that resolve it; None if there are too many parameters to ask for curvature."""
        if self.parameters.count <= MANY:
            return self._resolved(
                LevenbergMarquardt(), begin(z, len(self.plans), STEPS, LevenbergMarquardt().damping), 0
            ).here
        self._refresh(z)
        return None

    def _centre(self, walk: Walk, batch_size: int | None) -> None:
        """Plans around a walk: those of paths anew where a line search keeps to what they resolve."""
        z = np.asarray(walk.z)
        if self.paths and batch_size is None and searches(walk):
            with suppress(Unplannable):
                self.prepare(z)
        self._refresh(z)

    def _refresh(self, z: np.ndarray) -> None:
        """Plans that resolve the coefficients at z."""
        while not (fine := np.asarray(_values(self.objective, self.parameters, self.plans, z)[1])).all():
            self.renew(z, fine)

    def _settle(self, walk: Walk, unit: float, batch_size: int | None, lost: str | None) -> Outcome:
        z = np.asarray(walk.place if batch_size is None or not np.isfinite(walk.z).all() else walk.z)
        here = self._around(z)
        history = unit * finite(walk.history)
        if lost is not None:
            return Outcome(z, here, history, False, lost)
        if not (np.isfinite(walk.z).all() and np.isfinite(history).all()):
            return Outcome(
                z, here, history, False, "not converged: the loss left the finite numbers; take a smaller learning rate"
            )
        if here is None:
            tail = history[-max(len(history) // 10, 2) :]
            converged = bool(walk.done) or float(np.ptp(tail)) <= 1e-5 * abs(float(tail[-1]))
        else:
            kind, limit = self.parameters.transform.kind, self.parameters.transform.limit
            there = quadratic(here, z, limit)
            size = np.where(kind == 0, np.abs(z), 1.0)
            converged = bool(there.decrement <= 1e-6 * jnp.abs(here.value)) or bool(
                np.all(np.abs(there.step(0.0)) <= 1e-4 * size)
            )
        note = f"not converged after {int(walk.iteration)} steps; allow more with steps=, or change the optimiser"
        return Outcome(z, here, history, converged, note)

    def _unit(self) -> float:
        """What the loss is divided by for optax, so that learning rates mean the same everywhere."""
        total = 0.0
        for m, loss in zip(self.measurements, self.objective.losses, strict=True):
            if loss is negative_log_likelihood:
                total += m.count
            elif loss is mse:
                total += float(np.var(m.residuals(0.0))) or 1.0
            else:
                total += 1.0
        return total

    def value(self, z: Any) -> float:
        """The loss at z."""
        self.prepare(z)
        while True:
            values, fine = _values(self.objective, self.parameters, self.plans, z)
            if np.all(fine):
                return float(np.sum(values))
            self.renew(z, np.asarray(fine))

    def complain(self, z: Any) -> None:
        """The model fails at the start: say why."""
        for prediction in _predict(self.objective, self.parameters, self.plans, np.asarray(z)):
            raise_failed(prediction.checks)
        raise ValueError(
            f"the loss is not finite at the start, {self._named(z)}; start elsewhere, or check coefficients and data"
        )


@partial(quick_jit, static=(0, 1))
def _advance(
    objective: Objective, tolerance: float, parameters: Parameters, plans: Any, state: State, until: Any
) -> State:
    transform = parameters.transform
    return advance(
        lambda z: objective.expand(parameters, plans, z), transform.kind, transform.limit, state, until, tolerance
    )


@partial(quick_jit, static=0)
def _euler(objective: Objective, parameters: Parameters, plans: Any, z: Any) -> Any:
    transform = parameters.transform
    expand = lambda point: objective.euler(parameters, plans, point)
    return advance(expand, transform.kind, transform.limit, begin(z, 1, 100, 1e-3), 100, 1e-8)[:2]


@partial(quick_jit, static=0)
def _values(objective: Objective, parameters: Parameters, plans: Any, z: Any) -> Any:
    return objective.values(parameters, plans, z)


@partial(quick_jit, static=0)
def _predict(objective: Objective, parameters: Parameters, plans: Any, z: Any) -> Any:
    return objective.predict(parameters, plans, z)


@partial(quick_jit, static=(0, 1, 2))
def _wander(
    objective: Objective,
    optimizer: Any,
    size: int | None,
    parameters: Parameters,
    plans: Any,
    unit: Any,
    walk: Walk,
    until: Any,
) -> Walk:
    def loss(z: Any, key: Any) -> Any:
        batch = None if size is None else draw(plans, size, key)
        values, fine = objective.values(parameters, plans, z, batch)
        return jnp.sum(values) / unit, jnp.all(fine)

    return wander(loss, optimizer, parameters.transform.limit, walk, until, size is not None)
