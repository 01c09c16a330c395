"""Smooth fields: the roughness of fitted splines as a part of the loss, and how strongly it counts, by REML.

    minus log L(z) + ½ Σₖ λₖ |rₖ(z)|²,   |rₖ|² = ∫ (c″)² dx

This is a Gaussian prior of the precision λₖ, whose marginal likelihood λ maximises: restricted maximum likelihood.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.inference.loss import Expansion
from jaxdiff.model.families import Spline, smooth_splines
from jaxdiff.parameters import plain
from jaxdiff.runtime.compilation import quick_jit

ROUNDS = 60  # of Newton's method for ln λ
SETTLED = 1e-7  # slope of the criterion by ln λ at which they end
LONGEST = 3.0  # step of ln λ
RANGE = np.log([1e-9, 1e9])  # of λ about the scale at which roughness counts as much as the data
STRAIGHT, ROUGH = 1e-2, 0.98  # share of the directions that bend which is left at an end of that range


class Smooth(NamedTuple):
    """How a field was smoothed.

    name: of its spline; strength: λ, in nats; freedom: effective degrees of freedom, tr (H + λS)⁻¹H over its values; knots: how
    many values it has; chosen: whether λ was found by REML
    """

    name: str
    strength: float
    freedom: float
    knots: int
    chosen: bool

    def __str__(self) -> str:
        how = "REML" if self.chosen else "as given"
        return f"{self.name} is smoothed with λ = {self.strength:.3g} ({how}), {self.freedom:.3g} effective degrees of freedom of {self.knots}"


class Term(NamedTuple):
    """What is added to the loss: the roughness of one of the splines that are found in the models, or, of an energy, a hold on its
    level; fixed: whether its λ is given."""

    spline: int
    level: bool = False
    fixed: bool = False


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Smoothing:
    """The roughness of all smooth splines of a problem; a pytree, so that nothing compiles anew as strengths move.

    strengths: (K,) λ of each term, zero where it is not known yet; levels: (K,) about which a term holds the mean of an energy
    """

    strengths: Any
    levels: Any
    terms: tuple[Term, ...] = field(metadata={"static": True})

    @property
    def chosen(self) -> np.ndarray:
        """(K,) which strengths REML finds."""
        return np.array([not one.fixed for one in self.terms])

    def of(self, strengths: Any) -> Smoothing:
        return replace(self, strengths=np.asarray(strengths, float))

    def residuals(self, models: Any) -> list[Any]:
        """rₖ of each term; traceable."""
        found = [spline for spline, _ in splines(models)]
        return [
            jnp.mean(found[one.spline].ordinates)[None] - level if one.level else found[one.spline].roughness()
            for one, level in zip(self.terms, self.levels, strict=True)
        ]

    def energy(self, residuals: Any) -> Any:
        """½ Σ λₖ |rₖ|²."""
        return sum(0.5 * one * jnp.sum(r**2) for one, r in zip(self.strengths, residuals, strict=True))

    def added(self, data: Expansion, residuals: Any, slopes: Any) -> Expansion:
        """The loss around a point with roughness in it; slopes: (q, p) of each rₖ."""
        value, gradient, curvature = data.value, data.gradient, data.curvature
        for one, r, J in zip(self.strengths, residuals, slopes, strict=True):
            value = value + 0.5 * one * (r**2).sum()
            gradient, curvature = gradient + one * (r @ J), curvature + one * (J.T @ J)
        return data._replace(value=value, gradient=gradient, curvature=curvature)

    def without(self, whole: Expansion, residuals: Any, slopes: Any) -> Expansion:
        """The loss of the data around a point, of the whole there."""
        return self.of(-np.asarray(self.strengths)).added(whole, residuals, slopes)


def splines(models: Any) -> Iterator[tuple[Spline, bool]]:
    """All smooth splines of some models, and whether each is an energy; those that functions close over too."""
    seen: set[int] = set()
    for part in models:
        for one in (part.equation, part.initial, part.observe):
            if id(one) not in seen:
                seen.add(id(one))
                yield from smooth_splines(one, False, seen)


def terms(models: Any, problem: Any, z: np.ndarray) -> tuple[tuple[Term, ...], np.ndarray, np.ndarray]:
    """(the terms of a problem, the strengths that are given, the levels): a term for each smooth spline that is fitted, however many
    experiments share it, and one that holds the mean of an energy, of which differences alone count.

    models: at z, in NumPy
    """
    found = list(splines(models))
    if not found:
        return (), np.zeros(0), np.zeros(0)
    every = Smoothing(np.ones(len(found)), np.zeros(len(found)), tuple(Term(i) for i in range(len(found))))
    residuals, slopes = _rough(replace(problem, smoothing=every), z)
    parts = [np.column_stack([r, J]) for r, J in zip(residuals, slopes, strict=True)]
    kept: list[Term] = []
    given, levels = [], []
    for i, (spline, energy) in enumerate(found):
        before = (parts[one.spline] for one in kept)
        known = any(one.shape == parts[i].shape and np.allclose(one, parts[i], 1e-12, 0) for one in before)
        if known or not np.any(parts[i][:, 1:]):
            continue
        kept.append(Term(i, fixed=spline.strength is not None))
        given.append(np.nan if spline.strength is None else float(np.asarray(plain(spline.strength))))
        levels.append(0.0)
        if energy:
            kept.append(Term(i, level=True, fixed=True))
            given.append(np.nan)
            levels.append(float(np.mean(spline.ordinates)))
    return tuple(kept), np.array(given), np.array(levels)


def scales(data: Expansion, slopes: Any) -> np.ndarray:
    """(K,) λ at which roughness counts as much as the data."""
    return np.array([_scale(data.curvature, J) for J in slopes])


def _scale(curvature: Any, J: Any) -> float:
    moved = np.any(np.asarray(J) != 0, axis=0)
    share = np.sum(np.abs(np.diag(np.asarray(curvature, float)))[moved]) / max(float(np.sum(np.square(J))), 1e-300)
    return float(share) if np.isfinite(share) and share > 0 else 1.0


def restricted_likelihood(
    data: Expansion,
    residuals: Any,
    slopes: Any,
    strengths: np.ndarray,
    chosen: np.ndarray,
    middle: np.ndarray,
    known: float = 1.0,
) -> np.ndarray:
    """λ that maximises the restricted likelihood of the quadratic that the loss of the data is around a point.

        ℓ(λ) = −min_s [q(s) + ½ Σ λₖ |rₖ + Jₖs|²] − ½ ln |H + Σ λₖSₖ| + ½ ln |Σ λₖSₖ|₊,   Sₖ = JₖᵀJₖ

    Its slope by ln λₖ is that of the Fellner–Schall update, ½ (λₖ tr S⁻Sₖ − λₖ tr V Sₖ − λₖ |rₖ|²); Newton's method takes a few steps
    where that takes hundreds.

    chosen: (K,) which λ are to be found; middle: (K,) ln λ about which their range is; known: what the information of the data is to be multiplied by, (n − edf)/n where
    their variance is estimated from residuals

    Wood & Fasiolo 2017, doi:10.1111/biom.12666; Wood 2011, doi:10.1111/j.1467-9868.2010.00749.x.
    """
    g, H = (known * np.asarray(part, float) for part in (data.gradient, data.curvature))
    r, J = [np.asarray(one, float) for one in residuals], [np.asarray(one, float) for one in slopes]
    S = [one.T @ one for one in J]
    which = np.flatnonzero(chosen)
    rho = np.log(strengths)
    ends = np.stack([middle + RANGE[0], middle + RANGE[1]])
    for _ in range(ROUNDS):
        lam = np.exp(rho)
        V = _inverse(H + sum(one * part for one, part in zip(lam, S, strict=True)))
        s = -V @ (g + sum(one * (a @ b) for one, a, b in zip(lam, r, J, strict=True)))
        left = [a + b @ s for a, b in zip(r, J, strict=True)]
        ranks = _ranks(lam, S)
        bent = np.array([one * (a @ a) for one, a in zip(lam, left, strict=True)])
        spread = np.array([one * np.sum(V * part) for one, part in zip(lam, S, strict=True)])
        slope = 0.5 * (bent + spread - ranks)[which]
        at_end = ((rho >= ends[1]) & (bent + spread < ranks)) | ((rho <= ends[0]) & (bent + spread > ranks))
        slope = np.where(at_end[which], 0.0, slope)
        if np.max(np.abs(slope) / ranks[which], initial=0.0) < SETTLED:
            break
        pull = [lam[k] * (left[k] @ J[k]) for k in which]
        bend = np.diag((bent + spread)[which])
        for i, k in enumerate(which):
            for j, m in enumerate(which):
                bend[i, j] -= 2 * pull[i] @ V @ pull[j] + lam[k] * lam[m] * np.sum((V @ S[k] @ V) * S[m])
        values, vectors = np.linalg.eigh(0.5 * bend)
        values = np.maximum(np.abs(values), 1e-12 * ranks[which].max())
        step = -vectors @ ((vectors.T @ slope) / values)
        rho[which] += step * min(1.0, LONGEST / np.max(np.abs(step)))
        rho = np.where(chosen, np.clip(rho, *ends), rho)
    return np.exp(rho)


def _ranks(lam: np.ndarray, S: list[np.ndarray]) -> np.ndarray:
    """λₖ tr S⁻Sₖ, of separate splines the rank of each Sₖ."""
    size = [max(float(np.trace(one)), 1e-300) for one in S]
    values, vectors = np.linalg.eigh(sum(one / scale for one, scale in zip(S, size, strict=True)))
    back = vectors[:, values > 1e-10 * values.max()]
    whole = back.T @ sum(one * part for one, part in zip(lam, S, strict=True)) @ back
    inner = np.linalg.pinv(whole, 1e-15, hermitian=True)
    return np.array([one * np.sum(inner * (back.T @ part @ back)) for one, part in zip(lam, S, strict=True)])


def _inverse(A: np.ndarray) -> np.ndarray:
    """Of a symmetric matrix, without the directions that nothing determines; of negative curvature by its size."""
    scale = np.sqrt(np.maximum(np.abs(np.diag(A)), 1e-300))
    values, vectors = np.linalg.eigh(A / scale / scale[:, None])
    sound = np.abs(values) > 1e-13 * np.abs(values).max(initial=1e-300)
    back = vectors / scale[:, None]
    return (back * np.where(sound, 1 / np.where(sound, np.abs(values), 1.0), 0.0)) @ back.T


def influence(data: Expansion, whole: Expansion) -> np.ndarray:
    """(p,) the diagonal of (H + λS)⁻¹H, whose sum is the effective degrees of freedom."""
    return np.einsum("ij,ji->i", _inverse(np.asarray(whole.curvature, float)), np.asarray(data.curvature, float))


def rough(problem: Any, z: Any) -> tuple[list[Any], list[Any]]:
    """(rₖ, their slopes (q, p)) of all terms; traceable."""
    residuals = lambda point: problem.smoothing.residuals(problem.build(point))
    return residuals(z), jax.jacfwd(residuals)(z)


_rough = quick_jit(rough)
