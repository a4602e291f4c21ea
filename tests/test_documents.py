"""Code of README.md, pages and examples runs and prints the output shown."""

import re
import runpy
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).resolve().parents[1]
OUTPUTS = runpy.run_path(str(ROOT / "tools/page_outputs.py"))
DRAWING = runpy.run_path(str(ROOT / "benchmarks/draw_tables.py"))
# changes.md includes CHANGES.md, and index.md shows the code of README.md.
WITHOUT_CODE = {"changes.md", "index.md"}
PAGES = ["README.md"] + [
    f"doc/{path.name}"
    for path in sorted((ROOT / "doc").glob("*.md"))
    if path.name not in WITHOUT_CODE and "```python" in path.read_text("utf-8")
]
# The others, which take longer, run with the documentation.
EXAMPLES = [
    "predict/plot_jacobian_features.py",
    "predict/plot_refit_trees.py",
    "theorems/plot_added_neuron.py",
    "understand/plot_certificate.py",
    "understand/plot_handcrafted_vs_induced.py",
    "understand/plot_mislabelled.py",
    "understand/plot_own_basis.py",
]


def page_text(page):
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore")  # some blocks stop trainings on purpose
@pytest.mark.parametrize("page", PAGES)
def test_code_prints_what_is_shown(page, tmp_path, monkeypatch):
    """The blocks of a page run in order, in one namespace, as a reader runs them."""
    monkeypatch.chdir(tmp_path)
    namespace = {}
    blocks = OUTPUTS["blocks"](page_text(page))
    assert blocks
    for code, shown in blocks:
        printed = OUTPUTS["run"](code, page, namespace)
        message = f"{page} shows\n{shown}\nand prints\n{printed}"
        assert OUTPUTS["same"](shown or "", printed), message
    plt.close("all")


@pytest.mark.parametrize(
    ("shown", "printed", "expected"),
    [
        ("loss 0.123", "loss 0.125", True),
        ("loss 0.123", "loss 0.133", False),
        ("loss 0.123", "risk 0.123", False),
        ("3 of 4", "3 of 5", False),
        ("gap 1.00e-08", "gap 1.04e-08", True),
        ("gap 1.00e-08", "gap 2e-08", False),
        ("gradient 7.2e-16", "gradient 4.2e-11", True),
        ("gradient 7.2e-16", "gradient 4.2e-08", False),
        ("a   b\n", "a b", True),
    ],
)
def test_outputs_may_differ_by_rounding(shown, printed, expected):
    assert OUTPUTS["same"](shown, printed) == expected


def test_readme_example_is_short():
    """The first example of the README has a few lines."""
    ((code, _), *_) = OUTPUTS["blocks"](page_text("README.md"))
    assert sum(1 for line in code.splitlines() if line.strip()) <= 6


def test_landing_page_shows_the_example_of_the_readme():
    first, *_ = OUTPUTS["blocks"](page_text("README.md"))
    assert OUTPUTS["blocks"](page_text("doc/index.md")) == [first]


def test_benchmark_figures_are_those_of_the_results():
    """The table is the one that draw_tables.py prints; texts repeat its figures."""
    results = page_text("benchmarks/results/tables.md")
    table = DRAWING["readme_table"](results)
    readme = page_text("README.md")
    assert "\n".join(table) in readme
    known = set(re.findall(r"[\d.]+ ± [\d.]+", table[-1] + table[-2]))
    stated = set(re.findall(r"[\d.]+ ± [\d.]+\d", page_text("doc/index.md")))
    assert stated
    assert stated <= known


@pytest.mark.parametrize("part", ["regression", "classification"])
def test_ratios_drawn_are_those_that_the_benchmark_printed(part):
    results = page_text("benchmarks/results/tables.md")
    relative = DRAWING["relative_losses"](results, part)
    ours = relative["GradientBasis"]
    title = f"## {part}: ours against each"
    section = results[results.index(title) :]
    row = re.search(r"\| CatBoost +\| +([\d.]+) ± ([\d.]+)", section)
    ratio = float(DRAWING["np"].exp(ours.mean()))
    assert ratio == pytest.approx(float(row[1]), rel=0.01)
    assert ratio * ours.sem() == pytest.approx(float(row[2]), rel=0.05)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name, tmp_path, monkeypatch, capsys):
    """An example prints a result and saves its figure in the given folder."""
    matplotlib.use("Agg")
    figure = tmp_path / "figure.png"
    monkeypatch.setattr(sys, "argv", [name, str(figure)])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    plt.close("all")
    assert figure.stat().st_size > 10_000
    assert "| --: |" in capsys.readouterr().out
