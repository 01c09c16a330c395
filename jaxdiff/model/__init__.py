"""What is solved, as pure data: grid, coefficients, boundaries, equations."""
