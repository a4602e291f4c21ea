"""A loss on a basis plus a quadratic function, and bounds that need no norm budget."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sklearn_pgb._budget import (
    CONVEX_RADIUS,
    DESCENT_FLOPS,
    DESCENT_STEPS,
    FACTOR_FLOPS,
    GRADIENT_ROUNDING,
    HESSIAN_ROOT_RTOL,
    LARGEST_INTEGER,
    MEAN_ULPS,
    NEWTON_FLOPS,
    QUADRATIC_STEPS,
    factorization_flops,
)
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._unit_basis import EPS, output_error, thin_svd
from sklearn_pgb._operators._dense import DenseOperator
from sklearn_pgb._training._polish import quasi_newton


@dataclass(frozen=True, eq=False)
class QuadraticProblem:
    """The loss of coefficients d plus a quadratic function of them.

    The objective is ::

        F(d) = sum_i w_i l_i(o_i + (Phi d)_i) + tilt . d + sum_j penalty_j d_j^2

    Attributes
    ----------
    problem : ConvexProblem
        Without intercept and alpha.
    tilt, penalty : Tensor (n_coef,)
        The penalty is not negative.
    """

    problem: ConvexProblem
    tilt: Tensor
    penalty: Tensor

    @classmethod
    def of_loss(cls, problem: ConvexProblem) -> "QuadraticProblem":
        """The loss alone, with the intercept as the last coefficients."""
        plain = replace(
            problem, operator=problem.augmented(), intercept=False, alpha=0.0
        )
        zeros = problem.weight.new_zeros(plain.operator.n_coef)
        return cls(plain, zeros, zeros)

    def zero(self) -> Tensor:
        """Coefficients of zero."""
        return torch.zeros_like(self.tilt)

    def raw(self, d: Tensor) -> Tensor:
        """Raw outputs."""
        return self.problem.base + self.problem.operator.matvec(d)

    def value(self, d: Tensor) -> float:
        """F at the coefficients, infinite if it overflows."""
        return self.value_and_gradient(d, with_gradient=False)[0]

    def value_and_gradient(
        self, d: Tensor, with_gradient: bool = True
    ) -> tuple[float, Tensor]:
        """F and its gradient."""
        problem, raw = self.problem, self.raw(d)
        value = float(problem.data_value(raw) + (self.tilt + self.penalty * d) @ d)
        value = math.inf if math.isnan(value) else value
        if not with_gradient:
            return value, d
        slope = problem.operator.rmatvec(problem.residual(raw))
        return value, slope + self.tilt + 2 * self.penalty * d

    def attained(self, d: Tensor) -> float:
        """Upper bound on F(d): F plus its rounding error."""
        value = self.problem.largest_value(
            self.raw(d), output_error(self.problem, d)
        ) + float((self.tilt + self.penalty * d) @ d)
        return value + self._rounding_along(d)

    @property
    def flops(self) -> float:
        """Cost of decomposing the Hessian."""
        operator, n_penalties = self.problem.operator, int((self.penalty > 0).sum())
        return factorization_flops(operator.n_rows + n_penalties, operator.n_coef)

    def is_affordable(self, max_memory: float) -> bool:
        """Whether the Hessian can be decomposed."""
        operator = self.problem.operator
        needed = 5 * 8.0 * operator.n_rows * operator.n_coef
        return self.flops <= FACTOR_FLOPS and needed <= max_memory

    @cached_property
    def dense(self) -> Tensor:
        """The basis, (n_samples, n_outputs, n_coef)."""
        return self.problem.operator.dense()

    # --- minimization ---------------------------------------------------------------

    def descend(self) -> Tensor:
        """Minimize by L-BFGS from zero, in the units of the columns."""
        operator, weight = self.problem.operator, self.problem.weight
        size = self.zero()
        for rows, dense in operator.blocks():
            size = size + (weight[rows, None, None] * dense.square()).sum((0, 1))
        scale = (size + self.penalty).sqrt()
        scale = torch.where(scale > 0, scale, 1.0)

        def function(point: Tensor) -> tuple[Tensor, Tensor]:
            value, gradient = self.value_and_gradient(point / scale)
            return torch.tensor(value, dtype=point.dtype), gradient / scale

        # Flops of one product with the basis and one with its transpose.
        step = 4.0 * operator.n_rows * max(operator.n_coef, 1)
        n_steps = int(min(DESCENT_STEPS, max(10, DESCENT_FLOPS / step)))
        end = quasi_newton(
            function,
            self.zero(),
            gtol=1e-12,
            max_iter=n_steps,
            max_evaluations=2 * n_steps,
        )
        return end.theta / scale

    def newton(self, d: Tensor) -> Tensor:
        """Minimize by Newton's method, along directions in which F is curved."""
        problem, (few, many) = self.problem, QUADRATIC_STEPS
        n_steps = int(min(many, max(few, NEWTON_FLOPS / max(self.flops, 1.0))))
        value, gradient = self.value_and_gradient(d)
        for _ in range(n_steps):
            curved = self._curved(problem.loss.hessian_root(problem.y, self.raw(d)))
            if curved is None:
                break
            step = curved.newton_step(gradient)
            length = 1.0
            trial, new = d + step, self.value(d + step)
            while not new < value and length > 1e-9:
                length /= 2
                trial = d + length * step
                new = self.value(trial)
            if not new < value:
                break
            d, last = trial, value
            value, gradient = self.value_and_gradient(d)
            if last - value <= 1e-15 * abs(value):
                break
        return d

    # --- bound ------------------------------------------------------------------------

    def gap(self, d: Tensor) -> float:
        """Return a bound on F(d) minus the infimum of F, infinite if none is known.

        Let B^T B be below the Hessian of F as long as no sample's outputs change by
        more than r, and let no B-norm ``|B (e - d)|`` below R change them by more. With
        g the gradient, F(e) is at least F(d) - |B^-T g| t + t^2 / 2 at each e of norm
        t <= R. This is at least ``F(d) - |B^-T g|^2 / 2``, and at least F(d) at t = R
        if ``|B^-T g| <= R / 2``. F is convex, so it is above F(d) beyond.
        """
        problem, raw = self.problem, self.raw(d)
        radius = CONVEX_RADIUS * problem.loss.hessian_unit
        curved = self._curved(problem.loss.least_hessian_root(problem.y, raw, radius))
        if curved is None or not len(curved.singular) == len(d):
            return math.inf
        # Computed singular values are off by a few units in the last place. Twice this
        # leaves room for the rounding of a checker.
        smallest = float(curved.singular[-1])
        exact = 1 - 16 * EPS * curved.size**0.5 / max(smallest, 1e-300)
        if not exact > 0.5:
            return math.inf
        rows, along = problem.residual(raw), self.tilt + 2 * self.penalty * d
        gradient = torch.einsum("ic,icj->j", rows, self.dense) + along
        terms = torch.einsum("ic,icj->j", rows.abs(), self.dense.abs())
        terms = terms + self.tilt.abs() + 2 * self.penalty * d.abs()
        norm = float((curved.V.T @ (gradient / curved.scale) / curved.singular).norm())
        norm += GRADIENT_ROUNDING * float((terms / curved.scale).norm()) / smallest
        moved = (self.dense / curved.scale) @ (curved.V / curved.singular)
        reach = float(moved.square().sum((1, 2)).amax().sqrt())
        if 2 * norm * reach <= 0.9 * radius * exact**2:
            return (norm / exact) ** 2 / 2
        return math.inf

    def rounding(self, d: Tensor) -> float:
        """Bound on the rounding error of `attained`."""
        problem, raw = self.problem, self.raw(d)
        moved = (problem.loss.gradient(problem.y, raw) * raw).abs().sum(1)
        size = problem.weight @ (problem.loss.value(problem.y, raw).abs() + moved)
        error = 2 * (self.attained(d) - self.value(d))
        return MEAN_ULPS * EPS * float(size) + error

    def _rounding_along(self, d: Tensor) -> float:
        """Rounding error of the quadratic function."""
        along = (self.tilt.abs() + self.penalty * d.abs()) @ d.abs()
        return MEAN_ULPS * EPS * float(along)

    def _curved(self, root: Tensor) -> "_Curved | None":
        """Decompose a root of the Hessian, or of a bound, from that of the loss."""
        dense = self.dense
        if root.ndim == 2:
            rows = root[:, :, None] * dense
        else:
            rows = torch.einsum("iab,ibj->iaj", root, dense)
        rows = (self.problem.weight.sqrt()[:, None, None] * rows).flatten(0, 1)
        if self.penalty.any():
            rows = torch.cat([rows, torch.diag((2 * self.penalty).sqrt())])
        scale = rows.square().sum(0).sqrt()
        if not bool(scale.isfinite().all()) or not bool(scale.any()):
            return None
        scale = torch.where(scale > 0, scale, 1.0)
        triangle = torch.linalg.qr(rows / scale, mode="r").R
        _, singular, Vh = thin_svd(triangle)
        return _Curved(scale, singular, Vh.T, rows.numel())

    def redundant(self) -> list[int]:
        """Return columns without penalty that can be left out.

        They are zero, equal another column, are a sum of others with integer factors
        (indicators of all categories add up to an intercept), or add the same number to
        the last output as other columns to the other outputs. The log loss of classes
        does not change if all outputs of a sample change equally.
        """
        found, seen, k = [], set(), self.problem.y.shape[1]
        groups: dict[bytes, set[int]] = {}
        free = (self.penalty == 0) & (self.tilt == 0)
        for column in torch.nonzero(free)[:, 0].tolist():
            block = self.dense[:, :, column]
            outputs = torch.nonzero(block.any(0))[:, 0].tolist()
            key = block.contiguous().numpy().tobytes()
            if not outputs or key in seen:
                found.append(column)
                continue
            seen.add(key)
            if len(outputs) == 1 and self.problem.loss.dual_rows_sum_to_zero:
                key = block[:, outputs[0]].contiguous().numpy().tobytes()
                group = groups.setdefault(key, set())
                group.add(outputs[0])
                if len(group) == k:
                    found.append(column)
        left = free.clone()
        left[found] = False
        for c in range(k):
            of_others = self.dense[:, torch.arange(k) != c].flatten(0, 1).any(0)
            columns = torch.nonzero(left & ~of_others)[:, 0]
            dependent = integer_sums(self.dense[:, c, columns])
            found += columns[dependent].tolist()
        return found

    def select(self, columns: Tensor) -> "QuadraticProblem":
        """The problem on some columns."""
        operator = DenseOperator(self.dense[:, :, columns])
        problem = replace(self.problem, operator=operator)
        return QuadraticProblem(problem, self.tilt[columns], self.penalty[columns])


