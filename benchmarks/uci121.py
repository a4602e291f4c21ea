"""Classification on the UCI-121 collection with its published folds.

Compares the refit with its own network, a default network, a random forest and a
Gaussian SVM, by accuracy, log loss and time.
"""

from functools import cache

import numpy as np
from _harness import (
    Finding,
    Split,
    Task,
    TimedMLPClassifier,
    covers,
    data_sets,
    finish,
    fit_seconds,
    load,
    means_and_errors,
    parse_arguments,
    print_scores,
    run,
    scores,
    tasks_of,
    time_finding,
    timed_fit,
)
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from sklearn_pgb import GradientBasisRefit

# Accuracy and log loss use sets of at most SMALL rows, times of at most LARGE rows.
SMALL, LARGE = 5_000, 10_000
FOLDERS = ("uci121/*", "image/*", "tabular/*")
QUICK_SETS = ("uci121/iris", "uci121/wine", "uci121/glass", "uci121/zoo")

NETWORK = {
    "hidden_layer_sizes": (64,),
    "activation": "tanh",
    "max_iter": 200,
    "alpha": 1e-2,
    "learning_rate_init": 3e-3,
}
# Cross-fitting with 5 folds rounds this up to one network per fold.
N_NETWORKS = 4
MEAN, REFIT = "mean of fold networks", "cross-fitted refit"
FOREST, SVM = "random forest", "SVM"
METHODS = ("network", "default network", FOREST, SVM, MEAN, "refit", REFIT)


# --- parts --------------------------------------------------------------------


def probabilities(split, model):
    """Test probabilities of every class of the data set.

    A class that the training part lacks has probability 0.
    """
    result = np.zeros((len(split.y_test), len(split.classes)))
    columns = np.searchsorted(split.classes, model.classes_)
    result[:, columns] = model.predict_proba(split.X_test)
    return result


def note(split, method, probabilities):
    """Store accuracy and log loss of predicted probabilities."""
    note_labels(split, method, split.classes[probabilities.argmax(axis=1)])
    clipped = np.clip(probabilities, 1e-15, 1.0)
    clipped /= clipped.sum(axis=1, keepdims=True)
    loss = log_loss(split.y_test, clipped, labels=split.classes)
    split.note("log loss", method, loss)


def note_labels(split, method, labels):
    """Store the accuracy of predicted labels."""
    split.note("accuracy", method, (labels == split.y_test).mean())


def networks(split, seed):
    """Evaluate a network, its refit, and the mean and the refit of several.

    The cross-fitted refit trains a network per fold and chooses alpha on held-out
    samples. The refit of one network uses this alpha and the features of the network
    that was trained on all samples.
    """
    network = TimedMLPClassifier(**NETWORK, random_state=seed)
    network = make_pipeline(StandardScaler(), network)
    several = GradientBasisRefit(network, n_models=N_NETWORKS, random_state=seed)
    split.note("seconds", "refit", timed_fit(several, split.X, split.y)["refit"])
    split.note("seconds", "network", fit_seconds(network, split.X, split.y))
    # An infinite alpha, that is the networks themselves, is not a valid parameter.
    one = GradientBasisRefit(
        FrozenEstimator(network),
        alpha=min(several.alpha_, 1e6),
        center=several.center_,
    )
    one.fit(split.X, split.y)
    members = [probabilities(split, member) for member in several.estimators_]
    note(split, "network", probabilities(split, network))
    note(split, "refit", probabilities(split, one))
    note(split, MEAN, np.mean(members, axis=0))
    note(split, REFIT, probabilities(split, several))


def rivals(split, seed):
    """Evaluate the default network, a random forest and a Gaussian SVM."""
    models = {
        "default network": MLPClassifier(random_state=seed),
        FOREST: RandomForestClassifier(500, random_state=seed),
        SVM: SVC(C=5),
    }
    for method, classifier in models.items():
        model = make_pipeline(StandardScaler(), classifier)
        split.note("seconds", method, fit_seconds(model, split.X, split.y))
        if method == SVM:
            note_labels(split, method, model.predict(split.X_test))
        else:
            note(split, method, probabilities(split, model))


