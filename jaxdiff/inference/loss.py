"""The base of losses, which expand around a point: what minimises and what gives error bars need no more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.separability import depends
from jaxdiff.measurements.residuals import Examination


class Expansion(NamedTuple):
    """A loss around a point: value, gradient (p,), curvature (p, p), covariance of the gradient by noise (p, p), and
    the sum of squares of residuals where the variance is to be estimated from them (else zero)."""

    value: Any
    gradient: Any
    curvature: Any
    noise: Any
    squares: Any = 0.0
    resolved: Any = True  # whether the predictor of each measurement still resolves the coefficients here
    predictions: Any = ()  # of each measurement, its prediction and the Jacobian of it in z; empty where nobody asked


class Loss(ABC):
    """How far a prediction is from what was observed. A base to write losses of your own, with error bars.

        θ* = argmin Σ value(prediction(θ))

    A subclass needs `value` alone. Where that is minus a log likelihood, say `likelihood = True`: the curvature is then
    that of the noise, and error bars follow. A loss with another noise model writes `expand` and `no_noise`. Losses that are equal
    share compiled code: those of one class with the same attributes.

    likelihood: the value is minus a log likelihood; weighted: rows whose `predictor.weight` is zero count for nothing, so
    that rows may be padded and values may be missing

    >>> import jax.numpy as jnp, jaxdiff as jd, numpy as np
    >>> class Poisson(jd.Loss):
    ...     likelihood = True
    ...
    ...     def value(self, predictor, prediction, rows=None):
    ...         return jnp.sum(prediction - predictor.observation * jnp.log(prediction))
    >>> grid, times = jd.Grid.uniform((0.0, 1.0, 8)), np.array([1.0, 2.0, 3.0])
    >>> counts = jd.Readings(grid, 1000.0, times, np.full(3, 0.5), [610.0, 366.0, 225.0])
    >>> found = jd.fit(jd.Diffusion(1.0, decay=jd.Positive(1.0)), counts, loss=Poisson(), progress=False)
    >>> round(found.parameters["decay"], 2), round(found.standard_errors["decay"], 3)
    (0.5, 0.016)
    """

    likelihood: ClassVar[bool] = False
    weighted: ClassVar[bool] = False
    sums: ClassVar[bool] = False  # of log densities are all that it needs, which many steps share
    squares: ClassVar[bool] = False  # of rows with normal noise it sees Σ w r² alone, of which `factor` knows the slope

    @property
    def name(self) -> str:
        """What it is called in results and messages."""
        return type(self).__name__

    @property
    def as_likelihood(self) -> Loss | None:
        """The loss whose value is minus the log likelihood of the same noise; None where there is none."""
        return self if self.likelihood else None

    @abstractmethod
    def value(self, predictor: Any, prediction: Any, rows: Any = None) -> Any:
        """The loss of one measurement, a number; traceable.

        predictor: holds `observation` (m, …), `weight` (m,) and `size`, the number of rows; prediction: (m, …); rows: those of
        a minibatch, whose sum is scaled up to all rows, None for all
        """

    def expand(self, predictor: Any, prediction: Any, jacobian: Any) -> Expansion:
        """The loss of one measurement around a point; jacobian: (*prediction.shape, p).

        The generalised Gauss–Newton matrix Jᵀ (∂²L) J, or, for distances that hardly bend, like absolute differences, the
        curvature of reweighted squares. The noise is NaN, not known, but of a likelihood that bends.
        """
        total = self._total(predictor, prediction)
        slope, flat = jax.grad(total), jacobian.reshape(-1, jacobian.shape[-1])
        bent = jax.vmap(lambda column: jax.jvp(slope, (prediction,), (column,))[1], -1, -1)(jacobian)
        pull, bend = slope(prediction), flat.T @ bent.reshape(flat.shape)
        squares = _reweighted(pull, prediction - predictor.observation, flat)
        straight = jnp.trace(bend) < 1e-3 * jnp.trace(squares)
        curvature = jnp.where(straight, squares, bend)
        noise = jnp.where(straight | (not self.likelihood), jnp.nan, bend)
        return Expansion(total(prediction), pull.reshape(-1) @ flat, curvature, noise)

    def _total(self, predictor: Any, prediction: Any) -> Callable[[Any], Any]:
        """The loss as a function of the prediction; raise unless it is one number, and by the weights where it says so."""
        total = lambda point: self.value(predictor, point)
        found = jax.eval_shape(total, prediction)
        if np.shape(found) or not jnp.issubdtype(jnp.result_type(found), jnp.floating):
            raise ValueError(f"the loss {self.name} must be one real number, got {found.dtype} of shape {found.shape}")
        by_weight = lambda weight: self.value(predictor.holding({"weight": weight}), prediction)
        if self.weighted and not depends(by_weight, predictor.weight)[0]:
            raise ValueError(
                f"{self.name} says weighted = True, and counts rows whose predictor.weight is zero; leave that out"
            )
        return total

    def suits(self, measurement: Any) -> None:  # noqa: B027
        """Raise ValueError, in words, for a measurement that it cannot compare; the default takes any."""

    def unit(self, measurement: Any) -> float:
        """What it is divided by for an optax transformation, so that learning rates mean the same everywhere."""
        return 1.0

    def no_noise(self, measurement: Any) -> str | None:
        """Why there are no error bars, or None."""
        if self.likelihood:
            return None
        return f"your own loss, {self.name}, has no noise model; use a likelihood, jd.mse or jd.kl_divergence"

    def examine(self, measurement: Any, prediction: Any, jacobian: Any, tau: Any, equation: Any) -> Examination:
        """Tests of what a fit leaves of the data, as of the measurement, where that has the noise that the loss assumes."""
        return Examination(f"your own loss, {self.name}, says nothing of the noise of the data")

    def factor(self, known: bool, size: Any, squares: Any) -> Any:
        """f = ∂loss / ∂(½ Σ w r²), so that the gradient is f Jᵀ W r, where `squares`.

        known: whether the data carry their noise; size: number of rows; squares: Σ w r²
        """
        raise NotImplementedError(f"{self.name} is not known to be of squares")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and bool(eqx.tree_equal(vars(self), vars(other)))

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return self.name


def _reweighted(pull: Any, residual: Any, flat: Any) -> Any:
    """Curvature of the squares Σ (∂L/∂r) r²/2r that touch a loss here; zero unless it grows with every residual r.

    Iteratively reweighted least squares: Holland & Welsch 1977, doi:10.1080/03610927708827533.
    """
    distance = jnp.abs(residual)
    floor = jnp.maximum(1e-12 * jnp.max(distance), jnp.finfo(distance.dtype).tiny)
    weight = jnp.where(jnp.all(pull * residual >= 0), jnp.abs(pull) / jnp.maximum(distance, floor), 0.0)
    return flat.T @ (weight.reshape(-1, 1) * flat)
