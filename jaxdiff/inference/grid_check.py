"""The error of discretisation in the estimates of a fit, in error bars: a warning in `fit`, and `GridCheck` on half cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.inference.alternating_cells import (
    alternated,
    combined,
    errors_of_bins,
    interpolation_error,
    on_own,
    read_at,
    refilled,
    sensors_along,
)
from jaxdiff.inference.approximations import upwind
from jaxdiff.inference.loss import Expansion
from jaxdiff.inference.run import Run, predicted
from jaxdiff.model.grid import Grid
from jaxdiff.runtime.compilation import quick_jit
from jaxdiff.runtime.progress import Progress

LEAST = 1 / 3  # of an error bar, from which on it is said
CLOSER = 1 / 8  # of an error bar by a first estimate, from which on a closer one is made
WIDER = 0.6  # by which share cells are alternately wider and narrower
STEPS = 20  # to the optimum on other cells
NEAR = 0.3  # relative change of the estimates over which the shift of one fit serves the next, far below `CLOSER`
_SHIFTS: dict[Any, list[tuple[np.ndarray, np.ndarray | None]]] = {}  # estimates and their shifts, of earlier problems


def shifts(run: Run, z: np.ndarray, here: Expansion | None, errors: np.ndarray) -> np.ndarray | None:
    """By how much the cells move each estimate, (p,); None where that is not known without compiling anew.

    Cells that are alternately wider and narrower by a share a are as many, so that the compiled program of the fit solves them,
    and their errors of order h² are 1 + 3a² times as large. The shift is the Gauss–Newton step from the optimum towards what
    the model predicts there without these errors.
    """
    known = np.isfinite(errors)
    if here is None or not known.any() or not any(here.predictions):
        return None
    x = np.asarray(run.parameters.transform(z), float)
    if len(_SHIFTS) > 256:  # fresh lambdas are fresh problems
        _SHIFTS.clear()
    stored = _SHIFTS.setdefault(_key(run), [])
    near = np.maximum(NEAR * np.abs(x), np.where(known, 3 * errors, 0.0))
    for at, shift in stored[-32:]:
        small = shift is None or np.nanmax(np.abs(shift) / errors) < CLOSER / 2
        if (np.abs(x - at) <= (near if small else 0.1 * near)).all():
            return shift
    stored.append((x, _estimated_shifts(run, z, here, errors)))
    return stored[-1][1]


def _estimated_shifts(run: Run, z: np.ndarray, here: Expansion, errors: np.ndarray) -> np.ndarray | None:
    """`shifts`, of a problem for which none are stored."""
    if any(predictor.of_cells and predictor.states_at_times.in_modes for predictor in run.predictors):
        found = _shifts_in_modes(run, z, here, np.isfinite(errors))
        return None if found is None else found * run.parameters.transform.slope(z)
    if (predictors := _noiseless_predictors(run, z, here)) is None:
        return None
    known, slope = np.isfinite(errors), run.parameters.transform.slope(z)
    rest = run.around(z, tuple(predictors)).gradient if run.paths or run.smoothing is not None else 0.0

    def shift(there: Expansion) -> np.ndarray:
        return -slope * _newton_step(there.curvature, there.gradient - rest, known)

    axes = range(max(predictor.states_at_times.grid.ndim for predictor in predictors if predictor.on_cells))
    if any(predictor.of_cells for predictor in predictors):
        wrong = _errors_of_predictions(run, z, here, predictors, axes)
        return None if wrong is None else _moved_by(run, here, wrong, known) * slope
    changed = tuple(_alternate(predictor, axes, 0) for predictor in predictors)
    there = run.around(z, changed, _alternate_parameters(run, axes, 0))
    first = shift(there) / (3 * WIDER**2)
    if not (np.isfinite(first).all() and there.resolved.all()):
        return None
    if np.nanmax(np.abs(first) / errors) < CLOSER:
        return first
    wrong = _errors_of_predictions(run, z, here, predictors, axes)
    if wrong is None:
        return None
    exact = [
        predictor if e is None else predictor.holding({"observation": np.asarray(predictor.observation) - e})
        for predictor, e in zip(predictors, wrong, strict=True)
    ]
    return -shift(run.around(z, tuple(exact)))


def _shifts_in_modes(run: Run, z: np.ndarray, here: Expansion, known: np.ndarray) -> np.ndarray | None:
    """`shifts` of what is solved in modes, which are those of equal cells: by the shares of cells half as wide."""
    fine = Run(run.objective, *_halved(run.parameters, run.measurements), run.options, Progress(False))
    fine.prepare(z)
    wrong: list[Any] = []
    for predictor, part, found in zip(run.predictors, here.predictions, predicted(fine.problem, z), strict=True):
        if not (predictor.of_cells and found.resolved and len(part) and len(part[1])):
            return None
        halves = np.asarray(found.values).reshape(
            len(part[0]), *(m for n in predictor.states_at_times.grid.shape for m in (n, 2))
        )
        whole = halves.sum(tuple(range(2, halves.ndim, 2))).reshape(np.shape(part[0]))
        wrong.append(4 / 3 * (np.asarray(part[0]) - whole))
    return _moved_by(run, here, wrong, known)


def _moved_by(run: Run, here: Expansion, wrong: list[Any], known: np.ndarray) -> np.ndarray:
    """By how much errors of the predictions move the optimum: the Gauss–Newton step of a parameter that adds them."""
    pull = np.zeros(len(known))
    for loss, predictor, part, e in zip(run.objective.losses, run.predictors, here.predictions, wrong, strict=True):
        if e is not None and part:
            pull = pull + np.asarray(_cross(loss, predictor, *part, e), float)
    return -_newton_step(here.curvature, pull, known)


@partial(quick_jit, static=0)
def _cross(loss: Any, predictor: Any, prediction: Any, jacobian: Any, e: Any) -> Any:
    columns = jnp.concatenate([jacobian, e.reshape(*jacobian.shape[:-1], 1)], -1)
    return loss.expand(predictor, prediction, columns).curvature[:-1, -1]


def warning(run: Run, z: np.ndarray, here: Expansion | None, errors: np.ndarray) -> tuple[str, ...]:
    """A warning of cells so large that they move an estimate by more than a third of its error bar."""
    if any(grid.mask is not None for grid in _grids(run).values()):
        return ("what the cells of a masked grid do to the estimates is not estimated by itself; see fit.check_grid()",)
    found = shifts(run, z, here, errors)
    if found is None:
        return ()
    share = np.nan_to_num(np.abs(found) / errors, posinf=0.0)  # an error bar of zero has told why by itself
    worst = int(np.argmax(share))
    if share[worst] <= LEAST:
        return ()
    sizes = []
    for grid in _grids(run).values():
        wanted = [f"{int(np.ceil(enough(share[worst]) * n))} along {x}" for n, x in zip(grid.shape, grid.names)]
        sizes.append(f"{' and '.join(wanted)} instead of {' × '.join(map(str, grid.shape))}")
    return (
        f"cells are too large: they move {run.parameters.labels[worst]} by about {share[worst]:.2g} of its error bars; take {' or '.join(sizes)}, see fit.check_grid()",
    )


def enough(share: float, order: int = 2) -> float:
    """How many times as many cells leave a fifth of an error bar."""
    return float(max(share / 0.2, 1.0) ** (1 / order))


def _newton_step(curvature: Any, gradient: Any, known: np.ndarray) -> np.ndarray:
    """The Gauss–Newton step against a gradient, of what is identified."""
    curvature, out = np.asarray(curvature, float)[np.ix_(known, known)], np.zeros(len(known))
    if not np.isfinite(curvature).all():
        return np.full(len(known), np.nan)
    scale = np.sqrt(np.maximum(np.diag(curvature), np.finfo(float).tiny))
    inverse = np.linalg.pinv(curvature / scale / scale[:, None], 1e-11, hermitian=True)
    out[known] = inverse @ (np.asarray(gradient, float)[known] / scale) / scale
    return out


def _key(run: Run) -> Any:
    """What the shifts depend on besides the estimates."""
    fitted = set(run.parameters.places)
    numbers = [leaf for i, leaf in enumerate(run.parameters.leaves) if i not in fitted]
    for m in run.measurements:
        numbers += jax.tree.leaves(m.grid)
        numbers += jax.tree.leaves(
            [getattr(m, name, None) for name in ("times", "start", "positions", "sigma", "size", "edges")]
        )
    digest = b"".join(np.asarray(one).tobytes() for one in numbers if one is not None)
    return run.objective, run.parameters.treedef, run.parameters.places, run.parameters.labels, str(run.options), digest


def _noiseless_predictors(run: Run, z: np.ndarray, here: Expansion) -> list[Any] | None:
    """Predictors for what the model itself predicts at z; None where other cells would be another problem, or err otherwise."""
    grids = _grids(run)
    models = run.at(z)
    equations, initials = [model.equation for model in models], [model.initial for model in models]
    fitted = [run.parameters.leaves[i] for i in run.parameters.places]
    given = jax.tree.unflatten(run.parameters.treedef, run.parameters.leaves)["initial"]
    cells = lambda tree: any(np.shape(leaf) in grids for leaf in jax.tree.leaves(tree))
    discrete = any(equation.discrete for equation in equations)
    masked = any(grid.mask is not None for grid in grids.values())  # whose outline moves with the cells
    if not grids or masked or discrete or cells(equations) or cells(fitted) or (cells(initials) and not cells(given)):
        return None
    found = []
    for predictor, loss, part in zip(run.predictors, run.objective.losses, here.predictions, strict=True):
        if predictor.on_cells:
            solve = predictor.states_at_times.solve
            scheme = None if solve is None else solve.scheme
            in_modes = solve is not None and solve.method.in_modes
            second_order = scheme is None or getattr(scheme, "order", 0) == 2
            if min(predictor.states_at_times.grid.shape) < 4 or in_modes or not second_order:
                return None
            if not part or np.ndim(part[1]) != np.ndim(part[0]) + 1 or len(part[1]) != len(part[0]):
                return None
            if predictor.of_cells:
                found.append(predictor)
                continue
            if (noiseless := _noiseless(predictor, loss, part, len(run.predictors) > 1)) is None:
                return None
            predictor = predictor.holding({"observation": noiseless})
        found.append(predictor)
    return found


def _grids(run: Run) -> dict[Any, Any]:
    return {m.grid.shape: m.grid for m in run.measurements if m.on_cells}


def _noiseless(predictor: Any, loss: Any, predicted: Any, beside: bool) -> Any:
    """Observations that the model fits best where it is; None where that is not known."""
    prediction, jacobian = (np.asarray(part, float) for part in predicted)
    if predictor.known or not (loss.likelihood and loss.squares) or not beside or not len(jacobian):
        return predictor.noiseless(prediction)
    root = np.sqrt(np.asarray(predictor.weight))  # the scale of the noise counts beside other measurements
    residual, slope = (np.asarray(predictor.observation) - prediction) * root, jacobian * root[:, None]
    left = residual - slope @ np.linalg.lstsq(slope, residual)[0]
    return prediction + np.where(root > 0, left / np.where(root > 0, root, 1.0), 0.0)


def _alternate(predictor: Any, axes: Any, first: int) -> Any:
    """The predictor on cells that are alternately wider and narrower along these axes."""
    if not predictor.on_cells:
        return predictor
    edges = [np.asarray(one) for one in predictor.states_at_times.grid.edges]
    changed = tuple(alternated(one, WIDER, first) if k in axes else one for k, one in enumerate(edges))
    return eqx.tree_at(lambda p: p.states_at_times.grid.edges, predictor, changed)


def _alternate_parameters(run: Run, axes: Any, first: int) -> Any:
    """The parameters, with initial states that are arrays over cells on such cells."""
    grids = _grids(run)

    def on(leaf: Any) -> Any:
        if np.shape(leaf) not in grids:
            return leaf
        for k in axes:
            leaf = refilled(grids[np.shape(leaf)].axis(k), leaf, k, WIDER, first)
        return leaf

    return replace(run.parameters, leaves=tuple(map(on, run.parameters.leaves)))


def _errors_of_predictions(
    run: Run, z: np.ndarray, here: Expansion, predictors: list[Any], axes: Any
) -> list[Any] | None:
    """The error of the prediction of each predictor: what both alternations together add over 3a², and what interpolation between
    centres and bins that cut cells add to that. None where they cannot be solved."""

    def noise_free(there: Expansion) -> list[Any]:
        pairs = zip(predictors, there.predictions, strict=True)
        shown = lambda one, part: part if one.of_cells else one.noiseless(part)
        return [shown(predictor, np.asarray(part[0], float)) if part else 0.0 for predictor, part in pairs]

    found: list[Any] = [0.0 if predictor.on_cells else None for predictor in predictors]
    now = noise_free(here)
    for k in axes:
        sensors = [sensors_along(predictor, k) for predictor in predictors]
        mean: list[Any] = [0.0] * len(predictors)
        for first in (0, 1):
            changed: list[Any] = [_alternate(predictor, (k,), first) for predictor in predictors]
            shares: list[Any] = [0.5] * len(predictors)
            for i, one in enumerate(sensors):
                if one is not None:
                    place, share = combined(one.edges, one.x, WIDER, first)
                    changed[i], shares[i] = read_at(changed[i], k, place), one.by_row(share)
            there = run.around(z, tuple(changed), _alternate_parameters(run, (k,), first))
            if not there.resolved.all():
                return None
            parts = [on_own(predictor, part, k, WIDER, first) for predictor, part in zip(predictors, noise_free(there))]
            mean = [sum_ + share * part for sum_, share, part in zip(mean, shares, parts, strict=True)]
        second: list[Any] = [0.0] * len(predictors)  # differences of predictions at places moved by a cell
        for side, weight in ((-1, 1.0), (0, -2.0), (1, 1.0)) if any(one is not None for one in sensors) else ():
            moved = tuple(
                predictor if one is None else read_at(predictor, k, one.inner + side * one.step)
                for predictor, one in zip(predictors, sensors, strict=True)
            )
            second = [sum_ + weight * part for sum_, part in zip(second, noise_free(run.around(z, moved)), strict=True)]
        for i, (predictor, one, m) in enumerate(zip(predictors, sensors, run.measurements, strict=True)):
            if found[i] is None or k >= predictor.states_at_times.grid.ndim:
                continue
            if one is not None:
                middle = (one.edges[1:] + one.edges[:-1]) / 2
                rest = second[i] * one.by_row(interpolation_error(middle, one.x) / one.step**2)
            elif hasattr(m, "bins"):
                rest = errors_of_bins(predictor, m, k, now[i])
            else:  # what is read of whole states lies between no centres
                rest = 0.0
            found[i] = found[i] + (mean[i] - now[i]) / (3 * WIDER**2) + rest
    return found


@dataclass(frozen=True)
class GridCheck:
    """How far cells half as wide would move the estimates of a fit; it prints itself.

    moves: {name: number or array}, estimate on half cells less the one found, in its own unit; error_bars: the same in
    standard errors, NaN where there is none; cells: (n, …) for each measurement, how many would leave about a fifth of an
    error bar, those at hand where they do
    """

    moves: dict[str, Any]
    error_bars: dict[str, Any]
    cells: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]

    def __str__(self) -> str:
        flat = lambda values: np.concatenate([np.ravel(one) for one in values.values()])
        rows = zip(self.labels, flat(self.moves), flat(self.error_bars), strict=True)
        lines = [f"{name} would move by {move:.2g}, {bars:.2g} of its error bars" for name, move, bars in rows]
        sizes = " and ".join(dict.fromkeys(" × ".join(map(str, shape)) for shape in self.cells))
        return "\n".join(["on cells half as wide", *lines, *([f"enough cells: {sizes}"] if sizes else [])])

    __repr__ = __str__


def check_grid(fit: Any) -> GridCheck:
    """Fit on cells half as wide, from the optimum of a fit."""
    problem = fit.required_problem()
    objective, parameters = problem.objective, problem.parameters
    values, errors, _ = fit.columns()
    known = np.isfinite(errors) if np.isfinite(errors).any() else np.ones(len(values), bool)
    with jax.enable_x64(True):
        z = np.asarray(parameters.transform.inverse(values), float)
        own = Run(objective, parameters, fit.measurements, fit.options, Progress(False))
        fine = Run(objective, *_halved(parameters, fit.measurements), fit.options, Progress(False))
        own.smoothing = fine.smoothing = problem.smoothing
        times = fit.correlation_times
        try:
            here = _optimum(own, z, known, times)
            if (np.abs(parameters.transform(here) - values) > 0.1 * np.nan_to_num(errors, nan=np.inf)).any():
                times = ()  # error bars alone are widened
                here = _optimum(own, z, known, times)
            ends = [here, _optimum(fine, z, known, times)]
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"the model cannot be solved on cells half as wide: {error}; give its fields as functions"
            ) from None
        moves = np.asarray(parameters.transform(ends[1]), float) - np.asarray(parameters.transform(ends[0]), float)
    shares = moves / errors
    order = 1 if upwind(own, z) else getattr(fit.options.scheme, "order", 2)
    rest = np.nanmax(np.abs(shares), initial=0.0)
    factor = enough(rest / (1 - 0.5**order), order) if rest > LEAST else 1.0
    grids = [m.grid for m in fit.measurements if m.discretised]
    cells = tuple(tuple(int(np.ceil(factor * n)) for n in grid.shape) for grid in grids)
    return GridCheck(parameters.split(moves), parameters.split(shares), cells, parameters.labels)


def _optimum(run: Run, z: np.ndarray, known: np.ndarray, times: Any) -> np.ndarray:
    """The optimum near z."""
    run.prepare(z)
    parts = zip(run.predictors, run.measurements, times or (None,) * len(run.predictors), strict=True)
    run.predictors = tuple(predictor if tau is None else predictor.correlated(m, tau) for predictor, m, tau in parts)
    limit = run.parameters.transform.limit
    for _ in range(STEPS):
        here = run.around(z)
        if not here.resolved.all():
            run.renew(z, here.resolved)
            continue
        if not np.isfinite(here.value):
            run.complain(z)
        step = -_newton_step(here.curvature, here.gradient, known)
        z = np.clip(z + step, -limit, limit)
        if np.abs(step).max() < 1e-6:
            break
    return z


def _halved(parameters: Any, measurements: Any) -> tuple[Any, Any]:
    """Parameters and measurements on cells half as wide; arrays over cells hold for both halves."""
    shapes = {m.grid.shape for m in measurements if m.discretised}
    leaves = list(parameters.leaves)
    for i, leaf in enumerate(leaves):
        if np.shape(leaf) in shapes:
            if i in parameters.places:
                raise ValueError(
                    f"{parameters.names[parameters.places.index(i)]} has a number for each cell: with other cells it is another fit"
                )
            for k in range(np.ndim(leaf)):
                leaf = np.repeat(leaf, 2, k)
            leaves[i] = leaf
    half = lambda m: eqx.tree_at(lambda m: m.grid, m, _finer(m.grid)) if m.discretised else m
    return replace(parameters, leaves=tuple(leaves)), tuple(map(half, measurements))


def _finer(grid: Any) -> Grid:
    between = lambda edges: np.insert(edges, np.arange(1, len(edges)), (edges[1:] + edges[:-1]) / 2)
    mask = None if grid.mask is None else np.kron(grid.mask, np.ones((2,) * grid.ndim, bool))
    return Grid(tuple(map(between, grid.edges)), grid.geometry, mask)
