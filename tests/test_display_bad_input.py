"""Displays refuse what they cannot draw."""

import matplotlib.pyplot as plt
import pytest

from sklearn_pgb import (
    BasisComparisonDisplay,
    CertificateDisplay,
    MinimaSurveyDisplay,
    TrainingDisplay,
)


@pytest.mark.parametrize(
    ("display", "name"),
    [
        (CertificateDisplay(None), "certificate"),
        (BasisComparisonDisplay(len, [1.0], [0.5], [[0.1]]), "names"),
        (BasisComparisonDisplay(["a"], len, [0.5], [[0.1]]), "train_losses"),
        (BasisComparisonDisplay(["a"], [1.0], [0.5], [[0.1]], floor="0"), "floor"),
        (TrainingDisplay([1.0], validation_scores=len), "validation_scores"),
        (TrainingDisplay([1.0], status=3), "status"),
        (MinimaSurveyDisplay(["a"]), "losses"),
        (MinimaSurveyDisplay([1.0], bounds=[0.5]), "bounds"),
    ],
)
def test_junk_is_refused_by_name(display, name):
    with pytest.raises(TypeError, match=f"{name} must be "):
        display.plot()
    assert plt.get_fignums() == []
