"""Callbacks and progress of an iterative `fit`."""

from collections.abc import Callable
from functools import partial
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

    The first takes parameters and loss, and returns True if a callback asks to stop.
    `state` returns the fitted attributes of a network with the given parameters.
    """
    context, info, finish = _begin(estimator, X, y, sample_weight)
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

    return hook, finish


def _begin(
    estimator: Any, X: Any, y: Any, sample_weight: Any, **options: Any
) -> tuple[Any, dict[str, Any], Callable[[], None]]:
    """Begin a fit; return its callback context, its data, and a function to end it."""
    info = {
        "estimator": estimator,
        "X": X,
        "y": y,
        "metadata": {"sample_weight": sample_weight},
    }
    context = estimator._init_callback_context(max_subtasks=None, **options)
    context = context.call_on_fit_task_begin(**info)
    end = partial(context.call_on_fit_task_end, **info, reconstruction_attributes={})
    return context, info, end


def training_contexts(
    estimator: Any, X: Any, y: Any, sample_weight: Any
) -> tuple[Callable[[int], list[Any]], Callable[[], None]]:
    """Begin a fit that trains several networks in parallel.

    Returns a function that makes as many callback contexts as there are trainings, and
    one that ends the fit.
    """
    context, _, finish = _begin(
        estimator, X, y, sample_weight, sequential_subtasks=False
    )

    def contexts(count: int) -> list[Any]:
        return [
            context.subcontext(task_name="network", task_id=number)
            for number in range(count)
        ]

    return contexts, finish
