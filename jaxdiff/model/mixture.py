"""Mixtures: a population of which each member obeys one of a few equations."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.model.equations import Equation, Transport
from jaxdiff.parameters import numeric, plain


class Mixture(Equation):
    """A population of tracks, each of which obeys one of a few equations all along.

        p(track) = Σᵢ wᵢ pᵢ(track),   w_last = 1 − Σ of the others

    Args:
        equations: of the states, two or more; of those alike but for their numbers the slower diffusion comes first, so that no
            two can change places.
        shares: w of all states but the last, each within [0, 1]; one number where there are two states.

    Numbers of the equations, and shares, may be marked. It is fitted to `Trajectory` with `noise`, which is 0.0 where positions are
    exact. How many states there are is a comparison of such fits, by −log L + (p/2) log n for p numbers fitted to n tracks.

    Raises:
        ValueError: fewer than two equations, another count of shares, or shares outside [0, 1].
        TypeError: what is no equation.

    >>> import jaxdiff as jd
    >>> bound_or_free = jd.Mixture([jd.Diffusion(jd.Positive(0.01)), jd.Diffusion(jd.Positive(1.0))], jd.Bounded(0.5, 0, 1))
    >>> len(bound_or_free.states)
    2

    Hansen et al. 2018, doi:10.7554/eLife.33125; mixtures: McLachlan & Peel 2000, doi:10.1002/0471721182.
    """

    equations: Any
    shares: Any = eqx.field(converter=lambda shares: numeric(shares if isinstance(shares, (list, tuple)) else [shares]))

    probability = True

    def __check_init__(self) -> None:
        states = self.equations
        if not isinstance(states, (list, tuple)) or len(states) < 2:
            got = len(states) if isinstance(states, (list, tuple)) else type(states).__name__
            raise ValueError(f"a mixture is of two equations or more in a list, got {got}; fit one by itself")
        for state in states:
            if not isinstance(state, Equation) or isinstance(state, Mixture):
                raise TypeError(f"a mixture is of equations such as jd.Diffusion, got {type(state).__name__}")
        shares = plain(self.shares)
        if len(shares) != len(states) - 1:
            raise ValueError(
                f"shares are those of all states but the last, {len(states) - 1} here, got {len(shares)}; the last has what is left"
            )
        for share in shares:
            known = not isinstance(share, jax.core.Tracer)
            if np.shape(share) != () or (known and not 0 <= share <= 1):
                raise ValueError(f"a share is one number within [0, 1], got {share}; mark it jd.Bounded(0.5, 0, 1)")

    @property
    def states(self) -> tuple[Equation, ...]:
        """The equations."""
        return tuple(self.equations)

    @property
    def all_shares(self) -> Any:
        """(states,), the last with what the others leave."""
        first = jnp.stack([jnp.asarray(share, jnp.result_type(float)) for share in self.shares])
        return jnp.append(first, 1.0 - jnp.sum(first))

    @property
    def alike(self) -> list[tuple[int, int]]:
        """Neighbours that differ in numbers alone, and so could change places."""
        kinds: list[Any] = [jax.tree.structure(plain(state)) for state in self.states]
        return [(i, i + 1) for i in range(len(kinds) - 1) if kinds[i] == kinds[i + 1]]

    def transport(self) -> Transport:
        raise ValueError(
            "a mixture is of tracks as they are seen; give jd.Trajectory their noise=, 0.0 where positions are exact"
        )
