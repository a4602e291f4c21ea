"""From what was measured to a verdict, each of them a theorem's conclusion."""

from dataclasses import dataclass, replace

from sklearn_pgb._certificate._certificate import Verdict
from sklearn_pgb._certificate._escape import Escape, by_curvature, by_displacement
from sklearn_pgb._certificate._examine import PERTURBED, Findings, joint_name
from sklearn_pgb._certificate._subject import Subject
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._resnet import ResNetNetwork


@dataclass(frozen=True, eq=False)
class Judgement:
    """A verdict with what it rests on."""

    verdict: Verdict
    escape: Escape | None


def judge(subject: Subject, found: Findings) -> Judgement:
    """The first verdict that holds.

    A lower bound for all parameters comes first. What is better on the gradient basis,
    or on the perturbed one, can't be below the floor, so the order matters for points
    whose objective is within the tolerance of the bound, and curves down all the same.
    """
    bound = global_bound(subject, found)
    if replace(found.scale, floor=bound).certifies(found.objective, found.tol):
        return Judgement("certified_global", None)
    if is_not_critical(found):
        return Judgement("not_critical", None)
    escape = find_escape(subject, found) if found.smooth else None
    if escape is not None:
        return Judgement("not_local_min", escape)
    return Judgement("consistent_with_local_min", None)


def global_bound(subject: Subject, found: Findings) -> float:
    """No parameters of the network have a smaller objective.

    The floor is a bound for all functions of the inputs. A network of linear units is a
    linear model of the inputs, and can't be better than the best of these; that bound
    counts where coefficients beyond its norm budget are known to be worse.
    """
    network = subject.objective.network
    if isinstance(network, ChainNetwork) and _is_linear(network):
        return max(found.floor.value, found.linear_bound)
    return found.floor.value


def _is_linear(network: ChainNetwork) -> bool:
    return all(activation.name == "identity" for activation in network.activations)


def is_not_critical(found: Findings) -> bool:
    """Whether some derivative of the objective is not zero.

    At a critical point nothing on the gradient basis is better, or, with a penalty,
    nothing on the tilted one. On a kink only the derivatives by the last layer are sure
    to exist, and the same holds for these. What a single step down the derivatives
    gains counts by itself, whatever is found on the basis.
    """
    if found.steepness.is_rounding:
        return False
    if not found.smooth:
        return found.head_excess > found.tolerance
    if found.steepness.gain > found.tolerance:
        return True
    if found.tilted is not None:
        return found.tilted.gap > found.tolerance
    return found.loss - found.tangent.steady > found.tolerance


def find_escape(subject: Subject, found: Findings) -> Escape | None:
    """A way to a smaller objective from a point that is no local minimum, or None.

    Without penalty: the perturbed gradient basis, or the layers that linear units vouch
    for, hold a smaller loss than the network, which they do not at a local minimum.
    With and without: the Hessian has a negative eigenvalue. No claim is made unless a
    descent confirms it.
    """
    objective, theta = subject.objective, subject.objective.network.theta
    attempts = []
    if found.tilted is None and found.displaced:
        names = [PERTURBED]
        if found.structure is not None and len(found.structure.layers) > 1:
            names.append(joint_name(found.structure))
        rows = [row for row in map(found.row, names) if row is not None]
        if any(row.excess > found.tolerance for row in rows):
            attempts.append(by_displacement(objective, theta, found.displaced))
    if found.curvature is not None and _curves_down(found):
        attempts.append(by_curvature(objective, theta, found.curvature))
    # Any decrease confirms it that is not the rounding of the objective.
    rounding = 1e-14 * abs(found.objective)
    enough = found.objective - max(1e-6 * found.tolerance, rounding)
    reached = [escape for escape in attempts if escape.objective < enough]
    return min(reached, key=lambda escape: escape.objective, default=None)


def _curves_down(found: Findings) -> bool:
    """Whether the lowest curvature is negative beyond the accuracy of the largest."""
    assert found.curvature is not None
    return found.curvature.least < -1e-6 * found.curvature.largest


def assumptions(subject: Subject, found: Findings) -> tuple[str, ...]:
    """What the verdict rests on."""
    objective = subject.objective
    texts = [
        "X, y and sample_weight are those of the training; this is taken on trust.",
        f"{type(objective.loss).__name__} is convex and differentiable: holds.",
    ]
    margin = found.margin
    if margin.value == float("inf"):
        texts.append("The network is differentiable: it has no kinks.")
    elif found.smooth:
        texts.append(
            "The network is differentiable at its parameters: checked, the nearest "
            f"kink is {margin.value:.2g} away."
        )
    else:
        texts.append(
            "The network is not known to be differentiable at its parameters: a unit "
            "is on its kink, or may be. Only the last layer's derivatives were used."
        )
    error = found.in_span_error
    if error is not None and error <= 1e-8:
        texts.append(
            "The outputs are in the span of the derivatives: checked, relative error "
            f"{error:.1g}."
        )
    else:
        texts.append(
            "The outputs are not known to be in the span of the derivatives, so the "
            "model is the network plus a combination of these."
        )
    return tuple(texts)


def notes(subject: Subject, found: Findings) -> tuple[str, ...]:
    """What to know when reading the numbers."""
    texts = list(subject.notes)
    rank, n_rows = found.tangent.steady_rank, subject.objective.y.numel()
    if rank == 0:
        texts.append(
            "The derivatives all vanish on these rows (rank 0), as with dead ReLU "
            "units. The certificate speaks of their span, which is nothing."
        )
    if rank == n_rows:
        texts.append(
            "The derivatives span all outputs on these rows: every critical point of "
            "the loss is a global minimum, and the gradient basis fits any targets."
        )
    if rank is None:
        texts.append(
            "The derivatives were too many to be factorised; their rank is not known, "
            "and the value on the gradient basis is what L-BFGS found."
        )
    if any(row.norm_budget < float("inf") for row in found.rows):
        texts.append(
            "Some proven bounds hold for coefficients up to the norm that the table "
            "names."
        )
    if found.tilted is not None:
        texts.append(
            "The training had a penalty: what a basis without penalty gains is no sign "
            "that the training is not done. The perturbed gradient basis gives no "
            "verdict either."
        )
        if found.loss - found.floor.value <= found.tolerance:
            texts.append("The loss without penalty is at the floor.")
    if any(row.attained is False for row in found.rows):
        texts.append(
            "The labels can be separated on some bases. The least loss there is not "
            "attained: coefficients grow without limit."
        )
    if isinstance(subject.objective.network, ResNetNetwork):
        texts.append(
            "The linear part and the residual units are taken as one network, in the "
            "parameters in which it was fitted."
        )
    return tuple(texts)
