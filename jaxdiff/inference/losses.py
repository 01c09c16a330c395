"""How far a prediction is from what was observed, and what a fit needs to know of it.

`value` is the loss of one measurement. `expand` adds its gradient and curvature in the parameters, from the Jacobian
of the prediction, and the covariance that the noise of the data gives that gradient: the middle of the sandwich
H⁻¹ V H⁻¹ from which error bars come. For a likelihood V = H.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

FLOOR = 1e-13  # of the mass: what a solver may leave where there is nothing


def mse(prediction: Any, observation: Any) -> Any:
    """Mean square difference.

        Σᵢ (yᵢ − ŷᵢ)² / n

    prediction, observation: the same shape, [unit of the field]. In a fit each row is divided by its sigma, if given.

    >>> import jaxdiff as jd
    >>> float(jd.mse([1.0, 2.0], [1.0, 4.0]))
    2.0
    """
    return jnp.mean((jnp.asarray(prediction) - jnp.asarray(observation)) ** 2)


def kl_divergence(prediction: Any, observation: Any) -> Any:
    """Kullback–Leibler divergence of the data from the model, both normalised over the bins; the mean over times.

        Σ_b q_b ln(q_b / p_b),  0 ln 0 = 0

    prediction, observation: masses or counts, (..., bins). Source: Kullback & Leibler 1951, doi:10.1214/aoms/1177729694.

    >>> import jaxdiff as jd
    >>> round(float(jd.kl_divergence([0.5, 0.5], [3, 1])), 6)
    0.130812
    """
    q, p = _shares(observation), jnp.maximum(_shares(prediction), FLOOR)
    return jnp.mean(jnp.sum(_xlogx(q) - q * jnp.log(p), axis=-1))


def negative_log_likelihood(prediction: Any, observation: Any = None) -> Any:
    """Minus the sum of log densities.

        −Σᵢ ln pᵢ

    prediction: log densities, any shape, as a path predicts them. As the loss of a fit it asks each measurement for its
    own likelihood: Gaussian for readings (the variance from the residuals if sigma is not given), multinomial for
    histograms without its constant coefficient, the transition density for paths.

    >>> import jaxdiff as jd
    >>> float(jd.negative_log_likelihood([-1.0, -2.5]))
    3.5
    """
    return -jnp.sum(jnp.asarray(prediction))


def _shares(mass: Any) -> Any:
    mass = jnp.asarray(mass)
    return mass / mass.sum(-1, keepdims=True)


def _xlogx(q: Any) -> Any:
    return q * jnp.log(jnp.where(q > 0, q, 1.0))


class Expansion(NamedTuple):
    """A loss around a point: value, gradient (p,), curvature (p, p), covariance of the gradient by noise (p, p), and
    the sum of squares of residuals where the variance is to be estimated from them (else zero)."""

    value: Any
    gradient: Any
    curvature: Any
    noise: Any
    squares: Any
    resolved: Any = True  # whether the plan of each measurement still resolves the coefficients here
    seen: Any = ()  # of each measurement, its prediction and the Jacobian of it in z; empty where nobody asked


Loss = Callable[[Any, Any], Any]
DEFAULTS = {"gaussian": mse, "multinomial": kl_divergence, "density": negative_log_likelihood}
BUILT_IN = (mse, kl_divergence, negative_log_likelihood)


def choose(loss: Loss | None, measurements: Any) -> tuple[Loss, ...]:
    """The loss of each measurement: the default of a single one is its own, that of several their likelihood.

    Raises TypeError or ValueError if a loss does not fit a measurement.
    """
    if loss is not None and not callable(loss):
        raise TypeError(
            f"loss must be jd.mse, jd.kl_divergence, jd.negative_log_likelihood or a callable, got {loss!r}"
        )
    chosen = []
    for measurement in measurements:
        family = measurement.family
        one = loss or (DEFAULTS[family] if len(measurements) == 1 else negative_log_likelihood)
        if one in BUILT_IN and one not in (DEFAULTS[family], negative_log_likelihood):
            own = DEFAULTS[family].__name__
            takes = f"jd.{own}, jd.negative_log_likelihood" if family != "density" else "jd.negative_log_likelihood"
            raise ValueError(
                f"{type(measurement).__name__} cannot be compared by jd.{one.__name__}; use {takes} or your own loss"
            )
        if one is negative_log_likelihood and family == "multinomial" and not measurement.known:
            raise ValueError(
                "densities have no likelihood, as nobody knows how many were counted; pass total=N or use jd.kl_divergence"
            )
        chosen.append(one)
    return tuple(chosen)


def noisy(loss: Loss, plan: Any) -> bool:
    """Whether the data carry a noise scale under this loss."""
    return loss in BUILT_IN and (plan.known or plan.family == "gaussian")


def value(loss: Loss, plan: Any, prediction: Any, rows: Any = None) -> Any:
    """The loss of one measurement; `rows` picks a minibatch, whose sums are scaled up to all rows."""
    if loss not in BUILT_IN:
        return loss(prediction, plan.observation) if rows is None else loss(prediction[rows], plan.observation[rows])
    keep = jnp.ones(prediction.shape[:1], prediction.dtype)
    keep = keep if rows is None else jnp.zeros_like(keep).at[rows].set(1.0)
    if plan.family == "gaussian":
        real = keep * (plan.weight > 0)
        squares, count = jnp.sum(real * plan.weight * _residual(plan, prediction) ** 2), jnp.sum(real)
        return squares / count if loss is mse else _gaussian(plan, squares * plan.size / count)
    if plan.family == "multinomial":
        q, p = plan.observation, jnp.maximum(_shares(prediction), FLOOR)
        keep = keep * (plan.weight > 0)  # a time without a histogram
        if loss is kl_divergence:
            return jnp.sum(keep[:, None] * (_xlogx(q) - q * jnp.log(p))) / jnp.sum(keep)
        return -jnp.sum((keep * plan.weight)[:, None] * q * jnp.log(p)) * plan.size / jnp.sum(keep)
    return -jnp.sum(keep * prediction) * plan.size / jnp.sum(keep)


def _residual(plan: Any, prediction: Any) -> Any:
    # Padded rows predict something too; NaN in a real row must not be hidden.
    return _innovation(plan, jnp.where(plan.weight > 0, prediction - plan.observation, 0.0))


def _innovation(plan: Any, rows: Any) -> Any:
    """What is new in each row (m, …): without what the noise of the one before lets expect."""
    return rows - plan.carry.reshape(-1, *(1,) * (rows.ndim - 1)) * rows[plan.last]


def _gaussian(plan: Any, squares: Any) -> Any:
    """Minus the log likelihood; without sigma the variance is the one that fits best."""
    if plan.known:
        return 0.5 * squares + plan.constant + 0.5 * plan.size * np.log(2 * np.pi)
    return 0.5 * plan.size * (jnp.log(2 * np.pi * squares / plan.size) + 1) + plan.constant


def expand(loss: Loss, plan: Any, prediction: Any, jacobian: Any) -> Expansion:
    """The loss of one measurement around a point; jacobian: (*prediction.shape, p).

    Squares: Gauss–Newton. Counts: Fisher scoring, Σ N ∂p ∂p / p. Your own loss: the generalised Gauss–Newton matrix
    Jᵀ (∂²L) J, or, for distances that hardly bend, like absolute differences, that of reweighted squares.
    """
    count = jacobian.shape[-1]
    none = jnp.zeros(())
    if loss not in BUILT_IN:
        flat = jacobian.reshape(-1, count)
        slope = jax.grad(loss)
        bent = jax.vmap(
            lambda column: jax.jvp(lambda u: slope(u, plan.observation), (prediction,), (column,))[1], -1, -1
        )(jacobian)
        pull = slope(prediction, plan.observation)
        curvature = flat.T @ bent.reshape(-1, count)
        squares = _reweighted(pull, prediction - plan.observation, flat)
        curvature = jnp.where(jnp.trace(curvature) < 1e-3 * jnp.trace(squares), squares, curvature)
        total = loss(prediction, plan.observation)
        return Expansion(total, pull.reshape(-1) @ flat, curvature, jnp.zeros((count, count)), none)
    if plan.family == "gaussian":
        residual, jacobian = _residual(plan, prediction), _innovation(plan, jacobian)
        weighted = plan.weight[:, None] * jacobian
        squares = jnp.sum(plan.weight * residual**2)
        slope, bend = residual @ weighted, _gram(jacobian, weighted)
        if loss is mse:
            factor = 2 / plan.size
        else:
            factor = 1.0 if plan.known else plan.size / jnp.maximum(squares, 1e-300)
        total = squares / plan.size if loss is mse else _gaussian(plan, squares)
        return Expansion(
            total,
            factor * slope,
            factor * bend,
            factor**2 * bend,
            none if plan.known else squares,
        )
    mass = prediction.sum(-1, keepdims=True)
    p = jnp.maximum(prediction / mass, FLOOR)
    change = jacobian / mass[..., None] - p[..., None] * jacobian.sum(1, keepdims=True) / mass[..., None]
    relative = change / p[..., None]
    seen = plan.weight > 0
    share = seen / plan.size if loss is kl_divergence else plan.weight
    gradient = -jnp.einsum("tb,tbi->i", share[:, None] * plan.observation, relative)
    fisher = jnp.einsum("tbi,tbj->tij", change, relative, precision="highest")
    curvature = jnp.sum(share[:, None, None] * fisher, axis=0)
    noise = jnp.sum(jnp.reshape(share**2 / jnp.where(seen, plan.weight, 1.0), (-1, 1, 1)) * fisher, axis=0)
    return Expansion(value(loss, plan, prediction), gradient, curvature, noise, none)


def _reweighted(pull: Any, residual: Any, flat: Any) -> Any:
    """Curvature of the squares Σ (∂L/∂r) r²/2r that touch a loss here; zero unless it grows with every residual r.

    Iteratively reweighted least squares: Holland & Welsch 1977, doi:10.1080/03610927708827533.
    """
    distance = jnp.abs(residual)
    floor = jnp.maximum(1e-12 * jnp.max(distance), jnp.finfo(distance.dtype).tiny)
    weight = jnp.where(jnp.all(pull * residual >= 0), jnp.abs(pull) / jnp.maximum(distance, floor), 0.0)
    return flat.T @ (weight.reshape(-1, 1) * flat)


def _gram(left: Any, right: Any) -> Any:
    return jnp.matmul(left.T, right, precision="highest")
