"""A source file as a syntax tree: read, parsed, and what its statements give a name."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from bench.types import shortened

_DECORATORS = {"attack", "library", "defense", "network", "score_network"}
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_OF_BLOCKS = (ast.stmt, ast.ExceptHandler, ast.match_case)
#: A source of more bytes than this is refused: as a tree it may take a thousand times its size in memory.
MOST_BYTES = 2**20

TOO_DEEP = "its expressions or statements are nested too deeply"


def text_of(path: Path) -> bytes:
    """Return the text of a source file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too long to be one.
    """
    with path.open("rb") as file:
        _require_short(os.fstat(file.fileno()).st_size)
        # What the system makes up as it is read has no size before.
        source = file.read(MOST_BYTES + 1)
    _require_short(len(source))
    return source


def _require_short(size: int) -> None:
    if size > MOST_BYTES:
        raise ValueError(f"it has {size:,} bytes; at most {MOST_BYTES:,} are read as source")


def parsed(source: bytes) -> ast.Module:
    """Return the syntax tree of a source text, in the encoding that it declares.

    Raises:
        ValueError: it is not valid Python, too long, or nested too deeply.
    """
    _require_short(len(source))
    try:
        return ast.parse(source)
    except SyntaxError as error:
        where = f"line {error.lineno}: " if error.lineno else ""
        raise ValueError(f"{where}{shortened(error.msg, 200)}") from None
    # For deeply nested brackets and operators the parser raises MemoryError.
    except (RecursionError, MemoryError):
        raise ValueError(TOO_DEEP) from None


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a file in their order, those under ``if`` and the like too, but not of a function."""
    left = body[::-1]
    while left:
        node = left.pop()
        yield node
        if not isinstance(node, _SCOPES):
            left += [*chain.from_iterable(_blocks(node))][::-1]


def _blocks(node: ast.stmt) -> list[list[ast.stmt]]:
    arms = [*getattr(node, "handlers", []), *getattr(node, "cases", [])]
    own = (getattr(node, name, []) for name in ("orelse", "finalbody"))
    return [getattr(node, "body", []), *(arm.body for arm in arms), *own]


def names(node: ast.stmt) -> set[str]:
    """Return the names that a statement by itself gives a meaning, or takes it from; what its blocks do is theirs."""
    if isinstance(node, _SCOPES):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.AnnAssign) and node.value is None:
        return set()
    bound = {handler.name for handler in getattr(node, "handlers", []) if handler.name}
    left: list[ast.AST] = [case.pattern for case in getattr(node, "cases", [])]
    left += [each for each in ast.iter_child_nodes(node) if not isinstance(each, _OF_BLOCKS)]
    while left:
        each = left.pop()
        if isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Load):
            bound.add(each.id)
        elif isinstance(each, ast.MatchAs | ast.MatchStar) and each.name:
            bound.add(each.name)
        elif isinstance(each, ast.MatchMapping) and each.rest:
            bound.add(each.rest)
        # The variables of a comprehension, and what a lambda names, are no names of the file.
        if not isinstance(each, ast.Lambda):
            left += [part for part in ast.iter_child_nodes(each) if not _is_variable(part, each)]
    return bound


def _is_variable(part: ast.AST, of: ast.AST) -> bool:
    return isinstance(of, ast.comprehension) and part is of.target


def meanings(tree: ast.Module) -> dict[str, list[int]]:
    """Return for each name of a file the lines of the statements that give it a meaning, or take it from it."""
    lines: dict[str, list[int]] = {}
    for node in statements(tree.body):
        for name in names(node):
            lines.setdefault(name, []).append(node.lineno)
    return lines


def registration(node: ast.stmt) -> ast.Call | None:
    """Return the call of the decorator that registers a function or class; ``None`` where it has none."""
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef | ast.ClassDef) else ()
    for each in decorators:
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Name) and each.func.id in _DECORATORS:
            return each
    return None


def called_name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
