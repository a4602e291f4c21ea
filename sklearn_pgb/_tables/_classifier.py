"""The classifier for tables."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from torch import Tensor

from sklearn_pgb._estimator._targets import (
    class_weights,
    log_probabilities,
    probabilities,
)
from sklearn_pgb._losses._classification import CrossEntropyLoss, LogisticLoss
from sklearn_pgb._sklearn import StrOptions
from sklearn_pgb._tables._base import TableEstimator


class GradientBasisClassifier(ClassifierMixin, TableEstimator):
    """Classifier for tables: a network and trees, refitted together.

    A network, boosted trees and a forest are trained on five folds with the log loss.
    The derivatives of each model with respect to its parameters, its *gradient basis*
    [1]_, are features of a linear model of the log odds: Jacobian features for the
    network, indicators of the leaves for trees. One convex problem over the bases of
    all models gives the prediction. The weight of each kind of model, the
    regularization strength and the center of the penalty are chosen on samples that no
    model has seen, so probabilities are calibrated on unseen samples.

    Parameters
    ----------
    network : estimator, "drop" or None, default=None
        The network. None: :class:`AddedNeuronClassifier` with two hidden layers of 64
        smooth units. An estimator replaces it; it gets scaled inputs without missing
        values, with categories as indicators. "drop" leaves it out.
    trees : estimator, "drop" or None, default=None
        The boosted trees. None: a
        :class:`~sklearn.ensemble.HistGradientBoostingClassifier` with 150 iterations
        and 8 leaves. They get numbers with missing values as they are, and category
        codes.
    forest : estimator, "drop" or None, default=None
        The forest, of which the log odds of the leaves are averaged. None: an
        :class:`~sklearn.ensemble.ExtraTreesClassifier` with at least 3 samples in a
        leaf. Categories become mean targets.
    others : list of (str, estimator), default=()
        Further members, each of a kind that :class:`GradientBasisRefit` can open. They
        get the inputs of the forest.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes.
    cv : "auto", int or splitter, default="auto"
        Folds. "auto" is 5, fewer if there are fewer distinct samples. An int draws
        stratified folds over the distinct samples.
    categorical_features : "from_dtype", array-like or None, default="from_dtype"
        Columns with categories, besides those with strings or a categorical dtype: a
        mask, positions or names.
    max_memory : float or str, default="1GB"
        Memory limit of the kernels, in bytes or as a string such as "500MB".
    memory : str, joblib.Memory or None, default=None
        Cache of the trained members, or its folder.
    n_jobs : int or None, default=None
        Number of members trained in parallel.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds and the members.
    verbose : int, default=0
        Whether to print a line for every trained member.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    estimators_ : list of list
        The trained members of each fold. They predict positions in `classes_`.
    member_names_ : list of str
        "network", "trees", "forest" and the names of the others.
    alpha_ : ndarray of shape (n_mixtures,)
        Regularization strength of each of the mixtures that are averaged. Empty if the
        stacked average of the members is best without any refit.
    group_weights_ : ndarray of shape (n_mixtures, n_members)
        Weight of each member's kernel.
    stack_weights_ : ndarray of shape (n_members,)
        Weights of the members in the stacked average, the center of some mixtures.
    stack_intercept_ : ndarray of shape (n_outputs,)
        Added to the stacked average.
    basis_coef_ : list of list of ndarray
        For each fold and member, coefficients of its derivatives, without the biases.
    intercept_ : ndarray of shape (n_outputs,)
    oof_prediction_ : ndarray of shape (n_samples, n_classes)
        Probabilities for every sample by members and a refit that have not seen it; of
        samples with positive weight.
    oof_score_ : float
        Accuracy of `oof_prediction_`.
    cv_results_ : dict of ndarray
        "weights", "alpha", "center" and held-out "loss" of each mixture that was tried.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (``n_features_in_``,)

    See Also
    --------
    GradientBasisRegressor : The same for numbers and counts.
    GradientBasisRefit : The refit of one model.

    References
    ----------
    .. [1] K. Kawaguchi, J. Huang, L. P. Kaelbling, "Every Local Minimum Value Is the
       Global Minimum Value of Induced Model in Nonconvex Machine Learning", Neural
       Computation 31(12), 2019, Theorem 1.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn_pgb import GradientBasisClassifier
    >>> X, y = load_wine(return_X_y=True, as_frame=True)
    >>> model = GradientBasisClassifier(random_state=0).fit(X[::2], y[::2])
    >>> model.score(X[1::2], y[1::2]) > 0.95
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **TableEstimator._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        network=None,
        trees=None,
        *,
        forest=None,
        others=(),
        class_weight=None,
        cv="auto",
        categorical_features="from_dtype",
        max_memory="1GB",
        memory=None,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.network = network
        self.trees = trees
        self.forest = forest
        self.others = others
        self.class_weight = class_weight
        self.cv = cv
        self.categorical_features = categorical_features
        self.max_memory = max_memory
        self.memory = memory
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def predict(self, X):
        """Predict labels.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,)
        """
        best = _best(self._raw(X))
        return self.classes_[best]

    def decision_function(self, X):
        """Predict log odds of the second of two classes, or logits of several.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)

        Returns
        -------
        decision : ndarray of shape (n_samples,) or (n_samples, n_classes)
        """
        raw = self._raw(X).numpy()
        return raw[:, 0] if raw.shape[1] == 1 else raw

    def predict_proba(self, X):
        """Predict probabilities.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
        """
        return _probabilities(self._raw(X))

    def predict_log_proba(self, X):
        """Predict log probabilities, which are finite.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
        """
        return log_probabilities(self._raw(X), multilabel=False)

    @property
    def _loss_name(self) -> str:
        return "log_loss"

    def _encode(self, y: Any) -> NDArray[np.intp]:
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        if kind not in ("binary", "multiclass"):
            raise ValueError(
                f"y must be labels in one column, got {kind}. Fit one classifier per "
                "column, for example with MultiOutputClassifier."
            )
        self.classes_, codes = np.unique(
            column_or_1d(y, warn=True), return_inverse=True
        )
        if len(self.classes_) < 2:
            raise ValueError(
                "y must have at least 2 classes, got 1 class: "
                f"{self.classes_.tolist()}. A classifier can't learn from one class."
            )
        return codes

    def _strata(self, y: NDArray[np.intp]) -> NDArray[np.intp]:
        present = np.unique(y)
        if len(present) < len(self.classes_):
            missing = np.delete(self.classes_, present)
            raise ValueError(
                "sample_weight and class_weight must leave a sample of every class, "
                f"got none of {missing.tolist()}. Remove these samples."
            )
        return y

    def _class_factors(self, y: NDArray[np.intp]) -> NDArray[np.float64]:
        if self.class_weight is None:
            return np.ones(len(y))
        return class_weights(self.class_weight, self.classes_[y])

    def _score_heldout(self, y: Any, raw: Tensor, weight: NDArray[np.float64]) -> float:
        self.oof_prediction_ = _probabilities(raw)
        return float(accuracy_score(y, _best(raw), sample_weight=weight))


def _best(raw: Tensor) -> NDArray[np.intp]:
    """Positions of the most probable classes."""
    if raw.shape[1] == 1:
        return (raw[:, 0] > 0).numpy().astype(np.intp)
    return raw.argmax(1).numpy()


def _probabilities(raw: Tensor) -> NDArray[np.float64]:
    loss = LogisticLoss() if raw.shape[1] == 1 else CrossEntropyLoss()
    return probabilities(raw, loss, multilabel=False)
