"""Tables: what is read, and the one line that names the row and the column of what cannot be."""

import gzip
import io
import os
import threading

import numpy as np
import pandas as pd
import pytest

import jaxdiff as jd
from jaxdiff.measurements import tables


@pytest.fixture
def file(tmp_path):
    def write(content, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


READ = [
    ("a,b\n1,2\n3,4\n", {}, [2.0, 4.0]),
    ("a;b\n1,5;2,5\n3;4\n", {"decimal": ","}, [2.5, 4.0]),
    ("a\tb\n1\t\n3\t4\n", {}, [np.nan, 4.0]),
    ("a b\n1 2\n 3   4\n", {}, [2.0, 4.0]),
    ("# note\n\na, b\n1, 2\n# inside\n3, 4  # behind\n", {}, [2.0, 4.0]),
    ("made by a logger\n1,2\n3,4\n", {"skip": 1, "names": ["a", "b"]}, [2.0, 4.0]),
    ("a,b\n1,2\n3,4\n5,6\n", {"rows": (2, 3)}, [4.0, 6.0]),
    ("a,b\n1,NaN\n3,inf\n", {}, [np.nan, np.inf]),
    ("\ufeffa,b\r\n1,2\r\n3,4\r\n", {}, [2.0, 4.0]),
    ("a,b,temp µ\n1,2,0\n3,4,0\n".encode("latin-1"), {}, [2.0, 4.0]),
    ("a|b\n1|2\n3|4\n", {"separator": "|"}, [2.0, 4.0]),
    ("a,b\n1,1.#QNAN\n3,-1.#IND\n5,#DIV/0!\n#N/A,7\n", {}, [np.nan, np.nan, np.nan, 7.0]),
    ("a,b\n#VALUE!,2\n3,4\n", {}, [2.0, 4.0]),
    ("a;b\n1,5;19,87\n3;null\n", {"decimal": ","}, [19.87, np.nan]),
    ("a,b,c\n1,2,x\n3,4\n", {}, [2.0, 4.0]),
    ("a,b,note\n1,2,#1\n3,4,ok # behind, with a comma\n", {}, [2.0, 4.0]),
    ("probe #1,b\n1,2\n3,4\n", {}, [2.0, 4.0]),
    ('"a","b\n(K)",b\n1,0,2\n3,0,4\n', {}, [2.0, 4.0]),
    ("a;b;T (K; mean, max)\n1;2;0,5\n3;4;0,5\n", {}, [2.0, 4.0]),
    ("a,b\n1,2\n3,4\n,\n,\n", {}, [2.0, 4.0]),
    ("a,b,\n1,2,\n3,4,\n", {}, [2.0, 4.0]),
    ("a,b\n1,2,\n3,4,\n", {}, [2.0, 4.0]),
    ("a,b\n1,123456789012345678901234567890\n3,1e300\n", {}, [123456789012345678901234567890.0, 1e300]),
    ("a,b\r1,2\r3,4\r", {}, [2.0, 4.0]),
    ("a,b\n1,2\n3,4\n".encode("utf-16"), {}, [2.0, 4.0]),
    ("PAR1,b\n1,2\n3,4\n", {}, [2.0, 4.0]),
]


@pytest.mark.parametrize("content, options, expected", READ, ids=range(len(READ)))
def test_read(file, content, options, expected):
    frame = tables.read(file(content), **options)
    np.testing.assert_array_equal(tables.column(frame, "b"), expected)


REFUSED = [
    ("", {}, "is empty"),
    ("# only a comment\n", {}, "is empty"),
    ("a,b\n", {}, "no row of data"),
    ("a,c\n1,2\n", {}, "no column 'b'; its columns are a, c"),
    ("a,bb\n1,2\n", {}, "did you mean 'bb'"),
    ("a,b\n1,2\n3,oops\n", {}, r"row 2 \(line 3\) of column 'b' .* not a number: 'oops'"),
    ("# x\na,b\n\n1,2\n# y\n3,1-2\n", {}, r"row 2 \(line 6\) of column 'b' .* '1-2'"),
    ("1,2\n3,n.a.\n", {"names": ["a", "b"]}, r"row 2 \(line 2\) of column 'b'"),
    ("a,b\n1,2\n3,4\n5,x\n", {"rows": (2, 3)}, r"row 3 \(line 4\)"),
    ("a,b\n1,\n3,\n", {}, "all 2 entries are missing"),
    ("a,b\n1,2,3\n", {}, "more entries than there are columns"),
    ("a,b\n1,2\n3,4,5\n", {}, "line 3"),
    ("1,2\n", {"names": ["a"]}, "has 2 columns but 1 names"),
    ("a,b\n1,2\n", {"rows": (1, 5)}, "rows 1 to 5 are not in"),
    (b"a,b\n1,2\0", {}, "not a text file"),
    ("a,b\n1,1.#INF\n", {}, r"row 1 \(line 2\) of column 'b' .* not a number: '1.#INF'"),
    ("a,b\n1,1e400\n", {}, "not a number: '1e400'"),
    (f"a,b\n1,{10**400}\n", {}, "not a number: '1000000"),
    ("a,b\n1,True\n", {}, "not a number: 'True'; write 1 and 0"),
    ("a,b\n1,1_000\n", {}, "not a number: '1_000'"),
    ("a;b\n1,5;19,87\n3;---\n", {"decimal": ","}, r"row 2 \(line 3\) .* not a number: '---'"),
    ("a;b\n1,5;1.234\n", {"decimal": ","}, "not a number: '1.234'"),
    ("a;b\n1,5;19,87\n", {}, "not a number: '19,87'; the decimal mark is a point"),
    ("a,b,b\n1,2,3\n", {}, "has 2 columns 'b'; give each a name of its own"),
    ("a,b , b\n1,2,3\n", {}, "has 2 columns 'b'"),
    ('a,b\n1,"2\n', {}, "unexpected end of data in line 2"),
    ("a,b\n1,2 # behind\n3,# lost\n", {}, r"row 2 \(line 3\) of column 'b' .* '# lost'"),
    ("a,b\n1,2\n", {"separator": "||"}, "separator and decimal must be different single characters"),
    ("a,b\n1,2\n", {"separator": ",", "decimal": ","}, "separator and decimal must be different single characters"),
    ("a,b\n1,2024-01-31\n", {}, "not a number: '2024-01-31'; only times may be dates"),
]


@pytest.mark.parametrize("content, options, message", REFUSED, ids=range(len(REFUSED)))
def test_refused_in_one_line(file, content, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        tables.column(tables.read(file(content), **options), "b")
    assert "\n" not in str(caught.value)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        tables.read(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match="is a folder"):
        tables.read(tmp_path)


def test_messages_name_the_file(file):
    for content, more, _ in REFUSED:
        path = file(content)
        with pytest.raises(ValueError) as caught:
            tables.column(tables.read(path, **more), "b")
        assert str(path) in str(caught.value)
    path = file("t,x,T\n1,0.5,3\n1,7,3\n")
    with pytest.raises(ValueError, match="position 1 at 7 lies outside the grid") as caught:
        jd.Readings.from_table(path, jd.Grid.uniform((0, 1, 4)), 0.0, time="t", position="x", value="T")
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("name", ["table.zip", "table.tar", "table.zst", "table.csv.gz", "table.xlsx", "table"])
def test_a_text_is_read_whatever_its_name(file, name):
    np.testing.assert_array_equal(tables.column(tables.read(file("a,b\n1,2\n", name)), "b"), [2.0])


def test_an_archive_is_called_one(file):
    for data, words in ((gzip.compress(b"a,b\n1,2\n"), "a gzip archive"), (b"PK\x03\x04\xff\x00", "a spreadsheet")):
        with pytest.raises(ValueError, match=f"{words}, not a text file; save the table as CSV"):
            tables.read(file(data))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_read_once(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("a,b\n1,2\n3,x\n",))
    writer.start()
    frame = tables.read(pipe)
    writer.join()
    np.testing.assert_array_equal(tables.column(frame, "a"), [1.0, 3.0])
    with pytest.raises(ValueError, match=r"row 2 \(line 3\) of column 'b'"):
        tables.column(frame, "b")


def test_places_where_no_table_is(tmp_path, monkeypatch):
    for place, kind, words in (
        ("~nouser/a.csv", FileNotFoundError, "there is no file ~nouser/a.csv"),
        ("a\0b", FileNotFoundError, "there is no file"),
        ("t,T\n1,2\n", ValueError, "wrap it in io.StringIO"),
        ("/dev/zero", ValueError, "is a device and no file"),
        (b"a,b", TypeError, "got bytes"),
        (None, TypeError, "got NoneType; make it a pandas.DataFrame"),
        ([1, 2], TypeError, "got list"),
        ((i for i in "ab"), TypeError, "got generator"),
        (np.ones((2, 2)), TypeError, "got ndarray"),
        ({"a": [1.0], "b": [1.0, 2.0]}, ValueError, "a dictionary is a table of columns of one length"),
        ({"a": 1.0}, ValueError, "a dictionary is a table of columns of one length"),
        (io.StringIO(""), ValueError, "the table is empty"),
    ):
        with pytest.raises(kind, match=words) as caught:
            tables.read(place)
        assert "\n" not in str(caught.value)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    assert len(tables.read("~/mine.csv")) == 1


def test_what_else_is_a_table(file):
    text = "t,x,T\n1,0.5,3\n2,0.5,\n"
    path = file(text)
    frame = pd.DataFrame({"t": [1.0, 2.0], "x": 0.5, "T": [3.0, np.nan]})
    columns = {"t": [1, 2], "x": np.array([0.5, 0.5]), "T": pd.Series([3, None], dtype="Int64")}
    grid, names = jd.Grid.uniform((0.0, 1.0, 4)), {"time": "t", "position": "x", "value": "T"}
    with path.open() as one, path.open("rb") as other:
        for table in (path, str(path), one, other, io.StringIO(text), frame, frame.set_index("t"), columns):
            readings = jd.Readings.from_table(table, grid, 0.0, **names)
            assert (readings.times, readings.values, readings.missing) == ([1.0], [3.0], 1)
            assert readings.notes == ("1 of 2 rows used; 1 missing",)


FRAMES = [
    ({"b": [True, False]}, "row 1 of column 'b' in the table is not a number: True; write 1 and 0"),
    ({"b": [1.0, True]}, "row 2 of column 'b' in the table is not a number: True"),
    ({"b": [1, 10**400]}, "row 2 of column 'b' in the table is not a number: 1000"),
    ({"b": pd.to_datetime(["2024-01-01"])}, "is not a number: the date 2024-01-01.* only times may be dates"),
    ({"b": pd.to_timedelta([1, 2])}, "only times may be dates"),
    ({"b": pd.to_datetime(["2024-01-01"], utc=True)}, "only times may be dates"),
    ({"b": pd.PeriodIndex(["2024-01"], freq="M")}, "only times may be dates"),
    ({"b": [[1.0], [2.0]]}, "is not a number: list"),
]


@pytest.mark.parametrize("columns, words", FRAMES, ids=[words for _, words in FRAMES])
def test_what_a_column_of_a_frame_may_not_hold(columns, words):
    with pytest.raises(ValueError, match=words) as caught:
        tables.column(pd.DataFrame({name: list(x) if isinstance(x, list) else x for name, x in columns.items()}), "b")
    assert "\n" not in str(caught.value)


def test_one_name_for_several_columns_of_a_frame():
    frame = pd.DataFrame([[1.0, 2.0, 3.0]], columns=["a", "b", "b"])
    assert tables.column(frame, "a").tolist() == [1.0]
    with pytest.raises(ValueError, match="the table has 2 columns 'b'"):
        tables.column(frame, "b")


@pytest.mark.parametrize("number", [pd.Index([1.0, 2.0]), [1.0, 2.0], True, pd.Timestamp(2024, 1, 1), 1j])
@pytest.mark.parametrize("role", ["time", "position", "sigma"])
def test_one_number_for_all_rows_is_one_number(role, number):
    given = {"time": "t", "position": 0.5, "value": "T", role: number}
    with pytest.raises(ValueError, match="must be|positions") as caught:
        grid = jd.Grid.uniform((0.0, 1.0, 4))
        jd.Readings.from_table(pd.DataFrame({"t": [1.0, 2.0], "T": [3.0, 4.0]}), grid, 0.0, **given)
    assert "\n" not in str(caught.value)


def test_missing_where_a_number_must_be():
    frame = pd.DataFrame({"t": [0.0, None, 2.0], "T": [1.0, 2.0, None]})
    with pytest.raises(ValueError, match="row 2 of column 't' in the table is empty"):
        tables.long(frame, time="t", position=0.5, value="T")


def test_long():
    frame = pd.DataFrame({"t": [0, 60], "x": [1, 2], "T": [20.0, None], "dT": [0.1, 0.2]})
    times, positions, values, sigma = tables.long(
        frame, time="t", position="x", value="T", sigma="dT", scale={"x": 0.01}
    )
    np.testing.assert_array_equal(times, [0.0, 60.0])
    np.testing.assert_array_equal(positions, [0.01, 0.02])
    np.testing.assert_array_equal(values, [20.0, np.nan])
    np.testing.assert_array_equal(sigma, [0.1, 0.2])


@pytest.mark.parametrize(
    "sigma, expected",
    [(None, None), (0.5, [0.5] * 4), ({"left": 0.1, "right": 0.2}, [0.1, 0.2, 0.1, 0.2]), ("dT", [1.0, 1.0, 2.0, 2.0])],
)
def test_wide_is_long_with_a_row_per_sensor(sigma, expected):
    frame = pd.DataFrame({"t": [0.0, 1.0], "left": [20.0, 21.0], "right": [30.0, None], "dT": [1.0, 2.0]})
    times, positions, values, deviations = tables.wide(
        frame, time="t", positions={"left": 0.1, "right": 0.3}, sigma=sigma
    )
    np.testing.assert_array_equal(times, [0.0, 0.0, 1.0, 1.0])
    np.testing.assert_array_equal(positions, [0.1, 0.3, 0.1, 0.3])
    np.testing.assert_array_equal(values, [20.0, 30.0, 21.0, np.nan])
    assert deviations is None if expected is None else np.array_equal(deviations, expected)


def test_positions_on_several_axes():
    frame = pd.DataFrame({"t": [0, 60], "x": [10.0, 20.0], "y": [3.0, 4.0], "T": [20.0, 21.0], "U": [30.0, 31.0]})
    positions = tables.long(frame, time="t", position=("x", "y"), value="T", scale={"x": 0.01})[1]
    np.testing.assert_allclose(positions, [[0.1, 3.0], [0.2, 4.0]])
    np.testing.assert_array_equal(tables.long(frame, time="t", position=(0.5, "y"), value="T")[1][:, 0], 0.5)
    sensors = {"T": (0.1, 0.2), "U": [0.3, 0.4]}
    _, positions, values, _ = tables.wide(frame, time="t", positions=sensors)
    np.testing.assert_array_equal(positions, [[0.1, 0.2], [0.3, 0.4]] * 2)
    np.testing.assert_array_equal(values, [20.0, 30.0, 21.0, 31.0])
    plane = jd.Grid.uniform((0.0, 1.0, 4), (0.0, 5.0, 4))
    wide = jd.Readings.from_table(frame, plane, 0.0, time="t", position=sensors)
    np.testing.assert_array_equal(wide.positions, positions)
    long = jd.Readings.from_table(frame[["t", "y", "T"]], plane, 0.0, time="t", position=(0.5, "y"), value="T")
    np.testing.assert_array_equal(long.positions, [[0.5, 3.0], [0.5, 4.0]])
    with pytest.raises(ValueError, match="as many coordinates as the others"):
        tables.wide(frame, time="t", positions={"T": (0.1, 0.2), "U": 0.3})
    with pytest.raises(ValueError, match="rows of 2 coordinates"):
        jd.Readings.from_table(frame, plane, 0.0, time="t", position="x", value="T")


def test_sigma_for_some_sensors_only():
    frame = pd.DataFrame({"left": [20.0], "right": [30.0]})
    with pytest.raises(ValueError, match="sigma is given for some sensors only"):
        tables.wide(frame, time=1.0, positions={"left": 0.1, "right": 0.3}, sigma={"left": 0.1})


def test_a_measured_file_without_header(measured):
    names = ["time", "ambient", "heater", *(f"s{i}" for i in range(1, 7))]
    frame = tables.read(measured("copper_bar_1mHz.csv"), names=names, skip=1)
    assert len(frame) == 5000
    times, positions, values, _ = tables.wide(frame, time="time", positions={"s2": 0.035, "s3": 0.07, "s4": 0.15})
    assert values.shape == (15000,) and np.isfinite(values).all() and times[0] == 2.0


def test_what_is_no_position_or_number_is_named():
    frame = pd.DataFrame({"t": [0.0, 1.0], "T": [1.0, 2.0], "z": [1j, 2.0]})
    with pytest.raises(ValueError, match=r"position names no column, got \(\)"):
        tables.long(frame, time="t", position=(), value="T")
    with pytest.raises(ValueError, match="column 'z' of the table holds complex numbers"):
        tables.long(frame, time="t", position=0.5, value="z")
