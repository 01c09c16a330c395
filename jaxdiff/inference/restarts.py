"""Better starts, by a coarse scan, where a fit ends at parameters that the data do not determine."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import numpy as np

from jaxdiff.inference.run import Run, SearchResult

DECADES = np.arange(-6, 7)  # around the start of a positive or free number
LOGITS = np.arange(-4.0, 5.0)  # of a bounded one
TRIED = 2  # best places of a scan from which a fit starts
LEAST_EFFECT = 1e-6  # share of the loss that a step of order one has to change, where there are no error bars
# Of a cell, of the domain: diffusion lengths over all times, or before the first, without effect.
LITTLE, MUCH = 0.03, 5.0
GAIN = 1e-3  # share of the loss by which another optimum has to be better


def undetermined(run: Run, outcome: SearchResult, values: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Find parameters that the data do not determine where a fit has ended, a mask (p,): their error bars span decades, all
    between the bounds, or far more than their scale."""
    transform, here = run.parameters.transform, outcome.here
    if here is None or run.paths:
        return np.zeros(len(values), bool)
    kind, scale, width = (np.asarray(part) for part in (transform.kind, transform.scale, transform.width))
    if not np.isfinite(errors).any():
        return np.diag(np.asarray(here.curvature)) < LEAST_EFFECT * abs(float(here.value))
    free = np.maximum(np.abs(values), 10 * scale)
    return ~(errors < np.where(kind == 1, 1.5 * np.abs(values), np.where(kind == 2, width / 4, free)))


def better_fit(
    run: Run, outcome: SearchResult, undetermined: np.ndarray, fit: Callable[[Run], SearchResult]
) -> tuple[Run, SearchResult] | None:
    """A fit from the best of a scan, by the program that is compiled already, where it ends at a lower loss; else None.

    Each undetermined parameter is moved over decades, alone and all together, from the start and from where the fit ended.
    undetermined: mask (p,); fit: what minimises
    """
    other, scanned = copy(run), []
    moved = [int(i) for i in np.flatnonzero(undetermined)]
    for base in (np.asarray(run.start, float), outcome.z):
        for some in [[i] for i in moved] + ([moved] if len(moved) > 1 else []):
            scanned += [(_loss(other, z), z) for z in _scan(run, base, some)]
    best, least = None, np.inf
    for _, z in sorted((one for one in scanned if np.isfinite(one[0])), key=lambda one: one[0])[:TRIED]:
        again = copy(run)
        again.start = z
        try:
            ended = fit(again)
        except ValueError:
            continue
        if ended.here is not None and ended.here.value < least:
            best, least = (again, ended), float(ended.here.value)
    loss = float(outcome.here.value) if outcome.here is not None else np.inf
    return best if least < loss - GAIN * abs(loss) else None


def describe(run: Run, other: Run, undetermined: np.ndarray) -> str:
    """A note on the start that was replaced."""
    texts = []
    for z in (run.start, other.start):
        x = np.asarray(run.parameters.transform(z), float)
        texts.append(", ".join(f"{run.parameters.labels[i]} = {x[i]:.3g}" for i in np.flatnonzero(undetermined)))
    return f"from the start {texts[0]} the data cannot be seen; started from {texts[1]} instead, the best of a scan"


def _scan(run: Run, base: np.ndarray, moved: list[int]) -> list[np.ndarray]:
    """z at all places of a scan over some coordinates."""
    kind, limit = np.asarray(run.parameters.transform.kind), np.asarray(run.parameters.transform.limit)
    places = []
    for k, decade in enumerate(DECADES):
        z = base.copy()
        for i in moved:
            free, logarithm, logit = z[i] * 10.0**decade, z[i] + decade * np.log(10), LOGITS[min(k, len(LOGITS) - 1)]
            z[i] = (free, logarithm, logit)[int(kind[i])]
        places.append(np.clip(z, -limit, limit))
    return places


def _loss(run: Run, z: np.ndarray) -> float:
    """The loss at z, NaN where it cannot be had."""
    try:
        here = run.around(z)
        if not here.resolved.all():
            run.prepare(z)
            here = run.around(z)
    except ValueError:
        return np.nan
    return float(here.value) if here.resolved.all() else np.nan


def unit_warning(run: Run, z: np.ndarray) -> tuple[str, ...]:
    """A question about units where a diffusivity does nothing at all over the times of the data, or all there is to do before them."""
    x = np.asarray(run.parameters.transform(z), float)
    equation = run.objective.unpack(run.parameters.rebuild(x))[0].equation
    diffusivity = getattr(equation, "diffusivity", None)
    if not isinstance(diffusivity, (np.ndarray, float)) or np.ndim(diffusivity) or not diffusivity > 0:
        return ()
    for m in (m for m in run.measurements if m.on_cells):
        after = m.times[np.isfinite(m.times) & (m.times > m.start)] - m.start
        if not len(after):
            continue
        cell = min(float(np.diff(edges).max()) for edges in m.grid.edges)
        whole = max(float(np.ptp(edges)) for edges in m.grid.edges)
        longest, shortest = (np.sqrt(2 * float(diffusivity) * time) for time in (after.max(), after.min()))
        ask = "are the units of length and time those of the grid?"
        if longest < LITTLE * cell:
            return (f"over the times given D = {float(diffusivity):.3g} spreads {longest / cell:.1g} of a cell; {ask}",)
        if shortest > MUCH * whole:
            return (
                f"before the first time D = {float(diffusivity):.3g} spreads {shortest / whole:.2g} times the domain; {ask}",
            )
    return ()
