"""A result for strangers: without the name of the machine and the folders that its names lie in; what is its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from bench.keys import cell_key
from bench.report.receipts import form
from bench.report.render.outside import named_by
from bench.types import Cell, CellResult, UsageError, jsonable

#: Beginnings of names that go on with a path, where the path is in no key.
_PATHS = ("folder:", "parquet:", "weights:")


class Outdated(UsageError):
    """A result was measured by an older protocol."""


def redacted(result: CellResult) -> CellResult:
    """Return a result of which the key is the same, and in which folders and the machine are not named.

    A path that is part of the key, such as that of a network's own file, stays.

    Raises:
        Outdated: its key is not that of its cell under the protocol of now.
    """
    body = jsonable(result)
    if cell_key(result.cell) != result.key:
        raise Outdated(f"{result.names}: it was measured by an older protocol; run it again, then export it")
    shortened = dict(sorted(_shortened(body["cell"]), key=lambda pair: -len(pair[0])))
    body["cell"] = _without_paths(body["cell"])
    for name, text in body["names"].items():
        for path, short in shortened.items():
            text = text.replace(path, short)
        body["names"][name] = text
    body["provenance"]["machine"] = ""
    body["records_sha"] = None
    return CellResult.model_validate(body)


def _short(name: str) -> str:
    kind, _, path = name.partition(":")
    return f"{kind}:{PurePath(path).name or path}"


def _shortened(value: Any) -> Iterator[tuple[str, str]]:
    """Yield each path in a cell and what it becomes in the names of the cell."""
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, dict | list):
            yield from _shortened(each)
    paths = []
    if isinstance(value, dict) and (name := _path_in(value)) is not None:
        paths.append(name.partition(":")[2])
    if isinstance(value, dict) and isinstance(file := value.get("file"), str):
        paths.append(file)
    yield from ((path, PurePath(path).name) for path in paths if "/" in path)


def _path_in(value: dict[str, Any]) -> str | None:
    """Return the path in an image set or in weights; the name of a method is part of its key."""
    name = value.get("name")
    is_location = "sha256" in value or "data_sha" in value
    return name if is_location and isinstance(name, str) and name.startswith(_PATHS) else None


def _without_paths(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_paths(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _without_paths(each) for key, each in value.items() if not (key == "file" and "code_sha" in value)}
    if (name := _path_in(value)) is not None:
        kept["name"] = _short(name)
    return kept


def foreign(cell: Cell) -> list[str]:
    """Return the names of methods in a cell that do not come with Crossfire."""
    return sorted({name for name in map(named_by, form.methods_of(cell)) if name is not None})
