"""Certificates of trained networks."""
