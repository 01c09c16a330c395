"""Waves in time, kinetic and potential energy in turn, in as many equal steps as the error asks for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.operators.basis import Basis
from jaxdiff.operators.linear import linear

# Fourth order, Runge–Kutta–Nyström: Blanes & Moan 2002, doi:10.1016/S0377-0427(01)00492-7. Shares of a step.
_B = (0.0829844064174052, 0.396309801498368, -0.0390563049223486)
_A = (0.245298957184271, 0.604872665711080)
_KICKS = np.array([*_B, 1 - 2 * sum(_B)])[[0, 1, 2, 3, 2, 1, 0]]
_DRIFTS = np.array([*_A, 0.5 - sum(_A)])[[0, 1, 2, 2, 1, 0]]
_MIRRORED = np.array([0, 1, 2, 2, 1, 0])
_CLOCK = np.concatenate([[0.0], np.cumsum(_DRIFTS)])  # potentials are taken at the clock of the drifts

_FEWEST = (
    34.0  # steps over all the time, so that nothing that a wave passes is stepped over; no simple fractions of a period
)
_MORE, _LESS = 8.0, 0.25  # factors of their number, at most, from one try to the next
_KEPT = 256  # waves that a gradient keeps of a stretch where they cannot be followed backwards
_TRIES = 40


class Parts(eqx.Module):
    """What turns waves: T `(*modes,)` in a `basis`, V `(*cells,)` of time, and Γ ≥ 0 `(*cells,)`, which fades them, None for
    none; all over ħ [1/time]. `steady`: whether V is the same at all times."""

    kinetic: Any
    potential: Callable[[Any], Any]
    absorption: Any
    basis: Basis
    steady: bool = eqx.field(static=True)

    def kicks(self, t: Any, h: Any) -> Any:
        """The factors of a step from t on `(7, *cells)`."""
        if self.steady:
            each = jax.vmap(lambda share: self._kick(self.potential(t), share * h))(jnp.asarray(_KICKS[:4], h.dtype))
            return each[np.array([0, 1, 2, 3, 2, 1, 0])]
        at = lambda t, share: self._kick(self.potential(t), share * h)
        return jax.vmap(at)(_clock(t, h), jnp.asarray(_KICKS, h.dtype))

    def _kick(self, potential: Any, h: Any) -> Any:
        turned = turn(potential * h)
        return turned if self.absorption is None else turned * jnp.exp(-self.absorption * h)

    def drifts(self, h: Any) -> Any:
        """The factors of a step `(3, *modes)`."""
        return jax.vmap(lambda share: turn(self.kinetic * (share * h)))(jnp.asarray(_DRIFTS[:3], h.dtype))

    def stepper(self, h: Any) -> Callable[[Any, Any], Any]:
        """(t, ψ) ↦ ψ after a step of length h, ψ `(…, *cells)`."""
        drifts = self.drifts(h)
        known = self.kicks(jnp.zeros_like(h), h) if self.steady else None

        def step(t: Any, wave: Any) -> Any:
            kicks = self.kicks(t, h) if known is None else known

            def stage(wave: Any, row: Any) -> Any:
                kick, drift = row
                return self.basis.synthesise(drift * self.basis.analyse(kick * wave)), None

            return kicks[6] * jax.lax.scan(stage, wave, (kicks[:6], drifts[_MIRRORED]))[0]

        return step


def _clock(t: Any, h: Any) -> Any:
    """When a step from t on kicks `(7,)`, kept off its ends: V may jump there, and the value would be that of the other side."""
    edge = jax.lax.stop_gradient(jnp.minimum(16 * jnp.finfo(h.dtype).eps * (jnp.abs(t) + h), h / 4))
    return t + jnp.clip(jnp.asarray(_CLOCK, h.dtype) * h, edge, h - edge)


def turn(angle: Any) -> Any:
    """e^{−i angle}."""
    return jax.lax.complex(jnp.cos(angle), -jnp.sin(angle))


def split(
    parts: Parts,
    starts: Any,
    durations: Any,
    wave: Any,
    tolerance: Any,
    most: Any,
    least: Any,
    watch: Callable[[Any], Any],
) -> tuple[Any, Any, Any, Any]:
    """Waves `(s, *cells)` at the ends of stretches that follow each other, how many steps each took `(s,)`, the error, of the norm,
    and the most that `watch` makes `(m,)` of a wave after every two steps.

        e^{−ihb₆V} Π e^{−ihaⱼT} e^{−ihbⱼV}

    The error of two steps is that against one of twice their length; as steps keep the norm, errors add up at most. What is more than `most` steps in all is not followed; `least` are taken
    in a unit of time. Reverse mode follows waves backwards, which costs as many
    transforms as two forward runs and keeps those at the ends; where waves fade it forms them again.
    """
    return _split(parts, (starts, durations), wave, tolerance, most, least, watch)


@eqx.filter_custom_jvp
def _split(
    parts: Parts, stretches: Any, wave: Any, tolerance: Any, most: Any, least: Any, watch: Callable[[Any], Any]
) -> tuple[Any, Any, Any, Any]:
    starts, durations = stretches
    whole = jnp.sum(durations)
    slowest = jnp.maximum(_FEWEST / whole, least).astype(durations.dtype)

    def stretch(carry: Any, row: Any) -> Any:
        wave, pace, taken, error, watched = carry
        start, duration = row
        allowed = tolerance * duration / whole

        def again(state: Any) -> Any:
            count, tries = state[0], state[-1]
            end, error, seen = _looked_at(parts, start, duration / count, count, wave, allowed, watch)
            ratio = (error / jnp.maximum(allowed, jnp.finfo(durations.dtype).tiny)) ** 0.25
            wanted = _even(count * jnp.clip(1.1 * ratio, 1.1, _MORE))
            wanted = jnp.where(jnp.isfinite(ratio), wanted, count * _MORE)
            return jnp.where(error <= allowed, count, wanted), end, error, ratio, seen, tries + 1

        def short(state: Any) -> Any:
            count, _, error, _, _, tries = state
            return ~(error <= allowed) & (tries < _TRIES) & (taken + count <= most)

        first = _even(duration * pace)
        begin = (first, wave, jnp.full_like(error, jnp.inf), jnp.ones_like(error), watched, 0)
        count, end, missed, ratio, seen, _ = jax.lax.while_loop(short, again, begin)
        less = count / jnp.where(duration > 0, duration, 1.0) * jnp.clip(1.1 * ratio, _LESS, 1.0)
        pace = jnp.where(duration > 0, jnp.maximum(less, slowest), pace)
        return (end, pace, taken + count, error + missed, jnp.maximum(watched, seen)), (end, count)

    size = jnp.zeros((), durations.dtype)
    first = (wave, slowest, size, size, watch(wave))
    (_, _, _, error, watched), (waves, counts) = jax.lax.scan(stretch, first, (starts, durations))
    return waves, counts, error, watched


def _even(count: Any) -> Any:
    return jnp.maximum(2.0 * jnp.ceil(count / 2.0), 2.0)


def _looked_at(
    parts: Parts, start: Any, h: Any, count: Any, wave: Any, allowed: Any, watch: Callable[[Any], Any]
) -> tuple[Any, Any, Any]:
    """The wave after an even number of steps, their error, of the norm, what it would be at this pace where more than is allowed,
    and what was watched."""
    noise = 16 * float(jnp.finfo(h.dtype).eps)
    step, double = parts.stepper(h), parts.stepper(2 * h)
    size = lambda wave: jnp.sqrt(jnp.sum(jnp.real(wave) ** 2 + jnp.imag(wave) ** 2))
    of = jnp.maximum(size(wave), jnp.finfo(h.dtype).tiny)

    def pair(state: Any) -> Any:
        done, wave, error, seen = state
        t = start + done * h
        one = double(t, wave)
        two = jax.lax.fori_loop(0, 2, lambda i, wave: step(t + i * h, wave), wave)
        missed = size(one - two) / of / 15  # of two; sixteen times as much is that of one
        return done + 2, two, error + jnp.maximum(missed - noise, 0.0), jnp.maximum(seen, watch(two))

    begin = (jnp.zeros_like(count), wave, jnp.zeros_like(h), watch(wave))
    good = lambda state: (state[0] < count) & (state[2] <= allowed)
    done, wave, error, seen = jax.lax.while_loop(good, pair, begin)
    return wave, error * count / done, seen


def _again(counts: Any, parts: Parts, stretches: Any, wave: Any) -> Any:
    """The waves at the ends of stretches of known numbers of steps."""

    def stretch(wave: Any, row: Any) -> Any:
        start, duration, count = row
        h = duration / count
        step = parts.stepper(h)
        wave = jax.lax.fori_loop(0, count.astype(int), lambda i, wave: step(start + i * h, wave), wave)
        return wave, wave

    return jax.lax.scan(stretch, wave, (*stretches, counts))[1]


@_split.def_jvp
def _split_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    found = waves, counts, error, watched = _split(*primals)
    moves = tuple(tangents[:3])
    moved = jax.tree.map(lambda x: x is not None, moves, is_leaf=lambda x: x is None)
    arrays, static = eqx.partition(tuple(primals[:3]), eqx.is_array)

    def forward(known: Any, moves: Any) -> Any:
        arrays, counts, _ = known
        changing, fixed = eqx.partition(eqx.combine(arrays, static), moved)
        run = lambda changing: _again(counts, *eqx.combine(changing, fixed))
        return jax.jvp(run, (changing,), (moves,))[1]

    def backward(known: Any, cotangents: Any) -> Any:
        arrays, counts, waves = known
        pulled = _pull(counts, waves, cotangents, *eqx.combine(arrays, static))
        return eqx.filter(pulled, moved)

    change = linear(forward, backward, (arrays, counts, waves), moves, like=waves)
    return found, (change, *map(jnp.zeros_like, (counts, error, watched)))


def _numbers(parts: Any) -> Any:
    return eqx.filter(parts, eqx.is_inexact_array)


def _vjp(function: Callable[..., Any], parts: Any, *more: Any) -> Any:
    """`jax.vjp`, by the numbers of parts."""
    numbers, others = eqx.partition(parts, eqx.is_inexact_array)
    return jax.vjp(lambda numbers, *more: function(eqx.combine(numbers, others), *more), numbers, *more)


def _pull(counts: Any, waves: Any, cotangents: Any, parts: Parts, stretches: Any, wave: Any) -> Any:
    """The gradient of Re Σ cotangents · waves by parts, stretches and the wave at the start."""
    before = jnp.concatenate([wave[None], waves[:-1]])
    none = jax.tree.map(jnp.zeros_like, _numbers(parts))

    def stretch(carry: Any, row: Any) -> Any:
        cotangent, totals = carry
        (start, duration), count, first, last, more = row
        h = duration / count
        pull = _followed if parts.absorption is None else _formed_again
        cotangent, found, by_start, by_h = pull(parts, start, h, count, first, last, cotangent + more)
        return (cotangent, jax.tree.map(jnp.add, totals, found)), (by_start, by_h / count)

    rows = (stretches, counts, before, waves, cotangents)
    (cotangent, totals), by_stretches = jax.lax.scan(stretch, (jnp.zeros_like(wave), none), rows, reverse=True)
    return totals, by_stretches, cotangent if jnp.iscomplexobj(wave) else cotangent.real


def _followed(parts: Parts, start: Any, h: Any, count: Any, first: Any, last: Any, cotangent: Any) -> Any:
    """Of one stretch of steps that keep the norm: the wave and its adjoint, the cotangent's conjugate, go back by the same steps.

    Where a factor e^{−iαE} has just been passed, a change of α E moves Re Σ cotangent · wave by Im Σ adjoint* · wave dαE.
    """
    basis, ndim = parts.basis, last.ndim
    drifts, known = parts.drifts(-h), parts.kicks(start, -h) if parts.steady else None
    product = lambda both: both[0].imag * both[1].real - both[0].real * both[1].imag  # Im adjoint* wave
    shares = [jnp.asarray(x, h.dtype) for x in (_KICKS, _DRIFTS)]

    def potentials(i: Any, parts: Parts, start: Any, h: Any) -> Any:
        return jax.vmap(parts.potential)(_clock(start + i * h, h))

    def back(i: Any, carry: Any) -> Any:
        both, kinetic, turned, totals, by_start, by_h = carry
        i = count - 1 - i.astype(h.dtype)
        kicks = known if known is not None else jnp.conj(parts.kicks(start + i * h, h))

        def stage(both: Any, row: Any) -> Any:
            kick, drift = row
            passed = product(both)
            modes = basis.analyse(kick * both)
            return basis.synthesise(drift * modes), (passed, product(modes))

        both, (passed, moved) = jax.lax.scan(stage, both, (kicks[:0:-1], drifts[_MIRRORED]))
        by_kicks = shares[0].reshape(-1, *(1,) * ndim) * jnp.concatenate([product(both)[None], passed[::-1]])
        both, each = kicks[0] * both, jnp.tensordot(shares[1], moved, 1, precision="highest")
        if parts.steady:
            turned = turned + jnp.sum(by_kicks, axis=0)
        else:
            each_potential, of = _vjp(partial(potentials, i), parts, start, h)
            more, to_start, to_h = of(h * by_kicks)
            totals = jax.tree.map(jnp.add, totals, more)
            by_start, by_h = by_start + to_start, by_h + to_h + jnp.sum(by_kicks * each_potential)
        return both, kinetic + each, turned, totals, by_start, by_h

    zero = jnp.zeros_like(h)
    totals = jax.tree.map(jnp.zeros_like, _numbers(parts))
    begin = (jnp.stack([last, jnp.conj(cotangent)]), jnp.zeros_like(parts.kinetic), jnp.zeros(last.shape, h.dtype), totals, zero, zero)  # fmt: skip
    both, kinetic, turned, totals, by_start, by_h = jax.lax.fori_loop(0, count.astype(int), back, begin)
    kinetic = kinetic / basis.squares
    if parts.steady:
        potential, of = _vjp(lambda parts: parts.potential(start), parts)
        totals = jax.tree.map(jnp.add, totals, of(h * turned)[0])
        by_h = by_h + jnp.sum(turned * potential)
    by_h = by_h + jnp.sum(kinetic * parts.kinetic)
    totals = eqx.tree_at(lambda parts: parts.kinetic, totals, totals.kinetic + h * kinetic)
    return jnp.conj(both[1]), totals, by_start, by_h


def _formed_again(parts: Parts, start: Any, h: Any, count: Any, first: Any, last: Any, cotangent: Any) -> Any:
    """Of one stretch of steps in which waves fade, which backwards would amplify roundoff: some are kept, the others formed again."""
    stride = jnp.ceil(count / _KEPT).astype(int)
    step = parts.stepper(h)
    forth = lambda i, wave: step(start + i * h, wave)

    def keep(i: Any, carry: Any) -> Any:
        wave, kept = carry
        kept = jax.lax.cond(i % stride == 0, lambda kept: kept.at[i // stride].set(wave), lambda kept: kept, kept)
        return forth(i, wave), kept

    room = jnp.zeros((_KEPT, *first.shape), last.dtype)
    _, kept = jax.lax.fori_loop(0, count.astype(int), keep, (first.astype(last.dtype), room))

    def one(i: Any, parts: Parts, start: Any, h: Any, wave: Any) -> Any:
        return parts.stepper(h)(start + i * h, wave)

    def back(i: Any, carry: Any) -> Any:
        cotangent, totals, by_start, by_h = carry
        i = count.astype(int) - 1 - i
        wave = jax.lax.fori_loop(i // stride * stride, i, forth, kept[i // stride])
        more, to_start, to_h, cotangent = _vjp(partial(one, i), parts, start, h, wave)[1](cotangent)
        totals = jax.tree.map(jnp.add, totals, more)
        return cotangent, totals, by_start + to_start, by_h + to_h

    totals = jax.tree.map(jnp.zeros_like, _numbers(parts))
    zero = jnp.zeros_like(h)
    return jax.lax.fori_loop(0, count.astype(int), back, (cotangent, totals, zero, zero))
