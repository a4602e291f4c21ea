"""Replay certificates by `sklearn_pgb.check`, and change one number of each.

Every certificate must hold, and every changed one must be rejected, although most of
the changes come with new digests. Prints the times of the checks in multiples of the
times of the certificates.
"""

import argparse
import hashlib
import json
import tempfile
import time
import traceback
import warnings
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from _harness import Finding, finish, print_table
from certify_networks import KINDS
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import PolynomialFeatures
from torch import nn

from sklearn_pgb import AddedNeuronClassifier, FeatureBasis, certify
from sklearn_pgb.check import check

PROBLEMS = 1000
LOSSES = ("squared_error", "huber", "poisson", "log_loss", "binary_log_loss", "hinge")


def draw_data(rng, loss):
    """Draw X, y and weights, perhaps with repeated samples or several outputs."""
    n, d, k = rng.integers(12, 120), rng.integers(1, 6), rng.choice([1, 1, 2, 3])
    X = rng.standard_normal((n, d)) * 10.0 ** rng.integers(-2, 3, d)
    if rng.random() < 0.3:
        X = X[rng.integers(0, n // 2, n)]
    if rng.random() < 0.2:
        X[:, 0] += 1e4
    score = np.sin(X / np.abs(X).max(0)) @ rng.standard_normal((d, k)) * 3
    score += rng.standard_normal((n, k)) * rng.choice([0.0, 0.5])
    if loss == "poisson":
        y = rng.poisson(np.exp(np.clip(score - 1, -3, 3))).astype(float)
    elif loss in ("log_loss", "hinge"):
        y = np.digitize(score[:, :1], [0.0, 1.0] if k > 1 else [0.0])
        y[:3, 0] = [0, 1, 2 if k > 1 else 0]
    elif loss == "binary_log_loss":
        y = (score > 0).astype(float)
    else:
        y = score * 10.0 ** rng.integers(-3, 4)
    weight = None
    if rng.random() < 0.4:
        weight = rng.integers(0, 4, n) + 0.5 * rng.random(n)
    return X, y[:, 0] if y.shape[1] == 1 else y, weight


def draw_network(rng, loss, X, y, weight):
    """Draw a network, trained a little or a lot, and the arguments of `certify`."""
    hidden = [int(width) for width in rng.integers(1, 12, rng.integers(1, 3))]
    seed, steps = int(rng.integers(1000)), int(rng.choice([1, 30, 2000]))
    if loss == "hinge":
        model = AddedNeuronClassifier(
            tuple(hidden), loss="smoothed_hinge", max_iter=steps, random_state=seed
        )
        return model.fit(X, y, sample_weight=weight), {}
    if loss in ("squared_error", "log_loss") and weight is None and rng.random() < 0.6:
        kind = MLPRegressor if loss == "squared_error" else MLPClassifier
        model = kind(
            hidden_layer_sizes=hidden,
            activation=rng.choice(["tanh", "relu", "identity", "logistic"]),
            solver="lbfgs",
            alpha=rng.choice([0.0, 0.0, 0.1]),
            max_iter=steps,
            random_state=seed,
        )
        return model.fit(X, y), {}
    n_outputs = 1 if y.ndim == 1 else y.shape[1]
    if loss == "log_loss":
        n_outputs = int(y.max()) + 1
    activation = [nn.Tanh, nn.ReLU, nn.Softplus][rng.integers(3)]
    torch.manual_seed(seed)
    widths, layers = [X.shape[1], *hidden, n_outputs], []
    for first, last in pairwise(widths):
        layers += [nn.Linear(first, last, dtype=torch.float64), activation()]
    layers[0].weight.data /= torch.from_numpy(np.abs(X).max(0))
    if rng.random() < 0.2:
        layers[0].weight.data[0] = layers[0].bias.data[0] = 0.0
        layers[2].weight.data[:, 0] = 0.0
    more = {"loss": loss, "penalty": rng.choice([0.0, 0.0, 0.01])}
    return nn.Sequential(*layers[:-1]), more


def certify_one(seed):
    """Certify a random network, or one of known verdict; return it and its time."""
    rng = np.random.default_rng(seed)
    weight, more = None, {}
    if seed % 2:
        problem = list(KINDS.values())[seed // 2 % len(KINDS)](rng)
        network, X, y = problem.module, problem.X, problem.y
        more["loss"] = problem.loss
    else:
        loss = LOSSES[seed // 2 % len(LOSSES)]
        X, y, weight = draw_data(rng, loss)
        network, more = draw_network(rng, loss, X, y, weight)
    if rng.random() < 0.3:
        more["bases"] = {"quadratic": FeatureBasis(PolynomialFeatures(2))}
    start = time.perf_counter()
    certificate = certify(
        network, X, y, sample_weight=weight, random_state=seed, **more
    )
    return certificate, time.perf_counter() - start


# --- changes --------------------------------------------------------------------------


def leaves(value, path=()):
    """Yield the path of every number, text and missing value of a document."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in items:
            yield from leaves(each, (*path, key))
    else:
        yield path


def changed(value, size, rng):
    """Another value of the same type, or of none; a number by at least 1e-4 `size`."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + int(rng.choice([-1, 1]))
    if isinstance(value, float):
        size = abs(size) if abs(size) > ROUNDING else 1.0
        return value + rng.choice([-1, 1]) * 10.0 ** rng.uniform(-4, 0) * size
    verdicts = ["certified_global", "not_critical", "consistent_with_local_min"]
    others = [each for each in verdicts if each != value]
    return str(rng.choice(others)) if value in verdicts else 1.0


# Labels, facts that only the network could confirm, and the limit of the Huber loss:
# the same claims may hold with another one. The digest alone protects them.
UNPROVEN = ("basis", "assumptions", "label_smoothing", "delta")

# Smaller numbers may be rounding errors of zero.
ROUNDING = 1e-9


def change_document(document, rng, forge):
    """Change one value, chosen evenly from the kinds of values."""
    paths = [path for path in leaves(document) if path[0] != "digest"]
    if forge:
        paths = [path for path in paths if not {*path} & {*UNPROVEN, "evidence"}]
    kinds = sorted(
        {tuple(key for key in path if isinstance(key, str)) for path in paths}
    )
    kind = kinds[rng.integers(len(kinds))]
    paths = [
        p for p in paths if tuple(key for key in p if isinstance(key, str)) == kind
    ]
    *parents, last = paths[rng.integers(len(paths))]
    holder, points = document, None
    for key in parents:
        holder = holder[key]
        if key in ("point", "coordinates", "center"):
            points = np.abs(np.array(holder)).max()
    size = holder[last] if points is None else points
    holder[last] = changed(holder[last], size, rng)
    return ".".join(kind)


def change_arrays(document, arrays, rng, forge):
    """Change one entry of an array, or with new digests all of them."""
    names = [name for name in arrays if arrays[name].size]
    if forge:
        # With other features or inputs, the same claims may still be true.
        names = [name for name in names if name in ("y", "weight", "raw", "penalty")]
    name = names[rng.integers(len(names))]
    array = arrays[name] = arrays[name].copy()
    change = 10.0 ** rng.uniform(-4, 0) * (np.abs(array).max() or 1.0)
    if not forge:
        array[tuple(rng.integers(size) for size in array.shape)] += change
    else:
        # One entry, or equal changes of all, may have no effect on any claim.
        array += change * rng.standard_normal(array.shape)
        head = f"{array.dtype.str} {array.shape} ".encode()
        document["evidence"][name] = hashlib.sha256(head + array.tobytes()).hexdigest()
    return name


def tamper(document, arrays, rng):
    """Change a document or its arrays; two times in three with new digests."""
    forge = rng.random() < 2 / 3
    if rng.random() < 2 / 3:
        what = change_document(document, rng, forge)
    else:
        what = change_arrays(document, arrays, rng, forge)
    if forge:
        document.pop("digest")
        text = json.dumps(document, sort_keys=True)
        document["digest"] = hashlib.sha256(text.encode()).hexdigest()
    return f"{what}{' with new digests' * forge}"


# --- campaign -------------------------------------------------------------------------


def answer(text, arrays, folder):
    """Check a document and arrays; return the answer and its time."""
    certificate, evidence = folder / "certificate.json", folder / "evidence.npz"
    certificate.write_text(text)
    np.savez(evidence, **arrays)
    start = time.perf_counter()
    return check(certificate, evidence), time.perf_counter() - start


def replay(seed, folder):
    """Certify, check, change and check again."""
    certificate, duration = certify_one(seed)
    text, evidence = certificate.to_json(), folder / "saved.npz"
    certificate.save_evidence(evidence)
    with np.load(evidence) as file:
        arrays = dict(file)
    line, checking = answer(text, arrays, folder)
    rng, document = np.random.default_rng([seed, 1]), json.loads(text)
    what = tamper(document, arrays, rng)
    changed_line, _ = answer(json.dumps(document), arrays, folder)
    return certificate.verdict, line, what, changed_line, checking / duration


def run(n, first):
    """Run the campaign; return its findings."""
    torch.set_num_threads(1)
    rows, failures = [], 0
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(first, first + n):
            try:
                rows.append(replay(seed, Path(name)))
            except Exception:
                failures += 1
                print(f"{seed}: {traceback.format_exc()}", flush=True)
                continue
            verdict, line, what, changed_line, _ = rows[-1]
            if line != "holds":
                print(f"{seed}: {verdict}: {line}", flush=True)
            if changed_line == "holds":
                print(f"{seed}: {what} was accepted", flush=True)
    header = ["verdict", "certificates", "hold", "changed", "rejected"]
    print_table("Replayed certificates", header, list(by_verdict(rows)))
    ratios = np.array([row[-1] for row in rows])
    text = f"largest {ratios.max():.2f}, median {np.median(ratios):.2f}"
    hold = sum(row[1] == "holds" for row in rows)
    rejected = sum(row[3] != "holds" for row in rows)
    claims = (
        ("all certificates hold", f"{hold} of {n}", hold == n),
        ("all changed certificates are rejected", f"{rejected} of {n}", rejected == n),
        ("time of a check / certificate's: ≤ 10", text, bool(ratios.max() <= 10)),
    )
    return [Finding(*claim, complete=n >= PROBLEMS) for claim in claims]


def by_verdict(rows):
    """Yield the numbers of one verdict."""
    for verdict, count in Counter(row[0] for row in rows).most_common():
        own = [row for row in rows if row[0] == verdict]
        hold = sum(row[1] == "holds" for row in own)
        rejected = sum(row[3] != "holds" for row in own)
        yield [verdict, f"{count}", f"{hold}", f"{count}", f"{rejected}"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=PROBLEMS, help="number of certificates")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    arguments = parser.parse_args()
    finish(run(arguments.n, arguments.first))
