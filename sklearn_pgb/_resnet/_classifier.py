"""`ResNetBasisClassifier`."""

from numbers import Real

from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from sklearn_pgb._estimator._targets import ClassifierTargets
from sklearn_pgb._models._open import OpenNetwork
from sklearn_pgb._resnet._base import ResNetBasisBase


class ResNetBasisClassifier(ClassifierTargets, ResNetBasisBase):
    """Residual units on top of a basis: never worse in training than the linear model.

    With phi the output of `basis` the model is ::

        q(x) = R1 phi(x) + R2 z(x; theta) + b

    a ResNet ``W (phi + V z)`` in the parameters in which it is fitted [1]_. R1 and R2
    are solved for, so the objective ::

        sum_i w_i l(q(x_i), y_i) + alpha / 2 (||R1||^2 + ||R2||^2 / s^2)

    with w_i = s_i / sum(s) for sample weights s is never above that of the logistic
    model on the same basis with the same alpha, for any theta: `improvement_` says by
    how much, and `lower_bound_` certifies it. z is trained for as many iterations as
    pay on held-out rows.

    Parameters
    ----------
    basis : transformer, default=None
        Any scikit-learn transformer or Pipeline; it is cloned and fitted, a
        FrozenEstimator is taken as it is. None is X itself. Its output is made dense.
        Features of the training rows, which all losses and bounds are about, come from
        `fit_transform` as in a Pipeline.
    hidden_layer_sizes : int or array-like of shape (n_layers,), default=(64,)
        Units of the layers of z; those of the last layer are the features z.
    activation : {"identity", "logistic", "tanh", "relu", "silu", "gelu", \
            "gelu_tanh", "elu", "softplus", "leaky_relu"}, default="silu"
        Activation of all layers of z.
    module : torch.nn.Module or callable, default=None
        Residual units of one's own in place of `hidden_layer_sizes` and `activation`: a
        module, which is copied, or a callable without arguments that returns one. It
        maps float inputs with the samples on the first axis to (n_samples, n_units).
        Full-batch training runs it in evaluation mode.
    residual_input : {"auto", "X", "basis"}, default="auto"
        What z sees: X, or the features of `basis`. "auto" is X where all its columns
        are of numeric types, unless the fitted basis makes numbers of missing values
        (an imputer, an encoder with a place for them): X may lack what the features
        have. With `module`, name the one that it takes.
    loss : {"log_loss", "smoothed_hinge"}, default="log_loss"
        Logistic loss for two classes and for several labels, cross entropy of the
        softmax for more classes; or ``max(0, 1 - y q)^hinge_power``, one output per
        class.
    alpha : float, "auto" or "loo", default="auto"
        Ridge on R1 and R2, in the objective above. A rule takes that of the basis' own
        model, and with `cv` the best on held-out rows of it and stronger ones. "loo":
        leave-one-out by one Newton step, where that is not too large. "auto": by the
        `cv` folds, or leave-one-out without them. It leaves one unit of weight out, so
        a weight of 1000 counts as 1000 rows. For the log loss alpha is 1 / (C sum(s)),
        with the C of `sklearn.linear_model.LogisticRegression`.
    weight_decay : float, default=0.001
        Ridge on the weights of z while it is trained, on standardised inputs and
        targets. It decides where z ends, and is no part of the losses reported.
    fit_intercept : bool, default=True
        Whether each output has a free intercept.
    solver : {"auto", "lbfgs", "adam"}, default="auto"
        Both minimise the objective above plus the decay of z. "lbfgs" trains z on all
        samples. The linear part is solved for at each step (variable projection), or
        trained along if that is cheaper: with many classes, say. "adam" trains
        everything by minibatches. The linear part is solved for at the end. "auto" is
        "lbfgs" for up to 10,000 samples.
    max_iter : int, default=100
        Iterations of "lbfgs" or epochs of "adam"; at most, with `cv`.
    cv : int, splitter or iterable, default=5
        Folds by which the number of iterations is chosen. The units are left out if the
        model on the basis alone has a smaller held-out loss, or if nothing can be held
        out, as all samples are equal. An int draws folds over the distinct samples, or
        over the `groups` passed to `fit`, and takes as many as hold 1,000 samples;
        "adam" takes one. None trains for `max_iter` on all samples.
    tol : float, default=1e-5
        Training ends when the objective stagnates to this relative tolerance.
    batch_size : int, default=200
        Samples of a minibatch of "adam".
    learning_rate_init : float, default=0.01
        Initial learning rate of "adam".
    label_smoothing : float, default=0.0
        Share of the log loss' targets that is spread evenly over the classes.
    hinge_power : float, default=2
        Power of the smoothed hinge, at least 2.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, times `sample_weight`.
    dtype : {"float32", "float64"}, default="float64"
        Precision of "adam" without `module`. All solutions and bounds are in float64.
    device : str or torch.device, default=None
        Where to train; None is the CPU.
    random_state : int, RandomState instance or None, default=None
        Seeds initial parameters, folds and shuffling.
    verbose : bool, default=False
        Whether to print the objective of each iteration.

    Attributes
    ----------
    basis_ : transformer or None
        The fitted basis.
    coef_x_ : ndarray of shape (n_outputs, n_basis)
        R1.
    coef_z_ : ndarray of shape (n_outputs, n_units)
        R2; zero where held-out rows spoke for the basis alone.
    intercept_ : ndarray of shape (n_outputs,)
    coefs_, intercepts_ : list of ndarray
        Weights (n_in, n_out) and biases of the layers of z, for squashed inputs in the
        units of X; without `module`. Constant inputs have zero weights.
    input_range_ : ndarray of shape (2, n_inputs)
        Smallest and largest value of each input of z in the training. Within them z
        takes its inputs as they are. Beyond them they are squashed smoothly, so that
        one extreme sample does not take z far from where it was trained.
    input_scale_ : ndarray of shape (n_inputs,)
        Standard deviations of the inputs, the most by which a squashed input can be
        beyond its range.
    module_state_ : dict of str to ndarray
        Parameters and buffers of z; with `module`.
    module_ : torch.nn.Module
        The whole network in evaluation mode, in float64 on the CPU.
    residual_input_ : {"X", "basis"}
        What z sees, as `residual_input` chose it; "X" without a basis.
    residual_scale_ : float
        s in the objective: it gives z, at its start, the variance of the basis, of
        standardised columns with ``alpha=0``. Zero where the units were left out.
    alpha_ : float
        The ridge, the same for all losses below.
    loss_ : float
        Objective of the model, penalty included.
    basis_loss_ : float
        The least objective on the basis alone.
    residual_basis_loss_ : float
        The least objective on [phi, z], by which `loss_` is judged.
    improvement_ : float
        ``basis_loss_ - loss_``; never negative.
    lower_bound_, basis_lower_bound_ : float
        Certified: no linear model on [phi, z], or on phi, has a smaller objective, up
        to the norms below.
    norm_budget_, basis_norm_budget_ : float
        Infinite with a ridge. With ``alpha=0`` the bounds hold for coefficients, each
        times the standard deviation of its column, of a norm up to this: a million
        times the norm of those found.
    held_out_loss_, basis_held_out_loss_ : float
        Mean losses of held-out samples, without penalty, that decided about the units:
        at the chosen iterations and ridge, and on the basis alone. nan without folds;
        the first one also where the basis leaves next to nothing to gain.
    loss_curve_ : list of float
        Objective of each iteration, weight decay included.
    n_iter_ : int
        Iterations or epochs of the training of z on all rows.
    classes_ : ndarray of shape (n_classes,)
        Labels, or column numbers of several labels.
    n_layers_ : int
        Layers of z, its inputs among them; without `module`.
    n_outputs_ : int
        Raw outputs.
    n_features_in_ : int
        Features seen in `fit`.
    feature_names_in_ : ndarray of shape (``n_features_in_``,)
        Their names, where X has names that are all strings.

    See Also
    --------
    ResNetBasisRegressor : The same for numbers.
    GradientBasisRefit : Convex refit of a trained network, of this one too.

    References
    ----------
    .. [1] Kawaguchi and Bengio, "Depth with nonlinearity creates no bad local minima in
       ResNets", Neural Networks 118, 2019.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_pgb import ResNetBasisClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = ResNetBasisClassifier(StandardScaler(), random_state=0).fit(X, y)
    >>> bool(model.lower_bound_ <= model.loss_ <= model.basis_loss_)
    True
    >>> bool(model.score(X, y) > 0.97)
    True
    """

    _parameter_constraints: dict = {
        **ResNetBasisBase._parameter_constraints,
        "loss": [StrOptions({"log_loss", "smoothed_hinge"})],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "hinge_power": [Interval(Real, 2, None, closed="left")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        basis=None,
        hidden_layer_sizes=(64,),
        activation="silu",
        *,
        module=None,
        residual_input="auto",
        loss="log_loss",
        alpha="auto",
        weight_decay=0.001,
        fit_intercept=True,
        solver="auto",
        max_iter=100,
        cv=5,
        tol=1e-5,
        batch_size=200,
        learning_rate_init=0.01,
        label_smoothing=0.0,
        hinge_power=2,
        class_weight=None,
        dtype="float64",
        device=None,
        random_state=None,
        verbose=False,
    ):
        self.basis = basis
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.module = module
        self.residual_input = residual_input
        self.loss = loss
        self.alpha = alpha
        self.weight_decay = weight_decay
        self.fit_intercept = fit_intercept
        self.solver = solver
        self.max_iter = max_iter
        self.cv = cv
        self.tol = tol
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.label_smoothing = label_smoothing
        self.hinge_power = hinge_power
        self.class_weight = class_weight
        self.dtype = dtype
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _open_network(self):
        check_is_fitted(self)
        network, final, steps = self._opening()
        loss = self._loss_of(self.n_outputs_)
        if self._multilabel:
            return OpenNetwork(network, loss, "classifier", final, steps=steps)
        return OpenNetwork(
            network,
            loss,
            "classifier",
            final,
            steps=steps,
            classes=self.classes_,
            one_column=self.n_outputs_ == 1,
        )
