"""Uncertainty of the parameters, error bars and what is not identified, from the curvature of the loss and the noise of the data."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxdiff.inference.loss import Expansion
from jaxdiff.parameters import Parameters

SINGULAR = 1e-11  # smallest eigenvalue of the information, as a correlation matrix, that still identifies something
INVOLVED = 1e-3  # share of a parameter in such a direction from which on it is not identified: data on which it has little effect hide it there
WEAK = 1e3  # ratio of the ends of a 95 % interval beyond which a positive number is hardly identified
TRADED = 0.95  # correlation of two estimates from which on each is three times less sure than if the other were known
NEAR = 12.0  # the logit from which on a bounded parameter counts as being at its bound: 6e-6 of the width


class Uncertainty(NamedTuple):
    """Error bars of the flat natural parameters, of one fit or with a leading axis of many: covariance (p, p), standard
    errors (p,), 95 % intervals (p, 2), what is wrong with each parameter (p,), and diagnostics of a single fit."""

    covariance: np.ndarray
    errors: np.ndarray
    intervals: np.ndarray
    at_bound: np.ndarray  # has run to the end of its range
    unidentified: np.ndarray
    weakly_identified: np.ndarray
    notes: tuple[str, ...] = ()


def uncertainty(
    parameters: Parameters,
    z: np.ndarray,
    here: Expansion | None,
    reason: str | None,
    sizes: np.ndarray,
    widening: Any = 1.0,
    freedom: float = np.inf,
    inputs: Any = 0.0,
    prior: Any = None,
) -> Uncertainty:
    """Standard errors by the delta method, intervals symmetric in z and mapped to the parameter.

        cov(z) = H⁻¹ V H⁻¹,  cov(x) = (dx/dz) cov(z) (dx/dz),  x(z ± q s.e.(z))

    H is the Gauss–Newton, Fisher or observed curvature, V the covariance that the noise gives the gradient; for a
    likelihood V = H. Where readings carry no sigma, their variance is that of the residuals over n − p and q a quantile
    of Student's t with n − p degrees of freedom; otherwise q is normal.

    here: the loss around z; reason: why there are no error bars, or None; sizes: (measurements,) how many readings
    of each have a variance to be estimated; widening: (measurements,) factors of its noise; freedom: at most so many
    degrees; inputs: what noise of measured inputs adds to the covariance of the gradient (p, p); prior: that of smooth fields, whose
    precision is in the curvature, so that the covariance is (H + λS)⁻¹, and whose effective degrees of freedom are taken for the number
    of parameters
    A parameter is not identified, and its error NaN, where a direction of vanishing curvature involves it.
    """
    count = len(z)
    if here is None:
        nothing = np.full((count, count), np.nan), np.full(count, np.nan), np.full((count, 2), np.nan)
        at_bound, fine = at_bounds(parameters, z[None], None)[0], np.zeros(count, bool)
        notes = (*diagnostics(parameters, z, at_bound), f"no error bars: {reason}")
        return Uncertainty(*nothing, at_bound, fine, fine, notes)
    batch = Expansion(*(np.asarray(part)[None] for part in here._replace(predictions=())))
    inputs = inputs if prior is None else inputs + prior.precision
    taken = None if prior is None else prior.freedom
    found = error_bars(parameters, z[None], batch, sizes[None], widening, freedom, inputs, taken)
    found = Uncertainty(*(part[0] for part in found[:-1]))
    estimated, fitted = int(np.sum(sizes)), count - int(found.at_bound.sum()) if taken is None else taken
    if reason is None and 0 < estimated <= fitted:
        reason = f"{estimated} readings do not leave a residual variance for {fitted:.3g} parameters; give sigma"
    elif reason is None and not np.isfinite(np.asarray(here.curvature, float)).all():
        reason = "the curvature of the loss is not finite"
    elif reason is None and not np.isfinite(np.asarray(here.noise, float)).all():
        reason = "the loss does not tell the noise of the data"
    if reason is None:
        negative = [
            parameters.labels[i] for i in np.flatnonzero(np.isnan(found.errors) & ~found.at_bound & ~found.unidentified)
        ]
        lost = [
            f"no error bar of {listed(negative)}: its variance came out negative, from the noise that the loss tells"
        ]
        said = diagnostics(parameters, z, *found[3:6])
        notes = said
        if prior is None:  # knots of one field go together
            notes = (*said, *_traded(parameters, found), *_directions(parameters, z, batch, sizes, found))
        return found._replace(notes=(*notes, *lost[: len(negative)]))
    nan: dict[str, Any] = {name: np.full_like(part, np.nan) for name, part in zip(found._fields[:3], found)}
    return found._replace(**nan, notes=(*diagnostics(parameters, z, found.at_bound), f"no error bars: {reason}"))


def error_bars(
    parameters: Parameters,
    z: np.ndarray,
    here: Expansion,
    sizes: np.ndarray,
    widening: Any = 1.0,
    most: Any = np.inf,
    inputs: Any = 0.0,
    taken: Any = None,
) -> Uncertainty:
    """The error bars of many fits at once: z (B, p); here, sizes and widening with the same leading axis; see `uncertainty`.

    They are NaN in a fit whose curvature is not finite or whose residuals leave no variance.
    """
    count = z.shape[1]
    at_bound = at_bounds(parameters, z, here)
    curvature, noise = np.asarray(here.curvature, float), np.asarray(here.noise, float)
    estimated, fitted = sizes.sum(1), count - at_bound.sum(1) if taken is None else np.full(len(z), taken)
    sound = np.isfinite(curvature).all((1, 2)) & ((estimated == 0) | (estimated > fitted))
    unidentified, inverse = _invert(np.where(sound[:, None, None], curvature, np.eye(count)), at_bound)
    freedom = np.minimum(np.where(estimated > 0, np.maximum(estimated - fitted, 1), np.inf), np.maximum(most, 1.0))
    variances = _variances(here, sizes, fitted) * np.asarray(widening) ** 2
    covariance_of_z = inverse @ (np.einsum("bm,bmij->bij", variances, noise) + inputs) @ inverse
    variance = np.diagonal(covariance_of_z, axis1=1, axis2=2)
    negative = variance < -1e-9 * np.abs(variance).max(axis=1, keepdims=True, initial=0.0)  # beyond roundoff
    known = ~at_bound & ~unidentified & ~negative & sound[:, None]
    both = known[:, :, None] & known[:, None]
    slope = parameters.transform.slope(z)
    covariance = np.where(both, covariance_of_z * slope[:, :, None] * slope[:, None], np.nan)
    deviation = np.where(known, np.sqrt(np.maximum(variance, 0.0)), np.nan)
    half_width = quantile(0.95, freedom)[:, None] * deviation
    limit = np.asarray(parameters.transform.limit)
    ends = [np.asarray(parameters.transform(np.clip(z + sign * half_width, -limit, limit)), float) for sign in (-1, 1)]
    intervals = np.sort(np.where(known[..., None], np.stack(ends, axis=2), np.nan), axis=2)
    weak = known & _weakly_identified(parameters, half_width, intervals)
    errors = np.abs(slope) * deviation
    return Uncertainty(covariance, errors, intervals, at_bound, unidentified & sound[:, None], weak)


def listed(names: Any, most: int = 6) -> str:
    """The first of several names or numbers, and how many there are."""
    return ", ".join(map(str, names[:most])) + (f", … ({len(names)} in all)" if len(names) > most else "")


def diagnostics(
    parameters: Parameters, z: np.ndarray, at_bound: np.ndarray, unidentified: Any = False, weak: Any = False
) -> tuple[str, ...]:
    """What a reader must know of the parameters of one fit."""
    labels, kind = parameters.labels, np.asarray(parameters.transform.kind)
    notes = []
    for i in np.flatnonzero(at_bound):
        upper = z[i] > 0
        end = f"its {'upper' if upper else 'lower'} bound" if kind[i] == 2 else "infinity" if upper else "zero"
        notes.append(f"{labels[i]} has run to {end}; the other error bars take it as given")
    named = lambda mask: [labels[i] for i in np.flatnonzero(np.broadcast_to(mask, at_bound.shape))]
    if missing := named(unidentified):
        mend = "fix one of them, or measure what tells them apart"
        if any(".energy." in name for name in missing):
            mend += "; of a potential the differences alone count, see help(jd.Spline)"
        notes.append(f"not identified by these data: {listed(missing)}; {mend}")
    if wide := named(weak):
        hardly = "is hardly identified: its interval spans" if len(wide) == 1 else "are hardly identified: they span"
        notes.append(f"{listed(wide)} {hardly} far more than the estimate; measure more, or fix it")
    return tuple(notes)


def _traded(parameters: Parameters, found: Uncertainty) -> tuple[str, ...]:
    """Which pairs of estimates nearly compensate each other, the closest first."""
    root = np.sqrt(np.diagonal(found.covariance))
    correlation = np.tril(np.nan_to_num(found.covariance / np.where(root > 0, root, np.nan) / root[:, None]), -1)
    pairs = np.argwhere(np.abs(correlation) > TRADED)
    if not len(pairs):
        return ()
    closest = sorted(pairs.tolist(), key=lambda pair: -abs(correlation[tuple(pair)]))
    named = lambda i, j: f"{parameters.labels[j]} and {parameters.labels[i]} (correlation {correlation[i, j]:.3g})"
    found_out = listed([named(i, j) for i, j in closest], 3)
    return (f"trade off against each other: {found_out}; fix one of them, or measure what tells them apart",)


def _variances(here: Expansion, sizes: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """(B, measurements) that residuals tell where they are to, else one."""
    estimated = sizes.sum(1)
    mean = np.where(sizes > 0, np.asarray(here.squares, float) / np.maximum(sizes, 1), 1.0)
    inflation = np.where(estimated > 0, estimated / np.maximum(estimated - fitted, 1), 1.0)
    return np.where(sizes > 0, mean * inflation[:, None], 1.0)


def _directions(
    parameters: Parameters, z: np.ndarray, here: Expansion, sizes: np.ndarray, found: Uncertainty
) -> tuple[str, ...]:
    """How many directions the data determine, in words, where it is not all; to a decade of a positive number, a quarter of what
    is between bounds, ten times the scale of a free one, and by noise that is independent."""
    if not (found.unidentified | found.weakly_identified).any():
        return ()
    kind, width = np.asarray(parameters.transform.kind), np.asarray(parameters.transform.width)
    inside = np.flatnonzero(~found.at_bound)
    slope = np.where(kind == 2, parameters.transform.slope(z), 1.0)
    unit = np.where(kind == 1, np.log(10), np.where(kind == 2, width / 4 / slope, 10.0))[inside]
    scaled = lambda matrix: unit[:, None] * matrix[np.ix_(inside, inside)] * unit
    variances = _variances(here, sizes[None], np.array([len(inside)]))[0]
    noise = scaled(np.einsum("m,mij->ij", variances, np.asarray(here.noise, float)[0]))
    curvature = scaled(np.asarray(here.curvature, float)[0])
    information = curvature * (np.trace(curvature) / np.trace(noise))
    if not np.isfinite(information).all():
        return ()
    count = int(np.sum(np.linalg.eigvalsh(information) > 1))
    return (f"{count} of {len(z)} directions are identified; along the others parameters may move by decades",)


def _weakly_identified(parameters: Parameters, half_width: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Whether an interval spans decades, nearly all between the bounds, or zero and many times the start."""
    kind, width = np.asarray(parameters.transform.kind), ends[..., 1] - ends[..., 0]
    free = width > 4 * np.maximum(np.abs(ends.mean(-1)), 10 * np.asarray(parameters.transform.scale))
    between = width > 0.95 * np.asarray(parameters.transform.width)
    return np.where(kind == 1, half_width > 0.5 * np.log(WEAK), np.where(kind == 2, between, free))


