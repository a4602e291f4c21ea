"""Command line options and fixtures that every test file shares."""

import pytest
import torch


def seed_list(text):
    """Parse "0,1,2" into a list of seeds."""
    return [int(part) for part in text.split(",")]


def pytest_addoption(parser):
    parser.addoption(
        "--seeds",
        type=seed_list,
        default=[0],
        metavar="N[,N...]",
        help="run each test that asks for `seed` with each of these (default: 0)",
    )
    parser.addoption("--slow", action="store_true", help="run tests that take minutes")


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        seeds = metafunc.config.getoption("--seeds")
        metafunc.parametrize("seed", seeds, ids=[f"seed{seed}" for seed in seeds])


@pytest.fixture
def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def torch_seed(seed):
    """Seed torch's modules, which take no generator, and leave no trace."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@pytest.fixture
def figures():
    """Draw without a screen, and leave no figure behind."""
    # Imported here, as most tests draw nothing.
    import matplotlib
    import matplotlib.pyplot as plt

    matplotlib.use("Agg")
    assert plt.get_fignums() == []
    yield
    plt.close("all")


def pytest_collection_modifyitems(config, items):
    skips = {}
    if not torch.cuda.is_available():
        skips["gpu"] = pytest.mark.skip(reason="no CUDA device")
    if not config.getoption("--slow"):
        skips["slow"] = pytest.mark.skip(reason="takes minutes, needs --slow")
    for item in items:
        for name, skip in skips.items():
            if item.get_closest_marker(name):
                item.add_marker(skip)
