"""A way through time: what every one of them answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, dataclass_transform

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.runtime.conditions import Condition

_MOST_SUBSTEPS = 2**20


@dataclass_transform(frozen_default=True, field_specifiers=(eqx.field,))
class Method(ABC):
    """A way through time: carries dN/dt = A(t) N + b(t) from its start to the output times.

    The solver picks one for each problem. One of your own is passed as `stepper=`; of these it needs `run` alone:

    | name                          | what                                                      | default           |
    |-------------------------------|-----------------------------------------------------------|-------------------|
    | `run(system, times, start)`   | contents at the times after the first                     |                   |
    | `describe(needed)`            | what was done, in a few words                             | name of the class |
    | `states_held(grid, outputs)`  | states in memory, and how many more for a gradient        | 4 + 2 T, T        |
    | `states_in_batch(outputs)`    | states that one of many fits takes in cache               | 7 T               |
    | `allowed`                     | (substeps, steps) that it takes at most                   | any number        |
    | `refined(needed, times, grid)`| the method that allows what a run needed                  | itself            |
    | `closer(values, times)`       | a method of smaller errors, where values show a need      | itself            |
    | `for_data(times)`             | times and method where noise of data hides more errors    | unchanged         |
    | `unattended()`                | for compiled code, where no host refines it               | itself            |

    Its fields are its parameters. A system has `at(t, u)`, which is (A, b), `weights`, `knots` and `jumps`. Facts that a class states:

    | name           | what                                                                                  | default |
    |----------------|---------------------------------------------------------------------------------------|---------|
    | `observes`     | whether `run` applies a linear map of states by itself, to less than all of them      | False   |
    | `in_densities` | whether it steps densities u in place of contents                                     | False   |
    | `all_or_none`  | whether a run that would have needed more is no approximation at all                  | False   |
    | `in_modes`     | whether the cells are bound up with it, so that others would be another problem       | False   |
    | `iterates`     | whether it solves by iterations on several axes                                       | False   |
    | `varying`      | whether it follows coefficients and forcing that vary in time; else they are refused  | False   |

    >>> from jaxdiff import Method
    >>> import jax.numpy as jnp
    >>> from jaxdiff import Diffusion, Grid, solve
    >>> class AtRest(Method):
    ...     def run(self, system, times, start, **_):
    ...         return jnp.tile(start, (len(times) - 1, 1)), jnp.zeros(2), []
    >>> solve(Diffusion(1.0), Grid.uniform((0.0, 1.0, 3)), [1.0, 2.0, 3.0], [0.0, 1.0], stepper=AtRest()).method
    'AtRest'
    """

    observes: ClassVar[bool] = False
    in_densities: ClassVar[bool] = False
    all_or_none: ClassVar[bool] = False
    in_modes: ClassVar[bool] = False
    varying: ClassVar[bool] = False  # asked of those that a user names

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """A pytree of its fields, those that are not static; looked up in every solve, which `equinox.Module` makes slow."""
        super().__init_subclass__(**kwargs)
        as_dataclass: Any = dataclass(frozen=True, eq=False)(cls)
        static = {field.name: field.metadata.get("static", False) for field in fields(as_dataclass)}
        names = [[name for name, is_static in static.items() if is_static == kind] for kind in (False, True)]
        jax.tree_util.register_dataclass(cls, *names)

    @property
    def iterates(self) -> bool:
        """True if it solves by iterations on several axes."""
        return False

    @abstractmethod
    def run(
        self, system: Any, times: Any, start: Any, *, observe: Any = None, sound: Any = True
    ) -> tuple[Any, Any, list[Condition]]:
        """Contents `(T, *cells)` at the times `(T + 1,)` after the first, (substeps, steps) needed and what was
        watched on the way, and conditions; traceable.

        start: contents `(*cells,)` at the first time; observe: a linear map of contents, None for themselves; sound: whether
        the coefficients are fit to be followed
        """

    def describe(self, needed: Any = None) -> str:
        """What is done, in a few words; with the numbers that a run reported, None inside jit."""
        return type(self).__name__

    def states_held(
        self, grid: Any, outputs: int, *, drift: bool = False, observed: bool = False
    ) -> tuple[float, float]:
        """States in memory at once, and how many more by a gradient in reverse mode; estimated.

        outputs: T; drift: whether something drifts; observed: whether not all states are asked for
        """
        return 4.0 + 2 * outputs, float(outputs)

    def states_in_batch(self, outputs: int) -> float:
        """States that one of many fits works on."""
        return 7.0 * outputs

    @property
    def allowed(self) -> tuple[Any, Any]:
        """Substeps and steps that are taken at most."""
        return np.inf, np.inf

    def refined(self, needed: Any, times: Any, grid: Any = None) -> Method:
        """A method that allows (substeps, steps) that a run reported; itself if it already does.

        Raises ValueError where that is beyond reason.
        """
        counted(needed)
        return self

    def unattended(self) -> Method:
        """For compiled code that no host looks after."""
        return self

    def closer(self, values: Any, times: Any) -> Method:
        """A method whose errors stay below the tolerance of the peak as it falls over `values` `(T + 1, …)`."""
        return self

    def for_data(self, times: Any) -> tuple[Any, Method]:
        """(times, method) where errors far below any noise are enough and shapes should recur; times may be padded."""
        return times, self


def counted(needed: Any) -> tuple[int, int]:
    """The largest (substeps, steps) of all that were needed."""
    counts = np.asarray(needed).reshape(-1, 2).max(0)
    if not np.isfinite(counts).all():
        raise ValueError("the steps that the coefficients need are beyond all numbers; check them and their units")
    substeps, steps = map(int, counts)
    if substeps > _MOST_SUBSTEPS:
        raise ValueError(
            f"the coefficients need {substeps} substeps per interval; shorten the intervals or check drift, decay and rates"
        )
    return substeps, steps


def room_for(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()


def only_substeps(count: Any) -> Any:
    """The report (substeps, steps) of a run that takes no steps of its own."""
    return jnp.stack([count, jnp.zeros(())])
