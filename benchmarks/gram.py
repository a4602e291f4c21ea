"""Gram matrix of a network's Jacobian: layer by layer against torch.func.

Measures time, error, the largest array, and the growth of the cost with samples and
widths, plotted in benchmarks/figures/gram.png; and for a network with layer norms, the
time of each product against that of the operator of any function.
"""

import argparse
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from _harness import Finding, finish, print_table
from torch.func import functional_call, jacrev, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sklearn_pgb._models._module import ModuleNetwork, open_module
from sklearn_pgb._operators._chain import ChainOperator
from sklearn_pgb._operators._function import FunctionOperator
from sklearn_pgb._operators._layers import LinearDerivative, Slope

FIGURES = Path(__file__).parent / "figures"

N_INPUTS, HIDDEN = 50, (256, 256)
ROWS_PER_CHUNK = 250

# Samples and hidden width of the points of the figure; at least as many samples.
GROWTH = {
    False: ((1000, 1414, 2000, 2828, 4000), (128, 256, 512)),
    True: ((250, 500, 1000), (64, 128)),
}


# --- the two ways -------------------------------------------------------------


def structured_gram(module, X):
    """Gram matrix by the package, without forming the Jacobian."""
    derivatives, h = [], X
    with torch.no_grad():
        for layer in module:
            out = layer(h)
            if isinstance(layer, torch.nn.Linear):
                derivatives.append(LinearDerivative(h, layer.weight, True))
            else:
                derivatives.append(Slope((out > 0).to(X.dtype)))
            h = out
        return ChainOperator(derivatives).gram()


def functional_gram(module, X):
    """Gram matrix by torch.func: per-sample Jacobians in chunks, then one product."""
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def output(parameters, x):
        return functional_call(module, parameters, (x[None],))[0]

    per_sample = vmap(jacrev(output), (None, 0))
    jacobian = X.new_empty(len(X), sum(p.numel() for p in parameters.values()))
    for rows in torch.arange(len(X)).split(ROWS_PER_CHUNK):
        blocks = per_sample(parameters, X[rows]).values()
        jacobian[rows] = torch.cat([block.flatten(1) for block in blocks], dim=1)
    return jacobian @ jacobian.T


def network(hidden, dtype, seed=0):
    """ReLU network with one output, the same in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for n_in, n_out in pairwise((N_INPUTS, *hidden, 1)):
        layer = torch.nn.Linear(n_in, n_out)
        for parameter in layer.parameters():
            values = torch.randn(parameter.shape, generator=generator)
            parameter.data = values / n_in**0.5
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1]).to(dtype)


def inputs(n_rows, dtype, seed=1):
    """Standard normal inputs, the same in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_rows, N_INPUTS, generator=generator).to(dtype)


# --- measurements -------------------------------------------------------------


class LargestResult(TorchDispatchMode):
    """Records the largest number of elements of the storage of any torch result."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run the operation and record the size of its results."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                numel = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.numel = max(self.numel, numel)
        return result


def seconds(function, *arguments, repeats):
    """Median time of some calls after an untimed first one."""
    times = []
    for _ in range(repeats + 1):
        start = perf_counter()
        function(*arguments)
        times.append(perf_counter() - start)
    return median(times[1:])


def relative_error(gram, reference):
    """Frobenius norm of the difference, relative to the reference's."""
    difference = gram.double() - reference
    return (difference.norm() / reference.norm()).item()


def compare(n_rows, quick):
    """Print the comparison of the two ways; findings on time, errors and arrays."""
    reference = functional_gram(
        network(HIDDEN, torch.float64), inputs(n_rows, torch.float64)
    )
    lines, times, errors = [], {}, {}
    for dtype in (torch.float32, torch.float64):
        for way in (structured_gram, functional_gram):
            module, X = network(HIDDEN, dtype), inputs(n_rows, dtype)
            with LargestResult() as largest:
                error = relative_error(way(module, X), reference)
            key = (way.__name__, dtype)
            errors[key] = error
            repeats = 10 if way is structured_gram else 3
            times[key] = seconds(way, module, X, repeats=repeats)
            if key == (structured_gram.__name__, torch.float32):
                held = largest.numel
            cells = (f"{times[key]:.4f}", f"{error:.1e}", f"{largest.numel:,}")
            lines.append([way.__name__, str(dtype).removeprefix("torch."), *cells])
    title = f"Gram of {n_rows:,} rows, {N_INPUTS}-{HIDDEN[0]}-{HIDDEN[1]}-1 ReLU, "
    title += f"{torch.get_num_threads()} threads"
    header = ["way", "dtype", "seconds", "relative error", "largest array"]
    print_table(title, header, lines, n_left=2)
    return comparison_findings(n_rows, times, errors, held, complete=not quick)


