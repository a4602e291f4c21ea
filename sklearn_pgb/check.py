"""Check a certificate: ``python -m sklearn_pgb.check CERTIFICATE.json EVIDENCE.npz``.

Recomputes every claim in extended precision. Prints "holds", or the first line that
fails, and exits with status 0 or 1. Needs NumPy, but no other code of the package.
"""

import hashlib
import json
import sys

import numpy as np

REAL, EPS = np.longdouble, np.finfo(np.float64).eps


def require(holds, line):
    """Fail with this line unless the claim holds."""
    if not holds:
        raise AssertionError(line)


def same(name, claimed, found, size=0.0):
    """Require two values to agree, up to the rounding of doubles of this size."""
    near = claimed == found or (size and abs(REAL(claimed) - found) <= 1e-13 * size)
    require(near, f"{name}: claimed {claimed}, found {found}")


def norm(x):
    """Return the Euclidean norm of all entries."""
    return np.sqrt((x**2).sum())


def entropy(p):
    """Return ``p log p``, which is zero at zero and nan if p is negative."""
    return p * np.log(np.where(p == 0, 1, p))


def partition(q):
    """Return ``log sum_k exp(q_k)`` of each sample."""
    return np.logaddexp.reduce(q, 1, keepdims=True)


def formulas(name, delta=np.inf, power=2.0, label_smoothing=0.0):
    """Return loss and slope at outputs q, conjugate and nearest point at duals u."""
    require(power > 1 and delta > 0, "loss: its parameters are out of range")
    s, t = REAL(power), REAL(power) / (REAL(power) - 1)
    errors = (
        lambda y, q: (q - y) ** 2 - np.maximum(np.abs(q - y) - delta, 0) ** 2,
        lambda y, q: 2 * np.clip(q - y, -delta, delta),
        lambda y, u: u * y + u**2 / 4,
        lambda y, u: np.clip(u, -2 * delta, 2 * delta),
    )
    hinge = (
        lambda y, q: np.maximum(0, 1 - y * q) ** s,
        lambda y, q: -s * y * np.maximum(0, 1 - y * q) ** (s - 1),
        lambda y, u: u * y + (s - 1) * np.abs(u / s) ** t,
        lambda y, u: y * np.minimum(y * u, 0),
    )
    poisson = (
        lambda y, q: np.exp(q) - y * q,
        lambda y, q: np.exp(q) - y,
        lambda y, u: entropy(u + y) - (u + y),
        lambda y, u: np.maximum(u, -y),
    )
    binary = (
        lambda y, q: np.logaddexp(0, q) - y * q,
        lambda y, q: 1 / (1 + np.exp(-q)) - y,
        lambda y, u: entropy(u + y) + entropy(1 - u - y),
        lambda y, u: np.clip(u, -y, 1 - y),
    )
    classes = (
        lambda y, q: y * (partition(q) - q),
        lambda y, q: np.exp(q - partition(q)) - y,
        lambda y, u: entropy(u + y),
        # Divides p = u + y by its sum, with all digits of small u.
        lambda y, u: (u - y * u.sum(1, keepdims=True)) / (1 + u.sum(1, keepdims=True)),
    )
    losses = {"squared_error": errors, "huber": errors, "smoothed_hinge": hinge}
    losses |= {"poisson": poisson, "binary_log_loss": binary, "log_loss": classes}
    return losses[name]


class Basis:
    """A constant if there is an intercept, and centered columns, scaled to norm one."""

    def __init__(self, features, weight, y, row):
        n, q, _ = features.shape
        self.weight, self.width, free = weight, y.shape[1] // q, row["intercept"]
        w, columns = weight[:, None, None], features.astype(REAL)
        plain = np.sqrt((w * columns**2).sum((0, 1)))
        for _ in range(2 * free):
            columns = columns - (w * columns).sum(0)
        scale = np.sqrt((w * columns**2).sum((0, 1)))
        # Columns that are constant up to rounding keep their norm.
        scale = np.where(scale > 8 * EPS * plain, scale, plain)
        self.scale = np.where((scale > 0) & (not row["tilted"]), scale, 1)
        constant = np.tile(np.eye(q, q * free, dtype=REAL), (n, 1, 1))
        columns = np.concatenate([constant, columns / self.scale], 2)
        self.matrix = columns.reshape(n * q, -1)
        # The rounding of features is relative to their size before centering.
        self.length = np.sqrt(1 + q * free + norm(plain / self.scale) ** 2)

    def outputs(self, beta):
        """Return the outputs at the coordinates beta."""
        rows = self.matrix @ beta.reshape(-1, self.width)
        return rows.reshape(len(self.weight), -1)

    def adjoint(self, u):
        """Return the products of the columns with weighted rows u."""
        rows = (self.weight[:, None] * u).reshape(-1, self.width)
        return (self.matrix.T @ rows).ravel()


