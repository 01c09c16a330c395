"""Tables: what is read, and the one line that names the row and the column of what cannot be."""

import numpy as np
import pandas as pd
import pytest

import jaxdiff as jd
from jaxdiff import tables


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
