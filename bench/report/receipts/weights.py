"""The identity of trained weights: a hash of the tensors, whatever file they lie in; each is computed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.keys import canonical_json, sha256_hex
from bench.report.sets.kept import NotKept
from bench.store import cards, files
from bench.store.working_store import Store
from bench.types import ModelRef, UsageError, WeightsRef, first_line

if TYPE_CHECKING:
    from torch import Tensor

#: Bytes of the largest file of weights that is read whole.
_LARGEST = 2**36


def of_training(store: Store, key: str, name: str) -> str:
    """Return the hash of the weights of a training.

    Args:
        store: that holds it.
        key: of the training.
        name: of the cell that needs it, for messages.

    Raises:
        NotKept: they are not in the store, or not those that were written.
    """
    with _kept(store, key, name) as path:
        return of_files([path])


def of_halved(store: Store, key: str, name: str) -> str:
    """Return the hash of the weights of a training as ``export weights --half`` writes them.

    Args:
        store: as for :func:`of_training`.
        key: the same.
        name: the same.

    Raises:
        NotKept: as there.
    """
    with _kept(store, key, name) as path:
        return _of_halved([path])


def _of_halved(paths: list[Path]) -> str:
    """Return the hash that the tensors in some files have as float16.

    Raises:
        UsageError: a file is no file of safetensors.
    """
    # Loaded here: torch is not needed to read a receipt.
    from safetensors import SafetensorError
    from safetensors.torch import load, save

    from bench.report.weights.parts import halved

    tensors: dict[str, Tensor] = {}
    for path in paths:
        try:
            tensors |= load(_read(path))
        except (SafetensorError, KeyError) as error:
            # The second where torch has no such type of numbers.
            raise UsageError(f"{path} is no readable weights file: {first_line(error)}") from None
    return _of_data([(paths[0], save(halved(tensors).tensors))])


class Hashes:
    """The hashes of files of weights, each computed when it is asked for first, and once."""

    def __init__(self) -> None:
        self._files: dict[Path, str] = {}
        self._tensors: dict[Path, str | None] = {}
        self._halved: dict[Path, str] = {}

    def of(self, path: Path, model: ModelRef) -> str | None:
        """Return the hash by which the weights of a network are known: of a file, or of trained tensors.

        ``None`` where the network was trained, and the file is none of safetensors.

        Raises:
            UsageError: the file, or a shard of it, is damaged, or not the one that is stated beside it.
        """
        return self.file(path) if isinstance(model.weights, WeightsRef) else self.tensors(path)

    def file(self, path: Path) -> str:
        """Return the SHA-256 of a file; of an index that of its shards."""
        from bench.models.checkpoints import files as checkpoints

        if path not in self._files:
            self._files[path] = checkpoints.sha256(path)
        return self._files[path]

    def tensors(self, path: Path) -> str | None:
        """Return the hash of all tensors in a file, or in the shards of an index; ``None`` of no safetensors."""
        if path not in self._tensors:
            # Whatever is stated beside it holds, too.
            self.file(path)
            files = _shards(path)
            is_safe = all(each.suffix.lower() == ".safetensors" for each in files)
            self._tensors[path] = of_files(files) if is_safe else None
        return self._tensors[path]

    def halved(self, path: Path) -> str:
        """Return the hash that the tensors in a file of safetensors have as float16.

        That of a file in half precision is its own: what ``export weights --half`` leaves as it was stays so again.
        """
        if path not in self._halved:
            self._halved[path] = _of_halved(_shards(path))
        return self._halved[path]


def _shards(path: Path) -> list[Path]:
    from bench.models.checkpoints import files as checkpoints

    return checkpoints.shards(path) if checkpoints.is_index(path) else [path]


@contextmanager
def _kept(store: Store, key: str, name: str) -> Iterator[Path]:
    """Yield the file of the weights of a training.

    Raises:
        NotKept: it is not in the store, or not as it was written.
    """
    folder = store.training(key)
    card = cards.read(folder, key)
    path = folder / "weights.safetensors"
    try:
        if card is None or files.file_sha256(path) != card["weights_sha256"]:
            raise NotKept(f"{name}: the weights of its training {key[:12]} are not in the store, or not whole")
        yield path
    except FileNotFoundError:
        raise NotKept(f"{name}: the weights of its training {key[:12]} are not in the store any more") from None


def of_files(paths: list[Path]) -> str:
    """Return the SHA-256 of all tensors in files of safetensors: sorted by name, with type, shape and bytes.

    Raises:
        UsageError: a file is no such file.
    """
    return _of_data((path, _read(path)) for path in paths)


def _read(path: Path) -> bytes:
    try:
        return files.read(path, _LARGEST)
    except files.Unreadable as error:
        raise UsageError(f"{path} is no readable weights file: {first_line(error)}") from None


def _of_data(read: Iterable[tuple[Path, bytes]]) -> str:
    from safetensors import SafetensorError, deserialize

    tensors: dict[str, tuple[str, bytes]] = {}
    for path, data in read:
        try:
            for name, tensor in deserialize(data):  # type: ignore[no-untyped-call]
                tensors[name] = canonical_json([tensor["dtype"], list(tensor["shape"])]), bytes(tensor["data"])
        except SafetensorError as error:
            raise UsageError(f"{path} is no readable weights file: {first_line(error)}") from None
    parts: list[str | bytes] = []
    for name in sorted(tensors):
        parts += [name, *tensors[name]]
    return sha256_hex(*parts)
