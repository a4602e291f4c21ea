"""Rules for each call of the fuzz, and a run that checks them."""

import ast
import contextlib
import dataclasses
import hashlib
import io
import os
import random
import re
import signal
import threading
import traceback
import warnings
from pathlib import Path

import fuzz_data
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.sparse as sp
import sklearn
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from torch import nn

import sklearn_pgb

PACKAGE = str(Path(sklearn_pgb.__file__).parent)
SKLEARN = str(Path(sklearn.__file__).parent)
CASE = "<case>"

# scikit-learn's networks and the transformers of a pipeline speak for themselves.
OTHERS = tuple(
    f"{SKLEARN}/{name}"
    for name in (
        *("neural_network", "preprocessing", "decomposition", "impute", "metrics"),
        *("linear_model", "ensemble", "compose", "feature_selection"),
        "model_selection/_validation",
    )
)
VALIDATION = tuple(
    f"{SKLEARN}/{name}"
    for name in (
        *("utils/validation", "utils/_array_api", "utils/_param_validation", "base"),
        *("utils/multiclass", "utils/_encode", "utils/_metadata_requests"),
        *("utils/_available_if", "utils/_unique", "utils/_tags", "frozen"),
    )
)
FOREIGN = re.compile(
    r"split_with_sizes|mat1 and mat2|INTERNAL ASSERT|broadcast|ufunc|SVD did not|"
    r"shape mismatch|'NoneType'|object has no attribute|unsupported operand|"
    r"not supported between|positional argument|out of bounds|cannot reshape|"
    r"not iterable|not subscriptable|truth value|only 0-dimensional|aten::|"
    r"Expected all tensors|size of tensor|convert NA|list index|illegal value"
)
# Words by which an error may name data.
WORDS = {
    "X": r"\bX\b|X_val|inputs?\b|features?|samples?|rows|columns?|NaN|arrays?|module",
    "y": r"\by\b|y_val|targets?|labels?|class|outputs?|counts|samples?|rows",
    "sample_weight": r"weights?|samples?|rows",
    "basis": r"basis|transformer|features",
    "transformer": r"transformer|basis|features",
    "module": r"module|network|forward|outputs?",
    "estimator": r"estimator|network|fitted|model",
    "groups": r"groups?",
    "classes": r"class",
    "cv": r"\bcv\b|fold|splits?|groups",
    "validation_fraction": r"validation",
    "early_stopping": r"early_stopping|validation",
    "max_memory": r"memory|MiB|bytes",
}

# Documented: no budget, no bound, no kink, no folds, the limit of a strong penalty, a
# least loss that nothing attains. Names of fields alone hold for every result.
MAY_BE = {
    "norm_budget": {"inf", "NaN"},
    "norm_budget_": {"inf"},
    "basis_norm_budget_": {"inf"},
    "linear_budget": {"inf"},
    "cv_results_[alpha]": {"inf"},
    "cv_results_[loss]": {"NaN", "inf"},
    "cv_results_[gain]": {"NaN"},
    "BasisReport.alpha": {"NaN"},
    "BasisReport.train_loss": {"NaN"},
    "Certificate.gap_bound": {"inf"},
    "held_out_loss_": {"NaN"},
    "oof_score_": {"NaN"},
    "basis_held_out_loss_": {"NaN"},
    "alpha_": {"inf"},
    "kink_margin": {"inf"},
    "lower_bound": {"NaN"},
    "gradient_basis_bound": {"NaN"},
    "gradient_basis_budget": {"inf", "NaN"},
}


@dataclasses.dataclass
class Fault:
    """One rule that a call broke."""

    kind: str
    text: str
    place: str = ""
    room: str = ""
    step: int = 0
    line: str = ""

    @property
    def key(self):
        """The kind, the place and the text without what changes from call to call."""
        text = re.sub(r"0x[0-9a-f]+|\d[\d.e+-]*|'[^']*'", "#", self.text)
        return self.kind, self.place, text[:60]


# --- fingerprints ---------------------------------------------------------------------


