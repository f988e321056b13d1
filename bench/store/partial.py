"""Cells that are begun: the outcomes of their first images, which a table can show while the others are missing.

    partial/<key>.json

They are written chunk by chunk by a run with a time budget, and removed once the whole cell is stored. No result is
made of them: the whole cell is measured from its adversarial images as by any run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from bench.keys import canonical_json, sha256_hex
from bench.store import files, inventory
from bench.store.files import write_atomically
from bench.store.reading import MAX_RESULT, document, validated
from bench.store.working_store import Store
from bench.types import PartialResult, jsonable

FORMAT, SCHEMA = "crossfire-partial", 1
_log = logging.getLogger("crossfire")


def path_of(store: Store, key: str) -> Path:
    """Return the file of a cell that is begun."""
    return store.root / "partial" / f"{key}.json"


def put(store: Store, result: PartialResult) -> None:
    """Keep what a cell gave on its first images, in place of what it gave on fewer."""
    body = canonical_json(jsonable(result))
    head = canonical_json({"format": FORMAT, "schema": SCHEMA, "sha256": sha256_hex(body)})
    path = path_of(store, result.key)
    store.make_folder(path.parent)
    write_atomically(path, f"{head}\n{body}\n".encode())


def remove(store: Store, key: str) -> None:
    """Remove what was kept of a cell that is whole now."""
    files.remove(path_of(store, key))


def read(store: Store) -> Iterator[PartialResult]:
    """Yield what is known of all cells that are begun and not done; damaged files are left out, with a warning."""
    for path in inventory.named(store.root, "partial", "partial result"):
        done = store.get(path.stem) if files.is_regular(store.cell_file(path.stem)) else None
        if (done is None or done.status != "done") and (result := get(store, path.stem)) is not None:
            yield result


def get(store: Store, key: str) -> PartialResult | None:
    """Return what is known of a cell; ``None`` where it is not begun or, with a warning, where that is damaged."""
    path = path_of(store, key)
    try:
        head, _, body = files.read(path, MAX_RESULT).partition(b"\n")
        header = document(head)
        if not isinstance(header, dict) or header.get("format") != FORMAT or header.get("schema") != SCHEMA:
            raise ValueError("it is no part of a cell that this version wrote")
        if header.get("sha256") != sha256_hex(body.rstrip(b"\n")):
            raise ValueError("it was cut short or altered since it was written")
        result = validated(PartialResult, body)
        if result.key != key:
            raise ValueError(f"it is of {result.key}")
        return result
    except FileNotFoundError:
        return None
    except ValueError as error:
        _log.warning("%s does not count: %s", path, (str(error).splitlines() or [""])[0])
        return None
