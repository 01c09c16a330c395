"""Whether cells are small enough: what they move the estimates by, in error bars."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from jaxdiff.inference.alternating_cells import alternated, combined, cut, off, refilled
from jaxdiff.inference.loss import Expansion
from jaxdiff.inference.run import Run
from jaxdiff.model.grid import Grid
from jaxdiff.runtime.progress import Progress

LEAST = 1 / 3  # of an error bar, from which on it is said
DOUBT = 1 / 8  # of an error bar by a first estimate, from which on a closer one is made
WIDER = 0.6  # by which share cells are alternately wider and narrower
MOST = 20  # steps to the optimum on other cells
NEAR = 0.3  # relative change of the estimates over which the shift of one fit serves the next, far below `DOUBT`
_SHIFTS: dict[
    Any, list[tuple[np.ndarray, np.ndarray | None]]
] = {}  # estimates and their shifts, of problems met before


def shifts(run: Run, z: np.ndarray, here: Expansion | None, bars: Any) -> np.ndarray | None:
    """By how much the cells move each estimate, (p,); None where that is not known without compiling anew.

    Cells that are alternately wider and narrower by a share a are as many, so that the compiled program of the fit solves them,
    and their errors of order h² are 1 + 3a² times as large. The shift is the Gauss–Newton step from the optimum towards what
    the model predicts there without these errors.
    """
    known = np.isfinite(bars.errors)
    if here is None or not known.any() or not any(here.seen):
        return None
    x = np.asarray(run.parameters.transform(z), float)
    if len(_SHIFTS) > 256:  # fresh lambdas are fresh problems
        _SHIFTS.clear()
    met, reach = _SHIFTS.setdefault(_key(run), []), np.maximum(NEAR * np.abs(x), np.where(known, 3 * bars.errors, 0.0))
    for at, shift in met[-32:]:
        far = shift is None or np.nanmax(np.abs(shift) / bars.errors) < DOUBT / 2
        if (np.abs(x - at) <= (reach if far else 0.1 * reach)).all():
            return shift
    met.append((x, _found(run, z, here, bars.errors)))
    return met[-1][1]


def _found(run: Run, z: np.ndarray, here: Expansion, errors: np.ndarray) -> np.ndarray | None:
    """`shifts`, of a problem that has not been met before."""
    if (plans := _plans(run, z, here)) is None:
        return None
    known, slope = np.isfinite(errors), run.parameters.transform.slope(z)
    rest = _seen_from(run, z, plans).gradient if run.paths else 0.0

    def shift(there: Expansion) -> np.ndarray:
        return -slope * _solved(there.curvature, there.gradient - rest, known)

    axes = range(max(plan.states_at_times.grid.ndim for plan in plans if plan.on_cells))
    there = _seen_from(run, z, [_alternate(plan, axes, WIDER, 0) for plan in plans], _parameters(run, axes, WIDER, 0))
    first = shift(there) / (3 * WIDER**2)
    if not (np.isfinite(first).all() and there.resolved.all()):
        return None
    if np.nanmax(np.abs(first) / errors) < DOUBT:
        return first
    wrong = _errors(run, z, here, plans, axes)
    if wrong is None:
        return None
    held = [
        plan if e is None else plan.holding({"observation": np.asarray(plan.observation) - e})
        for plan, e in zip(plans, wrong, strict=True)
    ]
    return -shift(_seen_from(run, z, held))


def remark(run: Run, z: np.ndarray, here: Expansion | None, bars: Any) -> tuple[str, ...]:
    """A word on cells so large that they move an estimate by more than a third of its error bar."""
    found = shifts(run, z, here, bars)
    if found is None:
        return ()
    share = np.nan_to_num(np.abs(found) / bars.errors)
    worst = int(np.argmax(share))
    if share[worst] <= LEAST:
        return ()
    grids = {m.grid.shape: m.grid for m in run.measurements if m.on_cells}
    sizes = " or ".join(_told(grid, enough(share[worst])) for grid in grids.values())
    return (
        f"cells are too large: they move {run.parameters.labels[worst]} by about {share[worst]:.2g} of its error bars; take {sizes}, see fit.check_grid()",
    )


def enough(share: float, order: int = 2) -> float:
    """How many times as many cells leave a fifth of an error bar."""
    return float(max(share / 0.2, 1.0) ** (1 / order))


def _told(grid: Any, factor: float) -> str:
    sizes = [f"{int(np.ceil(factor * n))} along {name}" for n, name in zip(grid.shape, grid.names, strict=True)]
    return f"{' and '.join(sizes)} instead of {' × '.join(map(str, grid.shape))}"


def _seen_from(run: Run, z: np.ndarray, plans: list[Any], parameters: Any = None) -> Expansion:
    """The loss around z by these plans, from the program that the fit has compiled."""
    other = copy(run)
    other.predictors, other.parameters = tuple(plans), run.parameters if parameters is None else parameters
    return other.around(z)


def _solved(curvature: Any, pull: Any, known: np.ndarray) -> np.ndarray:
    """The Gauss–Newton step against a gradient, of what is identified."""
    curvature, out = np.asarray(curvature, float)[np.ix_(known, known)], np.zeros(len(known))
    if not np.isfinite(curvature).all():
        return np.full(len(known), np.nan)
    scale = np.sqrt(np.maximum(np.diag(curvature), np.finfo(float).tiny))
    inverse = np.linalg.pinv(curvature / scale / scale[:, None], 1e-11, hermitian=True)
    out[known] = inverse @ (np.asarray(pull, float)[known] / scale) / scale
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
    return run.objective, run.parameters.treedef, run.parameters.places, str(run.options), digest


def _plans(run: Run, z: np.ndarray, here: Expansion) -> list[Any] | None:
    """Plans for what the model itself predicts at z; None where other cells would be another problem, or err otherwise."""
    grids = _grids(run)
    equation, initials = run.at(z)
    fitted = [run.parameters.leaves[i] for i in run.parameters.places]
    given = jax.tree.unflatten(run.parameters.treedef, run.parameters.leaves)["initial"]
    cells = lambda tree: any(np.shape(leaf) in grids for leaf in jax.tree.leaves(tree))
    if not grids or equation.discrete or cells(equation) or cells(fitted) or (cells(initials) and not cells(given)):
        return None
    found = []
    for plan, loss, seen in zip(run.predictors, run.objective.losses, here.seen, strict=True):
        if plan.on_cells:
            solve = plan.states_at_times.solve
            scheme = None if solve is None else solve.scheme
            if (
                min(plan.states_at_times.grid.shape) < 4
                or (solve is not None and solve.method.in_modes)
                or getattr(scheme, "order", 2 if scheme is None else 0) != 2
            ):
                return None
            if not seen or (noiseless := _noiseless(plan, loss, seen, len(run.predictors) > 1)) is None:
                return None
            plan = plan.holding({"observation": noiseless})
        found.append(plan)
    return found


def _grids(run: Run) -> dict[Any, Any]:
    return {m.grid.shape: m.grid for m in run.measurements if m.on_cells}


def _noiseless(plan: Any, loss: Any, seen: Any, beside: bool) -> Any:
    """Observations that the model fits best where it is; None where that is not known."""
    prediction, jacobian = (np.asarray(part, float) for part in seen)
    if plan.known or not (loss.likelihood and loss.squares) or not beside or not len(jacobian):
        return plan.noiseless(prediction)
    root = np.sqrt(np.asarray(plan.weight))  # the scale of the noise counts beside other measurements
    rest, slope = (np.asarray(plan.observation) - prediction) * root, jacobian * root[:, None]
    left = rest - slope @ np.linalg.lstsq(slope, rest)[0]
    return prediction + np.where(root > 0, left / np.where(root > 0, root, 1.0), 0.0)


def _alternate(plan: Any, axes: Any, a: float, first: int) -> Any:
    """The plan on cells that are alternately wider and narrower along these axes."""
    if not plan.on_cells:
        return plan
    edges = [np.asarray(one) for one in plan.states_at_times.grid.edges]
    changed = tuple(alternated(one, a, first) if k in axes else one for k, one in enumerate(edges))
    return eqx.tree_at(lambda p: p.states_at_times.grid.edges, plan, changed)


def _parameters(run: Run, axes: Any, a: float, first: int) -> Any:
    """The parameters, with initial states that are arrays over cells on such cells."""
    grids = _grids(run)

    def on(leaf: Any) -> Any:
        if np.shape(leaf) not in grids:
            return leaf
        for k in axes:
            leaf = refilled(grids[np.shape(leaf)].axis(k), leaf, k, a, first)
        return leaf

    return replace(run.parameters, leaves=tuple(map(on, run.parameters.leaves)))


def _errors(run: Run, z: np.ndarray, here: Expansion, plans: list[Any], axes: Any) -> list[Any] | None:
    """What the prediction of each plan errs by: what both alternations together add over 3a², and what interpolation between
    centres and bins that cut cells add to that. None where they cannot be solved."""
    found: list[Any] = [0.0 if plan.on_cells else None for plan in plans]
    for k in axes:
        spots = [_spots(plan, k) for plan in plans]
        mean: list[Any] = [0.0] * len(plans)
        for first in (0, 1):
            changed: list[Any] = [_alternate(plan, (k,), WIDER, first) for plan in plans]
            parts: list[Any] = [0.5] * len(plans)
            for i, spot in enumerate(spots):
                if spot is not None:
                    place, part = combined(spot.edges, spot.x, WIDER, first)
                    changed[i], parts[i] = _read_at(changed[i], k, place), spot.by_row(part)
            there = _seen_from(run, z, changed, _parameters(run, (k,), WIDER, first))
            if not there.resolved.all():
                return None
            mean = [
                sum_ + part * _noise_free(plan, seen)
                for sum_, part, plan, seen in zip(mean, parts, plans, there.seen, strict=True)
            ]
        bend: list[Any] = [0.0] * len(plans)
        for side, weight in ((-1, 1.0), (0, -2.0), (1, 1.0)) if any(spot is not None for spot in spots) else ():
            moved = [
                plan if spot is None else _read_at(plan, k, spot.inner + side * spot.step)
                for plan, spot in zip(plans, spots, strict=True)
            ]
            seen_ = _seen_from(run, z, moved).seen
            bend = [
                sum_ if spot is None else sum_ + weight * _noise_free(plan, seen)
                for sum_, spot, plan, seen in zip(bend, spots, plans, seen_, strict=True)
            ]
        for i, (plan, spot, m) in enumerate(zip(plans, spots, run.measurements, strict=True)):
            if found[i] is None or k >= plan.states_at_times.grid.ndim:
                continue
            if spot is not None:
                rest = bend[i] * spot.by_row(off((spot.edges[1:] + spot.edges[:-1]) / 2, spot.x) / spot.step**2)
            else:
                held = _noise_free(plan, here.seen[i])
                inside = held[:, : held.shape[1] - plan.rest].reshape(-1, *(len(one) - 1 for one in m.bins))
                inside = np.moveaxis(
                    cut(plan.states_at_times.grid.axis(k), m.bins[k], np.moveaxis(inside, k + 1, -1)), -1, k + 1
                )
                rest = np.pad(inside.reshape(len(held), -1), ((0, 0), (0, int(plan.rest))))
            found[i] = found[i] + (mean[i] - _noise_free(plan, here.seen[i])) / (3 * WIDER**2) + rest
    return found


def _noise_free(plan: Any, seen: Any) -> Any:
    """What a prediction says of the data, zero where none is kept."""
    return plan.noiseless(np.asarray(seen[0], float)) if seen else 0.0


class _Spots(NamedTuple):
    """Along one axis: edges, where is read, the same off the walls, the widths of cells there, and the sensor of each row."""

    edges: np.ndarray
    x: np.ndarray
    inner: np.ndarray
    step: np.ndarray
    sensor: Any

    def by_row(self, each: np.ndarray) -> np.ndarray:
        return each if self.sensor is None else each[np.asarray(self.sensor)]


def _spots(plan: Any, k: int) -> _Spots | None:
    if not plan.on_cells or plan.places is None or k >= plan.states_at_times.grid.ndim:
        return None
    edges, x = np.asarray(plan.states_at_times.grid.edges[k]), plan.places[:, k]
    step = np.diff(edges)[np.clip(np.searchsorted(edges, x) - 1, 0, len(edges) - 2)]
    return _Spots(edges, x, np.clip(x, edges[0] + 1.5 * step, edges[-1] - 1.5 * step), step, plan.sensor)


def _read_at(plan: Any, k: int, x: np.ndarray) -> Any:
    """The plan with other places along one axis."""
    place = np.array(plan.place)
    place.reshape(len(place), -1)[:, k] = x
    return eqx.tree_at(lambda p: p.place, plan, place)


@dataclass(frozen=True)
class GridCheck:
    """What cells half as wide would change in a fit; it prints itself.

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


