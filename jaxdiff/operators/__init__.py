"""Linear operators with three faces: action, resolvent and propagator."""

from jaxdiff.operators.propagators import Contour, Poles, propagate
from jaxdiff.operators.tridiagonal import Tridiagonal

__all__ = ["Contour", "Poles", "Tridiagonal", "propagate"]
