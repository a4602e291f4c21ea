"""Networks W(x + V z(x)), parametrized by R1 = W, R2 = W V and the units' theta."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sklearn_pgb._models._module import ModuleNetwork
from sklearn_pgb._models._network import Head, Network


class Squash(nn.Module):
    """The identity within a range, and a smooth, bounded function outside.

    An input at distance d outside the range is mapped to distance ``width tanh(d /
    width)``: the slope is one at the edge of the range and falls to zero within a few
    widths.
    """

    lower: Tensor
    upper: Tensor
    width: Tensor

    def __init__(self, lower: Tensor, upper: Tensor, width: Tensor):
        super().__init__()
        self.register_buffer("lower", lower)
        self.register_buffer("upper", upper)
        self.register_buffer("width", width)

    def forward(self, X: Tensor) -> Tensor:
        """Squash each entry of the samples."""
        inside = torch.maximum(torch.minimum(X, self.upper), self.lower)
        return inside + self.width * torch.tanh((X - inside) / self.width)


class ResNetModule(nn.Module):
    """Raw outputs ``R [phi(x) - m, z(squash(x))] + b``.

    The center m of phi keeps the digits of features far from zero; None stands for
    zero. Inputs are phi(x) and x, concatenated, or only x if phi(x) = x, for which
    `n_basis` is None. The head has R = [R1, R2] and b, and `shape` is that of one
    sample in the input of the units z.
    """

    center: Tensor | None

    def __init__(
        self,
        head: nn.Linear,
        units: nn.Module,
        n_basis: int | None,
        shape: tuple[int, ...],
        squash: Squash | None = None,
        center: Tensor | None = None,
    ):
        super().__init__()
        self.register_buffer("center", center)
        self.head, self.units, self.n_basis, self.shape = head, units, n_basis, shape
        self.squash = squash or nn.Identity()

    def split(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """phi(x), and the inputs of the units."""
        basis = X.flatten(1)
        if self.n_basis is not None:
            basis, X = X[:, : self.n_basis], X[:, self.n_basis :]
        # Copy the inputs: units may work in place, and X also holds the basis.
        return basis, X.reshape(-1, *self.shape).clone()

    def features(self, X: Tensor) -> Tensor:
        """[phi(x), z(x)], of shape (n_samples, n_basis + n_units)."""
        basis, inputs = self.split(X)
        return torch.cat([basis, self.units(inputs).reshape(len(basis), -1)], 1)

    def centered(self, basis: Tensor) -> Tensor:
        """phi(x) - m."""
        return basis if self.center is None else basis - self.center

    def forward(self, X: Tensor) -> Tensor:
        """Raw outputs (n_samples, n_outputs)."""
        basis, inputs = self.split(X)
        units = self.units(inputs).reshape(len(basis), -1)
        return self.head(torch.cat([self.centered(basis), units], 1))


class ResNetNetwork(Network):
    """A `ResNetModule` as a function of (R, b, theta).

    Its raw outputs are linear in R = [R1, R2], so the coefficients (R, b, 0) of its
    gradient basis give the network itself.
    """

    n_inputs = None

    def __init__(self, module: ResNetModule) -> None:
        self._module = module.to("cpu", torch.float64).eval()
        self._network = ModuleNetwork(module)
        self._n_head = module.head.weight.numel()

    @property
    def n_outputs(self) -> int:
        return self._module.head.out_features

    @property
    def n_basis(self) -> int | None:
        """Number of features phi; None if they are the inputs themselves."""
        return self._module.n_basis

    @property
    def n_params(self) -> int:
        return self._network.n_params

    @property
    def theta(self) -> Tensor:
        return self._network.theta

    def modules_along(self, direction: Tensor) -> tuple[nn.Module, nn.Module]:
        return self._network.modules_along(direction)

    def to(self, device: torch.device) -> ResNetNetwork:
        moved = copy.copy(self)
        moved._module = copy.deepcopy(self._module).to(device)
        moved._network = self._network.to(device)
        return moved

    def at(self, theta: Tensor) -> ResNetNetwork:
        moved = copy.copy(self)
        moved._network = self._network.at(theta)
        moved._module = copy.deepcopy(self._module)
        for name, part in self._network.split(theta.detach()).items():
            moved._module.get_parameter(name).data.copy_(part)
        return moved

    def __call__(self, theta: Tensor, X: Tensor) -> Tensor:
        return self._network(theta, X)

    def blocks(self) -> dict[str, slice]:
        return self._network.blocks()

    def layers(self, X: Tensor) -> list[Tensor]:
        with torch.no_grad():
            features = self._module.features(X)
            return [X, features, self._module(X)]

    def find_head(self, X: Tensor) -> Head:
        bias = None
        if self._module.head.bias is not None:
            bias = slice(self._n_head, self._n_head + self.n_outputs)
        theta = self.theta
        # The units' own parameters come last in theta.
        theta[self._n_head if bias is None else bias.stop :] = 0
        return Head(bias, theta)
