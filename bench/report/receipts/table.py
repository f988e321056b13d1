"""Tables made of receipts: what is in a folder, who measured which row, and what of it somebody has verified."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, get_args

from bench.report.leaderboard.tables import Board, Table, TableRow
from bench.report.receipts import form
from bench.report.receipts.passes import remark
from bench.report.receipts.read import Receipt, read
from bench.report.receipts.redacted import foreign
from bench.report.receipts.verdict import REPORT_FORMAT, Check, Report, Verdict
from bench.store import files
from bench.store.reading import document
from bench.types import UsageError, listed
from bench.visible import distinct, quoted

#: Of the report beside a receipt, in bytes.
_MAX_REPORT = 2**24
#: Files of a folder that are looked at.
_MOST_FILES = 10_000
#: What one check of a receipt may look at and another may not, as it lacks weights, images or time.
_REPEATABLE: tuple[Check, ...] = ("images", "weights", "costs", "clean answers", "adversarial answers", "accuracy")
#: People that a line names.
_NAMED = 5
#: What is known of a receipt without a report.
NOT_VERIFIED = "not verified"


class Found(NamedTuple):
    """Receipts, and a line on each file that was left out."""

    receipts: list[Receipt]
    notes: list[str]


def found(paths: Iterable[Path]) -> Found:
    """Return the receipts among files and in folders, also below them, sorted by path.

    Raises:
        UsageError: a file that was named is no receipt, or contradicts itself; or there is none at all.
    """
    receipts, notes = dict[str, Receipt](), list[str]()
    for path in paths:
        if not os.path.isdir(path):
            receipts.setdefault((receipt := read(path)).sha256, receipt)
            continue
        for each in _in_folder(path):
            try:
                receipts.setdefault((receipt := read(each)).sha256, receipt)
            except UsageError as error:
                notes.append(f"left out: {error}")
    if not receipts:
        raise UsageError(notes[0] if notes else f"no file *{form.ENDING} is there")
    return Found(list(receipts.values()), notes)


def _in_folder(folder: Path) -> list[Path]:
    """Raises UsageError: there are too many."""
    inside: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        inside += [Path(parent, name) for name in sorted(names) if name.endswith(form.ENDING)]
        if len(inside) > _MOST_FILES:
            raise UsageError(f"{folder} has more than {_MOST_FILES:,} receipts; name a part of them")
    return inside


def verdict_beside(receipt: Receipt) -> Verdict | None:
    """Return the verdict in the report that ``verify --out`` wrote beside a receipt, under its name and ``.json``.

    ``None`` where there is none, or where it is that of another receipt. Nobody signs it: it is worth as much as the
    folder that it lies in.
    """
    body = _beside(receipt)
    return next((each for each in get_args(Verdict) if each == body.get("verdict")), None)


def verified_beside(receipt: Receipt) -> str:
    """Return what the report beside a receipt makes known of it, in words: its verdict, and with which weights."""
    verdict = verdict_beside(receipt)
    if verdict is None:
        return NOT_VERIFIED
    weights = (each.get("state") for each in findings_beside(receipt) if each.get("check") == "weights")
    # What is said of weights is that they were in half precision.
    return f"verified: {verdict}" + (", with weights in half precision" if "said" in weights else "")


def findings_beside(receipt: Receipt) -> list[dict[str, Any]]:
    """Return the findings of the report beside a receipt; none where there is no such report."""
    findings = _beside(receipt).get("findings")
    return [each for each in findings if isinstance(each, dict)] if isinstance(findings, list) else []


def _beside(receipt: Receipt) -> dict[str, Any]:
    return report_at(receipt.path.with_name(f"{receipt.path.name}.json"), receipt.sha256)


def report_at(path: Path, sha256: str) -> dict[str, Any]:
    """Return the report on a receipt in a file, as ``verify --out`` wrote it; nothing where there is none of it."""
    try:
        body = document(files.read(path, _MAX_REPORT))
    except (OSError, ValueError):
        return {}
    is_own = isinstance(body, dict) and body.get("format") == REPORT_FORMAT and body.get("receipt") == sha256
    return body if is_own else {}


def lost(report: Report, path: Path) -> list[str]:
    """Return what a report in a file says was looked at, and this newer one of the same receipt does not.

    Nothing where the newer one refutes the receipt: that is more than any other says.
    """
    body = report_at(path, report.receipt.sha256)
    earlier, predicted = body.get("findings"), body.get("images_predicted")
    if report.verdict == "does not hold" or not isinstance(earlier, list):
        return []
    states = {each.get("check"): each.get("state") for each in earlier if isinstance(each, dict)}
    now = {each.check for each in report.findings if each.state != "not checked"}
    missing = [
        str(check) for check in _REPEATABLE if states.get(check, "not checked") != "not checked" and check not in now
    ]
    if not missing and isinstance(predicted, int) and predicted > report.predicted:
        missing.append(f"{predicted:,} images, where {report.predicted:,} were predicted now")
    return missing


def with_sources(board: Board, receipts: Iterable[Receipt]) -> Board:
    """Return tables with a line for each row: who measured it, as they say, and what of it was verified."""
    by_key: dict[str, list[Receipt]] = defaultdict(list)
    for receipt in receipts:
        by_key[receipt.result.key].append(receipt)
    tables = [replace(table, notes=(*table.notes, *_lines(table, by_key))) for table in board.tables]
    return replace(board, tables=tuple(tables))


def _lines(table: Table, by_key: Mapping[str, list[Receipt]]) -> Iterator[str]:
    measured = [_measured_by(_people(row, by_key)) for row in table.rows]
    if len(set(measured)) == 1 < len(measured):
        yield f"each row: {measured[0]}"
        return
    rows = zip(table.rows, measured, strict=True)
    yield from (f"{row.defense}, {row.access}: {words}" for row, words in rows if words)


def _measured_by(people: list[str]) -> str:
    return f"measured by {listed(people, _NAMED)}" if people else ""


def _people(row: TableRow, by_key: Mapping[str, list[Receipt]]) -> list[str]:
    receipts = list(chain.from_iterable(by_key.get(key, ()) for key in dict.fromkeys(row.keys)))
    known: dict[str, list[str]] = defaultdict(list)
    methods, implausible = set[str](), dict[str, list[str]]()
    for receipt in receipts:
        by = "somebody who is not named" if receipt.by is None else quoted(distinct(receipt.by))
        known[by].append(verified_beside(receipt))
        methods |= set(foreign(receipt.result.cell))
        if (why := remark(receipt.result)) is not None:
            implausible.setdefault(by, []).append(f"; {receipt.result.names.attack}: not plausible: {why}")
    own = f", with methods that do not come with Crossfire: {', '.join(sorted(methods))}" if methods else ""
    return [f"{by} ({_counted(words)}{own}{''.join(implausible.get(by, ()))})" for by, words in known.items()]


def _counted(known: list[str]) -> str:
    """Return how many cells there are and what was verified of them."""
    counts = Counter(sorted(known, key=lambda words: (words == NOT_VERIFIED, words)))
    return "; ".join(f"{count:,} {'cell' if count == 1 else 'cells'} {words}" for words, count in counts.items())
