"""One fit under way: its predictors, renewed where the parameters outrun them, and the loops over compiled iterations."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.inference.gradient_descent import finite
from jaxdiff.inference.levenberg_marquardt import LevenbergMarquardt
from jaxdiff.inference.levenberg_marquardt_steps import State, advance, begin, rescaled, resumed
from jaxdiff.inference.loss import Expansion
from jaxdiff.inference.losses import is_table
from jaxdiff.inference.objective import Objective, Problem, empty_predictions, start_vector
from jaxdiff.integration.options import SolverOptions
from jaxdiff.measurements.states_at_times import Unplannable
from jaxdiff.model.observed import Observed
from jaxdiff.parameters import Parameters, marked
from jaxdiff.runtime.compilation import as_written, quick_jit
from jaxdiff.runtime.conditions import raise_failed
from jaxdiff.runtime.progress import Progress

FEW = 64  # parameters for which a dense Jacobian is the better bargain
MANY = 300  # parameters beyond which no curvature is computed
STEPS = 100  # of Levenberg–Marquardt, unless others are asked for
RENEWALS = 50  # of predictors within one fit
NAMED = 8  # numbers in a message, at most
RETREATS = 30  # in a row, from coefficients that no predictor resolves
NO_STEP = "no step improves the loss any more; check the model, or start elsewhere"
_PACES: dict[Objective, float] = {}  # seconds an evaluation last took, by which a fit runs some way at once
NONE = np.zeros((0, 2))

_P = ParamSpec("_P")
_T = TypeVar("_T")


def on_host(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Refuse to look at numbers under a transformation of JAX, where there are none; raise what no predictor can follow as a
    plain `ValueError`."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        leaves = (jnp.zeros(()), *jax.tree.leaves((args, list(kwargs.values()))))
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            raise TypeError(
                f"{function.__name__} decides by numbers and got tracers, as inside jax.jit, vmap or grad; call it outside, and jd.fit_many for many data sets"
            )
        try:
            return as_written(function)(*args, **kwargs)
        except Unplannable as error:
            raise ValueError(str(error)) from None

    return call


class SearchResult(NamedTuple):
    """Where a search ended: z, the loss around it (None for very many parameters), history, and why it did not converge.

    looks (k, 2): steps at which held-out data were predicted, and their loss; cut: whether a user or held-out data ended it
    """

    z: np.ndarray
    here: Expansion | None
    history: np.ndarray
    converged: bool
    notes: tuple[str, ...]
    looks: np.ndarray = NONE
    cut: bool = False


@dataclass(eq=False)
class Run:
    """A fit under way: its problem, and the options by which predictors are made for other parameters."""

    objective: Objective
    parameters: Parameters
    measurements: Any
    options: SolverOptions
    progress: Progress
    predictors: tuple[Any, ...] = ()
    renewals: int = 0
    retreats: int = 0
    refused: str = ""  # why the last trial that had to be given up was
    compiled: tuple[LevenbergMarquardt, int] = (LevenbergMarquardt(), STEPS)
    redrawn: bool = False  # whether data are drawn from the model at the start, which no other then betters
    planned: tuple[Any, ...] = ()  # (z, resolved) by which the predictors came about
    patterns: tuple[Any, ...] = ()  # predictors of other data of this design, whose plans are taken over
    smoothing: Any = None  # what the roughness of fields adds to the loss

    def __post_init__(self) -> None:
        self.start = start_vector(self.parameters)
        self.pace = _PACES.get(self.objective, 0.0)  # seconds an evaluation

    def begin(self, z: Any, method: LevenbergMarquardt, steps: int) -> State:
        return begin(z, len(self.predictors), steps, method.damping)

    @property
    def problem(self) -> Problem:
        return Problem(self.parameters, self.predictors, self.objective, self.smoothing)

    @property
    def paths(self) -> bool:
        return any(not m.on_cells for m in self.measurements)

    def prepare(self, z: Any) -> None:
        """Predictors for the coefficients at z, where nothing that is fitted counts as zero and so as absent."""
        free = np.asarray(self.parameters.transform.kind) == 0
        models = self.at(np.where(free & (np.asarray(z) == 0), 1.0, z) if not self.paths else z)
        pairs = zip(self.patterns or self.measurements, self.measurements, strict=True)
        make = [one.prepare if like is one else partial(like.of_other, one) for like, one in pairs]
        parts = zip(make, models, self.objective.losses, strict=True)
        try:
            made = [(of(at.equation, at.initial, loss.weighted, self.options), loss) for of, at, loss in parts]
            self.predictors = tuple(one.summed() if loss.sums else one for one, loss in made)
            self.planned = ((np.asarray(z), np.ones(len(made), bool)),)
            if any(model.observe is not None for model in models):
                self._check_observed(z)
        except Unplannable as error:
            raise Unplannable(f"{error}; this was at {self._named(z)}") from None

    def _check_observed(self, z: Any) -> None:
        """Refuse instruments without a number for each sensor, or whose sensors are not those of other measurements."""
        tree = self.parameters.rebuild(np.asarray(self.parameters.transform(np.asarray(z))))
        models = self.objective.unpack(jax.tree.map(jnp.asarray, tree))  # an array of NumPy takes no traced index
        sensors = []
        for i, (measurement, predictor, model) in enumerate(
            zip(self.measurements, self.predictors, models, strict=True)
        ):
            predictor.check_observed(model, i)
            if model.needs("sensor") and not model.needs("experiment"):
                sensors.append(measurement.sensors)
        if not all(np.array_equal(one, sensors[0]) for one in sensors):
            raise ValueError(
                "sensors stand elsewhere in other measurements, where observe counts them anew; let it take `experiment` too, or the position"
            )

    def renew(self, z: Any, resolved: Any) -> None:
        """Predictors that resolve the coefficients at z, where those at hand do not."""
        self.renewals += 1
        if self.renewals > RENEWALS:
            raise Unplannable(
                f"the fit runs into coefficients that cannot be resolved, {self._named(z)}; bound them with jd.Bounded"
            )
        models = self.at(z)
        checks: Any = (None,) * len(self.predictors)
        if any(m.on_cells and not fine for m, fine in zip(self.measurements, resolved, strict=True)):
            checks = [p.checks for p in predicted(self.problem, np.asarray(z))]
        parts = zip(self.predictors, self.measurements, models, resolved, checks, strict=True)
        renewed = [p if fine else p.renewed(one, model.equation, found) for p, one, model, fine, found in parts]
        self.predictors = tuple(one.beside(renewed) for one in renewed)
        self.planned = (*self.planned, (np.asarray(z), np.array(resolved, bool)))

    def replan(self, planned: Any) -> None:
        """The predictors that came about in this way."""
        for i, (z, resolved) in enumerate(planned):
            self.renew(z, resolved) if i else self.prepare(z)

    def at(self, z: Any) -> tuple[Observed, ...]:
        """The model of each measurement at z, in NumPy."""
        x = np.asarray(self.parameters.transform(np.asarray(z)))
        models = self.objective.unpack(self.parameters.rebuild(x))
        if any(marked((model.equation, model.observe)) for model in models):
            raise ValueError(
                "the equation that the model returns holds marks; mark the starts in parameters= instead, and give a Spline jd.Fixed(values)"
            )
        return models

    def _named(self, z: Any) -> str:
        x = np.asarray(self.parameters.transform(np.asarray(z)))
        named = [f"{label} = {value:.4g}" for label, value in zip(self.parameters.labels, x, strict=True)]
        return ", ".join(named if len(named) <= NAMED else [*named[:NAMED], "…"])

    def levenberg_marquardt(
        self, method: LevenbergMarquardt, steps: int, callback: Any = None, alone: bool = False
    ) -> SearchResult:
        """alone: whether an interruption ends this search, and not a whole row of them"""
        state = self.first(method, steps, go_on=True)
        if self.rescale(state.here):
            state = self.follow(method, self.begin(self.start, method, steps), 0)
        reason, stopped = "", ""
        while not (state.converged or state.stalled or state.iteration >= steps or reason):
            try:
                state = self.follow(method, state, min(steps, int(state.iteration) + self.progress.portion(self.pace)))
                self.progress.show(int(state.iteration), steps, float(state.here.value))
                step, loss = int(state.iteration), float(state.here.value)
                if callback is not None and callback(step, loss, None, state.z) is True:
                    reason = stopped = f"stopped by the callback at step {step} of {steps}"
            except Unplannable as error:
                reason = str(error)
            except KeyboardInterrupt:
                if not alone:
                    raise
                reason = stopped = f"interrupted at step {int(state.iteration)} of {steps}"
        if not reason and self.refused:
            reason = f"the loss falls towards coefficients that cannot be followed: {self.refused}"
        elif not reason and state.stalled:
            reason = NO_STEP
        elif not reason:
            reason = f"{int(state.iteration)} steps were not enough; allow more with steps=, or start closer"
        found = ended(state.z, state.here, state.history, bool(state.converged), f"not converged: {reason}")
        return found._replace(cut=bool(stopped))

    def follow(self, method: LevenbergMarquardt, state: State, until: int) -> State:
        """Continue to iteration `until`, with new predictors wherever the parameters have outrun them."""
        while True:
            state = self._advance(method, state, until)
            if state.here.resolved.all():
                return state
            back = False
            try:
                self.renew(state.z, state.here.resolved)
                self.retreats = 0
            except Unplannable as error:
                self.retreats, self.refused, back = self.retreats + 1, str(error), True
                if np.array_equal(state.z, state.good) or self.retreats > RETREATS:
                    raise Unplannable(f"{error}; this was at {self._named(state.z)}") from None

            def anew(_: Any, z: Any, state: State = state) -> State:
                fresh = self.begin(z[0], method, len(state.history) - 1)._replace(good=state.good)
                return _as_batch(self._advance(method, fresh, 0))

            fresh = resumed(_as_batch(state), np.array([back]), np.array([self.retreats]), anew)
            state = jax.tree.map(lambda a: a[0], fresh)

    def _advance(self, method: LevenbergMarquardt, state: State, until: int) -> State:
        """Compiled iterations, and the state in NumPy: what looks at it next is not worth compiling."""
        before, began = int(state.iteration), time.perf_counter()
        self.compiled = method, len(state.history) - 1
        predictions = state.here.predictions or empty_predictions(self.predictors, state.z)
        state = state._replace(here=state.here._replace(predictions=predictions))
        state = _advance(method.tolerance, self.problem, state, until)
        state = jax.tree.map(np.asarray, state)
        self.pace = (time.perf_counter() - began) / max(int(state.iteration) - before, 1)
        if len(_PACES) >= 256:  # fresh lambdas are fresh objectives
            _PACES.clear()
        _PACES[self.objective] = self.pace
        return state

    def observed(self, z: Any, here: Expansion | None) -> Expansion | None:
        """The loss around z by the observed information, where the search took the expected."""
        if here is None or self.smoothing is not None or not any(map(is_table, self.predictors)):
            return here
        found = jax.tree.map(np.asarray, _observed(self.problem, np.asarray(z)))
        return found if found.resolved.all() and np.isfinite(found.curvature).all() else here

    def around(
        self, z: Any, predictors: tuple[Any, ...] | None = None, parameters: Parameters | None = None
    ) -> Expansion:
        """The loss around z by the predictors at hand, or by others alike, from the program that was compiled last."""
        other, (method, steps) = copy(self), self.compiled
        other.predictors, other.parameters = predictors or self.predictors, parameters or self.parameters
        return other._advance(method, other.begin(z, method, steps), 0).here

    def first(self, method: LevenbergMarquardt, steps: int, go_on: bool = False) -> State:
        """The loss at the start; for paths, at the optimum of their Euler densities unless the start is better.

        go_on: take the first steps at once, where they are quick and no scale depends on the start
        """
        start, rough = self.start, None if self.redrawn else self.rough(self.start)
        if rough is not None:
            try:
                self.prepare(rough)
                state = self.follow(method, self.begin(rough, method, steps), 0)
                given = self._advance(method, self.begin(start, method, steps), 0)
                if np.isfinite(state.here.value):
                    better = np.all(given.here.resolved) and given.here.value < state.here.value
                    return given if better else state
            except ValueError:
                pass  # Euler steps may lead astray; the start says what is wrong
        self.prepare(start)
        ahead = self.progress.portion(self.pace) - 1 if go_on and np.all(self.parameters.start) else 0
        state = self.follow(method, self.begin(start, method, steps), min(ahead, steps))
        if not np.isfinite(state.here.value):
            self.complain(start)
        return state

    def rough(self, start: np.ndarray) -> np.ndarray | None:
        """Where the Euler densities of all paths are largest, from a start; None for many parameters, of each of which every
        step of each iteration would have a derivative."""
        if self.parameters.count > FEW:
            return None
        paths = tuple(one.rough() for one in self.measurements)
        if all(path is None for path in paths):
            return None
        self.at(start)
        z, here = _euler(replace(self.problem, predictors=paths), start)
        if self.rescale(here):
            z, _ = _euler(replace(self.problem, predictors=paths), start)
        return np.asarray(z) if np.isfinite(z).all() else None

    def rescale(self, here: Expansion) -> bool:
        """Give a Free number that starts at zero a scale from the loss there; True if there was one."""
        scaled = rescaled(self.parameters, here)
        self.parameters = scaled or self.parameters
        return scaled is not None

    def refresh(self, z: np.ndarray) -> float:
        """The loss at z, by predictors that resolve the coefficients there."""
        while True:
            total, resolved = value(self.problem, z)
            if np.all(resolved):
                return float(total)
            self.renew(z, np.asarray(resolved))

    def value(self, z: Any) -> float:
        """The loss at z."""
        self.prepare(z)
        return self.refresh(z)

    def complain(self, z: Any) -> None:
        """Raise why the model fails at the start."""
        for prediction in predicted(self.problem, np.asarray(z)):
            raise_failed(prediction.checks)
        raise ValueError(
            f"the loss is not finite at the start, {self._named(z)}; start elsewhere, or check coefficients and data"
        )


def ended(z: Any, here: Any, history: Any, converged: bool, note: str) -> SearchResult:
    return SearchResult(np.asarray(z, float), here, finite(history), converged, () if converged else (note,))


def _as_batch(state: State) -> State:
    """A run as a batch of one."""
    return jax.tree.map(lambda a: np.asarray(a)[None], state)


@partial(quick_jit, static=0)
def _advance(tolerance: float, problem: Problem, state: State, until: Any) -> State:
    transform = problem.parameters.transform
    return advance(problem.expand, transform.kind, transform.limit, state, until, tolerance)


@quick_jit
def _euler(problem: Problem, z: Any) -> Any:
    transform = problem.parameters.transform
    return advance(problem.euler, transform.kind, transform.limit, begin(z, 1, 100, 1e-3), 100, 1e-8)[:2]


value = quick_jit(Problem.value)
_observed = quick_jit(partial(Problem.expand, observed=True))
predicted = quick_jit(Problem.predict)
