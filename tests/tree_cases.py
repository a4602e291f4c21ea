"""Data, and models other than networks, that the tests of several rooms share."""

from importlib import import_module

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.linear_model import (
    ElasticNet,
    ElasticNetCV,
    Lasso,
    LassoCV,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    PoissonRegressor,
    Ridge,
    RidgeCV,
)
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 4))
CURVE = X[:, 0] ** 2 + X[:, 1] + 0.3 * RNG.normal(size=120)
Y = {
    "real": CURVE,
    "two": np.column_stack([CURVE, X[:, 2] - CURVE]),
    "count": RNG.poisson(np.exp(X[:, 0] / 2)).astype(float),
    "binary": np.where(CURVE > 1, "yes", "no"),
    "multi": np.array(["low", "mid", "top"])[np.digitize(CURVE, [0, 2])],
    "codes": np.digitize(CURVE, [0, 2]),
    "code": (CURVE > 1).astype(int),
    "labels": np.column_stack([CURVE > 1, X[:, 1] > 0, X[:, 2] > 0]).astype(int),
}
SEED = {"random_state": 0}
HIST = SEED | {"max_iter": 5, "max_leaf_nodes": 5}


def mlp(**params):
    params = {"solver": "lbfgs", "max_iter": 20, "random_state": 0} | params
    return MLPRegressor(hidden_layer_sizes=(4,), **params)


def scaled_mlp():
    """A network with standardized inputs and targets."""
    return TransformedTargetRegressor(
        make_pipeline(StandardScaler(), mlp()), transformer=StandardScaler()
    )


def vote(**params):
    members = [
        ("linear", LinearRegression()),
        ("network", scaled_mlp()),
        ("trees", HistGradientBoostingRegressor(**HIST)),
    ]
    return VotingRegressor(members, **params)


def soft_vote(**params):
    members = [
        ("linear", LogisticRegression()),
        ("forest", RandomForestClassifier(3, random_state=0)),
    ]
    return VotingClassifier(members, voting="soft", **params)


# Model and name of its targets. The raw outputs of the first group are those that the
# model predicts with.
TREES = {
    "histogram": (HistGradientBoostingRegressor(**HIST), "real"),
    "histogram, Poisson": (
        HistGradientBoostingRegressor(loss="poisson", **HIST),
        "count",
    ),
    "histogram, binary": (HistGradientBoostingClassifier(**HIST), "binary"),
    "histogram, multi": (HistGradientBoostingClassifier(**HIST), "multi"),
    "boosting": (GradientBoostingRegressor(n_estimators=5, **SEED), "real"),
    "boosting, zero": (
        GradientBoostingRegressor(n_estimators=5, init="zero", **SEED),
        "real",
    ),
    "boosting, binary": (GradientBoostingClassifier(n_estimators=5, **SEED), "binary"),
    "boosting, multi": (GradientBoostingClassifier(n_estimators=5, **SEED), "multi"),
    "forest": (RandomForestRegressor(5, **SEED), "real"),
    "forest, two": (RandomForestRegressor(5, **SEED), "two"),
    "extra trees": (ExtraTreesRegressor(5, **SEED), "real"),
    "tree": (DecisionTreeRegressor(max_depth=3, **SEED), "real"),
    "tree, two": (DecisionTreeRegressor(max_depth=3, **SEED), "two"),
}
LINEAR = {
    "least squares": (LinearRegression(), "real"),
    "no intercept": (LinearRegression(fit_intercept=False), "two"),
    "Ridge": (Ridge(), "two"),
    "RidgeCV": (RidgeCV(), "real"),
    "Lasso": (Lasso(0.1), "real"),
    "LassoCV": (LassoCV(cv=2), "real"),
    "ElasticNet": (ElasticNet(0.1), "two"),
    "ElasticNetCV": (ElasticNetCV(cv=2), "real"),
    "Poisson": (PoissonRegressor(), "count"),
    "logistic": (LogisticRegression(), "binary"),
    "softmax": (LogisticRegression(), "multi"),
    "LogisticCV": (
        LogisticRegressionCV(
            Cs=2,
            cv=2,
            l1_ratios=(0.0,),
            use_legacy_attributes=False,
            scoring="accuracy",
        ),
        "binary",
    ),
}
COMBINATIONS = {
    "vote": (vote(weights=[1, 2, 3]), "real"),
    "vote without one": (vote(weights=[1, 5, 3]).set_params(network="drop"), "real"),
    "bag": (BaggingRegressor(DecisionTreeRegressor(), 3, **SEED), "two"),
    "bag of features": (
        BaggingRegressor(scaled_mlp(), 3, max_features=0.5, **SEED),
        "two",
    ),
    "one each": (
        MultiOutputRegressor(HistGradientBoostingRegressor(**HIST)),
        "two",
    ),
    "one booster per label": (
        MultiOutputClassifier(HistGradientBoostingClassifier(**HIST)),
        "labels",
    ),
    "one network each": (MultiOutputRegressor(scaled_mlp()), "two"),
    "vote of bags": (
        VotingRegressor(
            [
                ("bag", BaggingRegressor(Ridge(), 2, max_features=0.5, **SEED)),
                ("forest", RandomForestRegressor(2, **SEED)),
            ]
        ),
        "real",
    ),
}
SURROGATES = {
    "forest, binary": (RandomForestClassifier(5, **SEED), "binary"),
    "forest, multi": (RandomForestClassifier(5, **SEED), "multi"),
    "forest, labels": (RandomForestClassifier(5, **SEED), "labels"),
    "tree, multi": (DecisionTreeClassifier(max_depth=3, **SEED), "multi"),
    "vote, binary": (soft_vote(), "binary"),
    "vote, multi": (soft_vote(weights=[2, 1]), "multi"),
    "bag, multi": (
        BaggingClassifier(HistGradientBoostingClassifier(**HIST), 3, **SEED),
        "multi",
    ),
}

