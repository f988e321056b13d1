"""What a store holds, written for others: adversarial sets and receipts of finished cells, and trained networks."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.cli import options, receipts, weights
from bench.display.base import Display
from bench.registry import unknown
from bench.types import UsageError, listed
from bench.visible import visible

if TYPE_CHECKING:
    from bench.report.sets.kept import AdversarialSet
    from bench.store.working_store import Store
    from bench.types import CellResult

SUMMARY = "adversarial sets, trained networks and receipts of cells as files for others, with keys and hashes"
WHAT = ("sets", "weights", "receipt")
FORMATS = ("npz", "parquet", "png")
#: Characters of a name that a file may be called by.
_LONGEST_NAME = 150


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", nargs="?", metavar="sets|weights|receipt", help="what to export; without it, says what there is"
    )
    parser.add_argument(
        "pattern",
        nargs="?",
        metavar="PATTERN",
        help="only cells whose dataset/model/defense/attack/access match; of weights the beginning of the key of a "
        "training, or trainings whose dataset/network/recipe match",
    )
    options.store(parser)
    parser.add_argument("--data", type=options.path, metavar="DIR", help="where to look for image sets first")
    options.trust(parser)
    parser.add_argument("--list", action="store_true", help="what is kept, one line each; writes nothing")
    parser.add_argument("--json", action="store_true", help="with --list: as JSON")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="of sets. npz: every bit, for NumPy; parquet: every bit, and pictures as Hugging Face has them; png: a "
        "folder of pictures, rounded to 8 bit, which changes images. Default: what --out ends with, else npz",
    )
    parser.add_argument(
        "--out",
        type=options.path,
        metavar="DIR|FILE",
        help="a file for one cell, a new folder for the key of one training, else a folder; nothing is overwritten",
    )
    weights.arguments(parser)
    receipts.arguments(parser)


def main(args: argparse.Namespace) -> int:
    from bench.report.sets import kept
    from bench.report.weights.kept import trainings
    from bench.store.working_store import Store

    if args.what is not None and args.what not in WHAT:
        raise UsageError(unknown("thing to export", args.what, WHAT))
    _require_options(args)
    if args.what == "sets" and not args.list and args.out is None:
        raise UsageError("where to? give --out DIR, or --out FILE.npz for one cell; --list shows what there is")
    root = options.store_root(args)
    if not root.is_dir():
        raise UsageError(f"no store at {root}: run first, or name another with --store")
    store, display = Store(root), _display(args)
    if args.what == "weights":
        return weights.main(args, store)
    if args.what is None and not args.list:
        print(weights.in_a_line(trainings(store)))
    with display.phase("reading the results"):
        store.warn_of_strangers()
        results = kept.attacked(store.results(), args.pattern)
    if args.what is None or args.list:
        _list(store, results, as_json=args.json, shortly=args.what is None and not args.list)
        return 0
    if args.what == "receipt":
        return receipts.export(args, store, {_file_name(result): result for result in results})
    return _export(args, store, results)


def _require_options(args: argparse.Namespace) -> None:
    """Raises UsageError: options that do not go together."""
    if args.pattern is not None and not args.pattern.strip():
        raise UsageError("the pattern is empty, such as a shell variable that is not set; without one, all is meant")
    if args.json and not args.list:
        raise UsageError("--json goes with --list")
    if args.by is not None and args.what != "receipt":
        raise UsageError("--by is of export receipt")
    if args.format is not None and args.what == "receipt":
        raise UsageError("--format is of export sets: a receipt has one form")
    if args.what == "weights":
        if args.format is not None:
            raise UsageError("--format is of export sets: weights are safetensors")
        if args.pattern is not None and not args.list and args.out is None:
            raise UsageError("where to? give --out DIR; --list shows what there is")
    elif args.half or args.part_size is not None:
        raise UsageError(f"{'--half' if args.half else '--part-size'} is of export weights")


def _display(args: argparse.Namespace) -> Display:
    display: Display = args.display
    return display


def _list(store: Store, results: list[CellResult], *, as_json: bool, shortly: bool) -> None:
    """Print which sets are kept; ``shortly`` only how many."""
    from bench.keys import Keys
    from bench.report.sets import kept

    keys, rows = Keys(), []
    for result in results:
        chunks = kept.chunks_of(store, result, keys)
        size = sum(path.stat().st_size for path in chunks)
        rows.append(_Row(str(result.names), result.key, result.cell.data.n, size, kept.lacking(store, result, chunks)))
    if shortly:
        count = sum(row.lacks is None for row in rows)
        print(
            f"sets: the adversarial images of {count:,} of {len(rows):,} attacked cells are kept; export sets --list "
            "names them, export sets PATTERN --out DIR writes them"
        )
    elif as_json:
        print(json.dumps([row._asdict() for row in rows], indent=2))
    else:
        for row in rows:
            size_text = f"{row.bytes / 1e6:>10.2f} MB" if row.lacks is None else f"{'not kept':>13}"
            print(visible(f"{row.key[:12]}  {row.n:>8,} images  {size_text}  {row.name}"))


class _Row(NamedTuple):
    """A set in a list: its cell, its images, the bytes that are kept of it, and the line on what is not."""

    name: str
    key: str
    n: int
    bytes: int
    lacks: str | None


def _export(args: argparse.Namespace, store: Store, results: list[CellResult]) -> int:
    """Write the sets of the results, and return 3 if some are not kept."""
    from bench.report.sets import kept
    from bench.store.outputs import require_new

    file_format = _format(args)
    paths = _paths(args.out, file_format, results)
    for path in paths:
        require_new(path)
    missing: list[kept.NotKept] = []
    for result, path in zip(results, paths, strict=True):
        with _display(args).phase(f"writing {result.names}"):
            try:
                adversarial = kept.read(store, result, options.data_folder(args), trusted=args.trust)
                remark = _write(adversarial, file_format, path)
            except kept.NotKept as error:
                missing.append(error)
                continue
        print(visible(str(path)))
        if remark is not None:
            print(visible(f"{path}: {remark}"), file=sys.stderr)
    return options.not_written(missing, len(results))


def _format(args: argparse.Namespace) -> str:
    ending = args.out.suffix.removeprefix(".").lower()
    if args.format is not None:
        if ending in FORMATS and ending != args.format and not args.out.is_dir():
            raise UsageError(f"--out {args.out} ends with .{ending}, and --format is {args.format}")
        return str(args.format)
    return ending if ending in ("npz", "parquet") else "npz"


def _paths(out: Path, file_format: str, results: list[CellResult]) -> list[Path]:
    """Return the file, or folder of pictures, that each set is written to."""
    if out.suffix.lower() == f".{file_format}" and not out.is_dir():
        if len(results) > 1:
            cells = listed((result.names for result in results), 1)
            raise UsageError(f"--out {out} is one file, for {len(results)} cells: {cells}; name a folder, or one cell")
        return [out]
    names = [_file_name(result) for result in results]
    # parquet:DIR takes all files of a folder for one set.
    ends = {"npz": "{}.npz", "parquet": "{}/test.parquet", "png": "{}"}
    return [out / ends[file_format].format(name) for name in names]


def _file_name(result: CellResult) -> str:
    plain = re.sub(r"[^A-Za-z0-9=.@_-]+", "-", str(result.names)).strip("-.")
    return f"{plain[:_LONGEST_NAME]}-{result.key[:12]}"


def _write(adversarial: AdversarialSet, file_format: str, path: Path) -> str | None:
    """Write a set, and return what must be said of the file."""
    from bench.report.sets import npz, pictures, table
    from bench.store.outputs import new_file, new_folder

    if file_format == "png":
        with new_folder(path) as folder:
            return pictures.write(adversarial, folder)
    with new_file(path) as file:
        if file_format == "parquet":
            return table.write(adversarial, file)
        npz.write(adversarial, file)
    return None
