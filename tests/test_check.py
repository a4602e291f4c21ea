"""Certificates are replayed by a program that shares no code with the package."""

import ast
import hashlib
import json
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from certificate_cases import embedded_unit, polished_mlp, saddle
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import PolynomialFeatures
from torch import nn

import sklearn_pgb.check
from sklearn_pgb import (
    AddedNeuronClassifier,
    FeatureBasis,
    ResNetBasisClassifier,
    ResNetBasisRegressor,
    certify,
)
from sklearn_pgb._certificate import _examine
from sklearn_pgb.check import check as replay


def data(seed, n=40, d=3, k=1):
    """Inputs with repeated samples, and smooth targets with noise."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    X[-5:] = X[:5]
    y = np.sin(X) @ rng.standard_normal((d, k)) + 0.3 * rng.standard_normal((n, k))
    return X, y if k > 1 else y[:, 0], rng.random(n) + 0.1


def module(d, k, hidden=4):
    torch.manual_seed(0)
    layers = nn.Linear(d, hidden), nn.Tanh(), nn.Linear(hidden, k)
    return nn.Sequential(*layers).double()


def regressor():
    X, y, _ = data(0)
    network = MLPRegressor(
        hidden_layer_sizes=(5,), activation="tanh", random_state=0, max_iter=20
    )
    bases = {"quadratic": FeatureBasis(PolynomialFeatures(2))}
    return certify(network.fit(X, y), X, y, bases=bases)


def two_targets():
    X, y, weight = data(1, k=2)
    return certify(module(3, 2), X, y, loss="squared_error", sample_weight=weight)


def counts():
    X, y, weight = data(2)
    y = np.round(np.exp(y))
    return certify(module(3, 1), X, y, loss="poisson", sample_weight=weight)


def outliers():
    X, y, _ = data(3)
    return certify(module(3, 1), X, y, loss="huber", penalty=0.01)


def two_labels():
    X, y, _ = data(4)
    network = MLPClassifier(4, random_state=0, solver="lbfgs", alpha=0.1)
    return certify(network.fit(X, y > 0), X, y > 0)


def three_labels():
    X, y, _ = data(5)
    labels = np.digitize(y, [-0.5, 0.5])
    network = MLPClassifier(3, random_state=0, solver="lbfgs", max_iter=50)
    return certify(network.fit(X, labels), X, labels)


def indicators():
    X, y, weight = data(6, k=2)
    loss = "binary_log_loss"
    return certify(module(3, 2), X, y > 0, loss=loss, sample_weight=weight)


def margins():
    X, y, weight = data(7)
    network = AddedNeuronClassifier((4,), loss="smoothed_hinge", random_state=0)
    network.fit(X, y > 0, sample_weight=weight)
    return certify(network, X, y > 0, sample_weight=weight)


def separated():
    X, y, _ = data(8, n=20)
    network = MLPClassifier(9, random_state=0, solver="lbfgs", alpha=0, max_iter=2000)
    X, y = X[:15], y[:15] > 0
    return certify(network.fit(X, y), X, y)


def linear():
    X, y, _ = data(9)
    network = MLPRegressor(
        hidden_layer_sizes=(3,), activation="identity", random_state=0, alpha=0
    )
    polished = polished_mlp(network, X, y, lambda network: np.zeros(network.n_params))
    return certify(polished, X, y)


def penalized_line():
    X, y, weight = data(11)
    return certify(Ridge().fit(X, y, weight), X, y, sample_weight=weight)


def penalized_labels():
    X, y, _ = data(12)
    labels = np.digitize(y, [-0.5, 0.5])
    return certify(LogisticRegression().fit(X, labels), X, labels)


def untrained_line():
    X, y, _ = data(13)
    torch.manual_seed(0)
    return certify(nn.Linear(3, 1), X, y, loss="squared_error", penalty=1e-3)


def interpolation():
    X = np.linspace(-1, 1, 6)[:, None]
    y = np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    network = MLPRegressor(
        hidden_layer_sizes=(20,),
        activation="tanh",
        solver="lbfgs",
        alpha=0,
        tol=1e-12,
        max_iter=5000,
    )
    return certify(network.set_params(random_state=0).fit(X, y), X, y)


def at_saddle():
    network, X, y = saddle()
    return certify(network, X, y, loss="squared_error", random_state=0)


def embedded():
    network, X, y = embedded_unit()
    return certify(network, X, y, loss="squared_error", random_state=0)


def too_large_to_factorize():
    X, y, _ = data(10)
    return certify(module(3, 1), X, y, loss="squared_error", max_memory=2000)


CASES = {
    regressor: "not_critical",
    two_targets: "not_critical",
    counts: "not_critical",
    outliers: "not_critical",
    two_labels: "not_critical",
    three_labels: "not_critical",
    indicators: "not_critical",
    margins: "not_critical",
    separated: "not_critical",
    linear: "certified_global",
    penalized_line: "certified_global",
    penalized_labels: "certified_global",
    untrained_line: "not_critical",
    interpolation: "certified_global",
    at_saddle: "not_local_min",
    embedded: "not_local_min",
    too_large_to_factorize: "not_critical",
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The certificate of each case, its text and its evidence, on demand."""
    found = {}

    def export(case):
        if case not in found:
            path = tmp_path_factory.mktemp("evidence") / "evidence.npz"
            certificate = case()
            certificate.save_evidence(path)
            with np.load(path) as file:
                found[case] = certificate, certificate.to_json(), dict(file)
        return found[case]

    return export


