"""Error bars from the curvature of the loss and the noise of the data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxdiff.losses import Expansion
from jaxdiff.parameters import Parameters

SINGULAR = 1e-11  # smallest eigenvalue of the information, as a correlation matrix, that still identifies something

VAGUE = 1e3  # ratio of the ends of a 95 % interval beyond which a positive number is hardly identified
NEAR = 12.0  # the logit from which on a bounded parameter counts as being at its bound: 6e-6 of the width


class Uncertainty(NamedTuple):
    """Covariance of the flat natural parameters (p, p), their standard errors (p,), 95 % intervals (p, 2), and remarks."""

    covariance: np.ndarray
    errors: np.ndarray
    intervals: np.ndarray
    notes: tuple[str, ...]


def uncertainty(
    parameters: Parameters,
    z: np.ndarray,
    here: Expansion | None,
    reason: str | None,
    sizes: np.ndarray,
    level: float = 0.95,
) -> Uncertainty:
    """Standard errors by the delta method, intervals symmetric in z and mapped to the parameter.

        cov(z) = H⁻¹ V H⁻¹,  cov(x) = (dx/dz) cov(z) (dx/dz),  x(z ± q s.e.(z))

    H is the Gauss–Newton, Fisher or observed curvature, V the covariance that the noise gives the gradient; for a
    likelihood V = H. Where readings carry no sigma, their variance is that of the residuals over n − p and q a quantile
    of Student's t with n − p degrees of freedom; otherwise q is normal.

    here: the loss around z; reason: why there are no error bars, or None; sizes: (measurements,) how many readings
    of each have a variance to be estimated
    A parameter is not identified, and its error NaN, where a direction of vanishing curvature involves it.
    """
    count = len(z)
    labels = parameters.labels
    limit = np.asarray(parameters.transform.limit)
    covariance, errors, intervals = np.full((count, count), np.nan), np.full(count, np.nan), np.full((count, 2), np.nan)
    notes: list[str] = []
    held, words = _at_bounds(parameters, z, here)
    notes += [f"{labels[i]} {word}; the other error bars take it as given" for i, word in words]
    estimated, fitted = int(np.sum(sizes)), count - int(held.sum())
    for i in np.flatnonzero(held):
        bound = "upper" if z[i] > 0 else "lower"
        where = f"its {bound} bound" if parameters.transform.kind[i] == 2 else "the end of its range"
        notes.append(f"{labels[i]} has run to {where}; the other error bars take it as given")
    if reason is None and 0 < estimated <= fitted:
        reason = f"{estimated} readings do not leave a residual variance for {fitted} parameters; give sigma"
    if reason is not None or here is None:
        return Uncertainty(covariance, errors, intervals, (*notes, f"no error bars: {reason}"))
    curvature = np.asarray(here.curvature, float)
    if not np.isfinite(curvature).all():
        return Uncertainty(
            covariance, errors, intervals, (*notes, "no error bars: the curvature of the loss is not finite")
        )
    free = np.flatnonzero(~held)
    lost, inverse = _invert(curvature[np.ix_(free, free)])
    if lost.any():
        named = ", ".join(labels[i] for i in free[lost])
        notes.append(f"not identified by these data: {named}; fix one of them, or measure what tells them apart")
    freedom = estimated - fitted if estimated else None
    mean = np.where(sizes > 0, np.asarray(here.squares, float) / np.maximum(sizes, 1), 1.0)
    variances = np.where(sizes > 0, mean * (estimated / (freedom or 1)), 1.0)
    noise = np.einsum("m,mij->ij", variances, np.asarray(here.noise, float))[np.ix_(free, free)]
    spread = inverse @ noise @ inverse
    known = free[~lost]
    slope = parameters.transform.slope(z)
    inner = spread[np.ix_(~lost, ~lost)]
    covariance[np.ix_(known, known)] = inner * slope[known] * slope[known][:, None]
    deviation = np.sqrt(np.maximum(np.diag(inner), 0.0))
    errors[known] = np.abs(slope[known]) * deviation
    reach = np.zeros(count)
    reach[known] = quantile(level, freedom) * deviation
    ends = np.stack(
        [np.asarray(parameters.transform(np.clip(z + sign * reach, -limit, limit)), float) for sign in (-1, 1)], axis=1
    )
    intervals[known] = np.sort(ends[known], axis=1)
    vague = [labels[i] for i in known if _is_vague(parameters, i, float(reach[i]), intervals[i])]
    if vague:
        hardly = "is hardly identified: its interval spans" if len(vague) == 1 else "are hardly identified: they span"
        notes.append(f"{', '.join(vague)} {hardly} far more than the estimate; measure more, or fix it")
    return Uncertainty(covariance, errors, intervals, tuple(notes))


def _is_vague(parameters: Parameters, i: int, reach: float, ends: np.ndarray) -> bool:
    """Whether an interval spans decades, nearly all between the bounds, or zero and many times the start."""
    kind = int(parameters.transform.kind[i])
    if kind == 1:
        return reach > 0.5 * np.log(VAGUE)
    if kind == 2:
        return float(ends[1] - ends[0]) > 0.95 * float(parameters.transform.width[i])
    scale = float(parameters.transform.scale[i])
    return float(ends[1] - ends[0]) > 4 * max(abs(float(ends.mean())), 10 * scale)


def _at_bounds(
    parameters: Parameters, z: np.ndarray, here: Expansion | None
) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """Which parameters have run to the end of their range, and in words."""
    kind = np.asarray(parameters.transform.kind)
    at_bound = (kind == 2) & (np.abs(z) > NEAR)
    blind = (
        np.zeros(len(z), bool) if here is None else np.diag(np.asarray(here.curvature)) < 1e-8 * abs(float(here.value))
    )
    gone = (kind == 1) & ((np.abs(z) >= np.asarray(parameters.transform.limit)) | ((np.abs(z) > 5) & blind))
    words = [(int(i), f"has run to its {'upper' if z[i] > 0 else 'lower'} bound") for i in np.flatnonzero(at_bound)]
    words += [(int(i), f"has run to {'infinity' if z[i] > 0 else 'zero'}") for i in np.flatnonzero(gone)]
    return at_bound | gone, words


def _invert(curvature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(which parameters are not identified, the inverse with those directions left out)."""
    diagonal = np.diag(curvature)
    blind = diagonal <= 1e-24 * max(diagonal.max(initial=0.0), np.finfo(float).tiny)
    scale = np.where(blind, 1.0, np.sqrt(np.abs(diagonal)))
    values, vectors = np.linalg.eigh(
        np.where(blind[:, None] | blind, np.diag(blind.astype(float)), curvature / scale / scale[:, None])
    )
    flat = values < SINGULAR
    lost = blind | (np.abs(vectors[:, flat]) > 0.05).any(axis=1)
    parts = np.where(flat, 0.0, 1 / np.where(flat, 1.0, values))
    return lost, (vectors * parts) @ vectors.T / scale / scale[:, None]


def quantile(level: float, freedom: int | None) -> float:
    """Of the normal distribution, or of Student's t."""
    from scipy import special

    tail = 0.5 * (1 + level)
    return float(special.ndtri(tail) if freedom is None else special.stdtrit(freedom, tail))