def checked(fit: Any) -> GridCheck:
    """The same fit on cells half as wide, from its optimum."""
    if fit.problem is None:
        raise ValueError("this fit was loaded without its data, got no problem to solve again; fit anew, then check")
    objective, parameters = fit.problem.objective, fit.problem.parameters
    values, errors, _ = fit.columns()
    known = np.isfinite(errors) if np.isfinite(errors).any() else np.ones(len(values), bool)
    with jax.enable_x64(True):
        z = np.asarray(parameters.transform.inverse(values), float)
        own = Run(objective, parameters, fit.measurements, fit.options, Progress(False))
        fine = Run(objective, *_halved(parameters, fit.measurements), fit.options, Progress(False))
        times = fit.correlation_times
        try:
            here = _settle(own, z, known, times)
            if (np.abs(parameters.transform(here) - values) > 0.1 * np.nan_to_num(errors, nan=np.inf)).any():
                times = ()  # error bars alone are widened
                here = _settle(own, z, known, times)
            ends = [here, _settle(fine, z, known, times)]
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"the model cannot be solved on cells half as wide: {error}; give its fields as functions"
            ) from None
        moves = np.asarray(parameters.transform(ends[1]), float) - np.asarray(parameters.transform(ends[0]), float)
    shares = moves / errors
    order = getattr(fit.options.scheme, "order", 2)
    rest = np.nanmax(np.abs(shares), initial=0.0)
    factor = enough(rest / (1 - 0.5**order), order) if rest > LEAST else 1.0
    grids = [m.grid for m in fit.measurements if m.on_cells]
    cells = tuple(tuple(int(np.ceil(factor * n)) for n in grid.shape) for grid in grids)
    return GridCheck(parameters.split(moves), parameters.split(shares), cells, parameters.labels)


