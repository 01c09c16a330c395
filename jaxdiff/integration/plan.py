"""How a problem is stepped through its output times, as data: static choices, and arrays that may change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.modes import Spectral
from jaxdiff.discretisation.schemes import FiniteVolume
from jaxdiff.integration.adaptive import MOST_STEPS
from jaxdiff.integration.segments import MOST_PARTS, TOLERANCE
from jaxdiff.operators import CUTS, Contour, Poles

_UNATTENDED = 4096  # room for adaptive steps where no host can make more
_MOST_SUBSTEPS = 2**20
_ROOMS = (1, 8, 64, 512, MOST_PARTS)  # parts of a segment that a plan has room for
_MOST_PRODUCTS = 2**20  # on a lattice


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "scheme",
        "stepper",
        "times",
        "nodes",
        "weights",
        "starts",
        "durations",
        "distinct",
        "which",
        "ends",
        "parts",
    ],
    meta_fields=["method", "tolerance", "substeps", "capacity", "outputs", "forced", "basis"],
)
@dataclass(frozen=True)
class Plan:
    """How a problem is stepped through its output times: static choices, and arrays that may change without retracing."""

    scheme: FiniteVolume | Spectral
    stepper: Any
    method: str
    tolerance: float | None
    substeps: int
    capacity: int
    outputs: int
    times: Any
    nodes: Any = None  # of contours
    weights: Any = None  # of their resolvents at each time
    starts: Any = None  # of the segments between knots and outputs
    durations: Any = None
    distinct: Any = None  # durations that differ
    which: Any = None
    ends: Any = None  # the segment that ends at each output time
    parts: Any = None  # of every segment, at most `substeps`; None: what is needed, found in compiled code
    forced: bool = True  # whether anything may be fed in
    basis: Any = None  # of constant coefficients

    def told(self, needed: Any = None) -> str:
        """What was done, in a few words; with the numbers that a run reported in `needed` (None inside jit)."""
        known = None if needed is None or isinstance(needed, jax.core.Tracer) else np.asarray(needed)
        count = 0 if known is None else int(known[1])
        if self.method == "direct":
            poles = len(Poles(float if known is None else known.dtype, self.tolerance).poles)
            return f"direct: {poles} resolvents per time"
        if self.method == "window":
            return f"contours: {len(self.nodes)} resolvents for all times"
        if self.method == "segments":
            parts = f", in {self.parts:.0f} parts each" if isinstance(self.parts, np.ndarray) and self.parts > 1 else ""
            return f"segments: {len(self.durations)} exponentials between knots and times{parts}"
        if self.method == "spectral":
            return "spectral: exact in the modes of the domain"
        if self.method == "lattice":
            if known is None:
                return "lattice: product of exponentials per axis, or Chebyshev"
            return f"lattice: Chebyshev, {count} products" if count else "lattice: product of exponentials per axis"
        if self.method == "adaptive":
            name = f"adaptive {self.stepper.told}"
            return f"{name}, {count} steps" if count else name
        return f"{type(self.stepper).__name__}, {self.substeps} step{'s' * (self.substeps != 1)} per interval"

    def holds(self, needed: Any) -> Any:
        """Whether the plan allows for what a run reported in `needed`, (substeps, steps); traceable."""
        substeps, steps = self.allowed
        return (needed[0] <= substeps) & (needed[1] <= steps)

    @property
    def allowed(self) -> tuple[Any, int]:
        """Substeps and steps that the plan takes at most."""
        return self.parts if self.method == "segments" and self.parts is not None else self.substeps, self.capacity

    def unattended(self) -> Plan:
        """A plan for compiled code that no host looks after: it finds the parts of segments by itself."""
        if self.method == "adaptive":
            return replace(self, capacity=max(self.capacity, _UNATTENDED))
        return replace(self, parts=None) if self.method == "segments" else self

    def closer(self, values: Any) -> Plan:
        """Segments, where poles or contours hold the tolerance of the start and the peak has fallen; itself where not."""
        if self.method not in ("direct", "window") or self.tolerance is None or values.dtype != np.float64:
            return self
        peaks = np.abs(np.asarray(values)).reshape(len(values), -1).max(1)
        error = (Poles if self.method == "direct" else Contour).error(self.tolerance)
        # `error` is the largest over all decay rates, of which a state holds many.
        held = error * np.maximum.accumulate(peaks) <= 2 * self.tolerance * np.maximum(peaks, 1e-3 * peaks[0])
        return self if held.all() else replace(segmented(self, ()), times=self.times)

    def refined(self, needed: Any, grid: Any = None) -> Plan:
        """A plan that meets what a run reported in `needed`, (substeps, steps); itself if it already does."""
        counts = np.asarray(needed).reshape(-1, 2).max(0)
        if not np.isfinite(counts).all():
            raise ValueError("the steps that the coefficients need are beyond all numbers; check them and their units")
        substeps, steps = map(int, counts)
        if self.method == "segments" and substeps > MOST_PARTS:
            raise ValueError(
                f"tolerance {TOLERANCE if self.tolerance is None else self.tolerance:g} of the peak was not reached in {MOST_PARTS} exponentials an interval; loosen it, give more output times, or check drift and rates"
            )
        if substeps > _MOST_SUBSTEPS:
            raise ValueError(
                f"the coefficients need {substeps} substeps per interval; shorten the intervals or check drift, decay and rates"
            )
        if self.method == "lattice" and (substeps * steps > _MOST_PRODUCTS or steps > MOST_STEPS):
            raise ValueError(
                f"the longest interval takes more than {MOST_STEPS} products with the operator; what has come to rest by then jd.steady_state tells, and what has not jd.TRBDF2() or jd.BackwardEuler(){_smallest(grid)}"
            )
        if steps > MOST_STEPS:
            raise ValueError(
                f"tolerance {self.tolerance:g} was not reached in {MOST_STEPS} steps; loosen tolerance or name a stepper"
            )
        if self.method == "lattice" and (substeps > self.substeps or steps > self.capacity):
            capacity = 1 << (max(steps, self.capacity) - 1).bit_length()
            return replace(self, substeps=1 << (max(substeps, self.substeps) - 1).bit_length(), capacity=capacity)
        if substeps > self.substeps and self.method == "steps":
            return replace(self, substeps=1 << (substeps - 1).bit_length())
        if self.method == "segments":
            return (
                self
                if self.holds((substeps, 0))
                else replace(self, parts=np.array(float(substeps)), substeps=_room(substeps))
            )
        if substeps > self.substeps:
            return replace(segmented(self, ()), times=self.times)
        if steps > self.capacity:
            return replace(self, capacity=1 << (steps - 1).bit_length())
        return self


def _smallest(grid: Any) -> str:
    """The width of the smallest cells, in words, where it is known."""
    if grid is None or any(isinstance(edges, jax.core.Tracer) for edges in grid.edges):
        return ""
    width, name = min((float(np.diff(edges).min()), name) for edges, name in zip(grid.edges, grid.names, strict=True))
    return f"; the smallest cells, {width:.3g} wide along {name}, ask for so many"


def _room(parts: int) -> int:
    return next(room for room in _ROOMS if room >= parts)


def segmented(plan: Plan, knots: Any, most: int = CUTS) -> Plan:
    """Cut time at outputs and knots, and what follows the start in several, at `most`."""
    times: Any = plan.times[: plan.outputs + 1]
    if isinstance(times, jax.core.Tracer):
        if len(knots):
            raise ValueError("output times inside jit cannot be merged with those of a Series; pass them as numbers")
        first = times[0] + (times[1] - times[0]) * jnp.arange(most) / most
        cut = jnp.concatenate([first, times[1:]])
        each: dict[str, Any] = {"durations": jnp.diff(cut), "distinct": jnp.diff(cut), "starts": cut[:-1]}
        each |= {"which": np.arange(len(cut) - 1), "ends": np.arange(plan.outputs) + most - 1}
        return replace(plan, method="segments", parts=np.ones(()), **each)
    inner = [k[(k > times[0]) & (k < times[-1])] for k in map(np.asarray, knots)]
    nodes = np.unique(np.concatenate([times, *inner]))
    # What a stretch still has to smooth out is as fast as the time before it is short.
    spans, since = np.diff(nodes), nodes[1:] - nodes[0]
    cuts = 2 ** np.round(np.log2(np.clip(CUTS * spans / since, 1, most))).astype(int)
    durations: Any = np.repeat(spans / cuts, cuts)
    last = np.cumsum(cuts) - 1
    starts = np.repeat(nodes[:-1], cuts) + durations * (np.arange(len(durations)) - np.repeat(last + 1 - cuts, cuts))
    ends = last[np.searchsorted(nodes, times[1:]) - 1]
    # Equal to roundoff counts as equal: 0.1 s apart, however the sums were rounded.
    scale = 10.0 ** np.minimum(12 - np.ceil(np.log10(durations)), 300)
    rounded = np.where(durations > 1e-280, np.round(durations * scale) / scale, durations)
    distinct, which = np.unique(rounded, return_inverse=True)
    if len(distinct) > 5:
        distinct, which = np.unique(durations, return_inverse=True)
    return replace(
        plan,
        method="segments",
        parts=np.ones(()),
        starts=starts,
        durations=durations,
        distinct=distinct,
        which=which,
        ends=ends,
        times=times,
    )
