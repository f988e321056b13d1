"""What a run did and when: one file of JSON lines for each process, in the store's folder ``log``."""

from __future__ import annotations

import logging
import os
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from bench import files, inventory
from bench.files import Unreadable
from bench.keys import canonical_json
from bench.reading import document

_log = logging.getLogger("crossfire")
#: Bytes: an event with the traceback of a failure is some thousands long.
_LONGEST_LINE = 2**24


class RunLog:
    """The log of one process; its file appears with the first event, so a run that does nothing writes nothing.

    Args:
        folder: of all logs of a store.
        about: written ahead of the first event.
        on_open: is given the file when it has appeared.
    """

    def __init__(self, folder: Path, about: dict[str, Any], on_open: Callable[[Path], None] | None = None) -> None:
        self._folder = folder
        self._about = about
        self._on_open = on_open
        self._file: TextIO | None = None

    def write(self, event: str, **words: Any) -> None:
        """Append one event; every line is in the hands of the operating system before this returns."""
        if self._file is None:
            files.make_folder(self._folder, self._folder.parent)
            host = re.sub(r"[^A-Za-z0-9.-]+", "-", platform.node())
            began = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
            path = self._folder / f"{began}-{host}-{os.getpid()}.jsonl"
            self._file = path.open("x", encoding="utf-8", buffering=1)
            if self._on_open is not None:
                self._on_open(path)
            self.write("started", host=platform.node(), pid=os.getpid(), **self._about)
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        with files.named(self._folder):
            self._file.write(canonical_json({"time": time, "event": event, **words}) + "\n")

    def close(self, why: str) -> None:
        """Write how the run ended, if it did anything."""
        if self._file is not None:
            self.write("ended", why=why)
            with files.named(self._folder):
                self._file.close()
            self._file = None

    @contextmanager
    def warnings(self) -> Iterator[None]:
        """Keep what the harness warns of inside the block."""
        handler = _Warnings(self)
        logger = logging.getLogger("crossfire")
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)


def once(record: logging.LogRecord, said: set[str]) -> bool:
    """Say whether a message was not ``said`` before: several cells may need one damaged file."""
    new = record.getMessage() not in said
    said.add(record.getMessage())
    return new


class _Warnings(logging.Handler):
    def __init__(self, log: RunLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        said: set[str] = set()
        # A cell that failed has an event of its own.
        self.addFilter(lambda record: record.levelno == logging.WARNING and once(record, said))

    def emit(self, record: logging.LogRecord) -> None:
        self._log.write("warning", message=record.getMessage())


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of every log in a folder, process by process, each with the ``log`` that it stands in.

    A last line that a dying process did not finish is left out.
    """
    for path in inventory.named(folder.parent, folder.name, "run log"):
        yield from ({**event, "log": path.stem} for event in _events(path))


def failures(path: Path) -> Iterator[str]:
    """Yield the files of a store, relative to it, in which the run of a log kept that a cell or a training failed."""
    for event in _events(path):
        if event.get("event") == "failed":
            yield f"cells/{event.get('key')}.json"
        elif event.get("event") == "training failed":
            yield f"train/{event.get('key')}/failed.json"


def _events(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with files.opened(path) as lines:
            # A line longer than any that is written is cut, and then is none.
            while line := lines.readline(_LONGEST_LINE):
                with suppress(ValueError):
                    if isinstance(event := document(line), dict):
                        yield event
    except (FileNotFoundError, Unreadable) as error:
        _log.warning("%s is left out: %s", path, error)
