"""The registries, one line each."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import command, options
from bench.visible import visible

if TYPE_CHECKING:
    from bench.registry import Entry

SUMMARY = "attacks, defenses, datasets, models and presets, one line each"
KINDS = ("attacks", "defenses", "datasets", "models", "presets")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", choices=KINDS)
    parser.add_argument("--json", action="store_true", help="one object with the five keys")
    parser.add_argument("--data", type=options.path, metavar="DIR", help="where to look for image sets first")


def main(args: argparse.Namespace) -> int:
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


def _row(entry: Entry, **more: Any) -> dict[str, Any]:
    """Return the row of a method of the registry; ``more`` is put before its parameters."""
    needs = None if entry.available else f"pip install {entry.requires}"
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
    datasets = []
    for name, named in NAMED.items():
        here = named.available(folder)
        needs = None if here else f"no files found; see {command.name()} doctor"
        datasets.append({"name": name, "summary": named.summary, "available": here, "needs": needs})
    return {
        "attacks": attacks + adapters,
        "defenses": recipes + steps,
        "datasets": datasets,
        "models": [_row(entry) for entry in registry.entries("network").values()],
        "presets": [
            {"name": name, "summary": text, "available": True, "needs": None}
            for name, text in overlay.presets().items()
        ],
    }
