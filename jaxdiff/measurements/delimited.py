"""CSV files: their bytes into text, whatever they are called, and the text into named columns of numbers or texts."""

from __future__ import annotations

import contextlib
import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.quantities import as_float

if TYPE_CHECKING:
    import pandas as pd

# What stands for a missing number in files of spreadsheets, loggers and other libraries, in lower case.
_ERRORS = ("#div/0!", "#value!", "#ref!", "#name?", "#num!", "#null!", "#n/a", "#na", "#n/a n/a")
_MISSING = {"", "na", "n/a", "<na>", "nan", "-nan", "null", "none", *_ERRORS}
_MISSING |= {f"{sign}1.#{word}" for sign in ("", "-") for word in ("ind", "qnan", "snan")}
# Beginnings of files that are no text, whatever their names.
_BINARY = {
    b"\x1f\x8b": "a gzip archive",
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"\xfd7zXZ": "an xz archive",
    b"BZh": "a bzip2 archive",
    b"PAR1": "a Parquet file",
    b"\x89HDF": "an HDF5 file",
    b"\xd0\xcf\x11\xe0": "a spreadsheet",
}


@dataclass(frozen=True)
class Source:
    """Where a table comes from: its name, the line of the file of each row, the decimal mark of its texts."""

    label: str
    lines: Sequence[int] = ()
    decimal: str = "."

    def __deepcopy__(self, memo: Any) -> Source:
        """Itself: pandas copies with every view of a table what is attached to it."""
        return self


def text_of(table: Any) -> tuple[str, str]:
    """The whole text of a file, a pipe or an open file, read once, and its name."""
    if hasattr(table, "read"):
        name = getattr(table, "name", None)
        label = name if isinstance(name, str) else "the table"
        data = table.read()
    elif isinstance(table, (str, os.PathLike)):
        label = os.path.expanduser(os.fsdecode(table))
        if "\n" in label:
            raise ValueError("a table is named by its path, got a text of several lines; wrap it in io.StringIO")
        path = Path(label)
        if not path.exists():
            raise FileNotFoundError(f"there is no file {label}; check the path")
        if path.is_dir():
            raise ValueError(f"{label} is a folder; name the CSV file in it")
        if not (path.is_file() or path.is_fifo()):
            raise ValueError(f"{label} is a device and no file; name a CSV file or a pipe")
        data = path.read_bytes()
    else:
        raise TypeError(
            f"a table is the path of a CSV file, a DataFrame, a dictionary of columns or an open file, got {type(table).__name__}; make it a pandas.DataFrame"
        )
    text = data if isinstance(data, str) else _decoded(bytes(data), label)
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n"), label


def columns_of(
    text: str, label: str, names: Sequence[str] | None, skip: int, separator: str | None, comment: str, decimal: str
) -> pd.DataFrame:
    """The table in a text."""
    import pandas as pd

    lines = ["" if _is_comment(line, comment) else line for line in text.split("\n")]
    carrying = [i for i, line in enumerate(lines) if i >= skip and line.strip()]
    if not carrying:
        raise ValueError(f"{label} is empty: no line is left after skipping {skip} and comments")
    mark = _separator(separator, [lines[i] for i in carrying[:2]], decimal, label)
    first, header = carrying[0], int(names is None)  # lines before the body, and those of the header in it
    body = [
        " ".join(line.split()) if mark == " " or (line.isspace() and mark not in line) else line
        for line in lines[first:]
    ]
    if comment and comment in text:
        width = _count(body[0], mark) if names is None else len(names)
        body = body[:header] + [_bare(line, comment, mark, width) for line in body[header:]]
    plain = decimal == "." and '"' not in text
    head = body[0].split(mark) if names is None else names
    values = _all_numbers(body[header:], mark, len(head)) if plain else None
    if values is not None:
        places = [first + i + 1 for i, line in enumerate(body) if line][header:]
        columns: list[np.ndarray] = list(values.T)
    else:
        table, places = _rows(body, mark, first, label)
        if names is not None and len(table[0]) != len(names):
            raise ValueError(
                f"{label} has {len(table[0])} columns but {len(names)} names are given: {', '.join(names)}"
            )
        head, table, places = (table[0], table[1:], places[1:]) if names is None else (names, table, places)
        width = len(head)
        for row, line in zip(table, places, strict=True):
            if len(row) > width and "".join(row[width:]).strip():
                raise ValueError(
                    f"{label} cannot be read as a table: line {line} has more entries than there are columns, {len(row)} for {width}"
                )
            row.extend([""] * (width - len(row)))
        columns = [_values([row[k].strip() for row in table], decimal) for k in range(width)]
    frame = pd.DataFrame(dict(enumerate(columns)))
    frame.columns = pd.Index([str(name).strip() for name in head], dtype=object)
    frame.attrs = {"source": Source(label, tuple(places), decimal)}
    return frame


