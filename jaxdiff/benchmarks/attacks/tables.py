"""Random tables of measurements through `jd.Readings.from_table`, each read right, refused in one line, or found out.

A sheet is drawn with its numbers, dressed as spreadsheets and loggers dress theirs, damaged in up to two ways, written,
and read again. What stands in a cell and is no number must be missing, and counted, or refused.
"""

from __future__ import annotations

import io
import os
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks.harness import Entries

GRID = jd.Grid.uniform((0.0, 1.0, 4))
COLUMNS = ("t", "x", "T")
MARKS = ("", "NA", "NaN", "nan", "n/a", "null", "None", "#N/A", "#DIV/0!", "#VALUE!", "#REF!", "1.#QNAN", "-1.#IND")
WORDS = (
    "---", "?", "-", "missing", "over", "oops", "1.#INF", "12 kg", "5%", "1-2", "0x1F", "1e400", "-1e999", "9" * 401, "1_000",
    "1d3", "1,2,3", "1+2j", "True", "FALSE", "12:30", "2024-02-30", "01.02.2024", "½", "1 000", "++1", "1e",
)  # fmt: skip
NUMBERS: tuple[Callable[[float], str], ...] = (
    lambda v: repr(float(v)),
    lambda v: f"{v:.3g}",
    lambda v: f"{v:.6e}",
    lambda v: f"{v:+.4f}",
    lambda v: f"{v:.2E}",
    lambda v: f"{v:.3f}".lstrip("0") if 0 < v < 1 else f"{v:.0f}.",
)


@dataclass
class Sheet:
    """Cells as they are written; what they say, NaN where nothing; how they are laid out and read."""

    header: list[str]
    rows: list[list[str]]
    truth: np.ndarray  # (rows, 3) of COLUMNS
    separator: str = ","
    newline: str = "\n"
    encoding: str = "utf-8"
    quoted: bool = False
    before: list[str] = field(default_factory=list)  # lines above the header
    between: dict[int, str] = field(default_factory=dict)  # lines above a row
    after: str = ""  # at the end of every row
    name: str = "table.csv"
    way: str = "path"
    options: dict[str, Any] = field(default_factory=dict)

    def put(self, row: int, column: int, text: str, value: float = np.nan) -> None:
        """A cell of one of COLUMNS, and what it says."""
        self.rows[row][column], self.truth[row, column] = text, value

    def text(self) -> str:
        quote = lambda cell: f'"{cell}"' if self.quoted or self.separator in cell else cell
        lines = [*self.before, *([self.separator.join(map(quote, self.header))] if self.header else [])]
        for i, row in enumerate(self.rows):
            lines += [self.between[i]] if i in self.between else []
            lines.append(self.separator.join(map(quote, row)) + self.after)
        return self.newline.join([*lines, ""])


def choice(rng: np.random.Generator, options: Any, p: Any = None) -> str:
    return str(rng.choice(options, p=p))


def drawn(rng: np.random.Generator) -> Sheet:
    """A sheet of numbers alone."""
    count = int(rng.integers(1, 12))
    scale = 10.0 ** rng.integers(-4, 6)
    values = np.column_stack(
        [np.sort(rng.uniform(0, scale, count)), rng.uniform(0, 1, count), rng.normal(0, scale, count)]
    )
    write = [NUMBERS[i] for i in rng.integers(0, len(NUMBERS), 3)]
    write[1] = write[1] if write[1] is not NUMBERS[5] else NUMBERS[1]  # rounded to 1. it is at the wall, and stays in
    rows = [[write[k](value) for k, value in enumerate(row)] for row in values]
    return Sheet(list(COLUMNS), rows, np.array([[float(cell) for cell in row] for row in rows]).reshape(-1, 3))


def dress(sheet: Sheet, rng: np.random.Generator) -> None:
    """Separators, encodings, quotes, comments, further columns, and the way in which the table is handed over."""
    sheet.separator = choice(rng, [",", ",", ";", "\t", " ", "  ", ", "])
    sheet.newline = choice(rng, ["\n", "\n", "\r\n", "\r"])
    sheet.encoding = choice(rng, ["utf-8", "utf-8", "utf-8-sig", "latin-1", "utf-16"])
    sheet.quoted = bool(rng.random() < 0.2)
    sheet.way = choice(
        rng, ["path", "text path", "StringIO", "BytesIO", "file", "pipe"], [0.3, 0.3, 0.1, 0.1, 0.1, 0.1]
    )
    names = ["table.csv", "table.csv", "tabelle ä.txt", "table.zip", "table.tar", "table.zst", "table"]
    sheet.name = choice(rng, names)
    if rng.random() < 0.3:
        sheet.before = ["# measured with °C", ""]
    if rng.random() < 0.2:
        sheet.between[int(rng.integers(len(sheet.rows)))] = choice(rng, ["# a word", "", "   ", "#"])
    if rng.random() < 0.15:
        sheet.after = choice(rng, ["  # behind", "\t", " "]) if not sheet.quoted else ""
    if rng.random() < 0.3:  # a column that nobody asks for
        place = int(rng.integers(1, 4))  # at the start of a line #1 is a comment
        sheet.header.insert(place, "remark")
        for row in sheet.rows:
            row.insert(place, choice(rng, ["ok", "1.5", "#1", "2024-01-31"]) if rng.random() < 0.9 else "ok")


