"""Fits that follow one another, by programs that they share: of what makes no batch."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxdiff.inference.batch import (
    CONVERGED,
    FAILED,
    LATE,
    LEFT,
    STALLED,
    UNRESOLVED,
    WAITING,
    Batch,
    BatchData,
    Results,
    own,
)
from jaxdiff.inference.levenberg_marquardt import LevenbergMarquardt
from jaxdiff.inference.loss import Expansion
from jaxdiff.inference.run import Run, SearchResult, predicted
from jaxdiff.inference.smoothing import splines
from jaxdiff.measurements.stacks import Alone, Apart, Stack
from jaxdiff.measurements.states_at_times import Unplannable
from jaxdiff.parameters import Parameters


class Sequential:
    """Fits one after the other, in place of a `Batch`.

    run: the fit that stands for all of them; data: where they start, and what of their models differs; stacks: their data
    """

    size = 1
    informed = True
    triage: tuple[int, int] | None = None

    def __init__(self, run: Run, data: BatchData, stacks: tuple[Apart, ...], method: LevenbergMarquardt, steps: int):
        self.run, self.data, self.stacks, self.method, self.steps = run, data, stacks, method, steps
        self.errors: dict[int, ValueError] = {}

    def own(self, i: int) -> Parameters:
        """The parameters of one fit: its start, and its initial state."""
        return own(self.run, self.data, i)

    def run_all(self, waiting: np.ndarray) -> Any:
        """Yield the `Results` of each fit that waits."""
        if self.triage is not None and len(waiting) > self.triage[1]:
            yield from self._with_triage(waiting, *self.triage)
            return
        for i in map(int, waiting):
            each, ended = self._of(i), None
            try:
                if self.run.redrawn and not self.run.patterns:
                    each.prepare(each.start)
                    self.run.patterns = each.patterns = each.predictors
                ended = self.search(each)
                if self.informed:
                    ended = ended._replace(here=each.observed(ended.z, ended.here))
                self.run.parameters = replace(  # with the scale of a number that starts at zero, which is that of all
                    self.run.parameters, transform=each.parameters.transform
                )
            except ValueError as error:
                self.errors[i] = error
            yield self._results(i, each, ended)

    def _with_triage(self, waiting: np.ndarray, few: int, most: int) -> Any:
        """A few steps of all, and the others of those that are lowest then, from where they stand."""
        (steps, self.steps), (triage, self.triage), begun = (self.steps, few), (self.triage, None), []
        for ended in self.run_all(waiting):
            history = np.full((1, steps + 1), np.nan)
            history[:, : few + 1] = ended.history
            begun.append(ended._replace(history=history))
        self.steps, self.triage = steps, triage
        late = [one for one in begun if one.status[0] == LATE and few < steps]
        late.sort(key=lambda one: float(one.here.value[0]))
        on = {int(one.which[0]): one for one in late[:most]}
        left = {int(one.which[0]) for one in late[most:]}
        for one in begun:
            i = int(one.which[0])
            if i not in on:
                yield one._replace(status=np.array([LEFT])) if i in left else one
        for i, one in on.items():
            own, self.data.start[i], self.triage, self.steps = self.data.start[i].copy(), one.z[0], None, steps - few
            for ended in self.run_all(np.array([i])):
                history = one.history.copy()
                history[:, few : few + ended.history.shape[1]] = ended.history
                yield ended._replace(history=history, iterations=ended.iterations + few)
            self.data.start[i], self.triage, self.steps = own, triage, steps

    def search(self, each: Run) -> SearchResult:
        """One fit."""
        return each.levenberg_marquardt(self.method, self.steps)

    def around(self, index: np.ndarray, z: np.ndarray) -> tuple[Expansion, np.ndarray]:
        """The loss of some fits at given places (n, p), with the squares of residuals whose variance is not known, and which
        of them no predictor follows there."""
        values, squares = np.full(len(index), np.nan), np.zeros((len(index), len(self.stacks)))
        for k, i in enumerate(map(int, index)):
            each = self._of(i)
            try:
                values[k] = each.value(z[k])
            except ValueError as error:
                self.errors[i] = error
                continue
            if any(m.unknown for m in each.measurements):
                pairs = zip(each.predictors, predicted(each.problem, z[k]), each.measurements, strict=True)
                squares[k] = [
                    np.sum(p.weight * (p.observation - found.values) ** 2) if m.unknown else 0.0
                    for p, found, m in pairs
                ]
        none = np.zeros((len(index), 0))
        return Expansion(values, none, none, none, squares), np.isnan(values)

    def unfinished(self, index: np.ndarray) -> Results:
        """Fits that were not reached."""
        none = [self._results(int(i), self.run, None)._replace(status=np.array([WAITING])) for i in index]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *none)

    def predictions(self, index: np.ndarray, z: np.ndarray) -> Any:
        """Of each measurement of one fit the prediction at z, and its Jacobian in z."""
        each = self._of(int(index[0]))
        each.prepare(z[0])
        return jax.tree.map(lambda part: np.asarray(part)[None], each.around(z[0]).predictions)

    def complain(self) -> None:
        """Raise why the first fit failed."""
        raise ValueError(str(next(iter(self.errors.values()))))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results must know."""
        reason = next(one.reason for one in self.stacks if one.reason)
        found = [f"fitted one after the other: {reason.rstrip(',')} make no batch"]
        if self.errors:
            i, error = next(iter(self.errors.items()))
            found.append(f"{len(self.errors)} could not be fitted; number {i}: {error}")
        return tuple(found)

    def _of(self, i: int) -> Run:
        each = copy(self.run)
        each.measurements, each.parameters = tuple(one[i] for one in self.stacks), self.own(i)
        each.start = self.data.start[i]
        return each

    def _results(self, i: int, each: Run, ended: SearchResult | None) -> Results:
        p, m = self.data.start.shape[1], len(self.stacks)
        history, z, here = np.full((1, self.steps + 1), np.nan), self.data.start[i], ended and ended.here
        status, iterations = FAILED, 0
        if ended is not None:
            iterations, z = len(ended.history) - 1, ended.z
            history[0, : iterations + 1] = ended.history
            late = LATE if iterations >= self.steps else STALLED
            status = CONVERGED if ended.converged else UNRESOLVED if each.refused else late
        if here is None:
            square = np.zeros((p, p))
            here = Expansion(np.inf, np.zeros(p), square, np.zeros((m, p, p)), np.zeros(m), np.ones(m, bool))
        numbers = jax.tree.map(lambda a: np.asarray(a)[None], here._replace(predictions=()))
        return Results(np.array([i]), z[None], numbers, np.array([status]), np.array([iterations]), history)


