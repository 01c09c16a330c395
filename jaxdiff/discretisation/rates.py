"""A master equation as a system: its contents are the probabilities of all states, in a row."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.system import AtRest, System, TimeDependence
from jaxdiff.model.states import States
from jaxdiff.operators import Dense
from jaxdiff.runtime.conditions import Condition

BEYOND = "of the jumps of a kind lead beyond the largest counts at rest"
_CUT = 1e-9  # of them


class RatesSystem(System):
    """Jumps between states, with contents `(states,)`."""

    among_states = True

    @property
    def rates(self) -> Any:
        return self.equation.jumps

    def require_operator(self) -> None:
        if not isinstance(self.grid, States):
            raise TypeError(
                f"a master equation takes jd.States in place of a grid, or None, got {type(self.grid).__name__}"
            )
        self.operator(0.0)

    def time_dependence(self) -> TimeDependence:
        return TimeDependence(operator=self.rates.varies)

    def operator(self, t: Any) -> Any:
        return self.rates.operator(self.grid, t)

    def forcing(self, t: Any, rates: Any = None) -> Any:
        return jnp.zeros_like(self.weights)

    @property
    def forced(self) -> bool:
        return False

    @property
    def weights(self) -> Any:
        return jnp.ones(int(np.prod(self.grid.shape)), jnp.result_type(self.grid.edges[0]))

    @property
    def ways(self) -> tuple[str, ...]:
        """What is lost from states, and what goes beyond the largest counts."""
        return ("killing", "beyond") if self.rates.truncated else ("killing",)

    def exits(self, t: Any) -> dict[str, Any]:
        operator = self.operator(t)
        killed = operator.closed.leak
        return dict(zip(self.ways, (killed, operator.leak - killed), strict=False))

    def at_rest(self, operator: Any, forcing: Any, state: Any) -> AtRest:
        """What leads out of the box is left out, and must not be much of all jumps."""
        weights = self.weights
        contents = None if state is None else state.reshape(weights.shape)
        state_of = lambda content: content.reshape(self.grid.shape)
        return AtRest(operator.closed, forcing, weights, contents, 1.0, state_of)

    @property
    def eliminated(self) -> float:
        operator = jax.eval_shape(self.operator, 0.0)
        width = len(operator.loss) if isinstance(operator, Dense) else getattr(operator, "block_size", 1) ** 2
        return float(len(operator.loss)) * width

    def cut_off(self, operator: Any, content: Any) -> list[Condition]:
        """Whether more than very few of the jumps at rest lead out of the states."""
        if not self.rates.truncated:
            return []
        share = jnp.max(jnp.minimum(*operator.cut_off(content / jnp.sum(content))))
        words = f"{{value}} {BEYOND}; allow larger ones"
        return [(words, share > _CUT, 0.0, share)]

    def conditions(self, t: Any) -> list[Condition]:
        operator = self.operator(t)
        rates = operator.up + operator.down if hasattr(operator, "up") else operator.rates
        least = jnp.minimum(operator.up, operator.down) if hasattr(operator, "up") else rates
        bad = ~(jnp.isfinite(rates) & (least >= 0)).ravel()
        return [
            ("a rate is {value}; rates must be finite and not negative", bad, jnp.zeros(bad.shape), least.ravel()),
            (
                "a column of rates sums to {value} above zero; the diagonal is the negative sum of its column, or left out",
                operator.loss < 0,
                jnp.zeros(operator.loss.shape),
                -operator.loss,
            ),
        ]
