"""Torch modules of all kinds, accepted and refused."""

import torch
from torch import nn
from torch.nn import functional as F

# All take samples of six numbers and return two outputs.
N_INPUTS, N_OUTPUTS = 6, 2


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.steps = kind(2, 3, batch_first=True)
        self.head = nn.Linear(3, 2)

    def forward(self, X):
        return self.head(self.steps(X.reshape(len(X), 3, 2))[0][:, -1])


class Attention(nn.Module):
    def __init__(self, need_weights):
        super().__init__()
        self.first = nn.Linear(2, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(12, 2)
        self.need_weights = need_weights

    def forward(self, X):
        z = self.first(X.reshape(len(X), 3, 2))
        mixed = self.attention(z, z, z, need_weights=self.need_weights)[0]
        return self.head(mixed.flatten(1))


class DotProducts(Attention):
    def forward(self, X):
        z = self.first(X.reshape(len(X), 1, 3, 2))
        return self.head(F.scaled_dot_product_attention(z, z, z).flatten(1))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.first = nn.Linear(2, 4)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(12, 2)

    def forward(self, X):
        z = self.first(X.reshape(len(X), 3, 2))
        return self.head(self.encoder(z).flatten(1))


class Cube(torch.autograd.Function):
    """A backward pass that torch.func can't take."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


class CubeOnce(Cube):
    """The same with a backward pass that refuses to be differentiated."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


class CubeByNumpy(Cube):
    """A function that autograd treats as a constant."""

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        slope = 3 * x.detach().numpy() ** 2 * gradient.detach().numpy()
        return torch.from_numpy(slope)


class Two(nn.Module):
    """Two linear layers `a` and `b`, and any function of them and X."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(4, 2)
        self.function = function

    def forward(self, X):
        return self.function(self, X)


def by_branches(m, X):
    rows = [m.a(x).tanh() if x[0] > 0 else m.a(-x).sigmoid() for x in X]
    return m.b(torch.stack(rows))


def by_items(m, X):
    return m.b(torch.stack([m.a(x).tanh() * x[0].item() for x in X]))


def in_place(m, X):
    X.mul_(m.a.weight[0])
    X += 1
    return m.b(m.a(X.tanh_()).relu_())


class TiedEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(2, 4)
        self.head = nn.Linear(4, 2, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, X):
        return self.head(self.embedding((X[:, :3] > 0).long()).sum(1).tanh())


def shared_layer():
    layer = nn.Linear(6, 6)
    return nn.Sequential(
        nn.Linear(6, 6), nn.Tanh(), layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(6, 2)
    )


def shared_buffer():
    norms = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
    norms[1].running_mean = norms[0].running_mean
    return nn.Sequential(norms[0], nn.Tanh(), norms[1], nn.Linear(6, 2))


def frozen_part():
    module = nn.Sequential(nn.Linear(6, 5), nn.PReLU(), nn.Linear(5, 2))
    module[0].requires_grad_(False)
    return module


def half():
    return nn.Sequential(nn.Linear(6, 5), nn.PReLU(), nn.Linear(5, 2)).half()


TAKEN = {
    "prelu": lambda: nn.Sequential(nn.Linear(6, 5), nn.PReLU(5), nn.Linear(5, 2)),
    "gru": lambda: Recurrent(nn.GRU),
    "lstm": lambda: Recurrent(nn.LSTM),
    "rnn": lambda: Recurrent(nn.RNN),
    "gru_cell": lambda: nn.Sequential(nn.GRUCell(6, 4), nn.Linear(4, 2)),
    "attention": lambda: Attention(need_weights=False),
    "attention_weights": lambda: Attention(need_weights=True),
    "dot_products": lambda: DotProducts(need_weights=False),
    "encoder": Encoder,
    "custom": lambda: Two(lambda m, X: m.b(Cube.apply(m.a(X)))),
    "custom_numpy": lambda: Two(lambda m, X: m.b(CubeByNumpy.apply(m.a(X)))),
    "branches": lambda: Two(by_branches),
    "items": lambda: Two(by_items),
    "in_place": lambda: Two(in_place),
    "in_place_relu": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 2)),
    "tied_embedding": TiedEmbedding,
    "shared_layer": shared_layer,
    "shared_buffer": shared_buffer,
    "frozen_part": frozen_part,
    "half": half,
    "bfloat16": lambda: half().bfloat16(),
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 2)),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 6)),
        nn.Conv1d(1, 3, 3),
        nn.GroupNorm(1, 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(12, 2),
    ),
}


# Chains with layer norms before, between and after their linear layers.
NORMED = {
    "after_linear": lambda: nn.Sequential(
        nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, 2)
    ),
    "after_activation": lambda: nn.Sequential(
        nn.Linear(6, 5), nn.ReLU(), nn.LayerNorm(5), nn.Identity(), nn.Linear(5, 2)
    ),
    "first": lambda: nn.Sequential(
        nn.LayerNorm(6, eps=0.1), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 2)
    ),
    "plain_first": lambda: nn.Sequential(
        nn.LayerNorm(6, elementwise_affine=False),
        nn.Linear(6, 4),
        nn.ELU(),
        nn.Linear(4, 2),
    ),
    "two": lambda: nn.Sequential(
        nn.Linear(6, 5, bias=False),
        nn.LayerNorm(5, bias=False),
        nn.SiLU(),
        nn.Linear(5, 4),
        nn.Softplus(),
        nn.LayerNorm(4, elementwise_affine=False),
        nn.Linear(4, 2, bias=False),
    ),
    "no_activation": lambda: nn.Sequential(
        nn.Linear(6, 4), nn.LayerNorm(4, eps=1e-3), nn.Linear(4, 2)
    ),
    "twice": lambda: nn.Sequential(
        nn.Linear(6, 4), nn.LayerNorm(4), nn.LayerNorm(4), nn.Sigmoid(), nn.Linear(4, 2)
    ),
    "last": lambda: nn.Sequential(
        nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2), nn.LayerNorm(2, eps=0.5)
    ),
    "last_without_bias": lambda: nn.Sequential(
        nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2), nn.LayerNorm(2, 0.5, bias=False)
    ),
    "last_without_parameters": lambda: nn.Sequential(
        nn.Linear(6, 4),
        nn.Tanh(),
        nn.Linear(4, 2),
        nn.LayerNorm(2, 0.5, elementwise_affine=False),
    ),
}


class Opaque(nn.Module):
    """A module whose layers are not recognized."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, X):
        return self.module(X)


class AlwaysTraining(nn.BatchNorm1d):
    """Left in training mode."""

    def train(self, mode=True):
        return super().train(True)


class BatchAttention(nn.Module):
    """Takes samples for the steps of one sequence."""

    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(6, 2), nn.Linear(6, 2)

    def forward(self, X):
        return self.head(self.attention(X, X, X)[0])


class BatchRecurrence(nn.Module):
    """Takes samples for the steps of one sequence."""

    def __init__(self):
        super().__init__()
        self.steps, self.head = nn.GRU(6, 4), nn.Linear(4, 2)

    def forward(self, X):
        return self.head(self.steps(X)[0])


def zero_head(module):
    nn.init.zeros_(module.b.weight)
    nn.init.zeros_(module.b.bias)
    return module


def centered(m, X):
    return m.b((m.a(X - X.mean(0))).tanh())


def across_outputs(m, X):
    raw = m.b(m.a(X).tanh())
    return raw - raw.mean()


# Modules whose samples depend on each other, and the layer that is to blame.
MIXING = {
    "centered": (lambda: Two(centered), "Two"),
    "zero_head": (lambda: zero_head(Two(centered)), "Two"),
    "across_outputs": (lambda: Two(across_outputs), "Two"),
    "standardized": (lambda: Two(lambda m, X: m.b(m.a(X / X.std(0)))), "Two"),
    "softmax": (lambda: Two(lambda m, X: m.b(m.a(X).softmax(0))), "Two"),
    "softmax_layer": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.Softmax(0), nn.Linear(4, 2)),
        r"'1' \(Softmax\)",
    ),
    "batch_norm": (
        lambda: nn.Sequential(nn.Linear(6, 4), AlwaysTraining(4), nn.Linear(4, 2)),
        r"'1' \(AlwaysTraining\)",
    ),
    "batch_statistics": (
        lambda: nn.Sequential(
            nn.Linear(6, 4),
            nn.BatchNorm1d(4, track_running_stats=False),
            nn.Linear(4, 2),
        ),
        r"'1' \(BatchNorm1d\)",
    ),
    "functional_norm": (
        lambda: Two(lambda m, X: m.b(F.batch_norm(m.a(X), None, None, training=True))),
        "Two",
    ),
    "attention": (BatchAttention, r"'attention' \(MultiheadAttention\)"),
    "recurrence": (BatchRecurrence, r"'steps' \(GRU\)"),
    "cumulative": (lambda: Two(lambda m, X: m.b(m.a(X.cumsum(0)))), "Two"),
    "first_sample": (lambda: Two(lambda m, X: m.b(m.a(X - X[:1]))), "Two"),
    "size": (lambda: Two(lambda m, X: m.b(m.a(X)) / len(X)), "Two"),
    "large_batches": (
        lambda: Two(lambda m, X: m.b(m.a(X - X.mean(0) * (len(X) > 12)))),
        "Two",
    ),
    "sorted": (lambda: Two(lambda m, X: m.b(m.a(X)).sort(0)[0]), "Two"),
}


