"""From an equation on a grid to dN/dt = A(t) N + b(t)."""

from jaxdiff.discretisation.system import System, TimeDependence
from jaxdiff.model.equations import Transport

__all__ = ["System", "TimeDependence", "Transport"]
