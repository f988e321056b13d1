"""What a search keeps for when it is started again: why commits could not be measured, and how far it came.

It counts for the same search only: the same cell, configuration and options, by the same harness in the same Python.
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


class SearchMemory:
    """Texts by name, such as why a commit could not be measured, in a file for each search.

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
        self._texts = self._read()

    def _read(self) -> dict[str, str]:
        with suppress(OSError, ValueError, RecursionError):
            kept = json.loads(files.read(self._path, _LARGEST))
            if isinstance(kept, dict):
                return {name: text for name, text in kept.items() if isinstance(text, str)}
        return {}

    def get(self, name: str) -> str | None:
        """Return what was kept under a name; ``None`` where nothing was."""
        return self._texts.get(name)

    def keep(self, name: str, text: str) -> None:
        """Keep a text under a name, in place of what was kept there."""
        self._texts[name] = text
        self._write()

    def forget(self, name: str) -> None:
        """Keep nothing under a name any more."""
        if self._texts.pop(name, None) is not None:
            self._write()

    def _write(self) -> None:
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            files.write_atomically(self._path, json.dumps(self._texts, indent=1).encode())
