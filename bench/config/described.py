"""Keys and parameters in words: what values they take, their default and their unit, from their JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from bench.config.schema import EXACT, Schema

_TYPES = {"boolean": "true, false", "string": "text", "integer": "whole number", "number": "number", "object": "table"}
#: Words of JSON Schema for bounds, as they are read.
_BOUNDS = {
    "exclusiveMinimum": "> {}",
    "minimum": "≥ {}",
    "exclusiveMaximum": "< {}",
    "maximum": "≤ {}",
    "multipleOf": "multiple of {}",
}
#: Bounds that only keep out what nobody means.
_LARGEST = 10**6


class Described(NamedTuple):
    """A key or parameter, each part as text for a table; empty where there is nothing to say."""

    name: str
    values: str
    default: str
    unit: str
    text: str


def described(schemas: Mapping[str, Schema]) -> list[Described]:
    """Return keys in words.

    Args:
        schemas: the schema of each key by its name, as :func:`bench.config.schema.keys` returns them.
    """
    return [
        Described(name, values(each), default(each), str(each.get("unit", "")), str(each.get("description", "")))
        for name, each in schemas.items()
    ]


def default(schema: Schema) -> str:
    """Return the default as it is written in TOML."""
    return json.dumps(schema["default"], ensure_ascii=False) if "default" in schema else ""


def values(schema: Schema) -> str:
    """Return which values a schema allows."""
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return ", ".join(json.dumps(each) for each in schema["enum"])
    if "anyOf" in schema:
        return _exact(schema) or " or ".join(dict.fromkeys(values(each) for each in schema["anyOf"]))
    if schema.get("type") == "array":
        items = values(schema["items"]) if "items" in schema else "values"
        return f"list of {_length(schema)}{items}"
    kind = _TYPES.get(str(schema.get("type")), "any value")
    return f"{kind} {_bounds(schema)}".strip()


def _exact(schema: Schema) -> str | None:
    """Return the words for an exact number; nothing where the schema is of none."""
    number, text = schema["anyOf"][0], schema["anyOf"][-1]
    if text != EXACT["anyOf"][-1]:
        return None
    return f'number or fraction such as "8/255" {_bounds(number)}'.strip()


def _bounds(schema: Schema) -> str:
    shown = {word: schema[word] for word in _BOUNDS if word in schema and abs(schema[word]) < _LARGEST}
    return " and ".join(_BOUNDS[word].format(bound) for word, bound in shown.items())


def _length(schema: Schema) -> str:
    if "minItems" in schema and schema["minItems"] == schema.get("maxItems"):
        return f"{schema['minItems']} of "
    return ""
