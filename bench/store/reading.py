"""Foreign bytes become checked types: a size limit, strict UTF-8, bounded JSON, then models with bounds.

A file that this process did not write may be cut short, altered, or forged with a right checksum. Every value that
leaves this module has its type, is within the bounds of ``bench/types.py``, and agrees with the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from bench.keys import sha256_hex
from bench.stats import wilson
from bench.store.consistent import ROUND_OFF, contradiction
from bench.types import (
    CellResult,
    DataRef,
    Earlier,
    MethodRef,
    ModelRef,
    PlannedCell,
    Provenance,
    Threat,
    Time,
    shortened,
)

#: Bytes of a file of recorded results; hosts of git repositories take no larger ones.
MAX_RUN_FILE = 95 * 2**20
#: Bytes of one result: the outcomes of the largest number of images, and the rest.
MAX_RESULT = 20 * 10**6
#: Bytes of any other document: a card, a plan.
MAX_DOCUMENT = 64 * 2**20

# A few bytes of nested lists take hundreds of bytes of memory.
_MAX_CONTAINERS = 100_000
_MAX_VALUES = 600_000
_MAX_ERRORS = 1_000

_SEAL = re.compile(rb'"schema":(?P<schema>\d{1,9})(?P<sha>,"sha256":"(?P<hash>[0-9a-f]{64})"),"status":')
#: A text, and the colon behind it if it is a key.
_TEXTS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"(:?)', re.DOTALL)
_UNDER_ATTACK = b'"accuracy_under_attack":'
_FOREIGN = {
    b"\x1f\x8b": "it is compressed",
    b"\xef\xbb\xbf": "it begins with a byte order mark",
    b"\xff\xfe": "it is UTF-16, not UTF-8",
    b"\xfe\xff": "it is UTF-16, not UTF-8",
}

_TIME = TypeAdapter[str](Time)
_ANY_TIME = "2000-01-01T00:00:00+00:00"
_CELL_PARTS: Mapping[str, type[BaseModel]] = {"data": DataRef, "model": ModelRef, "step": MethodRef}
_ATTACK_PARTS: Mapping[str, type[BaseModel]] = {**_CELL_PARTS, "attack": MethodRef, "threat": Threat}

Model = TypeVar("Model", bound=BaseModel)


def document(data: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is no JSON in UTF-8, or has NaN or infinities, more than 200 levels, or very many values.
    """
    # A shorter text cannot have that many values.
    if len(data) > _MAX_CONTAINERS and (
        data.count(b"[") + data.count(b"{") > _MAX_CONTAINERS or data.count(b",") > _MAX_VALUES
    ):
        raise ValueError("it has more values than anything that Crossfire writes")
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise ValueError(
            f"it is no JSON, or of too many levels: {error}".replace(" line 1 column ", " byte ")
        ) from None


def validated(model: type[Model], data: bytes, context: str | None = None) -> Model:
    """Return a JSON text as a model; no value is converted from another type.

    Args:
        model: that it is of.
        data: the text.
        context: for what it is read, as :data:`bench.types.AS_CLAIMS` is.

    Raises:
        ValueError: it does not match the model; one line says which value is wrong.
    """
    document(data)
    try:
        return model.model_validate_json(data, strict=True, context=context)
    except ValidationError as error:
        raise ValueError(first_of(error)) from None


def what_else(data: bytes) -> str:
    """Return ``; `` and what a foreign file seems to be; an empty text where that is not known."""
    return next((f"; {kind}" for start, kind in _FOREIGN.items() if data.startswith(start)), "")


def read_result(data: bytes | str, planned: PlannedCell | None = None, shared: SharedParts | None = None) -> CellResult:
    """Return the result in a line or file of JSON.

    Given its planned cell, the result takes that cell and its names and parses no copy of them, so the results of a
    plan share the parts that its cells have in common. Other results share the parts in ``shared``. A result from
    before the accuracy under attack was kept gets it, with its interval, from its outcomes; without outcomes it is
    ``None``.

    Raises:
        ValueError: it was cut short or altered since it was written, is of another schema, has an invalid value, or
            contradicts itself. One line.
    """
    text = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if len(text) > MAX_RESULT:
        raise ValueError(f"the result has {len(text):,} bytes, and at most {MAX_RESULT:,} are read")
    # The hash is of the canonical text without the hash itself, so it is checked before parsing.
    seal = _SEAL.search(text)
    body = (text[: seal.start("sha")] + text[seal.end("sha") :]).strip() if seal else b""
    if seal is None or seal["hash"].decode() != sha256_hex(body):
        raise ValueError("the result was cut short or altered since it was written")
    if int(seal["schema"]) != 1:
        raise ValueError(f"schema {int(seal['schema'])} is not one that this version reads (1)")
    content = document(body)
    if not isinstance(content, dict) or not _has_each_key_once(content, body):
        raise ValueError("the result is no object, or has a key twice")
    try:
        result = _result(content, body, planned, shared or SharedParts())
    except ValidationError as error:
        raise ValueError(first_of(error)) from None
    if (wrong := contradiction(result)) is not None:
        raise ValueError(wrong)
    return _with_interval(result)


