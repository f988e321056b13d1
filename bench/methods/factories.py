"""The signature of a network factory in a user's own file, read from its syntax tree without running the file."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, TypeAdapter

from bench.methods import signature
from bench.methods.tree import names, statements
from bench.types import UsageError

#: What a factory has from the images, where its signature names it; never from a configuration.
FROM_IMAGES = frozenset({"num_classes", "in_channels", "image_size"})

_log = logging.getLogger("crossfire")


class Signature(NamedTuple):
    """The parameters that a configuration may set."""

    doc: str
    #: Type and default of each whose default is a number, a text, true, false or none; ``...`` if it has none.
    fields: dict[str, tuple[Any, Any]]
    #: Further ones, whose default only Python knows: they are passed if they are given.
    others: frozenset[str]
    #: Whether there may be more: the function takes any name, or its signature is known only once the file has run.
    is_open: bool


def read(tree: ast.Module, path: Path, symbol: str) -> Signature | None:
    """Return the signature of what ``symbol`` means in a file; ``None`` where the file does not define it.

    Only a function, class or lambda that nothing rebinds or decorates can be read from the tree. Of anything else
    (a ``functools.partial``, an import, a class that inherits ``__init__``) the signature is open.

    Args:
        tree: the whole file.
        path: of the file, for what is said.
        symbol: the name of the factory.

    Raises:
        UsageError: the factory is an ``async def``.
    """
    bound = [node for node in statements(tree.body) if symbol in names(node)]
    if not bound:
        anything = any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in statements(tree.body))
        return Signature("", {}, frozenset(), is_open=True) if anything else None
    node = bound[-1]
    if isinstance(node, ast.AsyncFunctionDef):
        raise UsageError(f"{path}:{node.lineno}: network factory {symbol} is an async function; write it with def")
    doc = (ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.ClassDef) else None) or ""
    arguments = _arguments(node) if len(bound) == 1 else None
    if arguments is None:
        return Signature(doc, {}, frozenset(), is_open=True)
    fields, others = dict[str, tuple[Any, Any]](), set[str]()
    for argument, default in _with_defaults(arguments):
        name = argument.arg
        if name in FROM_IMAGES:
            continue
        # A field of a pydantic model cannot be called just anything.
        if name.startswith("_") or hasattr(BaseModel, name):
            others.add(name)
        elif default is None:
            fields[name] = Any, ...
        elif (known := _scalar(default)) is None:
            others.add(name)
        else:
            fields[name] = _type(argument, known.value), known.value
    return Signature(doc, fields, frozenset(others), is_open=arguments.kwarg is not None)


def lacks(missing: Iterable[str]) -> str:
    """Return the message for a factory whose parameters ``missing`` are not given."""
    return (
        f"its factory needs {', '.join(missing)}: give that in the configuration, or call the parameter num_classes, "
        "in_channels or image_size if it is what the images have"
    )


def is_own_too(name: str) -> str:
    """Return the message for a key of ``[[models]]`` that the factory has as a parameter of its own as well."""
    return f"{name} is a key of [[models]], and its factory has a parameter of that name; rename the parameter"


def _arguments(node: ast.stmt) -> ast.arguments | None:
    """Return the parameters of the factory, or ``None`` if only running the file can determine them."""
    if isinstance(node, ast.FunctionDef):
        return None if node.decorator_list else node.args
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.value.args if isinstance(node.value, ast.Lambda) else None
    if not isinstance(node, ast.ClassDef) or node.decorator_list or node.keywords:
        return None
    inside = [each for each in node.body if isinstance(each, ast.FunctionDef)]
    constructors = [each for each in inside if each.name in ("__init__", "__new__")]
    if len(constructors) != 1 or constructors[0].name == "__new__" or constructors[0].decorator_list:
        return None
    bare = ast.arguments(**{name: getattr(constructors[0].args, name) for name in ast.arguments._fields})
    first = "posonlyargs" if bare.posonlyargs else "args"
    setattr(bare, first, getattr(bare, first)[1:])
    return bare


def _with_defaults(arguments: ast.arguments) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    plain = [*arguments.posonlyargs, *arguments.args]
    without = len(plain) - len(arguments.defaults)
    yield from ((argument, None) for argument in plain[:without])
    yield from zip(plain[without:], arguments.defaults, strict=True)
    yield from zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)


class _Known(NamedTuple):
    value: Any


def _scalar(node: ast.expr) -> _Known | None:
    try:
        value = signature.value(node)
    except signature.Unreadable:
        return None
    return _Known(value) if value is None or isinstance(value, str | int | float) else None


def _type(argument: ast.arg, default: Any) -> Any:
    """Return the annotation; ``Any`` where there is none, where it needs the file, or where the default denies it."""
    if argument.annotation is None:
        return Any
    try:
        annotation = signature.annotation(argument.annotation)
        same = TypeAdapter(annotation).validate_python(default) == default
    # Not to be read without running the file, or of no kind that pydantic knows.
    except Exception:
        _log.debug("an annotation counts as Any", exc_info=True)
        return Any
    return annotation if same else Any