@pytest.fixture
def check(tmp_path):
    """Check a document with arrays; return the answer."""

    def run(document, arrays):
        text = document if isinstance(document, str) else json.dumps(document)
        (tmp_path / "certificate.json").write_text(text)
        np.savez(tmp_path / "evidence.npz", **arrays)
        return replay(*(tmp_path / name for name in NAMES))

    return run


NAMES = "certificate.json", "evidence.npz"


def forge(document, arrays=None):
    """Give a changed document the digests of its content and of changed arrays."""
    document = json.loads(json.dumps(document))
    for name, array in (arrays or {}).items():
        head = f"{array.dtype.str} {array.shape} ".encode()
        name_digest = hashlib.sha256(head + array.tobytes()).hexdigest()
        document["evidence"][name] = name_digest
    document.pop("digest")
    text = json.dumps(document, sort_keys=True)
    return {**document, "digest": hashlib.sha256(text.encode()).hexdigest()}


def single_changes(document):
    """Yield a path of each kind of number, text and missing value, and a new value."""
    seen = set()

    def visit(value, path):
        if isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, each in items:
                yield from visit(each, (*path, key))
            return
        # One point of each kind, but every row of the table.
        kind = path[:3] if path[0] == "table" else path[:3:2] + path[1:2]
        if kind not in seen and path[0] not in ("digest", "evidence", "assumptions"):
            seen.add(kind)
            yield path, value

    for path, value in visit(document, ()):
        if path[-1] in ("basis", "label_smoothing", "delta"):
            continue
        if isinstance(value, bool):
            yield path, not value
        elif isinstance(value, int):
            yield path, value + 1
        elif isinstance(value, float):
            yield path, value * 0.9 - 0.01
            yield path, value * 1.1 + 0.01
        else:
            yield path, 1.0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_certificate_holds(case, exported, check):
    certificate, text, arrays = exported(case)
    assert certificate.verdict == CASES[case]
    assert check(text, arrays) == "holds"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_every_changed_value_is_rejected_although_its_digest_fits(
    case, exported, check
):
    _, text, arrays = exported(case)
    for path, value in single_changes(json.loads(text)):
        document = json.loads(text)
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value
        assert check(forge(document), arrays) != "holds", f"{path}: {value}"


@pytest.mark.parametrize("verdict", sorted(set(CASES.values())))
@pytest.mark.parametrize("case", [regressor, linear, at_saddle])
def test_other_verdict_is_rejected(case, verdict, exported, check):
    _, text, arrays = exported(case)
    document = json.loads(text)
    if document["claims"]["verdict"] != verdict:
        document["claims"]["verdict"] = verdict
        assert check(forge(document), arrays).startswith("fails: verdict: claimed")


