"""Small problems of the theory of added neurons: programs, objectives, points."""

import torch

from sklearn_pgb._losses._classification import SmoothedHingeLoss
from sklearn_pgb._training._auxiliary import Neurons
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._program import Program


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


class FunctionProgram(Program):
    """Any function of one member's parameters and X, by autograd."""

    def __init__(self, function, n_params):
        self.function, self.n_params = function, n_params

    def forward(self, theta, X):
        theta = theta.detach().clone().requires_grad_()
        with torch.enable_grad():
            raw = torch.stack([self.function(row, X) for row in theta])
        return raw.detach(), (raw, theta)

    def backward(self, theta, tape, residual):
        return torch.autograd.grad(*tape, residual)[0]

    def differentiable(self, theta, X):
        return self.function(theta, X)


def constant(theta, X):
    """f = theta at every input."""
    return theta.expand(len(X), 1)


def objective_of(program, loss, X, y, weight=None):
    """An objective without penalty and with equal weights that sum to one."""
    X, y = tensor(X), tensor(y)
    if weight is None:
        weight = [1 / len(X)] * len(X)
    penalty = torch.zeros(program.n_params, dtype=torch.float64)
    return Objective(program, loss, X, y[:, None], tensor(weight), penalty)


def point(auxiliary, theta, a, b, w):
    """Parameters of one member with one output from its parts."""
    neurons = Neurons(tensor([[a]]), tensor([[b]]), tensor([[w]]))
    return auxiliary.program.join(tensor([theta]), neurons)


def value_at(auxiliary, *parts):
    return auxiliary.value(point(auxiliary, *parts)).item()


THETA_LOC = 0.2000278310495826


def example_1(theta, X=None):
    """The network of EB's Example 1, one parameter and one input."""
    bumps = -0.3 * torch.exp(-16 * (theta - 0.2) ** 2)
    bumps = bumps - 0.7 * torch.exp(-32 * (theta - 0.8) ** 2)
    return 5 * (bumps + 0.5).reshape(1, 1)


def example_1_objective():
    program = FunctionProgram(example_1, 1)
    return objective_of(program, SmoothedHingeLoss(power=3.0), [[0.0]], [-1.0])


# --- quantities of the theory -------------------------------------------------------


def identity_defect(objective, theta):
    """Compute ``a_k dL/da_k - dL/db_k - 2 lambda a_k^2``, which is zero everywhere."""
    program = objective.program
    _, neurons = program.split(theta)
    _, gradient = program.split(objective.value_and_gradient(theta)[1])
    neuron_penalty = program.split(objective.penalty[None])[1].a
    a = neurons.a
    return a * gradient.a - gradient.b - 2 * neuron_penalty * a.square()


def neuron_value(loss, X, y, weight, raw, W):
    """Minimize the loss over added neurons in given directions, for a fixed network.

    The result is ``inf_c sum_i w_i l_i(f_i + c o exp(W x_i))``, the infimum of EB over
    a and b at fixed W. It has no penalty, as ``a = c e^-b`` vanishes for large b.
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


def help_ratio(objective, theta, neurons):
    """Return the factor by which added neurons increase the gradient of the network.

    It is ``||A r[f + g]|| / ||A r[f]||``, and infinite if the network is at a critical
    point that the neurons change (EB, Example 2).
    """
    program = objective.program

    def norm(shift):
        raw, tape = program.forward(theta, objective.X)
        moved = raw + shift
        flat = moved.reshape(-1, moved.shape[2])
        y = objective.y.repeat(len(theta), 1)
        residual = objective.loss.gradient(y, flat).view(moved.shape)
        residual = residual * objective.weight[:, None]
        return program.backward(theta, tape, residual).norm(dim=1)

    return norm(neurons(objective.X)) / norm(0.0)


def scaled_objective(loss, a, b, penalty):
    """Return ``L (1 + (a e^b - 1)^2) + penalty a^2`` for one pair of scalars a and b.

    The transformation of Sohl-Dickstein and Kawaguchi (2019) has no bad local minima
    either. But its gradient in theta is a positive multiple of that of L, so that
    gradient flow follows the same path.
    """
    loss, a, b = (torch.as_tensor(v, dtype=torch.float64) for v in (loss, a, b))
    return loss * (1 + (a * b.exp() - 1).square()) + penalty * a.square()


def scaled_minimum(loss, b, penalty):
    """Minimize `scaled_objective` over a; return the minimizer and the minimum."""
    loss, b = (torch.as_tensor(v, dtype=torch.float64) for v in (loss, b))
    a = loss / (loss * b.exp() + penalty * (-b).exp())
    return a, scaled_objective(loss, a, b, penalty)
