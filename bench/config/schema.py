"""The JSON Schema of a configuration, the parameters of every registered method included, as editors use it.

It is made from what checks a configuration: the sections, and the signatures of the methods. Sections and methods say
what a key means in one place, so the schema, the reference and ``list --long`` agree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple

from pydantic import BaseModel

from bench import registry
from bench.config import sections
from bench.methods import docstrings
from bench.registry import Entry
from bench.types import Schedule

Schema = dict[str, Any]

_DRAFT = "http://json-schema.org/draft-07/schema#"
#: A budget, or another distance in pixel units: a number, or exact as a text.
EXACT: Schema = {
    "anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^\s*[0-9.eE+_-]+\s*(/\s*[0-9_]+\s*)?$"}],
    "unit": "pixels in [0, 1]",
}
_TEXT: Schema = {"type": "string"}
#: What is said of a value, and does not restrict it.
_ABOUT = ("description", "default", "unit")


class _Section(NamedTuple):
    """A list of tables: what checks an entry, the key that names its method, and which methods there are.

    ``prefixes`` is a pattern of those before the colon of a name that is not registered, such as a library's.
    """

    model: type[BaseModel]
    named_by: str
    kinds: tuple[str, ...]
    prefixes: str


_SECTIONS = {
    "models": _Section(sections.ModelConfig, "arch", ("network",), ".*"),
    "defenses": _Section(sections.DefenseConfig, "use", ("recipe", "test-time"), "weights"),
    "attacks": _Section(sections.AttackConfig, "use", ("attack",), ".*"),
}


def configuration() -> Schema:
    """Return the schema of a configuration file: draft 7, every key described, and none that Crossfire refuses."""
    definitions = {
        "dataset": _table(keys(sections.DatasetConfig), _text(sections.DatasetConfig)),
        "run": _table(keys(sections.RunConfig), _text(sections.RunConfig)),
        "attack": _shared(("attack",), keys(sections.AttackConfig, without=("use",)), _description("attack")),
        "train": _shared(("recipe", "score-recipe"), keys(Schedule), _description("train")),
        **{name: _entries(name) for name in _SECTIONS},
    }
    top = {**keys(sections.Config), **{name: _reference(name) for name in definitions}}
    layers: Schema = {
        "extends": {**_TEXT, "description": "a preset or file that this one is laid over"},
        "include": keys(sections.Collection)["include"],
        "default": _table({}, "of a kind of variant, the one that applies where no flag chooses", others=_TEXT),
        "variants": _table(
            {},
            "`[variants.KIND.NAME]`: settings that `--KIND NAME` lays over the file",
            others=_table({}, None, others=_table(top, None)),
        ),
    }
    required = [name for name, field in sections.Config.model_fields.items() if field.is_required() and name[-1] != "_"]
    complete: list[Schema] = [{"required": ["extends"]}, {"required": ["include", "name"]}, {"required": required}]
    file = _table({**top, **layers}, _text(sections.Config), required=["schema"])
    return {
        "$schema": _DRAFT,
        "title": "A configuration of Crossfire",
        **file,
        "anyOf": complete,
        "definitions": definitions,
    }


def _reference(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


def _description(name: str) -> str:
    return str(sections.Config.model_fields[name].description)


def keys(model: type[BaseModel], *, without: Iterable[str] = ()) -> dict[str, Schema]:
    """Return the schema of each key of a section, by its name in a file.

    Args:
        model: the section, or the parameters of a method.
        without: keys that are left out.
    """
    body = model.model_json_schema(by_alias=True)
    definitions = body.get("$defs", {})
    properties = {name: each for name, each in body.get("properties", {}).items() if name not in without}
    return {name: _plain(each, definitions) for name, each in properties.items()}


def parameters(entry: Entry) -> dict[str, Schema]:
    """Return the schema of each parameter of a method, with what its docstring says."""
    said = docstrings.read(entry.doc).arguments
    described = keys(entry.parameters, without=("name",) if entry.kind == "library" else ())
    return {name: {**each, **({"description": said[name]} if name in said else {})} for name, each in described.items()}


def _plain(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Return a schema of pydantic's in draft 7, without titles, references and null, which TOML does not have."""
    if isinstance(schema, list):
        return [_plain(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        return _plain({**target, **{key: value for key, value in schema.items() if key != "$ref"}}, definitions)
    if {"format": "fraction", "type": "string"} in schema.get("anyOf", ()):
        rest = {key: value for key, value in schema.items() if key not in ("anyOf", "gt", "ge", "title")}
        return {**EXACT, **rest, **_exact_bound(schema)}
    options = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    outer = {
        key: _plain(value, definitions)
        for key, value in schema.items()
        if key not in ("title", "anyOf", "prefixItems") and not (key == "default" and value in (None, {}, []))
    }
    if "prefixItems" in schema:
        outer["items"] = _plain(schema["prefixItems"][0], definitions)
    if len(options) == 1:
        return {**_plain(options[0], definitions), **outer}
    return {**outer, "anyOf": _plain(options, definitions)} if options else outer


def _exact_bound(schema: Schema) -> Schema:
    """Return the lower bound of an exact number; it holds for the number only, since a text has none."""
    bound = next((schema[word] for word in ("gt", "ge") if word in schema), None)
    if bound is None:
        return {}
    word = "exclusiveMinimum" if "gt" in schema else "minimum"
    return {"anyOf": [{"type": "number", word: bound}, EXACT["anyOf"][1]]}


def _table(
    properties: dict[str, Schema], text: str | None, *, required: Iterable[str] = (), others: Schema | bool = False
) -> Schema:
    described = {} if text is None else {"description": text}
    wanted = {"required": list(required)} if required else {}
    return {"type": "object", **described, "properties": properties, "additionalProperties": others, **wanted}


def _entries(name: str) -> Schema:
    """Return the schema of a list of tables, with a form for each method that an entry may name."""
    section = _SECTIONS[name]
    common = keys(section.model)
    use = common.pop(section.named_by)
    common |= {key: _reference("train") for key in ("train", "source_train", "score_train") if key in common}
    if "eps" in common:
        common["eps"] |= _or_several(EXACT)
    entries = _registered(section.kinds)
    forms = [_form(section, {**use, "const": entry.name}, common, entry) for entry in entries]
    other = {**use, "not": {"enum": [entry.name for entry in entries]}, "pattern": rf"\.py:|^({section.prefixes}):."}
    forms.append(_table({**common, section.named_by: other}, None, required=[section.named_by], others=True))
    return {"type": "array", "minItems": 1, "description": _text(section.model), "items": {"oneOf": forms}}


def _text(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _form(section: _Section, name: Schema, common: dict[str, Schema], entry: Entry) -> Schema:
    """Return the schema of an entry that names one method: each parameter is one value, or a list that sweeps."""
    own = {key: _or_several(each) for key, each in parameters(entry).items()}
    if presets := list(entry.meta.get("presets") or {}):
        own["preset"] = _or_several({"enum": presets, "description": "a set of settings; those beside it win"})
    if entry.kind == "recipe":
        own = {**{key: _or_several(each) for key, each in keys(Schedule).items()}, **own}
    properties = {section.named_by: name, **own, **common}
    summary = docstrings.read(entry.doc).summary
    return {"title": entry.name, **_table(properties, summary, required=[section.named_by])}


def _registered(kinds: Iterable[str]) -> list[Entry]:
    return list(chain.from_iterable(registry.entries(kind).values() for kind in kinds))


def _or_several(schema: Schema) -> Schema:
    """Return the schema of one value or a list of them."""
    value = {key: each for key, each in schema.items() if key not in _ABOUT}
    about = {key: each for key, each in schema.items() if key in _ABOUT}
    return {**about, "anyOf": [value, {"type": "array", "minItems": 1, "items": value}]}


def _shared(kinds: Iterable[str], common: dict[str, Schema], text: str) -> Schema:
    """Return the schema of a section for all methods of some kinds, with a table for each of them."""
    entries = _registered(kinds)
    forms: dict[str, list[Schema]] = defaultdict(list)
    for entry in entries:
        for name, each in parameters(entry).items():
            value = {key: inner for key, inner in each.items() if key not in _ABOUT}
            if value not in forms[name]:
                forms[name].append(value)
    presets = {"preset": {**_TEXT, "description": "for all that have it"}}
    tables = {entry.name: _table({**common, **presets, **parameters(entry)}, None) for entry in entries}
    return _table({**{name: {"anyOf": each} for name, each in forms.items()}, **presets, **common, **tables}, text)
