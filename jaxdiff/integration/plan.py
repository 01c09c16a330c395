"""How a problem is solved: the output times, and the method that carries the state through them.

| method   | when                                                      | cost                                       |
|----------|-----------------------------------------------------------|--------------------------------------------|
| Direct   | diffusion, coefficients and forcing constant in time      | seven resolvents per output time, together |
| Contours | the same, many times and a tolerance of at least 7e-12    | 13–24 resolvents per factor 60 of time     |
| Segments | the same with a drift, growth or forcing by measured series | a few substeps per stretch between knots |
| Adaptive | coefficients or forcing any function of time              | steps of high order, with error control    |
| Steps    | a stepper named by the user                               | `substeps` per output interval             |
| Lattice  | several axes                                              | matrices per axis, or products with A      |
| Modes    | `jd.Spectral()`, or constant coefficients on several axes | a transform per output time                |
| SplitSteps | waves                                                   | eleven pairs of transforms per step        |
| Turning  | waves, a potential constant in time, where it is cheaper  | a pair of transforms per product, for all times |
| Fading   | waves in imaginary time                                   | the same for each output interval          |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxdiff.discretisation.schemes import Scheme, semidiscrete
from jaxdiff.integration import memory
from jaxdiff.integration.adaptive import Adaptive
from jaxdiff.integration.direct import Modes, straight
from jaxdiff.integration.jumps import among_states
from jaxdiff.integration.lattice import Lattice
from jaxdiff.integration.magnus import Magnus
from jaxdiff.integration.method import Method, room_for
from jaxdiff.integration.options import AUTOMATIC, SECOND_ORDER, SolverOptions
from jaxdiff.integration.quadrature import Quadrature
from jaxdiff.integration.rosenbrock import Rosenbrock
from jaxdiff.integration.segments import Segments, cut
from jaxdiff.integration.steppers import TRBDF2, Exponential
from jaxdiff.integration.stepping import Steps
from jaxdiff.integration.waves import of_waves
from jaxdiff.parameters import plain
from jaxdiff.quantities import SINCE, numbers
from jaxdiff.runtime.sharding import require_whole_blocks

_FEW_STEPS = 256  # room for adaptive steps before any are counted
_FEW_EXPONENTIALS = 512  # the same on several axes
_FEW_TERMS = 1024  # of Chebyshev before any are counted; a gradient keeps a state for every 32 of them
_VARYING = 1e-6  # of the peak, where coefficients depend on time
_LATTICE_TOLERANCE = 1e-11
_STEADY: set[Any] = set()  # structures of models that no time enters: found once, as looking costs as much as solving


@partial(jax.tree_util.register_dataclass, data_fields=["scheme", "times", "method"], meta_fields=[])
@dataclass(frozen=True)
class Plan:
    """Output times `(T + 1,)`, the first that of the initial state, and a method: static choices, and arrays that may change
    without retracing."""

    scheme: Scheme
    times: Any
    method: Method

    @property
    def outputs(self) -> int:
        """T."""
        return len(self.times) - 1

    def allows(self, needed: Any) -> Any:
        """Whether the plan takes as many (substeps, steps) as a run reported; traceable."""
        substeps, steps = self.method.allowed
        return (needed[0] <= substeps) & (needed[1] <= steps)

    def refined(self, needed: Any, grid: Any = None) -> Plan:
        """A plan that allows what a run reported; itself if it already does."""
        return self._by(self.method.refined(needed, self.times, grid))

    def closer(self, values: Any) -> Plan:
        """A plan that holds the tolerance of the peak as it falls; itself if it already does."""
        return self._by(self.method.closer(values, self.times))

    def unattended(self) -> Plan:
        """A plan for compiled code that no host looks after."""
        return self._by(self.method.unattended())

    def _by(self, method: Method) -> Plan:
        return self if method is self.method else replace(self, method=method)


def prepare(
    equation: Any, grid: Any, times: Any, options: SolverOptions = AUTOMATIC, *, observed: bool = False
) -> Plan:
    """Choose the method and lay out the times, on the host; `initial` holds at `times[0]`.

    observed: whether states are compared with data, which see part of each and have noise

    Raises:
        ValueError: times that do not increase, a scheme or stepper that does not hold here, a size that does not fit in
            memory.
    """
    plan = lay_out(equation, grid, times, options)
    if observed:
        plan = Plan(plan.scheme, *plan.method.for_data(plan.times))
    memory.require(plan, grid, equation, observed)
    return plan


def lay_out(equation: Any, grid: Any, times: Any, options: SolverOptions = AUTOMATIC) -> Plan:
    """`prepare` for solutions, whether or not there is memory for it."""
    times = _checked_times(times)
    return Plan(options.scheme, times, _chosen(plain(equation), grid, times, options))


def _chosen(equation: Any, grid: Any, times: Any, options: SolverOptions) -> Method:
    """The method, by how time and space enter the equation, and by what the user names."""
    # Numbers may differ in every call, structures do not: of those that no time enters, nothing else is looked at.
    key = (jax.tree.structure(equation), jax.tree.structure(grid)) if options.scheme is SECOND_ORDER else None
    if key in _STEADY and grid.ndim == 1 and not isinstance(options.stepper, Method):
        return _on_line(equation, times, options, (False, False, ()))
    system = semidiscrete(equation, grid, options.scheme)[0]
    if isinstance(options.stepper, Method):
        if not options.stepper.varying and any(map(bool, system.time_dependence())):
            raise ValueError(
                f"{type(options.stepper).__name__} needs coefficients that are constant in time, or to say varying = True; leave stepper out or use jd.TRBDF2()"
            )
        return options.stepper
    exact = options.stepper is None or options.stepper.exact
    if equation.wave:
        if options.stepper is not None or options.substeps is not None:
            raise ValueError("waves have steps of their own; leave stepper and substeps out, and give a tolerance")
        return of_waves(equation, options.tolerance, system.operator_varies)
    if options.scheme.in_modes:
        if not exact:
            raise ValueError(
                f"{type(options.scheme).__name__} is exact in time and takes no {type(options.stepper).__name__}; leave stepper out, or use jd.FiniteVolume()"
            )
        return Modes(system.forced, system.basis)
    in_time = (False, False, ()) if key in _STEADY else system.time_dependence()
    if system.among_states and not any(map(bool, in_time)) and exact and options.substeps is None:
        return among_states(jax.eval_shape(system.operator, 0.0), times, options.tolerance)
    if (
        key is not None
        and not equation.discrete
        and not any(map(bool, in_time))
        and (grid.geometry == "cartesian" or grid.ndim > 1)
    ):
        if len(_STEADY) >= 1024:  # fresh lambdas are fresh structures
            _STEADY.clear()
        _STEADY.add(key)
    if grid.ndim > 1 and not system.among_states:
        require_whole_blocks(grid)
        return _on_lattice(system, times, options, in_time, exact)
    return _on_line(equation, times, options, in_time)


def _on_line(equation: Any, times: Any, options: SolverOptions, in_time: Any) -> Method:
    """On one axis."""
    operator_varies, forcing_varies, knots = in_time
    exact = options.stepper is None or options.stepper.exact
    if options.stepper is not None and exact and operator_varies:
        raise ValueError(
            "Exponential needs coefficients that are constant in time; leave stepper out or use jd.TRBDF2()"
        )
    smooth = not operator_varies and not forcing_varies
    if exact and smooth and options.substeps is None:
        return _in_steady_media(equation, times, options, knots)
    if options.stepper is None and options.substeps is None:
        return Adaptive(Rosenbrock() if operator_varies else Quadrature(), options.tolerance_or(_VARYING), _FEW_STEPS)
    return Steps(options.stepper or (Exponential() if smooth else TRBDF2()), int(options.substeps or 1))


def _in_steady_media(equation: Any, times: Any, options: SolverOptions, knots: Any) -> Method:
    """On one axis, nothing a function of time but forcing that is linear between the knots."""
    if equation.driftless and not knots:
        return straight(times, options.tolerance)
    return Segments.over(times, knots, options.tolerance)


def _on_lattice(system: Any, times: Any, options: SolverOptions, in_time: Any, exact: bool) -> Method:
    """On several axes."""
    operator_varies, forcing_varies, knots = in_time
    varies = operator_varies or forcing_varies
    if varies and exact and options.stepper is not None:
        raise ValueError(
            "Exponential needs coefficients and walls on several axes that are constant in time, or a jd.Series at a wall; leave stepper out or use jd.Strang()"
        )
    if not exact or (varies and options.substeps is not None):
        return Steps(options.stepper or TRBDF2(), int(options.substeps or 1), system.forced)
    if varies:
        tolerance = options.tolerance_or(_VARYING)
        return Adaptive(Magnus(tolerance, system.forced), tolerance, _FEW_EXPONENTIALS, system.forced)
    if not knots and options.substeps is None and (basis := system.basis) is not None:
        return Modes(system.forced, basis)
    tolerance, substeps = options.tolerance_or(_LATTICE_TOLERANCE), room_for(int(options.substeps or 1))
    kernel = getattr(options.stepper, "kernel", False)
    return Lattice(cut(times, knots, 1), tolerance, substeps, _FEW_TERMS, system.forced, kernel)


def _checked_times(times: Any) -> Any:
    if isinstance(times, jax.core.Tracer):
        return times
    try:
        times = numbers(times, "times", SINCE)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{error}; the first is that of the initial state") from None
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times must be a sequence of at least two, the first that of the initial state, got {times}")
    if not np.isfinite(times).all():
        raise ValueError("times must be finite; use jd.steady_state for the limit of long times")
    wrong = np.flatnonzero(np.diff(times) <= 0)
    if len(wrong):
        i = int(wrong[0])
        raise ValueError(
            f"times must increase, got {times[i + 1]:g} after {times[i]:g} at index {i + 1}; sort them and drop repeats"
        )
    return times
