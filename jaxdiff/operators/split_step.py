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
from jaxdiff.operators.turn import turn

# Sixth order, Runge–Kutta–Nyström, of eleven stages: Blanes & Moan 2002, doi:10.1016/S0377-0427(01)00492-7. Shares of a step.
_B = (0.0414649985182624, 0.198128671918067, -0.0400061921041533, 0.0752539843015807, -0.0115113874206879)
_A = (0.123229775946271, 0.290553797799558, -0.127049212625417, -0.246331761062075, 0.357208872795928)
_ORDER, _STAGES = 6, 11
_KICKED = np.array([0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0])  # a step backwards is the same step
_DRIFTED = np.array([0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0])
_KICKS = np.array([*_B, 0.5 - sum(_B)])[_KICKED]
_DRIFTS = np.array([*_A, 1 - 2 * sum(_A)])[_DRIFTED]
_CLOCK = np.concatenate([[0.0], np.cumsum(_DRIFTS)])  # potentials are taken at the clock of the drifts

# How far apart kinetic energies may be, in turns of a step. What a wave is at one place in free flight is told by samples whose gaps are
# less than 2π over that band; kicks, at half of that at most, hold a quarter of it at least (Gröchenig 1992, Math. Comp. 59, 181).
_FREE = 18.0  # steps of a wave on which nothing acts, for what is watched
_LIKELY = {True: 18.0, False: 24.0}  # steps of a wave of few cells at first, where V is steady or not
_BAND = float(np.pi / np.diff(np.sort(_CLOCK)).max())
_MORE, _LESS = 8.0, 0.25  # factors of their number, at most, from one try to the next
_SPARE = 1.05  # times the steps that an error asks for
_PAIRS, _CELLS = 10, 2**12  # held against one of twice the length at a time, at most; transforms of many are cheaper
_LEAST = 0.25  # of double steps' errors to those of steps, less one: below, errors hardly fall
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

    def band(self, wave: Any, share: Any) -> Any:
        """How far apart the kinetic energies of a wave are [1/time], but for modes with less than a share of its norm in all."""
        modes = self.basis.analyse(wave)
        held = (modes.real**2 + modes.imag**2) / self.basis.squares
        there = held > share**2 * jnp.mean(held)
        most = jnp.max(jnp.where(there, self.kinetic, -jnp.inf)) - jnp.min(jnp.where(there, self.kinetic, jnp.inf))
        return jnp.maximum(most, 0.0)

    def forces(self, t: Any) -> Any:
        """The most that V and Γ change a wave by in a unit of time, but for its phase; not known where V varies."""
        if not self.steady:
            return jnp.asarray(jnp.inf)
        potential = self.potential(t)
        faded = 0.0 if self.absorption is None else jnp.max(self.absorption)
        return jnp.max(potential) - jnp.min(potential) + faded

    @property
    def kicked(self) -> np.ndarray:
        """Which of `kicks` are those of a step `(12,)`."""
        return _KICKED if self.steady else np.arange(_STAGES + 1)

    def kicks(self, t: Any, h: Any) -> Any:
        """The factors of a step from t on `(6, *cells)`, or `(12, *cells)` where V varies."""
        shares = jnp.asarray(_KICKS, h.dtype)
        if self.steady:
            potential = self.potential(t)
            return jax.vmap(lambda share: self._kick(potential, share * h))(shares[:6])
        return jax.vmap(lambda t, share: self._kick(self.potential(t), share * h))(_clock(t, h), shares)

    def _kick(self, potential: Any, h: Any) -> Any:
        turned = turn(potential * h)
        return turned if self.absorption is None else turned * jnp.exp(-self.absorption * h)

    def drifts(self, h: Any) -> Any:
        """The factors of a step `(6, *modes)`."""
        return jax.vmap(lambda share: turn(self.kinetic * (share * h)))(jnp.asarray(_DRIFTS[:6], h.dtype))

    def stepper(self, h: Any) -> Callable[[Any, Any], Any]:
        """(t, ψ) ↦ ψ after a step of length h, ψ `(…, *cells)`."""
        drifts = self.drifts(h)
        known = self.kicks(jnp.zeros_like(h), h) if self.steady else None

        def step(t: Any, wave: Any) -> Any:
            kicks = self.kicks(t, h) if known is None else known

            def stage(wave: Any, row: Any) -> Any:
                kick, drift = row
                return self.basis.synthesise(drifts[drift] * self.basis.analyse(kicks[kick] * wave)), None

            rows = jnp.asarray(self.kicked[:-1]), jnp.asarray(_DRIFTED)
            return kicks[self.kicked[-1]] * jax.lax.scan(stage, wave, rows)[0]

        return step