def fingerprint(value, depth=0):
    """Text that changes with a value: arrays, frames, modules, estimators, ..."""
    if depth > 8:
        return type(value).__name__
    if isinstance(value, (nn.Module, torch.Tensor)):
        return _of_torch(value)
    if sp.issparse(value):
        # Flags such as "has sorted indices" are caches and may change.
        names = ("data", "indices", "indptr", "coords", "rows", "offsets", "_dict")
        parts = [fingerprint(getattr(value, n, None), depth + 1) for n in names]
        return f"{type(value).__name__} {value.shape} {parts}"
    if isinstance(value, np.ndarray):
        return _of_array(value, depth)
    if isinstance(value, (pd.DataFrame, pd.Series)):
        names = list(getattr(value, "columns", [value.index.name]))
        columns = [fingerprint(np.asarray(value.iloc[:, j]) if value.ndim == 2 else
                               np.asarray(value), depth + 1)
                   for j in range(len(names))]  # fmt: skip
        return f"frame {names} {list(value.index)} {columns}"
    if isinstance(value, dict):
        return str({str(k): fingerprint(v, depth + 1) for k, v in value.items()})
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__} {[fingerprint(v, depth + 1) for v in value]}"
    if isinstance(value, BaseEstimator):
        return f"{type(value).__name__} {fingerprint(vars(value), depth + 1)}"
    if isinstance(value, np.random.RandomState):
        return "random state"
    return re.sub(r"0x[0-9a-f]+", "", repr(value))


def _of_array(value, depth):
    if value.dtype == object:
        return fingerprint(value.tolist(), depth + 1)
    digest = hashlib.md5(np.ascontiguousarray(value).tobytes()).hexdigest()
    return f"{value.shape} {value.dtype} {value.flags.writeable} {digest}"


def _of_torch(value):
    if isinstance(value, nn.Module):
        if any(isinstance(p, nn.UninitializedParameter) for p in value.parameters()):
            return "uninitialized module"
        tensors = {name: _of_torch(t) for name, t in value.state_dict().items()}
        flags = [m.training for m in value.modules()]
        flags += [(p.requires_grad, p.grad is None) for p in value.parameters()]
        return f"module {tensors} {flags}"
    raw = value.detach().cpu().contiguous().reshape(-1)
    raw = raw.view(torch.uint8) if raw.numel() else raw
    digest = hashlib.md5(raw.numpy().tobytes()).hexdigest()
    return f"{value.dtype} {tuple(value.shape)} {digest}"


def global_state():
    """Everything outside of its arguments that a call could change, by name."""
    backends = torch.backends
    return {
        "numpy.random": fingerprint(list(np.random.get_state())),  # noqa: NPY002
        "random": hash(random.getstate()),
        "torch generator": _of_torch(torch.get_rng_state()),
        "torch default dtype": torch.get_default_dtype(),
        "torch default device": str(torch.get_default_device()),
        "torch threads": torch.get_num_threads(),
        "torch grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "torch determinism": torch.are_deterministic_algorithms_enabled(),
        "torch matmul": torch.get_float32_matmul_precision(),
        "torch backends": (
            *(backends.mkldnn.enabled, backends.cudnn.enabled),
            *(backends.cudnn.benchmark, backends.cudnn.deterministic),
            *(backends.cuda.flash_sdp_enabled(), backends.cuda.math_sdp_enabled()),
            backends.cuda.mem_efficient_sdp_enabled(),
        ),
        "numpy errors": np.geterr(),
        "numpy print": fingerprint(np.get_printoptions()),
        "scikit-learn config": sklearn.get_config(),
        # torch imports sympy late, and sympy adds a filter for its own warnings.
        "warnings filters": [f for f in warnings.filters if "Sym" not in f[2].__name__],
        # torch sets this one when it first compiles.
        "environment": {k: v for k, v in os.environ.items() if "INDUCTOR" not in k},
        "folder": os.getcwd(),
        # Those of joblib's process pool, which it keeps for the next call, don't count.
        "threads": sum(
            not type(thread).__module__.startswith("joblib")
            and thread.name != "QueueFeederThread"
            for thread in threading.enumerate()
        ),
        "signals": (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGALRM)),
        "matplotlib": dict(mpl.rcParams),
    }