class Checker:
    """Recompute the claims of one certificate."""

    def __init__(self, document, arrays):
        self.claims, self.table = document["claims"], document["table"]
        loss, names = document["loss"], "y weight raw theta penalty".split()
        self.value, self.slope, self.conjugate, self.into_domain = formulas(**loss)
        self.uses_error = loss["name"] in ("squared_error", "huber")
        self.fits_means = not self.uses_error and loss["name"] != "smoothed_hinge"
        self.arrays, real = arrays, [arrays[name].astype(REAL) for name in names]
        self.y, self.weight, self.raw, self.theta, self.penalty = real
        self.tilt = 2 * self.penalty * self.theta
        self.numbers(document["tol"])
        for row in self.table:
            name, networks = row["basis"], ("gradient", "perturbed gradient")
            row["tilted"] = name == "tilted gradient"
            row["on_network"] = row["tilted"] or name in networks
            self.row(f"row {name!r}, ", row)
        self.verdict(**document["assumptions"])

    def size(self, u):
        """Return the norm of weighted rows, at least one for probabilities."""
        return np.sqrt(self.weight @ (u**2).sum(1)) + self.fits_means

    def mean_loss(self, q, error=0.0):
        """Return the mean loss, and its size if outputs have errors of this size."""
        terms, slope = self.value(self.y, q), self.slope(self.y, q)
        sizes = np.abs(terms) + np.abs(slope * q) + np.abs(self.y * q) * self.fits_means
        size = self.weight @ sizes.sum(1) + error * self.size(slope) + EPS * error**2
        return self.weight @ terms.sum(1), size

    def pooled(self, group):
        """Return the smallest loss of functions that are constant on groups."""

        def pool(operation, values, start=0.0):
            result = np.full((group.max() + 1, values.shape[1]), start, REAL)
            operation.at(result, group, values)
            return result

        y, rows = self.y, self.weight[:, None] + 0 * self.y
        if self.fits_means:
            # It is that of the mean target, and the infimum of a loss is -l*(0).
            total = pool(np.add, rows)
            mean = pool(np.add, rows * y) / total
            return -(total * self.conjugate(mean, 0 * mean)).sum()
        low, high = pool(np.minimum, y, np.inf), pool(np.maximum, y, -np.inf)
        for _ in range(80):
            q = (low + high) / 2
            slope = pool(np.add, rows * self.slope(y, q[group]))
            low, high = np.where(slope <= 0, q, low), np.where(slope >= 0, q, high)
        return (rows * self.value(y, q[group])).sum()

    def numbers(self, tol):
        """Check the claims about the network's objective, the floor and tolerance."""
        c, y, weight = self.claims, self.y, self.weight
        normalized = (weight > 0).all() and abs(weight.sum() - 1) < 1e-12
        require(normalized, "weight: not positive with a sum of one")
        same("loss", c["loss"], *self.mean_loss(self.raw))
        penalty = self.penalty @ self.theta**2
        same("penalty", c["penalty"], penalty, penalty)
        same("objective", c["objective"], c["loss"] + c["penalty"])
        group = np.unique(self.arrays["X"], axis=0, return_inverse=True)[1].reshape(-1)
        floor, constant = self.pooled(group), self.pooled(0 * group)
        self.trivial = self.pooled(np.arange(len(y)))
        scale = constant
        if (y == y[0]).all():
            # All constants are as good as the floor. Compare with outputs of zero.
            scale = (weight @ self.value(y, 0 * y)).sum()
            scale = scale if scale - floor > 1e-14 * abs(scale) else floor + 1
        size = abs(constant) + abs(floor) + abs(self.trivial) + abs(scale)
        same("floor", c["floor"], floor, size)
        same("tolerance", c["tolerance"], tol * max(scale - floor, 0), size)

    def row(self, label, row):
        """Check the loss of the coefficients and the bound of a basis."""
        basis = Basis(self.arrays[row["features"]], self.weight, self.y, row)
        base = self.raw * row["on_network"] + np.array(row.get("center", 0), REAL)
        beta = np.array(row["coordinates"], REAL).ravel()
        same(label + "norm", row["norm"], norm(beta), norm(beta))
        q, error = base + basis.outputs(beta), norm(beta) * basis.length
        value, size = self.mean_loss(q, error)
        if row["tilted"]:
            value += self.tilt @ beta + self.claims["penalty"]
            size += np.abs(self.tilt) @ np.abs(beta) + self.claims["penalty"]
            require(row["norm"] <= row["norm_budget"] * (1 + 1e-12), label + "norm")
        same(label + "value", row["value"], value, size + 10 * abs(value))
        self.bound(label, row, basis, base)
        if row["basis"] == "gradient":
            self.tangent, u = row, self.slope(self.y, self.raw)
            length = norm(basis.adjoint(u) * basis.scale + self.tilt)
            size = self.size(u) * norm(basis.scale) + norm(self.tilt)
            same("gradient_norm", self.claims["gradient_norm"], length, size)

    def bound(self, label, row, basis, base):
        """Check a lower bound, which is the floor or proven by a dual point."""
        budget, dual, c = float(row["norm_budget"]), row["dual"], self.claims
        tilt, penalty = self.tilt * row["tilted"], c["penalty"] * row["tilted"]
        caps = [row["value"], *[c["loss"] + penalty] * row["on_network"]]
        if dual is None:
            require(row["tilted"] or budget == np.inf, label + "dual: missing")
            found = max(REAL(c["floor"]), self.trivial) + penalty
            size = abs(found) + abs(self.trivial)
            found = min(found - (budget * norm(tilt) if row["tilted"] else 0), *caps)
            return same(label + "lower_bound", row["lower_bound"], found, size)
        point = np.array(dual["point"], REAL)
        u = self.into_domain(self.y, point)
        off = np.abs(u - point).max() <= 1e-11 * (1 + np.abs(u).max())
        require(off, label + "dual: outside of the conjugate's domain")
        y, base = self.y - base * self.uses_error, base * (not self.uses_error)
        terms = u * base - self.conjugate(y, u)
        sizes = np.abs(terms) + np.abs(u) * (np.abs(base) + np.abs(y) + 1)
        found, size = ((self.weight @ each).sum() for each in (terms, sizes))
        found, size = found + penalty, size + penalty + self.fits_means
        same(label + "dual value", dual["value"], found, size)
        along = basis.adjoint(u)
        residual = norm(along + tilt if row["tilted"] else along)
        size = self.size(u) * basis.length * np.sqrt(len(along)) + norm(tilt)
        same(label + "dual residual", dual["residual"], residual, size)
        bound = dual["value"] - budget * dual["residual"]
        same(label + "dual bound", dual["bound"], bound)
        same(label + "lower_bound", row["lower_bound"], min(bound, *caps))
        # Doubles round p log p near p = 1 to a unit in the last place.
        proven = found - budget * residual + EPS * self.fits_means
        require(bound <= proven, f"{label}dual: claimed {bound}, proven {proven}")

    def verdict(self, linear, decisive):
        """Check that the verdict is the first that holds."""
        c, convex, arrays = self.claims, self.tangent, self.arrays
        excess, last = c["loss"] - convex["value"], self.table[-1]
        if last["tilted"]:
            convex, excess = last, c["objective"] - last["lower_bound"]
        rows = [convex] if linear == "parameters" else []
        rows += [row for row in self.table if [row["basis"], linear] == ["inputs"] * 2]
        bound = max([c["floor"], *[row["lower_bound"] for row in rows]])
        possible = ["consistent_with_local_min", "not_local_min"]
        if c["objective"] - bound <= c["tolerance"]:
            possible = ["certified_global"]
        elif excess > c["tolerance"]:
            # At a kink, or by very long coefficients alone, a gain is no evidence.
            possible = ["not_critical"] + possible * (not decisive)
        line = f"verdict: claimed {c['verdict']}, found {' or '.join(possible)}"
        require(c["verdict"] in possible, line)
        same("escape", c["verdict"] == "not_local_min", "escape_raw" in arrays)
        if "escape_raw" in arrays:
            value, size = self.mean_loss(arrays["escape_raw"].astype(REAL))
            value += self.penalty @ arrays["escape_theta"].astype(REAL) ** 2
            same("escape_objective", c["escape_objective"], value, size + value)
            require(value < c["objective"], "escape_objective: not below the objective")


