"""Seeds of networks, folds and sketches."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state


@dataclass(frozen=True)
class Seeds:
    """Seeds of one fit, drawn before the parallel trainings start.

    With `keep_first`, the first network keeps the estimator's own seed.
    """

    folds: int
    sketch: int
    networks: int
    keep_first: bool

    def of_networks(self, count: int) -> list[int | None]:
        """Return one seed per network; None stands for the estimator's own."""
        rng = np.random.RandomState(self.networks)
        seeds: list[int | None] = rng.randint(
            np.iinfo(np.int32).max, size=count
        ).tolist()
        return [None, *seeds[1:]] if self.keep_first else seeds


def draw_seeds(estimator: Any, random_state: Any) -> Seeds:
    """Draw seeds from `random_state`, or if it is None, from the estimator's own."""
    source = random_state
    if source is None:
        seeds = (estimator.get_params()[key] for key in _seed_keys(estimator))
        numbers = (seed for seed in seeds if isinstance(seed, int | np.integer))
        source = next(numbers, None)
    rng = check_random_state(source)
    folds, sketch, networks = rng.randint(np.iinfo(np.int32).max, size=3).tolist()
    return Seeds(folds, sketch, networks, keep_first=random_state is None)


def _seed_keys(estimator: Any) -> list[str]:
    """Return the names of all `random_state` parameters, nested ones included."""
    if not hasattr(estimator, "get_params"):
        return []
    keys = sorted(estimator.get_params())
    return [k for k in keys if k == "random_state" or k.endswith("__random_state")]


def with_seed(estimator: Any, seed: int | None) -> Any:
    """Clone an estimator and set every `random_state`, unless `seed` is None."""
    copy = clone(estimator)
    keys = _seed_keys(copy) if seed is not None else []
    return copy.set_params(**dict.fromkeys(keys, seed)) if keys else copy


def fill_seeds(estimator: Any, seed: int) -> None:
    """Set every `random_state` that is None, in place."""
    params = estimator.get_params()
    missing = [key for key in _seed_keys(estimator) if params[key] is None]
    if missing:
        estimator.set_params(**dict.fromkeys(missing, seed))