def _cell(sheet: Sheet, rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(len(sheet.rows))), int(rng.choice([0, 1, 2, 2, 2, 2]))


def missing(sheet: Sheet, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(1, 4))):
        sheet.put(int(rng.integers(len(sheet.rows))), 2, choice(rng, MARKS))


def no_number(sheet: Sheet, rng: np.random.Generator) -> None:
    sheet.put(*_cell(sheet, rng), choice(rng, WORDS))


def all_true(sheet: Sheet, rng: np.random.Generator) -> None:
    for i in range(len(sheet.rows)):
        sheet.put(i, 2, "True")


def thousands(sheet: Sheet, rng: np.random.Generator) -> None:
    value = float(rng.integers(1000, 10**7))
    sheet.put(int(rng.integers(len(sheet.rows))), 2, f"{value:,.1f}", value)


def decimal_commas(sheet: Sheet, rng: np.random.Generator) -> None:
    sheet.rows = [[cell.replace(".", ",") for cell in row] for row in sheet.rows]
    sheet.separator = choice(rng, [";", ";", "\t", ","])


def huge(sheet: Sheet, rng: np.random.Generator) -> None:
    text = choice(rng, ["1e300", "-1.7e308", "123456789012345678901234567890", "1e-320", "0.1e1"])
    sheet.put(int(rng.integers(len(sheet.rows))), 2, text, float(text))


def units(sheet: Sheet, rng: np.random.Generator) -> None:
    sheet.rows.insert(0, [str(rng.choice(["[s]", "s", "K", "°C", "-"])) for _ in sheet.rows[0]])
    sheet.truth = np.vstack([np.full((1, 3), np.nan), sheet.truth])


def short_rows(sheet: Sheet, rng: np.random.Generator) -> None:
    row = int(rng.integers(len(sheet.rows)))
    length = int(rng.integers(1, 3))
    sheet.rows[row] = sheet.rows[row][:length]
    sheet.truth[row, length:] = np.nan


def long_rows(sheet: Sheet, rng: np.random.Generator) -> None:
    row = int(rng.integers(len(sheet.rows)))
    sheet.rows[row] = [*sheet.rows[row], choice(rng, ["7", "", "x"])]
    sheet.truth[row] = np.nan if sheet.rows[row][-1] else sheet.truth[row]


def trailing(sheet: Sheet, rng: np.random.Generator) -> None:
    sheet.rows = [[*row, ""] for row in sheet.rows]
    if rng.random() < 0.5:
        sheet.header = [*sheet.header, ""]


def no_header(sheet: Sheet, rng: np.random.Generator) -> None:
    sheet.header = []


def twice(sheet: Sheet, rng: np.random.Generator) -> None:
    sheet.header = [*sheet.header, choice(rng, ["T", "t", " T", "T "])]
    sheet.rows = [[*row, "1"] for row in sheet.rows]
    sheet.truth[:] = np.nan


def rows_twice(sheet: Sheet, rng: np.random.Generator) -> None:
    row = int(rng.integers(len(sheet.rows)))
    sheet.rows.insert(row, list(sheet.rows[row]))
    sheet.truth = np.insert(sheet.truth, row, sheet.truth[row], axis=0)


def empty(sheet: Sheet, rng: np.random.Generator) -> None:
    sheet.rows, sheet.truth = [], np.zeros((0, 3))
    sheet.header = sheet.header if rng.random() < 0.5 else []
    sheet.between = {}


def dates(sheet: Sheet, rng: np.random.Generator) -> None:
    days = np.sort(rng.integers(0, 5000, len(sheet.rows)) / 8)
    lengths = [("day", 86400), ("h", 3600), ("s", 1), ("min", 60), ("year", 31557600), (None, 1)]
    unit, length = lengths[int(rng.integers(6))]
    forms = ["%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y/%m/%d %H:%M", "%Y-%m-%dT%H:%MZ", "%d.%m.%Y %H:%M"]
    form = choice(rng, forms)
    moments = np.datetime64("2023-12-30T00:00") + (days * 1440).astype("m8[m]")
    for i, moment in enumerate(moments):
        sheet.put(i, 0, moment.item().strftime(form), (days[i] - days[0]) * 86400 / length if unit else np.nan)
    sheet.options = {"time_unit": unit}


