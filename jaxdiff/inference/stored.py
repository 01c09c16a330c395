"""Stored fits, read again."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.inference.objective import check_function, check_indices, one_or_all
from jaxdiff.inference.result import FORMAT, Fit
from jaxdiff.inference.verdict import Verdict
from jaxdiff.measurements.measurement import checked_conditions
from jaxdiff.model.equations import Equation
from jaxdiff.model.observed import Observed
from jaxdiff.parameters import collect
from jaxdiff.runtime.staging import require_file


def _number(value: Any) -> Any:
    """A stored number or list of numbers; None was not finite."""
    array = np.asarray(np.nan if value is None else value)
    if array.dtype.kind not in "ifO" or any(isinstance(one, (str, dict)) for one in array.ravel()):
        raise ValueError(f"{str(value)[:40]} is no number")
    return array.astype(float) if isinstance(value, list) else float(array)


def load(path: str | os.PathLike[str], model: Any = None) -> Fit:
    """Load a stored fit: its numbers, without data; with the model it predicts again.

    Args:
        path: a file that `Fit.save` wrote.
        model: what was fitted, an equation with its marks or a function of named parameters, into which the stored numbers
            are put; None: numbers alone.

    Returns:
        `Fit`.

    Raises:
        ValueError: a file that is no stored fit, is damaged, or does not belong to the model.

    >>> import jaxdiff as jd, numpy as np
    >>> grid = jd.Grid.uniform((0.0, 1.0, 8))
    >>> readings = jd.Readings(grid, 1.0, [1.0, 2.0, 3.0], [0.5, 0.5, 0.5], np.exp([-0.5, -1.0, -1.5]), sigma=0.01)
    >>> model = jd.Diffusion(1.0, decay=jd.Positive(1.0))
    >>> path = jd.fit(model, readings, progress=False).save("fit.json")
    >>> again = jd.load(path, model)
    >>> round(again.parameters["decay"], 3), round(float(again.predict(readings)[1]), 3)
    (0.5, 0.368)
    """
    path = Path(path)
    try:
        require_file(path)
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as a stored fit: {error}; name a file that Fit.save wrote") from None
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise ValueError(f"{path} is not a stored fit, got {type(stored).__name__}; name a file that Fit.save wrote")
    try:
        found = _restored(stored)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is a damaged stored fit: {error}; store it again") from None
    except KeyError as error:
        raise ValueError(f"{path} is a damaged stored fit: it has no {error}; store it again") from None
    if model is None:
        return found
    # of a function those of initial states are no arguments: measurements hold them
    own = {name: x for name, x in found.parameters.items() if not name.startswith(("initial.", "initial["))}
    models = _filled(model, found.parameters if isinstance(model, Equation) else own, found.conditions)
    equations, states = one_or_all([one.equation for one in models]), one_or_all([one.initial for one in models])
    initials = tuple((None, one.initial) for one in models if one.initial is not None)
    loaded = replace(found, model=equations, initial=states, initials=initials, models=models)
    if isinstance(model, Equation):
        return loaded
    return replace(loaded, function=model, arguments={name: np.asarray(x) for name, x in own.items()})


def _restored(stored: dict[str, Any]) -> Fit:
    """The numbers of a stored fit; raises what damaged content leads to."""
    if not isinstance(stored["converged"], bool) or not all(
        isinstance(stored[key], str) for key in ("loss_name", "search")
    ):
        raise ValueError("converged is true or false, loss_name and search are texts")
    for key in ("labels", "notes"):
        if not (isinstance(stored[key], list) and all(isinstance(text, str) for text in stored[key])):
            raise ValueError(f"{key} is a list of texts")
    fit = Fit(
        model=None,
        parameters={name: _number(value) for name, value in stored["parameters"].items()},
        standard_errors={name: _number(value) for name, value in stored["standard_errors"].items()},
        intervals={name: tuple(_number(end) for end in value) for name, value in stored["intervals"].items()},
        start={name: _number(value) for name, value in stored["start"].items()},
        labels=tuple(stored["labels"]),
        covariance=_number(stored["covariance"]),
        loss=_number(stored["loss"]),
        loss_name=stored["loss_name"],
        validation_loss=None if stored["validation_loss"] is None else _number(stored["validation_loss"]),
        history=np.asarray(_number(stored["history"])),
        validation_history=np.reshape(_number(stored.get("validation_history", [])), (-1, 2)),
        converged=stored["converged"],
        notes=tuple(stored["notes"]),
        search=stored["search"],
        judged=Verdict.restored(stored.get("verdict")),
        conditions=tuple(map(checked_conditions, stored.get("conditions", ()))),
    )
    values, errors, ends = fit.columns()
    p, names = len(fit.labels), list(fit.parameters)
    alike = all(list(part) == names for part in (fit.standard_errors, fit.intervals, fit.start))
    if not alike or (*values.shape, *errors.shape, *ends.shape, *fit.covariance.shape) != (p, p, p, 2, p, p):
        raise ValueError(f"its parts are not all of the {p} numbers that its labels name")
    return fit


def _filled(model: Any, numbers: dict[str, Any], conditions: tuple[dict[str, Any], ...]) -> tuple[Observed, ...]:
    """The model of each experiment."""
    if not isinstance(model, Equation):
        return tuple(_made(model, numbers, one) for one in conditions or ({},))
    marks = collect(model)
    missing = [name for name in marks.names if name not in numbers]
    if missing:
        raise ValueError(
            f"the stored fit has no {', '.join(missing)}; it has {', '.join(numbers)}: pass the model that was fitted"
        )
    return (Observed(marks.rebuild(np.concatenate([np.ravel(numbers[name]) for name in marks.names]))),)


def _made(model: Any, numbers: dict[str, Any], conditions: dict[str, Any]) -> Observed:
    if courses := [name for name, value in conditions.items() if value is None]:
        raise ValueError(
            f"the condition {courses[0]} is no number, and a stored fit keeps numbers alone; load it without the model, or fit anew"
        )
    try:
        check_function(model, numbers, conditions)
    except TypeError as error:
        raise ValueError(str(error)) from None
    check_indices(model, numbers, conditions, None)
    return Observed.of(model(**numbers, **conditions))
