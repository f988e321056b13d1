"""Whether a receipt holds: its claims, its images and, given the weights, its predictions."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import options, submissions
from bench.display.base import Display
from bench.types import UsageError
from bench.visible import distinct, json_text, quoted, visible

if TYPE_CHECKING:
    from bench.report.receipts.verdict import Report
    from bench.report.receipts.weights import Hashes

_UNCHECKED = "not checked"
#: What is counted of several receipts, and in which words.
_COUNTED = {
    "holds": "hold",
    "holds within round-off": "hold within round-off",
    "holds as far as it was checked": "hold as far as they were checked",
    "does not hold": "do not hold",
    _UNCHECKED: "could not be checked",
}
SUMMARY = "whether a receipt holds: claims, budget, images and, given the weights, every prediction"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "receipt",
        type=options.path,
        nargs="+",
        metavar="FILE.receipt|DIR",
        help="what export receipt wrote, also several or a folder of them; or a folder of submissions to a leaderboard",
    )
    parser.add_argument(
        "--weights",
        type=options.named,
        action="append",
        default=[],
        metavar="FILE|DIR",
        help="weights to predict again with, also a folder of export weights, or pyautoattack; once for each network",
    )
    parser.add_argument("--data", type=options.path, metavar="DIR", help="where to look for image sets first")
    parser.add_argument(
        "--fetch",
        action="append",
        default=[],
        metavar="SET",
        help="download this image set first if it is not here, such as cifar10; may be repeated",
    )
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), default="auto", help="default: auto")
    parser.add_argument(
        "--sample", type=options.number, metavar="N", help="predict only so many images again, chosen by chance"
    )
    options.trust(parser)
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.add_argument(
        "--out",
        type=options.path,
        metavar="FILE|DIR",
        help="also write the report, as JSON; FILE.receipt.json for tables; a folder for several, or of submissions",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="of submissions: only that one, or withdrawn.toml; may be repeated",
    )
    parser.add_argument(
        "--withdrawn",
        type=options.path,
        metavar="FILE",
        help="of submissions: an earlier withdrawn.toml, of which every entry must still be there",
    )


def main(args: argparse.Namespace) -> int:
    _fetch(args)
    plain: list[Path] = []
    if any(path.is_dir() for path in args.receipt):
        if len(args.receipt) > 1:
            raise UsageError("a folder of submissions is verified alone; give files, or one folder")
        if not (plain := _plain(args.receipt[0])):
            return submissions.verify(args)
        args.receipt = plain
    if args.only or args.withdrawn:
        raise UsageError(f"--{'only' if args.only else 'withdrawn'} goes with a folder of submissions")
    if args.sample is not None and args.sample < 1:
        raise UsageError(f"--sample {args.sample}: a number of images, 1 or more, is needed")
    if args.sample is not None and not args.weights:
        raise UsageError("--sample is of predictions; give --weights as well")
    if len(args.receipt) == 1 and not plain:
        options.require_apart(args.out, [*args.receipt, *args.weights])
        report = _checked(args, args.receipt[0])
        print(_json(report.as_json()) if args.json else _text(report), end="", flush=True)
        _write(args.out, report)
        return 1 if report.verdict == "does not hold" else 0
    return _several(args)


def _fetch(args: argparse.Namespace) -> None:
    """Raises UsageError: a set that is asked for is not known, or can be had nowhere."""
    from bench.data import fetch

    for name in args.fetch:
        with args.display.phase(f"looking for {name}, or downloading it"):
            fetch(name, options.data_folder(args))


def _plain(folder: Path) -> list[Path]:
    """Return the receipts of a folder that holds files alone; none of a folder of submissions."""
    try:
        there = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError:
        # Why is said by what reads submissions.
        return []
    receipts = sorted(path for path in there if path.name.endswith(".receipt"))
    is_of_submissions = any(path.is_dir() or path.name == "withdrawn.toml" for path in there)
    return [] if is_of_submissions else receipts


def _checked(args: argparse.Namespace, path: Path, hashes: Hashes | None = None) -> Report:
    from bench.report.receipts.check import checked

    display: Display = args.display
    with display.phase(f"checking {path}" if hashes else "checking the receipt"):
        return checked(
            path,
            args.weights,
            args.device,
            options.data_folder(args),
            are_shared=hashes is not None,
            hashes=hashes,
            sample=args.sample,
            trusted=args.trust,
            check=args.control.check_run,
        )


def _several(args: argparse.Namespace) -> int:
    """Check several receipts, each on its own; return 1 if one does not hold, else 2 if one cannot be checked."""
    from bench.report.receipts.weights import Hashes

    # Of weights that are given for all.
    hashes = Hashes()
    outs = _outs(args.out, args.receipt, args.weights)
    states, bodies = Counter[str](), []
    are_written = True
    for path, out in zip(args.receipt, outs, strict=True):
        try:
            report = _checked(args, path, hashes)
        except UsageError as error:
            states[_UNCHECKED] += 1
            print(f"error: {visible(str(error))}", file=sys.stderr)
            continue
        states[report.verdict] += 1
        if args.json:
            bodies.append({"file": str(path), **report.as_json()})
        else:
            print(f"{visible(str(path))}\n{_text(report)}", flush=True)
        try:
            _write(out, report)
        except _Weaker as error:
            are_written = False
            print(f"error: {visible(str(error))}", file=sys.stderr)
    if args.json:
        print(_json(bodies), end="")
    words = ", ".join(f"{states[state]:,} {words}" for state, words in _COUNTED.items() if states[state])
    # With --json the output is one document.
    print(f"{len(args.receipt):,} receipts: {words}", file=sys.stderr if args.json else sys.stdout)
    if states["does not hold"]:
        return 1
    return 2 if states[_UNCHECKED] or not are_written else 0


def _outs(folder: Path | None, receipts: Sequence[Path], weights: Sequence[str]) -> list[Path | None]:
    """Return the file of each report: the name of its receipt and ``.json``, in a folder.

    Raises:
        UsageError: two would be one, one would replace what is read, or the folder is a file.
    """
    if folder is None:
        return [None] * len(receipts)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is one file, for {len(receipts):,} receipts; name a folder")
    if twice := [name for name, count in Counter(path.name for path in receipts).items() if count > 1]:
        raise UsageError(f"--out {folder}: two receipts are called {visible(twice[0])}; verify them apart")
    outs: list[Path | None] = [folder / f"{path.name}.json" for path in receipts]
    for out in outs:
        options.require_apart(out, [*receipts, *weights])
    return outs


class _Weaker(UsageError):
    """A report would replace one for which more was looked at."""


def _write(out: Path | None, report: Report) -> None:
    """Raises _Weaker: the file holds a report on this receipt for which more was looked at, and is left as it is."""
    from bench.report.receipts.table import lost
    from bench.store.outputs import write_named

    if out is None:
        return
    if checks := lost(report, out):
        raise _Weaker(
            f"--out {out} holds a report on this receipt that also says what became of {', '.join(checks)}, and is "
            "left as it is; name another file, or delete it first"
        )
    write_named(out, _json(report.as_json()).encode())


def _json(body: Any) -> str:
    return json_text(body, indent=2) + "\n"


def _text(report: Report) -> str:
    """Return the report for a terminal: a line for each finding, and the verdict."""
    receipt, result = report.receipt, report.receipt.result
    by = (
        "who measured it is not said"
        if receipt.by is None
        else f"measured by {quoted(distinct(receipt.by))}, as they say"
    )
    lines = [
        f"{receipt.sha256}  {result.names}",
        f"{by}; finished {result.provenance.finished[:10]}",
    ]
    lines += [f"  {each.state:<12} {each.check}: {each.line}" for each in report.findings]
    lines.append(f"verdict: {report.words}")
    return "".join(f"{visible(line)}\n" for line in lines)
