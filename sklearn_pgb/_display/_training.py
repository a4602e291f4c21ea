"""`TrainingDisplay`."""

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support
from torch import nn

from sklearn_pgb._networks import open_network

# A curve that spans less than this factor reads better on a linear axis.
LOG_SPAN = 10.0


class TrainingDisplay:
    """How a network was trained: loss, floor, added neurons and held-out scores.

    The first panel shows the training loss of each epoch above the *floor*, the least
    loss that any function of the inputs could have: what lies between the two is all
    that a longer training, another start or a larger network could gain. The second
    panel shows the norm of the added neurons while they descend on the residuals of
    the trained network, which is kept still. That it grows says that the network is
    above the floor, and no more. A third panel shows the held-out scores, where there
    are any.

    It is recommended to use `from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    loss_curve : array-like of shape (n_epochs,)
        Training loss of each epoch, penalties included.
    floor : float, default=None
        Pure-error floor of the training samples.
    neuron_norm_curve : array-like of shape (n_points,), default=None
        Norm of the added neurons at the start of their descent and after each of its
        iterations.
    validation_scores : array-like of shape (n_epochs,), default=None
        Held-out score of each epoch.
    loss : float, default=None
        Loss of the network that was kept, without penalties.
    status : str, default=None
        Status of the training; it stands in the title.
    step_name : str, default="epoch"
        What an entry of `loss_curve` is.
    name : str, default=None
        Name of the training, for the legend.

    Attributes
    ----------
    figure_ : matplotlib Figure
        Figure of the panels.
    axes_ : ndarray of matplotlib Axes
        The panels: loss, then neurons and scores where there are any.
    loss_line_ : matplotlib Line2D
        The loss.
    loss_point_ : matplotlib Line2D or None
        The loss of the network that was kept.
    floor_line_ : matplotlib Line2D or None
        The floor; None where there is none or a logarithmic axis can't show it.
    norm_line_ : matplotlib Line2D or None
        The norm of the added neurons.
    score_line_ : matplotlib Line2D or None
        The held-out scores.

    See Also
    --------
    LandscapeDisplay : Surface or contours of an objective.
    AddedNeuronRegressor : Its attributes explain what is drawn.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.preprocessing import scale
    >>> from sklearn_pgb import AddedNeuronClassifier, TrainingDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> network = AddedNeuronClassifier((8,), early_stopping=True, random_state=0)
    >>> display = TrainingDisplay.from_estimator(network.fit(scale(X), y))
    >>> [ax.get_ylabel() for ax in display.axes_]
    ['training loss', 'norm of (a, b, W)', 'held-out accuracy']
    >>> plt.close(display.figure_)
    """

    def __init__(
        self,
        loss_curve,
        floor=None,
        neuron_norm_curve=None,
        validation_scores=None,
        *,
        loss=None,
        status=None,
        step_name="epoch",
        name=None,
    ):
        self.loss_curve = loss_curve
        self.floor = floor
        self.neuron_norm_curve = neuron_norm_curve
        self.validation_scores = validation_scores
        self.loss = loss
        self.status = status
        self.step_name = step_name
        self.name = name
