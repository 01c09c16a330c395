"""Densities of steps on several axes that one Gaussian does not describe: integrals over where a path is in between.

    p(x₁ | x₀) = ∫ p(x₁ | y) p(y | x₀) dy ≈ Σᵢ wᵢ p(x₁ | yᵢ) p(yᵢ | x₀) / N(yᵢ; c, Q)

Both halves are Gaussian by `closure`, or bridges themselves. The nodes are those of Gauss and Hermite for what y is, given both
ends, in the linearised half steps: what is left under the sum is nearly constant, also in the tails, and one where the drift is
linear and D a number.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from jaxdiff.transition.closure import Dynamics, below, cholesky, log_normal, moments

NODES = np.array([-np.sqrt(3.0), 0.0, np.sqrt(3.0)])
WEIGHTS = np.array([1.0, 4.0, 1.0]) / 6


def log_densities(xp: Any, dynamics: Dynamics, knots: Any, start: Any, stop: Any, pieces: int, parts: int) -> Any:
    """log p(stop | start) of many steps (n,) [1/lengthᵈ], each taken as so many Gaussian pieces, a power of two.

    knots, parts: as of `moments`, the latter for each piece
    """
    if pieces == 1:
        mass, mean, covariance = moments(xp, dynamics, knots, start, parts)
        return mass + log_normal(xp, stop - mean, covariance)
    n, d = start.shape
    middle = ((knots[:, 0] + knots[:, -1]) / 2)[:, None]
    first, second = xp.minimum(knots, middle), xp.maximum(knots, middle)
    mass, mean, covariance = moments(xp, dynamics, first, start, parts)
    _, ahead, later, flow = moments(xp, dynamics, second, mean, parts, flow=True)
    carried = flow @ covariance
    rows = cholesky(xp, carried @ xp.swapaxes(flow, 1, 2) + later)
    shares = below(xp, rows, carried)
    centre = mean + xp.einsum("nki,nk->ni", shares, below(xp, rows, stop - ahead))
    root = cholesky(xp, covariance - xp.einsum("nki,nkj->nij", shares, shares))
    z = np.array(list(itertools.product(NODES, repeat=d)))
    weights = np.prod(list(itertools.product(WEIGHTS, repeat=d)), 1)
    moves = [sum(a[:, None] * z[:, j] for j, a in enumerate(row)) for row in root]
    y = (centre[:, None] + xp.stack(moves, 2)).reshape(-1, d)
    chance = -0.5 * np.sum(z * z, 1) - sum(xp.log(row[-1]) for row in root)[:, None] - d * np.log(2 * np.pi) / 2
    each = lambda a: xp.repeat(a, len(z), 0)
    if pieces == 2:
        before = each(mass) + log_normal(xp, y - each(mean), each(covariance))
        after = log_densities(xp, dynamics, each(second), y, each(stop), 1, parts)
    else:
        halves = [each(first), each(second)], [each(start), y], [y, each(stop)]
        when, begin, end = (xp.concatenate(half) for half in halves)
        before, after = xp.split(log_densities(xp, dynamics, when, begin, end, pieces // 2, parts), 2)
    found = (before + after).reshape(n, -1) - chance + np.log(weights)
    most = xp.max(found, 1)
    return most + xp.log(xp.sum(xp.exp(found - most[:, None]), 1))
