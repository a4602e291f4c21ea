"""Open scikit-learn's networks."""

from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.validation import check_is_fitted

from sklearn_pgb._losses._classification import CrossEntropyLoss, LogisticLoss
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._losses._regression import PoissonLoss, SquaredLoss
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._network import as_float64
from sklearn_pgb._models._opened import OpenNetwork


def open_mlp(mlp: MLPRegressor | MLPClassifier) -> OpenNetwork:
    """Open a fitted MLPRegressor or MLPClassifier."""
    check_is_fitted(mlp)
    network = ChainNetwork.mlp(
        weights=[as_float64(coef).T for coef in mlp.coefs_],
        biases=mlp.intercepts_,
        activations=[ACTIVATIONS[mlp.activation]] * (len(mlp.coefs_) - 1),
    )
    losses: dict[str, Loss] = {
        "identity": SquaredLoss(),
        "exp": PoissonLoss(),
        "logistic": LogisticLoss(),
        "softmax": CrossEntropyLoss(),
    }
    loss = losses[mlp.out_activation_]
    if isinstance(mlp, MLPRegressor):
        return OpenNetwork(network, loss, "regressor", mlp)
    one_column = network.n_outputs == 1
    # Several logistic outputs: multilabel targets are indicators already.
    multilabel = isinstance(loss, LogisticLoss) and not one_column
    classes = None if multilabel else mlp.classes_
    return OpenNetwork(
        network, loss, "classifier", mlp, classes=classes, one_column=one_column
    )
