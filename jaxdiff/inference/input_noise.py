"""The noise of measured inputs, values at walls and initial states, in the error bars of a fit."""

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
from jaxdiff.measurements.states_at_times import StartNoise
from jaxdiff.model.boundaries import Boundary
from jaxdiff.model.observed import Observed
from jaxdiff.model.series import Series
from jaxdiff.runtime.compilation import quick_jit

ROUGH = 0.5  # of the noise of the readings, from which on the roughness of an input is taken for noise of that size
LOUD = 1.5  # times that noise, from which on it is noise of its own
LEAST = 8  # values from which on roughness can be estimated
DRAWS = 4  # of noise, each with both signs, that estimate by how much it moves the estimates
ITERATIONS = 12  # of conjugate gradients, at most


class InputNoise(NamedTuple):
    """What noise of measured inputs does to a fit.

    covariance: what it adds to that of the gradient (p, p); shift: by which it moves z, on average; predictions: those from the
    most likely start, else those of the fit; source: what was taken as measured; notes: why it is not in the error bars
    """

    covariance: Any = 0.0
    shift: Any = 0.0
    predictions: tuple[Any, ...] = ()
    source: str = ""
    notes: tuple[str, ...] = ()


def input_noise(run: Run, z: np.ndarray, here: Expansion | None) -> InputNoise:
    """The noise of inputs in a fit.

        B Σ Bᵀ,  B = f Jᵀ V⁻¹ ∂prediction/∂input,  so that cov(z) grows by H⁻¹ B Σ Bᵀ H⁻¹

    Noise of an array of a start also moves the estimates: what spreads faster is left with less of it. The gradient that more
    of it adds, drawn from ±σ, estimates how far: SIMEX, Cook & Stefanski 1994, doi:10.1080/01621459.1994.10476871.

    Inputs are the values of every `Series` in the equation and the array over cells from which readings start. Their
    standard deviation is what they were given; else that of the readings, where an array of a start, or a `Series` at a wall
    (the value of Dirichlet, the surroundings of Robin), which share the unit of the field, are as rough as they are, or their roughness where that is more;
    else zero. The delta method.
    """
    which = [i for i, m in enumerate(run.measurements) if m.has_residuals and run.objective.losses[i].squares]
    over_cells = any(np.shape(run.measurements[i].initial) == run.measurements[i].grid.shape for i in which)
    if here is None or not which or not (over_cells or _has_series(run, z)):
        return InputNoise()
    noise = {i: _deviation_of_readings(run, here, i) for i in which}
    models = run.at(z)
    series = _deviations_of_series(run, z, _equations(models), float(np.median(list(noise.values()))))
    starts = {}
    for i in which:
        group, m = run.objective.initials[i], run.measurements[i]
        if group not in starts and (sigma := _deviations_of_start(m, models[i].initial, noise[i])) is not None:
            starts[group] = sigma
    if not series and not starts:
        return InputNoise()
    source = " and ".join(name for name, some in (("the walls", series), ("the start", starts)) if some)
    if any(len(here.predictions[i][1]) < len(here.predictions[i][0]) for i in which):
        many = "there are too many readings to follow it"
        return InputNoise(notes=(f"the noise with which {source} were measured is not in the error bars: {many}",))
    weights = [np.moveaxis(_gradient_weights(run, here, i), -1, 0) for i in which]
    through = lambda rows: _through_inputs(tuple(which), tuple(series), tuple(starts), run.problem, np.asarray(z), rows)
    by_series, by_starts = through(weights)
    squares = lambda rows: rows @ rows.T
    total: Any = 0.0
    for part, sigma in zip(by_series, series.values(), strict=True):
        total = total + squares(np.asarray(part, float) * sigma)
    added, predictions = np.zeros(len(z)), here.predictions
    for part, (group, sigma) in zip(by_starts, starts.items(), strict=True):
        flat = np.asarray(part, float).reshape(len(z), -1)
        if sigma.ndim == np.ndim(part):  # profiles
            total = total + squares(flat @ sigma.reshape(len(sigma), -1).T)
            continue
        total = total + squares(flat * sigma.ravel())
        start = _MeasuredStart(run, z, next(i for i in which if run.objective.initials[i] == group))
        added = added + start.added_gradient(here, sigma)
        if len(starts) == 1:
            back = lambda rows: np.asarray(through(rows)[1][0], float)
            predictions = start.likeliest_predictions(here, which, sigma, noise, back)
    inverse = np.linalg.pinv(np.asarray(here.curvature, float))
    return InputNoise(total, inverse @ added, predictions, source)


