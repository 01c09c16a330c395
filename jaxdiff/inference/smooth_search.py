"""The search of a fit with smooth fields: Levenberg–Marquardt steps between which REML renews how strongly roughness counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.inference.levenberg_marquardt import LevenbergMarquardt
from jaxdiff.inference.levenberg_marquardt_steps import State, advance, begin, quadratic
from jaxdiff.inference.loss import Expansion
from jaxdiff.inference.objective import Problem
from jaxdiff.inference.run import MANY, NO_STEP, Run, SearchResult
from jaxdiff.inference.smoothing import (
    ROUGH,
    STRAIGHT,
    Smooth,
    Smoothing,
    influence,
    restricted_likelihood,
    rough,
    scales,
    terms,
)
from jaxdiff.measurements.states_at_times import Unplannable
from jaxdiff.runtime.compilation import quick_jit

SETTLED = 1e-4  # change of ln λ that moves nothing any more
FAR = 10.0  # decrement of a place from which strengths found there may mislead [nat]
LONGEST = 2.0  # change of ln λ there, once there is a λ
EULER_STEPS = 30
EULER_MOST = 4000  # steps of paths whose Euler densities lead to a start


class SmoothSearch:
    """A search under way, and what is known of the strengths.

    run: whose `smoothing` is renewed; unknown: how many readings have a variance to be estimated, where all have
    """

    def __init__(self, run: Run):
        self.run = run
        sizes = [m.unknown * loss.squares for m, loss in zip(run.measurements, run.objective.losses, strict=True)]
        self.unknown = float(sum(sizes)) if all(sizes) else 0.0
        self.middle: np.ndarray | None = None  # ln of the strengths at which roughness counts as much as the data

    def search(self, method: LevenbergMarquardt, steps: int) -> SearchResult:
        run = self.run
        _refuse_rest(run)
        state = self._first(method, steps)
        if run.rescale(state.here):
            state = self._begun(method, run.start, steps)
        reason = ""
        try:
            state = self.alternate(lambda state, until: run.follow(method, state, until), state, steps)
        except Unplannable as error:
            reason = str(error)
        if not reason and state.stalled:
            reason = NO_STEP
        elif not reason and not state.converged:
            reason = f"{int(state.iteration)} steps were not enough; allow more with steps=, or start closer"
        sound = bool(state.converged)
        history = np.asarray(state.history)[: max(int(state.iteration), 0) + 1]
        return SearchResult(
            np.asarray(state.z, float), state.here, history, sound, () if sound else (f"not converged: {reason}",)
        )

    def _begun(self, method: LevenbergMarquardt, z: np.ndarray, steps: int) -> State:
        """The run at z, with new predictors."""
        self.run.prepare(z)
        return self.run.follow(method, begin(z, len(self.run.predictors), steps, method.damping), 0)

    def _first(self, method: LevenbergMarquardt, steps: int) -> State:
        """Where the Euler densities of paths are largest, smooth as they ask for; else the start."""
        run, given = self.run, self.run.smoothing
        paths = tuple(_some(one.rough()) for one in run.measurements)
        if not run.redrawn and any(path is not None for path in paths):
            problem = lambda: replace(run.problem, predictors=paths)
            at = begin(run.start, 1, EULER_STEPS, method.damping)
            follow = lambda state, until: jax.tree.map(np.asarray, _euler(problem(), state, until))
            try:
                at = self.alternate(follow, follow(at, 0), EULER_STEPS)
                state = self._begun(method, np.asarray(at.z), steps)
                if np.isfinite(state.here.value):
                    return state
            except ValueError:
                pass  # Euler steps may lead astray; the start says what is wrong
            run.smoothing, self.middle = given, None
        state = self._begun(method, run.start, steps)
        if not np.isfinite(state.here.value):
            run.complain(run.start)
        return state

    def alternate(self, follow: Callable[[State, int], State], state: State, steps: int) -> State:
        """Steps, and strengths from where they lead, until both stay."""
        while True:
            state, change = self._renewed(state)
            settled = change <= SETTLED
            until = steps if settled else min(steps, int(state.iteration) + 1)
            before = int(state.iteration)
            state = follow(state, until)
            if state.stalled or int(state.iteration) >= steps:
                return state
            if state.converged and settled:
                last, change = self._renewed(state)
                if change <= 10 * SETTLED or int(state.iteration) == before:
                    return state
                state = last

    def _renewed(self, state: State) -> tuple[State, float]:
        """The run with the strengths that suit where it stands, and by how much ln λ has changed."""
        run = self.run
        residuals, slopes = np_rough(run, state.z)
        old, chosen = np.asarray(run.smoothing.strengths), run.smoothing.chosen
        data = run.smoothing.without(state.here, residuals, slopes)
        strengths, first = old, self.middle is None
        if self.middle is None:
            scale = scales(data, slopes)
            self.middle, strengths = np.log(scale), np.where(old > 0, old, scale)
        known = 1.0
        if self.unknown:
            whole = run.smoothing.of(strengths).added(data, residuals, slopes)
            known = max(self.unknown - influence(data, whole).sum(), 1.0) / self.unknown
        if chosen.any():
            found = (
                restricted_likelihood(data, residuals, slopes, known * strengths, chosen, self.middle, known) / known
            )
            if not first and float(state.decrement) > FAR:
                found = np.clip(found, strengths * np.exp(-LONGEST), strengths * np.exp(LONGEST))
            strengths = np.where(chosen, found, strengths)
        run.smoothing = run.smoothing.of(strengths)
        here = run.smoothing.added(data, residuals, slopes)
        transform = run.parameters.transform
        decrement = quadratic(here, state.z, transform.limit, 0.0, transform.kind).decrement
        change = float(np.max(np.abs(np.log(np.maximum(strengths, 1e-300)) - np.log(np.maximum(old, 1e-300)))))
        end = {"converged": np.asarray(False), "stalled": np.asarray(False)} if change > SETTLED else {}
        return state._replace(here=jax.tree.map(np.asarray, here), decrement=np.asarray(decrement), **end), change


class Prior(NamedTuple):
    """What roughness tells of a fit's numbers, beside the data: the covariance that it adds to that of the gradient (p, p), effective
    degrees of freedom, how each field was smoothed, notes, and the loss of the data alone."""

    precision: np.ndarray
    freedom: float
    smooths: tuple[Smooth, ...]
    notes: tuple[str, ...]
    loss: float


def begin_smooth(run: Run) -> bool:
    """Whether a run has fields to smooth; its `smoothing` is then begun."""
    found, given, levels = terms(run.at(run.start), replace(run.problem, predictors=()), run.start)
    if found:
        run.smoothing = Smoothing(np.nan_to_num(given), levels, found)
    return bool(found)


def follow(run: Run, method: LevenbergMarquardt, state: State, steps: int) -> State:
    """`run.follow` to its end, the strengths found anew."""
    if run.smoothing is None:
        return run.follow(method, state, steps)
    search = SmoothSearch(run)
    return search.alternate(lambda state, until: run.follow(method, state, until), run.follow(method, state, 0), steps)


def prior(run: Run, z: np.ndarray, here: Expansion) -> Prior:
    """Of a run that ended at z."""
    residuals, slopes = np_rough(run, z)
    data = run.smoothing.without(here, residuals, slopes)
    edf = influence(data, here)
    search = SmoothSearch(run)
    known = max(search.unknown - edf.sum(), 1.0) / search.unknown if search.unknown else 1.0
    smooths, notes = [], []
    for one, J, strength in zip(run.smoothing.terms, slopes, np.asarray(run.smoothing.strengths), strict=True):
        if one.level:
            continue
        moved = np.flatnonzero(np.any(J != 0, axis=0))
        names = dict.fromkeys(run.parameters.labels[i].split("[")[0].removesuffix(".values") for i in moved)
        rank = np.linalg.matrix_rank(J)
        free = float(edf[moved].sum())
        smooths.append(Smooth(" and ".join(names), float(strength), free, len(moved), not one.fixed))
        notes.append(str(smooths[-1]))
        bent = (free - (len(moved) - rank)) / max(rank, 1)
        if not one.fixed and bent < STRAIGHT:
            notes[-1] += ": straight, as nothing in these data tells that it bends"
        elif not one.fixed and bent > ROUGH:
            notes[-1] += ": it bends at every knot; give it more knots"
    notes.append("error bars of smooth fields are Bayesian, and include the bias of smoothing")
    precision = (np.asarray(here.curvature, float) - np.asarray(data.curvature, float)) / known
    return Prior(precision, float(edf.sum()), tuple(smooths), tuple(notes), float(data.value))


def np_rough(run: Run, z: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    found = _rough(replace(run.problem, predictors=()), np.asarray(z))
    return jax.tree.map(lambda a: np.asarray(a, float), found)


def _refuse_rest(run: Run) -> None:
    """Raise ValueError where all that is seen is at rest, and both drift and diffusivity may be multiplied by one number.

    The roughness of the drift would then send both to zero.
    """
    if not all(m.on_cells and np.ndim(m.times) and np.isinf(m.times).all() for m in run.measurements):
        return
    grid, problem = run.measurements[0].grid, run.problem
    if grid.ndim > 1 or grid.discrete or not hasattr(run.at(run.start)[0].equation, "drift"):
        return

    def coefficients(z: Any) -> Any:
        drift, diffusivity, _ = problem.build(z)[0].equation.sde(grid)
        return jnp.concatenate([jax.vmap(one)(jnp.asarray(grid.centers[0])) for one in (drift, diffusivity)])

    start = np.where(run.start == 0, 1.0, run.start)  # a drift of zero is no more than another
    values, slopes = (np.asarray(part, float) for part in (coefficients(start), jax.jacfwd(coefficients)(start)))
    left = values - slopes @ np.linalg.lstsq(slopes, values, rcond=None)[0]
    if np.linalg.norm(left) < 1e-6 * np.linalg.norm(values):
        raise ValueError(
            "states at rest tell drift/D alone, got both to be fitted; fix one of them, or measure in time too"
        )


def _some(path: Any) -> Any:
    """A predictor of Euler steps, of some steps where there are many: they lead to a start, and no further."""
    if path is None or (count := len(path.observation)) <= EULER_MOST:
        return path
    every = -(-count // EULER_MOST)
    fewer = lambda a: a[: count // every * every : every] if np.ndim(a) and len(a) == count else a
    return jax.tree.map(fewer, path)


_rough = quick_jit(rough)


@quick_jit
def _euler(problem: Problem, state: State, until: Any) -> State:
    transform = problem.parameters.transform
    return advance(problem.euler, transform.kind, transform.limit, state, until, 1e-8)


def checked(run: Run, optimizer: Any, default: bool) -> Any:
    """The optimiser of a fit with smooth fields: Levenberg–Marquardt by default also where there are many parameters.

    Raises ValueError where a strength is to be found and there is no curvature or no likelihood.
    """
    count = run.parameters.count
    optimizer = LevenbergMarquardt() if default and count <= MANY else optimizer
    if not run.smoothing.chosen.any():
        return optimizer
    mend = "give the strength as a number, smooth=1.0"
    if not isinstance(optimizer, LevenbergMarquardt):
        raise ValueError(
            f"smooth=True asks for curvature, that is Levenberg–Marquardt of at most {MANY} parameters; {mend}"
        )
    if names := [loss.name for loss in run.objective.losses if not loss.likelihood]:
        raise ValueError(f"smooth=True asks for a likelihood, got {names[0]}; leave loss away, or {mend}")
    return optimizer
