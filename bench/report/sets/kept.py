"""The adversarial set of a cell as it was judged, read from a store part by part."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench.keys import EVALUATION_VERSION, Keys, attack_key, identity
from bench.report.render.outside import images
from bench.store import chunk_file, inventory
from bench.store.latest import newest
from bench.store.records import read_columns
from bench.types import CellResult, UsageError, jsonable

if TYPE_CHECKING:
    from bench.data import ImageSet
    from bench.data.rows import Numbers
    from bench.store.working_store import Store

Array = np.ndarray[Any, np.dtype[Any]]
#: What the metadata of an exported set say that they are, and their version.
FORMAT, SCHEMA = "crossfire-adversarial-set", 1


class NotKept(UsageError):
    """The images of a set are not in the store any more, or not all of them, or damaged."""


class Part(NamedTuple):
    """Some images of a set, in its order.

    Attributes:
        positions: of the images in the set.
        rows: their row numbers in the image set (k,).
        labels: (k,).
        clean: uint8 (k, C, H, W).
        adversarial: float32 (k, C, H, W) in [0, 1], to the bit what the defense was given.
        targets: the classes that they were to be given, int64 (k,), -1 where any wrong one would do.
    """

    positions: slice
    rows: Array
    labels: Array
    clean: Array
    adversarial: Array
    targets: Array


class Predictions(NamedTuple):
    """What the defense answered to each clean and each adversarial image (n,); of a random one, most of its draws."""

    clean: Array
    adversarial: Array


@dataclass(frozen=True)
class AdversarialSet:
    """The adversarial set of one cell.

    Attributes:
        result: of the cell.
        images: the image set that it was made from.
        rows: the row numbers of its images in that (n,).
        chunks: the files of its adversarial images, in order.
        predictions: where they are kept.
    """

    result: CellResult
    images: ImageSet
    rows: Numbers
    chunks: tuple[Path, ...]
    predictions: Predictions | None

    @property
    def labels(self) -> Array:
        return np.asarray(self.images.at(self.rows)[1])

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Images, channels, height and width."""
        return (len(self.rows), *self.result.cell.data.image_shape)

    @cached_property
    def targets(self) -> Array | None:
        """The class that each image was to be given, int64 (n,), -1 where any wrong one would do; ``None`` where that
        holds for all.

        Raises:
            NotKept: a chunk has gone or is damaged.
        """
        attack = self.result.cell.attack
        assert attack is not None
        # The files of all others are not read once more for this.
        if attack.target is None and all(each.target is None for each in attack.after):
            return None
        targets = np.concatenate([part.targets for part in self.parts()])
        return targets if (targets >= 0).any() else None

    def parts(self) -> Iterator[Part]:
        """Yield the images, one chunk at a time.

        Raises:
            NotKept: a chunk has gone or is damaged.
        """
        attack = self.result.cell.attack
        assert attack is not None
        for path in self.chunks:
            positions = _positions(path)
            rows = self.rows[positions]
            clean, labels = map(np.asarray, self.images.at(rows))
            try:
                chunk = chunk_file.read(path, clean.astype(np.float32) / 255, attack.threat)
            except (FileNotFoundError, ValueError) as error:
                why = f"{path} does not count: {error}; its run, started again, makes it again"
                raise NotKept(f"{self.result.names}: {why}") from None
            targets = np.full(len(rows), -1, np.int64) if chunk.goals is None else chunk.goals.astype(np.int64)
            yield Part(positions, rows, labels, clean, chunk.images, targets)

    def metadata(self, arrays: Mapping[str, str]) -> dict[str, Any]:
        """Return what a reader needs to know where the images come from; it names no path, machine or time.

        Args:
            arrays: the SHA-256 of each array: of its bytes in C order, little-endian.
        """
        result, cell = self.result, self.result.cell
        assert cell.attack is not None
        provenance, target = jsonable(result.provenance), cell.attack.target
        return {
            "format": FORMAT,
            "schema": SCHEMA,
            "key": result.key,
            "set_key": attack_key(cell.attack),
            "names": jsonable(result.names),
            "data_sha": cell.data.data_sha,
            "indices_sha": cell.data.indices_sha,
            "class_names": list(self.images.class_names),
            "threat": jsonable(cell.attack.threat),
            "attack": {"name": cell.attack.attack.name, "params": cell.attack.attack.params}
            | ({} if target is None else {"target": target}),
            "defense": None if cell.step is None else {"name": cell.step.name, "params": cell.step.params},
            "access": cell.access,
            "metrics": None if result.metrics is None else jsonable(result.metrics),
            "flags": list(result.flags),
            "cell": identity(cell),
            "versions": {name: provenance[name] for name in ("commit", "dirty", "python", "packages", "device")}
            | {"evaluation": EVALUATION_VERSION},
            "sha256": dict(arrays),
        }


