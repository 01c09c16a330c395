"""How Levenberg–Marquardt decides on each step: damped Newton steps within a trust region, compiled for fits, on the host for residuals.

It knows nothing of models: it takes functions of one vector z, whose coordinates are of order one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.inference.loss import Expansion
from jaxdiff.parameters import Parameters

NO_CURVATURE = 1e-14  # share of the loss below which a curvature says nothing
STEEP = 1e-6  # share of the loss from which on a slope without curvature is followed all the same
CAP = 2.0  # the furthest a logarithm or logit moves in one step
FIRST_RADIUS = 10.0  # coordinates that the first step of a fit may move; for residuals of unknown scale it is one
FADED = 1e6  # how many times smaller the slope of residuals may have become before it is the measure of a step again
LEAST_GAIN = 1e-4  # gain ratio from which on a step is taken
BRIGHTER = 2.0  # how many times larger a step into the dark has to make the slope
GROPES = 6  # such steps, each half as long as the one before, until one is
SECOND_ORDER = 0.75  # the longest second-order correction of a step, as a share of it


class State(NamedTuple):
    """The state of a Levenberg–Marquardt run."""

    z: Any
    here: Any  # the loss around z: an Expansion, or Squares
    good: Any  # z before the last step, at which predictors resolved the coefficients
    damping: Any  # λ that the next step has at least
    scale: Any  # D
    radius: Any
    refusals: Any  # trials in a row that were not taken
    decrement: Any  # the Newton decrement here
    iteration: Any  # evaluations after the first
    history: Any
    converged: Any
    stalled: Any


def begin(z: Any, measurements: int, steps: int, damping: float) -> State:
    """A run that has not evaluated anything yet."""
    xp = jnp if isinstance(z, jax.core.Tracer) else np
    count, dtype = len(z), z.dtype
    square, noise = np.zeros((count, count), dtype), np.zeros((measurements, count, count), dtype)
    none, fine = np.zeros(measurements, dtype), np.ones(measurements, bool)
    number = lambda value: np.asarray(value, dtype)
    here = Expansion(number(np.inf), np.zeros(count, dtype), square, noise, none, fine)
    z, history, no = xp.asarray(z), np.full(steps + 1, np.nan, dtype), np.asarray(False)
    measures = number(damping), np.zeros(count, dtype), number(np.inf), number(0.0), number(np.inf)
    return State(z, here, z, *measures, np.asarray(-1), history, no, no)


class Squares(NamedTuple):
    """A sum of squares around a point. Residuals and Jacobian are kept beside the normal equations, which halve digits."""

    value: Any
    gradient: Any
    curvature: Any
    residual: Any  # (n,)
    jacobian: Any  # (n, p)
    resolved: Any = True


class Quadratic(NamedTuple):
    """The quadratic model of how a loss changes, m(s) = g·s + ½ s·|H|s, in the eigenvectors of H, where it is a sum.

    Its curvature is |λ|, not λ: along a direction of negative curvature the Newton step −g/λ would climb to a saddle,
    and with the absolute value it goes down as far as it would have gone up.
    """

    curvature: Any  # |λ|
    slope: Any
    back: Any  # from these coordinates to those of z
    identifiable: Any  # directions that have any curvature, or a slope that no curvature explains
    scale: Any  # lengths of z are |scale · z|, and those of the coordinates the same
    faint: Any = False  # the slope is so slight that roundoff of the loss hides all that a step would gain

    def along(self, slope: Any, damping: Any) -> Any:
        """A damped Newton step down a slope of these coordinates; damping: a number, or a column of them."""
        xp = _of(slope)
        known = self.identifiable
        return xp.where(known, slope / xp.where(known, self.curvature + damping, 1.0), 0.0)

    def step(self, damping: Any) -> Any:
        """The damped Newton step of z."""
        return self.back @ self.along(self.slope, damping)

    @property
    def decrement(self) -> Any:
        """The Newton decrement ½ gᵀ|H|⁻¹g: how much the model falls down to its minimum."""
        return 0.5 * (self.slope * self.along(self.slope, 0.0)).sum()

    def damping(self, radius: Any) -> Any:
        """The least λ whose step is no longer than the radius, to 4 %: in two passes over its decades."""
        xp = _of(self.slope)
        length = lambda damping: _norm(self.along(self.slope, damping[..., None]))
        top, decades = _norm(self.slope) / radius, -16.0 * np.linspace(0.0, 1.0, 33, dtype=self.slope.dtype)
        for width in (1.0, 1 / 32):
            tried = top * 10.0 ** (width * decades)
            top = xp.min(xp.where(length(tried) <= radius, tried, top))
        return xp.where(length(0.0 * top) <= radius, 0.0, top)


def _of(array: Any) -> Any:
    return np if isinstance(array, (np.ndarray, np.generic)) else jnp


def _norm(vector: Any) -> Any:
    return _of(vector).sqrt((vector**2).sum(-1))


def quadratic(here: Any, z: Any, limit: Any, scale: Any = 0.0, kind: Any = 0) -> Quadratic:
    """The quadratic around z, without the coordinates that push against their limit.

    scale: lengths are measured in the slopes √Hᵢᵢ, or in `scale` where that is more
    A slope without curvature is no optimum. It gets the curvature that makes its undamped step one, the order of every
    coordinate, and damping shortens the step until it helps. Where there are none but faint slopes, as where exponentials have
    died out, the largest gets that step, and others as much less as they are fainter.
    """
    xp: Any = _of(z)
    free = (z * xp.sign(here.gradient) > -limit) | (here.gradient == 0)
    gradient = xp.where(free, here.gradient, 0.0)
    diagonal = xp.where(free, xp.abs(xp.diagonal(here.curvature)), 0.0)
    eps = float(np.finfo(z.dtype).eps)
    if isinstance(here, Squares):
        scale = np.maximum(scale, np.sqrt(diagonal))
        scale = np.where(scale > 0, scale, 1.0)
        root = np.where(free & np.isfinite(here.jacobian), here.jacobian, 0.0) * 2**0.5 / scale
        left, values, right = np.linalg.svd(root, full_matrices=False)
        slope = -values * (2**0.5 * here.residual @ left)
        identifiable = values > 1e2 * eps * values.max(initial=0.0)
        return Quadratic(values**2, slope, right.T / scale[:, None], identifiable, scale)
    size = xp.where(xp.isfinite(here.value), xp.abs(here.value), 0.0)
    curved = diagonal > NO_CURVATURE * size
    steep = ~curved & (xp.abs(gradient) > STEEP * size)
    largest = xp.max(xp.abs(gradient))
    faint = ~xp.any(curved | steep) & (largest > 0) & xp.isfinite(here.value)
    steep = steep | (faint & free)
    assumed = xp.where(faint, largest, xp.where(steep, xp.abs(gradient), 0.0))
    curvature = xp.where(curved[:, None] & curved, here.curvature, xp.diag(assumed))
    slopes = xp.sqrt(xp.where(curved, diagonal, assumed))
    scale = xp.where(faint, slopes, xp.maximum(scale, slopes))
    scale = alike(xp.where(curved | steep, scale, 0.0), kind)
    scale = xp.where(scale > 0, scale, 1.0)
    scaled = curvature / scale / scale[:, None]
    pair: Any = np.linalg.eigh(scaled) if xp is np else jax.lax.linalg.eigh(scaled, symmetrize_input=False)[::-1]
    eigenvalues, vectors = xp.abs(pair[0]), pair[1]
    back = vectors / scale[:, None]
    slope = -(gradient @ back)
    identifiable = eigenvalues > 1e3 * eps * eigenvalues.max()
    steep = ~identifiable & (slope**2 > STEEP * size)
    return Quadratic(xp.where(steep, 1.0, eigenvalues), slope, back, identifiable | steep, scale, faint)


def alike(scale: Any, kind: Any) -> Any:
    """The scale of the coordinates, one for all logarithms and logits."""
    xp = _of(scale)
    return xp.where(kind > 0, xp.max(xp.where(kind > 0, scale, 0.0)), scale)


class Trial(NamedTuple):
    """A step that is to be tried."""

    z: Any
    model: Quadratic
    damping: Any
    length: Any
    predicted_reduction: Any  # of the loss, by the model
    near: Any  # the optimum is so near that roundoff hides a gain of the loss, and the decrement decides

    def gain_ratio(self, before: Any, value: Any) -> Any:
        """Actual over predicted reduction of the loss."""
        xp, predicted = _of(self.predicted_reduction), self.predicted_reduction
        return (before - value) / xp.where(predicted > 0, predicted, np.inf)


def propose(state: State, kind: Any, limit: Any) -> Trial:
    """The next step of a run, no longer than its radius; kind, limit: of the transform of each coordinate."""
    xp, here, z = _of(state.z), state.here, state.z
    model = quadratic(here, z, limit, state.scale, kind)
    near = (state.iteration >= 0) & (state.decrement <= float(np.finfo(z.dtype).eps) ** 0.5 * xp.abs(here.value))
    near = near & ~xp.asarray(model.faint)
    damping = xp.maximum(model.damping(state.radius), xp.where(near, 0.0, state.damping))
    damping = xp.where(model.faint, 2.0**state.refusals - 1.0, damping)
    along = model.along(model.slope, damping)
    step = model.back @ along
    share = 1 / xp.maximum(1.0, xp.max(xp.abs(step) * (kind > 0)) / CAP)
    trial, along = xp.clip(z + share * step, -limit, limit), share * along
    predicted = (along * (model.slope - 0.5 * model.curvature * along)).sum()  # of terms that are positive each
    length = _norm(model.scale * (trial - z))
    return Trial(trial, model, damping, length, predicted, near & (damping == 0))


def judge(state: State, kind: Any, limit: Any, trial: Trial, new: Any, tolerance: float, least: float) -> State:
    """Decide on a trial, whose loss is `new`: the run with the step taken or refused, its next radius, and whether it has ended.

    tolerance: relative change of parameters, a hundredth of which ends the run; least: Newton decrement at an optimum, as a
    share of the loss
    """
    xp, first, logarithm, eps = _of(state.z), state.iteration < 0, kind > 0, float(np.finfo(state.z.dtype).eps)
    there = quadratic(new, trial.z, limit, 0.0, kind)
    sound = xp.isfinite(new.value + new.gradient.sum() + new.curvature.sum())
    # Where a predictor resolves nothing at all, the run stops for a new one.
    unknown = ~xp.all(new.resolved) & ~xp.isfinite(new.value)
    ratio = xp.where(first | trial.near, 1.0, trial.gain_ratio(state.here.value, new.value))
    groping, dark = xp.asarray(trial.model.faint), xp.asarray(there.faint)
    slope = lambda at: xp.max(xp.abs(at.gradient))
    brighter = ~dark | (slope(new) > BRIGHTER * slope(state.here))
    no_worse = new.value <= state.here.value + 10 * eps * xp.abs(state.here.value)
    ratio = xp.where(groping, xp.where(brighter & no_worse, 1.0, 0.0), ratio)
    ratio = xp.where(unknown, 0.5, ratio)
    lower = ~trial.near | unknown | (there.decrement < state.decrement)
    taken = (sound | unknown) & (ratio > LEAST_GAIN) & lower
    z, here, decrement = jax.tree.map(
        lambda a, b: xp.where(taken, a, b), (trial.z, new, there.decrement), (state.z, state.here, state.decrement)
    )

    slopes, size, length = xp.sqrt(xp.abs(xp.diagonal(here.curvature))), xp.abs(here.value), trial.length
    scale = xp.where(slopes > 0, xp.clip(state.scale, slopes, FADED * slopes), state.scale)
    scale = scale if isinstance(new, Squares) else alike(scale, kind)
    unit = xp.where(logarithm, CAP, xp.maximum(1.0, xp.abs(z)))
    wider = xp.where(ratio > 0.75, xp.maximum(state.radius, 2 * _norm(scale * (z - state.z))), state.radius)
    narrower = 0.5 * xp.minimum(length, state.radius) * xp.where(taken, 1.0, 0.5**state.refusals)
    radius = xp.where(taken & (ratio >= 0.25), wider, narrower)
    radius = xp.where(
        first | (groping & taken), (1.0 if isinstance(new, Squares) else FIRST_RADIUS) * _norm(scale * unit), radius
    )

    # A number that the loss depended on and does not any more has left its range, and no optimum was found.
    vanished = ~logarithm & ((slopes * unit) ** 2 <= NO_CURVATURE * size) & (scale**2 > NO_CURVATURE * size)
    unit = xp.where(logarithm, 1.0, xp.abs(z) + 1e-6 * tolerance)
    small = xp.all(xp.abs(there.step(0.0)) <= 0.01 * tolerance * unit)
    roundoff = lambda unit: size <= 0.5 * ((10 * eps * slopes * unit) ** 2).sum()
    no_residual = size <= eps**2 * xp.abs(state.history[0])
    exact = roundoff(unit) | (roundoff(unit + 1e-3) & no_residual)
    # Where no number changes the loss there is no optimum, unless one has run to the end of its range.
    seen = xp.where(groping, 0.0, slopes) > 0
    flat = ~(exact | xp.any(seen | (logarithm & (xp.abs(z) > 5))))
    bottom = xp.isfinite(here.value) & (small | exact | (decrement <= least * size)) & ~dark
    given_up = groping & (state.refusals + 1 >= GROPES)
    converged = ~flat & ~xp.any(vanished) & xp.where(taken, bottom, (trial.near & sound) | given_up)
    shortest = 1e2 * eps * _norm(scale * unit)
    ended = xp.where(groping, given_up, ~(length > shortest))
    stalled = ~converged & ((first & ~sound & ~unknown) | (~taken & ended))
    return state._replace(
        z=z,
        here=here,
        good=xp.where(taken & ~first, state.z, state.good),
        damping=xp.where(taken & ~first, 0.0, state.damping),
        scale=scale,
        radius=radius,
        refusals=xp.where(taken, 0.0, state.refusals + 1),
        decrement=decrement,
        converged=converged,
        stalled=stalled,
    )


def advance(
    expand: Callable[[Any], Expansion], kind: Any, limit: Any, state: State, until: Any, tolerance: float
) -> State:
    """Continue a run to iteration `until`, or to its end; traceable.

    expand: z → Expansion; kind, limit: of the transform of each coordinate
    """
    tolerance = max(tolerance, 1e3 * float(jnp.finfo(state.z.dtype).eps))

    def on(state: State) -> Any:
        return (state.iteration < until) & ~state.converged & ~state.stalled & jnp.all(state.here.resolved)

    def body(state: State) -> State:
        trial = propose(state, kind, limit)
        state = judge(state, kind, limit, trial, expand(trial.z), tolerance, tolerance)
        iteration = state.iteration + 1
        return state._replace(iteration=iteration, history=state.history.at[iteration].set(state.here.value))

    return jax.lax.while_loop(on, body, state)


def resumed(old: State, back: np.ndarray, retreats: np.ndarray, anew: Callable[[np.ndarray, Any], State]) -> State:
    """Resume runs, with a leading axis, by other predictors: from where they stand, or `back` from the place before.

    A step that did not help, as a predictor shows that resolves it, is taken back too; both as after any trial that is
    refused. retreats: in a row; anew: (which runs, z) → runs that start there
    """
    runs = np.arange(len(back))
    fresh = anew(runs, np.where(back[:, None], old.good, old.z))
    last = old.history[runs, np.maximum(old.iteration - 1, 0)]
    worse = ~back & (old.iteration > 0) & fresh.here.resolved.all(1) & ~(fresh.here.value <= last)
    if worse.any():
        fresh = replaced(fresh, runs[worse], anew(runs[worse], old.good[worse]))
    damping = np.maximum(3 * old.damping, 1e-2) * 2.0**retreats
    damping = np.where(back | worse, damping, old.damping).astype(old.damping.dtype)
    now = np.arange(old.history.shape[1]) == old.iteration[:, None]
    history = np.where(now, fresh.history[:, :1], old.history)
    return fresh._replace(damping=damping, iteration=old.iteration, history=history)


def replaced(tree: Any, index: np.ndarray, new: Any) -> Any:
    """The tree of arrays with other values at some places of the leading axis."""

    def put(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        one = np.array(one)
        one[index] = other
        return one

    return jax.tree.map(put, tree, new)


def descend(
    expand: Callable[[Any], Squares],
    residuals: Callable[[Any], Any],
    kind: Any,
    limit: Any,
    state: State,
    until: int,
    tolerance: float,
) -> State:
    """Continue a run on squares of residuals to iteration `until`, or to its end, on the host; an iteration is a step taken.

    Each step gets a second-order correction for the curvature of the residuals along it, by the Jacobian at its foot.
    """
    while state.iteration < until and not (state.converged or state.stalled):
        trial, here, first = propose(state, kind, limit), state.here, state.iteration < 0
        model = trial.model
        if not first and not trial.near:
            found = residuals(trial.z)
            nonlinear = found - here.residual - here.jacobian @ (trial.z - state.z)
            correction = model.back @ model.along(-2 * (nonlinear @ here.jacobian @ model.back), trial.damping)
            corrected, value = np.clip(trial.z + correction, -limit, limit), found @ found
            if _norm(model.scale * (corrected - trial.z)) <= SECOND_ORDER * trial.length:
                other = residuals(corrected)
                if other @ other < value or np.isnan(value):
                    trial, value = trial._replace(z=corrected), other @ other
            if not trial.gain_ratio(here.value, value) > LEAST_GAIN:
                state = judge(state, kind, limit, trial, here._replace(value=value), tolerance, tolerance**2)
                continue
        state = judge(state, kind, limit, trial, expand(trial.z), tolerance, tolerance**2)
        history = np.array([state.here.value]) if first else state.history
        state = state._replace(iteration=state.iteration + 1, history=history)
    return state


def rescaled(parameters: Parameters, here: Any) -> Parameters | None:
    """Give a Free number that starts at zero the scale at which it changes the loss by about itself; None if none does."""
    transform = parameters.transform
    curvature = np.diag(np.asarray(here.curvature, float))
    zero = (np.asarray(parameters.start) == 0) & (np.asarray(transform.kind) == 0) & (curvature > 0)
    scale = np.sqrt(np.abs(float(here.value)) / np.where(zero, curvature, 1.0))
    zero &= (scale > 0) & (np.asarray(transform.scale) == 1.0)
    if not zero.any():
        return None
    scale = np.where(zero, scale, np.asarray(transform.scale))
    return replace(parameters, transform=replace(transform, scale=scale))