class Counter(nn.Module):
    """Changes with each call."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, X):
        self.calls += 1
        return self.head(X) * self.calls


class WithLock(nn.Linear):
    def __deepcopy__(self, memo):
        raise TypeError("cannot pickle '_thread.lock' object")


def clamped(m, X):
    m.a.weight.data.clamp_(-0.1, 0.1)
    return m.b(m.a(X))


def by_frequency(table, X):
    """Rows of a table, whose gradients are divided by counts of the rows."""
    tokens = (X > 0).long()
    return F.embedding(tokens[:, 0], table[:, :4], scale_grad_by_freq=True)


# Other modules that are refused, and what is said of them.
REFUSED = {
    "dropout": (
        lambda: Two(lambda m, X: m.b(F.dropout(m.a(X)))),
        "deterministic in evaluation mode, got Two",
    ),
    "noise": (
        lambda: Two(lambda m, X: m.b(m.a(X) + torch.randn(1))),
        "deterministic in evaluation mode",
    ),
    "state": (Counter, "deterministic in evaluation mode, got Counter"),
    "clamped": (lambda: Two(clamped), "leave its parameters alone, got Two"),
    "rank": (lambda: Two(lambda m, X: m.b(m.a(X))[..., None]), "shape"),
    "float32": (
        lambda: Two(lambda m, X: m.b(m.a(X)).float()),
        r"return torch.float64 .* got torch.float32",
    ),
    "labels": (lambda: Two(lambda m, X: m.b(m.a(X)).argmax(1)), "got torch.int64"),
    "complex": (lambda: Two(lambda m, X: torch.fft.fft(m.b(m.a(X)))), "complex128"),
    "nan": (lambda: Two(lambda m, X: m.b(m.a(X)).log()), "finite outputs, got nan"),
    "detached": (lambda: Two(lambda m, X: m.b(m.a(X)).detach()), "have no gradient"),
    "half_detached": (
        lambda: Two(lambda m, X: m.b(m.a(X).detach())),
        "derivatives that agree with its outputs, got Two",
    ),
    "scaled_gradients": (
        lambda: Two(lambda m, X: m.b(by_frequency(m.a.weight, X))),
        "agree with its outputs, got Two, .* nor scale gradients by counts",
    ),
    "max_norm": (
        lambda: nn.Sequential(nn.Embedding(9, 2, max_norm=1.5), nn.Flatten()),
        r"without max_norm, got an Embedding in Sequential with max_norm=1\.5",
    ),
    "casts": (
        lambda: Two(lambda m, X: m.b(m.a(X.float()))),
        r"take float64 samples .* same dtype",
    ),
    "inputs": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.PReLU(), nn.Linear(4, 2)),
        r"\(n_samples, 6\), got an error from Sequential: mat1 and mat2",
    ),
    "two_inputs": (lambda: nn.Bilinear(6, 6, 2), "missing 1 required positional"),
    "meta": (lambda: nn.Linear(6, 2, device="meta"), "meta device"),
    "complex_weights": (
        lambda: nn.Linear(6, 2, dtype=torch.complex64),
        "real parameters .* got Linear with weight, bias",
    ),
    "lock": (lambda: WithLock(6, 2), "copy.deepcopy can copy, got WithLock"),
    "parallel": (lambda: nn.DataParallel(nn.Linear(6, 2)), "plain torch.nn.Module"),
}
