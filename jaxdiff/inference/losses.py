"""How far a prediction is from what was observed: mean squares, Kullback–Leibler, likelihoods, and plain functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.inference.loss import Expansion, Loss
from jaxdiff.measurements.residuals import Examination

FLOOR = 1e-13  # of the mass: what a solver may leave where there is nothing


class _Named(Loss):
    """A loss that bears the name of a plain function of two arrays, and is called as it."""

    __wrapped__: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]):
        update_wrapper(self, function)

    def __call__(self, *arrays: Any) -> Any:
        return self.__wrapped__(*arrays)

    @property
    def name(self) -> str:
        return getattr(self, "__name__", "loss")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__wrapped__ == other.__wrapped__

    def __hash__(self) -> int:
        return hash(self.__wrapped__)


class _Own(_Named):
    """A plain function of prediction and observation, without a noise model."""

    def value(self, predictor: Any, prediction: Any, rows: Any = None) -> Any:
        observed = predictor.observation
        return self(prediction, observed) if rows is None else self(prediction[rows], observed[rows])


class _Squares(Loss):
    """Losses of Σ w r², with the part of each residual r that correlated noise predicts taken off."""

    weighted = squares = True

    def total(self, predictor: Any, squares: Any, count: Any) -> Any:
        """The loss by the squares of so many rows."""
        raise NotImplementedError

    def value(self, predictor: Any, prediction: Any, rows: Any = None) -> Any:
        real = _kept(prediction, rows) * (predictor.weight > 0)
        squares = jnp.sum(real * predictor.weight * _residual(predictor, prediction) ** 2)
        return self.total(predictor, squares, jnp.sum(real))

    def expand(self, predictor: Any, prediction: Any, jacobian: Any) -> Expansion:
        residual, jacobian = _residual(predictor, prediction), _innovation(predictor, jacobian)
        weighted = predictor.weight[:, None] * jacobian
        squares = jnp.sum(predictor.weight * residual**2)
        slope, bend = residual @ weighted, jnp.matmul(jacobian.T, weighted, precision="highest")
        factor = self.factor(predictor.known, predictor.size, squares)
        return Expansion(
            self.total(predictor, squares, predictor.size),
            factor * slope,
            factor * bend,
            factor**2 * bend,
            jnp.zeros(()) if predictor.known else squares,
        )


class _Gaussian(_Squares):
    likelihood = True

    def total(self, predictor: Any, squares: Any, count: Any) -> Any:
        squares = squares * (predictor.size / count)
        if predictor.known:
            return 0.5 * squares + predictor.constant + 0.5 * predictor.size * np.log(2 * np.pi)
        return 0.5 * predictor.size * (jnp.log(2 * np.pi * squares / predictor.size) + 1) + predictor.constant

    def factor(self, known: bool, size: Any, squares: Any) -> Any:
        return 1.0 if known else size / jnp.maximum(squares, 1e-300)


class _Multinomial(Loss):
    likelihood = weighted = True

    def share(self, predictor: Any) -> Any:
        """How much each histogram counts, (m,)."""
        return predictor.weight

    def value(self, predictor: Any, prediction: Any, rows: Any = None) -> Any:
        p = jnp.maximum(_shares(prediction), FLOOR)
        keep = _kept(prediction, rows) * (predictor.weight > 0)  # a time without a histogram has none
        logs = (keep * predictor.weight)[:, None] * predictor.observation * jnp.log(p)
        return -jnp.sum(logs) * predictor.size / jnp.sum(keep)

    def expand(self, predictor: Any, prediction: Any, jacobian: Any) -> Expansion:
        """Fisher scoring, Σ N ∂p ∂p / p."""
        mass = prediction.sum(-1, keepdims=True)
        p = jnp.maximum(prediction / mass, FLOOR)
        change = jacobian / mass[..., None] - p[..., None] * jacobian.sum(1, keepdims=True) / mass[..., None]
        relative = change / p[..., None]
        share, counted = self.share(predictor), predictor.weight > 0
        gradient = -jnp.einsum("tb,tbi->i", share[:, None] * predictor.observation, relative)
        fisher = jnp.einsum("tbi,tbj->tij", change, relative, precision="highest")
        curvature = jnp.sum(share[:, None, None] * fisher, axis=0)
        noise = jnp.reshape(share**2 / jnp.where(counted, predictor.weight, 1.0), (-1, 1, 1)) * fisher
        return Expansion(self.value(predictor, prediction), gradient, curvature, jnp.sum(noise, axis=0), jnp.zeros(()))


class _Density(Loss):
    likelihood = weighted = True

    def value(self, predictor: Any, prediction: Any, rows: Any = None) -> Any:
        keep = _kept(prediction, rows) * (predictor.weight > 0)
        return -jnp.sum(keep * prediction) * predictor.size / jnp.sum(keep)


class _Transitions(Loss):
    """Of paths whose steps share the densities between nodes, by a table of these."""

    likelihood = weighted = True

    def value(self, predictor: Any, prediction: Any, rows: Any = None) -> Any:
        if rows is None:
            return -jnp.sum(predictor.weights * prediction)
        return -jnp.sum(predictor.of_steps(prediction, rows)) * predictor.size / len(rows)

    def expand(self, predictor: Any, prediction: Any, jacobian: Any) -> Expansion:
        """Fisher scoring, Σ N p ∂ln p ∂ln p: positive, and without second derivatives."""
        expected = predictor.expected(prediction)[:, None] * jacobian
        curvature = jnp.matmul(expected.T, jacobian, precision="highest")
        return Expansion(self.value(predictor, prediction), -predictor.weights @ jacobian, curvature, curvature)


class _Cloud(Loss):
    """Of samples, by the shares that a model puts into the cells."""

    likelihood = weighted = True

    def value(self, predictor: Any, prediction: Any, rows: Any = None) -> Any:
        keep = _kept(prediction, rows) * (predictor.weight > 0)
        total, seen = jnp.sum(predictor.weight), jnp.sum(keep * predictor.weight)
        return -jnp.sum(keep[predictor.when] * predictor.log_densities(prediction)) * total / seen

    def expand(self, predictor: Any, prediction: Any, jacobian: Any) -> Expansion:
        """Fisher scoring over the cells, Σ N ∂p ∂p / p, with the gradient of the density between them."""
        total, slope = jax.value_and_grad(lambda shares: self.value(predictor, shares))(prediction)
        p = jnp.maximum(prediction, FLOOR)
        curvature = jnp.einsum(
            "t,tcp,tcq->pq", predictor.weight, jacobian / p[..., None], jacobian, precision="highest"
        )
        gradient = jnp.einsum("tc,tcp->p", slope, jacobian)
        return Expansion(total, gradient, curvature, curvature)


class BuiltIn(_Named):
    """Losses whose noise model is that of the measurement."""

    weighted = True
    family: ClassVar[str]
    others: ClassVar[tuple[str, ...]] = ()  # families that it takes too

    @property
    def as_likelihood(self) -> Loss | None:
        return negative_log_likelihood

    def suits(self, measurement: Any) -> None:
        if (family := measurement.family) not in (self.family, *self.others):
            takes = "" if family in ("density", "samples") else f"jd.{DEFAULTS[family].name}, "
            raise ValueError(
                f"{type(measurement).__name__} cannot be compared by jd.{self.name}; use {takes}jd.negative_log_likelihood or your own loss"
            )

    def no_noise(self, measurement: Any) -> str | None:
        return None

    def examine(self, measurement: Any, prediction: Any, jacobian: Any, tau: Any, equation: Any) -> Examination:
        return measurement.examine(prediction, jacobian, tau, equation)

    def __reduce__(self) -> str:
        return self.name


class _MeanSquare(BuiltIn, _Squares):
    family = "gaussian"

    def total(self, predictor: Any, squares: Any, count: Any) -> Any:
        return squares / count

    def factor(self, known: bool, size: Any, squares: Any) -> Any:
        return 2 / size

    def unit(self, measurement: Any) -> float:
        return float(np.var(measurement.residuals(0.0))) or 1.0


class _KullbackLeibler(BuiltIn, _Multinomial):
    family, others, likelihood = "multinomial", ("samples",), False

    def share(self, predictor: Any) -> Any:
        return (predictor.weight > 0) / predictor.size

    def value(self, predictor: Any, prediction: Any, rows: Any = None) -> Any:
        q, p = predictor.observation, jnp.maximum(_shares(prediction), FLOOR)
        keep = _kept(prediction, rows) * (predictor.weight > 0)
        return jnp.sum(keep[:, None] * (_xlogx(q) - q * jnp.log(p))) / jnp.sum(keep)

    def no_noise(self, measurement: Any) -> str | None:
        return None if measurement.known else "densities do not tell how many were counted; give counts, or total=N"


class _Likelihood(BuiltIn):
    """Minus the log likelihood of each family of measurements."""

    likelihood = squares = sums = True
    families: ClassVar[dict[str, Loss]] = {
        "gaussian": _Gaussian(),
        "multinomial": _Multinomial(),
        "density": _Density(),
        "samples": _Cloud(),
        "transitions": _Transitions(),
    }

    def value(self, predictor: Any, prediction: Any, rows: Any = None) -> Any:
        return self.families[predictor.family].value(predictor, prediction, rows)

    def expand(self, predictor: Any, prediction: Any, jacobian: Any) -> Expansion:
        return self.families[predictor.family].expand(predictor, prediction, jacobian)

    def factor(self, known: bool, size: Any, squares: Any) -> Any:
        return self.families["gaussian"].factor(known, size, squares)

    def suits(self, measurement: Any) -> None:
        if measurement.family == "multinomial" and not measurement.known:
            raise ValueError(
                "densities have no likelihood, as nobody knows how many were counted; pass total=N or use jd.kl_divergence"
            )

    def unit(self, measurement: Any) -> float:
        return measurement.count


@_MeanSquare
def mse(prediction: Any, observation: Any) -> Any:
    """Mean square difference.

        Σᵢ (yᵢ − ŷᵢ)² / n

    Args:
        prediction: ŷ, any shape [unit of the field].
        observation: y, the same shape.

    In a fit each row is divided by its sigma, if given.

    >>> import jaxdiff as jd
    >>> float(jd.mse([1.0, 2.0], [1.0, 4.0]))
    2.0
    """
    return jnp.mean((jnp.asarray(prediction) - jnp.asarray(observation)) ** 2)


@_KullbackLeibler
def kl_divergence(prediction: Any, observation: Any) -> Any:
    """Kullback–Leibler divergence of the data from the model, both normalised over the bins; the mean over times.

        Σ_b q_b ln(q_b / p_b),  0 ln 0 = 0

    Args:
        prediction: p, masses or counts `(…, bins)`.
        observation: q, the same shape.

    >>> import jaxdiff as jd
    >>> round(float(jd.kl_divergence([0.5, 0.5], [3, 1])), 6)
    0.130812

    Kullback & Leibler 1951, doi:10.1214/aoms/1177729694.
    """
    q, p = _shares(observation), jnp.maximum(_shares(prediction), FLOOR)
    return jnp.mean(jnp.sum(_xlogx(q) - q * jnp.log(p), axis=-1))


@_Likelihood
def negative_log_likelihood(prediction: Any, observation: Any = None) -> Any:
    """Minus the sum of log densities.

        −Σᵢ ln pᵢ

    Args:
        prediction: log densities, any shape, as a path predicts them.
        observation: of no account: the densities are of what was observed.

    As the loss of a fit it asks each measurement for its own likelihood: Gaussian for readings (the variance from the residuals
    if sigma is not given), multinomial for histograms without its constant coefficient, the density for samples, that of each transition for paths.

    >>> import jaxdiff as jd
    >>> float(jd.negative_log_likelihood([-1.0, -2.5]))
    3.5
    """
    return -jnp.sum(jnp.asarray(prediction))


DEFAULTS: dict[str, BuiltIn] = {
    "gaussian": mse,
    "multinomial": kl_divergence,
    "density": negative_log_likelihood,
    "samples": negative_log_likelihood,
}


def as_loss(loss: Any) -> Loss:
    """A loss, of a plain function too.

    Raises TypeError if it is none.
    """
    if isinstance(loss, type) and issubclass(loss, Loss):
        return loss()
    if not isinstance(loss, Loss) and not callable(loss):
        raise TypeError(
            f"loss must be jd.mse, jd.kl_divergence, jd.negative_log_likelihood, a jd.Loss or a callable, got {loss!r}"
        )
    return loss if isinstance(loss, Loss) else _Own(loss)


def choose(loss: Any, measurements: Any) -> tuple[Loss, ...]:
    """The loss of each measurement: the default of a single one is its own, that of several their likelihood.

    Raises TypeError or ValueError if a loss does not fit a measurement.
    """
    chosen = []
    for measurement in measurements:
        own = DEFAULTS[measurement.family] if len(measurements) == 1 else negative_log_likelihood
        chosen.append(own if loss is None else as_loss(loss))
        chosen[-1].suits(measurement)
    return tuple(chosen)


def is_log_density(predictor: Any) -> bool:
    """Whether predictions enter a loss linearly, so that all curvature is their own, and the Jacobian has none of it."""
    return predictor.family == "density"


def is_table(predictor: Any) -> bool:
    """Whether a search by the expected information of log densities will do, and error bars ask for the observed."""
    return predictor.family == "transitions"


def _kept(prediction: Any, rows: Any) -> Any:
    """One for each row of a minibatch, else zero."""
    every = jnp.ones(prediction.shape[:1], prediction.dtype)
    return every if rows is None else jnp.zeros_like(every).at[rows].set(1.0)


def _shares(mass: Any) -> Any:
    mass = jnp.asarray(mass)
    return mass / mass.sum(-1, keepdims=True)


def _xlogx(q: Any) -> Any:
    return q * jnp.log(jnp.where(q > 0, q, 1.0))


def _residual(predictor: Any, prediction: Any) -> Any:
    # Padded rows predict something too; NaN in a real row must not be hidden.
    return _innovation(predictor, jnp.where(predictor.weight > 0, prediction - predictor.observation, 0.0))


def _innovation(predictor: Any, rows: Any) -> Any:
    """What is new in each row (m, …): without the part that the noise of the one before predicts."""
    return rows - predictor.carry.reshape(-1, *(1,) * (rows.ndim - 1)) * rows[predictor.last]
