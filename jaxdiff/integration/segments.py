"""Constant coefficients, time cut at outputs and knots: Padé exponentials, each with a bound on its error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.integration.method import Method, counted
from jaxdiff.operators import CUTS, Pade, most_of_batch
from jaxdiff.runtime.conditions import Condition

TOLERANCE = 1e-10  # of the peak; what is promised is ten times as much
_HIGH = 85.0  # logarithm of what single precision holds
_FAR = 1e12  # substeps over the time of a hop, from which powers of their ratio leave single precision
FINEST, SINGLE = 1e-12, 1e-4  # that roundoff leaves, in double and in single precision
MOST_PARTS = 4096
_ROOMS = (1, 8, 64, 512, MOST_PARTS)  # parts of a segment that a plan has room for
_FOR_DATA = 1e-7  # of the peak: far below any noise
_ROOM = 8  # parts of a segment where no host looks after them
_FEW = 8  # lengths of which the factors are kept together
_SAMPLE = 128  # segments of a long series whose errors are looked at


class Stretches(NamedTuple):
    """Stretches of time that follow each other: `starts` and `durations` `(s,)`; durations that differ, `distinct`, and
    `which` of them each stretch has; the stretch that `ends` at each output time `(T,)`."""

    starts: Any
    durations: Any
    distinct: Any
    which: Any
    ends: Any


def cut(times: Any, knots: Any = (), most: int = CUTS) -> Stretches:
    """Cut time at outputs and knots, and what follows the start in several, at `most`."""
    if isinstance(times, jax.core.Tracer):
        if len(knots):
            raise ValueError("output times inside jit cannot be merged with those of a Series; pass them as numbers")
        first = times[0] + (times[1] - times[0]) * jnp.arange(most) / most
        ends = jnp.concatenate([first[1:], times[1:]])
        starts = jnp.concatenate([times[:1], ends[:-1]])
        lengths = ends - starts
        return Stretches(starts, lengths, lengths, np.arange(len(ends)), np.arange(len(times) - 1) + most - 1)
    inner = [k[(k > times[0]) & (k < times[-1])] for k in map(np.asarray, knots)]
    nodes = np.unique(np.concatenate([times, *inner]))
    # What a stretch still has to smooth out is as fast as the time before it is short.
    spans, since = np.diff(nodes), nodes[1:] - nodes[0]
    pieces = 2 ** np.round(np.log2(np.clip(CUTS * spans / since, 1, most))).astype(int)
    durations: Any = np.repeat(spans / pieces, pieces)
    last = np.cumsum(pieces) - 1
    place = np.arange(len(durations)) - np.repeat(last + 1 - pieces, pieces)
    starts = np.repeat(nodes[:-1], pieces) + durations * place
    # Equal to roundoff counts as equal: 0.1 s apart, however the sums were rounded.
    scale = 10.0 ** np.minimum(12 - np.ceil(np.log10(durations)), 300)
    rounded = np.where(durations > 1e-280, np.round(durations * scale) / scale, durations)
    distinct, which = np.unique(rounded, return_inverse=True)
    if len(distinct) > 5:
        distinct, which = np.unique(durations, return_inverse=True)
    return Stretches(starts, durations, distinct, which, last[np.searchsorted(nodes, times[1:]) - 1])


class Segments(Method):
    """Padé exponentials over stretches of time, each in as many parts as hold the tolerance.

    parts: of every stretch, at most `room`; None: what is needed, found in compiled code
    """

    stretches: Stretches
    parts: Any
    tolerance: float | None = eqx.field(static=True)
    room: int = eqx.field(static=True, default=1)

    @classmethod
    def over(cls, times: Any, knots: Any, tolerance: float | None) -> Segments:
        """From the first of the times to all others, the forcing linear between the knots."""
        return cls(cut(times, knots), np.ones(()), tolerance)

    def run(self, system: Any, times: Any, start: Any, *, observe: Any = None, sound: Any = True) -> Any:
        """Contents at the output times, and how many parts each segment wants for the tolerance.

        Error of a segment of m substeps of length h: 2 m |q(hA)² v|, v the contents before the last of them, see `Pade`.
        """
        run = _Run(system, self, times[0], start)
        if run.dense:
            out, wanted = run.judged(*_by_matrices(run), jnp.asarray(float(self.room), start.dtype))
        elif self.parts is None:
            out, wanted = _unattended(run)
        else:
            out, wanted = run.judged(*run(jnp.asarray(self.parts, start.dtype)), self.parts)
        return out, jnp.stack([wanted, jnp.zeros((), start.dtype)]), run.lost(wanted)

    def describe(self, needed: Any = None) -> str:
        several = isinstance(self.parts, np.ndarray) and self.parts > 1
        parts = f", in {self.parts:.0f} parts each" if several else ""
        return f"segments: {len(self.stretches.durations)} exponentials between knots and times{parts}"

    def states_held(self, grid: Any, outputs: int, *, drift: bool = False, observed: bool = False) -> Any:
        states = 60.0 + 12 * min(len(self.stretches.distinct), _FEW) + 2 * outputs
        return states, states + outputs

    @property
    def allowed(self) -> Any:
        return self.room if self.parts is None else self.parts, np.inf

    def refined(self, needed: Any, times: Any, grid: Any = None) -> Segments:
        parts, _ = counted(needed)
        if parts > MOST_PARTS:
            raise ValueError(
                f"tolerance {TOLERANCE if self.tolerance is None else self.tolerance:g} of the peak was not reached in {MOST_PARTS} exponentials an interval; loosen it, give more output times, or check drift and rates"
            )
        if parts <= self.allowed[0]:
            return self
        return replace(self, parts=np.array(float(parts)), room=next(room for room in _ROOMS if room >= parts))

    def unattended(self) -> Segments:
        return replace(self, parts=None)

    def for_data(self, times: Any) -> tuple[Any, Segments]:
        return times, self if self.tolerance is not None else replace(self, tolerance=_FOR_DATA)


class _Run:
    """The segments from given contents."""

    def __init__(self, system: Any, method: Segments, t0: Any, u: Any):
        self.room, self.u, self.weights = method.room, u, system.weights
        self.operator, forcing = system.at(t0)
        self.tolerance = TOLERANCE if method.tolerance is None else method.tolerance
        if jnp.finfo(u.dtype).bits < 64:
            self.tolerance = max(self.tolerance, 0.2 * SINGLE)
        self.rational = Pade(u.dtype, self.tolerance)
        self.repeats = self.rational.substeps  # of a segment, in one part
        stretches = method.stretches
        self.durations, self.ends = jnp.asarray(stretches.durations, u.dtype), jnp.asarray(stretches.ends)
        self.distinct, self.which = jnp.asarray(stretches.distinct, u.dtype), jnp.asarray(stretches.which)
        self.looked = np.arange(len(self.which)) >= CUTS - 1
        last = stretches.starts[-1:] + stretches.durations[-1:]
        nodes = jnp.concatenate([stretches.starts, last]).astype(u.dtype)
        self.constant, self.slopes = forcing.astype(u.dtype), None
        if system.knots:
            forcing = jax.vmap(system.forcing)(nodes).astype(u.dtype)
            self.constant, self.slopes = forcing[:-1], jnp.diff(forcing, axis=0) / self.durations[:, None]
        self.after = nodes[1:] - nodes[0]

    @property
    def dense(self) -> bool:
        """Whether a matrix for each of few lengths pays, for a series of many segments; squaring wants digits to spare."""
        n, few = len(self.u), len(self.distinct) <= 5 and jnp.finfo(self.u.dtype).bits == 64
        return n <= 512 and few and len(self.durations) > max(n // 2, 64)

    def size(self, contents: Any) -> Any:
        """The largest density."""
        return jnp.max(jnp.abs(contents / self.weights), axis=-1)

    def __call__(self, parts: Any, capacity: int = 0) -> tuple[Any, Any]:
        """Contents at the end of every segment, of so many parts each, at most `capacity`, and the errors `(segments,)`."""
        rational, capacity, repeats = self.rational, capacity or self.room, self.repeats
        count = parts * repeats
        few = len(self.distinct) <= _FEW
        known = jax.vmap(lambda h: rational.factors(self.operator, h))(self.distinct / count) if few else None
        most = most_of_batch(parts)

        @jax.checkpoint
        def segment(v: Any, row: Any) -> Any:
            i, looked, forced = row
            h = self.distinct[i] / count
            step = rational.step(self.operator, h, None if known is None else jax.tree.map(lambda x: x[i], known))

            def substep(state: Any, i: Any) -> tuple[Any, None]:
                forcing = (self.constant,) if forced is None else (forced[0] + i * h * forced[1], h * forced[1])
                return step(state[0], *forcing), None

            def part(state: Any, first: Any) -> Any:
                if repeats == 1:
                    return substep(state, first)[0]
                return jax.lax.scan(substep, state, first * repeats + jnp.arange(repeats, dtype=h.dtype))[0]

            v, q = _repeated(part, (v, jnp.zeros_like(v)), jnp.zeros_like(h), parts, most, capacity)
            bound = lambda q, v: self.bound(step(q)[1], v, count)
            error = jax.lax.cond(looked, bound, lambda q, v: jnp.zeros_like(h), *jax.lax.stop_gradient((q, v)))
            return v, (v, error)

        forced = None if self.slopes is None else (self.constant, self.slopes)
        _, (states, errors) = jax.lax.scan(segment, self.u, (self.which, jnp.asarray(self.looked), forced))
        return states, jax.lax.stop_gradient(errors)

    def bound(self, again: Any, v: Any, count: Any) -> Any:
        """On the error of so many substeps to v, from q² of the contents before the last one; what roundoff puts there aside."""
        return 2.0 * count * jnp.maximum(self.size(again) - 2.0 * self.rational.noise * self.size(v), 0.0)

    def lost(self, wanted: Any) -> list[Condition]:
        """Where roundoff costs more than is promised: single precision and very many substeps."""
        if jnp.finfo(self.u.dtype).bits == 64:
            return []
        message = "float32 loses {value} of the peak to roundoff in these times; take float64: jax.config.update('jax_enable_x64', True)"
        lost = self.rational.noise * jnp.sqrt(len(self.which) * self.repeats * wanted)
        turns = jnp.max(self.operator.exit) * jnp.max(self.durations) / (self.repeats * wanted)
        far = "float32 does not hold both a cell's rates and times {value} times as long; take float64, jax.config.update('jax_enable_x64', True), or jd.steady_state"
        grown = jnp.maximum(self.operator.growth(), 0.0) * self.after[-1]
        high = "growth of up to exp({value}) leaves float32; take float64: jax.config.update('jax_enable_x64', True)"
        found = ((message, lost, SINGLE), (far, turns, _FAR), (high, grown, _HIGH))
        return [(words, value > most, jnp.zeros(()), value) for words, value, most in found]

    def judged(self, states: Any, errors: Any, parts: Any) -> tuple[Any, Any]:
        """Contents at the outputs, and the parts with which the errors, summed up, stay below the tolerance at all of them."""
        out, ends = states[self.ends], self.ends
        peaks, start = self.size(jax.lax.stop_gradient(out)), self.size(jax.lax.stop_gradient(self.u))
        after = self.after[ends]
        operator, forcing = jax.lax.stop_gradient((self.operator, self.constant))
        reach = start + after * jnp.max(self.size(forcing))
        tiny = jnp.finfo(peaks.dtype).tiny
        # A blow-up must not hide itself behind the peak that it makes.
        limit = 1e3 * reach * jnp.exp(jnp.minimum(operator.growth() * after, 80.0))
        peaks = jnp.maximum(jnp.minimum(jnp.maximum(peaks, 1e-3 * start), limit), tiny)
        worst = jnp.max(jnp.cumsum(errors)[ends] / peaks) / self.tolerance
        worst = jnp.where(jnp.isfinite(worst), worst, jnp.inf)
        factor = 2.0 ** jnp.clip(jnp.ceil(jnp.log2(jnp.maximum(worst, 1.0)) / self.rational.power), 0.0, 3.0)
        return out, parts * jnp.where(worst > 1.0, jnp.maximum(factor, 2.0), 1.0)


def _unattended(run: _Run) -> tuple[Any, Any]:
    """Where no host looks at the errors: a second run where more parts are wanted; more than it has room for are reported."""
    one = jnp.ones((), run.u.dtype)
    first, wanted = run.judged(*run(one), one)
    short = wanted > 1.0
    parts = jnp.clip(2.0 * wanted, 1.0, _ROOM)  # the number wanted is an estimate
    finer = lambda: run.judged(*run(parts, _ROOM), parts)
    second, asked = jax.lax.cond(most_of_batch(1.0 * short) > 0, finer, lambda: (first, wanted))
    return jnp.where(short, second, first), jnp.where(short & (asked > parts), asked, one)


def _repeated(part: Callable[[Any, Any], Any], state: Any, first: Any, parts: Any, most: Any, capacity: int) -> Any:
    """`state` after the parts from the first on, of `capacity` at most, a power of eight; what is not wanted is skipped."""
    if capacity == 1:
        return part(state, first)
    size = capacity // 8

    @jax.checkpoint
    def block(state: Any, k: Any) -> Any:
        start = first + k * size
        take = lambda s: _repeated(part, s, start, parts, most, size)
        new = jax.lax.cond(start < most, take, lambda s: s, state)
        return jax.tree.map(lambda a, b: jnp.where(start < parts, a, b), new, state), None

    return jax.lax.scan(block, state, jnp.arange(8, dtype=first.dtype))[0]


def squared(step: Callable[..., tuple[Any, Any]], n: int, dtype: Any, count: int) -> tuple[Any, Any]:
    """e^{tA} by squaring that of one of `count` substeps, a power of two, and q(hA)² of the substep: `(n, n)` each."""
    dot = lambda a, b: jnp.matmul(a, b, precision="highest")
    one, q = jax.vmap(step, in_axes=1, out_axes=1)(jnp.eye(n, dtype=dtype))
    whole = jax.lax.scan(lambda p, _: (dot(p, p), None), one, None, length=count.bit_length() - 1)[0]
    return whole, dot(q, q)


def _by_matrices(run: _Run) -> tuple[Any, Any]:
    """Contents at the end of every segment, and the errors: a matrix for each length, squared up from its substeps; then a product for
    each segment."""
    rational, eye = run.rational, jnp.eye(len(run.u), dtype=run.u.dtype)
    count = CUTS * run.repeats * run.room  # a power of two
    dot = lambda a, b: jnp.matmul(a, b, precision="highest")
    none = jnp.zeros_like(eye)

    def matrices(dt: Any) -> Any:
        step = rational.step(run.operator, dt / count)
        response = lambda *columns: jax.vmap(lambda *c: step(*c)[0], in_axes=1, out_axes=1)(*columns)
        first = response(eye, none, none), response(none, eye, none), response(none, none, dt / count * eye)

        def double(carry: Any, _: Any) -> Any:
            p, f, s, dt = carry
            return (dot(p, p), dot(p, f) + f, dot(p, s) + s + dt * f, 2 * dt), None

        return jax.lax.scan(double, (*first, dt / count), None, length=count.bit_length() - 1)[0][:3]

    steps, constants, ramps = jax.lax.map(matrices, run.distinct)
    varying = jnp.zeros_like(run.constant) if run.slopes is None else run.slopes
    forcing, slopes = (jnp.broadcast_to(b, (len(run.which), len(run.u))) for b in (run.constant, varying))
    gained = jnp.einsum("dij,sj->dsi", constants, forcing, precision="highest")
    gained = gained + jnp.einsum("dij,sj->dsi", ramps, slopes, precision="highest")
    gained = gained[run.which, jnp.arange(len(run.which))]

    def segment(v: Any, row: Any) -> Any:
        i, b = row
        v = dot(steps[i], v) + b
        return v, v

    _, states = jax.lax.scan(segment, run.u, (run.which, gained))
    stride = -(-len(states) // _SAMPLE)

    def error(v: Any, i: Any, b: Any, slope: Any) -> Any:
        step = rational.step(run.operator, run.distinct[i] / count)
        h = run.distinct[i]
        return run.bound(step(step(v, b + h * slope, h / count * slope)[1])[1], v, count)

    sample = jax.lax.stop_gradient((states[::stride], run.which[::stride], forcing[::stride], slopes[::stride]))
    errors = jnp.repeat(jax.lax.map(lambda row: error(*row), sample), stride)[: len(states)]
    return states, errors
