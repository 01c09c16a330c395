"""The noise of what a model was given as measured, walls and starts, in the error bars of a fit."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import comb
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.inference.loss import Expansion
from jaxdiff.inference.objective import Problem
from jaxdiff.inference.run import Run
from jaxdiff.measurements.readings import StartNoise
from jaxdiff.model.boundaries import Boundary
from jaxdiff.model.series import Series
from jaxdiff.runtime.compilation import quick_jit

ROUGH = 0.5  # of the noise of the readings, from which on the roughness of an input is taken for noise of that size
LOUD = 1.5  # times that noise, from which on it is its own
LEAST = 8  # values from which on roughness can be told
PROBES = 4  # draws of noise, each with both signs, that tell by how much it moves the estimates
TURNS = 12  # of conjugate gradients, at most


class InputNoise(NamedTuple):
    """What noise of measured inputs does to a fit.

    covariance: what it adds to that of the gradient (p, p); shift: by which it moves z, on average; seen: what the model
    predicts from the most likely start, else what was seen; notes: what was taken as measured
    """

    covariance: Any = 0.0
    shift: Any = 0.0
    seen: tuple[Any, ...] = ()
    notes: tuple[str, ...] = ()


def input_noise(run: Run, z: np.ndarray, here: Expansion | None) -> InputNoise:
    """The noise of inputs in a fit.

        B Σ Bᵀ,  B = f Jᵀ V⁻¹ ∂prediction/∂input,  so that cov(z) grows by H⁻¹ B Σ Bᵀ H⁻¹

    Noise of an array of a start also moves the estimates: what spreads faster is left with less of it. The gradient that more
    of it adds, drawn from ±σ, tells how far: SIMEX, Cook & Stefanski 1994, doi:10.1080/01621459.1994.10476871.

    Inputs are the values of every `Series` in the equation and the array over cells from which readings start. Their
    standard deviation is what they were given; else that of the readings, where an array of a start, or a `Series` at a wall
    (the value of Dirichlet, the surroundings of Robin), which share the unit of the field, are as rough as they are, or their roughness where that is more;
    else zero. The delta method.
    """
    which = [i for i, m in enumerate(run.measurements) if m.has_residuals and run.objective.losses[i].squares]
    if here is None or not which:
        return InputNoise()
    noise = {i: _deviation(run, here, i) for i in which}
    equation, initials = run.at(z)
    courses = _courses(run, z, equation, float(np.median(list(noise.values()))))
    starts = {}
    for i in which:
        group, m = run.objective.initials[i], run.measurements[i]
        if group not in starts and (patterns := _start(m, initials[i], noise[i])) is not None:
            starts[group] = patterns
    if not courses and not starts:
        return InputNoise()
    told = " and ".join(what for what, some in (("the walls", courses), ("the start", starts)) if some)
    if any(len(here.seen[i][1]) < len(here.seen[i][0]) for i in which):
        many = "there are too many readings to follow it"
        return InputNoise(notes=(f"the noise with which {told} were measured is not in the error bars: {many}",))
    pulls = [np.moveaxis(_pull(run, here, i), -1, 0) for i in which]
    through = lambda pulls: _products(tuple(which), tuple(courses), tuple(starts), run.problem, np.asarray(z), pulls)
    found = through(pulls)
    total: Any = 0.0
    for part, sigma in zip(found[0], courses.values(), strict=True):
        total = total + _squares(np.asarray(part, float) * sigma)
    push, seen = np.zeros(len(z)), here.seen
    for k, (group, patterns) in enumerate(starts.items()):
        flat = np.asarray(found[1][k], float).reshape(len(z), -1)
        if patterns.ndim == np.ndim(found[1][k]):  # profiles
            total = total + _squares(flat @ patterns.reshape(len(patterns), -1).T)
            continue
        total = total + _squares(flat * patterns.ravel())
        begun = _Start(run, z, next(i for i in which if run.objective.initials[i] == group))
        push = push + begun.push(here, patterns)
        if len(starts) == 1:
            seen = begun.likely(here, which, patterns, noise, lambda pulls: np.asarray(through(pulls)[1][0], float))
    inverse = np.linalg.pinv(np.asarray(here.curvature, float))
    return InputNoise(total, inverse @ push, seen, (told,))


def handed_over(run: Run) -> bool:
    """Whether noise of inputs was told."""
    starts = [m.initial_sigma for m in run.measurements if m.has_residuals]
    told = [one for one in starts if one is not None]
    told += [one.sigma for one in _series(run.at(run.start)[0]) if one.sigma is not None]
    return any(isinstance(one, StartNoise) or bool(np.any(np.asarray(one) > 0)) for one in told)


class _Start:
    """A measured start, an array over cells that can be changed without compiling anything."""

    def __init__(self, run: Run, z: np.ndarray, i: int):
        self.run, self.z, self.state = run, z, run.measurements[i].initial
        leaves = run.parameters.leaves
        alike = lambda leaf: (
            leaf is self.state or (np.shape(leaf) == self.state.shape and np.array_equal(leaf, self.state))
        )
        self.place = next(k for k, leaf in enumerate(leaves) if k not in run.parameters.places and alike(leaf))

    def plus(self, change: np.ndarray) -> Expansion:
        """The loss around z from another start."""
        whole = self.run.parameters
        leaves = list(whole.leaves)
        leaves[self.place] = self.state + change
        try:
            self.run.parameters = replace(whole, leaves=tuple(leaves))
            return self.run.around(self.z)
        finally:
            self.run.parameters = whole

    def push(self, here: Expansion, sigma: np.ndarray) -> np.ndarray:
        """The mean of the gradient that noise adds, (p,)."""
        rng, added = np.random.default_rng(0), []
        for _ in range(PROBES):
            draw = sigma * rng.choice((-1.0, 1.0), sigma.shape)
            ends = [np.asarray(self.plus(sign * draw).gradient, float) for sign in (1, -1)]
            added.append((ends[0] + ends[1]) / 2 - np.asarray(here.gradient, float))
        return np.mean(added, axis=0)

    def likely(self, here: Expansion, which: list[int], sigma: np.ndarray, noise: Any, back: Any) -> tuple[Any, ...]:
        """What is seen from the most likely start, min ‖(r + S ε)/σ‖² + ‖ε/σ₀‖², by conjugate gradients in ε/σ₀."""
        predictors, count = self.run.predictors, len(self.z)
        weight = {i: (np.asarray(predictors[i].weight) > 0) / noise[i] ** 2 for i in which}
        values = lambda found: {i: np.asarray(found.seen[i][0], float) for i in which}
        before = values(here)

        def transposed(rows: dict[int, np.ndarray]) -> np.ndarray:
            several = [
                np.concatenate([(weight[i] * rows[i])[None], np.zeros((count - 1, len(rows[i])))]) for i in which
            ]
            return sigma * back(several)[0]

        def curved(change: np.ndarray) -> np.ndarray:
            after = values(self.plus(sigma * change))
            return change + transposed({i: after[i] - before[i] for i in which})

        residual = transposed({i: np.asarray(predictors[i].observation) - before[i] for i in which})
        change, toward, size = np.zeros_like(residual), residual, np.sum(residual**2)
        first = size
        for _ in range(TURNS):
            if not size > 1e-4 * first:
                break
            bent = curved(toward)
            step = size / np.sum(toward * bent)
            change, residual = change + step * toward, residual - step * bent
            size, old = np.sum(residual**2), size
            toward = residual + size / old * toward
        found = self.plus(sigma * change).seen
        return tuple((found[i][0], seen[1]) if i in which else seen for i, seen in enumerate(here.seen))


def _squares(rows: np.ndarray) -> np.ndarray:
    return rows @ rows.T


def _deviation(run: Run, here: Expansion, i: int) -> float:
    """Of the readings of a measurement."""
    m = run.measurements[i]
    if m.sigma is not None:
        return float(np.median(m.sigma))
    return float(np.sqrt(float(here.squares[i]) / max(len(m.values) - len(here.gradient), 1)))


def _courses(run: Run, z: np.ndarray, equation: Any, noise: float) -> dict[int, Any]:
    """{which Series of the equation: the standard deviation of its values}, where it has one."""
    several = _series(equation)
    if not several:
        return {}
    sides = [one for one in jax.tree.leaves(equation, is_leaf=_is_side) if _is_side(one)]
    walls = {id(getattr(side, name)) for side in sides for name in side.levels}
    elsewhere = _series(run.at(np.asarray(z) + 1e-3)[0])
    found = {}
    for k, (one, other) in enumerate(zip(several, elsewhere, strict=True)):
        values, sigma = np.asarray(one.values, float), one.sigma
        if sigma is None and id(one) in walls and np.array_equal(values, np.asarray(other.values)):  # and not fitted
            sigma = _heard(values, noise)
        if sigma is not None and np.any(np.asarray(sigma) > 0):
            found[k] = np.broadcast_to(np.asarray(sigma, float), values.shape)
    return found


def _start(m: Any, state: Any, noise: float) -> np.ndarray | None:
    """Standard deviations of the cells of a measured start, or profiles of independent errors (k, *cells)."""
    given = m.initial_sigma
    if not isinstance(m.initial, np.ndarray) or m.initial.shape != m.grid.shape or not np.array_equal(state, m.initial):
        return None
    if isinstance(given, StartNoise):
        return given.profiles * (noise if m.sigma is None else 1.0)
    if given is None:
        sigma = _heard(m.initial, noise)
        return None if sigma is None else np.full(m.grid.shape, sigma)
    return np.broadcast_to(given, m.grid.shape) if np.any(given > 0) else None


def _heard(values: np.ndarray, noise: float) -> float | None:
    """The noise of an input that nobody told: that of the readings, or its roughness where that is plainly more."""
    rough = roughness(values)
    return None if rough <= ROUGH * noise else rough if rough > LOUD * noise else noise


def roughness(values: np.ndarray) -> float:
    """The standard deviation of independent noise in an array, from differences along each axis that what is smooth fades in.

    median |Δ^q a| 1.4826/√C(2q, q),  the least over orders q = 2 … 5 and over the axes
    """
    found = []
    for axis in range(values.ndim):
        if values.shape[axis] < LEAST:
            continue
        for order in range(2, 6):
            size = np.median(np.abs(np.diff(values, order, axis)))
            found.append(1.4826 * size / np.sqrt(comb(2 * order, order)))
    return float(min(found, default=0.0))


def _pull(run: Run, here: Expansion, i: int) -> np.ndarray:
    """f V⁻¹ J of a measurement (rows, p): how much each prediction moves the gradient."""
    plan, (_, jacobian) = run.predictors[i], here.seen[i]
    f = float(run.objective.losses[i].factor(plan.known, float(plan.size), float(here.squares[i])))
    weight, carry, last = (np.asarray(part) for part in (plan.weight, plan.carry, plan.last))
    new = f * weight[:, None] * (jacobian - carry[:, None] * jacobian[last])
    rows, linked = new.copy(), np.flatnonzero(carry)
    np.subtract.at(rows, last[linked], carry[linked, None] * new[linked])
    return rows


def _is_side(one: Any) -> bool:
    return isinstance(one, Boundary)


def _series(equation: Any) -> list[Series]:
    is_series = lambda one: isinstance(one, Series)
    return [one for one in jax.tree.leaves(equation, is_leaf=is_series) if is_series(one)]


@partial(quick_jit, static=(0, 1, 2))
def _products(
    which: tuple[int, ...],
    courses: tuple[int, ...],
    starts: tuple[int, ...],
    problem: Problem,
    z: Any,
    pulls: Any,
) -> Any:
    """What p rows of numbers a prediction are, taken through the inputs: (p, …) for each Series and each start."""
    equation, initials = problem.build(z)
    groups = problem.objective.initials

    def predict(values: Any, states: Any) -> Any:
        changed = equation
        if courses:
            changed = eqx.tree_at(lambda e: [_series(e)[k].values for k in courses], equation, values)
        state = lambda i: states[starts.index(g)] if (g := groups[i]) in starts else initials[i]
        return [problem.predictors[i].predict(changed, state(i)).values for i in which]

    values = [jnp.asarray(_series(equation)[k].values) for k in courses]
    states = [jnp.asarray(initials[next(i for i in which if groups[i] == g)]) for g in starts]
    back = jax.vjp(predict, values, states)[1]
    return jax.vmap(back)([jnp.asarray(pull, z.dtype) for pull in pulls])
