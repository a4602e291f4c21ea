"""Estimators that take raw tables."""
