"""Expressions: coefficients written as text, parsed into arithmetic and never executed."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import math
import operator
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdiff.model.arguments import KNOWN
from jaxdiff.parameters import numeric

VARIABLES = ("t", "u", "x", "y", "z")  # the order in which a model passes them
NUMBERS = {"pi": math.pi, "e": math.e}
_OF_NUMPY = """exp expm1 log log1p log2 log10 sqrt cbrt sin cos tan sinh cosh tanh floor ceil sign asin acos atan atan2 hypot
abs where"""
FUNCTIONS: dict[str, Any] = {
    **{name: getattr(jnp, name) for name in _OF_NUMPY.split()},
    "erf": lax.erf,
    "erfc": lax.erfc,
    "heaviside": lambda x: jnp.heaviside(x, 0.5),
    "min": lambda *values: functools.reduce(jnp.minimum, values),
    "max": lambda *values: functools.reduce(jnp.maximum, values),
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

TOO_DEEP = "it is too long, or nested too deep; write it in fewer terms and parentheses"


def _refuse(text: str, node: ast.expr | None, hint: str = "") -> ValueError:
    """What is wrong with a part of a text, or None: with all of it."""
    hint = hint or "write numbers, names, + - * / **, parentheses and functions such as exp, sqrt, sin, erf, min, where"
    piece = node and ast.get_source_segment(text, node) or text
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
    if "\0" in text:
        raise _refuse(text, None, "it cannot be read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text, mode="eval").body
        _check(tree, text)
        return tree
    except (MemoryError, RecursionError):
        raise _refuse(text, None, TOO_DEEP) from None
    except SyntaxError as error:
        raise _refuse(text, None, TOO_DEEP if "too many nested" in str(error) else "it cannot be read") from None


def _chain(node: ast.expr) -> tuple[ast.expr, list[ast.BinOp]]:
    """The first term of a + b − c …, and the operations on it in turn: however many, they are not nested."""
    operations = []
    while isinstance(node, ast.BinOp):
        operations.append(node)
        node = node.left
    return node, operations[::-1]


def _check(node: ast.expr, text: str) -> float | None:
    """Refuse what is no arithmetic, and 1/0, 9**9**9 and (-1)**0.5 when they are written, not when they are reached;
    the value of what holds no name."""
    first, operations = _chain(node)
    value = _check_term(first, text)
    for operation in operations:
        other = _check(operation.right, text)
        if isinstance(operation.op, ast.BitXor):
            raise _refuse(text, operation, "write ** for a power")
        if type(operation.op) not in OPERATIONS:
            raise _refuse(text, operation)
        if value is None or other is None:
            value = None
            continue
        try:
            value = _applied(operation.op, value, other)
            finite = not isinstance(value, complex) and math.isfinite(value)
        except (ZeroDivisionError, OverflowError):
            finite = False
        if not finite:
            raise _refuse(text, operation, "it is not a finite number")
    return value


def _check_term(node: ast.expr, text: str) -> float | None:
    refuse = lambda hint="": _refuse(text, node, hint)
    match node:
        case ast.Constant(value=bool()) | ast.Name(id="True" | "False" | "None"):
            raise refuse()
        case ast.Constant(value=int() | float() as number):
            if abs(number) > 1e300:
                raise refuse("it is not a finite number")
            return float(number)
        case ast.Name(id=name):
            if name in FUNCTIONS:
                raise refuse(f"write its argument, as in {name}(x)")
            return None
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATIONS:
            value = _check(operand, text)
            return None if value is None else OPERATIONS[type(op)](value)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            low, high = COUNTS.get(name, (1, 1))
            if not low <= len(arguments) <= high or any(isinstance(a, ast.Starred) for a in arguments):
                count = low if low == high else f"{low} or more"
                raise refuse(f"{name} takes {count} argument{'s' if high > 1 else ''}")
            if name == "where":
                match arguments[0]:
                    case ast.Compare(left=left, ops=[sign], comparators=[right]) if type(sign) in OPERATIONS:
                        arguments = [left, right, *arguments[1:]]
                    case _:
                        raise refuse("where starts with one comparison, as in where(x < 1, 2, 3)")
            for argument in arguments:
                _check(argument, text)
            return None
        case ast.Call(func=ast.Name(id=name)):
            hint = f"the functions are {', '.join(FUNCTIONS)}"
            raise refuse(f"{name} is no known function; {hint}" if name not in FUNCTIONS else "")
        case ast.Compare():
            raise refuse("a comparison stands only first in where(x < 1, 2, 3)")
        case ast.Tuple():
            raise refuse("write a decimal point, not a comma")
        case _:
            raise refuse()


def _applied(op: ast.operator, base: Any, other: Any) -> Any:
    if isinstance(op, ast.Pow) and isinstance(other, float) and other.is_integer() and abs(other) < 100:
        other = int(other)  # an integer power has a gradient everywhere
    return OPERATIONS[type(op)](base, other)


def _evaluate(node: ast.expr, names: dict[str, Any]) -> Any:
    first, operations = _chain(node)
    value = _evaluate_term(first, names)
    for operation in operations:
        value = _applied(operation.op, value, _evaluate(operation.right, names))
    return value


def _evaluate_term(node: ast.expr, names: dict[str, Any]) -> Any:
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.Name(id=name):
            return names[name]
        case ast.UnaryOp(op=op, operand=operand):
            return OPERATIONS[type(op)](_evaluate(operand, names))
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
    places = sorted((node.col_offset, node.id) for node in ast.walk(parse(text)) if isinstance(node, ast.Name))
    return tuple(dict.fromkeys(name for _, name in places if name not in NUMBERS and name not in FUNCTIONS))


def _affine(node: ast.expr, known: dict[str, Any]) -> tuple[Any, Any] | None:
    """(c₀, c₁) where a part is written as c₀ + c₁ t, else None; c₁ is None where it holds no t."""
    first, operations = _chain(node)
    line = _affine_term(first, known)
    for operation in operations:
        other = _affine(operation.right, known)
        line = None if line is None or other is None else _combined(operation.op, line, other)
    return line


def _affine_term(node: ast.expr, known: dict[str, Any]) -> tuple[Any, Any] | None:
    used = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} - set(FUNCTIONS)
    if "t" not in used:
        return (_evaluate(node, known), None) if used <= set(known) else None
    match node:
        case ast.Name():
            return 0.0, 1.0
        case ast.UnaryOp(op=op, operand=operand):
            line = _affine(operand, known)
            return None if line is None else (OPERATIONS[type(op)](line[0]), OPERATIONS[type(op)](line[1]))
    return None


def _combined(op: ast.operator, line: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[Any, Any] | None:
    """Of two lines, what is one again."""
    (c0, c1), (d0, d1) = line, other
    if c1 is None and d1 is None:
        return _applied(op, c0, d0), None
    if isinstance(op, ast.Add | ast.Sub):
        return _applied(op, c0, d0), _applied(op, 0.0 if c1 is None else c1, 0.0 if d1 is None else d1)
    if isinstance(op, ast.Mult | ast.Div) and d1 is None:
        return _applied(op, c0, d0), _applied(op, c1, d0)
    if isinstance(op, ast.Mult) and c1 is None:
        return c0 * d0, c0 * d1
    return None


class Expression(eqx.Module):
    r"""A coefficient written as text, in named constants which may be marked for fitting.

        f(x) = the arithmetic in `text`

    It is made of numbers, pi, e, + - * / **, parentheses, exp, log, sqrt, sin, cos, tan, tanh, erf, abs, min, max, heaviside,
    where(x < a, …, …) and others, and is parsed, never executed.

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
            places = ("r", "z") if "r" in used and "r" not in constants else ("x", "y", "z")
            variables = (*(v for v in ("t", "u") if v in used), *places)
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

    @property
    def __signature__(self) -> inspect.Signature:
        """Of t, x, y, z and r by their names; of other variables in their order."""
        used = [name for name in self.variables if name in names(self.text)]
        if set(used).isdisjoint(KNOWN) and not set(self.variables) <= set(KNOWN):
            return inspect.Signature([inspect.Parameter(v, inspect.Parameter.POSITIONAL_ONLY) for v in self.variables])
        by_name = [inspect.Parameter(v, inspect.Parameter.KEYWORD_ONLY) for v in used]
        return inspect.Signature([*by_name, inspect.Parameter("others", inspect.Parameter.VAR_KEYWORD)])

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        needed = [i + 1 for i, name in enumerate(self.variables) if name in names(self.text) and name not in named]
        if len(arguments) < max(needed, default=0):
            wants = ", ".join(self.variables[: max(needed)])
            raise TypeError(f"the expression {self.text!r} is a function of ({wants}), got {len(arguments)} arguments")
        bound = {**dict(zip(self.variables, arguments, strict=False)), **named}
        value = _evaluate(parse(self.text), {**NUMBERS, **bound, **self.constants})
        return np.asarray(value) if isinstance(value, (float, np.ndarray, np.generic)) else jnp.asarray(value)

    def jumps(self, kinks: bool = True) -> list[Any]:
        """The times t at which it may jump, and with `kinks` bend; differentiable by the constants.

            c₀ + c₁ t = 0,  the difference of the sides of a comparison, or the argument of heaviside or sign;
                            for kinks that of abs, or the difference of two arguments of min or max

        inf where c₁ is zero; left out where the difference is not written as c₀ + c₁ t, or depends on the position.

        >>> from jaxdiff import Expression
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
                case ast.Call(func=ast.Name(id="heaviside" | "sign" | "abs" as name), args=[argument]) if (
                    kinks or name != "abs"
                ):
                    sides = [argument, ast.Constant(0.0)]
                case ast.Call(func=ast.Name(id="min" | "max"), args=sides) if kinks:
                    pass
                case _:
                    continue
            for left, right in itertools.combinations(sides, 2):
                line = _affine(ast.BinOp(left, ast.Sub(), right), known)
                if line is not None and line[1] is not None:
                    found.append(_root(*line))
        return found


def _root(c0: Any, c1: Any) -> Any:
    """t of c₀ + c₁ t = 0; inf, with no gradient, where c₁ is zero or one of them is not finite."""
    xp = jnp if isinstance(c0, jax.Array) or isinstance(c1, jax.Array) else np
    found = xp.isfinite(c0) & xp.isfinite(c1) & (c1 != 0)
    return xp.where(found, -c0 / xp.where(found, c1, 1.0), np.inf)
