"""The picture of a certificate."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from certificate_cases import (
    converged_mlp,
    embedded_unit,
    saddle,
    smooth_data,
    tanh_mlp,
)
from sklearn.neural_network import MLPRegressor

from sklearn_pgb import CertificateDisplay, certify

pytestmark = pytest.mark.usefixtures("figures")


def undertrained(seed):
    X, y = smooth_data(seed)
    return tanh_mlp(max_iter=5, random_state=seed).fit(X, y), X, y


def test_points_are_the_table(seed):
    mlp, X, y = undertrained(seed)
    certificate = certify(mlp, X, y)
    rows = [replace(row, lower_bound=row.value / 2) for row in certificate.table]
    certificate = replace(certificate, table=tuple(rows))
    display = CertificateDisplay.from_certificate(certificate)
    points = display.points_.get_offsets()
    values = [row.value for row in certificate.table]
    np.testing.assert_allclose(points[:, 0], values)
    np.testing.assert_allclose(points[:, 1], [2, 1, 0])
    assert display.loss_line_.get_xdata()[0] == certificate.loss
    assert display.floor_line_.get_xdata()[0] == pytest.approx(certificate.floor)
    ends = np.array([path.vertices[:, 0] for path in display.bars_.get_paths()])
    bounds = [row.lower_bound for row in certificate.table]
    np.testing.assert_allclose(ends[:, 0], bounds, rtol=1e-12)
    np.testing.assert_allclose(ends[:, 1], values, rtol=1e-12)


def test_verdict_is_the_title(seed):
    mlp, X, y = undertrained(seed)
    display = CertificateDisplay.from_estimator(mlp, X, y)
    assert display.ax_.get_title() == "MLPRegressor: training has not converged"
    named = CertificateDisplay.from_estimator(mlp, X, y, name="mine", random_state=0)
    assert named.ax_.get_title() == "mine: training has not converged"


def test_rows_are_named_in_plain_words(seed):
    mlp, X, y = undertrained(seed)
    ax = CertificateDisplay.from_estimator(mlp, X, y).ax_
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["inputs (linear model)", "layer 1", "partial derivatives"]


def test_better_bases_are_green(seed):
    mlp, X, y = undertrained(seed)
    certificate = certify(mlp, X, y)
    display = CertificateDisplay.from_certificate(certificate)
    colours = display.points_.get_facecolors()
    better = np.array([row.excess > certificate.tolerance for row in certificate.table])
    assert better.any()
    green = colours[:, 1] > 1.5 * colours[:, 0]
    np.testing.assert_array_equal(green, better)


def test_way_down_is_drawn_and_small_losses_are_logarithmic(seed):
    module, X, y = embedded_unit()
    certificate = certify(module, X, y, loss="squared_error", random_state=seed)
    display = CertificateDisplay.from_certificate(certificate)
    assert display.ax_.get_xscale() == "log"
    reached = display.escape_line_.get_xdata()[0]
    assert reached == max(certificate.escape.objective, 1e-3 * certificate.tolerance)
    # A logarithmic axis has no zero.
    assert display.floor_line_ is None


def test_exact_zeros_are_drawn_at_the_edge(seed):
    module, X, y = saddle()
    display = CertificateDisplay.from_estimator(
        module, X, y, loss="squared_error", random_state=seed
    )
    edge = 1e-3 * display.certificate.tolerance
    assert display.points_.get_offsets()[:, 0].min() == edge
    display.figure_.canvas.draw()


def test_negative_losses_have_a_linear_axis(seed):
    """The Poisson loss leaves out its constant."""
    X, _ = smooth_data(seed)
    y = np.random.RandomState(seed).poisson(9.0, len(X)).astype(float)
    mlp = MLPRegressor("poisson", 3, max_iter=5, random_state=seed).fit(X, y)
    display = CertificateDisplay.from_estimator(mlp, X, y)
    assert display.ax_.get_xscale() == "linear"
    assert display.floor_line_ is not None


def test_penalised_certificate_says_what_it_shows(seed):
    mlp, X, y = converged_mlp(seed, 0.1)
    display = CertificateDisplay.from_estimator(mlp, X, y)
    assert display.ax_.get_xlabel() == "training loss without penalty"
    assert "local minimum" in display.ax_.get_title()


def test_given_axes_are_used(seed):
    mlp, X, y = undertrained(seed)
    _, axes = plt.subplots(1, 2)
    display = CertificateDisplay.from_estimator(mlp, X, y, ax=axes[1])
    assert display.ax_ is axes[1]
    again = display.plot(axes[0])
    assert again is display
    assert display.ax_ is axes[0]


def test_bases_of_one_loss_far_from_the_network(seed):
    """A logarithmic axis has no limits yet when the first of them are drawn."""
    certificate = certify(*undertrained(seed))
    rows = [replace(row, value=0.0, lower_bound=0.0) for row in certificate.table]
    far = replace(certificate, loss=1e22, tolerance=1e16, floor=0.0, table=tuple(rows))
    ax = CertificateDisplay.from_certificate(far).ax_
    assert ax.get_xscale() == "log"
    assert ax.get_xlim()[0] < 1e13
    assert ax.get_xlim()[1] > 1e22
