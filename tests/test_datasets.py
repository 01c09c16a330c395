"""The shipped data sets are the published tables, each with its source."""

import numpy as np
import pytest

from jaxdiff import datasets


@pytest.mark.parametrize("name", datasets.names())
def test_every_set_names_its_source(name):
    table = datasets.load(name)
    assert {"name", "source", "licence", "units", "measured"} <= set(table.attrs)
    assert not table.isna().any().any()
    assert all(kind in "fi" for kind in (table[column].dtype.kind for column in table))


def test_the_rod_is_smiths_table():
    rod = datasets.load("rod")
    np.testing.assert_array_equal(rod["x"], np.arange(10, 67, 4))
    assert rod["T"].sum() == pytest.approx(674.59) and rod["T"].is_monotonic_decreasing
    constants = {name: rod.attrs[name] for name in ("a", "b", "L", "k", "ambient")}
    assert constants == {"a": 0.95, "b": 0.95, "L": 70, "k": 2.37, "ambient": 21.29}


def test_the_rates_are_203_quarters():
    rates = datasets.load("rates")
    assert len(rates) == 203
    np.testing.assert_allclose(np.diff(rates["year"]), rates.attrs["interval"], rtol=0, atol=0)
    np.testing.assert_array_equal(rates["year"], 1959 + np.arange(203) / 4)
    np.testing.assert_array_equal(rates["quarter"], np.arange(203) % 4 + 1)
    # Published: 2.82 in 1959Q1, the peak of the Volcker disinflation in 1981Q2, 0.12 in 2009Q3.
    assert rates["rate"].iloc[[0, 89, 202]].tolist() == [2.82, 15.33, 0.12]
    assert rates["rate"].idxmax() == 89 and rates["rate"].min() == 0.12


def test_an_unknown_name_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"no data set is called 'copper'; choose one of rates, rod") as caught:
        datasets.load("copper")
    assert "\n" not in str(caught.value)


def test_a_loaded_table_is_the_callers_own():
    table = datasets.load("rod")
    table.loc[0, "T"] = 0.0
    assert datasets.load("rod")["T"][0] == 96.14
