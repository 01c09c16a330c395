"""Tracks in a harmonic trap, or free at any times, with localisation noise and motion blur: the Kalman filter."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

_NEAR = 0.5  # of zero, where functions are summed as series
_TERMS = 18


def _series(direct: Any, coefficients: Any, z: Any) -> Any:
    """A function that is smooth at zero, and given there by its series."""
    near = jnp.abs(z) < _NEAR
    small, large = jnp.where(near, z, 0.0), jnp.where(near, 1.0, z)
    return jnp.where(near, jnp.polyval(jnp.array(coefficients[::-1]), small), direct(large))


def phi(z: Any) -> Any:
    """(1 − e⁻ᶻ)/z, the mean of e⁻ᶻᵗ over 0 … 1."""
    return _series(lambda z: -jnp.expm1(-z) / z, [(-1) ** n / math.factorial(n + 1) for n in range(_TERMS)], z)


def psi(z: Any) -> Any:
    """(1 − φ(z))/z."""
    direct = lambda z: (1 + jnp.expm1(-z) / z) / z
    return _series(direct, [(-1) ** n / math.factorial(n + 2) for n in range(_TERMS)], z)


def _blur(z: Any) -> Any:
    """[z − 2(1 − e⁻ᶻ) + (1 − e⁻²ᶻ)/2]/z³, of the variance of a mean over an exposure."""
    direct = lambda z: (z + 2 * jnp.expm1(-z) - jnp.expm1(-2 * z) / 2) / z**3
    return _series(direct, [(-1) ** n * (2.0 - 2.0 ** (n - 1)) / math.factorial(n) for n in range(3, _TERMS + 5)], z)


def _drag(z: Any) -> Any:
    """[(1 − e⁻ᶻ) − (1 − e⁻²ᶻ)/2]/z², of the covariance of that mean with the end."""
    direct = lambda z: (jnp.expm1(-2 * z) / 2 - jnp.expm1(-z)) / z**2
    return _series(direct, [(-1) ** n * (2.0 ** (n - 1) - 1.0) / math.factorial(n) for n in range(2, _TERMS + 4)], z)


class Filtered(NamedTuple):
    """Of every frame but the first of each track, in lanes (frames, lanes): log density, innovation over its deviation, and position."""

    log_density: Any
    innovation: Any
    position: Any


class FilteredTracks(eqx.Module):
    """The log densities of tracks dX = f dt + √(2D) dW, f linear in X, at any times, seen with noise and blur.

        yᵢ = (1/τ) ∫ X dt over the exposure (tᵢ − τ, tᵢ) + s ηᵢ,  p(y₁ … | y₀) from a flat prior

    Tracks stand end to end in lanes as long as the longest; a filter starts anew at the first frame of each.

    position, interval, first: (frames, lanes) y from the centre of its track, the time since the frame before, whether a track
    begins; track: of which track a frame is; frames: (m,) where those of all tracks are in the lanes laid end to end, less
    first ones; owner: (m,) their tracks; centres: (tracks,)
    """

    position: Any
    interval: Any
    first: Any
    track: Any
    frames: Any
    owner: Any
    centres: Any

    @classmethod
    def of(cls, times: tuple[np.ndarray, ...], positions: tuple[np.ndarray, ...]) -> FilteredTracks:
        lanes = packed([len(t) for t in times])
        shape = max(len(t) for t in times), len(lanes)
        position, interval, first = np.zeros(shape), np.ones(shape), np.ones(shape, bool)
        track, number = np.zeros(shape, int), np.arange(np.prod(shape)).reshape(shape)
        centres = np.array([y.mean() for y in positions])
        frames: list[Any] = [None] * len(times)
        for lane, members in enumerate(lanes):
            at = 0
            for i in members:
                rows = slice(at, at := at + len(times[i]))
                position[rows, lane] = positions[i] - centres[i]
                interval[rows, lane][1:] = np.diff(times[i])
                first[rows, lane][1:] = False
                track[rows, lane], frames[i] = i, number[rows, lane][1:]
        owner = np.repeat(np.arange(len(times)), [len(t) - 1 for t in times])
        return cls(position, interval, first, track, np.concatenate(frames), owner, centres)

    def log_densities(self, force: Any, rate: Any, diffusivity: Any, variance: Any, exposure: Any) -> Any:
        """(tracks,); force: (tracks,) f at the centres [length/time]; rate: k = −f′ [1/time]; variance: s² [length²]."""
        each = self.filtered(force, rate, diffusivity, variance, exposure).log_density.ravel()[self.frames]
        return jax.ops.segment_sum(each, self.owner, len(self.centres), indices_are_sorted=True)

    def at(self, position: Any) -> FilteredTracks:
        """The same frames at other positions (frames, lanes), from the same centres."""
        return eqx.tree_at(lambda tracks: tracks.position, self, position)

    def innovations(self, *numbers: Any) -> Any:
        """(m,) of all frames but first ones, track by track, standard normal where the model is right."""
        return self.filtered(*numbers).innovation.ravel()[self.frames]

    def drawn(self, normal: Any, *numbers: Any) -> Any:
        """Positions (frames, lanes) of tracks drawn anew from their first frames on; normal: as many random numbers."""
        force, rate, diffusivity, variance, exposure = numbers
        return self.filtered(force, rate, diffusivity, variance, exposure, normal).position

    def filtered(
        self, force: Any, rate: Any, diffusivity: Any, variance: Any, exposure: Any, normal: Any = None
    ) -> Filtered:
        """Between frames x moves freely, then over the exposure, whose mean and end are correlated.

        normal: innovations that are given, of tracks that are drawn, None where positions are
        """
        rest = jnp.where(self.first, 0.0, self.interval - exposure)
        decay, push, noise = _moved(rate, rest)
        keep, shift, drawn = _moved(rate, jnp.asarray(exposure))
        z = rate * exposure
        mean, late = phi(z), exposure * psi(z)  # of the exposure: the weight of its start, and of the force
        own = 2 * diffusivity * exposure * _blur(z) + variance
        drag = 2 * diffusivity * exposure * _drag(z)
        drawn = diffusivity * drawn
        ratio = keep / mean
        unknown = ratio**2 * own - 2 * ratio * drag + drawn
        forces = force[self.track]

        def step(carry: Any, part: Any) -> Any:
            m, P = carry
            y, first, decay, push, noise, force, score = part
            m, P = decay * m + push * force, decay**2 * P + diffusivity * noise
            S, C = mean**2 * P + own, keep * mean * P + drag
            expected = mean * m + late * force
            if normal is not None:
                y = jnp.where(first, y, expected + jnp.sqrt(S) * score)
            left = y - expected
            S = jnp.where(first, 1.0, S)
            gain = C / S
            m_next = jnp.where(first, ratio * (y - late * force), keep * m + gain * left) + shift * force
            P_next = jnp.where(first, unknown, keep**2 * P + drawn - gain * C)
            score = jnp.where(first, 0.0, left) / jnp.sqrt(S)
            value = -0.5 * (jnp.log(2 * jnp.pi * S) + score**2)
            return (m_next, P_next), Filtered(value, score, y)

        lanes = jnp.zeros(self.position.shape[1])
        parts = (self.position, self.first, decay, push, noise, forces, self.position if normal is None else normal)
        return jax.lax.scan(step, (lanes, lanes), jax.tree.map(jnp.asarray, parts))[1]


def _moved(rate: Any, duration: Any) -> tuple[Any, Any, Any]:
    """What is left of a start, what a force adds, and the noise over D, after a time."""
    return jnp.exp(-rate * duration), duration * phi(rate * duration), 2 * duration * phi(2 * rate * duration)


def packed(lengths: list[int]) -> list[list[int]]:
    """Tracks end to end in lanes, none longer than the longest: the numbers of those in each lane."""
    longest = max(lengths)
    lanes: list[list[int]] = []
    room: dict[int, list[int]] = {}  # lanes by what is left in them
    for i in np.argsort(lengths, kind="stable")[::-1]:
        size = lengths[i]
        left = next((left for left in range(size, longest + 1) if room.get(left)), None)
        if left is None:
            lanes.append([])
            lane, left = len(lanes) - 1, longest
        else:
            lane = room[left].pop()
        lanes[lane].append(int(i))
        room.setdefault(left - size, []).append(lane)
    return lanes
