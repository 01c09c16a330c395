"""Parameters of a fit: marks on the numbers of a model, their names, and the transform behind each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.quantities import SINCE, described

LOGARITHM_LIMIT = 80.0  # the furthest a logarithm may run from its start: a factor of 1e35
LOGIT_LIMIT = 18.0  # logit of a point within 1.5e-8 of the width from a bound


class Function(eqx.Module):
    """A plain Python function as a model leaf without arrays; a fresh lambda is a new structure."""

    function: Callable[..., Any] = eqx.field(static=True)

    @property
    def __name__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.function)

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self.function(*args, **named)


def numeric(value: Any) -> Any:
    """Numbers as float64 arrays, functions as `Function`, modules and marks as they are.

    Numbers as arrays make models of the same shapes share one compilation; NumPy keeps them in float64
    whatever the session's default. Dictionaries, and sequences that hold more than numbers, are converted inside.
    """
    if callable(value) and not isinstance(value, eqx.Module):
        return value if isinstance(value, jax.tree_util.Partial) else Function(value)
    if isinstance(value, jax.Array):  # a whole number may be an index until it is a coefficient
        return value.astype(float) if jnp.issubdtype(value.dtype, jnp.integer) else value
    if isinstance(value, eqx.Module) or value is None:
        return value
    if isinstance(value, dict):
        return {key: numeric(item) for key, item in value.items()}
    if _mixed(value):
        return type(value)(numeric(item) for item in value)
    if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value)):  # numbers under a transformation
        return jnp.asarray(value)
    array = np.asarray(value)
    if array.dtype.kind in "USOTmM":
        first = array.flat[0] if array.size else value
        dates = array.dtype.kind in "mM" or hasattr(first, "year")
        how = SINCE if dates else "pass numbers, or jd.Expression for text"
        raise TypeError(f"expected a number, an array or a callable, got {described(first)}; {how}")
    return array if array.dtype.kind == "c" else array.astype(np.float64)


def _mixed(value: Any) -> bool:
    """Whether a sequence holds more than numbers."""
    more = lambda x: isinstance(x, (eqx.Module, dict)) or callable(x) or _mixed(x)
    return isinstance(value, (tuple, list)) and any(map(more, value))


class Named(eqx.Module):
    """In place of a number: a parameter of a model function by its name, or an entry of it, "name[i]"."""

    name: str = eqx.field(static=True)
    entry: int = eqx.field(static=True)

    def __init__(self, text: str):
        name, _, entry = text.removesuffix("]").partition("[")
        self.name, self.entry = (name, int(entry)) if entry.isdecimal() else (text, -1)

    def of(self, numbers: Any) -> Any:
        value, i = numbers.get(self.name), self.entry
        if value is None or (i >= 0 and (np.ndim(value) != 1 or i >= len(value))):
            raise ValueError(f"{self!r} names no parameter, nor an entry; there are {', '.join(numbers) or 'none'}")
        return value if i < 0 else value[i]


def is_named(node: Any) -> bool:
    return isinstance(node, Named)


def with_parameters(tree: Any, numbers: Any) -> Any:
    """The tree with the numbers {name: number} in place of names."""
    return jax.tree.map(lambda node: node.of(numbers) if is_named(node) else node, tree, is_leaf=is_named)


class Mark(eqx.Module):
    """A value that `fit` may change; `value` is a number, an array or a whole pytree of them."""

    value: Any = eqx.field(converter=numeric)


class Free(Mark):
    """A number, an array or a pytree of them that is fitted without bounds.

        x = s z,   s the magnitude of the start, z what the optimiser sees

    Args:
        value: the start, in its own unit; a start of zero takes its scale from the data.

    Raises:
        TypeError: a value that is neither numbers nor a pytree of them.

    >>> import jaxdiff as jd
    >>> float(jd.Free(0.5).value)
    0.5
    """


class Positive(Mark):
    """A number, an array or a pytree of them that is fitted as its logarithm, so that it stays positive.

        x = s exp(z),   s the start

    Args:
        value: the start, in its own unit, above zero.

    Raises:
        ValueError: a start that is not above zero.

    >>> import jaxdiff as jd
    >>> float(jd.Positive(1e-15).value)
    1e-15
    """

    def __check_init__(self) -> None:
        if isinstance(self.value, np.ndarray):
            _check_start("Positive", self.value, 0.0, np.inf)


class Bounded(Mark):
    """A number, an array or a pytree of them that is fitted between two bounds.

        x = lower + (upper − lower) / (1 + exp(−z))

    Args:
        value: the start, in its own unit, strictly between the bounds.
        lower: finite, in the unit of the value; a number or an array.
        upper: finite, above `lower`.

    Raises:
        ValueError: bounds that are not in order, or a start that is not between them.

    >>> import jaxdiff as jd
    >>> float(jd.Bounded(0.5, 0, 1).upper)
    1.0
    """

    lower: Any = eqx.field(converter=numeric)
    upper: Any = eqx.field(converter=numeric)

    def __check_init__(self) -> None:
        if not (isinstance(self.lower, np.ndarray) and isinstance(self.upper, np.ndarray)):
            return
        lower, upper = np.broadcast_arrays(self.lower, self.upper)
        wrong = ~(np.isfinite(lower) & np.isfinite(upper) & (lower < upper))
        if wrong.any():
            raise ValueError(
                f"Bounded needs finite bounds with lower < upper, got {lower[wrong][0]} and {upper[wrong][0]}; jd.Positive has no upper bound"
            )
        if isinstance(self.value, np.ndarray):
            _check_start("Bounded", self.value, lower, upper)


class Fixed(Mark):
    """A number, an array or a pytree of them that a fit leaves as it is, also inside a marked pytree.

        x = value

    Args:
        value: in its own unit.

    >>> import jaxdiff as jd
    >>> float(jd.Fixed(2).value)
    2.0
    """


def _check_start(kind: str, value: Any, lower: Any, upper: Any, name: str = "") -> None:
    value, lower, upper = np.broadcast_arrays(value, lower, upper)
    outside = ~((value > lower) & (value < upper))
    if outside.any():
        value, lower, upper = (one[outside][0] for one in (value, lower, upper))
        where = f" for {name!r}" if name else ""
        wants = "above zero" if kind == "Positive" else f"strictly between {lower} and {upper}"
        mend = "use jd.Free for a number of any sign" if kind == "Positive" else "move it inside or widen the bounds"
        raise ValueError(f"{kind} needs a start {wants}{where}, got {value}; {mend}")


def is_mark(node: Any) -> bool:
    return isinstance(node, Mark)


def plain(tree: Any, kind: Any = Mark) -> Any:
    """The tree with every mark, or those of one kind, replaced by its value."""
    if isinstance(tree, (np.ndarray, jax.Array)):
        return tree
    return jax.tree.map(lambda node: plain(node.value) if isinstance(node, kind) else node, tree, is_leaf=is_mark)


def unmarked(tree: Any) -> Any:
    """An initial state that no fit has filled, as numbers; raises ValueError where it waits for one."""
    if marked(plain(tree, Fixed)):
        raise ValueError(
            "the initial state of this measurement has marks that no fit has filled; give it numbers, or the very initial state that was fitted"
        )
    return plain(tree)


def marked(tree: Any) -> bool:
    """Whether any number of the tree is marked for fitting."""
    return any(map(is_mark, jax.tree.leaves(tree, is_leaf=is_mark)))


# Host code calls the methods of the next two in every fit; those of an eqx.Module cost 50 µs a call.
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Transform:
    """x(z), elementwise: 0 scale·z, 1 scale·exp(z), 2 lower + width·sigmoid(z). All traced, so that it never retraces."""

    kind: Any
    scale: Any
    lower: Any
    width: Any

    def __call__(self, z: Any) -> Any:
        xp = np if isinstance(z, np.ndarray) else jnp
        exponential, logistic = self._curves(xp, z)
        bounded = self.lower + self.width * logistic
        return xp.where(self.kind == 0, self.scale * z, xp.where(self.kind == 1, self.scale * exponential, bounded))

    def _curves(self, xp: Any, z: Any) -> tuple[Any, Any]:
        """exp(z) where it is used, else 1; sigmoid(z) where it is used, else ½."""
        return xp.exp(xp.where(self.kind == 1, z, 0.0)), 1 / (1 + xp.exp(-xp.where(self.kind == 2, z, 0.0)))

    def inverse(self, x: Any) -> np.ndarray:
        kind, scale = np.asarray(self.kind), np.asarray(self.scale)
        part = np.where(kind == 2, (x - self.lower) / self.width, 0.5)
        ratio = np.where(kind == 1, x / scale, 1.0)
        return np.where(kind == 0, x / scale, np.where(kind == 1, np.log(ratio), np.log(part) - np.log1p(-part)))

    @property
    def limit(self) -> Any:
        """How far z may run: nothing changes any more beyond it."""
        xp = np if isinstance(self.kind, np.ndarray) else jnp
        return xp.where(self.kind == 0, np.inf, xp.where(self.kind == 1, LOGARITHM_LIMIT, LOGIT_LIMIT))

    def slope(self, z: Any) -> np.ndarray:
        """dx/dz."""
        exponential, logistic = self._curves(np, z)
        bounded = self.width * logistic * (1 - logistic)
        return np.where(self.kind == 0, self.scale, np.where(self.kind == 1, self.scale * exponential, bounded))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Parameters:
    """The fitted numbers of a tree as one vector z, and the way back."""

    leaves: tuple[Any, ...]  # of the plain tree
    transform: Transform
    start: Any  # x, flat
    treedef: Any = field(metadata={"static": True})
    places: tuple[int, ...] = field(metadata={"static": True})  # which leaves are fitted
    names: tuple[str, ...] = field(metadata={"static": True})  # of those leaves

    @property
    def count(self) -> int:
        return self.transform.scale.shape[0]

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for every single number."""
        shapes = [np.shape(self.leaves[place]) for place in self.places]
        single = [(name, index) for name, shape in zip(self.names, shapes, strict=True) for index in np.ndindex(*shape)]
        return tuple(f"{name}[{','.join(map(str, index))}]" if index else name for name, index in single)

    def build(self, z: Any) -> Any:
        """The plain tree at z; traceable."""
        return self.rebuild(self.transform(z))

    def rebuild(self, x: Any) -> Any:
        """The plain tree of the natural parameters x (p,); traceable."""
        leaves = list(self.leaves)
        for place, part in zip(self.places, self._parts(x), strict=True):
            leaves[place] = part
        return jax.tree.unflatten(self.treedef, leaves)

    def split(self, x: np.ndarray) -> dict[str, Any]:
        """Flat numbers (…, p) as {name: (…, *shape)}."""
        x, places = np.asarray(x, float), self._parts(np.arange(self.count))
        found = {name: x[..., place] for name, place in zip(self.names, places, strict=True)}
        return {name: part if np.ndim(part) else float(part) for name, part in found.items()}

    def intervals(self, ends: np.ndarray) -> dict[str, tuple[Any, Any]]:
        """Intervals (…, p, 2) as {name: (lower, upper)}."""
        lower, upper = self.split(ends[..., 0]), self.split(ends[..., 1])
        return {name: (lower[name], upper[name]) for name in lower}

    def _parts(self, x: Any) -> Any:
        """The leaves that are fitted, of the flat numbers x (p,)."""
        at = 0
        for place in self.places:
            size = int(np.prod(shape := np.shape(self.leaves[place])))
            yield x[at : at + size].reshape(shape) if shape else x[at]
            at += size


