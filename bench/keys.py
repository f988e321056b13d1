"""Names made of content: the same question has the same key on every machine, and another question has another."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from bench.types import (
    AttackRef,
    Cell,
    DataRef,
    Earlier,
    MethodRef,
    ModelRef,
    TrainRef,
    WeightsRef,
    jsonable,
)

# Part of every key: raise it when the way of measuring changes, so that old numbers are never mixed with new ones.
EVALUATION_VERSION = 2
TRAINING_VERSION = 2
#: How often a random defense is called; an image is right if most answers are.
DRAWS = 5

Part = TypeVar("Part")
Value = TypeVar("Value")

_SURROGATE = re.compile("[\ud800-\udfff]")

# Images and weights are identified by their hashes: their location and the order of their classes are not in a key.
_NAME = {"name": True, "classes": True}
_FILE = {"file": True}
_WEIGHTS = {"name": True, "data": _NAME}
_MODEL = {"weights": _WEIGHTS}
_STEP = {**_FILE, "score": _MODEL}
_ATTACK = {"data": _NAME, "model": _MODEL, "step": _STEP, "attack": _FILE, "after": {"__all__": {"attack": _FILE}}}
_NAMES: dict[type[BaseModel], dict[str, Any]] = {
    DataRef: _NAME,
    WeightsRef: _NAME,
    TrainRef: {"data": _NAME},
    ModelRef: _MODEL,
    MethodRef: _STEP,
    Earlier: {"attack": _FILE},
    AttackRef: _ATTACK,
    Cell: {"data": _NAME, "model": _MODEL, "step": _STEP, "attack": _ATTACK},
}


def _without(method: dict[str, Any], use: dict[str, Any] | None = None) -> dict[type[BaseModel], dict[str, Any]]:
    """Return what to leave out where of every method ``method`` is left out, and all that keys leave out.

    ``use`` is left out of how an attack is used.
    """
    use = use or {}
    method = {**method, "members": {"__all__": method}}
    recipe = {"recipe": method, "chosen_by": method}
    model = {"network": method, "weights": {**_WEIGHTS, **recipe}}
    step = {**method, "score": model}
    earlier = {"attack": method, **use}
    attack = {"data": _NAME, "model": model, "step": step, "attack": method, "after": {"__all__": earlier}, **use}
    cell = {"data": _NAME, "model": model, "step": step, "attack": attack}
    return {DataRef: _NAME, ModelRef: model, MethodRef: step, Earlier: earlier, AttackRef: attack, Cell: cell}


_NAMES_AND_CODE = _without({"code_sha": True, "file": True})
# Excludes a method's name and file location too: a renamed method gets the same random numbers as before. So does one
# that may take other passes, or takes them in another precision: what it does within them is the same.
_ALL_BUT_NUMBERS = _without(
    {"code_sha": True, "file": True, "name": True}, {"max_passes": True, "craft_precision": True}
)


# Kept, since ``json.dumps`` would make one for each of many short texts.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> str:
    """Return the one JSON text of ``value``: sorted keys, no blanks, NaN refused.

    Half a surrogate pair, such as the name of a file holds that is no UTF-8, is written as JSON's escape for it.
    """
    text = _CANONICAL.encode(value)
    return text if text.isascii() else _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def sha256_hex(*parts: str | bytes) -> str:
    """Return the SHA-256 of the parts, each preceded by its length so that no two lists collide."""
    return _sha256_of([[_encoded(part) if isinstance(part, str) else part] for part in parts])


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _sha256_of(parts: Iterable[Sequence[bytes]]) -> str:
    """Return :func:`sha256_hex` of parts that are given in pieces."""
    digest = hashlib.sha256()
    for pieces in parts:
        digest.update(sum(map(len, pieces)).to_bytes(8, "big"))
        for piece in pieces:
            digest.update(piece)
    return digest.hexdigest()


def key_of(value: Any, *, version: int) -> str:
    """Return the key (64 hexadecimal digits) of a JSON value under a protocol version."""
    return sha256_hex(str(version), canonical_json(value))


def identity(value: BaseModel) -> dict[str, Any]:
    """Return the content of the key of a cell, or a part of one: all except the location of images and weights."""
    return value.model_dump(mode="json", by_alias=True, exclude=_NAMES.get(type(value)))


def comparison_key(value: Cell | AttackRef) -> str:
    """Return the question of a cell or an adversarial set, without the code of its methods, as canonical JSON.

    It does not change with edits of an attack, a recipe or a network, or with the location of images and weights.
    """
    return Keys().comparison_key(value)


def seed_of(value: Cell | AttackRef) -> str:
    """Return the word (64 hexadecimal digits) from which every random draw of a cell or adversarial set derives.

    It depends on images, weights, parameters, threat and seed, not on the code or name of a method, so two commits
    get the same random numbers.
    """
    body = value.model_dump(mode="json", by_alias=True, exclude=_ALL_BUT_NUMBERS[type(value)])
    return sha256_hex(canonical_json(body))


def training_key(model: ModelRef) -> str:
    """Return the key of the weights of a base classifier."""
    return key_of(identity(model), version=TRAINING_VERSION)


def version_of(key: str, cell: Cell, keys: Keys | None = None) -> int | None:
    """Return the version of the evaluation protocol that the key of a cell was made with; ``None`` if with none.

    Args:
        key: that of a result.
        cell: that of the same result.
        keys: computes the keys, if many are needed.
    """
    if (keys or Keys()).of(cell) == key:
        return EVALUATION_VERSION
    # The first protocol named images and weights in its keys.
    return 1 if key_of(jsonable(cell), version=1) == key else None


def cell_key(cell: Cell) -> str:
    """Return the key of a cell, under which its result is stored."""
    return Keys().of(cell)


def attack_key(attack: AttackRef) -> str:
    """Return the key of an adversarial set, under which its images are stored."""
    return Keys().of(attack)


def clean_cell(cell: Cell) -> Cell:
    """Return the clean evaluation of a cell's defense on its images."""
    return cell.model_copy(update={"attack": None, "access": "white-box" if cell.step is None else "static"})


