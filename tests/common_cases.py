"""Configurations of every estimator for scikit-learn's checks.

`DEFAULTS` leaves all parameters of the package alone. `CONFIGURATIONS` has each loss,
solver, activation, basis, center, rule for alpha, kind of cv, early stopping, float32,
class weights and several outputs, with few iterations. The names in `DEFAULTS_IN_SUITE`
and `IN_SUITE` run in the test suite, all of them in benchmarks/estimator_checks.py.
"""

from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.kernel_approximation import PolynomialCountSketch, RBFSampler
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, ShuffleSplit
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, PolynomialFeatures
from sklearn.random_projection import GaussianRandomProjection
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.estimator_checks import check_estimator

from sklearn_pgb import (
    AddedNeuronClassifier,
    AddedNeuronRegressor,
    GradientBasisClassifier,
    GradientBasisRefit,
    GradientBasisRegressor,
    ResNetBasisClassifier,
    ResNetBasisRegressor,
)

SEED = {"random_state": 0}


def network(kind, **params):
    """A network whose training treats weights as repetitions, up to rounding.

    Rounding grows along a training that is not convex, hence the few iterations.
    """
    params = {"solver": "lbfgs", "max_iter": 10, "random_state": 0} | params
    return kind(hidden_layer_sizes=(4,), activation="tanh", **params)


def refit(kind=MLPRegressor, **params):
    """A refit of a small network."""
    return GradientBasisRefit(network(kind), **params)


def regressor(**params):
    """An added-neuron network that is trained for a short time."""
    return AddedNeuronRegressor(**{"max_iter": 20} | params)


def classifier(**params):
    """An added-neuron network that is trained for a short time."""
    return AddedNeuronClassifier(**{"max_iter": 20} | params)


def units(basis=None, **params):
    """A small ResNet basis regressor."""
    params = {"hidden_layer_sizes": (4,), "max_iter": 5, "random_state": 0} | params
    return ResNetBasisRegressor(basis, **params)


def class_units(basis=None, **params):
    """A small ResNet basis classifier."""
    params = {"hidden_layer_sizes": (4,), "max_iter": 5, "random_state": 0} | params
    return ResNetBasisClassifier(basis, **params)


def table(kind, network, **params):
    """An estimator for tables with few iterations and default trees, on two folds."""
    return kind(network, **{"cv": 2} | SEED | params)


# Their trees depend on weights in another way than on repetitions.
TREES = {
    "histogram": HistGradientBoostingRegressor(max_iter=3, min_samples_leaf=2, **SEED),
    "forest": RandomForestRegressor(3, **SEED),
    "boosting": GradientBoostingClassifier(n_estimators=3, **SEED),
}

DEFAULTS = {
    "AddedNeuronRegressor": AddedNeuronRegressor(),
    "AddedNeuronClassifier": AddedNeuronClassifier(),
    "ResNetBasisRegressor": ResNetBasisRegressor(),
    "ResNetBasisClassifier": ResNetBasisClassifier(),
    "GradientBasisRegressor": GradientBasisRegressor(),
    "GradientBasisClassifier": GradientBasisClassifier(),
    "refit of MLPRegressor": GradientBasisRefit(MLPRegressor()),
    "refit of MLPClassifier": GradientBasisRefit(MLPClassifier()),
    "refit of AddedNeuronRegressor": GradientBasisRefit(AddedNeuronRegressor()),
    "refit of AddedNeuronClassifier": GradientBasisRefit(AddedNeuronClassifier()),
}

# Quantiles, which scale inputs, and the leaves of boosted trees count samples and not
# their weights. Two folds of classes are too many for some of the checks.
TABLES = {
    "real": table(GradientBasisRegressor, network(MLPRegressor), forest="drop"),
    "counts": table(
        GradientBasisRegressor, network(MLPRegressor, loss="poisson"), loss="poisson"
    ),
    "classes": table(
        GradientBasisClassifier,
        network(MLPClassifier),
        trees="drop",
        forest="drop",
        cv="auto",
    ),
}

NETWORKS = (AddedNeuronRegressor, AddedNeuronClassifier)
ACTIVATIONS = ("identity", "logistic", "tanh", "silu", "gelu", "elu", "softplus")

