"""Trees of image files: ``<split>/<class>/*`` as torchvision's ImageFolder reads them, or ``<class>/*`` alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from bench.data.foreign import walk
from bench.data.rows import IMAGE_SUFFIXES, DatasetLocation, Numbers, Row, Rows, Source, Split, in_order, listed
from bench.types import UsageError

#: Names of the folders of a split, in any case. For the test split, the first name that exists counts.
_SPLITS: dict[Split, tuple[tuple[str, ...], ...]] = {
    "train": (("train", "training"),),
    "test": (("test", "testing"), ("val", "valid", "validation")),
}


def find(folder: Path) -> DatasetLocation | None:
    """Return the set under ``folder`` where it has a folder for a split; ``val`` serves where there is no ``test``.

    Raises:
        UsageError: two folders could be the same split.
    """
    splits: dict[Split, Path] = {}
    for split, choices in _SPLITS.items():
        for names in choices:
            matches = [folder / name for name in classes(folder) if name.lower() in names and classes(folder / name)]
            if len(matches) > 1:
                raise UsageError(
                    f"{folder}: {listed([f'{path.name}/' for path in matches])} could all be the {split} split"
                )
            if matches:
                splits.setdefault(split, matches[0])
    return DatasetLocation(folder, frozenset(splits), lambda split: _source(folder, splits, split)) if splits else None


def find_unsplit(folder: Path) -> DatasetLocation | None:
    """Return the set whose class folders are in ``folder`` itself; it has a test split only."""
    if not classes(folder):
        return None
    return DatasetLocation(folder, frozenset({"test"}), lambda split: _source(folder, {"test": folder}, split))


def images_under(folder: Path) -> list[Path]:
    """Return the image files at any depth under ``folder``, sorted as torchvision sorts them."""
    parts = sorted(walk(folder), key=lambda part: str(part[0]))
    paths = chain.from_iterable((parent / name for name in names) for parent, names in parts)
    return [path for path in paths if _is_image(path.name)]


def numbered(names: Iterable[str]) -> dict[str, int]:
    """Return the labels of classes: their positions."""
    return {name: label for label, name in enumerate(names)}


def labelled_images(folder: Path, labels: Mapping[str, int]) -> list[tuple[Path, int]]:
    """Return the images in the folders of some classes with their labels, given the labels of these folders."""
    labelled: list[tuple[Path, int]] = []
    for name, label in labels.items():
        labelled += ((path, label) for path in images_under(folder / name))
    return labelled


def of_files(labelled: Iterable[tuple[Path, int]], class_names: tuple[str, ...], recipe: str) -> Source:
    """Return the source of image files with their labels, in the order given."""
    pairs = list(labelled)
    # Which file has which label is part of the content, but the folder that holds the tree is not.
    root = os.path.commonpath([path.parent for path, _ in pairs]) if pairs else ""
    listing = "\n".join(f"{os.path.relpath(path, root)}\t{label}" for path, label in pairs)
    if not _is_unicode(listing):
        odd = next(path for path, _ in pairs if not _is_unicode(str(path)))
        raise UsageError(f"{odd}: its name is not UTF-8; rename it")

    def read() -> Rows:
        return Rows(len(pairs), (Row(str(path), label, path) for path, label in pairs))

    def all_labels() -> Numbers:
        return np.array([label for _, label in pairs], dtype=np.int64)

    files = tuple(path for path, _ in pairs)
    return Source(files, f"{recipe}\n{listing}", class_names, read, labels=all_labels, file_each=True)


def classes(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders in ``folder`` in the order of their classes; none where there is no folder."""
    try:
        return in_order(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}") from None


def _source(folder: Path, splits: dict[Split, Path], split: Split) -> Source:
    # Numbered over all splits: a class without a test image must not shift the numbers of those after it.
    names = in_order(chain.from_iterable(map(classes, splits.values())))
    labelled = labelled_images(splits[split], numbered(names))
    if not labelled:
        raise UsageError(f"{splits[split]}: no image in its class folders ({listed(names)})")
    if len(names) == 1:
        raise UsageError(_one_class(folder, splits, names[0]))
    source = of_files(labelled, names, "folder")
    present = {names[label] for _, label in labelled}
    doubt = _doubt(folder, splits, names, present)
    return replace(source, doubt=doubt, remark=_order(names))


def _one_class(folder: Path, splits: dict[Split, Path], name: str) -> str:
    where = listed(sorted(f"{path / name}" for path in splits.values() if (path / name).is_dir()))
    line = f"{folder}: all images lie in one class folder, {where}; <split>/<class>/ or <class>/ with images is wanted"
    deeper = folder / name
    if folder in splits.values() and (find(deeper) or len(classes(deeper)) > 1):
        line += f"; did you mean folder:{deeper}, which holds {listed(classes(deeper))}?"
    return line


def _doubt(folder: Path, splits: dict[Split, Path], names: tuple[str, ...], present: set[str]) -> str:
    """Return why the folders found are probably not the classes; nothing where they probably are."""
    known = set(chain.from_iterable(chain.from_iterable(_SPLITS.values())))
    if all(name.lower() in known for name in names):
        return f"{folder}: {listed([f'{name}/' for name in names])} hold images, not class folders"
    if "train" in splits and "test" in splits:
        train, test = splits["train"], splits["test"]
        if new := sorted(set(classes(test)) - set(classes(train))):
            return f"{test} has {listed(new)}, which {train} has not"
    if empty := [name for name in names if name not in present and not _any_image(splits.values(), name)]:
        return f"{folder}: no image in {listed([f'{name}/' for name in empty])}"
    if inside := _groups(list(chain.from_iterable(map(_class_folders, splits.values())))):
        return (
            f"{folder}: each of {listed(names)} holds the same folders, {listed(inside)}, which look like the classes"
        )
    return ""


def _class_folders(folder: Path) -> list[Path]:
    return [folder / name for name in classes(folder)]


def _groups(folders: list[Path]) -> tuple[str, ...]:
    """Return the two or more folders that each of ``folders`` holds, where none has an image beside them."""
    inside = {classes(folder) for folder in folders}
    if len(inside) != 1 or len(*inside) < 2:
        return ()
    entries = chain.from_iterable(folder.iterdir() for folder in folders)
    return () if any(_is_image(each.name) for each in entries) else inside.pop()


def _order(names: tuple[str, ...]) -> str:
    texts = sorted(names)
    if list(names) == texts:
        return ""
    names_in_order = listed([f'"{name}"' for name in texts])
    return (
        f"its class folders are numbers, in the order {listed(names, 4)}, not in torchvision's, {listed(texts, 4)}; "
        f"for that one, give classes = [{names_in_order}] under [dataset]"
    )


def _any_image(folders: Iterable[Path], name: str) -> bool:
    parts = chain.from_iterable(walk(folder / name) for folder in folders)
    return any(any(map(_is_image, files)) for _, files in parts)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES
