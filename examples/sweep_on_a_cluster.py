"""
A sweep on a Dask cluster
=========================

Run a grid search over networks and their refits on the workers of a Dask cluster. Here
the cluster is this machine; pass the address of a scheduler to `Client` to use others.
The scores are equal to those of a sweep in one process, bit for bit. Trained networks
are cached, so candidates with the same network train it once, and an interrupted sweep
can be resumed.
"""

import tempfile
import time

import numpy as np
from distributed import Client, LocalCluster
from joblib import Memory, parallel_config
from sklearn.datasets import load_diabetes
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import scale

from sklearn_pgb import AddedNeuronRegressor, GradientBasisRefit


def make_search(folder):
    """Grid search over three widths and four alphas of the refit."""
    network = AddedNeuronRegressor(activation="tanh", random_state=0)
    refit = GradientBasisRefit(network, memory=Memory(folder, verbose=0))
    grid = {
        "estimator__hidden_layer_sizes": [(5,), (10,), (20,)],
        "alpha": np.logspace(-4, -1, 4),
    }
    return GridSearchCV(refit, grid, cv=4)


def main():
    """Search on the cluster, again with the cache, and in one process."""
    X, y = load_diabetes(return_X_y=True)
    X, y = scale(X), scale(y)
    searches, seconds = {}, {}
    # Workers on other machines need a folder that all of them can reach.
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as other,
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster),
    ):
        for name, cache, config in [
            ("cluster", folder, {"backend": "dask"}),
            ("cluster, from the cache", folder, {"backend": "dask"}),
            ("one process", other, {"backend": "loky", "n_jobs": 1}),
        ]:
            start = time.perf_counter()
            with parallel_config(**config):
                searches[name] = make_search(cache).fit(X, y)
            seconds[name] = time.perf_counter() - start
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
