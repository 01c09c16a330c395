"""What `solve`, `fit` and their kin take as four keywords: how space is discretised, and how time is stepped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxdiff.discretisation.modes import Spectral
from jaxdiff.discretisation.schemes import FiniteVolume
from jaxdiff.integration.method import Method
from jaxdiff.integration.rkl2 import RKL2
from jaxdiff.integration.segments import FINEST
from jaxdiff.integration.steppers import (
    TRBDF2,
    BackwardEuler,
    CrankNicolson,
    Exponential,
    ForwardEuler,
    RungeKutta4,
    Stepper,
    Strang,
)

SECOND_ORDER = FiniteVolume()
STEPPERS = {
    s.__name__: s for s in (ForwardEuler, RungeKutta4, RKL2, BackwardEuler, CrankNicolson, TRBDF2, Exponential, Strang)
}


@dataclass(frozen=True)
class SolverOptions:
    """Scheme, stepper (or a method of one's own), substeps and tolerance, checked once; None leaves the choice to the solver.

    Raises:
        TypeError: not a scheme, or not a stepper.
        ValueError: substeps that are not a positive whole number, a tolerance that is no share of the peak.
    """

    scheme: Any = None
    stepper: Any = None
    substeps: int | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)
        put("scheme", SECOND_ORDER if self.scheme is None else self.scheme)
        if not isinstance(self.scheme, (FiniteVolume, Spectral)):
            raise TypeError(f"scheme must be jd.FiniteVolume(order=2 or 4) or jd.Spectral(), got {self.scheme!r}")
        put("stepper", _checked_stepper(self.stepper))
        substeps, tolerance = self.substeps, self.tolerance
        if substeps is not None and (int(substeps) != substeps or substeps < 1):
            raise ValueError(f"substeps must be a positive whole number, got {substeps!r}")
        put("substeps", None if substeps is None else int(substeps))
        if tolerance is not None and not 0 < tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1, as a share of the peak, got {tolerance!r}")
        if tolerance is not None and tolerance < FINEST:
            raise ValueError(
                f"tolerance {tolerance:g} of the peak is below what roundoff leaves; take {FINEST:g} or more"
            )

    def tolerance_or(self, automatic: float) -> float:
        """The tolerance, where none is given the automatic one."""
        return automatic if self.tolerance is None else self.tolerance


def _checked_stepper(stepper: Any) -> Any:
    names = ", ".join(STEPPERS)
    if isinstance(stepper, str):
        raise ValueError(f"unknown stepper {stepper!r}; pass an object, one of {names}, such as jd.TRBDF2()")
    if isinstance(stepper, type) and issubclass(stepper, (Stepper, Method)):
        return stepper()
    if stepper is not None and not isinstance(stepper, (Stepper, Method)):
        raise TypeError(f"stepper must be one of {names}, got {stepper!r}")
    return stepper


AUTOMATIC = SolverOptions()
