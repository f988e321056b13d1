"""Hashes that lie beside weights: those of an exported training, and those of a training in a store."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.store import cards, files
from bench.store.reading import document
from bench.store.seals import unsealed
from bench.types import UsageError, shown

CARD = "card.json"
#: The file of the weights of a training in a store.
STORED = "weights.safetensors"
#: Fields that together only the card of an export has.
_OF_EXPORTED = {"key", "epochs_done", "epochs_planned", "weights", "card", "sha256"}
_SHA256 = re.compile(r"[0-9a-f]{64}")


def exported(path: Path) -> dict[str, Any] | None:
    """Return the card beside exported weights; ``None`` where there is none, or one that is somebody's own.

    Raises:
        UsageError: it was altered or damaged since it was written.
    """
    card = path.parent / CARD
    body = _body(card) if _may_be_guarded(path) else None
    if body is None or not _is_exported(body):
        return None
    if body.get("format") == cards.EXPORTED and body.get("schema") != cards.EXPORTED_SCHEMA:
        raise UsageError(f"{card} is of a later version of Crossfire, which is needed to read it")
    return _unsealed(card)


def of_files(path: Path, names: Iterable[str]) -> Mapping[str, str]:
    """Return the SHA-256 of files by name, as the card beside some weights states them; of those without a card none.

    Args:
        path: of the weights, which may be an index.
        names: of the files beside the card that hold them.

    Raises:
        UsageError: the card was altered or damaged since it was written, or does not list one of the files.
    """
    body = _body(path.parent / CARD) if _may_be_guarded(path) else None
    if body is None:
        return {}
    if (card := exported(path)) is not None:
        weights = card.get("weights")
        stated = checked(path.parent / CARD, weights.get("files") if isinstance(weights, dict) else None)
    # A training of a store; the cards of older versions, and those of strangers, have no seal that could be broken.
    elif {"training", "weights_sha256", "sha256"} <= body.keys():
        stated = checked(path.parent / CARD, {STORED: _unsealed(path.parent / CARD).get("weights_sha256")})
    else:
        return {}
    for name in names:
        if name not in stated:
            raise UsageError(_unlisted(path.with_name(name), stated))
    return stated


def _may_be_guarded(path: Path) -> bool:
    # Only safetensors are written here: what torch saved beside a card is somebody's own.
    return path.name.lower().endswith((".safetensors", ".safetensors.index.json"))


def _is_exported(body: Mapping[str, Any]) -> bool:
    # By either: each of them is a field that may be the one that was altered.
    return body.get("format") == cards.EXPORTED or body.keys() >= _OF_EXPORTED


def _unlisted(path: Path, stated: Mapping[str, str]) -> str:
    """Return what to say of a file that the card beside it does not list; its bytes may tell its name."""
    sha256 = files.file_sha256(path)
    own = [name for name, stated_sha256 in stated.items() if stated_sha256 == sha256]
    if own:
        return (
            f"{path} is {shown(own[0])} by its SHA-256, and {CARD} beside it knows it under that name: rename it back"
        )
    names = ", ".join(map(shown, sorted(stated)[:3])) + (", ..." if len(stated) > 3 else "")
    return (
        f"{path} is not of the exported weights whose {CARD} lies beside it, which lists {names}: name one of those, "
        f"move this file to another folder, or delete {CARD} to have none of them checked"
    )


def checked(where: Path, hashes: Any) -> dict[str, str]:
    """Return hashes by name as they are.

    Raises:
        UsageError: they are no such.
    """
    texts = hashes.values() if isinstance(hashes, dict) else [None]
    if not all(isinstance(text, str) and _SHA256.fullmatch(text) for text in texts):
        raise UsageError(f"{where}: its sha256 are not the hashes of files by their names")
    return dict(hashes)


def require(path: Path, sha256: str, stated: Mapping[str, str]) -> None:
    """Raises UsageError: a file is not the one whose hash is stated beside it, if one is."""
    if stated.get(path.name, sha256) != sha256:
        raise UsageError(
            f"{path} was cut short or altered since it was exported: its SHA-256 is {sha256[:12]}..., and "
            f"{stated[path.name][:12]}... is stated beside it; copy it again"
        )


def _body(path: Path) -> dict[str, Any] | None:
    """Return what a card says; ``None`` where there is none.

    Raises:
        UsageError: it is damaged, so that it cannot be seen whether it is one of Crossfire.
    """
    try:
        body = document(files.read(path, cards.LARGEST))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(_damaged(path, error)) from None
    if not isinstance(body, dict):
        raise UsageError(_damaged(path, "it is no JSON object"))
    return body


def _unsealed(path: Path) -> dict[str, Any]:
    try:
        return unsealed(files.read(path, cards.LARGEST))
    except (OSError, ValueError) as error:
        raise UsageError(_damaged(path, error)) from None


def _damaged(path: Path, why: object) -> str:
    return (
        f"{path}, which may state the hashes of the weights beside it, does not count: {why}; copy it again, or delete "
        "it to read them unchecked"
    )
