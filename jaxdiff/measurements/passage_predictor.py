"""How times of first passage are predicted: the log density of each row, by closed forms, resolvents that serve all of them, or steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.integration.passage_closed_forms import ByClosedForms
from jaxdiff.integration.passage_lines import ByLine
from jaxdiff.integration.passage_steps import BySteps
from jaxdiff.integration.passage_times import EITHER, LATER, ByContours, carries
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.measurements.predictor import Prediction, Predictor
from jaxdiff.measurements.states_at_times import Unplannable
from jaxdiff.model.grid import Grid
from jaxdiff.parameters import plain
from jaxdiff.runtime.compilation import quick_jit
from jaxdiff.runtime.conditions import Checks, check

SLACK = 2.0  # of the longest time, up to where contours go
LEAST = 1e-8  # of a passage over the longest time, or of what stays: the smallest density that counts
_ROUGH = 0.5  # of the log likelihood, that cells move at most by what they leave of each density
_LOST = 1e-4  # of the largest density, that sums may lose that cancel
_SPREAD, _SHARES = (x / 2.0 for x in np.polynomial.legendre.leggauss(8))  # places in a width of one, and weights


class Onset(eqx.Module):
    """Where passages start, how long before the clock does and over which width that is spread, and which share is due to something
    else."""

    origin: Any
    nondecision: Any
    lapse: Any
    spread: Any = 0.0


class PassagePredictor(Predictor):
    """The log density of each row, or where it is censored the log chance that it comes later.

    observation: (m, 2) time and kind; top: the longest time; window: from when to when lapses are; walls: how many absorb;
    way: closed forms, contours, a line where a drift carries, or steps where something varies in time; spreads: whether the nondecision time is spread
    """

    family: ClassVar[str] = "density"
    on_cells: ClassVar[bool] = False
    observation: Any
    weight: Any
    size: Any
    grid: Grid
    top: Any
    window: Any
    walls: Any
    scheme: Any
    way: ByClosedForms | ByContours | ByLine | BySteps
    spreads: bool = eqx.field(static=True)
    known: bool = eqx.field(static=True)

    def predict(self, equation: Any, initial: Any) -> Prediction:
        found, onset = self._passages(equation, initial)
        rows = self._rows(onset)
        value, noise = map(self._mean, self.way.at(found, *rows, self.top))
        density = self.mixed(onset.lapse, self._resolved(value, noise))
        resolved = self.way.resolved(found, *rows, self.top, self._of_rows(onset, density))
        inside = "origin is {value}, outside the grid; bound it with jd.Bounded"
        lower, upper = self.grid.edges[0][0], self.grid.edges[0][-1]
        where = 0.0 if callable(onset.origin) else onset.origin
        outside = False if callable(onset.origin) else (where < lower) | (where > upper)
        conditions = [
            *found.conditions,
            (inside, outside, 0.0, where),
            (
                "nondecision is {value}, and must not be negative; take jd.Positive",
                onset.nondecision < 0,
                0.0,
                onset.nondecision,
            ),
            (
                "lapse is {value}, and must lie within [0, 1); take jd.Bounded",
                (onset.lapse < 0) | (onset.lapse >= 1),
                0.0,
                onset.lapse,
            ),
            (
                "spread is {value}, and must lie between zero and twice nondecision, before which nothing ends; take jd.Bounded",
                (onset.spread < 0) | (onset.spread > 2.0 * onset.nondecision),
                0.0,
                onset.spread,
            ),
        ]
        return Prediction(jnp.log(density), check(conditions), resolved)

    def _resolved(self, value: Any, noise: Any) -> Any:
        """Densities and chances, fading smoothly to the least that counts where they are below what they err by."""
        least = jnp.where(self.observation[:, 1] == LATER, LEAST, LEAST * SLACK / self.top)
        positive = jnp.maximum(value, 0.0)
        safe = jnp.maximum(positive, 1e-3 * noise + jnp.finfo(value.dtype).tiny ** 0.45)
        return positive / (1.0 + (noise / safe) ** 2) + least

    def mixed(self, lapse: Any, density: Any) -> Any:
        """With a share of what is due to something else."""
        times, kinds = self.observation[:, 0], self.observation[:, 1]
        low, high = self.window[0], self.window[1]
        uniform = jnp.where((times >= low) & (times <= high), 1.0 / (high - low), 0.0)
        uniform = jnp.where(kinds == EITHER, uniform, uniform / self.walls)
        uniform = jnp.where(kinds == LATER, jnp.clip((high - times) / (high - low), 0.0, 1.0), uniform)
        return (1.0 - lapse) * density + lapse * uniform

    def left_out(self, equation: Any, initial: Any) -> tuple[str, ...]:
        early, squares, lost, steps = map(float, _left_out()(self, equation, initial))
        notes, n = [], self.grid.shape[0]
        if early and float(initial.lapse) == 0:
            few = f"{early:.0f} of {float(self.size):.0f} passages are earlier than the model allows"
            notes.append(f"{few}, and count by the least density that is resolved; give a lapse, or look at those rows")
        if lost > _LOST:
            notes.append(
                f"sums that cancel take {lost:.1g} of the largest density, as the drift carries far beside diffusion; take a narrower grid"
            )
        if steps > _ROUGH:
            notes.append(
                f"steps in time are too large: the last halving of them moves the log likelihood by {steps:.2g}; let walls and coefficients vary more slowly, or leave out late times"
            )
        if self.scheme.order == 2 and self.way.of_grid:
            notes.append(
                "cells err by their square in densities of passage, as coefficients jump or cells differ; see fit.check_grid()"
            )
        if squares > _ROUGH:
            wanted = 2 * int(np.ceil(n / 2 * (4 * squares / _ROUGH) ** 0.25))
            notes.append(
                f"cells are too large: they move the log likelihood by up to {squares:.2g}; take {wanted} instead of {n}"
            )
        return tuple(notes)

    def lacking(self, equation: Any, initial: Any) -> tuple[Any, Any, Any, Any]:
        """How many passages come before any density is resolved; Σ e², e the relative error of second order, as what is left of
        it in the fourth is about its square; what other contours make of the largest density; how far steps in time move
        the log likelihood."""
        found, onset = self._passages(equation, initial)
        rows = self._rows(onset)
        value, noise = map(self._mean, self.way.at(found, *rows, self.top))
        real = self.weight > 0
        early = jnp.sum(real & (value <= 10.0 * noise))
        seen = real & (self.observation[:, 1] != LATER)
        moved = self.way.lost(equation, self.grid, self.scheme, onset.origin, self.top, *rows)
        largest = jnp.maximum(jnp.max(jnp.where(seen, value, 0.0)), jnp.finfo(value.dtype).tiny)
        lost = jnp.max(jnp.where(seen, self._mean(moved), 0.0)) / largest
        density = self.mixed(onset.lapse, self._resolved(value, noise))
        steps = self.way.by_steps(found, *rows, self.top, self._of_rows(onset, density))
        if (rough := self.way.of_cells(found, *rows, self.top)) is None:
            return early, jnp.zeros(()), lost, steps
        apart = (1.0 - onset.lapse) * self._mean(rough) / density
        return early, jnp.sum(jnp.where(real & (value > 10.0 * noise), apart**2, 0.0)), lost, steps

    @property
    def _shares(self) -> Any:
        """Of each of the non-decision times that a density is a mean over."""
        return jnp.asarray(_SHARES if self.spreads else [1.0], self.weight.dtype)

    def _rows(self, onset: Onset) -> tuple[Any, Any]:
        """Kinds, and times since the start, of all rows for each of the non-decision times."""
        after = self.observation[:, 0] - onset.nondecision
        places = onset.spread * jnp.asarray(_SPREAD) if self.spreads else jnp.zeros(1)
        kinds = self.observation[:, 1].astype(int)
        return jnp.tile(kinds, len(places)), (after - places[:, None]).ravel()

    def _of_rows(self, onset: Onset, density: Any) -> Any:
        """What each of the densities that a row is a mean of counts for, over that of the row."""
        share = jnp.where(self.weight > 0, (1.0 - onset.lapse) / jax.lax.stop_gradient(density), 0.0)
        return (self._shares[:, None] * share).ravel()

    def _mean(self, each: Any) -> Any:
        """Over the non-decision times, of what there is for each row and each of them."""
        return self._shares @ each.reshape(len(self._shares), -1)

    def _passages(self, equation: Any, initial: Any) -> tuple[Any, Onset]:
        if not isinstance(initial, Onset):
            raise ValueError(
                "passages start from the origin= of their jd.PassageTimes; let the model return the equation alone"
            )
        return self.way.passages(equation, self.grid, self.scheme, initial.origin, self.top), initial

    @property
    def numbers_held(self) -> float:
        return float(self.grid.shape[0]) * self.way.numbers

    def renewed(self, measurement: Measurement, equation: Any, checks: Checks) -> Predictor:
        """With finer contours or steps; along a line where the drift carries so far that no contour will do."""
        origin = plain(measurement.initial).origin
        if isinstance(self.way, ByContours) and _carries()(equation, self.grid, self.scheme, origin):
            return replace(self, way=ByLine(ByLine.fewest))
        if (way := self.way.refined()) is None:
            raise Unplannable("passage times span more than 14 decades; are they all of one unit?")
        return replace(self, way=way)

    def beside(self, others: Sequence[Predictor]) -> Predictor:
        lines = [one.way for one in others if isinstance(one, PassagePredictor) and isinstance(one.way, ByLine)]
        return replace(self, way=lines[0]) if lines and isinstance(self.way, ByContours) else self


@cache
def _left_out() -> Any:
    return quick_jit(PassagePredictor.lacking)


@cache
def _carries() -> Any:
    return quick_jit(carries)
