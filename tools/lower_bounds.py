"""Lower bounds of pyproject.toml as constraints for pip: `name==version` per line.

    python tools/lower_bounds.py [--keep NAME ...]

Packages named after --keep have the version of constraints.txt instead.
"""

import argparse
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOWER_BOUND = re.compile(r"([\w.-]+)>=([\w.]+)$")
PIN = re.compile(r"([\w.-]+)==(\S+)$")


def lower_bounds(pyproject):
    """Lower bounds of the dependencies and of the extras `test` and those it names."""
    project = pyproject["project"]
    extras = project["optional-dependencies"]
    itself = re.compile(rf"{project['name']}\[(.*)\]$")
    included = ["test"]
    for requirement in extras["test"]:
        if match := itself.match(requirement):
            included += match[1].split(",")
    listed = [project["dependencies"], *(extras[extra] for extra in included)]
    matches = (
        LOWER_BOUND.match(each) for requirements in listed for each in requirements
    )
    return {match[1]: match[2] for match in matches if match}


def main():
    """Print the constraints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", nargs="*", default=[], metavar="NAME")
    keep = parser.parse_args().keep
    pins = dict(
        match.groups()
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if (match := PIN.match(line))
    )
    bounds = lower_bounds(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8")))
    for name, version in sorted((bounds | {each: pins[each] for each in keep}).items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
