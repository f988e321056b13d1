"""Parquet files in the Hugging Face image layout: ``image`` = struct of bytes and path, ``label`` = an integer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.data.rows import Place, Row, Rows, Source, Split
from bench.types import UsageError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_SHARD = re.compile(r"(?P<stem>.*)-(?P<index>\d{5})-of-(?P<count>\d{5})\.parquet")
_PREFIXES = ("train", "test", "val")
# The names under which the hub's own copies of CIFAR-10 and CIFAR-100 keep the same two columns.
_IMAGE, _LABEL = ("image", "img"), ("label", "fine_label")


def find(folder: Path) -> Place | None:
    """Return the set whose Parquet files lie in ``folder``; files of no split by their name serve as test."""
    splits = _splits(folder)
    return Place(folder, frozenset(splits), lambda split: _source(folder, split, splits)) if splits else None


def unsplit(folder: Path) -> bool:
    """Say whether no file name in ``folder`` names a split."""
    return not any(path.name.startswith(_PREFIXES) for path in folder.glob("*.parquet"))


def _splits(folder: Path) -> dict[Split, tuple[Path, ...]]:
    files = sorted(folder.glob("*.parquet"))
    train, test, val = (tuple(path for path in files if path.name.startswith(prefix)) for prefix in _PREFIXES)
    found: dict[Split, tuple[Path, ...]] = {"train": train, "test": test or val or (() if train else tuple(files))}
    return {split: paths for split, paths in found.items() if paths}


def _source(folder: Path, split: Split, splits: dict[Split, tuple[Path, ...]]) -> Source:
    files = splits[split]
    _check_shards(files)
    described = _described(folder)
    expected = tuple((part["file"], part["sha256"]) for part in _parts(described))
    return Source(files, "parquet", _class_names(splits, described), lambda: _read(files), expected)


def _check_shards(files: tuple[Path, ...]) -> None:
    for match in filter(None, (_SHARD.fullmatch(path.name) for path in files)):
        for index in range(int(match["count"])):
            wanted = f"{match['stem']}-{index:05d}-of-{match['count']}.parquet"
            if not (files[0].parent / wanted).is_file():
                raise UsageError(
                    f"{files[0].parent / wanted} is missing: {match.string} says that there are {int(match['count'])}"
                )


def _described(folder: Path) -> dict[str, Any]:
    path = folder / "meta.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not readable as JSON ({error})") from None
    return described if isinstance(described, dict) else {}


def _parts(described: dict[str, Any]) -> list[dict[str, str]]:
    splits = described.get("splits")
    parts = splits.values() if isinstance(splits, dict) else ()
    return [part for part in parts if isinstance(part, dict) and {"file", "sha256"} <= part.keys()]


def _class_names(splits: dict[Split, tuple[Path, ...]], described: dict[str, Any]) -> tuple[str, ...]:
    names: tuple[str, ...] | None = None
    for path in (path for paths in splits.values() for path in paths):
        with _open(path) as file:
            here = _names_in(file.schema_arrow)
        if names and here and names != here:
            raise UsageError(f"{path}: its class names differ from those of the files beside it")
        names = names or here
    if names:
        return names
    if isinstance(listed := described.get("class_names"), list) and listed:
        return tuple(map(str, listed))
    highest = max(_highest_label(path) for paths in splits.values() for path in paths)
    return tuple(str(index) for index in range(highest + 1))


def _names_in(schema: pa.Schema) -> tuple[str, ...] | None:
    metadata = schema.metadata or {}
    try:
        if b"class_names" in metadata:
            return tuple(map(str, json.loads(metadata[b"class_names"])))
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        for column in _LABEL:
            if listed := features.get(column, {}).get("names"):
                return tuple(map(str, listed))
    except (ValueError, AttributeError, TypeError):
        return None
    return None


def _highest_label(path: Path) -> int:
    import pyarrow.compute as pc

    with _open(path) as file:
        _, label = _columns(path, file.schema_arrow)
        return int(pc.max(file.read(columns=[label]).column(0)).as_py() or 0)


def _open(path: Path) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path}: not a whole Parquet file ({_first_line(error)})") from None


def _columns(path: Path, schema: pa.Schema) -> tuple[str, str]:
    import pyarrow as pa

    image = next((name for name in _IMAGE if name in schema.names), None)
    label = next((name for name in _LABEL if name in schema.names), None)
    if image is None or label is None:
        missing = "image" if image is None else "label"
        raise UsageError(f"{path}: no column '{missing}'; its columns are {', '.join(schema.names)}")
    kind = schema.field(image).type
    bytes_kind = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else None
    if bytes_kind is None or not (pa.types.is_binary(bytes_kind) or pa.types.is_large_binary(bytes_kind)):
        raise UsageError(f"{path}: column '{image}' is {kind}, not struct<bytes: binary, path: string>")
    if not pa.types.is_integer(schema.field(label).type):
        raise UsageError(f"{path}: column '{label}' is {schema.field(label).type}, not int64")
    return image, label


def _read(files: tuple[Path, ...]) -> Rows:
    count = 0
    for path in files:
        with _open(path) as file:
            _columns(path, file.schema_arrow)
            count += file.metadata.num_rows
    return Rows(count, (row for path in files for row in _rows(path)))


def _rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa

    with _open(path) as file:
        image, label = _columns(path, file.schema_arrow)
        row = 0
        try:
            for batch in file.iter_batches(1024, columns=[image, label]):
                for value, number in zip(batch.column(image).to_pylist(), batch.column(label).to_pylist(), strict=True):
                    where = f"{path} row {row}"
                    if value is None or value["bytes"] is None:
                        raise UsageError(f"{where}: no image bytes")
                    if number is None:
                        raise UsageError(f"{where}: no label")
                    yield Row(where, number, value["bytes"])
                    row += 1
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{path} after row {row}: damaged ({_first_line(error)})") from None


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
