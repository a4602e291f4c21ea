"""Fit, score and describe the models of a comparison."""

import time
from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone

from sklearn_pgb._compare._comparison import BasisReport
from sklearn_pgb._compare._model import BasisModel, weight_keywords
from sklearn_pgb._convex._choice import Effort
from sklearn_pgb._convex._infimum import infimum
from sklearn_pgb._estimator._border import aligned
from sklearn_pgb._estimator._row_codes import row_codes
from sklearn_pgb._estimator._trainer import Trainer
from sklearn_pgb._losses._floor import pure_error_floor
from sklearn_pgb._models._protected import guard_for
from sklearn_pgb._samples import Samples
from sklearn_pgb._targets import Targets


class Evaluation:
    """Fits and scores models on the same data and splits.

    `y` are the checked targets of the samples, and `floor` the smallest loss of any
    function of the inputs.
    """

    def __init__(
        self,
        samples: Samples,
        y: NDArray[Any],
        targets: Targets,
        effort: Effort,
        scorer: Callable[..., Any],
        memory: Any,
        seed: int,
    ):
        self.samples, self.y, self.targets = samples, y, targets
        self.effort, self.scorer = effort, scorer
        self.memory, self.seed = memory, seed
        n_outputs = targets.n_outputs
        target, loss = targets.encode(y, n_outputs), targets.loss_for(n_outputs)
        group = torch.from_numpy(row_codes(samples.X))[:, None]
        weight = torch.from_numpy(samples.normalized_weight)
        floor = pure_error_floor(group, target, loss, weight).value
        # Without repeated inputs the floor is zero up to rounding of the group means,
        # which is measured by the loss of the best constant.
        all_in_one = torch.zeros_like(group)
        constant = pure_error_floor(all_in_one, target, loss, weight).value
        self.floor = floor if abs(floor) > 1e-14 * abs(constant) else 0.0

    def run(self, name: str, model: Any, split: Any) -> Any:
        """Score a model on one split or, if `split` is None, describe it."""
        try:
            if split is None:
                return self.describe(name, model)
            return self.score(model, split)
        except Exception as error:
            error.add_note(f"It was raised by bases[{name!r}] of compare_bases.")
            raise

    def fit(self, model: Any, samples: Samples) -> tuple[Any, float]:
        """Fit a clone; return it and the seconds taken, including cached trainings."""
        model, keywords = clone(model), weight_keywords(model, samples)
        if isinstance(model, BasisModel):
            model.fit(samples.X, samples.y, **keywords)
            return model, model.seconds_
        start, trainer = time.perf_counter(), Trainer(self.memory)
        model = trainer.fit(model, samples.X, samples.y, keywords, self.seed)
        return model, time.perf_counter() - start + trainer.saved

    def score(self, model: Any, split: Any) -> float:
        """Held-out score of one split."""
        training, heldout = self.samples.rows(split[0]), self.samples.rows(split[1])
        model, _ = self.fit(model, training)
        weights = {}
        if heldout.weighted:
            scorer = self.scorer
            if hasattr(scorer, "_accept_sample_weight"):
                takes_weights = scorer._accept_sample_weight()
            else:
                takes_weights = "sample_weight" in signature(scorer).parameters
            weights = {"sample_weight": heldout.weight} if takes_weights else {}
        try:
            score = self.scorer(model, heldout.X, heldout.y, **weights)
        except (AttributeError, TypeError) as error:
            raise TypeError(
                "scoring must be a scorer of what the model can predict, got one that "
                f"fails: {error}"
            ) from error
        if not isinstance(score, Real):
            raise TypeError(
                "scoring must be a scorer that returns a number, got one that returns "
                f"a {type(score).__name__}."
            )
        return float(score)

    def describe(self, name: str, model: Any) -> BasisReport:
        """Fit a model on all samples; return its report without scores."""
        samples = self.samples
        samples = replace(samples, X=aligned(samples.X), y=aligned(samples.y))
        model, seconds = self.fit(model, samples)
        if not isinstance(model, BasisModel):
            targets, loss = self.targets, np.nan
            method = "predict_proba" if targets.loss.is_classification else "predict"
            # Classifiers without probabilities have no loss.
            if hasattr(model, method):
                X = guard_for([model])(samples.X)
                mean = np.asarray(getattr(model, method)(X), dtype=np.float64)
                mean = mean.reshape(len(mean), -1)
                y = targets.encode(self.y, mean.shape[1])
                mean_loss = targets.loss_for(mean.shape[1])
                values = mean_loss.value_of_mean(y, torch.from_numpy(mean))
                loss = float(samples.normalized_weight @ values.numpy())
            return BasisReport(name, "estimator", train_loss=loss, seconds=seconds)
        problem = model.problem_
        bounds = infimum(problem, max_memory=self.effort.max_memory, floor=self.floor)
        return BasisReport(
            name,
            "basis",
            train_loss=bounds.value,
            seconds=seconds,
            lower_bound=bounds.lower_bound,
            norm_budget=bounds.norm_budget,
            n_coef=problem.augmented().n_coef,
            rank=bounds.rank,
            alpha=model.alpha_,
        )
