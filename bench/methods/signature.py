"""What annotations, defaults and decorator keywords mean, read from syntax trees by a small interpreter of our own.

It knows literals, arithmetic on them, ``Fraction(...)``, ``Field(...)`` and the types of :mod:`bench.api`, and nothing
else: no attribute, no other call and no other name has a meaning here, so reading a signature runs none of its code.
Everything it makes is bounded, so it always ends.
"""

from __future__ import annotations

import ast
import inspect
import logging
import math
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic_core import SchemaError

from bench import api
from bench.types import exact, shown

#: What an expression must be, for the line that is said of any other.
ALLOWED = (
    "literals, arithmetic on them, Fraction(...) and Field(...), and of types int, float, bool, str, tuple, Literal, "
    "Annotated and those of bench.api, such as Count, Budget, Positive, NonNegative and Probability"
)

_log = logging.getLogger("crossfire")

Evaluated = TypeVar("Evaluated")

_TYPES: Mapping[str, Any] = {
    name: getattr(api, name)
    for name in api.__all__
    if name not in ("attack", "defense", "library", "network", "score_network", "Field", "Annotated", "Literal")
} | {"int": int, "float": float, "bool": bool, "str": str, "tuple": tuple}
_GENERIC: Mapping[str, Any] = {"tuple": tuple, "Literal": api.Literal, "Annotated": api.Annotated}
#: Every name that a signature may use.
NAMES = frozenset({*_TYPES, *_GENERIC, "Field"})
_BOUNDS = frozenset({"gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern", "description"})

_DEEPEST = 50
#: Whole numbers are those that TOML has: 64 bits with a sign.
_LARGEST = 2**63 - 1
_OPERATIONS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


class Unreadable(ValueError):
    """An expression that has no meaning without running the file; the text says which and why."""


class Unfit(Unreadable):
    """An expression with a value that does not fit; the text says what does."""


def value(node: ast.expr) -> Any:
    """Return what a default or a decorator keyword means: numbers, texts, and tuples, lists and dicts of them.

    Raises:
        Unreadable: it is none of these.
    """
    return _value(node, _DEEPEST)


def annotation(node: ast.expr) -> Any:
    """Return the type that an annotation means; one that is written as a text is read like any other.

    Raises:
        Unreadable: it is not made of the types of :mod:`bench.api`.
    """
    return _type(node, _DEEPEST)


def keywords(decorator: str, nodes: list[ast.keyword]) -> dict[str, Any]:
    """Return the keywords that a decorator of :mod:`bench.api` is given, checked against its signature.

    Raises:
        Unreadable: a keyword that it does not have, one that is missing, or another value than it takes.
    """
    if any(word.arg is None for word in nodes):
        raise Unreadable("** stands for keywords that only running the file could tell")
    named = {str(word.arg): value(word.value) for word in nodes}
    try:
        checked = _DECORATORS[decorator].model_validate(named)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Unreadable(f"{where}: {first['msg']}") from None
    return {name: getattr(checked, name) for name in named}


def _value(node: ast.expr, left: int) -> Any:
    _check_depth(node, left)
    match node:
        case ast.Constant(value=found):
            return _bounded(found, node)
        case ast.Tuple(elts=items):
            return tuple(_value(item, left - 1) for item in items)
        case ast.List(elts=items):
            return [_value(item, left - 1) for item in items]
        case ast.Dict(keys=keys, values=items):
            if not all(isinstance(key, ast.Constant) and isinstance(key.value, str) for key in keys):
                raise Unreadable(f"{_text(node)}: the keys of a dict are texts")
            return {key.value: _value(item, left - 1) for key, item in zip(keys, items, strict=True)}  # type: ignore[union-attr]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            number = _number(_value(operand, left - 1), node)
            return _bounded(-number if isinstance(sign, ast.USub) else +number, node)
        case ast.BinOp(left=first, op=operation, right=second):
            return _reckoned(_value(first, left - 1), operation, _value(second, left - 1), node)
        case ast.Call(func=ast.Name(id="Fraction"), args=args, keywords=[]) if 1 <= len(args) <= 2:
            return _fraction([_value(each, left - 1) for each in args], node)
        case ast.Call(func=ast.Name(id="Field"), args=args, keywords=keyword_nodes):
            return _field(args, keyword_nodes, node, left)
    raise Unreadable(f"{_text(node)} is none")


def _type(node: ast.expr, left: int) -> Any:
    _check_depth(node, left)
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=str() as text):
            return _type(_parsed(text, node), left - 1)
        case ast.Name(id=name) if name in _TYPES:
            return _TYPES[name]
        case ast.BinOp(left=first, op=ast.BitOr(), right=second):
            return _evaluated(lambda: _type(first, left - 1) | _type(second, left - 1), node)
        case ast.Subscript(value=ast.Name(id=name), slice=inside) if name in _GENERIC:
            items = inside.elts if isinstance(inside, ast.Tuple) else [inside]
            arguments = tuple(_argument(name, index, item, left - 1) for index, item in enumerate(items))
            return _evaluated(lambda: _GENERIC[name][arguments], node)
    raise Unreadable(f"{_text(node)} is none")


def _argument(generic: str, index: int, node: ast.expr, left: int) -> Any:
    """Return the value of an argument in the brackets of a type."""
    is_type = generic == "tuple" or (generic == "Annotated" and index == 0)
    if generic == "tuple" and isinstance(node, ast.Constant) and node.value is ...:
        return ...
    return _type(node, left) if is_type else _value(node, left)


