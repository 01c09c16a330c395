"""Coefficients written as text: parsed into arithmetic, never executed."""

from __future__ import annotations

import ast
import functools
import itertools
import math
import operator
import warnings
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .parameters import numeric

VARIABLES = ("t", "u", "x", "y", "z")  # the order in which a model passes them
NUMBERS = {"pi": math.pi, "e": math.e}
FUNCTIONS: dict[str, Any] = {
    **{name: getattr(jnp, name) for name in ("exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "cbrt")},
    **{name: getattr(jnp, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "floor", "ceil", "sign")},
    "asin": jnp.arcsin,
    "acos": jnp.arccos,
    "atan": jnp.arctan,
    "atan2": jnp.arctan2,
    "hypot": jnp.hypot,
    "abs": jnp.abs,
    "erf": lax.erf,
    "erfc": lax.erfc,
    "heaviside": lambda x: jnp.heaviside(x, 0.5),
    "min": lambda *values: functools.reduce(jnp.minimum, values),
    "max": lambda *values: functools.reduce(jnp.maximum, values),
    "where": jnp.where,
}
COUNTS = {"atan2": (2, 2), "hypot": (2, 2), "where": (3, 3), "min": (2, 99), "max": (2, 99)}
OPERATIONS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def _refuse(text: str, piece: str, hint: str = "") -> ValueError:
    hint = hint or "write numbers, names, + - * / **, parentheses and functions such as exp, sqrt, sin, erf, min, where"
    text, piece = (" ".join(words.split()) for words in (text, piece))
    text, piece = (words if len(words) < 90 else f"{words[:80]} …" for words in (text, piece))
    place = "" if piece == text else f" in {text!r}"
    return ValueError(f"{piece!r}{place} is not arithmetic: {hint}")


@functools.lru_cache(maxsize=512)
def parse(text: str) -> ast.expr:
    """The syntax tree of `text`, checked to hold arithmetic only."""
    if not isinstance(text, str):
        raise TypeError(f"an expression is a text such as 'k*(m-x)', got {text!r}")
    text = " ".join(text.split())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text, mode="eval").body
        _check(tree, text)
        return tree
    except (SyntaxError, MemoryError, RecursionError):
        raise _refuse(text, text, "it cannot be read") from None


def _check(node: ast.AST, text: str) -> None:
    piece = ast.get_source_segment(text, node) or text
    match node:
        case ast.Constant(value=bool()) | ast.Name(id="True" | "False" | "None"):
            raise _refuse(text, piece)
        case ast.Constant(value=int() | float() as value):
            if abs(value) > 1e300:
                raise _refuse(text, piece, "it is not a finite number")
            return
        case ast.Name(id=name):
            if name in FUNCTIONS:
                raise _refuse(text, piece, f"write its argument, as in {name}(x)")
            return
        case ast.BinOp(op=ast.BitXor()):
            raise _refuse(text, piece, "write ** for a power")
        case ast.BinOp(op=op) | ast.UnaryOp(op=op) if type(op) in OPERATIONS:
            pass
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            low, high = COUNTS.get(name, (1, 1))
            if not low <= len(arguments) <= high or any(isinstance(a, ast.Starred) for a in arguments):
                count = low if low == high else f"{low} or more"
                raise _refuse(text, piece, f"{name} takes {count} argument{'s' if high > 1 else ''}")
            if name == "where":
                match arguments[0]:
                    case ast.Compare(left=left, ops=[sign], comparators=[right]) if type(sign) in OPERATIONS:
                        arguments = [left, right, *arguments[1:]]
                    case _:
                        raise _refuse(text, piece, "where starts with one comparison, as in where(x < 1, 2, 3)")
            for argument in arguments:
                _check(argument, text)
            return
        case ast.Call(func=ast.Name(id=name)):
            hint = f"the functions are {', '.join(FUNCTIONS)}"
            raise _refuse(text, piece, f"{name} is no known function; {hint}" if name not in FUNCTIONS else "")
        case ast.Compare():
            raise _refuse(text, piece, "a comparison stands only first in where(x < 1, 2, 3)")
        case ast.Tuple():
            raise _refuse(text, piece, "write a decimal point, not a comma")
        case _:
            raise _refuse(text, piece)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            _check(child, text)
    _fold(node, text, piece)


def _fold(node: ast.AST, text: str, piece: str) -> None:
    """Refuse 1/0, 9**9**9 and (-1)**0.5 when they are written, not when they are reached."""
    if any(isinstance(part, (ast.Name, ast.Call)) for part in ast.walk(node)):
        return
    try:
        value = _evaluate(node, {})
        finite = not isinstance(value, complex) and math.isfinite(value)
    except (ZeroDivisionError, OverflowError):
        finite = False
    if not finite:
        raise _refuse(text, piece, "it is not a finite number")


def _evaluate(node: ast.AST, names: dict[str, Any]) -> Any:
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.Name(id=name):
            return names[name]
        case ast.UnaryOp(op=op, operand=operand):
            return OPERATIONS[type(op)](_evaluate(operand, names))
        case ast.BinOp(left=left, op=op, right=right):
            base, other = _evaluate(left, names), _evaluate(right, names)
            if isinstance(op, ast.Pow) and isinstance(other, float) and other.is_integer() and abs(other) < 100:
                other = int(other)  # an integer power has a gradient everywhere
            return OPERATIONS[type(op)](base, other)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return OPERATIONS[type(op)](_evaluate(left, names), _evaluate(right, names))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return FUNCTIONS[name](*(_evaluate(argument, names) for argument in arguments))
    raise AssertionError(node)


@functools.lru_cache(maxsize=512)
def names(text: str) -> tuple[str, ...]:
    """The names that `text` uses, functions and the numbers pi and e apart, in order of appearance.

    >>> names("k*(m - x) + exp(-k*pi)")
    ('k', 'm', 'x')
    """

    return tuple(dict.fromkeys(name for name in _names(parse(text)) if name not in NUMBERS))


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    for child in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.Call) and child is node.func):
            yield from _names(child)


