"""Linear operators with three faces: action, resolvent and propagator."""

from jaxdiff.operators.axis_sum import AxisSum
from jaxdiff.operators.basis import KINDS, Basis, Diagonal
from jaxdiff.operators.chebyshev import chebyshev, terms_needed
from jaxdiff.operators.edge_sum import EdgeSum, ScatteredEdges, SharedEdges, shifts
from jaxdiff.operators.propagators import Contour, Poles, propagate
from jaxdiff.operators.tridiagonal import Tridiagonal

__all__ = [
    "KINDS",
    "AxisSum",
    "Basis",
    "Contour",
    "Diagonal",
    "EdgeSum",
    "Poles",
    "ScatteredEdges",
    "SharedEdges",
    "Tridiagonal",
    "chebyshev",
    "propagate",
    "shifts",
    "terms_needed",
]
