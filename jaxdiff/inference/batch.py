"""Many fits under way at once: compiled Levenberg–Marquardt over chunks of them, on one device or cut over several."""

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
from jaxdiff.inference.objective import Problem
from jaxdiff.inference.run import Run
from jaxdiff.measurements.states_at_times import Unplannable
from jaxdiff.parameters import Parameters
from jaxdiff.runtime.compilation import quick_jit
from jaxdiff.runtime.conditions import Checks
from jaxdiff.runtime.devices import line, put
from jaxdiff.runtime.sharding import whole

FIRST = 10  # steps that all fits of a chunk may take before those that are not done are gathered from all chunks
LEAP = 8  # how many times more substeps than so far a trial may ask for
RENEWALS = 12  # of plans within one gathering
RETREATS = 30  # of one fit, from coefficients that are out of reach
ROOM = {"cpu": 2**23, "gpu": 2**32}  # bytes of a chunk: what caches hold, or a GPU that does not say how much it has
CONVERGED, LATE, STALLED, LOST, FAILED, WAITING = range(6)
WORDS = (
    "converged",
    "steps were not enough; allow more with steps=",
    "no step improves the loss any more; check the model, or start elsewhere",
    "the loss falls towards coefficients that cannot be followed; bound them with jd.Bounded",
    "the loss is not finite at the start; check whether there are data, and the start",
    "interrupted before it was fitted",
)


class Lanes(NamedTuple):
    """What differs between the fits, with a leading axis: the start z, the data of each plan {field: array}, and leaves
    of the model {place: array}, those of its initial state."""

    start: np.ndarray
    data: tuple[dict[str, np.ndarray], ...]
    leaves: dict[int, np.ndarray]


class Rows(NamedTuple):
    """Where fits ended, with a leading axis: z, the loss around it, how, after how many steps, and on which course."""

    lanes: np.ndarray
    z: np.ndarray
    here: Expansion
    status: np.ndarray
    iterations: np.ndarray
    history: np.ndarray


def pick(tree: Any, rows: Any) -> Any:
    return jax.tree.map(lambda a: a[rows], tree)


def joined(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *parts: np.concatenate(parts), *trees)