def _affine(node: ast.AST, known: dict[str, Any]) -> tuple[Any, Any] | None:
    """(c₀, c₁) where a part is written as c₀ + c₁ t, else None."""
    used = set(_names(node))
    if "t" not in used:
        return (_evaluate(node, known), 0.0) if used <= set(known) else None
    match node:
        case ast.Name():
            return 0.0, 1.0
        case ast.UnaryOp(op=op, operand=operand):
            parts = [_affine(operand, known)]
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            parts = [_affine(left, known), _affine(right, known)]
        case ast.BinOp(left=left, op=ast.Mult() | ast.Div() as op, right=right) if "t" not in _names(right):
            parts = [_affine(left, known), _affine(right, known)]
            parts[1] = parts[1] and (parts[1][0], parts[1][0])
        case ast.BinOp(left=left, op=ast.Mult() as op, right=right) if "t" not in _names(left):
            return _affine(ast.BinOp(right, op, left), known)
        case _:
            return None
    if None in parts:
        return None
    return tuple(OPERATIONS[type(op)](*each) for each in zip(*parts))


class Expression(eqx.Module):
    r"""A coefficient written as text, in named constants which may be marked for fitting.

    f(x) = the arithmetic in `text`: numbers, pi, e, + - * / **, parentheses, exp, log, sqrt, sin, cos, tan, tanh, erf,
    abs, min, max, heaviside, where(x < a, …, …) and others. It is parsed, never executed.

    Args:
        text: arithmetic in the variables t, u, x, y, z and the constants, for example ``"k*(m-x)"``.
        variables: the arguments in the order of the call. Left out: t if the text uses it, u if the text uses it, then
            the position x, y, z. Give ``("t", "x")`` where time is passed and the text does not use it.
        constants: a number, an array or a mark for every other name. Their names in a fit are "drift.k", "drift.m".

    Raises:
        ValueError: the text is not arithmetic, a name has no value, or a constant does not occur in the text.

    >>> import jaxdiff as jd
    >>> drift = jd.Expression("k*(m-x)", k=2.0, m=0.5)
    >>> float(drift(0.25))
    0.5
    >>> float(jd.Expression("100*sin(pi*t/40)")(20.0))
    100.0
    """

    text: str = eqx.field(static=True)
    variables: tuple[str, ...] = eqx.field(static=True)
    constants: dict[str, Any]

    def __init__(self, text: str, /, variables: tuple[str, ...] | None = None, **constants: Any):
        used = names(text)
        if variables is None:
            variables = tuple(v for v in VARIABLES if v in used or v in "xyz")
            variables = tuple(v for v in variables if v not in constants)
        elif isinstance(variables, str):
            raise TypeError(f"variables are a tuple of names such as ('t', 'x'), got {variables!r}")
        for name in constants:
            if name not in used and name not in NUMBERS:
                raise ValueError(f"the constant {name!r} does not occur in the expression {text!r}; leave it out")
            if name in FUNCTIONS or name in variables:
                kind = "function" if name in FUNCTIONS else "variable"
                raise ValueError(f"{name!r} is the name of a {kind}; give the constant of {text!r} another name")
        for name in used:
            if name not in constants and name not in variables:
                known = ", ".join([*variables, *constants])
                raise ValueError(
                    f"{name!r} in {text!r} is not arithmetic: it has no value; known are {known or 'no names'}; "
                    f"give it one, as in Expression({text!r}, {name}=1.0)"
                )
        self.text = text
        self.variables = tuple(variables)
        self.constants = {name: numeric(value) for name, value in constants.items()}

    def __call__(self, *arguments: Any) -> Any:
        needed = [i + 1 for i, name in enumerate(self.variables) if name in names(self.text)]
        if len(arguments) < max(needed, default=0):
            wants = ", ".join(self.variables[: max(needed)])
            raise TypeError(f"the expression {self.text!r} is a function of ({wants}), got {len(arguments)} arguments")
        bound = dict(zip(self.variables, arguments, strict=False))
        value = _evaluate(parse(self.text), {**NUMBERS, **bound, **self.constants})
        return np.asarray(value) if isinstance(value, (float, np.ndarray, np.generic)) else jnp.asarray(value)

    def jumps(self, kinks: bool = True) -> list[Any]:
        """The times t at which it may jump, and with `kinks` bend; differentiable by the constants.

            c₀ + c₁ t = 0,  the difference of the sides of a comparison, or the argument of heaviside or sign;
                            for kinks that of abs, or the difference of two arguments of min or max

        inf where c₁ is zero; left out where the difference is not written as c₀ + c₁ t, or depends on the position.

        >>> [float(t) for t in Expression("where(2*t < T, 1, 0)*x", T=3.0).jumps()]
        [1.5]
        """
        if "t" not in self.variables:
            return []
        known = {**NUMBERS, **self.constants}
        found = []
        for node in ast.walk(parse(self.text)):
            match node:
                case ast.Compare(left=left, comparators=[right]):
                    sides = [left, right]
                case ast.Call(func=ast.Name(id="heaviside" | "sign"), args=[argument]):
                    sides = [argument, ast.Constant(0.0)]
                case ast.Call(func=ast.Name(id="abs"), args=[argument]) if kinks:
                    sides = [argument, ast.Constant(0.0)]
                case ast.Call(func=ast.Name(id="min" | "max"), args=sides) if kinks:
                    pass
                case _:
                    continue
            for left, right in itertools.combinations(sides, 2):
                line = _affine(ast.BinOp(left, ast.Sub(), right), known)
                if line is not None and "t" in {*_names(left), *_names(right)}:
                    found.append(_root(*line))
        return found


def _root(c0: Any, c1: Any) -> Any:
    """t of c₀ + c₁ t = 0; inf, with no gradient, where c₁ is zero or one of them is not finite."""
    xp = jnp if isinstance(c0, jax.Array) or isinstance(c1, jax.Array) else np
    found = xp.isfinite(c0) & xp.isfinite(c1) & (c1 != 0)
    return xp.where(found, -c0 / xp.where(found, c1, 1.0), np.inf)
