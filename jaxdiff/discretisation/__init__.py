"""From an equation on a grid to dN/dt = A(t) N + b(t)."""
