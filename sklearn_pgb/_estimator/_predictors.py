"""Mixins of the package's networks: from raw outputs to predictions."""

from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from sklearn_pgb._estimator._state import as_fitted, fitted_parameters
from sklearn_pgb._losses._named import (
    CLASSIFICATION,
    REGRESSION,
    find_loss,
    loss_with,
)
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._sklearn import Interval, StrOptions
from sklearn_pgb._targets import LabelTargets, RealTargets

# Constraints of the parameters of losses.
REGRESSOR_CONSTRAINTS = {
    "loss": [StrOptions(set(REGRESSION))],
    "huber_delta": [Interval(Real, 0, None, closed="neither")],
}
CLASSIFIER_CONSTRAINTS = {
    "loss": [StrOptions(set(CLASSIFICATION))],
    "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    "hinge_power": [Interval(Real, 2, None, closed="left")],
    "class_weight": [dict, StrOptions({"balanced"}), None],
}


def finite_outputs(outputs: Any) -> Any:
    """Return the outputs, or raise an error if they overflow."""
    if not bool(torch.as_tensor(outputs).isfinite().all()):
        raise ValueError(
            "X must have finite outputs of the fitted network, got infinite ones or "
            "NaN. Leave out samples far outside the range of the training samples."
        )
    return outputs


class NetworkRegressor(MultiOutputMixin, RegressorMixin):
    """Mixin of regressors that return raw outputs from `_raw(X)`.

    They have the parameter `loss`. Their `fit` passes the targets to `_learn`. Their
    method `_opening` returns the network, the final estimator, and other fields of
    `OpenNetwork`.
    """

    _kind_of_targets = RealTargets

    def predict(self, X):
        """Predict targets.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        raw = self._raw(X)
        return self._targets.decode(raw)

    @property
    def _targets(self) -> RealTargets:
        return RealTargets(loss_with(fitted_parameters(self)), self._n_targets)

    def _learn(self, y: NDArray[np.float64], classes: Any = None) -> None:
        """Store the number of targets."""
        loss = loss_with(fitted_parameters(self))
        self._n_targets = RealTargets.of(y, loss).n_targets

    def _open_network(self) -> OpenNetwork:
        check_is_fitted(self)
        network, final, fields = self._opening()
        loss = self._targets.loss_for(self.n_outputs_)
        return OpenNetwork(network, loss, "regressor", final, **fields)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        loss = find_loss(self.loss)
        if loss is not None and loss.is_positive:
            tags.target_tags.positive_only = True
            # Several counts work too, but scikit-learn's multi-output checks pass
            # negative targets despite the tag `positive_only`.
            tags.target_tags.multi_output = False
        return tags


def _has_probabilities(self: "NetworkClassifier") -> bool:
    name = as_fitted(self, "loss")
    loss = find_loss(name)
    if loss is None or not loss.predicts_means:
        raise AttributeError(f"loss must be 'log_loss' for probabilities, got {name!r}")
    return True


class NetworkClassifier(ClassifierMixin):
    """Mixin of classifiers that return raw outputs from `_raw(X)`.

    They have the parameter `loss`. Their `fit` passes the labels to `_learn`. Their
    method `_opening` returns the network, the final estimator, and other fields of
    `OpenNetwork`.
    """

    _kind_of_targets = LabelTargets

    def predict(self, X):
        """Predict labels.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_classes)
            Labels, or 0/1 indicators if there are several labels.
        """
        raw = self._raw(X)
        return self._targets.decode(raw)

    def decision_function(self, X):
        """Return raw outputs; for two classes a number, positive for the second.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)

        Returns
        -------
        decision : ndarray of shape (n_samples,) or (n_samples, n_classes)
        """
        raw = self._raw(X)
        return self._targets.decision(raw)

    @available_if(_has_probabilities)
    def predict_proba(self, X):
        """Predict probabilities, only available with ``loss="log_loss"``.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            Columns in the order of `classes_`. With several labels, each column is the
            probability of one label.
        """
        raw = self._raw(X)
        return self._targets.probabilities(raw)

    @available_if(_has_probabilities)
    def predict_log_proba(self, X):
        """Predict log probabilities, only available with ``loss="log_loss"``.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
        """
        raw = self._raw(X)
        return self._targets.log_probabilities(raw)

    @property
    def _targets(self) -> LabelTargets:
        params = fitted_parameters(self)
        weights, loss = params.get("class_weight"), loss_with(params)
        return LabelTargets(loss, self.classes_, self._multilabel, weights)

    def _learn(self, y: NDArray[Any], classes: Any = None) -> None:
        """Store the labels: those of y, or the given classes."""
        loss = loss_with(fitted_parameters(self))
        targets = LabelTargets.of(y, loss, classes)
        self.classes_, self._multilabel = targets.classes, targets.multilabel

    def _open_network(self) -> OpenNetwork:
        check_is_fitted(self)
        network, final, fields = self._opening()
        loss = self._targets.loss_for(self.n_outputs_)
        if not self._multilabel:
            fields |= {"classes": self.classes_, "one_column": self.n_outputs_ == 1}
        return OpenNetwork(network, loss, "classifier", final, **fields)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
