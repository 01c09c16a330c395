"""Tables: columns of CSV files and DataFrames are parsed into arrays, with errors that name the row and the column."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np

from jaxdiff.measurements.delimited import Source, columns_of, pointed, text_of
from jaxdiff.quantities import STATE_UNIT, advice, as_float, checked_unit, described, instants, numbers

if TYPE_CHECKING:
    import pandas as pd

    Table: TypeAlias = str | os.PathLike[str] | pd.DataFrame | Mapping[str, Any] | IO[Any]


def read(
    table: Table,
    *,
    names: Sequence[str] | None = None,
    skip: int = 0,
    rows: Sequence[int] | None = None,
    separator: str | None = None,
    comment: str = "#",
    decimal: str = ".",
) -> pd.DataFrame:
    """A table with named columns.

    Args:
        table: path of a CSV file or a pipe; an open file; a DataFrame, of which named levels of the index are columns too;
            or a dictionary of columns.
        names: names of the columns, for a file without a header.
        skip: lines to leave out at the top, before the header if there is one.
        rows: first and last row of data to keep, counted from 1 below the header.
        separator: one character, or None to find out whether it is a comma, a semicolon, a tab or white space.
        comment: what starts a comment, at the start of a line or behind a whole row; an empty text for none.
        decimal: the decimal mark.

    Columns of a file in which all entries are numbers or missing are float64, others texts. A row that is shorter than the
    others misses its last entries.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the table is empty, ragged, not text, or has not as many columns as names.
        TypeError: it is no table.

    >>> import pandas
    >>> list(read(pandas.DataFrame({"t": [0.0, 1.0], "T": [20.0, 21.5]})).columns)
    ['t', 'T']
    """
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        frame, label = table, "the table"
        levels = [name for name in table.index.names if name is not None and name not in table.columns]
        if levels:
            frame = table.reset_index(level=levels)
    elif isinstance(table, Mapping):
        label = "the table"
        try:
            frame = pd.DataFrame(dict(table))
        except Exception as error:
            words = " ".join(str(error).split())[:200]
            raise ValueError(
                f"a dictionary is a table of columns of one length, {{name: values}}, got: {words}"
            ) from None
    else:
        text, label = text_of(table)
        frame = columns_of(text, label, names, skip, separator, comment, decimal)
    if rows is not None:
        low, high = rows
        if not 1 <= low <= high <= len(frame):
            raise ValueError(f"rows {low} to {high} are not in {label}, which has rows 1 to {len(frame)}")
        frame = frame.iloc[low - 1 : high]
    if not len(frame):
        raise ValueError(f"{label} is empty: it has no row of data")
    return frame


def column(frame: pd.DataFrame, name: str, *, missing: bool | str = True, scale: float = 1.0) -> np.ndarray:
    """A column of numbers as float64, shape (rows,), times `scale`; NaN where the entry is missing.

    Args:
        frame: a table, of `read` or your own.
        name: name of the column.
        missing: whether an entry may be missing; or what to do where it is, for the message.
        scale: factor from the unit of the table to the unit of the model.

    Raises:
        ValueError: no such column or two, something else in a number's place, a missing entry that must be there, or
            nothing at all.

    >>> import pandas
    >>> column(pandas.DataFrame({"x": [10, 14]}), "x", scale=0.01)
    array([0.1 , 0.14])
    """
    entries = entries_of(frame, name)
    if entries.dtype.kind == "c":
        label = source(frame).label
        raise ValueError(f"column {name!r} of {label} holds complex numbers; take their real part or magnitude first")
    return _checked(frame, name, entries, as_float(_plain(frame, entries)), "only times may be dates", missing) * scale


def moments(frame: pd.DataFrame, name: str, unit: str | None) -> np.ndarray:
    """A column of times, shape (rows,), none of them missing: as float64, or as datetime64 or timedelta64 where it holds
    dates or durations and a unit is stated; texts are then read as dates.

    Raises:
        ValueError: as `column`; or dates without a unit.
    """
    if unit is not None:
        checked_unit(unit)
    entries = entries_of(frame, name)
    found = as_float(_plain(frame, entries))
    if unit is not None and found[1].any():
        what = f"column {name!r} of {source(frame).label}"
        dates = instants(entries, what, texts=True)[0]
        found = (dates, np.zeros(len(dates), bool))
    return _checked(frame, name, entries, found, STATE_UNIT, False)


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, "np.ndarray | None"]


def long(
    frame: pd.DataFrame,
    *,
    time: Any,
    position: str | float | Sequence[str | float],
    value: str,
    sigma: str | float | None = None,
    scale: Mapping[str, float] | None = None,
    time_unit: str | None = None,
) -> Arrays:
    """One reading a row: (times, positions, values, sigma), each of shape (rows,), positions on several axes (rows, ndim).

    Args:
        frame: a table, of `read` or your own.
        time: name of a column [time], or one number (or date) for all rows; inf is the steady state.
        position: name of a column [length], or one number for all rows; on several axes one of them for each.
        value: name of the column of readings; missing ones become NaN.
        sigma: name of a column, or one number: the standard deviation of a reading.
        scale: factors of columns, {name: factor}.
        time_unit: unit in which times count that are dates or durations; they are returned as such.

    Raises:
        ValueError: as `column`.

    >>> import pandas
    >>> rod = pandas.DataFrame({"x": [10.0, 14.0], "T": [96.14, 80.12]})
    >>> long(rod, time=float("inf"), position="x", value="T")[0]
    array([inf, inf])
    """
    scale = scale or {}

    def pick(what: Any, role: str, missing: bool = False) -> np.ndarray:
        if isinstance(what, str):
            return column(frame, what, missing=missing, scale=scale.get(what, 1.0))
        return _same(frame, numbers(what, role), role)

    coordinates: Any = position if np.ndim(position) > 0 else [position]  # one for each axis
    places = [pick(one, "position") for one in coordinates]
    if not places:
        raise ValueError("position names no column, got (); give one, or one for each axis")
    if isinstance(time, str):
        times = moments(frame, time, time_unit)
        times = times * scale.get(time, 1.0) if times.dtype.kind == "f" else times
    else:
        times = _same(frame, instants(time, "time")[0], "time")
    deviations = None if sigma is None else pick(sigma, "sigma", True)
    return (
        times,
        np.stack(places, axis=1) if coordinates is position else places[0],
        pick(value, "value", True),
        deviations,
    )


def wide(
    frame: pd.DataFrame,
    *,
    time: Any,
    positions: Mapping[str, float | Sequence[float]],
    sigma: Mapping[str, Any] | str | float | None = None,
    scale: Mapping[str, float] | None = None,
    time_unit: str | None = None,
) -> Arrays:
    """A column per sensor: (times, positions, values, sigma), each of shape (rows × sensors,), row by row; positions on
    several axes (rows × sensors, ndim).

    Args:
        frame: a table, of `read` or your own.
        time: name of a column [time], or one number (or date) for all rows; inf is the steady state.
        positions: where each sensor stands [length], {column: position}; on several axes {column: (x, y)}.
        sigma: one number, one column for all sensors, or {sensor: number or column}.
        scale: factors of columns, {name: factor}.
        time_unit: unit in which times count that are dates or durations; they are returned as such.

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
    sensor = partial(long, frame, time=time, scale=scale, time_unit=time_unit)
    sigmas = sigma if isinstance(sigma, Mapping) else dict.fromkeys(positions, sigma)
    place: Any = lambda name: numbers(positions[name], "the position of a sensor")
    sensors = [sensor(position=place(name), value=name, sigma=sigmas.get(name)) for name in positions]
    times, places, values, deviations = zip(*sensors, strict=True)
    known = [deviation for deviation in deviations if deviation is not None]
    if known and len(known) < len(sensors):
        raise ValueError(f"sigma is given for some sensors only; give it for all of {', '.join(positions)}")
    flat = lambda columns: np.stack(columns, axis=1).reshape(-1, *columns[0].shape[1:])
    return flat(times), flat(places), flat(values), flat(known) if known else None


