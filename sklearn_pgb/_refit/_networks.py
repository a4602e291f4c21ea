"""Trained networks with the samples that they were trained on and held-out ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sklearn_pgb._bases._tangent import TangentSpace, mean_raw
from sklearn_pgb._budget import CLEAR_GAIN
from sklearn_pgb._convex._choice import is_number
from sklearn_pgb._convex._heldout import Fold, HeldOut
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._solve import choose_method
from sklearn_pgb._estimator._folds import Parts, enough_folds
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._models._mapped_rows import StreamedInputs
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._refit._stacking import sample_count
from sklearn_pgb._samples import Samples


@dataclass(frozen=True, eq=False)
class HeldOutNetworks:
    """Networks with their training samples and held-out samples.

    Selected samples, bases and outputs are recomputed on every call: keeping those of
    all folds would take far more memory than one problem.

    Attributes
    ----------
    loss : Loss
        The loss that the networks were trained with.
    space : TangentSpace
        Scaled on the training samples.
    samples, others : Samples
        `train` selects the training samples from `samples`, and `test` the held-out
        samples from `others`. Inputs are tuples with one tensor per network.
    train, test : Tensor
        Indices of the training samples and of the held-out samples.
    """

    loss: Loss
    space: TangentSpace
    samples: Samples
    others: Samples
    train: Tensor
    test: Tensor

    @classmethod
    def of(
        cls,
        opened: Sequence[OpenNetwork],
        samples: Samples,
        others: Samples,
        train: Tensor,
        test: Tensor,
    ) -> "HeldOutNetworks":
        """Scale the bases on the training samples."""
        networks = [network.network for network in opened]
        training = samples.rows(train)
        space = TangentSpace.of(networks, training.X, training.normalized_weight)
        return cls(opened[0].loss, space, samples, others, train, test)

    @property
    def training(self) -> Samples:
        """The training samples."""
        return self.samples.rows(self.train)

    @property
    def heldout(self) -> Samples:
        """The held-out samples."""
        return self.others.rows(self.test)

    @property
    def training_weight(self) -> float:
        """Total weight of the training samples."""
        return float(self.samples.weight[self.train].sum())

    @property
    def heldout_weight(self) -> float:
        """Total weight of the held-out samples."""
        return float(self.others.weight[self.test].sum())

    def raw(self, samples: Samples) -> Tensor:
        """Mean raw outputs of the networks."""
        return mean_raw(self.space.networks, samples.X)

    def fold(self, center: str) -> Fold:
        """Problem on the training samples, and its held-out samples."""
        training, heldout = self.training, self.heldout
        added = center == "average"
        problem = ConvexProblem(
            self.space.operator(training.X),
            training.y,
            self.loss,
            training.normalized_weight,
            intercept=self.space.intercept,
            offset=self.raw(training) if added else None,
        )
        held = HeldOut(
            self.test,
            self.space.operator(heldout.X),
            heldout.y,
            heldout.weight,
            self.raw(heldout) if added else None,
        )
        return Fold(problem, held, self.training_weight / self.samples.total)

    def heldout_loss(self) -> float:
        """Weighted sum of the networks' losses on the held-out samples."""
        heldout = self.heldout
        return float(heldout.weight @ self.loss.value(heldout.y, self.raw(heldout)))

    def raw_of(
        self, samples: Samples, center: str, solution: Sequence[Tensor]
    ) -> Tensor:
        """Raw outputs of a solution, or of the networks alone if it is empty."""
        raw = torch.zeros_like(samples.y)
        if solution:
            coef, intercept = solution
            operator = self.space.operator(samples.X)
            raw = operator.matvec(coef) + intercept
        return raw + self.raw(samples) if center == "average" else raw

    def is_clearly_better(self, center: str, solution: Sequence[Tensor]) -> bool:
        """Whether a solution's held-out loss is below the networks' beyond chance."""
        heldout = self.heldout
        y, weight = heldout.y, heldout.normalized_weight
        raw = self.raw_of(heldout, center, solution)
        gains = self.loss.value(y, self.raw(heldout)) - self.loss.value(y, raw)
        gain = float(weight @ gains)
        variance = float(weight @ (gains - gain).square())
        variance /= sample_count(heldout.weight)
        return gain > CLEAR_GAIN * variance**0.5


@dataclass(frozen=True, eq=False)
class TrainedNetworks:
    """Trained networks and the samples that each was trained on.

    Attributes
    ----------
    estimators : list
        In the order of the folds, if there are any.
    opened : list of OpenNetwork
        The networks of `estimators`.
    samples : Samples
        Inputs of each network, encoded targets and weights of all samples.
    folds : list of (train, held out) or None
        One per fold; every fold has the same number of networks.
    is_prefit : bool
        Whether the networks were trained elsewhere.
    validation : Samples or None
        Inputs of each network, encoded targets and weights of validation samples.
    parameters : "all" or list of str
        Names or patterns of the selected parameters.
    """

    estimators: list[Any]
    opened: list[OpenNetwork]
    samples: Samples
    folds: Parts | None
    is_prefit: bool
    validation: Samples | None = None
    parameters: Any = "all"

    @property
    def has_heldout(self) -> bool:
        """Whether there are samples that some network was not trained on."""
        return self.folds is not None or self.validation is not None

    @property
    def loss(self) -> Loss:
        """The loss that the networks were trained with."""
        return self.opened[0].loss

    def check_fits_memory(self, alpha: Any, solver: str, max_memory: float) -> None:
        """Raise before the first pass over a file if no solver fits into memory."""
        samples = self.samples
        if not isinstance(samples.X[0], StreamedInputs):
            return
        networks = [opened.network for opened in self.opened]
        space = TangentSpace.with_scales(networks, samples.X, [1.0] * len(networks))
        basis, weight = space.operator(samples.X), samples.normalized_weight
        problem = ConvexProblem(basis, samples.y, self.loss, weight)
        problem = problem.with_alpha(alpha if is_number(alpha) else 1.0)
        choose_method(problem, max_memory, solver)

    def heldout(self) -> list[HeldOutNetworks]:
        """Networks with their held-out samples, for as many folds as are scored.

        The squared loss has a closed form and uses all folds.
        """
        samples = self.samples
        if self.folds is None:
            assert self.validation is not None
            rows = (
                torch.arange(len(each.y), device=each.y.device)
                for each in (samples, self.validation)
            )
            return [HeldOutNetworks.of(self.opened, samples, self.validation, *rows)]
        folds, per_fold = self.folds, len(self.opened) // len(self.folds)
        if not self.loss.quadratic:
            # The gain from averaging can't be estimated with fewer than two folds.
            folds = enough_folds(folds, samples.X[0].cpu().numpy(), least=2)
        result = []
        for number, fold in enumerate(folds):
            part = slice(number * per_fold, (number + 1) * per_fold)
            inputs = replace(samples, X=samples.X[part])
            rows = (torch.as_tensor(each, device=samples.y.device) for each in fold)
            result.append(HeldOutNetworks.of(self.opened[part], inputs, inputs, *rows))
        return result
