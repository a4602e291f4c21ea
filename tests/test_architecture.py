"""The structure of the repository: rooms, sizes, tests, API page, docstrings, words.

Each rule is a function from a folder (or an object) to a list of problems. It is
applied to the repository, where it must find none, and to a small counterexample, where
it must find one: a rule that cannot fail is no rule.
"""

import ast
import re
import runpy
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 600

# Imports point from a higher floor to a lower one.
FLOORS = {
    "_budget": 0,
    "_derivatives": 0,
    "check": 0,
    "_losses": 1,
    "_operators": 1,
    "_seeds": 1,
    "_sklearn": 1,
    "_threads": 1,
    "_version": 1,
    "_models": 2,
    "_geometry": 3,
    "_training": 3,
    "_bases": 4,
    "_convex": 4,
    "_samples": 4,
    "_targets": 4,
    "_estimator": 5,
    "_predictive": 5,
    "_added_neuron": 6,
    "_resnet": 6,
    "_refit": 6,
    "_certificate": 6,
    "_compare": 6,
    "_survey": 6,
    "_display": 6,
    "_tables": 7,
}
# A Jacobian needs the function it differentiates; a survey certifies where trainings
# end; a display draws results.
SIDEWAYS = {
    ("_bases", "_models"),
    ("_bases", "_geometry"),
    ("_survey", "_certificate"),
    ("_display", "_certificate"),
    ("_display", "_compare"),
    ("_display", "_survey"),
}
# Networks and their training on one side, convex problems on the other: below the
# border they know of each other only through SIDEWAYS.
NONCONVEX = {"_models", "_geometry", "_training"}
CONVEX = {"_bases", "_convex"}


# -- rules ---------------------------------------------------------------------------


def rooms(package):
    """Return the files of each room: {"_losses": [.../_losses.py], ...}."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        if room != "__init__":
            found.setdefault(room, []).append(path)
    return found


def imported_modules(path, package):
    """Yield the dotted name of every module or object that `path` imports."""
    parents = [package.name, *path.relative_to(package).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = parents[: len(parents) - node.level + 1] if node.level else []
            source = ".".join([*up, *filter(None, [node.module])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def stray_constants(package):
    """Yield names of module-level numbers outside `_budget.py`, with their file."""
    for path in sorted(package.rglob("*.py")):
        if path.name == "_budget.py":
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and is_number(node.value):
                targets = getattr(node, "targets", None) or [node.target]
                names = [
                    each.id
                    for target in targets
                    for each in ast.walk(target)
                    if isinstance(each, ast.Name)
                ]
                yield from (f"{path.relative_to(package)}: {name}" for name in names)


def operator_switches(package):
    """Yield lines of `_convex` that ask for an operator's type, with their file."""
    for path in sorted((package / "_convex").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) == "isinstance"
                and re.search(r"Operator\b", ast.unparse(node.args[1]))
            ):
                yield f"{path.name}: {ast.unparse(node)}"


def is_number(node):
    """Whether an expression is a number, or arithmetic or a tuple of numbers."""
    if node is None or any(isinstance(e, ast.Call | ast.Dict) for e in ast.walk(node)):
        return False
    values = [e.value for e in ast.walk(node) if isinstance(e, ast.Constant)]
    return bool(values) and all(type(value) in (int, float) for value in values)


def import_problems(package):
    """Find imports that point up, sideways or across, and rooms that have no floor."""
    problems = []
    for room, files in rooms(package).items():
        if room not in FLOORS:
            problems.append(f"{room} has no floor in FLOORS")
            continue
        for path in files:
            for name in imported_modules(path, package):
                source, _, rest = name.partition(".")
                target = rest.partition(".")[0]
                if source != package.name or target == room:
                    continue
                if not may_import(room, target):
                    problems.append(f"{path.relative_to(package)} imports {name}")
    return problems


def may_import(room, target):
    """Whether `room` may import `target`; the package itself is not a room."""
    if (room, target) in SIDEWAYS:
        return True
    if {room, target} & NONCONVEX and {room, target} & CONVEX:
        return False
    return target in FLOORS and FLOORS[target] < FLOORS[room]


def package_imports(package):
    """Yield (file, module file, name or None) for imports of the package's files."""
    for path in sorted(package.rglob("*.py")):
        for name in imported_modules(path, package):
            parts = name.split(".")
            if parts[0] != package.name:
                continue
            module = package.joinpath(*parts[1:]).with_suffix(".py")
            if module.exists():
                yield path, module, None
                continue
            module = package.joinpath(*parts[1:-1])
            init = module / "__init__.py"
            module = init if init.exists() else module.with_suffix(".py")
            yield path, module, parts[-1]


def circle_problems(package):
    """Find files that import each other, directly or not."""
    graph = {}
    for path, module, _ in package_imports(package):
        graph.setdefault(path, set()).add(module)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" -> ".join(str(path.relative_to(package)) for path in error.args[1])]
    return []


