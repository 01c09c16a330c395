"""Which axes a result depends on is read off the program that computes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.discretisation.separability import over_axis


@pytest.mark.parametrize(
    "function, shapes",
    [
        (lambda x, y: (x + y, x * 2, y * 2, jnp.float64(3.0)), [(3, 4), (3, 1), (1, 4), (1, 1)]),
        (lambda x, y: jax.lax.cond(x > 0, lambda: y, lambda: -y), [(3, 4)]),
        (
            lambda x, y: jax.jit(lambda a, b: (2 * a, 3 * b))(x, y),
            [(3, 4), (3, 4)],
        ),  # not looked into: both may depend on both
        (lambda x, y: 0.0 * x + y, [(3, 4)]),  # by structure, not by value
    ],
)
def test_what_does_not_depend_on_an_axis_has_length_one_there(function, shapes):
    both = over_axis(over_axis(lambda x, y: function(x, y), (None, 0)), (0, None))
    x, y = jnp.arange(3.0), jnp.arange(4.0)
    found = jax.tree.leaves(both(x, y))
    assert [each.shape for each in found] == shapes
    expected = jax.vmap(lambda x: jax.vmap(lambda y: function(x, y))(y))(x)
    for one, other in zip(found, jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(jnp.broadcast_to(one, (3, 4)), other)
