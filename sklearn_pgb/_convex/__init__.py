"""Convex problems on a basis: solutions, certificates and the choice of alpha."""
