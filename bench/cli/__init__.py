"""The command line: one file per verb. No verb imports torch before its arguments are checked."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from bench.cli.streams import guarded
from bench.registry import unknown
from bench.types import UsageError
from bench.visible import visible

VERBS = ("run", "train", "plan", "list", "show", "leaderboard", "compare", "figures", "gc", "sync", "doctor")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 regression, 2 bad usage, 3 some cells failed."""
    words = [*(sys.argv[1:] if argv is None else argv)] or ["run", "quick"]
    with guarded() as streams:
        try:
            code = _run(words)
        except SystemExit:  # The help was shown.
            if streams.failure() is None:
                raise
        if (why := streams.failure()) is not None:
            print(f"error: standard output cannot be written: {why}", file=sys.stderr)
            return 2
        return code


def _run(words: Sequence[str]) -> int:
    try:
        if not words[0].startswith("-") and words[0] not in VERBS:
            raise UsageError(unknown("verb", words[0], VERBS))
        args = _parser().parse_args(words)
        return int(args.main(args))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        # What no verb foresaw of its surroundings: the operating system says what is wrong, and with which file.
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        print(f"error: {visible(where + (error.strerror or str(error)))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="run_bench.py",
        description="Cross adversarial defenses with attacks. Without a verb: run the quick preset.",
        epilog="exit codes: 0 done, 1 regression found, 2 bad usage or a store that cannot be written, 3 some cells "
        "failed or differ, 130 interrupted, 143 terminated",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in VERBS:
        module = importlib.import_module(f"bench.cli.{name}")
        verb = verbs.add_parser(name, help=module.SUMMARY, description=module.SUMMARY)
        module.arguments(verb)
        verb.set_defaults(main=module.main)
    return parser
