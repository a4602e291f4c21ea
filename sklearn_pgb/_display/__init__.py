"""Displays of results and landscapes, after scikit-learn's convention."""
