"""Comparison of bases by training minima, certified bounds and held-out scores."""
