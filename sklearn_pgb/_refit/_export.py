"""A fitted refit as a torch module of plain operations."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._models._network import as_float64
from sklearn_pgb._models._tangent_layers import tangent_module
from sklearn_pgb._refit._outputs import class_columns, place_classes, tangent_terms
from sklearn_pgb._refit._request import RefitRequest
from sklearn_pgb._targets import LabelTargets, class_probabilities


class Exportable:
    """Mixin of the refit that converts it to a torch module."""

    _flat: bool

    def to_module(self, response_method="auto"):
        """Convert the fitted refit to a torch module without scikit-learn.

        The module needs neither this package's solvers nor derivatives: each layer
        carries its outputs and their change along the coefficients. It can be passed to
        `torch.export.export` and `torch.onnx.export`.

        Parameters
        ----------
        response_method : {"auto", "predict", "predict_proba", "decision_function"}, \
                default="auto"
            The method that the module computes. "auto" is `predict` for regressors and
            `predict_proba` for classifiers, or `decision_function` if they have no
            probabilities. Labels are not numbers, so classifiers have no "predict".

        Returns
        -------
        torch.nn.Module
            Maps tensors of shape (n_samples, n_features), or (n_samples, ...) for
            images, to the result of the method. It is on the CPU, in evaluation mode
            and in float64; ``.float()`` converts it. It does not check its inputs.

        Raises
        ------
        TypeError
            If a model is not a network, or has layers or transformers that can't be
            converted.
        ValueError
            If the refit has no such method.

        Examples
        --------
        >>> import torch
        >>> from sklearn.datasets import load_diabetes
        >>> from sklearn.neural_network import MLPRegressor
        >>> from sklearn_pgb import GradientBasisRefit
        >>> X, y = load_diabetes(return_X_y=True)
        >>> net = MLPRegressor(solver="lbfgs", max_iter=30, random_state=0)
        >>> refit = GradientBasisRefit(net, alpha=1.0).fit(X, y)
        >>> module = refit.to_module()
        >>> predicted = module(torch.tensor(X))
        >>> bool(abs(predicted.numpy() - refit.predict(X)).max() < 1e-8)
        True
        """
        check_is_fitted(self)
        known = ["predict"]
        if RefitRequest.at_last_fit(self).classifies:
            names = "predict_proba", "decision_function"
            known = [name for name in names if hasattr(self, name)]
        if response_method not in ("auto", *known):
            raise ValueError(
                f"response_method must be 'auto' or {' or '.join(map(repr, known))} "
                f"for this refit, got {response_method!r}."
            )
        method = known[0] if response_method == "auto" else response_method
        models, weights, coefs = tangent_terms(self, None)
        terms = []
        for opened, weight, coef in zip(models, weights, coefs, strict=True):
            layers = [new for step in opened.steps for new in _rescalings(step, False)]
            if opened.input_layer is not None:
                layers.append(opened.input_layer)
            if opened.network.n_inputs is not None:
                # A chain leaves out Flatten layers.
                layers.append(nn.Flatten())
            tangent = tangent_module(opened.network, weight, coef[0])
            if tangent is None:
                raise TypeError(
                    "to_module needs networks only, got a refit of "
                    f"{type(opened.final).__name__}. Leave the trees and combinations "
                    "out."
                )
            terms.append(nn.Sequential(*layers, tangent))
        if method == "predict":
            output: list[nn.Module] = [Means(models[0].loss)]
            for transformer in reversed(models[0].target_transformers):
                output += _rescalings(transformer, True)
            output += [nn.Flatten(0)] if self._flat else []
        else:
            output = [AllClasses(self, models[0].loss, method == "predict_proba")]
        return nn.Sequential(Sum(terms), *output).requires_grad_(False).eval()


class Sum(nn.Module):
    """The sum of models of the same samples."""

    def __init__(self, terms: Sequence[nn.Module]):
        super().__init__()
        self.terms = nn.ModuleList(terms)

    def forward(self, X: Tensor) -> Tensor:
        """Raw outputs (n_samples, n_outputs)."""
        X = X.to(next(self.parameters()).dtype)
        first, *others = (term(X) for term in self.terms)
        return sum(others, first)


class Rescaling(nn.Module):
    """``(x - center) / scale``, or its inverse."""

    center: Tensor
    scale: Tensor

    def __init__(self, center: ArrayLike, scale: ArrayLike, inverse: bool):
        super().__init__()
        self.register_buffer("center", as_float64(center).clone())
        self.register_buffer("scale", as_float64(scale).clone())
        self.inverse = inverse

    def forward(self, X: Tensor) -> Tensor:
        """Rescale each column."""
        if self.inverse:
            return X * self.scale + self.center
        return (X - self.center) / self.scale


class Means(nn.Module):
    """Predictions of a loss from raw outputs."""

    def __init__(self, loss: Loss):
        super().__init__()
        self.loss = loss

    def forward(self, raw: Tensor) -> Tensor:
        """Means (n_samples, n_outputs)."""
        return self.loss.predict(raw)


class AllClasses(nn.Module):
    """Raw outputs of all classes, and the result of a classifier's method."""

    index: Tensor | None

    def __init__(self, refit: Any, loss: Loss, probabilities: bool):
        super().__init__()
        index = class_columns(refit._output_classes, refit.classes_)
        self.register_buffer("index", index)
        self.targets = LabelTargets(loss, refit.classes_, refit._multilabel)
        self.probabilities = probabilities

    def forward(self, raw: Tensor) -> Tensor:
        """Probabilities, or the decision function."""
        full: Any = place_classes(raw, self.index)
        if self.probabilities:
            return class_probabilities(full, self.targets.multilabel)
        decision: Any = self.targets.decision(full)
        return decision


def _rescalings(transformer: Any, inverse: bool) -> list[nn.Module]:
    """Layers that compute a transformer or its inverse."""
    if transformer is None or isinstance(transformer, str):
        return []
    if isinstance(transformer, Pipeline):
        steps = [step for _, step in transformer.steps]
        ordered = reversed(steps) if inverse else steps
        return [layer for step in ordered for layer in _rescalings(step, inverse)]
    if isinstance(transformer, FunctionTransformer):
        function = transformer.inverse_func if inverse else transformer.func
        if function is None:
            return []
        # The networks share one transformer of y, by its `transform` as a function.
        owner = getattr(function, "__self__", None)
        name = "inverse_transform" if inverse else "transform"
        if owner is not None and function == getattr(owner, name, None):
            return _rescalings(owner, inverse)
    read = _CENTERS_AND_SCALES.get(type(transformer))
    if read is None or getattr(transformer, "clip", False):
        raise TypeError(
            "to_module needs transformers of X and y that multiply and shift, as "
            "StandardScaler, MinMaxScaler, MaxAbsScaler and RobustScaler do without "
            f"clip=True, got {transformer!r}. Transform outside of the refit."
        )
    center, scale = read(transformer)
    center = 0.0 if center is None else center
    return [Rescaling(center, 1.0 if scale is None else scale, inverse)]


# Types are compared exactly, because a subclass may compute anything.
_CENTERS_AND_SCALES = {
    StandardScaler: lambda t: (t.mean_ if t.with_mean else None, t.scale_),
    RobustScaler: lambda t: (t.center_, t.scale_),
    MaxAbsScaler: lambda t: (None, t.scale_),
    MinMaxScaler: lambda t: (-t.min_ / t.scale_, 1 / t.scale_),
}