def together(
    run: Run,
    data: BatchData,
    stacks: tuple[Stack, ...],
    method: LevenbergMarquardt,
    steps: int,
    devices: Any,
    size: int | None,
    patterns: tuple[Any, ...] = (),
) -> tuple[Batch | Sequential, tuple[Stack, ...]]:
    """The fits as one batch, or where that cannot be one after the other, and the data as these take them.

    The starts are improved by the Euler densities of paths, unless data are drawn from the model there.
    """
    if any(splines(run.at(run.start))):
        raise ValueError("smooth splines have a strength for each data set; call jd.fit for each, or leave smooth away")
    reason = next((one.reason for one in stacks if isinstance(one, Apart)), None)
    if reason is None:
        try:
            start = data.start if run.redrawn else rough_starts(run, data.start)
            return Batch(run, data._replace(start=start), method, steps, devices, size), stacks
        except Alone as error:
            reason = str(error)
        except Unplannable:
            if all(m.discretised for m in run.measurements):
                raise
            reason = "paths that no batch of densities resolves"
    apart = tuple(one.taken_apart(reason) for one in stacks)
    run = replace(run, measurements=tuple(one.template for one in apart), predictors=(), patterns=patterns)
    return Sequential(run, data._replace(observed=tuple(one.data() for one in apart)), apart, method, steps), apart


def rough_starts(run: Run, starts: np.ndarray) -> np.ndarray:
    """Where the Euler densities of paths are largest, from each of some starts."""
    distinct, which = np.unique(starts, axis=0, return_inverse=True)
    found = [run.rough(start) for start in distinct]
    return np.stack([start if z is None else z for start, z in zip(distinct, found, strict=True)])[which.ravel()]
