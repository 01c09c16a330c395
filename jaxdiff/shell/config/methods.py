"""The [fit] and the [solve] of a configuration file: which method, and how far."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff.discretisation.modes import Spectral
from jaxdiff.discretisation.schemes import FiniteVolume
from jaxdiff.inference.distances import energy_distance, wasserstein
from jaxdiff.inference.gradient_descent import METHODS, RATE, Descent, by_options
from jaxdiff.inference.levenberg_marquardt import LevenbergMarquardt
from jaxdiff.inference.losses import kl_divergence, mse, negative_log_likelihood
from jaxdiff.inference.noise_models import ERRORS
from jaxdiff.integration.options import STEPPERS as CLASSES
from jaxdiff.shell.config.keys import check_keys, choose, count, flag, number, text

METHOD = ("scheme", "stepper", "substeps", "tolerance")
LOSSES = {loss.name: loss for loss in (mse, kl_divergence, negative_log_likelihood, energy_distance, wasserstein)}
OPTIMIZERS = ("levenberg_marquardt", *METHODS)
SCHEMES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "finite_volume": (FiniteVolume, ("order",)),
    "spectral": (Spectral, ()),
}
STEPPERS = {re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower(): stepper for name, stepper in CLASSES.items()}


def solve_times(setting: Any, start: float) -> np.ndarray | None:
    if setting is None:
        return None
    if isinstance(setting, Mapping):
        check_keys(setting, "[solve] times", ("start", "stop", "count"))
        if "stop" not in setting:
            raise ValueError("[solve] times needs a stop, as in { stop = 10.0, count = 51 }")
        first, last = (number(setting.get(k, start), f"[solve] times {k}") for k in ("start", "stop"))
        return np.linspace(first, last, count(setting.get("count", 51), "[solve] times count", 2))
    values = setting if isinstance(setting, list) else [setting]
    if not values:
        raise ValueError("[solve] times is empty; list the times, or leave it out for those of the data")
    times = np.asarray([number(value, "[solve] times", finite=False) for value in values])
    if np.any(times == -np.inf):
        raise ValueError("[solve] times must be numbers, or inf for the steady state, got -inf")
    return times


def method(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if "scheme" in table:
        name, setting = _named(table["scheme"], f"{where} scheme", tuple(SCHEMES))
        make, known = SCHEMES[name]
        check_keys(setting, f"{where} scheme", ("name", *known))
        options["scheme"] = make(**{key: number(value, f"{where} {key}", whole=True) for key, value in setting.items()})
    if "stepper" in table:
        options["stepper"] = STEPPERS[choose(table["stepper"], f"{where} stepper", tuple(STEPPERS))]()
    if "substeps" in table:
        options["substeps"] = count(table["substeps"], f"{where} substeps")
    if "tolerance" in table:
        options["tolerance"] = number(table["tolerance"], f"{where} tolerance")
    return options


def fit_options(table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    checks: dict[str, Callable[[Any, str], Any]] = {
        "loss": lambda value, where: LOSSES[choose(value, where, tuple(LOSSES))],
        "optimizer": _optimizer,
        "steps": count,
        "batch_size": count,
        "errors": partial(choose, allowed=ERRORS),
        "validation": number,
        "save": lambda value, where: folder / text(value, where),
        "seed": lambda value, where: jax.random.key(count(value, where, 0, 2**31 - 1)),
    }
    given = {key: check(table[key], f"[fit] {key}") for key, check in checks.items() if key in table}
    return {**method(table, "[fit]"), **{"key" if key == "seed" else key: value for key, value in given.items()}}


def _named(setting: Any, where: str, allowed: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """(name, options) of a choice that is written as its name or as a table with its name."""
    options = dict(setting) if isinstance(setting, Mapping) else {"name": setting}
    return choose(options.pop("name", None), where, allowed), options


def _optimizer(setting: Any, where: str) -> Any:
    name, settings = _named(setting, where, OPTIMIZERS)
    if name == "levenberg_marquardt":
        return LevenbergMarquardt(**_settings(LevenbergMarquardt, settings, f"{where} {name}"))
    import optax

    known = ("patience", "average", "every")
    own = {key: settings.pop(key) for key in known if key in settings}
    settings = _settings(getattr(optax, name), settings, f"{where} {name}", known)
    try:
        if not settings.keys() - {"learning_rate"}:
            return Descent(name, **settings, **own)
        rate = {} if name == "lbfgs" else {"learning_rate": RATE}
        return Descent(by_options(name, **{**rate, **settings}), **own)
    except ValueError as error:
        raise ValueError(f"{where} {name}: {error}") from None


def _settings(make: Any, settings: dict[str, Any], where: str, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """Options of an optimiser, checked by the defaults in its signature."""
    signature = inspect.signature(make).parameters
    check_keys(settings, where, (*signature, *more))
    for key, value in settings.items():
        default = signature[key].default
        check = flag if isinstance(default, bool) else count if isinstance(default, int) else number
        settings[key] = check(value, f"{where} {key}")
    return settings
