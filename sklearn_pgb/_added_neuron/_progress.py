"""What a fit tells while it runs: callbacks and printed lines."""

from collections.abc import Callable
from typing import Any

from sklearn_pgb._added_neuron._fitting import Hook, Moment
from sklearn_pgb._training import SMALLEST_RATE, Architecture, network_state


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
    info = {
        "estimator": estimator,
        "X": X,
        "y": y,
        "metadata": {"sample_weight": sample_weight},
    }
    context = estimator._init_callback_context(max_subtasks=None)
    context.call_on_fit_task_begin(**info)
    has_callbacks = bool(getattr(estimator, "_skl_callbacks", []))
    count = 0

    def hook(moment: Moment) -> bool:
        nonlocal count
        count += 1
        if estimator.verbose:
            _print(estimator, count, moment, architecture.scale)
        if not has_callbacks:
            return False
        epoch = context.subcontext(task_name="epoch").call_on_fit_task_begin(**info)
        at = moment.theta.detach().cpu().double()
        stop = epoch.call_on_fit_task_end(
            **info,
            reconstruction_attributes=lambda: network_state(architecture, at),
        )
        return bool(stop)

    def finish() -> None:
        context.call_on_fit_task_end(**info, reconstruction_attributes={})

    return hook, finish


def _print(estimator: Any, count: int, moment: Moment, scale: float) -> None:
    """What scikit-learn's networks print after an epoch."""
    print(f"Iteration {count}, loss = {moment.loss * scale**2:.8f}")
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
