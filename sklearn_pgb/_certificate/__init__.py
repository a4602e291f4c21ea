"""Certificates: what is known of a trained network, and why."""

from sklearn_pgb._certificate._certificate import Certificate
from sklearn_pgb._certificate._certify import certify

__all__ = ["Certificate", "certify"]