def _field(args: list[ast.expr], keyword_nodes: list[ast.keyword], node: ast.expr, left: int) -> Any:
    if strange := sorted({str(word.arg or "**") for word in keyword_nodes} - _BOUNDS - {"default"}):
        raise Unreadable(f"Field({strange[0]} = ...) is none; Field takes {', '.join(sorted(_BOUNDS))}")
    bounds = {str(word.arg): _value(word.value, left - 1) for word in keyword_nodes}
    for name, bound in bounds.items():
        if (wanted := _lacks(name, bound)) is not None:
            raise Unfit(f"Field({name} = {shown(bound)}): {wanted}")
    return _evaluated(lambda: Field(*(_value(each, left - 1) for each in args), **bounds), node)


def _lacks(name: str, bound: Any) -> str | None:
    """Return what a keyword of ``Field`` takes instead of a value; ``None`` where it takes that."""
    is_number = isinstance(bound, int | float | Fraction) and not isinstance(bound, bool)
    if name in ("gt", "ge", "lt", "le"):
        return None if is_number else f"{name} is a number"
    if name == "multiple_of":
        return None if is_number and bound > 0 else "multiple_of is a number above 0"
    if name in ("min_length", "max_length"):
        is_count = isinstance(bound, int) and not isinstance(bound, bool) and bound >= 0
        return None if is_count else f"{name} is a whole number, 0 or more"
    if name == "description":
        return None if isinstance(bound, str) else "description is a text"
    if name != "pattern":
        return None
    if not isinstance(bound, str):
        return "pattern is a text"
    try:
        TypeAdapter(api.Annotated[str, Field(pattern=bound)])
    except SchemaError as error:
        return f"pattern is a regular expression; {plain(error)}"
    return None


def plain(error: Exception) -> str:
    """Return a pydantic error in one line, without the object that it was building."""
    last = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
    return re.sub(r"^(?:[A-Za-z]*[Ee]rror: )+", "", last)


def _fraction(parts: list[Any], node: ast.expr) -> Fraction:
    def build() -> Fraction:
        return exact(exact(parts[0]) if len(parts) == 1 and isinstance(parts[0], str) else Fraction(*parts))

    return _evaluated(build, node)


def _reckoned(first: Any, operation: ast.operator, second: Any, node: ast.expr) -> Any:
    if isinstance(operation, ast.Add) and isinstance(first, str) and isinstance(second, str):
        return _bounded(first + second, node)
    a, b = _number(first, node), _number(second, node)
    if type(operation) not in _OPERATIONS:
        raise Unreadable(f"{_text(node)} is none")
    if isinstance(operation, ast.Pow) and not (isinstance(a, float) or isinstance(b, float) or -64 <= b <= 64):
        raise Unreadable(f"{_text(node)} is too large")
    return _bounded(_evaluated(lambda: _OPERATIONS[type(operation)](a, b), node), node)


def _number(number: Any, node: ast.expr) -> int | float | Fraction:
    if not isinstance(number, int | float | Fraction):
        raise Unreadable(f"{_text(node)} is none")
    return number


def _bounded(constant: Any, node: ast.expr) -> Any:
    """Return a value if it is of a known kind and can be part of a key.

    Raises:
        Unreadable: it is of no known kind, or too large, not finite, or a text that UTF-8 cannot write.
    """
    if isinstance(constant, Fraction):
        return _evaluated(lambda: exact(constant), node)
    if constant is None or isinstance(constant, bool):
        return constant
    if isinstance(constant, int) and -_LARGEST - 1 <= constant <= _LARGEST:
        return constant
    if isinstance(constant, float) and math.isfinite(constant):
        return constant
    if isinstance(constant, str) and not any("\ud800" <= letter <= "\udfff" for letter in constant):
        return constant
    raise Unreadable(f"{_text(node)} is no text, finite number of 64 bits, true, false or none")


def _evaluated(make: Callable[[], Evaluated], node: ast.expr) -> Evaluated:
    try:
        return make()
    except Unreadable:
        raise
    # Python's and pydantic's own words on arguments that do not fit: division by zero, an unhashable Literal, ...
    except Exception as error:
        _log.debug("an expression does not evaluate", exc_info=True)
        raise Unreadable(f"{_text(node)}: {shown(str(error))}") from None


def _parsed(text: str, node: ast.expr) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Unreadable(f"{_text(node)} is no type") from None


def _check_depth(node: ast.expr, left: int) -> None:
    if left < 0:
        raise Unreadable(f"more than {_DEEPEST} nested expressions")


def _text(node: ast.expr) -> str:
    try:
        return shown(_Bare(ast.unparse(node)))
    # So deep, or a number of so many digits, that Python does not write it.
    except (RecursionError, ValueError):
        return "an expression"


class _Bare(str):
    """A text that is shown without quotes."""

    def __repr__(self) -> str:
        return str(self)


def _model(decorator: Callable[..., Any]) -> type[BaseModel]:
    hints = get_type_hints(decorator, include_extras=True)
    fields = {
        name: (hints[name], ... if each.default is inspect.Parameter.empty else each.default)
        for name, each in inspect.signature(decorator).parameters.items()
    }
    return create_model(  # type: ignore[call-overload,no-any-return]
        decorator.__name__, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True), **fields
    )


_DECORATORS = {
    each.__name__: _model(each) for each in (api.attack, api.library, api.defense, api.network, api.score_network)
}
