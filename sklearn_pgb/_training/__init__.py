"""Training: nonconvex objectives of populations of networks, and their minimization."""
