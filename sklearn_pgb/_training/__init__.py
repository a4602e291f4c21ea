"""Training: nonconvex objectives of populations of networks, and the way down."""

from sklearn_pgb._threads import local_randomness
from sklearn_pgb._training._architecture import (
    Architecture,
    chain_architecture,
    chain_module,
    chain_parameters,
    hidden_widths,
    module_architecture,
    network_state,
    restored_module,
)
from sklearn_pgb._training._auxiliary import (
    AuxiliaryProgram,
    Neurons,
    auxiliary_objective,
    draw_neurons,
    neuron_gradient,
)
from sklearn_pgb._training._descent import Adam, Descent, GradientDescent, Method
from sklearn_pgb._training._input_map import InputMap
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._polish import Polished, hessian, polish, quasi_newton
from sklearn_pgb._training._program import (
    ChainProgram,
    ModuleProgram,
    Program,
    uniform_initialisation,
)
from sklearn_pgb._training._reference import (
    ResidualSums,
    help_ratio,
    identity_defect,
    labels_consistent,
    neuron_value,
    residual_sums,
    scaled_minimum,
    scaled_objective,
)
from sklearn_pgb._training._residual import ResidualProgram, evaluate_units
from sklearn_pgb._training._train import (
    SMALLEST_RATE,
    Epoch,
    Schedule,
    Training,
    automatic_rate,
    train,
)

__all__ = [
    "SMALLEST_RATE",
    "Adam",
    "Architecture",
    "AuxiliaryProgram",
    "ChainProgram",
    "Descent",
    "Epoch",
    "GradientDescent",
    "InputMap",
    "Method",
    "ModuleProgram",
    "Neurons",
    "Objective",
    "Polished",
    "Program",
    "ResidualProgram",
    "ResidualSums",
    "Schedule",
    "Training",
    "automatic_rate",
    "auxiliary_objective",
    "chain_architecture",
    "chain_module",
    "chain_parameters",
    "draw_neurons",
    "evaluate_units",
    "help_ratio",
    "hessian",
    "hidden_widths",
    "identity_defect",
    "labels_consistent",
    "local_randomness",
    "module_architecture",
    "network_state",
    "neuron_gradient",
    "neuron_value",
    "polish",
    "quasi_newton",
    "residual_sums",
    "restored_module",
    "scaled_minimum",
    "scaled_objective",
    "train",
    "uniform_initialisation",
]
