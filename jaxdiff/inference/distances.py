"""Distances between the samples and the distribution of a model along one axis, which a few strangers hardly move."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.inference.loss import Expansion, Loss
from jaxdiff.inference.losses import BuiltIn
from jaxdiff.measurements.samples_predictor import between, cumulated


class _Distance(BuiltIn):
    """A mean over all samples of what each cloud is apart from the model, Σₜ nₜ/N · distance."""

    family = "samples"

    @property
    def as_likelihood(self) -> Loss | None:
        return None

    def suits(self, measurement: Any) -> None:
        super().suits(measurement)
        if measurement.grid.ndim > 1 or measurement.grid.discrete:
            got = "states" if measurement.grid.discrete else f"{measurement.grid.ndim} axes"
            raise ValueError(
                f"jd.{self.name} is of positions along one axis, got {got}; use jd.negative_log_likelihood"
            )

    @abstractmethod
    def of_clouds(self, predictor: Any, below: Any) -> Any:
        """(T,) distances to the distribution functions `below` (T, n + 1), linear between the edges."""

    def value(self, predictor: Any, prediction: Any, rows: Any = None) -> Any:
        weight = predictor.weight
        if rows is not None:
            weight = weight * jnp.zeros_like(weight).at[rows].set(1.0)
        return jnp.sum(weight * self.of_clouds(predictor, between(prediction, _widths(predictor)))) / jnp.sum(weight)


class _Energy(_Distance):
    def of_clouds(self, predictor: Any, below: Any) -> Any:
        steps, width = Steps(predictor), _widths(predictor)
        a, b = below[:, :-1], below[:, 1:]
        squares = jnp.sum(width / 3 * (a**2 + a * b + b**2), axis=1)
        return 2 * (squares - 2 * jnp.sum(below * steps.against_hats, axis=1) + steps.squares)

    def expand(self, predictor: Any, prediction: Any, jacobian: Any) -> Expansion:
        """With F the model's: Σₜ nₜ/N · 4∫∂F ∂Fᵀ dx, and the noise Σᵢ sᵢ sᵢᵀ of the scores sᵢ = −4/N ∫(1[xᵢ ≤ x] − F) ∂F dx."""
        width, total = _widths(predictor), jnp.sum(predictor.weight)
        below, slope = _with_slopes(prediction, jacobian, width)
        share, steps = predictor.weight / total, Steps(predictor)
        hats = jax.vmap(jax.vmap(lambda column: _through_hats(width, column), -1, -1))(slope)
        gradient = 4 * jnp.einsum("t,tk,tkp->p", share, below, hats)
        gradient = gradient - 4 * jnp.einsum("t,tk,tkp->p", share, steps.against_hats, slope)
        curvature = 4 * jnp.einsum("t,tkp,tkq->pq", share, hats, slope)
        mean = jnp.einsum("tk,tkp->tp", below, hats)
        score = (_above(predictor, width, slope) - mean[predictor.when]) * 4 / total
        score = score * (predictor.weight > 0)[predictor.when][:, None]
        left = total - score.shape[1]  # of the samples, which the fit leaves free
        seen = score.T @ score * total / jnp.maximum(left, 1.0)
        noise = jnp.where(left > 0, seen, self._expected_noise(predictor, prediction, width, slope))
        return Expansion(self.value(predictor, prediction), gradient, curvature, noise)

    def _expected_noise(self, predictor: Any, prediction: Any, width: Any, slope: Any) -> Any:
        """The noise of the gradient by the model itself (p, p), where there are no more samples than parameters."""
        each = width[:, None] * (slope[:, :-1] + slope[:, 1:]) / 2
        middle = jnp.cumsum(each[:, ::-1], axis=1)[:, ::-1] - each / 2
        middle = middle - jnp.sum(prediction[..., None] * middle, axis=1, keepdims=True)
        share = predictor.weight[:, None] * prediction * (4 / jnp.sum(predictor.weight)) ** 2
        return jnp.einsum("tc,tcp,tcq->pq", share, middle, middle)


