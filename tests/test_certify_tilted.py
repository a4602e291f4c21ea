"""The tilted problem: tight bounds, and verdicts from attained decreases only."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from torch import nn

from sklearn_pgb import certify
from sklearn_pgb._certificate import _tilted


def three_classes(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(120, 4))
    return X, np.digitize(X[:, 0] + rng.normal(size=120), [-0.7, 0.7])


@pytest.mark.parametrize("data_seed", [22, 1, 2, 3])
def test_default_logistic_regression_is_certified(data_seed):
    """Its excess is far below the tolerance, although its gradient is 1e-5.

    The gap is that to the minimum, found with a tolerance of 1e-13. Probabilities
    corrected by least squares can be negative, which proves nothing.
    """
    X, y = three_classes(data_seed)
    certificate = certify(LogisticRegression().fit(X, y), X, y)
    exact = LogisticRegression(solver="newton-cg", tol=1e-13, max_iter=10_000)
    least = certify(exact.fit(X, y), X, y)
    excess = certificate.objective - least.objective
    assert 0 < excess < certificate.tolerance
    assert certificate.verdict == least.verdict == "certified_global"
    assert excess <= certificate.tilted.gap <= 1.2 * excess + 1e-12


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("model", "targets"),
    [
        (LogisticRegression(max_iter=4), "labels"),
        (LogisticRegression(C=0.01, max_iter=3), "two"),
        (PoissonRegressor(alpha=0.1, max_iter=3), "counts"),
        (Ridge(alpha=3.0, solver="sag", max_iter=3, tol=1.0), "real"),
    ],
    ids=str,
)
def test_gap_of_the_tilted_problem_is_nearly_attained(model, targets, seed):
    """Bound and value of a convex problem meet, at points that are not critical."""
    X, labels = three_classes(seed)
    y = {
        "labels": labels,
        "two": labels > 1,
        "counts": labels,
        "real": labels + X[:, 1],
    }
    certificate = certify(model.fit(X, y[targets]), X, y[targets], norm_budget=100.0)
    tilted = certificate.tilted
    gain = tilted.objective - tilted.value
    assert gain > certificate.tolerance
    assert gain <= tilted.gap <= gain + 1e-6 * certificate.objective


def test_loose_bound_is_no_evidence(monkeypatch):
    """Without the solution of the tilted problem its bound is loose, not its gain."""
    torch.manual_seed(0)
    X, y = three_classes(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    optimizer = torch.optim.LBFGS(
        network.parameters(), max_iter=3000, tolerance_grad=1e-7, tolerance_change=0
    )
    inputs, labels = torch.tensor(X), torch.tensor(y)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(inputs), labels)
        loss = loss + 1e-2 * sum(p.square().sum() for p in network.parameters())
        loss.backward()
        return loss

    optimizer.step(closure)
    arguments = {"loss": "log_loss", "penalty": 1e-2}
    tight = certify(network, X, y, **arguments)
    assert tight.verdict == "consistent_with_local_min"

    class NoSolution(_tilted.QuadraticProblem):
        def descend(self):
            return self.zero()

        def newton(self, d):
            return d

    monkeypatch.setattr(_tilted, "QuadraticProblem", NoSolution)
    loose = certify(network, X, y, norm_budget=1e6, **arguments)
    assert loose.tilted.gap > loose.tolerance
    assert loose.verdict == "consistent_with_local_min"


def test_head_at_a_kink_is_judged_by_an_attained_decrease():
    """The gradient's norm times a large budget is no decrease."""
    X, y = three_classes(1)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    network[0].weight.data[0], network[0].bias.data[0] = 0.0, 0.0
    arguments = {"loss": "squared_error", "penalty": 1e-2, "norm_budget": 1e9}
    certificate = certify(network, X, y, **arguments)
    assert certificate.kink_margin == 0
    assert certificate.verdict == "not_critical"
    # The exact head, by ridge regression on the hidden outputs.
    H = network[1](network[0](torch.tensor(X))).detach().numpy()
    A = np.column_stack([H, np.ones(120)])
    head = np.linalg.solve(A.T @ A / 120 + 1e-2 * np.eye(4), A.T @ y / 120)
    head += 1e-8
    network[2].weight.data = torch.tensor(head[None, :3])
    network[2].bias.data = torch.tensor(head[3:])
    certificate = certify(network, X, y, **arguments)
    assert certificate.kink_margin == 0
    assert certificate.verdict == "consistent_with_local_min"