CONFIGURATIONS = {
    # --- refits ---
    "refit": refit(),
    "refit, classifier": refit(MLPClassifier),
    "refit, alpha": refit(alpha=1e-3),
    "refit, alpha 0": refit(alpha=0.0),
    "refit, candidates": refit(alpha=[1e-3, 0.1]),
    "refit, loo": refit(alpha="loo"),
    "refit, evidence": refit(alpha="evidence"),
    "refit, classifier, alpha, network": refit(
        MLPClassifier, alpha=1e-3, center="average"
    ),
    "refit, classifier, loo": refit(MLPClassifier, alpha="loo"),
    "refit, zero": refit(center="zero"),
    "refit, cv 3": refit(cv=3, n_models=2, random_state=0),
    "refit, KFold": refit(cv=KFold(3)),
    "refit, ShuffleSplit": refit(cv=ShuffleSplit(2, random_state=0)),
    "refit, primal": refit(solver="primal", alpha=0.1),
    "refit, dual": refit(solver="dual", alpha=0.1),
    "refit, matrix-free": refit(solver="matrix-free", alpha=0.1),
    "refit, classifier, matrix-free": refit(
        MLPClassifier, solver="matrix-free", alpha=0.1, tol=1e-10
    ),
    "refit, balanced": refit(MLPClassifier, class_weight="balanced"),
    "refit, components": refit(n_components=3, random_state=0),
    # A scaler that sees no weights and needs none.
    "refit, pipeline": GradientBasisRefit(
        make_pipeline(MaxAbsScaler(), network(MLPRegressor))
    ),
    "refit, target": GradientBasisRefit(
        TransformedTargetRegressor(network(MLPRegressor), transformer=MinMaxScaler()),
        alpha=0.1,
    ),
    "refit, search": GradientBasisRefit(
        GridSearchCV(network(MLPRegressor), {"alpha": [1e-3]}, cv=2), alpha=0.1
    ),
    "refit of added neurons": GradientBasisRefit(
        regressor(hidden_layer_sizes=(4,), activation="tanh", max_iter=10)
    ),
    "refit of added neurons, classifier": GradientBasisRefit(
        classifier(hidden_layer_sizes=(4,), activation="tanh", max_iter=10)
    ),
    # --- refits of other models ---
    "refit of a tree": GradientBasisRefit(DecisionTreeRegressor(random_state=0)),
    "refit of linear model": GradientBasisRefit(LinearRegression()),
    "refit of logistic regression": GradientBasisRefit(LogisticRegression()),
    "refit of vote": GradientBasisRefit(
        VotingRegressor(
            [
                ("linear", LinearRegression()),
                ("stump", DecisionTreeRegressor(max_depth=1)),
            ]
        ),
        cv=2,
    ),
    "refit of soft vote": GradientBasisRefit(
        VotingClassifier(
            [
                ("linear", LogisticRegression()),
                ("tree", DecisionTreeClassifier(**SEED)),
            ],
            voting="soft",
        ),
        cv=2,
    ),
    # --- networks ---
    **{f"network, {name}": regressor(activation=name) for name in ACTIVATIONS},
    # Scores .88 on the data of check_regressors_train, after 20 epochs -.1.
    "network, Poisson": regressor(loss="poisson", max_iter=100),
    "network, Huber": regressor(loss="huber", huber_delta=0.5),
    "network, sgd": regressor(solver="sgd"),
    "network, sgd, adaptive": classifier(solver="sgd", learning_rate="adaptive"),
    "network, constant rate": regressor(learning_rate="constant"),
    "network, invscaling": classifier(learning_rate="invscaling"),
    "network, lbfgs": regressor(solver="lbfgs", max_iter=20),
    "network, classifier, lbfgs": classifier(solver="lbfgs", max_iter=20),
    "network, hinge": classifier(loss="smoothed_hinge"),
    "network, hinge, power 3": classifier(loss="smoothed_hinge", hinge_power=3),
    "network, label smoothing": classifier(label_smoothing=0.1),
    "network, balanced": classifier(class_weight="balanced"),
    "network, early stopping": regressor(early_stopping=True),
    "network, classifier, early stopping": classifier(early_stopping=True),
    "network, float32": regressor(dtype="float32"),
    "network, classifier, float32": classifier(dtype="float32", solver="lbfgs"),
    "network, two layers": classifier(hidden_layer_sizes=(4, 3)),
    "network, no hidden layer": regressor(hidden_layer_sizes=()),
    # The search ends with a polish of many iterations. A strong penalty makes the
    # minimum that it reaches the same for weights and for repetitions, up to rounding.
    "network, starts": regressor(
        hidden_layer_sizes=(4,), activation="tanh", n_starts=3, max_iter=5, alpha=30
    ),
    "network, classifier, starts": classifier(
        hidden_layer_sizes=(4,), activation="tanh", n_starts=3, max_iter=5, alpha=30
    ),
    "network, restarts": regressor(
        hidden_layer_sizes=(4,),
        activation="tanh",
        n_starts=2,
        alpha=30,
        global_move="restart",
    ),
    # --- ResNet bases ---
    "ResNet": units(),
    "ResNet, classifier": class_units(),
    "ResNet, alpha": units(MaxAbsScaler(), alpha=0.1, cv=None),
    "ResNet, classifier, alpha": class_units(MaxAbsScaler(), alpha=0.1, cv=None),
    "ResNet, alpha 0": units(alpha=0.0, cv=None),
    "ResNet, loo": units(alpha="loo"),
    "ResNet, polynomials": units(PolynomialFeatures(2, include_bias=False)),
    # Bases are fitted without weights; these do not look at the samples.
    "ResNet, random features": units(RBFSampler(n_components=5, random_state=0)),
    "ResNet, sketch": class_units(
        PolynomialCountSketch(n_components=5, random_state=0)
    ),
    "ResNet, projection": units(GaussianRandomProjection(2, random_state=0), cv=2),
    "ResNet, units on the basis": units(MaxAbsScaler(), residual_input="basis"),
    "ResNet, Poisson": units(loss="poisson"),
    "ResNet, Huber": units(loss="huber", huber_delta=0.5),
    "ResNet, hinge": class_units(loss="smoothed_hinge"),
    "ResNet, adam": units(solver="adam"),
    "ResNet, adam, float32": class_units(solver="adam", dtype="float32"),
    "ResNet, balanced": class_units(class_weight="balanced"),
    "ResNet, label smoothing": class_units(label_smoothing=0.1),
    "ResNet, KFold": units(cv=KFold(3)),
    "ResNet, relu": units(activation="relu"),
    "ResNet, no intercept": units(fit_intercept=False),
}

