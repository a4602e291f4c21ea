"""Parameters of the training of a network, with automatic ones resolved."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from sklearn_pgb._training._descent import Method
from sklearn_pgb._training._train import Schedule

# Called after each epoch or iteration with the parameters (n_params,) and the
# objective. Minibatch training adds the held-out score, whether stagnation was detected
# in this epoch, and the learning rate of the next one. The training ends if it returns
# True.
Hook = Callable[..., bool]


@dataclass(frozen=True)
class TrainingRequest:
    """Parameters of the training, with automatic ones resolved.

    The training minimizes the objective divided by `loss_unit`, so that steps and
    tolerances do not depend on the scale of count targets. The `method` is that of
    minibatches.
    """

    solver: str
    schedule: Schedule
    batch_size: int
    shuffle: bool
    alpha: float
    neuron_penalty: float
    n_starts: int
    global_move: str
    method: Method
    max_evaluations: int
    dtype: torch.dtype
    device: torch.device
    loss_unit: float