class Batch:
    """Fits that share a model, plans and compiled code.

    run: the fit that stands for all of them; lanes: what differs; size: fits in a chunk, None: what memory and caches
    hold; devices: each chunk is cut over them
    """

    def __init__(
        self, run: Run, lanes: Lanes, method: LevenbergMarquardt, steps: int, devices: Any, size: int | None = None
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
        self.run, self.lanes, self.method, self.steps = run, lanes, method, steps
        self.mesh = line(devices) if len(devices) > 1 else None
        self.place: Any = SingleDeviceSharding(devices[0])
        if self.mesh is not None:
            self.place = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names[0]))
        self.retreats = np.zeros(len(lanes.start), int)
        run.prepare(run.start)
        most = size or len(devices) * room(run, devices[0])
        size = min(most, len(lanes.start))
        self.size = -(-size // len(devices)) * len(devices)

    def own(self, i: int) -> Parameters:
        """The parameters of one fit: its start, and its initial state."""
        bare = replace(self.run.problem, predictors=())
        parameters = _each(bare, pick(self.lanes._replace(data=()), i)).parameters
        return replace(parameters, start=np.asarray(parameters.transform(self.lanes.start[i])))

    def portions(self, waiting: np.ndarray) -> Any:
        """Rows of all fits that wait, gathered and finished: one `Rows` after another, until none is left."""
        self._scale(waiting[: self.size])
        state, until = None, min(FIRST, self.steps)
        while len(waiting):
            late, states = [], []
            for at in range(0, len(waiting), self.size):
                some = slice(at, at + self.size)
                index = waiting[some]
                now = self._advance(index, self._begin(index) if state is None else pick(state, some), until)
                over = now.here.resolved.all(1) & (now.converged | now.stalled | (now.iteration >= self.steps))
                yield self._ended(index[over], pick(now, over))
                late.append(index[~over])
                states.append(pick(now, ~over))
            waiting, state = np.concatenate(late), joined(states)
            state, lost = self._followed(waiting, state)
            if lost.any():
                yield self._ended(waiting[lost], pick(state, lost), LOST)
                waiting, state = waiting[~lost], pick(state, ~lost)
            until = min(3 * until, self.steps)

    def _begin(self, index: np.ndarray, z: Any = None) -> State:
        z = self.lanes.start[index] if z is None else z
        one = begin(z[0], len(self.run.predictors), self.steps, self.method.damping)
        return jax.tree.map(lambda a: np.repeat(a[None], len(z), axis=0), one)._replace(z=z, good=z)

    def _ended(self, index: np.ndarray, state: State, status: int | None = None) -> Rows:
        fine = np.isfinite(state.here.value)
        how = np.where(state.converged, CONVERGED, np.where(state.stalled, np.where(fine, STALLED, FAILED), LATE))
        how = how if status is None else np.full(len(index), status)
        return Rows(index, state.z, state.here, how, state.iteration, state.history)

    def _laid_out(self, index: np.ndarray, state: State) -> tuple[Any, Any]:
        """Lanes and states on their devices; lanes of padding have nothing to do."""
        extra = np.zeros(self.size - len(index), int)
        state = jax.tree.map(lambda a: np.concatenate([a, a[extra]]), state)
        idle = np.arange(self.size) >= len(index)
        lanes = pick(self.lanes, np.concatenate([index, index[extra]]))
        lanes = lanes._replace(data=tuple(map(_fitting, self.run.predictors, lanes.data)))
        return put((lanes, state._replace(converged=state.converged | idle)), self.place)

    def _advance(self, index: np.ndarray, state: State, until: int) -> State:
        run = self.run
        lanes, state = self._laid_out(index, state)
        state = _advance(self.method.tolerance, self.mesh, run.problem, lanes, state, until)
        return jax.tree.map(lambda a: a[: len(index)], whole(state))

    def _scale(self, index: np.ndarray) -> None:
        """A Free number that starts at zero takes the scale at which it changes the loss, in the middle of the fits."""
        free = np.asarray(self.run.parameters.transform.kind) == 0
        if np.any(free & (np.asarray(self.run.parameters.start) == 0)) and len(index):
            here = self._advance(index, self._begin(index), 0).here
            sound = np.isfinite(here.value) & np.isfinite(here.curvature).all((1, 2))
            if sound.any():
                value, curvature = (np.median(part[sound], axis=0) for part in (here.value, here.curvature))
                self.run.rescale(Expansion(*pick(here, 0))._replace(value=value, curvature=curvature))

    def _followed(self, index: np.ndarray, state: State) -> tuple[State, np.ndarray]:
        """States that the plans resolve, with new plans where they must be, and which fits no plan can follow."""
        lost = np.zeros(len(index), bool)
        for _ in range(RENEWALS):
            out = np.flatnonzero(~state.here.resolved.all(1) & ~lost)
            if not len(out):
                return state, lost
            old = pick(state, out)
            back, gone = self._renew(index[out], old)
            self.retreats[index[out[back]]] += 1
            gone |= self.retreats[index[out]] > RETREATS
            lost[out[gone]] = True
            old, back, out = pick(old, ~gone), back[~gone], out[~gone]
            if len(out):
                anew = partial(self._at_places, index[out], old)
                state = replaced(state, out, resumed(old, back, self.retreats[index[out]], anew))
        return state, lost | ~state.here.resolved.all(1)

    def _at_places(self, index: np.ndarray, old: State, rows: np.ndarray, z: np.ndarray) -> State:
        """Some of these runs, started anew at z by the predictors at hand."""
        index, fresh = index[rows], self._begin(index[rows], z)._replace(good=old.good[rows])
        parts = [slice(p, p + self.size) for p in range(0, len(index), self.size)]
        return joined([self._advance(index[part], pick(fresh, part), 0) for part in parts])

    def _renew(self, index: np.ndarray, state: State) -> tuple[np.ndarray, np.ndarray]:
        """New plans for fits that have outrun theirs: (which must go back to where they came from, which are lost)."""
        run, parts = self.run, range(0, len(index), self.size)
        stuck = (state.z == state.good).all(1)
        asked = joined([self._asked(index[p : p + self.size], pick(state, slice(p, p + self.size))) for p in parts])
        back, lost, plans = np.zeros(len(index), bool), np.zeros(len(index), bool), []
        solves = [plan.states_at_times.solve for plan in run.predictors]
        for solve, needed in zip(solves, asked, strict=True):
            if solve is not None:
                back |= (needed > LEAP * np.array(solve.method.allowed)).any(1) & ~stuck
        for plan, m, needed in zip(run.predictors, run.measurements, asked, strict=True):

            def renewed(rows: Any, plan: Any = plan, m: Any = m, needed: Any = needed) -> Any:
                return plan.renewed(m, None, Checks(needed=needed[rows].max(0)))

            try:
                plans.append(renewed(~back) if not back.all() else plan)
            except Unplannable:
                for i in np.flatnonzero(~back):
                    try:
                        renewed([i])
                    except Unplannable:
                        lost[i] = True
                plans.append(renewed(~back & ~lost) if not (back | lost).all() else plan)
        run.predictors = tuple(plans)
        return back, lost

    def _asked(self, index: np.ndarray, state: State) -> tuple[np.ndarray, ...]:
        """What each plan would have to allow at these places: (fits, 2) substeps and steps."""
        lanes, state = self._laid_out(index, state)
        asked = _needed(self.mesh, self.run.problem, lanes, state.z)
        return tuple(one[: len(index)] for one in whole(asked))


def _fitting(plan: Any, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Data padded to the shapes of a plan."""
    out = {}
    for name, array in data.items():
        shape = np.shape(getattr(plan, name))
        pad = [(0, 0), *((0, long - own) for long, own in zip(shape, array.shape[1:], strict=True))]
        out[name] = np.pad(array, pad)
    return out


def room(run: Run, device: Any) -> int:
    """How many fits a device takes at once: as many as fit into an eighth of its memory, or a CPU's caches."""
    cells, columns = 0.0, 0.0
    for plan in run.predictors:
        grid, solve = plan.states_at_times.grid, plan.states_at_times.solve
        n = float(np.prod(grid.shape))
        cells += n * (1.0 if solve is None else solve.method.states_in_batch(solve.outputs))
        columns += np.size(plan.observation)
    each = 16.0 * (cells * (12 + 3 * run.parameters.count) + columns * (1 + run.parameters.count))
    each *= 1.0 if jnp.result_type(float) == jnp.float64 else 0.5
    most = ROOM["cpu" if device.platform == "cpu" else "gpu"]
    if device.platform != "cpu":
        most = (device.memory_stats() or {}).get("bytes_limit", 8 * most) // 8
    least = 8 if device.platform == "cpu" else 64
    return max(least, 1 << int(np.log2(max(most / each, 1.0))))  # one size, whatever the number of fits


def _each(problem: Problem, lane: Lanes) -> Problem:
    """The problem of one fit."""
    leaves = list(problem.parameters.leaves)
    for place, leaf in lane.leaves.items():
        leaves[place] = leaf
    pairs = zip(problem.predictors, lane.data, strict=True)
    return replace(
        problem,
        parameters=replace(problem.parameters, leaves=tuple(leaves)),
        predictors=tuple(predictor.holding(data) if data else predictor for predictor, data in pairs),
    )


def _cut(function: Any, mesh: Any, whole: Any, parts: tuple[Any, ...]) -> Any:
    """function(whole, parts), the leading axis of the parts cut over the mesh: each device loops on its own."""
    if mesh is None:
        return function(whole, parts)
    spec = PartitionSpec(mesh.axis_names[0])
    mapped = jax.shard_map(function, mesh=mesh, in_specs=(PartitionSpec(), spec), out_specs=spec, check_vma=False)
    return mapped(whole, parts)


@partial(quick_jit, static=(0, 1))
def _advance(tolerance: float, mesh: Any, problem: Problem, lanes: Lanes, states: State, until: Any) -> State:
    def chunk(whole: Any, parts: Any) -> Any:
        problem, until = whole

        def one(lane: Lanes, state: State) -> State:
            mine = _each(problem, lane)
            expand = lambda z: mine.expand(z)._replace(seen=())
            transform = mine.parameters.transform
            return advance(expand, transform.kind, transform.limit, state, until, tolerance)

        return jax.vmap(one)(*parts)

    return _cut(chunk, mesh, (problem, until), (lanes, states))


@partial(quick_jit, static=0)
def _needed(mesh: Any, problem: Problem, lanes: Lanes, z: Any) -> Any:
    def chunk(problem: Any, parts: Any) -> Any:
        def one(lane: Lanes, z: Any) -> Any:
            found = _each(problem, lane).predict(z)
            return tuple(jnp.zeros(2) if p.checks.needed is None else p.checks.needed for p in found)

        return jax.vmap(one)(*parts)

    return _cut(chunk, mesh, problem, (lanes, z))
