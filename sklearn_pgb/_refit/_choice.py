"""Choose the center of a refit's penalty and its strength alpha."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sklearn_pgb._convex._choice import (
    Effort,
    by_leave_one_out,
    can_leave_out,
    candidate_alphas,
    choose_alpha,
    is_number,
    spectral_path,
)
from sklearn_pgb._convex._heldout import convex_folds
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._ridge import RidgePath
from sklearn_pgb._estimator._folds import Parts
from sklearn_pgb._refit._candidate import (
    Candidate,
    Choice,
    best_candidate,
    finite_candidates,
)
from sklearn_pgb._refit._heldout_choice import choose_on_heldout
from sklearn_pgb._refit._networks import TrainedNetworks
from sklearn_pgb._refit._request import RefitRequest


def choose(
    trained: TrainedNetworks,
    problems: dict[str, ConvexProblem],
    request: RefitRequest,
    effort: Effort,
    convex_parts: Callable[[], Parts],
) -> Choice:
    """Choose center and alpha, on held-out samples if there are any.

    `problems` has the problem on all samples for each center.
    """
    alpha, fixed = request.alpha, is_number(request.alpha)
    center, problem = next(iter(problems.items()))
    # Held-out samples are missing, or not wanted by the rule for alpha.
    on_training_samples = not trained.has_heldout or request.alpha_rule != "auto"
    path = None
    if trained.loss.quadratic and not (fixed and alpha == 0):
        # Leverages and the choice of alpha on training samples need a decomposition.
        if request.distribution or (on_training_samples and not fixed):
            path = spectral_path(problem, request.solver, effort.max_memory)
    # A distribution needs the errors of the folds, even if nothing is chosen.
    needs_folds = len(problems) > 1 or request.distribution
    if fixed and not (needs_folds and trained.has_heldout):
        only = Candidate(center, float(alpha), math.nan)
        choice = Choice(only.center, only.alpha, [only])
    elif on_training_samples:
        choice = _on_training_samples(
            trained, problems, request, effort, convex_parts, path
        )
    else:
        choice = choose_on_heldout(trained, tuple(problems), alpha, effort, problem)
    if path is None:
        return choice
    problem, counts = problems[choice.center], trained.samples.counts
    path = path.with_offset(problem.offset)
    choice = replace(choice, path=path)
    if choice.raw is not None or not 0 < choice.alpha < math.inf:
        return choice
    if not can_leave_out(counts):
        return choice
    # There are no held-out outputs of all samples.
    left_out = by_leave_one_out(problem, path, np.array([choice.alpha]), counts)
    return replace(choice, raw=left_out.raw)


def _on_training_samples(
    trained: TrainedNetworks,
    problems: dict[str, ConvexProblem],
    request: RefitRequest,
    effort: Effort,
    convex_parts: Callable[[], Parts],
    path: RidgePath | None,
) -> Choice:
    """Choose center and alpha on the samples that the networks were trained on.

    The features were trained on the labels, so the losses are optimistic. If the
    networks were trained elsewhere, the average of the networks is a candidate, too,
    with its training loss. This does not apply if the user gave candidates or the rule
    is "evidence".
    """
    rule = request.alpha_rule
    alphas = candidate_alphas(request.alpha, trained.loss.quadratic)
    choices = {
        center: choose_alpha(
            problem,
            rule,
            alphas,
            trained.samples.counts,
            effort,
            lambda problem: convex_folds(problem, convex_parts()),
            None if path is None else path.with_offset(problem.offset),
        )
        for center, problem in problems.items()
    }
    scored = [
        Candidate(center, float(alpha), float(loss))
        for center, choice in choices.items()
        for alpha, loss in zip(choice.alphas, choice.scores, strict=True)
    ]
    compares = trained.is_prefit and rule != "evidence" and request.has_alpha_rule
    if compares and "average" in problems:
        problem = problems["average"]
        assert problem.offset is not None
        loss = float(problem.data_value(problem.offset))
        scored.append(Candidate("average", math.inf, loss))
    finite = finite_candidates(scored)
    best = best_candidate(finite, [each.loss for each in finite])
    # The networks have no left-out outputs: use their training outputs instead.
    average = problems[best.center].offset
    raw = choices[best.center].raw if math.isfinite(best.alpha) else average
    return Choice(best.center, best.alpha, scored, raw)
