"""Training: nonconvex objectives of populations of networks, and the way down."""
