"""`AddedNeuronClassifier`."""

from sklearn_pgb._added_neuron._base import AddedNeuronBase, with_epochs
from sklearn_pgb._estimator._border import all_or_nothing
from sklearn_pgb._estimator._predictors import CLASSIFIER_CONSTRAINTS, NetworkClassifier
from sklearn_pgb._sklearn import _fit_context


class AddedNeuronClassifier(NetworkClassifier, AddedNeuronBase):
    """Network classifier that bounds how much its loss can still improve.

    It supports the parameters of `sklearn.neural_network.MLPClassifier`, trains several
    times faster, and compares its loss with the smallest loss of any function of the
    inputs. Its objective is ::

        L(theta) = sum_i w_i l(f(x_i; theta), y_i) + alpha / (2 sum(s)) ||W||^2

    with w_i = s_i / sum(s) for sample weights s. With added neurons, one exponential
    unit per output [1]_, it becomes the auxiliary objective ::

        L(f + g) + neuron_penalty ||a||^2,    g(x)_k = a_k exp(w_k . x + b_k)

    All of its local minima are global, and the network attains the pure-error floor at
    each of them. With the log loss no finite output attains the floor, so there are no
    local minima and `floor_attained_` is False, unless label smoothing or the smoothed
    hinge is used. The neurons monitor the training and guide global moves
    (``n_starts > 1``). They are never part of the predictions.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of shape (n_layers,), default=(100,)
        Units of each hidden layer.
    activation : {"identity", "logistic", "tanh", "relu", "silu", "gelu", \
            "gelu_tanh", "elu", "softplus", "leaky_relu"}, default="relu"
        Activation of the hidden layers.
    module : torch.nn.Module or callable, default=None
        A custom network, used instead of `hidden_layer_sizes` and `activation`: a
        module, which is copied and trained from its current parameters, or a callable
        without arguments that returns a new one. It maps float inputs with the samples
        on the first axis to raw outputs, one per class (one is enough
        for two classes, several labels need one each).
        Dropout and batch norm are only active during training.
    loss : {"log_loss", "smoothed_hinge"}, default="log_loss"
        Logistic or softmax log loss, or ``max(0, 1 - y f)^hinge_power`` summed over
        outputs, one against the rest for more than two classes.
    neuron_penalty : float, default=0.01
        Strength of the penalty on the amplitudes a of the added neurons.
    solver : {"adam", "sgd", "lbfgs"}, default="adam"
        Adam, stochastic gradient descent with momentum, or L-BFGS on all samples.
    alpha : float, default=0.0001
        Weight decay: ``alpha / (2 sum(s)) ||W||^2`` is added to the mean loss for the
        weights W of standardized inputs; biases are not penalized. The alpha of
        `GradientBasisRefit` has another scale.
    batch_size : int or "auto", default="auto"
        Size of the minibatches. "auto" is an eighth of the samples, at least 32 and at
        most 200, or all samples if there are fewer. With `n_starts` > 1 it is
        ``min(200, n_samples)``. "lbfgs" always uses all samples.
    learning_rate : {"anneal", "constant", "invscaling", "adaptive"}, default="anneal"
        "anneal" keeps the initial rate until the loss stagnates or half of `max_iter`
        have passed, then decreases it to zero along a cosine. The others are those of
        scikit-learn's networks and also apply to "adam".
    learning_rate_init : float or "auto", default="auto"
        Initial learning rate of "adam" and "sgd". "auto" is 0.01 for up to 64 features
        and decreases with the square root of the number of features beyond.
    power_t : float, default=0.5
        Exponent of "invscaling".
    max_iter : int, default=200
        Maximum number of epochs of one training, or of iterations of "lbfgs".
    shuffle : bool, default=True
        Whether to shuffle samples before each epoch, unless one batch holds them all.
    tol : float, default=0.0001
        Smallest decrease of the loss that counts as an improvement. A network is
        certified as a global minimum if its loss exceeds the pure-error floor by at
        most `tol` times the excess of the best constant model.
    n_starts : int, default=1
        Number of trainings. If it exceeds one, the hybrid algorithm divides up to
        ``n_starts * max_iter`` epochs between local training and global moves, which
        begin when the training stagnates. The best network is then polished to a
        critical point, or towards one if it has more than 20,000 parameters. The
        algorithm has its own learning rate schedule and supports neither "lbfgs" nor
        early stopping.
    global_move : {"transplant", "restart"}, default="transplant"
        Continuation of a training that stagnates. "transplant" trains the added neuron
        on the residuals, replaces the weakest hidden unit by its direction and solves
        for the output layer; every third move is a restart. "restart" always draws new
        parameters. A `module` is always restarted.
    momentum : float, default=0.9
        Momentum of "sgd".
    nesterovs_momentum : bool, default=True
        Whether to use Nesterov's momentum.
    early_stopping : bool or "auto", default="auto"
        Whether to hold out `validation_fraction` of the samples, stop when their score
        stagnates, and return the parameters of the best score. "auto" does so if this
        holds out ten or more distinct samples, but never with "lbfgs" or
        ``n_starts > 1``. Equal samples are held out together, and so are groups.
    scoring : str, callable or None, default="loss"
        Score of the held-out samples. "loss" is the negative loss, for a regressor with
        targets scaled to variance one, and for counts divided by their mean. Otherwise
        the name of a scorer, or a callable with the signature ``scorer(estimator, X, y,
        sample_weight=...)``. None is the estimator's own score.
    validation_fraction : float, default=0.1
        Fraction of the distinct samples held out for early stopping.
    beta_1 : float, default=0.9
        Decay of Adam's first moment.
    beta_2 : float, default=0.99
        Decay of Adam's second moment.
    epsilon : float, default=1e-8
        Added to the square root of Adam's second moment.
    n_iter_no_change : int, default=10
        The training stagnates if the loss does not improve by `tol` in more than this
        many consecutive epochs.
    max_fun : int, default=15000
        Maximum number of loss evaluations of "lbfgs".
    label_smoothing : float, default=0.0
        Fraction of each label spread over all classes, in [0, 1). Log loss only.
    hinge_power : float, default=2
        Power of the smoothed hinge, at least 2.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, multiplied by the sample weights. Several labels take
        no dict.
    standardize : bool, default=True
        Whether to standardize the inputs: features are centered and divided by their
        standard deviation, or only divided by their largest absolute value if X is
        sparse. Constant features are left out until they vary. The statistics are those
        of the weighted training samples. `partial_fit` and `warm_start` count all calls
        and adapt the network if they grow by a factor of two; its outputs stay the
        same, unless a deviation becomes more than ten times as large at once. A
        `module` is only adapted to features that were constant. Samples with more than
        one axis have a single mean and standard deviation.
    dtype : {"float32", "float64"}, default=None
        Precision of the training; None follows X. Losses, bounds and predictions are
        always computed in float64, and so is all of "lbfgs".
    warm_start : bool, default=False
        Whether `fit` continues from the parameters of the previous call.
    device : str or torch.device, default=None
        Device of the training; None is the CPU.
    random_state : int, RandomState instance or None, default=None
        Seed for initial parameters, shuffling, held-out samples and added neurons.
    verbose : bool, default=False
        Whether to print the loss of each epoch.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the outputs.
    coefs_, intercepts_ : list of ndarray
        Weights (n_in, n_out) and biases of the layers, which include the
        standardization. Read-only, in float64, and only without `module`.
    module_ : torch.nn.Module
        The network as a module in evaluation mode, in float64 on the CPU. It includes
        the standardization of the inputs.
    module_state_ : dict of str to ndarray
        Parameters and buffers of the user's module, only with `module`.
    loss_ : float
        Weighted mean loss on the training samples, without penalties.
    floor_ : float
        Pure-error floor: the smallest loss of any function of the inputs. It is
        positive if equal inputs have different targets.
    floor_attained_ : bool
        Whether some function attains the floor.
    floor_gap_ : float
        ``loss_ - floor_``, an upper bound on further improvements of the loss.
    residual_ : float
        Largest norm of the mean loss gradients over samples with equal inputs. It is
        zero only at the floor, and only then the auxiliary objective has local minima.
    status_ : {"certified_global", "converged", "early_stopped", "max_iter", "stalled"}
        Why the training ended. "certified_global": the loss exceeds the floor by at
        most `tol` times the excess of the best constant model. "converged": the loss
        improved by less than `tol` per epoch, or no entry of the objective's gradient
        exceeds `tol`. "early_stopped": the held-out score stopped improving, or a
        callback requested the end. "max_iter": the limit of epochs, iterations or
        evaluations was reached, with a ConvergenceWarning. "stalled": the loss
        diverged, or "lbfgs" could not decrease it. Only the first refers to global
        minima.
    monitor_status_ : {"diverging", "stalled"}
        Behavior of the added neuron on the residuals of the trained network:
        "diverging" if its amplitude vanishes while its norm grows. It does not measure
        the quality of the fit.
    auxiliary_loss_ : float
        The loss with added neurons, which are trained for the fixed network.
    neurons_ : dict
        Arrays "a", "b" (n_outputs,) and "W" (n_outputs, n_features) of these neurons,
        for unstandardized inputs. Predictions do not use them.
    neuron_norm_curve_ : list of float
        Norm of (a, b, W) along their descent. It is not a certificate.
    loss_curve_ : list of float
        Objective of each epoch, accumulated during the epoch, or after each iteration.
        Epochs in which it overflows, and the polish with `n_starts` > 1, are left out.
    best_loss_ : float or None
        Smallest entry of `loss_curve_`, or `loss_` if that is empty; None with early
        stopping.
    validation_scores_ : list of float or None
        Held-out score of each epoch.
    best_validation_score_ : float or None
        Largest held-out score.
    n_iter_ : int
        Number of epochs or iterations, at least one; with `n_starts` > 1 also of
        evaluations of the polish within ``n_starts * max_iter``.
    n_moves_ : int
        Number of global moves.
    n_layers_ : int
        Number of layers, the input layer included; only without `module`.
    n_outputs_ : int
        Number of raw outputs.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (``n_features_in_``,)
        Names of the features if X has names that are all strings.

    See Also
    --------
    AddedNeuronRegressor : The corresponding regressor.
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
        **CLASSIFIER_CONSTRAINTS,
    }

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        *,
        activation="relu",
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
        """Train for one epoch, starting from the current parameters.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Labels; a batch may lack some classes.
        sample_weight : array-like of shape (n_samples,), default=None
        classes : array-like of shape (n_classes,), default=None
            All labels; required in the first call.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If `classes` is missing in the first call, or a label is not among them.
        """
        return self._partial_fit(X, y, classes, sample_weight)
