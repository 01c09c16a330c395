"""How times of first passage are predicted: the log density of each row, by resolvents that serve all of them."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.integration.passage_times import CONTOUR, EITHER, LATER, SPAN, at_times, passages
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.measurements.predictor import Prediction, Predictor
from jaxdiff.measurements.states_at_times import Unplannable
from jaxdiff.model.grid import Grid
from jaxdiff.runtime.compilation import quick_jit
from jaxdiff.runtime.conditions import Checks, check

SLACK = 2.0  # of the longest time, that data drawn anew may take
_MOST_WINDOWS = 8
LEAST = 1e-8  # of a passage over the longest time, or of what stays: the smallest density that counts
_ROUGH = 0.5  # of the log likelihood, that cells move at most by what they leave of each density
MOST_TERMS = 32.0  # the logarithm of the terms whose sum is a density, vL/4D of a drift, beyond which their sum is lost
HIDDEN = 1e-6  # of all passages, that may come before the contours see any
_LOST = 1e-4  # of the largest density, that sums may lose that cancel
OTHER = 1.7  # times as long contours, by which that is found out


class Onset(eqx.Module):
    """Where passages start, how long before the clock does, and which share is due to something else."""

    origin: Any
    nondecision: Any
    lapse: Any


class PassagePredictor(Predictor):
    """The log density of each row, or where it is censored the log chance that it comes later.

    observation: (m, 2) time and kind; top: the longest time; window: from when to when lapses are; walls: how many absorb;
    windows: of contours
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
    windows: int = eqx.field(static=True)
    known: bool = eqx.field(static=True)

    def predict(self, equation: Any, initial: Any) -> Prediction:
        found, onset = self._passages(equation, initial)
        times, kinds = self.observation[:, 0], self.observation[:, 1].astype(int)
        after = times - onset.nondecision
        value, noise = at_times(found, kinds, after, self.top)
        first = self.top / SPAN**self.windows
        before = at_times(found, jnp.array([EITHER]), jnp.array([1.0001]) * first, self.top)[0][0]
        hidden = (after > 0) & (after < first) & (kinds != LATER) & (self.weight > 0)
        resolved = ~jnp.any(hidden) | (before * first < HIDDEN)
        density = self.mixed(onset.lapse, self._resolved(value, noise))
        carried = "the drift carries so far beside diffusion that densities are sums of terms e^{value} times as large, and are lost; take a narrower grid, or a larger diffusivity"
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
            (carried, found.lost[EITHER] > MOST_TERMS, 0.0, found.lost[EITHER]),
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
        early, squares, lost = map(float, _left_out()(self, equation, initial))
        notes, n = [], self.grid.shape[0]
        if early and float(initial.lapse) == 0:
            few = f"{early:.0f} of {float(self.size):.0f} passages are earlier than the model allows"
            notes.append(f"{few}, and count by the least density that is resolved; give a lapse, or look at those rows")
        if lost > _LOST:
            notes.append(
                f"sums that cancel take {lost:.1g} of the largest density, as the drift carries far beside diffusion; take a narrower grid"
            )
        if self.scheme.order == 2:
            notes.append(
                "cells err by their square in densities of passage, as coefficients jump or cells differ; see fit.check_grid()"
            )
        if squares > _ROUGH:
            wanted = 2 * int(np.ceil(n / 2 * (4 * squares / _ROUGH) ** 0.25))
            notes.append(
                f"cells are too large: they move the log likelihood by up to {squares:.2g}; take {wanted} instead of {n}"
            )
        return tuple(notes)

    def lacking(self, equation: Any, initial: Any) -> tuple[Any, Any, Any]:
        """How many passages come before any density is resolved; Σ e², e the relative error of second order, as what is left of
        it in the fourth is about its square; what other contours make of the largest density."""

        def by(top: Any) -> Any:
            found = passages(equation, self.grid, self.scheme, initial.origin, top, self.windows)
            return found._replace(conditions=[])

        onset, tops = initial, self.top * jnp.array([1.0, OTHER])
        both = jax.lax.map(by, tops)
        found, other = (jax.tree.map(lambda x, i=i: x[i], both) for i in (0, 1))
        kinds, after = self.observation[:, 1].astype(int), self.observation[:, 0] - onset.nondecision
        value, noise = at_times(found, kinds, after, self.top)
        real = self.weight > 0
        early = jnp.sum(real & (value <= 10.0 * noise))
        seen = real & (kinds != LATER)
        moved = jnp.abs(at_times(other, kinds, after, tops[1])[0] - value)
        moved = jnp.where(seen & (after > tops[1] / SPAN**self.windows), moved, 0.0)
        lost = jnp.max(moved) / jnp.maximum(jnp.max(jnp.where(seen, value, 0.0)), jnp.finfo(value.dtype).tiny)
        if found.coarse is None:
            return early, jnp.zeros(()), lost
        rough, _ = at_times(found, kinds, after, self.top, coarse=True)
        density = self.mixed(onset.lapse, self._resolved(value, noise))
        apart = (1.0 - onset.lapse) * (value - rough) / density / 3.0
        return early, jnp.sum(jnp.where(real & (value > 10.0 * noise), apart**2, 0.0)), lost

    def _passages(self, equation: Any, initial: Any) -> tuple[Any, Onset]:
        if not isinstance(initial, Onset):
            raise ValueError(
                "passages start from the origin= of their jd.PassageTimes; let the model return the equation alone"
            )
        return passages(equation, self.grid, self.scheme, initial.origin, self.top, self.windows), initial

    @property
    def numbers_held(self) -> float:
        return float(self.grid.shape[0]) * self.windows * len(CONTOUR.points)

    def renewed(self, measurement: Measurement, equation: Any, checks: Checks) -> Predictor:
        if self.windows >= _MOST_WINDOWS:
            raise Unplannable("passage times span more than 14 decades; are they all of one unit?")
        return eqx.tree_at(lambda p: p.scheme, self._with_windows(self.windows + 1), self.scheme)

    def _with_windows(self, windows: int) -> PassagePredictor:
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return PassagePredictor(**{**parts, "windows": windows})


@cache
def _left_out() -> Any:
    return quick_jit(PassagePredictor.lacking)


def windows_for(times: np.ndarray, nondecision: Any, top: float) -> int:
    """Contours for times of passages; a start that is fitted is looked at where it comes to matter."""
    after = times - (float(nondecision) if isinstance(nondecision, np.ndarray) else 0.0)
    after = after[after > 0]
    least = after.min() if len(after) else top
    return int(np.clip(np.ceil(np.log(top / least) / np.log(SPAN)), 2, _MOST_WINDOWS))
