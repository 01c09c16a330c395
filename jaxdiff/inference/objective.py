"""What is minimised: the loss of all measurements as a function of one vector of parameters."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.inference.loss import Expansion, Loss
from jaxdiff.inference.losses import is_log_density
from jaxdiff.measurements.predictor import Prediction
from jaxdiff.model.equations import Equation
from jaxdiff.parameters import Fixed, Free, Parameters, collect, marked, plain, unmarked

NUDGE = 1e-4  # of a coordinate, for differences of gradients
KEPT = 2**22  # numbers of a Jacobian beyond which a fit does not keep it


@dataclass(frozen=True)
class Objective:
    """The static half of a problem: equal objectives share compiled code, whatever the numbers.

    model: a function of named parameters, None for a marked equation; losses: one per measurement; initials: which
    of the fitted initial states each measurement starts from, -1 for none of its own
    """

    model: Callable[..., Any] | None
    losses: tuple[Loss, ...]
    initials: tuple[int, ...]

    def unpack(self, tree: Any) -> tuple[Any, tuple[Any, ...]]:
        """The equation that a tree of numbers makes, and the initial state of each measurement."""
        equation, initial = tree[""], None
        if self.model is not None:
            equation = self.model(**equation)
            if isinstance(equation, tuple):
                equation, initial = equation
            equation = plain(equation, Fixed)
        own = list(tree["initial"].values()) if isinstance(tree["initial"], OrderedDict) else [tree["initial"]]
        return equation, tuple(initial if initial is not None else own[i] if i >= 0 else None for i in self.initials)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Problem:
    """What is minimised, as a function of one vector z (p,) whose coordinates are of order one; a pytree, traceable.

    predictors: one per measurement; none yet for a problem that was not prepared
    """

    parameters: Parameters
    predictors: tuple[Any, ...]
    objective: Objective = field(metadata={"static": True})

    def build(self, z: Any) -> tuple[Any, tuple[Any, ...]]:
        """The equation at z, and the initial state of each measurement."""
        return self.objective.unpack(self.parameters.build(z))

    def predict(self, z: Any) -> tuple[Prediction, ...]:
        equation, initials = self.build(z)
        pairs = zip(self.predictors, initials, strict=True)
        return tuple(predictor.predict(equation, initial) for predictor, initial in pairs)

    def value(self, z: Any, batch: Any = None) -> tuple[Any, Any]:
        """The loss, NaN where a check failed; and of each measurement whether its predictor resolves the coefficients.

        batch: which rows of each measurement, None for all
        """
        predictions = self.predict(z)
        parts = zip(
            self.objective.losses, self.predictors, predictions, batch or (None,) * len(predictions), strict=True
        )
        total = sum(loss.value(predictor, p.values, rows) for loss, predictor, p, rows in parts)
        resolved = jnp.stack([jnp.asarray(prediction.resolved) for prediction in predictions])
        return jnp.where(passed(predictions), total, jnp.nan), resolved

    def expand(self, z: Any) -> Expansion:
        """The loss with gradient and curvature; `noise`, `squares` and `predictions` have one entry per measurement."""
        log_densities = [i for i, predictor in enumerate(self.predictors) if is_log_density(predictor)]
        others = [i for i in range(len(self.predictors)) if i not in log_densities]
        parts: dict[int, Expansion] = {i: self._expand_log_density(i, z) for i in log_densities}
        good = jnp.array(True)
        if others:

            def fields(point: Any) -> Any:
                equation, initials = self.build(point)
                predictions = [self.predictors[i].predict(equation, initials[i]) for i in others]
                fine = [jnp.asarray(prediction.resolved) for prediction in predictions]
                return [prediction.values for prediction in predictions], (passed(predictions), fine)

            def push(direction: Any) -> Any:
                values, tangents, found = jax.jvp(fields, (z,), (direction,), has_aux=True)
                return values, found, tangents

            values, (good, fine), jacobians = jax.vmap(push, out_axes=(None, None, -1))(
                jnp.eye(z.shape[0], dtype=z.dtype)
            )
            for i, prediction, jacobian, resolved in zip(others, values, jacobians, fine, strict=True):
                part = self.objective.losses[i].expand(self.predictors[i], prediction, jacobian)
                kept = jacobian if jacobian.size <= KEPT else jacobian[:0]
                parts[i] = part._replace(resolved=resolved, predictions=(prediction, kept))
        each = [parts[i] for i in range(len(self.predictors))]
        total = jnp.where(good, sum(part.value for part in each), jnp.nan)
        gradient, curvature = (sum(getattr(part, name) for part in each) for name in ("gradient", "curvature"))
        noise, squares, resolved = (jnp.stack([jnp.asarray(part[i]) for part in each]) for i in (3, 4, 5))
        return Expansion(total, gradient, curvature, noise, squares, resolved, tuple(part.predictions for part in each))

    def _expand_log_density(self, index: int, z: Any) -> Expansion:
        """Log densities enter linearly, so that Gauss–Newton would see no curvature: differences of the exact gradient.

        They are good to 1e-8, and compile in a fraction of the time that second derivatives take.
        """

        def loss(point: Any) -> Any:
            equation, initials = self.build(point)
            prediction = self.predictors[index].predict(equation, initials[index])
            total = self.objective.losses[index].value(self.predictors[index], prediction.values)
            return jnp.where(passed((prediction,)), total, jnp.nan), prediction.resolved

        count = z.shape[0]
        step = NUDGE * jnp.maximum(1.0, jnp.abs(z))
        moves = jnp.concatenate([jnp.zeros((1, count), z.dtype), jnp.diag(step), -jnp.diag(step)])
        (totals, resolved), slopes = jax.lax.map(jax.value_and_grad(loss, has_aux=True), z + moves)
        half = (slopes[1 : count + 1] - slopes[count + 1 :]) / (2 * step[:, None])
        curvature = 0.5 * (half + half.T)
        return Expansion(totals[0], slopes[0], curvature, curvature, jnp.zeros(()), resolved[0])

    def euler(self, z: Any) -> Expansion:
        """Minus the log density of Euler steps along all paths, with its Fisher information."""
        paths = [predictor for predictor in self.predictors if not predictor.on_cells]

        def moments(point: Any) -> Any:
            equation, _ = self.build(point)
            means, variances = zip(*(path.euler(equation) for path in paths), strict=True)
            return (jnp.concatenate(means), jnp.log(jnp.concatenate(variances)))

        stops = jnp.concatenate([path.observation for path in paths])
        mean, log_variance = moments(z)
        mean_slope, log_slope = jax.jacfwd(moments)(z)
        weight = jnp.exp(-log_variance)
        residual = stops - mean
        total = 0.5 * jnp.sum(weight * residual**2 + log_variance)
        gradient = -(weight * residual) @ mean_slope + 0.5 * (1 - weight * residual**2) @ log_slope
        curvature = (weight[:, None] * mean_slope).T @ mean_slope + 0.5 * log_slope.T @ log_slope
        none = jnp.zeros(1)
        return Expansion(total, gradient, curvature, jnp.zeros((1, *curvature.shape)), none, jnp.ones(1, bool))


def draw(predictors: Any, size: int, key: Any) -> tuple[Any, ...]:
    """Rows of a minibatch, anew from each measurement."""
    rows = []
    for predictor, one in zip(predictors, jax.random.split(key, len(predictors)), strict=True):
        chance = jax.random.uniform(one, predictor.weight.shape) + (predictor.weight > 0)
        rows.append(jax.lax.top_k(chance, min(size, predictor.weight.shape[0]))[1])
    return tuple(rows)


def passed(predictions: Any) -> Any:
    """Whether every check of the solver passed."""
    tables = [prediction.checks.table for prediction in predictions if prediction.checks.messages]
    return ~jnp.any(jnp.stack([jnp.any(table[:, 0] > 0) for table in tables])) if tables else jnp.array(True)


def assemble(
    model: Any, starts: Any, measurements: tuple[Any, ...], held_out: tuple[Any, ...]
) -> tuple[Parameters, Callable[..., Any] | None, tuple[int, ...], tuple[int, ...]]:
    """(parameters, function or None, and which initial state each fitted and each held-out measurement starts from).

    Raises TypeError if `parameters` and the kind of model do not fit together.
    """
    function: Callable[..., Any] | None = None
    fitted: Any = model
    if isinstance(model, Equation):
        if starts is not None:
            raise TypeError(
                "parameters= belongs to a model that is a function of them; mark the equation's numbers instead, or pass a function"
            )
    elif callable(model):
        if not starts:
            raise TypeError(
                "a model that is a function needs parameters={name: start}, got none; name each argument with its start"
            )
        function = model
        check_function(function, starts)
        fitted = OrderedDict((name, start if marked(start) else Free(start)) for name, start in dict(starts).items())
    else:
        raise TypeError(f"model must be an equation or a function that returns one, got {type(model).__name__}")
    own: list[Any] = []

    def place(measurement: Any, prepared: Callable[[Any], Any]) -> int:
        initial = getattr(measurement, "initial", None)
        if initial is None:
            return -1
        index = next((i for i, (other, _) in enumerate(own) if _same(other, initial)), len(own))
        if index == len(own):
            own.append((initial, prepared(initial)))
        return index

    fitted_from = tuple(place(measurement, lambda initial: initial) for measurement in measurements)
    held_out_from = tuple(place(measurement, unmarked) for measurement in held_out)
    initials = own[0][1] if len(own) == 1 else OrderedDict((str(i), initial) for i, (_, initial) in enumerate(own))
    return collect({"": fitted, "initial": initials}), function, fitted_from, held_out_from


def _same(one: Any, other: Any) -> bool:
    """Whether two measurements start from one state: a measured one is wrong in both of them alike."""
    arrays = isinstance(one, np.ndarray) and isinstance(other, np.ndarray)
    return one is other or (arrays and one.shape == other.shape and bool((one == other).all()))


def check_function(function: Callable[..., Any], names: Any) -> None:
    try:
        inspect.signature(function).bind(**dict.fromkeys(names))
    except TypeError as error:
        raise TypeError(
            f"the model cannot be called with the parameters {', '.join(names)}: {error}; name them as its arguments"
        ) from None
    except ValueError:
        return


def start_vector(parameters: Parameters) -> np.ndarray:
    return parameters.transform.inverse(np.asarray(parameters.start))


def empty_predictions(predictors: Any, z: Any) -> tuple[Any, ...]:
    """What `Expansion.predictions` holds before anything is predicted."""
    none = lambda *shape: np.zeros(shape, z.dtype)
    shapes = [() if is_log_density(one) else np.shape(one.observation) for one in predictors]
    kept = [shape if np.prod(shape) * len(z) <= KEPT else (0, *shape[1:]) for shape in shapes]
    return tuple((none(*shape), none(*part, len(z))) if shape else () for shape, part in zip(shapes, kept, strict=True))
