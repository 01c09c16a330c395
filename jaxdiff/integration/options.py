"""What `solve`, `fit` and their kin take as four keywords: how space is discretised, and how time is stepped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxdiff.discretisation.schemes import FiniteVolume, Scheme
from jaxdiff.integration.method import Method
from jaxdiff.integration.rkl2 import RKL2
from jaxdiff.integration.segments import FINEST
from jaxdiff.integration.steppers import CLASSIC, Stepper

SECOND_ORDER = FiniteVolume()
STEPPERS = {stepper.__name__: stepper for stepper in (*CLASSIC, RKL2)}


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
        stepper, substeps, tolerance, names = self.stepper, self.substeps, self.tolerance, ", ".join(STEPPERS)
        if self.scheme is None:
            object.__setattr__(self, "scheme", SECOND_ORDER)
        if not isinstance(self.scheme, Scheme):
            raise TypeError(f"scheme must be jd.FiniteVolume(order=2 or 4) or jd.Spectral(), got {self.scheme!r}")
        if isinstance(stepper, str):
            raise ValueError(f"unknown stepper {stepper!r}; pass an object, one of {names}, such as jd.TRBDF2()")
        if isinstance(stepper, type) and issubclass(stepper, (Stepper, Method)):
            object.__setattr__(self, "stepper", stepper())
        elif stepper is not None and not isinstance(stepper, (Stepper, Method)):
            raise TypeError(f"stepper must be one of {names}, got {stepper!r}")
        if substeps is not None and (int(substeps) != substeps or substeps < 1):
            raise ValueError(f"substeps must be a positive whole number, got {substeps!r}")
        if tolerance is not None and not 0 < tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1, as a share of the peak, got {tolerance!r}")
        if tolerance is not None and tolerance < FINEST:
            raise ValueError(
                f"tolerance {tolerance:g} of the peak is below what roundoff leaves; take {FINEST:g} or more"
            )

    def tolerance_or(self, automatic: float) -> float:
        """The tolerance, where none is given the automatic one."""
        return automatic if self.tolerance is None else self.tolerance


AUTOMATIC = SolverOptions()