def models_of(cell: Cell) -> list[ModelRef]:
    """Return the base classifier of a cell, under attack the one that is attacked, and the scores of their steps."""
    attack = cell.attack
    models = [cell.model] if attack is None else [cell.model, attack.model]
    steps = (cell.step, None if attack is None else attack.step)
    scores = [step.score for step in steps if step is not None and step.score is not None]
    return [*models, *scores]


def derive_seed(*seed_parts: str | int) -> int:
    """Return a seed in [0, 2**63) that depends on every part and on nothing else."""
    return int(sha256_hex(*(str(part) for part in seed_parts))[:16], 16) >> 1


class Once(Generic[Part, Value]):
    """A function of parts of many cells that is called once for each object.

    Equal parts of one plan, or of one store, mostly are one object.
    """

    def __init__(self, make: Callable[[Part], Value]) -> None:
        self._make = make
        # By identity: to hash a part takes as long as to write it. It is kept, so that its number is not used again.
        self._values: dict[int, tuple[Part, Value]] = {}

    def __call__(self, part: Part) -> Value:
        known = self._values.get(id(part))
        if known is None:
            known = self._values[id(part)] = part, self._make(part)
        return known[1]


class Keys:
    """Makes the keys of many cells: what they share is written out once."""

    def __init__(self) -> None:
        self._identities = Once[BaseModel, str](lambda part: canonical_json(identity(part)))
        self._comparable = Once[BaseModel, str](
            lambda part: canonical_json(part.model_dump(mode="json", exclude=_NAMES_AND_CODE.get(type(part))))
        )

    def of(self, value: Cell | AttackRef) -> str:
        """Return what :func:`key_of` returns for the :func:`identity` of a cell or an adversarial set."""
        return _sha256_of([[str(EVALUATION_VERSION).encode()], _pieces(value, self._identities)])

    def text(self, value: Any) -> str:
        """Return the canonical JSON of a part of a cell."""
        return _text(value, self._identities)

    def comparison_key(self, value: Cell | AttackRef) -> str:
        """Return what :func:`comparison_key` returns."""
        return _text(value, self._comparable)


def _text(value: Any, written: Once[BaseModel, str]) -> str:
    if isinstance(value, Cell | AttackRef):
        return b"".join(_pieces(value, written)).decode(errors="surrogatepass")
    return _part(value, written)


def _pieces(value: Cell | AttackRef, written: Once[BaseModel, str]) -> list[bytes]:
    """Return the canonical JSON in pieces: of a long suite most is in one, which is not copied."""
    if isinstance(value, AttackRef):
        given = [name for name in _ATTACK_FIELDS if getattr(value, name) != _OPTIONAL.get(name, _ALWAYS)]
        rest = ",".join([f'"{name}":{_part(getattr(value, name), written)}' for name in given]) + "}"
        if not value.after:
            return [_encoded(f"{{{rest}")]
        after = ",".join([_part(each, written) for each in value.after])
        return [b'{"after":[', _encoded(after), _encoded(f"],{rest}")]
    attack = [b"null"] if value.attack is None else _pieces(value.attack, written)
    rest = ",".join([f'"{name}":{_part(getattr(value, name), written)}' for name in _CELL_FIELDS])
    return [f'{{"access":"{value.access}","attack":'.encode(), *attack, _encoded(f",{rest}}}")]


def _part(value: BaseModel | str | int | None, written: Once[BaseModel, str]) -> str:
    if isinstance(value, BaseModel):
        return written(value)
    if value is None:
        return "null"
    return str(value) if type(value) is int else canonical_json(value)


# In the order of canonical JSON. The preceding keys are written out where these are used.
_ATTACK_FIELDS = sorted(AttackRef.model_fields.keys() - {"after"})
#: Those that are left out where they have their default, with it.
_OPTIONAL = {"craft_precision": "auto", "max_passes": None, "target": None}
#: Equal to no value of a field.
_ALWAYS = object()
_CELL_FIELDS = sorted(Cell.model_fields.keys() - {"access", "attack"})
