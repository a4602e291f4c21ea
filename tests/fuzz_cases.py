"""Random calls of the public API, as source text that can be run again.

A case is a list of statements in the names of `fuzz_data` and of the package. Each
statement knows the arguments that are odd or invalid in it: an error may name these.
"""

import inspect
import re
from dataclasses import dataclass, field

from fuzz_draft import (
    BAD_NETWORKS,
    HUGE,
    JUNK,
    OWN_VALUES,
    RESERVED,
    UNBOUNDED,
    VALUES,
    Draft,
)

import sklearn_pgb


@dataclass
class Step:
    """One statement, and the names of its odd and given arguments."""

    text: str
    odd: frozenset = frozenset()
    # Parameters are changed on purpose.
    sets: bool = False


@dataclass
class Case:
    """Statements of one call, and words that its errors may name."""

    kind: str
    setup: list = field(default_factory=list)
    steps: list = field(default_factory=list)
    # Whether every random state is a number, so that no global generator is drawn from.
    seeded: bool = True

    def line(self, last=None):
        """The case as one line of Python."""
        names = "from fuzz_data import *; "
        steps = [step.text for step in self.steps]
        return names + "; ".join(
            self.setup + steps[: None if last is None else last + 1]
        )


# --- cases ----------------------------------------------------------------------------


def draw(seed, index):
    """The case of one index."""
    draft = Draft([seed, index])
    kind = draft.one(KINDS)
    case = Case(kind.__name__)
    case.setup = [f"X = {draft.inputs()}"]
    kind(draft, case)
    case.seeded = draft.seeded
    return case


def _step(draft, text, odd=(), sets=False):
    """A step of a case; errors may name what is odd so far and what is odd in it."""
    names = frozenset(draft.odd | draft.given | set(odd))
    return Step(text, names, sets)


def _fit(draft, case, name, counts=False):
    """Set a model and its data up, and fit it."""
    model = draft.model(name)
    counts = counts or "'poisson'" in model
    case.setup += [f"y = {draft.targets(counts=counts)}", f"m = {model}"]
    call = "m.fit(X, y"
    weights = draft.weights()
    if weights:
        draft.given.add("sample_weight")
        call += f", sample_weight={weights}"
    signature = inspect.signature(_class(draft, name).fit).parameters
    if "X_val" in signature and draft.chance(0.12):
        draft.given |= {"X_val", "y_val"}
        if not draft.chance(0.2 * draft.rate):
            call += f", X_val={draft.inputs(8)}"
        if not draft.chance(0.2 * draft.rate):
            call += f", y_val={draft.targets(8, counts)}"
    if "groups" in signature and draft.chance(0.15 + 0.8 * ("Group" in model)):
        draft.given.add("groups")
        groups = f"np.arange({draft.n}) // 3"
        if draft.chance(draft.rate):
            draft.odd.add("groups")
            groups = draft.one([f"np.arange({draft.n + 1})", "'abc'", "3", "[[1]]"])
        call += f", groups={groups}"
    case.steps.append(_step(draft, call + ")"))


def _class(draft, name):
    """Class of a kind of model."""
    if name == "GradientBasisRefit":
        return sklearn_pgb.GradientBasisRefit
    return getattr(sklearn_pgb, name + draft.ending())


def _uses(draft, case, name):
    """Add uses of a fitted model."""
    for _ in range(draft.rng.integers(1, 4)):
        before = set(draft.odd)
        use = draft.one(["predict", "predict", "new", "set", "score", "life", "own"])
        method = draft.one(["predict", "predict", *METHODS[name]])
        text = f"m.{method}(X)"
        if use == "new":
            p = draft.p
            if draft.chance(draft.rate):
                p = draft.one([p + 1, 1, 2 * p])
                draft.odd.add("X")
            text = f"m.{method}({draft.inputs(draft.one([1, 2, 7]), p)})"
        elif use == "set" and draft.chance(0.5):
            text = _set_params(draft, name)
            case.steps.append(_step(draft, text, sets=True))
            text = draft.one([f"m.{method}(X)", "m.fit(X, y)"])
        elif use == "score":
            text = draft.one(["m.score(X, y)", "m.score(X, y, np.ones(len(y)))"])
        elif use == "life":
            text = draft.one(LIFE)
            if "joblib.hash" in text and re.search("GridSearchCV|lambda", case.line()):
                # Masked arrays of a search and lambdas are more than joblib can hash.
                text = "clone(m)"
        elif use == "own":
            text = draft.one(OWN_USES[name])
            if "X[:1]" in text and re.search("'(coo|dia|bsr)_", case.setup[0]):
                # SciPy takes no rows of these.
                text = "m.partial_fit(X, y)"
        text = text.replace("len(y)", str(draft.n))
        case.steps.append(_step(draft, text, NAMED_BY.get(text, ())))
        if use == "new":
            draft.odd = before