class _Wasserstein(_Distance):
    def of_clouds(self, predictor: Any, below: Any) -> Any:
        return Steps(predictor).apart(below)

    def expand(self, predictor: Any, prediction: Any, jacobian: Any) -> Expansion:
        """The curvature is that on average, ∫√(2/π)/σ ∂F ∂Fᵀ dx with the noise σ² = F(1 − F)/n of the samples'."""
        width, share = _widths(predictor), predictor.weight / jnp.sum(predictor.weight)
        below, slope = _with_slopes(prediction, jacobian, width)
        total, pull = jax.value_and_grad(lambda below: jnp.sum(share * Steps(predictor).apart(below)))(below)
        edges = (jnp.pad(width, (1, 0)) + jnp.pad(width, (0, 1))) / 2
        count = jnp.maximum(predictor.weight, 1.0)[:, None]
        noise = jnp.sqrt(jnp.maximum(below * (1 - below), 1 / count) / count)
        bend = share[:, None] * edges * jnp.sqrt(2 / jnp.pi) / noise
        curvature = jnp.einsum("tk,tkp,tkq->pq", bend, slope, slope)
        gradient = jnp.einsum("tk,tkp->p", pull, slope)
        return Expansion(total, gradient, curvature, jnp.full_like(curvature, jnp.nan))

    def no_noise(self, measurement: Any) -> str | None:
        return (
            "the errors of jd.wasserstein are not normal; jd.bootstrap draws them, and jd.energy_distance has its own"
        )


class Steps:
    """The distribution functions of clouds, which step at each sample."""

    def __init__(self, predictor: Any):
        self.predictor, self.width = predictor, _widths(predictor)
        self.count = jnp.where(predictor.weight > 0, predictor.weight, 1.0)
        self.below = cumulated(predictor.observation)  # (T, n + 1), at the edges

    @property
    def against_hats(self) -> Any:
        """∫Fₙ φ dx (T, n + 1) of the hat of each edge."""
        p, width, rest = self.predictor, self.width, 1 - self.predictor.within
        own = width[p.cell] / self.count[p.when] / 2
        level = self.below[:, :-1] * width / 2  # of the samples in cells before
        out = jnp.pad(level, ((0, 0), (0, 1))) + jnp.pad(level, ((0, 0), (1, 0)))
        out = out.at[p.when, p.cell].add(own * rest**2)
        return out.at[p.when, p.cell + 1].add(own * (1 - p.within**2))

    @property
    def squares(self) -> Any:
        """∫Fₙ² dx (T,)."""
        _, levels, lengths, when = self.pieces
        return jnp.zeros(len(self.count)).at[when].add(levels**2 * lengths)

    @property
    def pieces(self) -> tuple[Any, Any, Any, Any]:
        """Between edges and samples, one after the other: (ends in cells (k, 2), level of Fₙ, length, time), k = T n + m."""
        p, n = self.predictor, len(self.width)
        times = len(self.count)
        cells = jnp.concatenate([jnp.tile(jnp.arange(n), times), p.cell])
        when = jnp.concatenate([jnp.repeat(jnp.arange(times), n), p.when])
        begin = jnp.concatenate([jnp.zeros(times * n, p.within.dtype), p.within])
        order = jnp.lexsort((begin, cells, when))
        cells, when, begin = cells[order], when[order], begin[order]
        step = jnp.concatenate([jnp.zeros(times * n), 1 / self.count[p.when]])[order]
        first = jnp.searchsorted(when, jnp.arange(times))
        upto = jnp.cumsum(step)
        level = upto - (upto - step)[first][when]
        same = (jnp.roll(cells, -1) == cells) & (jnp.roll(when, -1) == when)
        same = same.at[-1].set(False)
        end = jnp.where(same, jnp.roll(begin, -1), 1.0)
        return (cells, begin, end), level, (end - begin) * self.width[cells], when

    def apart(self, below: Any) -> Any:
        """∫|Fₙ − F| dx (T,), F linear between the edges."""
        (cells, begin, end), level, length, when = self.pieces
        low, high = below[when, cells], below[when, cells + 1]
        a, b = (low + x * (high - low) - level for x in (begin, end))
        crosses = a * b < 0
        gap = jnp.abs(b - a)
        safe = jnp.where(crosses, gap, 1.0)
        size = jnp.where(crosses, (a**2 + b**2) / (2 * safe), jnp.abs(a + b) / 2)
        return jnp.zeros(len(self.count)).at[when].add(size * length)


