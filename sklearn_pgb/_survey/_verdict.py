"""What is said of the end of a training."""

import numpy as np
from numpy.typing import NDArray


def verdicts(
    loss: NDArray[np.float64],
    gradient_norm: NDArray[np.float64],
    *,
    floor: float,
    scale: float,
    tol: float,
) -> tuple[str, ...]:
    """One verdict per start.

    "certified_global" where the loss is within ``tol * scale`` of the pure-error floor,
    which no function of the inputs is below, whatever the gradient; "not_critical"
    where the gradient's norm exceeds ``tol * scale``; "critical" otherwise.

    Parameters
    ----------
    loss, gradient_norm : ndarray (n_starts,)
    floor : float
    scale : float
        What there is to explain: the loss of a constant above the floor.
    tol : float
    """
    allowed = tol * scale
    return tuple(
        "certified_global"
        if value - floor <= allowed
        else ("critical" if norm <= allowed else "not_critical")
        for value, norm in zip(loss, gradient_norm, strict=True)
    )
