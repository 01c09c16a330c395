"""Many fits under way at once: compiled Levenberg–Marquardt over chunks of them, on one device or sharded over several."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxdiff.inference.levenberg_marquardt import LevenbergMarquardt
from jaxdiff.inference.levenberg_marquardt_steps import State, advance, begin, replaced, resumed
from jaxdiff.inference.loss import Expansion
from jaxdiff.inference.losses import is_table
from jaxdiff.inference.objective import Problem
from jaxdiff.inference.run import NO_STEP, Run
from jaxdiff.measurements.states_at_times import Unplannable
from jaxdiff.parameters import Parameters
from jaxdiff.runtime.compilation import quick_jit
from jaxdiff.runtime.conditions import Checks
from jaxdiff.runtime.devices import line, put
from jaxdiff.runtime.sharding import whole

FIRST = 10  # steps that all fits of a chunk may take before those that are not done are gathered from all chunks
LEAP = 8  # how many times more substeps than so far a trial may ask for
RENEWALS = 12  # of predictors within one gathering
RETREATS = 30  # of one fit, from coefficients that no predictor resolves
ROOM = {"cpu": 2**23, "gpu": 2**32}  # bytes of a chunk: what caches hold, or a GPU that does not say how much it has
CONVERGED, LATE, STALLED, UNRESOLVED, FAILED, WAITING, LEFT = range(7)
STATUS = (
    "converged",
    "steps were not enough; allow more with steps=",
    NO_STEP,
    "the loss falls towards coefficients that cannot be followed; bound them with jd.Bounded",
    "the loss is not finite at the start; check whether there are data, and the start",
    "interrupted before it was fitted",
    "left behind after the first steps, as others were lower",
)


class BatchData(NamedTuple):
    """What differs between the fits, with a leading axis: the start z, the data of each predictor {field: array}, and leaves
    of the model {place: array}, those of its initial state."""

    start: np.ndarray
    observed: tuple[dict[str, Any], ...]
    leaves: dict[int, np.ndarray]


class Results(NamedTuple):
    """Where fits ended, with a leading axis: which, z, the loss around it, how, after how many steps, and the loss at each."""

    which: np.ndarray
    z: np.ndarray
    here: Expansion
    status: np.ndarray
    iterations: np.ndarray
    history: np.ndarray


def pick(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda a: a[index], tree)


def joined(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *parts: np.concatenate(parts), *trees)


class Batch:
    """Fits that share a model, predictors and compiled code.

    run: the fit that stands for all of them; data: what differs; size: fits in a chunk, None: what memory and caches
    hold; devices: each chunk is sharded over them

    informed: whether fits end with their observed information, which error bars need; triage: (steps that all take, how many of
    those that are not done then go on, the lowest), None for all
    """

    informed = True
    triage: tuple[int, int] | None = None

    def __init__(
        self, run: Run, data: BatchData, method: LevenbergMarquardt, steps: int, devices: Any, size: int | None = None
    ):
        if not jax.sharding.get_abstract_mesh().empty:
            raise ValueError(
                "many fits are shared out among devices, where jd.decompose cuts each; leave its block, and pass devices="
            )
        owners = {device.process_index for device in devices}
        if owners not in ({jax.process_index()}, set(range(jax.process_count()))):
            raise ValueError(
                'devices of some processes only cannot share many fits; pass devices="all", or leave them out for fits of each process by itself'
            )
        self.run, self.method, self.steps = run, method, steps
        self.mesh = line(devices) if len(devices) > 1 else None
        self.sharding: Any = SingleDeviceSharding(devices[0])
        if self.mesh is not None:
            self.sharding = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names[0]))
        self.retreats = np.zeros(len(data.start), int)
        run.prepare(data.start[0] if run.paths else run.start)
        parts = [one.of_many(observed) for one, observed in zip(run.predictors, data.observed, strict=True)]
        run.predictors = tuple(one for one, _ in parts)
        self.data = data._replace(observed=tuple(observed for _, observed in parts))
        size = min(size or len(devices) * room(run, devices[0]), len(data.start))
        self.size = -(-size // len(devices)) * len(devices)

    def own(self, i: int) -> Parameters:
        """The parameters of one fit: its start, and its initial state."""
        return own(self.run, self.data, i)

    def complain(self) -> None:
        """Raise why the model fails at the start."""
        self.run.complain(self.data.start[0])

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results must know."""
        return ()

    def run_all(self, waiting: np.ndarray) -> Any:
        """Yield the `Results` of all fits that wait, chunk after chunk, those that are late gathered and continued together."""
        self._scale(waiting[: self.size])
        triage = self.triage
        state, until = None, min(FIRST, self.steps, triage[0] if triage else FIRST)
        while len(waiting):
            late, states = [], []
            for chunk in self._chunks(waiting):
                index = waiting[chunk]
                now = self._advance(index, self._begin(index) if state is None else pick(state, chunk), until)
                over = now.here.resolved.all(1) & (now.converged | now.stalled | (now.iteration >= self.steps))
                yield self._ended(index[over], pick(now, over))
                late.append(index[~over])
                states.append(pick(now, ~over))
            waiting, state = np.concatenate(late), joined(states)
            state, unresolved = self._followed(waiting, state)
            if unresolved.any():
                yield self._ended(waiting[unresolved], pick(state, unresolved), UNRESOLVED)
                waiting, state = waiting[~unresolved], pick(state, ~unresolved)
            if triage is not None and until >= triage[0]:
                order = np.argsort(np.nan_to_num(state.here.value, nan=np.inf), kind="stable")
                on, left = np.sort(order[: triage[1]]), np.sort(order[triage[1] :])
                if len(left):
                    yield self._ended(waiting[left], pick(state, left), LEFT)
                waiting, state, triage = waiting[on], pick(state, on), None
            until = min(3 * until, self.steps, max(triage[0], until + 1) if triage else self.steps)

    def _begin(self, index: np.ndarray, z: Any = None) -> State:
        z = self.data.start[index] if z is None else z
        one = begin(z[0], len(self.run.predictors), self.steps, self.method.damping)
        return jax.tree.map(lambda a: np.repeat(a[None], len(z), axis=0), one)._replace(z=z, good=z)

    def unfinished(self, index: np.ndarray) -> Results:
        """Fits that were not reached."""
        return self._ended(index, self._begin(index), WAITING)

    def _ended(self, index: np.ndarray, state: State, status: int | None = None) -> Results:
        if self.informed and any(map(is_table, self.run.predictors)) and status not in (WAITING, LEFT):
            parts = [self._computed(_observed, index[part], pick(state, part)) for part in self._chunks(index)]
            found = joined(parts) if parts else state.here
            sound = np.isfinite(found.curvature).all((1, 2))
            state = state._replace(here=jax.tree.map(partial(_where, sound), found, state.here))
        fine = np.isfinite(state.here.value)
        how = np.where(state.converged, CONVERGED, np.where(state.stalled, np.where(fine, STALLED, FAILED), LATE))
        how = how if status is None else np.full(len(index), status)
        return Results(index, state.z, state.here, how, state.iteration, state.history)

    def around(self, index: np.ndarray, z: np.ndarray) -> tuple[Expansion, np.ndarray]:
        """The loss of some fits around given places (n, p), and which of them no predictor follows there."""
        state = self._begin(index, z)
        state = self._at_places(index, state, np.arange(len(index)), z)
        state, failed = self._followed(index, state)
        return state.here, failed

    def predictions(self, index: np.ndarray, z: np.ndarray) -> Any:
        """Of each measurement of each fit the prediction at z, and its Jacobian in z."""
        return self._computed(_predictions, index, self._begin(index, z))

    def _computed(self, function: Any, index: np.ndarray, state: State, *more: Any) -> Any:
        """function(mesh, problem, data, state, …) of these fits on their devices; fits of padding have converged."""
        extra = np.zeros(self.size - len(index), int)
        state = jax.tree.map(lambda a: np.concatenate([a, a[extra]]), state)
        idle = np.arange(self.size) >= len(index)
        data = pick(self.data, np.concatenate([index, index[extra]]))
        data = data._replace(observed=tuple(map(_padded, self.run.predictors, data.observed)))
        data, state = put((data, state._replace(converged=state.converged | idle)), self.sharding)
        found = function(self.mesh, self.run.problem, data, state, *more)
        return jax.tree.map(lambda a: a[: len(index)], whole(found))

    def _advance(self, index: np.ndarray, state: State, until: int) -> State:
        return self._computed(partial(_advance, self.method.tolerance), index, state, until)

    def _scale(self, index: np.ndarray) -> None:
        """Give a Free number that starts at zero the scale at which it changes the loss, the median over the fits."""
        free = np.asarray(self.run.parameters.transform.kind) == 0
        if np.any(free & (np.asarray(self.run.parameters.start) == 0)) and len(index):
            here = self._advance(index, self._begin(index), 0).here
            sound = np.isfinite(here.value) & np.isfinite(here.curvature).all((1, 2))
            if sound.any():
                value, curvature = (np.median(part[sound], axis=0) for part in (here.value, here.curvature))
                self.run.rescale(Expansion(*pick(here, 0))._replace(value=value, curvature=curvature))

    def _followed(self, index: np.ndarray, state: State) -> tuple[State, np.ndarray]:
        """States that predictors resolve, with new ones where they must be, and which fits no predictor can follow."""
        failed = np.zeros(len(index), bool)
        for _ in range(RENEWALS):
            which = np.flatnonzero(~state.here.resolved.all(1) & ~failed)
            if not len(which):
                return state, failed
            old = pick(state, which)
            back, gone = self._renew(index[which], old)
            self.retreats[index[which[back]]] += 1
            gone |= self.retreats[index[which]] > RETREATS
            failed[which[gone]] = True
            old, back, which = pick(old, ~gone), back[~gone], which[~gone]
            if len(which):
                anew = partial(self._at_places, index[which], old)
                state = replaced(state, which, resumed(old, back, self.retreats[index[which]], anew))
        return state, failed | ~state.here.resolved.all(1)

    def _chunks(self, index: np.ndarray) -> list[slice]:
        return [slice(at, at + self.size) for at in range(0, len(index), self.size)]

    def _at_places(self, index: np.ndarray, old: State, runs: np.ndarray, z: np.ndarray) -> State:
        """Some of these runs, started anew at z by the predictors at hand."""
        index, fresh = index[runs], self._begin(index[runs], z)._replace(good=old.good[runs])
        return joined([self._advance(index[part], pick(fresh, part), 0) for part in self._chunks(index)])

    def _renew(self, index: np.ndarray, state: State) -> tuple[np.ndarray, np.ndarray]:
        """New predictors for fits that have outrun theirs: (which must go back to where they came from, which have failed)."""
        run, stuck = self.run, (state.z == state.good).all(1)
        parts = self._chunks(index)
        allowances = joined([self._computed(_needed, index[part], pick(state, part)) for part in parts])
        back, failed, predictors = np.zeros(len(index), bool), np.zeros(len(index), bool), []
        for predictor, needed in zip(run.predictors, allowances, strict=True):
            solve = predictor.states_at_times.solve if predictor.on_cells else None
            if is_table(predictor):  # those that the nodes do not resolve have nowhere else to go
                back |= ~stuck
            elif solve is not None:
                back |= (needed > LEAP * np.array(solve.method.allowed)).any(1) & ~stuck
        models = run.at(state.z.mean(0))
        for predictor, m, needed, model in zip(run.predictors, run.measurements, allowances, models, strict=True):
            if is_table(predictor):
                predictors.append(predictor.renewed(m, model.equation, Checks()))
                continue

            def renewed(
                which: Any, predictor: Any = predictor, m: Any = m, needed: Any = needed, model: Any = model
            ) -> Any:
                if not len(needed[which]):
                    return predictor
                return predictor.renewed(m, model.equation, Checks(needed=needed[which].max(0)))

            try:
                predictors.append(renewed(~back))
            except Unplannable:
                for i in np.flatnonzero(~back):
                    try:
                        renewed([i])
                    except Unplannable:
                        failed[i] = True
                predictors.append(renewed(~back & ~failed))
        run.predictors = tuple(predictors)
        return back, failed