def attacked(results: Iterable[CellResult], pattern: str | None) -> list[CellResult]:
    """Return the finished attacked cells whose name holds or matches a pattern, of equal ones the newest, by name.

    Raises:
        UsageError: there is none.
    """
    cells = [each for each in newest(results).values() if each.status == "done" and each.cell.attack is not None]
    if not cells:
        raise UsageError("no attacked cell is done here: there is no adversarial set to export; run first")
    cells.sort(key=lambda result: (str(result.names), result.cell.seed, result.key))
    chosen = [each for each in cells if pattern is None or each.names.match(pattern)]
    if not chosen:
        raise UsageError(f"'{pattern}': no attacked cell matches; cells are named like {cells[0].names}")
    return chosen


def read(store: Store, result: CellResult, data_folder: Path | None, *, trusted: bool) -> AdversarialSet:
    """Return the adversarial set of a cell that is done.

    Args:
        store: that holds it.
        result: of the cell.
        data_folder: where to look for the clean images first.
        trusted: whether a folder of images that the result names may be opened.

    Raises:
        NotKept: its images are not all in the store.
        UsageError: the clean images are not on this machine, or lie in a folder that is not trusted.
    """
    chunks = chunks_of(store, result)
    if (why := lacking(store, result, chunks)) is not None:
        raise NotKept(why)
    image_set, rows = images(result.cell.data, data_folder, trusted=trusted)
    return AdversarialSet(result, image_set, rows, chunks, _predictions(store, result, rows))


def chunks_of(store: Store, result: CellResult, keys: Keys | None = None) -> tuple[Path, ...]:
    """Return the files of a cell's adversarial images, in order."""
    assert result.cell.attack is not None
    folder = store.adversarial((keys or Keys()).of(result.cell.attack))
    return tuple(sorted(inventory.chunks(folder), key=lambda path: _positions(path).start))


def lacking(store: Store, result: CellResult, chunks: Iterable[Path]) -> str | None:
    """Return the line that says which images of a set are gone and how to make them again; ``None`` if all are kept."""
    there = 0
    for path in chunks:
        positions = _positions(path)
        if positions.start != there:
            break
        there = positions.stop
    n = result.cell.data.n
    if there == n:
        return None
    kept = "are not in the store any more" if there == 0 else f"are not all in the store: only the first {there:,}"
    return (
        f"{result.names}: its {n:,} images {kept}; to make them again, delete {store.cell_file(result.key)} and run "
        f"its configuration with --only '{result.names}'"
    )


def _positions(path: Path) -> slice:
    first, _, last = path.stem.partition("-")
    return slice(int(first), int(last))


def _predictions(store: Store, result: CellResult, rows: Numbers) -> Predictions | None:
    """Return the predictions among the records of a cell; ``None`` where the records are not kept whole."""
    if not store.has_records(result):
        return None
    kinds = dict.fromkeys(("index", "clean", "adversarial"), "iu")
    try:
        columns = read_columns(store.records(result.key), len(rows), kinds)
    except (FileNotFoundError, ValueError):
        # A version that kept other columns.
        return None
    if not np.array_equal(columns["index"], rows):
        return None
    return Predictions(columns["clean"], columns["adversarial"])


def text(metadata: Mapping[str, Any]) -> str:
    """Return metadata as the one JSON text that they have in every file."""
    return json.dumps(metadata, sort_keys=True, ensure_ascii=True, allow_nan=False)
