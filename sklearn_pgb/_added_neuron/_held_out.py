"""Samples of a training: merging of duplicates, and scores of held-out samples."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import check_scoring
from torch import Tensor

from sklearn_pgb._added_neuron._request import TrainingRequest
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._samples import Samples
from sklearn_pgb._targets import Targets
from sklearn_pgb._training._architecture import Architecture


@dataclass(frozen=True, eq=False)
class NumberedSamples:
    """Samples of positive weight, with codes of their inputs and groups.

    Samples have the same `row_codes` if their inputs are equal, and the same `cluster`
    if they are in one group or, without groups, if their inputs are equal. Samples of a
    cluster are held out together.
    """

    samples: Samples
    row_codes: NDArray[np.intp]
    cluster: NDArray[np.intp]

    def rows(self, index: NDArray[np.intp]) -> "NumberedSamples":
        """Select samples."""
        samples = self.samples.rows(index)
        return NumberedSamples(samples, self.row_codes[index], self.cluster[index])

    def merged(self) -> "NumberedSamples":
        """Merge duplicates by adding their weights, in the order of first occurrence.

        Repeated and weighted samples then give identical trainings.
        """
        _, first, number = np.unique(
            self._codes(), axis=0, return_index=True, return_inverse=True
        )
        if len(first) == len(self.row_codes):
            return self
        total = np.zeros(len(first))
        np.add.at(total, number.reshape(-1), self.samples.weight)
        order = np.argsort(first)
        kept = self.rows(first[order])
        return replace(kept, samples=replace(kept.samples, weight=total[order]))

    def in_order_of_values(self) -> "NumberedSamples":
        """Sort the samples, so that the training does not depend on their order."""
        return self.rows(np.lexsort(self._codes().T[::-1]))

    def _codes(self) -> NDArray[np.intp]:
        """Encode the samples and each of their targets as integers."""
        y = self.samples.y
        columns = y.T if y.ndim == 2 else [y]
        codes = [np.unique(column, return_inverse=True)[1] for column in columns]
        return np.column_stack([self.row_codes, *codes])


def user_scorer(
    samples: Samples, estimator: Any, architecture: Architecture
) -> Callable[[Tensor], float]:
    """Return a function that scores parameters by the estimator's `scoring`."""
    # A shallow copy, as the score of an epoch must not change the estimator.
    fitted = copy.copy(estimator)
    scorer = check_scoring(fitted, estimator.scoring)
    X, y, weight = samples.X, samples.y, samples.weight

    def score(theta: Tensor) -> float:
        if not bool(theta.isfinite().all()):
            return -math.inf
        fitted._store_network(architecture, theta.detach().cpu().double())
        # The outputs of a diverging network may overflow while theta is finite.
        if not np.isfinite(fitted._raw_of(X)).all():
            return -math.inf
        try:
            value = float(scorer(fitted, X, y, sample_weight=weight))
        except TypeError as error:
            raise TypeError(
                "scoring must be called as scorer(estimator, X, y, "
                "sample_weight=...) and return a number, got "
                f"{estimator.scoring!r}: {error}"
            ) from error
        if math.isnan(value):
            raise ValueError(
                "scoring must give numbers on the held-out samples, got nan on "
                f"{len(y)} of them. Increase validation_fraction, or set "
                "scoring='loss'."
            )
        return value

    return score


def loss_scorer(
    samples: Samples,
    targets: Targets,
    architecture: Architecture,
    loss: Loss,
    request: TrainingRequest,
) -> Callable[[Tensor], float]:
    """Return a function that scores parameters by the negative loss.

    `samples` are in the user's units; they are standardized here.
    """
    z = architecture.standardized(samples.X)
    inputs = torch.from_numpy(z).to(request.device, request.dtype)
    target = targets.encode(
        samples.y, architecture.n_outputs, architecture.center, architecture.scale
    )
    weight = torch.from_numpy(samples.normalized_weight / request.loss_unit)

    def score(theta: Tensor) -> float:
        raw = architecture.program(theta[None], inputs)[0].cpu().double()
        value = -float(weight @ loss.value(target, raw))
        return value if math.isfinite(value) else -math.inf

    return score


def split_rows(
    cluster: NDArray[np.intp],
    labels: NDArray[Any] | None,
    weight: NDArray[np.float64],
    fraction: float,
    seed: int,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the sorted indices of training and held-out samples.

    A fraction of the clusters, which are groups or sets of duplicates, is held out. It
    is stratified by label, and each label keeps a training sample.
    """
    n_clusters = int(cluster.max()) + 1
    codes = np.zeros(len(cluster), dtype=np.intp)
    if labels is not None:
        codes = np.unique(labels, return_inverse=True)[1].reshape(-1)
    votes = np.zeros((n_clusters, int(codes.max()) + 1))
    np.add.at(votes, (cluster, codes), weight)
    label = votes.argmax(1)
    order = np.random.RandomState(seed).permutation(n_clusters)
    order = order[np.argsort(label[order], kind="stable")]
    # The first cluster of each label is always trained on.
    first = np.unique(label[order], return_index=True)[1]
    order = np.delete(order, first)
    n_heldout = min(math.ceil(fraction * n_clusters), len(order))
    heldout = np.zeros(n_clusters, dtype=bool)
    if n_heldout:
        # Evenly spaced in the order of the labels, which stratifies by label.
        spread = (np.arange(n_heldout) + 0.5) * len(order) / n_heldout
        heldout[order[spread.astype(np.intp)]] = True
    # A cluster of several labels counts for the most frequent one, so another may still
    # have all of its samples held out.
    for code in range(votes.shape[1]):
        has_label = votes[:, code] > 0
        if has_label.any() and heldout[has_label].all():
            heldout[np.flatnonzero(has_label)[0]] = False
    return np.flatnonzero(~heldout[cluster]), np.flatnonzero(heldout[cluster])
