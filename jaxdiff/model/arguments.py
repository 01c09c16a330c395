"""What the arguments of a user's function mean: t, x, y, z, r by their names, others in the order of the coordinates."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

KNOWN = ("t", "u", "x", "y", "z", "r")
TRACED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def at_place(function: Any, names: Sequence[str], *values: Any, elsewhere: Sequence[str] = ()) -> Any:
    """function at these values of the coordinates `names`, of which the first may be t.

    Arguments are bound by name; a function with none of these names takes the values in order, and one coordinate is
    what the one argument beside t means, whatever its name. Raises `TypeError` in one line where that is not clear, or
    the function cannot be traced; `elsewhere` are coordinates that do not vary here.
    """
    given, named = bind(function, names, *values, elsewhere=elsewhere)
    try:
        return function(*given, **named)
    except TRACED:
        raise TypeError(
            f"{_described(function)} asks for the value of an argument, which JAX gives at many places at once; use jnp.sin in place of np.sin, jnp.where in place of if, a jd.Expression, or an array"
        ) from None


def one_number(found: Any, dtype: Any, what: str) -> Any:
    """What a function gave at one point, which must be one real number."""
    try:
        found = jnp.asarray(found)
    except (TypeError, ValueError):
        raise TypeError(f"{what}: expected one number at each point, got {found!r}") from None
    if found.shape != () or jnp.issubdtype(found.dtype, jnp.complexfloating):
        got = f"shape {found.shape}" if found.shape else found.dtype
        raise ValueError(f"{what}: expected one number at each point, got {got}")
    return found.astype(dtype)


def index_beyond(function: Callable[..., Any], *arguments: Any) -> str | None:
    """Which array a function of JAX arrays reads beyond its end, and where, for there JAX takes the last entry in silence."""
    from jax.experimental import checkify

    message = jax.jit(checkify.checkify(function, errors=checkify.index_checks))(*arguments)[0].get()
    if message is None:
        return None
    found = re.search(r"shape (.+): index (-?\d+) is", message)
    return f"an array of shape {found[1]} at {found[2]}" if found else message


def takes(function: Any, names: Sequence[str]) -> bool:
    """Whether a function can be called with these coordinates."""
    try:
        bind(function, names, *names)
    except TypeError:
        return False
    return True


def bind(function: Any, names: Sequence[str], *values: Any, elsewhere: Sequence[str] = ()) -> Any:
    """The positional and the named arguments of that call."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # a builtin has none
        return values, {}
    parameters = list(signature.parameters.values())
    kinds = {parameter.kind for parameter in parameters}
    if kinds == {inspect.Parameter.VAR_KEYWORD}:  # an expression in which no coordinate stands
        return (), dict(zip(names, values, strict=True))
    open_ = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    own, required = [p.name for p in open_], [p.name for p in open_ if p.default is p.empty]
    for name in required:
        if name in KNOWN and name not in names:
            _refuse_strange(function, name, elsewhere)

    def unclear() -> TypeError:
        count, wants = f"{len(values)} argument{'s' * (len(values) != 1)}", ": " * bool(names) + ", ".join(names)
        return TypeError(
            f"a function of position, after the time where it depends on it, is called here with {count}, got {_described(function)}; write one that takes so many{wants}"
        )

    ordered = inspect.Parameter.VAR_POSITIONAL in kinds and own == list(names[: len(own)])
    apart = set(own).isdisjoint(KNOWN if "t" in names else names)
    if ordered or apart:
        try:
            signature.bind(*values)
            return values, {}
        except TypeError:
            if not apart or not required or inspect.Parameter.KEYWORD_ONLY not in kinds:
                raise unclear() from None
    places = [name for name in names if name != "t"]
    found = {"t": "t"} if "t" in names and "t" in own else {}
    beside = [name for name in required if name not in found]
    if len(places) == 1 and len(beside) == 1:
        found[beside[0]] = places[0]
    else:
        found.update((name, name) for name in places if name in own)
        free = [name for name in required if name not in found]
        if len(free) == len(places) and not set(found) & set(places):
            found.update(zip(free, places))
    all_named = inspect.Parameter.VAR_KEYWORD in kinds
    missing = [name for name in names if not all_named and name not in found.values()]
    if any(name not in found for name in required) or (missing and (missing != places or "t" not in found)):
        raise unclear()
    at = dict(zip(names, values, strict=True))
    given: list[Any] = []
    named = {name: at[place] for name, place in found.items()}
    for parameter in parameters:  # in order as far as that goes: a wrapper may know no names
        if parameter.kind is parameter.KEYWORD_ONLY or parameter.name not in named:
            break
        given.append(named.pop(parameter.name))
    return tuple(given), named


def _refuse_strange(function: Any, name: str, elsewhere: Sequence[str]) -> None:
    """Raise where an argument means what there is none of."""
    if name == "u":
        raise TypeError(
            f"u is the state, on which nothing depends in a linear equation, got {_described(function)}; call the position x, or give the constant u a value"
        )
    if name == "t":
        raise TypeError(
            f"t is the time, which a function of position is not given, got {_described(function)}; wrap a coefficient in jd.TimeDependent, and leave t out of an initial state"
        )
    if name in elsewhere:
        raise TypeError(f"{name} does not vary on this wall, got {_described(function)}; name the sides one by one")


def _described(function: Any) -> str:
    name = getattr(function, "__name__", type(function).__name__).replace("<lambda>", "lambda")
    try:
        return f"{name}({', '.join(inspect.signature(function).parameters)})"
    except ValueError:
        return str(name)
