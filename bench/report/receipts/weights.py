"""The identity of trained weights: a hash of the tensors, whatever file they lie in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.keys import canonical_json, sha256_hex
from bench.report.sets.kept import NotKept
from bench.store import cards, files
from bench.store.working_store import Store
from bench.types import UsageError, first_line

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
    # Loaded here: torch is not needed to read a receipt.
    from safetensors.torch import load, save

    from bench.report.weights.parts import halved

    with _kept(store, key, name) as path:
        return _of_data([(path, save(halved(load(_read(path))).tensors))])


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