def _widths(predictor: Any) -> Any:
    return jnp.asarray(predictor.states_at_times.grid.widths[0])


def _with_slopes(prediction: Any, jacobian: Any, width: Any) -> tuple[Any, Any]:
    """Distribution functions (T, n + 1) and their derivatives (T, n + 1, p)."""
    linear = lambda shares: between(shares, width)
    return linear(prediction), jax.vmap(linear, -1, -1)(jacobian)


def _through_hats(width: Any, column: Any) -> Any:
    """(n + 1,): ∫φ f dx of the hat of each edge with f, linear between its values at the edges."""
    left = width / 6 * (2 * column[:-1] + column[1:])
    right = width / 6 * (column[:-1] + 2 * column[1:])
    return jnp.pad(left, (0, 1)) + jnp.pad(right, (1, 0))


def _above(predictor: Any, width: Any, slope: Any) -> Any:
    """∫∂F dx (m, p) above each sample."""
    each = width[:, None] * (slope[:, :-1] + slope[:, 1:]) / 2
    after = jnp.cumsum(each[:, ::-1], axis=1)[:, ::-1] - each
    when, cell, rest = predictor.when, predictor.cell, (1 - predictor.within)[:, None]
    low, high = slope[when, cell], slope[when, cell + 1]
    here = rest * width[cell][:, None] * (rest * low + (2 - rest) * high) / 2
    return after[when, cell] + here


def _between(one: Any, other: Any, power: int) -> Any:
    """∫|F − G|^power dx between the distribution functions of two sets of numbers."""
    one, other = jnp.sort(jnp.ravel(jnp.asarray(one, float))), jnp.sort(jnp.ravel(jnp.asarray(other, float)))
    every = jnp.sort(jnp.concatenate([one, other]))
    f, g = (jnp.searchsorted(x, every[:-1], side="right").astype(every.dtype) / len(x) for x in (one, other))
    return jnp.sum(jnp.abs(f - g) ** power * jnp.diff(every))


@_Energy
def energy_distance(prediction: Any, observation: Any) -> Any:
    """Energy distance of samples from a model along one axis: the continuous ranked probability score, up to a constant.

        2 ∫(Fₙ(x) − F(x))² dx,  the mean over all samples of what it is in their clouds

    Args:
        prediction: numbers drawn from one distribution, any shape [length].
        observation: numbers drawn from another.

    As the loss of a fit of `Samples` it takes F of the model in the cells, whose integral is exact. A share of strangers moves an estimate in
    proportion to it and no more, at the price of a tenth of precision. Error bars are those of a sandwich, from the score
    of each sample; of no more samples than parameters, as the model expects. SciPy's `energy_distance` is its square root.

    >>> import jaxdiff as jd
    >>> round(float(jd.energy_distance([0.0, 1.0], [0.5])), 6)
    0.5

    Székely & Rizzo 2013, doi:10.1016/j.jspi.2013.03.018; Gneiting & Raftery 2007, doi:10.1198/016214506000001437.
    """
    return 2 * _between(prediction, observation, 2)


@_Wasserstein
def wasserstein(prediction: Any, observation: Any) -> Any:
    """Wasserstein distance of samples from a model along one axis, of first order: how far each has to be moved on average.

        ∫|Fₙ(x) − F(x)| dx,  the mean over all samples of what it is in their clouds

    Args:
        prediction: numbers drawn from one distribution, any shape [length].
        observation: numbers drawn from another.

    As the loss of a fit of `Samples` it takes F of the model in the cells, whose integral is exact. It bears strangers as `energy_distance`
    does; it has kinks, and no error bars but those of `bootstrap`.

    >>> import jaxdiff as jd
    >>> float(jd.wasserstein([0.0, 1.0], [0.5]))
    0.5

    Vallender 1974, doi:10.1137/1118101; Bernton et al. 2019, doi:10.1093/imaiai/iaz003.
    """
    return _between(prediction, observation, 1)