# About one of each kind, among them the refit's defaults with networks that are trained
# for a short time; the others differ in one parameter that its tests cover.
DEFAULTS_IN_SUITE = (
    "AddedNeuronRegressor",
    "AddedNeuronClassifier",
    "ResNetBasisRegressor",
    "ResNetBasisClassifier",
)
IN_SUITE = (
    "refit",
    "refit, classifier",
    "refit, classifier, alpha, network",
    "refit, cv 3",
    "refit, pipeline",
    "refit of added neurons",
    "refit of a tree",
    "refit of linear model",
    "refit of vote",
    "network, Poisson",
    "network, lbfgs",
    "network, hinge",
    "network, balanced",
    "network, classifier, early stopping",
    "network, float32",
    "network, starts",
    "ResNet, classifier, alpha",
    "ResNet, polynomials",
    "ResNet, adam",
    "ResNet, hinge",
)
# Cheap ones, one per class, for metadata routing and SCIPY_ARRAY_API=1.
IN_ROUTING = (
    "refit, alpha",
    "network, lbfgs",
    "network, classifier, lbfgs",
    "ResNet, alpha",
    "ResNet, classifier, alpha",
)


def requesting(estimator):
    """A copy of an estimator whose network asks for sample weights.

    With metadata routing a meta-estimator refuses weights that its parts have not asked
    for, and so does a refit.
    """
    estimator = clone(estimator)
    for part in estimator.get_params().values():
        if isinstance(part, (MLPRegressor, MLPClassifier, *NETWORKS)):
            part.set_fit_request(sample_weight=True)
            part.set_score_request(sample_weight=True)
    return estimator


def failures(estimator):
    """Checks of scikit-learn that an estimator fails: their names and errors."""
    results = check_estimator(estimator, on_fail=None, on_skip=None)
    return {
        result["check_name"]: result["exception"]
        for result in results
        if result["status"] in ("failed", "xfail")
    }
