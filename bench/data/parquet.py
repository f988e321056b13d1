"""Parquet files in the Hugging Face image layout: ``image`` = struct of bytes and path, ``label`` = an integer."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench.data.foreign import one_line, regular
from bench.data.rows import DatasetLocation, Numbers, Row, Rows, Source, Split, in_order, listed
from bench.types import MAX_IMAGES, UsageError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_SHARD = re.compile(r"(?P<stem>.*)-(?P<index>\d{5})-of-(?P<count>\d{5})\.parquet")
_PREFIXES = ("train", "test", "val")
# The names under which the hub's own copies of CIFAR-10 and CIFAR-100 keep the same two columns.
#: Rows that are unpacked at once: a large image repeated in many rows takes little room in the file.
_AT_ONCE, _LABELS_AT_ONCE = 64, 65_536
_IMAGE, _LABEL = ("image", "img"), ("label", "fine_label")


class _Classes(NamedTuple):
    """Names of the classes, the number of each label as written (or no change), and messages to report."""

    names: tuple[str, ...]
    numbers: Mapping[int | str, int] | None = None
    doubt: str = ""
    remark: str = ""
    numbered: bool = False


def find(folder: Path, num_classes: int | None = None) -> DatasetLocation | None:
    """Return the set whose Parquet files are in ``folder``; files whose name gives no split are the test split.

    ``num_classes``: how many classes it has by definition, with labels from 0, where its files do not name them.
    """
    splits = _splits(folder)
    if not splits:
        return None
    return DatasetLocation(folder, frozenset(splits), lambda split: _source(folder, split, splits, num_classes))


def unsplit(folder: Path) -> bool:
    """Say whether no file name in ``folder`` names a split."""
    return not any(path.name.lower().startswith(_PREFIXES) for path in folder.glob("*.parquet"))


def _splits(folder: Path) -> dict[Split, tuple[Path, ...]]:
    files = sorted(folder.glob("*.parquet"))
    by_prefix = {prefix: tuple(f for f in files if f.name.lower().startswith(prefix)) for prefix in _PREFIXES}
    train = by_prefix["train"]
    test = by_prefix["test"] or by_prefix["val"] or (() if train else tuple(files))
    splits: dict[Split, tuple[Path, ...]] = {"train": train, "test": test}
    return {split: paths for split, paths in splits.items() if paths}


def _source(
    folder: Path, split: Split, splits: dict[Split, tuple[Path, ...]], num_classes: int | None = None
) -> Source:
    files = splits[split]
    _check_shards(files)
    described = _described(folder)
    expected = tuple((part["file"], part["sha256"]) for part in _parts(described))
    classes = _classes(folder, splits, described, num_classes)
    recipe = "parquet" if classes.numbers is None else f"parquet {json.dumps(list(classes.numbers))}"
    return Source(
        files,
        recipe,
        classes.names,
        lambda: _read(files, classes.numbers),
        expected,
        classes.doubt,
        classes.remark,
        classes.numbered,
        lambda: _all_labels(files, classes.numbers),
    )


def _check_shards(files: tuple[Path, ...]) -> None:
    for match in filter(None, (_SHARD.fullmatch(path.name) for path in files)):
        for index in range(int(match["count"])):
            wanted = f"{match['stem']}-{index:05d}-of-{match['count']}.parquet"
            if not os.path.isfile(files[0].parent / wanted):
                raise UsageError(
                    f"{files[0].parent / wanted} is missing: {match.string} says that there are {int(match['count'])}"
                )


def _described(folder: Path) -> dict[str, Any]:
    path = folder / "meta.json"
    if not os.path.lexists(path):
        return {}
    with one_line(f"{path}: not readable as JSON"):
        described = json.loads(regular(path).read_text(encoding="utf-8"))
    return described if isinstance(described, dict) else {}


def _parts(described: dict[str, Any]) -> list[dict[str, str]]:
    splits = described.get("splits")
    parts = splits.values() if isinstance(splits, dict) else ()
    return [
        part
        for part in parts
        if isinstance(part, dict) and all(isinstance(part.get(word), str) for word in ("file", "sha256"))
    ]


def _classes(
    folder: Path, splits: dict[Split, tuple[Path, ...]], described: dict[str, Any], num_classes: int | None
) -> _Classes:
    paths = list(chain.from_iterable(splits.values()))
    texts = {path: _holds_texts(path) for path in paths}
    if len(set(texts.values())) > 1:
        odd = next(path for path in paths if texts[path] != texts[paths[0]])
        raise UsageError(
            f"{odd}: its labels are {'texts' if texts[odd] else 'numbers'}, unlike those of {paths[0].name}"
        )
    written, names = texts[paths[0]], _named(paths, described)
    if names:
        return _Classes(names, {name: label for label, name in enumerate(names)} if written else None)
    if num_classes is not None and not written:
        return _Classes(tuple(map(str, range(num_classes))))
    present = {split: set(chain.from_iterable(map(_labels, files))) for split, files in splits.items()}
    every = set().union(*present.values())
    kept = _lettered(in_order(map(str, every))) if written else _counted(folder, sorted(map(int, every)))
    if (new := present.get("test", set()) - present.get("train", every)) and not kept.doubt:
        return kept._replace(doubt=f"{folder}: test has the labels {listed(in_order(map(str, new)))}, train has not")
    return kept


def _lettered(names: tuple[str, ...]) -> _Classes:
    """Return classes whose labels are texts."""
    texts = sorted(names)
    remark = f"its classes are numbers, taken in the order {listed(names, 4)}, not {listed(texts, 4)}; "
    remark += "for another, give classes = [...] under [dataset]"
    numbers: dict[int | str, int] = {name: label for label, name in enumerate(names)}
    return _Classes(names, numbers, remark=remark if texts != list(names) else "")


def _counted(folder: Path, labels: list[int]) -> _Classes:
    """Return classes that have no names: those of the labels 0 to K-1, or 1 to K, which a warning says."""
    names = tuple(map(str, labels))
    if not labels or labels == list(range(len(labels))):
        return _Classes(names, numbered=True)
    numbers: dict[int | str, int] = {label: number for number, label in enumerate(labels)}
    if labels == list(range(1, len(labels) + 1)):
        remark = (
            f"labels are 1 to {labels[-1]} and have no names: taken as classes 0 to {labels[-1] - 1}; name them with "
            'classes = ["1", "2", ...] under [dataset], in the order wanted'
        )
        return _Classes(names, numbers, remark=remark, numbered=True)
    doubt = f"{folder}: labels are {listed(names)}, without names and not 0 to K-1 without a gap"
    return _Classes(names, numbers, doubt, numbered=True)


def _named(paths: list[Path], described: dict[str, Any]) -> tuple[str, ...] | None:
    names: tuple[str, ...] | None = None
    for path in paths:
        with _open(path) as file:
            here = _names_in(file.schema_arrow)
        if names and here and names != here:
            raise UsageError(f"{path}: its class names differ from those of the files beside it")
        names = names or here
    described_names = described.get("class_names")
    return names or (
        tuple(map(str, described_names)) if isinstance(described_names, list) and described_names else None
    )


def _names_in(schema: pa.Schema) -> tuple[str, ...] | None:
    metadata = schema.metadata or {}
    try:
        if b"class_names" in metadata:
            return tuple(map(str, json.loads(metadata[b"class_names"])))
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        for column in _LABEL:
            if listed := features.get(column, {}).get("names"):
                return tuple(map(str, listed))
    # These metadata may be anything, so they are only a hint.
    except (ValueError, AttributeError, TypeError, RecursionError):
        return None
    return None


def _holds_texts(path: Path) -> bool:
    import pyarrow as pa

    with _open(path) as file:
        written = file.schema_arrow.field(_columns(path, file.schema_arrow)[1]).type
    return not pa.types.is_integer(written.value_type if pa.types.is_dictionary(written) else written)


def _labels(path: Path) -> list[int | str]:
    import pyarrow.compute as pc

    labels: set[int | str] = set()
    with _open(path) as file, one_line(f"{path}: damaged"):
        _, label = _columns(path, file.schema_arrow)
        for batch in _batches(file, _LABELS_AT_ONCE, [label]):
            labels |= {each for each in pc.unique(batch.column(0)).to_pylist() if each is not None}
    return list(labels)


@contextmanager
def _open(path: Path) -> Iterator[pq.ParquetFile]:
    import pyarrow.parquet as pq

    with ExitStack() as opened:
        with one_line(f"{path}: not a whole Parquet file"):
            # Arrow itself opens no path that is not UTF-8.
            source = opened.enter_context(regular(path).open("rb"))
            file = opened.enter_context(pq.ParquetFile(source, pre_buffer=False))
            if not 0 <= file.metadata.num_rows <= MAX_IMAGES:
                raise UsageError(f"{path}: {file.metadata.num_rows:,} rows; at most {MAX_IMAGES:,} are read")
        yield file


def _batches(file: pq.ParquetFile, rows: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    # A thread of Arrow that still holds a file of Python's when Python ends aborts the process, or lets it hang.
    yield from file.iter_batches(rows, columns=columns, use_threads=False)


def _columns(path: Path, schema: pa.Schema) -> tuple[str, str]:
    import pyarrow as pa

    image = next((name for name in _IMAGE if name in schema.names), None)
    label = next((name for name in _LABEL if name in schema.names), None)
    if image is None or label is None:
        missing = "image" if image is None else "label"
        raise UsageError(f"{path}: no column '{missing}'; its columns are {', '.join(schema.names)}")
    if twice := next((name for name in (image, label) if schema.names.count(name) > 1), None):
        raise UsageError(f"{path}: two columns are called '{twice}'")
    kind = schema.field(image).type
    bytes_kind = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else None
    if bytes_kind is None or not (pa.types.is_binary(bytes_kind) or pa.types.is_large_binary(bytes_kind)):
        raise UsageError(f"{path}: column '{image}' is {kind}, not struct<bytes: binary, path: string>")
    written = schema.field(label).type
    written = written.value_type if pa.types.is_dictionary(written) else written
    if not any(holds(written) for holds in (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)):
        raise UsageError(f"{path}: column '{label}' is {written}, not int64 or string")
    return image, label


def _all_labels(files: tuple[Path, ...], numbers: Mapping[int | str, int] | None) -> Numbers:
    """Return the label of each row; no image is read."""
    labels: list[int] = []
    for path in files:
        with _open(path) as file, one_line(f"{path}: damaged"):
            _, column = _columns(path, file.schema_arrow)
            batches = _batches(file, _LABELS_AT_ONCE, [column])
            written = chain.from_iterable(batch.column(0).to_pylist() for batch in batches)
            labels += [_number(f"{path} row {row}", label, numbers) for row, label in enumerate(written)]
    return np.array(labels, dtype=np.int64)


def _number(where: str, label: int | str | None, numbers: Mapping[int | str, int] | None) -> int:
    if label is None:
        raise UsageError(f"{where}: no label")
    if numbers is None:
        return int(label)
    if label not in numbers:
        raise UsageError(f"{where}: label '{label}' is not one of {listed(list(map(str, numbers)))}")
    return numbers[label]


def _read(files: tuple[Path, ...], numbers: Mapping[int | str, int] | None) -> Rows:
    count = 0
    for path in files:
        with _open(path) as file:
            _columns(path, file.schema_arrow)
            count += file.metadata.num_rows
    return Rows(count, _rows_of_all(files, numbers))


def _rows_of_all(paths: Iterable[Path], numbers: Mapping[int | str, int] | None) -> Iterator[Row]:
    for path in paths:
        yield from _rows(path, numbers)


def _rows(path: Path, numbers: Mapping[int | str, int] | None) -> Iterator[Row]:
    with _open(path) as file:
        image, label = _columns(path, file.schema_arrow)
        batches = _batches(file, _AT_ONCE, [image, label])
        row = 0
        while True:
            with one_line(f"{path} after row {row}: damaged"):
                batch = next(batches, None)
                if batch is None:
                    return
                values, labels = batch.column(image).to_pylist(), batch.column(label).to_pylist()
            for value, number in zip(values, labels, strict=True):
                where = f"{path} row {row}"
                if value is None or value["bytes"] is None:
                    raise UsageError(f"{where}: no image bytes")
                yield Row(where, _number(where, number, numbers), value["bytes"])
                row += 1
