"""One cell in full."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import options
from bench.display.base import Display
from bench.visible import visible

if TYPE_CHECKING:
    from bench.store.working_store import Store
    from bench.types import CellResult

SUMMARY = "one cell: parameters, result, flags, provenance, traceback if it failed; or the log of runs"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "cell",
        nargs="?",
        metavar="CELL",
        help="the start of its key, or dataset/model/defense/attack/access, then also 'seed N'",
    )
    parser.add_argument("--log", action="store_true", help="what runs on the store did and when, to CELL if given")
    options.store(parser)
    parser.add_argument("--json", action="store_true", help="the stored result as it is")


def main(args: argparse.Namespace) -> int:
    from bench.keys import training_key
    from bench.process.collection import no_collection
    from bench.registry import live_names
    from bench.store import cards
    from bench.store.history import read
    from bench.store.working_store import Store
    from bench.types import TrainRef, UsageError, jsonable

    display: Display = args.display
    root = options.store_root(args)
    if args.log:
        if root.is_file():
            raise UsageError(f"{root} is no store: what runs did is in the store that they worked on")
        if not root.is_dir():
            raise UsageError(f"no store at {root}: run first, or name another with --store")
        return _log(root, args.cell, as_json=args.json)
    if args.cell is None:
        raise UsageError("which cell? give the start of its key or its name, or --log for what runs did")
    with display.phase("looking for the cell"), no_collection():
        results = read(root).results if root.is_file() else _results(Store(root))
        matches = [r for r in results if r.key.startswith(args.cell) or args.cell in (str(r.names), _with_seed(r))]
    if not matches:
        raise UsageError(
            f"no cell in {root} has the name '{args.cell}' or a key that starts so; leaderboard --format json has all"
        )
    if len(matches) > 1:
        near = "; ".join(f"{result.key[:12]} {_with_seed(result)}" for result in matches[:5])
        raise UsageError(f"'{args.cell}' names {len(matches)} cells: {near}")
    result = matches[0]
    body = jsonable(result)
    if args.json:
        print(json.dumps(body, indent=2))
        return 0
    print(f"{_with_seed(result)}\nkey {result.key}\nstatus {result.status}")
    if objects := live_names(result.cell):
        print(f"cannot be run again from here: {', '.join(objects)} ended with the Python process that called bench")
    if isinstance(result.cell.model.weights, TrainRef):
        card = cards.read(Store(root).training(training_key(result.cell.model)))
        body["overfitting of the network"] = card and card.get("overfitting")
    for title in ("metrics", "overfitting of the network", "cost", "defense_cost", "flags", "cell", "provenance"):
        if body.get(title):
            print(f"\n{title}")
            _print(body[title], 1)
    if result.error is not None:
        print(f"\nerror\n  {result.error.kind}: {result.error.message}\n\n{result.error.traceback}")
    return 0


def _with_seed(result: CellResult) -> str:
    """Return the name of a cell with its seed, of which tables of several have a cell each by one name."""
    return f"{result.names} seed {result.cell.seed}"


def _results(store: Store) -> Iterator[CellResult]:
    from bench.store.history import require_no_run_files

    require_no_run_files(store.root)
    store.warn_of_strangers()
    yield from store.results()


def _log(root: Path, cell: str | None, *, as_json: bool) -> int:
    from bench.store import run_log

    events = sorted(run_log.read(root / "log"), key=lambda event: str(event.get("time")))
    for event in events:
        values = [str(event.get(name, "")) for name in ("cell", "key")]
        if cell is not None and not any(word.startswith(cell) for word in values):
            continue
        if as_json:
            print(json.dumps(event))
            continue
        rest = "  ".join(f"{name} {value}" for name, value in event.items() if name not in ("time", "event", "log"))
        print(visible(f"{event.get('time')}  {event.get('event', ''):<13}  {rest}"))
    return 0


def _print(value: object, depth: int) -> None:
    for name, inner in _items(value):
        lead = "  " * depth + (visible(f"{name}") if isinstance(value, dict) else "-")
        if isinstance(inner, dict | list) and inner:
            print(lead)
            _print(inner, depth + 1)
        else:
            print(f"{lead} {visible(str(inner)) if inner not in ({}, []) else '-'}")


def _items(value: object) -> Iterable[tuple[object, object]]:
    """Return the names and values of an object, the positions and values of a list, nothing of anything else."""
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()
