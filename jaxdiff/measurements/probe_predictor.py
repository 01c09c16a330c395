"""What a probe reads of the states at the times of readings, made ready for compiled code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.schemes import FiniteVolume, semidiscrete
from jaxdiff.integration.options import SolverOptions
from jaxdiff.measurements.predictor import Prediction, RowsPredictor
from jaxdiff.measurements.probes import Probe
from jaxdiff.measurements.states_at_times import states_at_times
from jaxdiff.model.arguments import one_number
from jaxdiff.model.coefficients import jumps
from jaxdiff.runtime.conditions import check

# Gauss and Kronrod's rule on [−1, 1], the weights of Gauss at every other node. Piessens et al., QUADPACK (1983), qk15.
_HALF = np.array([0.991455371120812639206854697526329, 0.949107912342758524526189684047851, 0.864864423359769072789712788640926,
    0.741531185599394439863864773280788, 0.586087235467691130294144691693013, 0.405845151377397166906606412076961,
    0.207784955007898467600689403773245])  # fmt: skip
_NODES = np.concatenate([-_HALF, [0.0], _HALF[::-1]])
_KRONROD = np.array([0.022935322010529224963732008058970, 0.063092092629978553290700663189204, 0.104790010322250183839876322541518,
    0.140653259715525918745189590510238, 0.169004726639267902826583426598550, 0.190350578064785409913256402421014,
    0.204432940075298892414161999234649, 0.209482141084727828012999174891714])[[*range(8), *range(6, -1, -1)]]  # fmt: skip
_GAUSS = np.array([0.129484966168869693270611432679082, 0.279705391489276667901467771423780, 0.381830050505118944950369775488975,
    0.417959183673469387755102040816327])[[*range(4), *range(2, -1, -1)]]  # fmt: skip

_CLOSE = 1e-11  # of the peak: the flux between two cells is their difference times D/h, and so is its error
_MARGIN = 6  # octaves by which the fastest rate may grow while it is fitted
_MOST = 60  # octaves after a jump
_KINK = 3  # octaves after a kink
_MISSED = 1e-6  # of what has passed, by which the two rules may differ


class Stretches(NamedTuple):
    """Stretches of time, over which a rule of quadrature goes: half their lengths `(p,)`, and how many of them come before
    each reading `(m,)`."""

    half: Any
    before: Any


class ProbePredictor(RowsPredictor):
    """The predictor of readings by a probe.

    time, row: (m,) of each reading, or of the nodes of all stretches, and which of the states; stretches: of what has passed
    """

    time: Any
    probe: Probe
    stretches: Stretches | None

    def predict(self, equation: Any, initial: Any) -> Prediction:
        values, checks, fine = self._values(equation, initial)
        if self.stretches is None:
            return Prediction(values, checks, fine)
        each, (half, before) = values.reshape(-1, len(_NODES)), self.stretches
        dot = partial(jnp.matmul, precision="highest")
        parts, coarse = half * dot(each, _KRONROD), half * dot(each[:, 1::2], _GAUSS)
        passed = jnp.concatenate([jnp.zeros(1, parts.dtype), jnp.cumsum(parts)])
        missed = jnp.sum(jnp.abs(parts - coarse)) / jnp.maximum(jnp.max(jnp.abs(passed)), jnp.finfo(parts.dtype).tiny)
        limit = _MISSED if passed.dtype == jnp.float64 else 1e-3
        message = "a cumulated flux changes too fast between readings, the integral misses {value} of it; take more stretches="
        found = check([(message, missed > limit, jnp.zeros(()), missed)], checks.needed)
        return Prediction(passed[before], checks + found, fine)

    def _values(self, equation: Any, initial: Any) -> Any:
        """What the probe reads at `time`."""
        at, grid = self.states_at_times, self.states_at_times.grid
        system = (
            semidiscrete(equation, grid, FiniteVolume())[0]
            if self.probe.of_rates
            else SimpleNamespace(grid=grid, operator_varies=False, at_centers=equation.wave)
        )
        value, nothing = partial(self.probe.value, system), jnp.zeros(grid.shape)
        if system.operator_varies or not self.probe.linear or (equation.wave and self.probe.of_rates):
            states, checks, fine = at(equation, initial)
            one = lambda t, u: one_number(value(t, u), u.real.dtype, self.probe.label)
            return jax.vmap(one)(jnp.asarray(self.time), states[self.row]), checks, fine
        time = jnp.where(jnp.isfinite(self.time), self.time, 0.0)  # at rest nothing depends on it
        weights = jax.grad(lambda u: value(time[0], u))(nothing)

        def observe(states: Any) -> Any:
            flat = states.reshape(*states.shape[: states.ndim - weights.ndim], -1)
            return jnp.matmul(flat, weights.reshape(-1, 1), precision="highest")

        seen, checks, fine = at(equation, initial, observe)
        offset = jax.vmap(lambda t: value(t, nothing))(time) if self.probe.of_rates else 0.0
        return seen[self.row, 0] + offset, checks, fine


def probed(
    readings: Any, equation: Any, initial: Any, options: SolverOptions, padded: Callable[[Any], Any]
) -> dict[str, Any]:
    """The fields of a predictor that are not those of all readings; padded: a column of their rows."""
    probe, stretches, times = readings.probe, None, readings.times
    if probe.cumulative:
        times, stretches = _laid_out(readings, equation)
        stretches = stretches._replace(before=padded(stretches.before))
    same = {name: getattr(readings, name) for name in ("grid", "initial", "start")}
    wanted = SimpleNamespace(**same, times=times, phase=0 if probe.of_rates else readings.phase)
    scheme = options.scheme
    if probe.of_rates and scheme is not None and (scheme.in_modes or scheme.order != 2):
        raise ValueError(
            f"{probe.label} reads fluxes and walls as finite volumes of order 2 have them, got {scheme}; leave scheme= away"
        )
    if probe.of_rates and options.tolerance is None:
        in_time = semidiscrete(equation, readings.grid, FiniteVolume())[0].time_dependence()
        options = options if any(map(bool, in_time)) else replace(options, tolerance=_CLOSE)
    states, row = states_at_times(wanted, equation, initial, options, as_they_are=not probe.of_shape)
    by_row = (lambda column: column) if probe.cumulative else padded
    found = {"states_at_times": states, "row": by_row(row), "time": by_row(times)}
    return found | {"probe": probe, "stretches": stretches}


def _laid_out(readings: Any, equation: Any) -> tuple[np.ndarray, Stretches]:
    """The nodes of all stretches, in order."""
    start, times = readings.start, np.unique(readings.times)
    if not np.isfinite(times[-1]):
        raise ValueError("what has passed by a time of inf is infinite, or known from the start; drop those rows")
    if times[-1] <= start:
        raise ValueError(f"nothing has passed by the start, {start:g}, got no later reading; give readings after it")
    system = semidiscrete(equation, readings.grid, FiniteVolume())[0]
    rate, last = float(system.operator(start).bound()), float(times[-1])
    within = lambda found: [float(t) for one in found for t in np.ravel(np.asarray(one)) if start < float(t) < last]
    sharp, all_ = {start, *within(jumps(equation, kinks=False))}, within(system.jumps)
    breaks = np.unique([*sharp, *all_, last])
    edges = [times[times > start], breaks]
    for begin, end in zip(breaks[:-1], breaks[1:], strict=True):
        span = end - begin
        octaves = int(np.clip(np.ceil(np.log2(max(span * rate, 1.0))) + _MARGIN, 1, _MOST)) if begin in sharp else _KINK
        edges.append(begin + span * 0.5 ** np.arange(1, octaves + 1))
    ends = np.unique(np.concatenate(edges))
    ends = ends[np.diff(ends, prepend=-np.inf) > 1e-12 * (last - start)]
    parts = readings.probe.stretches
    ends = np.interp(np.arange((len(ends) - 1) * parts + 1) / parts, np.arange(len(ends)), ends)
    half = np.diff(ends) / 2
    nodes = (ends[:-1] + half)[:, None] + half[:, None] * _NODES
    return nodes.ravel(), Stretches(half, np.searchsorted((ends[1:] + ends[:-1]) / 2, readings.times))
