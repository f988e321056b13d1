"""Seals: a hash in a file, or beside it, that shows whether the file is what was written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.keys import canonical_json, sha256_hex
from bench.store import files
from bench.store.reading import document

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
    body = document(data)
    if not isinstance(body, dict) or body.pop("sha256", None) != sha256_hex(canonical_json(body)):
        raise ValueError("cut short or altered since it was written")
    return body


def read_metadata(data: bytes) -> dict[str, str]:
    """Return what the head of a safetensors file says of it, given the file or its beginning.

    Raises:
        ValueError: it has no such head.
    """
    length = int.from_bytes(data[:8], "little")
    head = document(data[8 : 8 + length]) if len(data) >= 8 + length else None
    metadata = head.get("__metadata__", {}) if isinstance(head, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("no whole safetensors file")
    return metadata


def head_metadata(path: Path, limit: int) -> dict[str, str]:
    """Return :func:`read_metadata` of a file of which only the head is read, of at most ``limit`` bytes.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it has no such head, or a larger one, or cannot be read.
    """
    with files.opened(path) as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if length > limit:
            raise ValueError("no safetensors file")
        return read_metadata(head + file.read(length))


def sealed_arrays(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays of a safetensors file and what it says of them, without the seal.

    Raises:
        ValueError: it is none, has no seal, or was cut short or altered since it was written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    metadata = read_metadata(data)
    try:
        arrays = load(data)
    except (SafetensorError, KeyError, TypeError) as error:
        # Of a type that NumPy lacks, a KeyError says the name alone.
        raise ValueError(f"no safetensors file that NumPy reads: {error}") from None
    if metadata.pop("sha256", None) != arrays_digest(arrays, metadata):
        raise ValueError("cut short or altered since it was written")
    return arrays, metadata


def arrays_digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> str:
    """Return the hash of arrays by name, with their types and shapes, and of what is said of them."""
    parts: list[str | bytes] = [canonical_json(metadata)]
    for name, array in sorted(arrays.items()):
        parts += [canonical_json([name, str(array.dtype), list(array.shape)]), array.tobytes()]
    return sha256_hex(*parts)


class KnownFiles:
    """The files whose hash was right, with their size and times then: a file that has kept these is not hashed again.

    A copy, or a file that was written to, has other times. Damage on the disk itself changes neither size nor times, so
    only hashing again finds it.
    """

    def __init__(self, data: bytes | None = None) -> None:
        """Go on from what :meth:`merged` returned, or from nothing if that is damaged."""
        self._seen: dict[str, str] = {}
        self._new: dict[str, str | None] = {}
        try:
            seen = unsealed(data).get("files") if data is not None else None
        except ValueError:
            return
        if isinstance(seen, dict):
            # Older versions kept fingerprints as lists. Any other value matches no fingerprint.
            lists = {name: value for name, value in seen.items() if isinstance(value, list)}
            texts = {name: value for name, value in seen.items() if isinstance(value, str)}
            self._seen = {name: " ".join(map(str, value)) for name, value in lists.items()} | texts

    def is_intact(self, name: str, path: Path, sha: str, limit: int) -> bool:
        """Say whether the file at ``path``, known by ``name``, has this hash and at most ``limit`` bytes.

        Raises:
            FileNotFoundError: there is none.
            Unreadable: it is no regular file, is larger, or cannot be read.
        """
        return self.holds(name, path, sha, lambda: files.file_sha256(path, limit) == sha)

    def holds(self, name: str, path: Path, reference: str, check: Callable[[], bool]) -> bool:
        """Say whether ``check`` passed for the file at ``path``, now or earlier with the same size and times.

        Args:
            name: by which it is known.
            path: of the file.
            reference: what it was checked against, such as a hash.
            check: checks it; an exception counts as not passed, and is raised again.

        Raises:
            FileNotFoundError: there is none.
            Unreadable: it is no regular file.
        """
        fingerprint = _fingerprint(path, reference)
        if self._seen.get(name) == fingerprint:
            return True
        self._remember(name, None)
        if check():
            self._remember(name, fingerprint)
            return True
        return False

    def note(self, name: str, path: Path, sha: str) -> None:
        """Remember a file that was just written."""
        self._remember(name, _fingerprint(path, sha))

    def _remember(self, name: str, fingerprint: str | None) -> None:
        self._new[name] = fingerprint
        if fingerprint is None:
            self._seen.pop(name, None)
        else:
            self._seen[name] = fingerprint

    @property
    def has_news(self) -> bool:
        return bool(self._new)

    def merged(self, others: bytes | None) -> bytes:
        """Return everything known as a document, together with what other processes have kept since."""
        known = {**KnownFiles(others)._seen, **self._new}
        self._new = {}
        return sealed({"files": {name: fingerprint for name, fingerprint in known.items() if fingerprint is not None}})


def _fingerprint(path: Path, sha: str) -> str:
    now = files.status(path)
    return f"{now.st_ino} {now.st_size} {now.st_mtime_ns} {now.st_ctime_ns} {sha}"