def groups(frame: pd.DataFrame, name: str | None) -> list[np.ndarray]:
    """Which rows have each of the different entries of a column, numbers or texts, in the order in which they come."""
    if name is None:
        return [np.ones(len(frame), bool)]
    import pandas as pd

    codes, _ = pd.factorize(entries_of(frame, name))
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        raise ValueError(
            f"{_place(frame, row)} of column {name!r} in {source(frame).label} is empty; every row needs one"
        )
    return [codes == code for code in range(codes.max() + 1)]


def source(frame: pd.DataFrame) -> Source:
    """Where a table comes from."""
    return frame.attrs.get("source") if isinstance(frame.attrs.get("source"), Source) else Source("the table")


@contextlib.contextmanager
def named(frame: pd.DataFrame) -> Iterator[None]:
    """Errors within begin with the name of the file, if the table comes from one."""
    try:
        yield
    except ValueError as error:
        label = source(frame).label
        if label in str(error) or not source(frame).lines:
            raise
        raise ValueError(f"{label}: {error}") from None


def _same(frame: pd.DataFrame, number: np.ndarray, role: str) -> np.ndarray:
    if number.shape != ():
        raise ValueError(f"{role} must be the name of a column or one number, got an array of shape {number.shape}")
    return np.full(len(frame), number)


