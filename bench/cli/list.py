"""The registries, one line each."""

from __future__ import annotations

import argparse
import json
import textwrap
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import command, options
from bench.types import UsageError
from bench.visible import visible

if TYPE_CHECKING:
    from bench.registry import Entry

SUMMARY = "attacks, defenses, datasets, models and presets, one line each"
#: Characters of a line.
_WIDTH = 100
#: Kinds of the registry by the word for them here.
_METHODS = {
    "attacks": ("attack", "library"),
    "defenses": ("recipe", "test-time", "score-recipe"),
    "models": ("network", "score-network"),
}
KINDS = ("attacks", "defenses", "datasets", "models", "presets")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", choices=KINDS)
    parser.add_argument("--long", metavar="NAME", help="of one method: every parameter with values, default and unit")
    parser.add_argument("--json", action="store_true", help="one object with the five keys")
    parser.add_argument("--data", type=options.path, metavar="DIR", help="where to look for image sets first")


def main(args: argparse.Namespace) -> int:
    if args.long is not None:
        return _show_long(args.long, args.kind, as_json=args.json)
    listed = _listed(args.data)
    if args.json:
        print(json.dumps(listed, indent=2))
        return 0
    for kind in [args.kind] if args.kind else KINDS:
        if args.kind is None:
            print(f"\n{kind}" if kind != KINDS[0] else kind)
        width = max((len(row["name"]) for row in listed[kind]), default=0)
        for row in listed[kind]:
            missing = "" if row["available"] else f"  [not available: {row['needs']}]"
            extra = "".join(f"  ({row[word]})" for word in ("norms", "cost", "kind") if row.get(word))
            print(visible(f"  {row['name']:<{width}}  {row['summary']}{extra}{missing}"))
    return 0


def _show_long(name: str, kind: str | None, *, as_json: bool) -> int:
    from bench.config.described import described
    from bench.config.schema import parameters
    from bench.methods import docstrings

    entry = _named(name, kind)
    rows, said = described(parameters(entry)), docstrings.read(entry.doc)
    if as_json:
        keys = [each._asdict() for each in rows]
        print(json.dumps({**_row(entry, kind=entry.kind), "description": said.body, "keys": keys}, indent=2))
        return 0
    facts = {
        "norms": ", ".join(entry.meta.get("norms") or ()),
        "needs": entry.meta.get("needs", "gradient") if entry.kind == "attack" else "",
        "cost": str(entry.meta.get("passes") or ""),
        "file": str(entry.path),
        "package": "" if entry.available else f"not installed: pip install {entry.requires}",
    }
    lines = [f"{entry.name}  ({entry.kind})", said.summary, *(["", said.body] if said.body else []), ""]
    lines += [f"{word:<8} {text}" for word, text in facts.items() if text]
    for each in rows:
        of_value = ", ".join(filter(None, [each.values, each.unit, each.default and f"default {each.default}"]))
        lines += ["", f"{each.name}: {of_value}"]
        lines += textwrap.wrap(each.text, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    for preset, settings in (entry.meta.get("presets") or {}).items():
        shown = ", ".join(f"{key} = {value}" for key, value in settings.items()) or "the defaults"
        lines += ["", *textwrap.wrap(f"preset {preset}: {shown}", _WIDTH, subsequent_indent="    ")]
    print(visible("\n".join(lines), lines=True))
    return 0


def _named(name: str, kind: str | None) -> Entry:
    """Return the method of a name.

    Raises:
        UsageError: there is none of that name, or of that kind.
    """
    from bench import registry

    kinds = _METHODS if kind is None else {kind: _METHODS.get(kind, ())}
    searched = list(chain.from_iterable(kinds.values()))
    if not searched:
        raise UsageError(f"{kind} have no parameters; --long is for {', '.join(_METHODS)}")
    prefix = name.partition(":")[0] if ".py:" not in name else name
    for each in searched:
        if prefix in registry.entries(each):
            return registry.entries(each)[prefix]
    raise UsageError(registry.unknown_method(kind.removesuffix("s") if kind else "method", name, *searched))


def _row(entry: Entry, **more: Any) -> dict[str, Any]:
    """Return the row of a method of the registry; ``more`` is put before its parameters."""
    needs = None if entry.available else entry.installation
    return {
        "name": entry.name,
        "summary": entry.summary,
        "available": entry.available,
        "needs": needs,
        **more,
        "parameters": entry.defaults(),
        "presets": entry.meta.get("presets") or {},
    }


def _listed(data: str | None) -> dict[str, list[dict[str, Any]]]:
    from bench import registry
    from bench.config import overlay
    from bench.data import NAMED

    folder = Path(data) if data else None
    attacks = [
        _row(
            entry,
            norms=", ".join(entry.meta["norms"]),
            needs_access=entry.meta.get("needs", "gradient"),
            cost=entry.meta["passes"],
        )
        for entry in registry.entries("attack").values()
    ]
    adapters = [{**_row(entry), "name": entry.pattern} for entry in registry.entries("library").values()]
    recipes = [_row(entry, kind="recipe") for entry in registry.entries("recipe").values()]
    steps = [_row(entry, kind="test-time") for entry in registry.entries("test-time").values()]
    scores = [_row(entry, kind="score-recipe") for entry in registry.entries("score-recipe").values()]
    networks = [_row(entry) for entry in registry.entries("network").values()]
    networks += [_row(entry, kind="score-network") for entry in registry.entries("score-network").values()]
    datasets = []
    for name, named in NAMED.items():
        here = named.available(folder)
        needs = None if here else f"no files found; see {command.name()} doctor"
        datasets.append({"name": name, "summary": named.summary, "available": here, "needs": needs})
    return {
        "attacks": attacks + adapters,
        "defenses": recipes + steps + scores,
        "datasets": datasets,
        "models": networks,
        "presets": [
            {"name": name, "summary": text, "available": True, "needs": None}
            for name, text in overlay.presets().items()
        ],
    }
