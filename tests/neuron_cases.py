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
    """An objective without ridge; samples weigh the same, and together one."""
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
