"""Seeded random calls of the whole public API, valid and invalid ones.

    python tests/fuzz.py --n 5000 --seed 0 --jobs 2

draws calls (see fuzz_cases.py), runs each in a worker process under a time limit, and
prints what broke a rule, grouped, each with a line of Python that repeats it. Rules:

- An error is a ValueError, TypeError or NotFittedError, raised by a `raise` of the
  package or by scikit-learn's validation, in words that name the cause: an argument
  that is odd or was given. A valid call is not refused.
- No NaN or infinity is returned or kept as a fitted attribute. Probabilities sum to 1.
- Inputs, parameters, random generators, environment, threads, warnings filters, torch's
  and NumPy's settings stay as they were. A fit that fails leaves the model as it was.
- No RuntimeWarning, and no warning of another library. No call hangs or kills Python.
"""

import argparse
import multiprocessing
import os
import re
import sys
import time
from collections import defaultdict
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from fuzz_cases import draw
from fuzz_rules import Fault, run_case
from joblib.externals.loky import get_reusable_executor

TIME_LIMIT = 20.0


@dataclass
class Outcome:
    """Result of one call, with its faults."""

    index: int
    seconds: float
    faults: list
    line: str


# --- workers ------------------------------------------------------------------


def _work(connection, seed):
    """Run the cases whose indices come in, until None comes."""
    while (index := connection.recv()) is not None:
        # Of this process, whatever else the machine does.
        start = time.process_time()
        case = draw(seed, index)
        faults = run_case(case)
        connection.send(
            Outcome(index, time.process_time() - start, faults, case.line())
        )
    # Python waits for child processes before joblib ends its own.
    get_reusable_executor().shutdown(wait=True, kill_workers=True)


class Worker:
    """A process that runs one case at a time and may be killed."""

    def __init__(self, seed):
        self.seed, self.index = seed, None
        self._start()

    def _start(self):
        context = multiprocessing.get_context("spawn")
        self.connection, child = context.Pipe()
        self.process = context.Process(target=_work, args=(child, self.seed))
        self.process.start()
        child.close()

    def send(self, index):
        """Start the case of an index."""
        self.index, self.since = index, time.perf_counter()
        self.connection.send(index)

    def result(self, time_limit):
        """Outcome of the case, or None while it runs."""
        # A new process first imports everything.
        limit = time_limit + 30.0
        if self.connection.poll(0.02):
            try:
                return self.connection.recv()
            except (EOFError, ConnectionResetError):
                self.process.join()
                fault = Fault("process died", f"exit code {self.process.exitcode}")
        elif time.perf_counter() - self.since < limit:
            return None
        else:
            fault = Fault("hang", f"no result in {limit:g} s")
            self.process.kill()
            self.process.join()
        self._start()
        seconds = time.perf_counter() - self.since
        return Outcome(self.index, seconds, [fault], draw(self.seed, self.index).line())

    def stop(self):
        """End the process."""
        self.connection.send(None)
        self.process.join()


def outcomes(indices, seed, n_jobs=1, time_limit=TIME_LIMIT):
    """Yield the outcome of each case as it comes."""
    left = iter(indices)
    workers = [Worker(seed) for _ in range(n_jobs)]
    idle, busy = list(workers), []
    while True:
        while idle and (index := next(left, None)) is not None:
            idle[-1].send(index)
            busy.append(idle.pop())
        if not busy:
            break
        for worker in list(busy):
            if outcome := worker.result(time_limit):
                busy.remove(worker)
                idle.append(worker)
                if outcome.seconds > time_limit and not outcome.faults:
                    text = f"{outcome.seconds:.0f} s"
                    outcome.faults.append(Fault("slow", text))
                yield outcome
    for worker in workers:
        worker.stop()


# --- report -------------------------------------------------------------------


def groups(results):
    """Faults of all outcomes in groups, the most frequent first."""
    found = defaultdict(list)
    for outcome in sorted(results, key=lambda outcome: outcome.index):
        for fault in outcome.faults:
            found[fault.key].append((outcome, fault))
    return sorted(found.values(), key=len, reverse=True)


def report(results):
    """Print the groups, each with its shortest call."""
    for group in groups(results):
        outcome, fault = min(group, key=lambda pair: len(pair[0].line))
        print(f"\n## {fault.kind}: {len(group)} of {len(results)} calls", end="")
        print(f" [{fault.room}]" if fault.room else "")
        print(f"{fault.text}" + (f"\n  at {fault.place}" if fault.place else ""))
        print(
            f"  call {outcome.index}, step {fault.step}: {fault.line or outcome.line}"
        )


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=5000, help="calls")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    parser.add_argument(
        "--limit", type=float, default=TIME_LIMIT, help="seconds a call"
    )
    parser.add_argument("--call", type=int, help="run and print this call alone")
    options = parser.parse_args()
    indices = range(options.n) if options.call is None else [options.call]
    results, start = [], time.perf_counter()
    for outcome in outcomes(indices, options.seed, options.jobs, options.limit):
        results.append(outcome)
        if len(results) % 100 == 0:
            n_faulty = sum(bool(outcome.faults) for outcome in results)
            seconds = time.perf_counter() - start
            text = f"{len(results)} calls, {n_faulty} with faults, {seconds:.0f} s"
            print(text, file=sys.stderr)
    if options.call is not None:
        print(re.sub("; ", "\n", results[0].line))
    report(results)
    n_faulty = sum(bool(outcome.faults) for outcome in results)
    n_kinds = len(groups(results))
    print(f"\n{len(results)} calls, {n_faulty} with faults of {n_kinds} kinds")
    raise SystemExit(n_faulty > 0)


if __name__ == "__main__":
    main()
