"""What a file declares, read from its syntax tree: its decorated functions and classes, with their parameters."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from bench.methods import data_folders, signature
from bench.methods.tree import meanings, parsed, registration, text_of
from bench.types import UsageError

_log = logging.getLogger("crossfire")
#: A method with more parameters than this is refused; each takes time to read.
_MOST_PARAMETERS = 500
#: Arguments that are no parameters, by kind.
_OF_IMAGES = frozenset({"in_channels", "image_size"})
_RESERVED = {"network": _OF_IMAGES, "score-network": _OF_IMAGES, "library": frozenset({"name", "images"})}


@dataclass(frozen=True)
class Declaration:
    """A method as its decorator and its signature declare it.

    Attributes:
        kind: ``attack``, ``library``, ``recipe``, ``test-time``, ``network``, ``score-recipe`` or ``score-network``.
        name: under which it is registered.
        doc: its docstring.
        path: of its file.
        symbol: its name in the file.
        meta: the keywords of its decorator.
        parameters: a model of its parameters, with their defaults.
    """

    kind: str
    name: str
    doc: str
    path: Path
    symbol: str
    meta: Mapping[str, Any]
    parameters: type[BaseModel]


def declarations(path: Path) -> Iterator[tuple[Declaration, str | None]]:
    """Yield every method that a file declares, and why it does not count where the file gives its name two meanings.

    Raises:
        UsageError: the file cannot be read, or a decorator, annotation or default is not one that is allowed.
    """
    tree = tree_of(path)
    lines, texts = meanings(tree), dict[str, str]()
    for node in tree.body:
        call = registration(node)
        if call is None or not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        name = node.name
        declared = _declaration(path, node, call)
        # Which of them Python takes is the last; the parameters would be those of another.
        if len(numbers := lines[name]) == 1:
            yield declared, None
        else:
            text = f"{path}:{numbers[0]}: {name} is given another meaning in line {numbers[1]}"
            yield declared, texts.setdefault(name, text)


def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a source file.

    Raises:
        UsageError: it cannot be read, or is not valid Python.
    """
    try:
        return parsed(text_of(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not valid Python: {error}") from None


def _meta(path: Path, name: str, call: ast.Call) -> tuple[str, dict[str, Any]]:
    """Return which decorator a method has, and the keywords that it gives it."""
    decorator = call.func.id if isinstance(call.func, ast.Name) else ""
    try:
        if call.args:
            raise signature.Unreadable("it takes keywords only")
        return decorator, signature.keywords(decorator, call.keywords)
    except signature.Unreadable as error:
        raise UsageError(
            f"{path}:{call.lineno}: @{decorator} of {name}: its keywords must be {signature.ALLOWED} ({error})"
        ) from None


def _declaration(path: Path, node: ast.FunctionDef | ast.ClassDef, call: ast.Call) -> Declaration:
    decorator, meta = _meta(path, node.name, call)
    function: ast.FunctionDef | None = node if isinstance(node, ast.FunctionDef) else None
    if isinstance(node, ast.ClassDef):
        function = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
    kind = meta["kind"] if decorator == "defense" else dashed(decorator)
    reserved = _RESERVED.get(kind, frozenset())
    arguments = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True) if function else ()
    kept = {argument: default for argument, default in arguments if argument.arg not in reserved}
    name = meta["prefix"] if kind == "library" else dashed(node.name)
    is_open = kind == "library" and function is not None and function.args.kwarg is not None
    parameters = _parameters(path, node, kept, extra="allow" if is_open else "forbid")
    inner = meta.get("inner")
    if inner is not None and inner not in parameters.model_fields:
        raise UsageError(f"{path}:{call.lineno}: inner = '{inner}' names no parameter of {node.name}")
    _require_folders(path, call, meta, parameters)
    return Declaration(kind, name, ast.get_docstring(node) or "", path, node.name, MappingProxyType(meta), parameters)


def _require_folders(path: Path, call: ast.Call, meta: Mapping[str, Any], parameters: type[BaseModel]) -> None:
    """Raises UsageError: folders of data are not declared as the decorator says, or of no parameter."""
    where = f"{path}:{call.lineno}: folders"
    try:
        folders = data_folders.declared(meta)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    for folder in folders:
        if unknown := sorted({folder.parameter, *folder.choice} - parameters.model_fields.keys()):
            raise UsageError(f"{where}: {unknown[0]} is no parameter")


def _parameters(
    path: Path,
    node: ast.FunctionDef | ast.ClassDef,
    arguments: Mapping[ast.arg, ast.expr | None],
    extra: Literal["allow", "forbid"],
) -> type[BaseModel]:
    """Return the parameters of a method, as its signature says, each default checked against its annotation."""
    if len(arguments) > _MOST_PARAMETERS:
        raise UsageError(f"{path}:{node.lineno}: {node.name} has {len(arguments)} parameters, over {_MOST_PARAMETERS}")
    fields: dict[str, Any] = {}
    for argument, default in arguments.items():
        if argument.arg.startswith("_") or (argument.arg.startswith("model_") and hasattr(BaseModel, argument.arg)):
            raise UsageError(f"{path}:{argument.lineno}: {node.name} cannot have a parameter {argument.arg}; rename it")
        try:
            annotation = signature.annotation(argument.annotation) if argument.annotation else Any
            fields[argument.arg] = (annotation, ... if default is None else signature.value(default))
        except signature.Unreadable as error:
            must = f"annotations and defaults must be {signature.ALLOWED} ({error})"
            why = str(error) if isinstance(error, signature.Unfit) else must
            raise UsageError(f"{path}:{argument.lineno}: parameter {argument.arg} of {node.name}: {why}") from None
    config = ConfigDict(extra=extra, frozen=True, validate_default=True, allow_inf_nan=False)
    try:
        model: type[BaseModel] = create_model(node.name, __config__=config, **fields)
        model.model_validate({})
    except ValidationError as error:
        wrong = [each for each in error.errors() if each["type"] != "missing"]
        if wrong:
            where = ".".join(map(str, wrong[0]["loc"]))
            raise UsageError(f"{path}:{node.lineno}: default of {where} of {node.name}: {wrong[0]['msg']}") from None
    # A name that a pydantic model cannot have, or a bound that does not fit its type: pydantic raises what it likes.
    except Exception as error:
        _log.debug("%s:%d: no schema", path, node.lineno, exc_info=True)
        raise UsageError(
            f"{path}:{node.lineno}: the parameters of {node.name} make no schema: {signature.plain(error)}"
        ) from None
    return model


def dashed(symbol: str) -> str:
    """Return the registered name of a symbol: ``FastAdv`` and ``fast_adv`` are ``fast-adv``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", symbol).lower().replace("_", "-")
