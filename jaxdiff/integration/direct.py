"""Straight from the start to any time: poles for each, contours for many together, modes that decay by themselves."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.integration.method import Method, counted, only_substeps, room_for
from jaxdiff.integration.segments import SINGLE, Segments
from jaxdiff.integration.steppers import not_below_zero
from jaxdiff.operators import Contour, Poles, parts_needed, propagate
from jaxdiff.operators.propagators import propagate_window
from jaxdiff.runtime.compilation import bucket
from jaxdiff.runtime.conditions import Condition

LANE_CELLS = 2_000_000  # cells × resolvents, or cells × times, in memory at once
_FOR_DATA = 1e-8  # of the peak: far below any noise, and many times may share their resolvents


class Direct(Method):
    """The exponential by its poles: seven resolvents for each output time, whatever its distance from the start."""

    tolerance: float | None = eqx.field(static=True)

    _rational: ClassVar[Any] = Poles

    def run(self, system: Any, times: Any, start: Any, *, observe: Any = None, sound: Any = True) -> Any:
        (operator, forcing), after = system.at(times[0]), times[1:] - times[0]
        weights = system.weights.astype(start.dtype)
        to_time = lambda t: propagate(operator, t, start, forcing, tolerance=self.tolerance, weights=weights)
        out = _in_chunks(to_time, after, 7 * len(start))
        needed = only_substeps(parts_needed(operator, after[-1]))
        return out, needed, _roundoff(operator, forcing, after[-1], out)

    def describe(self, needed: Any = None) -> str:
        poles = len(Poles(float if needed is None else needed.dtype, self.tolerance).poles)
        return f"direct: {poles} resolvents per time"

    def states_held(self, grid: Any, outputs: int, *, drift: bool = False, observed: bool = False) -> Any:
        together = min(outputs, max(1, LANE_CELLS // (7 * grid.shape[0])))
        states = 65.0 * together + 1.5 * outputs
        return states, states

    @property
    def allowed(self) -> Any:
        return 1, np.inf

    def refined(self, needed: Any, times: Any, grid: Any = None) -> Method:
        return self if counted(needed)[0] <= 1 else Segments.over(times, (), self.tolerance)

    def closer(self, values: Any, times: Any) -> Method:
        if self.tolerance is None or values.dtype != np.float64:
            return self
        peaks = np.abs(np.asarray(values)).reshape(len(values), -1).max(1)
        # The error is the largest over all decay rates, of which a state holds many.
        error = self._rational.error(self.tolerance) * np.maximum.accumulate(peaks)
        enough = error <= 2 * self.tolerance * np.maximum(peaks, 1e-3 * peaks[0])
        return self if enough.all() else Segments.over(times, (), self.tolerance)

    def for_data(self, times: Any) -> tuple[Any, Method]:
        last = times[-1]  # all but repeated: a second contour for padding would double the work
        extra = bucket(len(times) - 1) - len(times) + 1
        times = np.concatenate([times, last + np.spacing(last) * np.arange(1, extra + 1)])
        return times, straight(times, _FOR_DATA if self.tolerance is None else self.tolerance)


class Contours(Direct):
    """Resolvents on hyperbolas in the complex plane, each of which serves all the times of a window.

    nodes: of the contours `(k,)`; shares: of their resolvents at each time, and at as many more as there is `padding`,
    `(T + padding, 2k)`
    """

    nodes: Any
    shares: Any
    padding: int = eqx.field(static=True)

    observes = True
    _rational = Contour

    def run(self, system: Any, times: Any, start: Any, *, observe: Any = None, sound: Any = True) -> Any:
        (operator, forcing), after = system.at(times[0]), times[1:] - times[0]
        padded = jnp.pad(after, (0, self.padding), mode="edge")
        weights = system.weights.astype(start.dtype)
        fed = forcing if system.forced else None
        out = propagate_window(operator, self.nodes, self.shares, padded, start, fed, weights, observe)
        return out[: len(after)], only_substeps(parts_needed(operator, after[-1])), []

    def describe(self, needed: Any = None) -> str:
        return f"contours: {len(self.nodes)} resolvents for all times"

    def states_held(self, grid: Any, outputs: int, *, drift: bool = False, observed: bool = False) -> Any:
        states = 6.0 * len(self.nodes) + (0 if observed else outputs)
        return states, states

    def states_in_batch(self, outputs: int) -> float:
        return float(len(self.nodes))

    def for_data(self, times: Any) -> tuple[Any, Method]:
        return times, self


class Modes(Method):
    """The modes of the domain, each decaying by itself: values, as all cells are equal."""

    forced: bool = eqx.field(static=True)
    basis: Any = eqx.field(static=True)

    observes = in_densities = in_modes = True

    def run(self, system: Any, times: Any, start: Any, *, observe: Any = None, sound: Any = True) -> Any:
        forcing = (system.forcing(times[0]) / system.weights).astype(start.dtype) if self.forced else None
        solution = system.operator(times[0]).diagonal(self.basis).solution(start, forcing)
        nonnegative = jnp.all(start >= 0) & (forcing is None or jnp.all(forcing >= 0)) & system.monotone
        states = lambda t: not_below_zero(solution(t), nonnegative, tuple(range(1, start.ndim + 1)))
        to_time = states if observe is None else lambda t: observe(states(t))
        return _in_chunks(to_time, times[1:] - times[0], start.size), jnp.zeros(2), []

    def describe(self, needed: Any = None) -> str:
        return "spectral: exact in the modes of the domain"

    def states_held(self, grid: Any, outputs: int, *, drift: bool = False, observed: bool = False) -> Any:
        return 4.0 + 3 * outputs, 3.0 * outputs


def straight(times: Any, tolerance: float | None) -> Direct:
    """Contours, where they take fewer resolvents than poles for each of the times."""
    if tolerance is None or not Contour.holds(tolerance) or isinstance(times, jax.core.Tracer):
        return Direct(tolerance)
    after = times[1:] - times[0]
    padding = room_for(len(after)) - len(after)
    nodes, shares = Contour(tolerance).cover(np.pad(after, (0, padding), mode="edge"))
    return Direct(tolerance) if len(nodes) >= 7 * len(after) else Contours(tolerance, nodes, shares, padding)


def _in_chunks(to_time: Any, times: Any, cells: int) -> Any:
    """`to_time` of times (T,), as many at once as memory allows where each takes so many cells."""
    chunk = max(1, LANE_CELLS // cells)
    if len(times) <= chunk:
        return to_time(times)
    padded = jnp.concatenate([times, jnp.full(-len(times) % chunk, times[-1])])
    out = jax.lax.map(jax.checkpoint(to_time), padded.reshape(-1, chunk))
    return out.reshape(-1, *out.shape[2:])[: len(times)]


def _roundoff(operator: Any, forcing: Any, span: Any, out: Any) -> list[Condition]:
    """Whether what a closed domain gains and loses by the end leaves digits to what stays."""
    info = jnp.finfo(out.dtype)
    passed = span * jnp.max(jnp.abs(forcing)) / jnp.maximum(jnp.max(jnp.abs(out)), info.tiny)
    lost = info.eps * passed
    message = "sources and walls pass so much through the closed domain by then that roundoff is {value} of what stays; jd.steady_state gives the limit, shorter times the way there"
    closed = (jnp.abs(operator.leak) <= 0).all()
    return [(message, closed & (lost > (SINGLE if info.bits < 64 else 1e-9)), jnp.zeros(()), lost)]
