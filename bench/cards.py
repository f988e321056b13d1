"""The card of a training: written last, so that weights with a card are finished ones, and sealed.

It says what was trained, how (passes, seconds, FLOPs, the log of the epochs), how it ended, and the hash of its weights
file.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.seals import file_sha256, sealed, unsealed
from bench.store import write_atomically

_log = logging.getLogger("crossfire")


def write(folder: Path, body: Mapping[str, Any]) -> None:
    """Write the card of the training in ``folder``."""
    write_atomically(folder / "card.json", sealed(body))


def read(folder: Path) -> dict[str, Any] | None:
    """Return the card of a training; ``None`` where there is none or, with a warning, where it is not whole."""
    try:
        return unsealed((folder / "card.json").read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        _log.warning("%s does not count and is trained again where needed: %s", folder / "card.json", error)
        return None


def is_trained(folder: Path) -> bool:
    """Say whether a training is finished and its card and weights are those that it wrote."""
    card = read(folder)
    return card is not None and _has_weights(folder, card)


def _has_weights(folder: Path, card: Mapping[str, Any]) -> bool:
    try:
        whole = bool(file_sha256(folder / "weights.safetensors") == card["weights_sha256"])
    except FileNotFoundError:
        return False
    if not whole:
        _log.warning("%s does not count and is trained again: cut short or altered since it was written", folder)
    return whole
