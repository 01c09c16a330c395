"""The master equation: probabilities of states that a system jumps between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx

from jaxdiff.model.equations import Equation
from jaxdiff.model.rates import BirthDeath, Matrix, Rates, Reaction, as_given, as_network


class MasterEquation(Equation):
    """The probabilities of the states of a system that jumps between them.

        dpᵢ/dt = Σⱼ (rᵢⱼ pⱼ − rⱼᵢ pᵢ),   rᵢⱼ = rates[i, j] from state j to state i

    Args:
        rates: `(n, n)` from column to row [1/time]; the diagonal may be left out, else each column sums to zero, or to less where
            its state is left for good (by more than a thousand roundoffs of the column). An array, whose numbers may be marked in a list of lists, a `TimeDependent` one, or a
            sparse one of SciPy or of JAX (BCOO). With `death` it is the rate of births, from n to n + 1.
        death: the rate from n to n − 1 [1/time]. Births and deaths are numbers, arrays over the counts, functions of the count
            n, or `TimeDependent` of (t, n).

    Reactions among species are `MasterEquation.from_reactions`. In place of a grid stand `States`, or None for those of the
    rates. What births and reactions carry beyond the largest count is lost: the solution is then below the true one
    in every state, and what is missing from one is its error in L1 (finite state projection). Where the grid is None, states
    are added until that is below the tolerance; else `Solution.method` says what it is, and a note of a fit. Inside jit, grad and vmap
    nothing can say it: the sum of the probabilities does.

    Raises:
        ValueError: rates that sum to zero along rows, negative ones, or states of another number.

    A gene that is on a third of the time:

    >>> import jaxdiff as jd
    >>> gene = jd.MasterEquation([[0.0, 2.0], [1.0, 0.0]])
    >>> [round(float(p), 6) for p in jd.steady_state(gene, None)]
    [0.666667, 0.333333]

    Molecules that are made at a rate of 10 and decay at one of 1:

    >>> made = jd.MasterEquation(lambda n: 10.0, lambda n: 1.0 * n)
    >>> p = jd.solve(made, None, {"n": 0}, [0.0, 1.0]).values[-1]
    >>> round(float(p[5]), 5)
    0.1512

    Uniformisation: Grassmann 1977, doi:10.1016/0305-0548(77)90007-7. Finite state projection: Munsky & Khammash 2006,
    doi:10.1063/1.2145882.
    """

    rates: Any = eqx.field(converter=as_given)
    death: Any = None
    probability = discrete = True

    def __check_init__(self) -> None:
        self.jumps  # noqa: B018  what is wrong with a matrix is said here

    @property
    def jumps(self) -> Rates:
        """Where it jumps, and how often."""
        if self.death is not None:
            return BirthDeath(self.rates, self.death)
        return self.rates if isinstance(self.rates, Rates) else Matrix(self.rates)

    @classmethod
    def from_reactions(cls, reactions: Sequence[Reaction], box: Any = None) -> MasterEquation:
        """The network of some reactions.

        Args:
            reactions: `Reaction`, each with its own rate.
            box: {species: largest count} of the states to begin with where no grid is given; there are more if they are needed.

        Raises:
            TypeError: something else than reactions.
            ValueError: a species that no reaction changes.

        >>> import jaxdiff as jd
        >>> dimers = [jd.Reaction({"A": 2}, {"B": 1}, 1.0), jd.Reaction({"B": 1}, {"A": 2}, 2.0)]
        >>> network = jd.MasterEquation.from_reactions(dimers, box={"A": 4, "B": 2})
        >>> p = jd.solve(network, None, {"A": 4}, [0.0, 1.0]).values[-1]
        >>> p.shape, round(float(p.sum()), 5)
        ((5, 3), 1.0)
        """
        return cls(as_network(reactions, box))

    def semidiscretise(self, grid: Any, scheme: Any) -> list[Any]:
        return scheme.among_states(self, grid)