def _settle(run: Run, z: np.ndarray, known: np.ndarray, times: Any) -> np.ndarray:
    """The optimum near z."""
    run.prepare(z)
    parts = zip(run.predictors, run.measurements, times or (None,) * len(run.predictors), strict=True)
    run.predictors = tuple(plan if tau is None else plan.correlated(m, tau) for plan, m, tau in parts)
    limit = run.parameters.transform.limit
    for _ in range(MOST):
        here = run.around(z)
        if not here.resolved.all():
            run.renew(z, here.resolved)
            continue
        if not np.isfinite(here.value):
            run.complain(z)
        step = -_solved(here.curvature, here.gradient, known)
        z = np.clip(z + step, -limit, limit)
        if np.abs(step).max() < 1e-6:
            break
    return z


def _halved(parameters: Any, measurements: Any) -> tuple[Any, Any]:
    """Parameters and measurements on cells half as wide; arrays over cells hold for both halves."""
    shapes = {m.grid.shape for m in measurements if m.on_cells}
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
    half = lambda m: m if not m.on_cells else eqx.tree_at(lambda m: m.grid, m, _finer(m.grid))
    return replace(parameters, leaves=tuple(leaves)), tuple(map(half, measurements))


def _finer(grid: Any) -> Grid:
    between = lambda edges: np.insert(edges, np.arange(1, len(edges)), (edges[1:] + edges[:-1]) / 2)
    return Grid(tuple(map(between, grid.edges)), grid.geometry)
