"""scikit-learn's own tests of its networks, run on the package's networks.

Prints how many tests of the installed sklearn/neural_network/tests/test_mlp.py pass
with MLPClassifier and MLPRegressor replaced by AddedNeuronClassifier and
AddedNeuronRegressor, how many fail, and the reason of each failure. Arguments are
passed on to pytest, for example `-k warm_start` or `-x --tb=short`.
"""

import argparse
import sys
from pathlib import Path

import pytest
from _harness import Finding, finish, print_table

SUITE = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(SUITE))
from peer_cases import EXPECTED_FAILURES, peer_tests  # noqa: E402

LEAST_PASSED = 42


class Outcomes:
    """Pytest plugin that collects the outcome of each of scikit-learn's tests."""

    def __init__(self):
        self.failures, self.n_passed = {}, 0

    def pytest_collection_modifyitems(self, config, items):
        """Leave the suite's own tests of this mechanism out."""
        peers = peer_tests()
        own = [item for item in items if item.originalname not in peers]
        items[:] = [item for item in items if item not in own]
        config.hook.pytest_deselected(items=own)

    def pytest_runtest_logreport(self, report):
        """Note one phase of one test."""
        name = report.nodeid.split("::", 1)[1]
        if report.failed:
            self.failures[name] = _reason(report)
        elif report.when == "call" and report.passed:
            self.n_passed += 1


def _reason(report):
    """First line of the error and the place in scikit-learn's file that raised it."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is None:
        return str(report.longrepr).strip().splitlines()[-1]
    entries = report.longrepr.reprtraceback.reprentries
    places = [entry.reprfileloc for entry in entries if entry.reprfileloc]
    lines = [p.lineno for p in places if p.path.endswith("test_mlp.py")]
    line = f"line {lines[-1]}: " if lines else ""
    return line + " ".join(crash.message.split())[:160].replace("|", "\\|")


def main():
    """Run the tests and print the table of failures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="no change: 15 seconds")
    arguments = parser.parse_known_args()[1]
    outcomes = Outcomes()
    own = ["-q", "--runxfail", "--no-header", "--no-summary", "--tb=short"]
    own += ["-p", "no:cacheprovider", "--rootdir", str(SUITE.parent)]
    pytest.main([*own, str(SUITE / "test_peer.py"), *arguments], [outcomes])
    lines = [
        [name, EXPECTED_FAILURES.get(name, ("not listed",))[0], reason]
        for name, reason in outcomes.failures.items()
    ]
    print_table("Failures", ["test", "kind", "reason"], lines, n_left=3)
    n_passed, n_failed = outcomes.n_passed, len(outcomes.failures)
    print(f"\n{n_passed} passed, {n_failed} failed")
    claim = f"scikit-learn's own tests of its networks: at least {LEAST_PASSED} pass"
    figure = f"{n_passed} of {n_passed + n_failed}"
    finish([Finding(claim, figure, n_passed >= LEAST_PASSED, not arguments)])


if __name__ == "__main__":
    main()