def _set_params(draft, name):
    """Statement that sets a parameter of a fitted model."""
    owner = _class(draft, name)
    parameters = [p for p in inspect.signature(owner).parameters if p not in RESERVED]
    parameter = draft.one(parameters)
    values = [v for v in JUNK if v not in HUGE or parameter not in UNBOUNDED]
    if draft.chance(0.7):
        values = OWN_VALUES.get(owner.__name__, {}).get(parameter)
        values = values or VALUES.get(parameter) or ("None",)
    draft.odd.add(parameter)
    return f"m.set_params({parameter}={draft.one(values)})"


METHODS = {
    "AddedNeuron": ("predict_proba", "decision_function", "predict_log_proba"),
    "ResNetBasis": ("predict_proba", "decision_function", "predict_log_proba"),
    "GradientBasisRefit": ("predict_proba", "decision_function", "transform"),
}
LIFE = (
    "pickle.loads(pickle.dumps(m)).predict(X)", "copy.deepcopy(m).predict(X)",
    "clone(m)", "repr(m)", "m._repr_html_()", "m.get_metadata_routing()",
    "m.fit(X, y)", "m.__sklearn_tags__()", "clone(m).fit(X, y).predict(X)",
    "joblib.hash(m)",
)  # fmt: skip
OWN_USES = {
    "AddedNeuron": (
        *("m.partial_fit(X, y)", "m.partial_fit(X, y)", "m.partial_fit(X[:1], y[:1])"),
        *("m.module_", "m.loss_curve_"),
        "TrainingDisplay.from_estimator(m)",
        "m.partial_fit(X, y, np.ones(len(y)))",
    ),
    "ResNetBasis": (
        *("m.stationarity(X, y)", "m.residual_weights()"),
        "m.closed_form(X, y) if hasattr(m, 'closed_form') else None",
        *("TrainingDisplay.from_estimator(m)", "LayerBasis(m).fit(X).features(X)"),
    ),
    "GradientBasisRefit": (
        *("m.predict(X, return_std=True)", "m.fit_transform(X, y)"),
        *("m.get_feature_names_out()", "m.set_output(transform='pandas').transform(X)"),
        "m.predict(X, return_std='bogus')",
    ),
}


# What an error of a statement may name beyond the odd parts of its case.
NAMED_BY = {
    "LayerBasis(m).fit(X).features(X)": ["y"],
    "m.residual_weights()": ["n_outputs"],
}


def added_neuron(draft, case):
    """Fit a network of the package and use it."""
    if draft.chance(0.25):
        return _partial_fits(draft, case)
    _fit(draft, case, "AddedNeuron")
    _uses(draft, case, "AddedNeuron")


def _partial_fits(draft, case):
    """Train a network part by part."""
    model = draft.added()
    y = draft.targets(counts="'poisson'" in model)
    case.setup += [f"y = {y}", f"m = {model}"]
    if draft.classifies:
        case.setup.append("classes = distinct(y)")
        words = draft.one([", classes=classes", "", ", classes=classes"])
        if draft.chance(draft.rate):
            draft.odd.add("classes")
            words = f", classes={draft.one(JUNK)}"
    else:
        words = ""
    case.steps.append(_step(draft, f"m.partial_fit(X, y{words})", ["classes"]))
    before = set(draft.odd)
    for _ in range(draft.rng.integers(1, 3)):
        n = draft.one([1, 5, 20])
        call = f"m.partial_fit({draft.inputs(n)}, {draft.targets(n)})"
        case.steps.append(_step(draft, call, ["classes", "y"]))
        draft.odd = before
    _uses(draft, case, "AddedNeuron")


