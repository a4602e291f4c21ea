"""Bases side by side: training minima with bounds, and held-out scores."""
