"""Bases, which provide the columns of a convex model."""
