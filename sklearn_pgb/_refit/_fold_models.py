"""The models of one fold, evaluated on all samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sklearn_pgb._budget import KEPT_LEAVES, MANY_SAMPLES, SAMPLE_BLOCK
from sklearn_pgb._convex._kernels import KernelSolution
from sklearn_pgb._models._leaves import LeafModel
from sklearn_pgb._models._network import Network
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._operators._blocked import BlockedOperator
from sklearn_pgb._operators._operator import LinearOperator
from sklearn_pgb._operators._outputs import (
    apply_sets,
    separates_outputs,
    shares_features,
    single_output,
)
from sklearn_pgb._refit._mixture import KernelFold, Mixture
from sklearn_pgb._sklearn import _safe_indexing


@dataclass(frozen=True, eq=False)
class FoldTerms:
    """The convex model of one fold, fitted to its training samples alone.

    Its raw outputs are the stacked average of the fold's models, times `centered` of
    `GroupRefit`, their derivatives times `coefficients`, and `intercept`.

    Attributes
    ----------
    coefficients : list of Tensor (n_sets, n_params)
        For each group.
    intercept : Tensor (n_outputs,)
    """

    coefficients: list[Tensor]
    intercept: Tensor


@dataclass(frozen=True, eq=False)
class FoldModels:
    """The models of one fold, one per group, and its samples.

    Attributes
    ----------
    raw : list of Tensor (n_samples, n_outputs)
        Raw outputs of each model; NaN for samples that were not asked for.
    operators : list of LinearOperator
        Partial derivatives of each model on all samples, without output biases. Those
        of many samples are not kept.
    sizes : list of float
        Mean squared row norm of each operator on the training samples, or on a part.
    train, heldout : Tensor of int
        Samples of the convex problem of the fold, and others to choose it with.
    """

    raw: list[Tensor]
    operators: list[LinearOperator]
    sizes: list[float]
    train: Tensor
    heldout: Tensor

    @classmethod
    def of(
        cls,
        opened: Sequence[OpenNetwork],
        X: object,
        weight: Tensor,
        train: Tensor,
        heldout: Tensor,
        wanted: Tensor | None = None,
    ) -> "FoldModels":
        """Evaluate the models of a fold on all samples, or on those in `wanted`."""
        raw, operators, sizes = [], [], []
        n_samples = len(weight)
        scaled = train[:: len(train) // MANY_SAMPLES + 1]
        for each in opened:
            if n_samples > MANY_SAMPLES:
                outputs, operator = _in_blocks(each, X, n_samples, wanted)
            else:
                model, rows = each.network, each.inputs(X, check=False)
                outputs = model(model.theta, rows)
                operator = model.jacobian(rows, without=_bias(model, rows))
            raw.append(outputs)
            operators.append(operator)
            norms = operator.rows(scaled).squared_row_norms().mean(1)
            size = float(weight[scaled] @ norms / weight[scaled].sum())
            # A constant model has no derivatives.
            sizes.append(size if size > 0 else 1.0)
        return cls(raw, operators, sizes, train, heldout)

    @property
    def n_kernels(self) -> int:
        """Largest number of kernels of a group."""
        return max(
            1 if shares_features(each) else each.n_outputs for each in self.operators
        )

    def halves(self) -> tuple["FoldModels", "FoldModels"]:
        """The fold, and the same models with both parts of the samples exchanged."""
        return self, replace(self, train=self.heldout, heldout=self.train)

    def only(self, groups: Sequence[int]) -> "FoldModels":
        """The fold with some of its models."""
        return replace(
            self,
            raw=[self.raw[g] for g in groups],
            operators=[self.operators[g] for g in groups],
            sizes=[self.sizes[g] for g in groups],
        )

    def average(self, stack: Tensor) -> Tensor:
        """Sum of the models' raw outputs, times the weights of the stack."""
        return torch.einsum("g,gik->ik", stack, torch.stack(self.raw))

    def kernels(self, rows: Tensor, columns: Tensor | None = None) -> list[Tensor]:
        """Kernels of the groups between samples, each of mean diagonal one.

        Of shape (n_kernels, n_rows, n_columns), with one kernel for all outputs if they
        share the features, else one for each.
        """
        result = []
        for operator, size in zip(self.operators, self.sizes, strict=True):
            left = operator.rows(rows)
            right = left if columns is None else operator.rows(columns)
            count = 1 if shares_features(left) else operator.n_outputs
            blocks = []
            for c in range(count):
                a = single_output(left, c)
                b = a if columns is None else single_output(right, c)
                blocks.append(a.gram() if columns is None else a.cross_gram(b))
            # A single matrix is not copied.
            kernel = blocks[0][None] if count == 1 else torch.stack(blocks)
            result.append(kernel.div_(size))
        return result

    def coefficients(
        self, rows: Tensor, dual: Tensor, weights: Sequence[float]
    ) -> list[Tensor]:
        """Coefficients of each model's parameters, from duals of samples.

        Of shape (n_sets, n_params): one set of coefficients if every parameter belongs
        to one output, else one per output.
        """
        result = []
        for operator, size, weight in zip(
            self.operators, self.sizes, weights, strict=True
        ):
            part, k = operator.rows(rows), dual.shape[1]
            if separates_outputs(part):
                coef = part.rmatvec(dual)[None]
            else:
                own = torch.eye(k, dtype=torch.bool, device=dual.device)
                coef = torch.stack([part.rmatvec(dual * mask) for mask in own])
            result.append(coef * (weight / size))
        return result

    def kernel_fold(
        self,
        average: Tensor,
        train: Tensor,
        heldout: Tensor,
        y: Tensor,
        weight: Tensor,
    ) -> KernelFold:
        """Kernels between some training and held-out samples, with their data."""
        return KernelFold(
            self.kernels(train),
            self.kernels(heldout, train),
            y[train],
            y[heldout],
            weight[train],
            weight[heldout],
            average[train],
            average[heldout],
        )

    def heldout_raw(
        self,
        average: Tensor,
        train: Tensor,
        solutions: Sequence[tuple[Mixture, KernelSolution]],
    ) -> Tensor:
        """Raw outputs of solutions on the samples `train`, for all held-out samples."""
        coefs = [self.coefficients(train, s.coef, m.weights) for m, s in solutions]
        n_samples, k = len(self.heldout), average.shape[1]
        result = torch.zeros(len(solutions), n_samples, k).double()
        # In blocks, so that derivatives of many samples are computed once.
        for block in torch.arange(n_samples).split(SAMPLE_BLOCK):
            rows = self.heldout[block]
            for group, operator in enumerate(self.operators):
                used = [n for n, (m, _) in enumerate(solutions) if m.weights[group]]
                if used:
                    part = operator.rows(rows)
                    for n in used:
                        result[n, block] += apply_sets(part, coefs[n][group])
            for n, (mixture, solution) in enumerate(solutions):
                result[n, block] += solution.intercept
                if mixture.centered:
                    result[n, block] += average[rows]
        return result

    def terms(
        self,
        train: Tensor,
        solutions: Sequence[tuple[float, Mixture, KernelSolution]],
    ) -> FoldTerms:
        """Weighted sum of the mixtures' solutions on the samples `train`."""
        coefs = [torch.zeros(1, each.n_coef).double() for each in self.operators]
        intercept = torch.zeros(self.raw[0].shape[1], dtype=torch.float64)
        for mixture_weight, mixture, solution in solutions:
            terms = self.coefficients(train, solution.coef, mixture.weights)
            coefs = [c + mixture_weight * t for c, t in zip(coefs, terms, strict=True)]
            intercept += mixture_weight * solution.intercept
        return FoldTerms(coefs, intercept)


