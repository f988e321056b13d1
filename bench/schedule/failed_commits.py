"""Commits at which a cell could not be measured, kept so that a search which is started again does not meet them again.

They count for the same search only: the same cell, configuration and options, by the same harness in the same Python.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from bench.store import files

#: Bytes of a file that is read; a reason is a line.
_LARGEST = 2**24


class FailedCommits:
    """What failed at which commit, in a file for each search.

    What cannot be read counts as nothing, and what cannot be written is lost: either costs a run, and no more.

    Args:
        folder: where the files are.
        search: what makes a search the same, in texts.
    """

    def __init__(self, folder: Path, search: Sequence[str]) -> None:
        # What a commit imports is found by these.
        surroundings = [sys.prefix, os.environ.get("PYTHONPATH", "")]
        name = sha256(json.dumps([*search, *surroundings]).encode()).hexdigest()[:16]
        self._path = folder / f"{name}.json"
        self._why = self._read()

    def _read(self) -> dict[str, str]:
        with suppress(OSError, ValueError, RecursionError):
            kept = json.loads(files.read(self._path, _LARGEST))
            if isinstance(kept, dict):
                return {commit: why for commit, why in kept.items() if isinstance(why, str)}
        return {}

    def why(self, commit: str) -> str | None:
        """Return why a commit could not be measured before; ``None`` where it was not tried, or could."""
        return self._why.get(commit)

    def add(self, commit: str, why: str) -> None:
        """Keep why a commit cannot be measured."""
        self._why[commit] = why
        self._write()

    def forget(self, commit: str) -> None:
        """A commit could be measured after all."""
        if self._why.pop(commit, None) is not None:
            self._write()

    def _write(self) -> None:
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            files.write_atomically(self._path, json.dumps(self._why, indent=1).encode())
