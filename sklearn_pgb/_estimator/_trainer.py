"""Training of networks, cached if the user gives a memory."""

import pickle
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from joblib.hashing import NumpyHasher
from numpy.typing import NDArray
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_memory

from sklearn_pgb._estimator._border import aligned
from sklearn_pgb._estimator._resources import jobs_for
from sklearn_pgb._models._train import fit_estimator
from sklearn_pgb._seeds import with_seed
from sklearn_pgb._sklearn import _check_method_params, _safe_indexing
from sklearn_pgb._threads import local_randomness


class Trainer:
    """Fits estimators, or loads earlier fits to the same data from a cache.

    `saved` are the seconds saved by the cache: original training times minus loading
    times. Torch's global generator, which networks of other packages use, is set to the
    seed of a training or, without one, to the state `rng_state`, if given.
    """

    def __init__(self, memory: Any, rng_state: torch.Tensor | None = None):
        memory = check_memory(memory)
        ignored = ["estimator", "X", "y", "fit_params", "seed", "rng_state", "context"]
        self._train = memory.cache(_train, ignore=ignored)
        self._rng_state = rng_state
        self._remembers = getattr(memory, "location", True) is not None
        self.saved = 0.0

    def fit(
        self,
        estimator: Any,
        X: Any,
        y: Any,
        fit_params: dict[str, Any],
        seed: int | None,
        context: Any = None,
    ) -> Any:
        """Return the fitted estimator, from the cache if possible.

        It is fitted in place unless its fit is cached. `context` is the callback
        context of the training.
        """
        if isinstance(estimator, FrozenEstimator):
            return estimator
        start, key = time.perf_counter(), None
        if self._remembers:
            # Everything that a training depends on; memory-mapped arrays by value.
            hasher, parts = _Hasher("md5", coerce_mmap=True), (X, y, fit_params, seed)
            try:
                key = hasher.hash((estimator, *parts))
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                # Show only the first argument, because joblib's second one has all the
                # data.
                raise ValueError(
                    "memory must be None if an estimator can't be pickled, for example "
                    "one with a lambda or a nested function, got "
                    f"{type(estimator).__name__}: {error.args[0]}. Define its classes "
                    "and functions at the top of a module that workers can import."
                ) from error
        fitted, seconds = self._train(
            key, estimator, X, y, fit_params, seed, self._rng_state, context
        )
        self.saved += seconds - (time.perf_counter() - start)
        return fitted

    def fit_part(
        self,
        estimator: Any,
        seed: int | None,
        part: NDArray[Any] | None,
        X: Any,
        y: Any,
        fit_params: dict[str, Any],
        caller: Any,
        context: Any,
        name: str,
    ) -> Any:
        """Train a clone on its part of the samples, with callbacks and progress."""
        if part is None:
            X, y = aligned(X), aligned(y)
        else:
            fit_params = _check_method_params(X, fit_params, part)
            X, y = _safe_indexing(X, part), _safe_indexing(y, part)
        network = with_seed(estimator, seed)
        if caller is None:
            return self.fit(network, X, y, fit_params, seed)
        start = time.perf_counter()
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", ConvergenceWarning)
            if context is not None:
                task = {"estimator": caller, "X": X, "y": y, "metadata": None}
                context.call_on_fit_task_begin(**task)
                stack.callback(context.call_on_fit_task_end, **task)
            fitted = self.fit(network, X, y, fit_params, seed, context)
        if caller.verbose:
            seconds = time.perf_counter() - start
            print(f"{name} trained on {len(y)} samples in {seconds:.1f} s")
        return fitted


class _Hasher(NumpyHasher):
    """joblib's hasher, extended to give equal tensors the same hash."""

    def save(self, obj: Any) -> None:
        """Hash a tensor's values, as the name of its storage differs in each copy."""
        if isinstance(obj, torch.Tensor):
            values = obj.detach().cpu().numpy()
            obj = (type(obj).__name__, str(obj.device), obj.requires_grad, values)
        super().save(obj)


def _train(
    key: str | None,
    estimator: Any,
    X: Any,
    y: Any,
    fit_params: Any,
    seed: int | None,
    rng_state: torch.Tensor | None,
    context: Any = None,
) -> tuple[Any, float]:
    """Return the fitted estimator and the seconds of its training."""
    start = time.perf_counter()
    with ExitStack() as stack:
        # For estimators without callbacks scikit-learn would warn at every network.
        if context is not None and isinstance(estimator, CallbackSupportMixin):
            stack.enter_context(context.propagate_callback_context(estimator))
        parts = [estimator, *estimator.get_params().values()]
        packages = {
            type(part).__module__.partition(".")[0]
            for part in parts
            if hasattr(part, "fit")
        }
        # These never use torch's global generator, so they can train in parallel
        # threads; others, such as a user's subclass of one, must train in turn.
        if not packages <= {"sklearn", "sklearn_pgb"}:
            stack.enter_context(local_randomness(seed))
            if seed is None and rng_state is not None:
                torch.set_rng_state(rng_state)
        fit_estimator(estimator, X, y, **fit_params)
    return estimator, time.perf_counter() - start


def train_networks(
    estimator: Any,
    seeds: Sequence[int | None],
    parts: Sequence[NDArray[Any] | None],
    X: Any,
    y: Any,
    fit_params: dict[str, Any],
    n_jobs: int | None,
    memory: Any = None,
    caller: Any = None,
    contexts: Sequence[Any] | None = None,
    label: str = "Model",
) -> list[Any]:
    """Train one clone per seed, each on its part of the samples; None is all of them.

    Networks cached in `memory`, a joblib.Memory or its folder, are loaded. `contexts`
    are the callback contexts of the trainings, subtasks of `caller`. Progress is
    printed with the `label` if `caller.verbose`. With a caller, convergence warnings of
    single networks are suppressed. KeyboardInterrupt in a training ends all of them.
    """
    contexts = [None] * len(seeds) if contexts is None else contexts
    # Workers in other processes have their own generators.
    trainer = Trainer(memory, torch.get_rng_state())
    each = enumerate(zip(seeds, parts, contexts, strict=True), 1)
    tasks = [
        delayed(trainer.fit_part)(
            estimator, seed, part, X, y, fit_params, caller, context, f"{label} {n}"
        )
        for n, (seed, part, context) in each
    ]
    try:
        return Parallel(n_jobs=jobs_for(len(parts), n_jobs))(tasks)
    except pickle.PicklingError as error:
        # skorch pickles modules by name, and workers have a different __main__.
        raise ValueError(
            "n_jobs must be None or 1 for an estimator that workers can't pickle, got "
            f"{type(estimator).__name__}: {error.args[0]}. Define its classes and "
            "functions at the top of a module that workers can import."
        ) from error
