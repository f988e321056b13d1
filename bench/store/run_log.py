"""What a run did and when: one file of JSON lines for each process, in the store's folder ``log``."""

from __future__ import annotations

import logging
import os
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any, TextIO

from bench.keys import canonical_json
from bench.store import files, inventory
from bench.store.files import Unreadable
from bench.store.reading import document
from bench.visible import visible

_log = logging.getLogger("crossfire")
#: Bytes: an event with the traceback of a failure is some thousands long.
_LONGEST_LINE = 2**24
#: Bytes of a log that are read.
_LARGEST = 2**30


class RunLog:
    """The log of one process; its file appears with the first event, so a run that does nothing writes nothing.

    No run ends for want of it: where it cannot be written, what is missing is said when it is closed.

    Args:
        folder: of all logs of a store.
        about: written ahead of the first event.
        on_open: is given the file when it has appeared.
    """

    def __init__(self, folder: Path, header: dict[str, Any], on_open: Callable[[Path], None] | None = None) -> None:
        self._folder = folder
        self._header = header
        self._on_open = on_open
        self._began = datetime.now(UTC)
        self._file: TextIO | None = None
        self._lost: OSError | None = None

    def write(self, event: str, **fields: Any) -> None:
        """Append one event; every line is in the hands of the operating system before this returns."""
        if self._lost is not None:
            return
        try:
            if self._file is None:
                self._file = self._opened()
                self._write("started", self._began, host=platform.node(), pid=os.getpid(), **self._header)
            self._write(event, datetime.now(UTC), **fields)
        except OSError as error:
            self._lost = error

    def close(self, why: str, **fields: Any) -> None:
        """Write how the run ended, if it did anything."""
        if self._file is not None:
            self.write("ended", why=why, **fields)
            try:
                self._file.close()
            except OSError as error:
                self._lost = error
            self._file = None
        if self._lost is not None:
            why = self._lost.strerror or str(self._lost)
            _log.warning("the log of this run in %s cannot be written and lacks events: %s", self._folder, why)
            self._lost = None

    def _opened(self) -> TextIO:
        files.make_folder(self._folder, self._folder.parent)
        host = re.sub(r"[^A-Za-z0-9.-]+", "-", platform.node())
        path = self._folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{host}-{os.getpid()}.jsonl"
        file = path.open("x", encoding="utf-8", buffering=1)
        if self._on_open is not None:
            self._on_open(path)
        return file

    def _write(self, event: str, when: datetime, **fields: Any) -> None:
        assert self._file is not None
        time = when.isoformat(timespec="milliseconds")
        plain = {name: _plain(value) for name, value in fields.items()}
        self._file.write(canonical_json({"time": time, "event": event, **plain}) + "\n")

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


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it, which has no infinities, no NaN and no half of a surrogate pair."""
    if isinstance(value, str):
        return visible(value, lines=True)
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def once(record: logging.LogRecord, seen: set[str]) -> bool:
    """Say whether a message was not ``said`` before: several cells may need one damaged file."""
    new = record.getMessage() not in seen
    seen.add(record.getMessage())
    return new


class _Warnings(logging.Handler):
    def __init__(self, log: RunLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        seen: set[str] = set()
        # A cell that failed has an event of its own.
        self.addFilter(lambda record: record.levelno == logging.WARNING and once(record, seen))

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


def _is_event(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in ("time", "event"))


def _events(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with files.opened(path) as lines:
            # A line longer than any that is written is cut, and then is none.
            while lines.tell() < _LARGEST and (line := lines.readline(_LONGEST_LINE)):
                with suppress(ValueError):
                    if _is_event(event := document(line)):
                        yield event
    except (FileNotFoundError, Unreadable) as error:
        _log.warning("%s is left out: %s", path, error)
