"""Random parts of a call: data, parameters and estimators, as source text."""

import inspect

import fuzz_data as data
import numpy as np

import sklearn_pgb

JUNK = (
    "'bogus'", "''", "'1'", "b'x'", "None", "object()", "len", "[]", "{}", "()",
    "-1", "0", "1", "-0.5", "0.5", "1.5", "True", "nan", "inf", "-inf", "1e308",
    "1e-308", "10**30", "-(10**30)", "2**63", "1 + 2j", "NA", "np.float64(nan)",
    "np.array([1, 2])", "np.array(2)", "np.int64(3)", "np.float32(0.5)", "(1, 2)",
    "[1, 2, 3]", "[0.1, -1.0]", "{0: 1.0}", "'auto'", "module('linear', 2, 1)", "int",
    "Ridge()",
)  # fmt: skip
HUGE = ("10**30", "2**63", "inf", "1e308")
# A huge number of these is an honest order for work without end.
UNBOUNDED = {"max_iter", "n_starts", "n_models", "polish_iter", "resolution"}

# Valid values by parameter; those of other parameters stay at the default.
VALUES = {
    "hidden_layer_sizes": ("()", "3", "(4,)", "(4, 3)", "[2]", "np.array([3, 2])"),
    "activation": (
        *("'identity'", "'logistic'", "'tanh'", "'relu'", "'silu'", "'gelu'"),
        *("'gelu_tanh'", "'elu'", "'softplus'", "'leaky_relu'"),
    ),
    "alpha": ("0.0", "1e-4", "0.1", "10", "1e-14", "1e6"),
    "neuron_penalty": ("0.1", "1e-6", "1e3"),
    "batch_size": ("1", "3", "1000", "'auto'"),
    "learning_rate": ("'anneal'", "'constant'", "'invscaling'", "'adaptive'"),
    "learning_rate_init": ("0.1", "1e-5", "10.0"),
    "power_t": ("0.0", "1.0"),
    "shuffle": ("False",),
    "tol": ("1e-3", "1e-8", "0.5"),
    "n_starts": ("2", "3"),
    "global_move": ("'restart'",),
    "momentum": ("0.0", "0.5"),
    "nesterovs_momentum": ("False",),
    "early_stopping": ("True",),
    "validation_fraction": ("0.3", "0.5", "0.02"),
    "beta_1": ("0.5",),
    "beta_2": ("0.9",),
    "epsilon": ("1e-4",),
    "n_iter_no_change": ("1", "2", "inf"),
    "max_fun": ("1", "20"),
    "label_smoothing": ("0.1", "0.5"),
    "hinge_power": ("2", "3", "2.5"),
    "class_weight": (
        *("'balanced'", "{0: 1.0, 1: 2.0, 2: 3.0}", "{1: 2.0}", "{'low': 2.0}"),
        *("{7: 1.0}", "{0: 0.0}", "{0: -1.0, 1: 1.0}", "{0: nan}", "{'a': 1, 0: 2}"),
    ),
    "dtype": ("'float32'", "'float64'"),
    "warm_start": ("True",),
    "device": ("'cpu'", "torch.device('cpu')"),
    "standardize": ("False",),
    "scoring": ("'loss'", "None"),
    "weight_decay": ("0.0", "1e-6", "1.0"),
    "fit_intercept": ("False",),
    "residual_input": ("'X'", "'basis'"),
    "cv": ("None", "2", "3", "KFold(2)", "ShuffleSplit(2, random_state=0)"),
    "center": ("'network'", "'zero'"),
    "n_models": ("2",),
    "n_components": ("2", "5", "100"),
    "max_memory": ("'1MB'", "'10KB'", "1e6", "'2 GB'"),
    "n_jobs": ("1",),
    "verbose": ("False", "True", "1"),
    "penalty": ("0.0", "0.01"),
    "norm_budget": ("1.0", "1e3"),
    "polish_iter": ("0", "5", "'auto'"),
    "layer": ("0", "-1", "1"),
    "n_perturbations": ("1", "3"),
    "span": ("0.5", "2"),
}
# Values beyond the defaults that hold for one class only.
OWN_VALUES = {
    "GradientBasisRefit": {
        "alpha": ("0.0", "1e-3", "1e-14", "'loo'", "'evidence'", "[1e-3, 0.1]", "1e6"),
        "solver": ("'primal'", "'dual'", "'matrix-free'"),
        "cv": ("2", "'auto'", "KFold(2)", "GroupKFold(2)", "LeaveOneOut()"),
    },
    "AddedNeuronRegressor": {
        "solver": ("'adam'", "'sgd'", "'lbfgs'"),
        "loss": ("'poisson'", "'huber'"),
    },
    "AddedNeuronClassifier": {
        "solver": ("'adam'", "'sgd'", "'lbfgs'"),
        "loss": ("'smoothed_hinge'",),
    },
    "ResNetBasisRegressor": {
        "solver": ("'adam'", "'lbfgs'"),
        "loss": ("'poisson'", "'huber'"),
        "alpha": ("'auto'", "'loo'", "0.0", "0.1"),
    },
    "ResNetBasisClassifier": {
        "solver": ("'adam'", "'lbfgs'"),
        "loss": ("'smoothed_hinge'",),
        "alpha": ("'auto'", "'loo'", "0.0", "0.1"),
    },
    "compare_bases": {
        "loss": ("None", "'squared_error'", "'log_loss'", "'poisson'", "'huber'"),
        "scoring": ("'accuracy'", "'r2'", "'neg_log_loss'", "'max_error'"),
        "cv": ("2", "3", "KFold(2)"),
    },
    "certify": {"loss": ("'squared_error'", "'log_loss'", "'poisson'", "'huber'")},
}
# Parameters that a case sets by itself.
RESERVED = {"estimator", "basis", "module", "transformer", "bases", "memory", "X", "y"}
RESERVED |= {"sample_weight", "random_state", "ax", "max_iter", "kwargs"}
TRANSFORMERS = (
    *("StandardScaler()", "PolynomialFeatures(2, include_bias=False)", "None"),
    *(
        "SplineTransformer(3)",
        "PCA(1, random_state=0)",
        "make_pipeline(MinMaxScaler(), PCA(1, random_state=0))",
    ),
    *("SimpleImputer()", "MaxAbsScaler()", "FrozenEstimator(StandardScaler().fit(X))"),
)
BAD_TRANSFORMERS = (
    "'poly'",
    "Ridge()",
    "StandardScaler",
    "3",
    "VarianceThreshold(1e9)",
)
BAD_NETWORKS = (
    *("Ridge()", "LogisticRegression()", "None", "'mlp'", "MLPRegressor", "3"),
    *("FrozenEstimator(MLPRegressor())", "make_pipeline(StandardScaler())"),
    *("VotingRegressor([('a', Ridge())])", "RandomForestRegressor(2)", "len"),
    "GridSearchCV(Ridge(), {'alpha': [1, 2]})",
)


