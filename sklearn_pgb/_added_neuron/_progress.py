"""What a fit tells while it runs: callbacks and printed lines."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from sklearn_pgb._added_neuron._fitting import Hook, Moment
from sklearn_pgb._estimator._hooks import fit_hooks
from sklearn_pgb._training._architecture import Architecture
from sklearn_pgb._training._train import SMALLEST_RATE


def hooks(
    estimator: Any, architecture: Architecture, X: Any, y: Any, sample_weight: Any
) -> tuple[Hook, Callable[[], None]]:
    """What runs after each epoch, and after the last one.

    Parameters
    ----------
    estimator : AddedNeuronBase
        Its callbacks are told of each epoch, with the network as it is.
    architecture : Architecture
    X, y, sample_weight : array or None
        What callbacks are given.
    """

    def state(theta: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = estimator._network_state(
            architecture, theta.detach().cpu().double()
        )
        return state

    tell, finish = fit_hooks(estimator, X, y, sample_weight, state)

    def hook(moment: Moment) -> bool:
        stop = tell(moment.theta, moment.loss * architecture.scale**2)
        if estimator.verbose:
            _print(estimator, moment)
        return stop

    return hook, finish


def _print(estimator: Any, moment: Moment) -> None:
    """What scikit-learn's networks print below the loss of an epoch."""
    judged = "Training loss"
    if moment.score is not None:
        judged = "Validation score"
        print(f"{judged}: {moment.score:f}")
    if not moment.stagnates:
        return
    lower = f"Setting learning rate to {moment.rate:f}"
    if moment.rate <= SMALLEST_RATE:
        lower = "Learning rate too small. Stopping."
    ends = {"anneal": "Annealing.", "adaptive": lower}
    print(
        f"{judged} did not improve more than tol={estimator.tol:f} for "
        f"{estimator.n_iter_no_change} consecutive epochs. "
        + ends.get(estimator.learning_rate, "Stopping.")
    )
