"""Receipts in files and folders, without a submission around them: which of them count, as on a public leaderboard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

from bench.report.leaderboard.flags import (
    BUDGET_NOT_CHECKED,
    BY_OTHERS,
    IMAGES_NOT_COMPARED,
    NO_BUDGET,
    NOT_REPEATED,
    UNKNOWN_ATTACK,
)
from bench.report.leaderboard.tables import Board, Table
from bench.report.receipts.form import ADVERSARIAL
from bench.report.receipts.read import Receipt
from bench.report.receipts.table import findings_beside, verdict_beside, verified_beside
from bench.report.submissions import merge, remarks, render, reports
from bench.report.submissions.form import Submission
from bench.report.submissions.read import (
    REPEATED,
    Entry,
    State,
    Submissions,
    clean_images_of,
    flags_of,
    of_unknown_flags,
    require_possible,
    state_of,
    with_known_flags,
)
from bench.types import CellResult, UsageError
from bench.visible import distinct, quoted

_LEFT_OUT = "left out: "
#: What tells nothing of one receipt where predictions of none were repeated: all are as somebody says.
_OF_REPEATED = frozenset({BY_OTHERS, NOT_REPEATED, UNKNOWN_ATTACK, BUDGET_NOT_CHECKED, NO_BUDGET})
_NOBODY = "somebody who is not named"


class Counted(NamedTuple):
    """What counts of some receipts.

    Attributes:
        results: one for each cell, flagged where somebody measured it otherwise.
        receipts: those that agree with them, under their keys.
        lines: what is said of the others, each with the result that it is about.
        merged: which of them counts, and why.
    """

    results: list[CellResult]
    receipts: list[Receipt]
    lines: list[tuple[CellResult, str]]
    merged: merge.Merged

    @property
    def left_out(self) -> list[str]:
        """The lines on receipts that are not used; the others are about numbers, and stand below their tables."""
        return [line for _, line in self.lines if line.startswith(_LEFT_OUT)]

    def said_below(self, board: Board) -> Board:
        """Return tables with the lines below the table that has cells of the same images and network."""
        tables = [replace(table, notes=(*table.notes, *self._below(board, table))) for table in board.tables]
        return remarks.said_below(replace(board, tables=tuple(tables)), self.merged)

    def _below(self, board: Board, table: Table) -> Iterator[str]:
        keys = dict.fromkeys(chain.from_iterable(row.keys for row in table.rows))
        known = {_measured_on(board.results[key]) for key in keys}
        yield from (line for result, line in self.lines if _measured_on(result) in known)


def _measured_on(result: CellResult) -> tuple[str, str, str]:
    """Return what results of one table have in common: the images and the network."""
    data, network = result.cell.data, result.cell.model.network
    return data.name, data.indices_sha, network.model_dump_json()


def counted(receipts: Iterable[Receipt]) -> Counted:
    """Return which receipts count: those that are known best, by the reports that lie beside them.

    Raises:
        UsageError: none is left, for all of them were refuted.
    """
    lines: list[tuple[CellResult, str]] = []
    by_file: dict[str, Receipt] = {}
    entries: list[Entry] = []
    for receipt in receipts:
        try:
            entries.append(_entry(receipt))
            by_file[entries[-1].file] = receipt
        except UsageError as error:
            lines.append((receipt.result, f"{_LEFT_OUT}{error}"))
    if not entries:
        raise UsageError(f"no receipt is left: {lines[0][1].removeprefix(_LEFT_OUT)}")
    lines += ((by_file[each.file].result, f"{_LEFT_OUT}{each.file}: {each.why}") for each in of_unknown_flags(entries))
    entries = with_known_flags(entries)
    merged = merge.merged(Submissions(entries, (), []))
    lines += _lines(merged, by_file)
    kept: list[Receipt] = []
    for key, own in merged.sources.items():
        kept += (_under(by_file[entry.file], key) for entry in own)
    return Counted([*_marked(merged.ranked, entries)], kept, lines, merged)


def _entry(receipt: Receipt) -> Entry:
    """Raises UsageError: it was refuted, or says that it was measured in the future."""
    require_possible(receipt.path, receipt.result)
    verdict = verdict_beside(receipt)
    if verdict == "does not hold":
        raise UsageError(f"{receipt.path}: the report beside it says that it does not hold")
    who = _NOBODY if receipt.by is None else quoted(distinct(receipt.by))
    words = verified_beside(receipt)
    file, sha256 = str(receipt.path), receipt.sha256
    trained, halved = (tuple(sorted(each.items())) for each in (receipt.claims.trained, receipt.claims.halved))
    shown = reports.shown(findings_beside(receipt))
    state: State = "unchecked" if verdict is None else state_of(shown)
    entry = Entry(
        receipt.result,
        who,
        Submission(),
        file,
        sha256,
        sha256,
        state,
        words,
        trained,
        halved,
        clean_images_of(receipt),
        shown.are_images_known,
    )
    return entry._replace(
        images=receipt.claims.sha256[ADVERSARIAL], doubts=flags_of(receipt.result, is_corrupted=shown.is_corrupted)
    )


def _lines(merged: merge.Merged, by_file: Mapping[str, Receipt]) -> Iterator[tuple[CellResult, str]]:
    """Yield what is said of receipts that do not count."""
    for differing in merged.differing:
        item = render.differing_item(differing)
        yield differing.entry.result, f"measured differently: {item.what}, by {item.who}: {item.why}"
    for older in merged.superseded:
        item = render.superseded_item(older)
        yield older.entry.result, f"superseded: {item.what}, by {item.who}: {item.why}"
    for remark in merged.remarks:
        yield by_file[remark.file].result, f"{_LEFT_OUT}{remark.file}: {remark.why}"


def _under(receipt: Receipt, key: str) -> Receipt:
    """Return a receipt under the key of the result that stands for it, which other code may have measured."""
    result = receipt.result.model_copy(update={"key": key})
    return replace(receipt, claims=receipt.claims.model_copy(update={"result": result}))


def _marked(results: Iterable[CellResult], entries: Iterable[Entry]) -> Iterator[CellResult]:
    """Yield results without the marks that tell nothing, as nobody looked at any: repeated or compared none."""
    entries = list(entries)
    are_repeated = any(entry.state in REPEATED for entry in entries)
    are_compared = are_repeated or any(entry.are_images_known for entry in entries)
    untold = (set() if are_repeated else _OF_REPEATED) | (set() if are_compared else {IMAGES_NOT_COMPARED})
    for result in results:
        yield result.model_copy(update={"flags": tuple(flag for flag in result.flags if flag not in untold)})
