"""Bounds and verdicts on random problems, compared with independent solvers.

Checks that no bound is above the loss of coefficients within its norm budget, that no
verdict is false or given for a loss that is not finite, that errors are the package's
own, and that bounds are tight. The independent solvers are least squares and Newton's
method in extended precision, and derivatives of networks by hand. Each family of
problems is numerically difficult in another way.
"""

import argparse
import json
import platform
import time
import traceback
import warnings
from datetime import date
from pathlib import Path

import numpy as np
import scipy
import sklearn
import torch
from _harness import Finding, _one_thread, finish, print_table
from _longdouble import LOSSES, REAL, least, pooled, witnesses
from joblib import Parallel, delayed
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import FunctionTransformer
from torch import nn

import sklearn_pgb
from sklearn_pgb import (
    FeatureBasis,
    GradientBasisRefit,
    InputBasis,
    ResNetBasisClassifier,
    ResNetBasisRegressor,
    certify,
    compare_bases,
    survey_minima,
)
from sklearn_pgb._losses._classification import SmoothedHingeLoss
from sklearn_pgb._losses._regression import GammaLoss

PROBLEMS, QUICK = 10_000, 300
SLACK = 1e-9

# A bound is tight if it covers this fraction of the infimum's excess over the floor. It
# is required if the excess is more than this fraction of the best constant's.
KEPT, NONTRIVIAL = 0.5, 1e-6

FAMILIES = (
    "plain",
    "scales",
    "offsets",
    "weights",
    "near-collinear",
    "duplicated",
    "powers",
    "separable",
    "quasi-separable",
    "dead units",
    "one row",
    "one class",
    "repeated rows",
    "critical",
    "overflow",
)
CONSUMERS = {"compare": 0.3, "refit": 0.2, "resnet": 0.14, "certify": 0.33}
LABELS = ("logistic", "hinge")
MODULE_LOSSES = {
    "squared": "squared_error",
    "poisson": "poisson",
    "logistic": "log_loss",
    "hinge": SmoothedHingeLoss(),
    "gamma": GammaLoss(),
}


# --- problems -------------------------------------------------------------------------


