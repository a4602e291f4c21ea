"""Displays of results and landscapes, following scikit-learn's convention."""