def path_name(path: tuple[Any, ...]) -> str:
    """The name of a mark, its path as a user writes it: drift.k, boundaries.x-.rate; unnamed levels and that of an expression's constants are left out."""
    parts = []
    for key in path:
        part = getattr(key, "name", getattr(key, "key", getattr(key, "idx", None)))
        if part != "" and not (isinstance(key, jax.tree_util.GetAttrKey) and part == "constants"):
            parts.append(str(part))
    return ".".join(parts) or "value"


def _walk(tree: Any, path: tuple[Any, ...] = (), mark: Mark | None = None) -> Any:
    """(path, leaf, the innermost mark above it) in the order of the plain tree's leaves; marks come as leaf None."""
    for below, node in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_mark)[0]:
        if is_mark(node):
            yield path + below, None, node
            yield from _walk(node.value, path + below, node)
        else:
            yield path + below, node, mark


def _is_number(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and np.issubdtype(leaf.dtype, np.floating)


def collect(tree: Any) -> Parameters:
    """The marked numbers of a tree: names, starts, transforms.

    Raises ValueError if nothing is marked (the candidates are listed), if one mark sits in two places, or if a start
    is not finite or outside its bounds.
    """
    names_of_marks: dict[int, str] = {}
    leaves: list[Any] = []
    fitted: list[tuple[int, str, tuple[np.ndarray, ...]]] = []
    candidates: list[str] = []
    for path, leaf, mark in _walk(tree):
        name = path_name(path)
        if leaf is None and mark is not None:
            if id(mark) in names_of_marks:
                raise ValueError(
                    f"one mark stands in two places, {names_of_marks[id(mark)]!r} and {name!r}; write the model as a function of named "
                    "parameters, jd.fit(lambda k: ..., ..., parameters={'k': jd.Positive(1.0)}), to use one number twice"
                )
            names_of_marks[id(mark)] = name
            continue
        if _is_number(leaf):
            leaf = np.asarray(leaf, np.float64)
            if name != "boundaries.value" or np.any(leaf):  # the wall that reflects by default
                candidates.append(name)
            if mark is not None and not isinstance(mark, Fixed) and leaf.size:
                fitted.append((len(leaves), name, _column(mark, leaf, name)))
        leaves.append(leaf)
    if not fitted:
        candidates.sort(key=lambda name: name.split(".")[0] in ("boundaries", "initial"))
        some = ", ".join(candidates[:12]) + (", ..." if len(candidates) > 12 else "")
        raise ValueError(
            f"nothing is marked for fitting; wrap a number in jd.Free, jd.Positive or jd.Bounded, for instance one of: {some or 'none found'}"
        )
    places, names, columns = zip(*fitted, strict=True)
    start, kind, scale, lower, width = (np.concatenate(column) for column in zip(*columns, strict=True))
    transform = Transform(kind.astype(np.int32), scale, lower, width)
    return Parameters(tuple(leaves), transform, start, jax.tree.structure(plain(tree)), places, names)


def _column(mark: Mark, value: np.ndarray, name: str) -> tuple[np.ndarray, ...]:
    """Start, kind, scale, lower and width of one leaf, flat."""
    flat = value.ravel()
    if not np.isfinite(flat).all():
        got = flat[~np.isfinite(flat)][0]
        raise ValueError(f"the start of {name!r} is not finite, got {got}; give it a finite number")
    zero, one = np.zeros_like(flat), np.ones_like(flat)
    if isinstance(mark, Positive):
        _check_start("Positive", value, 0.0, np.inf, name)
        return flat, one, flat, zero, one
    if isinstance(mark, Bounded):
        lower, upper = (
            np.broadcast_to(np.asarray(bound, float), value.shape).ravel() for bound in (mark.lower, mark.upper)
        )
        _check_start("Bounded", flat, lower, upper, name)
        return flat, 2 * one, one, lower, upper - lower
    largest = np.max(np.abs(flat))
    scale = np.where(np.abs(flat) > 1e-3 * largest, np.abs(flat), largest if largest > 0 else 1.0)
    return flat, zero, scale, zero, one
