"""A folder of submissions by strangers, read within bounds: what cannot be used is left out with a line, and no more.

    submissions/withdrawn.toml
    submissions/NAME/submission.toml, *.receipt, *.json, *.safetensors

A folder is one submission. Links, and files that are no regular ones, are not followed.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain
from math import inf
from pathlib import Path
from typing import Literal, NamedTuple

from bench.keys import Keys
from bench.report.leaderboard.flags import unknown
from bench.report.receipts import passes
from bench.report.receipts.check import checked
from bench.report.receipts.datasets import wrong_images
from bench.report.receipts.form import ADVERSARIAL, CLEAN, LABELS
from bench.report.receipts.methods import impossible
from bench.report.receipts.names import misnamed
from bench.report.receipts.read import Receipt
from bench.report.receipts.read import read as read_receipt
from bench.report.receipts.verdict import AHEAD
from bench.report.submissions import form, reports
from bench.report.submissions.arrivals import arrivals
from bench.report.submissions.doubts import doubts
from bench.report.submissions.form import Submission, Withdrawal
from bench.store import files, reading
from bench.store.history import parse
from bench.store.latest import protocol
from bench.types import CellResult, UsageError, first_line, listed, shown
from bench.visible import distinct, named, quoted, visible

#: Submissions of a folder, and files of a submission.
MOST_SUBMISSIONS = 2_000
MOST_FILES = 200
#: Bytes of a file, as hosts of git take no larger ones, and of all.
MOST_BYTES = 100 * 2**20
MOST_BYTES_OF_ALL = 20 * 2**30
#: Results of all run files together.
MOST_RESULTS = 200_000
_LONGEST_NAME = 100
#: The dotless i of Turkish looks much like another, and is shown as it is.
_DOTTED = str.maketrans("ıİ", "ii")
#: Flags that a line names.
_FLAGS = 3
_RECEIPT = ".receipt"
_RUN = ".json"
_WEIGHTS = ".safetensors"

#: Why predictions were not made again where no report says why.
NOT_YET = "not yet"
#: The same where there are none.
NO_WEIGHTS = "no weights"
UNNAMED = f"{form.SUBMISSION} does not name the weights that are there"

#: What is known of a result, from the best.
State = Literal["repeated", "repeated in half", "consistent", "unchecked", "outcomes only"]
STATES: tuple[State, ...] = ("repeated", "repeated in half", "consistent", "unchecked", "outcomes only")
#: Those of predictions that were made again.
REPEATED: frozenset[State] = frozenset(STATES[:2])


class Entry(NamedTuple):
    """One result by one person.

    Attributes:
        result: as its file has it.
        who: the name that they give themselves; ``said`` what they say beside it.
        said: their ``submission.toml``.
        file: its path below the folder of submissions, as text.
        sha256: the name of the receipt; of a run file, the SHA-256 of the file.
        file_sha256: of the file.
        state: what is known of it.
        words: the same for readers.
        trained: of a receipt, the SHA-256 of the weights by the key of their training.
        halved: the same of these weights in half precision, where it states them.
        clean_images: of a receipt, the SHA-256 of its clean images and of their labels.
        are_images_known: whether these were compared with their set; of a run file, which has none, it is not asked.
        arrival: the place of its file in the order in which the branch got them; infinite where git knows of none.
        is_unreported: whether it is a receipt on which there is no report of this side and version.
        folder: the submission that it is of, within which newer results count and seeds are averaged; of receipts
            alone, which are of none, it is empty.
        images: of a receipt, the SHA-256 of its adversarial images.
        doubts: flags of what nobody can know of its attack.
    """

    result: CellResult
    who: str
    said: Submission
    file: str
    sha256: str
    file_sha256: str
    state: State
    words: str
    trained: tuple[tuple[str, str], ...] = ()
    halved: tuple[tuple[str, str], ...] = ()
    clean_images: tuple[str, ...] = ()
    are_images_known: bool = True
    arrival: float = inf
    is_unreported: bool = False
    folder: str = ""
    images: str = ""
    doubts: tuple[str, ...] = ()

    @property
    def hashes(self) -> tuple[str, str]:
        """What a withdrawal may name it by."""
        return self.sha256, self.file_sha256

    @property
    def finished(self) -> str:
        """When it was measured, as its file says."""
        return self.result.provenance.finished


class Folder(NamedTuple):
    """The files of one submission, and what is said in it."""

    name: str
    said: Submission
    receipts: tuple[Path, ...]
    runs: tuple[Path, ...]
    #: Files of weights by which predictions are repeated.
    weights: tuple[Path, ...]
    #: Whether there are other files of weights, which ``submission.toml`` does not name.
    has_unnamed: bool = False

    @property
    def without_weights(self) -> str:
        """Why there are none to predict with."""
        return UNNAMED if self.has_unnamed else NO_WEIGHTS


class LeftOut(NamedTuple):
    """A file that is not used, by its path below the folder of submissions, and why."""

    file: str
    why: str


class Submissions(NamedTuple):
    """All that a folder holds.

    Attributes:
        entries: its results.
        withdrawals: what was taken back.
        left_out: the files that are not used, and why.
        remarks: what of a file that is used is not.
    """

    entries: list[Entry]
    withdrawals: tuple[Withdrawal, ...]
    left_out: list[LeftOut]
    remarks: tuple[LeftOut, ...] = ()


def order(entry: Entry) -> tuple[int, bool, float, float, str, str]:
    """Return what entries of one cell are ordered by: how well they are known, then the less flattering first.

    Of equals it is the one that was merged first: all that stands in a file can be written to come out ahead.
    """
    metrics = entry.result.metrics
    accuracy = 1.0
    if metrics is not None:
        accuracy = (
            metrics.accuracy_under_attack if metrics.accuracy_under_attack is not None else metrics.clean_accuracy
        )
    is_failed = entry.result.status == "failed"
    return STATES.index(entry.state), is_failed, accuracy, entry.arrival, entry.finished, entry.file


def read(root: Path, verified: Path | None, version: str, data_folder: Path | None = None) -> Submissions:
    """Return what a folder of submissions holds.

    Args:
        root: the folder.
        verified: the folder of reports of this side, if there is one.
        version: of the harness, to which reports are bound.
        data_folder: where to look for image sets first.

    Raises:
        UsageError: there is no such folder, ``withdrawn.toml`` is damaged, reports lie where they could be forged or
            their folder is not there, or there is more than is read.
    """
    if verified is not None:
        reports.require_apart(root, verified, "--verified")
        if not verified.is_dir():
            # Without it what was refuted would come back.
            raise UsageError(f"--verified {verified}: no such folder; verify {root} --out {verified} makes it")
    withdrawals = withdrawn(root)
    left_out: list[LeftOut] = []
    entries: list[Entry] = []
    checks = _Checks(verified, version, data_folder)
    for folder in folders(root, left_out):
        for path in folder.receipts:
            try:
                entries.append(_of_receipt(root, folder, path, checks))
            except UsageError as error:
                left_out.append(refused(root, path, error))
        for path in folder.runs:
            try:
                entries += of_run(root, folder, path)
            except UsageError as error:
                left_out.append(refused(root, path, error))
        if len(entries) > MOST_RESULTS:
            raise UsageError(f"{root} holds more than {MOST_RESULTS:,} results")
    places = arrivals(root)
    entries = [entry._replace(arrival=places.get(entry.file, inf)) for entry in entries]
    return Submissions(with_known_flags(entries), withdrawals, sorted(left_out), tuple(of_unknown_flags(entries)))


def with_known_flags(entries: Iterable[Entry]) -> list[Entry]:
    """Return entries without flags that no run of this version gives: what a stranger writes is no word of a table."""
    return [entry._replace(result=_with_known_flags(entry.result)) for entry in entries]


def _with_known_flags(result: CellResult) -> CellResult:
    gone = unknown(result)
    flags = tuple(flag for flag in result.flags if flag not in gone)
    return result.model_copy(update={"flags": flags}) if gone else result


def of_unknown_flags(entries: Iterable[Entry]) -> Iterator[LeftOut]:
    """Yield a line on each file of which :func:`with_known_flags` leaves out flags."""
    by_file: dict[str, list[CellResult]] = defaultdict(list)
    for entry in entries:
        by_file[entry.file].append(entry.result)
    for file, results in by_file.items():
        if words := unknown_flags(results):
            yield LeftOut(file, words)


def unknown_flags(results: Iterable[CellResult]) -> str:
    """Return which flags of the results of a file are left out, in words; empty where none is."""
    flags = list(dict.fromkeys(chain.from_iterable(map(unknown, results))))
    words = listed(map(shown, flags), _FLAGS)
    return f"its flag{'s' * (len(flags) > 1)} {words}, which no run of this version gives" if flags else ""


def withdrawn(root: Path) -> tuple[Withdrawal, ...]:
    """Return what was withdrawn.

    Raises:
        UsageError: it cannot be known, for what was taken back would be ranked again; or a date lies ahead, which is a
            slip, for a result is taken back when that is merged.
    """
    path = root / form.WITHDRAWN
    try:
        if path.is_symlink():
            raise form.Unusable("it is a link")
        known = form.withdrawals(path)
    except form.Unusable as error:
        raise UsageError(f"{path}: {error}") from None
    # Where it is tomorrow already, that is no date ahead.
    today = datetime.now(UTC)
    for entry, each in enumerate(known, 1):
        if each.date > (today + AHEAD).date():
            when = f"date of entry {entry} of withdrawn: {each.date} lies ahead, and today is {today.date()}"
            raise UsageError(f"{path}: {when}; a result is taken back on the day that this is merged")
    return known


def folders(root: Path, left_out: list[LeftOut]) -> Iterator[Folder]:
    """Yield the submissions of a folder by name; ``left_out`` gets a line on each file that is not one of theirs.

    Raises:
        UsageError: there is no such folder, or there is more than is read.
    """
    try:
        there = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError as error:
        raise UsageError(f"{root} cannot be read as a folder of submissions: {error.strerror}") from None
    if len(there) > MOST_SUBMISSIONS:
        raise UsageError(f"{root} holds {len(there):,} submissions, and at most {MOST_SUBMISSIONS:,} are read")
    total = 0
    for entry in there:
        if entry.name.startswith(".") or entry.name in (form.WITHDRAWN, "README.md"):
            continue
        if not entry.is_dir(follow_symlinks=False):
            kind = files.kind_of(entry.stat(follow_symlinks=False).st_mode)
            left_out.append(LeftOut(entry.name, f"it is {kind} beside the folders of submissions, and no such folder"))
        elif len(entry.name) > _LONGEST_NAME:
            left_out.append(LeftOut(entry.name, f"its name has more than {_LONGEST_NAME} characters"))
        else:
            usable, size = _files(root / entry.name, left_out)
            total += size
            if total > MOST_BYTES_OF_ALL:
                raise UsageError(f"{root} holds more than {MOST_BYTES_OF_ALL:,} bytes")
            yield from _folder(root / entry.name, usable, left_out)


def _files(path: Path, left_out: list[LeftOut]) -> tuple[list[Path], int]:
    """Return the regular files of a submission that may be read, and their bytes."""
    try:
        there = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError as error:
        left_out.append(LeftOut(path.name, f"it cannot be read: {error.strerror}"))
        return [], 0
    if len(there) > MOST_FILES:
        left_out.append(LeftOut(path.name, f"it holds {len(there):,} files, and at most {MOST_FILES:,} are read"))
        return [], 0
    usable: list[Path] = []
    total = 0
    for entry in there:
        status = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            left_out.append(LeftOut(f"{path.name}/{entry.name}", f"it is {files.kind_of(status.st_mode)}, and no file"))
        elif status.st_size > MOST_BYTES:
            size = f"{status.st_size:,} bytes, and at most {MOST_BYTES:,} are read"
            left_out.append(LeftOut(f"{path.name}/{entry.name}", f"it has {size}"))
        else:
            usable.append(path / entry.name)
            total += status.st_size
    return usable, total


def _folder(path: Path, usable: list[Path], left_out: list[LeftOut]) -> Iterator[Folder]:
    said = Submission()
    for each in usable:
        if each.name == form.SUBMISSION:
            try:
                said = form.submission(each)
            except (form.Unusable, FileNotFoundError) as error:
                # Without it nobody knows whose results they are, and what they replace.
                left_out.append(
                    LeftOut(f"{path.name}/{form.SUBMISSION}", f"{error}; nothing of this submission is used")
                )
                return
        elif each.suffix not in (_RECEIPT, _RUN, _WEIGHTS, ".md"):
            left_out.append(
                LeftOut(f"{path.name}/{each.name}", f"it is no {_RECEIPT}, no run file {_RUN} and no {_WEIGHTS}")
            )
    names = {each.name: each for each in usable}
    for name in said.weights:
        if name not in names:
            left_out.append(
                LeftOut(f"{path.name}/{name}", f"{form.SUBMISSION} names these weights, and they are not there")
            )
    yield Folder(
        path.name,
        said,
        tuple(each for each in usable if each.suffix == _RECEIPT),
        tuple(each for each in usable if each.suffix == _RUN),
        tuple(names[name] for name in said.weights if name in names),
        any(each.suffix == _WEIGHTS and each.name not in said.weights for each in usable),
    )


def _of_receipt(root: Path, folder: Folder, path: Path, checks: _Checks) -> Entry:
    """Raises UsageError: it is no receipt that can be read, contradicts itself, or was refuted."""
    receipt, shown = checks.of(path)
    require_possible(path, receipt.result)
    if shown.refuted is not None:
        raise UsageError(f"{path}: it does not hold: {shown.refuted}")
    return Entry(
        receipt.result,
        named(folder.said.who or receipt.by or folder.name),
        folder.said,
        path.relative_to(root).as_posix(),
        receipt.sha256,
        files.file_sha256(path, MOST_BYTES),
        state_of(shown),
        _words(receipt, folder, shown),
        tuple(sorted(receipt.claims.trained.items())),
        tuple(sorted(receipt.claims.halved.items())),
        clean_images_of(receipt),
        shown.are_images_known,
        is_unreported=shown.unrepeated == NOT_YET,
        folder=folder.name,
        images=receipt.claims.sha256[ADVERSARIAL],
        doubts=flags_of(receipt.result, is_corrupted=shown.is_corrupted),
    )


def flags_of(result: CellResult, *, is_corrupted: bool = False) -> tuple[str, ...]:
    """Return the flags of what nobody can know of the attack of a result."""
    return tuple(doubt.flag for doubt in doubts(result, is_corrupted=is_corrupted))


def state_of(shown: reports.Shown) -> State:
    """Return what a report makes known of a receipt that it does not refute."""
    if not shown.is_repeated:
        return "consistent"
    return "repeated in half" if shown.are_halved else "repeated"


def clean_images_of(receipt: Receipt) -> tuple[str, ...]:
    """Return the hashes of the clean images and labels of a receipt, which receipts of one list have in common."""
    return tuple(receipt.claims.sha256[name] for name in (CLEAN, LABELS))


class _Checks(NamedTuple):
    """What is known of receipts: by a report of this side, else by a check without weights now."""

    verified: Path | None
    version: str
    data_folder: Path | None

    def of(self, path: Path) -> tuple[Receipt, reports.Shown]:
        """Raises UsageError: it is no receipt that can be read, or contradicts itself."""
        if self.verified is not None:
            receipt = read_receipt(path)
            shown = reports.read(self.verified, receipt.sha256, self.version)
            if shown is not None:
                return receipt, shown
        report = checked(path, (), "cpu", self.data_folder)
        shown = reports.shown([each._asdict() for each in report.findings])
        return report.receipt, shown._replace(unrepeated=NOT_YET)


def _words(receipt: Receipt, folder: Folder, shown: reports.Shown) -> str:
    """Return what is known of a receipt, for readers."""
    why = shown.unrepeated
    if why in (NOT_YET, NO_WEIGHTS, UNNAMED):
        # A report may be of a time, or of a copy, that had no weights.
        why = NOT_YET if folder.weights else folder.without_weights
    words = [shown._replace(unrepeated=why).words]
    if not shown.are_images_known:
        words.append("images not compared with their set")
    if (remark := passes.remark(receipt.result)) is not None:
        words.append(f"not plausible: {remark}")
    words += (doubt.words for doubt in doubts(receipt.result, is_corrupted=shown.is_corrupted))
    if shown.other_code:
        words.append(f"other code than here: {shown.other_code}")
    if receipt.by is not None and folder.said.who is not None and person(receipt.by) != person(folder.said.who):
        words.append(f"the receipt says that {quoted(distinct(receipt.by))} measured it")
    return "; ".join(words)


def person(who: str) -> str:
    """Return what two ways to write one name have in common."""
    return " ".join(unicodedata.normalize("NFKC", who).translate(_DOTTED).casefold().split())


def of_run(root: Path, folder: Folder, path: Path) -> list[Entry]:
    """Return the results of a run file.

    Raises:
        UsageError: it is no run file, or a result of it is not what it is called.
    """
    try:
        data = files.read(path, min(MOST_BYTES, reading.MAX_RUN_FILE))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as a run file: {first_line(error)}") from None
    results, keys = parse(data, str(path)).results, Keys()
    for result in results:
        require_possible(path, result)
        if protocol(result, keys) == "unknown":
            raise UsageError(f"{path}: {result.names}: its key is not that of its cell")
        for why in chain(misnamed(result), impossible(result), wrong_images(result.cell)):
            raise UsageError(f"{path}: {result.names}: {why}")
    sha256 = hashlib.sha256(data).hexdigest()
    who = named(folder.said.who or folder.name)
    file = path.relative_to(root).as_posix()
    return [
        Entry(
            each,
            who,
            folder.said,
            file,
            sha256,
            sha256,
            "outcomes only",
            _words_of_run(each),
            folder=folder.name,
            doubts=flags_of(each),
        )
        for each in results
    ]


def _words_of_run(result: CellResult) -> str:
    why = passes.remark(result)
    words = ["run file: outcomes only", *([] if why is None else [f"not plausible: {why}"])]
    return "; ".join([*words, *(doubt.words for doubt in doubts(result, is_corrupted=False))])


def require_possible(path: Path, result: CellResult) -> None:
    """Raises UsageError: it says that it was measured in the future, and so would be the newest for ever."""
    if datetime.fromisoformat(result.provenance.finished) > datetime.now(UTC) + AHEAD:
        day, today = result.provenance.finished[:10], datetime.now(UTC).date()
        raise UsageError(
            f"{path}: {result.names}: it says that it was measured on {day}, and today is {today}: set the clock of "
            "that machine and measure again"
        )


def refused(root: Path, path: Path, error: UsageError) -> LeftOut:
    """Return why a file is left out, without its path: what is said of a line or a result of it stays."""
    text, name = str(error), visible(str(path))
    why = text.removeprefix(name)
    is_sentence = text != why and why.startswith(" ")
    why = f"it{why}" if is_sentence else re.sub("^[:,] ", "", why)
    return LeftOut(path.relative_to(root).as_posix(), why.strip())
