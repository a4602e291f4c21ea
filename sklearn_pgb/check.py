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


class Fails(Exception):
    """A claim that does not hold."""


class Unusable(Exception):
    """Files that can't be checked."""


def require(holds, line):
    """Raise `Fails` with this line unless the claim holds."""
    if not holds:
        raise Fails(line)


def close(name, claimed, found, margin=0.0):
    """Require a number to be the recomputed one, up to the rounding of doubles."""
    a, b = REAL("nan" if claimed is None else claimed), REAL(found)
    require(a == b or abs(a - b) <= margin, f"{name}: claimed {a:.17g}, found {b:.17g}")


def same(name, claimed, found):
    """Require two values to be equal, and both or neither of them true or false."""
    equal = claimed == found and isinstance(claimed, bool) == isinstance(found, bool)
    require(equal, f"{name}: claimed {claimed!r}, found {found!r}")


class Loss:
    """Values, derivatives and conjugates of a loss of each sample."""

    def __init__(self, name, delta=1.0, power=2.0, label_smoothing=0.0):
        self.name, d, s = name, REAL(delta), REAL(power)
        if name == "squared_error":
            name, d = "huber", REAL("inf")
        clip = lambda r: np.clip(r, -d, d)
        gap = lambda y, q: np.maximum(0, 1 - y * q)
        log = lambda p: np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), REAL(0))
        soft = lambda q: np.exp(q - q.max(1, keepdims=True))
        share = lambda p: p / np.maximum(p.sum(1, keepdims=True), 1e-300)
        # For each loss: the loss, its derivative, its conjugate, and a projection on the
        # conjugate's domain, which removes what rounding has moved out of it.
        known = {
            "huber": (
                lambda y, q: clip(q - y) * (2 * (q - y) - clip(q - y)),
                lambda y, q: 2 * clip(q - y),
                lambda y, u: u * y + u**2 / 4,
                lambda y, u: 2 * clip(u / 2),
            ),
            "poisson": (
                lambda y, q: np.exp(q) - y * q,
                lambda y, q: np.exp(q) - y,
                lambda y, u: log(np.maximum(u + y, 0)) - np.maximum(u + y, 0),
                lambda y, u: np.maximum(u, -y),
            ),
            "log_loss": (
                lambda y, q: -y * (q - q.max(1, keepdims=True) - np.log(soft(q).sum(1)[:, None])),
                lambda y, q: share(soft(q)) - y,
                lambda y, u: log(u + y),
                lambda y, u: share(np.clip(u + y, 0, 1)) - y,
            ),
            "binary_log_loss": (
                lambda y, q: y * np.logaddexp(0, -q) + (1 - y) * np.logaddexp(0, q),
                lambda y, q: (1 - y) / (1 + np.exp(-q)) - y / (1 + np.exp(q)),
                lambda y, u: log(u + y) + log(1 - u - y),
                lambda y, u: np.clip(u, -y, 1 - y),
            ),
            "smoothed_hinge": (
                lambda y, q: gap(y, q) ** s,
                lambda y, q: -s * y * gap(y, q) ** (s - 1),
                lambda y, u: u * y + (s - 1) * np.abs(u / s) ** (s / (s - 1)),
                lambda y, u: -np.maximum(-u * y, 0) * y,
            ),
        }
        require(name in known, f"loss: {name!r} is not known")
        value, self.gradient, conjugate, self.into_domain = known[name]
        self.value = lambda y, q: value(y, q).sum(1)
        self.conjugate = lambda y, u: conjugate(y, u).sum(1)

    def pooled(self, y, weight, group):
        """Return the smallest loss of functions of the group, and if it is attained."""
        add = lambda rows: np.stack([rows[group == g].sum(0) for g in range(n)])
        n, rows = group.max() + 1, weight[:, None]
        if n == len(y):
            order = np.argsort(group)
            add = lambda rows: rows[order]
        low, high = np.full((n, y.shape[1]), np.inf), np.full((n, y.shape[1]), -np.inf)
        low, high = low.astype(REAL), high.astype(REAL)
        np.minimum.at(low, group, y)
        np.maximum.at(high, group, y)
        if self.name in ("poisson", "log_loss", "binary_log_loss"):
            # The smallest loss at the mean target; the infimum of a loss is -l*(0).
            mean = np.clip(add(rows * y) / add(rows), low, high)
            inside = (mean > 0) & ((self.name == "poisson") | (mean < 1))
            value = -add(rows)[:, 0] @ self.conjugate(mean, 0 * mean)
            return value, bool(inside.all())
        for _ in range(80 if (low < high).any() else 1):
            q = (low + high) / 2
            slope = add(rows * self.gradient(y, q[group]))
            low, high = np.where(slope <= 0, q, low), np.where(slope >= 0, q, high)
        return weight @ self.value(y, q[group]), True