def mixed_dates(sheet: Sheet, rng: np.random.Generator) -> None:
    sheet.options = {"time_unit": "day"} if rng.random() < 0.5 else {}
    alone = len(sheet.rows) == 1 and sheet.options
    sheet.put(int(rng.integers(len(sheet.rows))), 0, "2024-01-31 12:00", 0.0 if alone else np.nan)


def dates_elsewhere(sheet: Sheet, rng: np.random.Generator) -> None:
    for i in range(len(sheet.rows)):
        sheet.put(i, int(rng.integers(1, 3)), "2024-01-31")
    sheet.options = {"time_unit": "day"}


def spaces(sheet: Sheet, rng: np.random.Generator) -> None:
    sheet.header = [f" {name}  " for name in sheet.header]
    sheet.rows = [[f"  {cell} " for cell in row] for row in sheet.rows]


def units_in_names(sheet: Sheet, rng: np.random.Generator) -> None:
    sheet.header = [f"{name} (a, b; c)" for name in sheet.header]
    sheet.options |= dict(zip(("time", "position", "value"), (f"{name} (a, b; c)" for name in COLUMNS), strict=True))


def no_text(sheet: Sheet, rng: np.random.Generator) -> None:
    sheet.encoding = choice(rng, ["utf-32", "utf-16-le"])


DAMAGE: tuple[Callable[[Sheet, np.random.Generator], None], ...] = (
    missing, missing, no_number, no_number, all_true, thousands, decimal_commas, huge, units, short_rows, long_rows, trailing,
    no_header, twice, rows_twice, rows_twice, empty, dates, dates, mixed_dates, dates_elsewhere, spaces, units_in_names, no_text,
)  # fmt: skip
# After those, rows and columns are not what they were.
LAST = (no_header, empty, twice, trailing, short_rows, long_rows, spaces)


def run(count: int, seed: int = 0) -> Entries:
    """Records {"seed", "kind", "verdict", "detail"} of `count` tables.

    A verdict is "right" (every number is the one that was written, and what is missing is counted), "refused" (in one line
    of the library that names the file), "WRONG" or "TRACEBACK".
    """
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(count):
            rng = np.random.default_rng([seed, i])
            sheet = drawn(rng)
            kinds = [DAMAGE[k] for k in rng.integers(0, len(DAMAGE), int(rng.choice([0, 1, 1, 1, 2])))]
            kinds = sorted(kinds, key=LAST.__contains__)
            for kind in kinds:
                if sheet.rows and (sheet.header or kind is not units_in_names):
                    kind(sheet, rng)
            if sheet.rows and not {short_rows, long_rows, no_header, decimal_commas} & set(kinds):
                dress(sheet, rng)
            name = " + ".join(kind.__name__ for kind in kinds) or "plain"
            verdict, detail = judged(sheet, Path(folder) / f"{i}")
            records.append({"seed": (seed, i), "kind": name, "verdict": verdict, "detail": detail})
    return records


def judged(sheet: Sheet, folder: Path) -> tuple[str, str]:
    """(verdict, what there is to say)."""
    folder.mkdir()
    path = folder / sheet.name
    options = {"time": "t", "position": "x", "value": "T", **sheet.options}
    try:
        data = sheet.text().encode(sheet.encoding, errors="replace")
        readings = jd.Readings.from_table(_handed_over(sheet.way, path, data), GRID, 0.0, **options)
    except (ValueError, TypeError, OSError) as error:
        message, last = str(error), traceback.extract_tb(error.__traceback__)[-1].filename
        if "\n" in message or not message or "jaxdiff" not in Path(last).parts:
            return "TRACEBACK", f"{type(error).__name__}: {message}, from {last}"
        if sheet.way in ("path", "text path", "pipe") and str(path) not in message:
            return "TRACEBACK", f"names no file: {message}"
        return "refused", message
    except Exception as error:
        return "TRACEBACK", f"{type(error).__name__}: {error}"
    present = ~np.isnan(sheet.truth[:, 2])
    found = np.column_stack([readings.times, readings.positions, readings.values])
    if found.shape != sheet.truth[present].shape or not np.allclose(found, sheet.truth[present], rtol=1e-14, atol=0):
        return "WRONG", f"read {found.tolist()} for {sheet.truth.tolist()} of {sheet.text()!r}"
    if readings.missing != np.sum(~present) or bool(readings.notes) != bool(readings.missing):
        return "WRONG", f"{readings.missing} of {np.sum(~present)} missing are counted"
    return "right", ""


def _handed_over(way: str, path: Path, data: bytes) -> Any:
    """The table as a user may hand it over."""
    if way == "StringIO":
        return io.StringIO(data.decode("utf-8", errors="replace"))
    if way == "BytesIO":
        return io.BytesIO(data)
    if way == "pipe" and hasattr(os, "mkfifo"):
        os.mkfifo(path)
        threading.Thread(target=path.write_bytes, args=(data,), daemon=True).start()
        return str(path)
    path.write_bytes(data)
    if way == "file":
        return path.open("rb")
    return str(path) if way == "text path" else path
