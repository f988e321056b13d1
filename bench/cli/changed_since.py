"""``--changed-since COMMIT`` of run, plan and train: only the cells that a change since a commit can have touched."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from bench.cli import options
from bench.display.base import Display
from bench.visible import visible

if TYPE_CHECKING:
    from bench.schedule.plan import Work
    from bench.schedule.since import Reason, Since
    from bench.types import PlannedCell

#: Reasons and cells that a text lists.
_LISTED = 12


def argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--changed-since",
        type=_commit,
        metavar="COMMIT",
        help="only the cells whose code, parameters or images are other than in a commit, such as origin/main",
    )


def _commit(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; it needs a commit, such as HEAD~1 or origin/main")
    return text


def narrowed(args: argparse.Namespace, work: Work) -> tuple[Work, Since | None]:
    """Return the plan of what has changed since the commit that is named, if one is, and what that is.

    Raises:
        UsageError: there is no such commit, or no repository.
    """
    if args.changed_since is None:
        return work, None
    from bench.schedule import since
    from bench.schedule.earlier import Table
    from bench.store.commits import commit_named

    display: Display = args.display
    commit = commit_named(args.changed_since, "--changed-since")
    table = Table(
        args.what,
        options.chosen_variants(args),
        args.epochs,
        [each.text for each in args.set],
        args.n,
        args.seed,
        options.data_folder(args),
        args.only,
    )
    with display.phase("looking at what changed"):
        known = since.since(work, commit, table)
    return since.narrowed(work, known, args.shard), known


def said(args: argparse.Namespace, known: Since) -> None:
    """Print what has changed, unless this is not the first process of its command, or it is to be quiet."""
    if not args.quiet and args.charge.began is None:
        sys.stdout.write("".join(f"{visible(line)}\n" for line in lines(known)))
        sys.stdout.flush()


def lines(known: Since) -> Iterator[str]:
    """Yield what has changed in words."""
    name = known.commit.name
    if not known.commit.changed:
        yield f"nothing has changed since {name}: none of {len(known.cells):,} cells is touched"
        return
    touched, untouched = len(known.touched), len(known.cells) - len(known.touched)
    needed = f"; needed with them: {len(known.needed):,}" if known.needed else ""
    yield f"since {name}: {touched:,} of {len(known.cells):,} cells are touched, {untouched:,} not{needed}"
    reasons = Counter(chain.from_iterable(known.touched.values())).most_common()
    yield from (f"  {count:>5,}  {_with_files(reason)}" for reason, count in reasons[:_LISTED])
    if len(reasons) > _LISTED:
        yield f"  and {len(reasons) - _LISTED:,} more reasons, which plan --json lists"
    if known.gone:
        yield f"not in the table any more: {len(known.gone):,} cells of {name}, which compare calls lost coverage"
        yield from (f"  {each.names} seed {each.cell.seed}" for each in known.gone[:_LISTED])
        if len(known.gone) > _LISTED:
            yield f"  and {len(known.gone) - _LISTED:,} more"
    yield from (f"note: {note}" for note in (*known.notes, *_of_harness(known)))


def _with_files(reason: Reason) -> str:
    from bench.schedule.since import NAMED
    from bench.types import listed

    return f"{reason.text} ({listed(reason.files, NAMED)})" if reason.files else reason.text


def _of_harness(known: Since) -> Iterator[str]:
    from bench.schedule.since import NAMED
    from bench.types import listed

    if known.harness:
        yield (
            f"{listed(known.harness, NAMED)} changed too, and no key shows what that touches: with --verify 2% "
            "run computes a share of the other cells again"
        )


def as_json(known: Since) -> dict[str, Any]:
    """Return what has changed as an object of ``plan --json``."""
    return {
        "commit": known.commit.sha,
        "name": known.commit.name,
        "cells": len(known.cells),
        "touched": [
            {**_named(each), "why": [reason._asdict() for reason in known.touched[each.key]]}
            for each in known.cells
            if each.key in known.touched
        ],
        "needed": sorted(known.needed),
        "untouched": [each.key for each in known.untouched],
        "gone": [_named(each) for each in known.gone],
        "harness": known.harness,
        "notes": known.notes,
    }


def _named(each: PlannedCell) -> dict[str, Any]:
    return {"key": each.key, "name": str(each.names), "seed": each.cell.seed}
