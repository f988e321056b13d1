"""The command line: one file per verb. No verb imports torch before its arguments are checked.

May import: `report`, `schedule`, `evaluation`, `models`, `data`, `config`, `store`, `registry`, `methods`,
`display`, `process`, `keys`, `types`, `visible`.
Start at ``run``, the verb that does most; ``options`` has what several verbs share, ``supervisor`` the parent process.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from bench.cli import command, options, progress
from bench.cli.asides import said_in_one_line
from bench.cli.spelling import require_options, with_values
from bench.display.streams import Guarded, InTime, guarded
from bench.methods.unloadable import not_loaded, remedy
from bench.process.allocator import keep_freed_memory
from bench.process.ending import Control, closing, signals, unfinished, why_of
from bench.process.shared import Shared
from bench.registry import unknown
from bench.store import account
from bench.store.files import path_of
from bench.types import UsageError
from bench.visible import json_text

if TYPE_CHECKING:
    from bench.cli.supervisor import Charge

VERBS = (
    *("init", "run", "train", "plan", "list", "show", "leaderboard", "compare", "history", "bisect", "figures"),
    *("export", "gc", "sync", "verify", "doctor", "schema", "completion"),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


#: Verbs that resume: the same command again does only what is missing.
_RESUMING = ("run", "train", "bisect")
#: Exit codes of a verb whose time budget is used, where that is not 0: a search that ends before it has found anything.
_OUT_OF_TIME = {"bisect": 3}
#: Of a time budget this share, and at most so many seconds, is left for saving the state and ending.
_RESERVE_SHARE, _RESERVE = 0.02, 3.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 regression, 2 bad usage, 3 some cells failed.

    Args:
        argv: the arguments of the command. By default those of this process, and a child process does the work
            (:mod:`bench.cli.supervisor`).
    """
    alone = argv is None
    began = time.monotonic() - (_age() if alone else 0.0)
    if alone:
        for number in signals():
            signal.signal(number, _end_at_once)
    with guarded() as streams, said_in_one_line():
        command_line = [*(sys.argv[1:] if argv is None else argv)] or ["run", "quick"]
        return _said(streams, lambda: _run(command_line, streams, began, alone=alone))


def _age() -> float:
    """Return the age of this process in seconds, as far as the operating system reports it."""
    with suppress(OSError, ValueError, IndexError, AttributeError):
        started = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(started) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _end_at_once(number: int, _frame: object) -> None:
    # A reader that does not read must not block the end.
    print(f"{why_of(128 + number)} before anything was done", file=InTime(2))
    os._exit(128 + number)


def _said(streams: Guarded, do: Callable[[], int]) -> int:
    """Return the exit code of what is done; what is wrong with it, or with standard output, is said in one line."""
    try:
        code = _explained(do)
    except SystemExit:  # The help was shown.
        if streams.failure() is None:
            raise
        code = 0
    # A command ended by a signal (its terminal was closed, say) has that code even if output was lost.
    if (why := streams.failure()) is not None and code < 128:
        print(f"error: standard output cannot be written: {why}", file=sys.stderr)
        return 2
    return code


