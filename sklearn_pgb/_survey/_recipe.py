"""Derive the training of a population of networks from an estimator."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier
from sklearn.compose import TransformedTargetRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array
from torch import Tensor

from sklearn_pgb._budget import EPOCH_RATIO, NEWTON_PARAMS
from sklearn_pgb._certificate._terms import mlp_penalty
from sklearn_pgb._estimator._border import dense
from sklearn_pgb._losses._named import loss_with
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._network import Network, as_float64
from sklearn_pgb._models._opened import NetworkEstimator
from sklearn_pgb._models._protected import guard_for
from sklearn_pgb._sklearn import _check_y
from sklearn_pgb._survey._ends import SurveyData
from sklearn_pgb._targets import LabelTargets, RealTargets, Targets
from sklearn_pgb._training._architecture import (
    Architecture,
    chain_architecture,
    hidden_widths,
    network_state,
)
from sklearn_pgb._training._descent import Adam
from sklearn_pgb._training._input_map import InputMap
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._polish import polish
from sklearn_pgb._training._program import ChainProgram
from sklearn_pgb._training._train import Schedule, automatic_rate, train


@dataclass(frozen=True, eq=False)
class Recipe:
    """Architecture, data and training parameters of a population of networks.

    Attributes
    ----------
    architecture : Architecture
        Its outputs and the penalty are for standardized targets.
    activation : str
    data : SurveyData
        In the original units of the targets.
    targets : Targets
    y : ndarray
        Targets before they are encoded.
    penalty : Tensor (n_params,)
    schedule : Schedule
        Has zero epochs if the solver is L-BFGS.
    batch_size : int
    n_iter : int
        The estimator's number of iterations of L-BFGS; zero for other solvers.
    """

    architecture: Architecture
    activation: str
    data: SurveyData
    targets: Targets
    y: NDArray[Any]
    penalty: Tensor
    schedule: Schedule
    batch_size: int
    n_iter: int

    @property
    def program(self) -> ChainProgram:
        """The program that computes a network of the population."""
        program = self.architecture.program
        assert isinstance(program, ChainProgram)
        return program

    def objective(self, dtype: torch.dtype) -> Objective:
        """Training objective, for standardized targets."""
        data, architecture = self.data, self.architecture
        y = self.targets.encode(
            self.y, architecture.n_outputs, architecture.center, architecture.scale
        )
        loss = self.targets.loss_for(architecture.n_outputs, architecture.scale)
        parts = (data.inputs, y, data.weight, self.penalty)
        # Each call makes its own program, because its buffers are not thread-safe.
        program = ChainProgram(self.program.widths, self.program.activations)
        return Objective(program, loss, *(part.to(dtype) for part in parts))

    def train(self, theta: Tensor, seed: int) -> Tensor:
        """Train a group by Adam, in float32: polishing restores the accuracy."""
        training = train(
            self.objective(torch.float32),
            theta.float(),
            Adam(),
            self.schedule,
            batch_size=self.batch_size,
            generator=torch.Generator().manual_seed(seed),
        )
        return training.theta.double()

    def polish(self, theta: Tensor, n_iter: int, gtol: float) -> Tensor:
        """Minimize the objective of each network by L-BFGS and Newton steps."""
        objective = self.objective(torch.float64)
        small = self.program.n_params <= NEWTON_PARAMS
        # Newton steps do not help at kinks.
        newton = small and not ACTIVATIONS[self.activation].kink
        polished = [
            polish(objective, member, gtol=gtol, max_iter=n_iter, newton=newton)
            for member in theta
        ]
        return torch.stack([each.theta for each in polished])

    def original_penalty(self) -> Tensor:
        """Penalty on the parameters of `networks`, for targets in original units."""
        penalty = self.penalty.clone()
        _hidden_part(penalty, self.program).mul_(self.architecture.scale**2)
        return penalty

    def networks(self, theta: Tensor) -> Sequence[Network]:
        """Convert parameters to networks in the targets' original units."""
        members = []
        for member in theta:
            state = network_state(self.architecture, member)
            weights = [as_float64(coef).T for coef in state["coefs_"]]
            activations = [ACTIVATIONS[self.activation]] * (len(weights) - 1)
            members.append(ChainNetwork.mlp(weights, state["intercepts_"], activations))
        return members


