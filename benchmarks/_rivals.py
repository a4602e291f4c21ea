"""Defaults of other packages, to compare with, as far as they are installed."""

from importlib.util import find_spec

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV, KFold, train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from sklearn_pgb import GradientBasisRefit

# The kernel machine forms and factorizes kernels of up to this many samples. Its
# parameters are searched on at most SEARCHED of them.
MOST_KERNEL_SAMPLES, SEARCHED = 8000, 2000
GAMMAS, RIDGES, PENALTIES = np.logspace(-3, 0, 7), np.logspace(-4, 1, 6), (1, 10, 100)

# Networks of the refit.
N_NETWORKS = 4


def rivals(classifies, n_samples):
    """Unfitted estimators by name."""
    kinds = {
        "HistGB": (HistGradientBoostingClassifier, HistGradientBoostingRegressor),
        "forest": (RandomForestClassifier, RandomForestRegressor),
    }
    number = 0 if classifies else 1
    models = {name: pair[number](random_state=0) for name, pair in kinds.items()}
    network = scaled((MLPClassifier, MLPRegressor)[number](random_state=0), classifies)
    models["MLP"] = network
    models[f"refit of {N_NETWORKS} MLP"] = refit_of_networks(classifies)
    if n_samples <= MOST_KERNEL_SAMPLES:
        models["kernel machine"] = KernelClassifier() if classifies else KernelMachine()
    if find_spec("catboost"):
        from catboost import CatBoostClassifier, CatBoostRegressor

        kind = (CatBoostClassifier, CatBoostRegressor)[number]
        options = {"random_seed": 0, "thread_count": 1, "allow_writing_files": False}
        models["CatBoost"] = kind(verbose=0, **options)
    if find_spec("lightgbm"):
        from lightgbm import LGBMClassifier, LGBMRegressor

        kind = (LGBMClassifier, LGBMRegressor)[number]
        models["LightGBM"] = kind(random_state=0, n_jobs=1, verbose=-1)
    if find_spec("xgboost"):
        from xgboost import XGBClassifier, XGBRegressor

        models["XGBoost"] = (XGBClassifier, XGBRegressor)[number](
            random_state=0, n_jobs=1
        )
    if find_spec("pytabkit"):
        from pytabkit import RealMLP_TD_S_Classifier, RealMLP_TD_S_Regressor

        kind = (RealMLP_TD_S_Classifier, RealMLP_TD_S_Regressor)[number]
        options = {"device": "cpu", "n_threads": 1, "verbosity": 0}
        models["RealMLP-TD-S"] = kind(random_state=0, **options)
    if find_spec("xrfm"):
        models["xRFM"] = FeatureMachineClassifier() if classifies else FeatureMachine()
    return models


def scaled(model, classifies):
    """A network on standardized features, and standardized targets."""
    model = make_pipeline(StandardScaler(), model)
    if classifies:
        return model
    return TransformedTargetRegressor(model, transformer=StandardScaler())


def refit_of_networks(classifies):
    """Cross-fitted refit of several networks of scikit-learn."""
    kind = MLPClassifier if classifies else MLPRegressor
    refit = GradientBasisRefit(
        kind(hidden_layer_sizes=(30, 30), activation="tanh"),
        n_models=N_NETWORKS,
        random_state=0,
    )
    return scaled(refit, classifies)


def searched(model, grid, X, y, **options):
    """The model with the best parameters on folds of a part of the samples, fitted."""
    part = np.random.default_rng(0).permutation(len(y))[:SEARCHED]
    folds = KFold(5, shuffle=True, random_state=0)
    search = GridSearchCV(model, grid, cv=folds, refit=False, **options)
    search.fit(X[part], y[part])
    return model.set_params(**search.best_params_).fit(X, y)


class KernelMachine(RegressorMixin, BaseEstimator):
    """Kernel ridge regression with a Gaussian kernel, its parameters by folds."""

    def fit(self, X, y):
        """Standardize, search and fit."""
        self.mean_, self.scale_ = y.mean(), y.std() or 1.0
        self.inputs_ = StandardScaler().fit(X)
        gammas = GAMMAS * 10 / X.shape[1]
        grid = {"gamma": gammas, "alpha": RIDGES}
        targets = (y - self.mean_) / self.scale_
        model = KernelRidge(kernel="rbf")
        score = {"scoring": "neg_mean_squared_error"}
        self.model_ = searched(model, grid, self.inputs_.transform(X), targets, **score)
        return self

    def predict(self, X):
        """Predict in the units of y."""
        return self.mean_ + self.scale_ * self.model_.predict(self.inputs_.transform(X))


class KernelClassifier(ClassifierMixin, BaseEstimator):
    """Support vector classifier, its parameters by folds, with calibration."""

    def fit(self, X, y):
        """Standardize, search, fit and calibrate."""
        self.inputs_ = StandardScaler().fit(X)
        grid = {"gamma": GAMMAS * 10 / X.shape[1], "C": PENALTIES}
        Z = self.inputs_.transform(X)
        best = searched(SVC(), grid, Z, y, error_score=0.0)
        folds = min(5, np.unique(y, return_counts=True)[1].min())
        if folds >= 2:
            best = CalibratedClassifierCV(best, cv=folds, ensemble=False).fit(Z, y)
        self.model_, self.classes_ = best, best.classes_
        return self

    def predict_proba(self, X):
        """Calibrated probabilities, or certain ones if a class has a single sample."""
        Z = self.inputs_.transform(X)
        if hasattr(self.model_, "predict_proba"):
            return self.model_.predict_proba(Z)
        return (self.model_.predict(Z)[:, None] == self.classes_).astype(float)


class FeatureMachine(RegressorMixin, BaseEstimator):
    """xRFM; a fifth of the samples is its validation set."""

    _metric = None

    def fit(self, X, y):
        """Standardize, as the package recommends, and fit."""
        from xrfm import xRFM

        self.inputs_ = StandardScaler().fit(X)
        Z = self.inputs_.transform(X).astype(np.float32)
        parts = train_test_split(Z, self._encoded(y), test_size=0.2, random_state=0)
        self.model_ = xRFM(device="cpu", random_state=0, tuning_metric=self._metric)
        self.model_.fit(parts[0], parts[2], parts[1], parts[3])
        return self

    def _encoded(self, y):
        self.mean_, self.scale_ = y.mean(), y.std() or 1.0
        return ((y - self.mean_) / self.scale_).astype(np.float32)[:, None]

    def _standardized(self, X):
        return self.inputs_.transform(X).astype(np.float32)

    def predict(self, X):
        """Predict in the units of y."""
        prediction = np.asarray(self.model_.predict(self._standardized(X))).ravel()
        return self.mean_ + self.scale_ * prediction


class FeatureMachineClassifier(ClassifierMixin, FeatureMachine):
    """xRFM for classes, tuned by the log loss."""

    _metric = "logloss"

    def _encoded(self, y):
        self.classes_, codes = np.unique(y, return_inverse=True)
        return codes

    def predict_proba(self, X):
        """Probabilities of the classes."""
        return np.asarray(self.model_.predict_proba(self._standardized(X)))
