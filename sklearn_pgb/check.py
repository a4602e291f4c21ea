"""Check a certificate: ``python -m sklearn_pgb.check CERTIFICATE.json EVIDENCE.npz``.

Recomputes every claim in long double and prints "holds", or the first line that fails.
The exit status is 0 if all claims hold, 1 if one fails, and 2 if the files can't be
checked. This file only needs NumPy, and shares no code with the rest of the package.
"""

import hashlib
import json
import sys

import numpy as np

REAL, EPS = np.longdouble, np.finfo(np.float64).eps


class Stop(Exception):
    """An exit status and the reason for it."""


def require(holds, line, status=1):
    """Stop with this line unless the claim holds."""
    if not holds:
        raise Stop(status, line)


def close(name, claimed, found, margin):
    """Require a number to be the recomputed one, up to the rounding of doubles."""
    near = claimed == found or abs(REAL(claimed) - found) <= margin
    require(near, f"{name}: claimed {claimed:.17g}, found {found:.17g}")


def same(name, claimed, found):
    """Require two values to be equal, and both or neither of them true or false."""
    equal = claimed == found and isinstance(claimed, bool) == isinstance(found, bool)
    require(equal, f"{name}: claimed {claimed!r}, found {found!r}")


def norm(x):
    """Return the Euclidean norm of all entries."""
    return np.sqrt((np.asarray(x, REAL) ** 2).sum())


def log(p):
    """Return ``p log p``, which is zero at zero."""
    return p * np.log(np.where(p > 0, p, 1))


class Loss:
    """A loss of each sample, its derivative and conjugate, and their domain."""

    def __init__(self, name, delta=np.inf, power=2.0, label_smoothing=0.0):
        require(power > 1 and delta > 0, "loss: its parameters are out of range")
        self.name, self.of_errors = name, name in ("squared_error", "huber")

        def clip(r):
            return np.clip(r, -REAL(delta), REAL(delta))

        def share(q):
            p = np.exp(q - q.max(1)[:, None])
            return p / p.sum(1)[:, None]

        def partition(q):
            p = np.exp(q - q.max(1)[:, None])
            return (q.max(1)[:, None] + np.log(p.sum(1))[:, None]) / q.shape[1]

        # Losses a(q) - y q: the function a, its derivative and conjugate at p = u + y,
        # and the nearest p of the domain. Rounding has moved some out of it.
        means = {
            "poisson": (np.exp, np.exp, lambda p: log(p) - p, lambda p: p),
            "binary_log_loss": (
                lambda q: np.logaddexp(0, q),
                lambda q: 1 / (1 + np.exp(-q)),
                lambda p: log(p) + log(1 - p),
                lambda p: np.minimum(p, 1),
            ),
            "log_loss": (partition, share, log, lambda p: p),
        }
        if self.of_errors:
            value = lambda y, q: clip(q - y) * (2 * (q - y) - clip(q - y))
            self.gradient = lambda y, q: 2 * clip(q - y)
            conjugate = lambda y, u: u * y + u**2 / 4
            self.into_domain = lambda y, u: 2 * clip(u / 2)
        elif name == "smoothed_hinge":
            s, t = REAL(power), REAL(power) / (REAL(power) - 1)
            value = lambda y, q: np.maximum(0, 1 - y * q) ** s
            self.gradient = lambda y, q: -s * y * np.maximum(0, 1 - y * q) ** (s - 1)
            conjugate = lambda y, u: u * y + (s - 1) * np.abs(u / s) ** t
            self.into_domain = lambda y, u: -np.maximum(-u * y, 0) * y
        else:
            require(name in means, f"loss: {name!r} is not known")
            a, mean, of_p, nearest = means[name]
            value = lambda y, q: a(q) - y * q
            self.gradient = lambda y, q: mean(q) - y
            conjugate = lambda y, u: of_p(u + y)
            self.into_domain = lambda y, u: nearest(np.maximum(u + y, 0)) - y
        if name == "log_loss":
            # The same as p / sum(p) - y, with all digits.
            total = lambda y, u: np.maximum(u, -y).sum(1)[:, None]
            self.into_domain = lambda y, u: (
                (np.maximum(u, -y) - y * total(y, u)) / (1 + total(y, u))
            )
        self.value = lambda y, q: value(y, q).sum(1)
        self.conjugate = lambda y, u: conjugate(y, u).sum(1)

    def pooled(self, y, weight, group):
        """Return the smallest loss of functions of the group, and if it is attained."""
        order = np.argsort(group, kind="stable")
        y, rows, group = y[order], weight[order, None], group[order]
        starts = np.flatnonzero(np.diff(group, prepend=-1))
        low, high = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
        if self.name in ("poisson", "log_loss", "binary_log_loss"):
            # That of the mean target; the infimum of a loss is -l*(0).
            total = np.add.reduceat(rows, starts)
            mean = np.clip(np.add.reduceat(rows * y, starts) / total, low, high)
            inside = (mean > 0) & ((self.name == "poisson") | (mean < 1))
            return -total[:, 0] @ self.conjugate(mean, 0 * mean), bool(inside.all())
        for _ in range(80):
            q = (low + high) / 2
            slope = np.add.reduceat(rows * self.gradient(y, q[group]), starts)
            low, high = np.where(slope <= 0, q, low), np.where(slope >= 0, q, high)
        return rows[:, 0] @ self.value(y, q[group]), True


