"""`AddedNeuronRegressor` and `AddedNeuronClassifier`."""

import warnings
from numbers import Real

import numpy as np
import torch
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin, _fit_context
from sklearn.exceptions import DataConversionWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import column_or_1d, compute_sample_weight
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from sklearn_pgb._added_neuron._base import AddedNeuronBase
from sklearn_pgb._estimator import all_or_nothing
from sklearn_pgb._losses import (
    CrossEntropyLoss,
    LogisticLoss,
    PoissonLoss,
    SmoothedHingeLoss,
    SquaredLoss,
)
from sklearn_pgb._networks import OpenNetwork


def _has_probabilities(self: "AddedNeuronClassifier") -> bool:
    if self.loss != "log_loss":
        raise AttributeError(
            f"loss must be 'log_loss' for probabilities, got {self.loss!r}"
        )
    return True


def _is_plain_column(y):
    """Whether y is a column that should have been 1-d, which gets a warning."""
    if y.ndim != 2 or y.shape[1] != 1:
        return False
    warnings.warn(
        "A column-vector y was passed when a 1d array was expected. Please change the "
        "shape of y to (n_samples,), for example using ravel().",
        DataConversionWarning,
        stacklevel=6,
    )
    return True


class AddedNeuronRegressor(MultiOutputMixin, RegressorMixin, AddedNeuronBase):
    """Network regressor."""

    _parameter_constraints: dict = {
        **AddedNeuronBase._parameter_constraints,
        "loss": [StrOptions({"squared_error", "poisson"})],
    }

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        module=None,
        loss="squared_error",
        neuron_penalty=0.01,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="anneal",
        learning_rate_init=0.01,
        power_t=0.5,
        max_iter=100,
        shuffle=True,
        tol=0.0001,
        n_starts=1,
        global_move="transplant",
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.99,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        dtype=None,
        warm_start=False,
        device=None,
        random_state=None,
        verbose=False,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.module = module
        self.loss = loss
        self.neuron_penalty = neuron_penalty
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.tol = tol
        self.n_starts = n_starts
        self.global_move = global_move
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.dtype = dtype
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def predict(self, X):
        """Predict targets.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        return self._shape(self._expected(self._raw(X)))

    @_fit_context(prefer_skip_nested_validation=True)
    @all_or_nothing
    def partial_fit(self, X, y, sample_weight=None):
        """Train for one epoch from where the network is.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        self : object
        """
        return self._partial_fit(X, y, None, sample_weight)

    def _expected(self, raw):
        return np.exp(raw) if self.loss == "poisson" else raw

    def _shape(self, values):
        return values.ravel() if values.shape[1] == 1 else values

    def _check_targets(self, y):
        y = np.asarray(y)
        if y.dtype.kind not in "biuf":
            y = y.astype(np.float64)
        if _is_plain_column(y):
            y = y.ravel()
        return y.reshape(len(y), -1).astype(np.float64, copy=False)

    def _learn(self, y, known, classes):
        if not known:
            self._n_targets = y.shape[1]
        elif y.shape[1] != self._n_targets:
            raise ValueError(
                f"y must have {self._n_targets} targets, as in the fit that is "
                f"continued, got {y.shape[1]}."
            )

    def _natural_outputs(self):
        return self._n_targets

    def _loss_of(self, n_outputs):
        if n_outputs != self._n_targets:
            raise ValueError(
                f"module must return {self._n_targets} outputs, one per target, got "
                f"{n_outputs}. Change its last layer."
            )
        return PoissonLoss() if self.loss == "poisson" else SquaredLoss()

    def _columns(self, y, n_outputs):
        return y

    def _score_raw(self, raw, y, weight):
        return r2_score(y, self._expected(raw), sample_weight=weight)

    def _open_network(self):
        network = self._network()
        return OpenNetwork(network, self._loss_of(self.n_outputs_), "regressor", self)


class AddedNeuronClassifier(ClassifierMixin, AddedNeuronBase):
    """Network classifier."""

    _parameter_constraints: dict = {
        **AddedNeuronBase._parameter_constraints,
        "loss": [StrOptions({"log_loss", "smoothed_hinge"})],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "hinge_power": [Interval(Real, 2, None, closed="left")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        module=None,
        loss="log_loss",
        neuron_penalty=0.01,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="anneal",
        learning_rate_init=0.01,
        power_t=0.5,
        max_iter=100,
        shuffle=True,
        tol=0.0001,
        n_starts=1,
        global_move="transplant",
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.99,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        label_smoothing=0.0,
        hinge_power=2,
        class_weight=None,
        dtype=None,
        warm_start=False,
        device=None,
        random_state=None,
        verbose=False,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.module = module
        self.loss = loss
        self.neuron_penalty = neuron_penalty
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.tol = tol
        self.n_starts = n_starts
        self.global_move = global_move
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.label_smoothing = label_smoothing
        self.hinge_power = hinge_power
        self.class_weight = class_weight
        self.dtype = dtype
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def predict(self, X):
        """Predict labels.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_classes)
            Labels, or 0/1 indicators of several labels.
        """
        return self._label(self._raw(X))

    def decision_function(self, X):
        """Raw outputs: positive for the second class, or one column per class.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        decision : ndarray of shape (n_samples,) or (n_samples, n_classes)
        """
        raw = self._raw(X)
        if self._multilabel or len(self.classes_) > 2:
            return raw
        return raw[:, 0] if raw.shape[1] == 1 else raw[:, 1] - raw[:, 0]

    @available_if(_has_probabilities)
    def predict_proba(self, X):
        """Predict probabilities. With ``loss="log_loss"`` only.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`; of each label alone where there are several.
        """
        raw = self._raw(X)
        loss = self._loss_of(raw.shape[1])
        p = loss.predict(torch.from_numpy(raw)).numpy()
        if raw.shape[1] == 1 and not self._multilabel:
            return np.column_stack([1 - p[:, 0], p[:, 0]])
        return p

    @available_if(_has_probabilities)
    def predict_log_proba(self, X):
        """Logarithms of `predict_proba`.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
        """
        return np.log(self.predict_proba(X))

    @_fit_context(prefer_skip_nested_validation=True)
    @all_or_nothing
    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Train for one epoch from where the network is.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Labels; a batch need not have all of them.
        classes : array-like of shape (n_classes,), default=None
            All labels; needed in the first call.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If `classes` is missing in the first call, or a label is not among them.
        """
        return self._partial_fit(X, y, classes, sample_weight)

    def _label(self, raw):
        if self._multilabel:
            return (raw > 0).astype(int)
        if raw.shape[1] == 1:
            return self.classes_[(raw[:, 0] > 0).astype(int)]
        return self.classes_[raw.argmax(1)]

    def _check_targets(self, y):
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        if kind == "multiclass-multioutput":
            raise ValueError(
                "y must be labels or 0/1 indicators of several labels, got several "
                "columns of classes. Fit one classifier per column, say with "
                "MultiOutputClassifier."
            )
        if kind == "multilabel-indicator":
            return np.asarray(y.toarray() if hasattr(y, "toarray") else y)
        return column_or_1d(y, warn=True)

    def _class_weights(self, y):
        if self.class_weight is None:
            return np.ones(len(y))
        return compute_sample_weight(self.class_weight, y)

    def _labels(self, y):
        return y if y.ndim == 1 else None

    def _learn(self, y, known, classes):
        if not known:
            self._multilabel = y.ndim == 2
            if self._multilabel:
                self.classes_ = np.arange(y.shape[1])
            else:
                self.classes_ = np.unique(y if classes is None else classes)
        if self._multilabel:
            if y.ndim != 2 or y.shape[1] != len(self.classes_):
                raise ValueError(
                    f"y must have {len(self.classes_)} columns of indicators, as in "
                    f"the first call, got shape {y.shape}."
                )
            return
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"y must be labels among classes {self.classes_.tolist()}, got "
                f"{unknown.tolist()} too. Name all labels in the first call."
            )
        if len(self.classes_) < 2:
            raise ValueError(
                "y must have at least 2 classes, got 1 class: "
                f"{self.classes_.tolist()}."
            )

    def _natural_outputs(self):
        n_classes = len(self.classes_)
        return 1 if n_classes == 2 and not self._multilabel else n_classes

    def _loss_of(self, n_outputs):
        n_classes = len(self.classes_)
        fits = n_outputs == n_classes
        if not self._multilabel and n_classes == 2:
            fits = fits or n_outputs == 1
        if not fits:
            raise ValueError(
                f"module must return {n_classes} outputs, one per class (one is enough "
                f"for two classes), got {n_outputs}. Change its last layer."
            )
        if self.loss == "smoothed_hinge":
            return SmoothedHingeLoss(self.hinge_power)
        if self._multilabel or n_outputs == 1:
            return LogisticLoss(self.label_smoothing)
        return CrossEntropyLoss(self.label_smoothing)

    def _columns(self, y, n_outputs):
        if self._multilabel:
            return y.astype(np.float64)
        codes = np.searchsorted(self.classes_, y)
        if n_outputs == 1:
            return codes[:, None].astype(np.float64)
        return (codes[:, None] == np.arange(n_outputs)).astype(np.float64)

    def _score_raw(self, raw, y, weight):
        return accuracy_score(y, self._label(raw), sample_weight=weight)

    def _open_network(self):
        network = self._network()
        loss = self._loss_of(self.n_outputs_)
        if self._multilabel:
            return OpenNetwork(network, loss, "classifier", self)
        return OpenNetwork(
            network,
            loss,
            "classifier",
            self,
            classes=self.classes_,
            one_column=self.n_outputs_ == 1,
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
