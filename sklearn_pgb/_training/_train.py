"""`train`: minibatch training of a population of networks."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._budget import ANNEALED, EXPLOSION, RATE, RATE_FEATURES, SMALLEST_RATE
from sklearn_pgb._threads import threads_for
from sklearn_pgb._training._descent import Descent, Method
from sklearn_pgb._training._objective import Objective, batch_slices
from sklearn_pgb._training._program import Program


def automatic_rate(n_features: int) -> float:
    """Return the initial learning rate of Adam for a number of features."""
    return RATE * min(1.0, (RATE_FEATURES / n_features) ** 0.5)


@dataclass(frozen=True)
class Schedule:
    """Learning rates and stopping criteria of a training.

    Attributes
    ----------
    rate : float
        Initial learning rate.
    kind : {"anneal", "constant", "invscaling", "adaptive"}
        "anneal" keeps the rate until the score stagnates or half of `max_epochs` have
        passed, then decreases it to zero along a cosine. This takes as many epochs as
        were spent before the stagnation began, at least `patience`. "constant" and
        "invscaling" end when the score stagnates; the latter divides the rate by
        (updates so far)^power. "adaptive" divides it by five at each stagnation and
        ends at SMALLEST_RATE.
    max_epochs : int
    tol : float
        Smallest increase of the best score that counts as an improvement.
    patience : int
        The score stagnates if more than this many consecutive epochs do not improve it.
    power : float
        Exponent of "invscaling".
    """

    rate: float = 1e-2
    kind: str = "anneal"
    max_epochs: int = 100
    tol: float = 1e-4
    patience: int = 10
    power: float = 0.5


@dataclass(frozen=True, eq=False)
class Training:
    """Result of a training, for each member of the population.

    `losses` has the objective, accumulated during each epoch, and `scores` the held-out
    scores, without columns if there is no validation. A member has stagnated if its
    score stopped improving. It diverged if its loss exploded or is not finite, or ended
    above both its initial value and the ceiling. `theta` has the parameters of the best
    score if there is validation, else the last ones, or those with the smallest loss if
    the member diverged.
    """

    theta: Tensor
    losses: Tensor
    scores: Tensor
    n_epochs: int
    stagnated: Tensor
    diverged: Tensor


def train(
    objective: Objective,
    theta: Tensor,
    method: Method,
    schedule: Schedule,
    *,
    batch_size: int = 200,
    generator: torch.Generator | None = None,
    validate: Callable[[Tensor], Tensor] | None = None,
    on_epoch: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], bool] | None = None,
    ceiling: float = math.inf,
) -> Training:
    """Train a population on minibatches.

    Parameters
    ----------
    theta : Tensor (n_members, n_params)
        Initial parameters.
    generator : torch.Generator or None
        Shuffles the samples. If None, their order is kept.
    validate : callable or None
        Returns the held-out score of each member; larger scores are better. If given,
        it determines stagnation, and the result has the parameters of the best score.
    on_epoch : callable or None
        Called after each epoch; the training ends if it returns True. The arguments are
        the parameters, the objectives accumulated during the epoch, the held-out scores
        or negative losses, a mask of the members that stagnate since this epoch, and
        the learning rates of the next one, before annealing or scaling.
    ceiling : float
        Members that end with a larger objective, and are worse than at the start, have
        diverged: by their held-out score or, without, by the objective.
    """
    descent = Descent(objective, theta, method, batch_size, generator)
    n_batches = len(batch_slices(objective.n_samples, batch_size))
    progress = _Progress(schedule, len(theta), n_batches)
    best = _Best(objective.program, descent.theta)
    initial = _Best(objective.program, descent.theta)
    before = torch.empty_like(descent.theta)
    losses, scores = [], []
    with threads_for(theta.numel() * min(batch_size, objective.n_samples)):
        while not progress.finished.all():
            before.copy_(descent.theta)
            loss = descent.epoch(progress.rates())
            if progress.finished.any():
                # Momentum keeps moving parameters even at a learning rate of zero.
                descent.theta[progress.finished] = before[progress.finished]
            losses.append(loss)
            # A loss near zero in the first epoch must not make every later one an
            # explosion.
            allowed = EXPLOSION * losses[0].abs().clamp(min=1 / EXPLOSION)
            diverged = ~(loss.abs() <= allowed) | ~descent.theta.sum(1).isfinite()
            score = -loss
            if validate is not None:
                score = validate(descent.theta)
                scores.append(score)
            # Losses are accumulated during the epoch, so they correspond more closely
            # to the parameters at its start.
            scored = before if validate is None else descent.theta
            best.update(scored, torch.where(loss.isfinite(), score, -torch.inf))
            best.restore(descent.theta, diverged)
            stagnates = progress.update(score, diverged)
            epoch = descent.theta, loss, score, stagnates, progress.rate
            if on_epoch is not None and on_epoch(*epoch):
                break
    if validate is None and ceiling < math.inf:
        risen = _undo_rise(objective, descent.theta, ceiling, initial, best)
        progress.diverged |= risen.cpu()
    if validate is not None:
        everyone = torch.ones_like(progress.finished)
        best.restore(descent.theta, everyone)
        risen = torch.zeros_like(progress.diverged)
        if ceiling < math.inf:
            risen = ~(objective.value(descent.theta) <= ceiling).cpu()
        if (progress.diverged | risen).any():
            # The initial parameters may be better than those of any epoch.
            score = best.score
            initial.restore(descent.theta, everyone)
            best.update(descent.theta, validate(descent.theta))
            best.restore(descent.theta, everyone)
            progress.diverged |= risen & (best.score > score)
    return Training(
        theta=descent.theta,
        losses=torch.stack(losses),
        scores=torch.stack(scores) if scores else torch.empty(len(losses), 0),
        n_epochs=len(losses),
        stagnated=progress.stagnated,
        diverged=progress.diverged,
    )


class _Best:
    """Parameters and buffers of each member at its best score."""

    def __init__(self, program: Program, theta: Tensor):
        self.program, self.theta = program, theta.clone()
        self.statistics = [program.statistics(i) for i in range(len(theta))]
        self.score = torch.full((len(theta),), -torch.inf, dtype=torch.float64)

    def update(self, theta: Tensor, score: Tensor) -> None:
        better = score.cpu() > self.score
        if better.any():
            self.score = torch.where(better, score.cpu().double(), self.score)
            if better.all():
                self.theta.copy_(theta)
            else:
                self.theta[better] = theta[better]
            for member in better.nonzero()[:, 0].tolist():
                self.statistics[member] = self.program.statistics(member)

    def restore(self, theta: Tensor, members: Tensor) -> None:
        for member in members.nonzero()[:, 0].tolist():
            theta[member] = self.theta[member]
            self.program.set_statistics(member, self.statistics[member])


def _undo_rise(
    objective: Objective, theta: Tensor, ceiling: float, initial: _Best, best: _Best
) -> Tensor:
    """Restore the better of the initial and best parameters of diverged members.

    Returns a mask of these members.
    """
    last = _Best(objective.program, theta)
    value = objective.value(theta)
    risen = ~(value <= ceiling)
    if not risen.any():
        return risen
    initial.restore(theta, risen)
    start = objective.value(theta)
    risen &= ~(value <= start)
    last.restore(theta, ~risen)
    best.restore(theta, risen)
    initial.restore(theta, risen & ~(objective.value(theta) <= start))
    return risen


class _Progress:
    """Learning rates of the members, and their stagnation and divergence."""

    def __init__(self, schedule: Schedule, n_members: int, updates_per_epoch: int):
        self.schedule, self.updates_per_epoch = schedule, updates_per_epoch
        self.epoch = 0
        self.best = torch.full((n_members,), -torch.inf, dtype=torch.float64)
        self.epochs_without_gain = torch.zeros(n_members, dtype=torch.long)
        self.rate = torch.full((n_members,), schedule.rate, dtype=torch.float64)
        # Epochs in which the annealing begins and the training ends.
        start = math.ceil((1 - ANNEALED) * schedule.max_epochs)
        self.start = torch.full((n_members,), start)
        self.end = torch.full((n_members,), schedule.max_epochs)
        self.stagnated = torch.zeros(n_members, dtype=torch.bool)
        self.diverged = torch.zeros(n_members, dtype=torch.bool)

    @property
    def finished(self) -> Tensor:
        return (self.epoch >= self.end) | self.diverged

    def rates(self) -> float | Tensor:
        """Return the learning rates of the next epoch, zero for finished members."""
        rate, schedule = self.rate, self.schedule
        if schedule.kind == "anneal":
            length = (self.end - self.start).double().clamp(min=1)
            # The middle of the epoch, so that no epoch has a rate of zero.
            annealed = (self.epoch + 0.5 - self.start.double()) / length
            rate = rate * (1 + (math.pi * annealed.clamp(0, 1)).cos()) / 2
        elif schedule.kind == "invscaling":
            n_updates = self.epoch * self.updates_per_epoch
            rate = rate / (1 + n_updates) ** schedule.power
        rate = torch.where(self.finished, 0.0, rate)
        return float(rate[0]) if len(rate) == 1 else rate[:, None]

    def update(self, score: Tensor, diverged: Tensor) -> Tensor:
        """Record the scores of an epoch; return a mask of members that now stagnate."""
        score, schedule = score.cpu().double(), self.schedule
        self.epoch += 1
        self.diverged |= diverged.cpu() & (self.epoch <= self.end)
        improves = score > self.best + schedule.tol
        self.epochs_without_gain = torch.where(
            improves, 0, self.epochs_without_gain + 1
        )
        self.best = torch.maximum(self.best, score.nan_to_num(nan=-torch.inf))
        stagnates = (self.epochs_without_gain > schedule.patience) & ~self.finished
        if schedule.kind == "anneal":
            stagnates = stagnates & (self.epoch < self.start)
            # Anneal for about as many epochs as the training took until it stagnated.
            length = max(schedule.patience, self.epoch - schedule.patience)
            self.start = torch.where(stagnates, self.epoch, self.start)
            end = self.end.clamp(max=self.epoch + length)
            self.end = torch.where(stagnates, end, self.end)
            self.stagnated |= stagnates
            return stagnates
        ends = stagnates
        if schedule.kind == "adaptive":
            # Divided by five, as scikit-learn's "adaptive" does.
            self.rate = torch.where(stagnates, self.rate / 5, self.rate)
            self.epochs_without_gain = torch.where(
                stagnates, 0, self.epochs_without_gain
            )
            ends = stagnates & (self.rate <= SMALLEST_RATE)
        self.end = torch.where(ends, self.epoch, self.end)
        self.stagnated |= ends
        return stagnates
