"""Densities of the steps of paths on several axes, or with coefficients of time: planned on the host, evaluated anywhere.

A step is one Gaussian (`closure`), or the integral over two, four or eight (`bridge`), whichever a trial finds enough: the values of
M and 2M pieces are compared on a sample. What counts is how far an estimate would be led astray. Where ε is the error of a log
density and s a score of unit variance, the estimate is off by Σεs/√n standard errors.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxdiff.runtime.compilation import bucket
from jaxdiff.transition.bridge import log_densities
from jaxdiff.transition.closure import Dynamics, moments
from jaxdiff.transition.near_walls import CLEAR, FLAT, Kinds, clearance, log_factor

ASTRAY = 0.25  # standard errors that the steps of a path may lead an estimate astray
FINEST = 0.003  # or of the standard deviation that one step gives, whichever is more
ROUGH, WORST = 0.1, 1.0  # nat, of the root mean square and of the largest error in a sample
EXACT, NEARLY = 2e-11, 3e-4  # nat a step, of Runge–Kutta steps where Gaussians are exact, and where they are not
SAMPLE = (1024, 256, 64)  # steps on which 1 and 2, 2 and 4, 4 and 8 pieces are compared
MOST_PARTS = 1024
MOST_BENT = 32  # parts that a drift that is not linear may ask for at the least: beyond, no four pieces are Gaussian, and a trial takes minutes
ROUNDS = 4  # ways round a periodic axis, each way
FAINT = 25.0  # nat, below which another way round is left out
LANES = 2**17  # Gaussians at once
MOVED = 0.4  # of drift and log D along a path, from which a plan is made anew


class Block(eqx.Module):
    """Steps that are computed alike, some of them repeated so that shapes are few; n steps on d axes, with s stretches of time."""

    time: Any  # (n, 2) start and end
    knot: Any  # (n, s - 1) which of the knots lie within, the number of knots for none
    start: Any  # (n, d)
    stop: Any  # (n, images, d) its end, and where that lies by other ways round
    seen: Any  # (n, images) 0, or -inf where there is no such way
    share: Any  # of the difference to half as many pieces, that is added
    drift: Any  # (n, d) and
    diffusivity: Any  # (n, d) at the start, where the plan was made
    pieces: int = eqx.field(static=True)
    parts: int = eqx.field(static=True)
    near: bool = eqx.field(static=True)  # whether walls are felt
    kind: tuple[int, ...] = eqx.field(
        static=True, default=()
    )  # of steps: the octave of how long they are, and what they meet


class StepsPlan(eqx.Module):
    """How the log densities of given steps are computed; made by `prepare`, a pytree."""

    blocks: tuple[Block, ...]
    order: Any  # (m,) where each step lies in the blocks laid end to end
    walls: Any  # (d, 2)
    knots: Any  # (k,) of the plan
    times: Any  # where steps begin and end, in their order; none without knots
    kinds: Kinds = eqx.field(static=True)


def log_density(dynamics: Dynamics, plan: StepsPlan, knots: Any = ()) -> tuple[Float[Array, " m"], Bool[Array, ""]]:
    """(log p(stop, duration | start) of each step [1/lengthᵈ], whether the plan resolves these coefficients); traceable.

    knots: (k,) [time] where coefficients jump or bend, as `prepare` took them
    """
    knots = jnp.append(jnp.asarray(knots, float), jnp.inf)
    values, flags = [], []
    for block in plan.blocks:
        n, d = block.start.shape
        values.append(_in_lanes(dynamics, block, plan, knots))
        _, drift, twice, _ = dynamics.traced(block.time[:, 0], block.start, jnp.zeros((n, d, d)))
        flags.append(_unmoved(block, drift, jnp.diagonal(twice, axis1=1, axis2=2) / 2))
    if len(plan.knots):
        flags.append(_same_order(plan, knots[:-1]))
    return jnp.concatenate(values)[plan.order], jnp.all(jnp.stack(flags))


def _in_lanes(dynamics: Dynamics, block: Block, plan: StepsPlan, knots: Any) -> Any:
    """log p of the steps of a block, so many at once as memory holds."""
    (n, d), images = block.start.shape, block.stop.shape[1]
    nodes = 1 if block.pieces == 1 else 3**d * (2 * 3**d) ** (block.pieces.bit_length() - 2)
    lanes = max(1, LANES // (images * nodes))
    if n <= lanes:
        return _of_block(jnp, dynamics, block, plan, knots)
    filled = lambda a: jnp.concatenate([a, jnp.repeat(a[-1:], -n % lanes, 0)]).reshape(-1, lanes, *a.shape[1:])
    each = jax.checkpoint(lambda rows: _of_block(jnp, dynamics, replace(block, **rows), plan, knots))
    return jax.lax.map(each, {name: filled(jnp.asarray(getattr(block, name))) for name in PER_STEP}).reshape(-1)[:n]


PER_STEP = ("time", "knot", "start", "stop", "seen")


def _of_block(xp: Any, dynamics: Dynamics, block: Block, plan: StepsPlan, knots: Any) -> Any:
    """log p of its steps (n,)."""
    n, images, d = block.stop.shape
    begin, end = block.time[:, :1], block.time[:, 1:]
    within = xp.minimum(xp.maximum(xp.asarray(knots)[block.knot], begin), end)
    stretches = xp.concatenate([begin, xp.sort(within, 1), end], 1)
    each = lambda a: xp.repeat(a, images, 0)
    rows = each(stretches), each(block.start), block.stop.reshape(-1, d)
    value = log_densities(xp, dynamics, *rows, block.pieces, block.parts)
    if block.pieces > 1 and block.share is not None:
        half = log_densities(xp, dynamics, *rows, block.pieces // 2, 2 * block.parts)
        value = value + block.share * (value - half)
    value = value.reshape(n, images)
    if images > 1:
        value = value + block.seen
        most = xp.max(value, 1)
        value = most + xp.log(xp.sum(xp.exp(value - most[:, None]), 1))
    else:
        value = value[:, 0]
    if block.near:
        time, place = xp.mean(block.time, 1), (block.start + block.stop[:, 0]) / 2
        steps = block.start, block.stop[:, 0], end[:, 0] - begin[:, 0]
        value = value + log_factor(xp, dynamics, time, place, steps, plan.kinds, plan.walls)[0]
    return value


def _unmoved(block: Block, drift: Any, diffusivity: Any) -> Any:
    """Whether coefficients along the path are near those of the plan."""
    span = (block.time[:, 1] - block.time[:, 0])[:, None]
    unit = jnp.sqrt(span / (2 * block.diffusivity))
    pushed, before = (jnp.mean(abs(f) * unit, 0) for f in (drift - block.drift, block.drift))
    scaled = jnp.mean(abs(jnp.log(jnp.where(diffusivity > 0, diffusivity, jnp.nan) / block.diffusivity)), 0)
    return jnp.all(pushed <= MOVED * before + 0.1 * MOVED) & jnp.all(scaled <= MOVED)


def _same_order(plan: StepsPlan, knots: Any) -> Any:
    """Whether knots lie in the steps that they lay in."""
    return jnp.all(jnp.searchsorted(plan.times, knots) == jnp.searchsorted(plan.times, jnp.asarray(plan.knots)))


def prepare(
    dynamics: Dynamics,
    time: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    kinds: Kinds,
    walls: np.ndarray,
    knots: np.ndarray,
    varying: bool,
    like: StepsPlan | None = None,
) -> StepsPlan:
    """Plan of the densities of steps, at concrete coefficients.

    time: (n, 2) [time] start and end; start, stop: (n, d) [length]; kinds: "reflecting", "absorbing" or "periodic", two of each axis;
    walls: (d, 2) [length]; knots: (k,) [time] where coefficients jump or bend; varying: whether coefficients depend on time; like: a plan of other steps of
    this kind, whose pieces and parts are taken without a trial

    Raises: ValueError where densities are not resolved by any number of pieces, or coefficients are not finite on the path.
    """
    n, d = start.shape
    duration = time[:, 1] - time[:, 0]
    _, drift, twice, _ = dynamics.on_host(time[:, 0], start, np.zeros((n, d, d)))
    diffusivity = np.diagonal(twice, axis1=1, axis2=2) / 2
    _check(drift, diffusivity, start, time)
    stops, seen = _ways_round(dynamics, time, start, stop, kinds, walls, drift, diffusivity)
    knot = _knots_within(time, knots)
    near = (
        clearance(start, stop, np.maximum(diffusivity, _along(dynamics, time[:, 1], stop)), duration, kinds, walls)
        < CLEAR
    )
    plan = StepsPlan((), np.arange(n), walls, knots, np.unique(time) if len(knots) else np.zeros(0), kinds)
    octave = np.floor(np.log(duration / duration.min() * (1 + 1e-9)) / np.log(4.0))
    key = np.stack([octave, near, (seen > -np.inf).sum(1) > 1, (knot < len(knots)).any(1)], 1)
    kinds_of_steps, group = np.unique(key, axis=0, return_inverse=True)
    known = {block.kind: block for block in (like.blocks if like is not None else ())}
    blocks, order, laid = [], np.zeros(n, int), 0
    for number in range(group.max() + 1):
        rows = np.flatnonzero(group.ravel() == number)
        ways, inner = int((seen[rows] > -np.inf).sum(1).max()), int((knot[rows] < len(knots)).sum(1).max(initial=0))
        whole = Block(
            time[rows], knot[rows, :inner], start[rows], stops[rows, :ways], seen[rows, :ways],
            None, drift[rows], diffusivity[rows], 1, 1, bool(near[rows[0]]), tuple(kinds_of_steps[number].astype(int).tolist()),
        )  # fmt: skip
        if (same := known.get(whole.kind)) is not None:
            chosen = replace(whole, pieces=same.pieces, parts=same.parts, share=same.share)
        else:
            chosen = _Trial(dynamics, whole, plan, n, varying).chosen()
        padded = np.concatenate([np.arange(len(rows)), np.zeros(bucket(len(rows)) - len(rows), int)])
        blocks.append(
            replace(chosen, **{name: getattr(chosen, name)[padded] for name in (*PER_STEP, "drift", "diffusivity")})
        )
        order[rows], laid = laid + np.arange(len(rows)), laid + len(padded)
    return replace(plan, blocks=tuple(blocks), order=order)


def _check(drift: np.ndarray, diffusivity: np.ndarray, start: np.ndarray, time: np.ndarray) -> None:
    wrong = ~(np.isfinite(drift).all(1) & np.isfinite(diffusivity).all(1) & (diffusivity > 0).all(1))
    if wrong.any():
        i = int(np.argmax(wrong))
        where = f"at {np.array2string(start[i], precision=4)}, time {time[i, 0]:.6g}"
        raise ValueError(
            f"a path needs a finite drift and a diffusivity above zero along all axes, got drift {np.array2string(drift[i], precision=4)} and D {np.array2string(diffusivity[i], precision=4)} {where}; check the coefficients, or bound what is fitted"
        )


def _along(dynamics: Dynamics, time: np.ndarray, place: np.ndarray) -> np.ndarray:
    n, d = place.shape
    return np.diagonal(dynamics.on_host(time, place, np.zeros((n, d, d)))[2], axis1=1, axis2=2) / 2


def _knots_within(time: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """(n, most) which knots lie within each step, the number of knots where there is none."""
    inside = (knots > time[:, :1]) & (knots < time[:, 1:])
    most = int(inside.sum(1).max(initial=0))
    found = np.argsort(~inside, axis=1, kind="stable")[:, :most]
    return np.where(np.take_along_axis(inside, found, 1), found, len(knots))


def _ways_round(
    dynamics: Dynamics, time: Any, start: Any, stop: Any, kinds: Kinds, walls: Any, drift: Any, diffusivity: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Ends (n, images, d) of each step by all ways round periodic axes that count, and 0 or -inf (n, images) whether each does."""
    n, d = start.shape
    around = [k for k in range(d) if kinds[2 * k] == "periodic"]
    if not around:
        return stop[:, None], np.zeros((n, 1))
    period = np.where([k in around for k in range(d)], walls[:, 1] - walls[:, 0], np.inf)
    duration = (time[:, 1] - time[:, 0])[:, None]
    with np.errstate(all="ignore"):
        _, mean, covariance = moments(np, dynamics, time, start, 4)
        spread = np.diagonal(covariance, axis1=1, axis2=2)
        fine = (np.isfinite(mean) & (spread > 0)).all(1)[:, None]
    mean, spread = np.where(fine, mean, start + drift * duration), np.where(fine, spread, 8 * diffusivity * duration)
    nearest = stop + np.where(np.isfinite(period), np.round((mean - stop) / period), 0.0) * np.where(
        np.isfinite(period), period, 0.0
    )
    shifts = np.zeros(((2 * ROUNDS + 1) ** len(around), d))
    shifts[:, around] = list(itertools.product(range(-ROUNDS, ROUNDS + 1), repeat=len(around)))
    ends = nearest[:, None] + shifts * np.where(np.isfinite(period), period, 0.0)
    away = -0.5 * np.sum((ends - mean[:, None]) ** 2 / spread[:, None], 2)
    away = away - away.max(1, keepdims=True)
    kept, outer = away > -FAINT, (abs(shifts) == ROUNDS).any(1)
    if (kept & outer).any():
        i = int(np.argmax((kept & outer).any(1)))
        raise ValueError(
            f"the step from time {time[i, 0]:.6g} to {time[i, 1]:.6g} may go round a periodic axis more than {ROUNDS - 1} times, which tells nothing of D; take shorter steps"
        )
    most = int(kept.sum(1).max())
    order = np.argsort(-away, axis=1, kind="stable")[:, :most]
    return np.take_along_axis(ends, order[..., None], 1), np.where(np.take_along_axis(kept, order, 1), 0.0, -np.inf)