def integer_sums(columns: Tensor) -> list[int]:
    """Return columns that are sums of earlier ones with integer factors, exactly.

    Only columns of integers are considered, so that no sum is rounded.
    """
    small = columns.abs().amax(0) <= LARGEST_INTEGER
    whole = torch.nonzero((columns == columns.round()).all(0) & small)[:, 0].tolist()
    if not whole:
        return []
    norms = columns[:, whole].norm(dim=0)
    pivots = torch.linalg.qr(columns[:, whole], mode="r").R.diagonal().abs()
    # If there are fewer samples than columns, the last columns have no pivot.
    independent = torch.zeros(len(whole), dtype=torch.bool)
    independent[: len(pivots)] = pivots > EPS**0.5 * norms[: len(pivots)]
    found: list[int] = []
    kept: list[int] = []
    for column, is_new in zip(whole, independent.tolist(), strict=True):
        if not is_new and kept:
            basis, target = columns[:, kept], columns[:, column]
            factors = torch.linalg.lstsq(basis, target[:, None]).solution.round()
            is_small = bool(factors.abs().max() <= LARGEST_INTEGER)
            if is_small and torch.equal(basis @ factors, target[:, None]):
                found.append(column)
                continue
        kept.append(column)
    return found


@dataclass(frozen=True, eq=False)
class _Curved:
    """Singular values of a root of the Hessian, with columns of norm one.

    `size` is the number of its entries.
    """

    scale: Tensor
    singular: Tensor
    V: Tensor
    size: int

    def newton_step(self, gradient: Tensor) -> Tensor:
        """The Newton step along directions with curvature above rounding."""
        keep = self.singular > HESSIAN_ROOT_RTOL * self.singular[:1]
        V, steady = self.V[:, keep], self.singular[keep]
        return -(V @ ((V.T @ (gradient / self.scale)) / steady**2)) / self.scale