def has_input_noise(run: Run) -> bool:
    """Whether walls or starts were given with noise."""
    given = [m.initial_sigma for m in run.measurements if m.has_residuals]
    given += [one.sigma for one in _nodes(_equations(run.at(run.start)), Series)]
    return any(isinstance(one, StartNoise) or (one is not None and bool(np.any(np.asarray(one) > 0))) for one in given)


class _MeasuredStart:
    """A measured start, an array over cells that can be changed without compiling anything."""

    def __init__(self, run: Run, z: np.ndarray, i: int):
        self.run, self.z, self.state = run, z, run.measurements[i].initial
        equal = lambda leaf: (
            leaf is self.state or (np.shape(leaf) == self.state.shape and np.array_equal(leaf, self.state))
        )
        leaves, fitted = run.parameters.leaves, run.parameters.places
        self.place = next(k for k, leaf in enumerate(leaves) if k not in fitted and equal(leaf))

    def expand(self, change: np.ndarray) -> Expansion:
        """The loss around z from another start."""
        leaves = list(self.run.parameters.leaves)
        leaves[self.place] = self.state + change
        return self.run.around(self.z, parameters=replace(self.run.parameters, leaves=tuple(leaves)))

    def added_gradient(self, here: Expansion, sigma: np.ndarray) -> np.ndarray:
        """The mean of the gradient that noise adds, (p,)."""
        rng, added = np.random.default_rng(0), []
        for _ in range(DRAWS):
            draw = sigma * rng.choice((-1.0, 1.0), sigma.shape)
            ends = [np.asarray(self.expand(sign * draw).gradient, float) for sign in (1, -1)]
            added.append((ends[0] + ends[1]) / 2 - np.asarray(here.gradient, float))
        return np.mean(added, axis=0)

    def likeliest_predictions(
        self, here: Expansion, which: list[int], sigma: np.ndarray, noise: Any, back: Any
    ) -> tuple[Any, ...]:
        """The predictions from the most likely start, min ‖(r + S ε)/σ‖² + ‖ε/σ₀‖², by conjugate gradients in ε/σ₀."""
        predictors, count = self.run.predictors, len(self.z)
        weight = {i: (np.asarray(predictors[i].weight) > 0) / noise[i] ** 2 for i in which}
        values = lambda found: {i: np.asarray(found.predictions[i][0], float) for i in which}
        before = values(here)

        def transposed(rows: dict[int, np.ndarray]) -> np.ndarray:
            several = [np.pad((weight[i] * rows[i])[None], ((0, count - 1), (0, 0))) for i in which]
            return sigma * back(several)[0]

        def normal(change: np.ndarray) -> np.ndarray:
            after = values(self.expand(sigma * change))
            return change + transposed({i: after[i] - before[i] for i in which})

        residual = transposed({i: np.asarray(predictors[i].observation) - before[i] for i in which})
        change, direction, size = np.zeros_like(residual), residual, np.sum(residual**2)
        first = size
        for _ in range(ITERATIONS):
            if not size > 1e-4 * first:
                break
            product = normal(direction)
            step = size / np.sum(direction * product)
            change, residual = change + step * direction, residual - step * product
            size, old = np.sum(residual**2), size
            direction = residual + size / old * direction
        found = self.expand(sigma * change).predictions
        return tuple((found[i][0], old[1]) if i in which else old for i, old in enumerate(here.predictions))


def _deviation_of_readings(run: Run, here: Expansion, i: int) -> float:
    """The standard deviation of the readings of a measurement."""
    m = run.measurements[i]
    if m.sigma is not None:
        return float(np.median(m.sigma))
    return float(np.sqrt(float(here.squares[i]) / max(len(m.values) - len(here.gradient), 1)))


_SERIES: dict[Any, bool] = {}  # whether there is any, of objectives met before


def _has_series(run: Run, z: np.ndarray) -> bool:
    """Whether the equations of a model hold any `Series`."""
    if len(_SERIES) > 256:  # fresh lambdas are fresh objectives
        _SERIES.clear()
    key = run.objective, run.parameters.treedef
    if key not in _SERIES:
        _SERIES[key] = bool(_nodes(_equations(run.at(z)), Series))
    return _SERIES[key]


def _equations(models: Any) -> list[Any]:
    """The equations of all measurements, each once."""
    return list({id(model.equation): model.equation for model in models}.values())


