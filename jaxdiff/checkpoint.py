"""Finished parts of a long computation, kept in a file from which it goes on."""

from __future__ import annotations

import hashlib
import os
import re
import time
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from zipfile import BadZipFile

import jax
import numpy as np

from jaxdiff.decomposition import agreed, meet
from jaxdiff.parameters import Function

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
            with np.load(self.path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except (OSError, ValueError, EOFError, TypeError, BadZipFile):
            raise ValueError(f"{self.path} cannot be read as saved results; name another file, or remove it") from None
        if str(arrays.pop("digest", "")) != self.digest:
            raise ValueError(
                f"{self.path} holds results of another model, other data or options; name another file, or remove it"
            )
        return arrays

    def add(self, piece: dict[str, np.ndarray]) -> None:
        self.pieces.append(piece)
        if self.spent <= SHARE * (time.perf_counter() - self.began):
            self.write()

    def write(self) -> None:
        if jax.process_index() or not self.pieces:
            return
        began = time.perf_counter()
        arrays: dict[str, Any] = (
            {name: _stacked([piece[name] for piece in self.pieces]) for name in self.pieces[0]} if self.pieces else {}
        )
        self.pieces = [arrays] if arrays else []
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                np.savez(file, digest=np.asarray(self.digest), **arrays)
            part.replace(self.path)
        except OSError as error:
            raise ValueError(
                f"{self.path} cannot be written: {error.strerror or error}; choose another folder"
            ) from None
        finally:
            part.unlink(missing_ok=True)
        self.spent += time.perf_counter() - began


def digest(*things: Any) -> str:
    """A fingerprint of the structure, the functions and the numbers of pytrees; the same in every session.

    Raises ValueError for what holds more than can be seen.
    """
    code = hashlib.sha256()
    for leaf in jax.tree.leaves(things, is_leaf=lambda node: isinstance(node, Function)):
        code.update(_words(leaf.function if isinstance(leaf, Function) else leaf, ()).encode())
    code.update(re.sub(r" at 0x[0-9a-f]+", "", repr(jax.tree.structure(things))).encode())
    return code.hexdigest()


def _words(thing: Any, within: tuple[int, ...]) -> str:
    """A description without addresses; of a function, what it does and all that it reads."""
    if id(thing) in within:
        return "itself"
    words = partial(_words, within=(*within, id(thing)))
    if isinstance(thing, (np.ndarray, np.generic, jax.Array)):
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
    if isinstance(thing, (ModuleType, type, BuiltinFunctionType)):
        return f"{getattr(thing, '__module__', '')}.{thing.__name__}"
    if isinstance(thing, partial):
        return words((thing.func, thing.args, thing.keywords))
    if isinstance(thing, MethodType):
        return words((thing.__func__, thing.__self__))
    if isinstance(thing, FunctionType) and not _of_library(thing):
        cells = [cell.cell_contents for cell in thing.__closure__ or ()]
        read = {name: thing.__globals__[name] for name in _names(thing.__code__) if name in thing.__globals__}
        return words((thing.__code__, thing.__defaults__, thing.__kwdefaults__, cells, read))
    if hasattr(thing, "__wrapped__") and not _of_library(thing.__wrapped__):
        return words(thing.__wrapped__)
    if isinstance(thing, FunctionType) or hasattr(thing, "__wrapped__"):
        return f"{thing.__module__}.{thing.__qualname__}"
    state = vars(thing) if hasattr(thing, "__dict__") else {}
    if not state and " at 0x" in repr(thing):
        raise ValueError(
            f"save= cannot tell whether {type(thing).__name__} is the same as in the file; use numbers, arrays and functions of them"
        )
    name = f"{type(thing).__module__}.{type(thing).__qualname__}"
    return f"{name} {words(state)}" if state else f"{name} {thing!r}"


def _names(code: CodeType) -> set[str]:
    """The names that a function and those inside it look up."""
    return set(code.co_names).union(*(_names(part) for part in code.co_consts if isinstance(part, CodeType)))


def _of_library(function: Any) -> bool:
    return (getattr(function, "__module__", None) or "").split(".")[0] in (
        "jax",
        "numpy",
        "jaxdiff",
        "equinox",
        "optax",
        "scipy",
    )


def _stacked(parts: list[np.ndarray]) -> np.ndarray:
    """Along the first axis; the rows of a narrower part are filled up with NaN."""
    if parts[0].ndim == 2 and len({part.shape[1] for part in parts}) > 1:
        width = max(part.shape[1] for part in parts)
        parts = [np.pad(part, [(0, 0), (0, width - part.shape[1])], constant_values=np.nan) for part in parts]
    return np.concatenate(parts)
