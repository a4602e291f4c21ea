"""Networks with random initial parameters, and their fitted attributes."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklearn_pgb._budget import MOST_UNITS, SPREAD_ROWS
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._call import copy_module
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._module import ModuleNetwork
from sklearn_pgb._models._module_checks import check_module
from sklearn_pgb._models._network import as_float64
from sklearn_pgb._operators._blocks import spread_rows
from sklearn_pgb._training._input_map import InputMap
from sklearn_pgb._training._program import (
    ChainProgram,
    ModuleProgram,
    Program,
    uniform_initialization,
)


@dataclass(frozen=True, eq=False)
class Architecture:
    """A program of one network, and a function that draws its initial parameters.

    The outputs of the fitted network are those of the program times `scale`, plus
    `center`, which standardize the targets of the training. The inputs are standardized
    unless their map is None.
    """

    program: Program
    n_outputs: int
    draw: Callable[[], Tensor]
    center: NDArray[np.float64]
    scale: float
    inputs: InputMap | None = None

    def standardized(self, X: NDArray[Any]) -> NDArray[np.float64]:
        """Return standardized samples in float64."""
        if self.inputs is None:
            return np.asarray(X, dtype=np.float64)
        return self.inputs.transform(X)


def hidden_widths(hidden_layer_sizes: Any) -> list[int]:
    """Return the number of units of each hidden layer."""
    sizes = np.atleast_1d(np.asarray(hidden_layer_sizes))
    whole = sizes.size == 0 or sizes.dtype.kind in "iu"
    in_range = whole and ((sizes > 0) & (sizes <= MOST_UNITS)).all()
    if sizes.ndim != 1 or not in_range:
        raise ValueError(
            "hidden_layer_sizes must be integers > 0, one per hidden layer, got "
            f"{hidden_layer_sizes!r}. A layer has at most {MOST_UNITS} units."
        )
    return [int(size) for size in sizes]


def chain_architecture(
    program: ChainProgram,
    rng: np.random.RandomState,
    center: NDArray[np.float64],
    scale: float,
    inputs: InputMap | None = None,
    start: NDArray[np.float64] | None = None,
    constant: bool = False,
) -> Architecture:
    """Create a chain with scikit-learn's distribution of initial parameters.

    `start` is added to the initial output biases. If the initial outputs are
    `constant`, the output weights are zero and the output biases are `start`.
    """
    n_outputs, n_hidden = program.shapes[-1]

    def draw() -> Tensor:
        theta = uniform_initialization(program, rng, 1)[0]
        if constant:
            theta[-n_outputs * (n_hidden + 1) :] = 0
        if start is not None:
            theta[-n_outputs:] += torch.from_numpy(start)
        return theta

    return Architecture(program, n_outputs, draw, center, scale, inputs)


def module_architecture(
    module: nn.Module | Callable[[], nn.Module],
    X: NDArray[Any],
    dtype: torch.dtype,
    device: Any,
    inputs: InputMap | None = None,
) -> Architecture:
    """Create the architecture of a module, or of a callable that returns one.

    The first draw has the current parameters. Later draws have new ones: layers are
    reset, or the callable is called again. The module is checked on some of the samples
    X, which are already standardized by `inputs`.
    """
    first = _make(module)
    probe = ModuleNetwork(first)
    few = as_float64(X[spread_rows(len(X), SPREAD_ROWS)])
    check_module(probe, few)
    n_outputs = probe.count_outputs(few)
    options = torch.device(device or "cpu"), dtype
    program = ModuleProgram(first.to(*options))
    # The first draw is the module that was checked. An instance is trained from its
    # current parameters, as its user may have chosen them.
    current = [program.theta()[0]]

    def draw() -> Tensor:
        if current:
            return current.pop()
        drawn = _make(module)
        if isinstance(module, nn.Module):
            # It is a copy with the instance's parameters, so draw new ones. The static
            # look-up does not run `__getattr__` or properties of a user's class.
            for layer in drawn.modules():
                reset = inspect.getattr_static(type(layer), "reset_parameters", None)
                if reset is not None:
                    reset(layer)
        return ModuleProgram(drawn.to(*options)).theta()[0]

    return Architecture(program, n_outputs, draw, np.zeros(n_outputs), 1.0, inputs)


def _make(module: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    """Copy a module, or call a function that returns one."""
    if isinstance(module, nn.Module):
        return copy_module(module)
    expected = "module must be a torch.nn.Module or a callable that returns one, got "
    try:
        made = module()
    except TypeError as error:
        raise TypeError(f"{expected}an error from it: {error}") from error
    if not isinstance(made, nn.Module):
        raise TypeError(f"{expected}{type(made).__name__} from it.")
    return made


def network_state(architecture: Architecture, theta: Tensor) -> dict[str, Any]:
    """Return the fitted attributes of a network: arrays, and a module's prototype."""
    program = architecture.program
    if isinstance(program, ChainProgram):
        weights, biases = program.split(theta[None])
        coefs = [weight[0].T.numpy().copy() for weight in weights]
        intercepts = [bias[0, 0].numpy().copy() for bias in biases]
        coefs[-1] *= architecture.scale
        intercepts[-1] = architecture.center + architecture.scale * intercepts[-1]
        return {
            "coefs_": coefs,
            "intercepts_": intercepts,
            "n_layers_": len(coefs) + 1,
            "n_outputs_": architecture.n_outputs,
        }
    assert isinstance(program, ModuleProgram)
    module = copy.deepcopy(program.module).to("cpu", torch.float64).eval()
    for name, part in program.call.split(theta).items():
        module.get_parameter(name).data = part.clone()
    state = {name: value.numpy().copy() for name, value in module.state_dict().items()}
    return {
        "module_state_": state,
        "_prototype": module,
        "n_outputs_": architecture.n_outputs,
    }


def chain_parameters(
    architecture: Architecture,
    coefs: list[NDArray[Any]],
    intercepts: list[NDArray[Any]],
) -> Tensor:
    """Return the parameters of a chain's program from its fitted attributes."""
    scale = architecture.scale
    parts = [part for pair in zip(coefs, intercepts, strict=True) for part in pair]
    parts[-2:] = [coefs[-1] / scale, (intercepts[-1] - architecture.center) / scale]
    return torch.cat([as_float64(part.T).flatten() for part in parts])


def restored_module(prototype: nn.Module, state: dict[str, Any]) -> nn.Module:
    """Return a copy of the prototype with the given state, in evaluation mode."""
    module = copy.deepcopy(prototype)
    tensors = {name: torch.tensor(value) for name, value in state.items()}
    module.load_state_dict(tensors)
    return module.eval()


def chain_module(
    coefs: list[NDArray[Any]], intercepts: list[NDArray[Any]], activation: str
) -> nn.Module:
    """Return a Sequential of linear layers and activations, in float64."""
    activations = [ACTIVATIONS[activation]] * (len(coefs) - 1)
    weights = [coef.T for coef in coefs]
    return ChainNetwork.mlp(weights, intercepts, activations).module()
