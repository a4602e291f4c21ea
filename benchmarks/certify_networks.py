"""Accuracy and cost of certificates of networks.

Measures verdicts and bounds on random small problems with known answers; the tilted gap
of networks trained with weight decay and polished, compared with the plain gap; and
time and memory of `certify`, compared with the training of the network, on small data
sets.
"""

import time
import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from _harness import (
    Finding,
    Split,
    Task,
    covers,
    data_sets,
    finish,
    in_fresh_process,
    load,
    parse_arguments,
    print_table,
    run,
    scores,
    tasks_of,
)
from scipy.optimize import minimize
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import scale
from torch import nn

from sklearn_pgb import certify
from sklearn_pgb._losses._classification import LogisticLoss
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._network import as_float64
from sklearn_pgb._models._open import open_network
from sklearn_pgb._training._objective import Objective, hessian
from sklearn_pgb._training._polish import polish
from sklearn_pgb._training._program import ChainProgram

SEEDS = 25
SMALL = 5_000
SETS = ("uci_regression/*", "dkl_regression/*", "uci121/*")
QUICK_SETS = ("uci_regression/yacht", "uci121/iris", "uci121/statlog-image")
UNITS = 50

# Weight decay: data sets, number of samples, hidden units and penalties.
DECAY_SETS = (
    "uci_regression/yacht",
    "uci_regression/energy",
    "uci_regression/concrete",
    "uci_regression/boston",
    "dkl_regression/autompg",
    "dkl_regression/stock",
)
DECAY_ROWS, DECAY_UNITS, DECAYS = 300, 5, (0.1, 1.0)
POLISHED = 1e-10

# Training time that counts at least.
LEAST_SECONDS = 5.0


# --- problems of known answer ---------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """A network with its data and the correct verdict."""

    module: nn.Module
    X: np.ndarray
    y: np.ndarray
    loss: str
    answer: str


def module_of(network):
    """A Sequential of a chain."""
    kinds = {"tanh": nn.Tanh, "relu": nn.ReLU}
    layers: list[nn.Module] = []
    for number, (weight, bias) in enumerate(
        zip(network.weights, network.biases, strict=True)
    ):
        layer = nn.Linear(weight.shape[1], len(weight), dtype=torch.float64)
        layer.weight.data, layer.bias.data = weight.clone(), bias.clone()
        layers.append(layer)
        if number < len(network.activations):
            layers.append(kinds[network.activations[number].name]())
    return nn.Sequential(*layers)


