"""Which commit changed a cell."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import options
from bench.display.base import Display, duration
from bench.types import listed
from bench.visible import json_text, visible

if TYPE_CHECKING:
    from bench.config.sections import Request
    from bench.schedule.bisection import Difference, Finding, Standing
    from bench.schedule.measuring import Measured, Measuring, Question
    from bench.store.lineage import History

_log = logging.getLogger("crossfire")

SUMMARY = "the commit that changed a cell, found by paired tests in about log2 of the commits between two"
#: Exit codes: the commit; several, one of which it is, or no difference to be found.
_FOUND, _OPEN = 0, 3
#: Commits of one list that are named.
_NAMED = 10
#: Files that a line names.
_FILES = 5


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("good", type=options.named, metavar="GOOD", help="a commit before the change")
    parser.add_argument("bad", type=options.named, metavar="BAD", help="a commit after it, such as HEAD")
    parser.add_argument("what", nargs="?", default="quick", metavar="PRESET|FILE.toml", help="default: quick")
    parser.add_argument(
        "--cell",
        required=True,
        type=_cell,
        metavar="NAME",
        help="dataset/model/defense/attack/access as plan lists it, or a pattern that one cell matches",
    )
    options.variants(parser)
    options.store(parser)
    parser.add_argument("--data", type=options.path, metavar="DIR", help="where to look for image sets first")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), help="default: the configuration's")
    parser.add_argument("--n", type=options.number, metavar="N", help="test images, instead of the configuration's")
    parser.add_argument("--seed", type=options.number, metavar="N", help="one seed, instead of the configuration's")
    options.time_budget(parser)
    options.min_effect(parser)
    parser.add_argument(
        "--images",
        action="store_true",
        help="find the commit that changed which images are right, also where losses and gains cancel; without a test",
    )
    parser.add_argument(
        "--retry", action="store_true", help="try commits again that could not be measured in an earlier search"
    )
    parser.add_argument("--json", action="store_true")


def _cell(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; give the name of a cell as plan lists it")
    return text


def main(args: argparse.Namespace) -> int:
    from bench.schedule.bisection import Bisection
    from bench.schedule.measuring import Measuring
    from bench.store.lineage import History
    from bench.store.worktree import commit_of, root_of

    began, here = time.monotonic(), Path.cwd()
    good, bad = commit_of(here, args.good), commit_of(here, args.bad)
    root = root_of(here)
    history = History(here)
    history.require_ancestor(good, bad)
    if history.is_edited():
        _say(args, "uncommitted changes are part of no commit: they are not measured")
    _warn_of_own_path(root, history, good, bad)
    with _question(args, here, history, (good, bad)) as question, args.display.phase("looking for the commit"):
        measuring = Measuring(question)
        search = Bisection(history, measuring, args.min_effect, lambda line: _say(args, line), args.images)
        args.standing = lambda: _standing(search.standing, no_further=measuring.is_no_further(good, bad))
        finding = search.find(good, bad)
    seconds = time.monotonic() - began
    report = _Report(history, finding, measuring, seconds, images=args.images)
    sys.stdout.write(f"{json_text(report.as_json(), indent=1)}\n" if args.json else report.as_text())
    return _FOUND if finding.verdict == "found" else _OPEN


def _say(args: argparse.Namespace, line: str) -> None:
    display: Display = args.display
    if not args.quiet and args.progress != "none":
        with display.paused():
            print(visible(line), file=sys.stderr, flush=True)


@contextmanager
def _question(args: argparse.Namespace, here: Path, history: History, ends: tuple[str, str]) -> Iterator[Question]:
    """Return which cell is measured; the configuration stays what it is now, whatever is checked out meanwhile."""
    from bench.schedule.measuring import Question
    from bench.store.worktree import root_of, scratch

    # What is wrong with the configuration or an option is said before anything is checked out.
    request = options.request(args, args.what)
    root, store = root_of(here), options.store_root(args).resolve()
    _require_no_paths_into(root, request, args.what, history, ends)
    _warn_of_searched(root)
    with scratch(here) as folder:
        configuration, own_file = args.what, None
        if (file := Path(args.what)).suffix == ".toml":
            configuration = shutil.copyfile(file, folder / file.name)
            own_file = Path(os.path.relpath(file.resolve(), root)) if file.resolve().is_relative_to(root) else None
        inside = Path(os.path.relpath(here.resolve(), root))
        texts = tuple(chain.from_iterable(_texts(part.model_dump(mode="json")) for part in request.parts))
        asked = (args.cell, tuple(_options(args)), store, args.retry, texts)
        yield Question(here, inside, str(configuration), own_file, *asked)


def _warn_of_searched(root: Path) -> None:
    """Say which folders of the checkout Python searches by itself, as after an editable install."""
    from bench.schedule.at_commit import has_own_harness
    from bench.store.worktree import is_tracked

    # What PYTHONPATH names becomes that of each commit.
    given = {Path(each).resolve() for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each}
    searched = dict.fromkeys(Path(each).resolve() for each in sys.path if os.path.isabs(each))
    for folder in searched:
        if folder not in given and not has_own_harness(folder) and is_tracked(root, folder):
            _log.warning(
                "Python searches %s by itself: what is imported from there is the same at every commit", folder
            )


def _warn_of_own_path(root: Path, history: History, good: str, bad: str) -> None:
    """Say which Python files of GOOD and BAD hold the path of the checkout, for they may read files of it."""
    files = dict.fromkeys(chain.from_iterable(history.files_naming(each, str(root), "*.py") for each in (good, bad)))
    if files:
        _log.warning(
            "%s: the path %s/ stands in the code: what is read by it is the same at every commit",
            listed(files, _NAMED),
            root,
        )


def _require_no_paths_into(root: Path, request: Request, what: str, history: History, ends: tuple[str, str]) -> None:
    """Raises UsageError: the configuration has an absolute path to a file of git, the same at every commit."""
    from bench.store.worktree import is_tracked
    from bench.types import UsageError, shown

    def is_kept(path: Path) -> bool:
        real = path.resolve()
        if is_tracked(root, real):
            return True
        # Git may keep it no longer, or not yet.
        inside = real.relative_to(root).as_posix() if real.is_relative_to(root) else None
        return inside is not None and any(history.hash_of(each, inside) is not None for each in ends)

    for text in chain.from_iterable(_texts(part.model_dump(mode="json")) for part in request.parts):
        if any(is_kept(path) for path in _absolute(text)):
            raise UsageError(
                f"{what}: {shown(text)} is an absolute path into the repository, so every commit would be "
                "measured with the file as it is here; name it relative to the current folder"
            )


def _texts(value: object) -> Iterator[str]:
    """Yield all texts in a configuration."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _absolute(text: str) -> Iterator[Path]:
    """Yield the absolute paths that a text may name, such as ``weights:/a/b.pt`` and ``/a/b.py:Name``."""
    start = next((i for i, letter in enumerate(text) if letter in "/~" and (i == 0 or text[i - 1] == ":")), None)
    if start is None or "\0" in text:
        return
    path = text[start:]
    while path not in ("", "/", "~"):
        yield Path(os.path.expanduser(path))
        path = path.rpartition(":")[0]


