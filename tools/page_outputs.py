"""Run the Python blocks of pages and write what they print below them.

    python tools/page_outputs.py README.md doc/*.md

The blocks of a page run in order, in one namespace. The output of a block is a `text`
block right below it, and is rewritten only if it differs by more than rounding;
tests/test_documents.py fails if it does.
"""

import contextlib
import io
import os
import re
import sys
import tempfile
from pathlib import Path

# A Python block, and the output below it if there is one.
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.M | re.S
)
# Gradients and gaps below it are zero up to rounding, which depends on the processor.
RESIDUE = 1e-9
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.]*\w)")


def blocks(text):
    """Pairs of code and output (None if there is none)."""
    return [(match["code"], match["output"]) for match in BLOCK.finditer(text)]


def run(code, name, namespace):
    """Run one block; return what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, name, "exec"), namespace)
    return printed.getvalue()


def same(expected, got):
    """Whether two outputs differ by rounding only.

    Numbers with a fractional part may differ by 5 % or by two units of the last digit
    shown, and those below RESIDUE are what rounding leaves; integers and words must be
    equal, white space need not.
    """
    shapes = [" ".join(NUMBER.sub("#", text).split()) for text in (expected, got)]
    if shapes[0] != shapes[1]:
        return False
    pairs = zip(NUMBER.findall(expected), NUMBER.findall(got), strict=True)
    return all(close(*pair) for pair in pairs)


def close(expected, got):
    """Whether two numbers, as texts, are equal up to rounding."""
    if "." not in expected and "e" not in expected:
        return expected == got
    digits = len(expected.partition("e")[0].partition(".")[2])
    exponent = int(expected.partition("e")[2] or 0)
    tolerance = max(2 * 10.0 ** (exponent - digits), 0.05 * abs(float(expected)))
    values = float(expected), float(got)
    is_residue = max(map(abs, values)) < RESIDUE
    return is_residue or abs(values[0] - values[1]) <= tolerance


def updated(text, name):
    """The page with the outputs of this machine."""
    namespace = {}

    def replace(match):
        output = run(match["code"], name, namespace)
        if match["output"] is not None and same(match["output"], output):
            return match[0]
        page = f"```python\n{match['code']}```\n"
        return page + f"\n```text\n{output}```\n" if output else page

    return BLOCK.sub(replace, text)


def main(pages):
    """Rewrite the pages; their blocks run in an empty folder."""
    paths = [Path(page).resolve() for page in pages]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for path in paths:
            text = path.read_text(encoding="utf-8")
            path.write_text(updated(text, path.name), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