def borrowed_names(package):
    """Find imports from a file that does not define the name, or private ones."""
    problems = []
    for path, module, name in package_imports(package):
        front_door = path.parent == package and path.name == "__init__.py"
        if name is None or front_door or module.name == "_sklearn.py":
            continue
        defined = set()
        for node in ast.parse(module.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                defined |= {
                    each.id for each in ast.walk(node) if isinstance(each, ast.Name)
                }
        private = name.startswith("_") and not name.startswith("__")
        here, there = (each.relative_to(package).parts[0] for each in (path, module))
        if name not in defined or (private and here != there):
            problems.append(f"{path.relative_to(package)} imports {name}")
    return problems


def stacked_mixins(package):
    """Find mixins that inherit from classes of the package: they have one level."""
    nodes = [
        node
        for path in sorted(package.rglob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    ]
    ours = {node.name for node in nodes}
    return [
        f"{node.name} inherits from {base.id}"
        for node in nodes
        if (ast.get_docstring(node) or "").startswith("Mixin")
        for base in node.bases
        if isinstance(base, ast.Name) and base.id in ours
    ]


def private_sklearn_imports(package):
    """Find imports of scikit-learn's private names outside `_sklearn.py`."""
    problems = []
    for path in sorted(package.rglob("*.py")):
        for name in imported_modules(path, package):
            parts = name.split(".")
            private = any(part.startswith("_") for part in parts)
            if parts[0] == "sklearn" and private and path.name != "_sklearn.py":
                problems.append(f"{path.relative_to(package)} imports {name}")
    return problems


def length_problems(root):
    """Find long Python files, except the list of numbers."""
    problems = []
    for folder in ("sklearn_pgb", "tests", "benchmarks", "examples"):
        for path in sorted((root / folder).rglob("*.py")):
            n_lines = len(path.read_text(encoding="utf-8").splitlines())
            if n_lines > MAX_LINES and path.name != "_budget.py":
                problems.append(f"{path.relative_to(root)} has {n_lines} lines")
    return problems


def untested_rooms(package, tests):
    """Find rooms `_x` without `test_x.py` (or `test_x_*.py`, if that got long)."""
    return [
        room
        for room in rooms(package)
        if not (tests / f"test_{room.lstrip('_')}.py").exists()
        and not list(tests.glob(f"test_{room.lstrip('_')}_*.py"))
    ]


# -- the repository keeps them -------------------------------------------------------


def test_imports_point_down():
    assert import_problems(ROOT / "sklearn_pgb") == []


def test_numeric_constants_are_in_the_budget():
    assert list(stray_constants(ROOT / "sklearn_pgb")) == []


def test_solvers_ask_operators_and_not_their_types():
    assert list(operator_switches(ROOT / "sklearn_pgb")) == []


def test_files_are_short():
    assert length_problems(ROOT) == []


def test_each_room_has_its_tests():
    assert untested_rooms(ROOT / "sklearn_pgb", ROOT / "tests") == []


# -- and each of them can fail -------------------------------------------------------


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("file", "line"),
    [
        pytest.param("_losses.py", "import sklearn_pgb._convex", id="up"),
        pytest.param("_losses.py", "from sklearn_pgb import _convex", id="up-from"),
        pytest.param("_losses.py", "from ._convex import solve", id="up-relative"),
        pytest.param("_losses.py", "def f():\n    from . import _bases", id="up-late"),
        pytest.param("_losses/_a.py", "from .._convex import solve", id="up-folder"),
        pytest.param("_losses.py", "from sklearn_pgb import Loss", id="up-front-door"),
        pytest.param("_models.py", "import sklearn_pgb._bases", id="sideways"),
        pytest.param("_refit.py", "import sklearn_pgb._certificate", id="sideways-top"),
        pytest.param("_convex.py", "import sklearn_pgb._models", id="across"),
        pytest.param("_training.py", "import sklearn_pgb._bases", id="across-back"),
        pytest.param("_helpers.py", "", id="no-floor"),
    ],
)
def test_wrong_import_is_found(tmp_path, file, line):
    package = write(tmp_path / "sklearn_pgb", {file: line})
    assert len(import_problems(package)) == 1


@pytest.mark.parametrize("find", [circle_problems, borrowed_names])
def test_names_come_from_where_they_are_defined(find):
    assert find(ROOT / "sklearn_pgb") == []


def test_mixins_have_one_level(tmp_path):
    assert stacked_mixins(ROOT / "sklearn_pgb") == []
    mixin = 'class {}:\n    """Mixin of models."""\n'
    text = mixin.format("A(Foreign)") + mixin.format("B(A)") + "class C(A, B): ..."
    package = write(tmp_path / "sklearn_pgb", {"_a.py": text})
    assert stacked_mixins(package) == ["B inherits from A"]


def test_map_of_the_rooms_is_that_of_the_imports():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    (\d) +(_.*)$", text, re.MULTILINE)
    drawn = {room: int(floor) for floor, line in lines for room in line.split()}
    assert drawn == FLOORS


def test_private_names_of_sklearn_have_one_door(tmp_path):
    assert private_sklearn_imports(ROOT / "sklearn_pgb") == []
    line = "from sklearn.utils.validation import _check_y"
    package = write(tmp_path / "sklearn_pgb", {"_refit.py": line, "_sklearn.py": line})
    assert len(private_sklearn_imports(package)) == 1


@pytest.mark.parametrize(
    ("line", "n_found"),
    [
        ("TOL = 1e-3", 1),
        ("STEPS, SIZES = 3, (1, -2)", 2),
        ("TOL: float = 1e-3", 1),
        ("LIMIT = 2 * BOUND", 1),
        ("NAMES = ('a', 'b')", 0),
        ("def f(tol=1e-3): pass", 0),
    ],
)
def test_stray_constants_are_found(tmp_path, line, n_found):
    (tmp_path / "_a.py").write_text(line)
    (tmp_path / "_budget.py").write_text("TOL = 1e-3")
    assert len(list(stray_constants(tmp_path))) == n_found


@pytest.mark.parametrize(
    ("line", "n_found"),
    [
        ("isinstance(operator, KroneckerOperator)", 1),
        ("isinstance(problem.operator, (Tensor, _dense.DenseOperator))", 1),
        ("isinstance(operator, Tensor)", 0),
        ("operator.shared_features is None", 0),
    ],
)
def test_switches_on_operators_are_found(tmp_path, line, n_found):
    write(tmp_path, {"_convex/_a.py": line, "_operators/_b.py": line})
    assert len(list(operator_switches(tmp_path))) == n_found


def test_circles_are_found(tmp_path):
    files = {
        "_convex/_a.py": "from sklearn_pgb._convex._b import f",
        "_convex/_b.py": "def f():\n    from sklearn_pgb._convex import _c",
        "_convex/_c.py": "from ._a import f",
    }
    package = write(tmp_path / "sklearn_pgb", files)
    assert len(circle_problems(package)) == 1
    (package / "_convex/_c.py").write_text("")
    assert circle_problems(package) == []


@pytest.mark.parametrize(
    ("line", "is_right"),
    [
        ("from sklearn_pgb._losses import Loss", True),
        ("from sklearn_pgb._losses import torch", False),
        ("from sklearn_pgb._losses import _check", False),
        ("from sklearn_pgb._convex import Loss", False),
    ],
)
def test_borrowed_names_are_found(tmp_path, line, is_right):
    losses = "import torch\nclass Loss: ...\ndef _check(): ...\n"
    files = {"_losses.py": losses, "_refit.py": line}
    files["_convex/__init__.py"] = "from sklearn_pgb._losses import Loss"
    package = write(tmp_path / "sklearn_pgb", files)
    found = [each for each in borrowed_names(package) if each.startswith("_refit")]
    assert (found == []) is is_right


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("_refit.py", "from sklearn_pgb._convex import solve"),
        ("_bases.py", "from sklearn_pgb._models import Network"),
        ("_convex/_path.py", "from sklearn_pgb._convex._solve import solve"),
        ("_convex/_path.py", "from ._solve import solve"),
        ("__init__.py", "from sklearn_pgb._refit import GradientBasisRefit"),
        ("_losses.py", "import torch"),
    ],
)
def test_right_import_is_accepted(tmp_path, file, line):
    assert import_problems(write(tmp_path / "sklearn_pgb", {file: line})) == []


def test_long_file_is_found(tmp_path):
    write(tmp_path, {"sklearn_pgb/_a.py": "\n" * 600, "tests/test_a.py": "\n" * 601})
    assert length_problems(tmp_path) == ["tests/test_a.py has 601 lines"]


def test_untested_room_is_found(tmp_path):
    files = ["_a.py", "_b/_c.py", "_d.py"]
    package = write(tmp_path / "sklearn_pgb", dict.fromkeys(files, ""))
    tests = write(tmp_path / "tests", {"test_a.py": "", "test_b_speed.py": ""})
    assert untested_rooms(package, tests) == ["_d"]


def test_figures_of_the_structure(monkeypatch, tmp_path, capsys):
    """A table of a checkout, and a message for other folders."""
    tool = str(ROOT / "tools" / "structure.py")
    package = write(tmp_path, {"sklearn_pgb/_a.py": "def _f(): ...", "tests/b.py": ""})
    monkeypatch.setattr(sys, "argv", [tool, str(package)])
    runpy.run_path(tool, run_name="__main__")
    assert "| private helpers used once " in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [tool, str(tmp_path / "tests")])
    with pytest.raises(SystemExit, match="ROOT must be a checkout"):
        runpy.run_path(tool, run_name="__main__")
