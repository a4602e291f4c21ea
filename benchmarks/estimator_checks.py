"""scikit-learn's checks on every configuration of the package's estimators.

Runs each check of `check_estimator` on the defaults and on the configurations of
tests/common_cases.py: by default, with metadata routing enabled and, in a separate
process, with SCIPY_ARRAY_API=1.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import sklearn
from _harness import Finding, finish, print_table
from joblib import Parallel, delayed, parallel_config

SUITE = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(SUITE))
from common_cases import CONFIGURATIONS, DEFAULTS, IN_ROUTING, failures, requesting  # noqa: E402

MODES = ("plain", "metadata routing", "array API")
VARIABLE = "SCIPY_ARRAY_API"


def check(name, mode):
    """Run the checks of one configuration in one mode; return failures and seconds."""
    start = time.perf_counter()
    estimator = (DEFAULTS | CONFIGURATIONS)[name]
    routing = mode == "metadata routing"
    with (
        warnings.catch_warnings(),
        sklearn.config_context(enable_metadata_routing=routing),
    ):
        warnings.simplefilter("ignore")
        try:
            failed = failures(requesting(estimator) if routing else estimator)
        except Exception as error:
            # A skipped or broken check must not hide the others' rows.
            failed = {"check_estimator": error}
    texts = {key: " ".join(str(value).split())[:100] for key, value in failed.items()}
    return name, mode, texts, time.perf_counter() - start


def checks(names, modes, n_jobs):
    """Yield rows of `check` as they finish, from single-threaded workers."""
    calls = [delayed(check)(name, mode) for mode in modes for name in names]
    with parallel_config(backend="loky", inner_max_num_threads=1):
        run = Parallel(n_jobs=n_jobs, return_as="generator_unordered")
        for count, row in enumerate(run(calls), 1):
            label = f"{row[1]}, {row[0]}: {len(row[2])} failed, {row[3]:.0f} s"
            print(f"[{count}/{len(calls)}] {label}", file=sys.stderr)
            yield row


def with_array_api(options):
    """Rows of this file run in a process with SCIPY_ARRAY_API=1."""
    command = [sys.executable, __file__, "--json", *sys.argv[1:]]
    environment = os.environ | {VARIABLE: "1"}
    run = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(run.stdout)


def parse_arguments():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the cheap ones alone")
    parser.add_argument("--n-jobs", type=int, default=2, help="worker processes")
    parser.add_argument("--only", help="configurations whose names hold this text")
    parser.add_argument("--modes", default=",".join(MODES), help="some of the modes")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    """Run the benchmark from the command line."""
    options = parse_arguments()
    names = list(IN_ROUTING if options.quick else DEFAULTS | CONFIGURATIONS)
    if options.only is not None:
        names = [name for name in names if options.only in name]
    modes = [mode.strip() for mode in options.modes.split(",")]
    if options.json:
        print(json.dumps(list(checks(names, ["array API"], options.n_jobs))))
        return
    here = [mode for mode in modes if mode != "array API"]
    rows = list(checks(names, here, options.n_jobs))
    if "array API" in modes:
        rows += with_array_api(options)
    cells = {(name, mode): (failed, seconds) for name, mode, failed, seconds in rows}
    lines = []
    for name in names:
        line = [f"{len(cells[name, mode][0])}" for mode in modes]
        line.append(f"{sum(cells[name, mode][1] for mode in modes):.0f}")
        lines.append([name, *line])
    print_table("Failed checks", ["configuration", *modes, "seconds"], lines)
    for name, mode, failed, _ in rows:
        for key, text in failed.items():
            print(f"\n{name} ({mode}): {key}: {text}")
    bad = {name for name, _, failed, _ in rows if failed}
    claim = f"no check fails on {len(DEFAULTS)} defaults and at least 40 configurations"
    figure = f"{len(names) - len(bad)} of {len(names)} in {len(modes)} modes"
    complete = options.only is None and not options.quick and len(modes) == len(MODES)
    finish([Finding(claim, figure, not bad, complete)])


if __name__ == "__main__":
    main()
