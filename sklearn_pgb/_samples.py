"""Samples with weights."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sklearn_pgb._sklearn import _safe_indexing


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs, targets and weights of samples.

    Attributes
    ----------
    X : array, sparse matrix, data frame, list, Tensor, or tuple of Tensor
        Inputs; a tuple has the inputs of several networks.
    y : ndarray or Tensor
    weight : ndarray or Tensor (n_samples,)
        Not normalized.
    weighted : bool
        Whether the user gave weights.
    """

    X: Any
    y: Any
    weight: Any
    weighted: bool = True

    @property
    def total(self) -> float:
        """Sum of the weights."""
        return float(self.weight.sum())

    @property
    def normalized_weight(self) -> Any:
        """Weights divided by their sum."""
        return self.weight / self.weight.sum()

    def rows(self, index: Any) -> "Samples":
        """Select samples."""
        X, y, weight = (_rows(part, index) for part in (self.X, self.y, self.weight))
        return replace(self, X=X, y=y, weight=weight)


def _rows(part: Any, index: Any) -> Any:
    if isinstance(part, tuple) and isinstance(part[0], Tensor):
        return tuple(_rows(each, index) for each in part)
    if isinstance(part, Tensor):
        return part[torch.as_tensor(index, device=part.device)]
    return _safe_indexing(part, index)