def resnet_basis(draft, case):
    """Fit a ResNet basis model and use it."""
    _fit(draft, case, "ResNetBasis")
    _uses(draft, case, "ResNetBasis")


def refit(draft, case):
    """Fit a refit and use it."""
    _fit(draft, case, "GradientBasisRefit")
    _uses(draft, case, "GradientBasisRefit")


def certificate(draft, case):
    """Certify a network."""
    network, is_module = _subject(draft)
    case.setup += [f"y = {draft.targets()}", f"m = {network}"]
    if not is_module:
        case.steps.append(_step(draft, "m.fit(X, y)"))
    words = draft.params("certify", likely=0.05)
    if is_module and not any(word.startswith("loss") for word in words):
        words.append("loss='log_loss'" if draft.classifies else "loss='squared_error'")
    if weights := draft.weights():
        draft.given.add("sample_weight")
        words.append(f"sample_weight={weights}")
    X, y = "X", "y"
    if draft.chance(0.3 * draft.rate):
        draft.odd.add("X")
        X = draft.inputs(draft.n, draft.p + 1)
    call = ", ".join([f"m, {X}, {y}", *words])
    use = draft.one(
        [
            "c = certify({})",
            "c = certify({})",
            "print(certify({}))",
            "certify({}).to_frame()",
            "CertificateDisplay.from_estimator({})",
        ]
    )
    case.steps.append(_step(draft, use.format(call)))


def _subject(draft):
    """A network to certify, and whether it is a module."""
    if draft.chance(0.15):
        draft.given.add("module")
        return draft.module(), True
    if draft.chance(0.3 * draft.rate):
        draft.odd.add("estimator")
        odd = [draft.refit(), draft.resnet(), "LogisticRegression()", "Ridge()"]
        return draft.one(odd), False
    return draft.network(), False


def comparison(draft, case):
    """Compare bases."""
    case.setup.append(f"y = {draft.targets()}")
    bases = {f"'{name}'": _basis(draft, name) for name in _some(draft, _BASES)}
    if draft.chance(0.4):
        bases["'model'"] = draft.one([draft.refit, draft.added, draft.resnet])()
    if draft.chance(0.3 * draft.rate):
        draft.odd.add("bases")
        bases[draft.one(["1", "None", "'x'"])] = draft.one(JUNK)
    text = ", ".join(f"{key}: {value}" for key, value in bases.items())
    words = draft.params("compare_bases", likely=0.06)
    if not any(word.startswith("cv=") for word in words):
        words.append("cv=2")
        draft.given.add("cv")
    if weights := draft.weights():
        draft.given.add("sample_weight")
        words.append(f"sample_weight={weights}")
    call = ", ".join([f"{{{text}}}, X, y", *words])
    use = draft.one(
        [
            "c = compare_bases({})",
            "print(compare_bases({}))",
            "compare_bases({}).to_frame()",
            "BasisComparisonDisplay.from_comparison(compare_bases({}))",
        ]
    )
    case.steps.append(_step(draft, use.format(call)))


def _some(draft, names):
    """One or two of some names."""
    return draft.rng.choice(names, size=draft.rng.integers(1, 3), replace=False)


_BASES = ["InputBasis", "FeatureBasis", "GradientBasis", "LayerBasis"]
_BASES += ["PerturbedGradientBasis"]


def _basis(draft, name):
    """Expression of a basis."""
    words = draft.params(name)
    if name == "InputBasis":
        return f"InputBasis({', '.join(words)})"
    if name == "FeatureBasis":
        return f"FeatureBasis({', '.join([draft.transformer(), *words])})"
    residual = name == "LayerBasis" and draft.chance(0.3)
    network = draft.resnet() if residual else draft.network()
    if draft.chance(0.3 * draft.rate):
        draft.odd |= {"estimator", "bases"}
        network = draft.one(BAD_NETWORKS)
    return f"{name}({', '.join([network, *words])})"


