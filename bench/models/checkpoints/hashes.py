"""Hashes that lie beside weights: those of an exported training, and those of a training in a store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.store import cards, files
from bench.store.reading import document
from bench.store.seals import unsealed
from bench.types import UsageError

CARD = "card.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def exported(folder: Path) -> dict[str, Any] | None:
    """Return the card of exported weights in a folder; ``None`` where there is none, or somebody's own of that name.

    Raises:
        UsageError: it was altered since it was written.
    """
    path = folder / CARD
    body = _body(path)
    if body is None or body.get("format") != cards.EXPORTED:
        return None
    if body.get("schema") != cards.EXPORTED_SCHEMA:
        raise UsageError(f"{path} is of a later version of Crossfire, which is needed to read it")
    return _unsealed(path)


def of_files(path: Path) -> Mapping[str, str]:
    """Return the SHA-256 of files by name, as the card beside some weights states them; of those without a card none.

    Raises:
        UsageError: the card was altered since it was written.
    """
    body = _body(path.parent / CARD)
    if body is None:
        return {}
    if body.get("format") == cards.EXPORTED:
        card = exported(path.parent) or {}
        weights = card.get("weights")
        return checked(path.parent / CARD, weights.get("files") if isinstance(weights, dict) else None)
    # A training of a store; the cards of older versions, and those of strangers, have no seal that could be broken.
    if path.name == "weights.safetensors" and {"training", "weights_sha256", "sha256"} <= body.keys():
        return checked(path.parent / CARD, {path.name: _unsealed(path.parent / CARD).get("weights_sha256")})
    return {}


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
    """Return what a file of JSON says; ``None`` where there is none, or one that says something else."""
    try:
        body = document(files.read(path, cards.LARGEST))
    except (OSError, ValueError):
        return None
    return body if isinstance(body, dict) else None


def _unsealed(path: Path) -> dict[str, Any]:
    try:
        return unsealed(files.read(path, cards.LARGEST))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}, which states the hashes of the weights beside it, does not count: {error}") from None
