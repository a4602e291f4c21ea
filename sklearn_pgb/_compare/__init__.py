"""Bases side by side: training minima with bounds, and held-out scores."""

from sklearn_pgb._compare._compare import compare_bases
from sklearn_pgb._compare._comparison import BasisComparison, BasisReport

__all__ = ["BasisComparison", "BasisReport", "compare_bases"]
