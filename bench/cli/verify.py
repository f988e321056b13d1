"""Whether a receipt holds: its claims, its images and, given the weights, its predictions."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bench.cli import options, submissions
from bench.display.base import Display
from bench.types import UsageError
from bench.visible import json_text, visible

if TYPE_CHECKING:
    from bench.report.receipts.verdict import Report

SUMMARY = "whether a receipt holds: claims, budget, images and, given the weights, every prediction"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "receipt",
        type=options.path,
        metavar="FILE.receipt|DIR",
        help="what export receipt wrote, or a folder of submissions to a public leaderboard",
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
        help="also write the report, as JSON; FILE.receipt.json for tables; of submissions, a folder of reports",
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="of submissions: only that one; may be repeated"
    )


def main(args: argparse.Namespace) -> int:
    from bench.report.receipts.check import checked
    from bench.store.outputs import write_named

    if args.receipt.is_dir():
        return submissions.verify(args)
    if args.only:
        raise UsageError("--only goes with a folder of submissions")
    if args.sample is not None and args.sample < 1:
        raise UsageError(f"--sample {args.sample}: a number of images, 1 or more, is needed")
    if args.sample is not None and not args.weights:
        raise UsageError("--sample is of predictions; give --weights as well")
    display: Display = args.display
    with display.phase("checking the receipt"):
        report = checked(
            args.receipt,
            args.weights,
            args.device,
            options.data_folder(args),
            sample=args.sample,
            trusted=args.trust,
            check=args.control.check_run,
        )
    text = json_text(report.as_json(), indent=2) + "\n"
    if args.out is not None:
        write_named(args.out, text.encode())
    print(text if args.json else _text(report), end="")
    return 1 if report.verdict == "does not hold" else 0


def _text(report: Report) -> str:
    """Return the report for a terminal: a line for each finding, and the verdict."""
    receipt, result = report.receipt, report.receipt.result
    by = "who measured it is not said" if receipt.by is None else f"measured by '{receipt.by}', as they say"
    lines = [
        f"{receipt.sha256}  {result.names}",
        f"{by}; finished {result.provenance.finished[:10]}",
    ]
    lines += [f"  {each.state:<12} {each.check}: {each.line}" for each in report.findings]
    lines.append(f"verdict: {report.verdict}{'; its passes are not plausible' if report.remarks else ''}")
    return "".join(f"{visible(line)}\n" for line in lines)
