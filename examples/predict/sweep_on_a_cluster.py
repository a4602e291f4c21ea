"""
A sweep on a Dask cluster
=========================

When does a cluster pay off? Run a grid search over networks and their refits on the
workers of a Dask cluster. Here the cluster is this machine, with one worker per core;
pass the address of a scheduler to `Client` to use others. Starting workers takes
seconds, so a sweep has to take longer than that to gain. The scores are equal to those
of a sweep in one process, bit for bit. Trained networks are cached, so candidates with
the same network train it once, and an interrupted sweep can be resumed.
"""

import tempfile
import time

import numpy as np
from distributed import Client, LocalCluster
from joblib import Memory, parallel_config
from sklearn.datasets import make_friedman1
from sklearn.model_selection import GridSearchCV

from sklearn_pgb import AddedNeuronRegressor, GradientBasisRefit


def make_search(folder):
    """Grid search over three widths and four alphas of the refit."""
    network = AddedNeuronRegressor(activation="tanh", random_state=0)
    refit = GradientBasisRefit(network, memory=Memory(folder, verbose=0))
    grid = {
        "estimator__hidden_layer_sizes": [(10,), (30,), (30, 30)],
        "alpha": np.logspace(-4, -1, 4),
    }
    return GridSearchCV(refit, grid, cv=4)


def main():
    """Search on the cluster, again with the cache, and in one process."""
    X, y = make_friedman1(3000, noise=1, random_state=0)
    searches, seconds = {}, {}
    # Workers on other machines need a folder that all of them can reach.
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as other,
        LocalCluster(threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        n_workers = len(client.scheduler_info()["workers"])
        for name, cache, config in [
            ("cluster", folder, {"backend": "dask"}),
            ("cluster, from the cache", folder, {"backend": "dask"}),
            ("one process", other, {"backend": "loky", "n_jobs": 1}),
        ]:
            start = time.perf_counter()
            with parallel_config(**config):
                searches[name] = make_search(cache).fit(X, y)
            seconds[name] = time.perf_counter() - start
    print(f"{n_workers} workers\n")
    print("| run | seconds | best R² | width | alpha |")
    print("| --- | --: | --: | --: | --: |")
    for name, search in searches.items():
        best = search.best_params_
        print(
            f"| {name} | {seconds[name]:.1f} | {search.best_score_:.4f} | "
            f"{best['estimator__hidden_layer_sizes'][0]} | {best['alpha']:g} |"
        )
    scores = [s.cv_results_["mean_test_score"] for s in searches.values()]
    same = all(np.array_equal(scores[0], other) for other in scores)
    print(f"\nThe scores of all runs are {'the same' if same else 'DIFFERENT'}.")


if __name__ == "__main__":
    main()
