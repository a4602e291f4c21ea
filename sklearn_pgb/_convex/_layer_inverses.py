"""Approximate inverses of Hessians, one block of coefficients at a time."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sklearn_pgb._budget import GRAM_SAMPLES, JOINT_FLOPS, LEAST_GRAM_SAMPLES
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._operators._layers import Columns, LinearDerivative

Inverse = Callable[[Tensor], Tensor]
# The inverse for each alpha; None if it can't be computed.
Blocks = Callable[[float], Inverse | None]


def layer_blocks(problem: ConvexProblem, raw: Tensor) -> Blocks | None:
    """Approximate inverses of the Hessian on Jacobians of chains, else None.

    Every hidden layer is a block. A row of a linear layer is the outer product of
    derivatives D and inputs A, so the block is nearly the Kronecker product of
    ``sum_i w_i D_i^T H_i D_i``, estimated from random signs, and
    ``sum_i w_i A_i A_i^T`` (Martens and Grosse, 2015; Grosse and Martens, 2016, for
    convolutions). For an output layer D is the identity, so each output has a block of
    its own, with the intercept and the output layers of all chains: these have learned
    the same function, so their inputs are correlated. No matrix is larger than the
    width of a layer, or the sum of those of the output layers.
    """
    k, n_coef = problem.operator.n_outputs, problem.operator.n_coef
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
    hidden: list[tuple[Tensor, Blocks]] = []
    heads: list[tuple[Tensor, Tensor]] = []
    start = 0
    for part in parts:
        layer, scale = part.layer, part.scale
        own = columns[start : start + layer.n_coef]
        start += layer.n_coef
        if part.is_head and isinstance(layer, LinearDerivative) and not layer.bias:
            heads.append((own.view(k, -1), scale * layer.inputs))
        else:
            hidden.append((own, _layer_blocks(layer, scale * part.delta, weight)))
    outputs = _output_blocks(heads, curvature, columns[n_coef:], problem.intercept)

    def inverse(alpha: float) -> Inverse | None:
        blocks = [(own, at(alpha)) for own, at in [*hidden, *outputs]]

        def apply(target: Tensor) -> Tensor:
            result = torch.empty_like(target)
            for own, solve in blocks:
                assert solve is not None
                result[own] = solve(target[own])
            return result

        return None if any(solve is None for _, solve in blocks) else apply

    return inverse


def output_grams(features: Tensor, curvature: Tensor) -> Tensor:
    """``F^T diag(h_c) F`` for each column of curvatures, (k, width, width).

    If there are many samples, each is a sum over random ones, drawn in proportion to
    their parts of the trace, and as many times the width as its relative error needs:
    the result only preconditions.
    """
    k, (n, width) = curvature.shape[1], features.shape
    grams = features.new_empty(k, width, width)
    curvature = curvature.T.contiguous()
    wanted = max(GRAM_SAMPLES * width, LEAST_GRAM_SAMPLES)
    if wanted < n:
        trace = curvature * features.square().sum(1)
        chance = (wanted / trace.sum(1, keepdim=True) * trace).clamp(max=1.0)
        generator = torch.Generator().manual_seed(0)
        uniform = torch.rand(chance.shape, generator=generator).to(chance)
        curvature = torch.where(uniform < chance, curvature / chance, 0.0)
    for c in range(k):
        rows = torch.nonzero(curvature[c])[:, 0]
        scaled = features[rows] * curvature[c, rows, None].sqrt()
        torch.mm(scaled.T, scaled, out=grams[c])
    return grams


def inverted(grams: Tensor, alpha: float, n_penalized: int) -> Tensor | None:
    """Inverses of the matrices, with a penalty of their first features.

    None if rounding makes a matrix singular.
    """
    blocks = grams.to(torch.float64, copy=True)
    diagonal = blocks.diagonal(dim1=1, dim2=2)
    # Rounding can make a block of dependent features slightly indefinite.
    rounding = 10 * torch.finfo(grams.dtype).eps
    diagonal += rounding * diagonal.mean(1, keepdim=True)
    diagonal[:, :n_penalized] += alpha
    factors, info = torch.linalg.cholesky_ex(blocks)
    return None if bool(info.any()) else torch.cholesky_inverse(factors)


def _output_blocks(
    heads: list[tuple[Tensor, Tensor]],
    curvature: Tensor,
    free: Tensor,
    intercept: bool,
) -> list[tuple[Tensor, Blocks]]:
    """Blocks of each output: of all output layers or, if they are wide, of each.

    The intercept belongs to the first. Without any output layer, or if it is not free,
    it has blocks of its own, or none.
    """
    k = curvature.shape[1]
    width = sum(features.shape[1] for _, features in heads)
    if heads and k * width**3 <= JOINT_FLOPS:
        numbers, inputs = zip(*heads, strict=True)
        heads = [(torch.cat(numbers, 1), torch.cat(inputs, 1))]
    result: list[tuple[Tensor, Blocks]] = []
    for own, features in heads:
        penalized = features.shape[1]
        if intercept and not result:
            own = torch.cat([own, free[:, None]], 1)
            features = torch.cat([features, features.new_ones(len(features), 1)], 1)
        grams = output_grams(features, curvature.to(features))
        result.append((own.reshape(-1), partial(_output_inverse, grams, penalized)))
    if intercept and not result:
        total = curvature.sum(0).clamp_min(torch.finfo(curvature.dtype).tiny)
        result.append((free, lambda alpha: lambda part: part / total.to(part)))
    return result


def _output_inverse(grams: Tensor, penalized: int, alpha: float) -> Inverse | None:
    blocks = inverted(grams, alpha, penalized)
    if blocks is None:
        return None
    # Steps of a rough problem take rough blocks, half as long.
    blocks = blocks.to(grams)

    def inverse(part: Tensor) -> Tensor:
        rows = part.view(len(blocks), 1, -1).to(blocks)
        return torch.bmm(rows, blocks).reshape(-1).to(part)

    return inverse


def _layer_blocks(layer: Columns, delta: Tensor, weight: Tensor) -> Blocks:
    """Inverses of a Kronecker product, or of a diagonal for layers without factors.

    `delta` holds the pulled back random signs, times the roots of the weights.
    """
    factors = layer.kronecker_factors(delta, weight.to(delta))
    if factors is None:
        squares = layer.squared_columns(delta).double()
        return lambda alpha: lambda part: part / (squares + alpha).to(part)
    # A layer's parameters are its weights, (n_out, n_in), and then its biases.
    a, U = torch.linalg.eigh(factors[0].double())
    g, V = torch.linalg.eigh(factors[1].double())
    curvature = g.clamp_min(0)[:, None] * a.clamp_min(0)
    n_out, n_in = len(g), len(a) - layer.bias

    def inverse(alpha: float, part: Tensor) -> Tensor:
        rows = part[: n_out * n_in].view(n_out, n_in)
        if layer.bias:
            rows = torch.cat([rows, part[n_out * n_in :, None]], 1)
        solved = V @ ((V.T @ rows.double() @ U) / (curvature + alpha)) @ U.T
        parts = [solved[:, :n_in].reshape(-1), solved[:, n_in:].reshape(-1)]
        return torch.cat(parts).to(part)

    return lambda alpha: partial(inverse, alpha)