def at_bounds(parameters: Parameters, z: np.ndarray, here: Expansion | None) -> np.ndarray:
    """Which parameters have run to the end of their range."""
    kind, limit = np.asarray(parameters.transform.kind), np.asarray(parameters.transform.limit)
    flat = np.zeros(z.shape, bool)
    if here is not None:
        diagonal = np.diagonal(np.asarray(here.curvature), axis1=1, axis2=2)
        flat = diagonal < 1e-8 * np.abs(np.asarray(here.value, float))[:, None]
    gone = (kind == 1) & ((np.abs(z) >= limit) | ((np.abs(z) > 5) & flat))
    return gone | ((kind == 2) & (np.abs(z) > NEAR))


def _invert(curvature: np.ndarray, at_bound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(which parameters are not identified, the inverse with those directions and what is at a bound left out)."""
    diagonal = np.where(at_bound, 0.0, np.diagonal(curvature, axis1=1, axis2=2))
    least = np.maximum(diagonal.max(axis=1, initial=0.0), np.finfo(float).tiny)
    left_out = diagonal <= 1e-24 * least[:, None]
    scale = np.where(left_out, 1.0, np.sqrt(np.abs(diagonal)))
    scaled = curvature / scale[:, None] / scale[:, :, None]
    out = left_out[:, :, None] | left_out[:, None]
    values, vectors = np.linalg.eigh(np.where(out, left_out[:, None] * np.eye(at_bound.shape[1]), scaled))
    flat = values < SINGULAR
    unidentified = left_out | (flat[:, None] & (np.abs(vectors) > INVOLVED)).any(axis=2)
    parts = np.where(flat, 0.0, 1 / np.where(flat, 1.0, values))
    inverse = (vectors * parts[:, None]) @ np.swapaxes(vectors, 1, 2) / scale[:, None] / scale[:, :, None]
    return unidentified & ~at_bound, np.where(at_bound[:, :, None] | at_bound[:, None], 0.0, inverse)


def quantile(level: float, freedom: Any = None) -> Any:
    """Of the normal distribution, or of Student's t; freedom may be an array, inf where normal."""
    from scipy import special

    tail = 0.5 * (1 + level)
    freedom = np.asarray(np.inf if freedom is None else freedom, float)
    normal = np.isinf(freedom)
    return np.where(normal, special.ndtri(tail), special.stdtrit(np.where(normal, 1.0, freedom), tail))
