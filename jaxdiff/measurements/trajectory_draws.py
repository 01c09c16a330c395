"""Paths, tracks and paths of states drawn anew from a fitted model, in the design of those that were measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.schemes import FiniteVolume, semidiscrete
from jaxdiff.integration.options import AUTOMATIC
from jaxdiff.measurements import paths_predictor
from jaxdiff.measurements.track_dynamics import OTHER, terms
from jaxdiff.measurements.tracks import Localisation, along, noise_of, states_of
from jaxdiff.runtime.compilation import bucket, quick_jit
from jaxdiff.simulation.ito import Ito
from jaxdiff.simulation.simulate import simulate
from jaxdiff.transition.free import even

if TYPE_CHECKING:
    from jaxdiff.measurements.trajectory import Trajectory

ASTRAY = 0.1  # of the error bar that a path gives of D, by which the steps of drawn paths may move its variance
MOST = 1000  # of these steps within an interval
PLACES = 256  # along a path, where its coefficients are looked at
ROUNDS = 20  # in which paths that ended are drawn again
JUMPS = 10_000_000  # of paths of states, in all

Draw = Callable[
    [np.ndarray, np.ndarray, Any], Any
]  # (n, d) starts, (T,) times, key -> (n, T, d), NaN of what has ended


class Drawn(NamedTuple):
    """Paths drawn anew, a measurement for each repeat, and what a reader must know of them."""

    sets: list[Trajectory]
    notes: tuple[str, ...] = ()


def drawn(one: Trajectory, fit: Any, repeats: int, rng: np.random.Generator, kind: str) -> Drawn:
    """Paths that start where those observed do, at their times, seen as they were."""
    if kind != "parametric":
        raise ValueError("paths have no residuals to draw from, got kind='residual'; take kind='parametric'")
    equation = fit.equation_of(one)
    with jax.enable_x64(True):
        if one.grid.discrete and one.continuous:
            return Drawn(_jumps(one, equation, repeats, rng))
        if one.initial is not None:
            fitted = next(model.initial for m, model in zip(fit.measurements, fit.models, strict=True) if m is one)
            return _tracks(one, equation, float(noise_of(fitted)), repeats, rng)
        draw, notes = _euler(one, equation) if one.density == "euler" else _simulated(one, equation)
        starts = np.stack([np.reshape(x[0], -1) for x in one.positions])
        found, lost = _alive(one, np.broadcast_to(starts, (repeats, *starts.shape)), draw, equation, rng)
    return Drawn([_measured(one, [x[i] for x in found]) for i in range(repeats)], notes + lost)


def _measured(one: Trajectory, positions: list[np.ndarray]) -> Trajectory:
    """positions: (n, d) of each path"""
    flat = (lambda x: x[:, 0]) if one.grid.ndim == 1 else (lambda x: x)
    return one.of([(t, flat(x)) for t, x in zip(one.times, positions, strict=True)])


def _alive(
    one: Trajectory, starts: np.ndarray, draw: Draw, equation: Any, rng: np.random.Generator
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """[(repeats, n, d) of each path] from starts (repeats, paths, d), and a note where some had ended and were drawn again.

    Paths of equal times are drawn together; regular ones as long as the next size, so that few programs are compiled.
    """
    repeats, _, d = starts.shape
    found = [np.empty((repeats, len(t), d)) for t in one.times]
    again = 0
    for times, members in _alike(one.times, shift=one.grid.discrete or not _depends_on_time(equation)):
        repeat, path = map(np.ravel, np.meshgrid(np.arange(repeats), members, indexing="ij"))
        for _ in range(ROUNDS):
            begin = starts[repeat, path]
            padded = np.concatenate([begin, np.repeat(begin[:1], bucket(len(begin), 16) - len(begin), 0)])
            key = jax.random.key(int(rng.integers(2**31)))
            with np.errstate(all="ignore"):
                x = np.asarray(draw(padded, times, key), float)[: len(begin)]
            lengths = np.array([len(one.times[i]) for i in path])
            within = np.arange(len(times)) < lengths[:, None]
            ended = (np.isnan(x).any(2) & within).any(1)
            for i in np.flatnonzero(~ended):
                found[path[i]][repeat[i]] = x[i, : lengths[i]]
            repeat, path = repeat[ended], path[ended]
            if not len(repeat):
                break
            again += len(repeat)
        else:
            raise ValueError(
                f"paths that are drawn end before their last time, killed, absorbed or off the grid, {ROUNDS} times in a row; cut the paths into shorter ones"
            )
    if not again:
        return found, ()
    whole = repeats * len(one.times)
    return found, (
        f"{again} paths beside {whole} ended before their last time, killed, absorbed or off the grid, and were drawn again, as those that were measured had not",
    )


def _alike(times: tuple[np.ndarray, ...], shift: bool) -> list[tuple[np.ndarray, list[int]]]:
    """(times, the numbers of the paths that are drawn at them); shift: whether time itself is of no account."""
    groups: dict[Any, list[int]] = {}
    for i, t in enumerate(times):
        regular = len(t) > 2 and even(t)
        interval = float(f"{(t[-1] - t[0]) / (len(t) - 1):.9e}")
        key = (interval, bucket(len(t), 16)) if regular else (t - t[0] * shift).tobytes()
        groups.setdefault((key, None if shift or not regular else float(t[0])), []).append(i)
    found = []
    for members in groups.values():
        longest = max((times[i] for i in members), key=len)
        own = longest - longest[0] if shift else longest
        more = bucket(len(own), 16) - len(own)
        step = (own[-1] - own[0]) / (len(own) - 1)
        found.append((np.concatenate([own, own[-1] + step * np.arange(1, more + 1)]), members))
    return found


def _depends_on_time(equation: Any) -> bool:
    return any(map(paths_predictor.depends_on_time, states_of(equation)))


def _simulated(one: Trajectory, equation: Any) -> tuple[Draw, tuple[str, ...]]:
    if one.grid.discrete:
        return lambda start, times, key: _last(simulate(equation, start, times, len(start), key, grid=one.grid)), ()
    substeps, notes = _substeps(one, equation)
    grid = one.grid if equation.transport().boundaries is not None else None

    def draw(start: np.ndarray, times: np.ndarray, key: Any) -> Any:
        return _last(simulate(equation, start, times, len(start), key, substeps, grid=grid))

    return draw, notes


def _last(x: Any) -> Any:
    return x[..., None] if np.ndim(x) == 2 else x


def _substeps(one: Trajectory, equation: Any) -> tuple[int, tuple[str, ...]]:
    """Steps within an interval whose bias is a tenth of an error bar, and a note where that would be too many.

    Heun's step Δ errs by (kΔ)²/4 in the variance at rest of a drift of slope −k, by ρΔ/2 where ρ = (d√(2D)/dx)², and in time by
    what coefficients bend within it.
    """
    ndim, ito = one.grid.ndim, Ito(equation, one.grid, one.grid.ndim)
    start, begin = one.starts.reshape(-1, ndim), np.concatenate([t[:-1] for t in one.times])
    kept = np.unique(np.linspace(0, len(start) - 1, PLACES).astype(int))
    kept = np.union1d(kept, [f(start[:, k]) for k in range(ndim) for f in (np.argmin, np.argmax)])
    longest, n = float(one.durations.max()), len(start)
    bound = ASTRAY * np.sqrt(2 / n)
    along = lambda D: jnp.diagonal(D) if D.ndim == 2 else D

    def look(t: Any, x: Any) -> Any:
        amplitude = lambda x: jnp.sqrt(jnp.maximum(2 * along(ito.diffusivity(t, x)), 0.0))
        ahead = lambda f: jnp.stack([f(t), f(t + longest / 2), f(t + longest)])
        varies = ahead(lambda t: ito.drift(t, x)), ahead(lambda t: along(ito.diffusivity(t, x)))
        return jax.jacfwd(lambda x: ito.drift(t, x))(x), jax.jacfwd(amplitude)(x), amplitude(x), *varies

    with jax.enable_x64(True):
        slope, steep, amplitude, drift, D = map(
            np.asarray, jax.vmap(look)(jnp.asarray(begin[kept]), jnp.asarray(start[kept]))
        )
    largest = lambda each: float(np.max(np.nan_to_num(each, posinf=0.0)))
    k, rho = (largest(np.sqrt(np.sum(one**2, (1, 2)))) for one in (slope, steep))
    wanted = [longest * k / 2 / np.sqrt(bound), longest * rho**2 / 2 / bound]
    bend = lambda f: np.abs(f[:, 1] - (f[:, 0] + f[:, 2]) / 2)
    with np.errstate(all="ignore"):
        pushed = largest(bend(drift) * np.sqrt(longest) / amplitude) * np.sqrt(n) / ASTRAY
        spread = largest(bend(D) / 3 / D.mean(1)) / bound
    wanted += [np.sqrt(pushed), np.sqrt(spread)]
    substeps = int(np.clip(np.ceil(max(wanted)), 1, MOST))
    if max(wanted) <= MOST:
        return substeps, ()
    step = longest / substeps
    off = max((step * k) ** 2 / 4, step * rho**2 / 2)
    return substeps, (
        f"paths are drawn in steps of {step:.2g}, which move their variance by up to {100 * off:.2g} %; of longer intervals than coefficients are alike in, take the spread with care",
    )


def _euler(one: Trajectory, equation: Any) -> tuple[Draw, tuple[str, ...]]:
    """By the normal steps that the fit took for the law of the path."""
    dynamics, _ = paths_predictor.dynamics_of(one, equation)
    edges = one.grid.edges[0]
    periodic = equation.sides(one.grid)[0].periodic
    sides = float(edges[0]), float(edges[-1])

    def draw(start: np.ndarray, times: np.ndarray, key: Any) -> Any:
        noise = jax.random.normal(key, (len(times) - 1, len(start)), float)
        return _STEPS[periodic](dynamics, sides, start[:, 0], np.stack([times[:-1], times[1:]], 1), noise)

    return draw, ()


def _euler_steps(periodic: bool, dynamics: Any, sides: Any, start: Any, times: Any, noise: Any) -> Any:
    lower, upper = sides

    def step(x: Any, part: Any) -> Any:
        (begin, end), z = part
        at = jnp.where(jnp.isnan(x), start, x)[:, None]
        n = len(at)
        _, drift, twice, _ = dynamics.traced(jnp.full(n, begin), at, jnp.zeros((n, 1, 1)))
        span = end - begin
        new = x + drift[:, 0] * span + jnp.sqrt(twice[:, 0, 0] * span) * z
        new = lower + jnp.mod(new - lower, upper - lower) if periodic else new
        new = jnp.where((new >= lower) & (new <= upper), new, jnp.nan)
        return new, new

    start = jnp.asarray(start)
    _, found = jax.lax.scan(step, start, (jnp.asarray(times), noise))
    return jnp.concatenate([start[None], found]).T[..., None]


_STEPS = {kind: quick_jit(partial(_euler_steps, kind)) for kind in (False, True)}


def _tracks(one: Trajectory, equation: Any, noise: float, repeats: int, rng: np.random.Generator) -> Drawn:
    """Tracks from their first positions on: exact where the filter is Kalman's, else paths that are seen with noise."""
    states = states_of(equation)
    notes: tuple[str, ...] = ()
    columns = np.stack([np.concatenate([x.reshape(len(x), -1) for x in one.positions])] * repeats)
    seen, each = one.with_start(Localisation(np.asarray(noise))), []
    for state in states:
        found = columns.copy()
        for axis, of_axis in enumerate(terms(state, one.grid)):
            way = along(seen, state, of_axis, axis, AUTOMATIC, whole=True)
            if way.kind == OTHER:
                found[..., axis], more = _seen(one, state, noise, repeats, rng)
                notes += more
            else:
                key = jax.random.key(int(rng.integers(2**31)))
                found[..., axis] = _filtered(way, of_axis, noise, one.exposure or 0.0, key, repeats)
        each.append(found)
    shares = np.asarray(equation.all_shares) if len(states) > 1 else np.ones(1)
    lengths = [len(t) for t in one.times]
    which = np.repeat(rng.choice(len(states), (repeats, len(lengths)), p=shares / shares.sum()), lengths, axis=1)
    whole = np.select([(which == i)[..., None] for i in range(len(states))], each)
    cuts = np.cumsum(lengths)[:-1]
    sets = [_measured(one, np.split(positions, cuts)) for positions in whole]
    return Drawn(sets, tuple(dict.fromkeys(notes)))