def find_recipe(
    estimator: Any, X: Any, y: Any, sample_weight: NDArray[np.float64]
) -> Recipe | None:
    """Recipe for an estimator's network; None if a population can't train it.

    Steps of pipelines and target transformers are fitted once.
    """
    *wrappers, final = _unwrapped(estimator)
    if not _has_known_training(final):
        return None
    final._validate_params()
    X, y = _transformed(wrappers, X, y)
    X = check_array(X, accept_sparse=("csr", "csc"), dtype=np.float64)
    is_sparse, X = sp.issparse(X), dense(X)
    params = {"loss": "log_loss", **final.get_params()}
    kind = LabelTargets if is_classifier(final) else RealTargets
    y = _check_y(y, multi_output=True, y_numeric=not is_classifier(final))
    y = kind.checked(y)
    targets = kind.of(y, loss_with(params), class_weight=params.get("class_weight"))
    weight = targets.weigh(y, sample_weight)
    # Fits leave samples of weight zero out, so they must not affect standardization.
    if not weight.all():
        X, y, weight = X[weight > 0], y[weight > 0], weight[weight > 0]
    is_own = isinstance(final, NetworkEstimator)
    if is_own and params["standardize"]:
        X = InputMap.fit(X, weight, centered=not is_sparse, drop=True).transform(X)
    n_outputs = targets.n_outputs
    loss = targets.loss_for(n_outputs)
    activation = params["activation"]
    hidden = hidden_widths(params["hidden_layer_sizes"])
    program = ChainProgram(
        [X.shape[1], *hidden, n_outputs], [ACTIVATIONS[activation]] * len(hidden)
    )
    # The initial parameters drawn here are not used: each start draws its own.
    rng = np.random.RandomState(0)
    architecture = chain_architecture(program, rng, *targets.scaling(y, weight))
    normalized = as_float64(weight / weight.sum())
    penalty = program.is_weight().double()
    if is_own:
        penalty *= params["alpha"] / (2 * weight.sum())
    else:
        penalty *= mlp_penalty(final, loss, sample_weight)[0]
        # Dividing the loss by the variance of the targets divides the penalty too.
        _hidden_part(penalty, program).div_(architecture.scale**2)
    batch_size = params["batch_size"]
    return Recipe(
        architecture=architecture,
        activation=activation,
        data=SurveyData(as_float64(X), targets.encode(y, n_outputs), normalized, loss),
        targets=targets,
        y=y,
        penalty=penalty,
        schedule=_schedule(params, is_own, X.shape[1]),
        batch_size=min(200 if batch_size == "auto" else int(batch_size), len(X)),
        n_iter=int(params["max_iter"]) if params["solver"] == "lbfgs" else 0,
    )


def _schedule(params: dict[str, Any], is_own: bool, n_inputs: int) -> Schedule:
    """Epochs and learning rate, with the parameters of an estimator."""
    epochs = max_iter = params["max_iter"]
    rate = params["learning_rate_init"]
    if not is_own:
        # With an annealed, larger learning rate fewer epochs are enough.
        epochs, rate = max(1, int(EPOCH_RATIO * max_iter)), "auto"
    return Schedule(
        rate=automatic_rate(n_inputs) if rate == "auto" else float(rate),
        max_epochs=0 if params["solver"] == "lbfgs" else int(epochs),
        tol=float(params["tol"]),
        # n_iter_no_change may be infinite.
        patience=int(min(params["n_iter_no_change"], max_iter)),
    )


def _unwrapped(estimator: Any) -> Iterator[Any]:
    """Yield pipelines and target transformers, outermost first, and the network."""
    while True:
        yield estimator
        if isinstance(estimator, Pipeline):
            estimator = estimator.steps[-1][1]
        # With func and inverse_func, the estimator is fitted as a whole.
        elif (
            isinstance(estimator, TransformedTargetRegressor)
            and estimator.transformer is not None
        ):
            estimator = estimator.regressor
        else:
            return


def _transformed(wrappers: Sequence[Any], X: Any, y: Any) -> tuple[Any, Any]:
    """Fit the steps of pipelines and the target transformers, and apply them."""
    for wrapper in wrappers:
        if isinstance(wrapper, TransformedTargetRegressor):
            columns = np.asarray(y).reshape(len(y), -1)
            columns = clone(wrapper.transformer).fit_transform(columns.copy())
            y = columns.ravel() if np.ndim(y) == 1 else columns
        elif len(wrapper.steps) > 1:
            X = clone(wrapper[:-1]).fit_transform(guard_for([wrapper])(X), y)
    return X, y


def _has_known_training(final: Any) -> bool:
    """Whether the estimator is MLP* or AddedNeuron* with a chain of layers."""
    if isinstance(final, MLPRegressor | MLPClassifier):
        return True
    if not isinstance(final, NetworkEstimator):
        return False
    # Of the package's networks, only those with added neurons have this parameter.
    params: dict[str, Any] = final.get_params()  # type: ignore[attr-defined]
    return "neuron_penalty" in params and params["module"] is None


def _hidden_part(penalty: Tensor, program: ChainProgram) -> Tensor:
    """View the penalty of the hidden layers.

    It changes with the scale of the targets. The penalty of the output weights does
    not, because these weights have the scale of the targets.
    """
    n_out, n_in = program.shapes[-1]
    return penalty[: len(penalty) - n_out * (n_in + 1)]
