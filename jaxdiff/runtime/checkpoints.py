"""Finished parts of a long computation, kept in a file from which it goes on."""

from __future__ import annotations

import dis
import hashlib
import importlib
import os
import time
from copyreg import dispatch_table
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import jax
import numpy as np

from jaxdiff.parameters import Function
from jaxdiff.runtime.sharding import agreed, meet
from jaxdiff.runtime.staging import replacing, require_file

SHARE = 0.05  # of the time, at most, goes into writing


class Checkpoint:
    """Pieces {name: array} with the digest of what they belong to; written whole or not at all.

    Raises ValueError if the file is not such a file, or belongs to something else.
    """

    def __init__(self, path: str | os.PathLike[str], digest: str):
        self.path, self.digest = Path(path), digest
        self.pieces: list[dict[str, np.ndarray]] = []
        self.spent, self.began = 0.0, time.perf_counter()
        meet()
        if self.path.exists():
            self.pieces = [self._read()]
        if not agreed(len(next(iter(self.pieces[0].values()), ())) if self.pieces else -1):
            raise ValueError(
                f"{self.path} is not the same file for every process; name one in a folder that they share"
            )

    def _read(self) -> dict[str, np.ndarray]:
        try:
            require_file(self.path)
            with np.load(self.path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except Exception:  # there is no end of ways in which bytes can be damaged
            raise ValueError(f"{self.path} cannot be read as saved results; name another file, or remove it") from None
        if str(arrays.pop("digest", "")) != self.digest:
            raise ValueError(
                f"{self.path} holds results of another model, other data or options; name another file, or remove it"
            )
        return arrays

    @property
    def due(self) -> bool:
        """Whether so little time went into writing that more may."""
        return self.spent <= SHARE * (time.perf_counter() - self.began)

    def add(self, piece: dict[str, np.ndarray]) -> None:
        self.pieces.append(piece)
        if self.due:
            self.write()

    def put(self, piece: dict[str, np.ndarray]) -> None:
        """Write this in place of all before it."""
        self.pieces = [piece]
        self.write()

    def write(self) -> None:
        if jax.process_index() or not self.pieces:
            return
        began = time.perf_counter()
        if len(self.pieces) > 1:
            self.pieces = [{name: _stacked([piece[name] for piece in self.pieces]) for name in self.pieces[0]}]
        arrays: Any = self.pieces[0]
        try:
            with replacing(self.path) as part, part.open("wb") as file:
                np.savez(file, digest=np.asarray(self.digest), **arrays)
        finally:
            self.spent += time.perf_counter() - began


def digest(*things: Any) -> str:
    """A fingerprint of the structure, the functions and the numbers of pytrees; the same in every session.

    Raises ValueError for what holds more than can be seen.
    """
    code = hashlib.sha256()
    leaves, structure = jax.tree.flatten(things, is_leaf=lambda node: isinstance(node, Function))
    for leaf in leaves:
        code.update(_words(leaf.function if isinstance(leaf, Function) else leaf, ()).encode())
    code.update(_of_nodes(structure).encode())
    return code.hexdigest()


def _of_nodes(structure: Any) -> str:
    """What the nodes of a pytree are, and what they hold beside their leaves."""
    node = structure.node_data()
    below = ", ".join(map(_of_nodes, structure.children()))
    return f"*({below})" if node is None else f"{_words(node, ())}({below})"


def _words(thing: Any, within: tuple[int, ...]) -> str:
    """A description without addresses; of a function or an object, what it does and all that it reads."""
    if id(thing) in within:
        return "itself"
    words = partial(_words, within=(*within, id(thing)))
    if isinstance(thing, (np.ndarray, np.generic, jax.Array)) and thing.dtype != object:
        held = np.asarray(thing)
        return f"{held.shape}{held.dtype}{hashlib.sha256(np.ascontiguousarray(held).tobytes()).hexdigest()}"
    if isinstance(thing, (str, bytes, int, float, complex, type(None), type(...))):
        return repr(thing)
    if isinstance(thing, (tuple, list, set, frozenset)):
        parts = [words(part) for part in thing]
        return f"{type(thing).__name__}({', '.join(parts if isinstance(thing, (tuple, list)) else sorted(parts))})"
    if isinstance(thing, dict):
        return ", ".join(f"{words(key)}: {words(value)}" for key, value in thing.items())
    if isinstance(thing, CodeType):
        constants = [words(part) for part in thing.co_consts]
        return f"{thing.co_code.hex()} {thing.co_names} {thing.co_varnames} {constants}"
    if isinstance(thing, (ModuleType, BuiltinFunctionType)):
        return f"{getattr(thing, '__module__', '')}.{thing.__name__}"
    if isinstance(thing, type):
        name = f"{thing.__module__}.{thing.__qualname__}"
        return name if _of_library(thing) else f"{name} {words((thing.__bases__, _own(thing)))}"
    if isinstance(thing, partial):
        return words((thing.func, thing.args, thing.keywords))
    if isinstance(thing, MethodType):
        return words((thing.__func__, thing.__self__))
    if isinstance(thing, FunctionType) and (not _of_library(thing) or _made_inside(thing)):
        cells = [cell.cell_contents for cell in thing.__closure__ or ()]
        return words((thing.__code__, thing.__defaults__, thing.__kwdefaults__, cells, _read(thing)))
    if hasattr(thing, "__wrapped__") and not _of_library(thing.__wrapped__):
        return words(thing.__wrapped__)
    if isinstance(thing, FunctionType) or hasattr(thing, "__wrapped__"):
        return f"{thing.__module__}.{thing.__qualname__}"
    try:
        parts = dispatch_table.get(type(thing), lambda one: one.__reduce_ex__(4))(thing)
    except Exception:
        raise ValueError(
            f"save= cannot tell whether {type(thing).__name__} is the same as in the file; use numbers, arrays and functions of them"
        ) from None
    if isinstance(parts, str):
        return f"{type(thing).__module__}.{parts}"
    make, given, state, items, pairs = (*parts, None, None, None)[:5]
    return words((type(thing), make, given, state, list(items or ()), list(pairs or ())))


def _own(kind: type) -> dict[str, Any]:
    """What a class of the user says: its functions and its values, without what Python makes of them."""
    found = {}
    for name, value in vars(kind).items():
        value = getattr(value, "fget", None) or getattr(value, "__func__", None) or value
        plain = (bool, int, float, complex, str, tuple, list, dict, np.ndarray, jax.Array)
        if isinstance(value, FunctionType) or (isinstance(value, plain) and not name.startswith("__")):
            found[name] = value
    return found


def _read(function: FunctionType) -> dict[str, Any]:
    """What a function and those inside it look up by name; of a module of the user, what they take from it."""
    names, imported = _names(function.__code__)
    seen = {name: function.__globals__[name] for name in sorted(names) if name in function.__globals__}
    try:
        seen |= {name: importlib.import_module(name) for name in sorted(imported)}
    except ImportError as error:
        raise ValueError(f"save= cannot tell what {function.__name__} reads: {error}; import it outside") from None

    def taken(thing: Any, within: tuple[Any, ...]) -> Any:
        if not isinstance(thing, ModuleType) or thing in within or _of_library(thing):
            return thing
        held = vars(thing)
        return {name: taken(held[name], (*within, thing)) for name in sorted(names) if name in held}

    return {name: taken(thing, ()) for name, thing in seen.items()}


def _names(code: CodeType) -> tuple[set[str], set[str]]:
    """The names that a function and those inside it look up, and those of modules that they import."""
    steps = dis.get_instructions(code)
    names = {*code.co_names, *(text for text in code.co_consts if isinstance(text, str))}
    imported = {step.argval for step in steps if step.opname == "IMPORT_NAME" and step.argval}
    for part in code.co_consts:
        if isinstance(part, CodeType):
            more = _names(part)
            names, imported = names | more[0], imported | more[1]
    return names, imported


def _made_inside(function: FunctionType) -> bool:
    """Whether it is one of many of its name, as the functions are that `optax.adam` returns."""
    return "<locals>" in function.__qualname__ and not hasattr(function, "__wrapped__")


LIBRARIES = frozenset("jax jaxlib numpy jaxdiff equinox optax scipy jaxtyping builtins copyreg math".split())


def _of_library(thing: Any) -> bool:
    """Whether a function, a class or a module comes with jaxdiff and what it stands on, and is what its name says."""
    name = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", None)
    return (name or "").split(".")[0] in LIBRARIES


def _stacked(parts: list[np.ndarray]) -> np.ndarray:
    """Along the first axis; the rows of a narrower part are filled up with NaN."""
    if parts[0].ndim == 2 and len({part.shape[1] for part in parts}) > 1:
        width = max(part.shape[1] for part in parts)
        parts = [np.pad(part, [(0, 0), (0, width - part.shape[1])], constant_values=np.nan) for part in parts]
    return np.concatenate(parts)