class Basis:
    """Centered columns of norm one, ``(F - m) / D``, and an intercept."""

    def __init__(self, features, weight, y, intercept):
        self.features, self.weight, self.intercept = features, weight, intercept
        n, q, p = features.shape
        self.width, self.n_free = y.shape[1] // q, q * intercept
        self.mean, self.scale = np.zeros((q, p), REAL), np.ones(p, REAL)
        squares = lambda: np.sqrt(sum((w * b**2).sum((0, 1)) for b, w in self.blocks()))
        self.plain = squares()
        for _ in range(2 * intercept):
            self.mean = self.mean + sum((w * b).sum(0) for b, w in self.blocks())
        norm = squares()
        scale = np.where(norm > 8 * EPS * self.plain, norm, self.plain)
        self.scale = np.where(scale > 0, scale, 1)
        # Relative errors of centered columns in doubles, and of our sums in blocks.
        self.cancel = 1 + np.sqrt(((self.plain / self.scale) ** 2).sum() + self.n_free)
        self.own = np.finfo(REAL).eps * (128 + n // 128 + 16)

    def blocks(self):
        """Yield centered and scaled rows, with their weights."""
        for start in range(0, len(self.features), 128):
            part = slice(start, start + 128)
            rows = (self.features[part].astype(REAL) - self.mean) / self.scale
            yield rows, self.weight[part, None, None]

    def outputs(self, beta):
        """Outputs at the coordinates beta."""
        center, rest = beta[: self.n_free].reshape(-1), beta[self.n_free :]
        parts = [(b @ rest).reshape(len(b), -1) for b, _ in self.blocks()]
        return np.concatenate(parts) + (center if self.intercept else 0)

    def adjoint(self, u):
        """``D^-1 (F - m)^T W u`` below ``sum w u``, and a bound on its rounding."""
        rest = size = REAL(0)
        for i, (b, w) in enumerate(self.blocks()):
            rows = w * u[128 * i :][: len(b)].reshape(len(b), b.shape[1], self.width)
            flat, rows = b.reshape(-1, b.shape[2]).T, rows.reshape(-1, self.width)
            rest, size = rest + flat @ rows, size + np.abs(flat) @ np.abs(rows)
        center = (self.weight @ u) if self.intercept else np.zeros(0, REAL)
        return np.concatenate([center, rest.ravel()]), self.own * np.sqrt((size**2).sum())

    def spectrum(self):
        """Left singular vectors and singular values, in double precision."""
        rows = np.concatenate([np.sqrt(w) * b for b, w in self.blocks()])
        root = np.sqrt(self.weight)[:, None, None] * np.eye(self.n_free)
        parts = [root, rows] if self.n_free else [rows]
        matrix = np.concatenate(parts, 2).reshape(-1, self.n_free + rows.shape[2])
        return np.linalg.svd(matrix.astype(np.float64), full_matrices=False)[:2]


class Checker:
    """Recompute the claims of one certificate."""

    def __init__(self, document, arrays):
        self.claims, self.tol = document["claims"], float(document["tol"])
        self.loss, self.arrays = Loss(**document["loss"]), arrays
        self.assumed, self.head = document["assumptions"], document["head"]
        self.table = {row["basis"]: row for row in document["table"]}
        self.y, self.weight, self.raw, self.theta, self.penalty = (
            arrays[name].astype(REAL) for name in "y weight raw theta penalty".split()
        )
        self.quadratic = document["loss"]["name"] == "squared_error"
        self.bases = {
            name: Basis(arrays[f"features_{i}"], self.weight, self.y, row["intercept"])
            for i, (name, row) in enumerate([*self.table.items()])
        }

    def run(self):
        """Check all claims."""
        self.numbers()
        self.gradient()
        for name, row in self.table.items():
            self.row(name, row, self.bases[name])
        if self.head is not None:
            basis = Basis(self.arrays["features_head"], self.weight, self.y, False)
            self.row("head", self.head, basis)
        if "tilted" in self.claims:
            self.tilted(self.claims["tilted"])
        self.verdict()

    def mean_loss(self, q):
        """Mean loss at given outputs, and how far doubles may round it."""
        terms, slope = self.loss.value(self.y, q), self.loss.gradient(self.y, q)
        size = np.abs(terms) + np.abs(slope * q).sum(1)
        if self.loss.name not in ("squared_error", "huber"):
            size = size + np.abs(self.y * q).sum(1)
        return self.weight @ terms, 64 * EPS * (self.weight @ size)

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
        minima = -self.loss.conjugate(y, 0 * y)
        self.trivial, size = weight @ minima, weight @ np.abs(minima) + abs(constant)
        close("floor", c["floor"], floor, 64 * EPS * size)
        same("floor_attained", c["floor_attained"], attained)
        reference = constant - floor
        if (y == y[:1]).all():
            silent = weight @ self.loss.value(y, 0 * y)
            reference, size = silent - floor, size + abs(silent)
            reference = reference if reference > 64 * EPS * size else REAL(1)
        found = self.tol * max(reference, REAL(0))
        close("tolerance", c["tolerance"], found, 64 * EPS * (size + found))
        self.minima_attained = self.loss.pooled(y, weight, np.arange(len(y)))[1]

    def gradient(self):
        """Check the derivatives of the objective, and what follows from them."""
        c, row, basis = self.claims, self.table["gradient"], self.bases["gradient"]
        self.dual = self.loss.gradient(self.y, self.raw)
        self.tilt = 2 * self.penalty * self.theta
        self.slope = basis.adjoint(self.dual)[0] * basis.scale + self.tilt
        norms = np.sqrt((basis.features.astype(REAL) ** 2).sum(2))
        sizes = (np.abs(self.dual) * norms).sum(1)
        self.rounding = 1e-13 * (self.weight @ sizes + np.sqrt((self.tilt**2).sum()))
        norm = np.sqrt((self.slope**2).sum())
        close("gradient_norm", c["gradient_norm"], norm, self.rounding)
        same("gap", c["gap"], max(c["loss"] - row["lower_bound"], 0.0))
        distance = float("inf" if row["attained"] is False else row["norm"])
        distance = c["tilted"]["norm_budget"] if "tilted" in c else distance
        found = c["gradient_norm"] * distance if c["gradient_norm"] else 0.0
        same("gap_bound", float(c["gap_bound"]), found)

    def row(self, name, row, basis):
        """Check the bounds on one basis: at its coefficients and its dual point."""
        (n, k), y, weight, loss = self.y.shape, self.y, self.weight, self.loss
        label, budget = f"table row {name!r}, ", float(row["norm_budget"])
        columns = basis.features.shape[2]
        same(label + "n_coef", row["n_coef"], columns * basis.width + k * row["intercept"])
        base = self.raw if row["on_network"] else 0 * self.raw
        if self.quadratic and row["factored"] and row["intercept"]:
            base = base + weight @ (y - base) / weight.sum()
        beta = np.array(row["coordinates"], REAL).reshape(-1, basis.width)
        norm = np.sqrt((beta**2).sum())
        close(label + "norm", row["norm"], norm, 16 * EPS * norm)
        q = base + basis.outputs(beta)
        value, margin = self.mean_loss(q)
        # Outputs of long coefficients are rounded.
        error, slope = 16 * EPS * norm * basis.cancel, loss.gradient(y, q)
        margin += 1e-12 * abs(value) + 4 * error**2
        margin += error * np.sqrt(weight @ (slope**2).sum(1))
        if row["value"] < value - margin and self.has_rays(row):
            scaled = [self.mean_loss(2**i * q)[0] for i in range(24)]
            value = min(each for each in scaled if not np.isnan(each))
        close(label + "value", row["value"], value, margin)
        same(label + "excess", row["excess"], self.claims["loss"] - row["value"])
        attained, slack = self.minima_attained, np.minimum(slope + y, 2 - slope - y)
        if loss.name in ("log_loss", "binary_log_loss"):
            slack = np.minimum(slack, 1 - slope - y)
        if not attained and value - self.trivial > 1e-10:
            # Whether the solver had converged can't be seen in its solution.
            attained = True if row["attained"] and slack.min() > 1e-9 else None
        same(label + "attained", row["attained"], attained)
        floor = self.trivial if name == "head" else REAL(self.claims["floor"])
        caps = [row["value"]]
        if name in ("gradient", "perturbed gradient"):
            caps.append(self.claims["loss"])
        if row["dual"] is None:
            same(label + "norm_budget", budget, float("inf"))
            found = min([max(floor, self.trivial), *map(REAL, caps)])
            size = abs(found) + weight @ np.abs(loss.conjugate(y, 0 * y))
            close(label + "lower_bound", row["lower_bound"], found, 64 * EPS * size)
        else:
            self.proof(label, row, basis, base)
            found = row["dual_value"] - budget * row["dual_residual"]
            same(label + "lower_bound", row["lower_bound"], min(found, *caps))
        self.spectrum(label, row, basis, base)

    def has_rays(self, row):
        """Whether multiples of all outputs can be represented."""
        if not row["on_network"]:
            return True
        basis = self.bases["gradient"]
        span = self.arrays["span"].astype(REAL)[:, None] * basis.scale[:, None]
        error = basis.outputs(span) - self.raw
        return (error**2).sum() <= 1e-16 * (self.raw**2).sum()

    def proof(self, label, row, basis, base):
        """Check the two numbers of a dual point, rounded in the safe direction."""
        point = np.array(row["dual"], REAL)
        u = self.loss.into_domain(self.y, point)
        off = np.abs(u - point).max() <= 1e-11 * (1 + np.abs(u).max())
        require(off, label + "dual: outside of the conjugate's domain")
        y, base = (self.y - base, 0) if self.quadratic else (self.y, base)
        terms = (u * base).sum(1) - self.loss.conjugate(y, u)
        found = self.weight @ terms
        size = np.abs(terms) + np.abs(u * base).sum(1) + np.abs(u * y).sum(1)
        size = self.weight @ (size + np.abs(u).sum(1))
        own = 4 * basis.own * size
        vector, rounding = basis.adjoint(u)
        norm, length = np.sqrt((vector**2).sum()), np.sqrt(self.weight @ (u**2).sum(1))
        above = f"claimed {row['dual_value']:.17g}, proven {found - own:.17g}"
        require(row["dual_value"] <= found - own, label + "dual_value: " + above)
        below = f"claimed {row['dual_residual']:.17g}, proven {norm + rounding:.17g}"
        require(row["dual_residual"] >= norm + rounding, label + "dual_residual: " + below)
        # Not safer than rounding makes it, or the bound would not be this row's best.
        close(label + "dual_value", row["dual_value"], found, 64 * EPS * size)
        margin = 16 * EPS * length * basis.cancel * np.sqrt(basis.features.shape[2] + 1)
        close(label + "dual_residual", row["dual_residual"], norm, margin)

    def spectrum(self, label, row, basis, base):
        """Check the rank, and the loss of coefficients that are not very long."""
        require(row["steady"] >= row["value"], label + "steady: below the value")
        if not row["factored"]:
            same(label + "rank", row["rank"], None)
            return
        U, s = basis.spectrum()
        cutoff, top = max(len(U), basis.n_free + len(basis.scale)), s.max(initial=0.0)
        counts = [(s > EPS * (cutoff + side) * top).sum() for side in (8, -0.9)]
        least, most = (int(count) * basis.width for count in counts)
        inside = type(row["rank"]) is int and least <= row["rank"] <= most
        require(inside, f"{label}rank: claimed {row['rank']}, found {least} to {most}")
        leading = s > 1e-10 * top
        if row is self.table["gradient"]:
            found = int(leading.sum()) * basis.width
            same("rank", self.claims["rank"], found)
        if self.quadratic:
            t = np.sqrt(self.weight)[:, None] * (self.y - base)
            t = (t if basis.width > 1 else t.reshape(-1, 1)).astype(np.float64)
            rest = t - U[:, leading] @ (U[:, leading].T @ t)
            close(label + "steady", row["steady"], (rest**2).sum(), 1e-9 * (t**2).sum())

    def tilted(self, t):
        """Check the bounds on the problem that is tilted by the penalty's gradient."""
        c, basis, budget = self.claims, self.bases["gradient"], t["norm_budget"]
        same("tilted.objective", t["objective"], c["objective"])
        same("tilted.gap", t["gap"], t["objective"] - t["lower_bound"])
        row, length = self.table["gradient"], np.sqrt((self.tilt**2).sum())
        plain = c["loss"] - max(c["floor"], row["lower_bound"])
        close("tilted.plain_gap", t["plain_gap"], max(plain, 0.0), 64 * EPS * abs(c["loss"]))
        change = np.array(t["change"], REAL)
        norm = np.sqrt((change**2).sum())
        require(norm <= budget * (1 + 1e-12), "tilted.change: longer than the norm budget")
        q = self.raw + basis.outputs((change * basis.scale).reshape(-1, basis.width))
        value, margin = self.mean_loss(q)
        value += self.tilt @ change + c["penalty"]
        margin += 1e-12 * abs(value)
        close("tilted.value", t["value"], value, margin)
        covered, bound = float(row["norm_budget"]), c["floor"]
        if np.isinf(covered) or row["factored"] and budget * basis.scale.max() <= covered:
            bound = max(bound, row["lower_bound"])
        bounds = [bound + c["penalty"] - budget * length]
        for dual in [self.dual, *([] if t["dual"] is None else [t["dual"]])]:
            u = self.loss.into_domain(self.y, np.array(dual, REAL))
            along = basis.adjoint(u)[0] * basis.scale + self.tilt
            terms = (u * self.raw).sum(1) - self.loss.conjugate(self.y, u)
            residual = np.sqrt((along**2).sum())
            bounds.append(self.weight @ terms + c["penalty"] - budget * residual)
        found = min(max(bounds), t["value"])
        margin = budget * self.rounding + 1e-9 * abs(found)
        close("tilted.lower_bound", t["lower_bound"], found, margin)
        if t["unbounded"] is not None:
            relative = (self.tilt / basis.scale).astype(np.float64)
            rows = np.concatenate([np.sqrt(w) * b for b, w in basis.blocks()])
            _, s, V = np.linalg.svd(rows.reshape(-1, len(relative)).astype(float), False)
            V = V[s > 1e-10 * s.max(initial=0.0)]
            outside = np.linalg.norm(relative - V.T @ (V @ relative))
            found = bool(outside > 1e-8 * np.linalg.norm(relative))
            same("tilted.unbounded", t["unbounded"], found)

    def verdict(self):
        """Check that the verdict is the first that holds."""
        c, linear, floor = self.claims, self.assumed["linear"], self.claims["floor"]
        bound, tilted = floor, c.get("tilted")
        if linear == "parameters":
            bound = max(floor, (tilted or self.table["gradient"])["lower_bound"])
        elif linear == "inputs":
            bound = max(floor, self.table["inputs"]["lower_bound"])
        if c["objective"] - bound <= c["tolerance"]:
            found = "certified_global"
        elif self.is_not_critical():
            found = "not_critical"
        elif "escape_raw" in self.arrays:
            theta, raw = (self.arrays[f"escape_{n}"].astype(REAL) for n in ("theta", "raw"))
            value, margin = self.mean_loss(raw)
            value += self.penalty @ theta**2
            close("escape_objective", c["escape_objective"], value, margin)
            require(value < c["objective"], "escape_objective: not below the objective")
            found = "not_local_min"
        else:
            found = "consistent_with_local_min"
        same("verdict", c["verdict"], found)

    def is_not_critical(self):
        """Whether some derivative of the objective is not zero."""
        c, basis, tolerance = self.claims, self.bases["gradient"], self.claims["tolerance"]
        relative, tilt = self.slope / basis.scale, self.tilt / basis.scale
        norm = lambda x: np.sqrt((x**2).sum())
        size = np.sqrt(self.weight @ (self.dual**2).sum(1)) * np.sqrt(REAL(len(tilt)))
        if not norm(relative) > 1e-14 * (size + norm(tilt)):
            return False
        if not self.assumed["smooth"]:
            if self.head is not None:
                return c["loss"] - self.head["value"] > tolerance
            used = self.arrays.get("span", 0 * self.theta) != 0
            budget = c["tilted"]["norm_budget"] if "tilted" in c else 0.0
            return budget * norm(self.slope[used]) > tolerance
        largest = np.where(np.abs(relative) == np.abs(relative).max(), relative, 0)
        for part in (relative, largest):
            step = -part / norm(part)
            change = basis.outputs(step.reshape(-1, basis.width))
            step = step / basis.scale
            for t in 2.0 ** np.arange(-60, 61):
                value = self.mean_loss(self.raw + t * change)[0] + t * (self.tilt @ step)
                value += t * t * (self.penalty @ step**2)
                if c["loss"] - value > tolerance:
                    return True
        if "tilted" in c:
            return c["tilted"]["gap"] > tolerance
        return c["loss"] - self.table["gradient"]["steady"] > tolerance


def digest(array):
    """Return the SHA-256 of an array's type, shape and entries."""
    head = f"{array.dtype.str} {array.shape} "
    return hashlib.sha256(head.encode() + array.tobytes()).hexdigest()


def load(certificate, evidence):
    """Read both files, and check their digests."""
    try:
        with open(certificate, encoding="utf-8") as file:
            document = json.load(file)
        with np.load(evidence) as file:
            arrays = dict(file)
    except (OSError, ValueError) as failure:
        raise Unusable(str(failure)) from failure
    if not isinstance(document, dict) or document.get("format") != "sklearn_pgb certificate":
        raise Unusable(f"{certificate} must be the text of Certificate.to_json")
    if document.get("version") != 1:
        raise Unusable(
            f"version must be 1, got {document.get('version')!r}. Check the certificate "
            "with the release of sklearn_pgb that wrote it."
        )
    claimed = document.pop("digest", None)
    text = json.dumps(document, sort_keys=True)
    same("digest", claimed, hashlib.sha256(text.encode()).hexdigest())
    found = {name: digest(array) for name, array in arrays.items()}
    for name in sorted({*found, *document["evidence"]}):
        line = f"evidence {name!r} was changed, or is that of another certificate"
        require(found.get(name) == document["evidence"].get(name), line)
    return document, arrays


def main(paths):
    """Check the files and return the exit status."""
    try:
        if len(paths) != 2:
            raise Unusable("usage: python -m sklearn_pgb.check CERTIFICATE EVIDENCE")
        with np.errstate(all="ignore"):
            Checker(*load(*paths)).run()
    except Unusable as failure:
        print(failure)
        return 2
    except Fails as failure:
        print(f"fails: {failure}")
        return 1
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as failure:
        print(f"fails: a part is missing or has the wrong form ({failure!r})")
        return 1
    print("holds")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
