"""What moves a track along each axis, and of which kind that is: read off the programs of its coefficients, not off numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxdiff.discretisation.separability import depends
from jaxdiff.model.arguments import at_place
from jaxdiff.model.coefficients import PerAxis, absent, is_number

_LINEAR = "add sub neg add_any convert_element_type broadcast_in_dim reshape squeeze copy reduce_sum slice concatenate".split()
_CALLS = ("jit", "pjit", "closed_call", "remat2", "checkpoint")
FREE, TRAP, OTHER = "free diffusion", "a drift linear in position", "any drift"


class Terms(NamedTuple):
    """Itô drift, diffusivity and killing along one axis, functions of one number."""

    drift: Any
    diffusivity: Any
    killing: Any

    @property
    def kind(self) -> str:
        """FREE, TRAP or OTHER, as the programs of f, D and the killing tell; so it holds for all numbers in them."""
        drift, diffusivity, killing = map(degree, self)
        if diffusivity or killing or drift > 1:
            return OTHER
        return TRAP if drift else FREE


def degree(function: Any) -> int:
    """0 for a program of one number that does not read it, 1 for one that is linear in it up to a constant, else 2.

    >>> degree(lambda x: 3.0), degree(lambda x: 2.0 * (1.0 - x)), degree(lambda x: 0.0 * x * x)
    (0, 1, 2)
    """
    return max(_degrees(jax.make_jaxpr(function)(jnp.zeros(())).jaxpr, [1]))


def _degrees(program: Any, given: list[int]) -> list[int]:
    """Of the results of a program whose arguments have these degrees."""
    known = dict(zip(program.invars, given, strict=True))
    of = lambda v: 0 if isinstance(v, Literal) else known.get(v, 0)
    for step in program.eqns:
        found, name = [of(v) for v in step.invars], step.primitive.name
        inner = next((step.params[key] for key in ("jaxpr", "call_jaxpr") if key in step.params), None)
        if not any(found):
            out = [0] * len(step.outvars)
        elif inner is not None:
            out = _degrees(getattr(inner, "jaxpr", inner), found) if name in _CALLS else [2] * len(step.outvars)
        elif name == "mul":
            out = [min(sum(found), 2)]
        elif name == "div":
            out = [2 if found[1] else found[0]]
        else:
            out = [max(found) if name in _LINEAR else 2] * len(step.outvars)
        known.update(zip(step.outvars, out, strict=True))
    return [of(v) for v in program.outvars]


def terms(equation: Any, grid: Any) -> tuple[Terms, ...]:
    """Of every axis; on several, refuse what couples them."""
    if grid.ndim == 1:
        return (Terms(*equation.sde(grid)),)
    drift, diffusivity, loss, source, capacity, alpha, _, exchange, _ = equation.transport()
    if exchange or not (absent(source) or isinstance(source, jax.core.Tracer)):  # traced, it was seen before
        raise ValueError(
            "tracks are of particles that are there from the start and always free; leave exchange and source out"
        )
    several = diffusivity.coefficients if isinstance(diffusivity, PerAxis) else (diffusivity,) * grid.ndim
    parts = (0.0,) * grid.ndim if drift is None else drift
    listed = isinstance(parts, (tuple, list)) or (not callable(parts) and np.shape(parts) == (grid.ndim,))
    numbers = [*several, loss, 1.0 if capacity is None else capacity]
    if len(several) != grid.ndim or not all(map(is_number, numbers)):
        raise ValueError(
            "tracks with noise on several axes take a diffusivity that is a number, or jd.PerAxis of numbers; give each axis as a jd.Trajectory of its own for others"
        )
    if not listed or len(parts) != grid.ndim:
        raise ValueError(
            "tracks with noise on several axes take a drift as a tuple of components, each of its own coordinate alone"
        )
    found = []
    for i, (part, D) in enumerate(zip(parts, several, strict=True)):
        kill = loss if i == 0 else 0.0
        found.append(Terms(_component(part, grid.names, i), _constant(D), _constant(kill)))
    return tuple(found)


def _constant(value: Any) -> Any:
    return lambda x: jnp.asarray(value, jnp.result_type(float))


def _component(part: Any, names: tuple[str, ...], i: int) -> Any:
    """One component of a drift as a function of its own coordinate."""
    if not callable(part):
        if not is_number(part):
            raise ValueError("tracks with noise on several axes take no drift over cells; give functions or numbers")
        return _constant(0.0 if part is None else part)
    at = lambda *x: at_place(part, names, *x)
    if any(reads and j != i for j, reads in enumerate(depends(at, *(np.zeros(len(names)))))):
        raise ValueError(
            f"the drift along {names[i]} reads another coordinate, and tracks with noise are predicted axis by axis; leave the noise out, or the coupling"
        )
    return lambda x: jnp.asarray(
        at(*(x if j == i else jnp.zeros_like(x) for j in range(len(names)))), jnp.result_type(float)
    )
