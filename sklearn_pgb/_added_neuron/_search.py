"""Hybrid search: local descent, and global moves when it stagnates."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sklearn_pgb._added_neuron._request import TrainingRequest
from sklearn_pgb._budget import (
    ACTIVE,
    ANNEALED_PROGRESS,
    HEAD_ALPHA,
    POLISH_FRACTION,
    PROGRESS,
    RESTART_EVERY,
    RETURN_FRACTION,
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
from sklearn_pgb._training._descent import Descent
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._polish import polish
from sklearn_pgb._training._program import ChainProgram


def search(
    objective: Objective,
    theta: Tensor,
    request: TrainingRequest,
    *,
    restart: Callable[[int], Tensor],
    floor: float,
    generator: torch.Generator,
    on_epoch: Callable[[Tensor, Tensor], bool],
) -> tuple[Tensor, Tensor, int, Tensor]:
    """Train networks and added neurons in turns, with global moves.

    A member trains its network in segments of a few epochs, with the added neuron
    ``a exp(w x + b)`` switched off: for a = 0 the auxiliary objective equals the loss.
    If several segments stagnate, the member makes a global move. Every third move is a
    restart. In the others, the network is fixed for one segment and the neuron is
    trained on the residuals. Its direction then replaces the weakest hidden unit, and
    the output layer is refitted. Later the member returns to its best network, and the
    learning rate is annealed to zero. If one batch holds all samples in float64, the
    network is then polished. The search returns the network with the smallest loss. The
    auxiliary objective does not enter this choice, as it may be small at bad networks
    (Theorem 4 of the paper).

    Parameters
    ----------
    theta : Tensor (n_members, n_params)
    request : TrainingRequest
        The search takes at most ``n_starts * schedule.max_epochs`` passes over the
        samples, including those of the neurons and the polish. A network without hidden
        units can only restart.
    restart : callable
        Draws new parameters for one member, given its number.
    floor : float
        A member is done if its loss exceeds the pure-error floor by at most the
        tolerance of the schedule.
    on_epoch : callable
        Takes the networks' parameters and losses; returning True ends the search.

    Returns
    -------
    theta : Tensor (n_members, n_params)
    losses : Tensor (n_epochs, n_members)
        The objective of each epoch, the auxiliary one while a neuron is trained.
    n_epochs : int
    n_moves : Tensor (n_members,)

    References
    ----------
    Kawaguchi and Kaelbling, "Elimination of All Bad Local Minima in Deep Learning",
    AISTATS 2020. It has the theory, the failure mode and the idea of the hybrid.
    """
    auxiliary = auxiliary_objective(objective, request.neuron_penalty)
    population = _Population(
        objective, auxiliary, theta, request, restart, floor, generator
    )
    descent = Descent(
        auxiliary,
        population.start(),
        request.method,
        request.batch_size,
        generator,
    )
    rate, tol = request.schedule.rate, request.schedule.tol
    max_epochs = request.n_starts * request.schedule.max_epochs
    segment = max(1, SEGMENT // math.ceil(objective.n_samples / descent.batch_size))
    losses: list[Tensor] = []

    def run(n_epochs: int) -> bool:
        """Train for some epochs, or until all members are at the floor.

        Return whether the search goes on.
        """
        trained = population.trained_mask()
        for _ in range(n_epochs):
            # The rate is constant until `start`, then a cosine that is zero at `end`.
            elapsed = (len(losses) + 0.5) / max_epochs
            start, end = RETURN_FRACTION, 1 - POLISH_FRACTION
            annealed = min(max(0.0, (elapsed - start) / (end - start)), 1.0)
            factor = (1 + math.cos(math.pi * annealed)) / 2
            losses.append(descent.epoch(rate * factor * trained))
            if on_epoch(population.program.split(descent.theta)[0], losses[-1]):
                return False
            if bool((losses[-1] - floor <= tol).all()):
                break
        return True

    n_descent = max_epochs
    # Only objectives in float64 on the CPU can be polished.
    weight = objective.weight
    can_polish = weight.dtype == torch.float64 and weight.device.type == "cpu"
    if objective.n_samples == descent.batch_size and can_polish:
        n_descent -= int(POLISH_FRACTION * max_epochs)
    annealing = False
    running = True
    while running and len(losses) < n_descent and not bool(population.done.all()):
        running = run(min(segment, n_descent - len(losses)))
        population.update_best(descent)
        if not annealing and len(losses) >= RETURN_FRACTION * max_epochs:
            population.return_to_best(descent)
            annealing = True
        else:
            population.move(descent, ANNEALED_PROGRESS if annealing else PROGRESS)
    evaluations = population.polish(max_epochs - n_descent) if running else 0
    curve = torch.stack(losses) if losses else torch.empty(0, len(theta))
    n_epochs = len(losses) + evaluations
    return population.best_theta, curve, n_epochs, population.n_moves


class _Population:
    """State of the members of a search."""

    def __init__(
        self,
        objective: Objective,
        auxiliary: Objective,
        theta: Tensor,
        request: TrainingRequest,
        restart: Callable[[int], Tensor],
        floor: float,
        generator: torch.Generator,
    ):
        assert isinstance(auxiliary.program, AuxiliaryProgram)
        self.objective, self.program = objective, auxiliary.program
        # A transplant needs a hidden unit to replace.
        program = objective.program
        has_hidden = isinstance(program, ChainProgram) and len(program.shapes) > 1
        self.transplants = has_hidden and request.global_move == "transplant"
        self.restart, self.generator = restart, generator
        self.floor, self.tol = floor, request.schedule.tol
        self.best_theta, self.best = theta.clone(), objective.value(theta)
        self.value = self.best.clone()
        # Smallest value since the last move, and number of segments since it decreased.
        self.lowest = torch.full_like(self.best, torch.inf)
        self.stagnating_segments = torch.zeros(
            len(theta), dtype=torch.long, device=theta.device
        )
        self.n_moves = torch.zeros_like(self.stagnating_segments)
        # Members that train their neuron while their network is fixed.
        self.fitting = torch.zeros_like(self.stagnating_segments, dtype=torch.bool)

    @property
    def done(self) -> Tensor:
        """Members at the floor."""
        return self.best - self.floor <= self.tol

    def start(self) -> Tensor:
        """Return all parameters, with the neurons switched off."""
        neurons = draw_neurons(self.objective, len(self.best), self.generator)
        return self.program.join(self.best_theta, neurons)

    def trained_mask(self) -> Tensor:
        """Return one for each trained and zero for each fixed parameter."""
        n_network = self.program.program.n_params
        network = (~self.fitting & ~self.done)[:, None].expand(-1, n_network)
        neurons = self.fitting[:, None].expand(-1, self.program.n_neuron_params)
        return torch.cat([network, neurons], 1).to(self.best_theta)

    def update_best(self, descent: Descent) -> None:
        """Update the best networks, and return to them if the loss diverged."""
        network = self.program.split(descent.theta)[0]
        self.value = self.objective.value(network)
        better = self.value < self.best
        self.best_theta[better] = network[better]
        self.best = torch.where(better, self.value, self.best)
        # An overflow would stay in the optimizer's moments, which a move resets.
        for member in (~self.value.isfinite()).nonzero()[:, 0].tolist():
            self._set_network(descent, member, self.best_theta[member])

    def move(self, descent: Descent, progress: float) -> None:
        """Transplant trained neurons, and restart members or train their neurons.

        A member is stuck if each of its last segments decreased the excess over the
        floor by less than the fraction `progress`.
        """
        theta, neurons = self.program.split(descent.theta)
        # After a move there is no earlier value to compare with.
        goal = self.lowest - progress * (self.lowest - self.floor)
        improves = self.lowest.isinf() | (self.value < goal) | self.fitting
        self.stagnating_segments = torch.where(
            improves, 0, self.stagnating_segments + 1
        )
        stuck = (self.stagnating_segments >= STAGNATING_SEGMENTS) & ~self.done
        for member in self.fitting.nonzero()[:, 0].tolist():
            own = slice(member, member + 1)
            of_member = Neurons(neurons.a[own], neurons.b[own], neurons.W[own])
            moved = transplant(self.objective, theta[member], of_member)
            self._set_network(descent, member, moved)
        restarts = stuck
        if self.transplants:
            restarts = stuck & ((self.n_moves + 1) % RESTART_EVERY == 0)
        for member in restarts.nonzero()[:, 0].tolist():
            self._set_network(descent, member, self.restart(member))
        has_moved = self.fitting | restarts
        self.n_moves += has_moved
        lowest = torch.minimum(self.lowest, self.value)
        self.lowest = torch.where(has_moved | stuck, torch.inf, lowest)
        self.fitting = stuck & ~restarts

    def return_to_best(self, descent: Descent) -> None:
        """Continue from the best network of each member."""
        self.fitting[:] = False
        self.lowest[:] = torch.inf
        for member in range(len(self.best)):
            self._set_network(descent, member, self.best_theta[member])

    def polish(self, max_evaluations: int) -> int:
        """Polish networks that are not done; return the most evaluations of any."""
        most_evaluations = 0
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
            most_evaluations = max(most_evaluations, polished.n_evaluations)
        return most_evaluations

    def _set_network(self, descent: Descent, member: int, theta: Tensor) -> None:
        neurons = draw_neurons(self.objective, 1, self.generator)
        descent.move(member, self.program.join(theta[None], neurons)[0])


def transplant(objective: Objective, theta: Tensor, neurons: Neurons) -> Tensor:
    """Replace the weakest hidden unit by the direction of an added neuron.

    The unit of the first hidden layer with the smallest contribution gets the direction
    of the neuron with the largest one. For a few thresholds of this unit, the output
    layer is refitted, which is a convex problem. The best network is returned. Theta
    is that of one member, and the neurons are its own.
    """
    program, X = objective.program, objective.X.flatten(1)
    assert isinstance(program, ChainProgram)
    contribution = neurons(X)[0]
    k = int(contribution.square().mean(0).nan_to_num(0.0).argmax())
    direction = neurons.W[0, k]
    z = X @ direction
    spread = z.std(correction=0)
    theta = theta.clone()
    weights, biases = program.split(theta[None])
    hidden = program.activations[0](X @ weights[0][0].T + biases[0][0, 0])
    unit = int((weights[1][0].norm(dim=0) * hidden.std(0, correction=0)).argmin())
    if not float(spread) > 0:
        return theta
    # The unit's input then has standard deviation one, so that the activation is not
    # almost linear on the samples.
    weights[0][0, unit] = direction / spread
    candidates = []
    # The neuron's own threshold is not a candidate: it only scales an exponential.
    for active in ACTIVE:
        biases[0][0, 0, unit] = -torch.quantile(z, 1 - active) / spread
        refitted = refit_head(objective, theta)
        candidates.append((float(objective.value(refitted[None])), refitted))
    return min(candidates, key=lambda pair: pair[0])[1]


def refit_head(objective: Objective, theta: Tensor) -> Tensor:
    """Return parameters with the same hidden layers and the optimal output layer."""
    program = objective.program
    assert isinstance(program, ChainProgram)
    theta = theta.clone()
    weights, biases = program.split(theta[None])
    h = objective.X.flatten(1)
    hidden = zip(weights, biases, program.activations, strict=False)
    for W, b, activation in hidden:
        h = activation(h @ W[0].T + b[0, 0])
    # A convex problem halves its penalty, this objective does not.
    alpha = 2 * float(program.split(objective.penalty[None])[0][-1].max())
    solution = solve(
        ConvexProblem(
            KroneckerOperator(h.double(), objective.y.shape[1]),
            objective.y.double(),
            objective.loss,
            objective.weight.double(),
            alpha=max(alpha, HEAD_ALPHA),
        )
    )
    weights[-1][0] = solution.coef.reshape(h.shape[1], -1).T
    biases[-1][0, 0] = solution.intercept
    return theta
