"""Narrow networks from many starts: single training, restarts, and the hybrid search.

All methods use the same 400 starts of each problem and equally many gradient steps,
including those of the hybrid's neurons. The table also shows the hybrid's moves, each
of which refits the output layer for three thresholds, and the joint training of the
auxiliary objective, in which the added neuron fits the targets instead of the network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import torch
from _harness import Finding, Task, covers, finish, parse_arguments, print_table, run

from sklearn_pgb._added_neuron._request import TrainingRequest
from sklearn_pgb._added_neuron._search import search
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._training._auxiliary import auxiliary_objective, draw_neurons
from sklearn_pgb._training._descent import Adam
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._program import ChainProgram, uniform_initialization
from sklearn_pgb._training._train import Schedule, train

N_STARTS, STARTS_PER_TASK = 400, 100
STEPS, RATE = 8_000, 1e-2
NEURON_PENALTY, TOL = 1e-2, 1e-6

# A start is solved if its loss is smaller.
SOLVED = 1e-3
# Problems of which multi-start solves less than this fraction can be improved on.
ROOM = 0.98

N_RESAMPLES = 2_000


# --- problems and measures ------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """Summary of the starts of a row; `sign` is 1 if larger is better, else -1."""

    name: str
    of: Callable[[np.ndarray], np.ndarray]
    sign: int


SUCCESS = Measure(f"fraction with L < {SOLVED:g}", lambda L: (L < SOLVED).mean(0), 1)
MEDIAN = Measure("median L", lambda L: np.median(L, axis=0), -1)


@dataclass(frozen=True)
class Problem:
    """Samples, the hidden units of the network, and the measure of its row."""

    X: np.ndarray
    y: np.ndarray
    units: int
    measure: Measure


def parity(n_bits):
    """Parity of some signs, for a network with as many hidden units."""
    X = np.array(list(product([-1.0, 1.0], repeat=n_bits)))
    return Problem(X, (X.prod(1) > 0).astype(float), n_bits, SUCCESS)


def sine():
    """One period of the sine on 40 points."""
    x = np.linspace(-1, 1, 40)
    return Problem(x[:, None], np.sin(2 * np.pi * x), 4, MEDIAN)


def spirals():
    """Two spirals of 50 points each, one the other's reflection in the origin."""
    angle = np.linspace(0.5, 3, 50) * np.pi
    arm = 0.106 * angle[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    return Problem(np.vstack([arm, -arm]), np.repeat([1.0, 0.0], 50), 8, MEDIAN)


PROBLEMS = {
    "xor": parity(2),
    "parity-3": parity(3),
    "parity-4": parity(4),
    "sine": sine(),
    "spirals": spirals(),
}
SETS = [f"{problem}/{name}" for problem in PROBLEMS for name in ("tanh", "relu")]
QUICK_SETS = ("xor/relu", "parity-4/relu")


# --- methods --------------------------------------------------------------------


class Starts:
    """Initial networks of one task, with the generators of their restarts.

    Each start has its own generator, so that starts and restarts are the same for all
    methods.
    """

    def __init__(self, name, chunk):
        problem, activation = name.split("/")
        problem, activation = PROBLEMS[problem], ACTIVATIONS[activation]
        n_samples, n_features = problem.X.shape
        program = ChainProgram([n_features, problem.units, 1], [activation])
        self.objective = Objective(
            program,
            SquaredLoss(),
            torch.from_numpy(problem.X),
            torch.from_numpy(problem.y[:, None]),
            torch.full((n_samples,), 1 / n_samples, dtype=torch.float64),
            torch.zeros(program.n_params, dtype=torch.float64),
        )
        first = chunk * STARTS_PER_TASK
        seeds = range(first, first + STARTS_PER_TASK)
        self.generators = [np.random.default_rng(seed) for seed in seeds]
        self.theta = torch.stack([self.draw(member) for member in range(len(seeds))])
        # For the directions of the added neurons.
        self.directions = torch.Generator().manual_seed(chunk)

    def draw(self, member):
        """Draw initial parameters of one network."""
        generator = self.generators[member]
        return uniform_initialization(self.objective.program, generator, 1)[0]


def trained(objective, theta):
    """Train for all steps, at a constant and then a decreasing rate."""
    schedule = Schedule(rate=RATE, max_epochs=STEPS, patience=STEPS)
    return train(objective, theta, Adam(), schedule, batch_size=objective.n_samples)


def single(starts):
    """Plain training."""
    training = trained(starts.objective, starts.theta)
    return outcome(starts, training.theta, training.n_epochs)


def joint(starts):
    """Training of the auxiliary objective, networks and neurons at once."""
    auxiliary = auxiliary_objective(starts.objective, NEURON_PENALTY)
    neurons = draw_neurons(starts.objective, len(starts.theta), starts.directions)
    training = trained(auxiliary, auxiliary.program.join(starts.theta, neurons))
    theta, _ = auxiliary.program.split(training.theta)
    return outcome(starts, theta, training.n_epochs)


def multi_start(starts):
    """Training that restarts when it stagnates."""
    return searched(starts, "restart")


def hybrid(starts):
    """Training that inserts an added neuron, or restarts, when it stagnates."""
    return searched(starts, "transplant")


def searched(starts, kind):
    """Row of a search with one kind of move."""
    request = TrainingRequest(
        solver="adam",
        schedule=Schedule(rate=RATE, max_epochs=STEPS, tol=TOL),
        batch_size=starts.objective.n_samples,
        shuffle=True,
        alpha=0.0,
        neuron_penalty=NEURON_PENALTY,
        n_starts=1,
        global_move=kind,
        method=Adam(),
        max_evaluations=STEPS,
        dtype=starts.theta.dtype,
        device=starts.theta.device,
        loss_unit=1.0,
    )
    theta, _, n_epochs, n_moves = search(
        starts.objective,
        starts.theta,
        request,
        restart=starts.draw,
        floor=0.0,
        generator=starts.directions,
        on_epoch=lambda theta, loss: False,
    )
    moves = n_moves.double().mean().item()
    return {**outcome(starts, theta, n_epochs), "moves": moves}


def outcome(starts, theta, steps):
    """Row of networks that were trained for these steps."""
    return {"losses": starts.objective.value(theta).tolist(), "steps": steps}


METHODS = {
    "single": single,
    "multi-start": multi_start,
    "hybrid": hybrid,
    "joint": joint,
}
COMMON = [STARTS_PER_TASK, STEPS, RATE]
PROTOCOLS = {
    "single": COMMON,
    "multi-start": [*COMMON, TOL],
    "hybrid": [*COMMON, TOL, NEURON_PENALTY],
    "joint": [*COMMON, NEURON_PENALTY],
}


def compute(task):
    """Final losses of one method from the starts of one task."""
    return METHODS[task.part](Starts(task.set, task.split))


def list_tasks(quick):
    """Tasks of every method on every chunk of starts, or on the first one of a few."""
    sets = QUICK_SETS if quick else SETS
    chunks = range(1 if quick else N_STARTS // STARTS_PER_TASK)
    return [Task(*task) for task in product(sets, chunks, METHODS)]


# --- report ---------------------------------------------------------------------

CLAIMS = (
    "hybrid nowhere worse than multi-start by more than 2 standard errors",
    f"hybrid better on at least half of the rows that multi-start solves < {ROOM}",
    "hybrid nowhere below single training",
)


def reached(rows):
    """Losses as a frame: (set, start) by method."""
    cells = {method: {} for method in METHODS}
    for row in rows:
        for place, loss in enumerate(row.get("losses", ())):
            start = row["split"] * STARTS_PER_TASK + place
            cells[row["part"]][row["set"], start] = loss
    series = {method: pd.Series(losses) for method, losses in cells.items() if losses}
    return pd.DataFrame(series).dropna()


def compare(name, losses):
    """One line of the table from the losses of all methods on one row."""
    problem = PROBLEMS[name.split("/")[0]]
    measure = problem.measure
    values = pd.Series(measure.of(losses.to_numpy()), losses.columns)
    difference = values["hybrid"] - values["multi-start"]
    error = standard_error(losses[["hybrid", "multi-start"]].to_numpy(), measure)
    gain = measure.sign * difference
    return {
        "units": problem.units,
        "starts": len(losses),
        "measure": measure.name,
        **values,
        "difference": difference,
        "error": error,
        "has room": (losses["multi-start"] < SOLVED).mean() < ROOM,
        "not worse": gain >= -2 * error,
        "better": gain > 0,
        "not below single": measure.sign * (values["hybrid"] - values["single"]) >= 0,
    }


def standard_error(pairs, measure):
    """Standard error of the difference of two methods over paired starts."""
    if measure is SUCCESS:
        solved = (pairs < SOLVED).astype(float)
        return (solved[:, 0] - solved[:, 1]).std(ddof=1) / len(pairs) ** 0.5
    rng = np.random.default_rng(0)
    resamples = rng.integers(len(pairs), size=(N_RESAMPLES, len(pairs)))
    medians = np.median(pairs[resamples], axis=1)
    return (medians[:, 0] - medians[:, 1]).std(ddof=1)


def report(rows):
    """Print the table and return the findings."""
    complete = covers(rows, list_tasks(quick=False))
    steps = steps_finding(rows, complete)
    losses = reached(rows)
    if losses.empty or len(losses.columns) < len(METHODS):
        return [*(Finding(claim, complete=complete) for claim in CLAIMS), steps]
    names = [name for name in SETS if name in losses.index]
    table = pd.DataFrame({name: compare(name, losses.loc[name]) for name in names}).T
    moved = pd.DataFrame([row for row in rows if row["part"] == "hybrid"])
    table["moves"] = moved.groupby("set")["moves"].mean()
    print_comparison(table)
    return [*findings(table, complete), steps]


def print_comparison(table):
    """Print the table of all rows."""
    header = ["problem", "activation", "units", "starts", "measure", *METHODS]
    header += ["hybrid's moves", "hybrid - multi-start", "SE", "hybrid is"]
    lines = []
    for name, row in table.iterrows():
        line = [*name.split("/"), str(row["units"]), str(row["starts"]), row["measure"]]
        line += [f"{row[method]:.4g}" for method in METHODS]
        line += [f"{row['moves']:.2g}", f"{row['difference']:+.2g}"]
        lines.append([*line, f"{row['error']:.2g}", verdict(row)])
    title = f"The network's own loss L after {STEPS:,} gradient steps"
    print_table(title, header, lines, n_left=5)


def verdict(row):
    """Compare the hybrid with multi-start and single training on one row."""
    words = "better" if row["better"] else "as good" if row["not worse"] else "WORSE"
    return words if row["not below single"] else f"{words}, BELOW SINGLE"


def findings(table, complete):
    """Findings on the hybrid against multi-start and single training."""
    has_room = table["has room"].astype(bool)
    goods = [table["not worse"], table["better"][has_room], table["not below single"]]
    fractions = (1, 0.5, 1)
    found = []
    for claim, good, least in zip(CLAIMS, goods, fractions, strict=True):
        good = good.astype(bool)
        missing = f"; not {', '.join(good.index[~good])}" if not good.all() else ""
        text = f"on {good.sum()} of {len(good)} rows{missing}"
        holds = bool(good.sum() >= least * len(good))
        found.append(Finding(claim, text, holds, complete))
    return found


def steps_finding(rows, complete):
    """Finding on whether the numbers of steps were equal."""
    claim = f"at most {STEPS:,} gradient steps, those of the neurons included"
    most = pd.DataFrame(rows, columns=["part", "steps"]).groupby("part", sort=False)
    most = most["steps"].max()
    if not most.notna().any():
        return Finding(claim, complete=complete)
    text = ", ".join(f"{method} {steps:,.0f}" for method, steps in most.items())
    return Finding(claim, text, bool(most.max() <= STEPS), complete)


def main():
    """Run the benchmark from the command line."""
    options = parse_arguments(__doc__, tuple(METHODS))
    rows = run(list_tasks(options.quick), compute, PROTOCOLS, options)
    finish(report(rows), rows)


if __name__ == "__main__":
    main()