def _options(args: argparse.Namespace) -> Iterator[str]:
    """Yield the options of ``plan`` and ``run`` at each commit, with absolute paths: the current folder is another."""
    data = options.data_folder(args) or (Path(named) if (named := os.environ.get("CROSSFIRE_DATA")) else None)
    if data is not None:
        yield from ("--data", str(data.resolve()))
    for name in ("protocol", "scale", "epochs", "device", "n", "seed"):
        if (value := getattr(args, name)) is not None:
            yield f"--{name}={value}"
    for setting in args.set:
        yield f"--set={setting.text}"


class _Report:
    """What was found, as text and as JSON."""

    def __init__(
        self, history: History, finding: Finding, measuring: Measuring, seconds: float, *, images: bool
    ) -> None:
        self._history, self._finding = history, finding
        self._mode = "images" if images else "accuracy"
        self._measuring, self._seconds = measuring, seconds
        self._between = len(history.between(finding.good.commit, finding.bad.commit))

    def as_text(self) -> str:
        return "".join(f"{visible(line)}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        finding = self._finding
        if finding.verdict == "found":
            yield from self._found()
        elif finding.verdict == "range":
            yield from self._range()
        else:
            yield from self._not_reproducible()
        ends = f"GOOD {self._named(finding.good.commit)}, BAD {self._named(finding.bad.commit)}"
        yield f"{ends}: {_numbers(finding.good, finding.bad, finding.ends)}"
        yield from finding.notes
        if own := self._own_files():
            yield f"measured by its own configuration, as its code lacks what the present one names: {', '.join(own)}"
        yield (
            f"commits: {self._between:,}; runs: {self._measuring.runs}, without a run: {self._measuring.found}, "
            f"skipped: {len(finding.skipped)}; {duration(self._seconds)}"
        )
        if self._measuring.remembered:
            yield (
                f"{self._measuring.remembered} of those skipped could not be measured in an earlier search and were "
                "not tried again: --retry tries them"
            )

    def _found(self) -> Iterator[str]:
        finding = self._finding
        assert finding.after is not None and finding.before is not None and finding.step is not None
        yield f"{finding.after.name} changed in"
        yield f"  {self._named(finding.after.commit)}"
        yield f"  {_numbers(finding.before, finding.after, finding.step)}"
        yield from (f"  {line}" for line in finding.changed)
        if not finding.step.counts:
            why = "has losses and gains that balance" if finding.step.cancels else "may be chance"
            yield f"  that step alone {why}: the change came in several, and this is the first on BAD's side"
        if finding.further is not None:
            last = _numbers(finding.after, finding.bad, finding.further)
            yield f"a further change lies after it: {last}; bisect {finding.after.commit[:10]} and BAD to find it"
        yield from self._skipped()

    def _range(self) -> Iterator[str]:
        finding = self._finding
        assert finding.after is not None and finding.before is not None and finding.step is not None
        yield f"{finding.after.name} changed in one of {len(finding.possible)} commits, of which {self._unmeasured()}"
        if (more := len(finding.possible) - _NAMED) > 0:
            yield f"  {more:,} more before"
        yield from (f"  {self._named(each)}" for each in finding.possible[-_NAMED:])
        yield f"  {_numbers(finding.before, finding.after, finding.step)}"
        yield from (f"  {line}" for line in finding.changed)
        if finding.untried:
            yield "if one of those not tried can be measured, bisect from it or up to it"
        yield from self._skipped()

    def _skipped(self) -> Iterator[str]:
        skipped = self._finding.skipped
        yield from (f"skipped: {each.commit[:10]}: {each.why}" for each in skipped[:_NAMED])
        if (more := len(skipped) - _NAMED) > 0:
            yield f"skipped: {more:,} more"

    def _unmeasured(self) -> str:
        """Say what is known of the commits one of which made the change; the last is measured."""
        untried = len(self._finding.untried)
        if not untried:
            return "all but the last fail"
        failed = len(self._finding.possible) - untried - 1
        return f"{failed} fail and {untried}, between two that fail alike, were not tried"

    def _not_reproducible(self) -> Iterator[str]:
        finding = self._finding
        yield f"not reproducible: {finding.bad.name} shows no clear difference between GOOD and BAD"
        if finding.ends.cancels:
            yield (
                f"{finding.ends.changed} of {finding.ends.n:,} images have another outcome, but losses and gains "
                "balance: --images finds the commit that changed which are right, or take another cell"
            )
        if finding.good.result == finding.bad.result:
            rest = "so it is one measurement"
            if finding.elsewhere:
                rest = f"in which these are not, though they changed: {listed(finding.elsewhere, _FILES)}"
            yield f"nothing that the key of the cell holds changed: both have one key, {rest}"
        yield "all commits were measured by the configuration as it is here now: what changed in that does not count"

    def _own_files(self) -> list[str]:
        finding = self._finding
        measured = (finding.good, finding.bad, finding.before, finding.after)
        return sorted({each.commit[:10] for each in measured if each is not None and each.own_file})

    def _named(self, sha: str) -> str:
        commit = self._history.described(sha)
        return f"{sha[:10]} ({commit.date[:10]}) {commit.subject}"

    def as_json(self) -> dict[str, Any]:
        finding = self._finding
        return {
            "schema": 1,
            "verdict": finding.verdict,
            "mode": self._mode,
            "cell": finding.bad.name,
            "good": self._side(finding.good),
            "bad": self._side(finding.bad),
            "difference": _plain(finding.ends),
            "before": self._side(finding.before),
            "commit": self._side(finding.after) if finding.verdict == "found" else None,
            "step": _plain(finding.step),
            "changed": finding.changed,
            "further": _plain(finding.further),
            "possible": list(finding.possible),
            "skipped": [each._asdict() for each in finding.skipped],
            "untried": list(finding.untried),
            "not_tried_again": self._measuring.remembered,
            "notes": list(finding.notes),
            "changed_elsewhere": list(finding.elsewhere),
            "commits": self._between,
            "runs": self._measuring.runs,
            "found_without_run": self._measuring.found,
            "seconds": round(self._seconds, 3),
        }

    def _side(self, measured: Measured | None) -> dict[str, Any] | None:
        if measured is None:
            return None
        named = self._history.described(measured.commit)._asdict()
        outcome = {"key": measured.result.key, "accuracy_under_attack": _accuracy(measured)}
        return {**named, "cell": measured.name, **outcome, "own_configuration": measured.own_file}


def _standing(known: Standing, *, no_further: bool) -> tuple[list[str], dict[str, Any]]:
    """Return what an unfinished search knows, as lines and for JSON."""
    ends = {name: getattr(known, name) for name in ("good", "bad", "before", "after")}
    said = {
        name: each and {"sha": each.commit, "cell": each.name, "accuracy_under_attack": _accuracy(each)}
        for name, each in ends.items()
    }
    lines = known.lines()
    if no_further:
        lines.append("it came no further than the last time: each commit is planned again, so give it more time")
    return lines, {**said, "left": known.left, "no_further": no_further}


def _accuracy(measured: Measured) -> float:
    outcomes = measured.result.outcomes_under_attack
    assert outcomes is not None
    return outcomes.share


def _numbers(old: Measured, new: Measured, difference: Difference) -> str:
    before, after = _accuracy(old), _accuracy(new)
    change = f"{100 * before:.2f} % -> {100 * after:.2f} % ({100 * (after - before):+.2f})"
    return f"{change}, {difference.counted}"


def _plain(difference: Difference | None) -> dict[str, Any] | None:
    return None if difference is None else difference._asdict()
