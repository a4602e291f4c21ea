"""Bases: where the columns of a convex model come from."""