@pytest.mark.parametrize("name", ["y", "weight", "raw", "features_0", "X", "theta"])
def test_changed_array_is_rejected(name, exported, check):
    _, text, arrays = exported(regressor)
    changed = arrays[name].copy()
    changed.flat[0] += 0.1
    line = check(text, {**arrays, name: changed})
    assert f"evidence '{name}': changed, or that of another certificate" in line
    if name in ("y", "weight", "raw", "features_0"):
        document = forge(json.loads(text), {name: changed})
        assert check(document, {**arrays, name: changed}) != "holds"


def test_gradient_step_replaces_a_failed_solution(monkeypatch, tmp_path):
    solve = _examine.solve_basis

    def fail(problem, *args, attained_loss=np.inf, **known):
        result = solve(problem, *args, attained_loss=attained_loss, **known)
        if problem.offset is None:
            return result
        return replace(result, value=attained_loss, steady=attained_loss)

    monkeypatch.setattr(_examine, "solve_basis", fail)
    certificate = two_targets()
    assert certificate.verdict == "not_critical"
    assert certificate.row("gradient").excess > certificate.tolerance
    paths = [tmp_path / name for name in NAMES]
    paths[0].write_text(certificate.to_json())
    certificate.save_evidence(paths[1])
    assert replay(*paths) == "holds"


def test_evidence_of_another_certificate_is_rejected(exported, check):
    text, arrays = exported(regressor)[1], exported(two_targets)[2]
    assert "that of another certificate" in check(text, arrays)


def test_bound_with_a_smaller_residual_is_not_proven(exported, check):
    # All numbers that follow from the residual are consistent with it.
    _, text, arrays = exported(regressor)
    document = json.loads(text)
    row = document["table"][0]
    dual = row["dual"]
    dual["residual"] = 0.0
    row["lower_bound"] = dual["bound"] = dual["value"]
    assert re.search("dual: claimed .*, proven", check(forge(document), arrays))


def test_dual_outside_of_its_domain_is_rejected(exported, check):
    # Moved into the domain, it would prove the same bound.
    _, text, arrays = exported(margins)
    document = json.loads(text)
    row = document["table"][0]
    point = np.array(row["dual"]["point"])
    idle = np.flatnonzero(point[:, 0] == 0)[0]
    row["dual"]["point"][idle][0] = float(arrays["y"][idle, 0])
    line = check(forge(document), arrays)
    assert "dual: outside of the conjugate's domain" in line


def test_unknown_version_and_format_can_not_be_checked(exported, check):
    _, text, arrays = exported(regressor)
    line = check({**json.loads(text), "version": 1}, arrays)
    assert "version must be 2, got 1. Use the release that wrote the file" in line
    line = check({"format": "another"}, arrays)
    assert "must be the text of Certificate.to_json" in line
    assert "has the wrong form (JSONDecodeError" in check("no json", arrays)


def test_missing_part_fails(exported, check):
    _, text, arrays = exported(regressor)
    document = json.loads(text)
    del document["claims"]["floor"]
    line = check(forge(document), arrays)
    assert "a part is missing or has the wrong form (KeyError('floor'))" in line
    assert "missing 1 required positional argument: 'evidence'" in replay("a.json")


