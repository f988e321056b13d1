"""What ``export weights`` does: the networks that a store has trained, or is training, as files for others."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import options
from bench.display.base import Display
from bench.types import UsageError, shown
from bench.visible import visible

if TYPE_CHECKING:
    from bench.report.weights.card import Export
    from bench.report.weights.kept import Training, Weights
    from bench.store.working_store import Store

_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_MOST_BYTES = 2**50
#: Characters of a name that a folder may be called by.
_LONGEST_NAME = 150


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--half",
        action="store_true",
        help="weights: floating point as float16, but tensors whose numbers it cannot hold",
    )
    parser.add_argument(
        "--part-size",
        type=_size,
        metavar="15MB",
        help="weights: files of at most so many bytes, with an index (kB, MB, GB, KiB, MiB, GiB)",
    )


def main(args: argparse.Namespace, store: Store) -> int:
    """Write, list or count the trained networks of a store, and return 3 if some cannot be written."""
    from bench.report.weights import kept

    display: Display = args.display
    with display.phase("looking for trainings"):
        store.warn_of_strangers()
        known = kept.trainings(store)
    if args.list or args.out is None:
        if args.pattern is None and not args.list:
            print(in_a_line(known))
            return 0
        _list(kept.chosen(known, args.pattern)[0], as_json=args.json)
        return 0
    return _export(args, store, *kept.chosen(known, args.pattern))


def in_a_line(known: list[Training]) -> str:
    """Return how many trainings a store has."""
    finished = sum(each.is_finished for each in known)
    trainings = "1 training" if len(known) == 1 else f"{len(known):,} trainings"
    return (
        f"weights: {trainings}, {finished:,} of them finished; export weights --list names them, export weights KEY "
        "--out DIR writes one"
    )


def _list(known: list[Training], *, as_json: bool) -> None:
    from bench.report.weights import kept

    settings_of = kept.distinctions(known)
    if as_json:
        print(json.dumps([_row(each) | {"differs_in": settings_of[each.key]} for each in known], indent=2))
        return
    for each in known:
        size = f"{each.size / 1e6:>10.2f} MB" if each.lacks is None else f"{'not kept':>13}"
        epochs = f"{each.epochs:,} of {each.ref.schedule.epochs:,} epochs"
        differing = ", ".join(f"{name} = {value}" for name, value in settings_of[each.key].items())
        name = f"{each.name} ({differing})" if differing else each.name
        print(visible(f"{each.key[:12]}  {epochs:>24}  {size}  {name}  {each.state}"))


def _row(each: Training) -> dict[str, object]:
    return {
        "key": each.key,
        "name": each.name,
        "dataset": each.ref.data.name,
        "network": each.model.network.name,
        "recipe": each.ref.recipe.name,
        "seed": each.ref.seed,
        "epochs": each.epochs,
        "epochs_planned": each.ref.schedule.epochs,
        "finished": each.is_finished,
        "running": each.is_running,
        "bytes": each.size,
        "lacks": each.lacks,
    }


def _export(args: argparse.Namespace, store: Store, chosen: list[Training], by_key: bool) -> int:
    from bench.report.weights import kept
    from bench.store.outputs import require_new

    if by_key:
        require_new(args.out)
    display: Display = args.display
    failed: list[UsageError] = []
    for training in chosen:
        with display.phase(f"writing {training.name}"):
            try:
                weights = kept.read(store, training)
                path = args.out if by_key else args.out / _folder_name(training, weights)
                export = _write(args, training, weights, path)
            # Such as one that was exported before: the others may have trained on since.
            except UsageError as error:
                failed.append(error)
                continue
        print(visible(str(path)))
        for remark in _remarks(export):
            print(visible(f"{path}: {remark}"), file=sys.stderr)
    return options.not_written(failed, len(chosen))


def _folder_name(training: Training, weights: Weights) -> str:
    plain = re.sub(r"[^A-Za-z0-9=.@_-]+", "-", training.name).strip("-.")[:_LONGEST_NAME]
    # That of a training that goes on is another after each epoch.
    epoch = "" if weights.epochs == training.ref.schedule.epochs else f"-epoch-{weights.epochs}"
    return f"{plain}-{training.key[:12]}{epoch}"


def _write(args: argparse.Namespace, training: Training, weights: Weights, path: Path) -> Export:
    """Write one training into a new folder."""
    from bench.keys import canonical_json
    from bench.report.weights import card, parts
    from bench.store.files import write_beside
    from bench.store.outputs import new_folder
    from bench.store.seals import sealed

    training = training._replace(log=list(weights.card.get("log", [])))
    with new_folder(path) as folder:
        halved = parts.halved(weights.tensors) if args.half else None
        tensors = weights.tensors if halved is None else halved.tensors
        sizes = Counter[str]()
        for tensor in tensors.values():
            sizes[str(tensor.dtype).removeprefix("torch.")] += tensor.nbytes
        written = parts.write(tensors, folder, args.part_size)
        dtypes = tuple(name for name, _ in sizes.most_common())
        export = card.Export(training, weights, dtypes, halved, written, _software())
        log = "".join(canonical_json(row) + "\n" for row in training.log)
        write_beside(folder / "log.jsonl", log.encode())
        _write_curve(training, folder)
        write_beside(folder / "README.md", card.page(export, _source(path)).encode())
        write_beside(folder / "card.json", sealed(card.body(export)))
    return export


def _source(path: Path) -> str:
    """Return what a configuration calls an exported folder: as it was named, but without folders of this machine."""
    return f"weights:{path.name if path.is_absolute() else path}"


def _write_curve(training: Training, folder: Path) -> None:
    """Draw the curve of a training; one that cannot be drawn, which a line says, costs no weights."""
    from bench.report import figures
    from bench.report.figures import overfitting_curves
    from bench.store.files import write_beside

    def make() -> figures.Drawing:
        return overfitting_curves.of_training(training.name, training.ref, training.log, figures.WIDTHS["page"])

    try:
        write_beside(folder / "curve.png", figures.drawn("curve", make)["png"])
    except figures.NotDrawn as reason:
        print(visible(f"{training.name}: no curve.png: {reason}"), file=sys.stderr)


def _remarks(export: Export) -> list[str]:
    """Return what must be said of exported weights."""
    remarks = []
    if export.weights.epochs < export.training.ref.schedule.epochs:
        remarks.append(export.epochs)
    if (halved := export.halved) is not None:
        remarks.append(f"float16: the largest relative error is {halved.error:.2e}")
        if halved.kept:
            first, why = next(iter(halved.kept.items()))
            remarks.append(
                f"as it was trained stays what float16 cannot hold, {len(halved.kept):,} of {len(halved.tensors):,} "
                f"tensors, such as {shown(first)}: {why}"
            )
    return remarks


def _software() -> dict[str, str | None]:
    import safetensors
    import torch

    from bench.cli import command
    from bench.store.provenance import harness

    commit, edited = harness()
    return {
        "crossfire": command.version().removeprefix("crossfire "),
        "commit": commit and commit + (" and edits" if edited else ""),
        "torch": torch.__version__,
        "safetensors": safetensors.__version__,
    }


def _size(text: str) -> int:
    """Return a size such as ``15MB`` in bytes."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([kmg]i?b)", text.lower())
    size = int(Fraction(match[1]) * _UNITS[match[2]]) if match else 0
    if not 0 < size <= _MOST_BYTES:
        raise argparse.ArgumentTypeError(f"{shown(text)} is no size such as 15MB or 16MiB")
    return size
