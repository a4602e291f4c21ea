"""Smallest losses on a basis in extended precision, without the package's code."""

import numpy as np

REAL = np.longdouble
EPS = float(np.finfo(REAL).eps)

# Regularization strengths for columns of norm one, from zero to one that keeps
# coefficients short. For any norm budget, one of the solutions is close to the best.
RIDGES = (0.0, 1e-30, 1e-24, 1e-18, 1e-12, 1e-6)


def equilibrated(features, weight, intercept=True):
    """Columns less their weighted means, of weighted norm one; and the norms."""
    columns = np.asarray(features, dtype=REAL)
    root = np.sqrt(np.asarray(weight, dtype=REAL))
    if intercept:
        columns = columns - root**2 @ columns
    plain = np.sqrt(((root[:, None] * np.asarray(features, REAL)) ** 2).sum(0))
    norms = np.sqrt(((root[:, None] * columns) ** 2).sum(0))
    # Columns that are constant up to rounding of float64 count as constant.
    live = norms > 1e-15 * plain
    columns = columns[:, live] / norms[live]
    if intercept:
        columns = np.column_stack([np.ones(len(columns), REAL), columns])
    return columns


def solve_ridge(rows, target, ridge):
    """Least squares with a ridge, by Householder reflections."""
    p = rows.shape[1]
    R = np.vstack([rows, np.sqrt(REAL(ridge)) * np.eye(p, dtype=REAL)])
    t = np.concatenate([target, np.zeros(p, REAL)])
    for j in range(min(p, len(R))):
        v = R[j:, j].copy()
        size = np.sqrt(v @ v)
        if size == 0:
            continue
        v[0] += size if v[0] >= 0 else -size
        scale = 2 / (v @ v)
        R[j:, j:] -= np.outer(v, scale * (v @ R[j:, j:]))
        t[j:] -= v * (scale * (v @ t[j:]))
    coef = np.zeros(p, REAL)
    largest = np.abs(np.diagonal(R)).max(initial=REAL(0))
    for j in reversed(range(min(p, len(R)))):
        if abs(R[j, j]) > 64 * EPS * largest:
            coef[j] = (t[j] - R[j, j + 1 :] @ coef[j + 1 :]) / R[j, j]
    return coef


LOSSES = {}


def _loss(function):
    LOSSES[function.__name__] = function
    return function


@_loss
def squared(q, y):
    """Value, gradient and curvature of ``(q - y)^2``."""
    return (q - y) ** 2, 2 * (q - y), 2 + 0 * q


@_loss
def logistic(q, y):
    """Value, gradient and curvature of ``log(1 + e^q) - y q``, y 0 or 1."""
    s = (2 * y - 1) * q
    value = np.maximum(-s, 0) + np.log1p(np.exp(-np.abs(s)))
    p = 1 / (1 + np.exp(-np.abs(q)))
    p = np.where(q >= 0, p, 1 - p)
    return value, p - y, p * (1 - p)


@_loss
def poisson(q, y):
    """Value, gradient and curvature of ``e^q - y q``."""
    mean = np.exp(np.clip(q, -1000, 1000))
    return mean - y * q, mean - y, mean


@_loss
def hinge(q, y):
    """Value, gradient and curvature of ``max(0, 1 - s q)^2``, s = -1 or 1 for y."""
    s = 2 * y - 1
    gap = np.maximum(1 - s * q, 0)
    return gap**2, -2 * s * gap, 2.0 * (gap > 0)


@_loss
def gamma(q, y):
    """Value, gradient and curvature of ``y e^-q - log(y e^-q) - 1``."""
    ratio = y * np.exp(np.clip(-q, -1000, 1000))
    return ratio - np.log(y) + q - 1, 1 - ratio, ratio


def pooled(y, weight, loss):
    """Smallest weighted loss of a constant output, in closed form."""
    total = weight.sum()
    mean = min(max(weight @ y / total, y.min()), y.max())
    if loss == "squared":
        return float(weight @ (y - mean) ** 2)
    if loss == "hinge":
        return float(4 * total * mean * (1 - mean))
    if loss == "gamma":
        return float(weight @ (np.log(mean) - np.log(y)))
    if mean == 0 or (loss == "logistic" and abs(1 - mean) < 16 * EPS):
        return 0.0
    if loss == "poisson":
        return float(total * (mean - mean * np.log(mean)))
    return float(-total * (mean * np.log(mean) + (1 - mean) * np.log1p(-mean)))


def witnesses(features, y, weight, loss, offset=0.0, intercept=True):
    """Pairs of a value and the norm of the scaled coefficients that attain it."""
    weight = np.asarray(weight, REAL) / np.asarray(weight, REAL).sum()
    y, offset = np.asarray(y, REAL), np.asarray(offset, REAL)
    rows = equilibrated(features, weight, intercept)
    function, found = LOSSES[loss], []
    start = np.zeros(rows.shape[1], REAL)
    if loss == "squared":
        root = np.sqrt(weight)
        mean = weight @ (y - offset) if intercept else REAL(0)
        for ridge in RIDGES:
            coef = solve_ridge(root[:, None] * rows, root * (y - offset - mean), ridge)
            q = rows @ coef + offset + mean
            norm = np.sqrt(coef @ coef)
            found.append((float(weight @ function(q, y)[0]), float(norm)))
        return found
    for ridge in reversed(RIDGES):
        start = newton(rows, y, weight, function, offset, ridge, start)
        value = weight @ function(rows @ start + offset, y)[0]
        found.append((float(value), float(np.sqrt(start @ start))))
    return found


def newton(rows, y, weight, function, offset, ridge, coef):
    """Minimize by damped Newton steps, each a least-squares problem."""

    def objective(c):
        with np.errstate(over="ignore"):
            values = function(rows @ c + offset, y)[0]
        return weight @ values + REAL(ridge) * (c @ c)

    best = objective(coef)
    for _ in range(60):
        _, slope, bend = function(rows @ coef + offset, y)
        root = np.sqrt(weight * np.maximum(bend, REAL(1e-300)))
        scale = np.sqrt(2 * REAL(ridge))
        # The penalty pulls towards zero, not towards the current coefficients.
        system = np.vstack(
            [root[:, None] * rows, scale * np.eye(len(coef), dtype=REAL)]
        )
        target = np.concatenate([-weight * slope / root, -scale * coef])
        step = solve_ridge(system, target, 0.0)
        size = REAL(1)
        while size > 1e-6 and not objective(coef + size * step) < best:
            size /= 2
        if size <= 1e-6:
            break
        coef = coef + size * step
        last, best = best, objective(coef)
        if last - best <= 1e-17 * abs(best):
            break
    return coef


def least(pairs, budget):
    """Smallest value of coefficients within a norm budget."""
    return min((value for value, norm in pairs if norm <= budget), default=np.inf)
