"""The classifier for tables."""

from typing import Any, ClassVar

from sklearn_pgb._estimator._predictors import NetworkClassifier
from sklearn_pgb._sklearn import StrOptions
from sklearn_pgb._tables._base import TableEstimator


class GradientBasisClassifier(NetworkClassifier, TableEstimator):
    """Classifier for tables: a network and trees, refitted together.

    A network, boosted trees and a forest are trained on five folds with the log loss.
    The derivatives of each model with respect to its parameters, its *gradient basis*
    [1]_, are features of a linear model of the log odds: Jacobian features for the
    network, indicators of the leaves for trees. One convex problem over the bases of
    all models gives the prediction. The weight of each kind of model, the
    regularization strength and the center of the penalty are chosen on samples that no
    model has seen, so probabilities are calibrated on unseen samples. Three or more
    classes share the features of all members: the trees of all classes, and the
    derivatives of one output of the network. There is then one kernel for each kind of
    model and not for each class.

    Of more than 20,000 samples there are fewer folds: 100,000 divided by their number,
    rounded, and at least three. The bases of each fold's models are then refitted to
    the samples that the fold holds out, and the refits of all folds are averaged. The
    built-in models are larger, and the network is trained for fewer epochs.

    Parameters
    ----------
    network : estimator, "drop" or None, default=None
        The network. None is an :class:`AddedNeuronClassifier` with two hidden layers of
        64 smooth units. It gets scaled inputs without missing values, with categories
        as indicators, and so does an estimator in its place. "drop" leaves it out. Of
        more than 20,000 samples, it is trained in float32 on batches of 256, for at
        least 20 epochs and about 3,000,000 samples in all.
    trees : estimator, "drop" or None, default=None
        The boosted trees. None is a
        :class:`~sklearn.ensemble.HistGradientBoostingClassifier` with 150 iterations
        and 8 leaves of at least 5 samples, or one for each of several labels. Of more
        than 3,000 samples there are 300 iterations and 16 leaves of at least 20
        samples, and of more than 20,000 up to 600 iterations and 31 leaves, with early
        stopping. Many classes have fewer iterations, 3,000 trees in all. They get
        numbers with missing values as they are, and category codes.
    forest : estimator, "drop" or None, default=None
        The forest, of which the log odds of the leaves are averaged. None is an
        :class:`~sklearn.ensemble.ExtraTreesClassifier` of 50 trees, 25 for more than
        3,000 and 10 for more than 20,000 samples, with at least 3 samples in a leaf.
        Categories become mean targets.
    others : list of (str, estimator), default=()
        Further members, each of a kind that :class:`GradientBasisRefit` can open. They
        get the inputs of the forest.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes. Several labels take no dict.
    cv : "auto", int or splitter, default="auto"
        Folds. "auto" is 5, fewer if there are fewer distinct samples, or more than
        20,000 samples. An int draws stratified folds over the distinct samples.
        Samples that a splitter holds out have no refit of their own.
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
    oof_prediction_ : ndarray of shape (n_samples, n_classes)
        Probabilities for every sample by members and a refit that were not trained on
        it. NaN for samples without weight, or that no fold holds out.
    oof_score_ : float
        Accuracy of `oof_prediction_`.
    cv_results_ : dict of ndarray
        "alpha", "center" and held-out "loss" of each mixture that was tried, and
        "weight_network" and so on, the weight of each member's kernel.
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

    # The only loss; not a parameter.
    loss = "log_loss"
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
