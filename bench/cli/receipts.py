"""What ``export receipt`` does: one file for each cell, with what a stranger needs to check it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import options
from bench.types import MAX_WORD, UsageError, listed
from bench.visible import visible

if TYPE_CHECKING:
    from bench.store.working_store import Store
    from bench.types import CellResult


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--by",
        type=_by,
        metavar="NAME",
        help="receipt: who measured it, in at most 200 characters; anybody can read it",
    )


def _by(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; leave it out to name nobody")
    if len(visible(text)) > MAX_WORD:
        raise argparse.ArgumentTypeError(f"it has {len(visible(text)):,} characters, and may have {MAX_WORD}")
    if visible(text) != text:
        raise argparse.ArgumentTypeError(f"'{visible(text)}' has characters that nobody sees, or a line break")
    return text.strip()


def export(args: argparse.Namespace, store: Store, results: dict[str, CellResult]) -> int:
    """Write the receipts of results, each by the name of its file, and return 3 if some cannot be written."""
    from bench.report.receipts import form, write
    from bench.report.receipts.redacted import Outdated
    from bench.report.sets import kept
    from bench.store.outputs import new_file, require_new

    if args.pattern is None and len(results) > 1:
        first = next(iter(results.values()))
        raise UsageError(f"of which cell? export receipt CELL, such as '{first.names}'; --list shows them")
    paths = _paths(args.out, form.ENDING, results)
    for path in paths:
        require_new(path)
    failed: list[UsageError] = []
    for result, path in zip(results.values(), paths, strict=True):
        with args.display.phase(f"writing {result.names}"):
            try:
                adversarial = kept.read(store, result, options.data_folder(args), trusted=args.trust)
                with new_file(path) as file:
                    sha256 = write.write(adversarial, store, args.by, file)
                _require_readable(path)
            # Of the one whose images have gone the others are still written.
            except (kept.NotKept, Outdated) as error:
                failed.append(error)
                continue
        print(visible(f"{sha256}  {path}"))
        for remark in write.remarks(result):
            print(visible(f"{path}: {remark}"), file=sys.stderr)
    return options.not_written(failed, len(results))


def _require_readable(path: Path) -> None:
    """Remove a receipt that no reader would take, such as that of a result of a version that named cells otherwise.

    Raises:
        UsageError: it is so.
    """
    from bench.report.receipts.read import Contradiction, NoReceipt, read

    try:
        read(path)
    except (Contradiction, NoReceipt) as error:
        path.unlink()
        raise UsageError(f"{error}; nothing is written") from None


def _paths(out: Path | None, ending: str, results: dict[str, CellResult]) -> list[Path]:
    """Return the file of each receipt: ``out`` itself for one cell, else a file in that folder or the current one."""
    if out is not None and out.suffix.lower() == ending and not out.is_dir():
        if len(results) > 1:
            cells = listed((result.names for result in results.values()), 1)
            raise UsageError(f"--out {out} is one file, for {len(results)} cells: {cells}; name a folder, or one cell")
        return [out]
    return [(out or Path()) / f"{name}{ending}" for name in results]
