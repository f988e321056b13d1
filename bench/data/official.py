"""The files that the sets' publishers hand out, as torchvision keeps them, read without torchvision."""

from __future__ import annotations

import operator
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import folders
from bench.data.foreign import one_line, regular
from bench.data.rows import DatasetLocation, Numbers, Pixels, Row, Rows, Source, Split, held_out
from bench.types import UsageError

_RECONSTRUCT = np.empty(0).__reduce__()[0]


class _ArraysOnly(pickle.Unpickler):
    """Reads the pickles that hold CIFAR; anything but arrays of numbers is refused, so no code in one can run."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {"_reconstruct": _RECONSTRUCT, "ndarray": np.ndarray, "dtype": np.dtype}
        if module.partition(".")[0] == "numpy" and name in allowed:
            return allowed[name]
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 writes bytes
            return _latin1
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _latin1(text: str, _encoding: str) -> bytes:
    return text.encode("latin1")


def _unpickle(path: Path, *keys: str) -> list[Any]:
    with one_line(f"{path}: not a whole CIFAR batch"), regular(path).open("rb") as file:
        content = _ArraysOnly(file, encoding="latin1").load()
        return [content[key] for key in keys]


def _cifar(
    folder: Path, files: dict[Split, tuple[str, ...]], label: str, meta: str, names: str
) -> DatasetLocation | None:
    def source(split: Split) -> Source:
        paths = tuple(folder / file for file in files[split])
        (class_names,) = _unpickle(folder / meta, names)
        if not isinstance(class_names, list) or not all(isinstance(name, str) for name in class_names):
            raise UsageError(f"{folder / meta}: {names} is not a list of texts")
        return Source(paths, "cifar", tuple(class_names), lambda: _read_cifar(paths, label))

    present = frozenset(split for split, parts in files.items() if any(os.path.isfile(folder / part) for part in parts))
    return DatasetLocation(folder, present, source) if present else None


def _read_cifar(paths: tuple[Path, ...], label: str) -> Rows:
    parts: list[tuple[Path, Pixels, list[int]]] = []
    for path in paths:
        data, labels = _unpickle(path, "data", label)
        with one_line(f"{path}: not a whole CIFAR batch"):
            flat, labels = np.asarray(data), [operator.index(each) for each in labels]
        if flat.dtype != np.uint8 or flat.ndim != 2 or flat.shape[1] != 3072 or len(labels) != len(flat):
            raise UsageError(
                f"{path}: data is {flat.dtype} {flat.shape} with {len(labels)} labels, not uint8 (N, 3072) with N"
            )
        parts.append((path, flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels))
    return Rows(sum(len(labels) for _, _, labels in parts), _rows_of_all(parts))


def _rows_of_all(parts: Iterable[tuple[Path, Pixels, list[int]]]) -> Iterator[Row]:
    # A generator, so that a caller that stops early can close it.
    for part in parts:
        yield from _raw_rows(*part)


def _raw_rows(path: Path, images: Pixels, labels: list[int]) -> Iterator[Row]:
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield Row(f"{path} row {index}", label, image)


def _cifar10(root: Path) -> DatasetLocation | None:
    batches: dict[Split, tuple[str, ...]] = {
        "train": tuple(f"data_batch_{index}" for index in range(1, 6)),
        "test": ("test_batch",),
    }
    return _cifar(root / "cifar-10-batches-py", batches, "labels", "batches.meta", "label_names")


def _cifar100(root: Path) -> DatasetLocation | None:
    batches: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test",)}
    return _cifar(root / "cifar-100-python", batches, "fine_labels", "meta", "fine_label_names")


def _svhn(root: Path) -> DatasetLocation | None:
    def source(split: Split) -> Source:
        path = root / f"{split}_32x32.mat"
        return Source((path,), "svhn", tuple(map(str, range(10))), lambda: _read_svhn(path))

    splits: tuple[Split, ...] = ("train", "test")
    present = frozenset(split for split in splits if os.path.isfile(root / f"{split}_32x32.mat"))
    return DatasetLocation(root, present, source) if present else None


def _read_svhn(path: Path) -> Rows:
    from scipy.io import loadmat

    with one_line(f"{path}: not a whole SVHN file"):
        content = loadmat(regular(path), variable_names=["X", "y"])
        # The publisher writes the digit 0 as 10.
        images = content["X"].transpose(3, 0, 1, 2)
        labels = [0 if label == 10 else operator.index(label) for label in content["y"].flatten()]
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or len(labels) != len(images):
        raise UsageError(f"{path}: X is {images.dtype} {content['X'].shape}, not uint8 (32, 32, 3, N) with N labels")
    return Rows(len(images), _raw_rows(path, images, labels))


def _caltech101(root: Path) -> DatasetLocation | None:
    folder = root / "101_ObjectCategories"

    def source(split: Split) -> Source:
        names = tuple(name for name in folders.classes(folder) if name != "BACKGROUND_Google")
        labelled = folders.labelled_images(folder, folders.numbered(names))
        labels: Numbers = np.array([label for _, label in labelled], dtype=np.int64)
        rows = held_out(labels, round(len(labelled) / 5))[split]
        return folders.of_files([labelled[row] for row in rows], names, "caltech101")

    return DatasetLocation(folder, frozenset({"train", "test"}), source) if os.path.isdir(folder) else None


def _tiny_imagenet(root: Path) -> DatasetLocation | None:
    folder = root / "tiny-imagenet-200"
    return (
        DatasetLocation(folder, frozenset({"train", "test"}), partial(_tiny_source, folder))
        if os.path.isdir(folder)
        else None
    )


def _tiny_source(folder: Path, split: Split) -> Source:
    names_of = dict(line.partition("\t")[::2] for line in _lines(folder / "words.txt"))
    wnids = sorted(_lines(folder / "wnids.txt"))
    names = tuple(f"{wnid} {names_of.get(wnid, '').partition(',')[0]}".strip() for wnid in wnids)
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    annotations = folder / "val" / "val_annotations.txt"
    if split == "test" and os.path.isfile(annotations):
        labelled = []
        for number, line in enumerate(_lines(annotations)):
            file, _, wnid = line.partition("\t")
            if (wnid := wnid.partition("\t")[0]) not in labels:
                raise UsageError(f"{annotations} row {number}: class '{wnid}' is not in wnids.txt")
            labelled.append((folder / "val" / "images" / file, labels[wnid]))
        if missing := next((path for path, _ in labelled if not os.path.isfile(path)), None):
            raise UsageError(f"{missing} is missing; {annotations.name} lists it")
    else:
        part = folder / ("train" if split == "train" else "val")
        labelled = folders.labelled_images(part, labels)
    if not labelled:
        raise UsageError(f"{folder}: no {split} image")
    return folders.of_files(labelled, names, "tiny_imagenet")


def _lines(path: Path) -> list[str]:
    with one_line(f"{path}: not a text in UTF-8"):
        return regular(path).read_text(encoding="utf-8").splitlines()


FIND: dict[str, Callable[[Path], DatasetLocation | None]] = {
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "svhn": _svhn,
    "caltech101": _caltech101,
    "tiny_imagenet": _tiny_imagenet,
}
