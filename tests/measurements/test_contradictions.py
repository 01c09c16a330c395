"""Rows that cannot both be right are asked about; replicates and what has not begun are not."""

import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.measurements.contradictions import doubts

TIMES = np.linspace(0.02, 0.4, 40)
VALUES = 20 + 30 * np.exp(-3 * TIMES) + 0.1 * np.random.default_rng(0).normal(size=40)


@pytest.mark.parametrize("sigma", [None, 0.1])
@pytest.mark.parametrize(
    ("times", "values", "words"),
    [
        (np.r_[TIMES[:5], TIMES], np.r_[np.zeros(5), VALUES], ("readings 1–5 and 6–10", "as 0 and")),
        (np.r_[TIMES, TIMES[7]], np.r_[VALUES, 0.0], ("readings 8 and 41", "t = ")),
        (np.r_[np.full(5, 0.02), TIMES], np.r_[np.zeros(5), VALUES], ("readings 1–5",)),
        (TIMES, np.r_[np.zeros(5), VALUES[5:]], ("readings 1–5 are all 0",)),
    ],
)
def test_what_is_asked_about(times, values, words, sigma):
    known = None if sigma is None else np.full(len(times), sigma)
    found = " ".join(doubts(times, np.full(len(times), 0.3), values, known))
    assert all(word in found for word in words), found


def test_a_fit_tells():
    readings = jd.Readings(
        jd.Grid.uniform((0.0, 1.0, 20)), 0.0, np.r_[TIMES[:5], TIMES], 0.3, np.r_[np.zeros(5), VALUES]
    )
    assert any("same time and place" in note for note in readings.notes)


def test_replicates_and_what_has_not_begun():
    """Of 300 tables with replicates, noise of any size, rounding and late arrivals, at most a few are asked about."""
    rng, asked = np.random.default_rng(1), 0
    for _ in range(300):
        each, sensors = np.sort(rng.exponential(1, rng.integers(4, 40))), rng.uniform(0, 1, rng.integers(1, 6))
        times, places = (a.ravel() for a in np.meshgrid(np.repeat(each, rng.integers(1, 4)), sensors, indexing="ij"))
        noise = 10 ** rng.uniform(-4, 0)
        values = np.exp(-times) * np.cos(places) + noise * rng.normal(size=len(times))
        if rng.random() < 0.3:
            values = np.round(np.maximum(1 - np.exp(-2 * np.maximum(times - 0.5, 0)), 0), 2)
        asked += bool(doubts(times, places, values, np.full(len(times), noise) if rng.random() < 0.5 else None))
    assert asked <= 6
