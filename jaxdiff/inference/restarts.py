"""Starts from which the data cannot be seen: a coarse scan for a better one."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import numpy as np

from jaxdiff.inference.run import Run, SearchResult

DECADES = np.arange(-6, 7)  # around the start of a positive or free number
LOGITS = np.arange(-4.0, 5.0)  # of a bounded one
TRIED = 2  # best places of a scan from which a fit sets out
FAINT = 1e-6  # share of the loss that a step of order one has to change, where there are no error bars
LITTLE, MUCH = 0.03, 5.0  # of a cell, of the domain: spread over all times, or before the first, that tells nothing
GAIN = 1e-3  # share of the loss by which another optimum has to be better


def blind(run: Run, outcome: SearchResult, values: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Which parameters the data tell nothing about where a fit has ended: their error bars span decades, all between the
    bounds, or far more than their scale."""
    transform, here = run.parameters.transform, outcome.here
    if here is None or run.paths:
        return np.zeros(len(values), bool)
    kind, scale, width = (np.asarray(part) for part in (transform.kind, transform.scale, transform.width))
    if not np.isfinite(errors).any():
        return np.diag(np.asarray(here.curvature)) < FAINT * abs(float(here.value))
    most = np.where(
        kind == 1, 1.5 * np.abs(values), np.where(kind == 2, width / 4, np.maximum(np.abs(values), 10 * scale))
    )
    return ~(errors < most)


def elsewhere(
    run: Run, outcome: SearchResult, seen: np.ndarray, fit: Callable[[Run], SearchResult]
) -> tuple[Run, SearchResult] | None:
    """A fit from the best of a scan, by the program that is compiled already, where it ends at a lower loss; else None.

    Each parameter that is not seen is moved over decades, alone and all together, from the start and from where the fit ended.
    seen: (p,), whether the data tell of each parameter; fit: what minimises
    """
    other, found = copy(run), []
    hidden = [int(i) for i in np.flatnonzero(~seen)]
    for base in (np.asarray(run.start, float), outcome.z):
        for moved in [[i] for i in hidden] + ([hidden] if len(hidden) > 1 else []):
            found += [(_value(other, place), place) for place in _places(run, base, moved)]
    best, least = None, np.inf
    for _, place in sorted((one for one in found if np.isfinite(one[0])), key=lambda one: one[0])[:TRIED]:
        again = copy(run)
        again.start = place
        try:
            ended = fit(again)
        except ValueError:
            continue
        if ended.here is not None and ended.here.value < least:
            best, least = (again, ended), float(ended.here.value)
    loss = float(outcome.here.value) if outcome.here is not None else np.inf
    return best if least < loss - GAIN * abs(loss) else None


def told(run: Run, other: Run, seen: np.ndarray) -> str:
    """What was done about a start, in words."""
    values = [np.asarray(run.parameters.transform(z), float) for z in (run.start, other.start)]
    parts = [
        [
            f"{label} = {value:.3g}"
            for label, value, good in zip(run.parameters.labels, x, seen, strict=True)
            if not good
        ]
        for x in values
    ]
    return f"from the start {', '.join(parts[0])} the data cannot be seen; started from {', '.join(parts[1])} instead, the best of a scan"


def _places(run: Run, base: np.ndarray, moved: list[int]) -> list[np.ndarray]:
    """z at all places of a scan over these coordinates."""
    kind, limit = np.asarray(run.parameters.transform.kind), np.asarray(run.parameters.transform.limit)
    places = []
    for k, decade in enumerate(DECADES):
        z = base.copy()
        for i in moved:
            z[i] = {0: z[i] * 10.0**decade, 1: z[i] + decade * np.log(10), 2: LOGITS[min(k, len(LOGITS) - 1)]}[
                int(kind[i])
            ]
        places.append(np.clip(z, -limit, limit))
    return places


def _value(run: Run, z: np.ndarray) -> float:
    """The loss at z, NaN where it cannot be had."""
    try:
        here = run.around(z)
        if not here.resolved.all():
            run.prepare(z)
            here = run.around(z)
    except ValueError:
        return np.nan
    return float(here.value) if here.resolved.all() else np.nan


def units(run: Run, z: np.ndarray) -> str | None:
    """A question where a diffusivity does nothing at all over the times of the data, or all there is to do before them."""
    x = np.asarray(run.parameters.transform(z), float)
    equation, _ = run.objective.unpack(run.parameters.rebuild(x))
    diffusivity = getattr(equation, "diffusivity", None)
    if not isinstance(diffusivity, (np.ndarray, float)) or np.ndim(diffusivity) or not diffusivity > 0:
        return None
    for m in (m for m in run.measurements if m.on_cells):
        after = m.times[np.isfinite(m.times) & (m.times > m.start)] - m.start
        if not len(after):
            continue
        cell = min(float(np.diff(edges).max()) for edges in m.grid.edges)
        whole = max(float(np.ptp(edges)) for edges in m.grid.edges)
        spread = np.sqrt(2 * float(diffusivity) * after[[int(after.argmax()), int(after.argmin())]])
        ask = "are the units of length and time those of the grid?"
        if spread[0] < LITTLE * cell:
            return f"over the times given D = {float(diffusivity):.3g} spreads {spread[0] / cell:.1g} of a cell; {ask}"
        if spread[1] > MUCH * whole:
            return f"before the first time D = {float(diffusivity):.3g} spreads {spread[1] / whole:.2g} times the domain; {ask}"
    return None
