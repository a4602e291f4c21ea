"""`train`: one local training of a population of networks."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._threads import threads_for
from sklearn_pgb._training._descent import Descent, Method
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._program import Program

# Share of the epochs in which the rate falls to zero.
TAIL = 0.5

# Initial learning rate of networks with up to RATE_FEATURES inputs. A step of Adam
# moves every weight alike, and so a unit the further the more inputs it has.
RATE, RATE_FEATURES = 1e-2, 64

# An adaptive rate is not divided further.
SMALLEST_RATE = 1e-6

# A loss so many times that of the first epoch has diverged, though it may not yet
# overflow.
EXPLOSION = 1e8


def automatic_rate(n_features: int) -> float:
    """Initial learning rate of Adam for samples with so many features."""
    return RATE * min(1.0, (RATE_FEATURES / n_features) ** 0.5)


@dataclass(frozen=True)
class Schedule:
    """The learning rate, and when training ends.

    Attributes
    ----------
    rate : float
        Initial learning rate.
    kind : {"anneal", "constant", "invscaling", "adaptive"}
        "anneal" keeps the rate until the score stagnates or half of `max_epochs` have
        passed, and then lets it fall to zero along a cosine: as many epochs as were
        spent before the stagnation began, at least `patience`. "constant" ends
        where the score stagnates; "invscaling" divides the rate by
        (updates so far)^power; "adaptive" divides it by five at each stagnation and
        ends at SMALLEST_RATE.
    max_epochs : int
    tol : float
        An epoch that does not improve the best score by more than this is idle.
    patience : int
        More idle epochs in a row than this are stagnation.
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
class Epoch:
    """An epoch that has just ended.

    Attributes
    ----------
    theta : Tensor (n_members, n_params)
    loss : Tensor (n_members,)
        The objective, as the samples were met.
    score : Tensor (n_members,)
        Held-out score, or minus the loss.
    stagnates : Tensor (n_members,)
        Whether stagnation has just been found.
    rate : Tensor (n_members,)
        The learning rate, divided already where that is what stagnation does.
    """

    theta: Tensor
    loss: Tensor
    score: Tensor
    stagnates: Tensor
    rate: Tensor


@dataclass(frozen=True, eq=False)
class Training:
    """What a training reached.

    Attributes
    ----------
    theta : Tensor (n_members, n_params)
    losses : Tensor (n_epochs, n_members)
        Objective of each epoch, its samples' losses as they were met.
    scores : Tensor (n_epochs, n_members)
        Held-out scores; no columns without validation.
    n_epochs : int
    stagnated, diverged : Tensor (n_members,)
        Whether the score stopped improving, and whether the loss exploded; `theta` are
        then the parameters of the smallest loss.
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
    on_epoch: Callable[[Epoch], bool] | None = None,
) -> Training:
    """Train a population by minibatches.

    Parameters
    ----------
    objective : Objective
    theta : Tensor (n_members, n_params)
        Starts.
    method : Method
    schedule : Schedule
    batch_size : int
    generator : torch.Generator or None
        Shuffles the samples; None keeps their order.
    validate : callable or None
        Held-out score of each member, the larger the better. Stagnation is then that
        of the score, and the parameters of the best score are returned.
    on_epoch : callable or None
        Gets each epoch as it ends; training ends where it returns True.

    Returns
    -------
    Training
    """
    descent = Descent(objective, theta, method, batch_size, generator)
    pace = _Pace(schedule, len(theta), math.ceil(objective.n_samples / batch_size))
    best = _Best(objective.program, descent.theta)
    before = torch.empty_like(descent.theta)
    losses, scores = [], []
    with threads_for(theta.numel() * min(batch_size, objective.n_samples)):
        while not pace.finished.all():
            before.copy_(descent.theta)
            loss = descent.epoch(pace.rates())
            if pace.finished.any():
                # A rate of zero does not stop what momentum is left.
                descent.theta[pace.finished] = before[pace.finished]
            losses.append(loss)
            allowed = EXPLOSION * losses[0].abs().clamp(min=1 / EXPLOSION)
            diverged = ~(loss.abs() <= allowed) | ~descent.theta.sum(1).isfinite()
            score = -loss
            if validate is not None:
                score = validate(descent.theta)
                scores.append(score)
            # The losses of an epoch are rather those of the parameters before it.
            judged = before if validate is None else descent.theta
            best.update(judged, torch.where(loss.isfinite(), score, -torch.inf))
            best.restore(descent.theta, diverged)
            idle = pace.update(score, diverged)
            epoch = Epoch(descent.theta, loss, score, idle, pace.rate)
            if on_epoch is not None and on_epoch(epoch):
                break
    if validate is not None:
        if pace.diverged.any():
            # No epoch may have been better than none.
            best.update(theta, validate(theta))
        best.restore(descent.theta, torch.ones_like(pace.finished))
    return Training(
        theta=descent.theta,
        losses=torch.stack(losses),
        scores=torch.stack(scores) if scores else torch.empty(len(losses), 0),
        n_epochs=len(losses),
        stagnated=pace.stagnated,
        diverged=pace.diverged,
    )


class _Best:
    """The parameters and statistics of each member's best score."""

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


