"""Linear operators with three faces: action, resolvent and propagator."""

from jaxdiff.operators.axis_sum import AxisSum
from jaxdiff.operators.basis import Basis, Diagonal
from jaxdiff.operators.chebyshev import chebyshev, terms_needed
from jaxdiff.operators.iterative import Modes, equipped
from jaxdiff.operators.propagators import Contour, Poles, parts_needed, propagate
from jaxdiff.operators.tridiagonal import Tridiagonal

__all__ = [
    "AxisSum",
    "Basis",
    "Contour",
    "Diagonal",
    "Modes",
    "Poles",
    "Tridiagonal",
    "chebyshev",
    "equipped",
    "parts_needed",
    "propagate",
    "terms_needed",
]