def bases(draft, case):
    """Fit a basis and evaluate it."""
    name = draft.one(_BASES)
    draft.given.add("y")
    case.setup += [f"y = {draft.targets()}", f"b = {_basis(draft, name)}"]
    case.steps.append(
        _step(draft, draft.one(["b.fit(X, y)", "b.fit(X, y)", "b.fit(X)"]))
    )
    draft.given.add("n_outputs")
    k = draft.one(["1", "1", "3", "3", "2"])
    if draft.chance(draft.rate):
        draft.odd.add("n_outputs")
        k = draft.one(JUNK)
    uses = [f"b.operator(X, {k}).dense()", "repr(b)", "b.features(X)", "clone(b)"]
    case.steps.append(_step(draft, draft.one(uses)))
    rows = f"b.operator({draft.inputs(4)}, {k}).dense()"
    case.steps.append(_step(draft, rows))


def survey(draft, case):
    """Survey the minima of a network."""
    network = draft.peer() if draft.chance(0.5) else draft.network()
    if draft.chance(0.5 * draft.rate):
        draft.odd.add("estimator")
        network = draft.one(BAD_NETWORKS)
    if "{'hidden_layer_sizes'" in network:
        # Ends of networks of several sizes can't be compared.
        draft.odd.add("estimator")
    case.setup += [f"y = {draft.targets()}", f"m = {network}"]
    words = [w for w in draft.params("survey_minima") if not w.startswith("n_starts")]
    words.append(f"n_starts={draft.one(['2', '3'])}")
    if draft.chance(0.3 * draft.rate):
        draft.odd.add("n_starts")
        junk = [j for j in JUNK if j not in HUGE]
        words[-1] = f"n_starts={draft.one(junk)}"
    if not any(word.startswith("polish_iter") for word in words):
        words.append("polish_iter=20")
    if weights := draft.weights():
        draft.given.add("sample_weight")
        words.append(f"sample_weight={weights}")
    call = ", ".join(["m, X, y", *words])
    use = draft.one(
        [
            "s = survey_minima({})",
            "print(survey_minima({}))",
            "survey_minima({}).to_frame()",
            "MinimaSurveyDisplay.from_survey(survey_minima({}))",
        ]
    )
    case.steps.append(_step(draft, use.format(call)))


def displays(draft, case):
    """Draw something."""
    calls = {
        "TrainingDisplay": ["[3.0, 2.0, 1.0]"],
        "MinimaSurveyDisplay": ["[1.0, 2.0, 2.0]"],
        "BasisComparisonDisplay": [
            "['a', 'b']",
            "[1.0, 2.0]",
            "[0.5, 1.0]",
            "[0.1, 0.2]",
        ],
        "CertificateDisplay": ["None"],
    }
    name = draft.one(calls)
    words = list(calls[name])
    target = getattr(sklearn_pgb, name)
    signature = [
        p for p in inspect.signature(target).parameters.values() if p.name != "kwargs"
    ]
    for position, parameter in enumerate(signature):
        draft.given.add(parameter.name)
        if draft.chance(0.4 * draft.rate):
            draft.odd.add(parameter.name)
            if position < len(words):
                words[position] = draft.one(JUNK)
            elif parameter.name not in UNBOUNDED:
                words.append(f"{parameter.name}={draft.one(JUNK)}")
    if "." in name:
        words.append("resolution=4")
        case.steps.append(_step(draft, f"{name}({', '.join(words)})"))
        return
    case.setup.append(f"d = {name}({', '.join(words)})")
    draft.given |= {"ax", "kind", "line_kw", "bar_kw"}
    plot = draft.one(["d.plot()", "d.plot()", f"d.plot({draft.one(JUNK)})"])
    case.steps.append(_step(draft, plot))


KINDS = [added_neuron] * 6 + [refit] * 6 + [resnet_basis] * 5 + [certificate] * 3
KINDS += [comparison, survey, bases] * 2 + [displays]