def comparison_findings(n_rows, times, errors, held, complete):
    """Findings on speed, largest array and errors of the structured Gram matrix."""
    ours = structured_gram.__name__
    single, double = (ours, torch.float32), (ours, torch.float64)
    speedup = times[functional_gram.__name__, torch.float32] / times[single]
    allowed = n_rows * max(n_rows, N_INPUTS, *HIDDEN)
    outcomes = [
        ("at least 20 times faster", f"{speedup:.1f} times", speedup >= 20),
        (f"no array above {allowed:,} elements", f"{held:,}", held <= allowed),
        ("error ≤ 1e-6 in float32", f"{errors[single]:.1e}", errors[single] <= 1e-6),
        ("error ≤ 1e-12 in float64", f"{errors[double]:.1e}", errors[double] <= 1e-12),
    ]
    return [Finding(*outcome, complete=complete) for outcome in outcomes]


def measure_growth(quick):
    """Cost of the structured Gram against n² times the sum of widths."""
    row_counts, widths = GROWTH[quick]
    lines, points = [], []
    for width in widths:
        module = network((width, width), torch.float32)
        cost = N_INPUTS + 2 * width + 1
        for n_rows in row_counts:
            X = inputs(n_rows, torch.float32)
            time = seconds(structured_gram, module, X, repeats=3)
            points.append((width, n_rows**2 * cost, time))
            lines.append([f"{n_rows:,}", str(width), f"{time:.4f}"])
    print_table("Growth", ["rows", "width", "seconds"], lines, n_left=0)
    path = FIGURES / ("gram_quick.png" if quick else "gram.png")
    draw(points, path)
    _, works, times = np.array(points).T
    slope = np.polyfit(np.log(works), np.log(times), 1)[0]
    claim = "cost grows as n² · sum of widths: log-log slope at most 1.1"
    figure = f"slope {slope:.2f} ({FIGURES.name}/{path.name})"
    return Finding(claim, figure, bool(slope <= 1.1), complete=not quick)


def compare_norm(n_rows, quick):
    """Print the time of products of a network with layer norms; findings on speed."""
    torch.manual_seed(0)
    layers = []
    for n_in in (N_INPUTS, 64):
        layers += [torch.nn.Linear(n_in, 64), torch.nn.LayerNorm(64), torch.nn.ReLU()]
    module = torch.nn.Sequential(*layers, torch.nn.Linear(64, 1))
    X = inputs(n_rows, torch.float64)
    function = ModuleNetwork(module)
    columns = torch.arange(function.n_params)
    general = FunctionOperator(function, function.theta, X, columns)
    operators = open_module(module).jacobian(X), general
    generator = torch.Generator().manual_seed(0)
    coef = torch.randn(operators[0].n_coef, generator=generator, dtype=X.dtype)
    residual = torch.randn(n_rows, 1, generator=generator, dtype=X.dtype)
    products = {
        "gram": lambda operator: operator.gram(),
        "squared_row_norms": lambda operator: operator.squared_row_norms(),
        "sketch": lambda operator: operator.sketch(32, generator),
        "matvec": lambda operator: operator.matvec(coef),
        "rmatvec": lambda operator: operator.rmatvec(residual),
    }
    lines, speedups = [], {}
    for name, product in products.items():
        ours, other = (seconds(product, each, repeats=3) for each in operators)
        speedups[name] = other / ours
        lines.append([name, f"{ours:.4f}", f"{other:.4f}", f"{speedups[name]:.1f}"])
    title = f"Products with {n_rows:,} rows, {N_INPUTS}-64-64-1 ReLU with layer norms"
    print_table(title, ["product", "chain", "function", "ratio"], lines, n_left=1)
    return [
        Finding(
            f"{name} with layer norms at least 5 times faster",
            f"{speedups[name]:.1f} times",
            speedups[name] >= 5,
            complete=not quick,
        )
        for name in ("gram", "squared_row_norms", "sketch")
    ]


def draw(points, path):
    """Figure of time against n² times the sum of widths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
    for width in sorted({width for width, _, _ in points}):
        works, times = zip(*(p[1:] for p in points if p[0] == width), strict=True)
        axes.loglog(works, times, "o-", label=f"two layers of {width}")
    _, works, times = np.array(points).T
    line = np.array([works.min(), works.max()])
    axes.loglog(line, line * np.median(times / works), "k--", label="slope 1")
    axes.set(xlabel="rows² · sum of widths", ylabel="seconds")
    axes.legend()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)


def main():
    """Compare, then measure the growth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows")
    quick = parser.parse_args().quick
    n_rows = 500 if quick else 2_000
    findings = compare(n_rows, quick) + compare_norm(n_rows, quick)
    finish([*findings, measure_growth(quick)])


if __name__ == "__main__":
    main()
