"""A receipt that may be forged: opened within bounds, and refused where it contradicts itself."""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from bench.keys import EVALUATION_VERSION, canonical_json
from bench.report.receipts import form
from bench.report.receipts.claims import contradictions
from bench.report.receipts.form import Claims, Member
from bench.report.sets.kept import Array
from bench.store import files
from bench.store.reading import document, validated, what_else
from bench.types import AS_CLAIMS, CellResult, UsageError, shown

#: Bytes of the directory at the end of the file.
_MAX_DIRECTORY = 2**14
#: What arrays may have at most, in bytes: so much, or so many times what the file has.
_SMALL, _MAX_RATIO = 2**26, 100
_PIECE = 2**20
#: The end of a directory: signature, numbers of disks, entries, size and place of the directory, length of a comment.
_END = struct.Struct("<4s4H2LH")
#: What stands before that end where the directory is of the larger kind.
_LARGE_LOCATOR, _LARGE_LOCATOR_SIZE = b"PK\x06\x07", 20
#: Bytes before the name of each member.
_LOCAL_HEAD = 30
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, UnicodeError)


class NoReceipt(UsageError):
    """A file is no receipt, or not a whole one, or of another version."""


class Contradiction(UsageError):
    """A receipt says something that its own arrays, or its own key, refute."""


@dataclass(frozen=True)
class Receipt:
    """A receipt whose claims are those of its arrays.

    Attributes:
        path: of the file.
        sha256: its name, the SHA-256 of its claims.
        claims: what it says.
    """

    path: Path
    sha256: str
    claims: Claims

    @property
    def result(self) -> CellResult:
        """The result of its cell, without the name of a machine."""
        return self.claims.result

    @property
    def by(self) -> str | None:
        """Who measured it, in their own words; anybody can write anything here."""
        return self.claims.by


Arrays = dict[str, Array]


def read(path: Path) -> Receipt:
    """Return a receipt, of which everything that follows from its arrays was computed again.

    Whether the network answers so, and whether the images are those of their set, is not looked at.

    Raises:
        NoReceipt: it is none, or damaged, or beyond the bounds. One line.
        Contradiction: a claim is not what follows from its arrays. One line.
    """
    receipt, arrays = opened(path)
    for why in contradictions(receipt.claims, arrays):
        raise Contradiction(f"{path}: {why.line}")
    return receipt


def name_of(path: Path) -> str | None:
    """Return the name of a receipt, of which nothing else is looked at; ``None`` where it is none that can be read."""
    try:
        with files.opened(path) as file, _broken(), _archive(file) as archive:
            return hashlib.sha256(_claims(archive)[1]).hexdigest()
    except (OSError, ValueError):
        return None


def opened(path: Path) -> tuple[Receipt, Arrays]:
    """Return what a receipt claims and its arrays by name, which have the types, shapes and hashes that they should.

    What is claimed may contradict itself: :func:`~bench.report.receipts.claims.contradictions` says so.

    Raises:
        NoReceipt: as :func:`read`.
    """
    try:
        with files.opened(path) as file, _broken(), _archive(file) as archive:
            claims, text = _claims(archive)
            _require_members(archive, claims)
            arrays = {name: _array(archive, name, each, claims) for name, each in claims.arrays.items()}
    except FileNotFoundError:
        raise NoReceipt(f"{path}: there is no such file") from None
    except ValueError as error:
        raise NoReceipt(f"{path} is no receipt that can be read: {error}") from None
    return Receipt(path, hashlib.sha256(text).hexdigest(), claims), arrays


@contextmanager
def _broken() -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise ValueError(f"its ZIP archive is damaged: {error or type(error).__name__}") from None


@contextmanager
def _archive(file: IO[bytes]) -> Iterator[zipfile.ZipFile]:
    """Open the ZIP archive in a file, whose directory and members are looked at before any is unpacked.

    Raises:
        ValueError: it is none, or one that no receipt is.
    """
    size = file.seek(0, 2)
    if size > form.MAX_BYTES:
        raise ValueError(f"it has {size:,} bytes, and at most {form.MAX_BYTES:,} are read")
    file.seek(max(0, size - _END.size - _LARGE_LOCATOR_SIZE))
    tail = file.read()
    if len(tail) < _END.size or not tail[-_END.size :].startswith(b"PK\x05\x06"):
        file.seek(0)
        raise ValueError(f"it does not end as a ZIP archive does, cut short perhaps{what_else(file.read(8))}")
    _, _, _, entries, _, directory, _, comment = _END.unpack(tail[-_END.size :])
    if tail.startswith(_LARGE_LOCATOR) or comment or entries > 20 or directory > _MAX_DIRECTORY:
        raise ValueError(f"its directory has {entries:,} members in {directory:,} bytes, or a comment: none of its own")
    with zipfile.ZipFile(file) as archive:
        _require_plain(archive, size)
        yield archive