# Package, class, parameters and name of the targets.
ONE_THREAD = {"n_estimators": 5, "n_jobs": 1}
LIGHT = ONE_THREAD | {"verbose": -1, "num_leaves": 5, "random_state": 0}
CAT = {
    "iterations": 5,
    "depth": 3,
    "verbose": 0,
    "allow_writing_files": False,
    "thread_count": 1,
    "random_state": 0,
}
BOOSTERS = {
    "lightgbm": ("lightgbm", "LGBMRegressor", LIGHT, "real"),
    "lightgbm, Poisson": (
        "lightgbm",
        "LGBMRegressor",
        LIGHT | {"objective": "poisson"},
        "count",
    ),
    "lightgbm, binary": ("lightgbm", "LGBMClassifier", LIGHT, "binary"),
    "lightgbm, multi": ("lightgbm", "LGBMClassifier", LIGHT, "multi"),
    "xgboost": ("xgboost", "XGBRegressor", ONE_THREAD, "real"),
    "xgboost, two": ("xgboost", "XGBRegressor", ONE_THREAD, "two"),
    "xgboost, Poisson": (
        "xgboost",
        "XGBRegressor",
        ONE_THREAD | {"objective": "count:poisson"},
        "count",
    ),
    "xgboost, forest": ("xgboost", "XGBRFRegressor", ONE_THREAD, "real"),
    "xgboost, forest of two": ("xgboost", "XGBRFRegressor", ONE_THREAD, "two"),
    "xgboost, forest of three classes": (
        "xgboost",
        "XGBClassifier",
        ONE_THREAD | {"num_parallel_tree": 2, "subsample": 0.5},
        "codes",
    ),
    "xgboost, binary": ("xgboost", "XGBClassifier", ONE_THREAD, "code"),
    "xgboost, multi": ("xgboost", "XGBClassifier", ONE_THREAD, "codes"),
    "catboost": ("catboost", "CatBoostRegressor", CAT, "real"),
    "catboost, two": (
        "catboost",
        "CatBoostRegressor",
        CAT | {"loss_function": "MultiRMSE"},
        "two",
    ),
    "catboost, Poisson": (
        "catboost",
        "CatBoostRegressor",
        CAT | {"loss_function": "Poisson"},
        "count",
    ),
    "catboost, hints": (
        "catboost",
        "CatBoostClassifier",
        CAT | {"loss_function": "Logloss:hints=skip_train~true"},
        "binary",
    ),
    "catboost, binary": ("catboost", "CatBoostClassifier", CAT, "binary"),
    "catboost, multi": ("catboost", "CatBoostClassifier", CAT, "multi"),
}


def booster(name, importorskip):
    """A booster and its targets; skip if its package is missing."""
    package, kind, params, targets = BOOSTERS[name]
    importorskip(package)
    return getattr(import_module(package), kind)(**params), Y[targets]
