"""What a run would do."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import changed_since, options
from bench.display.base import Display
from bench.visible import visible

if TYPE_CHECKING:
    from bench.schedule.estimate import Node, RecipeCost
    from bench.schedule.plan import Work
    from bench.schedule.since import Since

#: How far apart the shortest and the longest time may lie before both are said.
_WIDE = 1.2
_AT_ONCE = 1000
#: Seconds of attacks from which on a faster way is worth a line.
_LONG = 300
SUMMARY = (
    "what run would do: cells, done and to do, predicted FLOPs and time; trains and attacks nothing, but builds "
    "networks and measures them, recipes and steps on grey images"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    options.arguments(parser)
    changed_since.argument(parser)
    parser.add_argument(
        "--cost", action="store_true", help="the cost table instead: parameters, TFLOP per epoch and per test"
    )
    parser.add_argument("--json", action="store_true")


def main(args: argparse.Namespace) -> int:
    display: Display = args.display
    store = options.working_store(args)
    with display.phase("planning"):
        config, work = options.work(args)
    work, since = changed_since.narrowed(args, work)
    if not work.plan.cells:
        _print_nothing(args, work, since)
        return 0
    with display.phase("loading torch"):
        device = options.device(args, config)

        from bench.process.collection import no_collection
        from bench.schedule import unusable
        from bench.schedule.estimate import costs, forecast

    with display.phase("checking weights"):
        work = unusable.checked(work)
    with display.phase("estimating"):
        if args.cost:
            rows, failing = costs(work.usable, device)
        else:
            store.warn_of_strangers()
            with no_collection():
                nodes, failing = forecast(work.usable, store, device)
    unusable.warn_of(failing)
    code = 3 if failing or len(work.usable.plan.cells) < len(work.plan.cells) else 0
    if args.cost:
        _print_costs(rows, as_json=args.json)
        return code
    if args.json:
        _print_json(nodes, work, since)
        return code
    if since is not None and not args.quiet:
        changed_since.said(args, since)
        print(flush=True)
    _print_nodes(nodes, config.variants, since)
    _print_most_passes(work)
    _print_preparations(work)
    _print_faster(work, nodes, device.type)
    return code


def _print_nothing(args: argparse.Namespace, work: Work, since: Since | None) -> None:
    if args.json:
        _print_json([], work, since)
    elif since is not None:
        changed_since.said(args, since)


def _print_json(nodes: list[Node], work: Work, since: Since | None) -> None:
    behind = _files_behind(work)
    listed = [_as_json(node) | behind.get(node.key, {}) for node in nodes]
    print(json.dumps(listed if since is None else {"since": changed_since.as_json(since), "nodes": listed}, indent=2))


def _files_behind(work: Work) -> dict[str, dict[str, object]]:
    """Return by the key of each cell the files behind it, if another process asks for those below a folder."""
    from bench.schedule.at_commit import FILES_BELOW

    if (folder := os.environ.get(FILES_BELOW)) is None:
        return {}
    from bench.schedule.files_read import KeyFiles
    from bench.schedule.since import files_behind

    parts = files_behind(work, work.plan.cells)
    return {key: {"behind": KeyFiles.of_all(each).below(Path(folder))} for key, each in parts.items()}


def _as_json(node: Node) -> dict[str, object]:
    described = {"key": node.key, "what": node.what, "kind": node.kind, "method": node.method, "done": node.done}
    counted, most = node.passes
    costs = {"tflop": node.tflop, "seconds": node.seconds, "between": node.between}
    return {**described, **costs, "passes": counted, "most_passes": most}


def _print_nodes(nodes: list[Node], variants: Sequence[str], since: Since | None = None) -> None:
    width = max((len(visible(node.what)) for node in nodes), default=0)
    lines = (f"{_line(node, width)}  {visible(since.why(node.key)) if since else ''}".rstrip() for node in nodes)
    # A write for each of very many lines takes longer than to make them.
    while some := "\n".join(islice(lines, _AT_ONCE)):
        print(some)
    todo = [node for node in nodes if not node.done]
    unknown = sum(1 for node in todo if node.tflop is None)
    cells = sum(1 for node in nodes if node.kind == "evaluate")
    least, most = (sum(node.between[end] if node.between else node.seconds or 0 for node in todo) for end in (0, 1))
    print(
        f"\n{cells} cells; {len(nodes) - len(todo)} pieces done, {len(todo)} to do: about "
        f"{sum(node.tflop or 0 for node in todo):.3g} TFLOP, {_time(sum(node.seconds or 0 for node in todo))}"
        + (f", and {unknown} whose cost is not known" if unknown else "")
    )
    if variants:
        print(visible(f"variants that lie over the configuration: {', '.join(variants)}"))
    if most > _WIDE * least:
        print(f"{_time(least)} if all images break at once, {_time(most)} if none: attacks leave broken ones alone")


def _print_most_passes(work: Work) -> None:
    """Say of which attacks an image may take many more passes than are counted, and when."""
    from bench.evaluation.passes import counted_and_most
    from bench.registry import entry_of

    attacks = {each.names.attack: each.cell.attack for each in work.usable.plan.cells if each.cell.attack is not None}
    for label, attack in attacks.items():
        meta = entry_of(attack.attack).meta
        counted, most = counted_and_most(attack, meta)
        if counted is None or most is None:
            continue
        passes, when = f"{counted:,.0f} passes an image", str(meta["passes"]).partition(", ")[2]
        print(visible(f"{label}: counted with {passes}, of at most {most:,.0f}: {when}"))


def _print_preparations(work: Work) -> None:
    refs = dict.fromkeys(planned.cell.data for planned in work.plan.cells)
    for ref in (each for each in refs if each.prepared is not None):
        print(visible(f"{ref.name}: images are {ref.prepared}"))


def _print_faster(work: Work, nodes: list[Node], device: str) -> None:
    """Say that bfloat16 may lead the attacks, where there is much to do on a GPU; on a processor it does by itself."""
    from bench.config.expand import steps_along_gradients
    from bench.models.bf16 import has_units
    from bench.registry import entry_of

    attacks = [planned.cell.attack for planned in work.usable.plan.cells if planned.cell.attack is not None]
    led = any(each.craft_precision == "auto" and steps_along_gradients(entry_of(each.attack)) for each in attacks)
    seconds = sum(node.seconds or 0 for node in nodes if node.kind != "train" and not node.done)
    if led and device == "cuda" and seconds >= _LONG and has_units(device):
        print(
            f"this {device} has units for bfloat16: --set attack.craft_precision=bf16 lets it lead attacks, which are "
            "then faster; float32 still judges them; columns and keys are others"
        )


def _line(node: Node, width: int) -> str:
    tflop = "unknown" if node.tflop is None else f"{node.tflop:.3g}"
    seconds = "unknown" if node.seconds is None else _time(node.seconds)
    return f"{'done ' if node.done else 'to do'}  {visible(node.what):<{width}}  {tflop:>9} TFLOP  {seconds:>8}"


def _print_costs(rows: list[RecipeCost], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([row._asdict() for row in rows], indent=2))
        return
    print(f"{'model':<14}{'recipe':<12}{'M params':>10}{'train TFLOP/epoch':>20}{'test TFLOP':>12}{'test images':>13}")
    for row in rows:
        print(
            f"{row.model:<14}{row.recipe:<12}{row.params / 1e6:>10.2f}{row.train_tflop_per_epoch:>20.4g}"
            f"{row.test_tflop:>12.4g}{row.test_images:>13}"
        )
    print("2 FLOPs per multiply-add; a backward pass counts as two forwards, as published tables count it.")


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
