"""Private names of scikit-learn, all in one place: a new version may move them."""

from sklearn.base import _fit_context
from sklearn.ensemble._gradient_boosting import predict_stages
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.metrics._scorer import _BaseScorer
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import _fit_transform_one
from sklearn.utils import _safe_indexing
from sklearn.utils._available_if import _AvailableIfDescriptor
from sklearn.utils._missing import is_pandas_na, is_scalar_nan
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils._param_validation import HasMethods, Interval, Options, StrOptions
from sklearn.utils._plotting import _validate_style_kwargs
from sklearn.utils.metadata_routing import _raise_for_params, _routing_enabled
from sklearn.utils.multiclass import _check_partial_fit_first_call
from sklearn.utils.validation import (
    _check_method_params,
    _check_sample_weight,
    _check_y,
    _num_samples,
)

__all__ = [
    "BaseSearchCV",
    "HasMethods",
    "Interval",
    "Options",
    "StrOptions",
    "TreePredictor",
    "_AvailableIfDescriptor",
    "_BaseScorer",
    "_check_method_params",
    "_check_partial_fit_first_call",
    "_check_sample_weight",
    "_check_y",
    "_fit_context",
    "_fit_transform_one",
    "_num_samples",
    "_openmp_effective_n_threads",
    "_raise_for_params",
    "_routing_enabled",
    "_safe_indexing",
    "_validate_style_kwargs",
    "check_matplotlib_support",
    "is_pandas_na",
    "is_scalar_nan",
    "predict_stages",
]
