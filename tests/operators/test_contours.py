"""Contours at all decay rates and all times of a window."""

import numpy as np
import pytest

from jaxdiff.operators import Contour


@pytest.mark.parametrize("tolerance, nodes", [(1e-6, 13), (1e-7, 16), (1e-8, 22), (7e-12, 24)])
@pytest.mark.parametrize("first", [1.0, 3e-9])
def test_exp_and_what_is_fed_in_at_all_decay_rates(tolerance, nodes, first):
    """A window of 60 and the beginning of another: exp, φ₁ as a share of itself, and what a change of all rates makes of it."""
    t, x = np.geomspace(1.0, 70.0, 60), -np.concatenate([[0.0], np.logspace(-9, 12, 3000)])
    z, weights = Contour(tolerance).cover(t * first)
    assert len(z) == 2 * nodes
    z, weights, tx = z * first, weights * first, np.outer(t, x)
    seen = lambda over: weights @ np.concatenate([over.real, over.imag], axis=1).T
    over = 1 / (z - x[:, None])
    exact = np.where(tx < 0, np.expm1(tx) / np.where(tx < 0, tx, 1.0), 1.0)
    np.testing.assert_allclose(seen(over), np.exp(tx), atol=tolerance)
    np.testing.assert_allclose(seen(over / z) / t[:, None] / exact, 1.0, atol=tolerance)
    np.testing.assert_allclose(seen(over**2) * -x, t[:, None] * np.exp(tx) * -x, atol=12 * tolerance)
    assert np.sum(np.hypot(*weights.reshape(len(t), 2, -1).swapaxes(0, 1)) / np.abs(z), axis=1).max() < 60