def test_command_line(exported, tmp_path):
    certificate, text, _ = exported(regressor)
    paths = [tmp_path / name for name in NAMES]
    paths[0].write_text(text)
    certificate.save_evidence(paths[1])

    def run(*arguments):
        command = [sys.executable, "-m", "sklearn_pgb.check", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.strip()

    assert run(*paths) == (0, "holds")
    paths[0].write_text(text.replace('"not_critical"', '"certified_global"'))
    status, line = run(*paths)
    assert status == 1
    assert line.startswith("fails: digest")
    status, line = run(paths[1], paths[0])
    assert status == 1
    assert re.fullmatch("fails: .* form .UnicodeDecodeError[ -~]*", line)
    assert run(paths[0]) == (1, sklearn_pgb.check.__doc__.strip())
    assert run("--help") == run("-h") == (0, sklearn_pgb.check.__doc__.strip())


def test_checker_is_independent_and_short():
    source = Path(sklearn_pgb.check.__file__).read_text(encoding="utf-8")
    tree = ast.parse(source)
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert imported == {"hashlib", "json", "sys", "numpy"}
    assert len(source.splitlines()) <= 300


def test_pickled_certificate_has_no_evidence(exported):
    certificate = exported(regressor)[0]
    copied = pickle.loads(pickle.dumps(certificate))
    assert copied.table == certificate.table
    assert len(pickle.dumps(certificate)) < 10_000
    for export in (copied.to_json, lambda: copied.save_evidence("evidence.npz")):
        with pytest.raises(ValueError, match=r"pickled or copied certificate has none"):
            export()


def test_features_must_fit_into_memory(exported, tmp_path):
    certificate = exported(regressor)[0]
    with pytest.raises(ValueError, match=r"max_memory must hold the features of each"):
        certificate.save_evidence(tmp_path / "evidence.npz", max_memory="1KB")
    with pytest.raises(ValueError, match=r"max_memory must hold the features of each"):
        certificate.to_json(max_memory=1000)


# --- sizes at which rounding matters -------------------------------------------------


def test_penalized_certificate_needs_its_tilted_row(exported, check):
    """Losses without penalty would be compared with an objective with it."""
    _, text, arrays = exported(penalized_line)
    document = json.loads(text)
    document["table"] = [
        row for row in document["table"] if row["basis"] != "tilted gradient"
    ]
    document["convex"] = None
    document["claims"]["verdict"] = "not_critical"
    assert check(forge(document), arrays).startswith("fails")


def test_convex_bound_needs_a_linear_model(exported, check):
    """The bound of another model on the same data says nothing."""
    _, text, arrays = exported(penalized_line)
    document = json.loads(text)
    document["assumptions"]["linear"] = None
    assert check(forge(document), arrays) == "fails: linear: missing"


def test_values_are_those_of_the_coefficients(check, tmp_path):
    """Long coefficients of equal columns leave room for any value."""
    X, y, _ = data(13)
    X = np.column_stack([X, X[:, 0]])
    certificate = certify(LinearRegression().fit(X, y), X, y)
    assert exported_holds(certificate, tmp_path) == "holds"
    document = json.loads(certificate.to_json())
    with np.load(tmp_path / NAMES[1]) as file:
        arrays = dict(file)
    row = next(row for row in document["table"] if row["basis"] == "gradient")
    columns = arrays[row["features"]][:, 0]
    first, second = np.flatnonzero((columns == columns[:, :1]).all(0))[:2]
    offset = len(row["coordinates"]) - columns.shape[1]
    coordinates = np.array(row["coordinates"])
    coordinates[[offset + first, offset + second]] += [[1e15], [-1e15]]
    row["coordinates"] = coordinates.tolist()
    row["norm"] = float(np.linalg.norm(coordinates))
    row["value"] = row["lower_bound"] = 0.0
    document["convex"], document["assumptions"]["linear"] = None, None
    document["claims"]["verdict"] = "not_critical"
    assert check(forge(document), arrays).startswith("fails")


@pytest.mark.parametrize("draw", [0, 1, 2, 3])
def test_certificates_of_confident_classes_hold(draw, tmp_path):
    """Probabilities of nearly one are rounded, and their duals leave the simplex."""
    rng = np.random.default_rng(draw)
    X = rng.normal(size=(60, 3))
    labels = np.digitize(X @ [1, 2, 3.0], [-1, 1])
    model = LogisticRegression(C=1e6, tol=1e-12, max_iter=5000).fit(X, labels)
    assert exported_holds(certify(model, X, labels), tmp_path) == "holds"


def test_certificates_of_large_inputs_hold(tmp_path):
    """One minus a probability cancels, and the columns multiply what is left."""
    X = np.round(1e10 * np.random.default_rng(0).normal(size=(40, 2)))
    labels = X[:, 0] > 0
    certificate = certify(LogisticRegression().fit(X, labels), X, labels)
    assert certificate.verdict == "certified_global"
    assert exported_holds(certificate, tmp_path) == "holds"


def exported_holds(certificate, folder):
    paths = [folder / name for name in NAMES]
    paths[0].write_text(certificate.to_json())
    certificate.save_evidence(paths[1])
    return replay(*paths)


def breast_cancer():
    X, y = (part[:200] for part in load_breast_cancer(return_X_y=True))
    network = ResNetBasisClassifier(random_state=0, max_iter=20)
    return certify(network.fit(X, y), X, y)


def diabetes():
    X, y = load_diabetes(return_X_y=True, scaled=False)
    network = ResNetBasisRegressor(cv=None, alpha=1e-3, max_iter=20, random_state=0)
    return certify(network.fit(X, y), X, y)


def large_targets():
    X, y, _ = data(14, n=100)
    network = MLPRegressor(max_iter=1, random_state=0).fit(X, 1e8 * y)
    return certify(network, X, 1e8 * y)


def large_errors():
    X, y, _ = data(15)
    torch.manual_seed(0)
    return certify(nn.Sequential(nn.Linear(3, 1)), X, 1e8 * y, loss="huber")


def rare_labels():
    X, _, _ = data(17)
    y, weight = (np.arange(40) == 0), np.where(np.arange(40) == 0, 1e-12, 1.0)
    return certify(module(3, 1), X, y, loss="binary_log_loss", sample_weight=weight)


def head_at_a_kink():
    X, y, _ = data(19)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    nn.init.zeros_(network[0].weight), nn.init.zeros_(network[0].bias)
    return certify(network, X, y, loss="squared_error", penalty=1e-2)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "case",
    [
        breast_cancer,
        diabetes,
        large_targets,
        large_errors,
        rare_labels,
        head_at_a_kink,
    ],
)
def test_certificates_hold_at_any_size(case, tmp_path):
    """Claims are compared up to the rounding of what they are computed from."""
    assert exported_holds(case(), tmp_path) == "holds"


