"""Dates and durations as times: in a stated unit, from a stated origin, or refused; and what is no real number."""

import datetime
import decimal
import fractions
import io

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxdiff as jd
from jaxdiff.quantities import numbers, times_as_numbers
from jaxdiff.shell.config import parse

GRID = jd.Grid.uniform((0.0, 1.0, 10))
UTC = datetime.UTC
day = lambda *numbers, **more: datetime.datetime(2024, *numbers, **more)
TWO_DAYS = {  # from the last of February 2024, over the leap day, to the first of March
    "datetime64": np.array(["2024-02-28", "2024-03-01"], "datetime64[ns]"),
    "datetime64 of seconds, far away": np.array(["3000-02-28", "3000-03-02"], "datetime64[s]"),
    "an index": pd.DatetimeIndex(["2024-02-28", "2024-03-01"]),
    "a series": pd.Series(pd.to_datetime(["2024-02-28", "2024-03-01"])),
    "in a time zone that sets its clocks": pd.DatetimeIndex(["2024-03-29 12:00", "2024-03-31 13:00"]).tz_localize("Europe/Berlin"),
    "a series in a time zone": pd.Series(pd.to_datetime(["2024-02-28", "2024-03-01"], utc=True)),
    "periods": pd.PeriodIndex(["2024-02-28", "2024-03-01"], freq="D"),
    "datetimes": [day(2, 28), day(3, 1)],
    "datetimes in zones": [day(2, 28, tzinfo=UTC), day(3, 1, tzinfo=UTC)],
    "dates": [datetime.date(2024, 2, 28), datetime.date(2024, 3, 1)],
    "an array of objects": np.array([pd.Timestamp(2024, 2, 28), pd.Timestamp(2024, 3, 1)], object),
    "texts": ["2024-02-28", "2024-03-01 00:00"],
    "texts in zones": ["2024-02-28T00:00:00Z", "2024-03-01T02:00:00+02:00"],
    "a category": pd.Series(["2024-02-28", "2024-03-01"], dtype="category"),
    "timedelta64": np.array([0, 48], "timedelta64[h]"),
    "timedeltas": [datetime.timedelta(0), datetime.timedelta(2)],
    "an index of durations": pd.to_timedelta([0, 2], unit="D"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TWO_DAYS)
@pytest.mark.parametrize(
    "unit, value", [("day", 2.0), ("h", 48.0), ("minutes", 2880.0), ("s", 172800.0), ("week", 2 / 7)]
)
def test_dates_and_durations_in_a_unit(kind, unit, value):
    times, start = times_as_numbers(TWO_DAYS[kind], 0.0, unit)
    np.testing.assert_allclose(times, [0.0, value], rtol=1e-15)
    assert times.dtype == np.float64 and start == 0.0


@pytest.mark.parametrize("kind", TWO_DAYS)
def test_without_a_unit_they_are_refused_everywhere(kind):
    times, x = TWO_DAYS[kind], [0.2, 0.4]
    images = np.ones((2, 10))
    for make in (
        lambda: jd.Readings(GRID, 0.0, times, x, x),
        lambda: jd.Trajectory(GRID, times, x),
        lambda: jd.Histograms(GRID, 1.0, times, images),
        lambda: jd.Readings.from_images(GRID, 0.0, times, images),
        lambda: jd.Readings.from_table({"t": times, "x": x, "T": x}, GRID, 0.0, time="t", position="x", value="T"),
        lambda: jd.Trajectory.from_table({"t": times, "x": x}, GRID, time="t", position="x"),
    ):
        with pytest.raises(ValueError, match=r"say in which unit time counts, time_unit = \"day\"") as caught:
            make()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", TWO_DAYS)
def test_every_measurement_takes_a_unit(kind):
    times, x, images = TWO_DAYS[kind], [0.2, 0.4], np.ones((2, 10))
    table = {"t": times, "x": x, "T": x}
    for made in (
        jd.Readings(GRID, 0.0, times, x, x, time_unit="day"),
        jd.Histograms(GRID, 1.0, times, images, time_unit="day"),
        jd.Readings.from_table(table, GRID, 0.0, time="t", position="x", value="T", time_unit="day"),
    ):
        np.testing.assert_allclose(made.times, [0.0, 2.0])
    series = jd.Readings.from_images(GRID, 0.5, times, images, time_unit="day")
    np.testing.assert_allclose(np.unique(series.times), [0.0, 2.0])
    paths = jd.Trajectory(GRID, [times, times], [x, x], time_unit="h")
    np.testing.assert_allclose(paths.durations, [48.0, 48.0])
    np.testing.assert_allclose(
        jd.Trajectory.from_table(table, GRID, time="t", position="x", time_unit="day").durations, 2.0
    )


def test_the_start_may_be_a_date_or_a_duration():
    late = ["2024-01-03", "2024-01-05"]
    make = lambda start, times=late: jd.Readings(GRID, 0.0, times, 0.5, [1.0, 2.0], start=start, time_unit="day")
    assert (make("2024-01-01").times.tolist(), make("2024-01-01").start) == ([2.0, 4.0], 0.0)
    assert (make(-3.0).times.tolist(), make(-3.0).start) == ([0.0, 2.0], -3.0)
    assert make(datetime.timedelta(hours=-12)).start == -0.5
    assert make(day(1, 1), pd.to_datetime(late)).times.tolist() == [2.0, 4.0]
    for start, times, words in (
        ("2024-01-01", [1.0, 2.0], "a start of the date 2024-01-01.* needs times that are dates too"),
        (day(1, 1, tzinfo=UTC), late, "in time zones both or neither"),
        ("2024-01-04", late, "must not come before the start"),
        ([0.0, 1.0], late, "start must be one time"),
    ):
        with pytest.raises(ValueError, match=words):
            make(start, times)


def test_a_missing_date_goes_with_its_value():
    readings = jd.Readings(GRID, 0.0, [day(1, 1), pd.NaT, day(1, 3)], 0.5, [1.0, np.nan, 2.0], time_unit="day")
    assert readings.times.tolist() == [0.0, 2.0] and readings.missing == 1
    with pytest.raises(ValueError, match="times must be numbers"):
        jd.Readings(GRID, 0.0, [day(1, 1), pd.NaT, day(1, 3)], 0.5, [1.0, 5.0, 2.0], time_unit="day")


def test_numbers_stay_what_they_are_and_a_year_has_a_length():
    assert jd.Readings(GRID, 0.0, [1.0, np.inf], 0.5, [1.0, 2.0], time_unit="day").times.tolist() == [1.0, np.inf]
    assert times_as_numbers(np.array([0, 36525], "m8[D]"), 0.0, "years")[0].tolist() == [0.0, 100.0]


NO_TIMES = [
    ([day(1, 1), 1.0], "day", "give dates or numbers, not both"),
    (["2024-01-01", "soon"], "day", "throughout, got 'soon'"),
    (["01.02.2024", "02.02.2024"], "day", "write dates with the year first"),
    (["2024-02-30", "2024-03-01"], "day", "cannot be read as times"),
    (["12:30", "12:31"], "h", "durations as numbers"),
    ([day(1, 1), day(1, 2, tzinfo=UTC)], "day", "in time zones or without, got both"),
    (np.array([1, 2], "m8[M]"), "day", "months and years differ in length"),
    (np.array([1, 2], "m8"), "day", "must be in days or finer"),
    ([1.0, 2.0], "month", "time_unit must be one of"),
    ([1.0, 2.0], 3, "time_unit must be one of"),
    ([datetime.time(1), datetime.time(2)], "h", "must be numbers, got time 01:00:00"),
]


@pytest.mark.parametrize("times, unit, words", NO_TIMES, ids=[words for *_, words in NO_TIMES])
def test_what_is_no_time(times, unit, words):
    with pytest.raises(ValueError, match=words) as caught:
        jd.Readings(GRID, 0.0, times, 0.5, [1.0, 2.0], time_unit=unit)
    assert "\n" not in str(caught.value)


WRONG = {
    "dates": (pd.to_datetime(["2024-01-01", "2024-01-02"]), "only times may be dates or durations"),
    "durations": (np.array([1, 2], "m8[s]"), "only times may be dates or durations"),
    "texts of dates": (["2024-01-01", "2024-01-02"], "only times may be dates or durations"),
    "true and false": ([True, False], "got True; write 1 and 0"),
    "one true among numbers": (np.array([1.0, True], object), "got True; write 1 and 0"),
    "complex": ([1j, 2.0], "take the real part"),
    "complex without imaginary part": (np.array([1 + 0j, 2.0]), "take the real part"),
    "too large": ([10**400, 1], "must be numbers, got 1000"),
    "too large, as a text": (["1e400", "1"], "must be numbers, got '1e400'"),
    "too large, as a decimal": ([decimal.Decimal("1e400"), 1], "must be numbers, got 1E"),
    "a text": (["warm", "1"], "must be numbers, got 'warm'"),
    "bytes": ([b"1", b"2"], "must be numbers, got b'1'"),
    "a dictionary": ({"a": 1.0}, "got a dict; pass a list"),
    "a generator": ((x for x in [1.0, 2.0]), "got a generator; pass a list"),
    "a set": ({1.0, 2.0}, "got a set; pass a list"),
    "a text file": (io.StringIO("1\n2\n"), "got a StringIO; pass a list"),
    "rows of unequal length": ([[1.0], [1.0, 2.0]], "in rows of equal length"),
    "records": (np.zeros(2, [("a", float)]), "must be numbers"),
}  # fmt: skip
PLACES = {
    "values": lambda x: jd.Readings(GRID, 0.0, [1.0, 2.0], [0.2, 0.4], x),
    "positions": lambda x: jd.Readings(GRID, 0.0, [1.0, 2.0], x, [1.0, 2.0]),
    "sigma": lambda x: jd.Readings(GRID, 0.0, [1.0, 2.0], [0.2, 0.4], [1.0, 2.0], sigma=x),
    "counts": lambda x: jd.Histograms(GRID, 1.0, [1.0, 2.0], x),
    "total": lambda x: jd.Histograms(GRID, 1.0, [1.0, 2.0], np.ones((2, 10)), total=x),
    "edges": lambda x: jd.Histograms(GRID, 1.0, [1.0], [1.0], edges=x),
    "images": lambda x: jd.Readings.from_images(GRID, 0.0, [1.0, 2.0], x),
    "path": lambda x: jd.Trajectory(GRID, [1.0, 2.0], x),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_number_is_refused_in_one_line(kind, place):
    value, words = WRONG[kind]
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        PLACES[place](value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "ends", [[day(1, 1), day(1, 2)], np.array([1, 2], "m8[s]"), [False, True], ["2024-01-01", "2"]]
)
def test_grids_are_of_numbers(ends):
    for make in (lambda: jd.Grid(edges=(ends,)), lambda: jd.Grid.uniform((*ends, 5))):
        with pytest.raises(ValueError, match="(edges|the ends of an axis) must be numbers, got"):
            make()


def test_what_is_a_number_though_it_looks_otherwise():
    found = numbers([fractions.Fraction(1, 2), decimal.Decimal("0.25"), None, pd.NA, "1e-3", np.float32(2)], "values")
    np.testing.assert_array_equal(found, [0.5, 0.25, np.nan, np.nan, 1e-3, 2.0])
    np.testing.assert_array_equal(numbers(np.ma.masked_array([1, 2], [False, True]), "values"), [1.0, np.nan])
    np.testing.assert_array_equal(numbers(jnp.ones(2, jnp.bfloat16), "values"), [1.0, 1.0])
    np.testing.assert_array_equal(numbers(pd.Series([1, None], dtype="Int64"), "values"), [1.0, np.nan])
    with pytest.raises(TypeError, match="values must be plain numbers, got traced ones"):
        jax.jit(lambda x: numbers(x, "values"))(1.0)


def test_what_is_masked_is_missing_whatever_it_is():
    hidden = np.ma.masked_array([1.0, 2.0], [False, True])
    with pytest.raises(ValueError, match="times must be numbers"):
        jd.Readings(GRID, 0.0, hidden, 0.5, [1.0, 2.0])
    assert jd.Readings(GRID, 0.0, hidden, 0.5, np.ma.masked_array([1.0, 2.0], [False, True])).times.tolist() == [1.0]


def test_dates_in_models_are_refused_with_the_way_out():
    dates = pd.to_datetime(["2024-01-01", "2024-01-02"])
    for make in (
        lambda: jd.Series(dates, [1.0, 2.0]),
        lambda: jd.Series([0.0, 1.0], dates),
        lambda: jd.Series(dates.tz_localize("UTC"), [1.0, 2.0]),
        lambda: jd.Dirichlet(dates),
        lambda: jd.Free(day(1, 1)),
        lambda: jd.solve(jd.Diffusion(1.0), GRID, 0.0, dates),
        lambda: jd.solve(jd.Diffusion(1.0), GRID, 0.0, list(dates)),
        lambda: jd.solve(jd.Diffusion(1.0), GRID, 0.0, np.array([0, 1], "m8[s]")),
    ):
        with pytest.raises(TypeError, match=r"\(t - t\[0\]\) / np.timedelta64\(1, 's'\)") as caught:
            make()
        assert "\n" not in str(caught.value)


def configured(tmp_path, table, **data):
    table.to_csv(tmp_path / "table.csv", index=False)
    content = {
        "equation": {"kind": "diffusion", "diffusivity": "D"},
        "boundaries": {"x-": {"kind": "dirichlet", "value": "wall"}},
        "parameters": {"D": {"start": 1.0, "positive": True}},
        "grid": {"lower": 0.0, "upper": 1.0, "cells": 10},
        "initial": 0.0,
        "data": {"table": "table.csv", "time": "t", "position": "x", "value": "T", **data},
    }
    return parse(content, tmp_path)


def test_dates_in_a_configuration(tmp_path):
    days = ["2024-02-28 12:00", "2024-02-29 12:00", "2024-03-02 12:00"]
    table = pd.DataFrame({"t": days, "x": 0.5, "T": [1.0, 2.0, 3.0], "wall": [5.0, 6.0, 7.0]})
    made = configured(tmp_path, table, time_unit="day")
    assert made.measurement.times.tolist() == made.experiments[0].times.tolist() == [0.0, 1.0, 3.0]
    assert made.model(D=1.0).boundaries["x-"].value.times.tolist() == [0.0, 1.0, 3.0]
    for settings, words in (
        ({}, r"row 1 \(line 2\) of column 't' .*table.csv is not a number: '2024-02-28 12:00'; say in which unit"),
        ({"time_unit": "fortnight"}, "time_unit must be one of .* got 'fortnight'"),
        ({"time_unit": "day", "scale": {"t": 60.0}}, "leave the scale out"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            configured(tmp_path, table, **settings)
        assert "\n" not in str(caught.value)