def _result(content: dict[str, Any], body: bytes, planned: PlannedCell | None, shared: SharedParts) -> CellResult:
    metrics = content.get("metrics")
    if isinstance(metrics, dict) and _UNDER_ATTACK not in body:
        metrics |= dict.fromkeys(("accuracy_under_attack", "ci_low", "ci_high"))
        result = CellResult.model_validate_json(json.dumps(content), strict=True)
        return _with_accuracy_under_attack(result)
    try:
        return shared.result(content, planned)
    except ValidationError:
        # Validating the text gives the best message, with the location.
        return CellResult.model_validate_json(body, strict=True)


class SharedParts:
    """Parts that many results have in common: each is validated once and becomes one object in all of them."""

    def __init__(self) -> None:
        # By their JSON, in which 1, 1.0 and true are not the same.
        self._known: dict[tuple[type[BaseModel], bytes], BaseModel] = {}

    def result(self, content: Mapping[str, Any], planned: PlannedCell | None) -> CellResult:
        """Return a JSON object as a result, with the cell and the names of a planned cell where there is one.

        Raises:
            ValidationError: it does not match; the locations in the error are relative to the part.
        """
        lists = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
        cell = self._cell(content.get("cell")) if planned is None else planned.cell
        names = content.get("names") if planned is None else planned.names
        parts = {"cell": cell, "names": names, "provenance": self._provenance(content.get("provenance"))}
        return CellResult.model_validate({**content, **lists, **parts}, strict=True)

    def _cell(self, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        cell = self._with_parts(_CELL_PARTS, content)
        if isinstance(attack := content.get("attack"), dict):
            cell["attack"] = self._with_parts(_ATTACK_PARTS, attack)
            if isinstance(after := attack.get("after"), list):
                cell["attack"]["after"] = tuple(self._part(Earlier, each) for each in after)
        return cell

    def _with_parts(self, models: Mapping[str, type[BaseModel]], content: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._part(models[name], value) if name in models else value for name, value in content.items()}

    def _part(self, model: type[BaseModel], value: Any) -> Any:
        """Return a JSON object as a model, and any other value unchanged, for the model around it to check."""
        if not isinstance(value, dict):
            return value
        text = to_json(value)
        known = self._known.get((model, text))
        if known is None:
            known = self._known[model, text] = model.model_validate_json(text, strict=True)
        return known

    def _provenance(self, content: Any) -> Any:
        """Return the provenance of a result; results share all of it except the time."""
        if not isinstance(content, dict) or "finished" not in content:
            return content
        finished = _TIME.validate_python(content["finished"], strict=True)
        return self._part(Provenance, {**content, "finished": _ANY_TIME}).model_copy(update={"finished": finished})


def _with_accuracy_under_attack(result: CellResult) -> CellResult:
    """Return a result with the accuracy under attack of its outcomes, if it has them."""
    outcomes, metrics = result.outcomes_under_attack, result.metrics
    if outcomes is None or metrics is None:
        return result
    share, low, high = wilson(outcomes.count, outcomes.n)
    update = {"accuracy_under_attack": share, "ci_low": low, "ci_high": high}
    return result.model_copy(update={"metrics": metrics.model_copy(update=update)})


def _with_interval(result: CellResult) -> CellResult:
    """Return a result with the interval that follows from its accuracy."""
    metrics = result.metrics
    if metrics is None or metrics.accuracy_under_attack is None or metrics.ci_low is None or metrics.ci_high is None:
        return result
    _, low, high = wilson(round(metrics.accuracy_under_attack * metrics.n), metrics.n)
    if abs(metrics.ci_low - low) <= ROUND_OFF and abs(metrics.ci_high - high) <= ROUND_OFF:
        return result
    return result.model_copy(update={"metrics": metrics.model_copy(update={"ci_low": low, "ci_high": high})})


def _count_keys(value: dict[str, Any] | list[Any]) -> int:
    count, inner = (len(value), value.values()) if isinstance(value, dict) else (0, value)
    for each in inner:
        # Most values are neither, and a call for each would take longer than parsing.
        if type(each) is dict or type(each) is list:
            count += _count_keys(each)
    return count


def _has_each_key_once(content: dict[str, Any], body: bytes) -> bool:
    count = _count_keys(content)
    plain = body.replace(rb"\\", b"_").replace(rb"\"", b"_") if b"\\" in body else body
    # There are never fewer; more are either keys that came twice or texts that begin with a colon, which takes longer.
    return count == plain.count(b'":') or count == sum(map(bool, _TEXTS.findall(body)))


def first_of(error: ValidationError) -> str:
    """Return the first of the errors: which value, and what is wrong with it."""
    if (count := error.error_count()) > _MAX_ERRORS:
        # Building the list of all errors would take minutes.
        return f"{count:,} values are wrong or do not belong there"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = shortened(".".join(map(str, first["loc"])), 200)
    message = shortened(first["msg"].removeprefix("Value error, "), 500)
    return f"{where}: {message}" if where else message
