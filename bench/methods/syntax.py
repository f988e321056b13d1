"""One source file: what it does, as a text in which comments, docstrings and layout are no more, and what it names."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from bench.keys import sha256_hex
from bench.types import shortened

_REGISTERING = {"attack", "defense", "network"}
_IMPORTING = {"import_module", "__import__"}
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_OF_BLOCKS = (ast.stmt, ast.ExceptHandler, ast.match_case)
_JOINING = {"join", "joinpath", "Path", "with_name"}
LONGEST_PATH = 1024
#: A source of more bytes than this is refused: as a tree it may take a thousand times its size in memory.
MOST_BYTES = 2**20

_TOO_DEEP = "its expressions or statements are nested too deeply"


class Import(NamedTuple):
    """``import module`` (no names) or ``from module import names``; ``level`` counts the dots before the module."""

    module: str
    names: tuple[str, ...] = ()
    level: int = 0


class Syntax(NamedTuple):
    """A source file: the hash of what it does, what it imports, and its strings that could name a file."""

    sha: str
    imports: tuple[Import, ...]
    strings: tuple[str, ...]


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


@lru_cache(maxsize=4096)
def syntax(source: bytes) -> Syntax:
    """Return what counts of a source text.

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
        elif isinstance(node, ast.Call) and _called(node.func) in _IMPORTING and (name := _text(node.args[:1])):
            imports.append(Import(name.lstrip("."), (), len(name) - len(name.lstrip("."))))
        strings |= dict.fromkeys(_paths(node))
    _without_name(tree)
    try:
        sha = sha256_hex(canonical(tree))
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    return Syntax(sha, tuple(imports), tuple(strings))


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
    # The parser gives up on brackets and operators in one another as if memory had run out.
    except (RecursionError, MemoryError):
        raise ValueError(_TOO_DEEP) from None


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a file in their order, those under ``if`` and the like too, but not of a function."""
    left = body[::-1]
    while left:
        node = left.pop()
        yield node
        if not isinstance(node, _SCOPES):
            left += [inside for block in _blocks(node) for inside in block][::-1]


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
    found = {handler.name for handler in getattr(node, "handlers", []) if handler.name}
    left: list[ast.AST] = [case.pattern for case in getattr(node, "cases", [])]
    left += [each for each in ast.iter_child_nodes(node) if not isinstance(each, _OF_BLOCKS)]
    while left:
        each = left.pop()
        if isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Load):
            found.add(each.id)
        elif isinstance(each, ast.MatchAs | ast.MatchStar) and each.name:
            found.add(each.name)
        elif isinstance(each, ast.MatchMapping) and each.rest:
            found.add(each.rest)
        # The variables of a comprehension, and what a lambda names, are no names of the file.
        if not isinstance(each, ast.Lambda):
            left += [part for part in ast.iter_child_nodes(each) if not _is_variable(part, each)]
    return found


def _is_variable(part: ast.AST, of: ast.AST) -> bool:
    return isinstance(of, ast.comprehension) and part is of.target


def meanings(tree: ast.Module) -> dict[str, list[int]]:
    """Return for each name of a file the lines of the statements that give it a meaning, or take it from it."""
    found: dict[str, list[int]] = {}
    for node in statements(tree.body):
        for name in names(node):
            found.setdefault(name, []).append(node.lineno)
    return found


def _without_name(tree: ast.Module) -> None:
    """Take the name of the one registered method out of a syntax tree: what it is called is no part of what it does.

    Of several in one file the names stay, since they tell which code is whose.
    """
    found = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and any(isinstance(each, ast.Call) and _called(each.func) in _REGISTERING for each in node.decorator_list)
    ]
    if len(found) == 1:
        found[0].name = ""


def canonical(node: object) -> str:
    """Return a syntax tree as a text that is the same in every version of Python.

    ``ast.dump`` and ``ast.unparse`` are not: new versions add fields, and quote f-strings otherwise. So a node is its
    name and those of its fields that are not empty, which new fields are in old code. Left out are strings that stand
    alone, docstrings among them, and what the parser notes about a node's use (``ctx``) or spelling (``kind``).
    """
    if isinstance(node, ast.Constant):
        return f"{type(node.value).__name__} {node.value!a}"
    if isinstance(node, ast.JoinedStr):
        return f"JoinedStr({canonical(_joined(node.values))})"
    if isinstance(node, ast.AST):
        fields = [(name, getattr(node, name, None)) for name in sorted(node._fields) if name not in ("ctx", "kind")]
        told = [(name, _alone_left_out(value)) for name, value in fields]
        return f"{type(node).__name__}({','.join(f'{name}={canonical(value)}' for name, value in told if value)})"
    if isinstance(node, list):
        return f"[{','.join(map(canonical, node))}]"
    return repr(node)


def _alone_left_out(value: object) -> object:
    return [each for each in value if not _is_text(each)] if isinstance(value, list) else value


def _is_text(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _joined(parts: list[ast.expr]) -> list[ast.expr]:
    """Return the parts of an f-string with neighbouring texts as one: versions of Python cut them differently."""
    found: list[ast.expr] = []
    for part in parts:
        if isinstance(part, ast.Constant) and found and isinstance(last := found[-1], ast.Constant):
            found[-1] = ast.Constant(str(last.value) + str(part.value))
        elif not isinstance(part, ast.Constant) or part.value:
            found.append(part)
    return found


def _called(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _text(nodes: list[ast.expr]) -> str | None:
    """Return the text that the first node is, if it is one."""
    return next((n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)), None)


def _paths(node: ast.AST) -> Iterator[str]:
    """Yield what in a node could be a path; what is put together as one ends with a slash, so it may be a folder's."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        # A bare word counts only where it may be what a call opens.
        if "." in node.value or "/" in node.value:
            yield from _path([node.value])
    elif isinstance(node, ast.Call) and _called(node.func) in _JOINING:
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
