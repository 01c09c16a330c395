"""The shipped data sets are the published tables, each with its source; and measurements with published answers."""

import numpy as np
import pytest

import jaxdiff as jd
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


@pytest.mark.slow
def test_perrins_grains(measured):
    """D = 0.449 ± 0.041 µm²/s by maximum likelihood of the steps (Perrin 1909): each coordinate is a path of its own."""
    grains = [np.loadtxt(measured(f"perrin_{i}.txt"), delimiter=",") for i in (1, 2, 3)]
    times = [grain[:, 0] for grain in grains for _ in "xy"]
    places = [grain[:, k] for grain in grains for k in (1, 2)]
    steps = jd.Trajectory(jd.Grid.uniform((-2e-4, 2e-4, 100)), times, places)
    fit = jd.fit(jd.FokkerPlanck(0.0, jd.Positive(1e-12)), steps, progress=False)
    assert fit.parameters["diffusivity"] == pytest.approx(0.449e-12, abs=0.0005e-12)
    assert fit.standard_errors["diffusivity"] == pytest.approx(0.041e-12, abs=0.0005e-12)
