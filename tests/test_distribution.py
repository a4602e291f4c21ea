"""Tests of the wheel, the sdist and the files that describe the package."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import sklearn_pgb

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder with a wheel and an sdist of this checkout."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def sources(folder):
    """Files of a folder of this checkout, without generated ones."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_wheel_holds_the_package_and_nothing_else(built):
    (path,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(path).namelist())
    info = f"sklearn_pgb-{sklearn_pgb.__version__}.dist-info"
    added = {"METADATA", "RECORD", "WHEEL", "licenses/LICENSE"}
    assert path.name == f"sklearn_pgb-{sklearn_pgb.__version__}-py3-none-any.whl"
    assert names == sources("sklearn_pgb") | {f"{info}/{name}" for name in added}
    assert "sklearn_pgb/py.typed" in names


def test_wheel_says_what_it_needs(built):
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        (name,) = (each for each in wheel.namelist() if each.endswith("/METADATA"))
        lines = wheel.read(name).decode().splitlines()
    assert "License-Expression: BSD-3-Clause" in lines
    assert f"Requires-Python: {PROJECT['requires-python']}" in lines
    needed = {line for line in lines if re.match(r"Requires-Dist: [^;]*$", line)}
    assert len(needed) == len(PROJECT["dependencies"])


def test_sdist_holds_what_its_tests_need(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    texts = {"README.md", "CHANGES.md", "CONTRIBUTING.md", "LICENSE", "CITATION.cff"}
    build = {"pyproject.toml", "constraints.txt", "Makefile", "PKG-INFO"}
    assert names >= sources("sklearn_pgb") | sources("tests") | texts | build
    assert {
        "doc/theory.md",
        "examples/predict/plot_quickstart.py",
        "tools/structure.py",
    } <= names
    strange = {name for name in names if re.search(r"\.(npz|pyc|jsonl|png)$", name)}
    figures = {name for name in sources("benchmarks") if name.endswith(".png")}
    assert strange == {name for name in figures if "/results/" in name}
    assert not any(name.startswith((".venv", "build/", "dist/")) for name in names)


def test_citation_is_about_this_version():
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == sklearn_pgb.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["keywords"] == PROJECT["keywords"]
    assert citation["authors"] == [
        {"name": author["name"]} for author in PROJECT["authors"]
    ]


def test_cited_papers_are_those_of_the_documentation():
    """Title, year and journal of each reference stand in doc/theory.md as well."""
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    theory = (ROOT / "doc/theory.md").read_text("utf-8")
    words = " ".join(theory.split()).lower()
    papers = citation["references"]
    assert len(papers) == len(re.findall(r"^K\. Kawaguchi", theory, re.M))
    for paper in papers:
        place = paper.get("journal") or paper["conference"]["name"]
        for text in (paper["title"], place, str(paper["year"])):
            assert text.lower() in words


def test_makefile_asks_for_the_python_of_the_package():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    major, minor = re.fullmatch(r">=(\d+)\.(\d+)", PROJECT["requires-python"]).groups()
    assert f"sys.version_info < ({major}, {minor})" in makefile
    assert f"Python {major}.{minor} or later is needed" in makefile
