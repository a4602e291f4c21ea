"""scikit-learn's tests of its networks hold for the package's networks.

`EXPECTED_FAILURES` is strict: a test that passes although it is listed fails here.
"""

from pathlib import Path

import pytest
from peer_cases import EXPECTED_FAILURES, peer_tests

# The tests expect the warnings filters of a plain pytest run.
pytestmark = pytest.mark.filterwarnings("default")

globals().update(peer_tests())


@pytest.fixture
def global_random_seed():
    """Seed that scikit-learn's conftest gives to its tests by default."""
    return 42


@pytest.fixture(autouse=True)
def expected_failure(request):
    """Mark the listed tests as expected failures."""
    if reason := EXPECTED_FAILURES.get(request.node.name):
        request.applymarker(pytest.mark.xfail(reason=": ".join(reason), strict=True))


def test_each_expected_failure_is_a_test_of_scikit_learn():
    names = {name.partition("[")[0] for name in EXPECTED_FAILURES}
    assert names <= peer_tests().keys()


def test_each_difference_of_behaviour_is_documented():
    page = Path(__file__).resolve().parents[1] / "doc" / "training.md"
    text = page.read_text(encoding="utf-8")
    for name, (kind, _) in EXPECTED_FAILURES.items():
        assert kind in ("private", "wording", "documented"), name
        assert kind != "documented" or name.partition("[")[0] in text, name