def draw(rng, family, loss):
    """Rows, targets and weights of one problem; weights may be None."""
    n, p = int(rng.integers(2, 200)), int(rng.integers(1, 6))
    n = int(rng.integers(2, 12)) if rng.random() < 0.2 else n
    X = rng.standard_normal((n, p))
    weight = None
    if family == "one row":
        X = X[:1]
    if family == "powers":
        x = rng.uniform(*((2000, 2024) if rng.random() < 0.5 else (0, 1)), n)
        X = x[:, None] ** np.arange(1, int(rng.integers(2, 12)))
    if family == "near-collinear":
        size = 10.0 ** rng.uniform(-14, -4)
        X = np.column_stack([X, X[:, :1] + size * rng.standard_normal((n, 1))])
    if family == "duplicated":
        X = np.column_stack(
            [X, X[:, :1], 3 * X[:, :1], X @ rng.standard_normal((p, 1))]
        )
    if family == "repeated rows":
        X = X[rng.integers(max(1, n // 3), size=n)]
    y = targets(rng, family, loss, X)
    if family == "scales":
        X = X * 10.0 ** rng.uniform(-9, 9, X.shape[1])
    if family == "offsets":
        X = X + 10.0 ** rng.uniform(0, 10, X.shape[1])
        if loss == "squared":
            y = y + 10.0 ** rng.uniform(0, 10)
    if family == "weights":
        weight = 10.0 ** rng.uniform(-12, 12, len(X))
    return X, y, weight


def targets(rng, family, loss, X):
    """Targets of a loss: a function of the first standardized column, with noise."""
    x = X[:, 0] - X[:, 0].mean()
    x = x / (x.std() or 1.0)
    noise = 10.0 ** rng.uniform(-4, 0) * rng.standard_normal(len(x))
    signal = np.sin(2 * x) + noise
    if loss == "poisson":
        return rng.poisson(np.exp(np.clip(signal, -3, 3))).astype(float)
    if loss == "gamma":
        return np.exp(signal)
    if loss == "squared":
        return signal
    labels = (signal + rng.standard_normal(len(x)) > 0).astype(float)
    if family == "separable":
        labels = (x > 0).astype(float)
    if family == "quasi-separable":
        labels[x > np.median(x)] = 1.0
    if family == "one class":
        labels[:] = 1.0
    elif len(labels) > 1:
        labels[:2] = 0.0, 1.0
    return labels


class Record:
    """Errors found on one problem, and the tightness of its bounds."""

    def __init__(self, X, y, weight, loss):
        self.loss, self.y = loss, np.asarray(y, REAL)
        weight = np.ones(len(y)) if weight is None else weight
        self.weight = np.asarray(weight, REAL) / np.asarray(weight, REAL).sum()
        self.wrong, self.asked, self.kept, self.bounds = [], 0, 0, 0
        self.constant = pooled(self.y, self.weight, loss)
        groups = np.unique(np.asarray(X), axis=0, return_inverse=True)[1].reshape(-1)
        self.floor = 0.0
        for group in np.unique(groups):
            rows = groups == group
            self.floor += pooled(self.y[rows], self.weight[rows], loss)
        unit = self.constant - self.floor
        self.unit = unit if unit > 1e-15 * abs(self.constant) else 0.0

    def value(self, raw):
        """Mean loss of raw outputs."""
        return float(self.weight @ LOSSES[self.loss](np.asarray(raw, REAL), self.y)[0])

    def bound(self, name, bound, budget, features, offset=0.0, intercept=True):
        """Compare a bound with the best coefficients within its budget."""
        self.bounds += 1
        pairs = witnesses(features, self.y, self.weight, self.loss, offset, intercept)
        best = least(pairs, budget)
        # The reference values have 18 digits, relative to the terms of their sums.
        slack = SLACK * abs(best) + 1e-15 * abs(self.constant) + 1e-18
        if not bound <= best + slack:
            self.wrong.append(f"{name}: bound {bound:.12g} above {best:.12g}")
        if np.isnan(bound) or np.isnan(budget):
            self.wrong.append(f"{name}: bound {bound} for {budget}")
        if np.inf > best - self.floor > NONTRIVIAL * self.unit > 0:
            self.asked += 1
            self.kept += bound - self.floor >= KEPT * (best - self.floor)

    def at_most(self, name, bound, value):
        """Check that a bound is not above an attained value."""
        if not bound <= value:
            self.wrong.append(f"{name}: {bound!r} above the attained {value!r}")


# --- consumers ------------------------------------------------------------------------


def compared(rng, family, loss, record, X, y, weight):
    """Check `compare_bases` on the inputs."""
    basis = {"inputs": InputBasis()}
    if rng.random() < 0.3:
        basis = {"inputs": FeatureBasis(FunctionTransformer())}
    name = {"squared": "squared_error", "poisson": "poisson"}.get(loss, "log_loss")
    folds = [(np.arange(len(X)), np.arange(len(X)))]
    target = y if name != "log_loss" else y.astype(int)
    (report,) = compare_bases(
        basis, X, target, loss=name, alpha=1e-3, cv=folds, sample_weight=weight
    ).reports
    record.bound("compare", report.lower_bound, report.norm_budget, X)
    record.at_most("compare", report.lower_bound, report.train_loss)


def network_of(rng, X, y, loss, activation):
    """A network of one hidden layer, trained for few steps on scaled samples."""
    kind = MLPClassifier if loss == "logistic" else MLPRegressor
    params = {"loss": "poisson"} if loss == "poisson" else {}
    network = kind(
        hidden_layer_sizes=int(rng.integers(1, 8)),
        activation=activation,
        solver="lbfgs",
        max_iter=int(10 ** rng.uniform(0, 2.5)),
        alpha=0.0,
        random_state=int(rng.integers(2**31)),
        **params,
    )
    return network.fit(X, y.astype(int) if loss == "logistic" else y)


def layers_of(network):
    """Weights and biases of one hidden layer in extended precision."""
    (W, V), (b, c) = network.coefs_, network.intercepts_
    return [np.asarray(part, REAL) for part in (W, b, V[:, 0], c)]


def jacobian(W, b, v, X, activation):
    """Derivatives of the outputs of one hidden layer by hand; the hidden outputs."""
    z = np.asarray(X, REAL) @ W + b
    h = np.tanh(z) if activation == "tanh" else np.maximum(z, 0)
    # For saturated units, 1 - h**2 would cancel completely.
    decay = np.exp(-2 * np.abs(z))
    saturated = 4 * decay / (1 + decay) ** 2
    slope = saturated if activation == "tanh" else (z > 0).astype(REAL)
    inner = slope * v
    outer = (inner[:, :, None] * np.asarray(X, REAL)[:, None, :]).reshape(len(X), -1)
    return np.column_stack([outer, inner, h, np.ones(len(X), REAL)]), h


def refitted(rng, family, loss, record, X, y, weight):
    """Check `GradientBasisRefit` of a network of scikit-learn."""
    activation = "relu" if family == "dead units" else "tanh"
    network = network_of(rng, X, y, loss, activation)
    alpha = 0.0 if rng.random() < 0.5 else 10.0 ** rng.uniform(-20, -2)
    model = GradientBasisRefit(FrozenEstimator(network), alpha=alpha, max_iter=30)
    labels = y.astype(int) if loss == "logistic" else y
    model.fit(X, labels, sample_weight=weight)
    W, b, v, c = layers_of(network)
    J, h = jacobian(W, b, v, X, activation)
    own = record.value(h @ v + c)
    record.at_most("refit", model.lower_bound_, model.refit_loss_)
    # Equal rows have exactly equal derivatives; large coefficients amplify differences.
    _, first, same = np.unique(X, axis=0, return_index=True, return_inverse=True)
    features = model.transform(X)[first[same.reshape(-1)]]
    if np.isfinite(own) and np.isfinite(features).all():
        # Use the package's columns: the slope of a saturated unit has few correct
        # digits, which large coefficients amplify.
        size = np.sqrt((np.asarray(J, float) ** 2).mean(0)) + 1e-300
        error = np.sqrt(((features - J) ** 2).mean(0))
        slope = np.sqrt((features**2).mean(0).max())
        if not (error <= 1e-6 * size + 1e-14 * slope).all():
            record.wrong.append("refit: columns that are no derivatives")
        budget = model.norm_budget_
        record.bound("refit", model.lower_bound_, budget, features, intercept=False)
    # Zero coefficients give zero outputs for any alpha.
    record.at_most("refit loss", model.refit_loss_, record.value(0 * y) * (1 + SLACK))


def resnet(rng, family, loss, record, X, y, weight):
    """Check a ResNet basis without penalty."""
    kind = ResNetBasisClassifier if loss == "logistic" else ResNetBasisRegressor
    model = kind(
        hidden_layer_sizes=(3,),
        alpha=0.0 if rng.random() < 0.7 else 1e-3,
        max_iter=3,
        random_state=int(rng.integers(2**31)),
        **({"loss": "poisson"} if loss == "poisson" else {}),
    )
    model.fit(X, y.astype(int) if loss == "logistic" else y, sample_weight=weight)
    record.at_most("resnet", model.lower_bound_, model.loss_)
    record.at_most("resnet basis", model.basis_lower_bound_, model.basis_loss_)
    if model.alpha_ == 0:
        bound, budget = model.basis_lower_bound_, model.basis_norm_budget_
        record.bound("resnet basis", bound, budget, X)


def module_of(W, b, v, c, activation):
    """A Sequential of one hidden layer."""
    hidden, out = nn.Linear(*W.shape), nn.Linear(len(v), 1)
    layers = [hidden, nn.Tanh() if activation == "tanh" else nn.ReLU(), out]
    module = nn.Sequential(*layers).double()
    for parameter, value in zip(
        module.parameters(), (W.T, b, v[None], np.reshape(c, 1)), strict=True
    ):
        parameter.data = torch.tensor(np.asarray(value, float))
    return module


def certified(rng, family, loss, record, X, y, weight):
    """Check `certify` of networks that are undertrained, critical, dead or overflow."""
    activation = "relu" if family == "dead units" else "tanh"
    n, p = X.shape
    m = int(rng.integers(1, 5))
    size = 10.0 ** rng.uniform(60, 200) if family == "overflow" else 1.0
    spread = X.std(0) + np.abs(X).mean(0) * 1e-3
    W = rng.standard_normal((p, m)) / np.where(spread > 0, spread, 1.0)[:, None]
    b = rng.standard_normal(m) - X.mean(0) @ W
    v, c = size * rng.standard_normal(m), rng.standard_normal()
    if family == "dead units":
        b = -(X @ W).max(0) - 1 - np.abs(X @ W).max(0)
    if rng.random() < 0.2:
        v = 0 * v
    J, h = jacobian(*(np.asarray(a, REAL) for a in (W, b, v)), X, activation)
    raw = h @ np.asarray(v, REAL) + REAL(c)
    if family == "critical" and loss == "squared":
        # Residuals are orthogonal to all derivatives: the point is critical.
        scaled = np.asarray(J / np.sqrt((J**2).sum(0) + 1e-300), float)
        noise = rng.standard_normal(n)
        for _ in range(3):
            noise = noise - scaled @ np.linalg.lstsq(scaled, noise, rcond=1e-12)[0]
        y = np.asarray(raw, float) + 10.0 ** rng.uniform(-3, 0) * noise
        record.__init__(X, y, None, loss)
        weight = None
    module = module_of(W, b, v, c, activation)
    target = y if loss != "logistic" else y.astype(int)
    own = record.value(raw)
    result = certify(
        module,
        X,
        target,
        loss=MODULE_LOSSES[loss],
        sample_weight=weight,
        random_state=0,
    )
    slopes = LOSSES[loss](raw, record.y)[1] * record.weight
    judge(record, result, own, J, slopes)
    features = {"inputs": X, "layer 1": h, "gradient": J}
    for row in result.table:
        if row.basis in features and np.isfinite(features[row.basis]).all():
            tangent = row.basis == "gradient"
            record.bound(
                f"certify {row.basis}",
                row.lower_bound,
                row.norm_budget,
                features[row.basis],
                raw if tangent else 0.0,
                not tangent,
            )
            record.at_most("certify", row.lower_bound, row.value)
    if result.verdict == "not_local_min":
        parts = np.split(
            np.asarray(result.escape.theta), [p * m, p * m + m, p * m + 2 * m]
        )
        A, d, u = parts[0].reshape(m, p).T, parts[1], parts[2]
        z = np.asarray(X, REAL) @ A + d
        g = np.tanh(z) if activation == "tanh" else np.maximum(z, 0)
        if not record.value(g @ u + parts[3][0]) < own:
            record.wrong.append(
                "not_local_min: the escape does not reduce the objective"
            )


def judge(record, result, own, J, slopes):
    """Check verdicts against derivatives and floors computed by hand."""
    verdict = result.verdict
    if not np.isfinite(own) or not np.isfinite(result.loss):
        record.wrong.append(f"{verdict} at a loss of {own}")
        return
    if verdict == "certified_global":
        limit = 1e-6 * (record.unit or max(record.value(0 * record.y), 1.0))
        if not own - record.floor <= limit * (1 + 1e-6) + 1e-13 * abs(record.constant):
            record.wrong.append(f"certified_global: {own - record.floor:.3g} above")
        return
    root = np.sqrt(record.weight)
    norms = np.sqrt(((root[:, None] * J) ** 2).sum(0))
    live = norms > 0
    steep = np.abs(slopes @ J)[live] / norms[live]
    size = np.sqrt(((slopes / root) ** 2).sum())
    largest = float(steep.max(initial=REAL(0)))
    if verdict == "not_critical" and largest <= 1e-15 * float(size):
        record.wrong.append(f"not_critical: derivatives are {largest:.1g}")
    smooth = np.isinf(result.kink_margin) or result.kink_margin > 0
    if verdict.startswith("consistent") and smooth and record.loss == "squared":
        # Decrease of the squared loss by changing one coefficient.
        gain = largest**2 / 4
        if gain > 2e-6 * record.unit + 1e-12 * own:
            record.wrong.append(f"{verdict}: one derivative gains {gain:.3g}")


def surveyed(rng, family, loss, record, X, y, weight):
    """Check `survey_minima` with two starts."""
    network = MLPRegressor(
        hidden_layer_sizes=2, activation="tanh", solver="lbfgs", alpha=0.0, max_iter=30
    )
    survey = survey_minima(
        network, X, y, n_starts=2, sample_weight=weight, random_state=0, polish_iter=20
    )
    record.bound("survey", survey.linear_bound, survey.linear_budget, X)
    for i, bound in enumerate(survey.gradient_basis_bound):
        if not np.isnan(bound):
            record.at_most("survey", bound, survey.loss[i])
        excess = survey.objective[i] - record.floor
        if survey.verdict[i] == "certified_global" and record.unit > 0:
            if not excess <= 1.001e-6 * record.unit + 1e-13 * abs(record.constant):
                record.wrong.append(f"survey: certified_global {excess:.3g} above")


# --- one problem ----------------------------------------------------------------------


def choose(seed):
    """Family, loss and consumer of a problem."""
    rng = np.random.default_rng([17, seed])
    family = FAMILIES[seed % len(FAMILIES)]
    names, weights = list(CONSUMERS), np.array(list(CONSUMERS.values()))
    names, weights = [*names, "survey"], np.append(weights, 1 - weights.sum())
    consumer = str(rng.choice(names, p=weights))
    if family in ("critical", "overflow", "dead units"):
        consumer = (
            "certify" if family != "dead units" or rng.random() < 0.5 else "refit"
        )
    losses = ["squared", "squared", "logistic", "poisson"]
    if consumer == "certify":
        losses += ["hinge", "gamma"]
    loss = str(rng.choice(losses))
    if family in ("separable", "quasi-separable", "one class"):
        loss = "logistic"
    if family == "critical" or consumer == "survey":
        loss = "squared"
    return rng, family, loss, consumer


def problem(seed):
    """Draw one problem and check all results on it."""
    rng, family, loss, consumer = choose(seed)
    X, y, weight = draw(rng, family, loss)
    record = Record(X, y, weight, loss)
    row = {"seed": seed, "family": family, "loss": loss, "consumer": consumer}
    functions = {
        "compare": compared,
        "refit": refitted,
        "resnet": resnet,
        "certify": certified,
        "survey": surveyed,
    }
    start = time.perf_counter()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            functions[consumer](rng, family, loss, record, X, y, weight)
        except (ValueError, TypeError, NotFittedError) as error:
            row["rejected"] = f"{error}"[:200]
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__} in {place.name}: {error}"[:200]
            record.wrong.append(f"foreign exception: {text}")
    row["seconds"] = time.perf_counter() - start
    counts = {"bounds": record.bounds, "asked": record.asked, "kept": int(record.kept)}
    return {**row, **counts, "wrong": record.wrong}


def several(seeds):
    """Check some problems in a worker with one thread."""
    with _one_thread():
        return [problem(seed) for seed in seeds]


# --- report ---------------------------------------------------------------------------


def report(rows, complete):
    """Print the counts and return the findings."""
    print(
        f"{date.today()}, sklearn_pgb {sklearn_pgb.__version__}, Python "
        f"{platform.python_version()}, torch {torch.__version__}, scikit-learn "
        f"{sklearn.__version__}, NumPy {np.__version__}, SciPy {scipy.__version__}"
    )
    for key in ("family", "consumer"):
        lines = []
        for name in sorted({row[key] for row in rows}):
            own = [row for row in rows if row[key] == name]
            asked, kept = (sum(row[part] for row in own) for part in ("asked", "kept"))
            lines.append(
                [
                    name,
                    str(len(own)),
                    str(sum("rejected" in row for row in own)),
                    str(sum(row["bounds"] for row in own)),
                    f"{kept} of {asked}",
                    str(sum(bool(row["wrong"]) for row in own)),
                ]
            )
        header = [key, "problems", "rejected", "bounds", "bounds kept", "wrong"]
        print_table(f"By {key}", header, lines)
    for row in rows:
        for text in row["wrong"]:
            print(row["seed"], row["family"], row["consumer"], row["loss"], text)
    wrong = sum(bool(row["wrong"]) for row in rows)
    asked, kept = (sum(row[part] for row in rows) for part in ("asked", "kept"))
    fraction = kept / max(asked, 1)
    return [
        Finding(
            "no bound above a witness, no false verdict, no foreign exception",
            f"{wrong} wrong of {len(rows)}",
            wrong == 0,
            complete,
        ),
        Finding(
            "bounds that are not trivial are kept: at least 95 %",
            f"{fraction:.1%} of {asked}",
            fraction >= 0.95,
            complete,
        ),
    ]


def main():
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} problems")
    parser.add_argument("--n", type=int, default=PROBLEMS, help="number of problems")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--rows", type=Path, help="a file for one JSON line each")
    options = parser.parse_args()
    n = QUICK if options.quick else options.n
    seeds = range(options.first, options.first + n)
    parts = [seeds[i : i + 20] for i in range(0, n, 20)]
    workers = Parallel(n_jobs=options.jobs, return_as="generator_unordered")
    rows = []
    for part in workers(delayed(several)(part) for part in parts):
        rows += part
        if options.rows:
            with options.rows.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in part)
    finish(report(sorted(rows, key=lambda row: row["seed"]), n >= PROBLEMS))


if __name__ == "__main__":
    main()