def random_network(rng, widths, activation="tanh"):
    """A chain with normal weights, and biases."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layer = nn.Linear(n_in, n_out, dtype=torch.float64)
        layer.weight.data = torch.tensor(
            rng.standard_normal((n_out, n_in)) / np.sqrt(n_in)
        )
        layer.bias.data = torch.tensor(0.5 * rng.standard_normal(n_out))
        layers += [layer, nn.Tanh() if activation == "tanh" else nn.ReLU()]
    return open_network(nn.Sequential(*layers[:-1]), loss=SquaredLoss()).network


def draw(rng, n_rows=40):
    """A network of one hidden layer and rows."""
    d, units = int(rng.integers(1, 4)), int(rng.integers(2, 5))
    X = rng.standard_normal((n_rows, d))
    return random_network(rng, [d, units, 1]), X


def raw_of(network, X):
    """Outputs of a chain."""
    return network(network.theta, as_float64(X))[:, 0].numpy()


def jacobian_of(network, X):
    """Derivatives of the outputs by all parameters."""
    rows = as_float64(X)
    return torch.func.jacrev(lambda t: network(t, rows)[:, 0])(network.theta).numpy()


def across(network, X, noise):
    """Noise projected onto the complement of the derivatives."""
    J = jacobian_of(network, X)
    for _ in range(2):
        noise = noise - J @ np.linalg.lstsq(J, noise)[0]
    return noise / np.abs(noise).max()


def objective_of(network, X, y, penalty=None):
    """Mean squared loss of a chain with a ridge penalty."""
    nothing = torch.zeros(network.n_params, dtype=torch.float64)
    widths = [network.n_inputs, *(len(weight) for weight in network.weights)]
    return Objective(
        ChainProgram(widths, network.activations),
        SquaredLoss(),
        as_float64(X),
        as_float64(y)[:, None],
        as_float64(np.full(len(X), 1 / len(X))),
        nothing if penalty is None else as_float64(penalty),
    )


def curvatures(network, X, y):
    """Eigenvalues of the Hessian."""
    return torch.linalg.eigvalsh(hessian(objective_of(network, X, y), network.theta))


def interpolating(rng):
    """The targets are the outputs."""
    network, X = draw(rng)
    return Problem(
        module_of(network), X, raw_of(network, X), "squared_error", "certified_global"
    )


def at_the_floor(rng):
    """Repeated rows whose targets differ; the outputs are their means."""
    network, X = draw(rng, 20)
    y, shift = raw_of(network, X), rng.uniform(0.1, 1.0, 20)
    X, y = np.vstack([X, X]), np.concatenate([y + shift, y - shift])
    return Problem(module_of(network), X, y, "squared_error", "certified_global")


def minimum(rng):
    """Small residuals orthogonal to all derivatives: a strict minimum."""
    while True:
        network, X = draw(rng)
        noise, y = across(network, X, rng.standard_normal(len(X))), raw_of(network, X)
        for size in 10.0 ** np.arange(0, -5, -0.5):
            values = curvatures(network, X, y + size * noise)
            if values[0] > 1e-4 * values[-1]:
                answer = "consistent_with_local_min"
                module = module_of(network)
                return Problem(module, X, y + size * noise, "squared_error", answer)


def saddle(rng):
    """Residuals orthogonal to all derivatives, large enough for negative curvature."""
    while True:
        network, X = draw(rng)
        noise, y = across(network, X, rng.standard_normal(len(X))), raw_of(network, X)
        for size in 10.0 ** np.arange(-1, 2, 0.5):
            values = curvatures(network, X, y + size * noise)
            if values[0] < -1e-3 * values.abs().max():
                answer = "not_local_min"
                module = module_of(network)
                return Problem(module, X, y + size * noise, "squared_error", answer)


def idle_unit(rng):
    """A critical point with an additional unit of zero weights.

    All derivatives vanish, but not the mixed second derivatives with respect to its
    incoming and outgoing weights, so it is a saddle.
    """
    network, X = draw(rng)
    y = raw_of(network, X)
    y = y + 0.3 * across(network, X, rng.standard_normal(len(X)))
    W, V = network.weights
    b, c = network.biases
    wider = ChainNetwork.mlp(
        [torch.cat([W, 0 * W[:1]]), torch.cat([V, 0 * V[:, :1]], 1)],
        [torch.cat([b, 0 * b[:1]]), c],
        network.activations,
    )
    return Problem(module_of(wider), X, y, "squared_error", "not_local_min")


def dead_relu(rng):
    """All units inactive on all samples, the output the mean: a flat local minimum."""
    d = int(rng.integers(1, 4))
    X = rng.standard_normal((40, d))
    network = random_network(rng, [d, 3, 1], "relu")
    reach = (as_float64(X) @ network.weights[0].T).amax(0)
    y = X[:, 0] + 0.1 * rng.standard_normal(40)
    network.biases[0].copy_(-reach - 1)
    network.biases[1].copy_(torch.tensor([y.mean()]))
    answer = "consistent_with_local_min"
    return Problem(module_of(network), X, y, "squared_error", answer)


def separable(rng):
    """Labels by the sign of the outputs: the infimum is zero, and not attained."""
    while True:
        network, X = draw(rng)
        raw = raw_of(network, X)
        if 5 <= (raw > 0).sum() <= 35:
            y = (raw > 0).astype(float)
            return Problem(module_of(network), X, y, "log_loss", "not_critical")


def undertrained(rng):
    """Random parameters against noisy targets of another network."""
    network, X = draw(rng)
    y = np.sin(X[:, 0]) + 0.3 * rng.standard_normal(len(X))
    return Problem(module_of(network), X, y, "squared_error", "not_critical")


KINDS = {
    "interpolating": interpolating,
    "at the floor": at_the_floor,
    "minimum": minimum,
    "saddle": saddle,
    "idle unit": idle_unit,
    "dead ReLU": dead_relu,
    "separable": separable,
    "undertrained": undertrained,
}
# Verdicts that would be wrong for each kind of problem.
MINIMA = ("certified_global", "consistent_with_local_min")


def verdicts(kind, seed):
    """Check the verdict on one problem, and its bounds against other solvers."""
    problem = KINDS[kind](np.random.default_rng([seed, len(kind)]))
    certificate = certify(
        problem.module, problem.X, problem.y, loss=problem.loss, random_state=seed
    )
    verdict, answer = certificate.verdict, problem.answer
    return {
        "verdict": verdict,
        "answer": answer,
        "false_global": verdict == "certified_global" != answer,
        "false_escape": verdict == "not_local_min" and answer in MINIMA,
        "bound": bound_excess(problem, certificate),
    }


def bound_excess(problem, certificate):
    """Largest excess of a bound over the best value found, in units of the loss."""
    loss = LogisticLoss() if problem.loss == "log_loss" else SquaredLoss()
    network = open_network(problem.module, loss=loss).network
    features: dict[str, Any] = {
        "inputs": problem.X,
        "layer 1": network.layers(as_float64(problem.X))[1].numpy(),
        "gradient": jacobian_of(network, problem.X),
    }
    excess = [-np.inf]
    for row in certificate.table:
        if row.basis in features:
            value = best_value(features[row.basis], problem)
            excess.append((row.lower_bound - value) / (1 + abs(value)))
    return float(max(excess))


def best_value(features, problem):
    """Smallest loss that SciPy finds on a basis with an intercept."""
    matrix = np.column_stack([features, np.ones(len(features))])
    if problem.loss == "squared_error":
        coef = np.linalg.lstsq(matrix, problem.y)[0]
        return float(np.mean((matrix @ coef - problem.y) ** 2))
    signs = 2 * problem.y - 1

    def function(coef):
        margin = signs * (matrix @ coef)
        slope = -signs / (1 + np.exp(np.clip(margin, -500, 500))) / len(signs)
        return np.mean(np.logaddexp(0, -margin)), matrix.T @ slope

    start = np.zeros(matrix.shape[1])
    return float(minimize(function, start, jac=True, method="BFGS").fun)


# --- weight decay ---------------------------------------------------------------


def tilted(name, number):
    """A network trained with weight decay, polished, and certified both ways."""
    data, alpha = load(name), DECAYS[number]
    X, y = scale(data["X"][:DECAY_ROWS]), scale(data["y"][:DECAY_ROWS])
    mlp = MLPRegressor(
        hidden_layer_sizes=DECAY_UNITS,
        activation="tanh",
        solver="lbfgs",
        alpha=alpha,
        max_iter=5000,
        max_fun=50_000,
        random_state=0,
    ).fit(X, y)
    network = open_network(mlp).network
    parts = []
    for weight, bias in zip(network.weights, network.biases, strict=True):
        parts += [np.full(weight.numel(), alpha / len(X)), np.zeros(len(bias))]
    objective = objective_of(network, X, y, np.concatenate(parts))
    found = polish(objective, network.theta, gtol=1e-13, max_iter=20_000)
    network = network.at(found.theta)
    mlp.coefs_ = [weight.T.numpy() for weight in network.weights]
    mlp.intercepts_ = [bias.numpy() for bias in network.biases]
    certificate = certify(mlp, X, y, random_state=0)
    return {
        # On scikit-learn's own scale, half of the package's.
        "gradient": certificate.gradient_norm / 2,
        "tilted": certificate.tilted.gap / certificate.objective,
        "plain": certificate.tilted.plain_gap / certificate.loss,
        "budget": certificate.tilted.norm_budget,
        "verdict": certificate.verdict,
    }


# --- cost -----------------------------------------------------------------------


def cost(name, seed):
    """Seconds of a training and of its certificate."""
    # Networks stop at max_iter, and some sets have constant columns.
    warnings.simplefilter("ignore")
    split = Split(name, seed)
    kind = MLPRegressor if split.classes is None else MLPClassifier
    X, y = scale(split.X), split.y
    if split.classes is None:
        y = scale(y)
    # A first call, so that imports and compilation are not timed.
    tiny = kind(hidden_layer_sizes=2, max_iter=2).fit(X[:50], y[:50])
    certify(tiny, X[:50], y[:50])
    network = kind(hidden_layer_sizes=UNITS, random_state=seed)
    start = time.perf_counter()
    network.fit(X, y)
    trained = time.perf_counter()
    certificate = certify(network, X, y, random_state=seed)
    seconds = time.perf_counter() - trained
    return {
        "seconds": {"training": trained - start, "certify": seconds},
        "rows": len(X),
        "parameters": certificate.n_params,
        "verdict": certificate.verdict,
    }


# --- tasks and report -----------------------------------------------------------

PROTOCOLS = {
    "verdicts": [SEEDS, list(KINDS)],
    "tilted": [DECAY_ROWS, DECAY_UNITS, DECAYS, POLISHED],
    "cost": [UNITS, LEAST_SECONDS],
}


def compute(task):
    """Compute one task; for "tilted" the split is the index of the penalty."""
    if task.part == "verdicts":
        return verdicts(task.set, task.split)
    if task.part == "tilted":
        return tilted(task.set, task.split)
    return in_fresh_process(cost, task.set, task.split)


def list_tasks(quick):
    """All problems, or a few of each."""
    seeds = range(3 if quick else SEEDS)
    tasks = [Task(kind, seed, "verdicts") for kind in KINDS for seed in seeds]
    sets = DECAY_SETS[: 2 if quick else None]
    tasks += [Task(name, i, "tilted") for name in sets for i in range(len(DECAYS))]
    names = QUICK_SETS if quick else small_sets()
    return tasks + [Task(name, 0, "cost") for name in names]


def small_sets():
    """Sets of at most SMALL rows."""
    return [name for name in data_sets(*SETS) if len(load(name)["y"]) <= SMALL]


def report(rows):
    """Print the tables and return the findings."""
    full = list_tasks(quick=False)
    done = {part: covers(rows, tasks_of(full, part)) for part in PROTOCOLS}
    good = [row for row in rows if "error" not in row]
    return [
        *verdict_findings(
            [r for r in good if r["part"] == "verdicts"], done["verdicts"]
        ),
        tilted_finding([r for r in good if r["part"] == "tilted"], done["tilted"]),
        *cost_findings([r for r in good if r["part"] == "cost"], done["cost"]),
    ]


def verdict_findings(rows, complete):
    """Findings on verdicts and bounds for problems with known answers."""
    claims = (
        "no false 'certified_global'",
        "no false 'not_local_min'",
        "right verdict on 95 %",
        "bounds at or below the best value found (1e-10)",
    )
    if not rows:
        return [Finding(claim, complete=complete) for claim in claims]
    lines = []
    for kind in KINDS:
        own = [row for row in rows if row["set"] == kind]
        if own:
            right = sum(row["verdict"] == row["answer"] for row in own)
            lines.append([kind, own[0]["answer"], f"{right} of {len(own)}"])
    print_table("Verdicts", ["problem", "answer", "right"], lines, n_left=2)
    right = np.mean([row["verdict"] == row["answer"] for row in rows])
    globals_, escapes = (
        sum(row[key] for row in rows) for key in ("false_global", "false_escape")
    )
    worst = max(row["bound"] for row in rows)
    of = f"of {len(rows)}"
    return [
        Finding(claims[0], f"{globals_} {of}", globals_ == 0, complete),
        Finding(claims[1], f"{escapes} {of}", escapes == 0, complete),
        Finding(claims[2], f"{right:.1%} {of}", bool(right >= 0.95), complete),
        Finding(claims[3], f"largest excess {worst:.1e}", worst <= 1e-10, complete),
    ]


def tilted_finding(rows, complete):
    """Finding on tilted and plain gaps of polished networks."""
    claim = "tilted gap of polished networks: ≤ 1e-6 relative"
    if not rows:
        return Finding(claim, complete=complete)
    header = ["set", "alpha", "gradient", "tilted gap", "plain gap", "norm", "verdict"]
    lines = [
        [
            row["set"],
            f"{DECAYS[row['split']]:g}",
            *(f"{row[key]:.1e}" for key in ("gradient", "tilted", "plain")),
            f"{row['budget']:.0f}",
            row["verdict"],
        ]
        for row in sorted(rows, key=lambda row: (row["set"], row["split"]))
    ]
    print_table("Networks trained with weight decay", header, lines)
    counted = [row for row in rows if row["gradient"] <= POLISHED]
    if not counted:
        return Finding(claim, "no network was polished", False, complete)
    worst = max(row["tilted"] for row in counted)
    plain = min(row["plain"] for row in counted)
    text = f"largest {worst:.1e} of {len(counted)} of {len(rows)}; plain ≥ {plain:.1e}"
    return Finding(claim, text, worst <= 1e-6, complete)


def cost_findings(rows, complete):
    """Findings on time and memory."""
    claims = (
        f"seconds of certify / training's ({LEAST_SECONDS:g} s if less): ≤ 1",
        "peak memory: ≤ 2 GB",
    )
    if not rows:
        return [Finding(claim, complete=complete) for claim in claims]
    lines = [
        [
            row["set"],
            f"{row['rows']}",
            f"{row['parameters']}",
            *(f"{row['seconds'][key]:.2f}" for key in ("training", "certify")),
            f"{row['peak_bytes'] / 1e9:.2f}",
            row["verdict"],
        ]
        for row in sorted(rows, key=lambda row: -row["seconds"]["certify"])
    ]
    header = ["set", "rows", "parameters", "training", "certify", "GB", "verdict"]
    print_table("Seconds and peak memory", header, lines)
    seconds = scores(rows, "seconds")
    ratio = seconds["certify"] / seconds["training"].clip(lower=LEAST_SECONDS)
    peak = max(row["peak_bytes"] for row in rows) / 1e9
    text = (
        f"largest {ratio.max():.2f} ({ratio.idxmax()[0]}), median {ratio.median():.2f}"
    )
    return [
        Finding(claims[0], text, bool(ratio.max() <= 1), complete),
        Finding(claims[1], f"largest {peak:.2f} GB", peak <= 2, complete),
    ]


def main():
    """Run the benchmark from the command line."""
    options = parse_arguments(__doc__, tuple(PROTOCOLS))
    tasks = list_tasks(options.quick)
    rows = run(tasks, compute, PROTOCOLS, options, alone=("cost",))
    finish(report(rows), rows)


if __name__ == "__main__":
    main()