class _Pace:
    """Learning rates of the members, and which of them have finished."""

    def __init__(self, schedule: Schedule, n_members: int, updates_per_epoch: int):
        self.schedule, self.updates = schedule, updates_per_epoch
        self.epoch = 0
        self.best = torch.full((n_members,), -torch.inf, dtype=torch.float64)
        self.idle = torch.zeros(n_members, dtype=torch.long)
        self.rate = torch.full((n_members,), schedule.rate, dtype=torch.float64)
        # Epochs at which the fall of the rate begins and ends.
        start = math.ceil((1 - TAIL) * schedule.max_epochs)
        self.fall = torch.full((n_members,), start)
        self.end = torch.full((n_members,), schedule.max_epochs)
        self.stagnated = torch.zeros(n_members, dtype=torch.bool)
        self.diverged = torch.zeros(n_members, dtype=torch.bool)

    @property
    def finished(self) -> Tensor:
        return (self.epoch >= self.end) | self.diverged

    def rates(self) -> float | Tensor:
        """Rates of the coming epoch, zero for members that have finished."""
        rate, schedule = self.rate, self.schedule
        if schedule.kind == "anneal":
            length = (self.end - self.fall).double().clamp(min=1)
            share = (self.epoch + 0.5 - self.fall.double()) / length
            rate = rate * (1 + (math.pi * share.clamp(0, 1)).cos()) / 2
        elif schedule.kind == "invscaling":
            rate = rate / (1 + self.epoch * self.updates) ** schedule.power
        rate = torch.where(self.finished, 0.0, rate)
        return float(rate[0]) if len(rate) == 1 else rate[:, None]

    def update(self, score: Tensor, diverged: Tensor) -> Tensor:
        """Note the scores of an epoch; members whose stagnation has just been found."""
        score, schedule = score.cpu().double(), self.schedule
        self.epoch += 1
        self.diverged |= diverged.cpu() & (self.epoch <= self.end)
        idle = ~(score > self.best + schedule.tol)
        self.idle = torch.where(idle, self.idle + 1, 0)
        self.best = torch.maximum(self.best, score.nan_to_num(nan=-torch.inf))
        now = found = (self.idle > schedule.patience) & ~self.finished
        if schedule.kind == "anneal":
            now = found = now & (self.epoch < self.fall)
            length = max(schedule.patience, self.epoch - schedule.patience)
            self.fall = torch.where(now, self.epoch, self.fall)
            self.end = torch.where(
                now, self.end.clamp(max=self.epoch + length), self.end
            )
        elif schedule.kind == "adaptive":
            self.rate = torch.where(now, self.rate / 5, self.rate)
            self.idle = torch.where(now, 0, self.idle)
            now = now & (self.rate <= SMALLEST_RATE)
            self.end = torch.where(now, self.epoch, self.end)
        else:
            self.end = torch.where(now, self.epoch, self.end)
        self.stagnated |= now
        return found