def _explained(do: Callable[[], int]) -> int:
    try:
        return do()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"error: {UsageError(not_loaded(error))}", file=sys.stderr)
        return 2
    except MemoryError:
        print("error: memory ran out; give the process more, or ask for fewer or smaller images", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # A reader of the pipe that --out names has seen enough.
        return 0
    except OSError as error:
        # An unexpected error of the environment: the operating system says what is wrong, and with which file.
        where = path_of(error)
        message = error.strerror or str(error)
        # The linker gives a sentence without a number.
        what_to_do = remedy(message) if error.errno is None else None
        message = f"{message}; {what_to_do}" if what_to_do else message
        print(f"error: {UsageError(f'{where}: {message}' if where else message)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(command_line: Sequence[str], streams: Guarded, began: float, *, alone: bool) -> int:
    """Run a command.

    Args:
        command_line: its arguments.
        streams: to which it writes.
        began: when, on the monotonic clock.
        alone: this process does nothing else.
    """
    account.begin(began)
    if not command_line[0].startswith("-") and command_line[0] not in VERBS:
        raise UsageError(unknown("verb", command_line[0], VERBS))
    _require_folder()
    # argparse treats a second '--' as an argument in some positions and drops it in others.
    if command_line.count("--") > 1:
        raise UsageError("'--' is given twice; a file of that name is ./--")
    parser, verbs = parsers(command.name())
    command_line = with_values(command_line, verbs)
    require_options(command_line, verbs)
    args = parser.parse_args(command_line)
    from bench.cli import supervisor

    budget: float | None = getattr(args, "time_budget", None)
    deadline = None if budget is None else began + budget - min(_RESERVE_SHARE * budget, _RESERVE)
    if alone and hasattr(os, "fork"):

        def work(charge: Charge) -> int:
            if args.verb in _RESUMING:
                keep_freed_memory()
            return _said(streams, lambda: _controlled(args, charge))

        shared = Shared()
        relay = progress.relay(args, shared)
        return supervisor.supervise(work, shared, deadline, relay, early=partial(_end_early, args))
    return _controlled(args, supervisor.Charge(None, deadline))


def _controlled(args: argparse.Namespace, charge: Charge) -> int:
    """Run a verb until it is done or must end."""
    args.charge = charge
    args.control = control = Control(charge.deadline, charge.shared)
    done: int | None = control.watch(lambda: _shown(args, charge.shared))
    if done is not None:
        return done
    assert control.code is not None
    if args.verb in _RESUMING and not _prints_json(args):
        options.say_time(args)
    return _end_early(args, control.code, control.counted, sys.stdout, sys.stderr)


def _end_early(
    args: argparse.Namespace, code: int, counted: tuple[int, int] | None, out: TextIO | InTime, err: TextIO | InTime
) -> int:
    """Say why a verb ends before its time, and return its exit code.

    Args:
        args: of the command.
        code: that of :class:`Control`: 0 if the time budget is used.
        counted: how many cells are done, of how many.
        out: standard output.
        err: standard error.
    """
    if args.verb not in _RESUMING:
        print(unfinished(code, args.verb), file=err, flush=True)
        return code
    line = closing(code, counted)
    # A search says what it knows so far.
    lines, known = args.standing() if hasattr(args, "standing") else ([], {})
    if _prints_json(args):
        line = json_text({"schema": 1, "verdict": "unfinished", "why": line, **known}, indent=1)
    else:
        line = "\n".join([*lines, line])
    print(line, file=out, flush=True)
    return code or _OUT_OF_TIME.get(args.verb, 0)


def _prints_json(args: argparse.Namespace) -> bool:
    return bool(getattr(args, "json", False))


def _require_folder() -> None:
    try:
        os.getcwd()
    except OSError:
        # Without a current folder relative paths mean nothing, and libraries that look it up end the process.
        raise UsageError("the current folder is not there any more: change to another one") from None


def _shown(args: argparse.Namespace, shared: Shared | None) -> int:
    """Run a verb, and show what it does."""
    with progress.shown(args, shared) as args.display:
        return int(args.main(args))


def parsers(program: str) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser of commands, and that of each verb.

    Args:
        program: how it is called in messages.
    """
    parser = _Parser(
        prog=program,
        description="Cross adversarial defenses with attacks. Without a verb: run the quick preset.",
        epilog="exit codes: 0 done, 1 a regression was found or a receipt does not hold, 2 bad usage or a store that "
        "cannot be written, 3 some cells failed, differ or, of a plan, will fail, 130 interrupted, 143 terminated, "
        "128 + N ended by signal N",
    )
    parser.add_argument("-V", "--version", action="version", version=command.version())
    verbs: dict[str, argparse.ArgumentParser] = {}
    added = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in VERBS:
        module = importlib.import_module(f"bench.cli.{name}")
        verb = verbs[name] = added.add_parser(name, help=module.SUMMARY, description=module.SUMMARY)
        module.arguments(verb)
        progress.arguments(verb)
        verb.set_defaults(main=module.main)
    return parser, verbs
