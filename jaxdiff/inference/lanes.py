"""Descents side by side: one compiled program takes the steps of many settings of an optimiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.inference.gradient_descent import by_options
from jaxdiff.inference.objective import Problem
from jaxdiff.inference.run import Run
from jaxdiff.runtime.compilation import quick_jit

WIDTH = {
    "cpu": 6,
    "gpu": 64,
}  # lanes of one call: on a CPU they follow one another, which takes less time than side by side
FORWARD = 4  # parameters up to which a gradient is found forwards
RENEWALS = 12  # of predictors, within one sweep
WHOLE = 2**31 - 1  # rows of a batch that holds all


class Lane(NamedTuple):
    """Where one descent stands, and the loss on data held out there."""

    z: Any
    optimizer: Any
    best_value: Any  # the lowest loss met
    best: Any  # and where
    iteration: Any
    key: Any
    stopped: Any  # whether the loss left the finite numbers
    resolved: Any  # whether the predictors hold where it stands
    loss: Any  # the last one
    validation: Any


@dataclass
class Group:
    """Settings whose problems have one structure, so that one program serves them.

    name: of the optimiser; runs: of the data fitted, and of those held out, the first of all; leaves: {place: (n, …)} of both
    problems, where they differ; which: the numbers of the settings; options: {name: (n,)} of the optimiser; sizes: (n,) rows of a
    batch; start: (n, p)
    """

    name: str
    runs: tuple[Run, Run]
    leaves: dict[int, np.ndarray]
    which: np.ndarray
    options: dict[str, np.ndarray]
    sizes: np.ndarray
    start: np.ndarray
    unit: float
    key: Any
    steps: int
    batched: bool
    lanes: Any = field(default=None)
    renewals: int = 0

    def __post_init__(self) -> None:
        first = {name: jnp.asarray(column[0]) for name, column in self.options.items()}
        n = len(self.which)
        inner = jax.tree.map(np.asarray, by_options(self.name, **first).init(jnp.asarray(self.start[0])))
        filled = lambda value, dtype: np.full(n, value, dtype)
        dtype = self.start.dtype
        keys = jnp.broadcast_to(jax.random.key_data(self.key), (n, *jax.random.key_data(self.key).shape))
        lanes = Lane(
            self.start, jax.tree.map(lambda a: np.repeat(a[None], n, 0), inner), filled(np.inf, dtype), self.start,
            filled(0, np.int64), np.asarray(keys), filled(False, bool), filled(True, bool), filled(np.nan, dtype), filled(np.nan, dtype),
        )  # fmt: skip
        self.lanes = jax.tree.map(np.array, lanes)  # each its own, to be written to

    def advance(self, going: np.ndarray, until: int) -> None:
        """Take those of the lanes that go on to step `until`, with new predictors where a lane has outrun them."""
        width = WIDTH.get(jax.default_backend(), WIDTH["gpu"])
        while True:
            parts = [going[at : at + width] for at in range(0, len(going), width)]
            under_way = [self._chunk(part, width, until) for part in parts]  # that a CPU shares out among its cores
            for part, found in zip(parts, under_way, strict=True):
                for whole, own in zip(jax.tree.leaves(self.lanes), jax.tree.leaves(found), strict=True):
                    whole[part] = np.asarray(own)[: len(part)]
            late = [int(i) for i in going if not self.lanes.resolved[i] and not self.lanes.stopped[i]]
            if not late:
                return
            for i in late:
                if not self._renewed(i):
                    self.lanes.stopped[i] = True
            self.lanes.resolved[late] = True

    def _chunk(self, index: np.ndarray, width: int, until: int) -> Lane:
        rows = np.concatenate([index, np.repeat(index[:1], width - len(index))])
        pick = lambda tree: jax.tree.map(lambda a: a[rows], tree)
        problems, lanes = tuple(run.problem for run in self.runs), pick(self.lanes)
        lanes.stopped[len(index) :] = True
        found: Lane = _advance(
            self.name, self.batched, problems, pick(self.leaves), pick(self.options), self.sizes[rows], self.unit,
            lanes, until,
        )  # fmt: skip
        return found

    def _renewed(self, i: int) -> bool:
        """New predictors for where a lane stands; False where none follow it there."""
        self.renewals += 1
        if self.renewals > RENEWALS or self.leaves:  # the leaves of several problems are laid out for one plan
            return False
        z = self.lanes.z[i]
        try:
            for run in self.runs:
                _, resolved = _value(run.problem, z)
                if not np.all(resolved):
                    run.renew(z, np.asarray(resolved))
        except ValueError:  # Unplannable among them
            return False
        return True


@dataclass
class Trainings:
    """Settings that a function trains by itself, one after the other and from the start each time; a `Group` to a sweep.

    train: train(steps=, **setting) → (loss on data held out, what it made); a ValueError leaves its setting behind
    """

    train: Callable[..., tuple[Any, Any]]
    settings: list[dict[str, Any]]
    unit: float = 1.0
    refused: str = ""

    def __post_init__(self) -> None:
        n = len(self.settings)
        self.which, self.made = np.arange(n), [None] * n
        self.lanes = SimpleNamespace(validation=np.full(n, np.nan), loss=np.full(n, np.nan), stopped=np.zeros(n, bool))

    def advance(self, going: np.ndarray, until: int) -> None:
        for i in going:
            self.lanes.stopped[i] = True
            try:
                found = self.train(**self.settings[i], steps=until)
            except ValueError as error:
                self.refused = self.refused or str(error)
                continue
            if not (isinstance(found, tuple) and len(found) == 2 and np.ndim(found[0]) == 0):
                raise TypeError(f"a training must return (loss on data held out, what it made), got {found!r}")
            self.lanes.validation[i], self.made[i] = float(found[0]), found[1]
            self.lanes.stopped[i] = not np.isfinite(self.lanes.validation[i])


def grouped(pairs: list[tuple[Problem, Problem]]) -> dict[Any, list[int]]:
    """{structure: numbers} of problems, with those held out, that one program serves."""
    found: dict[Any, list[int]] = {}
    for i, pair in enumerate(pairs):
        leaves, structure = jax.tree.flatten(pair)
        shapes = tuple((np.shape(leaf), np.result_type(leaf).str) for leaf in leaves)
        found.setdefault((structure, shapes), []).append(i)
    return found


def differing(pairs: list[tuple[Problem, Problem]]) -> dict[int, np.ndarray]:
    """{place: (n, …)} of the leaves in which problems of one structure differ."""
    columns = list(zip(*map(jax.tree.leaves, pairs), strict=True))
    same = lambda column: all(one is column[0] or np.array_equal(one, column[0]) for one in column)
    return {k: np.stack(column) for k, column in enumerate(columns) if not same(column)}


def minibatch(problem: Problem, size: Any, key: Any) -> Problem:
    """The problem of `size` rows of each measurement, drawn without replacement; the others weigh nothing. `size` may be traced."""
    drawn = []
    for predictor, one in zip(problem.predictors, jax.random.split(key, len(problem.predictors)), strict=True):
        weight = jnp.asarray(predictor.weight)
        chance = jnp.where(weight > 0, jax.random.uniform(one, weight.shape), -1.0)
        least = jnp.sort(chance)[jnp.clip(weight.shape[0] - size, 0, weight.shape[0] - 1)]
        drawn.append(predictor.holding({"weight": jnp.where(chance >= least, weight, 0.0)}))
    return replace(problem, predictors=tuple(drawn))


_value = quick_jit(Problem.value)


@partial(quick_jit, static=(0, 1))
def _advance(
    name: str, batched: bool, problems: Any, own: Any, options: Any, sizes: Any, unit: Any, lanes: Lane, until: Any
) -> Lane:
    leaves, structure = jax.tree.flatten(problems)

    def one(own: Any, options: Any, size: Any, lane: Lane) -> Lane:
        import optax

        trained, held_out = jax.tree.unflatten(structure, [own.get(k, leaf) for k, leaf in enumerate(leaves)])
        optimizer = optax.with_extra_args_support(by_options(name, **options))
        limit = trained.parameters.transform.limit

        def loss(z: Any, key: Any) -> Any:
            total, resolved = (minibatch(trained, size, key) if batched else trained).value(z)
            return total / unit, jnp.all(resolved)

        few = trained.parameters.count <= FORWARD and all(one.on_cells for one in trained.predictors)

        def around(z: Any, key: Any) -> Any:
            if not few:
                return jax.value_and_grad(loss, has_aux=True)(z, key)
            push = lambda direction: jax.jvp(lambda z: loss(z, key), (z,), (direction,), has_aux=True)
            total, gradient, resolved = jax.vmap(push, out_axes=(None, 0, None))(jnp.eye(z.shape[0], dtype=z.dtype))
            return (total, resolved), gradient

        def body(lane: Lane) -> Lane:
            key, now = jax.random.split(jax.random.wrap_key_data(lane.key))
            (total, resolved), gradient = around(lane.z, now)
            updates, inner = optimizer.update(gradient, lane.optimizer, lane.z)
            z = jnp.clip(optax.apply_updates(lane.z, updates), -limit, limit)
            lower, fine = total < lane.best_value, jnp.isfinite(total) & jnp.all(jnp.isfinite(z))
            new = lane._replace(
                z=z, optimizer=inner, iteration=lane.iteration + 1, key=jax.random.key_data(key), loss=total,
                best_value=jnp.where(lower, total, lane.best_value), best=jnp.where(lower, lane.z, lane.best),
                stopped=~fine,
            )  # fmt: skip
            still = lane._replace(resolved=jnp.array(False))
            return jax.tree.map(lambda a, b: jnp.where(resolved, a, b), new, still)

        lane = jax.lax.while_loop(lambda o: (o.iteration < until) & ~o.stopped & o.resolved, body, lane)
        whole = jnp.all(jnp.array([size >= p.weight.shape[0] for p in trained.predictors]))
        place = jnp.where(whole & jnp.isfinite(lane.best_value), lane.best, lane.z)
        validation, resolved = held_out.value(place)
        validation = jnp.where(lane.stopped, jnp.nan, validation)
        return lane._replace(validation=validation, resolved=lane.resolved & jnp.all(resolved))

    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda parts: one(*parts), (own, options, sizes, lanes))
    return jax.vmap(one)(own, options, sizes, lanes)