class Basis:
    """Centered columns of norm one, ``(F - m) / D``, and an intercept."""

    def __init__(self, features, weight, y, intercept):
        self.features, self.weight, self.intercept = features, weight, intercept
        n, q, p = features.shape
        self.width, self.n_free = y.shape[1] // q, q * intercept
        self.mean, self.scale = np.zeros((q, p), REAL), np.ones(p, REAL)
        plain = np.sqrt(sum((w * b**2).sum((0, 1)) for b, w in self.blocks()))
        for _ in range(2 * intercept):
            self.mean = self.mean + sum((w * b).sum(0) for b, w in self.blocks())
        scale = np.sqrt(sum((w * b**2).sum((0, 1)) for b, w in self.blocks()))
        scale = np.where(scale > 8 * EPS * plain, scale, plain)
        self.scale = np.where(scale > 0, scale, 1)
        # Errors of centered columns in doubles, and of our own sums in blocks.
        self.cancel = np.sqrt(1 + self.n_free + ((plain / self.scale) ** 2).sum())
        self.own = np.finfo(REAL).eps * (144 + n // 128)

    def blocks(self):
        """Yield centered and scaled rows, with their weights."""
        for start in range(0, len(self.features), 128):
            part = slice(start, start + 128)
            rows = (self.features[part].astype(REAL) - self.mean) / self.scale
            yield rows, self.weight[part, None, None]

    def outputs(self, beta):
        """Outputs at the coordinates beta."""
        beta = np.array(beta, REAL).reshape(-1, self.width)
        center, rest = beta[: self.n_free], beta[self.n_free :]
        parts = [(b @ rest).reshape(len(b), -1) for b, _ in self.blocks()]
        return np.concatenate(parts) + (center.reshape(-1) if self.intercept else 0)

    def adjoint(self, u):
        """``D^-1 (F - m)^T W u`` below ``sum w u``, and a bound on its rounding."""
        rest = size = REAL(0)
        for i, (b, w) in enumerate(self.blocks()):
            rows = w * u[128 * i :][:128].reshape(*b.shape[:2], self.width)
            flat, rows = b.reshape(-1, b.shape[2]).T, rows.reshape(-1, self.width)
            rest, size = rest + flat @ rows, size + np.abs(flat) @ np.abs(rows)
        center = self.weight @ u if self.intercept else np.zeros(0, REAL)
        return np.concatenate([center, rest.ravel()]), self.own * norm(size)

    def singular_values(self):
        """Singular values relative to the largest, in double precision."""
        rows = np.concatenate([np.sqrt(w) * b for b, w in self.blocks()])
        center = np.sqrt(self.weight)[:, None, None] * np.eye(rows.shape[1])
        parts = [center, rows] if self.intercept else [rows]
        matrix = np.concatenate(parts, 2).reshape(rows.shape[0] * rows.shape[1], -1)
        s = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
        return s / max(s.max(initial=0), np.finfo(float).tiny)


class Checker:
    """Recompute the claims of one certificate."""

    def __init__(self, document, arrays):
        self.claims, self.table = document["claims"], document["table"]
        self.loss, self.assumed = Loss(**document["loss"]), document["assumptions"]
        self.tol, self.arrays = document["tol"], arrays
        real = [
            arrays[name].astype(REAL) for name in "y weight raw theta penalty".split()
        ]
        self.y, self.weight, self.raw, self.theta, self.penalty = real
        self.tilt = 2 * self.penalty * self.theta

    def run(self):
        """Check all claims."""
        self.numbers()
        for i, row in enumerate(self.table):
            features, with_center = self.arrays[f"features_{i}"], row["intercept"]
            basis = Basis(features, self.weight, self.y, with_center)
            self.row(f"row {row['basis']!r}, ", row, basis)
            if row["basis"] == "gradient":
                self.gradient(row, basis)
        self.verdict()

    def size(self, u):
        """Return the norm of weighted rows."""
        return np.sqrt(self.weight @ (u**2).sum(1))

    def mean_loss(self, q, error=0.0):
        """Mean loss at outputs with this error, and how far doubles may round it."""
        terms, slope = self.loss.value(self.y, q), self.loss.gradient(self.y, q)
        sizes = np.abs(slope * q) + np.abs(self.y * q) * (not self.loss.of_errors)
        margin = 64 * EPS * (self.weight @ (np.abs(terms) + sizes.sum(1)))
        return self.weight @ terms, margin + error * self.size(slope) + 4 * error**2

    def numbers(self):
        """Check the claims about the network's loss, the floor and the tolerance."""
        c, y, weight = self.claims, self.y, self.weight
        same("n_samples", c["n_samples"], len(y))
        same("n_params", c["n_params"], len(self.theta))
        require((weight > 0).all(), "weight: not positive")
        close("sum of weights", weight.sum(), 1, 1e-12)
        close("loss", c["loss"], *self.mean_loss(self.raw))
        penalty = self.penalty @ self.theta**2
        close("penalty", c["penalty"], penalty, 64 * EPS * penalty)
        same("objective", c["objective"], c["loss"] + c["penalty"])
        group = np.unique(self.arrays["X"], axis=0, return_inverse=True)[1].reshape(-1)
        floor, attained = self.loss.pooled(y, weight, group)
        constant = self.loss.pooled(y, weight, 0 * group)[0]
        self.trivial = self.loss.pooled(y, weight, np.arange(len(y)))[0]
        size = abs(constant) + abs(floor) + abs(self.trivial)
        close("floor", c["floor"], floor, 64 * EPS * size)
        same("floor_attained", c["floor_attained"], attained)
        reference = constant - floor
        if (y == y[:1]).all():
            silent = weight @ self.loss.value(y, 0 * y)
            reference, size = silent - floor, size + abs(silent)
            reference = reference if reference > 64 * EPS * size else REAL(1)
        margin = 64 * EPS * (size + self.tol * reference)
        close("tolerance", c["tolerance"], self.tol * max(reference, 0), margin)

    def row(self, label, row, basis):
        """Check the bounds on one basis: at its coefficients and its dual point."""
        (n, q, p), k, beta = basis.features.shape, self.y.shape[1], row["coordinates"]
        same(label + "n_coef", row["n_coef"], p * basis.width + k * row["intercept"])
        on_network = row["basis"] in ("gradient", "perturbed gradient")
        same(label + "on_network", row["on_network"], on_network)
        base = self.raw if on_network else 0 * self.raw
        if self.loss.name == "squared_error" and row["factored"] and row["intercept"]:
            base = base + self.weight @ (self.y - base) / self.weight.sum()
        close(label + "norm", row["norm"], norm(beta), 16 * EPS * norm(beta))
        # Outputs of long coefficients are rounded.
        error = 16 * EPS * norm(beta) * basis.cancel
        value, margin = self.mean_loss(base + basis.outputs(beta), error)
        close(label + "value", row["value"], value, margin + 1e-12 * abs(value))
        same(label + "excess", row["excess"], self.claims["loss"] - row["value"])
        caps = [row["value"], *[self.claims["loss"]] * on_network]
        if row["dual"] is None:
            names = "norm_budget dual_value dual_residual dual_bound".split()
            same(label + "bound", [row[n] for n in names], ["inf", None, None, None])
            found = min(max(REAL(self.claims["floor"]), self.trivial), *map(REAL, caps))
            margin = 64 * EPS * (abs(found) + abs(self.trivial))
            close(label + "lower_bound", row["lower_bound"], found, margin)
        else:
            self.proof(label, row, basis, base)
            found = row["dual_value"] - row["norm_budget"] * row["dual_residual"]
            same(label + "dual_bound", row["dual_bound"], found)
            same(label + "lower_bound", row["lower_bound"], min(found, *caps))
        if not row["factored"]:
            return same(label + "rank", row["rank"], None)
        s, cutoff = basis.singular_values(), EPS * max(n * q, p + basis.n_free)
        least, most = [
            (s > cutoff + side * EPS).sum() * basis.width for side in (8, -0.9)
        ]
        line = f"{label}rank: claimed {row['rank']}, found {least} to {most}"
        require(least <= row["rank"] <= most and type(row["rank"]) is int, line)

    def proof(self, label, row, basis, base):
        """Check the two numbers of a dual point, and that they prove the bound."""
        point, loss = np.array(row["dual"], REAL), self.loss
        u = loss.into_domain(self.y, point)
        off = np.abs(u - point).max() <= 1e-11 * (1 + np.abs(u).max())
        require(off, label + "dual: outside of the conjugate's domain")
        exact = loss.name == "squared_error"
        y, base = (self.y - base, 0 * base) if exact else (self.y, base)
        terms = (u * base).sum(1) - loss.conjugate(y, u)
        sizes = np.abs(terms) + (np.abs(u) * (np.abs(base) + np.abs(y) + 1)).sum(1)
        found, size = (self.weight * terms).sum(), (self.weight * sizes).sum()
        vector, own = basis.adjoint(u)
        # Probabilities are rounded relative to one.
        unit = REAL(not loss.of_errors) / 4
        margin = (
            16 * EPS * (self.size(u) + unit) * basis.cancel * np.sqrt(row["n_coef"])
        )
        close(label + "dual_value", row["dual_value"], found, 64 * EPS * (size + unit))
        close(label + "dual_residual", row["dual_residual"], norm(vector), margin)
        # Both numbers together must be safe, including our own rounding. Doubles round
        # p log p near p = 1 to a unit in the last place.
        proven = found - 64 * np.finfo(REAL).eps * size + 4 * unit * EPS
        proven -= row["norm_budget"] * (norm(vector) + own)
        line = f"claimed {row['dual_bound']:.17g}, proven {proven:.17g}"
        require(row["dual_bound"] <= proven, label + "dual_bound: " + line)

    def gradient(self, row, basis):
        """Check the derivatives of the objective, and what follows from them."""
        c, self.tangent, u = self.claims, row, self.loss.gradient(self.y, self.raw)
        relative = basis.adjoint(u)[0] + self.tilt / basis.scale
        lengths = [np.sqrt(((b * basis.scale) ** 2).sum(2)) for b, _ in basis.blocks()]
        sizes = (np.abs(u) * np.concatenate(lengths)).sum(1)
        rounding = 2e-14 * (self.weight @ sizes + norm(self.tilt))
        slope = norm(relative * basis.scale)
        close("gradient_norm", c["gradient_norm"], slope, rounding)
        same("gap", c["gap"], max(c["loss"] - row["lower_bound"], 0.0))
        size = self.size(u) * np.sqrt(REAL(len(relative))) + norm(
            self.tilt / basis.scale
        )
        self.is_rounding, self.gain = not norm(relative) > 1e-14 * size, 0.0
        largest = np.where(np.abs(relative) == np.abs(relative).max(), relative, 0)
        for step in (-relative / norm(relative), -largest / norm(largest)):
            change, coef = basis.outputs(step), step / basis.scale
            for t in 2.0 ** np.arange(-60, 61):
                penalty = t * (self.tilt @ coef) + t**2 * (self.penalty @ coef**2)
                loss = self.mean_loss(self.raw + t * change)[0]
                self.gain = max(self.gain, c["loss"] - loss - penalty)
        self.is_steady = row["factored"] and row["rank"] == c["rank"]
        if row["factored"]:
            rank = int((basis.singular_values() > 1e-10).sum()) * basis.width
            same("rank", c["rank"], rank)
        if "tilted" in c:
            self.tilted(c["tilted"], row, basis, u, rounding)

    def tilted(self, t, row, basis, u, rounding):
        """Check the bounds on the problem that is tilted by the penalty's gradient."""
        c, change, budget = self.claims, np.array(t["change"], REAL), t["norm_budget"]
        same("tilted.objective", t["objective"], c["objective"])
        same("tilted.gap", t["gap"], t["objective"] - t["lower_bound"])
        require(norm(change) <= budget * (1 + 1e-12), "tilted.change: above the budget")
        beta = change * basis.scale
        error = 16 * EPS * norm(beta) * basis.cancel
        value, margin = self.mean_loss(self.raw + basis.outputs(beta), error)
        margin += 64 * EPS * (np.abs(self.tilt * change).sum() + c["penalty"])
        value += self.tilt @ change + c["penalty"]
        close("tilted.value", t["value"], value, margin)
        bound, covered = c["floor"], float(row["norm_budget"])
        longest = budget * basis.scale.max() if row["factored"] else np.inf
        if covered == np.inf or longest <= covered:
            bound = max(bound, row["lower_bound"])
        given = t["dual"] is not None
        u = self.loss.into_domain(self.y, np.array(t["dual"], REAL)) if given else u
        terms = (u * self.raw).sum(1) - self.loss.conjugate(self.y, u)
        along = basis.adjoint(u)[0] * basis.scale + self.tilt
        found = self.weight @ terms - budget * norm(along)
        if not given:
            found = max(found, bound - budget * norm(self.tilt))
        found = min(found + c["penalty"], t["value"])
        margin = budget * rounding + 1e-12 * abs(found)
        close("tilted.lower_bound", t["lower_bound"], found, margin)

    def verdict(self):
        """Check that the verdict is the first that holds."""
        c, linear, arrays = self.claims, self.assumed["linear"], self.arrays
        convex = c.get("tilted", self.tangent)
        rows = [convex] if linear == "parameters" else []
        rows += [row for row in self.table if [row["basis"], linear] == ["inputs"] * 2]
        bound = max([c["floor"], *[row["lower_bound"] for row in rows]])
        better = max(convex["gap" if "tilted" in c else "excess"], self.gain)
        possible = ["consistent_with_local_min", "not_local_min"]
        if c["objective"] - bound <= c["tolerance"]:
            possible = ["certified_global"]
        elif better > c["tolerance"] and not self.is_rounding:
            # At a kink, or by very long coefficients alone, a gain is no evidence.
            sure = self.assumed["smooth"] and ("tilted" in c or self.is_steady)
            possible = ["not_critical"] + possible * (not sure)
        line = f"verdict: claimed {c['verdict']!r}, found {' or '.join(possible)}"
        require(c["verdict"] in possible, line)
        same("escape", c["verdict"] == "not_local_min", "escape_raw" in arrays)
        if "escape_raw" in arrays:
            value, margin = self.mean_loss(arrays["escape_raw"].astype(REAL))
            value += self.penalty @ arrays["escape_theta"].astype(REAL) ** 2
            close("escape_objective", c["escape_objective"], value, margin)
            require(value < c["objective"], "escape_objective: not below the objective")


def load(certificate, evidence):
    """Read both files, and check their digests."""
    with open(certificate, encoding="utf-8") as file:
        document = json.load(file)
    with np.load(evidence) as file:
        arrays = dict(file)
    kind = document.get("format") if isinstance(document, dict) else None
    line = f"{certificate} must be the text of Certificate.to_json"
    require(kind == "sklearn_pgb certificate", line, 2)
    version, claimed = document.get("version"), document.pop("digest", None)
    line = f"version must be 1, got {version!r}. Use the release that wrote the file"
    require(version == 1, line, 2)
    text = json.dumps(document, sort_keys=True)
    same("digest", claimed, hashlib.sha256(text.encode()).hexdigest())
    for name in sorted({*arrays, *document["evidence"]}):
        array = arrays.get(name, np.zeros(0))
        head = f"{array.dtype.str} {array.shape} "
        found = hashlib.sha256(head.encode() + array.tobytes()).hexdigest()
        line = f"evidence {name!r}: changed, or that of another certificate"
        require(found == document["evidence"].get(name), line)
    return document, arrays


def main(paths):
    """Check the files and return the exit status."""
    try:
        require(len(paths) == 2, __doc__.splitlines()[0], 2)
        try:
            document, arrays = load(*paths)
        except (OSError, ValueError) as failure:
            raise Stop(2, f"can't be read: {failure}") from failure
        with np.errstate(all="ignore"):
            Checker(document, arrays).run()
    except Stop as stop:
        status, line = stop.args
        print(f"fails: {line}" if status == 1 else line)
        return status
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as failure:
        print(f"fails: a part is missing or has the wrong form ({failure!r})")
        return 1
    print("holds")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
