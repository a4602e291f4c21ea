"""Training of a population from many starts, and the way to critical points."""

import numpy as np
import torch
from sklearn.utils.parallel import Parallel, delayed
from torch import Tensor

from sklearn_pgb._estimator._border import jobs_for
from sklearn_pgb._survey._recipe import Recipe
from sklearn_pgb._training._descent import Adam
from sklearn_pgb._training._polish import polish
from sklearn_pgb._training._program import uniform_initialisation
from sklearn_pgb._training._train import train

# Members of one tensor program. Small ones run at the cost of their launches, large
# ones out of the cache.
GROUP = 50

# Starts that are polished in one task.
CHUNK = 5

# Multiplications of one iteration of all polishing times the iterations, where their
# number is left open; fewer than SHORTEST would not lead anywhere, more than LONGEST
# are not needed.
POLISH_WORK, SHORTEST, LONGEST = 1e9, 50, 1000

# Up to this many parameters Hessians are cheap enough for Newton steps at the end,
# which at kinks lead nowhere.
NEWTON_PARAMS, KINKED = 150, ("relu", "leaky_relu")


def train_population(
    recipe: Recipe,
    n_starts: int,
    *,
    polish_iter: int | str,
    gtol: float,
    seed: int,
    n_jobs: int | None,
) -> Tensor:
    """Parameters at which the starts end, (n_starts, n_params), in training units.

    Groups and seeds are the same whatever `n_jobs` is.
    """
    rng = np.random.RandomState(seed)
    theta = uniform_initialisation(recipe.program, rng, n_starts)
    n_iter = _polish_iterations(recipe, n_starts, polish_iter)
    if recipe.schedule.max_epochs:
        groups = theta.split(GROUP)
        seeds = rng.randint(np.iinfo(np.int32).max, size=len(groups)).tolist()
        parts = Parallel(n_jobs=jobs_for(len(groups), n_jobs))(
            delayed(_train)(recipe, group, seed)
            for group, seed in zip(groups, seeds, strict=True)
        )
        theta = torch.cat(parts)
    if n_iter == 0:
        return theta
    chunks = theta.split(CHUNK)
    ends = Parallel(n_jobs=jobs_for(len(chunks), n_jobs))(
        delayed(_polish)(recipe, chunk, n_iter, gtol) for chunk in chunks
    )
    return torch.cat(ends)


def _train(recipe: Recipe, theta: Tensor, seed: int) -> Tensor:
    """A group trained by Adam, in float32: what follows does not need more digits."""
    training = train(
        recipe.objective(torch.float32),
        theta.float(),
        Adam(),
        recipe.schedule,
        batch_size=recipe.batch_size,
        generator=torch.Generator().manual_seed(seed),
    )
    return training.theta.double()


def _polish(recipe: Recipe, theta: Tensor, n_iter: int, gtol: float) -> Tensor:
    """Members on their way to critical points, each on its own."""
    objective = recipe.objective(torch.float64)
    small = recipe.program.n_params <= NEWTON_PARAMS
    newton = small and recipe.activation not in KINKED
    found = [
        polish(objective, member, gtol=gtol, max_iter=n_iter, newton=newton)
        for member in theta
    ]
    return torch.stack([polished.theta for polished in found])


def _polish_iterations(recipe: Recipe, n_starts: int, wanted: int | str) -> int:
    """Iterations of L-BFGS per start."""
    if not isinstance(wanted, str):
        return int(wanted)
    work = n_starts * len(recipe.columns) * recipe.program.n_params
    affordable = int(min(LONGEST, POLISH_WORK / work))
    return max(recipe.n_iter, affordable if affordable >= SHORTEST else 0)
