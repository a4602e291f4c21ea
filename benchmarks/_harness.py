"""Tools for benchmarks: data, clocks, resumable runs and tables."""

import argparse
import hashlib
import json
import os
import resource
import sys
import time
import traceback
import warnings
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _data import read
from joblib import Parallel, delayed, parallel_config
from sklearn.neural_network import MLPClassifier, MLPRegressor
from threadpoolctl import threadpool_limits

FOLDER_VARIABLE = "SKLEARN_PGB_DATA"

# --- data ---------------------------------------------------------------------


def folder():
    """Folder of the data sets."""
    path = os.environ.get(FOLDER_VARIABLE, "")
    if not path or not Path(path).is_dir():
        raise SystemExit(
            f"{FOLDER_VARIABLE} must be the folder of the benchmark data, got "
            f"{path or 'nothing'!r}. Build it by `python benchmarks/get_data.py "
            f"FOLDER`, then run `{FOLDER_VARIABLE}=FOLDER python {sys.argv[0]}`."
        )
    return Path(path)


def load(name):
    """Load a data set as a dict with X, y, task and splits."""
    return read(folder() / f"{name}.npz")


def data_sets(*patterns):
    """Names of the data sets that match the patterns, such as "uci121/*"."""
    root = folder()
    paths = [p for pattern in patterns for p in sorted(root.glob(f"{pattern}.npz"))]
    return [path.relative_to(root).with_suffix("").as_posix() for path in paths]


class Split:
    """One split of a data set, and the metrics measured on it."""

    def __init__(self, name, index):
        data = load(name)
        train, test = data["splits"][index]
        self.X, self.y = data["X"][train], data["y"][train]
        self.X_test, self.y_test = data["X"][test], data["y"][test]
        self.classes = np.unique(data["y"]) if data["task"] != "regression" else None
        self.result = {"rows": len(data["y"])}

    def note(self, metric, method, value):
        """Store one metric of one method."""
        self.result.setdefault(metric, {})[method] = float(value)


# --- clocks and memory --------------------------------------------------------

# Seconds of each training since the list was last cleared; the networks are trained
# inside GradientBasisRefit.fit, in the process that calls it.
_TRAININGS = []


class _TimedFit:
    """Mixin that records the time of each training."""

    def fit(self, X, y, sample_weight=None):
        """Train as the parent does and record the seconds."""
        start = time.perf_counter()
        super().fit(X, y, sample_weight)
        _TRAININGS.append(time.perf_counter() - start)
        return self


class TimedMLPRegressor(_TimedFit, MLPRegressor):
    """MLPRegressor whose trainings are timed by `timed_fit`."""


class TimedMLPClassifier(_TimedFit, MLPClassifier):
    """MLPClassifier whose trainings are timed by `timed_fit`."""


def timed_fit(refit, X, y):
    """Fit a refit; return its seconds, and the mean seconds of its networks' trainings.

    The refit's seconds do not include the trainings of its networks.
    """
    _TRAININGS.clear()
    seconds = fit_seconds(refit, X, y)
    if not _TRAININGS:
        raise RuntimeError(
            f"{type(refit).__name__}.fit must train its networks in this process, got "
            "no training of a timed network."
        )
    trained = sum(_TRAININGS)
    return {"refit": seconds - trained, "network": trained / len(_TRAININGS)}


def fit_seconds(estimator, X, y):
    """Fit and return the seconds it took."""
    start = time.perf_counter()
    estimator.fit(X, y)
    return time.perf_counter() - start


def memory():
    """Resident memory of this process in bytes: current and peak."""
    status = Path("/proc/self/status")
    if not status.is_file():
        # In bytes on macOS, in KiB elsewhere.
        unit = 1 if sys.platform == "darwin" else 1024
        peak = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"now": peak, "peak": peak}
    # On Linux ru_maxrss of a new process starts at its parent's peak (exec keeps
    # it), so a child's figure could be the parent's; VmHWM starts afresh.
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    now, peak = (1024 * int(lines[key].split()[0]) for key in ("VmRSS", "VmHWM"))
    return {"now": now, "peak": peak}


