"""Marks, names, starts and transforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.parameters import collect, plain


def model():
    return jd.FokkerPlanck(
        jd.Expression("k*(m-x)", k=jd.Positive(0.5), m=jd.Free(-0.1)),
        jd.Bounded(0.3, 0.1, 2.0),
        boundaries={"x-": jd.Robin(jd.Positive(1e-15), ambient=2.0), "x+": jd.absorbing},
    )


def test_names_are_paths():
    assert set(collect(model()).names) == {"drift.k", "drift.m", "diffusivity", "boundaries.x-.rate"}


def test_there_and_back():
    parameters = collect(model())
    z = parameters.transform.inverse(parameters.start)
    assert np.all(np.abs(z) < 5)  # of order one, also for 1e-15
    np.testing.assert_allclose(parameters.transform(z), parameters.start, rtol=1e-14)
    built, expected = jax.tree.leaves(parameters.build(jnp.asarray(z))), jax.tree.leaves(plain(model()))
    for one, other in zip(built, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14)


@pytest.mark.parametrize("shift", [-50.0, -2.0, 0.0, 3.0, 50.0])
def test_transforms_keep_their_bounds_and_have_finite_gradients(shift):
    parameters = collect({"a": jd.Positive([1e-15, 1e6]), "b": jd.Bounded(2.0, 1.0, 4.0), "c": jd.Free(0.0)})
    z = parameters.transform.inverse(parameters.start) + shift
    x = np.asarray(parameters.transform(jnp.asarray(z)))
    assert np.all(x[:2] > 0) and 1.0 <= x[2] <= 4.0 and x[3] == shift
    slope = jax.jacfwd(parameters.transform)(jnp.asarray(z))
    np.testing.assert_allclose(np.diag(slope), parameters.transform.slope(z), rtol=1e-12, atol=1e-16)
    np.testing.assert_array_equal(parameters.transform(z), np.asarray(x))  # the same in NumPy


def test_a_mark_covers_a_whole_tree_but_not_what_is_fixed():
    tree = {"drift": jd.Free({"a": 2.0, "b": [1.0, 3.0], "c": jd.Fixed(4.0)}), "rest": np.ones(3)}
    parameters = collect(tree)
    assert parameters.names == ("drift.a", "drift.b")
    assert parameters.labels == ("drift.a", "drift.b[0]", "drift.b[1]")
    assert parameters.split(np.arange(3.0))["drift.b"].tolist() == [1.0, 2.0]


def shared():
    mark = jd.Positive(1.0)
    return jd.FokkerPlanck(mark, mark)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: jd.Positive(-1.0), "above zero, got -1.0; use jd.Free"),
        (lambda: jd.Positive([1.0, 0.0]), "above zero, got 0.0"),
        (lambda: jd.Bounded(1.0, 1.0, 2.0), "strictly between 1.0 and 2.0, got 1.0"),
        (lambda: jd.Bounded(1.0, 2.0, 0.0), "lower < upper, got 2.0 and 0.0"),
        (lambda: jd.Bounded(1.0, 0.0, np.inf), "finite bounds"),
        (lambda: collect(jd.Positive({"a": -2.0})), "for 'a', got -2.0"),
        (lambda: collect(jd.Diffusion(jd.Free(np.nan))), "the start of 'diffusivity' is not finite"),
        (lambda: collect(jd.Diffusion(1.0)), "nothing is marked .* one of: diffusivity, decay, source, capacity$"),
        (lambda: collect(shared()), "two places, 'drift' and 'diffusivity'; write the model as a function"),
    ],
)
def test_errors_are_one_line(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