def _filtered(way: Any, each: Any, noise: float, exposure: float, key: Any, repeats: int) -> np.ndarray:
    """(repeats, frames) of all tracks end to end, by the innovations of the filter."""
    lanes = way.uneven
    numbers = (*way.numbers(each), noise**2, exposure)
    normal = jax.random.normal(key, (repeats, *np.shape(lanes.position)), float)
    found = np.asarray(jax.vmap(lambda z: lanes.drawn(z, *numbers))(normal)) + lanes.centres[lanes.track]
    width = np.shape(lanes.position)[1]
    frames = np.split(lanes.frames, np.flatnonzero(np.diff(lanes.owner)) + 1)
    order = np.concatenate([np.append(own[0] - width, own) for own in frames])
    return found.reshape(repeats, -1)[:, order]


def _seen(
    one: Trajectory, equation: Any, noise: float, repeats: int, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(repeats, frames) of tracks of any drift on one axis: of paths from where the first position may have come from."""
    lower, upper = float(one.grid.edges[0][0]), float(one.grid.edges[0][-1])
    first = np.array([x[0] for x in one.positions])
    starts = np.full((repeats, len(first)), np.nan)
    for _ in range(ROUNDS):
        tried = first + noise * rng.normal(size=starts.shape)
        inside = np.isnan(starts) & (tried >= lower) & (tried <= upper)
        starts = np.where(inside, tried, starts)
    starts = np.where(np.isnan(starts), np.clip(first, lower, upper), starts)
    bare = one.with_start(None)
    draw, notes = _simulated(bare, equation)
    found, lost = _alive(bare, starts[..., None], draw, equation, rng)
    seen = [x[..., 0] + noise * rng.normal(size=x.shape[:2]) for x in found]
    for x, start in zip(seen, first, strict=True):
        x[:, 0] = start
    return np.concatenate(seen, axis=1), notes + lost


def _jumps(one: Trajectory, equation: Any, repeats: int, rng: np.random.Generator) -> list[Trajectory]:
    """Paths of states of which every jump is seen, over the same times; those that are lost from the states are drawn again."""
    gillespie = _Gillespie(semidiscrete(equation, one.grid, FiniteVolume())[0].operator(0.0))
    numbers = lambda x: np.ravel_multi_index(tuple(np.atleast_1d(x).astype(int)), one.grid.shape)
    starts = np.tile([numbers(x[0]) for x in one.positions], repeats)
    begin, end = (np.tile([t[k] for t in one.times], repeats) for k in (0, -1))
    left = np.arange(len(starts))
    found: dict[int, Any] = {}
    for _ in range(ROUNDS):
        parts = gillespie.paths(starts[left], begin[left], end[left], rng)
        found |= {int(i): part for i, part in zip(left, parts, strict=True) if part[1][-1] >= 0}
        left = np.array([i for i in left if i not in found], int)
        if not len(left):
            break
    else:
        raise ValueError(
            f"paths of states that are drawn are lost from them, killed or beyond the largest counts, {ROUNDS} times in a row; allow larger counts"
        )
    several = []
    for i in range(len(starts)):
        states = np.stack(np.unravel_index(found[i][1], one.grid.shape), 1)
        several.append((found[i][0], states[:, 0] if one.grid.ndim == 1 else states))
    n = len(one.times)
    return [one.of(several[i * n : (i + 1) * n]) for i in range(repeats)]


class _Gillespie:
    """Paths of states at constant rates, many at once, jump by jump."""

    def __init__(self, operator: Any):
        loss, count = np.asarray(operator.loss), len(operator.loss)
        if hasattr(operator, "jumps"):
            source, target, rates = map(np.asarray, operator.jumps)
        else:
            matrix = np.asarray(operator.rates) * (1 - np.eye(count))
            target, source = np.nonzero(matrix)
            rates = matrix[target, source]
        source, target = np.concatenate([source, np.arange(count)]), np.concatenate([target, np.full(count, -1)])
        rates, order = np.concatenate([rates, loss]), np.argsort(source, kind="stable")
        self.target, self.upto = target[order], np.append(0.0, np.cumsum(rates[order]))
        self.first, self.last = (np.searchsorted(source[order], np.arange(count), side) for side in ("left", "right"))

    def paths(self, starts: Any, begin: Any, end: Any, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        """(times, states) of each, from beginning to end; of those that are lost the last state is -1."""
        time, state, going, whole = begin.astype(float), starts.astype(int), np.arange(len(starts)), 0
        rows = [(going, time.copy(), state.copy())]
        while len(going):
            low, high = self.upto[self.first[state[going]]], self.upto[self.last[state[going]]]
            with np.errstate(divide="ignore", invalid="ignore"):
                time[going] += np.where(high > low, rng.exponential(size=len(going)) / (high - low), np.inf)
            jumps = time[going] < end[going]
            going, low, high = going[jumps], low[jumps], high[jumps]
            chosen = np.searchsorted(self.upto, low + rng.uniform(size=len(going)) * (high - low), "right") - 1
            state[going] = self.target[np.clip(chosen, self.first[state[going]], self.last[state[going]] - 1)]
            rows.append((going, time[going], state[going]))
            going, whole = going[state[going] >= 0], whole + len(going)
            if whole > JUMPS:
                raise ValueError(f"paths of states that are drawn jump more than {JUMPS} times; draw fewer of them")
        rows.append((np.arange(len(starts)), end.astype(float), state))
        path, times, states = (np.concatenate(column) for column in zip(*rows, strict=True))
        order = np.argsort(path, kind="stable")
        cuts = np.searchsorted(path[order], np.arange(1, len(starts)))
        return list(zip(np.split(times[order], cuts), np.split(states[order], cuts), strict=True))
