"""The hybrid search: local descent, and global moves where it stagnates."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._solve import solve
from sklearn_pgb._operators import KroneckerOperator
from sklearn_pgb._training._auxiliary import (
    AuxiliaryProgram,
    Neurons,
    auxiliary_objective,
    draw_neurons,
)
from sklearn_pgb._training._descent import Descent, Method
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._polish import polish
from sklearn_pgb._training._program import ChainProgram

# Updates between two looks at the progress.
SEGMENT = 100

# A segment that lowers the excess over the floor by less than this share is idle; while
# the rate falls, which is slow in any case, by less than that one. A rate that is not
# small lets the loss go up and down: a member is stuck after so many idle segments.
PROGRESS, FLAT = 1e-4, 1e-6
IDLE = 2

# The search returns to the best network after this share of the epochs, and the rate
# falls until the last share. That is for the polish, which sees all samples at once: an
# evaluation of the objective counts as an epoch.
RETURN, POLISH = 0.4, 0.2

# Every so manieth move of a member is a restart.
RESTART_EVERY = 3

# Shares of the samples on which a transplanted unit is active; the best one is kept.
ACTIVE = (0.2, 0.5, 0.8)

# Ridge of the refitted output layer where the objective has none: it only has to keep
# coefficients of units that coincide from growing.
HEAD_RIDGE = 1e-8


@dataclass(frozen=True)
class Moves:
    """How a stagnating member goes on.

    Attributes
    ----------
    kind : {"transplant", "restart"}
        "transplant" puts the direction of the added neuron in place of the weakest
        hidden unit and refits the output layer; every third move is a restart.
    restart : callable
        Draws new parameters for one member.
    """

    kind: str
    restart: Callable[[int], Tensor]


@dataclass(frozen=True, eq=False)
class Found:
    """The best points of a search.

    Attributes
    ----------
    theta : Tensor (n_members, n_params)
    value : Tensor (n_members,)
        The objective there.
    losses : Tensor (n_epochs, n_members)
        The objective along the way; a member that trains its neuron has that loss.
    n_epochs : int
    n_moves : Tensor (n_members,)
    """

    theta: Tensor
    value: Tensor
    losses: Tensor
    n_epochs: int
    n_moves: Tensor


def search(
    objective: Objective,
    theta: Tensor,
    method: Method,
    moves: Moves,
    *,
    rate: float,
    max_epochs: int,
    neuron_penalty: float,
    floor: float,
    tol: float,
    batch_size: int,
    generator: torch.Generator,
    on_epoch: Callable[[Tensor, Tensor], bool] | None = None,
) -> Found:
    """Descend the auxiliary objective block by block, and move where that stagnates.

    A member trains its network while the added neuron is switched off (a = 0, where
    the auxiliary objective equals the loss). Where a segment brings little, the network
    is kept still for a segment and the neuron descends on the residuals. Its direction
    then replaces the weakest hidden unit, or the member starts anew. Later it returns
    to its best network and the rate falls to zero; where one batch holds all samples,
    in float64, the network is then polished. What is returned is the network of the
    smallest loss: the value of the auxiliary objective plays no part in the choice, for
    it may be small at bad networks (Theorem 4 of the paper).

    Parameters
    ----------
    objective : Objective
    theta : Tensor (n_members, n_params)
    method : Method
    moves : Moves
    rate : float
        Learning rate.
    max_epochs : int
        Passes over the samples, those of the neurons and of the polish included.
    neuron_penalty : float
    floor : float
        Pure-error floor of the data.
    tol : float
        A member whose loss is this close to the floor is done.
    batch_size : int
    generator : torch.Generator
    on_epoch : callable or None
        Gets the network's parameters and the losses; the search ends where it returns
        True.

    Returns
    -------
    Found

    References
    ----------
    Kawaguchi and Kaelbling, "Elimination of All Bad Local Minima in Deep Learning",
    AISTATS 2020: the theory, the failure mode, and the idea of a hybrid.
    """
    auxiliary = auxiliary_objective(objective, neuron_penalty)
    population = _Population(objective, auxiliary, theta, moves, floor, tol, generator)
    descent = Descent(auxiliary, population.start(), method, batch_size, generator)
    segment = max(1, SEGMENT // math.ceil(objective.n_samples / descent.batch_size))
    losses: list[Tensor] = []

    def run(n_epochs: int) -> bool:
        """Some epochs, fewer if all are at the floor; whether the search goes on."""
        moving = population.moving()
        for _ in range(n_epochs):
            share = (len(losses) + 0.5) / max_epochs
            losses.append(descent.epoch(rate * _falling(share) * moving))
            if on_epoch is not None:
                network = population.program.split(descent.theta)[0]
                if on_epoch(network, losses[-1]):
                    return False
            if bool((losses[-1] - floor <= tol).all()):
                break
        return True

    n_epochs = max_epochs
    if objective.n_samples == descent.batch_size and _is_exact(objective):
        n_epochs -= int(POLISH * max_epochs)
    gathered = False
    goes_on = True
    while goes_on and len(losses) < n_epochs and not bool(population.done.all()):
        goes_on = run(min(segment, n_epochs - len(losses)))
        population.look(descent)
        if not gathered and len(losses) >= RETURN * max_epochs:
            population.gather(descent)
            gathered = True
        else:
            population.move(descent, FLAT if gathered else PROGRESS)
    evaluations = population.polish(max_epochs - n_epochs) if goes_on else 0
    return Found(
        population.best_theta,
        population.best,
        torch.stack(losses) if losses else torch.empty(0, len(theta)),
        len(losses) + evaluations,
        population.n_moves,
    )


def _is_exact(objective: Objective) -> bool:
    """Whether an objective can be polished as it is."""
    weight = objective.weight
    return weight.dtype == torch.float64 and weight.device.type == "cpu"


def _falling(share: float) -> float:
    """Share of the rate after a share of the epochs: one, then down along a cosine."""
    fallen = (share - RETURN) / (1 - POLISH - RETURN)
    return (1 + math.cos(math.pi * min(max(0.0, fallen), 1.0))) / 2


class _Population:
    """What the search knows of its members."""

    def __init__(
        self,
        objective: Objective,
        auxiliary: Objective,
        theta: Tensor,
        moves: Moves,
        floor: float,
        tol: float,
        generator: torch.Generator,
    ):
        assert isinstance(auxiliary.program, AuxiliaryProgram)
        self.objective, self.program = objective, auxiliary.program
        self.moves, self.generator = moves, generator
        self.floor, self.tol = floor, tol
        self.best_theta, self.best = theta.clone(), objective.value(theta)
        # Smallest value since the last move, and segments since it fell.
        self.lowest = torch.full_like(self.best, torch.inf)
        self.idle = torch.zeros(len(theta), dtype=torch.long, device=theta.device)
        self.n_moves = torch.zeros_like(self.idle)
        # Members whose neuron descends while their network is kept still.
        self.fitting = torch.zeros_like(self.idle, dtype=torch.bool)

    @property
    def done(self) -> Tensor:
        """Members at the floor."""
        return self.best - self.floor <= self.tol

    def start(self) -> Tensor:
        """All parameters, the neurons switched off."""
        neurons = draw_neurons(self.objective, len(self.best), self.generator)
        return self.program.join(self.best_theta, neurons)

    def moving(self) -> Tensor:
        """Ones where a parameter is trained, zeros where it is kept still."""
        n_network = self.program.program.n_params
        network = (~self.fitting & ~self.done)[:, None].expand(-1, n_network)
        neurons = self.fitting[:, None].expand(-1, self.program.n_neuron_params)
        return torch.cat([network, neurons], 1).to(self.best_theta)

    def look(self, descent: Descent) -> None:
        """Keep the best networks."""
        network = self.program.split(descent.theta)[0]
        self.value = self.objective.value(network)
        better = self.value < self.best
        self.best_theta[better] = network[better]
        self.best = torch.where(better, self.value, self.best)
        for member in (~self.value.isfinite()).nonzero()[:, 0].tolist():
            self._place(descent, member, self.best_theta[member])

    def move(self, descent: Descent, progress: float) -> None:
        """Transplant what the neurons found; decide how stuck members go on.

        Stuck is a member whose last segments each brought less than this share of its
        excess over the floor.
        """
        theta, neurons = self.program.split(descent.theta)
        # A member that has just been moved has no past to compare with.
        goal = self.lowest - progress * (self.lowest - self.floor)
        goes_on = self.lowest.isinf() | (self.value < goal) | self.fitting
        self.idle = torch.where(goes_on, 0, self.idle + 1)
        stuck = (self.idle >= IDLE) & ~self.done
        for member in self.fitting.nonzero()[:, 0].tolist():
            of_member = Neurons(neurons.a[member], neurons.b[member], neurons.W[member])
            moved = transplant(self.objective, theta[member], of_member)
            self._place(descent, member, moved)
        restarts = stuck & ((self.n_moves + 1) % RESTART_EVERY == 0)
        if self.moves.kind == "restart":
            restarts = stuck
        for member in restarts.nonzero()[:, 0].tolist():
            self._place(descent, member, self.moves.restart(member))
        moved_now = self.fitting | restarts
        self.n_moves += moved_now
        lowest = torch.minimum(self.lowest, self.value)
        self.lowest = torch.where(moved_now | stuck, torch.inf, lowest)
        self.fitting = stuck & ~restarts

    def gather(self, descent: Descent) -> None:
        """Put every member where its best network is."""
        self.fitting[:] = False
        self.lowest[:] = torch.inf
        for member in range(len(self.best)):
            self._place(descent, member, self.best_theta[member])

    def polish(self, max_evaluations: int) -> int:
        """Polish best networks that are not done; the evaluations of the longest."""
        longest = 0
        for member in (~self.done).nonzero()[:, 0].tolist() if max_evaluations else []:
            polished = polish(
                self.objective,
                self.best_theta[member],
                max_iter=max_evaluations,
                max_evaluations=max_evaluations,
                newton=False,
            )
            self.best_theta[member] = polished.theta
            self.best[member] = polished.value
            longest = max(longest, polished.n_evaluations)
        return longest

    def _place(self, descent: Descent, member: int, theta: Tensor) -> None:
        neurons = draw_neurons(self.objective, 1, self.generator)
        descent.move(member, self.program.join(theta[None], neurons)[0])


def transplant(objective: Objective, theta: Tensor, neurons: Neurons) -> Tensor:
    """A network whose weakest unit looks where an added neuron looks.

    The neuron of the largest contribution gives its direction to the unit of the first
    hidden layer that contributes least. The output layer is then refitted, which is a
    convex problem, for a few thresholds of the unit; the best is kept.

    Parameters
    ----------
    objective : Objective
        Its program is a `ChainProgram` with a hidden layer.
    theta : Tensor (n_params,)
    neurons : Neurons
        Of one member: a and b of shape (n_outputs,).

    Returns
    -------
    Tensor (n_params,)
    """
    program, X = objective.program, objective.X.flatten(1)
    assert isinstance(program, ChainProgram)
    contribution = Neurons(neurons.a[None], neurons.b[None], neurons.W[None])(X)[0]
    k = int(contribution.square().mean(0).nan_to_num(0.0).argmax())
    z = X @ neurons.W[k]
    spread = z.std(correction=0)
    theta = theta.clone()
    weights, biases = program.split(theta[None])
    hidden = program.activations[0].function(X @ weights[0][0].T + _of(biases[0]))
    unit = int((weights[1][0].norm(dim=0) * hidden.std(0, correction=0)).argmin())
    if not float(spread) > 0:
        return theta
    weights[0][0, unit] = neurons.W[k] / spread
    candidates = []
    for share in ACTIVE if biases[0] is not None else ACTIVE[:1]:
        if biases[0] is not None:
            biases[0][0, 0, unit] = -torch.quantile(z, 1 - share) / spread
        refitted = refit_head(objective, theta)
        candidates.append((float(objective.value(refitted[None])), refitted))
    return min(candidates, key=lambda pair: pair[0])[1]


def _of(bias: Tensor | None) -> Tensor | float:
    return 0.0 if bias is None else bias[0, 0]


def refit_head(objective: Objective, theta: Tensor) -> Tensor:
    """The same hidden layers with the best output layer."""
    program = objective.program
    assert isinstance(program, ChainProgram)
    theta = theta.clone()
    weights, biases = program.split(theta[None])
    h = objective.X.flatten(1)
    hidden = zip(weights, biases, program.activations, strict=False)
    for W, b, activation in hidden:
        h = activation.function(h @ W[0].T + _of(b))
    ridge = 2 * float(program.split(objective.penalty[None])[0][-1].max())
    solution = solve(
        ConvexProblem(
            KroneckerOperator(h.double(), objective.y.shape[1]),
            objective.y.double(),
            objective.loss,
            objective.weight.double(),
            alpha=max(ridge, HEAD_RIDGE),
            intercept=biases[-1] is not None,
        )
    )
    weights[-1][0] = solution.coef.reshape(h.shape[1], -1).T
    bias = biases[-1]
    if bias is not None:
        bias[0, 0] = solution.intercept
    return theta
