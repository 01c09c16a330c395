"""Waves: split steps as many as the error asks for, Chebyshev polynomials where they are fewer, and decay to the ground state."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.integration.method import Method, counted, room_for
from jaxdiff.operators import chebyshev, terms_needed, turned, turns_needed
from jaxdiff.operators.split_step import Parts, split

_TOLERANCE = 1e-9  # of the norm
_MOST_STEPS = 2**17
_MOST_TERMS = 2**17
_PRODUCTS = 10.0  # of Chebyshev that cost as much as a split step with its share of looks at the error
_GLIMPSES = 4096  # at a potential of time, over all the time
_LOOKS, _CELLS_LOOKED_AT = 17, 2**20  # between outputs, at the sum for all times; at most so many cells in all
_ROUNDOFF, _GROWN = 64, 1e-5  # of a sum and of the start, in last digits; which may have grown to so much of the wave
_FADES = 10.0  # logarithm by which a wave may fade in one sum in imaginary time: roundoff grows by as much


class SplitSteps(Method):
    """Blanes and Moan's steps of sixth order, in each stretch between outputs and jumps of the potential of one length.

    by_terms: whether Chebyshev is asked in their place where it is cheaper
    """

    tolerance: float = eqx.field(static=True)
    by_terms: bool = eqx.field(static=True)

    in_densities = all_or_none = in_modes = True

    def run(self, system: Any, times: Any, start: Any, *, observe: Any = None, sound: Any = True) -> Any:
        outputs, dtype = times[1:], start.real.dtype
        inside = [jnp.clip(jnp.ravel(j).astype(dtype), times[0], times[-1]) for j in system.jumps]
        ends = jnp.sort(jnp.concatenate([outputs, *inside])) if inside else outputs
        starts = jnp.concatenate([times[:1], ends[:-1]])
        durations, steady = ends - starts, not system.operator_varies
        operator = system.operator(times[0])
        potential = lambda t: operator.potential if steady else system.potential(t)
        potential = eqx.filter_closure_convert(potential, times[0])
        parts = Parts(operator.kinetic, potential, operator.absorption, operator.basis, steady)
        terms = turns_needed(operator, times[-1] - times[0], self.tolerance)
        most = jnp.minimum(terms / _PRODUCTS, _MOST_STEPS) if self.by_terms else jnp.asarray(_MOST_STEPS, dtype)
        tolerance = jnp.where(sound, self.tolerance, jnp.inf)
        least = 0.0 if steady else _changes(system.glimpse, times[0], times[-1], inside, self.tolerance)
        watch = lambda wave: system.watched(wave)
        waves, counts, error, watched = split(parts, starts, durations, start, tolerance, most, least, watch)
        taken = jnp.sum(counts)
        cheaper, good = self.by_terms & (taken > most), error <= tolerance
        jumps = "" if steady else " say when the potential jumps by where(t < …) in a jd.Expression,"
        found = [
            (f"the wave turns so often that {{value}} of its norm is in doubt after all steps that are taken; give more output times, take larger cells,{jumps} or check the potential and the units", ~cheaper & ~good, 0.0, error)
        ]  # fmt: skip
        waves = waves[jnp.searchsorted(ends, outputs, side="right") - 1]
        needed = jnp.concatenate([jnp.stack([1.0 + cheaper, taken]), watched]).astype(dtype)
        return waves, needed, [*found, *system.held(watched, good)]

    def describe(self, needed: Any = None) -> str:
        steps = "" if needed is None else f", {int(needed[1])} in all"
        return f"split steps of sixth order{steps}"

    def states_held(self, grid: Any, outputs: int, *, drift: bool = False, observed: bool = False) -> Any:
        return 120.0 + 4 * outputs, 60.0 + 4 * outputs

    @property
    def allowed(self) -> Any:
        return 1, np.inf

    def refined(self, needed: Any, times: Any, grid: Any = None) -> Method:
        return Turning(self.tolerance, 1024) if self.by_terms and counted(needed)[0] > 1 else self

    def unattended(self) -> Method:
        return replace(self, by_terms=False)


def _changes(potential: Any, start: Any, end: Any, jumps: list[Any], tolerance: float) -> Any:
    """How fast a potential of time (k,) changes, of what it changes by, between jumps that are known [1/time]: so many steps at
    least see a pulse between the times at which the steps before it look."""
    times = start + (end - start) * jnp.arange(_GLIMPSES + 1, dtype=start.dtype) / _GLIMPSES
    # Formed once: what is fused into the three sums over it is formed three times.
    values = jax.lax.optimization_barrier(jax.lax.stop_gradient(jax.vmap(potential)(times)))
    known = jnp.concatenate(jumps)[:, None] if jumps else jnp.zeros((0, 1), times.dtype)
    across = ((known >= times[:-1]) & (known <= times[1:])).any(axis=0)
    by = jnp.where(across[:, None], 0.0, jnp.abs(jnp.diff(values, axis=0)))
    span = jnp.max(values, axis=0) - jnp.min(values, axis=0)
    matters = span * (end - start) > tolerance
    share = jnp.max(jnp.where(matters, jnp.max(by, axis=0) / jnp.where(matters, span, 1.0), 0.0))
    return jax.lax.stop_gradient(share * _GLIMPSES / (end - start))


class Turning(Method):
    """One sum of Chebyshev polynomials of the energy for all times.

    capacity: polynomials at most
    """

    tolerance: float = eqx.field(static=True)
    capacity: int = eqx.field(static=True)

    in_densities = all_or_none = in_modes = True

    def run(self, system: Any, times: Any, start: Any, *, observe: Any = None, sound: Any = True) -> Any:
        operator, after = system.operator(times[0]), times[1:] - times[0]
        needed = turns_needed(operator, after[-1], self.tolerance)
        looks = max(2, min(_LOOKS, _CELLS_LOOKED_AT // start.size))
        between = after[-1] * jnp.arange(1, looks, dtype=after.dtype) / looks
        waves = turned(operator, jnp.concatenate([after, between]), start, terms=self.capacity, needed=needed)
        watched = jnp.max(jax.vmap(system.watched)(jax.lax.stop_gradient(waves)), axis=0)
        needed = jnp.concatenate([jnp.stack([jnp.ones_like(needed), needed]), watched])
        return waves[: len(after)], needed, system.held(watched, needed[1] <= self.capacity)

    def describe(self, needed: Any = None) -> str:
        return "Chebyshev" if needed is None else f"Chebyshev, {int(needed[1])} products"

    def states_held(self, grid: Any, outputs: int, *, drift: bool = False, observed: bool = False) -> Any:
        return 20.0 + 4 * outputs, 20.0 + 4 * outputs

    @property
    def allowed(self) -> Any:
        return np.inf, self.capacity

    def refined(self, needed: Any, times: Any, grid: Any = None) -> Method:
        terms = counted(needed)[1]
        if terms > _MOST_TERMS:
            raise ValueError(
                f"the times ask for {terms} products with the energy, more than are taken; shorten them, take larger cells, or check the units"
            )
        return self if terms <= self.capacity else replace(self, capacity=room_for(terms))

    def unattended(self) -> Method:
        return SplitSteps(self.tolerance, by_terms=False)


class Fading(Method):
    """Imaginary time: sums of Chebyshev polynomials, each over so long as leaves digits of what stays.

    capacity: polynomials of a sum at most; substeps: sums in an interval
    """

    capacity: int = eqx.field(static=True)
    substeps: int = eqx.field(static=True)

    in_densities = all_or_none = in_modes = True

    def run(self, system: Any, times: Any, start: Any, *, observe: Any = None, sound: Any = True) -> Any:
        operator = system.operator(times[0])
        least = jax.lax.stop_gradient(jnp.min(operator.potential))
        risen = eqx.tree_at(lambda h: h.potential, operator, operator.potential - least)
        eps = float(jnp.finfo(start.real.dtype).eps)
        size = lambda wave: jnp.sqrt(jnp.sum(jnp.abs(wave) ** 2))
        parts = start if jnp.iscomplexobj(start) else None
        still = jax.lax.stop_gradient(risen)
        noise = jax.random.normal(jax.random.key(0), start.shape, start.real.dtype)
        noise = noise * (jax.lax.stop_gradient(size(start)) / size(noise))
        wave = jnp.stack([start.real, start.imag]) if parts is not None else start[None]

        def one(operator: Any, dt: Any, wave: Any, terms: Any) -> Any:
            return chebyshev(operator, dt[None], wave, terms=self.capacity, needed=terms)[0]

        def interval(both: Any, duration: Any) -> Any:
            dt = duration / self.substeps
            terms = terms_needed(risen, dt, 2 * eps)[1]

            @jax.checkpoint
            def substep(both: Any, _: Any) -> Any:
                wave, noise = both
                new = jnp.stack([one(risen, dt, each, terms) for each in wave])
                other = one(still, jax.lax.stop_gradient(dt), noise, terms)
                fades = jax.lax.stop_gradient(-jnp.log(size(new) / size(wave)))
                good = (fades <= _FADES) & (terms <= self.capacity)
                all_ = new * jnp.exp(-least * dt), other * jax.lax.stop_gradient(jnp.exp(-least * dt))
                return jax.tree.map(partial(jnp.where, good), all_, both), fades

            both, fades = jax.lax.scan(substep, both, None, length=self.substeps)
            grown = _ROUNDOFF * eps * size(both[1]) / size(both[0])
            return both, (both[0], terms, jnp.max(fades), grown)

        _, (waves, terms, fades, grown) = jax.lax.scan(interval, (wave, noise), times[1:] - times[:-1])
        waves = waves[:, 0] if parts is None else jax.lax.complex(waves[:, 0], waves[:, 1])
        sizes = jax.lax.stop_gradient(jax.vmap(size)(waves))
        over = ~jnp.isfinite(sizes).all() | jnp.isnan(fades).any()  # its square is no number any more
        good = (jnp.max(fades) <= _FADES) | over
        # A wave fades at the rate of its energy above the bottom, which falls.
        energy = -jnp.sum((jnp.conj(start) * (risen @ start)).real) / jnp.maximum(size(start) ** 2, eps**2)
        fading = energy * jnp.max(times[1:] - times[:-1]) / _FADES
        wanted = jnp.clip(jnp.ceil(fading), 2.0 * self.substeps, 64.0 * self.substeps)
        substeps = jax.lax.stop_gradient(jnp.where(good, self.substeps, wanted))
        gone = "the wave fades to nothing in imaginary time, which leaves no ground state; add a constant to the potential, so that its lowest energy is near zero"
        lost = ~(jnp.min(jnp.max(jnp.abs(waves), axis=tuple(range(1, waves.ndim)))) > 0)
        grown = jax.lax.stop_gradient(jnp.max(grown))
        rounded = "roundoff may have grown to {value} of the wave, as the start has next to nothing of the ground state; shorten the time, start otherwise, or ask jd.spectrum for the modes; the lowest odd state is the ground state of half of the domain"
        beyond = "the wave grows beyond all numbers in imaginary time; add a constant to the potential, so that its lowest energy is near zero"
        found = [
            (gone, lost & good, 0.0, 0.0),
            (beyond, over, 0.0, 0.0),
            (rounded, good & (grown > max(_GROWN, 2**14 * eps)), 0.0, grown),
        ]
        watched = jnp.max(jax.vmap(system.watched)(jax.lax.stop_gradient(waves)), axis=0)
        found += system.held(watched, good & ~over)
        return waves, jnp.stack([substeps, jnp.max(terms)]).astype(start.real.dtype), found

    def describe(self, needed: Any = None) -> str:
        if needed is None:
            return "imaginary time: Chebyshev"
        return f"imaginary time: Chebyshev, {int(needed[1])} products in each of {int(needed[0])} parts of an interval"

    def states_held(self, grid: Any, outputs: int, *, drift: bool = False, observed: bool = False) -> Any:
        return 20.0 + 4 * outputs, 20.0 + 2.0 * self.substeps * outputs

    @property
    def allowed(self) -> Any:
        return self.substeps, self.capacity

    def refined(self, needed: Any, times: Any, grid: Any = None) -> Method:
        substeps, terms = counted(needed)
        if terms * substeps > _MOST_TERMS:
            raise ValueError(
                "imaginary time is so long that the wave fades by more than a number holds; shorten it, or ask jd.spectrum for the ground state"
            )
        if substeps <= self.substeps and terms <= self.capacity:
            return self
        return replace(
            self, substeps=room_for(max(substeps, self.substeps)), capacity=room_for(max(terms, self.capacity))
        )

    def unattended(self) -> Method:
        return replace(self, substeps=max(self.substeps, 16), capacity=max(self.capacity, 1024))


def of_waves(equation: Any, tolerance: float | None, varies: bool) -> Method:
    """How a wave is carried through time."""
    if equation.imaginary_time:
        return Fading(256, 1)
    by_terms = not varies and equation.absorption is None
    return SplitSteps(_TOLERANCE if tolerance is None else tolerance, by_terms)
