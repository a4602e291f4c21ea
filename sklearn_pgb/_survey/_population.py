"""Train networks from many starts, as one population if possible."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.parallel import Parallel, delayed
from torch import Tensor

from sklearn_pgb._budget import (
    LEAST_POLISH,
    MOST_POLISH,
    POLISH_CHUNK,
    POLISH_WORK,
    POPULATION_GROUP,
)
from sklearn_pgb._certificate._subject import open_subject
from sklearn_pgb._estimator._fit_parameters import weight_keyword
from sklearn_pgb._estimator._resources import jobs_for
from sklearn_pgb._estimator._trainer import train_networks
from sklearn_pgb._survey._recipe import Recipe
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._program import uniform_initialization


def train_population(
    recipe: Recipe,
    n_starts: int,
    *,
    polish_iter: int | str,
    tol: float,
    seed: int,
    n_jobs: int | None,
) -> Tensor:
    """Train from all starts; return parameters of shape (n_starts, n_params).

    The parameters are for scaled targets (`Recipe.networks` converts them). Groups and
    seeds do not depend on `n_jobs`. The polish ends at gradients of `tol` times the
    scale of the loss.
    """
    rng = np.random.RandomState(seed)
    theta = uniform_initialization(recipe.program, rng, n_starts)
    if isinstance(polish_iter, str):
        work = n_starts * len(recipe.y) * recipe.program.n_params
        affordable = int(min(MOST_POLISH, POLISH_WORK / work))
        n_iter = max(recipe.n_iter, affordable if affordable >= LEAST_POLISH else 0)
    else:
        n_iter = int(polish_iter)
    if recipe.schedule.max_epochs:
        groups = theta.split(POPULATION_GROUP)
        seeds = rng.randint(np.iinfo(np.int32).max, size=len(groups)).tolist()
        parts = Parallel(n_jobs=jobs_for(len(groups), n_jobs))(
            delayed(recipe.train)(group, seed)
            for group, seed in zip(groups, seeds, strict=True)
        )
        theta = torch.cat(parts)
    if n_iter == 0:
        return theta
    # In the targets' units, the gradients of hidden layers are `unit` squared times as
    # large as in training units, and those of the output layer `unit` times. Divide
    # twice, because squares of tiny targets underflow.
    unit = recipe.architecture.scale
    limit = recipe.data.scale().reference / unit / max(1.0, unit)
    gtol = tol * (limit / recipe.program.n_params**0.5)
    # A chunk is one task for a worker, which polishes its members one by one.
    chunks = theta.split(POLISH_CHUNK)
    polished = Parallel(n_jobs=jobs_for(len(chunks), n_jobs))(
        delayed(recipe.polish)(chunk, n_iter, gtol) for chunk in chunks
    )
    return torch.cat(polished)


def train_separately(
    estimator: Any,
    X: Any,
    y: Any,
    weight: NDArray[np.float64] | None,
    n_starts: int,
    seed: int,
    n_jobs: int | None,
) -> list[Objective]:
    """Fit clones with different seeds; return the training objective of each."""
    # Drawn before the trainings, so that they do not depend on n_jobs.
    seeds = np.random.RandomState(seed).randint(np.iinfo(np.int32).max, size=n_starts)
    params = {}
    if weight is not None:
        params = {weight_keyword(estimator, "Leave the weights out."): weight}
    fitted = train_networks(
        estimator, seeds.tolist(), [None] * n_starts, X, y, params, n_jobs
    )
    subjects = [open_subject(each, X, y, sample_weight=weight) for each in fitted]
    objectives = [each.objective for each in subjects]
    sizes = sorted({len(each.network.theta) for each in objectives})
    if len(sizes) > 1:
        raise ValueError(
            "estimator must train networks of one size, got networks of "
            f"{sizes[0]} to {sizes[-1]} parameters. Fix the architecture, for example "
            "by passing the search's best_estimator_."
        )
    return objectives
