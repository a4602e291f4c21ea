"""Forked processes can predict and fit after the parent used threads."""

import os
import subprocess
import sys
import textwrap

import pytest

# Run in a separate process, so that a child that hangs does not stop the tests.
SCRIPT = """
    import multiprocessing, os, sys, warnings
    import numpy as np, torch
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn_pgb import (
        AddedNeuronClassifier, AddedNeuronRegressor, GradientBasisRefit,
        ResNetBasisClassifier, ResNetBasisRegressor, certify,
    )

    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 12))
    y = np.sin(X[:, 0]) + 0.1 * rng.standard_normal(400)
    labels = (y > 0).astype(int)
    short = {"hidden_layer_sizes": (60,), "max_iter": 3, "random_state": 0}
    module = torch.nn.Sequential(
        torch.nn.Linear(12, 60), torch.nn.PReLU(), torch.nn.Linear(60, 1)
    )
    MODELS = {
        "refit": lambda: GradientBasisRefit(MLPRegressor(**short), alpha=0.1),
        "refit_classifier": lambda: GradientBasisRefit(
            MLPClassifier(**short), alpha=0.1
        ),
        "refit_module": lambda: GradientBasisRefit(
            module, loss="squared_error", alpha=0.1
        ),
        "added_neuron": lambda: AddedNeuronRegressor(**short),
        "added_neuron_classifier": lambda: AddedNeuronClassifier(**short),
        "resnet": lambda: ResNetBasisRegressor(cv=None, **short),
        "resnet_classifier": lambda: ResNetBasisClassifier(cv=None, **short),
    }

    if sys.argv[1] == "fork":
        MODELS = {name: MODELS[name] for name in ("refit_module", "added_neuron")}

    def targets(name):
        return labels if name.endswith("classifier") else y

    def in_child(name):
        assert torch.get_num_threads() == 1
        model = fitted[name]
        ahead = model.predict(X[:300])
        again = MODELS[name]().fit(X, targets(name)).predict(X[:300])
        np.linalg.svd(X)
        return ahead, again

    torch.set_num_threads(2)
    big = torch.randn(1500, 1500)
    for _ in range(3):
        (big @ big).exp_()
    np.linalg.svd(X @ X.T)
    fitted = {name: make().fit(X, targets(name)) for name, make in MODELS.items()}
    expected = {name: model.predict(X[:300]) for name, model in fitted.items()}
    (big @ big).exp_()
    assert torch.get_num_threads() == 2
    if sys.argv[1] == "pool":
        with multiprocessing.get_context("fork").Pool(2) as pool:
            found = dict(zip(fitted, pool.map(in_child, fitted)))
        for name, (ahead, again) in found.items():
            np.testing.assert_allclose(ahead, expected[name], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(again, expected[name], rtol=1e-4, atol=1e-4)
    else:
        from sklearn_pgb._threads import local_randomness, threads_for
        import threading

        # Another thread holds the locks while this one forks.
        ready, done = threading.Event(), threading.Event()

        def hold():
            with threads_for(0), local_randomness(0):
                ready.set()
                done.wait()

        holder = threading.Thread(target=hold)
        holder.start()
        ready.wait()
        child = os.fork()
        if child == 0:
            ahead, _ = in_child("refit_module")
            in_child("added_neuron")
            same = np.allclose(ahead, expected["refit_module"])
            os._exit(0 if same else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        done.set()
        holder.join()
    assert torch.get_num_threads() == 2
    print("finished")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("kind", ["pool", "fork"])
def test_forked_children_do_not_wait_for_threads(kind, tmp_path):
    """Every estimator predicts and fits in a child of a parent with two threads."""
    path = tmp_path / "forks.py"
    path.write_text(textwrap.dedent(SCRIPT))
    result = subprocess.run(
        [sys.executable, str(path), kind],
        env=os.environ
        | {
            "OMP_NUM_THREADS": "2",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert result.stdout.endswith("finished\n"), result.stderr
