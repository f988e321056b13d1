"""Trees of image files: ``<split>/<class>/*`` as torchvision's ImageFolder reads them, or ``<class>/*`` alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from bench.data.rows import IMAGE_SUFFIXES, Place, Row, Rows, Source, Split
from bench.types import UsageError

_SPLITS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val", "validation")}


def find(folder: Path) -> Place | None:
    """Return the set under ``folder`` where it has a folder for a split; ``val`` serves where there is no ``test``."""
    splits: dict[Split, Path] = {}
    for split, names in _SPLITS.items():
        for name in names:
            if split not in splits and classes(folder / name):
                splits[split] = folder / name
    return Place(folder, frozenset(splits), lambda split: _source(splits, split)) if splits else None


def find_unsplit(folder: Path) -> Place | None:
    """Return the set whose class folders lie in ``folder`` itself; it has a test split only."""
    if not classes(folder):
        return None
    return Place(folder, frozenset({"test"}), lambda split: _source({"test": folder}, split))


def images_under(folder: Path) -> list[Path]:
    """Return the image files at any depth under ``folder``, sorted as torchvision sorts them."""
    found = []
    for parent, _, names in sorted(os.walk(folder, followlinks=True)):
        found += [Path(parent, name) for name in sorted(names) if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    return found


def of_files(labelled: Iterable[tuple[Path, int]], class_names: tuple[str, ...], recipe: str) -> Source:
    """Return the source of image files with their labels, in the order given."""
    pairs = list(labelled)
    # Which file has which label is part of the content, but the folder that holds the tree is not.
    root = os.path.commonpath([path.parent for path, _ in pairs]) if pairs else ""
    listing = "\n".join(f"{os.path.relpath(path, root)}\t{label}" for path, label in pairs)

    def read() -> Rows:
        return Rows(len(pairs), (Row(str(path), label, path) for path, label in pairs))

    return Source(tuple(path for path, _ in pairs), f"{recipe}\n{listing}", class_names, read)


def classes(folder: Path) -> list[str]:
    """Return the names of the folders in ``folder``, sorted; none where there is no such folder."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _source(splits: dict[Split, Path], split: Split) -> Source:
    # Numbered over all splits: a class without a test image must not shift the numbers of those after it.
    names = sorted({name for folder in splits.values() for name in classes(folder)})
    labelled = [(path, label) for label, name in enumerate(names) for path in images_under(splits[split] / name)]
    if not labelled:
        raise UsageError(f"{splits[split]}: no image in its class folders ({', '.join(names[:5])})")
    return of_files(labelled, tuple(names), "folder")
