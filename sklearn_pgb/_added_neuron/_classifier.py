"""`AddedNeuronClassifier`."""

from numbers import Real

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from sklearn_pgb._added_neuron._base import AddedNeuronBase, with_epochs
from sklearn_pgb._estimator._border import all_or_nothing
from sklearn_pgb._estimator._targets import ClassifierTargets
from sklearn_pgb._models._open import OpenNetwork


class AddedNeuronClassifier(ClassifierTargets, AddedNeuronBase):
    """Network classifier that says how far its training is from done.

    It takes the keywords of `sklearn.neural_network.MLPClassifier` with their meaning,
    trains several times faster, and compares what it reached with the least loss that
    any function of the inputs could have. Its objective is ::

        L(theta) = sum_i w_i l(f(x_i; theta), y_i) + alpha / (2 sum(s)) ||W||^2

    with w_i = s_i / sum(s) for sample weights s. With added neurons, one exponential
    unit per output [1]_, it becomes the auxiliary objective ::

        L(f + g) + neuron_penalty ||a||^2,    g(x)_k = a_k exp(w_k . x + b_k)

    whose local minima are all global: they exist exactly where the network attains the
    pure-error floor. With the log loss of plain labels no finite output does, so there
    are none and `floor_attained_` is False; label smoothing or the smoothed hinge
    bring them back. The neurons serve as a monitor, and as a compass for global moves
    (``n_starts > 1``); they are never part of the predictions.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of shape (n_layers,), default=(100,)
        Units of each hidden layer.
    activation : {"identity", "logistic", "tanh", "relu", "silu", "gelu", \
            "gelu_tanh", "elu", "softplus", "leaky_relu"}, default="relu"
        Activation of the hidden layers.
    module : torch.nn.Module or callable, default=None
        A network of one's own in place of `hidden_layer_sizes` and `activation`: a
        module, which is copied and trained from its parameters, or a callable without
        arguments that returns a fresh one. It maps float inputs with the samples on
        the first axis to raw outputs, one per class (one is enough
        for two classes, several labels need one each).
        Dropout and batch norm are active in the training only.
    loss : {"log_loss", "smoothed_hinge"}, default="log_loss"
        Logistic or softmax log loss, or ``max(0, 1 - y f)^hinge_power`` summed over
        outputs, one against the rest for more than two classes.
    neuron_penalty : float, default=0.01
        Ridge on the amplitudes a of the added neurons.
    solver : {"adam", "sgd", "lbfgs"}, default="adam"
        Adam, stochastic gradient descent with momentum, or quasi-Newton steps on all
        samples.
    alpha : float, default=0.0001
        Weight decay: ``alpha / (2 sum(s)) ||W||^2`` is added to the mean loss, W being
        the weights for standardized inputs, biases left out. `GradientBasisRefit`'s
        alpha has another scale.
    batch_size : int or "auto", default="auto"
        Samples of a minibatch. "auto" is an eighth of the samples, at least 32 and at
        most 200, or all of them if there are fewer. With `n_starts` > 1 it is
        ``min(200, n_samples)``; "lbfgs" takes all samples.
    learning_rate : {"anneal", "constant", "invscaling", "adaptive"}, default="anneal"
        "anneal" keeps the initial rate until the loss stagnates or half of `max_iter`
        have passed and then lets it fall to zero along a cosine. The others are those
        of scikit-learn's networks, for "adam" too.
    learning_rate_init : float or "auto", default="auto"
        Initial learning rate of "adam" and "sgd". "auto" is 0.01 up to 64 features and
        falls with the root of their number beyond.
    power_t : float, default=0.5
        Exponent of "invscaling".
    max_iter : int, default=200
        Epochs of one training, or iterations of "lbfgs".
    shuffle : bool, default=True
        Whether samples are shuffled before each epoch. Where one batch holds all of
        them nothing is drawn.
    tol : float, default=0.0001
        An epoch that lowers the loss by less than this is idle. A network is called a
        global minimum where its loss exceeds the pure-error floor by at most this share
        of what the best constant loses above it.
    n_starts : int, default=1
        Trainings in all. With more than one, a training that stagnates leaves its
        epochs to the next: up to ``n_starts * max_iter`` epochs are divided between
        local trainings and global moves, and the best network is polished to a
        critical point, or towards it above 20,000 parameters. This is the hybrid
        algorithm; it brings a schedule of the rate of its own and takes neither "lbfgs"
        nor early stopping.
    global_move : {"transplant", "restart"}, default="transplant"
        How a stagnating training goes on. "transplant" lets the added neuron descend
        on the residuals, puts its direction in place of the weakest hidden unit and
        solves for the output layer; every third move is a restart. "restart" always
        draws new parameters, as a module without a known layout does.
    momentum : float, default=0.9
        Momentum of "sgd".
    nesterovs_momentum : bool, default=True
        Whether to look ahead along the momentum.
    early_stopping : bool or "auto", default="auto"
        Whether to hold out `validation_fraction` of the samples, to judge stagnation
        by their score, and to keep the parameters of the best one. "auto" does so if
        ten or more distinct samples are held out; never with "lbfgs" or
        ``n_starts > 1``. Equal samples are held out together, and so are groups.
    scoring : str, callable or None, default="loss"
        Score of the held-out samples: "loss" is minus the training loss, in units where
        real targets have variance one; else the name of a scorer, or a callable with
        the signature ``scorer(estimator, X, y, sample_weight=...)``; None is the
        estimator's own score.
    validation_fraction : float, default=0.1
        Share of the distinct samples held out for early stopping.
    beta_1 : float, default=0.9
        Decay of Adam's first moment.
    beta_2 : float, default=0.99
        Decay of Adam's second moment.
    epsilon : float, default=1e-8
        Added to the root of Adam's second moment.
    n_iter_no_change : int, default=10
        More idle epochs in a row than this are stagnation.
    max_fun : int, default=15000
        Evaluations of the loss by "lbfgs".
    label_smoothing : float, default=0.0
        Share of each label that is spread over all classes, in [0, 1). Log loss only.
    hinge_power : float, default=2
        Power of the smoothed hinge, at least 2.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, times the sample weights.
    standardize : bool, default=True
        Whether the network is trained on standardized inputs: columns less their mean
        and divided by their standard deviation, sparse ones divided by their largest
        absolute value. Constant columns are left out. The statistics are those of the
        weighted training samples, with `partial_fit` and `warm_start` those of the
        first call. Samples of more than one axis have one mean and one deviation.
    dtype : {"float32", "float64"}, default=None
        Precision of the training; None follows X. Losses, bounds and predictions are
        computed in float64 either way, and so is all of "lbfgs".
    warm_start : bool, default=False
        Whether `fit` goes on from the parameters of the last one.
    device : str or torch.device, default=None
        Where to train; None is the CPU.
    random_state : int, RandomState instance or None, default=None
        Seeds initial parameters, shuffling, held-out samples and the neurons.
    verbose : bool, default=False
        Whether to print the loss of each epoch.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the outputs.
    coefs_, intercepts_ : list of ndarray
        Weights (n_in, n_out) and biases of the layers for inputs as they are given, the
        standardization included; read-only, in float64. Without `module`.
    module_ : torch.nn.Module
        The network as a module in evaluation mode, in float64 on the CPU. It takes
        inputs as they are given; a `module` follows a layer that standardizes them.
    module_state_ : dict of str to ndarray
        Parameters and buffers of the user's module; with `module`.
    loss_ : float
        Weighted mean loss on the training samples, without penalties.
    floor_ : float
        Pure-error floor: the least loss of any function of the inputs, positive where
        equal inputs have different targets.
    floor_attained_ : bool
        Whether some function attains it.
    floor_gap_ : float
        ``loss_ - floor_``, a bound on what any training could still gain.
    residual_ : float
        Largest norm of a mean loss gradient over samples with equal inputs. Zero
        exactly at the floor, where alone the auxiliary objective has local minima.
    status_ : {"certified_global", "converged", "early_stopped", "max_iter", "stalled"}
        How the training ended. "certified_global": the loss exceeds the floor by at
        most `tol` times what the best constant does. "converged": the loss improved by
        less than `tol` per epoch, or no entry of the objective's gradient exceeds it.
        "early_stopped": the held-out score improved no more, or a callback asked to
        stop. "max_iter": it ran out of epochs, iterations or evaluations, of which a
        ConvergenceWarning tells. "stalled": it diverged, or "lbfgs" found no further
        decrease. Only the first says anything about global minima.
    monitor_status_ : {"diverging", "stalled"}
        What the added neuron does on the residuals of the trained network: "diverging"
        if its amplitude vanishes while its norm grows. It says nothing about the fit.
    auxiliary_loss_ : float
        The loss with the added neurons, the network being kept still.
    neurons_ : dict
        "a", "b" (n_outputs,) and "W" (n_outputs, n_features) of these neurons, for
        inputs as they are given.
        Predictions do without them.
    neuron_norm_curve_ : list of float
        Norm of (a, b, W) along their descent. It is no certificate.
    loss_curve_ : list of float
        Objective of each epoch, as the samples were met; epochs in which it overflows
        are left out.
    best_loss_ : float or None
        Smallest entry of `loss_curve_`; None with early stopping.
    validation_scores_ : list of float or None
        Held-out score of each epoch.
    best_validation_score_ : float or None
        The largest of them.
    n_iter_ : int
        Epochs or iterations.
    n_moves_ : int
        Global moves.
    n_layers_ : int
        Layers, the inputs among them; without `module`.
    n_outputs_ : int
        Raw outputs.
    n_features_in_ : int
        Features seen in `fit`.
    feature_names_in_ : ndarray of shape (``n_features_in_``,)
        Their names, where X has names that are all strings.

    See Also
    --------
    AddedNeuronRegressor : The same for numbers.
    GradientBasisRefit : Convex refit of a trained network.

    References
    ----------
    .. [1] Kawaguchi and Kaelbling, "Elimination of All Bad Local Minima in Deep
       Learning", AISTATS 2020.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_pgb import AddedNeuronClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> network = AddedNeuronClassifier((20,), max_iter=40, random_state=0)
    >>> model = make_pipeline(StandardScaler(), network).fit(X, y)
    >>> bool(model.score(X, y) > 0.97)
    True
    >>> network.floor_attained_
    False
    """

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
        learning_rate_init="auto",
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        tol=0.0001,
        n_starts=1,
        global_move="transplant",
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping="auto",
        scoring="loss",
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.99,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        label_smoothing=0.0,
        hinge_power=2,
        class_weight=None,
        standardize=True,
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
        self.scoring = scoring
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.label_smoothing = label_smoothing
        self.hinge_power = hinge_power
        self.class_weight = class_weight
        self.standardize = standardize
        self.dtype = dtype
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @with_epochs
    @_fit_context(prefer_skip_nested_validation=True)
    @all_or_nothing
    def partial_fit(self, X, y, sample_weight=None, classes=None):
        """Train for one epoch from where the network is.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Labels; a batch need not have all of them.
        sample_weight : array-like of shape (n_samples,), default=None
        classes : array-like of shape (n_classes,), default=None
            All labels; needed in the first call.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If `classes` is missing in the first call, or a label is not among them.
        """
        return self._partial_fit(X, y, classes, sample_weight)

    def _open_network(self):
        check_is_fitted(self)
        network = self._network()
        loss = self._loss_of(self.n_outputs_)
        if self._multilabel:
            return OpenNetwork(
                network, loss, "classifier", self, preprocess=self._preprocess
            )
        return OpenNetwork(
            network,
            loss,
            "classifier",
            self,
            classes=self.classes_,
            one_column=self.n_outputs_ == 1,
            preprocess=self._preprocess,
        )

    def _check_same_classes(self, y):
        if y.ndim == 2 or self._multilabel:
            return
        if not np.array_equal(np.unique(y), self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the "
                f"previous call to fit. Previously got {self.classes_}, `y` has "
                f"{np.unique(y)}. Set warm_start=False to start anew."
            )