# --- results --------------------------------------------------------------------------


def unsound(value, name="result", depth=0):
    """Name of the part of a value that is not finite, or None."""
    if depth > 4 or value is None:
        return None
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().to(torch.float64).numpy()
    elif sp.issparse(value):
        value = value.data
    if isinstance(value, (pd.DataFrame, pd.Series)):
        value = value.select_dtypes("number") if value.ndim == 2 else value
        value = np.asarray(value, dtype=float)
    if isinstance(value, (float, np.ndarray, np.floating)):
        array = np.asarray(value)
        if array.dtype.kind not in "fc" or np.isfinite(array).all():
            return None
        what = "NaN" if np.isnan(array).any() else "inf"
        allowed = MAY_BE.get(name, ()), MAY_BE.get(name.rpartition(".")[2], ())
        return None if any(what in each for each in allowed) else f"{name} has {what}"
    if dataclasses.is_dataclass(value):
        if type(value).__name__ == "MinimaSurvey":
            return _unsound_survey(value)
        items = vars(value) if hasattr(value, "__dict__") else {}
        owner = type(value).__name__
        items = {f"{owner}.{k}": v for k, v in items.items()}
    elif isinstance(value, dict):
        items = {f"{name}[{k}]": v for k, v in value.items()}
    elif isinstance(value, (list, tuple)):
        items = {f"{name}[{i}]": v for i, v in enumerate(value[:50])}
    elif type(value).__module__.startswith("sklearn_pgb") and hasattr(value, "fit"):
        ends = {k: v for k, v in vars(value).items() if k.endswith("_")}
        items = {k: v for k, v in ends.items() if not isinstance(v, BaseEstimator)}
    else:
        return None
    reports = (unsound(v, str(k), depth + 1) for k, v in items.items())
    return next(filter(None, reports), None)


def _unsound_survey(survey):
    """The same for a survey, in which undetermined ends may overflow."""
    known = np.array([verdict != "undetermined" for verdict in survey.verdict])
    items = {}
    for name, value in vars(survey).items():
        per_start = isinstance(value, np.ndarray) and len(value) == len(known)
        items[name] = value[known] if per_start else value
    return next(filter(None, (unsound(v, k, 1) for k, v in items.items())), None)


def wrong_probabilities(text, value):
    """Why probabilities are invalid, or None."""
    if ".predict_proba(" not in text or not isinstance(value, np.ndarray):
        return None
    if value.ndim == 2 and value.shape[1] > 1 and "multilabel" not in text:
        error = np.abs(value.sum(axis=1) - 1.0).max(initial=0.0)
        if error > 1e-6:
            return f"probabilities sum to 1 ± {error:.1g}"
    if ((value < 0) | (value > 1)).any():
        return "a probability is below 0 or above 1"
    return None


# --- errors and warnings --------------------------------------------------------------


def judge_error(error, step, last_line_has_raise=re.compile(r"\braise\b")):
    """Fault of an error, or None."""
    frames = traceback.extract_tb(error.__traceback__)
    last, text = frames[-1], f"{type(error).__name__}: {' '.join(str(error).split())}"
    place, room = _place(frames)
    if last.filename == CASE or last.filename == fuzz_data.__file__:
        return None
    if isinstance(error, AttributeError) and "_available_if" in _files(error):
        return None
    if last.filename.startswith(OTHERS) and isinstance(error, (ValueError, TypeError)):
        return None
    ours = any(frame.filename.startswith(PACKAGE) for frame in frames)
    theirs = any(frame.filename.startswith(OTHERS) for frame in frames)
    if theirs and not ours and isinstance(error, (ValueError, TypeError)):
        # A step of the case that fits a network or pipeline of scikit-learn.
        return None
    kind = None
    module = type(error).__module__
    if not isinstance(error, (ValueError, TypeError)):
        kind = "wrong type of error"
    elif module.startswith("narwhals") and _in_validation(frames):
        # scikit-learn reads column names by narwhals, which has errors of its own.
        kind = None
    elif module != "builtins" and not module.startswith("sklearn"):
        kind = "wrong type of error"
    elif not str(error).strip():
        kind = "empty message"
    elif _in_validation(frames):
        kind = None
    elif not last_line_has_raise.search(last.line or ""):
        kind = "foreign error"
    elif not last.filename.startswith((PACKAGE, SKLEARN)):
        kind = "foreign error"
    elif last.filename.startswith(SKLEARN) and FOREIGN.search(text):
        kind = "foreign error"
    elif not any(_named(name, text) for name in _names(step)):
        kind = "unnamed cause" if step.odd else "refused valid call"
    return Fault(kind, text[:300], place, room) if kind else None


