"""Standardization of the inputs and targets of a training, and of later ones."""

from functools import partial
from typing import Any

import numpy as np
from sklearn.base import is_classifier

from sklearn_pgb._added_neuron._network import TrainedNetwork
from sklearn_pgb._budget import CONSTANT_RTOL
from sklearn_pgb._estimator._state import as_fitted
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._network import as_float64
from sklearn_pgb._training._descent import Adam, GradientDescent
from sklearn_pgb._training._input_map import InputMap, InputMoments
from sklearn_pgb._training._program import ChainProgram, uniform_initialization
from sklearn_pgb._training._rescaling import (
    InputChange,
    convert,
    differs,
    opened_constants,
)


class StandardizedTraining(TrainedNetwork):
    """A network whose inputs and targets are standardized by those seen so far.

    `_seen` has the statistics of all samples since the training began.
    """

    _coefs: list[Any]
    _intercepts: list[Any]

    def _learn_scaling(self, samples, is_sparse, may_lack_classes=False):
        """Compute the standardization of inputs and targets, and initial outputs."""
        X, y, weight = samples.X, samples.y, samples.weight
        targets = self._targets
        self._seen = self._statistics(samples)
        self._target_scaling = targets.scaling(y, weight)
        # A first batch may lack classes that appear later.
        self._initial_biases = np.zeros(targets.n_outputs), False
        if not (may_lack_classes and is_classifier(self)):
            self._initial_biases = targets.initial_biases(y, weight)
        self._loss_unit = targets.loss_unit(y, weight)
        self._inputs = None
        if self.standardize:
            self._seen["centered"] = not is_sparse
            moments = InputMoments.of(X, weight)
            self._seen["inputs"] = dict(vars(moments))
            self._set_inputs(
                InputMap.of(
                    moments, X.dtype, centered=not is_sparse, drop=self.module is None
                )
            )

    def _update_scaling(self, samples, seed):
        """Adapt the standardization if that of all samples seen so far differs.

        The network and the state of its optimizer are converted, so that outputs stay
        the same; see `InputChange`.
        """
        seen, new = self._seen, self._statistics(samples)
        total = seen["weight"] + new["weight"]
        share = new["weight"] / total
        shift = new["center"] - seen["center"]
        between = np.hypot.reduce(shift) / np.sqrt(len(shift))
        within = np.hypot(
            np.sqrt(1 - share) * seen["spread"], np.sqrt(share) * new["spread"]
        )
        center = seen["center"] + share * shift
        spread = float(np.hypot(within, np.sqrt(share * (1 - share)) * between))
        if spread <= CONSTANT_RTOL * np.abs(center).max():
            # As in `center_and_spread`, it is only rounding error.
            spread = 0.0
        self._seen = {
            **seen,
            "weight": total,
            "center": center,
            "spread": spread,
            "mean": seen["mean"] + share * (new["mean"] - seen["mean"]),
        }
        scale, unit = self._target_scaling[1], self._loss_unit
        self._update_targets(was_constant=seen["spread"] == 0)
        is_chain = hasattr(self, "_coefs")
        ratio = scale / self._target_scaling[1] if is_chain else 1.0
        change = self._update_inputs(samples)
        if change is None and ratio == 1 and unit == self._loss_unit:
            return
        self._convert_state(change, ratio, unit / self._loss_unit)
        if change is not None:
            drawn = self._new_weights(change, seed)
            first = change.parameters(self._coefs[0], self._intercepts[0], drawn)
            self._coefs = [first[0], *self._coefs[1:]]
            self._intercepts = [first[1], *self._intercepts[1:]]

    def _statistics(self, samples):
        """Return the weight, center, spread and mean of the targets."""
        y, weight = samples.y, samples.weight
        center, spread = self._targets.center_and_spread(y, weight)
        total = float(weight.sum())
        # Only counts use the mean of all of them.
        mean = 0.0 if is_classifier(self) else float(weight @ y.mean(1)) / total
        return {"weight": total, "center": center, "spread": spread, "mean": mean}

    def _update_targets(self, was_constant):
        """Update the standardization of the targets and the unit of the loss."""
        center, spread = self._seen["center"], self._seen["spread"]
        old_center, scale = self._target_scaling
        moved = np.abs(center - old_center).max()
        if spread > 0 and (was_constant or differs(spread, moved, scale)):
            self._target_scaling = center, spread
        unit = self._targets.loss.loss_unit(self._seen["mean"])
        if differs(unit, 0.0, self._loss_unit):
            self._loss_unit = unit

    def _update_inputs(self, samples):
        """Update the map of the inputs; return the change of a chain's first layer."""
        if self._inputs is None:
            return None
        X, centered = samples.X, self._seen["centered"]
        old, before = self._input_map(), InputMoments(**self._seen["inputs"])
        after = before.joined(InputMoments.of(X, samples.weight))
        self._seen["inputs"] = dict(vars(after))
        if hasattr(self, "_coefs"):
            change = InputChange.of(old, before, after, X.dtype, centered=centered)
            inputs = None if change is None else change.inputs
        else:
            change, inputs = None, opened_constants(old, before, after, X.dtype)
        if inputs is not None:
            self._set_inputs(inputs)
        return change

    def _set_inputs(self, inputs):
        # Fitted attributes are arrays and plain values.
        self._inputs = dict(vars(inputs))

    def _chain_program(self, coefs):
        """Return the program of a chain with the shapes of these weights."""
        activations = [ACTIVATIONS[as_fitted(self, "activation")]] * (len(coefs) - 1)
        widths = [*(len(coef) for coef in coefs), coefs[-1].shape[1]]
        return ChainProgram(widths, activations)

    def _new_weights(self, change, seed):
        """Draw weights of the first layer, one row for each input."""
        rows = np.empty((len(change.source), self._coefs[0].shape[1]))
        program = self._chain_program([rows, *self._coefs[1:]])
        theta = uniform_initialization(program, np.random.RandomState(seed), 1)
        return program.split(theta)[0][0][0].T.numpy()

    def _convert_state(self, change, ratio, unit):
        """Convert the state of the optimizer.

        `ratio` and `unit` are the scale of the targets and the unit of the loss,
        relative to the new ones. The loss is divided by the square of the scale and by
        the unit.
        """
        state = getattr(self, "_optimizer_state", None)
        if state is None:
            return
        method = GradientDescent if len(state) == 1 else Adam
        if not hasattr(self, "_coefs"):
            # A module has its own parameters, and its targets are not scaled.
            self._optimizer_state = method.converted(
                state,
                lambda part: part,
                lambda part: part * unit,
                lambda part: part * unit**2,
            )
            return
        program = self._chain_program(self._coefs)

        def by(first, factor, last):
            def converted(part):
                theta = as_float64(part)
                weights, biases = program.split(theta)
                layers = [
                    (weight[0].T.numpy(), bias[0, 0].numpy())
                    for weight, bias in zip(weights, biases, strict=True)
                ]
                layers = convert(layers, first, factor, last)
                parts = [each.T.ravel() for layer in layers for each in layer]
                return np.concatenate(parts)[None].astype(part.dtype)

            return converted

        step = gradient = square = _unchanged
        if change is not None:
            step = partial(change.parameters, new=0.0)
            gradient, square = change.gradient, change.square
        factor = ratio**2 * unit
        self._optimizer_state = method.converted(
            state,
            by(step, 1.0, ratio),
            by(gradient, factor, 1 / ratio),
            by(square, factor**2, 1 / ratio**2),
        )


def _unchanged(coef, intercept):
    return coef, intercept