_STIFF = "the drift changes what is {:.3g} times faster than steps of the path, which is beyond what is followed; take shorter steps, or bound what is fitted"


class _Trial:
    """How many pieces, and parts of each, the steps of one block want."""

    def __init__(self, dynamics: Dynamics, block: Block, plan: StepsPlan, total: int, varying: bool):
        self.dynamics, self.block, self.plan, self.varying = dynamics, block, plan, varying
        self.knots = np.append(plan.knots, np.inf)
        self.limit, self.random = max(ASTRAY / np.sqrt(total), FINEST), np.random.default_rng(0)

    def values(self, rows: np.ndarray, pieces: int, parts: int) -> np.ndarray:
        taken = {name: getattr(self.block, name)[rows] for name in PER_STEP}
        block = replace(self.block, **taken, share=None, pieces=pieces, parts=parts)
        with np.errstate(all="ignore"):
            return _of_block(np, self.dynamics, block, self.plan, self.knots)

    def chosen(self) -> Block:
        """The block with the least effort that serves; ValueError if none does."""
        d = self.block.start.shape[1]
        rows, scores, weights = self._sample(SAMPLE[0])
        least = self._least_parts(rows)
        twice = 2 * least if least > MOST_BENT else 16 * least
        linear = np.max(abs(self.values(rows[:64], 1, twice) - self.values(rows[:64], 2, twice // 2))) < 1e-6
        if least > MOST_BENT and not linear:
            raise ValueError(_STIFF.format(least))
        parts = self._parts(rows, 1, least, EXACT if linear else NEARLY)
        values = {1: self.values(rows, 1, parts), 2: self.values(rows, 2, max(parts // 2, 1))}
        unknown = self._walls(rows)
        if self._serves((values[1] - values[2]) * 4 / 3, unknown, scores, weights):
            return replace(self.block, parts=parts)
        for pieces, count in ((2, SAMPLE[1]), (4, SAMPLE[2])):
            if d == 3 and pieces > 2:
                break
            some, scores, weights = self._sample(count)
            each = self._parts(some[: 64 // pieces], pieces, max(parts // pieces, 1), NEARLY)
            whole = [self.values(some, m, max(each * pieces // m, 1)) for m in (pieces // 2, pieces, 2 * pieces)]
            one, two = whole[1] - whole[0], whole[2] - whole[1]
            fine = np.isfinite(one) & np.isfinite(two)
            ratio = float(np.sum(one[fine] * two[fine]) / max(np.sum(one[fine] ** 2), 1e-300))
            smooth = bool(fine.all() and 0.0 < ratio < 0.75)
            share = ratio / (1 - ratio) if smooth else 0.0
            error = (two + share * (two - one)) if smooth else two  # of what is extrapolated, against twice as many
            if self._serves(error, self._walls(some), scores, weights):
                return replace(self.block, pieces=pieces, parts=each, share=share if smooth else None)
        i = rows[int(np.argmax(np.nan_to_num(abs(values[1] - values[2]), nan=np.inf)))]
        begin, end = self.block.time[i]
        if self._walls(rows).max() > ROUGH:
            raise ValueError(
                f"the steps near a wall, as that from time {begin:.6g}, are not resolved: drift or D changes too much there; take shorter steps, or move walls that are never met away"
            )
        raise ValueError(
            f"the densities of steps as long as that from time {begin:.6g} to {end:.6g} are not resolved by {pieces} Gaussian pieces and twice as many; the coefficients change too much within a step: take shorter steps"
        )

    def _sample(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Some steps, those that leap farthest and are pushed most among them; scores (s, q) of unit variance; and the share of
        all steps (s,) that each stands for."""
        time, start, stop = self.block.time, self.block.start, self.block.stop[:, 0]
        span = (time[:, 1] - time[:, 0])[:, None]
        unit = np.sqrt(2 * self.block.diffusivity * span)
        leap = np.max(abs(stop - start - self.block.drift * span) / unit, 1)
        push = np.max(abs(self.block.drift) * span / unit, 1)
        few = max(count // 32, 1)
        special = np.unique(
            np.concatenate([np.argsort(-leap)[:few], np.argsort(-push)[:few], np.argsort(-span[:, 0])[:few]])
        )
        others = np.setdiff1d(np.arange(len(start)), special)
        rows = np.concatenate([special, self.random.permutation(others)])[:count]
        others_taken = max(len(rows) - len(special), 1)
        weights = np.where(np.arange(len(rows)) < len(special), 1.0, len(others) / others_taken) / len(start)
        z = (stop - start - self.block.drift * span)[rows] / unit[rows]
        z = np.clip(z / np.maximum(z.std(0), 1e-300), -6, 6)
        where = start[rows] - start[rows].mean(0)
        where = where / np.maximum(where.std(0), 1e-300)
        pairs = [
            z[:, i] * z[:, j] if i != j else (z[:, i] ** 2 - 1) / np.sqrt(2)
            for i in range(z.shape[1])
            for j in range(i + 1)
        ]
        first = np.concatenate([np.ones((len(rows), 1)), z, np.stack(pairs, 1)], 1)
        return rows, np.concatenate([first, *(first[:, 1:] * one[:, None] for one in where.T)], 1), weights

    def _least_parts(self, rows: np.ndarray) -> int:
        """Parts with which steps of Runge and Kutta are stable at the coefficients where steps begin."""
        time, start = self.block.time[rows], self.block.start[rows]
        n, d = start.shape
        J = self.dynamics.on_host(time[:, 0], start, np.zeros((n, d, d)))[3]
        stiff = np.max(np.sqrt(np.sum(J**2, (1, 2))) * (time[:, 1] - time[:, 0])) / 2
        if not stiff <= MOST_PARTS / 4:
            raise ValueError(_STIFF.format(stiff))
        return int(2 ** np.ceil(np.log2(max(stiff, 1.0))))

    def _parts(self, rows: np.ndarray, pieces: int, parts: int, tolerance: float) -> int:
        """Parts of each piece, from so many on, that agree with twice as many to a tolerance [nat], or as far as jumps let them."""
        rows = rows if self.varying and pieces == 1 else rows[:64]
        value, before, stuck = self.values(rows, pieces, parts), np.inf, 0
        while parts < MOST_PARTS // pieces**2:
            better = self.values(rows, pieces, 2 * parts)
            error = float(np.nan_to_num(np.mean(abs(value - better)), nan=np.inf))
            stuck = stuck + 1 if not error <= before / 4 or error == np.inf else 0
            if error <= tolerance or stuck == 3:
                break
            parts, value, before = 2 * parts, better, error
        return parts

    def _walls(self, rows: np.ndarray) -> np.ndarray:
        """(s,) what is not known of the factor that walls bring [nat]: how much it differs by where coefficients are taken."""
        if not self.block.near:
            return np.zeros(len(rows))
        time, start, stop = self.block.time[rows], self.block.start[rows], self.block.stop[rows, 0]
        steps, found = (start, stop, time[:, 1] - time[:, 0]), []
        with np.errstate(all="ignore"):
            for at, place in ((time[:, 0], start), (time[:, 1], stop), (time.mean(1), (start + stop) / 2)):
                found.append(log_factor(np, self.dynamics, at, place, steps, self.plan.kinds, self.plan.walls))
        logs, lost = np.stack([one for one, _ in found]), np.max([one for _, one in found], 0)
        wide = np.nan_to_num(np.max(logs, 0) - np.min(logs, 0), nan=np.inf)
        return np.where(lost > FLAT, np.inf, wide / 2)

    def _serves(self, error: np.ndarray, unknown: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> bool:
        """Whether errors (s,) lead no estimate astray, beyond the chance of the sample."""
        if not (np.isfinite(error).all() and np.isfinite(unknown).all()):
            return False
        whole = abs(error) + unknown
        if whole.max() > WORST or np.sqrt(weights @ whole**2) > ROUGH:
            return False
        each = error[:, None] * scores
        many = weights[-1] * len(self.block.start)  # steps that each one drawn stands for
        chance = 2 * np.sqrt(max(1 - 1 / many, 0.0) * (weights**2 @ each**2))
        astray = abs(weights @ each) - chance + weights @ (unknown[:, None] * abs(scores)) / 2
        return bool((astray <= self.limit).all())