def _clock(t: Any, h: Any) -> Any:
    """When a step from t on kicks `(12,)`, kept off its ends: V may jump there, and the value would be that of the other side."""
    edge = jax.lax.stop_gradient(jnp.minimum(16 * jnp.finfo(h.dtype).eps * (jnp.abs(t) + h), h / 4))
    return t + jnp.clip(jnp.asarray(_CLOCK, h.dtype) * h, edge, h - edge)


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
    and the most that `watch` makes `(m,)` of a wave after every step.

        e^{−ihb₁₁V} Π e^{−ihaⱼT} e^{−ihbⱼV}

    The error of two steps is that against one of twice their length; as steps keep the norm, errors add up at most. Between kicks a wave
    turns so little that it passes nothing unseen. What is more than `most` steps in all is not followed; `least` are taken
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
    share = jnp.maximum(tolerance / 4, 64 * float(jnp.finfo(durations.dtype).eps)).astype(durations.dtype)
    free = parts.forces(starts[0]) * whole <= share
    slowest = jnp.maximum(jnp.where(free, _FREE / whole, 0.0), least).astype(durations.dtype)
    look = lambda wave: jnp.append(watch(wave), jnp.where(free, 0.0, parts.band(wave, share))).astype(durations.dtype)

    def stretch(carry: Any, row: Any) -> Any:
        wave, pace, taken, error, watched = carry
        start, duration = row
        allowed = tolerance * duration / whole

        def again(state: Any) -> Any:
            count, tries = state[0], state[-1]
            end, error, seen = _looked_at(parts, start, duration / count, count, wave, allowed, look)
            apart = seen[-1] * duration / count / _BAND
            error = jnp.where(apart > 1, jnp.maximum(error, allowed * apart**_ORDER), error)
            ratio = (error / jnp.maximum(allowed, jnp.finfo(durations.dtype).tiny)) ** (1 / _ORDER)
            wanted = _whole(_asked(count, jnp.clip(_SPARE * ratio, _SPARE, _MORE)))
            wanted = jnp.where(jnp.isfinite(ratio), wanted, count * _MORE)
            return jnp.where(error <= allowed, count, wanted), end, error, ratio, seen, tries + 1

        def short(state: Any) -> Any:
            count, _, error, _, _, tries = state
            return ~(error <= allowed) & (tries < _TRIES) & (taken + count <= most)

        first = _whole(duration * pace)
        begin = (first, wave, jnp.full_like(error, jnp.inf), jnp.ones_like(error), watched, 0)
        count, end, missed, ratio, seen, _ = jax.lax.while_loop(short, again, begin)
        less = _asked(count, jnp.clip(_SPARE * ratio, _LESS, 1.0)) / jnp.where(duration > 0, duration, 1.0)
        pace = jnp.where(duration > 0, jnp.maximum(less, slowest), pace)
        return (end, pace, taken + count, error + missed, jnp.maximum(watched, seen)), (end, count)

    size = jnp.zeros((), durations.dtype)
    watched = look(wave)
    # A try that fails costs as much as one that holds, where few cells are followed in one go.
    likely = _LIKELY[parts.steady] / whole if wave.size <= _CELLS // _PAIRS else 0.0
    first = (wave, jnp.maximum(watched[-1] / _BAND, jnp.maximum(slowest, likely)), size, size, watched)
    (_, _, _, error, watched), (waves, counts) = jax.lax.scan(stretch, first, (starts, durations))
    return waves, counts, error, watched[:-1]


def _asked(count: Any, factor: Any) -> Any:
    """How many steps an error asks for. That of two is held to be all that double steps are off: half as many would do of known order."""
    return count * factor * jnp.where(count > 2, 1.0, 0.5)


def _whole(asked: Any) -> Any:
    """Two steps, of which nothing tells the order, or an even number from four on."""
    return jnp.where(asked <= 1, 2.0, jnp.maximum(2.0 * jnp.ceil(asked / 2.0 - 1e-3), 4.0))


