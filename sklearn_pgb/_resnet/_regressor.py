"""`ResNetBasisRegressor`."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_pgb._estimator._predictors import REGRESSOR_CONSTRAINTS, NetworkRegressor
from sklearn_pgb._estimator._state import as_fitted
from sklearn_pgb._resnet._base import ResNetBasisBase
from sklearn_pgb._resnet._diagnostics import closed_form


class ResNetBasisRegressor(NetworkRegressor, ResNetBasisBase):
    """Residual units on top of a basis: never worse in training than ridge regression.

    With phi the output of `basis` the model is ::

        q(x) = R1 phi(x) + R2 z(x; theta) + b

    which is a ResNet ``W (phi + V z)`` with R1 = W and R2 = W V [1]_. As R1 and R2 are
    optimal for any theta, the objective ::

        sum_i w_i l(q(x_i), y_i) + alpha / 2 (||R1||^2 + ||R2||^2 / s^2)

    with w_i = s_i / sum(s) for sample weights s is never above that of the ridge
    model on the same basis with the same alpha. The difference is `improvement_`, and
    `lower_bound_` certifies the solution. The number of training iterations of z is
    chosen on held-out samples.

    Parameters
    ----------
    basis : transformer, default=None
        Any scikit-learn transformer or Pipeline; it is cloned and fitted, unless it is
        a FrozenEstimator. None is X itself. Sparse features are converted to dense
        ones. As in a Pipeline, `fit_transform` gives the features of the training
        samples, which determine all losses and bounds.
    hidden_layer_sizes : int or array-like of shape (n_layers,), default=(64,)
        Units of each layer of z. The outputs of the last layer are the features z.
    activation : {"identity", "logistic", "tanh", "relu", "silu", "gelu", \
            "gelu_tanh", "elu", "softplus", "leaky_relu"}, default="silu"
        Activation of all layers of z.
    module : torch.nn.Module or callable, default=None
        Custom residual units, used instead of `hidden_layer_sizes` and `activation`: a
        module, which is copied, or a callable without arguments that returns one. It
        maps float inputs with the samples on the first axis to (n_samples, n_units).
        Full-batch training uses its evaluation mode.
    residual_input : {"auto", "X", "basis"}, default="auto"
        Inputs of z: X, or the features of `basis`. "auto" is X if all its columns have
        numeric types, unless the fitted basis accepts missing values (for example an
        imputer), which z does not. With `module`, choose the inputs that it takes.
    loss : {"squared_error", "poisson", "huber"}, default="squared_error"
        The squared loss is ``||q - y||^2`` without a factor 1/2. "poisson" has a log
        link: ``exp(q) - y q``. "huber" is the squared loss for errors up to
        `huber_delta` and linear beyond: ``2 delta |q - y| - delta^2``.
    alpha : float, "auto" or "loo", default="auto"
        Regularization strength in the objective above. The rules choose it for the
        model on the basis alone; with `cv`, larger multiples are tried as well. "loo"
        is leave-one-out, in closed form for the squared loss, and for other losses by
        one Newton step if the problem is small enough. "auto" is "loo" for the squared
        loss and uses the `cv` folds for others. Leave-one-out removes one unit of
        weight, so a weight of 1000 counts as 1000 samples. For the squared loss alpha
        is 2 / sum(s) times that of `sklearn.linear_model.Ridge`.
    weight_decay : float, default=0.001
        Penalty on the squared weights of z during training, for standardized inputs and
        targets. It affects the trained z, but is not part of the reported losses.
    fit_intercept : bool, default=True
        Whether each output has an intercept.
    solver : {"auto", "lbfgs", "adam"}, default="auto"
        Both minimize the objective above plus the decay of z. "lbfgs" trains z on all
        samples. It solves for the linear part at each step (variable projection), or
        trains it together with z if that is cheaper, for example with many classes.
        "adam" trains everything on minibatches and solves for the linear part at the
        end. "auto" is "lbfgs" for up to 10,000 samples.
    max_iter : int, default=100
        Iterations of "lbfgs" or epochs of "adam". With `cv` this is the maximum.
    cv : int, splitter or iterable, default=5
        Folds to choose the number of iterations. The units are left out if the model on
        the basis alone has a smaller held-out loss, or if all samples are equal, so
        that none can be held out. An int draws folds of the distinct samples, or of the
        `groups` passed to `fit`, and uses as many as hold out 1,000 samples; "adam"
        uses one. None trains for `max_iter` on all samples.
    tol : float, default=1e-5
        Training ends when the objective stagnates up to this relative tolerance.
    batch_size : int, default=200
        Size of the minibatches of "adam".
    learning_rate_init : float, default=0.01
        Initial learning rate of "adam".
    huber_delta : float, default=1.35
        Largest error that is squared with ``loss="huber"``, in the units of y. 1.35
        times the standard deviation of normal noise keeps 95 % of the efficiency of
        the squared loss.
    dtype : {"float32", "float64"}, default="float64"
        Precision of "adam" without `module`. All solutions and bounds are in float64.
    device : str or torch.device, default=None
        Device of the training; None is the CPU.
    random_state : int, RandomState instance or None, default=None
        Seed for initial parameters, folds and shuffling.
    verbose : bool, default=False
        Whether to print the objective of each iteration.

    Attributes
    ----------
    basis_ : transformer or None
        The fitted basis.
    coef_x_ : ndarray of shape (n_outputs, n_basis)
        The matrix R1.
    coef_z_ : ndarray of shape (n_outputs, n_units)
        The matrix R2; zero if the basis alone is better on held-out samples.
    intercept_ : ndarray of shape (n_outputs,)
        The vector b, rounded: predictions compute
        ``R1 (phi - basis_center_) + R2 z + centered_intercept_``, because b is a
        difference of large numbers if features are far from zero.
    basis_center_ : ndarray of shape (n_basis,)
        A value of each feature near its mean; zero without intercept.
    centered_intercept_ : ndarray of shape (n_outputs,)
        The intercept for the differences of features to `basis_center_`.
    coefs_, intercepts_ : list of ndarray
        Weights (n_in, n_out) and biases of the layers of z for unstandardized, squashed
        inputs; only without `module`. Constant inputs have zero weights.
    input_range_ : ndarray of shape (2, n_inputs)
        Smallest and largest training value of each input of z. Values in this range are
        not changed. Values outside are squashed smoothly, so that an extreme sample
        does not make z extrapolate.
    input_scale_ : ndarray of shape (n_inputs,)
        Standard deviations of the inputs. A squashed input exceeds its range by at most
        one of them.
    module_state_ : dict of str to ndarray
        Parameters and buffers of z; only with `module`.
    module_ : torch.nn.Module
        The whole network in evaluation mode, in float64 on the CPU.
    residual_input_ : {"X", "basis"}
        Inputs of z chosen by `residual_input`; "X" without a basis.
    residual_scale_ : float
        The constant s in the objective. It makes the variance of the initial s z equal
        to that of the basis (of its standardized columns if ``alpha=0``). Zero if the
        units were left out.
    alpha_ : float
        Regularization strength of all losses below.
    loss_ : float
        Objective of the model, penalty included.
    basis_loss_ : float
        Objective of the best model on the basis alone.
    improvement_ : float
        ``basis_loss_ - loss_``; never negative.
    lower_bound_, basis_lower_bound_ : float
        Certified lower bounds on the objective of any linear model on [phi, z] and on
        phi, for coefficients within the norms below.
    norm_budget_, basis_norm_budget_ : float
        Infinite with a positive alpha. With ``alpha=0`` the bounds hold for
        coefficients up to this norm, in units of standardized columns. It is a million
        times the norm of the solution.
    held_out_loss_, basis_held_out_loss_ : float
        Mean losses of held-out samples, without penalty, that decide about the units:
        with the chosen iterations and alpha, and on the basis alone. nan without folds.
    loss_curve_ : list of float
        Objective of each iteration, weight decay included.
    n_iter_ : int
        Number of iterations or epochs of the training of z on all samples.
    n_layers_ : int
        Number of layers of z, its inputs included; only without `module`.
    n_outputs_ : int
        Number of raw outputs.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (``n_features_in_``,)
        Names of the features if X has names that are all strings.

    See Also
    --------
    ResNetBasisClassifier : The corresponding classifier.
    GradientBasisRefit : Convex refit of a trained network, including this one.

    References
    ----------
    .. [1] Kawaguchi and Bengio, "Depth with nonlinearity creates no bad local minima in
       ResNets", Neural Networks 118, 2019.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import PolynomialFeatures, StandardScaler
    >>> from sklearn_pgb import ResNetBasisRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> quadratic = make_pipeline(StandardScaler(), PolynomialFeatures(2))
    >>> model = ResNetBasisRegressor(quadratic, random_state=0).fit(X, y)
    >>> bool(model.lower_bound_ <= model.loss_ <= model.basis_loss_)
    True
    """

    _parameter_constraints: dict = {
        **ResNetBasisBase._parameter_constraints,
        **REGRESSOR_CONSTRAINTS,
    }

    def __init__(
        self,
        basis=None,
        hidden_layer_sizes=(64,),
        *,
        activation="silu",
        module=None,
        residual_input="auto",
        loss="squared_error",
        alpha="auto",
        weight_decay=0.001,
        fit_intercept=True,
        solver="auto",
        max_iter=100,
        cv=5,
        tol=1e-5,
        batch_size=200,
        learning_rate_init=0.01,
        huber_delta=1.35,
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
        self.huber_delta = huber_delta
        self.dtype = dtype
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def closed_form(self, X, y, sample_weight=None):
        """Compute the mean squared loss of all local minima in (W, V) at the fitted z.

        It is the minimum of the unpenalized loss of linear models with intercept on
        [phi, z] [1]_. A fit with ``alpha=0`` attains it on its training samples.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)
            Samples to evaluate.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        losses : ClosedForm
            `basis_loss` is the loss of the linear model on phi, `improvement` the gain
            by z, and `loss` their difference.

        References
        ----------
        .. [1] Kawaguchi and Bengio, "Depth with nonlinearity creates no bad local
           minima in ResNets", Neural Networks 118, 2019, Theorem 2.
        """
        check_is_fitted(self)
        loss = self._targets.loss
        if not loss.quadratic:
            raise ValueError(
                "loss must be 'squared_error' for the closed form, got "
                f"{loss.name!r}. See lower_bound_ for other losses."
            )
        features, y, weight = self._evaluated(X, y, sample_weight)
        phi, z = features[:, : self._n_basis], features[:, self._n_basis :]
        phi = phi - self.basis_center_
        if as_fitted(self, "fit_intercept"):
            phi = np.column_stack([phi, np.ones(len(phi))])
        return closed_form(phi, z, y, weight)
