"""Check a certificate: ``python -m sklearn_pgb.check CERTIFICATE.json EVIDENCE.npz``.

Recomputes all claims in extended precision; prints "holds", or the first that fails.
"""

import hashlib
import json
import sys

import numpy as np

REAL, EPS, norm = np.longdouble, np.finfo(np.float64).eps, np.linalg.norm


def require(holds, line):
    """Fail with this line unless the claim holds."""
    if not holds:
        raise AssertionError(line)


def same(name, claimed, found, size=0.0):
    """Require two values to agree, up to the rounding of doubles of this size."""
    near = claimed == found or (size and abs(REAL(claimed) - found) <= 1e-13 * size)
    require(near, f"{name}: claimed {claimed}, found {found}")


def formulas(name, delta=np.inf, power=2.0, label_smoothing=0.0):
    """Return loss and slope at outputs q, conjugate and nearest point at duals u."""
    require(power > 1 and delta > 0, "loss: its parameters are out of range")
    s, t, add = REAL(power), REAL(power) / (REAL(power) - 1), np.logaddexp.reduce
    # The entropy is zero at rounded zeros, and nan if p is negative.
    (entropy,) = (lambda p: p * np.log(np.where((p > 0) | (p < -1e-17), p, 1)),)
    errors = (
        lambda y, q: (2 * (q - y) - (clip := np.clip(q - y, -delta, delta))) * clip,
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
        lambda y, q: (1 - y) / (1 + np.exp(-q)) - y / (1 + np.exp(q)),
        lambda y, u: entropy(u + y) + entropy(1 - y - u),
        lambda y, u: np.clip(u, -y, 1 - y),
    )
    classes = (
        lambda y, q: y * (add(q, 1)[:, None] - q),
        lambda y, q: np.exp(q - add(q, 1)[:, None]) - y,
        lambda y, u: entropy(u + y),
        # Divides p = u + y by its sum, with all digits of small u.
        lambda y, u: (u - y * u.sum(1, keepdims=True)) / (1 + u.sum(1, keepdims=True)),
    )
    names = "squared_error huber smoothed_hinge poisson binary_log_loss log_loss"
    return (errors, errors, hinge, poisson, binary, classes)[names.split().index(name)]


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
        self.unit = {"squared_error": np.inf, "smoothed_hinge": -1}.get(loss["name"], 1)
        self.unit, self.kind = loss.get("delta", self.unit), loss["name"]
        self.uses_error = loss["name"] in ("squared_error", "huber")
        self.fits_means = not self.uses_error and loss["name"] != "smoothed_hinge"
        self.arrays, real = arrays, [arrays[name].astype(REAL) for name in names]
        self.y, self.weight, self.raw, self.theta, self.penalty = real
        self.tilt = 2 * self.penalty * self.theta
        self.numbers(document["tol"])
        own = "tilted gradient", "gradient", "perturbed gradient"
        for row in self.table:
            row["tilted"], row["on_network"] = (b := row["basis"]) == own[0], b in own
            self.row(f"row {row['basis']!r}, ", row)
        self.verdict(document["convex"], **document["assumptions"])

    def mean_loss(self, q, error=0.0):
        """Return the mean loss, and its size if outputs are off by 1e-13 `error`."""
        terms, slope = self.value(self.y, q), self.slope(self.y, q)
        sizes = np.abs(terms) + np.abs(slope * q) + np.abs(self.y * q) * self.fits_means
        size = self.weight @ sizes.sum(1) + EPS * error**2
        size += error * (norm(slope) + self.fits_means)
        return self.weight @ terms.sum(1), size

    def pooled(self, group):
        """Return the smallest loss of functions that are constant on groups."""
        order, add = np.argsort(group, kind="stable"), np.add.reduceat
        y, group, starts = self.y[order], *np.unique(group[order], True, True)[2:0:-1]
        rows = self.weight[order, None] + 0 * y
        if self.fits_means:
            # It is that of the mean target, and the infimum of a loss is -l*(0).
            mean = add(rows * y, starts) / (total := add(rows, starts))
            return -(total * self.conjugate(mean, 0 * mean)).sum()
        low, high = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
        for _ in range(80):
            q = (low + high) / 2
            slope = add(rows * self.slope(y, q[group]), starts)
            low, high = np.where(slope <= 0, q, low), np.where(slope >= 0, q, high)
        return (rows * self.value(y, q[group])).sum()

    def numbers(self, tol):
        """Check the claims about the network's objective, the floor and tolerance."""
        c, y, weight = self.claims, self.y, self.weight
        require((weight > 0).all() and abs(weight.sum() - 1) < 1e-12, "weight: invalid")
        same("loss", c["loss"], *self.mean_loss(self.raw))
        same("penalty", c["penalty"], p := self.penalty @ self.theta**2, p)
        same("objective", c["objective"], c["loss"] + c["penalty"])
        group = np.unique(self.arrays["X"], axis=0, return_inverse=True)[1].reshape(-1)
        floor, constant = self.pooled(group), self.pooled(0 * group)
        # If all constants are as good as the floor, compare with outputs of zero.
        silent = (weight @ self.value(y, 0 * y)).sum()
        silent = silent if silent - floor > 1e-14 * abs(silent) else floor + 1
        scale = silent if (y == y[0]).all() else constant
        length = norm(np.sqrt(weight)[:, None] * y) * self.uses_error
        size = abs(constant) + abs(floor) + abs(scale) + self.fits_means
        size += length * (np.sqrt(abs(constant)) + EPS * length) / 10
        same("floor", c["floor"], floor, size)
        same("tolerance", c["tolerance"], tol * max(scale - floor, 0), size)

    def row(self, label, row):
        """Check the loss of the coefficients and the bound of a basis."""
        basis = Basis(self.arrays[row["features"]], self.weight, self.y, row)
        base = self.raw * row["on_network"] + np.array(row.get("center", 0), REAL)
        beta = np.array(row["coordinates"], REAL).ravel()
        same(label + "norm", row["norm"], norm(beta), norm(beta))
        rows = (basis.matrix @ beta.reshape(-1, basis.width)).reshape(self.y.shape)
        value, size = self.mean_loss(base + rows, norm(beta) * basis.length / 5)
        if row["tilted"]:
            value += self.tilt @ beta + self.claims["penalty"]
            size += np.abs(self.tilt) @ np.abs(beta) + self.claims["penalty"]
            require(row["norm"] <= row["norm_budget"] * (1 + 1e-12), label + "norm")
        same(label + "value", row["value"], value, size + 10 * abs(value))
        row["found"] = value
        self.bound(label, row, basis, base)
        if row["basis"] == "gradient":
            u = self.slope(self.y, self.raw)
            length = norm(basis.adjoint(u) * basis.scale + self.tilt)
            size = norm(u) + self.fits_means * (1 + norm(self.raw))
            size = size * norm(basis.scale) + norm(self.tilt)
            same("gradient_norm", self.claims["gradient_norm"], length, size)

    def bound(self, label, row, basis, base):
        """Check a lower bound, which is the floor or proven by a dual point."""
        budget, dual, c = float(row["norm_budget"]), row["dual"], self.claims
        tilt, penalty = (self.tilt, c["penalty"]) if row["tilted"] else (0.0, 0.0)
        caps = [row["value"], *[c["loss"] + penalty] * row["on_network"]]
        if dual is None:
            require(budget == np.inf and not row["tilted"], label + "dual: missing")
            low = min(c["floor"], *caps)
            return same(label + "lower_bound", row["lower_bound"], low, abs(low))
        u = self.into_domain(self.y, point := np.array(dual["point"], REAL))
        off = np.abs(u - point).max() <= 1e-11 * (1 + np.abs(u).max())
        require(off, label + "dual: outside of the conjugate's domain")
        shift = base * self.uses_error
        terms = u * (base - shift) - self.conjugate(self.y - shift, u)
        root, parts = np.sqrt(self.weight)[:, None], (terms, abs(terms))
        found, size = ((self.weight @ each).sum() + penalty for each in parts)
        # The norms bound sums of products, even if large factors have small weights.
        size += norm(root * u) * norm(root * (abs(base) + abs(self.y) + 1))
        same(label + "dual value", dual["value"], found, size + self.fits_means)
        along = basis.adjoint(u)
        length, residual = basis.length * np.sqrt(len(along)), norm(along + tilt)
        size = (norm(u) + self.fits_means) * length + norm(tilt)
        same(label + "dual residual", dual["residual"], residual, size)
        bound = dual["value"] - budget * dual["residual"]
        same(label + "lower_bound", row["lower_bound"], min(bound, *caps))
        # Long doubles round p = u + y to 1e-19.
        proven = found - budget * residual + EPS / 100 * self.fits_means
        require(bound <= proven, f"{label}dual: claimed {bound}, proven {proven}")

    def convex(self, claims, linear):
        """Check a bound on a convex objective F for coefficients of any norm.

        Its gradient is g, and its curvature at least ``|B e|^2`` if e changes no output
        by more than a unit / 1000. Then F falls by at most ``|B^-T g|^2 / 2``.
        """
        y, own, names = self.y, linear == "parameters", "features theta penalty".split()
        X, theta, a = (self.arrays["convex_" + name].astype(REAL) for name in names)
        p, gap = a @ theta**2, 1e-3 * self.claims["tolerance"]
        same("convex penalty", self.claims["penalty"] * own, p, p)
        q, end = self.raw * own + X @ (d := np.array(claims["coef"], REAL)), theta + d
        value, size = self.mean_loss(q, norm(norm(X, axis=(0, 1)) * d) * len(d))
        value, size = value + a @ end**2, size + a @ (abs(theta) + abs(d)) ** 2
        same("convex value", claims["value"], value, size + 10 * abs(value))
        u, p, classes = self.slope(y, q), self.slope(y, q) + y, self.kind == "log_loss"
        moved = X - classes * (p[:, :, None] * X).sum(1, keepdims=True)
        variance = 0.5 / (1 + np.cosh(q))
        curvature = {"log_loss": p, "poisson": p, "binary_log_loss": variance}
        curvature = curvature.get(self.kind, 2 * (abs(u) / 2 <= 0.999 * self.unit))
        rows = np.sqrt(0.998 * self.weight[:, None] * curvature)[:, :, None] * moved
        B = np.concatenate([rows.reshape(-1, len(d)), np.diag(np.sqrt(2 * a))])
        scale = np.maximum(norm(B, axis=0), 1e-300)
        _, s, V = np.linalg.svd(np.linalg.qr((B / scale).astype(float), "r"))
        exact = 1 - 8 * EPS * np.sqrt(B.size) / s[-1]
        g = np.tensordot(self.weight[:, None] * u, X) + 2 * a * end
        length = norm(V @ (g / scale) / s) / exact
        reach = norm((X / scale) @ (V.T / s), axis=(1, 2))[curvature.any(1)] / exact
        near = exact > 0.5 and 2 * length * reach.max(initial=0) <= 1e-3 * self.unit
        require(near and length**2 / 2 <= gap, "convex: the minimum is not proven")
        return claims["value"] - gap

    def verdict(self, convex, linear, decisive):
        """Check that the verdict is the first that holds."""
        c, arrays = self.claims, self.arrays
        values = {row["basis"]: row["found"] for row in self.table}
        best, bound = values["tilted " * any(self.penalty) + "gradient"], c["floor"]
        require(not convex or linear in ("parameters", "inputs"), "linear: missing")
        if convex:
            bound = max(bound, self.convex(convex, linear))
            best = min(best, convex["value"]) if linear == "parameters" else best
        possible = ["consistent_with_local_min", "not_local_min"]
        if c["objective"] - bound <= c["tolerance"]:
            possible = ["certified_global"]
        elif c["objective"] - best > c["tolerance"]:
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
    line = "version must be 2, got {version!r}. Use the release that wrote the file"
    require(document["version"] == 2, line.format(**document))
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
    except Exception as error:
        return f"fails: a part is missing or has the wrong form ({error!r})"
    return "holds"


if __name__ == "__main__":
    print(line := check(*sys.argv[1:]) if len(sys.argv) == 3 else __doc__)
    sys.exit(line != "holds" and sys.argv[1:] not in (["-h"], ["--help"]))
