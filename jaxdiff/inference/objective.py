"""What is minimised: the loss of all measurements as a function of one vector of parameters."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.schemes import FiniteVolume
from jaxdiff.inference.loss import Expansion, Loss
from jaxdiff.inference.losses import is_log_density, is_table
from jaxdiff.inference.predictions import KEPT, predictions
from jaxdiff.inference.shared_parameters import named, sharing
from jaxdiff.inference.smoothing import Smoothing, rough
from jaxdiff.measurements.predictor import Prediction
from jaxdiff.model.arguments import TRACED, index_beyond
from jaxdiff.model.equations import Equation
from jaxdiff.model.observed import Observed
from jaxdiff.parameters import Free, Parameters, collect, marked, unmarked, with_parameters

NUDGE = 1e-4  # of a coordinate, for differences of gradients


@dataclass(frozen=True)
class Objective:
    """The static half of a problem: equal objectives share compiled code, whatever the numbers.

    model: a function of named parameters, None for a marked equation; losses: one per measurement; initials, conditions: which
    of the fitted initial states and of the known conditions are those of each measurement, -1 for none
    """

    model: Callable[..., Any] | None
    losses: tuple[Loss, ...]
    initials: tuple[int, ...]
    conditions: tuple[int, ...]

    def unpack(self, tree: Any) -> tuple[Observed, ...]:
        """What a tree of numbers makes of each measurement; those without conditions of their own share one equation."""
        own = list(tree["initial"].values()) if isinstance(tree["initial"], OrderedDict) else [tree["initial"]]
        made = {
            i: self._made(tree[""], tree["conditions"][i] if i >= 0 else {}) for i in dict.fromkeys(self.conditions)
        }

        def of(initial: int, conditions: int) -> Observed:
            model = made[conditions]
            state = model.initial if model.initial is not None else own[initial] if initial >= 0 else None
            state = state if self.model is None else with_parameters(state, tree[""])
            return Observed(model.equation, state, model.observe)

        return tuple(map(of, self.initials, self.conditions))

    def _made(self, numbers: Any, conditions: Any) -> Observed:
        if self.model is None:
            return Observed(numbers)
        try:
            return Observed.of(self.model(**numbers, **conditions))
        except IndexError as error:
            raise ValueError(
                f"the model reads an array where it has no entry: {error}; an index is a whole number, conditions={{'i': 0}}"
            ) from None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Problem:
    """What is minimised, as a function of one vector z (p,) whose coordinates are of order one; a pytree, traceable.

    predictors: one per measurement; none yet for a problem that was not prepared; smoothing: what the roughness of fields adds to
    the loss, None where none is smooth
    """

    parameters: Parameters
    predictors: tuple[Any, ...]
    objective: Objective = field(metadata={"static": True})
    smoothing: Smoothing | None = None

    def build(self, z: Any) -> tuple[Observed, ...]:
        """The model of each measurement at z."""
        return self.objective.unpack(self.parameters.build(z))

    def predict(self, z: Any, which: Sequence[int] | None = None) -> tuple[Prediction, ...]:
        models = self.build(z)
        each = range(len(self.predictors)) if which is None else which
        return predictions([(self.predictors[i], models[i], i) for i in each])

    def value(self, z: Any, batch: Any = None) -> tuple[Any, Any]:
        """The loss, NaN where a check failed; and of each measurement whether its predictor resolves the coefficients.

        batch: which rows of each measurement, None for all
        """
        predictions = self.predict(z)
        parts = zip(
            self.objective.losses, self.predictors, predictions, batch or (None,) * len(predictions), strict=True
        )
        total = sum(loss.value(predictor, p.values, rows) for loss, predictor, p, rows in parts)
        if self.smoothing is not None:
            total = total + self.smoothing.energy(self.smoothing.residuals(self.build(z)))
        resolved = jnp.stack([jnp.asarray(prediction.resolved) for prediction in predictions])
        return jnp.where(passed(predictions), total, jnp.nan), resolved

    def expand(self, z: Any, observed: bool = False) -> Expansion:
        """The loss with gradient and curvature; `noise`, `squares` and `predictions` have one entry per measurement.

        observed: by the observed information of all log densities, also of those that are searched by the expected
        """
        twice = lambda predictor: is_log_density(predictor) or (observed and is_table(predictor))
        log_densities = [i for i, predictor in enumerate(self.predictors) if twice(predictor)]
        others = [i for i in range(len(self.predictors)) if i not in log_densities]
        parts: dict[int, Expansion] = self._expand_log_densities(log_densities, z) if log_densities else {}
        good = jnp.array(True)
        if others:

            def fields(point: Any) -> Any:
                predictions = self.predict(point, others)
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
                kept = () if is_table(self.predictors[i]) else (prediction, kept)
                parts[i] = part._replace(resolved=resolved, predictions=kept)
        each = [parts[i] for i in range(len(self.predictors))]
        total = jnp.where(good, sum(part.value for part in each), jnp.nan)
        gradient, curvature = (sum(getattr(part, name) for part in each) for name in ("gradient", "curvature"))
        noise, squares, resolved = (jnp.stack([jnp.asarray(part[i]) for part in each]) for i in (3, 4, 5))
        kept = tuple(part.predictions for part in each)
        return self._smoothed(Expansion(total, gradient, curvature, noise, squares, resolved, kept), z)

    def _smoothed(self, data: Expansion, z: Any) -> Expansion:
        return data if self.smoothing is None else self.smoothing.added(data, *rough(self, z))

    def _expand_log_densities(self, which: Sequence[int], z: Any) -> dict[int, Expansion]:
        """Log densities enter linearly, so that Gauss–Newton would see no curvature: differences of the exact gradient, of all of
        them together, which stands with the first.

        They are good to 1e-8, and compile in a fraction of the time that second derivatives take.
        """

        def loss(point: Any) -> Any:
            found = self.predict(point, which)
            each = zip(
                (self.objective.losses[i] for i in which), (self.predictors[i] for i in which), found, strict=True
            )
            total = sum(loss.value(predictor, prediction.values) for loss, predictor, prediction in each)
            return jnp.where(passed(found), total, jnp.nan), [jnp.asarray(one.resolved) for one in found]

        count = z.shape[0]
        step = NUDGE * jnp.maximum(1.0, jnp.abs(z))
        moves = jnp.concatenate([jnp.zeros((1, count), z.dtype), jnp.diag(step), -jnp.diag(step)])
        (totals, resolved), slopes = jax.lax.map(jax.value_and_grad(loss, has_aux=True), z + moves)
        half = (slopes[1 : count + 1] - slopes[count + 1 :]) / (2 * step[:, None])
        curvature = 0.5 * (half + half.T)
        whole = Expansion(totals[0], slopes[0], curvature, curvature, jnp.zeros(()))
        none = jax.tree.map(jnp.zeros_like, whole)
        return {i: (none if k else whole)._replace(resolved=resolved[k][0]) for k, i in enumerate(which)}

    def euler(self, z: Any) -> Expansion:
        """Minus the log density of Euler steps along all paths, with its Fisher information; predictors are None elsewhere."""
        paths = [predictor for predictor in self.predictors if predictor is not None]

        def moments(point: Any) -> Any:
            pairs = zip(self.predictors, self.build(point), strict=True)
            several = [path.euler(model.equation) for path, model in pairs if path is not None]
            means, variances = zip(*several, strict=True)
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
        found = Expansion(total, gradient, curvature, jnp.zeros((1, *curvature.shape)), none, jnp.ones(1, bool))
        return self._smoothed(found, z)


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


Sources = tuple[tuple[int, ...], tuple[int, ...]]  # which initial state, and which conditions, each measurement has


def assemble(
    model: Any,
    starts: Any,
    measurements: tuple[Any, ...],
    held_out: tuple[Any, ...],
    checked: set[bytes] | None = None,
) -> tuple[Parameters, Callable[..., Any] | None, Sources, Sources]:
    """(parameters, function or None, and the sources of the fitted and of the held-out measurements).

    checked: whole numbers among conditions that were tried already as indices

    Raises TypeError if `parameters` and the kind of model do not fit together.
    """
    function: Callable[..., Any] | None = None
    fitted: Any = model
    if isinstance(model, Equation):
        if names := named(measurements):
            raise TypeError(
                f"{names[0]!r} names a parameter, and an equation has none by name; pass a function and parameters="
            )
        if starts is not None:
            raise TypeError(
                "parameters= belongs to a model that is a function of them; mark the equation's numbers instead, or pass a function"
            )
    elif callable(model):
        if not starts:
            raise TypeError(
                "a model that is a function needs parameters={name: start}, got none; name each argument with its start"
            )
        function = sharing(model, starts, (*measurements, *held_out))
        for one in (*measurements, *held_out):
            check_function(function, starts, getattr(one, "conditions", None) or {})
        fitted = OrderedDict((name, start if marked(start) else Free(start)) for name, start in dict(starts).items())
    else:
        raise TypeError(f"model must be an equation or a function that returns one, got {type(model).__name__}")
    checked = {b""} if checked is None else checked
    own: list[Any] = []
    known: list[Any] = []
    grids: list[Any] = []

    def place(measurement: Any, prepared: Callable[[Any], Any]) -> int:
        initial = getattr(measurement, "initial", None)
        if initial is None:
            return -1
        index = next((i for i, (other, _) in enumerate(own) if _same(other, initial)), len(own))
        if index == len(own):
            own.append((initial, prepared(initial)))
        return index

    def condition(measurement: Any) -> int:
        given = getattr(measurement, "conditions", None)
        if not given:
            return -1
        if function is None:
            raise TypeError("conditions= belong to a model that is a function of them; write one, def model(D, …)")
        index = next((i for i, other in enumerate(known) if other is given), len(known))
        if index == len(known):
            known.append(given)
            grids.append(getattr(measurement, "grid", None))
        return index

    def sources(several: tuple[Any, ...], prepared: Callable[[Any], Any]) -> Sources:
        return tuple(place(one, prepared) for one in several), tuple(map(condition, several))

    fitted_from, held_out_from = sources(measurements, lambda initial: initial), sources(held_out, unmarked)
    initials = own[0][1] if len(own) == 1 else OrderedDict((str(i), initial) for i, (_, initial) in enumerate(own))
    tree = {"": fitted, "initial": initials} | ({"conditions": tuple(known)} if known else {})
    parameters = collect(tree)
    indices = {indexing(conditions): (conditions, grid) for conditions, grid in zip(known, grids, strict=True)}
    for key, parts in indices.items() if function is not None else ():
        if key not in checked:
            checked.add(key)
            check_indices(function, parameters.rebuild(parameters.start)[""], *parts)
    return parameters, function, fitted_from, held_out_from


def _same(one: Any, other: Any) -> bool:
    """Whether two measurements start from one state: a measured one is wrong in both of them alike."""
    arrays = isinstance(one, np.ndarray) and isinstance(other, np.ndarray)
    return one is other or (arrays and one.shape == other.shape and bool((one == other).all()))


def check_function(function: Callable[..., Any], names: Any, conditions: Any = ()) -> None:
    both = [name for name in names if name in conditions]
    if both:
        raise ValueError(f"{both[0]} is a parameter and a condition; leave it out of one of them")
    known = f" and the conditions {', '.join(conditions)}" if conditions else ""
    try:
        inspect.signature(function).bind(**dict.fromkeys([*names, *conditions]))
    except TypeError as error:
        raise TypeError(
            f"the model cannot be called with the parameters {', '.join(names)}{known}: {error}; name them as its arguments"
        ) from None
    except ValueError:
        return


def check_indices(function: Any, numbers: Any, conditions: Any, grid: Any) -> None:
    """Refuse a whole number among the conditions that is an index beyond the end of an array, where JAX takes the last entry."""
    if not indexing(conditions):
        return

    def read(numbers: Any, conditions: Any) -> Any:
        """All that the model reads of arrays, by itself and in its coefficients."""
        model = Observed.of(function(**numbers, **conditions))
        systems = model.equation.semidiscretise(grid, FiniteVolume()) if grid is not None else []
        start = grid.average(model.initial) if grid is not None and callable(model.initial) else None
        kept = model, [system.at(0.0) for system in systems], start, _seen_once(model, grid)
        return [leaf for leaf in jax.tree.leaves(kept) if isinstance(leaf, (np.ndarray, jax.Array))]

    given = jax.tree.map(jnp.asarray, (numbers, conditions))
    try:
        jax.eval_shape(read, *given)
        which = index_beyond(read, *given)
    except TRACED:
        raise TypeError(
            f"the model asks for the value of a parameter or of a condition, {', '.join(conditions)}, which JAX does not give; use jnp.array(…)[i] in place of np.array(…)[i] or a list, jnp.where in place of if"
        ) from None
    except ValueError:
        return  # whatever it is, the fit says it
    except TypeError as error:
        if "Integers cannot" not in str(error):
            raise
        raise TypeError(
            f"{error}; a whole number among the conditions may be an index and stays whole, write 2.0 for 2"
        ) from None
    if which is not None:
        words = ", ".join(f"{name} = {one}" for name, one in conditions.items() if np.ndim(one) == 0)
        raise ValueError(
            f"the model reads {which}, beyond its end, under the conditions {words}; give a number for each"
        )


def _seen_once(model: Observed, grid: Any) -> Any:
    """What an instrument reads of nothing, for the indices that it takes."""
    if model.observe is None:
        return None
    places = {name: jnp.zeros(1) for name in ("t", *(() if grid is None else grid.names))}
    return model.seen(jnp.zeros(1), {**places, "sensor": jnp.zeros(1, int), "experiment": jnp.zeros(1, int)})


def indexing(conditions: Any) -> bytes:
    """The whole numbers among conditions, which may be indices."""
    leaves = [leaf for leaf in jax.tree.leaves(conditions) if np.issubdtype(leaf.dtype, np.integer)]
    return b"".join(np.asarray(leaf).tobytes() for leaf in leaves)


def one_or_all(several: Sequence[Any]) -> Any:
    """What all share, or all of them."""
    return several[0] if all(one is several[0] for one in several) else tuple(several)


def start_vector(parameters: Parameters) -> np.ndarray:
    return parameters.transform.inverse(np.asarray(parameters.start))


def empty_predictions(predictors: Any, z: Any) -> tuple[Any, ...]:
    """What `Expansion.predictions` holds before anything is predicted."""
    none = lambda *shape: np.zeros(shape, z.dtype)
    shapes = [() if is_log_density(one) or is_table(one) else np.shape(one.observation) for one in predictors]
    kept = [shape if np.prod(shape) * len(z) <= KEPT else (0, *shape[1:]) for shape in shapes]
    return tuple((none(*shape), none(*part, len(z))) if shape else () for shape, part in zip(shapes, kept, strict=True))
