"""One source file: the hash of what it does, its imports, and the files that it may name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from bench.keys import sha256_hex
from bench.methods.canonical import canonical_code
from bench.methods.local_variables import may_read_names
from bench.methods.tree import TOO_DEEP, called_name, parsed

_IMPORTING = {"import_module", "__import__"}
_JOINING = {"join", "joinpath", "Path", "with_name"}
LONGEST_PATH = 1024


class Import(NamedTuple):
    """``import module`` (no names) or ``from module import names``; ``level`` counts the dots before the module."""

    module: str
    names: tuple[str, ...] = ()
    level: int = 0


class Syntax(NamedTuple):
    """A source file: the hash of what it does, what it imports, and its strings that could name a file.

    ``reads_names`` says that it may look up names of variables as it runs, also those of the code that calls it.
    """

    sha: str
    reads_names: bool
    imports: tuple[Import, ...]
    strings: tuple[str, ...]


@lru_cache(maxsize=4096)
def syntax(source: bytes, *, with_names: bool = False) -> Syntax:
    """Return what counts of a source text.

    Args:
        source: the text.
        with_names: the names of local variables are part of the hash, as they always are if the file may read them.

    Raises:
        ValueError: it is not valid Python, too long, or nested too deeply.
    """
    tree = parsed(source)
    imports: list[Import] = []
    strings: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [Import(alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports.append(Import(node.module or "", tuple(alias.name for alias in node.names), node.level))
        elif isinstance(node, ast.Call) and called_name(node.func) in _IMPORTING and (name := _text(node.args[:1])):
            imports.append(Import(name.lstrip("."), (), len(name) - len(name.lstrip("."))))
        strings |= dict.fromkeys(_paths(node))
    reads_names = may_read_names(tree)
    try:
        sha = sha256_hex(canonical_code(tree, with_names=with_names or reads_names))
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    return Syntax(sha, reads_names, tuple(imports), tuple(strings))


def _text(nodes: list[ast.expr]) -> str | None:
    """Return the text that the first node is, if it is one."""
    return next((n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)), None)


def _paths(node: ast.AST) -> Iterator[str]:
    """Yield strings in a node that could be paths; a joined path ends with a slash, as it may be a folder's."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        # A bare word counts only where it may be what a call opens.
        if "." in node.value or "/" in node.value:
            yield from _path([node.value])
    elif isinstance(node, ast.Call) and called_name(node.func) in _JOINING:
        yield from _runs(node.args)
    elif isinstance(node, ast.Call) and (word := _text(node.args[:1])) is not None:
        yield from _path([word])
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        parts: list[ast.expr] = [node.right]
        while isinstance(node.left, ast.BinOp) and isinstance(node.left.op, ast.Div):
            node = node.left
            parts.insert(0, node.right)
        yield from _runs([node.left, *parts])


def _runs(nodes: list[ast.expr]) -> Iterator[str]:
    """Yield neighbouring texts, such as those of ``folder / "a" / "b" / name``, as one path."""
    run: list[str] = []
    for node in [*nodes, None]:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            run.append(node.value)
        else:
            yield from _path([*run, ""] if run else [])
            run = []


def _path(parts: list[str]) -> Iterator[str]:
    text = "/".join(parts)
    if 0 < len(text) <= LONGEST_PATH and text.isprintable() and text.strip("/. "):
        yield text
