"""Seals: the hash in or beside a file by which it is known to be what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.keys import canonical_json, sha256_hex

if TYPE_CHECKING:
    import numpy as np


def sealed(body: Mapping[str, Any]) -> bytes:
    """Return a JSON document with its own hash under ``sha256``."""
    return canonical_json({**body, "sha256": sha256_hex(canonical_json(body))}).encode() + b"\n"


def unsealed(data: bytes) -> dict[str, Any]:
    """Return the document that :func:`sealed` was given.

    Raises:
        ValueError: it was cut short or altered since.
    """
    body = json.loads(data)
    if not isinstance(body, dict) or body.pop("sha256", None) != sha256_hex(canonical_json(body)):
        raise ValueError("cut short or altered since it was written")
    return body


def arrays_digest(arrays: Mapping[str, np.ndarray], words: Mapping[str, Any]) -> str:
    """Return the hash of arrays by name, with their types and shapes, and of what is said of them."""
    parts: list[str | bytes] = [canonical_json(words)]
    for name, array in sorted(arrays.items()):
        parts += [canonical_json([name, str(array.dtype), list(array.shape)]), array.tobytes()]
    return sha256_hex(*parts)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class KnownFiles:
    """Which files had the right hash, and their size and times then: one that has kept these is not read again.

    Neither a copy nor a file that was written to has kept them. What a disk does behind their back only a full look
    finds.
    """

    def __init__(self, data: bytes | None = None) -> None:
        """Go on from what :meth:`merged` returned; from nothing where that is not whole."""
        self._seen: dict[str, list[Any]] = {}
        self._new: dict[str, list[Any] | None] = {}
        try:
            self._seen = unsealed(data)["files"] if data is not None else {}
        except (ValueError, KeyError):
            return

    def is_whole(self, name: str, path: Path, sha: str) -> bool:
        """Say whether the file at ``path``, known by ``name``, has this hash.

        Raises:
            FileNotFoundError: there is none.
        """
        mark = _mark(path, sha)
        if self._seen.get(name) == mark:
            return True
        whole = file_sha256(path) == sha
        self._remember(name, mark if whole else None)
        return whole

    def note(self, name: str, path: Path, sha: str) -> None:
        """Remember a file that was just written."""
        self._remember(name, _mark(path, sha))

    def _remember(self, name: str, mark: list[Any] | None) -> None:
        self._new[name] = mark
        if mark is None:
            self._seen.pop(name, None)
        else:
            self._seen[name] = mark

    @property
    def has_news(self) -> bool:
        return bool(self._new)

    def merged(self, others: bytes | None) -> bytes:
        """Return everything known as a document, laid over what other processes have kept in the meantime."""
        files = {**KnownFiles(others)._seen, **self._new}
        self._new = {}
        return sealed({"files": {name: mark for name, mark in files.items() if mark is not None}})


def _mark(path: Path, sha: str) -> list[Any]:
    now = path.stat()
    return [now.st_size, now.st_mtime_ns, now.st_ctime_ns, sha]