def _deviations_of_series(run: Run, z: np.ndarray, equations: list[Any], noise: float) -> dict[int, Any]:
    """{which Series of the equations: the standard deviation of its values}, where it has one."""
    several = _nodes(equations, Series)
    if not several:
        return {}
    walls = {id(getattr(side, name)) for side in _nodes(equations, Boundary) for name in side.levels}
    elsewhere = _nodes(_equations(run.at(np.asarray(z) + 1e-3)), Series)
    found = {}
    for k, (one, other) in enumerate(zip(several, elsewhere, strict=True)):
        values, sigma = np.asarray(one.values, float), one.sigma
        if sigma is None and id(one) in walls and np.array_equal(values, np.asarray(other.values)):  # and not fitted
            sigma = _inferred_deviation(values, noise)
        if sigma is not None and np.any(np.asarray(sigma) > 0):
            found[k] = np.broadcast_to(np.asarray(sigma, float), values.shape)
    return found


def _deviations_of_start(m: Any, state: Any, noise: float) -> np.ndarray | None:
    """Standard deviations of the cells of a measured start, or profiles of independent errors (k, *cells)."""
    given = m.initial_sigma
    if not isinstance(m.initial, np.ndarray) or m.initial.shape != m.grid.shape or not np.array_equal(state, m.initial):
        return None
    if isinstance(given, StartNoise):
        return given.profiles * (noise if m.sigma is None else 1.0)
    if given is None:
        sigma = _inferred_deviation(
            np.where(m.grid.mask, m.initial, np.nan) if m.grid.mask is not None else m.initial, noise
        )
        return None if sigma is None else np.full(m.grid.shape, sigma)
    return np.broadcast_to(given, m.grid.shape) if np.any(given > 0) else None


def _inferred_deviation(values: np.ndarray, noise: float) -> float | None:
    """The noise of an input given without sigma: that of the readings, or its roughness where that is plainly more."""
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
            size = np.nanmedian(np.abs(np.diff(values, order, axis)))
            found.append(1.4826 * size / np.sqrt(comb(2 * order, order)))
    return float(min(found, default=0.0))


def _gradient_weights(run: Run, here: Expansion, i: int) -> np.ndarray:
    """f V⁻¹ J of a measurement (rows, p): how much each prediction moves the gradient."""
    predictor, (_, jacobian) = run.predictors[i], here.predictions[i]
    f = float(run.objective.losses[i].factor(predictor.known, float(predictor.size), float(here.squares[i])))
    weight, carry, last = (np.asarray(part) for part in (predictor.weight, predictor.carry, predictor.last))
    new = f * weight[:, None] * (jacobian - carry[:, None] * jacobian[last])
    rows, linked = new.copy(), np.flatnonzero(carry)
    np.subtract.at(rows, last[linked], carry[linked, None] * new[linked])
    return rows


def _nodes(tree: Any, kind: type) -> list[Any]:
    """The nodes of one class in a tree."""
    is_kind = lambda node: isinstance(node, kind)
    return list(filter(is_kind, jax.tree.leaves(tree, is_leaf=is_kind)))


@partial(quick_jit, static=(0, 1, 2))
def _through_inputs(
    which: tuple[int, ...], series: tuple[int, ...], starts: tuple[int, ...], problem: Problem, z: Any, weights: Any
) -> Any:
    """Weights (p, rows) of the predictions taken back to the inputs: (p, …) for each Series and each start."""
    models = problem.build(z)
    equations, groups = _equations(models), problem.objective.initials
    place = {id(equation): k for k, equation in enumerate(equations)}

    def predict(values: Any, states: Any) -> Any:
        changed = equations
        if series:
            changed = eqx.tree_at(lambda e: [_nodes(e, Series)[k].values for k in series], equations, values)

        def model(i: int) -> Observed:
            state = states[starts.index(g)] if (g := groups[i]) in starts else models[i].initial
            return Observed(changed[place[id(models[i].equation)]], state, models[i].observe)

        return [problem.predictors[i].observed(model(i), i).values for i in which]

    values = [jnp.asarray(_nodes(equations, Series)[k].values) for k in series]
    states = [jnp.asarray(models[next(i for i in which if groups[i] == g)].initial) for g in starts]
    back = jax.vjp(predict, values, states)[1]
    return jax.vmap(back)([jnp.asarray(rows, z.dtype) for rows in weights])