def in_fresh_process(function, *arguments):
    """Call a module-level function in a new process; add peak memory to its dict."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_with_peak, function, arguments).result()


def _with_peak(function, arguments):
    """Call a function; return its result and the peak memory of this process."""
    return {**function(*arguments), "peak_bytes": memory()["peak"]}


# --- runs ---------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """One row to compute: a part of the benchmark on one split of one data set.

    `model` names the model, if each one has a row of its own.
    """

    set: str
    split: int
    part: str
    model: str = ""


def parse_arguments(description, parts=(), max_splits=None, flags=None):
    """Parse the command line of a benchmark that runs over data sets."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="about a minute")
    parser.add_argument(
        "--n-jobs", "--jobs", type=int, default=2, help="worker processes"
    )
    parser.add_argument("--out", type=Path, help="append rows to this JSON-lines file")
    resume = "skip the rows that this file holds; append to it unless --out is given"
    parser.add_argument("--resume", type=Path, help=resume)
    parser.add_argument("--only", "--sets", type=_names, default=(), metavar="SET,SET")
    parser.add_argument("--models", type=_names, default=(), metavar="NAME,NAME")
    if max_splits is not None:
        parser.add_argument("--max-splits", type=int, default=max_splits)
    if parts:
        text = f"any of {', '.join(parts)}; all by default"
        parser.add_argument("--parts", type=_names, default=(), help=text)
    for flag, text in (flags or {}).items():
        parser.add_argument(f"--{flag}", action="store_true", help=text)
    options = parser.parse_args()
    for part in getattr(options, "parts", ()):
        if part not in parts:
            parser.error(f"--parts must be among {', '.join(parts)}, got {part}.")
    return options


def _names(text):
    """Names in a comma-separated list."""
    return tuple(name.strip() for name in text.split(","))


def run(tasks, compute, protocols, options, alone=()):
    """Return the rows of the selected tasks, from --resume or newly computed.

    Parameters
    ----------
    tasks : list of Task
    compute : callable
        Maps a task to a dict for JSON, in a worker with one thread. If it raises, the
        row holds the traceback under "error".
    protocols : dict
        Constants of each part. Rows in the file are reused only if they were computed
        with the same constants.
    options : argparse.Namespace
    alone : tuple of str
        Parts that run last, one task at a time.
    """
    marks = {part: _digest(constants) for part, constants in protocols.items()}
    tasks = _selected(tasks, options)
    known = _read_rows(options.resume)
    rows = {task: known.get((task, marks[task.part])) for task in tasks}
    missing = [task for task in tasks if rows[task] is None]
    together = [task for task in missing if task.part not in alone]
    last = [task for task in missing if task.part in alone]
    for batch, n_jobs in [(together, options.n_jobs), (last, 1)]:
        calls = [delayed(_guarded)(compute, task, marks[task.part]) for task in batch]
        for count, row in enumerate(_finished(calls, n_jobs), 1):
            rows[_task(row)] = row
            _append(row, options.out or options.resume)
            state = "FAILED" if "error" in row else f"{row['seconds_in_all']:.1f} s"
            label = f"{row['set']} split {row['split']} {row['model'] or row['part']}"
            print(f"[{count}/{len(batch)}] {label}: {state}", file=sys.stderr)
    return list(rows.values())


def _finished(calls, n_jobs):
    """Yield results of delayed calls as they finish, from single-threaded workers."""
    with parallel_config(backend="loky", inner_max_num_threads=1):
        yield from Parallel(n_jobs=n_jobs, return_as="generator_unordered")(calls)


