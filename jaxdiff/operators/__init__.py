"""Linear operators with three faces: action, resolvent and propagator."""

from jaxdiff.operators.axis_sum import AxisSum
from jaxdiff.operators.basis import KINDS, Basis, Diagonal
from jaxdiff.operators.block_tridiagonal import BlockTridiagonal
from jaxdiff.operators.blocking import Blocking, blocking
from jaxdiff.operators.chebyshev import chebyshev, longest_time, most_of_batch, terms_needed, turned, turns_needed
from jaxdiff.operators.connectivity import leading_to, led_to, never_left, parts, reaching, several
from jaxdiff.operators.dense import Dense
from jaxdiff.operators.doubling import dense, doubled, doublings_needed
from jaxdiff.operators.edge_sum import EdgeSum, ScatteredEdges, SharedEdges, shifts
from jaxdiff.operators.elimination import eliminable, eliminated
from jaxdiff.operators.hamiltonian import Hamiltonian
from jaxdiff.operators.iterative import Modes, preconditioned
from jaxdiff.operators.propagators import CUTS, Contour, Pade, Poles, parts_needed, propagate
from jaxdiff.operators.shift_sum import ShiftSum
from jaxdiff.operators.sparse import Sparse
from jaxdiff.operators.tridiagonal import Tridiagonal
from jaxdiff.operators.uniformisation import products_needed, uniformised

__all__ = [
    "CUTS",
    "KINDS",
    "AxisSum",
    "Basis",
    "BlockTridiagonal",
    "Blocking",
    "blocking",
    "Contour",
    "Dense",
    "Diagonal",
    "EdgeSum",
    "Hamiltonian",
    "Modes",
    "Pade",
    "Poles",
    "ScatteredEdges",
    "SharedEdges",
    "ShiftSum",
    "Sparse",
    "Tridiagonal",
    "chebyshev",
    "dense",
    "doubled",
    "doublings_needed",
    "eliminable",
    "eliminated",
    "preconditioned",
    "leading_to",
    "led_to",
    "longest_time",
    "never_left",
    "parts",
    "reaching",
    "several",
    "most_of_batch",
    "parts_needed",
    "products_needed",
    "propagate",
    "shifts",
    "terms_needed",
    "turned",
    "turns_needed",
    "uniformised",
]
