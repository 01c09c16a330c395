"""Tables of measurements: CSV files and DataFrames turned into arrays, with errors that name the row and the column."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def read(
    table: str | os.PathLike[str] | pd.DataFrame,
    *,
    names: Sequence[str] | None = None,
    skip: int = 0,
    rows: Sequence[int] | None = None,
    separator: str | None = None,
    comment: str = "#",
    decimal: str = ".",
) -> pd.DataFrame:
    """A table with named columns, from a CSV file or a DataFrame.

    Args:
        table: path of a CSV file, or a DataFrame, which is passed on.
        names: names of the columns, for a file without a header.
        skip: lines to leave out at the top, before the header if there is one.
        rows: first and last row of data to keep, counted from 1 below the header.
        separator: one character, or None to find out whether it is a comma, a semicolon, a tab or white space.
        comment: what starts a comment; an empty text for none.
        decimal: the decimal mark.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the table is empty, ragged, not text, or has not as many columns as names.

    >>> import pandas
    >>> list(read(pandas.DataFrame({"t": [0.0, 1.0], "T": [20.0, 21.5]})).columns)
    ['t', 'T']
    """
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        frame, label = table, "the table"
    else:
        path = Path(table)
        label = str(path)
        lines = _lines(path, skip, comment)
        if not lines:
            raise ValueError(f"{label} is empty: no line is left after skipping {skip} and comments")
        if separator is None:
            separator = _separator(lines[0][1])
        first = len(lines[0][1].split(None if separator.isspace() and separator != "\t" else separator))
        if names is not None and first != len(names):
            raise ValueError(f"{label} has {first} columns but {len(names)} names are given: {', '.join(names)}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
                frame = pd.read_csv(
                    path,
                    sep=r"\s+" if separator.isspace() and separator != "\t" else separator,
                    names=None if names is None else list(names),
                    header=0 if names is None else None,
                    skiprows=lines[0][0] - 1,
                    comment=comment or None,
                    decimal=decimal,
                    encoding=_encoding(path),
                    skipinitialspace=True,
                    index_col=False,
                )
        except pd.errors.ParserWarning:
            raise ValueError(
                f"{label} cannot be read as a table: a row has more entries than there are columns"
            ) from None
        except (ValueError, pd.errors.ParserError) as error:
            raise ValueError(f"{label} cannot be read as a table: {' '.join(str(error).split())}") from None
        frame.columns = [str(name).strip() for name in frame.columns]
        frame.attrs = {"path": label, "skip": skip, "comment": comment, "header": names is None}
    if rows is not None:
        low, high = rows
        if not 1 <= low <= high <= len(frame):
            raise ValueError(f"rows {low} to {high} are not in {label}, which has rows 1 to {len(frame)}")
        frame = frame.iloc[low - 1 : high]
    if not len(frame):
        raise ValueError(f"{label} is empty: it has no row of data")
    return frame


def column(frame: pd.DataFrame, name: str, *, missing: bool = True, scale: float = 1.0) -> np.ndarray:
    """A column of numbers as float64, shape (rows,), times `scale`; NaN where the entry is missing.

    Args:
        frame: a table, of `read` or your own.
        name: name of the column.
        missing: whether an entry may be missing.
        scale: factor from the unit of the table to the unit of the model.

    Raises:
        ValueError: no such column, a text in a number's place, a missing entry that must be there, or nothing at all.

    >>> import pandas
    >>> column(pandas.DataFrame({"x": [10, 14]}), "x", scale=0.01)
    array([0.1 , 0.14])
    """
    import pandas as pd

    label = frame.attrs.get("path", "the table")
    if name not in frame.columns:
        columns = [str(c) for c in frame.columns]
        near = get_close_matches(str(name), columns, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        shown = ", ".join(columns[:20]) + (", …" if len(columns) > 20 else "")
        raise ValueError(f"{label} has no column {name!r}; its columns are {shown}{hint}")
    values = frame[name]
    if np.iscomplexobj(values):
        raise ValueError(f"column {name!r} of {label} holds complex numbers; take their real part or magnitude first")
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = np.isnan(numbers) & ~values.isna().to_numpy()
    if wrong.any():
        row = int(np.argmax(wrong))
        text = str(values.iloc[row])
        raise ValueError(f"{_place(frame, row)} of column {name!r} in {label} is not a number: {text!r}")
    if np.isnan(numbers).all():
        raise ValueError(f"column {name!r} of {label} holds no number: all {len(numbers)} entries are missing")
    if not missing and np.isnan(numbers).any():
        row = int(np.argmax(np.isnan(numbers)))
        raise ValueError(f"{_place(frame, row)} of column {name!r} in {label} is empty; every row needs this number")
    return numbers * scale


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, "np.ndarray | None"]


def long(
    frame: pd.DataFrame,
    *,
    time: str | float,
    position: str | float | Sequence[str | float],
    value: str,
    sigma: str | float | None = None,
    scale: Mapping[str, float] | None = None,
) -> Arrays:
    """One reading a row: (times, positions, values, sigma), each of shape (rows,), positions on several axes (rows, ndim).

    Args:
        frame: a table, of `read` or your own.
        time: name of a column [time], or one number for all rows; inf is the steady state.
        position: name of a column [length], or one number for all rows; on several axes one of them for each.
        value: name of the column of readings; missing ones become NaN.
        sigma: name of a column, or one number: the standard deviation of a reading.
        scale: factors of columns, {name: factor}.

    Raises:
        ValueError: as `column`.

    >>> import pandas
    >>> rod = pandas.DataFrame({"x": [10.0, 14.0], "T": [96.14, 80.12]})
    >>> long(rod, time=float("inf"), position="x", value="T")[0]
    array([inf, inf])
    """
    scale = scale or {}

    def pick(what: str | float, missing: bool = False) -> np.ndarray:
        if isinstance(what, str):
            return column(frame, what, missing=missing, scale=scale.get(what, 1.0))
        return np.full(len(frame), float(what))

    where: Any = position
    if _is_point(where) and not len(where):
        raise ValueError("position names no column, got (); give one, or one for each axis")
    place = np.stack([pick(one) for one in where], axis=1) if _is_point(where) else pick(where)
    return pick(time), place, pick(value, True), None if sigma is None else pick(sigma, True)


def wide(
    frame: pd.DataFrame,
    *,
    time: str | float,
    positions: Mapping[str, float | Sequence[float]],
    sigma: Mapping[str, Any] | str | float | None = None,
    scale: Mapping[str, float] | None = None,
) -> Arrays:
    """A column per sensor: (times, positions, values, sigma), each of shape (rows × sensors,), row by row; positions on
    several axes (rows × sensors, ndim).

    Args:
        frame: a table, of `read` or your own.
        time: name of a column [time], or one number for all rows; inf is the steady state.
        positions: where each sensor stands [length], {column: position}; on several axes {column: (x, y)}.
        sigma: one number, one column for all sensors, or {sensor: number or column}.
        scale: factors of columns, {name: factor}.

    Raises:
        ValueError: as `column`.

    >>> import pandas
    >>> bar = pandas.DataFrame({"t": [0.0, 1.0], "left": [20.0, 21.0], "right": [20.0, 20.5]})
    >>> wide(bar, time="t", positions={"left": 0.1, "right": 0.3})[1]
    array([0.1, 0.3, 0.1, 0.3])
    """
    if not positions:
        raise ValueError("a wide table needs the position of at least one sensor, as in {'T1': 0.1}")
    if len({np.shape(position) for position in positions.values()}) > 1:
        raise ValueError(f"every sensor needs as many coordinates as the others, got {dict(positions)}")
    stands: Mapping[str, Any] = positions
    each = [
        long(
            frame,
            time=time,
            position=tuple(map(float, position)) if _is_point(position) else float(position),
            value=name,
            sigma=sigma.get(name) if isinstance(sigma, Mapping) else sigma,
            scale=scale,
        )
        for name, position in stands.items()
    ]
    times, places, values, spreads = zip(*each, strict=True)
    known = [spread for spread in spreads if spread is not None]
    if known and len(known) < len(each):
        raise ValueError(f"sigma is given for some sensors only; give it for all of {', '.join(positions)}")
    flat = lambda columns: np.stack(columns, axis=1).reshape(-1, *columns[0].shape[1:])
    return flat(times), flat(places), flat(values), flat(known) if known else None


def _is_point(position: Any) -> bool:
    """Whether a position has a coordinate for each of several axes, and is no single one."""
    return np.ndim(position) > 0


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(1 << 20)
    if b"\0" in start:
        raise ValueError(f"{path} is not a text file; save the table as CSV")
    try:
        start[: start.rfind(b"\n") + 1 or None].decode("utf-8-sig")
        return "utf-8-sig"
    except UnicodeDecodeError:
        return "latin-1"


def _lines(path: Path, skip: int, comment: str, count: int | None = 1) -> list[tuple[int, str]]:
    """The first `count` lines that carry a row, each with its number in the file."""
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}; check the path")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the CSV file in it")
    found: list[tuple[int, str]] = []
    with path.open(encoding=_encoding(path)) as file:
        for number, line in enumerate(file, 1):
            if number > skip and line.strip() and not (comment and line.lstrip().startswith(comment)):
                found.append((number, line.split(comment)[0].rstrip("\n") if comment else line.rstrip("\n")))
                if len(found) == count:
                    break
    return found


def _separator(line: str) -> str:
    counts = {mark: line.count(mark) for mark in ("\t", ";", ",")}
    mark = max(counts, key=lambda m: counts[m])
    return mark if counts[mark] else " "


def _place(frame: pd.DataFrame, row: int) -> str:
    """'row 7', with the line of the file where there is one."""
    attrs = frame.attrs
    if "path" not in attrs or not isinstance(frame.index[row], (int, np.integer)):
        return f"row {row + 1}"
    row = int(frame.index[row])
    lines = _lines(Path(attrs["path"]), attrs["skip"], attrs["comment"], None)
    index = row + bool(attrs["header"])
    return f"row {row + 1} (line {lines[index][0]})" if index < len(lines) else f"row {row + 1}"
