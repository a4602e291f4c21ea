"""The common part of the estimators for tables."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import (
    check_array,
    check_consistent_length,
    check_random_state,
)
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_pgb._budget import SMALLEST_SIZE
from sklearn_pgb._estimator._border import all_or_nothing
from sklearn_pgb._estimator._fit_parameters import fit_parameter
from sklearn_pgb._estimator._folds import splitter_parts
from sklearn_pgb._estimator._hooks import training_contexts
from sklearn_pgb._estimator._predictors import finite_outputs
from sklearn_pgb._estimator._resources import jobs_for, parse_memory
from sklearn_pgb._estimator._state import Prepared, VersionedState
from sklearn_pgb._estimator._tangent_sum import TangentSum
from sklearn_pgb._estimator._trainer import train_networks
from sklearn_pgb._losses._regression import GammaLoss
from sklearn_pgb._models._mapped_rows import joined, row_parts
from sklearn_pgb._models._network import as_float64, positions_without
from sklearn_pgb._models._open import (
    open_network,
)
from sklearn_pgb._models._opened import is_plain
from sklearn_pgb._models._shared import share_outputs
from sklearn_pgb._predictive._methods import Located, Predictive, rounding
from sklearn_pgb._predictive._reduction import (
    estimated_reduction,
    measured_reduction,
)
from sklearn_pgb._refit._fold_models import FoldModels, FoldTerms
from sklearn_pgb._refit._groups import GroupRefit, refit_groups
from sklearn_pgb._refit._stacking import as_counts
from sklearn_pgb._samples import (
    bounded_weights,
    check_groups,
    check_has_targets,
    checked_weights,
)
from sklearn_pgb._sklearn import (
    HasMethods,
    Interval,
    StrOptions,
    _fit_context,
)
from sklearn_pgb._tables._columns import read_table
from sklearn_pgb._tables._folds import samples_aside, table_folds
from sklearn_pgb._tables._members import table_members
from sklearn_pgb._tables._reader import TableReader
from sklearn_pgb._tables._units import target_units
from sklearn_pgb._targets import check_some_weight, class_codes
from sklearn_pgb._threads import threads_for


class TableEstimator(VersionedState, Predictive, CallbackSupportMixin, BaseEstimator):
    """Members trained on folds, and one convex model on all of their bases."""

    # The model of the log scale of errors; None if the scale is constant.
    _scale: Any
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "network": [HasMethods(["fit", "predict"]), StrOptions({"drop"}), None],
        "trees": [HasMethods(["fit", "predict"]), StrOptions({"drop"}), None],
        "forest": [HasMethods(["fit", "predict"]), StrOptions({"drop"}), None],
        "others": ["array-like"],
        "cv": ["cv_object", StrOptions({"auto"})],
        "categorical_features": ["array-like", StrOptions({"from_dtype"}), None],
        "max_memory": [str, Interval(Real, 0, None, closed="neither")],
        "memory": [str, HasMethods("cache"), None],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    @_fit_context(prefer_skip_nested_validation=True)
    @all_or_nothing
    def fit(self, X, y, sample_weight=None, *, groups=None):
        """Train the members on folds and refit them together.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)
            Numbers, strings, categories, booleans and dates; missing values are fine.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets or labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, for the members and for the refit.
        groups : array-like of shape (n_samples,), default=None
            Groups of samples that folds keep together.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If the data or a combination of parameters can't be used.
        """
        max_memory = parse_memory(self.max_memory)
        jobs_for(1, self.n_jobs)
        given = X, y
        table, y, weight = self._checked(X, y, sample_weight)
        targets = self._targets
        self._units, scaled = (np.zeros(1), np.ones(1)), y
        if self.loss == "squared_error":
            self._units = center, unit = target_units(y, weight)
            scaled = (y - center) / unit
        member_y = targets.as_numbers(scaled)
        # Counts are checked here, before any training.
        encoded = targets.encode(scaled, targets.n_outputs)
        rows = np.flatnonzero(weight)
        reader, Z = TableReader.of(table, self.categorical_features, rows)
        Z = check_array(Z, ensure_all_finite="allow-nan", input_name="X")
        if groups is not None:
            groups = check_groups(groups, Z)
        rng = check_random_state(self.random_state)
        seeds = rng.randint(np.iinfo(np.int32).max, size=3)
        aside = rows[:0]
        if self._adapts_scale:
            own = None if groups is None else groups[rows]
            aside = rows[samples_aside(Z[rows], own, int(seeds[2]))]
            rows = np.setdiff1d(rows, aside)
        drawn_from = weight, rows, groups, int(seeds[0])
        parts, halves = self._folds(given, Z, y, *drawn_from)
        member_targets = [member_y[rows[train]] for train, _ in parts]
        n_samples = len(rows) + len(aside)
        members = table_members(self, reader.labels, n_samples, member_targets)
        contexts, finish = training_contexts(self, X, y, sample_weight)
        is_weighted = sample_weight is not None or len(np.unique(weight)) > 1
        data = Z[rows], y[rows], encoded[rows], weight[rows]
        member_weight = as_counts(weight[rows]) if is_weighted else None
        self._reader = {"names": reader.names, "labels": reader.labels}
        self.member_names_ = [name for name, _ in members]
        # Members pass arrays on, whatever the user's transformers return, and all of
        # them get the weights.
        options = {"transform_output": "default", "enable_metadata_routing": False}
        with config_context(**options):
            trained, opened = self._train(
                members, parts, data[0], member_y[rows], member_weight, seeds, contexts
            )
            limits = max_memory, int(seeds[1])
            raw = np.full((len(Z), targets.n_outputs), np.nan)
            raw[rows], scales = self._refit(opened, parts, halves, *data, *limits)
        self.estimators_ = trained
        if self._adapts_scale:
            new = Z[aside], encoded[aside].numpy(), weight[aside]
            heldout = data[0], encoded[rows].numpy() - raw[rows], data[3]
            raw[aside] = self._size_errors(new, heldout, scales)
        self._store_heldout(y, self._in_units(raw), weight)
        finish()
        return self

    def _checked(self, X, y, sample_weight):
        """Return a checked table, targets and weights; learn the kind of targets.

        The weights include those of the classes.
        """
        table = read_table(X)
        validate_data(self, X, skip_check_array=True)
        check_has_targets(self, y)
        y = check_array(
            y, accept_sparse=True, dtype=None, ensure_2d=False, input_name="y"
        )
        y = self._kind_of_targets.checked(y)
        check_consistent_length(table, y)
        weight = checked_weights(sample_weight, table)
        kept = {"loss": self.loss, "class_weight": getattr(self, "class_weight", None)}
        self._as_fitted = kept
        self._learn(y)
        weight = bounded_weights(weight, self._targets.class_factors(y, weight))
        check_some_weight(weight)
        return table, y, weight

    def _store_heldout(self, y, raw, weight):
        """Store predictions and score of held-out samples; NaN for all others."""
        held = np.isfinite(raw).all(1)
        self.oof_score_ = self._targets.score(y[held], raw[held], weight[held])
        prediction = self._targets.mean(raw[held])
        self.oof_prediction_ = np.full((len(y), *prediction.shape[1:]), np.nan)
        self.oof_prediction_[held] = prediction

    @property
    def _adapts_scale(self):
        """Whether `fit` makes the scale of errors a function of the inputs."""
        return getattr(self, "distribution", False) and self.loss == "squared_error"

    def _folds(self, given, Z, y, weight, rows, groups, seed):
        """Return the folds of the samples `rows`, see `table_folds`.

        A splitter gets the inputs and targets that the user gave.
        """
        strata = self._targets.strata(y[rows])
        if strata is not None:
            missing = np.setdiff1d(self.classes_, strata)
            if len(missing):
                raise ValueError(
                    "sample_weight and class_weight must leave a sample of every "
                    f"class, got none of {missing.tolist()}. Remove these samples."
                )
            strata = class_codes(strata)
        if self.cv is not None and not isinstance(self.cv, str | Integral):
            classifies = hasattr(self, "classes_")
            options = {"classifier": classifies, "groups": groups}
            return splitter_parts(rows, self.cv, *given, **options), None
        groups = None if groups is None else groups[rows]
        return table_folds(self.cv, Z[rows], strata, weight[rows], groups, seed)

    def _train(self, members, parts, Z, y, weight, seeds, contexts):
        """Trained members of each fold, and what they are opened to."""
        rng = np.random.RandomState(seeds[0])
        hooks = contexts(len(members) * len(parts))
        k = self._targets.n_outputs
        loss, trained, opened = self._targets.loss_for(k), [], []
        for number, (name, member) in enumerate(members):
            params = {}
            if weight is not None:
                key = fit_parameter(member, "sample_weight")
                if key is None:
                    raise ValueError(
                        "sample_weight and class_weight must be None for members "
                        f"whose fit takes no sample_weight, got weights for {name!r}. "
                        "Replace or drop it."
                    )
                params[key] = weight
            numbers = slice(number * len(parts), (number + 1) * len(parts))
            fitted = train_networks(
                member,
                rng.randint(np.iinfo(np.int32).max, size=len(parts)).tolist(),
                [train for train, _ in parts],
                Z,
                y,
                params,
                self.n_jobs,
                self.memory,
                caller=self,
                contexts=hooks[numbers],
                label=f"Model {name}",
            )
            models = list(map(open_network, fitted))
            for model in models:
                count = model.network.count_outputs(model.inputs(Z[:1], check=False))
                if type(model.loss) is not type(loss) or count != k:
                    raise ValueError(
                        f"members must have the loss {type(loss).__name__} and {k} "
                        f"outputs, got {type(model.loss).__name__} and {count} for "
                        f"{name!r}. Replace it, or change its loss; folds must have "
                        "samples of all classes."
                    )
            trained.append(fitted)
            opened.append(list(map(self._shared, models)))
        return (
            [list(fold) for fold in zip(*columns, strict=True)]
            for columns in (trained, opened)
        )

    def _shared(self, opened):
        """An opened member; three or more classes share the features.

        Kernels of their own would take as much time and memory as there are classes.
        The log loss of 25 generated and bundled sets of 3 to 10 classes is .991 +- .005
        of that with them, of digits turned four ways .366 instead of .388, and of 40
        generated classes .264 instead of .269.
        """
        loss = self._targets.loss_for(self._targets.n_outputs)
        return share_outputs(opened) if loss.dual_rows_sum_to_zero else opened

    def _refit(self, opened, parts, halves, Z, y, encoded, weight, max_memory, seed):
        """Solve the convex problem and store its solution and the held-out errors.

        Returns the held-out raw outputs, NaN for samples that no fold holds out, and
        the models of the folds for the log scale.
        """
        weights = torch.from_numpy(weight)
        targets, folds, self._biases = self._targets, [], []
        adapts, exchange = self._adapts_scale, halves is not None
        with threads_for(0):
            for models, pair in zip(opened, halves or parts, strict=True):
                index = list(map(torch.from_numpy, pair))
                wanted = torch.cat(index) if exchange else None
                fold = FoldModels.of(models, Z, weights, index[0], index[1], wanted)
                folds.append(fold)
                heads = (m.network.find_head(m.inputs(Z[:8])) for m in models)
                self._biases.append([head.bias for head in heads])
        loss = targets.loss_for(targets.n_outputs)
        options = {"max_memory": max_memory, "seed": seed, "exchange": exchange}
        result = refit_groups(
            folds, encoded, weights, loss, keep_folds=adapts, **options
        )
        self._store(result)
        # With an exchange, each part of a fold is held out from a model.
        heldouts = [held for _, held in parts]
        if exchange:
            heldouts = [part for pair in halves for part in reversed(pair)]
        numbers = np.full(len(y), -1)
        for number, heldout in enumerate(heldouts):
            numbers[heldout] = number
        held = numbers >= 0
        errors, self._scale, scales = encoded - result.heldout_raw, None, []
        level = torch.ones(encoded.shape[1], dtype=encoded.dtype)
        if adapts and held.all():
            level = weights @ errors.abs() / weights.sum()
            # Errors of rounding have no scale.
            level = level.clamp_min(self._rounding(y))
            errors, scales = self._fit_scale(folds, level, errors, weights, options)
        raw = result.heldout_raw.numpy()
        raw[~held] = np.nan
        prediction = targets.mean(raw[held])
        self._oof_errors = {"weight": weight[held], "fold": numbers[held]}
        if self.loss == "squared_error":
            self._oof_errors["errors"] = errors.numpy()[held]
            self._oof_errors["least"] = self._rounding(y) / level.numpy()
        elif self.loss == "poisson":
            mean = prediction.reshape(len(prediction), -1)
            self._oof_errors |= {"y": y[held].reshape(mean.shape), "mean": mean}
        elif not self._multilabel:
            codes = targets.as_numbers(y[held])
            own = prediction[np.arange(len(codes)), codes]
            self._oof_errors["scores"] = 1 - own
        if not result.converged:
            warnings.warn(
                "The convex problem was not solved within the largest number of Newton "
                "steps. Scale the targets, or drop a member with huge outputs.",
                ConvergenceWarning,
                stacklevel=5,
            )
        return raw, scales

    def _size_errors(self, new, heldout, scales):
        """Reduce the stored errors of the folds to the size of the refit's errors.

        `new` has inputs, encoded targets and weights of the samples set aside,
        `heldout` inputs, held-out errors and weights of the others; `scales` are the
        models of the folds for the log scale. Returns raw outputs of the samples set
        aside.
        """
        stored, (Z, y, weight) = self._errors(), new
        if self._scale is not None:
            stored["folds"] = {key: stored[key] for key in ("errors", "weight", "fold")}
        if len(Z):
            located = self._located_in_member_units(Z)
            own = (y - located.location) / located.scale
            of_folds = [y - location for location in self._fold_raw(Z)]
            if self._scale is not None:
                # Stored errors are divided by the scales of single folds, which vary
                # more than that of the refit. With that of the refit here, too, the
                # ratio would be up to 1.13 times as large.
                logs = self._of_folds("fold scale", Z, scales, 0.0)
                pairs = zip(of_folds, logs, strict=True)
                of_folds = [errors / self._scale_from(log) for errors, log in pairs]
            # The models of the folds are seldom needed again.
            self._prepared = Prepared()
            stored["aside"] = {"errors": own, "weight": weight}
            reduction = measured_reduction(own, of_folds, weight)
            stored["errors"] = reduction * stored["errors"]
            return located.location
        # Without a scale, some samples were held out by no fold.
        if self._scale is not None:
            Z, errors, weight = heldout
            reduction = estimated_reduction(errors, self._fold_raw(Z), weight)
            stored["errors"] = reduction * stored["errors"]
        return y

    def _store(self, result: GroupRefit) -> None:
        """Store the solution as arrays and plain values."""
        mixtures = result.mixtures
        self.alpha_ = np.array([mixture.alpha for mixture in mixtures])
        weights = np.array([mixture.weights for mixture in mixtures])
        self.group_weights_ = weights.reshape(len(mixtures), len(result.stack))
        self.mixture_weights_ = result.mixture_weights
        self.stack_weights_ = result.stack.numpy()
        self.stack_intercept_ = result.shift.numpy()
        tried = np.array([m.weights for m in result.search.losses])
        tried = tried.reshape(-1, len(result.stack))
        self.cv_results_ = {
            **{
                f"weight_{n}": w
                for n, w in zip(self.member_names_, tried.T, strict=True)
            },
            "alpha": np.array([m.alpha for m in result.search.losses]),
            "center": np.array(
                ["average" if m.centered else "zero" for m in result.search.losses]
            ),
            "loss": np.array(list(result.search.losses.values())),
        }
        self.basis_coef_ = [
            [coef.numpy() for coef in fold] for fold in result.coefficients
        ]
        self.intercept_ = result.intercept.numpy()
        self._centered = result.centered
        self._fold_models = _as_arrays(result.folds)
        self._prepared = Prepared()

    def _rounding(self, y):
        """Size of rounding errors of targets, in the units of the members."""
        return rounding(torch.from_numpy(y / self._units[1]))

    def _fit_scale(self, folds, level, errors, weights, options):
        """Fit the log scale; return standardized errors, and the models of the folds.

        A second convex problem on the same bases: the absolute errors of samples that
        were held out, with the gamma loss, which is the likelihood of Laplace errors.
        """
        sizes = (errors.abs() / level).clamp_min(SMALLEST_SIZE)
        # The members predict targets, in any units, and not the log of a scale.
        folds = [
            replace(fold, raw=[torch.zeros_like(raw) for raw in fold.raw])
            for fold in folds
        ]
        result = refit_groups(
            folds, sizes, weights, GammaLoss(), keep_folds=True, **options
        )
        logs = result.heldout_raw
        low, high = logs.amin(0), logs.amax(0)
        self._scale = {
            "coef": [[coef.numpy() for coef in fold] for fold in result.coefficients],
            "intercept": result.intercept.numpy(),
            "level": level.numpy(),
            "range": torch.stack([low, high]).numpy(),
        }
        return errors / (level * logs.exp()), _as_arrays(result.folds)

    def _raw(self, X: Any) -> NDArray[np.float64]:
        """Raw outputs for new samples, (n_samples, n_outputs)."""
        check_is_fitted(self)
        parts = map(self._raw_in_member_units, _read_parts(self, X))
        return self._in_units(joined(parts))

    def _raw_in_member_units(self, Z: NDArray[np.float64]) -> NDArray[np.float64]:
        solution = self.basis_coef_, self.stack_weights_, self._centered
        return self._sum("models", Z, *solution, self.intercept_)

    def _in_units(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return raw outputs in the units of the targets."""
        center, unit = self._units
        return center + unit * raw

    def _located(self, X: Any) -> Located:
        """Return predictions with their scale."""
        check_is_fitted(self)
        parts = map(self._located_in_member_units, _read_parts(self, X))
        located = Located.joined(parts)
        location = self._in_units(located.location)
        return Located(location, self._units[1] * located.scale, located.flat)

    def _located_in_member_units(self, Z: NDArray[np.float64]) -> Located:
        raw = self._raw_in_member_units(Z)
        scale = np.ones_like(raw)
        if self._scale is not None:
            coefs, intercept = self._scale["coef"], self._scale["intercept"]
            logs = self._sum("scale", Z, coefs, self.stack_weights_, 0.0, intercept)
            scale = self._scale_from(logs)
        flat = raw.shape[1] == 1
        if "mean" in (self._oof_errors or ()):
            raw = self._targets.decode(raw).reshape(raw.shape)
        return Located(raw, scale, flat)

    def _fold_locations(self, X: Any) -> list[NDArray[np.float64]]:
        """Return the predictions of the models whose errors are stored."""
        parts = map(self._fold_raw, _read_parts(self, X))
        folds = zip(*parts, strict=True)
        return [self._in_units(joined(fold)) for fold in folds]

    def _fold_raw(self, Z: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        return self._of_folds("fold", Z, self._fold_models, self._centered)

    def _of_folds(self, name, Z, pairs, centered):
        """Raw outputs of the models of the folds, from coefficients and intercepts."""
        # With an exchange, there is a model for each part of a fold.
        count, stack = len(pairs) // len(self.estimators_), self.stack_weights_
        return [
            self._sum(
                f"{name} {k}", Z, [coef], stack, centered, intercept, [k // count]
            )
            for k, (coef, intercept) in enumerate(pairs)
        ]

    def _scale_from(self, logs):
        """Scales from the raw outputs of a model of their log, (n_samples, n_outputs).

        The log stays within the range of held-out samples: exp() extrapolates without
        bound.
        """
        return self._scale["level"] * np.exp(np.clip(logs, *self._scale["range"]))

    def _sum(self, name, Z, coefs, stack, centered, intercept, folds=None):
        """Raw outputs of a solution of the convex problem, (n_samples, n_outputs)."""
        folds = range(len(self.estimators_)) if folds is None else folds
        members = [member for k in folds for member in self.estimators_[k]]
        sources = [*members, *(coef for fold in coefs for coef in fold), stack]

        def prepare():
            return self._tangent_sum(folds, coefs, stack, centered)

        models = self._prepared.get(name, sources, prepare)
        # Loaded arrays may be mapped to a file, which PyTorch would warn of.
        start = as_float64(intercept).expand(len(Z), -1)
        with config_context(transform_output="default"):
            return finite_outputs(models.raw(Z, start)).numpy()

    def _tangent_sum(self, folds, coefs, stack, centered):
        opened, weights, parts = [], [], []
        for k, fold in zip(folds, coefs, strict=True):
            members = self.estimators_[k], fold, self._biases[k]
            for member, coef, bias, stack_weight in zip(*members, stack, strict=True):
                weight = centered / len(folds) * float(stack_weight)
                if not (weight > 0 or coef.any()):
                    continue
                # Without coefficients the member itself is cheaper than its features.
                own = open_network(member)
                own = self._shared(own) if coef.any() else own
                n_params = own.network.n_params
                full = torch.zeros(len(coef), n_params, dtype=torch.float64)
                if coef.any():
                    # The output biases are part of the intercept.
                    columns = positions_without(n_params, bias)
                    full[:, columns] = as_float64(coef)
                opened.append(own)
                weights.append(max(weight, 0.0))
                parts.append(full)
        return TangentSum.of(opened, weights, parts)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "basis_coef_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        tags.target_tags.required = True
        return tags


def _as_arrays(folds: Sequence[FoldTerms]) -> list[Any]:
    """Coefficients and intercept of each model of a fold."""
    return [
        ([coef.numpy() for coef in each.coefficients], each.intercept.numpy())
        for each in folds
    ]


def _read_parts(estimator: Any, X: Any) -> Iterator[NDArray[np.float64]]:
    """Read a table with the columns of the training table, see `row_parts`."""
    reader = TableReader(**estimator._reader)
    # Columns that have no known category in any part, and their labels.
    unknown: dict[int, set[Any]] | None = None
    for part in row_parts(X):
        if reader.is_numeric and is_plain(part, estimator, sys.float_info.max):
            yield part
            continue
        table = read_table(part)
        validate_data(estimator, part, skip_check_array=True, reset=False)
        Z = reader.read(table)
        new = reader.unknown(table, Z)
        if unknown is not None:
            new = {j: new[j] | unknown[j] for j in new.keys() & unknown.keys()}
        unknown = new
        yield check_array(Z, ensure_all_finite="allow-nan", input_name="X")
    reader.warn_of_unknown(unknown or {})
