"""Hybrid search: local descent, and global moves when it stagnates."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sklearn_pgb._budget import (
    ACTIVE,
    ANNEALED_PROGRESS,
    HEAD_ALPHA,
    POLISH,
    PROGRESS,
    RESTART_EVERY,
    RETURN,
    SEGMENT,
    STAGNATING_SEGMENTS,
)
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._solve import solve
from sklearn_pgb._operators._dense import KroneckerOperator
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


def search(
    objective: Objective,
    theta: Tensor,
    method: Method,
    *,
    move: str,
    restart: Callable[[], Tensor],
    rate: float,
    max_epochs: int,
    neuron_penalty: float,
    floor: float,
    tol: float,
    batch_size: int,
    generator: torch.Generator,
    on_epoch: Callable[[Tensor, float], bool],
) -> tuple[Tensor, list[float], int, int]:
    """Minimize the auxiliary objective by blocks, with moves when that stagnates.

    The network is trained with the added neuron switched off: at a = 0 the auxiliary
    objective equals the loss. If segments stagnate, the network is fixed for one
    segment and the neuron is trained on the residuals. Its direction then replaces the
    weakest hidden unit, or the search restarts. Later the search returns to its best
    network, and the learning rate is annealed to zero. If one batch holds all samples
    in float64, the network is then polished. The search returns the network with the
    smallest loss. The auxiliary objective does not enter this choice, as it may be
    small at bad networks (Theorem 4 of the paper).

    Parameters
    ----------
    objective : Objective
    theta : Tensor (n_params,)
    method : Method
    move : {"transplant", "restart"}
        Global move of a stagnating network. "transplant" replaces the weakest hidden
        unit by the direction of the added neuron and refits the output layer; every
        third move is a restart.
    restart : callable
        Draws new parameters.
    rate : float
        Learning rate.
    max_epochs : int
        Passes over the samples, including those of the neurons and the polish.
    neuron_penalty : float
    floor : float
        Pure-error floor of the data.
    tol : float
        The search is done if the loss exceeds the floor by at most this.
    batch_size : int
    generator : torch.Generator
    on_epoch : callable
        Takes the network's parameters and loss; returning True ends the search.

    Returns
    -------
    theta : Tensor (n_params,)
        The best network.
    losses : list of float
        The objective of each epoch, the auxiliary one while a neuron is trained.
    n_epochs, n_moves : int

    References
    ----------
    Kawaguchi and Kaelbling, "Elimination of All Bad Local Minima in Deep Learning",
    AISTATS 2020. It has the theory, the failure mode and the idea of the hybrid.
    """
    auxiliary = auxiliary_objective(objective, neuron_penalty)
    state = _State(objective, auxiliary, theta, move, restart, floor, tol, generator)
    descent = Descent(auxiliary, state.start(), method, batch_size, generator)
    segment = max(1, SEGMENT // math.ceil(objective.n_samples / descent.batch_size))
    losses: list[float] = []

    def run(n_epochs: int) -> bool:
        """Train until the loss is at the floor; return whether to continue."""
        trained = state.trained_mask()
        for _ in range(n_epochs):
            # The rate is constant up to RETURN, then a cosine to zero until the polish.
            elapsed = (len(losses) + 0.5) / max_epochs
            annealed = min(max(0.0, (elapsed - RETURN) / (1 - POLISH - RETURN)), 1.0)
            factor = (1 + math.cos(math.pi * annealed)) / 2
            losses.append(float(descent.epoch(rate * factor * trained)))
            if on_epoch(state.program.split(descent.theta)[0][0], losses[-1]):
                return False
            if losses[-1] - floor <= tol:
                break
        return True

    n_trained = max_epochs
    # Only objectives in float64 on the CPU can be polished.
    weight = objective.weight
    is_exact = weight.dtype == torch.float64 and weight.device.type == "cpu"
    if objective.n_samples == descent.batch_size and is_exact:
        n_trained -= int(POLISH * max_epochs)
    annealing = False
    running = True
    while running and len(losses) < n_trained and not state.done:
        running = run(min(segment, n_trained - len(losses)))
        state.update_best(descent)
        if not annealing and len(losses) >= RETURN * max_epochs:
            state.return_to_best(descent)
            annealing = True
        else:
            state.move(descent, ANNEALED_PROGRESS if annealing else PROGRESS)
    evaluations = state.polish(max_epochs - n_trained) if running else 0
    return state.best_theta, losses, len(losses) + evaluations, state.n_moves


class _State:
    """The best network of a search, and what decides about its moves.

    Values are tensors of the objective's dtype. A descent of one member has the current
    network and neurons.
    """

    def __init__(
        self,
        objective: Objective,
        auxiliary: Objective,
        theta: Tensor,
        kind: str,
        restart: Callable[[], Tensor],
        floor: float,
        tol: float,
        generator: torch.Generator,
    ):
        assert isinstance(auxiliary.program, AuxiliaryProgram)
        self.objective, self.program = objective, auxiliary.program
        self.kind, self.restart, self.generator = kind, restart, generator
        self.floor, self.tol = floor, tol
        self.best_theta, self.best = theta.clone(), objective.value(theta[None])[0]
        # Smallest value since the last move, and number of segments since it decreased.
        self.lowest = torch.full_like(self.best, torch.inf)
        self.stagnating = self.n_moves = 0
        # Whether the neuron is trained while the network is fixed.
        self.fitting = False

    @property
    def done(self) -> bool:
        """Whether the best network is at the floor."""
        return bool(self.best - self.floor <= self.tol)

    def start(self) -> Tensor:
        """Return all parameters (1, n_params), with the neurons switched off."""
        neurons = draw_neurons(self.objective, 1, self.generator)
        return self.program.join(self.best_theta[None], neurons)

    def trained_mask(self) -> Tensor:
        """Return one for each trained and zero for each fixed parameter."""
        n_network = self.program.program.n_params
        mask = torch.full((1, self.program.n_params), float(self.fitting))
        mask[:, :n_network] = float(not self.fitting and not self.done)
        return mask.to(self.best_theta)

    def update_best(self, descent: Descent) -> None:
        """Update the best network, and return to it if the loss diverged."""
        network = self.program.split(descent.theta)[0]
        self.value = self.objective.value(network)[0]
        if self.value < self.best:
            self.best_theta, self.best = network[0].clone(), self.value
        # An overflow would stay in the optimizer's moments, which a move resets.
        if not self.value.isfinite():
            self._set_network(descent, self.best_theta)

    def move(self, descent: Descent, progress: float) -> None:
        """Transplant a trained neuron; restart or train the neuron if stuck.

        A search is stuck if each of its last segments decreased the excess over the
        floor by less than the fraction `progress`.
        """
        network, neurons = self.program.split(descent.theta)
        goal = self.lowest - progress * (self.lowest - self.floor)
        # After a move there is no earlier value to compare with.
        improves = self.fitting or self.lowest.isinf() or self.value < goal
        self.stagnating = 0 if improves else self.stagnating + 1
        stuck = self.stagnating >= STAGNATING_SEGMENTS and not self.done
        if self.fitting:
            trained = Neurons(neurons.a[0], neurons.b[0], neurons.W[0])
            moved = transplant(self.objective, network[0], trained)
            self._set_network(descent, moved)
        is_turn = (self.n_moves + 1) % RESTART_EVERY == 0
        restarts = stuck and (self.kind == "restart" or is_turn)
        if restarts:
            self._set_network(descent, self.restart())
        has_moved = self.fitting or restarts
        self.n_moves += has_moved
        self.lowest = torch.minimum(self.lowest, self.value)
        if has_moved or stuck:
            self.lowest = torch.full_like(self.best, torch.inf)
        self.fitting = stuck and not restarts

    def return_to_best(self, descent: Descent) -> None:
        """Continue from the best network."""
        self.fitting = False
        self.lowest = torch.full_like(self.best, torch.inf)
        self._set_network(descent, self.best_theta)

    def polish(self, max_evaluations: int) -> int:
        """Polish the best network if it is not done; return the evaluations."""
        if self.done or not max_evaluations:
            return 0
        polished = polish(
            self.objective,
            self.best_theta,
            max_iter=max_evaluations,
            max_evaluations=max_evaluations,
            newton=False,
        )
        self.best_theta = polished.theta
        return polished.n_evaluations

    def _set_network(self, descent: Descent, theta: Tensor) -> None:
        neurons = draw_neurons(self.objective, 1, self.generator)
        descent.move(0, self.program.join(theta[None], neurons)[0])


def transplant(objective: Objective, theta: Tensor, neurons: Neurons) -> Tensor:
    """Replace the weakest hidden unit by the direction of an added neuron.

    The unit of the first hidden layer with the smallest contribution gets the direction
    of the neuron with the largest one. For a few thresholds of this unit, the output
    layer is refitted, which is a convex problem. The best network is returned.

    Parameters
    ----------
    objective : Objective
        Its program is a `ChainProgram` with a hidden layer.
    theta : Tensor (n_params,)
    neurons : Neurons
        Those of one member: a and b have shape (n_outputs,).

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
    hidden = program.activations[0](X @ weights[0][0].T + _of(biases[0]))
    unit = int((weights[1][0].norm(dim=0) * hidden.std(0, correction=0)).argmin())
    if not float(spread) > 0:
        return theta
    # The unit's input then has standard deviation one, so that the activation is not
    # almost linear on the samples.
    weights[0][0, unit] = neurons.W[k] / spread
    candidates = []
    # The threshold of an exponential unit is part of its amplitude, so it does not tell
    # where the new unit should bend.
    for active in ACTIVE if biases[0] is not None else ACTIVE[:1]:
        if biases[0] is not None:
            biases[0][0, 0, unit] = -torch.quantile(z, 1 - active) / spread
        refitted = refit_head(objective, theta)
        candidates.append((float(objective.value(refitted[None])), refitted))
    return min(candidates, key=lambda pair: pair[0])[1]


def _of(bias: Tensor | None) -> Tensor | float:
    return 0.0 if bias is None else bias[0, 0]


def refit_head(objective: Objective, theta: Tensor) -> Tensor:
    """Return parameters with the same hidden layers and the optimal output layer."""
    program = objective.program
    assert isinstance(program, ChainProgram)
    theta = theta.clone()
    weights, biases = program.split(theta[None])
    h = objective.X.flatten(1)
    hidden = zip(weights, biases, program.activations, strict=False)
    for W, b, activation in hidden:
        h = activation(h @ W[0].T + _of(b))
    # A convex problem halves its penalty, this objective does not.
    alpha = 2 * float(program.split(objective.penalty[None])[0][-1].max())
    solution = solve(
        ConvexProblem(
            KroneckerOperator(h.double(), objective.y.shape[1]),
            objective.y.double(),
            objective.loss,
            objective.weight.double(),
            alpha=max(alpha, HEAD_ALPHA),
            intercept=biases[-1] is not None,
        )
    )
    weights[-1][0] = solution.coef.reshape(h.shape[1], -1).T
    bias = biases[-1]
    if bias is not None:
        bias[0, 0] = solution.intercept
    return theta