def _in_validation(frames):
    """Whether an error comes from scikit-learn's validation."""
    for frame in reversed(frames):
        if frame.filename.startswith((PACKAGE, CASE)):
            return False
        if frame.filename.startswith(VALIDATION):
            return True
    return False


def _names(step):
    """Arguments that an error of a step may name."""
    names = step.odd | set(re.findall(r"(\w+)=", step.text))
    if step.odd:
        # An odd argument, such as folds that are too small, may make data the cause.
        names |= set(re.findall(r"\b[Xy]\b", step.text))
    return names | ({"estimator"} if "from_estimator" in step.text else set())


def _named(name, text):
    """Whether a message names an argument."""
    return re.search(WORDS.get(name, rf"\b{re.escape(name)}\b"), text) is not None


def _files(error):
    """Files of the traceback of an error and of what it came from, as one text."""
    texts = []
    while error is not None:
        texts += [f.filename for f in traceback.extract_tb(error.__traceback__)]
        error = error.__cause__ or error.__context__
    return " ".join(texts)


def _place(frames):
    """Last frame of the package, as "file:line function", and its room."""
    for frame in reversed(frames):
        if frame.filename.startswith(PACKAGE):
            path = Path(frame.filename).relative_to(PACKAGE)
            room = (path.parts or [""])[0].removesuffix(".py")
            return f"{path}:{frame.lineno} {frame.name}", room
    return "", ""


def judge_warning(message, category, frames):
    """Fault of a warning, or None."""
    files = [frame.filename for frame in frames]
    if any(name.startswith(OTHERS) for name in files) or _in_validation(frames):
        return None
    ours = files[-1].startswith((PACKAGE, SKLEARN))
    if files[-1].startswith(PACKAGE) and "warn(" in (frames[-1].line or ""):
        return None
    good = issubclass(category, UserWarning) and not issubclass(
        category, RuntimeWarning
    )
    if (good or category is ConvergenceWarning) and ours:
        return None
    if files[-1] in (CASE, fuzz_data.__file__):
        return None
    if category is PendingDeprecationWarning:
        # NumPy's, of a matrix that the case itself has passed.
        return None
    place, room = _place(frames)
    text = f"{category.__name__}: {' '.join(str(message).split())[:200]}"
    return Fault("warning", text, place, room)


# --- one case -------------------------------------------------------------------------


class _Recorder:
    """Namespace of a case that remembers the data it has handed out."""

    def __init__(self):
        self.names = dict(vars(fuzz_data))
        self.made = {}
        for maker in ("inputs", "targets", "labels", "weights"):
            self.names[maker] = self._recorded(maker)

    def _recorded(self, maker):
        function = getattr(fuzz_data, maker)

        def make(*arguments):
            value = function(*arguments)
            self.made[f"{maker}{arguments}"] = value, fingerprint(value)
            return value

        return make

    def changed(self):
        """Names of the data that have changed."""
        return [
            name for name, (v, before) in self.made.items() if fingerprint(v) != before
        ]

    def run(self, text):
        """Run a statement; its value, or that of the variable it sets."""
        tree = ast.parse(text)
        if isinstance(tree.body[-1], ast.Expr):
            expression = ast.Expression(tree.body[-1].value)
            return eval(compile(expression, CASE, "eval"), self.names)
        exec(compile(tree, CASE, "exec"), self.names)
        return self.names[tree.body[-1].targets[0].id]

    @property
    def model(self):
        """The model of the case, if it is one of the package."""
        model = self.names.get("m")
        ours = type(model).__module__.startswith("sklearn_pgb")
        return model if ours and isinstance(model, BaseEstimator) else None


