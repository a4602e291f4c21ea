"""Figures of the package's structure and English, as a Markdown table.

    python tools/structure.py [ROOT]

Lines, numeric constants of modules, dataclasses that are built in one place, private
helpers that are used once, comments, circular imports, and the frequency of words that
make sentences hard to read (in docstrings and comments, per 1,000 words).
"""

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

WORDS = {
    "where": r"\bwhere\b",
    "if, when": r"\b(?:if|when)\b",
    "what, who": r"\b(?:what|who|whatever|whose)\b",
    "ridge": r"\bridges?\b",
}


def trees(folder):
    """Files of a folder with their syntax trees."""
    return {
        path: ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.py"))
    }


def n_lines(folder):
    """Lines of all Python files."""
    return sum(
        len(path.read_text(encoding="utf-8").splitlines())
        for path in folder.rglob("*.py")
    )


def numeric_constants(modules):
    """Names of module-level constants that are numbers or tuples of numbers."""
    for path, tree in modules.items():
        for node in tree.body:
            if not isinstance(node, ast.Assign):
                continue
            leaves = [
                each for each in ast.walk(node.value) if isinstance(each, ast.Constant)
            ]
            numbers = [each for each in leaves if type(each.value) in (int, float)]
            plain = not any(
                isinstance(each, ast.Call | ast.Dict | ast.JoinedStr)
                for each in ast.walk(node.value)
            )
            if numbers and len(numbers) == len(leaves) and plain:
                names = [
                    each.id
                    for target in node.targets
                    for each in ast.walk(target)
                    if isinstance(each, ast.Name) and each.id != "__all__"
                ]
                yield from ((path, name) for name in names)


def references(modules):
    """How often each name is read, called or imported in the package."""
    counts = Counter()
    for tree in modules.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                counts[node.id] += 1
            elif isinstance(node, ast.Attribute):
                counts[node.attr] += 1
    return counts


def calls(modules):
    """How often each name is called, as itself or by a class method."""
    counts = Counter()
    for tree in modules.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                function = node.func
                if isinstance(function, ast.Name):
                    counts[function.id] += 1
                elif isinstance(function, ast.Attribute):
                    if isinstance(function.value, ast.Name):
                        counts[function.value.id] += 1
    return counts


def dataclasses_built_once(modules):
    """Dataclasses that the package builds in at most one place."""
    built = calls(modules)
    found = []
    for tree in modules.values():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and any(
                "dataclass" in ast.dump(each) for each in node.decorator_list
            ):
                inside = sum(
                    isinstance(each, ast.Call)
                    and isinstance(each.func, ast.Name)
                    and each.func.id == "cls"
                    for each in ast.walk(node)
                )
                if built[node.name] + inside <= 1:
                    found.append(node.name)
    return found


def private_helpers(modules):
    """Private functions, and those of them that are used once."""
    counts = references(modules)
    helpers = [
        node.name
        for tree in modules.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("_")
        and not node.name.startswith("__")
    ]
    return helpers, [name for name in helpers if counts[name] <= 1]


def share_of_comments(folder):
    """Lines that are comments, of all lines."""
    comments = lines = 0
    for path in folder.rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            lines += 1
            comments += line.lstrip().startswith("#")
    return comments / lines


def circles(package, modules):
    """Whether files import each other, directly or not: the first circle, or none."""
    graph = {}
    for path, tree in modules.items():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.ImportFrom) and node.module):
                continue
            if not node.module.startswith(package.name):
                continue
            base = package.parent.joinpath(*node.module.split("."))
            for alias in node.names:
                inner = base / f"{alias.name}.py"
                target = inner if inner.exists() else base.with_suffix(".py")
                graph.setdefault(path, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def english(modules):
    """Frequency of each group of words in docstrings and comments, per 1,000."""
    words, counts = 0, Counter()
    for path, tree in modules.items():
        texts = [
            ast.get_docstring(node) or ""
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        ]
        source = io.StringIO(path.read_text(encoding="utf-8"))
        texts += [
            token.string
            for token in tokenize.generate_tokens(source.readline)
            if token.type == tokenize.COMMENT
        ]
        for text in texts:
            words += len(re.findall(r"[A-Za-z']+", text))
            for name, pattern in WORDS.items():
                counts[name] += len(re.findall(pattern, text, re.IGNORECASE))
    return {name: 1000 * counts[name] / max(words, 1) for name in WORDS}


def main():
    """Print the table."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1])
    package = root / "sklearn_pgb"
    modules = trees(package)
    if not modules:
        sys.exit(
            f"ROOT must be a checkout, with the files of the package in {package}, got "
            "none. Pass the folder that holds pyproject.toml."
        )
    lines = n_lines(package)
    helpers, once = private_helpers(modules)
    outside = {
        path: tree for path, tree in modules.items() if path.name != "_budget.py"
    }
    constants = len(list(numeric_constants(outside)))
    frequencies = english(modules)
    rows = [
        ("lines of the package", f"{lines:,}"),
        ("lines of tests", f"{n_lines(root / 'tests'):,}"),
        ("numeric constants per 1,000 lines", f"{1000 * constants / lines:.1f}"),
        ("dataclasses built in one place", str(len(dataclasses_built_once(modules)))),
        ("private helpers used once", f"{len(once) / max(len(helpers), 1):.0%}"),
        ("comment lines", f"{share_of_comments(package):.1%}"),
        (
            " / ".join(f'"{name}"' for name in WORDS) + " per 1,000 words",
            " / ".join(f"{value:.1f}" for value in frequencies.values()),
        ),
        ("circular imports", str(len(circles(package, modules)))),
    ]
    width = max(len(name) for name, _ in rows)
    print(f"| {'measure':{width}} | value |\n| {'-' * width} | ----: |")
    for name, value in rows:
        print(f"| {name:{width}} | {value} |")


if __name__ == "__main__":
    main()
