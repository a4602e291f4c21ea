"""Approximate inverses of Hessians, one block of coefficients at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._operators._layers import Columns, LinearDerivative

Inverse = Callable[[Tensor], Tensor]


def layer_inverses(problem: ConvexProblem, raw: Tensor) -> Inverse | None:
    """Approximate inverse of the Hessian on Jacobians of chains; None for others.

    Every layer is a block. A row of a linear layer is the outer product of derivatives
    D and inputs A, so the block is nearly the Kronecker product of
    ``sum_i w_i D_i^T H_i D_i``, estimated from random signs, and
    ``sum_i w_i A_i A_i^T`` (Martens and Grosse, 2015; Grosse and Martens, 2016, for
    convolutions). For an output layer D is the identity: each output's block is exact,
    and that of the first chain includes the intercept. No matrix is larger than the
    width of a layer.
    """
    alpha, k, n_coef = (
        problem.alpha,
        problem.operator.n_outputs,
        problem.operator.n_coef,
    )
    weight = problem.weight[:, None]
    signs = torch.randint(
        0, 2, raw.shape, generator=torch.Generator().manual_seed(0)
    ).to(raw)
    probe = weight.sqrt() * problem.loss.hessian_probe(problem.y, raw, 2 * signs - 1)
    curvature = weight * problem.loss.hessian_diagonal(problem.y, raw)
    parts = problem.operator.layer_parts(probe)
    if parts is None:
        return None
    columns = torch.arange(n_coef + k, device=raw.device)
    # Columns of the intercept, until a block includes them.
    free = columns[n_coef:] if problem.intercept else columns[:0]
    blocks: list[tuple[Tensor, Inverse]] = []
    start = 0
    for part in parts:
        layer, scale = part.layer, part.scale
        own = columns[start : start + layer.n_coef]
        start += layer.n_coef
        if part.is_head and isinstance(layer, LinearDerivative) and not layer.bias:
            inputs = scale * layer.inputs
            inverse = _output_inverse(inputs, curvature, alpha, bool(len(free)))
            if inverse is None:
                return None
            own, free = torch.cat([own, free]), columns[:0]
        else:
            inverse = _layer_inverse(layer, scale * part.delta, weight, alpha)
        blocks.append((own, inverse))
    if len(free):
        total = curvature.sum(0).clamp_min(torch.finfo(raw.dtype).tiny)
        blocks.append((free, lambda part: part / total))

    def apply(target: Tensor) -> Tensor:
        result = torch.empty_like(target)
        for own, inverse in blocks:
            result[own] = inverse(target[own])
        return result

    return apply


def inverted_blocks(
    features: Tensor, curvature: Tensor, alpha: float, n_penalized: int
) -> Tensor | None:
    """Inverses of ``F^T diag(h_c) F + alpha I`` for each column of curvatures.

    The penalty is that of the first `n_penalized` features. None if rounding makes a
    block singular.
    """
    k, width = curvature.shape[1], features.shape[1]
    blocks = features.new_empty(k, width, width)
    for c in range(k):
        torch.mm(features.T, curvature[:, c, None] * features, out=blocks[c])
    diagonal = blocks.diagonal(dim1=1, dim2=2)
    diagonal[:, :n_penalized] += alpha
    # Rounding can make a block of dependent features slightly indefinite.
    diagonal *= 1 + 10 * torch.finfo(blocks.dtype).eps
    factors, info = torch.linalg.cholesky_ex(blocks)
    return None if bool(info.any()) else torch.cholesky_inverse(factors)


def _output_inverse(
    inputs: Tensor, curvature: Tensor, alpha: float, intercept: bool
) -> Inverse | None:
    """Exact blocks of a linear output layer, one for each output."""
    k, width = curvature.shape[1], inputs.shape[1]
    features = inputs.double()
    if intercept:
        features = torch.cat([features, features.new_ones(len(features), 1)], 1)
    blocks = inverted_blocks(features, curvature.double(), alpha, width)
    if blocks is None:
        return None

    def inverse(part: Tensor) -> Tensor:
        rows = part[: k * width].view(k, width)
        if intercept:
            rows = torch.cat([rows, part[k * width :, None]], 1)
        solved = torch.bmm(rows[:, None].to(blocks), blocks)[:, 0]
        parts = [solved[:, :width].reshape(-1), solved[:, width:].reshape(-1)]
        return torch.cat(parts).to(part)

    return inverse


def _layer_inverse(
    layer: Columns, delta: Tensor, weight: Tensor, alpha: float
) -> Inverse:
    """The inverse of a Kronecker product, or of a diagonal for layers without factors.

    `delta` holds the pulled back random signs, times the roots of the weights.
    """
    factors = layer.kronecker_factors(delta, weight.to(delta))
    if factors is None:
        squares = layer.squared_columns(delta).double() + alpha
        return lambda part: part / squares.to(part)
    # A layer's parameters are its weights, (n_out, n_in), and then its biases.
    a, U = torch.linalg.eigh(factors[0].double())
    g, V = torch.linalg.eigh(factors[1].double())
    curvature = g.clamp_min(0)[:, None] * a.clamp_min(0) + alpha
    n_out, n_in = len(g), len(a) - layer.bias

    def inverse(part: Tensor) -> Tensor:
        rows = part[: n_out * n_in].view(n_out, n_in)
        if layer.bias:
            rows = torch.cat([rows, part[n_out * n_in :, None]], 1)
        solved = V @ ((V.T @ rows.double() @ U) / curvature) @ U.T
        parts = [solved[:, :n_in].reshape(-1), solved[:, n_in:].reshape(-1)]
        return torch.cat(parts).to(part)

    return inverse
