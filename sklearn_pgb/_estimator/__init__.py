"""Conversion between the arrays of scikit-learn and the tensors of the package."""