def _digest(constants):
    """Short hash of the constants."""
    text = json.dumps(constants, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _selected(tasks, options):
    """Tasks selected by --only, --models and --parts."""
    parts = getattr(options, "parts", ())
    for option, field, wanted in (
        ("--only", "set", options.only),
        ("--models", "model", options.models),
        ("--parts", "part", parts),
    ):
        names = {getattr(task, field) for task in tasks}
        for name in wanted:
            if name not in names:
                raise SystemExit(
                    f"{option} must name a {field} of this run, got {name}. "
                    f"Choose among {', '.join(sorted(names))}."
                )
        tasks = [task for task in tasks if not wanted or getattr(task, field) in wanted]
    return tasks


def _task(row):
    """Task of a row."""
    return Task(row["set"], row["split"], row["part"], row.get("model", ""))


def _read_rows(path):
    """Successful rows of a JSON-lines file; the last one of each task counts."""
    if path is None or not path.is_file():
        return {}
    rows = map(json.loads, path.read_text().splitlines())
    return {(_task(row), row["protocol"]): row for row in rows if "error" not in row}


def _append(row, path):
    """Append one row to the JSON-lines file, if there is one."""
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def tasks_of(tasks, part):
    """Tasks of one part."""
    return [task for task in tasks if task.part == part]


def covers(rows, tasks):
    """Whether every task has a row that did not fail."""
    return {_task(row) for row in rows if "error" not in row} >= set(tasks)


def _guarded(compute, task, mark):
    """Compute the row of one task, with its warnings and any error."""
    row = {**asdict(task), "protocol": mark}
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught, _one_thread():
        warnings.simplefilter("always")
        try:
            row |= compute(task)
        except Exception:
            row["error"] = traceback.format_exc()
    messages = {" ".join(str(warning.message).split())[:200] for warning in caught}
    # Networks stop at max_iter by protocol.
    stops = "Stochastic Optimizer: Maximum iterations"
    row["warnings"] = sorted(m for m in messages if not m.startswith(stops))
    row["seconds_in_all"] = time.perf_counter() - start
    return row


@contextmanager
def _one_thread():
    """Limit BLAS, OpenMP and torch to one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


# --- tables -------------------------------------------------------------------


def scores(rows, metric):
    """One metric of all rows as a frame: (set, split) by method."""
    cells = {}
    for row in rows:
        if metric in row:
            cells.setdefault((row["set"], row["split"]), {}).update(row[metric])
    index = pd.MultiIndex.from_tuples(list(cells), names=["set", "split"])
    return pd.DataFrame(list(cells.values()), index=index)


def means_and_errors(frame):
    """Means over splits and their standard errors (0 for a single split)."""
    groups = frame.groupby("set", sort=False)
    return groups.mean(), groups.sem().fillna(0.0)


def print_table(title, header, lines, n_left=1):
    """Print a Markdown table; lines are lists of strings, first columns left."""
    columns = list(zip(header, *lines, strict=True))
    widths = [max(3, *map(len, column)) for column in columns]
    sides = ["<" if i < n_left else ">" for i in range(len(columns))]
    rules = [
        "-" * width if side == "<" else "-" * (width - 1) + ":"
        for width, side in zip(widths, sides, strict=True)
    ]
    print(f"\n### {title}\n")
    for line in [header, rules, *lines]:
        cells = zip(line, sides, widths, strict=True)
        print(f"| {' | '.join(f'{c:{side}{width}}' for c, side, width in cells)} |")


def print_scores(title, means, errors=None, digits=4):
    """Print a frame of means, with "± standard error" if there is one."""
    if means.empty:
        return

    def cell(name, method):
        value = means.at[name, method]
        if pd.isna(value):
            return "-"
        has_error = errors is not None and method in errors and name in errors.index
        error = errors.at[name, method] if has_error else 0.0
        return f"{value:.{digits}g}" + (f" ± {error:.2g}" if error > 0 else "")

    lines = [[name, *(cell(name, m) for m in means.columns)] for name in means.index]
    print_table(title, [means.index.name or "", *means.columns], lines)


@dataclass(frozen=True)
class Finding:
    """A claim about the results; `holds` is None if it was not measured."""

    claim: str
    figure: str = "not measured"
    holds: bool | None = None
    complete: bool = True

    def verdict(self):
        """Whether the claim holds, with a star if the run was partial."""
        if self.holds is None:
            return "-"
        return ("yes" if self.holds else "no") + ("" if self.complete else " *")


def finish(findings, rows=()):
    """Print warnings, failures and findings; exit with 1 if a row failed."""
    messages = pd.Series([m for row in rows for m in row["warnings"]], dtype=object)
    for message, count in messages.value_counts().items():
        print(f"\nWarning in {count} rows: {message}")
    failed = [row for row in rows if "error" in row]
    for row in failed:
        reason = row["error"].strip().splitlines()[-1]
        name = row["model"] or row["part"]
        print(f"\nFAILED: {row['set']} split {row['split']} {name}: {reason}")
    lines = [[f.claim, f.figure, f.verdict()] for f in findings]
    print_table("Claims", ["claim", "measured", "holds"], lines, n_left=3)
    if any(finding.verdict().endswith("*") for finding in findings):
        print("\n\\* on a part of the full benchmark only")
    if failed:
        raise SystemExit(1)


def time_finding(rows, complete, largest=10_000):
    """Finding on refit times, over the data sets of at most `largest` samples.

    It uses rows with the seconds of "refit" and "network" and the set's "rows".
    """
    claim = "refit time / network's (1 s if less): ≤ 1 on 80 % of the sets, never > 3"
    seconds = scores([row for row in rows if row.get("rows", 0) <= largest], "seconds")
    if not {"refit", "network"} <= set(seconds.columns):
        return Finding(claim, complete=complete)
    ratios = (seconds["refit"] / seconds["network"].clip(lower=1.0)).dropna()
    by_set = ratios.groupby("set").mean()
    figure = (
        f"≤ 1 on {(by_set <= 1).sum()} of {len(by_set)} sets; worst set "
        f"{by_set.idxmax()} {by_set.max():.2f}, worst single run {ratios.max():.2f}"
    )
    holds = bool((by_set <= 1).mean() >= 0.8 and ratios.max() <= 3)
    return Finding(claim, figure, holds, complete)
