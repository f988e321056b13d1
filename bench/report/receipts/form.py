"""What is in a receipt: a ZIP file of ``receipt.json`` and arrays of NumPy, each known by its SHA-256.

``receipt.json`` is canonical JSON (:func:`bench.keys.canonical_json`), so equal claims are equal bytes, and its SHA-256
is the name of the receipt. It states the SHA-256 of every array, so that the name stands for all of the file whatever
it is packed with. There is no code in it, and nothing is pickled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from bench.keys import canonical_json, models_of, training_key
from bench.types import Cell, CellResult, Frozen, Key, MethodRef, ShownWord, TrainRef, jsonable

#: What ``receipt.json`` says that it is, and its version.
FORMAT = "crossfire-receipt"
SCHEMA = 1
ENDING = ".receipt"
CLAIMS = "receipt.json"
#: Bytes of all arrays together, and of the file.
MAX_BYTES = 2**30
MAX_RECEIPT_IMAGES = 1_000_000
#: Bytes of ``receipt.json``.
MAX_CLAIMS = 24 * 10**6
_MAX_NETWORKS = 10


class Member(NamedTuple):
    """An array of a receipt: its type, as NumPy writes it, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def head(self) -> bytes:
        """The beginning of its file, which is always the same bytes: that of version 1.0 of NumPy's format."""
        text = f"{{'descr': '{self.dtype}', 'fortran_order': False, 'shape': {self.shape}, }}"
        text += " " * (-(len(text) + 11) % 64) + "\n"
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()

    @property
    def size(self) -> int:
        """Bytes of its file."""
        return len(self.head) + int(self.dtype[2:]) * math.prod(self.shape)


class Claims(Frozen):
    """What a receipt says of its cell.

    Attributes:
        result: of the cell, as a store keeps it, without what names a machine or a folder of it.
        evaluation: version of the protocol that measured it.
        by: who measured it, in their own words.
        trained: SHA-256 of the tensors of each network that was trained for it, by the key of the training. Weights of
            a file are in the cell, by the SHA-256 of the file.
        halved: the same of these tensors as ``export weights --half`` writes them.
        sha256: of the file of each array, by its name.
    """

    format: Literal["crossfire-receipt"] = "crossfire-receipt"
    schema_: Literal[1] = Field(1, alias="schema")
    result: CellResult
    evaluation: int = Field(ge=1, le=1_000_000)
    by: ShownWord | None = None
    trained: dict[Key, Key] = Field({}, max_length=_MAX_NETWORKS)
    halved: dict[Key, Key] = Field({}, max_length=_MAX_NETWORKS, exclude_if=lambda halved: not halved)
    sha256: Annotated[dict[ShownWord, Key], Field(max_length=20)]

    @model_validator(mode="after")
    def _complete(self) -> Claims:
        result = self.result
        if self.by is not None and not self.by.strip():
            raise ValueError("by is empty; a receipt that names nobody says null")
        if result.status != "done" or result.metrics is None or result.cell.attack is None:
            raise ValueError("a receipt is of an attacked cell that is done")
        if result.cell.data.n > MAX_RECEIPT_IMAGES:
            raise ValueError(f"it is of {result.cell.data.n:,} images, and at most {MAX_RECEIPT_IMAGES:,} are read")
        if result.clean_bits is None or result.adversarial_bits is None or result.cost is None:
            raise ValueError("its result lacks outcomes or a cost")
        known = members(result)
        names = set(known)
        attack = result.cell.attack
        is_suite = bool(attack.after)
        needed = {name for name in names if name != TARGETS or not is_suite}
        if not needed <= set(self.sha256) <= names:
            raise ValueError(f"its arrays are not {', '.join(sorted(needed))}")
        if (size := sum(known[name].size for name in self.sha256)) > MAX_BYTES:
            raise ValueError(f"its arrays have {size:,} bytes, and at most {MAX_BYTES:,} are read")
        return self

    @property
    def arrays(self) -> dict[str, Member]:
        """Its arrays by name, in the order of the file."""
        return {name: member for name, member in members(self.result).items() if name in self.sha256}

    @property
    def text(self) -> bytes:
        """``receipt.json``."""
        return canonical_json(jsonable(self)).encode() + b"\n"


#: Names of arrays.
ADVERSARIAL, CLEAN = "adversarial", "clean"
LABELS, ROWS = "labels", "rows"
CLEAN_ANSWERS, ADVERSARIAL_ANSWERS = "predictions_clean", "predictions_adversarial"
#: Of a random defense, the share of its draws on which an image holds.
CLEAN_SHARES, ADVERSARIAL_SHARES = "shares_clean", "shares_adversarial"
#: Of a targeted attack, the class that each image was to be given, -1 where any wrong one would do.
TARGETS = "targets"


def members(result: CellResult) -> dict[str, Member]:
    """Return the arrays that a receipt of a cell has, by name; ``targets`` may be missing.

    ``adversarial`` are float32 (n, C, H, W) in [0, 1], to the bit what the defense was given; ``clean`` uint8
    (n, C, H, W); all others (n,).
    """
    n = result.cell.data.n
    images, numbers = (n, *result.cell.data.image_shape), Member("<i8", (n,))
    arrays = {ADVERSARIAL: Member("<f4", images), CLEAN: Member("|u1", images)}
    arrays |= dict.fromkeys((LABELS, ROWS, CLEAN_ANSWERS, ADVERSARIAL_ANSWERS), numbers)
    if result.metrics is not None and result.metrics.robust_mean is not None:
        arrays |= dict.fromkeys((CLEAN_SHARES, ADVERSARIAL_SHARES), Member("<f4", (n,)))
    attack = result.cell.attack
    if attack is not None and (attack.target is not None or any(each.target is not None for each in attack.after)):
        arrays[TARGETS] = numbers
    return arrays


def methods_of(cell: Cell) -> Iterator[MethodRef]:
    """Yield all methods that decided what an attacked cell gave: networks, recipes, step and attacks."""
    assert cell.attack is not None
    for model in {training_key(each): each for each in models_of(cell)}.values():
        yield from model.network.members or (model.network,)
        if isinstance(model.weights, TrainRef):
            yield model.weights.recipe
    if cell.step is not None:
        yield cell.step
    yield cell.attack.attack
    yield from (each.attack for each in cell.attack.after)
