"""Least squares on the kernels of landmarks, from sums over blocks of samples."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._convex._kernels import landmark_dual, landmark_features
from sklearn_pgb._operators._gram import add_gram, mirrored


@dataclass(eq=False)
class NormalSums:
    """Sums over samples that determine a least squares solution on landmarks' features.

    `add` changes them in place.

    Attributes
    ----------
    landmarks : Tensor (n_kernels, m, m)
        Kernels of the landmarks.
    normal : list of Tensor (1 + m, 1 + m)
        For each kernel, products of a constant and the features.
    moment : list of Tensor (1 + m, n_outputs or 1)
        For each kernel, their products with the targets.
    """

    landmarks: Tensor
    normal: list[Tensor]
    moment: list[Tensor]

    @classmethod
    def of(cls, landmarks: Tensor) -> "NormalSums":
        """Start from zero."""
        count, m, _ = landmarks.shape
        normal = [landmarks.new_zeros(1 + m, 1 + m) for _ in range(count)]
        return cls(landmarks, normal, [each[:, :1].clone() for each in normal])

    def add(self, cross: Tensor, target: Tensor, weight: Tensor) -> None:
        """Add samples, with their kernels (n_kernels, n_samples, m)."""
        features, _ = landmark_features(cross, self.landmarks)
        root = weight.sqrt()[:, None]
        for c, own in enumerate(features):
            rows = torch.cat([root, root * own], 1)
            add_gram(rows, self.normal[c])
            wanted = target if len(features) == 1 else target[:, c : c + 1]
            self.moment[c] = self.moment[c] + rows.T @ (root * wanted)

    def solution(self, alpha: float) -> tuple[Tensor, Tensor]:
        """Duals of the landmarks (m, n_outputs) and intercepts (n_outputs,)."""
        parts = []
        for normal, moment in zip(self.normal, self.moment, strict=True):
            system = mirrored(normal.clone())
            system.diagonal()[1:] += alpha / 2
            factor = torch.linalg.cholesky_ex(system)[0]
            parts.append(torch.cholesky_solve(moment, factor))
        solved = torch.cat(parts, 1)
        _, factor = landmark_features(self.landmarks, self.landmarks)
        return landmark_dual(factor, solved[1:]), solved[0]
