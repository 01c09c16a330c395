"""p(x₁, t | x₀) of one-dimensional diffusions, accurate in the far tails and at walls."""
