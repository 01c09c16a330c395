"""Predictions of all experiments, of which those that are alike share one program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.measurements.predictor import Prediction
from jaxdiff.model.observed import Observed

KEPT = 2**22  # numbers of a Jacobian beyond which a fit does not keep it


def predictions(experiments: Sequence[tuple[Any, Observed, int]]) -> tuple[Prediction, ...]:
    """The prediction of each (predictor, model, number); those that differ in numbers alone are one program in a loop, whose
    time to compile does not grow with how many they are."""
    if len(experiments) == 1:
        return (_predicted(*experiments[0]),)
    found: list[Any] = [None] * len(experiments)
    flat = [jax.tree.flatten((predictor, model, jnp.asarray(number))) for predictor, model, number in experiments]
    groups: dict[Any, list[int]] = {}
    for i, (leaves, structure) in enumerate(flat):
        groups.setdefault((structure, *map(_kind, leaves)), []).append(i)
    for (structure, *_), group in groups.items():
        columns = list(zip(*(flat[i][0] for i in group), strict=True))
        common = [all(_common(one, column[0]) for one in column) for column in columns]
        own = [column for column, same in zip(columns, common, strict=True) if not same]
        if len(group) == 1 or sum(np.size(one) for column in own for one in column) > KEPT:
            for i in group:
                found[i] = _predicted(*experiments[i])
            continue

        def predict(own: Any, columns: Any = columns, common: Any = common, structure: Any = structure) -> Prediction:
            rest = iter(own)
            leaves = [column[0] if same else next(rest) for column, same in zip(columns, common, strict=True)]
            return _predicted(*jax.tree.unflatten(structure, leaves))

        together = jax.lax.map(predict, [jnp.stack(column) for column in own])
        for k, i in enumerate(group):
            found[i] = jax.tree.map(lambda x, k=k: x[k], together)
    return tuple(found)


def _kind(leaf: Any) -> Any:
    """What experiments alike have in common of a leaf: the shape of numbers, or a function itself."""
    return (np.shape(leaf), jnp.result_type(leaf)) if eqx.is_array_like(leaf) else id(leaf)


def _predicted(predictor: Any, model: Observed, number: Any) -> Prediction:
    prediction = predictor.observed(model, number)
    return prediction._replace(resolved=jnp.asarray(prediction.resolved))


def _common(one: Any, other: Any) -> bool:
    known = not isinstance(one, jax.core.Tracer) and not isinstance(other, jax.core.Tracer)
    return one is other or (known and np.array_equal(one, other))
