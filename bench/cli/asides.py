"""Errors that reach no caller: one line each, where Python prints a traceback by itself.

They come from the code of methods: a thread that fails, ``__del__``, an exit handler, a log message that cannot be
formatted.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from bench.types import first_line

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_log = logging.getLogger("crossfire")


@contextmanager
def said_in_one_line() -> Iterator[None]:
    """Log such errors as warnings inside the block. The threads of the harness keep their traceback."""
    before = threading.excepthook, sys.unraisablehook, logging.Handler.handleError

    def of_thread(args: threading.ExceptHookArgs) -> None:
        if args.thread is not None and args.thread.name.startswith("crossfire"):
            before[0](args)
        elif not issubclass(args.exc_type, SystemExit):
            _say("a thread ended by", args.exc_value, args.exc_traceback)

    def of_nobody(args: UnraisableHookArgs) -> None:
        _say("ignored:", args.exc_value, args.exc_traceback)

    def of_message(_: logging.Handler, record: logging.LogRecord) -> None:
        _say(f"a message of line {record.lineno} of {record.filename} cannot be shown:", sys.exc_info()[1], None)

    threading.excepthook, sys.unraisablehook = of_thread, of_nobody
    logging.Handler.handleError = of_message  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = before[:2]
        logging.Handler.handleError = before[2]  # type: ignore[method-assign]


def _say(prefix: str, error: BaseException | None, at: TracebackType | None) -> None:
    # There is nowhere to report an error of this report.
    with suppress(Exception):
        name = "an error" if error is None else type(error).__name__
        text = "" if error is None else first_line(error)
        frames = traceback.extract_tb(at)
        location = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
        line = f"{prefix} {name}{': ' if text else ''}{text}{location}"
        if _log.handlers:
            _log.warning("%s", line)
        else:
            print(f"warning: {line}", file=sys.stderr, flush=True)
