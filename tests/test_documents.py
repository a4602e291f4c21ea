"""The Python code that README.md and the documentation show must run as it stands."""

import re
import runpy
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    "README.md",
    "doc/user_guide.md",
    "doc/tables.md",
    "doc/training.md",
    "doc/resnet_basis.md",
    "doc/certificates.md",
    "doc/influence.md",
    "doc/sweeps.md",
    "doc/works_with.md",
]
# The quickstart and the front door, which take a minute, run with the documentation.
EXAMPLES = [
    "plot_added_neuron.py",
    "plot_certificate.py",
    "plot_failure_mode.py",
    "plot_handcrafted_vs_induced.py",
    "plot_mislabelled.py",
    "plot_own_basis.py",
    "plot_refit_trees.py",
]


def code_blocks(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)


@pytest.mark.parametrize("page", PAGES)
def test_code_runs(page, tmp_path, monkeypatch):
    """The blocks of a page run in order, in one namespace, as a reader runs them."""
    monkeypatch.chdir(tmp_path)
    namespace = {}
    blocks = code_blocks(page)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)


def test_readme_example_is_short():
    """What the first screen shows is what a reader tries: twelve lines of code."""
    (example, *_) = code_blocks("README.md")
    assert sum(1 for line in example.splitlines() if line.strip()) <= 12


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name, tmp_path, monkeypatch, capsys):
    """An example prints what it found and saves its figure where it is told to."""
    matplotlib.use("Agg")
    figure = tmp_path / "figure.png"
    monkeypatch.setattr(sys, "argv", [name, str(figure)])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    plt.close("all")
    assert figure.stat().st_size > 10_000
    assert "| --: |" in capsys.readouterr().out