def _all_numbers(lines: list[str], mark: str, width: int) -> np.ndarray | None:
    """What `_rows` and `_values` find, many times as fast, where all entries are finite numbers; else None."""
    if not any(lines):
        return None
    try:
        values = np.loadtxt(lines, delimiter=mark, comments=None, ndmin=2)
    except (ValueError, UnicodeEncodeError):
        return None
    return values if values.shape[1] == width and np.isfinite(values).all() else None


def _rows(body: list[str], mark: str, first: int, label: str) -> tuple[list[list[str]], list[int]]:
    """The entries of each row, and the lines of the file where they begin; `first` lines come before the body."""
    reader = csv.reader((line + "\n" for line in body), delimiter=mark, skipinitialspace=True, strict=True)
    table: list[list[str]] = []
    places: list[int] = []
    before = 0
    try:
        for row in reader:
            if row:
                table.append(row)
                places.append(first + before + 1)
            before = reader.line_num
    except csv.Error as error:
        raise ValueError(f"{label} cannot be read as a table: {error} in line {first + before + 1}") from None
    while len(table) > 1 and not "".join(table[-1]).strip():  # separators alone, as spreadsheets leave them
        table.pop(), places.pop()
    return table, places


def _values(texts: list[str], decimal: str) -> np.ndarray:
    """The numbers of a column, NaN where one is missing; its texts, if one of them is something else."""
    entries = np.array([None if text.lower() in _MISSING else text for text in texts], object)
    values, wrong = as_float(entries if decimal == "." else pointed(entries, decimal))
    return entries if wrong.any() else values


def _decoded(data: bytes, label: str) -> str:
    kind = next((kind for start, kind in _BINARY.items() if data.startswith(start)), None)
    encodings = ["utf-16"] if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ["utf-8-sig", "latin-1"]
    for encoding in encodings[: 1 if kind else 2]:
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode(encoding)
            if "\0" not in text:
                return text
    raise ValueError(f"{label} is {f'{kind}, ' if kind else ''}not a text file; save the table as CSV")


def _is_comment(line: str, comment: str) -> bool:
    start = line.lstrip()
    return bool(comment) and start.startswith(comment) and not start.lower().startswith(_ERRORS)


def _bare(line: str, comment: str, mark: str, width: int) -> str:
    """A row without the comment behind it: what comes before is a whole row, or it is an entry such as #1."""
    place = line.find(comment)
    while place >= 0:
        before = line[:place].rstrip()
        if line[place - 1 : place] in (" ", "\t", mark) and _count(before.removesuffix(mark), mark) >= width:
            return before
        place = line.find(comment, place + 1)
    return line


def _count(line: str, mark: str) -> int:
    """How many entries there are; none outside of closed quotes."""
    return 0 if line.count('"') % 2 else _unquoted(line).count(mark) + 1


def _unquoted(line: str) -> str:
    return re.sub(r'"[^"]*"', "", line)


def _separator(separator: str | None, lines: list[str], decimal: str, label: str) -> str:
    """The separator, a space for any white space; of None, which of tab, semicolon and comma the first rows have most of
    outside quotes, both of them if one is in both; white space if there is none."""
    if separator is None:
        counts = {mark: [_unquoted(line).count(mark) for line in lines] for mark in ("\t", ";", ",") if mark != decimal}
        mark = max(counts, key=lambda m: (min(counts[m]), counts[m][0]))
        separator = mark if counts[mark][0] else " "
    blank = separator.isspace() and separator != "\t"
    if not blank and (len(separator) != 1 or separator in (decimal, '"')) or len(decimal) != 1:
        raise ValueError(
            f"{label}: separator and decimal must be different single characters, got {separator!r} and {decimal!r}"
        )
    return " " if blank else separator


def pointed(entries: np.ndarray, mark: str) -> np.ndarray:
    swap = str.maketrans({mark: ".", ".": "_"})  # a point marks thousands then, and 1.234 is no number
    return np.array([entry.translate(swap) if isinstance(entry, str) else entry for entry in entries], object)