def _parameters(model):
    """Parameters of a model: what they are, and their fingerprint."""
    if model is None:
        return {}
    names = model._get_param_names()
    values = {name: vars(model).get(name) for name in names}
    return {name: (id(value), fingerprint(value)) for name, value in values.items()}


def run_case(case):
    """Run a case and return its faults."""
    recorder, faults = _Recorder(), []
    with _watched(faults):
        for text in case.setup:
            try:
                recorder.run(text)
            except Exception as error:
                names = frozenset().union(*(step.odd for step in case.steps))
                fault = judge_error(
                    error, dataclasses.replace(case.steps[0], odd=names)
                )
                faults += [fault] if fault else []
                return faults
        for number, step in enumerate(case.steps):
            before = len(faults)
            failed = _run_step(recorder, case, step, faults)
            for fault in faults[before:]:
                fault.step, fault.line = number, case.line(number)
            if failed and number == 0:
                break
    plt.close("all")
    return faults


def _run_step(recorder, case, step, faults):
    """Run one step, append its faults, return whether it raised."""
    model = recorder.model
    parameters, state = _parameters(model), global_state()
    is_fit = step.text.startswith(("m.fit(", "m.partial_fit("))
    memory = fingerprint(vars(model)) if model is not None and is_fit else None
    failed = False
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            value = recorder.run(step.text)
        if "Display" not in step.text and "to_frame" not in step.text:
            scored = step.text.startswith("m.score")
            text = (
                None
                if scored
                else unsound(value) or wrong_probabilities(step.text, value)
            )
            faults += [Fault("not finite", text, type(value).__name__)] if text else []
    except Exception as error:
        failed = True
        fault = judge_error(error, step)
        faults += [fault] if fault else []
        if memory is not None and fingerprint(vars(model)) != memory:
            name = type(model).__name__
            faults.append(Fault("a failed fit changes the model", name))
    faults += _changes(recorder, case, step, model, parameters, state)
    if printed.getvalue() and not re.search(r"print\(|verbose", case.line()):
        faults.append(Fault("prints", printed.getvalue()[:100]))
    return failed


def _changes(recorder, case, step, model, parameters, state):
    """Faults of a step that changed its data."""
    faults = []
    for name in recorder.changed():
        kind = re.sub(r", \d+.*", "", name)
        faults.append(Fault("changes the data", kind, type(model).__name__))
        recorder.made.pop(name)
    if not step.sets:
        after = _parameters(model)
        names = [name for name in parameters if parameters[name] != after[name]]
        random_state = isinstance(
            getattr(model, "random_state", None), np.random.RandomState
        )
        names = [n for n in names if not (n == "random_state" and random_state)]
        place = type(model).__name__
        faults += [Fault("changes a parameter", name, place) for name in names]
    after = global_state()
    names = [name for name in state if state[name] != after[name]]
    draws = not case.seeded or "random_state" in step.odd or "None" in case.line()
    for name in names:
        if name != "numpy.random" or not draws:
            owner = type(model).__name__ if model is not None else case.kind
            text = name
            if isinstance(state[name], dict):
                keys = state[name].keys() | after[name].keys()
                changed = [k for k in keys if state[name].get(k) != after[name].get(k)]
                text = f"{name}: {', '.join(sorted(map(str, changed)))}"
            faults.append(Fault("changes global state", text, owner))
    return faults


@contextlib.contextmanager
def _watched(faults):
    """Collect warnings as faults, once per kind."""
    seen = set()

    def show(message, category, filename, lineno, file=None, line=None):
        frames = traceback.extract_stack()[:-1]
        frames = [f for f in frames if not f.filename.endswith("warnings.py")]
        fault = judge_warning(message, category, frames)
        if fault and fault.key not in seen:
            seen.add(fault.key)
            faults.append(fault)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        yield