def own(run: Run, data: BatchData, i: int) -> Parameters:
    """The parameters of one of many fits."""
    bare = replace(run.problem, predictors=())
    parameters = _each(bare, pick(data._replace(observed=()), i)).parameters
    return replace(parameters, start=np.asarray(parameters.transform(data.start[i])))


def _padded(predictor: Any, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Data padded to the shapes of a predictor."""
    out = {}
    for name, array in data.items():
        shapes = zip(np.shape(getattr(predictor, name)), array.shape[1:], strict=True)
        out[name] = np.pad(array, [(0, 0), *((0, long - own) for long, own in shapes)])
    return out


def room(run: Run, device: Any) -> int:
    """How many fits a device takes at once: as many as fit into an eighth of its memory, or a CPU's caches."""
    cells, columns = 0.0, 0.0
    for predictor in run.predictors:
        cells += predictor.numbers_held
        columns += np.size(predictor.observation)
    each = 16.0 * (cells * (12 + 3 * run.parameters.count) + columns * (1 + run.parameters.count))
    each *= 1.0 if jnp.result_type(float) == jnp.float64 else 0.5
    most = ROOM["cpu" if device.platform == "cpu" else "gpu"]
    if device.platform != "cpu":
        most = (device.memory_stats() or {}).get("bytes_limit", 8 * most) // 8
    least = 8 if device.platform == "cpu" else 64
    return max(least, 1 << int(np.log2(max(most / each, 1.0))))  # one size, whatever the number of fits


def _each(problem: Problem, data: BatchData) -> Problem:
    """The problem of one fit."""
    leaves = list(problem.parameters.leaves)
    for place, leaf in data.leaves.items():
        leaves[place] = leaf
    pairs = zip(problem.predictors, data.observed, strict=True)
    predictors = tuple(predictor.holding(observed) if observed else predictor for predictor, observed in pairs)
    return replace(problem, parameters=replace(problem.parameters, leaves=tuple(leaves)), predictors=predictors)


def _each_fit(function: Any, mesh: Any, shared: Any, parts: tuple[Any, ...]) -> Any:
    """function(shared, *part) of every fit, the leading axis of the parts sharded over the mesh: each device loops on its own."""
    chunk = lambda shared, parts: jax.vmap(partial(function, shared))(*parts)
    if mesh is None:
        return chunk(shared, parts)
    spec = PartitionSpec(mesh.axis_names[0])
    mapped = jax.shard_map(chunk, mesh=mesh, in_specs=(PartitionSpec(), spec), out_specs=spec, check_vma=False)
    return mapped(shared, parts)


@partial(quick_jit, static=(0, 1))
def _advance(tolerance: float, mesh: Any, problem: Problem, data: BatchData, states: State, until: Any) -> State:
    def one(shared: Any, data: BatchData, state: State) -> State:
        problem, until = shared
        mine = _each(problem, data)
        expand = lambda z: mine.expand(z)._replace(predictions=())
        transform = mine.parameters.transform
        return advance(expand, transform.kind, transform.limit, state, until, tolerance)

    return _each_fit(one, mesh, (problem, until), (data, states))


@partial(quick_jit, static=0)
def _predictions(mesh: Any, problem: Problem, data: BatchData, states: State) -> Any:
    one = lambda problem, data, state: _each(problem, data).expand(state.z).predictions
    return _each_fit(one, mesh, problem, (data, states))


@partial(quick_jit, static=0)
def _observed(mesh: Any, problem: Problem, data: BatchData, states: State) -> Any:
    """The loss around where each fit has ended, by its observed information."""
    one = lambda problem, data, state: _each(problem, data).expand(state.z, True)._replace(predictions=())
    return _each_fit(one, mesh, problem, (data, states))


def _where(which: np.ndarray, one: Any, other: Any) -> np.ndarray:
    return np.where(which.reshape(-1, *(1,) * (np.ndim(one) - 1)), one, other)


@partial(quick_jit, static=0)
def _needed(mesh: Any, problem: Problem, data: BatchData, states: State) -> Any:
    """What each predictor would have to allow: (fits, 2) substeps and steps."""

    def one(problem: Any, data: BatchData, state: State) -> Any:
        found = _each(problem, data).predict(state.z)
        return tuple(jnp.zeros(2) if p.checks.needed is None else p.checks.needed for p in found)

    return _each_fit(one, mesh, problem, (data, states))