def _bias(model: Network, rows: Tensor) -> slice | None:
    return model.find_head(rows[:8]).bias


def _in_blocks(
    opened: OpenNetwork, X: object, n_samples: int, wanted: Tensor | None
) -> tuple[Tensor, LinearOperator]:
    """Raw outputs of many samples, and derivatives that are computed when used."""
    model = opened.network
    index = torch.arange(n_samples) if wanted is None else wanted

    def computed(rows: slice | Tensor) -> Tensor:
        part = rows.numpy() if isinstance(rows, Tensor) else rows
        return opened.inputs(_safe_indexing(X, part), check=False)

    inputs = computed
    if isinstance(model, LeafModel) and len(index) * len(model.n_leaves) <= KEPT_LEAVES:
        inputs = KeptLeaves(computed, index, n_samples, model.n_leaves)

    def create(rows: slice | Tensor) -> LinearOperator:
        return model.jacobian(inputs(rows), without=bias)

    bias = _bias(model, computed(slice(0, 8)))
    operator = BlockedOperator(create, n_samples)
    shape = n_samples, operator.n_outputs
    raw = torch.full(shape, torch.nan, dtype=model.theta.dtype)
    for rows in index.split(SAMPLE_BLOCK):
        raw[rows] = model(model.theta, inputs(rows))
    return raw, operator


class KeptLeaves:
    """Leaf numbers of some samples, which are found once and kept in a few bytes.

    The samples of a fold are used by its raw outputs, kernels, held-out predictions and
    the final problem; to find their leaves took a fifth of a fit.

    Parameters
    ----------
    compute : callable (index) -> Tensor of int
        Returns the leaf numbers of samples, given by a slice or a tensor.
    index : Tensor of int
        The samples. The leaf numbers of others are computed when they are used.
    n_samples : int
        Number of all samples.
    n_leaves : sequence of int
        Of each tree.
    """

    def __init__(
        self,
        compute: Callable[[slice | Tensor], Tensor],
        index: Tensor,
        n_samples: int,
        n_leaves: Sequence[int],
    ):
        self.compute = compute
        self.position = torch.full((n_samples,), -1)
        self.position[index] = torch.arange(len(index))
        types = torch.uint8, torch.int16, torch.int32
        most = max(n_leaves, default=1) - 1
        kind = next(each for each in types if most <= torch.iinfo(each).max)
        self.kept = torch.empty(len(index), len(n_leaves), dtype=kind)
        for rows in torch.arange(len(index)).split(SAMPLE_BLOCK):
            self.kept[rows] = compute(index[rows]).to(kind)

    def __call__(self, rows: slice | Tensor) -> Tensor:
        """Return the leaf numbers of samples."""
        position = self.position[rows]
        if bool((position < 0).any()):
            return self.compute(rows)
        return self.kept[position].int()


def side_by_side(
    folds: Sequence[FoldModels], rows: Tensor, columns: Tensor | None = None
) -> list[Tensor]:
    """Return one kernel per group, of the bases of all folds side by side."""
    total = folds[0].kernels(rows, columns)
    for fold in folds[1:]:
        for kernel, own in zip(total, fold.kernels(rows, columns), strict=True):
            kernel += own
    return [kernel.div_(len(folds)) for kernel in total]