def _looked_at(
    parts: Parts, start: Any, h: Any, count: Any, wave: Any, allowed: Any, watch: Callable[[Any], Any]
) -> tuple[Any, Any, Any]:
    """The wave after an even number of steps, their error, of the norm, what it would be at this pace where more than is allowed,
    and what was watched."""
    noise = 16 * float(jnp.finfo(h.dtype).eps)
    step, double, fourfold = (parts.stepper(k * h) for k in (1, 2, 4))
    size = lambda wave: jnp.sqrt(jnp.sum(jnp.real(wave) ** 2 + jnp.imag(wave) ** 2))
    of = jnp.maximum(size(wave), jnp.finfo(h.dtype).tiny)
    most = max(2, min(_PAIRS, _CELLS // wave.size // 2 * 2))

    def pairs(state: Any) -> Any:
        done, wave, error, seen = state
        here = jnp.minimum(count - done, 2 * most)

        def one(i: Any, waves: Any) -> Any:
            return waves.at[i + 1].set(step(start + (done + i) * h, waves[i]))

        waves = jnp.zeros((2 * most + 1, *wave.shape), wave.dtype).at[0].set(wave)
        waves = jax.lax.fori_loop(0, here.astype(int), one, waves)

        def off(k: int, step: Callable[[Any, Any], Any]) -> Any:
            """How far steps k times as long lead elsewhere, one after the other, zero beyond the last."""
            first = k * jnp.arange(2 * most // k, dtype=h.dtype)
            begun = start + (done + jnp.minimum(first, jnp.maximum(here - k, 0.0))) * h  # V is asked for nowhere else
            found = jax.vmap(size)(jax.vmap(step)(begun, waves[:-1:k]) - waves[k::k]) / of
            return jnp.where(first + k <= here, found, 0.0)

        twice, four = off(2, double), jnp.sum(off(4, fourfold))
        paired = jnp.sum(jnp.where(jnp.arange(most) < 2 * jnp.floor(here / 4), twice, 0.0))
        # Where errors go as hᵖ, the two are as 2ᵖ + 1 to one, and an error of steps is 1/(2ᵖ − 1) of what double steps are off.
        # Of an order less than is seen: over noise steps gain less than double steps did, and erred by twice as much.
        seen_ratio = jnp.minimum(four / jnp.where(paired > 0, paired, 1.0) - 2.0, 2.0**_ORDER - 1)
        ratio = jnp.maximum((seen_ratio - 1) / 2, _LEAST)
        missed = jnp.sum(jnp.maximum(twice - noise, 0.0) / jnp.where(paired > 0, ratio, 1.0))
        seen = jnp.maximum(seen, jnp.max(jax.vmap(watch)(waves[1:]), axis=0))
        return done + here, waves[here.astype(int)], error + missed, seen

    begin = (jnp.zeros_like(count), wave, jnp.zeros_like(h), watch(wave))
    good = lambda state: (state[0] < count) & (state[2] <= allowed)
    done, wave, error, seen = jax.lax.while_loop(good, pairs, begin)
    if parts.absorption is None:  # roundoff of transforms leans one way: 10⁵ of them add 1e-12 to the norm
        wave = wave * (of / jnp.maximum(size(wave), jnp.finfo(h.dtype).tiny))
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
    kick_shares = jnp.asarray(_KICKS, h.dtype)
    last_first = parts.kicked[:0:-1], _DRIFTED, *(jnp.asarray(x[::-1], h.dtype) for x in (_KICKS[1:], _DRIFTS))

    def potentials(i: Any, parts: Parts, start: Any, h: Any) -> Any:
        return jax.vmap(parts.potential)(_clock(start + i * h, h))

    def back(i: Any, carry: Any) -> Any:
        both, kinetic, turned, totals, by_start, by_h = carry
        i = count - 1 - i.astype(h.dtype)
        kicks = known if known is not None else jnp.conj(parts.kicks(start + i * h, h))

        def stage(carry: Any, row: Any) -> Any:
            both, kinetic, turned = carry
            kick, drift, kick_share, drift_share = row
            passed = product(both)
            modes = basis.analyse(kicks[kick] * both)
            kinetic = kinetic + drift_share * product(modes)
            by_all = (turned + kick_share * passed, None) if parts.steady else (turned, passed)
            return (basis.synthesise(drifts[drift] * modes), kinetic, by_all[0]), by_all[1]

        (both, kinetic, turned), passed = jax.lax.scan(stage, (both, kinetic, turned), last_first)
        if parts.steady:
            turned = turned + kick_shares[0] * product(both)
        else:
            by_kicks = jnp.concatenate([product(both)[None], passed[::-1]])
            by_kicks = kick_shares.reshape(-1, *(1,) * ndim) * by_kicks
            each_potential, of = _vjp(partial(potentials, i), parts, start, h)
            more, to_start, to_h = of(h * by_kicks)
            totals = jax.tree.map(jnp.add, totals, more)
            by_start, by_h = by_start + to_start, by_h + to_h + jnp.sum(by_kicks * each_potential)
        return kicks[0] * both, kinetic, turned, totals, by_start, by_h

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
