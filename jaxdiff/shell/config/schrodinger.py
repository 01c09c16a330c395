"""The energies of a wave in the [equation] of a configuration file, and the wave in its [initial]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from jaxdiff.model.schrodinger import Schrodinger
from jaxdiff.shell.config.keys import check_keys, flag, number, text_or_number

NUMBERS = ("mass", "hbar")
ENERGIES = ("potential", "absorption")
WALLS = ("dirichlet", "neumann", "periodic")


class Wave(eqx.Module):
    """ψ = amplitude · e^{i phase}, functions of position."""

    amplitude: Callable[..., Any]
    phase: Callable[..., Any]

    def __call__(self, *x: Any) -> Any:
        return self.amplitude(*x) * jnp.exp(1j * self.phase(*x))


def read_energies(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table [equation] of a wave, checked."""
    check_keys(table, "[equation]", ("kind", *ENERGIES, *NUMBERS, "imaginary_time"))
    if "potential" not in table:
        raise ValueError("[equation] has no potential; give a number or an expression such as 'k*x**2/2'")
    found = {key: text_or_number(table[key], f"[equation] {key}") for key in (*ENERGIES, *NUMBERS) if key in table}
    imaginary = flag(table.get("imaginary_time", False), "[equation] imaginary_time")
    return {"kind": "schrodinger", **found, "imaginary_time": imaginary}


def read_start(table: Any) -> dict[str, Any]:
    """The table [initial] of a wave, checked, with its numbers as texts."""
    table = dict(table) if isinstance(table, Mapping) else {"expression": table}
    check_keys(table, "[initial]", ("expression", "phase", "start"))
    if "expression" not in table:
        raise ValueError("[initial] of a wave has no expression; write expression = 'exp(-x**2/2)', phase = 'k*x'")
    if "start" in table:
        number(table["start"], "[initial] start")
    texts = {key: text_or_number(table[key], f"[initial] {key}") for key in ("expression", "phase") if key in table}
    return {**table, **{key: value if isinstance(value, str) else repr(value) for key, value in texts.items()}}


def start(expression: Callable[..., Any], phase: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """The wave at the start, which is real without a phase."""
    return expression if phase is None else Wave(expression, phase)


def equation(
    table: Mapping[str, Any], sides: Mapping[str, Any], ends: Any, read: Callable[[Any, str], Any]
) -> Schrodinger:
    """The equation; `read` makes a coefficient of a text or a number, `ends` are walls of the kinds that `sides` name."""
    for side, wall in sides.items():
        if wall["kind"] not in WALLS:
            raise ValueError(
                f"[boundaries] {side} is {wall['kind']!r}; a wave takes {', '.join(WALLS)}, and is taken up by [equation] absorption"
            )
    found = {key: read(table[key], f"[equation] {key}") for key in (*ENERGIES, *NUMBERS) if key in table}
    return Schrodinger(**found, imaginary_time=table["imaginary_time"], boundaries=ends)
