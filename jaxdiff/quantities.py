"""What users hand over as numbers and times: real numbers in float64, dates and durations in a stated unit."""

from __future__ import annotations

import numbers as abstract
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

_UNITS = {
    "ns": (1e-9, "nanosecond"),
    "us": (1e-6, "microsecond"),
    "ms": (1e-3, "millisecond"),
    "s": (1.0, "sec second"),
    "min": (60.0, "minute"),
    "h": (3600.0, "hr hour"),
    "day": (86400.0, "d"),
    "week": (604800.0, "w"),
    "year": (31557600.0, "yr y"),
}
_SECONDS = {
    word + plural: seconds
    for unit, (seconds, others) in _UNITS.items()
    for word in (unit, *others.split())
    for plural in ("", "s")
    if len(word) > 2 or not plural
}
SINCE = "count times from the first, (t - t[0]) / np.timedelta64(1, 's')"
STATE_UNIT = 'say in which unit time counts, time_unit = "day" (or s, min, h, week, year)'

# The year first, as ISO 8601 has it: others may be read in two ways.
_ISO = re.compile(r"\d{4}([-/])\d{1,2}\1\d{1,2}([T ]\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)? ?(?P<zone>Z|[+-]\d{2}:?\d{2})?)?")
_OTHER = re.compile(r"\d{1,4}([-/.])(\d{1,2}|[A-Za-z]{3,9})\1\d{1,4}.*|\d{1,3}:\d{2}(:\d{2}([.,]\d+)?)?")


def numbers(values: Any, name: str, dates: str = "only times may be dates or durations") -> np.ndarray:
    """Real numbers as float64, in the shape they have; NaN where one is missing or masked; `dates`: what to do with dates.

    Raises ValueError or TypeError in one line where they are something else.

    >>> numbers([1, None, "2.5"], "values")
    array([1. , nan, 2.5])
    """
    return _real(_array(values, name), name, dates)


def refuse(wrong: np.ndarray, message: Callable[..., str]) -> None:
    """Raise ValueError with message(index of the first entry that is wrong), if any is."""
    if wrong.any():
        raise ValueError(message(*map(int, np.argwhere(wrong)[0])))


def times_as_numbers(times: Any, start: Any, unit: str | None, name: str = "times") -> tuple[np.ndarray, float]:
    """(times, start) as numbers, in `unit` where they are dates or durations.

    Dates count from the start if that is a date, else from the earliest of them; durations from zero.

    >>> times_as_numbers(np.array(["2024-02-28", "2024-03-01"], "datetime64[D]"), 0.0, "day")
    (array([0., 2.]), 0.0)
    """
    seconds = None if unit is None else checked_unit(unit)
    moments, zoned = instants(times, name, seconds is not None)
    begin, begins_zoned = instants(start, "start", seconds is not None)
    if begin.shape != ():
        raise ValueError(f"start must be one time, got shape {begin.shape}")
    for what, found in ((name, moments), ("start", begin)):
        if seconds is None and found.dtype.kind != "f":
            raise ValueError(
                f"{what} must be numbers, got {described(found.flat[0]) if found.size else 'dates'}; {STATE_UNIT}"
            )
    if begin.dtype.kind == "M":
        if moments.dtype.kind != "M" or zoned != begins_zoned:
            raise ValueError(
                f"a start of {described(begin[()])} needs times that are dates too, in time zones both or neither"
            )
        return _elapsed(moments, begin, seconds), 0.0
    origin = None
    if moments.dtype.kind == "M":
        known = moments[~np.isnat(moments)]
        origin = known.min() if known.size else np.datetime64(0, "s")
    return _elapsed(moments, origin, seconds), float(_elapsed(begin, None, seconds))


def checked_unit(unit: Any) -> float:
    """Seconds in a unit of time."""
    if not isinstance(unit, str) or unit not in _SECONDS:
        raise ValueError(f"time_unit must be one of {', '.join(_UNITS)}, got {unit!r}; a year is 365.25 days")
    return _SECONDS[unit]


