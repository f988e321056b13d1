"""What people write beside their results: who they are, and what was withdrawn. Both are foreign TOML."""

from __future__ import annotations

import datetime
import re
import tomllib
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError, field_validator

from bench.store import files
from bench.store.reading import first_of
from bench.types import Frozen, Key, shown
from bench.visible import visible

SUBMISSION, WITHDRAWN = "submission.toml", "withdrawn.toml"
#: Bytes of either file, and characters of a line: tomllib takes time by the square of the parts of a dotted key.
_MOST_BYTES, _LONGEST_LINE = 2**16, 600
#: Characters of a name, a reason and an address.
_LONGEST_NAME = 80
_LONGEST_REASON = 400
_LONGEST_LINK = 300
_MOST_WITHDRAWN = 500
_MOST_REPLACED = 100
_MOST_WEIGHTS = 10
#: A host with a domain, no user and no port; then characters of ASCII that an address may have.
_ADDRESS = re.compile(
    r"https://(?i:(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63})(?:[/?#][!#-;=?-Z_a-z~]*)?", re.ASCII
)
#: The name of a submission.
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_WEIGHTS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.safetensors")

Model = TypeVar("Model", bound=BaseModel)


class Unusable(ValueError):
    """A file of a folder of submissions cannot be used; the text says why, without the path."""


def _line(text: str) -> str:
    if len(text.splitlines()) > 1:
        # A text of several lines could take in what stands below it.
        raise ValueError("it has more than one line")
    text = " ".join(text.split())
    if not text:
        raise ValueError("it is empty")
    return visible(text)


def https(text: str) -> str:
    """Return an address of a page, as it was given.

    Raises:
        ValueError: it is none of https, has no host with a domain, names a user, or holds a character that an address
            of ASCII does not have.
    """
    if not text.startswith("https://"):
        raise ValueError(f"{shown(text)} does not begin with https://")
    if not _ADDRESS.fullmatch(text):
        raise ValueError(f"{shown(text)} is no address of a page, such as https://example.org/paper")
    return text


def _weights(text: str) -> str:
    if not _WEIGHTS.fullmatch(text):
        raise ValueError(f"{shown(text)} is no file NAME.safetensors in the folder of the submission")
    return text


Line = Annotated[str, Field(max_length=_LONGEST_NAME), AfterValidator(_line)]
Link = Annotated[str, Field(max_length=_LONGEST_LINK), AfterValidator(https)]


class Submission(Frozen):
    """``submission.toml``: what a submitter says of all results in its folder.

    Attributes:
        who: their name, as tables show it.
        link: a page of theirs, https only.
        paper: the page of the paper, https only.
        weights: files of weights in the folder, by which predictions are repeated.
        replaces: earlier results of theirs that these take the place of, by the SHA-256 of a receipt or a file.
    """

    who: Line | None = None
    link: Link | None = None
    paper: Link | None = None
    weights: Annotated[tuple[Annotated[str, AfterValidator(_weights)], ...], Field(max_length=_MOST_WEIGHTS)] = ()
    replaces: Annotated[tuple[Key, ...], Field(max_length=_MOST_REPLACED)] = ()

    @field_validator("weights", "replaces", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if isinstance(value, str):
            return (value,)
        return tuple(value) if isinstance(value, list) else value


class Withdrawal(Frozen):
    """A result that was taken back.

    Attributes:
        sha256: of the file, or the name of the receipt.
        reason: in one line.
        date: of the withdrawal.
        only: whether copies stay: ``true``, or the folder that is meant where several hold the same file.
    """

    sha256: Key
    reason: Annotated[str, Field(max_length=_LONGEST_REASON), AfterValidator(_line)]
    date: datetime.date
    only: bool | str = False

    @field_validator("only", mode="before")
    @classmethod
    def _only(cls, value: Any) -> Any:
        if isinstance(value, bool) or (isinstance(value, str) and _FOLDER.fullmatch(value)):
            return value
        raise ValueError(f"{shown(value)} is neither true nor the name of a folder of submissions")

    def names(self, sha256: Collection[str], folder: str) -> bool:
        """Say whether it is of a result itself, given its hashes and its folder, and not only of one that it copies."""
        return self.sha256 in sha256 and (isinstance(self.only, bool) or self.only == folder)


class _Withdrawn(Frozen):
    withdrawn: Annotated[tuple[Withdrawal, ...], Field(max_length=_MOST_WITHDRAWN)] = ()

    @field_validator("withdrawn", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


def submission(path: Path) -> Submission:
    """Return what a submitter says.

    Raises:
        Unusable: it is no such file. One line.
        FileNotFoundError: there is none.
    """
    return _model(Submission, path)


def withdrawals(path: Path) -> tuple[Withdrawal, ...]:
    """Return what was withdrawn; nothing where there is no such file.

    Raises:
        Unusable: it is no such file, or gives two reasons for one result. One line.
    """
    try:
        withdrawn = _model(_Withdrawn, path).withdrawn
    except FileNotFoundError:
        return ()
    counts = Counter(each.sha256 for each in withdrawn)
    # Else somebody could add other words to what was taken back.
    if twice := next((sha256 for sha256, count in counts.items() if count > 1), None):
        raise Unusable(f"SHA-256 {twice} is withdrawn twice; once is enough")
    return withdrawn


#: What is wrong with a value, by the name that pydantic has for it.
_WORDS = {
    "string_type": "a text in quotes is needed",
    "string_too_long": "it has more than {max_length} characters",
    "string_pattern_mismatch": "it is no SHA-256, which has 64 characters from 0 to 9 and a to f",
    "tuple_type": "a list is needed",
    "too_long": "it has more than {max_length} entries",
    "missing": "it is missing",
    "model_type": "a table of keys and values is needed",
    "date_type": "a date without quotes is needed, such as 2026-01-31",
    "date_from_datetime_inexact": "a date without quotes is needed, such as 2026-01-31",
}


def _wrong(error: ValidationError) -> str:
    """Return the first thing that is wrong, in words of this file, not of the model behind it."""
    first = error.errors(include_url=False, include_input=False)[0]
    kind, place = first["type"], first["loc"]
    where = " of ".join(str(each) if isinstance(each, str) else f"entry {each + 1}" for each in reversed(place))
    if kind == "extra_forbidden":
        known = Withdrawal if len(place) > 1 else Submission
        keys = ["withdrawn"] if error.title == _Withdrawn.__name__ and len(place) == 1 else list(known.model_fields)
        return f"there is no key {shown(where)}; there are {', '.join(keys)}"
    if kind == "value_error":
        return f"{where}: {first['msg'].removeprefix('Value error, ')}"
    return f"{where}: {_WORDS[kind].format_map(first.get('ctx', {}))}" if kind in _WORDS else first_of(error)


def _model(model: type[Model], path: Path) -> Model:
    try:
        text = files.read(path, _MOST_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unusable(error.strerror or "it cannot be read") from None
    except UnicodeDecodeError:
        raise Unusable("it is no text in UTF-8") from None
    except ValueError as error:
        raise Unusable(str(error)) from None
    if max(map(len, text.split("\n"))) > _LONGEST_LINE:
        raise Unusable(f"a line has more than {_LONGEST_LINE} characters")
    try:
        return model.model_validate(tomllib.loads(text), strict=True)
    except ValidationError as error:
        raise Unusable(_wrong(error)) from None
    except RecursionError:
        raise Unusable("lists or tables are nested too deeply") from None
    except ValueError as error:
        raise Unusable(f"it is no TOML: {error}") from None
