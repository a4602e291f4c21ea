"""Callbacks and printed progress of a fit."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from sklearn_pgb._added_neuron._request import Hook
from sklearn_pgb._budget import SMALLEST_RATE
from sklearn_pgb._estimator._hooks import fit_hooks
from sklearn_pgb._training._architecture import Architecture


def hooks(
    estimator: Any, architecture: Architecture, X: Any, y: Any, sample_weight: Any
) -> tuple[Hook, Callable[[], None]]:
    """Return functions to call after each epoch and at the end of a fit.

    The estimator's callbacks get the training data, and the current network after each
    epoch.
    """
    call_back, finish = fit_hooks(
        estimator,
        X,
        y,
        sample_weight,
        lambda theta: estimator._network_state(
            architecture, theta.detach().cpu().double()
        ),
    )

    def hook(
        theta: Tensor,
        loss: float,
        score: float | None = None,
        stagnates: bool = False,
        rate: float = 0.0,
    ) -> bool:
        stop = call_back(theta, loss * architecture.scale**2)
        if not estimator.verbose:
            return stop
        # The messages of scikit-learn's networks.
        criterion = "Training loss"
        if score is not None:
            criterion = "Validation score"
            print(f"{criterion}: {score:f}")
        if stagnates:
            lower = f"Setting learning rate to {rate:f}"
            if rate <= SMALLEST_RATE:
                lower = "Learning rate too small. Stopping."
            ends = {"anneal": "Annealing.", "adaptive": lower}
            print(
                f"{criterion} did not improve more than tol={estimator.tol:f} for "
                f"{estimator.n_iter_no_change} consecutive epochs. "
                + ends.get(estimator.learning_rate, "Stopping.")
            )
        return stop

    return hook, finish