def entries_of(frame: pd.DataFrame, name: str) -> np.ndarray:
    """A column as an array, of whatever it holds."""
    label, columns = source(frame).label, list(frame.columns)
    count = columns.count(name)
    if count > 1:
        raise ValueError(f"{label} has {count} columns {name!r}; give each a name of its own")
    if not count:
        shown = [str(one) for one in columns]
        near = get_close_matches(str(name), shown, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        more = ", …" if len(columns) > 20 else ""
        raise ValueError(f"{label} has no column {name!r}; its columns are {', '.join(shown[:20])}{more}{hint}")
    return np.asarray(frame[name])


def _plain(frame: pd.DataFrame, entries: np.ndarray) -> np.ndarray:
    """With a point as the decimal mark of texts."""
    mark = source(frame).decimal
    return entries if mark == "." or entries.dtype.kind != "O" else pointed(entries, mark)


def _checked(
    frame: pd.DataFrame,
    name: str,
    entries: np.ndarray,
    found: tuple[np.ndarray, np.ndarray],
    dates: str,
    missing: bool | str,
) -> np.ndarray:
    """What was found in a column, or one line about the first entry that cannot stand there."""
    (values, wrong), label = found, source(frame).label
    gone = np.isnat(values) if values.dtype.kind in "mM" else np.isnan(values)
    where = lambda mask: f"{_place(frame, int(np.argmax(mask)))} of column {name!r} in {label}"
    if wrong.any():
        entry = entries[wrong][0]
        raise ValueError(f"{where(wrong)} is not a number: {described(entry)}; {advice(entry, dates)}")
    if gone.all():
        raise ValueError(f"column {name!r} of {label} holds no number: all {len(values)} entries are missing")
    if missing is not True and gone.any():
        raise ValueError(f"{where(gone)} is empty; {missing or 'every row needs this number'}")
    return values


def _place(frame: pd.DataFrame, row: int) -> str:
    """'row 7', with the line of the file where there is one."""
    lines = source(frame).lines
    if not lines or not isinstance(frame.index[row], (int, np.integer)):
        return f"row {row + 1}"
    row = int(frame.index[row])
    return f"row {row + 1} (line {lines[row]})" if row < len(lines) else f"row {row + 1}"
