"""The identity of trained weights: a hash of the tensors, whatever file they lie in."""

from __future__ import annotations

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
    folder = store.training(key)
    card = cards.read(folder, key)
    path = folder / "weights.safetensors"
    try:
        if card is None or files.file_sha256(path) != card["weights_sha256"]:
            raise NotKept(f"{name}: the weights of its training {key[:12]} are not in the store, or not whole")
        return of_files([path])
    except FileNotFoundError:
        raise NotKept(f"{name}: the weights of its training {key[:12]} are not in the store any more") from None


def of_files(paths: list[Path]) -> str:
    """Return the SHA-256 of all tensors in files of safetensors: sorted by name, with type, shape and bytes.

    Raises:
        UsageError: a file is no such file.
    """
    from safetensors import SafetensorError, deserialize

    tensors: dict[str, tuple[str, bytes]] = {}
    for path in paths:
        try:
            for name, tensor in deserialize(files.read(path, _LARGEST)):  # type: ignore[no-untyped-call]
                tensors[name] = canonical_json([tensor["dtype"], list(tensor["shape"])]), bytes(tensor["data"])
        except (SafetensorError, files.Unreadable) as error:
            raise UsageError(f"{path} is no readable weights file: {first_line(error)}") from None
    parts: list[str | bytes] = []
    for name in sorted(tensors):
        parts += [name, *tensors[name]]
    return sha256_hex(*parts)