def load(certificate, evidence):
    """Read both files, and check their digests."""
    with open(certificate, encoding="utf-8") as file:
        document = json.load(file)
    line = f"{certificate} must be the text of Certificate.to_json"
    require(document.get("format") == "sklearn_pgb certificate", line)
    line = "version must be 1, got {version!r}. Use the release that wrote the file"
    require(document["version"] == 1, line.format(**document))
    claimed, text = document.pop("digest", None), json.dumps(document, sort_keys=True)
    same("digest", claimed, hashlib.sha256(text.encode()).hexdigest())
    with np.load(evidence) as file:
        arrays, digests = dict(file), document["evidence"]
    for name in sorted({*arrays, *digests}):
        array = arrays.get(name, np.zeros(0))
        content = f"{array.dtype.str} {array.shape} ".encode() + array.tobytes()
        line = f"evidence {name!r}: changed, or that of another certificate"
        require(hashlib.sha256(content).hexdigest() == digests.get(name), line)
    return document, arrays


def check(*paths):
    """Return "holds", or the first line that fails."""
    try:
        require(np.finfo(REAL).eps < EPS / 1000, "needs a long double of 80 bits")
        with np.errstate(all="ignore"):
            Checker(*load(*paths))
    except AssertionError as failure:
        return f"fails: {failure}"
    except Exception as failure:
        kind = type(failure).__name__
        return f"fails: a part is missing or has the wrong form ({kind}: {failure})"
    return "holds"


if __name__ == "__main__":
    print(line := check(*sys.argv[1:]) if len(sys.argv) == 3 else __doc__)
    sys.exit(line != "holds")
