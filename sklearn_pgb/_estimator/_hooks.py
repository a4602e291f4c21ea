"""Callbacks and progress of an iterative `fit`."""

from collections.abc import Callable
from typing import Any

from torch import Tensor


def fit_hooks(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    state: Callable[[Tensor], dict[str, Any]],
) -> tuple[Callable[[Tensor, float], bool], Callable[[], None]]:
    """Return functions to call after each iteration and at the end of a fit.

    Parameters
    ----------
    estimator : estimator
        It supports callbacks and has the parameter `verbose`.
    X, y, sample_weight
        Training data, passed to callbacks.
    state : callable
        Returns the fitted attributes of a network with the given parameters.

    Returns
    -------
    hook : callable
        Takes parameters and loss; returns True if a callback asks to stop.
    finish : callable
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

    def hook(theta: Tensor, loss: float) -> bool:
        nonlocal count
        count += 1
        if estimator.verbose:
            print(f"Iteration {count}, loss = {loss:.8f}")
        if not has_callbacks:
            return False
        epoch = context.subcontext(task_name="epoch").call_on_fit_task_begin(**info)
        stop = epoch.call_on_fit_task_end(
            **info, reconstruction_attributes=lambda: state(theta)
        )
        return bool(stop)

    def finish() -> None:
        context.call_on_fit_task_end(**info, reconstruction_attributes={})

    return hook, finish


def training_contexts(
    estimator: Any, X: Any, y: Any, sample_weight: Any
) -> tuple[Callable[[int], list[Any]], Callable[[], None]]:
    """Create callback contexts for a fit that trains several networks in parallel.

    Parameters
    ----------
    estimator : estimator
        It supports callbacks.
    X, y, sample_weight
        Training data, passed to callbacks.

    Returns
    -------
    contexts : callable
        Returns as many contexts as there are trainings.
    finish : callable
        Ends the fit.
    """
    task = {
        "estimator": estimator,
        "X": X,
        "y": y,
        "metadata": {"sample_weight": sample_weight},
    }
    context = estimator._init_callback_context(
        max_subtasks=None, sequential_subtasks=False
    ).call_on_fit_task_begin(**task)

    def contexts(count: int) -> list[Any]:
        return [
            context.subcontext(task_name="network", task_id=number)
            for number in range(count)
        ]

    def finish() -> None:
        context.call_on_fit_task_end(**task, reconstruction_attributes={})

    return contexts, finish
