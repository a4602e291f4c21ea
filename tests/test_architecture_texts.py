"""Tests that docs, docstrings and texts agree with the package."""

import ast
import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import sklearn_pgb

ROOT = Path(__file__).resolve().parents[1]

# Spelled in two parts, so that this file does not hold the words it looks for.
LOCAL_PATHS = tuple(f"/{name}/" for name in ("work", "root", "home", "Users"))
TEXT = {".py", ".md", ".rst", ".toml", ".txt", ".yaml", ".yml", ".cfg", ".css", ""}
WRITTEN_BY_TOOLS = {"build", "dist", "__pycache__", "gallery"}


def missing_from_api_page(names, page):
    """Find public names that do not have a line on the API page."""
    listed = {line.strip().removeprefix("~sklearn_pgb.") for line in page.splitlines()}
    return [name for name in names if not name.startswith("__") and name not in listed]


def documented_defaults(docstring):
    """Return {name: default} of the Parameters section, None if it names no default."""
    section = re.search(
        r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-{3,}\n|\Z)", docstring, re.M | re.S
    )
    defaults = {}
    if section:
        for entry in re.finditer(
            r"^(\w[\w, *]*) :((?:[^\n]*\\\n)*[^\n]*)$", section[1], re.M
        ):
            default = re.search(r"default=(.+)$", entry[2])
            for name in entry[1].split(", "):
                defaults[name.lstrip("*")] = default[1].strip() if default else None
    return defaults


def same_value(text, value):
    """Whether the documented `text` is how one writes `value`."""
    try:
        return ast.literal_eval(text) == value
    except (ValueError, SyntaxError):
        return text == getattr(value, "__name__", str(value))


def default_problems(function, name, complete=True):
    """Compare the defaults in a docstring with the defaults in the signature.

    With ``complete=False`` the docstring may pass over a parameter (a method of
    scikit-learn's convention need not explain X again), but what it says must be true.
    """
    documented = documented_defaults(inspect.getdoc(function) or "")
    parameters = {
        parameter.name: parameter.default
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self"
    }
    problems = []
    for parameter, default in parameters.items():
        where, text = f"{name}({parameter})", documented.get(parameter)
        if default is inspect.Parameter.empty:
            if complete and parameter not in documented:
                problems.append(f"{where} is not documented")
            if text is not None:
                problems.append(f"{where} documents {text}, and has no default")
        elif text is None:
            if complete:
                problems.append(f"{where} does not document {default!r}")
        elif not same_value(text, default):
            problems.append(f"{where} documents {text}, uses {default!r}")
    extra = [parameter for parameter in documented if parameter not in parameters]
    return problems + [f"{name}({parameter}) does not exist" for parameter in extra]


def public_default_problems(module):
    """Apply `default_problems` to public functions, classes and their methods."""
    problems = []
    for name in module.__all__:
        thing = getattr(module, name)
        if not callable(thing):
            continue
        problems += default_problems(thing, name)
        if inspect.isclass(thing):
            for method_name, method in vars(thing).items():
                if inspect.isfunction(method) and not method_name.startswith("_"):
                    where = f"{name}.{method_name}"
                    problems += default_problems(method, where, complete=False)
    return problems


def local_paths(root):
    """Find texts that name a folder of somebody's machine."""
    tops = [top for top in sorted(root.iterdir()) if not top.name.startswith(".")]
    return [
        f"{path.relative_to(root)} names {word}"
        for top in tops
        for path in (top, *sorted(top.rglob("*")))
        if path.is_file() and path.suffix in TEXT
        if not WRITTEN_BY_TOOLS & set(path.relative_to(root).parts)
        for word in LOCAL_PATHS
        if word in path.read_text(encoding="utf-8", errors="replace")
    ]


def test_public_names_stand_on_the_api_page():
    page = (ROOT / "doc" / "api.rst").read_text(encoding="utf-8")
    assert missing_from_api_page(sklearn_pgb.__all__, page) == []


def test_public_names_have_an_example():
    for name in sklearn_pgb.__all__:
        docstring = inspect.getdoc(getattr(sklearn_pgb, name)) or ""
        assert name.startswith("__") or "Examples\n---" in docstring, name


def test_documented_defaults_are_the_defaults():
    assert public_default_problems(sklearn_pgb) == []


def test_no_text_names_a_local_folder():
    assert local_paths(ROOT) == []


def test_cases_of_the_theory_are_listed():
    text = (ROOT / "doc" / "theory.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"\b(?:AN|CV|GB|RN)-\d+\b", text))
    tested = {
        f"{family}-{number}"
        for path in (ROOT / "tests").glob("test_*.py")
        for family, number in re.findall(
            r"def test_(AN|CV|GB|RN)_(\d+)", path.read_text(encoding="utf-8")
        )
    }
    assert tested == listed != set()


def test_name_missing_from_api_page_is_found():
    page = (
        "API\n===\n\n.. autosummary::\n\n   Found\n\nMissing is only mentioned here.\n"
    )
    assert missing_from_api_page(["Found", "Missing", "__version__"], page) == [
        "Missing"
    ]


def wrong_defaults(z, a, b=1, *, c="x", d=2, f=None):
    """Do nothing.

    Parameters
    ----------
    a : int, default=0
        Has no default.
    b : {"one", \
            "two"} or int, default=1
        Is right.
    c : str, default="y"
        Is wrong.
    d : int
        Names no default.
    g : int
        Does not exist.

    Returns
    -------
    f : None
        Not a parameter's entry.
    """


def test_wrong_default_is_found():
    assert default_problems(wrong_defaults, "f") == [
        "f(z) is not documented",
        "f(a) documents 0, and has no default",
        "f(c) documents \"y\", uses 'x'",
        "f(d) does not document 2",
        "f(f) does not document None",
        "f(g) does not exist",
    ]


def test_wrong_default_of_a_method_is_found():
    class Public:
        """Hold one method."""

        def fit(self, X, weight=None):
            """Fit.

            Parameters
            ----------
            weight : array, default=1
                Is wrong.
            """

    module = SimpleNamespace(__all__=["Public"], Public=Public)
    assert public_default_problems(module) == [
        "Public.fit(weight) documents 1, uses None"
    ]


def test_local_path_is_found(tmp_path):
    name = LOCAL_PATHS[0] + "main"
    for folder in ("doc", "build", ".venv"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.md").write_text(name)
    assert local_paths(tmp_path) == [f"doc/a.md names {LOCAL_PATHS[0]}"]
