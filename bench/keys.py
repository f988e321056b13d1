"""Names made of content: the same question has the same key on every machine, and another question has another."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel

from bench.types import AttackRef, Cell, jsonable

# Part of every key: raise it when the way of measuring changes, so that old numbers are never mixed with new ones.
EVALUATION_VERSION = 1
TRAINING_VERSION = 1


def canonical_json(value: Any) -> str:
    """Return the one JSON text of ``value``: sorted keys, no blanks, NaN refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_hex(*parts: str | bytes) -> str:
    """Return the SHA-256 of the parts, each preceded by its length so that no two lists collide."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def key_of(value: Any, *, version: int) -> str:
    """Return the key (64 hexadecimal digits) of a JSON value under a protocol version."""
    return sha256_hex(str(version), canonical_json(value))


def derive_seed(*words: str | int) -> int:
    """Return a seed in [0, 2**63) that depends on every word and on nothing else."""
    return int(sha256_hex(*(str(word) for word in words))[:16], 16) >> 1


def pack_bits(outcomes: Iterable[bool]) -> str:
    """Return the outcomes as base64 text, first outcome in the highest bit, padded with zeros."""
    bits = "".join("1" if outcome else "0" for outcome in outcomes)
    padded = bits.ljust(-(-len(bits) // 8) * 8, "0")
    return base64.b64encode(bytes(int(padded[i : i + 8], 2) for i in range(0, len(padded), 8))).decode()


def unpack_bits(text: str, n: int) -> Sequence[bool]:
    """Return the first ``n`` outcomes of :func:`pack_bits`.

    Raises:
        ValueError: the text does not hold ``n`` outcomes.
    """
    data = base64.b64decode(text, validate=True)
    if len(data) != -(-n // 8):
        raise ValueError(f"{len(data)} bytes cannot hold exactly {n} outcomes")
    bits = "".join(f"{byte:08b}" for byte in data)
    return [bit == "1" for bit in bits[:n]]


class Keys:
    """Makes the keys of many cells: what they share is written out once."""

    def __init__(self) -> None:
        # By identity: equal parts of one plan mostly are one object. It is kept, so that its number is not used again.
        self._parts: dict[int, tuple[BaseModel, str]] = {}
        self._words: dict[str | int | None, str] = {}

    def of(self, value: Cell | AttackRef) -> str:
        """Return what ``key_of(jsonable(value))`` returns."""
        return sha256_hex(str(EVALUATION_VERSION), self.text(value))

    def text(self, value: Any) -> str:
        """Return the canonical JSON of a part of a cell."""
        if isinstance(value, Cell | AttackRef):
            given = {name: getattr(value, name) for name in _FIELDS[type(value)]}
            return "{" + ",".join([f'"{name}":{self.text(part)}' for name, part in given.items() if part != ()]) + "}"
        if isinstance(value, tuple):
            return "[" + ",".join(map(self.text, value)) + "]"
        if not isinstance(value, BaseModel):
            if value not in self._words:
                self._words[value] = canonical_json(value)
            return self._words[value]
        if id(value) not in self._parts:
            self._parts[id(value)] = value, canonical_json(jsonable(value))
        return self._parts[id(value)][1]


_FIELDS = {kind: sorted(kind.model_fields) for kind in (Cell, AttackRef)}
