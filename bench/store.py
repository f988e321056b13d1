"""The working store: one folder per trained network, one per adversarial set, one file per result.

Every file is written beside its place, flushed to the disk and renamed; the file that says "done" comes last. So a
reader never sees half a file, and whatever a dead process left behind is ignored.

    train/<key>/    state.safetensors, log.jsonl, weights.safetensors, card.json (last)
    attack/<key>/   <first>-<last>.safetensors, one for each chunk of images
    cells/<key>.json
    records/<key>.parquet
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.keys import canonical_json, sha256_hex
from bench.types import CellResult, UsageError, jsonable

_KEY = re.compile(r"[0-9a-f]{64}")


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds either what it held before or all of ``data``, even after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def default_root() -> Path:
    """Return ``$CROSSFIRE_STORE``, or ``.crossfire`` in the current folder."""
    return Path(os.environ.get("CROSSFIRE_STORE") or ".crossfire")


class Store:
    """The store in a folder, which is made on the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def check_writable(self) -> None:
        """Raises UsageError: the folder cannot be written to."""
        try:
            write_atomically(self.root / ".writable", b"")
            (self.root / ".writable").unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"the store {self.root} cannot be written: {error.strerror}; choose another with --store") from None

    def training(self, key: str) -> Path:
        return self.root / "train" / _checked(key)

    def adversarial(self, key: str) -> Path:
        return self.root / "attack" / _checked(key)

    def records(self, key: str) -> Path:
        return self.root / "records" / f"{_checked(key)}.parquet"

    def _cell(self, key: str) -> Path:
        return self.root / "cells" / f"{_checked(key)}.json"

    def put(self, result: CellResult) -> None:
        """Keep a result; it is then done, or failed, for every later run."""
        body = jsonable(result)
        text = canonical_json({**body, "sha256": sha256_hex(canonical_json(body))})
        write_atomically(self._cell(result.key), text.encode() + b"\n")

    def get(self, key: str) -> CellResult | None:
        """Return the result under ``key``; ``None`` where there is none or its file was altered or cut short."""
        try:
            return read_result(self._cell(key).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def results(self) -> Iterator[CellResult]:
        """Yield every readable result, in the order of their keys."""
        for path in sorted((self.root / "cells").glob("*.json")):
            if (result := self.get(path.stem)) is not None:
                yield result

    def find(self, text: str) -> list[CellResult]:
        """Return the results whose key starts with ``text`` or whose name is ``text``."""
        return [result for result in self.results() if result.key.startswith(text) or str(result.names) == text]


def read_result(text: str) -> CellResult:
    """Return the result in a line or file of JSON.

    Raises:
        ValueError: not a whole result: cut short, altered since it was written, or of another schema.
    """
    body: Any = json.loads(text)
    if not isinstance(body, dict) or body.pop("sha256", None) != sha256_hex(canonical_json(body)):
        raise ValueError("the result was cut short or altered since it was written")
    if body.get("schema") != 1:
        raise ValueError(f"schema {body.get('schema')} is not one that this version reads (1)")
    try:
        return CellResult.model_validate(body)
    except ValidationError as error:
        raise ValueError(str(error).partition("\n")[0]) from None


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not a key")
    return key
