"""Tests of the script that builds the folder of the benchmark data."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import get_data
from _data import DATA_SETS, digest, read


@pytest.fixture
def sources(tmp_path):
    """A folder of downloaded sources, which tests fill."""
    return get_data.Sources(tmp_path / "downloads")


def put(sources, commit, files):
    for path, content in files.items():
        file = sources.folder / "raw.githubusercontent.com" / commit / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_set_of_the_collection(sources, tmp_path):
    """Values, labels, folds and the tuning split are those of the four text files."""
    put(
        sources,
        get_data.UCI121,
        {
            "data/toy/toy_R.dat": "f1\tf2\tclase\n"
            "1\t0.5\t-1\t0\n2\t1.5\t0\t1\n3\t2.5\t1\t0\n4\t3.5\t2\t1\n",
            "data/toy/conxuntos_kfold.dat": "0 1 2\n3\n1 2 3\n0\n",
            "data/toy/conxuntos.dat": "0 3\n1\n",
        },
    )
    contents = get_data.build(sources, tmp_path, "uci121/toy")
    data = read(tmp_path / "uci121/toy.npz")
    assert contents == digest(data)
    assert_array_equal(data["X"], [[0.5, -1], [1.5, 0], [2.5, 1], [3.5, 2]])
    assert_array_equal(data["y"], [0, 1, 0, 1])
    assert data["task"] == "binary"
    for (train, test), sides in zip(
        [*data["splits"], data["tune"]],
        [([0, 1, 2], [3]), ([1, 2, 3], [0]), ([0, 3], [1])],
        strict=True,
    ):
        assert_array_equal(train, sides[0])
        assert_array_equal(test, sides[1])


def test_set_with_masks(sources, tmp_path):
    put(
        sources,
        get_data.DKL,
        {
            "uci_datasets/toy/data.csv.gz": gzip.compress(b"1,2,3\n4,5,6\n"),
            "uci_datasets/toy/test_mask.csv.gz": gzip.compress(b"1,0\n0,1\n"),
        },
    )
    get_data.build(sources, tmp_path, "dkl_regression/toy")
    data = read(tmp_path / "dkl_regression/toy.npz")
    assert_array_equal(data["X"], [[1, 2], [4, 5]])
    assert_array_equal(data["y"], [3, 6])
    assert_array_equal(data["splits"], [[[1], [0]], [[0], [1]]])


def test_digest_is_of_the_contents(tmp_path):
    """It does not depend on the compression, but on every character."""
    arrays = {"X": np.eye(3), "y": np.arange(3.0), "task": "regression"}
    splits = np.array([[0, 0, 1]], dtype=np.int8)
    for name, save in [("a", np.savez), ("b", np.savez_compressed)]:
        save(tmp_path / f"{name}.npz", splits=splits, **arrays)
    np.savez(tmp_path / "c.npz", splits=splits[:, ::-1], **arrays)
    a, b, c = (digest(read(tmp_path / f"{name}.npz")) for name in "abc")
    assert a == b != c


def test_random_fifth():
    marks = get_data.one_fifth(103)
    assert marks.shape == (1, 103)
    assert marks.sum() == 20


def test_each_listed_set_has_a_source_and_an_address():
    names = pd.read_csv(DATA_SETS)["name"]
    folders = set(names.str.partition("/")[0])
    assert folders == {*get_data.BUILDERS, "messy"} == set(get_data.BY_HAND)
    tables = names[names.str.startswith("messy/")].str.partition("/")[2]
    assert set(tables) == set(get_data.MESSY)


def test_file_that_cannot_be_downloaded_is_reported(tmp_path, monkeypatch, capsys):
    """The script goes on with the next set, and ends with an error."""

    def no_network(sources, url):
        raise OSError(f"no network for {url}")

    monkeypatch.setattr(get_data.Sources, "url", no_network)
    monkeypatch.setattr(
        sys, "argv", ["get_data.py", str(tmp_path), "--only", "*/iris", "*/servo"]
    )
    with pytest.raises(SystemExit, match="1"):
        get_data.main()
    printed = capsys.readouterr().out
    assert "uci121/iris: OSError: no network for https://raw" in printed
    assert "Not built, or not the same: dkl_regression/servo\nBy hand:" in printed
