"""The convex refit of a trained network on its gradient basis."""

from sklearn_pgb._refit._gradient_basis_refit import GradientBasisRefit

__all__ = ["GradientBasisRefit"]