# Sets of more than SMALL rows are only used for times: one network, one split.
PARTS = {"networks": networks, "rivals": rivals, "larger": networks}
PROTOCOL = [NETWORK, N_NETWORKS]
PROTOCOLS = {"networks": PROTOCOL, "rivals": [], "larger": PROTOCOL}


def compute(task):
    """Metrics of one task."""
    split = Split(task.set, task.split)
    PARTS[task.part](split, task.split)
    return split.result


@cache
def all_tasks():
    """Tasks on the collection's small sets, semeion and the larger ones."""
    tasks = []
    for name in data_sets(*FOLDERS):
        data = load(name)
        n_rows, n_splits = len(data["y"]), len(data["splits"])
        if n_rows <= SMALL:
            parts = ("networks", "rivals")
            tasks += [Task(name, i, part) for i in range(n_splits) for part in parts]
        elif n_rows <= LARGE:
            tasks.append(Task(name, 0, "larger"))
    return tasks


def quick_tasks():
    """The tasks of a few sets on two splits."""
    return [t for t in all_tasks() if t.set in QUICK_SETS and t.split < 2]


# --- report -------------------------------------------------------------------


def report(rows):
    """Print the tables and return the findings."""
    small = [row for row in rows if row["part"] != "larger"]
    tables = {}
    for metric, factor in [("accuracy", 100), ("log loss", 1)]:
        means, errors = means_and_errors(factor * scores(small, metric))
        order = [method for method in METHODS if method in means]
        tables[metric] = means[order].sort_index()
        title = f"{metric}, mean over splits ± standard error".capitalize()
        print_scores(title, tables[metric], errors)
        whole = tables[metric].dropna()
        mean = whole.mean().to_frame(f"mean of {len(whole)} sets").T
        print_scores(f"{metric}, mean over sets".capitalize(), mean)
    seconds, _ = means_and_errors(scores(rows, "seconds"))
    print_scores("Seconds (refit: without its trainings)", seconds.sort_index())
    done = {part: covers(rows, tasks_of(all_tasks(), part)) for part in PARTS}
    return [
        *accuracy_findings(tables["accuracy"], done),
        *loss_findings(tables["log loss"], done["networks"]),
        time_finding(rows, done["networks"] and done["larger"], LARGE),
    ]


def accuracy_findings(accuracy, done):
    """Findings on differences of mean accuracy in points, over sets that have both."""
    pairs = [("refit", "network", 1.0), (REFIT, FOREST, 0.5), (REFIT, SVM, 0.5)]
    findings = []
    for method, rival, least in pairs:
        claim = f"accuracy of {method}: at least {least} points above {rival}"
        complete = done["networks"] and (rival == "network" or done["rivals"])
        both = accuracy.reindex(columns=[method, rival]).dropna()
        outcome = ()
        if len(both):
            gain = (both[method] - both[rival]).mean()
            outcome = (f"{gain:+.2f} points over {len(both)} sets", bool(gain >= least))
        findings.append(Finding(claim, *outcome, complete=complete))
    return findings


def loss_findings(losses, complete):
    """Findings on the log loss of the refit against its own network's."""
    claims = (
        "log loss of refit below its network's on at least 90 % of the sets",
        "mean log loss of refit at least 15 % lower than its network's",
    )
    both = losses.reindex(columns=["refit", "network"]).dropna()
    if both.empty:
        return [Finding(claim, complete=complete) for claim in claims]
    lower = both["refit"] < both["network"]
    ratio = both["refit"].mean() / both["network"].mean()
    lower_on = f"on {lower.sum()} of {len(both)} sets ({lower.mean():.1%})"
    decrease = f"{1 - ratio:.1%} lower ({both['network'].mean():.4f} → "
    decrease += f"{both['refit'].mean():.4f})"
    return [
        Finding(claims[0], lower_on, bool(lower.mean() >= 0.9), complete),
        Finding(claims[1], decrease, bool(ratio <= 0.85), complete),
    ]


def main():
    """Run the benchmark from the command line."""
    options = parse_arguments(__doc__, tuple(PARTS))
    tasks = quick_tasks() if options.quick else all_tasks()
    rows = run(tasks, compute, PROTOCOLS, options)
    finish(report(rows), rows)


if __name__ == "__main__":
    main()
