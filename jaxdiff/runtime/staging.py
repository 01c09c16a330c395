"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from jaxdiff.runtime import interrupts

WRITTEN: list[Path] = []  # folders that have taken their place


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name to write to, which takes the place of `path` when all is done; of its own for every thread and process.

    Raises ValueError if `path` is a folder or a device, or cannot be written.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))  # a link stays one
    part = target.with_name(f".jaxdiff-{uuid.uuid4().hex}.part")
    try:
        require_file(target)
        yield part
        part.replace(target)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}; choose another folder") from None
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike[str], text: str, errors: str = "strict") -> Path:
    """Write a text so that it is there whole or not at all; errors: what is done with what UTF-8 cannot hold, as in `str.encode`."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", errors=errors)
    return Path(path)


def require_file(path: Path) -> None:
    """Raise OSError where something stands that is no file: it is neither read nor replaced."""
    if path.exists() and not path.is_file():
        raise OSError(f"it is a {'folder' if path.is_dir() else 'device'}, no file")


@contextlib.contextmanager
def staged(output: Path, names: Sequence[str] = ()) -> Iterator[Path]:
    """A folder whose files take their place in `output` when all is done, and vanish on an error or an interruption.

    If `output` is there already, files of the same name are replaced and others left alone. `names` are patterns of what
    will be written; what is there of these names and is no file is told at once.
    """
    output = Path(os.path.abspath(output))
    base = output
    while not os.path.lexists(base):
        base = base.parent
    try:
        if not base.is_dir():
            raise NotADirectoryError(f"{base} is no folder")
        _free(output, names)
        folder = Path(tempfile.mkdtemp(prefix=".jaxdiff-", dir=base))
    except OSError as error:
        raise _unwritable(output, error) from None
    try:
        yield folder
        interrupts.check()
        with interrupts.deferred():
            _publish(folder, output)
    except OSError as error:
        if Path(error.filename or "").is_relative_to(folder):  # the disk is full, say
            raise _unwritable(output, error) from None
        raise
    finally:
        with interrupts.deferred():
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def growing(output: Path, names: Sequence[str]) -> Iterator[Path]:
    """A folder for results that stay, whatever ends the run: `output`, or a folder "unfinished" in it while older results of
    these names are in that, which are replaced when all is done. Write each file by `replacing`."""
    output = Path(os.path.abspath(output))
    try:
        _free(output, names)
        older = output.is_dir() and any(fnmatch(file.name, name) for file in output.iterdir() for name in names)
        numbered = itertools.chain(["unfinished"], (f"unfinished-{k}" for k in itertools.count(2)))
        folder = next(place for name in numbered if not os.path.lexists(place := output / name)) if older else output
        made = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(output, error) from None
    try:
        yield folder
        if older:
            interrupts.check()
            with interrupts.deferred():
                _publish(folder, output)
    finally:
        with contextlib.suppress(OSError):  # what holds something stays
            for place in made:
                place.rmdir()
        if folder.is_dir():
            WRITTEN.append(folder)


def _free(output: Path, names: Sequence[str]) -> None:
    """Raise if a folder stands where a file of one of these names goes."""
    for entry in output.iterdir() if output.is_dir() else ():
        if any(fnmatch(entry.name, name) for name in names) and not entry.is_file():
            raise IsADirectoryError(f"{entry.name} in it is no file; move it away")


def _publish(folder: Path, output: Path) -> None:
    """Move the files of `folder` to `output`, once there is room for each of them."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    targets = [output / file.relative_to(folder) for file in files]
    try:
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists() and not target.is_file():
                raise IsADirectoryError(f"{target.relative_to(output)} in it is no file; move it away")
        for file, target in zip(files, targets, strict=True):
            file.replace(target)
    except OSError as error:
        raise _unwritable(output, error) from None
    WRITTEN.append(output)


def _unwritable(output: Path, error: OSError) -> OSError:
    reason = (error.strerror or str(error)).rstrip(".")
    return OSError(f"the output folder {output} cannot be written: {reason}; or choose another with --output")
