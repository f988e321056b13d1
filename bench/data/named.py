"""The sets that have a name: what each one is, where it is looked for, and how it is fetched."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from bench.data import corrupted, folders, official, parquet
from bench.data.memo import cache_folder
from bench.data.rows import DatasetLocation, Source, Split
from bench.store.files import make_folders
from bench.types import DataRef, UsageError

_CONNECT_TIMEOUT_S = 10.0

#: What torchvision's classes are unpacked from, with the SHA-256 of each file.
_PUBLISHED = {
    "CIFAR10": (
        (
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        ),
    ),
    "CIFAR100": (
        (
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        ),
    ),
    "SVHN": (
        (
            "http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
            "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        ),
        (
            "http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
            "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        ),
    ),
    "Caltech101": (
        (
            "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
            "331234750fc7f77520e50d9565e8b6907b03565e30320da1401130db08c61f91",
        ),
    ),
}


@dataclass(frozen=True)
class NamedSet:
    """A named set. ``image_shape`` is (C, H, W); ``splits`` counts the images of its publisher's whole splits.

    ``uneven``: its images have many sizes, so they are resized to ``image_shape`` unless configured otherwise.
    ``files`` says in words what its publisher's own files are; ``torchvision`` is the class that downloads them. Of
    common corruptions ``conditions`` are those that are meant, and ``trains_on`` is the set that gives training images.
    """

    name: str
    summary: str
    num_classes: int
    image_shape: tuple[int, int, int]
    splits: Mapping[str, int]
    files: str = ""
    torchvision: str | None = None
    uneven: bool = False
    conditions: corrupted.Conditions | None = None
    trains_on: str = ""

    def available(self, folder: Path | None) -> bool:
        """Say whether it is here without a download; only file names are checked."""
        if self.name == "digits":
            return find_spec("sklearn") is not None
        try:
            return search(self, folder).location is not None
        except UsageError:
            return False

    def contradicted(self, data: DataRef) -> str | None:
        """Return how a reference to some of its images cannot be one, in one line; ``None`` where it can.

        Of another size or in other colors they may be, for a configuration may resize them.
        """
        total = self.splits.get(data.split)
        if total is None or data.n > total:
            return f"{data.name} has {total or 0:,} {data.split} images, and {data.n:,} of them are named"
        if data.num_classes != self.num_classes:
            return f"{data.name} has {self.num_classes:,} classes, and {data.num_classes:,} are named"
        is_resized = self.uneven or data.image_shape[1:] != self.image_shape[1:] or data.preprocessing is not None
        if data.interpolation != "bilinear" and not is_resized:
            return f"{data.name} has images of that size, and they are said to be resized ({data.interpolation})"
        return None


class Search(NamedTuple):
    """``location`` is the folder of the set, or ``None``; ``looked`` names every folder that was searched."""

    location: DatasetLocation | None
    looked: tuple[str, ...]


def _sets(*sets: NamedSet) -> Mapping[str, NamedSet]:
    return MappingProxyType({entry.name: entry for entry in sets})


NAMED = _sets(
    NamedSet(
        "digits",
        "Handwritten digits 8x8 in grey, 1,797 images that come with scikit-learn (Alpaydin and Kaynak, 1998).",
        10,
        (1, 8, 8),
        {"train": 1297, "test": 500},
    ),
    NamedSet(
        "cifar10",
        "CIFAR-10: 60,000 photographs 32x32 of 10 kinds of things (Krizhevsky, 2009).",
        10,
        (3, 32, 32),
        {"train": 50_000, "test": 10_000},
        "cifar-10-batches-py/",
        "CIFAR10",
    ),
    NamedSet(
        "cifar100",
        "CIFAR-100: 60,000 photographs 32x32 of 100 kinds of things, fine labels (Krizhevsky, 2009).",
        100,
        (3, 32, 32),
        {"train": 50_000, "test": 10_000},
        "cifar-100-python/",
        "CIFAR100",
    ),
    NamedSet(
        "svhn",
        "SVHN: 99,289 house-number digits 32x32, without the extra split (Netzer et al., 2011).",
        10,
        (3, 32, 32),
        {"train": 73_257, "test": 26_032},
        "train_32x32.mat and test_32x32.mat",
        "SVHN",
    ),
    NamedSet(
        "tiny_imagenet",
        "Tiny-ImageNet: 110,000 photographs 64x64 of 200 kinds; its val split is the test split (Le and Yang, 2015).",
        200,
        (3, 64, 64),
        {"train": 100_000, "test": 10_000},
        "tiny-imagenet-200/",
    ),
    NamedSet(
        "caltech101",
        "Caltech-101: 8,677 photographs of 101 kinds at 300x200; a fixed fifth for the test (Fei-Fei et al., 2004).",
        101,
        (3, 200, 300),
        {"train": 6_942, "test": 1_735},
        "101_ObjectCategories/",
        "Caltech101",
        uneven=True,
    ),
    NamedSet(
        "cifar10-c",
        "CIFAR-10-C: CIFAR-10's test images under 15 corruptions at 5 severities (Hendrycks and Dietterich, 2019); one "
        "of these 75 is cifar10-c:fog:3.",
        10,
        (3, 32, 32),
        {"train": 50_000, "test": 750_000},
        conditions=corrupted.EVERY,
        trains_on="cifar10",
    ),
    NamedSet(
        "cifar100-c",
        "CIFAR-100-C: the same of CIFAR-100, fine labels; parts as of cifar10-c.",
        100,
        (3, 32, 32),
        {"train": 50_000, "test": 750_000},
        conditions=corrupted.EVERY,
        trains_on="cifar100",
    ),
    NamedSet(
        "imagenet-c",
        "ImageNet-C: the same of ImageNet's validation images at 224x224, 1,000 kinds; parts as of cifar10-c.",
        1000,
        (3, 224, 224),
        {"test": 3_750_000},
        conditions=corrupted.EVERY,
    ),
)


def named_set(name: str) -> NamedSet | None:
    """Return the set of a name, of common corruptions the part that the name chooses; ``None`` where it names none.

    Raises:
        UsageError: a set of common corruptions has no such part.
    """
    stem, colon, _ = name.partition(":")
    entry = NAMED.get(stem)
    if entry is None or not colon:
        return entry
    if entry.conditions is None:
        return None
    each = entry.splits["test"] // entry.conditions.total
    chosen = corrupted.conditions(name)
    return replace(entry, name=name, splits={**entry.splits, "test": each * chosen.total}, conditions=chosen)


def search(entry: NamedSet, folder: Path | None) -> Search:
    """Look for a set in ``folder``, then ``$CROSSFIRE_DATA``, then the user's cache.

    The first folder that holds any split of it is the one, so that train and test never come from two places. Only the
    training images of common corruptions do: they are those of another set.

    Raises:
        UsageError: ``folder`` does not exist.
    """
    if folder is not None and not os.path.isdir(folder):
        raise UsageError(f"the data folder {folder} does not exist")
    looked = []
    for root, given_by in _roots(folder):
        looked.append(f"{root} ({given_by})" if os.path.isdir(root) else f"{root} ({given_by}; no such folder)")
        if location := _found(entry, root):
            return Search(_with_training(location, entry, folder), tuple(looked))
    return Search(None, tuple(looked))


def _found(entry: NamedSet, root: Path) -> DatasetLocation | None:
    if entry.conditions is not None:
        return corrupted.find(root, entry.name, entry.num_classes)
    own = root / entry.name
    location = parquet.find(own, entry.num_classes)
    for parent in (own, root):
        location = location or official.FIND[entry.name](parent)
    return location or folders.find(own)


def _with_training(location: DatasetLocation, entry: NamedSet, folder: Path | None) -> DatasetLocation:
    """Return a set with the training images and the names of classes of the set that it trains on, if that is here."""
    trained = search(NAMED[entry.trains_on], folder).location if entry.trains_on else None
    if trained is None or "train" not in trained.splits:
        return location

    def source(split: Split) -> Source:
        training = trained.source("train")
        return training if split == "train" else replace(location.source(split), class_names=training.class_names)

    return replace(location, splits=location.splits | {"train"}, source=source)


def _roots(folder: Path | None) -> Iterator[tuple[Path, str]]:
    if folder is not None:
        yield folder, "--data"
    if variable := os.environ.get("CROSSFIRE_DATA"):
        yield Path(variable), "$CROSSFIRE_DATA"
    with suppress(UsageError):  # There is no home folder: nothing was ever kept.
        yield cache_folder() / "data", "the cache"


def locate(entry: NamedSet, folder: Path | None) -> DatasetLocation:
    """Return the folder of a set; it is downloaded into the cache if it is nowhere.

    ``CROSSFIRE_OFFLINE=1`` forbids downloads.

    Raises:
        UsageError: it is nowhere and cannot be downloaded; the line says what was searched for and where.
    """
    search_result = search(entry, folder)
    if search_result.location is not None:
        return search_result.location
    if entry.conditions is not None:
        release = corrupted.RELEASES[entry.name.partition(":")[0]]
        raise UsageError(
            f"dataset {entry.name} not found: no {release.folder}/ in {', '.join(search_result.looked)}; fetch it from "
            f"{release.address} and name the folder that it is in with --data"
        )
    failure = _download(entry)
    if failure is None:
        search_result = search(entry, folder)
        if search_result.location is not None:
            return search_result.location
        failure = "the download held none of these files"
    name = entry.name
    raise UsageError(
        f"dataset {name} not found: no {name}/{{train,test,val}}*.parquet, no {entry.files} and no "
        f"{name}/<split>/<class>/ in {', '.join(search_result.looked)}; download: {failure}; "
        "put one there or name its folder with --data"
    )


def _download(entry: NamedSet) -> str | None:
    """Fetch a set with torchvision; return why not where that fails."""
    if os.environ.get("CROSSFIRE_OFFLINE", "0") not in ("", "0"):
        return "forbidden by CROSSFIRE_OFFLINE"
    if entry.torchvision is None:
        return "torchvision does not offer it"
    target = cache_folder() / "data" / entry.name
    beside = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        make_folders(beside)
        with _connect_timeout():
            kept = _fetch(entry.torchvision, beside)
        kept.rename(target)
    except Exception as error:  # for any error the message says where else the set may come from
        return f"failed ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return None


def _fetch(dataset: str, folder: Path) -> Path:
    """Download and unpack a set.

    Raises:
        ValueError: a file is not the published one; nothing of it was unpacked then.
    """
    from torchvision import datasets
    from torchvision.datasets.utils import download_url

    kept = folder / "caltech101" if dataset == "Caltech101" else folder
    for url, sha256 in _PUBLISHED[dataset]:
        file = kept / url.rpartition("/")[2]
        download_url(url, str(kept), file.name)
        with file.open("rb") as opened:
            actual = hashlib.file_digest(opened, "sha256").hexdigest()
        if actual != sha256:
            raise ValueError(f"{file.name} has SHA-256 {actual[:16]}..., published is {sha256[:16]}...")
    # torchvision fetches nothing that is there, so it unpacks what was just checked.
    if dataset == "Caltech101":
        datasets.Caltech101(folder, download=True)
        return kept
    for split in ("train", "test"):
        which = {"split": split} if dataset == "SVHN" else {"train": split == "train"}
        getattr(datasets, dataset)(folder, download=True, **which)
    return folder


@contextmanager
def _connect_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_CONNECT_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
