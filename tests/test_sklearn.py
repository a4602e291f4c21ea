"""`_sklearn.py` has the private names of scikit-learn that are used, and no others."""

import re
from pathlib import Path

import sklearn_pgb
from sklearn_pgb import _sklearn


def test_all_names_are_used():
    package = Path(sklearn_pgb.__file__).parent
    text = "\n".join(
        path.read_text(encoding="utf-8")
        for path in package.rglob("*.py")
        if path.name != "_sklearn.py"
    )
    unused = [name for name in _sklearn.__all__ if not re.search(rf"\b{name}\b", text)]
    assert unused == []


def test_all_names_are_of_sklearn():
    for name in _sklearn.__all__:
        assert getattr(_sklearn, name).__module__.partition(".")[0] == "sklearn"
