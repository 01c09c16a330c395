"""Finished parts of a long computation, kept in a file from which it goes on."""

from __future__ import annotations

import hashlib
import os
import re
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

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
        if not self.path.exists():
            return
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.path} cannot be read as saved results: {error}; name another file") from None
        if str(arrays.pop("digest", "")) != digest:
            raise ValueError(
                f"{self.path} holds results of another model, other data or options; name another file, or remove it"
            )
        self.pieces = [arrays]

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
    """A fingerprint of the structure, the functions and the numbers of pytrees; the same in every session."""
    code = hashlib.sha256()
    for leaf in jax.tree.leaves(things, is_leaf=lambda node: isinstance(node, Function)):
        if isinstance(leaf, (np.ndarray, jax.Array)):
            code.update(f"{leaf.shape}{leaf.dtype}".encode())
            code.update(np.ascontiguousarray(leaf).tobytes())
        else:
            code.update(_words(leaf.function if isinstance(leaf, Function) else leaf).encode())
    code.update(_words(jax.tree.structure(things)).encode())
    return code.hexdigest()


def _words(thing: Any) -> str:
    """A description without addresses; of a function, what it does."""
    code = getattr(thing, "__code__", None)
    if code is None:
        return re.sub(r"( object)? at 0x[0-9a-f]+|, file \"[^\"]*\", line \d+", "", repr(thing))
    constants = " ".join(_words(constant) for constant in code.co_consts if not hasattr(constant, "co_code"))
    inner = " ".join(part.co_code.hex() for part in code.co_consts if hasattr(part, "co_code"))
    cells = " ".join(_words(cell.cell_contents) for cell in thing.__closure__ or ())
    return f"{code.co_code.hex()} {code.co_names} {constants} {inner} {cells}"


def _stacked(parts: list[np.ndarray]) -> np.ndarray:
    """Along the first axis; the rows of a narrower part are filled up with NaN."""
    if parts[0].ndim == 2 and len({part.shape[1] for part in parts}) > 1:
        width = max(part.shape[1] for part in parts)
        parts = [np.pad(part, [(0, 0), (0, width - part.shape[1])], constant_values=np.nan) for part in parts]
    return np.concatenate(parts)
