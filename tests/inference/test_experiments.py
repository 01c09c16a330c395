"""Several experiments in one fit: numbers of their own that a condition picks from an array, and what is kept of them."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

GRID, TIMES = jd.Grid.uniform((0.0, 1.0, 6)), np.linspace(0.1, 1.0, 6)
ONE = lambda x: 1.0 + 0.0 * x
STARTS = {"k": jd.Positive(np.full(2, 0.5))}
TRUE = np.array([0.3, 0.9])


def model(k, i):
    return jd.Diffusion(1.0, decay=k[i])


def decayed(k, **conditions):
    return jd.Readings(GRID, ONE, TIMES, np.full(6, 0.5), np.exp(-k * TIMES), sigma=0.01, conditions=conditions or None)


@pytest.mark.slow
def test_a_whole_number_among_the_conditions_is_an_index(tmp_path):
    """u = exp(−kᵢ t) in each of two experiments: by fit, fit_many, predict and a stored fit."""
    data = [decayed(k, i=i) for i, k in enumerate(TRUE)]
    fit = jd.fit(model, data, parameters=STARTS, progress=False)
    np.testing.assert_allclose(fit.parameters["k"], TRUE, rtol=1e-5)
    error = 0.01 / np.sqrt(np.sum((TIMES * np.exp(-TRUE[:, None] * TIMES)) ** 2, 1))
    np.testing.assert_allclose(fit.standard_errors["k"], error, rtol=1e-4)
    many = jd.fit_many(model, [data, data[::-1]], parameters=STARTS, progress=False)
    np.testing.assert_allclose(many.parameters["k"], [TRUE, TRUE], rtol=1e-5)
    loaded = jd.load(fit.save(tmp_path / "fit.json"), model)
    assert [one.decay for one in loaded.model] == list(fit.parameters["k"])
    for other, k in ((data[1], TRUE[1]), (decayed(0.0, i=0), TRUE[0])):
        for one in (fit, jd.load(loaded.save(tmp_path / "again.json"), model)):
            np.testing.assert_allclose(one.predict(other), np.exp(-k * TIMES), rtol=1e-5)


def in_a_coefficient(k, i):
    return jd.Diffusion(1.0, decay=lambda x: jnp.asarray(k)[i] + 0 * x)


BEYOND = r"reads an array of shape \(2,\) at 2, beyond its end, under the conditions i = 2"


@pytest.mark.slow
def test_no_index_is_beyond_the_end():
    third = decayed(0.3, i=2)
    for function in (model, in_a_coefficient):
        with pytest.raises(ValueError, match=BEYOND):
            jd.fit(function, third, parameters=STARTS, progress=False)
        with pytest.raises(ValueError, match=BEYOND):
            jd.fit_many(function, [decayed(0.3, i=0), third], parameters=STARTS, progress=False)
    known = np.array([1.0, 2.0, 3.0])
    cases = [
        (lambda k, i: jd.Diffusion(1.0, decay=k[0] * known[i]), 1, TypeError, r"use jnp.array\(…\)\[i\] in place of np.array"),
        (lambda k, i: jd.Diffusion(1.0, decay=k[0] * i**-1), 2, TypeError, "write 2.0 for 2"),
        (model, 1.0, ValueError, "an index is a whole number"),
        (model, jd.Free(1.0), ValueError, "the condition i is marked, and conditions are known"),
        (model, np.array(np.nan), ValueError, "the condition i must be finite"),
    ]  # fmt: skip
    for function, given, kind, message in cases:
        with pytest.raises(kind, match=message):
            jd.fit(function, decayed(0.3, i=given), parameters=STARTS, progress=False)


@pytest.mark.slow
def test_what_a_stored_fit_does_not_know(tmp_path):
    seen = lambda k, o, c: jd.Observed(jd.Diffusion(c, decay=k), observe=lambda u, experiment: u + o[experiment])
    both = [decayed(0.3, c=1.0), decayed(0.3, c=2.0)]
    path = jd.fit(seen, both, parameters={"k": 0.5, "o": np.zeros(2)}, progress=False).save(tmp_path / "fit.json")
    with pytest.raises(ValueError, match="what is observed differs between experiments"):
        jd.load(path, seen).predict(both[1])
    path.write_text(path.read_text().replace('"c": 2.0', '"c": null'))  # as of a Series
    assert jd.load(path).conditions == ({"c": 1.0}, {"c": None})
    with pytest.raises(ValueError, match="the condition c is no number, and a stored fit keeps numbers alone"):
        jd.load(path, seen)
