"""The rules of CONTRIBUTING for the form of code, held by every file of the harness, the attacks and the defenses."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FILES = sorted(path for folder in ("bench", "attacks", "defenses") for path in Path(folder).rglob("*.py"))
COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
MOST_LINES = 60


def faults(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines_of_body(node) > MOST_LINES:
            yield f"line {node.lineno}: {node.name} has over {MOST_LINES} lines of body"
        elif isinstance(node, COMPREHENSIONS) and len(node.generators) > 1:
            yield f"line {node.lineno}: a comprehension of several loops"
        elif isinstance(node, ast.IfExp) and any(isinstance(part, ast.IfExp) for part in ast.iter_child_nodes(node)):
            yield f"line {node.lineno}: a conditional expression inside another"
        elif isinstance(node, ast.Assign) and is_juggling(node):
            yield f"line {node.lineno}: a tuple assignment of three or more targets"


def is_juggling(node: ast.Assign) -> bool:
    """Say whether three or more values that are written out are assigned to as many names at once."""
    written_out = isinstance(node.value, ast.Tuple) and len(node.value.elts) > 2
    return written_out and any(isinstance(target, ast.Tuple) for target in node.targets)


def lines_of_body(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines the statements take, from the first after the docstring to the last."""
    has_docstring = ast.get_docstring(function) is not None
    first = function.body[min(has_docstring, len(function.body) - 1)]
    return (function.end_lineno or 0) - first.lineno + 1


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_file_keeps_to_the_rules(path):
    assert list(faults(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def f():\n" + "    x = 1\n" * 61, "f has over 60 lines"),
        ("x = [a for b in c for a in b]", "several loops"),
        ("x = a if b else c if d else e", "inside another"),
        ("a, b, c = 1, 2, 3", "three or more targets"),
    ],
)
def test_a_fault_is_seen(source, fault):
    (seen,) = faults(source)
    assert fault in seen


def test_what_the_rules_allow_is_no_fault():
    longest = "def f():\n    '''doc\n\n    more'''\n" + "    x = 1\n" * 60
    allowed = ["a, b = 1, 2", "a, b, c = f()", "x = [f(a) for a in b]", "x = a if b else c", "return_value = (1, 2, 3)"]
    assert [list(faults(source)) for source in (longest, *allowed)] == [[]] * 6
