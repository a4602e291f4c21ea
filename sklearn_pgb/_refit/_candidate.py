"""Centers and alphas of a refit with their held-out losses, and the choice of one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sklearn_pgb._convex._heldout import first_best
from sklearn_pgb._convex._ridge import RidgePath


@dataclass(frozen=True, eq=False)
class Candidate:
    """A center, an alpha and their mean loss on held-out samples.

    Attributes
    ----------
    center : {"zero", "average"}
    alpha : float
        Infinite for the average of the networks itself.
    loss : float
    gain : float
        Decrease of the loss that is expected from averaging the models of all folds;
        NaN if it is not known.
    """

    center: str
    alpha: float
    loss: float
    gain: float = math.nan


@dataclass(frozen=True, eq=False)
class Choice:
    """The chosen center and alpha, and all candidates.

    Attributes
    ----------
    center : {"zero", "average"}
    alpha : float
        Strength for the problem on all samples; infinite for the average of the
        networks itself.
    candidates : list of Candidate
    raw : Tensor (n_samples, n_outputs) or None
        Held-out raw outputs: each sample's by a model that was not trained on it, or
        only a convex model.
    oof_raw : Tensor (n_samples, n_outputs) or None
        Raw outputs of each sample by networks and a convex model that were not trained
        on it; nan for samples that no scored fold holds out.
    parameters : Tensor or None
        Mean of the folds' solutions, one coefficient per parameter of all networks.
    start : (Tensor, Tensor) or None
        Coefficients and intercept close to the solution on all samples.
    gain : float
        Part of the held-out loss by which the average of the folds' models is better
        than each of them (squared loss only, else zero).
    path : RidgePath or None
        Decomposition of the problem with the chosen center, if one was needed.
    """

    center: str
    alpha: float
    candidates: Sequence[Candidate]
    raw: Tensor | None = None
    oof_raw: Tensor | None = None
    parameters: Tensor | None = None
    start: tuple[Tensor, Tensor] | None = None
    gain: float = 0.0
    path: RidgePath | None = None


def best_candidate(
    candidates: Sequence[Candidate], losses: Sequence[float]
) -> Candidate:
    """Return the candidate with the smallest loss; of equal ones, the largest alpha."""
    order = sorted(range(len(candidates)), key=lambda i: -candidates[i].alpha)
    return candidates[order[first_best([losses[i] for i in order])]]


def finite_candidates(scored: Sequence[Candidate]) -> list[Candidate]:
    """Candidates of finite loss, at least one."""
    finite = [each for each in scored if math.isfinite(each.loss)]
    if not finite:
        raise ValueError(
            "The loss must be finite on held-out samples for some alpha, but it "
            "overflows for all. Scale the inputs and targets."
        )
    return finite
