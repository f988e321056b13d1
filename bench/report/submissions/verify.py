"""A check of submissions on this side: a report for each receipt, in a folder that submitters may not write to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from bench.report.receipts import passes, repeat
from bench.report.receipts.check import checked
from bench.report.receipts.read import Receipt, name_of
from bench.report.receipts.read import read as read_receipt
from bench.report.receipts.verdict import Finding, Report
from bench.report.receipts.weights import Hashes
from bench.report.render.outside import require_images
from bench.report.submissions import form, reports
from bench.report.submissions.arrivals import came_last
from bench.report.submissions.averaged import as_others_state
from bench.report.submissions.form import Withdrawal
from bench.report.submissions.read import (
    MOST_BYTES,
    Entry,
    Folder,
    LeftOut,
    folders,
    of_run,
    read,
    refused,
    require_possible,
    unknown_flags,
    withdrawn,
)
from bench.report.submissions.withdrawn import taken_back
from bench.store import files
from bench.store.outputs import write_into
from bench.types import UsageError, first_line
from bench.visible import visible

#: Of a hash that a line names.
_DIGITS = 12
_OTHERS = "no weights of its networks"


class Line(NamedTuple):
    """What a check has shown of a file: ``is_refused`` says that it does not count; a note is beside what it showed."""

    file: str
    words: str
    is_refused: bool = False
    is_note: bool = False


def no_longer_withdrawn(root: Path, before: Path) -> Iterator[Line]:
    """Yield a line on each withdrawal of an earlier ``withdrawn.toml`` that that of the submissions does not have.

    Lines are not enough to tell: one that is added may take in those below it.

    Raises:
        UsageError: either file cannot be read, or the earlier one is not there.
    """
    if not before.exists():
        raise UsageError(f"--withdrawn {before}: no such file")
    try:
        earlier = form.withdrawals(before)
    except form.Unusable as error:
        raise UsageError(f"--withdrawn {before}: {error}") from None
    now = frozenset(withdrawn(root))
    for each in earlier:
        if each not in now:
            words = f"SHA-256 {each.sha256} ({each.date}: {each.reason}) was withdrawn, and that is gone or changed"
            yield Line(form.WITHDRAWN, words, is_refused=True)


def takes_back(checker: Checker, before: Path) -> Iterator[Line]:
    """Yield what is taken back that an earlier ``withdrawn.toml`` did not name, also of others than those who do it.

    Raises:
        UsageError: as :func:`no_longer_withdrawn` does, or the submissions cannot be read.
    """
    try:
        earlier = frozenset(each.sha256 for each in form.withdrawals(before))
    except form.Unusable as error:
        raise UsageError(f"--withdrawn {before}: {error}") from None
    new = tuple(each for each in withdrawn(checker.root) if each.sha256 not in earlier)
    if not new:
        return
    found = read(checker.root, checker.out, checker.version, checker.data_folder)
    by_withdrawal: dict[str, list[Entry]] = {each.sha256: [] for each in new}
    for entry, withdrawal in taken_back(found._replace(withdrawals=new)):
        if entry is not None:
            by_withdrawal[withdrawal.sha256].append(entry)
    for each in new:
        own = by_withdrawal[each.sha256]
        # A run file has many results.
        files = list(dict.fromkeys(_whose(entry) for entry in own if each.names(entry.hashes, entry.folder)))
        copies = list(dict.fromkeys(_whose(entry) for entry in own if not each.names(entry.hashes, entry.folder)))
        if not files:
            continue  # What it is of instead is said beside this.
        words = f"SHA-256 {each.sha256[:_DIGITS]} takes back {', '.join(files)}"
        if len(files) > 1:
            words += ', one file in several folders (only = "FOLDER" takes it back in one)'
        if copies:
            words += f"; and {', '.join(copies)}, with the same measurement (only = true keeps that)"
        yield Line(form.WITHDRAWN, words)


def _whose(entry: Entry) -> str:
    return f"{entry.file} by {entry.who}"


def withdrawn_of_no_result(root: Path, there: Sequence[Folder]) -> Iterator[Line]:
    """Yield a note on each withdrawal that is of no result of some submissions: a slip, or of a file that has gone."""
    left = {each.sha256 for each in withdrawn(root)}
    if not left:
        return
    for folder in there:
        left -= {name_of(path) for path in folder.receipts}
        left -= set(_by_hash([*folder.receipts, *folder.runs]))
    others = _by_hash(chain.from_iterable((root / each.name / form.SUBMISSION, *each.weights) for each in there))
    for sha256 in sorted(left):
        path = others.get(sha256)
        what = "that of no result that is there"
        if path is not None:
            what = f"that of {path.relative_to(root).as_posix()}, which is no result"
        yield Line(form.WITHDRAWN, f"SHA-256 {sha256} is {what}, so this entry takes back nothing", is_note=True)


class _Struck(NamedTuple):
    """What was withdrawn, and the files that came last, of which none was there to be withdrawn."""

    withdrawals: tuple[Withdrawal, ...]
    new: frozenset[str]

    def said(self, root: Path, folder: Folder, line: Line) -> Line:
        """Return the line on a file, with when and why its results were withdrawn: what is new is refused for it.

        Else somebody could write down the hash of a receipt before it comes, and it would never be shown.
        """
        path = root / line.file
        if not self.withdrawals or line.is_refused or path not in (*folder.receipts, *folder.runs):
            return line
        hashes = set(_by_hash([path]))
        if path in folder.receipts and (name := name_of(path)) is not None:
            hashes.add(name)
        own = next((each for each in self.withdrawals if each.names(hashes, folder.name)), None)
        if own is None:
            return line
        words = f"withdrawn on {own.date}: {own.reason}"
        if line.file in self.new:
            return Line(line.file, f"{words}; so says withdrawn.toml, and this file is new", True)
        return line._replace(words=f"{line.words}; {words}")


def _by_hash(paths: Iterable[Path]) -> dict[str, Path]:
    """Return files by their hashes, but links and what cannot be read."""
    found: dict[str, Path] = {}
    for path in paths:
        with suppress(OSError, ValueError):
            if not path.is_symlink():
                found.setdefault(files.file_sha256(path, MOST_BYTES), path)
    return found


class Checker(NamedTuple):
    """How receipts are checked.

    Attributes:
        root: the folder of submissions.
        out: the folder of the reports.
        version: of the harness, to which reports are bound.
        data_folder: where to look for image sets first.
        device: to predict on.
        check: called between batches.
        hashes: of files of weights.
    """

    root: Path
    out: Path
    version: str
    data_folder: Path | None
    device: str
    check: Callable[[], None]
    hashes: Hashes

    def lines(self, names: Collection[str]) -> Iterator[Line]:
        """Check submissions, all or those of some names, and yield a line on each file.

        ``withdrawn.toml`` is looked at always; as a name it is that of none of them.

        Raises:
            UsageError: there is no such folder or submission, ``withdrawn.toml`` is damaged, there is more than is
                read, or the reports would lie where they could be forged.
        """
        reports.require_apart(self.root, self.out, "--out")
        known_withdrawals = withdrawn(self.root)
        left_out: list[LeftOut] = []
        there = list(folders(self.root, left_out))
        known = {
            form.WITHDRAWN,
            *(folder.name for folder in there),
            *(each.file.partition("/")[0] for each in left_out),
        }
        if unknown := [name for name in names if name not in known]:
            raise UsageError(f"{self.root} has no submission {unknown[0]}")
        # Also where no receipt gets a report, so that a folder that is not there is a slip.
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {self.out}: no folder for reports: {error.strerror}") from None
        yield from withdrawn_of_no_result(self.root, there)
        struck = _Struck(known_withdrawals, came_last(self.root) or frozenset())
        for each in left_out:
            if not names or each.file.partition("/")[0] in names:
                yield Line(*each, is_refused=True)
        weights = list(chain.from_iterable(folder.weights for folder in there))
        for folder in there:
            if not names or folder.name in names:
                for line in self._of_folder(folder, weights):
                    yield struck.said(self.root, folder, line)
        checked = {folder.name for folder in there if not names or folder.name in names}
        if known_withdrawals and checked:
            yield from self._copies(checked, struck.new)

    def _copies(self, names: Collection[str], new: Collection[str]) -> Iterator[Line]:
        """Yield a line on each file that is taken back as a copy of what was withdrawn: a new one is refused.

        Tables strike it, so that whoever gave it is to see why.
        """
        found = read(self.root, self.out, self.version, self.data_folder)
        found = found._replace(entries=as_others_state(found.entries))
        originals: dict[tuple[str, str], str] = {}
        # A run file has many results, of which the first speaks for all.
        copies: dict[tuple[str, Withdrawal], str] = {}
        for entry, withdrawal in taken_back(found):
            if entry is None:
                continue
            if withdrawal.names(entry.hashes, entry.folder):
                originals.setdefault((withdrawal.sha256, entry.result.key), entry.file)
            elif entry.folder in names:
                copies.setdefault((entry.file, withdrawal), entry.result.key)
        for (file, withdrawal), key in copies.items():
            why = f"withdrawn with {originals[withdrawal.sha256, key]}, of the same measurement, on {withdrawal.date}"
            words = f"{why}: {withdrawal.reason} (only = true keeps this one)"
            if file in new:
                yield Line(file, f"{words}; so says withdrawn.toml, and this file is new", is_refused=True)
            else:
                yield Line(file, words, is_note=True)

    def _of_folder(self, folder: Folder, weights: Sequence[Path]) -> Iterator[Line]:
        if not folder.receipts and not folder.runs:
            yield Line(folder.name, "it holds no receipt and no run file", is_refused=True)
        for path in folder.receipts:
            file = path.relative_to(self.root).as_posix()
            try:
                yield self._of_receipt(folder, path, file, weights)
            except UsageError as error:
                yield Line(*refused(self.root, path, error), is_refused=True)
        for path in folder.runs:
            file = path.relative_to(self.root).as_posix()
            try:
                entries = of_run(self.root, folder, path)
                count = f"{len(entries):,} result{'s' * (len(entries) != 1)}"
                flags = unknown_flags(entry.result for entry in entries)
                yield Line(file, f"{count}: outcomes only" + (f"; left out: {flags}" if flags else ""))
            except UsageError as error:
                yield Line(*refused(self.root, path, error), is_refused=True)

    def _of_receipt(self, folder: Folder, path: Path, file: str, weights: Sequence[Path]) -> Line:
        """Raises UsageError: it cannot be read, or contradicts itself."""
        receipt = read_receipt(path)
        require_possible(path, receipt.result)
        shown = reports.read(self.out, receipt.sha256, self.version)
        own: list[Path] = []
        has_images = shown is not None and self._has_images_now(receipt, shown)
        if shown is None or shown.lacks_weights or has_images:
            # Those of a submission itself first; somebody else, or a later pull request, may give them as well.
            own = repeat.own_of(receipt, [*folder.weights, *weights], self.hashes)
        given = {self.hashes.file(each) for each in own}
        if shown is None or not given <= shown.given or has_images:
            report = self._checked(folder, path, receipt, own)
            write_into(
                reports.path_of(self.out, receipt.sha256), reports.written(report.as_json(), self.version, given)
            )
            shown = reports.shown([each._asdict() for each in report.findings])
        if shown.refuted is not None:
            return Line(file, f"it does not hold: {shown.refuted}", is_refused=True)
        words = shown.words
        words += "" if shown.are_images_known else "; images not compared with their set"
        if (why := passes.remark(receipt.result)) is not None:
            words += f"; not plausible: {why}"
        if flags := unknown_flags([receipt.result]):
            words += f"; left out: {flags}"
        return Line(file, words)

    def _has_images_now(self, receipt: Receipt, shown: reports.Shown) -> bool:
        """Say whether images can be compared with their set that could not when a report was made."""
        if shown.are_images_known or shown.refuted is not None:
            return False
        try:
            require_images(receipt.result.cell.data, self.data_folder, trusted=False)
        except UsageError:
            return False
        return True

    def _damaged(self, folder: Folder) -> str:
        """Return why a file of weights of a submission cannot be read; empty where all can."""
        for path in folder.weights:
            try:
                self.hashes.tensors(path)
            except (UsageError, OSError) as error:
                return visible(f"{path.name}: {first_line(error).removeprefix(f'{path} ')}")
        return ""

    def _checked(self, folder: Folder, path: Path, receipt: Receipt, own: Sequence[Path]) -> Report:
        why = self._damaged(folder) or (_OTHERS if folder.weights else folder.without_weights)
        if own:
            try:
                given = [str(each) for each in own]
                return checked(path, given, self.device, self.data_folder, check=self.check, hashes=self.hashes)
            except UsageError as error:
                # Such as a method of the submitter's own, whose code is never run here.
                why = refused(self.root, path, error).why
        report = checked(path, (), self.device, self.data_folder)
        findings = (each for each in report.findings if each.check != "weights")
        return report._replace(findings=(*findings, Finding("weights", "not checked", why)))
