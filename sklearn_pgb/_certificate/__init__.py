"""Certificates: what is known of a trained network, and why."""

from sklearn_pgb._certificate._certificate import Certificate
from sklearn_pgb._certificate._certify import certify, certify_objective
from sklearn_pgb._certificate._kinks import kink_margin
from sklearn_pgb._certificate._objective import TrainingObjective
from sklearn_pgb._certificate._subject import mlp_ridge, training_objective

__all__ = [
    "Certificate",
    "TrainingObjective",
    "certify",
    "certify_objective",
    "kink_margin",
    "mlp_ridge",
    "training_objective",
]
