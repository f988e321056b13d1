"""From the adversarial set of a cell in a store to its receipt."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterable
from typing import BinaryIO

import numpy as np

from bench.keys import EVALUATION_VERSION, models_of, training_key
from bench.registry import live_names
from bench.report.receipts import form, weights
from bench.report.receipts.form import Claims, Member
from bench.report.receipts.redacted import foreign, redacted
from bench.report.sets.kept import AdversarialSet, Array, NotKept
from bench.store.records import read_columns
from bench.store.working_store import Store
from bench.types import CellResult, TrainRef, UsageError

#: The first moment that a zip archive can state: that of writing would make each file another.
_NO_TIME = (1980, 1, 1, 0, 0, 0)
_SHARES = {"clean_share": "f", "adversarial_share": "f"}


def write(adversarial: AdversarialSet, store: Store, by: str | None, file: BinaryIO) -> str:
    """Write the receipt of a cell to a file that can seek, and return its name: the SHA-256 of its claims.

    Args:
        adversarial: the set of the cell.
        store: that holds it, with the weights of its networks.
        by: who measured it.
        file: that it is written to.

    Raises:
        NotKept: images, predictions or weights have gone or are damaged.
        Outdated: it was measured by an older protocol.
        UsageError: it is larger than what is read.
    """
    if live := live_names(adversarial.result.cell):
        raise UsageError(f"{adversarial.result.names}: nobody can measure again what was handed over as {live[0]}")
    result = redacted(adversarial.result)
    trained, halved = _trained(store, result, weights.of_training), _trained(store, result, weights.of_halved)
    arrays = _arrays(adversarial, store)
    members = {name: member for name, member in form.members(result).items() if name in arrays}
    if (size := sum(member.size for member in members.values())) > form.MAX_BYTES:
        raise UsageError(
            f"{result.names}: its receipt would have {size:,} bytes, and at most {form.MAX_BYTES:,} are read"
        )
    hashes: dict[str, str] = {}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            hashes[name] = _write_array(archive, name, member, arrays[name])
        claims = Claims(
            result=result, evaluation=EVALUATION_VERSION, by=by, trained=trained, halved=halved, sha256=hashes
        )
        archive.writestr(_info(form.CLAIMS), claims.text)
    return hashlib.sha256(claims.text).hexdigest()


def remarks(result: CellResult) -> list[str]:
    """Return what must be said of the receipt of a result to the one who gives it away."""
    names = ", ".join(f"'{name}'" for name in foreign(result.cell))
    return [f"it names {names}, as its key does; whoever verifies it needs the same"] if names else []


def _trained(store: Store, result: CellResult, hashed: Callable[[Store, str, str], str]) -> dict[str, str]:
    models = {training_key(model): model for model in models_of(result.cell) if isinstance(model.weights, TrainRef)}
    return {key: hashed(store, key, str(result.names)) for key in models}


def _arrays(adversarial: AdversarialSet, store: Store) -> dict[str, Iterable[Array]]:
    """Return the arrays by name, each in pieces."""
    result, answers = adversarial.result, adversarial.predictions
    if answers is None:
        raise NotKept(f"{result.names}: its records are not in the store any more; delete its cell and run it again")
    arrays: dict[str, Iterable[Array]] = {
        form.ADVERSARIAL: (part.adversarial for part in adversarial.parts()),
        form.CLEAN: (part.clean for part in adversarial.parts()),
        form.LABELS: [adversarial.labels],
        form.ROWS: [np.asarray(adversarial.rows)],
        form.CLEAN_ANSWERS: [answers.clean],
        form.ADVERSARIAL_ANSWERS: [answers.adversarial],
    }
    if form.CLEAN_SHARES in form.members(result):
        shares = read_columns(store.records(result.key), result.cell.data.n, _SHARES)
        arrays[form.CLEAN_SHARES] = [shares["clean_share"]]
        arrays[form.ADVERSARIAL_SHARES] = [shares["adversarial_share"]]
    if (targets := adversarial.targets) is not None:
        arrays[form.TARGETS] = [targets]
    return arrays


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _NO_TIME)
    # As on Unix, wherever it is written.
    info.create_system = 3
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def _write_array(archive: zipfile.ZipFile, name: str, member: Member, pieces: Iterable[Array]) -> str:
    """Write an array in pieces, and return the SHA-256 of its file."""
    digest = hashlib.sha256()
    with archive.open(_info(f"{name}.npy"), "w") as entry:
        for data in _encoded(member, pieces):
            digest.update(data)
            entry.write(data)
    return digest.hexdigest()


def _encoded(member: Member, pieces: Iterable[Array]) -> Iterable[bytes]:
    yield member.head
    for piece in pieces:
        yield np.ascontiguousarray(piece, dtype=np.dtype(member.dtype)).tobytes()
