"""Predictive distributions, intervals and label sets from out-of-fold errors."""
