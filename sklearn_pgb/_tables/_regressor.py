"""The regressor for tables."""

from typing import Any, ClassVar

from sklearn_pgb._estimator._predictors import NetworkRegressor
from sklearn_pgb._sklearn import StrOptions
from sklearn_pgb._tables._base import TableEstimator


class GradientBasisRegressor(NetworkRegressor, TableEstimator):
    """Regressor for tables: a network and trees, refitted together.

    A network, boosted trees and a forest are trained on five folds. The derivatives of
    each model with respect to its parameters, its *gradient basis* [1]_, are features
    of a linear model: Jacobian features for the network, indicators of the leaves for
    trees. One convex problem over the bases of all models gives the prediction. The
    weight of each kind of model, the regularization strength and the center of the
    penalty are chosen on samples that no model has seen.

    Of more than 20,000 samples there are fewer folds: 100,000 divided by their number,
    rounded, and at least three. The bases of each fold's models are then refitted to
    the samples that the fold holds out, and the refits of all folds are averaged. The
    built-in models are larger, and the network is trained for fewer epochs.

    Parameters
    ----------
    network : estimator, "drop" or None, default=None
        The network. None is an :class:`AddedNeuronRegressor` with two hidden layers of
        64 smooth units. It gets scaled inputs without missing values, with categories
        as indicators, and so does an estimator in its place. "drop" leaves it out. Of
        more than 20,000 samples, it is trained in float32 on batches of 256, for at
        least 20 epochs and about 3,000,000 samples in all.
    trees : estimator, "drop" or None, default=None
        The boosted trees. None is a
        :class:`~sklearn.ensemble.HistGradientBoostingRegressor` with 150 trees of 8
        leaves, which have at least 5 samples. Of more than 3,000 samples there are 300
        trees of 16 leaves with at least 20 samples, and of more than 20,000 up to 600
        trees of 31 leaves, with early stopping. They get numbers with missing values as
        they are, and category codes.
    forest : estimator, "drop" or None, default=None
        The forest. None is an :class:`~sklearn.ensemble.ExtraTreesRegressor` of 50
        trees, 25 for more than 3,000 and 10 for more than 20,000 samples, with at least
        3 samples in a leaf. Categories become mean targets.
    others : list of (str, estimator), default=()
        Further members, each of a kind that :class:`GradientBasisRefit` can open. They
        get the inputs of the forest.
    loss : {"squared_error", "poisson"}, default="squared_error"
        The loss of all members and of the refit. "poisson" is for counts; it has no
        built-in forest.
    cv : "auto", int or splitter, default="auto"
        Folds. "auto" is 5, fewer if there are fewer distinct samples, or more than
        20,000 samples. An int draws folds over the distinct samples. Samples that
        a splitter holds out have no refit of their own.
    categorical_features : "from_dtype", array-like or None, default="from_dtype"
        Columns with categories, besides those with strings or a categorical dtype: a
        mask, positions or names.
    distribution : bool, default=False
        Whether to fit the scale of the errors as a function of the inputs too, for
        `predict_distribution`, `predict_quantiles` and `predict_interval`. Otherwise,
        or if `cv` does not hold out every sample, the scale is constant. Of more than
        3,000 samples, one in twenty, and at most 1,024, are then not trained on, but
        measure the errors of the refit.
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
    estimators_ : list of list
        The trained members of each fold. For the squared loss, their targets, and so
        all coefficients and intercepts, are divided by a power of two near the standard
        deviation, and centered if they are far from zero.
    member_names_ : list of str
        "network", "trees", "forest" and the names of the others.
    alpha_ : ndarray of shape (n_mixtures,)
        Regularization strength of each mixture of kernels in the prediction, for the
        training parts of the folds. The final problem multiplies it by the fraction of
        its weight in these parts.
    group_weights_ : ndarray of shape (n_mixtures, n_members)
        Weight of each member's kernel.
    mixture_weights_ : ndarray of shape (1 + n_mixtures,)
        Weights of the stacked average of the members, and of the mixtures, in the
        prediction.
    stack_weights_ : ndarray of shape (n_members,)
        Weights of the members in the stacked average, the weighted mean of the members'
        raw outputs. The penalty of some mixtures pulls towards it.
    stack_intercept_ : ndarray of shape (n_outputs,)
        Added to the stacked average.
    basis_coef_ : list of list of ndarray
        For each fold and member, coefficients of its derivatives, without the biases.
    intercept_ : ndarray of shape (n_outputs,)
    oof_prediction_ : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Prediction for every sample by members and a refit that were not trained on it.
        NaN for samples without weight, or that no fold holds out.
    oof_score_ : float
        R^2 of `oof_prediction_`; NaN if fewer than two samples are held out.
    cv_results_ : dict of ndarray
        "alpha", "center" and held-out "loss" of each mixture that was tried, and
        "weight_network" and so on, the weight of each member's kernel.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (``n_features_in_``,)

    See Also
    --------
    GradientBasisClassifier : The same for labels.
    GradientBasisRefit : The refit of one model.

    References
    ----------
    .. [1] K. Kawaguchi, J. Huang, L. P. Kaelbling, "Every Local Minimum Value Is the
       Global Minimum Value of Induced Model in Nonconvex Machine Learning", Neural
       Computation 31(12), 2019, Theorem 1.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn_pgb import GradientBasisRegressor
    >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
    >>> model = GradientBasisRegressor(random_state=0).fit(X[:300], y[:300])
    >>> model.score(X[300:], y[300:]) > 0.4
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **TableEstimator._parameter_constraints,
        "loss": [StrOptions({"squared_error", "poisson"})],
        "distribution": ["boolean"],
    }

    def __init__(
        self,
        network=None,
        trees=None,
        *,
        forest=None,
        others=(),
        loss="squared_error",
        cv="auto",
        categorical_features="from_dtype",
        distribution=False,
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
        self.loss = loss
        self.cv = cv
        self.categorical_features = categorical_features
        self.distribution = distribution
        self.max_memory = max_memory
        self.memory = memory
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def predict(self, X, return_std=False):
        """Predict targets.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)
        return_std : bool, default=False
            Whether to also return the standard deviations of `predict_distribution`.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        std : ndarray of the same shape
            Only returned if `return_std` is true.
        """
        y = super().predict(X)
        return (y, self.predict_distribution(X).std) if return_std else y
