"""Quantities of the theory of added neurons: residual sums, identities, bounds.

References
----------
Kawaguchi and Kaelbling, "Elimination of All Bad Local Minima in Deep Learning",
AISTATS 2020 (called EB below).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._training._auxiliary import AuxiliaryProgram, Neurons
from sklearn_pgb._training._objective import Objective


@dataclass(frozen=True, eq=False)
class ResidualSums:
    """Sums of the loss gradients over samples with equal inputs.

    Attributes
    ----------
    sums : Tensor (n_groups, n_outputs)
        ``s_j = sum_{i in I_j} w_i grad l_i(f(x_i))``.
    weight : Tensor (n_groups,)
        ``Omega_j = sum_{i in I_j} w_i``.
    """

    sums: Tensor
    weight: Tensor

    @property
    def largest(self) -> float:
        """The certificate ``max_j ||s_j|| / Omega_j``.

        For convex losses it is zero if and only if the loss equals the pure-error
        floor, and only then the auxiliary objective has a local minimum.
        """
        return float((self.sums.norm(dim=1) / self.weight).max())


def residual_sums(
    loss: Loss, y: Tensor, raw: Tensor, weight: Tensor, group: Tensor
) -> ResidualSums:
    """Compute the residual sums of the distinct inputs.

    Parameters
    ----------
    loss : Loss
    y, raw : Tensor (n_samples, n_outputs)
    weight : Tensor (n_samples,)
    group : Tensor (n_samples,)
        Number of each sample's distinct input (`PureErrorFloor.group`).
    """
    n_groups = int(group.max()) + 1
    rows = weight[:, None] * loss.gradient(y, raw)
    sums = rows.new_zeros(n_groups, rows.shape[1]).index_add(0, group, rows)
    total = weight.new_zeros(n_groups).index_add(0, group, weight)
    return ResidualSums(sums, total)


def labels_consistent(y: Tensor, group: Tensor) -> bool:
    """Whether equal inputs have equal targets (assumption A3 of EB)."""
    first = torch.empty(int(group.max()) + 1, y.shape[1], dtype=y.dtype)
    first[group] = y
    return bool((first[group] == y).all())


def identity_defect(objective: Objective, theta: Tensor) -> Tensor:
    """Compute ``a_k dL/da_k - dL/db_k - 2 lambda a_k^2``, which is zero everywhere.

    Parameters
    ----------
    objective : Objective
        An objective with added neurons (`auxiliary_objective`).
    theta : Tensor (n_members, n_params)

    Returns
    -------
    Tensor (n_members, n_outputs)
        Rounding errors of the identity that all theorems of EB are based on.
    """
    program = objective.program
    if not isinstance(program, AuxiliaryProgram):
        raise TypeError(
            "objective must have added neurons, got one of "
            f"{type(program).__name__}. Pass the result of auxiliary_objective."
        )
    _, neurons = program.split(theta)
    _, gradient = program.split(objective.value_and_gradient(theta)[1])
    neuron_penalty = program.split(objective.penalty[None])[1].a
    a = neurons.a
    return a * gradient.a - gradient.b - 2 * neuron_penalty * a.square()


def neuron_value(
    loss: Loss, X: Tensor, y: Tensor, weight: Tensor, raw: Tensor, W: Tensor
) -> tuple[float, Tensor]:
    """Minimize the loss over added neurons in given directions, for a fixed network.

    The result is ``inf_c sum_i w_i l_i(f_i + c o exp(W x_i))``, the infimum of EB over
    a and b at fixed W. It has no penalty, as ``a = c e^-b`` vanishes for large b.

    Parameters
    ----------
    loss : Loss
    X : Tensor (n_samples, n_features)
    y, raw : Tensor (n_samples, n_outputs)
    weight : Tensor (n_samples,)
    W : Tensor (n_outputs, n_features)

    Returns
    -------
    value : float
    c : Tensor (n_outputs,)
        Coefficients of exponentials that are scaled to a maximum of one.
    """
    z = X.flatten(1) @ W.T
    exponentials = (z - z.amax(0)).exp()
    c = raw.new_zeros(raw.shape[1])
    value = float(weight @ loss.value(y, raw))
    for _ in range(100):
        current = raw + c * exponentials
        gradient = (weight[:, None] * loss.gradient(y, current) * exponentials).sum(0)
        root = loss.hessian_root(y, current)
        root = torch.diag_embed(root) if root.ndim == 2 else root
        rows = (root * exponentials[:, None]) * weight.sqrt()[:, None, None]
        hessian = torch.einsum("icd,ice->de", rows, rows)
        hessian.diagonal().add_(1e-12 * hessian.diagonal().mean() + 1e-300)
        step = -torch.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-8:
            trial = float(weight @ loss.value(y, current + size * step * exponentials))
            if trial < value:
                break
            size /= 2
        else:
            break
        c, value = c + size * step, trial
    return value, c


def help_ratio(objective: Objective, theta: Tensor, neurons: Neurons) -> Tensor:
    """Return the factor by which added neurons increase the gradient of the network.

    It is ``||A r[f + g]|| / ||A r[f]||``, and infinite if the network is at a critical
    point that the neurons change (EB, Example 2).
    """
    program = objective.program

    def norm(shift: Tensor | float) -> Tensor:
        raw, tape = program.forward(theta, objective.X)
        moved = raw + shift
        flat = moved.reshape(-1, moved.shape[2])
        y = objective.y.repeat(len(theta), 1)
        residual = objective.loss.gradient(y, flat).view(moved.shape)
        residual = residual * objective.weight[:, None]
        return program.backward(theta, tape, residual).norm(dim=1)

    return norm(neurons(objective.X)) / norm(0.0)


def scaled_objective(
    loss: float | Tensor, a: float | Tensor, b: float | Tensor, penalty: float
) -> Tensor:
    """Return ``L (1 + (a e^b - 1)^2) + penalty a^2`` for one pair of scalars a and b.

    The transformation of Sohl-Dickstein and Kawaguchi (2019) has no bad local minima
    either. But its gradient in theta is a positive multiple of that of L, so that
    gradient flow follows the same path. It is only a reference.
    """
    loss, a, b = (torch.as_tensor(v, dtype=torch.float64) for v in (loss, a, b))
    return loss * (1 + (a * b.exp() - 1).square()) + penalty * a.square()


def scaled_minimum(
    loss: float | Tensor, b: float | Tensor, penalty: float
) -> tuple[Tensor, Tensor]:
    """Minimize `scaled_objective` over a; return the minimizer and the minimum."""
    loss, b = (torch.as_tensor(v, dtype=torch.float64) for v in (loss, b))
    a = loss / (loss * b.exp() + penalty * (-b).exp())
    return a, scaled_objective(loss, a, b, penalty)
