"""What the estimators for tables refuse, and in which words."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    VotingRegressor,
)
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler
from table_cases import CURVE, FRAME, NETWORK, WEIGHT, N, X, Y, classifier, regressor

from sklearn_pgb import AddedNeuronClassifier

FROZEN = FrozenEstimator(Ridge().fit(X, CURVE))
OTHERS = r"others must be pairs \(name, estimator\)"


def changed(array, value):
    """A copy with another first value."""
    other = np.array(array, dtype=np.result_type(np.asarray(array), value))
    other[0] = value
    return other


@pytest.mark.parametrize(
    ("params", "kind", "message"),
    [
        (
            {"network": "drop", "trees": "drop", "forest": "drop"},
            ValueError,
            "must not all be 'drop' without others.*Keep one",
        ),
        ({"network": "none"}, ValueError, "'network' parameter of .* must be"),
        ({"trees": 3}, ValueError, "'trees' parameter of .* must be"),
        ({"others": [Ridge()]}, ValueError, OTHERS + ".*got Ridge.*Pass"),
        ({"others": [("r",)]}, ValueError, OTHERS),
        ({"others": [("r", "drop")]}, ValueError, OTHERS),
        ({"others": ["ab"]}, ValueError, OTHERS),
        ({"others": [(1, Ridge())]}, ValueError, OTHERS),
        ({"others": {"r": Ridge()}}, ValueError, OTHERS + ".*got 'r'"),
        (
            {"others": [("trees", Ridge())]},
            ValueError,
            r"names of their own.*got \['trees'\]. Rename",
        ),
        (
            {"others": [("r", Ridge()), ("r", Ridge())]},
            ValueError,
            r"names of their own.*got \['r', 'r'\]",
        ),
        (
            {"others": [("k", KNeighborsRegressor())]},
            TypeError,
            "got Pipeline that ends in KNeighborsRegressor",
        ),
        (
            {"trees": HistGradientBoostingRegressor(loss="absolute_error")},
            ValueError,
            "absolute_error",
        ),
        (
            {"network": TransformedTargetRegressor(MLPRegressor(**NETWORK))},
            ValueError,
            "must not transform y.*Pass its regressor",
        ),
        (
            {"others": [("vote", VotingRegressor([("a", FROZEN), ("b", Ridge())]))]},
            ValueError,
            "members must not be frozen.*for 'vote'. Pass its estimator",
        ),
        ({"loss": "huber"}, ValueError, "'loss' parameter of .* must be"),
        ({"cv": 1}, ValueError, "must be an int in the range .2, inf"),
        ({"cv": N + 1}, ValueError, "cv must be at most the number of distinct rows"),
        ({"cv": 2.5}, ValueError, "'cv' parameter of .* must be"),
        ({"cv": [(np.arange(N), [])]}, ValueError, "must hold out some sample"),
        ({"n_jobs": 0}, ValueError, "n_jobs must be None or an int other than 0"),
        ({"max_memory": "much"}, ValueError, "max_memory must be a positive number"),
        ({"max_memory": -1}, ValueError, "'max_memory' parameter of .* must be"),
        ({"categorical_features": "all"}, ValueError, "'categorical_features' param"),
        ({"categorical_features": ["no"]}, ValueError, "positions below 3.*got 'no'"),
        ({"categorical_features": [3]}, ValueError, "categorical_features must be"),
        ({"memory": 3}, ValueError, "'memory' parameter of .* must be"),
    ],
)
def test_parameters(params, kind, message):
    with pytest.raises(kind, match=message):
        regressor().set_params(**params).fit(X, CURVE)


@pytest.mark.parametrize(
    ("rows", "y", "message"),
    [
        (changed(X, np.inf), CURVE, "X contains infinity"),
        (np.full((N, 3), 10**400, dtype=object), CURVE, "too large for dtype"),
        (X + 1j, CURVE, "real numbers, got complex ones"),
        (X[:, 0], CURVE, "2 axes, got 1. Reshape your data"),
        (X[:1], CURVE[:1], "at least 2 distinct rows.*1 sample is too few"),
        (X[:0], CURVE[:0], "minimum of 1 is required"),
        (X, CURVE[1:], "inconsistent numbers of samples"),
        (X, None, "requires y to be passed"),
        (X, changed(CURVE, np.nan), "y contains NaN"),
        (X, changed(CURVE, np.inf), "y contains infinity"),
        (X, sp.csr_array(CURVE[:, None]), r"got a sparse matrix. Pass y.toarray\(\)"),
        (X, np.full(N, "a"), "must be numbers for a regressor.*Use a classifier"),
    ],
)
def test_data(rows, y, message):
    with pytest.raises(ValueError, match=message):
        regressor().fit(rows, y)


@pytest.mark.parametrize(
    ("y", "params", "message"),
    [
        (np.zeros(N), {}, r"at least 2 classes, got 1 class: \[0.0\]"),
        (CURVE, {}, "Unknown label type"),
        (
            Y["binary"],
            {"class_weight": {"maybe": 2}},
            r"class_weight .*got \['maybe'\]",
        ),
        (Y["binary"], {"class_weight": "equal"}, "'class_weight' parameter"),
        (
            Y["binary"],
            {"class_weight": {"yes": 0.0, "no": 1.0}},
            r"a sample of every class, got none of \['yes'\]. Remove",
        ),
        (
            Y["multi"],
            {"class_weight": {"mid": 0.0}, "cv": KFold(2)},
            r"a sample of every class, got none of \['mid'\]. Remove",
        ),
        (
            Y["binary"],
            {"network": AddedNeuronClassifier((3,), max_iter=2, loss="smoothed_hinge")},
            "loss LogisticLoss and 1 outputs, got SmoothedHingeLoss.*for 'network'",
        ),
        (
            Y["binary"] == "yes",
            {"trees": HistGradientBoostingRegressor(max_iter=2)},
            "got SquaredLoss and 1 for 'trees'.*Replace it",
        ),
        (
            Y["multi"],
            {"cv": [(np.flatnonzero(Y["multi"] != "mid"), np.arange(3))]},
            "and 3 outputs, got .*folds must have samples of all classes",
        ),
        (
            np.digitize(CURVE, [0, 1, 2]),
            {"cv": [(np.flatnonzero(CURVE < 2), np.arange(3))]},
            "and 4 outputs, got CrossEntropyLoss and 3 .*samples of all classes",
        ),
        (Y["labels"], {"trees": HistGradientBoostingClassifier()}, "1d array"),
    ],
)
def test_labels(y, params, message):
    with pytest.raises(ValueError, match=message):
        classifier(forest="drop").set_params(**params).fit(X, y)


def test_counts_are_not_negative():
    model = regressor(loss="poisson")
    with pytest.raises(ValueError, match=r"y must be >= 0 for .* loss, got -1"):
        model.fit(X, changed(Y["count"], -1.0))


def test_a_forest_of_means_has_no_log_rates():
    trees = HistGradientBoostingRegressor(loss="poisson", max_iter=2)
    model = regressor("drop", trees, loss="poisson", forest=ExtraTreesRegressor(2))
    with pytest.raises(ValueError, match="got SquaredLoss and 1 for 'forest'"):
        model.fit(X, Y["count"])


def test_a_network_with_another_loss():
    network = MLPRegressor(loss="poisson", **NETWORK)
    message = "loss SquaredLoss and 1 outputs, got PoissonLoss and 1 for 'network'"
    with pytest.raises(ValueError, match=message):
        regressor(network).fit(X, Y["count"])


class Unweighted(Ridge):
    """A model whose fit takes no weights."""

    def fit(self, X, y):
        return super().fit(X, y)


def test_a_member_without_weights():
    model = regressor(others=[("plain", Unweighted())])
    model.fit(X, CURVE)
    message = "fit takes no sample_weight, got weights for 'plain'. Replace or drop"
    with pytest.raises(ValueError, match=message):
        model.fit(X, CURVE, sample_weight=WEIGHT)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.zeros(N), "at least one non-zero"),
        (-np.ones(N), "[Nn]egative values"),
        (np.ones(N - 1), "shape"),
        (changed(WEIGHT, np.nan), "NaN"),
    ],
)
def test_weights(weight, message):
    with pytest.raises(ValueError, match=message):
        regressor().fit(X, CURVE, sample_weight=weight)


def test_groups():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        regressor().fit(X, CURVE, groups=np.arange(N - 1))
    with pytest.raises(ValueError, match="at least 2 groups"):
        regressor().fit(X, CURVE, groups=np.zeros(N))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (FRAME.drop(columns="day"), "feature names should match|must have the columns"),
        (FRAME.rename(columns={"day": "date"}), "feature names should match"),
        (FRAME[FRAME.columns[::-1]], "same order"),
        (FRAME.to_numpy()[:, :3], "X has 3 features"),
        (FRAME.assign(day="monday"), "must have numbers or dates in column 'day'"),
        (FRAME.assign(number=np.inf), "X contains infinity"),
    ],
)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_new_tables(rows, message):
    model = regressor().fit(FRAME, CURVE)
    with pytest.raises(ValueError, match=message):
        model.predict(rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (X[:, 0], "2 axes, got 1"),
        (X[:, :, None], "2 axes, got 3"),
        (X[:, :2], "X has 2 features"),
        (X[:0], "minimum of 1 is required"),
        (changed(X, np.inf), "X contains infinity"),
        (np.full((1, 3), -(10**400), dtype=object), "too large for dtype"),
    ],
)
def test_new_arrays(rows, message):
    """Arrays that need no conversion are checked, too."""
    model = regressor().fit(X, CURVE)
    with pytest.raises(ValueError, match=message):
        model.predict(rows)


def test_a_failed_fit_changes_nothing():
    model = regressor().fit(X, CURVE)
    before = model.predict(X)
    with pytest.raises(ValueError, match="X contains infinity"):
        model.fit(changed(X, np.inf), CURVE)
    np.testing.assert_array_equal(model.predict(X), before)
    fresh = clone(model)
    with pytest.raises(ValueError, match="X contains infinity"):
        fresh.fit(changed(X, np.inf), CURVE)
    assert not hasattr(fresh, "n_features_in_")


def test_target_transformations_inside_of_other_members():
    scaled = TransformedTargetRegressor(Ridge(), transformer=StandardScaler())
    with pytest.raises(ValueError, match="must not transform y"):
        regressor(others=[("scaled", scaled)]).fit(X, CURVE)
