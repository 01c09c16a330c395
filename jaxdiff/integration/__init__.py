"""From dN/dt = A(t) N + b(t) to N(t): steppers, plans, `solve`, steady states."""