def _require_plain(archive: zipfile.ZipFile, size: int) -> None:
    """Raises ValueError: members come twice, are packed otherwise, overlap, or are much larger than the file."""
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    names = [info.filename for info in infos]
    if len(set(names)) < len(names):
        raise ValueError("it has a member twice")
    there = 0
    for info in infos:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits or info.extra:
            raise ValueError(f"its member {shown(info.filename)} is packed as none of a receipt is")
        if info.header_offset != there:
            raise ValueError("its members overlap, or there is something between them")
        there += _LOCAL_HEAD + len(info.filename.encode()) + info.compress_size
    if there != archive.start_dir:
        raise ValueError("its members overlap, or there is something between them")
    unpacked = sum(info.file_size for info in infos)
    if unpacked > max(_SMALL, _MAX_RATIO * size) or unpacked > form.MAX_BYTES + form.MAX_CLAIMS:
        raise ValueError(f"{size:,} bytes would unpack to {unpacked:,}")


def _claims(archive: zipfile.ZipFile) -> tuple[Claims, bytes]:
    """Return the claims and their text.

    Raises:
        ValueError: there are none, or they are not as they should be.
    """
    if form.CLAIMS not in archive.namelist():
        raise ValueError(f"it has no {form.CLAIMS}")
    info = archive.getinfo(form.CLAIMS)
    if info.file_size > form.MAX_CLAIMS:
        raise ValueError(f"its {form.CLAIMS} has {info.file_size:,} bytes, and at most {form.MAX_CLAIMS:,} are read")
    with archive.open(info) as member:
        text = member.read(form.MAX_CLAIMS)
    content = document(text)
    if not isinstance(content, dict) or content.get("format") != form.FORMAT:
        raise ValueError(f"its {form.CLAIMS} does not say that it is one ({form.FORMAT})")
    _require_version(content)
    if _canonical(content) != text:
        raise ValueError(f"its {form.CLAIMS} is no canonical JSON: altered, or written by something else")
    return validated(Claims, text, AS_CLAIMS), text


def _require_version(content: dict[str, Any]) -> None:
    for name, own in (("schema", form.SCHEMA), ("evaluation", EVALUATION_VERSION)):
        if type(content.get(name)) is not int or content[name] != own:
            raise ValueError(f"its {name} is {shown(content.get(name))}, and this version of Crossfire reads {own}")


def _canonical(content: Any) -> bytes:
    return canonical_json(content).encode() + b"\n"


def _require_members(archive: zipfile.ZipFile, claims: Claims) -> None:
    """Raises ValueError: the archive has other members than the claims state, or of other sizes."""
    sizes = {f"{name}.npy": member.size for name, member in claims.arrays.items()}
    present = {info.filename: info.file_size for info in archive.infolist() if info.filename != form.CLAIMS}
    for name in present:
        if name not in sizes:
            raise ValueError(f"it has a member {shown(name)} that its {form.CLAIMS} does not state")
    for name, size in sizes.items():
        if present.get(name) != size:
            raise ValueError(f"its {name} has {present.get(name, 0):,} bytes, and its cell needs {size:,}")


def _array(archive: zipfile.ZipFile, name: str, member: Member, claims: Claims) -> Array:
    """Return an array.

    Raises:
        ValueError: it has another type or shape, or not its hash.
    """
    array = np.empty(member.shape, np.dtype(member.dtype))
    target, digest = array.data.cast("B"), hashlib.sha256()
    there = 0
    with archive.open(f"{name}.npy") as file:
        head = file.read(len(member.head))
        if head != member.head:
            raise ValueError(f"its {name}.npy is not {member.dtype} of shape {member.shape}")
        digest.update(head)
        while piece := file.read(_PIECE):
            digest.update(piece)
            target[there : there + len(piece)] = piece
            there += len(piece)
    if digest.hexdigest() != claims.sha256[name]:
        hashes = f"{digest.hexdigest()[:12]}..., and {claims.sha256[name][:12]}... is stated"
        raise ValueError(f"its {name}.npy was altered: its SHA-256 is {hashes}")
    return array