class Draft:
    """Draws the parts of one case."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        # How likely each part is odd: many cases are valid, most have one odd part.
        self.rate = self.rng.choice([0.0, 0.06, 0.15, 0.4], p=[0.25, 0.35, 0.3, 0.1])
        self.odd = set()
        self.given = set()
        self.n = int(self.rng.choice([1, 2, 3, 5, 12, 20, 40], p=_SIZES))
        if self.n < 12:
            self.odd |= {"X", "y"}
        self.p = int(self.rng.choice([1, 3, 5]))
        self.classifies = bool(self.rng.random() < 0.45)
        # Whether every random state is a number: no global generator is drawn from.
        self.seeded = bool(self.rng.random() < 0.9)

    def one(self, values):
        """One of some values."""
        values = list(values)
        return values[self.rng.integers(len(values))]

    def chance(self, probability):
        """Whether something of this probability happens."""
        return bool(self.rng.random() < probability)

    def part(self, name, valid, odd, bad, usual=0.5):
        """Kind of one part; the first of the valid ones is the usual one."""
        if self.chance(self.rate):
            self.odd.add(name)
            n_odd = len(odd)
            index = self.rng.integers(n_odd + len(bad))
            return [*odd, *(f"bad {kind}" for kind in bad)][index]
        valid = list(valid)
        return valid[0] if self.chance(usual) else self.one(valid)

    # --- data ---

    def inputs(self, n=None, p=None):
        """Expression of some inputs."""
        kind = self.part("X", data.VALID_INPUTS, data.ODD_INPUTS, data.BAD_INPUTS)
        few = "bool", "frame boolean", "collinear", "constant column"
        if kind in few and (p or self.p) == 1:
            # One or two distinct rows are too few for folds.
            self.odd.add("X")
        return f"inputs({kind!r}, {n or self.n}, {p or self.p})"

    def targets(self, n=None, counts=False):
        """Expression of some targets or labels."""
        if self.chance(0.3 * self.rate):
            # Labels for a regressor and the other way round.
            self.odd.add("y")
            with_labels = not self.classifies
        else:
            with_labels = self.classifies
        if with_labels:
            kinds = (data.VALID_LABELS, data.ODD_LABELS, data.BAD_LABELS)
            return f"labels({self.part('y', *kinds)!r}, {n or self.n})"
        valid = data.COUNTS if counts else data.VALID_TARGETS
        kind = self.part("y", valid, data.ODD_TARGETS, data.BAD_TARGETS)
        return f"targets({kind!r}, {n or self.n})"

    def weights(self):
        """Expression of sample weights, or None."""
        if self.chance(0.65):
            return None
        kinds = (data.VALID_WEIGHTS, data.ODD_WEIGHTS, data.BAD_WEIGHTS)
        kind = self.part("sample_weight", *kinds, usual=0.1)
        return f"weights({kind!r}, {self.n})"

    # --- parameters ---

    def state(self):
        """Keyword of the random state."""
        if self.chance(0.2 * self.rate):
            self.odd.add("random_state")
            self.seeded = False
            return f"random_state={self.one(JUNK)}"
        if self.seeded:
            return "random_state=0"
        return self.one(["random_state=None", "random_state=np.random.RandomState(0)"])

    def params(self, name, likely=0.08):
        """Keywords of a class or function of the package."""
        owner = getattr(sklearn_pgb, name)
        signature = inspect.signature(owner)
        words, own = [], OWN_VALUES.get(name, {})
        for parameter in signature.parameters:
            if parameter in RESERVED:
                continue
            if self.chance(0.12 * self.rate):
                junk = [j for j in JUNK if j not in HUGE or parameter not in UNBOUNDED]
                self.odd.add(parameter)
                words.append(f"{parameter}={self.one(junk)}")
            elif self.chance(likely):
                values = own.get(parameter) or VALUES.get(parameter, ())
                if values:
                    self.given.add(parameter)
                    words.append(f"{parameter}={self.one(values)}")
        if "max_iter" in signature.parameters:
            words.append(f"max_iter={self.one([1, 2, 5])}")
        if "random_state" in signature.parameters:
            words.append(self.state())
        return words

    def module(self, k=None):
        """Expression of a torch module."""
        k = k or (3 if self.classifies else 1)
        if self.chance(self.rate):
            self.odd.add("module")
            return f"module({self.one(data.MODULES)!r}, {self.p}, {k})"
        return f"module('chain', {self.p}, {k})"

    # --- estimators ---

    def added(self):
        """Expression of an added-neuron network."""
        name = f"AddedNeuron{self.ending()}"
        words = self.params(name)
        if self.chance(0.1):
            module = self.module()
            self.given.add("module")
            words.append(self.one([f"module={module}", f"module=lambda: {module}"]))
        elif not any(word.startswith("hidden_layer_sizes") for word in words):
            words.append("hidden_layer_sizes=(4,)")
        return f"{name}({', '.join(words)})"

    def ending(self):
        """Regressor or Classifier."""
        return "Classifier" if self.classifies else "Regressor"

    def network(self):
        """Expression of an unfitted network of some package, plain or wrapped."""
        if self.chance(0.5):
            text = self.added() if self.chance(0.4) else self.plain_added()
        else:
            text = self.peer()
        wrapper = self.one([None, None, None, "pipeline", "target", "search"])
        if wrapper == "pipeline":
            return f"make_pipeline(StandardScaler(), {text})"
        if wrapper == "target" and not self.classifies:
            transformer = "transformer=StandardScaler()"
            return f"TransformedTargetRegressor({text}, {transformer})"
        if wrapper == "search":
            grid = self.one(["{'alpha': [1e-4, 1]}", "{'hidden_layer_sizes': [2, 3]}"])
            return f"GridSearchCV({text}, {grid}, cv=2)"
        return text

    def plain_added(self):
        """An added-neuron network without special parameters."""
        return f"AddedNeuron{self.ending()}(4, max_iter=3, random_state=0)"

    def peer(self):
        """A network of scikit-learn."""
        words = ["hidden_layer_sizes=4", "max_iter=3"]
        if self.chance(0.3):
            words.append("solver='lbfgs'")
        if self.chance(0.3):
            words.append(f"activation={self.one(VALUES['activation'][:4])}")
        if self.chance(0.1):
            words.append("early_stopping=True")
        words.append(self.state())
        return f"MLP{self.ending()}({', '.join(words)})"

    def model(self, name):
        """Expression of one of the package's estimators."""
        if name == "AddedNeuron":
            return self.added()
        if name == "ResNetBasis":
            return self.resnet()
        return self.refit()

    def resnet(self):
        """Expression of a ResNet basis estimator."""
        name = f"ResNetBasis{self.ending()}"
        words = self.params(name)
        if self.chance(0.4):
            words.append(f"basis={self.transformer()}")
        if self.chance(0.07):
            self.given.add("module")
            words.append(f"module={self.module(4)}")
        elif not any(word.startswith("hidden_layer_sizes") for word in words):
            words.append("hidden_layer_sizes=(4,)")
        return f"{name}({', '.join(words)})"

    def transformer(self):
        """Expression of a transformer."""
        if self.chance(self.rate):
            self.odd |= {"basis", "transformer"}
            return self.one(BAD_TRANSFORMERS)
        self.given |= {"basis", "transformer"}
        return self.one(TRANSFORMERS)

    def refit(self):
        """Expression of a refit."""
        words = self.params("GradientBasisRefit")
        if self.chance(0.5 * self.rate):
            self.odd.add("estimator")
            return f"GradientBasisRefit({', '.join([self.one(BAD_NETWORKS), *words])})"
        if self.chance(0.12):
            if not any(word.startswith("loss") for word in words):
                loss = "log_loss" if self.classifies else "squared_error"
                words.append(f"loss={loss!r}")
            self.given.add("module")
            return f"GradientBasisRefit({', '.join([self.module(), *words])})"
        network = self.network()
        if self.chance(0.15):
            network = f"FrozenEstimator({network}.fit(X, y))"
        return f"GradientBasisRefit({', '.join([network, *words])})"


_SIZES = [0.03, 0.04, 0.05, 0.08, 0.2, 0.35, 0.25]