def test_rounded_zeros_are_probabilities():
    """Moved into the domain, a dual point may be negative in the last digit."""
    conjugate = sklearn_pgb.check.formulas("log_loss")[2]
    y = np.array([[1.0, 0.0]], np.longdouble)
    rounded = np.array([[-1e-19, 1e-19]], np.longdouble) * [[0, 1]] - [[0, 2e-19]]
    assert np.isfinite(conjugate(y, rounded)).all()
    with np.errstate(invalid="ignore"):
        assert np.isnan(conjugate(y, np.array([[1e-3, -1e-3]]))).any()


@pytest.mark.parametrize("loss", ["squared_error", "binary_log_loss", "poisson"])
def test_certificates_of_very_different_weights_hold(loss, tmp_path):
    """Large outputs of samples with small weights make bounds cautious."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        X, weight = rng.normal(size=(10, 2)), 10.0 ** rng.uniform(-12, 12, 10)
        y = rng.normal(size=10)
        y = y if loss == "squared_error" else (y > 0).astype(float)
        network = nn.Linear(2, 1).double()
        network.weight.data = torch.from_numpy(rng.normal(size=(1, 2)))
        network.weight.data *= 100 if loss == "squared_error" else 1
        penalty = 0.0 if seed % 2 else 1e-9
        certificate = certify(
            network, X, y, loss=loss, sample_weight=weight, penalty=penalty
        )
        assert exported_holds(certificate, tmp_path) == "holds"


def test_value_of_a_perfect_fit_may_have_a_rounding_error(tmp_path):
    """One sample is interpolated; its value is the error of rounded outputs."""
    for seed in range(8):
        X, y = np.random.default_rng(seed).normal(size=(2, 1, 1)) * 1e3
        network = module(1, 1).double()
        certificate = certify(network, X, y[:, 0], loss="squared_error", penalty=1e-8)
        assert exported_holds(certificate, tmp_path) == "holds"
