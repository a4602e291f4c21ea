"""Displays refuse what they cannot draw."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sklearn_pgb import (
    BasisComparisonDisplay,
    CertificateDisplay,
    LandscapeDisplay,
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
        (LandscapeDisplay([0, 1], [0, 1], len), "values"),
        (LandscapeDisplay([0, 1], [0, 1], np.eye(2), x_name=1), "x_name"),
    ],
)
def test_junk_is_refused_by_name(display, name):
    with pytest.raises(TypeError, match=f"{name} must be "):
        display.plot()
    assert plt.get_fignums() == []


def test_function_of_a_landscape_must_be_callable():
    with pytest.raises(TypeError, match="function must be callable"):
        LandscapeDisplay.from_function(3, (0, 1), (0, 1))
