"""Draw the verdict of a certificate, by theorems, from its findings."""

import math
from dataclasses import replace

from sklearn_pgb._certificate._certificate import Verdict
from sklearn_pgb._certificate._escape import Escape, by_curvature, by_displacement
from sklearn_pgb._certificate._examine import Findings
from sklearn_pgb._certificate._subject import Subject
from sklearn_pgb._certificate._table import PERTURBED
from sklearn_pgb._models._resnet import ResNetNetwork


def judge(subject: Subject, findings: Findings) -> tuple[Verdict, Escape | None]:
    """Return the first verdict that holds, and the escape if there is one.

    A point within the tolerance of the global bound counts as a global minimum, even if
    its curvature is negative. "not_critical" can't contradict this, because the global
    bound also holds for losses on the gradient basis.
    """
    bound = global_bound(findings)
    # A network of linear units may be certified by a bound above the floor.
    if replace(findings.scale, floor=bound).certifies(findings.objective, findings.tol):
        return "certified_global", None
    if is_not_critical(findings):
        return "not_critical", None
    escape = find_escape(subject, findings) if findings.smooth else None
    if escape is not None:
        return "not_local_min", escape
    return "consistent_with_local_min", None


def global_bound(findings: Findings) -> float:
    """Lower bound on the objective for all parameters of the network.

    The floor is a bound for all functions of the inputs. Models that are linear in
    their parameters and networks of linear units also have the bound of a convex
    problem. Bounds within a norm budget are not used, because larger parameters may
    have a smaller objective.
    """
    bounds = [] if findings.convex is None else [findings.convex.lower_bound]
    return max([findings.floor.value, *bounds])


def is_not_critical(findings: Findings) -> bool:
    """Whether some derivative of the objective is not zero.

    At a critical point, no model on the gradient basis is better. With a penalty, no
    solution of the tilted problem is better. At a kink, only the last layer's
    derivatives are sure to exist, so only these are used. Only a decrease that is
    attained is evidence; an upper bound on it may be loose.
    """
    # The gradient is more accurate than losses on bases, so it decides first.
    if findings.steepness.is_rounding:
        return False
    if not findings.smooth:
        return findings.head_excess > findings.tolerance
    return findings.gain > findings.tolerance


def find_escape(subject: Subject, findings: Findings) -> Escape | None:
    """Descend from a point that is not a local minimum; None if no descent succeeds.

    Without penalty, a smaller loss on the perturbed gradient basis, or on the joint
    layers of linear units, disproves a local minimum. So does a negative eigenvalue of
    the Hessian, with or without penalty, if differences at short distances confirm it.
    Either way, a descent must reach a smaller objective.
    """
    objective, theta = subject.objective, subject.objective.network.theta
    size = max(abs(findings.objective), findings.scale.reference)
    attempts: list[Escape | None] = []
    # With a penalty, displaced parameters have another objective, so Theorem 2 does not
    # apply.
    if findings.tilted is None and findings.displaced:
        names = PERTURBED, findings.joint_row
        rows = [row for row in findings.rows if row.basis in names]
        if any(row.excess > findings.tolerance for row in rows):
            displaced = findings.displaced
            attempts.append(by_displacement(objective, theta, displaced, size))
    curvature = findings.curvature
    # Rounding errors of the smallest eigenvalue are proportional to the largest one.
    if curvature is not None and curvature.least < -1e-6 * curvature.largest:
        attempts.append(by_curvature(objective, theta, curvature, size))
    # A decrease beyond rounding shows that the point is not a local minimum.
    rounding = 1e-14 * abs(findings.objective)
    limit = findings.objective - max(1e-6 * findings.tolerance, rounding)
    confirmed = [each for each in attempts if each and each.objective < limit]
    return min(confirmed, key=lambda escape: escape.objective, default=None)


def assumptions(subject: Subject, findings: Findings) -> tuple[str, ...]:
    """Assumptions of the verdict, and how far they were checked."""
    objective = subject.objective
    texts = [
        "X, y and sample_weight are the training data: not checked.",
        f"{type(objective.loss).__name__} is convex and differentiable: true.",
    ]
    margin = findings.margin
    if margin.value == float("inf"):
        texts.append("The network is differentiable: it has no kinks.")
    elif math.isnan(margin.value):
        texts.append(
            "The network may not be differentiable at its parameters, because it has "
            "functions that are not known to be smooth. Only the last layer's "
            "derivatives were used."
        )
    elif findings.smooth:
        texts.append(
            "The network is differentiable at its parameters: checked, the nearest "
            f"kink is {margin.value:.2g} away."
        )
    else:
        texts.append(
            "The network may not be differentiable at its parameters, because a hidden "
            "unit may be at its kink. Only the last layer's derivatives were used."
        )
    error = findings.in_span_error
    if error is not None and error <= 1e-8:
        texts.append(
            "The outputs are in the span of the derivatives: checked, relative error "
            f"{error:.1g}."
        )
    else:
        texts.append(
            "The outputs may not be in the span of the derivatives, so the model is "
            "the network plus a combination of the derivatives."
        )
    return tuple(texts)


def notes(subject: Subject, findings: Findings) -> tuple[str, ...]:
    """Caveats about the numbers of the certificate."""
    texts = list(subject.notes)
    rank, n_rows = findings.tangent.steady_rank, subject.objective.y.numel()
    if rank == 0:
        texts.append(
            "All derivatives are zero on these samples (rank 0), as with dead ReLU "
            "units, so the gradient basis contains only zero."
        )
    if rank == n_rows:
        texts.append(
            "The derivatives span all outputs on these samples: every critical point "
            "of the loss is a global minimum, and the gradient basis fits any targets."
        )
    if findings.jumps:
        texts.append(
            "The second derivative of the objective may jump at these parameters, as "
            "that of ELU does at zero and that of the Huber loss at delta, so no "
            "curvature was used."
        )
    if rank is None:
        texts.append(
            "There are too many derivatives to factorize: their rank is unknown, and "
            "the loss on the gradient basis was found by L-BFGS."
        )
    if any(row.norm_budget < float("inf") for row in findings.rows):
        texts.append(
            "Some proven bounds only hold for coefficients up to the norm in the table."
        )
    linear = subject.objective.network.is_linear_in_theta
    if rank != 0 and not linear:
        texts.append(
            "The row `gradient` is about the derivatives at these parameters. They "
            "change in training, so the network may reach a smaller loss."
        )
    if findings.tilted is not None:
        texts.append(
            "The training had a penalty, but the table is about losses without it: a "
            "network that has converged may have an excess on the gradient basis. The "
            "perturbed gradient basis is not used for the verdict."
        )
        if findings.loss - findings.floor.value <= findings.tolerance:
            texts.append("The loss without penalty is at the floor.")
    if any(row.attained is False for row in findings.rows):
        texts.append(
            "The labels are separable on some bases, so their infimum is not attained: "
            "coefficients grow without limit."
        )
    if linear:
        text = "The model is linear in its parameters, so its objective is convex."
        if findings.convex is not None and findings.convex.is_proven:
            text += " The verdict is about all parameters, of any size."
        texts.append(text)
    if findings.convex is not None and not findings.convex.is_proven:
        texts.append(
            "The objective is convex or bounded by a convex one, but it has no "
            "curvature in some directions, is too large to decompose, or its minimum "
            "is not known to the tolerance. So only the floor bounds it for all "
            "parameters."
        )
    if isinstance(subject.objective.network, ResNetNetwork):
        texts.append(
            "The linear part and the residual units are certified as one network, in "
            "the parameters in which it was fitted."
        )
    return tuple(texts)