def instants(values: Any, name: str, texts: bool = False) -> tuple[np.ndarray, bool]:
    """Times as float64, datetime64 or timedelta64, and whether dates had time zones and are in UTC now; NaT is a missing
    date. With `texts`, those that are no numbers are read as dates."""
    array, zoned = _array(values, name), False
    if array.dtype.kind == "O" and array.size:
        array, zoned = _of_objects(array, name, texts)
    if array.dtype.kind not in "mM":
        return _real(array, name, "give dates or numbers, not both" if texts else STATE_UNIT), False
    if np.datetime_data(array.dtype)[0] in (("generic", "Y", "M") if array.dtype.kind == "m" else ("generic",)):
        raise ValueError(f"{name} must be in days or finer, got {array.dtype}; months and years differ in length")
    return array, zoned


def as_float(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(numbers as float64, NaN where there is none; whether an entry is something else than a number or missing)."""
    if array.dtype.kind in "iuf":
        with np.errstate(over="ignore"):
            found = array.astype(np.float64)
        return found, np.isinf(found) & ~np.isinf(array)
    if array.dtype.kind != "O":
        return np.full(array.shape, np.nan), np.ones(array.shape, bool)
    import pandas as pd

    known = ~np.asarray(pd.isna(array))
    entries = array[known]
    found, wrong = np.full(array.shape, np.nan), np.zeros(array.shape, bool)
    plain = _plain(entries)
    if plain is None:
        values = [_number(entry) for entry in entries]
        wrong[known] = [value is None for value in values]
        plain = np.array([np.nan if value is None else value for value in values])
    found[known] = plain
    return found, wrong


def advice(entry: Any, dates: str) -> str:
    """What to do about an entry that is no number; `dates`: about a date or a duration."""
    if isinstance(entry, (bool, np.bool_)) or str(entry).strip().lower() in ("true", "false"):
        return "write 1 and 0 where they are numbers"
    if isinstance(entry, (complex, np.complexfloating)):
        return "take the real part or the magnitude first"
    if isinstance(entry, str):
        text = entry.strip()
        if _ISO.fullmatch(text):
            return dates
        if _OTHER.fullmatch(text):
            return "write dates with the year first, 2024-01-31 12:00, and durations as numbers"
        if re.fullmatch(r"[-+]?\d+,\d+", text):
            return 'the decimal mark is a point; pass pandas.read_csv(path, sep=";", decimal=","), or in [data] decimal = ","'
    if isinstance(entry, (np.datetime64, np.timedelta64)) or hasattr(entry, "total_seconds") or hasattr(entry, "year"):
        return dates
    if isinstance(entry, (abstract.Number, str)) and str(entry).strip().lstrip("+-")[:1].isdigit():
        return "mend it, or leave it empty where it is missing"
    return "leave it empty (NaN) where a number is missing"


def described(entry: Any) -> str:
    """An entry in a few words on one line."""
    kind = type(entry).__name__
    if isinstance(entry, (np.datetime64, np.timedelta64)) and np.datetime_data(entry.dtype)[0] not in "YM":
        entry = entry.astype(f"{entry.dtype.kind}8[s]")
    if isinstance(entry, np.datetime64):
        return f"the date {entry}"
    text = " ".join((repr(entry) if isinstance(entry, str) else str(entry)).split())
    text = text if len(text) <= 40 else text[:39] + "…"
    plain = isinstance(entry, (str, abstract.Number, np.generic)) or hasattr(entry, "year")
    return text if plain else f"{kind} {text}" if kind.lower() not in text.lower() else text


def _array(values: Any, name: str) -> np.ndarray:
    """As an array of numbers, dates, durations or objects; what is masked is missing."""
    if isinstance(values, jax.core.Tracer):
        raise TypeError(
            f"{name} must be plain numbers, got traced ones; make the measurement outside jit, grad and vmap"
        )
    if hasattr(values, "to_value") or hasattr(values, "magnitude"):
        raise TypeError(f"{name} must be plain numbers, got {type(values).__name__} with a unit; pass its number alone")
    try:
        array = np.asarray(values)
        if isinstance(values, jax.Array) and array.dtype.kind == "V":  # bfloat16
            array = array.astype(np.float32)
    except Exception as error:
        words = " ".join(str(error).split())[:120]
        raise TypeError(
            f"{name} must be numbers in rows of equal length, got {type(values).__name__}: {words}"
        ) from None
    if array.dtype.kind == "O" and array.ndim == 0 and not isinstance(values, (np.ndarray, abstract.Number)):
        if hasattr(values, "__iter__") and not isinstance(values, str):
            raise TypeError(f"{name} must be numbers, got a {type(values).__name__}; pass a list or an array")
    if array.dtype.kind in "UT":
        array = array.astype(object)
    mask = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    if mask is None or not mask.any():
        return array
    array = array.astype(np.float64) if array.dtype.kind in "iu" else array.copy()
    if array.dtype.kind in "fmMO":
        array[mask] = None if array.dtype.kind == "O" else np.array("NaT" if array.dtype.kind in "mM" else np.nan)
    return array


def _real(array: np.ndarray, name: str, dates: str) -> np.ndarray:
    found, wrong = as_float(array)
    if wrong.any():
        entry = array[wrong][0]
        raise ValueError(f"{name} must be numbers, got {described(entry)}; {advice(entry, dates)}")
    return found


def _plain(entries: np.ndarray) -> np.ndarray | None:
    """As `_number` of each, at once, where all of them are plain texts of finite numbers."""
    if not all(type(entry) is str for entry in entries):
        return None
    try:
        values = entries.astype(np.float64)
    except ValueError:
        return None
    return values if np.isfinite(values).all() and not any("_" in entry for entry in entries) else None


def _number(entry: Any) -> float | None:
    """As a float; None if it is no real number, or one beyond all floats."""
    if isinstance(entry, (bool, np.bool_, bytes, np.datetime64, np.timedelta64)) or "_" in str(entry):
        return None
    try:
        value = float(entry)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if np.isinf(value) and "inf" not in str(entry).lower() else value


def _of_objects(array: np.ndarray, name: str, texts: bool) -> tuple[np.ndarray, bool]:
    """Dates and durations among objects as such, others as they are; and whether they had time zones."""
    import pandas as pd

    kind = pd.api.types.infer_dtype(array.ravel(), skipna=True)
    known = ~np.asarray(pd.isna(array))
    entries = array[known]
    if not entries.size:
        return array, False
    if kind == "string" and texts and as_float(array)[1].any():
        matches = [_ISO.fullmatch(entry.strip()) for entry in entries]
        if not any(matches):
            return array, False
        if not all(matches):
            other = described(entries[matches.index(None)])
            raise ValueError(f"{name} must be dates like 2024-01-31 12:00 throughout, got {other}; mend it")
        entries = [entry.strip().replace(",", ".") for entry in entries]
        zones = {bool(match and match["zone"]) for match in matches}
    elif kind in ("datetime", "datetime64", "date"):
        zones = {getattr(entry, "tzinfo", None) is not None for entry in entries}
    elif kind in ("timedelta", "timedelta64", "period"):
        zones = {False}
    else:
        return array, False
    if len(zones) > 1:
        raise ValueError(f"{name} must be dates in time zones or without, got both; give all of them one")
    try:
        if kind.startswith("timedelta"):
            moments: Any = pd.to_timedelta(entries)
        elif kind == "period":
            moments = pd.PeriodIndex(entries).to_timestamp()
        else:
            form = {"format": "ISO8601"} if kind == "string" else {}
            moments = pd.to_datetime(entries, utc=True, **form).tz_localize(None)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{name} cannot be read as times: {' '.join(str(error).split())[:160]}") from None
    moments = moments.to_numpy()
    found = np.full(array.shape, "NaT", moments.dtype)
    found[known] = moments
    return found, zones == {True}


def _elapsed(moments: np.ndarray, origin: Any, seconds: float | None) -> np.ndarray:
    """Dates since the origin and durations in units of so many seconds; numbers as they are."""
    if moments.dtype.kind == "f":
        return moments
    assert seconds is not None, "dates without a unit are refused"
    whole, rest = _split(moments)
    if origin is not None:
        begin, early = _split(np.asarray(origin))
        whole, rest = whole - begin, rest - early
    return np.where(np.isnat(moments), np.nan, whole / seconds + rest / (1e9 * seconds))


def _split(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole seconds and nanoseconds: each kind of date has its own range, and NumPy overflows in silence."""
    whole = moments.astype(f"{moments.dtype.kind}8[s]")
    rest = (moments - whole.astype(moments.dtype)).astype("m8[ns]")
    return whole.astype(np.int64), rest.astype(np.int64)
