"""From a vector of parameters to the loss of all measurements; nothing here knows how it is minimised."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.inference.losses import Expansion, Loss, expand, value
from jaxdiff.measurements.predictor import Prediction
from jaxdiff.model.equations import Equation
from jaxdiff.parameters import Free, Parameters, collect, marked, released, unmarked

NUDGE = 1e-4  # of a coordinate, for differences of gradients
KEPT = 2**22  # numbers of a Jacobian beyond which a fit does not keep it


@dataclass(frozen=True)
class Objective:
    """The static half of a fit: equal objectives share compiled code, whatever the numbers.

    model: a function of named parameters, None for a marked equation; losses: one per measurement; initials: which
    of the fitted initial states each measurement starts from, -1 for none of its own
    """

    model: Callable[..., Any] | None
    losses: tuple[Loss, ...]
    initials: tuple[int, ...]

    def build(self, parameters: Parameters, z: Any) -> tuple[Any, tuple[Any, ...]]:
        """The equation at z, and the initial state of each measurement."""
        return self.unpack(parameters.build(z))

    def unpack(self, tree: Any) -> tuple[Any, tuple[Any, ...]]:
        equation, initial = tree[""], None
        if self.model is not None:
            equation = self.model(**equation)
            if isinstance(equation, tuple):
                equation, initial = equation
            equation = released(equation)
        own = list(tree["initial"].values()) if isinstance(tree["initial"], OrderedDict) else [tree["initial"]]
        return equation, tuple(initial if initial is not None else own[i] if i >= 0 else None for i in self.initials)

    def predict(self, parameters: Parameters, plans: Any, z: Any) -> tuple[Prediction, ...]:
        equation, initials = self.build(parameters, z)
        return tuple(plan.predict(equation, initial) for plan, initial in zip(plans, initials, strict=True))

    def values(self, parameters: Parameters, plans: Any, z: Any, batch: Any = None) -> Any:
        """The loss of each measurement, NaN where a check failed; and whether its plan still resolves the coefficients."""
        predictions = self.predict(parameters, plans, z)
        batch = (None,) * len(plans) if batch is None else batch
        each = [
            value(loss, plan, p.values, rows)
            for loss, plan, p, rows in zip(self.losses, plans, predictions, batch, strict=True)
        ]
        resolved = jnp.stack([jnp.asarray(prediction.resolved) for prediction in predictions])
        return jnp.where(passed(predictions), jnp.stack(each), jnp.nan), resolved

    def expand(self, parameters: Parameters, plans: Any, z: Any) -> Expansion:
        """The loss with gradient and curvature; `noise`, `squares` and `seen` have one entry per measurement."""
        paths = [i for i, plan in enumerate(plans) if plan.family == "density"]
        others = [i for i in range(len(plans)) if i not in paths]
        parts: dict[int, Expansion] = {i: self._observed(parameters, plans[i], i, z) for i in paths}
        good = jnp.array(True)
        if others:

            def fields(point: Any) -> Any:
                equation, initials = self.build(parameters, point)
                predictions = [plans[i].predict(equation, initials[i]) for i in others]
                fine = [jnp.asarray(prediction.resolved) for prediction in predictions]
                return [prediction.values for prediction in predictions], (passed(predictions), fine)

            def push(direction: Any) -> Any:
                values, tangents, found = jax.jvp(fields, (z,), (direction,), has_aux=True)
                return values, found, tangents

            values, (good, fine), jacobians = jax.vmap(push, out_axes=(None, None, -1))(
                jnp.eye(z.shape[0], dtype=z.dtype)
            )
            for i, prediction, jacobian, resolved in zip(others, values, jacobians, fine, strict=True):
                part = expand(self.losses[i], plans[i], prediction, jacobian)
                kept = jacobian if jacobian.size <= KEPT else jacobian[:0]
                parts[i] = part._replace(resolved=resolved, seen=(prediction, kept))
        each = [parts[i] for i in range(len(plans))]
        total = jnp.where(good, sum(part.value for part in each), jnp.nan)
        gradient, curvature = (sum(getattr(part, name) for part in each) for name in ("gradient", "curvature"))
        noise, squares, resolved = (jnp.stack([jnp.asarray(part[i]) for part in each]) for i in (3, 4, 5))
        return Expansion(total, gradient, curvature, noise, squares, resolved, tuple(part.seen for part in each))

    def _observed(self, parameters: Parameters, plan: Any, index: int, z: Any) -> Expansion:
        """Log densities enter linearly, so that Gauss–Newton would see no curvature: differences of the exact gradient.

        They are good to 1e-8, and compile in a fraction of the time that second derivatives take.
        """

        def loss(point: Any) -> Any:
            equation, initials = self.build(parameters, point)
            prediction = plan.predict(equation, initials[index])
            total = value(self.losses[index], plan, prediction.values)
            return jnp.where(passed((prediction,)), total, jnp.nan), prediction.resolved

        count = z.shape[0]
        step = NUDGE * jnp.maximum(1.0, jnp.abs(z))
        moves = jnp.concatenate([jnp.zeros((1, count), z.dtype), jnp.diag(step), -jnp.diag(step)])
        (totals, resolved), slopes = jax.lax.map(jax.value_and_grad(loss, has_aux=True), z + moves)
        half = (slopes[1 : count + 1] - slopes[count + 1 :]) / (2 * step[:, None])
        curvature = 0.5 * (half + half.T)
        return Expansion(totals[0], slopes[0], curvature, curvature, jnp.zeros(()), resolved[0])

    def euler(self, parameters: Parameters, plans: Any, z: Any) -> Expansion:
        """Minus the log density of Euler steps along all paths, with its Fisher information."""
        paths = [plan for plan in plans if not plan.on_cells]

        def moments(point: Any) -> Any:
            equation, _ = self.build(parameters, point)
            means, variances = zip(*(plan.euler(equation) for plan in paths), strict=True)
            return (jnp.concatenate(means), jnp.log(jnp.concatenate(variances)))

        stops = jnp.concatenate([plan.observation for plan in paths])
        mean, log_variance = moments(z)
        mean_slope, log_slope = jax.jacfwd(moments)(z)
        weight = jnp.exp(-log_variance)
        residual = stops - mean
        total = 0.5 * jnp.sum(weight * residual**2 + log_variance)
        gradient = -(weight * residual) @ mean_slope + 0.5 * (1 - weight * residual**2) @ log_slope
        curvature = (weight[:, None] * mean_slope).T @ mean_slope + 0.5 * log_slope.T @ log_slope
        none = jnp.zeros(1)
        return Expansion(total, gradient, curvature, jnp.zeros((1, *curvature.shape)), none, jnp.ones(1, bool))


def draw(plans: Any, size: int, key: Any) -> tuple[Any, ...]:
    """Rows of a minibatch, anew from each measurement."""
    rows = []
    for plan, one in zip(plans, jax.random.split(key, len(plans)), strict=True):
        chance = jax.random.uniform(one, plan.weight.shape) + (plan.weight > 0)
        rows.append(jax.lax.top_k(chance, min(size, plan.weight.shape[0]))[1])
    return tuple(rows)


def passed(predictions: Any) -> Any:
    """Whether every check of the solver passed."""
    tables = [prediction.checks.table for prediction in predictions if prediction.checks.messages]
    return ~jnp.any(jnp.stack([jnp.any(table[:, 0] > 0) for table in tables])) if tables else jnp.array(True)


def assemble(
    model: Any, starts: Any, measurements: tuple[Any, ...], held: tuple[Any, ...]
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

    def places(several: tuple[Any, ...], prepared: Callable[[Any], Any]) -> tuple[int, ...]:
        found = []
        for measurement in several:
            initial = getattr(measurement, "initial", None)
            index = (
                next((i for i, (other, _) in enumerate(own) if _same(other, initial)), len(own))
                if initial is not None
                else -1
            )
            own.extend([(initial, prepared(initial))] if index == len(own) else [])
            found.append(index)
        return tuple(found)

    which, beside = places(measurements, lambda initial: initial), places(held, unmarked)
    initials = own[0][1] if len(own) == 1 else OrderedDict((str(i), initial) for i, (_, initial) in enumerate(own))
    return collect({"": fitted, "initial": initials}), function, which, beside


def _same(one: Any, other: Any) -> bool:
    """Whether two measurements start from one state: a measured one is wrong in both of them alike."""
    arrays = isinstance(one, np.ndarray) and isinstance(other, np.ndarray)
    return one is other or (arrays and one.shape == other.shape and bool((one == other).all()))


def check_function(function: Callable[..., Any], names: Any) -> None:
    import inspect

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


def unseen(plans: Any, z: Any) -> tuple[Any, ...]:
    """What `Expansion.seen` holds before anything is seen."""
    none = lambda *shape: np.zeros(shape, z.dtype)
    shapes = [() if plan.family == "density" else np.shape(plan.observation) for plan in plans]
    kept = [shape if np.prod(shape) * len(z) <= KEPT else (0, *shape[1:]) for shape in shapes]
    return tuple((none(*shape), none(*part, len(z))) if shape else () for shape, part in zip(shapes, kept, strict=True))
